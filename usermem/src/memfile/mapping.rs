//! The kernel's own mapping of the memory file: all of its offset space at once, without reserving memory.
//!
//! It lies at a multiple of 2 MiB, so that huge pages are mapped as such.
//!
//! One mapping makes a translation an addition and every range one slice. It is kept out of core dumps and of children
//! that a platform forks.

use std::os::fd::{AsRawFd, BorrowedFd};

use abi::Errno;
use vm_memory::VolatileSlice;

use super::FileRange;
use crate::host;

/// Offset space to try for, largest first: hosts with an address-space limit get less.
const LENS: [u64; 4] = [1 << 45, 1 << 42, 1 << 39, 1 << 36];

/// Size of a huge page.
const ALIGN: usize = 2 << 20;

pub(super) struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain address space that no reference covers; it is only handed out as volatile slices.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Grows the file to the size of the offset space and maps it.
    pub(super) fn new(file: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut last = Errno::ENOMEM;
        for len in LENS {
            match Self::of_len(file, len) {
                Ok(mapping) => return Ok(mapping),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn of_len(file: BorrowedFd<'_>, len: u64) -> Result<Self, Errno> {
        let len_here = usize::try_from(len).map_err(|_| Errno::ENOMEM)?;
        host::set_len(file, len)?;
        // Address space with room to align in.
        let padded = len_here.checked_add(ALIGN).ok_or(Errno::ENOMEM)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address of the host's choice touches nothing that exists.
        let room = unsafe { libc::mmap(std::ptr::null_mut(), padded, libc::PROT_NONE, flags, -1, 0) };
        if room == libc::MAP_FAILED {
            return Err(host::last_errno());
        }
        let at = room.wrapping_byte_add(room.align_offset(ALIGN));
        // SAFETY: inside the mapping just made, which is ours alone.
        let base = unsafe {
            libc::mmap(
                at,
                len_here,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_FIXED,
                file.as_raw_fd(),
                0,
            )
        };
        let failed = base == libc::MAP_FAILED;
        let error = host::last_errno();
        let (before, after) = (at.addr() - room.addr(), room.addr() + padded - at.addr() - len_here);
        let ends =
            if failed { [(room, padded), (at, 0)] } else { [(room, before), (at.wrapping_byte_add(len_here), after)] };
        for (start, len) in ends.into_iter().filter(|(_, len)| *len != 0) {
            // SAFETY: what is left of the room, in which nothing lies.
            unsafe { libc::munmap(start, len) };
        }
        if failed {
            return Err(error);
        }
        let mapping = Self { base: base.cast(), len: len_here };
        for advice in [libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
            // SAFETY: the range is the mapping just made. Both only set flags on it; a refusal costs nothing but size.
            unsafe { libc::madvise(base, len_here, advice) };
        }
        Ok(mapping)
    }

    /// Touches of pages before `offset` bring in one small page each.
    pub(super) fn avoid_huge_pages_before(&self, offset: u64) {
        let len = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len);
        // SAFETY: inside the mapping; sets a flag on it. A host without huge pages refuses.
        unsafe { libc::madvise(self.base.cast(), len, libc::MADV_NOHUGEPAGE) };
    }

    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(super) fn slice(&self, range: FileRange) -> Result<VolatileSlice<'_>, Errno> {
        if range.end > self.len() || range.start > range.end {
            return Err(Errno::EFAULT);
        }
        // Both fit, being at most the mapping's length.
        let at = self.base.wrapping_add(range.start as usize);
        let len = range.len() as usize;
        // SAFETY: the bytes lie in the mapping, which lives as long as `self`; no reference ever covers them, and who
        // moves them does so through `safecopy`, which survives faults.
        Ok(unsafe { VolatileSlice::new(at, len) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; slices borrow `self`, so none is left.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
