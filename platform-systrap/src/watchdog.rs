//! Kills stubs that leave a kick unanswered.
//!
//! Guest code that jumps into the stub can put its thread into a state that no kick ends (a loop through `iretq`, a futex
//! wait of its own). Without this, such a process would outlive every signal.
//!
//! One thread, started with the first kick that is ever sent. It sleeps until kicks are sent, then looks each time
//! its patience is over, for as long as there are new ones: an idle sandbox has none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sync::{Condvar, LockClass, Mutex};

use crate::context::Kick;

#[derive(Debug)]
struct State {
    /// Everything that can be kicked.
    kicks: Vec<Weak<Kick>>,
    /// Length of `kicks` at which the dead ones are dropped next.
    sweep_at: usize,
    /// The thread runs.
    started: bool,
    /// The platform is going away.
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// A kick was sent since the last look.
    armed: AtomicBool,
    patience: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
}

impl Watchdog {
    /// A watchdog that gives stubs `patience` to answer.
    pub(crate) fn new(patience: Duration) -> Self {
        let state = State { kicks: Vec::new(), sweep_at: 64, started: false, stop: false };
        let class = LockClass::new("systrap watchdog", 61_000);
        let state = Mutex::new(class, state);
        Self { shared: Arc::new(Shared { state, wake: Condvar::new(), armed: AtomicBool::new(false), patience }) }
    }

    /// Adds a context.
    pub(crate) fn watch(&self, kick: &Arc<Kick>) {
        let mut state = self.shared.state.lock();
        if state.kicks.len() >= state.sweep_at {
            state.kicks.retain(|kick| kick.strong_count() > 0);
            state.sweep_at = (state.kicks.len() * 2).max(64);
        }
        state.kicks.push(Arc::downgrade(kick));
    }

    /// A kick was sent.
    pub(crate) fn arm(&self) {
        // Pairs with the swap in `run`: the kick is seen by the look that clears this.
        if self.shared.armed.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = self.shared.state.lock();
        if !state.started {
            let shared = Arc::clone(&self.shared);
            let builder = std::thread::Builder::new().name("systrap-watchdog".into()).stack_size(64 << 10);
            match builder.spawn(move || run(&shared)) {
                Ok(_) => state.started = true,
                Err(error) => log::warn!("no watchdog for stubs: {error}"),
            }
        }
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.wake.notify_one();
    }
}

fn run(shared: &Shared) {
    let mut state = shared.state.lock();
    loop {
        // Pairs with the swap in `arm`.
        while !state.stop && !shared.armed.swap(false, Ordering::AcqRel) {
            state = shared.wake.wait(state);
        }
        if state.stop {
            return;
        }
        // Not woken by kicks meanwhile: `armed` stays set until the next round looks at them.
        let deadline = std::time::Instant::now() + shared.patience;
        while let Some(left) = deadline.checked_duration_since(std::time::Instant::now()).filter(|left| !left.is_zero())
        {
            (state, _) = shared.wake.wait_timeout(state, left);
            if state.stop {
                return;
            }
        }
        let mut late = false;
        for kick in state.kicks.iter().filter_map(Weak::upgrade) {
            late |= kick.enforce(shared.patience);
        }
        if late {
            // Pairs with itself: another look, for those whose time is not up yet.
            shared.armed.store(true, Ordering::Release);
        }
    }
}
