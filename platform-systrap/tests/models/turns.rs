//! The row of those who wait for their turn, as it is. Waits without an end show what the patience of real ones would hide: a
//! wake-up that is lost is a deadlock here.

use std::time::Duration;

use casemate_platform_systrap::turns::{Turn, Turns};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

/// Without an end, in a model.
const FOREVER: Duration = Duration::MAX;
/// Ends at once, there.
const SHORT: Duration = Duration::from_millis(1);

/// Places, and those who wait for one.
struct Room {
    turns: Turns,
    free: AtomicU32,
    taken: AtomicU32,
}

impl Room {
    fn new(free: u32) -> Arc<Self> {
        Arc::new(Self { turns: Turns::default(), free: AtomicU32::new(free), taken: AtomicU32::new(0) })
    }

    fn take(&self) -> bool {
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1)).is_ok()
    }

    fn offer(&self) {
        self.turns.grant(|| self.take());
    }

    fn wait(&self, turn: &Arc<Turn>, slice: Duration) -> bool {
        self.turns.wait(turn, slice, || self.offer())
    }

    fn use_place(&self) {
        assert_eq!(self.taken.fetch_add(1, Ordering::Relaxed), 0, "one place, one at a time");
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    fn give_back(&self) {
        self.free.fetch_add(1, Ordering::Relaxed);
        self.offer();
    }

    /// All have gone.
    fn is_as_before(&self, places: u32) {
        assert_eq!(self.free.load(Ordering::Relaxed), places, "no place is lost, none is there twice");
        assert!(!self.turns.are_wanted());
    }
}

fn check(bound: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(bound);
    model.check(body);
}

/// Whoever waits gets the place, whenever it becomes free; nobody sleeps on beside a free one.
#[test]
fn a_place_that_is_given_back_is_offered_at_once() {
    for others in 1..=2 {
        check(if others == 1 { 4 } else { 2 }, move || {
            let room = Room::new(1);
            let task = |room: Arc<Room>| {
                assert!(room.wait(&Arc::new(Turn::default()), FOREVER));
                room.use_place();
                room.give_back();
            };
            let threads: Vec<_> = (0..others)
                .map(|_| {
                    let room = Arc::clone(&room);
                    thread::spawn(move || task(room))
                })
                .collect();
            task(Arc::clone(&room));
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            room.is_as_before(1);
        });
    }
}

/// The holder of the last place never waited for it: the usual case.
#[test]
fn a_place_that_nobody_waited_for_is_offered_too() {
    check(4, || {
        let room = Room::new(0);
        let other = Arc::clone(&room);
        let holder = thread::spawn(move || other.give_back());
        assert!(room.wait(&Arc::new(Turn::default()), FOREVER));
        room.give_back();
        holder.join().unwrap();
        room.is_as_before(1);
    });
}

/// A turn that comes while patience ends is either taken or was never given.
#[test]
fn a_wait_that_ends_in_vain_leaves_no_place_behind() {
    check(3, || {
        let room = Room::new(1);
        let other = Arc::clone(&room);
        let holder = thread::spawn(move || {
            let turn = Arc::new(Turn::default());
            for _ in 0..2 {
                if other.wait(&turn, SHORT) {
                    other.use_place();
                    other.give_back();
                }
            }
        });
        let turn = Arc::new(Turn::default());
        for _ in 0..2 {
            if room.wait(&turn, SHORT) {
                room.use_place();
                room.give_back();
            }
        }
        holder.join().unwrap();
        room.is_as_before(1);
    });
}

/// An interrupt may come at any time after the task has said that it runs, which is before the wait.
#[test]
fn an_interrupt_ends_the_wait() {
    for places in 0..2 {
        check(4, move || {
            let room = Room::new(places);
            let turn = Arc::new(Turn::default());
            let other = Arc::clone(&turn);
            let interrupter = thread::spawn(move || other.hurry());
            if room.wait(&turn, FOREVER) {
                room.give_back();
            }
            interrupter.join().unwrap();
            room.is_as_before(places);
        });
    }
}

/// A place comes and an interrupt, at the same time, for the first of two.
#[test]
fn an_interrupted_task_does_not_keep_the_next_from_its_turn() {
    check(3, || {
        let room = Room::new(0);
        let turn = Arc::new(Turn::default());
        let (hurried, holder) = (Arc::clone(&turn), Arc::clone(&room));
        let busy = thread::spawn(move || {
            hurried.hurry();
            holder.give_back();
        });
        let other = Arc::clone(&room);
        let second = thread::spawn(move || {
            assert!(other.wait(&Arc::new(Turn::default()), FOREVER));
            other.use_place();
            other.give_back();
        });
        if room.wait(&turn, FOREVER) {
            room.use_place();
            room.give_back();
        }
        busy.join().unwrap();
        second.join().unwrap();
        room.is_as_before(1);
    });
}
