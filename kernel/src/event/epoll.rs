//! epoll(7): a set of files and the list of those that may be ready.
//!
//! An `Item` stands for one (descriptor, open file description) pair. It is registered on its file's wait queue and is
//! the waiter there: a wake puts the item on the ready list and wakes the epoll's own queue. [`Epoll::collect`] takes
//! items off the list and asks each file whether it *is* ready, so a wake is only ever a hint.
//!
//! An item holds its file weakly: as on Linux, closing the last descriptor of a description removes it from every set. Items
//! of files that are gone are dropped when they are met, and all of them each time a set has grown to twice its size.
//!
//! A wake goes up every path of sets in sets, and a question down: what bounds the paths is how many sets one may be in
//! (`MAX_PARENTS`) and how many such memberships there are (`MAX_NESTED`), where Linux counts the paths themselves.
//!
//! **Locks.** `epoll.state` is a leaf but for the files' queues: no file is asked and no queue is woken with it held.
//! `EPOLL_GRAPH` is taken outside it when sets are nested, so that two additions cannot close a cycle together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::fs::OpenFlags;
use fs::Context;
use fs::vfs::{File, FileOps};
use hashbrown::HashMap;
use smallvec::SmallVec;
use sync::{LockClass, Mutex};
use usermem::bytes::IoDst;
use waiter::ready::{Listed, Mark, ReadyList};
use waiter::{EventMask, Mode, Pollable as _, Registration, Taken, WaitQueue, Waiter};

/// The items of one set.
const STATE: LockClass = LockClass::new("epoll.state", 3600);
/// The ready list of one set.
const READY: LockClass = LockClass::new("epoll.ready", 3610);
/// An item's interest and registration.
const ITEM: LockClass = LockClass::new("epoll.item", 3590);
/// The nesting of sets in sets.
const GRAPH: LockClass = LockClass::new("epoll.graph", 3500);

/// Items past which a set first looks for files that were closed.
const FIRST_SWEEP: usize = 64;

/// How deep sets may be nested (`EP_MAX_NESTS`).
const MAX_NESTS: usize = 4;
/// Other sets that one set may be in.
const MAX_PARENTS: usize = 16;
/// Memberships of sets in sets, over all.
const MAX_NESTED: usize = 2048;
/// Items of all sets (`/proc/sys/fs/epoll/max_user_watches`).
pub(crate) const MAX_ITEMS: usize = 131_072;

/// Items there are. Relaxed, as the next: counts that guard nothing.
static ITEMS: AtomicUsize = AtomicUsize::new(0);
/// Memberships of sets in sets there are.
static NESTED: AtomicUsize = AtomicUsize::new(0);

/// One more of `count`, unless there are `most`.
fn count_one(count: &AtomicUsize, most: usize) -> Option<usize> {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| (all < most).then_some(all + 1)).ok()
}

/// A set's membership in another.
struct Nested(Weak<Epoll>);

impl Nested {
    /// `EINVAL` when it is in too many others, `ENOSPC` when too many are in others.
    fn new(inner: &Arc<Epoll>) -> Result<Self, Errno> {
        count_one(&inner.parents, MAX_PARENTS).ok_or(Errno::EINVAL)?;
        if count_one(&NESTED, MAX_NESTED).is_none() {
            inner.parents.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        Ok(Self(Arc::downgrade(inner)))
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        NESTED.fetch_sub(1, Ordering::Relaxed);
        if let Some(inner) = self.0.upgrade() {
            inner.parents.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Behaviour bits of `epoll_event.events`, epoll_ctl(2).
mod bits {
    use abi::epoll::EpollEvents as E;

    pub(super) const EXCLUSIVE: u32 = E::EPOLLEXCLUSIVE.bits();
    pub(super) const ONESHOT: u32 = E::EPOLLONESHOT.bits();
    pub(super) const EDGE: u32 = E::EPOLLET.bits();
    /// All of them: what is not an event.
    pub(super) const BEHAVIOUR: u32 = EXCLUSIVE | E::EPOLLWAKEUP.bits() | ONESHOT | EDGE;
    /// What may come with EXCLUSIVE: `EPOLLEXCLUSIVE_OK_BITS`.
    pub(super) const WITH_EXCLUSIVE: u32 = E::EPOLLIN.bits()
        | E::EPOLLOUT.bits()
        | E::EPOLLERR.bits()
        | E::EPOLLHUP.bits()
        | E::EPOLLWAKEUP.bits()
        | EDGE
        | EXCLUSIVE;
}

/// What `epoll_ctl` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// `EPOLL_CTL_ADD`.
    Add(Event),
    /// `EPOLL_CTL_MOD`.
    Modify(Event),
    /// `EPOLL_CTL_DEL`.
    Delete,
}

/// `struct epoll_event`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Event {
    /// Events and behaviour bits.
    pub events: u32,
    /// The caller's word.
    pub data: u64,
}

/// What an item waits for; `None` in `registration` while a one-shot item is spent.
struct Interest {
    event: Event,
    /// A one-shot item that has reported is asleep until modified.
    spent: bool,
    registration: Option<Registration>,
}

/// One file in a set.
struct Item {
    key: Key,
    /// If the file is a set itself.
    _nested: Option<Nested>,
    file: Weak<File>,
    epoll: Weak<Epoll>,
    /// Whether it is on the ready list.
    mark: Mark,
    interest: Mutex<Interest>,
}

/// Which item: a descriptor number and the description behind it, which is unique for all time.
type Key = (i32, u64);

struct State {
    items: HashMap<Key, Arc<Item>>,
    /// How many items there may be before those of closed files are looked for: twice as many as were left the last time.
    sweep_at: usize,
}

impl State {
    fn new() -> Self {
        Self { items: HashMap::new(), sweep_at: FIRST_SWEEP }
    }

    /// Takes out items whose files were closed, when it is time; they are to be unregistered without the lock.
    fn sweep(&mut self) -> Vec<Arc<Item>> {
        if self.items.len() < self.sweep_at {
            return Vec::new();
        }
        let gone = self.items.extract_if(|_, item| item.is_gone()).map(|(_, item)| item).collect();
        self.sweep_at = self.items.len().saturating_mul(2).max(FIRST_SWEEP);
        gone
    }
}

/// A set of files, epoll_create(2).
pub struct Epoll {
    state: Mutex<State>,
    ready: ReadyList<Item>,
    queue: WaitQueue,
    /// How many sets it is in. Relaxed: it guards nothing.
    parents: AtomicUsize,
}

/// Events, and items, that a collection has room for without allocating.
const AT_HAND: usize = 16;

/// What one collection has found.
pub type Events = SmallVec<[Event; AT_HAND]>;

/// Serialises changes of which sets contain which.
static NESTING: Mutex<()> = Mutex::new(GRAPH, ());

impl Epoll {
    /// An empty set, as a file.
    pub fn create() -> Arc<File> {
        let state = Mutex::new(STATE, State::new());
        let (ready, queue) = (ReadyList::new(READY), WaitQueue::new());
        let epoll = Arc::new(Self { state, ready, queue, parents: AtomicUsize::new(0) });
        File::anonymous(epoll, OpenFlags::O_RDWR, "anon_inode:[eventpoll]")
    }

    /// The set behind `file`; `EINVAL` for other files.
    pub fn of(file: &File) -> Result<Arc<Self>, Errno> {
        file.ops_arc::<Self>().ok_or(Errno::EINVAL)
    }

    /// The number of the description that is the `offset`th in the set under `fd` (kcmp(2)); `ENOENT`.
    pub fn target(&self, fd: i32, offset: u32) -> Result<u64, Errno> {
        let state = self.state.lock();
        let here = state.items.iter().filter(|(key, item)| key.0 == fd && !item.is_gone());
        let mut files: Vec<u64> = here.map(|(key, _)| key.1).collect();
        files.sort_unstable();
        files.get(usize::try_from(offset).unwrap_or(usize::MAX)).copied().ok_or(Errno::ENOENT)
    }

    /// Adds, changes or removes `file`, known to the caller as `fd`; epoll_ctl(2).
    pub fn control(self: &Arc<Self>, fd: i32, file: &Arc<File>, control: Control) -> Result<(), Errno> {
        let key = (fd, file.id());
        match control {
            Control::Add(event) => self.add(key, file, event),
            Control::Modify(event) => self.modify(key, event),
            Control::Delete => {
                let item = self.state.lock().items.remove(&key).ok_or(Errno::ENOENT)?;
                self.ready.retain(|listed| !Arc::ptr_eq(listed, &item));
                // Whoever holds it still, in a wake or a collection, finds that it has nothing to say.
                item.interest.lock().spent = true;
                item.unregister();
                Ok(())
            }
        }
    }

    fn add(self: &Arc<Self>, key: Key, file: &Arc<File>, event: Event) -> Result<(), Errno> {
        if event.events & bits::EXCLUSIVE != 0 && event.events & !bits::WITH_EXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        let inner = file.ops_arc::<Self>();
        if inner.as_ref().is_some_and(|inner| Arc::ptr_eq(inner, self)) {
            return Err(Errno::EINVAL);
        }
        if inner.is_some() && event.events & bits::EXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        let Some(queue) = file.queue() else { return Err(Errno::EPERM) };
        let _nesting = inner.is_some().then(|| NESTING.lock());
        if let Some(inner) = &inner {
            inner.check_nesting(self, MAX_NESTS)?;
        }
        let nested = inner.as_ref().map(Nested::new).transpose()?;
        count_one(&ITEMS, MAX_ITEMS).ok_or(Errno::ENOSPC)?;
        let item = Arc::new(Item {
            key,
            _nested: nested,
            file: Arc::downgrade(file),
            epoll: Arc::downgrade(self),
            mark: Mark::default(),
            interest: Mutex::new(ITEM, Interest { event, spent: false, registration: None }),
        });
        let gone = {
            let mut state = self.state.lock();
            if state.items.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            let gone = state.sweep();
            state.items.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            state.items.insert(key, Arc::clone(&item));
            gone
        };
        if !gone.is_empty() {
            self.ready.retain(|item| !item.is_gone());
        }
        gone.iter().for_each(|item| item.unregister());
        let mode = if event.events & bits::EXCLUSIVE == 0 { Mode::Shared } else { Mode::Exclusive };
        let registration = queue.register(Arc::clone(&item) as Arc<dyn Waiter>, wanted(event), mode);
        item.interest.lock().registration = Some(registration);
        self.note_if_ready(&item, file);
        Ok(())
    }

    fn modify(&self, key: Key, event: Event) -> Result<(), Errno> {
        let item = self.state.lock().items.get(&key).cloned().ok_or(Errno::ENOENT)?;
        {
            let mut interest = item.interest.lock();
            if (event.events | interest.event.events) & bits::EXCLUSIVE != 0 {
                return Err(Errno::EINVAL);
            }
            interest.event = event;
            interest.spent = false;
            if let Some(registration) = &interest.registration {
                registration.set_interest(wanted(event));
            }
        }
        if let Some(file) = item.file.upgrade() {
            self.note_if_ready(&item, &file);
        }
        Ok(())
    }

    /// Whether `outer` may contain this set: no cycle, and no chain longer than `depth`; `ELOOP`.
    fn check_nesting(self: &Arc<Self>, outer: &Arc<Self>, depth: usize) -> Result<(), Errno> {
        if Arc::ptr_eq(self, outer) || depth == 0 {
            return Err(Errno::ELOOP);
        }
        let files: Vec<_> = self.state.lock().items.values().filter_map(|item| item.file.upgrade()).collect();
        for inner in files.iter().filter_map(|file| file.ops_arc::<Self>()) {
            inner.check_nesting(outer, depth - 1)?;
        }
        Ok(())
    }

    fn note_if_ready(&self, item: &Arc<Item>, file: &File) {
        let event = item.interest.lock().event;
        if !file.readiness(wanted(event)).is_empty() {
            self.list(item);
        }
    }

    /// Puts `item` on the ready list, unless it is there, and wakes who waits for the set.
    fn list(&self, item: &Arc<Item>) {
        self.ready.put(item);
        self.queue.wake(EventMask::READABLE);
    }

    /// Takes at most `max` events; empty when nothing is ready. Level-triggered items stay on the list.
    pub fn collect(&self, max: usize) -> Events {
        let mut events = Events::new();
        if max > 0
            && let Some(event) = self.ready.alone().and_then(|item| item.stays_ready())
        {
            events.push(event);
            return events;
        }
        let mut taken: SmallVec<[Arc<Item>; AT_HAND]> = SmallVec::new();
        let mut again: SmallVec<[Arc<Item>; AT_HAND]> = SmallVec::new();
        // Each item is looked at once, however often it is woken meanwhile.
        let mut turns = None;
        while events.len() < max && turns != Some(0) {
            let most = turns.unwrap_or(usize::MAX).min(max - events.len());
            let before = self.ready.take_some(most, &mut taken);
            let left = turns.unwrap_or(before).saturating_sub(taken.len());
            turns = Some(if taken.is_empty() { 0 } else { left });
            for item in taken.drain(..) {
                match self.ask(&item) {
                    Asked::Ready(event, level) => {
                        events.push(event);
                        if level && self.ready.reserve(&item) {
                            again.push(item);
                        }
                    }
                    Asked::NotReady => {}
                    Asked::Gone => self.forget(&item),
                }
            }
        }
        // Level-triggered items go to the end, so that no busy file starves the others.
        if self.ready.put_back(again.into_iter()) {
            // Another waiter may have seen the list empty meanwhile.
            self.queue.wake(EventMask::READABLE);
        }
        events
    }

    /// What `item` reports now.
    fn ask(&self, item: &Arc<Item>) -> Asked {
        let Some(file) = item.file.upgrade() else { return Asked::Gone };
        // The file is asked without the item's lock: it may be a set itself.
        let (event, spent) = {
            let interest = item.interest.lock();
            (interest.event, interest.spent)
        };
        if spent {
            return Asked::NotReady;
        }
        let ready = file.readiness(wanted(event));
        if ready.is_empty() {
            return Asked::NotReady;
        }
        if event.events & (bits::EXCLUSIVE | bits::ONESHOT) != 0 {
            let mut interest = item.interest.lock();
            if event.events & bits::EXCLUSIVE != 0
                && let Some(registration) = &interest.registration
            {
                // Whoever is told of the event now has it: closing the set later wakes nobody else for it.
                registration.used();
            }
            if event.events & bits::ONESHOT != 0 {
                if interest.spent {
                    return Asked::NotReady;
                }
                interest.spent = true;
            }
        }
        let level = event.events & (bits::EDGE | bits::ONESHOT) == 0;
        Asked::Ready(Event { events: ready.bits(), data: event.data }, level)
    }

    fn forget(&self, item: &Arc<Item>) {
        item.unregister();
        self.state.lock().items.remove(&item.key);
    }

    /// Lines of `/proc/[pid]/fdinfo`: one per file.
    fn lines(&self) -> String {
        let items: Vec<Arc<Item>> = self.state.lock().items.values().cloned().collect();
        let mut text = String::new();
        for item in items.iter().filter(|item| !item.is_gone()) {
            let event = item.interest.lock().event;
            text.push_str(&format!("tfd: {:8} events: {:8x} data: {:16x}\n", item.key.0, event.events, event.data));
        }
        text
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        // A file's queue keeps the item, and the item's registration the queue.
        for item in self.state.get_mut().items.values() {
            item.unregister();
        }
    }
}

impl Item {
    /// Whether its file was closed.
    fn is_gone(&self) -> bool {
        self.file.strong_count() == 0
    }

    /// What it reports now, if it is level-triggered and ready: then it may stay where it is on the ready list.
    fn stays_ready(&self) -> Option<Event> {
        let (event, spent) = {
            let interest = self.interest.lock();
            (interest.event, interest.spent)
        };
        if spent || event.events & (bits::EDGE | bits::ONESHOT | bits::EXCLUSIVE) != 0 {
            return None;
        }
        let ready = self.file.upgrade()?.readiness(wanted(event));
        (!ready.is_empty()).then_some(Event { events: ready.bits(), data: event.data })
    }

    fn unregister(&self) {
        // Dropped without the lock: leaving a queue may wake other items.
        let registration = self.interest.lock().registration.take();
        drop(registration);
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        ITEMS.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Asked {
    Ready(Event, bool),
    NotReady,
    Gone,
}

/// The events of an item, without its behaviour, with those that are always reported.
fn wanted(event: Event) -> EventMask {
    EventMask::from_bits_truncate(event.events & !bits::BEHAVIOUR) | EventMask::ALWAYS
}

impl Listed for Item {
    fn mark(&self) -> &Mark {
        &self.mark
    }
}

impl Waiter for Item {
    fn wake(&self, events: EventMask) {
        self.wake_alone(events);
    }

    /// EPOLLEXCLUSIVE spares others only where somebody waits for the set, as on Linux.
    fn wake_alone(&self, _events: EventMask) -> Taken {
        if self.interest.lock().spent {
            return Taken::No;
        }
        let Some(epoll) = self.epoll.upgrade() else { return Taken::No };
        let taken = if epoll.queue.is_empty() { Taken::No } else { Taken::Yes };
        if epoll.ready.lists(self) {
            epoll.queue.wake(EventMask::READABLE);
            return taken;
        }
        // The list needs the shared item: found by identity, since a waiter is only ever called by reference.
        let item = epoll.state.lock().items.get(&self.key).cloned();
        if let Some(item) = item {
            epoll.list(&item);
        }
        taken
    }
}

impl FileOps for Epoll {
    fn read(&self, _ctx: &Context<'_>, _file: &File, _dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        let listed: Vec<Arc<Item>> = self.ready.snapshot();
        let ready = listed.iter().any(|item| {
            let (event, spent) = {
                let interest = item.interest.lock();
                (interest.event, interest.spent)
            };
            !spent && item.file.upgrade().is_some_and(|file| !file.readiness(wanted(event)).is_empty())
        });
        if ready { interest & EventMask::READABLE } else { EventMask::empty() }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn fdinfo(&self) -> String {
        self.lines()
    }
}

#[cfg(test)]
mod tests;
