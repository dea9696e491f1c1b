//! Opening by name, `open(2)`, `openat2(2)`.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{InotifyMask, OpenFlags};

use crate::Context;
use crate::vfs::attrs::drop_privileges_on_write;
use crate::vfs::dentry::Dentry;
use crate::vfs::device::DeviceKind;
use crate::vfs::dirfile::DirFile;
use crate::vfs::file::{File, FileOps, PathOnly};
use crate::vfs::inode::{NewNode, NodeKind};
use crate::vfs::mount::{MountOptions, Path};
use crate::vfs::notify;
use crate::vfs::perm::{Perm, owner_or_capable};
use crate::vfs::text::{Role, TextHold};
use crate::vfs::types::{FileType, LookupFlags, OpenHow, SetAttr, SetTime};
use crate::vfs::walk::{At, FollowLinks, Last, Walker, insist};

/// Whether the file that is opened was created by this very open: then its permission bits do not bind it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Created {
    Yes,
    No,
}

impl At<'_> {
    /// Opens (and with `O_CREAT` creates) what `path` names.
    pub fn open(&self, path: &[u8], how: &OpenHow) -> Result<Arc<File>, Errno> {
        let flags = how.flags;
        let access = flags.bits() & abi::fs::O_ACCMODE;
        let lookup = LookupFlags::from(how.resolve);
        if flags.contains(OpenFlags::O_TMPFILE) && !flags.contains(OpenFlags::O_PATH) {
            return self.open_unnamed(path, how, access, lookup);
        }
        if flags.bits() & abi::fs::__O_TMPFILE != 0 {
            return Err(Errno::EINVAL);
        }
        insist(lookup, |lookup| self.open_named(path, how, lookup))
    }

    fn open_named(&self, path: &[u8], how: &OpenHow, lookup: LookupFlags) -> Result<Arc<File>, Errno> {
        let flags = how.flags;
        let mut walker = Walker::new(self, path, lookup)?;
        let creates = flags.contains(OpenFlags::O_CREAT);
        if creates && flags.contains(OpenFlags::O_DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        let exclusive = creates && flags.contains(OpenFlags::O_EXCL);
        let follow =
            if flags.contains(OpenFlags::O_NOFOLLOW) || exclusive { FollowLinks::No } else { FollowLinks::Yes };
        let mut created = Created::No;
        loop {
            match walker.advance()? {
                Last::Dot => break,
                Last::DotDot => {
                    walker.up()?;
                    break;
                }
                Last::Name(name) => {
                    if creates && walker.trailing_slash {
                        return Err(Errno::EISDIR);
                    }
                    let child = if creates {
                        let (child, how_made) = self.find_or_create(&walker.cur, &name, how)?;
                        created = how_made;
                        child
                    } else {
                        walker.child(&name)?
                    };
                    if exclusive && created == Created::No {
                        return Err(Errno::EEXIST);
                    }
                    let follow = if walker.trailing_slash { FollowLinks::Yes } else { follow };
                    if walker.enter(child, follow)? {
                        break;
                    }
                }
            }
        }
        let place = walker.cur;
        if (walker.trailing_slash || flags.contains(OpenFlags::O_DIRECTORY)) && !place.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if creates && created == Created::No && place.dentry.is_dir() {
            return Err(if exclusive { Errno::EEXIST } else { Errno::EISDIR });
        }
        open_place(self.ctx, place, how, created, None)
    }

    /// The child called `name`, made if absent.
    fn find_or_create(&self, dir: &Path, name: &[u8], how: &OpenHow) -> Result<(Arc<Dentry>, Created), Errno> {
        match dir.dentry.lookup(self.ctx, name) {
            Ok(child) => return Ok((child, Created::No)),
            Err(Errno::ENOENT) => {}
            Err(other) => return Err(other),
        }
        let node = NodeKind::Regular;
        match self.create_in(dir, name, node, how.mode & !self.ctx.umask) {
            Ok(child) => Ok((child, Created::Yes)),
            // Someone else was faster: then it is there.
            Err(Errno::EEXIST) => Ok((dir.dentry.lookup(self.ctx, name)?, Created::No)),
            Err(other) => Err(other),
        }
    }

    fn open_unnamed(&self, path: &[u8], how: &OpenHow, access: u32, lookup: LookupFlags) -> Result<Arc<File>, Errno> {
        if access == abi::fs::O_RDONLY {
            return Err(Errno::EINVAL);
        }
        let dir = Walker::new(self, path, lookup | LookupFlags::DIRECTORY)?.finish(FollowLinks::Yes)?;
        dir.mount.check_writable()?;
        dir.inode().permission(self.ctx, Perm::WRITE | Perm::EXEC)?;
        let parent = dir.inode().perm_attr()?;
        let node = new_node(self.ctx, parent, NodeKind::Regular, how.mode & !self.ctx.umask);
        let inode = dir.dentry.dir()?.create_unnamed(self.ctx, &node)?;
        let name = format!("#{}", inode.identity().1);
        let dentry = Dentry::new_unlinked(inode, &dir.dentry, name.as_bytes());
        open_place(self.ctx, dir.with_dentry(dentry), how, Created::Yes, None)
    }
}

/// Owner, group and mode of a node created by `ctx` in a directory with these attributes.
pub(crate) fn new_node(ctx: &Context<'_>, dir: crate::vfs::PermAttr, kind: NodeKind, mode: u32) -> NewNode {
    let mut mode = mode & 0o7777;
    let gid = if dir.mode & abi::fs::S_ISGID != 0 {
        if kind == NodeKind::Directory {
            mode |= abi::fs::S_ISGID;
        } else if mode & 0o2010 == 0o2010 && !ctx.creds.in_group(dir.gid) && !ctx.creds.has(auth::Caps::FSETID) {
            mode &= !abi::fs::S_ISGID;
        }
        dir.gid
    } else {
        ctx.creds.fsgid
    };
    NewNode { kind, mode, uid: ctx.creds.fsuid, gid }
}

impl Path {
    /// Opens what is here, as `/proc/[pid]/fd` links, `open_by_handle_at` and exec do. Permissions are checked.
    pub fn open(&self, ctx: &Context<'_>, flags: OpenFlags) -> Result<Arc<File>, Errno> {
        let how = OpenHow { flags, mode: 0, resolve: abi::fs::ResolveFlags::empty() };
        open_place(ctx, self.clone(), &how, Created::No, None)
    }

    /// Opens the program that is here to run it: while the description lives, nobody opens the file for writing.
    /// `ETXTBSY` where somebody has.
    pub fn open_to_execute(&self, ctx: &Context<'_>) -> Result<Arc<File>, Errno> {
        let how = OpenHow { flags: OpenFlags::empty(), mode: 0, resolve: abi::fs::ResolveFlags::empty() };
        let hold = TextHold::new(self.inode(), Role::Program)?;
        open_place(ctx, self.clone(), &how, Created::No, Some(hold))
    }
}

fn open_place(
    ctx: &Context<'_>,
    place: Path,
    how: &OpenHow,
    created: Created,
    hold: Option<TextHold>,
) -> Result<Arc<File>, Errno> {
    let flags = how.flags;
    let file_type = place.inode().file_type();
    if flags.contains(OpenFlags::O_PATH) {
        return Ok(File::new(Arc::new(PathOnly), place, flags));
    }
    let (reads, writes) = (how.reads(), how.writes());
    let truncates = flags.contains(OpenFlags::O_TRUNC);
    match file_type {
        FileType::Symlink => return Err(Errno::ELOOP),
        FileType::Directory if writes || truncates => return Err(Errno::EISDIR),
        FileType::Socket => return Err(Errno::ENXIO),
        FileType::CharDevice | FileType::BlockDevice if place.mount.options().contains(MountOptions::NODEV) => {
            return Err(Errno::EACCES);
        }
        _ => {}
    }
    if created == Created::No {
        let mut want = Perm::empty();
        if reads {
            want |= Perm::READ;
        }
        if writes || truncates {
            want |= Perm::WRITE;
        }
        place.inode().permission(ctx, want)?;
    }
    let changes = matches!(file_type, FileType::Regular | FileType::Directory) && (writes || truncates);
    if changes {
        place.mount.check_writable()?;
    }
    if flags.contains(OpenFlags::O_NOATIME) && !owner_or_capable(ctx, place.inode().perm_attr()?) {
        return Err(Errno::EPERM);
    }
    let is_regular = file_type == FileType::Regular;
    let writing =
        (is_regular && (writes || truncates)).then(|| TextHold::new(place.inode(), Role::Writer)).transpose()?;
    let hold = hold.or(writing);
    if truncates && is_regular && created == Created::No {
        let mut change = SetAttr { size: Some(0), mtime: Some(SetTime::Now), ..SetAttr::default() };
        drop_privileges_on_write(ctx, place.inode(), &mut change)?;
        place.inode().set_attr(ctx, &change)?;
        notify::happened(&place.dentry, InotifyMask::IN_MODIFY);
    }
    let ops: Arc<dyn FileOps> = match file_type {
        _ if place.inode().opens_itself() => Arc::clone(place.inode()).open(ctx, flags)?,
        FileType::Directory => Arc::new(DirFile::new()),
        FileType::Fifo => {
            let file = crate::pipe::open_fifo(ctx, place, flags)?;
            notify::happened(&file.path().dentry, InotifyMask::IN_OPEN);
            return Ok(file);
        }
        FileType::CharDevice | FileType::BlockDevice => {
            let kind = if file_type == FileType::CharDevice { DeviceKind::Char } else { DeviceKind::Block };
            let rdev = place.inode().attr()?.rdev;
            ctx.devices.open(ctx, kind, rdev, flags, &place)?
        }
        _ => Arc::clone(place.inode()).open(ctx, flags)?,
    };
    notify::happened(&place.dentry, InotifyMask::IN_OPEN);
    // Truncating alone does not last.
    let hold = hold.filter(|_| writes || !truncates);
    Ok(File::holding(ops, place, flags, hold))
}
