//! `casemate syscalls`: the table, from its only source.

use std::io::Write;

use clap::{Args, ValueEnum};

use crate::failure::{Doing, Outcome};

/// Print the table of Linux system calls and how far each is supported.
#[derive(Args)]
pub(super) struct SyscallsArgs {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Columns
    Text,
    /// The page docs/compat/syscalls.md
    Markdown,
    /// An array of objects
    Json,
}

impl SyscallsArgs {
    pub(super) fn execute(self) -> Outcome<u8> {
        let text = match self.format {
            Format::Text => syscalls_linux::table_text(),
            Format::Markdown => syscalls_linux::table_markdown(),
            Format::Json => syscalls_linux::table_json(),
        };
        match std::io::stdout().write_all(text.as_bytes()) {
            // `casemate syscalls | head`
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
            result => result.doing("standard output").map(|()| 0),
        }
    }
}
