//! Directories of a host tree.

use std::os::fd::AsFd;
use std::sync::Arc;

use abi::Errno;
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::Context;
use crate::host::calls::{self, errno};
use crate::host::inode::HostInode;
use crate::host::{Ids, calls::Found};
use crate::vfs::{Caching, DirEntry, DirOps, FileType, Inode, InodeOps, NewNode, NodeKind, Rename, SetAttr};

impl HostInode {
    fn found_child(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Self>, Errno> {
        let found: Found = calls::stat_at(self.dir_fd()?.as_fd(), name)?;
        Ok(self.fs.inode(Some(self), name, found))
    }

    fn writable_dir(&self) -> Result<Arc<Self>, Errno> {
        if self.fs.is_writable() { self.this() } else { Err(Errno::EROFS) }
    }
}

impl DirOps for HostInode {
    fn lookup(&self, _ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        Ok(self.this()?.found_child(name)?)
    }

    fn list(&self, ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        let mut all = Vec::new();
        self.for_each(ctx, &mut |name, ino, file_type| all.push(DirEntry { name: name.to_vec(), ino, file_type }))?;
        Ok(all)
    }

    fn for_each(&self, _ctx: &Context<'_>, each: &mut dyn FnMut(&[u8], u64, FileType)) -> Result<(), Errno> {
        calls::list(self.this()?.list_fd()?.as_fd(), each)
    }

    fn caching(&self) -> Caching {
        self.fs.belief().caching()
    }

    fn create(&self, _ctx: &Context<'_>, name: &[u8], node: &NewNode) -> Result<Inode, Errno> {
        let this = self.writable_dir()?;
        let dir = this.dir_fd()?;
        let mode = Mode::from_bits_retain(node.mode & 0o7777);
        match &node.kind {
            NodeKind::Regular => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::NONBLOCK;
                drop(calls::open_at(dir.as_fd(), name, flags, node.mode)?);
            }
            NodeKind::Directory => rustix::fs::mkdirat(dir.as_fd(), name, mode).map_err(errno)?,
            NodeKind::Symlink(target) => {
                rustix::fs::symlinkat(target.as_slice(), dir.as_fd(), name).map_err(errno)?;
            }
            // Special files of the guest have no business on the host.
            NodeKind::Fifo | NodeKind::Socket | NodeKind::CharDevice(_) | NodeKind::BlockDevice(_) => {
                return Err(Errno::EPERM);
            }
        }
        let child = this.found_child(name)?;
        let attr = child.attr()?;
        let mut change = SetAttr::default();
        if this.fs.options.ids == Ids::All && (attr.uid != node.uid || attr.gid != node.gid) {
            (change.uid, change.gid) = (Some(node.uid), Some(node.gid));
        }
        // The host took off its own umask, and a change of owner takes off set-id bits.
        if !matches!(node.kind, NodeKind::Symlink(_)) && (attr.mode != node.mode || change.uid.is_some()) {
            change.mode = Some(node.mode);
        }
        if change != SetAttr::default() {
            child.change(&change)?;
        }
        Ok(child)
    }

    fn link(&self, _ctx: &Context<'_>, name: &[u8], inode: &Inode) -> Result<(), Errno> {
        let this = self.writable_dir()?;
        let target = Self::of(inode)?;
        let (from, from_name) = target.place().ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&target.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        let (from, to) = (from.dir_fd()?, this.dir_fd()?);
        rustix::fs::linkat(from.as_fd(), &*from_name, to.as_fd(), name, AtFlags::empty()).map_err(errno)
    }

    fn unlink(&self, _ctx: &Context<'_>, name: &[u8], _inode: &Inode) -> Result<(), Errno> {
        let dir = self.writable_dir()?.dir_fd()?;
        rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::empty()).map_err(errno)
    }

    fn rmdir(&self, _ctx: &Context<'_>, name: &[u8], inode: &Inode) -> Result<(), Errno> {
        let dir = self.writable_dir()?.dir_fd()?;
        rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::REMOVEDIR).map_err(errno)?;
        Self::of(inode)?.close_cached();
        Ok(())
    }

    fn rename(&self, _ctx: &Context<'_>, rename: &Rename<'_>) -> Result<(), Errno> {
        let this = self.writable_dir()?;
        let (moved, to) = (Self::of(rename.inode)?, Self::of(rename.new_dir)?);
        if !Arc::ptr_eq(&to.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        if rename.flags.contains(abi::fs::RenameFlags::RENAME_WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let exchange = rename.flags.contains(abi::fs::RenameFlags::RENAME_EXCHANGE);
        let flags = if exchange { rustix::fs::RenameFlags::EXCHANGE } else { rustix::fs::RenameFlags::empty() };
        let (from_fd, to_fd) = (this.dir_fd()?, to.dir_fd()?);
        rustix::fs::renameat_with(from_fd.as_fd(), rename.name, to_fd.as_fd(), rename.new_name, flags)
            .map_err(errno)?;
        // Both sides are found again at their new places.
        if let Ok(found) = calls::stat_at(to_fd.as_fd(), rename.new_name) {
            moved.seen_at(Some(&to), rename.new_name, found);
        }
        if exchange
            && let Some(other) = rename.replaced
            && let Ok(found) = calls::stat_at(from_fd.as_fd(), rename.name)
        {
            Self::of(other)?.seen_at(Some(&this), rename.name, found);
        }
        Ok(())
    }
}
