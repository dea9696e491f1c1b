//! Single calls, faults and forks: builds the program that measures them from within, and runs it on each side.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Plan;
use super::processes;
use super::results::{Results, Unit};
use super::sides::{Sides, interleaved};
use crate::build;
use crate::cargo::{cargo, check, output, target_dir};
use crate::progress::Progress;

/// The package of the programs below.
const PACKAGE: &str = "casemate-bench-calls";

/// Programs that run on each side.
pub(super) struct Guest {
    /// Measures single calls, and times other programs.
    pub(super) calls: String,
    /// Static, does nothing, or sleeps.
    pub(super) exit: String,
}

/// Builds them: the first as any dynamic program, the second static.
pub(super) fn build() -> Result<Guest> {
    let flags = build::static_flags();
    check(&mut cargo(["build", "--quiet", "--release", "--package", PACKAGE, "--bin", "bench-calls"]))?;
    let mut exit = cargo(["build", "--quiet", "--release", "--package", PACKAGE, "--bin", "bench-exit"]);
    check(exit.args(["--target", build::TARGET, "--config", &flags]))?;
    let path = |folder: &str, name: &str| -> Result<String> {
        let path = target_dir().join(folder).join("release").join(name);
        path.into_os_string().into_string().ok().context("the target directory's name is not UTF-8")
    };
    Ok(Guest { calls: path("", "bench-calls")?, exit: path(build::TARGET, "bench-exit")? })
}

impl Guest {
    /// The command that takes the measures called `names`, or all, each in about `budget`.
    pub(super) fn command(&self, budget: Duration, names: &[&str]) -> Vec<String> {
        let budget = budget.as_millis().to_string();
        let mut words = vec![self.calls.clone(), "run".to_owned(), budget, self.exit.clone()];
        words.extend(names.iter().map(|&name| name.to_owned()));
        words
    }

    /// The command that does the operation of the measure called `name` so many times.
    pub(super) fn count(&self, operations: u32, name: &str) -> Vec<String> {
        vec![self.calls.clone(), "count".to_owned(), operations.to_string(), self.exit.clone(), name.to_owned()]
    }

    /// Names of the measures of group `calls`.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        Ok(output(Command::new(&self.calls).arg("list"))?.lines().map(str::to_owned).collect())
    }
}

/// Takes the wanted measures of group `calls`: in each round one process on each side takes all of them.
pub(super) fn measure(
    plan: &Plan,
    sides: &Sides,
    guest: &Guest,
    results: &mut Results,
    progress: &mut Progress,
) -> Result<()> {
    let list = guest.names()?;
    let names: Vec<&str> =
        list.iter().map(String::as_str).filter(|name| plan.wants(&format!("calls/{name}"))).collect();
    if names.is_empty() {
        return Ok(());
    }
    let words = guest.command(plan.call_budget, &names);
    let mut round = 0;
    let mut missing = BTreeMap::new();
    let (rounds, failed) = interleaved(&sides.all(), plan.rounds, Duration::MAX, |side| {
        round += 1;
        progress.show(&format!("calls: {round} of {}, {side:?}", plan.rounds * sides.all().len()));
        let mut child = sides.command(side, &words)?.stdout(Stdio::piped()).spawn()?;
        let watch = processes::Watch::over(child.id(), processes::DEADLINE);
        let mut out = child.stdout.take().context("it has no output")?;
        let text = std::io::read_to_string(&mut out)?;
        drop(watch);
        let taken = parse(&text);
        let ended = processes::finish(&mut child);
        // What it took before something failed still counts.
        if let Some(name) = names.iter().find(|name| !taken.contains_key(**name)) {
            missing.entry(side).or_insert_with(|| (*name, anyhow::anyhow!("{} ({ended:?})", sides.last_error())));
        }
        Ok(taken)
    });
    for (side, (name, why)) in missing {
        results.failed(&format!("calls/{name}"), side, &why);
    }
    for (side, why) in &failed {
        results.failed("calls", *side, why);
    }
    for name in names {
        let samples = rounds
            .iter()
            .map(|(side, rounds)| (*side, rounds.iter().filter_map(|taken| taken.get(name).copied()).collect()));
        results.add(&format!("calls/{name}"), Unit::Nanoseconds, samples.collect());
    }
    Ok(())
}

/// Medians by name, of lines with name, median, lowest and highest.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split('\t');
        if let (Some(name), Some(Ok(median))) = (words.next(), words.next().map(str::parse)) {
            found.insert(name.to_owned(), median);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn other_lines_do_not_count() {
        let found = parse("getpid\t1.5\t1.0\t2.0\nnoise\n*** a: b\nstat\tx\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("getpid".to_owned(), 1.5)]);
    }
}
