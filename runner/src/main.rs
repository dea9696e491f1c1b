//! `casemate`: the only place where platform, file systems and the system-call table meet.
//!
//! `cli` turns arguments into a [`config::RunConfig`]; `launcher` makes the sandbox process and mirrors it; `sandbox` is
//! that process up to the point where `boot` builds our kernel in it. `host` holds all `unsafe` of this crate.
//!
//! **Invariant**: no host path is opened and no environment variable read after `sandbox` has emptied its root.

mod boot;
mod cli;
mod config;
mod control;
mod door;
mod failure;
mod host;
mod hostinfo;
mod launcher;
mod logging;
mod room;
mod sandbox;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cli::main())
}
