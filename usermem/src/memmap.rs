//! Things that can be mapped, seen from an address space: a file answers *where* its bytes are.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::Errno;

/// Where a run of an object's bytes is, for mapping it.
#[derive(Clone, Debug)]
pub enum Located {
    /// In the memory file, at this offset; the object keeps a reference on the range while it holds the bytes.
    Memory { offset: u64 },
    /// In a host file, at this offset.
    Host { file: Arc<OwnedFd>, offset: u64 },
}

/// An object whose bytes can be mapped: a regular file, `memfd`, shared anonymous memory.
pub trait Mappable: Send + Sync {
    /// Identity for shared futexes and for `/proc/[pid]/maps`: the same for each opening of the same object.
    fn id(&self) -> u64;
    /// Where the page-aligned run at `offset` of at most `len` bytes is: its location and how many bytes of it are
    /// contiguous there (at least one page, never more than `len`). `write` asks for pages that may be changed in place
    /// (allocates holes). An offset at or past the end (rounded up to a page) is `EFAULT`: the guest gets SIGBUS.
    fn locate(&self, offset: u64, len: u64, write: bool) -> Result<(Located, u64), Errno>;
    /// Size in bytes now.
    fn size(&self) -> u64;
    /// Writes back `[offset, offset + len)`, as `msync(MS_SYNC)` asks.
    fn sync(&self, offset: u64, len: u64) -> Result<(), Errno>;
    /// Registers an address space that maps the object, to hear of truncation.
    fn attach(&self, observer: &Arc<dyn MappingObserver>);
    /// The reverse of [`Mappable::attach`].
    fn detach(&self, observer: &Arc<dyn MappingObserver>);
}

/// An address space that maps an object.
pub trait MappingObserver: Send + Sync {
    /// Bytes of the object from `offset` on are gone or moved (truncate, hole punch, copy-up): drop their translations
    /// in every thread before returning. Private copies stay unless `truncated`.
    fn invalidate(&self, object: u64, offset: u64, len: u64, truncated: Truncated);
}

/// Why translations are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truncated {
    /// The bytes are gone: private copies too.
    Yes,
    /// The bytes are elsewhere now.
    No,
}
