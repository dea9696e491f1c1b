//! The timekeeper: system clocks from the time-stamp counter, the same for calls and for the vDSO.
//!
//! The vDSO answers from parameters on the data page until they expire, after at most a second; its next caller makes the
//! call, and that renews them. Nothing runs by itself: an idle sandbox wakes never. On a host without an invariant
//! counter the page stays empty, and every answer is the host's.
//!
//! **Invariants.** CLOCK_MONOTONIC as a guest sees it never steps back, whichever way it asks. The lock is a leaf.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use arch::x86_64::{cpuid, tsc};
use loader::vdso::{DataPage, Publisher, Reading, Sample, Timekeeper};
use mm::SharedMemory;
use sync::{LockClass, Mutex};
use usermem::PAGE_SIZE;
use usermem::memfile::{FileRange, MemoryFile};
use usermem::safecopy;

use super::clock::host_ns;

/// Innermost: clocks are read under locks of every crate.
const KEEPER: LockClass = LockClass::new("kernel.keeper", 65_000);
/// Attempts at a sample whose counter values are close together.
const ATTEMPTS: u32 = 3;

/// The clocks and the page they are published on.
pub(crate) struct Keeper {
    page: Page,
    /// `None` on a host whose counter is no clock.
    state: Option<Mutex<State>>,
}

#[derive(Default)]
struct State {
    keeper: Timekeeper,
    publisher: Publisher,
}

/// The data page in the memory file.
struct Page {
    memory: Arc<MemoryFile>,
    /// Keeps the page allocated.
    shared: Arc<SharedMemory>,
}

impl DataPage for Page {
    // Every store of `safecopy` has release semantics on x86-64, the only architecture; it cannot fail, because the page
    // was written when it was made.
    fn store_u32(&self, offset: usize, value: u32, _order: Ordering) {
        self.with(|slice| safecopy::store_u32(slice, offset, value));
    }

    fn store_u64(&self, offset: usize, value: u64, _order: Ordering) {
        self.with(|slice| safecopy::store_u64(slice, offset, value));
    }
}

impl Page {
    fn with(&self, store: impl FnOnce(usermem::VolatileSlice<'_>) -> Result<(), Errno>) {
        let start = self.shared.memory_offset();
        let range = FileRange { start, end: start.saturating_add(PAGE_SIZE) };
        if let Err(errno) = self.memory.slice(range).and_then(store) {
            log::debug!("clock page: {errno}");
        }
    }
}

impl Keeper {
    /// A keeper that publishes on `shared`, one page of zeros in `memory`.
    pub(crate) fn new(memory: &Arc<MemoryFile>, shared: &Arc<SharedMemory>) -> Result<Self, Errno> {
        shared.write(0, &[0; PAGE_SIZE as usize])?;
        let page = Page { memory: Arc::clone(memory), shared: Arc::clone(shared) };
        let state = cpuid::has_invariant_tsc().then(|| Mutex::new(KEEPER, State::default()));
        Ok(Self { page, state })
    }

    /// The system clocks now.
    pub(crate) fn now(&self) -> Reading {
        let Some(state) = &self.state else { return host_clocks() };
        let mut state = state.lock();
        let State { keeper, publisher } = &mut *state;
        if let Some(reading) = keeper.read(tsc::read()) {
            return reading;
        }
        let (reading, params) = keeper.renew(sample());
        publisher.publish(&self.page, params.as_ref());
        reading
    }
}

fn host_clocks() -> Reading {
    use rustix::time::ClockId;
    Reading {
        monotonic_ns: host_ns(ClockId::Monotonic),
        realtime_ns: host_ns(ClockId::Realtime),
        boottime_ns: host_ns(ClockId::Boottime),
    }
}

/// The host's clocks at a value of the counter: the closest of a few attempts, since the host may take the CPU away in
/// the middle of one.
fn sample() -> Sample {
    let attempts = (0..ATTEMPTS).map(|_| {
        let before = tsc::read();
        let clocks = host_clocks();
        (tsc::read().saturating_sub(before), Sample { tsc: before, clocks })
    });
    match attempts.min_by_key(|(width, _)| *width) {
        Some((_, sample)) => sample,
        None => Sample { tsc: tsc::read(), clocks: host_clocks() },
    }
}

#[cfg(test)]
mod tests {
    use super::sample;

    #[test]
    fn samples_do_not_run_backwards() {
        let (first, second) = (sample(), sample());
        assert!(first.tsc < second.tsc && first.clocks.monotonic_ns <= second.clocks.monotonic_ns);
    }
}
