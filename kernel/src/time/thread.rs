//! The timer thread: the one host thread that sleeps for all timers of the sandbox.
//!
//! It starts with the first timer, and sleeps without a deadline while none is armed. Targets are called without the
//! lock, on that thread: they must be short and never sleep.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sync::{Condvar, Mutex};

use super::queue::{TimerId, TimerQueue};
use crate::lock::TIMERS;

/// Who is told that a deadline passed.
pub trait TimerTarget: Send + Sync {
    /// The deadline that was armed with `token` has passed; it is `now_ns` on CLOCK_MONOTONIC.
    fn expired(&self, token: u64, now_ns: u64);
}

struct Armed {
    target: Weak<dyn TimerTarget>,
    token: u64,
}

#[derive(Default)]
struct State {
    queue: TimerQueue<Armed>,
    started: bool,
    closing: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// All timers of a sandbox.
pub(crate) struct Timers {
    shared: Arc<Shared>,
}

/// An armed deadline, for disarming. Dropping it leaves the deadline armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerHandle {
    deadline_ns: u64,
    id: TimerId,
}

impl TimerHandle {
    /// When it is due.
    pub const fn deadline_ns(self) -> u64 {
        self.deadline_ns
    }
}

impl Timers {
    pub(crate) fn new() -> Self {
        let state = Mutex::new(TIMERS, State::default());
        Self { shared: Arc::new(Shared { state, changed: Condvar::new() }) }
    }

    /// Calls `target` with `token` once CLOCK_MONOTONIC reaches `deadline_ns`.
    pub(crate) fn arm(&self, deadline_ns: u64, target: Weak<dyn TimerTarget>, token: u64) -> TimerHandle {
        let mut state = self.shared.state.lock();
        let (id, earliest) = state.queue.insert(deadline_ns, Armed { target, token });
        if !state.started {
            state.started = true;
            let shared = Arc::clone(&self.shared);
            let spawned =
                std::thread::Builder::new().name("timers".to_owned()).stack_size(256 << 10).spawn(move || run(&shared));
            if let Err(e) = spawned {
                log::error!("no thread for timers: {e}");
                state.started = false;
            }
        } else if earliest {
            self.shared.changed.notify_one();
        }
        TimerHandle { deadline_ns, id }
    }

    /// Takes a deadline back; says whether it was still to come.
    pub(crate) fn disarm(&self, handle: TimerHandle) -> bool {
        let removed = self.shared.state.lock().queue.remove(handle.deadline_ns, handle.id);
        removed.is_some()
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.changed.notify_one();
    }
}

fn run(shared: &Shared) {
    let mut state = shared.state.lock();
    while !state.closing {
        let now = sync::monotonic_now_ns();
        let due = state.queue.expire(now);
        if !due.is_empty() {
            drop(state);
            for (_, armed) in due {
                if let Some(target) = armed.target.upgrade() {
                    target.expired(armed.token, now);
                }
            }
            state = shared.state.lock();
            continue;
        }
        state = match state.queue.earliest_ns() {
            None => shared.changed.wait(state),
            Some(at) => {
                let left = Duration::from_nanos(at.saturating_sub(now));
                shared.changed.wait_timeout(state, left).0
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};

    use super::{TimerTarget, Timers};

    struct Report(Mutex<mpsc::Sender<u64>>);

    impl TimerTarget for Report {
        fn expired(&self, token: u64, _now_ns: u64) {
            self.0.lock().unwrap().send(token).unwrap();
        }
    }

    #[test]
    fn armed_timers_fire_in_order_and_disarmed_ones_do_not() {
        let (tx, rx) = mpsc::channel();
        let target: Arc<dyn TimerTarget> = Arc::new(Report(Mutex::new(tx)));
        let timers = Timers::new();
        let now = sync::monotonic_now_ns();
        timers.arm(now + 20_000_000, Arc::downgrade(&target), 2);
        timers.arm(now + 1_000_000, Arc::downgrade(&target), 1);
        let gone = timers.arm(now + 10_000_000, Arc::downgrade(&target), 9);
        assert!(timers.disarm(gone));
        assert!(!timers.disarm(gone));
        assert_eq!(rx.recv().unwrap(), 1);
        assert_eq!(rx.recv().unwrap(), 2);
        assert!(sync::monotonic_now_ns() >= now + 20_000_000);
    }
}
