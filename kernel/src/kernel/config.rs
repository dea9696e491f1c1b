//! What a kernel is made from, and what the runner lends it.

use std::sync::Arc;

use arch::x86_64::xsave::XsaveLayout;
use auth::Creds;
use fs::vfs::{Devices, File, MountNs, Path};
use usermem::memfile::MemoryFile;
use usermem::platform::Platform;

use crate::heap::Heap;
use crate::rlimit::Rlimits;
use crate::signal::types::{SigSet, Signal};
use crate::syscall::Dispatch;
use crate::tty::ControllingTty;

/// Random bytes.
pub trait Entropy: Send + Sync {
    /// Fills `buf`.
    fn fill(&self, buf: &mut [u8]);
}

/// Hears of what happens to the sandbox's command.
pub trait Observer: Send + Sync {
    /// It was stopped by this signal.
    fn stopped(&self, signal: Signal);
    /// It was continued.
    fn continued(&self);
    /// A task does not come back from the kernel: one line about it.
    fn stuck(&self, line: &str) {
        let _ = line;
    }
}

/// uname(2).
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are uname(2)'s")]
pub struct Uts {
    pub sysname: String,
    pub nodename: String,
    pub release: String,
    pub version: String,
    pub machine: String,
    pub domainname: String,
}

impl Uts {
    /// What we report, with this host name.
    pub fn new(nodename: &str) -> Self {
        Self {
            sysname: "Linux".to_owned(),
            nodename: nodename.to_owned(),
            release: "6.12.0".to_owned(),
            version: "#1 SMP PREEMPT_DYNAMIC Casemate".to_owned(),
            machine: "x86_64".to_owned(),
            domainname: "(none)".to_owned(),
        }
    }
}

/// What the machine looks like to guests.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// CPUs.
    pub cpus: usize,
    /// `/proc/cpuinfo`.
    pub cpuinfo: Vec<u8>,
}

/// CPU properties that programs are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    pub(crate) xsave: XsaveLayout,
    pub(crate) hwcap: u64,
    pub(crate) hwcap2: u64,
    pub(crate) min_sigstack: u64,
}

/// What a kernel is made of.
pub struct KernelConfig {
    /// Runs guest code.
    pub platform: Arc<dyn Platform>,
    /// Holds guest memory.
    pub memory: Arc<MemoryFile>,
    /// The mounts that processes see.
    pub mounts: Arc<MountNs>,
    /// What device numbers mean.
    pub devices: Arc<Devices>,
    /// The system-call table.
    pub dispatch: Arc<dyn Dispatch>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// The heap of the kernel's own objects; `None` where others use it too.
    pub heap: Option<Arc<dyn Heap>>,
    /// Hears of stops of the command.
    pub observer: Option<Arc<dyn Observer>>,
    /// Host name and the rest of uname(2).
    pub uts: Uts,
    /// CPUs.
    pub machine: Machine,
    /// Most guest threads at a time.
    pub pids: usize,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// Whether the command has a parent outside the sandbox, as far as job control goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Supervised {
    /// Its process group is orphaned: keys do not stop it.
    #[default]
    No,
    /// A shell, which continues what keys stop.
    Yes,
}

/// The sandbox's command.
pub struct Command {
    /// Path of the program in the sandbox, already searched in PATH.
    pub program: Vec<u8>,
    /// Arguments, with the name.
    pub argv: Vec<Vec<u8>>,
    /// Environment.
    pub envp: Vec<Vec<u8>>,
    /// Root directory.
    pub root: Path,
    /// Working directory.
    pub cwd: Path,
    /// Mode bits that new files do not get.
    pub umask: u32,
    /// Ids and capabilities.
    pub creds: Creds,
    /// Resource limits.
    pub limits: Rlimits,
    /// Open files by number; numbers that are missing are closed.
    pub files: Vec<(i32, Arc<File>)>,
    /// Signals that it starts with ignored.
    pub ignored: SigSet,
    /// The controlling terminal of its session.
    pub tty: Option<Arc<dyn ControllingTty>>,
    /// Whether somebody outside continues the command when it stops.
    pub supervised: Supervised,
}
