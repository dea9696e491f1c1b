//! Copies from file to file without a buffer of the guest's.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{MAX_RW_COUNT, OpenFlags};
use fs::vfs::{File, FileType, Position};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Patience, Task};
use usermem::bytes::{KernelDst, KernelSrc};

use crate::args::{Fd, InOut};
use crate::rw::{At, Direction, check_file, partial, write_at};

syscalls! {
    pub(crate) const ROWS;

    /// Copies between descriptors.
    sendfile [40, 71] Full("transfer::sendfile_copies_to_files_and_pipes");
    /// Copies between files.
    copy_file_range [326, 285] Full("transfer::copy_file_range_copies");
}

/// Size of the buffer of copies between files.
const COPY_CHUNK: usize = 128 << 10;

/// Copies up to `len` bytes from `from` at `offset` to `to`; says how many arrived.
fn copy_between(
    task: &mut Task,
    from: &Arc<File>,
    offset: u64,
    to: &Arc<File>,
    to_at: At,
    len: u64,
) -> SysResult<usize> {
    let mut buf = vec![0; COPY_CHUNK];
    let len = usize::try_from(len.min(MAX_RW_COUNT)).unwrap_or(usize::MAX);
    let mut done: usize = 0;
    while done < len {
        let want = len.saturating_sub(done).min(COPY_CHUNK);
        let Some(room) = buf.get_mut(..want) else { break };
        let got = match from.read_at(&task.fs_context(), &mut KernelDst::new(room), offset.saturating_add(done as u64))
        {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) => return partial(done, error.into()),
        };
        let mut src = KernelSrc::new(buf.get(..got).unwrap_or(&[]));
        match write_at(task, to, &mut src, to_at.after(done), Patience::of(to)) {
            Ok(0) => break,
            Ok(n) => {
                done = done.saturating_add(n);
                if n < got || task.has_pending_signal() {
                    break;
                }
            }
            Err(error) => return partial(done, error),
        }
    }
    Ok(done)
}

/// Counts a call that read and wrote `done` bytes (proc_pid_io(5)).
fn note_copy(task: &Task, done: usize) {
    task.thread().io().note_read(done);
    task.thread().io().note_write(done);
}

/// `sendfile(2)`.
fn sendfile(task: &mut Task, to: Fd, from: Fd, offset: InOut<i64>, len: u64) -> SysResult<usize> {
    let given = offset.read_opt(task)?;
    let from = task.fd(from.0)?;
    check_file(&from, Direction::Read, At::Position)?;
    if given.is_some() && from.ops().position() == Position::Stream {
        return Err(Errno::ESPIPE.into());
    }
    if i64::try_from(len).is_err() {
        return Err(Errno::EINVAL.into());
    }
    let to = task.fd(to.0)?;
    check_file(&to, Direction::Write, At::Position)?;
    let directory = from.inode().file_type() == FileType::Directory;
    if directory
        || !matches!(from.ops().position(), Position::Offsets | Position::Own)
        || to.flags().contains(OpenFlags::O_APPEND)
    {
        return Err(Errno::EINVAL.into());
    }
    let start = match given {
        Some(offset) => u64::try_from(offset).map_err(|_| Errno::EINVAL)?,
        None => from.position(),
    };
    let done = copy_between(task, &from, start, &to, At::Position, len)?;
    note_copy(task, done);
    let end = i64::try_from(start.saturating_add(done as u64)).map_err(|_| Errno::EOVERFLOW)?;
    if given.is_some() {
        offset.write(task, &end)?;
    } else {
        from.seek(&task.fs_context(), end, fs::vfs::Whence::Set)?;
    }
    Ok(done)
}

/// `copy_file_range(2)`.
fn copy_file_range(
    task: &mut Task,
    from: Fd,
    from_offset: InOut<i64>,
    to: Fd,
    to_offset: InOut<i64>,
    len: u64,
    flags: u32,
) -> SysResult<usize> {
    let (from, to) = (task.fd(from.0)?, task.fd(to.0)?);
    let (given_from, given_to) = (from_offset.read_opt(task)?, to_offset.read_opt(task)?);
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let kinds = [from.inode().file_type(), to.inode().file_type()];
    if kinds.contains(&FileType::Directory) {
        return Err(Errno::EISDIR.into());
    }
    if kinds != [FileType::Regular; 2] {
        return Err(Errno::EINVAL.into());
    }
    if !from.is_readable() || !to.is_writable() || to.flags().contains(OpenFlags::O_APPEND) {
        return Err(Errno::EBADF.into());
    }
    let start = |given: Option<i64>, file: &File| match given {
        Some(offset) => u64::try_from(offset).map_err(|_| Errno::EINVAL),
        None => Ok(file.position()),
    };
    let (source, target) = (start(given_from, &from)?, start(given_to, &to)?);
    let overlaps = source < target.saturating_add(len) && target < source.saturating_add(len);
    if from.inode().identity() == to.inode().identity() && overlaps {
        return Err(Errno::EINVAL.into());
    }
    let done = copy_between(task, &from, source, &to, At::Offset(target), len)?;
    note_copy(task, done);
    for (given, pointer, file, at) in [(given_from, from_offset, &from, source), (given_to, to_offset, &to, target)] {
        let end = i64::try_from(at.saturating_add(done as u64)).map_err(|_| Errno::EOVERFLOW)?;
        if given.is_some() {
            pointer.write(task, &end)?;
        } else {
            file.seek(&task.fs_context(), end, fs::vfs::Whence::Set)?;
        }
    }
    Ok(done)
}
