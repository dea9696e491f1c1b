//! Values of the VFS: attributes, times, what an open asks for.

use abi::Errno;
use abi::fs::{OpenFlags, ResolveFlags};
use auth::{Gid, Uid};

/// A point in time, as inodes keep it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub secs: i64,
    /// Nanoseconds in the second, below 10⁹.
    pub nanos: u32,
}

/// What kind of object an inode is; an inode never changes its kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A bound UNIX socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// What Linux shows for eventfd and its like: no type bits at all.
    Anonymous,
}

impl FileType {
    /// The type bits of `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Regular => abi::fs::S_IFREG,
            Self::Directory => abi::fs::S_IFDIR,
            Self::Symlink => abi::fs::S_IFLNK,
            Self::Fifo => abi::fs::S_IFIFO,
            Self::Socket => abi::fs::S_IFSOCK,
            Self::CharDevice => abi::fs::S_IFCHR,
            Self::BlockDevice => abi::fs::S_IFBLK,
            Self::Anonymous => 0,
        }
    }

    /// The type that these mode bits name; none of them is [`FileType::Anonymous`].
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & abi::fs::S_IFMT {
            abi::fs::S_IFREG => Self::Regular,
            abi::fs::S_IFDIR => Self::Directory,
            abi::fs::S_IFLNK => Self::Symlink,
            abi::fs::S_IFIFO => Self::Fifo,
            abi::fs::S_IFSOCK => Self::Socket,
            abi::fs::S_IFCHR => Self::CharDevice,
            abi::fs::S_IFBLK => Self::BlockDevice,
            0 => Self::Anonymous,
            _ => return None,
        })
    }

    /// `d_type` of `getdents64(2)`.
    pub const fn dirent_type(self) -> u8 {
        match self {
            Self::Regular => abi::fs::DT_REG,
            Self::Directory => abi::fs::DT_DIR,
            Self::Symlink => abi::fs::DT_LNK,
            Self::Fifo => abi::fs::DT_FIFO,
            Self::Socket => abi::fs::DT_SOCK,
            Self::CharDevice => abi::fs::DT_CHR,
            Self::BlockDevice => abi::fs::DT_BLK,
            Self::Anonymous => abi::fs::DT_UNKNOWN,
        }
    }
}

/// Metadata of an inode, `inode(7)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Device that the inode is on.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Kind of object.
    pub file_type: FileType,
    /// Permission bits with set-id and sticky bits, `07777`.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
    /// Device that a device node stands for.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Preferred unit of I/O in bytes.
    pub blksize: u32,
    /// Room taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth, where known.
    pub btime: Option<Timestamp>,
}

impl Attr {
    /// Attributes of a fresh inode: one name, no contents, every time `now`.
    pub fn new(dev: u64, ino: u64, file_type: FileType, mode: u32, now: Timestamp) -> Self {
        Self {
            dev,
            ino,
            file_type,
            mode: mode & 0o7777,
            nlink: if file_type == FileType::Directory { 2 } else { 1 },
            uid: Uid::ROOT,
            gid: Gid::ROOT,
            rdev: 0,
            size: 0,
            blksize: 4096,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: Some(now),
        }
    }

    /// `st_mode`: type and permission bits.
    pub const fn st_mode(&self) -> u32 {
        self.file_type.mode_bits() | self.mode
    }

    /// The part that permission checks need.
    pub const fn perm(&self) -> PermAttr {
        PermAttr {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            directory: matches!(self.file_type, FileType::Directory),
        }
    }
}

/// What a permission check looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PermAttr {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
    /// Whether it is a directory: capabilities treat those differently.
    pub directory: bool,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The current time, `UTIME_NOW`.
    Now,
    /// This time.
    At(Timestamp),
}

/// Attributes to change; what is `None` stays. Checked against the caller before a file system sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// New permission bits, `07777`.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<Uid>,
    /// New group.
    pub gid: Option<Gid>,
    /// New size.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
}

/// Figures of a file system, `statfs(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatFs {
    /// `f_type`.
    pub magic: i64,
    /// Bytes per block.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub blocks_free: u64,
    /// Blocks free for ordinary users.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes free.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_max: u64,
    /// Identity of the file system.
    pub fsid: u64,
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Name, without `/` or NUL.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// Kind of object.
    pub file_type: FileType,
}

/// Receives directory entries.
pub trait DirSink {
    /// Takes an entry; `next` is the position after it (`d_off`). `false` when there is no room: the entry was not taken.
    fn entry(&mut self, name: &[u8], ino: u64, file_type: FileType, next: u64) -> bool;
}

bitflags::bitflags! {
    /// How a name is looked up.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct LookupFlags: u32 {
        /// Follow a symbolic link at the end.
        const FOLLOW = 1;
        /// The end must be a directory.
        const DIRECTORY = 2;
        /// An empty path means the start itself, `AT_EMPTY_PATH`.
        const EMPTY_PATH = 4;
        /// Fail to cross mounts, `RESOLVE_NO_XDEV`.
        const NO_XDEV = 0x10;
        /// Fail at magic links, `RESOLVE_NO_MAGICLINKS`.
        const NO_MAGICLINKS = 0x20;
        /// Fail at any symbolic link, `RESOLVE_NO_SYMLINKS`.
        const NO_SYMLINKS = 0x40;
        /// Fail to leave the tree below the start, `RESOLVE_BENEATH`.
        const BENEATH = 0x80;
        /// The start is the root, `RESOLVE_IN_ROOT`.
        const IN_ROOT = 0x100;
        /// Only what is cached, `RESOLVE_CACHED`.
        const CACHED = 0x200;
        /// Believe no [`Caching::Brief`](crate::vfs::Caching) answer: one has just proved wrong.
        const AGAIN = 0x400;
    }
}

impl From<ResolveFlags> for LookupFlags {
    fn from(resolve: ResolveFlags) -> Self {
        let pairs = [
            (ResolveFlags::RESOLVE_NO_XDEV, Self::NO_XDEV),
            (ResolveFlags::RESOLVE_NO_MAGICLINKS, Self::NO_MAGICLINKS),
            (ResolveFlags::RESOLVE_NO_SYMLINKS, Self::NO_SYMLINKS),
            (ResolveFlags::RESOLVE_BENEATH, Self::BENEATH),
            (ResolveFlags::RESOLVE_IN_ROOT, Self::IN_ROOT),
            (ResolveFlags::RESOLVE_CACHED, Self::CACHED),
        ];
        pairs
            .into_iter()
            .filter(|(theirs, _)| resolve.contains(*theirs))
            .fold(Self::empty(), |all, (_, ours)| all | ours)
    }
}

/// What an `open` asks for, `openat2(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenHow {
    /// `O_*`.
    pub flags: OpenFlags,
    /// Permission bits of a file that is created, before the umask.
    pub mode: u32,
    /// Limits on the walk.
    pub resolve: ResolveFlags,
}

impl OpenHow {
    /// How `open(2)` and `openat(2)` ask: unknown flags are ignored, `mode` counts only when something is created.
    pub fn from_open(flags: u32, mode: u32) -> Self {
        let mut flags = OpenFlags::from_bits_truncate(flags);
        if flags.contains(OpenFlags::O_PATH) {
            flags &= OpenFlags::O_PATH | OpenFlags::O_DIRECTORY | OpenFlags::O_NOFOLLOW | OpenFlags::O_CLOEXEC;
        }
        Self { flags, mode: mode & 0o7777, resolve: ResolveFlags::empty() }
    }

    /// How `openat2(2)` asks: anything unknown or meaningless is `EINVAL`.
    pub fn from_openat2(flags: u64, mode: u64, resolve: u64) -> Result<Self, Errno> {
        let flags = u32::try_from(flags).ok().and_then(OpenFlags::from_bits).ok_or(Errno::EINVAL)?;
        let resolve = ResolveFlags::from_bits(resolve).ok_or(Errno::EINVAL)?;
        let creates = flags.contains(OpenFlags::O_CREAT) || flags.contains(OpenFlags::O_TMPFILE);
        let mode = u32::try_from(mode).map_err(|_| Errno::EINVAL)?;
        if (mode & !0o7777 != 0) || (mode != 0 && !creates) {
            return Err(Errno::EINVAL);
        }
        if resolve.contains(ResolveFlags::RESOLVE_BENEATH | ResolveFlags::RESOLVE_IN_ROOT) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(OpenFlags::O_PATH) {
            let allowed = OpenFlags::O_PATH | OpenFlags::O_DIRECTORY | OpenFlags::O_NOFOLLOW | OpenFlags::O_CLOEXEC;
            if !allowed.contains(flags) {
                return Err(Errno::EINVAL);
            }
        }
        Ok(Self { flags, mode, resolve })
    }

    /// Whether reading is asked for.
    pub fn reads(&self) -> bool {
        let access = self.flags.bits() & abi::fs::O_ACCMODE;
        access != abi::fs::O_WRONLY && !self.flags.contains(OpenFlags::O_PATH)
    }

    /// Whether writing is asked for.
    pub fn writes(&self) -> bool {
        self.flags.bits() & abi::fs::O_ACCMODE != abi::fs::O_RDONLY && !self.flags.contains(OpenFlags::O_PATH)
    }
}

/// A device number as `dev_t` has it.
pub const fn makedev(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    ((major & 0xffff_f000) << 32) | ((major & 0xfff) << 8) | ((minor & 0xffff_ff00) << 12) | (minor & 0xff)
}

/// The major number of a device.
#[expect(clippy::cast_possible_truncation, reason = "both parts are masked to 32 bits")]
pub const fn major(dev: u64) -> u32 {
    (((dev >> 32) & 0xffff_f000) | ((dev >> 8) & 0xfff)) as u32
}

/// The minor number of a device.
#[expect(clippy::cast_possible_truncation, reason = "both parts are masked to 32 bits")]
pub const fn minor(dev: u64) -> u32 {
    (((dev >> 12) & 0xffff_ff00) | (dev & 0xff)) as u32
}
