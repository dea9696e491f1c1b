//! Guest memory, below any notion of a process: addresses, the memory file that holds anonymous pages, copies that
//! survive a hostile guest, and the contract between the kernel and whatever runs guest code.

pub mod addr;
pub mod bytes;
#[doc(hidden)]
pub mod contract;
#[doc(hidden)]
pub mod fake;
pub mod host;
pub mod memfile;
pub mod memmap;
pub mod platform;
pub mod ptr;
pub mod safecopy;

pub use addr::{Addr, AddrRange, PAGE_SIZE};
/// Memory that others may change meanwhile: pointer and length only. Move its bytes with [`safecopy`].
pub use vm_memory::VolatileSlice;
