//! The sandbox where the host offers less: no user namespaces, no seccomp listener. With `CASEMATE_LONG`, the guest tests
//! run in each of these modes too.

mod common;

use std::ffi::c_void;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{As, Done, command, everybody, finish};

const SCRIPT: &str = "echo $((6*7)); ls / | grep -c usr; (exit 3) || echo no; sleep 0.01 & wait; kill -USR1 $$; exit 7";

fn as_expected(done: &Done) {
    // USR1 ends the shell: 128 + 10.
    assert_eq!((done.out.as_str(), done.status), ("42\n1\nno\n", Some(138)), "{done:?}");
}

/// Runs the guest tests that `cargo xtask test --long` names, with `make` giving the command to extend.
fn guest_tests(make: impl Fn() -> Command) {
    if std::env::var_os("CASEMATE_LONG").is_none() {
        return;
    }
    for test in std::env::var("CASEMATE_GUEST_TESTS").unwrap_or_default().split_whitespace() {
        let mut command = make();
        command.args(["--", test, "--quiet", "--test-threads=1"]).env("CASEMATE_INSIDE", "1");
        let done = finish(command, b"");
        assert_eq!(done.status, Some(0), "{test}: {}\n{}", done.out, done.err);
    }
}

#[test]
fn without_namespaces() {
    for who in everybody() {
        let mode = ["run", "--isolation=seccomp"];
        let done = finish(command(who, &[&mode[..], &["--", "/bin/bash", "-c", SCRIPT]].concat()), b"");
        as_expected(&done);
        assert!(done.err.contains("no namespaces"), "it says so: {done:?}");
        guest_tests(|| command(who, &mode));
    }
}

/// BPF_RET | BPF_K with SECCOMP_RET_ALLOW.
const ALLOW: libc::sock_filter = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 };
const SECCOMP_SET_MODE_FILTER: u64 = 1;
const SECCOMP_FILTER_FLAG_NEW_LISTENER: u64 = 8;

/// In the child before exec: a filter of its own that has a listener, so that no other one can have any.
fn occupy_the_listener() -> std::io::Result<()> {
    let filter = [ALLOW];
    let program = libc::sock_fprog { len: 1, filter: filter.as_ptr().cast_mut() };
    // SAFETY: 1. plain numbers; the call changes this process alone.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let program = (&raw const program).cast::<c_void>();
    let (mode, flags) = (SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: 1. `program` and its one instruction outlive the call.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, program) };
    if listener < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // The listener stays open over exec: closed, it would make room for another.
    // SAFETY: 1. a descriptor of ours.
    if unsafe { libc::fcntl(i32::try_from(listener).unwrap_or(-1), libc::F_SETFD, 0) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn below_a_listener(mut command: Command) -> Command {
    // SAFETY: 1. only async-signal-safe calls, and no allocation on success.
    unsafe { command.pre_exec(occupy_the_listener) };
    command
}

#[test]
fn below_another_listener() {
    for who in everybody() {
        let done = finish(below_a_listener(command(who, &["run", "--", "/bin/bash", "-c", SCRIPT])), b"");
        as_expected(&done);
        assert_eq!(done.err, "", "{who:?}");
        guest_tests(|| below_a_listener(command(who, &["run"])));
    }
}

#[test]
fn doctor_sees_the_other_listener() {
    let done = finish(below_a_listener(command(As::Me, &["doctor"])), b"");
    assert!(done.out.to_lowercase().contains("futex"), "{done:?}");
}
