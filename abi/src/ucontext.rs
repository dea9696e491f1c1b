//! What lies on the stack of a signal handler. `asm/sigcontext.h`, `asm/ucontext.h`.

use crate::signal::{SigInfo, SigSet, StackT};

uapi_struct! {
    /// `struct sigcontext_64`.
    pub struct Sigcontext {
        pub r8: u64,
        pub r9: u64,
        pub r10: u64,
        pub r11: u64,
        pub r12: u64,
        pub r13: u64,
        pub r14: u64,
        pub r15: u64,
        pub di: u64,
        pub si: u64,
        pub bp: u64,
        pub bx: u64,
        pub dx: u64,
        pub ax: u64,
        pub cx: u64,
        pub sp: u64,
        pub ip: u64,
        pub flags: u64,
        pub cs: u16,
        pub gs: u16,
        pub fs: u16,
        pub ss: u16,
        pub err: u64,
        pub trapno: u64,
        pub oldmask: u64,
        pub cr2: u64,
        /// Address of the extended state, or 0.
        pub fpstate: u64,
        pub reserved1: [u64; 8],
    }
    /// `struct ucontext`.
    pub struct Ucontext {
        pub uc_flags: u64,
        pub uc_link: u64,
        pub uc_stack: StackT,
        pub uc_mcontext: Sigcontext,
        pub uc_sigmask: SigSet,
    }
    /// `struct rt_sigframe`, without the extended state above it.
    pub struct RtSigframe {
        /// Return address: the action's restorer.
        pub pretcode: u64,
        pub uc: Ucontext,
        pub info: SigInfo,
    }
    /// `struct _fpx_sw_bytes`, in bytes 464 to 511 of the extended state.
    pub struct FpxSwBytes {
        pub magic1: u32,
        pub extended_size: u32,
        pub xfeatures: u64,
        pub xstate_size: u32,
        pub padding: [u32; 7],
    }
}

flags! {
    /// `uc_flags`.
    pub struct UcFlags: u64 {
        UC_FP_XSTATE = 1,
        UC_SIGCONTEXT_SS = 2,
        UC_STRICT_RESTORE_SS = 4,
    }
}

consts! {
    u32 {
        FP_XSTATE_MAGIC1 = 0x4650_5853,
        FP_XSTATE_MAGIC2 = 0x4650_5845,
    }
    usize {
        /// Size of the second magic, which follows the extended state.
        FP_XSTATE_MAGIC2_SIZE = 4,
        /// Offset of [`FpxSwBytes`] in the extended state.
        FPX_SW_BYTES_OFFSET = 464,
    }
}

layout! {
    Sigcontext: 256, cs @ 144, err @ 152, fpstate @ 184;
    Ucontext: 304, uc_stack @ 16, uc_mcontext @ 40, uc_sigmask @ 296;
    RtSigframe: 440, uc @ 8, info @ 312;
    FpxSwBytes: 48;
}
