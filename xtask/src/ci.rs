//! `cargo xtask ci`: what must hold before anything lands, in the order that fails soonest.

use anyhow::Result;
use clap::Args;

use crate::bench;
use crate::cargo::{cargo, check};
use crate::fuzz_guest::FuzzGuest;
use crate::test::Test;
use crate::tidy::Tidy;

/// Format, lints, tidy, documentation, tests, random calls, release build, one round of the bench: what CI runs.
#[derive(Args)]
pub(crate) struct Ci {}

impl Ci {
    pub(crate) fn run(&self) -> Result<()> {
        check(&mut cargo(["fmt", "--all", "--check"]))?;
        check(&mut cargo(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
        Tidy::default().run()?;
        check(
            cargo(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )?;
        Test::default().run()?;
        Test::scenarios().run()?;
        FuzzGuest::of(100_000, false).run()?;
        bench::smoke()
    }
}
