//! Open file descriptions.
//!
//! A [`File`] is what descriptors refer to: status flags, a position, the path it was opened by, and a [`FileOps`] that
//! does the work. [`FileOps`] has a default for everything, the errno that Linux gives for what a kind of file lacks, so
//! that an implementation says only what it can.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::fs::{FallocFlags, InotifyMask, OpenFlags};
use auth::{Gid, Uid};
use sync::{Mutex, MutexGuard};
use usermem::bytes::{IoDst, IoSrc};
use usermem::memmap::Mappable;
use usermem::ptr::UserMemory;
use waiter::{EventMask, Pollable, WaitQueue};

use crate::vfs::inode::Inode;
use crate::vfs::mount::Path;
use crate::vfs::notify;
use crate::vfs::owner::Telling;
use crate::vfs::pseudo::AnonInode;
use crate::vfs::text::TextHold;
use crate::vfs::types::{Attr, DirSink, FileType, StatFs};
use crate::{Context, lockclass};

/// From where `lseek(2)` counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    /// The start.
    Set,
    /// The current position.
    Current,
    /// The end.
    End,
    /// The next data at or after the offset.
    Data,
    /// The next hole at or after the offset.
    Hole,
}

impl Whence {
    /// `SEEK_*`; `EINVAL`.
    pub fn from_raw(raw: u32) -> Result<Self, Errno> {
        Ok(match raw {
            abi::fs::SEEK_SET => Self::Set,
            abi::fs::SEEK_CUR => Self::Current,
            abi::fs::SEEK_END => Self::End,
            abi::fs::SEEK_DATA => Self::Data,
            abi::fs::SEEK_HOLE => Self::Hole,
            _ => return Err(Errno::EINVAL),
        })
    }
}

/// Whether a file has positions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    /// Bytes stand at offsets: `read` moves a position, `pread` and `lseek` work.
    Offsets,
    /// A stream: every offset is ignored, `pread` and `lseek` are `ESPIPE`.
    Stream,
    /// Reads and writes ignore the offset, `lseek` succeeds and stays at 0 (`/dev/null`, ttys on Linux are streams).
    Ignored,
    /// Bytes stand at offsets, and the object keeps the position itself, because others outside share it: reads and writes
    /// that move it are asked for at [`CURRENT`], `lseek` is [`FileOps::seek`].
    Own,
}

/// The offset that means the position kept by a [`Position::Own`] object; no byte stands there.
pub const CURRENT: u64 = u64::MAX;

/// The work behind an open file. Every method has the default of a file that cannot do it.
///
/// No method sleeps: what is not ready is `EAGAIN`, whether or not the description is `O_NONBLOCK`; who wants to wait does
/// so on `queue`. `offset` is 0 for streams, [`CURRENT`] for what keeps its position itself.
pub trait FileOps: Any + Send + Sync {
    /// Reads at most `dst.remaining()` bytes; 0 at the end.
    fn read(&self, _ctx: &Context<'_>, _file: &File, _dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    /// Writes at most `src.remaining()` bytes.
    fn write(&self, _ctx: &Context<'_>, _file: &File, _src: &mut dyn IoSrc, _offset: u64) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    /// Writes at the end, wherever that is when it happens; says where it began and how much it wrote.
    fn append(&self, ctx: &Context<'_>, file: &File, src: &mut dyn IoSrc) -> Result<(u64, usize), Errno> {
        let end = self.size()?;
        Ok((end, self.write(ctx, file, src, end)?))
    }

    /// Whether offsets mean something.
    fn position(&self) -> Position {
        Position::Stream
    }

    /// Size for `SEEK_END`; only of files with offsets.
    fn size(&self) -> Result<u64, Errno> {
        Ok(0)
    }

    /// Moves the position of a [`Position::Own`] object; answers the new one.
    fn seek(&self, _offset: i64, _whence: Whence) -> Result<u64, Errno> {
        Err(Errno::ESPIPE)
    }

    /// Finds the next data or hole at or after `offset` (below the size); the default: all of it is data.
    fn seek_data_hole(&self, offset: u64, whence: Whence) -> Result<u64, Errno> {
        let size = self.size()?;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        Ok(if whence == Whence::Data { offset } else { size })
    }

    /// Gives directory entries from `position` on to `sink` until that refuses; answers the new position.
    fn readdir(&self, _ctx: &Context<'_>, _file: &File, _position: u64, _sink: &mut dyn DirSink) -> Result<u64, Errno> {
        Err(Errno::ENOTDIR)
    }

    /// `ioctl(2)`; `mem` is the caller's memory, for arguments that are pointers.
    fn ioctl(
        &self,
        _ctx: &Context<'_>,
        _file: &File,
        _command: u32,
        _argument: u64,
        _mem: &dyn UserMemory,
    ) -> Result<u64, Errno> {
        Err(Errno::ENOTTY)
    }

    /// Writes back, `fsync(2)`.
    fn sync(&self, _what: SyncWhat) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    /// Sets the size, `ftruncate(2)`.
    fn truncate(&self, _ctx: &Context<'_>, _file: &File, _size: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    /// `fallocate(2)`; the range is checked not to be empty and not to wrap.
    fn allocate(&self, _ctx: &Context<'_>, _mode: FallocFlags, _offset: u64, _len: u64) -> Result<(), Errno> {
        Err(Errno::ENODEV)
    }

    /// What to map; `ENODEV`.
    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>, Errno> {
        Err(Errno::ENODEV)
    }

    /// Which of `interest` (and errors) hold now; the default: always ready.
    fn readiness(&self, interest: EventMask) -> EventMask {
        interest & (EventMask::READABLE | EventMask::WRITABLE)
    }

    /// Where to wait for a change of readiness; `None` when it never changes (`epoll_ctl`: `EPERM`).
    fn queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// Accepts new status flags, `F_SETFL`; `EINVAL` refuses them.
    fn flags_changed(&self, _flags: OpenFlags) -> Result<(), Errno> {
        Ok(())
    }

    /// Of which events its owner can be told by a signal, asked when `O_ASYNC` changes; `None` for files that have none to
    /// tell.
    fn signals_for(&self) -> Option<EventMask> {
        None
    }

    /// What to tell the owner after a wake with `events`: `IN`, `OUT` or `HUP`, each a signal.
    fn to_tell(&self, events: EventMask) -> EventMask {
        events & (EventMask::IN | EventMask::OUT) & self.readiness(events)
    }

    /// One descriptor of the description was closed, `close(2)`: its error is close's.
    fn flush(&self, _ctx: &Context<'_>) -> Result<(), Errno> {
        Ok(())
    }

    /// The last reference is gone.
    fn release(&self, _file: &File) {}

    /// The pipe behind, for `splice`, `F_GETPIPE_SZ`.
    fn pipe(&self) -> Option<&Arc<crate::pipe::Pipe>> {
        None
    }

    /// The object with seals, `F_GET_SEALS`.
    fn sealable(&self) -> Option<&dyn Sealable> {
        None
    }

    /// Text for `/proc/[pid]/fdinfo`, whole lines after the common ones.
    fn fdinfo(&self) -> String {
        String::new()
    }
}

/// What `fsync` and its kin must write back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncWhat {
    /// Contents and metadata.
    All,
    /// Contents and what is needed to find them.
    Data,
}

/// A file that can be sealed, `F_ADD_SEALS`.
pub trait Sealable {
    /// Seals now.
    fn seals(&self) -> abi::fs::Seals;
    /// Adds seals; `EPERM` when sealed against it, `EBUSY` while writable mappings exist.
    fn add_seals(&self, seals: abi::fs::Seals) -> Result<(), Errno>;
}

static NEXT_FILE: AtomicU64 = AtomicU64::new(1);

/// An open file description.
pub struct File {
    id: u64,
    ops: Arc<dyn FileOps>,
    path: Path,
    /// What this may do, fixed at open.
    readable: bool,
    writable: bool,
    /// `O_PATH`: names a place and can do nothing else.
    path_only: bool,
    /// Status flags (`F_GETFL` without the access mode). Relaxed: a change races with I/O on Linux too.
    flags: AtomicU32,
    /// Changes under `moving`. Relaxed: who reads it without that has to expect any value.
    position: AtomicU64,
    moving: Mutex<()>,
    /// Who is signalled when it becomes ready; see [`super::owner`].
    pub(super) telling: Mutex<Option<Box<Telling>>>,
    /// Whether a lock was ever taken through this description. Relaxed: only a hint to skip work at close.
    locked: AtomicBool,
    /// That it writes, or that a program was started from it; ends with it.
    _hold: Option<TextHold>,
}

/// A position that is being moved; where it is in the end, it stays.
struct Moving<'a> {
    at: u64,
    file: &'a File,
    _lock: MutexGuard<'a, ()>,
}

impl Deref for Moving<'_> {
    type Target = u64;

    fn deref(&self) -> &u64 {
        &self.at
    }
}

impl DerefMut for Moving<'_> {
    fn deref_mut(&mut self) -> &mut u64 {
        &mut self.at
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.file.position.store(self.at, Ordering::Relaxed);
    }
}

/// The flags that `F_GETFL` shows and `open` keeps.
fn kept_flags(flags: OpenFlags) -> OpenFlags {
    flags
        & !(OpenFlags::O_CREAT
            | OpenFlags::O_EXCL
            | OpenFlags::O_NOCTTY
            | OpenFlags::O_TRUNC
            | OpenFlags::O_CLOEXEC
            | OpenFlags::O_WRONLY
            | OpenFlags::O_RDWR)
}

/// The flags that `F_SETFL` may change, but for `O_ASYNC` ([`File::set_async`]).
const CHANGEABLE: OpenFlags =
    OpenFlags::O_APPEND.union(OpenFlags::O_NONBLOCK).union(OpenFlags::O_DIRECT).union(OpenFlags::O_NOATIME);

impl File {
    /// A description of an opened object. The access mode is in `flags`.
    pub fn new(ops: Arc<dyn FileOps>, path: Path, flags: OpenFlags) -> Arc<Self> {
        Self::holding(ops, path, flags, None)
    }

    /// As [`File::new`], with what keeps writers or programs away from the inode.
    pub(crate) fn holding(ops: Arc<dyn FileOps>, path: Path, flags: OpenFlags, hold: Option<TextHold>) -> Arc<Self> {
        let access = flags.bits() & abi::fs::O_ACCMODE;
        let path_only = flags.contains(OpenFlags::O_PATH);
        Arc::new(Self {
            id: NEXT_FILE.fetch_add(1, Ordering::Relaxed),
            ops,
            path,
            readable: !path_only && (access == abi::fs::O_RDONLY || access == abi::fs::O_RDWR),
            writable: !path_only && (access == abi::fs::O_WRONLY || access == abi::fs::O_RDWR),
            path_only,
            flags: AtomicU32::new(kept_flags(flags).bits()),
            position: AtomicU64::new(0),
            moving: Mutex::new(lockclass::POSITION, ()),
            telling: Mutex::new(lockclass::SLOTS, None),
            locked: AtomicBool::new(false),
            _hold: hold,
        })
    }

    /// A file without a place in any tree (eventfd, epoll, …). `name` is what `/proc/[pid]/fd` shows, such as
    /// `anon_inode:[eventfd]`; `fstat` shows a mode of 0600 and no type.
    pub fn anonymous(ops: Arc<dyn FileOps>, flags: OpenFlags, name: &str) -> Arc<Self> {
        Self::pseudo(ops, flags, name.as_bytes(), AnonInode::new(FileType::Anonymous, 0o600, Uid::ROOT, Gid::ROOT))
    }

    /// A file without a place in any tree, with an inode of its own (pipes, sockets).
    pub fn pseudo(ops: Arc<dyn FileOps>, flags: OpenFlags, name: &[u8], inode: Inode) -> Arc<Self> {
        Self::new(ops, Path::pseudo(name, inode), flags)
    }

    /// Unique number of this description, never reused.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The object.
    pub fn inode(&self) -> &Inode {
        self.path.inode()
    }

    /// The work behind.
    pub fn ops(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }

    /// The work behind as a `T`, if it is one.
    pub fn ops_as<T: FileOps>(&self) -> Option<&T> {
        let any: &dyn Any = self.ops.as_ref();
        any.downcast_ref()
    }

    /// The work behind as a shared `T`, if it is one.
    pub fn ops_arc<T: FileOps>(&self) -> Option<Arc<T>> {
        let any: Arc<dyn Any + Send + Sync> = Arc::clone(&self.ops) as _;
        any.downcast().ok()
    }

    /// Whether reading was asked for at open.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether writing was asked for at open.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether it was opened with `O_PATH`.
    pub fn is_path_only(&self) -> bool {
        self.path_only
    }

    /// Status flags, without the access mode.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// What `F_GETFL` answers: status flags, access mode and `O_LARGEFILE` as 64-bit Linux has it.
    pub fn flags_and_access(&self) -> u32 {
        let access = match (self.readable, self.writable) {
            (true, true) => abi::fs::O_RDWR,
            (false, true) => abi::fs::O_WRONLY,
            _ => abi::fs::O_RDONLY,
        };
        self.flags.load(Ordering::Relaxed) | access
    }

    /// Changes what `F_SETFL` may change; `O_ASYNC` stays ([`File::set_async`]).
    pub fn set_flags(&self, flags: OpenFlags) -> Result<(), Errno> {
        if self.path_only {
            return Err(Errno::EBADF);
        }
        let asked = |now: OpenFlags| (now & !CHANGEABLE) | (flags & CHANGEABLE);
        self.ops.flags_changed(asked(self.flags()))?;
        let change = |now| Some(asked(OpenFlags::from_bits_retain(now)).bits());
        // It always succeeds.
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        Ok(())
    }

    /// Whether `O_NONBLOCK` is set.
    pub fn is_nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::O_NONBLOCK)
    }

    /// Sets the flag `O_ASYNC` and no more.
    pub(super) fn put_async(&self, on: bool) {
        let bit = OpenFlags::O_ASYNC.bits();
        if on {
            self.flags.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Notes that a file lock was taken through this description.
    pub(crate) fn note_locked(&self) {
        self.locked.store(true, Ordering::Relaxed);
    }

    fn check_read(&self) -> Result<(), Errno> {
        if !self.readable {
            return Err(Errno::EBADF);
        }
        if self.inode().file_type() == FileType::Directory { Err(Errno::EISDIR) } else { Ok(()) }
    }

    fn check_write(&self) -> Result<(), Errno> {
        if self.writable { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// Tells those who watch that `n` bytes were read or written.
    #[inline]
    fn moved(&self, n: usize, mask: InotifyMask) {
        if n > 0 {
            notify::happened(&self.path.dentry, mask);
        }
    }

    /// Reads at the position and moves it, `read(2)`.
    pub fn read(&self, ctx: &Context<'_>, dst: &mut dyn IoDst) -> Result<usize, Errno> {
        let n = self.read_unseen(ctx, dst)?;
        self.moved(n, InotifyMask::IN_ACCESS);
        Ok(n)
    }

    fn read_unseen(&self, ctx: &Context<'_>, dst: &mut dyn IoDst) -> Result<usize, Errno> {
        self.check_read()?;
        if let Some(offset) = self.fixed_offset() {
            return self.ops.read(ctx, self, dst, offset);
        }
        let mut position = self.moving();
        let n = self.ops.read(ctx, self, dst, *position)?;
        *position = position.saturating_add(n as u64);
        Ok(n)
    }

    /// Writes at the position (at the end with `O_APPEND`) and moves it, `write(2)`.
    pub fn write(&self, ctx: &Context<'_>, src: &mut dyn IoSrc) -> Result<usize, Errno> {
        let n = self.write_unseen(ctx, src)?;
        self.moved(n, InotifyMask::IN_MODIFY);
        Ok(n)
    }

    fn write_unseen(&self, ctx: &Context<'_>, src: &mut dyn IoSrc) -> Result<usize, Errno> {
        self.check_write()?;
        if let Some(offset) = self.fixed_offset() {
            return self.ops.write(ctx, self, src, offset);
        }
        let mut position = self.moving();
        if self.flags().contains(OpenFlags::O_APPEND) {
            let (start, n) = self.ops.append(ctx, self, src)?;
            *position = start.saturating_add(n as u64);
            return Ok(n);
        }
        let n = self.ops.write(ctx, self, src, *position)?;
        *position = position.saturating_add(n as u64);
        Ok(n)
    }

    fn check_offset(&self, offset: u64) -> Result<(), Errno> {
        if self.ops.position() == Position::Stream {
            return Err(Errno::ESPIPE);
        }
        if i64::try_from(offset).is_err() { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Reads at `offset`, `pread(2)`.
    pub fn read_at(&self, ctx: &Context<'_>, dst: &mut dyn IoDst, offset: u64) -> Result<usize, Errno> {
        self.check_offset(offset)?;
        self.check_read()?;
        let n = self.ops.read(ctx, self, dst, offset)?;
        self.moved(n, InotifyMask::IN_ACCESS);
        Ok(n)
    }

    /// Writes at `offset`, `pwrite(2)`; at the end with `O_APPEND`, as Linux does.
    pub fn write_at(&self, ctx: &Context<'_>, src: &mut dyn IoSrc, offset: u64) -> Result<usize, Errno> {
        self.check_offset(offset)?;
        self.check_write()?;
        let n = if self.flags().contains(OpenFlags::O_APPEND) {
            self.ops.append(ctx, self, src)?.1
        } else {
            self.ops.write(ctx, self, src, offset)?
        };
        self.moved(n, InotifyMask::IN_MODIFY);
        Ok(n)
    }

    /// Writes at the end whatever the flags, `RWF_APPEND`.
    pub fn append(&self, ctx: &Context<'_>, src: &mut dyn IoSrc) -> Result<usize, Errno> {
        self.check_write()?;
        let n = match self.fixed_offset() {
            Some(offset) => self.ops.write(ctx, self, src, offset)?,
            None => self.ops.append(ctx, self, src)?.1,
        };
        self.moved(n, InotifyMask::IN_MODIFY);
        Ok(n)
    }

    /// The position, to move it: nobody else does meanwhile.
    fn moving(&self) -> Moving<'_> {
        let lock = self.moving.lock();
        Moving { at: self.position.load(Ordering::Relaxed), file: self, _lock: lock }
    }

    /// The position now.
    pub fn position(&self) -> u64 {
        match self.ops.position() {
            Position::Own => self.ops.seek(0, Whence::Current).unwrap_or(0),
            // Without the lock, which the asker may hold: /proc/[pid]/fdinfo may tell of itself.
            _ => self.position.load(Ordering::Relaxed),
        }
    }

    /// At which offset to ask for every read and write, unless this description keeps the position.
    fn fixed_offset(&self) -> Option<u64> {
        match self.ops.position() {
            Position::Offsets => None,
            Position::Own => Some(CURRENT),
            Position::Stream | Position::Ignored => Some(0),
        }
    }

    /// Moves the position, `lseek(2)`; answers the new one.
    pub fn seek(&self, ctx: &Context<'_>, offset: i64, whence: Whence) -> Result<u64, Errno> {
        if self.path_only {
            return Err(Errno::EBADF);
        }
        match self.ops.position() {
            Position::Stream => return Err(Errno::ESPIPE),
            Position::Ignored => return Ok(0),
            Position::Own => return self.ops.seek(offset, whence),
            Position::Offsets => {}
        }
        let mut position = self.moving();
        let base = match whence {
            Whence::Set => 0,
            Whence::Current => *position,
            Whence::End => self.ops.size()?,
            Whence::Data | Whence::Hole => {
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                *position = self.ops.seek_data_hole(from, whence)?;
                return Ok(*position);
            }
        };
        let base = i64::try_from(base).map_err(|_| Errno::EOVERFLOW)?;
        let target = base.checked_add(offset).and_then(|sum| u64::try_from(sum).ok()).ok_or(Errno::EINVAL)?;
        // A directory that is rewound shows what is there now.
        if target == 0 && self.inode().file_type() == FileType::Directory {
            self.ops.readdir(ctx, self, 0, &mut RefuseAll)?;
        }
        *position = target;
        Ok(target)
    }

    /// Gives directory entries to `sink` from the position on, and moves it. `sink` refusing the first entry moves nothing.
    pub fn readdir(&self, ctx: &Context<'_>, sink: &mut dyn DirSink) -> Result<(), Errno> {
        if !self.readable {
            return Err(Errno::EBADF);
        }
        let mut position = self.moving();
        *position = self.ops.readdir(ctx, self, *position, sink)?;
        drop(position);
        notify::happened(&self.path.dentry, InotifyMask::IN_ACCESS);
        Ok(())
    }

    /// `ioctl(2)`, but for what concerns descriptors.
    pub fn ioctl(&self, ctx: &Context<'_>, command: u32, argument: u64, mem: &dyn UserMemory) -> Result<u64, Errno> {
        if self.path_only {
            return Err(Errno::EBADF);
        }
        self.ops.ioctl(ctx, self, command, argument, mem)
    }

    /// `fsync(2)`, `fdatasync(2)`.
    pub fn sync(&self, what: SyncWhat) -> Result<(), Errno> {
        if self.path_only {
            return Err(Errno::EBADF);
        }
        self.ops.sync(what)
    }

    /// `ftruncate(2)`.
    pub fn truncate(&self, ctx: &Context<'_>, size: u64) -> Result<(), Errno> {
        if self.path_only {
            return Err(Errno::EBADF);
        }
        if !self.writable || i64::try_from(size).is_err() {
            return Err(Errno::EINVAL);
        }
        self.ops.truncate(ctx, self, size)?;
        notify::happened(&self.path.dentry, InotifyMask::IN_MODIFY);
        Ok(())
    }

    /// `fallocate(2)`.
    pub fn allocate(&self, ctx: &Context<'_>, mode: FallocFlags, offset: i64, len: i64) -> Result<(), Errno> {
        if !self.writable {
            return Err(Errno::EBADF);
        }
        let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let len = u64::try_from(len).ok().filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
        if end.is_none() {
            return Err(Errno::EFBIG);
        }
        match self.inode().file_type() {
            FileType::Fifo => Err(Errno::ESPIPE),
            FileType::Directory => Err(Errno::EISDIR),
            FileType::Regular => {
                self.ops.allocate(ctx, mode, offset, len)?;
                notify::happened(&self.path.dentry, InotifyMask::IN_MODIFY);
                Ok(())
            }
            _ => Err(Errno::ENODEV),
        }
    }

    /// What to map; `ENODEV` for files that cannot be mapped. Access is the caller's to check.
    pub fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        if self.path_only {
            return Err(Errno::EBADF);
        }
        self.ops.mappable(self)
    }

    /// Metadata, `fstat(2)`.
    pub fn attr(&self) -> Result<Attr, Errno> {
        self.inode().attr()
    }

    /// Figures of its file system, `fstatfs(2)`.
    pub fn statfs(&self) -> Result<StatFs, Errno> {
        let figures = self.path.mount.superblock().fs().statfs()?;
        if !self.path.dentry.is_pseudo() {
            return Ok(figures);
        }
        // Pipes and sockets have file systems of their own on Linux.
        let magic = match self.inode().file_type() {
            FileType::Fifo => abi::stat::PIPEFS_MAGIC,
            FileType::Socket => abi::stat::SOCKFS_MAGIC,
            _ => figures.magic,
        };
        Ok(StatFs { magic, ..figures })
    }

    /// A descriptor was closed: POSIX locks of the owner on this inode go.
    pub fn flush(&self, ctx: &Context<'_>) -> Result<(), Errno> {
        if self.path_only {
            return Ok(());
        }
        if let Some(locks) = self.inode().slots().locks_if_any() {
            locks.release_posix(ctx.lock_owner);
        }
        self.ops.flush(ctx)
    }
}

struct RefuseAll;

impl DirSink for RefuseAll {
    fn entry(&mut self, _name: &[u8], _ino: u64, _file_type: FileType, _next: u64) -> bool {
        false
    }
}

impl Pollable for File {
    fn readiness(&self, interest: EventMask) -> EventMask {
        if self.path_only { EventMask::NVAL } else { self.ops.readiness(interest) }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        self.ops.queue()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if *self.locked.get_mut()
            && let Some(locks) = self.path.inode().slots().locks_if_any()
        {
            locks.release_description(self.id);
        }
        let ops = Arc::clone(&self.ops);
        ops.release(self);
        if notify::is_anybody_there() && !self.path_only {
            let mask = if self.writable { InotifyMask::IN_CLOSE_WRITE } else { InotifyMask::IN_CLOSE_NOWRITE };
            notify::happened(&self.path.dentry, mask);
        }
        notify::maybe_gone(&self.path.dentry);
    }
}

impl core::fmt::Debug for File {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("File").field("id", &self.id).field("path", &self.path).finish_non_exhaustive()
    }
}

/// Behind an `O_PATH` description: nothing.
pub(crate) struct PathOnly;

impl FileOps for PathOnly {}
