//! Terminals: pseudo-terminals, pts(4), with their file system, and the rules of controlling terminals.
//!
//! - [`pty`] is a pair: a master, for who plays the terminal, and a slave, which is a terminal to programs. What happens
//!   between them is `ldisc`'s. [`ends`] are their open files, [`ioctl`] what these answer besides reads and writes.
//! - [`devpts`] is `/dev/pts`: a node for each slave, and `ptmx`, which makes a new pair each time it is opened.
//! - [`control`] is job control: which terminal a process has, who is in the foreground of which, and what happens to those
//!   who are not. The runner's view of the caller's own terminal uses it too.
//!
//! **Invariants.** No lock of a terminal is held while signals are sent or queues woken. A pair's lock may be held over a
//! user copy (the fault path never takes it); its [`control::Seat`] is a leaf and taken under the process tree's lock.
//! Buffers are bounded, and so is the number of pairs.

mod control;
mod devpts;
mod ends;
mod ioctl;
mod pty;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::fs::OpenFlags;
use fs::Context;
use fs::vfs::{DeviceKind, DeviceOpener, Devices, File, FileOps, Filesystem, Path, makedev};

pub use control::{ControllingTty, JobRequest, Seat, Through, check_background};
pub use devpts::{DevPts, Foreign};
pub use ioctl::open_peer;
pub use pty::Pty;

use crate::kernel::Kernel;
use crate::task::Thread;

/// Major number of `/dev/tty`, `/dev/console` and `/dev/ptmx`.
const AUX_MAJOR: u32 = 5;
const TTY_MINOR: u32 = 0;
const CONSOLE_MINOR: u32 = 1;
const PTMX_MINOR: u32 = 2;

/// Device number of `/dev/ptmx`.
const PTMX: u64 = makedev(AUX_MAJOR, PTMX_MINOR);

/// Major number of slaves.
const SLAVE_MAJOR: u32 = 136;

/// Most pairs at a time (`/proc/sys/kernel/pty/max`).
pub(crate) const MAX_PTYS: u32 = 4096;

/// What the kernel knows of all terminals, for `/proc/sys`.
#[derive(Default)]
pub(crate) struct Knobs {
    /// Pairs. Relaxed: only told.
    pairs: AtomicU32,
    /// `dev.tty.legacy_tiocsti`: who is no administrator may push input into a terminal. Relaxed: a later call sees it.
    legacy_tiocsti: AtomicBool,
}

impl Knobs {
    pub(super) fn set_pairs(&self, pairs: u32) {
        self.pairs.store(pairs, Ordering::Relaxed);
    }

    /// How many pairs there are.
    pub(crate) fn pairs(&self) -> u32 {
        self.pairs.load(Ordering::Relaxed)
    }

    /// `dev.tty.legacy_tiocsti`.
    pub(crate) fn legacy_tiocsti(&self) -> bool {
        self.legacy_tiocsti.load(Ordering::Relaxed)
    }

    /// Changes `dev.tty.legacy_tiocsti`.
    pub(crate) fn set_legacy_tiocsti(&self, on: bool) {
        self.legacy_tiocsti.store(on, Ordering::Relaxed);
    }
}

/// The terminals of a sandbox: the file system and the device numbers.
pub struct Terminals {
    devpts: Arc<DevPts>,
    console: Arc<OnceLock<Arc<Pty>>>,
}

impl Terminals {
    /// No terminal yet; serves the device numbers in `devices`.
    pub fn new(kernel: &Arc<Kernel>, devices: &Devices) -> Self {
        let devpts = DevPts::new(kernel);
        let console = Arc::new(OnceLock::new());
        let opener = Arc::new(Opener {
            kernel: Arc::downgrade(kernel),
            devpts: Arc::clone(&devpts),
            console: Arc::clone(&console),
        });
        devices.register(DeviceKind::Char, AUX_MAJOR, TTY_MINOR..=PTMX_MINOR, opener);
        Self { devpts, console }
    }

    /// What to mount at `/dev/pts`.
    pub fn filesystem(&self) -> Arc<dyn Filesystem> {
        Arc::clone(&self.devpts) as _
    }

    /// The same with what only it can do.
    pub fn devpts(&self) -> &Arc<DevPts> {
        &self.devpts
    }

    /// Makes a pair whose slave is `/dev/console` too; the first one counts. The master's file stays with the caller.
    pub fn make_console(&self, ctx: &Context<'_>) -> Result<(Arc<dyn FileOps>, Arc<Pty>), Errno> {
        let master = self.devpts.new_pair(ctx)?;
        let pty = Arc::clone(master.pty());
        pty.unlock();
        let _ = self.console.set(Arc::clone(&pty));
        Ok((master, pty))
    }
}

/// Opens `/dev/tty`, `/dev/console` and nodes of ptmx outside a devpts.
struct Opener {
    kernel: Weak<Kernel>,
    devpts: Arc<DevPts>,
    console: Arc<OnceLock<Arc<Pty>>>,
}

impl DeviceOpener for Opener {
    fn open(&self, ctx: &Context<'_>, rdev: u64, flags: OpenFlags, _path: &Path) -> Result<Arc<dyn FileOps>, Errno> {
        match fs::vfs::minor(rdev) {
            TTY_MINOR => {
                // tty(4): whoever has no controlling terminal has no `/dev/tty`.
                let tty = caller(ctx).and_then(|thread| thread.group().tty()).ok_or(Errno::ENXIO)?;
                tty.open(ctx, flags)
            }
            CONSOLE_MINOR => {
                // Never becomes a controlling terminal by being opened.
                let pty = self.console.get().ok_or(Errno::ENXIO)?;
                Arc::clone(pty).open(ctx, flags | OpenFlags::O_NOCTTY)
            }
            PTMX_MINOR if self.kernel.strong_count() > 0 => Ok(self.devpts.new_pair(ctx)?),
            _ => Err(Errno::ENXIO),
        }
    }
}

/// The task that asks, if it is one.
fn caller<'a>(ctx: &Context<'a>) -> Option<&'a Arc<Thread>> {
    ctx.caller_as::<Arc<Thread>>()
}

/// The process group in the foreground of the terminal that `file` is of, if it is of one; a master's has none.
pub(crate) fn foreground_of(file: &File) -> Option<Option<crate::ids::Pid>> {
    match file.ops_as::<ends::Slave>() {
        Some(slave) => Some(slave.foreground()),
        None => is_master(file).then_some(None),
    }
}

/// Whether `file` is a master, whose peer [`open_peer`] opens.
pub fn is_master(file: &File) -> bool {
    file.ops_as::<ends::Master>().is_some()
}
