//! Files without a place in any tree: event counters, memory objects.

mod eventfd;
mod memory;

pub use eventfd::{EventFd, Mode as EventFdMode};
pub use memory::SharedMemory;
