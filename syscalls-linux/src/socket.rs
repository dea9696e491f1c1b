//! Sockets: the connected pairs of `socketpair(2)`. Every other family is one that this kernel is built without.

use std::mem::offset_of;
use std::sync::Arc;

use abi::Errno;
use abi::socket::{
    AF_UNIX, Mmsghdr, MsgFlags, Msghdr, SHUT_RD, SHUT_RDWR, SHUT_WR, SO_ACCEPTCONN, SO_DOMAIN, SO_ERROR, SO_PEERCRED,
    SO_PROTOCOL, SO_RCVBUF, SO_SNDBUF, SO_TYPE, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOCK_TYPE_MASK,
    SOCKADDR_STORAGE_SIZE, SOL_SOCKET, SockFlags, Ucred,
};
use abi::time::Timespec;
use fs::vfs::File;
use kernel::error::SysErr;
use kernel::fdtable::CloseOnExec;
use kernel::signal::Signal;
use kernel::socket::unix::{Kind, Maker, Received, Shutdown, Socket, Take, pair};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Patience, Task};
use usermem::Addr;
use usermem::bytes::{IoDst, IoSrc};
use waiter::EventMask;

use crate::args::{Fd, Flags, InBuf, InOut, Out, OutBuf};
use crate::mem;
use crate::time::{deadline_after, timespec_until};

/// Most messages of one call.
const MAX_MESSAGES: u32 = 1024;

syscalls! {
    pub(crate) const ROWS;

    /// Makes a socket.
    socket [41, 198] Unsupported(EAFNOSUPPORT, "no address family but the pairs of socketpair yet")(Int, Hex, Int);
    /// Makes a connected pair of UNIX sockets.
    socketpair [53, 199] Partial("no descriptors in messages");
    /// Gives a socket an address.
    bind [49, 200] Partial("on pairs: EINVAL");
    /// Connects a socket.
    connect [42, 203] Partial("on pairs: EISCONN");
    /// Makes a socket accept connections.
    listen [50, 201] Partial("on pairs: EINVAL");
    /// Accepts a connection.
    accept [43, 202] Partial("on pairs: EINVAL");
    /// Accepts a connection, with flags.
    accept4 [288, 242] Partial("on pairs: EINVAL");
    /// The socket's own address.
    getsockname [51, 204] Partial("of pairs");
    /// The other end's address.
    getpeername [52, 205] Partial("of pairs");
    /// Sends a message.
    sendto [44, 206] Partial("on pairs");
    /// Receives a message.
    recvfrom [45, 207] Partial("on pairs");
    /// Sends a message from several buffers.
    sendmsg [46, 211] Partial("on pairs, without control messages");
    /// Receives a message into several buffers.
    recvmsg [47, 212] Partial("on pairs, without control messages");
    /// Sends several messages.
    sendmmsg [307, 269] Partial("on pairs, without control messages");
    /// Receives several messages.
    recvmmsg [299, 243] Partial("on pairs, without control messages");
    /// Ends one or both halves of a connection.
    shutdown [48, 210] Full("ipc::socket_pairs_carry_both_ways_and_shut_down");
    /// Gets a socket option.
    getsockopt [55, 209] Partial("those of pairs");
    /// Sets a socket option.
    setsockopt [54, 208] Partial("those of pairs, without effect");
}

/// The file and the socket behind a descriptor: `EBADF`, `ENOTSOCK`.
fn socket_of(task: &Task, fd: Fd) -> Result<(Arc<File>, Arc<Socket>), Errno> {
    let file = task.fd(fd.0)?;
    let socket = Socket::of(&file)?;
    Ok((file, socket))
}

/// `socketpair(2)`.
fn socketpair(task: &mut Task, domain: i32, kind: u32, protocol: i32, fds: Out<[i32; 2]>) -> Result<(), Errno> {
    let flags = SockFlags::from_bits(kind & !SOCK_TYPE_MASK).ok_or(Errno::EINVAL)?;
    // The numbers are stored before there is a socket.
    fds.write(task, &[-1, -1])?;
    if domain != i32::from(AF_UNIX) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if protocol != 0 && protocol != domain {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let kind = match kind & SOCK_TYPE_MASK {
        SOCK_STREAM => Kind::Stream,
        SOCK_DGRAM => Kind::Datagram,
        SOCK_SEQPACKET => Kind::SeqPacket,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    let creds = task.creds();
    let (first, second) = pair(kind, Maker { pid: task.pid().raw(), uid: creds.euid, gid: creds.egid });
    if flags.contains(SockFlags::SOCK_NONBLOCK) {
        first.set_flags(abi::fs::OpenFlags::O_NONBLOCK)?;
        second.set_flags(abi::fs::OpenFlags::O_NONBLOCK)?;
    }
    let cloexec = if flags.contains(SockFlags::SOCK_CLOEXEC) { CloseOnExec::Yes } else { CloseOnExec::No };
    crate::fd::install_pair(task, [first, second], cloexec, &fds)
}

/// The bytes of a socket's address.
fn address(task: &Task, addr: Addr, len: i32) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(len).ok().filter(|&len| len <= SOCKADDR_STORAGE_SIZE).ok_or(Errno::EINVAL)?;
    mem::read_bytes(task, addr, len)
}

/// `bind(2)`: a connected socket has its address for good.
fn bind(task: &mut Task, fd: Fd, addr: Addr, len: i32) -> Result<(), Errno> {
    socket_of(task, fd)?;
    address(task, addr, len)?;
    Err(Errno::EINVAL)
}

/// `connect(2)`.
fn connect(task: &mut Task, fd: Fd, addr: Addr, len: i32) -> Result<(), Errno> {
    task.fd(fd.0)?;
    let address = address(task, addr, len)?;
    socket_of(task, fd)?;
    if address.len() <= 2 || !address.starts_with(&AF_UNIX.to_le_bytes()) {
        return Err(Errno::EINVAL);
    }
    Err(Errno::EISCONN)
}

/// `listen(2)`: what only connected packets or pairs answer.
fn listen(task: &mut Task, fd: Fd, _backlog: i32) -> Result<(), Errno> {
    let (_, socket) = socket_of(task, fd)?;
    Err(if socket.kind() == Kind::Datagram { Errno::EOPNOTSUPP } else { Errno::EINVAL })
}

/// `accept(2)`.
fn accept(task: &mut Task, fd: Fd, addr: Addr, len: Addr) -> Result<(), Errno> {
    accept4(task, fd, addr, len, 0)
}

/// `accept4(2)`: nothing here listens.
fn accept4(task: &mut Task, fd: Fd, _addr: Addr, _len: Addr, flags: u32) -> Result<(), Errno> {
    task.fd(fd.0)?;
    if SockFlags::from_bits(flags).is_none() {
        return Err(Errno::EINVAL);
    }
    let (_, socket) = socket_of(task, fd)?;
    Err(if socket.kind() == Kind::Datagram { Errno::EOPNOTSUPP } else { Errno::EINVAL })
}

/// Stores the address of an unnamed UNIX socket: its family alone.
fn unnamed_address(task: &Task, addr: Addr, len: &InOut<i32>) -> Result<(), Errno> {
    let room = usize::try_from(len.read(task)?).map_err(|_| Errno::EINVAL)?;
    let family = AF_UNIX.to_le_bytes();
    mem::write_bytes(task, addr, family.get(..room).unwrap_or(&family))?;
    len.write(task, &2)
}

/// `getsockname(2)`.
fn getsockname(task: &mut Task, fd: Fd, addr: Addr, len: InOut<i32>) -> Result<(), Errno> {
    socket_of(task, fd)?;
    unnamed_address(task, addr, &len)
}

/// `getpeername(2)`.
fn getpeername(task: &mut Task, fd: Fd, addr: Addr, len: InOut<i32>) -> Result<(), Errno> {
    socket_of(task, fd)?;
    unnamed_address(task, addr, &len)
}

fn patience(file: &File, flags: MsgFlags) -> Patience {
    if flags.contains(MsgFlags::MSG_DONTWAIT) { Patience::None } else { Patience::of(file) }
}

/// Sends all of `src`, or what a socket that does not wait takes.
fn send(task: &mut Task, fd: Fd, src: &mut dyn IoSrc, flags: MsgFlags) -> SysResult<usize> {
    let (file, socket) = socket_of(task, fd)?;
    if flags.contains(MsgFlags::MSG_OOB) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut done: usize = 0;
    loop {
        let patience = patience(&file, flags);
        let sent =
            task.retry_blocking(&file, EventMask::OUT, patience, None, |_| socket.send(src).map_err(SysErr::from));
        match sent {
            Ok(n) => done = done.saturating_add(n),
            Err(_) if done > 0 => return Ok(done),
            Err(error) => {
                if matches!(error, SysErr::Errno(Errno::EPIPE)) && !flags.contains(MsgFlags::MSG_NOSIGNAL) {
                    task.raise(Signal::PIPE);
                }
                return Err(error);
            }
        }
        if socket.kind() != Kind::Stream || src.remaining() == 0 {
            return Ok(done);
        }
    }
}

/// Receives once, or with `MSG_WAITALL` until `dst` is full.
fn receive(task: &mut Task, fd: Fd, dst: &mut dyn IoDst, flags: MsgFlags) -> SysResult<Received> {
    let (file, socket) = socket_of(task, fd)?;
    if flags.contains(MsgFlags::MSG_OOB) {
        // Streams could have such data, and have none.
        return Err(if socket.kind() == Kind::Stream { Errno::EINVAL } else { Errno::EOPNOTSUPP }.into());
    }
    if flags.contains(MsgFlags::MSG_ERRQUEUE) {
        return Err(Errno::EAGAIN.into());
    }
    let take = if flags.contains(MsgFlags::MSG_PEEK) { Take::Peek } else { Take::Consume };
    let all = flags.contains(MsgFlags::MSG_WAITALL) && socket.kind() == Kind::Stream && take == Take::Consume;
    let mut total = Received { copied: 0, packet: 0 };
    loop {
        let got = task.retry_blocking(&file, EventMask::IN, patience(&file, flags), None, |_| {
            socket.receive(dst, take).map_err(SysErr::from)
        });
        match got {
            Ok(got) => {
                total.copied = total.copied.saturating_add(got.copied);
                total.packet = total.packet.saturating_add(got.packet);
                if !all || got.copied == 0 || dst.remaining() == 0 {
                    return Ok(total);
                }
            }
            Err(_) if total.copied > 0 => return Ok(total),
            Err(error) => return Err(error),
        }
    }
}

/// `sendto(2)`: a connected pair takes no address.
fn sendto(
    task: &mut Task,
    fd: Fd,
    buf: InBuf,
    len: u64,
    flags: Flags<MsgFlags>,
    addr: Addr,
    addr_len: i32,
) -> SysResult<usize> {
    let (_, socket) = socket_of(task, fd)?;
    if addr.0 != 0 && addr_len != 0 && socket.kind() != Kind::SeqPacket {
        return Err(Errno::EISCONN.into());
    }
    let mm = Arc::clone(task.mm());
    let mut src = mem::src(&mm, buf.0, len)?;
    send(task, fd, &mut src, flags.0)
}

/// The length that a receive answers: with `MSG_TRUNC` the packet's own.
fn received_len(received: Received, flags: MsgFlags) -> usize {
    if flags.contains(MsgFlags::MSG_TRUNC) { received.packet.max(received.copied) } else { received.copied }
}

/// `recvfrom(2)`.
fn recvfrom(
    task: &mut Task,
    fd: Fd,
    buf: OutBuf,
    len: u64,
    flags: Flags<MsgFlags>,
    addr: Addr,
    addr_len: InOut<i32>,
) -> SysResult<usize> {
    let mm = Arc::clone(task.mm());
    let mut dst = mem::dst(&mm, buf.0, len)?;
    let received = receive(task, fd, &mut dst, flags.0)?;
    if addr.0 != 0 && !addr_len.is_null() {
        addr_len.write(task, &0)?;
    }
    Ok(received_len(received, flags.0))
}

/// `sendmsg(2)`.
fn sendmsg(task: &mut Task, fd: Fd, header: crate::args::In<Msghdr>, flags: Flags<MsgFlags>) -> SysResult<usize> {
    let header = header.read(task)?;
    send_message(task, fd, &header, flags.0)
}

/// What `sendmsg(2)` does with one message.
fn send_message(task: &mut Task, fd: Fd, header: &Msghdr, flags: MsgFlags) -> SysResult<usize> {
    let (_, socket) = socket_of(task, fd)?;
    if header.msg_name != 0 && header.msg_namelen != 0 && socket.kind() != Kind::SeqPacket {
        return Err(Errno::EISCONN.into());
    }
    if header.msg_controllen != 0 {
        return Err(Errno::EINVAL.into());
    }
    if header.msg_iovlen > abi::fs::UIO_MAXIOV as u64 {
        return Err(Errno::EMSGSIZE.into());
    }
    let mm = Arc::clone(task.mm());
    let mut src = mem::src_vec(task, &mm, Addr(header.msg_iov), header.msg_iovlen)?;
    send(task, fd, &mut src, flags)
}

/// The messages of `sendmmsg(2)` and `recvmmsg(2)`: each is a header, and a word for its length.
fn message_at(messages: Addr, index: u32) -> Result<Addr, Errno> {
    messages.checked_add(u64::from(index) * size_of::<Mmsghdr>() as u64).ok_or(Errno::EFAULT)
}

/// Stores the length of a message.
fn store_length(task: &Task, at: Addr, len: usize) -> Result<(), Errno> {
    let at = at.checked_add(offset_of!(Mmsghdr, msg_len) as u64).ok_or(Errno::EFAULT)?;
    mem::write(task, at, &u32::try_from(len).unwrap_or(u32::MAX))
}

/// `sendmmsg(2)`: an error after the first message ends the call with the count.
fn sendmmsg(task: &mut Task, fd: Fd, messages: Addr, count: u32, flags: Flags<MsgFlags>) -> SysResult<u32> {
    socket_of(task, fd)?;
    for done in 0..count.min(MAX_MESSAGES) {
        let sent = message_at(messages, done).map_err(SysErr::from).and_then(|at| {
            let header: Msghdr = mem::read(task, at)?;
            let len = send_message(task, fd, &header, flags.0)?;
            Ok(store_length(task, at, len)?)
        });
        match sent {
            Ok(()) if !task.has_pending_signal() => {}
            Ok(()) => return Ok(done.saturating_add(1)),
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        }
    }
    Ok(count.min(MAX_MESSAGES))
}

/// `recvmmsg(2)`: the timeout is looked at after each message, as on Linux.
fn recvmmsg(
    task: &mut Task,
    fd: Fd,
    messages: Addr,
    count: u32,
    flags: Flags<MsgFlags>,
    timeout: InOut<Timespec>,
) -> SysResult<u32> {
    let deadline = timeout.read_opt(task)?.map(deadline_after).transpose()?;
    socket_of(task, fd)?;
    let Flags(mut flags) = flags;
    let mut done = 0;
    while done < count.min(MAX_MESSAGES) {
        let got = message_at(messages, done).map_err(SysErr::from).and_then(|at| {
            let mut header: Msghdr = mem::read(task, at)?;
            let len = receive_message(task, fd, &mut header, flags)?;
            mem::write(task, at, &header)?;
            Ok(store_length(task, at, len)?)
        });
        match got {
            Ok(()) => done = done.saturating_add(1),
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        if flags.contains(MsgFlags::MSG_WAITFORONE) {
            flags |= MsgFlags::MSG_DONTWAIT;
        }
        if deadline.is_some_and(|deadline| sync::monotonic_now_ns() >= deadline) || task.has_pending_signal() {
            break;
        }
    }
    if let Some(deadline) = deadline {
        timeout.write(task, &timespec_until(deadline))?;
    }
    Ok(done)
}

/// `recvmsg(2)`.
fn recvmsg(task: &mut Task, fd: Fd, pointer: InOut<Msghdr>, flags: Flags<MsgFlags>) -> SysResult<usize> {
    let mut header = pointer.read(task)?;
    let len = receive_message(task, fd, &mut header, flags.0)?;
    pointer.write(task, &header)?;
    Ok(len)
}

/// What `recvmsg(2)` does with one message.
fn receive_message(task: &mut Task, fd: Fd, header: &mut Msghdr, flags: MsgFlags) -> SysResult<usize> {
    if header.msg_iovlen > abi::fs::UIO_MAXIOV as u64 {
        return Err(Errno::EMSGSIZE.into());
    }
    let mm = Arc::clone(task.mm());
    let mut dst = mem::dst_vec(task, &mm, Addr(header.msg_iov), header.msg_iovlen)?;
    let received = receive(task, fd, &mut dst, flags)?;
    let mut answer = flags & MsgFlags::MSG_CMSG_CLOEXEC;
    answer.set(MsgFlags::MSG_TRUNC, received.packet > received.copied);
    header.msg_flags = answer.bits();
    header.msg_namelen = 0;
    header.msg_controllen = 0;
    Ok(received_len(received, flags))
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

/// `getsockopt(2)`.
fn getsockopt(task: &mut Task, fd: Fd, level: i32, name: i32, value: Addr, len: InOut<i32>) -> Result<(), Errno> {
    let (_, socket) = socket_of(task, fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let room = usize::try_from(len.read(task)?).map_err(|_| Errno::EINVAL)?;
    let number = |value: i32| value.to_le_bytes().to_vec();
    let capacity = i32::try_from(socket.capacity()).unwrap_or(i32::MAX);
    let answer = match name {
        SO_TYPE => number(match socket.kind() {
            Kind::Stream => 1,
            Kind::Datagram => 2,
            Kind::SeqPacket => 5,
        }),
        SO_DOMAIN => number(i32::from(AF_UNIX)),
        SO_PROTOCOL | SO_ERROR | SO_ACCEPTCONN => number(0),
        SO_SNDBUF | SO_RCVBUF => number(capacity),
        SO_PEERCRED => {
            let maker = socket.maker();
            let cred = Ucred { pid: maker.pid, uid: maker.uid.0, gid: maker.gid.0 };
            zerocopy::IntoBytes::as_bytes(&cred).to_vec()
        }
        _ => return Err(Errno::ENOPROTOOPT),
    };
    let cut = answer.get(..room).unwrap_or(&answer);
    mem::write_bytes(task, value, cut)?;
    len.write(task, &i32::try_from(cut.len()).unwrap_or(0))
}

/// `setsockopt(2)`: buffer sizes are fixed; a request for others is accepted as one that is clamped.
fn setsockopt(task: &mut Task, fd: Fd, level: i32, name: i32, value: Addr, len: i32) -> Result<(), Errno> {
    socket_of(task, fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    if len < 4 {
        return Err(Errno::EINVAL);
    }
    let _: i32 = mem::read(task, value)?;
    match name {
        SO_SNDBUF | SO_RCVBUF => Ok(()),
        _ => Err(Errno::ENOPROTOOPT),
    }
}
