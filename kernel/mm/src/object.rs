//! [`SharedMemory`]: memory that several address spaces map, with no file behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use usermem::PAGE_SIZE;
use usermem::memfile::MemoryFile;
use usermem::memmap::{Located, Mappable, MappingObserver};

use crate::pool::Pool;
use crate::types::MappedFile;

/// Zeros at first, of a fixed size, alive as long as somebody maps them: `MAP_SHARED | MAP_ANONYMOUS`, System V shared
/// memory, the vDSO and its data.
pub struct SharedMemory {
    id: u64,
    pool: Pool,
    offset: u64,
    len: u64,
    name: Vec<u8>,
}

/// Ids of objects without an inode have the top bit; files' ids do not.
const ANONYMOUS_ID: u64 = 1 << 63;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl SharedMemory {
    /// `len` bytes, rounded up to pages. Errors: `EINVAL` (none), `ENOMEM`.
    pub fn new(memory: &Arc<MemoryFile>, len: u64) -> Result<Arc<Self>, Errno> {
        Self::named(memory, len, b"/dev/zero (deleted)")
    }

    /// The same, with the path that `/proc/[pid]/maps` shows.
    pub fn named(memory: &Arc<MemoryFile>, len: u64, name: &[u8]) -> Result<Arc<Self>, Errno> {
        let len = len.checked_next_multiple_of(PAGE_SIZE).filter(|len| *len != 0).ok_or(Errno::EINVAL)?;
        let pool = Pool::new(Arc::clone(memory));
        let offset = pool.allocate(len).map_err(|_| Errno::ENOMEM)?;
        let id = ANONYMOUS_ID | NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self { id, pool, offset, len, name: name.to_vec() }))
    }

    /// Writes `bytes` at `at`, from the kernel. Errors: `EFAULT` (beyond the end).
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        let end = u64::try_from(bytes.len()).ok().and_then(|len| at.checked_add(len));
        if end.is_none_or(|end| end > self.len) {
            return Err(Errno::EFAULT);
        }
        self.pool.write(self.offset + at, bytes)
    }

    /// Where it is in the memory file, for those who write to it often (a page of time parameters).
    pub fn memory_offset(&self) -> u64 {
        self.offset
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        self.pool.dec_ref(self.offset, self.len);
    }
}

impl MappedFile for SharedMemory {
    fn path(&self) -> Vec<u8> {
        self.name.clone()
    }

    fn dev(&self) -> u64 {
        // Linux's internal tmpfs has a device of its own, often this one.
        1
    }

    fn ino(&self) -> u64 {
        self.id & !ANONYMOUS_ID
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len).ok_or(Errno::EINVAL)?;
        if self.pool.punch(self.offset + offset, end - offset) { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Mappable for SharedMemory {
    fn id(&self) -> u64 {
        self.id
    }

    fn locate(&self, offset: u64, len: u64, _write: bool) -> Result<(Located, u64), Errno> {
        let left = self.len.checked_sub(offset).filter(|left| *left != 0).ok_or(Errno::EFAULT)?;
        Ok((Located::Memory { offset: self.offset + offset }, left.min(len)))
    }

    fn size(&self) -> u64 {
        self.len
    }

    fn sync(&self, _offset: u64, _len: u64) -> Result<(), Errno> {
        Ok(())
    }

    // It never shrinks: nobody has to hear of anything.
    fn attach(&self, _observer: &Arc<dyn MappingObserver>) {}

    fn detach(&self, _observer: &Arc<dyn MappingObserver>) {}
}
