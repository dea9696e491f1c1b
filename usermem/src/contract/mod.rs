//! The platform contract as a suite of checks: every platform runs all of them in its tests.
//!
//! ```text
//! let fixture = Fixture { platform, memory };
//! let failed = contract::run_all(&fixture);
//! assert!(failed.is_empty(), "{failed:#?}");
//! ```
//! A check maps a few pages of hand-written guest code, runs it and says what is wrong, in words.

mod calls;
mod code;
mod faults;
mod guest;
mod interrupts;
mod maps;
mod state;
mod threads;

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::memfile::MemoryFile;
use crate::platform::Platform;

/// What the checks run on: a platform and the memory file whose descriptors it was given.
#[derive(Clone)]
pub struct Fixture {
    /// The platform under test.
    pub platform: Arc<dyn Platform>,
    /// Its memory file.
    pub memory: Arc<MemoryFile>,
}

/// One check: `Err` says what is wrong.
pub type Check = fn(&Fixture) -> Result<(), String>;

/// All checks, by name, from simple to involved.
pub const CHECKS: &[(&str, Check)] = &[
    ("a syscall arrives with its registers", calls::arguments_arrive),
    ("the result and other registers go back", calls::results_go_back),
    ("registers survive an exit and a return", calls::all_registers_survive),
    ("a thousand syscalls in a row", calls::many_in_a_row),
    ("the guest's stack is not touched", calls::stack_is_untouched),
    ("a syscall works without a stack", calls::no_stack_needed),
    ("a hostile instruction pointer hurts nobody", calls::hostile_rip),
    ("a load from nowhere faults", faults::load_unmapped),
    ("a store to read-only memory faults", faults::store_read_only),
    ("a fetch from data faults", faults::fetch_data),
    ("an access to a mapping without rights faults", faults::no_access),
    ("a non-canonical address faults", faults::non_canonical),
    ("a division by zero faults", faults::divide),
    ("an undefined instruction faults", faults::undefined),
    ("a breakpoint traps", faults::breakpoint),
    ("a privileged instruction faults", faults::privileged),
    ("a fault that is resolved resumes", faults::resolved),
    ("memory is shared with the kernel both ways", maps::memory_is_shared),
    ("a map replaces what was there", maps::map_replaces),
    ("protect takes and gives rights", maps::protect),
    ("populated memory is there", maps::populate),
    ("zero backing reads as zeros and faults on stores", maps::zeros),
    ("a host file can be mapped private and run", maps::host_private),
    ("a host file can be mapped shared", maps::host_shared),
    ("a batch of many changes", maps::batches),
    ("unmapping holes is fine", maps::holes),
    ("spaces are apart", maps::isolation),
    ("an unmap holds for running threads", threads::unmap_while_running),
    ("a protect holds for running threads", threads::protect_while_running),
    ("a map is seen by other threads", threads::map_seen_by_others),
    ("many threads in one space", threads::many),
    ("a barrier returns while threads run", threads::barrier),
    ("a kill ends running and later switches", threads::kill),
    ("an interrupt ends running code", interrupts::running),
    ("an interrupt before the switch is remembered", interrupts::remembered),
    ("a storm of interrupts loses nothing", interrupts::storm),
    ("a storm of interrupts loses no base", interrupts::storm_of_bases),
    ("extended state survives exits", state::fpu_survives),
    ("extended state can be pulled and set", state::fpu_pull_set),
    ("a new context can copy extended state", state::fpu_copy),
    ("contexts do not share extended state", state::fpu_apart),
    ("fs and gs bases are set and reported", state::segment_bases),
    ("spaces come and go", state::churn),
];

/// Longest time a check may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs one check on a thread of its own; one that does not end in time fails, and its thread is left behind.
pub fn run(check: Check, fixture: &Fixture) -> Result<(), String> {
    let (tx, rx) = mpsc::channel();
    let fixture = fixture.clone();
    std::thread::spawn(move || {
        // Nobody listens any more after a timeout.
        let _ = tx.send(check(&fixture));
    });
    match rx.recv_timeout(TIMEOUT) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(format!("not done after {TIMEOUT:?}")),
        Err(RecvTimeoutError::Disconnected) => Err("panicked".to_owned()),
    }
}

/// Runs all checks; gives the names and words of those that failed.
pub fn run_all(fixture: &Fixture) -> Vec<(&'static str, String)> {
    crate::safecopy::install();
    CHECKS.iter().filter_map(|(name, check)| run(*check, fixture).err().map(|why| (*name, why))).collect()
}
