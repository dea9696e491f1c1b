//! A platform that runs no code, for tests of what sits above platforms.
//!
//! A [`FakeSpace`] keeps what it is told to map in a model of a page table and lets a test load and store *through* it, as
//! guest code would: with protections, and with a [`FaultInfo`] where a CPU would fault. It asserts the rules that
//! [`MapOp`] states, and that mapped pages of the memory file are still referenced (a use after free otherwise).
//!
//! A [`FakeContext`] "runs" a script: see [`FakePlatform::set_script`].

mod context;
mod table;

use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arch::UserContext;
use segment::SegmentMap;
use sync::{LockClass, Mutex};

use crate::addr::{Addr, AddrRange, PAGE_SIZE};
use crate::host;
use crate::memfile::{FileRange, MemoryFile};
use crate::platform::{
    Access, AddressSpace, Backing, Context, Exit, FaultInfo, HostCallRule, Limits, MapOp, Platform, PlatformError, Prot,
};
use crate::safecopy;

pub use context::FakeContext;
use table::Pte;

/// Just outside the memory file's leaf lock, which is asked about references under it.
const CLASS: LockClass = LockClass::new("fake.space", u16::MAX - 1);

/// What a fake context does instead of running guest code.
pub type Script = Arc<dyn Fn(&FakeSpace, &mut UserContext) -> Exit + Send + Sync>;

/// The platform.
pub struct FakePlatform {
    memory: Arc<MemoryFile>,
    limits: Limits,
    spaces: Mutex<Vec<Weak<FakeSpace>>>,
    script: Arc<Mutex<Option<Script>>>,
}

impl FakePlatform {
    /// A platform whose spaces map pages of `memory`.
    pub fn new(memory: Arc<MemoryFile>) -> Arc<Self> {
        safecopy::install();
        let user = AddrRange { start: Addr(0x1_0000), end: Addr(0x7fff_ffff_f000) };
        Arc::new(Self {
            memory,
            limits: Limits { user, max_threads: 1 << 16 },
            spaces: Mutex::new(CLASS, Vec::new()),
            script: Arc::new(Mutex::new(CLASS, None)),
        })
    }

    /// What contexts do in `switch` from now on. Without a script they return [`Exit::Interrupted`].
    pub fn set_script(&self, script: Script) {
        *self.script.lock() = Some(script);
    }

    /// A new space, typed.
    pub fn fake_space(&self) -> Arc<FakeSpace> {
        let space = Arc::new_cyclic(|me| FakeSpace {
            me: Weak::clone(me),
            memory: Arc::clone(&self.memory),
            limits: self.limits,
            script: Arc::clone(&self.script),
            table: Mutex::new(CLASS, SegmentMap::new()),
            dead: AtomicBool::new(false),
            batches: AtomicU64::new(0),
            ops: AtomicU64::new(0),
        });
        self.spaces.lock().push(Arc::downgrade(&space));
        space
    }

    /// The live spaces in order of creation, to find the one behind an `Arc<dyn AddressSpace>`.
    pub fn spaces(&self) -> Vec<Arc<FakeSpace>> {
        self.spaces.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

impl Platform for FakePlatform {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, PlatformError> {
        Ok(self.fake_space())
    }

    fn host_calls(&self) -> &'static [HostCallRule] {
        &[]
    }
}

/// An address space as a model.
pub struct FakeSpace {
    me: Weak<FakeSpace>,
    memory: Arc<MemoryFile>,
    limits: Limits,
    script: Arc<Mutex<Option<Script>>>,
    table: Mutex<SegmentMap<Pte>>,
    dead: AtomicBool,
    batches: AtomicU64,
    ops: AtomicU64,
}

impl fmt::Debug for FakeSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.lock().fmt(f)
    }
}

impl FakeSpace {
    /// Loads as guest code would: all of `buf`, or the fault at the first byte that cannot be loaded.
    pub fn load(&self, addr: Addr, buf: &mut [u8]) -> Result<(), FaultInfo> {
        self.walk(addr, buf.len(), Access::Read, |pte, at, done, len| {
            let part = &mut buf[done..done + len];
            match &pte.backing {
                Backing::Memory { offset } => {
                    self.with_memory(offset + at, len, |slice| safecopy::read_slices(&[slice], part))
                }
                Backing::Host { file, offset, .. } => {
                    part.fill(0);
                    let slice = crate::VolatileSlice::from(part);
                    // The rest of a file's last page reads as zeros.
                    match host::preadv(file.as_fd(), &[slice], offset + at) {
                        Ok(0) if !host_page_exists(file, offset + at) => false,
                        result => result.is_ok(),
                    }
                }
                Backing::Zero => {
                    part.fill(0);
                    true
                }
            }
        })
    }

    /// Stores as guest code would; see [`FakeSpace::load`]. What comes before the fault is stored.
    pub fn store(&self, addr: Addr, bytes: &[u8]) -> Result<(), FaultInfo> {
        self.walk(addr, bytes.len(), Access::Write, |pte, at, done, len| {
            let part = &bytes[done..done + len];
            match &pte.backing {
                Backing::Memory { offset } => {
                    self.with_memory(offset + at, len, |slice| safecopy::write_slices(&[slice], part))
                }
                Backing::Host { file, offset, shared: true } => {
                    let mut copy = part.to_vec();
                    let slice = crate::VolatileSlice::from(&mut copy[..]);
                    host_page_exists(file, offset + at) && host::pwritev(file.as_fd(), &[slice], offset + at) == Ok(len)
                }
                Backing::Host { .. } | Backing::Zero => panic!("a store reached {pte:?}"),
            }
        })
    }

    /// Fetches an instruction as guest code would.
    pub fn fetch(&self, addr: Addr) -> Result<(), FaultInfo> {
        self.walk(addr, 1, Access::Exec, |_, _, _, _| true)
    }

    /// What is mapped at `addr`: its backing there and its protection.
    pub fn mapped(&self, addr: Addr) -> Option<(Backing, Prot)> {
        let table = self.table.lock();
        let (range, pte) = table.get(addr.0)?;
        let pte = pte.clone().advanced(addr.0 - range.start);
        Some((pte.backing, pte.prot))
    }

    /// All that is mapped, in order.
    pub fn mappings(&self) -> Vec<(AddrRange, Backing, Prot)> {
        let table = self.table.lock();
        let range = |r: std::ops::Range<u64>| AddrRange { start: Addr(r.start), end: Addr(r.end) };
        table.iter().map(|(r, pte)| (range(r), pte.backing.clone(), pte.prot)).collect()
    }

    /// How many batches and single changes were applied.
    pub fn applied(&self) -> (u64, u64) {
        (self.batches.load(Ordering::Relaxed), self.ops.load(Ordering::Relaxed))
    }

    pub(crate) fn is_dead(&self) -> bool {
        // Acquire pairs with the release in `kill`.
        self.dead.load(Ordering::Acquire)
    }

    /// Runs `f` for each run of bytes within one page: (entry, bytes from the entry's start, bytes done, length).
    fn walk(
        &self,
        addr: Addr,
        len: usize,
        access: Access,
        mut f: impl FnMut(&Pte, u64, usize, usize) -> bool,
    ) -> Result<(), FaultInfo> {
        let mut done = 0;
        while done < len {
            let Some(at) = addr.checked_add(done as u64) else {
                return Err(fault(Addr(0), access, libc::SIGSEGV, 0x80, 0));
            };
            let step = ((PAGE_SIZE - at.page_offset()) as usize).min(len - done);
            let found = {
                let table = self.table.lock();
                table.get(at.0).map(|(range, pte)| (at.0 - range.start, pte.clone()))
            };
            let Some((inside, pte)) = found else {
                return Err(fault(at, access, libc::SIGSEGV, SEGV_MAPERR, 0));
            };
            let needed = match access {
                // x86 cannot make memory writable or executable and not readable.
                Access::Read => Prot::all(),
                Access::Write => Prot::WRITE,
                Access::Exec => Prot::EXEC,
            };
            if !pte.prot.intersects(needed) {
                return Err(fault(at, access, libc::SIGSEGV, SEGV_ACCERR, 1));
            }
            if !f(&pte, inside, done, step) {
                return Err(fault(at, access, libc::SIGBUS, BUS_ADRERR, 0));
            }
            done += step;
        }
        Ok(())
    }

    fn with_memory(
        &self,
        offset: u64,
        len: usize,
        f: impl FnOnce(crate::VolatileSlice<'_>) -> Result<usize, abi::Errno>,
    ) -> bool {
        let range = FileRange::of_len(offset, len as u64);
        assert!(self.memory.refs(range).is_some(), "use after free: {range:?} is mapped but not referenced");
        self.memory.slice(range).and_then(f) == Ok(len)
    }

    fn check_range(&self, range: AddrRange, op: &MapOp) {
        assert!(!range.is_empty() && range.is_page_aligned(), "bad range in {op:?}");
        assert!(self.limits.user.contains_range(range), "outside the user range: {op:?}");
    }

    fn apply_one(&self, table: &mut SegmentMap<Pte>, op: &MapOp) {
        match op {
            MapOp::Map { range, backing, prot, populate: _ } => {
                self.check_range(*range, op);
                let writable = match backing {
                    Backing::Memory { offset } => {
                        assert!(offset.is_multiple_of(PAGE_SIZE), "unaligned: {op:?}");
                        let mut at = FileRange::of_len(*offset, range.len());
                        while !at.is_empty() {
                            let refs = self.memory.refs(at);
                            let (_, len) = refs.unwrap_or_else(|| panic!("maps unreferenced {at:?}: {op:?}"));
                            at = at.part(len, u64::MAX);
                        }
                        true
                    }
                    Backing::Host { offset, shared, .. } => {
                        assert!(offset.is_multiple_of(PAGE_SIZE), "unaligned: {op:?}");
                        assert!(*shared || !prot.contains(Prot::WRITE), "writable private host file: {op:?}");
                        *shared
                    }
                    Backing::Zero => {
                        assert!(!prot.contains(Prot::WRITE), "writable zeros: {op:?}");
                        false
                    }
                };
                let pte = Pte { backing: backing.clone(), prot: *prot, writable };
                table.replace(range.start.0..range.end.0, pte);
            }
            MapOp::Unmap { range } => {
                self.check_range(*range, op);
                table.remove(range.start.0..range.end.0);
            }
            MapOp::Protect { range, prot } => {
                self.check_range(*range, op);
                table.update(range.start.0..range.end.0, |_, pte| {
                    assert!(pte.writable || !prot.contains(Prot::WRITE), "adds WRITE to {pte:?}: {op:?}");
                    pte.prot = *prot;
                });
            }
        }
    }
}

impl AddressSpace for FakeSpace {
    fn apply(&self, ops: &[MapOp]) -> Result<(), PlatformError> {
        if self.is_dead() {
            return Err(PlatformError::Dead("killed"));
        }
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.ops.fetch_add(ops.len() as u64, Ordering::Relaxed);
        let mut table = self.table.lock();
        for op in ops {
            self.apply_one(&mut table, op);
        }
        Ok(())
    }

    fn new_context(&self, copy_fpu_from: Option<&mut dyn Context>) -> Result<Box<dyn Context>, PlatformError> {
        let space = self.me.upgrade().ok_or(PlatformError::Dead("dropped"))?;
        let fpu = copy_fpu_from.and_then(|c| c.as_any().downcast_ref::<FakeContext>()).map(FakeContext::fpu);
        Ok(Box::new(FakeContext::new(space, fpu.unwrap_or_default(), Arc::clone(&self.script))))
    }

    fn barrier(&self) -> Result<(), PlatformError> {
        if self.is_dead() { Err(PlatformError::Dead("killed")) } else { Ok(()) }
    }

    fn kill(&self) {
        self.dead.store(true, Ordering::Release);
    }
}

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRERR: i32 = 2;

fn host_page_exists(file: &std::os::fd::OwnedFd, offset: u64) -> bool {
    let page = offset & !(PAGE_SIZE - 1);
    let mut byte = [0];
    host::preadv(file.as_fd(), &[crate::VolatileSlice::from(&mut byte[..])], page) == Ok(1)
}

fn fault(addr: Addr, access: Access, signal: i32, code: i32, present: u32) -> FaultInfo {
    let error_code = 4
        | present
        | match access {
            Access::Read => 0,
            Access::Write => 2,
            Access::Exec => 16,
        };
    FaultInfo { signal, code, addr, trapno: 14, error_code, access }
}

#[cfg(test)]
mod tests;
