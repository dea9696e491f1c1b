//! `--host-calls`: what one operation of group `calls` asks of the host: its system calls and its context switches, counted by
//! perf(1) over all processes of a side. Counts are the same on a busy machine and a quiet one, as far as the policy of
//! watching is: that takes turns into account.
//!
//! What a sandbox and a process do at their start is taken off: each operation is done some times, then more often, and the
//! difference counts. Starts vary by chance, so the least of some runs is taken of both.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Plan;
use super::calls::Guest;
use super::sides::{Side, Sides};
use crate::progress::Progress;

/// Operations of the first run, after which a policy has settled, and of the second.
const OPERATIONS: (u32, u32) = (500, 2500);

/// The same where an operation takes [`SLOW`] natively.
const SLOW_OPERATIONS: (u32, u32) = (30, 130);

/// Runs of which the least counts.
const RUNS: usize = 5;

/// A slow operation.
const SLOW: Duration = Duration::from_micros(40);

/// What perf and a program take to start.
const START: Duration = Duration::from_millis(40);

/// Measures that do not repeat one operation: each site runs for the first time but once.
const NOT_REPEATED: &[&str] = &["first-site"];

/// What perf counts, in the order of the table.
const EVENTS: [&str; 2] = ["raw_syscalls:sys_enter", "context-switches"];

/// Prints a table of the wanted measures of group `calls`.
pub(super) fn run(plan: &Plan, sides: &Sides, guest: &Guest) -> Result<()> {
    let mut progress = Progress::new();
    let mut lines = Vec::new();
    for name in guest.names()? {
        if NOT_REPEATED.contains(&name.as_str()) || !plan.wants(&format!("calls/{name}")) {
            continue;
        }
        progress.show(&format!("host calls: {name}"));
        let mut line = format!("{:<30}", format!("calls/{name}"));
        let started = Instant::now();
        count(sides, Side::Native, &guest.count(SLOW_OPERATIONS.0, &name))?;
        let slow = started.elapsed() > SLOW * SLOW_OPERATIONS.0 + START;
        let (few, many) = if slow { SLOW_OPERATIONS } else { OPERATIONS };
        for side in [Side::Native, Side::Casemate] {
            let fewer = least(sides, side, &guest.count(few, &name))?;
            let more = least(sides, side, &guest.count(many, &name))?;
            for event in EVENTS {
                let of = |counts: &BTreeMap<String, u64>| counts.get(event).copied().unwrap_or(0) as f64;
                line.push_str(&format!(" {:>10.2}", (of(&more) - of(&fewer)).max(0.0) / f64::from(many - few)));
            }
        }
        lines.push(line);
    }
    drop(progress);
    ensure!(!lines.is_empty(), "no measure of group calls has such a name");
    println!("{:<30} {:>21} {:>21}", "", "native", "casemate");
    println!("{:<30} {:>10} {:>10} {:>10} {:>10}", "host's, per operation", "calls", "switches", "calls", "switches");
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// Runs `words` on `side` some times; each event's least count.
fn least(sides: &Sides, side: Side, words: &[String]) -> Result<BTreeMap<String, u64>> {
    let mut least = count(sides, side, words)?;
    for _ in 1..RUNS {
        for (event, found) in count(sides, side, words)? {
            least.entry(event).and_modify(|least| *least = found.min(*least));
        }
    }
    Ok(least)
}

/// Runs `words` on `side`; each event's count.
fn count(sides: &Sides, side: Side, words: &[String]) -> Result<BTreeMap<String, u64>> {
    let counts = sides.scratch().join("perf");
    let command = sides.command(side, words)?;
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x", ";", "-e", &EVENTS.join(","), "-o"]).arg(&counts).arg("--");
    perf.arg(command.get_program()).args(command.get_args()).current_dir("/").stdout(std::process::Stdio::null());
    let status = perf.status().context("cannot run perf(1), which counts the host's calls")?;
    ensure!(status.success(), "perf stat {words:?} ({side:?}): {status}");
    parse(&counts)
}

/// Counts by event, of lines with count, unit and event.
fn parse(path: &Path) -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(path)?;
    let counts: BTreeMap<String, u64> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(';');
            let count = fields.next()?.parse().ok()?;
            Some((fields.nth(1)?.split(':').take(2).collect::<Vec<_>>().join(":"), count))
        })
        .collect();
    ensure!(EVENTS.iter().all(|event| counts.contains_key(*event)), "perf counted nothing: may you trace? ({text})");
    Ok(counts)
}
