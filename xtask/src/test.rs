//! `cargo xtask test`: unit, property and contract tests of every crate; then the guest tests, natively and inside.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::Build;
use crate::cargo::{cargo, check, output, target_dir};
use crate::fuzz_guest::FuzzGuest;
use crate::load::Load;
use crate::{programs, scenarios};

/// Package of the tests that run twice: natively and inside Casemate.
const GUEST_TESTS: &str = "casemate-guest-tests";

/// Calls of the guest fuzzer in a long run.
const LONG_FUZZ: u64 = 10_000_000;

/// Longest that one guest test binary may take.
const GUEST_DEADLINE: Duration = Duration::from_secs(180);

/// A way of running the guest tests.
struct Mode {
    name: &'static str,
    /// What stands before `casemate`.
    wrapper: &'static [&'static str],
    /// Arguments of `casemate`; none for natively.
    arguments: &'static [&'static str],
    /// Whether other processes keep every CPU busy.
    busy: bool,
    /// Whether every run has it.
    routine: bool,
}

/// One that only `--long` has, from which others differ.
const INSIDE: Mode = Mode { name: "", wrapper: &[], arguments: &["run", "--"], busy: false, routine: false };

const MODES: &[Mode] = &[
    Mode { name: "native", arguments: &[], routine: true, ..INSIDE },
    Mode { name: "casemate", routine: true, ..INSIDE },
    Mode { name: "casemate --isolation=seccomp", arguments: &["run", "--isolation=seccomp", "--"], ..INSIDE },
    Mode { name: "casemate --spin=off", arguments: &["run", "--spin=off", "--"], ..INSIDE },
    Mode { name: "casemate --handover=unsynced", arguments: &["run", "--handover=unsynced", "--"], ..INSIDE },
    Mode { name: "casemate --handover=futex", arguments: &["run", "--handover=futex", "--"], ..INSIDE },
    Mode { name: "casemate --no-patch", arguments: &["run", "--no-patch", "--"], ..INSIDE },
    Mode { name: "casemate on one CPU", wrapper: &["/usr/bin/taskset", "-c", "0"], ..INSIDE },
    Mode { name: "casemate on a busy machine", busy: true, ..INSIDE },
];

impl Mode {
    fn command(&self, casemate: &Path, executable: &Path) -> Command {
        let casemate = (!self.arguments.is_empty()).then_some(casemate.as_os_str());
        let mut words = self.wrapper.iter().map(OsStr::new).chain(casemate);
        let Some(first) = words.next() else { return Command::new(executable) };
        let mut command = Command::new(first);
        command.args(words).args(self.arguments).arg(executable);
        command
    }
}

/// Run the tests: each crate's own, then guest tests natively and inside with the same assertions.
#[derive(Args, Default)]
pub(crate) struct Test {
    /// Only the guest tests, natively and inside.
    #[arg(long)]
    guest: bool,
    /// Also soaks, fuzzing and the other modes of the sandbox.
    #[arg(long)]
    long: bool,
    /// Only the scenarios: scripts of real programs, natively and inside, with one outcome.
    #[arg(long)]
    scenarios: bool,
    /// Run scenarios in this mode (repeatable), instead of those of every run; `--long` runs them in all.
    #[arg(long, requires = "scenarios")]
    mode: Vec<String>,
    /// Only the loom models of the protocols between threads and processes; `--long` has them too.
    #[arg(long)]
    models: bool,
    /// Only guest tests or scenarios whose name contains this.
    filter: Option<String>,
}

impl Test {
    /// The scenarios, in the modes of every run.
    pub(crate) fn scenarios() -> Self {
        Self { scenarios: true, ..Self::default() }
    }

    pub(crate) fn run(&self) -> Result<()> {
        if self.models {
            return models();
        }
        programs::ensure()?;
        let binary = Build { release: false }.artifact()?;
        if self.scenarios {
            let filter = self.filter.as_deref();
            return scenarios::run(&binary, &scenarios::Selection { filter, modes: &self.mode, long: self.long });
        }
        let executables = guest_executables()?;
        if executables.is_empty() {
            bail!("{GUEST_TESTS} has no tests");
        }
        if !self.guest {
            let mut tests = cargo(["test", "--quiet", "--workspace", "--exclude", GUEST_TESTS]);
            tests.env("CASEMATE_BINARY", &binary);
            let names: Vec<_> = executables.iter().map(|path| path.to_string_lossy()).collect();
            tests.env("CASEMATE_GUEST_TESTS", names.join(" "));
            if self.long {
                tests.env("CASEMATE_LONG", "1");
            }
            check(&mut tests)?;
            if self.long {
                models()?;
                FuzzGuest::of(LONG_FUZZ, false).run()?;
            }
        }
        self.guest_tests(&binary, &executables)
    }

    fn guest_tests(&self, casemate: &Path, executables: &[PathBuf]) -> Result<()> {
        let mut failed = Vec::new();
        for mode in MODES.iter().filter(|mode| self.long || mode.routine) {
            let _load = mode.busy.then(Load::start).transpose()?;
            for executable in executables {
                let mut command = mode.command(casemate, executable);
                // One at a time: the tests of a file share descriptors, mappings and children; run together, some fail on
                // Linux too (a hole is filled by another test, a lock lives on in another test's child).
                command.args(["--quiet", "--test-threads=1"]).stdin(Stdio::null());
                command.env("CASEMATE_INSIDE", if mode.arguments.is_empty() { "0" } else { "1" });
                if self.long {
                    command.env("CASEMATE_LONG", "1");
                }
                if let Some(filter) = &self.filter {
                    command.arg(filter);
                }
                let name = executable.file_stem().unwrap_or_default().to_string_lossy();
                let name = name.rsplit_once('-').map_or(&*name, |(stem, _)| stem);
                eprintln!("xtask: guest tests {name}, {}", mode.name);
                if let Err(error) = run_bounded(&mut command) {
                    failed.push(format!("{name} ({}): {error}", mode.name));
                }
            }
        }
        if failed.is_empty() { Ok(()) } else { bail!("guest tests failed:\n  {}", failed.join("\n  ")) }
    }
}

/// Runs the loom models, which are a build of their own: optimized, with the assertions of what they run.
fn models() -> Result<()> {
    for package in ["casemate-sync", "casemate-waiter", "casemate-stops", "casemate-platform-systrap"] {
        let mut model = cargo(["test", "--quiet", "--release", "--package", package, "--test", "loom"]);
        model.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", target_dir().join("loom"));
        model.env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
        check(&mut model)?;
    }
    Ok(())
}

/// Builds the guest tests and says where their executables are.
fn guest_executables() -> Result<Vec<PathBuf>> {
    let lines =
        output(&mut cargo(["test", "--quiet", "--package", GUEST_TESTS, "--no-run", "--message-format", "json"]))?;
    let mut found = Vec::new();
    for line in lines.lines() {
        let message: serde_json::Value =
            serde_json::from_str(line).context("cargo printed something other than JSON")?;
        let is_test = message.pointer("/profile/test").and_then(serde_json::Value::as_bool) == Some(true);
        if let (true, Some(path)) = (is_test, message.get("executable").and_then(serde_json::Value::as_str)) {
            found.push(PathBuf::from(path));
        }
    }
    found.sort();
    Ok(found)
}

/// Runs `command` to its end, or kills it at the deadline.
fn run_bounded(command: &mut Command) -> Result<()> {
    let mut child = command.spawn().context("cannot start it")?;
    let started = Instant::now();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let id = child.id();
    let guard = std::thread::spawn(move || {
        let expired = wait.recv_timeout(GUEST_DEADLINE).is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout);
        if expired {
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
        }
        expired
    });
    let status = child.wait()?;
    let _ = done.send(());
    let expired = guard.join().unwrap_or(false);
    if expired {
        bail!("killed after {} s", started.elapsed().as_secs());
    }
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
