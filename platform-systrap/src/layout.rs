//! Addresses and offsets that the sandbox process and the stub's assembly agree on.
//!
//! The stub region lies at one random base in every stub of a sandbox, above [`usermem::platform::Limits::user`]:
//!
//! ```text
//! base + TEXT      stub text, read and execute, sealed
//! base + CONFIG    constants of the sandbox, read-only, sealed: filters, message headers
//! base + SCRATCH   the zygote's own page; unmapped in stubs
//! base + CONTROL   per stub; the kernel writes it, the stub can only read it: thread parameters, memory operations
//! base + SLABS     per thread: one shared line, then the alternate signal stack; the guest can write it
//! ```
//!
//! **Invariant.** Nothing here is read by privileged stub threads (leader, memory thread) from a page that the guest can
//! write, but the reply of `recvmsg`, which they ignore.

/// Length of the stub's text.
pub(crate) const TEXT_LEN: u64 = 0x1000;
/// Offset of the configuration page.
pub(crate) const CONFIG: u64 = 0x2000;
/// Length of the configuration page.
pub(crate) const CONFIG_LEN: u64 = 0x1000;
/// Offset of the zygote's scratch page.
pub(crate) const SCRATCH: u64 = 0x3000;
/// End of what the zygote keeps mapped.
pub(crate) const ZYGOTE_END: u64 = 0x4000;
/// Offset of the control pages.
pub(crate) const CONTROL: u64 = 0x4000;
/// Length of a stub's control pages.
pub(crate) const CONTROL_LEN: u64 = 0x4000;
/// Offset of the slabs.
pub(crate) const SLABS: u64 = 0x10_0000;
/// Length and alignment of a slab: a page that holds the shared line, and an alternate stack of three signal frames.
pub(crate) const SLAB: u64 = 0x4000;
/// Offset of the alternate stack in a slab.
pub(crate) const ALTSTACK: u64 = 0x1000;
/// Slabs in a chunk, the unit in which a stub gets them.
pub(crate) const CHUNK_SLABS: u64 = 16;
/// Length of a chunk.
pub(crate) const CHUNK: u64 = SLAB * CHUNK_SLABS;
/// Slabs a stub can hold; the first is the stub's own.
pub(crate) const MAX_SLABS: u64 = 16_384;
/// Length of the stub region.
pub(crate) const REGION_LEN: u64 = SLABS + MAX_SLABS * SLAB;

/// Number of the call with which a stub thread hands over to the kernel. No Linux has such a call, so that without its
/// listener it fails with ENOSYS and does nothing.
pub(crate) const HANDOFF_NR: u64 = 0xca5;
/// The signal that interrupts guest code. A standard signal: it coalesces, so that at most one is ever pending for a
/// thread, and sending it cannot fail for want of a queue entry.
pub(crate) const KICK_SIGNAL: i32 = libc::SIGUSR1;

/// Descriptors in every stub. The next free number is [`FD_FREE`], which the kernel relies on: it names descriptors that
/// arrive in a stub by number, because the numbers that `recvmsg` reports lie in memory that the guest can write.
pub(crate) const FD_LEADER: i32 = 0;
pub(crate) const FD_MEMORY: i32 = 1;
pub(crate) const FD_MEMORY_RO: i32 = 2;
pub(crate) const FD_SLABS: i32 = 3;
pub(crate) const FD_CONTROL: i32 = 4;
pub(crate) const FD_OPS: i32 = 5;
pub(crate) const FD_FREE: i32 = 6;

/// Offsets in the configuration page.
pub(crate) mod config {
    /// `struct sock_fprog` of threads that run guest code.
    pub(crate) const APP_PROG: u64 = 0;
    /// `struct sock_fprog` of the memory thread.
    pub(crate) const OPS_PROG: u64 = 16;
    /// Flags for seccomp(2), with a listener.
    pub(crate) const LISTEN_FLAGS: u64 = 32;
    /// `struct sock_fprog` of threads that make a listener.
    pub(crate) const LISTEN_PROG: u64 = 448;
    /// Flags for seccomp(2), without a listener.
    pub(crate) const FILTER_FLAGS: u64 = 464;
    /// Features that `xrstor` loads.
    pub(crate) const XFEATURES: u64 = 40;
    /// Not 0: threads hand over through futexes.
    pub(crate) const FUTEX: u64 = 48;
    /// How often a stub looks for an answer before it sleeps; not 0.
    pub(crate) const LOOKS: u64 = 56;
    /// Not 0: calls that trap are answered in the stub too, if they have an answer.
    pub(crate) const ANSWER_TRAPS: u64 = 488;
    /// Flags of a thread between two guests.
    pub(crate) const PLAIN_FLAGS: u64 = 496;
    /// `struct msghdr` with which the zygote answers.
    pub(crate) const ZYGOTE_MSG: u64 = 64;
    /// `struct msghdr` with which a new thread passes its listener.
    pub(crate) const LISTENER_MSG: u64 = 192;
    /// `struct msghdr` with which it says that it has closed the listener, so that its number is free again.
    pub(crate) const DONE_MSG: u64 = 320;
    /// Instructions of the application threads' filter.
    pub(crate) const APP_INSNS: u64 = 512;
    /// Instructions of the filter of threads that make a listener.
    pub(crate) const LISTEN_INSNS: u64 = 768;
    /// Instructions of the memory thread's filter.
    pub(crate) const OPS_INSNS: u64 = 1024;
}

/// Offsets in the zygote's scratch page.
pub(crate) mod scratch {
    /// The request: offset of the control pages in their file.
    pub(crate) const CONTROL_OFFSET: u64 = 0;
    /// The request: offset of the first chunk in the slab file.
    pub(crate) const CHUNK_OFFSET: u64 = 8;
    /// Length of a request.
    pub(crate) const REQUEST_LEN: u64 = 16;
    /// The answer: the new stub's pid, or a negative error.
    pub(crate) const REPLY: u64 = 32;
    /// Socket pair of the leader.
    pub(crate) const PAIR_LEADER: u64 = 64;
    /// Socket pair of the memory thread.
    pub(crate) const PAIR_OPS: u64 = 72;
    /// Where clone(2) puts the pidfd's number.
    pub(crate) const PIDFD: u64 = 80;
}

/// Offsets in the control pages of a stub.
pub(crate) mod control {
    /// `stack_t` for the next application thread.
    pub(crate) const ALTSTACK: u64 = 8;
    /// Number of memory operations.
    pub(crate) const OPS_COUNT: u64 = 64;
    /// Memory operations: [`OP_LEN`] bytes each, call number and six arguments.
    pub(crate) const OPS: u64 = 128;
    /// Length of an operation.
    pub(crate) const OP_LEN: u64 = 64;
    /// Operations that fit.
    pub(crate) const OPS_MAX: usize = ((super::CONTROL_LEN - OPS) / OP_LEN) as usize;
}

/// Offsets in a thread's shared line, the first 64 bytes of its slab.
pub(crate) mod line {
    /// Who has the thread, and who sleeps: see [`crate::line`].
    pub(crate) const STATE: u64 = 0;
    /// Set by the kick handler when it finds the stub at work: guest code must not be entered.
    pub(crate) const KICKED: u64 = 4;
    /// Address of the `ucontext` of the signal frame that holds the guest's registers.
    pub(crate) const FRAME: u64 = 8;
    /// The signal that ended guest code.
    pub(crate) const SIGNAL: u64 = 16;
    /// What the kernel asks of the exit: [`SET_BASES`], [`FAST_EXIT`].
    pub(crate) const FLAGS: u64 = 20;
    /// FS base.
    pub(crate) const FS_BASE: u64 = 24;
    /// GS base.
    pub(crate) const GS_BASE: u64 = 32;
    /// Not 0: the guest's extended state is in the CPU, not in the frame.
    pub(crate) const LIVE: u64 = 40;

    /// In place of a signal: the guest has called through the entry of patched sites.
    pub(crate) const CALLED: i32 = 0x100;
    /// In place of a signal: the extended state is in the frame now.
    pub(crate) const SAVED: i32 = 0x101;
    /// In place of a signal: the stub has changed the mask of blocked signals, and there may be some to deliver.
    pub(crate) const LOOK: i32 = 0x102;

    /// The exit must write FS and GS bases.
    pub(crate) const SET_BASES: u32 = 1;
    /// rcx is rip and r11 the flags, as after a system call: the exit may use both.
    pub(crate) const FAST_EXIT: u32 = 2;
    /// The extended state is in the CPU already.
    pub(crate) const STILL_LIVE: u32 = 4;
    /// Write the extended state to the frame and hand over again, with [`SAVED`].
    pub(crate) const SAVE: u32 = 8;
}

/// Offset in a slab of the mask of blocked signals, and of a word that is not 0 while the stub may change it: see
/// [`crate::mask`]. Not in the shared line, nor in the one next to it, which the kernel's core may be watching.
pub(crate) const MASK: u64 = 128;
pub(crate) const MASK_OPEN: u64 = MASK + 8;

/// Offset in a slab of the answers: for each call below [`ANSWERS_LEN`] what it answers plus one, or 0 when it has to come
/// to us. The guest can write them, and then lies to itself.
pub(crate) const ANSWERS: u64 = 0x800;
/// Calls that may have an answer.
pub(crate) const ANSWERS_LEN: u64 = 256;
// The entry of patched sites looks at the bits above the lowest eight.
static_assertions::const_assert!(ANSWERS_LEN == 256);

/// Offsets in the first slab of a stub, which belongs to no thread.
pub(crate) mod own_slab {
    /// Where the leader reads its commands to.
    pub(crate) const LEADER_BUF: u64 = 0;
    /// Where clone(2) puts the number of the newest thread.
    pub(crate) const NEW_TID: u64 = 32;
    /// Not 0 once the memory thread has passed its listener on.
    pub(crate) const LISTENS: u64 = 40;
    /// `struct msghdr` for descriptors that arrive in a batch.
    pub(crate) const FD_MSG: u64 = 64;
    /// Its `iovec`.
    pub(crate) const FD_IOV: u64 = 128;
    /// Its one byte.
    pub(crate) const FD_BYTE: u64 = 144;
    /// Its control buffer.
    pub(crate) const FD_CONTROL: u64 = 192;
    /// Length of the control buffer.
    pub(crate) const FD_CONTROL_LEN: u64 = 16 + 4 * crate::host::MAX_FDS as u64;
}

/// Offsets in `struct ucontext` on x86-64 (asm/ucontext.h, asm/sigcontext.h), and in the `siginfo` that follows it in a
/// signal frame.
pub(crate) mod frame {
    pub(crate) const R8: u64 = 40;
    pub(crate) const R9: u64 = 48;
    pub(crate) const R10: u64 = 56;
    pub(crate) const R11: u64 = 64;
    pub(crate) const R12: u64 = 72;
    pub(crate) const R13: u64 = 80;
    pub(crate) const R14: u64 = 88;
    pub(crate) const R15: u64 = 96;
    pub(crate) const RDI: u64 = 104;
    pub(crate) const RSI: u64 = 112;
    pub(crate) const RBP: u64 = 120;
    pub(crate) const RBX: u64 = 128;
    pub(crate) const RDX: u64 = 136;
    pub(crate) const RAX: u64 = 144;
    pub(crate) const RCX: u64 = 152;
    pub(crate) const RSP: u64 = 160;
    pub(crate) const RIP: u64 = 168;
    pub(crate) const EFLAGS: u64 = 176;
    /// cs, gs, fs, ss, 16 bits each.
    pub(crate) const SEGMENTS: u64 = 184;
    pub(crate) const ERR: u64 = 192;
    pub(crate) const TRAPNO: u64 = 200;
    pub(crate) const CR2: u64 = 216;
    /// Pointer to the XSAVE image.
    pub(crate) const FPSTATE: u64 = 224;
    /// Start of `siginfo`.
    pub(crate) const INFO: u64 = 304;
    /// `si_code`.
    pub(crate) const INFO_CODE: u64 = INFO + 8;
    /// `si_addr`.
    pub(crate) const INFO_ADDR: u64 = INFO + 16;
    /// Offset of `si_code` in `siginfo`.
    pub(crate) const CODE: u64 = INFO_CODE - INFO;
    /// Offset of `si_arch` in `siginfo`.
    pub(crate) const ARCH: u64 = INFO_ARCH - INFO;
    /// `si_arch` of SIGSYS.
    pub(crate) const INFO_ARCH: u64 = INFO + 28;
    /// End of what we read.
    pub(crate) const LEN: u64 = INFO + 128;
}

static_assertions::const_assert!(SLABS.is_multiple_of(SLAB));
static_assertions::const_assert!(ANSWERS + 8 * ANSWERS_LEN <= ALTSTACK);
static_assertions::const_assert!(CONTROL + CONTROL_LEN <= SLABS);
