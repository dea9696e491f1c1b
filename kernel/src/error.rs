//! What a system call may answer: a value, an error number, or a change of control flow.
//!
//! Restart codes never reach the guest; they are a type of their own ([`Restart`]) and the run loop turns them into
//! `EINTR` or a repeated call once it knows whether a signal handler ran (signal(7), "Interruption of system calls").

use core::fmt;

use abi::Errno;

use crate::task::state::Leave;

/// The result of a system call.
pub type SysResult<T = u64> = Result<T, SysErr>;

/// Why a system call has no plain result.
#[derive(Debug)]
pub enum SysErr {
    /// It failed; the guest sees the negated number.
    Errno(Errno),
    /// A sleep was interrupted; what the guest sees depends on what interrupted it.
    Restart(Restart),
    /// The task goes on in another run state, which decides what the guest sees.
    Switch(Transition),
    /// Registers are already as the guest shall see them (`rt_sigreturn`).
    LeaveRegs,
}

impl From<Errno> for SysErr {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// A pending change of run state, made only inside this crate.
pub struct Transition(Box<Leave>);

impl Transition {
    pub(crate) fn into_leave(self) -> Leave {
        *self.0
    }
}

impl From<Leave> for SysErr {
    fn from(leave: Leave) -> Self {
        Self::Switch(Transition(Box::new(leave)))
    }
}

impl fmt::Debug for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Leave::Stop(_) => f.write_str("Transition(stop)"),
            Leave::Exit(status) => write!(f, "Transition({status:?})"),
        }
    }
}

/// How an interrupted call goes on. Linux's `ERESTART*` codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Repeated unless a handler without `SA_RESTART` ran.
    Sys,
    /// Always repeated.
    NoIntr,
    /// Repeated only when no handler ran.
    NoHand,
    /// When no handler ran, continued by `restart_syscall` from this block.
    Block(RestartBlock),
}

/// Progress of a sleep that `restart_syscall` continues. Deadlines are absolute, in nanoseconds of the named clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartBlock {
    /// `nanosleep`, `clock_nanosleep` with a relative time. `remain` is where the rest is stored when a handler runs.
    Nanosleep { clock: crate::time::ClockId, deadline_ns: u64, remain: Option<usermem::Addr> },
    /// `FUTEX_WAIT` with a relative timeout.
    Futex { addr: usermem::Addr, shared: crate::futex::Sharing, value: u32, bitset: u32, deadline_ns: u64 },
    /// `poll`: arguments as the guest gave them, deadline on the monotonic clock.
    Poll { fds: u64, nfds: u64, deadline_ns: Option<u64> },
}
