//! A list of things that may be ready, for one who asks them in turn.
//!
//! Whoever makes a thing ready changes its state first and puts it on the list after. Whoever takes it off clears its mark and
//! asks it after that. Then nothing is missed: either the question sees the new state, or the thing is on the list again.

use std::collections::VecDeque;
use std::sync::Arc;

use sync::atomic::{AtomicBool, Ordering};
use sync::{LockClass, Mutex};

/// Whether a thing is on the list. SeqCst: cleared before the thing is asked, set after it changed; pairs with itself.
#[derive(Debug)]
pub struct Mark(AtomicBool);

impl Default for Mark {
    fn default() -> Self {
        Self(AtomicBool::new(false))
    }
}

/// A thing that a [`ReadyList`] lists; on one list at most.
pub trait Listed {
    /// Its mark.
    fn mark(&self) -> &Mark;
}

/// The list.
pub struct ReadyList<T> {
    list: Mutex<VecDeque<Arc<T>>>,
}

impl<T: Listed> ReadyList<T> {
    /// An empty list, whose lock has this class.
    pub fn new(class: LockClass) -> Self {
        Self { list: Mutex::new(class, VecDeque::new()) }
    }

    /// Whether nothing is on the list.
    pub fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
    }

    /// What is on the list, if that is one thing. It stays there: what it says when it is asked counts if it is ready.
    pub fn alone(&self) -> Option<Arc<T>> {
        let list = self.list.lock();
        list.front().filter(|_| list.len() == 1).cloned()
    }

    /// Whether `thing` is on the list, or about to be.
    pub fn lists(&self, thing: &T) -> bool {
        thing.mark().0.load(Ordering::SeqCst)
    }

    /// Puts `thing` at the end, unless it is on the list. Wake those who wait for the list after this.
    pub fn put(&self, thing: &Arc<T>) {
        if !thing.mark().0.swap(true, Ordering::SeqCst) {
            self.list.lock().push_back(Arc::clone(thing));
        }
    }

    /// Takes the first ones off, at most `max`, and hands them to `out`; says how many there were before. Ask them after this.
    pub fn take_some(&self, max: usize, out: &mut impl Extend<Arc<T>>) -> usize {
        let mut list = self.list.lock();
        let before = list.len();
        let taken = list.drain(..before.min(max));
        out.extend(taken.inspect(|thing| thing.mark().0.store(false, Ordering::SeqCst)));
        before
    }

    /// Whether a thing that was taken is to be [put back](Self::put_back): `false` if it is on the list again already.
    pub fn reserve(&self, thing: &T) -> bool {
        !thing.mark().0.swap(true, Ordering::SeqCst)
    }

    /// Puts back things that were [reserved](Self::reserve), at the end; says whether there are any: others may have seen the
    /// list empty meanwhile, and are to be woken.
    pub fn put_back(&self, things: impl ExactSizeIterator<Item = Arc<T>>) -> bool {
        let some = things.len() > 0;
        if some {
            self.list.lock().extend(things);
        }
        some
    }

    /// Takes off those for which `keep` says no.
    pub fn retain(&self, keep: impl Fn(&Arc<T>) -> bool) {
        self.list.lock().retain(keep);
    }

    /// What is on the list.
    pub fn snapshot(&self) -> Vec<Arc<T>> {
        self.list.lock().iter().cloned().collect()
    }
}
