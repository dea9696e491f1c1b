//! Descriptors that stand for a process or a thread (pidfd_open(2)): readable once it has ended.

use std::sync::Arc;

use abi::fs::OpenFlags;
use fs::vfs::{File, FileOps};
use waiter::{EventMask, WaitQueue};

use super::group::ThreadGroup;
use super::thread::{Activity, Thread};
use crate::ids::Tid;

/// What a pidfd stands for.
#[derive(Clone)]
pub enum Subject {
    /// A process.
    Process(Arc<ThreadGroup>),
    /// A thread (PIDFD_THREAD).
    Thread(Arc<Thread>),
}

/// Whether waiting on it fails with `EAGAIN` (PIDFD_NONBLOCK).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nonblocking {
    /// It waits.
    No,
    /// It fails.
    Yes,
}

/// The file behind a pidfd.
pub struct PidFd {
    subject: Subject,
}

impl PidFd {
    /// The process, or the thread's.
    pub fn group(&self) -> &Arc<ThreadGroup> {
        match &self.subject {
            Subject::Process(group) => group,
            Subject::Thread(thread) => thread.group(),
        }
    }

    /// The thread, if it stands for one.
    pub fn thread(&self) -> Option<Tid> {
        match &self.subject {
            Subject::Process(_) => None,
            Subject::Thread(thread) => Some(thread.tid()),
        }
    }
}

impl FileOps for PidFd {
    fn readiness(&self, interest: EventMask) -> EventMask {
        let ended = match &self.subject {
            Subject::Process(group) => group.has_ended(),
            Subject::Thread(thread) => thread.activity() == Activity::Zombie,
        };
        if ended { interest & EventMask::READABLE } else { EventMask::empty() }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.group().exit_events)
    }

    fn fdinfo(&self) -> String {
        let pid = self.thread().unwrap_or(self.group().pid().leader());
        format!("Pid:\t{pid}\nNSpid:\t{pid}\n")
    }
}

/// A new file that stands for `subject`.
pub fn open(subject: Subject, nonblocking: Nonblocking) -> Arc<File> {
    let flags = match nonblocking {
        Nonblocking::No => OpenFlags::O_RDWR,
        Nonblocking::Yes => OpenFlags::O_RDWR | OpenFlags::O_NONBLOCK,
    };
    File::anonymous(Arc::new(PidFd { subject }), flags, "anon_inode:[pidfd]")
}
