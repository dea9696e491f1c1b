//! The table: one row per host call, by family. A row without alternatives allows every argument.

use libc::{
    CLONE_CHILD_CLEARTID, CLONE_FILES, CLONE_FS, CLONE_PARENT_SETTID, CLONE_SETTLS, CLONE_SIGHAND, CLONE_SYSVSEM,
    CLONE_THREAD, CLONE_VM,
};
use usermem::platform::HostCallRule;

/// Compares the low half of an argument: for `int` arguments, whose upper half the host ignores.
const INT: u64 = 0xffff_ffff;
/// Compares the whole argument.
const ALL: u64 = u64::MAX;

/// Flags with which the C library starts a thread (`pthread_create`), as one value.
#[allow(clippy::cast_sign_loss, reason = "flag bits; no `try_from` in constants")]
const THREAD_FLAGS: u64 = (CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID) as u64;

const fn any(nr: i64, reason: &'static str) -> HostCallRule {
    HostCallRule { nr, args: &[], reason }
}

const fn with(nr: i64, args: &'static [&'static [(u8, u64, u64)]], reason: &'static str) -> HostCallRule {
    HostCallRule { nr, args, reason }
}

/// What our kernel, its libraries and the C library below them call.
pub(super) const RULES: &[HostCallRule] = &[
    // Moving bytes of host files, standard streams, the control socket and the logs.
    any(libc::SYS_read, "standard streams with a shared offset; signal and event descriptors"),
    any(libc::SYS_write, "standard streams with a shared offset; log lines"),
    any(libc::SYS_readv, "standard streams into several pieces of guest memory"),
    any(libc::SYS_writev, "standard streams from several pieces of guest memory"),
    any(libc::SYS_preadv, "host files into several pieces of guest memory"),
    any(libc::SYS_pwritev, "writable volumes from several pieces of guest memory"),
    any(libc::SYS_preadv2, "streams that could not be opened anew: RWF_NOWAIT"),
    any(libc::SYS_pwritev2, "streams that could not be opened anew: RWF_NOWAIT"),
    any(libc::SYS_lseek, "SEEK_DATA and SEEK_HOLE on the memory file; offsets of standard streams"),
    any(libc::SYS_close, "host files whose last user is gone"),
    any(libc::SYS_recvfrom, "control socket"),
    any(libc::SYS_sendto, "control socket"),
    // Host files, below the descriptors of their trees.
    any(libc::SYS_openat2, "host files below a tree; nothing else is reachable"),
    any(libc::SYS_newfstatat, "metadata of host files"),
    any(libc::SYS_fstat, "metadata of host files and standard streams"),
    with(
        libc::SYS_openat,
        &[&[(0, INT, libc::AT_FDCWD as u32 as u64)]],
        "answered ENOSYS by the second filter: the C library's allocator looks into /proc",
    ),
    any(libc::SYS_statx, "metadata of host files"),
    any(libc::SYS_fstatfs, "statfs of host trees"),
    any(libc::SYS_readlinkat, "symbolic links of host trees"),
    any(libc::SYS_getdents64, "directories of host trees"),
    any(libc::SYS_ftruncate, "writable volumes; size of the memory file"),
    any(libc::SYS_fallocate, "holes in the memory file; writable volumes"),
    any(libc::SYS_fsync, "writable volumes"),
    any(libc::SYS_fdatasync, "writable volumes"),
    any(libc::SYS_mkdirat, "writable volumes"),
    any(libc::SYS_unlinkat, "writable volumes"),
    any(libc::SYS_renameat2, "writable volumes"),
    any(libc::SYS_linkat, "writable volumes"),
    any(libc::SYS_symlinkat, "writable volumes"),
    any(libc::SYS_fchmod, "writable volumes"),
    any(libc::SYS_fchmodat, "writable volumes"),
    any(libc::SYS_fchownat, "writable volumes"),
    any(libc::SYS_utimensat, "writable volumes"),
    with(
        libc::SYS_fcntl,
        &[
            &[(1, INT, libc::F_GETFL as u64)],
            &[(1, INT, libc::F_GETFD as u64)],
            &[(1, INT, libc::F_DUPFD_CLOEXEC as u64)],
        ],
        "state of standard streams; duplicates of descriptors",
    ),
    with(
        libc::SYS_ioctl,
        &[
            &[(1, INT, libc::TCGETS)],
            &[(1, INT, libc::TCSETS)],
            &[(1, INT, libc::TCSETSW)],
            &[(1, INT, libc::TCSETSF)],
            &[(1, INT, libc::TIOCGWINSZ)],
            &[(1, INT, libc::FIONREAD)],
        ],
        "mode, size and input queue of a standard stream that is a terminal; never TIOCSTI",
    ),
    // Waiting.
    any(libc::SYS_ppoll, "readiness of standard streams"),
    any(libc::SYS_epoll_wait, "the one thread that watches pollable host descriptors"),
    any(libc::SYS_epoll_pwait, "the one thread that watches pollable host descriptors"),
    any(libc::SYS_futex, "locks and parked tasks"),
    any(libc::SYS_restart_syscall, "a host sleep continued after a host signal"),
    any(libc::SYS_sched_yield, "short spins"),
    // Memory of the kernel process; executable memory is never mapped.
    with(libc::SYS_mmap, &[&[(2, libc::PROT_EXEC as u64, 0)]], "heap, thread stacks, windows of the memory file"),
    with(libc::SYS_mprotect, &[&[(2, libc::PROT_EXEC as u64, 0)]], "guard pages of thread stacks; heap growth"),
    any(libc::SYS_munmap, "heap, thread stacks, windows of the memory file"),
    any(libc::SYS_mremap, "growth of large heap blocks"),
    any(libc::SYS_madvise, "heap and stacks given back; windows of the memory file"),
    any(libc::SYS_brk, "growth of the heap"),
    // Threads of the kernel process.
    with(libc::SYS_clone, &[&[(0, ALL, THREAD_FLAGS)]], "one thread per guest task; never a process"),
    any(libc::SYS_clone3, "answered ENOSYS by the second filter: the C library then uses clone"),
    any(libc::SYS_set_robust_list, "start of a thread"),
    any(libc::SYS_rseq, "start of a thread"),
    any(libc::SYS_sigaltstack, "start and end of a thread"),
    any(libc::SYS_exit, "end of a thread"),
    any(libc::SYS_exit_group, "end of the sandbox"),
    any(libc::SYS_sched_getaffinity, "number of processors"),
    with(libc::SYS_prctl, &[&[(0, INT, libc::PR_SET_NAME as u64)]], "names of threads"),
    any(libc::SYS_gettid, "locks of the C library"),
    with(libc::SYS_tgkill, &[&[(0, INT, 1)]], "waking own threads; an abort (the sandbox process is pid 1)"),
    any(libc::SYS_rt_sigprocmask, "start of a thread"),
    any(libc::SYS_rt_sigaction, "start of a thread; an abort"),
    any(libc::SYS_rt_sigreturn, "return from the handler that fixes faulting copies"),
    // Values.
    any(libc::SYS_clock_gettime, "clocks that the host's vDSO does not serve: CPU time"),
    any(libc::SYS_getrandom, "random bytes for the guest and for hash tables"),
];
