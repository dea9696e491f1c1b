//! Pipes, socket pairs, eventfd, epoll, poll, select.

use casemate_guest_tests::{in_child, pipe, sys};

fn write_all(fd: i32, bytes: &[u8]) {
    assert_eq!(sys!(write, fd, bytes.as_ptr(), bytes.len()), Ok(i64::try_from(bytes.len()).unwrap()));
}

fn read_some(fd: i32) -> Result<Vec<u8>, i32> {
    let mut buffer = vec![0_u8; 256];
    let got = sys!(read, fd, buffer.as_mut_ptr(), buffer.len())?;
    buffer.truncate(usize::try_from(got).unwrap());
    Ok(buffer)
}

#[test]
fn pipes_carry_bytes_then_end() {
    let (read, write) = pipe(0);
    write_all(write, b"one");
    write_all(write, b"two");
    assert_eq!(read_some(read).unwrap(), b"onetwo");
    assert_eq!(sys!(close, write), Ok(0));
    assert_eq!(read_some(read).unwrap(), b"");
    assert_eq!(sys!(close, read), Ok(0));
}

#[test]
fn nonblocking_pipes_say_eagain() {
    let (read, write) = pipe(libc::O_NONBLOCK);
    assert_eq!(read_some(read), Err(libc::EAGAIN));
    let block = vec![1_u8; 65536];
    assert_eq!(sys!(write, write, block.as_ptr(), block.len()), Ok(65536));
    assert_eq!(sys!(write, write, block.as_ptr(), 1), Err(libc::EAGAIN));
    assert_eq!(sys!(fcntl, write, libc::F_GETPIPE_SZ, 0), Ok(65536));
    assert_eq!(sys!(close, read), Ok(0));
    assert_eq!(sys!(close, write), Ok(0));
}

#[test]
fn a_blocked_reader_is_woken() {
    let (read, write) = pipe(0);
    let (back_read, back_write) = pipe(0);
    in_child(|| {
        // SAFETY: 1. the child only makes system calls and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            for _ in 0..1000 {
                let mut byte = 0_u8;
                let _ = sys!(read, read, &raw mut byte, 1);
                byte = byte.wrapping_add(1);
                let _ = sys!(write, back_write, &raw const byte, 1);
            }
            // SAFETY: 1. always sound; it does not return.
            unsafe { libc::_exit(0) };
        }
        for round in 0..1000_u32 {
            let byte = round.to_le_bytes()[0];
            let mut answer = 0_u8;
            let _ = sys!(write, write, &raw const byte, 1);
            if sys!(read, back_read, &raw mut answer, 1) != Ok(1) || answer != byte.wrapping_add(1) {
                return 1;
            }
        }
        casemate_guest_tests::wait_status(pid)
    });
}

#[test]
fn socket_pairs_carry_both_ways_and_shut_down() {
    let mut ends = [0_i32; 2];
    assert_eq!(sys!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()), Ok(0));
    let [a, b] = ends;
    write_all(a, b"ping");
    assert_eq!(read_some(b).unwrap(), b"ping");
    write_all(b, b"pong");
    assert_eq!(read_some(a).unwrap(), b"pong");
    assert_eq!(sys!(shutdown, a, libc::SHUT_WR), Ok(0));
    assert_eq!(read_some(b).unwrap(), b"");
    assert_eq!(sys!(sendto, a, b"x".as_ptr(), 1, libc::MSG_NOSIGNAL, 0, 0), Err(libc::EPIPE));
    assert_eq!(sys!(recvfrom, a, ends.as_mut_ptr(), 4, libc::MSG_DONTWAIT, 0, 0), Err(libc::EAGAIN));
    for fd in ends {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn eventfd_counts() {
    let fd = i32::try_from(sys!(eventfd2, 3, libc::EFD_NONBLOCK).unwrap()).unwrap();
    assert_eq!(read_some(fd).unwrap(), 3_u64.to_ne_bytes());
    assert_eq!(read_some(fd), Err(libc::EAGAIN));
    write_all(fd, &5_u64.to_ne_bytes());
    write_all(fd, &6_u64.to_ne_bytes());
    assert_eq!(read_some(fd).unwrap(), 11_u64.to_ne_bytes());
    let max = u64::MAX;
    assert_eq!(sys!(write, fd, &raw const max, 8), Err(libc::EINVAL));
    assert_eq!(sys!(close, fd), Ok(0));
    let fd = i32::try_from(sys!(eventfd2, 2, libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE).unwrap()).unwrap();
    assert_eq!(read_some(fd).unwrap(), 1_u64.to_ne_bytes());
    assert_eq!(read_some(fd).unwrap(), 1_u64.to_ne_bytes());
    assert_eq!(read_some(fd), Err(libc::EAGAIN));
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn poll_tells_readiness() {
    let (read, write) = pipe(0);
    let mut fds = [
        libc::pollfd { fd: read, events: libc::POLLIN, revents: 0 },
        libc::pollfd { fd: write, events: libc::POLLOUT, revents: 0 },
        libc::pollfd { fd: 999, events: libc::POLLIN, revents: 0 },
        libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 },
    ];
    assert_eq!(sys!(poll, fds.as_mut_ptr(), 4, 0), Ok(2));
    assert_eq!(fds.map(|f| f.revents), [0, libc::POLLOUT, libc::POLLNVAL, 0]);
    write_all(write, b"x");
    assert_eq!(sys!(poll, fds.as_mut_ptr(), 1, -1_i64), Ok(1));
    assert_eq!(fds[0].revents, libc::POLLIN);
    assert_eq!(sys!(close, write), Ok(0));
    assert_eq!(sys!(poll, fds.as_mut_ptr(), 1, -1_i64), Ok(1));
    assert_eq!(fds[0].revents, libc::POLLIN | libc::POLLHUP);
    assert_eq!(sys!(close, read), Ok(0));
    assert_eq!(sys!(poll, 0, 0, 1), Ok(0));
}

#[test]
fn select_tells_readiness_and_time_left() {
    let (read, write) = pipe(0);
    write_all(write, b"x");
    let bit = |fd: i32| 1_u64 << fd;
    let mut readable = [bit(read), 0];
    let mut writable = [bit(write), 0];
    let mut timeout = [5_i64, 0];
    let nfds = read.max(write) + 1;
    assert_eq!(sys!(pselect6, nfds, readable.as_mut_ptr(), writable.as_mut_ptr(), 0, timeout.as_mut_ptr(), 0), Ok(2));
    assert_eq!((readable[0], writable[0]), (bit(read), bit(write)));
    let mut bad = [1_u64 << 60, 0];
    assert_eq!(sys!(pselect6, 64, bad.as_mut_ptr(), 0, 0, timeout.as_mut_ptr(), 0), Err(libc::EBADF));
    assert_eq!(sys!(close, read), Ok(0));
    assert_eq!(sys!(close, write), Ok(0));
}

#[test]
fn epoll_level_edge_and_oneshot() {
    let epoll = sys!(epoll_create1, libc::EPOLL_CLOEXEC).unwrap();
    let (read, write) = pipe(0);
    let add = |op: i32, events: i32, data: u64| {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: data };
        sys!(epoll_ctl, epoll, op, read, &raw mut event)
    };
    let wait = |timeout: i64| {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        let n = sys!(epoll_wait, epoll, events.as_mut_ptr(), 4, timeout).unwrap();
        events[..usize::try_from(n).unwrap()].iter().map(|e| (e.events, e.u64)).collect::<Vec<_>>()
    };
    let readable = libc::EPOLLIN.cast_unsigned();
    assert_eq!(add(libc::EPOLL_CTL_MOD, libc::EPOLLIN, 1), Err(libc::ENOENT));
    assert_eq!(add(libc::EPOLL_CTL_ADD, libc::EPOLLIN, 7), Ok(0));
    assert_eq!(add(libc::EPOLL_CTL_ADD, libc::EPOLLIN, 7), Err(libc::EEXIST));
    assert_eq!(wait(0), []);
    write_all(write, b"x");
    assert_eq!(wait(-1), [(readable, 7)]);
    assert_eq!(wait(0), [(readable, 7)]);
    assert_eq!(add(libc::EPOLL_CTL_MOD, libc::EPOLLIN | libc::EPOLLET, 8), Ok(0));
    assert_eq!(wait(0), [(readable, 8)]);
    assert_eq!(wait(0), []);
    write_all(write, b"y");
    assert_eq!(wait(0), [(readable, 8)]);
    assert_eq!(add(libc::EPOLL_CTL_MOD, libc::EPOLLIN | libc::EPOLLONESHOT, 9), Ok(0));
    assert_eq!(wait(0), [(readable, 9)]);
    assert_eq!(wait(0), []);
    assert_eq!(add(libc::EPOLL_CTL_DEL, 0, 0), Ok(0));
    assert_eq!(sys!(epoll_ctl, epoll, libc::EPOLL_CTL_ADD, epoll, std::ptr::addr_of!(epoll)), Err(libc::EINVAL));
    for fd in [epoll, i64::from(read), i64::from(write)] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn descriptors_duplicate_and_close_in_ranges() {
    let (read, write) = pipe(0);
    assert_eq!(sys!(dup2, read, 200), Ok(200));
    assert_eq!(sys!(dup3, read, 201, libc::O_CLOEXEC), Ok(201));
    assert_eq!(sys!(dup3, read, read, 0), Err(libc::EINVAL));
    assert_eq!(sys!(fcntl, 201, libc::F_GETFD, 0), Ok(1));
    assert_eq!(sys!(fcntl, 200, libc::F_GETFD, 0), Ok(0));
    assert_eq!(sys!(fcntl, read, libc::F_DUPFD_CLOEXEC, 300), Ok(300));
    assert_eq!(sys!(close_range, 200, 301, 0), Ok(0));
    assert_eq!(sys!(fcntl, 200, libc::F_GETFD, 0), Err(libc::EBADF));
    assert_eq!(sys!(close, 300), Err(libc::EBADF));
    assert_eq!(sys!(fcntl, read, libc::F_GETFL, 0).unwrap() & 3, 0);
    assert_eq!(sys!(fcntl, write, libc::F_GETFL, 0).unwrap() & 3, 1);
    assert_eq!(sys!(read, write, 0, 0), Err(libc::EBADF));
    assert_eq!(sys!(close, read), Ok(0));
    assert_eq!(sys!(close, write), Ok(0));
}

#[test]
fn bad_pointers_are_efault() {
    let (read, write) = pipe(0);
    assert_eq!(sys!(write, write, 16, 4), Err(libc::EFAULT));
    write_all(write, b"abcd");
    assert_eq!(sys!(read, read, 16, 4), Err(libc::EFAULT));
    assert_eq!(sys!(pipe2, 16, 0), Err(libc::EFAULT));
    assert_eq!(sys!(pipe2, 16, 0xffff_ffff_u64), Err(libc::EINVAL));
    let kernel = 0xffff_8000_0000_0000_u64;
    assert_eq!(sys!(write, write, kernel, 4), Err(libc::EFAULT));
    assert_eq!(sys!(close, read), Ok(0));
    assert_eq!(sys!(close, write), Ok(0));
}

#[test]
fn a_pipe_opened_again_waits_for_nobody() {
    let (read, write) = pipe(0);
    write_all(write, b"kept");
    assert_eq!(sys!(close, write), Ok(0));
    // No writer is left, and none is waited for.
    let again = std::fs::File::open(format!("/proc/self/fd/{read}")).unwrap();
    let again = std::os::fd::AsRawFd::as_raw_fd(&again);
    assert_eq!(read_some(again).unwrap(), b"kept");
    assert_eq!(read_some(again).unwrap(), b"");
    assert_eq!(sys!(close, read), Ok(0));
}
