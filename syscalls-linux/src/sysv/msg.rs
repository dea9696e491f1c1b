//! Message queues: `msgget(2)`, `msgop(2)`, `msgctl(2)`.

use std::sync::Arc;

use abi::Errno;
use abi::ipc::{
    IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT, MSG_COPY, MSG_EXCEPT, MSG_INFO, MSG_NOERROR, MSG_STAT,
    MSG_STAT_ANY, MsgInfo, MsqidDs,
};
use kernel::ipc::{MSGMAX, MSGMNB, MessageQueue, Select, Shortening, Waiting};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Pid, Task};
use usermem::Addr;

use super::{change, command, existing, perm};
use crate::args::{Hex, MsgctlCmd};
use crate::mem;

syscalls! {
    pub(crate) const ROWS;

    /// Gets a System V message queue.
    msgget [68, 186] Full("sysv::messages_are_sent_and_selected");
    /// Sends a System V message.
    msgsnd [69, 189] Full("sysv::messages_are_sent_and_selected");
    /// Receives a System V message.
    msgrcv [70, 188] Full("sysv::messages_are_sent_and_selected");
    /// Controls System V message queues.
    msgctl [71, 187] Full("sysv::queues_are_controlled");
}

/// Bytes before a message's text: its type.
const TYPE: u64 = 8;

/// `msgget(2)`.
fn msgget(task: &mut Task, key: i32, flags: u32) -> Result<i32, Errno> {
    task.msg_get(key, existing(flags), flags & 0o777)
}

fn waiting(flags: u32) -> Waiting {
    if flags & IPC_NOWAIT != 0 { Waiting::Refused } else { Waiting::Allowed }
}

/// `msgsnd(2)`.
fn msgsnd(task: &mut Task, id: i32, message: Addr, size: u64, flags: u32) -> SysResult<()> {
    let kind: i64 = mem::read(task, message)?;
    let size = usize::try_from(size).ok().filter(|&size| size <= MSGMAX).ok_or(Errno::EINVAL)?;
    if kind < 1 || id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let text = mem::read_bytes(task, message.checked_add(TYPE).ok_or(Errno::EFAULT)?, size)?;
    task.msg_send(id, kind, text, waiting(flags))
}

/// Which message `msgrcv(2)` is asked for; `EINVAL`.
fn select(kind: i64, flags: u32) -> Result<Select, Errno> {
    if flags & MSG_COPY != 0 {
        let allowed = flags & MSG_EXCEPT == 0 && flags & IPC_NOWAIT != 0;
        return if allowed { Ok(Select::Copy(kind)) } else { Err(Errno::EINVAL) };
    }
    Ok(match kind {
        0 => Select::First,
        // The lowest number has no positive one.
        ..0 => Select::UpTo(kind.checked_neg().unwrap_or(i64::MAX)),
        _ if flags & MSG_EXCEPT != 0 => Select::Except(kind),
        _ => Select::Type(kind),
    })
}

/// `msgrcv(2)`.
fn msgrcv(task: &mut Task, id: i32, message: Addr, size: u64, kind: i64, flags: u32) -> SysResult<usize> {
    if id < 0 || size.cast_signed() < 0 {
        return Err(Errno::EINVAL.into());
    }
    let max = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let shortening = if flags & MSG_NOERROR != 0 { Shortening::Allowed } else { Shortening::Refused };
    let received = task.msg_receive(id, max, select(kind, flags)?, shortening, waiting(flags))?;
    mem::write(task, message, &received.kind)?;
    mem::write_bytes(task, message.checked_add(TYPE).ok_or(Errno::EFAULT)?, &received.text)?;
    Ok(received.text.len())
}

fn describe(id: i32, queue: &MessageQueue) -> MsqidDs {
    MsqidDs {
        msg_perm: perm(id, &queue.perm),
        msg_stime: queue.send_time,
        msg_rtime: queue.receive_time,
        msg_ctime: queue.change_time,
        msg_cbytes: queue.bytes,
        msg_qnum: queue.messages,
        msg_qbytes: queue.limit,
        msg_lspid: queue.last_sender.map_or(0, Pid::raw),
        msg_lrpid: queue.last_receiver.map_or(0, Pid::raw),
        ..MsqidDs::default()
    }
}

/// `IPC_INFO` and `MSG_INFO`: limits, and for the latter what there is.
fn limits(task: &Task, command: i32, out: Addr) -> Result<i32, Errno> {
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let per_queue = i32::try_from(MSGMNB).unwrap_or(i32::MAX);
    let (totals, most) = (task.kernel().ipc().msg().totals(), number(task.kernel().ipc().msg().limit()));
    let mut info = MsgInfo {
        msgpool: most.saturating_mul(per_queue / 1024),
        msgmap: per_queue,
        msgmax: number(MSGMAX),
        msgmnb: per_queue,
        msgmni: most,
        msgssz: 16,
        msgtql: per_queue,
        msgseg: u16::MAX,
        _pad: 0,
    };
    if command == MSG_INFO {
        (info.msgpool, info.msgmap, info.msgtql) = (totals.used, totals.messages, totals.bytes);
    }
    mem::write(task, out, &info)?;
    Ok(totals.last_index)
}

/// `msgctl(2)`.
fn msgctl(task: &mut Task, id: i32, MsgctlCmd(raw): MsgctlCmd, out: Hex) -> Result<i32, Errno> {
    let (out, command) = (Addr(out.0), command(raw));
    if id < 0 || raw < 0 {
        return Err(Errno::EINVAL);
    }
    match command {
        IPC_INFO | MSG_INFO => limits(task, command, out),
        IPC_STAT => {
            let queue = task.msg_info(id)?;
            mem::write(task, out, &describe(id, &queue))?;
            Ok(0)
        }
        MSG_STAT | MSG_STAT_ANY => {
            let kernel = Arc::clone(task.kernel());
            let found = kernel.ipc().msg().info_at(id, (command == MSG_STAT).then_some(task.creds()))?;
            mem::write(task, out, &describe(found.id, &found.info))?;
            Ok(found.id)
        }
        IPC_SET => {
            let wish: MsqidDs = mem::read(task, out)?;
            task.msg_change(id, &change(&wish.msg_perm)?, wish.msg_qbytes)?;
            Ok(0)
        }
        IPC_RMID => task.msg_remove(id).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}
