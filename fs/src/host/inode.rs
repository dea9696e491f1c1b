//! Inodes of a host tree: how each is found again, and its metadata.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::fs::OpenFlags;
use rustix::fs::{AtFlags, Mode, OFlags};
use smallvec::SmallVec;
use sync::Mutex;

use crate::host::calls::{self, Found, errno};
use crate::host::file::HostFile;
use crate::host::{Belief, HostFs, Ids, next_mappable_id};
use crate::mapping::Observers;
use crate::vfs::{Attr, DirOps, FileOps, FileType, Inode, InodeOps, InodeSlots, Moment, PermAttr, SetAttr, SetTime};
use crate::{Context, lockclass};

/// Longest path handed to one `openat2`, in bytes: deeper places are opened in steps.
const MAX_STEP: usize = 3072;

/// Names on the way up from a directory; most are few.
type Names = SmallVec<[Arc<[u8]>; 8]>;

/// An object of a host tree.
pub(super) struct HostInode {
    this: Weak<Self>,
    pub(super) fs: Arc<HostFs>,
    key: (u64, u64),
    file_type: FileType,
    state: Mutex<State>,
    /// Target of a link that cannot change.
    link: OnceLock<Vec<u8>>,
    pub(super) mappable_id: u64,
    pub(super) observers: Observers,
    /// Held by each append of ours, so that none lands on another.
    pub(super) in_turn: Mutex<()>,
    slots: InodeSlots,
}

struct State {
    /// Where it was seen last; `None` at the root.
    place: Option<(Arc<HostInode>, Arc<[u8]>)>,
    found: Found,
    /// When the host said so.
    at: Moment,
    /// A kept descriptor: one that names a directory, or of a file, readable.
    fd: Option<Arc<OwnedFd>>,
    /// The descriptor of the latest opening, while it lasts: it goes on naming the object when its name is gone.
    open: Weak<OwnedFd>,
}

impl State {
    fn note(&mut self, found: Found) {
        self.found = found;
        self.at = Moment::now();
    }
}

impl HostInode {
    pub(super) fn new(fs: Arc<HostFs>, parent: Option<&Arc<Self>>, name: &[u8], found: Found) -> Arc<Self> {
        let place = parent.map(|parent| (Arc::clone(parent), Arc::from(name)));
        let state = State { place, found, at: Moment::now(), fd: None, open: Weak::new() };
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            fs,
            key: (found.dev, found.ino),
            file_type: found.file_type,
            state: Mutex::new(lockclass::INODE, state),
            link: OnceLock::new(),
            mappable_id: next_mappable_id(),
            observers: Observers::new(),
            in_turn: Mutex::new(lockclass::INODE_WRITE, ()),
            slots: InodeSlots::new(),
        })
    }

    /// Whether what was found is this object, and not another that was given its number.
    pub(super) fn is_of(&self, found: &Found) -> bool {
        self.file_type == found.file_type && self.state.lock().found.btime == found.btime
    }

    /// The host named this inode again.
    pub(super) fn seen_at(&self, parent: Option<&Arc<Self>>, name: &[u8], found: Found) {
        let mut state = self.state.lock();
        state.note(found);
        let old = match (&mut state.place, parent) {
            (Some((at, known)), Some(parent)) if !Arc::ptr_eq(at, parent) || **known != *name => {
                *known = Arc::from(name);
                Some(std::mem::replace(at, Arc::clone(parent)))
            }
            _ => None,
        };
        drop(state);
        // The old parent may go with this: outside the lock.
        drop(old);
    }

    /// Where it was seen last.
    pub(super) fn place(&self) -> Option<(Arc<Self>, Arc<[u8]>)> {
        self.state.lock().place.clone()
    }

    /// Gives up a kept descriptor.
    pub(super) fn close_cached(&self) {
        let old = self.state.lock().fd.take();
        drop(old);
    }

    /// What the host said last, or says now where that is not to be believed any more.
    pub(super) fn found(&self) -> Result<Found, Errno> {
        let belief = self.fs.belief();
        if belief != Belief::None {
            let state = self.state.lock();
            if belief == Belief::Lasting || state.at.is_recent() {
                return Ok(state.found);
            }
        }
        match self.refresh() {
            // The name is gone, the object may still be open: what was known last.
            Err(Errno::ENOENT | Errno::ESTALE) => {
                let mut found = self.state.lock().found;
                found.nlink = found.nlink.saturating_sub(1);
                Ok(found)
            }
            other => other,
        }
    }

    /// Asks the host for metadata now.
    fn refresh(&self) -> Result<Found, Errno> {
        let kept = {
            let state = self.state.lock();
            state.fd.clone().or_else(|| state.open.upgrade())
        };
        let found = match (kept, self.place()) {
            (Some(fd), _) => calls::stat_fd(fd.as_fd())?,
            (None, Some((parent, name))) => calls::stat_at(parent.dir_fd()?.as_fd(), &name)?,
            (None, None) => calls::stat_fd(self.fs.root_fd.as_fd())?,
        };
        if (found.dev, found.ino) != self.key {
            return Err(Errno::ESTALE);
        }
        self.state.lock().note(found);
        Ok(found)
    }

    /// Notes metadata that the host gave with an open descriptor.
    pub(super) fn noted(&self, found: Found) {
        self.state.lock().note(found);
    }

    /// A descriptor that names this directory; kept, since names in it are asked for.
    pub(super) fn dir_fd(self: &Arc<Self>) -> Result<Arc<OwnedFd>, Errno> {
        let (base, names) = self.nearest();
        if names.is_empty() {
            return Ok(base);
        }
        let fd = Arc::new(self.open_below(&base, &names, OFlags::PATH)?);
        self.state.lock().fd = Some(Arc::clone(&fd));
        self.fs.fd_cached(self);
        Ok(fd)
    }

    /// A descriptor to list this directory by. The caller's own: what the host keeps of a listing is freed at its close,
    /// which is cheap right after it, and most directories are listed once.
    pub(super) fn list_fd(self: &Arc<Self>) -> Result<OwnedFd, Errno> {
        let (base, names) = self.nearest();
        if names.is_empty() {
            return calls::open_at(base.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY, 0);
        }
        self.open_below(&base, &names, OFlags::RDONLY)
    }

    /// The nearest directory from here upwards whose descriptor is at hand, and the names from here up to it.
    fn nearest(self: &Arc<Self>) -> (Arc<OwnedFd>, Names) {
        let mut names = Names::new();
        let mut cur = Arc::clone(self);
        loop {
            let (fd, place) = {
                let state = cur.state.lock();
                (state.fd.clone(), state.place.clone())
            };
            if let Some(fd) = fd {
                return (fd, names);
            }
            let Some((parent, name)) = place else { return (Arc::clone(&self.fs.root_fd), names) };
            names.push(name);
            cur = parent;
        }
    }

    /// Opens this directory, to which `names` lead from `base`, the last first.
    fn open_below(&self, base: &Arc<OwnedFd>, names: &[Arc<[u8]>], access: OFlags) -> Result<OwnedFd, Errno> {
        let mut path: Vec<u8> = Vec::new();
        let mut step: Option<OwnedFd> = None;
        let mut rest = names.iter().rev().peekable();
        while let Some(name) = rest.next() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let last = rest.peek().is_none();
            if path.len() > MAX_STEP || last {
                let from = step.as_ref().map_or(base.as_fd(), OwnedFd::as_fd);
                let access = if last { access } else { OFlags::PATH };
                step = Some(calls::open_at(from, &path, access | OFlags::DIRECTORY, 0)?);
                path.clear();
            }
        }
        let fd = step.ok_or(Errno::ENOENT)?;
        let sure = match self.fs.belief() {
            Belief::Lasting => true,
            Belief::Brief => self.state.lock().at.is_recent(),
            Belief::None => false,
        };
        if !sure {
            let found = calls::stat_fd(fd.as_fd())?;
            if (found.dev, found.ino) != self.key {
                return Err(Errno::ESTALE);
            }
        }
        Ok(fd)
    }

    /// A descriptor of this regular file for reading (and writing).
    pub(super) fn open_fd(self: &Arc<Self>, writes: Writes) -> Result<Arc<OwnedFd>, Errno> {
        if self.file_type != FileType::Regular {
            return Err(Errno::ENXIO);
        }
        let Some((parent, name)) = self.place() else { return Ok(Arc::clone(&self.fs.root_fd)) };
        let keeps = writes == Writes::No && self.fs.belief() != Belief::None;
        if keeps && let Some(fd) = self.state.lock().fd.clone() {
            return Ok(fd);
        }
        let access = if writes == Writes::Yes { OFlags::RDWR } else { OFlags::RDONLY };
        let dir = parent.dir_fd()?;
        // Non-blocking: should the name have become a FIFO meanwhile, the open must not wait.
        let fd = match calls::open_at(dir.as_fd(), &name, access | OFlags::NONBLOCK | OFlags::NOCTTY, 0) {
            Err(Errno::EACCES) if writes == Writes::Yes => {
                calls::open_at(dir.as_fd(), &name, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY, 0)?
            }
            other => other?,
        };
        let found = calls::stat_fd(fd.as_fd())?;
        if found.file_type != FileType::Regular {
            return Err(Errno::ENXIO);
        }
        if self.fs.belief() != Belief::Lasting && (found.dev, found.ino) != self.key {
            return Err(Errno::ESTALE);
        }
        self.noted(found);
        let fd = Arc::new(fd);
        self.state.lock().open = Arc::downgrade(&fd);
        if keeps {
            self.state.lock().fd = Some(Arc::clone(&fd));
            self.fs.fd_cached(self);
        }
        Ok(fd)
    }

    fn check_writable(&self) -> Result<(), Errno> {
        if self.fs.is_writable() { Ok(()) } else { Err(Errno::EROFS) }
    }

    fn set_mode(self: &Arc<Self>, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_bits_retain(mode & 0o7777);
        match (self.file_type, self.place()) {
            (FileType::Regular | FileType::Directory, Some((parent, name))) => {
                let kind = if self.file_type == FileType::Directory { OFlags::DIRECTORY } else { OFlags::NONBLOCK };
                let dir = parent.dir_fd()?;
                match calls::open_at(dir.as_fd(), &name, OFlags::RDONLY | kind, 0) {
                    Ok(fd) => rustix::fs::fchmod(fd, mode).map_err(errno),
                    // Not readable for us: by name. The tree's end keeps a link put there meanwhile from leading out.
                    Err(Errno::EACCES) => {
                        rustix::fs::chmodat(dir.as_fd(), &*name, mode, AtFlags::empty()).map_err(errno)
                    }
                    Err(other) => Err(other),
                }
            }
            (FileType::Directory, None) => {
                let fd = calls::open_at(self.fs.root_fd.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
                rustix::fs::fchmod(fd, mode).map_err(errno)
            }
            (FileType::Regular, None) => rustix::fs::fchmod(&*self.fs.root_fd, mode).map_err(errno),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn set_owner(self: &Arc<Self>, change: &SetAttr) -> Result<(), Errno> {
        if self.fs.options.ids != Ids::All {
            // One user has no one to give things to: only what changes nothing is done.
            let attr = self.perm_attr()?;
            let same = change.uid.is_none_or(|uid| uid == attr.uid) && change.gid.is_none_or(|gid| gid == attr.gid);
            return if same { Ok(()) } else { Err(Errno::EPERM) };
        }
        let uid = change.uid.map(|uid| rustix::fs::Uid::from_raw(uid.0));
        let gid = change.gid.map(|gid| rustix::fs::Gid::from_raw(gid.0));
        match self.place() {
            Some((parent, name)) => {
                let dir = parent.dir_fd()?;
                rustix::fs::chownat(dir.as_fd(), &*name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)
            }
            None => rustix::fs::chownat(self.fs.root_fd.as_fd(), c"", uid, gid, AtFlags::EMPTY_PATH).map_err(errno),
        }
    }

    fn set_times(self: &Arc<Self>, change: &SetAttr) -> Result<(), Errno> {
        let stamp = |time: Option<SetTime>| match time {
            None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            Some(SetTime::Now) => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
            Some(SetTime::At(at)) => rustix::fs::Timespec { tv_sec: at.secs, tv_nsec: i64::from(at.nanos) },
        };
        let times = rustix::fs::Timestamps { last_access: stamp(change.atime), last_modification: stamp(change.mtime) };
        match self.place() {
            Some((parent, name)) => {
                let dir = parent.dir_fd()?;
                rustix::fs::utimensat(dir.as_fd(), &*name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)
            }
            None if self.file_type == FileType::Directory => {
                rustix::fs::utimensat(self.fs.root_fd.as_fd(), c".", &times, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)
            }
            None => rustix::fs::futimens(&*self.fs.root_fd, &times).map_err(errno),
        }
    }

    /// Changes metadata; `size` is done on the file's own descriptor where there is one.
    pub(super) fn change(self: &Arc<Self>, change: &SetAttr) -> Result<(), Errno> {
        self.check_writable()?;
        if let Some(size) = change.size {
            let fd = self.open_fd(Writes::Yes)?;
            self.set_size(&fd, size)?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            self.set_owner(change)?;
        }
        if let Some(mode) = change.mode {
            self.set_mode(mode)?;
        }
        // A new size has set the time of modification already.
        let only_now = change.size.is_some() && change.mtime == Some(SetTime::Now) && change.atime.is_none();
        if (change.atime.is_some() || change.mtime.is_some()) && !only_now {
            self.set_times(change)?;
        }
        self.refresh().map(|_| ())
    }

    /// Truncates, and tells those who map the file.
    pub(super) fn set_size(&self, fd: &OwnedFd, size: u64) -> Result<(), Errno> {
        let old = calls::stat_fd(fd.as_fd())?.size;
        rustix::fs::ftruncate(fd, size).map_err(errno)?;
        let found = calls::stat_fd(fd.as_fd())?;
        self.noted(found);
        if size < old {
            self.observers.truncated(self.mappable_id, size, u64::MAX);
        }
        Ok(())
    }
}

impl Drop for HostInode {
    fn drop(&mut self) {
        self.fs.forget(self.key);
        // A deep chain of parents unwinds in a loop, not by recursion.
        let mut parent = self.state.get_mut().place.take().map(|(parent, _)| parent);
        while let Some(inode) = parent {
            parent = match Arc::try_unwrap(inode) {
                Ok(mut only) => only.state.get_mut().place.take().map(|(parent, _)| parent),
                Err(_) => None,
            };
        }
    }
}

/// Whether a descriptor is for writing too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writes {
    Yes,
    No,
}

impl InodeOps for HostInode {
    fn attr(&self) -> Result<Attr, Errno> {
        let found = self.found()?;
        Ok(Attr {
            dev: self.fs.device_of(found.dev),
            ino: found.ino,
            file_type: found.file_type,
            mode: found.mode,
            nlink: found.nlink,
            uid: self.fs.uid_of(found.uid),
            gid: self.fs.gid_of(found.gid),
            rdev: found.rdev,
            size: found.size,
            blksize: found.blksize,
            blocks: found.blocks,
            atime: found.atime,
            mtime: found.mtime,
            ctime: found.ctime,
            btime: found.btime,
        })
    }

    fn perm_attr(&self) -> Result<PermAttr, Errno> {
        // A walk has just looked it up: what that said is fresh enough.
        let found = self.state.lock().found;
        Ok(PermAttr {
            mode: found.mode,
            uid: self.fs.uid_of(found.uid),
            gid: self.fs.gid_of(found.gid),
            directory: found.file_type == FileType::Directory,
        })
    }

    fn file_type(&self) -> FileType {
        self.file_type
    }

    fn identity(&self) -> (u64, u64) {
        (self.fs.device_of(self.key.0), self.key.1)
    }

    fn is_only_one(&self) -> bool {
        true
    }

    fn slots(&self) -> &InodeSlots {
        &self.slots
    }

    fn set_attr(&self, _ctx: &Context<'_>, change: &SetAttr) -> Result<(), Errno> {
        self.this()?.change(change)
    }

    fn open(self: Arc<Self>, _ctx: &Context<'_>, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        let writes = if flags.bits() & abi::fs::O_ACCMODE == abi::fs::O_RDONLY { Writes::No } else { Writes::Yes };
        if writes == Writes::Yes {
            self.check_writable()?;
        }
        let fd = self.open_fd(writes)?;
        Ok(Arc::new(HostFile::new(self, fd)))
    }

    fn opens_itself(&self) -> bool {
        !matches!(self.file_type, FileType::Regular | FileType::Directory | FileType::Symlink)
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        (self.file_type == FileType::Directory).then_some(self as &dyn DirOps)
    }

    fn readlink(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        if let Some(target) = self.link.get() {
            return Ok(target.clone());
        }
        let (parent, name) = self.place().ok_or(Errno::EINVAL)?;
        let dir = parent.dir_fd()?;
        let target = rustix::fs::readlinkat(dir.as_fd(), &*name, Vec::new()).map_err(errno)?.into_bytes();
        if self.fs.belief() != Belief::None {
            return Ok(self.link.get_or_init(|| target).clone());
        }
        Ok(target)
    }
}

impl HostInode {
    /// The shared handle of this inode.
    pub(super) fn this(&self) -> Result<Arc<Self>, Errno> {
        self.this.upgrade().ok_or(Errno::ESTALE)
    }

    /// An inode of this tree, from any.
    pub(super) fn of(inode: &Inode) -> Result<Arc<Self>, Errno> {
        let any: Arc<dyn std::any::Any + Send + Sync> = Arc::clone(inode) as _;
        any.downcast().map_err(|_| Errno::EXDEV)
    }
}
