//! Names: opening, creating, removing, moving and linking files; working and root directory.

use abi::Errno;
use abi::fs::{AtFlags, OPEN_HOW_SIZE_VER0, OpenFlags, RenameFlags};
use auth::Caps;
use fs::vfs::{LookupFlags, NodeKind, OpenHow, Path, Perm, makedev};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::Task;

use crate::args::{DirFd, Fd, Flags, In, Mode, NewFd, OpenArg, OutBuf, PathArg};
use crate::fd::{cloexec, install};
use crate::mem;
use crate::walk::{CWD, lookup, pathname, pathname_or_empty, raw_pathname, start, walk};

syscalls! {
    pub(crate) const ROWS;

    /// Opens or creates a file.
    open [2, -] Full("names::old_forms_of_names");
    /// Opens or creates a file, from a directory.
    openat [257, 56] Full("file::open_flags_and_errors");
    /// Opens or creates a file, with limits on the walk.
    openat2 [437, 437] Full("names::openat2_resolves_as_told");
    /// Creates or truncates a file.
    creat [85, -] Full("names::old_forms_of_names");
    /// Creates a directory.
    mkdir [83, -] Full("file::directories_list_what_is_in_them");
    /// Creates a directory, from a directory.
    mkdirat [258, 34] Full("names::calls_below_a_directory");
    /// Creates a file, FIFO, socket name or device node.
    mknod [133, -] Full("names::nodes_are_made");
    /// Creates a file, FIFO, socket name or device node, from a directory.
    mknodat [259, 33] Full("names::nodes_are_made");
    /// Removes an empty directory.
    rmdir [84, -] Full("file::directories_list_what_is_in_them");
    /// Removes a name.
    unlink [87, -] Full("file::names_link_rename_and_unlink");
    /// Removes a name or an empty directory, from a directory.
    unlinkat [263, 35] Full("names::calls_below_a_directory");
    /// Moves a file.
    rename [82, -] Full("file::names_link_rename_and_unlink");
    /// Moves a file between directories.
    renameat [264, 38] Full("names::calls_below_a_directory");
    /// Moves a file between directories, with flags.
    renameat2 [316, 276] Full("file::names_link_rename_and_unlink");
    /// Gives a file another name.
    link [86, -] Full("names::old_forms_of_names");
    /// Gives a file another name, from directories.
    linkat [265, 37] Full("file::names_link_rename_and_unlink");
    /// Creates a symbolic link.
    symlink [88, -] Full("file::symbolic_links_resolve");
    /// Creates a symbolic link, from a directory.
    symlinkat [266, 36] Full("file::open_flags_and_errors");
    /// Reads a symbolic link's target.
    readlink [89, -] Full("file::symbolic_links_resolve");
    /// Reads a symbolic link's target, from a directory.
    readlinkat [267, 78] Full("names::calls_below_a_directory");
    /// Changes the working directory.
    chdir [80, 49] Full("file::working_directory_moves");
    /// Changes the working directory to an open one.
    fchdir [81, 50] Full("names::directories_are_entered_by_descriptor");
    /// Changes the root directory.
    chroot [161, 51] Full("names::a_changed_root_is_the_root");
    /// The working directory's path.
    getcwd [79, 17] Full("file::working_directory_moves");
    /// Sets the mode bits that new files do not get.
    umask [95, 166] Full("attributes::the_creation_mask_is_per_process");
}

fn open_at(task: &Task, dir: DirFd, path: PathArg, how: &OpenHow) -> Result<NewFd, Errno> {
    // What makes no sense is refused before the path is looked at.
    let (creates, directory) = (how.flags.contains(OpenFlags::O_CREAT), how.flags.contains(OpenFlags::O_DIRECTORY));
    let unnamed = how.flags.bits() & abi::fs::__O_TMPFILE != 0;
    if (unnamed && !(directory && how.writes())) || (creates && directory) {
        return Err(Errno::EINVAL);
    }
    let path = pathname(task, path)?;
    let file = walk(task, dir, &path, |at| at.open(&path, how))?;
    install(task, file, cloexec(how.flags))
}

/// How the calls before `openat2(2)` ask. 64-bit Linux sets `O_LARGEFILE` by itself.
fn how(flags: OpenFlags, mode: Mode) -> OpenHow {
    OpenHow::from_open((flags | OpenFlags::O_LARGEFILE).bits(), mode.0)
}

/// An open that was interrupted (a FIFO without its other side, `fifo(7)`) is repeated.
fn restartable(result: Result<NewFd, Errno>) -> SysResult<NewFd> {
    match result {
        Err(Errno::EINTR) => Err(kernel::error::SysErr::Restart(kernel::error::Restart::Sys)),
        other => Ok(other?),
    }
}

/// `open(2)`.
fn open(task: &mut Task, path: PathArg, flags: OpenArg, mode: Mode) -> SysResult<NewFd> {
    restartable(open_at(task, CWD, path, &how(flags.0, mode)))
}

/// `openat(2)`.
fn openat(task: &mut Task, dir: DirFd, path: PathArg, flags: OpenArg, mode: Mode) -> SysResult<NewFd> {
    restartable(open_at(task, dir, path, &how(flags.0, mode)))
}

/// `openat2(2)`: a structure longer than ours must be zero past it.
fn openat2(task: &mut Task, dir: DirFd, path: PathArg, how: In<abi::fs::OpenHow>, size: usize) -> SysResult<NewFd> {
    let how: abi::fs::OpenHow = mem::read_extensible(task, how.0, size, OPEN_HOW_SIZE_VER0)?;
    let mut how = OpenHow::from_openat2(how.flags, how.mode, how.resolve)?;
    how.flags.set(OpenFlags::O_LARGEFILE, !how.flags.contains(OpenFlags::O_PATH));
    restartable(open_at(task, dir, path, &how))
}

/// `creat(2)`.
fn creat(task: &mut Task, path: PathArg, mode: Mode) -> SysResult<NewFd> {
    let flags = OpenFlags::O_CREAT | OpenFlags::O_WRONLY | OpenFlags::O_TRUNC;
    restartable(open_at(task, CWD, path, &how(flags, mode)))
}

/// `mkdir(2)`.
fn mkdir(task: &mut Task, path: PathArg, mode: Mode) -> Result<(), Errno> {
    mkdirat(task, CWD, path, mode)
}

/// `mkdirat(2)`.
fn mkdirat(task: &mut Task, dir: DirFd, path: PathArg, mode: Mode) -> Result<(), Errno> {
    let path = pathname(task, path)?;
    walk(task, dir, &path, |at| at.mkdir(&path, mode.0).map(drop))
}

/// What `mknod(2)` is to create. Device numbers come in the 32-bit form of `dev_t`.
fn node_kind(mode: u32, dev: u32) -> Result<NodeKind, Errno> {
    let number = makedev((dev & 0xf_ff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xf_ff00));
    Ok(match mode & abi::fs::S_IFMT {
        0 | abi::fs::S_IFREG => NodeKind::Regular,
        abi::fs::S_IFIFO => NodeKind::Fifo,
        abi::fs::S_IFSOCK => NodeKind::Socket,
        abi::fs::S_IFCHR => NodeKind::CharDevice(number),
        abi::fs::S_IFBLK => NodeKind::BlockDevice(number),
        abi::fs::S_IFDIR => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    })
}

/// `mknod(2)`.
fn mknod(task: &mut Task, path: PathArg, mode: Mode, dev: u32) -> Result<(), Errno> {
    mknodat(task, CWD, path, mode, dev)
}

/// `mknodat(2)`.
fn mknodat(task: &mut Task, dir: DirFd, path: PathArg, mode: Mode, dev: u32) -> Result<(), Errno> {
    let kind = node_kind(mode.0, dev)?;
    let path = pathname(task, path)?;
    walk(task, dir, &path, |at| at.mknod(&path, kind, mode.0 & abi::fs::S_IALLUGO).map(drop))
}

/// `rmdir(2)`.
fn rmdir(task: &mut Task, path: PathArg) -> Result<(), Errno> {
    let path = pathname(task, path)?;
    walk(task, CWD, &path, |at| at.rmdir(&path))
}

/// `unlink(2)`.
fn unlink(task: &mut Task, path: PathArg) -> Result<(), Errno> {
    let path = pathname(task, path)?;
    walk(task, CWD, &path, |at| at.unlink(&path))
}

/// `unlinkat(2)`.
fn unlinkat(task: &mut Task, dir: DirFd, path: PathArg, flags: Flags<AtFlags>) -> Result<(), Errno> {
    let flags = flags.within(AtFlags::AT_REMOVEDIR)?;
    let path = pathname(task, path)?;
    walk(task, dir, &path, |at| if flags.is_empty() { at.unlink(&path) } else { at.rmdir(&path) })
}

fn rename_at(
    task: &Task,
    old_dir: DirFd,
    old: PathArg,
    new_dir: DirFd,
    new: PathArg,
    flags: RenameFlags,
) -> Result<(), Errno> {
    let (old, new) = (pathname(task, old)?, pathname(task, new)?);
    let new_start = start(task, new_dir, &new)?;
    walk(task, old_dir, &old, |at| at.rename(&old, &new_start, &new, flags))
}

/// `rename(2)`.
fn rename(task: &mut Task, old: PathArg, new: PathArg) -> Result<(), Errno> {
    rename_at(task, CWD, old, CWD, new, RenameFlags::empty())
}

/// `renameat(2)`.
fn renameat(task: &mut Task, old_dir: DirFd, old: PathArg, new_dir: DirFd, new: PathArg) -> Result<(), Errno> {
    rename_at(task, old_dir, old, new_dir, new, RenameFlags::empty())
}

/// `renameat2(2)`.
fn renameat2(
    task: &mut Task,
    old_dir: DirFd,
    old: PathArg,
    new_dir: DirFd,
    new: PathArg,
    flags: Flags<RenameFlags>,
) -> Result<(), Errno> {
    let flags = flags.known()?;
    let others = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_WHITEOUT;
    if flags.contains(RenameFlags::RENAME_EXCHANGE) && flags.intersects(others) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(RenameFlags::RENAME_WHITEOUT) && !task.creds().has(Caps::MKNOD) {
        return Err(Errno::EPERM);
    }
    rename_at(task, old_dir, old, new_dir, new, flags)
}

/// `link(2)`.
fn link(task: &mut Task, old: PathArg, new: PathArg) -> Result<(), Errno> {
    linkat(task, CWD, old, CWD, new, Flags(AtFlags::empty()))
}

/// `linkat(2)`: an empty path needs CAP_DAC_READ_SEARCH.
fn linkat(
    task: &mut Task,
    old_dir: DirFd,
    old: PathArg,
    new_dir: DirFd,
    new: PathArg,
    flags: Flags<AtFlags>,
) -> Result<(), Errno> {
    let flags = flags.within(AtFlags::AT_SYMLINK_FOLLOW | AtFlags::AT_EMPTY_PATH)?;
    let mut how = LookupFlags::empty();
    if flags.contains(AtFlags::AT_EMPTY_PATH) {
        if !task.creds().has(Caps::DAC_READ_SEARCH) {
            return Err(Errno::ENOENT);
        }
        how |= LookupFlags::EMPTY_PATH;
    }
    if flags.contains(AtFlags::AT_SYMLINK_FOLLOW) {
        how |= LookupFlags::FOLLOW;
    }
    let old = pathname_or_empty(task, old, flags)?;
    let new = pathname(task, new)?;
    let target = lookup(task, old_dir, &old, how)?;
    walk(task, new_dir, &new, |at| at.link(&target, &new))
}

/// `symlink(2)`.
fn symlink(task: &mut Task, target: PathArg, path: PathArg) -> Result<(), Errno> {
    symlinkat(task, target, CWD, path)
}

/// `symlinkat(2)`.
fn symlinkat(task: &mut Task, target: PathArg, dir: DirFd, path: PathArg) -> Result<(), Errno> {
    let target = pathname(task, target)?;
    let path = pathname(task, path)?;
    walk(task, dir, &path, |at| at.symlink(&target, &path).map(drop))
}

/// `readlink(2)`.
fn readlink(task: &mut Task, path: PathArg, buf: OutBuf, size: i32) -> Result<usize, Errno> {
    readlinkat(task, CWD, path, buf, size)
}

/// `readlinkat(2)`: the target is cut to `size` bytes, without NUL.
fn readlinkat(task: &mut Task, dir: DirFd, path: PathArg, buf: OutBuf, size: i32) -> Result<usize, Errno> {
    let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or(Errno::EINVAL)?;
    let path = raw_pathname(task, path)?;
    if path.is_empty() && dir == CWD {
        return Err(Errno::ENOENT);
    }
    let target = walk(task, dir, &path, |at| at.readlink(&path));
    // The descriptor of something else is no link: for an empty path that is ENOENT.
    let target =
        target.map_err(|error| if path.is_empty() && error == Errno::EINVAL { Errno::ENOENT } else { error })?;
    let cut = target.get(..size).unwrap_or(&target);
    mem::write_bytes(task, buf.0, cut)?;
    Ok(cut.len())
}

fn enter(task: &Task, place: Path) -> Result<Path, Errno> {
    if place.inode().file_type() != fs::vfs::FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    place.inode().permission(&task.fs_context(), Perm::EXEC)?;
    Ok(place)
}

/// `chdir(2)`.
fn chdir(task: &mut Task, path: PathArg) -> Result<(), Errno> {
    let path = pathname(task, path)?;
    let place = lookup(task, CWD, &path, LookupFlags::FOLLOW | LookupFlags::DIRECTORY)?;
    task.fs().set_cwd(enter(task, place)?);
    Ok(())
}

/// `fchdir(2)`.
fn fchdir(task: &mut Task, fd: Fd) -> Result<(), Errno> {
    let file = task.fds().get(fd.0)?;
    task.fs().set_cwd(enter(task, file.path().clone())?);
    Ok(())
}

/// `chroot(2)`.
fn chroot(task: &mut Task, path: PathArg) -> Result<(), Errno> {
    let path = pathname(task, path)?;
    let place = lookup(task, CWD, &path, LookupFlags::FOLLOW | LookupFlags::DIRECTORY)?;
    let place = enter(task, place)?;
    if !task.creds().has(Caps::SYS_CHROOT) {
        return Err(Errno::EPERM);
    }
    task.fs().set_root(place);
    Ok(())
}

/// `getcwd(2)`, the call: answers the length with the NUL.
fn getcwd(task: &mut Task, buf: OutBuf, size: u64) -> Result<usize, Errno> {
    let (cwd, root) = (task.fs().cwd(), task.fs().root());
    let mut path = match cwd.live_path(&root) {
        Some(path) => path,
        None if cwd.is_deleted() => return Err(Errno::ENOENT),
        // Not below the root: `(unreachable)` stands before it.
        None => cwd.d_path(&root),
    };
    path.push(0);
    if path.len() > abi::fs::PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    if size < path.len() as u64 {
        return Err(Errno::ERANGE);
    }
    mem::write_bytes(task, buf.0, &path)?;
    Ok(path.len())
}

/// `umask(2)`.
fn umask(task: &mut Task, mask: Mode) -> Result<u32, Errno> {
    Ok(task.fs().set_umask(mask.0))
}

#[cfg(test)]
mod tests {
    use super::node_kind;
    use abi::Errno;
    use fs::vfs::{NodeKind, makedev};

    #[test]
    fn device_numbers_of_32_bits() {
        assert_eq!(node_kind(0o020_666, 0x0103), Ok(NodeKind::CharDevice(makedev(1, 3))));
        assert_eq!(node_kind(0o060_666, 0x1230_0845), Ok(NodeKind::BlockDevice(makedev(8, 0x1_2345))));
        assert_eq!(node_kind(0o040_755, 0), Err(Errno::EPERM));
        assert_eq!(node_kind(0o644, 0), Ok(NodeKind::Regular));
        assert_eq!(node_kind(0o120_777, 0), Err(Errno::EINVAL));
    }
}
