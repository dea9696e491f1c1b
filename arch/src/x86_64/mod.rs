//! x86-64.

pub mod regs;

pub use regs::{FpuState, Regs, UserContext};
