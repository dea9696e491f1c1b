//! Carries the launcher's orders to the kernel, on threads of its own.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::control::{Control, Order, Received, Report};
use crate::failure::{Doing, Outcome, STATUS_OURS};
use crate::host;

/// What an order can do to the guest.
pub(super) trait Guest: Send + 'static {
    /// Sends a signal to the command.
    fn signal(&self, number: i32);
    /// Sends a signal to the foreground process group of the guest's terminal.
    fn terminal_signal(&self, number: i32);
    /// Stops all tasks; returns when they stand still.
    fn pause(&self);
    /// Takes one pause back.
    fn resume(&self);
}

/// Starts the thread.
pub(super) fn follow(control: Arc<Control>, guest: impl Guest + Clone) -> Outcome<()> {
    let name = "orders".to_owned();
    let thread = move || {
        let mut pauser = Pauser::new(Arc::clone(&control), guest.clone());
        loop {
            match control.next_order() {
                Ok(Received::Message(Order::Signal(number))) => guest.signal(number),
                Ok(Received::Message(Order::TerminalSignal(number))) => guest.terminal_signal(number),
                Ok(Received::Message(order @ (Order::Pause | Order::Resume))) => pauser.put(order),
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

/// Pauses and resumptions in their order, on a thread of their own that starts with the first: signals need not wait
/// until all tasks stand still.
struct Pauser<G> {
    control: Arc<Control>,
    guest: G,
    orders: Option<Sender<Order>>,
}

impl<G: Guest + Clone> Pauser<G> {
    fn new(control: Arc<Control>, guest: G) -> Self {
        Self { control, guest, orders: None }
    }

    fn put(&mut self, order: Order) {
        if self.orders.is_none() {
            match self.start() {
                Ok(orders) => self.orders = Some(orders),
                Err(failure) => return log::error!("no pause: {failure}"),
            }
        }
        // The thread lives as long as this end.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
    }

    fn start(&self) -> Outcome<Sender<Order>> {
        let (sender, orders) = std::sync::mpsc::channel();
        let (control, guest) = (Arc::clone(&self.control), self.guest.clone());
        let thread = move || {
            for order in orders {
                match order {
                    Order::Pause => guest.pause(),
                    Order::Resume => guest.resume(),
                    Order::Go | Order::Signal(_) | Order::TerminalSignal(_) => continue,
                }
                // A launcher that is gone takes us along.
                let _ = control.report(&Report::Done);
            }
        };
        std::thread::Builder::new().name("pauses".to_owned()).stack_size(STACK).spawn(thread).doing("thread")?;
        Ok(sender)
    }
}

/// The threads do little.
const STACK: usize = 64 << 10;
