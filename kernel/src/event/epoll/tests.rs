//! Interest lists over lamps that tests switch on and off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use abi::fs::OpenFlags;
use fs::vfs::{File, FileOps};
use waiter::{EventMask, WaitQueue};

use super::{Control, Epoll, Event, MAX_PARENTS, bits};

/// A file whose readiness a test sets.
struct Lamp {
    on: AtomicU32,
    queue: WaitQueue,
}

impl FileOps for Lamp {
    fn readiness(&self, interest: EventMask) -> EventMask {
        interest & EventMask::from_bits_truncate(self.on.load(Ordering::SeqCst))
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }
}

impl Lamp {
    fn set(&self, events: EventMask) {
        self.on.store(events.bits(), Ordering::SeqCst);
        self.queue.wake(events);
    }
}

fn lamp() -> (Arc<Lamp>, Arc<File>) {
    let lamp = Arc::new(Lamp { on: AtomicU32::new(0), queue: WaitQueue::new() });
    (Arc::clone(&lamp), File::anonymous(lamp, OpenFlags::O_RDWR, "lamp"))
}

fn collect(epoll: &Epoll, max: usize) -> Vec<Event> {
    epoll.collect(max).into_vec()
}

const IN: u32 = EventMask::IN.bits();

fn event(events: u32, data: u64) -> Event {
    Event { events, data }
}

#[test]
fn level_items_stay_and_edge_items_go() {
    let epoll = Epoll::of(&Epoll::create()).unwrap();
    let (level, level_file) = lamp();
    let (edge, edge_file) = lamp();
    epoll.control(3, &level_file, Control::Add(event(IN, 1))).unwrap();
    epoll.control(4, &edge_file, Control::Add(event(IN | bits::EDGE, 2))).unwrap();
    assert_eq!(collect(&epoll, 8), []);
    level.set(EventMask::IN);
    edge.set(EventMask::IN);
    assert_eq!(collect(&epoll, 8), [event(IN, 1), event(IN, 2)]);
    assert_eq!(collect(&epoll, 8), [event(IN, 1)]);
    edge.set(EventMask::IN);
    assert_eq!(collect(&epoll, 8).len(), 2);
    level.set(EventMask::empty());
    assert_eq!(collect(&epoll, 8), []);
}

#[test]
fn one_shot_items_sleep_until_modified() {
    let epoll = Epoll::of(&Epoll::create()).unwrap();
    let (lamp, file) = lamp();
    epoll.control(3, &file, Control::Add(event(IN | bits::ONESHOT, 1))).unwrap();
    lamp.set(EventMask::IN);
    assert_eq!(collect(&epoll, 8), [event(IN, 1)]);
    lamp.set(EventMask::IN);
    assert_eq!(collect(&epoll, 8), []);
    epoll.control(3, &file, Control::Modify(event(IN | bits::ONESHOT, 2))).unwrap();
    assert_eq!(collect(&epoll, 8), [event(IN, 2)]);
}

#[test]
fn a_busy_file_does_not_starve_the_others() {
    let epoll = Epoll::of(&Epoll::create()).unwrap();
    let lamps: Vec<_> = (0..4).map(|_| lamp()).collect();
    for (fd, (lamp, file)) in lamps.iter().enumerate() {
        let fd = i32::try_from(fd).unwrap();
        epoll.control(fd, file, Control::Add(event(IN, fd.unsigned_abs().into()))).unwrap();
        lamp.set(EventMask::IN);
    }
    let seen: Vec<u64> = (0..4).flat_map(|_| collect(&epoll, 1)).map(|e| e.data).collect();
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[test]
fn closed_files_leave() {
    let epoll = Epoll::of(&Epoll::create()).unwrap();
    let (lamp, file) = lamp();
    epoll.control(3, &file, Control::Add(event(IN, 1))).unwrap();
    lamp.set(EventMask::IN);
    drop(file);
    assert_eq!(collect(&epoll, 8), []);
    assert!(epoll.state.lock().items.is_empty());
}

#[test]
fn nothing_is_left_of_closed_files_and_sets() {
    let (lamp, file) = lamp();
    let epoll = Epoll::of(&Epoll::create()).unwrap();
    for fd in 0..10_000 {
        // As programs do that never call EPOLL_CTL_DEL.
        let other = File::anonymous(Arc::clone(&lamp) as Arc<dyn FileOps>, OpenFlags::O_RDWR, "lamp");
        epoll.control(fd, &other, Control::Add(event(IN, 1))).unwrap();
    }
    epoll.control(0, &file, Control::Add(event(IN, 1))).unwrap();
    assert!(epoll.state.lock().items.len() < 1000);
    assert_eq!(epoll.lines().lines().count(), 1);
    lamp.set(EventMask::IN);
    assert_eq!(collect(&epoll, 8), [event(IN, 1)]);
    drop(epoll);
    assert!(lamp.queue.is_empty());
    assert_eq!(Arc::strong_count(&lamp), 2, "the file's and ours");
}

#[test]
fn a_file_that_was_removed_reports_nothing() {
    let epoll = Epoll::of(&Epoll::create()).unwrap();
    let (lamp, file) = lamp();
    epoll.control(3, &file, Control::Add(event(IN, 1))).unwrap();
    lamp.set(EventMask::IN);
    assert_eq!(collect(&epoll, 8), [event(IN, 1)]);
    epoll.control(3, &file, Control::Delete).unwrap();
    assert_eq!(collect(&epoll, 8), []);
    lamp.set(EventMask::IN);
    assert_eq!(collect(&epoll, 8), []);
}

#[test]
fn nesting_reports_and_refuses_cycles() {
    let (outer_file, inner_file) = (Epoll::create(), Epoll::create());
    let (outer, inner) = (Epoll::of(&outer_file).unwrap(), Epoll::of(&inner_file).unwrap());
    let (lamp, file) = lamp();
    inner.control(3, &file, Control::Add(event(IN, 1))).unwrap();
    outer.control(4, &inner_file, Control::Add(event(IN, 2))).unwrap();
    assert_eq!(inner.control(5, &outer_file, Control::Add(event(IN, 3))), Err(Errno::ELOOP));
    assert_eq!(outer.control(6, &outer_file, Control::Add(event(IN, 3))), Err(Errno::EINVAL));
    assert_eq!(collect(&outer, 8), []);
    lamp.set(EventMask::IN);
    assert_eq!(collect(&outer, 8), [event(IN, 2)]);
    assert_eq!(collect(&inner, 8), [event(IN, 1)]);
}

#[test]
fn a_set_is_in_few_others() {
    let inner = Epoll::create();
    let outer: Vec<_> = (0..=MAX_PARENTS).map(|_| Epoll::create()).collect();
    let add = |file: &Arc<File>| Epoll::of(file).unwrap().control(3, &inner, Control::Add(event(IN, 1)));
    let answers: Vec<_> = outer.iter().map(add).collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), MAX_PARENTS);
    assert_eq!(answers.last(), Some(&Err(Errno::EINVAL)));
    drop(outer);
    assert_eq!(Epoll::of(&inner).unwrap().parents.load(Ordering::Relaxed), 0);
}

#[test]
fn errors_are_linuxs() {
    let epoll = Epoll::of(&Epoll::create()).unwrap();
    let (_lamp, file) = lamp();
    assert_eq!(epoll.control(3, &file, Control::Modify(event(IN, 1))), Err(Errno::ENOENT));
    assert_eq!(epoll.control(3, &file, Control::Delete), Err(Errno::ENOENT));
    epoll.control(3, &file, Control::Add(event(IN, 1))).unwrap();
    assert_eq!(epoll.control(3, &file, Control::Add(event(IN, 1))), Err(Errno::EEXIST));
    let odd = Control::Add(event(IN | bits::EXCLUSIVE | bits::ONESHOT, 1));
    assert_eq!(epoll.control(4, &file, odd), Err(Errno::EINVAL));
}
