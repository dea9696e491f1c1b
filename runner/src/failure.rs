//! Failures of Casemate itself: one line for the user and an exit status, as `docker run` uses them.

use std::fmt;
use std::io::Write;

/// Exit status when Casemate itself failed.
pub(crate) const STATUS_OURS: u8 = 125;
/// Exit status when the command exists and cannot be executed.
pub(crate) const STATUS_NOT_EXECUTABLE: u8 = 126;
/// Exit status when the command does not exist.
pub(crate) const STATUS_NOT_FOUND: u8 = 127;

/// Why nothing was run, or why a run was broken off.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    line: String,
}

/// The usual result of this crate.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure of Casemate or its host.
    pub(crate) fn ours(line: impl Into<String>) -> Self {
        Self { status: STATUS_OURS, line: line.into() }
    }

    /// The command cannot be executed.
    pub(crate) fn not_executable(line: impl Into<String>) -> Self {
        Self { status: STATUS_NOT_EXECUTABLE, line: line.into() }
    }

    /// The command does not exist.
    pub(crate) fn not_found(line: impl Into<String>) -> Self {
        Self { status: STATUS_NOT_FOUND, line: line.into() }
    }

    /// A failure read back from the sandbox process.
    pub(crate) fn from_parts(status: u8, line: String) -> Self {
        Self { status, line }
    }

    /// The exit status for the caller of `casemate`.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Failure {}

/// Adds what was being attempted to an error.
pub(crate) trait Doing<T> {
    /// `what: error`, as a failure of ours.
    fn doing(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|error| Failure::ours(format!("{what}: {error}")))
    }
}

/// The words that strerror(3) has for a guest's error number.
pub(crate) fn describe(errno: abi::Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno.raw().into()).to_string();
    // std adds the number, which says no more than the words.
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// Prints one line to standard error, whatever its state: a closed or full stream is not a second failure.
pub(crate) fn print_line(line: &str) {
    let mut text = String::with_capacity(line.len() + 12);
    text.push_str("casemate: ");
    // One line, also when a message quotes a file name with a line break.
    text.extend(line.chars().map(|c| if c == '\n' || c == '\r' { ' ' } else { c }));
    text.push('\n');
    let _ = std::io::stderr().write_all(text.as_bytes());
}
