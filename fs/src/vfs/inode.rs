//! Inodes: what a file system implements.
//!
//! [`InodeOps`] is the whole of what every inode has; directories add [`DirOps`], extended attributes [`XattrOps`]. The
//! core checks permissions, types and names before it calls; a file system checks existence and makes each change atomic
//! by its own locks.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::fs::{OpenFlags, RenameFlags, XattrFlags};
use auth::{Gid, Uid};
use sync::Mutex;

use crate::lockclass;
use crate::vfs::file::FileOps;
use crate::vfs::locks::InodeLocks;
use crate::vfs::mount::Path;
use crate::vfs::notify::Watches;
use crate::vfs::perm::{self, Perm};
use crate::vfs::text::TextUse;
use crate::vfs::types::{Attr, DirEntry, FileType, PermAttr, SetAttr, SetTime, Timestamp};
use crate::{Clock, Context};

/// A shared inode.
pub type Inode = Arc<dyn InodeOps>;

/// How long a lookup's answer holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caching {
    /// Until we change it: everything, absence too, is cached.
    Stable,
    /// For a second: then the next walk asks again, as with `Revalidate`.
    Brief,
    /// Not at all: every walk asks again; an answer with the same [`InodeOps::identity`] keeps its dentry.
    Revalidate,
}

impl Caching {
    /// What holds of an answer made of two.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Revalidate, _) | (_, Self::Revalidate) => Self::Revalidate,
            (Self::Brief, _) | (_, Self::Brief) => Self::Brief,
            (Self::Stable, Self::Stable) => Self::Stable,
        }
    }
}

/// What to create in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device of this number.
    CharDevice(u64),
    /// A block device of this number.
    BlockDevice(u64),
}

impl NodeKind {
    /// The type of the inode to be.
    pub const fn file_type(&self) -> FileType {
        match self {
            Self::Regular => FileType::Regular,
            Self::Directory => FileType::Directory,
            Self::Symlink(_) => FileType::Symlink,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
            Self::CharDevice(_) => FileType::CharDevice,
            Self::BlockDevice(_) => FileType::BlockDevice,
        }
    }
}

/// A node to create; owner, group and mode are final (umask and setgid applied).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewNode {
    /// What to create.
    pub kind: NodeKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
}

/// Things that hang off an inode but belong to no file system: file locks, the pipe behind a FIFO, a bound socket.
/// Empty until used, so that it costs two words per inode.
#[derive(Default)]
pub struct InodeSlots {
    slots: OnceLock<Box<Slots>>,
    text: TextUse,
}

struct Slots {
    locks: InodeLocks,
    fifo: Mutex<std::sync::Weak<crate::pipe::Pipe>>,
    bound: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    layer: OnceLock<u64>,
    watches: Watches,
}

impl InodeSlots {
    /// Empty slots.
    pub const fn new() -> Self {
        Self { slots: OnceLock::new(), text: TextUse::new() }
    }

    fn get(&self) -> &Slots {
        self.slots.get_or_init(|| {
            Box::new(Slots {
                locks: InodeLocks::new(),
                fifo: Mutex::new(lockclass::SLOTS, std::sync::Weak::new()),
                bound: Mutex::new(lockclass::SLOTS, None),
                layer: OnceLock::new(),
                watches: Watches::new(),
            })
        })
    }

    /// Who writes and who executes it.
    pub(crate) fn text(&self) -> &TextUse {
        &self.text
    }

    /// Locks on the inode.
    pub(crate) fn locks(&self) -> &InodeLocks {
        &self.get().locks
    }

    /// Locks on the inode, if there ever was one.
    pub(crate) fn locks_if_any(&self) -> Option<&InodeLocks> {
        self.slots.get().map(|slots| &slots.locks)
    }

    /// The pipe behind a FIFO; made when nobody has it open.
    pub(crate) fn fifo(&self) -> Arc<crate::pipe::Pipe> {
        let mut slot = self.get().fifo.lock();
        if let Some(pipe) = slot.upgrade() {
            return pipe;
        }
        let pipe = Arc::new(crate::pipe::Pipe::new());
        *slot = Arc::downgrade(&pipe);
        pipe
    }

    /// Makes `pipe` the one behind this inode: an unnamed pipe that is opened again through `/proc/self/fd`.
    pub(crate) fn set_fifo(&self, pipe: &Arc<crate::pipe::Pipe>) {
        *self.get().fifo.lock() = Arc::downgrade(pipe);
    }

    /// Watches on the inode.
    pub(crate) fn watches(&self) -> &Watches {
        &self.get().watches
    }

    /// Watches on the inode, if it has slots at all.
    pub(crate) fn watches_if_any(&self) -> Option<&Watches> {
        self.slots.get().map(|slots| &slots.watches)
    }

    /// Binds an object (a UNIX socket) to the inode.
    pub fn bind(&self, object: Arc<dyn Any + Send + Sync>) {
        *self.get().bound.lock() = Some(object);
    }

    /// Removes the bound object.
    pub fn unbind(&self) {
        if let Some(slots) = self.slots.get() {
            *slots.bound.lock() = None;
        }
    }

    /// The bound object.
    pub fn bound(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.slots.get().and_then(|slots| slots.bound.lock().clone())
    }

    /// The inode number that a layer above shows for this inode; set once.
    pub(crate) fn layer_number(&self, number: u64) -> u64 {
        *self.get().layer.get_or_init(|| number)
    }

    /// The number that a layer above chose, if it did.
    pub(crate) fn layer_number_if_set(&self) -> Option<u64> {
        self.slots.get().and_then(|slots| slots.layer.get().copied())
    }
}

/// An object of a file system.
pub trait InodeOps: Any + Send + Sync {
    /// Metadata now.
    fn attr(&self) -> Result<Attr, Errno>;

    /// Kind of object; never changes.
    fn file_type(&self) -> FileType;

    /// Device and inode number: the same for every handle on the same object, never reused while one exists.
    fn identity(&self) -> (u64, u64);

    /// Whether each object has one inode while that is in use: then another inode with the same identity is another object,
    /// which was given a number that had become free.
    fn is_only_one(&self) -> bool {
        false
    }

    /// Locks and the like.
    fn slots(&self) -> &InodeSlots;

    /// What permission checks look at; cheap, since each step of a walk asks.
    fn perm_attr(&self) -> Result<PermAttr, Errno> {
        Ok(self.attr()?.perm())
    }

    /// Whether `ctx` may do `want`.
    fn permission(&self, ctx: &Context<'_>, want: Perm) -> Result<(), Errno> {
        perm::check(ctx, self.perm_attr()?, want)
    }

    /// Changes metadata (and size). The caller may: that is checked.
    fn set_attr(&self, _ctx: &Context<'_>, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }

    /// Opens a regular file. `O_TRUNC` and `O_CREAT` are done already. Other kinds are opened by the core: directories by
    /// [`DirOps::list`], FIFOs and devices by their tables; a device of a file system that knows better overrides.
    fn open(self: Arc<Self>, _ctx: &Context<'_>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        Err(Errno::ENXIO)
    }

    /// Whether [`InodeOps::open`] opens this inode although it is no regular file.
    fn opens_itself(&self) -> bool {
        false
    }

    /// The directory side, of a directory.
    fn dir(&self) -> Option<&dyn DirOps> {
        None
    }

    /// Extended attributes, where the file system has them.
    fn xattr(&self) -> Option<&dyn XattrOps> {
        None
    }

    /// Target of a symbolic link.
    fn readlink(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        Err(Errno::EINVAL)
    }

    /// Where a magic link leads, without any walk; `None` for an ordinary symbolic link.
    fn follow(&self, _ctx: &Context<'_>) -> Result<Option<Path>, Errno> {
        Ok(None)
    }

    /// A dentry of this inode went out of use; for file systems that watch their names.
    fn forget(&self) {}
}

/// Directories. Names are 1 to 255 bytes, without `/` and NUL, never `.` or `..`.
pub trait DirOps {
    /// The inode called `name`; `ENOENT`.
    fn lookup(&self, ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno>;

    /// Every entry but `.` and `..`, in a stable order.
    fn list(&self, ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno>;

    /// Gives every entry but `.` and `..` to `each` (name, inode number, type), in the order of [`DirOps::list`].
    fn for_each(&self, ctx: &Context<'_>, each: &mut dyn FnMut(&[u8], u64, FileType)) -> Result<(), Errno> {
        for entry in self.list(ctx)? {
            each(&entry.name, entry.ino, entry.file_type);
        }
        Ok(())
    }

    /// Whether entries may lie on other devices than the directory, so that their numbers alone say little.
    fn spans_devices(&self) -> bool {
        false
    }

    /// How long lookups hold.
    fn caching(&self) -> Caching {
        Caching::Stable
    }

    /// Whether names here are worth keeping while nobody uses them: not where each is asked for anew and what it stood for
    /// may have ended long ago, as a process in `/proc`.
    fn keeps_unused(&self) -> bool {
        true
    }

    /// Creates a node; `EEXIST` when the name is taken.
    fn create(&self, _ctx: &Context<'_>, _name: &[u8], _node: &NewNode) -> Result<Inode, Errno> {
        Err(Errno::EPERM)
    }

    /// Creates a regular file without a name, `O_TMPFILE`.
    fn create_unnamed(&self, _ctx: &Context<'_>, _node: &NewNode) -> Result<Inode, Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives `inode`, of the same file system and no directory, another name; `EEXIST`.
    fn link(&self, _ctx: &Context<'_>, _name: &[u8], _inode: &Inode) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }

    /// Removes the name of `inode`, which is no directory.
    fn unlink(&self, _ctx: &Context<'_>, _name: &[u8], _inode: &Inode) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }

    /// Removes the directory `inode`; `ENOTEMPTY`.
    fn rmdir(&self, _ctx: &Context<'_>, _name: &[u8], _inode: &Inode) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }

    /// Moves an entry. Types and permissions are checked; a directory that is replaced must be empty (`ENOTEMPTY`).
    fn rename(&self, _ctx: &Context<'_>, _rename: &Rename<'_>) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
}

/// One `rename` as a file system sees it; the directory it is called on is the old parent.
pub struct Rename<'a> {
    /// Name in the old parent.
    pub name: &'a [u8],
    /// What it names.
    pub inode: &'a Inode,
    /// The new parent, of the same file system.
    pub new_dir: &'a Inode,
    /// Name in the new parent.
    pub new_name: &'a [u8],
    /// What that names now, if anything.
    pub replaced: Option<&'a Inode>,
    /// `RENAME_EXCHANGE`, `RENAME_WHITEOUT` (`RENAME_NOREPLACE` is checked already).
    pub flags: RenameFlags,
}

/// Extended attributes, `xattr(7)`. Names are whole, with their namespace; permissions are checked by the core.
pub trait XattrOps {
    /// The value; `ENODATA` when there is none.
    fn get(&self, name: &[u8]) -> Result<Vec<u8>, Errno>;
    /// Sets a value; `EEXIST` or `ENODATA` as `flags` ask.
    fn set(&self, ctx: &Context<'_>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno>;
    /// Every name.
    fn list(&self) -> Result<Vec<Vec<u8>>, Errno>;
    /// Removes an attribute; `ENODATA`.
    fn remove(&self, ctx: &Context<'_>, name: &[u8]) -> Result<(), Errno>;
}

/// The moment that a [`SetTime`] means.
pub(crate) fn resolve_time(time: SetTime, now: Timestamp) -> Timestamp {
    match time {
        SetTime::Now => now,
        SetTime::At(at) => at,
    }
}

/// Applies everything of `change` but the size to `attr`, and the change time; for file systems that keep attributes in
/// memory.
pub fn generic_attr_change(attr: &mut Attr, change: &SetAttr, clock: &dyn Clock) {
    let now = clock.now();
    if let Some(mode) = change.mode {
        attr.mode = mode & 0o7777;
    }
    attr.uid = change.uid.unwrap_or(attr.uid);
    attr.gid = change.gid.unwrap_or(attr.gid);
    if let Some(time) = change.atime {
        attr.atime = resolve_time(time, now);
    }
    if let Some(time) = change.mtime {
        attr.mtime = resolve_time(time, now);
    }
    attr.ctime = now;
}
