//! The programs that scenarios run: where they are, which Debian package has them, and getting them where that is allowed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// Where scenarios look for programs, natively and inside.
pub(super) const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// What scenarios name as their needs, and the Debian packages that have it; the Rust toolchain comes with us. An
/// absolute path stands for a package of which the program alone tells too little.
const PROGRAMS: &[(&str, &str)] = &[
    ("/usr/lib/python3.11/sqlite3/__init__.py", "python3"),
    ("/usr/share/perl5", "perl"),
    ("ar", "binutils"),
    ("autoconf", "autoconf"),
    ("automake", "automake"),
    ("awk", "mawk"),
    ("bash", "bash"),
    ("bc", "bc"),
    ("busybox", "busybox-static"),
    ("bzip2", "bzip2"),
    ("cargo", "cargo"),
    ("cmake", "cmake"),
    ("dash", "dash"),
    ("diff", "diffutils"),
    ("dpkg-query", "dpkg"),
    ("fakeroot", "fakeroot"),
    ("file", "file"),
    ("find", "findutils"),
    ("g++", "g++"),
    ("gcc", "gcc"),
    ("git", "git"),
    ("go", "golang-go"),
    ("grep", "grep"),
    ("gzip", "gzip"),
    ("java", "openjdk-17-jre-headless"),
    ("javac", "openjdk-17-jdk-headless"),
    ("jq", "jq"),
    ("less", "less"),
    ("ls", "coreutils"),
    ("m4", "m4"),
    ("make", "make"),
    ("musl-gcc", "musl-tools"),
    ("ninja", "ninja-build"),
    ("node", "nodejs"),
    ("openssl", "openssl"),
    ("perl", "perl"),
    ("ps", "procps"),
    ("python3", "python3"),
    ("rustc", "rustc"),
    ("sed", "sed"),
    ("setpriv", "util-linux"),
    ("script", "bsdutils"),
    ("sqlite3", "sqlite3"),
    ("stty", "coreutils"),
    ("tar", "tar"),
    ("tclsh", "tcl"),
    ("tmux", "tmux"),
    ("tty", "coreutils"),
    ("unzip", "unzip"),
    ("vim", "vim"),
    ("xargs", "findutils"),
    ("xz", "xz-utils"),
    ("zip", "zip"),
    ("zstd", "zstd"),
];

/// Installs what is missing of `needs` with apt-get when that works; otherwise one line says what is missing.
pub(super) fn ensure(needs: &BTreeSet<&str>) -> Result<()> {
    install(&needs.iter().filter(|program| !is_there(program)).filter_map(|program| package_of(program)).collect())
}

/// Whether a program is on the search path or among the caller's Rust tools.
pub(super) fn is_there(program: &str) -> bool {
    let cargo = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    SEARCH_PATH.split(':').map(PathBuf::from).chain(cargo).any(|folder| folder.join(program).exists())
}

/// The Debian package that has a program which scenarios may name.
pub(super) fn package_of(program: &str) -> Option<&'static str> {
    PROGRAMS.iter().find(|(name, _)| *name == program).map(|&(_, package)| package)
}

fn install(missing: &BTreeSet<&str>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let shown = missing.iter().copied().collect::<Vec<_>>().join(" ");
    eprintln!("xtask: installing what scenarios need: {shown}");
    let apt = |args: &[&str]| {
        Command::new("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let mut arguments = vec!["install", "-qq", "-y", "--no-install-recommends"];
    arguments.extend(missing);
    if apt(&["update", "-qq"]) && apt(&arguments) {
        return Ok(());
    }
    bail!("scenarios need programs that are not here and cannot be installed without root: apt-get install {shown}");
}
