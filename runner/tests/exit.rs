//! Exit codes, signals and bad input: one clear line, and the statuses that `docker run` uses.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{As, command, everybody, finish, shell};

#[test]
fn arithmetic_and_status() {
    for who in everybody() {
        let done = finish(command(who, &["run", "--", "/bin/bash", "-c", "echo $((6*7)); exit 7"]), b"");
        assert_eq!((done.out.as_str(), done.status), ("42\n", Some(7)), "{who:?}: {done:?}");
        assert_eq!(done.err, "", "{who:?}");
    }
}

#[test]
fn death_by_signal_is_128_plus_n() {
    for (signal, status) in [("TERM", 143), ("KILL", 137), ("SEGV", 139), ("ABRT", 134)] {
        let done = shell(As::Me, &format!("kill -{signal} $$"));
        assert_eq!(done.status, Some(status), "{signal}: {done:?}");
    }
}

#[test]
fn usage_errors_are_ours() {
    for arguments in [
        &["run"][..],
        &["run", "--memory", "5x", "--", "true"],
        &["run", "--memory", "1k", "--", "true"],
        &["run", "--platform", "nonsense", "--", "true"],
        &["run", "--volume", "nonsense", "--", "true"],
        &["run", "--rootfs", "/does/not/exist", "--", "true"],
        &["run", "--rootfs", "/etc/passwd", "--", "true"],
        &["run", "--cwd", "relative", "--", "true"],
        &["nonsense"],
    ] {
        let done = finish(command(As::Me, arguments), b"");
        assert_eq!(done.status, Some(125), "{arguments:?}: {done:?}");
        assert!(!done.err.is_empty() && done.out.is_empty(), "{arguments:?}: {done:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["doctor", "--help"]] {
        let done = finish(command(As::Me, arguments), b"");
        assert_eq!((done.status, done.err.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

/// A directory of programs that cannot run, removed at the end.
struct Bad(PathBuf);

impl Bad {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("casemate-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("mode");
        Self(dir)
    }

    fn file(&self, name: &str, bytes: &[u8], mode: u32) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        path.to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn programs_that_cannot_run() {
    let bad = Bad::new("bad");
    let elf = fs::read("/bin/true").expect("a program");
    let mut foreign = elf.clone();
    // e_machine: AArch64.
    foreign[18..20].copy_from_slice(&183_u16.to_le_bytes());
    let cases = [
        (bad.file("no-x", &elf, 0o644), 126),
        (bad.file("foreign", &foreign, 0o755), 126),
        (bad.file("truncated", &elf[..100], 0o755), 126),
        (bad.file("garbage", b"\x01\x02\x03garbage", 0o755), 126),
        (bad.file("empty", b"", 0o755), 126),
        (bad.file("no-interpreter", b"#!/does/not/exist\n", 0o755), 127),
        (bad.0.to_str().expect("UTF-8").to_owned(), 126),
        ("/does/not/exist".to_owned(), 127),
        ("no-such-command-anywhere".to_owned(), 127),
        ("/etc/passwd/x".to_owned(), 127),
        (String::new(), 127),
    ];
    for who in everybody() {
        for (program, status) in &cases {
            let done = finish(command(who, &["run", "--", program]), b"");
            assert_eq!(done.status, Some(*status), "{who:?} {program}: {done:?}");
            assert_eq!(done.out, "", "{program}");
            assert_eq!(done.err.lines().count(), 1, "{program}: {:?}", done.err);
            assert!(done.err.starts_with("casemate: "), "{program}: {:?}", done.err);
        }
    }
}

#[test]
fn unreadable_rootfs() {
    let bad = Bad::new("rootfs");
    fs::set_permissions(&bad.0, fs::Permissions::from_mode(0o700)).expect("mode");
    for who in everybody().into_iter().filter(|&who| who == As::Nobody) {
        let done = finish(command(who, &["run", "--rootfs", bad.0.to_str().expect("UTF-8"), "--", "true"]), b"");
        assert_eq!(done.status, Some(125), "{done:?}");
        assert_eq!(done.err.lines().count(), 1, "{done:?}");
    }
    // An empty one has no program.
    fs::set_permissions(&bad.0, fs::Permissions::from_mode(0o755)).expect("mode");
    let done = finish(command(As::Me, &["run", "--rootfs", bad.0.to_str().expect("UTF-8"), "--", "true"]), b"");
    assert_eq!(done.status, Some(127), "{done:?}");
}

#[test]
fn environment_and_directory() {
    let mut plain = command(As::Me, &["run", "--", "/bin/sh", "-c", "echo $MARK; pwd; umask"]);
    plain.env("MARK", "seen").current_dir("/usr");
    let done = finish(plain, b"");
    assert_eq!(done.out.lines().take(2).collect::<Vec<_>>(), ["seen", "/usr"], "{done:?}");
    let arguments = ["run", "--clear-env", "-e", "A=1", "--cwd", "/etc", "--hostname", "box", "--", "/bin/sh", "-c"];
    let script = "echo $A$MARK; pwd; cat /proc/sys/kernel/hostname";
    let mut changed = command(As::Me, &[&arguments[..], &[script]].concat());
    changed.env("MARK", "seen");
    let done = finish(changed, b"");
    assert_eq!(done.out, "1\n/etc\nbox\n", "{done:?}");
}

#[test]
fn host_files_stay_as_they_were() {
    let bad = Bad::new("volume");
    let file = bad.file("file", b"host\n", 0o666);
    let dir = bad.0.to_str().expect("UTF-8").to_owned();
    let done = shell(As::Me, &format!("echo guest > {file}; cat {file}; mkdir {dir}/new"));
    assert_eq!((done.out.as_str(), done.status), ("guest\n", Some(0)), "{done:?}");
    assert_eq!(fs::read(&file).expect("still there"), b"host\n");
    assert!(!bad.0.join("new").exists());

    let volume = format!("{dir}:/mnt");
    let done = finish(command(As::Me, &["run", "-v", &volume, "--", "/bin/sh", "-c", "echo guest > /mnt/file"]), b"");
    assert_eq!(done.status, Some(0), "{done:?}");
    assert_eq!(fs::read(&file).expect("still there"), b"guest\n");

    let volume = format!("{dir}:/mnt:ro");
    let done = finish(command(As::Me, &["run", "-v", &volume, "--", "/bin/sh", "-c", "echo no > /mnt/file"]), b"");
    assert_ne!(done.status, Some(0), "{done:?}");
    assert_eq!(fs::read(&file).expect("still there"), b"guest\n");

    let done = finish(command(As::Me, &["run", "--hide", &dir, "--", "/bin/ls", &dir]), b"");
    assert_eq!((done.out.as_str(), done.status), ("", Some(0)), "{done:?}");
}
