//! Gets Debian trixie's runsc into a directory of its own; the system's packages and lists stay as they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{check, output};

/// The Debian release whose package it is.
const SUITE: &str = "trixie";

/// The keys that sign it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where it is when nothing here names a mirror.
const MIRROR: &str = "https://deb.debian.org/debian";

/// The runsc below `folder`, which is filled unless it was before.
pub(super) fn runsc(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    let binary = folder.join("usr/bin/runsc");
    if binary.exists() {
        return Ok(binary);
    }
    let apt = folder.join("apt");
    for part in ["lists/partial", "archives/partial"] {
        std::fs::create_dir_all(apt.join(part))?;
    }
    let source = apt.join("sources.list");
    std::fs::write(&source, format!("deb [signed-by={KEYRING}] {} {SUITE} main\n", mirror()))?;
    let options = [
        format!("Dir::Etc::SourceList={}", source.display()),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
        format!("Dir::State::Lists={}", apt.join("lists").display()),
        format!("Dir::Cache={}", apt.display()),
        // Everything is ours already: nothing to download as another user.
        "APT::Sandbox::User=".to_owned(),
    ];
    let apt_get = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(&folder).arg("-qq").args(options.iter().flat_map(|option| ["-o", option])).args(words);
        command
    };
    check(&mut apt_get(&["update"]))?;
    check(&mut apt_get(&["download", "runsc"]))?;
    let package = std::fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    check(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&folder))?;
    std::fs::remove_file(&package)?;
    std::fs::remove_dir_all(&apt)?;
    ensure!(binary.exists(), "{} has no /usr/bin/runsc", package.display());
    Ok(binary)
}

/// The mirror that this system uses, or Debian's.
fn mirror() -> String {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(SITE)", "Created-By: Packages"]);
    let sites = output(&mut targets).unwrap_or_default();
    let own = sites.lines().find(|site| site.trim_end_matches('/').ends_with("/debian"));
    own.unwrap_or(MIRROR).to_owned()
}
