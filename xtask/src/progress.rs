//! One line on a terminal that says how far a long command is; nothing where standard error is not a terminal.

use std::io::{IsTerminal as _, Write as _};

/// The line; it is cleared when this goes.
pub(crate) struct Progress {
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal() }
    }

    /// Replaces the line.
    pub(crate) fn show(&mut self, text: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[K{text}");
            let _ = std::io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}
