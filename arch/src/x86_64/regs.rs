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

/// Selector of 64-bit user code on Linux.
pub const USER_CS: u64 = 0x33;
/// Selector of user data on Linux.
pub const USER_SS: u64 = 0x2b;

/// Bits of `rflags`.
pub mod flags {
    pub const CF: u64 = 1;
    /// Always set.
    pub const RESERVED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const AC: u64 = 1 << 18;
    pub const ID: u64 = 1 << 21;
    /// What `rt_sigreturn(2)` lets user code change.
    pub const SIGRETURN: u64 = AC | OF | DF | TF | SF | ZF | AF | PF | CF | RF;
    /// What a tracer may change besides, as in Linux's `FLAG_MASK`.
    pub const PTRACE: u64 = SIGRETURN | NT;
}

impl Regs {
    /// `orig_rax` outside a system call.
    pub const NO_SYSCALL: u64 = u64::MAX;

    /// Registers of a program that starts at `entry` with its stack pointer at `rsp`.
    pub fn for_exec(entry: u64, rsp: u64) -> Self {
        Self {
            rip: entry,
            rsp,
            cs: USER_CS,
            ss: USER_SS,
            eflags: flags::IF | flags::RESERVED,
            orig_rax: Self::NO_SYSCALL,
            ..Self::default()
        }
    }

    /// Forces what user code may not choose to what it must be: selectors, and flags outside `allowed`, which come from
    /// `current`.
    pub fn sanitize(&mut self, current: &Self, allowed: u64) {
        self.cs = USER_CS;
        self.ss = USER_SS;
        self.ds = 0;
        self.es = 0;
        self.fs = 0;
        self.gs = 0;
        let kept = (current.eflags & !allowed) | (self.eflags & allowed);
        self.eflags = (kept & (flags::PTRACE | flags::ID)) | flags::IF | flags::RESERVED;
        if !super::tls::is_valid_base(self.fs_base) {
            self.fs_base = current.fs_base;
        }
        if !super::tls::is_valid_base(self.gs_base) {
            self.gs_base = current.gs_base;
        }
    }
}

macro_rules! user_regs {
    ($($field:ident)*) => {
        impl From<&Regs> for abi::ptrace::UserRegs {
            fn from(regs: &Regs) -> Self {
                Self { $($field: regs.$field),* }
            }
        }

        /// As `ptrace(2)` gives them; to be sanitized before use.
        impl From<&abi::ptrace::UserRegs> for Regs {
            fn from(regs: &abi::ptrace::UserRegs) -> Self {
                Self { $($field: regs.$field),* }
            }
        }
    };
}

user_regs! {
    r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs
}

#[cfg(test)]
mod tests {
    use super::{Regs, flags};

    #[test]
    fn user_code_cannot_choose_privileged_state() {
        let current = Regs::for_exec(0x1000, 0x2000);
        let mut wild = Regs { cs: 0x10, ss: 0, eflags: u64::MAX, fs_base: 1 << 63, ..current };
        wild.sanitize(&current, flags::SIGRETURN);
        assert_eq!((wild.cs, wild.ss, wild.fs_base), (0x33, 0x2b, 0));
        assert_eq!(wild.eflags, flags::SIGRETURN | flags::IF | flags::RESERVED);
    }

    #[test]
    fn tracer_view_is_the_same_bytes() {
        let regs = Regs { r15: 1, orig_rax: 2, gs: 3, ..Regs::default() };
        assert_eq!(Regs::from(&abi::ptrace::UserRegs::from(&regs)), regs);
    }
}
