//! Processes by descriptor, and the rarer ways to make, run and wait for them.

use std::sync::atomic::{AtomicU32, Ordering};

use casemate_guest_tests::{Memory, child, fork_status, in_child, pipe, steps, sys, wait_status};

/// A child that waits for a signal.
fn sleeper() -> i32 {
    child(|| {
        loop {
            let _ = sys!(ppoll, 0, 0, 0, 0, 0);
        }
    })
}

fn close_all(fds: &[i64]) {
    for &fd in fds {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn pidfds_name_signal_and_wait() {
    let pid = sleeper();
    let fd = sys!(pidfd_open, pid, 0).unwrap();
    assert_eq!(sys!(fcntl, fd, libc::F_GETFD, 0), Ok(1));
    assert_eq!(sys!(pidfd_open, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(pidfd_open, pid, 1), Err(libc::EINVAL));
    assert_eq!(sys!(pidfd_open, 0x3fff_ffff, 0), Err(libc::ESRCH));
    let mut poll = libc::pollfd { fd: i32::try_from(fd).unwrap(), events: libc::POLLIN, revents: 0 };
    assert_eq!(sys!(poll, &raw mut poll, 1, 0), Ok(0));
    assert_eq!(sys!(pidfd_send_signal, fd, 0, 0, 0), Ok(0));
    assert_eq!(sys!(pidfd_send_signal, fd, 99, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(pidfd_send_signal, 9999, 0, 0, 0), Err(libc::EBADF));
    let (read, write) = pipe(0);
    assert_eq!(sys!(pidfd_send_signal, read, 0, 0, 0), Err(libc::EBADF));
    let flags = libc::WEXITED | libc::WNOHANG;
    // SAFETY: 1. siginfo_t is plain data.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(waitid, libc::P_PIDFD, fd, &raw mut info, flags, 0), Ok(0));
    assert_eq!(info.si_signo, 0);
    assert_eq!(sys!(pidfd_send_signal, fd, libc::SIGKILL, 0, 0), Ok(0));
    assert_eq!(sys!(poll, &raw mut poll, 1, -1_i64), Ok(1));
    assert_eq!(poll.revents & libc::POLLIN, libc::POLLIN);
    assert_eq!(sys!(waitid, libc::P_PIDFD, fd, &raw mut info, libc::WEXITED, 0), Ok(0));
    assert_eq!((info.si_signo, info.si_code), (libc::SIGCHLD, libc::CLD_KILLED));
    assert_eq!(sys!(waitid, libc::P_PIDFD, fd, &raw mut info, libc::WEXITED, 0), Err(libc::ECHILD));
    assert_eq!(sys!(pidfd_send_signal, fd, 0, 0, 0), Err(libc::ESRCH));
    close_all(&[fd, read.into(), write.into()]);
}

#[test]
fn pidfds_give_descriptors_away() {
    let (read, write) = pipe(0);
    let pid = sleeper();
    let fd = sys!(pidfd_open, pid, 0).unwrap();
    let copy = sys!(pidfd_getfd, fd, write, 0).unwrap();
    assert_eq!(sys!(fcntl, copy, libc::F_GETFD, 0), Ok(1));
    assert_eq!(sys!(write, copy, b"x".as_ptr(), 1), Ok(1));
    let mut byte = 0_u8;
    assert_eq!(sys!(read, read, &raw mut byte, 1), Ok(1));
    assert_eq!(sys!(pidfd_getfd, fd, 9999, 0), Err(libc::EBADF));
    assert_eq!(sys!(pidfd_getfd, fd, write, 1), Err(libc::EINVAL));
    assert_eq!(sys!(pidfd_getfd, read, write, 0), Err(libc::EBADF));
    assert_eq!(sys!(kill, pid, libc::SIGKILL), Ok(0));
    wait_status(pid);
    close_all(&[fd, copy, read.into(), write.into()]);
}

#[test]
fn clone3_makes_processes() {
    let mut pidfd = -1_i32;
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
    let parts = [libc::CLONE_PIDFD as u64, &raw mut pidfd as u64, 0, 0, 17, 0, 0, 0];
    let pid = sys!(clone3, parts.as_ptr(), 64).unwrap();
    if pid == 0 {
        // SAFETY: 1. always sound; it does not return.
        unsafe { libc::_exit(23) };
    }
    assert!(pidfd >= 0);
    assert_eq!(libc::WEXITSTATUS(wait_status(i32::try_from(pid).unwrap())), 23);
    close_all(&[pidfd.into()]);
    assert_eq!(sys!(clone3, parts.as_ptr(), 8), Err(libc::EINVAL));
    assert_eq!(sys!(clone3, 16, 64), Err(libc::EFAULT));
    let bad_signal = [0_u64, 0, 0, 0, 99, 0, 0, 0];
    assert_eq!(sys!(clone3, bad_signal.as_ptr(), 64), Err(libc::EINVAL));
    let half_stack = [0_u64, 0, 0, 0, 17, 0x1000, 0, 0];
    assert_eq!(sys!(clone3, half_stack.as_ptr(), 64), Err(libc::EINVAL));
    let thread_alone = [libc::CLONE_THREAD as u64, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(sys!(clone3, thread_alone.as_ptr(), 64), Err(libc::EINVAL));
}

#[test]
fn raw_fork_and_clone() {
    let pid = sys!(fork).unwrap();
    if pid == 0 {
        // SAFETY: 1. always sound; it does not return.
        unsafe { libc::_exit(11) };
    }
    assert_eq!(libc::WEXITSTATUS(wait_status(i32::try_from(pid).unwrap())), 11);
    let shared = Memory::new(4096, libc::MAP_SHARED);
    // SAFETY: 1. page-aligned, shared, alive as long as `shared`.
    let word = unsafe { &*shared.start.cast::<AtomicU32>() };
    let flags = libc::CLONE_CHILD_SETTID | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
    let mut parent_word = 0_u32;
    let pid = sys!(clone, flags, 0, &raw mut parent_word, word.as_ptr(), 0).unwrap();
    if pid == 0 {
        // SAFETY: 1. always sound; it does not return.
        unsafe { libc::_exit(12) };
    }
    assert_eq!(libc::WEXITSTATUS(wait_status(i32::try_from(pid).unwrap())), 12);
    assert_eq!((i64::from(word.load(Ordering::SeqCst)), i64::from(parent_word)), (pid, pid));
    assert_eq!(sys!(clone, libc::CLONE_SIGHAND | libc::SIGCHLD, 0, 0, 0, 0), Err(libc::EINVAL));
}

#[test]
fn files_run_by_descriptor() {
    let null: *const u8 = std::ptr::null();
    let sh = sys!(open, c"/bin/sh".as_ptr(), libc::O_PATH | libc::O_CLOEXEC, 0).unwrap();
    let argv = [c"sh".as_ptr().cast(), c"-c".as_ptr().cast(), c"exit 9".as_ptr().cast(), null];
    let empty = [null];
    let status = fork_status(|| {
        let _ = sys!(execveat, sh, c"".as_ptr(), argv.as_ptr(), empty.as_ptr(), libc::AT_EMPTY_PATH);
        1
    });
    assert_eq!(libc::WEXITSTATUS(status), 9);
    let bin = sys!(open, c"/bin".as_ptr(), libc::O_PATH, 0).unwrap();
    let status = fork_status(|| {
        let _ = sys!(execveat, bin, c"sh".as_ptr(), argv.as_ptr(), empty.as_ptr(), 0);
        1
    });
    assert_eq!(libc::WEXITSTATUS(status), 9);
    let run = |dir: i64, path: &std::ffi::CStr, flags: i32| {
        sys!(execveat, dir, path.as_ptr(), argv.as_ptr(), empty.as_ptr(), flags)
    };
    assert_eq!(run(sh, c"", 0), Err(libc::ENOENT));
    assert_eq!(run(bin, c"no-such-program", 0), Err(libc::ENOENT));
    assert_eq!(run(bin, c"sh", 1), Err(libc::EINVAL));
    let scratch = casemate_guest_tests::Scratch::new("execveat");
    std::os::unix::fs::symlink("/bin/sh", scratch.path("link")).unwrap();
    let nofollow = libc::AT_SYMLINK_NOFOLLOW;
    assert_eq!(run(libc::AT_FDCWD.into(), &scratch.c_path("link"), nofollow), Err(libc::ELOOP));
    close_all(&[sh, bin]);
}

#[test]
fn waits_select_children() {
    in_child(|| {
        let own = child(|| 1);
        let grouped = child(|| {
            let _ = sys!(setpgid, 0, 0);
            loop {
                let _ = sys!(ppoll, 0, 0, 0, 0, 0);
            }
        });
        let _ = sys!(setpgid, grouped, grouped);
        let mut status = 0;
        let first = sys!(wait4, 0, &raw mut status, 0, 0);
        let code = libc::WEXITSTATUS(status);
        let none = sys!(wait4, 0, &raw mut status, libc::WNOHANG, 0);
        let still = sys!(wait4, -i64::from(grouped), &raw mut status, libc::WNOHANG, 0);
        let _ = sys!(kill, -i64::from(grouped), libc::SIGTERM);
        let second = sys!(wait4, -i64::from(grouped), &raw mut status, 0, 0);
        steps(&[
            first == Ok(own.into()) && code == 1,
            none == Err(libc::ECHILD),
            still == Ok(0),
            second == Ok(grouped.into()) && libc::WTERMSIG(status) == libc::SIGTERM,
            sys!(wait4, -1_i64, 0, 0, 0) == Err(libc::ECHILD),
            sys!(waitid, 9, 0, 0, libc::WEXITED, 0) == Err(libc::EINVAL),
            sys!(waitid, libc::P_ALL, 0, 0, 0, 0) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn ignored_children_are_reaped_by_the_kernel() {
    in_child(|| {
        // SAFETY: 1. ignoring a signal is always sound.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        let _ = child(|| 3);
        steps(&[sys!(wait4, -1_i64, 0, 0, 0) == Err(libc::ECHILD)])
    });
}

#[test]
fn process_groups_by_the_rules() {
    in_child(|| {
        let pid = sleeper();
        let results = [
            sys!(setpgid, pid, pid) == Ok(0),
            sys!(getpgid, pid) == Ok(pid.into()),
            sys!(getsid, pid) == sys!(getsid, 0),
            sys!(setpgid, pid, 0x3fff_ffff) == Err(libc::EPERM),
            sys!(setpgid, pid, -1_i64) == Err(libc::EINVAL),
            sys!(setpgid, 0x3fff_ffff, 0) == Err(libc::ESRCH),
            sys!(getpgid, 0x3fff_ffff) == Err(libc::ESRCH),
            sys!(getsid, 0x3fff_ffff) == Err(libc::ESRCH),
            sys!(getpgid, -1_i64) == Err(libc::ESRCH),
        ];
        let _ = sys!(kill, pid, libc::SIGKILL);
        wait_status(pid);
        steps(&results)
    });
}

#[test]
fn thread_words_are_kept() {
    in_child(|| {
        let (mut head, mut len) = (1_u64, 1_u64);
        let list = [0_u64; 3];
        let tid = sys!(gettid).unwrap();
        steps(&[
            sys!(set_robust_list, list.as_ptr(), 24) == Ok(0),
            sys!(get_robust_list, 0, &raw mut head, &raw mut len) == Ok(0),
            head == list.as_ptr() as u64 && len == 24,
            sys!(set_robust_list, 0, 24) == Ok(0),
            sys!(set_robust_list, list.as_ptr(), 8) == Err(libc::EINVAL),
            sys!(get_robust_list, 0x3fff_ffff, &raw mut head, &raw mut len) == Err(libc::ESRCH),
            sys!(set_tid_address, &raw mut len) == Ok(tid),
            sys!(set_tid_address, 0) == Ok(tid),
        ])
    });
}

#[test]
fn unshared_parts_are_private() {
    // Threads share descriptors and directories until one unshares them.
    in_child(|| {
        let thread = std::thread::spawn(|| {
            let done = sys!(unshare, libc::CLONE_FILES | libc::CLONE_FS);
            let fd = sys!(dup2, 0, 300);
            (done, fd, sys!(chdir, c"/".as_ptr()))
        });
        let before = std::env::current_dir().unwrap_or_default();
        let results = thread.join().unwrap_or((Err(0), Err(0), Err(0)));
        steps(&[
            results == (Ok(0), Ok(300), Ok(0)),
            sys!(fcntl, 300, libc::F_GETFD, 0) == Err(libc::EBADF),
            std::env::current_dir().unwrap_or_default() == before,
            sys!(unshare, 0) == Ok(0),
            sys!(unshare, 0x8000_0000_u64 | 1) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn memory_of_other_processes() {
    let memory = Memory::new(8192, libc::MAP_PRIVATE);
    let (read, write) = pipe(0);
    let at = memory.start as u64;
    let pid = child(|| {
        memory.set(10, 42);
        let _ = sys!(write, write, b"x".as_ptr(), 1);
        while memory.get(20) != 77 {
            let _ = sys!(sched_yield);
        }
        5
    });
    let mut byte = 0_u8;
    assert_eq!(sys!(read, read, &raw mut byte, 1), Ok(1));
    let mut back = [0_u8; 4];
    let local = [back.as_mut_ptr() as u64, 4];
    let remote = [at + 9, 4];
    assert_eq!(sys!(process_vm_readv, pid, local.as_ptr(), 1, remote.as_ptr(), 1, 0), Ok(4));
    assert_eq!((back, memory.get(10)), ([0, 42, 0, 0], 0));
    let bad = [0x10_u64, 4];
    assert_eq!(sys!(process_vm_readv, pid, local.as_ptr(), 1, bad.as_ptr(), 1, 0), Err(libc::EFAULT));
    assert_eq!(sys!(process_vm_readv, pid, local.as_ptr(), 1, remote.as_ptr(), 1, 1), Err(libc::EINVAL));
    assert_eq!(sys!(process_vm_readv, 0x3fff_ffff, local.as_ptr(), 1, remote.as_ptr(), 1, 0), Err(libc::ESRCH));
    let value = [77_u8];
    let (local, remote) = ([value.as_ptr() as u64, 1], [at + 20, 1]);
    assert_eq!(sys!(process_vm_writev, pid, local.as_ptr(), 1, remote.as_ptr(), 1, 0), Ok(1));
    assert_eq!(libc::WEXITSTATUS(wait_status(pid)), 5);
    close_all(&[read.into(), write.into()]);
}

const PIDFD_THREAD: i32 = libc::O_EXCL;
const PAGE: usize = 4096;

#[test]
fn pidfds_stand_for_threads() {
    static STOP: AtomicU32 = AtomicU32::new(0);
    static TID: AtomicU32 = AtomicU32::new(0);
    let thread = std::thread::spawn(|| {
        TID.store(u32::try_from(sys!(gettid).unwrap()).unwrap(), Ordering::SeqCst);
        while STOP.load(Ordering::SeqCst) == 0 {
            let _ = sys!(futex, STOP.as_ptr(), libc::FUTEX_WAIT, 0, 0, 0, 0);
        }
    });
    while TID.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let tid = TID.load(Ordering::SeqCst);
    assert!(sys!(pidfd_open, tid, 0).is_err());
    let fd = match sys!(pidfd_open, tid, PIDFD_THREAD) {
        // Since Linux 6.9.
        Err(libc::EINVAL) if !casemate_guest_tests::inside() => -1,
        result => result.unwrap(),
    };
    if fd >= 0 {
        let mut poll = libc::pollfd { fd: i32::try_from(fd).unwrap(), events: libc::POLLIN, revents: 0 };
        assert_eq!(sys!(poll, &raw mut poll, 1, 0), Ok(0));
        assert_eq!(sys!(pidfd_send_signal, fd, 0, 0, 0), Ok(0));
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        assert!(info.contains(&format!("Pid:\t{tid}\n")), "{info}");
        // SAFETY: 1. siginfo_t is plain data.
        let mut child: libc::siginfo_t = unsafe { std::mem::zeroed() };
        assert_eq!(sys!(waitid, libc::P_PIDFD, fd, &raw mut child, libc::WEXITED, 0), Err(libc::ECHILD));
        STOP.store(1, Ordering::SeqCst);
        assert!(sys!(futex, STOP.as_ptr(), libc::FUTEX_WAKE, 1, 0, 0, 0).is_ok());
        assert_eq!(sys!(poll, &raw mut poll, 1, -1_i64), Ok(1));
        thread.join().unwrap();
        // Readable comes a moment before gone.
        while sys!(pidfd_send_signal, fd, 0, 0, 0) != Err(libc::ESRCH) {
            std::thread::yield_now();
        }
        close_all(&[fd]);
    } else {
        STOP.store(1, Ordering::SeqCst);
        assert!(sys!(futex, STOP.as_ptr(), libc::FUTEX_WAKE, 1, 0, 0, 0).is_ok());
        thread.join().unwrap();
    }
}

#[test]
fn memory_of_others_is_advised_about() {
    let memory = Memory::new(4 * PAGE, libc::MAP_PRIVATE);
    let pid = sleeper();
    let fd = sys!(pidfd_open, pid, 0).unwrap();
    let ranges = [[memory.start as u64, PAGE as u64], [memory.start as u64 + 2 * PAGE as u64, 2 * PAGE as u64]];
    let advise = |fd: i64, count: usize, advice: i32, flags: u32| {
        sys!(process_madvise, fd, ranges.as_ptr(), count, advice, flags)
    };
    let privileged = sys!(geteuid) == Ok(0);
    let all = i64::try_from(3 * PAGE).unwrap();
    match advise(fd, 2, libc::MADV_COLD, 0) {
        Err(libc::ENOSYS) if !casemate_guest_tests::inside() => {}
        result => {
            // Natively root may lack the capability.
            let denied = result == Err(libc::EPERM) && !(privileged && casemate_guest_tests::inside());
            assert!(denied || privileged && result == Ok(all), "{result:?}");
            assert_eq!(advise(fd, 2, libc::MADV_COLD, 1), Err(libc::EINVAL));
            assert_eq!(advise(fd, 2, libc::MADV_DONTNEED, 0), Err(libc::EINVAL));
            assert_eq!(advise(fd, 2000, libc::MADV_COLD, 0), Err(libc::EINVAL));
            assert_eq!(advise(-1, 2, libc::MADV_COLD, 0), Err(libc::EBADF));
            assert_eq!(advise(0, 2, libc::MADV_COLD, 0), Err(libc::EBADF));
        }
    }
    match sys!(process_mrelease, fd, 0) {
        Err(libc::ENOSYS) if !casemate_guest_tests::inside() => {}
        result => {
            assert_eq!(result, Err(libc::EINVAL));
            assert_eq!(sys!(process_mrelease, fd, 1), Err(libc::EINVAL));
            assert_eq!(sys!(process_mrelease, -1_i64, 0), Err(libc::EBADF));
        }
    }
    assert_eq!(sys!(kill, pid, libc::SIGKILL), Ok(0));
    assert_eq!(wait_status(pid) & 0x7f, libc::SIGKILL);
    close_all(&[fd]);
}
