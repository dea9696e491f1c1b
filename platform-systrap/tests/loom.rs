//! Loom runs what tasks, interrupters and stubs race for through all interleavings:
//! `RUSTFLAGS="--cfg loom" cargo test -p casemate-platform-systrap --test loom --release`
#![cfg(loom)]

#[path = "models/cores.rs"]
mod cores_counts;
#[path = "models/futex.rs"]
mod futex_word;
#[path = "models/line.rs"]
mod line_word;
#[path = "models/mask.rs"]
mod mask_words;
#[path = "models/spares.rs"]
mod spares_kept;
#[path = "models/turns.rs"]
mod turns_row;

use casemate_platform_systrap::kick::{self, Word};
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

struct Model {
    word: AtomicU32,
    /// A kick waits for the stub thread.
    signal: Mutex<bool>,
    arrived: Condvar,
    /// The handler's note in the shared line.
    kicked: AtomicBool,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            word: AtomicU32::new(kick::IDLE),
            signal: Mutex::new(false),
            arrived: Condvar::new(),
            kicked: AtomicBool::new(false),
        }
    }
}

impl Word for Model {
    fn cas(&self, old: u32, new: u32) -> bool {
        self.word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
    fn set(&self, bits: u32) -> u32 {
        self.word.fetch_or(bits, Ordering::AcqRel)
    }
    fn clear(&self, bits: u32) -> u32 {
        self.word.fetch_and(!bits, Ordering::AcqRel)
    }
}

/// How guest code ended.
#[derive(PartialEq)]
enum Event {
    Syscall,
    Kicked,
}

impl Model {
    fn interrupt(&self) {
        if kick::interrupt(self) {
            self.send();
        }
    }

    fn send(&self) {
        *self.signal.lock().unwrap() = true;
        self.arrived.notify_one();
    }

    fn take_signal(&self) -> bool {
        std::mem::take(&mut *self.signal.lock().unwrap())
    }

    /// The stub from the kernel's answer to the next hand-over; guest code makes `calls` system calls and then spins.
    fn stub(&self, calls: &mut u32) -> Event {
        // A signal that came while the thread waited, or comes in the exit: the handler notes it and restarts the exit.
        if self.take_signal() {
            self.kicked.store(true, Ordering::Release);
        }
        if self.kicked.swap(false, Ordering::AcqRel) {
            return Event::Kicked;
        }
        if *calls > 0 {
            *calls -= 1;
            return Event::Syscall;
        }
        // Guest code that never stops by itself: a lost kick would keep it here, which loom reports.
        let mut signal = self.signal.lock().unwrap();
        while !std::mem::take(&mut *signal) {
            signal = self.arrived.wait(signal).unwrap();
        }
        Event::Kicked
    }

    /// `switch`: whether it was interrupted.
    fn switch(&self, calls: &mut u32) -> bool {
        loop {
            self.kicked.store(false, Ordering::Release);
            if !kick::begin(self) {
                return true;
            }
            let event = self.stub(calls);
            kick::end(self);
            if event == Event::Syscall {
                return false;
            }
            if kick::consume(self) {
                return true;
            }
        }
    }
}

#[test]
fn an_interrupt_is_never_lost() {
    for calls in 0..2 {
        loom::model(move || {
            let model = Arc::new(Model::default());
            let other = Arc::clone(&model);
            let interrupter = thread::spawn(move || other.interrupt());
            let mut left = calls;
            while !model.switch(&mut left) {}
            interrupter.join().unwrap();
        });
    }
}

#[test]
fn an_interrupt_is_reported_after_it_was_made() {
    loom::model(|| {
        let model = Arc::new(Model::default());
        let done = Arc::new(AtomicU32::new(0));
        let (other, seen) = (Arc::clone(&model), Arc::clone(&done));
        let interrupter = thread::spawn(move || {
            seen.store(1, Ordering::Relaxed);
            other.interrupt();
        });
        let mut left = 1;
        while !model.switch(&mut left) {}
        assert_eq!(done.load(Ordering::Relaxed), 1, "what came before the interrupt is seen");
        interrupter.join().unwrap();
    });
}

#[test]
fn the_second_of_two_interrupts_is_reported_too() {
    loom::model(|| {
        let model = Arc::new(Model::default());
        let other = Arc::clone(&model);
        let interrupter = thread::spawn(move || other.interrupt());
        let mut left = 1;
        while !model.switch(&mut left) {}
        interrupter.join().unwrap();
        // A late kick of the first may still be on its way.
        let other = Arc::clone(&model);
        let interrupter = thread::spawn(move || other.interrupt());
        while !model.switch(&mut left) {}
        interrupter.join().unwrap();
    });
}

/// Hosts without WAIT_KILLABLE_RECV deliver a kick while the kernel still works for the thread.
#[test]
fn a_kick_during_our_work_is_not_lost() {
    loom::model(|| {
        let model = Arc::new(Model::default());
        let other = Arc::clone(&model);
        let interrupter = thread::spawn(move || {
            other.interrupt();
            // Delivered at once, whatever the stub is doing: the handler's note.
            if other.take_signal() {
                other.kicked.store(true, Ordering::Release);
                // If the thread was in guest code by then, the handler hands over instead.
                other.send();
            }
        });
        let mut left = 1;
        while !model.switch(&mut left) {}
        interrupter.join().unwrap();
    });
}
