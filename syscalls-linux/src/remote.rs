//! Other processes: descriptors that stand for them, their memory, comparing what they use.

use std::sync::Arc;

use abi::Errno;
use abi::clone::{
    KCMP_EPOLL_TFD, KCMP_FILE, KCMP_FILES, KCMP_FS, KCMP_IO, KCMP_SIGHAND, KCMP_SYSVSEM, KCMP_VM,
    PIDFD_SIGNAL_PROCESS_GROUP, PIDFD_SIGNAL_THREAD, PidfdFlags,
};
use abi::mm::{MADV_COLD, MADV_COLLAPSE, MADV_PAGEOUT, MADV_WILLNEED};
use abi::signal::SigInfo;
use auth::Caps;
use kernel::fdtable::CloseOnExec;
use kernel::signal::SignalTarget;
use kernel::syscalls;
use kernel::task::pidfd::{self, Nonblocking, PidFd, Subject};
use kernel::task::{Dumpable, Task, Thread, ThreadGroup, Tid};
use mm::Mm;
use usermem::Addr;
use usermem::bytes::{IoDst, IoSrc};
use usermem::ptr::IoVecs;

use crate::args::{AdviceArg, Fd, Flags, In, InVec, NewFd, OutVec, SignalArg};
use crate::fd::install;
use crate::mem;
use crate::memory::advice;
use crate::signals::to_send;

syscalls! {
    pub(crate) const ROWS;

    /// Opens a descriptor for a process.
    pidfd_open [434, 434] Full("pidfd::pidfds_stand_for_threads");
    /// Sends a signal by descriptor.
    pidfd_send_signal [424, 424] Full("pidfd::pidfds_name_signal_and_wait");
    /// Duplicates a descriptor of another process.
    pidfd_getfd [438, 438] Full("pidfd::pidfds_give_descriptors_away");
    /// Compares what two threads use.
    kcmp [312, 272] Full("kept::objects_are_compared");
    /// Reads another process's memory.
    process_vm_readv [310, 270] Full("pidfd::memory_of_other_processes");
    /// Writes another process's memory.
    process_vm_writev [311, 271] Full("pidfd::memory_of_other_processes");
    /// Advises about another process's memory.
    process_madvise [440, 440] Full("pidfd::memory_of_others_is_advised_about");
    /// Frees a dying process's memory early.
    process_mrelease [448, 448] Full("pidfd::memory_of_others_is_advised_about");
}

/// `pidfd_open(2)`.
fn pidfd_open(task: &mut Task, pid: i32, flags: Flags<PidfdFlags>) -> Result<NewFd, Errno> {
    let flags = flags.within(PidfdFlags::PIDFD_NONBLOCK | PidfdFlags::PIDFD_THREAD)?;
    let tid = Tid::from_raw(pid).ok_or(Errno::EINVAL)?;
    let thread = task.kernel().tasks().thread(tid).ok_or(Errno::ESRCH)?;
    let nonblocking = if flags.contains(PidfdFlags::PIDFD_NONBLOCK) { Nonblocking::Yes } else { Nonblocking::No };
    let subject = if flags.contains(PidfdFlags::PIDFD_THREAD) {
        Subject::Thread(thread)
    } else if thread.is_leader() {
        Subject::Process(Arc::clone(thread.group()))
    } else {
        return Err(Errno::EINVAL);
    };
    install(task, pidfd::open(subject, nonblocking), CloseOnExec::Yes)
}

/// The thread that a pidfd stands for, of a process its leader; `EBADF`, `ESRCH`.
fn pidfd_thread(task: &Task, fd: Fd) -> Result<Arc<Thread>, Errno> {
    let file = task.fd(fd.0)?;
    let pidfd = file.ops_as::<PidFd>().ok_or(Errno::EBADF)?;
    let tid = pidfd.thread().unwrap_or(pidfd.group().pid().leader());
    task.kernel().tasks().thread(tid).filter(|thread| Arc::ptr_eq(thread.group(), pidfd.group())).ok_or(Errno::ESRCH)
}

/// A process that a pidfd or its directory in `/proc` stands for, and the thread, if the pidfd is one's.
fn process_of(task: &Task, fd: Fd) -> Result<(Arc<ThreadGroup>, Option<Tid>), Errno> {
    let file = task.fd(fd.0)?;
    match file.ops_as::<PidFd>() {
        Some(pidfd) => Ok((Arc::clone(pidfd.group()), pidfd.thread())),
        None => kernel::procfs::process_of(task.kernel(), &file).map(|group| (group, None)),
    }
}

/// `pidfd_send_signal(2)`.
fn pidfd_send_signal(task: &mut Task, fd: Fd, signal: SignalArg, info: In<SigInfo>, flags: u32) -> Result<(), Errno> {
    if flags > PIDFD_SIGNAL_PROCESS_GROUP || flags.count_ones() > 1 {
        return Err(Errno::EINVAL);
    }
    let (group, thread) = process_of(task, fd)?;
    let signal = to_send(signal)?;
    // To whom, unless the flags say so, is what the pidfd stands for.
    let thread = match flags {
        0 => thread,
        PIDFD_SIGNAL_THREAD => Some(thread.unwrap_or(group.pid().leader())),
        _ => None,
    };
    if info.is_null() {
        return match flags {
            _ if let Some(tid) = thread => task.tgkill(Some(group.pid()), tid, signal),
            PIDFD_SIGNAL_PROCESS_GROUP => task.kill(SignalTarget::Group(task.getpgid(Some(group.pid()))?), signal),
            _ => task.kill(SignalTarget::Process(group.pid()), signal),
        };
    }
    if flags == PIDFD_SIGNAL_PROCESS_GROUP {
        return Err(Errno::EINVAL);
    }
    let bytes = mem::read(task, info.0)?;
    let given: SigInfo = info.read(task)?;
    if signal.is_some_and(|signal| signal.number() != given.si_signo) {
        return Err(Errno::EINVAL);
    }
    task.sigqueue(group.pid(), thread, signal, &bytes)
}

/// Whether the caller may look into `thread` as a tracer may (`ptrace(2)`, "Ptrace access mode checking").
pub(crate) fn may_trace(task: &Task, thread: &Thread) -> bool {
    let (own, other) = (task.creds(), thread.creds());
    let same = [other.ruid, other.euid, other.suid].iter().all(|&uid| uid == own.fsuid)
        && [other.rgid, other.egid, other.sgid].iter().all(|&gid| gid == own.fsgid)
        && own.permitted.contains(other.permitted);
    let dumpable = thread.group().dumpable() == Dumpable::Yes;
    task.pid() == thread.pid() || (same && dumpable) || own.has(Caps::SYS_PTRACE)
}

/// `kcmp(2)`: an order of two objects that says nothing but whether they are one.
fn order(a: u64, b: u64) -> u32 {
    match a.cmp(&b) {
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Less => 1,
        std::cmp::Ordering::Greater => 2,
    }
}

/// `kcmp(2)`.
fn kcmp(task: &mut Task, first: i32, second: i32, kind: i32, a: u64, b: u64) -> Result<u32, Errno> {
    let threads = [first, second].map(|tid| {
        let tid = Tid::from_raw(tid).ok_or(Errno::ESRCH)?;
        task.kernel().tasks().thread(tid).ok_or(Errno::ESRCH)
    });
    let [one, two] = threads;
    let (one, two) = (one?, two?);
    if !may_trace(task, &one) || !may_trace(task, &two) {
        return Err(Errno::EPERM);
    }
    // What a thread that ended has had is not there to compare.
    let file = |thread: &Thread, fd: u64| -> Result<u64, Errno> {
        let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
        Ok(thread.fds().ok_or(Errno::EBADF)?.get(fd)?.id())
    };
    let address = |pointer: Option<*const ()>| pointer.map_or(0, |pointer| pointer.addr() as u64);
    let mm = |thread: &Thread| address(thread.mm().map(|mm| Arc::as_ptr(&mm).cast()));
    let fds = |thread: &Thread| address(thread.fds().map(|fds| Arc::as_ptr(&fds).cast()));
    let fs = |thread: &Thread| address(thread.fs().map(|fs| Arc::as_ptr(&fs).cast()));
    // A thread has an I/O context once it has a priority, and a process a list of adjustments once it needs one.
    let io = |thread: &Thread| if thread.attributes().io_priority() == 0 { 0 } else { u64::from(thread.tid().0) };
    let sems = task.kernel().ipc().sem();
    let adjustments = |thread: &Thread| if sems.has_undo(thread.pid()) { u64::from(thread.pid().0) } else { 0 };
    Ok(match kind {
        KCMP_FILE => order(file(&one, a)?, file(&two, b)?),
        KCMP_VM => order(mm(&one), mm(&two)),
        KCMP_FILES => order(fds(&one), fds(&two)),
        KCMP_FS => order(fs(&one), fs(&two)),
        KCMP_SIGHAND => order(one.group().handlers_id(), two.group().handlers_id()),
        // Those that have none are the same here.
        KCMP_IO => order(io(&one), io(&two)),
        KCMP_SYSVSEM => order(adjustments(&one), adjustments(&two)),
        KCMP_EPOLL_TFD => {
            let slot: [u32; 3] = mem::read(task, Addr(b))?;
            let [epoll, wanted, offset] = slot;
            let set = two.fds().ok_or(Errno::EBADF)?.get(epoll.cast_signed())?;
            let target = kernel::event::epoll::Epoll::of(&set)?.target(wanted.cast_signed(), offset)?;
            order(file(&one, a)?, target)
        }
        _ => return Err(Errno::EINVAL),
    })
}

/// `pidfd_getfd(2)`.
fn pidfd_getfd(task: &mut Task, pidfd: Fd, fd: i32, flags: u32) -> Result<NewFd, Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let thread = pidfd_thread(task, pidfd)?;
    if !may_trace(task, &thread) {
        return Err(Errno::EPERM);
    }
    let file = thread.fds().ok_or(Errno::ESRCH)?.get(fd)?;
    install(task, file, CloseOnExec::Yes)
}

/// Bytes that `process_vm_readv` moves at a time.
const REMOTE_CHUNK: usize = 64 << 10;

/// Moves bytes from `src` to `dst` until one of them ends; what moved before a failure counts.
fn transfer(task: &Task, src: &mut dyn IoSrc, dst: &mut dyn IoDst) -> Result<usize, Errno> {
    let mut buf = vec![0; REMOTE_CHUNK.min(src.remaining()).min(dst.remaining())];
    let mut done: usize = 0;
    while src.remaining() > 0 && dst.remaining() > 0 {
        let want = buf.len().min(dst.remaining());
        let Some(room) = buf.get_mut(..want) else { break };
        let step = src.take(room).and_then(|got| Ok((got, dst.put(room.get(..got).unwrap_or(&[]))?)));
        match step {
            Ok((_, 0)) => break,
            Ok((got, put)) => {
                done = done.saturating_add(put);
                if put < got || task.has_pending_signal() {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The address space of a process that the caller may trace.
fn remote_mm(task: &Task, pid: i32, flags: u64) -> Result<Arc<Mm>, Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let tid = Tid::from_raw(pid).ok_or(Errno::ESRCH)?;
    let thread = task.kernel().tasks().thread(tid).ok_or(Errno::ESRCH)?;
    let mm = thread.mm().ok_or(Errno::ESRCH)?;
    if may_trace(task, &thread) { Ok(mm) } else { Err(Errno::EPERM) }
}

/// `process_vm_readv(2)`.
fn process_vm_readv(
    task: &mut Task,
    pid: i32,
    local: OutVec,
    local_count: u64,
    remote: Addr,
    remote_count: u64,
    flags: u64,
) -> Result<usize, Errno> {
    let own = Arc::clone(task.mm());
    let mut dst = mem::dst_vec(task, &own, local.0, local_count)?;
    let other = remote_mm(task, pid, flags)?;
    let mut src = mem::src_vec(task, &other, remote, remote_count)?;
    transfer(task, &mut src, &mut dst)
}

/// `process_vm_writev(2)`.
fn process_vm_writev(
    task: &mut Task,
    pid: i32,
    local: InVec,
    local_count: u64,
    remote: Addr,
    remote_count: u64,
    flags: u64,
) -> Result<usize, Errno> {
    let own = Arc::clone(task.mm());
    let mut src = mem::src_vec(task, &own, local.0, local_count)?;
    let other = remote_mm(task, pid, flags)?;
    let mut dst = mem::dst_vec(task, &other, remote, remote_count)?;
    transfer(task, &mut src, &mut dst)
}

/// `process_madvise(2)`: how many bytes have taken the advice. Only hints are allowed, nothing that changes what is read.
fn process_madvise(
    task: &mut Task,
    pidfd: Fd,
    vec: Addr,
    count: u64,
    AdviceArg(raw): AdviceArg,
    flags: u32,
) -> Result<u64, Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let ranges = IoVecs::import(task.mem(), vec, count)?;
    let thread = pidfd_thread(task, pidfd)?;
    if ![MADV_COLD, MADV_COLLAPSE, MADV_PAGEOUT, MADV_WILLNEED].contains(&raw) {
        return Err(Errno::EINVAL);
    }
    let mm = thread.mm().ok_or(Errno::ESRCH)?;
    if !may_trace(task, &thread) {
        return Err(Errno::EACCES);
    }
    if !Arc::ptr_eq(&mm, task.mm()) && !task.creds().has(Caps::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let mut done: u64 = 0;
    for range in ranges.bufs() {
        let len = range.len as u64;
        match mm.advise(range.addr, len, advice(raw)?) {
            Ok(()) => done = done.saturating_add(len),
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `process_mrelease(2)`: a process that dies gives its memory back by itself, and soon.
fn process_mrelease(task: &mut Task, pidfd: Fd, flags: u32) -> Result<(), Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let thread = pidfd_thread(task, pidfd)?;
    if thread.group().is_ending() {
        return Ok(());
    }
    // Without memory there is nothing to release.
    thread.mm().map_or(Err(Errno::ESRCH), |_| Err(Errno::EINVAL))
}
