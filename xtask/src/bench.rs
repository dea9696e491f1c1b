//! `cargo xtask bench`: what running inside costs: native, Casemate and (where it is) runsc, rounds interleaved.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::build::Build;

/// Compare whole programs natively, inside Casemate and inside runsc, in one run.
#[derive(Args)]
pub(crate) struct Bench {
    /// Only benches whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Rounds; the medians are printed.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// A runsc binary to compare with; /usr/bin/runsc when it is there.
    #[arg(long)]
    runsc: Option<PathBuf>,
}

/// Name and command.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("true", &["/bin/true"]),
    ("bash-echo", &["/bin/bash", "-c", "echo $((6*7))"]),
    ("python-start", &["/usr/bin/python3", "-c", "print(6*7)"]),
    ("bash-100-forks", &["/bin/bash", "-c", "for i in {1..100}; do /bin/true; done"]),
    ("find-usr-share", &["/usr/bin/find", "/usr/share", "-name", "x"]),
];

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        let casemate = Build { release: true }.run()?;
        let runsc = self.runsc.clone().or_else(|| {
            let debian = Path::new("/usr/bin/runsc");
            debian.exists().then(|| debian.to_owned())
        });
        println!(
            "{:<18} {:>12} {:>12} {:>12} {:>8} {:>8}",
            "start to exit", "native", "casemate", "runsc", "c/n", "c/r"
        );
        for (name, command) in PROGRAMS {
            if self.only.as_ref().is_some_and(|only| !name.contains(only)) {
                continue;
            }
            let mut times: [Vec<Duration>; 3] = Default::default();
            for _ in 0..self.rounds {
                times[0].push(time(&[], command)?);
                times[1].push(time(&[casemate.as_os_str().into(), "run".into(), "--".into()], command)?);
                if let Some(runsc) = &runsc {
                    let prefix = [runsc.as_os_str().into(), "--rootless".into(), "--network=none".into(), "do".into()];
                    times[2].push(time(&prefix, command)?);
                }
            }
            let [native, ours, theirs] = times.map(median);
            let ratio = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
                (Some(a), Some(b)) => format!("{:.2}", a.as_secs_f64() / b.as_secs_f64()),
                _ => "-".to_owned(),
            };
            println!(
                "{name:<18} {:>12} {:>12} {:>12} {:>8} {:>8}",
                show(native),
                show(ours),
                show(theirs),
                ratio(ours, native),
                ratio(ours, theirs)
            );
        }
        Ok(())
    }
}

/// Wall time of one run of `command` behind `prefix`.
fn time(prefix: &[std::ffi::OsString], command: &[&str]) -> Result<Duration> {
    let words: Vec<std::ffi::OsString> =
        prefix.iter().cloned().chain(command.iter().map(std::ffi::OsString::from)).collect();
    let Some((program, arguments)) = words.split_first() else { bail!("no command") };
    let started = Instant::now();
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    let taken = started.elapsed();
    if !status.success() {
        bail!("{words:?} failed ({status})");
    }
    Ok(taken)
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort();
    times.get(times.len() / 2).copied()
}

fn show(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.2} ms", time.as_secs_f64() * 1e3))
}
