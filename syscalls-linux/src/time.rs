//! Clocks, sleeping, timers.

use abi::Errno;
use abi::time::{TimerFlags, Timespec, Timeval, Timex, Timezone};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::Task;
use kernel::time::{ClockId, NS_PER_SEC, SleepRequest, timespec_to_ns};

use crate::args::{ClockArg, Flags, In, InOut, Out};
use crate::process::timeval;

syscalls! {
    pub(crate) const ROWS;

    /// Reads a clock.
    clock_gettime [228, 113] Full("time::clocks_advance_and_agree_with_the_vdso");
    /// Resolution of a clock.
    clock_getres [229, 114] Full("time::clocks_advance_and_agree_with_the_vdso");
    /// Sleeps on a clock.
    clock_nanosleep [230, 115] Full("timers::sleeps_until_a_time");
    /// Sleeps for a time.
    nanosleep [35, 101] Full("time::sleeping_takes_its_time");
    /// Reads the wall clock in microseconds.
    gettimeofday [96, 169] Full("timers::old_clocks_agree");
    /// Reads the wall clock in seconds.
    time [201, -] Full("timers::old_clocks_agree");
    /// Reads and adjusts the wall clock's discipline.
    adjtimex [159, 171] Partial("reading; setting is EPERM, the clock is the host's");
    /// Reads and adjusts a clock's discipline.
    clock_adjtime [305, 266] Partial("reading; setting is EPERM, the clock is the host's");
}

/// Nanoseconds as a `struct timespec`.
pub(crate) fn timespec(ns: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(ns / NS_PER_SEC).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % NS_PER_SEC).unwrap_or(0),
    }
}

/// The moment on the monotonic clock that lies `span` from now; 0, long past, for an empty span.
pub(crate) fn deadline_after(span: Timespec) -> Result<u64, Errno> {
    let ns = timespec_to_ns(&span)?;
    Ok(if ns == 0 { 0 } else { sync::monotonic_now_ns().saturating_add(ns) })
}

/// When a span of nanoseconds that begins now ends.
pub(crate) fn deadline_after_ns(ns: u64) -> u64 {
    sync::monotonic_now_ns().saturating_add(ns)
}

/// The same for milliseconds, of which a negative number is for ever.
pub(crate) fn deadline_after_ms(ms: i32) -> Option<u64> {
    let ms = u64::try_from(ms).ok()?;
    Some(if ms == 0 { 0 } else { sync::monotonic_now_ns().saturating_add(ms.saturating_mul(1_000_000)) })
}

/// What is left until then.
pub(crate) fn timespec_until(deadline_ns: u64) -> Timespec {
    timespec(deadline_ns.saturating_sub(sync::monotonic_now_ns()))
}

/// What is left until then, in microseconds.
pub(crate) fn timeval_until(deadline_ns: u64) -> Timeval {
    timeval(deadline_ns.saturating_sub(sync::monotonic_now_ns()))
}

/// `clock_gettime(2)`.
fn clock_gettime(task: &mut Task, clock: ClockArg, time: Out<Timespec>) -> Result<(), Errno> {
    let now = task.clock_ns(ClockId::from_raw(clock.0)?)?;
    time.write(task, &timespec(now))
}

/// `clock_getres(2)`.
fn clock_getres(task: &mut Task, clock: ClockArg, resolution: Out<Timespec>) -> Result<(), Errno> {
    let clock = ClockId::from_raw(clock.0)?;
    task.clock_ns(clock)?;
    resolution.write_opt(task, &timespec(clock.resolution_ns()))
}

/// `clock_nanosleep(2)`.
fn clock_nanosleep(
    task: &mut Task,
    clock: ClockArg,
    flags: Flags<TimerFlags>,
    request: In<Timespec>,
    remain: Out<Timespec>,
) -> SysResult {
    let clock = ClockId::from_raw(clock.0)?;
    if !clock.can_sleep() && !matches!(clock, ClockId::ThreadCpu(Some(_))) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let ns = timespec_to_ns(&request.read(task)?)?;
    let absolute = flags.0.contains(TimerFlags::TIMER_ABSTIME);
    let remain = (!absolute && !remain.is_null()).then_some(remain.0);
    task.nanosleep(clock, if absolute { SleepRequest::Until(ns) } else { SleepRequest::For(ns) }, remain)
}

/// `nanosleep(2)`.
fn nanosleep(task: &mut Task, request: In<Timespec>, remain: Out<Timespec>) -> SysResult {
    let ns = timespec_to_ns(&request.read(task)?)?;
    let remain = (!remain.is_null()).then_some(remain.0);
    task.nanosleep(ClockId::Monotonic, SleepRequest::For(ns), remain)
}

/// `gettimeofday(2)`: the time zone is always UTC.
fn gettimeofday(task: &mut Task, time: Out<Timeval>, zone: Out<Timezone>) -> Result<(), Errno> {
    time.write_opt(task, &timeval(task.clock_ns(ClockId::Realtime)?))?;
    zone.write_opt(task, &Timezone::default())
}

/// `time(2)`.
fn time(task: &mut Task, out: Out<i64>) -> Result<i64, Errno> {
    let seconds = i64::try_from(task.clock_ns(ClockId::Realtime)? / NS_PER_SEC).unwrap_or(i64::MAX);
    out.write_opt(task, &seconds)?;
    Ok(seconds)
}

/// State of a clock that nobody disciplines, `adjtimex(2)`: `TIME_ERROR`, unsynchronised.
fn read_discipline(task: &Task, buf: &InOut<Timex>) -> Result<i32, Errno> {
    let asked = buf.read(task)?;
    if asked.modes != 0 {
        return Err(Errno::EPERM);
    }
    let now = task.clock_ns(ClockId::Realtime)?;
    let mut state = Timex {
        status: abi::time::STA_UNSYNC | abi::time::STA_NANO,
        maxerror: 16_000_000,
        esterror: 16_000_000,
        constant: 2,
        precision: 1,
        tolerance: 32_768_000,
        tick: 10_000,
        time: timeval(now),
        ..Timex::default()
    };
    // With STA_NANO the field holds nanoseconds.
    state.time.tv_usec = timespec(now).tv_nsec;
    buf.write(task, &state)?;
    Ok(abi::time::TIME_ERROR)
}

/// `adjtimex(2)`.
fn adjtimex(task: &mut Task, buf: InOut<Timex>) -> Result<i32, Errno> {
    read_discipline(task, &buf)
}

/// `clock_adjtime(2)`.
fn clock_adjtime(task: &mut Task, clock: ClockArg, buf: InOut<Timex>) -> Result<i32, Errno> {
    match ClockId::from_raw(clock.0)? {
        ClockId::Realtime => read_discipline(task, &buf),
        _ => Err(Errno::EOPNOTSUPP),
    }
}
