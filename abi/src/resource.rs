//! Limits and usage: `getrlimit(2)`, `getrusage(2)`. `asm-generic/resource.h`, `linux/resource.h`.

consts! {
    u32 {
        RLIMIT_CPU = 0,
        RLIMIT_FSIZE = 1,
        RLIMIT_DATA = 2,
        RLIMIT_STACK = 3,
        RLIMIT_CORE = 4,
        RLIMIT_RSS = 5,
        RLIMIT_NPROC = 6,
        RLIMIT_NOFILE = 7,
        RLIMIT_MEMLOCK = 8,
        RLIMIT_AS = 9,
        RLIMIT_LOCKS = 10,
        RLIMIT_SIGPENDING = 11,
        RLIMIT_MSGQUEUE = 12,
        RLIMIT_NICE = 13,
        RLIMIT_RTPRIO = 14,
        RLIMIT_RTTIME = 15,
        RLIM_NLIMITS = 16,
    }
    u64 {
        RLIM_INFINITY = u64::MAX,
    }
    i32 {
        RUSAGE_SELF = 0,
        RUSAGE_CHILDREN = -1,
        RUSAGE_BOTH = -2,
        RUSAGE_THREAD = 1,
    }
}

uapi_struct! {
    /// `struct rlimit64`, on x86-64 the same as `struct rlimit`.
    pub struct Rlimit {
        pub rlim_cur: u64,
        pub rlim_max: u64,
    }
    /// `struct rusage`.
    pub struct Rusage {
        pub ru_utime: crate::time::Timeval,
        pub ru_stime: crate::time::Timeval,
        /// KiB.
        pub ru_maxrss: i64,
        pub ru_ixrss: i64,
        pub ru_idrss: i64,
        pub ru_isrss: i64,
        pub ru_minflt: i64,
        pub ru_majflt: i64,
        pub ru_nswap: i64,
        /// Blocks of 512 bytes.
        pub ru_inblock: i64,
        pub ru_oublock: i64,
        pub ru_msgsnd: i64,
        pub ru_msgrcv: i64,
        pub ru_nsignals: i64,
        pub ru_nvcsw: i64,
        pub ru_nivcsw: i64,
    }
}

layout! {
    Rlimit: 16;
    Rusage: 144, ru_maxrss @ 32, ru_nivcsw @ 136;
}
