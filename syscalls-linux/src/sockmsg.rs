//! Messages of sockets: sending and receiving them, and what comes with them (`unix(7)`, `cmsg(3)`).

use std::mem::offset_of;
use std::sync::Arc;

use abi::Errno;
use abi::socket::{
    Cmsghdr, Mmsghdr, MsgFlags, Msghdr, SCM_CREDENTIALS, SCM_MAX_FD, SCM_RIGHTS, SOCKADDR_STORAGE_SIZE, SOL_SOCKET,
    Ucred,
};
use abi::time::Timespec;
use auth::{Caps, Gid, Uid};
use fs::vfs::File;
use kernel::error::SysErr;
use kernel::fdtable::CloseOnExec;
use kernel::rlimit::Resource;
use kernel::socket::unix::{
    Address, Allowance, Destination, Direction, Given, Kind, Outgoing, Received, Rights, Sender, Socket, Take, encode,
};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Patience, Pid, Task};
use usermem::Addr;
use usermem::bytes::{IoDst, IoSrc};
use waiter::EventMask;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::args::{Fd, Flags, InBuf, InOut, OutBuf};
use crate::mem;
use crate::socket::{
    address, bind_if_asked, deadline, find, not_restarted, socket_of, store_address, tell_of_broken_pipe,
};
use crate::time::{deadline_after, timespec_until};

syscalls! {
    pub(crate) const ROWS;

    /// Sends a message.
    sendto [44, 206] Full("unix::datagrams_go_where_they_are_sent");
    /// Receives a message.
    recvfrom [45, 207] Full("unix::datagrams_go_where_they_are_sent");
    /// Sends a message from several buffers.
    sendmsg [46, 211] Full("unix::descriptors_travel");
    /// Receives a message into several buffers.
    recvmsg [47, 212] Full("unix::descriptors_travel");
    /// Sends several messages.
    sendmmsg [307, 269] Full("sockets::several_messages_at_once");
    /// Receives several messages.
    recvmmsg [299, 243] Full("sockets::several_messages_at_once");
}

/// Most messages of one call.
const MAX_MESSAGES: u32 = 1024;
/// Most bytes of control messages, `net.core.optmem_max`.
const MAX_CONTROL: u64 = 131_072;
/// Bytes of a control message's header, and what each is padded to.
const CMSG: usize = size_of::<Cmsghdr>();
const CMSG_ALIGN: usize = 8;

fn patience(file: &File, flags: MsgFlags) -> Patience {
    if flags.contains(MsgFlags::MSG_DONTWAIT) { Patience::None } else { Patience::of(file) }
}

/// What is sent besides the bytes, as it was asked for.
struct Ancillary {
    sender: Sender,
    files: Vec<Arc<File>>,
}

impl Ancillary {
    fn none(task: &Task) -> Self {
        Self { sender: Sender::of(task.pid().raw(), task.creds()), files: Vec::new() }
    }

    /// SCM_CREDENTIALS: one's own ids, or any that there are with the privilege; `EINVAL`, `EPERM`, `ESRCH`.
    fn claim(&mut self, task: &Task, claimed: Ucred) -> Result<(), Errno> {
        let creds = task.creds();
        let own = claimed.pid == task.pid().raw();
        if Uid::from_arg(claimed.uid).is_none() || Gid::from_arg(claimed.gid).is_none() {
            return Err(Errno::EINVAL);
        }
        let pid = own || creds.has(Caps::SYS_ADMIN);
        let uid = [creds.ruid, creds.euid, creds.suid].iter().any(|id| id.0 == claimed.uid) || creds.has(Caps::SETUID);
        let gid = [creds.rgid, creds.egid, creds.sgid].iter().any(|id| id.0 == claimed.gid) || creds.has(Caps::SETGID);
        if !(pid && uid && gid) {
            return Err(Errno::EPERM);
        }
        let known = |pid: i32| Pid::from_raw(pid).is_some_and(|pid| task.kernel().tasks().group(pid).is_some());
        if !own && !known(claimed.pid) {
            return Err(Errno::ESRCH);
        }
        self.sender = Sender { pid: claimed.pid, uid: claimed.uid, gid: claimed.gid };
        Ok(())
    }

    /// The control messages at `addr`: `EINVAL` for what is none.
    fn read(task: &Task, addr: Addr, len: u64) -> Result<Self, Errno> {
        let mut out = Self::none(task);
        if len > MAX_CONTROL {
            return Err(Errno::ENOBUFS);
        }
        let bytes = mem::read_bytes(task, addr, usize::try_from(len).map_err(|_| Errno::ENOBUFS)?)?;
        let mut rest = bytes.as_slice();
        while rest.len() >= CMSG {
            let (header, _) = Cmsghdr::read_from_prefix(rest).map_err(|_| Errno::EINVAL)?;
            let len = usize::try_from(header.cmsg_len).map_err(|_| Errno::EINVAL)?;
            let data = rest.get(CMSG..len).ok_or(Errno::EINVAL)?;
            if header.cmsg_level == SOL_SOCKET {
                out.take(task, header.cmsg_type, data)?;
            }
            rest = rest.get(len.next_multiple_of(CMSG_ALIGN)..).unwrap_or_default();
        }
        Ok(out)
    }

    fn take(&mut self, task: &Task, kind: i32, data: &[u8]) -> Result<(), Errno> {
        match kind {
            SCM_RIGHTS => {
                let most = usize::try_from(SCM_MAX_FD).unwrap_or(0);
                for fd in data.chunks_exact(size_of::<i32>()) {
                    if self.files.len() >= most {
                        return Err(Errno::EINVAL);
                    }
                    let fd = i32::read_from_bytes(fd).map_err(|_| Errno::EINVAL)?;
                    self.files.push(task.fd_or_path(fd)?);
                }
                Ok(())
            }
            SCM_CREDENTIALS => self.claim(task, Ucred::read_from_bytes(data).map_err(|_| Errno::EINVAL)?),
            _ => Err(Errno::EINVAL),
        }
    }

    fn into_message(self, task: &Task, to: Destination) -> Result<Outgoing, Errno> {
        if self.files.is_empty() {
            return Ok(Outgoing { to, sender: self.sender, rights: None });
        }
        let creds = task.creds();
        let privileged = creds.has(Caps::SYS_RESOURCE) || creds.has(Caps::SYS_ADMIN);
        let limit = (!privileged).then(|| task.group().limit(Resource::Nofile).soft);
        let allowance = Allowance { uid: creds.ruid.0, limit };
        let rights = Rights::new(task.kernel().unix_sockets(), self.files, allowance)?;
        Ok(Outgoing { to, sender: self.sender, rights: Some(rights) })
    }
}

/// Where a message goes whose header has this name.
fn destination(task: &Task, socket: &Arc<Socket>, name: &[u8]) -> Result<Destination, Errno> {
    match socket.kind() {
        Kind::Stream if !name.is_empty() => {
            return Err(if socket.peer_name().is_ok() { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        Kind::Datagram if !name.is_empty() => {
            let name = Given::decode(name)?.name()?;
            bind_if_asked(task, socket)?;
            return find(task, socket, &name).map(Destination::Socket);
        }
        Kind::Datagram => bind_if_asked(task, socket)?,
        _ => {}
    }
    Ok(Destination::Peer)
}

/// Sends all of `src`, or what a socket that does not wait takes.
fn send(
    task: &mut Task,
    (file, socket): &(Arc<File>, Arc<Socket>),
    src: &mut dyn IoSrc,
    flags: MsgFlags,
    message: &mut Outgoing,
) -> SysResult<usize> {
    if flags.contains(MsgFlags::MSG_OOB) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let deadline = deadline(socket, Direction::Send);
    let mut done: usize = 0;
    loop {
        let patience = patience(file, flags);
        let sent = task.retry_blocking(file, EventMask::OUT, patience, deadline, |_| {
            socket.send(src, message).map_err(SysErr::from)
        });
        match not_restarted(sent, deadline) {
            Ok(n) => done = done.saturating_add(n),
            Err(_) if done > 0 => return Ok(done),
            Err(error) => {
                if !flags.contains(MsgFlags::MSG_NOSIGNAL) {
                    tell_of_broken_pipe(task, file, done, &error);
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
fn receive(
    task: &mut Task,
    (file, socket): &(Arc<File>, Arc<Socket>),
    dst: &mut dyn IoDst,
    flags: MsgFlags,
) -> SysResult<Received> {
    if flags.contains(MsgFlags::MSG_OOB) {
        // Streams could have such data, and have none.
        return Err(if socket.kind() == Kind::Stream { Errno::EINVAL } else { Errno::EOPNOTSUPP }.into());
    }
    if flags.contains(MsgFlags::MSG_ERRQUEUE) {
        return Err(Errno::EAGAIN.into());
    }
    let take = if flags.contains(MsgFlags::MSG_PEEK) { Take::Peek } else { Take::Consume };
    let all = flags.contains(MsgFlags::MSG_WAITALL) && socket.kind() == Kind::Stream && take == Take::Consume;
    let deadline = deadline(socket, Direction::Receive);
    let mut total = Received::default();
    loop {
        let got = task.retry_blocking(file, EventMask::IN, patience(file, flags), deadline, |_| {
            socket.receive(dst, take).map_err(SysErr::from)
        });
        match not_restarted(got, deadline) {
            Ok(got) => {
                let more = all && got.copied > 0 && got.files.is_empty() && dst.remaining() > 0;
                total.copied = total.copied.saturating_add(got.copied);
                total.packet = total.packet.saturating_add(got.packet);
                total.files.extend(got.files);
                if total.sender.is_none() {
                    total.sender = got.sender;
                    total.from = got.from;
                }
                if !more {
                    return Ok(total);
                }
            }
            Err(_) if total.copied > 0 => return Ok(total),
            Err(error) => return Err(error),
        }
    }
}

/// `sendto(2)`.
fn sendto(
    task: &mut Task,
    fd: Fd,
    buf: InBuf,
    len: u64,
    flags: Flags<MsgFlags>,
    addr: Addr,
    addr_len: i32,
) -> SysResult<usize> {
    let socket = socket_of(task, fd)?;
    let mm = Arc::clone(task.mm());
    let mut src = mem::src(&mm, buf.0, len)?;
    let name = if addr.0 == 0 { Vec::new() } else { address(task, addr, addr_len)? };
    let to = destination(task, &socket.1, &name)?;
    let mut message = Ancillary::none(task).into_message(task, to)?;
    send(task, &socket, &mut src, flags.0, &mut message)
}

/// The length that a receive answers: with `MSG_TRUNC` the packet's own.
fn received_len(received: &Received, flags: MsgFlags) -> usize {
    if flags.contains(MsgFlags::MSG_TRUNC) { received.packet.max(received.copied) } else { received.copied }
}

/// The sender's name as receivers are told it: none has no length.
fn sender_name(name: Option<&Address>) -> Vec<u8> {
    name.map(|name| encode(Some(name))).unwrap_or_default()
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
    let socket = socket_of(task, fd)?;
    let received = receive(task, &socket, &mut dst, flags.0)?;
    if addr.0 != 0 {
        match &received.from {
            Some(name) => store_address(task, Some(name), addr, &addr_len)?,
            None => addr_len.write(task, &0)?,
        }
    }
    Ok(received_len(&received, flags.0))
}

/// `sendmsg(2)`.
fn sendmsg(task: &mut Task, fd: Fd, header: crate::args::In<Msghdr>, flags: Flags<MsgFlags>) -> SysResult<usize> {
    let socket = socket_of(task, fd)?;
    let header = header.read(task)?;
    send_message(task, &socket, &header, flags.0)
}

/// What `sendmsg(2)` does with one message.
fn send_message(
    task: &mut Task,
    socket: &(Arc<File>, Arc<Socket>),
    header: &Msghdr,
    flags: MsgFlags,
) -> SysResult<usize> {
    let name_len = if header.msg_name == 0 { 0 } else { header.msg_namelen };
    let name_len = usize::try_from(name_len).map_err(|_| Errno::EINVAL)?.min(SOCKADDR_STORAGE_SIZE);
    let name = mem::read_bytes(task, Addr(header.msg_name), name_len)?;
    if header.msg_iovlen > abi::fs::UIO_MAXIOV as u64 {
        return Err(Errno::EMSGSIZE.into());
    }
    let mm = Arc::clone(task.mm());
    let mut src = mem::src_vec(task, &mm, Addr(header.msg_iov), header.msg_iovlen)?;
    let ancillary = match header.msg_controllen {
        0 => Ancillary::none(task),
        len => Ancillary::read(task, Addr(header.msg_control), len)?,
    };
    let to = destination(task, &socket.1, &name)?;
    let mut message = ancillary.into_message(task, to)?;
    send(task, socket, &mut src, flags, &mut message)
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
    let socket = socket_of(task, fd)?;
    for done in 0..count.min(MAX_MESSAGES) {
        let sent = message_at(messages, done).map_err(SysErr::from).and_then(|at| {
            let header: Msghdr = mem::read(task, at)?;
            let len = send_message(task, &socket, &header, flags.0)?;
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
    let socket = socket_of(task, fd)?;
    let Flags(mut flags) = flags;
    let mut done = 0;
    while done < count.min(MAX_MESSAGES) {
        let got = message_at(messages, done).map_err(SysErr::from).and_then(|at| {
            let mut header: Msghdr = mem::read(task, at)?;
            let len = receive_message(task, &socket, &mut header, flags)?;
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
    let socket = socket_of(task, fd)?;
    let mut header = pointer.read(task)?;
    let len = receive_message(task, &socket, &mut header, flags.0)?;
    pointer.write(task, &header)?;
    Ok(len)
}

/// What `recvmsg(2)` does with one message.
fn receive_message(
    task: &mut Task,
    socket: &(Arc<File>, Arc<Socket>),
    header: &mut Msghdr,
    flags: MsgFlags,
) -> SysResult<usize> {
    if header.msg_iovlen > abi::fs::UIO_MAXIOV as u64 {
        return Err(Errno::EMSGSIZE.into());
    }
    // Without a place for a name its length is neither looked at nor changed.
    let room = if header.msg_name == 0 { 0 } else { header.msg_namelen };
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let mm = Arc::clone(task.mm());
    let mut dst = mem::dst_vec(task, &mm, Addr(header.msg_iov), header.msg_iovlen)?;
    let mut received = receive(task, socket, &mut dst, flags)?;
    let mut answer = flags & MsgFlags::MSG_CMSG_CLOEXEC;
    answer.set(MsgFlags::MSG_TRUNC, received.packet > received.copied);
    if header.msg_name != 0 {
        let name = sender_name(received.from.as_ref());
        mem::write_bytes(task, Addr(header.msg_name), name.get(..room).unwrap_or(&name))?;
        header.msg_namelen = i32::try_from(name.len()).unwrap_or(0);
    }
    let mut control = Control { at: Addr(header.msg_control), room: header.msg_controllen, truncated: false };
    if socket.1.passes_credentials()
        && let Some(sender) = &received.sender
    {
        let cred = Ucred { pid: sender.pid, uid: sender.uid, gid: sender.gid };
        control.put(task, SCM_CREDENTIALS, cred.as_bytes())?;
    }
    let cloexec = if flags.contains(MsgFlags::MSG_CMSG_CLOEXEC) { CloseOnExec::Yes } else { CloseOnExec::No };
    control.put_files(task, std::mem::take(&mut received.files), cloexec)?;
    answer.set(MsgFlags::MSG_CTRUNC, control.truncated);
    header.msg_flags = answer.bits();
    header.msg_controllen = header.msg_controllen.saturating_sub(control.room);
    Ok(received_len(&received, flags))
}

/// Where control messages go.
struct Control {
    at: Addr,
    room: u64,
    truncated: bool,
}

impl Control {
    /// Stores one message, or as much as there is room for.
    fn put(&mut self, task: &Task, kind: i32, data: &[u8]) -> Result<(), Errno> {
        let room = usize::try_from(self.room).unwrap_or(usize::MAX);
        if self.at.0 == 0 || room < CMSG {
            self.truncated = true;
            return Ok(());
        }
        let whole = CMSG.saturating_add(data.len());
        let len = whole.min(room);
        self.truncated |= len < whole;
        let header = Cmsghdr { cmsg_len: len as u64, cmsg_level: SOL_SOCKET, cmsg_type: kind };
        let bytes = [header.as_bytes(), data.get(..len.saturating_sub(CMSG)).unwrap_or(data)].concat();
        mem::write_bytes(task, self.at, &bytes)?;
        let used = (whole.next_multiple_of(CMSG_ALIGN) as u64).min(self.room);
        self.at = self.at.checked_add(used).ok_or(Errno::EFAULT)?;
        self.room = self.room.saturating_sub(used);
        Ok(())
    }

    /// Installs as many files as there is room for, here and in the table; the others are closed.
    fn put_files(&mut self, task: &Task, files: Vec<Arc<File>>, cloexec: CloseOnExec) -> Result<(), Errno> {
        if files.is_empty() {
            return Ok(());
        }
        let room = self.room.saturating_sub(CMSG as u64) / size_of::<i32>() as u64;
        let room = if self.at.0 == 0 { 0 } else { usize::try_from(room).unwrap_or(usize::MAX) };
        let mut numbers = Vec::new();
        let wanted = files.len();
        for file in files.into_iter().take(room) {
            match task.install_fd(file, 0, cloexec) {
                Ok(fd) => numbers.push(fd),
                Err(_) => break,
            }
        }
        self.truncated |= numbers.len() < wanted;
        if numbers.is_empty() { Ok(()) } else { self.put(task, SCM_RIGHTS, numbers.as_slice().as_bytes()) }
    }
}
