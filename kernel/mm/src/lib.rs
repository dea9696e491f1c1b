//! The guest's address spaces, as Linux has them: what a process asked for (VMAs), what backs it (PMAs), and what the
//! platform has been told so far (installed mappings).
//!
//! - [`Mm`] is one address space, shared by the tasks that share memory. Each operation of `mmap(2)` and its relatives
//!   is a method; arguments arrive decoded, errors are the man page's.
//! - [`Mm::handle_fault`] answers a page fault of guest code; [`usermem::ptr::UserMemory`] and [`Mm::dst`]/[`Mm::src`] are the
//!   kernel's own access to guest memory, which faults pages in through the same logic.
//! - Files are seen through [`usermem::memmap::Mappable`] (bytes) and [`MappedFile`] (name). mm knows no task and no file
//!   descriptor.
//!
//! **Invariants.** Removals and downgrades are applied to the platform before the operation returns and before a page is
//! given back to the memory file. What is installed never allows more than its VMA does, and is never writable while
//! the page is shared copy-on-write. The host sees only shared mappings of the memory file, read-only private mappings
//! of host files, shared mappings of host files, and zero pages.
//!
//! **Locks.** One lock per address space ([`MM_LOCK`]), held across calls of [`usermem::memmap::Mappable`] (so what those
//! take ranks below it) but never across a copy of bytes by others: `Mappable`s call
//! [`usermem::memmap::MappingObserver::invalidate`] without any lock that their `locate` takes. Fork takes the lock of the
//! child inside that of the parent.
#![forbid(unsafe_code)]

mod addrmap;
mod advise;
mod brk;
mod detach;
mod fault;
mod fork;
mod io;
mod lock;
mod map;
mod mm;
mod object;
mod pma;
mod pool;
mod protect;
mod remap;
mod seal;
mod sites;
mod snapshot;
mod state;
mod sync_range;
mod text;
mod types;
mod unmap;
mod views;
mod vma;

#[cfg(test)]
mod tests;

pub use advise::Advice;
pub use fork::Company;
pub use io::{UserDst, UserSrc};
pub use lock::LockOptions;
pub use mm::{MM_LOCK, Mm, MmId, NewMm};
pub use object::SharedMemory;
pub use remap::{RemapOptions, RemapRequest};
pub use sites::CallSite;
pub use snapshot::{MemoryStat, PageState, VmaInfo};
pub use sync_range::SyncOptions;
pub use text::{Learner, SharedText, TextCache};
pub use types::{
    Bounds, Direction, Fault, FileSource, FutexKey, Grow, Layout, Limits, MapOptions, MapRequest, MappedFile,
    Placement, Sharing, Source, Text,
};
