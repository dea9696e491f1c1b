//! The word of the shared line: the kernel's side as it is, the stub's assembly as a mirror, the host's notifications as
//! a small model, and kicks that withdraw them.

use casemate_platform_systrap::line::{self, APP_SPINNING, REQ_BLOCKED, REQ_SPINNING, Seen, Wait, Word};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// A seccomp notification of the one stub thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Note {
    None,
    Queued,
    Received,
    Answered,
    Withdrawn,
    /// The thread has ended.
    Dead,
}

/// What a kick may withdraw.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    /// Only what the kernel has not received yet (5.19 and later).
    WaitsKillably,
    /// Anything.
    Old,
}

struct Pair {
    word: State,
    note: Mutex<Note>,
    changed: Condvar,
    request: UnsafeCell<u32>,
    reply: UnsafeCell<u32>,
}

struct State(AtomicU32);

impl Word for State {
    fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
    fn cas(&self, old: u32, new: u32) -> Result<(), u32> {
        self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }
    fn store(&self, value: u32) {
        self.0.store(value, Ordering::Release);
    }
}

impl Pair {
    fn new() -> Self {
        Self {
            word: State(AtomicU32::new(0)),
            note: Mutex::new(Note::None),
            changed: Condvar::new(),
            request: UnsafeCell::new(0),
            reply: UnsafeCell::new(0),
        }
    }

    fn set(&self, note: Note) {
        *self.note.lock().unwrap() = note;
        self.changed.notify_all();
    }

    // ---- the host

    /// The hand-over call: until it is answered, or a kick ends it.
    fn hand_over(&self) {
        let mut note = self.note.lock().unwrap();
        *note = Note::Queued;
        self.changed.notify_all();
        while !matches!(*note, Note::Answered | Note::Withdrawn) {
            note = self.changed.wait(note).unwrap();
        }
        *note = Note::None;
    }

    /// NOTIF_RECV; `false`: the thread is dead.
    fn receive(&self) -> bool {
        let mut note = self.note.lock().unwrap();
        loop {
            match *note {
                Note::Queued => {
                    *note = Note::Received;
                    return true;
                }
                Note::Dead => return false,
                _ => note = self.changed.wait(note).unwrap(),
            }
        }
    }

    /// NOTIF_SEND: to the notification that was received, if the thread still waits in it.
    fn resume(&self) {
        let mut note = self.note.lock().unwrap();
        if *note == Note::Received {
            *note = Note::Answered;
            self.changed.notify_all();
        }
    }

    fn kick(&self, host: Host) {
        let mut note = self.note.lock().unwrap();
        if *note == Note::Queued || (*note == Note::Received && host == Host::Old) {
            *note = Note::Withdrawn;
            self.changed.notify_all();
        }
    }

    // ---- the stub, as in `.Lcs_handoff`

    fn call(&self, value: u32, looks: u32) -> u32 {
        self.request.with_mut(|place| {
            // SAFETY: loom reports accesses at the same time.
            unsafe { *place = value }
        });
        if self.word.cas(APP_SPINNING, REQ_SPINNING).is_ok() {
            for _ in 0..looks {
                if self.word.load() != REQ_SPINNING {
                    break;
                }
                thread::yield_now();
            }
            match self.word.cas(REQ_SPINNING, REQ_BLOCKED) {
                Err(value) if value < REQ_SPINNING => {}
                _ => self.block(),
            }
        } else {
            self.word.store(REQ_BLOCKED);
            self.block();
        }
        self.reply.with(|place| {
            // SAFETY: as above.
            unsafe { *place }
        })
    }

    fn block(&self) {
        loop {
            self.hand_over();
            if self.word.load() < REQ_SPINNING {
                return;
            }
        }
    }

    // ---- the kernel thread, as in `Handover::run`

    /// Serves until the stub is dead; each answer is the request plus 100. `rest`: it says before it answers that it will
    /// take long.
    fn serve(&self, waits: &[Wait], looks: u32, rest: bool) -> u32 {
        let mut served = 0;
        let mut pending = self.receive();
        loop {
            let asked = self.request.with(|place| {
                // SAFETY: as above.
                unsafe { *place }
            });
            served += 1;
            assert_eq!(asked, served, "each request is seen once, in order");
            if rest {
                line::rest(&self.word);
            }
            self.reply.with_mut(|place| {
                // SAFETY: as above.
                unsafe { *place = asked + 100 }
            });
            let wait = waits[(served as usize - 1) % waits.len()];
            if pending || !line::answer(&self.word, wait) {
                if !pending {
                    assert!(self.receive(), "a stub that has a request lives");
                }
                line::release(&self.word, wait);
                self.resume();
            }
            pending = false;
            if wait == Wait::Spin {
                let mut seen = Seen::App;
                for _ in 0..looks {
                    seen = line::seen(self.word.load());
                    if seen != Seen::App {
                        break;
                    }
                    thread::yield_now();
                }
                if seen == Seen::App {
                    seen = line::give_up(&self.word);
                }
                if seen == Seen::Request {
                    continue;
                }
            }
            loop {
                if !self.receive() {
                    return served;
                }
                if line::seen(self.word.load()) == Seen::Request {
                    pending = true;
                    break;
                }
                self.resume();
            }
        }
    }
}

fn check(calls: u32, waits: &'static [Wait], looks: u32, rest: bool, kick: Option<Host>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(if kick.is_some() { 2 } else { 3 });
    model.check(move || {
        let pair = Arc::new(Pair::new());
        let other = Arc::clone(&pair);
        let stub = thread::spawn(move || {
            for value in 1..=calls {
                assert_eq!(other.call(value, looks), value + 100);
            }
            other.set(Note::Dead);
        });
        let kicker = kick.map(|host| {
            let other = Arc::clone(&pair);
            thread::spawn(move || other.kick(host))
        });
        assert_eq!(pair.serve(waits, looks, rest), calls);
        stub.join().unwrap();
        if let Some(kicker) = kicker {
            kicker.join().unwrap();
        }
    });
}

#[test]
fn every_request_is_answered_once() {
    for waits in [&[Wait::Sleep][..], &[Wait::Spin], &[Wait::Spin, Wait::Sleep]] {
        for looks in 0..2 {
            check(3, waits, looks, false, None);
        }
    }
}

#[test]
fn a_kernel_that_takes_long_says_so_and_is_not_missed() {
    check(3, &[Wait::Spin], 1, true, None);
}

#[test]
fn a_kick_withdraws_a_notification_and_nothing_is_lost() {
    for host in [Host::WaitsKillably, Host::Old] {
        check(2, &[Wait::Sleep], 0, false, Some(host));
        check(2, &[Wait::Spin, Wait::Sleep], 1, false, Some(host));
        check(2, &[Wait::Spin], 0, true, Some(host));
    }
}
