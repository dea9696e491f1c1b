//! The end of tasks: _exit(2), exit_group(2), orphans, zombies, what a parent hears.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mm::Mm;
use stops::{GroupStop, Progress, Remaining};
use usermem::Addr;
use usermem::ptr::UserPtr;

use super::Task;
use super::group::{ExitStatus, ThreadGroup};
use super::set::{Session, Tree, Zombie};
use super::state::Leave;
use super::thread::{Activity, Parts, Thread};
use crate::error::SysResult;
use crate::event::sigio;
use crate::futex::{Sharing, Word};
use crate::ids::{INIT_PID, Pid, Tid};
use crate::kernel::{Kernel, Stopped};
use crate::signal::info::{SigData, SigInfo, child};
use crate::signal::send::{self, Origin};
use crate::signal::types::{SigSet, Signal};

/// What has to be told once the tree is unlocked.
#[derive(Default)]
struct News {
    /// Signals to whole processes.
    signals: Vec<(Arc<ThreadGroup>, SigInfo)>,
    /// Processes whose children changed.
    parents: Vec<Arc<ThreadGroup>>,
    /// Sessions that lost their leader, and that.
    sessions: Vec<(Arc<ThreadGroup>, Arc<Session>)>,
    /// The sandbox's command ended.
    main: Option<ExitStatus>,
    /// Whoever watches this process.
    ended: Option<Arc<ThreadGroup>>,
    /// Another thread that waits to be the last.
    last: Option<Arc<Thread>>,
}

/// `si_code` and `si_status` of SIGCHLD.
pub(super) fn child_code(status: ExitStatus) -> (i32, i32) {
    match status {
        ExitStatus::Exited(code) => (child::CLD_EXITED, i32::from(code)),
        ExitStatus::Killed(signal) => (child::CLD_KILLED, signal.number()),
        ExitStatus::Dumped(signal) => (child::CLD_DUMPED, signal.number()),
    }
}

/// Nanoseconds in ticks of 10 ms, as siginfo has them.
fn ticks(ns: u64) -> u64 {
    ns / 10_000_000
}

impl Kernel {
    /// Closes the files of an address space in which nobody will run any more, in the name of the last process there.
    pub(super) fn close_space(self: &Arc<Self>, mm: &Mm, pid: Pid) {
        let files = mm.close_files();
        self.ipc().shm().note_end(self, &files, pid);
    }
}

impl Task {
    /// _exit(2): ends this thread.
    pub fn exit_thread(&mut self, code: i32) -> SysResult {
        let status = ExitStatus::Exited(code.to_le_bytes()[0]);
        Err(Leave::Exit(status).into())
    }

    /// exit_group(2): ends all threads of the process.
    pub fn exit_group(&mut self, code: i32) -> SysResult {
        Err(Leave::Exit(self.end_group(ExitStatus::Exited(code.to_le_bytes()[0]))).into())
    }

    /// Gives back all that the task holds, and leaves the tree.
    pub(crate) fn finish(mut self, status: ExitStatus) {
        let old_space = self.sleeper.take_old_space();
        self.sleeper.settle();
        sigio::end();
        let thread = Arc::clone(self.thread());
        let kernel = Arc::clone(self.kernel());
        let remaining = self.stop_taking_signals();
        if remaining == Remaining::None {
            self.note_rss();
            thread.group().change_space(None);
        }
        self.leave_memory();
        if remaining == Remaining::None {
            kernel.ipc().sem().process_ends(thread.pid());
        }
        for file in self.fds().remove_user() {
            // close(2): nobody is left to hear of an error.
            let _ = self.close_file(file);
        }
        thread.set_interrupter(None);
        drop(thread.set_parts(Parts::default()));
        let vfork = self.vfork_done.take();
        thread.set_activity(Activity::Zombie);
        let is_main = kernel.main_pid() == Some(thread.pid());
        if remaining == Remaining::None && is_main {
            // Nobody in the sandbox waits for the command's memory, and the runner need not.
            kernel.leave_tree(&thread, status);
            drop(self);
        } else {
            // The host takes its time with an address space, for which nobody has to wait unless too many pile up.
            let last = (remaining == Remaining::None).then(|| Arc::clone(self.mm()));
            drop(self);
            // What others see of its end comes before they are told of it. A vfork(2) child's is its parent's too.
            if let Some(mm) = last.as_ref().filter(|mm| Arc::strong_count(mm) == 1) {
                kernel.close_space(mm, thread.pid());
            }
            if let Some(vfork) = vfork {
                vfork.complete();
            }
            let late = last.and_then(|mm| kernel.end_later(mm));
            kernel.leave_tree(&thread, status);
            drop(late);
        }
        drop(old_space);
        // For good: a pause does not wait for what remains of it.
        kernel.pauses().asleep(thread.attention());
        if remaining == Remaining::None && !is_main {
            kernel.heap().process_ended(sync::monotonic_now_ns());
        }
    }

    fn stop_taking_signals(&mut self) -> Remaining {
        let thread = Arc::clone(self.thread());
        let left = {
            let mut signals = thread.group().lock_signals();
            let left = signals.stops.leave(&thread);
            let mut own = thread.signals.lock();
            own.exiting = true;
            thread.ending.store(true, Ordering::SeqCst);
            own.pending.clear();
            drop(own);
            send::retarget(&signals, &thread, SigSet::ALL);
            left
        };
        thread.group().add_gone(&thread);
        if left.stop == Progress::Complete {
            self.kernel().notify_parent_of_stop(thread.group());
        }
        left.remaining
    }

    /// Tells those who wait in guest memory: robust futexes, the thread's joiner.
    fn leave_memory(&mut self) {
        self.release_robust_list();
        if let Some(addr) = self.clear_child_tid.take() {
            self.clear_tid(addr);
        }
    }

    /// set_tid_address(2): zero, and a wake of one.
    pub(super) fn clear_tid(&mut self, addr: Addr) {
        if UserPtr::<u32>::new(addr).write(self.mem(), &0).is_ok() {
            let word = Word { addr, sharing: Sharing::Shared };
            let _ = self.kernel().futexes().wake(self.mm(), word, 1, u32::MAX);
        }
    }
}

impl Kernel {
    /// Takes a thread out of the tree whose host thread never ran.
    pub(crate) fn abandon(&self, thread: &Arc<Thread>) {
        let left = {
            let mut signals = thread.group().lock_signals();
            thread.signals.lock().exiting = true;
            signals.stops.leave(thread)
        };
        if left.stop == Progress::Complete {
            self.notify_parent_of_stop(thread.group());
        }
        let mut tree = self.tasks().lock();
        if thread.is_leader() {
            tree.reap(thread.pid());
        } else {
            tree.threads.remove(&thread.tid());
            tree.count = tree.count.saturating_sub(1);
            if let Ok(entry) = tree.entry_mut(thread.pid()) {
                entry.live = entry.live.saturating_sub(1);
            }
        }
    }

    /// The last act of a task: it becomes a zombie or nothing, and those concerned hear of it.
    fn leave_tree(&self, thread: &Arc<Thread>, status: ExitStatus) {
        let mut news = News::default();
        {
            let mut tree = self.tasks().lock();
            self.leave_locked(&mut tree, thread, status, &mut news);
        }
        if news.ended.is_none() {
            // Who watches the thread alone (PIDFD_THREAD).
            thread.group().exit_events.wake(waiter::EventMask::READABLE);
        }
        self.tell(news);
    }

    fn leave_locked(&self, tree: &mut Tree, thread: &Arc<Thread>, status: ExitStatus, news: &mut News) {
        let pid = thread.pid();
        let tid = thread.tid();
        let leader = thread.is_leader();
        if !leader {
            tree.threads.remove(&tid);
            tree.count = tree.count.saturating_sub(1);
        }
        let Ok(entry) = tree.entry_mut(pid) else { return };
        entry.live = entry.live.saturating_sub(1);
        let group = Arc::clone(&entry.group);
        let (alive, successor, group_status) = {
            let signals = group.lock_signals();
            news.last = signals.stops.executing().cloned();
            (entry.live > 0, signals.stops.threads().first().map(|t| t.tid()), signals.stops.exiting())
        };
        adopt(tree, thread, if alive { successor } else { None }, news);
        if alive {
            return;
        }
        // As Linux since 6.0: without an end of all, the status of the thread that ends last, the leader or not.
        let status = group_status.unwrap_or(status);
        group.timers.disarm_all(self);
        self.group_ended(tree, &group, thread, status, news);
    }

    /// A process has no thread left.
    fn group_ended(
        &self,
        tree: &mut Tree,
        group: &Arc<ThreadGroup>,
        last: &Arc<Thread>,
        status: ExitStatus,
        news: &mut News,
    ) {
        let pid = group.pid();
        let Ok(entry) = tree.entry_mut(pid) else { return };
        entry.zombie = Some(Zombie { status, uid: last.creds().ruid.0 });
        let (pgrp, parent, exit_signal) = (entry.pgrp, entry.parent, entry.exit_signal);
        let session = Arc::clone(&entry.session);
        self.add_gone(group.cpu_times());
        group.set_ended();
        news.ended = Some(Arc::clone(group));
        if session.id() == pid {
            news.sessions.push((Arc::clone(group), session));
        }
        orphan_check(tree, pgrp, pid, parent, news);
        if self.main_pid() == Some(pid) {
            news.main = Some(status);
        }
        if notify_parent(tree, pid, exit_signal, news) {
            tree.reap(pid);
        }
    }

    fn tell(&self, news: News) {
        if let Some(thread) = news.last {
            thread.parker().unpark();
        }
        for (leader, session) in news.sessions {
            self.session_ended(&leader, &session);
        }
        for (group, info) in news.signals {
            self.send_to_group(&group, info, Origin::Kernel);
        }
        for parent in news.parents {
            parent.child_events.wake(waiter::EventMask::IN);
        }
        if let Some(group) = news.ended {
            group.exit_events.wake(waiter::EventMask::READABLE);
            self.room().wake(waiter::EventMask::READABLE);
        }
        if let Some(status) = news.main {
            self.main_ended(status);
        }
    }

    /// Tells the parent of a process that it stopped or continued (SIGCHLD, wait).
    pub(crate) fn notify_parent_of_stop(&self, group: &Arc<ThreadGroup>) {
        let (parent, uid) = {
            let tree = self.tasks().lock();
            let Ok(entry) = tree.entry(group.pid()) else { return };
            let uid = entry.leader.creds().ruid.0;
            (tree.groups.get(&entry.parent).map(|e| Arc::clone(&e.group)), uid)
        };
        let (code, status) = {
            let signals = group.lock_signals();
            match signals.stops.stop() {
                GroupStop::Stopped { signal, .. } => (child::CLD_STOPPED, signal),
                GroupStop::Running if signals.stops.was_continued() => (child::CLD_CONTINUED, Signal::CONT),
                // Overtaken by the opposite: that one tells.
                _ => return,
            }
        };
        if self.main_pid() == Some(group.pid()) {
            let stopped = if code == child::CLD_STOPPED { Stopped::Yes } else { Stopped::No };
            self.main_stopped(stopped, status);
        }
        let Some(parent) = parent else { return };
        if !parent.child_policy().no_stop_signal {
            let times = group.cpu_times();
            let data = SigData::Child {
                pid: group.pid(),
                uid,
                status: status.number(),
                utime: ticks(times.user_ns),
                stime: ticks(times.system_ns),
            };
            let info = SigInfo { signal: Signal::CHLD, code, errno: 0, data };
            self.send_to_group(&parent, info, Origin::Kernel);
        }
        parent.child_events.wake(waiter::EventMask::IN);
    }
}

/// Finds new parents for the children of a thread that leaves: another thread of its process, or else the nearest
/// subreaper or init. Children who asked for it hear of it (PR_SET_PDEATHSIG).
fn adopt(tree: &mut Tree, leaving: &Thread, successor: Option<Tid>, news: &mut News) {
    let (pid, tid) = (leaving.pid(), leaving.tid());
    let Ok(entry) = tree.entry(pid) else { return };
    let children: Vec<Pid> = entry.children.iter().copied().collect();
    let reaper = if successor.is_some() { pid } else { tree.reaper_of(pid) };
    let reaper_tid = match successor {
        Some(tid) => tid,
        None => tree.groups.get(&reaper).map_or(INIT_PID.leader(), |e| e.leader.tid()),
    };
    for child in children {
        let Ok(entry) = tree.entry_mut(child) else { continue };
        if successor.is_some() && entry.parent_thread != tid {
            continue;
        }
        entry.parent_thread = reaper_tid;
        for thread in entry.group.threads() {
            let wish = thread.death_signal.load(std::sync::atomic::Ordering::Relaxed);
            if let Some(signal) = Signal::new(wish) {
                news.signals.push((Arc::clone(&entry.group), SigInfo::kill(signal, pid, leaving.creds().ruid.0)));
            }
        }
        if reaper == pid {
            continue;
        }
        entry.parent = reaper;
        entry.publish_kin();
        let (pgrp, is_zombie) = (entry.pgrp, entry.zombie.is_some());
        // As Linux: an orphan ends with SIGCHLD whatever it was made with.
        entry.exit_signal = Some(Signal::CHLD);
        if let Ok(old) = tree.entry_mut(pid) {
            old.children.remove(&child);
        }
        if let Ok(new) = tree.entry_mut(reaper) {
            new.children.insert(child);
        }
        if is_zombie {
            if notify_parent(tree, child, Some(Signal::CHLD), news) {
                tree.reap(child);
            }
        } else {
            orphan_check(tree, pgrp, child, pid, news);
        }
    }
}

/// When the end (or the new parent) of `pid` has orphaned a process group with stopped members, these get SIGHUP and
/// SIGCONT (_exit(2), "Consequences of process termination"). `link` is the process whose relation to the group ended.
fn orphan_check(tree: &Tree, pgrp: Pid, pid: Pid, link: Pid, news: &mut News) {
    let linked = tree
        .groups
        .get(&link)
        .zip(tree.groups.get(&pid))
        .is_some_and(|(parent, own)| parent.pgrp != pgrp && parent.session.id() == own.session.id());
    if !linked || !tree.is_orphaned(pgrp) || !tree.has_stopped(pgrp) {
        return;
    }
    for member in tree.members(pgrp) {
        news.signals.push((Arc::clone(&member), SigInfo::kernel(Signal::HUP)));
        news.signals.push((member, SigInfo::kernel(Signal::CONT)));
    }
}

/// Tells the parent of a zombie; says whether nobody will wait for it.
fn notify_parent(tree: &Tree, pid: Pid, exit_signal: Option<Signal>, news: &mut News) -> bool {
    let Ok(entry) = tree.entry(pid) else { return false };
    if entry.parent == INIT_PID {
        return true;
    }
    let Some(parent) = tree.groups.get(&entry.parent) else { return true };
    let Some(zombie) = entry.zombie else { return false };
    let policy = parent.group.child_policy();
    let unwanted = exit_signal == Some(Signal::CHLD) && policy.no_zombies;
    if let Some(signal) = exit_signal
        && !(signal == Signal::CHLD && policy.ignores)
    {
        let times = entry.group.cpu_times();
        let (code, status) = child_code(zombie.status);
        let data =
            SigData::Child { pid, uid: zombie.uid, status, utime: ticks(times.user_ns), stime: ticks(times.system_ns) };
        news.signals.push((Arc::clone(&parent.group), SigInfo { signal, code, errno: 0, data }));
    }
    news.parents.push(Arc::clone(&parent.group));
    unwanted
}
