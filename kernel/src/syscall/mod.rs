//! What a table of system calls is made of. The kernel calls through [`Dispatch`] and knows no number; the rows are in
//! `syscalls-linux`.
//!
//! A row is a [`SyscallDef`]: name, number, support, argument kinds and the function, all from one line of the
//! [`syscalls!`](crate::syscalls) macro beside the handler. The argument kinds come from the handler's own argument types
//! ([`FromRaw::KIND`]), so a trace cannot disagree with what the handler decodes.
//!
//! **Invariants.** Decoding a register never fails and never touches guest memory ([`FromRaw`]). Two rows with one number
//! do not compile ([`by_number`]). Nothing here depends on a concrete call.

mod args;
mod handler;

use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;

pub use args::{ArgKind, FromRaw, RetKind, When};
pub use handler::{Handler, IntoRet, args_of, ret_of};

pub use crate::error::{SysErr, SysResult};
use crate::ids::Tid;
use crate::task::Task;
use crate::task::published::Fact;

/// Numbers below this may have a row; Linux 6.12 ends at 462.
pub const NUMBERS: usize = 512;

/// The six argument registers, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RawArgs(pub [u64; 6]);

/// Carries out system calls: how the kernel reaches a table it does not know.
pub trait Dispatch: Send + Sync {
    /// Carries out call number `nr` for `task`. Numbers without a row, negative ones and those of other ABIs are
    /// `ENOSYS`.
    fn dispatch(&self, task: &mut Task, nr: u64, args: [u64; 6]) -> SysResult;

    /// The call's name, for our own diagnostics; `None` without a row.
    fn name(&self, nr: u64) -> Option<&'static str>;

    /// Calls, below 256, that only ask for a fact, so that a platform may answer them. None while each call has to be seen.
    fn answers(&self) -> &'static [(Fact, u16)] {
        &[]
    }
}

/// How much of Linux's behaviour a call has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Support {
    /// All that the manual page says; the guest test that shows it.
    Full(&'static str),
    /// What is missing or different.
    Partial(&'static str),
    /// Always this error, as from a Linux kernel that has it not or does not permit it; and why.
    Unsupported(Errno, &'static str),
}

/// One row of the table.
pub struct SyscallDef {
    /// Linux's name.
    pub name: &'static str,
    /// One sentence on what it does here.
    pub doc: &'static str,
    /// The number on x86-64.
    pub x86_64: Option<u16>,
    /// The number on AArch64 (asm-generic); many older calls have none.
    pub aarch64: Option<u16>,
    /// How much of it there is.
    pub support: Support,
    /// The kind of each argument, in order.
    pub args: &'static [ArgKind],
    /// The kind of its result.
    pub ret: RetKind,
    /// The handler behind its decoding.
    pub call: fn(&mut Task, RawArgs) -> SysResult,
}

/// The rows of `groups` by x86-64 number. Meant for constants, where two rows with one number fail to compile.
pub const fn by_number(groups: &[&'static [SyscallDef]]) -> [Option<&'static SyscallDef>; NUMBERS] {
    let mut out: [Option<&'static SyscallDef>; NUMBERS] = [None; NUMBERS];
    let mut g = 0;
    while g < groups.len() {
        let mut i = 0;
        while i < groups[g].len() {
            if let Some(nr) = groups[g][i].x86_64 {
                assert!(out[nr as usize].is_none(), "two rows with one number");
                out[nr as usize] = Some(&groups[g][i]);
            }
            i += 1;
        }
        g += 1;
    }
    out
}

/// Sets of counters that tasks are spread over, so that their calls seldom meet on a cache line.
const SHARDS: usize = 8;

/// How often each call was made.
pub struct Counters {
    shards: [Shard; SHARDS],
}

struct Shard {
    calls: [AtomicU64; NUMBERS],
    unknown: AtomicU64,
}

impl Shard {
    const fn new() -> Self {
        Self { calls: [const { AtomicU64::new(0) }; NUMBERS], unknown: AtomicU64::new(0) }
    }

    fn slot(&self, nr: u64) -> &AtomicU64 {
        usize::try_from(nr).ok().and_then(|nr| self.calls.get(nr)).unwrap_or(&self.unknown)
    }
}

impl Counters {
    /// All zero.
    pub const fn new() -> Self {
        Self { shards: [const { Shard::new() }; SHARDS] }
    }

    /// Counts one call of number `nr` by thread `tid`; all numbers out of range count as one.
    pub fn count(&self, nr: u64, tid: Tid) {
        let shard = usize::try_from(tid.0).unwrap_or(0) % SHARDS;
        if let Some(shard) = self.shards.get(shard) {
            shard.slot(nr).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Calls of number `nr` so far; of all numbers out of range for such a one.
    pub fn get(&self, nr: u64) -> u64 {
        self.shards.iter().map(|shard| shard.slot(nr).load(Ordering::Relaxed)).sum()
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

/// The rows of one family, beside its handlers.
///
/// ```text
/// syscalls! {
///     pub(crate) const READ_WRITE;
///     /// Reads from a file descriptor.
///     read [0, 63] Full("read_write");
///     /// Old name, no number on AArch64.
///     open [2, -] Partial("…");
///     /// Loads a kernel module.
///     init_module [175, 105] Unsupported(EPERM, "no modules")(Addr, Ulong, Str);
/// }
/// ```
///
/// A supported row calls the function of its own name in scope; an unsupported one lists its argument kinds, for traces.
#[macro_export]
macro_rules! syscalls {
    (@nr -) => { None };
    (@nr $n:literal) => { Some($n) };
    (@row $name:ident $doc:expr, $x:tt, $a:tt, Unsupported($errno:ident, $note:expr)($($kind:ident),*)) => {
        $crate::syscall::SyscallDef {
            name: stringify!($name),
            doc: $doc,
            x86_64: $crate::syscalls!(@nr $x),
            aarch64: $crate::syscalls!(@nr $a),
            support: $crate::syscall::Support::Unsupported(abi::Errno::$errno, $note),
            args: &[$($crate::syscall::ArgKind::$kind),*],
            ret: $crate::syscall::RetKind::Number,
            call: |_, _| Err($crate::syscall::SysErr::from(abi::Errno::$errno)),
        }
    };
    (@row $name:ident $doc:expr, $x:tt, $a:tt, $support:ident($note:expr)) => {
        $crate::syscall::SyscallDef {
            name: stringify!($name),
            doc: $doc,
            x86_64: $crate::syscalls!(@nr $x),
            aarch64: $crate::syscalls!(@nr $a),
            support: $crate::syscall::Support::$support($note),
            args: $crate::syscall::args_of(&$name),
            ret: $crate::syscall::ret_of(&$name),
            call: |task, args| $crate::syscall::Handler::call(&$name, task, args),
        }
    };
    (
        $vis:vis const $table:ident;
        $(
            $(#[doc = $doc:literal])+
            $name:ident [$x:tt, $a:tt] $support:ident($($note:tt)*) $(($($kind:ident),*))?;
        )*
    ) => {
        $vis const $table: &[$crate::syscall::SyscallDef] = &[$(
            $crate::syscalls!(@row $name concat!($($doc),+), $x, $a, $support($($note)*) $(($($kind),*))?)
        ),*];
    };
}
