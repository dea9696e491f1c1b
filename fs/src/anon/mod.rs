//! Files without a place in any tree: event counters, memory objects.

mod eventfd;

pub use eventfd::{EventFd, Mode as EventFdMode};
