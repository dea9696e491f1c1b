//! What the CPU defines and nothing above it: registers, extended state, signal frames. Layout and bit work only.
#![no_std]

extern crate alloc;

pub mod x86_64;

pub use x86_64::{FpuState, Regs, UserContext};
