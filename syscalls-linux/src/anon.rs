//! Files without a name: pipes, event counters, timers and signals as files, memory files.

use abi::Errno;
use abi::fs::{EventfdFlags, MFD_NAME_MAX, MemfdFlags, OpenFlags};
use abi::signal::SignalfdFlags;
use abi::time::{Itimerspec, TimerfdCreateFlags, TimerfdSettimeFlags};
use fs::anon::{EventFd, EventFdMode, SharedMemory};
use kernel::event::signalfd::SignalFd;
use kernel::event::timerfd::{Setting, TimerFd};
use kernel::fdtable::CloseOnExec;
use kernel::signal::SigSet;
use kernel::syscalls;
use kernel::task::Task;
use kernel::time::{ClockId, timespec_to_ns};
use usermem::Addr;

use crate::args::{ClockArg, Fd, Flags, In, NewFd, OpenArg, Out, StrArg};
use crate::fd::{cloexec, install, install_pair};
use crate::mem;
use crate::time::timespec;

syscalls! {
    pub(crate) const ROWS;

    /// Makes a pipe.
    pipe [22, -] Full("descriptors::old_forms_make_descriptors");
    /// Makes a pipe, with flags.
    pipe2 [293, 59] Full("ipc::pipes_carry_bytes_then_end");
    /// Makes an event counter.
    eventfd [284, -] Full("descriptors::old_forms_make_descriptors");
    /// Makes an event counter, with flags.
    eventfd2 [290, 19] Full("ipc::eventfd_counts");
    /// Makes a file that reads signals.
    signalfd [282, -] Full("events::signals_are_read_from_descriptors");
    /// Makes a file that reads signals, with flags.
    signalfd4 [289, 74] Full("events::signals_are_read_from_descriptors");
    /// Makes a timer as a file.
    timerfd_create [283, 85] Full("time::timerfd_expires");
    /// Arms or disarms a timer file.
    timerfd_settime [286, 86] Partial("the clock is never set, so never cancelled");
    /// Asks a timer file what is left.
    timerfd_gettime [287, 87] Full("timers::timer_descriptors_repeat_and_tell");
    /// Makes a file in memory.
    memfd_create [319, 279] Partial("no huge pages");
}

fn make_pipe(task: &Task, fds: &Out<[i32; 2]>, flags: OpenFlags) -> Result<(), Errno> {
    let creds = task.creds();
    let (reader, writer) = fs::pipe::create(creds.fsuid, creds.fsgid, flags);
    install_pair(task, [reader, writer], cloexec(flags), fds)
}

/// `pipe(2)`.
fn pipe(task: &mut Task, fds: Out<[i32; 2]>) -> Result<(), Errno> {
    make_pipe(task, &fds, OpenFlags::empty())
}

/// `pipe2(2)`.
fn pipe2(task: &mut Task, fds: Out<[i32; 2]>, OpenArg(flags): OpenArg) -> Result<(), Errno> {
    let allowed = OpenFlags::O_CLOEXEC | OpenFlags::O_NONBLOCK | OpenFlags::O_DIRECT | OpenFlags::O_EXCL;
    if !allowed.contains(flags) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(OpenFlags::O_EXCL) {
        // O_NOTIFICATION_PIPE, without CONFIG_WATCH_QUEUE.
        return Err(Errno::ENOPKG);
    }
    make_pipe(task, &fds, flags)
}

/// `eventfd(2)`, the old call.
fn eventfd(task: &mut Task, count: u32) -> Result<NewFd, Errno> {
    eventfd2(task, count, Flags(EventfdFlags::empty()))
}

/// `eventfd2(2)`.
fn eventfd2(task: &mut Task, count: u32, flags: Flags<EventfdFlags>) -> Result<NewFd, Errno> {
    let flags = flags.known()?;
    let mode = if flags.contains(EventfdFlags::EFD_SEMAPHORE) { EventFdMode::Semaphore } else { EventFdMode::Counter };
    let mut open = OpenFlags::empty();
    open.set(OpenFlags::O_NONBLOCK, flags.contains(EventfdFlags::EFD_NONBLOCK));
    let file = EventFd::create(u64::from(count), mode, open);
    let cloexec = if flags.contains(EventfdFlags::EFD_CLOEXEC) { CloseOnExec::Yes } else { CloseOnExec::No };
    install(task, file, cloexec)
}

fn make_signalfd(task: &Task, fd: Fd, mask: Addr, size: u64, flags: Flags<SignalfdFlags>) -> Result<NewFd, Errno> {
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask = SigSet(mem::read(task, mask)?).minus(SigSet::UNBLOCKABLE);
    let flags = flags.known()?;
    if fd.0 != -1 {
        SignalFd::of(&*task.fd(fd.0)?)?.set_mask(mask);
        return Ok(NewFd(fd.0));
    }
    let mut open = OpenFlags::empty();
    open.set(OpenFlags::O_NONBLOCK, flags.contains(SignalfdFlags::SFD_NONBLOCK));
    let cloexec = if flags.contains(SignalfdFlags::SFD_CLOEXEC) { CloseOnExec::Yes } else { CloseOnExec::No };
    install(task, SignalFd::create(task.thread(), mask, open), cloexec)
}

/// `signalfd(2)`, the old call.
fn signalfd(task: &mut Task, fd: Fd, mask: In<abi::signal::SigSet>, size: u64) -> Result<NewFd, Errno> {
    make_signalfd(task, fd, mask.0, size, Flags(SignalfdFlags::empty()))
}

/// `signalfd4(2)`: a descriptor of one gets another set.
fn signalfd4(
    task: &mut Task,
    fd: Fd,
    mask: In<abi::signal::SigSet>,
    size: u64,
    flags: Flags<SignalfdFlags>,
) -> Result<NewFd, Errno> {
    make_signalfd(task, fd, mask.0, size, flags)
}

/// `timerfd_create(2)`.
fn timerfd_create(task: &mut Task, clock: ClockArg, flags: Flags<TimerfdCreateFlags>) -> Result<NewFd, Errno> {
    let flags = flags.known()?;
    let clock = match ClockId::from_raw(clock.0)? {
        clock @ (ClockId::Realtime | ClockId::Monotonic | ClockId::Boottime) => clock,
        _ => return Err(Errno::EINVAL),
    };
    let mut open = OpenFlags::empty();
    open.set(OpenFlags::O_NONBLOCK, flags.contains(TimerfdCreateFlags::TFD_NONBLOCK));
    let cloexec = if flags.contains(TimerfdCreateFlags::TFD_CLOEXEC) { CloseOnExec::Yes } else { CloseOnExec::No };
    install(task, TimerFd::create(task.kernel(), clock, open), cloexec)
}

/// What is left and the interval, as `struct itimerspec`.
fn setting((left_ns, interval_ns): (u64, u64)) -> Itimerspec {
    Itimerspec { it_interval: timespec(interval_ns), it_value: timespec(left_ns) }
}

/// `timerfd_settime(2)`.
fn timerfd_settime(
    task: &mut Task,
    fd: Fd,
    flags: Flags<TimerfdSettimeFlags>,
    new: In<Itimerspec>,
    old: Out<Itimerspec>,
) -> Result<(), Errno> {
    let new = new.read(task)?;
    let flags = flags.known()?;
    let (value, interval_ns) = (timespec_to_ns(&new.it_value)?, timespec_to_ns(&new.it_interval)?);
    let timer = TimerFd::of(&*task.fd(fd.0)?)?;
    let kernel = task.kernel();
    let now = kernel.clock_ns(ClockId::Monotonic);
    let on_clock = kernel.clock_ns(timer.clock());
    let new = if value == 0 {
        Setting { interval_ns, ..Setting::default() }
    } else if !flags.contains(TimerfdSettimeFlags::TFD_TIMER_ABSTIME) {
        Setting { next_ns: Some(now.saturating_add(value)), interval_ns, missed: 0 }
    } else if value <= on_clock {
        Setting::overdue(now, on_clock - value, interval_ns)
    } else {
        Setting { next_ns: Some(kernel.to_monotonic(timer.clock(), value)), interval_ns, missed: 0 }
    };
    let before = timer.set(new);
    old.write_opt(task, &setting(before))
}

/// `timerfd_gettime(2)`.
fn timerfd_gettime(task: &mut Task, fd: Fd, now: Out<Itimerspec>) -> Result<(), Errno> {
    let timer = TimerFd::of(&*task.fd(fd.0)?)?;
    now.write(task, &setting(timer.get()))
}

/// `memfd_create(2)`.
fn memfd_create(task: &mut Task, name: StrArg, flags: Flags<MemfdFlags>) -> Result<NewFd, Errno> {
    let flags = flags.known()?;
    if flags.contains(MemfdFlags::MFD_HUGETLB) || flags.contains(MemfdFlags::MFD_EXEC | MemfdFlags::MFD_NOEXEC_SEAL) {
        return Err(Errno::EINVAL);
    }
    let name = mem::c_string(task, name.0, MFD_NAME_MAX + 1, Errno::EINVAL)?;
    let cloexec = if flags.contains(MemfdFlags::MFD_CLOEXEC) { CloseOnExec::Yes } else { CloseOnExec::No };
    let file = SharedMemory::new(task.kernel().memory()).memfd(&task.fs_context(), &name, flags)?;
    install(task, file, cloexec)
}
