//! Sleeping: the one place where a task waits for others.
//!
//! A sleep ends by a wake (perhaps for nothing: callers check again), by its deadline, or because something else needs
//! the task: a signal, a stop, an exit. No lock may be held. What a sleeper must not lose is in its caller's restart
//! block or run state, never only on this stack, because an interrupted sleep is left by returning.

use std::cell::Cell;
use std::sync::Arc;

use abi::Errno;
use fs::pipe::Pipe;
use fs::vfs::File;
use mm::Mm;
use smallvec::SmallVec;
use waiter::{EventMask, Mode, Pollable, Registration, WaitQueue, Waiter};

use stops::{Interrupted, Work};

use super::Task;
use super::later::Later;
use super::thread::{Activity, Thread};
use crate::error::{Restart, SysErr, SysResult};
use crate::event::sigio;
use crate::kernel::Kernel;

/// Why a sleep ended without what it waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// A signal, a stop or an exit wants the task.
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

impl Blocked {
    /// What a call that is restarted by `SA_RESTART` answers.
    pub fn into_restart(self) -> SysErr {
        match self {
            Self::Interrupted => SysErr::Restart(Restart::Sys),
            Self::TimedOut => SysErr::Errno(Errno::EAGAIN),
        }
    }
}

/// What interrupts a sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interruptible {
    /// Any signal or stop.
    Yes,
    /// Only the end of the task.
    Killable,
}

/// Whether an operation may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Until it can be done.
    Wait,
    /// It fails with `EAGAIN`.
    None,
}

impl Patience {
    /// What a file's `O_NONBLOCK` says.
    pub fn of(file: &File) -> Self {
        if file.is_nonblocking() { Self::None } else { Self::Wait }
    }
}

/// The part of a task that can sleep; also how a file system waits for it (opening a FIFO).
pub(crate) struct Sleeper {
    kernel: Arc<Kernel>,
    thread: Arc<Thread>,
    later: Later,
    /// The address space of the program before the last execve(2), whose end waits for a moment of rest.
    old_space: Cell<Option<Arc<Mm>>>,
}

impl Sleeper {
    pub(crate) fn new(kernel: Arc<Kernel>, thread: Arc<Thread>) -> Self {
        Self { kernel, thread, later: Later::default(), old_space: Cell::new(None) }
    }

    /// The wake-up that waits for a moment of rest, if there is one and its time has not come.
    pub(super) fn later(&self) -> Option<&Later> {
        self.later.pending(sync::monotonic_now_ns).then_some(&self.later)
    }

    /// Does now what was put off.
    pub(super) fn settle(&self) {
        self.later.now();
        sigio::tell();
        drop(self.take_old_space());
    }

    /// Lets `mm`, in which nobody runs any more, end when the task next sleeps, or after it has ended.
    pub(super) fn keep_old_space(&self, mm: Arc<Mm>) {
        drop(self.old_space.replace(Some(mm)));
    }

    /// What [`Self::keep_old_space`] has kept.
    pub(super) fn take_old_space(&self) -> Option<Arc<Mm>> {
        self.old_space.take()
    }

    pub(crate) fn park(&self, deadline_ns: Option<u64>, interruptible: Interruptible) -> Result<(), Blocked> {
        let stops = match interruptible {
            Interruptible::Yes => Work::SIGNAL | Work::KILL | Work::STOP,
            Interruptible::Killable => Work::KILL,
        };
        let activity = if interruptible == Interruptible::Yes { Activity::Sleeping } else { Activity::Waiting };
        let attention = self.thread.attention();
        attention
            .sleep_unless(stops, || self.park_as(activity, deadline_ns))
            .map_err(|Interrupted| Blocked::Interrupted)?;
        match deadline_ns {
            Some(deadline) if sync::monotonic_now_ns() >= deadline => Err(Blocked::TimedOut),
            _ => Ok(()),
        }
    }

    /// Sleeps once, whatever the flags; a pause that begins meanwhile is waited out.
    pub(crate) fn park_as(&self, activity: Activity, deadline_ns: Option<u64>) {
        self.settle();
        self.thread.clock.fall_asleep();
        self.thread.set_activity(activity);
        self.thread.count_sleep();
        self.kernel.pauses().sleep(self.thread.attention(), || {
            let context = self.thread.interrupter();
            if let Some(context) = &context {
                context.rest(&|| self.thread.parker().has_wake());
            }
            self.thread.parker().park(deadline_ns);
            if let Some(context) = &context {
                context.wake();
            }
        });
        self.kernel.watchdog().notice(&self.kernel);
        self.thread.set_activity(Activity::Running);
        self.thread.clock.wake_up();
    }
}

impl fs::Blocker for Sleeper {
    fn wait_until(&self, object: &dyn Pollable, interest: EventMask, deadline_ns: Option<u64>) -> Result<(), Errno> {
        let waiter = Arc::clone(self.thread.parker()) as Arc<dyn Waiter>;
        let _registration = object.queue().map(|q| q.register(waiter, interest, Mode::Shared));
        if !object.readiness(interest).is_empty() {
            return Ok(());
        }
        match self.park(deadline_ns, Interruptible::Yes) {
            Ok(()) | Err(Blocked::TimedOut) => Ok(()),
            Err(Blocked::Interrupted) => Err(Errno::EINTR),
        }
    }

    fn wake_readers_later(&self, pipe: &Arc<Pipe>) -> bool {
        self.later.put_off(pipe, sync::monotonic_now_ns);
        true
    }
}

impl Task {
    /// Sleeps once: until the parker is woken or CLOCK_MONOTONIC reaches `deadline_ns`. `Ok` may be spurious.
    pub fn sleep(&mut self, deadline_ns: Option<u64>) -> Result<(), Blocked> {
        self.sleeper.park(deadline_ns, Interruptible::Yes)
    }

    /// This task as someone to wake.
    pub fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::clone(self.thread().parker()) as Arc<dyn Waiter>
    }

    /// Sleeps until `ready` answers, which is asked again after each wake of `queue` for `interest`.
    pub fn wait_until<T>(
        &mut self,
        queue: &WaitQueue,
        interest: EventMask,
        deadline_ns: Option<u64>,
        mut ready: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, Blocked> {
        let _registration = queue.register(self.waiter(), interest, Mode::Shared);
        loop {
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            if let Err(blocked) = self.sleep(deadline_ns) {
                // What came at the last moment counts.
                return ready(self).ok_or(blocked);
            }
        }
    }

    /// Sleeps until one of `objects` is ready for what is asked of it.
    pub fn block_on(
        &mut self,
        objects: &[(&dyn Pollable, EventMask)],
        deadline_ns: Option<u64>,
    ) -> Result<(), Blocked> {
        let waiter = self.waiter();
        let _registrations: SmallVec<[Registration; 4]> = objects
            .iter()
            .filter_map(|(object, mask)| Some(object.queue()?.register(Arc::clone(&waiter), *mask, Mode::Shared)))
            .collect();
        // Only what is asked for: an object may tell of more, for which the caller would call again at once.
        let ready = || objects.iter().any(|(object, mask)| object.readiness(*mask).intersects(*mask));
        loop {
            if ready() {
                return Ok(());
            }
            if let Err(blocked) = self.sleep(deadline_ns) {
                return if ready() { Ok(()) } else { Err(blocked) };
            }
        }
    }

    /// Does `op` on `file`, and again after each wake for `mask` while it says `EAGAIN` and may wait. An interrupted wait,
    /// here or in the file (`EINTR`), is restarted if the handler says so ([`Restart::Sys`]).
    pub fn retry_blocking<T>(
        &mut self,
        file: &Arc<File>,
        mask: EventMask,
        patience: Patience,
        deadline_ns: Option<u64>,
        mut op: impl FnMut(&mut Self) -> SysResult<T>,
    ) -> SysResult<T> {
        match op(self) {
            Err(SysErr::Errno(Errno::EAGAIN)) if patience == Patience::Wait => {}
            result => return or_restart(result),
        }
        let Some(queue) = file.queue() else { return Err(SysErr::Errno(Errno::EAGAIN)) };
        let registration = queue.register(self.waiter(), mask, Mode::Exclusive);
        loop {
            match op(self) {
                Err(SysErr::Errno(Errno::EAGAIN)) => {}
                result => {
                    // What is left (more bytes, or an end that everyone has to see) is the next waiter's: dropping
                    // passes the wake on.
                    if file.readiness(mask).is_empty() {
                        registration.satisfied();
                    }
                    return or_restart(result);
                }
            }
            self.sleep(deadline_ns).map_err(Blocked::into_restart)?;
        }
    }
}

/// What a file could not finish because of a signal may be begun again.
fn or_restart<T>(result: SysResult<T>) -> SysResult<T> {
    match result {
        Err(SysErr::Errno(Errno::EINTR)) => Err(SysErr::Restart(Restart::Sys)),
        other => other,
    }
}
