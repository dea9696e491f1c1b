//! What socket options keep, socket(7): those with an effect on UNIX sockets, and those that are only remembered.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use sync::{LockClass, Mutex};

const REMEMBERED: LockClass = LockClass::leaf("socket.options");

/// Linux's `net.core.wmem_default`, `rmem_default`, in bytes; its `wmem_max` and `rmem_max` are the same.
const DEFAULT_BUFFER: usize = 212_992;
/// Smallest buffers, in bytes.
const SMALLEST_SEND: usize = 4608;
const SMALLEST_RECEIVE: usize = 2304;

/// A direction of transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Into the socket.
    Send,
    /// Out of it.
    Receive,
}

/// A socket's options. Relaxed throughout: single figures.
pub struct Options {
    pub(super) pass_credentials: AtomicBool,
    send_buffer: AtomicUsize,
    receive_buffer: AtomicUsize,
    /// Nanoseconds; 0 is for ever.
    send_timeout: AtomicU64,
    receive_timeout: AtomicU64,
    remembered: Mutex<HashMap<i32, i32>>,
}

impl Options {
    pub(super) fn new() -> Self {
        Self {
            pass_credentials: AtomicBool::new(false),
            send_buffer: AtomicUsize::new(DEFAULT_BUFFER),
            receive_buffer: AtomicUsize::new(DEFAULT_BUFFER),
            send_timeout: AtomicU64::new(0),
            receive_timeout: AtomicU64::new(0),
            remembered: Mutex::new(REMEMBERED, HashMap::new()),
        }
    }

    /// As another socket has them: an accepted one begins with its listener's.
    pub(super) fn copy_from(&self, other: &Self) {
        self.pass_credentials.store(other.pass_credentials.load(Ordering::Relaxed), Ordering::Relaxed);
        self.send_buffer.store(other.send_buffer(), Ordering::Relaxed);
    }

    /// `SO_SNDBUF`, in bytes: what may wait to be read by the other end.
    pub fn send_buffer(&self) -> usize {
        self.send_buffer.load(Ordering::Relaxed)
    }

    /// `SO_RCVBUF`, in bytes; what a UNIX socket may hold is its sender's affair.
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer.load(Ordering::Relaxed)
    }

    /// Sets a buffer: twice what is asked for, within the system's bounds; `forced` is not bounded by `*mem_max`.
    pub fn set_buffer(&self, direction: Direction, asked: i32, most: BufferBound) {
        // A negative size is as large as an unsigned one.
        let asked = usize::try_from(asked.cast_unsigned()).unwrap_or(usize::MAX);
        let asked = if most == BufferBound::System { asked.min(DEFAULT_BUFFER) } else { asked.min(1 << 30) };
        match direction {
            Direction::Send => self.send_buffer.store((asked * 2).max(SMALLEST_SEND), Ordering::Relaxed),
            Direction::Receive => self.receive_buffer.store((asked * 2).max(SMALLEST_RECEIVE), Ordering::Relaxed),
        }
    }

    /// Sets `SO_PASSCRED`.
    pub fn set_pass_credentials(&self, pass: PassCredentials) {
        self.pass_credentials.store(pass == PassCredentials::Yes, Ordering::Relaxed);
    }

    /// `SO_SNDTIMEO`, `SO_RCVTIMEO` in nanoseconds; 0 is none.
    pub fn timeout_ns(&self, direction: Direction) -> u64 {
        self.timeout(direction).load(Ordering::Relaxed)
    }

    /// Sets a timeout.
    pub fn set_timeout_ns(&self, direction: Direction, ns: u64) {
        self.timeout(direction).store(ns, Ordering::Relaxed);
    }

    fn timeout(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Send => &self.send_timeout,
            Direction::Receive => &self.receive_timeout,
        }
    }

    /// An option without effect, by number.
    pub fn remembered(&self, option: i32) -> Option<i32> {
        self.remembered.lock().get(&option).copied()
    }

    /// Keeps an option without effect; the caller bounds the numbers.
    pub fn remember(&self, option: i32, value: i32) {
        self.remembered.lock().insert(option, value);
    }
}

/// What bounds a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BufferBound {
    /// The system's largest.
    System,
    /// Nothing: SO_SNDBUFFORCE.
    None,
}

/// SO_PASSCRED.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PassCredentials {
    /// On.
    Yes,
    /// Off.
    No,
}

#[cfg(test)]
mod tests {
    use super::{BufferBound, Direction, Options};

    #[test]
    fn buffers_are_doubled_and_bounded() {
        let options = Options::new();
        for (asked, got) in [(1, 4608), (10_000, 20_000), (1 << 24, 425_984), (-1, 425_984)] {
            options.set_buffer(Direction::Send, asked, BufferBound::System);
            assert_eq!(options.send_buffer(), got, "{asked}");
        }
        options.set_buffer(Direction::Receive, 1 << 24, BufferBound::None);
        assert_eq!(options.receive_buffer(), 1 << 25);
    }
}
