//! Pathname arguments: reading them, and where a walk starts.

use abi::Errno;
use abi::fs::{AT_FDCWD, AtFlags};
use fs::Context;
use fs::vfs::{At, LookupFlags, Path};
use kernel::task::Task;

use crate::args::{DirFd, PathArg};
use crate::mem;

/// The pathname at an address: `EFAULT`, `ENAMETOOLONG`, and `ENOENT` for an empty one before anything else is looked at.
pub(crate) fn pathname(task: &Task, path: PathArg) -> Result<Vec<u8>, Errno> {
    let path = raw_pathname(task, path)?;
    if path.is_empty() { Err(Errno::ENOENT) } else { Ok(path) }
}

/// As [`pathname`], where an empty path means something.
pub(crate) fn raw_pathname(task: &Task, path: PathArg) -> Result<Vec<u8>, Errno> {
    mem::c_string(task, path.0, abi::fs::PATH_MAX, Errno::ENAMETOOLONG)
}

/// As [`pathname`], but for an empty path with `AT_EMPTY_PATH`.
pub(crate) fn pathname_or_empty(task: &Task, path: PathArg, flags: AtFlags) -> Result<Vec<u8>, Errno> {
    if flags.contains(AtFlags::AT_EMPTY_PATH) { raw_pathname(task, path) } else { pathname(task, path) }
}

/// As [`pathname_or_empty`]; with `AT_EMPTY_PATH` a null pointer is an empty path too (`stat(2)`, since Linux 6.11).
pub(crate) fn stat_pathname(task: &Task, path: PathArg, flags: AtFlags) -> Result<Vec<u8>, Errno> {
    let empty = path.0.0 == 0 && flags.contains(AtFlags::AT_EMPTY_PATH);
    if empty { Ok(Vec::new()) } else { pathname_or_empty(task, path, flags) }
}

/// The current directory, as a directory argument.
pub(crate) const CWD: DirFd = DirFd(AT_FDCWD);

/// The directory that a relative `path` starts from; the root for an absolute one, whatever the descriptor.
pub(crate) fn start(task: &Task, dir: DirFd, path: &[u8]) -> Result<Path, Errno> {
    if path.first() == Some(&b'/') {
        Ok(task.fs().root())
    } else if dir.0 == AT_FDCWD {
        Ok(task.fs().cwd())
    } else {
        Ok(task.fds().get(dir.0)?.path().clone())
    }
}

/// Calls `f` with a walk for the caller from `dir`.
pub(crate) fn walk<T>(
    task: &Task,
    dir: DirFd,
    path: &[u8],
    f: impl FnOnce(&At<'_>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let (root, start) = (task.fs().root(), start(task, dir, path)?);
    let ctx = task.fs_context();
    f(&At::new(&ctx, &root, &start))
}

/// The place that `path` names, for the caller.
pub(crate) fn lookup(task: &Task, dir: DirFd, path: &[u8], flags: LookupFlags) -> Result<Path, Errno> {
    walk(task, dir, path, |at| at.lookup(path, flags))
}

/// The place that `path` names, for `ctx`.
pub(crate) fn lookup_as(
    task: &Task,
    ctx: &Context<'_>,
    dir: DirFd,
    path: &[u8],
    flags: LookupFlags,
) -> Result<Path, Errno> {
    let (root, start) = (task.fs().root(), start(task, dir, path)?);
    At::new(ctx, &root, &start).lookup(path, flags)
}

/// How `AT_SYMLINK_NOFOLLOW` and `AT_EMPTY_PATH` change a walk that follows by default.
pub(crate) fn lookup_flags(flags: AtFlags) -> LookupFlags {
    let mut walk = LookupFlags::FOLLOW;
    if flags.contains(AtFlags::AT_SYMLINK_NOFOLLOW) {
        walk = LookupFlags::empty();
    }
    if flags.contains(AtFlags::AT_EMPTY_PATH) {
        walk |= LookupFlags::EMPTY_PATH;
    }
    walk
}
