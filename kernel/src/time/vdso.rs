//! The vDSO's pages: one copy of its code and one page of clock parameters, mapped into every program; and the clocks as
//! guests read them, with the vDSO or without.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use abi::Errno;
use loader::vdso::{DataPage, Publisher, Reading, Sample, Timekeeper};
use mm::{FileSource, MappedFile, SharedMemory, Source};
use sync::Mutex;
use usermem::memfile::{FileRange, MemoryFile};
use usermem::platform::Prot;
use usermem::{PAGE_SIZE, safecopy};

use super::NS_PER_SEC;

/// The vDSO as it is mapped.
pub(crate) struct VdsoPages {
    data: Arc<SharedMemory>,
    code: Arc<SharedMemory>,
    clocks: Mutex<Clocks>,
    memory: Arc<MemoryFile>,
}

#[derive(Default)]
struct Clocks {
    keeper: Timekeeper,
    publisher: Publisher,
}

const CLOCKS: sync::LockClass = crate::lock::CLOCKS;

struct Nameless;

impl MappedFile for Nameless {
    fn path(&self) -> Vec<u8> {
        Vec::new()
    }

    fn dev(&self) -> u64 {
        0
    }

    fn ino(&self) -> u64 {
        0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The data page, through the kernel's mapping of the memory file. The page is ours: stores cannot fail.
struct Page<'a>(&'a VdsoPages);

impl Page<'_> {
    fn with(&self, f: impl FnOnce(usermem::VolatileSlice<'_>) -> Result<(), Errno>) {
        let range = FileRange::of_len(self.0.data.memory_offset(), PAGE_SIZE);
        if let Err(e) = self.0.memory.slice(range).and_then(f) {
            log::error!("vDSO data page: {e:?}");
        }
    }
}

impl DataPage for Page<'_> {
    fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        fence_for(order);
        self.with(|slice| safecopy::store_u32(slice, offset, value));
    }

    fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        fence_for(order);
        self.with(|slice| safecopy::store_u64(slice, offset, value));
    }
}

/// A store that releases is a fence and a plain store; pairs with the vDSO's Acquire load of `seq`.
fn fence_for(order: Ordering) {
    if order != Ordering::Relaxed {
        fence(Ordering::Release);
    }
}

impl VdsoPages {
    pub(crate) fn new(memory: &Arc<MemoryFile>) -> Result<Self, Errno> {
        let data = SharedMemory::new(memory, PAGE_SIZE)?;
        let code = SharedMemory::new(memory, (loader::vdso::IMAGE.len() as u64).max(PAGE_SIZE))?;
        code.write(0, loader::vdso::IMAGE)?;
        let clocks = Mutex::new(CLOCKS, Clocks::default());
        Ok(Self { data, code, clocks, memory: Arc::clone(memory) })
    }

    /// Whether there is code to map.
    pub(crate) fn presence(&self) -> loader::Vdso {
        if loader::vdso::IMAGE.is_empty() { loader::Vdso::Absent } else { loader::Vdso::Mapped }
    }

    fn source(memory: &Arc<SharedMemory>, max_prot: Prot) -> Source {
        Source::File(FileSource { object: Arc::clone(memory) as _, file: Arc::new(Nameless), offset: 0, max_prot })
    }

    pub(crate) fn data_source(&self) -> Source {
        Self::source(&self.data, Prot::READ)
    }

    pub(crate) fn code_source(&self) -> Source {
        Self::source(&self.code, Prot::all())
    }

    /// The clocks now, as the vDSO would say them; renews its parameters when they have expired. Whoever asks is a guest
    /// whose vDSO could not answer, so parameters are renewed only while somebody looks at the clock.
    pub(crate) fn now(&self) -> Reading {
        if !arch::x86_64::cpuid::has_invariant_tsc() {
            return host_clocks();
        }
        let mut clocks = self.clocks.lock();
        if let Some(reading) = clocks.keeper.read(arch::x86_64::tsc::read()) {
            return reading;
        }
        let (reading, params) = clocks.keeper.renew(sample());
        clocks.publisher.publish(&Page(self), params.as_ref());
        reading
    }
}

fn host_clocks() -> Reading {
    use rustix::time::ClockId;
    Reading {
        monotonic_ns: sync::monotonic_now_ns(),
        realtime_ns: host_ns(ClockId::Realtime),
        boottime_ns: host_ns(ClockId::Boottime),
    }
}

/// The host's clock, in nanoseconds.
pub(super) fn host_ns(id: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(id);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(NS_PER_SEC).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// The host's clocks at one value of the counter: of a few tries, the one that took least.
fn sample() -> Sample {
    let mut best: Option<(u64, Sample)> = None;
    for _ in 0..4 {
        let before = arch::x86_64::tsc::read();
        let clocks = host_clocks();
        let after = arch::x86_64::tsc::read();
        let took = after.saturating_sub(before);
        if best.as_ref().is_none_or(|(least, _)| took < *least) {
            best = Some((took, Sample { tsc: before, clocks }));
        }
    }
    best.map_or_else(|| Sample { tsc: arch::x86_64::tsc::read(), clocks: host_clocks() }, |(_, sample)| sample)
}
