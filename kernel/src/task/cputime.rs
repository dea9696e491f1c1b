//! CPU time of threads and processes, worked out when somebody asks.
//!
//! A system call costs two readings of the time-stamp counter here: how long the thread was in guest code. That is an
//! upper bound of its user time, and what is left of its life without its sleeps one of its system time; a thread that
//! the host preempts uses less. So the bounds are held against what the host's scheduler counted: the CPU clock of the
//! thread's own host thread, and for user time that of all guest code in its address space ([`CpuClock`]), which the
//! threads share in proportion to their bounds.
//!
//! **Invariants.** What is told never decreases. A [`ThreadClock`] is advanced by its task's own thread only; readers may
//! see a state between two stores, which is off by one stay.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use arch::x86_64::tsc;
use sync::{LockClass, Mutex};
use usermem::platform::CpuClock;

use super::thread::CpuTimes;
use crate::watchdog::Progress;

const GROUP_CLOCK: LockClass = LockClass::leaf("group.cpu");

/// A moment on both clocks, from which the counter's rate follows.
static ORIGIN: LazyLock<(u64, u64)> = LazyLock::new(|| (tsc::read(), sync::monotonic_now_ns()));

/// Takes the first sample of the counter's rate: when the kernel starts.
pub(crate) fn start() {
    LazyLock::force(&ORIGIN);
}

/// Counter ticks as nanoseconds.
fn ticks_to_ns(ticks: u64) -> u64 {
    let (tsc0, ns0) = *ORIGIN;
    let passed_ticks = tsc::read().saturating_sub(tsc0).max(1);
    let passed_ns = sync::monotonic_now_ns().saturating_sub(ns0);
    scale(ticks, passed_ns, passed_ticks)
}

/// `value * numerator / denominator`; saturates, and a denominator of 0 counts as 1.
fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value) * u128::from(numerator) / u128::from(denominator.max(1));
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// Where a thread's time goes. Relaxed throughout: single figures of one writer.
#[derive(Debug)]
pub(crate) struct ThreadClock {
    /// Its host thread; 0 before that runs, -1 once the thread has ended, and the host thread serves another.
    host: AtomicI32,
    /// When the host thread began to serve it, monotonic.
    began_ns: AtomicU64,
    /// CPU time that the host thread had used by then, for others.
    before_ns: AtomicU64,
    /// In guest code so far, without the current stay.
    guest_ticks: AtomicU64,
    /// The counter when it entered guest code; 0 while it is in the kernel.
    entered: AtomicU64,
    /// Slept so far, without the current sleep.
    slept_ns: AtomicU64,
    /// When it fell asleep, monotonic; 0 while it is awake.
    asleep_ns: AtomicU64,
    /// Told so far, and what it ended with.
    user_ns: AtomicU64,
    system_ns: AtomicU64,
}

impl ThreadClock {
    pub(crate) const fn new() -> Self {
        Self {
            host: AtomicI32::new(0),
            began_ns: AtomicU64::new(0),
            before_ns: AtomicU64::new(0),
            guest_ticks: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            slept_ns: AtomicU64::new(0),
            asleep_ns: AtomicU64::new(0),
            user_ns: AtomicU64::new(0),
            system_ns: AtomicU64::new(0),
        }
    }

    /// The calling host thread serves it from now on.
    pub(super) fn begin(&self) {
        self.began_ns.store(sync::monotonic_now_ns(), Ordering::Relaxed);
        let host = sync::host_tid();
        self.before_ns.store(sync::thread_cpu_ns(host).unwrap_or(0), Ordering::Relaxed);
        self.host.store(host, Ordering::Relaxed);
    }

    pub(super) fn enter_guest(&self) {
        self.entered.store(tsc::read_loosely(), Ordering::Relaxed);
    }

    pub(super) fn leave_guest(&self) {
        let stay = tsc::read_loosely().saturating_sub(self.entered.load(Ordering::Relaxed));
        self.entered.store(0, Ordering::Relaxed);
        let ticks = self.guest_ticks.load(Ordering::Relaxed).saturating_add(stay);
        self.guest_ticks.store(ticks, Ordering::Relaxed);
    }

    /// What changes with each stay in guest code and each sleep.
    pub(crate) fn progress(&self) -> Progress {
        Progress {
            guest_ticks: self.guest_ticks.load(Ordering::Relaxed),
            slept_ns: self.slept_ns.load(Ordering::Relaxed),
        }
    }

    pub(super) fn fall_asleep(&self) {
        self.asleep_ns.store(sync::monotonic_now_ns(), Ordering::Relaxed);
    }

    pub(super) fn wake_up(&self) {
        let slept = sync::monotonic_now_ns().saturating_sub(self.asleep_ns.load(Ordering::Relaxed));
        self.asleep_ns.store(0, Ordering::Relaxed);
        let total = self.slept_ns.load(Ordering::Relaxed).saturating_add(slept);
        self.slept_ns.store(total, Ordering::Relaxed);
    }

    /// Time in guest code, at most all of this was on a CPU.
    fn guest_ns(&self) -> u64 {
        let entered = self.entered.load(Ordering::Relaxed);
        let stay = if entered == 0 { 0 } else { tsc::read().saturating_sub(entered) };
        ticks_to_ns(self.guest_ticks.load(Ordering::Relaxed).saturating_add(stay))
    }

    fn system_ns(&self) -> u64 {
        let host = self.host.load(Ordering::Relaxed);
        if host <= 0 {
            return self.system_ns.load(Ordering::Relaxed);
        }
        let now = sync::monotonic_now_ns();
        let asleep = self.asleep_ns.load(Ordering::Relaxed);
        let sleep = if asleep == 0 { 0 } else { now.saturating_sub(asleep) };
        let away = self.slept_ns.load(Ordering::Relaxed).saturating_add(sleep).saturating_add(self.guest_ns());
        let bound = now.saturating_sub(self.began_ns.load(Ordering::Relaxed)).saturating_sub(away);
        // It may have ended since: then the bound alone is there for once.
        let before = self.before_ns.load(Ordering::Relaxed);
        let system = sync::thread_cpu_ns(host).map_or(bound, |used| used.saturating_sub(before).min(bound));
        self.system_ns.fetch_max(system, Ordering::Relaxed).max(system)
    }

    /// It ends: what it used, with user time as a bound.
    pub(super) fn end(&self) -> CpuTimes {
        let system_ns = self.system_ns();
        self.host.store(-1, Ordering::Relaxed);
        CpuTimes { user_ns: self.guest_ns(), system_ns }
    }
}

/// The time of a process.
#[derive(Default)]
struct GroupState {
    /// Of threads that have ended; user time is a bound.
    gone: CpuTimes,
    /// User time in address spaces that it has left, and the bound at that moment.
    spent_ns: u64,
    spent_bound_ns: u64,
    /// The clock of the address space that it is in, and what it showed when it came there.
    clock: Option<(Arc<dyn CpuClock>, u64)>,
    /// Told so far.
    told: CpuTimes,
}

impl GroupState {
    fn user_ns(&self, bound_ns: u64) -> u64 {
        let here = bound_ns.saturating_sub(self.spent_bound_ns);
        let here = match &self.clock {
            None => here,
            Some((clock, base)) => here.min(clock.cpu_time_ns().saturating_sub(*base)),
        };
        self.spent_ns.saturating_add(here)
    }
}

/// The clock of a process.
pub(crate) struct GroupClock {
    state: Mutex<GroupState>,
}

impl GroupClock {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(GROUP_CLOCK, GroupState::default()) }
    }

    /// The process changes to the address space of `clock`, or to none.
    pub(crate) fn change_space<'a>(
        &self,
        clock: Option<Arc<dyn CpuClock>>,
        threads: impl Iterator<Item = &'a ThreadClock>,
    ) {
        let live: u64 = threads.map(ThreadClock::guest_ns).sum();
        let base = clock.as_ref().map_or(0, |clock| clock.cpu_time_ns());
        let mut state = self.state.lock();
        let bound = state.gone.user_ns.saturating_add(live);
        state.spent_ns = state.user_ns(bound);
        state.spent_bound_ns = bound;
        let old = std::mem::replace(&mut state.clock, clock.map(|clock| (clock, base)));
        drop(state);
        drop(old);
    }

    /// A thread ended.
    pub(crate) fn add_gone(&self, times: CpuTimes) {
        let mut state = self.state.lock();
        state.gone = state.gone.plus(times);
    }

    /// Of all its threads: those that are gone, and `threads`.
    pub(crate) fn read<'a>(&self, threads: impl Iterator<Item = &'a ThreadClock>) -> CpuTimes {
        self.read_with_bound(threads).0
    }

    fn read_with_bound<'a>(&self, threads: impl Iterator<Item = &'a ThreadClock>) -> (CpuTimes, u64) {
        let live = threads.fold(CpuTimes::default(), |sum, thread| {
            sum.plus(CpuTimes { user_ns: thread.guest_ns(), system_ns: thread.system_ns() })
        });
        let mut state = self.state.lock();
        let bound = state.gone.user_ns.saturating_add(live.user_ns);
        let user_ns = state.user_ns(bound).max(state.told.user_ns);
        let system_ns = state.gone.system_ns.saturating_add(live.system_ns).max(state.told.system_ns);
        state.told = CpuTimes { user_ns, system_ns };
        (state.told, bound)
    }

    /// Of `thread`, one of `threads`.
    pub(crate) fn read_thread<'a>(
        &self,
        thread: &ThreadClock,
        threads: impl Iterator<Item = &'a ThreadClock>,
    ) -> CpuTimes {
        let (group, bound) = self.read_with_bound(threads);
        let own = thread.guest_ns();
        let share = scale(own, group.user_ns, bound).min(own);
        let user_ns = thread.user_ns.fetch_max(share, Ordering::Relaxed).max(share);
        CpuTimes { user_ns, system_ns: thread.system_ns() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use usermem::platform::CpuClock;

    use super::{CpuTimes, GroupClock, ThreadClock, scale};

    #[derive(Default)]
    struct Fake(AtomicU64);

    impl CpuClock for Fake {
        fn cpu_time_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn none() -> std::iter::Empty<&'static ThreadClock> {
        std::iter::empty()
    }

    #[test]
    fn the_host_s_clock_bounds_user_time_in_each_address_space() {
        let group = GroupClock::new();
        let clock = Arc::new(Fake::default());
        clock.0.store(1_000, Ordering::Relaxed);
        group.change_space(Some(Arc::clone(&clock) as _), none());
        group.add_gone(CpuTimes { user_ns: 500, system_ns: 7 });
        clock.0.store(1_200, Ordering::Relaxed);
        assert_eq!(group.read(none()), CpuTimes { user_ns: 200, system_ns: 7 });
        // A vfork child's time in the same space is not this process's: the bound holds.
        clock.0.store(9_000, Ordering::Relaxed);
        assert_eq!(group.read(none()).user_ns, 500);
        group.change_space(None, none());
        group.add_gone(CpuTimes { user_ns: 50, system_ns: 0 });
        assert_eq!(group.read(none()).user_ns, 550);
    }

    #[test]
    fn a_busy_thread_is_seen_before_it_leaves_guest_code() {
        super::start();
        let group = GroupClock::new();
        let thread = ThreadClock::new();
        thread.begin();
        thread.enter_guest();
        let until = sync::monotonic_now_ns() + 5_000_000;
        while sync::monotonic_now_ns() < until {}
        let seen = group.read_thread(&thread, std::iter::once(&thread));
        assert!(seen.user_ns >= 3_000_000, "{seen:?}");
        assert!(seen.system_ns < 3_000_000, "{seen:?}");
        thread.leave_guest();
        assert!(thread.end().user_ns >= seen.user_ns);
    }

    #[test]
    fn scaling_survives_large_numbers() {
        assert_eq!(scale(u64::MAX, u64::MAX, 1), u64::MAX);
        assert_eq!(scale(10, 3, 0), 30);
        assert_eq!(scale(10, 1, 4), 2);
    }
}
