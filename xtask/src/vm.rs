//! `cargo xtask vm`: start, exit codes, signals and kills on other Linuxes, in throw-away virtual machines; on one that is
//! too old, the line that says so.
//!
//! The virtual machine is a script's: called with options, a directory that appears inside, and a command line, it passes
//! output and exit status through. Its root there is a busybox; ours brings what it runs.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build::Build;
use crate::cargo::{check, output, target_dir};

/// What runs inside.
const CHECKS: &str = include_str!("vm.sh");

/// Programs of the small root file system.
const PROGRAMS: &[&str] = &["bash", "ls", "cat", "wc", "sleep", "timeout", "true"];

/// Run the release binary's checks on other kernels, by default Linux 5.10 (too old), 6.1 and 6.12, in virtual machines.
#[derive(Args)]
pub(crate) struct Vm {
    /// The script that boots a virtual machine: SCRIPT -k SUITE DIRECTORY COMMAND.
    #[arg(long)]
    script: PathBuf,
    /// The Debian releases whose kernels it boots, in turn.
    #[arg(long, value_delimiter = ',', default_value = "bullseye,bookworm,trixie")]
    kernel: Vec<String>,
}

impl Vm {
    pub(crate) fn run(&self) -> Result<()> {
        let binary = Build { release: true }.run()?;
        let folder = target_dir().join("vm");
        let _ = std::fs::remove_dir_all(&folder);
        let root = folder.join("root");
        for directory in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
            std::fs::create_dir_all(root.join(directory))?;
        }
        std::fs::copy(&binary, folder.join("casemate"))?;
        std::fs::write(folder.join("checks.sh"), CHECKS)?;
        for program in PROGRAMS {
            install(program, &root)?;
        }
        symlink("bash", root.join("bin/sh"))?;
        let result = self.kernel.iter().try_for_each(|kernel| {
            let mut machine = Command::new(&self.script);
            machine.args(["-t", "600", "-k", kernel]).arg(&folder).arg("uname -srm; sh checks.sh");
            check(&mut machine)
        });
        let _ = std::fs::remove_dir_all(&folder);
        result
    }
}

/// Copies one of the host's programs, and the libraries it needs, below `root`.
fn install(program: &str, root: &Path) -> Result<()> {
    let found = ["/usr/bin", "/bin"].iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
    let Some(path) = found else { bail!("{program} is not here") };
    std::fs::copy(&path, root.join("bin").join(program)).with_context(|| format!("cannot copy {program}"))?;
    for word in output(Command::new("ldd").arg(&path))?.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(word.trim_start_matches('/'));
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::copy(word, &to).with_context(|| format!("cannot copy {word}"))?;
    }
    Ok(())
}
