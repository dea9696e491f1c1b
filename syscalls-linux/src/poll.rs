//! Waiting for readiness: `poll(2)`, `select(2)`, `epoll(7)`.

use std::sync::Arc;

use abi::Errno;
use abi::epoll::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EpollCreateFlags, EpollEvent};
use abi::poll::PollFd;
use abi::signal::SigSetArgument;
use abi::time::{Timespec, Timeval};
use fs::vfs::File;
use kernel::error::{Restart, RestartBlock, SysErr};
use kernel::event::epoll::{Control, Epoll, Event};
use kernel::fdtable::CloseOnExec;
use kernel::signal::SigSet;
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Blocked, Task};
use smallvec::SmallVec;
use usermem::Addr;
use waiter::{EventMask, Pollable as _};

use crate::args::{EpollOp, Fd, Flags, In, InOut, InOutArray, NewFd, Out};
use crate::fd::install;
use crate::mem;
use crate::time::{deadline_after, deadline_after_ms, timespec_until, timeval_until};

syscalls! {
    pub(crate) const ROWS;

    /// Waits for events on descriptors.
    poll [7, -] Full("ipc::poll_tells_readiness");
    /// Waits for events on descriptors, with a signal mask.
    ppoll [271, 73] Full("events::ppoll_and_pselect_take_masks");
    /// Waits for events on sets of descriptors.
    select [23, -] Full("events::select_in_its_old_form");
    /// Waits for events on sets of descriptors, with a signal mask.
    pselect6 [270, 72] Full("events::ppoll_and_pselect_take_masks");
    /// Makes an epoll set.
    epoll_create [213, -] Full("descriptors::old_forms_make_descriptors");
    /// Makes an epoll set, with flags.
    epoll_create1 [291, 20] Full("ipc::epoll_level_edge_and_oneshot");
    /// Changes an epoll set.
    epoll_ctl [233, 21] Full("ipc::epoll_level_edge_and_oneshot");
    /// Waits for events of an epoll set.
    epoll_wait [232, -] Full("ipc::epoll_level_edge_and_oneshot");
    /// Waits for events of an epoll set, with a signal mask.
    epoll_pwait [281, 22] Full("events::epoll_waits_with_a_mask_and_in_nanoseconds");
    /// Waits for events of an epoll set, with a signal mask and nanoseconds.
    epoll_pwait2 [441, 441] Full("events::epoll_waits_with_a_mask_and_in_nanoseconds");
}

/// Sets the mask that `sigmask` points to for the rest of the call.
fn temporary_mask(task: &mut Task, sigmask: Addr, size: u64) -> Result<(), Errno> {
    if sigmask.0 == 0 {
        return Ok(());
    }
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask: u64 = mem::read(task, sigmask)?;
    task.set_temporary_mask(SigSet(mask));
    Ok(())
}

/// One file that is waited for: `None` is a number that is not open.
struct Asked {
    file: Option<Arc<File>>,
    /// What ends the wait. select(2) does not end for what none of its sets tells.
    interest: EventMask,
}

impl Asked {
    fn ready(&self) -> EventMask {
        match &self.file {
            None => EventMask::NVAL,
            Some(file) => file.readiness(self.interest) & (self.interest | EventMask::NVAL),
        }
    }
}

/// Asks until `check` finds something or time is up.
fn wait_for<T>(
    task: &mut Task,
    asked: &[Asked],
    deadline_ns: Option<u64>,
    mut check: impl FnMut(&[Asked]) -> Option<T>,
) -> Result<Option<T>, Blocked> {
    loop {
        if let Some(found) = check(asked) {
            return Ok(Some(found));
        }
        if deadline_ns == Some(0) {
            return Ok(None);
        }
        let objects: Vec<(&dyn waiter::Pollable, EventMask)> = asked
            .iter()
            .filter_map(|one| Some((&**one.file.as_ref()? as &dyn waiter::Pollable, one.interest)))
            .collect();
        match task.block_on(&objects, deadline_ns) {
            Ok(()) => {}
            Err(Blocked::TimedOut) => return Ok(check(asked)),
            Err(Blocked::Interrupted) => return check(asked).map(Some).ok_or(Blocked::Interrupted),
        }
    }
}

/// The core of `poll(2)`: answers how many are ready and stores what holds of each.
fn poll_until(task: &mut Task, fds: Addr, count: u64, deadline_ns: Option<u64>) -> Result<Result<u32, Errno>, Blocked> {
    let count = match usize::try_from(count) {
        Ok(count) if count as u64 <= task.nofile() => count,
        _ => return Ok(Err(Errno::EINVAL)),
    };
    let mut entries: Vec<PollFd> = match mem::read_array(task, fds, count) {
        Ok(entries) => entries,
        Err(error) => return Ok(Err(error)),
    };
    // Negative numbers are skipped, poll(2).
    let asked: Vec<Asked> = entries
        .iter()
        .filter(|entry| entry.fd >= 0)
        .map(|entry| Asked {
            file: task.fds().get(entry.fd).ok(),
            interest: EventMask::from_bits_truncate(u32::from(entry.events)) | EventMask::ALWAYS,
        })
        .collect();
    let found = wait_for(task, &asked, deadline_ns, |asked| {
        let ready: Vec<EventMask> = asked.iter().map(Asked::ready).collect();
        ready.iter().any(|mask| !mask.is_empty()).then_some(ready)
    })?;
    let mut ready = found.unwrap_or_default().into_iter();
    let mut number = 0_u32;
    for entry in &mut entries {
        let mask = if entry.fd >= 0 { ready.next().unwrap_or_default() } else { EventMask::empty() };
        entry.revents = u16::try_from(mask.bits() & 0xffff).unwrap_or(0);
        number = number.saturating_add(u32::from(entry.revents != 0));
    }
    Ok(mem::write_array(task, fds, &entries).map(|()| number))
}

/// `poll(2)`: continued by `restart_syscall` with the deadline it had.
fn poll(task: &mut Task, fds: InOutArray<PollFd>, count: u32, timeout: i32) -> SysResult<u32> {
    let deadline_ns = deadline_after_ms(timeout);
    poll_or_restart(task, fds.0, u64::from(count), deadline_ns)
}

fn poll_or_restart(task: &mut Task, fds: Addr, count: u64, deadline_ns: Option<u64>) -> SysResult<u32> {
    match poll_until(task, fds, count, deadline_ns) {
        Ok(result) => Ok(result?),
        Err(_) => {
            let block = RestartBlock::Poll { fds: fds.0, nfds: count, deadline_ns };
            Err(SysErr::Restart(Restart::Block(block)))
        }
    }
}

/// Continues a `poll(2)` that a stop interrupted.
pub(crate) fn restart_poll(task: &mut Task, block: &RestartBlock) -> SysResult {
    match *block {
        RestartBlock::Poll { fds, nfds, deadline_ns } => {
            poll_or_restart(task, Addr(fds), nfds, deadline_ns).map(u64::from)
        }
        _ => Err(Errno::EINTR.into()),
    }
}

/// What a call that stores the time left answers when it was interrupted.
fn interrupted(_: Blocked) -> SysErr {
    SysErr::Restart(Restart::NoHand)
}

/// `ppoll(2)`, the call: stores the time left.
fn ppoll(
    task: &mut Task,
    fds: InOutArray<PollFd>,
    count: u32,
    timeout: InOut<Timespec>,
    sigmask: In<abi::signal::SigSet>,
    size: u64,
) -> SysResult<u32> {
    let deadline_ns = timeout.read_opt(task)?.map(deadline_after).transpose()?;
    temporary_mask(task, sigmask.0, size)?;
    let result = poll_until(task, fds.0, u64::from(count), deadline_ns);
    if let Some(deadline_ns) = deadline_ns {
        // A failure to store it is no error of the call.
        let _ = timeout.write(task, &timespec_until(deadline_ns));
    }
    Ok(result.map_err(interrupted)??)
}

/// Events of the three sets of `select(2)`.
const SETS: [EventMask; 3] = [
    EventMask::IN.union(EventMask::RDNORM).union(EventMask::RDBAND).union(EventMask::HUP).union(EventMask::ERR),
    EventMask::OUT.union(EventMask::WRNORM).union(EventMask::WRBAND).union(EventMask::ERR),
    EventMask::PRI,
];

type Words = Vec<u64>;

fn bit(words: &[u64], fd: usize) -> bool {
    words.get(fd / 64).is_some_and(|word| word & (1 << (fd % 64)) != 0)
}

/// The core of `select(2)`.
fn select_until(task: &mut Task, n: i32, at: [Addr; 3], deadline_ns: Option<u64>) -> SysResult<u32> {
    let n = usize::try_from(n).map_err(|_| Errno::EINVAL)?.min(task.fds().capacity());
    let words = n.div_ceil(64);
    let mut sets: [Words; 3] = Default::default();
    for (set, addr) in sets.iter_mut().zip(at) {
        *set = if addr.0 == 0 { vec![0; words] } else { mem::read_array(task, addr, words)? };
    }
    let mut asked = Vec::new();
    let mut numbers = Vec::new();
    for fd in 0..n {
        let wanted = sets.iter().zip(SETS).filter(|(set, _)| bit(set, fd));
        let interest = wanted.fold(EventMask::empty(), |all, (_, mask)| all | mask);
        if !interest.is_empty() {
            let number = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
            asked.push(Asked { file: Some(task.fds().get(number)?), interest });
            numbers.push(fd);
        }
    }
    let found = wait_for(task, &asked, deadline_ns, |asked| {
        let mut out: [Words; 3] = [vec![0; words], vec![0; words], vec![0; words]];
        let mut count = 0_u32;
        for (&fd, one) in numbers.iter().zip(asked) {
            let ready = one.ready();
            for ((result, wanted), mask) in out.iter_mut().zip(&sets).zip(SETS) {
                if bit(wanted, fd) && ready.intersects(mask) {
                    if let Some(word) = result.get_mut(fd / 64) {
                        *word |= 1 << (fd % 64);
                    }
                    count = count.saturating_add(1);
                }
            }
        }
        (count > 0).then_some((count, out))
    });
    let (count, out) =
        found.map_err(interrupted)?.unwrap_or_else(|| (0, [vec![0; words], vec![0; words], vec![0; words]]));
    for (set, addr) in out.iter().zip(at) {
        if addr.0 != 0 {
            mem::write_array(task, addr, set)?;
        }
    }
    Ok(count)
}

/// `select(2)`: stores the time left, as Linux does.
fn select(task: &mut Task, n: i32, read: Addr, write: Addr, except: Addr, timeout: InOut<Timeval>) -> SysResult<u32> {
    let deadline_ns = match timeout.read_opt(task)? {
        None => None,
        Some(Timeval { tv_sec, tv_usec }) => {
            // More than a second of microseconds is allowed here.
            let seconds = tv_sec.checked_add(tv_usec / 1_000_000).ok_or(Errno::EINVAL)?;
            let rest = (tv_usec % 1_000_000) * 1000;
            Some(deadline_after(Timespec { tv_sec: seconds, tv_nsec: rest })?)
        }
    };
    let result = select_until(task, n, [read, write, except], deadline_ns);
    if let Some(deadline_ns) = deadline_ns {
        let _ = timeout.write(task, &timeval_until(deadline_ns));
    }
    result
}

/// `pselect6(2)`.
fn pselect6(
    task: &mut Task,
    n: i32,
    read: Addr,
    write: Addr,
    except: Addr,
    timeout: InOut<Timespec>,
    sigmask: In<SigSetArgument>,
) -> SysResult<u32> {
    let deadline_ns = timeout.read_opt(task)?.map(deadline_after).transpose()?;
    if let Some(argument) = sigmask.read_opt(task)? {
        temporary_mask(task, Addr(argument.ss), argument.ss_len)?;
    }
    let result = select_until(task, n, [read, write, except], deadline_ns);
    if let Some(deadline_ns) = deadline_ns {
        let _ = timeout.write(task, &timespec_until(deadline_ns));
    }
    result
}

/// `epoll_create(2)`: the size must be positive and means nothing.
fn epoll_create(task: &mut Task, size: i32) -> Result<NewFd, Errno> {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    install(task, Epoll::create(), CloseOnExec::No)
}

/// `epoll_create1(2)`.
fn epoll_create1(task: &mut Task, flags: Flags<EpollCreateFlags>) -> Result<NewFd, Errno> {
    let cloexec = if flags.known()?.is_empty() { CloseOnExec::No } else { CloseOnExec::Yes };
    install(task, Epoll::create(), cloexec)
}

/// `epoll_ctl(2)`.
fn epoll_ctl(task: &mut Task, epoll: Fd, EpollOp(op): EpollOp, fd: Fd, event: In<EpollEvent>) -> Result<(), Errno> {
    let event = if op == EPOLL_CTL_DEL {
        Event::default()
    } else {
        let event = event.read(task)?;
        Event { events: event.events, data: event.data }
    };
    let set = task.fds().get(epoll.0)?;
    let file = task.fds().get(fd.0)?;
    if file.is_path_only() || set.is_path_only() {
        return Err(Errno::EBADF);
    }
    if file.queue().is_none() {
        return Err(Errno::EPERM);
    }
    if set.id() == file.id() {
        return Err(Errno::EINVAL);
    }
    let set = Epoll::of(&set)?;
    let control = match op {
        EPOLL_CTL_ADD => Control::Add(event),
        EPOLL_CTL_MOD => Control::Modify(event),
        EPOLL_CTL_DEL => Control::Delete,
        _ => return Err(Errno::EINVAL),
    };
    set.control(fd.0, &file, control)
}

/// The core of the three forms: `EINTR` on any signal, never restarted. What one call answers is bounded by the files in
/// the set, whatever `max` says: programs that ask for as many as they have there rely on getting all of them.
fn epoll_until(task: &mut Task, epoll: Fd, out: Addr, max: i32, deadline_ns: Option<u64>) -> Result<usize, Errno> {
    let max = usize::try_from(max).ok().filter(|&max| max > 0 && max <= i32::MAX as usize / 12).ok_or(Errno::EINVAL)?;
    let file = task.fds().get(epoll.0)?;
    let set = file.ops_as::<Epoll>().ok_or(Errno::EINVAL)?;
    let events = loop {
        let events = set.collect(max);
        if !events.is_empty() || deadline_ns == Some(0) {
            break events;
        }
        match task.block_on(&[(&*file, EventMask::IN)], deadline_ns) {
            Ok(()) => {}
            Err(Blocked::TimedOut) => break set.collect(max),
            Err(Blocked::Interrupted) => return Err(Errno::EINTR),
        }
    };
    let events: SmallVec<[EpollEvent; 16]> =
        events.iter().map(|event| EpollEvent { events: event.events, data: event.data }).collect();
    mem::write_array(task, out, &events)?;
    Ok(events.len())
}

/// `epoll_wait(2)`.
fn epoll_wait(task: &mut Task, epoll: Fd, events: Out<EpollEvent>, max: i32, timeout: i32) -> Result<usize, Errno> {
    epoll_until(task, epoll, events.0, max, deadline_after_ms(timeout))
}

/// `epoll_pwait(2)`.
fn epoll_pwait(
    task: &mut Task,
    epoll: Fd,
    events: Out<EpollEvent>,
    max: i32,
    timeout: i32,
    sigmask: In<abi::signal::SigSet>,
    size: u64,
) -> Result<usize, Errno> {
    temporary_mask(task, sigmask.0, size)?;
    epoll_until(task, epoll, events.0, max, deadline_after_ms(timeout))
}

/// `epoll_pwait2(2)`.
fn epoll_pwait2(
    task: &mut Task,
    epoll: Fd,
    events: Out<EpollEvent>,
    max: i32,
    timeout: In<Timespec>,
    sigmask: In<abi::signal::SigSet>,
    size: u64,
) -> Result<usize, Errno> {
    let deadline_ns = timeout.read_opt(task)?.map(deadline_after).transpose()?;
    temporary_mask(task, sigmask.0, size)?;
    epoll_until(task, epoll, events.0, max, deadline_ns)
}
