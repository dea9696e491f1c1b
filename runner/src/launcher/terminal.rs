//! The caller's terminal: its mode is put back on every exit of the launcher, and around every stop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

/// A terminal among the standard streams, with the mode it had at the start. Dropping it restores that mode.
pub(super) struct Terminal {
    fd: OwnedFd,
    original: Termios,
}

impl Terminal {
    /// The first standard stream that is a terminal.
    pub(super) fn find() -> Option<Self> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let candidates: [BorrowedFd<'_>; 3] = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let fd = candidates.into_iter().find(|fd| isatty(fd))?;
        let original = tcgetattr(fd).ok()?;
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 3).ok()?;
        Some(Self { fd, original })
    }

    /// The mode that the guest has set.
    pub(super) fn current(&self) -> Option<Termios> {
        tcgetattr(&self.fd).ok()
    }

    /// Sets a mode. SIGTTOU is blocked in the launcher, so this works from the background too.
    pub(super) fn set(&self, mode: &Termios) {
        let _ = tcsetattr(&self.fd, OptionalActions::Drain, mode);
    }

    /// Passes keys on as they are, to the guest's own terminal. Not from the background, where the terminal is another's.
    pub(super) fn set_raw(&self) {
        if rustix::termios::tcgetpgrp(&self.fd).is_ok_and(|group| group == rustix::process::getpgrp()) {
            let mut raw = self.original.clone();
            raw.make_raw();
            self.set(&raw);
        }
    }

    /// Puts the caller's mode back.
    pub(super) fn restore(&self) {
        let Some(current) = self.current() else { return };
        let same = current.input_modes == self.original.input_modes
            && current.output_modes == self.original.output_modes
            && current.control_modes == self.original.control_modes
            && current.local_modes == self.original.local_modes
            && format!("{:?}", current.special_codes) == format!("{:?}", self.original.special_codes);
        if !same {
            self.set(&self.original);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.restore();
    }
}
