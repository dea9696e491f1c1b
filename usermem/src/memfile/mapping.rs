//! The kernel's own mapping of the memory file: all of its offset space at once, without reserving memory.
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
        // SAFETY: a fresh shared mapping at an address of the host's choice touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len_here,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(host::last_errno());
        }
        let mapping = Self { base: base.cast(), len: len_here };
        for advice in [libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
            // SAFETY: the range is the mapping just made. Both only set flags on it; a refusal costs nothing but size.
            unsafe { libc::madvise(base, len_here, advice) };
        }
        Ok(mapping)
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
