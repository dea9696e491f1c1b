//! What the guest inherits from whoever called `casemate` when no `--rootfs` is given.

use std::ffi::OsString;
use std::path::PathBuf;

use rustix::process::{Resource, getrlimit};

/// One resource limit: getrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// `RLIMIT_…` number.
    pub(crate) resource: u32,
    /// Soft limit; `u64::MAX` is none.
    pub(crate) soft: u64,
    /// Hard limit.
    pub(crate) hard: u64,
}

/// The caller's process attributes.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Working directory; `None` when it was removed.
    pub(crate) cwd: Option<PathBuf>,
    /// umask(2).
    pub(crate) umask: u32,
    /// Real user id.
    pub(crate) uid: u32,
    /// Real group id.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// All sixteen limits.
    pub(crate) limits: Vec<Limit>,
    /// The environment, in order.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Host name outside.
    pub(crate) hostname: String,
}

/// The limits in the order of their numbers (asm-generic/resource.h).
const RESOURCES: [(u32, Resource); 16] = [
    (0, Resource::Cpu),
    (1, Resource::Fsize),
    (2, Resource::Data),
    (3, Resource::Stack),
    (4, Resource::Core),
    (5, Resource::Rss),
    (6, Resource::Nproc),
    (7, Resource::Nofile),
    (8, Resource::Memlock),
    (9, Resource::As),
    (10, Resource::Locks),
    (11, Resource::Sigpending),
    (12, Resource::Msgqueue),
    (13, Resource::Nice),
    (14, Resource::Rtprio),
    (15, Resource::Rttime),
];

impl Caller {
    /// Reads the calling process.
    pub(super) fn read() -> Self {
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::umask(umask);
        let limits = RESOURCES
            .iter()
            .map(|&(resource, name)| {
                let limit = getrlimit(name);
                Limit { resource, soft: limit.current.unwrap_or(u64::MAX), hard: limit.maximum.unwrap_or(u64::MAX) }
            })
            .collect();
        let groups = rustix::process::getgroups().unwrap_or_default();
        Self {
            cwd: std::env::current_dir().ok(),
            umask: umask.bits(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
            limits,
            env: std::env::vars_os().collect(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }
}
