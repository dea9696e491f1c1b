//! Directories of an overlay: what the layers have together.

use std::collections::HashSet;
use std::sync::Arc;

use abi::Errno;
use abi::fs::{RenameFlags, XattrFlags};

use crate::Context;
use crate::overlay::copy::CopyData;
use crate::overlay::inode::OvlInode;
use crate::overlay::{OPAQUE, OverlayFs, is_opaque, is_whiteout};
use crate::vfs::{Caching, DirEntry, DirOps, FileType, Inode, InodeOps, NewNode, NodeKind, Rename};

/// What the upper layer says of a name.
enum Above {
    Nothing,
    Whiteout(Inode),
    Something(Inode),
}

impl OvlInode {
    fn above(&self, ctx: &Context<'_>, name: &[u8]) -> Result<Above, Errno> {
        let Some(dir) = self.upper.get().and_then(|upper| upper.dir()) else { return Ok(Above::Nothing) };
        match dir.lookup(ctx, name) {
            Ok(inode) if is_whiteout(&inode) => Ok(Above::Whiteout(inode)),
            Ok(inode) => Ok(Above::Something(inode)),
            Err(Errno::ENOENT) => Ok(Above::Nothing),
            Err(other) => Err(other),
        }
    }

    /// What the layers below have under a name: the first, and if that is a directory, the others that merge with it.
    fn below(&self, ctx: &Context<'_>, name: &[u8]) -> Result<Vec<Inode>, Errno> {
        let mut found: Vec<Inode> = Vec::new();
        for lower in &self.lowers {
            let Some(dir) = lower.dir() else { continue };
            match dir.lookup(ctx, name) {
                Ok(inode) => {
                    if is_whiteout(&inode) {
                        break;
                    }
                    let directory = inode.file_type() == FileType::Directory;
                    if !directory && !found.is_empty() {
                        break;
                    }
                    let last = !directory || is_opaque(&inode);
                    found.push(inode);
                    if last {
                        break;
                    }
                }
                Err(Errno::ENOENT) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(found)
    }

    /// Hides what the layers below have under a name, if they have something.
    fn hide_below(&self, ctx: &Context<'_>, upper: &Inode, name: &[u8]) -> Result<(), Errno> {
        if self.below(ctx, name)?.is_empty() {
            return Ok(());
        }
        let node = NewNode { kind: NodeKind::CharDevice(0), mode: 0, uid: auth::Uid::ROOT, gid: auth::Gid::ROOT };
        upper.dir().ok_or(Errno::ENOTDIR)?.create(ctx, name, &node).map(|_| ())
    }

    /// Takes a whiteout away so that its name can be used; says whether there was one.
    fn clear_whiteout(&self, ctx: &Context<'_>, upper: &Inode, name: &[u8]) -> Result<bool, Errno> {
        let Above::Whiteout(mark) = self.above(ctx, name)? else { return Ok(false) };
        upper.dir().ok_or(Errno::ENOTDIR)?.unlink(ctx, name, &mark)?;
        Ok(true)
    }

    /// Empties the upper side of a directory that shows nothing: its whiteouts go.
    fn clear_whiteouts(&self, ctx: &Context<'_>) -> Result<(), Errno> {
        let Some(dir) = self.upper.get().and_then(|upper| upper.dir()) else { return Ok(()) };
        for entry in dir.list(ctx)? {
            let inode = dir.lookup(ctx, &entry.name)?;
            if is_whiteout(&inode) {
                dir.unlink(ctx, &entry.name, &inode)?;
            }
        }
        Ok(())
    }

    fn check_empty(&self, ctx: &Context<'_>) -> Result<(), Errno> {
        let mut empty = true;
        self.for_each(ctx, &mut |_, _, _| empty = false)?;
        if empty { Ok(()) } else { Err(Errno::ENOTEMPTY) }
    }

    fn set_opaque(ctx: &Context<'_>, upper: &Inode) -> Result<(), Errno> {
        upper.xattr().ok_or(Errno::EOPNOTSUPP)?.set(ctx, OPAQUE, b"y", XattrFlags::empty())
    }

    /// Makes sure that a name of a copied file is above: the copy went to the file's first name, which may be another.
    fn bring_name_up(
        &self,
        ctx: &Context<'_>,
        upper: &Inode,
        name: &[u8],
        file: &OvlInode,
        copy: &Inode,
    ) -> Result<(), Errno> {
        if matches!(self.above(ctx, name)?, Above::Something(_)) {
            return Ok(());
        }
        upper.dir().ok_or(Errno::ENOTDIR)?.link(ctx, name, copy)?;
        file.name_below_hidden()
    }

    /// A directory that may move: one without a part below.
    fn check_movable(&self) -> Result<(), Errno> {
        if self.file_type() == FileType::Directory && !self.lowers.is_empty() { Err(Errno::EXDEV) } else { Ok(()) }
    }
}

impl DirOps for OvlInode {
    fn lookup(&self, ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        let this = self.this()?;
        let (upper, lowers) = match self.above(ctx, name)? {
            Above::Whiteout(_) => return Err(Errno::ENOENT),
            Above::Something(upper) if upper.file_type() != FileType::Directory || is_opaque(&upper) => {
                (Some(upper), Vec::new())
            }
            Above::Something(upper) => {
                let mut lowers = self.below(ctx, name)?;
                lowers.retain(|lower| lower.file_type() == FileType::Directory);
                (Some(upper), lowers)
            }
            Above::Nothing => (None, self.below(ctx, name)?),
        };
        Ok(self.fs.inode(Some((&this, name)), upper, lowers)?)
    }

    fn list(&self, ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        let mut all = Vec::new();
        self.for_each(ctx, &mut |name, ino, file_type| all.push(DirEntry { name: name.to_vec(), ino, file_type }))?;
        Ok(all)
    }

    fn for_each(&self, ctx: &Context<'_>, each: &mut dyn FnMut(&[u8], u64, FileType)) -> Result<(), Errno> {
        let mut seen: HashSet<Vec<u8>> = HashSet::new();
        if let Some(dir) = self.upper.get().and_then(|upper| upper.dir()) {
            for entry in dir.list(ctx)? {
                let Ok(inode) = dir.lookup(ctx, &entry.name) else { continue };
                if !is_whiteout(&inode) {
                    each(&entry.name, OverlayFs::upper_number(&inode), entry.file_type);
                }
                if !self.lowers.is_empty() {
                    seen.insert(entry.name);
                }
            }
        }
        for (at, lower) in self.lowers.iter().enumerate() {
            let Some(dir) = lower.dir() else { continue };
            let numbers = self.fs.numbers_on(lower.identity().0);
            let spans = dir.spans_devices();
            let last = at + 1 == self.lowers.len();
            dir.for_each(ctx, &mut |name, ino, file_type| {
                if seen.contains(name) {
                    return;
                }
                if !last {
                    seen.insert(name.to_vec());
                }
                // Only these have to be looked at for themselves.
                let inode = if spans || file_type == FileType::CharDevice { dir.lookup(ctx, name).ok() } else { None };
                if inode.as_ref().is_some_and(is_whiteout) {
                    return;
                }
                let number = match inode {
                    Some(inode) if spans => self.fs.lower_number(inode.identity()),
                    _ => numbers.of(ino).unwrap_or_else(|| self.fs.lower_number((numbers.device, ino))),
                };
                each(name, number, file_type);
            })?;
        }
        Ok(())
    }

    fn caching(&self) -> Caching {
        self.lookups_hold()
    }

    fn create(&self, ctx: &Context<'_>, name: &[u8], node: &NewNode) -> Result<Inode, Errno> {
        if node.kind == NodeKind::CharDevice(0) {
            return Err(Errno::EPERM);
        }
        let this = self.this()?;
        let upper = this.copy_up(ctx, CopyData::Yes)?;
        let dir = upper.dir().ok_or(Errno::ENOTDIR)?;
        let hidden = self.clear_whiteout(ctx, &upper, name)?;
        let made = match dir.create(ctx, name, node) {
            Ok(made) => made,
            Err(error) => {
                if hidden {
                    self.hide_below(ctx, &upper, name)?;
                }
                return Err(error);
            }
        };
        if node.kind == NodeKind::Directory && hidden {
            Self::set_opaque(ctx, &made)?;
        }
        Ok(self.fs.inode(Some((&this, name)), Some(made), Vec::new())?)
    }

    fn create_unnamed(&self, ctx: &Context<'_>, node: &NewNode) -> Result<Inode, Errno> {
        let this = self.this()?;
        let upper = this.copy_up(ctx, CopyData::Yes)?;
        let made = upper.dir().ok_or(Errno::ENOTDIR)?.create_unnamed(ctx, node)?;
        Ok(self.fs.inode(None, Some(made), Vec::new())?)
    }

    fn link(&self, ctx: &Context<'_>, name: &[u8], inode: &Inode) -> Result<(), Errno> {
        let target = Self::of(inode)?;
        if !Arc::ptr_eq(&target.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        let target = target.copy_up(ctx, CopyData::Yes)?;
        let upper = self.this()?.copy_up(ctx, CopyData::Yes)?;
        self.clear_whiteout(ctx, &upper, name)?;
        upper.dir().ok_or(Errno::ENOTDIR)?.link(ctx, name, &target)
    }

    fn unlink(&self, ctx: &Context<'_>, name: &[u8], inode: &Inode) -> Result<(), Errno> {
        let upper = self.this()?.copy_up(ctx, CopyData::Yes)?;
        let victim = Self::of(inode)?;
        // A copy must not put its name back between the look and the removal.
        let _copying = victim.copying.lock();
        match self.above(ctx, name)? {
            Above::Something(above) => upper.dir().ok_or(Errno::ENOTDIR)?.unlink(ctx, name, &above)?,
            Above::Nothing | Above::Whiteout(_) => victim.name_below_hidden()?,
        }
        self.hide_below(ctx, &upper, name)?;
        victim.unlinked_from(self, name);
        Ok(())
    }

    fn rmdir(&self, ctx: &Context<'_>, name: &[u8], inode: &Inode) -> Result<(), Errno> {
        let victim = Self::of(inode)?;
        victim.check_empty(ctx)?;
        let upper = self.this()?.copy_up(ctx, CopyData::Yes)?;
        let _copying = victim.copying.lock();
        if let Above::Something(above) = self.above(ctx, name)? {
            victim.clear_whiteouts(ctx)?;
            upper.dir().ok_or(Errno::ENOTDIR)?.rmdir(ctx, name, &above)?;
        }
        self.hide_below(ctx, &upper, name)?;
        victim.unlinked_from(self, name);
        Ok(())
    }

    fn rename(&self, ctx: &Context<'_>, rename: &Rename<'_>) -> Result<(), Errno> {
        let (moved, new_dir) = (Self::of(rename.inode)?, Self::of(rename.new_dir)?);
        if !Arc::ptr_eq(&new_dir.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        if rename.flags.contains(RenameFlags::RENAME_WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let exchange = rename.flags.contains(RenameFlags::RENAME_EXCHANGE);
        let replaced = rename.replaced.map(Self::of).transpose()?;
        moved.check_movable()?;
        if let Some(replaced) = &replaced {
            if exchange {
                replaced.check_movable()?;
            } else if replaced.file_type() == FileType::Directory {
                replaced.check_empty(ctx)?;
            }
        }
        let from = self.this()?.copy_up(ctx, CopyData::Yes)?;
        let to = new_dir.copy_up(ctx, CopyData::Yes)?;
        let above = moved.copy_up(ctx, CopyData::Yes)?;
        self.bring_name_up(ctx, &from, rename.name, &moved, &above)?;
        if moved.file_type() == FileType::Directory {
            Self::set_opaque(ctx, &above)?;
        }
        if exchange && let Some(replaced) = &replaced {
            let other = replaced.copy_up(ctx, CopyData::Yes)?;
            new_dir.bring_name_up(ctx, &to, rename.new_name, replaced, &other)?;
            if replaced.file_type() == FileType::Directory {
                Self::set_opaque(ctx, &other)?;
            }
        }
        let _copying = replaced.as_ref().filter(|_| !exchange).map(|replaced| replaced.copying.lock());
        new_dir.clear_whiteout(ctx, &to, rename.new_name)?;
        let replaced_above = match (&replaced, new_dir.above(ctx, rename.new_name)?) {
            (Some(replaced), Above::Something(inode)) => {
                if !exchange && replaced.file_type() == FileType::Directory {
                    replaced.clear_whiteouts(ctx)?;
                }
                Some(inode)
            }
            (Some(replaced), _) => {
                replaced.name_below_hidden()?;
                None
            }
            (None, _) => None,
        };
        from.dir().ok_or(Errno::ENOTDIR)?.rename(
            ctx,
            &Rename {
                name: rename.name,
                inode: &above,
                new_dir: &to,
                new_name: rename.new_name,
                replaced: replaced_above.as_ref(),
                flags: rename.flags,
            },
        )?;
        if exchange {
            return Ok(());
        }
        if let Some(replaced) = &replaced {
            replaced.unlinked_from(&new_dir, rename.new_name);
        }
        self.hide_below(ctx, &from, rename.name)
    }
}
