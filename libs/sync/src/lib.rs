//! Locks with classes, parking, and epochs.
//!
//! - [`Mutex`], [`RwLock`], [`Condvar`]: std's, without poisoning, each with a [`LockClass`]. A class has a rank, and debug
//!   builds assert on each acquisition that ranks only grow inwards, so that a lock-order inversion fails in the first
//!   test that runs either order, not in the rare run that interleaves both.
//! - [`Parker`]: one thread sleeps, any thread wakes it; a wake before the sleep is remembered.
//! - [`epoch`]: pins that hold back the reuse of freed memory.
//! - [`Hosts`]: host threads that do one job after another.
//! - `cpu`: CPU clocks of host threads and processes.
//!
//! In a build for models (`--cfg loom`) mutexes, condition variables, parkers and host threads are loom's, and so are
//! [`atomic`] and [`Arc`]: a module that is made of these runs in a model as it is (`tests/loom.rs` here and in
//! `platform-systrap`).
//!
//! **Invariant.** Nothing here knows what it protects: no errno, no task.

mod cpu;
pub mod epoch;
mod hosts;
mod lock;
mod park;
mod rank;

/// What locks, parkers and host threads are made of.
#[cfg(not(loom))]
mod base {
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread::Builder;
}
#[cfg(loom)]
mod base {
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use loom::thread::Builder;
}

/// Atomics that a model can follow.
pub mod atomic {
    #[cfg(loom)]
    pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
    #[cfg(not(loom))]
    pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

    /// Loom takes sequentially consistent operations for acquiring and releasing ones; only its fences are what they say.
    /// This stands where the operations beside it have that effect outside of a model.
    #[inline]
    pub fn fence_for_model() {
        #[cfg(loom)]
        fence(Ordering::SeqCst);
    }
}

/// References that a model counts: one that is left at its end fails it.
#[cfg(loom)]
pub use loom::sync::Arc;
#[cfg(not(loom))]
pub use std::sync::Arc;

pub use cpu::{host_tid, process_cpu_ns, thread_cpu_ns};
pub use hosts::{HostTerms, Hosts, Job};
pub use lock::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitOutcome};
pub use park::{ParkOutcome, Parker, monotonic_now_ns, protocol};
pub use rank::LockClass;
