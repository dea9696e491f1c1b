//! Inodes of an overlay.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::fs::{OpenFlags, XattrFlags};
use sync::Mutex;

use crate::overlay::copy::CopyData;
use crate::overlay::file::OvlFile;
use crate::overlay::{OWN_XATTRS, OverlayFs};
use crate::vfs::{Attr, Caching, DirOps, FileOps, FileType, Inode, InodeOps, InodeSlots, PermAttr, SetAttr, XattrOps};
use crate::{Context, lockclass};

/// An object of an overlay.
pub(super) struct OvlInode {
    pub(super) fs: Arc<OverlayFs>,
    this: Weak<Self>,
    pub(super) number: u64,
    file_type: FileType,
    /// The layers below that have it: all that merge, of a directory; at most one, of anything else.
    pub(super) lowers: Vec<Inode>,
    /// How long lookups in it hold: as long as those in all of `lowers`.
    caching: Caching,
    pub(super) upper: OnceLock<Inode>,
    /// Where it was found first: a copy goes there. `None` at the root.
    pub(super) place: Option<(Arc<OvlInode>, Arc<[u8]>)>,
    /// Its name (`place`) is gone. Relaxed: set under the tree's or directory's lock, and a copy-up that races with it may
    /// come before.
    unlinked: AtomicBool,
    /// Held while it is copied up.
    pub(super) copying: Mutex<()>,
    slots: InodeSlots,
}

impl OvlInode {
    pub(super) fn new(
        fs: &Arc<OverlayFs>,
        number: u64,
        place: Option<(&Arc<OvlInode>, &[u8])>,
        upper: Option<Inode>,
        lowers: Vec<Inode>,
    ) -> Result<Arc<Self>, Errno> {
        let file_type = upper.as_ref().or(lowers.first()).ok_or(Errno::ENOENT)?.file_type();
        let caching = lowers.iter().filter_map(|lower| lower.dir()).map(DirOps::caching);
        let caching = caching.fold(Caching::Stable, Caching::and);
        let slot = OnceLock::new();
        if let Some(upper) = upper {
            slot.get_or_init(|| upper);
        }
        Ok(Arc::new_cyclic(|this| Self {
            fs: Arc::clone(fs),
            this: this.clone(),
            number,
            file_type,
            lowers,
            caching,
            upper: slot,
            place: place.map(|(parent, name)| (Arc::clone(parent), Arc::from(name))),
            unlinked: AtomicBool::new(false),
            copying: Mutex::new(lockclass::COPY_UP, ()),
            slots: InodeSlots::new(),
        }))
    }

    /// Whether this inode is the one that has `upper` (if there is one) above and `lower` (if there is one) below.
    pub(super) fn serves(&self, upper: Option<&Inode>, lower: Option<&Inode>) -> bool {
        let above = match (upper, self.upper.get()) {
            (Some(theirs), Some(ours)) => theirs.identity() == ours.identity(),
            // A copy that has just been linked, and is not entered here yet.
            (Some(_), None) => !self.lowers.is_empty(),
            (None, _) => true,
        };
        // The number may have been another's, whose file the host has removed.
        let below = match (lower, self.lowers.first()) {
            (Some(theirs), Some(ours)) if theirs.is_only_one() => {
                std::ptr::addr_eq(Arc::as_ptr(theirs), Arc::as_ptr(ours))
            }
            _ => true,
        };
        above && below
    }

    pub(super) fn this(&self) -> Result<Arc<Self>, Errno> {
        self.this.upgrade().ok_or(Errno::ESTALE)
    }

    /// An inode of an overlay, from any; `EXDEV`.
    pub(super) fn of(inode: &Inode) -> Result<Arc<Self>, Errno> {
        let any: Arc<dyn std::any::Any + Send + Sync> = Arc::clone(inode) as _;
        any.downcast().map_err(|_| Errno::EXDEV)
    }

    /// The inode that has its contents and attributes now.
    pub(super) fn real(&self) -> Result<&Inode, Errno> {
        self.upper.get().or(self.lowers.first()).ok_or(Errno::EIO)
    }

    /// Whether its name is gone.
    pub(super) fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Relaxed)
    }

    /// Its name `name` in `parent` is gone: a copy must not bring it back.
    pub(super) fn unlinked_from(&self, parent: &OvlInode, name: &[u8]) {
        if self.place.as_ref().is_some_and(|(dir, known)| std::ptr::eq(Arc::as_ptr(dir), parent) && **known == *name) {
            self.unlinked.store(true, Ordering::Relaxed);
        }
    }

    /// A name of this file that only the layers below have goes out of sight.
    pub(super) fn name_below_hidden(&self) -> Result<(), Errno> {
        if let Some(lower) = self.lowers.first()
            && self.file_type != FileType::Directory
        {
            self.fs.hard_link_changed(self.number, lower.attr()?.nlink, |linked| linked.hidden += 1);
        }
        Ok(())
    }
}

impl Drop for OvlInode {
    fn drop(&mut self) {
        self.fs.forget(self.number);
        let mut parent = self.place.take().map(|(parent, _)| parent);
        while let Some(inode) = parent {
            parent = match Arc::try_unwrap(inode) {
                Ok(mut only) => only.place.take().map(|(parent, _)| parent),
                Err(_) => None,
            };
        }
    }
}

impl InodeOps for OvlInode {
    fn attr(&self) -> Result<Attr, Errno> {
        let mut attr = self.real()?.attr()?;
        if self.file_type == FileType::Directory {
            // Of a merged directory nobody counts the directories in it: 1 tells `find` so, as Linux's overlayfs does.
            if self.upper.get().is_some() && !self.lowers.is_empty() {
                attr.nlink = 1;
            }
        } else {
            let above = if self.upper.get().is_some() { attr.nlink } else { 0 };
            match self.fs.names_below(self.number) {
                Some(below) => attr.nlink = above + below,
                None if self.is_unlinked() && above == 0 => attr.nlink = attr.nlink.saturating_sub(1),
                None => {}
            }
        }
        Ok(Attr { dev: self.fs.device, ino: self.number, ..attr })
    }

    fn perm_attr(&self) -> Result<PermAttr, Errno> {
        self.real()?.perm_attr()
    }

    fn file_type(&self) -> FileType {
        self.file_type
    }

    fn identity(&self) -> (u64, u64) {
        (self.fs.device, self.number)
    }

    fn is_only_one(&self) -> bool {
        true
    }

    fn slots(&self) -> &InodeSlots {
        &self.slots
    }

    fn set_attr(&self, ctx: &Context<'_>, change: &SetAttr) -> Result<(), Errno> {
        let data = if change.size == Some(0) { CopyData::No } else { CopyData::Yes };
        self.this()?.copy_up(ctx, data)?.set_attr(ctx, change)
    }

    fn open(self: Arc<Self>, ctx: &Context<'_>, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        if self.file_type != FileType::Regular {
            return Arc::clone(self.real()?).open(ctx, flags);
        }
        if flags.bits() & abi::fs::O_ACCMODE != abi::fs::O_RDONLY {
            self.copy_up(ctx, CopyData::Yes)?;
        }
        Ok(Arc::new(OvlFile::open(self, ctx)?))
    }

    fn opens_itself(&self) -> bool {
        // What is special below answers for itself; what was made above is opened by the core.
        self.real().is_ok_and(|real| real.opens_itself())
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        (self.file_type == FileType::Directory).then_some(self as &dyn DirOps)
    }

    fn xattr(&self) -> Option<&dyn XattrOps> {
        Some(self)
    }

    fn readlink(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        self.real()?.readlink(ctx)
    }
}

impl OvlInode {
    /// How long what was looked up here holds.
    pub(super) fn lookups_hold(&self) -> Caching {
        self.caching
    }
}

impl XattrOps for OvlInode {
    fn get(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if name.starts_with(OWN_XATTRS) {
            return Err(Errno::ENODATA);
        }
        self.real()?.xattr().ok_or(Errno::ENODATA)?.get(name)
    }

    fn set(&self, ctx: &Context<'_>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        if name.starts_with(OWN_XATTRS) {
            return Err(Errno::EPERM);
        }
        let upper = self.this()?.copy_up(ctx, CopyData::Yes)?;
        upper.xattr().ok_or(Errno::EOPNOTSUPP)?.set(ctx, name, value, flags)
    }

    fn list(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let Some(xattrs) = self.real()?.xattr() else { return Ok(Vec::new()) };
        Ok(xattrs.list()?.into_iter().filter(|name| !name.starts_with(OWN_XATTRS)).collect())
    }

    fn remove(&self, ctx: &Context<'_>, name: &[u8]) -> Result<(), Errno> {
        self.get(name)?;
        let upper = self.this()?.copy_up(ctx, CopyData::Yes)?;
        upper.xattr().ok_or(Errno::EOPNOTSUPP)?.remove(ctx, name)
    }
}
