//! Copies to and from memory that the guest can unmap, truncate or poison under us.
//!
//! Every access to memory that a guest can write, or whose pages may fail to appear (a truncated host file, the memory
//! file at its limit), goes through the few assembly routines of [`asm`](self). When one of their instructions faults,
//! the signal handler that [`install`] sets up moves the instruction pointer to the routine's fixup, and the routine
//! returns how far it came. Faults anywhere else are real crashes and go on to the previous handler.
//!
//! **Invariants.** [`install`] has run before the first copy. The routines use no stack and obey the C calling
//! convention, so a fixup may simply return. A [`VolatileSlice`] only carries pointer and length: its own methods that
//! move bytes are not used anywhere, which clippy holds (`clippy.toml`).
#![allow(
    clippy::disallowed_methods,
    reason = "the one place that may turn a slice into a pointer: its copies survive faults"
)]

mod asm;
mod atomic;
mod signal;

use abi::Errno;
use vm_memory::VolatileSlice;

pub use atomic::{
    cmpxchg_u32, cmpxchg_u64, fetch_add_u32, fetch_update_u32, load_u32, load_u64, store_u32, store_u64, swap_u32,
};
pub use signal::{Crash, install, on_crash};

/// Copies a prefix of `bytes` into `slices`; says how many bytes moved, `EFAULT` when the first byte could not.
pub fn write_slices(slices: &[VolatileSlice<'_>], bytes: &[u8]) -> Result<usize, Errno> {
    let mut done = 0;
    for slice in slices {
        let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) else { break };
        let len = rest.len().min(slice.len());
        let guard = slice.ptr_guard_mut();
        // SAFETY: `rest` is readable for `len` bytes; the slice spans at least `len` bytes of mapped or at least reserved
        // address space that no Rust reference covers, and a fault in it is caught by the fixup.
        let moved = unsafe { asm::copy(guard.as_ptr(), rest.as_ptr(), len) };
        done += moved;
        if moved < len {
            return fault(done);
        }
    }
    Ok(done)
}

/// Copies a prefix of `slices` into `buf`; says how many bytes moved, `EFAULT` when the first byte could not.
pub fn read_slices(slices: &[VolatileSlice<'_>], buf: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    for slice in slices {
        let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) else { break };
        let len = rest.len().min(slice.len());
        let guard = slice.ptr_guard();
        // SAFETY: as in `write_slices`, with the directions swapped: `rest` is exclusively ours and holds `len` bytes.
        let moved = unsafe { asm::copy(rest.as_mut_ptr(), guard.as_ptr(), len) };
        done += moved;
        if moved < len {
            return fault(done);
        }
    }
    Ok(done)
}

/// Sets at most `max` bytes of `slices` to zero; says how many, `EFAULT` when the first byte could not.
pub fn zero_slices(slices: &[VolatileSlice<'_>], max: usize) -> Result<usize, Errno> {
    let mut done = 0;
    for slice in slices {
        let len = (max - done).min(slice.len());
        if len == 0 {
            continue;
        }
        let guard = slice.ptr_guard_mut();
        // SAFETY: the slice spans at least `len` bytes that no Rust reference covers; faults are caught.
        let moved = unsafe { asm::set(guard.as_ptr(), 0, len) };
        done += moved;
        if moved < len {
            return fault(done);
        }
    }
    Ok(done)
}

/// Copies from `src` to `dst` until either ends; says how many bytes moved, `EFAULT` when the first byte could not. The
/// two must not overlap for the result to mean anything (overlap is harmless otherwise).
pub fn copy_slices(dst: &[VolatileSlice<'_>], src: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
    let mut done = 0;
    let mut from = src.iter().copied().filter(|s| !s.is_empty());
    let Some(mut source) = from.next() else { return Ok(0) };
    for target in dst {
        let mut target = *target;
        while !target.is_empty() {
            let len = target.len().min(source.len());
            let (to, of) = (target.ptr_guard_mut(), source.ptr_guard());
            // SAFETY: both slices span at least `len` bytes that no Rust reference covers; a fault in either is caught.
            let moved = unsafe { asm::copy(to.as_ptr(), of.as_ptr(), len) };
            done += moved;
            if moved < len {
                return fault(done);
            }
            // The offsets are within the slices, so neither call can fail.
            let (Ok(rest_of_target), Ok(rest_of_source)) = (target.offset(len), source.offset(len)) else {
                return Ok(done);
            };
            target = rest_of_target;
            source = if rest_of_source.is_empty() {
                let Some(next) = from.next() else { return Ok(done) };
                next
            } else {
                rest_of_source
            };
        }
    }
    Ok(done)
}

/// Compares the bytes of `slice` with `bytes`, up to the shorter of the two.
pub fn equals(slice: VolatileSlice<'_>, bytes: &[u8]) -> Result<bool, Errno> {
    let mut buf = [0; 512];
    let len = slice.len().min(bytes.len());
    let mut done = 0;
    while done < len {
        let step = (len - done).min(buf.len());
        let (Ok(rest), Some(ours), Some(theirs)) =
            (slice.subslice(done, step), bytes.get(done..done + step), buf.get_mut(..step))
        else {
            return Err(Errno::EFAULT);
        };
        if read_slices(&[rest], theirs)? < step {
            return Err(Errno::EFAULT);
        }
        if theirs != ours {
            return Ok(false);
        }
        done += step;
    }
    Ok(true)
}

/// What a copy that faulted after `done` bytes answers.
fn fault(done: usize) -> Result<usize, Errno> {
    if done > 0 { Ok(done) } else { Err(Errno::EFAULT) }
}

#[cfg(test)]
mod tests;
