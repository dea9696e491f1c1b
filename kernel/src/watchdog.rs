//! Tells of tasks that are stuck in the kernel: for many looks in a row neither asleep nor in guest code, in one and the same
//! stay. That is a bug of ours, or a host call that does not come back, and the line names call and run state.
//!
//! Looks happen only while some task is awake. A look that finds all asleep is the last one, until a task that wakes finds
//! the watchdog asleep and wakes it:
//!
//! ```text
//!   task                               watchdog
//!   quiet := false      (SeqCst)       armed := false     (SeqCst)
//!   armed? else arm     (SeqCst)       all quiet? else armed := true
//! ```
//! Either the task sees that nobody watches, or the watchdog sees that it is awake. Looks are counted and not time, so that a
//! sandbox that the host stops, or starves as a whole, is not told of.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use sync::{Condvar, LockClass, Mutex};

use crate::ids::Tid;
use crate::kernel::Kernel;
use crate::task::Thread;

const WATCHDOG: LockClass = LockClass::leaf("kernel.watchdog");

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);
/// Looks in one stay that make a task stuck: 20 seconds.
const PATIENCE: u32 = 40;
/// Most lines in the life of a sandbox.
const MOST_LINES: u32 = 16;

/// What a task has done so far: each stay in guest code and each sleep changes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Progress {
    pub(crate) guest_ticks: u64,
    pub(crate) slept_ns: u64,
}

#[derive(Default)]
struct State {
    started: bool,
    ended: bool,
}

#[derive(Default)]
struct Stay {
    progress: Option<Progress>,
    looks: u32,
}

/// What the looks have found so far.
#[derive(Default)]
pub(crate) struct Looks {
    stays: HashMap<Tid, Stay>,
    lines: u32,
}

/// See the module.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
}

struct Shared {
    armed: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        let state = Mutex::new(WATCHDOG, State::default());
        Self { shared: Arc::new(Shared { armed: AtomicBool::new(false), state, wake: Condvar::new() }) }
    }

    /// A task of `kernel` is awake.
    pub(crate) fn notice(&self, kernel: &Arc<Kernel>) {
        if !self.shared.armed.load(Ordering::SeqCst) {
            self.arm(kernel);
        }
    }

    #[cold]
    fn arm(&self, kernel: &Arc<Kernel>) {
        if self.shared.armed.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.shared.state.lock();
        if !state.started {
            let (shared, kernel) = (Arc::clone(&self.shared), Arc::downgrade(kernel));
            let builder = std::thread::Builder::new().name("watchdog".into()).stack_size(64 << 10);
            match builder.spawn(move || shared.run(&kernel)) {
                Ok(_) => state.started = true,
                // Nothing depends on it; the next task that wakes tries again.
                Err(_) => self.shared.armed.store(false, Ordering::SeqCst),
            }
        }
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn run(&self, kernel: &Weak<Kernel>) {
        let mut looks = Looks::default();
        let mut state = self.state.lock();
        loop {
            while !state.ended && !self.armed.load(Ordering::SeqCst) {
                state = self.wake.wait(state);
            }
            let due = Instant::now() + PERIOD;
            while !state.ended
                && let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            {
                (state, _) = self.wake.wait_timeout(state, left);
            }
            if state.ended {
                return;
            }
            drop(state);
            let Some(kernel) = kernel.upgrade() else { return };
            for line in looks.look(&kernel) {
                log::warn!("{line}");
                kernel.tell_stuck(&line);
            }
            self.armed.store(false, Ordering::SeqCst);
            if kernel.tasks().lock().threads.values().any(|thread| thread.attention().is_awake()) {
                self.armed.store(true, Ordering::SeqCst);
            }
            drop(kernel);
            state = self.state.lock();
        }
    }
}

impl Looks {
    /// One look: a line for each task that has become stuck.
    pub(crate) fn look(&mut self, kernel: &Kernel) -> Vec<String> {
        let busy: Vec<Arc<Thread>> = kernel
            .tasks()
            .lock()
            .threads
            .values()
            .filter(|thread| thread.attention().is_awake() && !thread.attention().is_in_guest())
            .cloned()
            .collect();
        let mut stays = HashMap::with_capacity(busy.len());
        let mut lines = Vec::new();
        for thread in busy {
            let progress = Some(thread.clock.progress());
            let before = self.stays.remove(&thread.tid()).filter(|stay| stay.progress == progress);
            let looks = before.map_or(1, |stay| stay.looks.saturating_add(1));
            if looks == PATIENCE && self.lines < MOST_LINES {
                self.lines += 1;
                lines.push(describe(&thread));
            }
            stays.insert(thread.tid(), Stay { progress, looks });
        }
        self.stays = stays;
        lines
    }
}

fn describe(thread: &Thread) -> String {
    let comm = thread.comm();
    let name: String = String::from_utf8_lossy(comm.as_bytes()).chars().filter(|c| !c.is_control()).collect();
    let call = thread.current_call().map_or_else(String::new, |nr| format!(" call {nr},"));
    format!("task {} ({name}) is stuck in the kernel:{call} state {}", thread.tid(), thread.state().name())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::{Looks, PATIENCE};
    use crate::harness::{Sandbox, call, exit};
    use crate::task::ExitStatus;
    use crate::time::{ClockId, SleepRequest};

    #[test]
    fn a_task_that_does_not_come_back_is_told_of_once() {
        let (release, held) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel::<()>();
        let (held, tell) = (Mutex::new(held), Mutex::new(tell));
        let sandbox = Sandbox::new(vec![
            call(move |_| {
                tell.lock().unwrap().send(()).unwrap();
                held.lock().unwrap().recv().unwrap();
                Ok(0)
            }),
            exit(3),
        ]);
        let kernel = Arc::clone(&sandbox.kernel);
        sandbox.start();
        told.recv().unwrap();
        let mut looks = Looks::default();
        let lines: Vec<_> = (0..3 * PATIENCE).flat_map(|_| looks.look(&kernel)).collect();
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(line.contains("is stuck in the kernel: call ") && line.ends_with("state SyscallEnter"), "{line}");
        release.send(()).unwrap();
        assert_eq!(sandbox.finish(), ExitStatus::Exited(3));
        assert!(looks.look(&kernel).is_empty() && looks.stays.is_empty());
    }

    #[test]
    fn a_task_that_sleeps_is_not_stuck() {
        let sandbox = Sandbox::new(vec![
            call(|task| {
                let forever = SleepRequest::For(u64::MAX / 4);
                task.nanosleep(ClockId::Monotonic, forever, None)
            }),
            exit(0),
        ]);
        let kernel = Arc::clone(&sandbox.kernel);
        let main = sandbox.start();
        let thread = kernel.tasks().thread(main.leader()).unwrap();
        while thread.attention().is_awake() {
            std::thread::yield_now();
        }
        let mut looks = Looks::default();
        assert!((0..3 * PATIENCE).all(|_| looks.look(&kernel).is_empty()));
        kernel.signal_main(crate::signal::types::Signal::KILL);
        sandbox.finish();
    }
}
