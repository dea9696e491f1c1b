//! `cargo xtask test --scenarios [NAME]`: scripts of real programs, run natively and inside, with one outcome.
//!
//! A scenario is a Bash script in `runner/tests/scenarios`. A line `# needs: PROGRAM…` names what it runs; where one is
//! missing and cannot be installed, the scenario is skipped and says so, which CI takes for a failure. `# as: caller`
//! keeps one from users other than the caller. Each [`mode::Mode`] is compared with a native run as the same user:
//! standard output, standard error and exit status must be the same; only process numbers, which Bash prints when a
//! signal ends a child, are left out. A call that our kernel answers with `ENOSYS` fails the scenario too, unless it is
//! one of [`DECLINED`].

mod mode;
mod needs;
mod side;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo::root;
use crate::load::Load;
use mode::{Machine, Mode, User};
use side::Side;

/// Fewest commands of a scenario.
const FEWEST_COMMANDS: usize = 15;

/// Lines of a difference that are shown.
const SHOWN: usize = 8;

/// Scenarios that run at a time.
const WORKERS: usize = 2;

/// Calls that Linux 6.12 serves, that programs try and do well without, and why they still answer `ENOSYS`. This list
/// only shrinks: an entry that no scenario meets any more fails a run of all of them.
const DECLINED: &[(&str, &str)] = &[
    ("rseq", "issue 5: the C library registers it per thread and goes without"),
    ("seccomp", "issue 7: file(1) asks which filters there are, and goes without"),
];

/// Which scenarios run, and how.
pub(crate) struct Selection<'a> {
    /// Only those whose name contains this.
    pub(crate) filter: Option<&'a str>,
    /// The modes by name; none for those of every run.
    pub(crate) modes: &'a [String],
    /// Every mode there is.
    pub(crate) long: bool,
}

/// A script and what its head says.
struct Scenario {
    name: String,
    text: String,
    needs: Vec<String>,
    only_caller: bool,
}

/// A folder for the files of one run, gone afterwards.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What all workers share.
struct Run<'a> {
    casemate: PathBuf,
    scratch: &'a Path,
    modes: Vec<&'static Mode>,
    failed: Mutex<Vec<String>>,
    skipped: Mutex<Vec<String>>,
    met: Mutex<BTreeSet<&'static str>>,
}

/// Runs what is selected; fails when anything differs.
pub(crate) fn run(casemate: &Path, selection: &Selection<'_>) -> Result<()> {
    let started = Instant::now();
    let scenarios = read(selection.filter)?;
    let programs: BTreeSet<&str> =
        scenarios.iter().flat_map(|scenario| scenario.needs.iter().map(String::as_str)).collect();
    let here = needs::ensure(&programs);
    let scratch = Scratch(std::env::temp_dir().join(format!("casemate-scenarios-{}", std::process::id())));
    std::fs::create_dir(&scratch.0)?;
    // Copies, since another user may not be able to reach the originals.
    let copy = scratch.0.join("casemate");
    std::fs::copy(casemate, &copy).with_context(|| format!("cannot copy {}", casemate.display()))?;
    for scenario in &scenarios {
        std::fs::write(scratch.0.join(&scenario.name).with_extension("sh"), &scenario.text)?;
    }
    let run = Run {
        casemate: copy,
        scratch: &scratch.0,
        modes: mode::choose(selection.modes, selection.long)?,
        failed: Mutex::default(),
        skipped: Mutex::default(),
        met: Mutex::default(),
    };
    let mut work: Vec<(&Scenario, User)> = Vec::new();
    for scenario in &scenarios {
        match scenario.needs.iter().find(|program| !needs::is_there(program)) {
            Some(program) => run.skip(&format!("{}: {program} is not here", scenario.name)),
            None => {
                work.extend(run.users().filter(|user| user.may_run(scenario.only_caller)).map(|user| (scenario, user)))
            }
        }
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (run, work, next) = (&run, &work, &next);
            scope.spawn(move || {
                // Relaxed: the counter alone decides who takes what.
                while let Some(&(scenario, user)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run.compare(scenario, user, &run.scratch.join(format!("{worker}")));
                }
            });
        }
    });
    let (failed, skipped) = (take(&run.failed), take(&run.skipped));
    println!("scenarios: {} in {} modes, {} s", scenarios.len(), run.modes.len(), started.elapsed().as_secs());
    ensure!(failed.is_empty(), "scenarios failed:\n{}", failed.join("\n"));
    here?;
    ensure!(skipped.is_empty() || std::env::var_os("CI").is_none(), "skipped in CI:\n{}", skipped.join("\n"));
    if selection.filter.is_none() && skipped.is_empty() && run.modes.iter().any(|mode| mode.traced) {
        let met = take(&run.met);
        let unmet: Vec<_> = DECLINED.iter().map(|&(call, _)| call).filter(|call| !met.contains(call)).collect();
        ensure!(unmet.is_empty(), "no scenario meets these declined calls, take them off: {}", unmet.join(" "));
    }
    Ok(())
}

/// Reads the scripts whose name contains `filter`, and what their heads say.
fn read(filter: Option<&str>) -> Result<Vec<Scenario>> {
    let folder = root().join("runner/tests/scenarios");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if filter.is_none_or(|filter| name.contains(filter)) && path.extension() == Some(OsStr::new("sh")) {
            let text = std::fs::read_to_string(&path)?;
            found.push(parse(name, text).with_context(|| path.display().to_string())?);
        }
    }
    ensure!(!found.is_empty(), "no scenario has this name");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Reads the head of a script; refuses one that is not a scenario.
fn parse(name: String, text: String) -> Result<Scenario> {
    let needs = text.lines().find_map(|line| line.strip_prefix("# needs: "));
    let needs = needs.context("a scenario has a line `# needs: PROGRAM…`")?.split_whitespace().map(str::to_owned);
    let needs: Vec<String> = needs.collect();
    let only_caller = match text.lines().find_map(|line| line.strip_prefix("# as: ")) {
        None => false,
        Some("caller") => true,
        Some(other) => bail!("a scenario runs as `caller`, or as anybody; not as `{other}`"),
    };
    let commands =
        text.split(['\n', ';', '|', '&']).map(str::trim).filter(|part| !part.is_empty() && !part.starts_with('#'));
    ensure!(commands.count() >= FEWEST_COMMANDS, "a scenario has at least {FEWEST_COMMANDS} commands");
    ensure!(text.contains("/usr/bin/"), "a scenario names programs by their /usr/bin paths");
    Ok(Scenario { name, text, needs, only_caller })
}

impl Run<'_> {
    /// The users of the modes, each once.
    fn users(&self) -> impl Iterator<Item = User> {
        let users: BTreeSet<User> = self.modes.iter().map(|mode| mode.user).collect();
        users.into_iter()
    }

    fn skip(&self, line: &str) {
        println!("{line}: skipped");
        push(&self.skipped, line.to_owned());
    }

    /// Runs one scenario natively and in each mode of `user`, with the files of both sides in `folder`.
    fn compare(&self, scenario: &Scenario, user: User, folder: &Path) {
        let script = self.scratch.join(&scenario.name).with_extension("sh");
        let native = side::run(&[OsStr::new("/bin/bash"), script.as_os_str()], user, folder);
        let native = match native {
            Ok(native) => native,
            Err(error) => return push(&self.failed, format!("{}, natively: {error:#}", scenario.name)),
        };
        for mode in self.modes.iter().filter(|mode| mode.user == user) {
            let name = format!("{:<12} {:<15}", scenario.name, mode.name);
            match self.inside(mode, &script, &native, folder) {
                Ok(took) => {
                    let (native, inside) = (native.took.as_secs_f64(), took.as_secs_f64());
                    let traced = if mode.traced { ", traced" } else { "" };
                    println!("{name} same: {native:.2} s natively, {inside:.2} s inside{traced}");
                }
                Err(error) => {
                    println!("{name} failed");
                    push(&self.failed, format!("{name}: {error:#}"));
                }
            }
        }
    }

    /// Runs a script inside and compares with what it did natively; says how long it took.
    fn inside(&self, mode: &Mode, script: &Path, native: &Side, folder: &Path) -> Result<Duration> {
        let trace = folder.join("strace");
        let _ = std::fs::remove_file(&trace);
        let mut strace = std::ffi::OsString::from("--strace=");
        strace.push(&trace);
        let mut command: Vec<&OsStr> = mode.wrapper.iter().map(OsStr::new).collect();
        command.extend([self.casemate.as_os_str(), OsStr::new("run")]);
        command.extend(mode.arguments.iter().map(OsStr::new));
        if mode.traced {
            command.push(&strace);
        }
        command.extend(["--", "/bin/bash"].map(OsStr::new));
        command.push(script.as_os_str());
        let load = (mode.machine == Machine::Busy).then(Load::start).transpose()?;
        let mut inside = side::run(&command, mode.user, folder)?;
        drop(load);
        // What Casemate itself says of this mode, before anything runs.
        if let Some((first, rest)) =
            inside.err.split_once('\n').or((!inside.err.is_empty()).then_some((&*inside.err, "")))
            && first.starts_with("casemate: --isolation=seccomp: ")
        {
            inside.err = rest.to_owned();
        }
        ensure!(native.status == inside.status, "native: {}, inside: {}\n{}", native.status, inside.status, inside.err);
        for (what, native, inside) in [("output", &native.out, &inside.out), ("error", &native.err, &inside.err)] {
            if let Some(difference) = difference(native, inside) {
                bail!("standard {what} differs:\n{difference}");
            }
        }
        if mode.traced {
            self.answered_without(&trace)?;
        }
        Ok(inside.took)
    }

    /// Fails for calls that were answered with `ENOSYS`, but for declined ones, which are noted.
    fn answered_without(&self, trace: &Path) -> Result<()> {
        let calls = String::from_utf8_lossy(&std::fs::read(trace)?).into_owned();
        let unserved: BTreeSet<&str> =
            calls.lines().filter(|line| line.contains("= -1 ENOSYS")).filter_map(call).collect();
        let reasons: HashMap<&str, &str> = DECLINED.iter().copied().collect();
        if let Ok(mut met) = self.met.lock() {
            met.extend(DECLINED.iter().map(|&(call, _)| call).filter(|call| unserved.contains(call)));
        }
        let unserved: Vec<&str> = unserved.into_iter().filter(|call| !reasons.contains_key(call)).collect();
        ensure!(unserved.is_empty(), "answered with ENOSYS: {}", unserved.join(" "));
        Ok(())
    }
}

fn push(list: &Mutex<Vec<String>>, line: String) {
    if let Ok(mut list) = list.lock() {
        list.push(line);
    }
}

fn take<T: Default>(value: &Mutex<T>) -> T {
    value.lock().map(|mut value| std::mem::take(&mut *value)).unwrap_or_default()
}

/// The name of the call in a line of the trace: `[pid     2] rseq(0x7f…`.
fn call(line: &str) -> Option<&str> {
    let line = line.split_once("] ").map_or(line, |(_, rest)| rest);
    line.split_once('(').map(|(name, _)| name)
}

/// The first lines that differ.
fn difference(native: &str, inside: &str) -> Option<String> {
    if native == inside {
        return None;
    }
    let (mut left, mut right) = (native.lines(), inside.lines());
    let mut shown = Vec::new();
    let mut number = 0_usize;
    while shown.len() < SHOWN {
        number = number.saturating_add(1);
        match (left.next(), right.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => shown.push(format!("  line {number}: native {a:?}, inside {b:?}")),
        }
    }
    if shown.is_empty() {
        shown.push("  only in how the last line ends".to_owned());
    }
    Some(shown.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::{call, difference, needs, parse, read};

    #[test]
    fn each_scenario_says_what_it_needs_and_where_that_is_to_be_had() {
        for scenario in read(None).unwrap() {
            for program in &scenario.needs {
                assert!(needs::package_of(program).is_some(), "{}: which package has {program}?", scenario.name);
            }
        }
    }

    #[test]
    fn scripts_that_are_no_scenarios_are_refused() {
        let fifteen = "/usr/bin/true\n".repeat(15);
        assert!(parse("a".into(), fifteen.clone()).is_err());
        assert!(parse("a".into(), format!("# needs: bash\n# as: somebody\n{fifteen}")).is_err());
        assert!(parse("a".into(), "# needs: bash\n/usr/bin/true\n".into()).is_err());
        let scenario = parse("a".into(), format!("# needs: bash ls\n# as: caller\n{fifteen}")).unwrap();
        assert!(scenario.only_caller && scenario.needs == ["bash", "ls"]);
    }

    #[test]
    fn calls_are_found_in_traces() {
        assert_eq!(call("[pid     2] rseq(0x1, 32) = -1 ENOSYS (x)"), Some("rseq"));
    }

    #[test]
    fn differences_are_shown_by_line() {
        assert_eq!(difference("a\n", "a\n"), None);
        assert!(difference("a\nb\n", "a\nc\n").is_some_and(|text| text.contains("line 2")));
        assert!(difference("a\n", "a").is_some());
    }
}
