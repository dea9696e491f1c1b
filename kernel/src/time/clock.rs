//! Clocks: clock_gettime(2).

use abi::Errno;
use abi::time::{Timespec, Timeval};

use super::NS_PER_SEC;
use super::vdso::host_ns;
use crate::ids::Tid;
use crate::kernel::Kernel;
use crate::task::Task;

/// A clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockId {
    /// The wall clock; CLOCK_TAI counts as the same plus the offset, which is 0 when nobody has set it.
    Realtime,
    /// Since boot, not set by anybody.
    Monotonic,
    /// As the hardware counts.
    MonotonicRaw,
    /// The wall clock at the last tick.
    RealtimeCoarse,
    /// The monotonic clock at the last tick.
    MonotonicCoarse,
    /// As monotonic, also while the machine is suspended.
    Boottime,
    /// CPU time of a process; `None` is the caller's.
    ProcessCpu(Option<Tid>),
    /// CPU time of a thread; `None` is the caller.
    ThreadCpu(Option<Tid>),
}

impl ClockId {
    /// As the guest numbers the clock of a timer of its own.
    pub(crate) const fn number(self) -> i32 {
        match self {
            Self::Realtime => abi::time::CLOCK_REALTIME,
            Self::Monotonic => abi::time::CLOCK_MONOTONIC,
            Self::MonotonicRaw => abi::time::CLOCK_MONOTONIC_RAW,
            Self::RealtimeCoarse => abi::time::CLOCK_REALTIME_COARSE,
            Self::MonotonicCoarse => abi::time::CLOCK_MONOTONIC_COARSE,
            Self::Boottime => abi::time::CLOCK_BOOTTIME,
            Self::ProcessCpu(_) => abi::time::CLOCK_PROCESS_CPUTIME_ID,
            Self::ThreadCpu(_) => abi::time::CLOCK_THREAD_CPUTIME_ID,
        }
    }

    /// From a guest's `clockid_t`. `EINVAL` for what is no clock; negative numbers encode CPU clocks of others.
    pub fn from_raw(raw: i32) -> Result<Self, Errno> {
        Ok(match raw {
            abi::time::CLOCK_REALTIME | abi::time::CLOCK_REALTIME_ALARM | abi::time::CLOCK_TAI => Self::Realtime,
            abi::time::CLOCK_MONOTONIC => Self::Monotonic,
            abi::time::CLOCK_PROCESS_CPUTIME_ID => Self::ProcessCpu(None),
            abi::time::CLOCK_THREAD_CPUTIME_ID => Self::ThreadCpu(None),
            abi::time::CLOCK_MONOTONIC_RAW => Self::MonotonicRaw,
            abi::time::CLOCK_REALTIME_COARSE => Self::RealtimeCoarse,
            abi::time::CLOCK_MONOTONIC_COARSE => Self::MonotonicCoarse,
            abi::time::CLOCK_BOOTTIME | abi::time::CLOCK_BOOTTIME_ALARM => Self::Boottime,
            n if n < 0 => {
                // clock_getcpuclockid(3): the complement of the thread's number above three bits of kind.
                if n & abi::time::CPUCLOCK_CLOCK_MASK == abi::time::CLOCKFD {
                    return Err(Errno::EINVAL);
                }
                let tid = Tid::from_raw(!(n >> 3));
                if n & abi::time::CPUCLOCK_PERTHREAD_MASK != 0 { Self::ThreadCpu(tid) } else { Self::ProcessCpu(tid) }
            }
            _ => return Err(Errno::EINVAL),
        })
    }

    /// Resolution in nanoseconds, clock_getres(2).
    pub const fn resolution_ns(self) -> u64 {
        match self {
            // One tick of a kernel with CONFIG_HZ=250, Debian's.
            Self::RealtimeCoarse | Self::MonotonicCoarse => 4_000_000,
            _ => 1,
        }
    }

    /// Whether one can sleep on it (clock_nanosleep(2)).
    pub const fn can_sleep(self) -> bool {
        matches!(self, Self::Realtime | Self::Monotonic | Self::Boottime | Self::ProcessCpu(_))
    }
}

impl Kernel {
    /// A system clock now, in nanoseconds. CPU clocks belong to tasks: [`Task::clock_ns`]; here they are 0.
    pub fn clock_ns(&self, clock: ClockId) -> u64 {
        use rustix::time::ClockId as Host;
        match clock {
            // The coarse ones are as fine as the others, as they are in the vDSO: one must not be behind the other.
            ClockId::Realtime | ClockId::RealtimeCoarse => self.vdso().now().realtime_ns,
            ClockId::Monotonic | ClockId::MonotonicCoarse => self.vdso().now().monotonic_ns,
            ClockId::MonotonicRaw => host_ns(Host::MonotonicRaw),
            ClockId::Boottime => self.vdso().now().boottime_ns,
            ClockId::ProcessCpu(_) | ClockId::ThreadCpu(_) => 0,
        }
    }

    /// The moment on CLOCK_MONOTONIC at which a system clock shows `at_ns`.
    pub fn to_monotonic(&self, clock: ClockId, at_ns: u64) -> u64 {
        if clock == ClockId::Monotonic {
            return at_ns;
        }
        let (there, here) = (self.clock_ns(clock), sync::monotonic_now_ns());
        match at_ns.checked_sub(there) {
            Some(left) => here.saturating_add(left),
            // Long ago stays long ago: a timer counts what it has missed since.
            None => here.saturating_sub(there.saturating_sub(at_ns)),
        }
    }
}

impl Task {
    /// Any clock now, in nanoseconds. `EINVAL` for the CPU clock of a task that is not there.
    pub fn clock_ns(&self, clock: ClockId) -> Result<u64, Errno> {
        let find = |tid| self.kernel().tasks().thread(tid).ok_or(Errno::EINVAL);
        Ok(match clock {
            ClockId::ProcessCpu(None) => self.group().cpu_times().total(),
            ClockId::ThreadCpu(None) => self.thread().cpu_times().total(),
            ClockId::ProcessCpu(Some(tid)) => find(tid)?.group().cpu_times().total(),
            // clock_gettime(2): other processes' threads cannot be named.
            ClockId::ThreadCpu(Some(tid)) => {
                let thread = find(tid)?;
                if thread.pid() != self.pid() {
                    return Err(Errno::EINVAL);
                }
                thread.cpu_times().total()
            }
            system => self.kernel().clock_ns(system),
        })
    }
}

/// A guest's time as nanoseconds; `EINVAL` unless `tv_nsec` is below a second and `tv_sec` not negative. Times past the
/// end of the counter count as for ever.
pub fn timespec_to_ns(time: &Timespec) -> Result<u64, Errno> {
    let seconds = u64::try_from(time.tv_sec).map_err(|_| Errno::EINVAL)?;
    let nanos = u64::try_from(time.tv_nsec).ok().filter(|&n| n < NS_PER_SEC).ok_or(Errno::EINVAL)?;
    Ok(seconds.saturating_mul(NS_PER_SEC).saturating_add(nanos))
}

/// As [`timespec_to_ns`], for microseconds.
pub fn timeval_to_ns(time: &Timeval) -> Result<u64, Errno> {
    let seconds = u64::try_from(time.tv_sec).map_err(|_| Errno::EINVAL)?;
    let micros = u64::try_from(time.tv_usec).ok().filter(|&n| n < 1_000_000).ok_or(Errno::EINVAL)?;
    Ok(seconds.saturating_mul(NS_PER_SEC).saturating_add(micros * 1_000))
}

#[cfg(test)]
mod tests {
    use super::{ClockId, timespec_to_ns};
    use crate::ids::Tid;
    use abi::Errno;
    use abi::time::Timespec;

    #[test]
    fn clock_numbers() {
        assert_eq!(ClockId::from_raw(1), Ok(ClockId::Monotonic));
        assert_eq!(ClockId::from_raw(10), Err(Errno::EINVAL));
        // What glibc's clock_getcpuclockid and pthread_getcpuclockid make.
        assert_eq!(ClockId::from_raw((!7_i32) << 3 | 2), Ok(ClockId::ProcessCpu(Some(Tid(7)))));
        assert_eq!(ClockId::from_raw((!7_i32) << 3 | 6), Ok(ClockId::ThreadCpu(Some(Tid(7)))));
    }

    #[test]
    fn bad_times_are_refused_and_long_ones_saturate() {
        let t = |tv_sec, tv_nsec| timespec_to_ns(&Timespec { tv_sec, tv_nsec });
        assert_eq!(t(1, 5), Ok(1_000_000_005));
        assert_eq!(t(-1, 0), Err(Errno::EINVAL));
        assert_eq!(t(0, 1_000_000_000), Err(Errno::EINVAL));
        assert_eq!(t(i64::MAX, 0), Ok(u64::MAX));
    }
}
