//! `bench/targets.toml`: what each measure should cost, and whether it does.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::report::show;
use super::results::{Results, Unit};
use super::sides::Side;

/// Where the targets are, from the workspace's root.
pub(super) const FILE: &str = "bench/targets.toml";

/// One line of an issue's table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Target {
    /// What it is about, in words.
    name: String,
    /// The measures that it holds for, each by itself.
    measures: Vec<String>,
    /// All of these must hold.
    #[serde(default)]
    at_most: Limits,
    /// One of these must hold.
    #[serde(default)]
    one_of: Limits,
    /// The issue that sets it.
    issue: u32,
    /// The decision record that explains with figures why it is missed.
    adr: Option<String>,
}

/// Upper bounds of Casemate's median.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Limits {
    /// This many times native's.
    native: Option<f64>,
    /// This many times runsc's.
    runsc: Option<f64>,
    /// The measure of runsc that counts, where it is another one.
    runsc_of: Option<String>,
    /// A number and a unit.
    absolute: Option<Amount>,
}

/// `10 ms`, `8 MB`, `0 /s`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Amount {
    value: f64,
    unit: Unit,
}

impl TryFrom<String> for Amount {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        let (number, unit) = text.split_once(' ').with_context(|| format!("{text:?} is not a number and a unit"))?;
        let (factor, unit) = match unit {
            "ns" => (1.0, Unit::Nanoseconds),
            "us" => (1e3, Unit::Nanoseconds),
            "ms" => (1e6, Unit::Nanoseconds),
            "s" => (1e9, Unit::Nanoseconds),
            "kB" => (1.0, Unit::Kilobytes),
            "MB" => (1e3, Unit::Kilobytes),
            "/s" => (1.0, Unit::PerSecond),
            _ => anyhow::bail!("{unit:?} is not a unit"),
        };
        Ok(Self { value: number.parse::<f64>()? * factor, unit })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetFile {
    target: Vec<Target>,
}

/// Reads and checks the file.
pub(super) fn read(path: &Path) -> Result<Vec<Target>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a list of targets", path.display()))
}

fn parse(text: &str) -> Result<Vec<Target>> {
    let file: TargetFile = toml::from_str(text)?;
    for target in &file.target {
        ensure!(!target.measures.is_empty(), "target {:?} names no measure", target.name);
        let limits = target.at_most.count() + target.one_of.count();
        ensure!(limits > 0, "target {:?} has no limit", target.name);
    }
    Ok(file.target)
}

/// What became of one target on one measure.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Holds,
    /// Missed, and there is a decision record that says why.
    Explained(String),
    Missed,
    /// A figure that it needs is not there.
    Unmeasured(String),
}

/// A target, a measure, and the verdict.
pub(super) struct Outcome {
    /// The target's name.
    pub(super) name: String,
    /// The measure's name.
    pub(super) measure: String,
    /// The target's issue.
    pub(super) issue: u32,
    /// Limit and figure.
    pub(super) figures: String,
    pub(super) verdict: Verdict,
}

impl Outcome {
    /// Whether `--check` fails because of it.
    pub(super) fn fails(&self) -> bool {
        matches!(self.verdict, Verdict::Missed | Verdict::Unmeasured(_))
    }
}

/// One bound, computed: what it is called, its value, and whether the figure is below.
struct Bound {
    text: String,
    holds: bool,
}

/// Compares `results` with each target whose measure is `wanted`; records are looked for below `root`.
pub(super) fn evaluate(
    targets: &[Target],
    results: &Results,
    wanted: impl Fn(&str) -> bool,
    root: &Path,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for target in targets {
        for measure in target.measures.iter().filter(|measure| wanted(measure)) {
            let outcome = |figures: String, verdict| Outcome {
                name: target.name.clone(),
                measure: measure.clone(),
                issue: target.issue,
                figures,
                verdict,
            };
            outcomes.push(match judge(target, measure, results) {
                Ok((figures, true)) => outcome(figures, Verdict::Holds),
                Ok((figures, false)) => {
                    let record = target.adr.as_ref().filter(|adr| root.join(adr).is_file());
                    let verdict = record.map_or(Verdict::Missed, |adr| Verdict::Explained(adr.clone()));
                    outcome(figures, verdict)
                }
                Err(why) => outcome(String::new(), Verdict::Unmeasured(why.to_string())),
            });
        }
    }
    outcomes
}

/// The figure beside its limits, and whether they hold.
fn judge(target: &Target, name: &str, results: &Results) -> Result<(String, bool)> {
    let measure = results.measure(name).context("not measured")?;
    let ours = measure.median(Side::Casemate).context("not measured inside Casemate")?;
    let all = target.at_most.bounds(name, ours, results)?;
    let any = target.one_of.bounds(name, ours, results)?;
    let holds = all.iter().all(|bound| bound.holds) && (any.is_empty() || any.iter().any(|bound| bound.holds));
    let list =
        |bounds: &[Bound], glue: &str| bounds.iter().map(|bound| bound.text.as_str()).collect::<Vec<_>>().join(glue);
    let limits = [list(&all, " and "), list(&any, " or ")].into_iter().filter(|text| !text.is_empty());
    let limits = limits.collect::<Vec<_>>().join(", ");
    Ok((format!("{} ({limits})", show(ours, measure.unit)), holds))
}

impl Limits {
    fn count(&self) -> usize {
        usize::from(self.native.is_some()) + usize::from(self.runsc.is_some()) + usize::from(self.absolute.is_some())
    }

    /// Each bound; an error when a figure that one needs is missing.
    fn bounds(&self, name: &str, ours: f64, results: &Results) -> Result<Vec<Bound>> {
        let mut bounds = Vec::new();
        let mut relative = |factor: Option<f64>, side: Side, of: &str| -> Result<()> {
            let Some(factor) = factor else { return Ok(()) };
            let theirs = results.measure(of).and_then(|measure| measure.median(side));
            let theirs = theirs.with_context(|| format!("{of} is not measured: {side:?}"))?;
            let what = if of == name { String::new() } else { format!(" {of}") };
            let side = format!("{side:?}").to_lowercase();
            let text = format!("{:.2} × {side}{what}, at most {factor}", ours / theirs);
            bounds.push(Bound { text, holds: ours <= factor * theirs });
            Ok(())
        };
        relative(self.native, Side::Native, name)?;
        relative(self.runsc, Side::Runsc, self.runsc_of.as_deref().unwrap_or(name))?;
        if let Some(amount) = self.absolute {
            let measure = results.measure(name).context("not measured")?;
            ensure!(measure.unit == amount.unit, "the limit is in another unit than {name}");
            let text = format!("at most {}", show(amount.value, amount.unit));
            bounds.push(Bound { text, holds: ours <= amount.value });
        }
        Ok(bounds)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match &self.verdict {
            Verdict::Holds => "holds ",
            Verdict::Explained(_) => "known ",
            Verdict::Missed => "MISSED",
            Verdict::Unmeasured(_) => "no figure",
        };
        write!(f, "{verdict} issue {} · {} · {}", self.issue, self.name, self.measure)?;
        match &self.verdict {
            Verdict::Explained(adr) => write!(f, ": {}; see {adr}", self.figures),
            Verdict::Unmeasured(why) => write!(f, ": {why}"),
            Verdict::Holds | Verdict::Missed => write!(f, ": {}", self.figures),
        }
    }
}

#[cfg(test)]
mod tests;
