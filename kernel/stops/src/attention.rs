//! What wants a task, and making it look.
//!
//! ```text
//!   kicker                                   task's own thread
//!   flags |= F        (SeqCst)               in_guest := true   (SeqCst)
//!   in_guest? -> interrupt (SeqCst load)     flags != 0? -> stay (SeqCst load)
//!   unpark                                   switch to guest code
//!                                            in_guest := false
//! ```
//! Either the kicker sees `in_guest` and interrupts, or the task sees the flag and does not enter the guest. An interrupt
//! that comes late is remembered by the platform and costs one turn of the loop. A task that sleeps looks at the flags before
//! it parks and after; an unpark between is remembered by the parker.

use std::sync::Arc;

use sync::Parker;
use sync::atomic::{AtomicBool, AtomicU32, Ordering, fence_for_model};

bitflags::bitflags! {
    /// What a task has to look at before it runs guest code or sleeps.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Work: u32 {
        /// A signal may be deliverable.
        const SIGNAL = 1;
        /// The thread has to exit.
        const KILL = 2;
        /// The group stops or is stopped.
        const STOP = 4;
        /// The sandbox is paused.
        const PAUSE = 8;
        /// Interval timers on CPU time want to be looked at.
        const CPU_TIMERS = 16;
        /// Owners of files are to hear of events by signals.
        const TIDINGS = 32;
    }
}

/// Something wants the task that would have slept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupted;

/// The part of a task that others reach to make it look.
#[derive(Debug, Default)]
pub struct Attention {
    flags: AtomicU32,
    in_guest: AtomicBool,
    parker: Arc<Parker>,
    /// It touches nothing until it has asked [`crate::Pauses`]. SeqCst, see there.
    pub(crate) quiet: AtomicBool,
    /// Pauses of this task alone. SeqCst, see [`crate::Pauses`].
    pub(crate) held: AtomicU32,
    /// It has still to count itself as stopped in the running group stop. Relaxed: under the lock of [`crate::Stops`].
    pub(crate) stop_due: AtomicBool,
}

impl Attention {
    /// Of a task that runs and that nothing wants.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where it sleeps.
    pub fn parker(&self) -> &Arc<Parker> {
        &self.parker
    }

    /// What wants it. Pairs with the store in [`Attention::kick`].
    pub fn work(&self) -> Work {
        Work::from_bits_retain(self.flags.load(Ordering::SeqCst))
    }

    /// Sets flags and makes the task look at them, wherever it is; `interrupt` stops its guest code.
    pub fn kick(&self, work: Work, interrupt: impl FnOnce()) {
        // SeqCst: see the diagram at the module's head.
        self.flags.fetch_or(work.bits(), Ordering::SeqCst);
        fence_for_model();
        if self.in_guest.load(Ordering::SeqCst) {
            interrupt();
        }
        self.parker.unpark();
    }

    /// Sets flags that the task itself will see on its way out.
    pub fn set_work(&self, work: Work) {
        self.flags.fetch_or(work.bits(), Ordering::SeqCst);
    }

    /// Takes flags back: they were looked at, or want nothing any more.
    pub fn clear_work(&self, work: Work) {
        self.flags.fetch_and(!work.bits(), Ordering::SeqCst);
    }

    /// Enters guest code unless there is work. By the task's own thread only.
    pub fn enter_guest(&self) -> Result<(), Work> {
        self.in_guest.store(true, Ordering::SeqCst);
        fence_for_model();
        let work = self.work();
        if work.is_empty() {
            return Ok(());
        }
        self.in_guest.store(false, Ordering::SeqCst);
        Err(work)
    }

    /// It is back from guest code.
    pub fn leave_guest(&self) {
        // Relaxed would do: a kicker that still sees `true` interrupts once too often.
        self.in_guest.store(false, Ordering::Relaxed);
    }

    /// Whether it runs guest code, or is about to or back from it.
    pub fn is_in_guest(&self) -> bool {
        self.in_guest.load(Ordering::Relaxed)
    }

    /// Sleeps once, by `sleep`, unless something of `stops` wants the task or comes meanwhile. `Ok` may be for nothing.
    pub fn sleep_unless(&self, stops: Work, sleep: impl FnOnce()) -> Result<(), Interrupted> {
        if self.work().intersects(stops) {
            return Err(Interrupted);
        }
        sleep();
        if self.work().intersects(stops) { Err(Interrupted) } else { Ok(()) }
    }

    /// Whether it neither sleeps nor stands still for a pause, nor has ended.
    pub fn is_awake(&self) -> bool {
        !self.quiet.load(Ordering::SeqCst)
    }

    /// It never runs: it is quiet for good.
    pub fn never_runs(&self) {
        self.quiet.store(true, Ordering::SeqCst);
    }
}

/// A task, as far as others make it look.
pub trait Member: Send + Sync {
    /// Its flags and its parker.
    fn attention(&self) -> &Attention;

    /// Makes guest code that it runs stop.
    fn interrupt(&self);

    /// Sets flags and makes the task look at them, wherever it is.
    fn kick(&self, work: Work) {
        self.attention().kick(work, || self.interrupt());
    }
}

/// Stands still for a group stop, until that is over or the task has to exit. `count` counts it in the stop
/// ([`crate::Stops::count_stopped`]) and tells who waits for that; `sleep` sleeps once.
pub fn stand_still(who: &Attention, mut count: impl FnMut(), mut sleep: impl FnMut()) {
    loop {
        let work = who.work();
        if work.contains(Work::KILL) || !work.contains(Work::STOP) {
            return;
        }
        // Each time: a further stop may follow a continuation that this task has not seen.
        count();
        sleep();
    }
}

/// Waits until the thread is the last of its process, as execve(2) does; `sleep` sleeps once, unless the task is killed.
pub fn wait_alone(
    mut is_alone: impl FnMut() -> bool,
    mut sleep: impl FnMut() -> Result<(), Interrupted>,
) -> Result<(), Interrupted> {
    while !is_alone() {
        sleep()?;
    }
    Ok(())
}
