//! fork, exec, wait, exit, groups and sessions.

use casemate_guest_tests::{fork_status, in_child, pipe, sys, wait_status};

#[test]
fn exit_codes_reach_the_parent() {
    for code in [0, 1, 42, 255] {
        let status = fork_status(|| code);
        assert!(libc::WIFEXITED(status));
        assert_eq!(libc::WEXITSTATUS(status), code);
    }
}

#[test]
fn death_by_signal_reaches_the_parent() {
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGUSR1] {
        let status = fork_status(|| {
            let _ = sys!(kill, sys!(getpid).unwrap(), signal);
            0
        });
        assert!(libc::WIFSIGNALED(status), "{status:#x}");
        assert_eq!(libc::WTERMSIG(status), signal);
    }
}

#[test]
fn a_child_has_its_parent_and_its_own_pid() {
    let parent = sys!(getpid).unwrap();
    in_child(|| {
        let me = sys!(getpid).unwrap();
        i32::from(sys!(getppid) != Ok(parent) || me == parent || sys!(gettid) != Ok(me))
    });
}

#[test]
fn memory_is_private_after_fork() {
    let mut value = Box::new(1_u64);
    let (read, write) = pipe(0);
    in_child(|| {
        *value = 2;
        let _ = sys!(write, write, b"x".as_ptr(), 1);
        i32::from(*value != 2)
    });
    let mut byte = 0_u8;
    assert_eq!(sys!(read, read, &raw mut byte, 1), Ok(1));
    assert_eq!(*std::hint::black_box(&value), Box::new(1));
    for fd in [read, write] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn wait_options_and_errors() {
    // SAFETY: 1. the child only sleeps in a system call and leaves by a signal.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        loop {
            let _ = sys!(ppoll, 0, 0, 0, 0, 0);
        }
    }
    assert_eq!(sys!(wait4, pid, 0, libc::WNOHANG, 0), Ok(0));
    assert_eq!(sys!(wait4, pid, 0, 0x1000_0000_u64 | 0x10, 0), Err(libc::EINVAL));
    assert_eq!(sys!(kill, pid, libc::SIGKILL), Ok(0));
    let status = wait_status(pid);
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL);
    assert_eq!(sys!(wait4, pid, 0, 0, 0), Err(libc::ECHILD));
    assert_eq!(sys!(kill, pid, 0), Err(libc::ESRCH));
}

#[test]
fn waitid_reports_without_reaping() {
    // SAFETY: 1. the child leaves at once.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: 1. always sound; it does not return.
        unsafe { libc::_exit(9) };
    }
    // SAFETY: 1. siginfo_t is plain data.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOWAIT;
    assert_eq!(sys!(waitid, libc::P_PID, pid, &raw mut info, flags, 0), Ok(0));
    assert_eq!(info.si_signo, libc::SIGCHLD);
    assert_eq!(info.si_code, libc::CLD_EXITED);
    // SAFETY: 1. the kernel filled in a SIGCHLD siginfo.
    assert_eq!(unsafe { info.si_pid() }, pid);
    // SAFETY: 1. as above.
    assert_eq!(unsafe { info.si_status() }, 9);
    assert_eq!(libc::WEXITSTATUS(wait_status(pid)), 9);
}

#[test]
fn stop_and_continue_are_reported() {
    let (read, write) = pipe(0);
    // SAFETY: 1. the child only stops itself, reads and exits.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let _ = sys!(kill, sys!(getpid).unwrap_or(0), libc::SIGSTOP);
        // It lives until its continuation was reported.
        let mut byte = 0_u8;
        let _ = sys!(read, read, &raw mut byte, 1);
        // SAFETY: 1. always sound; it does not return.
        unsafe { libc::_exit(3) };
    }
    let mut status = 0;
    assert_eq!(sys!(wait4, pid, &raw mut status, libc::WUNTRACED, 0), Ok(i64::from(pid)));
    assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSTOP);
    assert_eq!(sys!(kill, pid, libc::SIGCONT), Ok(0));
    assert_eq!(sys!(wait4, pid, &raw mut status, libc::WCONTINUED, 0), Ok(i64::from(pid)));
    assert!(libc::WIFCONTINUED(status));
    assert_eq!(sys!(write, write, b"x".as_ptr(), 1), Ok(1));
    assert_eq!(libc::WEXITSTATUS(wait_status(pid)), 3);
    for fd in [read, write] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn exec_replaces_the_program_and_keeps_the_pid() {
    let output =
        std::process::Command::new("/bin/sh").args(["-c", "echo $0 $1; exit 5", "zero", "one"]).output().unwrap();
    assert_eq!(output.stdout, b"zero one\n");
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn exec_errors() {
    let null: *const u8 = std::ptr::null();
    let argv = [c"x".as_ptr().cast(), null];
    let path = |p: &std::ffi::CStr| sys!(execve, p.as_ptr(), argv.as_ptr(), 0);
    assert_eq!(path(c"/does/not/exist"), Err(libc::ENOENT));
    assert_eq!(path(c"/usr"), Err(libc::EACCES));
    assert_eq!(path(c"/etc/passwd"), Err(libc::EACCES));
    assert_eq!(path(c"/etc/passwd/x"), Err(libc::ENOTDIR));
    assert_eq!(sys!(execve, 8, argv.as_ptr(), 0), Err(libc::EFAULT));
}

#[test]
fn scripts_run_by_their_interpreter() {
    let scratch = casemate_guest_tests::Scratch::new("script");
    let script = scratch.path("run");
    std::fs::write(&script, "#!/bin/sh -e\necho \"$1\"\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = std::process::Command::new(&script).arg("hello").output().unwrap();
    assert_eq!(output.stdout, b"hello\n");
}

#[test]
fn close_on_exec_closes() {
    let (read, write) = pipe(libc::O_CLOEXEC);
    let kept = sys!(dup, write).unwrap();
    let test = format!("test ! -e /proc/self/fd/{write} && test -e /proc/self/fd/{kept}");
    let status = std::process::Command::new("/bin/sh").args(["-c", &test]).status().unwrap();
    assert!(status.success());
    for fd in [i64::from(read), i64::from(write), kept] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn groups_and_sessions() {
    in_child(|| {
        let me = sys!(getpid).unwrap();
        if sys!(setpgid, 0, 0) != Ok(0) || sys!(getpgrp) != Ok(me) {
            return 1;
        }
        // A group leader cannot make a session.
        if sys!(setsid) != Err(libc::EPERM) {
            return 2;
        }
        let status = fork_status(|| {
            let me = sys!(getpid).unwrap();
            i32::from(sys!(setsid) != Ok(me) || sys!(getsid, 0) != Ok(me) || sys!(getpgid, 0) != Ok(me))
        });
        if status == 0 { 0 } else { 3 }
    });
}

#[test]
fn orphans_go_to_init() {
    let (read, write) = pipe(0);
    in_child(|| {
        // SAFETY: 1. both sides only make system calls and leave by `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let parent = sys!(getpid).unwrap();
            let _ = parent;
            // Wait until the parent is gone: the parent's end of `gate` closes.
            while sys!(getppid).unwrap_or(0) != 1 {
                let _ = sys!(sched_yield);
            }
            let _ = sys!(write, write, b"1".as_ptr(), 1);
            // SAFETY: 1. always sound; it does not return.
            unsafe { libc::_exit(0) };
        }
        0
    });
    assert_eq!(sys!(close, write), Ok(0));
    if casemate_guest_tests::inside() {
        let mut byte = 0_u8;
        assert_eq!(sys!(read, read, &raw mut byte, 1), Ok(1));
        assert_eq!(byte, b'1');
    }
    assert_eq!(sys!(close, read), Ok(0));
}

#[test]
fn vfork_shares_memory_and_waits() {
    // `posix_spawn` is vfork with care; std uses it for simple commands.
    for _ in 0..20 {
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
    }
    assert_eq!(std::process::Command::new("/does/not/exist").status().unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn many_children_at_once() {
    let children: Vec<i32> = (0..40)
        .map(|code| {
            // SAFETY: 1. the child leaves at once.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: 1. always sound; it does not return.
                unsafe { libc::_exit(code) };
            }
            pid
        })
        .collect();
    for (code, pid) in children.into_iter().enumerate() {
        assert_eq!(libc::WEXITSTATUS(wait_status(pid)), i32::try_from(code).unwrap());
    }
}
