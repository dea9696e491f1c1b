//! The command at the top of the README, and what every newcomer tries next.

mod common;

use std::process::Command;

use common::{As, command, everybody, finish, shell};

#[test]
fn first_light() {
    let script = r#"uname -a; ls / | wc -l; /usr/bin/python3 -c "print(6*7)"; exit 7"#;
    for who in everybody() {
        let done = finish(command(who, &["run", "--", "/bin/bash", "-c", script]), b"");
        let lines: Vec<&str> = done.out.lines().collect();
        assert_eq!((lines.len(), done.status, done.err.as_str()), (3, Some(7), ""), "{who:?}: {done:?}");
        assert!(lines[0].starts_with("Linux ") && lines[0].contains(" 6.12.0"), "{done:?}");
        assert!(lines[1].trim().parse::<u32>().is_ok_and(|entries| entries > 5), "{done:?}");
        assert_eq!(lines[2], "42");
    }
}

#[test]
fn the_command_is_a_child_of_init() {
    let done = shell(As::Me, "echo $PPID; cat /proc/1/comm; ps -e 2>/dev/null | wc -l >/dev/null; echo $$");
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(lines.first(), Some(&"1"), "{done:?}");
    assert!(lines.last().and_then(|pid| pid.parse::<u32>().ok()).is_some_and(|pid| pid > 1), "{done:?}");
}

#[test]
fn identity_is_the_callers() {
    for who in everybody() {
        let inside = finish(command(who, &["run", "--", "/usr/bin/id", "-u"]), b"");
        let expected = if who == As::Me { rustix::process::geteuid().as_raw() } else { 65_534 };
        assert_eq!(inside.out.trim(), expected.to_string(), "{who:?}: {inside:?}");
    }
}

#[test]
fn names_and_zones_are_the_hosts() {
    for path in ["/etc/hosts", "/etc/resolv.conf", "/etc/localtime"] {
        let Ok(host) = std::fs::read(path) else { continue };
        let done = shell(As::Me, &format!("cksum < {path}"));
        let mut native = Command::new("/bin/sh");
        native.args(["-c", &format!("cksum < {path}")]);
        assert_eq!(done.out, finish(native, b"").out, "{path} of {} bytes", host.len());
    }
}

#[test]
fn strace_goes_where_it_is_told() {
    let file = std::env::temp_dir().join(format!("casemate-trace-{}", std::process::id()));
    let option = format!("--strace={}", file.to_str().expect("UTF-8"));
    let done = finish(command(As::Me, &["run", &option, "--", "/bin/echo", "text"]), b"");
    let trace = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(&file);
    assert_eq!((done.out.as_str(), done.err.as_str(), done.status), ("text\n", "", Some(0)), "{done:?}");
    for call in ["mmap(", "openat(", "write(", "exit_group("] {
        assert!(trace.contains(call), "{call} in {} lines", trace.lines().count());
    }
    let done = finish(command(As::Me, &["run", "--strace", "--", "/bin/true"]), b"");
    assert!(done.err.contains("exit_group("), "{done:?}");
}

#[test]
fn the_table_and_the_doctor_speak() {
    let done = finish(command(As::Me, &["syscalls"]), b"");
    assert!(done.status == Some(0) && done.out.lines().count() > 350, "{done:?}");
    let done = finish(command(As::Me, &["doctor"]), b"");
    assert!(done.out.contains("systrap"), "{done:?}");
}

#[test]
fn init_reaps_orphans() {
    let done = shell(As::Me, "(sh -c 'exit 0' & ); sleep 0.2; grep -l '^State:.*Z' /proc/[0-9]*/status | wc -l");
    assert_eq!((done.out.as_str(), done.status), ("0\n", Some(0)), "{done:?}");
}
