//! `cargo xtask`: every command that builds, runs, tests or checks Casemate. A thin `match` over subcommand structs.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool speaks on its streams")]

mod bench;
mod build;
mod cargo;
mod ci;
mod footprint;
mod fuzz;
mod fuzz_guest;
mod load;
mod programs;
mod progress;
mod run;
mod scenarios;
mod stress;
mod suites;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs, tests and checks Casemate.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Build(build::Build),
    Run(run::Run),
    Test(test::Test),
    Tidy(tidy::Tidy),
    Bench(bench::Bench),
    Ci(ci::Ci),
    Fuzz(fuzz::Fuzz),
    FuzzGuest(fuzz_guest::FuzzGuest),
    Ltp(suites::ltp::Ltp),
    Cpython(suites::cpython::Cpython),
    Stress(stress::Stress),
    Vm(vm::Vm),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build(command) => command.run().map(|_| ExitCode::SUCCESS),
        Command::Run(command) => command.run(),
        Command::Test(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Tidy(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Bench(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Ci(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Fuzz(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::FuzzGuest(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Ltp(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Cpython(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Stress(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Vm(command) => command.run().map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(125)
    })
}
