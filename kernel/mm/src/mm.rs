//! [`Mm`]: one address space, its lock, and how it is made and ends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use sync::{Condvar, LockClass, Mutex, MutexGuard};
use usermem::memfile::MemoryFile;
use usermem::memmap::{MappingObserver, Truncated};
use usermem::platform::{Access, AddressSpace};
use usermem::{Addr, PAGE_SIZE};

use crate::pool::Pool;
use crate::state::{InFlight, State, Unmapped};
use crate::text::SharedText;
use crate::types::{Bounds, Direction, Fault, FutexKey, Layout, Limits, MappedFile, Sharing};
use crate::views::Views;
use crate::vma::Force;

/// The class of the lock of an address space. Locks held while guest memory is copied rank before it, locks that
/// `Mappable::locate` takes rank after it.
pub const MM_LOCK: LockClass = LockClass::new("mm", 30_000);

/// Identity of an address space, never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MmId(pub u64);

/// What a new address space is made of.
pub struct NewMm {
    /// Where guest code runs; empty.
    pub space: Arc<dyn AddressSpace>,
    /// Where its pages are.
    pub memory: Arc<MemoryFile>,
    /// Where mappings go.
    pub layout: Layout,
    /// The process's limits.
    pub limits: Limits,
    /// Patched text of the sandbox, if calls are patched.
    pub text: Option<SharedText>,
}

/// One guest address space, shared by the tasks that share memory.
pub struct Mm {
    id: MmId,
    space: Arc<dyn AddressSpace>,
    pub(crate) pool: Pool,
    state: Mutex<State>,
    in_flight: Arc<InFlight>,
    pub(crate) views: Views,
    /// Forks that wait for `writes` to be zero.
    forks_waiting: AtomicU32,
    /// Signalled, with `state` locked, when `writes` becomes zero and a fork waits.
    writes_done: Condvar,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Mm {
    /// An empty address space.
    pub fn new(parts: NewMm) -> Arc<Self> {
        Self::with_state(parts)
    }

    fn with_state(parts: NewMm) -> Arc<Self> {
        let NewMm { space, memory, layout, limits, text } = parts;
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let observer: Arc<dyn MappingObserver> = Arc::new(Observer { mm: Weak::clone(weak) });
            let pool = Pool::new(memory);
            let mut state = State::new(Arc::clone(&space), pool.clone(), layout, limits, observer);
            state.text = text;
            Self {
                in_flight: Arc::clone(&state.in_flight),
                id: MmId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
                space,
                pool,
                state: Mutex::new(MM_LOCK, state),
                views: Views::new(),
                forks_waiting: AtomicU32::new(0),
                writes_done: Condvar::new(),
            }
        })
    }

    /// Identity.
    pub fn id(&self) -> MmId {
        self.id
    }

    /// Where its guest code runs.
    pub fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }

    /// Where its pages are.
    pub fn memory(&self) -> &Arc<MemoryFile> {
        self.pool.memory()
    }

    /// Replaces the limits, after `setrlimit(2)`.
    pub fn set_limits(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.lock().limits
    }

    /// Where mappings go.
    pub fn layout(&self) -> Layout {
        self.lock().layout
    }

    /// Addresses of the process image.
    pub fn bounds(&self) -> Bounds {
        self.lock().bounds
    }

    /// Replaces the addresses of the process image, after exec or `prctl(PR_SET_MM)`.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.lock().bounds = bounds;
    }

    /// Says in which direction mappings without a place of their own are laid out; downwards at first.
    pub fn set_direction(&self, direction: Direction) {
        self.lock().direction = direction;
    }

    /// The program that runs here, `/proc/[pid]/exe`.
    pub fn executable(&self) -> Option<Arc<dyn MappedFile>> {
        self.lock().executable.clone()
    }

    /// Says which program runs here, after exec or `prctl(PR_SET_MM_EXE_FILE)`.
    pub fn set_executable(&self, file: Arc<dyn MappedFile>) {
        // The old one is dropped without the lock.
        let _old = self.lock().executable.replace(file);
    }

    /// Resolves a page fault of guest code: when it returns `Ok`, the access can be tried again.
    pub fn handle_fault(&self, addr: Addr, access: Access) -> Result<(), Fault> {
        self.lock().fault(addr, access)
    }

    /// Explains a SIGBUS that the host raised for guest code at `addr`. `Ok`: the mapping has changed, try again.
    pub fn handle_bus(&self, addr: Addr, access: Access) -> Result<(), Fault> {
        self.lock().bus(addr, access)
    }

    /// Makes every thread of the address space pass a memory barrier, for `membarrier(2)`.
    pub fn barrier(&self) -> Result<(), Errno> {
        self.space.barrier().map_err(|e| {
            log::debug!("barrier: {e}");
            Errno::EIO
        })
    }

    /// The identity of the futex word at `addr`: of the address space for private ones (`FUTEX_PRIVATE_FLAG`, or memory
    /// that is not shared), of the mapped object else. `EFAULT` where nothing readable is mapped, or past the object's end.
    pub fn futex_key(&self, addr: Addr, scope: Sharing) -> Result<FutexKey, Errno> {
        let private = FutexKey::Private { mm: self.id.0, addr: addr.0 };
        if scope == Sharing::Private {
            return Ok(private);
        }
        let mut state = self.lock();
        let (range, vma) = state.vma_for(addr).ok_or(Errno::EFAULT)?;
        if !vma.allows(Access::Read, Force::No) {
            return Err(Errno::EFAULT);
        }
        Ok(match &vma.file {
            Some(file) if !vma.is_private() => {
                let offset = vma.offset_of(range, addr);
                if offset >= file.object.size().next_multiple_of(PAGE_SIZE) {
                    return Err(Errno::EFAULT);
                }
                FutexKey::Shared { object: file.object.id(), offset }
            }
            _ => private,
        })
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked::new(self.state.lock())
    }

    /// As [`Mm::lock`], for the child of a fork inside its parent.
    pub(crate) fn lock_child(&self) -> Locked<'_> {
        Locked::new(self.state.lock_nested())
    }

    /// Locks when no copy into guest memory is under way. The caller holds no lock that such a copy may need.
    pub(crate) fn lock_without_writes(&self) -> Locked<'_> {
        // SeqCst on both sides: either the last writer sees the waiter, or the waiter sees no writer (`CopyGuard`).
        self.forks_waiting.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.lock();
        while self.in_flight.writes.load(Ordering::SeqCst) != 0 {
            state = self.writes_done.wait(state);
        }
        self.forks_waiting.fetch_sub(1, Ordering::SeqCst);
        Locked::new(state)
    }

    /// Announces a copy; `state` shows that the lock is held.
    pub(crate) fn begin_copy(&self, state: &State, access: Access) -> CopyGuard<'_> {
        if access == Access::Write {
            state.in_flight.writes.fetch_add(1, Ordering::SeqCst);
        } else {
            // Relaxed: ordered by the lock, under which it is looked at.
            state.in_flight.reads.fetch_add(1, Ordering::Relaxed);
        }
        CopyGuard { mm: self, access }
    }
}

/// The state, locked. What an operation has unmapped is dropped after the lock is: the last use of a file may close it,
/// which is no business of an address space.
pub(crate) struct Locked<'a> {
    // Fields are dropped in this order.
    state: MutexGuard<'a, State>,
    unmapped: Vec<Unmapped>,
}

impl<'a> Locked<'a> {
    fn new(state: MutexGuard<'a, State>) -> Self {
        Self { state, unmapped: Vec::new() }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.unmapped = std::mem::take(&mut self.state.unmapped);
    }
}

impl std::ops::Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// A copy between the kernel and guest memory that is under way. Dropped without the lock.
pub(crate) struct CopyGuard<'a> {
    mm: &'a Mm,
    access: Access,
}

impl Drop for CopyGuard<'_> {
    fn drop(&mut self) {
        let in_flight = &self.mm.in_flight;
        if self.access != Access::Write {
            // Release: what was read was read before; pairs with the load in `State::commit`.
            in_flight.reads.fetch_sub(1, Ordering::Release);
            return;
        }
        // SeqCst pairs with `lock_without_writes`.
        if in_flight.writes.fetch_sub(1, Ordering::SeqCst) == 1 && self.mm.forks_waiting.load(Ordering::SeqCst) != 0 {
            let state = self.mm.lock();
            self.mm.writes_done.notify_all();
            drop(state);
        }
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        // Guest code must not reach the pages any more when they are given back.
        self.space.end();
        self.state.get_mut().release();
    }
}

impl std::fmt::Debug for Mm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mm").field("id", &self.id.0).finish_non_exhaustive()
    }
}

/// What mapped objects hold of an address space: nothing that keeps it alive.
struct Observer {
    mm: Weak<Mm>,
}

impl MappingObserver for Observer {
    fn invalidate(&self, object: u64, offset: u64, len: u64, truncated: Truncated) {
        if let Some(mm) = self.mm.upgrade() {
            mm.lock().invalidate(object, offset, len, truncated);
        }
    }
}
