//! The virtual file system and every file system that needs no task.
//!
//! [`vfs`] is Linux's model: mounts, dentries, inodes, open file descriptions, and the path walk over them. The other
//! modules are file systems and kinds of file beneath it. `kernel` implements [`vfs::FileOps`] for what needs a task
//! (sockets, epoll, ttys) and builds `/proc` and `/sys` with [`kernfs`].
//!
//! **Invariants.** fs knows no task: who asks comes in a [`Context`]. fs never sleeps: an operation that is not ready is
//! `EAGAIN`, and the caller waits on the file's queue; only opening a FIFO waits, through [`Blocker`]. Nothing here
//! follows a host path: host trees are directory descriptors.
//!
//! # Lock order (outermost first)
//! `fs.position` → `fs.dir_snapshot` → `fs.sb_tree` (changes of one directory read it, renames write it) → `fs.dir_op` (one
//! directory's lookups and changes) → [kernel's locks, in its own files] → `fs.overlay_copy_up` → `fs.inode_write`,
//! `fs.pipe` → [user copies: mm's locks, and the fault path] → `fs.inode` and the other locks of file systems →
//! `fs.dentry_children` → `fs.dentry_links` → `fs.mount_ns` → `fs.mount` → leaves. The ranks stand in `lockclass`.
#![forbid(unsafe_code)]
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod anon;
pub mod compose;
mod context;
pub mod dev;
pub mod host;
pub mod kernfs;
mod lockclass;
mod mapping;
mod memory;
pub mod overlay;
pub mod pipe;
mod ring;
mod table;
pub mod tmpfs;
pub mod vfs;

pub use context::{Blocker, Clock, Context, KernelContext, LockOwner, NeverBlock, SystemClock};
