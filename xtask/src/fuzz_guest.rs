//! `cargo xtask fuzz-guest N`: a guest that makes N random calls, while we watch the sandbox from outside.
//!
//! The guest (`runner/tests/fuzz-guest`) makes the calls and speaks in lines. A run fails when the sandbox ends otherwise
//! than the guest does, when nothing happens for a minute, when our kernel logs an error, when memory, descriptors, threads
//! or processes of the sandbox have grown at a rest, with every worker gone and its files removed, when a row of the table was not called, and when too
//! few calls got past the checks of their arguments. It then prints the command that repeats it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::build::Build;
use crate::cargo::{cargo, check, output, target_dir};
use crate::footprint::{Use, measure, threads};

/// Longest silence; waited for in pieces, so that a machine that was suspended meanwhile is not taken for a sandbox that
/// hangs.
const HANG: Duration = Duration::from_secs(60);
const PIECES: u32 = 12;
/// Least share of calls, in percent, that get past argument checks.
const LEAST_PAST: f64 = 30.0;
/// How often the guest is asked to rest again while the sandbox is still larger than it may be.
const PATIENCE: usize = 200;

/// Run a guest that makes random system calls.
#[derive(Args)]
pub(crate) struct FuzzGuest {
    /// How many calls, in each job.
    calls: u64,
    /// The first job's seed, the others' follow; from the clock when it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads of each worker process in the guest.
    #[arg(long, default_value_t = 4)]
    threads: u64,
    /// Sandboxes at once.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Start at this worker of the sequence.
    #[arg(long, default_value_t = 0)]
    batch: u64,
    /// Use the release build of Casemate.
    #[arg(long)]
    release: bool,
    /// Use this binary of Casemate.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Log every call to a file (one job).
    #[arg(long)]
    strace: Option<PathBuf>,
}

/// One sandbox.
struct Job<'a> {
    options: &'a FuzzGuest,
    seed: u64,
    casemate: &'a Path,
    guest: &'a Path,
    rows: &'a [Row],
}

/// A row of the table of calls.
struct Row {
    name: String,
    nr: u64,
    served: bool,
}

/// What a run did.
#[derive(Default)]
struct Summary {
    total: u64,
    judged: u64,
    past: u64,
    given: u64,
    odd: u64,
    ends: String,
    reached: BTreeSet<String>,
}

impl FuzzGuest {
    /// `calls` calls with a seed of their own, as tests run them.
    pub(crate) fn of(calls: u64, release: bool) -> Self {
        Self { calls, seed: Some(1), threads: 4, jobs: 1, batch: 0, release, binary: None, strace: None }
    }

    pub(crate) fn run(&self) -> Result<()> {
        let casemate = match &self.binary {
            Some(binary) => binary.clone(),
            None => Build { release: self.release }.artifact()?,
        };
        check(&mut cargo(["build", "--quiet", "--release", "--package", "casemate-fuzz-guest"]))?;
        let guest = target_dir().join("release/casemate-fuzz-guest");
        let rows = rows(&casemate)?;
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs());
        let seed = self.seed.unwrap_or_else(clock);
        let jobs = (0..self.jobs).map(|job| Job {
            options: self,
            seed: seed + job,
            casemate: &casemate,
            guest: &guest,
            rows: &rows,
        });
        let failed: Vec<String> = std::thread::scope(|scope| {
            let running: Vec<_> = jobs.map(|job| scope.spawn(move || job.run())).collect();
            let ended = running.into_iter().map(|job| job.join().unwrap_or_else(|_| bail!("xtask panicked")));
            ended.filter_map(|result| result.err().map(|error| format!("{error:#}"))).collect()
        });
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    }
}

/// The table's rows, as the binary prints them.
fn rows(casemate: &Path) -> Result<Vec<Row>> {
    let text = output(Command::new(casemate).args(["syscalls", "--format", "json"]))?;
    let values: Vec<serde_json::Value> = serde_json::from_str(&text)?;
    let row = |value: &serde_json::Value| {
        Some(Row {
            name: value["name"].as_str()?.to_owned(),
            nr: value["nr"].as_u64()?,
            served: ["full", "partial"].contains(&value["support"].as_str()?),
        })
    };
    let rows: Vec<Row> = values.iter().filter_map(row).collect();
    ensure!(rows.len() == values.len() && rows.iter().any(|row| !row.served), "the table of calls has another form");
    Ok(rows)
}

impl Job<'_> {
    /// Runs it; a failure says how to repeat it.
    fn run(&self) -> Result<()> {
        let started = Instant::now();
        let mut batch = self.options.batch;
        let result = self.watch(&mut batch).and_then(|summary| self.judge(&summary, started));
        result.with_context(|| {
            let (options, seed) = (self.options, self.seed);
            let release = if options.release { " --release" } else { "" };
            let repeat = format!(
                "cargo xtask fuzz-guest {} --seed {seed} --threads {}{release}",
                options.calls, options.threads
            );
            format!(
                "repeat with\n  {repeat} --batch {}\nor from the last worker on with --batch {batch}",
                options.batch
            )
        })
    }

    fn command(&self, log: &Path) -> Command {
        let mut command = Command::new(self.casemate);
        let mut debug = std::ffi::OsString::from("--debug=");
        debug.push(log);
        command.args(["run", "--memory", "1G", "--pids", "1024"]).arg(debug);
        if let Some(file) = &self.options.strace {
            let mut strace = std::ffi::OsString::from("--strace=");
            strace.push(file);
            command.arg(strace);
        }
        let rare: Vec<String> = self.rows.iter().filter(|row| !row.served).map(|row| row.nr.to_string()).collect();
        let numbers = [
            ("--calls", self.options.calls),
            ("--seed", self.seed),
            ("--threads", self.options.threads),
            ("--batch", self.options.batch),
        ];
        command.arg("--").arg(self.guest).args(["--rare", &rare.join(",")]);
        command.args(numbers.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]));
        command
    }

    /// Runs the guest to its end, looks at the sandbox when it rests, and notes the worker that runs in `batch`.
    fn watch(&self, batch: &mut u64) -> Result<Summary> {
        let files = std::env::temp_dir().join(format!("casemate-fuzz-{}-{}", std::process::id(), self.seed));
        let (log, errors) = (files.with_extension("log"), files.with_extension("err"));
        let mut command = self.command(&log);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&errors)?);
        let mut sandbox = Sandbox::start(&mut command)?;
        let mut summary = Summary::default();
        let talk = sandbox.talk(batch, &mut summary);
        let status = sandbox.child.wait()?;
        let said = std::fs::read_to_string(&errors).unwrap_or_default();
        let logged = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        let _ = (std::fs::remove_file(&log), std::fs::remove_file(&errors));
        talk?;
        let lines: Vec<&str> = logged.lines().collect();
        let last = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n");
        ensure!(status.success(), "the sandbox ended with {status}\n{said}{last}");
        if let Some(line) = logged.lines().find(|line| line.contains(" ERROR ") || line.contains("panic")) {
            bail!("the kernel logged: {line}");
        }
        Ok(summary)
    }

    fn judge(&self, summary: &Summary, started: Instant) -> Result<()> {
        let share = summary.past as f64 * 100.0 / summary.judged.max(1) as f64;
        let missing: Vec<&str> =
            self.rows.iter().map(|row| row.name.as_str()).filter(|name| !summary.reached.contains(*name)).collect();
        println!(
            "seed {}: {} calls in {:.1} s; {share:.1} % past argument checks, not judged {} by children and {} without a \
             row; {} of {} rows reached; workers finished, ended, killed: {}",
            self.seed,
            summary.total,
            started.elapsed().as_secs_f64(),
            summary.given,
            summary.odd,
            self.rows.len() - missing.len(),
            self.rows.len(),
            summary.ends,
        );
        ensure!(summary.total >= self.options.calls, "the guest ended early");
        ensure!(share >= LEAST_PAST, "only {share:.1} % of the calls got past argument checks");
        // A short run cannot reach everything.
        let long_enough = self.options.calls >= 50_000;
        ensure!(missing.is_empty() || !long_enough, "not reached: {}", missing.join(" "));
        Ok(())
    }
}

/// The running sandbox; killed when it is dropped.
struct Sandbox {
    child: Child,
    answers: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sandbox {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.spawn().context("cannot start casemate")?;
        let answers = child.stdin.take().context("no standard input")?;
        let out = BufReader::new(child.stdout.take().context("no standard output")?);
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, answers, lines })
    }

    /// Takes the guest's lines to their end.
    fn talk(&mut self, batch: &mut u64, summary: &mut Summary) -> Result<()> {
        // Before any call, and after a tenth of them.
        let mut first: Option<Use> = None;
        let mut warm: Option<Use> = None;
        let mut patience = PATIENCE;
        loop {
            let wait =
                |_| Some(self.lines.recv_timeout(HANG / PIECES)).filter(|got| *got != Err(RecvTimeoutError::Timeout));
            let line = match (0..PIECES).find_map(wait).unwrap_or(Err(RecvTimeoutError::Timeout)) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    let threads = threads(self.child.id());
                    let _ = self.child.kill();
                    bail!("nothing happens for {} s; the threads of the sandbox:\n{threads}", HANG.as_secs());
                }
            };
            let mut words = line.split_whitespace();
            let kind = words.next().unwrap_or_default();
            let numbers: Vec<u64> = words.clone().filter_map(|word| word.parse().ok()).collect();
            match (kind, numbers.as_slice()) {
                ("batch", [number, _]) => *batch = *number,
                ("rest", [total, free_kib]) => {
                    let now = measure(self.child.id(), *free_kib);
                    let base = *first.get_or_insert(now);
                    let leak = warm.as_ref().and_then(|warm| now.leak_since(warm));
                    let growth = now.growth_since(&base).or(leak);
                    let again = growth.is_some() && patience > 0;
                    if let (Some(growth), false) = (&growth, again) {
                        let _ = self.child.kill();
                        bail!("after {total} calls the sandbox has grown: {growth}");
                    }
                    patience = if again { patience - 1 } else { PATIENCE };
                    if !again {
                        if *total > 0 {
                            warm.get_or_insert(now);
                        }
                        eprintln!("xtask: fuzz-guest: {total} calls, {now:?}");
                    }
                    let _ = writeln!(self.answers, "{}", if again { "again" } else { "go" });
                }
                ("row", [made, _, given]) if made + given > 0 => {
                    summary.reached.extend(words.next().map(str::to_owned));
                }
                ("row", _) => {}
                ("ends", _) => summary.ends = words.collect::<Vec<_>>().join(", "),
                ("done", [total, judged, past, given, odd]) => {
                    (summary.total, summary.judged, summary.past) = (*total, *judged, *past);
                    (summary.given, summary.odd) = (*given, *odd);
                }
                _ => bail!("the guest says {line:?}"),
            }
        }
    }
}
