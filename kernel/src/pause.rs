//! External stops: the whole sandbox, or one task, stands still while someone holds it paused.
//!
//! Both are counted, so that pauses nest: a task runs when neither its own count nor the sandbox's is above zero.
//!
//! ```text
//!   task                                pauser
//!   quiet := false      (SeqCst)        count += 1         (SeqCst)
//!   counts > 0? -> wait (SeqCst)        quiet of all? else wait for them
//! ```
//! Either the task sees the pause or the pauser sees a task that is not quiet and waits for it. A task that sleeps is
//! quiet: its first act after the sleep is to ask here. So a pause interrupts no sleep, and no call sees any of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sync::{Condvar, Mutex};

use crate::task::set::TaskSet;
use crate::task::thread::{Thread, Work};

const PAUSES: sync::LockClass = sync::LockClass::leaf("kernel.pauses");

/// What a look at some tasks found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hushed {
    /// They stand still.
    All,
    /// One more does, perhaps all.
    Perhaps,
}

/// Who holds the sandbox paused.
pub(crate) struct Pauses {
    depth: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Pauses {
    pub(crate) fn new() -> Self {
        Self { depth: AtomicUsize::new(0), lock: Mutex::new(PAUSES, ()), changed: Condvar::new() }
    }

    /// Whether somebody holds the task.
    fn holds(&self, thread: &Thread) -> bool {
        self.depth.load(Ordering::SeqCst) > 0 || thread.held.load(Ordering::SeqCst) > 0
    }

    /// The task is about to sleep.
    pub(crate) fn asleep(&self, thread: &Thread) {
        thread.quiet.store(true, Ordering::SeqCst);
        if self.holds(thread) {
            let guard = self.lock.lock();
            self.changed.notify_all();
            drop(guard);
        }
    }

    /// The task has slept, or has seen [`Work::PAUSE`]: waits while the sandbox is paused.
    pub(crate) fn awake(&self, thread: &Thread) {
        thread.quiet.store(false, Ordering::SeqCst);
        if !self.holds(thread) {
            return;
        }
        let mut guard = self.lock.lock();
        thread.quiet.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        while self.holds(thread) {
            guard = self.changed.wait(guard);
        }
        thread.quiet.store(false, Ordering::SeqCst);
        drop(guard);
    }

    /// Returns when every task stands still.
    pub(crate) fn pause(&self, tasks: &TaskSet) {
        {
            let _guard = self.lock.lock();
            self.depth.fetch_add(1, Ordering::SeqCst);
        }
        // Whoever is made meanwhile is made by a task that is not quiet.
        loop {
            let threads: Vec<_> = tasks.lock().threads.values().cloned().collect();
            if self.hush(&threads) == Hushed::All {
                return;
            }
        }
    }

    /// Returns when this task stands still.
    pub(crate) fn pause_task(&self, thread: &Arc<Thread>) {
        {
            let _guard = self.lock.lock();
            thread.held.fetch_add(1, Ordering::SeqCst);
        }
        while self.hush(std::slice::from_ref(thread)) == Hushed::Perhaps {}
    }

    /// Makes those of `threads` that are not quiet look here, and waits until each has been.
    fn hush(&self, threads: &[Arc<Thread>]) -> Hushed {
        let loud: Vec<_> = threads.iter().filter(|t| !t.quiet.load(Ordering::SeqCst)).collect();
        if loud.is_empty() {
            return Hushed::All;
        }
        for thread in &loud {
            thread.kick(Work::PAUSE);
        }
        let mut guard = self.lock.lock();
        for thread in loud {
            while !thread.quiet.load(Ordering::SeqCst) {
                guard = self.changed.wait(guard);
            }
        }
        Hushed::Perhaps
    }

    /// Takes one pause back; tasks go on when it was the last.
    pub(crate) fn unpause(&self) {
        let _guard = self.lock.lock();
        self.depth.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Takes one pause of this task back.
    pub(crate) fn unpause_task(&self, thread: &Thread) {
        let _guard = self.lock.lock();
        thread.held.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_all();
    }
}
