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
use crate::failure::Failure;

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

/// What describing all options, or making a kernel, may take of a stack: more than some callers' limit gives the first thread.
const ROOM: usize = 1 << 20;

/// Does `work`: where the stack is small on one of its own, which is gone when it is done.
pub(crate) fn with_room<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Stack).current;
    if limit.is_none_or(|limit| limit >= ROOM as u64) {
        return work();
    }
    let done = std::thread::Builder::new().stack_size(ROOM).spawn(work).map(std::thread::JoinHandle::join);
    match done {
        Ok(Ok(done)) => done,
        // A panic has said so, and ends the process in itself (`panic = "abort"`).
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => panic!("no thread: {error}"),
    }
}

/// Parses the arguments and runs the subcommand; returns the exit status.
pub(crate) fn main() -> u8 {
    let cli = match with_room(Cli::try_parse) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output with status 0; a usage error is our failure, as `docker run` has it.
            let status = if error.use_stderr() { crate::failure::STATUS_OURS } else { 0 };
            let _ = error.print();
            return status;
        }
    };
    let outcome = match cli.command {
        Command::Run(args) => args.execute(),
        Command::Pause(args) => args.execute(Request::Pause),
        Command::Resume(args) => args.execute(Request::Resume),
        Command::Doctor(args) => args.execute(),
        Command::Syscalls(args) => args.execute(),
    };
    outcome.unwrap_or_else(|failure: Failure| {
        crate::failure::print_line(&failure.to_string());
        failure.status()
    })
}
