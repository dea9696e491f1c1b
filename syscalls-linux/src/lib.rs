//! The Linux system-call table of x86-64: one row per call, its handler beside it, and what is derived from the rows:
//! dispatch, traces, counters, documents.
//!
//! A handler decodes its arguments' types, calls one operation of kernel, fs or mm, and encodes the result. It checks
//! flags and reports errors in the order of Linux; the manual page named by the row's call is its contract.
//!
//! **Invariants.** No handler keeps state. No number has two rows (this does not compile). Whatever the guest passes, the
//! answer is a value or an error.
#![forbid(unsafe_code)]
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

mod absent;
mod anon;
mod answers;
mod args;
mod attrs;
mod copy;
mod dirs;
mod docs;
mod fd;
mod futex;
mod ids;
mod inotify;
mod limits;
mod mem;
mod memory;
mod mqueue;
mod names;
mod numa;
mod poll;
mod process;
mod remote;
mod rw;
mod signals;
mod socket;
mod sockmsg;
mod sockopt;
mod splice;
mod strace;
mod system;
mod sysv;
mod time;
mod timers;
mod walk;

use kernel::syscall::{Counters, Dispatch, NUMBERS, RawArgs, SysResult, SyscallDef, by_number};
use kernel::task::Task;
use kernel::task::published::Fact;

pub use docs::{table_json, table_markdown, table_text};
pub use strace::Strace;

/// The rows by number.
pub static TABLE: [Option<&'static SyscallDef>; NUMBERS] = by_number(&[
    absent::ROWS,
    anon::ROWS,
    attrs::ROWS,
    copy::ROWS,
    dirs::ROWS,
    fd::ROWS,
    futex::ROWS,
    ids::ROWS,
    inotify::ROWS,
    limits::ROWS,
    memory::ROWS,
    mqueue::ROWS,
    names::ROWS,
    numa::ROWS,
    poll::ROWS,
    process::ROWS,
    remote::ROWS,
    rw::ROWS,
    signals::ROWS,
    socket::ROWS,
    sockmsg::ROWS,
    sockopt::ROWS,
    splice::ROWS,
    system::ROWS,
    sysv::MSG,
    sysv::SEM,
    sysv::SHM,
    time::ROWS,
    timers::ROWS,
]);

/// Carries out Linux's system calls, counts and traces them.
pub struct Linux {
    counters: Counters,
    strace: Option<Strace>,
}

impl Linux {
    /// Traces to `strace` if there is one.
    pub const fn new(strace: Option<Strace>) -> Self {
        Self { counters: Counters::new(), strace }
    }

    /// How often each call was made.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// The row of number `nr`. Numbers of the x32 ABI (bit 30 set) and negative ones have none.
fn row(nr: u64) -> Option<&'static SyscallDef> {
    usize::try_from(nr).ok().and_then(|nr| TABLE.get(nr)).copied().flatten()
}

impl Dispatch for Linux {
    fn dispatch(&self, task: &mut Task, nr: u64, args: [u64; 6]) -> SysResult {
        self.counters.count(nr, task.tid());
        let raw = RawArgs(args);
        let Some(def) = row(nr) else {
            if let Some(strace) = &self.strace {
                strace.unknown(task, nr, raw);
            }
            return Err(abi::Errno::ENOSYS.into());
        };
        let Some(strace) = &self.strace else { return (def.call)(task, raw) };
        let entered = strace.enter(task, def, raw);
        let result = (def.call)(task, raw);
        strace.exit(task, def, raw, entered, &result);
        result
    }

    fn name(&self, nr: u64) -> Option<&'static str> {
        row(nr).map(|def| def.name)
    }

    fn answers(&self) -> &'static [(Fact, u16)] {
        if self.strace.is_some() { &[] } else { answers::ANSWERS }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use kernel::syscall::Support;

    use super::{TABLE, row};

    #[test]
    fn every_number_of_linux_6_12_has_a_row_of_its_own_name() {
        for (nr, name) in abi::nr::NAMES.iter().enumerate() {
            assert_eq!(row(nr as u64).map(|def| def.name), *name, "{nr}");
        }
    }

    #[test]
    fn names_and_numbers_are_unique() {
        let rows: Vec<_> = TABLE.iter().flatten().collect();
        let names: HashSet<_> = rows.iter().map(|def| def.name).collect();
        assert_eq!(names.len(), rows.len());
        let aarch64: Vec<_> = rows.iter().filter_map(|def| def.aarch64).collect();
        assert_eq!(aarch64.iter().collect::<HashSet<_>>().len(), aarch64.len());
    }

    #[test]
    fn other_numbers_have_no_row() {
        for nr in [336, 423, 511, 512, 1 << 30, (1 << 30) | 39, u64::MAX, u64::from(u32::MAX), 1 << 32] {
            assert!(row(nr).is_none(), "{nr:#x}");
        }
    }

    #[test]
    fn rows_explain_themselves() {
        for def in TABLE.iter().flatten() {
            assert!(def.doc.trim().ends_with('.'), "{}", def.name);
            match def.support {
                Support::Full(text) | Support::Partial(text) | Support::Unsupported(_, text) => {
                    assert!(!text.is_empty(), "{}", def.name);
                }
            }
        }
    }
}
