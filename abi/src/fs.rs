//! Files: `open(2)`, `fcntl(2)`, path-taking calls, mounts, `getdents64(2)`. `asm-generic/fcntl.h`, `linux/fs.h`,
//! `linux/mount.h`, `linux/openat2.h`.

flags! {
    /// Flags of `open(2)` and status flags of an open file description.
    ///
    /// The two lowest bits are an access mode, not flags: see [`O_ACCMODE`]. `O_SYNC` contains `O_DSYNC`, `O_TMPFILE`
    /// contains `O_DIRECTORY`.
    pub struct OpenFlags: u32 {
        O_WRONLY = 0o1,
        O_RDWR = 0o2,
        O_CREAT = 0o100,
        O_EXCL = 0o200,
        O_NOCTTY = 0o400,
        O_TRUNC = 0o1000,
        O_APPEND = 0o2000,
        O_NONBLOCK = 0o4000,
        O_DSYNC = 0o10000,
        /// `FASYNC` in the kernel.
        O_ASYNC = 0o20000,
        O_DIRECT = 0o40000,
        O_LARGEFILE = 0o100000,
        O_DIRECTORY = 0o200000,
        O_NOFOLLOW = 0o400000,
        O_NOATIME = 0o1000000,
        O_CLOEXEC = 0o2000000,
        O_SYNC = 0o4010000,
        O_PATH = 0o10000000,
        O_TMPFILE = 0o20200000,
    }
    /// `AT_*` flags of path-taking calls. Each call accepts its own subset. Values that mean different things to
    /// different calls have several names.
    pub struct AtFlags: u32 {
        AT_SYMLINK_NOFOLLOW = 0x100,
        /// `faccessat2(2)`; the same bit as [`AtFlags::AT_REMOVEDIR`].
        AT_EACCESS = 0x200,
        /// `unlinkat(2)`.
        AT_REMOVEDIR = 0x200,
        AT_SYMLINK_FOLLOW = 0x400,
        AT_NO_AUTOMOUNT = 0x800,
        AT_EMPTY_PATH = 0x1000,
        AT_STATX_FORCE_SYNC = 0x2000,
        AT_STATX_DONT_SYNC = 0x4000,
        AT_RECURSIVE = 0x8000,
    }
    /// `open_how.resolve`, `openat2(2)`.
    pub struct ResolveFlags: u64 {
        RESOLVE_NO_XDEV = 0x01,
        RESOLVE_NO_MAGICLINKS = 0x02,
        RESOLVE_NO_SYMLINKS = 0x04,
        RESOLVE_BENEATH = 0x08,
        RESOLVE_IN_ROOT = 0x10,
        RESOLVE_CACHED = 0x20,
    }
    /// `renameat2(2)`.
    pub struct RenameFlags: u32 {
        RENAME_NOREPLACE = 1,
        RENAME_EXCHANGE = 2,
        RENAME_WHITEOUT = 4,
    }
    /// `fallocate(2)`.
    pub struct FallocFlags: u32 {
        FALLOC_FL_KEEP_SIZE = 0x01,
        FALLOC_FL_PUNCH_HOLE = 0x02,
        FALLOC_FL_NO_HIDE_STALE = 0x04,
        FALLOC_FL_COLLAPSE_RANGE = 0x08,
        FALLOC_FL_ZERO_RANGE = 0x10,
        FALLOC_FL_INSERT_RANGE = 0x20,
        FALLOC_FL_UNSHARE_RANGE = 0x40,
    }
    /// `setxattr(2)`.
    pub struct XattrFlags: u32 {
        XATTR_CREATE = 1,
        XATTR_REPLACE = 2,
    }
    /// `memfd_create(2)`.
    pub struct MemfdFlags: u32 {
        MFD_CLOEXEC = 0x1,
        MFD_ALLOW_SEALING = 0x2,
        MFD_HUGETLB = 0x4,
        MFD_NOEXEC_SEAL = 0x8,
        MFD_EXEC = 0x10,
    }
    /// `F_ADD_SEALS`, `fcntl(2)`.
    pub struct Seals: u32 {
        F_SEAL_SEAL = 0x01,
        F_SEAL_SHRINK = 0x02,
        F_SEAL_GROW = 0x04,
        F_SEAL_WRITE = 0x08,
        F_SEAL_FUTURE_WRITE = 0x10,
        F_SEAL_EXEC = 0x20,
    }
    /// `mount(2)`.
    pub struct MountFlags: u64 {
        MS_RDONLY = 1,
        MS_NOSUID = 2,
        MS_NODEV = 4,
        MS_NOEXEC = 8,
        MS_SYNCHRONOUS = 16,
        MS_REMOUNT = 32,
        MS_MANDLOCK = 64,
        MS_DIRSYNC = 128,
        MS_NOSYMFOLLOW = 256,
        MS_NOATIME = 1024,
        MS_NODIRATIME = 2048,
        MS_BIND = 4096,
        MS_MOVE = 8192,
        MS_REC = 16384,
        MS_SILENT = 32768,
        MS_POSIXACL = 1 << 16,
        MS_UNBINDABLE = 1 << 17,
        MS_PRIVATE = 1 << 18,
        MS_SLAVE = 1 << 19,
        MS_SHARED = 1 << 20,
        MS_RELATIME = 1 << 21,
        MS_KERNMOUNT = 1 << 22,
        MS_I_VERSION = 1 << 23,
        MS_STRICTATIME = 1 << 24,
        MS_LAZYTIME = 1 << 25,
    }
    /// `umount2(2)`.
    pub struct UmountFlags: u32 {
        MNT_FORCE = 1,
        MNT_DETACH = 2,
        MNT_EXPIRE = 4,
        UMOUNT_NOFOLLOW = 8,
    }
    /// `fsmount(2)` and `mount_setattr(2)` attributes.
    pub struct MountAttrFlags: u64 {
        MOUNT_ATTR_RDONLY = 0x1,
        MOUNT_ATTR_NOSUID = 0x2,
        MOUNT_ATTR_NODEV = 0x4,
        MOUNT_ATTR_NOEXEC = 0x8,
        MOUNT_ATTR_NOATIME = 0x10,
        MOUNT_ATTR_STRICTATIME = 0x20,
        MOUNT_ATTR_NODIRATIME = 0x80,
        MOUNT_ATTR_IDMAP = 0x100000,
        MOUNT_ATTR_NOSYMFOLLOW = 0x200000,
    }
    /// `preadv2(2)`.
    pub struct RwFlags: u32 {
        RWF_HIPRI = 0x01,
        RWF_DSYNC = 0x02,
        RWF_SYNC = 0x04,
        RWF_NOWAIT = 0x08,
        RWF_APPEND = 0x10,
        RWF_NOAPPEND = 0x20,
        RWF_ATOMIC = 0x40,
    }
    /// `splice(2)`, `tee(2)`, `vmsplice(2)`.
    pub struct SpliceFlags: u32 {
        SPLICE_F_MOVE = 1,
        SPLICE_F_NONBLOCK = 2,
        SPLICE_F_MORE = 4,
        SPLICE_F_GIFT = 8,
    }
    /// `close_range(2)`.
    pub struct CloseRangeFlags: u32 {
        CLOSE_RANGE_UNSHARE = 2,
        CLOSE_RANGE_CLOEXEC = 4,
    }
    /// `access(2)` modes.
    pub struct AccessMode: u32 {
        X_OK = 1,
        W_OK = 2,
        R_OK = 4,
    }
    /// `sync_file_range(2)`.
    pub struct SyncFileRangeFlags: u32 {
        SYNC_FILE_RANGE_WAIT_BEFORE = 1,
        SYNC_FILE_RANGE_WRITE = 2,
        SYNC_FILE_RANGE_WAIT_AFTER = 4,
    }
    /// `flock(2)` operations. Exactly one of SH, EX, UN, with or without NB.
    pub struct FlockOp: u32 {
        LOCK_SH = 1,
        LOCK_EX = 2,
        LOCK_NB = 4,
        LOCK_UN = 8,
    }
    /// inotify events and `inotify_add_watch(2)` options.
    pub struct InotifyMask: u32 {
        IN_ACCESS = 0x1,
        IN_MODIFY = 0x2,
        IN_ATTRIB = 0x4,
        IN_CLOSE_WRITE = 0x8,
        IN_CLOSE_NOWRITE = 0x10,
        IN_OPEN = 0x20,
        IN_MOVED_FROM = 0x40,
        IN_MOVED_TO = 0x80,
        IN_CREATE = 0x100,
        IN_DELETE = 0x200,
        IN_DELETE_SELF = 0x400,
        IN_MOVE_SELF = 0x800,
        IN_UNMOUNT = 0x2000,
        IN_Q_OVERFLOW = 0x4000,
        IN_IGNORED = 0x8000,
        IN_ONLYDIR = 0x0100_0000,
        IN_DONT_FOLLOW = 0x0200_0000,
        IN_EXCL_UNLINK = 0x0400_0000,
        IN_MASK_CREATE = 0x1000_0000,
        IN_MASK_ADD = 0x2000_0000,
        IN_ISDIR = 0x4000_0000,
        IN_ONESHOT = 0x8000_0000,
    }
    /// `inotify_init1(2)`.
    pub struct InotifyInitFlags: u32 {
        IN_NONBLOCK = 0o4000,
        IN_CLOEXEC = 0o2000000,
    }
    /// `eventfd2(2)`.
    pub struct EventfdFlags: u32 {
        EFD_SEMAPHORE = 1,
        EFD_NONBLOCK = 0o4000,
        EFD_CLOEXEC = 0o2000000,
    }
}

consts! {
    u32 {
        /// Mask of the access mode in `open(2)` flags.
        O_ACCMODE = 3,
        O_RDONLY = 0,
        O_WRONLY = 1,
        O_RDWR = 2,
        /// The bit that makes `O_TMPFILE` different from `O_DIRECTORY`.
        __O_TMPFILE = 0o20000000,
        /// The bit that makes `O_SYNC` different from `O_DSYNC`.
        __O_SYNC = 0o4000000,
        F_OK = 0,
    }
    i32 {
        /// "The current directory", as a directory descriptor.
        AT_FDCWD = -100,
    }
    u32 {
        S_IFMT = 0o170000,
        S_IFSOCK = 0o140000,
        S_IFLNK = 0o120000,
        S_IFREG = 0o100000,
        S_IFBLK = 0o060000,
        S_IFDIR = 0o040000,
        S_IFCHR = 0o020000,
        S_IFIFO = 0o010000,
        S_ISUID = 0o4000,
        S_ISGID = 0o2000,
        S_ISVTX = 0o1000,
        S_IRWXU = 0o700,
        S_IRUSR = 0o400,
        S_IWUSR = 0o200,
        S_IXUSR = 0o100,
        S_IRWXG = 0o070,
        S_IRGRP = 0o040,
        S_IWGRP = 0o020,
        S_IXGRP = 0o010,
        S_IRWXO = 0o007,
        S_IROTH = 0o004,
        S_IWOTH = 0o002,
        S_IXOTH = 0o001,
        /// All mode bits that `chmod(2)` sets.
        S_IALLUGO = 0o7777,
    }
    u32 {
        F_DUPFD = 0,
        F_GETFD = 1,
        F_SETFD = 2,
        F_GETFL = 3,
        F_SETFL = 4,
        F_GETLK = 5,
        F_SETLK = 6,
        F_SETLKW = 7,
        F_SETOWN = 8,
        F_GETOWN = 9,
        F_SETSIG = 10,
        F_GETSIG = 11,
        F_SETOWN_EX = 15,
        F_GETOWN_EX = 16,
        F_GETOWNER_UIDS = 17,
        F_OFD_GETLK = 36,
        F_OFD_SETLK = 37,
        F_OFD_SETLKW = 38,
        F_SETLEASE = 1024,
        F_GETLEASE = 1025,
        F_NOTIFY = 1026,
        F_DUPFD_QUERY = 1027,
        F_CREATED_QUERY = 1028,
        F_CANCELLK = 1029,
        F_DUPFD_CLOEXEC = 1030,
        F_SETPIPE_SZ = 1031,
        F_GETPIPE_SZ = 1032,
        F_ADD_SEALS = 1033,
        F_GET_SEALS = 1034,
        F_GET_RW_HINT = 1035,
        F_SET_RW_HINT = 1036,
        F_GET_FILE_RW_HINT = 1037,
        F_SET_FILE_RW_HINT = 1038,
        FD_CLOEXEC = 1,
    }
    i32 {
        F_OWNER_TID = 0,
        F_OWNER_PID = 1,
        F_OWNER_PGRP = 2,
    }
    i16 {
        F_RDLCK = 0,
        F_WRLCK = 1,
        F_UNLCK = 2,
    }
    u32 {
        SEEK_SET = 0,
        SEEK_CUR = 1,
        SEEK_END = 2,
        SEEK_DATA = 3,
        SEEK_HOLE = 4,
    }
    u8 {
        DT_UNKNOWN = 0,
        DT_FIFO = 1,
        DT_CHR = 2,
        DT_DIR = 4,
        DT_BLK = 6,
        DT_REG = 8,
        DT_LNK = 10,
        DT_SOCK = 12,
        DT_WHT = 14,
    }
    u32 {
        POSIX_FADV_NORMAL = 0,
        POSIX_FADV_RANDOM = 1,
        POSIX_FADV_SEQUENTIAL = 2,
        POSIX_FADV_WILLNEED = 3,
        POSIX_FADV_DONTNEED = 4,
        POSIX_FADV_NOREUSE = 5,
    }
    usize {
        /// Longest path in bytes, terminating NUL included.
        PATH_MAX = 4096,
        /// Longest file name in bytes, without NUL.
        NAME_MAX = 255,
        /// Largest number of buffers in a vectored call.
        UIO_MAXIOV = 1024,
        XATTR_NAME_MAX = 255,
        XATTR_SIZE_MAX = 65536,
        XATTR_LIST_MAX = 65536,
        /// Bytes that a write to a pipe transfers in one piece.
        PIPE_BUF = 4096,
        /// `memfd_create(2)` name length without NUL.
        MFD_NAME_MAX = 249,
        /// Most symbolic links followed in one path walk.
        MAXSYMLINKS = 40,
    }
    u64 {
        /// Most bytes one read or write call moves.
        MAX_RW_COUNT = 0x7fff_f000,
    }
    u64 {
        UTIME_NOW = (1 << 30) - 1,
        UTIME_OMIT = (1 << 30) - 2,
    }
    u32 {
        MFD_HUGE_SHIFT = 26,
        MFD_HUGE_MASK = 0x3f,
    }
    u64 {
        /// `MS_MGC_VAL`: the old magic in the upper half of `mount(2)` flags, ignored.
        MS_MGC_VAL = 0xC0ED_0000,
        MS_MGC_MSK = 0xffff_0000,
    }
    u32 {
        OPEN_TREE_CLONE = 1,
        MOVE_MOUNT_F_SYMLINKS = 0x1,
        MOVE_MOUNT_F_AUTOMOUNTS = 0x2,
        MOVE_MOUNT_F_EMPTY_PATH = 0x4,
        MOVE_MOUNT_T_SYMLINKS = 0x10,
        MOVE_MOUNT_T_AUTOMOUNTS = 0x20,
        MOVE_MOUNT_T_EMPTY_PATH = 0x40,
        MOVE_MOUNT_SET_GROUP = 0x100,
        MOVE_MOUNT_BENEATH = 0x200,
        FSOPEN_CLOEXEC = 1,
        FSMOUNT_CLOEXEC = 1,
        FSPICK_CLOEXEC = 1,
    }
    u32 {
        QIF_DQBLKSIZE = 1024,
    }
}

uapi_struct! {
    /// `struct iovec`.
    pub struct Iovec {
        pub iov_base: u64,
        pub iov_len: u64,
    }
    /// `struct flock` of `fcntl(2)` locks.
    pub struct Flock {
        pub l_type: i16,
        pub l_whence: i16,
        pub _pad: u32,
        pub l_start: i64,
        pub l_len: i64,
        pub l_pid: i32,
        pub _pad2: u32,
    }
    /// `struct f_owner_ex`.
    pub struct FOwnerEx {
        pub r#type: i32,
        pub pid: i32,
    }
    /// `struct open_how`, `openat2(2)`.
    pub struct OpenHow {
        pub flags: u64,
        pub mode: u64,
        pub resolve: u64,
    }
    /// `struct linux_dirent64` up to its name, which is NUL-terminated; records are padded to 8 bytes.
    pub struct Dirent64Header {
        pub d_ino: u64,
        pub d_off: i64,
        pub d_reclen: u16,
        pub d_type: u8,
        /// First byte of the name and padding of this header: real records are cut at [`DIRENT64_NAME_OFFSET`].
        pub d_name: [u8; 5],
    }
    /// `struct linux_dirent` of the old `getdents(2)` up to its name; the type is the record's last byte.
    pub struct DirentHeader {
        pub d_ino: u64,
        pub d_off: u64,
        pub d_reclen: u16,
        /// First bytes of the name and padding of this header: real records are cut at [`DIRENT_NAME_OFFSET`].
        pub d_name: [u8; 6],
    }
    /// `struct inotify_event` up to its name.
    pub struct InotifyEvent {
        pub wd: i32,
        pub mask: u32,
        pub cookie: u32,
        pub len: u32,
    }
    /// `struct mount_attr`, `mount_setattr(2)`.
    pub struct MountAttr {
        pub attr_set: u64,
        pub attr_clr: u64,
        pub propagation: u64,
        pub userns_fd: u64,
    }
    /// `struct file_handle` up to its bytes.
    pub struct FileHandleHeader {
        pub handle_bytes: u32,
        pub handle_type: i32,
    }
    /// `struct utimbuf`.
    pub struct Utimbuf {
        pub actime: i64,
        pub modtime: i64,
    }
}

/// Offset of the name in `linux_dirent64`.
pub const DIRENT64_NAME_OFFSET: usize = 19;
/// Offset of the name in `linux_dirent`.
pub const DIRENT_NAME_OFFSET: usize = 18;
/// Size of the first published `struct open_how`.
pub const OPEN_HOW_SIZE_VER0: usize = 24;
/// Size of the first published `struct mount_attr`.
pub const MOUNT_ATTR_SIZE_VER0: usize = 32;

layout! {
    Iovec: 16;
    Flock: 32, l_start @ 8, l_len @ 16, l_pid @ 24;
    FOwnerEx: 8;
    OpenHow: 24;
    Dirent64Header: 24, d_reclen @ 16, d_type @ 18, d_name @ 19;
    DirentHeader: 24, d_reclen @ 16, d_name @ 18;
    InotifyEvent: 16;
    MountAttr: 32;
}
