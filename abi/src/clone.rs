//! Making tasks: `clone(2)`, `unshare(2)`, `pidfd_open(2)`. `linux/sched.h`, `linux/pidfd.h`, `linux/kcmp.h`.

flags! {
    /// `clone(2)`, `clone3(2)`, `unshare(2)`, `setns(2)`. In `clone(2)` the low byte ([`CSIGNAL`]) is the exit signal.
    pub struct CloneFlags: u64 {
        /// `unshare(2)` and `clone3(2)` only: shares its bit with the exit signal of `clone(2)`.
        CLONE_NEWTIME = 0x80,
        CLONE_VM = 0x100,
        CLONE_FS = 0x200,
        CLONE_FILES = 0x400,
        CLONE_SIGHAND = 0x800,
        CLONE_PIDFD = 0x1000,
        CLONE_PTRACE = 0x2000,
        CLONE_VFORK = 0x4000,
        CLONE_PARENT = 0x8000,
        CLONE_THREAD = 0x1_0000,
        CLONE_NEWNS = 0x2_0000,
        CLONE_SYSVSEM = 0x4_0000,
        CLONE_SETTLS = 0x8_0000,
        CLONE_PARENT_SETTID = 0x10_0000,
        CLONE_CHILD_CLEARTID = 0x20_0000,
        /// Ignored.
        CLONE_DETACHED = 0x40_0000,
        CLONE_UNTRACED = 0x80_0000,
        CLONE_CHILD_SETTID = 0x100_0000,
        CLONE_NEWCGROUP = 0x200_0000,
        CLONE_NEWUTS = 0x400_0000,
        CLONE_NEWIPC = 0x800_0000,
        CLONE_NEWUSER = 0x1000_0000,
        CLONE_NEWPID = 0x2000_0000,
        CLONE_NEWNET = 0x4000_0000,
        CLONE_IO = 0x8000_0000,
        /// `clone3(2)` only.
        CLONE_CLEAR_SIGHAND = 0x1_0000_0000,
        /// `clone3(2)` only.
        CLONE_INTO_CGROUP = 0x2_0000_0000,
    }
    /// `pidfd_open(2)`.
    pub struct PidfdFlags: u32 {
        PIDFD_THREAD = 0o200,
        PIDFD_NONBLOCK = 0o4000,
    }
}

consts! {
    u64 {
        /// Mask of the exit signal in `clone(2)` flags.
        CSIGNAL = 0xff,
    }
    usize {
        CLONE_ARGS_SIZE_VER0 = 64,
        CLONE_ARGS_SIZE_VER1 = 80,
        CLONE_ARGS_SIZE_VER2 = 88,
    }
    u32 {
        PIDFD_SIGNAL_THREAD = 1,
        PIDFD_SIGNAL_THREAD_GROUP = 2,
        PIDFD_SIGNAL_PROCESS_GROUP = 4,
    }
    i32 {
        KCMP_FILE = 0,
        KCMP_VM = 1,
        KCMP_FILES = 2,
        KCMP_FS = 3,
        KCMP_SIGHAND = 4,
        KCMP_IO = 5,
        KCMP_SYSVSEM = 6,
        KCMP_EPOLL_TFD = 7,
    }
}

uapi_struct! {
    /// `struct clone_args`.
    pub struct CloneArgs {
        pub flags: u64,
        pub pidfd: u64,
        pub child_tid: u64,
        pub parent_tid: u64,
        pub exit_signal: u64,
        pub stack: u64,
        pub stack_size: u64,
        pub tls: u64,
        pub set_tid: u64,
        pub set_tid_size: u64,
        pub cgroup: u64,
    }
}

layout! { CloneArgs: 88, set_tid @ 64, cgroup @ 80; }
