//! What the host sees of the sandbox process: namespaces, no privilege, no root, filter on, nothing left behind.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use common::{As, command, descendants, everybody, wait};

/// A running sandbox and the host's directory of each of its processes, the sandbox process first.
fn running(who: As) -> (Child, Vec<PathBuf>) {
    let script = "echo up; read end";
    let mut child = command(who, &["run", "--", "/bin/sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
    assert_eq!(line, "up\n");
    let processes = descendants(child.id()).into_iter().map(|pid| PathBuf::from(format!("/proc/{pid}"))).collect();
    (child, processes)
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

#[test]
fn processes_have_no_privilege() {
    if !rustix::process::geteuid().is_root() {
        // Other users may not look at a process that is not dumpable.
        return;
    }
    for who in everybody() {
        let (mut child, processes) = running(who);
        assert!(processes.len() >= 2, "{processes:?}");
        for (index, process) in processes.iter().enumerate() {
            let status = fs::read_to_string(process.join("status")).expect("status");
            let set = |name: &str| u64::from_str_radix(&field(&status, name), 16).expect("hex");
            // Root's sandbox process keeps CAP_DAC_READ_SEARCH in its own user namespace, to read what root may.
            let allowed = if who == As::Me && index == 0 { 1 << 2 } else { 0 };
            for name in ["CapInh", "CapBnd", "CapAmb"] {
                assert_eq!(set(name), 0, "{who:?} {process:?} {name}");
            }
            for name in ["CapPrm", "CapEff"] {
                assert_eq!(set(name) & !allowed, 0, "{who:?} {process:?} {name}");
            }
            assert_eq!(field(&status, "NoNewPrivs"), "1", "{process:?}");
            assert_eq!(field(&status, "Seccomp"), "2", "{process:?}");
            let limits = fs::read_to_string(process.join("limits")).expect("limits");
            let core = limits.lines().find(|line| line.starts_with("Max core")).expect("core");
            assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        }
        child.kill().expect("kill");
        wait(&mut child);
    }
}

#[test]
fn namespaces_and_root_are_its_own() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for who in everybody() {
        let (mut child, processes) = running(who);
        for process in &processes {
            for name in ["user", "pid", "mnt", "net", "ipc", "uts"] {
                let theirs = fs::read_link(process.join("ns").join(name)).expect("namespace");
                let ours = fs::read_link(format!("/proc/self/ns/{name}")).expect("namespace");
                assert_ne!(theirs, ours, "{name}");
            }
            let mounts = fs::read_to_string(process.join("mountinfo")).expect("mounts");
            assert_eq!(mounts.lines().count(), 1, "{mounts}");
            let root: Vec<_> = fs::read_dir(process.join("root")).expect("root").collect();
            assert!(root.is_empty(), "{root:?}");
        }
        child.kill().expect("kill");
        wait(&mut child);
    }
}

#[test]
fn stubs_are_killed_first_when_memory_is_short() {
    let (mut child, processes) = running(As::Me);
    let score = |process: &PathBuf| fs::read_to_string(process.join("oom_score_adj")).expect("score").trim().to_owned();
    let ours = fs::read_to_string("/proc/self/oom_score_adj").expect("score").trim().to_owned();
    assert_eq!(score(&processes[0]), ours);
    for stub in &processes[1..] {
        assert_eq!(score(stub), "1000", "{stub:?}");
    }
    child.kill().expect("kill");
    wait(&mut child);
}

#[test]
fn nothing_is_left_behind() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let files = || -> BTreeSet<_> {
        ["/tmp", "/dev/shm", "/run"]
            .iter()
            .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()))
            .filter(|path| {
                path.to_string_lossy().contains("casemate-") && !path.to_string_lossy().contains("casemate-test-")
            })
            .collect()
    };
    let before = (mounts(), files());
    for arguments in [
        &[
            "run",
            "--",
            "/bin/sh",
            "-c",
            "echo x > /tmp/casemate-left; echo y > /dev/shm/casemate-left; echo z > /run/casemate-left",
        ][..],
        &["run", "--", "/does/not/exist"],
        &["run", "--", "/bin/sh", "-c", "kill -KILL $$"],
    ] {
        let child = command(As::Me, arguments).stderr(Stdio::null()).spawn().expect("starts");
        let pid = child.id();
        let mut child = child;
        wait(&mut child);
        assert!(descendants(pid).is_empty(), "{arguments:?}");
        assert_eq!((mounts(), files()), before, "{arguments:?}");
    }
}

#[test]
fn host_secrets_are_not_shown() {
    let done = common::shell(
        As::Me,
        "ls -A /run | wc -l; ls -d /proc/1 /sys/kernel/debug 2>/dev/null; test -e /dev/vda; echo $?",
    );
    let lines: Vec<&str> = done.out.lines().collect();
    assert!(lines.contains(&"/proc/1") && !lines.contains(&"/sys/kernel/debug"), "{done:?}");
    assert_eq!(lines.last(), Some(&"1"), "{done:?}");
}
