//! `cargo xtask ltp`: the Linux Test Project's system call tests, natively and inside.
//!
//! They are built and installed outside the repository (`./configure --prefix=DIR`, then `make install` in `lib` and
//! `testcases/kernel/syscalls`); DIR's own `runtest/syscalls` says which tests there are and how they are called, our
//! `runner/tests/suites/ltp.toml` which of them belong to a family. A program tells how it went by bits of its exit
//! status.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use super::known::Known;
use super::{Case, Ended, Options, Outcome, Suite};

/// Where the tests are on both sides.
const PLACE: &str = "ltp";

/// Longest that one program may take; its own limits, some 30 s for most, are to come first.
const DEADLINE: Duration = Duration::from_secs(100);

/// Lists of tests below DIR that are read.
const LISTS: &[&str] = &["runtest/syscalls", "runtest/syscalls-ipc"];

/// Bits of an exit status: something failed, broke, or warned.
const BAD: i32 = 1 | 2 | 4;

/// Bit of an exit status: it cannot run here.
const SKIPPED: i32 = 32;

/// Run tests of the Linux Test Project natively and inside, and compare; needs root for its namespaces.
#[derive(Args)]
pub(crate) struct Ltp {
    /// Where it is installed.
    #[arg(long)]
    dir: PathBuf,
    #[command(flatten)]
    options: Options,
}

impl Ltp {
    pub(crate) fn run(&self) -> Result<()> {
        let dir = self.dir.canonicalize().with_context(|| format!("cannot find {}", self.dir.display()))?;
        let known = Known::read("ltp")?;
        super::run(&Tests { dir, known: &known }, &known, &self.options)
    }
}

/// What is installed in a directory.
struct Tests<'a> {
    dir: PathBuf,
    known: &'a Known,
}

impl Suite for Tests<'_> {
    fn name(&self) -> &'static str {
        "ltp"
    }

    fn cases(&self) -> Result<Vec<Case>> {
        let mut cases: Vec<Case> = Vec::new();
        for list in LISTS {
            let path = self.dir.join(list);
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            for case in text.lines().filter_map(|line| parse(line, self.known)) {
                if !cases.iter().any(|other| other.name == case.name) {
                    cases.push(case);
                }
            }
        }
        ensure!(!cases.is_empty(), "{} lists no tests of our families", self.dir.display());
        for case in &cases {
            let program = case.command.first().map(String::as_str).unwrap_or_default();
            let path = self.dir.join(program.trim_start_matches("/opt/ltp/"));
            ensure!(path.exists(), "{} is listed, but {} is not there: install it", case.name, path.display());
        }
        Ok(cases)
    }

    fn directories(&self) -> Vec<(PathBuf, String)> {
        vec![(self.dir.clone(), PLACE.to_owned())]
    }

    fn environment(&self) -> Vec<(String, String)> {
        [
            ("PATH", "/opt/ltp/testcases/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LTPROOT", "/opt/ltp"),
            ("TMPDIR", "/tmp"),
            ("HOME", "/tmp"),
            ("LTP_COLORIZE_OUTPUT", "n"),
            // Tests that go on for a while to meet a race do so for less long.
            ("LTP_RUNTIME_MUL", "0.2"),
            // What a kernel can do shows in what it does, not in how it was built.
            ("KCONFIG_SKIP_CHECK", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn judge(&self, case: &Case, ended: &Ended) -> Vec<(String, Outcome)> {
        vec![(case.name.clone(), outcome(ended))]
    }
}

/// A line of a list: a name, a program, its arguments.
fn parse(line: &str, known: &Known) -> Option<Case> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let name = words.next().filter(|name| !name.starts_with('#'))?;
    let family = known.family(&name)?.to_owned();
    let program = format!("/opt/{PLACE}/testcases/bin/{}", words.next()?);
    let command = std::iter::once(program).chain(words).collect();
    Some(Case { name, family, command, deadline: DEADLINE })
}

fn outcome(ended: &Ended) -> Outcome {
    let said = |kinds: &[&str]| {
        let line = ended.output.lines().find(|line| kinds.iter().any(|kind| line.contains(kind)));
        line.or(ended.output.lines().last()).unwrap_or("it said nothing").trim().to_owned()
    };
    match (ended.code, ended.signal) {
        (Some(0), _) => Outcome::Pass,
        (Some(code), _) if code & BAD == 0 && code & SKIPPED != 0 => Outcome::Skip(said(&["TCONF"])),
        (Some(code), _) => Outcome::Fail(format!("status {code}: {}", said(&["TFAIL", "TBROK", "TWARN"]))),
        (None, signal) => Outcome::Fail(format!("signal {}: {}", signal.unwrap_or_default(), said(&["TBROK"]))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::known::Known;
    use super::{Ended, Outcome, outcome, parse};

    fn ended(code: i32, output: &str) -> Ended {
        Ended { output: output.into(), code: Some(code), signal: None, took: Duration::ZERO, is_expired: false }
    }

    #[test]
    fn exit_statuses_are_bits() {
        assert_eq!(outcome(&ended(0, "")), Outcome::Pass);
        assert_eq!(outcome(&ended(32, "a\nx: TCONF: too old\nb")), Outcome::Skip("x: TCONF: too old".into()));
        let failed = outcome(&ended(33, "x: TCONF: too old\nx: TFAIL: no\n"));
        assert_eq!(failed, Outcome::Fail("status 33: x: TFAIL: no".into()));
        assert!(matches!(outcome(&ended(4, "")), Outcome::Fail(_)), "a warning is no pass");
        assert!(matches!(outcome(&ended(137, "killed")), Outcome::Fail(_)));
    }

    #[test]
    fn lines_are_names_programs_and_arguments() {
        let known: Known = toml::from_str("least = 95\n[families]\npipes = [\"pipeio\"]\n").unwrap();
        let case = parse("pipeio_1 pipeio -T pipeio_1 -c 5", &known).unwrap();
        assert_eq!(case.command, ["/opt/ltp/testcases/bin/pipeio", "-T", "pipeio_1", "-c", "5"]);
        assert!(parse("#pipeio_1 pipeio", &known).is_none());
        assert!(parse("mount01 mount01", &known).is_none());
        assert!(parse("", &known).is_none());
    }
}
