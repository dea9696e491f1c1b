//! Moving the arguments of `ioctl(2)` that are pointers.

use abi::Errno;
use usermem::Addr;

/// Stand-in.
pub trait UserMemory {
    /// Reads.
    fn read(&self, addr: Addr, buf: &mut [u8]) -> Result<(), Errno>;
    /// Writes.
    fn write(&self, addr: Addr, bytes: &[u8]) -> Result<(), Errno>;
}

/// Writes a small answer to the caller's memory, all of it or `EFAULT`.
pub(crate) fn put(mem: &dyn UserMemory, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    mem.write(Addr(at), bytes)
}
