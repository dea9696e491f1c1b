//! The caller's terminal, as the guest's sessions and process groups see it.
//!
//! The host keeps line discipline and mode; the guest never holds the terminal itself: of its requests only the mode, the
//! size and the input queue reach the host, who is in the foreground is ours alone, and TIOCSTI does not exist.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use fs::Context;
use kernel::ids::Pid;
use kernel::task::{ControllingTty, Session, Thread};
use sync::Mutex;
use usermem::Addr;
use usermem::ptr::UserMemory;

use crate::host::{self, TERMIOS_SIZE, TermiosChange};

const STATE: sync::LockClass = sync::LockClass::leaf("runner.terminal");

/// The terminal; without a descriptor when none of the streams is one.
pub(in crate::boot) struct Terminal {
    fd: OnceLock<Arc<OwnedFd>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<Pid>,
    foreground: Option<Pid>,
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
    pub(in crate::boot) fn new() -> Arc<Self> {
        Arc::new(Self { fd: OnceLock::new(), state: Mutex::new(STATE, State::default()) })
    }

    /// This stream is it, unless another was first.
    pub(super) fn adopt(&self, fd: &Arc<OwnedFd>) {
        let _ = self.fd.set(Arc::clone(fd));
    }

    /// Whether any stream is a terminal.
    pub(in crate::boot) fn exists(&self) -> bool {
        self.fd.get().is_some()
    }

    /// Makes it the controlling terminal of `session`, with its leader's group in the foreground.
    pub(in crate::boot) fn control(self: &Arc<Self>, session: &Session) {
        *self.state.lock() = State { session: Some(session.id()), foreground: Some(session.id()) };
        session.set_tty(Some(Arc::clone(self) as Arc<dyn ControllingTty>));
    }

    /// The foreground process group.
    pub(super) fn foreground_group(&self) -> Option<Pid> {
        self.state.lock().foreground
    }

    /// ioctl_tty(2).
    pub(super) fn ioctl(
        self: &Arc<Self>,
        ctx: &Context<'_>,
        command: u32,
        argument: u64,
        mem: &dyn UserMemory,
    ) -> Result<u64, Errno> {
        let fd = self.fd.get().ok_or(Errno::ENOTTY)?.as_fd();
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
                let group = self.state.lock().foreground.map_or(0, |pid| pid.0);
                put(mem, argument, &group.to_ne_bytes())?;
            }
            abi::tty::TIOCSPGRP => {
                let group = u32::from_ne_bytes(get(mem, argument)?);
                self.session_of(ctx)?;
                if group == 0 {
                    return Err(Errno::EINVAL);
                }
                self.state.lock().foreground = Some(Pid(group));
            }
            abi::tty::TIOCGSID => {
                let session = self.session_of(ctx)?;
                put(mem, argument, &session.0.to_ne_bytes())?;
            }
            // Stealing it from another session is for the host's root alone.
            abi::tty::TIOCSCTTY => {
                self.session_of(ctx).map_err(|_| Errno::EPERM)?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    /// The session that it controls, which must be the caller's: ENOTTY.
    fn session_of(&self, ctx: &Context<'_>) -> Result<Pid, Errno> {
        let session = self.state.lock().session.ok_or(Errno::ENOTTY)?;
        let _caller = ctx.caller_as::<Arc<Thread>>().ok_or(Errno::ENOTTY)?;
        Ok(session)
    }
}

impl ControllingTty for Terminal {
    fn session_ended(&self) {
        *self.state.lock() = State::default();
    }

    /// `/dev/tty` would be 5:0; the first pseudo-terminal is 136:0.
    fn device(&self) -> u64 {
        fs::vfs::makedev(136, 0)
    }

    fn foreground(&self) -> Option<Pid> {
        self.foreground_group()
    }

    fn as_any(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::new(())
    }
}
