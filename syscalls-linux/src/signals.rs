//! Signals: `signal(7)`.

use abi::Errno;
use abi::signal::{SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SaFlags as AbiFlags, SsFlags, StackT};
use abi::time::Timespec;
use kernel::signal::info::SIGINFO_SIZE;
use kernel::signal::{AltStack, AutoDisarm, MaskChange, SaFlags, SigAction, SigSet, Signal, SignalTarget};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Pid, Task, Tid};

use crate::args::{In, Out, SigHow, SignalArg};
use crate::mem;
use crate::time::deadline_after;

syscalls! {
    pub(crate) const ROWS;

    /// Gets and sets what a signal does.
    rt_sigaction [13, 134] Full("signal::a_handler_runs_before_kill_returns");
    /// Gets and changes the mask of blocked signals.
    rt_sigprocmask [14, 135] Full("signal::a_blocked_signal_waits");
    /// Returns from a handler.
    rt_sigreturn [15, 139] Full("signal::a_handler_runs_before_kill_returns");
    /// Signals that are pending and blocked.
    rt_sigpending [127, 136] Full("signal::a_blocked_signal_waits");
    /// Waits for a signal to take.
    rt_sigtimedwait [128, 137] Full("signal::queued_signals_keep_values_and_order");
    /// Sends a signal with a value to a process.
    rt_sigqueueinfo [129, 138] Full("signal::queued_signals_keep_values_and_order");
    /// Sends a signal with a value to a thread.
    rt_tgsigqueueinfo [297, 240] Full("sigsend::queued_signals_reach_one_thread");
    /// Sleeps with another mask until a handler has run.
    rt_sigsuspend [130, 133] Full("sigsend::suspending_takes_a_mask_for_a_while");
    /// Gets and sets the alternate signal stack.
    sigaltstack [131, 132] Full("sigsend::alternate_stacks_are_told_and_checked");
    /// Sleeps until a handler has run.
    pause [34, -] Full("sigsend::pause_ends_after_a_handler");
    /// Sends a signal to processes.
    kill [62, 129] Full("process::death_by_signal_reaches_the_parent");
    /// Sends a signal to a thread.
    tkill [200, 130] Full("sigsend::signals_reach_one_thread");
    /// Sends a signal to a thread of a process.
    tgkill [234, 131] Full("sigsend::signals_reach_one_thread");
}

/// Size of the kernel's `sigset_t`, which callers must name.
const SET_SIZE: u64 = 8;

/// A signal that is to be sent: `None` for 0, which only checks.
pub(crate) fn to_send(signal: SignalArg) -> Result<Option<Signal>, Errno> {
    if signal.0 == 0 { Ok(None) } else { Signal::new(signal.0).map(Some).ok_or(Errno::EINVAL) }
}

fn check_size(size: u64) -> Result<(), Errno> {
    if size == SET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `rt_sigaction(2)`.
fn rt_sigaction(
    task: &mut Task,
    signal: SignalArg,
    new: In<abi::signal::SigAction>,
    old: Out<abi::signal::SigAction>,
    size: u64,
) -> Result<(), Errno> {
    check_size(size)?;
    let new = new.read_opt(task)?.map(|new| SigAction {
        handler: new.handler,
        // Unknown flags are dropped, so that a program can ask which there are (sigaction(2), "SA_UNSUPPORTED").
        flags: SaFlags::from_bits_retain(new.flags & AbiFlags::all().difference(AbiFlags::SA_UNSUPPORTED).bits()),
        restorer: new.restorer,
        mask: SigSet(new.mask.0),
    });
    let signal = Signal::new(signal.0).ok_or(Errno::EINVAL)?;
    let before = task.sigaction(signal, new)?;
    old.write_opt(
        task,
        &abi::signal::SigAction {
            handler: before.handler,
            flags: before.flags.bits(),
            restorer: before.restorer,
            mask: abi::signal::SigSet(before.mask.0),
        },
    )
}

/// `rt_sigprocmask(2)`: the old mask alone is told, whatever `how` says, when there is no new one.
fn rt_sigprocmask(
    task: &mut Task,
    how: SigHow,
    new: In<abi::signal::SigSet>,
    old: Out<abi::signal::SigSet>,
    size: u64,
) -> Result<(), Errno> {
    check_size(size)?;
    let before = match new.read_opt(task)? {
        None => task.signal_mask(),
        Some(set) => {
            let set = SigSet(set.0);
            let change = match how.0 {
                SIG_BLOCK => MaskChange::Block(set),
                SIG_UNBLOCK => MaskChange::Unblock(set),
                SIG_SETMASK => MaskChange::Set(set),
                _ => return Err(Errno::EINVAL),
            };
            task.change_signal_mask(change)
        }
    };
    old.write_opt(task, &abi::signal::SigSet(before.0))
}

/// `rt_sigreturn(2)`.
fn rt_sigreturn(task: &mut Task) -> SysResult {
    task.sigreturn()
}

/// `rt_sigpending(2)`: a shorter set is allowed.
fn rt_sigpending(task: &mut Task, set: Out<abi::signal::SigSet>, size: u64) -> Result<(), Errno> {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let bytes = task.pending_signals().0.to_le_bytes();
    let len = usize::try_from(size).unwrap_or(0);
    mem::write_bytes(task, set.0, bytes.get(..len).unwrap_or(&bytes))
}

/// `rt_sigtimedwait(2)`.
fn rt_sigtimedwait(
    task: &mut Task,
    set: In<abi::signal::SigSet>,
    info: Out<abi::signal::SigInfo>,
    timeout: In<Timespec>,
    size: u64,
) -> SysResult<i32> {
    check_size(size)?;
    let set = SigSet(set.read(task)?.0);
    let deadline = timeout.read_opt(task)?.map(deadline_after).transpose()?;
    let taken = task.sigtimedwait(set, deadline)?;
    if !info.is_null() {
        mem::write_bytes(task, info.0, &taken.to_bytes())?;
    }
    Ok(taken.signal.number())
}

fn info_bytes(task: &Task, info: &In<abi::signal::SigInfo>) -> Result<[u8; SIGINFO_SIZE], Errno> {
    mem::read(task, info.0)
}

/// `rt_sigqueueinfo(2)`.
fn rt_sigqueueinfo(task: &mut Task, pid: i32, signal: SignalArg, info: In<abi::signal::SigInfo>) -> Result<(), Errno> {
    let bytes = info_bytes(task, &info)?;
    let signal = to_send(signal)?;
    let pid = Pid::from_raw(pid).ok_or(Errno::ESRCH)?;
    task.sigqueue(pid, None, signal, &bytes)
}

/// `rt_tgsigqueueinfo(2)`.
fn rt_tgsigqueueinfo(
    task: &mut Task,
    pid: i32,
    tid: i32,
    signal: SignalArg,
    info: In<abi::signal::SigInfo>,
) -> Result<(), Errno> {
    let bytes = info_bytes(task, &info)?;
    let (pid, tid) = (Pid::from_raw(pid).ok_or(Errno::EINVAL)?, Tid::from_raw(tid).ok_or(Errno::EINVAL)?);
    let signal = to_send(signal)?;
    task.sigqueue(pid, Some(tid), signal, &bytes)
}

/// `rt_sigsuspend(2)`.
fn rt_sigsuspend(task: &mut Task, mask: In<abi::signal::SigSet>, size: u64) -> SysResult {
    check_size(size)?;
    let mask = SigSet(mask.read(task)?.0);
    task.sigsuspend(mask)
}

/// `sigaltstack(2)`.
fn sigaltstack(task: &mut Task, new: In<StackT>, old: Out<StackT>) -> Result<(), Errno> {
    let asked = new.read_opt(task)?;
    let before = task.alt_stack();
    let mut flags = SsFlags::empty();
    flags.set(SsFlags::SS_DISABLE, before.size == 0);
    flags.set(SsFlags::SS_ONSTACK, before.size != 0 && task.on_alt_stack());
    flags.set(SsFlags::SS_AUTODISARM, before.autodisarm == AutoDisarm::Yes);
    if let Some(asked) = asked {
        let flags = SsFlags::from_bits(asked.ss_flags).ok_or(Errno::EINVAL)?;
        let mode = flags.difference(SsFlags::SS_AUTODISARM);
        if mode.bits().count_ones() > 1 {
            return Err(Errno::EINVAL);
        }
        let autodisarm = if flags.contains(SsFlags::SS_AUTODISARM) { AutoDisarm::Yes } else { AutoDisarm::No };
        let stack = if mode.contains(SsFlags::SS_DISABLE) {
            AltStack::default()
        } else if asked.ss_size < abi::signal::MINSIGSTKSZ {
            return Err(Errno::ENOMEM);
        } else {
            AltStack { base: asked.ss_sp, size: asked.ss_size, autodisarm }
        };
        task.set_alt_stack(stack)?;
    }
    old.write_opt(task, &StackT { ss_sp: before.base, ss_flags: flags.bits(), _pad: 0, ss_size: before.size })
}

/// `pause(2)`.
fn pause(task: &mut Task) -> SysResult {
    let mask = task.signal_mask();
    task.sigsuspend(mask)
}

/// Sends by `send`. Whether the number is one of a signal is asked only once there is somebody to send it to.
fn send_checked(signal: SignalArg, send: impl Fn(Option<Signal>) -> Result<(), Errno>) -> Result<(), Errno> {
    match to_send(signal) {
        Ok(signal) => send(signal),
        Err(_) if send(None) == Err(Errno::ESRCH) => Err(Errno::ESRCH),
        Err(error) => Err(error),
    }
}

/// `kill(2)`.
fn kill(task: &mut Task, pid: i32, signal: SignalArg) -> Result<(), Errno> {
    let target = SignalTarget::from_raw(pid)?;
    send_checked(signal, |signal| task.kill(target, signal))
}

/// `tkill(2)`.
fn tkill(task: &mut Task, tid: i32, signal: SignalArg) -> Result<(), Errno> {
    let tid = Tid::from_raw(tid).ok_or(Errno::EINVAL)?;
    send_checked(signal, |signal| task.tgkill(None, tid, signal))
}

/// `tgkill(2)`.
fn tgkill(task: &mut Task, pid: i32, tid: i32, signal: SignalArg) -> Result<(), Errno> {
    let (pid, tid) = (Pid::from_raw(pid).ok_or(Errno::EINVAL)?, Tid::from_raw(tid).ok_or(Errno::EINVAL)?);
    send_checked(signal, |signal| task.tgkill(Some(pid), tid, signal))
}
