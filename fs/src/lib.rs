//! The virtual file system and every file system that needs no task.
//!
//! [`vfs`] is Linux's model: mounts, dentries, inodes, open file descriptions, and the path walk over them. The other
//! modules are file systems and kinds of file beneath it. `kernel` implements [`vfs::FileOps`] for what needs a task
//! (sockets, epoll, ttys) and builds `/proc` and `/sys` with [`kernfs`].
//!
//! **Invariants.** fs knows no task: who asks comes in a [`Context`]. fs never sleeps: an operation that is not ready is
//! `EAGAIN`, and the caller waits on [`vfs::File::queue`]; only opening a FIFO waits, through [`Blocker`]. Nothing here
//! follows a host path: host trees are directory descriptors.
//!
//! # Lock order (outermost first)
//! `fs.posix_locks` → `fs.position` → `fs.sb_tree` (directory operations read it, renames write it) → `fs.dir_op` (one directory's lookups
//! and changes) → file systems' own (`fs.overlay_copy_up` → `fs.overlay` → `fs.inode_write` → [user copies: mm's locks] →
//! `fs.inode` → `fs.host_*`) → `fs.dentry_children` → `fs.dentry_links` → `fs.mount` → `fs.dcache` → leaves. A user copy runs
//! under no lock after `fs.inode_write`, because the fault path takes those.
#![forbid(unsafe_code)]

pub mod anon;
mod context;
pub mod host;
pub mod kernfs;
mod lockclass;
mod mapping;
mod memory;
pub mod pipe;
pub mod tmpfs;
pub mod vfs;

pub use context::{Blocker, Clock, Context, KernelContext, LockOwner, NeverBlock, SystemClock};
