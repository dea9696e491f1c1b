//! When a pair of threads hands over by watching a word instead of sleeping.
//!
//! Watching costs a core that does nothing else, so it is allowed only while a core is free ([`Cores`]), for tasks
//! whose recent calls follow each other quickly, and after they have shown it for as long as the change costs
//! ([`Pace`]). What cannot be known, such as other programs of the host, shows as time that passes between two looks
//! although nothing was done: then the thread was not running, and watching stops for a while.
//!
//! **Invariant.** Everything here is a hint. Wrong ones cost time, never an answer.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Average time between an answer and the next request up to which watching may begin.
const QUICK: Duration = Duration::from_micros(16);
/// How long the kernel thread watches for a request.
const PATIENCE: Duration = Duration::from_micros(20);
/// How long it does so at first, until the stub thread has moved to another core and made a call.
const FIRST_PATIENCE: Duration = Duration::from_micros(300);
/// How long a stub watches for an answer.
const STUB_PATIENCE: Duration = Duration::from_micros(20);
/// Time between two looks that means that another thread had the core.
const GAP: Duration = Duration::from_micros(15);
/// Looks between two readings of the clock.
const LOOKS: u32 = 32;
/// Quick calls in a row before watching begins: about what the beginning costs.
const STREAK: u32 = 16;
/// Calls for which a stretch of watching has been worth its beginning.
const WORTH: u32 = 64;
/// The row of quick calls doubles with each failure, this many times at most.
const MOST_FAILURES: u32 = 10;

/// Ticks of the CPU's clock.
pub(crate) type Ticks = u64;

/// The CPU's clock.
pub(crate) fn ticks() -> Ticks {
    // SAFETY: every x86-64 CPU has the instruction, and no host that runs containers turns it off for programs.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The policy's times, in what the CPU counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    quick: Ticks,
    patience: Ticks,
    first_patience: Ticks,
    gap: Ticks,
    /// Looks of a stub before it sleeps.
    pub(crate) stub_looks: u32,
}

impl Scale {
    /// Measures the CPU's clock and its pause instruction, for a tenth of a millisecond.
    pub(crate) fn measure() -> Self {
        const PAUSES: u64 = 256;
        let (begun, first) = (Instant::now(), ticks());
        let mut pause = u64::MAX;
        let mut elapsed = Duration::ZERO;
        // The best of several: whatever interrupts one of them makes it longer.
        while elapsed < Duration::from_micros(100) {
            let before = ticks();
            for _ in 0..PAUSES {
                core::hint::spin_loop();
            }
            pause = pause.min(ticks().saturating_sub(before));
            elapsed = begun.elapsed();
        }
        let per_micro = (ticks().saturating_sub(first) / (elapsed.as_micros() as u64).max(1)).max(1);
        let of = |time: Duration| time.as_micros() as u64 * per_micro;
        let looks = (of(STUB_PATIENCE) * PAUSES / pause.max(1)).clamp(16, 1 << 20);
        Self {
            quick: of(QUICK),
            patience: of(PATIENCE),
            first_patience: of(FIRST_PATIENCE),
            gap: of(GAP),
            stub_looks: looks as u32,
        }
    }
}

/// The cores that the sandbox may use, and how many of its tasks use or watch on one.
#[derive(Debug)]
pub(crate) struct Cores {
    cpus: u32,
    /// Tasks that run, in guest code or in the kernel, and those of them that watch, once more.
    busy: AtomicU32,
    pub(crate) scale: Scale,
}

impl Cores {
    /// `cpus` of them; with 1 nobody ever watches.
    pub(crate) fn new(cpus: u32) -> Self {
        Self { cpus, busy: AtomicU32::new(0), scale: Scale::measure() }
    }

    fn add(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&self) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a free core to watch on.
    fn take(&self) -> bool {
        self.busy
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |busy| (busy < self.cpus).then_some(busy + 1))
            .is_ok()
    }

    /// More threads than cores.
    fn crowded(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > self.cpus
    }
}

/// What a context counts as. Changed by the context's own kernel thread only, so that all accesses are Relaxed.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// Its task runs.
    awake: AtomicBool,
    /// It holds a core to watch on.
    watching: AtomicBool,
    /// It has slept since the last answer.
    slept: AtomicBool,
}

impl Seat {
    /// The task runs.
    pub(crate) fn wake(&self, cores: &Cores) {
        if !self.awake.load(Ordering::Relaxed) {
            self.awake.store(true, Ordering::Relaxed);
            cores.add();
        }
    }

    /// The task is about to sleep, or ends.
    pub(crate) fn sleep(&self, cores: &Cores) {
        self.stop_watching(cores);
        self.slept.store(true, Ordering::Relaxed);
        if self.awake.load(Ordering::Relaxed) {
            self.awake.store(false, Ordering::Relaxed);
            cores.remove();
        }
    }

    fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Relaxed)
    }

    fn watch(&self, cores: &Cores) -> bool {
        let taken = cores.take();
        self.watching.store(taken, Ordering::Relaxed);
        taken
    }

    fn stop_watching(&self, cores: &Cores) {
        if self.watching.load(Ordering::Relaxed) {
            self.watching.store(false, Ordering::Relaxed);
            cores.remove();
        }
    }
}

/// How the next wait begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plan {
    /// The kernel thread sleeps; the stub wakes on its core.
    Sleep,
    /// It watches for the first time: the stub must move to another core.
    Begin,
    /// It goes on watching.
    Watch,
}

/// Why watching ended without a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// Nothing came.
    InVain,
    /// The thread lost its core meanwhile.
    Gap,
    /// The core is wanted by another task of ours.
    Crowded,
    /// The stub lost patience: we took too long to answer.
    Late,
}

/// How often watching began and ended, for the debug log.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    calls: u64,
    watched: u64,
    begun: u32,
    in_vain: u32,
    gaps: u32,
    crowded: u32,
    late: u32,
}

/// The history of one context.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Average time between an answer and the next request, in ticks; the last eight count most.
    mean: Ticks,
    /// Calls since the last sleep or the end of watching.
    streak: u32,
    /// Calls since watching began.
    watched: u32,
    /// Failures that count.
    failures: u32,
    answered: Ticks,
    pub(crate) tally: Tally,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { mean: Ticks::MAX, streak: 0, watched: 0, failures: 0, answered: 0, tally: Tally::default() }
    }

    /// Decides at an answer.
    pub(crate) fn plan(&mut self, seat: &Seat, cores: &Cores) -> Plan {
        if seat.slept.load(Ordering::Relaxed) {
            seat.slept.store(false, Ordering::Relaxed);
            self.streak = 0;
            if self.watched > 0 && self.watched < WORTH {
                self.fail();
            }
            self.watched = 0;
        }
        if seat.is_watching() {
            if !cores.crowded() {
                return Plan::Watch;
            }
            self.stop(seat, cores, Ended::Crowded);
        }
        let proven = self.streak >= STREAK << self.failures && self.mean < cores.scale.quick;
        if cores.cpus > 1 && proven && seat.watch(cores) {
            self.watched = 0;
            self.tally.begun += 1;
            return Plan::Begin;
        }
        Plan::Sleep
    }

    /// The answer has been given.
    pub(crate) fn answered(&mut self) {
        self.answered = ticks();
    }

    /// A request has come.
    pub(crate) fn requested(&mut self, cores: &Cores) {
        // One long pause must not outweigh hundreds of calls.
        let most = cores.scale.quick * 16;
        let took = ticks().saturating_sub(self.answered).min(most);
        let mean = self.mean.min(most);
        self.mean = mean - mean / 8 + took / 8;
        self.streak = self.streak.saturating_add(1);
        self.tally.calls += 1;
    }

    /// A request came while we watched.
    pub(crate) fn succeeded(&mut self) {
        self.watched += 1;
        self.tally.watched += 1;
        if self.watched.is_multiple_of(WORTH) {
            self.failures = self.failures.saturating_sub(1);
        }
    }

    /// Watching ends; the token goes back.
    pub(crate) fn stop(&mut self, seat: &Seat, cores: &Cores, ended: Ended) {
        seat.stop_watching(cores);
        self.streak = 0;
        self.watched = 0;
        let count = match ended {
            Ended::InVain => &mut self.tally.in_vain,
            Ended::Gap => &mut self.tally.gaps,
            Ended::Crowded => &mut self.tally.crowded,
            Ended::Late => &mut self.tally.late,
        };
        *count += 1;
        if matches!(ended, Ended::InVain | Ended::Gap) {
            self.fail();
        }
    }

    fn fail(&mut self) {
        self.failures = (self.failures + 1).min(MOST_FAILURES);
    }

    /// Watches until `look` answers something, for as long as it may.
    pub(crate) fn watch<T>(&self, cores: &Cores, mut look: impl FnMut() -> Option<T>) -> Result<T, Ended> {
        let scale = &cores.scale;
        let patience = if self.watched == 0 { scale.first_patience } else { scale.patience };
        let begun = ticks();
        let mut last = begun;
        loop {
            for _ in 0..LOOKS {
                if let Some(found) = look() {
                    return Ok(found);
                }
                core::hint::spin_loop();
            }
            let now = ticks();
            if cores.crowded() {
                return Err(Ended::Crowded);
            }
            if now.saturating_sub(last) > scale.gap {
                return Err(Ended::Gap);
            }
            if now.saturating_sub(begun) > patience {
                return Err(Ended::InVain);
            }
            last = now;
        }
    }
}
