//! Inodes of tmpfs, and their open files.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::Errno;
use abi::fs::{FallocFlags, OpenFlags, Seals, XattrFlags};
use sync::{Mutex, RwLock};
use usermem::bytes::{IoDst, IoSrc};
use usermem::memmap::Mappable;

use crate::memory::MemoryObject;
use crate::tmpfs::TmpFs;
use crate::tmpfs::dir::Entries;
use crate::vfs::{
    Attr, DirOps, File, FileOps, FileType, Inode, InodeOps, InodeSlots, NewNode, NodeKind, PermAttr, Position,
    Sealable, SetAttr, SyncWhat, Timestamp, Whence, XattrOps, generic_attr_change, stripped_mode,
};
use crate::{Context, lockclass};

/// Bytes of extended attributes on one inode at most, names and values.
const MAX_XATTR_BYTES: usize = 1 << 20;

/// An inode in memory.
pub(crate) struct TmpInode {
    pub(super) fs: Arc<TmpFs>,
    ino: u64,
    pub(super) file_type: FileType,
    pub(super) body: Body,
    pub(super) attr: Mutex<Attr>,
    xattrs: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    slots: InodeSlots,
}

/// What an inode holds by kind.
pub(super) enum Body {
    File(Arc<MemoryObject>),
    Dir(RwLock<Entries>),
    Symlink(Box<[u8]>),
    Node,
}

impl TmpInode {
    pub(super) fn new(fs: &Arc<TmpFs>, ino: u64, node: &NewNode, now: Timestamp, seals: Seals) -> Arc<Self> {
        let file_type = node.kind.file_type();
        let mut attr = Attr::new(fs.device, ino, file_type, node.mode, now);
        (attr.uid, attr.gid) = (node.uid, node.gid);
        let body = match &node.kind {
            NodeKind::Regular => Body::File(fs.object(seals)),
            NodeKind::Directory => Body::Dir(RwLock::new(lockclass::DIRECTORY, Entries::default())),
            NodeKind::Symlink(target) => {
                attr.size = target.len() as u64;
                Body::Symlink(target.clone().into_boxed_slice())
            }
            NodeKind::CharDevice(rdev) | NodeKind::BlockDevice(rdev) => {
                attr.rdev = *rdev;
                Body::Node
            }
            NodeKind::Fifo | NodeKind::Socket => Body::Node,
        };
        Arc::new(Self {
            fs: Arc::clone(fs),
            ino,
            file_type,
            body,
            attr: Mutex::new(lockclass::INODE, attr),
            xattrs: Mutex::new(lockclass::INODE, BTreeMap::new()),
            slots: InodeSlots::new(),
        })
    }

    /// An inode of tmpfs, from any; `EXDEV`.
    pub(super) fn of(inode: &Inode) -> Result<Arc<Self>, Errno> {
        let any: Arc<dyn std::any::Any + Send + Sync> = Arc::clone(inode) as _;
        any.downcast().map_err(|_| Errno::EXDEV)
    }

    /// Changes the number of names and the time of change.
    pub(crate) fn add_links(&self, change: i32, now: Timestamp) {
        let mut attr = self.attr.lock();
        attr.nlink = attr.nlink.saturating_add_signed(change);
        attr.ctime = now;
    }

    /// Notes that a directory's contents, or a file's, changed.
    pub(super) fn touched(&self, now: Timestamp) {
        let mut attr = self.attr.lock();
        attr.mtime = now;
        attr.ctime = now;
    }

    pub(crate) fn object(&self) -> Option<&Arc<MemoryObject>> {
        match &self.body {
            Body::File(object) => Some(object),
            _ => None,
        }
    }

    fn written(&self, ctx: &Context<'_>) {
        let now = ctx.clock.now();
        let mut attr = self.attr.lock();
        attr.mtime = now;
        attr.ctime = now;
        if let Some(mode) = stripped_mode(ctx, attr.mode) {
            attr.mode = mode;
        }
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        self.fs.give_inode();
    }
}

impl InodeOps for TmpInode {
    fn attr(&self) -> Result<Attr, Errno> {
        let mut attr = *self.attr.lock();
        match &self.body {
            Body::File(object) => {
                attr.size = object.size();
                attr.blocks = object.bytes_used() / 512;
            }
            Body::Dir(entries) => attr.size = entries.read().len() as u64 * 20 + 40,
            Body::Symlink(_) | Body::Node => {}
        }
        Ok(attr)
    }

    fn perm_attr(&self) -> Result<PermAttr, Errno> {
        Ok(self.attr.lock().perm())
    }

    fn file_type(&self) -> FileType {
        self.file_type
    }

    fn identity(&self) -> (u64, u64) {
        (self.fs.device, self.ino)
    }

    fn slots(&self) -> &InodeSlots {
        &self.slots
    }

    fn set_attr(&self, ctx: &Context<'_>, change: &SetAttr) -> Result<(), Errno> {
        if let Some(size) = change.size {
            self.object().ok_or(Errno::EINVAL)?.truncate(size)?;
        }
        generic_attr_change(&mut self.attr.lock(), change, ctx.clock);
        Ok(())
    }

    fn open(self: Arc<Self>, _ctx: &Context<'_>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        let object = Arc::clone(self.object().ok_or(Errno::ENXIO)?);
        Ok(Arc::new(MemFile { inode: self, object }))
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        matches!(self.body, Body::Dir(_)).then_some(self as &dyn DirOps)
    }

    fn xattr(&self) -> Option<&dyn XattrOps> {
        Some(self)
    }

    fn readlink(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        match &self.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl XattrOps for TmpInode {
    fn get(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.xattrs.lock().get(name).cloned().ok_or(Errno::ENODATA)
    }

    fn set(&self, ctx: &Context<'_>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        let mut xattrs = self.xattrs.lock();
        let old = xattrs.get(name);
        if old.is_some() && flags.contains(XattrFlags::XATTR_CREATE) {
            return Err(Errno::EEXIST);
        }
        if old.is_none() && flags.contains(XattrFlags::XATTR_REPLACE) {
            return Err(Errno::ENODATA);
        }
        let used: usize =
            xattrs.iter().filter(|(key, _)| *key != name).map(|(key, value)| key.len() + value.len()).sum();
        if used + name.len() + value.len() > MAX_XATTR_BYTES {
            return Err(Errno::ENOSPC);
        }
        xattrs.insert(name.to_vec(), value.to_vec());
        drop(xattrs);
        self.attr.lock().ctime = ctx.clock.now();
        Ok(())
    }

    fn list(&self) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(self.xattrs.lock().keys().cloned().collect())
    }

    fn remove(&self, ctx: &Context<'_>, name: &[u8]) -> Result<(), Errno> {
        self.xattrs.lock().remove(name).ok_or(Errno::ENODATA)?;
        self.attr.lock().ctime = ctx.clock.now();
        Ok(())
    }
}

/// An open regular file of tmpfs, or a memfd.
pub(crate) struct MemFile {
    pub(crate) inode: Arc<TmpInode>,
    pub(crate) object: Arc<MemoryObject>,
}

impl FileOps for MemFile {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, offset: u64) -> Result<usize, Errno> {
        self.object.read(dst, offset)
    }

    fn write(&self, ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc, offset: u64) -> Result<usize, Errno> {
        let n = self.object.write(src, offset)?;
        self.inode.written(ctx);
        Ok(n)
    }

    fn append(&self, ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc) -> Result<(u64, usize), Errno> {
        let done = self.object.append(src)?;
        self.inode.written(ctx);
        Ok(done)
    }

    fn position(&self) -> Position {
        Position::Offsets
    }

    fn size(&self) -> Result<u64, Errno> {
        Ok(self.object.size())
    }

    fn seek_data_hole(&self, offset: u64, whence: Whence) -> Result<u64, Errno> {
        self.object.seek(offset, whence)
    }

    fn sync(&self, _what: SyncWhat) -> Result<(), Errno> {
        Ok(())
    }

    fn truncate(&self, ctx: &Context<'_>, _file: &File, size: u64) -> Result<(), Errno> {
        self.object.truncate(size)?;
        self.inode.written(ctx);
        Ok(())
    }

    fn allocate(&self, ctx: &Context<'_>, mode: FallocFlags, offset: u64, len: u64) -> Result<(), Errno> {
        self.object.allocate(mode, offset, len)?;
        self.inode.written(ctx);
        Ok(())
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(Arc::clone(&self.object) as Arc<dyn Mappable>)
    }

    fn sealable(&self) -> Option<&dyn Sealable> {
        Some(self)
    }
}

impl Sealable for MemFile {
    fn seals(&self) -> Seals {
        self.object.seals()
    }

    fn add_seals(&self, seals: Seals) -> Result<(), Errno> {
        self.object.add_seals(seals)
    }
}
