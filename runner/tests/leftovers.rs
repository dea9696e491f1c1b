//! Nothing is left of a sandbox that has ended: no process, mount, file, shared memory, cgroup. Many in turn and many at
//! once; the full numbers with `CASEMATE_LONG`.
//!
//! This test program is the reaper of everything that its children leave (`PR_SET_CHILD_SUBREAPER`), so a process that
//! outlives its sandbox is found below it, whatever else runs on the machine.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{As, casemate, command, descendants, is_gone, shared_binary, wait};
use rustix::process::{Pid, WaitOptions, set_child_subreaper, waitpid};

fn is_long() -> bool {
    std::env::var_os("CASEMATE_LONG").is_some()
}

/// What a sandbox could leave on the host.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: String,
    files: BTreeSet<PathBuf>,
    /// System V objects and POSIX shared memory that name us or that our user made.
    shared: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    descriptors: usize,
}

/// Everything in `dir`, without following links.
fn walk(dir: &Path, keep: &mut dyn FnMut(PathBuf)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, keep);
        }
        keep(path);
    }
}

impl Traces {
    fn of(own: &Path) -> Self {
        let mut files = BTreeSet::new();
        walk(own, &mut |path| {
            files.insert(path);
        });
        let mut cgroups = BTreeSet::new();
        walk(Path::new("/sys/fs/cgroup"), &mut |path| {
            if path.to_string_lossy().contains("casemate") {
                cgroups.insert(path);
            }
        });
        let mut shared = BTreeSet::new();
        walk(Path::new("/dev/shm"), &mut |path| {
            let ours =
                fs::symlink_metadata(&path).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw());
            if ours || path.to_string_lossy().contains("casemate") {
                shared.insert(path.to_string_lossy().into_owned());
            }
        });
        for kind in ["shm", "sem", "msg"] {
            let table = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
            // The first two columns: key and id.
            shared.extend(table.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")));
        }
        Self {
            mounts: fs::read_to_string("/proc/self/mountinfo").expect("mounts"),
            files,
            shared,
            cgroups,
            descriptors: fs::read_dir("/proc/self/fd").expect("descriptors").count(),
        }
    }
}

/// A directory for whatever the sandboxes might write, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("casemate-leftovers-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("mode");
        Self(dir)
    }

    /// A short-lived sandbox in which a good deal is made: files, directories, shared memory, processes that outlive their
    /// parent.
    fn busy(&self, who: As) -> Child {
        let script = "cd \"$TMPDIR\" && echo x > file && mkdir -p a/b && mkfifo f && echo y > /dev/shm/casemate-y && \
                      sleep 1000 & { sleep 1000 & } ; exit 0";
        self.start(command(who, &["run", "--", "/bin/bash", "-c", script]))
    }

    fn simple(&self, who: As) -> Child {
        self.start(command(who, &["run", "--", "/bin/true"]))
    }

    fn start(&self, mut command: Command) -> Child {
        command.current_dir(&self.0).env("TMPDIR", &self.0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("starts")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Ends well, and everything that it had was gone before it ended.
fn finish(mut child: Child) {
    let status = wait(&mut child);
    assert_eq!(status.code(), Some(0), "{status:?}");
}

/// Reaps what was left to us, and fails when any of it still runs.
fn nobody_is_left() {
    let left: Vec<u32> = descendants(std::process::id()).into_iter().filter(|&pid| !is_gone(pid)).collect();
    let what = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(left.is_empty(), "{:?}", left.iter().map(|pid| (*pid, what(pid))).collect::<Vec<_>>());
    // A zombie would be an orphan that we inherited: of a sandbox not even that is left.
    assert_eq!(waitpid(None, WaitOptions::NOHANG).err(), Some(rustix::io::Errno::CHILD));
}

/// One test, because processes and descriptors are the whole program's.
#[test]
fn nothing_is_left() {
    set_child_subreaper(Pid::from_raw(1)).expect("subreaper");
    let place = Place::new();
    // Both copies of the binary exist before the first look.
    assert!(casemate().exists() && shared_binary().exists());
    let before = Traces::of(&place.0);
    let (in_turn, at_once) = if is_long() { (1000, 50) } else { (40, 10) };
    for who in common::everybody() {
        for round in 0..in_turn {
            finish(if round % 10 == 9 { place.busy(who) } else { place.simple(who) });
        }
        nobody_is_left();
        assert_eq!(Traces::of(&place.0), before, "{who:?}, in turn");

        for start in [Place::simple, Place::busy] {
            let all: Vec<Child> = (0..at_once).map(|_| start(&place, who)).collect();
            all.into_iter().for_each(finish);
            nobody_is_left();
            assert_eq!(Traces::of(&place.0), before, "{who:?}, at once");
        }
    }
}
