//! The word of the shared line where there are no listeners: the kernel's side as it is, the stub's assembly as a mirror,
//! the host's futex as a small model, kicks that end waits early, and a stub that dies at any point.

use casemate_platform_systrap::line::{self, APP_SPINNING, Futex, REQ_BLOCKED, REQ_SPINNING, Seen, Wait, Word};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

struct Pair {
    word: AtomicU32,
    /// The host's lock of the futex: looking at the word and falling asleep is one step. Counts wake-ups, so that none is
    /// taken for a spurious one.
    queue: Mutex<u32>,
    woken: Condvar,
    dead: AtomicBool,
    request: UnsafeCell<u32>,
    reply: UnsafeCell<u32>,
}

impl Word for Pair {
    fn load(&self) -> u32 {
        self.word.load(Ordering::Acquire)
    }
    fn cas(&self, old: u32, new: u32) -> Result<(), u32> {
        self.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }
    fn store(&self, value: u32) {
        self.word.store(value, Ordering::Release);
    }
}

impl Futex for Pair {
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
    fn wait(&self, value: u32) {
        let mut queue = self.queue.lock().unwrap();
        let before = *queue;
        if self.load() == value {
            while *queue == before {
                queue = self.woken.wait(queue).unwrap();
            }
        }
    }
    fn wake(&self) {
        *self.queue.lock().unwrap() += 1;
        self.woken.notify_all();
    }
}

impl Pair {
    fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            queue: Mutex::new(0),
            woken: Condvar::new(),
            dead: AtomicBool::new(false),
            request: UnsafeCell::new(0),
            reply: UnsafeCell::new(0),
        }
    }

    // ---- the stub, as in `.Lcs_handoff` and `.Lcs_futex`

    /// Hands over; whether it then waits for an answer, or has it already.
    fn post(&self, value: u32, looks: u32) -> bool {
        self.request.with_mut(|place| {
            // SAFETY: loom reports accesses at the same time.
            unsafe { *place = value }
        });
        if self.cas(APP_SPINNING, REQ_SPINNING).is_err() {
            self.store(REQ_BLOCKED);
            self.wake();
            return true;
        }
        for _ in 0..looks {
            if self.load() != REQ_SPINNING {
                break;
            }
            thread::yield_now();
        }
        !matches!(self.cas(REQ_SPINNING, REQ_BLOCKED), Err(value) if value < REQ_SPINNING)
    }

    fn call(&self, value: u32, looks: u32) -> u32 {
        if self.post(value, looks) {
            while self.load() >= REQ_SPINNING {
                self.wait(REQ_BLOCKED);
            }
        }
        self.reply.with(|place| {
            // SAFETY: as above.
            unsafe { *place }
        })
    }

    // ---- the kernel thread, as in `Handover::run`

    /// Serves until the stub is dead; each answer is the request plus 100.
    fn serve(&self, wait: Wait, looks: u32, rest: bool) -> u32 {
        let mut served = 0;
        let mut seen = line::sleep(self);
        while let Some(found) = seen {
            if found != Seen::Request {
                assert!(self.is_dead(), "only death writes nonsense");
                break;
            }
            let asked = self.request.with(|place| {
                // SAFETY: as above.
                unsafe { *place }
            });
            served += 1;
            assert_eq!(asked, served, "each request is seen once, in order");
            if rest {
                line::rest(self);
            }
            self.reply.with_mut(|place| {
                // SAFETY: as above.
                unsafe { *place = asked + 100 }
            });
            if !line::answer(self, wait) {
                line::release(self, wait);
                self.wake();
            }
            if wait == Wait::Spin {
                let mut watched = Seen::App;
                for _ in 0..looks {
                    watched = line::seen(self.load());
                    if watched != Seen::App {
                        break;
                    }
                    thread::yield_now();
                }
                if watched == Seen::App {
                    watched = line::give_up(self);
                }
                if watched != Seen::App {
                    seen = Some(watched);
                    continue;
                }
            }
            seen = line::sleep(self);
        }
        served
    }

    /// The watcher's thread, once the host has told it.
    fn die(&self) {
        self.dead.store(true, Ordering::Release);
        line::bury(self);
    }
}

fn model(bound: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(bound);
    model.check(body);
}

/// The stub makes `calls` calls and dies.
fn check(calls: u32, wait: Wait, looks: u32, rest: bool) {
    model(3, move || {
        let pair = Arc::new(Pair::new());
        let other = Arc::clone(&pair);
        let stub = thread::spawn(move || {
            for value in 1..=calls {
                assert_eq!(other.call(value, looks), value + 100);
            }
            other.die();
        });
        assert_eq!(pair.serve(wait, looks, rest), calls);
        stub.join().unwrap();
    });
}

#[test]
fn every_request_is_answered_once() {
    for wait in [Wait::Sleep, Wait::Spin] {
        for looks in 0..2 {
            check(2, wait, looks, false);
        }
    }
}

#[test]
fn a_kernel_that_takes_long_says_so_and_is_not_missed() {
    check(2, Wait::Spin, 1, true);
}

/// It dies with its request made, while the kernel serves it or has answered: whatever the kernel's answer goes over, its
/// thread does not sleep on.
#[test]
fn a_death_is_never_missed() {
    for wait in [Wait::Sleep, Wait::Spin] {
        model(3, move || {
            let pair = Arc::new(Pair::new());
            let other = Arc::clone(&pair);
            let stub = thread::spawn(move || {
                other.post(1, 0);
                other.die();
            });
            assert!(pair.serve(wait, 0, false) <= 1);
            stub.join().unwrap();
        });
    }
}

/// A wake-up for nobody, as a kick causes it, at any point.
#[test]
fn a_wake_up_for_nothing_changes_nothing() {
    for wait in [Wait::Sleep, Wait::Spin] {
        model(2, move || {
            let pair = Arc::new(Pair::new());
            let (other, kicked) = (Arc::clone(&pair), Arc::clone(&pair));
            let stub = thread::spawn(move || {
                assert_eq!(other.call(1, 0), 101);
                other.die();
            });
            let kicker = thread::spawn(move || kicked.wake());
            assert_eq!(pair.serve(wait, 0, false), 1);
            stub.join().unwrap();
            kicker.join().unwrap();
        });
    }
}
