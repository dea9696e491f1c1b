//! One POSIX message queue: its messages by priority, who sleeps on it, who wants to be told.
//!
//! A message that comes while somebody waits for one goes to who has waited longest, and never into the queue: nobody else
//! can take it, and it raises no notification (mq_notify(3)). A message that waits for room is put in by the one who makes
//! the room.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use abi::Errno;
use fs::vfs::{Attr, Timestamp};
use sync::Mutex;
use waiter::{EventMask, WaitQueue, Waiter};

use super::limits::{Charge, Held, Shape};
use crate::ids::Pid;
use crate::lock::MQUEUE;
use crate::signal::types::Signal;
use crate::task::group::ThreadGroup;

/// A message.
pub(super) struct Message {
    pub(super) priority: u32,
    pub(super) text: Vec<u8>,
    /// Its share of what all may hold.
    pub(super) _held: Held,
}

/// How a process wants to be told that a message came into the empty queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    /// Not at all: nobody else is told either (`SIGEV_NONE`).
    Nothing,
    /// By a signal with a value; number 0 is none (`SIGEV_SIGNAL`).
    Signal(Option<Signal>, u64),
}

/// A process that is to be told.
pub(super) struct Registered {
    pub(super) pid: Pid,
    pub(super) group: Weak<ThreadGroup>,
    pub(super) how: Notify,
}

struct Receiver {
    ticket: u64,
    waiter: Arc<dyn Waiter>,
}

struct Sender {
    ticket: u64,
    waiter: Arc<dyn Waiter>,
    message: Message,
}

struct State {
    attr: Attr,
    messages: BTreeMap<Reverse<u32>, VecDeque<Message>>,
    count: usize,
    /// Bytes of all messages.
    bytes: usize,
    next_ticket: u64,
    receivers: VecDeque<Receiver>,
    /// For those of them who have theirs and have not looked.
    delivered: Vec<(u64, Message)>,
    senders: VecDeque<Sender>,
    registered: Option<Registered>,
}

impl State {
    fn put(&mut self, message: Message) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(message.text.len());
        self.messages.entry(Reverse(message.priority)).or_default().push_back(message);
    }

    /// The oldest of the highest priority.
    fn take(&mut self) -> Option<Message> {
        let mut first = self.messages.first_entry()?;
        let message = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        let message = message?;
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(message.text.len());
        Some(message)
    }

    /// Gives a message to who has waited longest, or puts it in, if there is `room` for so many.
    fn place(&mut self, room: usize, message: Message, now: Timestamp) -> Result<Placed, Message> {
        if self.count >= room {
            return Err(message);
        }
        self.touch(now);
        if let Some(receiver) = self.receivers.pop_front() {
            self.delivered.push((receiver.ticket, message));
            return Ok(Placed::Handed(receiver.waiter));
        }
        self.put(message);
        Ok(Placed::Queued(if self.count == 1 { self.registered.take() } else { None }))
    }

    /// Takes a message and puts in the one that has waited longest for room; its sender is to be woken.
    fn take_and_refill(&mut self, now: Timestamp) -> Option<(Message, Option<Arc<dyn Waiter>>)> {
        let message = self.take()?;
        self.touch(now);
        let waiter = self.senders.pop_front().map(|sender| {
            self.put(sender.message);
            sender.waiter
        });
        Some((message, waiter))
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.next_ticket
    }

    fn touch(&mut self, now: Timestamp) {
        (self.attr.atime, self.attr.mtime, self.attr.ctime) = (now, now, now);
    }
}

/// Where a message went.
enum Placed {
    /// To one who waited.
    Handed(Arc<dyn Waiter>),
    /// Into the queue; who is to be told.
    Queued(Option<Registered>),
}

/// What became of a message that was sent.
pub(super) enum Sent {
    /// It is there; who is to be told now.
    Done(Option<Registered>),
    /// There is no room.
    Full(Message),
}

/// A queue.
pub(super) struct Queue {
    shape: Shape,
    state: Mutex<State>,
    /// Of those who poll.
    events: WaitQueue,
    _charge: Charge,
}

/// What the status file and mq_getattr(3) tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) registered: Option<(Pid, Notify)>,
}

impl Queue {
    pub(super) fn new(shape: Shape, attr: Attr, charge: Charge) -> Self {
        let state = State {
            attr,
            messages: BTreeMap::new(),
            count: 0,
            bytes: 0,
            next_ticket: 0,
            receivers: VecDeque::new(),
            delivered: Vec::new(),
            senders: VecDeque::new(),
            registered: None,
        };
        Self { shape, state: Mutex::new(MQUEUE, state), events: WaitQueue::new(), _charge: charge }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn events(&self) -> &WaitQueue {
        &self.events
    }

    pub(super) fn attr(&self) -> Attr {
        self.state.lock().attr
    }

    pub(super) fn change_attr(&self, change: impl FnOnce(&mut Attr)) {
        change(&mut self.state.lock().attr);
    }

    pub(super) fn status(&self) -> Status {
        let state = self.state.lock();
        Status {
            messages: state.count,
            bytes: state.bytes,
            registered: state.registered.as_ref().map(|registered| (registered.pid, registered.how)),
        }
    }

    pub(super) fn readiness(&self) -> EventMask {
        let count = self.state.lock().count;
        let mut ready = EventMask::empty();
        ready.set(EventMask::READABLE, count > 0);
        ready.set(EventMask::WRITABLE, count < self.shape.messages);
        ready
    }

    /// Sends, if there is room.
    pub(super) fn send(&self, message: Message, now: Timestamp) -> Sent {
        let placed = self.state.lock().place(self.shape.messages, message, now);
        match placed {
            Ok(placed) => Sent::Done(self.tell(placed)),
            Err(message) => Sent::Full(message),
        }
    }

    /// Queues up with a message for which there was no room, unless there is by now: then it is sent.
    pub(super) fn wait_to_send(
        &self,
        message: Message,
        waiter: Arc<dyn Waiter>,
        now: Timestamp,
    ) -> Result<u64, Option<Registered>> {
        let mut state = self.state.lock();
        match state.place(self.shape.messages, message, now) {
            Ok(placed) => {
                drop(state);
                Err(self.tell(placed))
            }
            Err(message) => {
                let ticket = state.ticket();
                state.senders.push_back(Sender { ticket, waiter, message });
                Ok(ticket)
            }
        }
    }

    /// Wakes whom a new message concerns; says what is left to do.
    fn tell(&self, placed: Placed) -> Option<Registered> {
        match placed {
            Placed::Handed(waiter) => {
                waiter.wake(EventMask::READABLE);
                None
            }
            Placed::Queued(registered) => {
                self.events.wake(EventMask::READABLE);
                registered
            }
        }
    }

    /// Whether the message that waits under `ticket` was put in.
    pub(super) fn was_sent(&self, ticket: u64) -> bool {
        !self.state.lock().senders.iter().any(|sender| sender.ticket == ticket)
    }

    /// Takes back the message that waits under `ticket`; `false` if it was put in.
    pub(super) fn give_up_sending(&self, ticket: u64) -> bool {
        let mut state = self.state.lock();
        let at = state.senders.iter().position(|sender| sender.ticket == ticket);
        let taken = at.and_then(|at| state.senders.remove(at));
        drop(state);
        taken.is_some()
    }

    /// Receives, if there is something.
    pub(super) fn receive(&self, now: Timestamp) -> Option<Message> {
        let taken = self.state.lock().take_and_refill(now);
        taken.map(|taken| self.taken(taken))
    }

    /// Queues up for a message, unless there is one by now.
    pub(super) fn wait_to_receive(&self, waiter: Arc<dyn Waiter>, now: Timestamp) -> Result<u64, Message> {
        let mut state = self.state.lock();
        if let Some(taken) = state.take_and_refill(now) {
            drop(state);
            return Err(self.taken(taken));
        }
        let ticket = state.ticket();
        state.receivers.push_back(Receiver { ticket, waiter });
        Ok(ticket)
    }

    fn taken(&self, (message, sender): (Message, Option<Arc<dyn Waiter>>)) -> Message {
        match sender {
            Some(waiter) => waiter.wake(EventMask::WRITABLE),
            None => self.events.wake(EventMask::WRITABLE),
        }
        message
    }

    /// What came for `ticket`.
    pub(super) fn delivered(&self, ticket: u64) -> Option<Message> {
        let mut state = self.state.lock();
        let at = state.delivered.iter().position(|(of, _)| *of == ticket)?;
        Some(state.delivered.swap_remove(at).1)
    }

    /// Ends the wait of `ticket`; what came at the last moment.
    pub(super) fn give_up_receiving(&self, ticket: u64) -> Option<Message> {
        self.state.lock().receivers.retain(|receiver| receiver.ticket != ticket);
        self.delivered(ticket)
    }

    /// Registers a process to be told; `EBUSY` when there is one.
    pub(super) fn register(&self, registered: Registered, now: Timestamp) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.registered.as_ref().is_some_and(|there| there.group.strong_count() > 0) {
            return Err(Errno::EBUSY);
        }
        state.registered = Some(registered);
        (state.attr.atime, state.attr.ctime) = (now, now);
        Ok(())
    }

    /// Ends the registration of `pid`, if it has one.
    pub(super) fn unregister(&self, pid: Pid) {
        let mut state = self.state.lock();
        let gone = state.registered.take_if(|registered| registered.pid == pid);
        drop(state);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use fs::vfs::{Attr, FileType, Timestamp};
    use waiter::{EventMask, Waiter};

    use super::super::limits::{Limits, Privileged, Shape};
    use super::{Message, Queue, Sent};

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Waiter for Woken {
        fn wake(&self, _events: EventMask) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const NOW: Timestamp = Timestamp { secs: 1, nanos: 0 };

    fn queue(messages: usize) -> (Queue, Arc<Limits>) {
        let limits = Limits::new();
        let shape = Shape { messages, size: 64 };
        let charge = limits.charge(0, shape, u64::MAX, Privileged::Yes).unwrap();
        (Queue::new(shape, Attr::new(1, 1, FileType::Regular, 0o600, NOW), charge), limits)
    }

    fn message(limits: &Limits, priority: u32, text: &[u8]) -> Message {
        Message { priority, text: text.to_vec(), _held: limits.hold(text.len()).unwrap() }
    }

    fn text(message: Option<Message>) -> Vec<u8> {
        message.unwrap().text
    }

    #[test]
    fn the_oldest_of_the_highest_priority_comes_first() {
        let (queue, limits) = queue(4);
        for (priority, content) in [(1, b"a"), (5, b"b"), (1, b"c"), (5, b"d")] {
            assert!(matches!(queue.send(message(&limits, priority, content), NOW), Sent::Done(None)));
        }
        assert!(matches!(queue.send(message(&limits, 9, b"e"), NOW), Sent::Full(_)));
        assert_eq!((queue.status().messages, queue.status().bytes), (4, 4));
        let all: Vec<_> = std::iter::from_fn(|| queue.receive(NOW)).flat_map(|message| message.text).collect();
        assert_eq!(all, b"bdac");
        assert_eq!(queue.status().bytes, 0);
    }

    #[test]
    fn who_waits_gets_the_message_and_nobody_else() {
        let (queue, limits) = queue(1);
        let woken = Arc::new(Woken::default());
        let first = queue.wait_to_receive(Arc::clone(&woken) as _, NOW).ok().unwrap();
        let second = queue.wait_to_receive(Arc::clone(&woken) as _, NOW).ok().unwrap();
        assert!(matches!(queue.send(message(&limits, 0, b"x"), NOW), Sent::Done(None)));
        assert!(queue.receive(NOW).is_none());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(queue.delivered(second).is_none());
        assert_eq!(text(queue.delivered(first)), b"x");
        assert!(queue.give_up_receiving(second).is_none());
        assert!(matches!(queue.send(message(&limits, 0, b"y"), NOW), Sent::Done(None)));
        assert_eq!(text(queue.receive(NOW)), b"y");
    }

    #[test]
    fn who_makes_room_puts_in_what_waits() {
        let (queue, limits) = queue(1);
        assert!(matches!(queue.send(message(&limits, 0, b"1"), NOW), Sent::Done(None)));
        let woken = Arc::new(Woken::default());
        let ticket = queue.wait_to_send(message(&limits, 7, b"2"), Arc::clone(&woken) as _, NOW).ok().unwrap();
        let other = queue.wait_to_send(message(&limits, 8, b"3"), Arc::clone(&woken) as _, NOW).ok().unwrap();
        assert!(!queue.was_sent(ticket) && queue.give_up_sending(other) && !queue.give_up_sending(other));
        assert_eq!(text(queue.receive(NOW)), b"1");
        assert!(queue.was_sent(ticket) && !queue.give_up_sending(ticket));
        assert_eq!((woken.0.load(Ordering::Relaxed), text(queue.receive(NOW))), (1, b"2".to_vec()));
        assert!(queue.receive(NOW).is_none());
    }
}
