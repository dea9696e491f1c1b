//! Metadata of files: reading it, permissions, owners, times, sizes.

use abi::Errno;
use abi::fs::{AccessMode, AtFlags, UTIME_NOW, UTIME_OMIT, Utimbuf};
use abi::stat::{Stat, Statfs, StatfsFlags, Statx, StatxAttributes, StatxMask, StatxTimestamp};
use abi::time::{Timespec, Timeval};
use auth::{Gid, Uid};
use fs::vfs::{Attr, LookupFlags, Mount, MountOptions, Path, Perm, SetTime, StatFs, Timestamp, major, minor};
use kernel::syscalls;
use kernel::task::Task;

use crate::args::{DirFd, Fd, Flags, In, Mode, Out, PathArg};
use crate::walk::{CWD, lookup, lookup_as, lookup_flags, pathname, pathname_or_empty, stat_pathname};

syscalls! {
    pub(crate) const ROWS;

    /// Metadata of a file.
    stat [4, -] Full("attributes::stat_in_its_old_forms");
    /// Metadata of a file or symbolic link.
    lstat [6, -] Full("attributes::stat_in_its_old_forms");
    /// Metadata of an open file.
    fstat [5, 80] Full("attributes::stat_in_its_old_forms");
    /// Metadata of a file, from a directory.
    newfstatat [262, 79] Full("file::stat_forms_agree");
    /// Metadata of a file, the extensible form.
    statx [332, 291] Full("file::stat_forms_agree");
    /// Figures of a filesystem.
    statfs [137, 43] Full("attributes::file_systems_describe_themselves");
    /// Figures of an open file's filesystem.
    fstatfs [138, 44] Full("attributes::file_systems_describe_themselves");
    /// Checks permissions for the real user.
    access [21, -] Full("attributes::access_is_checked_for_the_real_ids");
    /// Checks permissions for the real user, from a directory.
    faccessat [269, 48] Full("attributes::access_is_checked_for_the_real_ids");
    /// Checks permissions, with flags.
    faccessat2 [439, 439] Full("attributes::access_is_checked_for_the_real_ids");
    /// Changes permissions.
    chmod [90, -] Full("file::metadata_changes");
    /// Changes an open file's permissions.
    fchmod [91, 52] Full("attributes::modes_change_in_every_form");
    /// Changes permissions, from a directory.
    fchmodat [268, 53] Full("attributes::modes_change_in_every_form");
    /// Changes permissions, with flags.
    fchmodat2 [452, 452] Full("attributes::modes_change_in_every_form");
    /// Changes owner and group.
    chown [92, -] Full("attributes::owners_change_by_the_rules");
    /// Changes owner and group of a file or symbolic link.
    lchown [94, -] Full("attributes::owners_change_by_the_rules");
    /// Changes an open file's owner and group.
    fchown [93, 55] Full("attributes::owners_change_by_the_rules");
    /// Changes owner and group, with flags.
    fchownat [260, 54] Full("attributes::owners_change_by_the_rules");
    /// Sets times in seconds.
    utime [132, -] Full("attributes::times_are_set_in_every_form");
    /// Sets times in microseconds.
    utimes [235, -] Full("attributes::times_are_set_in_every_form");
    /// Sets times in microseconds, from a directory.
    futimesat [261, -] Full("attributes::times_are_set_in_every_form");
    /// Sets times in nanoseconds.
    utimensat [280, 88] Full("file::metadata_changes");
    /// Sets the size of a file.
    truncate [76, 45] Full("attributes::lengths_change");
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn to_stat(attr: &Attr) -> Stat {
    Stat {
        st_dev: attr.dev,
        st_ino: attr.ino,
        st_nlink: u64::from(attr.nlink),
        st_mode: attr.st_mode(),
        st_uid: attr.uid.0,
        st_gid: attr.gid.0,
        st_rdev: attr.rdev,
        st_size: signed(attr.size),
        st_blksize: i64::from(attr.blksize),
        st_blocks: signed(attr.blocks),
        st_atime: attr.atime.secs,
        st_atime_nsec: u64::from(attr.atime.nanos),
        st_mtime: attr.mtime.secs,
        st_mtime_nsec: u64::from(attr.mtime.nanos),
        st_ctime: attr.ctime.secs,
        st_ctime_nsec: u64::from(attr.ctime.nanos),
        ..Stat::default()
    }
}

/// `stat(2)`.
fn stat(task: &mut Task, path: PathArg, buf: Out<Stat>) -> Result<(), Errno> {
    let path = pathname(task, path)?;
    let place = lookup(task, CWD, &path, LookupFlags::FOLLOW)?;
    buf.write(task, &to_stat(&place.attr()?))
}

/// `lstat(2)`.
fn lstat(task: &mut Task, path: PathArg, buf: Out<Stat>) -> Result<(), Errno> {
    let path = pathname(task, path)?;
    let place = lookup(task, CWD, &path, LookupFlags::empty())?;
    buf.write(task, &to_stat(&place.attr()?))
}

/// `fstat(2)`.
fn fstat(task: &mut Task, fd: Fd, buf: Out<Stat>) -> Result<(), Errno> {
    let file = task.fds().get(fd.0)?;
    buf.write(task, &to_stat(&file.attr()?))
}

/// `fstatat(2)`.
fn newfstatat(task: &mut Task, dir: DirFd, path: PathArg, buf: Out<Stat>, flags: Flags<AtFlags>) -> Result<(), Errno> {
    let sync = AtFlags::AT_STATX_FORCE_SYNC | AtFlags::AT_STATX_DONT_SYNC;
    let others = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH | AtFlags::AT_NO_AUTOMOUNT;
    let flags = flags.within(sync | others)?;
    let path = stat_pathname(task, path, flags)?;
    if path.is_empty() && dir.0 != abi::fs::AT_FDCWD {
        // How glibc's `fstat` asks.
        return buf.write(task, &to_stat(&task.fds().get(dir.0)?.attr()?));
    }
    let place = lookup(task, dir, &path, lookup_flags(flags))?;
    buf.write(task, &to_stat(&place.attr()?))
}

fn statx_time(at: Timestamp) -> StatxTimestamp {
    StatxTimestamp { tv_sec: at.secs, tv_nsec: at.nanos, _reserved: 0 }
}

fn to_statx(place: &Path, attr: &Attr) -> Statx {
    let mut mask = StatxMask::STATX_BASIC_STATS | StatxMask::STATX_MNT_ID;
    if attr.btime.is_some() {
        mask |= StatxMask::STATX_BTIME;
    }
    let mut attributes = StatxAttributes::empty();
    attributes.set(StatxAttributes::STATX_ATTR_MOUNT_ROOT, place.is_same(&place.mount.root_path()));
    Statx {
        stx_mask: mask.bits(),
        stx_blksize: attr.blksize,
        stx_attributes: attributes.bits(),
        stx_attributes_mask: StatxAttributes::STATX_ATTR_MOUNT_ROOT.bits(),
        stx_nlink: attr.nlink,
        stx_uid: attr.uid.0,
        stx_gid: attr.gid.0,
        stx_mode: u16::try_from(attr.st_mode() & 0xffff).unwrap_or(0),
        stx_ino: attr.ino,
        stx_size: attr.size,
        stx_blocks: attr.blocks,
        stx_atime: statx_time(attr.atime),
        stx_btime: statx_time(attr.btime.unwrap_or_default()),
        stx_ctime: statx_time(attr.ctime),
        stx_mtime: statx_time(attr.mtime),
        stx_rdev_major: major(attr.rdev),
        stx_rdev_minor: minor(attr.rdev),
        stx_dev_major: major(attr.dev),
        stx_dev_minor: minor(attr.dev),
        stx_mnt_id: place.mount.id(),
        ..Statx::default()
    }
}

/// `statx(2)`: more than was asked for may be answered, and is.
fn statx(
    task: &mut Task,
    dir: DirFd,
    path: PathArg,
    flags: Flags<AtFlags>,
    mask: Flags<StatxMask>,
    buf: Out<Statx>,
) -> Result<(), Errno> {
    let sync = AtFlags::AT_STATX_FORCE_SYNC | AtFlags::AT_STATX_DONT_SYNC;
    let others = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH | AtFlags::AT_NO_AUTOMOUNT;
    let flags = flags.within(sync | others)?;
    if mask.0.contains(StatxMask::STATX__RESERVED) || flags.contains(sync) {
        return Err(Errno::EINVAL);
    }
    let path = stat_pathname(task, path, flags)?;
    let place = lookup(task, dir, &path, lookup_flags(flags))?;
    buf.write(task, &to_statx(&place, &place.attr()?))
}

fn to_statfs(figures: &StatFs, mount: &Mount) -> Statfs {
    let options = mount.options();
    let pairs = [
        (MountOptions::READ_ONLY, StatfsFlags::ST_RDONLY),
        (MountOptions::NOSUID, StatfsFlags::ST_NOSUID),
        (MountOptions::NODEV, StatfsFlags::ST_NODEV),
        (MountOptions::NOEXEC, StatfsFlags::ST_NOEXEC),
        (MountOptions::NOATIME, StatfsFlags::ST_NOATIME),
        (MountOptions::NODIRATIME, StatfsFlags::ST_NODIRATIME),
        (MountOptions::RELATIME, StatfsFlags::ST_RELATIME),
        (MountOptions::NOSYMFOLLOW, StatfsFlags::ST_NOSYMFOLLOW),
    ];
    let flags = pairs.into_iter().filter(|(ours, _)| options.contains(*ours));
    let flags = flags.fold(StatfsFlags::ST_VALID, |all, (_, flag)| all | flag);
    let half = |word: u64| u32::try_from(word & 0xffff_ffff).unwrap_or(0).cast_signed();
    Statfs {
        f_type: figures.magic,
        f_bsize: signed(figures.block_size),
        f_blocks: figures.blocks,
        f_bfree: figures.blocks_free,
        f_bavail: figures.blocks_available,
        f_files: figures.files,
        f_ffree: figures.files_free,
        f_fsid: [half(figures.fsid), half(figures.fsid >> 32)],
        f_namelen: signed(figures.name_max),
        f_frsize: signed(figures.block_size),
        f_flags: signed(flags.bits()),
        ..Statfs::default()
    }
}

/// `statfs(2)`.
fn statfs(task: &mut Task, path: PathArg, buf: Out<Statfs>) -> Result<(), Errno> {
    let path = pathname(task, path)?;
    let place = lookup(task, CWD, &path, LookupFlags::FOLLOW)?;
    buf.write(task, &to_statfs(&place.statfs()?, &place.mount))
}

/// `fstatfs(2)`.
fn fstatfs(task: &mut Task, fd: Fd, buf: Out<Statfs>) -> Result<(), Errno> {
    let file = task.fds().get(fd.0)?;
    buf.write(task, &to_statfs(&file.statfs()?, &file.path().mount))
}

/// `access(2)`.
fn access(task: &mut Task, path: PathArg, mode: Flags<AccessMode>) -> Result<(), Errno> {
    check_access(task, CWD, path, mode, AtFlags::empty())
}

/// `faccessat(2)`, the call: without flags.
fn faccessat(task: &mut Task, dir: DirFd, path: PathArg, mode: Flags<AccessMode>) -> Result<(), Errno> {
    check_access(task, dir, path, mode, AtFlags::empty())
}

/// `faccessat2(2)`.
fn faccessat2(
    task: &mut Task,
    dir: DirFd,
    path: PathArg,
    mode: Flags<AccessMode>,
    flags: Flags<AtFlags>,
) -> Result<(), Errno> {
    let flags = flags.within(AtFlags::AT_EACCESS | AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)?;
    check_access(task, dir, path, mode, flags)
}

fn check_access(task: &Task, dir: DirFd, path: PathArg, mode: Flags<AccessMode>, flags: AtFlags) -> Result<(), Errno> {
    let mode = mode.known()?;
    let path = pathname_or_empty(task, path, flags)?;
    let (ctx, real) = (task.fs_context(), task.creds().real());
    let ctx = if flags.contains(AtFlags::AT_EACCESS) { ctx } else { ctx.with_creds(&real) };
    let place = lookup_as(task, &ctx, dir, &path, lookup_flags(flags))?;
    if mode.is_empty() {
        return Ok(());
    }
    // The bits of R_OK, W_OK and X_OK are those of a permission triple.
    place.access(&ctx, Perm::from_bits_truncate(mode.bits()))
}

/// `chmod(2)`.
fn chmod(task: &mut Task, path: PathArg, mode: Mode) -> Result<(), Errno> {
    fchmodat(task, CWD, path, mode)
}

/// `fchmod(2)`.
fn fchmod(task: &mut Task, fd: Fd, mode: Mode) -> Result<(), Errno> {
    task.fd(fd.0)?.path().chmod(&task.fs_context(), mode.0 & abi::fs::S_IALLUGO)
}

/// `fchmodat(2)`, the call: without flags.
fn fchmodat(task: &mut Task, dir: DirFd, path: PathArg, mode: Mode) -> Result<(), Errno> {
    fchmodat2(task, dir, path, mode, Flags(AtFlags::empty()))
}

/// `fchmodat2(2)`.
fn fchmodat2(task: &mut Task, dir: DirFd, path: PathArg, mode: Mode, flags: Flags<AtFlags>) -> Result<(), Errno> {
    let flags = flags.within(AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)?;
    let path = pathname_or_empty(task, path, flags)?;
    let place = lookup(task, dir, &path, lookup_flags(flags))?;
    if place.inode().file_type() == fs::vfs::FileType::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    place.chmod(&task.fs_context(), mode.0 & abi::fs::S_IALLUGO)
}

/// `chown(2)`.
fn chown(task: &mut Task, path: PathArg, uid: u32, gid: u32) -> Result<(), Errno> {
    fchownat(task, CWD, path, uid, gid, Flags(AtFlags::empty()))
}

/// `lchown(2)`.
fn lchown(task: &mut Task, path: PathArg, uid: u32, gid: u32) -> Result<(), Errno> {
    fchownat(task, CWD, path, uid, gid, Flags(AtFlags::AT_SYMLINK_NOFOLLOW))
}

/// `fchown(2)`.
fn fchown(task: &mut Task, fd: Fd, uid: u32, gid: u32) -> Result<(), Errno> {
    task.fd(fd.0)?.path().chown(&task.fs_context(), Uid::from_arg(uid), Gid::from_arg(gid))
}

/// `fchownat(2)`.
fn fchownat(
    task: &mut Task,
    dir: DirFd,
    path: PathArg,
    uid: u32,
    gid: u32,
    flags: Flags<AtFlags>,
) -> Result<(), Errno> {
    let flags = flags.within(AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)?;
    let path = pathname_or_empty(task, path, flags)?;
    let place = lookup(task, dir, &path, lookup_flags(flags))?;
    place.chown(&task.fs_context(), Uid::from_arg(uid), Gid::from_arg(gid))
}

/// A time of `utimensat(2)`: `None` leaves it.
fn nanosecond_time(time: Timespec) -> Result<Option<SetTime>, Errno> {
    let nanos = u64::try_from(time.tv_nsec).map_err(|_| Errno::EINVAL)?;
    match nanos {
        UTIME_NOW => Ok(Some(SetTime::Now)),
        UTIME_OMIT => Ok(None),
        0..=999_999_999 => {
            let nanos = u32::try_from(nanos).map_err(|_| Errno::EINVAL)?;
            Ok(Some(SetTime::At(Timestamp { secs: time.tv_sec, nanos })))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn microsecond_time(time: Timeval) -> Result<Option<SetTime>, Errno> {
    let micros = u32::try_from(time.tv_usec).ok().filter(|&micros| micros < 1_000_000).ok_or(Errno::EINVAL)?;
    Ok(Some(SetTime::At(Timestamp { secs: time.tv_sec, nanos: micros * 1000 })))
}

/// Sets the times of what `path` names, or of the file `dir` itself when there is no path.
fn set_times(task: &Task, dir: DirFd, path: PathArg, times: [Option<SetTime>; 2], flags: AtFlags) -> Result<(), Errno> {
    let [atime, mtime] = times;
    let place = if path.0.0 == 0 && dir != CWD {
        if !flags.is_empty() {
            return Err(Errno::EINVAL);
        }
        task.fd(dir.0)?.path().clone()
    } else {
        let path = pathname_or_empty(task, path, flags)?;
        lookup(task, dir, &path, lookup_flags(flags))?
    };
    place.set_times(&task.fs_context(), atime, mtime)
}

const NOW: [Option<SetTime>; 2] = [Some(SetTime::Now), Some(SetTime::Now)];

/// `utime(2)`.
fn utime(task: &mut Task, path: PathArg, times: In<Utimbuf>) -> Result<(), Errno> {
    let times = times
        .read_opt(task)?
        .map_or(NOW, |times| [times.actime, times.modtime].map(|secs| Some(SetTime::At(Timestamp { secs, nanos: 0 }))));
    set_times(task, CWD, path, times, AtFlags::empty())
}

/// `utimes(2)`.
fn utimes(task: &mut Task, path: PathArg, times: In<[Timeval; 2]>) -> Result<(), Errno> {
    futimesat(task, CWD, path, times)
}

/// `futimesat(2)`.
fn futimesat(task: &mut Task, dir: DirFd, path: PathArg, times: In<[Timeval; 2]>) -> Result<(), Errno> {
    let times = match times.read_opt(task)? {
        None => NOW,
        Some([atime, mtime]) => [microsecond_time(atime)?, microsecond_time(mtime)?],
    };
    set_times(task, dir, path, times, AtFlags::empty())
}

/// `utimensat(2)`.
fn utimensat(
    task: &mut Task,
    dir: DirFd,
    path: PathArg,
    times: In<[Timespec; 2]>,
    flags: Flags<AtFlags>,
) -> Result<(), Errno> {
    let times = match times.read_opt(task)? {
        None => NOW,
        Some([atime, mtime]) => [nanosecond_time(atime)?, nanosecond_time(mtime)?],
    };
    if times == [None, None] {
        return Ok(());
    }
    let flags = flags.within(AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)?;
    set_times(task, dir, path, times, flags)
}

/// `truncate(2)`.
fn truncate(task: &mut Task, path: PathArg, len: i64) -> Result<(), Errno> {
    let len = u64::try_from(len).map_err(|_| Errno::EINVAL)?;
    let path = pathname(task, path)?;
    let place = lookup(task, CWD, &path, LookupFlags::FOLLOW)?;
    crate::rw::check_new_size(task, len)?;
    place.truncate(&task.fs_context(), len)
}

#[cfg(test)]
mod tests {
    use abi::Errno;
    use abi::time::{Timespec, Timeval};
    use fs::vfs::{SetTime, Timestamp};

    use super::{UTIME_NOW, UTIME_OMIT, microsecond_time, nanosecond_time};

    #[test]
    fn times_are_checked() {
        let spec = |tv_nsec| nanosecond_time(Timespec { tv_sec: 5, tv_nsec });
        assert_eq!(spec(i64::try_from(UTIME_NOW).unwrap()), Ok(Some(SetTime::Now)));
        assert_eq!(spec(i64::try_from(UTIME_OMIT).unwrap()), Ok(None));
        assert_eq!(spec(7), Ok(Some(SetTime::At(Timestamp { secs: 5, nanos: 7 }))));
        assert_eq!(spec(1_000_000_000), Err(Errno::EINVAL));
        assert_eq!(spec(-1), Err(Errno::EINVAL));
        assert_eq!(microsecond_time(Timeval { tv_sec: 1, tv_usec: 1_000_000 }), Err(Errno::EINVAL));
    }
}
