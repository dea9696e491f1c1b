//! `seccomp(2)` and the classic BPF programs it takes. `linux/seccomp.h`, `linux/filter.h`, `linux/audit.h`.

consts! {
    u32 {
        SECCOMP_MODE_DISABLED = 0,
        SECCOMP_MODE_STRICT = 1,
        SECCOMP_MODE_FILTER = 2,
        SECCOMP_SET_MODE_STRICT = 0,
        SECCOMP_SET_MODE_FILTER = 1,
        SECCOMP_GET_ACTION_AVAIL = 2,
        SECCOMP_GET_NOTIF_SIZES = 3,
    }
    u32 {
        SECCOMP_RET_KILL_PROCESS = 0x8000_0000,
        SECCOMP_RET_KILL_THREAD = 0,
        SECCOMP_RET_TRAP = 0x0003_0000,
        SECCOMP_RET_ERRNO = 0x0005_0000,
        SECCOMP_RET_USER_NOTIF = 0x7fc0_0000,
        SECCOMP_RET_TRACE = 0x7ff0_0000,
        SECCOMP_RET_LOG = 0x7ffc_0000,
        SECCOMP_RET_ALLOW = 0x7fff_0000,
        SECCOMP_RET_ACTION_FULL = 0xffff_0000,
        SECCOMP_RET_DATA = 0x0000_ffff,
    }
    u32 {
        AUDIT_ARCH_X86_64 = 0xc000_003e,
    }
    usize {
        /// Most instructions of one filter.
        BPF_MAXINSNS = 4096,
    }
}

flags! {
    /// Flags of `SECCOMP_SET_MODE_FILTER`.
    pub struct SeccompFilterFlags: u32 {
        SECCOMP_FILTER_FLAG_TSYNC = 1,
        SECCOMP_FILTER_FLAG_LOG = 2,
        SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4,
        SECCOMP_FILTER_FLAG_NEW_LISTENER = 8,
        SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 16,
        SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32,
    }
}

uapi_struct! {
    /// `struct seccomp_data`: what a filter sees.
    pub struct SeccompData {
        pub nr: i32,
        pub arch: u32,
        pub instruction_pointer: u64,
        pub args: [u64; 6],
    }
    /// `struct sock_filter`: one instruction.
    pub struct SockFilter {
        pub code: u16,
        pub jt: u8,
        pub jf: u8,
        pub k: u32,
    }
    /// `struct sock_fprog`.
    pub struct SockFprog {
        pub len: u16,
        pub _pad: [u16; 3],
        /// Address of the first [`SockFilter`].
        pub filter: u64,
    }
    /// `struct seccomp_notif_sizes`.
    pub struct SeccompNotifSizes {
        pub seccomp_notif: u16,
        pub seccomp_notif_resp: u16,
        pub seccomp_data: u16,
    }
    /// `struct seccomp_notif`.
    pub struct SeccompNotif {
        pub id: u64,
        pub pid: u32,
        pub flags: u32,
        pub data: SeccompData,
    }
    /// `struct seccomp_notif_resp`.
    pub struct SeccompNotifResp {
        pub id: u64,
        pub val: i64,
        pub error: i32,
        pub flags: u32,
    }
}

layout! {
    SeccompData: 64, instruction_pointer @ 8, args @ 16;
    SockFilter: 8;
    SockFprog: 16, filter @ 8;
    SeccompNotif: 80, data @ 16;
    SeccompNotifResp: 24;
}
