//! Carries the launcher's orders to the kernel, on a thread of its own.

use std::sync::Arc;

use crate::control::{Control, Order, Received};
use crate::failure::{Doing, Outcome, STATUS_OURS};
use crate::host;

/// What an order can do to the guest.
pub(super) trait Guest: Send + 'static {
    /// Sends a signal to the command.
    fn signal(&self, number: i32);
    /// Sends a signal to the foreground process group of the guest's terminal.
    fn terminal_signal(&self, number: i32);
}

/// Starts the thread.
pub(super) fn follow(control: Arc<Control>, guest: impl Guest) -> Outcome<()> {
    let name = "orders".to_owned();
    let thread = move || {
        loop {
            match control.next_order() {
                Ok(Received::Message(Order::Signal(number))) => guest.signal(number),
                Ok(Received::Message(Order::TerminalSignal(number))) => guest.terminal_signal(number),
                // Not expected again, and harmless.
                Ok(Received::Message(Order::Go)) => {}
                // The launcher is gone: nobody is left to run for.
                Ok(Received::Closed) | Err(_) => host::exit_now(STATUS_OURS),
            }
        }
    };
    std::thread::Builder::new().name(name).stack_size(STACK).spawn(thread).doing("thread")?;
    Ok(())
}

/// The thread does little.
const STACK: usize = 64 << 10;
