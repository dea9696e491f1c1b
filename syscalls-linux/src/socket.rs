//! Sockets of one's own: making, naming, connecting and ending them. Messages are in [`crate::sockmsg`], options in
//! [`crate::sockopt`]. Every family but AF_UNIX is one that this kernel is built without.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use abi::socket::{
    AF_UNIX, AF_UNSPEC, SHUT_RD, SHUT_RDWR, SHUT_WR, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, SOCK_TYPE_MASK,
    SOCKADDR_STORAGE_SIZE, SockFlags,
};
use fs::vfs::{At, File};
use kernel::error::{Restart, SysErr};
use kernel::fdtable::CloseOnExec;
use kernel::signal::Signal;
use kernel::socket::unix::{Address, Direction, Given, Kind, Maker, Shutdown, Socket, encode};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Patience, Task};
use usermem::Addr;
use waiter::EventMask;

use crate::args::{Fd, InOut, NewFd, Out};
use crate::mem;
use crate::time::deadline_after_ns;

syscalls! {
    pub(crate) const ROWS;

    /// Makes a socket.
    socket [41, 198] Partial("of the family AF_UNIX");
    /// Makes a connected pair of UNIX sockets.
    socketpair [53, 199] Full("sockets::pairs_are_made_as_asked");
    /// Gives a socket an address.
    bind [49, 200] Full("unix::names_are_bound_once");
    /// Connects a socket.
    connect [42, 203] Full("unix::connecting_fails_as_it_should");
    /// Makes a socket accept connections.
    listen [50, 201] Full("unix::a_backlog_fills_and_empties");
    /// Accepts a connection.
    accept [43, 202] Full("unix::streams_connect_by_path");
    /// Accepts a connection, with flags.
    accept4 [288, 242] Full("unix::streams_connect_by_path");
    /// The socket's own address.
    getsockname [51, 204] Full("unix::streams_connect_by_path");
    /// The other end's address.
    getpeername [52, 205] Full("unix::streams_connect_by_path");
    /// Ends one or both halves of a connection.
    shutdown [48, 210] Full("ipc::socket_pairs_carry_both_ways_and_shut_down");
}

/// The file and the socket behind a descriptor: `EBADF`, `ENOTSOCK`.
pub(crate) fn socket_of(task: &Task, fd: Fd) -> Result<(Arc<File>, Arc<Socket>), Errno> {
    let file = task.fd(fd.0)?;
    let socket = Socket::of(&file)?;
    Ok((file, socket))
}

/// The caller, as the other end is told of it.
fn maker(task: &Task) -> Maker {
    Maker { pid: task.pid().raw(), creds: Arc::clone(task.creds()) }
}

/// Kind and flags in the second argument of `socket(2)`, for the family `domain`.
fn kind_of(domain: i32, kind: u32, protocol: i32) -> Result<(Kind, SockFlags), Errno> {
    let flags = SockFlags::from_bits(kind & !SOCK_TYPE_MASK).ok_or(Errno::EINVAL)?;
    if domain != i32::from(AF_UNIX) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if protocol != 0 && protocol != domain {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let kind = match kind & SOCK_TYPE_MASK {
        SOCK_STREAM => Kind::Stream,
        // unix(7): raw sockets are datagram sockets here.
        SOCK_DGRAM | SOCK_RAW => Kind::Datagram,
        SOCK_SEQPACKET => Kind::SeqPacket,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    Ok((kind, flags))
}

fn cloexec(flags: SockFlags) -> CloseOnExec {
    if flags.contains(SockFlags::SOCK_CLOEXEC) { CloseOnExec::Yes } else { CloseOnExec::No }
}

fn set_nonblocking(file: &File, flags: SockFlags) -> Result<(), Errno> {
    if flags.contains(SockFlags::SOCK_NONBLOCK) { file.set_flags(OpenFlags::O_NONBLOCK) } else { Ok(()) }
}

/// `socket(2)`.
fn socket(task: &mut Task, domain: i32, kind: u32, protocol: i32) -> Result<NewFd, Errno> {
    let (kind, flags) = kind_of(domain, kind, protocol)?;
    let file = Socket::create(task.kernel().unix_sockets(), kind, task.creds());
    set_nonblocking(&file, flags)?;
    crate::fd::install(task, file, cloexec(flags))
}

/// `socketpair(2)`.
fn socketpair(task: &mut Task, domain: i32, kind: u32, protocol: i32, fds: Out<[i32; 2]>) -> Result<(), Errno> {
    SockFlags::from_bits(kind & !SOCK_TYPE_MASK).ok_or(Errno::EINVAL)?;
    // The numbers are stored before there is a socket.
    fds.write(task, &[-1, -1])?;
    let (kind, flags) = kind_of(domain, kind, protocol)?;
    let (first, second) = Socket::pair(task.kernel().unix_sockets(), kind, &maker(task));
    set_nonblocking(&first, flags)?;
    set_nonblocking(&second, flags)?;
    crate::fd::install_pair(task, [first, second], cloexec(flags), &fds)
}

/// The bytes of a socket's address.
pub(crate) fn address(task: &Task, addr: Addr, len: i32) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(len).ok().filter(|&len| len <= SOCKADDR_STORAGE_SIZE).ok_or(Errno::EINVAL)?;
    mem::read_bytes(task, addr, len)
}

/// Stores an address, or as much as there is room for, and its whole length.
pub(crate) fn store_address(task: &Task, name: Option<&Address>, addr: Addr, len: &InOut<i32>) -> Result<(), Errno> {
    let room = usize::try_from(len.read(task)?).map_err(|_| Errno::EINVAL)?;
    let bytes = encode(name);
    mem::write_bytes(task, addr, bytes.get(..room).unwrap_or(&bytes))?;
    len.write(task, &i32::try_from(bytes.len()).unwrap_or(0))
}

/// Calls `f` with a walk from the working directory, where socket paths start.
fn at_cwd<T>(task: &Task, f: impl FnOnce(&At<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
    let (root, start) = (task.fs().root(), task.fs().cwd());
    let ctx = task.fs_context();
    f(&At::new(&ctx, &root, &start))
}

/// The socket that `name` names for `socket`.
pub(crate) fn find(task: &Task, socket: &Socket, name: &Address) -> Result<Arc<Socket>, Errno> {
    at_cwd(task, |at| socket.find(at, name))
}

/// Gives a socket a name that is free, unless it has one.
pub(crate) fn bind_anywhere(task: &Task, socket: &Arc<Socket>) -> Result<(), Errno> {
    let mut seed = [0; 4];
    task.kernel().fill_random(&mut seed);
    socket.bind_anywhere(u32::from_ne_bytes(seed))
}

/// As [`bind_anywhere`], for a socket that is asked for its credentials and must have a name for answers.
pub(crate) fn bind_if_asked(task: &Task, socket: &Arc<Socket>) -> Result<(), Errno> {
    if socket.passes_credentials() && socket.name().is_none() { bind_anywhere(task, socket) } else { Ok(()) }
}

/// `bind(2)`.
fn bind(task: &mut Task, fd: Fd, addr: Addr, len: i32) -> Result<(), Errno> {
    let (_, socket) = socket_of(task, fd)?;
    match Given::decode(&address(task, addr, len)?)? {
        Given::Family => bind_anywhere(task, &socket),
        Given::Name(name) => at_cwd(task, |at| socket.bind(at, name)),
    }
}

/// When a wait of a socket in this direction ends (SO_RCVTIMEO, SO_SNDTIMEO).
pub(crate) fn deadline(socket: &Socket, direction: Direction) -> Option<u64> {
    match socket.options().timeout_ns(direction) {
        0 => None,
        ns => Some(deadline_after_ns(ns)),
    }
}

/// signal(7): a wait with a timeout is not restarted.
pub(crate) fn not_restarted<T>(result: SysResult<T>, deadline: Option<u64>) -> SysResult<T> {
    match result {
        Err(SysErr::Restart(Restart::Sys)) if deadline.is_some() => Err(Errno::EINTR.into()),
        result => result,
    }
}

/// SIGPIPE for a write that nobody reads, after `done` bytes. Of sockets, streams raise it, and only for the first byte.
pub(crate) fn tell_of_broken_pipe(task: &mut Task, file: &File, done: usize, error: &SysErr) {
    let raises = Socket::of(file).map_or(true, |socket| socket.kind() == Kind::Stream && done == 0);
    if raises && matches!(error, SysErr::Errno(Errno::EPIPE)) {
        task.raise(Signal::PIPE);
    }
}

/// `connect(2)`.
fn connect(task: &mut Task, fd: Fd, addr: Addr, len: i32) -> SysResult<()> {
    task.fd(fd.0)?;
    let address = address(task, addr, len)?;
    let (file, socket) = socket_of(task, fd)?;
    if socket.kind() == Kind::Datagram && address.len() >= 2 && address.starts_with(&AF_UNSPEC.to_ne_bytes()) {
        return Ok(socket.disconnect()?);
    }
    let name = Given::decode(&address)?.name()?;
    bind_if_asked(task, &socket)?;
    let maker = maker(task);
    let deadline = deadline(&socket, Direction::Send);
    let result = task.retry_blocking(&file, EventMask::OUT | EventMask::HUP, Patience::of(&file), deadline, |task| {
        // Looked up each time: who was full may have closed.
        let other = find(task, &socket, &name)?;
        Ok(socket.connect(&other, &maker)?)
    });
    not_restarted(result, deadline)
}

/// `listen(2)`.
fn listen(task: &mut Task, fd: Fd, backlog: i32) -> Result<(), Errno> {
    let (_, socket) = socket_of(task, fd)?;
    socket.listen(backlog, maker(task))
}

/// `accept(2)`.
fn accept(task: &mut Task, fd: Fd, addr: Addr, len: InOut<i32>) -> SysResult<NewFd> {
    accept4(task, fd, addr, len, 0)
}

/// `accept4(2)`.
fn accept4(task: &mut Task, fd: Fd, addr: Addr, len: InOut<i32>, flags: u32) -> SysResult<NewFd> {
    task.fd(fd.0)?;
    let flags = SockFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let (file, socket) = socket_of(task, fd)?;
    // Before a connection is taken, which would be lost.
    task.fds().check_room(task.nofile())?;
    let deadline = deadline(&socket, Direction::Receive);
    let accepted = task.retry_blocking(&file, EventMask::IN, Patience::of(&file), deadline, |_| Ok(socket.accept()?));
    let accepted = not_restarted(accepted, deadline)?;
    set_nonblocking(&accepted, flags)?;
    if addr.0 != 0 {
        let name = Socket::of(&accepted)?.peer_name().unwrap_or(None);
        store_address(task, name.as_ref(), addr, &len)?;
    }
    Ok(crate::fd::install(task, accepted, cloexec(flags))?)
}

/// `getsockname(2)`.
fn getsockname(task: &mut Task, fd: Fd, addr: Addr, len: InOut<i32>) -> Result<(), Errno> {
    let (_, socket) = socket_of(task, fd)?;
    store_address(task, socket.name().as_ref(), addr, &len)
}

/// `getpeername(2)`.
fn getpeername(task: &mut Task, fd: Fd, addr: Addr, len: InOut<i32>) -> Result<(), Errno> {
    let (_, socket) = socket_of(task, fd)?;
    store_address(task, socket.peer_name()?.as_ref(), addr, &len)
}

/// `shutdown(2)`.
fn shutdown(task: &mut Task, fd: Fd, how: u32) -> Result<(), Errno> {
    let (_, socket) = socket_of(task, fd)?;
    socket.shutdown(match how {
        SHUT_RD => Shutdown::Read,
        SHUT_WR => Shutdown::Write,
        SHUT_RDWR => Shutdown::Both,
        _ => return Err(Errno::EINVAL),
    });
    Ok(())
}
