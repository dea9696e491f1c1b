//! What passes between tasks that stop, end and wait for each other, without what they are otherwise.
//!
//! - [`Attention`]: what wants a task, and making it look, wherever it is: in guest code, in a call, asleep.
//! - [`Pauses`]: external stops, of one task or of all.
//! - [`Stops`]: one process's group stop, end and execve, and who still takes part in them.
//!
//! These are the protocols that can lose a wake-up or wait for ever, so they stand apart from the kernel, generic over the
//! task: loom runs them through all interleavings as they are (`tests/loom.rs`).
//!
//! **Invariant.** Nothing here sleeps but [`Pauses`]; other sleeps are the caller's, given as closures.
#![forbid(unsafe_code)]

mod attention;
mod group;
mod pause;

pub use attention::{Attention, Interrupted, Member, Work, stand_still, wait_alone};
pub use group::{Busy, GroupStop, Left, Progress, Remaining, Stops};
pub use pause::Pauses;
