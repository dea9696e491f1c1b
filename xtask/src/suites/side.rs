//! One run of a program on one side, bounded in time; and what stands around it there.
//!
//! Both sides give the program the same view: the host's files read-only, the suite's directories read-only below
//! `/opt`, a `/tmp` to write to that is gone afterwards (natively empty, inside above the host's), an environment of a few
//! variables. Natively that is made by unshare(1) and mount(8) in namespaces of its own, without the capabilities that
//! reach past them; it needs root.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Case;

/// Most bytes of a program's output that are kept: its end.
const KEPT: usize = 4 << 20;

/// Longest that setting up the native side's namespaces may take.
const PROBE: Duration = Duration::from_secs(20);

/// Starts a program in namespaces of its own, with a small init that this script is.
const UNSHARE: &[&str] = &[
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount",
    "--mount-proc",
    "--ipc",
    "--uts",
    "--net",
    "--time",
    "--",
    "/bin/sh",
    "-c",
];

/// Makes the private view, then runs its arguments after `--`; those before are pairs of a directory and a name in /opt.
const INIT: &str = include_str!("native.sh");

/// What a suite wants around its programs.
pub(super) struct Fence {
    pub(super) directories: Vec<(PathBuf, String)>,
    pub(super) environment: Vec<(String, String)>,
}

/// One run that has ended.
pub(crate) struct Ended {
    /// Standard output and error, as they came.
    pub(crate) output: String,
    /// Exit status; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Signal that ended it.
    pub(crate) signal: Option<i32>,
    pub(crate) took: Duration,
    /// Whether it was killed at its deadline.
    pub(crate) is_expired: bool,
}

/// Where programs run.
pub(super) struct Side {
    /// What stands before a program's command line.
    wrapper: Vec<OsString>,
    environment: Vec<(String, String)>,
}

impl Side {
    /// Inside a sandbox of its own.
    pub(super) fn inside(casemate: PathBuf, fence: &Fence) -> Self {
        let mut wrapper = vec![casemate.into_os_string(), "run".into(), "--cwd=/tmp".into()];
        for (directory, name) in &fence.directories {
            let mut volume = OsString::from("--volume=");
            volume.push(directory);
            volume.push(format!(":/opt/{name}:ro"));
            wrapper.push(volume);
        }
        wrapper.push("--".into());
        Self { wrapper, environment: fence.environment.clone() }
    }

    /// On the host, in namespaces of its own.
    pub(super) fn native(fence: &Fence) -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let is_root =
            status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
        ensure!(is_root, "the native side needs root, which makes its namespaces");
        let mut wrapper: Vec<OsString> = UNSHARE.iter().map(Into::into).collect();
        wrapper.extend([INIT, "init"].map(OsString::from));
        for (directory, name) in &fence.directories {
            wrapper.extend([directory.into(), name.into()]);
        }
        wrapper.push("--".into());
        let side = Self { wrapper, environment: fence.environment.clone() };
        let name = String::from("the native side's fence");
        let empty = Case { name, family: String::new(), command: vec!["/bin/true".into()], deadline: PROBE };
        let ended = side.run(&empty)?;
        ensure!(ended.code == Some(0), "this host does not let us fence the native side in: {}", ended.output);
        Ok(side)
    }

    /// Runs a case to its end, or kills it at its deadline.
    pub(super) fn run(&self, case: &Case) -> Result<Ended> {
        let output = Scratch::new();
        let file = File::create(&output.0).with_context(|| format!("cannot write {}", output.0.display()))?;
        let started = Instant::now();
        let status = Command::new("timeout")
            .args(["--signal=KILL", &case.deadline.as_secs().to_string()])
            .args(&self.wrapper)
            .args(&case.command)
            .env_clear()
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value))))
            .current_dir("/tmp")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("cannot start timeout(1)")?;
        let took = started.elapsed();
        let bytes = std::fs::read(&output.0)?;
        let end = bytes.get(bytes.len().saturating_sub(KEPT)..).unwrap_or_default();
        Ok(Ended {
            output: String::from_utf8_lossy(end).into_owned(),
            code: status.code(),
            signal: status.signal(),
            took,
            is_expired: took >= case.deadline,
        })
    }
}

/// A file of one run, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // Relaxed: only that no two are the same matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("casemate-suite-{}-{number}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
