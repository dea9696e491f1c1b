//! Times other programs from within: fork, exec and wait of each.

use std::io::{self, BufRead as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long `command` takes from fork to wait; its output goes nowhere.
pub(crate) fn time(command: &[&str]) -> io::Result<Duration> {
    let (program, arguments) = command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let started = Instant::now();
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    let taken = started.elapsed();
    if status.success() { Ok(taken) } else { Err(io::Error::other(format!("{program}: {status}"))) }
}

/// Times each line of standard input, a command whose words are separated by tabs; answers with nanoseconds, or with
/// `failed` and why. An empty line is answered at once.
pub(crate) fn serve() -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split('\t').collect();
        if line.is_empty() {
            println!("ready");
        } else {
            match time(&words) {
                Ok(taken) => println!("{}", taken.as_nanos()),
                Err(error) => println!("failed {error}"),
            }
        }
        io::stdout().flush()?;
    }
    Ok(())
}
