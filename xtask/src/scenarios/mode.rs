//! The modes in which scenarios run inside: as whom, and with which options of `casemate run`.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Who runs a scenario, on both sides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    /// Whoever runs xtask.
    Caller,
    /// An ordinary user; only root can run things as another.
    Nobody,
}

impl User {
    /// Whether a scenario that may be for the caller alone is for this user.
    pub(super) fn may_run(self, only_caller: bool) -> bool {
        self == User::Caller || !only_caller
    }
}

/// What the machine does besides.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    /// Nothing of ours.
    Free,
    /// Every CPU is kept busy by other processes.
    Busy,
}

/// A way of running Casemate.
pub(super) struct Mode {
    /// As `--mode` names it.
    pub(super) name: &'static str,
    /// Who runs it.
    pub(super) user: User,
    /// What stands before `casemate`.
    pub(super) wrapper: &'static [&'static str],
    /// Options of `casemate run`.
    pub(super) arguments: &'static [&'static str],
    /// What else the machine has to do.
    pub(super) machine: Machine,
    /// Whether every call is logged and looked at.
    pub(super) traced: bool,
    /// Whether it is one of those of every run, CI's too.
    routine: bool,
}

const NONE: &[&str] = &[];
const SECCOMP: &[&str] = &["--isolation=seccomp"];
const NO_PATCH: &[&str] = &["--no-patch"];
const NO_SPIN: &[&str] = &["--spin=off"];
const UNSYNCED: &[&str] = &["--handover=unsynced"];
const FUTEX: &[&str] = &["--handover=futex"];

const ONE_CPU: &[&str] = &["/usr/bin/taskset", "-c", "0"];

/// One that not every run has, as the caller, from which others differ.
const PLAIN: Mode = Mode {
    name: "",
    user: User::Caller,
    wrapper: NONE,
    arguments: NONE,
    machine: Machine::Free,
    traced: false,
    routine: false,
};

/// All of them.
const MODES: &[Mode] = &[
    Mode { name: "default", traced: true, routine: true, ..PLAIN },
    Mode { name: "nobody", user: User::Nobody, routine: true, ..PLAIN },
    Mode { name: "seccomp", arguments: SECCOMP, ..PLAIN },
    Mode { name: "nobody-seccomp", user: User::Nobody, arguments: SECCOMP, ..PLAIN },
    Mode { name: "no-patch", arguments: NO_PATCH, ..PLAIN },
    Mode { name: "no-spin", arguments: NO_SPIN, ..PLAIN },
    Mode { name: "unsynced", arguments: UNSYNCED, ..PLAIN },
    Mode { name: "futex", arguments: FUTEX, ..PLAIN },
    Mode { name: "one-cpu", wrapper: ONE_CPU, ..PLAIN },
    Mode { name: "load", machine: Machine::Busy, ..PLAIN },
];

/// The modes of `names`, or those of every run, or (`long`) all; those as another user only where that can be had.
pub(super) fn choose(names: &[String], long: bool) -> Result<Vec<&'static Mode>> {
    if names.is_empty() {
        let root = is_root();
        return Ok(MODES.iter().filter(|m| (long || m.routine) && (root || m.user == User::Caller)).collect());
    }
    let known = || MODES.iter().map(|mode| mode.name).collect::<Vec<_>>().join(", ");
    let named = |name: &String| {
        MODES.iter().find(|mode| mode.name == *name).with_context(|| format!("no mode {name}; there are {}", known()))
    };
    names.iter().map(named).collect()
}

/// Whether we can run something as another user.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
        && Path::new("/usr/bin/setpriv").exists()
}

#[cfg(test)]
mod tests {
    use super::{MODES, choose};

    #[test]
    fn modes_are_chosen_by_name() {
        assert!(choose(&["no such mode".to_owned()], false).is_err());
        assert!(choose(&["seccomp".to_owned()], false).is_ok_and(|modes| modes.len() == 1));
        assert!(choose(&[], true).is_ok_and(|all| all.len() <= MODES.len() && all.len() > 2));
    }
}
