//! Turns of tasks that would all watch, on fewer cores than that takes: instead of each of them sleeping in each of its
//! calls, some have two cores for a while and the others wait, each where its next answer would have been given.
//!
//! Who waits has given its core back and counts for nothing until its turn comes, its patience ends, or an interrupt wants it.
//! Whoever stops watching passes its place on ([`Turns::grant`]). Loom runs this module (`tests/loom.rs`).

use std::collections::VecDeque;
use std::time::Duration;

use sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use sync::{Arc, LockClass, Mutex, Parker};

/// One who may wait.
#[derive(Debug, Default)]
pub struct Turn {
    parker: Parker,
    granted: AtomicBool,
}

impl Turn {
    /// Ends its wait, if it waits.
    pub fn hurry(&self) {
        self.parker.unpark();
    }
}

/// Those who wait, longest first.
#[derive(Debug)]
pub struct Turns {
    /// How many, so that nobody takes the lock for nothing.
    waiting: AtomicU32,
    queue: Mutex<VecDeque<Arc<Turn>>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { waiting: AtomicU32::new(0), queue: Mutex::new(LockClass::new("systrap turns", 59_500), VecDeque::new()) }
    }
}

impl Turns {
    /// Whether somebody waits.
    pub fn are_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits for a turn: `slice` for each that is before, and one more. `offer` is asked once this one is in the row, and gives
    /// away what places there are. Whether the turn has come; then whoever gave it has counted it.
    pub fn wait(&self, turn: &Arc<Turn>, slice: Duration, offer: impl FnOnce()) -> bool {
        let before = {
            let mut queue = self.queue.lock();
            queue.push_back(Arc::clone(turn));
            self.waiting.fetch_add(1, Ordering::Relaxed)
        };
        offer();
        let patience = slice.saturating_mul(before.saturating_add(2));
        let patience = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        turn.parker.park(Some(sync::monotonic_now_ns().saturating_add(patience)));
        let mut queue = self.queue.lock();
        if let Some(at) = queue.iter().position(|other| Arc::ptr_eq(other, turn)) {
            queue.remove(at);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        // What woke this wait, or came too late to: not before it, for an interrupt may come before its task waits. One that
        // comes after costs the next wait a try.
        turn.parker.clear();
        // Under the lock, as its store.
        turn.granted.swap(false, Ordering::Relaxed)
    }

    /// Gives turns to those who wait, for as long as `take` has places.
    pub fn grant(&self, mut take: impl FnMut() -> bool) {
        // Pairs with itself: who comes to wait is in the row before and sees the places after, who gives a place back has given it
        // before and sees the row after. One of them sees the other.
        fence(Ordering::SeqCst);
        if !self.are_wanted() {
            return;
        }
        let mut queue = self.queue.lock();
        while !queue.is_empty() && take() {
            if let Some(turn) = queue.pop_front() {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                turn.granted.store(true, Ordering::Relaxed);
                turn.parker.unpark();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::{Turn, Turns};

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn each_gets_its_turn_once() {
        let turns = Turns::default();
        let (places, granted) = (AtomicU32::new(0), AtomicU32::new(0));
        let take = || places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let turn = Arc::new(Turn::default());
                    for _ in 0..100 {
                        assert!(turns.wait(&turn, LONG, || turns.grant(take)));
                        granted.fetch_add(1, Ordering::Relaxed);
                        places.fetch_add(1, Ordering::Relaxed);
                        turns.grant(take);
                    }
                });
            }
            places.fetch_add(1, Ordering::Relaxed);
            turns.grant(take);
        });
        assert_eq!((granted.load(Ordering::Relaxed), places.load(Ordering::Relaxed)), (300, 1));
        assert!(!turns.are_wanted());
    }

    #[test]
    fn a_wait_ends_in_vain_by_time_or_by_hurry() {
        let turns = Turns::default();
        let turn = Arc::new(Turn::default());
        assert!(!turns.wait(&turn, Duration::from_micros(100), || ()));
        assert!(!turns.wait(&turn, LONG, || turn.hurry()));
        assert!(!turns.are_wanted());
        assert!(turns.wait(&turn, LONG, || turns.grant(|| true)));
    }
}
