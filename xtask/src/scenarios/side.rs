//! One run of a command, natively or inside: what it prints and how it ends.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::mode::User;
use super::needs::SEARCH_PATH;

/// Longest that one side of a scenario may take, as timeout(1) takes it.
const DEADLINE: &str = "240";

/// Runs what follows as the user nobody.
const AS_NOBODY: &[&str] = &["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// What one side printed, and how it ended.
pub(super) struct Side {
    pub(super) out: String,
    pub(super) err: String,
    pub(super) status: ExitStatus,
    pub(super) took: Duration,
}

/// Runs `command` as `user`, with files in `folder` as its standard streams; what differs between callers is not in its
/// environment.
pub(super) fn run(command: &[&OsStr], user: User, folder: &Path) -> Result<Side> {
    std::fs::create_dir_all(folder)?;
    // Anybody may leave a trace here.
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777))?;
    let (out, err) = (folder.join("out"), folder.join("err"));
    let (wrapper, home) = match user {
        User::Caller => (&[] as &[&str], std::env::var_os("HOME").unwrap_or_else(|| "/".into())),
        User::Nobody => (AS_NOBODY, "/nonexistent".into()),
    };
    let started = Instant::now();
    let status = Command::new("timeout")
        .args(["-k", "2", DEADLINE])
        .args(wrapper)
        .args(command)
        .env_clear()
        .envs([("PATH", SEARCH_PATH), ("LC_ALL", "C"), ("TERM", "dumb")])
        .env("HOME", home)
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

#[cfg(test)]
mod tests {
    use super::without_number;

    #[test]
    fn process_numbers_are_left_out() {
        assert_eq!(without_number("/a/b.sh: line 12:   345 Killed  sleep 9"), "/a/b.sh: line 12: Killed  sleep 9");
        assert_eq!(without_number("/a/b.sh: line 12: cat: not found"), "/a/b.sh: line 12: cat: not found");
    }
}
