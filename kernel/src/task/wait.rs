//! Waiting for children: wait4(2), waitid(2).

use abi::Errno;
use abi::wait::WaitOptions;
use waiter::EventMask;

use stops::GroupStop;

use super::Task;
use super::exit::child_code;
use super::set::{GroupEntry, Tree};
use super::usage::Usage;
use crate::error::{Restart, SysErr, SysResult};
use crate::ids::Pid;
use crate::signal::info::child;
use crate::signal::types::Signal;

/// Which children are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitWhich {
    /// All.
    Any,
    /// This one.
    Process(Pid),
    /// Those of this process group.
    Group(Pid),
    /// Those of the caller's process group.
    OwnGroup,
}

/// What wait4(2) and waitid(2) ask. Without `WEXITED`, exits are not reported: wait4 adds it.
#[derive(Clone, Copy, Debug)]
pub struct WaitRequest {
    /// Which children.
    pub which: WaitWhich,
    /// How, and which changes.
    pub options: WaitOptions,
}

/// A child's change of state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitOutcome {
    /// Who.
    pub pid: Pid,
    /// Its real user id.
    pub uid: u32,
    /// `si_code`: `CLD_*`.
    pub code: i32,
    /// `si_status`: exit code or signal.
    pub status: i32,
    /// The status word of wait4(2).
    pub wait_status: i32,
    /// What it used.
    pub usage: Usage,
}

enum Scan {
    Found(WaitOutcome),
    /// There are children that may change.
    Later,
    /// There are none of the kind.
    Nobody,
}

impl Task {
    /// Waits for a child to change state. `None` when none has and `WNOHANG` is set. `ECHILD` when there is no such
    /// child.
    pub fn wait(&mut self, request: &WaitRequest) -> SysResult<Option<WaitOutcome>> {
        let queue = self.group().child_events.clone();
        let nohang = request.options.contains(WaitOptions::WNOHANG);
        if nohang {
            return match self.scan(request) {
                Scan::Found(outcome) => Ok(Some(outcome)),
                Scan::Later => Ok(None),
                Scan::Nobody => Err(SysErr::Errno(Errno::ECHILD)),
            };
        }
        let result = self.wait_until(&queue, EventMask::IN, None, |task| match task.scan(request) {
            Scan::Found(outcome) => Some(Ok(outcome)),
            Scan::Later => None,
            Scan::Nobody => Some(Err(Errno::ECHILD)),
        });
        match result {
            Ok(Ok(outcome)) => Ok(Some(outcome)),
            Ok(Err(errno)) => Err(SysErr::Errno(errno)),
            Err(_) => Err(SysErr::Restart(Restart::Sys)),
        }
    }

    fn scan(&self, request: &WaitRequest) -> Scan {
        let mut tree = self.kernel().tasks().lock();
        let Ok(own) = tree.entry(self.pid()) else { return Scan::Nobody };
        let own_pgrp = own.pgrp;
        let candidates: Vec<Pid> = match request.which {
            WaitWhich::Process(pid) => own.children.get(&pid).copied().into_iter().collect(),
            _ => own.children.iter().copied().collect(),
        };
        let mut some = false;
        for pid in candidates {
            let Ok(entry) = tree.entry(pid) else { continue };
            // What has ended changes in no other way.
            let told_all = entry.zombie.is_some() && !request.options.contains(WaitOptions::WEXITED);
            if told_all || !self.eligible(entry, request, own_pgrp) {
                continue;
            }
            some = true;
            if let Some((outcome, reap)) = state_change(entry, request.options) {
                if reap {
                    self.reap_waited(&mut tree, pid);
                }
                return Scan::Found(outcome);
            }
        }
        if some { Scan::Later } else { Scan::Nobody }
    }

    fn eligible(&self, entry: &GroupEntry, request: &WaitRequest, own_pgrp: Pid) -> bool {
        let in_group = match request.which {
            WaitWhich::Any | WaitWhich::Process(_) => true,
            WaitWhich::Group(pgrp) => entry.pgrp == pgrp,
            WaitWhich::OwnGroup => entry.pgrp == own_pgrp,
        };
        if !in_group {
            return false;
        }
        if request.options.contains(WaitOptions::__WNOTHREAD) && entry.parent_thread != self.tid() {
            return false;
        }
        // wait(2): a "clone" child delivers another signal than SIGCHLD, or none.
        let is_clone = entry.exit_signal != Some(Signal::CHLD);
        request.options.contains(WaitOptions::__WALL) || is_clone == request.options.contains(WaitOptions::__WCLONE)
    }

    fn reap_waited(&self, tree: &mut Tree, pid: Pid) {
        let Ok(entry) = tree.entry(pid) else { return };
        self.group().add_child(&entry.group);
        tree.reap(pid);
    }
}

/// What there is to report of a child, and whether reporting it ends its existence.
fn state_change(entry: &GroupEntry, options: WaitOptions) -> Option<(WaitOutcome, bool)> {
    let pid = entry.group.pid();
    let keep = options.contains(WaitOptions::WNOWAIT);
    let outcome = |uid, code, status, wait_status| WaitOutcome {
        pid,
        uid,
        code,
        status,
        wait_status,
        usage: Usage::of_group(&entry.group).plus(&Usage::of_children(&entry.group)),
    };
    if let Some(zombie) = entry.zombie {
        let (code, status) = child_code(zombie.status);
        return Some((outcome(zombie.uid, code, status, zombie.status.wait_status()), !keep));
    }
    let uid = entry.leader.creds().ruid.0;
    let mut signals = entry.group.lock_signals();
    if let GroupStop::Stopped { signal, reported: false } = signals.stops.stop()
        && options.contains(WaitOptions::WUNTRACED)
    {
        if !keep {
            signals.stops.note_reported();
        }
        drop(signals);
        let number = signal.number();
        return Some((outcome(uid, child::CLD_STOPPED, number, abi::wait::status_stopped(number)), false));
    }
    if signals.stops.was_continued() && options.contains(WaitOptions::WCONTINUED) {
        if !keep {
            signals.stops.forget_continued();
        }
        drop(signals);
        let cont = Signal::CONT.number();
        return Some((outcome(uid, child::CLD_CONTINUED, cont, abi::wait::WSTATUS_CONTINUED), false));
    }
    None
}
