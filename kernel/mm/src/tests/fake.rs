//! A platform that is a table of pages, and guest code that is a function: it loads and stores what the table allows and
//! takes the faults to the address space, as a real guest would.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use abi::Errno;
use usermem::memfile::{FileRange, MemoryFile};
use usermem::memmap::{Located, Mappable, MappingObserver};
use usermem::platform::{Access, AddressSpace, Backing, Context, MapOp, PlatformError, Prot};
use usermem::{Addr, AddrRange, PAGE_SIZE, host, safecopy};
use vm_memory::VolatileSlice;

use crate::{
    Company, Fault, FileSource, Layout, Limits, MapRequest, MappedFile, Mm, NewMm, Placement, Sharing, Source,
};

struct Page {
    backing: Backing,
    prot: Prot,
    made_writable: bool,
}

/// A guest address space: what is mapped at each page.
pub(super) struct FakeSpace {
    memory: Arc<MemoryFile>,
    pages: Mutex<BTreeMap<u64, Page>>,
    /// Batches applied.
    pub(super) batches: AtomicUsize,
}

impl AddressSpace for FakeSpace {
    fn apply(&self, ops: &[MapOp]) -> Result<(), PlatformError> {
        self.batches.fetch_add(1, Ordering::Relaxed);
        let mut pages = self.pages.lock().unwrap();
        for op in ops {
            let (MapOp::Map { range, .. } | MapOp::Unmap { range } | MapOp::Protect { range, .. }) = op;
            assert!(range.is_page_aligned() && !range.is_empty(), "{op:?}");
            match op {
                MapOp::Map { range, backing, prot, .. } => {
                    let read_only = matches!(backing, Backing::Zero | Backing::Host { shared: false, .. });
                    assert!(!(read_only && prot.contains(Prot::WRITE)), "{op:?}");
                    for at in (range.start.0..range.end.0).step_by(PAGE_SIZE as usize) {
                        let by = at - range.start.0;
                        let backing = match backing {
                            Backing::Memory { offset } => Backing::Memory { offset: offset + by },
                            Backing::Host { file, offset, shared } => {
                                Backing::Host { file: Arc::clone(file), offset: offset + by, shared: *shared }
                            }
                            Backing::Zero => Backing::Zero,
                        };
                        pages.insert(at, Page { backing, prot: *prot, made_writable: prot.contains(Prot::WRITE) });
                    }
                }
                MapOp::Unmap { range } => pages.retain(|at, _| !range.contains(Addr(*at))),
                MapOp::Protect { range, prot } => {
                    for (_, page) in pages.range_mut(range.start.0..range.end.0) {
                        assert!(page.made_writable || !prot.contains(Prot::WRITE), "{op:?}");
                        page.prot = *prot;
                    }
                }
            }
        }
        Ok(())
    }

    fn new_context(&self, _copy: Option<&mut dyn Context>) -> Result<Box<dyn Context>, PlatformError> {
        Err(PlatformError::Limit("no contexts here"))
    }

    fn barrier(&self) -> Result<(), PlatformError> {
        Ok(())
    }

    fn kill(&self) {
        self.pages.lock().unwrap().clear();
    }
}

impl FakeSpace {
    /// One access of guest code to 8 bytes; `None`: a page fault.
    fn access(&self, addr: Addr, write: Option<u64>) -> Option<u64> {
        let pages = self.pages.lock().unwrap();
        let page = pages.get(&addr.page_down().0)?;
        let needed = if write.is_some() { Prot::WRITE } else { Prot::READ };
        if !page.prot.contains(needed) {
            return None;
        }
        let mut bytes = write.unwrap_or(0).to_le_bytes();
        match &page.backing {
            Backing::Zero => {}
            Backing::Memory { offset } => {
                let slice = self.memory.slice(FileRange::of_len(offset + addr.page_offset(), 8)).unwrap();
                if write.is_some() {
                    safecopy::write_slices(&[slice], &bytes).unwrap();
                } else {
                    safecopy::read_slices(&[slice], &mut bytes).unwrap();
                }
            }
            Backing::Host { file, offset, .. } => {
                let at = offset + addr.page_offset();
                if write.is_some() {
                    host::pwritev(file.as_fd(), &[VolatileSlice::from(&mut bytes[..])], at).unwrap();
                } else {
                    host::preadv(file.as_fd(), &[VolatileSlice::from(&mut bytes[..])], at).unwrap();
                }
            }
        }
        Some(u64::from_le_bytes(bytes))
    }
}

/// A file that the host has.
pub(super) struct HostFile {
    id: u64,
    pub(super) file: Arc<OwnedFd>,
    size: AtomicUsize,
    observers: Mutex<Vec<Arc<dyn MappingObserver>>>,
}

impl HostFile {
    /// A file of whole pages; the word at offset `8 * i` of page `i` is `i + tag`.
    pub(super) fn new(id: u64, pages: u64, tag: u64) -> Arc<Self> {
        let file = host::memfd(c"test").unwrap();
        host::set_len(file.as_fd(), pages * PAGE_SIZE).unwrap();
        let new = Self {
            id,
            file: Arc::new(file),
            size: AtomicUsize::new((pages * PAGE_SIZE) as usize),
            observers: Mutex::new(Vec::new()),
        };
        for page in 0..pages {
            let mut bytes = (page + tag).to_le_bytes();
            host::pwritev(new.file.as_fd(), &[VolatileSlice::from(&mut bytes[..])], page * PAGE_SIZE).unwrap();
        }
        Arc::new(new)
    }

    pub(super) fn truncate(&self, len: u64) {
        host::set_len(self.file.as_fd(), len).unwrap();
        self.size.store(len as usize, Ordering::Relaxed);
        for observer in self.observers.lock().unwrap().clone() {
            observer.invalidate(self.id, len, u64::MAX - len, usermem::memmap::Truncated::Yes);
        }
    }

    pub(super) fn observers(&self) -> usize {
        self.observers.lock().unwrap().len()
    }
}

impl Mappable for HostFile {
    fn id(&self) -> u64 {
        self.id
    }
    fn locate(&self, offset: u64, len: u64, _write: bool) -> Result<(Located, u64), Errno> {
        let size = self.size().next_multiple_of(PAGE_SIZE);
        if offset >= size {
            return Err(Errno::EFAULT);
        }
        Ok((Located::Host { file: Arc::clone(&self.file), offset }, len.min(size - offset)))
    }
    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed) as u64
    }
    fn sync(&self, _offset: u64, _len: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn attach(&self, observer: &Arc<dyn MappingObserver>) {
        self.observers.lock().unwrap().push(Arc::clone(observer));
    }
    fn detach(&self, observer: &Arc<dyn MappingObserver>) {
        self.observers.lock().unwrap().retain(|other| !Arc::ptr_eq(other, observer));
    }
}

/// A name.
pub(super) struct Name;

impl MappedFile for Name {
    fn path(&self) -> Vec<u8> {
        b"/file".to_vec()
    }
    fn dev(&self) -> u64 {
        1
    }
    fn ino(&self) -> u64 {
        2
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// A guest process: an address space and its platform side.
pub(super) struct Guest {
    pub(super) mm: Arc<Mm>,
    pub(super) space: Arc<FakeSpace>,
}

pub(super) const BASE: u64 = 0x7000_0000_0000;

pub(super) fn layout() -> Layout {
    Layout { user: AddrRange { start: Addr(0x10000), end: Addr(0x7fff_ffff_f000) }, mmap_base: Addr(0x7800_0000_0000) }
}

pub(super) fn memory() -> Arc<MemoryFile> {
    safecopy::install();
    MemoryFile::on_memfd(1 << 30).unwrap()
}

pub(super) fn space(memory: &Arc<MemoryFile>) -> Arc<FakeSpace> {
    Arc::new(FakeSpace { memory: Arc::clone(memory), pages: Mutex::new(BTreeMap::new()), batches: AtomicUsize::new(0) })
}

impl Guest {
    pub(super) fn new(memory: &Arc<MemoryFile>) -> Self {
        let space = space(memory);
        let mm = Mm::new(NewMm {
            space: Arc::clone(&space) as Arc<dyn AddressSpace>,
            memory: Arc::clone(memory),
            layout: layout(),
            limits: Limits::default(),
            text: None,
        });
        Self { mm, space }
    }

    pub(super) fn fork(&self) -> Self {
        self.fork_in(Company::Alone)
    }

    pub(super) fn fork_in(&self, company: Company) -> Self {
        let space = space(self.mm.memory());
        let mm = self.mm.fork(Arc::clone(&space) as Arc<dyn AddressSpace>, company).unwrap();
        Self { mm, space }
    }

    fn access(&self, addr: Addr, write: Option<u64>) -> Result<u64, Fault> {
        for _ in 0..8 {
            if let Some(value) = self.space.access(addr, write) {
                return Ok(value);
            }
            self.mm.handle_fault(addr, if write.is_some() { Access::Write } else { Access::Read })?;
        }
        panic!("faults at {addr:?} without end");
    }

    pub(super) fn load(&self, addr: u64) -> Result<u64, Fault> {
        self.access(Addr(addr), None)
    }

    pub(super) fn store(&self, addr: u64, value: u64) -> Result<(), Fault> {
        self.access(Addr(addr), Some(value)).map(drop)
    }

    pub(super) fn batches(&self) -> usize {
        self.space.batches.load(Ordering::Relaxed)
    }

    pub(super) fn map_anonymous(&self, addr: u64, pages: u64, prot: Prot) -> Result<Addr, Errno> {
        self.mm.map(&MapRequest::anonymous(pages * PAGE_SIZE, prot).at(Addr(addr)))
    }
}

/// A request to map an object at a fixed place.
pub(super) fn file_request(
    object: Arc<dyn Mappable>,
    addr: u64,
    pages: u64,
    offset: u64,
    prot: Prot,
    sharing: Sharing,
) -> MapRequest {
    MapRequest {
        placement: Placement::Fixed(Addr(addr)),
        sharing,
        source: Source::File(FileSource { object, file: Arc::new(Name), offset, max_prot: Prot::all() }),
        ..MapRequest::anonymous(pages * PAGE_SIZE, prot)
    }
}
