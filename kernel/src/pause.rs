//! External stops: the whole sandbox stands still while someone holds it paused.
//!
//! ```text
//!   task                                pauser
//!   quiet := false      (SeqCst)        depth += 1         (SeqCst)
//!   depth > 0? -> wait  (SeqCst)        quiet of all? else wait for them
//! ```
//! Either the task sees the pause or the pauser sees a task that is not quiet and waits for it. A task that sleeps is
//! quiet: its first act after the sleep is to ask here. Pauses nest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sync::{Condvar, Mutex};

use crate::task::set::TaskSet;
use crate::task::thread::{Thread, Work};

const PAUSES: sync::LockClass = sync::LockClass::leaf("kernel.pauses");

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

    /// The task is about to sleep.
    pub(crate) fn asleep(&self, thread: &Thread) {
        thread.quiet.store(true, Ordering::SeqCst);
        if self.depth.load(Ordering::SeqCst) > 0 {
            let guard = self.lock.lock();
            self.changed.notify_all();
            drop(guard);
        }
    }

    /// The task has slept, or has seen [`Work::PAUSE`]: waits while the sandbox is paused.
    pub(crate) fn awake(&self, thread: &Thread) {
        thread.quiet.store(false, Ordering::SeqCst);
        if self.depth.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut guard = self.lock.lock();
        thread.quiet.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        while self.depth.load(Ordering::SeqCst) > 0 {
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
        loop {
            let threads: Vec<Arc<Thread>> = tasks.lock().threads.values().cloned().collect();
            let loud: Vec<_> = threads.iter().filter(|t| !t.quiet.load(Ordering::SeqCst)).collect();
            if loud.is_empty() {
                return;
            }
            for thread in &loud {
                thread.kick(Work::PAUSE);
            }
            let guard = self.lock.lock();
            if loud.iter().any(|t| !t.quiet.load(Ordering::SeqCst)) {
                drop(self.changed.wait(guard));
            }
        }
    }

    /// Takes one pause back; tasks go on when it was the last.
    pub(crate) fn unpause(&self) {
        let _guard = self.lock.lock();
        self.depth.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_all();
    }
}
