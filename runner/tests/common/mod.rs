//! Runs the built `casemate` for the integration tests, as root or as an ordinary user, with a deadline.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::c_void;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that any test program may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// An ordinary user: nobody.
const NOBODY: u32 = 65_534;

/// The program under test.
pub(crate) fn casemate() -> PathBuf {
    std::env::var_os("CASEMATE_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_casemate")), PathBuf::from)
}

/// Who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// Whoever runs the tests.
    Me,
    /// `nobody`, when the tests run as root.
    Nobody,
}

/// Both, where the tests run as root.
pub(crate) fn everybody() -> Vec<As> {
    if rustix::process::geteuid().is_root() { vec![As::Me, As::Nobody] } else { vec![As::Me] }
}

/// `casemate ARGS`, not yet started.
pub(crate) fn command(who: As, args: &[&str]) -> Command {
    let mut command = Command::new(reachable_binary(who));
    command.args(args);
    if who == As::Nobody {
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    command
}

fn reachable_binary(who: As) -> PathBuf {
    if who == As::Me { casemate() } else { shared_binary() }
}

/// The build directory may be closed to others: they get a copy, one per build and not one per test.
pub(crate) fn shared_binary() -> PathBuf {
    let built = std::fs::metadata(casemate()).expect("the binary");
    let name = format!("casemate-test-{}-{}", std::os::unix::fs::MetadataExt::ino(&built), built.len());
    let copy = std::env::temp_dir().join(name);
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // Whole before it has its name: another test program may start it at any moment.
        let fresh = copy.with_extension(std::process::id().to_string());
        std::fs::copy(casemate(), &fresh).expect("copy of the binary");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fresh, mode).expect("permissions");
        std::fs::rename(&fresh, &copy).expect("rename");
    });
    copy
}

/// What a finished program left.
#[derive(Debug)]
pub(crate) struct Done {
    /// Exit status; `None` when a signal killed `casemate` itself.
    pub(crate) status: Option<i32>,
    /// That signal.
    pub(crate) signal: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

/// Runs to the end with `input`, killing it at the deadline.
pub(crate) fn finish(mut command: Command, input: &[u8]) -> Done {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("casemate starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let mut stdout = child.stdout.take().expect("piped");
    let out = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.read_to_end(&mut bytes);
        bytes
    });
    let mut stderr = child.stderr.take().expect("piped");
    let err = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stderr.read_to_end(&mut bytes);
        bytes
    });
    let status = wait(&mut child);
    let _ = writer.join();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Done {
        status: status.code(),
        signal: status.signal(),
        out: text(out.join().expect("reader")),
        err: text(err.join().expect("reader")),
    }
}

/// Waits for the end, at most until the deadline.
pub(crate) fn wait(child: &mut Child) -> std::process::ExitStatus {
    let handle =
        rustix::process::pidfd_open(rustix::process::Pid::from_child(child), rustix::process::PidfdFlags::empty())
            .expect("pidfd");
    let limit = rustix::event::Timespec { tv_sec: DEADLINE.as_secs().cast_signed(), tv_nsec: 0 };
    let mut set = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
    if rustix::event::poll(&mut set, Some(&limit)).expect("poll") == 0 {
        let _ = child.kill();
        let _ = child.wait();
        panic!("no end within {DEADLINE:?}");
    }
    child.wait().expect("wait")
}

/// Runs `casemate run -- sh -c SCRIPT`.
pub(crate) fn shell(who: As, script: &str) -> Done {
    finish(command(who, &["run", "--", "/bin/sh", "-c", script]), b"")
}

/// Process ids of the descendants of `pid` on the host.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut queue = vec![pid];
    while let Some(parent) = queue.pop() {
        for child in children_of(parent) {
            found.push(child);
            queue.push(child);
        }
    }
    found
}

fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return children };
    for task in tasks.flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(|number| number.parse::<u32>().ok()));
    }
    children
}

/// Whether `pid` is gone (a zombie counts as gone).
pub(crate) fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(_) => true,
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
    }
}

/// Fails unless every one of `pids` is gone within `limit`.
pub(crate) fn assert_gone_within(pids: &[u32], limit: Duration) {
    let start = Instant::now();
    loop {
        let left: Vec<u32> = pids.iter().copied().filter(|&pid| !is_gone(pid)).collect();
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < limit, "still there after {limit:?}: {left:?}");
        std::thread::yield_now();
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

/// `command` where a filter with a listener is in force already, as below some container runtimes.
pub(crate) fn below_a_listener(mut command: Command) -> Command {
    // SAFETY: 1. only async-signal-safe calls, and no allocation on success.
    unsafe { command.pre_exec(occupy_the_listener) };
    command
}
