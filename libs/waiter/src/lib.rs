//! Readiness: event masks, wait queues, waiters; lists of what is ready; sleeping on words.
//!
//! Whoever wants to sleep for a file (a pipe, a socket, an eventfd) does three things in this order: **register** on its
//! queue, **check** its readiness again, **sleep**. Whoever makes it ready changes the state first and wakes the queue
//! after. Then no wake is lost: either the check sees the new state or the wake sees the registration.
//!
//! **Invariants.** The state that `readiness` reports is protected by a lock, or changed by sequentially consistent
//! atomics. No waiter is called with the queue's lock held, so a waiter may take locks and wake other queues. A wake may
//! reach a waiter whose registration is already gone: wakes are hints, never facts.
#![forbid(unsafe_code)]

mod queue;
pub mod ready;
pub mod sleepers;

pub use queue::{Mode, Registration, WaitQueue};

bitflags::bitflags! {
    /// What is or becomes possible on a file: the values of poll(2) and epoll_ctl(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
    pub struct EventMask: u32 {
        /// Data to read, or a read that would return at once.
        const IN = 0x001;
        /// Urgent data or an exceptional condition.
        const PRI = 0x002;
        /// Room to write.
        const OUT = 0x004;
        /// An error is pending; always reported.
        const ERR = 0x008;
        /// Hung up; always reported.
        const HUP = 0x010;
        /// Invalid descriptor (poll only).
        const NVAL = 0x020;
        /// Normal data to read.
        const RDNORM = 0x040;
        /// Priority data to read.
        const RDBAND = 0x080;
        /// Room for normal data.
        const WRNORM = 0x100;
        /// Room for priority data.
        const WRBAND = 0x200;
        /// Unused by Linux.
        const MSG = 0x400;
        /// The peer shut down its writing half.
        const RDHUP = 0x2000;
    }
}

impl EventMask {
    /// What poll(2) and epoll report whether asked or not.
    pub const ALWAYS: Self = Self::ERR.union(Self::HUP);
    /// A read would not block.
    pub const READABLE: Self = Self::IN.union(Self::RDNORM);
    /// A write would not block.
    pub const WRITABLE: Self = Self::OUT.union(Self::WRNORM);
}

/// Someone to tell that a file may have become ready.
pub trait Waiter: Send + Sync {
    /// Some of `events` may have happened. Must not block; may be called from any thread, and late.
    fn wake(&self, events: EventMask);

    /// As [`Waiter::wake`], of one that is registered as [`Mode::Exclusive`]: whether it does for the others, too. One that
    /// only takes note, because nobody waits behind it, does not.
    fn wake_alone(&self, events: EventMask) -> Taken {
        self.wake(events);
        Taken::Yes
    }
}

/// Whether somebody takes care of what an exclusive waiter was woken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// No other exclusive waiter needs to hear of it.
    Yes,
    /// The next one is to hear of it.
    No,
}

impl Waiter for sync::Parker {
    fn wake(&self, _events: EventMask) {
        self.unpark();
    }
}

/// Something that can be waited for.
pub trait Pollable {
    /// Which of `interest` (and [`EventMask::ALWAYS`]) hold now.
    fn readiness(&self, interest: EventMask) -> EventMask;
    /// Where to register for changes; `None` when readiness never changes.
    fn queue(&self) -> Option<&WaitQueue>;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{EventMask, Mode, Taken, WaitQueue, Waiter};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Waiter for Count {
        fn wake(&self, _events: EventMask) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn get(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn waiter() -> Arc<Count> {
        Arc::new(Count::default())
    }

    #[test]
    fn only_the_interested_are_woken_and_only_while_registered() {
        let queue = WaitQueue::new();
        let reader = waiter();
        let writer = waiter();
        let r = queue.register(reader.clone(), EventMask::IN, Mode::Shared);
        let w = queue.register(writer.clone(), EventMask::OUT, Mode::Shared);
        queue.wake(EventMask::IN);
        assert_eq!((reader.get(), writer.get()), (1, 0));
        queue.wake(EventMask::HUP);
        assert_eq!((reader.get(), writer.get()), (2, 1), "ERR and HUP go to everyone");
        drop(r);
        queue.wake(EventMask::IN | EventMask::OUT);
        assert_eq!((reader.get(), writer.get()), (2, 2));
        drop(w);
        assert!(queue.is_empty());
        queue.wake(EventMask::all());
        assert_eq!((reader.get(), writer.get()), (2, 2));
    }

    #[test]
    fn many_come_and_go_in_any_order() {
        let queue = WaitQueue::new();
        let all: Vec<_> = (0..1000).map(|_| waiter()).collect();
        let mode = |at| if at % 3 == 0 { Mode::Exclusive } else { Mode::Shared };
        let register =
            |(at, waiter): (usize, &Arc<Count>)| Some(queue.register(waiter.clone(), EventMask::IN, mode(at)));
        let mut registered: Vec<_> = all.iter().enumerate().map(register).collect();
        let mut shared = vec![0; all.len()];
        for step in 0..2000 {
            // All places, in an order that is neither up nor down; each goes, and half of them come back.
            let at = step * 617 % all.len();
            match registered[at].take() {
                Some(registration) => registration.satisfied(),
                None if step % 2 == 0 => registered[at] = register((at, &all[at])),
                None => {}
            }
            let exclusive = |list: &[Arc<Count>]| list.iter().step_by(3).map(|waiter| waiter.get()).sum::<usize>();
            let before = exclusive(&all);
            queue.wake(EventMask::IN);
            let some = registered.iter().step_by(3).any(Option::is_some);
            assert_eq!(exclusive(&all) - before, usize::from(some), "{step}");
            for (at, count) in shared.iter_mut().enumerate() {
                *count += usize::from(registered[at].is_some());
                assert!(at % 3 == 0 || all[at].get() == *count, "{step} {at}");
            }
        }
        for registration in registered.into_iter().flatten() {
            registration.satisfied();
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn a_crowd_leaves_at_once() {
        let queue = WaitQueue::new();
        let one = waiter();
        let mut crowd: Vec<_> =
            (0..300_000).map(|_| queue.register(one.clone(), EventMask::IN, Mode::Shared)).collect();
        // From the front, from the back, and the rest by leaps: with a search or a move for each this takes minutes.
        crowd.drain(..100_000).for_each(drop);
        crowd.drain(100_000..).rev().for_each(drop);
        let mut rest: Vec<_> = crowd.into_iter().map(Some).collect();
        for step in 0..rest.len() {
            let at = step * 7919 % rest.len();
            drop(rest[at].take());
        }
        assert!(queue.is_empty());
        assert_eq!(Arc::strong_count(&one), 1);
    }

    #[test]
    fn an_exclusive_wake_goes_to_one_in_turn() {
        let queue = WaitQueue::new();
        let all: Vec<_> = (0..3).map(|_| waiter()).collect();
        let shared = waiter();
        let regs: Vec<_> = all.iter().map(|w| queue.register(w.clone(), EventMask::IN, Mode::Exclusive)).collect();
        let _s = queue.register(shared.clone(), EventMask::IN, Mode::Shared);
        for _ in 0..3 {
            queue.wake(EventMask::IN);
        }
        assert_eq!(all.iter().map(|w| w.get()).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(shared.get(), 3);
        for r in regs {
            r.satisfied();
        }
    }

    #[test]
    fn an_exclusive_wake_that_is_not_used_is_passed_on() {
        let queue = WaitQueue::new();
        let (a, b) = (waiter(), waiter());
        let ra = queue.register(a.clone(), EventMask::IN, Mode::Exclusive);
        let rb = queue.register(b.clone(), EventMask::IN, Mode::Exclusive);
        let shared = waiter();
        let _shared = queue.register(shared.clone(), EventMask::IN, Mode::Shared);
        queue.wake(EventMask::IN);
        assert_eq!((a.get(), b.get(), shared.get()), (1, 0, 1));
        drop(ra);
        assert_eq!((a.get(), b.get(), shared.get()), (1, 1, 1), "who shares has heard of it");
        rb.satisfied();
    }

    #[test]
    fn an_exclusive_wake_that_was_used_is_not_passed_on() {
        let queue = WaitQueue::new();
        let (a, b) = (waiter(), waiter());
        let ra = queue.register(a.clone(), EventMask::IN, Mode::Exclusive);
        let _rb = queue.register(b.clone(), EventMask::IN, Mode::Exclusive);
        queue.wake(EventMask::IN);
        ra.used();
        drop(ra);
        assert_eq!((a.get(), b.get()), (1, 0));
    }

    #[test]
    fn an_exclusive_wake_goes_on_to_one_who_takes_it() {
        #[derive(Default)]
        struct Busy(Count);
        impl Waiter for Busy {
            fn wake(&self, events: EventMask) {
                self.0.wake(events);
            }
            fn wake_alone(&self, events: EventMask) -> Taken {
                self.wake(events);
                Taken::No
            }
        }
        let queue = WaitQueue::new();
        let (busy, other) = (Arc::new(Busy::default()), Arc::new(Busy::default()));
        let first = queue.register(busy.clone(), EventMask::IN, Mode::Exclusive);
        let _second = queue.register(other.clone(), EventMask::IN, Mode::Exclusive);
        queue.wake(EventMask::IN);
        assert_eq!((busy.0.get(), other.0.get()), (1, 1), "nobody took it, so that each has heard of it once");
        let taker = waiter();
        let _third = queue.register(taker.clone(), EventMask::IN, Mode::Exclusive);
        let idle = waiter();
        let _fourth = queue.register(idle.clone(), EventMask::IN, Mode::Exclusive);
        queue.wake(EventMask::IN);
        assert_eq!((busy.0.get(), other.0.get(), taker.get(), idle.get()), (2, 2, 1, 0));
        drop(first);
        assert_eq!((other.0.get(), idle.get()), (2, 0), "it had nothing to pass on");
    }

    #[test]
    fn a_waiter_may_use_the_queue_it_is_woken_by() {
        struct Nested(WaitQueue);
        impl Waiter for Nested {
            fn wake(&self, _events: EventMask) {
                drop(self.0.register(Arc::new(Count::default()), EventMask::IN, Mode::Shared));
                self.0.wake(EventMask::OUT);
            }
        }
        let queue = WaitQueue::new();
        let _r = queue.register(Arc::new(Nested(queue.clone())), EventMask::IN, Mode::Shared);
        queue.wake(EventMask::IN);
    }
}
