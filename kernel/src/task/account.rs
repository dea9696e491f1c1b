//! What a thread leaves of itself for `/proc` to tell: the call that it is in, and what its calls have moved.
//!
//! Relaxed throughout: the thread itself writes, anybody reads, and may see a state between two stores.

use std::sync::atomic::{AtomicU64, Ordering};

/// The call that a thread is in, with what `/proc/[pid]/syscall` shows of it.
#[derive(Default)]
pub(crate) struct CurrentCall {
    /// Its number plus one; 0 outside calls.
    number: AtomicU64,
    /// Six arguments, stack pointer, program counter.
    words: [AtomicU64; 8],
}

impl CurrentCall {
    /// It enters call `nr`.
    pub(super) fn enter(&self, nr: u64, words: [u64; 8]) {
        for (to, from) in self.words.iter().zip(words) {
            to.store(from, Ordering::Relaxed);
        }
        self.number.store(nr.wrapping_add(1), Ordering::Relaxed);
    }

    /// Its call is over.
    pub(super) fn leave(&self) {
        self.number.store(0, Ordering::Relaxed);
    }

    /// It stands still outside a call.
    pub(super) fn note_place(&self, stack: u64, pc: u64) {
        let [.., sp, ip] = &self.words;
        sp.store(stack, Ordering::Relaxed);
        ip.store(pc, Ordering::Relaxed);
    }

    pub(super) fn number(&self) -> Option<u64> {
        self.number.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Six arguments, stack pointer, program counter.
    pub(super) fn words(&self) -> [u64; 8] {
        self.words.each_ref().map(|word| word.load(Ordering::Relaxed))
    }
}

/// What system calls have moved, proc_pid_io(5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoTotals {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Calls that read.
    pub reads: u64,
    /// Calls that wrote.
    pub writes: u64,
}

impl IoTotals {
    /// The sum with another.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            read_bytes: self.read_bytes.saturating_add(other.read_bytes),
            written_bytes: self.written_bytes.saturating_add(other.written_bytes),
            reads: self.reads.saturating_add(other.reads),
            writes: self.writes.saturating_add(other.writes),
        }
    }
}

/// [`IoTotals`] in the making, of one thread.
#[derive(Default)]
pub struct IoCounters {
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
}

/// For a counter with one writer.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl IoCounters {
    /// The calling thread, whose counters these are, has read `bytes` with one call.
    pub fn note_read(&self, bytes: usize) {
        bump(&self.reads, 1);
        bump(&self.read_bytes, bytes as u64);
    }

    /// It has written `bytes` with one call.
    pub fn note_write(&self, bytes: usize) {
        bump(&self.writes, 1);
        bump(&self.written_bytes, bytes as u64);
    }

    pub(crate) fn totals(&self) -> IoTotals {
        IoTotals {
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CurrentCall, IoCounters, IoTotals};

    #[test]
    fn a_call_is_told_while_it_lasts() {
        let call = CurrentCall::default();
        assert_eq!(call.number(), None);
        call.enter(0, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((call.number(), call.words()), (Some(0), [1, 2, 3, 4, 5, 6, 7, 8]));
        call.leave();
        call.note_place(9, 10);
        assert_eq!((call.number(), call.words()), (None, [1, 2, 3, 4, 5, 6, 9, 10]));
    }

    #[test]
    fn bytes_and_calls_add_up() {
        let counters = IoCounters::default();
        counters.note_read(3);
        counters.note_read(0);
        counters.note_write(5);
        let totals = IoTotals { read_bytes: 3, written_bytes: 5, reads: 2, writes: 1 };
        assert_eq!(counters.totals(), totals);
        assert_eq!(totals.plus(totals).reads, 4);
    }
}
