//! Signals sent but not yet taken, of one thread or of one thread group.
//!
//! **Invariant.** A signal is in `set` exactly while at least one instance is pending. A standard signal has at most one
//! instance (signal(7), "Queueing and delivery semantics"); of real-time signals each instance queues in order. An
//! instance for which there was no room (RLIMIT_SIGPENDING) is pending without what it had to tell, as on Linux.

use std::collections::VecDeque;

use super::info::{SI_TIMER, SI_USER, SigData, SigInfo};
use super::types::{SigSet, Signal};
use crate::ids::Pid;

/// A queue of pending signals.
#[derive(Debug, Default)]
pub(crate) struct PendingSignals {
    set: SigSet,
    queue: VecDeque<Queued>,
}

#[derive(Debug)]
struct Queued {
    info: SigInfo,
    /// Returned to the user's quota on drop.
    _room: Room,
}

/// What an instance takes up.
#[derive(Debug)]
pub(crate) enum Room {
    /// A place in a user's quota.
    Quota { _charge: super::limits::Charge },
    /// Nothing that is counted: a fault of the thread itself, of which there is one at a time.
    Fault,
    /// There is none: only that the signal is pending is kept.
    None,
}

/// What became of a signal offered to a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Enqueued {
    /// It is pending now.
    New,
    /// It was pending before and counts once.
    Merged,
}

impl PendingSignals {
    /// Signals with an instance.
    pub(crate) fn set(&self) -> SigSet {
        self.set
    }

    /// Adds an instance; without room, what it tells is lost.
    pub(crate) fn push(&mut self, info: SigInfo, room: Room) -> Enqueued {
        let signal = info.signal;
        if self.set.contains(signal) {
            if !signal.is_real_time() {
                return Enqueued::Merged;
            }
            // timer_create(2): one instance per timer; further expirations are counted in it.
            if info.code == SI_TIMER && self.merge_timer(&info) {
                return Enqueued::Merged;
            }
        }
        let fresh = !self.set.contains(signal);
        self.set = self.set.with(signal);
        if !matches!(room, Room::None) {
            self.queue.push_back(Queued { info, _room: room });
        } else if !fresh {
            return Enqueued::Merged;
        }
        Enqueued::New
    }

    fn merge_timer(&mut self, info: &SigInfo) -> bool {
        let SigData::Timer { id: new, overrun: missed, .. } = info.data else { return false };
        for queued in &mut self.queue {
            if let SigData::Timer { id, overrun, .. } = &mut queued.info.data
                && *id == new
                && queued.info.signal == info.signal
            {
                *overrun = overrun.saturating_add(missed).saturating_add(1);
                return true;
            }
        }
        false
    }

    /// Which signal outside `blocked` comes next: CPU exceptions first, then the lowest number.
    pub(crate) fn next(&self, blocked: SigSet) -> Option<Signal> {
        let open = self.set.minus(blocked);
        open.intersect(SigSet::SYNCHRONOUS).first().or_else(|| open.first())
    }

    /// Takes the oldest instance of `signal`.
    pub(crate) fn take(&mut self, signal: Signal) -> Option<SigInfo> {
        if !self.set.contains(signal) {
            return None;
        }
        let at = self.queue.iter().position(|q| q.info.signal == signal);
        let info = match at.and_then(|at| self.queue.remove(at)) {
            Some(queued) => queued.info,
            None => SigInfo { signal, code: SI_USER, errno: 0, data: SigData::Kill { pid: Pid(0), uid: 0 } },
        };
        if !self.queue.iter().any(|q| q.info.signal == signal) {
            self.set = self.set.without(signal);
        }
        Some(info)
    }

    /// Takes the next instance outside `blocked`.
    pub(crate) fn take_next(&mut self, blocked: SigSet) -> Option<SigInfo> {
        let signal = self.next(blocked)?;
        self.take(signal)
    }

    /// Drops all instances of these signals.
    pub(crate) fn discard(&mut self, signals: SigSet) {
        if self.set.intersect(signals).is_empty() {
            return;
        }
        self.queue.retain(|q| !signals.contains(q.info.signal));
        self.set = self.set.minus(signals);
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.discard(SigSet::ALL);
    }

    /// Instances with details.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::limits::SignalQuota;

    fn rt(n: i32, value: u64) -> SigInfo {
        SigInfo {
            signal: Signal::new(n).unwrap(),
            code: -1,
            errno: 0,
            data: SigData::Queue { pid: Pid(5), uid: 0, value },
        }
    }

    #[test]
    fn a_standard_signal_is_pending_once() {
        let mut q = PendingSignals::default();
        let quota = SignalQuota::new();
        let first = SigInfo::kill(Signal::USR1, Pid(3), 7);
        assert_eq!(q.push(first.clone(), quota.room(0, 10)), Enqueued::New);
        assert_eq!(q.push(SigInfo::kill(Signal::USR1, Pid(4), 7), quota.room(0, 10)), Enqueued::Merged);
        assert_eq!(q.take_next(SigSet::EMPTY), Some(first));
        assert_eq!(q.take_next(SigSet::EMPTY), None);
        assert!(q.set().is_empty());
    }

    #[test]
    fn real_time_signals_queue_in_order_and_lower_numbers_first() {
        let mut q = PendingSignals::default();
        let quota = SignalQuota::new();
        for info in [rt(35, 1), rt(34, 2), rt(35, 3)] {
            assert_eq!(q.push(info, quota.room(0, 10)), Enqueued::New);
        }
        let got: Vec<_> = std::iter::from_fn(|| q.take_next(SigSet::EMPTY)).collect();
        assert_eq!(got, [rt(34, 2), rt(35, 1), rt(35, 3)]);
    }

    #[test]
    fn exceptions_come_before_lower_numbers_and_blocked_ones_stay() {
        let mut q = PendingSignals::default();
        q.push(SigInfo::kernel(Signal::HUP), Room::Fault);
        q.push(SigInfo::fault(Signal::SEGV, 1, 0x10), Room::Fault);
        assert_eq!(q.next(SigSet::EMPTY), Some(Signal::SEGV));
        assert_eq!(q.next(SigSet::of(&[Signal::SEGV])), Some(Signal::HUP));
        assert_eq!(q.next(SigSet::ALL), None);
    }

    #[test]
    fn without_quota_the_signal_stays_but_its_details_are_lost() {
        let mut q = PendingSignals::default();
        q.push(SigInfo::kill(Signal::USR2, Pid(9), 1), Room::None);
        q.push(rt(40, 7), Room::None);
        assert_eq!(q.push(rt(40, 8), Room::None), Enqueued::Merged);
        q.push(rt(40, 9), Room::Fault);
        let got = q.take_next(SigSet::EMPTY).unwrap();
        assert_eq!(got.sender(), Some((Pid(0), 0)));
        // What has room comes with what it tells, and the rest with it.
        assert_eq!(q.take_next(SigSet::EMPTY), Some(rt(40, 9)));
        assert!(q.set().is_empty());
    }

    #[test]
    fn timer_expirations_merge_into_one_instance() {
        let mut q = PendingSignals::default();
        let timer = |id, overrun| SigInfo {
            signal: Signal::new(36).unwrap(),
            code: SI_TIMER,
            errno: 0,
            data: SigData::Timer { id, overrun, value: 0 },
        };
        q.push(timer(1, 2), Room::Fault);
        assert_eq!(q.push(timer(1, 0), Room::Fault), Enqueued::Merged);
        // One that came late, for five.
        assert_eq!(q.push(timer(1, 4), Room::Fault), Enqueued::Merged);
        q.push(timer(2, 0), Room::Fault);
        let SigData::Timer { id, overrun, .. } = q.take_next(SigSet::EMPTY).unwrap().data else { panic!() };
        assert_eq!((id, overrun), (1, 8));
        assert_eq!(q.len(), 1);
        q.discard(SigSet::of(&[Signal::new(36).unwrap()]));
        assert!(q.set().is_empty());
    }
}
