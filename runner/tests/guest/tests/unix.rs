//! UNIX sockets with names: connecting, accepting, datagrams, credentials, descriptors in messages.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use casemate_guest_tests::{child, fork_status, in_child, is_root, steps, sys, until_asleep, wait_status};

/// A directory of one's own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("guest-unix-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn abstract_name(name: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(format!("guest-{name}-{}", std::process::id())).unwrap()
}

fn socket(kind: i32) -> OwnedFd {
    let fd = sys!(socket, libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0).unwrap();
    // SAFETY: 1. the descriptor is new and ours.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

/// The bytes of an address with this path.
fn address(path: &std::path::Path) -> Vec<u8> {
    let mut bytes = vec![1, 0];
    bytes.extend_from_slice(path.as_os_str().as_encoded_bytes());
    bytes.push(0);
    bytes
}

fn connect(fd: &OwnedFd, address: &[u8]) -> Result<i64, i32> {
    sys!(connect, fd.as_raw_fd(), address.as_ptr(), address.len())
}

fn bind(fd: &OwnedFd, address: &[u8]) -> Result<i64, i32> {
    sys!(bind, fd.as_raw_fd(), address.as_ptr(), address.len())
}

fn option(fd: i32, name: i32) -> i32 {
    let (mut value, mut len) = (-1_i32, 4_i32);
    assert_eq!(sys!(getsockopt, fd, libc::SOL_SOCKET, name, &raw mut value, &raw mut len), Ok(0), "{name}");
    value
}

#[test]
fn sockets_are_made_as_asked() {
    assert_eq!(sys!(socket, 99, libc::SOCK_STREAM, 0), Err(libc::EAFNOSUPPORT));
    assert_eq!(sys!(socket, libc::AF_UNIX, 9, 0), Err(libc::ESOCKTNOSUPPORT));
    assert_eq!(sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 7), Err(libc::EPROTONOSUPPORT));
    assert_eq!(sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM | 0x100_0000, 0), Err(libc::EINVAL));
    let raw = socket(libc::SOCK_RAW);
    assert_eq!(option(raw.as_raw_fd(), libc::SO_TYPE), libc::SOCK_DGRAM);
    let plain = socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
    assert_eq!(sys!(fcntl, plain.as_raw_fd(), libc::F_GETFD, 0), Ok(1));
    assert_eq!(sys!(fcntl, plain.as_raw_fd(), libc::F_GETFL, 0), Ok(i64::from(libc::O_RDWR | libc::O_NONBLOCK)));
    assert_eq!(option(plain.as_raw_fd(), libc::SO_ACCEPTCONN), 0);
    let mut poll = libc::pollfd { fd: plain.as_raw_fd(), events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    assert_eq!(sys!(poll, &raw mut poll, 1, 0), Ok(1));
    assert_eq!(poll.revents, libc::POLLOUT | libc::POLLHUP);
}

#[test]
fn streams_connect_by_path() {
    let dir = Dir::new("path");
    let path = dir.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(option(listener.as_raw_fd(), libc::SO_ACCEPTCONN), 1);
    let serving = std::thread::spawn(move || {
        let (mut end, from) = listener.accept().unwrap();
        assert!(from.is_unnamed());
        let mut text = String::new();
        end.read_to_string(&mut text).unwrap();
        end.write_all(text.to_uppercase().as_bytes()).unwrap();
        (end.local_addr().unwrap(), end.peer_addr().unwrap())
    });
    let mut client = UnixStream::connect(&path).unwrap();
    assert_eq!(client.peer_addr().unwrap().as_pathname(), Some(path.as_path()));
    assert!(client.local_addr().unwrap().is_unnamed());
    client.write_all(b"hello").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "HELLO");
    let (local, peer) = serving.join().unwrap();
    assert_eq!(local.as_pathname(), Some(path.as_path()));
    assert!(peer.is_unnamed());
    // The name outlives the listener, as a name of nobody.
    assert_eq!(UnixStream::connect(&path).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    assert_eq!(UnixListener::bind(&path).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
    assert_eq!(std::fs::File::open(&path).unwrap_err().raw_os_error(), Some(libc::ENXIO));
}

#[test]
fn abstract_names_end_with_their_socket() {
    let name = abstract_name("stream");
    let listener = UnixListener::bind_addr(&name).unwrap();
    assert_eq!(UnixListener::bind_addr(&name).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
    let client = UnixStream::connect_addr(&name).unwrap();
    assert_eq!(client.peer_addr().unwrap().as_abstract_name(), name.as_abstract_name());
    let (end, _) = listener.accept().unwrap();
    drop((listener, end));
    assert_eq!(UnixStream::connect_addr(&name).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    UnixListener::bind_addr(&name).unwrap();
}

#[test]
fn names_are_bound_once() {
    let dir = Dir::new("bind");
    let path = dir.path("name");
    let one = socket(libc::SOCK_DGRAM);
    assert_eq!(bind(&one, &[2, 0, b'x', 0]), Err(libc::EINVAL));
    assert_eq!(bind(&one, &[1; 111]), Err(libc::EINVAL));
    assert_eq!(bind(&one, &address(&dir.path("no/where"))), Err(libc::ENOENT));
    assert_eq!(sys!(bind, one.as_raw_fd(), 8, 16), Err(libc::EFAULT));
    assert_eq!(sys!(bind, 0x3fff_ffff, 8, 16), Err(libc::EBADF));
    assert_eq!(bind(&one, &address(&path)), Ok(0));
    assert_eq!(bind(&one, &address(&dir.path("other"))), Err(libc::EINVAL));
    assert_eq!(bind(&socket(libc::SOCK_STREAM), &address(&path)), Err(libc::EADDRINUSE));
    // Only a family: a name of five digits is made up, once.
    let any = socket(libc::SOCK_STREAM);
    assert_eq!(bind(&any, &[1, 0]), Ok(0));
    assert_eq!(bind(&any, &[1, 0]), Ok(0));
    let (mut name, mut len) = ([0xff_u8; 16], 16_i32);
    assert_eq!(sys!(getsockname, any.as_raw_fd(), name.as_mut_ptr(), &raw mut len), Ok(0));
    assert_eq!((len, &name[..3]), (8, [1, 0, 0].as_slice()));
    assert!(name[3..8].iter().all(u8::is_ascii_hexdigit), "{name:?}");
    // A short buffer gets the beginning and the whole length.
    let (mut short, mut len) = ([0xff_u8; 4], 3_i32);
    assert_eq!(sys!(getsockname, one.as_raw_fd(), short.as_mut_ptr(), &raw mut len), Ok(0));
    assert_eq!(usize::try_from(len).unwrap(), address(&path).len());
    assert_eq!(short, [1, 0, b'/', 0xff]);
}

#[test]
fn connecting_fails_as_it_should() {
    let dir = Dir::new("connect");
    let file = dir.path("file");
    std::fs::write(&file, b"").unwrap();
    let client = socket(libc::SOCK_STREAM);
    assert_eq!(connect(&client, &address(&dir.path("absent"))), Err(libc::ENOENT));
    assert_eq!(connect(&client, &address(&file)), Err(libc::ECONNREFUSED));
    assert_eq!(connect(&client, &[0, 0, 0]), Err(libc::EINVAL));
    assert_eq!(connect(&client, &[1, 0]), Err(libc::EINVAL));
    let datagrams = dir.path("datagrams");
    let _receiver = UnixDatagram::bind(&datagrams).unwrap();
    assert_eq!(connect(&client, &address(&datagrams)), Err(libc::EPROTOTYPE));
    let idle = socket(libc::SOCK_STREAM);
    assert_eq!(bind(&idle, &address(&dir.path("idle"))), Ok(0));
    assert_eq!(connect(&client, &address(&dir.path("idle"))), Err(libc::ECONNREFUSED));
    let path = dir.path("listener");
    let _listener = UnixListener::bind(&path).unwrap();
    assert_eq!(connect(&client, &address(&path)), Ok(0));
    assert_eq!(connect(&client, &address(&path)), Err(libc::EISCONN));
    assert_eq!(sys!(listen, client.as_raw_fd(), 1), Err(libc::EINVAL));
    // Not connected.
    let lonely = socket(libc::SOCK_STREAM);
    let mut byte = [0_u8];
    assert_eq!(sys!(recvfrom, lonely.as_raw_fd(), byte.as_mut_ptr(), 1, 0, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(sendto, lonely.as_raw_fd(), byte.as_ptr(), 1, libc::MSG_NOSIGNAL, 0, 0), Err(libc::ENOTCONN));
    assert_eq!(sys!(getpeername, lonely.as_raw_fd(), 8, 8), Err(libc::ENOTCONN));
    assert_eq!(sys!(accept4, lonely.as_raw_fd(), 0, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(accept4, lonely.as_raw_fd(), 0, 0, 1), Err(libc::EINVAL));
    assert_eq!(sys!(listen, lonely.as_raw_fd(), 1), Err(libc::EINVAL));
    let packets = socket(libc::SOCK_SEQPACKET);
    assert_eq!(sys!(recvfrom, packets.as_raw_fd(), byte.as_mut_ptr(), 1, 0, 0, 0), Err(libc::ENOTCONN));
    assert_eq!(sys!(listen, socket(libc::SOCK_DGRAM).as_raw_fd(), 1), Err(libc::EOPNOTSUPP));
}

#[test]
fn a_backlog_fills_and_empties() {
    let name = abstract_name("backlog");
    let listener = socket(libc::SOCK_STREAM);
    let mut bytes = vec![1, 0, 0];
    bytes.extend_from_slice(name.as_abstract_name().unwrap());
    assert_eq!(bind(&listener, &bytes), Ok(0));
    assert_eq!(sys!(listen, listener.as_raw_fd(), 1), Ok(0));
    let clients: Vec<OwnedFd> = (0..3).map(|_| socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK)).collect();
    assert_eq!(connect(&clients[0], &bytes), Ok(0));
    assert_eq!(connect(&clients[1], &bytes), Ok(0));
    assert_eq!(connect(&clients[2], &bytes), Err(libc::EAGAIN));
    // One that waits gets in when another is accepted.
    let waiting = child(|| i32::from(connect(&socket(libc::SOCK_STREAM), &bytes) != Ok(0)));
    until_asleep(waiting.into(), waiting.into());
    let accepted = sys!(accept4, listener.as_raw_fd(), 0, 0, libc::SOCK_CLOEXEC).unwrap();
    assert_eq!(wait_status(waiting), 0);
    assert_eq!(sys!(close, accepted), Ok(0));
    // Data sent before the end was accepted; and a listener that goes resets those it has not accepted.
    let mut early = UnixStream::from(clients.into_iter().nth(1).unwrap());
    early.write_all(b"early").unwrap();
    drop(listener);
    assert_eq!(early.read(&mut [0; 8]).unwrap_err().raw_os_error(), Some(libc::ECONNRESET));
}

#[test]
fn accepting_waits_for_a_connection() {
    let name = abstract_name("accept");
    let listener = UnixListener::bind_addr(&name).unwrap();
    let client = child(|| {
        let mut stream = UnixStream::connect_addr(&name).unwrap();
        i32::from(stream.write_all(b"x").is_err())
    });
    let (mut end, _) = listener.accept().unwrap();
    let mut byte = [0];
    end.read_exact(&mut byte).unwrap();
    assert_eq!(wait_status(client), 0);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().raw_os_error(), Some(libc::EAGAIN));
}

#[test]
fn datagrams_go_where_they_are_sent() {
    let dir = Dir::new("datagrams");
    let (here, there) = (dir.path("here"), dir.path("there"));
    let receiver = UnixDatagram::bind(&here).unwrap();
    let sender = UnixDatagram::bind(&there).unwrap();
    let nameless = UnixDatagram::unbound().unwrap();
    assert_eq!(nameless.send(b"x").unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    assert_eq!(sender.send_to(b"one", &here).unwrap(), 3);
    assert_eq!(nameless.send_to(b"three", &here).unwrap(), 5);
    let mut buffer = [0; 16];
    let (got, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!((got, from.as_pathname()), (3, Some(there.as_path())));
    let (got, from) = receiver.recv_from(&mut buffer).unwrap();
    assert!(got == 5 && from.is_unnamed());
    // A connected one hears from its peer alone.
    receiver.connect(&there).unwrap();
    assert_eq!(nameless.send_to(b"x", &here).unwrap_err().raw_os_error(), Some(libc::EPERM));
    assert_eq!(sender.send_to(b"peer", &here).unwrap(), 4);
    assert_eq!(receiver.send(b"back").unwrap(), 4);
    assert_eq!(sender.recv(&mut buffer).unwrap(), 4);
    assert_eq!(sys!(connect, receiver.as_raw_fd(), [0_u8, 0].as_ptr(), 2), Ok(0));
    assert_eq!(nameless.send_to(b"x", &here).unwrap(), 1);
    // A stream takes no address.
    let (a, _b) = UnixStream::pair().unwrap();
    let to = address(&here);
    let send = |fd: i32| sys!(sendto, fd, b"x".as_ptr(), 1, libc::MSG_NOSIGNAL, to.as_ptr(), to.len());
    assert_eq!(send(a.as_raw_fd()), Err(libc::EISCONN));
    assert_eq!(send(socket(libc::SOCK_STREAM).as_raw_fd()), Err(libc::EOPNOTSUPP));
    // The receiver goes: nobody is there.
    sender.connect(&here).unwrap();
    drop(receiver);
    assert_eq!(sender.send(b"x").unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    assert_eq!(sender.send(b"x").unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
}

#[test]
fn a_full_receiver_makes_senders_wait() {
    let name = abstract_name("full");
    let receiver = UnixDatagram::bind_addr(&name).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.connect_addr(&name).unwrap();
    sender.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let message = [7; 4096];
    while sender.send(&message).is_ok() {
        sent += 1;
    }
    assert!(sent > 0);
    let mut poll = libc::pollfd { fd: sender.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    assert_eq!(sys!(poll, &raw mut poll, 1, 0), Ok(0));
    let waiting = child(|| {
        let _ = sender.set_nonblocking(false);
        i32::from(sender.send(&message).is_err())
    });
    until_asleep(waiting.into(), waiting.into());
    let mut buffer = [0; 4096];
    while receiver.recv(&mut buffer).is_ok() {
        sent -= 1;
        if sent == 0 {
            break;
        }
    }
    assert_eq!(wait_status(waiting), 0);
    assert_eq!(receiver.recv(&mut buffer).unwrap(), 4096);
    assert_eq!(sys!(poll, &raw mut poll, 1, 1000), Ok(1));
}

/// A message's buffers.
struct Message {
    bytes: Vec<u8>,
    control: Vec<u8>,
    flags: i32,
}

fn send_message(fd: i32, bytes: &[u8], control: &[u8]) -> Result<i64, i32> {
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: 1. plain data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = control.len();
    sys!(sendmsg, fd, &raw const header, libc::MSG_NOSIGNAL)
}

fn receive_message(fd: i32, room: usize, control_room: usize, flags: i32) -> Result<Message, i32> {
    let (mut bytes, mut control) = (vec![0_u8; room], vec![0_u8; control_room]);
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: room };
    // SAFETY: 1. plain data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control_room;
    let got = sys!(recvmsg, fd, &raw mut header, flags)?;
    bytes.truncate(usize::try_from(got).unwrap());
    control.truncate(header.msg_controllen);
    Ok(Message { bytes, control, flags: header.msg_flags })
}

fn control(kind: i32, data: &[u8]) -> Vec<u8> {
    let mut out = (16 + data.len()).to_ne_bytes().to_vec();
    out.extend_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn rights(fds: &[i32]) -> Vec<u8> {
    let data: Vec<u8> = fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect();
    control(libc::SCM_RIGHTS, &data)
}

/// The descriptors in received control messages.
fn descriptors(control: &[u8]) -> Vec<i32> {
    let mut found = Vec::new();
    let mut rest = control;
    while rest.len() >= 16 {
        let len = usize::from_ne_bytes(rest[..8].try_into().unwrap());
        if rest[12..16] == libc::SCM_RIGHTS.to_ne_bytes() {
            found.extend(rest[16..len].chunks_exact(4).map(|fd| i32::from_ne_bytes(fd.try_into().unwrap())));
        }
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    found
}

#[test]
fn descriptors_travel() {
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let mut ends = [0_i32; 2];
        assert_eq!(sys!(socketpair, libc::AF_UNIX, kind, 0, ends.as_mut_ptr()), Ok(0));
        let [a, b] = ends;
        let (reader, writer) = casemate_guest_tests::pipe(0);
        assert_eq!(send_message(a, b"take", &rights(&[writer])), Ok(4));
        assert_eq!(sys!(close, writer), Ok(0));
        let got = receive_message(b, 16, 64, libc::MSG_CMSG_CLOEXEC).unwrap();
        assert_eq!((got.bytes.as_slice(), got.flags), (b"take".as_slice(), libc::MSG_CMSG_CLOEXEC));
        let [moved] = descriptors(&got.control)[..] else { panic!("{:?}", got.control) };
        assert_eq!(sys!(fcntl, moved, libc::F_GETFD, 0), Ok(1));
        assert_eq!(sys!(write, moved, b"x".as_ptr(), 1), Ok(1));
        assert_eq!(sys!(close, moved), Ok(0));
        let mut byte = [0_u8; 2];
        assert_eq!(sys!(read, reader, byte.as_mut_ptr(), 2), Ok(1));
        // Nobody holds the other end now.
        assert_eq!(sys!(read, reader, byte.as_mut_ptr(), 2), Ok(0));
        // A peek gives copies; what has no room is closed and said to be.
        assert_eq!(send_message(a, b"two", &rights(&[reader, reader])), Ok(3));
        let peeked = receive_message(b, 16, 64, libc::MSG_PEEK).unwrap();
        let copies = descriptors(&peeked.control);
        assert_eq!(copies.len(), 2);
        let cut = receive_message(b, 16, 20, 0).unwrap();
        assert_eq!(cut.flags & libc::MSG_CTRUNC, libc::MSG_CTRUNC);
        let one = descriptors(&cut.control);
        assert_eq!(one.len(), 1);
        for fd in copies.into_iter().chain(one) {
            assert_eq!(sys!(close, fd), Ok(0));
        }
        assert_eq!(send_message(a, b"x", &rights(&[0x3fff_ffff])), Err(libc::EBADF));
        assert_eq!(send_message(a, b"x", &rights(&[reader; 254])), Err(libc::EINVAL));
        assert_eq!(send_message(a, b"x", &control(99, &[0; 4])), Err(libc::EINVAL));
        assert_eq!(send_message(a, b"x", &[8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]), Err(libc::EINVAL));
        for fd in [a, b, reader] {
            assert_eq!(sys!(close, fd), Ok(0));
        }
    }
}

#[test]
fn a_stream_stops_behind_descriptors() {
    let (a, b) = UnixStream::pair().unwrap();
    let (a, b) = (a.as_raw_fd(), b.as_raw_fd());
    assert_eq!(send_message(a, b"before ", &[]), Ok(7));
    assert_eq!(send_message(a, b"with", &rights(&[a])), Ok(4));
    assert_eq!(send_message(a, b" after", &[]), Ok(6));
    let first = receive_message(b, 64, 64, 0).unwrap();
    let fds = descriptors(&first.control);
    assert_eq!((first.bytes.as_slice(), fds.len()), (b"before with".as_slice(), 1));
    assert_eq!(sys!(close, fds[0]), Ok(0));
    let second = receive_message(b, 64, 64, 0).unwrap();
    assert_eq!((second.bytes.as_slice(), second.control.len()), (b" after".as_slice(), 0));
}

#[test]
fn credentials_are_told_and_checked() {
    let (a, b) = UnixStream::pair().unwrap();
    let own = [sys!(getpid), sys!(getuid), sys!(getgid)].map(|id| u32::try_from(id.unwrap()).unwrap());
    let (mut cred, mut len) = ([0_u32; 3], 12_i32);
    let peer = |fd: i32, cred: &mut [u32; 3], len: &mut i32| {
        sys!(getsockopt, fd, libc::SOL_SOCKET, libc::SO_PEERCRED, cred.as_mut_ptr(), std::ptr::from_mut(len))
    };
    assert_eq!(peer(a.as_raw_fd(), &mut cred, &mut len), Ok(0));
    assert_eq!((cred, len), (own, 12));
    assert_eq!(peer(socket(libc::SOCK_STREAM).as_raw_fd(), &mut cred, &mut len), Ok(0));
    assert_eq!(cred, [0, u32::MAX, u32::MAX]);
    // Each end of a connection by name knows who made the other.
    let name = abstract_name("cred");
    let listener = UnixListener::bind_addr(&name).unwrap();
    let other = child(|| {
        let stream = UnixStream::connect_addr(&name).unwrap();
        let (mut cred, mut len) = ([0_u32; 3], 12_i32);
        steps(&[peer(stream.as_raw_fd(), &mut cred, &mut len) == Ok(0), cred == own])
    });
    let (end, _) = listener.accept().unwrap();
    assert_eq!(peer(end.as_raw_fd(), &mut cred, &mut len), Ok(0));
    assert_eq!(cred[0], other.unsigned_abs());
    assert_eq!(wait_status(other), 0);
    // With each message.
    let on = 1_i32;
    let set = sys!(setsockopt, b.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, &raw const on, 4);
    assert_eq!((set, option(b.as_raw_fd(), libc::SO_PASSCRED)), (Ok(0), 1));
    let bytes = |cred: [u32; 3]| -> Vec<u8> { cred.iter().flat_map(|word| word.to_ne_bytes()).collect() };
    assert_eq!(send_message(a.as_raw_fd(), b"x", &[]), Ok(1));
    let got = receive_message(b.as_raw_fd(), 8, 64, 0).unwrap();
    assert_eq!(got.control, control(libc::SCM_CREDENTIALS, &bytes(own)));
    let claimed = control(libc::SCM_CREDENTIALS, &bytes(own));
    assert_eq!(send_message(a.as_raw_fd(), b"y", &claimed), Ok(1));
    assert_eq!(receive_message(b.as_raw_fd(), 8, 64, 0).unwrap().bytes, b"y");
    in_child(|| {
        if sys!(geteuid) == Ok(0) && sys!(setuid, 65_534) != Ok(0) {
            return 1;
        }
        let forged = control(libc::SCM_CREDENTIALS, &bytes([own[0], 0, 0]));
        steps(&[send_message(a.as_raw_fd(), b"z", &forged) == Err(libc::EPERM)])
    });
}

#[test]
fn two_writers_of_a_stream_are_told_apart() {
    let (a, b) = UnixStream::pair().unwrap();
    let on = 1_i32;
    assert_eq!(sys!(setsockopt, b.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, &raw const on, 4), Ok(0));
    assert_eq!(send_message(a.as_raw_fd(), b"parent", &[]), Ok(6));
    in_child(|| steps(&[send_message(a.as_raw_fd(), b"child", &[]) == Ok(5)]));
    assert_eq!(receive_message(b.as_raw_fd(), 64, 64, 0).unwrap().bytes, b"parent");
    assert_eq!(receive_message(b.as_raw_fd(), 64, 64, 0).unwrap().bytes, b"child");
}

#[test]
fn options_are_kept() {
    let (a, _b) = UnixStream::pair().unwrap();
    let fd = a.as_raw_fd();
    let set = |name: i32, value: i32| sys!(setsockopt, fd, libc::SOL_SOCKET, name, &raw const value, 4);
    for name in [libc::SO_REUSEADDR, libc::SO_KEEPALIVE, libc::SO_BROADCAST, libc::SO_OOBINLINE] {
        assert_eq!(option(fd, name), 0);
        assert_eq!((set(name, 5), option(fd, name)), (Ok(0), 1));
    }
    assert_eq!((set(libc::SO_SNDBUF, 10_000), option(fd, libc::SO_SNDBUF)), (Ok(0), 20_000));
    assert_eq!((set(libc::SO_SNDBUF, 1), option(fd, libc::SO_SNDBUF)), (Ok(0), 4608));
    assert_eq!((set(libc::SO_RCVBUF, 10_000), option(fd, libc::SO_RCVBUF)), (Ok(0), 20_000));
    assert_eq!((set(libc::SO_PRIORITY, 3), option(fd, libc::SO_PRIORITY)), (Ok(0), 3));
    assert_eq!(option(fd, libc::SO_RCVLOWAT), 1);
    assert_eq!(set(libc::SO_TYPE, 1), Err(libc::ENOPROTOOPT));
    assert_eq!(set(9999, 1), Err(libc::ENOPROTOOPT));
    assert_eq!(sys!(setsockopt, fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &raw const fd, 3), Err(libc::EINVAL));
    assert_eq!(sys!(setsockopt, fd, libc::IPPROTO_TCP, 1, &raw const fd, 4), Err(libc::EOPNOTSUPP));
    let linger = [1_i32, 9];
    assert_eq!(sys!(setsockopt, fd, libc::SOL_SOCKET, libc::SO_LINGER, linger.as_ptr(), 8), Ok(0));
    let (mut told, mut len) = ([0_i32; 2], 8_i32);
    assert_eq!(sys!(getsockopt, fd, libc::SOL_SOCKET, libc::SO_LINGER, told.as_mut_ptr(), &raw mut len), Ok(0));
    assert_eq!(told, linger);
}

#[test]
fn timeouts_end_a_wait() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let span = Duration::from_millis(60);
    b.set_read_timeout(Some(span)).unwrap();
    assert_eq!(b.read_timeout().unwrap(), Some(span));
    let since = Instant::now();
    assert_eq!(b.read(&mut [0; 4]).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    assert!(since.elapsed() >= span);
    let mut byte = [0_u8];
    assert_eq!(sys!(recvfrom, b.as_raw_fd(), byte.as_mut_ptr(), 1, 0, 0, 0), Err(libc::EAGAIN));
    let bad = [0_i64, 1_000_000];
    let set = sys!(setsockopt, a.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, bad.as_ptr(), 16);
    assert_eq!(set, Err(libc::EDOM));
}

#[test]
fn permissions_guard_a_path() {
    let dir = Dir::new("guard");
    let path = dir.path("closed");
    let _listener = UnixListener::bind(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o555);
    std::fs::set_permissions(&path, mode).unwrap();
    let bytes = address(&path);
    in_child(|| {
        if sys!(geteuid) == Ok(0) && sys!(setuid, 65_534) != Ok(0) {
            return 1;
        }
        steps(&[connect(&socket(libc::SOCK_STREAM), &bytes) == Err(libc::EACCES)])
    });
}

#[test]
fn a_sandboxed_flood_of_descriptors_ends() {
    let status = fork_status(|| {
        let limit = [64_u64, 64];
        if sys!(setrlimit, libc::RLIMIT_NOFILE, limit.as_ptr()) != Ok(0)
            || sys!(setresuid, 65_534, 65_534, 65_534).is_err()
        {
            // Not root: as ourselves.
        }
        let (a, b) = UnixDatagram::pair().unwrap();
        let _ = a.set_nonblocking(true);
        let (a, b) = (a.as_raw_fd(), b.as_raw_fd());
        for _ in 0..500 {
            match send_message(a, b"x", &rights(&[b; 10])) {
                Ok(_) => {}
                Err(libc::ETOOMANYREFS | libc::EAGAIN) => return 0,
                Err(_) => return 2,
            }
        }
        3
    });
    assert_eq!(status, 0);
}

#[test]
fn only_what_there_is_can_be_claimed() {
    if !is_root() {
        return;
    }
    let (a, _b) = UnixDatagram::pair().unwrap();
    let own = u32::try_from(sys!(getpid).unwrap()).unwrap();
    let claim = |cred: [u32; 3]| {
        let bytes: Vec<u8> = cred.iter().flat_map(|word| word.to_ne_bytes()).collect();
        send_message(a.as_raw_fd(), b"x", &control(libc::SCM_CREDENTIALS, &bytes))
    };
    assert_eq!(claim([1, 1, 1]), Ok(1));
    for nobody in [0, u32::MAX, 0x3fff_ffff] {
        assert_eq!(claim([nobody, 0, 0]), Err(libc::ESRCH), "{nobody}");
    }
    assert_eq!(claim([own, u32::MAX, 0]), Err(libc::EINVAL));
    assert_eq!(claim([own, 0, u32::MAX]), Err(libc::EINVAL));
}

#[test]
fn a_connection_waits_for_a_descriptor() {
    let name = abstract_name("room");
    let listener = UnixListener::bind_addr(&name).unwrap();
    let _client = UnixStream::connect_addr(&name).unwrap();
    listener.set_nonblocking(true).unwrap();
    let fd = listener.as_raw_fd();
    in_child(|| {
        let full = [0_u64, 4096];
        let room = [4096_u64, 4096];
        steps(&[
            sys!(setrlimit, libc::RLIMIT_NOFILE, full.as_ptr()) == Ok(0),
            sys!(accept, fd, 0, 0) == Err(libc::EMFILE),
            sys!(setrlimit, libc::RLIMIT_NOFILE, room.as_ptr()) == Ok(0),
            sys!(accept, fd, 0, 0).is_ok(),
            sys!(accept, fd, 0, 0) == Err(libc::EAGAIN),
        ])
    });
}
