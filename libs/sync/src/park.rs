//! Parking: the one way a kernel thread sleeps for another.
//!
//! The word has three states; every transition that may race is one atomic operation:
//! ```text
//!            park: CAS            unpark: swap
//!   EMPTY ----------> PARKED ----------------> NOTIFIED --(park or wake-up: swap)--> EMPTY
//!     \___________________unpark: swap____________^
//! ```
//! [`protocol`] holds the algorithm over a trait for the word, so that loom can run it (`tests/loom.rs`). In a build for
//! models all parkers have a word that loom knows: a deadline of `u64::MAX` never comes there, any other one at once.

use std::sync::atomic::{AtomicU32, Ordering};

/// Why a park ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParkOutcome {
    /// An unpark, before or during the park.
    Unparked,
    /// The deadline passed first.
    TimedOut,
}

/// The park/unpark algorithm, free of the host.
pub mod protocol {
    use super::ParkOutcome;

    /// Nobody sleeps, no wake is pending.
    pub const EMPTY: u32 = 0;
    /// A wake is pending.
    pub const NOTIFIED: u32 = 1;
    /// The owner sleeps or is about to.
    pub const PARKED: u32 = 2;

    /// How one sleep on the word ended.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Slept {
        /// A wake, a changed word, a host signal, or nothing at all.
        Maybe,
        /// The deadline passed.
        TimedOut,
    }

    /// A word that a thread can sleep on.
    pub trait Word {
        /// `compare_exchange` with acquire on success; says whether it succeeded.
        fn cas(&self, old: u32, new: u32) -> bool;
        /// `swap`, acquire and release.
        fn swap(&self, new: u32) -> u32;
        /// Sleeps while the word is `expected`, until the absolute CLOCK_MONOTONIC time `deadline_ns` at most.
        fn wait(&self, expected: u32, deadline_ns: Option<u64>) -> Slept;
        /// Wakes the sleeper.
        fn wake(&self);
    }

    /// Sleeps until [`unpark`]. One thread parks on a word at a time.
    pub fn park<W: Word>(word: &W, deadline_ns: Option<u64>) -> ParkOutcome {
        if word.cas(NOTIFIED, EMPTY) {
            return ParkOutcome::Unparked;
        }
        if !word.cas(EMPTY, PARKED) {
            // Only an unpark can have come between.
            word.swap(EMPTY);
            return ParkOutcome::Unparked;
        }
        loop {
            let slept = word.wait(PARKED, deadline_ns);
            if word.cas(NOTIFIED, EMPTY) {
                return ParkOutcome::Unparked;
            }
            if slept == Slept::TimedOut {
                // An unpark between the check above and here is taken, not lost.
                return if word.swap(EMPTY) == NOTIFIED { ParkOutcome::Unparked } else { ParkOutcome::TimedOut };
            }
        }
    }

    /// Wakes the parked thread, or makes its next park return at once.
    pub fn unpark<W: Word>(word: &W) {
        if word.swap(NOTIFIED) == PARKED {
            word.wake();
        }
    }
}

/// A place where one thread sleeps until any other wakes it. A wake that finds nobody asleep is remembered (one, not a
/// count). Share it as `Arc<Parker>`.
#[derive(Debug, Default)]
pub struct Parker {
    #[cfg(not(loom))]
    word: AtomicU32,
    #[cfg(loom)]
    word: model::Word,
}

impl Parker {
    /// A parker with no wake pending.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(protocol::EMPTY) }
    }

    /// As above, in a model.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sleeps until [`Parker::unpark`], or until CLOCK_MONOTONIC reaches `deadline_ns`. Only one thread at a time may
    /// park; what the waker did before its unpark is visible after.
    pub fn park(&self, deadline_ns: Option<u64>) -> ParkOutcome {
        protocol::park(&self.word, deadline_ns)
    }

    /// Ends the current park or the next one. Never blocks.
    pub fn unpark(&self) {
        protocol::unpark(&self.word);
    }

    /// Whether a wake is pending, so that a park would return at once. Nothing is ordered by it: the park is still needed.
    pub fn has_wake(&self) -> bool {
        self.word.load(Ordering::Relaxed) == protocol::NOTIFIED
    }

    /// Takes back a pending wake; says whether there was one.
    pub fn clear(&self) -> bool {
        protocol::Word::cas(&self.word, protocol::NOTIFIED, protocol::EMPTY)
    }
}

impl protocol::Word for AtomicU32 {
    fn cas(&self, old: u32, new: u32) -> bool {
        // Acquire pairs with the release half of `swap` in `unpark`.
        self.compare_exchange(old, new, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn swap(&self, new: u32) -> u32 {
        // Release publishes what the waker did; acquire pairs with it when `park` takes a late wake.
        AtomicU32::swap(self, new, Ordering::AcqRel)
    }

    fn wait(&self, expected: u32, deadline_ns: Option<u64>) -> protocol::Slept {
        futex_wait(self, expected, deadline_ns)
    }

    fn wake(&self) {
        futex_wake(self);
    }
}

#[cfg(loom)]
mod model {
    use loom::sync::atomic::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex};
    use std::sync::PoisonError;

    use super::protocol;

    /// A word and its futex.
    #[derive(Debug, Default)]
    pub(super) struct Word {
        word: AtomicU32,
        /// The host's lock: looking at the word and falling asleep is one step.
        queue: Mutex<()>,
        woken: Condvar,
    }

    impl Word {
        pub(super) fn load(&self, order: Ordering) -> u32 {
            self.word.load(order)
        }
    }

    impl protocol::Word for Word {
        fn cas(&self, old: u32, new: u32) -> bool {
            self.word.compare_exchange(old, new, Ordering::Acquire, Ordering::Relaxed).is_ok()
        }
        fn swap(&self, new: u32) -> u32 {
            self.word.swap(new, Ordering::AcqRel)
        }
        fn wait(&self, expected: u32, deadline_ns: Option<u64>) -> protocol::Slept {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if deadline_ns.is_some_and(|at| at != u64::MAX) {
                return protocol::Slept::TimedOut;
            }
            if self.word.load(Ordering::Relaxed) == expected {
                drop(self.woken.wait(queue));
            }
            protocol::Slept::Maybe
        }
        fn wake(&self) {
            let _queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            self.woken.notify_one();
        }
    }
}

/// futex(2) FUTEX_WAIT_BITSET, whose timeout is absolute CLOCK_MONOTONIC.
fn futex_wait(word: &AtomicU32, expected: u32, deadline_ns: Option<u64>) -> protocol::Slept {
    const NS: u64 = 1_000_000_000;
    let timeout = deadline_ns.map(|ns| libc::timespec {
        tv_sec: libc::time_t::try_from(ns / NS).unwrap_or(libc::time_t::MAX),
        tv_nsec: (ns % NS) as libc::c_long,
    });
    let timeout_ptr = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word is a live, aligned u32 for the whole call; the timeout is null or points at a live timespec; the
    // kernel only reads both.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
            expected,
            timeout_ptr,
            std::ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    };
    if ret == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ETIMEDOUT) {
        protocol::Slept::TimedOut
    } else {
        protocol::Slept::Maybe
    }
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is a live, aligned u32 of ours; FUTEX_WAKE touches nothing but the wait queue of its address.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1);
    }
}

/// CLOCK_MONOTONIC in nanoseconds, the time base of [`Parker::park`].
pub fn monotonic_now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live timespec that the call fills; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{ParkOutcome, Parker, monotonic_now_ns};

    #[test]
    fn a_wake_before_the_park_is_remembered_once() {
        let parker = Parker::new();
        parker.unpark();
        parker.unpark();
        assert_eq!(parker.park(None), ParkOutcome::Unparked);
        assert_eq!(parker.park(Some(monotonic_now_ns())), ParkOutcome::TimedOut);
    }

    #[test]
    fn a_deadline_is_kept() {
        let parker = Parker::new();
        let deadline = monotonic_now_ns() + 5_000_000;
        assert_eq!(parker.park(Some(deadline)), ParkOutcome::TimedOut);
        assert!(monotonic_now_ns() >= deadline);
        assert!(!parker.clear());
    }

    #[test]
    fn ping_pong() {
        let a = Arc::new(Parker::new());
        let b = Arc::new(Parker::new());
        let (a2, b2) = (Arc::clone(&a), Arc::clone(&b));
        let thread = std::thread::spawn(move || {
            for _ in 0..10_000 {
                assert_eq!(b2.park(None), ParkOutcome::Unparked);
                a2.unpark();
            }
        });
        for _ in 0..10_000 {
            b.unpark();
            assert_eq!(a.park(None), ParkOutcome::Unparked);
        }
        thread.join().unwrap();
    }
}
