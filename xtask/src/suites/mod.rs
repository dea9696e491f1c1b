//! Test suites that others wrote, run natively and inside Casemate, and compared.
//!
//! A [`Suite`] lists its [`Case`]s: programs with a command line that is the same on both sides. One run of a program
//! gives [`Outcome`]s by name: one for the program, or one for each test that it reports. Only what passes natively, on
//! this machine and now, is asked of Casemate. What then fails must stand in the suite's [`Known`] list with its reason,
//! and what stands there must fail: the list shrinks by itself.
//!
//! - [`side`]: one run of a command on one side, bounded in time, output kept; how the native side is fenced in;
//! - [`known`]: a suite's file in `runner/tests/suites`: its families, what never runs natively, what is known to fail;
//! - [`report`]: what is printed and written when all has run;
//! - [`ltp`]: the Linux Test Project; [`cpython`]: CPython's own tests.
//!
//! **Invariant**: a suite's programs see only private mounts, processes and names natively, and cannot set a clock.

pub(crate) mod cpython;
mod known;
pub(crate) mod ltp;
mod report;
mod side;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::build::Build;
use crate::progress::Progress;
use known::Known;
pub(crate) use side::Ended;
use side::{Fence, Side};

/// Programs that run at a time.
const WORKERS: usize = 2;

/// Times a failure inside is tried again, alone, before it counts: a loaded machine makes tests of time fail.
const REPEATS: usize = 2;

/// How one test ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Pass,
    /// It failed, or its program did; what it said.
    Fail(String),
    /// It says that it cannot run here; why.
    Skip(String),
    /// It was killed at its deadline.
    Timeout,
}

/// A program of a suite.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Under which heading it is counted.
    pub(crate) family: String,
    /// Program and arguments; the same natively and inside.
    pub(crate) command: Vec<String>,
    /// Longest that one run may take.
    pub(crate) deadline: Duration,
}

/// Tests that others wrote.
pub(crate) trait Suite: Sync {
    /// Its name, which is that of its file in `runner/tests/suites`.
    fn name(&self) -> &'static str;

    /// Its programs.
    fn cases(&self) -> Result<Vec<Case>>;

    /// Host directories that both sides see read-only, and where: one name each below `/opt`.
    fn directories(&self) -> Vec<(PathBuf, String)>;

    /// The environment, beside `LC_ALL`.
    fn environment(&self) -> Vec<(String, String)>;

    /// What a run of `case` says: outcomes by test name, which is the case's where the program is one test.
    fn judge(&self, case: &Case, ended: &Ended) -> Vec<(String, Outcome)>;
}

/// What the caller of a suite chose.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Only these families (repeatable, or separated by commas); `all` for all of them.
    #[arg(long, value_name = "FAMILY", value_delimiter = ',', default_value = "all")]
    suite: Vec<String>,
    /// Only programs whose name contains this (repeatable).
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Write each test's outcome on both sides to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take the native side from an older --json file instead of running it.
    #[arg(long, value_name = "OLD")]
    native: Option<PathBuf>,
    /// A casemate binary to test instead of a fresh release build.
    #[arg(long, value_name = "PATH")]
    casemate: Option<PathBuf>,
}

/// Outcomes on one side, by test name.
type Outcomes = BTreeMap<String, Outcome>;

/// A program and what its tests did on both sides.
#[derive(Debug, Serialize, Deserialize)]
struct Compared {
    case: String,
    family: String,
    native: Outcomes,
    inside: Outcomes,
    /// Those that passed inside only when tried again.
    #[serde(default)]
    repeated: BTreeSet<String>,
    /// Seconds of the first run inside.
    took: f64,
}

impl Compared {
    /// Tests that passed natively.
    fn asked(&self) -> impl Iterator<Item = &str> {
        self.native.iter().filter(|(_, outcome)| **outcome == Outcome::Pass).map(|(name, _)| name.as_str())
    }

    fn passes(&self, name: &str) -> bool {
        self.inside.get(name) == Some(&Outcome::Pass)
    }
}

/// What all workers of a run share.
struct Run<'a> {
    suite: &'a dyn Suite,
    inside: Side,
    native: Side,
    /// The native side of an older run, by program.
    older: Option<BTreeMap<String, Outcomes>>,
    known: &'a Known,
}

/// Runs what `options` select of `suite`; fails for what fails without standing in the list, what stands there without
/// failing, and when too little passes.
pub(crate) fn run(suite: &dyn Suite, known: &Known, options: &Options) -> Result<()> {
    let all = suite.cases()?;
    let families: BTreeSet<&str> = all.iter().map(|case| case.family.as_str()).collect();
    for wanted in options.suite.iter().filter(|wanted| *wanted != "all") {
        ensure!(families.contains(wanted.as_str()), "no family {wanted}; there are {}", join(&families));
    }
    let is_wanted = |case: &Case| {
        (options.suite.iter().any(|wanted| wanted == "all" || *wanted == case.family))
            && (options.only.is_empty() || options.only.iter().any(|part| case.name.contains(part.as_str())))
    };
    let (left_out, cases): (Vec<Case>, Vec<Case>) =
        all.iter().filter(|case| is_wanted(case)).cloned().partition(|case| known.why_left_out(&case.name).is_some());
    ensure!(!cases.is_empty() || !left_out.is_empty(), "nothing of {} is selected", suite.name());
    let casemate = match &options.casemate {
        Some(path) => path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?,
        None => Build { release: true }.artifact()?,
    };
    let fence = Fence { directories: suite.directories(), environment: suite.environment() };
    let older = options.native.as_deref().map(report::native_of).transpose()?;
    let run = Run { suite, inside: Side::inside(casemate, &fence), native: Side::native(&fence)?, older, known };
    let compared = run.all(&cases)?;
    if let Some(path) = &options.json {
        report::write(path, &compared)?;
    }
    for case in &left_out {
        println!("{}: left out: {}", case.name, known.why_left_out(&case.name).unwrap_or_default());
    }
    let names: BTreeSet<&str> = all.iter().map(|case| case.name.as_str()).collect();
    let is_whole = options.only.is_empty() && options.suite.iter().any(|wanted| wanted == "all");
    report::conclude(suite.name(), &compared, known, is_whole.then_some(&names))
}

impl Run<'_> {
    /// Runs all cases on both sides, and once more those that failed inside for no known reason.
    fn all(&self, cases: &[Case]) -> Result<Vec<Compared>> {
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Result<Compared>)>> = Mutex::default();
        let progress = Mutex::new(Progress::new());
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    loop {
                        // Relaxed: the counter alone decides who takes what.
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(case) = cases.get(at) else { break };
                        if let Ok(mut progress) = progress.lock() {
                            progress.show(&format!("{}/{} {}", at.saturating_add(1), cases.len(), case.name));
                        }
                        let compared = self.compare(case);
                        if let Ok(mut done) = done.lock() {
                            done.push((at, compared));
                        }
                    }
                });
            }
        });
        let mut done = done.into_inner().unwrap_or_default();
        done.sort_by_key(|(at, _)| *at);
        let mut all = Vec::new();
        for (at, compared) in done {
            let mut compared = compared?;
            if let Some(case) = cases.get(at) {
                self.repeat(case, &mut compared, &mut Progress::new())?;
            }
            all.push(compared);
        }
        Ok(all)
    }

    fn compare(&self, case: &Case) -> Result<Compared> {
        let native = match self.older.as_ref().and_then(|older| older.get(&case.name)) {
            Some(older) => older.clone(),
            None => self.once(&self.native, case)?.0,
        };
        let asks = native.values().any(|outcome| *outcome == Outcome::Pass);
        let (inside, took) = if asks { self.once(&self.inside, case)? } else { Default::default() };
        let (case, family) = (case.name.clone(), case.family.clone());
        Ok(Compared { case, family, native, inside, repeated: BTreeSet::new(), took: took.as_secs_f64() })
    }

    fn once(&self, side: &Side, case: &Case) -> Result<(Outcomes, Duration)> {
        let ended = side.run(case).with_context(|| case.name.clone())?;
        if ended.is_expired {
            // What it had told by then stands; the program itself is what took too long.
            let mut told: Outcomes = self.suite.judge(case, &ended).into_iter().collect();
            told.insert(case.name.clone(), Outcome::Timeout);
            return Ok((told, ended.took));
        }
        Ok((self.suite.judge(case, &ended).into_iter().collect(), ended.took))
    }

    /// Tries again, alone, what failed inside and is not known to.
    fn repeat(&self, case: &Case, compared: &mut Compared, progress: &mut Progress) -> Result<()> {
        for _ in 0..REPEATS {
            let failed: Vec<String> = compared
                .asked()
                .filter(|name| !compared.passes(name) && self.known.reason(name).is_none())
                .map(str::to_owned)
                .collect();
            if failed.is_empty() {
                break;
            }
            progress.show(&format!("again: {}", case.name));
            let (again, _) = self.once(&self.inside, case)?;
            for name in failed {
                if again.get(&name) == Some(&Outcome::Pass) {
                    compared.inside.insert(name.clone(), Outcome::Pass);
                    compared.repeated.insert(name);
                }
            }
        }
        Ok(())
    }
}

fn join(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(" ")
}
