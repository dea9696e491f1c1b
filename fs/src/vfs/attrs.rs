//! Metadata operations: permission to change it, set-id bits that writing drops, extended attributes.

use abi::Errno;
use abi::fs::{InotifyMask, XATTR_NAME_MAX, XATTR_SIZE_MAX, XattrFlags};
use auth::{Caps, Gid, Uid};

use crate::Context;
use crate::vfs::inode::{Inode, XattrOps};
use crate::vfs::mount::Path;
use crate::vfs::notify;
use crate::vfs::perm::{Perm, owner_or_capable};
use crate::vfs::text::{Role, TextHold};
use crate::vfs::types::{Attr, FileType, SetAttr, SetTime, StatFs};

/// Adds to `change` what a change of contents does to set-id bits, unless the caller may keep them.
pub(crate) fn drop_privileges_on_write(ctx: &Context<'_>, inode: &Inode, change: &mut SetAttr) -> Result<(), Errno> {
    let mode = inode.perm_attr()?.mode;
    if let Some(stripped) = stripped_mode(ctx, mode) {
        change.mode = Some(stripped);
    }
    Ok(())
}

/// The mode without set-id bits, where a write by `ctx` takes them away.
pub(crate) fn stripped_mode(ctx: &Context<'_>, mode: u32) -> Option<u32> {
    let mut stripped = mode & !abi::fs::S_ISUID;
    if mode & 0o2010 == 0o2010 {
        stripped &= !abi::fs::S_ISGID;
    }
    (stripped != mode && !ctx.creds.has(Caps::FSETID)).then_some(stripped)
}

impl Path {
    /// Metadata, `stat(2)`.
    pub fn attr(&self) -> Result<Attr, Errno> {
        self.inode().attr()
    }

    /// Figures of its file system, `statfs(2)`.
    pub fn statfs(&self) -> Result<StatFs, Errno> {
        self.mount.superblock().fs().statfs()
    }

    /// Target of the symbolic link here, `readlink(2)`: `EINVAL` for anything else.
    pub fn readlink(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        if self.inode().file_type() != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        self.inode().readlink(ctx)
    }

    /// Whether `ctx` may do `want` here, `access(2)` (whose caller passes real ids: [`auth::Creds::real`]).
    pub fn access(&self, ctx: &Context<'_>, want: Perm) -> Result<(), Errno> {
        let inode = self.inode();
        let kind = inode.file_type();
        if want.contains(Perm::EXEC)
            && kind == FileType::Regular
            && self.mount.options().contains(crate::vfs::MountOptions::NOEXEC)
        {
            return Err(Errno::EACCES);
        }
        inode.permission(ctx, want)?;
        let lasting = matches!(kind, FileType::Regular | FileType::Directory | FileType::Symlink);
        if want.contains(Perm::WRITE) && lasting {
            self.mount.check_writable()?;
        }
        Ok(())
    }

    /// Changes metadata, and tells those who watch what Linux tells them of such a change.
    fn change(&self, ctx: &Context<'_>, change: &SetAttr) -> Result<(), Errno> {
        self.inode().set_attr(ctx, change)?;
        let mut mask = InotifyMask::empty();
        let truncated = change.size.is_some();
        mask.set(InotifyMask::IN_MODIFY, truncated);
        let looks = change.uid.is_some() || change.gid.is_some() || change.mode.is_some();
        mask.set(InotifyMask::IN_ATTRIB, looks);
        match (change.atime.is_some(), change.mtime.is_some()) {
            _ if truncated => {}
            (true, true) => mask |= InotifyMask::IN_ATTRIB,
            (true, false) => mask |= InotifyMask::IN_ACCESS,
            (false, true) => mask |= InotifyMask::IN_MODIFY,
            (false, false) => {}
        }
        if !mask.is_empty() {
            notify::happened(&self.dentry, mask);
        }
        Ok(())
    }

    /// `chmod(2)`.
    pub fn chmod(&self, ctx: &Context<'_>, mode: u32) -> Result<(), Errno> {
        self.mount.check_writable()?;
        let inode = self.inode();
        if inode.file_type() == FileType::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        let attr = inode.perm_attr()?;
        if !owner_or_capable(ctx, attr) {
            return Err(Errno::EPERM);
        }
        let mut mode = mode & 0o7777;
        if !ctx.creds.in_group(attr.gid) && !ctx.creds.has(Caps::FSETID) {
            mode &= !abi::fs::S_ISGID;
        }
        self.change(ctx, &SetAttr { mode: Some(mode), ..SetAttr::default() })
    }

    /// `chown(2)`; `None` leaves an id.
    pub fn chown(&self, ctx: &Context<'_>, uid: Option<Uid>, gid: Option<Gid>) -> Result<(), Errno> {
        self.mount.check_writable()?;
        let inode = self.inode();
        let attr = inode.perm_attr()?;
        if !ctx.creds.has(Caps::CHOWN) {
            let owner = ctx.creds.fsuid == attr.uid;
            let uid_kept = uid.is_none_or(|uid| uid == attr.uid);
            let gid_allowed = gid.is_none_or(|gid| gid == attr.gid || ctx.creds.in_group(gid));
            let asks = uid.is_some() || gid.is_some();
            if asks && !(owner && uid_kept && gid_allowed) {
                return Err(Errno::EPERM);
            }
        }
        let mut change = SetAttr { uid, gid, ..SetAttr::default() };
        if inode.file_type() != FileType::Directory && attr.mode & 0o6000 != 0 {
            let mut mode = attr.mode & !abi::fs::S_ISUID;
            if mode & 0o010 != 0 {
                mode &= !abi::fs::S_ISGID;
            }
            change.mode = Some(mode);
        }
        self.change(ctx, &change)
    }

    /// `utimensat(2)`; `None` leaves a time.
    pub fn set_times(&self, ctx: &Context<'_>, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<(), Errno> {
        if atime.is_none() && mtime.is_none() {
            return Ok(());
        }
        self.mount.check_writable()?;
        let inode = self.inode();
        if !owner_or_capable(ctx, inode.perm_attr()?) {
            // Who may write may touch; setting times of one's own is the owner's.
            if atime != Some(SetTime::Now) || mtime != Some(SetTime::Now) {
                return Err(Errno::EPERM);
            }
            inode.permission(ctx, Perm::WRITE)?;
        }
        self.change(ctx, &SetAttr { atime, mtime, ..SetAttr::default() })
    }

    /// `truncate(2)`.
    pub fn truncate(&self, ctx: &Context<'_>, size: u64) -> Result<(), Errno> {
        let inode = self.inode();
        match inode.file_type() {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        if i64::try_from(size).is_err() {
            return Err(Errno::EINVAL);
        }
        self.mount.check_writable()?;
        inode.permission(ctx, Perm::WRITE)?;
        let _hold = TextHold::new(inode, Role::Writer)?;
        let mut change = SetAttr { size: Some(size), mtime: Some(SetTime::Now), ..SetAttr::default() };
        drop_privileges_on_write(ctx, inode, &mut change)?;
        self.change(ctx, &change)
    }

    fn xattrs(&self) -> Result<&dyn XattrOps, Errno> {
        self.inode().xattr().ok_or(Errno::EOPNOTSUPP)
    }

    /// `getxattr(2)`.
    pub fn get_xattr(&self, ctx: &Context<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.check_xattr(ctx, name, Perm::READ)?;
        self.xattrs()?.get(name)
    }

    /// `setxattr(2)`.
    pub fn set_xattr(&self, ctx: &Context<'_>, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), Errno> {
        if value.len() > XATTR_SIZE_MAX {
            return Err(Errno::E2BIG);
        }
        self.mount.check_writable()?;
        self.check_xattr(ctx, name, Perm::WRITE)?;
        self.xattrs()?.set(ctx, name, value, flags)?;
        notify::happened(&self.dentry, InotifyMask::IN_ATTRIB);
        Ok(())
    }

    /// `removexattr(2)`.
    pub fn remove_xattr(&self, ctx: &Context<'_>, name: &[u8]) -> Result<(), Errno> {
        self.mount.check_writable()?;
        self.check_xattr(ctx, name, Perm::WRITE)?;
        self.xattrs()?.remove(ctx, name)?;
        notify::happened(&self.dentry, InotifyMask::IN_ATTRIB);
        Ok(())
    }

    /// `listxattr(2)`: names, each with its NUL.
    pub fn list_xattr(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        let Some(ops) = self.inode().xattr() else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for name in ops.list()? {
            if name.starts_with(b"trusted.") && !ctx.creds.has(Caps::SYS_ADMIN) {
                continue;
            }
            all.extend_from_slice(&name);
            all.push(0);
        }
        Ok(all)
    }

    /// Name and permission rules of `xattr(7)`.
    fn check_xattr(&self, ctx: &Context<'_>, name: &[u8], want: Perm) -> Result<(), Errno> {
        if name.is_empty() || name.len() > XATTR_NAME_MAX {
            return Err(Errno::ERANGE);
        }
        let inode = self.inode();
        let reads = want == Perm::READ;
        if name.starts_with(b"trusted.") {
            return match (ctx.creds.has(Caps::SYS_ADMIN), reads) {
                (true, _) => Ok(()),
                (false, true) => Err(Errno::ENODATA),
                (false, false) => Err(Errno::EPERM),
            };
        }
        if name.starts_with(b"security.") {
            let capable =
                ctx.creds.has(Caps::SYS_ADMIN) || (name == b"security.capability" && ctx.creds.has(Caps::SETFCAP));
            return if reads || capable { Ok(()) } else { Err(Errno::EPERM) };
        }
        if name.starts_with(b"user.") {
            let kind = inode.file_type();
            if !matches!(kind, FileType::Regular | FileType::Directory) {
                return Err(if reads { Errno::ENODATA } else { Errno::EPERM });
            }
            let attr = inode.perm_attr()?;
            if !reads
                && kind == FileType::Directory
                && attr.mode & abi::fs::S_ISVTX != 0
                && !owner_or_capable(ctx, attr)
            {
                return Err(Errno::EPERM);
            }
            return inode.permission(ctx, want);
        }
        // POSIX ACLs (`system.`) and unknown namespaces: not offered.
        Err(Errno::EOPNOTSUPP)
    }
}
