//! x86-64.

pub mod cpuid;
pub mod patch;
pub mod regs;
pub mod sigframe;
pub mod tls;
pub mod tsc;
pub mod xsave;

pub use regs::{FpuState, Regs, UserContext};
