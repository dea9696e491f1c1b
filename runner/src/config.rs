//! What to run and how: the outcome of the command line, plain data that the launcher and the sandbox process share
//! (the sandbox process is a fork of the launcher, so it simply has it in memory).

use std::ffi::OsString;
use std::path::PathBuf;

use platform_systrap::Handover;

use crate::door::Name;

/// Smallest `--memory` that boots anything useful.
pub(crate) const MIN_MEMORY: u64 = 32 << 20;

/// Whether programs run with patched call sites.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patching {
    /// Yes.
    On,
    /// Each call traps.
    Off,
}

/// What keeps the sandbox process apart from the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Isolation {
    /// Namespaces, an empty root and a seccomp filter.
    Namespaces,
    /// The seccomp filter alone: for hosts that forbid user namespaces.
    SeccompOnly,
}

/// What terminal the guest has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GuestTerminal {
    /// The caller's, if a standard stream is one.
    Callers,
    /// One of its own (`-t`), which shows on the caller's standard output.
    Own,
    /// And what comes from the caller's standard input is typed at it (`-it`).
    OwnTyped,
}

/// Whether the guest may change a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VolumeAccess {
    /// Reads only.
    ReadOnly,
    /// Writes reach the host.
    ReadWrite,
}

/// One `--volume HOST:GUEST[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Absolute path on the host.
    pub(crate) host: PathBuf,
    /// Absolute path in the guest.
    pub(crate) guest: PathBuf,
    /// Whether writes reach the host.
    pub(crate) access: VolumeAccess,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogSink {
    /// Nowhere.
    Off,
    /// Standard error of `casemate`.
    Stderr,
    /// A file, appended to.
    File(PathBuf),
}

/// Everything `casemate run` was asked to do.
#[derive(Clone, Debug)]
pub(crate) struct RunConfig {
    /// What `casemate pause` and its like call the sandbox; `None`: the number of the launcher's process.
    pub(crate) name: Option<Name>,
    /// Program and arguments; never empty.
    pub(crate) command: Vec<OsString>,
    /// Root directory on the host; `None` shows the host's own tree.
    pub(crate) rootfs: Option<PathBuf>,
    /// Working directory in the guest.
    pub(crate) cwd: Option<PathBuf>,
    /// `NAME=VALUE` or `NAME` (taken from the caller), in order.
    pub(crate) env: Vec<OsString>,
    /// Start from an empty environment.
    pub(crate) clear_env: bool,
    /// `USER[:GROUP]`, names or numbers.
    pub(crate) user: Option<String>,
    /// Host directories and files shown to the guest.
    pub(crate) volumes: Vec<Volume>,
    /// Guest paths that look empty.
    pub(crate) hidden: Vec<PathBuf>,
    /// Host name of the guest.
    pub(crate) hostname: Option<String>,
    /// Bytes of memory for guest memory, overlays and tmpfs together.
    pub(crate) memory: u64,
    /// Largest number of tasks.
    pub(crate) pids: u32,
    /// Where system calls are logged.
    pub(crate) strace: LogSink,
    /// Where our own log lines go.
    pub(crate) debug: LogSink,
    /// CPUs that the platform may keep busy at once; with 1 it never waits actively.
    pub(crate) cpus: u32,
    /// How guest threads hand over to the kernel.
    pub(crate) handover: Handover,
    /// Whether hot system calls of programs' files become jumps.
    pub(crate) patching: Patching,
    /// What keeps the sandbox process apart from the host.
    pub(crate) isolation: Isolation,
    /// The guest's terminal.
    pub(crate) terminal: GuestTerminal,
}
