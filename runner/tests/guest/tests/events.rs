//! Waiting for many things: epoll in depth, signal and timer descriptors, masks and old forms of the waits.

use casemate_guest_tests::{child, in_child, pipe, steps, sys, until_asleep, wait_status};

fn close_all(fds: &[i64]) {
    for &fd in fds {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

fn control(epoll: i64, op: i32, fd: i64, events: i32, data: u64) -> Result<i64, i32> {
    let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: data };
    sys!(epoll_ctl, epoll, op, fd, &raw mut event)
}

fn ready(epoll: i64, timeout: i64) -> Vec<(u32, u64)> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    let n = sys!(epoll_wait, epoll, events.as_mut_ptr(), 8, timeout).unwrap();
    events[..usize::try_from(n).unwrap()].iter().map(|e| (e.events, e.u64)).collect()
}

fn handle(signal: i32, handler: extern "C" fn(i32)) {
    // SAFETY: 1. sigaction is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    // SAFETY: 1. `action` lives across the call and names a handler of the right type.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
}

extern "C" fn ignore(_signal: i32) {}

const ADD: i32 = libc::EPOLL_CTL_ADD;
const IN: u32 = 1;

#[test]
fn epolls_nest_but_not_in_circles() {
    let (inner, outer) = (sys!(epoll_create1, 0).unwrap(), sys!(epoll_create1, 0).unwrap());
    let (read, write) = pipe(0);
    assert_eq!(control(inner, ADD, read.into(), libc::EPOLLIN, 1), Ok(0));
    assert_eq!(control(outer, ADD, inner, libc::EPOLLIN, 2), Ok(0));
    assert_eq!(control(inner, ADD, outer, libc::EPOLLIN, 3), Err(libc::ELOOP));
    assert_eq!(ready(outer, 0), []);
    assert_eq!(sys!(write, write, b"x".as_ptr(), 1), Ok(1));
    assert_eq!(ready(outer, -1), [(IN, 2)]);
    assert_eq!(ready(inner, 0), [(IN, 1)]);
    let mut poll = libc::pollfd { fd: i32::try_from(inner).unwrap(), events: libc::POLLIN, revents: 0 };
    assert_eq!(sys!(poll, &raw mut poll, 1, 0), Ok(1));
    close_all(&[inner, outer, read.into(), write.into()]);
}

#[test]
fn epoll_errors_and_ends() {
    let epoll = sys!(epoll_create1, 0).unwrap();
    let (read, write) = pipe(0);
    let scratch = casemate_guest_tests::Scratch::new("epoll");
    let file = sys!(open, scratch.c_path("f").as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o644).unwrap();
    assert_eq!(control(epoll, ADD, file, libc::EPOLLIN, 1), Err(libc::EPERM));
    assert_eq!(control(epoll, ADD, 9999, libc::EPOLLIN, 1), Err(libc::EBADF));
    assert_eq!(control(epoll, 77, read.into(), libc::EPOLLIN, 1), Err(libc::EINVAL));
    assert_eq!(control(file, ADD, read.into(), libc::EPOLLIN, 1), Err(libc::EINVAL));
    assert_eq!(sys!(epoll_ctl, epoll, ADD, read, 16), Err(libc::EFAULT));
    let exclusive = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;
    assert_eq!(control(epoll, ADD, read.into(), exclusive, 7), Ok(0));
    assert_eq!(control(epoll, libc::EPOLL_CTL_MOD, read.into(), libc::EPOLLIN, 7), Err(libc::EINVAL));
    assert_eq!(control(epoll, ADD, write.into(), exclusive | libc::EPOLLONESHOT, 7), Err(libc::EINVAL));
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
    assert_eq!(sys!(epoll_wait, epoll, events.as_mut_ptr(), 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(epoll_wait, file, events.as_mut_ptr(), 1, 0), Err(libc::EINVAL));
    assert_eq!(sys!(write, write, b"x".as_ptr(), 1), Ok(1));
    assert_eq!(sys!(epoll_wait, epoll, 16, 1, 0), Err(libc::EFAULT));
    // A closed duplicate leaves it registered; the last close removes it.
    let copy = sys!(dup, read).unwrap();
    assert_eq!(sys!(close, read), Ok(0));
    assert_eq!(ready(epoll, 0), [(IN, 7)]);
    assert_eq!(sys!(close, copy), Ok(0));
    assert_eq!(ready(epoll, 0), []);
    // A writer whose readers are gone hears of it without asking.
    assert_eq!(control(epoll, ADD, write.into(), 0, 9), Ok(0));
    assert_eq!(ready(epoll, 0), [(libc::EPOLLERR.cast_unsigned(), 9)]);
    close_all(&[epoll, file, write.into()]);
}

#[test]
fn epoll_waits_with_a_mask_and_in_nanoseconds() {
    in_child(|| {
        handle(libc::SIGUSR1, ignore);
        let epoll = sys!(epoll_create1, 0).unwrap();
        let blocked = 1_u64 << (libc::SIGUSR1 - 1);
        let none = 0_u64;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        let at = events.as_mut_ptr();
        let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const blocked, 0, 8);
        let _ = sys!(kill, sys!(getpid).unwrap(), libc::SIGUSR1);
        let short = [0_i64, 1_000_000];
        steps(&[
            sys!(epoll_pwait, epoll, at, 2, 1, &raw const blocked, 8) == Ok(0),
            sys!(epoll_pwait2, epoll, at, 2, short.as_ptr(), 0, 8) == Ok(0),
            sys!(epoll_pwait, epoll, at, 2, -1_i64, &raw const none, 4) == Err(libc::EINVAL),
            sys!(epoll_pwait2, epoll, at, 2, [0_i64, 1_000_000_000].as_ptr(), 0, 8) == Err(libc::EINVAL),
            sys!(epoll_pwait, epoll, at, 2, -1_i64, &raw const none, 8) == Err(libc::EINTR),
            // It was taken: the next wait times out.
            sys!(epoll_pwait2, epoll, at, 2, short.as_ptr(), &raw const none, 8) == Ok(0),
        ])
    });
}

#[test]
fn one_epoll_wait_answers_all_that_are_ready() {
    in_child(|| {
        let mut limit = [0_u64; 2];
        let _ = sys!(getrlimit, libc::RLIMIT_NOFILE, limit.as_mut_ptr());
        let [_, most] = limit;
        let count = usize::try_from(most.clamp(200, 6000) - 100).unwrap_or(0);
        let raised = sys!(setrlimit, libc::RLIMIT_NOFILE, [count as u64 + 100, most].as_ptr());
        let (epoll, event) = (sys!(epoll_create1, 0).unwrap_or(-1), sys!(eventfd2, 1, 0).unwrap_or(-1));
        let added = (0..count).filter(|&n| {
            let copy = sys!(dup, event).unwrap_or(-1);
            control(epoll, ADD, copy, libc::EPOLLIN, n as u64) == Ok(0)
        });
        let added = added.count();
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; count];
        let told = sys!(epoll_wait, epoll, events.as_mut_ptr(), count, 0);
        let mut seen: Vec<u64> = events.iter().map(|event| event.u64).collect();
        seen.sort_unstable();
        steps(&[
            raised == Ok(0),
            added == count,
            told == Ok(i64::try_from(count).unwrap_or(-1)),
            seen.iter().enumerate().all(|(at, &n)| at as u64 == n),
        ])
    });
}

#[test]
fn ppoll_and_pselect_take_masks() {
    in_child(|| {
        handle(libc::SIGUSR1, ignore);
        let me = sys!(getpid).unwrap();
        let blocked = 1_u64 << (libc::SIGUSR1 - 1);
        let none = 0_u64;
        let mut now = 1_u64;
        let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const blocked, 0, 8);
        let _ = sys!(kill, me, libc::SIGUSR1);
        let first = sys!(ppoll, 0, 0, 0, &raw const none, 8);
        let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, 0, &raw mut now, 8);
        let _ = sys!(kill, me, libc::SIGUSR1);
        let pair = [&raw const none as u64, 8];
        let mut timeout = [0_i64, 2_000_000];
        steps(&[
            first == Err(libc::EINTR),
            now == blocked,
            sys!(pselect6, 0, 0, 0, 0, 0, pair.as_ptr()) == Err(libc::EINTR),
            sys!(ppoll, 0, 0, timeout.as_mut_ptr(), 0, 8) == Ok(0),
            // The time that is left is stored.
            timeout == [0, 0],
            sys!(ppoll, 0, 0, [0_i64, 1_000_000_000].as_ptr(), 0, 8) == Err(libc::EINVAL),
            sys!(ppoll, 0, 0, [-1_i64, 0].as_ptr(), 0, 8) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn select_in_its_old_form() {
    let (read, write) = pipe(0);
    let bit = |fd: i32| [1_u64 << fd];
    let nfds = read.max(write) + 1;
    let mut timeout = [0_i64, 1000];
    let mut readable = bit(read);
    assert_eq!(sys!(select, nfds, readable.as_mut_ptr(), 0, 0, timeout.as_mut_ptr()), Ok(0));
    assert_eq!((readable, timeout), ([0], [0, 0]));
    readable = bit(read);
    let mut writable = bit(write);
    assert_eq!(sys!(select, nfds, readable.as_mut_ptr(), writable.as_mut_ptr(), 0, 0), Ok(1));
    assert_eq!((readable, writable), ([0], bit(write)));
    assert_eq!(sys!(select, -1_i64, 0, 0, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(select, 0, 0, 0, 0, [-1_i64, 0].as_ptr()), Err(libc::EINVAL));
    assert_eq!(sys!(select, nfds, 16, 0, 0, 0), Err(libc::EFAULT));
    let reader = child(|| {
        let mut readable = bit(read);
        steps(&[sys!(select, nfds, readable.as_mut_ptr(), 0, 0, 0) == Ok(1), readable == bit(read)])
    });
    until_asleep(reader.into(), reader.into());
    assert_eq!(sys!(write, write, b"x".as_ptr(), 1), Ok(1));
    assert_eq!(wait_status(reader), 0);
    close_all(&[read.into(), write.into()]);
}

/// Found by the guest fuzzer: the wait saw the end of the pipe, and the sets did not, for ever.
#[test]
fn select_does_not_end_for_what_no_set_tells() {
    let (read, write) = pipe(0);
    assert_eq!(sys!(close, write), Ok(0));
    let mut exceptional = [1_u64 << read];
    let mut timeout = [0_i64, 20_000];
    assert_eq!(sys!(select, read + 1, 0, 0, exceptional.as_mut_ptr(), timeout.as_mut_ptr()), Ok(0));
    assert_eq!((exceptional, timeout), ([0], [0, 0]));
    let sleeper = child(|| {
        let mut exceptional = [1_u64 << read];
        steps(&[sys!(select, read + 1, 0, 0, exceptional.as_mut_ptr(), 0).is_ok()])
    });
    until_asleep(sleeper.into(), sleeper.into());
    assert_eq!(sys!(kill, sleeper, libc::SIGKILL), Ok(0));
    assert_eq!(wait_status(sleeper), libc::SIGKILL);
    close_all(&[read.into()]);
}

#[test]
fn signals_are_read_from_descriptors() {
    in_child(|| {
        let me = sys!(getpid).unwrap();
        let set = 1_u64 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGUSR2 - 1);
        let one = 1_u64 << (libc::SIGUSR1 - 1);
        let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8);
        let fd = sys!(signalfd4, -1_i64, &raw const set, 8, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC).unwrap();
        let mut info = [0_u32; 64];
        let at = info.as_mut_ptr();
        let empty = sys!(read, fd, at, 256);
        let _ = sys!(kill, me, libc::SIGUSR2);
        let _ = sys!(kill, me, libc::SIGUSR1);
        let mut poll = libc::pollfd { fd: i32::try_from(fd).unwrap(), events: libc::POLLIN, revents: 0 };
        let polled = sys!(poll, &raw mut poll, 1, 0);
        let got = sys!(read, fd, at, 256);
        let signals = (info[0], info[32]);
        let sender = i64::from(info[3]);
        let old = sys!(signalfd, -1_i64, &raw const one, 8).unwrap();
        let changed = sys!(signalfd4, fd, &raw const one, 8, 0);
        let _ = sys!(kill, me, libc::SIGUSR2);
        let none = sys!(read, fd, at, 256);
        let _ = sys!(kill, me, libc::SIGUSR1);
        steps(&[
            empty == Err(libc::EAGAIN),
            polled == Ok(1),
            got == Ok(256),
            signals == (10, 12),
            sender == me,
            changed == Ok(fd),
            none == Err(libc::EAGAIN),
            sys!(read, old, at, 256) == Ok(128),
            sys!(read, old, at, 127) == Err(libc::EINVAL),
            sys!(signalfd4, -1_i64, &raw const one, 4, 0) == Err(libc::EINVAL),
            sys!(signalfd4, -1_i64, &raw const one, 8, 1) == Err(libc::EINVAL),
            sys!(signalfd4, 0, &raw const one, 8, 0) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn eventfd_wakes_and_blocks() {
    let fd = sys!(eventfd2, 0, 0).unwrap();
    let reader = child(|| {
        let mut value = 0_u64;
        steps(&[sys!(read, fd, &raw mut value, 8) == Ok(8), value == 41])
    });
    until_asleep(reader.into(), reader.into());
    let value = 41_u64;
    assert_eq!(sys!(write, fd, &raw const value, 8), Ok(8));
    assert_eq!(wait_status(reader), 0);
    let most = u64::MAX - 1;
    assert_eq!(sys!(write, fd, &raw const most, 8), Ok(8));
    let mut poll = libc::pollfd { fd: i32::try_from(fd).unwrap(), events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    assert_eq!(sys!(poll, &raw mut poll, 1, 0), Ok(1));
    assert_eq!(poll.revents, libc::POLLIN);
    assert_eq!(sys!(fcntl, fd, libc::F_SETFL, libc::O_NONBLOCK), Ok(0));
    assert_eq!(sys!(write, fd, &raw const value, 8), Err(libc::EAGAIN));
    assert_eq!(sys!(write, fd, &raw const value, 4), Err(libc::EINVAL));
    assert_eq!(sys!(eventfd2, 0, 0x100), Err(libc::EINVAL));
    close_all(&[fd]);
}
