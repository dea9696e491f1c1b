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

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Average time between an answer and the next request up to which watching may begin.
const QUICK: Duration = Duration::from_micros(16);
/// How long the kernel thread watches for a request: about what it costs to stop and to begin again.
const PATIENCE: Duration = Duration::from_micros(60);
/// How long it does so at first, until the stub thread has moved to another core and made a call.
const FIRST_PATIENCE: Duration = Duration::from_micros(150);
/// How long a stub watches for an answer: longer than calls take that do not sleep. The kernel says when it does.
const STUB_PATIENCE: Duration = Duration::from_micros(100);
/// How long a task watches for the end of its sleep before that begins.
const NAP: Duration = Duration::from_micros(20);
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
const MOST_VAIN_NAPS: u32 = 6;
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    quick: Ticks,
    patience: Ticks,
    first_patience: Ticks,
    nap: Ticks,
    asleep: Ticks,
    crowded: Ticks,
    gap: Ticks,
    longest: Ticks,
    penalty: Ticks,
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
            asleep: of(ASLEEP),
            crowded: of(CROWDED),
            gap: of(GAP),
            longest: of(LONGEST),
            penalty: of(PENALTY),
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

/// What a context counts as, and how its task's sleeps went. Changed by the context's own kernel thread only, so that all
/// accesses are Relaxed.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// Sleeps that begin without a nap before.
    skip: AtomicU32,
    /// Naps in a row that were followed by a sleep.
    vain_naps: AtomicU32,
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

    /// Watches for the end of a sleep that has not begun, if a core is free and the last sleeps were that short. Whether it
    /// has come.
    pub(crate) fn nap(&self, cores: &Cores, mut woken: impl FnMut() -> bool) -> bool {
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
            return false;
        }
        if cores.cpus < 2 || cores.crowded() {
            return false;
        }
        if watch(cores, cores.scale.nap, Crowd::Ends, || woken().then_some(())).is_ok() {
            self.vain_naps.store(0, Ordering::Relaxed);
            return true;
        }
        let vain = (self.vain_naps.load(Ordering::Relaxed) + 1).min(MOST_VAIN_NAPS);
        self.vain_naps.store(vain, Ordering::Relaxed);
        self.skip.store((1 << vain) - 1, Ordering::Relaxed);
        false
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
    failures: u32,
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
    /// Calls since watching began.
    watched: u32,
    /// Time of all calls of the current stretch of watching; until it is judged.
    stretch: Option<Ticks>,
    /// The stub is on its way to another core.
    moving: bool,
    /// Calls since the stub last lost patience.
    since_late: u32,
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
            watched: 0,
            stretch: None,
            moving: false,
            since_late: 0,
            crowded: None,
            failures: 0,
            earliest: 0,
            requested: 0,
            answered: 0,
            tally: Tally::default(),
        }
    }

    /// Decides at an answer.
    pub(crate) fn plan(&mut self, seat: &Seat, cores: &Cores) -> Plan {
        if seat.slept.load(Ordering::Relaxed) {
            seat.slept.store(false, Ordering::Relaxed);
            let worth = self.watched >= WORTH;
            if self.stretch.take().is_some() && !worth {
                self.fail(self.requested, MOST_SLEEPS, cores);
            }
            (self.streak, self.watched) = (if worth { TRUST } else { 0 }, 0);
        }
        if seat.is_watching() {
            if !self.is_crowded(cores) {
                return Plan::Watch;
            }
            self.stop(seat, cores, Ended::Crowded, self.requested);
        }
        let proven = self.streak >= STREAK && self.mean < cores.scale.quick && self.requested >= self.earliest;
        if cores.cpus > 1 && proven && seat.watch(cores) {
            (self.watched, self.since_late) = (0, 0);
            self.stretch = Some(0);
            self.moving = true;
            self.tally.begun += 1;
            return Plan::Begin;
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

    /// Whether the stretch of watching that has ended was better than sleeping.
    fn judge(&mut self, now: Ticks, cores: &Cores) {
        let Some(spent) = self.stretch.take() else { return };
        if spent / u64::from(self.watched + 1) < self.asleep / 4 * 3 {
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
        watch(cores, if self.moving { scale.first_patience } else { scale.patience }, Crowd::Bears, look)
    }
}

/// What more threads than cores mean to one that watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Crowd {
    /// It ends.
    Ends,
    /// It goes on for a while.
    Bears,
}

/// Watches until `look` answers something, `patience` is over, or the core is lost or wanted.
fn watch<T>(cores: &Cores, patience: Ticks, crowd: Crowd, mut look: impl FnMut() -> Option<T>) -> Result<T, Ended> {
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
mod tests {
    use super::{Cores, Ended, MOST_FAILURES, Pace, Plan, STREAK, Scale, Seat, Ticks, WORTH};

    /// One tick is a nanosecond.
    fn cores(cpus: u32) -> Cores {
        let mut cores = Cores::new(cpus);
        cores.scale = Scale {
            quick: 16_000,
            patience: 20_000,
            first_patience: 150_000,
            nap: 20_000,
            asleep: 5_000,
            crowded: 100_000,
            gap: 15_000,
            longest: 8_000_000,
            penalty: 100_000,
            stub_looks: 500,
        };
        cores
    }

    struct Task {
        pace: Pace,
        seat: Seat,
        now: Ticks,
    }

    impl Task {
        fn new(cores: &Cores) -> Self {
            let task = Self { pace: Pace::new(cores), seat: Seat::default(), now: 1_000_000 };
            task.seat.wake(cores);
            task
        }

        /// A call whose answer is planned at once; the next one comes `app` later. Returns the plan.
        fn call(&mut self, cores: &Cores, app: Ticks) -> Plan {
            self.seat.wake(cores);
            let plan = self.pace.plan(&self.seat, cores);
            self.pace.answered = self.now;
            self.now += app;
            self.pace.note_request(self.now, self.seat.is_watching(), cores);
            plan
        }

        /// Calls until watching begins; how many.
        fn until_begin(&mut self, cores: &Cores, app: Ticks) -> u32 {
            (0..10_000_000).find(|_| self.call(cores, app) == Plan::Begin).expect("it begins")
        }

        fn stop(&mut self, cores: &Cores, ended: Ended) {
            self.pace.stop(&self.seat, cores, ended, self.now);
        }
    }

    #[test]
    fn quick_calls_begin_to_watch_and_slow_ones_do_not() {
        let cores = cores(2);
        let mut quick = Task::new(&cores);
        assert!((1..=STREAK).contains(&quick.until_begin(&cores, 5_000)));
        assert!((0..1000).all(|_| quick.call(&cores, 1_000) == Plan::Watch));
        quick.seat.sleep(&cores);
        let mut slow = Task::new(&cores);
        assert!((0..1000).all(|_| slow.call(&cores, 30_000) == Plan::Sleep));
    }

    #[test]
    fn nobody_watches_without_a_free_core() {
        let one = cores(1);
        let mut alone = Task::new(&one);
        assert!((0..1000).all(|_| alone.call(&one, 1_000) == Plan::Sleep));
        let two = cores(2);
        let (mut first, mut second) = (Task::new(&two), Task::new(&two));
        assert!((0..1000).all(|_| first.call(&two, 1_000) == Plan::Sleep));
        // A task that sleeps leaves its core to the other, until it wakes.
        second.seat.sleep(&two);
        first.until_begin(&two, 1_000);
        assert_eq!(first.call(&two, 1_000), Plan::Watch);
        assert_eq!(second.call(&two, 1_000), Plan::Sleep);
        assert!(two.crowded());
        // It bears with that for a moment.
        let went_on = (0..1_000).take_while(|_| first.call(&two, 1_000) == Plan::Watch).count();
        assert!((50..200).contains(&went_on), "{went_on}");
        assert!(!two.crowded());
    }

    #[test]
    fn every_core_comes_back() {
        let cores = cores(8);
        let mut tasks: Vec<Task> = (0..4).map(|_| Task::new(&cores)).collect();
        for task in &mut tasks {
            task.until_begin(&cores, 1_000);
        }
        assert_eq!(cores.busy.load(super::Ordering::Relaxed), 8);
        for (task, ended) in tasks.iter_mut().zip([Ended::InVain, Ended::Gap, Ended::Crowded, Ended::Late]) {
            task.stop(&cores, ended);
            task.stop(&cores, ended);
        }
        assert_eq!(cores.busy.load(super::Ordering::Relaxed), 4);
        tasks.iter().for_each(|task| task.seat.sleep(&cores));
        tasks.iter().for_each(|task| task.seat.sleep(&cores));
        assert_eq!(cores.busy.load(super::Ordering::Relaxed), 0);
    }

    #[test]
    fn a_stretch_that_did_not_pay_is_followed_by_a_longer_sleep() {
        let cores = cores(2);
        let mut task = Task::new(&cores);
        let mut before = task.until_begin(&cores, 8_000);
        // Fast calls, but each time our thread loses its core for three milliseconds.
        for _ in 0..MOST_FAILURES.div_ceil(2) {
            (0..100).for_each(|_| assert_eq!(task.call(&cores, 1_000), Plan::Watch));
            task.now += 3_000_000;
            task.stop(&cores, Ended::Gap);
            assert_eq!(task.call(&cores, 8_000), Plan::Sleep);
            let now = task.until_begin(&cores, 8_000);
            assert!(now > before, "{now} after {before}");
            before = now;
        }
        // 50 ms' worth.
        assert!((4_000..8_000).contains(&before), "{before}");
        // Stretches that pay bring it back.
        for _ in 0..MOST_FAILURES {
            (0..10_000).for_each(|_| assert_eq!(task.call(&cores, 1_000), Plan::Watch));
            task.stop(&cores, Ended::Gap);
            task.until_begin(&cores, 8_000);
        }
        assert_eq!(task.pace.failures, 0);
    }

    #[test]
    fn long_computing_does_not_count_against_a_stretch() {
        let cores = cores(2);
        let mut task = Task::new(&cores);
        for _ in 0..20 {
            let begun = task.until_begin(&cores, 5_000);
            assert!(begun <= STREAK, "{begun}");
            (0..100).for_each(|_| assert_eq!(task.call(&cores, 500), Plan::Watch));
            task.now += 60_000;
            task.stop(&cores, Ended::InVain);
            task.now += 2_000_000;
            task.pace.note_request(task.now, false, &cores);
        }
        assert_eq!(task.pace.failures, 0);
    }

    #[test]
    fn a_stub_that_lost_patience_once_is_watched_again() {
        let cores = cores(2);
        let mut task = Task::new(&cores);
        task.until_begin(&cores, 5_000);
        (0..WORTH).for_each(|_| assert_eq!(task.call(&cores, 500), Plan::Watch));
        assert_eq!(task.pace.late(&task.seat, &cores), Plan::Begin);
        assert!(task.seat.is_watching());
        assert_eq!(task.pace.late(&task.seat, &cores), Plan::Sleep, "but not one that always does");
        assert!(!task.seat.is_watching());
    }

    #[test]
    fn tasks_that_sleep_often_do_not_watch() {
        let cores = cores(2);
        let mut task = Task::new(&cores);
        let mut begun = 0;
        for _ in 0..10_000 {
            for _ in 0..STREAK + 2 {
                begun += u32::from(task.call(&cores, 1_000) == Plan::Begin);
            }
            task.seat.sleep(&cores);
        }
        assert!(begun < 100, "{begun}");
    }

    #[test]
    fn naps_in_vain_become_rare_and_short_sleeps_bring_them_back() {
        let cores = cores(2);
        let task = Task::new(&cores);
        let mut looked = 0;
        for _ in 0..4_000 {
            let before = looked;
            assert!(!task.seat.nap(&cores, || {
                looked += u32::from(looked == before);
                false
            }));
        }
        assert!((50..90).contains(&looked), "{looked}");
        let slept = (0..2_000).take_while(|_| !task.seat.nap(&cores, || true)).count();
        assert!(slept < 1 << super::MOST_VAIN_NAPS);
        assert!((0..100).all(|_| task.seat.nap(&cores, || true)));
        // Never while more tasks than cores run.
        let others = [Task::new(&cores), Task::new(&cores)];
        assert!(!task.seat.nap(&cores, || true));
        others.iter().for_each(|other| other.seat.sleep(&cores));
        assert!(task.seat.nap(&cores, || true));
    }

    #[test]
    fn watching_ends_when_nothing_comes() {
        let cores = Cores::new(2);
        let task = Task::new(&cores);
        assert_eq!(task.pace.watch(&cores, || Some(7)), Ok(7));
        let begun = std::time::Instant::now();
        assert!(matches!(task.pace.watch(&cores, || None::<()>), Err(Ended::InVain | Ended::Gap)));
        assert!(begun.elapsed().as_secs() < 5);
    }

    #[test]
    fn the_scale_is_plausible() {
        let scale = Scale::measure();
        assert!(scale.quick < scale.patience && scale.patience < scale.first_patience && scale.gap > 0);
        assert!((16..=1 << 20).contains(&scale.stub_looks));
    }
}
