//! Process groups and sessions: setpgid(2), getpgid(2), setsid(2), getsid(2), subreapers.

use std::sync::Arc;

use abi::Errno;

use super::Task;
use super::set::{Session, Subreaper};
use crate::ids::{INIT_PID, Pid};

impl Task {
    /// setpgid(2): moves `pid` (`None`: the caller) to the group `pgid` (`None`: one of its own).
    pub fn setpgid(&self, pid: Option<Pid>, pgid: Option<Pid>) -> Result<(), Errno> {
        let own = self.pid();
        let pid = pid.unwrap_or(own);
        let pgid = pgid.unwrap_or(pid);
        let mut tree = self.kernel().tasks().lock();
        let own_session = Arc::clone(&tree.entry(own)?.session);
        let entry = tree.entry(pid)?;
        if pid != own {
            if entry.parent != own {
                return Err(Errno::ESRCH);
            }
            if entry.session.id() != own_session.id() {
                return Err(Errno::EPERM);
            }
            if entry.execed {
                return Err(Errno::EACCES);
            }
        }
        if entry.session.id() == pid {
            return Err(Errno::EPERM);
        }
        let session = Arc::clone(&entry.session);
        if pgid != pid && tree.pgrps.get(&pgid).is_none_or(|p| p.session.id() != own_session.id()) {
            return Err(Errno::EPERM);
        }
        tree.move_to_pgrp(pid, pgid, &session);
        Ok(())
    }

    /// getpgid(2).
    pub fn getpgid(&self, pid: Option<Pid>) -> Result<Pid, Errno> {
        let tree = self.kernel().tasks().lock();
        let pid = pid.unwrap_or(self.pid());
        let pid = tree.threads.get(&pid.leader()).map_or(pid, |t| t.pid());
        Ok(tree.entry(pid)?.pgrp)
    }

    /// getsid(2).
    pub fn getsid(&self, pid: Option<Pid>) -> Result<Pid, Errno> {
        let tree = self.kernel().tasks().lock();
        let pid = pid.unwrap_or(self.pid());
        let pid = tree.threads.get(&pid.leader()).map_or(pid, |t| t.pid());
        Ok(tree.entry(pid)?.session.id())
    }

    /// setsid(2): `EPERM` for the leader of a process group, or while one is named like the caller.
    pub fn setsid(&self) -> Result<Pid, Errno> {
        let pid = self.pid();
        let mut tree = self.kernel().tasks().lock();
        if tree.entry(pid)?.session.id() == pid || tree.pgrps.contains_key(&pid) {
            return Err(Errno::EPERM);
        }
        tree.new_session(pid);
        self.group().set_tty(None);
        Ok(pid)
    }

    /// The caller's session.
    pub fn session(&self) -> Result<Arc<Session>, Errno> {
        Ok(Arc::clone(&self.kernel().tasks().lock().entry(self.pid())?.session))
    }

    /// PR_SET_CHILD_SUBREAPER.
    pub fn set_subreaper(&self, subreaper: Subreaper) {
        if let Ok(entry) = self.kernel().tasks().lock().entry_mut(self.pid()) {
            entry.subreaper = subreaper;
        }
    }

    /// PR_GET_CHILD_SUBREAPER.
    pub fn subreaper(&self) -> Subreaper {
        self.kernel().tasks().lock().entry(self.pid()).map_or(Subreaper::No, |e| e.subreaper)
    }

    /// Whether the process is init's child and nobody's else: what `getppid` of an orphan says.
    pub fn is_orphan(&self) -> bool {
        self.ppid() == INIT_PID
    }
}
