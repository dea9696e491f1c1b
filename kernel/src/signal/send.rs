//! From a source of signals to a queue, and whom that wakes.

use std::sync::Arc;

use stops::{Member, Work};

use super::info::{SI_TIMER, SI_USER, SigInfo};
use super::queue::{Enqueued, PendingSignals, Room};
use super::types::{DefaultAction, SigAction, SigSet, Signal};
use crate::kernel::Kernel;
use crate::rlimit::Resource;
use crate::task::group::{ExitStatus, GroupSignals, ThreadGroup};
use crate::task::thread::Thread;

/// Why a signal comes, as far as that decides who can refuse it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A process of the sandbox asked for it.
    Guest,
    /// The kernel: faults, timers, children, terminals, the runner.
    Kernel,
}

/// What became of a send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// It is pending or took effect.
    Done,
    /// It is ignored, or pending already.
    Dropped,
    /// A queued signal had no room (RLIMIT_SIGPENDING): `EAGAIN` for sigqueue(3).
    NoRoom,
}

/// Continuations that need the tree's lock, after the group's lock is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct After {
    continued: bool,
}

impl Kernel {
    /// Sends to a process: any of its threads may take it.
    pub(crate) fn send_to_group(&self, group: &Arc<ThreadGroup>, info: SigInfo, origin: Origin) -> Sent {
        self.send(group, None, info, origin)
    }

    /// Sends to one thread.
    pub(crate) fn send_to_thread(&self, thread: &Arc<Thread>, info: SigInfo, origin: Origin) -> Sent {
        self.send(thread.group(), Some(thread), info, origin)
    }

    /// RLIMIT_SIGPENDING holds for what a process queues, and for real-time signals of kill(2), which are then pending without
    /// what they tell. Other standard signals always have room, one for each number, and so have timers (one each).
    fn room_for(&self, group: &ThreadGroup, signals: &GroupSignals, info: &SigInfo) -> Room {
        let uid = signals.stops.threads().first().map_or(0, |t| t.creds().ruid.0);
        let free = match info.code {
            SI_TIMER => true,
            code => code >= SI_USER && !info.signal.is_real_time(),
        };
        let limit = if free { u64::MAX } else { group.limit(Resource::Sigpending).soft };
        self.signal_quota().room(uid, limit)
    }

    fn send(&self, group: &Arc<ThreadGroup>, thread: Option<&Arc<Thread>>, info: SigInfo, origin: Origin) -> Sent {
        let mut after = After::default();
        let sent = {
            let mut signals = group.lock_signals();
            self.send_locked(group, &mut signals, thread, info, origin, &mut after)
        };
        if sent == Sent::Done {
            group.signal_events.wake(waiter::EventMask::IN);
        }
        if after.continued {
            self.notify_parent_of_stop(group);
        }
        sent
    }

    fn send_locked(
        &self,
        group: &Arc<ThreadGroup>,
        signals: &mut GroupSignals,
        thread: Option<&Arc<Thread>>,
        info: SigInfo,
        origin: Origin,
        after: &mut After,
    ) -> Sent {
        let signal = info.signal;
        if signals.stops.exiting().is_some() && signals.stops.threads().is_empty() {
            return Sent::Dropped;
        }
        // The generation of a stop or continue signal has effects whether or not it is blocked or ignored (signal(7)).
        if SigSet::STOPS.contains(signal) {
            discard(signals, SigSet::of(&[Signal::CONT]));
        } else if signal == Signal::CONT {
            discard(signals, SigSet::STOPS);
            after.continued = signals.stops.resume();
        }
        let action = signals.handlers.get(signal);
        if signals.immune && origin == Origin::Guest && !action.is_handler() {
            // kill(2): only signals that init has handlers for reach it.
            return Sent::Dropped;
        }
        if signal == Signal::KILL {
            signals.stops.begin_exit(ExitStatus::Killed(Signal::KILL));
            return Sent::Done;
        }
        let target = thread.or_else(|| signals.stops.threads().first());
        let kept = target.is_some_and(|t| {
            let t = t.signals.lock();
            t.mask.get().contains(signal) || t.awaited.contains(signal)
        });
        if action.ignores(signal) && !kept {
            return Sent::Dropped;
        }
        let room = self.room_for(group, signals, &info);
        // sigqueue(3): EAGAIN.
        if matches!(room, Room::None) && signal.is_real_time() && info.code != SI_USER {
            return Sent::NoRoom;
        }
        match thread {
            Some(thread) => {
                let mut t = thread.signals.lock();
                if t.exiting {
                    return Sent::Dropped;
                }
                let pushed = t.pending.push(info, room);
                t.mask.close();
                let wanted = !t.mask.get().contains(signal) || t.awaited.contains(signal);
                drop(t);
                if wanted {
                    thread.kick(Work::SIGNAL);
                }
                done(pushed)
            }
            None => {
                let pushed = signals.pending.push(info, room);
                // All of them first: see `mask`.
                for thread in signals.stops.threads() {
                    thread.signals.lock().mask.close();
                }
                if let Some(taker) = choose(signals.stops.threads(), signal) {
                    taker.kick(Work::SIGNAL);
                }
                done(pushed)
            }
        }
    }

    /// Makes a thread take `info` whatever it has done about the signal: a blocked or ignored one gets the default
    /// action. For faults of the thread itself.
    pub(crate) fn force(&self, thread: &Arc<Thread>, info: SigInfo) {
        let signal = info.signal;
        let mut signals = thread.group().lock_signals();
        let action = signals.handlers.get(signal);
        // Only the thread itself changes its mask, and this is it: the lock of handlers comes before that of masks.
        if thread.signals.lock().mask.get().contains(signal) || action.handler == SigAction::IGNORE {
            signals.handlers.set(signal, SigAction::default());
            let mut t = thread.signals.lock();
            let mask = t.mask.get().without(signal);
            t.mask.set(mask);
        }
        if signal.default_action() == DefaultAction::Core {
            // A fault of init itself does not exist: it runs no guest code.
            signals.immune = false;
        }
        let mut t = thread.signals.lock();
        t.pending.push(info, Room::Fault);
        t.mask.close();
        drop(t);
        thread.attention().set_work(Work::SIGNAL);
    }
}

fn done(pushed: Enqueued) -> Sent {
    match pushed {
        Enqueued::New => Sent::Done,
        Enqueued::Merged => Sent::Dropped,
    }
}

/// Drops pending instances everywhere in the group.
fn discard(signals: &mut GroupSignals, set: SigSet) {
    signals.pending.discard(set);
    for thread in signals.stops.threads() {
        thread.signals.lock().pending.discard(set);
    }
}

/// Drops instances that a changed action ignores now (sigaction(2): POSIX 2.4.3).
pub(crate) fn discard_ignored(signals: &mut GroupSignals, signal: Signal) {
    discard(signals, SigSet::EMPTY.with(signal));
}

/// A thread that would take `signal` now; one that sleeps or runs is as good as another.
fn choose(threads: &[Arc<Thread>], signal: Signal) -> Option<&Arc<Thread>> {
    threads.iter().find(|t| {
        let t = t.signals.lock();
        !t.exiting && (!t.mask.get().contains(signal) || t.awaited.contains(signal))
    })
}

/// Passes group signals on that a thread which begins to block them (or to exit) was woken for.
pub(crate) fn retarget(signals: &GroupSignals, but: &Arc<Thread>, set: SigSet) {
    for signal in signals.pending.set().intersect(set).iter() {
        let others = signals.stops.threads().iter().filter(|t| !Arc::ptr_eq(t, but));
        for other in others {
            let wants = {
                let t = other.signals.lock();
                !t.exiting && (!t.mask.get().contains(signal) || t.awaited.contains(signal))
            };
            if wants {
                other.kick(Work::SIGNAL);
                break;
            }
        }
    }
}

/// Whether `thread` could take a signal now.
pub(crate) fn deliverable(group: &PendingSignals, thread: &PendingSignals, mask: SigSet) -> bool {
    !group.set().union(thread.set()).minus(mask).is_empty()
}
