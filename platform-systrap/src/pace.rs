//! When a pair of threads hands over by watching a word instead of sleeping.
//!
//! Watching costs a core that does nothing else, so it is allowed only while a core is free ([`Cores`]), for tasks
//! whose recent calls follow each other quickly, and after they have shown it for as long as the change costs
//! ([`Pace`]). What cannot be known, such as other programs of the host, shows as time: between two looks, when our thread
//! was not running, and between two requests, when the stub thread was not. So each stretch of watching is judged
//! by the time that its calls took, against those before it: after one that did not pay, the next may begin four times as
//! much later. Time, not calls: what was in the way, a program or a phase of this one, is gone after a time.
//!
//! **Invariant.** Everything here is a hint. Wrong ones cost time, never an answer.

use std::time::{Duration, Instant};

use crate::cores::{Cores, Kept, Seat};
use crate::host::Affinity;

/// Average time between an answer and the next request up to which watching may begin.
const QUICK: Duration = Duration::from_micros(16);
/// How long the kernel thread watches for a request: about what it costs to stop and to begin again.
const PATIENCE: Duration = Duration::from_micros(60);
/// How long it does so at first, until the stub thread has moved to another core and made a call.
const FIRST_PATIENCE: Duration = Duration::from_micros(200);
/// Calls of a context for which it is as patient: programs that begin ask the CPU what it is (a VM exit each time), relocate
/// themselves, and go on with many calls.
const BEGINNING: u64 = 100;
/// How long a stub watches for an answer: longer than calls take that do not sleep. The kernel says when it does.
const STUB_PATIENCE: Duration = Duration::from_micros(100);
/// How long a task watches for the end of its sleep before that begins.
const NAP: Duration = Duration::from_micros(20);
/// How long it does so now and then, and while that has been worth it: longer than whom it works with, and who sleeps as
/// well, takes to wake up on a core that was halted. If both nap, neither has to.
const LONG_NAP: Duration = Duration::from_micros(150);
/// What a hand-over costs asleep, until it has been measured.
const ASLEEP: Duration = Duration::from_micros(5);
/// How long watching goes on while more threads run than there are cores: others that wake sleep again soon, mostly.
const CROWDED: Duration = Duration::from_micros(100);
/// Time between two looks that means that another thread had the core.
const GAP: Duration = Duration::from_micros(15);
/// Looks between two readings of the clock.
const LOOKS: u32 = 32;
/// Quick calls in a row before watching begins: about what the beginning costs, a wake-up on another core.
const STREAK: u32 = 8;
/// Calls after which a stretch of watching that a sleep of the task ends has been worth its beginning.
const WORTH: u32 = 16;
/// Calls of the first row that a context need not make which has watched to good purpose before it slept.
const TRUST: u32 = STREAK / 2;
/// How long no watching begins after a failure; each failure doubles it twice, ...
const PENALTY: Duration = Duration::from_micros(100);
/// ... but it doubles this many times at most: to 50 ms.
const MOST_FAILURES: u32 = 9;
/// The same where a sleep of the task ended a stretch early: that costs the beginning and no more.
const MOST_SLEEPS: u32 = 4;
/// Naps in vain double the sleeps before the next one, this many times at most.
pub(crate) const MOST_VAIN_NAPS: u32 = 6;
/// Naps in vain after which the next ones are long.
pub(crate) const VAIN_NAPS: u32 = 3;
/// How long a task watches while others wait for its place.
pub(crate) const TURN: Duration = Duration::from_millis(2);
/// How often the CPUs are counted again when some were taken away.
const RECOUNT: Duration = Duration::from_millis(50);
/// Calls without a sleep after which a task may be made to wait for its turn: those that hand work to each other would only
/// wait for whom they keep waiting.
const ALONE: u32 = 32;
/// Longest time from one request to the next that counts: longer than other programs keep a thread waiting for its core.
const LONGEST: Duration = Duration::from_millis(8);

/// Ticks of the CPU's clock.
pub(crate) type Ticks = u64;

/// The CPU's clock.
pub(crate) fn ticks() -> Ticks {
    // SAFETY: every x86-64 CPU has the instruction, and no host that runs containers turns it off for programs.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The policy's times, in what the CPU counts.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Scale {
    pub(crate) quick: Ticks,
    patience: Ticks,
    first_patience: Ticks,
    pub(crate) nap: Ticks,
    pub(crate) long_nap: Ticks,
    asleep: Ticks,
    crowded: Ticks,
    gap: Ticks,
    longest: Ticks,
    penalty: Ticks,
    turn: Ticks,
    pub(crate) recount: Ticks,
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
            nap: of(NAP),
            long_nap: of(LONG_NAP),
            asleep: of(ASLEEP),
            crowded: of(CROWDED),
            gap: of(GAP),
            longest: of(LONGEST),
            penalty: of(PENALTY),
            turn: of(TURN),
            recount: of(RECOUNT),
            stub_looks: looks as u32,
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
    /// It would watch, and others do: its turn will come ([`Pace::wait`]).
    Wait,
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
    /// Others have waited for long enough.
    Turn,
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
    turns: u32,
    failures: u32,
}

/// What is known of a context's calls before it makes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Promise {
    None,
    /// There will be many.
    Given,
    /// Watching has begun because of that.
    Believed,
}

/// The history of one context. Times of calls are those that the stub has the thread, from an answer to the next request:
/// what the kernel does in between is the same however it waits.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Average time of a call; the last eight count most.
    mean: Ticks,
    /// The same over calls during which the kernel thread slept; the last sixteen count most.
    asleep: Ticks,
    /// Calls since the last sleep or the end of watching.
    streak: u32,
    /// Calls since it last slept, or watched for the end of a sleep.
    alone: u32,
    /// Calls since watching began.
    watched: u32,
    /// Time of all calls of the current stretch of watching; until it is judged.
    stretch: Option<Ticks>,
    /// The stub is on its way to another core.
    moving: bool,
    /// See [`Pace::on_errand`].
    errand: bool,
    promise: Promise,
    /// Calls since the stub last lost patience.
    since_late: u32,
    /// When watching began.
    begun: Ticks,
    /// Since when more threads run than there are cores.
    crowded: Option<Ticks>,
    failures: u32,
    /// Before then no watching begins.
    earliest: Ticks,
    requested: Ticks,
    answered: Ticks,
    pub(crate) tally: Tally,
}

impl Pace {
    pub(crate) fn new(cores: &Cores) -> Self {
        Self {
            // Most programs begin with quick calls.
            mean: cores.scale.quick / 2,
            asleep: cores.scale.asleep,
            streak: 0,
            alone: 0,
            watched: 0,
            stretch: None,
            moving: false,
            errand: false,
            promise: Promise::None,
            since_late: 0,
            begun: 0,
            crowded: None,
            failures: 0,
            earliest: 0,
            requested: 0,
            answered: 0,
            tally: Tally::default(),
        }
    }

    /// The guest will make many calls from now on: a program begins.
    pub(crate) fn expect_calls(&mut self) {
        self.promise = Promise::Given;
    }

    /// The next answer is no answer to the guest: we want something of the stub, and will not wait for a turn first.
    pub(crate) fn on_errand(&mut self) {
        self.errand = true;
    }

    /// Decides at an answer.
    pub(crate) fn plan(&mut self, seat: &Seat, cores: &Cores) -> Plan {
        if seat.has_slept() {
            let worth = self.watched >= WORTH;
            self.note_promise(if worth { Kept::Yes } else { Kept::No }, cores);
            if self.stretch.take().is_some() && !worth {
                self.fail(self.requested, MOST_SLEEPS, cores);
            }
            (self.streak, self.watched) = (if worth { TRUST } else { 0 }, 0);
        }
        let may_wait = !std::mem::take(&mut self.errand);
        self.alone = if seat.has_met() { 0 } else { self.alone.saturating_add(1) };
        if seat.is_watching() {
            if may_wait && cores.are_wanted() && self.requested.saturating_sub(self.begun) > cores.scale.turn {
                self.stop(seat, cores, Ended::Turn, self.requested);
                return Plan::Wait;
            }
            if !self.is_crowded(cores) {
                return Plan::Watch;
            }
            self.stop(seat, cores, Ended::Crowded, self.requested);
        }
        let quick = self.mean < cores.quick_enough();
        seat.be_quick(cores, quick && self.alone >= ALONE);
        let promised = self.promise == Promise::Given && self.tally.calls <= u64::from(STREAK);
        let soon = promised && may_wait && cores.believes();
        if !quick || (self.streak < STREAK && !soon) || self.requested < self.earliest {
            return Plan::Sleep;
        }
        cores.recount(self.requested, || Affinity::of_this_thread().count());
        if seat.watch(cores) {
            if soon {
                self.promise = Promise::Believed;
                if self.tally.calls == 0 {
                    self.requested = ticks();
                }
            }
            return self.begin(seat, cores);
        }
        let wait = may_wait && seat.may_wait(cores);
        if wait { Plan::Wait } else { Plan::Sleep }
    }

    fn begin(&mut self, seat: &Seat, cores: &Cores) -> Plan {
        seat.be_quick(cores, true);
        (self.watched, self.since_late) = (0, 0);
        self.stretch = Some(0);
        self.begun = self.requested;
        self.moving = true;
        self.tally.begun += 1;
        Plan::Begin
    }

    /// Waits for a turn, and decides again.
    pub(crate) fn wait(&mut self, seat: &Seat, cores: &Cores) -> Plan {
        self.streak = 0;
        if seat.wait_for_turn(cores) {
            self.requested = ticks();
            return self.begin(seat, cores);
        }
        Plan::Sleep
    }

    /// Whether more threads run than there are cores, and have done so for a while.
    fn is_crowded(&mut self, cores: &Cores) -> bool {
        if !cores.crowded() {
            self.crowded = None;
            return false;
        }
        let since = *self.crowded.get_or_insert(self.requested);
        self.requested.saturating_sub(since) > cores.scale.crowded
    }

    /// The stub lost patience before this answer: decides again.
    pub(crate) fn late(&mut self, seat: &Seat, cores: &Cores) -> Plan {
        if self.since_late < WORTH {
            self.stop(seat, cores, Ended::Late, self.requested);
            return Plan::Sleep;
        }
        self.since_late = 0;
        self.moving = true;
        self.tally.late += 1;
        Plan::Begin
    }

    /// The answer has been given.
    pub(crate) fn answered(&mut self) {
        self.answered = ticks();
    }

    /// A request has come.
    pub(crate) fn requested(&mut self, seat: &Seat, cores: &Cores) {
        self.note_request(ticks(), seat.is_watching(), cores);
    }

    fn note_request(&mut self, now: Ticks, watching: bool, cores: &Cores) {
        let took = now.saturating_sub(self.answered);
        // One long pause must not outweigh hundreds of calls.
        let most = cores.scale.quick * 16;
        self.mean = self.mean - self.mean / 8 + took.min(most) / 8;
        self.tally.calls += 1;
        self.moving = false;
        if watching {
            self.watched += 1;
            self.since_late += 1;
            self.stretch = self.stretch.map(|spent| spent.saturating_add(took));
            self.tally.watched += 1;
        } else if self.stretch.is_some() {
            self.judge(now, cores);
        } else {
            self.asleep = self.asleep - self.asleep / 16 + took.min(cores.scale.longest) / 16;
            self.streak = self.streak.saturating_add(1);
        }
        self.requested = now;
    }

    fn note_promise(&mut self, kept: Kept, cores: &Cores) {
        if self.promise == Promise::Believed {
            self.promise = Promise::None;
            cores.note_promise(kept);
        }
    }

    /// Whether the stretch of watching that has ended was better than sleeping.
    fn judge(&mut self, now: Ticks, cores: &Cores) {
        let Some(spent) = self.stretch.take() else { return };
        let paid = spent / u64::from(self.watched + 1) < self.asleep / 4 * 3;
        self.note_promise(if paid || self.watched >= WORTH { Kept::Yes } else { Kept::No }, cores);
        if paid {
            // The longer it paid, the less is left of what did not.
            self.failures = self.failures.saturating_sub(1 + self.watched.max(1).ilog2() / 4);
        } else {
            self.fail(now, MOST_FAILURES, cores);
        }
        self.watched = 0;
    }

    /// Watching ends; the token goes back. What was spent on it in vain counts, what comes after does not.
    pub(crate) fn stop(&mut self, seat: &Seat, cores: &Cores, ended: Ended, now: Ticks) {
        seat.stop_watching(cores);
        if ended == Ended::InVain {
            seat.be_quick(cores, false);
        }
        cores.offer();
        if matches!(ended, Ended::InVain | Ended::Gap) {
            let spent = now.saturating_sub(self.answered);
            self.stretch = self.stretch.map(|before| before.saturating_add(spent));
        }
        (self.streak, self.crowded) = (0, None);
        let count = match ended {
            Ended::InVain => &mut self.tally.in_vain,
            Ended::Gap => &mut self.tally.gaps,
            Ended::Crowded => &mut self.tally.crowded,
            Ended::Late => &mut self.tally.late,
            Ended::Turn => &mut self.tally.turns,
        };
        *count += 1;
        if ended == Ended::Crowded {
            // As soon as there is a core again.
            self.streak = TRUST;
        }
    }

    fn fail(&mut self, now: Ticks, most: u32, cores: &Cores) {
        self.failures = (self.failures + 2).min(most.max(self.failures));
        self.earliest = now.saturating_add(cores.scale.penalty << self.failures);
        self.tally.failures += 1;
    }

    /// Watches until `look` answers something, for as long as it may.
    pub(crate) fn watch<T>(&self, cores: &Cores, look: impl FnMut() -> Option<T>) -> Result<T, Ended> {
        let scale = &cores.scale;
        let early = self.moving || self.tally.calls < BEGINNING;
        watch(cores, if early { scale.first_patience } else { scale.patience }, Crowd::Bears, look)
    }
}

/// What more threads than cores mean to one that watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Crowd {
    /// It ends.
    Ends,
    /// It goes on for a while.
    Bears,
}

/// Watches until `look` answers something, `patience` is over, or the core is lost or wanted.
pub(crate) fn watch<T>(
    cores: &Cores,
    patience: Ticks,
    crowd: Crowd,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, Ended> {
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
        if crowd == Crowd::Ends && cores.crowded() {
            return Err(Ended::Crowded);
        }
        if now.saturating_sub(last) > cores.scale.gap {
            return Err(Ended::Gap);
        }
        if now.saturating_sub(begun) > patience {
            return Err(Ended::InVain);
        }
        last = now;
    }
}

#[cfg(test)]
mod tests;
