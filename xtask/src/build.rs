//! `cargo xtask build`: the one static binary.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cargo;

/// The only target: static linking needs it named, so that build scripts and proc macros stay dynamic.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Build the casemate binary: static, one file, no sidecars.
#[derive(Args, Default)]
pub(crate) struct Build {
    /// Optimised, stripped; at target/release/casemate instead of target/debug/casemate.
    #[arg(long)]
    pub(crate) release: bool,
}

/// What `cargo build --config` needs so that programs for [`TARGET`] become static.
pub(crate) fn static_flags() -> String {
    format!("target.{TARGET}.rustflags=[\"-C\",\"target-feature=+crt-static\",\"-C\",\"force-frame-pointers=yes\"]")
}

impl Build {
    /// Builds, leaves the binary at target/{debug,release}/casemate, and says so.
    pub(crate) fn run(&self) -> Result<PathBuf> {
        let built = self.artifact()?;
        let folder = cargo::target_dir().join(self.folder());
        let binary = folder.join("casemate");
        // A new file each time: the old one may be running.
        std::fs::create_dir_all(&folder)?;
        let fresh = folder.join(format!(".casemate.{}", std::process::id()));
        std::fs::copy(&built, &fresh).with_context(|| format!("cannot copy {}", built.display()))?;
        std::fs::rename(&fresh, &binary).with_context(|| format!("cannot write {}", binary.display()))?;
        Ok(binary)
    }

    /// Builds and says where cargo put the binary, which `cargo test` does not overwrite with one that is not static.
    pub(crate) fn artifact(&self) -> Result<PathBuf> {
        let profile = if self.release { "release" } else { "dev" };
        let mut build = cargo::cargo(["build", "--quiet", "--package", "casemate-runner", "--bin", "casemate"]);
        build.args(["--profile", profile, "--target", TARGET, "--config", &static_flags()]);
        cargo::check(&mut build)?;
        Ok(cargo::target_dir().join(TARGET).join(self.folder()).join("casemate"))
    }

    fn folder(&self) -> &'static str {
        if self.release { "release" } else { "debug" }
    }
}
