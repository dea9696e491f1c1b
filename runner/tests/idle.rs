//! An idle sandbox wakes up never: while its program sleeps, no thread of launcher, sandbox process and stubs is scheduled,
//! not once.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{As, below_a_listener, command, descendants};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long nothing may happen: a second finds what ticks, and with `CASEMATE_LONG` five find what ticks slowly.
fn watched() -> Duration {
    Duration::from_secs(if std::env::var_os("CASEMATE_LONG").is_some() { 5 } else { 1 })
}

/// Context switches, voluntary and not, of every thread of every process of a sandbox.
fn switches(launcher: u32) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for pid in std::iter::once(launcher).chain(descendants(launcher)) {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let number = |name: &str| {
                let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
                value.trim().parse::<u64>().unwrap_or(0)
            };
            let sum = number("voluntary_ctxt_switches:") + number("nonvoluntary_ctxt_switches:");
            let name = status.lines().next().unwrap_or("").trim_start_matches("Name:\t").to_owned();
            all.insert(format!("{} {name}", task.path().display()), sum);
        }
    }
    all
}

/// Lets `period` pass, unless the child ends.
fn pass(child: &Child, period: Duration) {
    let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("pidfd");
    let limit = rustix::event::Timespec { tv_sec: period.as_secs().cast_signed(), tv_nsec: 0 };
    let mut set = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut set, Some(&limit)).expect("poll"), 0, "it ended");
}

/// Programs that say `up` and then sleep, each in another call.
const SLEEPERS: [(&str, &[&str]); 10] = [
    ("nanosleep", &["/bin/bash", "-c", "echo up; exec sleep 1000"]),
    ("wait", &["/bin/bash", "-c", "sleep 1000 & echo up; wait"]),
    ("a pipe", &["/bin/bash", "-c", "echo up; exec cat"]),
    ("a pipe of its own", &["/bin/bash", "-c", "sleep 1000 | cat & echo up; wait"]),
    ("poll", &["/usr/bin/python3", "-c", "import select; print('up', flush=True); select.poll().poll()"]),
    ("select", &["/usr/bin/python3", "-c", "import select; print('up', flush=True); select.select([], [], [], 1000)"]),
    ("epoll", &["/usr/bin/python3", "-c", "import select; e = select.epoll(); print('up', flush=True); e.poll(1000)"]),
    (
        "futexes",
        &[
            "/usr/bin/python3",
            "-c",
            "import threading; n = threading.Event()\n\
             for i in range(4): threading.Thread(target=n.wait).start()\n\
             print('up', flush=True); n.wait(1000)",
        ],
    ),
    ("sigsuspend", &["/usr/bin/python3", "-c", "import signal; print('up', flush=True); signal.pause()"]),
    (
        "after much work",
        &[
            "/bin/bash",
            "-c",
            "for ((i = 0; i < 50; i++)); do (echo $i) | cat; done | wc -l >&2; echo up; exec sleep 1000",
        ],
    ),
];

fn sleeps(name: &str, mut command: Command) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("starts");
    let stdin = child.stdin.take();
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().and_then(Result::ok).as_deref(), Some("up"), "{name}");
    // What it did before it fell asleep may have an end of its own (a look at late kicks, memory given back).
    let mut before = switches(child.id());
    for _ in 0..10 {
        pass(&child, Duration::from_secs(1));
        let now = switches(child.id());
        if now == before {
            break;
        }
        before = now;
    }
    pass(&child, watched());
    let after = switches(child.id());
    let woken: Vec<_> = after.iter().filter(|(task, count)| before.get(*task) != Some(count)).collect();
    assert!(woken.is_empty() && before.len() == after.len(), "{name}: {woken:?} of {before:?}");
    assert!(after.len() >= 4, "{name}: a sandbox has more threads than {after:?}");
    child.kill().expect("kill");
    child.wait().expect("wait");
    drop(stdin);
}

#[test]
fn at_a_terminal() {
    // script(1) is idle as well.
    let inside = format!("{} run -- /bin/bash -c 'stty -onlcr; echo up; read line'", common::casemate().display());
    let mut command = Command::new("/usr/bin/script");
    command.args(["--quiet", "--flush", "--command", &inside, "/dev/null"]);
    sleeps("a terminal", command);
}

/// Each mode, all sleepers at once: the machine is idle then too.
fn all_sleep(make: impl Fn(&[&str]) -> Command + Sync) {
    std::thread::scope(|scope| {
        let make = &make;
        for (name, program) in SLEEPERS {
            scope.spawn(move || sleeps(name, make(program)));
        }
    });
}

#[test]
fn with_namespaces() {
    for who in common::everybody() {
        all_sleep(|program| command(who, &[&["run", "--"], program].concat()));
    }
}

#[test]
fn with_seccomp_alone() {
    all_sleep(|program| command(As::Me, &[&["run", "--isolation=seccomp", "--"], program].concat()));
}

/// Hand-over by futex, where another has the listener.
#[test]
fn below_another_listener() {
    all_sleep(|program| below_a_listener(command(As::Me, &[&["run", "--"], program].concat())));
}
