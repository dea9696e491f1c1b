//! What the guest tests share: host-libc calls that say which call failed, and children that must end well.
//!
//! The tests are ordinary programs. `cargo xtask test` runs them natively first, so that each expectation is Linux's and
//! not ours, and then inside Casemate.

use std::io;

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
    // SAFETY: 1. the child only runs the closure and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        let code = child();
        // SAFETY: 1. always sound; it does not return.
        unsafe { libc::_exit(code) };
    }
    wait_status(pid)
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
        read SYS_read write SYS_write open SYS_open close SYS_close fstat SYS_fstat lseek SYS_lseek mmap SYS_mmap
        mprotect SYS_mprotect munmap SYS_munmap brk SYS_brk rt_sigaction SYS_rt_sigaction
        rt_sigprocmask SYS_rt_sigprocmask ioctl SYS_ioctl pread64 SYS_pread64 pwrite64 SYS_pwrite64 readv SYS_readv
        writev SYS_writev access SYS_access pipe SYS_pipe sched_yield SYS_sched_yield mremap SYS_mremap msync SYS_msync
        mincore SYS_mincore madvise SYS_madvise dup SYS_dup dup2 SYS_dup2 nanosleep SYS_nanosleep getpid SYS_getpid
        socketpair SYS_socketpair socket SYS_socket wait4 SYS_wait4 kill SYS_kill uname SYS_uname fcntl SYS_fcntl
        ftruncate SYS_ftruncate getcwd SYS_getcwd chdir SYS_chdir rename SYS_rename mkdir SYS_mkdir rmdir SYS_rmdir
        link SYS_link unlink SYS_unlink symlink SYS_symlink readlink SYS_readlink chmod SYS_chmod umask SYS_umask
        getrlimit SYS_getrlimit getrusage SYS_getrusage sysinfo SYS_sysinfo times SYS_times getuid SYS_getuid
        geteuid SYS_geteuid getgid SYS_getgid setpgid SYS_setpgid getppid SYS_getppid getpgrp SYS_getpgrp setsid SYS_setsid
        getpgid SYS_getpgid getsid SYS_getsid getgroups SYS_getgroups getresuid SYS_getresuid setresuid SYS_setresuid
        sigaltstack SYS_sigaltstack prctl SYS_prctl arch_prctl SYS_arch_prctl setrlimit SYS_setrlimit sync SYS_sync
        gettid SYS_gettid futex SYS_futex sched_getaffinity SYS_sched_getaffinity epoll_create1 SYS_epoll_create1
        epoll_ctl SYS_epoll_ctl epoll_wait SYS_epoll_wait epoll_pwait SYS_epoll_pwait getdents64 SYS_getdents64
        clock_gettime SYS_clock_gettime clock_getres SYS_clock_getres clock_nanosleep SYS_clock_nanosleep
        tgkill SYS_tgkill waitid SYS_waitid openat SYS_openat mkdirat SYS_mkdirat newfstatat SYS_newfstatat
        unlinkat SYS_unlinkat renameat2 SYS_renameat2 pselect6 SYS_pselect6 ppoll SYS_ppoll poll SYS_poll
        set_robust_list SYS_set_robust_list eventfd2 SYS_eventfd2 dup3 SYS_dup3 pipe2 SYS_pipe2 prlimit64 SYS_prlimit64
        getrandom SYS_getrandom memfd_create SYS_memfd_create statx SYS_statx clone3 SYS_clone3
        close_range SYS_close_range openat2 SYS_openat2 faccessat2 SYS_faccessat2 timerfd_create SYS_timerfd_create
        timerfd_settime SYS_timerfd_settime signalfd4 SYS_signalfd4 getcpu SYS_getcpu execve SYS_execve
        exit_group SYS_exit_group utimensat SYS_utimensat setitimer SYS_setitimer truncate SYS_truncate
        rt_sigpending SYS_rt_sigpending rt_sigtimedwait SYS_rt_sigtimedwait rt_sigsuspend SYS_rt_sigsuspend
        rt_sigqueueinfo SYS_rt_sigqueueinfo preadv SYS_preadv pwritev SYS_pwritev fallocate SYS_fallocate
        sendto SYS_sendto recvfrom SYS_recvfrom shutdown SYS_shutdown statfs SYS_statfs flock SYS_flock
        copy_file_range SYS_copy_file_range sendfile SYS_sendfile setuid SYS_setuid membarrier SYS_membarrier
        linkat SYS_linkat symlinkat SYS_symlinkat readlinkat SYS_readlinkat fchmodat SYS_fchmodat
        process_vm_readv SYS_process_vm_readv setpriority SYS_setpriority getpriority SYS_getpriority
    }
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
