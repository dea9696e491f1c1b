//! Processes of the host as `/proc` shows them: trees, memory, context switches; and the watch that ends what hangs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// `first` and all its descendants.
pub(super) fn tree(first: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything; state and parent follow its end.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![first];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    found
}

/// Sends `signal` to each of `pids`.
pub(super) fn signal(signal: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    let _ = Command::new("kill").arg(format!("-{signal}")).args(pids).stderr(Stdio::null()).status();
}

/// Processes that are stopped until this is dropped. Should we end before, by a signal of our own, they are killed.
pub(super) struct Paused {
    pids: Vec<u32>,
    guard: Child,
}

impl Paused {
    /// Stops `pids`.
    pub(super) fn new(pids: Vec<u32>) -> Result<Self> {
        // It reads what we say when all is well; an end of input says that we are gone. Ctrl-C does not reach its group.
        let guard = Command::new("/bin/sh")
            .args(["-c", "read -r well || kill -KILL \"$@\" 2>/dev/null", "sh"])
            .args(pids.iter().map(u32::to_string))
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()?;
        signal("STOP", &pids);
        Ok(Self { pids, guard })
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        signal("CONT", &self.pids);
        if let Some(mut input) = self.guard.stdin.take() {
            let _ = input.write_all(b"well\n");
        }
        let _ = self.guard.wait();
    }
}

/// Proportional set size of all of `pids`, in kB.
pub(super) fn pss_kb(pids: &[u32]) -> Result<f64> {
    let mut sum = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("smaps_rollup has no Pss")?;
        sum += line.trim().trim_end_matches("kB").trim().parse::<f64>()?;
    }
    Ok(sum)
}

/// Context switches of all threads of a set of processes since they started.
pub(super) struct Switches {
    /// The thread went to sleep: each of these needs a wake-up.
    pub(super) voluntary: u64,
    /// All of them.
    pub(super) all: u64,
}

/// Counts those of `pids`.
pub(super) fn switches(pids: &[u32]) -> Switches {
    let mut sum = Switches { voluntary: 0, all: 0 };
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            for line in status.lines() {
                let Some((name, count)) = line.split_once(":") else { continue };
                let count = count.trim().parse().unwrap_or(0);
                match name {
                    "voluntary_ctxt_switches" => (sum.voluntary, sum.all) = (sum.voluntary + count, sum.all + count),
                    "nonvoluntary_ctxt_switches" => sum.all += count,
                    _ => {}
                }
            }
        }
    }
    sum
}

/// What a set of processes holds of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holdings {
    pub(super) processes: usize,
    pub(super) threads: usize,
    pub(super) descriptors: usize,
    /// Of files without a name, as the memory of guests is.
    pub(super) file_kb: u64,
    /// Threads that run or want to.
    pub(super) runnable: usize,
    /// Threads of stubs past a first of their guests', each with one descriptor. A stub that is kept for the next guest may have
    /// one, and its last guest decides whether.
    pub(super) spare_threads: usize,
}

/// Threads of a stub: its leader, its memory thread, and one of its guest's.
const STUB_THREADS: usize = 3;

/// Counts what `pids` hold.
pub(super) fn holdings(pids: &[u32]) -> Holdings {
    let mut sum =
        Holdings { processes: pids.len(), threads: 0, descriptors: 0, file_kb: 0, runnable: 0, spare_threads: 0 };
    let mut files = BTreeMap::new();
    for pid in pids {
        let threads_before = sum.threads;
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            sum.threads += 1;
            sum.runnable += usize::from(stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" R")));
        }
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim_end() == "casemate-stub" {
            sum.spare_threads += (sum.threads - threads_before).saturating_sub(STUB_THREADS);
        }
        for descriptor in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            sum.descriptors += 1;
            let file = std::fs::metadata(descriptor.path()).ok().filter(|file| file.is_file() && file.nlink() == 0);
            files.extend(file.map(|file| ((file.dev(), file.ino()), file.blocks() / 2)));
        }
    }
    sum.file_kb = files.values().sum();
    sum
}

/// Kills a process and its descendants when this is not dropped in time.
pub(super) struct Watch {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to watch `pid`.
    pub(super) fn over(pid: u32, deadline: Duration) -> Self {
        let (done, wait) = channel::<()>();
        let thread = std::thread::spawn(move || {
            if wait.recv_timeout(deadline) == Err(RecvTimeoutError::Timeout) {
                signal("KILL", &tree(pid));
            }
        });
        Self { done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Longest that anything which is measured may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(180);

/// Waits for `child`, which must succeed, and is killed if it takes too long.
pub(super) fn finish(child: &mut Child) -> Result<()> {
    let watch = Watch::over(child.id(), DEADLINE);
    let status: ExitStatus = child.wait()?;
    drop(watch);
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
