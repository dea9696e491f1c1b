//! Copy-up: giving an object of a lower layer its changeable copy above.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{OpenFlags, XattrFlags};
use usermem::bytes::{KernelDst, KernelSrc};

use crate::Context;
use crate::overlay::inode::OvlInode;
use crate::vfs::{Attr, File, FileType, Inode, NewNode, NodeKind, SetAttr, SetTime, Whence};

/// Bytes moved at once.
const CHUNK: usize = 256 * 1024;

/// Whether contents are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CopyData {
    Yes,
    /// They are about to be truncated.
    No,
}

impl OvlInode {
    /// The inode above, made if there is none, with every directory on the way. `EROFS` without an upper layer.
    pub(super) fn copy_up(self: &Arc<Self>, ctx: &Context<'_>, data: CopyData) -> Result<Inode, Errno> {
        if let Some(upper) = self.upper.get() {
            return Ok(Arc::clone(upper));
        }
        // Directories first, from the top: a guest may nest them deeper than our stack.
        let mut chain = vec![Arc::clone(self)];
        let mut cur = Arc::clone(self);
        while let Some((parent, _)) = cur.place.as_ref().filter(|_| !cur.is_unlinked()) {
            let parent = Arc::clone(parent);
            if parent.upper.get().is_some() {
                break;
            }
            chain.push(Arc::clone(&parent));
            cur = parent;
        }
        for inode in chain.iter().rev() {
            inode.copy_one(ctx, data)?;
        }
        self.upper.get().cloned().ok_or(Errno::EIO)
    }

    /// Copies this object, whose directory is above already.
    fn copy_one(&self, ctx: &Context<'_>, data: CopyData) -> Result<(), Errno> {
        let _copying = self.copying.lock();
        if self.upper.get().is_some() {
            return Ok(());
        }
        let root = self.fs.upper.as_ref().ok_or(Errno::EROFS)?;
        let lower = self.lowers.first().ok_or(Errno::EIO)?;
        let attr = lower.attr()?;
        let (parent, name): (&Inode, Option<&[u8]>) = match &self.place {
            Some((parent, name)) if !self.is_unlinked() => (parent.upper.get().ok_or(Errno::EIO)?, Some(name)),
            // What has no name here, or is a root by itself, gets none above either.
            _ => (root, None),
        };
        let dir = parent.dir().ok_or(Errno::ENOTDIR)?;
        let kind = match attr.file_type {
            FileType::Regular => NodeKind::Regular,
            FileType::Directory => NodeKind::Directory,
            FileType::Symlink => NodeKind::Symlink(lower.readlink(ctx)?),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::CharDevice => NodeKind::CharDevice(attr.rdev),
            FileType::BlockDevice => NodeKind::BlockDevice(attr.rdev),
            FileType::Anonymous => return Err(Errno::EPERM),
        };
        let regular = kind == NodeKind::Regular;
        let node = NewNode { kind, mode: attr.mode, uid: attr.uid, gid: attr.gid };
        let upper = match name {
            // Without a name until it is whole, so that nobody finds half of it.
            _ if regular => dir.create_unnamed(ctx, &node)?,
            Some(name) => dir.create(ctx, name, &node)?,
            None => return Err(Errno::ENOENT),
        };
        upper.slots().layer_number(self.number);
        copy_xattrs(ctx, lower, &upper)?;
        if regular && data == CopyData::Yes {
            copy_data(ctx, lower, &upper, &attr)?;
        }
        let times = SetAttr {
            atime: Some(SetTime::At(attr.atime)),
            mtime: Some(SetTime::At(attr.mtime)),
            ..SetAttr::default()
        };
        upper.set_attr(ctx, &times)?;
        if regular {
            if let Some(name) = name {
                dir.link(ctx, name, &upper)?;
            }
            self.fs.hard_link_changed(self.number, attr.nlink, |linked| {
                linked.copy = Some(Arc::clone(&upper));
                // The name that was copied shows from above now.
                linked.hidden += u32::from(name.is_some());
            });
        }
        self.upper.get_or_init(|| upper);
        Ok(())
    }
}

fn copy_xattrs(ctx: &Context<'_>, lower: &Inode, upper: &Inode) -> Result<(), Errno> {
    let (Some(from), Some(to)) = (lower.xattr(), upper.xattr()) else { return Ok(()) };
    for name in from.list()? {
        to.set(ctx, &name, &from.get(&name)?, XattrFlags::empty())?;
    }
    Ok(())
}

/// Copies contents, holes left out.
fn copy_data(ctx: &Context<'_>, lower: &Inode, upper: &Inode, attr: &Attr) -> Result<(), Errno> {
    if attr.size == 0 {
        return Ok(());
    }
    let from_ops = Arc::clone(lower).open(ctx, OpenFlags::empty())?;
    let to_ops = Arc::clone(upper).open(ctx, OpenFlags::O_RDWR)?;
    let from = File::pseudo(Arc::clone(&from_ops), OpenFlags::empty(), b"", Arc::clone(lower));
    let to = File::pseudo(Arc::clone(&to_ops), OpenFlags::O_RDWR, b"", Arc::clone(upper));
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    while at < attr.size {
        at = match from_ops.seek_data_hole(at, Whence::Data) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::ENXIO) => break,
            // A file system below without the notion: all of it is data.
            Err(_) => at,
        };
        let n = from_ops.read(ctx, &from, &mut KernelDst::new(&mut chunk), at)?;
        if n == 0 {
            break;
        }
        let bytes = chunk.get(..n).ok_or(Errno::EIO)?;
        let mut src = KernelSrc::new(bytes);
        let mut done = 0;
        while done < n {
            let step = to_ops.write(ctx, &to, &mut src, at + done as u64)?;
            if step == 0 {
                return Err(Errno::ENOSPC);
            }
            done += step;
        }
        at += n as u64;
    }
    to_ops.truncate(ctx, &to, attr.size)
}
