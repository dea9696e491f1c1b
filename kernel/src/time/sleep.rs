//! Sleeping for a time: nanosleep(2), clock_nanosleep(2).

use abi::Errno;
use abi::time::Timespec;
use usermem::Addr;
use usermem::ptr::UserPtr;

use super::{ClockId, NS_PER_SEC};
use crate::error::{Restart, RestartBlock, SysErr, SysResult};
use crate::task::Task;
use crate::task::block::Blocked;

/// How long to sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SleepRequest {
    /// For so many nanoseconds.
    For(u64),
    /// Until the clock shows this (TIMER_ABSTIME).
    Until(u64),
}

impl Task {
    /// Sleeps on `clock`. An interrupted relative sleep stores what is left at `remain`; an absolute one is restarted
    /// from the start. `EOPNOTSUPP`, `EINVAL` for clocks that cannot be slept on.
    pub fn nanosleep(&mut self, clock: ClockId, request: SleepRequest, remain: Option<Addr>) -> SysResult {
        if !clock.can_sleep() {
            let errno = if matches!(clock, ClockId::ThreadCpu(_)) { Errno::EINVAL } else { Errno::EOPNOTSUPP };
            return Err(SysErr::Errno(errno));
        }
        if let ClockId::ProcessCpu(_) = clock {
            return self.cpu_sleep(clock, request, remain);
        }
        match request {
            SleepRequest::For(ns) => {
                // clock_nanosleep(2): a relative sleep is not affected by changes of the clock.
                let deadline = sync::monotonic_now_ns().saturating_add(ns);
                self.continue_nanosleep(clock, deadline, remain)
            }
            SleepRequest::Until(at) => {
                let deadline = self.kernel().to_monotonic(clock, at);
                match self.sleep_until(deadline) {
                    Err(Blocked::Interrupted) => Err(SysErr::Restart(Restart::NoHand)),
                    Ok(()) | Err(Blocked::TimedOut) => Ok(0),
                }
            }
        }
    }

    fn sleep_until(&mut self, deadline_ns: u64) -> Result<(), Blocked> {
        loop {
            match self.sleep(Some(deadline_ns)) {
                Ok(()) => {}
                Err(Blocked::TimedOut) => return Ok(()),
                Err(Blocked::Interrupted) if sync::monotonic_now_ns() >= deadline_ns => return Ok(()),
                Err(Blocked::Interrupted) => return Err(Blocked::Interrupted),
            }
        }
    }

    pub(crate) fn continue_nanosleep(&mut self, clock: ClockId, deadline_ns: u64, remain: Option<Addr>) -> SysResult {
        let slept = match clock {
            ClockId::ProcessCpu(_) => self.sleep_on_cpu(clock, deadline_ns)?.ok_or(Blocked::Interrupted),
            _ => self.sleep_until(deadline_ns),
        };
        match slept {
            Err(Blocked::Interrupted) => {
                Err(SysErr::Restart(Restart::Block(RestartBlock::Nanosleep { clock, deadline_ns, remain })))
            }
            Ok(()) | Err(Blocked::TimedOut) => Ok(0),
        }
    }

    /// What an interrupted sleep leaves for a guest whose handler runs: the time left. Says what the call answers: `EINTR`,
    /// or `EFAULT` where the time left has no place (nanosleep(2)).
    pub(crate) fn sleep_interrupted(&mut self, block: &RestartBlock) -> Errno {
        if let RestartBlock::Nanosleep { clock, deadline_ns, remain: Some(remain) } = block {
            let now = match clock {
                ClockId::ProcessCpu(_) => self.clock_ns(*clock).unwrap_or(*deadline_ns),
                _ => sync::monotonic_now_ns(),
            };
            let left = deadline_ns.saturating_sub(now);
            let left = Timespec {
                tv_sec: i64::try_from(left / NS_PER_SEC).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(left % NS_PER_SEC).unwrap_or(0),
            };
            if UserPtr::<Timespec>::new(*remain).write(self.mem(), &left).is_err() {
                return Errno::EFAULT;
            }
        }
        Errno::EINTR
    }

    /// Sleeps until a process has used so much CPU time. Its threads use it; the check is by the wall clock, which CPU time of
    /// one thread cannot outrun.
    fn cpu_sleep(&mut self, clock: ClockId, request: SleepRequest, remain: Option<Addr>) -> SysResult {
        match request {
            SleepRequest::For(ns) => {
                let target = self.clock_ns(clock)?.saturating_add(ns);
                self.continue_nanosleep(clock, target, remain)
            }
            SleepRequest::Until(target) => {
                let done = self.sleep_on_cpu(clock, target)?;
                done.map_or(Err(SysErr::Restart(Restart::NoHand)), |()| Ok(0))
            }
        }
    }

    /// `None` if something else wants the task.
    fn sleep_on_cpu(&mut self, clock: ClockId, target_ns: u64) -> Result<Option<()>, Errno> {
        loop {
            let used = self.clock_ns(clock)?;
            if used >= target_ns {
                return Ok(Some(()));
            }
            let threads = match clock {
                ClockId::ProcessCpu(Some(pid)) => {
                    self.kernel().tasks().thread(pid).map_or(1, |thread| thread.group().threads().len())
                }
                _ => self.group().threads().len(),
            };
            let soonest = ((target_ns - used) / threads.max(1) as u64).max(1_000_000);
            let wake = sync::monotonic_now_ns().saturating_add(soonest);
            if self.sleep(Some(wake)) == Err(Blocked::Interrupted) {
                return Ok(None);
            }
        }
    }
}
