//! Mutexes, reader-writer locks and condition variables with lock classes.
//!
//! Poisoning is off: the sandbox process aborts on panic, so a poisoned lock is never seen outside tests.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

use crate::base;
use crate::rank::{Held, LockClass, Order};

/// Mutual exclusion.
pub struct Mutex<T: ?Sized> {
    class: LockClass,
    inner: base::Mutex<T>,
}

/// Access to what a [`Mutex`] protects, until dropped.
pub struct MutexGuard<'a, T: ?Sized> {
    // Dropped before `held`: field order matters only to the debug check.
    inner: base::MutexGuard<'a, T>,
    class: LockClass,
    held: Held,
}

impl<T> Mutex<T> {
    /// A free mutex of `class` around `value`.
    #[cfg(not(loom))]
    pub const fn new(class: LockClass, value: T) -> Self {
        Self { class, inner: base::Mutex::new(value) }
    }

    /// As above, in a model.
    #[cfg(loom)]
    pub fn new(class: LockClass, value: T) -> Self {
        Self { class, inner: base::Mutex::new(value) }
    }

    /// The value, without a lock that nobody can hold any more.
    pub fn into_inner(self) -> T {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    #[track_caller]
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.lock_in(Order::Strict)
    }

    /// As [`Mutex::lock`], where a lock of the same class may already be held: the caller has an order of its own for
    /// the two.
    #[track_caller]
    #[inline]
    pub fn lock_nested(&self) -> MutexGuard<'_, T> {
        self.lock_in(Order::Nested)
    }

    #[track_caller]
    #[inline]
    fn lock_in(&self, order: Order) -> MutexGuard<'_, T> {
        Held::check(self.class, order);
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { inner, class: self.class, held: Held::taken(self.class) }
    }

    /// The lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        Held::check(self.class, Order::Try);
        let inner = match self.inner.try_lock() {
            Ok(guard) => guard,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { inner, class: self.class, held: Held::taken(self.class) })
    }

    /// The value, through exclusive access to the mutex itself.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.class.name())?;
        self.inner.fmt(f)
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Many readers or one writer.
pub struct RwLock<T: ?Sized> {
    class: LockClass,
    inner: std::sync::RwLock<T>,
}

/// Shared access to what a [`RwLock`] protects.
pub struct RwLockReadGuard<'a, T: ?Sized> {
    inner: std::sync::RwLockReadGuard<'a, T>,
    _held: Held,
}

/// Exclusive access to what a [`RwLock`] protects.
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    inner: std::sync::RwLockWriteGuard<'a, T>,
    _held: Held,
}

impl<T> RwLock<T> {
    /// A free lock of `class` around `value`.
    pub const fn new(class: LockClass, value: T) -> Self {
        Self { class, inner: std::sync::RwLock::new(value) }
    }

    /// The value, without a lock that nobody can hold any more.
    pub fn into_inner(self) -> T {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits for shared access. A thread must not ask twice: a writer in between would deadlock it.
    #[track_caller]
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.read_in(Order::Strict)
    }

    /// As [`RwLock::read`], where *another* lock of the same class may be held.
    #[track_caller]
    #[inline]
    pub fn read_nested(&self) -> RwLockReadGuard<'_, T> {
        self.read_in(Order::Nested)
    }

    #[track_caller]
    #[inline]
    fn read_in(&self, order: Order) -> RwLockReadGuard<'_, T> {
        Held::check(self.class, order);
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        RwLockReadGuard { inner, _held: Held::taken(self.class) }
    }

    /// Waits for exclusive access.
    #[track_caller]
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.write_in(Order::Strict)
    }

    /// As [`RwLock::write`], where another lock of the same class may be held.
    #[track_caller]
    #[inline]
    pub fn write_nested(&self) -> RwLockWriteGuard<'_, T> {
        self.write_in(Order::Nested)
    }

    #[track_caller]
    #[inline]
    fn write_in(&self, order: Order) -> RwLockWriteGuard<'_, T> {
        Held::check(self.class, order);
        let inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        RwLockWriteGuard { inner, _held: Held::taken(self.class) }
    }

    /// The value, through exclusive access to the lock itself.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.class.name())?;
        self.inner.fmt(f)
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// How a timed wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitOutcome {
    /// Notified, or for no reason.
    Woken,
    /// The time is over.
    TimedOut,
}

/// A condition variable for a [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar {
    inner: base::Condvar,
}

impl Condvar {
    /// A condition variable that nobody waits for.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { inner: base::Condvar::new() }
    }

    /// As above, in a model.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { inner: base::Condvar::new() }
    }

    /// Releases the lock, waits for a notification (or nothing at all: check the condition again), takes the lock back.
    #[track_caller]
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { inner, class, held } = guard;
        drop(held);
        let inner = self.inner.wait(inner).unwrap_or_else(PoisonError::into_inner);
        MutexGuard { inner, class, held: Held::taken(class) }
    }

    /// As [`Condvar::wait`], for at most `timeout`.
    #[track_caller]
    pub fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> (MutexGuard<'a, T>, WaitOutcome) {
        let MutexGuard { inner, class, held } = guard;
        drop(held);
        let (inner, result) = self.inner.wait_timeout(inner, timeout).unwrap_or_else(PoisonError::into_inner);
        let outcome = if result.timed_out() { WaitOutcome::TimedOut } else { WaitOutcome::Woken };
        (MutexGuard { inner, class, held: Held::taken(class) }, outcome)
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.inner.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::{Condvar, Mutex, RwLock};
    use crate::LockClass;

    const OUTER: LockClass = LockClass::new("outer", 1);
    const INNER: LockClass = LockClass::new("inner", 2);

    #[test]
    fn growing_ranks_are_fine() {
        let a = Mutex::new(OUTER, 1);
        let b = RwLock::new(INNER, 2);
        let x = a.lock();
        let y = b.read();
        assert_eq!(*x + *y, 3);
        drop(x);
        drop(y);
        drop(b.write());
        drop(a.lock());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order: taking outer")]
    fn inversion_panics() {
        let a = Mutex::new(OUTER, ());
        let b = Mutex::new(INNER, ());
        let _y = b.lock();
        let _x = a.lock();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order")]
    fn same_class_needs_nested() {
        let a = Mutex::new(OUTER, ());
        let b = Mutex::new(OUTER, ());
        let _x = a.lock();
        let _y = b.lock();
    }

    #[test]
    fn nested_and_try_may_repeat_a_class() {
        let a = Mutex::new(OUTER, ());
        let b = Mutex::new(OUTER, ());
        let c = Mutex::new(OUTER, ());
        let _x = a.lock();
        let _y = b.lock_nested();
        assert!(c.try_lock().is_some());
        assert!(a.try_lock().is_none());
    }

    #[test]
    fn condvar_hands_the_lock_over() {
        let state = Mutex::new(OUTER, false);
        let cond = Condvar::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                *state.lock() = true;
                cond.notify_one();
            });
            let mut guard = state.lock();
            while !*guard {
                guard = cond.wait(guard);
            }
        });
        assert!(*state.lock());
    }
}
