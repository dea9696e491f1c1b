//! `cargo xtask cpython`: modules of CPython's own tests, natively and inside.
//!
//! Debian's `libpython3.N-testsuite` has them, for the interpreter of the same package. `cpython.py` runs the cases of one
//! module and tells of each as it begins and ends, so that what a case that hangs leaves behind is still known.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use super::known::Known;
use super::{Case, Ended, Options, Outcome, Suite};

/// The modules, when none is named: processes, threads, signals, events, terminals.
const MODULES: &[&str] = &[
    "test_asyncio",
    "test_fork1",
    "test_mmap",
    "test_multiprocessing_fork",
    "test_os",
    "test_posix",
    "test_pty",
    "test_resource",
    "test_select",
    "test_selectors",
    "test_signal",
    "test_subprocess",
    "test_threading",
    "test_wait4",
];

const DRIVER: &str = include_str!("cpython.py");

/// What our lines of a module's output begin with.
const MARK: &str = "casemate-case";

/// Longest that one case may take, in seconds.
const CASE_LIMIT: &str = "120";

/// Longest that one module may take; test_asyncio takes a quarter of an hour on a busy machine.
const DEADLINE: Duration = Duration::from_secs(2400);

/// Run CPython's own tests natively and inside, and compare; needs root for its namespaces.
#[derive(Args)]
pub(crate) struct Cpython {
    /// Modules, like test_signal.
    modules: Vec<String>,
    /// The interpreter, with its tests installed.
    #[arg(long, default_value = "/usr/bin/python3")]
    python: PathBuf,
    #[command(flatten)]
    options: Options,
}

impl Cpython {
    pub(crate) fn run(&self) -> Result<()> {
        let has_tests = Command::new(&self.python)
            .args(["-c", "import test.libregrtest, test.test_signal"])
            .status()
            .with_context(|| format!("cannot run {}", self.python.display()))?;
        ensure!(has_tests.success(), "{} has no tests: install libpython3.N-testsuite", self.python.display());
        let known = Known::read("cpython")?;
        let mut options = self.options.clone();
        options.only.extend(self.modules.iter().cloned());
        super::run(&Tests { python: &self.python, known: &known }, &known, &options)
    }
}

struct Tests<'a> {
    python: &'a PathBuf,
    known: &'a Known,
}

impl Suite for Tests<'_> {
    fn name(&self) -> &'static str {
        "cpython"
    }

    fn cases(&self) -> Result<Vec<Case>> {
        let case = |module: &&str| {
            let python = self.python.to_string_lossy().into_owned();
            let mut command: Vec<String> = vec![python, "-c".into(), DRIVER.into()];
            command.extend([MARK, CASE_LIMIT, module].map(str::to_owned));
            let own = format!("test.{module}.");
            command.extend(self.known.failing().filter(|name| name.starts_with(&own)).map(str::to_owned));
            Case { name: (*module).to_owned(), family: (*module).to_owned(), command, deadline: DEADLINE }
        };
        Ok(MODULES.iter().map(case).collect())
    }

    fn directories(&self) -> Vec<(PathBuf, String)> {
        Vec::new()
    }

    fn environment(&self) -> Vec<(String, String)> {
        [("PATH", "/usr/bin:/bin"), ("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    fn judge(&self, _case: &Case, ended: &Ended) -> Vec<(String, Outcome)> {
        let mut told: Vec<(String, Outcome)> = Vec::new();
        for line in ended.output.lines() {
            let mut fields = line.split('\t');
            if fields.next() != Some(MARK) {
                continue;
            }
            let (Some(what), Some(name)) = (fields.next(), fields.next()) else { continue };
            let why = fields.next().unwrap_or_default().to_owned();
            let outcome = match what {
                "begin" => Outcome::Timeout,
                "pass" => Outcome::Pass,
                "skip" => Outcome::Skip(why),
                _ => Outcome::Fail(why),
            };
            // The last word on a case stands, but for a failure, which a subtest may have told of.
            match told.iter_mut().find(|(known, _)| known == name) {
                Some((_, Outcome::Fail(_))) => {}
                Some((_, known)) => *known = outcome,
                None => told.push((name.to_owned(), outcome)),
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::super::known::Known;
    use super::{Case, Ended, Outcome, Suite, Tests};

    #[test]
    fn lines_of_ours_tell_of_cases() {
        let known: Known = toml::from_str("least = 9\n[failing]\n\"test.test_pty.X.y\" = \"for a reason\"\n").unwrap();
        let tests = Tests { python: &PathBuf::from("/usr/bin/python3"), known: &known };
        let cases = tests.cases().unwrap();
        let last = |module: &str| cases.iter().find(|case| case.name == module).unwrap().command.last().cloned();
        assert_eq!(last("test_pty").as_deref(), Some("test.test_pty.X.y"), "what fails comes last");
        assert_eq!(last("test_os").as_deref(), Some("test_os"));
        let output = "noise\ncasemate-case\tbegin\ta\t\ncasemate-case\tpass\ta\t\nx\ncasemate-case\tbegin\tb\t\n\
                      casemate-case\tfail\tb\twhy\ncasemate-case\tpass\tb\t\ncasemate-case\tskip\tc\tno\n\
                      casemate-case\tbegin\td\t\n";
        let ended =
            Ended { output: output.to_owned(), code: Some(0), signal: None, took: Duration::ZERO, is_expired: false };
        let case = Case { name: String::new(), family: String::new(), command: Vec::new(), deadline: Duration::ZERO };
        let wanted = [
            ("a", Outcome::Pass),
            ("b", Outcome::Fail("why".into())),
            ("c", Outcome::Skip("no".into())),
            ("d", Outcome::Timeout),
        ]
        .map(|(name, outcome)| (name.to_owned(), outcome));
        assert_eq!(tests.judge(&case, &ended), wanted);
    }
}
