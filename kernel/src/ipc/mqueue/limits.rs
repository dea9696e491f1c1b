//! What POSIX message queues may take: the knobs of `/proc/sys/fs/mqueue`, `RLIMIT_MSGQUEUE` by user, and what all
//! messages take together, whatever the knobs allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use abi::Errno;
use hashbrown::HashMap;
use sync::Mutex;

use crate::lock::MQUEUE_QUOTA;

/// Highest `msg_max`, and most messages of a queue that a privileged caller makes.
const HARD_MESSAGES: u32 = 65_536;
/// Highest `msgsize_max`, and the longest message of such a queue.
const HARD_SIZE: u32 = 16 << 20;
/// Lowest `msgsize_max` and `msgsize_default`.
const LEAST_SIZE: u32 = 128;
/// Messages have this many priorities.
pub const MQ_PRIO_MAX: u32 = 32_768;
/// Bytes that the messages of all queues hold.
const ALL_BYTES: usize = 64 << 20;
/// What a message costs beyond its text.
const OVERHEAD: usize = 64;

/// A knob of `/proc/sys/fs/mqueue`, mq_overview(7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Knob {
    /// Messages of a queue made without attributes.
    MsgDefault,
    /// Most messages that an unprivileged caller may ask for.
    MsgMax,
    /// Message size of a queue made without attributes.
    MsgsizeDefault,
    /// Longest message size that an unprivileged caller may ask for.
    MsgsizeMax,
    /// Queues that there may be.
    QueuesMax,
}

impl Knob {
    /// All of them with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("msg_default", Self::MsgDefault),
        ("msg_max", Self::MsgMax),
        ("msgsize_default", Self::MsgsizeDefault),
        ("msgsize_max", Self::MsgsizeMax),
        ("queues_max", Self::QueuesMax),
    ];

    const fn range(self) -> (u32, u32) {
        match self {
            Self::MsgDefault | Self::MsgMax => (1, HARD_MESSAGES),
            Self::MsgsizeDefault | Self::MsgsizeMax => (LEAST_SIZE, HARD_SIZE),
            Self::QueuesMax => (0, i32::MAX.cast_unsigned()),
        }
    }
}

/// How many messages a queue holds and how long they may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    /// Messages at most.
    pub messages: usize,
    /// Bytes of each at most.
    pub size: usize,
}

impl Shape {
    /// What a queue of this shape takes of its user's `RLIMIT_MSGQUEUE`: its bytes, and per message what Linux keeps
    /// beside it (getrlimit(2)).
    fn bytes(self) -> u64 {
        const MESSAGE: u64 = 48;
        const PRIORITY: u64 = 48;
        let messages = self.messages as u64;
        let beside = messages.saturating_mul(MESSAGE);
        let priorities = messages.min(u64::from(MQ_PRIO_MAX)).saturating_mul(PRIORITY);
        messages.saturating_mul(self.size as u64).saturating_add(beside).saturating_add(priorities)
    }
}

/// The knobs and the counts. Relaxed throughout: the knobs order nothing, and the counts are only sums.
pub(super) struct Limits {
    knobs: [AtomicU32; Knob::ALL.len()],
    queues: AtomicUsize,
    held: Arc<AtomicUsize>,
    by_user: Mutex<HashMap<u32, u64>>,
}

/// A queue's share of its user's `RLIMIT_MSGQUEUE`, and its place among the queues.
pub(super) struct Charge {
    limits: Arc<Limits>,
    uid: u32,
    bytes: u64,
}

/// What a message takes while it is on its way or in a queue.
pub(super) struct Held {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Limits {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            knobs: [10, 10, 8192, 8192, 256].map(AtomicU32::new),
            queues: AtomicUsize::new(0),
            held: Arc::new(AtomicUsize::new(0)),
            by_user: Mutex::new(MQUEUE_QUOTA, HashMap::new()),
        })
    }

    pub(super) fn get(&self, knob: Knob) -> u32 {
        self.knobs.get(knob as usize).map_or(0, |value| value.load(Ordering::Relaxed))
    }

    /// Sets a knob; `EINVAL` out of its range.
    pub(super) fn set(&self, knob: Knob, value: u32) -> Result<(), Errno> {
        let (low, high) = knob.range();
        if value < low || value > high {
            return Err(Errno::EINVAL);
        }
        if let Some(at) = self.knobs.get(knob as usize) {
            at.store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The shape of a queue that is made without one.
    pub(super) fn default_shape(&self) -> Shape {
        let least = |max, default| usize::try_from(self.get(max).min(self.get(default))).unwrap_or(0);
        Shape { messages: least(Knob::MsgMax, Knob::MsgDefault), size: least(Knob::MsgsizeMax, Knob::MsgsizeDefault) }
    }

    /// A shape that was asked for; `EINVAL`.
    pub(super) fn check_shape(&self, messages: i64, size: i64, privileged: Privileged) -> Result<Shape, Errno> {
        let (most, longest) = match privileged {
            Privileged::Yes => (HARD_MESSAGES, HARD_SIZE),
            Privileged::No => (self.get(Knob::MsgMax), self.get(Knob::MsgsizeMax)),
        };
        let within = |value: i64, high: u32| {
            let allowed = 1..=i64::from(high);
            usize::try_from(value).ok().filter(|_| allowed.contains(&value)).ok_or(Errno::EINVAL)
        };
        Ok(Shape { messages: within(messages, most)?, size: within(size, longest)? })
    }

    /// Makes room for a queue. Errors: `ENOSPC` past `queues_max`, `EMFILE` past `rlimit` bytes of the user.
    pub(super) fn charge(
        self: &Arc<Self>,
        uid: u32,
        shape: Shape,
        rlimit: u64,
        privileged: Privileged,
    ) -> Result<Charge, Errno> {
        let most = match privileged {
            // Each has an inode of ours: bounded, whoever asks.
            Privileged::Yes => usize::try_from(HARD_MESSAGES).unwrap_or(usize::MAX),
            Privileged::No => usize::try_from(self.get(Knob::QueuesMax)).unwrap_or(usize::MAX),
        };
        let bytes = shape.bytes();
        let mut by_user = self.by_user.lock();
        if self.queues.load(Ordering::Relaxed) >= most {
            return Err(Errno::ENOSPC);
        }
        let sum = by_user.get(&uid).copied().unwrap_or(0).saturating_add(bytes);
        if sum > rlimit {
            return Err(Errno::EMFILE);
        }
        by_user.insert(uid, sum);
        self.queues.fetch_add(1, Ordering::Relaxed);
        Ok(Charge { limits: Arc::clone(self), uid, bytes })
    }

    /// Makes room for a message of `len` bytes; `ENOMEM`.
    pub(super) fn hold(&self, len: usize) -> Result<Held, Errno> {
        let bytes = len.saturating_add(OVERHEAD);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| {
                sum.checked_add(bytes).filter(|&sum| sum <= ALL_BYTES)
            })
            .map_err(|_| Errno::ENOMEM)?;
        Ok(Held { total: Arc::clone(&self.held), bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut by_user = self.limits.by_user.lock();
        self.limits.queues.fetch_sub(1, Ordering::Relaxed);
        if let Some(sum) = by_user.get_mut(&self.uid) {
            *sum = sum.saturating_sub(self.bytes);
            if *sum == 0 {
                by_user.remove(&self.uid);
            }
        }
    }
}

/// Whether the caller has `CAP_SYS_RESOURCE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Privileged {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use abi::Errno;

    use super::{Knob, Limits, Privileged, Shape};

    #[test]
    fn users_have_their_bytes_and_all_have_their_queues() {
        let limits = Limits::new();
        let shape = Shape { messages: 10, size: 8192 };
        assert_eq!(shape.bytes(), 81920 + 480 + 480);
        let first = limits.charge(7, shape, 100_000, Privileged::No).unwrap();
        assert_eq!(limits.charge(7, shape, 100_000, Privileged::No).err(), Some(Errno::EMFILE));
        let other = limits.charge(8, shape, 100_000, Privileged::No).unwrap();
        limits.set(Knob::QueuesMax, 2).unwrap();
        assert_eq!(limits.charge(9, shape, 100_000, Privileged::No).err(), Some(Errno::ENOSPC));
        assert!(limits.charge(9, shape, 100_000, Privileged::Yes).is_ok());
        drop((first, other));
        assert!(limits.by_user.lock().is_empty());
        assert!(limits.charge(7, shape, 100_000, Privileged::No).is_ok());
    }

    #[test]
    fn shapes_are_bounded_by_knobs_or_hard_limits() {
        let limits = Limits::new();
        assert_eq!(limits.default_shape(), Shape { messages: 10, size: 8192 });
        assert!(limits.check_shape(11, 8192, Privileged::No).is_err());
        assert!(limits.check_shape(65_536, 16 << 20, Privileged::Yes).is_ok());
        assert!(limits.check_shape(65_537, 1, Privileged::Yes).is_err());
        for (messages, size) in [(0, 1), (1, 0), (-1, 1), (1, i64::MIN)] {
            assert!(limits.check_shape(messages, size, Privileged::Yes).is_err());
        }
        assert_eq!(limits.set(Knob::MsgMax, 0), Err(Errno::EINVAL));
        limits.set(Knob::MsgMax, 3).unwrap();
        assert_eq!(limits.default_shape().messages, 3);
    }

    #[test]
    fn messages_are_bounded_together() {
        let limits = Limits::new();
        let held: Vec<_> = std::iter::from_fn(|| limits.hold(16 << 20).ok()).collect();
        assert_eq!(held.len(), 3);
        drop(held);
        assert!(limits.hold(16 << 20).is_ok());
    }
}
