//! Lock classes and the debug-build check of their order.
//!
//! Each thread keeps a small stack of the classes it holds. The check costs a few nanoseconds and exists only with
//! `debug_assertions`; without, a class takes no room in its lock (there are several in each inode).

/// What kind of lock this is and where it stands in the lock order.
///
/// Locks are taken in order of growing rank. Two locks of one class may be held together only through
/// [`Mutex::lock_nested`](crate::Mutex::lock_nested), whose caller has another order for them (by address, by id).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockClass {
    /// Name for messages.
    #[cfg(all(debug_assertions, not(loom)))]
    name: &'static str,
    /// Place in the order: outermost locks have the smallest rank.
    #[cfg(all(debug_assertions, not(loom)))]
    rank: u16,
}

impl LockClass {
    /// A class called `name` at `rank`: outermost locks have the smallest.
    pub const fn new(name: &'static str, rank: u16) -> Self {
        #[cfg(all(debug_assertions, not(loom)))]
        let class = Self { name, rank };
        #[cfg(not(all(debug_assertions, not(loom))))]
        let class = {
            let _ = (name, rank);
            Self {}
        };
        class
    }

    /// A class for locks under which nothing else is taken.
    pub const fn leaf(name: &'static str) -> Self {
        Self::new(name, u16::MAX)
    }

    /// Its name, where it is kept.
    pub(crate) const fn name(&self) -> &'static str {
        #[cfg(all(debug_assertions, not(loom)))]
        let name = self.name;
        #[cfg(not(all(debug_assertions, not(loom))))]
        let name = "lock";
        name
    }
}

/// How an acquisition relates to what the thread already holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Above everything held.
    Strict,
    /// Above, or equal: the caller orders the locks of one class itself.
    Nested,
    /// Cannot deadlock (a try), so any order is fine.
    Try,
}

#[cfg(all(debug_assertions, not(loom)))]
mod held {
    use std::cell::RefCell;

    use super::{LockClass, Order};

    thread_local! {
        static HELD: RefCell<Vec<LockClass>> = const { RefCell::new(Vec::new()) };
    }

    /// Asserts that a thread may wait for a lock of `class` now.
    #[track_caller]
    pub(crate) fn check(class: LockClass, order: Order) {
        if order == Order::Try {
            return;
        }
        // A thread that is ending may have lost its stack of classes: it is then not checked.
        let worst = HELD.try_with(|held| held.borrow().iter().copied().max_by_key(|c| c.rank)).ok().flatten();
        let Some(worst) = worst else { return };
        let fine = match order {
            Order::Strict => worst.rank < class.rank,
            Order::Nested => worst.rank <= class.rank,
            Order::Try => true,
        };
        assert!(
            fine,
            "lock order: taking {} (rank {}) while holding {} (rank {})",
            class.name, class.rank, worst.name, worst.rank
        );
    }

    pub(crate) fn push(class: LockClass) {
        let _ = HELD.try_with(|held| held.borrow_mut().push(class));
    }

    pub(crate) fn pop(class: LockClass) {
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(at) = held.iter().rposition(|c| *c == class) {
                held.remove(at);
            }
        });
    }
}

/// A record that a lock of a class is held by this thread; nothing in release builds.
pub(crate) struct Held {
    #[cfg(all(debug_assertions, not(loom)))]
    class: LockClass,
}

impl Held {
    /// Asserts the order; called before waiting for the lock.
    #[track_caller]
    #[inline]
    pub(crate) fn check(class: LockClass, order: Order) {
        #[cfg(all(debug_assertions, not(loom)))]
        held::check(class, order);
        #[cfg(not(all(debug_assertions, not(loom))))]
        let _ = (class, order);
    }

    /// Records that the lock was taken.
    #[inline]
    pub(crate) fn taken(class: LockClass) -> Self {
        #[cfg(all(debug_assertions, not(loom)))]
        {
            held::push(class);
            Self { class }
        }
        #[cfg(not(all(debug_assertions, not(loom))))]
        {
            let _ = class;
            Self {}
        }
    }
}

#[cfg(all(debug_assertions, not(loom)))]
impl Drop for Held {
    fn drop(&mut self) {
        held::pop(self.class);
    }
}
