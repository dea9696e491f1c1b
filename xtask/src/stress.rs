//! `cargo xtask stress`: stress-ng's stressors of processes, threads, signals, futexes, pipes, terminals and IPC inside,
//! while we watch the sandbox from outside.
//!
//! A run fails when a stressor fails, when one does not stop, when processes are left behind inside, and when the sandbox
//! takes more of the host than after the second round: descriptors, threads, processes, and memory. Of that the least after
//! any stressor of a round counts: what a storm of threads leaves in the heap's holes comes and goes by megabytes (ADR 39),
//! a leak stays. Debian's `stress-ng` has to be there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::build::Build;
use crate::footprint::{Use, measure, threads};

/// What runs inside.
const SCRIPT: &str = include_str!("stress.sh");

/// Seconds that each stressor gets in a round.
const SECONDS: u64 = 2;

/// Fewest rounds: one that makes what is kept for later, one to compare with, and one to compare.
const ROUNDS: u64 = 3;

/// How often the guest is asked to rest again while the sandbox is still larger than it may be.
const PATIENCE: usize = 200;

/// Processes inside when nothing runs: the sandbox's init, and the shell.
const AT_REST: usize = 2;

/// stress-ng's exit statuses for a stressor that cannot run here: no resources, not implemented.
const NOT_HERE: [i32; 2] = [3, 4];

/// The stressors.
const STRESSORS: &[&str] = &[
    "affinity",
    "alarm",
    "bad-altstack",
    "clock",
    "clone",
    "close",
    "context",
    "cyclic",
    "daemon",
    "dekker",
    "dup",
    "epoll",
    "eventfd",
    "exec",
    "exit-group",
    "fifo",
    "fork",
    "forkheavy",
    "futex",
    "get",
    "hrtimers",
    "inotify",
    "itimer",
    "kcmp",
    "kill",
    "loadavg",
    "membarrier",
    "mq",
    "msg",
    "mutex",
    "nanosleep",
    "nice",
    "peterson",
    "pidfd",
    "pipe",
    "pipeherd",
    "poll",
    "prctl",
    "procfs",
    "pthread",
    "pty",
    "race-sched",
    "resched",
    "ring-pipe",
    "rlimit",
    "schedpolicy",
    "sem",
    "sem-sysv",
    "sendfile",
    "session",
    "set",
    "shm",
    "shm-sysv",
    "sigabrt",
    "sigchld",
    "sigfd",
    "sigfpe",
    "sigio",
    "signal",
    "signest",
    "sigpending",
    "sigpipe",
    "sigq",
    "sigrt",
    "sigsegv",
    "sigsuspend",
    "sigtrap",
    "sleep",
    "sockfd",
    "sockpair",
    "spawn",
    "splice",
    "switch",
    "sysinfo",
    "tee",
    "timer",
    "timerfd",
    "tlb-shootdown",
    "vfork",
    "vforkmany",
    "vm-splice",
    "wait",
    "yield",
    "zombie",
];

/// Run stress-ng inside, and look for stuck tasks and leaks.
#[derive(Args)]
pub(crate) struct Stress {
    /// About how long, in minutes; at least three rounds of all stressors.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Only these stressors (repeatable, or separated by commas).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Use this binary of Casemate instead of a fresh release build.
    #[arg(long)]
    casemate: Option<PathBuf>,
}

impl Stress {
    pub(crate) fn run(&self) -> Result<()> {
        let there = Command::new("stress-ng").arg("--version").stdout(Stdio::null()).status();
        ensure!(there.is_ok_and(|status| status.success()), "there is no stress-ng: apt-get install stress-ng");
        let casemate = match &self.casemate {
            Some(path) => path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?,
            None => Build { release: true }.artifact()?,
        };
        let stressors: Vec<&str> = match &*self.only {
            [] => STRESSORS.to_vec(),
            only => only.iter().map(String::as_str).collect(),
        };
        let round = SECONDS.saturating_add(1).saturating_mul(stressors.len() as u64);
        let rounds = self.minutes.saturating_mul(60).div_ceil(round.max(1)).max(ROUNDS);
        println!("stress: {} stressors, {rounds} rounds of {SECONDS} s each", stressors.len());
        let mut command = Command::new(casemate);
        command.args(["run", "--memory=4G", "--", "/bin/sh", "-c", SCRIPT, "stress"]);
        command.args([rounds.to_string(), SECONDS.to_string()]).args(&stressors);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut watched = Watched::start(&mut command)?;
        let seen = watched.talk()?;
        let status = watched.child.wait()?;
        seen.conclude()?;
        ensure!(status.success(), "the sandbox ended with {status}");
        Ok(())
    }
}

/// The sandbox; killed when it is dropped.
struct Watched {
    child: Child,
    answers: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a run has shown.
#[derive(Default)]
struct Seen {
    /// Runs of each stressor that ended well.
    good: BTreeMap<String, usize>,
    /// Stressors that cannot run here.
    not_here: BTreeMap<String, i32>,
    problems: Vec<String>,
    /// What they have said that failed.
    said: Vec<String>,
}

impl Seen {
    fn end(&mut self, stressor: &str, status: i32) {
        if status == 0 {
            let runs = self.good.entry(stressor.to_owned()).or_default();
            *runs = runs.saturating_add(1);
        } else if NOT_HERE.contains(&status) {
            self.not_here.insert(stressor.to_owned(), status);
        } else {
            let why = if status == 137 { "did not stop".to_owned() } else { format!("ended with status {status}") };
            self.problems.push(format!("{stressor} {why}: {}", self.said.join(" | ")));
        }
        self.said.clear();
    }

    fn conclude(self) -> Result<()> {
        println!("stress: {} stressors ended well", self.good.len());
        for (stressor, status) in &self.not_here {
            println!("stress: {stressor} cannot run here (status {status})");
        }
        for problem in &self.problems {
            println!("stress: {problem}");
        }
        ensure!(self.problems.is_empty(), "stress: {} problem(s)", self.problems.len());
        Ok(())
    }
}

impl Watched {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.spawn().context("cannot start casemate")?;
        let answers = child.stdin.take().context("no standard input")?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, answers, lines })
    }

    /// Takes the guest's lines to their end.
    fn talk(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        let mut warm: Option<Use> = None;
        let (mut rests, mut least_kib) = (0, u64::MAX);
        let mut patience = PATIENCE;
        let mut started = Instant::now();
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line)? == 0 {
                bail!("the guest ended early: {}", seen.said.join(" | "));
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match *words.as_slice() {
                ["start", _] => started = Instant::now(),
                ["end", stressor, status] => {
                    let took = started.elapsed();
                    if took > Duration::from_secs(SECONDS * 4) {
                        println!("stress: {stressor} took {} s", took.as_secs());
                    }
                    seen.end(stressor, status.parse().unwrap_or(-1));
                }
                ["look"] => {
                    least_kib = least_kib.min(measure(self.child.id(), 0).anonymous_kib);
                    writeln!(self.answers, "go")?;
                }
                ["rest", free_kib, processes] => {
                    let now = measure(self.child.id(), free_kib.parse()?);
                    least_kib = least_kib.min(now.anonymous_kib);
                    let now = Use { anonymous_kib: least_kib, ..now };
                    let processes: usize = processes.parse()?;
                    let left = (processes > AT_REST).then(|| format!("{processes} processes are there inside"));
                    let grown = warm.as_ref().and_then(|warm| now.leak_since(warm)).or(left);
                    let again = grown.is_some() && patience > 0;
                    if let (Some(grown), false) = (&grown, again) {
                        let threads = threads(self.child.id());
                        seen.problems.push(format!("the sandbox has grown: {grown}; its threads:\n{threads}"));
                        let _ = self.child.kill();
                        return Ok(seen);
                    }
                    patience = if again { patience.saturating_sub(1) } else { PATIENCE };
                    if !again {
                        println!("stress: at rest {now:?}");
                        rests += 1;
                        least_kib = u64::MAX;
                        // Before any round, after the one that makes what is kept for later, after the next.
                        if rests == ROUNDS {
                            warm = Some(now);
                        }
                    }
                    writeln!(self.answers, "{}", if again { "again" } else { "go" })?;
                }
                ["done"] => return Ok(seen),
                _ => seen.said.push(line.trim().to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Seen;

    #[test]
    fn only_failures_are_problems() {
        let mut seen = Seen::default();
        seen.end("fork", 0);
        seen.end("fork", 0);
        seen.end("aio", 4);
        assert_eq!((seen.good.get("fork"), seen.problems.len()), (Some(&2), 0));
        seen.said.push("pty: no".into());
        seen.end("pty", 2);
        seen.end("mq", 137);
        assert_eq!(seen.problems, ["pty ended with status 2: pty: no", "mq did not stop: "]);
        assert!(seen.conclude().is_err());
    }
}
