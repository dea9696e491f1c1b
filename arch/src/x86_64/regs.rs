//! The registers of a guest thread as the kernel sees them.

use alloc::vec::Vec;

/// General registers in the order of Linux's `struct user_regs_struct` (ptrace, core dumps).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The number of the system call being made, or `u64::MAX` outside one.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// Extended (FPU, SSE, AVX, …) state: an XSAVE image in the standard, non-compacted format, or empty when it is not here
/// but in the platform.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FpuState {
    /// XSAVE area; its length is the size CPUID gives for the features in use.
    pub image: Vec<u8>,
}

/// What a guest thread's CPU holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserContext {
    /// Current whenever the kernel holds the context.
    pub regs: Regs,
    /// Current only after the platform's `pull_full`; `set_full` puts it back.
    pub fpu: FpuState,
}
