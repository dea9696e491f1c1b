//! The memory file: where the bytes of anonymous guest memory are.
//!
//! One sparse host file per sandbox (tmpfs or memfd), mapped once and whole into the kernel process and piecewise into
//! whatever runs guest code. **Offset space** is what [`MemoryFile::allocate`] gives out: it costs nothing. **Pages**
//! appear when somebody touches them and are what the limit counts: on a tmpfs with `size=` the host answers SIGBUS at
//! the touch that would exceed it, in the guest (a fault that the kernel gets) and here (a copy returns `EFAULT`); whom to
//! kill for it is the kernel's decision, for which [`MemoryFile::would_exceed`] is the question to ask. On a memfd
//! nothing but that question limits.
//!
//! **References.** Each page of an allocated range has a count, 1 at first. [`MemoryFile::inc_ref`] and
//! [`MemoryFile::dec_ref`] take any page-aligned part of allocated space. A count above 1 means *shared*: write only
//! after copying.
//!
//! **Two halves.** [`MemoryFile::allocate`] reserves, in the lower half, what may never be touched: pages appear one by one.
//! [`MemoryFile::take`] gives out pages of the upper half with their memory, which is kept when they are freed and mostly
//! huge: cheap to map, to copy and to use again. What it gives may hold an earlier owner's bytes.
//!
//! **Lifetime (DESIGN §5).** A freed page is reused or punched only when (1) every address space has confirmed the unmap:
//! so call `dec_ref` only *after* `AddressSpace::apply` returned, and (2) every [`MemoryFile::pin`] that is older than the
//! `dec_ref` is gone: so take the pin *before* translating an address, and drop it after the last use of the slice. Freed
//! ranges wait for that in a list; they are zeroed or punched when they leave it, never earlier. Fresh memory reads as
//! zeros.
//!
//! **Locks.** [`CLASS`] is a leaf. Host calls that punch run outside it.

mod mapping;
mod packed;
mod space;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use sync::epoch::{self, Pin};
use sync::{LockClass, Mutex};
use vm_memory::VolatileSlice;

use crate::addr::PAGE_SIZE;
use crate::host;
use mapping::Mapping;
use packed::CHUNK;
pub use packed::Content;
use space::Space;

/// Chunks of the upper half that stay small pages: a small sandbox needs only part of one.
const SMALL_CHUNKS: u64 = 1;

/// The lock of the allocator's state: taken under any other lock of the kernel, with nothing taken under it.
pub const CLASS: LockClass = LockClass::leaf("memfile.space");

/// A half-open, page-aligned range of offsets in the memory file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileRange {
    /// First offset in the range.
    pub start: u64,
    /// First offset after it.
    pub end: u64,
}

impl FileRange {
    /// The range of `len` bytes at `start`; an end past `u64::MAX` is cut off there (and then in no file).
    pub const fn of_len(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// Bytes in the range.
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether the range holds nothing.
    pub const fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// The part of at most `len` bytes that starts `at` bytes in.
    pub fn part(self, at: u64, len: u64) -> Self {
        let start = self.start.saturating_add(at).min(self.end);
        Self { start, end: start.saturating_add(len).min(self.end) }
    }

    const fn is_aligned(self) -> bool {
        self.start.is_multiple_of(PAGE_SIZE) && self.end.is_multiple_of(PAGE_SIZE)
    }

    const fn range(self) -> std::ops::Range<u64> {
        self.start..self.end
    }
}

impl fmt::Debug for FileRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

/// Where an allocation should lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// At any page.
    Anywhere,
    /// At a multiple of this power of two, at least a page.
    Aligned(u64),
    /// At this offset if it is free, else anywhere: to continue a range.
    At(u64),
}

/// The memory file of a sandbox. See the module's head.
pub struct MemoryFile {
    file: Arc<OwnedFd>,
    read_only: Arc<OwnedFd>,
    mapping: Mapping,
    limit: AtomicU64,
    /// Whether the host gives a huge page for a chunk.
    huge: bool,
    space: Mutex<Space>,
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl MemoryFile {
    /// Takes over `file`, an empty file on tmpfs or a memfd, and `read_only`, a read-only descriptor of the same file.
    /// `limit` is in bytes of memory; the file itself becomes sparse and huge.
    pub fn new(file: OwnedFd, read_only: OwnedFd, limit: u64) -> Result<Arc<Self>, Errno> {
        let mapping = Mapping::new(file.as_fd())?;
        let huge = has_huge_pages(file.as_fd(), mapping.len());
        let from = space::packed_from(mapping.len()) + if huge { SMALL_CHUNKS * CHUNK } else { mapping.len() };
        mapping.avoid_huge_pages_before(from);
        let space = Mutex::new(CLASS, Space::new(mapping.len()));
        let (file, read_only) = (Arc::new(file), Arc::new(read_only));
        Ok(Arc::new(Self { file, read_only, mapping, limit: AtomicU64::new(limit), huge, space }))
    }

    /// A memory file on a memfd of its own, for tests and where no tmpfs can be mounted. Needs `/proc`.
    pub fn on_memfd(limit: u64) -> Result<Arc<Self>, Errno> {
        let file = host::memfd(c"casemate-memory")?;
        let read_only = host::reopen_read_only(file.as_fd())?;
        Self::new(file, read_only, limit)
    }

    /// The file, for mapping it writable.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The file, for mapping it read-only.
    pub fn read_only_fd(&self) -> BorrowedFd<'_> {
        self.read_only.as_fd()
    }

    /// The file, for keeping.
    pub fn shared_fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.file)
    }

    /// The read-only descriptor, for keeping.
    pub fn shared_read_only_fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.read_only)
    }

    /// Bytes of offset space; also the file's size.
    pub fn space_len(&self) -> u64 {
        self.mapping.len()
    }

    /// Reserves `len` bytes (rounded up to pages) of offset space with a reference count of 1. No memory is used until
    /// the pages are touched; they read as zeros. `ENOMEM` when no space is left, `EINVAL` for a length of 0 or an
    /// alignment that is none.
    pub fn allocate(&self, len: u64, place: Place) -> Result<FileRange, Errno> {
        let len = len.checked_next_multiple_of(PAGE_SIZE).filter(|&len| len > 0).ok_or(Errno::EINVAL)?;
        if let Place::Aligned(align) = place
            && (!align.is_power_of_two() || align < PAGE_SIZE)
        {
            return Err(Errno::EINVAL);
        }
        if let Some(range) = self.space.lock().allocate(len, place) {
            return Ok(range);
        }
        self.reclaim();
        self.space.lock().allocate(len, place).ok_or(Errno::ENOMEM)
    }

    /// Takes `len` bytes (rounded up to pages, at most 2 MiB) of pages with their memory, and a reference count of 1: at
    /// `after` if they are free there, to continue a range. 2 MiB are aligned to 2 MiB. `ENOMEM` at the limit, `EINVAL` for
    /// another length.
    pub fn take(&self, len: u64, after: Option<u64>) -> Result<(FileRange, Content), Errno> {
        let len =
            len.checked_next_multiple_of(PAGE_SIZE).filter(|&len| len > 0 && len <= CHUNK).ok_or(Errno::EINVAL)?;
        let waits = {
            let mut space = self.space.lock();
            if let Some((range, content)) = space.take_used(len, after) {
                return Ok((range, self.content(range, content)));
            }
            space.has_pending()
        };
        if waits {
            self.reclaim();
            if let Some((range, content)) = self.space.lock().take_used(len, after) {
                return Ok((range, self.content(range, content)));
            }
        }
        if let Some(range) = self.space.lock().take_zero(len) {
            return Ok((range, self.content(range, Content::Zeros)));
        }
        let chunk = self.new_chunk(len)?;
        let mut space = self.space.lock();
        let range = chunk.part(0, len);
        space.own(range);
        if range.end < chunk.end {
            space.packed.add(FileRange { start: range.end, end: chunk.end });
        }
        Ok((range, self.content(range, Content::Zeros)))
    }

    fn content(&self, range: FileRange, content: Content) -> Content {
        let holes = content == Content::Zeros && self.is_small(range);
        if holes { Content::Holes } else { content }
    }

    /// Whether the memory of a packed range comes page by page.
    fn is_small(&self, range: FileRange) -> bool {
        !self.huge || range.start < space::packed_from(self.space_len()) + SMALL_CHUNKS * CHUNK
    }

    /// A chunk that reads as zeros, for at least `least` bytes of which there is memory.
    fn new_chunk(&self, least: u64) -> Result<FileRange, Errno> {
        let scarce = self.would_exceed(CHUNK);
        if scarce && self.would_exceed(least) {
            return Err(Errno::ENOMEM);
        }
        let chunk = self.space.lock().packed.reserve().ok_or(Errno::ENOMEM)?;
        if !self.is_small(chunk) && !scarce {
            // Without it, small pages would come one by one: a refusal costs nothing but speed.
            if let Err(error) = host::allocate(self.fd(), chunk.start, chunk.len()) {
                log::debug!("no memory ahead for {chunk:?}: {error:?}");
            }
        }
        Ok(chunk)
    }

    /// Sets pages that were taken with leftovers to zero. `ENOMEM` at the limit.
    pub fn zero(&self, range: FileRange) -> Result<(), Errno> {
        let slice = self.slice(range)?;
        let n = crate::safecopy::zero_slices(&[slice], slice.len())?;
        if n == slice.len() { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Adds a reference to each page of `range`. `EINVAL` (and nothing done) if any of it is not allocated or the range is
    /// not page-aligned.
    pub fn inc_ref(&self, range: FileRange) -> Result<(), Errno> {
        if !range.is_aligned() {
            return Err(Errno::EINVAL);
        }
        self.space.lock().inc_ref(range)
    }

    /// Drops a reference from each page of `range`; those that lose their last one are freed, which takes effect under the
    /// rule at the module's head. Errors as for [`MemoryFile::inc_ref`].
    pub fn dec_ref(&self, range: FileRange) -> Result<(), Errno> {
        if !range.is_aligned() {
            return Err(Errno::EINVAL);
        }
        let due = self.space.lock().dec_ref(range)?;
        if due {
            self.reclaim();
        }
        Ok(())
    }

    /// The reference count of the first page of `range` and for how many bytes from there it is the same (at most the
    /// range); `None` if that page is not allocated.
    pub fn refs(&self, range: FileRange) -> Option<(u32, u64)> {
        self.space.lock().refs(range)
    }

    /// Whether any page of `range` has more than one reference.
    pub fn shared(&self, range: FileRange) -> bool {
        self.space.lock().shared(range)
    }

    /// Holds back the reuse of what is freed from now on, until dropped. Cheap; nests. Not kept across a sleep.
    #[inline]
    pub fn pin(&self) -> Pin {
        epoch::pin()
    }

    /// The kernel's view of `range`, to be used with [`crate::safecopy`] under a [`MemoryFile::pin`] (or a reference of
    /// the caller's own). `EFAULT` if the range is not inside the file.
    #[inline]
    pub fn slice(&self, range: FileRange) -> Result<VolatileSlice<'_>, Errno> {
        self.mapping.slice(range)
    }

    /// Makes `range` read as zeros and gives its memory back to the host, at once and for all who map it. For ranges that
    /// stay allocated (`MADV_REMOVE`, truncation).
    pub fn punch(&self, range: FileRange) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        host::punch_hole(self.fd(), range.start, range.len())
    }

    /// The first run of pages in `range` that hold memory (so may differ from zeros); `None` if there is none.
    pub fn next_data(&self, range: FileRange) -> Result<Option<FileRange>, Errno> {
        host::next_data(self.fd(), range)
    }

    /// Bytes of memory that the host holds for the file now.
    pub fn usage(&self) -> u64 {
        host::allocated_bytes(self.fd()).unwrap_or(0)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Whether `bytes` more of memory would exceed the limit, freed memory that can be given back not counted.
    pub fn would_exceed(&self, bytes: u64) -> bool {
        let over = |used: u64| used.saturating_add(bytes) > self.limit();
        if !over(self.usage()) {
            return false;
        }
        self.trim();
        over(self.usage())
    }

    /// Bytes of offset space in use, and of that freed but not yet reusable.
    pub fn reserved(&self) -> Reserved {
        self.space.lock().reserved()
    }

    /// Makes what was freed, and can no longer be seen by anyone, usable again. Called by itself as frees pile up; an idle
    /// moment is a good time too.
    pub fn reclaim(&self) {
        self.reclaim_to(Keep::Zeroed);
    }

    /// As [`MemoryFile::reclaim`], and gives kept pages back to the host: for when memory is short.
    pub fn trim(&self) {
        self.reclaim_to(Keep::Nothing);
        let (kept, packed) = {
            let mut space = self.space.lock();
            (space.take_zeroed(), space.packed.take_all())
        };
        for range in kept {
            self.clean(range, Keep::Nothing);
        }
        for range in packed {
            self.release(range);
        }
    }

    /// Gives the memory of packed pages back to the host, and the pages to their free list.
    fn release(&self, range: FileRange) {
        match self.punch(range) {
            Ok(()) => {
                let mut space = self.space.lock();
                if range.start.is_multiple_of(CHUNK) && range.end.is_multiple_of(CHUNK) {
                    space.packed.add_empty(range);
                } else {
                    space.packed.add(range);
                }
            }
            // As in `clean`.
            Err(e) => log::error!("cannot punch {range:?} of the memory file: {e:?}"),
        }
    }

    fn reclaim_to(&self, keep: Keep) {
        let (ripe, mut room) = {
            let mut space = self.space.lock();
            // Taken under the lock, so after every retirement in the list.
            let horizon = epoch::horizon();
            (space.take_ripe(horizon), space.zeroed_room())
        };
        for range in ripe {
            if self.is_packed(range) {
                let surplus = self.space.lock().packed.give_back(range);
                if let Some(chunks) = surplus {
                    self.release(chunks);
                }
                continue;
            }
            let keep = if keep == Keep::Zeroed && range.len() <= SMALL && range.len() <= room {
                room -= range.len();
                Keep::Zeroed
            } else {
                Keep::Nothing
            };
            self.clean(range, keep);
        }
    }

    fn is_packed(&self, range: FileRange) -> bool {
        range.start >= space::packed_from(self.space_len())
    }

    /// Makes a range that nobody can see zero, and free.
    fn clean(&self, range: FileRange, keep: Keep) {
        let zeroed = keep == Keep::Zeroed
            && self.slice(range).is_ok_and(|slice| {
                // At the memory limit the touch fails: then punch.
                crate::safecopy::zero_slices(&[slice], slice.len()) == Ok(slice.len())
            });
        if zeroed {
            self.space.lock().give_back(range, Keep::Zeroed);
            return;
        }
        match self.punch(range) {
            Ok(()) => self.space.lock().give_back(range, Keep::Nothing),
            // Never reuse what may hold somebody's data: the offset space is lost, the memory with it.
            Err(e) => log::error!("cannot punch {range:?} of the memory file: {e:?}"),
        }
    }
}

/// Whether one page asked for in the upper half brings 2 MiB along.
fn has_huge_pages(file: BorrowedFd<'_>, len: u64) -> bool {
    let probe = space::packed_from(len);
    let before = host::allocated_bytes(file).unwrap_or(0);
    let huge = host::allocate(file, probe, PAGE_SIZE).is_ok()
        && host::allocated_bytes(file).is_ok_and(|after| after.saturating_sub(before) == CHUNK);
    // Nobody has it yet, so that a refusal costs a page of memory and nothing else.
    let _ = host::punch_hole(file, probe, CHUNK);
    huge
}

/// Freed ranges up to this size are zeroed and kept rather than punched and faulted in anew.
const SMALL: u64 = 64 * 1024;

/// What becomes of freed memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keep {
    /// Its pages stay, zeroed.
    Zeroed,
    /// The host gets it back.
    Nothing,
}

/// Use of offset space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reserved {
    /// Allocated.
    pub allocated: u64,
    /// Freed, but perhaps still seen by someone.
    pub pending: u64,
    /// Free, with its pages kept, of the lower half.
    pub zeroed: u64,
    /// The same of the upper half.
    pub kept: u64,
}
