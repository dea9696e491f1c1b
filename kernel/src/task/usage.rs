//! What processes have used: getrusage(2), times(2), wait4(2).

use std::sync::atomic::Ordering;

use super::Task;
use super::group::ThreadGroup;
use super::thread::Thread;

/// Resources used; times in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// CPU time in guest code.
    pub user_ns: u64,
    /// CPU time in the kernel.
    pub system_ns: u64,
    /// Largest resident set, KiB.
    pub max_rss_kib: u64,
    /// Page faults that needed no I/O.
    pub minor_faults: u64,
    /// Sleeps.
    pub voluntary_switches: u64,
    /// Preemptions.
    pub involuntary_switches: u64,
}

impl Usage {
    /// Of one thread (RUSAGE_THREAD).
    pub fn of_thread(thread: &Thread) -> Self {
        let times = thread.cpu_times();
        let (voluntary, involuntary) = thread.switches();
        Self {
            user_ns: times.user_ns,
            system_ns: times.system_ns,
            max_rss_kib: thread.group().max_rss_kib.load(Ordering::Relaxed),
            minor_faults: thread.minor_faults(),
            voluntary_switches: voluntary,
            involuntary_switches: involuntary,
        }
    }

    /// Of a process (RUSAGE_SELF).
    pub fn of_group(group: &ThreadGroup) -> Self {
        let times = group.cpu_times();
        let gone = &group.gone;
        let mut sum = Self {
            user_ns: times.user_ns,
            system_ns: times.system_ns,
            max_rss_kib: group.max_rss_kib.load(Ordering::Relaxed),
            minor_faults: gone.minor_faults.load(Ordering::Relaxed),
            voluntary_switches: gone.voluntary.load(Ordering::Relaxed),
            involuntary_switches: gone.involuntary.load(Ordering::Relaxed),
        };
        for thread in group.threads() {
            let (voluntary, involuntary) = thread.switches();
            sum.minor_faults = sum.minor_faults.saturating_add(thread.minor_faults());
            sum.voluntary_switches = sum.voluntary_switches.saturating_add(voluntary);
            sum.involuntary_switches = sum.involuntary_switches.saturating_add(involuntary);
        }
        sum
    }

    /// Of the children that a process waited for (RUSAGE_CHILDREN).
    pub fn of_children(group: &ThreadGroup) -> Self {
        let times = group.children_cpu_times();
        let events = &group.children_events;
        Self {
            user_ns: times.user_ns,
            system_ns: times.system_ns,
            max_rss_kib: group.children_max_rss_kib.load(Ordering::Relaxed),
            minor_faults: events.minor_faults.load(Ordering::Relaxed),
            voluntary_switches: events.voluntary.load(Ordering::Relaxed),
            involuntary_switches: events.involuntary.load(Ordering::Relaxed),
        }
    }

    /// Both together; of resident sets the larger.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            user_ns: self.user_ns.saturating_add(other.user_ns),
            system_ns: self.system_ns.saturating_add(other.system_ns),
            max_rss_kib: self.max_rss_kib.max(other.max_rss_kib),
            minor_faults: self.minor_faults.saturating_add(other.minor_faults),
            voluntary_switches: self.voluntary_switches.saturating_add(other.voluntary_switches),
            involuntary_switches: self.involuntary_switches.saturating_add(other.involuntary_switches),
        }
    }
}

impl Task {
    /// Brings the process's largest resident set up to date: asked for on demand and before the memory goes. Returns what
    /// there is of memory.
    pub(crate) fn note_rss(&self) -> mm::MemoryStat {
        let stat = self.mm().stat();
        self.group().max_rss_kib.fetch_max(stat.peak_rss / 1024, Ordering::Relaxed);
        stat
    }

    /// Usage of this thread.
    pub fn thread_usage(&self) -> Usage {
        self.note_rss();
        Usage::of_thread(self.thread())
    }

    /// Usage of the process.
    pub fn group_usage(&self) -> Usage {
        self.note_rss();
        Usage::of_group(self.group())
    }

    /// Usage of children waited for.
    pub fn children_usage(&self) -> Usage {
        Usage::of_children(self.group())
    }
}
