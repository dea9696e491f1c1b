//! Long runs, only with `CASEMATE_LONG` (`cargo xtask test --long`): many sandboxes, many processes, and a guest that makes
//! random calls. Nothing is left, nothing hangs, and the kernel outlives them all.

mod common;

use common::{As, command, finish};

fn is_long() -> bool {
    std::env::var_os("CASEMATE_LONG").is_some()
}

#[test]
fn many_sandboxes() {
    if !is_long() {
        return;
    }
    for round in 0..200 {
        let done = finish(command(As::Me, &["run", "--", "/bin/sh", "-c", "(exit 3); exit $(($? + 4))"]), b"");
        assert_eq!(done.status, Some(7), "{round}: {done:?}");
    }
}

#[test]
fn many_processes() {
    if !is_long() {
        return;
    }
    let script = "for ((i = 0; i < 3000; i++)); do (exit 7) | true; done; echo $i";
    let done = finish(command(As::Me, &["run", "--", "/bin/bash", "-c", script]), b"");
    assert_eq!((done.out.as_str(), done.status), ("3000\n", Some(0)), "{done:?}");
}

/// Each child makes random calls until an alarm, a fault or an exit ends it. Arguments are numbers of all sizes, and
/// addresses of a buffer.
const FUZZ: &str = r#"
import ctypes, os, random, signal, sys, time
libc = ctypes.CDLL(None)
end = time.monotonic() + 20
children = 0
while time.monotonic() < end:
    seed = int(sys.argv[1]) + children
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3): os.dup2(null, fd)
        choose = random.Random(seed)
        buffer = ctypes.create_string_buffer(bytes(choose.randrange(256) for _ in range(8192)))
        base = ctypes.addressof(buffer)
        while True:
            words = [choose.choice([0, 1, 2, -1, 3, 8, 4096, 1 << 31, 1 << 47, 1 << 63, base, base + 8,
                                    base + choose.randrange(8192), choose.randrange(1 << 16)]) for _ in range(6)]
            number = choose.randrange(470)
            # Not those that reach the parent, or that only end the child or its alarm.
            if number not in (15, 34, 37, 38, 60, 62, 101, 109, 112, 129, 200, 231, 234, 297, 302, 311, 424):
                libc.syscall(ctypes.c_long(number), *[ctypes.c_long(word) for word in words])
    deadline = time.monotonic() + 5
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        time.sleep(0.002)
    children += 1
print(children > 10, flush=True)
os._exit(0)
"#;

#[test]
fn random_calls() {
    if !is_long() {
        return;
    }
    for seed in ["1", "1000000"] {
        let arguments = ["run", "--memory", "512M", "--", "/usr/bin/python3", "-c", FUZZ, seed];
        let done = finish(command(As::Me, &arguments), b"");
        assert_eq!((done.out.as_str(), done.status), ("True\n", Some(0)), "seed {seed}: {done:?}");
    }
}
