//! Moving bytes into, out of and between pipes: splice(2), tee(2), vmsplice(2).
//!
//! Bytes are copied: pages of a pipe belong to nobody else here. What was taken from a pipe and found no place goes back
//! to its front.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{OpenFlags, SpliceFlags};
use fs::pipe::{Borders, Pipe};
use fs::vfs::{File, FileType};
use kernel::error::SysErr;
use kernel::signal::Signal;
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Patience, Task};
use usermem::bytes::{IoSrc as _, KernelDst, KernelSrc};
use waiter::EventMask;

use crate::args::{Fd, Flags, InOut, InVec};
use crate::mem;
use crate::rw::{At, read_into, write_at};

syscalls! {
    pub(crate) const ROWS;

    /// Moves bytes between a pipe and another descriptor.
    splice [275, 76] Full("transfer::splice_moves_between_pipes_and_files");
    /// Copies bytes from pipe to pipe and leaves them.
    tee [276, 77] Full("transfer::tee_leaves_what_it_copies");
    /// Moves bytes between a pipe and the caller's memory.
    vmsplice [278, 75] Full("transfer::vmsplice_fills_and_empties_pipes");
}

/// Most bytes that one call moves: those of the largest ordinary pipe.
const MOST: usize = 1 << 20;

/// The bytes that a call may move.
fn most(len: u64) -> usize {
    usize::try_from(len).unwrap_or(MOST).min(MOST)
}

/// Whether the call waits for the pipe of `file`.
fn patience(file: &File, flags: SpliceFlags) -> Patience {
    if flags.contains(SpliceFlags::SPLICE_F_NONBLOCK) { Patience::None } else { Patience::of(file) }
}

/// The pipe of a file, if it is one's.
fn pipe_of(file: &File) -> Option<Arc<Pipe>> {
    file.ops().pipe().map(Arc::clone)
}

/// Waits until the pipe has bytes or its end is reached.
fn wait_for_bytes(task: &mut Task, file: &Arc<File>, pipe: &Pipe, patience: Patience) -> SysResult<()> {
    task.retry_blocking(file, EventMask::IN, patience, None, |_| pipe.has_bytes().map(|_| ()).map_err(SysErr::from))
}

/// Waits until the pipe takes bytes; says how many. Without readers SIGPIPE comes with `EPIPE`.
fn wait_for_room(task: &mut Task, file: &Arc<File>, pipe: &Pipe, patience: Patience) -> SysResult<usize> {
    let room = task.retry_blocking(file, EventMask::OUT, patience, None, |_| pipe.room().map_err(SysErr::from));
    if matches!(room, Err(SysErr::Errno(Errno::EPIPE))) {
        task.raise(Signal::PIPE);
    }
    room
}

/// `splice(2)`.
fn splice(
    task: &mut Task,
    from: Fd,
    from_offset: InOut<i64>,
    to: Fd,
    to_offset: InOut<i64>,
    len: u64,
    flags: Flags<SpliceFlags>,
) -> SysResult<usize> {
    if len == 0 {
        return Ok(0);
    }
    let flags = flags.known()?;
    let (from, to) = (task.fd(from.0)?, task.fd(to.0)?);
    let (source, sink) = (pipe_of(&from), pipe_of(&to));
    if (source.is_some() && !from_offset.is_null()) || (sink.is_some() && !to_offset.is_null()) {
        return Err(Errno::ESPIPE.into());
    }
    if !from.is_readable() || !to.is_writable() {
        return Err(Errno::EBADF.into());
    }
    let place = |given: Option<i64>| given.map_or(Ok(At::Position), At::offset);
    let (place_from, place_to) = (place(from_offset.read_opt(task)?)?, place(to_offset.read_opt(task)?)?);
    let (done, place, offset) = match (source, sink) {
        (Some(source), Some(sink)) => {
            if Arc::ptr_eq(&source, &sink) {
                return Err(Errno::EINVAL.into());
            }
            let ends = Ends { from: &from, source: &source, to: &to, sink: &sink };
            let done = between(task, &ends, most(len), flags, Keep::No)?;
            return Ok(done);
        }
        (Some(source), None) => {
            if to.flags().contains(OpenFlags::O_APPEND) || to.inode().file_type() == FileType::Directory {
                return Err(Errno::EINVAL.into());
            }
            (out_of_pipe(task, &from, &source, &to, place_to, most(len), flags)?, place_to, to_offset)
        }
        (None, Some(sink)) => {
            if from.inode().file_type() == FileType::Directory {
                return Err(Errno::EINVAL.into());
            }
            (into_pipe(task, &from, place_from, &to, &sink, most(len), flags)?, place_from, from_offset)
        }
        (None, None) => return Err(Errno::EINVAL.into()),
    };
    if let At::Offset(end) = place.after(done) {
        offset.write(task, &i64::try_from(end).map_err(|_| Errno::EOVERFLOW)?)?;
    }
    Ok(done)
}

/// Whether the source keeps what is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Yes,
    No,
}

/// Two pipes, each with the file through which it is reached.
struct Ends<'a> {
    from: &'a Arc<File>,
    source: &'a Pipe,
    to: &'a Arc<File>,
    sink: &'a Pipe,
}

/// From pipe to pipe. A pipe that does not wait makes the call not wait, on either side.
fn between(task: &mut Task, ends: &Ends<'_>, len: usize, flags: SpliceFlags, keep: Keep) -> SysResult<usize> {
    let impatient = [ends.from, ends.to].iter().any(|file| patience(file, flags) == Patience::None);
    let patience = if impatient { Patience::None } else { Patience::Wait };
    loop {
        wait_for_bytes(task, ends.from, ends.source, patience)?;
        let room = wait_for_room(task, ends.to, ends.sink, patience)?;
        let taken = match keep {
            Keep::Yes => ends.source.peek(len.min(room)),
            Keep::No => ends.source.take(len.min(room)),
        };
        let bytes = match taken {
            Ok(bytes) => bytes,
            // Another reader was faster.
            Err(Errno::EAGAIN) if patience == Patience::Wait => continue,
            Err(error) => return Err(error.into()),
        };
        if bytes.is_empty() {
            return Ok(0);
        }
        let written = ends.sink.write(&mut KernelSrc::new(&bytes), Borders::Joined);
        if keep == Keep::No {
            let rest = bytes.get(written.unwrap_or(0)..).unwrap_or_default();
            ends.source.put_back(rest)?;
        }
        match written {
            // Another writer was faster.
            Err(Errno::EAGAIN) if patience == Patience::Wait => {}
            result => return Ok(result?),
        }
    }
}

/// From a pipe to a file that is none.
fn out_of_pipe(
    task: &mut Task,
    from: &Arc<File>,
    source: &Pipe,
    to: &Arc<File>,
    at: At,
    len: usize,
    flags: SpliceFlags,
) -> SysResult<usize> {
    let bytes = task
        .retry_blocking(from, EventMask::IN, patience(from, flags), None, |_| source.take(len).map_err(SysErr::from))?;
    let written = write_at(task, to, &mut KernelSrc::new(&bytes), at, Patience::of(to));
    let done = *written.as_ref().unwrap_or(&0);
    source.put_back(bytes.get(done..).unwrap_or_default())?;
    written
}

/// From a file that is no pipe into one.
fn into_pipe(
    task: &mut Task,
    from: &Arc<File>,
    at: At,
    to: &Arc<File>,
    sink: &Pipe,
    len: usize,
    flags: SpliceFlags,
) -> SysResult<usize> {
    let patience = patience(to, flags);
    let room = wait_for_room(task, to, sink, patience)?;
    let mut buf = vec![0; len.min(room)];
    let got = read_into(task, from, &mut KernelDst::new(&mut buf), at, Patience::of(from))?;
    // Room that another writer took meanwhile is waited for: what was read has no way back.
    let mut src = KernelSrc::new(buf.get(..got).unwrap_or_default());
    write_at(task, to, &mut src, At::Position, Patience::Wait)
}

/// `tee(2)`.
fn tee(task: &mut Task, from: Fd, to: Fd, len: u64, flags: Flags<SpliceFlags>) -> SysResult<usize> {
    let flags = flags.known()?;
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (task.fd(from.0)?, task.fd(to.0)?);
    if !from.is_readable() || !to.is_writable() {
        return Err(Errno::EBADF.into());
    }
    match (pipe_of(&from), pipe_of(&to)) {
        (Some(source), Some(sink)) if !Arc::ptr_eq(&source, &sink) => {
            let ends = Ends { from: &from, source: &source, to: &to, sink: &sink };
            between(task, &ends, most(len), flags, Keep::Yes)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `vmsplice(2)`: a writable end takes, another gives.
fn vmsplice(task: &mut Task, fd: Fd, vectors: InVec, count: u64, flags: Flags<SpliceFlags>) -> SysResult<usize> {
    let flags = flags.known()?;
    let file = task.fd(fd.0)?;
    let Some(pipe) = pipe_of(&file) else { return Err(Errno::EBADF.into()) };
    let patience = patience(&file, flags);
    let mm = Arc::clone(task.mm());
    if file.is_writable() {
        let mut src = mem::src_vec(task, &mm, vectors.0, count)?;
        if src.remaining() == 0 {
            return Ok(0);
        }
        // It waits for some room and then not for more.
        wait_for_room(task, &file, &pipe, patience)?;
        match write_at(task, &file, &mut src, At::Position, Patience::None) {
            // Too little for what goes in at once or not at all, or another writer was faster.
            Err(SysErr::Errno(Errno::EAGAIN)) if patience != Patience::None => {
                write_at(task, &file, &mut src, At::Position, patience)
            }
            done => done,
        }
    } else {
        let mut dst = mem::dst_vec(task, &mm, vectors.0, count)?;
        read_into(task, &file, &mut dst, At::Position, patience)
    }
}
