//! `cargo xtask run`: builds, then becomes `casemate run`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::build::Build;

/// Build the optimised binary and run a program inside Casemate; the exit status is the program's.
#[derive(Args)]
pub(crate) struct Run {
    /// Use the debug build, with its assertions.
    #[arg(long)]
    debug_build: bool,
    /// Options of `casemate run`, then `--`, then the program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, last = false)]
    arguments: Vec<OsString>,
}

impl Run {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let binary = Build { release: !self.debug_build }.run()?;
        let mut arguments = self.arguments;
        // clap swallows a leading `--`, which `casemate run` wants to see before a program.
        if arguments.first().is_some_and(|first| !first.to_string_lossy().starts_with('-')) {
            arguments.insert(0, "--".into());
        }
        let error = Command::new(&binary).arg("run").args(arguments).exec();
        Err(error).with_context(|| format!("cannot start {}", binary.display()))
    }
}
