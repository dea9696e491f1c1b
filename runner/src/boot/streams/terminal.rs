//! The caller's terminal, as the guest's sessions and process groups see it.
//!
//! The host keeps line discipline and mode; the guest never holds the terminal itself: of its requests only the mode, the
//! size and the input queue reach the host, who is in the foreground is ours alone, and TIOCSTI does not exist.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::fs::OpenFlags;
use fs::Context;
use fs::vfs::{DeviceKind, DeviceOpener, Devices, FileOps, Path};
use kernel::Kernel;
use kernel::ids::Pid;
use kernel::signal::info::SigInfo;
use kernel::signal::types::Signal;
use kernel::task::{ControllingTty, Session, Thread};
use sync::Mutex;
use usermem::Addr;
use usermem::ptr::UserMemory;

use crate::host::{self, TERMIOS_SIZE, TermiosChange};

const STATE: sync::LockClass = sync::LockClass::leaf("runner.terminal");

/// The terminal; without a descriptor when none of the streams is one.
pub(in crate::boot) struct Terminal {
    kernel: Weak<Kernel>,
    host: OnceLock<HostSide>,
    /// The foreground group, once someone has set it; until then it is the session leader's.
    foreground: Mutex<Option<Pid>>,
}

/// The stream that is the terminal.
struct HostSide {
    fd: Arc<OwnedFd>,
    /// Device number on the host, which the guest sees too.
    device: u64,
    /// Opens of `/dev/tty` and of the terminal's own node share the stream.
    ops: Weak<dyn FileOps>,
}

/// Opens `/dev/tty` and the terminal's own node.
struct Opener {
    terminal: Arc<Terminal>,
    ops: Arc<dyn FileOps>,
}

impl DeviceOpener for Opener {
    fn open(&self, ctx: &Context<'_>, rdev: u64, _flags: OpenFlags, _path: &Path) -> Result<Arc<dyn FileOps>, Errno> {
        // tty(4): whoever has no controlling terminal has no `/dev/tty`.
        if rdev == DEV_TTY {
            self.terminal.session_of(ctx).map_err(|_| Errno::ENXIO)?;
        }
        Ok(Arc::clone(&self.ops))
    }
}

/// Device number of `/dev/tty`.
const DEV_TTY: u64 = fs::vfs::makedev(5, 0);

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
        Arc::new(Self { kernel: Arc::downgrade(kernel), host: OnceLock::new(), foreground: Mutex::new(STATE, None) })
    }

    /// This stream is it, unless another was first.
    pub(super) fn adopt(&self, fd: &Arc<OwnedFd>, device: u64, ops: Weak<dyn FileOps>) {
        let _ = self.host.set(HostSide { fd: Arc::clone(fd), device, ops });
    }

    /// Serves `/dev/tty` and the terminal's own device number.
    pub(super) fn register(self: &Arc<Self>, devices: &Devices) {
        let Some((host, ops)) = self.host.get().and_then(|host| Some((host, host.ops.upgrade()?))) else { return };
        let opener = Arc::new(Opener { terminal: Arc::clone(self), ops });
        for device in [DEV_TTY, host.device] {
            let minor = fs::vfs::minor(device);
            devices.register(DeviceKind::Char, fs::vfs::major(device), minor..=minor, Arc::clone(&opener) as _);
        }
    }

    /// Itself as the command's controlling terminal, if any stream is a terminal.
    pub(in crate::boot) fn controlling(self: &Arc<Self>) -> Option<Arc<dyn ControllingTty>> {
        self.host.get()?;
        Some(Arc::clone(self) as Arc<dyn ControllingTty>)
    }

    /// A background process wants to read: its group is stopped by SIGTTIN, or the read fails (EIO) if that signal cannot
    /// stop it. `EAGAIN` makes the reader wait, and the signal ends the wait. (termios(3), "job control")
    pub(super) fn may_read(&self, ctx: &Context<'_>) -> Result<(), Errno> {
        let Ok((kernel, _)) = self.session_of(ctx) else { return Ok(()) };
        let thread = caller(ctx)?;
        let Some(group) = kernel.tasks().pgrp_of(thread.pid()) else { return Ok(()) };
        if Some(group) == self.foreground_group() {
            return Ok(());
        }
        let (blocked, _) = thread.signal_sets();
        let ignored = thread.group().signal_sets().ignored;
        if blocked.union(ignored).contains(Signal::TTIN) || kernel.tasks().is_orphaned_pgrp(group) {
            return Err(Errno::EIO);
        }
        kernel.signal_pgrp(group, &SigInfo::kernel(Signal::TTIN));
        Err(Errno::EAGAIN)
    }

    /// The foreground process group: the command's own until the guest says otherwise.
    pub(super) fn foreground_group(&self) -> Option<Pid> {
        self.host.get()?;
        (*self.foreground.lock()).or_else(|| self.kernel.upgrade()?.main_pid())
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
            abi::tty::TIOCGPGRP => {
                self.session_of(ctx)?;
                let group = self.foreground_group().map_or(0, |pid| pid.0);
                put(mem, argument, &group.to_ne_bytes())?;
            }
            abi::tty::TIOCSPGRP => {
                let group = Pid(u32::from_ne_bytes(get(mem, argument)?));
                let (kernel, session) = self.session_of(ctx)?;
                if i32::try_from(group.0).is_err() || group.0 == 0 {
                    return Err(Errno::EINVAL);
                }
                let theirs = kernel.tasks().session_of_pgrp(group).ok_or(Errno::ESRCH)?;
                if theirs.id() != session.id() {
                    return Err(Errno::EPERM);
                }
                *self.foreground.lock() = Some(group);
            }
            abi::tty::TIOCGSID => {
                let (_, session) = self.session_of(ctx)?;
                put(mem, argument, &session.id().0.to_ne_bytes())?;
            }
            // It is the command's session's; stealing it is for the host's root alone.
            abi::tty::TIOCSCTTY => {
                self.session_of(ctx).map_err(|_| Errno::EPERM)?;
            }
            abi::tty::TIOCNOTTY => {
                let (_, session) = self.session_of(ctx)?;
                if session.id() == caller(ctx)?.pid() {
                    session.set_tty(None);
                }
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    /// The caller's session, which it must control: ENOTTY.
    fn session_of(&self, ctx: &Context<'_>) -> Result<(Arc<Kernel>, Arc<Session>), Errno> {
        let kernel = self.kernel.upgrade().ok_or(Errno::ENOTTY)?;
        let session = kernel.tasks().session_of(caller(ctx)?.pid()).ok_or(Errno::ENOTTY)?;
        // There is one terminal, so any controlling terminal is this one.
        if session.tty().is_some() { Ok((kernel, session)) } else { Err(Errno::ENOTTY) }
    }
}

fn caller<'a>(ctx: &Context<'a>) -> Result<&'a Arc<Thread>, Errno> {
    ctx.caller_as::<Arc<Thread>>().ok_or(Errno::ENOTTY)
}

impl ControllingTty for Terminal {
    fn session_ended(&self) {
        let foreground = self.foreground_group();
        *self.foreground.lock() = None;
        if let (Some(kernel), Some(group)) = (self.kernel.upgrade(), foreground) {
            for signal in [Signal::HUP, Signal::CONT] {
                kernel.signal_pgrp(group, &SigInfo::kernel(signal));
            }
        }
    }

    fn device(&self) -> u64 {
        self.host.get().map_or(0, |host| host.device)
    }

    fn foreground(&self) -> Option<Pid> {
        self.foreground_group()
    }

    fn as_any(&self) -> Arc<dyn Any + Send + Sync> {
        // Nobody needs more of it than the trait.
        Arc::new(())
    }
}
