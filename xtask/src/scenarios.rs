//! `cargo xtask test --scenarios [NAME]`: scripts of real programs, run natively and inside, with one outcome.
//!
//! A scenario is a Bash script in `runner/tests/scenarios`. A line `# needs: PROGRAM…` names what it runs; where one is
//! missing, the scenario is skipped and says so. Standard output, standard error and exit status must be the same on both
//! sides; only process numbers, which Bash prints when a signal ends a child, are left out. A call that our kernel answers
//! with `ENOSYS` fails the scenario too, unless it is one of [`DECLINED`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo::root;

/// Longest that one side of a scenario may take, as timeout(1) takes it.
const DEADLINE: &str = "240";

/// Fewest commands of a scenario.
const FEWEST_COMMANDS: usize = 15;

/// Where programs are looked for, on both sides.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Calls that programs try and do well without; their rows in the table say why they answer `ENOSYS`.
const DECLINED: &[&str] = &["rseq", "get_mempolicy"];

/// Lines of a difference that are shown.
const SHOWN: usize = 8;

/// What one side printed, and how it ended.
struct Side {
    out: String,
    err: String,
    status: ExitStatus,
    took: Duration,
}

/// A folder for the files of one run, gone afterwards.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the scenarios whose name contains `filter`.
pub(crate) fn run(casemate: &Path, filter: Option<&str>) -> Result<()> {
    let folder = root().join("runner/tests/scenarios");
    let mut scripts = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if filter.is_none_or(|filter| name.contains(filter)) && path.extension() == Some(OsStr::new("sh")) {
            scripts.push((name, path));
        }
    }
    ensure!(!scripts.is_empty(), "no scenario has this name");
    scripts.sort();
    let scratch = Scratch(std::env::temp_dir().join(format!("casemate-scenarios-{}", std::process::id())));
    std::fs::create_dir(&scratch.0)?;
    let mut failed = Vec::new();
    for (name, script) in &scripts {
        match scenario(casemate, script, &scratch.0) {
            Ok(line) => println!("{name:<12} {line}"),
            Err(error) => {
                println!("{name:<12} failed");
                failed.push(format!("{name}: {error:#}"));
            }
        }
    }
    ensure!(failed.is_empty(), "scenarios failed:\n{}", failed.join("\n"));
    Ok(())
}

/// Runs one on both sides; says in one line how it went.
fn scenario(casemate: &Path, script: &Path, scratch: &Path) -> Result<String> {
    let text = std::fs::read_to_string(script)?;
    let needs = text.lines().find_map(|line| line.strip_prefix("# needs: "));
    let needs = needs.context("a scenario has a line `# needs: PROGRAM…`")?;
    let commands =
        text.split(['\n', ';', '|', '&']).map(str::trim).filter(|part| !part.is_empty() && !part.starts_with('#'));
    ensure!(commands.count() >= FEWEST_COMMANDS, "a scenario has at least {FEWEST_COMMANDS} commands");
    ensure!(text.contains("/usr/bin/"), "a scenario names programs by their /usr/bin paths");
    if let Some(missing) = needs.split_whitespace().find(|program| !is_there(program)) {
        return Ok(format!("skipped: {missing} is not here"));
    }
    let trace = scratch.join("strace");
    let _ = std::fs::remove_file(&trace);
    let native = side(&[OsStr::new("/bin/bash"), script.as_os_str()], scratch)?;
    let mut strace = std::ffi::OsString::from("--strace=");
    strace.push(&trace);
    let inside =
        [casemate.as_os_str(), "run".as_ref(), &strace, "--".as_ref(), "/bin/bash".as_ref(), script.as_os_str()];
    let inside = side(&inside, scratch)?;
    ensure!(native.status == inside.status, "native: {}, inside: {}\n{}", native.status, inside.status, inside.err);
    for (what, native, inside) in [("output", &native.out, &inside.out), ("error", &native.err, &inside.err)] {
        if let Some(difference) = difference(native, inside) {
            bail!("standard {what} differs:\n{difference}");
        }
    }
    let calls = String::from_utf8_lossy(&std::fs::read(&trace)?).into_owned();
    let unserved: BTreeSet<&str> = calls.lines().filter(|line| line.contains("= -1 ENOSYS")).filter_map(call).collect();
    let unserved: Vec<&str> = unserved.into_iter().filter(|call| !DECLINED.contains(call)).collect();
    ensure!(unserved.is_empty(), "answered with ENOSYS: {}", unserved.join(" "));
    let (native, inside) = (native.took.as_secs_f64(), inside.took.as_secs_f64());
    Ok(format!("same: {native:.2} s natively, {inside:.2} s inside with --strace"))
}

/// Whether a program is on the search path or among the caller's Rust tools.
fn is_there(program: &str) -> bool {
    let cargo = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    SEARCH_PATH.split(':').map(PathBuf::from).chain(cargo).any(|folder| folder.join(program).exists())
}

/// Runs `command` with files as its standard streams; what differs between callers is not in its environment.
fn side(command: &[&OsStr], scratch: &Path) -> Result<Side> {
    let (out, err) = (scratch.join("out"), scratch.join("err"));
    let started = Instant::now();
    let status = Command::new("timeout")
        .args(["-k", "2", DEADLINE])
        .args(command)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("HOME", std::env::var_os("HOME").unwrap_or_else(|| "/".into()))
        .envs([("LC_ALL", "C"), ("TERM", "dumb")])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?)
        .status()
        .context("cannot start timeout(1)")?;
    let took = started.elapsed();
    let text = |path: &Path| -> Result<String> { Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned()) };
    let err = text(&err)?.lines().map(without_number).collect::<Vec<_>>().join("\n");
    Ok(Side { out: text(&out)?, err, status, took })
}

/// `SCRIPT: line 5: 1234 Killed …`, as Bash tells of a child's end, without the process's number.
fn without_number(line: &str) -> String {
    let told = line.split_once(": line ").and_then(|(script, rest)| {
        let (number, rest) = rest.split_once(": ")?;
        let rest = rest.trim_start();
        let text = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        (text.len() < rest.len()).then(|| format!("{script}: line {number}:{text}"))
    });
    told.unwrap_or_else(|| line.to_owned())
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
    use super::{call, difference, without_number};

    #[test]
    fn process_numbers_are_left_out() {
        assert_eq!(without_number("/a/b.sh: line 12:   345 Killed  sleep 9"), "/a/b.sh: line 12: Killed  sleep 9");
        assert_eq!(without_number("/a/b.sh: line 12: cat: not found"), "/a/b.sh: line 12: cat: not found");
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
