//! The file system core: what Linux calls the VFS.
//!
//! An [`Inode`] is an object of a file system, a [`Dentry`] a name for it in a directory, a [`Mount`] a tree of dentries
//! hung somewhere in a [`MountNs`], a [`Path`] a dentry seen through a mount, a [`File`] an open file description.
//! Operations by name are methods of [`At`], which says who asks and from where.

mod attrs;
mod dentry;
mod device;
mod dirfile;
mod file;
mod inode;
mod locks;
mod modify;
mod moment;
mod mount;
mod notify;
mod open;
mod owner;
mod perm;
mod pseudo;
mod text;
mod types;
mod walk;

pub(crate) use attrs::stripped_mode;
pub use dentry::{Dentry, dentry_cache_limit, drop_dentry_cache, set_dentry_cache_limit};
pub use device::{DeviceKind, DeviceOpener, Devices};
pub use file::{CURRENT, File, FileOps, Position, Sealable, SyncWhat, Whence};
pub use inode::{
    Caching, DirOps, Inode, InodeOps, InodeSlots, NewNode, NodeKind, Rename, XattrOps, generic_attr_change,
};
pub use locks::{FlockKind, HeldLock, LockFamily, LockKind, LockRange, PosixLock};
pub(crate) use moment::Moment;
pub use moment::end_brief_answers;
pub use mount::{
    Detach, Filesystem, Mount, MountNs, MountOptions, Path, Recursive, Superblock, may_mount, new_device_id,
};
pub use notify::MAX_WATCHES;
pub(crate) use notify::{Listener, Watch, Watches};
pub use perm::{Perm, check as check_permission};
pub use pseudo::AnonInode;
pub use types::{
    Attr, DirEntry, DirSink, FileType, LookupFlags, OpenHow, PermAttr, SetAttr, SetTime, StatFs, Timestamp, major,
    makedev, minor,
};
pub use walk::At;
