//! Whatever dies, all that belonged to it is gone within a second.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{As, assert_gone_within, command, descendants, everybody, wait};
use rustix::process::{Pid, Signal, kill_process};

const SOON: Duration = Duration::from_secs(1);

/// A sandbox whose guest has said that it runs, with a child process of its own.
fn running(who: As) -> Child {
    let script = "sleep 1000 & echo up; while :; do :; done";
    let mut command = command(who, &["run", "--", "/bin/sh", "-c", script]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
    assert_eq!(line, "up\n");
    child
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    kill_process(pid, signal).expect("kill");
}

#[test]
fn launcher() {
    for who in everybody() {
        let mut child = running(who);
        let all = descendants(child.id());
        assert!(all.len() >= 2, "a sandbox process and stubs: {all:?}");
        child.kill().expect("kill");
        wait(&mut child);
        assert_gone_within(&all, SOON);
    }
}

#[test]
fn sandbox_process() {
    for who in everybody() {
        let mut child = running(who);
        let all = descendants(child.id());
        kill(all[0], Signal::KILL);
        assert_eq!(wait(&mut child).code(), Some(125));
        assert_gone_within(&all, SOON);
    }
}

/// A fault of our kernel itself is one line and status 125; nothing of the guest survives it.
#[test]
fn a_crash_of_the_kernel() {
    let script = "sleep 1000 & echo up; while :; do :; done";
    let mut command = command(As::Me, &["run", "--", "/bin/sh", "-c", script]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
    let all = descendants(child.id());
    kill(all[0], Signal::SEGV);
    assert_eq!(wait(&mut child).code(), Some(125));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut text).expect("reads");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("casemate: internal error: signal 11"), "{text}");
    assert_gone_within(&all, SOON);
}

/// Without namespaces the parent-death signals alone must do it.
#[test]
fn launcher_without_namespaces() {
    let script = "sleep 1000 & echo up; while :; do :; done";
    let mut command = command(As::Me, &["run", "--isolation=seccomp", "--", "/bin/sh", "-c", script]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
    let all = descendants(child.id());
    child.kill().expect("kill");
    wait(&mut child);
    assert_gone_within(&all, SOON);
}

#[test]
fn stubs() {
    let mut child = running(As::Me);
    let all = descendants(child.id());
    // Every process but the sandbox process: zygote and stubs. The guest's processes die, and so the sandbox ends.
    for &pid in all.iter().skip(1).rev() {
        if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let status = wait(&mut child);
    assert_ne!(status.code(), Some(0), "{status:?}");
    assert_gone_within(&all, SOON);
}

#[test]
fn signals_reach_the_command() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::USR1, 138), (Signal::HUP, 129), (Signal::INT, 130)] {
        if is_ignored(signal) {
            // As by nohup, or behind a shell's `&`: the guest's shell then ignores it too, rightly.
            continue;
        }
        let mut child = running(As::Me);
        let all = descendants(child.id());
        kill(child.id(), signal);
        assert_eq!(wait(&mut child).code(), Some(status), "{signal:?}");
        assert_gone_within(&all, SOON);
    }
}

/// Whether this process, and so its children, ignores `signal`.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("our status");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("SigIgn").trim();
    let mask = u64::from_str_radix(mask, 16).expect("hexadecimal");
    mask & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn a_handler_decides() {
    let script = "trap 'echo caught; exit 9' TERM; echo up; while :; do :; done";
    let mut child = command(As::Me, &["run", "--", "/bin/sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("line").expect("text"), "up");
    kill(child.id(), Signal::TERM);
    assert_eq!(lines.next().expect("line").expect("text"), "caught");
    assert_eq!(wait(&mut child).code(), Some(9));
}
