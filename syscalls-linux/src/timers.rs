//! Interval timers and POSIX timers of a process.

use abi::Errno;
use abi::signal::{SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD_ID, SigEvent};
use abi::time::{Itimerspec, Itimerval, TimerFlags};
use kernel::signal::Signal;
use kernel::syscalls;
use kernel::task::{Task, Tid};
use kernel::time::{
    ClockId, IntervalTimer, ItimerWhich, PosixTimerSpec, TimerNotify, TimerStart, timespec_to_ns, timeval_to_ns,
};

use crate::args::{ClockArg, Flags, In, ItimerArg, Out};
use crate::process::timeval;
use crate::time::timespec;

syscalls! {
    pub(crate) const ROWS;

    /// Sends SIGALRM after some seconds.
    alarm [37, -] Full("timers::interval_timers_tell_what_is_left");
    /// Gets an interval timer.
    getitimer [36, 102] Full("timers::interval_timers_tell_what_is_left");
    /// Sets an interval timer.
    setitimer [38, 103] Full("time::an_alarm_interrupts");
    /// Makes a POSIX timer.
    timer_create [222, 107] Partial("no timers on CPU clocks of other processes and threads");
    /// Arms or disarms a POSIX timer.
    timer_settime [223, 110] Full("timers::posix_timers_signal_with_a_value");
    /// Asks a POSIX timer what is left.
    timer_gettime [224, 108] Full("timers::posix_timers_signal_with_a_value");
    /// Expirations that had no signal of their own.
    timer_getoverrun [225, 109] Full("timers::missed_expirations_are_counted");
    /// Deletes a POSIX timer.
    timer_delete [226, 111] Full("timers::posix_timers_signal_with_a_value");
}

/// `alarm(2)`: answers the seconds that were left, at least 1 if there was an alarm.
fn alarm(task: &mut Task, seconds: u32) -> Result<u32, Errno> {
    let new = IntervalTimer { value_ns: u64::from(seconds) * 1_000_000_000, interval_ns: 0 };
    let left = task.set_itimer(ItimerWhich::Real, new).value_ns;
    let rounded = left.saturating_add(500_000_000) / 1_000_000_000;
    Ok(u32::try_from(rounded).unwrap_or(u32::MAX).max(u32::from(left != 0)))
}

fn which(timer: ItimerArg) -> Result<ItimerWhich, Errno> {
    Ok(match timer.0 {
        abi::time::ITIMER_REAL => ItimerWhich::Real,
        abi::time::ITIMER_VIRTUAL => ItimerWhich::Virtual,
        abi::time::ITIMER_PROF => ItimerWhich::Prof,
        _ => return Err(Errno::EINVAL),
    })
}

fn itimerval(timer: IntervalTimer) -> Itimerval {
    Itimerval { it_interval: timeval(timer.interval_ns), it_value: timeval(timer.value_ns) }
}

/// `getitimer(2)`.
fn getitimer(task: &mut Task, timer: ItimerArg, value: Out<Itimerval>) -> Result<(), Errno> {
    let now = task.itimer(which(timer)?);
    value.write(task, &itimerval(now))
}

/// `setitimer(2)`: a null pointer disarms, as on Linux.
fn setitimer(task: &mut Task, timer: ItimerArg, new: In<Itimerval>, old: Out<Itimerval>) -> Result<(), Errno> {
    let new = new.read_opt(task)?.unwrap_or_default();
    let new = IntervalTimer { value_ns: timeval_to_ns(&new.it_value)?, interval_ns: timeval_to_ns(&new.it_interval)? };
    let before = task.set_itimer(which(timer)?, new);
    old.write_opt(task, &itimerval(before))
}

/// What a `struct sigevent` asks for, `timer_create(2)`.
fn notify(task: &Task, event: &SigEvent) -> Result<TimerNotify, Errno> {
    let value = event.sigev_value;
    if event.sigev_notify == SIGEV_NONE {
        return Ok(TimerNotify::None);
    }
    let signal = Signal::new(event.sigev_signo).ok_or(Errno::EINVAL)?;
    match event.sigev_notify {
        SIGEV_SIGNAL | abi::signal::SIGEV_THREAD => Ok(TimerNotify::Signal { signal, value, thread: None }),
        SIGEV_THREAD_ID => {
            let tid = Tid::from_raw(event.sigev_notify_thread_id).ok_or(Errno::EINVAL)?;
            let thread = task.kernel().tasks().thread(tid).ok_or(Errno::EINVAL)?;
            if thread.pid() != task.pid() {
                return Err(Errno::EINVAL);
            }
            Ok(TimerNotify::Signal { signal, value, thread: Some(tid) })
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `timer_create(2)`.
fn timer_create(task: &mut Task, clock: ClockArg, event: In<SigEvent>, id: Out<i32>) -> Result<(), Errno> {
    let event = event.read_opt(task)?;
    let clock = ClockId::from_raw(clock.0)?;
    let notify = event.map(|event| notify(task, &event)).transpose()?;
    let timer = task.timer_create(PosixTimerSpec { clock, notify })?;
    id.write(task, &timer).inspect_err(|_| {
        // Nobody knows its number: it goes again.
        let _ = task.timer_delete(timer);
    })
}

fn itimerspec(timer: IntervalTimer) -> Itimerspec {
    Itimerspec { it_interval: timespec(timer.interval_ns), it_value: timespec(timer.value_ns) }
}

/// `timer_settime(2)`.
fn timer_settime(
    task: &mut Task,
    id: i32,
    flags: Flags<TimerFlags>,
    new: In<Itimerspec>,
    old: Out<Itimerspec>,
) -> Result<(), Errno> {
    if new.is_null() {
        return Err(Errno::EINVAL);
    }
    let new = new.read(task)?;
    let new =
        IntervalTimer { value_ns: timespec_to_ns(&new.it_value)?, interval_ns: timespec_to_ns(&new.it_interval)? };
    let absolute = flags.0.contains(TimerFlags::TIMER_ABSTIME);
    let start = if absolute { TimerStart::At } else { TimerStart::FromNow };
    let before = task.timer_settime(id, new, start)?;
    old.write_opt(task, &itimerspec(before))
}

/// `timer_gettime(2)`.
fn timer_gettime(task: &mut Task, id: i32, now: Out<Itimerspec>) -> Result<(), Errno> {
    let timer = task.timer_gettime(id)?;
    now.write(task, &itimerspec(timer))
}

/// `timer_getoverrun(2)`.
fn timer_getoverrun(task: &mut Task, id: i32) -> Result<i32, Errno> {
    task.timer_getoverrun(id)
}

/// `timer_delete(2)`.
fn timer_delete(task: &mut Task, id: i32) -> Result<(), Errno> {
    task.timer_delete(id)
}
