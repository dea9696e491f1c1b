//! Signals: what they are, where they wait, who gets them, what they do (signal(7)).
//!
//! - [`types`], [`info`]: numbers, sets, actions, `siginfo_t`, as data.
//! - `queue`, `limits`: pending signals of a thread or a group, and how many a user may have.
//! - `mask`: the signals that a thread blocks.
//! - `send`: from a source to a queue, and whom it wakes. `access`: who may send.
//! - `actions`: what a task asks about its own signals (masks, actions, waiting for a signal).
//! - `deliver`: from a queue to a handler's frame and back (`rt_sigreturn`).
//!
//! **Invariants.** All of a thread group's signal state changes under its one lock (`lock`); each change that
//! could make a signal deliverable sets the thread's flag under that lock, and the flag is cleared under it only when
//! nothing is deliverable. A pending signal is thus never forgotten. Masks also change without it, while nothing is pending:
//! `mask` says why that loses nothing.

mod access;
mod actions;
pub(crate) mod deliver;
pub mod info;
pub(crate) mod limits;
pub(crate) mod mask;
pub(crate) mod queue;
pub(crate) mod send;
pub mod types;

pub use access::SignalTarget;
pub use actions::MaskChange;
pub use deliver::{alt_stack_of, stack_t};
pub use info::{SigData, SigInfo};
pub use types::{AltStack, AutoDisarm, DefaultAction, SaFlags, SigAction, SigSet, Signal};
