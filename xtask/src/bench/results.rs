//! What was measured: samples per measure and side, the machine they are of, and the file that keeps them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::sides::{Side, Sides};
use crate::cargo::root;

/// What a measure's numbers count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Unit {
    #[serde(rename = "ns")]
    Nanoseconds,
    #[serde(rename = "kB")]
    Kilobytes,
    #[serde(rename = "/s")]
    PerSecond,
}

/// One measure on all sides.
#[derive(Serialize, Deserialize)]
pub(super) struct Measure {
    pub(super) name: String,
    pub(super) unit: Unit,
    pub(super) sides: BTreeMap<Side, Samples>,
}

/// One sample of each round.
#[derive(Serialize, Deserialize)]
pub(super) struct Samples {
    pub(super) median: f64,
    pub(super) samples: Vec<f64>,
}

/// Work that failed on one side.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Failure {
    measure: String,
    side: Side,
    why: String,
}

/// Where the figures come from.
#[derive(Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) kernel: String,
    pub(super) commit: String,
    pub(super) runsc: Option<String>,
}

/// All of one run.
#[derive(Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) rounds: usize,
    pub(super) measures: Vec<Measure>,
    pub(super) failures: Vec<Failure>,
}

impl Samples {
    pub(super) fn new(samples: Vec<f64>) -> Option<Self> {
        let median = quantile(&samples, 0.5)?;
        Some(Self { median, samples })
    }

    /// Distance of the quartiles, as a part of the median.
    pub(super) fn spread(&self) -> Option<f64> {
        let distance = quantile(&self.samples, 0.75)? - quantile(&self.samples, 0.25)?;
        (self.samples.len() > 2 && self.median > 0.0).then(|| distance / self.median)
    }
}

/// The value below which `part` of `samples` lie, linear between neighbours.
fn quantile(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = part * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted.get(position.floor() as usize)?, sorted.get(position.ceil() as usize)?);
    Some(below + (above - below) * position.fract())
}

impl Measure {
    /// The median of one side.
    pub(super) fn median(&self, side: Side) -> Option<f64> {
        self.sides.get(&side).map(|samples| samples.median)
    }
}

impl Failure {
    /// Whether it is Casemate that failed.
    pub(super) fn is_ours(&self) -> bool {
        self.side == Side::Casemate
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed ({:?}): {}", self.measure, self.side, self.why)
    }
}

impl Results {
    /// No measures yet, on this machine.
    pub(super) fn new(sides: &Sides, rounds: usize) -> Result<Self> {
        Ok(Self { machine: Machine::here(sides)?, rounds, measures: Vec::new(), failures: Vec::new() })
    }

    /// Adds the samples of one measure; sides without any are left out.
    pub(super) fn add(&mut self, name: &str, unit: Unit, samples: BTreeMap<Side, Vec<f64>>) {
        let sides: BTreeMap<Side, Samples> =
            samples.into_iter().filter_map(|(side, samples)| Some((side, Samples::new(samples)?))).collect();
        if !sides.is_empty() {
            self.measures.push(Measure { name: name.to_owned(), unit, sides });
        }
    }

    /// Notes that `side` could not do the work of `measure`.
    pub(super) fn failed(&mut self, measure: &str, side: Side, why: &anyhow::Error) {
        self.failures.push(Failure { measure: measure.to_owned(), side, why: format!("{why:#}") });
    }

    /// The measure called `name`.
    pub(super) fn measure(&self, name: &str) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.name == name)
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not what bench --json wrote", path.display()))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Machine {
    fn here(sides: &Sides) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpu = read("/proc/cpuinfo")?;
        let model =
            cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
        let mut git = std::process::Command::new("git");
        git.current_dir(root()).args(["describe", "--always", "--dirty"]);
        let commit = git.output().ok().filter(|output| output.status.success());
        let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Ok(Self {
            cpu: model.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            commit: commit.unwrap_or_else(|| "unknown".to_owned()),
            runsc: sides.runsc_version(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Samples;

    #[test]
    fn medians_and_quartiles_lie_between_neighbours() {
        let samples = Samples::new(vec![4.0, 1.0, 3.0, 2.0]).expect("there are samples");
        assert!((samples.median - 2.5).abs() < 1e-9);
        assert!(samples.spread().is_some_and(|spread| (spread - 0.6).abs() < 1e-9));
        assert!(Samples::new(Vec::new()).is_none());
        assert!(Samples::new(vec![1.0, 2.0]).is_some_and(|samples| samples.spread().is_none()));
    }
}
