//! POSIX message queues: `mq_open(3)` and its relatives, mq_overview(7). The queues are the kernel's; here are flag words
//! and structures.

use abi::Errno;
use abi::fs::OpenFlags;
use abi::ipc::MqAttr;
use abi::signal::{SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD, SigEvent};
use abi::time::Timespec;
use fs::vfs::FileType;
use kernel::fdtable::CloseOnExec;
use kernel::ipc::mqueue::{MQ_PRIO_MAX, MqOpen, Notify};
use kernel::signal::Signal;
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::Task;
use kernel::time::{ClockId, timespec_to_ns};
use usermem::Addr;

use crate::args::{Fd, In, InBuf, Mode, NewFd, OpenArg, Out, OutBuf, PathArg};
use crate::fd::install;
use crate::mem;
use crate::walk::pathname;

syscalls! {
    pub(crate) const ROWS;

    /// Opens a POSIX message queue.
    mq_open [240, 180] Full("mqueue::queues_are_made_opened_and_unlinked");
    /// Removes a POSIX message queue.
    mq_unlink [241, 181] Full("mqueue::queues_are_made_opened_and_unlinked");
    /// Sends to a POSIX message queue.
    mq_timedsend [242, 182] Full("mqueue::messages_come_by_priority");
    /// Receives from a POSIX message queue.
    mq_timedreceive [243, 183] Full("mqueue::messages_come_by_priority");
    /// Asks to be told of a message's arrival.
    mq_notify [244, 184] Partial("SIGEV_THREAD needs a netlink socket, of which there are none");
    /// Gets and sets attributes of a POSIX message queue.
    mq_getsetattr [245, 185] Full("mqueue::attributes_are_told_and_set");
}

/// `mq_open(2)`: the name comes without its slash.
fn mq_open(task: &mut Task, name: PathArg, flags: OpenArg, mode: Mode, attr: In<MqAttr>) -> Result<NewFd, Errno> {
    let shape = attr.read_opt(task)?.map(|attr| (attr.mq_maxmsg, attr.mq_msgsize));
    let name = pathname(task, name)?;
    let file = task.mq_open(&name, &MqOpen { flags: flags.0 & !OpenFlags::O_CLOEXEC, mode: mode.0, shape })?;
    install(task, file, CloseOnExec::Yes)
}

/// `mq_unlink(2)`.
fn mq_unlink(task: &mut Task, name: PathArg) -> Result<(), Errno> {
    let name = pathname(task, name)?;
    task.mq_unlink(&name)
}

/// When a wait ends that has a moment on the wall clock; `EINVAL`, `EFAULT`.
fn deadline(task: &Task, until: &In<Timespec>) -> Result<Option<u64>, Errno> {
    let until = until.read_opt(task)?.map(|until| timespec_to_ns(&until)).transpose()?;
    Ok(until.map(|at| task.kernel().to_monotonic(ClockId::Realtime, at)))
}

/// `mq_timedsend(2)`.
fn mq_timedsend(
    task: &mut Task,
    queue: Fd,
    text: InBuf,
    len: u64,
    priority: u32,
    until: In<Timespec>,
) -> SysResult<()> {
    let deadline_ns = deadline(task, &until)?;
    if priority >= MQ_PRIO_MAX {
        return Err(Errno::EINVAL.into());
    }
    let file = task.fd(queue.0)?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    task.mq_send(&file, len, priority, deadline_ns, |task| mem::read_bytes(task, text.0, len))
}

/// `mq_timedreceive(2)`.
fn mq_timedreceive(
    task: &mut Task,
    queue: Fd,
    text: OutBuf,
    len: u64,
    priority: Out<u32>,
    until: In<Timespec>,
) -> SysResult<usize> {
    let deadline_ns = deadline(task, &until)?;
    let file = task.fd(queue.0)?;
    let message = task.mq_receive(&file, usize::try_from(len).unwrap_or(usize::MAX), deadline_ns)?;
    priority.write_opt(task, &message.priority)?;
    mem::write_bytes(task, text.0, &message.text)?;
    Ok(message.text.len())
}

/// How `SIGEV_THREAD` ends: glibc's needs a netlink socket, and there are none.
fn notify_by_socket(task: &Task, event: &SigEvent) -> Errno {
    const COOKIE: usize = 32;
    if let Err(error) = mem::read_bytes(task, Addr(event.sigev_value), COOKIE) {
        return error;
    }
    match task.fd(event.sigev_signo) {
        Err(error) => error,
        Ok(file) if file.inode().file_type() == FileType::Socket => Errno::EINVAL,
        Ok(_) => Errno::ENOTSOCK,
    }
}

/// `mq_notify(2)`.
fn mq_notify(task: &mut Task, queue: Fd, event: In<SigEvent>) -> Result<(), Errno> {
    let event = event.read_opt(task)?;
    let how = match event {
        None => None,
        Some(event) => Some(match event.sigev_notify {
            SIGEV_NONE => Notify::Nothing,
            SIGEV_SIGNAL if event.sigev_signo == 0 => Notify::Signal(None, event.sigev_value),
            SIGEV_SIGNAL => {
                let signal = Signal::new(event.sigev_signo).ok_or(Errno::EINVAL)?;
                Notify::Signal(Some(signal), event.sigev_value)
            }
            SIGEV_THREAD => return Err(notify_by_socket(task, &event)),
            _ => return Err(Errno::EINVAL),
        }),
    };
    let file = task.fd(queue.0)?;
    task.mq_notify(&file, how)
}

/// `mq_getsetattr(2)`: only `O_NONBLOCK` can be set.
fn mq_getsetattr(task: &mut Task, queue: Fd, new: In<MqAttr>, old: Out<MqAttr>) -> Result<(), Errno> {
    let nonblock = i64::from(OpenFlags::O_NONBLOCK.bits());
    let new = new.read_opt(task)?;
    if new.is_some_and(|new| new.mq_flags & !nonblock != 0) {
        return Err(Errno::EINVAL);
    }
    let file = task.fd(queue.0)?;
    let status = task.mq_status(&file)?;
    if let Some(new) = new {
        let mut flags = file.flags();
        flags.set(OpenFlags::O_NONBLOCK, new.mq_flags & nonblock != 0);
        file.set_flags(flags)?;
    }
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let before = MqAttr {
        mq_flags: if status.nonblocking { nonblock } else { 0 },
        mq_maxmsg: number(status.max_messages),
        mq_msgsize: number(status.message_size),
        mq_curmsgs: number(status.messages),
        ..MqAttr::default()
    };
    old.write_opt(task, &before)
}
