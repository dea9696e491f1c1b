//! The two files that stubs share with the kernel process: control pages and slabs.
//!
//! Each is mapped once, whole and sparse, and handed out in units. The guest can write slabs at any time, so nothing here
//! gives out references: words are read and written one by one, volatile, and each value is read once by its user.
//!
//! **Invariant.** Of the control file the kernel has the only writable mapping: it is sealed against any other.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use sync::{LockClass, Mutex};

use crate::host;

/// Whether anybody but us may map the file writable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Writers {
    /// Stubs map it read-only.
    KernelOnly,
    /// Stubs write it too.
    Everyone,
}

/// Units of a file: never used ones start at `next`, freed ones are used first.
#[derive(Debug)]
struct Units {
    next: u64,
    free: Vec<u64>,
}

/// A file of equal units, mapped into the kernel process.
#[derive(Debug)]
pub(crate) struct SharedFile {
    fd: OwnedFd,
    base: NonNull<u8>,
    len: u64,
    unit: u64,
    writers: Writers,
    units: Mutex<Units>,
}

// SAFETY: `base` is a mapping that lives as long as the value, accessed only by volatile words, from any thread.
unsafe impl Send for SharedFile {}
// SAFETY: as above.
unsafe impl Sync for SharedFile {}

impl SharedFile {
    /// A file with room for `count` units of `unit` bytes. Costs address space only.
    pub(crate) fn new(name: &std::ffi::CStr, unit: u64, count: u64, writers: Writers) -> io::Result<Self> {
        let len = unit * count;
        let fd = host::memory_file(name, len)?;
        // SAFETY: a new mapping at an address of the host's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A coredump or a fork of the sandbox process has no use for it.
        // SAFETY: exactly the mapping made above.
        unsafe { libc::madvise(base, len as usize, libc::MADV_DONTDUMP) };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        let file = Self {
            fd,
            base,
            len,
            unit,
            writers,
            units: Mutex::new(LockClass::leaf("systrap units"), Units { next: 0, free: Vec::new() }),
        };
        let mut seals = rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW;
        if writers == Writers::KernelOnly {
            seals |= rustix::fs::SealFlags::FUTURE_WRITE;
        }
        rustix::fs::fcntl_add_seals(&file.fd, seals | rustix::fs::SealFlags::SEAL)?;
        Ok(file)
    }

    /// The file, for stubs to map.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A unit of zeros: its offset in the file. `None` when all are in use.
    pub(crate) fn allocate(&self) -> Option<u64> {
        let mut units = self.units.lock();
        if let Some(offset) = units.free.pop() {
            return Some(offset);
        }
        let offset = units.next;
        if offset >= self.len {
            return None;
        }
        units.next = offset + self.unit;
        Some(offset)
    }

    /// Gives a unit back. No stub may have it mapped any more.
    pub(crate) fn free(&self, offset: u64) {
        // A sealed file cannot be punched.
        if self.writers == Writers::KernelOnly || !self.discard(offset, self.unit) {
            self.clear(offset, self.unit);
        }
        self.units.lock().free.push(offset);
    }

    /// Sets `[offset, offset + len)` to zero, in whole words.
    pub(crate) fn clear(&self, offset: u64, len: u64) {
        for at in (offset..offset.saturating_add(len)).step_by(8) {
            self.write_u64(at, 0);
        }
    }

    /// Sets `[offset, offset + len)` to zero by giving its pages back, if the host does; whether it did.
    pub(crate) fn discard(&self, offset: u64, len: u64) -> bool {
        host::punch(&self.fd, offset, len).is_ok()
    }

    fn word<T>(&self, offset: u64) -> *mut T {
        assert!(offset.is_multiple_of(size_of::<T>() as u64) && offset < self.len, "offsets are checked by the caller");
        // SAFETY: inside the mapping, whose length is a multiple of any word's.
        unsafe { self.base.as_ptr().add(offset as usize).cast() }
    }

    pub(crate) fn read_u64(&self, offset: u64) -> u64 {
        // SAFETY: `word` gives an aligned address in a mapping that lives as long as `self`; volatile because a stub may
        // write it meanwhile.
        unsafe { self.word::<u64>(offset).read_volatile() }
    }

    pub(crate) fn write_u64(&self, offset: u64, value: u64) {
        // SAFETY: as in `read_u64`; the mapping is writable.
        unsafe { self.word::<u64>(offset).write_volatile(value) }
    }

    pub(crate) fn read_u32(&self, offset: u64) -> u32 {
        // SAFETY: as in `read_u64`.
        unsafe { self.word::<u32>(offset).read_volatile() }
    }

    pub(crate) fn write_u32(&self, offset: u64, value: u32) {
        // SAFETY: as in `write_u64`.
        unsafe { self.word::<u32>(offset).write_volatile(value) }
    }

    /// A word that stubs change too.
    pub(crate) fn atomic_u32(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: `word` gives an aligned address in a mapping that lives as long as `self`; all sides use it atomically,
        // and a guest that does not changes only its value.
        unsafe { AtomicU32::from_ptr(self.word(offset)) }
    }

    /// Neighbouring words that stubs change too; read each once.
    pub(crate) fn atomic_words<const N: usize>(&self, offset: u64) -> &[AtomicU64; N] {
        assert!(offset.is_multiple_of(8) && offset < self.len, "offsets are checked by the caller");
        assert!(self.len - offset >= 8 * N as u64, "as above");
        // SAFETY: inside the mapping, as checked above.
        let words = unsafe { self.base.as_ptr().add(offset as usize) }.cast::<[AtomicU64; N]>();
        // SAFETY: aligned, and all of it inside the mapping, which lives as long as `self`; all sides use the words
        // atomically, and a guest that does not changes only their values.
        unsafe { &*words }
    }

    /// Fills `out` from `offset`; both are multiples of 8.
    pub(crate) fn read_bytes(&self, offset: u64, out: &mut [u8]) {
        for (index, word) in out.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&self.read_u64(offset + index as u64 * 8).to_le_bytes());
        }
    }

    /// Writes `bytes` at `offset`; both are multiples of 8.
    pub(crate) fn write_bytes(&self, offset: u64, bytes: &[u8]) {
        for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            self.write_u64(offset + index as u64 * 8, u64::from_le_bytes(*word));
        }
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nobody can use after this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len as usize) };
    }
}
