//! The sandbox where the host offers less: no user namespaces, no seccomp listener. With `CASEMATE_LONG`, the guest tests
//! run in each of these modes too.

mod common;

use std::process::Command;

use common::{As, Done, below_a_listener, command, everybody, finish};

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
