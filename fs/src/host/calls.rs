//! The host calls of this file system, each with the flags that keep it beneath its tree.

use std::os::fd::{BorrowedFd, OwnedFd};

use abi::Errno;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, ResolveFlags, StatxFlags};

use crate::vfs::{FileType, StatFs, Timestamp, makedev};

/// The calls made here, for the sandbox's filter: name and who needs it.
pub const HOST_CALLS: &[(&str, &str)] = &[
    ("openat2", "open beneath a host tree"),
    ("statx", "metadata in a host tree"),
    ("getdents64", "list a directory of a host tree"),
    ("readlinkat", "target of a link in a host tree"),
    ("fstatfs", "figures of a host tree"),
    ("preadv", "read a host file"),
    ("pwritev", "write a host file"),
    ("lseek", "SEEK_DATA and SEEK_HOLE in a host file"),
    ("ftruncate", "truncate a file of a writable volume"),
    ("fallocate", "allocate in a file of a writable volume; punch the memory file"),
    ("fsync", "fsync in a writable volume"),
    ("fdatasync", "fdatasync in a writable volume"),
    ("mkdirat", "writable volume"),
    ("unlinkat", "writable volume"),
    ("renameat2", "writable volume"),
    ("linkat", "writable volume"),
    ("symlinkat", "writable volume"),
    ("fchmod", "writable volume"),
    ("fchmodat", "writable volume"),
    ("fchownat", "writable volume"),
    ("utimensat", "writable volume"),
    ("clock_gettime", "times of inodes (normally answered by the vDSO)"),
    ("getrandom", "/dev/random and /dev/urandom"),
    ("close", "host descriptors"),
];

/// Bytes of directory entries that one host call answers.
const LIST_BUFFER: usize = 32 * 1024;

/// How often an `openat2` that raced with a rename is tried again.
const OPEN_TRIES: usize = 32;

/// Nothing leads out.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

pub(super) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

/// What the host says of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) file_type: FileType,
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u64,
    pub(super) size: u64,
    pub(super) blksize: u32,
    pub(super) blocks: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) btime: Option<Timestamp>,
}

fn time(stamp: rustix::fs::StatxTimestamp) -> Timestamp {
    Timestamp { secs: stamp.tv_sec, nanos: stamp.tv_nsec }
}

fn found(stat: &rustix::fs::Statx) -> Result<Found, Errno> {
    let mode = u32::from(stat.stx_mode);
    Ok(Found {
        dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        file_type: FileType::from_mode(mode).ok_or(Errno::EIO)?,
        mode: mode & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blksize: stat.stx_blksize,
        blocks: stat.stx_blocks,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        btime: StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME).then(|| time(stat.stx_btime)),
    })
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Metadata of an open descriptor.
pub(super) fn stat_fd(fd: BorrowedFd<'_>) -> Result<Found, Errno> {
    found(&rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED).map_err(errno)?)
}

/// Metadata of a name in a directory; a link is not followed.
pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Found, Errno> {
    found(&rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, WANTED).map_err(errno)?)
}

/// Opens `path` (names without links) beneath a directory.
pub(super) fn open_at(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::from_bits_retain(mode & 0o7777);
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(dir, path, flags, mode, BENEATH) {
            Ok(fd) => return Ok(fd),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if tries < OPEN_TRIES => tries += 1,
            // A link where none was: the tree changed. What was there before is gone.
            Err(rustix::io::Errno::LOOP) => return Err(Errno::ESTALE),
            Err(error) => return Err(errno(error)),
        }
    }
}

/// Gives every entry of a directory but `.` and `..` to `each`: name, inode number, type. `dir` is fresh and can be read.
pub(super) fn list(dir: BorrowedFd<'_>, each: &mut dyn FnMut(&[u8], u64, FileType)) -> Result<(), Errno> {
    let mut buffer: Vec<u8> = Vec::with_capacity(LIST_BUFFER);
    let mut raw = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(next) = raw.next() {
        let next = next.map_err(errno)?;
        let name = next.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let file_type = match next.file_type() {
            rustix::fs::FileType::RegularFile => FileType::Regular,
            rustix::fs::FileType::Directory => FileType::Directory,
            rustix::fs::FileType::Symlink => FileType::Symlink,
            rustix::fs::FileType::Fifo => FileType::Fifo,
            rustix::fs::FileType::Socket => FileType::Socket,
            rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
            rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
            rustix::fs::FileType::Unknown => match stat_at(dir, name) {
                Ok(found) => found.file_type,
                Err(_) => continue,
            },
        };
        each(name, next.ino(), file_type);
    }
    Ok(())
}

/// Figures of the file system a descriptor is on.
pub(super) fn statfs(fd: BorrowedFd<'_>, fsid: u64) -> Result<StatFs, Errno> {
    let stat = rustix::fs::fstatfs(fd).map_err(errno)?;
    Ok(StatFs {
        magic: stat.f_type,
        block_size: u64::try_from(stat.f_bsize).unwrap_or(4096),
        blocks: stat.f_blocks,
        blocks_free: stat.f_bfree,
        blocks_available: stat.f_bavail,
        files: stat.f_files,
        files_free: stat.f_ffree,
        name_max: u64::try_from(stat.f_namelen).unwrap_or(255),
        fsid,
    })
}
