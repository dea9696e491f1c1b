//! What a guest may use up: processes, memory, files in memory. The host is unharmed, and the guest gets Linux's errors.

mod common;

use common::{As, command, everybody, finish};

/// Forks until that fails; children run CHILD.
const BOMB: &str = r#"
import os, errno, signal
children = 0
try:
    while True:
        if os.fork() == 0:
            CHILD
            os._exit(0)
        children += 1
except OSError as error:
    print(20 < children < 40, error.errno == errno.EAGAIN, flush=True)
os._exit(0)
"#;

#[test]
fn a_fork_bomb_ends_with_eagain() {
    for who in everybody() {
        // Children that live, and zombies, which count until somebody waits for them.
        for child in ["signal.pause()", "pass"] {
            let script = BOMB.replace("CHILD", child);
            let done = finish(command(who, &["run", "--pids", "40", "--", "/usr/bin/python3", "-c", &script]), b"");
            assert_eq!((done.out.as_str(), done.status), ("True True\n", Some(0)), "{who:?} {child}: {done:?}");
        }
    }
}

/// Everybody forks for ever, as `:(){ :|:& };:` does; the first process ends it all after some seconds.
const CHAIN: &str = r#"
import errno, os, time
end = time.monotonic() + SECONDS
if os.fork() == 0:
    while True:
        try: os.fork()
        except OSError as error:
            if error.errno != errno.EAGAIN: print("errno", error.errno, flush=True)
while time.monotonic() < end: time.sleep(0.1)
print("up", flush=True)
os._exit(3)
"#;

/// Numbers of processes and threads on the host: running, and in all.
fn host_tasks() -> u64 {
    let text = std::fs::read_to_string("/proc/loadavg").expect("loadavg");
    let field = text.split_whitespace().nth(3).expect("running/all");
    field.rsplit('/').next().and_then(|all| all.parse().ok()).expect("a number")
}

/// A bomb ends with the command that began it, and the host can fork all the while. With `CASEMATE_LONG` at the default of
/// `--pids`.
#[test]
fn a_chain_of_forks_leaves_the_host_alone() {
    let long = std::env::var_os("CASEMATE_LONG").is_some();
    let script = CHAIN.replace("SECONDS", if long { "10" } else { "1" });
    for who in everybody() {
        let before = host_tasks();
        let limit: &[&str] = if long { &[] } else { &["--pids", "100"] };
        let bomb = command(who, &[&["run"], limit, &["--", "/usr/bin/python3", "-c", &script]].concat());
        let running = std::thread::spawn(move || finish(bomb, b""));
        let (mut most, mut forks) = (0, 0);
        while !running.is_finished() {
            most = most.max(host_tasks());
            let status = std::process::Command::new("/bin/true").status().expect("the host can fork");
            assert!(status.success());
            forks += 1;
        }
        let done = running.join().expect("finished");
        assert_eq!((done.out.as_str(), done.status), ("up\n", Some(3)), "{who:?}: {done:?}");
        assert!(forks > 5, "{who:?}: {forks} forks of the host's in all that time");
        assert!(long || most < before + 3000, "{who:?}: {most} tasks on the host, {before} before");
    }
}

#[test]
fn a_full_tmp_is_enospc() {
    let script = "dd if=/dev/zero of=/tmp/full bs=1M count=400 2>&1 | grep -o 'No space left on device'; \
                  rm /tmp/full; echo again > /tmp/new && cat /tmp/new";
    for who in everybody() {
        let done = finish(command(who, &["run", "--memory", "128M", "--", "/bin/bash", "-c", script]), b"");
        assert_eq!(
            (done.out.as_str(), done.status),
            ("No space left on device\nagain\n", Some(0)),
            "{who:?}: {done:?}"
        );
    }
}

#[test]
fn a_full_overlay_is_enospc() {
    let script = "dd if=/dev/zero of=/var/full bs=1M count=400 2>&1 | grep -o 'No space left on device'; echo $?";
    let done = finish(command(As::Me, &["run", "--memory", "128M", "--", "/bin/bash", "-c", script]), b"");
    assert_eq!(done.out, "No space left on device\n0\n", "{done:?}");
    assert!(!std::path::Path::new("/var/full").exists());
}

#[test]
fn memory_past_the_limit_kills_the_process_alone() {
    let script = "/usr/bin/python3 -c 'x = bytearray(400 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1' 2>/dev/null; \
                  test $? -ne 0 && echo lives";
    let done = finish(command(As::Me, &["run", "--memory", "128M", "--", "/bin/bash", "-c", script]), b"");
    assert_eq!((done.out.as_str(), done.status), ("lives\n", Some(0)), "{done:?}");
}

/// A process that has most of the memory and asks for nothing, and another that then asks for more than is left. ADJUST is
/// the first one's `oom_score_adj`. Tells how each ended, and both scores before.
const TWO: &str = r#"
import os, subprocess, sys
fill = "x = bytearray(%d << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nprint('up', flush=True)\n"
def start(megabytes, then, adjust):
    def adjusted(): open("/proc/self/oom_score_adj", "w").write(adjust)
    code = fill % megabytes + then
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, preexec_fn=adjusted)
first = start(100, "import time; time.sleep(1000)", "ADJUST")
first.stdout.readline()
score = lambda pid: int(open(f"/proc/{pid}/oom_score").read())
scores = score(first.pid) > score("self"), score(first.pid) > 900
second = start(120, "", "0")
ended = second.wait()
if ended == 0: first.wait()
print(*scores, first.poll(), ended)
first.kill()
"#;

#[test]
fn who_takes_most_makes_room() {
    for (adjust, expected) in [("0", "True True -9 0\n"), ("-1000", "False False None -9\n")] {
        let script = TWO.replace("ADJUST", adjust);
        let done = finish(command(As::Me, &["run", "--memory", "192M", "--", "/usr/bin/python3", "-c", &script]), b"");
        assert_eq!((done.out.as_str(), done.status), (expected, Some(0)), "{adjust}: {done:?}");
    }
}
