//! Loom runs waiting for readiness, lists of what is ready and sleeping on words through all interleavings:
//! `RUSTFLAGS="--cfg loom" cargo test -p casemate-waiter --test loom --release`
#![cfg(loom)]

use std::hash::{BuildHasher, Hasher};

use casemate_waiter::ready::{Listed, Mark, ReadyList};
use casemate_waiter::sleepers::{self, Fit, Sleeper, Sleepers};
use casemate_waiter::{EventMask, Mode, WaitQueue, Waiter};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use sync::{LockClass, Parker};

/// A deadline that never comes in a model.
const NEVER: Option<u64> = Some(u64::MAX);

/// One that parks until it is woken.
struct Task(Parker);

impl Task {
    fn new() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self(Parker::new()))
    }

    fn sleep(&self) {
        self.0.park(NEVER);
    }
}

impl Waiter for Task {
    fn wake(&self, _events: EventMask) {
        self.0.unpark();
    }
}

fn waiter(task: &std::sync::Arc<Task>) -> std::sync::Arc<dyn Waiter> {
    std::sync::Arc::clone(task) as _
}

/// All interleavings with at most two preemptions, of what has too many.
fn bounded(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

/// Register, check, sleep; change, wake. A wake that is lost is a deadlock, which loom reports.
#[test]
fn who_registers_before_the_check_is_woken() {
    loom::model(|| {
        let (queue, ready) = (WaitQueue::new(), Arc::new(AtomicBool::new(false)));
        let maker = {
            let (queue, ready) = (queue.clone(), Arc::clone(&ready));
            thread::spawn(move || {
                ready.store(true, Ordering::SeqCst);
                queue.wake(EventMask::IN);
            })
        };
        let task = Task::new();
        let registration = queue.register(waiter(&task), EventMask::IN, Mode::Shared);
        while !ready.load(Ordering::SeqCst) {
            task.sleep();
        }
        drop(registration);
        maker.join().unwrap();
    });
}

/// Of two exclusive waiters one is woken. If that one leaves without making use of it, the other is woken.
#[test]
fn an_exclusive_wake_is_passed_on() {
    bounded(|| {
        let (queue, tokens) = (WaitQueue::new(), Arc::new(AtomicU32::new(0)));
        let leaver = {
            let queue = queue.clone();
            thread::spawn(move || drop(queue.register(waiter(&Task::new()), EventMask::IN, Mode::Exclusive)))
        };
        let maker = {
            let (queue, tokens) = (queue.clone(), Arc::clone(&tokens));
            thread::spawn(move || {
                tokens.store(1, Ordering::SeqCst);
                queue.wake(EventMask::IN);
            })
        };
        let task = Task::new();
        let registration = queue.register(waiter(&task), EventMask::IN, Mode::Exclusive);
        while tokens.load(Ordering::SeqCst) == 0 {
            task.sleep();
        }
        registration.satisfied();
        leaver.join().unwrap();
        maker.join().unwrap();
    });
}

/// A file in a set: a count of bytes, and its mark.
struct File {
    bytes: AtomicU32,
    mark: Mark,
}

impl Listed for File {
    fn mark(&self) -> &Mark {
        &self.mark
    }
}

/// How a file is watched; a level-triggered one that is alone may be asked where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Edge,
    Level,
    LevelInPlace,
}

/// A set with its files, as epoll has them.
struct Set {
    ready: ReadyList<File>,
    queue: WaitQueue,
    file: std::sync::Arc<File>,
}

impl Set {
    fn new() -> std::sync::Arc<Self> {
        let file = std::sync::Arc::new(File { bytes: AtomicU32::new(0), mark: Mark::default() });
        let ready = ReadyList::new(LockClass::leaf("model.ready"));
        std::sync::Arc::new(Self { ready, queue: WaitQueue::new(), file })
    }

    /// The file got a byte.
    fn write(&self) {
        self.file.bytes.fetch_add(1, Ordering::SeqCst);
        self.ready.put(&self.file);
        self.queue.wake(EventMask::READABLE);
    }

    /// What epoll_wait(2) tells; a level-triggered file stays on the list, or returns to it.
    fn collect(&self, how: Trigger) -> bool {
        let ready = |file: &File| file.bytes.load(Ordering::SeqCst) > 0;
        if how == Trigger::LevelInPlace && self.ready.alone().is_some_and(|file| ready(&file)) {
            return true;
        }
        let mut taken = Vec::new();
        self.ready.take_some(1, &mut taken);
        let Some(file) = taken.pop() else { return false };
        let told = ready(&file);
        let stays = told && how != Trigger::Edge && self.ready.reserve(&file);
        let again = if stays { vec![file] } else { Vec::new() };
        if self.ready.put_back(again.into_iter()) {
            self.queue.wake(EventMask::READABLE);
        }
        told
    }

    fn wait(&self, how: Trigger) {
        let task = Task::new();
        let registration = self.queue.register(waiter(&task), EventMask::READABLE, Mode::Shared);
        while !self.collect(how) {
            task.sleep();
        }
        drop(registration);
    }
}

/// Each byte that came is told of, edge-triggered: after the last event there is nothing that nobody was told of.
#[test]
fn no_edge_is_missed() {
    bounded(|| {
        let set = Set::new();
        let writer = {
            let set = std::sync::Arc::clone(&set);
            thread::spawn(move || {
                set.write();
                set.write();
            })
        };
        let mut read = 0;
        while read < 2 {
            set.wait(Trigger::Edge);
            // Reads all there is, as an edge-triggered program must.
            read += set.file.bytes.swap(0, Ordering::SeqCst);
        }
        writer.join().unwrap();
    });
}

/// Two wait for a file that stays ready: both are told.
#[test]
fn a_level_is_told_to_all_who_wait() {
    let all = |one: Trigger, another: Trigger| {
        bounded(move || {
            let set = Set::new();
            let other = {
                let set = std::sync::Arc::clone(&set);
                thread::spawn(move || set.wait(another))
            };
            set.write();
            set.wait(one);
            other.join().unwrap();
        });
    };
    all(Trigger::Level, Trigger::Level);
    all(Trigger::Level, Trigger::LevelInPlace);
    all(Trigger::LevelInPlace, Trigger::LevelInPlace);
}

/// One bucket for all keys, or one for each.
#[derive(Clone, Copy)]
struct Spread(u64);

struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = u64::from(bytes.first().copied().unwrap_or(0)) % self.0.max(1);
    }
}

impl BuildHasher for Spread {
    type Hasher = Plain;

    fn build_hasher(&self) -> Plain {
        Plain(self.0)
    }
}

type Who = std::sync::Arc<Task>;

/// Two words and who sleeps on them.
struct Words {
    words: [AtomicU32; 2],
    sleepers: Sleepers<u8, Who, Spread>,
}

impl Words {
    fn new(spread: u64) -> std::sync::Arc<Self> {
        let sleepers = Sleepers::new(2, LockClass::new("model.bucket", 10), Spread(spread));
        std::sync::Arc::new(Self { words: [AtomicU32::new(0), AtomicU32::new(0)], sleepers })
    }

    /// FUTEX_WAIT while the word is 0: whether it slept.
    fn enter(&self, key: u8) -> Option<(std::sync::Arc<Sleeper<u8, Who>>, Who)> {
        let task = Task::new();
        let sleeper = Sleeper::new(key, std::sync::Arc::clone(&task));
        let word = &self.words[usize::from(key)];
        let check = || if word.load(Ordering::Relaxed) == 0 { Ok(()) } else { Err(()) };
        self.sleepers.enter(key, &sleeper, check).ok()?;
        Some((sleeper, task))
    }

    fn wait(&self, key: u8) {
        let Some((sleeper, task)) = self.enter(key) else { return };
        while !sleeper.is_woken() {
            task.sleep();
        }
    }

    fn wake(&self, key: u8, count: u32) -> usize {
        let mut woken = Vec::new();
        sleepers::wake(&mut self.sleepers.lock(key), key, count, |_| Fit::Yes, &mut woken).unwrap();
        woken.iter().for_each(|sleeper| sleeper.0.unpark());
        woken.len()
    }

    fn requeue(&self, from: u8, to: u8) -> u32 {
        let moved = self
            .sleepers
            .with_both(from, to, |source, target| sleepers::requeue(source, target, (from, to), 1, |_| Fit::Yes));
        moved.1.unwrap();
        moved.0
    }
}

/// The word is changed, then its sleepers are woken: nobody sleeps on.
#[test]
fn a_futex_wake_is_never_lost() {
    loom::model(|| {
        let words = Words::new(2);
        let waker = {
            let words = std::sync::Arc::clone(&words);
            thread::spawn(move || {
                words.words[0].store(1, Ordering::Relaxed);
                words.wake(0, 1);
            })
        };
        words.wait(0);
        waker.join().unwrap();
    });
}

/// One is moved to another word while it gives up: it is found where it is, or had been woken, and never both or neither.
fn a_moved_sleeper_is_woken_or_leaves(spread: u64) {
    loom::model(move || {
        let words = Words::new(spread);
        let (sleeper, _task) = words.enter(0).unwrap();
        let mover = {
            let words = std::sync::Arc::clone(&words);
            thread::spawn(move || {
                words.requeue(0, 1);
                words.wake(1, 1)
            })
        };
        // The deadline passed.
        let was_woken = words.sleepers.leave(&sleeper);
        let woken = mover.join().unwrap();
        assert_eq!(woken, usize::from(was_woken), "who was woken says so, who left is not counted");
        assert_eq!(words.wake(0, 9) + words.wake(1, 9), 0, "nobody is left");
    });
}

#[test]
fn one_moved_between_buckets_is_woken_or_leaves() {
    a_moved_sleeper_is_woken_or_leaves(2);
}

#[test]
fn one_moved_within_a_bucket_is_woken_or_leaves() {
    a_moved_sleeper_is_woken_or_leaves(1);
}

/// Two requeues in opposite directions, and a wake: no deadlock, and the sleeper is woken by whoever finds it.
#[test]
fn opposite_moves_do_not_lock_each_other_out() {
    loom::model(|| {
        let words = Words::new(2);
        let (sleeper, task) = words.enter(0).unwrap();
        let movers: Vec<_> = [(0, 1), (1, 0)]
            .into_iter()
            .map(|(from, to)| {
                let words = std::sync::Arc::clone(&words);
                thread::spawn(move || words.requeue(from, to))
            })
            .collect();
        for mover in movers {
            mover.join().unwrap();
        }
        assert_eq!(words.wake(0, 1) + words.wake(1, 1), 1);
        while !sleeper.is_woken() {
            task.sleep();
        }
    });
}
