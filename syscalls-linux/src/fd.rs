//! Descriptors: closing, duplicating, flags, locks, device commands.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{CloseRangeFlags, FD_CLOEXEC, FOwnerEx, Flock, FlockOp, OpenFlags, Seals};
use abi::ioctl::{FIGETBSZ, FIOGETOWN, FIOSETOWN, SIOCGPGRP, SIOCSPGRP};
use abi::tty::{FIOASYNC, FIOCLEX, FIONBIO, FIONCLEX, FIONREAD, FIOQSIZE, TIOCGPTPEER};
use fs::vfs::{File, FileType, FlockKind, LockKind, LockRange};
use kernel::error::{Restart, SysErr};
use kernel::fdtable::CloseOnExec;
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Patience, Task};
use usermem::Addr;
use waiter::EventMask;

use crate::args::{FcntlCmd, Fd, Flags, Hex, IoctlCmd, NewFd, OpenArg, Out};
use crate::mem;

syscalls! {
    pub(crate) const ROWS;

    /// Closes a descriptor.
    close [3, 57] Full("ipc::descriptors_duplicate_and_close_in_ranges");
    /// Closes a range of descriptors, or marks them close-on-exec.
    close_range [436, 436] Full("ipc::descriptors_duplicate_and_close_in_ranges");
    /// Duplicates a descriptor at the lowest free number.
    dup [32, 23] Full("process::close_on_exec_closes");
    /// Duplicates a descriptor at a given number.
    dup2 [33, -] Full("ipc::descriptors_duplicate_and_close_in_ranges");
    /// Duplicates a descriptor at a given number, with flags.
    dup3 [292, 24] Full("ipc::descriptors_duplicate_and_close_in_ranges");
    /// Manipulates a descriptor.
    fcntl [72, 25] Partial("no leases, no directory notification");
    /// Locks an open file description.
    flock [73, 32] Full("file::locks_exclude_other_descriptions");
    /// Commands a device.
    ioctl [16, 29] Partial("those of terminals, pipes and files");
}

/// The close-on-exec flag that `flags` asks for.
pub(crate) fn cloexec(flags: OpenFlags) -> CloseOnExec {
    if flags.contains(OpenFlags::O_CLOEXEC) { CloseOnExec::Yes } else { CloseOnExec::No }
}

/// Installs `file` at the lowest free number.
pub(crate) fn install(task: &Task, file: Arc<File>, cloexec: CloseOnExec) -> Result<NewFd, Errno> {
    install_from(task, file, 0, cloexec)
}

fn install_from(task: &Task, file: Arc<File>, min: i32, cloexec: CloseOnExec) -> Result<NewFd, Errno> {
    task.fds().install(file, min, task.nofile(), cloexec).map(NewFd)
}

/// Installs two files at once and stores their numbers at `fds`; if that fails neither stays.
pub(crate) fn install_pair(
    task: &Task,
    files: [Arc<File>; 2],
    cloexec: CloseOnExec,
    fds: &Out<[i32; 2]>,
) -> Result<(), Errno> {
    let numbers = task.fds().install_pair(files, task.nofile(), cloexec)?;
    fds.write(task, &numbers).inspect_err(|_| {
        for fd in numbers {
            // Another thread may have closed it already: its loss.
            let _ = task.close_fd(fd);
        }
    })
}

/// `close(2)`.
fn close(task: &mut Task, fd: Fd) -> Result<(), Errno> {
    task.close_fd(fd.0)
}

/// `close_range(2)`.
fn close_range(task: &mut Task, first: u32, last: u32, flags: Flags<CloseRangeFlags>) -> Result<(), Errno> {
    let flags = flags.known()?;
    if first > last {
        return Err(Errno::EINVAL);
    }
    if flags.contains(CloseRangeFlags::CLOSE_RANGE_UNSHARE) {
        task.unshare_fds();
    }
    if flags.contains(CloseRangeFlags::CLOSE_RANGE_CLOEXEC) {
        task.fds().set_cloexec_range(first, last);
        return Ok(());
    }
    for file in task.fds().remove_range(first, last) {
        // Errors of flushing are lost, as on Linux.
        let _ = task.close_file(file);
    }
    Ok(())
}

/// `dup(2)`.
fn dup(task: &mut Task, fd: Fd) -> Result<NewFd, Errno> {
    let file = task.fds().get(fd.0)?;
    install(task, file, CloseOnExec::No)
}

fn dup_to(task: &Task, old: Fd, new: Fd, cloexec: CloseOnExec) -> Result<NewFd, Errno> {
    let limit = task.nofile();
    if u64::try_from(new.0).map_or(true, |new| new >= limit) {
        return Err(Errno::EBADF);
    }
    let file = task.fds().get(old.0)?;
    if let Some(replaced) = task.fds().replace(file, new.0, limit, cloexec)? {
        let _ = task.close_file(replaced);
    }
    Ok(NewFd(new.0))
}

/// `dup2(2)`: the same number is no change, but must be open.
fn dup2(task: &mut Task, old: Fd, new: Fd) -> Result<NewFd, Errno> {
    if old == new {
        return task.fds().get(old.0).map(|_| NewFd(new.0));
    }
    dup_to(task, old, new, CloseOnExec::No)
}

/// `dup3(2)`.
fn dup3(task: &mut Task, old: Fd, new: Fd, OpenArg(flags): OpenArg) -> Result<NewFd, Errno> {
    if !OpenFlags::O_CLOEXEC.contains(flags) || old == new {
        return Err(Errno::EINVAL);
    }
    dup_to(task, old, new, cloexec(flags))
}

/// `fcntl(2)`.
fn fcntl(task: &mut Task, fd: Fd, FcntlCmd(cmd): FcntlCmd, arg: Hex) -> SysResult {
    let (file, flag) = task.fds().get_with_flags(fd.0)?;
    let low = u32::try_from(arg.0 & 0xffff_ffff).unwrap_or(0);
    let for_path = [abi::fs::F_DUPFD, abi::fs::F_DUPFD_CLOEXEC, abi::fs::F_GETFD, abi::fs::F_SETFD, abi::fs::F_GETFL];
    if file.is_path_only() && !for_path.contains(&cmd) {
        return Err(Errno::EBADF.into());
    }
    match cmd {
        abi::fs::F_DUPFD => dup_from(task, file, low, CloseOnExec::No),
        abi::fs::F_DUPFD_CLOEXEC => dup_from(task, file, low, CloseOnExec::Yes),
        abi::fs::F_GETFD => Ok(u64::from(if flag == CloseOnExec::Yes { FD_CLOEXEC } else { 0 })),
        abi::fs::F_SETFD => {
            let flag = if low & FD_CLOEXEC != 0 { CloseOnExec::Yes } else { CloseOnExec::No };
            task.fds().set_cloexec(fd.0, flag)?;
            Ok(0)
        }
        abi::fs::F_GETFL => Ok(u64::from(file.flags_and_access())),
        abi::fs::F_SETFL => {
            let flags = OpenFlags::from_bits_retain(low);
            // Where no signals come of it, it is ignored.
            task.set_async(fd.0, &file, flags).or_else(|e| if e == Errno::ENOTTY { Ok(()) } else { Err(e) })?;
            file.set_flags(flags)?;
            Ok(0)
        }
        abi::fs::F_GETLK | abi::fs::F_OFD_GETLK => get_lock(task, &file, cmd, Addr(arg.0)),
        abi::fs::F_SETLK | abi::fs::F_SETLKW | abi::fs::F_OFD_SETLK | abi::fs::F_OFD_SETLKW => {
            set_lock(task, &file, cmd, Addr(arg.0))
        }
        abi::fs::F_DUPFD_QUERY => {
            let other = task.fds().get(low.cast_signed())?;
            Ok(u64::from(other.id() == file.id()))
        }
        _ => file_command(task, &file, cmd, low, arg.0),
    }
}

fn dup_from(task: &Task, file: Arc<File>, min: u32, cloexec: CloseOnExec) -> SysResult {
    let min = i32::try_from(min).map_err(|_| Errno::EINVAL)?;
    if u64::try_from(min).map_or(true, |min| min >= task.nofile()) {
        return Err(Errno::EINVAL.into());
    }
    let NewFd(fd) = install_from(task, file, min, cloexec)?;
    Ok(u64::from(fd.cast_unsigned()))
}

/// Commands of `fcntl(2)` about what is open and not about the number.
fn file_command(task: &Task, file: &File, cmd: u32, low: u32, arg: u64) -> SysResult {
    match cmd {
        abi::fs::F_GETOWN => Ok(i64::from(owner_id(task, file)).cast_unsigned()),
        abi::fs::F_SETOWN => {
            task.set_file_owner_by_id(file, low.cast_signed())?;
            Ok(0)
        }
        abi::fs::F_GETOWN_EX => {
            let (kind, pid) = task.owner_of_file(file);
            mem::write(task, Addr(arg), &FOwnerEx { r#type: kind, pid })?;
            Ok(0)
        }
        abi::fs::F_SETOWN_EX => {
            let asked: FOwnerEx = mem::read(task, Addr(arg))?;
            if !(abi::fs::F_OWNER_TID..=abi::fs::F_OWNER_PGRP).contains(&asked.r#type) {
                return Err(Errno::EINVAL.into());
            }
            task.set_file_owner(file, asked.r#type, asked.pid)?;
            Ok(0)
        }
        abi::fs::F_GETOWNER_UIDS => {
            mem::write(task, Addr(arg), &task.owner_uids_of_file(file))?;
            Ok(0)
        }
        abi::fs::F_GETSIG => Ok(u64::from(file.owner_signal().cast_unsigned())),
        abi::fs::F_SETSIG => {
            let signal = i32::try_from(low).ok().filter(|&sig| sig <= abi::signal::NSIG).ok_or(Errno::EINVAL)?;
            file.set_owner_signal(signal);
            Ok(0)
        }
        abi::fs::F_GETLEASE => Ok(2),
        abi::fs::F_NOTIFY if arg == 0 => Ok(0),
        abi::fs::F_NOTIFY if file.inode().file_type() != FileType::Directory => Err(Errno::ENOTDIR.into()),
        abi::fs::F_GETPIPE_SZ => Ok(file.ops().pipe().ok_or(Errno::EBADF)?.capacity() as u64),
        abi::fs::F_SETPIPE_SZ => Ok(file
            .ops()
            .pipe()
            .ok_or(Errno::EBADF)?
            .set_capacity(&task.fs_context(), usize::try_from(low).unwrap_or(0))?
            as u64),
        abi::fs::F_GET_SEALS => Ok(u64::from(file.ops().sealable().ok_or(Errno::EINVAL)?.seals().bits())),
        abi::fs::F_ADD_SEALS => {
            if !file.is_writable() {
                return Err(Errno::EPERM.into());
            }
            let sealable = file.ops().sealable().ok_or(Errno::EINVAL)?;
            sealable.add_seals(Seals::from_bits(low).ok_or(Errno::EINVAL)?)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// Whom a file signals, as F_GETOWN has it: a process group is negative.
fn owner_id(task: &Task, file: &File) -> i32 {
    let (kind, id) = task.owner_of_file(file);
    if kind == abi::fs::F_OWNER_PGRP { id.wrapping_neg() } else { id }
}

/// The bytes that a `struct flock` names, `fcntl(2)`.
fn lock_range(file: &File, lock: &Flock) -> Result<LockRange, Errno> {
    let base = match u32::try_from(lock.l_whence) {
        Ok(abi::fs::SEEK_SET) => 0,
        Ok(abi::fs::SEEK_CUR) => file.position(),
        Ok(abi::fs::SEEK_END) => file.attr()?.size,
        _ => return Err(Errno::EINVAL),
    };
    let base = i64::try_from(base).map_err(|_| Errno::EOVERFLOW)?;
    let start = base.checked_add(lock.l_start).ok_or(Errno::EOVERFLOW)?;
    let (start, end) = if lock.l_len >= 0 {
        (start, start.checked_add(lock.l_len).ok_or(Errno::EOVERFLOW)?)
    } else {
        (start.checked_add(lock.l_len).ok_or(Errno::EINVAL)?, start)
    };
    let start = u64::try_from(start).map_err(|_| Errno::EINVAL)?;
    let end = if lock.l_len == 0 { u64::MAX } else { u64::try_from(end).map_err(|_| Errno::EINVAL)? };
    Ok(LockRange { start, end })
}

fn lock_kind(lock: &Flock) -> Result<Option<LockKind>, Errno> {
    match lock.l_type {
        abi::fs::F_RDLCK => Ok(Some(LockKind::Read)),
        abi::fs::F_WRLCK => Ok(Some(LockKind::Write)),
        abi::fs::F_UNLCK => Ok(None),
        _ => Err(Errno::EINVAL),
    }
}

/// `F_GETLK`, `F_OFD_GETLK`.
fn get_lock(task: &Task, file: &File, cmd: u32, at: Addr) -> SysResult {
    let mut lock: Flock = mem::read(task, at)?;
    let own = cmd == abi::fs::F_GETLK;
    if !own && lock.l_pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let kind = lock_kind(&lock)?.ok_or(Errno::EINVAL)?;
    let owner = if own { Some(task.fs_context().lock_owner) } else { None };
    match file.lock_conflict(owner, kind, lock_range(file, &lock)?) {
        None => lock.l_type = abi::fs::F_UNLCK,
        Some(other) => {
            lock.l_type = if other.kind == LockKind::Read { abi::fs::F_RDLCK } else { abi::fs::F_WRLCK };
            lock.l_whence = 0;
            lock.l_start = i64::try_from(other.range.start).unwrap_or(i64::MAX);
            let len = if other.range.end == u64::MAX { 0 } else { other.range.end.saturating_sub(other.range.start) };
            lock.l_len = i64::try_from(len).unwrap_or(0);
            lock.l_pid = other.pid;
        }
    }
    mem::write(task, at, &lock)?;
    Ok(0)
}

/// `F_SETLK`, `F_SETLKW`, `F_OFD_SETLK`, `F_OFD_SETLKW`.
fn set_lock(task: &mut Task, file: &Arc<File>, cmd: u32, at: Addr) -> SysResult {
    let lock: Flock = mem::read(task, at)?;
    let description = matches!(cmd, abi::fs::F_OFD_SETLK | abi::fs::F_OFD_SETLKW);
    if description && lock.l_pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (kind, range) = (lock_kind(&lock)?, lock_range(file, &lock)?);
    let pid = task.pid().raw();
    let waits = matches!(cmd, abi::fs::F_SETLKW | abi::fs::F_OFD_SETLKW);
    wait_for_lock(task, file, if waits { Patience::Wait } else { Patience::None }, |task| {
        if description {
            file.description_lock(kind, range)
        } else {
            file.posix_lock(task.fs_context().lock_owner, pid, kind, range)
        }
    })?;
    Ok(0)
}

/// Tries `lock` until it is granted, or once.
fn wait_for_lock(
    task: &mut Task,
    file: &Arc<File>,
    patience: Patience,
    mut lock: impl FnMut(&mut Task) -> Result<(), Errno>,
) -> SysResult<()> {
    match lock(task) {
        Err(Errno::EAGAIN) if patience == Patience::Wait => {}
        result => return Ok(result?),
    }
    let granted = task.wait_until(file.lock_queue(), EventMask::OUT, None, |task| match lock(task) {
        Err(Errno::EAGAIN) => None,
        result => Some(result),
    });
    match granted {
        Ok(result) => Ok(result?),
        Err(blocked) => Err(blocked.into_restart()),
    }
}

/// Mandatory locks, which Linux ignores since 5.15.
const LOCK_MAND: u32 = 32;

/// `flock(2)`.
fn flock(task: &mut Task, fd: Fd, Flags(op): Flags<FlockOp>) -> SysResult<()> {
    if op.bits() & LOCK_MAND != 0 {
        return Ok(());
    }
    let kind = match op.difference(FlockOp::LOCK_NB) {
        FlockOp::LOCK_SH => FlockKind::Shared,
        FlockOp::LOCK_EX => FlockKind::Exclusive,
        FlockOp::LOCK_UN => FlockKind::Unlock,
        _ => return Err(Errno::EINVAL.into()),
    };
    let file = task.fd(fd.0)?;
    let patience = if op.contains(FlockOp::LOCK_NB) { Patience::None } else { Patience::Wait };
    wait_for_lock(task, &file, patience, |task| file.flock(task.pid().raw(), kind))
}

/// `ioctl(2)`: what concerns the descriptor and its flags; the rest is the file's.
fn ioctl(task: &mut Task, fd: Fd, IoctlCmd(cmd): IoctlCmd, arg: Hex) -> SysResult {
    let file = task.fd(fd.0)?;
    let with_flag = |flag: OpenFlags| -> Result<OpenFlags, Errno> {
        let on: i32 = mem::read(task, Addr(arg.0))?;
        let mut flags = file.flags();
        flags.set(flag, on != 0);
        Ok(flags)
    };
    match cmd {
        FIOCLEX => task.fds().set_cloexec(fd.0, CloseOnExec::Yes)?,
        FIONCLEX => task.fds().set_cloexec(fd.0, CloseOnExec::No)?,
        FIONBIO => file.set_flags(with_flag(OpenFlags::O_NONBLOCK)?)?,
        FIOASYNC => task.set_async(fd.0, &file, with_flag(OpenFlags::O_ASYNC)?)?,
        TIOCGPTPEER if kernel::tty::is_master(&file) => return open_peer(task, &file, arg),
        _ => match file.ioctl(&task.fs_context(), cmd, arg.0, task.mem()) {
            Err(Errno::ENOTTY) => generic_ioctl(task, &file, cmd, Addr(arg.0))?,
            // Of a process in the background: it may come again.
            Err(Errno::EINTR) => return Err(SysErr::Restart(Restart::Sys)),
            result => return Ok(result?),
        },
    }
    Ok(0)
}

/// `TIOCGPTPEER`: a descriptor of the other end.
fn open_peer(task: &Task, master: &File, arg: Hex) -> SysResult {
    let flags = OpenFlags::from_bits_truncate(u32::try_from(arg.0).map_err(|_| Errno::EINVAL)?);
    let cloexec = if flags.contains(OpenFlags::O_CLOEXEC) { CloseOnExec::Yes } else { CloseOnExec::No };
    let peer = kernel::tty::open_peer(&task.fs_context(), master, flags)?;
    Ok(u64::try_from(task.install_fd(peer, 0, cloexec)?).unwrap_or(0))
}

/// Commands that Linux answers for every file of a kind.
fn generic_ioctl(task: &Task, file: &File, cmd: u32, at: Addr) -> Result<(), Errno> {
    let kind = file.inode().file_type();
    match cmd {
        FIONREAD if kind == FileType::Regular => {
            let left = file.attr()?.size.saturating_sub(file.position());
            mem::write(task, at, &i32::try_from(left).unwrap_or(i32::MAX))
        }
        FIOQSIZE if matches!(kind, FileType::Regular | FileType::Directory | FileType::Symlink) => {
            mem::write(task, at, &(file.attr()?.blocks.saturating_mul(512)))
        }
        FIOSETOWN | SIOCSPGRP if kind == FileType::Socket => task.set_file_owner_by_id(file, mem::read(task, at)?),
        FIOGETOWN | SIOCGPGRP if kind == FileType::Socket => mem::write(task, at, &owner_id(task, file)),
        FIGETBSZ => mem::write(task, at, &i32::try_from(file.attr()?.blksize).unwrap_or(i32::MAX)),
        _ => Err(Errno::ENOTTY),
    }
}
