//! File metadata: `stat(2)`, `statx(2)`, `statfs(2)`. `asm/stat.h`, `linux/stat.h`, `asm/statfs.h`, `linux/magic.h`.

uapi_struct! {
    /// `struct stat`.
    pub struct Stat {
        pub st_dev: u64,
        pub st_ino: u64,
        pub st_nlink: u64,
        pub st_mode: u32,
        pub st_uid: u32,
        pub st_gid: u32,
        pub _pad0: u32,
        pub st_rdev: u64,
        pub st_size: i64,
        pub st_blksize: i64,
        /// In units of 512 bytes.
        pub st_blocks: i64,
        pub st_atime: i64,
        pub st_atime_nsec: u64,
        pub st_mtime: i64,
        pub st_mtime_nsec: u64,
        pub st_ctime: i64,
        pub st_ctime_nsec: u64,
        pub _unused: [i64; 3],
    }
    /// `struct statx_timestamp`.
    pub struct StatxTimestamp {
        pub tv_sec: i64,
        pub tv_nsec: u32,
        pub _reserved: i32,
    }
    /// `struct statx`.
    pub struct Statx {
        pub stx_mask: u32,
        pub stx_blksize: u32,
        pub stx_attributes: u64,
        pub stx_nlink: u32,
        pub stx_uid: u32,
        pub stx_gid: u32,
        pub stx_mode: u16,
        pub _spare0: u16,
        pub stx_ino: u64,
        pub stx_size: u64,
        /// In units of 512 bytes.
        pub stx_blocks: u64,
        pub stx_attributes_mask: u64,
        pub stx_atime: StatxTimestamp,
        pub stx_btime: StatxTimestamp,
        pub stx_ctime: StatxTimestamp,
        pub stx_mtime: StatxTimestamp,
        pub stx_rdev_major: u32,
        pub stx_rdev_minor: u32,
        pub stx_dev_major: u32,
        pub stx_dev_minor: u32,
        pub stx_mnt_id: u64,
        pub stx_dio_mem_align: u32,
        pub stx_dio_offset_align: u32,
        pub stx_subvol: u64,
        pub stx_atomic_write_unit_min: u32,
        pub stx_atomic_write_unit_max: u32,
        pub stx_atomic_write_segments_max: u32,
        pub _spare1: u32,
        pub _spare3: [u64; 9],
    }
    /// `struct statfs`.
    pub struct Statfs {
        pub f_type: i64,
        pub f_bsize: i64,
        pub f_blocks: u64,
        pub f_bfree: u64,
        pub f_bavail: u64,
        pub f_files: u64,
        pub f_ffree: u64,
        pub f_fsid: [i32; 2],
        pub f_namelen: i64,
        pub f_frsize: i64,
        pub f_flags: i64,
        pub f_spare: [i64; 4],
    }
}

flags! {
    /// What `statx(2)` is asked for and says it filled.
    pub struct StatxMask: u32 {
        STATX_TYPE = 0x1,
        STATX_MODE = 0x2,
        STATX_NLINK = 0x4,
        STATX_UID = 0x8,
        STATX_GID = 0x10,
        STATX_ATIME = 0x20,
        STATX_MTIME = 0x40,
        STATX_CTIME = 0x80,
        STATX_INO = 0x100,
        STATX_SIZE = 0x200,
        STATX_BLOCKS = 0x400,
        STATX_BASIC_STATS = 0x7ff,
        STATX_BTIME = 0x800,
        STATX_MNT_ID = 0x1000,
        STATX_DIOALIGN = 0x2000,
        STATX_MNT_ID_UNIQUE = 0x4000,
        STATX_SUBVOL = 0x8000,
        STATX_WRITE_ATOMIC = 0x10000,
        /// Refused with EINVAL.
        STATX__RESERVED = 0x8000_0000,
    }
    /// `stx_attributes`.
    pub struct StatxAttributes: u64 {
        STATX_ATTR_COMPRESSED = 0x4,
        STATX_ATTR_IMMUTABLE = 0x10,
        STATX_ATTR_APPEND = 0x20,
        STATX_ATTR_NODUMP = 0x40,
        STATX_ATTR_ENCRYPTED = 0x800,
        STATX_ATTR_AUTOMOUNT = 0x1000,
        STATX_ATTR_MOUNT_ROOT = 0x2000,
        STATX_ATTR_VERITY = 0x0010_0000,
        STATX_ATTR_DAX = 0x0020_0000,
    }
    /// `f_flags` of `statfs(2)`.
    pub struct StatfsFlags: u64 {
        ST_RDONLY = 1,
        ST_NOSUID = 2,
        ST_NODEV = 4,
        ST_NOEXEC = 8,
        ST_SYNCHRONOUS = 16,
        ST_VALID = 32,
        ST_MANDLOCK = 64,
        ST_NOATIME = 1024,
        ST_NODIRATIME = 2048,
        ST_RELATIME = 4096,
        ST_NOSYMFOLLOW = 8192,
    }
}

consts! {
    i64 {
        TMPFS_MAGIC = 0x0102_1994,
        PROC_SUPER_MAGIC = 0x9fa0,
        SYSFS_MAGIC = 0x6265_6572,
        DEVPTS_SUPER_MAGIC = 0x1cd1,
        OVERLAYFS_SUPER_MAGIC = 0x794c_7630,
        EXT4_SUPER_MAGIC = 0xef53,
        PIPEFS_MAGIC = 0x5049_5045,
        SOCKFS_MAGIC = 0x534f_434b,
        ANON_INODE_FS_MAGIC = 0x0904_1934,
        CGROUP_SUPER_MAGIC = 0x0027_e0eb,
        CGROUP2_SUPER_MAGIC = 0x6367_7270,
        NSFS_MAGIC = 0x6e73_6673,
        PID_FS_MAGIC = 0x5049_4446,
        MQUEUE_MAGIC = 0x1980_0202,
        HUGETLBFS_MAGIC = 0x9584_58f6,
        RAMFS_MAGIC = 0x8584_58f6,
        V9FS_MAGIC = 0x0102_1997,
    }
}

layout! {
    Stat: 144, st_mode @ 24, st_rdev @ 40, st_size @ 48, st_atime @ 72, st_ctime @ 104;
    StatxTimestamp: 16;
    Statx: 256, stx_mode @ 28, stx_ino @ 32, stx_atime @ 64, stx_rdev_major @ 128, stx_mnt_id @ 144, stx_subvol @ 160;
    Statfs: 120, f_fsid @ 56, f_namelen @ 64, f_flags @ 80;
}
