//! What the guest tests share: host-libc calls that say which call failed, and children that must end well.
//!
//! The tests are ordinary programs. `cargo xtask test` runs them natively first, so that each expectation is Linux's and
//! not ours, and then inside Casemate.

use std::io;

pub mod signals;

/// The result of a libc call: its value, or the errno.
pub fn cvt(value: i64) -> Result<i64, i32> {
    if value < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(value) }
}

/// A raw system call by number.
pub fn syscall(nr: i64, args: [u64; 6]) -> Result<i64, i32> {
    // SAFETY: 1. the tests pass pointers to live memory or, on purpose, addresses that the kernel must refuse.
    cvt(unsafe { libc::syscall(nr, args[0], args[1], args[2], args[3], args[4], args[5]) })
}

/// Runs `child` in a forked process and gives its wait status.
///
/// The child must only do what is allowed after `fork` in a process that may have threads.
pub fn fork_status(child: impl FnOnce() -> i32) -> i32 {
    wait_status(self::child(child))
}

/// A forked child that runs `body` and leaves by `_exit` with its answer; gives its process id.
///
/// The child must only do what is allowed after `fork` in a process that may have threads.
pub fn child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: 1. the child only runs the closure and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        // A panic that went on would end the child's only thread, and with it the child in peace.
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(PANICKED);
        // SAFETY: 1. always sound; it does not return.
        unsafe { libc::_exit(code) };
    }
    pid
}

/// How a child ends whose body panicked.
const PANICKED: i32 = 101;

/// In a child that shall report the first failed step: `Ok` is 0, a failed step its number.
pub fn steps(checks: &[bool]) -> i32 {
    checks.iter().position(|passed| !passed).map_or(0, |at| i32::try_from(at).unwrap_or(99) + 1)
}

/// Yields until thread `tid` of process `pid` sleeps, as its state in /proc says.
pub fn until_asleep(pid: i64, tid: i64) {
    let path = format!("/proc/{pid}/task/{tid}/stat");
    loop {
        let stat = std::fs::read_to_string(&path).unwrap_or_default();
        if stat.contains(") S") {
            return;
        }
        assert!(!stat.is_empty() && !stat.contains(") Z"), "{tid} ended instead of waiting");
        std::thread::yield_now();
    }
}

/// The effective user is root, so that calls that need privilege are expected to work.
pub fn is_root() -> bool {
    sys!(geteuid) == Ok(0)
}

/// Waits for `pid` and gives its wait status.
pub fn wait_status(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: 1. `status` outlives the call.
    let got = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(got, pid, "waitpid: {}", io::Error::last_os_error());
    status
}

/// Asserts that a forked child ended with exit code 0.
pub fn in_child(child: impl FnOnce() -> i32) {
    let status = fork_status(child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "child ended with status {status:#x}");
}

/// A pipe: read end, write end.
pub fn pipe(flags: i32) -> (i32, i32) {
    let mut ends = [0; 2];
    // SAFETY: 1. `ends` has room for two descriptors.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), flags) };
    assert_eq!(result, 0, "pipe2: {}", io::Error::last_os_error());
    (ends[0], ends[1])
}

/// Whether the test runs inside Casemate.
pub fn inside() -> bool {
    std::env::var("CASEMATE_INSIDE").is_ok_and(|value| value == "1")
}

/// A raw system call: `sys!(getppid)`, `sys!(close, fd)`. Arguments are cast to words; the result is the value or errno.
#[macro_export]
macro_rules! sys {
    ($name:ident $(, $arg:expr)* $(,)?) => {
        // One expression, so that temporaries among the arguments live until the call is over.
        $crate::syscall($crate::nr::$name, $crate::words(&[$($arg as u64),*]))
    };
}

/// Up to six arguments as the six words of a call.
pub fn words(given: &[u64]) -> [u64; 6] {
    let mut all = [0; 6];
    all[..given.len()].copy_from_slice(given);
    all
}

/// Call numbers under their bare names, for [`sys!`].
pub mod nr {
    macro_rules! numbers {
        ($($name:ident $long:ident)*) => { $(
            #[allow(non_upper_case_globals, missing_docs, reason = "spelled as the call is")]
            pub const $name: i64 = libc::$long;
        )* };
    }
    numbers! {
        accept SYS_accept accept4 SYS_accept4 access SYS_access adjtimex SYS_adjtimex alarm SYS_alarm
        arch_prctl SYS_arch_prctl bind SYS_bind brk SYS_brk capget SYS_capget capset SYS_capset chdir SYS_chdir
        chmod SYS_chmod chown SYS_chown chroot SYS_chroot clock_adjtime SYS_clock_adjtime clock_getres SYS_clock_getres
        clock_gettime SYS_clock_gettime clock_nanosleep SYS_clock_nanosleep clone SYS_clone clone3 SYS_clone3
        close SYS_close close_range SYS_close_range connect SYS_connect copy_file_range SYS_copy_file_range
        creat SYS_creat dup SYS_dup dup2 SYS_dup2 dup3 SYS_dup3 epoll_create SYS_epoll_create
        epoll_create1 SYS_epoll_create1 epoll_ctl SYS_epoll_ctl epoll_pwait SYS_epoll_pwait
        epoll_pwait2 SYS_epoll_pwait2 epoll_wait SYS_epoll_wait eventfd SYS_eventfd eventfd2 SYS_eventfd2
        execve SYS_execve execveat SYS_execveat exit SYS_exit exit_group SYS_exit_group faccessat SYS_faccessat
        faccessat2 SYS_faccessat2 fadvise64 SYS_fadvise64 fallocate SYS_fallocate fchdir SYS_fchdir fchmod SYS_fchmod
        fchmodat SYS_fchmodat fchmodat2 SYS_fchmodat2 fchown SYS_fchown fchownat SYS_fchownat fcntl SYS_fcntl
        fdatasync SYS_fdatasync fgetxattr SYS_fgetxattr flistxattr SYS_flistxattr flock SYS_flock fork SYS_fork
        fremovexattr SYS_fremovexattr fsetxattr SYS_fsetxattr fstat SYS_fstat fstatfs SYS_fstatfs fsync SYS_fsync
        ftruncate SYS_ftruncate futex SYS_futex futex_waitv SYS_futex_waitv futimesat SYS_futimesat
        get_robust_list SYS_get_robust_list getcpu SYS_getcpu getcwd SYS_getcwd getdents SYS_getdents
        getdents64 SYS_getdents64 getegid SYS_getegid geteuid SYS_geteuid getgid SYS_getgid getgroups SYS_getgroups
        getitimer SYS_getitimer getpeername SYS_getpeername getpgid SYS_getpgid getpgrp SYS_getpgrp getpid SYS_getpid
        getppid SYS_getppid getpriority SYS_getpriority getrandom SYS_getrandom getresgid SYS_getresgid
        getresuid SYS_getresuid getrlimit SYS_getrlimit getrusage SYS_getrusage getsid SYS_getsid
        getsockname SYS_getsockname getsockopt SYS_getsockopt gettid SYS_gettid gettimeofday SYS_gettimeofday
        getuid SYS_getuid getxattr SYS_getxattr inotify_add_watch SYS_inotify_add_watch inotify_init SYS_inotify_init
        inotify_init1 SYS_inotify_init1 inotify_rm_watch SYS_inotify_rm_watch ioctl SYS_ioctl ioprio_get SYS_ioprio_get
        ioprio_set SYS_ioprio_set kcmp SYS_kcmp kill SYS_kill lchown SYS_lchown lgetxattr SYS_lgetxattr link SYS_link
        linkat SYS_linkat listen SYS_listen listxattr SYS_listxattr llistxattr SYS_llistxattr
        lremovexattr SYS_lremovexattr lseek SYS_lseek lsetxattr SYS_lsetxattr lstat SYS_lstat madvise SYS_madvise
        membarrier SYS_membarrier memfd_create SYS_memfd_create mincore SYS_mincore mkdir SYS_mkdir mkdirat SYS_mkdirat
        mknod SYS_mknod mknodat SYS_mknodat mlock SYS_mlock mlock2 SYS_mlock2 mlockall SYS_mlockall mmap SYS_mmap
        mq_getsetattr SYS_mq_getsetattr mq_notify SYS_mq_notify mq_open SYS_mq_open
        mq_timedreceive SYS_mq_timedreceive mq_timedsend SYS_mq_timedsend mq_unlink SYS_mq_unlink
        mprotect SYS_mprotect mremap SYS_mremap mseal SYS_mseal msync SYS_msync munlock SYS_munlock
        munlockall SYS_munlockall munmap SYS_munmap nanosleep SYS_nanosleep newfstatat SYS_newfstatat open SYS_open
        openat SYS_openat openat2 SYS_openat2 pause SYS_pause personality SYS_personality pidfd_getfd SYS_pidfd_getfd
        pidfd_open SYS_pidfd_open pidfd_send_signal SYS_pidfd_send_signal pipe SYS_pipe pipe2 SYS_pipe2
        pkey_mprotect SYS_pkey_mprotect poll SYS_poll ppoll SYS_ppoll prctl SYS_prctl pread64 SYS_pread64
        preadv SYS_preadv preadv2 SYS_preadv2 prlimit64 SYS_prlimit64 process_vm_readv SYS_process_vm_readv process_madvise SYS_process_madvise process_mrelease SYS_process_mrelease
        process_vm_writev SYS_process_vm_writev pselect6 SYS_pselect6 ptrace SYS_ptrace pwrite64 SYS_pwrite64
        pwritev SYS_pwritev pwritev2 SYS_pwritev2 read SYS_read readahead SYS_readahead readlink SYS_readlink
        readlinkat SYS_readlinkat readv SYS_readv recvfrom SYS_recvfrom recvmmsg SYS_recvmmsg recvmsg SYS_recvmsg
        removexattr SYS_removexattr rename SYS_rename renameat SYS_renameat renameat2 SYS_renameat2
        restart_syscall SYS_restart_syscall rmdir SYS_rmdir rseq SYS_rseq rt_sigaction SYS_rt_sigaction
        rt_sigpending SYS_rt_sigpending rt_sigprocmask SYS_rt_sigprocmask rt_sigqueueinfo SYS_rt_sigqueueinfo
        rt_sigreturn SYS_rt_sigreturn rt_sigsuspend SYS_rt_sigsuspend rt_sigtimedwait SYS_rt_sigtimedwait
        rt_tgsigqueueinfo SYS_rt_tgsigqueueinfo sched_get_priority_max SYS_sched_get_priority_max
        sched_get_priority_min SYS_sched_get_priority_min sched_getaffinity SYS_sched_getaffinity
        sched_getattr SYS_sched_getattr sched_getparam SYS_sched_getparam sched_getscheduler SYS_sched_getscheduler
        sched_rr_get_interval SYS_sched_rr_get_interval sched_setaffinity SYS_sched_setaffinity
        sched_setattr SYS_sched_setattr sched_setparam SYS_sched_setparam sched_setscheduler SYS_sched_setscheduler
        sched_yield SYS_sched_yield select SYS_select sendfile SYS_sendfile sendmmsg SYS_sendmmsg sendmsg SYS_sendmsg
        sendto SYS_sendto set_robust_list SYS_set_robust_list set_tid_address SYS_set_tid_address
        setdomainname SYS_setdomainname setfsgid SYS_setfsgid setfsuid SYS_setfsuid setgid SYS_setgid
        setgroups SYS_setgroups sethostname SYS_sethostname setitimer SYS_setitimer setns SYS_setns setpgid SYS_setpgid
        setpriority SYS_setpriority setregid SYS_setregid setresgid SYS_setresgid setresuid SYS_setresuid
        setreuid SYS_setreuid setrlimit SYS_setrlimit setsid SYS_setsid setsockopt SYS_setsockopt setuid SYS_setuid
        setxattr SYS_setxattr shutdown SYS_shutdown sigaltstack SYS_sigaltstack signalfd SYS_signalfd
        signalfd4 SYS_signalfd4 socket SYS_socket socketpair SYS_socketpair splice SYS_splice stat SYS_stat
        statfs SYS_statfs statx SYS_statx symlink SYS_symlink symlinkat SYS_symlinkat sync SYS_sync
        sync_file_range SYS_sync_file_range syncfs SYS_syncfs sysinfo SYS_sysinfo tee SYS_tee tgkill SYS_tgkill
        time SYS_time timer_create SYS_timer_create timer_delete SYS_timer_delete timer_getoverrun SYS_timer_getoverrun
        timer_gettime SYS_timer_gettime timer_settime SYS_timer_settime timerfd_create SYS_timerfd_create
        timerfd_gettime SYS_timerfd_gettime timerfd_settime SYS_timerfd_settime times SYS_times tkill SYS_tkill
        truncate SYS_truncate umask SYS_umask uname SYS_uname unlink SYS_unlink unlinkat SYS_unlinkat
        unshare SYS_unshare utime SYS_utime utimensat SYS_utimensat utimes SYS_utimes vfork SYS_vfork
        vmsplice SYS_vmsplice wait4 SYS_wait4 waitid SYS_waitid write SYS_write writev SYS_writev
        get_mempolicy SYS_get_mempolicy mbind SYS_mbind migrate_pages SYS_migrate_pages msgctl SYS_msgctl msgget SYS_msgget msgrcv SYS_msgrcv msgsnd SYS_msgsnd semctl SYS_semctl semget SYS_semget semop SYS_semop semtimedop SYS_semtimedop set_mempolicy SYS_set_mempolicy shmat SYS_shmat shmctl SYS_shmctl shmdt SYS_shmdt shmget SYS_shmget
    }

    // Newer than the libc crate's table.
    #[allow(non_upper_case_globals, missing_docs, reason = "spelled as the call is")]
    pub const cachestat: i64 = 451;
    #[allow(non_upper_case_globals, missing_docs, reason = "spelled as the call is")]
    pub const futex_requeue: i64 = 456;
    #[allow(non_upper_case_globals, missing_docs, reason = "spelled as the call is")]
    pub const futex_wait: i64 = 455;
    #[allow(non_upper_case_globals, missing_docs, reason = "spelled as the call is")]
    pub const futex_wake: i64 = 454;
}

/// A directory of the test's own under /tmp, removed when dropped.
pub struct Scratch(pub std::path::PathBuf);

impl Scratch {
    /// A new, empty directory.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("casemate-guest-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a scratch directory");
        Self(path)
    }

    /// A path below it.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.join(name)
    }

    /// A path below it for a raw call.
    pub fn c_path(&self, name: &str) -> std::ffi::CString {
        c_string(&self.path(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A path for a raw call.
pub fn c_string(path: &std::path::Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

/// Anonymous memory, private or shared, unmapped when dropped.
pub struct Memory {
    /// First byte.
    pub start: *mut u8,
    /// Bytes.
    pub len: usize,
}

impl Memory {
    /// `len` bytes, readable and writable.
    pub fn new(len: usize, flags: i32) -> Self {
        let at = sys!(mmap, 0, len, libc::PROT_READ | libc::PROT_WRITE, flags | libc::MAP_ANONYMOUS, -1_i64, 0);
        Self { start: at.expect("mmap") as *mut u8, len }
    }

    /// The byte at `offset`.
    pub fn get(&self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: 1. inside the mapping, which lives as long as `self`.
        unsafe { self.start.wrapping_add(offset).read_volatile() }
    }

    /// Changes the byte at `offset`.
    pub fn set(&self, offset: usize, value: u8) {
        assert!(offset < self.len);
        // SAFETY: 1. inside the mapping, which lives as long as `self`.
        unsafe { self.start.wrapping_add(offset).write_volatile(value) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = sys!(munmap, self.start, self.len);
    }
}
