//! Who may signal whom: kill(2), tgkill(2), rt_sigqueueinfo(2).

use std::sync::Arc;

use abi::Errno;
use auth::{Caps, Creds};

use super::info::{SI_TKILL, SI_USER, SIGINFO_SIZE, SigData, SigInfo};
use super::send::{Origin, Sent};
use super::types::Signal;
use crate::ids::{INIT_PID, Pid, Tid};
use crate::task::Task;
use crate::task::group::ThreadGroup;

/// Whom kill(2) names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SignalTarget {
    /// One process.
    Process(Pid),
    /// A process group.
    Group(Pid),
    /// The caller's process group.
    OwnGroup,
    /// All but init and the caller's process.
    All,
}

impl SignalTarget {
    /// From kill(2)'s first argument.
    pub fn from_raw(pid: i32) -> Result<Self, Errno> {
        Ok(match pid {
            0 => Self::OwnGroup,
            -1 => Self::All,
            i32::MIN => return Err(Errno::ESRCH),
            n if n < 0 => Self::Group(Pid(n.unsigned_abs())),
            n => Self::Process(Pid(n.unsigned_abs())),
        })
    }
}

/// Whether credentials allow a signal: equal user ids or CAP_KILL.
fn allowed(sender: &Creds, target: &Creds) -> bool {
    sender.has(Caps::KILL)
        || sender.euid == target.suid
        || sender.euid == target.ruid
        || sender.ruid == target.suid
        || sender.ruid == target.ruid
}

impl Task {
    /// kill(2). No signal only checks. `ESRCH` when there is nobody, `EPERM` when none may be signalled.
    pub fn kill(&self, target: SignalTarget, signal: Option<Signal>) -> Result<(), Errno> {
        let info = signal.map(|s| SigInfo::kill(s, self.pid(), self.creds().ruid.0));
        let groups: Vec<Arc<ThreadGroup>> = {
            let tree = self.kernel().tasks().lock();
            match target {
                SignalTarget::Process(pid) => {
                    // A thread's number names its process, as on Linux.
                    let thread = tree.threads.get(&pid.leader()).ok_or(Errno::ESRCH)?;
                    vec![Arc::clone(thread.group())]
                }
                SignalTarget::Group(pgrp) => tree.members(pgrp),
                SignalTarget::OwnGroup => tree.members(tree.entry(self.pid())?.pgrp),
                SignalTarget::All => tree
                    .groups
                    .values()
                    .filter(|e| e.group.pid() != INIT_PID && e.group.pid() != self.pid())
                    .map(|e| Arc::clone(&e.group))
                    .collect(),
            }
        };
        let mut result = Err(Errno::ESRCH);
        for group in groups {
            match (self.signal_group(&group, info.clone()), result) {
                (Ok(()), _) => result = Ok(()),
                (Err(e), Err(_)) => result = Err(e),
                (Err(_), Ok(())) => {}
            }
        }
        result
    }

    /// Sends to one process after the checks of kill(2); `None` only checks.
    pub fn signal_group(&self, group: &Arc<ThreadGroup>, info: Option<SigInfo>) -> Result<(), Errno> {
        let signal = info.as_ref().map(|i| i.signal);
        self.check_signal(group, signal)?;
        let Some(info) = info else { return Ok(()) };
        if group.pid() == INIT_PID {
            self.kernel().signal_from_guest_to_init(info);
            return Ok(());
        }
        match self.kernel().send_to_group(group, info, Origin::Guest) {
            Sent::NoRoom => Err(Errno::EAGAIN),
            _ => Ok(()),
        }
    }

    fn check_signal(&self, group: &Arc<ThreadGroup>, signal: Option<Signal>) -> Result<(), Errno> {
        if group.pid() == self.pid() {
            return Ok(());
        }
        let (creds, session) = {
            let tree = self.kernel().tasks().lock();
            let entry = tree.entry(group.pid())?;
            (entry.leader.creds(), entry.session.id() == tree.entry(self.pid())?.session.id())
        };
        // kill(2): SIGCONT goes to any process of the same session.
        if allowed(self.creds(), &creds) || (signal == Some(Signal::CONT) && session) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    /// tkill(2) without a process, tgkill(2) with one.
    pub fn tgkill(&self, pid: Option<Pid>, tid: Tid, signal: Option<Signal>) -> Result<(), Errno> {
        let data = SigData::Kill { pid: self.pid(), uid: self.creds().ruid.0 };
        let info = signal.map(|signal| SigInfo { signal, code: SI_TKILL, errno: 0, data });
        self.signal_thread(pid, tid, info)
    }

    /// Sends to one thread (of process `pid`, if given) after the checks of tgkill(2); `None` only checks.
    pub fn signal_thread(&self, pid: Option<Pid>, tid: Tid, info: Option<SigInfo>) -> Result<(), Errno> {
        let thread = self.kernel().tasks().thread(tid).ok_or(Errno::ESRCH)?;
        if pid.is_some_and(|pid| pid != thread.pid()) {
            return Err(Errno::ESRCH);
        }
        self.check_signal(thread.group(), info.as_ref().map(|i| i.signal))?;
        let Some(info) = info else { return Ok(()) };
        if thread.pid() == INIT_PID {
            self.kernel().signal_from_guest_to_init(info);
            return Ok(());
        }
        match self.kernel().send_to_thread(&thread, info, Origin::Guest) {
            Sent::NoRoom => Err(Errno::EAGAIN),
            _ => Ok(()),
        }
    }

    /// rt_sigqueueinfo(2) (`tid` is `None`) and rt_tgsigqueueinfo(2): `bytes` are the guest's `siginfo_t`. `EPERM` when
    /// they pretend to come from the kernel or kill(2).
    pub fn sigqueue(
        &self,
        pid: Pid,
        tid: Option<Tid>,
        signal: Option<Signal>,
        bytes: &[u8; SIGINFO_SIZE],
    ) -> Result<(), Errno> {
        let info = signal.map(|s| SigInfo::from_guest(s, bytes));
        let code = SigInfo::from_guest(signal.unwrap_or(Signal::HUP), bytes).code;
        let own = match tid {
            Some(tid) => tid == self.tid(),
            None => pid == self.pid(),
        };
        if (code >= SI_USER || code == SI_TKILL) && !own {
            return Err(Errno::EPERM);
        }
        match tid {
            Some(tid) => self.signal_thread(Some(pid), tid, info),
            None => {
                let thread = self.kernel().tasks().thread(pid.leader()).ok_or(Errno::ESRCH)?;
                self.signal_group(thread.group(), info)
            }
        }
    }
}
