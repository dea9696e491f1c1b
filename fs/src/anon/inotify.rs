//! inotify(7): a file that events of watched files are read from.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::fs::{InotifyEvent, InotifyMask, OpenFlags};
use hashbrown::HashMap;
use sync::Mutex;
use usermem::bytes::IoDst;
use usermem::ptr::UserMemory;
use waiter::{EventMask, WaitQueue};
use zerocopy::IntoBytes as _;

use crate::vfs::{File, FileOps, Inode, Listener, Path, Perm, Watch, Watches};
use crate::{Context, lockclass};

/// Events that wait at most (`/proc/sys/fs/inotify/max_queued_events`).
pub const MAX_EVENTS: usize = 16_384;
/// Instances at most (`/proc/sys/fs/inotify/max_user_instances`).
pub const MAX_INSTANCES: usize = 128;
/// Events that wait at most in all instances: a hundred full queues of long names were half a gigabyte of ours.
const ALL_EVENTS: usize = 8 * MAX_EVENTS;
/// Bytes of an event without a name.
const HEADER: usize = size_of::<InotifyEvent>();

/// Instances there are. Relaxed: it guards nothing.
static INSTANCES: AtomicUsize = AtomicUsize::new(0);

/// Events that wait. Relaxed: it guards nothing.
static EVENTS_WAITING: AtomicUsize = AtomicUsize::new(0);

/// Everything that can be asked for.
const EVENTS: InotifyMask = InotifyMask::from_bits_retain(0xfff);
/// What is kept of a mask with a watch.
const KEPT: InotifyMask =
    EVENTS.union(InotifyMask::IN_UNMOUNT).union(InotifyMask::IN_EXCL_UNLINK).union(InotifyMask::IN_ONESHOT);

#[derive(PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: InotifyMask,
    cookie: u32,
    name: Option<Box<[u8]>>,
}

impl Event {
    /// Bytes of the name as it is read: NUL-terminated, padded to the size of a header.
    fn name_len(&self) -> usize {
        self.name.as_ref().map_or(0, |name| (name.len() + 1).next_multiple_of(HEADER))
    }

    fn len(&self) -> usize {
        HEADER + self.name_len()
    }
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    /// Bytes that `events` are read as.
    bytes: usize,
    watches: HashMap<i32, (Inode, Arc<Watch>)>,
    last_wd: i32,
}

impl State {
    fn push(&mut self, event: Event) {
        // Two equal events in a row are one.
        if self.events.back() == Some(&event) {
            return;
        }
        let more = |all: usize| (all < ALL_EVENTS).then_some(all + 1);
        let fits = self.events.len() < MAX_EVENTS
            && EVENTS_WAITING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        let event = if fits {
            event
        } else {
            let overflow = Event { wd: -1, mask: InotifyMask::IN_Q_OVERFLOW, cookie: 0, name: None };
            if self.events.back() == Some(&overflow) {
                return;
            }
            // Counted too, past the bound: there is one of them at a time for each instance.
            EVENTS_WAITING.fetch_add(1, Ordering::Relaxed);
            overflow
        };
        self.bytes += event.len();
        self.events.push_back(event);
    }

    /// Takes the first event, if it is not longer than `room`.
    fn pop(&mut self, room: usize) -> Option<Event> {
        let event = self.events.pop_front_if(|event| event.len() <= room)?;
        self.bytes -= event.len();
        EVENTS_WAITING.fetch_sub(1, Ordering::Relaxed);
        Some(event)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        EVENTS_WAITING.fetch_sub(self.events.len(), Ordering::Relaxed);
    }
}

/// An instance.
pub struct Inotify {
    this: Weak<Self>,
    /// Held while a watch is looked for and added, so that a file has one watch of this instance.
    adding: Mutex<()>,
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Inotify {
    /// `inotify_init1(2)`: an instance without watches, as a file. `EMFILE`.
    pub fn create(flags: OpenFlags) -> Result<Arc<File>, Errno> {
        INSTANCES
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| (all < MAX_INSTANCES).then_some(all + 1))
            .map_err(|_| Errno::EMFILE)?;
        let instance = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            adding: Mutex::new(lockclass::WATCHES, ()),
            state: Mutex::new(lockclass::BUFFER, State::default()),
            queue: WaitQueue::new(),
        });
        Ok(File::anonymous(instance, flags, "anon_inode:inotify"))
    }

    /// `inotify_add_watch(2)`: watches the file at `place`, or changes what its watch is for; answers the watch's number.
    /// `EACCES` for what cannot be read, `EEXIST`, `ENOSPC`.
    pub fn add_watch(&self, ctx: &Context<'_>, place: &Path, mask: InotifyMask) -> Result<i32, Errno> {
        let inode = place.inode();
        inode.permission(ctx, Perm::READ)?;
        let this: Weak<dyn Listener> = Weak::clone(&self.this) as _;
        let kept = mask & KEPT;
        let _adding = self.adding.lock();
        let watches: &Watches = inode.slots().watches();
        if let Some(watch) = watches.of(&this) {
            if mask.contains(InotifyMask::IN_MASK_CREATE) {
                return Err(Errno::EEXIST);
            }
            let added = mask.contains(InotifyMask::IN_MASK_ADD);
            watch.set_mask(if added { watch.mask() | kept } else { kept });
            return Ok(watch.wd());
        }
        let wd = {
            let mut state = self.state.lock();
            // Numbers come anew only when they have all been used.
            let mut wd = state.last_wd.checked_add(1).unwrap_or(1);
            while state.watches.contains_key(&wd) {
                wd = wd.checked_add(1).unwrap_or(1);
            }
            state.last_wd = wd;
            wd
        };
        let watch = watches.add(&this, wd, kept)?;
        self.state.lock().watches.insert(wd, (Arc::clone(inode), watch));
        Ok(wd)
    }

    /// `inotify_rm_watch(2)`; `EINVAL`.
    pub fn remove_watch(&self, wd: i32) -> Result<(), Errno> {
        if self.forget(wd) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Ends a watch, if it is there, and says so to the reader.
    fn forget(&self, wd: i32) -> bool {
        let removed = self.state.lock().watches.remove(&wd);
        let Some((inode, watch)) = removed else { return false };
        if let Some(watches) = inode.slots().watches_if_any() {
            watches.remove(&watch);
        }
        self.push(Event { wd, mask: InotifyMask::IN_IGNORED, cookie: 0, name: None });
        true
    }

    fn push(&self, event: Event) {
        self.state.lock().push(event);
        self.queue.wake(EventMask::READABLE);
    }
}

impl Listener for Inotify {
    fn event(&self, wd: i32, mask: InotifyMask, cookie: u32, name: Option<&[u8]>) {
        self.push(Event { wd, mask, cookie, name: name.map(Box::from) });
    }

    fn over(&self, wd: i32) {
        self.forget(wd);
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        for (_, (inode, watch)) in self.state.get_mut().watches.drain() {
            if let Some(watches) = inode.slots().watches_if_any() {
                watches.remove(&watch);
            }
        }
        INSTANCES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FileOps for Inotify {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        let mut done = 0;
        loop {
            let (event, is_empty) = {
                let mut state = self.state.lock();
                (state.pop(dst.remaining()), state.events.is_empty())
            };
            let event = match event {
                Some(event) => event,
                None if done > 0 => return Ok(done),
                None => return Err(if is_empty { Errno::EAGAIN } else { Errno::EINVAL }),
            };
            let header = InotifyEvent {
                wd: event.wd,
                mask: event.mask.bits(),
                cookie: event.cookie,
                len: u32::try_from(event.name_len()).unwrap_or(0),
            };
            let mut bytes = header.as_bytes().to_vec();
            bytes.extend_from_slice(event.name.as_deref().unwrap_or_default());
            bytes.resize(event.len(), 0);
            // Linux, too, loses an event that the buffer turns out not to take.
            match dst.put(&bytes) {
                Ok(n) if n == bytes.len() => done += n,
                Ok(_) | Err(_) if done > 0 => return Ok(done),
                Ok(_) => return Err(Errno::EFAULT),
                Err(error) => return Err(error),
            }
        }
    }

    fn ioctl(
        &self,
        _ctx: &Context<'_>,
        _file: &File,
        command: u32,
        argument: u64,
        mem: &dyn UserMemory,
    ) -> Result<u64, Errno> {
        if command != abi::tty::FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes = i32::try_from(self.state.lock().bytes).unwrap_or(i32::MAX);
        mem.write(usermem::Addr(argument), &bytes.to_ne_bytes())?;
        Ok(0)
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        if self.state.lock().events.is_empty() { EventMask::empty() } else { EventMask::READABLE & interest }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn signals_for(&self) -> Option<EventMask> {
        Some(EventMask::IN)
    }

    fn fdinfo(&self) -> String {
        use std::fmt::Write as _;
        let state = self.state.lock();
        let mut watches: Vec<_> = state.watches.iter().collect();
        watches.sort_unstable_by_key(|(wd, _)| **wd);
        watches.iter().fold(String::new(), |mut text, (wd, (inode, watch))| {
            let (device, ino) = inode.identity();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "inotify wd:{wd:x} ino:{ino:x} sdev:{device:x} mask:{:x} ignored_mask:0 ",
                watch.mask().bits()
            );
            text
        })
    }
}

/// A mask as `inotify_add_watch(2)` takes it; `EINVAL`.
pub fn check_mask(mask: u32) -> Result<InotifyMask, Errno> {
    let mask = InotifyMask::from_bits(mask).ok_or(Errno::EINVAL)?;
    if mask.is_empty() || mask.contains(InotifyMask::IN_MASK_ADD | InotifyMask::IN_MASK_CREATE) {
        return Err(Errno::EINVAL);
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::{ALL_EVENTS, Event, InotifyMask, MAX_EVENTS, State};

    fn event(number: usize) -> Event {
        Event { wd: i32::try_from(number).unwrap(), mask: InotifyMask::IN_OPEN, cookie: 0, name: None }
    }

    #[test]
    fn events_are_bounded_for_each_and_for_all() {
        let mut instances: Vec<State> = (0..10).map(|_| State::default()).collect();
        for state in &mut instances {
            for number in 0..=MAX_EVENTS {
                state.push(event(number));
            }
            assert_eq!(state.events.back().unwrap().mask, InotifyMask::IN_Q_OVERFLOW);
        }
        assert_eq!(instances[0].events.len(), MAX_EVENTS + 1);
        assert!(instances.iter().map(|state| state.events.len()).sum::<usize>() <= ALL_EVENTS + instances.len());
        let mut first = instances.swap_remove(0);
        assert!(first.pop(15).is_none());
        assert_eq!(first.pop(16).map(|event| event.wd), Some(0));
        drop(instances);
        let mut next = State::default();
        next.push(event(7));
        assert_eq!(next.pop(64).map(|event| event.wd), Some(7));
        assert_eq!((next.bytes, first.bytes), (0, MAX_EVENTS * 16));
    }
}
