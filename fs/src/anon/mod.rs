//! Files without a place in any tree: event counters, memory objects, watches.

mod eventfd;
mod inotify;
mod memory;

pub use eventfd::{EventFd, Mode as EventFdMode};
pub use inotify::{
    Inotify, MAX_EVENTS as MAX_INOTIFY_EVENTS, MAX_INSTANCES as MAX_INOTIFY_INSTANCES, check_mask as check_inotify_mask,
};
pub use memory::SharedMemory;
