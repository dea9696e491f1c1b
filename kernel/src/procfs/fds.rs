//! `/proc/[pid]/fd` and `fdinfo`: a process's open files.

use std::sync::Arc;

use abi::Errno;
use auth::{Gid, Uid};
use fs::Context;
use fs::kernfs::{Content, Directory, Link, Owned, Tree};
use fs::vfs::{DirEntry, File, FileType, Inode, Path};

use super::process::Subject;
use super::{caller, parse_number};
use crate::fdtable::CloseOnExec;

/// The descriptor that `name` names, if it is open.
fn open_fd(subject: &Subject, name: &[u8]) -> Result<i32, Errno> {
    let fd = parse_number(name).and_then(|number| i32::try_from(number).ok()).ok_or(Errno::ENOENT)?;
    subject.fds()?.get(fd).map_err(|_| Errno::ENOENT)?;
    Ok(fd)
}

fn list(subject: &Subject, ino: u64, file_type: FileType) -> Result<Vec<DirEntry>, Errno> {
    let row = |fd: i32| {
        let name = fd.to_string().into_bytes();
        DirEntry { ino: Tree::ino(ino, &name), name, file_type }
    };
    Ok(subject.fds()?.numbers().into_iter().map(row).collect())
}

/// `fd`.
pub(super) struct FdDir {
    pub(super) subject: Subject,
    pub(super) ino: u64,
}

impl Owned for FdDir {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Directory for FdDir {
    fn lookup(&self, ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        self.subject.inspect(ctx)?;
        let fd = open_fd(&self.subject, name)?;
        // The number is made of the description too: after close and open the link is another inode.
        let file = self.subject.fds()?.get(fd)?;
        let ino = Tree::ino(Tree::ino(self.ino, name), &file.id().to_le_bytes());
        Ok(self.subject.proc.tree.link(ino, FdLink { subject: self.subject.clone(), fd }))
    }

    fn list(&self, ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        self.subject.inspect(ctx)?;
        list(&self.subject, self.ino, FileType::Symlink)
    }
}

/// `fd/N`: a magic link to the open file.
struct FdLink {
    subject: Subject,
    fd: i32,
}

impl FdLink {
    fn file(&self, ctx: &Context<'_>) -> Result<Arc<File>, Errno> {
        self.subject.inspect(ctx)?;
        self.subject.fds()?.get(self.fd).map_err(|_| Errno::ENOENT)
    }
}

impl Owned for FdLink {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Link for FdLink {
    fn target(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        let root = caller(ctx)?.fs().ok_or(Errno::ENOENT)?.root();
        Ok(self.file(ctx)?.path().d_path(&root))
    }

    fn follow(&self, ctx: &Context<'_>) -> Result<Option<Path>, Errno> {
        Ok(Some(self.file(ctx)?.path().clone()))
    }
}

/// `fdinfo`.
pub(super) struct FdInfoDir {
    pub(super) subject: Subject,
    pub(super) ino: u64,
}

impl Owned for FdInfoDir {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Directory for FdInfoDir {
    fn lookup(&self, ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        self.subject.inspect(ctx)?;
        let fd = open_fd(&self.subject, name)?;
        let ino = Tree::ino(self.ino, name);
        Ok(self.subject.proc.tree.file(ino, 0o444, FdInfo { subject: self.subject.clone(), fd }))
    }

    fn list(&self, ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        self.subject.inspect(ctx)?;
        list(&self.subject, self.ino, FileType::Regular)
    }
}

struct FdInfo {
    subject: Subject,
    fd: i32,
}

impl Owned for FdInfo {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Content for FdInfo {
    fn render(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        self.subject.inspect(ctx)?;
        let (file, cloexec) = self.subject.fds()?.get_with_flags(self.fd).map_err(|_| Errno::ENOENT)?;
        let mut flags = file.flags_and_access();
        if cloexec == CloseOnExec::Yes {
            flags |= abi::fs::OpenFlags::O_CLOEXEC.bits();
        }
        let text = format!(
            "pos:\t{}\nflags:\t0{flags:o}\nmnt_id:\t{}\nino:\t{}\n{}",
            file.position(),
            file.path().mount.id(),
            file.inode().identity().1,
            file.ops().fdinfo(),
        );
        Ok(text.into_bytes())
    }
}
