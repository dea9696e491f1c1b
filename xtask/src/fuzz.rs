//! `cargo xtask fuzz NAME [-- SECONDS]`: runs a fuzz target (package `casemate-fuzz`) for a while.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::cargo::{cargo, check, root};

/// Run a fuzz target: with libFuzzer where a nightly toolchain and cargo-fuzz are, else with a mutator of our own.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// The target: elf, script, path, calls.
    name: String,
    /// How long, in seconds.
    #[arg(last = true, default_value_t = 60)]
    seconds: u64,
}

impl Fuzz {
    pub(crate) fn run(&self) -> Result<()> {
        let seconds = self.seconds.to_string();
        if has_cargo_fuzz() {
            let mut fuzz = Command::new("cargo");
            fuzz.args(["+nightly", "fuzz", "run", "--fuzz-dir", "fuzz/libfuzzer", &self.name]).current_dir(root());
            // New inputs go to the first folder, which is not checked in.
            let found = crate::cargo::target_dir().join("fuzz-found").join(&self.name);
            std::fs::create_dir_all(&found)?;
            fuzz.arg(&found).arg(Path::new("fuzz/corpus").join(&self.name));
            return check(fuzz.args(["--", &format!("-max_total_time={seconds}")]));
        }
        eprintln!("xtask: no nightly toolchain with cargo-fuzz here: mutating the corpus without coverage instead");
        check(&mut cargo(["run", "--quiet", "--release", "--package", "casemate-fuzz", "--", &self.name, &seconds]))
    }
}

fn has_cargo_fuzz() -> bool {
    Command::new("cargo").args(["+nightly", "fuzz", "--version"]).output().is_ok_and(|output| output.status.success())
}
