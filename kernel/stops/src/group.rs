//! Group stop, end of a group and execve: who of a process's threads takes part, and how far it is.
//!
//! All of it is under one lock of the caller's, the group's. A group is in at most one of these: it stops or is stopped, it
//! ends, one of its threads executes a program. What comes while another is under way:
//!
//! | | stop | end | execve, a new thread |
//! | --- | --- | --- | --- |
//! | while it stops or is stopped | nothing | ends the stop | has to come again |
//! | while it ends | nothing | nothing | has to come again |
//! | while one executes | nothing | ends that too | has to come again |
//!
//! Who has to come again first does what its flags say: stands still, or exits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::attention::{Member, Work};

/// Where a group stands in job control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupStop<S> {
    /// It runs.
    Running,
    /// Its threads are stopping; `left` have not stopped yet.
    Stopping {
        /// The signal that it stops by.
        signal: S,
        /// How many have to stop still.
        left: usize,
    },
    /// All have stopped; `reported` once a wait has consumed that.
    Stopped {
        /// The signal that it stopped by.
        signal: S,
        /// Whether a wait has consumed it.
        reported: bool,
    },
}

/// The group is in something that this cannot be beside: the call comes again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

/// Whether a group stop is complete by this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The last thread has stopped, or has left while all others were stopped: the parent is to hear of it.
    Complete,
    /// No.
    None,
}

/// Whether a process has threads left that run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remaining {
    /// At least one.
    Some,
    /// None.
    None,
}

/// What it meant that a thread left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// For a group stop.
    pub stop: Progress,
    /// For the group.
    pub remaining: Remaining,
}

/// One process's threads, and what they do together. `M` are threads, `S` signals, `E` ways to end.
pub struct Stops<M, S, E> {
    threads: Vec<Arc<M>>,
    exiting: Option<E>,
    /// Executes a program and waits for the others to go.
    exec: Option<Arc<M>>,
    stop: GroupStop<S>,
    continued: bool,
}

impl<M: Member, S: Copy + PartialEq, E: Copy> Default for Stops<M, S, E> {
    fn default() -> Self {
        Self { threads: Vec::new(), exiting: None, exec: None, stop: GroupStop::Running, continued: false }
    }
}

impl<M: Member, S: Copy + PartialEq, E: Copy> Stops<M, S, E> {
    /// Threads that have not begun to exit.
    pub fn threads(&self) -> &[Arc<M>] {
        &self.threads
    }

    /// How the group ends, once it does.
    pub fn exiting(&self) -> Option<E> {
        self.exiting
    }

    /// Job control.
    pub fn stop(&self) -> GroupStop<S> {
        self.stop
    }

    /// Whether a group stop is under way or complete.
    pub fn is_stopped_or_stopping(&self) -> bool {
        self.stop != GroupStop::Running
    }

    /// Whether it was continued and no wait has consumed that.
    pub fn was_continued(&self) -> bool {
        self.continued
    }

    /// A wait has consumed the continuation.
    pub fn forget_continued(&mut self) {
        self.continued = false;
    }

    /// A wait has consumed the stop.
    pub fn note_reported(&mut self) {
        if let GroupStop::Stopped { reported, .. } = &mut self.stop {
            *reported = true;
        }
    }

    /// Whether a new thread, process or program has to wait for what the group is in.
    pub fn check_idle(&self) -> Result<(), Busy> {
        let idle = self.exiting.is_none() && self.exec.is_none() && self.stop == GroupStop::Running;
        if idle { Ok(()) } else { Err(Busy) }
    }

    /// A further thread. From here on it takes part in everything: it must run, or [`Stops::leave`].
    pub fn join(&mut self, thread: Arc<M>) -> Result<(), Busy> {
        self.check_idle()?;
        self.threads.push(thread);
        Ok(())
    }

    /// Starts the end of the whole group, which is then neither stopped nor stopping.
    pub fn begin_exit(&mut self, status: E) {
        self.exiting.get_or_insert(status);
        self.stop = GroupStop::Running;
        self.continued = false;
        for thread in &self.threads {
            thread.kick(Work::KILL);
        }
    }

    /// Starts a group stop by `signal`, unless the group is in something else.
    pub fn begin_stop(&mut self, signal: S) {
        if self.check_idle().is_err() {
            return;
        }
        self.stop = GroupStop::Stopping { signal, left: self.threads.len() };
        self.continued = false;
        for thread in &self.threads {
            thread.attention().stop_due.store(true, Ordering::Relaxed);
            thread.kick(Work::STOP);
        }
    }

    /// Ends a group stop; says whether the group had stopped or was stopping.
    pub fn resume(&mut self) -> bool {
        let was = std::mem::replace(&mut self.stop, GroupStop::Running);
        if was == GroupStop::Running {
            return false;
        }
        for thread in &self.threads {
            let attention = thread.attention();
            attention.stop_due.store(false, Ordering::Relaxed);
            attention.clear_work(Work::STOP);
            attention.parker().unpark();
        }
        self.continued = true;
        true
    }

    /// Counts a thread as stopped in the running group stop, once.
    pub fn count_stopped(&mut self, thread: &M) -> Progress {
        let due = thread.attention().stop_due.swap(false, Ordering::Relaxed);
        let GroupStop::Stopping { signal, left } = self.stop else { return Progress::None };
        if !due {
            return Progress::None;
        }
        let left = left.saturating_sub(1);
        if left > 0 {
            self.stop = GroupStop::Stopping { signal, left };
            return Progress::None;
        }
        self.stop = GroupStop::Stopped { signal, reported: false };
        Progress::Complete
    }

    /// `thread` executes a program: the others are to exit.
    pub fn begin_exec(&mut self, thread: &Arc<M>) -> Result<(), Busy> {
        self.check_idle()?;
        self.exec = Some(Arc::clone(thread));
        for other in self.threads.iter().filter(|other| !Arc::ptr_eq(other, thread)) {
            other.kick(Work::KILL);
        }
        Ok(())
    }

    /// The program is another.
    pub fn end_exec(&mut self) {
        self.exec = None;
    }

    /// The thread that executes a program: whoever leaves the process for good wakes it.
    pub fn executing(&self) -> Option<&Arc<M>> {
        self.exec.as_ref()
    }

    /// A thread takes part no more: it exits, or never ran.
    pub fn leave(&mut self, thread: &Arc<M>) -> Left {
        self.threads.retain(|other| !Arc::ptr_eq(other, thread));
        if self.exec.as_ref().is_some_and(|exec| Arc::ptr_eq(exec, thread)) {
            self.exec = None;
        }
        let stop = self.count_stopped(thread);
        Left { stop, remaining: if self.threads.is_empty() { Remaining::None } else { Remaining::Some } }
    }
}
