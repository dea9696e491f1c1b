//! Memory: `mmap(2)`, `mremap(2)`, `madvise(2)`, `msync(2)`, `mlock(2)`. `asm-generic/mman-common.h`, `linux/mman.h`.

flags! {
    /// Protection of a mapping; no bit is `PROT_NONE`.
    pub struct ProtFlags: u32 {
        PROT_READ = 1,
        PROT_WRITE = 2,
        PROT_EXEC = 4,
        PROT_SEM = 8,
        /// `mprotect(2)`: extend the change to the start of a growsdown mapping.
        PROT_GROWSDOWN = 0x0100_0000,
        PROT_GROWSUP = 0x0200_0000,
    }
    /// `mmap(2)` flags. The low four bits are a type, not flags: see [`MAP_TYPE`].
    pub struct MapFlags: u32 {
        MAP_SHARED = 0x01,
        MAP_PRIVATE = 0x02,
        /// A type of its own (`MAP_SHARED | MAP_PRIVATE`): shared, and unknown flags are refused.
        MAP_SHARED_VALIDATE = 0x03,
        MAP_FIXED = 0x10,
        MAP_ANONYMOUS = 0x20,
        MAP_32BIT = 0x40,
        MAP_ABOVE4G = 0x80,
        MAP_GROWSDOWN = 0x0100,
        MAP_DENYWRITE = 0x0800,
        MAP_EXECUTABLE = 0x1000,
        MAP_LOCKED = 0x2000,
        MAP_NORESERVE = 0x4000,
        MAP_POPULATE = 0x8000,
        MAP_NONBLOCK = 0x1_0000,
        MAP_STACK = 0x2_0000,
        MAP_HUGETLB = 0x4_0000,
        MAP_SYNC = 0x8_0000,
        MAP_FIXED_NOREPLACE = 0x10_0000,
        MAP_UNINITIALIZED = 0x400_0000,
    }
    /// `mremap(2)`.
    pub struct MremapFlags: u32 {
        MREMAP_MAYMOVE = 1,
        MREMAP_FIXED = 2,
        MREMAP_DONTUNMAP = 4,
    }
    /// `msync(2)`.
    pub struct MsyncFlags: u32 {
        MS_ASYNC = 1,
        MS_INVALIDATE = 2,
        MS_SYNC = 4,
    }
    /// `mlock2(2)`.
    pub struct MlockFlags: u32 {
        MLOCK_ONFAULT = 1,
    }
    /// `mlockall(2)`.
    pub struct MlockallFlags: u32 {
        MCL_CURRENT = 1,
        MCL_FUTURE = 2,
        MCL_ONFAULT = 4,
    }
    /// `membarrier(2)` commands, as its `QUERY` answers them.
    pub struct MembarrierCmd: u32 {
        MEMBARRIER_CMD_GLOBAL = 1,
        MEMBARRIER_CMD_GLOBAL_EXPEDITED = 2,
        MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED = 4,
        MEMBARRIER_CMD_PRIVATE_EXPEDITED = 8,
        MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED = 16,
        MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE = 32,
        MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE = 64,
        MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ = 128,
        MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ = 256,
        MEMBARRIER_CMD_GET_REGISTRATIONS = 512,
    }
}

consts! {
    u32 {
        PROT_NONE = 0,
        /// Mask of the mapping type in `mmap(2)` flags.
        MAP_TYPE = 0x0f,
        MAP_HUGE_SHIFT = 26,
        MAP_HUGE_MASK = 0x3f,
        MEMBARRIER_CMD_QUERY = 0,
        MEMBARRIER_CMD_FLAG_CPU = 1,
    }
    u32 {
        MADV_NORMAL = 0,
        MADV_RANDOM = 1,
        MADV_SEQUENTIAL = 2,
        MADV_WILLNEED = 3,
        MADV_DONTNEED = 4,
        MADV_FREE = 8,
        MADV_REMOVE = 9,
        MADV_DONTFORK = 10,
        MADV_DOFORK = 11,
        MADV_MERGEABLE = 12,
        MADV_UNMERGEABLE = 13,
        MADV_HUGEPAGE = 14,
        MADV_NOHUGEPAGE = 15,
        MADV_DONTDUMP = 16,
        MADV_DODUMP = 17,
        MADV_WIPEONFORK = 18,
        MADV_KEEPONFORK = 19,
        MADV_COLD = 20,
        MADV_PAGEOUT = 21,
        MADV_POPULATE_READ = 22,
        MADV_POPULATE_WRITE = 23,
        MADV_DONTNEED_LOCKED = 24,
        MADV_COLLAPSE = 25,
        MADV_HWPOISON = 100,
        MADV_SOFT_OFFLINE = 101,
    }
    u32 {
        MPOL_DEFAULT = 0,
        MPOL_PREFERRED = 1,
        MPOL_BIND = 2,
        MPOL_INTERLEAVE = 3,
        MPOL_LOCAL = 4,
        MPOL_PREFERRED_MANY = 5,
        MPOL_WEIGHTED_INTERLEAVE = 6,
        MPOL_F_NODE = 1,
        MPOL_F_ADDR = 2,
        MPOL_F_MEMS_ALLOWED = 4,
    }
    u64 {
        /// First address past the user half with 4-level page tables, less the guard page.
        TASK_SIZE = 0x7fff_ffff_f000,
        /// `vm.mmap_min_addr` as we report it.
        MMAP_MIN_ADDR = 65536,
        /// Least distance kept free below a growing stack, `stack_guard_gap`.
        STACK_GUARD_GAP = 256 * 4096,
    }
}
