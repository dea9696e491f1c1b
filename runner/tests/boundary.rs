//! No system call of a guest reaches the host: while guest programs run, the host's own tracepoint for system calls
//! counts none whose instruction pointer lies in guest code.
//!
//! Needs root and a host whose tracefs can be mounted; says so elsewhere.
#![allow(clippy::print_stderr, reason = "a test that cannot run here says why")]

mod common;
#[path = "common/trace.rs"]
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::process::{Command, Stdio};

use common::{As, command, descendants, everybody, wait};
use trace::{Call, Tracer};

/// Work of many kinds: processes, pipes, signals, files, threads, wrong numbers.
const WORK: &str = r#"
ls / | wc -l
for i in 1 2 3 4 5; do /bin/true; done
(trap 'echo caught' USR1; kill -USR1 $BASHPID)
echo text > /tmp/boundary && cat /tmp/boundary /proc/self/maps > /dev/null
(sleep 0.05 & wait)
if [ -x /usr/bin/python3 ]; then
/usr/bin/python3 - <<'END'
import os, threading, time, ctypes, mmap, signal, subprocess
threads = [threading.Thread(target=lambda: [os.getpid() for _ in range(200)]) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
m = mmap.mmap(-1, 1 << 20); m[0] = 1; del m
subprocess.run(["/bin/true"], check=True)
libc = ctypes.CDLL(None, use_errno=True)
for nr in list(range(500, 600)) + [0xca5, 0x40000000 + 39, -1]:
    libc.syscall(ctypes.c_long(nr), 0, 0, 0, 0, 0, 0)
END
fi
for test in $GUEST_TESTS; do CASEMATE_INSIDE=1 timeout 60 $test --quiet --test-threads=1 >/dev/null 2>&1 || true; done
"#;

/// Executable ranges of `pid` whose name in its memory map fits.
fn executable(pid: u32, fits: impl Fn(&str) -> bool) -> Vec<Range<u64>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mut found = Vec::new();
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, rights, ..] = words[..] else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let name = words.get(5).copied().unwrap_or_default();
        if rights.contains('x') && fits(name) && name != "[vsyscall]" {
            let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
            found.push(number(start)..number(end));
        }
    }
    found
}

/// Whether `ip`, which stands behind the instruction, belongs to one of `ranges`.
fn within(ranges: &[Range<u64>], ip: u64) -> bool {
    ranges.iter().any(|range| range.start < ip && ip <= range.end)
}

#[test]
fn the_host_serves_no_call_of_a_guest() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may read the host's tracepoints");
        return;
    }
    if let Err(reason) = Tracer::start().map(Tracer::finish) {
        eprintln!("skipped: {reason}");
        return;
    }
    the_tracer_sees_calls();
    for who in everybody() {
        check(who);
    }
}

/// The counter-check: natively, the same tracer sees the calls of a program.
fn the_tracer_sees_calls() {
    let tracer = Tracer::start().expect("as before");
    let mut child = Command::new("/bin/true").spawn().expect("starts");
    let pid = child.id();
    child.wait().expect("waits");
    let calls = tracer.finish();
    let exits = calls.iter().filter(|call| call.pid == pid && call.nr == libc::SYS_exit_group && call.ip != 0).count();
    assert_eq!(exits, 1, "{:?}", calls.iter().filter(|call| call.pid == pid).collect::<Vec<_>>());
}

fn check(who: As) {
    let tracer = Tracer::start().expect("as before");
    let script = format!("{WORK}\necho up; read end");
    let mut child = command(who, &["run", "--", "/bin/bash", "-c", &script])
        .env("GUEST_TESTS", if who == As::Me { guest_tests() } else { String::new() })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let launcher = child.id();
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut said = Vec::new();
    while said.last().is_none_or(|line| line != "up") {
        let next = lines.next().unwrap_or_else(|| panic!("the guest ended early: {:?}, {said:?}", child.wait()));
        said.push(next.expect("text"));
    }
    let processes = descendants(launcher);
    let (&sandbox, stubs) = processes.split_first().expect("a sandbox process");
    let ours = executable(sandbox, |_| true);
    let text = executable(*stubs.first().expect("a stub"), |name| name.contains("casemate-stub"));
    assert_eq!(text.len(), 1, "{text:?}");
    // One that is ending has no memory any more.
    for &stub in stubs.iter().filter(|stub| !executable(**stub, |_| true).is_empty()) {
        assert_eq!(executable(stub, |name| name.contains("casemate-stub")), text, "stubs have their text in one place");
    }
    child.stdin.take().expect("piped").write_all(b"end\n").expect("writes");
    assert_eq!(wait(&mut child).code(), Some(0));

    let calls = tracer.finish();
    let apart = [std::process::id(), launcher, sandbox];
    // Linux answers 335 and 336 (uretprobe, uprobe) itself since 6.14, past every filter: SIGILL and ENXIO.
    let exempt = [335, 336];
    let in_stubs: Vec<Call> =
        calls.into_iter().filter(|call| !apart.contains(&call.pid) && !exempt.contains(&call.nr)).collect();
    let seen: BTreeSet<u32> = in_stubs.iter().map(|call| call.pid).collect();
    // Some stubs serve one process after another.
    assert!(seen.len() > 4, "the tracer followed the stubs: {seen:?}");
    assert!(in_stubs.len() > 1000, "the tracer saw their calls: {}", in_stubs.len());
    assert!(in_stubs.iter().any(|call| within(&text, call.ip)), "stub text calls the host");

    let mut elsewhere: BTreeMap<u32, Vec<Call>> = BTreeMap::new();
    for call in in_stubs.iter().filter(|call| !within(&text, call.ip)) {
        elsewhere.entry(call.pid).or_default().push(*call);
    }
    // Before any guest runs, the sandbox process forks helpers that try what the host offers and end, and the zygote,
    // which runs our own code until it has unmapped all but the stub's. (Their numbers say nothing of their age: the host's
    // begin anew now and then.)
    assert!(elsewhere.len() <= 4, "{who:?}: calls of guest code: {elsewhere:x?}");
    for calls in elsewhere.values() {
        let foreign: Vec<&Call> = calls.iter().filter(|call| !within(&ours, call.ip)).collect();
        assert!(foreign.is_empty(), "{who:?}: calls of guest code: {foreign:x?}");
    }
    eprintln!(
        "{who:?}: {} host calls of {} stub processes, all from stub text but {} before the first guest",
        in_stubs.len(),
        seen.len(),
        elsewhere.values().map(Vec::len).sum::<usize>()
    );
}

/// Executables of the guest tests, when `cargo xtask test` names them.
fn guest_tests() -> String {
    std::env::var("CASEMATE_GUEST_TESTS").unwrap_or_default()
}
