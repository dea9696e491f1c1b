//! The process tree: who exists, who is whose child, process groups and sessions (credentials(7)).
//!
//! One lock, outside all locks of groups and threads, guards the relations between processes. The data are maps by
//! number, not references, so that the tree can be walked, saved and shown. There is one pid namespace now; a [`TaskSet`]
//! is that namespace's object.
//!
//! **Invariants.** A number is in `threads` from the moment its thread is visible until it is reaped; the leader's number
//! stays until its group is reaped, and as long as a process group or session is named after it, it is not given again.
//! Each group but init has a parent that is in `groups`. `pgrps` and `sessions` hold no empty entries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use abi::Errno;
use hashbrown::HashMap;
use sync::{Mutex, MutexGuard};

use super::group::{ExitStatus, ThreadGroup};
use super::thread::Thread;
use crate::ids::{INIT_PID, PID_MAX, Pid, Tid};
use crate::lock::{EXT, TASKS};
use crate::signal::types::Signal;
use crate::tty::ControllingTty;

/// A session.
pub struct Session {
    sid: Pid,
    /// Who was in the foreground of its terminal when that was hung up.
    old_foreground: Mutex<Option<Pid>>,
}

impl Session {
    fn new(sid: Pid) -> Arc<Self> {
        Arc::new(Self { sid, old_foreground: Mutex::new(sync::LockClass::leaf("session.foreground"), None) })
    }

    /// Its number: its leader's.
    pub fn id(&self) -> Pid {
        self.sid
    }

    /// The process group that hears of the leader's end although the terminal is gone by then.
    pub(crate) fn set_old_foreground(&self, group: Option<Pid>) {
        *self.old_foreground.lock() = group;
    }

    pub(crate) fn take_old_foreground(&self) -> Option<Pid> {
        self.old_foreground.lock().take()
    }
}

/// What remains of a process that ended, until its parent waits for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zombie {
    pub(crate) status: ExitStatus,
    pub(crate) uid: u32,
}

/// A process in the tree.
pub(crate) struct GroupEntry {
    pub(crate) group: Arc<ThreadGroup>,
    /// The leader, also after it has exited.
    pub(crate) leader: Arc<Thread>,
    /// Threads whose host thread has not finished.
    pub(crate) live: usize,
    pub(crate) parent: Pid,
    /// The thread of the parent whose child it is (`__WNOTHREAD`, PR_SET_PDEATHSIG).
    pub(crate) parent_thread: Tid,
    pub(crate) children: BTreeSet<Pid>,
    pub(crate) pgrp: Pid,
    pub(crate) session: Arc<Session>,
    /// Sent to the parent at exit; `None` sends nothing (a "clone" child has none or another than SIGCHLD).
    pub(crate) exit_signal: Option<Signal>,
    pub(crate) subreaper: Subreaper,
    /// It has executed a program since fork: setpgid(2) refuses it to its parent.
    pub(crate) execed: bool,
    pub(crate) zombie: Option<Zombie>,
}

/// PR_SET_CHILD_SUBREAPER.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Subreaper {
    /// Orphans of descendants go further up.
    #[default]
    No,
    /// Orphans of descendants come here.
    Yes,
}

/// What the tree's lock guards.
pub(crate) struct Tree {
    pub(crate) threads: HashMap<Tid, Arc<Thread>>,
    pub(crate) groups: BTreeMap<Pid, GroupEntry>,
    pub(crate) pgrps: BTreeMap<Pid, Pgrp>,
    last: u32,
    /// Guest threads that exist, leaders until they are reaped; the pids limit counts them, so that zombies do not
    /// escape it.
    pub(crate) count: usize,
    pub(crate) limit: usize,
    /// A process whose parent outside the sandbox continues it when it stops: its process group is never orphaned.
    pub(crate) supervised: Option<Pid>,
    /// No further task may be made: the sandbox ends.
    pub(crate) closing: bool,
}

/// A process group.
pub(crate) struct Pgrp {
    pub(crate) session: Arc<Session>,
    pub(crate) members: BTreeSet<Pid>,
}

/// The tasks of a pid namespace.
pub struct TaskSet {
    tree: Mutex<Tree>,
    /// Host threads that run tasks; waited for at the end.
    pub(crate) running: Mutex<usize>,
    pub(crate) all_done: sync::Condvar,
}

impl TaskSet {
    /// An empty namespace in which at most `limit` threads may exist.
    pub(crate) fn new(limit: usize) -> Self {
        let tree = Tree {
            threads: HashMap::new(),
            groups: BTreeMap::new(),
            pgrps: BTreeMap::new(),
            last: 0,
            count: 0,
            limit,
            supervised: None,
            closing: false,
        };
        Self { tree: Mutex::new(TASKS, tree), running: Mutex::new(EXT, 0), all_done: sync::Condvar::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock()
    }

    /// The thread of this number.
    pub fn thread(&self, tid: Tid) -> Option<Arc<Thread>> {
        self.lock().threads.get(&tid).cloned()
    }

    /// The process of this number, also a zombie.
    pub fn group(&self, pid: Pid) -> Option<Arc<ThreadGroup>> {
        self.lock().groups.get(&pid).map(|e| Arc::clone(&e.group))
    }

    /// All processes, ascending.
    pub fn groups(&self) -> Vec<Arc<ThreadGroup>> {
        self.lock().groups.values().map(|e| Arc::clone(&e.group)).collect()
    }

    /// What `/proc/[pid]` shows of a process's place in the tree.
    pub fn describe(&self, pid: Pid) -> Option<GroupInfo> {
        let tree = self.lock();
        let entry = tree.groups.get(&pid)?;
        Some(GroupInfo {
            parent: if pid == INIT_PID { Pid(0) } else { entry.parent },
            pgrp: entry.pgrp,
            session: entry.session.id(),
            tty: entry.group.tty(),
            exit_signal: entry.exit_signal,
            zombie: entry.zombie.map(|z| z.status),
            leader: Arc::clone(&entry.leader),
            threads: entry.live,
            children: entry.children.iter().copied().collect(),
            execed: entry.execed,
        })
    }

    /// Numbers of the threads of a process, ascending, the leader also while it is a zombie.
    pub fn threads_of(&self, pid: Pid) -> Vec<Tid> {
        let tree = self.lock();
        let Some(entry) = tree.groups.get(&pid) else { return Vec::new() };
        let mut tids: Vec<Tid> = entry.group.threads().iter().map(|t| t.tid()).collect();
        tids.push(entry.leader.tid());
        tids.sort_unstable();
        tids.dedup();
        tids
    }

    /// Numbers of the children of one thread of a process, ascending: those that its other threads made are theirs
    /// (`/proc/[pid]/task/[tid]/children`).
    pub fn children_of(&self, thread: &Thread) -> Vec<Pid> {
        let tree = self.lock();
        let Some(entry) = tree.groups.get(&thread.pid()) else { return Vec::new() };
        // Children of a thread that is gone are the leader's.
        let is_live = |tid: &Tid| tree.threads.contains_key(tid);
        let of = |child: &GroupEntry| Some(child.parent_thread).filter(is_live).unwrap_or(entry.leader.tid());
        let children = entry.children.iter().filter_map(|pid| tree.groups.get(pid));
        children.filter(|child| of(child) == thread.tid()).map(|child| child.group.pid()).collect()
    }

    /// The session of a process.
    pub fn session_of(&self, pid: Pid) -> Option<Arc<Session>> {
        self.lock().groups.get(&pid).map(|e| Arc::clone(&e.session))
    }

    /// The process group of a process.
    pub fn pgrp_of(&self, pid: Pid) -> Option<Pid> {
        self.lock().groups.get(&pid).map(|e| e.pgrp)
    }

    /// The session of a process group.
    pub fn session_of_pgrp(&self, pgrp: Pid) -> Option<Arc<Session>> {
        self.lock().pgrps.get(&pgrp).map(|p| Arc::clone(&p.session))
    }

    /// Whether a process group is orphaned (SIGTTIN and SIGTTOU become EIO there).
    pub fn is_orphaned_pgrp(&self, pgrp: Pid) -> bool {
        self.lock().is_orphaned(pgrp)
    }

    /// How many threads and processes exist (init is not counted).
    pub fn counts(&self) -> (usize, usize) {
        let tree = self.lock();
        (tree.count, tree.groups.len().saturating_sub(1))
    }

    /// The number last given out, as `/proc/loadavg` shows it.
    pub fn last_pid(&self) -> Pid {
        Pid(self.lock().last)
    }
}

/// A process's place in the tree.
pub struct GroupInfo {
    /// Its parent; 0 for init.
    pub parent: Pid,
    /// Its process group.
    pub pgrp: Pid,
    /// Its session.
    pub session: Pid,
    /// Its controlling terminal.
    pub tty: Option<Arc<dyn ControllingTty>>,
    /// What its parent gets when it ends.
    pub exit_signal: Option<Signal>,
    /// How it ended, if it has.
    pub zombie: Option<ExitStatus>,
    /// Its leader.
    pub leader: Arc<Thread>,
    /// Live threads.
    pub threads: usize,
    /// Its children.
    pub children: Vec<Pid>,
    /// It has executed a program since it was forked.
    pub execed: bool,
}

impl Tree {
    /// Takes a free number, or the number asked for. `EAGAIN` when the limit is reached, `EEXIST` when the wish is in
    /// use.
    pub(crate) fn allocate(&mut self, wish: Option<u32>) -> Result<u32, Errno> {
        if self.closing || self.count >= self.limit {
            return Err(Errno::EAGAIN);
        }
        if let Some(wish) = wish {
            return if self.in_use(wish) { Err(Errno::EEXIST) } else { Ok(wish) };
        }
        let mut next = self.last;
        for _ in 0..PID_MAX {
            next += 1;
            if next >= PID_MAX {
                // As Linux: the low numbers stay for what starts first.
                next = 300;
            }
            if !self.in_use(next) {
                self.last = next;
                return Ok(next);
            }
        }
        Err(Errno::EAGAIN)
    }

    fn in_use(&self, number: u32) -> bool {
        let pid = Pid(number);
        self.threads.contains_key(&Tid(number))
            || self.groups.contains_key(&pid)
            || self.pgrps.contains_key(&pid)
            || self.pgrps.values().any(|p| p.session.id() == pid)
    }

    pub(crate) fn entry(&self, pid: Pid) -> Result<&GroupEntry, Errno> {
        self.groups.get(&pid).ok_or(Errno::ESRCH)
    }

    pub(crate) fn entry_mut(&mut self, pid: Pid) -> Result<&mut GroupEntry, Errno> {
        self.groups.get_mut(&pid).ok_or(Errno::ESRCH)
    }

    /// Adds a process as a child of `entry.parent`, in the process group `entry.pgrp`.
    pub(crate) fn add_group(&mut self, entry: GroupEntry) {
        let pid = entry.group.pid();
        let session = Arc::clone(&entry.session);
        let pgrp = self.pgrps.entry(entry.pgrp).or_insert_with(|| Pgrp { session, members: BTreeSet::new() });
        pgrp.members.insert(pid);
        if let Some(parent) = self.groups.get_mut(&entry.parent)
            && entry.parent != pid
        {
            parent.children.insert(pid);
        }
        self.threads.insert(entry.leader.tid(), Arc::clone(&entry.leader));
        self.groups.insert(pid, entry);
    }

    /// Moves a process to another process group of its session.
    pub(crate) fn move_to_pgrp(&mut self, pid: Pid, to: Pid, session: &Arc<Session>) {
        let Some(entry) = self.groups.get_mut(&pid) else { return };
        let from = std::mem::replace(&mut entry.pgrp, to);
        entry.session = Arc::clone(session);
        entry.publish_kin();
        if from == to {
            return;
        }
        let target =
            self.pgrps.entry(to).or_insert_with(|| Pgrp { session: Arc::clone(session), members: BTreeSet::new() });
        target.members.insert(pid);
        self.leave_pgrp(pid, from);
    }

    fn leave_pgrp(&mut self, pid: Pid, pgrp: Pid) {
        if let Some(p) = self.pgrps.get_mut(&pgrp) {
            p.members.remove(&pid);
            if p.members.is_empty() {
                self.pgrps.remove(&pgrp);
            }
        }
    }

    /// Makes `pid` the leader of a new session and process group; the caller has checked that it may be.
    pub(crate) fn new_session(&mut self, pid: Pid) {
        let session = Session::new(pid);
        self.move_to_pgrp(pid, pid, &session);
        if let Some(pgrp) = self.pgrps.get_mut(&pid) {
            pgrp.session = session;
        }
    }

    /// Forgets a zombie: nothing of it is left.
    pub(crate) fn reap(&mut self, pid: Pid) {
        let Some(entry) = self.groups.remove(&pid) else { return };
        self.count = self.count.saturating_sub(1);
        self.threads.remove(&entry.leader.tid());
        self.leave_pgrp(pid, entry.pgrp);
        if let Some(parent) = self.groups.get_mut(&entry.parent) {
            parent.children.remove(&pid);
        }
    }

    /// Who gets the children of `pid` when it is gone: the nearest subreaper among its ancestors, or init
    /// (PR_SET_CHILD_SUBREAPER).
    pub(crate) fn reaper_of(&self, pid: Pid) -> Pid {
        let mut at = self.groups.get(&pid).map_or(INIT_PID, |e| e.parent);
        while at != INIT_PID {
            let Some(entry) = self.groups.get(&at) else { break };
            if entry.subreaper == Subreaper::Yes && entry.zombie.is_none() && entry.live > 0 {
                return at;
            }
            at = entry.parent;
        }
        INIT_PID
    }

    /// Whether a process group is orphaned: no member has a parent in another group of the same session
    /// (credentials(7), POSIX "orphaned process group").
    pub(crate) fn is_orphaned(&self, pgrp: Pid) -> bool {
        let Some(p) = self.pgrps.get(&pgrp) else { return true };
        if self.supervised.is_some_and(|pid| p.members.contains(&pid)) {
            return false;
        }
        !p.members.iter().any(|pid| {
            let Some(entry) = self.groups.get(pid) else { return false };
            if entry.zombie.is_some() || entry.parent == INIT_PID {
                return false;
            }
            self.groups
                .get(&entry.parent)
                .is_some_and(|parent| parent.pgrp != pgrp && parent.session.id() == entry.session.id())
        })
    }

    /// Whether a member of the process group is stopped.
    pub(crate) fn has_stopped(&self, pgrp: Pid) -> bool {
        let Some(p) = self.pgrps.get(&pgrp) else { return false };
        p.members
            .iter()
            .filter_map(|pid| self.groups.get(pid))
            .any(|e| e.group.lock_signals().stops.is_stopped_or_stopping() && e.zombie.is_none())
    }

    /// Living members of a process group.
    pub(crate) fn members(&self, pgrp: Pid) -> Vec<Arc<ThreadGroup>> {
        let Some(p) = self.pgrps.get(&pgrp) else { return Vec::new() };
        p.members.iter().filter_map(|pid| self.groups.get(pid)).map(|e| Arc::clone(&e.group)).collect()
    }
}

pub(crate) fn first_session(pid: Pid) -> Arc<Session> {
    Session::new(pid)
}
