//! `cargo xtask tidy`: the rules that the compiler does not know.
//!
//! - [`graph`]: crate edges point one way, as ARCHITECTURE.md draws them;
//! - [`source`]: unsafe only in its rooms, file lengths, a `//!` head on each module;
//! - [`ratchet`]: counts that only go down;
//! - [`compat`]: the system-call document is what the table says, and a row marked full names a guest test that exists.

mod compat;
mod graph;
mod ratchet;
mod source;

use anyhow::{Result, bail};
use clap::Args;

/// Check the rules of CONTRIBUTING.md; with --fix, lower ratchets and rewrite generated documents.
#[derive(Args, Default)]
pub(crate) struct Tidy {
    /// Lower the ratchets and rewrite generated documents instead of complaining about them.
    #[arg(long)]
    fix: bool,
}

impl Tidy {
    pub(crate) fn run(&self) -> Result<()> {
        let files = source::rust_files()?;
        let mut problems = graph::check()?;
        problems.extend(source::check(&files));
        problems.extend(ratchet::check(&files, self.fix)?);
        problems.extend(compat::check(self.fix)?);
        for problem in &problems {
            eprintln!("tidy: {problem}");
        }
        if problems.is_empty() { Ok(()) } else { bail!("tidy found {} problem(s)", problems.len()) }
    }
}
