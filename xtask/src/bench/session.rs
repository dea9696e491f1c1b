//! A sandbox that stays, with `bench-calls` in it: it times the programs that it is told, or keeps threads asleep.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::calls::Guest;
use super::processes::{self, DEADLINE, Paused, Watch};
use super::sides::{Side, Sides};

/// One sandbox, or natively one process; it ends when this goes.
pub(super) struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    side: Side,
    paused: Option<Paused>,
}

impl Session {
    /// Starts `bench-calls` with `arguments` on `side`; it runs when this returns.
    pub(super) fn start(sides: &Sides, guest: &Guest, side: Side, arguments: &[&str]) -> Result<Self> {
        let mut words = vec![guest.calls.clone()];
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        let mut command = sides.command(side, &words)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("it has no output")?);
        let mut session = Self { child, input, output, side, paused: None };
        let ready = session.ask(&[]).with_context(|| format!("it did not start: {}", sides.last_error()))?;
        ensure!(ready == "ready", "it said {ready:?} instead of ready");
        Ok(session)
    }

    /// The processes of this sandbox on the host.
    pub(super) fn processes(&self) -> Vec<u32> {
        processes::tree(self.child.id())
    }

    /// How long `command` takes inside, in nanoseconds.
    pub(super) fn time(&mut self, command: &[String]) -> Result<f64> {
        drop(self.paused.take());
        let answer = self.ask(command)?;
        self.pause()?;
        match answer.strip_prefix("failed ") {
            Some(why) => bail!("{why}"),
            None => Ok(answer.parse()?),
        }
    }

    fn ask(&mut self, command: &[String]) -> Result<String> {
        let watch = Watch::over(self.child.id(), DEADLINE);
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{}", command.join("\t"))?;
        input.flush()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        drop(watch);
        ensure!(!answer.is_empty(), "it ended without an answer");
        Ok(answer.trim_end().to_owned())
    }

    /// Stops an idle runsc, which is not idle: its wake-ups would slow the other sides down.
    fn pause(&mut self) -> Result<()> {
        if self.side == Side::Runsc {
            self.paused = Some(Paused::new(self.processes())?);
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.paused.take());
        drop(self.input.take());
        let watch = Watch::over(self.child.id(), std::time::Duration::from_secs(10));
        let _ = self.child.wait();
        drop(watch);
    }
}
