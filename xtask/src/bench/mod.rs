//! `cargo xtask bench`: what running inside costs, beside native and runsc, on the same work in one run.
//!
//! A measure has a name like `calls/getpid`; its part before the slash is its group:
//! - [`calls`]: single calls, faults and forks, taken from within by the program in `bench/calls`;
//! - [`programs`]: whole programs, `start/…` from start to exit, `inside/…` in one sandbox that already runs ([`session`]);
//! - [`idle`]: memory and wake-ups of a sandbox that does nothing.
//!
//! [`soak`] does the same work for many minutes in one sandbox, which must then hold no more than before; [`host_calls`]
//! counts what one call asks of the host.
//!
//! [`sides`] knows how to start each side, [`results`] keeps the samples, [`report`] prints them, [`targets`] compares
//! them with `bench/targets.toml`. Rounds of the sides are interleaved, so that a change of the machine meets them all.

mod calls;
mod fetch;
mod host_calls;
mod idle;
mod processes;
mod programs;
mod report;
mod results;
mod session;
mod sides;
mod soak;
mod targets;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::build::Build;
use crate::cargo::{root, target_dir};
use crate::progress::Progress;
use results::Results;
use sides::Sides;

/// Compare calls and whole programs natively, inside Casemate and inside runsc, in one run.
#[derive(Args)]
pub(crate) struct Bench {
    /// Write all samples and medians to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show beside each measure what an older --json file has.
    #[arg(long, value_name = "OLD")]
    compare: Option<PathBuf>,
    /// Only measures whose name (`calls/getpid`, `inside/gcc`, …) contains this (repeatable).
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Fail unless each target of bench/targets.toml holds or names the decision record that explains the miss.
    #[arg(long)]
    check: bool,
    /// Rounds, each of all sides; medians over rounds are shown. Slow programs run fewer.
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// The runsc to compare with; /usr/bin/runsc when it is there.
    #[arg(long, value_name = "PATH", conflicts_with = "fetch_runsc")]
    runsc: Option<PathBuf>,
    /// Put Debian trixie's runsc below DIR, unless it is there, without touching the system; compare with it.
    #[arg(long, value_name = "DIR")]
    fetch_runsc: Option<PathBuf>,
    /// Instead of measuring, run all work for so long in one sandbox, and see that it then holds what it held before.
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["check", "compare", "json", "only"])]
    soak: Option<u64>,
    /// Instead of times, show how many system calls and context switches of the host each call costs (needs perf and root).
    #[arg(long, conflicts_with_all = ["check", "compare", "json", "soak"])]
    host_calls: bool,
    /// A casemate binary to measure instead of a fresh release build.
    #[arg(long, value_name = "PATH")]
    casemate: Option<PathBuf>,
}

/// What is to be measured, and how thoroughly.
struct Plan {
    only: Vec<String>,
    rounds: usize,
    /// How long all batches of one call take in one round.
    call_budget: Duration,
    /// After how long one side of a program gets no further round.
    program_budget: Duration,
}

impl Plan {
    /// Whether the measure called `name` is wanted.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|pattern| name.contains(pattern))
    }
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.rounds > 0, "--rounds must be at least 1");
        if let Some(minutes) = self.soak {
            return soak::run(&binary(self.casemate.as_deref())?, Duration::from_secs(minutes * 60));
        }
        let old = self.compare.as_deref().map(Results::read).transpose()?;
        let targets = targets::read(&root().join(targets::FILE))?;
        let runsc = match &self.fetch_runsc {
            Some(folder) => Some(fetch::runsc(folder)?),
            None => self.runsc.clone().or_else(|| {
                let installed = Path::new("/usr/bin/runsc");
                installed.exists().then(|| installed.to_owned())
            }),
        };
        let plan = Plan {
            only: self.only.clone(),
            rounds: self.rounds,
            call_budget: Duration::from_millis(40),
            program_budget: Duration::from_secs(4),
        };
        if self.host_calls {
            return host_calls::run(&plan, &Sides::new(binary(self.casemate.as_deref())?, None)?, &calls::build()?);
        }
        let results = measure(&plan, self.casemate.as_deref(), runsc)?;
        if let Some(path) = &self.json {
            results.write(path)?;
        }
        report::table(&results, old.as_ref());
        let outcomes = targets::evaluate(&targets, &results, |name| plan.wants(name), root());
        report::targets(&outcomes);
        for failure in &results.failures {
            eprintln!("bench: {failure}");
        }
        if self.check && outcomes.iter().any(targets::Outcome::fails) {
            bail!("targets are missed and no decision record explains it");
        }
        ensure!(results.failures.iter().all(|failure| !failure.is_ours()), "some work failed inside Casemate");
        Ok(())
    }
}

/// One quick round without runsc: that all of it works, whatever the figures are.
pub(crate) fn smoke() -> Result<()> {
    let only = ["calls/", "start/true", "inside/python-start", "inside/git", "idle/"];
    let plan = Plan {
        only: only.map(str::to_owned).into(),
        rounds: 1,
        call_budget: Duration::from_millis(4),
        program_budget: Duration::ZERO,
    };
    let results = measure(&plan, None, None)?;
    let file = target_dir().join("bench-smoke.json");
    results.write(&file)?;
    let read = Results::read(&file)?;
    ensure!(read.measures.len() == results.measures.len(), "{} lost measures", file.display());
    ensure!(read.measures.len() > 30, "only {} measures were taken", read.measures.len());
    targets::evaluate(&targets::read(&root().join(targets::FILE))?, &read, |name| plan.wants(name), root());
    if let Some(failure) = results.failures.first() {
        bail!("{failure}");
    }
    Ok(())
}

/// The binary at `path`, or else a fresh release build.
fn binary(path: Option<&Path>) -> Result<PathBuf> {
    match path {
        Some(path) => path.canonicalize().with_context(|| format!("cannot find {}", path.display())),
        None => Build { release: true }.run(),
    }
}

/// Takes every measure that `plan` wants, of `casemate` or else of a fresh release build.
fn measure(plan: &Plan, casemate: Option<&Path>, runsc: Option<PathBuf>) -> Result<Results> {
    let casemate = binary(casemate)?;
    let guest = calls::build()?;
    let sides = Sides::new(casemate, runsc)?;
    let mut results = Results::new(&sides, plan.rounds)?;
    let mut progress = Progress::new();
    calls::measure(plan, &sides, &guest, &mut results, &mut progress)?;
    idle::measure(plan, &sides, &guest, &mut results, &mut progress)?;
    programs::measure(plan, &sides, &guest, &mut results, &mut progress)?;
    drop(progress);
    ensure!(!results.measures.is_empty(), "no measure has such a name");
    Ok(results)
}
