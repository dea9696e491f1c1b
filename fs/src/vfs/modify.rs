//! Changing directories: create, remove, link, rename.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{InotifyMask, NAME_MAX, PATH_MAX, RenameFlags};
use auth::Caps;

use crate::vfs::dentry::Dentry;
use crate::vfs::inode::{NodeKind, Rename};
use crate::vfs::mount::Path;
use crate::vfs::notify;
use crate::vfs::open::new_node;
use crate::vfs::perm::{Perm, check_sticky, owner_or_capable};
use crate::vfs::types::{FileType, LookupFlags};
use crate::vfs::walk::{At, Component, Last, Parent};

/// Tells those who watch of a rename that is done.
fn tell_of_rename(
    (from, name): (&Arc<Dentry>, &[u8]),
    (to, new_name): (&Arc<Dentry>, &[u8]),
    entry: &Arc<Dentry>,
    target: Option<&Arc<Dentry>>,
    flags: RenameFlags,
) {
    let moved = |from: &Arc<Dentry>, name: &[u8], to: &Arc<Dentry>, new_name: &[u8], entry: &Arc<Dentry>| {
        let cookie = notify::new_cookie();
        notify::entry_changed(from, name, entry.inode(), InotifyMask::IN_MOVED_FROM, cookie);
        notify::entry_changed(to, new_name, entry.inode(), InotifyMask::IN_MOVED_TO, cookie);
        notify::inode_changed(entry.inode(), InotifyMask::IN_MOVE_SELF);
    };
    moved(from, name, to, new_name, entry);
    match target {
        Some(target) if flags.contains(RenameFlags::RENAME_EXCHANGE) => moved(to, new_name, from, name, target),
        Some(target) => {
            if !target.is_dir() {
                notify::inode_changed(target.inode(), InotifyMask::IN_ATTRIB);
            }
            notify::maybe_gone(target);
        }
        None => {}
    }
}

/// The name that an operation needs its path to end in.
fn plain_name(last: Last, otherwise: Errno) -> Result<Component, Errno> {
    match last {
        Last::Name(name) => Ok(name),
        Last::Dot | Last::DotDot => Err(otherwise),
    }
}

impl At<'_> {
    /// Creates a node in a directory; the mode is final but for the setgid rule. `EEXIST` when the name is taken.
    pub(crate) fn create_in(&self, dir: &Path, name: &[u8], kind: NodeKind, mode: u32) -> Result<Arc<Dentry>, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let directory = dir.dentry.dir()?;
        let _tree = dir.mount.superblock().tree.read();
        let _op = dir.dentry.dir_op.lock();
        match dir.dentry.lookup_locked(self.ctx, name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(other) => return Err(other),
        }
        dir.mount.check_writable()?;
        if dir.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        dir.inode().permission(self.ctx, Perm::WRITE | Perm::EXEC)?;
        let node = new_node(self.ctx, dir.inode().perm_attr()?, kind, mode);
        let inode = directory.create(self.ctx, name, &node)?;
        dir.dentry.forget_negative(name);
        let entry = dir.dentry.instantiate(name, inode);
        notify::entry_changed(&dir.dentry, name, entry.inode(), InotifyMask::IN_CREATE, 0);
        Ok(entry)
    }

    /// Creates a node at `path`; a name that ends in a slash is only for directories.
    fn create(&self, path: &[u8], kind: NodeKind, mode: u32) -> Result<Path, Errno> {
        let Parent { path: dir, last, trailing_slash } = self.parent(path)?;
        let name = plain_name(last, Errno::EEXIST)?;
        if trailing_slash && kind != NodeKind::Directory {
            // Linux: the entry there decides; without one there is nothing to put a slash after.
            return Err(if dir.dentry.lookup(self.ctx, &name).is_ok() { Errno::EEXIST } else { Errno::ENOENT });
        }
        let dentry = self.create_in(&dir, &name, kind, mode)?;
        Ok(dir.with_dentry(dentry))
    }

    /// `mkdir(2)`. Answers the new directory.
    pub fn mkdir(&self, path: &[u8], mode: u32) -> Result<Path, Errno> {
        self.create(path, NodeKind::Directory, mode & 0o1777 & !self.ctx.umask)
    }

    /// `mknod(2)`: regular files, FIFOs, sockets and (with the capability) devices. Answers the new node.
    pub fn mknod(&self, path: &[u8], kind: NodeKind, mode: u32) -> Result<Path, Errno> {
        match kind {
            NodeKind::Directory | NodeKind::Symlink(_) => return Err(Errno::EPERM),
            // Device 0:0 is overlayfs's mark of absence, which anyone may make.
            NodeKind::CharDevice(rdev) if rdev != 0 && !self.ctx.creds.has(Caps::MKNOD) => return Err(Errno::EPERM),
            NodeKind::BlockDevice(_) if !self.ctx.creds.has(Caps::MKNOD) => return Err(Errno::EPERM),
            _ => {}
        }
        self.create(path, kind, mode & !self.ctx.umask)
    }

    /// `symlink(2)`. Answers the new link.
    pub fn symlink(&self, target: &[u8], path: &[u8]) -> Result<Path, Errno> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.create(path, NodeKind::Symlink(target.to_vec()), 0o777)
    }

    /// Whether an entry of a directory may be removed.
    fn check_remove(&self, dir: &Path, entry: &Arc<Dentry>) -> Result<(), Errno> {
        dir.inode().permission(self.ctx, Perm::WRITE | Perm::EXEC)?;
        check_sticky(self.ctx, dir.inode().perm_attr()?, entry.inode().perm_attr()?)
    }

    /// `unlink(2)`.
    pub fn unlink(&self, path: &[u8]) -> Result<(), Errno> {
        let Parent { path: dir, last, trailing_slash } = self.parent(path)?;
        let name = plain_name(last, Errno::EISDIR)?;
        let directory = dir.dentry.dir()?;
        let _tree = dir.mount.superblock().tree.read();
        let _op = dir.dentry.dir_op.lock();
        let entry = dir.dentry.lookup_locked(self.ctx, &name)?;
        dir.mount.check_writable()?;
        self.check_remove(&dir, &entry)?;
        if entry.is_dir() {
            return Err(Errno::EISDIR);
        }
        if trailing_slash {
            return Err(Errno::ENOTDIR);
        }
        if entry.is_mountpoint() {
            return Err(Errno::EBUSY);
        }
        directory.unlink(self.ctx, &name, entry.inode())?;
        dir.dentry.unlinked(&entry);
        notify::entry_removed(&dir.dentry, &name, &entry);
        Ok(())
    }

    /// `rmdir(2)`.
    pub fn rmdir(&self, path: &[u8]) -> Result<(), Errno> {
        let Parent { path: dir, last, .. } = self.parent(path)?;
        let name = match last {
            Last::Name(name) => name,
            Last::DotDot => return Err(Errno::ENOTEMPTY),
            // `/` is busy, a path that ends in `.` makes no sense.
            Last::Dot if path.iter().all(|byte| *byte == b'/') => return Err(Errno::EBUSY),
            Last::Dot => return Err(Errno::EINVAL),
        };
        let directory = dir.dentry.dir()?;
        let _tree = dir.mount.superblock().tree.read();
        let _op = dir.dentry.dir_op.lock();
        let entry = dir.dentry.lookup_locked(self.ctx, &name)?;
        dir.mount.check_writable()?;
        self.check_remove(&dir, &entry)?;
        if !entry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if entry.is_mountpoint() {
            return Err(Errno::EBUSY);
        }
        directory.rmdir(self.ctx, &name, entry.inode())?;
        dir.dentry.unlinked(&entry);
        notify::entry_removed(&dir.dentry, &name, &entry);
        Ok(())
    }

    /// `linkat(2)`: another name at `path` for what is at `target` (already looked up).
    pub fn link(&self, target: &Path, path: &[u8]) -> Result<(), Errno> {
        let Parent { path: dir, last, trailing_slash } = self.parent(path)?;
        let name = plain_name(last, Errno::EEXIST)?;
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let directory = dir.dentry.dir()?;
        let _tree = dir.mount.superblock().tree.read();
        let _op = dir.dentry.dir_op.lock();
        match dir.dentry.lookup_locked(self.ctx, &name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) if trailing_slash => return Err(Errno::ENOENT),
            Err(Errno::ENOENT) => {}
            Err(other) => return Err(other),
        }
        if !Arc::ptr_eq(&dir.mount, &target.mount) {
            return Err(Errno::EXDEV);
        }
        dir.mount.check_writable()?;
        if target.dentry.is_dir() {
            return Err(Errno::EPERM);
        }
        self.check_protected_link(target)?;
        dir.inode().permission(self.ctx, Perm::WRITE | Perm::EXEC)?;
        if dir.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        directory.link(self.ctx, &name, target.inode())?;
        dir.dentry.forget_negative(&name);
        if target.dentry.is_unlinked()
            && target.inode().file_type() == FileType::Regular
            && target.dentry.parent().is_some()
        {
            // An `O_TMPFILE` gets its first name: descriptors show it from now on.
            dir.dentry.link_as(&target.dentry, &name);
        } else {
            dir.dentry.instantiate(&name, Arc::clone(target.inode()));
        }
        notify::inode_changed(target.inode(), InotifyMask::IN_ATTRIB);
        notify::entry_changed(&dir.dentry, &name, target.inode(), InotifyMask::IN_CREATE, 0);
        Ok(())
    }

    /// `fs.protected_hardlinks`: others' files can be linked only if they can be read and written and are harmless.
    fn check_protected_link(&self, target: &Path) -> Result<(), Errno> {
        let attr = target.inode().perm_attr()?;
        if owner_or_capable(self.ctx, attr) {
            return Ok(());
        }
        let harmless = target.inode().file_type() == FileType::Regular
            && attr.mode & abi::fs::S_ISUID == 0
            && attr.mode & 0o2010 != 0o2010
            && target.inode().permission(self.ctx, Perm::READ | Perm::WRITE).is_ok();
        if harmless { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `renameat2(2)`: `path` from here to `new_path` from `new_start`.
    pub fn rename(&self, path: &[u8], new_start: &Path, new_path: &[u8], flags: RenameFlags) -> Result<(), Errno> {
        let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        if exchange && flags.intersects(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let old = self.parent(path)?;
        let new = self.from(new_start).parent(new_path)?;
        if !Arc::ptr_eq(&old.path.mount, &new.path.mount) {
            return Err(Errno::EXDEV);
        }
        let name = plain_name(old.last, Errno::EBUSY)?;
        let taken = if flags.contains(RenameFlags::RENAME_NOREPLACE) { Errno::EEXIST } else { Errno::EBUSY };
        let new_name = plain_name(new.last, taken)?;
        let (from, to) = (&old.path, &new.path);
        let (from_dir, _) = (from.dentry.dir()?, to.dentry.dir()?);

        let _tree = from.mount.superblock().tree.write();
        let _ops = Dentry::lock_both(&from.dentry, &to.dentry);
        let entry = from.dentry.lookup_locked(self.ctx, &name)?;
        let target = match to.dentry.lookup_locked(self.ctx, &new_name) {
            Ok(target) => Some(target),
            Err(Errno::ENOENT) => None,
            Err(other) => return Err(other),
        };
        if target.is_some() && flags.contains(RenameFlags::RENAME_NOREPLACE) {
            return Err(Errno::EEXIST);
        }
        if exchange && target.is_none() {
            return Err(Errno::ENOENT);
        }
        if !entry.is_dir() && (old.trailing_slash || (!exchange && new.trailing_slash)) {
            return Err(Errno::ENOTDIR);
        }
        if exchange && new.trailing_slash && target.as_ref().is_some_and(|target| !target.is_dir()) {
            return Err(Errno::ENOTDIR);
        }
        if entry.is_ancestor_of(&to.dentry) {
            return Err(Errno::EINVAL);
        }
        if target.as_ref().is_some_and(|target| target.is_ancestor_of(&from.dentry)) {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        from.mount.check_writable()?;
        if target.as_ref().is_some_and(|target| target.inode().identity() == entry.inode().identity()) {
            return Ok(());
        }
        self.check_remove(from, &entry)?;
        match &target {
            None => {
                if to.dentry.is_unlinked() {
                    return Err(Errno::ENOENT);
                }
                to.inode().permission(self.ctx, Perm::WRITE | Perm::EXEC)?;
            }
            Some(target) => {
                self.check_remove(to, target)?;
                if !exchange {
                    match (entry.is_dir(), target.is_dir()) {
                        (true, false) => return Err(Errno::ENOTDIR),
                        (false, true) => return Err(Errno::EISDIR),
                        _ => {}
                    }
                }
            }
        }
        // Moving a directory elsewhere rewrites its `..`.
        if !Arc::ptr_eq(&from.dentry, &to.dentry) {
            for moved in [Some(&entry), target.as_ref().filter(|_| exchange)].into_iter().flatten() {
                if moved.is_dir() {
                    moved.inode().permission(self.ctx, Perm::WRITE)?;
                }
            }
        }
        if entry.is_mountpoint() || target.as_ref().is_some_and(|target| target.is_mountpoint()) {
            return Err(Errno::EBUSY);
        }
        from_dir.rename(
            self.ctx,
            &Rename {
                name: &name,
                inode: entry.inode(),
                new_dir: to.inode(),
                new_name: &new_name,
                replaced: target.as_ref().map(|target| target.inode()),
                flags,
            },
        )?;
        match &target {
            Some(target) if exchange => from.dentry.exchanged(&entry, &to.dentry, target),
            _ => {
                if let Some(target) = &target {
                    to.dentry.unlinked(target);
                }
                to.dentry.forget_negative(&new_name);
                from.dentry.moved(&entry, &to.dentry, &new_name);
            }
        }
        if notify::is_anybody_there() {
            tell_of_rename((&from.dentry, &name), (&to.dentry, &new_name), &entry, target.as_ref(), flags);
        }
        Ok(())
    }

    /// `readlink(2)`; an empty path means the link at the start itself.
    pub fn readlink(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let place = self.lookup(path, LookupFlags::EMPTY_PATH)?;
        place.readlink(self.ctx)
    }
}
