//! The sides that are compared, and how a program starts on each.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Where a program runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    Native,
    Casemate,
    Runsc,
}

/// The binaries of this run, and its scratch directory, which goes with it.
pub(super) struct Sides {
    casemate: PathBuf,
    runsc: Option<PathBuf>,
    scratch: PathBuf,
}

impl Sides {
    pub(super) fn new(casemate: PathBuf, runsc: Option<PathBuf>) -> Result<Self> {
        let runsc = runsc.map(|path| path.canonicalize().with_context(|| format!("cannot find {}", path.display())));
        let scratch = std::env::temp_dir().join(format!("casemate-bench-{}", std::process::id()));
        std::fs::create_dir(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        Ok(Self { casemate, runsc: runsc.transpose()?, scratch })
    }

    /// Those that are there.
    pub(super) fn all(&self) -> Vec<Side> {
        let mut all = vec![Side::Native, Side::Casemate];
        all.extend(self.runsc.as_ref().map(|_| Side::Runsc));
        all
    }

    /// A directory on the host, which every side sees.
    pub(super) fn scratch(&self) -> &std::path::Path {
        &self.scratch
    }

    /// First line of `runsc --version`.
    pub(super) fn runsc_version(&self) -> Option<String> {
        let output = Command::new(self.runsc.as_ref()?).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
    }

    /// `words` as a command on `side`, with the same environment on each; its errors go to a file.
    pub(super) fn command(&self, side: Side, words: &[String]) -> Result<Command> {
        let mut full: Vec<std::ffi::OsString> = Vec::new();
        match (side, &self.runsc) {
            (Side::Casemate, _) => full.extend([self.casemate.as_os_str().into(), "run".into(), "--".into()]),
            (Side::Runsc, Some(runsc)) => {
                full.extend([runsc.as_os_str().into(), "--rootless".into(), "--network=none".into(), "do".into()]);
            }
            (Side::Native, _) | (Side::Runsc, None) => {}
        }
        full.extend(words.iter().map(Into::into));
        let (program, arguments) = full.split_first().context("no command")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs([("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"), ("LC_ALL", "C")])
            .env("HOME", &self.scratch)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.errors())?);
        Ok(command)
    }

    /// The last line that the latest command wrote to its standard error.
    pub(super) fn last_error(&self) -> String {
        let text = std::fs::read(self.errors()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().last().unwrap_or("it said nothing").to_owned()
    }

    fn errors(&self) -> PathBuf {
        self.scratch.join("errors")
    }
}

impl Drop for Sides {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// Samples of each side, and what failed on the way.
pub(super) type Rounds<T> = (BTreeMap<Side, Vec<T>>, Vec<(Side, anyhow::Error)>);

/// Takes `sample` of each side in turn, at most `rounds` times; a side stops when it has used `budget`, or failed.
pub(super) fn interleaved<T>(
    sides: &[Side],
    rounds: usize,
    budget: Duration,
    mut sample: impl FnMut(Side) -> Result<T>,
) -> Rounds<T> {
    let mut samples: BTreeMap<Side, Vec<T>> = BTreeMap::new();
    let mut failed = Vec::new();
    let mut used: BTreeMap<Side, Duration> = BTreeMap::new();
    for round in 0..rounds {
        for &side in sides {
            let used = used.entry(side).or_default();
            let has_failed = failed.iter().any(|(other, _)| *other == side);
            if has_failed || (round > 0 && *used >= budget) {
                continue;
            }
            let started = Instant::now();
            match sample(side) {
                Ok(value) => samples.entry(side).or_default().push(value),
                Err(error) => failed.push((side, error)),
            }
            *used += started.elapsed();
        }
    }
    (samples, failed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Side, interleaved};

    #[test]
    fn sides_take_turns_and_a_failed_one_is_left_out() {
        let mut order = Vec::new();
        let sides = [Side::Native, Side::Casemate];
        let (samples, failed) = interleaved(&sides, 3, Duration::MAX, |side| {
            order.push(side);
            if side == Side::Casemate { anyhow::bail!("no") } else { Ok(1) }
        });
        assert_eq!(order, [Side::Native, Side::Casemate, Side::Native, Side::Native]);
        assert_eq!(samples.get(&Side::Native).map(Vec::len), Some(3));
        assert_eq!(failed.len(), 1);
        let (samples, _) = interleaved(&sides, 3, Duration::ZERO, |_| Ok(1));
        assert_eq!(samples.get(&Side::Casemate).map(Vec::len), Some(1), "one round at least");
    }
}
