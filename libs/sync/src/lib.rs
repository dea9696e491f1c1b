//! Locks with classes, parking, and epochs.
//!
//! - [`Mutex`], [`RwLock`], [`Condvar`]: std's, without poisoning, each with a [`LockClass`]. A class has a rank, and debug
//!   builds assert on each acquisition that ranks only grow inwards, so that a lock-order inversion fails in the first
//!   test that runs either order, not in the rare run that interleaves both.
//! - [`Parker`]: one thread sleeps, any thread wakes it; a wake before the sleep is remembered.
//! - [`epoch`]: pins that hold back the reuse of freed memory.
//! - `cpu`: CPU clocks of host threads and processes.
//!
//! **Invariant.** Nothing here knows what it protects: no errno, no task.

mod cpu;
pub mod epoch;
mod lock;
mod park;
mod rank;

pub use cpu::{host_tid, process_cpu_ns, thread_cpu_ns};
pub use lock::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitOutcome};
pub use park::{ParkOutcome, Parker, monotonic_now_ns, protocol};
pub use rank::LockClass;
