//! Those who sleep on a key (a word of memory), in buckets by its hash; the core of futexes.
//!
//! A sleeper checks the word with its bucket locked; a waker changes the word before it locks the bucket: so either the
//! sleeper sees the new value, or the waker sees the sleeper. A sleeper may be moved to another key while it sleeps: its place
//! is read again after the lock is taken.
//!
//! **Locks.** Two buckets are taken in the order of their index.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::ops::Deref;
use std::sync::Arc;

use sync::atomic::{AtomicBool, Ordering};
use sync::{LockClass, Mutex, MutexGuard};

/// Where a sleeper stands; changed with its bucket locked.
const PLACE: LockClass = LockClass::leaf("sleepers.place");

/// One that sleeps on a key; `X` is what else is known of it.
pub struct Sleeper<K, X> {
    /// Release by the waker, with the bucket locked; Acquire by the sleeper.
    woken: AtomicBool,
    place: Mutex<K>,
    extra: X,
}

impl<K: Copy + Eq, X> Sleeper<K, X> {
    /// One that is about to sleep on `key`.
    pub fn new(key: K, extra: X) -> Arc<Self> {
        Arc::new(Self { woken: AtomicBool::new(false), place: Mutex::new(PLACE, key), extra })
    }

    /// Whether somebody woke it.
    pub fn is_woken(&self) -> bool {
        // Acquire pairs with the Release in `mark`.
        self.woken.load(Ordering::Acquire)
    }

    /// Wakes it, with its bucket locked and once it is out of that.
    pub fn mark(&self) {
        self.woken.store(true, Ordering::Release);
    }

    /// Whether it sleeps on `key`.
    pub fn is_at(&self, key: K) -> bool {
        *self.place.lock() == key
    }

    /// Moves it to `key`, with the buckets of both keys locked.
    pub fn move_to(&self, key: K) {
        *self.place.lock() = key;
    }
}

impl<K, X> Deref for Sleeper<K, X> {
    type Target = X;

    fn deref(&self) -> &X {
        &self.extra
    }
}

/// Sleepers whose keys have one hash, in the order in which they came.
pub type Bucket<K, X> = Vec<Arc<Sleeper<K, X>>>;

/// All who sleep.
pub struct Sleepers<K, X, S = RandomState> {
    buckets: Box<[Mutex<Bucket<K, X>>]>,
    /// Keys come from guests: a seed of our own keeps them from meeting in one bucket on purpose.
    seed: S,
}

impl<K: Copy + Eq + Hash, X, S: BuildHasher> Sleepers<K, X, S> {
    /// Nobody sleeps; in so many buckets, at least one, with locks of this class.
    pub fn new(buckets: usize, class: LockClass, seed: S) -> Self {
        let buckets = (0..buckets.max(1)).map(|_| Mutex::new(class, Vec::new())).collect();
        Self { buckets, seed }
    }

    fn index(&self, key: K) -> usize {
        usize::try_from(self.seed.hash_one(key) % self.buckets.len() as u64).unwrap_or(0)
    }

    /// The bucket of `key`.
    pub fn lock(&self, key: K) -> MutexGuard<'_, Bucket<K, X>> {
        self.buckets[self.index(key)].lock()
    }

    /// Each bucket in turn.
    pub fn each(&self, mut visit: impl FnMut(&mut Bucket<K, X>)) {
        for bucket in &self.buckets {
            visit(&mut bucket.lock());
        }
    }

    /// Calls `op` with the buckets of two keys locked; one bucket if it is the same.
    pub fn with_both<T>(
        &self,
        first: K,
        second: K,
        op: impl FnOnce(&mut Bucket<K, X>, Option<&mut Bucket<K, X>>) -> T,
    ) -> T {
        let (first_at, second_at) = (self.index(first), self.index(second));
        let mut low = self.buckets[first_at.min(second_at)].lock();
        let mut high = (first_at != second_at).then(|| self.buckets[first_at.max(second_at)].lock_nested());
        match &mut high {
            None => op(&mut low, None),
            Some(high) if first_at < second_at => op(&mut low, Some(high)),
            Some(high) => op(high, Some(&mut low)),
        }
    }

    /// Adds `sleeper`, which sleeps on `key`, unless `check` fails, which looks at the word.
    pub fn enter<E>(
        &self,
        key: K,
        sleeper: &Arc<Sleeper<K, X>>,
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut bucket = self.lock(key);
        check()?;
        bucket.push(Arc::clone(sleeper));
        Ok(())
    }

    /// Takes a sleeper out; says whether it had been woken before.
    pub fn leave(&self, sleeper: &Arc<Sleeper<K, X>>) -> bool {
        loop {
            if sleeper.is_woken() {
                return true;
            }
            let key = *sleeper.place.lock();
            let mut bucket = self.lock(key);
            if !sleeper.is_at(key) {
                continue;
            }
            return match bucket.iter().position(|other| Arc::ptr_eq(other, sleeper)) {
                Some(at) => {
                    bucket.remove(at);
                    false
                }
                None => true,
            };
        }
    }
}

/// What [`wake`] and [`requeue`] do about a sleeper on their key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// It is meant.
    Yes,
    /// It stays, others are meant.
    No,
    /// It waits for something else: nothing after it is touched.
    Unfit,
}

/// A sleeper came that waits for something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unfit;

/// Marks at most `count` sleepers on `key` as woken, in the order they came, and takes them out of `bucket`; whom to tell
/// stands in `woken`.
pub fn wake<K: Copy + Eq, X>(
    bucket: &mut Bucket<K, X>,
    key: K,
    count: u32,
    fits: impl Fn(&X) -> Fit,
    woken: &mut impl Extend<Arc<Sleeper<K, X>>>,
) -> Result<(), Unfit> {
    let (mut left, mut unfit) = (count, false);
    bucket.retain(|sleeper| {
        if left == 0 || unfit || !sleeper.is_at(key) {
            return true;
        }
        match fits(sleeper) {
            Fit::No => return true,
            Fit::Unfit => {
                unfit = true;
                return true;
            }
            Fit::Yes => {}
        }
        left -= 1;
        sleeper.mark();
        woken.extend([Arc::clone(sleeper)]);
        false
    });
    if unfit { Err(Unfit) } else { Ok(()) }
}

/// Moves at most `most` sleepers from `from` in `source` to `to` in `target`, or in `source` too; says how many.
pub fn requeue<K: Copy + Eq, X>(
    source: &mut Bucket<K, X>,
    target: Option<&mut Bucket<K, X>>,
    (from, to): (K, K),
    most: u32,
    fits: impl Fn(&X) -> Fit,
) -> (u32, Result<(), Unfit>) {
    let (mut count, mut unfit) = (0, false);
    let mut goes = |sleeper: &Arc<Sleeper<K, X>>| {
        if count >= most || unfit || !sleeper.is_at(from) {
            return false;
        }
        match fits(sleeper) {
            Fit::No => false,
            Fit::Unfit => {
                unfit = true;
                false
            }
            Fit::Yes => {
                sleeper.move_to(to);
                count += 1;
                true
            }
        }
    };
    match target {
        Some(target) => target.extend(source.extract_if(.., |sleeper| goes(sleeper))),
        None => {
            for sleeper in source.iter() {
                goes(sleeper);
            }
        }
    }
    (count, if unfit { Err(Unfit) } else { Ok(()) })
}
