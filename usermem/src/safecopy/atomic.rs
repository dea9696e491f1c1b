//! Atomic access to words of guest memory: futexes, `set_tid_address`, robust lists, restartable sequences.
//!
//! All are sequentially consistent on the CPU (plain loads are acquire loads). The word is named by a slice and a byte
//! offset; `EINVAL` if it is not aligned, `EFAULT` if it is outside the slice or the access faults.

use abi::Errno;
use vm_memory::VolatileSlice;

use super::asm;

/// How often a read-modify-write is tried before the guest's other threads are said to hold it up: `EAGAIN`.
const TRIES: usize = 1 << 16;

/// The address of the aligned word of `size` bytes at `offset`.
fn word(slice: VolatileSlice<'_>, offset: usize, size: usize) -> Result<*mut u8, Errno> {
    if offset.checked_add(size).is_none_or(|end| end > slice.len()) {
        return Err(Errno::EFAULT);
    }
    let at = slice.ptr_guard_mut().as_ptr().wrapping_add(offset);
    if at.addr().is_multiple_of(size) { Ok(at) } else { Err(Errno::EINVAL) }
}

/// Loads the word at `offset`.
pub fn load_u32(slice: VolatileSlice<'_>, offset: usize) -> Result<u32, Errno> {
    let at = word(slice, offset, 4)?;
    // SAFETY: `word` checked alignment and bounds; slices of guest memory are not covered by references.
    unsafe { asm::load32(at.cast()) }.ok_or(Errno::EFAULT)
}

/// Loads the double word at `offset`.
pub fn load_u64(slice: VolatileSlice<'_>, offset: usize) -> Result<u64, Errno> {
    let at = word(slice, offset, 8)?;
    // SAFETY: as in `load_u32`.
    unsafe { asm::load64(at.cast()) }.ok_or(Errno::EFAULT)
}

/// Stores the word at `offset`.
pub fn store_u32(slice: VolatileSlice<'_>, offset: usize, value: u32) -> Result<(), Errno> {
    swap_u32(slice, offset, value).map(drop)
}

/// Stores the double word at `offset`.
pub fn store_u64(slice: VolatileSlice<'_>, offset: usize, value: u64) -> Result<(), Errno> {
    let at = word(slice, offset, 8)?;
    // SAFETY: as in `load_u32`.
    unsafe { asm::swap64(at.cast(), value) }.map(drop).ok_or(Errno::EFAULT)
}

/// Stores the word at `offset` and says what it replaced.
pub fn swap_u32(slice: VolatileSlice<'_>, offset: usize, value: u32) -> Result<u32, Errno> {
    let at = word(slice, offset, 4)?;
    // SAFETY: as in `load_u32`.
    unsafe { asm::swap32(at.cast(), value) }.ok_or(Errno::EFAULT)
}

/// Adds to the word at `offset`, wrapping, and says what was there.
pub fn fetch_add_u32(slice: VolatileSlice<'_>, offset: usize, value: u32) -> Result<u32, Errno> {
    let at = word(slice, offset, 4)?;
    // SAFETY: as in `load_u32`.
    unsafe { asm::add32(at.cast(), value) }.ok_or(Errno::EFAULT)
}

/// Stores `new` at `offset` if `old` is there. `Ok(Ok(old))` if it did, `Ok(Err(found))` if not.
pub fn cmpxchg_u32(slice: VolatileSlice<'_>, offset: usize, old: u32, new: u32) -> Result<Result<u32, u32>, Errno> {
    let at = word(slice, offset, 4)?;
    // SAFETY: as in `load_u32`.
    let found = unsafe { asm::cmpxchg32(at.cast(), old, new) }.ok_or(Errno::EFAULT)?;
    Ok(if found == old { Ok(found) } else { Err(found) })
}

/// As [`cmpxchg_u32`], for a double word.
pub fn cmpxchg_u64(slice: VolatileSlice<'_>, offset: usize, old: u64, new: u64) -> Result<Result<u64, u64>, Errno> {
    let at = word(slice, offset, 8)?;
    // SAFETY: as in `load_u32`.
    let found = unsafe { asm::cmpxchg64(at.cast(), old, new) }.ok_or(Errno::EFAULT)?;
    Ok(if found == old { Ok(found) } else { Err(found) })
}

/// Replaces the word at `offset` by what `f` makes of it; says what was there. `EAGAIN` when other threads keep changing
/// it.
pub fn fetch_update_u32(slice: VolatileSlice<'_>, offset: usize, f: impl Fn(u32) -> u32) -> Result<u32, Errno> {
    let mut found = load_u32(slice, offset)?;
    for _ in 0..TRIES {
        match cmpxchg_u32(slice, offset, found, f(found))? {
            Ok(old) => return Ok(old),
            Err(now) => found = now,
        }
    }
    Err(Errno::EAGAIN)
}
