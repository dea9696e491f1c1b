//! When memory is at its end: which process has to go.
//!
//! As on Linux, the one that takes most, as its `oom_score_adj` weighs it (proc(5)), and whoever uses the same memory. The
//! task that met the end of memory waits until there is room, and tries again.
//!
//! **Invariant.** Nobody else is chosen while a process is on its way out: its memory may be all that is needed.

use std::sync::Arc;

use mm::Mm;
use usermem::{Addr, PAGE_SIZE};
use waiter::{EventMask, Mode};

use super::block::Interruptible;
use super::state::RunState;
use super::{ExitStatus, INIT_PID, Task, ThreadGroup};
use crate::kernel::Kernel;
use crate::signal::types::Signal;

/// How much must be free before a task tries again.
const ROOM: u64 = 256 << 10;

/// How often in turn a task is told that there is room at an address where it then finds none, before it goes itself: the
/// host's limit may be tighter than ours.
const MAX_RETRIES: u32 = 8;

/// How those end that have to go.
const KILLED: ExitStatus = ExitStatus::Killed(Signal::KILL);

/// `oom_score_adj` of a process that is never chosen.
const NEVER: i32 = -1000;

/// Where a task met the end of memory the last time, and how often in turn.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Met {
    addr: u64,
    times: u32,
}

/// Who is to make room.
enum Choice {
    /// Somebody who is about to end.
    Ending,
    /// This process, and others that use its memory.
    Process(Arc<ThreadGroup>, Arc<Mm>),
    /// Nobody may be chosen.
    Nobody,
}

impl Task {
    /// Waits until there is room for what the task could not have at `addr`, for which a process may have to end: perhaps
    /// this one.
    pub(super) fn out_of_memory(&mut self, addr: Addr) -> RunState {
        let times = if self.oom.addr == addr.0 { self.oom.times.saturating_add(1) } else { 0 };
        self.oom = Met { addr: addr.0, times };
        let kernel = Arc::clone(self.kernel());
        let _registration = kernel.room().register(self.waiter(), EventMask::READABLE, Mode::Shared);
        loop {
            if !kernel.memory().would_exceed(ROOM) {
                return if times < MAX_RETRIES { RunState::App } else { self.end_for_memory() };
            }
            match kernel.choose() {
                Choice::Ending => {
                    if self.sleeper.park(None, Interruptible::Killable).is_err() {
                        return RunState::Interrupt { restart: None };
                    }
                }
                Choice::Nobody => return self.end_for_memory(),
                Choice::Process(victim, mm) => {
                    log::warn!("out of memory for task {}: process {} ends", self.tid(), victim.pid());
                    kernel.end_users_of(&mm);
                }
            }
        }
    }

    fn end_for_memory(&mut self) -> RunState {
        log::warn!("task {}: out of memory, killed", self.tid());
        self.kill_group(KILLED)
    }
}

impl ThreadGroup {
    fn mm(&self) -> Option<Arc<Mm>> {
        self.threads().iter().find_map(|thread| thread.mm())
    }

    /// Pages that it takes, moved by its adjustment; `None` if it is never chosen.
    fn badness(&self, mm: &Mm, total_pages: i64) -> Option<i64> {
        let adj = Some(self.oom_score_adj()).filter(|adj| *adj != NEVER)?;
        let pages = i64::try_from(mm.stat().rss / PAGE_SIZE).unwrap_or(i64::MAX);
        Some(pages.saturating_add(i64::from(adj).saturating_mul(total_pages / 1000)))
    }
}

impl Kernel {
    fn total_pages(&self) -> i64 {
        i64::try_from(self.memory().limit() / PAGE_SIZE).unwrap_or(i64::MAX).max(1)
    }

    /// `/proc/[pid]/oom_score`: from 0, never chosen, to 2000.
    pub(crate) fn oom_score(&self, group: &ThreadGroup) -> i64 {
        let total = self.total_pages();
        let Some(points) = group.mm().and_then(|mm| group.badness(&mm, total)) else { return 0 };
        (points.saturating_mul(1000) / total).saturating_add(1000).saturating_mul(2) / 3
    }

    fn choose(&self) -> Choice {
        // Whoever ends wakes the room's queue afterwards.
        let mut ending = self.spaces_ending() > 0;
        let total = self.total_pages();
        let mut worst: Option<(i64, Arc<ThreadGroup>, Arc<Mm>)> = None;
        for group in self.tasks().groups() {
            if group.pid() == INIT_PID || group.has_ended() {
                continue;
            }
            if group.lock_signals().stops.exiting().is_some() {
                ending = true;
                continue;
            }
            let Some(mm) = group.mm() else { continue };
            let Some(points) = group.badness(&mm, total) else { continue };
            if worst.as_ref().is_none_or(|(most, ..)| points > *most) {
                worst = Some((points, group, mm));
            }
        }
        match worst {
            _ if ending => Choice::Ending,
            Some((_, group, mm)) => Choice::Process(group, mm),
            None => Choice::Nobody,
        }
    }

    /// Kills every process that uses this memory.
    fn end_users_of(&self, mm: &Arc<Mm>) {
        for group in self.tasks().groups() {
            if group.mm().is_some_and(|other| Arc::ptr_eq(&other, mm)) {
                group.lock_signals().stops.begin_exit(KILLED);
            }
        }
    }
}
