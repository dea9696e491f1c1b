//! timerfd_create(2): a timer that is read.
//!
//! A periodic timer is armed for its next expiration only when the last one has been read: expirations in between are
//! counted then, so that a timer nobody reads wakes nobody.

use std::sync::{Arc, Weak};

use abi::Errno;
use abi::fs::OpenFlags;
use fs::Context;
use fs::vfs::{File, FileOps};
use sync::{LockClass, Mutex};
use usermem::bytes::IoDst;
use waiter::{EventMask, WaitQueue};

use crate::kernel::Kernel;
use crate::time::{ClockId, TimerHandle, TimerTarget};

const TIMER: LockClass = LockClass::new("timerfd", 3060);

/// When a timer expires next and how often after that; on the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Setting {
    /// Next expiration; `None` for a disarmed timer.
    pub next_ns: Option<u64>,
    /// Time between expirations; 0 for one that expires once.
    pub interval_ns: u64,
    /// Expirations before the next one, of a timer that was to begin in the past of its clock; told with that one.
    pub missed: u64,
}

impl Setting {
    /// One whose first expiration was due `late_ns` ago.
    pub fn overdue(now_ns: u64, late_ns: u64, interval_ns: u64) -> Self {
        let missed = late_ns.checked_div(interval_ns).unwrap_or(0);
        let rest = if interval_ns == 0 { 0 } else { late_ns % interval_ns };
        Self { next_ns: Some(now_ns.saturating_sub(rest)), interval_ns, missed }
    }

    /// Expirations up to `now_ns`; moves on to the first after it.
    fn take_expirations(&mut self, now_ns: u64) -> u64 {
        let Some(next) = self.next_ns.filter(|&next| next <= now_ns) else { return 0 };
        if self.interval_ns == 0 {
            self.next_ns = None;
            return 1;
        }
        let more = (now_ns - next) / self.interval_ns;
        self.next_ns = Some(next.saturating_add(self.interval_ns.saturating_mul(more.saturating_add(1))));
        more.saturating_add(1).saturating_add(std::mem::take(&mut self.missed))
    }

    /// Time to the next expiration, as timerfd_gettime(2) has it: 0 only for a disarmed timer.
    fn remaining(mut self, now_ns: u64) -> (u64, u64) {
        self.take_expirations(now_ns);
        (self.next_ns.map_or(0, |next| next.saturating_sub(now_ns).max(1)), self.interval_ns)
    }
}

struct State {
    setting: Setting,
    handle: Option<TimerHandle>,
    /// Counts settings: an expiration of an older one means nothing.
    generation: u64,
}

/// The timer.
pub struct TimerFd {
    kernel: Weak<Kernel>,
    clock: ClockId,
    me: Weak<Self>,
    state: Mutex<State>,
    queue: WaitQueue,
}

impl TimerFd {
    /// A disarmed timer on `clock`, as a file.
    pub fn create(kernel: &Arc<Kernel>, clock: ClockId, flags: OpenFlags) -> Arc<File> {
        let timer = Arc::new_cyclic(|me| Self {
            kernel: Arc::downgrade(kernel),
            clock,
            me: Weak::clone(me),
            state: Mutex::new(TIMER, State { setting: Setting::default(), handle: None, generation: 0 }),
            queue: WaitQueue::new(),
        });
        File::anonymous(timer, flags | OpenFlags::O_RDWR, "anon_inode:[timerfd]")
    }

    /// The timer behind `file`; `EINVAL` for other files.
    pub fn of(file: &File) -> Result<Arc<Self>, Errno> {
        file.ops_arc::<Self>().ok_or(Errno::EINVAL)
    }

    /// The clock that absolute times are on.
    pub fn clock(&self) -> ClockId {
        self.clock
    }

    /// Replaces the setting; says the time that was left and the interval of the old one.
    pub fn set(&self, setting: Setting) -> (u64, u64) {
        let now = sync::monotonic_now_ns();
        let mut state = self.state.lock();
        let old = state.setting.remaining(now);
        state.setting = setting;
        state.generation = state.generation.wrapping_add(1);
        self.arm(&mut state);
        old
    }

    /// Time left and interval, timerfd_gettime(2).
    pub fn get(&self) -> (u64, u64) {
        self.state.lock().setting.remaining(sync::monotonic_now_ns())
    }

    fn arm(&self, state: &mut State) {
        let Some(kernel) = self.kernel.upgrade() else { return };
        if let Some(handle) = state.handle.take() {
            kernel.timers().disarm(handle);
        }
        let target: Weak<dyn TimerTarget> = self.me.clone();
        state.handle = state.setting.next_ns.map(|next| kernel.timers().arm(next, target, state.generation));
    }
}

impl TimerTarget for TimerFd {
    fn expired(&self, token: u64, _now_ns: u64) {
        {
            let mut state = self.state.lock();
            if state.generation != token {
                return;
            }
            state.handle = None;
        }
        self.queue.wake(EventMask::READABLE);
    }
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        if let (Some(kernel), Some(handle)) = (self.kernel.upgrade(), self.state.get_mut().handle.take()) {
            kernel.timers().disarm(handle);
        }
    }
}

impl FileOps for TimerFd {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let count = {
            let mut state = self.state.lock();
            let count = state.setting.take_expirations(sync::monotonic_now_ns());
            if count > 0 {
                self.arm(&mut state);
            }
            count
        };
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        if dst.put(&count.to_ne_bytes())? == 8 { Ok(8) } else { Err(Errno::EFAULT) }
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        let due = self.state.lock().setting.next_ns.is_some_and(|next| next <= sync::monotonic_now_ns());
        if due { interest & EventMask::READABLE } else { EventMask::empty() }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn fdinfo(&self) -> String {
        let (value, interval) = self.get();
        let show = |ns: u64| format!("({}, {})", ns / 1_000_000_000, ns % 1_000_000_000);
        format!("it_value: {}\nit_interval: {}\n", show(value), show(interval))
    }
}

#[cfg(test)]
mod tests {
    use super::Setting;

    #[test]
    fn a_single_expiration_counts_once() {
        let mut setting = Setting { next_ns: Some(100), interval_ns: 0, missed: 0 };
        assert_eq!(setting.take_expirations(99), 0);
        assert_eq!(setting.remaining(40), (60, 0));
        assert_eq!(setting.take_expirations(1000), 1);
        assert_eq!((setting.take_expirations(2000), setting.remaining(2000)), (0, (0, 0)));
    }

    #[test]
    fn a_timer_that_began_long_ago_has_all_its_expirations() {
        let mut setting = Setting::overdue(1000, 95, 10);
        assert_eq!((setting.take_expirations(1000), setting.next_ns), (10, Some(1005)));
        assert_eq!(setting.take_expirations(1005), 1);
        assert_eq!(Setting::overdue(1000, 95, 0).take_expirations(1000), 1);
    }

    #[test]
    fn missed_expirations_are_counted_and_the_rhythm_is_kept() {
        let mut setting = Setting { next_ns: Some(100), interval_ns: 10, missed: 0 };
        assert_eq!(setting.take_expirations(100), 1);
        assert_eq!(setting.take_expirations(145), 4);
        assert_eq!(setting.next_ns, Some(150));
        assert_eq!(setting.remaining(147), (3, 10));
        let mut extreme = Setting { next_ns: Some(0), interval_ns: 1, missed: 0 };
        assert_eq!(extreme.take_expirations(u64::MAX), u64::MAX);
    }
}
