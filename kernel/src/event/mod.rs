//! Files that report events: epoll(7), timerfd_create(2), signalfd(2); and signals that report events of files.
//!
//! Each is a [`fs::vfs::FileOps`] over its own state. None of them sleeps: who waits does so on the file's queue.

pub mod epoll;
pub(crate) mod sigio;
pub mod signalfd;
pub mod timerfd;
