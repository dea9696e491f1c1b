//! Semaphores: `semget(2)`, `semop(2)`, `semctl(2)`.

use std::sync::Arc;

use abi::Errno;
use abi::ipc::{
    GETALL, GETNCNT, GETPID, GETVAL, GETZCNT, IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT, SEM_INFO, SEM_STAT,
    SEM_STAT_ANY, SEM_UNDO, SETALL, SETVAL, SemInfo, Sembuf, SemidDs,
};
use abi::time::Timespec;
use kernel::ipc::{SEMMNI, SEMMNS, SEMMSL, SEMOPM, SEMVMX, SemOp, SemaphoreSet, Undo, Waiting};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::Task;
use kernel::time::{ClockId, timespec_to_ns};
use usermem::Addr;

use super::{change, command, existing, perm};
use crate::args::{Hex, In, InArray, SemctlCmd};
use crate::mem;

syscalls! {
    pub(crate) const ROWS;

    /// Gets a set of System V semaphores.
    semget [64, 190] Full("sysv::semaphores_count_and_block");
    /// Operates on System V semaphores.
    semop [65, 193] Full("sysv::semaphores_count_and_block");
    /// Operates on System V semaphores, with a time limit.
    semtimedop [220, 192] Full("sysv::semaphores_time_out_and_vanish");
    /// Controls System V semaphores.
    semctl [66, 191] Full("sysv::semaphores_are_controlled");
}

/// `semget(2)`.
fn semget(task: &mut Task, key: i32, count: i32, flags: u32) -> Result<i32, Errno> {
    task.sem_get(key, count, existing(flags), flags & 0o777)
}

fn operate(task: &mut Task, id: i32, ops: Addr, count: u64, timeout: Option<u64>) -> SysResult<()> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL.into());
    }
    if count > SEMOPM {
        return Err(Errno::E2BIG.into());
    }
    let ops: Vec<SemOp> = mem::read_array::<Sembuf>(task, ops, count)?
        .into_iter()
        .map(|op| {
            let flags = u32::from(op.sem_flg.cast_unsigned());
            SemOp {
                num: op.sem_num,
                add: op.sem_op,
                waiting: if flags & IPC_NOWAIT != 0 { Waiting::Refused } else { Waiting::Allowed },
                undo: if flags & SEM_UNDO != 0 { Undo::Yes } else { Undo::No },
            }
        })
        .collect();
    let deadline = timeout.map(|ns| task.kernel().clock_ns(ClockId::Monotonic).saturating_add(ns));
    task.sem_op(id, &ops, deadline)
}

/// `semop(2)`.
fn semop(task: &mut Task, id: i32, ops: InArray<Sembuf>, count: u64) -> SysResult<()> {
    operate(task, id, ops.0, count, None)
}

/// `semtimedop(2)`.
fn semtimedop(task: &mut Task, id: i32, ops: InArray<Sembuf>, count: u64, timeout: In<Timespec>) -> SysResult<()> {
    let timeout = match timeout.read_opt(task)? {
        None => None,
        Some(span) => Some(timespec_to_ns(&span)?),
    };
    operate(task, id, ops.0, count, timeout)
}

fn describe(id: i32, set: &SemaphoreSet) -> SemidDs {
    SemidDs {
        sem_perm: perm(id, &set.perm),
        sem_otime: set.op_time,
        sem_ctime: set.change_time,
        sem_nsems: set.count,
        ..SemidDs::default()
    }
}

/// `IPC_INFO` and `SEM_INFO`: limits, and for the latter what there is.
fn limits(task: &Task, command: i32, out: Addr) -> Result<i32, Errno> {
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let totals = task.kernel().ipc().sem().totals();
    let mut info = SemInfo {
        semmap: number(SEMMNS),
        semmni: number(SEMMNI),
        semmns: number(SEMMNS),
        semmnu: number(SEMMNS),
        semmsl: number(SEMMSL),
        semopm: number(SEMOPM),
        semume: number(SEMOPM),
        semusz: 20,
        semvmx: SEMVMX,
        semaem: SEMVMX,
    };
    if command == SEM_INFO {
        (info.semusz, info.semaem) = (totals.used, totals.semaphores);
    }
    mem::write(task, out, &info)?;
    Ok(totals.last_index)
}

/// `semctl(2)`: the fourth argument is a number or an address.
fn semctl(task: &mut Task, id: i32, num: i32, SemctlCmd(raw): SemctlCmd, arg: Hex) -> Result<i32, Errno> {
    let (out, command) = (Addr(arg.0), command(raw));
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    match command {
        IPC_INFO | SEM_INFO => limits(task, command, out),
        IPC_STAT => {
            let set = task.sem_info(id)?;
            mem::write(task, out, &describe(id, &set))?;
            Ok(0)
        }
        SEM_STAT | SEM_STAT_ANY => {
            let kernel = Arc::clone(task.kernel());
            let found = kernel.ipc().sem().info_at(id, (command == SEM_STAT).then_some(task.creds()))?;
            mem::write(task, out, &describe(found.id, &found.info))?;
            Ok(found.id)
        }
        IPC_SET => {
            let wish: SemidDs = mem::read(task, out)?;
            task.sem_change(id, &change(&wish.sem_perm)?)?;
            Ok(0)
        }
        IPC_RMID => task.sem_remove(id).map(|()| 0),
        GETALL => {
            let values = task.sem_values(id)?;
            mem::write_array(task, out, &values)?;
            Ok(0)
        }
        SETALL => {
            let count = task.sem_count(id)?;
            let values = mem::read_array::<u16>(task, out, count)?;
            task.sem_set_all(id, &values).map(|()| 0)
        }
        SETVAL => {
            // An int in a register.
            let value = u32::try_from(arg.0 & 0xffff_ffff).unwrap_or(0).cast_signed();
            task.sem_set(id, num, value).map(|()| 0)
        }
        GETVAL => task.sem_value(id, num),
        GETPID => task.sem_pid(id, num),
        GETNCNT => task.sem_waiting_more(id, num),
        GETZCNT => task.sem_waiting_zero(id, num),
        _ => Err(Errno::EINVAL),
    }
}
