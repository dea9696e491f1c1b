//! The programs that tests run inside Casemate: which Debian package has them, and getting them where that is allowed.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// A program by path and the Debian package that has it.
pub(crate) const PROGRAMS: &[(&str, &str)] = &[
    ("/bin/bash", "bash"),
    ("/bin/ls", "coreutils"),
    ("/usr/bin/python3", "python3-minimal"),
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/perl", "perl-base"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/usr/bin/script", "bsdutils"),
];

/// Installs what is missing with apt-get when we are root and have it; otherwise one line says what is missing.
pub(crate) fn ensure() -> Result<()> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(path, _)| !Path::new(path).exists()).map(|&(_, package)| package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let shown = missing.join(" ");
    eprintln!("xtask: installing what tests need: {shown}");
    let apt = |args: &[&str]| {
        Command::new("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let mut install = vec!["install", "-qq", "-y", "--no-install-recommends"];
    install.extend(&missing);
    if apt(&["update", "-qq"]) && apt(&install) {
        return Ok(());
    }
    bail!("tests need programs that are not here and cannot be installed without root: apt-get install {shown}");
}
