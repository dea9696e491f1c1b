//! When what is free in the heap of our kernel's own objects goes back to the host.
//!
//! A heap keeps what its busiest moment took, because among all that is free again lies something that lives: without this a
//! sandbox would grow with every moment that is busier than those before. The end of a process is when much has become
//! free; an idle sandbox does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The heap.
pub trait Heap: Send + Sync {
    /// Gives pages that hold nothing back to the host.
    fn trim(&self);
}

/// Least time between two trims at ends of processes: a trim takes about a millisecond with what is touched anew after it.
const PAUSE_NS: u64 = 1_000_000_000;

/// A heap that is trimmed now and then.
pub(crate) struct Trimmed {
    heap: Option<Arc<dyn Heap>>,
    /// Monotonic time from which the end of a process trims it. Relaxed: it guards nothing.
    due_ns: AtomicU64,
}

impl Trimmed {
    /// A heap in which nothing is free yet at `now_ns`; `None` is one that is left alone.
    pub(crate) const fn new(heap: Option<Arc<dyn Heap>>, now_ns: u64) -> Self {
        Self { heap, due_ns: AtomicU64::new(now_ns.saturating_add(PAUSE_NS)) }
    }

    /// A process has ended at `now_ns`.
    pub(crate) fn process_ended(&self, now_ns: u64) {
        let Some(heap) = &self.heap else { return };
        let due = self.due_ns.load(Ordering::Relaxed);
        let next = now_ns.saturating_add(PAUSE_NS);
        // Of several that end at once one does it.
        if now_ns >= due && self.due_ns.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            heap.trim();
        }
    }

    /// Trims it now.
    pub(crate) fn trim(&self) {
        if let Some(heap) = &self.heap {
            heap.trim();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{Heap, PAUSE_NS, Trimmed};

    #[derive(Default)]
    struct Counted(AtomicU32);

    impl Heap for Counted {
        fn trim(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn ends_of_processes_trim_it_once_in_a_while() {
        let counted = Arc::new(Counted::default());
        let start = 5 * PAUSE_NS;
        let trimmed = Trimmed::new(Some(Arc::clone(&counted) as _), start);
        let count = || counted.0.load(Ordering::Relaxed);
        for step in 0..100 {
            trimmed.process_ended(start + step * (PAUSE_NS / 10));
        }
        assert_eq!(count(), 9);
        trimmed.trim();
        assert_eq!(count(), 10);
        Trimmed::new(None, start).process_ended(9 * start);
    }
}
