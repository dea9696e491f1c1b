//! When something was last known to be so: the second for which [`Caching::Brief`](crate::vfs::Caching) answers hold.

use std::sync::atomic::{AtomicU64, Ordering};

/// How long an answer holds, in milliseconds.
const BRIEF_MS: u64 = 1000;

/// Answers from before this moment hold no more. Relaxed: whoever sets it sees its own value.
static OLDEST: AtomicU64 = AtomicU64::new(0);

/// A moment of the host's monotonic clock, to a few milliseconds. Cheap to take.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        let ms = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
        // The first second after the host's start is not worth telling apart.
        Self(u64::try_from(ms).unwrap_or(0).saturating_add(BRIEF_MS))
    }

    /// Whether what was known at this moment still holds.
    pub(crate) fn is_recent(self) -> bool {
        let Self(now) = Self::now();
        self.0.saturating_add(BRIEF_MS) > now && self.0 >= OLDEST.load(Ordering::Relaxed)
    }
}

/// A moment that others move. Relaxed: a hint of age, which guards nothing.
pub(crate) struct AtomicMoment(AtomicU64);

impl AtomicMoment {
    pub(crate) fn now() -> Self {
        Self(AtomicU64::new(Moment::now().0))
    }

    pub(crate) fn load(&self) -> Moment {
        Moment(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn set_now(&self) {
        self.0.store(Moment::now().0, Ordering::Relaxed);
    }
}

/// Ends the second of every brief answer given so far: the next walk asks again.
pub fn end_brief_answers() {
    let Moment(now) = Moment::now();
    // An answer of this very millisecond may be older than this call.
    OLDEST.fetch_max(now + 1, Ordering::Relaxed);
}
