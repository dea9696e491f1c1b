//! The command line: one file per subcommand, each with its clap `Args` and an `execute` that returns the process's
//! exit status.
//!
//! **Invariant**: nothing here knows the sandbox; `run` turns its arguments into a [`crate::config::RunConfig`] and
//! hands it to the launcher.

mod doctor;
mod pause;
mod run;
mod syscalls;

use clap::{Parser, Subcommand};

use crate::door::Request;
use crate::failure::{Failure, Outcome};
use crate::room::with_room;

/// Runs unmodified Linux programs on a Linux kernel that is itself an ordinary program.
#[derive(Parser)]
#[command(name = "casemate", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "`casemate run -- CMD` is the everyday door; `casemate run --help` lists its options.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program inside a new sandbox
    Run(Box<run::RunArgs>),
    /// Stop all tasks of a running sandbox; returns when they stand still. Pauses nest
    Pause(pause::SandboxArgs),
    /// Take one pause back: tasks go on after the last
    Resume(pause::SandboxArgs),
    /// Say what this host offers, which platform fits, and what to do about the rest
    Doctor(doctor::DoctorArgs),
    /// Print the table of Linux system calls and how far each is supported
    Syscalls(syscalls::SyscallsArgs),
}

/// Parses the arguments and runs the subcommand; returns the exit status.
pub(crate) fn main() -> u8 {
    let outcome = match with_room(Cli::try_parse) {
        Ok(Ok(cli)) => execute(cli.command),
        Ok(Err(error)) => {
            // Help and version go to standard output with status 0; a usage error is our failure, as `docker run` has it.
            let status = if error.use_stderr() { crate::failure::STATUS_OURS } else { 0 };
            let _ = error.print();
            return status;
        }
        Err(failure) => Err(failure),
    };
    outcome.unwrap_or_else(|failure: Failure| {
        crate::failure::print_line(&failure.to_string());
        failure.status()
    })
}

fn execute(command: Command) -> Outcome<u8> {
    match command {
        Command::Run(args) => args.execute(),
        Command::Pause(args) => args.execute(Request::Pause),
        Command::Resume(args) => args.execute(Request::Resume),
        Command::Doctor(args) => args.execute(),
        Command::Syscalls(args) => args.execute(),
    }
}
