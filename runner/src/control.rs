//! The socket between the launcher and the sandbox process: small, self-contained packets.
//!
//! The launcher does not trust what comes from the sandbox process: a packet is at most [`LARGEST`] bytes, an unknown
//! one ends the run, and texts are printed with control characters removed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Largest packet in bytes.
const LARGEST: usize = 4096;

/// Launcher → sandbox process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The id maps are written: go on.
    Go,
    /// Deliver this signal to the command.
    Signal(i32),
    /// Deliver this signal to the terminal's foreground process group.
    TerminalSignal(i32),
    /// Stop all tasks; answered by [`Report::Done`].
    Pause,
    /// Take one pause back; answered by [`Report::Done`].
    Resume,
}

/// Sandbox process → launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Nothing was run, or the run broke off: exit status and one line.
    Failed { status: u8, line: String },
    /// One line for the user; the run goes on.
    Notice(String),
    /// The command stopped (job control).
    Stopped,
    /// The first of the pauses and resumptions that were ordered and not reported yet is done.
    Done,
    /// The command has ended; the status mirrors it.
    Ended { status: u8 },
}

/// One end of the socket.
#[derive(Debug)]
pub(crate) struct Control {
    socket: OwnedFd,
}

/// What reading gave.
#[derive(Debug)]
pub(crate) enum Received<T> {
    /// A packet.
    Message(T),
    /// The other end is gone.
    Closed,
}

/// A connected pair: (launcher's end, sandbox's end).
pub(crate) fn pair() -> io::Result<(Control, Control)> {
    let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Control { socket: a }, Control { socket: b }))
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Control {
    /// Sends an order to the sandbox process.
    pub(crate) fn order(&self, order: Order) -> io::Result<()> {
        let (tag, value) = match order {
            Order::Go => (b'G', 0),
            Order::Signal(number) => (b'S', number),
            Order::TerminalSignal(number) => (b'T', number),
            Order::Pause => (b'P', 0),
            Order::Resume => (b'R', 0),
        };
        let mut packet = vec![tag];
        packet.extend_from_slice(&value.to_le_bytes());
        self.send(&packet)
    }

    /// Waits for the next order.
    pub(crate) fn next_order(&self) -> io::Result<Received<Order>> {
        let Some(packet) = self.receive(RecvFlags::empty())? else { return Ok(Received::Closed) };
        let number = packet.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(i32::from_le_bytes);
        match (packet.first(), number) {
            (Some(b'G'), Some(_)) => Ok(Received::Message(Order::Go)),
            (Some(b'S'), Some(number)) => Ok(Received::Message(Order::Signal(number))),
            (Some(b'T'), Some(number)) => Ok(Received::Message(Order::TerminalSignal(number))),
            (Some(b'P'), Some(_)) => Ok(Received::Message(Order::Pause)),
            (Some(b'R'), Some(_)) => Ok(Received::Message(Order::Resume)),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }

    /// Sends a report to the launcher.
    pub(crate) fn report(&self, report: &Report) -> io::Result<()> {
        let (tag, status, text) = match report {
            Report::Failed { status, line } => (b'F', *status, line.as_str()),
            Report::Notice(line) => (b'N', 0, line.as_str()),
            Report::Stopped => (b'Z', 0, ""),
            Report::Done => (b'D', 0, ""),
            Report::Ended { status } => (b'E', *status, ""),
        };
        let mut packet = vec![tag, status];
        packet.extend(text.bytes().take(LARGEST - 2));
        self.send(&packet)
    }

    /// The next report, if one is there; never waits.
    pub(crate) fn try_next_report(&self) -> io::Result<Option<Received<Report>>> {
        let packet = match self.receive(RecvFlags::DONTWAIT) {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(Some(Received::Closed)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let (Some(&tag), Some(&status)) = (packet.first(), packet.get(1)) else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        let text = || -> String {
            let bytes = packet.get(2..).unwrap_or(&[]);
            String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect()
        };
        let report = match tag {
            b'F' => Report::Failed { status, line: text() },
            b'N' => Report::Notice(text()),
            b'Z' => Report::Stopped,
            b'D' => Report::Done,
            b'E' => Report::Ended { status },
            _ => return Err(io::Error::from(io::ErrorKind::InvalidData)),
        };
        Ok(Some(Received::Message(report)))
    }

    /// Whether the other end is gone.
    pub(crate) fn is_closed(&self) -> bool {
        let mut set = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut set, Some(&now)).unwrap_or(0);
        ready > 0 && set[0].revents().contains(rustix::event::PollFlags::HUP)
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, packet, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    fn receive(&self, flags: RecvFlags) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; LARGEST];
        let (length, _) = rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, buffer.as_mut_slice(), flags))?;
        if length == 0 {
            return Ok(None);
        }
        buffer.truncate(length);
        Ok(Some(buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::{Order, Received, Report, pair};

    #[test]
    fn packets_survive_the_trip() {
        let (launcher, sandbox) = pair().expect("socketpair");
        for order in [Order::Go, Order::Signal(15), Order::TerminalSignal(2), Order::Pause, Order::Resume] {
            launcher.order(order).expect("send");
            assert!(matches!(sandbox.next_order(), Ok(Received::Message(got)) if got == order));
        }
        let reports = [
            Report::Failed { status: 127, line: "no such file".into() },
            Report::Notice("hello".into()),
            Report::Stopped,
            Report::Done,
            Report::Ended { status: 7 },
        ];
        for report in reports {
            sandbox.report(&report).expect("send");
            let got = launcher.try_next_report();
            assert!(matches!(got, Ok(Some(Received::Message(got))) if got == report));
        }
        assert!(matches!(launcher.try_next_report(), Ok(None)));
        assert!(!launcher.is_closed());
        drop(sandbox);
        assert!(launcher.is_closed());
        assert!(matches!(launcher.try_next_report(), Ok(Some(Received::Closed))));
    }

    #[test]
    fn texts_lose_control_characters_and_length() {
        let (launcher, sandbox) = pair().expect("socketpair");
        let line = format!("a\x1b[2Jb{}", "x".repeat(10_000));
        sandbox.report(&Report::Notice(line)).expect("send");
        match launcher.try_next_report() {
            Ok(Some(Received::Message(Report::Notice(text)))) => {
                assert!(text.starts_with("a[2Jbxxx") && text.len() < 5000);
            }
            other => panic!("{other:?}"),
        }
    }
}
