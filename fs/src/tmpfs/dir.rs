//! Directories of tmpfs.

use std::sync::Arc;

use abi::Errno;
use abi::fs::RenameFlags;
use hashbrown::HashMap;
use sync::RwLock;

use crate::tmpfs::inode::{Body, TmpInode};
use crate::vfs::{DirEntry, DirOps, FileType, Inode, InodeOps, NewNode, NodeKind, Rename};
use crate::{Context, table};

/// The entries of a directory.
#[derive(Default)]
pub(super) struct Entries {
    by_name: HashMap<Box<[u8]>, (u64, Arc<TmpInode>)>,
    next: u64,
    /// The directory was removed: nothing may be added.
    dead: bool,
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    fn insert(&mut self, name: &[u8], inode: Arc<TmpInode>) -> Option<Arc<TmpInode>> {
        self.next += 1;
        self.by_name.insert(name.into(), (self.next, inode)).map(|(_, old)| old)
    }
}

impl TmpInode {
    fn entries(&self) -> Result<&RwLock<Entries>, Errno> {
        match &self.body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Marks an empty directory as removed; `ENOTEMPTY`.
    fn kill(&self) -> Result<(), Errno> {
        let mut entries = self.entries()?.write();
        if !entries.by_name.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        entries.dead = true;
        Ok(())
    }

    fn add(&self, ctx: &Context<'_>, name: &[u8], inode: &Arc<TmpInode>) -> Result<(), Errno> {
        let mut entries = self.entries()?.write();
        if entries.dead {
            return Err(Errno::ENOENT);
        }
        if entries.by_name.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        entries.insert(name, Arc::clone(inode));
        drop(entries);
        let now = ctx.clock.now();
        self.touched(now);
        if inode.is_dir() {
            self.add_links(1, now);
        }
        Ok(())
    }
}

impl DirOps for TmpInode {
    fn lookup(&self, _ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        match self.entries()?.read().by_name.get(name) {
            Some((_, inode)) => Ok(Arc::clone(inode) as Inode),
            None => Err(Errno::ENOENT),
        }
    }

    fn list(&self, _ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        let entries = self.entries()?.read();
        let mut all: Vec<_> = entries
            .by_name
            .iter()
            .map(|(name, (order, inode))| {
                (*order, DirEntry { name: name.to_vec(), ino: inode.identity().1, file_type: inode.file_type })
            })
            .collect();
        drop(entries);
        all.sort_unstable_by_key(|(order, _)| std::cmp::Reverse(*order));
        Ok(all.into_iter().map(|(_, entry)| entry).collect())
    }

    fn create(&self, ctx: &Context<'_>, name: &[u8], node: &NewNode) -> Result<Inode, Errno> {
        let inode = self.fs.make(node, ctx.clock.now())?;
        self.add(ctx, name, &inode)?;
        Ok(inode)
    }

    fn create_unnamed(&self, ctx: &Context<'_>, node: &NewNode) -> Result<Inode, Errno> {
        if node.kind != NodeKind::Regular {
            return Err(Errno::EINVAL);
        }
        let now = ctx.clock.now();
        let inode = self.fs.make(node, now)?;
        inode.add_links(-1, now);
        Ok(inode)
    }

    fn link(&self, ctx: &Context<'_>, name: &[u8], inode: &Inode) -> Result<(), Errno> {
        let inode = Self::of(inode)?;
        if !Arc::ptr_eq(&inode.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        if inode.attr.lock().nlink == u32::MAX {
            return Err(Errno::EMLINK);
        }
        self.add(ctx, name, &inode)?;
        inode.add_links(1, ctx.clock.now());
        Ok(())
    }

    fn unlink(&self, ctx: &Context<'_>, name: &[u8], inode: &Inode) -> Result<(), Errno> {
        let removed = table::remove(&mut self.entries()?.write().by_name, name);
        let now = ctx.clock.now();
        self.touched(now);
        Self::of(inode)?.add_links(-1, now);
        // The last name may take a large file with it: outside the lock.
        drop(removed);
        Ok(())
    }

    fn rmdir(&self, ctx: &Context<'_>, name: &[u8], inode: &Inode) -> Result<(), Errno> {
        let victim = Self::of(inode)?;
        victim.kill()?;
        let removed = table::remove(&mut self.entries()?.write().by_name, name);
        drop(removed);
        let now = ctx.clock.now();
        self.touched(now);
        self.add_links(-1, now);
        victim.add_links(-2, now);
        Ok(())
    }

    fn rename(&self, ctx: &Context<'_>, rename: &Rename<'_>) -> Result<(), Errno> {
        // The superblock's tree lock is held for writing, so nothing else changes names meanwhile.
        let (moved, new_dir) = (Self::of(rename.inode)?, Self::of(rename.new_dir)?);
        if !Arc::ptr_eq(&new_dir.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        let now = ctx.clock.now();
        let replaced = rename.replaced.map(Self::of).transpose()?;
        let old = if rename.flags.contains(RenameFlags::RENAME_EXCHANGE) {
            let other = replaced.ok_or(Errno::ENOENT)?;
            self.entries()?.write().insert(rename.name, Arc::clone(&other));
            new_dir.entries()?.write().insert(rename.new_name, Arc::clone(&moved));
            let shift = i32::from(other.is_dir()) - i32::from(moved.is_dir());
            self.add_links(shift, now);
            new_dir.add_links(-shift, now);
            other.add_links(0, now);
            None
        } else {
            if new_dir.entries()?.read().dead {
                return Err(Errno::ENOENT);
            }
            if let Some(replaced) = &replaced
                && replaced.is_dir()
            {
                replaced.kill()?;
            }
            let whiteout = if rename.flags.contains(RenameFlags::RENAME_WHITEOUT) {
                let node =
                    NewNode { kind: NodeKind::CharDevice(0), mode: 0, uid: ctx.creds.fsuid, gid: ctx.creds.fsgid };
                Some(self.fs.make(&node, now)?)
            } else {
                None
            };
            let source = table::remove(&mut self.entries()?.write().by_name, rename.name);
            drop(source);
            if let Some(whiteout) = whiteout {
                self.entries()?.write().insert(rename.name, whiteout);
            }
            let old = new_dir.entries()?.write().insert(rename.new_name, Arc::clone(&moved));
            if moved.is_dir() {
                self.add_links(-1, now);
                new_dir.add_links(1, now);
            }
            if let Some(replaced) = &replaced {
                if replaced.is_dir() {
                    new_dir.add_links(-1, now);
                    replaced.add_links(-2, now);
                } else {
                    replaced.add_links(-1, now);
                }
            }
            old
        };
        self.touched(now);
        new_dir.touched(now);
        moved.add_links(0, now);
        drop(old);
        Ok(())
    }
}
