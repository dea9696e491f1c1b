//! Socket pairs of every kind: borders of messages, ends, options, vectors, several at once.

use casemate_guest_tests::{fork_status, in_child, steps, sys};

fn pair(kind: i32) -> [i32; 2] {
    let mut ends = [0_i32; 2];
    assert_eq!(sys!(socketpair, libc::AF_UNIX, kind, 0, ends.as_mut_ptr()), Ok(0));
    ends
}

fn close(ends: [i32; 2]) {
    for fd in ends {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

fn send(fd: i32, bytes: &[u8], flags: i32) -> Result<i64, i32> {
    sys!(sendto, fd, bytes.as_ptr(), bytes.len(), flags | libc::MSG_NOSIGNAL, 0, 0)
}

fn receive(fd: i32, room: usize, flags: i32) -> Result<(i64, Vec<u8>), i32> {
    let mut buffer = vec![0_u8; room];
    let got = sys!(recvfrom, fd, buffer.as_mut_ptr(), room, flags, 0, 0)?;
    buffer.truncate(usize::try_from(got).unwrap().min(room));
    Ok((got, buffer))
}

fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

fn header(vectors: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: 1. plain data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = vectors.as_mut_ptr();
    header.msg_iovlen = vectors.len();
    header
}

#[test]
fn pairs_are_made_as_asked() {
    let mut ends = [0_i32; 2];
    let make = |domain: i32, kind: i32, protocol: i32, at: *mut i32| sys!(socketpair, domain, kind, protocol, at);
    let stream = libc::SOCK_STREAM;
    assert_eq!(make(libc::AF_UNIX, stream, 99, ends.as_mut_ptr()), Err(libc::EPROTONOSUPPORT));
    assert_eq!(make(libc::AF_UNIX, 99, 0, ends.as_mut_ptr()), Err(libc::EINVAL));
    assert_eq!(make(libc::AF_UNIX, 9, 0, ends.as_mut_ptr()), Err(libc::ESOCKTNOSUPPORT));
    assert_eq!(make(99, stream, 0, ends.as_mut_ptr()), Err(libc::EAFNOSUPPORT));
    assert_eq!(make(libc::AF_UNIX, stream, 0, std::ptr::null_mut()), Err(libc::EFAULT));
    assert_eq!(make(libc::AF_UNIX, stream | libc::SOCK_NONBLOCK, 0, ends.as_mut_ptr()), Ok(0));
    assert_eq!(sys!(fcntl, ends[0], libc::F_GETFD, 0), Ok(0));
    assert_eq!(receive(ends[0], 1, 0), Err(libc::EAGAIN));
    close(ends);
}

#[test]
fn datagrams_keep_their_borders() {
    for kind in [libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let [a, b] = pair(kind);
        for text in [b"one".as_slice(), b"three", b""] {
            assert_eq!(send(a, text, 0), Ok(i64::try_from(text.len()).unwrap()));
        }
        assert_eq!(receive(b, 16, libc::MSG_PEEK).unwrap(), (3, b"one".to_vec()));
        assert_eq!(receive(b, 16, 0).unwrap(), (3, b"one".to_vec()));
        // What does not fit is lost; MSG_TRUNC tells how long it was.
        assert_eq!(receive(b, 2, libc::MSG_TRUNC).unwrap(), (5, b"th".to_vec()));
        assert_eq!(receive(b, 16, 0).unwrap(), (0, Vec::new()));
        assert_eq!(receive(b, 16, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
        close([a, b]);
    }
}

#[test]
fn the_end_of_each_kind() {
    let [a, b] = pair(libc::SOCK_SEQPACKET);
    assert_eq!(send(a, b"last", 0), Ok(4));
    assert_eq!(sys!(close, a), Ok(0));
    assert_eq!(receive(b, 16, 0).unwrap(), (4, b"last".to_vec()));
    assert_eq!(receive(b, 16, 0).unwrap(), (0, Vec::new()));
    assert_eq!(send(b, b"x", 0), Err(libc::EPIPE));
    assert_eq!(sys!(close, b), Ok(0));
    let [a, b] = pair(libc::SOCK_DGRAM);
    assert_eq!(sys!(close, a), Ok(0));
    assert_eq!(send(b, b"x", 0), Err(libc::ECONNREFUSED));
    assert_eq!(receive(b, 16, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
    assert_eq!(sys!(close, b), Ok(0));
    // Unread bytes at the other end's close are a reset.
    let [a, b] = pair(libc::SOCK_STREAM);
    assert_eq!(send(b, b"unread", 0), Ok(6));
    assert_eq!(sys!(close, a), Ok(0));
    assert_eq!(receive(b, 16, 0), Err(libc::ECONNRESET));
    assert_eq!(receive(b, 16, 0).unwrap(), (0, Vec::new()));
    assert_eq!(sys!(close, b), Ok(0));
    let status = fork_status(|| {
        // SAFETY: 1. the default action is always sound to ask for.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let [a, b] = pair(libc::SOCK_STREAM);
        let _ = sys!(close, a);
        let _ = sys!(sendto, b, b"x".as_ptr(), 1, 0, 0, 0);
        0
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGPIPE, "{status:#x}");
}

#[test]
fn halves_shut_down() {
    let [a, b] = pair(libc::SOCK_STREAM);
    assert_eq!(sys!(shutdown, a, 3), Err(libc::EINVAL));
    assert_eq!(sys!(shutdown, a, libc::SHUT_RD), Ok(0));
    assert_eq!(receive(a, 1, 0).unwrap().0, 0);
    assert_eq!(send(b, b"x", 0), Err(libc::EPIPE));
    assert_eq!(send(a, b"still", 0), Ok(5));
    assert_eq!(receive(b, 8, 0).unwrap().1, b"still");
    let mut poll = libc::pollfd { fd: b, events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
    assert_eq!(sys!(poll, &raw mut poll, 1, 0), Ok(0));
    assert_eq!(sys!(shutdown, a, libc::SHUT_WR), Ok(0));
    assert_eq!(sys!(poll, &raw mut poll, 1, 0), Ok(1));
    assert_eq!(poll.revents, libc::POLLIN | libc::POLLRDHUP | libc::POLLHUP);
    close([a, b]);
}

#[test]
fn streams_wait_for_all() {
    let [a, b] = pair(libc::SOCK_STREAM);
    let reader = casemate_guest_tests::child(|| {
        let got = receive(b, 6, libc::MSG_WAITALL);
        steps(&[got == Ok((6, b"abcdef".to_vec()))])
    });
    assert_eq!(send(a, b"abc", 0), Ok(3));
    casemate_guest_tests::until_asleep(reader.into(), reader.into());
    assert_eq!(send(a, b"def", 0), Ok(3));
    assert_eq!(casemate_guest_tests::wait_status(reader), 0);
    // A full buffer takes no more, and says so.
    let block = [0_u8; 65536];
    let mut sent = 0;
    loop {
        match send(a, &block, libc::MSG_DONTWAIT) {
            Ok(n) => sent += n,
            Err(error) => break assert_eq!(error, libc::EAGAIN),
        }
        assert!(sent < 1 << 24);
    }
    assert!(sent >= 65536);
    let mut poll = libc::pollfd { fd: a, events: libc::POLLOUT, revents: 0 };
    assert_eq!(sys!(poll, &raw mut poll, 1, 0), Ok(0));
    close([a, b]);
}

#[test]
fn messages_gather_and_scatter() {
    let [a, b] = pair(libc::SOCK_DGRAM);
    let (mut one, mut two) = (*b"abc", *b"defg");
    let mut out = [iovec(&mut one), iovec(&mut two)];
    let message = header(&mut out);
    assert_eq!(sys!(sendmsg, a, &raw const message, 0), Ok(7));
    let (mut first, mut second) = ([0_u8; 2], [0_u8; 3]);
    let mut room = [iovec(&mut first), iovec(&mut second)];
    let mut answer = header(&mut room);
    let mut name = [0_u8; 16];
    answer.msg_name = name.as_mut_ptr().cast();
    answer.msg_namelen = 16;
    assert_eq!(sys!(recvmsg, b, &raw mut answer, 0), Ok(5));
    assert_eq!((&first, &second), (b"ab", b"cde"));
    assert_eq!((answer.msg_flags, answer.msg_namelen, answer.msg_controllen), (libc::MSG_TRUNC, 0, 0));
    let mut many = header(&mut out);
    many.msg_iovlen = 1025;
    assert_eq!(sys!(sendmsg, a, &raw const many, 0), Err(libc::EMSGSIZE));
    assert_eq!(sys!(sendmsg, a, 16, 0), Err(libc::EFAULT));
    assert_eq!(sys!(recvmsg, b, &raw mut answer, libc::MSG_DONTWAIT), Err(libc::EAGAIN));
    close([a, b]);
}

#[test]
fn several_messages_at_once() {
    let [a, b] = pair(libc::SOCK_DGRAM);
    let (mut one, mut two) = (*b"abc", *b"de");
    let (mut first, mut second) = ([iovec(&mut one)], [iovec(&mut two)]);
    let entry = |vectors: &mut [libc::iovec]| libc::mmsghdr { msg_hdr: header(vectors), msg_len: 99 };
    let mut out = [entry(&mut first), entry(&mut second)];
    assert_eq!(sys!(sendmmsg, a, out.as_mut_ptr(), 2, 0), Ok(2));
    assert_eq!((out[0].msg_len, out[1].msg_len), (3, 2));
    assert_eq!(sys!(sendmmsg, a, 16, 1, 0), Err(libc::EFAULT));
    assert_eq!(sys!(sendmmsg, 9999, out.as_mut_ptr(), 1, 0), Err(libc::EBADF));
    let (mut x, mut y, mut z) = ([0_u8; 8], [0_u8; 8], [0_u8; 8]);
    let (mut to_x, mut to_y, mut to_z) = ([iovec(&mut x)], [iovec(&mut y)], [iovec(&mut z)]);
    let mut back = [entry(&mut to_x), entry(&mut to_y), entry(&mut to_z)];
    assert_eq!(sys!(recvmmsg, b, back.as_mut_ptr(), 3, libc::MSG_WAITFORONE, 0), Ok(2));
    assert_eq!((back[0].msg_len, back[1].msg_len), (3, 2));
    assert_eq!((&x[..3], &y[..2]), (b"abc".as_slice(), b"de".as_slice()));
    assert_eq!(sys!(recvmmsg, b, back.as_mut_ptr(), 3, libc::MSG_DONTWAIT, 0), Err(libc::EAGAIN));
    let bad = [0_i64, 1_000_000_000];
    assert_eq!(sys!(recvmmsg, b, back.as_mut_ptr(), 3, 0, bad.as_ptr()), Err(libc::EINVAL));
    close([a, b]);
}

#[test]
fn options_tell_what_a_socket_is() {
    let get = |fd: i32, name: i32| {
        let (mut value, mut len) = ([0_u32; 4], 16_i32);
        sys!(getsockopt, fd, libc::SOL_SOCKET, name, value.as_mut_ptr(), &raw mut len).map(|_| (value, len))
    };
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let [a, b] = pair(kind);
        assert_eq!(get(a, libc::SO_TYPE), Ok(([kind.cast_unsigned(), 0, 0, 0], 4)));
        assert_eq!(get(a, libc::SO_DOMAIN), Ok(([1, 0, 0, 0], 4)));
        assert_eq!(get(a, libc::SO_PROTOCOL), Ok(([0; 4], 4)));
        assert_eq!(get(a, libc::SO_ERROR), Ok(([0; 4], 4)));
        assert_eq!(get(a, libc::SO_ACCEPTCONN), Ok(([0; 4], 4)));
        assert!(get(b, libc::SO_SNDBUF).unwrap().0[0] >= 4096);
        let (cred, len) = get(a, libc::SO_PEERCRED).unwrap();
        assert_eq!((i64::from(cred[0]), i64::from(cred[1]), len), (sys!(getpid).unwrap(), sys!(geteuid).unwrap(), 12));
        assert_eq!(get(a, 9999), Err(libc::ENOPROTOOPT));
        let size = 8192_i32;
        assert_eq!(sys!(setsockopt, a, libc::SOL_SOCKET, libc::SO_SNDBUF, &raw const size, 4), Ok(0));
        assert_eq!(sys!(setsockopt, a, libc::SOL_SOCKET, libc::SO_SNDBUF, &raw const size, 1), Err(libc::EINVAL));
        assert_eq!(sys!(setsockopt, a, libc::SOL_SOCKET, 9999, &raw const size, 4), Err(libc::ENOPROTOOPT));
        close([a, b]);
    }
    assert_eq!(sys!(getsockopt, 9999, 1, 3, 0, 0), Err(libc::EBADF));
    let (read, write) = casemate_guest_tests::pipe(0);
    assert_eq!(get(read, libc::SO_TYPE), Err(libc::ENOTSOCK));
    close([read, write]);
}

#[test]
fn names_and_states_of_pairs() {
    let [a, b] = pair(libc::SOCK_STREAM);
    let (mut name, mut len) = ([0xff_u8; 8], 8_i32);
    assert_eq!(sys!(getsockname, a, name.as_mut_ptr(), &raw mut len), Ok(0));
    assert_eq!((len, &name[..3]), (2, [1, 0, 0xff].as_slice()));
    len = 1;
    name = [0xff; 8];
    assert_eq!(sys!(getpeername, a, name.as_mut_ptr(), &raw mut len), Ok(0));
    assert_eq!((len, &name[..2]), (2, [1, 0xff].as_slice()));
    len = -1;
    assert_eq!(sys!(getpeername, a, name.as_mut_ptr(), &raw mut len), Err(libc::EINVAL));
    assert_eq!(sys!(listen, a, 1), Err(libc::EINVAL));
    assert_eq!(sys!(accept, a, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(accept4, a, 0, 0, 1), Err(libc::EINVAL));
    let address = [1_u8, 0, b'/', b't', b'm', b'p', b'/', b'x', 0];
    assert_eq!(sys!(sendto, a, b"x".as_ptr(), 1, 0, address.as_ptr(), 9), Err(libc::EISCONN));
    assert_eq!(sys!(sendto, a, b"x".as_ptr(), 1, libc::MSG_OOB | libc::MSG_NOSIGNAL, 0, 0).map(|_| ()), {
        // Linux has out-of-band bytes on streams where it is configured; the second kind of answer is as before.
        if casemate_guest_tests::inside() { Err(libc::EOPNOTSUPP) } else { Ok(()) }
    });
    close([a, b]);
    in_child(|| steps(&[sys!(socket, 9999, libc::SOCK_STREAM, 0) == Err(libc::EAFNOSUPPORT)]));
}

#[test]
fn only_streams_signal_a_broken_pipe() {
    for (kind, signals) in [(libc::SOCK_STREAM, true), (libc::SOCK_DGRAM, false), (libc::SOCK_SEQPACKET, false)] {
        let [a, b] = pair(kind);
        assert_eq!(sys!(shutdown, b, libc::SHUT_RD), Ok(0));
        for send in [false, true] {
            let status = fork_status(|| {
                // SAFETY: 1. the default action has no handler.
                unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
                let text = b"x";
                let sent =
                    if send { sys!(sendto, a, text.as_ptr(), 1, 0, 0, 0) } else { sys!(write, a, text.as_ptr(), 1) };
                steps(&[sent == Err(libc::EPIPE)])
            });
            assert_eq!(status, if signals { libc::SIGPIPE } else { 0 }, "{kind} {send}");
        }
        close([a, b]);
    }
}

#[test]
fn a_name_without_a_place_is_left_alone() {
    let [a, b] = pair(libc::SOCK_STREAM);
    assert_eq!(send(a, b"x", 0), Ok(1));
    let mut byte = [0_u8];
    let mut vectors = [iovec(&mut byte)];
    let mut header = header(&mut vectors);
    header.msg_namelen = u32::MAX;
    assert_eq!(sys!(recvmsg, b, &raw mut header, 0), Ok(1));
    assert_eq!(header.msg_namelen, u32::MAX);
    close([a, b]);
}
