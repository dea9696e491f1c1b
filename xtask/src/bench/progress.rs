//! One line on a terminal that says what is being measured; nothing where standard error is not a terminal.

use std::io::{IsTerminal as _, Write as _};

/// The line; it is cleared when this goes.
pub(super) struct Progress {
    is_terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal() }
    }

    /// Replaces the line.
    pub(super) fn show(&mut self, text: &str) {
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
