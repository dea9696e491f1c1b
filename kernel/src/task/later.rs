//! A wake-up that may wait a moment: of the reader of a pipe that its writer goes on filling.
//!
//! Each wake-up costs both sides more than a write does, above all where the two share few cores. So a task that writes
//! much in pieces puts it off while its calls follow each other; the pipe wakes its reader by itself when it is half full.
//!
//! **Invariant.** What is put off happens before the task's kernel thread sleeps, for whatever reason, when the task ends,
//! and at the first call past [`MOST_NS`].

use std::cell::Cell;
use std::sync::Arc;

use fs::pipe::Pipe;

/// Longest that calls put it off: about as long as waking a thread takes that sleeps on another core.
const MOST_NS: u64 = 100_000;

/// At most one wake-up.
#[derive(Default)]
pub(crate) struct Later {
    pipe: Cell<Option<Arc<Pipe>>>,
    /// When it must happen; 0 if there is none.
    due: Cell<u64>,
}

impl Later {
    /// Wakes the readers of `pipe` later, and those of another pipe that waited for that now.
    pub(super) fn put_off(&self, pipe: &Arc<Pipe>, clock: impl FnOnce() -> u64) {
        let old = self.pipe.replace(Some(Arc::clone(pipe)));
        match old {
            Some(old) if Arc::ptr_eq(&old, pipe) => {}
            other => {
                self.due.set(clock().saturating_add(MOST_NS));
                if let Some(old) = other {
                    old.wake_readers();
                }
            }
        }
    }

    /// Whether there is a wake-up that may still wait; one that may not happens.
    pub(super) fn pending(&self, clock: impl FnOnce() -> u64) -> bool {
        let due = self.due.get();
        if due != 0 && clock() >= due {
            self.now();
            return false;
        }
        due != 0
    }

    /// Does it now.
    pub(super) fn now(&self) {
        self.due.set(0);
        if let Some(pipe) = self.pipe.take() {
            pipe.wake_readers();
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        self.now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fs::pipe::Pipe;

    use super::{Later, MOST_NS};

    #[test]
    fn it_waits_for_rest_but_not_for_ever() {
        let (one, other) = (Arc::new(Pipe::new()), Arc::new(Pipe::new()));
        let later = Later::default();
        assert!(!later.pending(|| unreachable!("nothing waits")));
        later.put_off(&one, || 1_000);
        // Again and again does not make it later.
        later.put_off(&one, || unreachable!("it waits already"));
        assert!(later.pending(|| 1_000 + MOST_NS - 1));
        assert!(!later.pending(|| 1_000 + MOST_NS));
        assert_eq!(Arc::strong_count(&one), 1, "done");
        later.put_off(&one, || 0);
        later.put_off(&other, || 5);
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&other)), (1, 2), "one at a time");
        later.now();
        assert!(!later.pending(|| unreachable!("done")));
        later.put_off(&other, || 0);
        drop(later);
        assert_eq!(Arc::strong_count(&other), 1);
    }
}
