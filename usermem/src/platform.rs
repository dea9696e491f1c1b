//! The platform contract: how the kernel runs guest code without knowing what runs it.
//!
//! A [`Platform`] makes [`AddressSpace`]s (one per guest process image) and these make [`Context`]s (one per guest
//! thread, owned by the kernel thread that serves it). The kernel decides what is mapped; a platform only carries it
//! out, and knows no Linux semantics. The crate's `contract` module (feature-free, `doc(hidden)`) is the suite that every
//! platform runs.
//!
//! **Invariants.** When [`AddressSpace::apply`] returns, each removal or downgrade holds for *all* threads of the space,
//! and only then may pages be freed; additions may be carried out as late as the first fault. Batching across calls is
//! the kernel's business.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use arch::UserContext;

use crate::addr::{Addr, AddrRange};

bitflags::bitflags! {
    /// What guest code may do with mapped memory; no bit means the range is mapped but inaccessible.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
    pub struct Prot: u8 {
        /// Loads.
        const READ = 1;
        /// Stores; implies loads on every CPU we run on.
        const WRITE = 2;
        /// Instruction fetches.
        const EXEC = 4;
    }
}

/// What the CPU wanted to do when it faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Exec,
}

/// Where the bytes of a mapping are.
#[derive(Clone, Debug)]
pub enum Backing {
    /// The memory file, from this page-aligned offset; always shared with the kernel process.
    Memory { offset: u64 },
    /// A host file, from this page-aligned offset. `shared` mappings write through to the file, others must not be
    /// mapped with [`Prot::WRITE`].
    Host { file: Arc<OwnedFd>, offset: u64, shared: bool },
    /// Zeros that cost nothing (the host's zero page): never mapped with [`Prot::WRITE`].
    Zero,
}

/// One change of an address space. Ranges are page-aligned and not empty.
#[derive(Clone, Debug)]
pub enum MapOp {
    /// Replaces whatever is in `range`. `populate` asks for page-table entries now rather than by host faults.
    Map { range: AddrRange, backing: Backing, prot: Prot, populate: bool },
    /// Removes whatever is in `range`; holes are fine.
    Unmap { range: AddrRange },
    /// Changes the protection of what is mapped in `range`; holes are fine. Never adds [`Prot::WRITE`] to a mapping
    /// that was made without it: the kernel maps anew instead.
    Protect { range: AddrRange, prot: Prot },
}

/// Fixed properties of a platform.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Addresses the guest may use; the rest belongs to the platform.
    pub user: AddrRange,
    /// Largest number of threads in one address space.
    pub max_threads: usize,
}

/// Why guest code stopped running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A system call: `regs.orig_rax` holds its number, `regs.rax` is -ENOSYS, `regs.rip` is after the instruction.
    Syscall,
    /// The same through [`Platform::call_entry`], without a trap.
    Call,
    /// A CPU exception.
    Fault(FaultInfo),
    /// [`Interrupt::interrupt`] was called; nothing else happened.
    Interrupted,
}

/// A CPU exception of guest code, as the host reported it. All of it is the stub's word: validated by shape, never
/// trusted for safety.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultInfo {
    /// SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGTRAP.
    pub signal: i32,
    /// `si_code` as the host would give it.
    pub code: i32,
    /// `si_addr`.
    pub addr: Addr,
    /// x86 vector.
    pub trapno: u32,
    /// x86 error code.
    pub error_code: u32,
    /// For page faults (vector 14), what was attempted.
    pub access: Access,
}

/// What a platform could not do.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The host refused; the address space is unchanged or dead.
    #[error("{what}: {source}")]
    Host { what: &'static str, source: std::io::Error },
    /// The stub is gone or answered nonsense: the guest process that it ran must be killed.
    #[error("the guest's address space is gone: {0}")]
    Dead(&'static str),
    /// The platform's own limit is reached (threads, spaces).
    #[error("limit reached: {0}")]
    Limit(&'static str),
}

/// A host system call that a platform makes in the sandbox process, for its seccomp filter.
#[derive(Clone, Copy, Debug)]
pub struct HostCallRule {
    /// Host call number.
    pub nr: i64,
    /// Allowed alternatives: each is a list of (argument index, mask, value) that must all match. Empty: any arguments.
    pub args: &'static [&'static [(u8, u64, u64)]],
    /// Who needs it and why.
    pub reason: &'static str,
}

/// A way to run guest code on this host.
pub trait Platform: Send + Sync {
    /// Short name: "systrap".
    fn name(&self) -> &'static str;
    /// Fixed properties.
    fn limits(&self) -> Limits;
    /// Where guest code may jump to instead of executing `syscall`: rcx holds the return address, all else is as at the
    /// instruction, and [`Exit::Call`] follows. Two bytes before the return address lies a `syscall` instruction, which
    /// is executed instead where need be. The same for all address spaces; `None`: calls only trap.
    fn call_entry(&self) -> Option<Addr> {
        None
    }
    /// A new, empty address space.
    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, PlatformError>;
    /// Calls `wake`, which wakes the sleeping host thread `tid`. Platforms that know a free core have that thread start
    /// there: whoever wakes it goes on, and both would have one core for a while.
    fn wake_elsewhere(&self, _tid: i32, wake: &mut dyn FnMut()) {
        wake();
    }
    /// What the seccomp filter of the sandbox process must allow for this platform.
    fn host_calls(&self) -> &'static [HostCallRule];
}

/// The host's count of the CPU time that the guest code of one address space has used.
pub trait CpuClock: Send + Sync {
    /// Nanoseconds so far, also after the space has ended.
    fn cpu_time_ns(&self) -> u64;
}

/// One guest address space. [`AddressSpace::end`] ends it, or dropping the last reference; contexts keep it alive.
pub trait AddressSpace: Send + Sync {
    /// Carries out `ops` in order. On error the space is dead.
    fn apply(&self, ops: &[MapOp]) -> Result<(), PlatformError>;
    /// A new thread of execution; with `copy_fpu_from`, it starts with that context's extended state.
    fn new_context(&self, copy_fpu_from: Option<&mut dyn Context>) -> Result<Box<dyn Context>, PlatformError>;
    /// Returns when every thread of the space has passed a full memory barrier.
    fn barrier(&self) -> Result<(), PlatformError>;
    /// What the host says of its CPU time; `None` when it cannot be told from that of others.
    fn cpu_clock(&self) -> Option<Arc<dyn CpuClock>> {
        None
    }
    /// Kills the space: every `switch` in it, now or later, returns [`PlatformError::Dead`]. Idempotent.
    fn kill(&self);
    /// The space has no context any more and will not get one: when this returns, nothing is mapped in it, and whatever
    /// is asked of it fails. A platform may use what it was made of again.
    fn end(&self) {
        self.kill();
    }
}

/// One guest thread of execution, owned by the kernel thread that serves it.
pub trait Context: Send {
    /// Runs guest code from `user.regs` until something happens; then `user.regs` is current. Extended (FPU) state
    /// stays in the platform until [`Context::pull_full`].
    fn switch(&mut self, user: &mut UserContext) -> Result<Exit, PlatformError>;
    /// As [`Context::switch`], and calls `idle` before this thread sleeps until guest code needs it: time for what can wait
    /// as long as requests follow each other. Platforms that always sleep call it first of all.
    fn switch_or(&mut self, user: &mut UserContext, idle: &mut dyn FnMut()) -> Result<Exit, PlatformError> {
        idle();
        self.switch(user)
    }
    /// The guest will make many calls from the next `switch` on, as programs that begin do: a platform that could wait for
    /// them in a way that pays only then may do so at once.
    fn expect_calls(&mut self) {}
    /// Fills `user.fpu` with the extended state.
    fn pull_full(&mut self, user: &mut UserContext) -> Result<(), PlatformError>;
    /// Makes the next `switch` start with `user.fpu` as the extended state (already sanitized by `arch`).
    fn set_full(&mut self, user: &UserContext) -> Result<(), PlatformError>;
    /// A handle that makes `switch` return soon, from any thread.
    fn interrupter(&self) -> Arc<dyn Interrupt>;
    /// A mask of blocked signals for its guest code to keep; `None`: each change of one is an exit. At most one is in use.
    fn mask(&self) -> Option<Arc<dyn GuestMask>> {
        None
    }
    /// For `copy_fpu_from` implementations: the concrete context.
    fn as_any(&mut self) -> &mut dyn std::any::Any;
}

/// A mask of blocked signals that guest code keeps: while it is open, rt_sigprocmask(2) may read and change it without an
/// exit. It is closed until it is opened, and forgotten when the context ends. The guest may forge it: what is read is what
/// the guest says now, and may be any bits.
pub trait GuestMask: Send + Sync {
    /// What it blocks: bit n-1 is signal n.
    fn get(&self) -> u64;
    /// Replaces it. While no guest code of the context runs.
    fn set(&self, mask: u64);
    /// Guest code may change it from now on. While no guest code of the context runs.
    fn open(&self);
    /// From now on whoever reads it finds each change that guest code makes alone, but for those after which `switch`
    /// returns [`Exit::Interrupted`] before any other guest code has run. Never blocks.
    fn close(&self);
}

/// Interrupts one context. An interrupt that finds no guest code running is remembered: the next `switch` returns
/// [`Exit::Interrupted`] at once.
pub trait Interrupt: Send + Sync {
    /// Makes `switch` return soon. Never blocks.
    fn interrupt(&self);
    /// From now on call `number` may be answered with `answer`, without an exit and whatever its arguments; `None`: it may
    /// not. A platform that always exits ignores it; one that does not forgets all answers when the context ends, and the
    /// caller sees to it that nothing is published after that. What was published before guest code could observe another
    /// value holds for its next call. Never blocks.
    fn publish(&self, _number: u16, _answer: Option<u64>) {}
    /// The context's own kernel thread is about to sleep, so that its next `switch` will not come soon: platforms that
    /// would wait for it actively need not. Returns early, perhaps after some microseconds, when `woken` says that the
    /// sleep has become needless; platforms that know a free core may wait that long for it.
    fn rest(&self, _woken: &dyn Fn() -> bool) {}
    /// The end of that sleep.
    fn wake(&self) {}
}
