//! The programs that tests run inside Casemate: which Debian package has them, and getting them where that is allowed.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
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
    // Owner of our own directory there: the effective user.
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    Machine { root: PathBuf::from("/"), apt_get: "apt-get".into(), user: if root { User::Root } else { User::Other } }
        .ensure(PROGRAMS)
}

/// Who runs the tests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum User {
    Root,
    Other,
}

/// Where programs are looked for and how they are installed; tests make one up.
struct Machine {
    /// Directory that stands for `/`.
    root: PathBuf,
    apt_get: PathBuf,
    user: User,
}

impl Machine {
    fn ensure(&self, programs: &[(&str, &str)]) -> Result<()> {
        let missing = self.missing(programs);
        if missing.is_empty() {
            return Ok(());
        }
        let shown = missing.join(" ");
        if self.user != User::Root {
            bail!("tests need programs that are not here; as root: apt-get install {shown}");
        }
        eprintln!("xtask: installing what tests need: {shown}");
        let mut install = vec!["install", "-qq", "-y", "--no-install-recommends"];
        install.extend(&missing);
        if !self.apt_get(&["update", "-qq"]) || !self.apt_get(&install) {
            bail!("tests need programs that are not here, and apt-get cannot install them: {shown}");
        }
        // A package may be there in a variant that lacks the program.
        let missing = self.missing(programs);
        if !missing.is_empty() {
            bail!("tests need programs that are not here, also after apt-get install {}", missing.join(" "));
        }
        Ok(())
    }

    /// Packages of the programs that are not here, each once.
    fn missing<'a>(&self, programs: &[(&str, &'a str)]) -> Vec<&'a str> {
        let absent = |path: &str| !self.root.join(path.trim_start_matches('/')).exists();
        let mut packages: Vec<&str> =
            programs.iter().filter(|(path, _)| absent(path)).map(|&(_, package)| package).collect();
        packages.dedup();
        packages
    }

    fn apt_get(&self, args: &[&str]) -> bool {
        Command::new(&self.apt_get)
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::{Machine, PROGRAMS, User, ensure};

    const WANTED: &[(&str, &str)] = &[("/bin/one", "first"), ("/usr/bin/two", "second"), ("/usr/bin/too", "second")];

    /// A machine in a directory of its own, with an `apt-get` that notes its arguments and runs `script`.
    struct Made(Machine, PathBuf);

    impl Made {
        fn new(name: &str, user: User, script: &str) -> Self {
            let root = std::env::temp_dir().join(format!("casemate-programs-{name}-{}", std::process::id()));
            for folder in ["bin", "usr/bin"] {
                fs::create_dir_all(root.join(folder)).expect("folder");
            }
            let apt_get = root.join("apt-get");
            let shown = root.display();
            fs::write(&apt_get, format!("#!/bin/sh\ncd {shown}; echo \"$*\" >> log\n{script}\n")).expect("apt-get");
            fs::set_permissions(&apt_get, fs::Permissions::from_mode(0o755)).expect("mode");
            Self(Machine { root: root.clone(), apt_get, user }, root)
        }

        fn have(&self, program: &str) {
            fs::write(self.1.join(program), "").expect("program");
        }

        fn log(&self) -> String {
            fs::read_to_string(self.1.join("log")).unwrap_or_default()
        }

        /// The one line of the refusal.
        fn refusal(&self) -> String {
            let line = self.0.ensure(WANTED).expect_err("something is missing").to_string();
            assert_eq!(line.lines().count(), 1, "{line}");
            line
        }
    }

    impl Drop for Made {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.1);
        }
    }

    #[test]
    fn nothing_is_installed_when_all_is_there() {
        let made = Made::new("all", User::Root, "exit 1");
        for program in ["bin/one", "usr/bin/two", "usr/bin/too"] {
            made.have(program);
        }
        assert!(made.0.ensure(WANTED).is_ok());
        assert_eq!(made.log(), "");
    }

    #[test]
    fn root_installs_what_is_missing() {
        let made = Made::new("install", User::Root, "test $1 = update || touch usr/bin/two usr/bin/too");
        made.have("bin/one");
        made.0.ensure(WANTED).expect("installed");
        assert_eq!(made.log(), "update -qq\ninstall -qq -y --no-install-recommends second\n");
    }

    #[test]
    fn others_are_told_in_one_line() {
        let made = Made::new("user", User::Other, "exit 0");
        made.have("usr/bin/two");
        assert!(made.refusal().ends_with("apt-get install first second"));
        assert_eq!(made.log(), "", "apt-get is not even tried");
    }

    #[test]
    fn a_failing_apt_get_is_one_line() {
        for script in ["exit 100", "test $1 = update", "exit 0"] {
            let made = Made::new("failing", User::Root, script);
            let line = made.refusal();
            assert!(line.contains("first second"), "{script}: {line}");
        }
        let mut made = Made::new("none", User::Root, "");
        made.0.apt_get = Path::new("/does/not/exist").into();
        assert!(made.refusal().contains("first second"));
    }

    #[test]
    fn this_machine_has_them() {
        // Tests run behind `cargo xtask test`, which has called it; anywhere else it may say what is missing.
        let absent = PROGRAMS.iter().any(|(path, _)| !Path::new(path).exists());
        assert!(absent || ensure().is_ok());
    }
}
