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
//! quiet: its first act after the sleep is to ask here. So a pause interrupts no sleep, and no call sees any of it. A new
//! task's first act is to ask, too: who pauses may have looked who is there before its maker, now quiet, made it.

use std::sync::Arc;

use sync::atomic::{AtomicUsize, Ordering, fence_for_model};
use sync::{Condvar, LockClass, Mutex};

use crate::attention::{Attention, Member, Work};

const PAUSES: LockClass = LockClass::leaf("kernel.pauses");

/// What a look at some tasks found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hushed {
    /// They stand still.
    All,
    /// One more does, perhaps all.
    Perhaps,
}

/// Who holds the sandbox paused.
pub struct Pauses {
    depth: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Default for Pauses {
    fn default() -> Self {
        Self::new()
    }
}

impl Pauses {
    /// Nobody.
    pub fn new() -> Self {
        Self { depth: AtomicUsize::new(0), lock: Mutex::new(PAUSES, ()), changed: Condvar::new() }
    }

    /// Whether somebody holds the task.
    fn holds(&self, who: &Attention) -> bool {
        fence_for_model();
        self.depth.load(Ordering::SeqCst) > 0 || who.held.load(Ordering::SeqCst) > 0
    }

    /// Sleeps by `sleep`; a pause that begins meanwhile is waited out.
    pub fn sleep(&self, who: &Attention, sleep: impl FnOnce()) {
        self.asleep(who);
        sleep();
        self.awake(who);
    }

    /// The task is about to sleep, or ends.
    pub fn asleep(&self, who: &Attention) {
        who.quiet.store(true, Ordering::SeqCst);
        if self.holds(who) {
            let guard = self.lock.lock();
            self.changed.notify_all();
            drop(guard);
        }
    }

    /// The task is new, has slept, or has seen [`Work::PAUSE`]: waits while it is paused.
    pub fn awake(&self, who: &Attention) {
        who.quiet.store(false, Ordering::SeqCst);
        if !self.holds(who) {
            return;
        }
        let mut guard = self.lock.lock();
        who.quiet.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        while self.holds(who) {
            guard = self.changed.wait(guard);
        }
        who.quiet.store(false, Ordering::SeqCst);
        drop(guard);
    }

    /// The task looks between two steps, where [`Work::PAUSE`] may want it.
    pub fn look(&self, who: &Attention, before: impl FnOnce()) {
        if who.work().contains(Work::PAUSE) {
            before();
            // First: a pause that begins from here on sets it again.
            who.clear_work(Work::PAUSE);
            self.awake(who);
        }
    }

    /// Returns when every task stands still; `tasks` says who is there. Who is there later asks [`Pauses::awake`] first.
    pub fn pause<M: Member>(&self, mut tasks: impl FnMut() -> Vec<Arc<M>>) {
        {
            let _guard = self.lock.lock();
            self.depth.fetch_add(1, Ordering::SeqCst);
        }
        while self.hush(&tasks()) == Hushed::Perhaps {}
    }

    /// Returns when this task stands still.
    pub fn pause_task<M: Member>(&self, task: &Arc<M>) {
        {
            let _guard = self.lock.lock();
            task.attention().held.fetch_add(1, Ordering::SeqCst);
        }
        while self.hush(std::slice::from_ref(task)) == Hushed::Perhaps {}
    }

    /// Makes those of `tasks` that are not quiet look here, and waits until each has been.
    fn hush<M: Member>(&self, tasks: &[Arc<M>]) -> Hushed {
        fence_for_model();
        let loud: Vec<_> = tasks.iter().filter(|task| task.attention().is_awake()).collect();
        if loud.is_empty() {
            return Hushed::All;
        }
        for task in &loud {
            task.kick(Work::PAUSE);
        }
        let mut guard = self.lock.lock();
        for task in loud {
            while task.attention().is_awake() {
                guard = self.changed.wait(guard);
            }
        }
        Hushed::Perhaps
    }

    /// Takes one pause back; tasks go on when it was the last.
    pub fn unpause(&self) {
        let _guard = self.lock.lock();
        self.depth.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Takes one pause of this task back.
    pub fn unpause_task(&self, who: &Attention) {
        let _guard = self.lock.lock();
        who.held.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_all();
    }
}
