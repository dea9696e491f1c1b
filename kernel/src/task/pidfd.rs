//! Descriptors that stand for a process (pidfd_open(2)): readable once it has ended.

use std::sync::Arc;

use abi::fs::OpenFlags;
use fs::vfs::{File, FileOps};
use waiter::{EventMask, WaitQueue};

use super::group::ThreadGroup;

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
    group: Arc<ThreadGroup>,
}

impl PidFd {
    /// The process.
    pub fn group(&self) -> &Arc<ThreadGroup> {
        &self.group
    }
}

impl FileOps for PidFd {
    fn readiness(&self, interest: EventMask) -> EventMask {
        if self.group.has_ended() { interest & EventMask::READABLE } else { EventMask::empty() }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.group.exit_events)
    }

    fn fdinfo(&self) -> String {
        let pid = self.group.pid();
        format!("Pid:\t{pid}\nNSpid:\t{pid}\n")
    }
}

/// A new file that stands for `group`.
pub fn open(group: &Arc<ThreadGroup>, nonblocking: Nonblocking) -> Arc<File> {
    let flags = match nonblocking {
        Nonblocking::No => OpenFlags::O_RDWR,
        Nonblocking::Yes => OpenFlags::O_RDWR | OpenFlags::O_NONBLOCK,
    };
    File::anonymous(Arc::new(PidFd { group: Arc::clone(group) }), flags, "anon_inode:[pidfd]")
}
