//! The caller's terminal, as the guest's sessions and process groups see it.
//!
//! The host keeps line discipline and mode; the guest never holds the terminal itself: of its requests only the mode, the
//! size and the input queue reach the host, who is in the foreground is ours alone, and TIOCSTI does not exist.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::fs::OpenFlags;
use fs::Context;
use fs::vfs::{DeviceKind, DeviceOpener, Devices, FileOps, Path};
use kernel::Kernel;
use kernel::ids::Pid;
use kernel::signal::types::Signal;
use kernel::task::Thread;
use kernel::tty::{ControllingTty, Foreign, JobRequest, Seat, Through};
use usermem::Addr;
use usermem::ptr::UserMemory;

use crate::host::{self, TERMIOS_SIZE, TermiosChange};

/// The terminal; without a descriptor when none of the streams is one.
pub(in crate::boot) struct Terminal {
    kernel: Weak<Kernel>,
    host: OnceLock<HostSide>,
    seat: Seat,
}

/// The stream that is the terminal.
struct HostSide {
    fd: Arc<OwnedFd>,
    /// Device number on the host, which the guest sees too.
    device: u64,
    /// Opens of `/dev/tty` and of the terminal's own node share the stream.
    ops: Weak<dyn FileOps>,
}

/// Opens the terminal's own node, and keeps the stream for `/dev/tty`.
pub(super) struct Opener {
    ops: Arc<dyn FileOps>,
}

impl DeviceOpener for Opener {
    fn open(&self, _ctx: &Context<'_>, _rdev: u64, _flags: OpenFlags, _path: &Path) -> Result<Arc<dyn FileOps>, Errno> {
        Ok(Arc::clone(&self.ops))
    }
}

impl Foreign for Opener {
    fn open(&self, _ctx: &Context<'_>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        Ok(Arc::clone(&self.ops))
    }
}

/// Copies `bytes` to the guest address `at`.
pub(super) fn put(mem: &dyn UserMemory, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    mem.write(Addr(at), bytes)
}

fn get<const N: usize>(mem: &dyn UserMemory, at: u64) -> Result<[u8; N], Errno> {
    let mut bytes = [0; N];
    mem.read(Addr(at), &mut bytes)?;
    Ok(bytes)
}

impl Terminal {
    /// No terminal yet.
    pub(in crate::boot) fn new(kernel: &Arc<Kernel>) -> Arc<Self> {
        Arc::new(Self { kernel: Arc::downgrade(kernel), host: OnceLock::new(), seat: Seat::new() })
    }

    /// This stream is it, unless another was first.
    pub(super) fn adopt(&self, fd: &Arc<OwnedFd>, device: u64, ops: Weak<dyn FileOps>) {
        let _ = self.host.set(HostSide { fd: Arc::clone(fd), device, ops });
    }

    /// Serves the terminal's own device number.
    pub(super) fn register(&self, devices: &Devices) {
        let Some(host) = self.host.get() else { return };
        let Some(opener) = self.opener() else { return };
        let minor = fs::vfs::minor(host.device);
        devices.register(DeviceKind::Char, fs::vfs::major(host.device), minor..=minor, opener);
    }

    /// What opens the terminal by name.
    pub(super) fn opener(&self) -> Option<Arc<Opener>> {
        let ops = self.host.get()?.ops.upgrade()?;
        Some(Arc::new(Opener { ops }))
    }

    /// Itself as the command's controlling terminal, if any stream is a terminal.
    pub(in crate::boot) fn controlling(self: &Arc<Self>) -> Option<Arc<dyn ControllingTty>> {
        self.host.get()?;
        Some(Arc::clone(self) as Arc<dyn ControllingTty>)
    }

    /// A background process may not read.
    pub(super) fn may_read(self: &Arc<Self>, ctx: &Context<'_>) -> Result<(), Errno> {
        let (Some(kernel), Ok(thread)) = (self.kernel.upgrade(), caller(ctx)) else { return Ok(()) };
        let tty = Arc::clone(self) as Arc<dyn ControllingTty>;
        kernel::tty::check_background(&kernel, thread, &tty, Signal::TTIN)
    }

    /// The foreground process group.
    pub(super) fn foreground_group(&self) -> Option<Pid> {
        self.seat.foreground()
    }

    /// ioctl_tty(2).
    pub(super) fn ioctl(
        self: &Arc<Self>,
        ctx: &Context<'_>,
        command: u32,
        argument: u64,
        mem: &dyn UserMemory,
    ) -> Result<u64, Errno> {
        let fd = self.host.get().ok_or(Errno::ENOTTY)?.fd.as_fd();
        if let (Some(kernel), Ok(thread)) = (self.kernel.upgrade(), caller(ctx)) {
            let tty = Arc::clone(self) as Arc<dyn ControllingTty>;
            let (creds, through, readable) = (ctx.creds, Through::Terminal, true);
            let request = JobRequest { kernel: &kernel, thread, creds, tty: &tty, through, readable, mem };
            if let Some(answer) = request.answer(command, argument) {
                return answer;
            }
        }
        let io = |error: std::io::Error| usermem::host::errno_of(&error);
        match command {
            abi::tty::TCGETS => put(mem, argument, &host::terminal_mode(fd).map_err(io)?)?,
            abi::tty::TCSETS | abi::tty::TCSETSW | abi::tty::TCSETSF => {
                let mode = get::<TERMIOS_SIZE>(mem, argument)?;
                let when = match command {
                    abi::tty::TCSETS => TermiosChange::Now,
                    abi::tty::TCSETSW => TermiosChange::Drain,
                    _ => TermiosChange::Flush,
                };
                host::set_terminal_mode(fd, when, &mode).map_err(io)?;
            }
            abi::tty::TIOCGWINSZ => {
                let size = rustix::termios::tcgetwinsize(fd).map_err(|error| io(error.into()))?;
                let mut bytes = Vec::with_capacity(8);
                for field in [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel] {
                    bytes.extend_from_slice(&field.to_ne_bytes());
                }
                put(mem, argument, &bytes)?;
            }
            // The size belongs to the caller's window.
            abi::tty::TIOCSWINSZ => {}
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}

fn caller<'a>(ctx: &Context<'a>) -> Result<&'a Arc<Thread>, Errno> {
    ctx.caller_as::<Arc<Thread>>().ok_or(Errno::ENOTTY)
}

impl ControllingTty for Terminal {
    fn device(&self) -> u64 {
        self.host.get().map_or(0, |host| host.device)
    }

    fn seat(&self) -> &Seat {
        &self.seat
    }

    fn open(self: Arc<Self>, _ctx: &Context<'_>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        self.host.get().and_then(|host| host.ops.upgrade()).ok_or(Errno::EIO)
    }
}
