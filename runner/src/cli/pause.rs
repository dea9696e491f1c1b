//! `casemate pause` and `casemate resume`: all tasks of a running sandbox stand still, and go on.

use clap::Args;

use crate::door::{Name, Request, visit};
use crate::failure::{Outcome, print_line};

/// Which sandbox.
#[derive(Args)]
pub(super) struct SandboxArgs {
    /// Its `run --name`, or the process number of its `casemate run`
    #[arg(value_name = "SANDBOX", value_parser = Name::parse)]
    sandbox: Name,
}

impl SandboxArgs {
    /// Returns when the sandbox has done it.
    pub(super) fn execute(&self, request: Request) -> Outcome<u8> {
        let remark = visit(&self.sandbox, request)?;
        if !remark.is_empty() {
            print_line(&remark);
        }
        Ok(0)
    }
}
