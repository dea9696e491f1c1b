//! Linux without its system-call numbers: tasks, signals, descriptor tables, futexes, time.
//!
//! - [`kernel::Kernel`] is one sandbox; [`task`] its processes and their run loop; [`signal`], [`time`], [`futex`],
//!   [`fdtable`], [`rlimit`], [`ipc`] what they use; [`syscall`] the types of the table that the run loop calls through.
//! - [`error::SysErr`] is what a system call may answer besides a value.
//!
//! **Invariants.** This crate knows neither its platform nor any system call's number but `restart_syscall`'s. Nothing
//! that a guest does may panic it. The lock order stands in `lock`.
#![forbid(unsafe_code)]

pub mod error;
pub mod event;
pub mod fdtable;
pub mod fsstate;
pub mod futex;
#[cfg(test)]
mod harness;
pub mod heap;
pub mod ids;
pub mod ipc;
pub mod kernel;
mod load;
mod lock;
pub mod mapped;
pub mod procfs;
pub mod rlimit;
pub mod signal;
pub mod socket;
pub mod syscall;
pub mod sysfs;
pub mod task;
pub mod time;
pub mod tty;
mod watchdog;

pub use kernel::{Command, Entropy, Kernel, KernelConfig, Machine, Observer, Supervised, Uts};
pub use task::run::crash_context;
