//! What a suite's run comes to: a table by family, what is wrong, and the outcomes as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::known::Known;
use super::{Compared, Outcome, Outcomes};

/// Writes all outcomes.
pub(super) fn write(path: &Path, compared: &[Compared]) -> Result<()> {
    let mut text = serde_json::to_string_pretty(compared)?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The native side of what [`write()`] wrote, by program.
pub(super) fn native_of(path: &Path) -> Result<BTreeMap<String, Outcomes>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let older: Vec<Compared> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(older.into_iter().map(|compared| (compared.case, compared.native)).collect())
}

/// Tests of a family.
#[derive(Default, Clone, Copy)]
struct Count {
    /// That ran natively.
    native: usize,
    /// That passed there, so that Casemate is asked for them.
    asked: usize,
    /// That passed inside too.
    passed: usize,
}

impl Count {
    fn of(compared: &Compared) -> Self {
        let asked = compared.asked().count();
        let passed = compared.asked().filter(|name| compared.passes(name)).count();
        Self { native: compared.native.len(), asked, passed }
    }

    fn add(&mut self, other: Self) {
        self.native = self.native.saturating_add(other.native);
        self.asked = self.asked.saturating_add(other.asked);
        self.passed = self.passed.saturating_add(other.passed);
    }

    /// Tenths of a percent that passed, of what was asked.
    fn share(self) -> usize {
        self.passed.saturating_mul(1000).checked_div(self.asked).unwrap_or(1000)
    }
}

/// Tenths of a percent, as a percentage.
fn percent(tenths: usize) -> String {
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Prints the table and what is wrong, and fails if anything is. `names` has all programs when all of them ran.
pub(super) fn conclude(
    suite: &str,
    compared: &[Compared],
    known: &Known,
    names: Option<&BTreeSet<&str>>,
) -> Result<()> {
    let mut families: BTreeMap<&str, Count> = BTreeMap::new();
    let mut total = Count::default();
    for one in compared {
        let count = Count::of(one);
        families.entry(&one.family).or_default().add(count);
        total.add(count);
        for (name, outcome) in one.native.iter().filter(|(_, outcome)| **outcome != Outcome::Pass) {
            println!("{name}: not natively, so not asked for: {}", told(Some(outcome)));
        }
        for name in &one.repeated {
            println!("{name}: passed inside only when it ran again, alone");
        }
    }
    println!("{:<16} {:>8} {:>8} {:>8} {:>8}", suite, "natively", "passed", "inside", "share");
    for (name, count) in families.iter().map(|(name, count)| (*name, *count)).chain([("all", total)]) {
        let Count { native, asked, passed } = count;
        println!("{name:<16} {native:>8} {asked:>8} {passed:>8} {:>8}", percent(count.share()));
    }
    let problems = problems(compared, known, names);
    for problem in &problems {
        println!("{suite}: {problem}");
    }
    if names.is_some() && total.share() < known.least.saturating_mul(10) {
        bail!("{suite}: {} of what passes natively passes inside, {} % is asked", percent(total.share()), known.least);
    }
    if problems.is_empty() { Ok(()) } else { bail!("{suite}: {} problem(s)", problems.len()) }
}

/// Failures that are not known, and known ones that are none.
fn problems(compared: &[Compared], known: &Known, names: Option<&BTreeSet<&str>>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut met: BTreeSet<&str> = names.into_iter().flatten().copied().collect();
    for one in compared {
        met.extend(one.native.keys().map(String::as_str));
        for name in one.asked() {
            match (one.passes(name), known.reason(name)) {
                (false, None) => problems.push(format!("{name} fails: {}", told(one.inside.get(name)))),
                (true, Some(_)) => problems.push(format!("{name} passes: take it off the list of what fails")),
                (false, Some(_)) | (true, None) => {}
            }
        }
    }
    if names.is_some() {
        let gone = known.failing().filter(|name| !met.contains(name));
        problems.extend(gone.map(|name| format!("{name} is in the list of what fails, but there is no such test")));
    }
    problems
}

/// An outcome in a few words.
fn told(outcome: Option<&Outcome>) -> String {
    match outcome {
        Some(Outcome::Pass) => "passed".to_owned(),
        Some(Outcome::Fail(why)) => format!("failed: {why}"),
        Some(Outcome::Skip(why)) => format!("cannot run: {why}"),
        Some(Outcome::Timeout) => "took too long".to_owned(),
        None => "did not run".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{Compared, Known, Outcome};
    use super::{Count, percent, problems};

    fn compared(case: &str, native: Outcome, inside: Outcome) -> Compared {
        Compared {
            case: case.into(),
            family: "family".into(),
            native: [(case.to_owned(), native)].into(),
            inside: [(case.to_owned(), inside)].into(),
            repeated: BTreeSet::new(),
            took: 0.0,
        }
    }

    fn fail() -> Outcome {
        Outcome::Fail("no".into())
    }

    fn known(failing: &str) -> Known {
        toml::from_str(&format!("least = 95\n[failing]\n{failing} = \"for a good reason\"\n")).unwrap()
    }

    #[test]
    fn unknown_failures_and_known_passes_are_problems() {
        let run = [compared("a", Outcome::Pass, fail()), compared("b", Outcome::Pass, Outcome::Pass)];
        assert_eq!(problems(&run, &known("a"), None).len(), 0);
        assert_eq!(problems(&run, &known("b"), None).len(), 2, "a fails, b does not");
        let names: BTreeSet<&str> = ["a", "b"].into();
        assert_eq!(problems(&run, &known("c"), Some(&names)).len(), 2, "a fails, c is no test");
    }

    #[test]
    fn only_what_passes_natively_is_asked_for() {
        let run = [compared("a", fail(), fail()), compared("b", Outcome::Skip("x".into()), Outcome::Timeout)];
        assert_eq!(problems(&run, &known("b"), None), Vec::<String>::new());
        let count = Count::of(&compared("a", Outcome::Pass, Outcome::Skip("kernel".into())));
        assert_eq!((count.asked, count.passed), (1, 0), "to say that it cannot run is no pass");
        assert_eq!(percent(Count { native: 9, asked: 8, passed: 7 }.share()), "87.5 %");
    }
}
