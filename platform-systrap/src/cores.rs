//! The cores that the sandbox may use, who uses them, and who watches on one.
//!
//! **Invariant.** A task that sleeps counts nowhere: when all do, all counts are 0, so that an idle sandbox has nobody who
//! watches. A place that is given back is offered at once to those who wait. Loom runs this module (`tests/loom.rs`).

use std::sync::atomic::{AtomicBool, AtomicU32 as OwnU32, AtomicU64};
use std::time::Duration;

use sync::Arc;
use sync::atomic::{AtomicU32, Ordering};

use crate::pace::{Crowd, MOST_VAIN_NAPS, Scale, TURN, Ticks, VAIN_NAPS, ticks, watch};
use crate::turns::{Turn, Turns};

/// Who counts. Written when tasks sleep, wake, begin and end to watch; on lines of their own, because each call looks at what
/// lies beside them.
#[derive(Debug)]
#[repr(align(128))]
struct Counts {
    /// Tasks that run, in guest code or in the kernel, and those of them that watch, once more.
    busy: AtomicU32,
    /// Tasks that watch.
    watching: AtomicU32,
    /// Tasks that run and would watch, or do.
    quick: AtomicU32,
}

/// Stretches of watching begun on a promise that were in vain, twice each and less those that were not, up to which promises
/// are believed; ...
const DOUBT: u32 = 8;
/// ... how many count; ...
const MOST_DOUBT: u32 = 12;
/// ... and of how many contexts one is believed all the same.
const TRIAL: u32 = 16;

/// Whether a stretch of watching that was begun on a promise was worth it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    Yes,
    No,
}

/// The flag, which only one thread writes, is read and cleared.
fn take(flag: &AtomicBool) -> bool {
    let set = flag.load(Ordering::Relaxed);
    if set {
        flag.store(false, Ordering::Relaxed);
    }
    set
}

fn less(count: &AtomicU32) {
    let before = count.fetch_sub(1, Ordering::Relaxed);
    debug_assert!(before > 0, "more have gone than came");
}

/// The cores that the sandbox may use, and how many of its tasks use or watch on one.
#[derive(Debug)]
pub struct Cores {
    /// How many there are now; with 1 nobody ever watches.
    cpus: OwnU32,
    /// How many there may be, whatever the affinity.
    most: u32,
    /// When somebody last counted them because there were few.
    counted: AtomicU64,
    /// How long a task watches while others wait for its place.
    turn: Duration,
    pub(crate) scale: Scale,
    counts: Counts,
    /// How promises of many calls were kept: the more, the less ([`Self::believes`]).
    doubt: OwnU32,
    /// Promises that were not believed.
    doubted: OwnU32,
    turns: Turns,
}

impl Cores {
    /// `cpus` of them, and never more.
    pub(crate) fn new(cpus: u32, scale: Scale) -> Self {
        Self::with(cpus, scale, TURN)
    }

    /// For a model, which has no time: turns never end, and neither do waits for them.
    #[cfg(loom)]
    pub fn timeless(cpus: u32) -> Self {
        Self::with(cpus, Scale::default(), Duration::MAX)
    }

    fn with(cpus: u32, scale: Scale, turn: Duration) -> Self {
        let zero = || AtomicU32::new(0);
        let counts = Counts { busy: zero(), watching: zero(), quick: zero() };
        Self {
            cpus: OwnU32::new(cpus),
            most: cpus,
            counted: AtomicU64::new(0),
            turn,
            scale,
            counts,
            doubt: OwnU32::new(0),
            doubted: OwnU32::new(0),
            turns: Turns::default(),
        }
    }

    /// Tasks that run, once more for each that watches; those that watch; those that would.
    #[cfg(any(test, loom))]
    pub fn counts(&self) -> [u32; 3] {
        let Counts { busy, watching, quick } = &self.counts;
        [busy, watching, quick].map(|count| count.load(Ordering::Relaxed))
    }

    /// Whether somebody waits for a turn to watch.
    pub fn are_wanted(&self) -> bool {
        self.turns.are_wanted()
    }

    fn add(&self) {
        self.counts.busy.fetch_add(1, Ordering::Relaxed);
    }

    fn cpus(&self) -> u32 {
        self.cpus.load(Ordering::Relaxed)
    }

    /// The affinity was looked at, and has `count` of them.
    pub(crate) fn note(&self, count: u32) {
        let cpus = count.min(self.most);
        if self.cpus() != cpus {
            self.cpus.store(cpus, Ordering::Relaxed);
        }
    }

    /// Counts them again, at `now`, if there were more once: whoever took some away may have given them back.
    pub(crate) fn recount(&self, now: Ticks, count: impl FnOnce() -> u32) {
        if self.cpus() == self.most {
            return;
        }
        let counted = self.counted.load(Ordering::Relaxed);
        if now.saturating_sub(counted) > self.scale.recount {
            self.counted.store(now, Ordering::Relaxed);
            self.note(count());
        }
    }

    /// How many tasks may watch: two cores for each, of those on which nobody computes. The others that would watch can be
    /// made to wait, so that they do not count, nor do `more` that run.
    fn places(&self, more: u32) -> u32 {
        if self.cpus() < 2 {
            return 0;
        }
        let runs =
            self.counts.busy.load(Ordering::Relaxed).saturating_sub(self.counts.watching.load(Ordering::Relaxed));
        let computes = runs.saturating_sub(self.counts.quick.load(Ordering::Relaxed)).saturating_sub(more);
        self.cpus().saturating_sub(computes) / 2
    }

    /// Average time of a call up to which watching may begin: tasks that share their cores wait for each other in each call.
    pub(crate) fn quick_enough(&self) -> Ticks {
        let sharing = self.counts.busy.load(Ordering::Relaxed).div_ceil(self.cpus().max(1)).max(1);
        self.scale.quick.saturating_mul(u64::from(sharing))
    }

    /// Whether a task may watch from its first call because it is said to make many: a core is idle, and those before it
    /// have been worth it.
    pub(crate) fn believes(&self) -> bool {
        self.counts.busy.load(Ordering::Relaxed) < self.cpus()
            && (self.doubt.load(Ordering::Relaxed) < DOUBT
                || self.doubted.fetch_add(1, Ordering::Relaxed).is_multiple_of(TRIAL))
    }

    /// How watching on a promise went.
    pub(crate) fn note_promise(&self, kept: Kept) {
        let _ = self.doubt.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |doubt| {
            Some(match kept {
                Kept::Yes => doubt.saturating_sub(1),
                Kept::No => (doubt + 2).min(MOST_DOUBT),
            })
        });
    }

    /// Whether fewer tasks run than there are cores; those that watch would make room.
    pub(crate) fn is_one_free(&self) -> bool {
        let Counts { busy, watching, .. } = &self.counts;
        busy.load(Ordering::Relaxed).saturating_sub(watching.load(Ordering::Relaxed)) < self.cpus()
    }

    /// Takes a place to watch, for one of the quick or of `more`.
    fn take(&self, more: u32) -> bool {
        let taken = self.counts.watching.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |watching| {
            (watching < self.places(more)).then_some(watching + 1)
        });
        if taken.is_ok() {
            self.add();
        }
        taken.is_ok()
    }

    /// Gives a place back.
    fn give_back(&self) {
        less(&self.counts.watching);
        less(&self.counts.busy);
    }

    /// Those who wait get the places that are free.
    pub fn offer(&self) {
        self.turns.grant(|| self.take(0));
    }

    /// More threads than cores.
    pub(crate) fn crowded(&self) -> bool {
        self.counts.busy.load(Ordering::Relaxed) > self.cpus()
    }
}

/// What a context counts as, and how its task's sleeps went. All but `turn` is the context's own kernel
/// thread's, so that accesses are Relaxed and no model need follow them.
#[derive(Debug, Default)]
pub struct Seat {
    /// Sleeps that begin without a nap before.
    skip: OwnU32,
    /// Naps in a row that were followed by a sleep.
    vain_naps: OwnU32,
    /// Twice what the last nap took, if it was not in vain.
    nap: AtomicU64,
    /// Its task runs.
    awake: AtomicBool,
    /// It holds a core to watch on.
    watching: AtomicBool,
    /// It has slept since [`Self::has_slept`] was last asked.
    slept: AtomicBool,
    /// It has slept, or napped, since [`Self::has_met`] was last asked: it works with others.
    met: AtomicBool,
    /// It counts as one that would watch, and may be made to wait.
    quick: AtomicBool,
    turn: Arc<Turn>,
}

impl Seat {
    /// The task runs.
    pub fn wake(&self, cores: &Cores) {
        if !self.awake.load(Ordering::Relaxed) {
            self.awake.store(true, Ordering::Relaxed);
            cores.add();
        }
    }

    /// The task is about to sleep, or ends.
    pub fn sleep(&self, cores: &Cores) {
        self.stop_watching(cores);
        self.slept.store(true, Ordering::Relaxed);
        self.met.store(true, Ordering::Relaxed);
        self.pause(cores);
        cores.offer();
    }

    /// The task stops running: it sleeps, or waits for its turn.
    fn pause(&self, cores: &Cores) {
        self.be_quick(cores, false);
        if self.awake.load(Ordering::Relaxed) {
            self.awake.store(false, Ordering::Relaxed);
            less(&cores.counts.busy);
        }
    }

    /// Whether it would watch.
    pub fn be_quick(&self, cores: &Cores, quick: bool) {
        if self.quick.load(Ordering::Relaxed) == quick {
            return;
        }
        self.quick.store(quick, Ordering::Relaxed);
        if quick {
            cores.counts.quick.fetch_add(1, Ordering::Relaxed);
        } else {
            less(&cores.counts.quick);
        }
    }

    /// Waits for a turn to watch; whether it has come.
    pub fn wait_for_turn(&self, cores: &Cores) -> bool {
        self.pause(cores);
        let granted = cores.turns.wait(&self.turn, cores.turn, || cores.offer());
        self.watching.store(granted, Ordering::Relaxed);
        self.wake(cores);
        self.be_quick(cores, true);
        granted
    }

    /// Whether it has slept since this was last asked.
    pub(crate) fn has_slept(&self) -> bool {
        take(&self.slept)
    }

    /// Whether it has slept or napped since this was last asked.
    pub(crate) fn has_met(&self) -> bool {
        take(&self.met)
    }

    /// Whether it counts as one that would watch, and there are places for such.
    pub(crate) fn may_wait(&self, cores: &Cores) -> bool {
        self.quick.load(Ordering::Relaxed) && cores.places(0) > 0
    }

    /// An interrupt wants the task.
    pub fn hurry(&self) {
        self.turn.hurry();
    }

    /// Watches for the end of a sleep that has not begun, if a core is free and the last sleeps were that short. Whether it
    /// has come.
    pub(crate) fn nap(&self, cores: &Cores, mut woken: impl FnMut() -> bool) -> bool {
        self.met.store(true, Ordering::Relaxed);
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
            return false;
        }
        if cores.cpus() < 2 || cores.crowded() {
            return false;
        }
        let begun = ticks();
        let napped = watch(cores, self.nap_patience(&cores.scale), Crowd::Ends, || woken().then_some(()));
        self.note_nap(napped.is_ok().then(|| ticks().saturating_sub(begun)));
        napped.is_ok()
    }

    /// How long the next nap may take.
    pub(crate) fn nap_patience(&self, scale: &Scale) -> Ticks {
        if self.vain_naps.load(Ordering::Relaxed) < VAIN_NAPS {
            self.nap.load(Ordering::Relaxed).clamp(scale.nap, scale.long_nap)
        } else {
            scale.long_nap
        }
    }

    /// Whether the wake came, and after how long.
    pub(crate) fn note_nap(&self, took: Option<Ticks>) {
        self.nap.store(took.unwrap_or(0).saturating_mul(2), Ordering::Relaxed);
        let vain = match took {
            Some(_) => 0,
            None => (self.vain_naps.load(Ordering::Relaxed) + 1).min(MOST_VAIN_NAPS),
        };
        self.vain_naps.store(vain, Ordering::Relaxed);
        self.skip.store((1 << vain) - 1, Ordering::Relaxed);
    }

    /// Whether it holds a place.
    pub fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Relaxed)
    }

    /// Takes a place to watch, if there is one.
    pub fn watch(&self, cores: &Cores) -> bool {
        debug_assert!(!self.is_watching(), "one place each");
        let taken = cores.take(u32::from(!self.quick.load(Ordering::Relaxed)));
        self.watching.store(taken, Ordering::Relaxed);
        taken
    }

    /// Gives its place back, if it has one; the caller offers it.
    pub fn stop_watching(&self, cores: &Cores) {
        if self.watching.load(Ordering::Relaxed) {
            self.watching.store(false, Ordering::Relaxed);
            cores.give_back();
        }
    }
}
