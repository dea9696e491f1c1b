//! The queue of those who wait for one object.
//!
//! Mostly there are one or two. There may be hundreds of thousands (poll(2) with one file in every place): entries lie in the
//! order of their turns, are found by bisection, and leave a gap that is closed when half of a long list are gaps.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;
use sync::atomic::{AtomicUsize, Ordering, fence_for_model};
use sync::{LockClass, Mutex};

use crate::{EventMask, Taken, Waiter};

/// A leaf: nothing is called with it held.
const CLASS: LockClass = LockClass::leaf("waiter.queue");

/// Whether a wake for one waiter is also a wake for the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Woken each time.
    Shared,
    /// Of all exclusive waiters, one that takes it is woken each time (EPOLLEXCLUSIVE, accept(2)).
    Exclusive,
}

/// Lists longer than this keep gaps for a while.
const SHORT: usize = 32;

struct Entry {
    id: u64,
    /// Its place in the list: ascending. The id, until a wake moves it to the end.
    turn: u64,
    interest: EventMask,
    mode: Mode,
    /// Exclusive only: it was the one woken, and has not said what came of it.
    chosen: bool,
    /// `None` is a gap.
    waiter: Option<Arc<dyn Waiter>>,
}

#[derive(Default)]
struct Entries {
    /// The next id or turn.
    next: u64,
    list: SmallVec<[Entry; 2]>,
    gaps: usize,
}

impl Entries {
    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    fn position(&self, id: u64) -> Option<usize> {
        match self.list.binary_search_by_key(&id, |entry| entry.turn) {
            Ok(at) => Some(at),
            // It had a turn.
            Err(_) => self.list.iter().position(|entry| entry.id == id),
        }
    }

    /// Takes an entry out; says for an exclusive one that was woken in which events it was interested. The waiter is for
    /// the caller to drop without the lock.
    fn take(&mut self, id: u64) -> Option<(Arc<dyn Waiter>, Option<EventMask>)> {
        let at = self.position(id)?;
        let entry = self.list.get_mut(at)?;
        let woken = entry.chosen.then_some(entry.interest);
        let waiter = entry.waiter.take()?;
        if self.list.len() <= SHORT && self.gaps == 0 {
            self.list.remove(at);
            return Some((waiter, woken));
        }
        self.gaps += 1;
        if self.gaps > self.list.len() / 2 {
            self.list.retain(|entry| entry.waiter.is_some());
            self.gaps = 0;
        }
        Some((waiter, woken))
    }
}

struct Inner {
    /// Number of entries; read without the lock to make waking nobody cheap.
    count: AtomicUsize,
    entries: Mutex<Entries>,
}

/// Those who wait for one object. A clone is the same queue.
#[derive(Clone)]
pub struct WaitQueue {
    inner: Arc<Inner>,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WaitQueue({})", self.inner.count.load(Ordering::Relaxed))
    }
}

impl WaitQueue {
    /// An empty queue.
    pub fn new() -> Self {
        let entries = Mutex::new(CLASS, Entries::default());
        Self { inner: Arc::new(Inner { count: AtomicUsize::new(0), entries }) }
    }

    /// Wakes `waiter` at each of `interest` (and [`EventMask::ALWAYS`]) until the registration is dropped. Check the
    /// object's readiness *after* this call and before sleeping.
    #[must_use = "dropping the registration ends it"]
    pub fn register(&self, waiter: Arc<dyn Waiter>, interest: EventMask, mode: Mode) -> Registration {
        let mut entries = self.inner.entries.lock();
        let id = entries.number();
        let (interest, waiter) = (interest | EventMask::ALWAYS, Some(waiter));
        entries.list.push(Entry { id, turn: id, interest, mode, chosen: false, waiter });
        // SeqCst: before the caller's re-check of the state; pairs with the load in `wake`, which comes after the
        // waker's change of the state.
        self.inner.count.fetch_add(1, Ordering::SeqCst);
        fence_for_model();
        Registration { queue: Arc::clone(&self.inner), id, mode }
    }

    /// Tells the waiters interested in any of `events`. Call it after the state has changed, best without locks held.
    /// With nobody registered it costs one load.
    #[inline]
    pub fn wake(&self, events: EventMask) {
        // SeqCst: pairs with the increment in `register`.
        fence_for_model();
        if self.inner.count.load(Ordering::SeqCst) != 0 {
            self.inner.wake(events);
        }
    }

    /// Whether nobody is registered at this moment.
    pub fn is_empty(&self) -> bool {
        self.inner.count.load(Ordering::SeqCst) == 0
    }
}

impl Inner {
    #[cold]
    fn wake(&self, events: EventMask) {
        let mut woken: SmallVec<[Arc<dyn Waiter>; 4]> = SmallVec::new();
        let mut exclusive = false;
        {
            let entries = self.entries.lock();
            for entry in entries.list.iter().filter(|entry| entry.interest.intersects(events)) {
                let Some(waiter) = &entry.waiter else { continue };
                match entry.mode {
                    Mode::Shared => woken.push(Arc::clone(waiter)),
                    Mode::Exclusive => exclusive = true,
                }
            }
        }
        for waiter in woken {
            waiter.wake(events);
        }
        if exclusive {
            self.wake_one(events);
        }
    }

    /// Wakes exclusive waiters in turn until one takes it.
    fn wake_one(&self, events: EventMask) {
        let mut end = None;
        loop {
            let (id, waiter) = {
                let mut entries = self.entries.lock();
                // Each has one turn.
                let end = *end.get_or_insert(entries.next);
                let is_next = |entry: &Entry| {
                    entry.mode == Mode::Exclusive && entry.turn < end && entry.interest.intersects(events)
                };
                let Some(at) = entries.list.iter().position(|entry| is_next(entry) && entry.waiter.is_some()) else {
                    return;
                };
                // To the end, so that the next wake is another's.
                let mut entry = entries.list.remove(at);
                entry.chosen = true;
                entry.turn = entries.number();
                let next = (entry.id, entry.waiter.clone());
                entries.list.push(entry);
                next
            };
            if waiter.is_some_and(|waiter| waiter.wake_alone(events) == Taken::Yes) {
                return;
            }
            self.settle(id);
        }
    }

    /// Notes that what an exclusive waiter was woken for is not its to pass on.
    fn settle(&self, id: u64) {
        let mut entries = self.entries.lock();
        if let Some(at) = entries.position(id)
            && let Some(entry) = entries.list.get_mut(at)
        {
            entry.chosen = false;
        }
    }

    /// Removes an entry; says for an exclusive one that was woken in which events it was interested.
    fn remove(&self, id: u64) -> Option<EventMask> {
        let (waiter, woken) = {
            let mut entries = self.entries.lock();
            let taken = entries.take(id)?;
            self.count.fetch_sub(1, Ordering::SeqCst);
            taken
        };
        // Its last reference may go here, without the lock.
        drop(waiter);
        woken
    }
}

/// Membership in a [`WaitQueue`], ended by dropping it. Keeps the queue (not the object) alive.
pub struct Registration {
    queue: Arc<Inner>,
    id: u64,
    mode: Mode,
}

impl Registration {
    /// Ends an exclusive registration whose wake was put to use. An exclusive registration that is woken and dropped
    /// without this passes the wake on to another waiter.
    pub fn satisfied(mut self) {
        self.mode = Mode::Shared;
    }

    /// Says that the latest wake was put to use: it is not passed on when the registration ends.
    pub fn used(&self) {
        self.queue.settle(self.id);
    }

    /// Changes what the waiter is woken for.
    pub fn set_interest(&self, interest: EventMask) {
        let mut entries = self.queue.entries.lock();
        if let Some(at) = entries.position(self.id)
            && let Some(entry) = entries.list.get_mut(at)
        {
            entry.interest = interest | EventMask::ALWAYS;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(events) = self.queue.remove(self.id)
            && self.mode == Mode::Exclusive
        {
            // The others have heard of it.
            self.queue.wake_one(events);
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({})", self.id)
    }
}
