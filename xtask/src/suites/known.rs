//! A suite's file in `runner/tests/suites`: what belongs to which family, what never runs natively, what is known to fail.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::cargo::root;

/// What is known of a suite.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Known {
    /// Least share, in percent, of what passes natively that must pass inside.
    pub(super) least: usize,
    /// Families, and the beginnings of the names of what belongs to them; the longest beginning decides.
    #[serde(default)]
    families: BTreeMap<String, Vec<String>>,
    /// Beginnings of names of programs that would change the machine, and how.
    #[serde(default)]
    unsafe_natively: BTreeMap<String, String>,
    /// Beginnings of names of programs that say nothing about the kernel they run on, and why.
    #[serde(default)]
    left_out: BTreeMap<String, String>,
    /// Tests that fail inside though they pass natively, and why. Only ever shrinks.
    #[serde(default)]
    failing: BTreeMap<String, String>,
}

impl Known {
    /// Reads the file of the suite `name`.
    pub(crate) fn read(name: &str) -> Result<Self> {
        let path = root().join("runner/tests/suites").join(name).with_extension("toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let known: Self = toml::from_str(text)?;
        for (name, reason) in known.failing.iter().chain(&known.unsafe_natively).chain(&known.left_out) {
            ensure!(reason.split_whitespace().count() >= 3, "{name} has no reason that says anything");
        }
        Ok(known)
    }

    /// The family of a program, if it belongs to one.
    pub(super) fn family(&self, program: &str) -> Option<&str> {
        let of = |(family, starts): (&'_ String, &'_ Vec<String>)| -> Option<(usize, String)> {
            let longest = starts.iter().filter(|start| belongs(program, start)).map(String::len).max()?;
            Some((longest, family.clone()))
        };
        let (_, family) = self.families.iter().filter_map(of).max()?;
        self.families.get_key_value(&family).map(|(name, _)| name.as_str())
    }

    /// Why a program does not run: it would change the machine natively, or tells nothing.
    pub(super) fn why_left_out(&self, program: &str) -> Option<&str> {
        let mut all = self.unsafe_natively.iter().chain(&self.left_out);
        all.find(|(start, _)| belongs(program, start)).map(|(_, why)| why.as_str())
    }

    /// Why a test fails inside, if that is known.
    pub(super) fn reason(&self, test: &str) -> Option<&str> {
        self.failing.get(test).map(String::as_str)
    }

    /// All tests that are known to fail.
    pub(super) fn failing(&self) -> impl Iterator<Item = &str> {
        self.failing.keys().map(String::as_str)
    }
}

/// Whether `program` is `start`, or `start` with a number or words after a `_` or digits: `kill` has `kill02` and
/// `kill_x`, but not `killall`.
fn belongs(program: &str, start: &str) -> bool {
    let Some(rest) = program.strip_prefix(start) else { return false };
    start.ends_with('_') || rest.is_empty() || rest.starts_with(|next: char| next.is_ascii_digit() || next == '_')
}

#[cfg(test)]
mod tests {
    use super::{Known, belongs};

    #[test]
    fn names_belong_by_their_beginning() {
        for (program, start, does) in [
            ("kill02", "kill", true),
            ("kill", "kill", true),
            ("killall", "kill", false),
            ("sched_yield01", "sched_", true),
            ("pipe2_01", "pipe", true),
            ("tkill01", "kill", false),
        ] {
            assert_eq!(belongs(program, start), does, "{program} {start}");
        }
    }

    #[test]
    fn the_longest_beginning_decides() {
        let text = "least = 95\n[families]\nsignals = [\"rt_\"]\nqueue = [\"rt_sigqueueinfo\"]\n";
        let known = Known::parse(text).unwrap();
        assert_eq!(known.family("rt_sigqueueinfo01"), Some("queue"));
        assert_eq!(known.family("rt_sigaction01"), Some("signals"));
        assert_eq!(known.family("mount01"), None);
    }

    #[test]
    fn entries_need_reasons() {
        assert!(Known::parse("least = 95\n[failing]\nx01 = \"fails\"\n").is_err());
        let known = Known::parse("least = 95\n[failing]\nx01 = \"wants a network card\"\n").unwrap();
        assert_eq!(known.reason("x01"), Some("wants a network card"));
    }

    #[test]
    fn the_files_that_are_here_can_be_read() {
        let folder = crate::cargo::root().join("runner/tests/suites");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(Known::read(&name).is_ok(), "{name}");
        }
    }
}
