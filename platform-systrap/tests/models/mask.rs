//! The mask that stubs change alone: the kernel's two operations as they are, the stub's assembly and what the kernel does
//! with signals as mirrors. No signal is lost, whichever way the changes of masks, the sender and the kicks interleave.

use casemate_platform_systrap::mask::{self, Words};
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// The one signal of the model.
const SIGNAL: u64 = 1;

struct Thread {
    mask: AtomicU64,
    open: AtomicU64,
    /// It was told to look, by a kick that finds it wherever it is.
    kicked: AtomicBool,
}

impl Words for Thread {
    fn mask(&self) -> u64 {
        self.mask.load(Ordering::Acquire)
    }
    fn set_open(&self, open: u64) {
        self.open.store(open, Ordering::Release);
    }
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// A process whose signals are for any of its threads.
struct Process {
    threads: Vec<Thread>,
    /// What is pending for the process.
    pending: Mutex<u64>,
    taken: AtomicU64,
}

impl Process {
    fn new(masks: &[u64]) -> Arc<Self> {
        let threads = masks
            .iter()
            .map(|mask| Thread { mask: AtomicU64::new(*mask), open: AtomicU64::new(1), kicked: AtomicBool::new(false) })
            .collect();
        Arc::new(Self { threads, pending: Mutex::new(0), taken: AtomicU64::new(0) })
    }

    /// `send_locked`, for the group.
    fn send(&self) {
        let mut pending = self.pending.lock().unwrap();
        *pending |= SIGNAL;
        for thread in &self.threads {
            mask::close(thread);
        }
        if let Some(taker) = self.threads.iter().find(|thread| thread.mask() & SIGNAL == 0) {
            taker.kicked.store(true, Ordering::Release);
        }
    }

    /// `next_signal`.
    fn look(&self, index: usize) {
        let own = &self.threads[index];
        let mut pending = self.pending.lock().unwrap();
        own.kicked.store(false, Ordering::Release);
        if *pending & !own.mask() != 0 {
            *pending = 0;
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        self.reopen(*pending, own);
        self.retarget(*pending, index);
    }

    fn reopen(&self, pending: u64, own: &Thread) {
        if pending == 0 {
            mask::open(own);
        }
    }

    fn retarget(&self, pending: u64, but: usize) {
        let mut others = self.threads.iter().enumerate().filter(|(index, _)| *index != but);
        if pending != 0
            && let Some((_, other)) = others.find(|(_, other)| other.mask() & SIGNAL == 0)
        {
            other.kicked.store(true, Ordering::Release);
        }
    }

    /// The call as the kernel makes it: `change_mask`, and what comes before the thread goes on.
    fn ordinary(&self, index: usize, new: u64) {
        let own = &self.threads[index];
        {
            let pending = self.pending.lock().unwrap();
            own.mask.store(new, Ordering::Release);
            self.reopen(*pending, own);
            self.retarget(*pending & new, index);
        }
        self.look(index);
    }

    /// The call as the stub makes it.
    fn change(&self, index: usize, new: u64) {
        let own = &self.threads[index];
        if own.open.load(Ordering::Acquire) == 0 {
            return self.ordinary(index, new);
        }
        // As xchg, which orders all that is before it and all that is after it.
        fence(Ordering::SeqCst);
        own.mask.swap(new, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if own.open.load(Ordering::Acquire) == 0 {
            self.look(index);
        }
    }

    /// Guest code that changes its mask to each of `masks`.
    fn run(&self, index: usize, masks: &[u64]) {
        for mask in masks {
            self.change(index, *mask);
            // A kick that has come by now; one that comes later finds it at the end.
            if self.threads[index].kicked.load(Ordering::Acquire) {
                self.look(index);
            }
        }
    }

    /// All run on in guest code, with the masks that they have: whoever was kicked looks.
    fn settle(&self) {
        while let Some(index) = self.threads.iter().position(|thread| thread.kicked.load(Ordering::Acquire)) {
            self.look(index);
        }
    }

    fn check(&self) {
        self.settle();
        let open = self.threads.iter().any(|thread| thread.mask() & SIGNAL == 0);
        let (pending, taken) = (*self.pending.lock().unwrap(), self.taken.load(Ordering::Relaxed));
        assert!(!open || taken == 1, "a thread that does not block it runs on, and the signal is lost");
        assert_eq!(pending == 0, taken == 1, "taken or pending, not both");
        for thread in &self.threads {
            assert!(pending == 0 || thread.open.load(Ordering::Acquire) == 0, "open while something is pending");
        }
    }
}

fn race(first: u64, changes: &'static [u64]) {
    loom::model(move || {
        let process = Process::new(&[first]);
        let sender = Arc::clone(&process);
        let sender = thread::spawn(move || sender.send());
        process.run(0, changes);
        sender.join().unwrap();
        process.check();
    });
}

#[test]
fn a_thread_that_unblocks_a_signal_takes_it() {
    race(SIGNAL, &[0]);
    race(SIGNAL, &[0, SIGNAL, 0]);
}

#[test]
fn a_thread_that_blocks_a_signal_keeps_it() {
    race(0, &[SIGNAL]);
    race(0, &[SIGNAL, 0]);
}

#[test]
fn one_of_two_threads_takes_what_is_for_both() {
    for (masks, first, second) in [
        ([0, SIGNAL], &[SIGNAL][..], &[0][..]),
        ([0, SIGNAL], &[SIGNAL, 0][..], &[][..]),
        ([SIGNAL, SIGNAL], &[0][..], &[0][..]),
        ([0, 0], &[SIGNAL][..], &[][..]),
    ] {
        loom::model(move || {
            let process = Process::new(&masks);
            let (sender, other) = (Arc::clone(&process), Arc::clone(&process));
            let sender = thread::spawn(move || sender.send());
            let other = thread::spawn(move || other.run(1, second));
            process.run(0, first);
            sender.join().unwrap();
            other.join().unwrap();
            process.check();
        });
    }
}
