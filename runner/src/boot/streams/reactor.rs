//! One thread waits in epoll for all pollable host descriptors and wakes the queues of their files.
//!
//! Edge-triggered: an event only means "look again", so nothing is lost when nobody listens, and an idle guest costs no
//! wake-ups.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};
use sync::Mutex;
use waiter::{EventMask, WaitQueue};

const WATCHED: sync::LockClass = sync::LockClass::leaf("runner.reactor");

/// The thread does little.
const STACK: usize = 64 << 10;

/// The set of watched descriptors.
pub(super) struct Reactor {
    epoll: OwnedFd,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    next: u64,
    queues: HashMap<u64, WaitQueue>,
}

/// Keeps a descriptor watched.
pub(super) struct Watch {
    reactor: Arc<Reactor>,
    key: u64,
}

impl Reactor {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let reactor = Arc::new(Self { epoll, watched: Mutex::new(WATCHED, Watched::default()) });
        let own = Arc::clone(&reactor);
        std::thread::Builder::new().name("streams".to_owned()).stack_size(STACK).spawn(move || own.run())?;
        Ok(reactor)
    }

    /// Wakes `queue` whenever `fd` may have become ready.
    pub(super) fn watch(self: &Arc<Self>, fd: BorrowedFd<'_>, queue: &WaitQueue) -> io::Result<Watch> {
        let key = {
            let mut watched = self.watched.lock();
            watched.next += 1;
            let key = watched.next;
            watched.queues.insert(key, queue.clone());
            key
        };
        let watch = Watch { reactor: Arc::clone(self), key };
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, fd, EventData::new_u64(key), events)?;
        Ok(watch)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(16);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    log::error!("epoll: {error}");
                    return;
                }
            }
            for event in &events {
                let (flags, data) = (event.flags, event.data);
                let queue = self.watched.lock().queues.get(&data.u64()).cloned();
                if let Some(queue) = queue {
                    queue.wake(mask(flags));
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The descriptor leaves the set when it is closed, which its owner does now.
        let queue = self.reactor.watched.lock().queues.remove(&self.key);
        drop(queue);
    }
}

/// epoll's bits are poll's.
fn mask(flags: EventFlags) -> EventMask {
    let mut mask = EventMask::from_bits_truncate(flags.bits());
    if mask.contains(EventMask::IN) {
        mask |= EventMask::RDNORM;
    }
    if mask.contains(EventMask::OUT) {
        mask |= EventMask::WRNORM;
    }
    mask
}
