//! Futexes: `futex(2)` and its younger forms.

use abi::Errno;
use abi::futex::{
    FUTEX_BITSET_MATCH_ANY, FUTEX_CLOCK_REALTIME, FUTEX_CMD_MASK, FUTEX_CMP_REQUEUE, FUTEX_CMP_REQUEUE_PI,
    FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE, FUTEX_TRYLOCK_PI, FUTEX_UNLOCK_PI, FUTEX_WAIT,
    FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_WAITV_MAX, FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
    FUTEX2_PRIVATE, FUTEX2_SIZE_U32, FutexWaitv,
};
use abi::time::Timespec;
use kernel::futex::{Compare, Deadline, Sharing, WaitRequest, Word};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Patience, Task};
use kernel::time::{ClockId, timespec_to_ns};
use usermem::Addr;

use crate::args::{ClockArg, FutexOp, Hex, In, InArray};
use crate::mem;

syscalls! {
    pub(crate) const ROWS;

    /// Sleeps on a word and wakes those who do.
    futex [202, 98] Partial("the host schedules, so nobody inherits a priority");
    /// Sleeps on several words.
    futex_waitv [449, 449] Full("futexes::one_of_several_words_wakes");
    /// Wakes those who sleep on a word.
    futex_wake [454, 454] Full("futexes::the_newer_calls_wait_wake_and_move");
    /// Sleeps on a word.
    futex_wait [455, 455] Full("futexes::the_newer_calls_wait_wake_and_move");
    /// Moves those who sleep on a word to another.
    futex_requeue [456, 456] Full("futexes::the_newer_calls_wait_wake_and_move");
}

fn sharing(private: bool) -> Sharing {
    if private { Sharing::Private } else { Sharing::Shared }
}

/// A deadline on `clock` as a moment of the monotonic clock.
fn absolute(task: &Task, clock: ClockId, at: &Timespec) -> Result<Deadline, Errno> {
    Ok(Deadline::Absolute(task.kernel().to_monotonic(clock, timespec_to_ns(at)?)))
}

/// When a wait of `futex(2)` ends: a span for `FUTEX_WAIT`, a moment for the others.
fn deadline(task: &Task, op: u32, timeout: Addr) -> Result<Deadline, Errno> {
    if timeout.0 == 0 {
        return Ok(Deadline::Never);
    }
    let timeout: Timespec = mem::read(task, timeout)?;
    if op & FUTEX_CMD_MASK == FUTEX_WAIT {
        let span = timespec_to_ns(&timeout)?;
        return Ok(Deadline::Relative(task.kernel().clock_ns(ClockId::Monotonic).saturating_add(span)));
    }
    let wall = op & FUTEX_CLOCK_REALTIME != 0 || op & FUTEX_CMD_MASK == FUTEX_LOCK_PI;
    let clock = if wall { ClockId::Realtime } else { ClockId::Monotonic };
    absolute(task, clock, &timeout)
}

/// How many a wake wakes that is asked for `count`: Linux counts after it has woken one.
fn at_least_one(count: u32) -> u32 {
    count.cast_signed().max(1).cast_unsigned()
}

/// `futex(2)`: the fourth argument is a timeout or a second count.
fn futex(
    task: &mut Task,
    addr: Addr,
    FutexOp(op): FutexOp,
    value: u32,
    fourth: Hex,
    second: Addr,
    third: u32,
) -> SysResult<u32> {
    let sharing = sharing(op & FUTEX_PRIVATE_FLAG != 0);
    let (first, second) = (Word { addr, sharing }, Word { addr: second, sharing });
    let command = op & FUTEX_CMD_MASK;
    let waits =
        matches!(command, FUTEX_WAIT | FUTEX_WAIT_BITSET | FUTEX_LOCK_PI | FUTEX_LOCK_PI2 | FUTEX_WAIT_REQUEUE_PI);
    let deadline = if waits { deadline(task, op, Addr(fourth.0))? } else { Deadline::Never };
    if op & FUTEX_CLOCK_REALTIME != 0 && !matches!(command, FUTEX_WAIT_BITSET | FUTEX_LOCK_PI2 | FUTEX_WAIT_REQUEUE_PI)
    {
        return Err(Errno::ENOSYS.into());
    }
    let count = u32::try_from(fourth.0 & 0xffff_ffff).unwrap_or(0);
    let kernel = std::sync::Arc::clone(task.kernel());
    let table = kernel.futexes();
    match command {
        FUTEX_WAIT | FUTEX_WAIT_BITSET => {
            let bitset = if command == FUTEX_WAIT { FUTEX_BITSET_MATCH_ANY } else { third };
            task.futex_wait(WaitRequest { addr, sharing, value, bitset, deadline }).map(|()| 0)
        }
        FUTEX_WAKE => Ok(table.wake(task.mm(), first, at_least_one(value), FUTEX_BITSET_MATCH_ANY)?),
        FUTEX_WAKE_BITSET => Ok(table.wake(task.mm(), first, at_least_one(value), third)?),
        FUTEX_REQUEUE | FUTEX_CMP_REQUEUE => {
            // Negative counts are refused since they would overflow.
            if value.cast_signed() < 0 || count.cast_signed() < 0 {
                return Err(Errno::EINVAL.into());
            }
            let compare = if command == FUTEX_REQUEUE { Compare::No } else { Compare::Value(third) };
            Ok(table.requeue(task.mm(), first, second, value, count, compare)?)
        }
        FUTEX_WAIT_REQUEUE_PI | FUTEX_CMP_REQUEUE_PI if first.addr == second.addr => Err(Errno::EINVAL.into()),
        FUTEX_WAIT_REQUEUE_PI => task.futex_wait_requeue_pi(first, value, second, deadline).map(|()| 0),
        FUTEX_CMP_REQUEUE_PI => {
            // One is woken at most: the one that the word becomes.
            if value != 1 || count.cast_signed() < 0 {
                return Err(Errno::EINVAL.into());
            }
            Ok(table.requeue_pi(task, first, second, count, third)?)
        }
        FUTEX_LOCK_PI | FUTEX_LOCK_PI2 => task.futex_lock_pi(first, Patience::Wait, deadline.ns()).map(|()| 0),
        FUTEX_TRYLOCK_PI => task.futex_lock_pi(first, Patience::None, None).map(|()| 0),
        FUTEX_UNLOCK_PI => Ok(task.futex_unlock_pi(first).map(|()| 0)?),
        FUTEX_WAKE_OP => {
            let (value, count) = (at_least_one(value), at_least_one(count));
            Ok(table.wake_op(task.mm(), first, second, value, count, third)?)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// The word that a futex2 call names: only private or shared words of 32 bits exist.
fn word2(addr: u64, flags: u32) -> Result<Word, Errno> {
    if flags & !FUTEX2_PRIVATE != FUTEX2_SIZE_U32 {
        return Err(Errno::EINVAL);
    }
    Ok(Word { addr: Addr(addr), sharing: sharing(flags & FUTEX2_PRIVATE != 0) })
}

/// A deadline of a futex2 call: a moment on one of two clocks.
fn deadline2(task: &Task, timeout: &In<Timespec>, clock: ClockArg) -> Result<Deadline, Errno> {
    let Some(at) = timeout.read_opt(task)? else { return Ok(Deadline::Never) };
    // Others read as one of the two (CLOCK_TAI) are refused.
    let clock = match clock.0 {
        abi::time::CLOCK_REALTIME => ClockId::Realtime,
        abi::time::CLOCK_MONOTONIC => ClockId::Monotonic,
        _ => return Err(Errno::EINVAL),
    };
    absolute(task, clock, &at)
}

/// `futex_waitv(2)`.
fn futex_waitv(
    task: &mut Task,
    waiters: InArray<FutexWaitv>,
    count: u32,
    flags: u32,
    timeout: In<Timespec>,
    clock: ClockArg,
) -> SysResult<usize> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if flags != 0 || count == 0 || count > FUTEX_WAITV_MAX || waiters.0.0 == 0 {
        return Err(Errno::EINVAL.into());
    }
    let deadline_ns = match deadline2(task, &timeout, clock)? {
        Deadline::Absolute(ns) | Deadline::Relative(ns) => Some(ns),
        Deadline::Never => None,
    };
    let mut words = Vec::with_capacity(count);
    for waiter in mem::read_array::<FutexWaitv>(task, waiters.0, count)? {
        if waiter._reserved != 0 {
            return Err(Errno::EINVAL.into());
        }
        words.push((word2(waiter.uaddr, waiter.flags)?, u32::try_from(waiter.val).map_err(|_| Errno::EINVAL)?));
    }
    task.futex_wait_any(&words, deadline_ns)
}

/// `futex_wake`, the younger form.
fn futex_wake(task: &mut Task, addr: Hex, mask: Hex, count: i32, flags: u32) -> Result<u32, Errno> {
    let word = word2(addr.0, flags)?;
    let mask = u32::try_from(mask.0).map_err(|_| Errno::EINVAL)?;
    // The younger form knows none.
    let count = if count == 0 { 0 } else { at_least_one(count.cast_unsigned()) };
    task.kernel().futexes().wake(task.mm(), word, count, mask)
}

/// `futex_wait`, the younger form.
fn futex_wait(
    task: &mut Task,
    addr: Hex,
    value: Hex,
    mask: Hex,
    flags: u32,
    timeout: In<Timespec>,
    clock: ClockArg,
) -> SysResult<()> {
    let Word { addr, sharing } = word2(addr.0, flags)?;
    let value = u32::try_from(value.0).map_err(|_| Errno::EINVAL)?;
    let bitset = u32::try_from(mask.0).map_err(|_| Errno::EINVAL)?;
    let deadline = deadline2(task, &timeout, clock)?;
    task.futex_wait(WaitRequest { addr, sharing, value, bitset, deadline })
}

/// `futex_requeue`, the younger form: two waiter structures, the first with the value that its word must have.
fn futex_requeue(task: &mut Task, waiters: Addr, flags: u32, wake: i32, moved: i32) -> Result<u32, Errno> {
    if flags != 0 || waiters.0 == 0 {
        return Err(Errno::EINVAL);
    }
    let [from, to]: [FutexWaitv; 2] = mem::read(task, waiters)?;
    let (wake, moved) =
        (u32::try_from(wake).map_err(|_| Errno::EINVAL)?, u32::try_from(moved).map_err(|_| Errno::EINVAL)?);
    let value = u32::try_from(from.val).map_err(|_| Errno::EINVAL)?;
    let (from, to) = (word2(from.uaddr, from.flags)?, word2(to.uaddr, to.flags)?);
    task.kernel().futexes().requeue(task.mm(), from, to, wake, moved, Compare::Value(value))
}
