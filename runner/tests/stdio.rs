//! Standard streams of any kind, and what the caller's descriptors look like afterwards.

mod common;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use common::{As, casemate, command, finish, shell, wait};
use rustix::fs::OFlags;

#[test]
fn pipes_and_end_of_input() {
    let done = finish(command(As::Me, &["run", "--", "/bin/cat"]), b"through\n");
    assert_eq!((done.out.as_str(), done.status), ("through\n", Some(0)), "{done:?}");
    let done = finish(command(As::Me, &["run", "--", "/bin/cat"]), b"");
    assert_eq!((done.out.as_str(), done.status), ("", Some(0)), "{done:?}");
    let done = shell(As::Me, "echo out; echo err >&2");
    assert_eq!((done.out.as_str(), done.err.as_str()), ("out\n", "err\n"));
}

#[test]
fn a_reader_that_leaves() {
    let program = casemate();
    let program = program.to_str().expect("UTF-8");
    for script in [format!("{program} run -- yes | head -n 1"), format!("yes | {program} run -- head -n 1")] {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", &script]);
        let done = finish(shell, b"");
        assert_eq!((done.out.as_str(), done.status), ("y\n", Some(0)), "{script}: {done:?}");
    }
}

#[test]
fn closed_streams() {
    let program = casemate();
    let program = program.to_str().expect("UTF-8");
    for (redirections, script, expected) in [
        ("<&-", "read x || echo closed", "closed\n"),
        ("2>&-", "echo lost >&2 || echo closed", "closed\n"),
        ("<&- 2>&-", "echo fine", "fine\n"),
    ] {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", &format!("{program} run -- /bin/sh -c '{script}' {redirections}")]);
        let done = finish(shell, b"");
        assert_eq!((done.out.as_str(), done.status), (expected, Some(0)), "{redirections}: {done:?}");
    }
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", &format!("{program} run -- /bin/true <&- >&- 2>&-")]);
    assert_eq!(finish(shell, b"").status, Some(0));
}

#[test]
fn inherited_descriptions_stay_blocking() {
    let (reader, writer) = std::io::pipe().expect("pipe");
    let (out_reader, out_writer) = std::io::pipe().expect("pipe");
    let (in_end, out_end): (OwnedFd, OwnedFd) = (reader.into(), out_writer.into());
    let (in_copy, out_copy) = (in_end.try_clone().expect("dup"), out_end.try_clone().expect("dup"));
    let mut child = command(As::Me, &["run", "--", "/bin/cat"]).stdin(in_end).stdout(out_end).spawn().expect("starts");
    let mut writer = writer;
    writer.write_all(b"x").expect("write");
    let mut byte = [0];
    (&out_reader).read_exact(&mut byte).expect("read");
    for fd in [in_copy.as_fd(), out_copy.as_fd()] {
        assert!(!rustix::fs::fcntl_getfl(fd).expect("flags").contains(OFlags::NONBLOCK));
    }
    drop(writer);
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn regular_files_share_their_offset() {
    let path = std::env::temp_dir().join(format!("casemate-offset-{}", std::process::id()));
    let program = casemate();
    let script = format!(
        "(echo first; {} run -- echo second; echo third) > {}",
        program.to_str().expect("UTF-8"),
        path.to_str().expect("UTF-8")
    );
    let status = std::process::Command::new("/bin/sh").args(["-c", &script]).status().expect("runs");
    let text = std::fs::read_to_string(&path).expect("file");
    let _ = std::fs::remove_file(&path);
    assert_eq!((status.code(), text.as_str()), (Some(0), "first\nsecond\nthird\n"));
}

#[test]
fn a_gibibyte_of_output() {
    let size: u64 = 1 << 30;
    let script = format!("head -c {size} /dev/zero");
    let mut child = command(As::Me, &["run", "--", "/bin/sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdout = child.stdout.take().expect("piped");
    let copied = std::io::copy(&mut stdout, &mut std::io::sink()).expect("reads");
    assert_eq!((copied, wait(&mut child).code()), (size, Some(0)));
}

#[test]
fn sockets_as_streams() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("socketpair");
    let output = OwnedFd::from(theirs.try_clone().expect("dup"));
    let mut child = command(As::Me, &["run", "--", "/bin/cat"])
        .stdin(OwnedFd::from(theirs))
        .stdout(output)
        .spawn()
        .expect("starts");
    (&ours).write_all(b"over a socket").expect("write");
    ours.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let mut text = String::new();
    (&ours).take(13).read_to_string(&mut text).expect("read");
    assert_eq!((text.as_str(), wait(&mut child).code()), ("over a socket", Some(0)));
}

#[test]
fn timeout_ends_it() {
    let program = casemate();
    let mut timeout = std::process::Command::new("/usr/bin/timeout");
    timeout.args(["1", program.to_str().expect("UTF-8"), "run", "--", "/bin/sleep", "1000"]);
    assert_eq!(finish(timeout, b"").status, Some(124));
}

#[test]
fn positions_of_files_are_shared() {
    let path = std::env::temp_dir().join(format!("casemate-positions-{}", std::process::id()));
    let program = casemate();
    let program = program.to_str().expect("UTF-8");
    // What is written before, inside and after stands in a row; copying between files works; a seek is seen outside.
    let script = format!(
        "{{ echo before; {program} run -- /bin/sh -c 'echo inside; cp /proc/self/comm /tmp/c; cat /tmp/c'; echo after; }} > {0};
         cat {0}; {{ {program} run -- /bin/sh -c 'read line'; cat; }} < {0}",
        path.display()
    );
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", &script]);
    let done = finish(shell, b"");
    let _ = std::fs::remove_file(&path);
    assert_eq!(done.out, "before\ninside\ncp\nafter\ninside\ncp\nafter\n", "{done:?}");
}
