//! Loom runs parking, epochs and host threads through all interleavings:
//! `RUSTFLAGS="--cfg loom" cargo test -p casemate-sync --test loom --release`
#![cfg(loom)]

use casemate_sync::epoch::protocol as epoch;
use casemate_sync::protocol as park;
use casemate_sync::{HostTerms, Hosts, Job, ParkOutcome};
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// What a sleep does in a model.
#[derive(Clone, Copy)]
enum Sleep {
    /// As a futex: checks the word and sleeps in one step.
    Futex,
    /// The deadline passes at once.
    Deadline,
    /// Wakes for no reason, but only so often.
    Spurious,
}

struct Word {
    word: AtomicU32,
    sleep: Mutex<Sleep>,
    woken: Condvar,
}

impl Word {
    fn new(sleep: Sleep) -> Arc<Self> {
        Arc::new(Self { word: AtomicU32::new(park::EMPTY), sleep: Mutex::new(sleep), woken: Condvar::new() })
    }
}

impl park::Word for Word {
    fn cas(&self, old: u32, new: u32) -> bool {
        self.word.compare_exchange(old, new, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
    fn swap(&self, new: u32) -> u32 {
        self.word.swap(new, Ordering::AcqRel)
    }
    fn wait(&self, expected: u32, _deadline_ns: Option<u64>) -> park::Slept {
        let mut sleep = self.sleep.lock().unwrap();
        match *sleep {
            Sleep::Deadline => return park::Slept::TimedOut,
            Sleep::Spurious => *sleep = Sleep::Futex,
            Sleep::Futex => {
                // The value only matters for sleeping or not: nothing is synchronised through this load.
                if self.word.load(Ordering::Relaxed) == expected {
                    drop(self.woken.wait(sleep).unwrap());
                }
            }
        }
        park::Slept::Maybe
    }
    fn wake(&self) {
        let _sleep = self.sleep.lock().unwrap();
        self.woken.notify_one();
    }
}

fn a_wake_is_never_lost(sleep: Sleep) {
    loom::model(move || {
        let word = Word::new(sleep);
        let data = Arc::new(AtomicU32::new(0));
        let waker = {
            let (word, data) = (Arc::clone(&word), Arc::clone(&data));
            thread::spawn(move || {
                data.store(1, Ordering::Relaxed);
                park::unpark(&*word);
            })
        };
        assert_eq!(park::park(&*word, None), ParkOutcome::Unparked);
        assert_eq!(data.load(Ordering::Relaxed), 1, "the waker's work is visible");
        waker.join().unwrap();
    });
}

#[test]
fn park_sees_the_wake() {
    a_wake_is_never_lost(Sleep::Futex);
}

#[test]
fn park_survives_spurious_wakes() {
    a_wake_is_never_lost(Sleep::Spurious);
}

#[test]
fn two_wakers_are_one_wake_or_two() {
    loom::model(|| {
        let word = Word::new(Sleep::Futex);
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let word = Arc::clone(&word);
                thread::spawn(move || park::unpark(&*word))
            })
            .collect();
        assert_eq!(park::park(&*word, None), ParkOutcome::Unparked);
        for waker in wakers {
            waker.join().unwrap();
        }
    });
}

#[test]
fn a_wake_against_the_deadline_is_taken_or_remembered() {
    loom::model(|| {
        let word = Word::new(Sleep::Deadline);
        let waker = {
            let word = Arc::clone(&word);
            thread::spawn(move || park::unpark(&*word))
        };
        let first = park::park(&*word, Some(0));
        waker.join().unwrap();
        let second = park::park(&*word, Some(0));
        let wakes = [first, second].iter().filter(|o| **o == ParkOutcome::Unparked).count();
        assert_eq!(wakes, 1);
    });
}

struct Epoch(AtomicU64);

impl epoch::Word for Epoch {
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn store(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }
    fn increment(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// A reader that finds the page mapped must not find it reused.
#[test]
fn what_a_pin_can_see_is_not_reused() {
    loom::model(|| {
        let now = Arc::new(Epoch(AtomicU64::new(1)));
        let slot = Arc::new(Epoch(AtomicU64::new(0)));
        let mapped = Arc::new(AtomicBool::new(true));
        let reused = Arc::new(AtomicBool::new(false));
        let freer = {
            let (now, slot) = (Arc::clone(&now), Arc::clone(&slot));
            let (mapped, reused) = (Arc::clone(&mapped), Arc::clone(&reused));
            thread::spawn(move || {
                mapped.store(false, Ordering::Relaxed);
                let retired = epoch::retire(&*now);
                let oldest = epoch::oldest([&*slot].into_iter());
                if epoch::is_past(retired, oldest) {
                    reused.store(true, Ordering::Relaxed);
                }
            })
        };
        for _ in 0..2 {
            epoch::pin(&*now, &*slot);
            if mapped.load(Ordering::Relaxed) {
                assert!(!reused.load(Ordering::Relaxed), "a pinned reader sees reused memory");
            }
            epoch::unpin(&*slot);
        }
        freer.join().unwrap();
    });
}

fn hosts(most_idle: usize) -> Hosts {
    Hosts::new(HostTerms { name: "job", stack: 0x1000, most_idle })
}

/// How many jobs are done.
struct Done {
    count: Mutex<u32>,
    changed: Condvar,
}

impl Done {
    fn new() -> Arc<Self> {
        Arc::new(Self { count: Mutex::new(0), changed: Condvar::new() })
    }

    /// A job that counts itself.
    fn job(done: &Arc<Self>) -> Job {
        let (word, done) = (Arc::new(AtomicU32::new(0)), Arc::clone(done));
        word.store(7, Ordering::Relaxed);
        Box::new(move || {
            assert_eq!(word.load(Ordering::Relaxed), 7, "what its giver did before is seen");
            *done.count.lock().unwrap() += 1;
            done.changed.notify_all();
        })
    }

    /// Waits until `count` are done: for a job that is lost, for ever.
    fn wait(&self, count: u32) {
        let mut done = self.count.lock().unwrap();
        while *done != count {
            done = self.changed.wait(done).unwrap();
        }
    }
}

/// Jobs that are given while others end: each is done once. When their owner goes, no host thread is left: loom would report one
/// that sleeps, and the references that it holds.
#[test]
fn each_job_is_done_once_and_no_host_thread_is_left() {
    for most_idle in 0..=2 {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(move || {
            let hosts = hosts(most_idle);
            let done = Done::new();
            (0..3).for_each(|_| hosts.start(Done::job(&done)).unwrap());
            drop(hosts);
            done.wait(3);
        });
    }
}

/// Two tasks start others at the same time: no desk gets two jobs.
#[test]
fn an_idle_host_thread_is_woken_by_one() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let hosts = Arc::new(hosts(1));
        let done = Done::new();
        hosts.start(Done::job(&done)).unwrap();
        let (other, counted) = (Arc::clone(&hosts), Arc::clone(&done));
        let giver = thread::spawn(move || other.start(Done::job(&counted)).unwrap());
        hosts.start(Done::job(&done)).unwrap();
        giver.join().unwrap();
        drop(hosts);
        done.wait(3);
    });
}

/// The last task of a kernel drops it, and with it its own host thread's owner.
#[test]
fn a_job_may_be_the_last_that_holds_its_owner() {
    loom::model(|| {
        let hosts = Arc::new(hosts(1));
        let own = Arc::clone(&hosts);
        hosts.start(Box::new(move || drop(own))).unwrap();
        drop(hosts);
    });
}
