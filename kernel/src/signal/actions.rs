//! What a task does about its own signals: actions, masks, the alternate stack, waiting for a signal.

use std::sync::Arc;

use abi::Errno;

use stops::Work;

use super::info::{SigData, SigInfo};
use super::send;
use super::types::{AltStack, SigAction, SigSet, Signal};
use crate::error::{Restart, SysErr, SysResult};
use crate::task::Task;
use crate::task::block::Blocked;
use crate::task::thread::Thread;

/// How `rt_sigprocmask` changes a mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MaskChange {
    /// Adds.
    Block(SigSet),
    /// Removes.
    Unblock(SigSet),
    /// Replaces.
    Set(SigSet),
}

/// Sets a thread's mask under the locks that sending takes, and looks at what that makes deliverable or passes on.
fn change_mask(thread: &Arc<Thread>, f: impl FnOnce(SigSet) -> SigSet) -> SigSet {
    let signals = thread.group().lock_signals();
    let mut t = thread.signals.lock();
    let old = t.mask.get();
    let new = f(old).minus(SigSet::UNBLOCKABLE);
    t.mask.set(new);
    let deliverable = send::deliverable(&signals.pending, &t.pending, new);
    t.reopen(&signals.pending);
    drop(t);
    if deliverable {
        thread.attention().set_work(Work::SIGNAL);
    }
    let added = new.minus(old);
    if !added.is_empty() && signals.stops.threads().len() > 1 {
        send::retarget(&signals, thread, added);
    }
    old
}

impl Task {
    /// sigaction(2): gives the action of `signal` and replaces it if `new` is given. `EINVAL` for a new action of SIGKILL
    /// or SIGSTOP.
    pub fn sigaction(&self, signal: Signal, new: Option<SigAction>) -> Result<SigAction, Errno> {
        let mut signals = self.group().lock_signals();
        let Some(mut new) = new else { return Ok(signals.handlers.get(signal)) };
        if signal.is_unblockable() {
            return Err(Errno::EINVAL);
        }
        new.mask = new.mask.minus(SigSet::UNBLOCKABLE);
        let old = signals.handlers.set(signal, new);
        if new.ignores(signal) {
            send::discard_ignored(&mut signals, signal);
        }
        Ok(old)
    }

    /// Whether a signal, a stop or an exit wants the task: long operations end early then.
    pub fn has_pending_signal(&self) -> bool {
        self.thread().attention().work().intersects(Work::SIGNAL | Work::KILL | Work::STOP)
    }

    /// Sends a signal to the calling thread itself (SIGPIPE, SIGXFSZ).
    pub fn raise(&self, signal: Signal) {
        let info = SigInfo::kill(signal, self.pid(), self.creds().ruid.0);
        self.kernel().send_to_thread(self.thread(), info, send::Origin::Kernel);
    }

    /// Credentials of the thread `pid` (0: the caller), for capget(2). `ESRCH`.
    pub fn creds_of(&self, pid: i32) -> Result<Arc<auth::Creds>, Errno> {
        if pid == 0 {
            return Ok(Arc::clone(self.creds()));
        }
        let tid = crate::ids::Tid::from_raw(pid).ok_or(Errno::ESRCH)?;
        self.kernel().tasks().thread(tid).map(|t| t.creds()).ok_or(Errno::ESRCH)
    }

    /// The mask of blocked signals.
    pub fn signal_mask(&self) -> SigSet {
        self.thread().signals.lock().mask.get()
    }

    /// sigprocmask(2); says the old mask.
    pub fn change_signal_mask(&self, change: MaskChange) -> SigSet {
        change_mask(self.thread(), |old| match change {
            MaskChange::Block(set) => old.union(set),
            MaskChange::Unblock(set) => old.minus(set),
            MaskChange::Set(set) => set,
        })
    }

    /// Sets a mask for the rest of this call (ppoll, pselect, epoll_pwait, sigsuspend): a handler that runs because of
    /// it returns to the mask before; without one that comes back at the end of the call.
    pub fn set_temporary_mask(&mut self, mask: SigSet) {
        let old = change_mask(self.thread(), |_| mask);
        self.saved_mask.get_or_insert(old);
    }

    /// Puts the mask back that [`Task::set_temporary_mask`] replaced.
    pub(crate) fn restore_mask(&mut self) {
        if let Some(mask) = self.saved_mask.take() {
            change_mask(self.thread(), |_| mask);
        }
    }

    /// Signals that are pending and blocked, sigpending(2).
    pub fn pending_signals(&self) -> SigSet {
        let signals = self.group().lock_signals();
        let t = self.thread().signals.lock();
        signals.pending.set().union(t.pending.set()).intersect(t.mask.get())
    }

    /// The alternate stack, and whether the task runs on it (`rsp` tells).
    pub fn alt_stack(&self) -> AltStack {
        self.altstack
    }

    /// sigaltstack(2): replaces the alternate stack (an empty one disables). `EPERM` while running on the old one.
    pub fn set_alt_stack(&mut self, new: AltStack) -> Result<(), Errno> {
        if self.on_alt_stack() {
            return Err(Errno::EPERM);
        }
        if new.size != 0 && new.size < abi::signal::MINSIGSTKSZ {
            return Err(Errno::ENOMEM);
        }
        self.altstack = new;
        Ok(())
    }

    /// Whether the stack pointer lies on the alternate stack.
    pub fn on_alt_stack(&self) -> bool {
        self.altstack.autodisarm == super::types::AutoDisarm::No && self.altstack.holds(self.user.regs.rsp)
    }

    /// sigsuspend(2), and pause(2) with the present mask: sleeps until a handler has run.
    pub fn sigsuspend(&mut self, mask: SigSet) -> SysResult {
        self.set_temporary_mask(mask);
        loop {
            match self.sleep(None) {
                Err(Blocked::Interrupted) => return Err(SysErr::Restart(Restart::NoHand)),
                Ok(()) | Err(Blocked::TimedOut) => {}
            }
        }
    }

    /// Takes a pending signal of `set`, whether or not it is blocked, for `sigtimedwait` and `signalfd`.
    pub fn take_signal(&self, set: SigSet) -> Option<SigInfo> {
        self.thread().take_signal(set)
    }

    /// rt_sigtimedwait(2): waits for one of `set` until the monotonic time `deadline_ns`. `EAGAIN` when that passes.
    pub fn sigtimedwait(&mut self, set: SigSet, deadline_ns: Option<u64>) -> SysResult<SigInfo> {
        let set = set.minus(SigSet::UNBLOCKABLE);
        let await_set = |task: &Self, set: SigSet| {
            let _signals = task.group().lock_signals();
            task.thread().signals.lock().awaited = set;
        };
        await_set(self, set);
        let result = loop {
            if let Some(info) = self.take_signal(set) {
                break Ok(info);
            }
            match self.sleep(deadline_ns) {
                Ok(()) => {}
                Err(Blocked::TimedOut) => break self.take_signal(set).ok_or(SysErr::Errno(Errno::EAGAIN)),
                Err(Blocked::Interrupted) => {
                    break self.take_signal(set).ok_or(SysErr::Errno(Errno::EINTR));
                }
            }
        };
        await_set(self, SigSet::EMPTY);
        result
    }
}

impl Thread {
    /// Takes a pending signal of `set`, this thread's own first.
    pub fn take_signal(&self, set: SigSet) -> Option<SigInfo> {
        let mut signals = self.group().lock_signals();
        let blocked = SigSet::ALL.minus(set);
        let mut t = self.signals.lock();
        let mut taken = t.pending.take_next(blocked).or_else(|| signals.pending.take_next(blocked));
        drop(t);
        drop(signals);
        if let Some(SigData::Timer { id, overrun, .. }) = taken.as_mut().map(|info| &mut info.data) {
            *overrun = self.group().timers.delivered(*id, *overrun);
        }
        taken
    }

    /// Signals pending for this thread or its group.
    pub fn pending_signals(&self) -> SigSet {
        let signals = self.group().lock_signals();
        let t = self.signals.lock();
        signals.pending.set().union(t.pending.set())
    }
}
