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
