//! Guest memory, seen from outside: what is freed goes back, what is reserved costs nothing, an idle sandbox is small.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::{As, command, descendants, finish};

/// Memory that is filled and freed, again and again, with what `/proc/meminfo` says before and after: KiB that are missing.
const FILL: &str = r#"
import mmap
def free():
    return next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemFree"))
idle = free()
for turn in range(10):
    block = bytearray(SIZE << 20)
    block[::4096] = bytes(1) * (len(block) >> 12)
    taken = idle - free()
    del block
    parts = [bytes(200 << 10) for _ in range(200)]
    del parts
print(taken >> 10 >= SIZE, (idle - free()) >> 10 < 16)
sparse = mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
sparse[1 << 39] = 1
print(sparse[1 << 39], sparse[5], (idle - free()) >> 10 < 16)
"#;

#[test]
fn what_is_freed_goes_back() {
    let long = std::env::var_os("CASEMATE_LONG").is_some();
    let script = FILL.replace("SIZE", if long { "2048" } else { "128" });
    let done = finish(command(As::Me, &["run", "--memory", "4G", "--", "/usr/bin/python3", "-c", &script]), b"");
    assert_eq!(done.out, "True True\n1 0 True\n", "{done:?}");
}

/// KiB of memory in all processes of the sandbox that are not pages of files.
fn resident(launcher: u32) -> u64 {
    let of = |pid: u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let value = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0)
        };
        value("Pss_Anon:") + value("Pss_Shmem:")
    };
    std::iter::once(launcher).chain(descendants(launcher)).map(of).sum()
}

#[test]
fn an_idle_sandbox_is_small() {
    let script = "for i in 1 2 3 4 5 6 7 8; do (echo $i | cat) >/dev/null; done; echo up; exec sleep 1000";
    let mut child = command(As::Me, &["run", "--", "/bin/bash", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "up");
    let kib = resident(child.id());
    child.kill().expect("ends");
    child.wait().expect("ends");
    assert!((1..10 << 10).contains(&kib), "{kib} KiB");
}

/// A program and a library on a mount of the host from which the host maps no text.
#[test]
fn text_of_a_noexec_volume_is_copied() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let guest = "/mnt/true && /usr/bin/python3 -c 'import mmap\n\
                 f = open(\"/mnt/true\", \"rb\")\n\
                 print(mmap.mmap(f.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)[1:4])\n\
                 try: mmap.mmap(f.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_EXEC)\n\
                 except PermissionError as error: print(error.errno)'";
    let script = "mount -t tmpfs -o noexec none /mnt && cp /bin/true /mnt && \
                  exec \"$0\" run --volume /mnt:/mnt -- /bin/sh -c \"$1\"";
    let mut outside = std::process::Command::new("unshare");
    outside.args(["-m", "/bin/sh", "-c", script]).arg(common::casemate()).arg(guest);
    let done = finish(outside, b"");
    assert_eq!(done.out, "b'ELF'\n1\n", "{done:?}");
}
