//! The path walk, `path_resolution(7)`.
//!
//! [`At`] says who walks and from where. A [`Walker`] takes one component at a time; symbolic links put their target in
//! front of what is left. Each operation walks to the last component's directory and decides there what the last component
//! means to it.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{MAXSYMLINKS, NAME_MAX, PATH_MAX};
use smallvec::SmallVec;

use crate::Context;
use crate::vfs::dentry::Dentry;
use crate::vfs::mount::{MountOptions, Path};
use crate::vfs::perm::Perm;
use crate::vfs::types::{FileType, LookupFlags};

/// Who walks, below which root, from where.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// Who asks.
    pub ctx: &'a Context<'a>,
    /// The caller's root directory.
    pub root: &'a Path,
    /// Where relative paths start: the working directory or a directory descriptor's path.
    pub start: &'a Path,
}

/// A name between slashes; most fit in place.
pub(crate) type Component = SmallVec<[u8; 40]>;

/// The last component of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Last {
    /// A name to look up.
    Name(Component),
    /// `.`, or no component at all (`/`).
    Dot,
    /// `..`.
    DotDot,
}

/// A walk in progress.
pub(crate) struct Walker<'a> {
    ctx: &'a Context<'a>,
    root: Path,
    flags: LookupFlags,
    /// Where it has got to.
    pub(crate) cur: Path,
    rest: Vec<u8>,
    at: usize,
    links: usize,
    /// Whether the path ended in a slash.
    pub(crate) trailing_slash: bool,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(at: &At<'a>, path: &[u8], flags: LookupFlags) -> Result<Self, Errno> {
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if flags.contains(LookupFlags::CACHED) {
            return Err(Errno::EAGAIN);
        }
        let confined = flags.intersects(LookupFlags::IN_ROOT | LookupFlags::BENEATH);
        let root = if confined { at.start.clone() } else { at.root.clone() };
        let mut walker = Self {
            ctx: at.ctx,
            cur: at.start.clone(),
            root,
            flags,
            rest: path.to_vec(),
            at: 0,
            links: 0,
            trailing_slash: false,
        };
        walker.begin(path)?;
        Ok(walker)
    }

    /// Applies the start of a path or of a link's target.
    fn begin(&mut self, path: &[u8]) -> Result<(), Errno> {
        if path.first() == Some(&b'/') {
            if self.flags.contains(LookupFlags::BENEATH) {
                return Err(Errno::EXDEV);
            }
            if self.flags.contains(LookupFlags::NO_XDEV) && !Arc::ptr_eq(&self.cur.mount, &self.root.mount) {
                return Err(Errno::EXDEV);
            }
            self.cur = self.root.clone();
        }
        Ok(())
    }

    /// The next component and whether anything but slashes follows it.
    fn next(&mut self) -> Option<(Component, bool)> {
        let rest = self.rest.get(self.at..)?;
        let skip = rest.iter().take_while(|byte| **byte == b'/').count();
        let body = &rest[skip..];
        if body.is_empty() {
            return None;
        }
        let len = body.iter().position(|byte| *byte == b'/').unwrap_or(body.len());
        let name = Component::from_slice(&body[..len]);
        let after = &body[len..];
        let last = after.iter().all(|byte| *byte == b'/');
        if last {
            self.trailing_slash = !after.is_empty();
        }
        self.at += skip + len;
        Some((name, last))
    }

    /// Walks up to the last component, which it answers.
    pub(crate) fn advance(&mut self) -> Result<Last, Errno> {
        self.trailing_slash = false;
        loop {
            let Some((name, last)) = self.next() else {
                // Only slashes: the place itself, which is a directory.
                self.trailing_slash = true;
                return Ok(Last::Dot);
            };
            if name.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            self.check_search()?;
            let component = match name.as_slice() {
                b"." => Last::Dot,
                b".." => Last::DotDot,
                _ => Last::Name(name),
            };
            if last {
                return Ok(component);
            }
            match component {
                Last::Dot => {}
                Last::DotDot => self.up()?,
                Last::Name(name) => {
                    let child = self.child(&name)?;
                    self.enter(child, FollowLinks::Yes)?;
                }
            }
        }
    }

    /// Whether the current place is a directory that may be searched.
    fn check_search(&self) -> Result<(), Errno> {
        let inode = self.cur.inode();
        if inode.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        inode.permission(self.ctx, Perm::EXEC)
    }

    /// The child called `name` of the current place.
    pub(crate) fn child(&self, name: &[u8]) -> Result<Arc<Dentry>, Errno> {
        if self.flags.contains(LookupFlags::AGAIN) {
            return self.cur.dentry.lookup_again(self.ctx, name);
        }
        self.cur.dentry.lookup(self.ctx, name)
    }

    /// Goes to a child: across mounts, and (where asked) through a symbolic link, whose target is then what is left to
    /// walk. `true` when the walk has arrived there, `false` when there is now a target to walk.
    pub(crate) fn enter(&mut self, child: Arc<Dentry>, follow: FollowLinks) -> Result<bool, Errno> {
        let link = child.inode().file_type() == FileType::Symlink;
        if !link || follow == FollowLinks::No {
            // The mount stays: no need to count it anew.
            self.cur.dentry = child;
            self.descend()?;
            return Ok(true);
        }
        self.links += 1;
        if self.links > MAXSYMLINKS || self.flags.contains(LookupFlags::NO_SYMLINKS) {
            return Err(Errno::ELOOP);
        }
        if self.cur.mount.options().contains(MountOptions::NOSYMFOLLOW) {
            return Err(Errno::ELOOP);
        }
        let inode = child.inode();
        if let Some(target) = inode.follow(self.ctx)? {
            if self.flags.contains(LookupFlags::NO_MAGICLINKS) {
                return Err(Errno::ELOOP);
            }
            if self.flags.intersects(LookupFlags::BENEATH | LookupFlags::IN_ROOT) {
                return Err(Errno::EXDEV);
            }
            if self.flags.contains(LookupFlags::NO_XDEV) && !Arc::ptr_eq(&self.cur.mount, &target.mount) {
                return Err(Errno::EXDEV);
            }
            self.cur = target;
            return Ok(true);
        }
        let mut target = inode.readlink(self.ctx)?;
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.begin(&target)?;
        // What was left keeps its leading slash, so that a trailing one still asks for a directory.
        target.extend_from_slice(self.rest.get(self.at..).unwrap_or_default());
        self.rest = target;
        self.at = 0;
        Ok(false)
    }

    /// Into whatever is mounted here.
    fn descend(&mut self) -> Result<(), Errno> {
        while let Some(top) = self.cur.mounted_here() {
            if self.flags.contains(LookupFlags::NO_XDEV) {
                return Err(Errno::EXDEV);
            }
            self.cur = top;
        }
        Ok(())
    }

    /// To the parent.
    pub(crate) fn up(&mut self) -> Result<(), Errno> {
        loop {
            if self.cur.is_same(&self.root) {
                return if self.flags.contains(LookupFlags::BENEATH) { Err(Errno::EXDEV) } else { Ok(()) };
            }
            let Some(above) = self.cur.above_mount() else { break };
            if self.flags.contains(LookupFlags::NO_XDEV) {
                return Err(Errno::EXDEV);
            }
            self.cur = above;
        }
        if let Some(parent) = self.cur.dentry.parent() {
            // At the root of a mount that hangs nowhere, `..` stays.
            if !Arc::ptr_eq(&self.cur.dentry, self.cur.mount.root()) {
                self.cur.dentry = parent;
            }
        }
        self.descend()
    }

    /// Finishes the walk: everything, with the last component followed or not.
    pub(crate) fn finish(mut self, follow: FollowLinks) -> Result<Path, Errno> {
        loop {
            match self.advance()? {
                Last::Dot => break,
                Last::DotDot => {
                    self.up()?;
                    break;
                }
                Last::Name(name) => {
                    let child = self.child(&name)?;
                    let follow = if self.trailing_slash { FollowLinks::Yes } else { follow };
                    if self.enter(child, follow)? {
                        break;
                    }
                }
            }
        }
        if (self.trailing_slash || self.flags.contains(LookupFlags::DIRECTORY)) && !self.cur.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        Ok(self.cur)
    }
}

/// Whether a symbolic link in last place is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FollowLinks {
    Yes,
    No,
}

impl LookupFlags {
    pub(crate) fn follow(self) -> FollowLinks {
        if self.contains(Self::FOLLOW) { FollowLinks::Yes } else { FollowLinks::No }
    }
}

/// A parent directory and the last component in it.
pub(crate) struct Parent {
    pub(crate) path: Path,
    pub(crate) last: Last,
    pub(crate) trailing_slash: bool,
}

/// Walks, and once more without the cache when what that said was gone: on file systems that others change.
pub(crate) fn insist<T>(flags: LookupFlags, mut walk: impl FnMut(LookupFlags) -> Result<T, Errno>) -> Result<T, Errno> {
    match walk(flags) {
        Err(Errno::ESTALE) => walk(flags | LookupFlags::AGAIN),
        other => other,
    }
}

impl<'a> At<'a> {
    /// Walks for `ctx` below `root`, relative paths from `start`.
    pub const fn new(ctx: &'a Context<'a>, root: &'a Path, start: &'a Path) -> Self {
        Self { ctx, root, start }
    }

    /// The place that `path` names.
    pub fn lookup(&self, path: &[u8], flags: LookupFlags) -> Result<Path, Errno> {
        if path.is_empty() && flags.contains(LookupFlags::EMPTY_PATH) {
            return Ok(self.start.clone());
        }
        insist(flags, |flags| Walker::new(self, path, flags)?.finish(flags.follow()))
    }

    /// The directory of the last component, and that component.
    pub(crate) fn parent(&self, path: &[u8]) -> Result<Parent, Errno> {
        insist(LookupFlags::empty(), |flags| {
            let mut walker = Walker::new(self, path, flags)?;
            let last = walker.advance()?;
            Ok(Parent { trailing_slash: walker.trailing_slash, path: walker.cur, last })
        })
    }

    /// The same walk from another place.
    pub const fn from<'b>(&self, start: &'b Path) -> At<'b>
    where
        'a: 'b,
    {
        At { ctx: self.ctx, root: self.root, start }
    }
}
