//! Reading, writing and positions.
//!
//! The rule of partial results: once bytes have moved, an error, a signal or an empty source ends the call with the count
//! so far. Regular files move in pieces of at most [`CHUNK`], each one host call, so that a call never holds the host
//! long; between pieces a signal may end it.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{FallocFlags, OpenFlags, RwFlags, SyncFileRangeFlags};
use fs::vfs::{File, FileType, Position};
use kernel::error::SysErr;
use kernel::rlimit::{INFINITY, Resource};
use kernel::signal::Signal;
use kernel::socket::unix::{self, Socket};
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::{Patience, Task};
use usermem::bytes::{IoDst, IoSrc};
use usermem::{Addr, PAGE_SIZE};
use vm_memory::VolatileSlice;
use waiter::EventMask;

use crate::args::{FadviseArg, Fd, Flags, Hex, InBuf, InVec, OutBuf, OutVec, Whence};
use crate::mem;
use crate::socket::{deadline, not_restarted, tell_of_broken_pipe};

syscalls! {
    pub(crate) const ROWS;

    /// Reads from a descriptor.
    read [0, 63] Full("file::files_are_written_read_and_sought");
    /// Writes to a descriptor.
    write [1, 64] Full("file::files_are_written_read_and_sought");
    /// Reads at an offset.
    pread64 [17, 67] Full("memory::memfd_maps_and_seals");
    /// Writes at an offset.
    pwrite64 [18, 68] Full("transfer::positions_are_left_alone");
    /// Reads into several buffers.
    readv [19, 65] Full("transfer::positions_are_left_alone");
    /// Writes from several buffers.
    writev [20, 66] Full("file::vectors_read_and_write");
    /// Reads into several buffers at an offset.
    preadv [295, 69] Full("file::vectors_read_and_write");
    /// Writes from several buffers at an offset.
    pwritev [296, 70] Full("transfer::positions_are_left_alone");
    /// Reads into several buffers at an offset, with flags.
    preadv2 [327, 286] Partial("hints are ignored");
    /// Writes from several buffers at an offset, with flags.
    pwritev2 [328, 287] Partial("hints are ignored");
    /// Moves the position of an open file description.
    lseek [8, 62] Full("file::holes_and_data_are_found");
    /// Writes a file back.
    fsync [74, 82] Full("transfer::flushing_and_advising");
    /// Writes a file's contents back.
    fdatasync [75, 83] Full("transfer::flushing_and_advising");
    /// Writes every filesystem back.
    sync [162, 81] Full("transfer::flushing_and_advising");
    /// Writes one filesystem back.
    syncfs [306, 267] Full("transfer::flushing_and_advising");
    /// Writes a range of a file back.
    sync_file_range [277, 84] Full("transfer::flushing_and_advising");
    /// Reads ahead.
    readahead [187, 213] Full("transfer::flushing_and_advising");
    /// Announces how a file will be used.
    fadvise64 [221, 223] Full("transfer::flushing_and_advising");
    /// Allocates or frees room in a file.
    fallocate [285, 47] Full("transfer::fallocate_modes");
    /// Sets the size of an open file.
    ftruncate [77, 46] Full("memory::memfd_maps_and_seals");
    /// Counts a file's pages in the page cache.
    cachestat [451, 451] Full("transfer::pages_of_files_are_counted");
}

/// Most bytes of one host call made for a guest.
const CHUNK: usize = 1 << 20;

/// At most `limit` bytes of another destination.
struct LimitedDst<'a> {
    inner: &'a mut dyn IoDst,
    limit: usize,
}

impl IoDst for LimitedDst<'_> {
    fn remaining(&self) -> usize {
        self.inner.remaining().min(self.limit)
    }

    fn fill(
        &mut self,
        max: usize,
        f: &mut dyn FnMut(&[VolatileSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let n = self.inner.fill(max.min(self.limit), f)?;
        self.limit = self.limit.saturating_sub(n);
        Ok(n)
    }
}

/// At most `limit` bytes of another source.
struct LimitedSrc<'a> {
    inner: &'a mut dyn IoSrc,
    limit: usize,
}

impl IoSrc for LimitedSrc<'_> {
    fn remaining(&self) -> usize {
        self.inner.remaining().min(self.limit)
    }

    fn drain(
        &mut self,
        max: usize,
        f: &mut dyn FnMut(&[VolatileSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let n = self.inner.drain(max.min(self.limit), f)?;
        self.limit = self.limit.saturating_sub(n);
        Ok(n)
    }
}

/// Where in the file the bytes are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// The description's position, which moves.
    Position,
    /// This offset.
    Offset(u64),
    /// The end, wherever that is.
    End,
}

impl At {
    /// The place `done` bytes further on.
    pub(crate) fn after(self, done: usize) -> Self {
        match self {
            Self::Offset(offset) => Self::Offset(offset.saturating_add(done as u64)),
            other => other,
        }
    }

    /// What `pread(2)` and its kin name.
    pub(crate) fn offset(offset: i64) -> Result<Self, Errno> {
        u64::try_from(offset).map(Self::Offset).map_err(|_| Errno::EINVAL)
    }
}

/// What is asked of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// What Linux asks of a file before it looks at the buffers: offsets where one is named, and to be open for it.
pub(crate) fn check_file(file: &File, direction: Direction, at: At) -> Result<(), Errno> {
    if matches!(at, At::Offset(_)) && file.ops().position() == Position::Stream {
        return Err(Errno::ESPIPE);
    }
    let open = match direction {
        Direction::Read => file.is_readable(),
        Direction::Write => file.is_writable(),
    };
    if open { Ok(()) } else { Err(Errno::EBADF) }
}

/// Ends a call of which `done` bytes are through.
pub(crate) fn partial(done: usize, error: SysErr) -> SysResult<usize> {
    if done > 0 { Ok(done) } else { Err(error) }
}

/// When a wait for `file` ends, if it is a socket with a timeout.
fn socket_deadline(file: &File, direction: unix::Direction) -> Option<u64> {
    let socket = if file.inode().file_type() == FileType::Socket { Socket::of(file).ok() } else { None };
    socket.and_then(|socket| deadline(&socket, direction))
}

/// Reads until `dst` is full, the file ends, or (a stream) something was there.
pub(crate) fn read_into(
    task: &mut Task,
    file: &Arc<File>,
    dst: &mut dyn IoDst,
    at: At,
    wait: Patience,
) -> SysResult<usize> {
    if dst.remaining() == 0 && file.inode().file_type() == FileType::Fifo && file.is_readable() {
        return Ok(0);
    }
    let whole = matches!(file.ops().position(), Position::Offsets | Position::Own);
    let deadline = socket_deadline(file, unix::Direction::Receive);
    let mut done = 0;
    loop {
        let mut piece = LimitedDst { inner: &mut *dst, limit: CHUNK };
        let want = piece.remaining();
        let result = task.retry_blocking(file, EventMask::IN, wait, deadline, |task| {
            let ctx = task.fs_context();
            match at.after(done) {
                At::Offset(offset) => file.read_at(&ctx, &mut piece, offset).map_err(SysErr::from),
                At::Position | At::End => file.read(&ctx, &mut piece).map_err(SysErr::from),
            }
        });
        let got = match not_restarted(result, deadline) {
            Ok(n) => n,
            Err(error) => return partial(done, error),
        };
        done = done.saturating_add(got);
        if !whole || got < want || dst.remaining() == 0 || task.has_pending_signal() {
            return Ok(done);
        }
    }
}

/// Bytes that RLIMIT_FSIZE lets a write at `start` have: none is `EFBIG` with SIGXFSZ, `setrlimit(2)`.
pub(crate) fn within_file_limit(task: &Task, start: u64, len: usize) -> Result<usize, Errno> {
    let limit = task.group().limit(Resource::Fsize).soft;
    if limit == INFINITY || len == 0 {
        return Ok(len);
    }
    if start >= limit {
        task.raise(Signal::XFSZ);
        return Err(Errno::EFBIG);
    }
    Ok(usize::try_from(limit - start).unwrap_or(usize::MAX).min(len))
}

/// [`within_file_limit`] for the file and the place of a write: other files than regular ones have no limit.
fn allowed_len(task: &Task, file: &File, at: At, len: usize) -> Result<usize, Errno> {
    if file.inode().file_type() != FileType::Regular || task.group().limit(Resource::Fsize).soft == INFINITY {
        return Ok(len);
    }
    let appends = at == At::End || file.flags().contains(OpenFlags::O_APPEND);
    let start = match at {
        _ if appends => file.attr()?.size,
        At::Offset(offset) => offset,
        At::Position | At::End => file.position(),
    };
    within_file_limit(task, start, len)
}

/// Writes until `src` is empty; a file that takes no more makes it wait or ends it.
pub(crate) fn write_at(
    task: &mut Task,
    file: &Arc<File>,
    src: &mut dyn IoSrc,
    at: At,
    wait: Patience,
) -> SysResult<usize> {
    // An eventfd and its like take one value per call, whatever the length.
    let whole = file.inode().file_type() != FileType::Anonymous;
    // What a file takes is counted and not what is left of `src`: `/dev/null` takes bytes without looking at them.
    let total = allowed_len(task, file, at, src.remaining())?;
    let mut src = LimitedSrc { inner: src, limit: total };
    let deadline = socket_deadline(file, unix::Direction::Send);
    let mut done = 0;
    loop {
        let mut piece = LimitedSrc { inner: &mut src, limit: CHUNK };
        let result = task.retry_blocking(file, EventMask::OUT, wait, deadline, |task| {
            let ctx = task.fs_context();
            match at.after(done) {
                At::Offset(offset) => file.write_at(&ctx, &mut piece, offset).map_err(SysErr::from),
                At::Position => file.write(&ctx, &mut piece).map_err(SysErr::from),
                At::End => file.append(&ctx, &mut piece).map_err(SysErr::from),
            }
        });
        let n = match not_restarted(result, deadline) {
            Ok(n) => n,
            Err(error) => {
                tell_of_broken_pipe(task, file, done, &error);
                return partial(done, error);
            }
        };
        done = done.saturating_add(n).min(total);
        if !whole || n == 0 || done == total || src.remaining() == 0 {
            return Ok(done);
        }
        if task.has_pending_signal() && whole {
            return Ok(done);
        }
    }
}

/// Counts a call that read, with what it moved (proc_pid_io(5)).
fn noted_read(task: &Task, result: SysResult<usize>) -> SysResult<usize> {
    task.thread().io().note_read(result.as_ref().map_or(0, |done| *done));
    result
}

/// Counts a call that wrote.
fn noted_write(task: &Task, result: SysResult<usize>) -> SysResult<usize> {
    task.thread().io().note_write(result.as_ref().map_or(0, |done| *done));
    result
}

/// `read(2)`.
fn read(task: &mut Task, fd: Fd, buf: OutBuf, len: u64) -> SysResult<usize> {
    let file = task.fd(fd.0)?;
    check_file(&file, Direction::Read, At::Position)?;
    let wait = Patience::of(&file);
    let mm = Arc::clone(task.mm());
    let mut dst = mem::dst(&mm, buf.0, len)?;
    let result = read_into(task, &file, &mut dst, At::Position, wait);
    noted_read(task, result)
}

/// `write(2)`.
fn write(task: &mut Task, fd: Fd, buf: InBuf, len: u64) -> SysResult<usize> {
    let file = task.fd(fd.0)?;
    check_file(&file, Direction::Write, At::Position)?;
    let wait = Patience::of(&file);
    let mm = Arc::clone(task.mm());
    let mut src = mem::src(&mm, buf.0, len)?;
    let result = write_at(task, &file, &mut src, At::Position, wait);
    noted_write(task, result)
}

/// `pread(2)`: a negative offset is refused before the descriptor is looked at.
fn pread64(task: &mut Task, fd: Fd, buf: OutBuf, len: u64, offset: i64) -> SysResult<usize> {
    let at = At::offset(offset)?;
    let file = task.fd(fd.0)?;
    check_file(&file, Direction::Read, at)?;
    let mm = Arc::clone(task.mm());
    let mut dst = mem::dst(&mm, buf.0, len)?;
    let result = read_into(task, &file, &mut dst, at, Patience::of(&file));
    noted_read(task, result)
}

/// `pwrite(2)`.
fn pwrite64(task: &mut Task, fd: Fd, buf: InBuf, len: u64, offset: i64) -> SysResult<usize> {
    let at = At::offset(offset)?;
    let file = task.fd(fd.0)?;
    check_file(&file, Direction::Write, at)?;
    let mm = Arc::clone(task.mm());
    let mut src = mem::src(&mm, buf.0, len)?;
    let result = write_at(task, &file, &mut src, at, Patience::of(&file));
    noted_write(task, result)
}

/// Reads into several buffers; `flags` are looked at after them.
fn read_vec(task: &mut Task, file: &Arc<File>, iov: Addr, count: u64, at: At, flags: RwFlags) -> SysResult<usize> {
    check_file(file, Direction::Read, at)?;
    let mm = Arc::clone(task.mm());
    let mut dst = mem::dst_vec(task, &mm, iov, count)?;
    if dst.remaining() == 0 {
        return Ok(0);
    }
    let wait = patience(file, flags)?;
    let result = read_into(task, file, &mut dst, at, wait);
    noted_read(task, result)
}

/// Writes from several buffers; `flags` are looked at after them.
fn write_vec(task: &mut Task, file: &Arc<File>, iov: Addr, count: u64, at: At, flags: RwFlags) -> SysResult<usize> {
    check_file(file, Direction::Write, at)?;
    let mm = Arc::clone(task.mm());
    let mut src = mem::src_vec(task, &mm, iov, count)?;
    if src.remaining() == 0 {
        return Ok(0);
    }
    let wait = patience(file, flags)?;
    let at = if flags.contains(RwFlags::RWF_APPEND) { At::End } else { at };
    let result = write_at(task, file, &mut src, at, wait);
    let n = noted_write(task, result)?;
    if flags.intersects(RwFlags::RWF_SYNC | RwFlags::RWF_DSYNC) {
        file.sync(fs::vfs::SyncWhat::Data)?;
    }
    Ok(n)
}

/// The flags of `preadv2(2)` and `pwritev2(2)`, and whether the call may wait.
fn patience(file: &File, flags: RwFlags) -> Result<Patience, Errno> {
    if !RwFlags::all().difference(RwFlags::RWF_ATOMIC).contains(flags) {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags.contains(RwFlags::RWF_APPEND | RwFlags::RWF_NOAPPEND) {
        return Err(Errno::EINVAL);
    }
    Ok(if flags.contains(RwFlags::RWF_NOWAIT) { Patience::None } else { Patience::of(file) })
}

/// `readv(2)`.
fn readv(task: &mut Task, fd: Fd, iov: OutVec, count: u64) -> SysResult<usize> {
    let file = task.fd(fd.0)?;
    read_vec(task, &file, iov.0, count, At::Position, RwFlags::empty())
}

/// `writev(2)`.
fn writev(task: &mut Task, fd: Fd, iov: InVec, count: u64) -> SysResult<usize> {
    let file = task.fd(fd.0)?;
    write_vec(task, &file, iov.0, count, At::Position, RwFlags::empty())
}

/// `preadv(2)`; the second half of the offset means nothing on 64-bit machines.
fn preadv(task: &mut Task, fd: Fd, iov: OutVec, count: u64, offset: i64, _high: Hex) -> SysResult<usize> {
    let at = At::offset(offset)?;
    let file = task.fd(fd.0)?;
    read_vec(task, &file, iov.0, count, at, RwFlags::empty())
}

/// `pwritev(2)`.
fn pwritev(task: &mut Task, fd: Fd, iov: InVec, count: u64, offset: i64, _high: Hex) -> SysResult<usize> {
    let at = At::offset(offset)?;
    let file = task.fd(fd.0)?;
    write_vec(task, &file, iov.0, count, at, RwFlags::empty())
}

/// Where `preadv2(2)` and `pwritev2(2)` are to act: offset −1 is the position.
fn place2(offset: i64) -> Result<At, Errno> {
    if offset == -1 { Ok(At::Position) } else { At::offset(offset) }
}

/// `preadv2(2)`.
fn preadv2(
    task: &mut Task,
    fd: Fd,
    iov: OutVec,
    count: u64,
    offset: i64,
    _high: Hex,
    Flags(flags): Flags<RwFlags>,
) -> SysResult<usize> {
    let at = place2(offset)?;
    let file = task.fd(fd.0)?;
    read_vec(task, &file, iov.0, count, at, flags)
}

/// `pwritev2(2)`.
fn pwritev2(
    task: &mut Task,
    fd: Fd,
    iov: InVec,
    count: u64,
    offset: i64,
    _high: Hex,
    Flags(flags): Flags<RwFlags>,
) -> SysResult<usize> {
    let at = place2(offset)?;
    let file = task.fd(fd.0)?;
    write_vec(task, &file, iov.0, count, at, flags)
}

/// `lseek(2)`.
fn lseek(task: &mut Task, fd: Fd, offset: i64, whence: Whence) -> Result<u64, Errno> {
    let file = task.fd(fd.0)?;
    let whence = fs::vfs::Whence::from_raw(whence.0)?;
    file.seek(&task.fs_context(), offset, whence)
}

/// `cachestat(2)`: what is not a hole counts as cached, as for mincore(2), and nothing as waiting to be written.
fn cachestat(task: &mut Task, fd: Fd, range: Addr, out: Addr, flags: u32) -> Result<(), Errno> {
    let file = task.fd(fd.0)?;
    if file.is_path_only() {
        return Err(Errno::EBADF);
    }
    let [offset, len]: [u64; 2] = mem::read(task, range)?;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let first = offset / PAGE_SIZE;
    let last = if len == 0 { u64::MAX } else { offset.wrapping_add(len).wrapping_sub(1) / PAGE_SIZE };
    let cached = if file.inode().file_type() == FileType::Regular { data_pages(&file, first, last)? } else { 0 };
    let figures: [u64; 5] = [cached, 0, 0, 0, 0];
    mem::write(task, out, &figures)
}

/// Pages of a file from `first` to `last` that hold data.
fn data_pages(file: &File, first: u64, last: u64) -> Result<u64, Errno> {
    let mut pages = 0_u64;
    let mut next = first;
    while next <= last {
        let Some(at) = next.checked_mul(PAGE_SIZE) else { break };
        let data = match file.ops().seek_data_hole(at, fs::vfs::Whence::Data) {
            Ok(data) => data,
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error),
        };
        let hole = file.ops().seek_data_hole(data, fs::vfs::Whence::Hole)?;
        let (start, end) = ((data / PAGE_SIZE).max(next), hole.div_ceil(PAGE_SIZE));
        if end <= start || start > last {
            break;
        }
        pages = pages.saturating_add(end.min(last.saturating_add(1)).saturating_sub(start));
        next = end;
    }
    Ok(pages)
}

/// `fsync(2)`.
fn fsync(task: &mut Task, fd: Fd) -> Result<(), Errno> {
    task.fd(fd.0)?.sync(fs::vfs::SyncWhat::All)
}

/// `fdatasync(2)`.
fn fdatasync(task: &mut Task, fd: Fd) -> Result<(), Errno> {
    task.fd(fd.0)?.sync(fs::vfs::SyncWhat::Data)
}

/// `sync(2)`.
fn sync(task: &mut Task) -> Result<(), Errno> {
    if let Some(namespace) = task.fs().root().mount.namespace() {
        namespace.sync();
    }
    Ok(())
}

/// `syncfs(2)`.
fn syncfs(task: &mut Task, fd: Fd) -> Result<(), Errno> {
    let file = task.fd(fd.0)?;
    if file.is_path_only() {
        return Err(Errno::EBADF);
    }
    file.path().mount.superblock().fs().sync()
}

/// `sync_file_range(2)`.
fn sync_file_range(
    task: &mut Task,
    fd: Fd,
    offset: i64,
    len: i64,
    flags: Flags<SyncFileRangeFlags>,
) -> Result<(), Errno> {
    let file = task.fd(fd.0)?;
    flags.known()?;
    if offset < 0 || len < 0 || offset.checked_add(len).is_none() {
        return Err(Errno::EINVAL);
    }
    match file.inode().file_type() {
        FileType::Regular => file.sync(fs::vfs::SyncWhat::Data),
        FileType::Directory | FileType::BlockDevice => Ok(()),
        _ => Err(Errno::ESPIPE),
    }
}

/// `readahead(2)`.
fn readahead(task: &mut Task, fd: Fd, _offset: i64, _len: u64) -> Result<(), Errno> {
    let file = task.fd(fd.0)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    if file.inode().file_type() == FileType::Regular { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `posix_fadvise(2)`.
fn fadvise64(task: &mut Task, fd: Fd, _offset: i64, len: i64, advice: FadviseArg) -> Result<(), Errno> {
    let file = task.fd(fd.0)?;
    if file.is_path_only() {
        return Err(Errno::EBADF);
    }
    if file.inode().file_type() == FileType::Fifo {
        return Err(Errno::ESPIPE);
    }
    if len < 0 || advice.0 > abi::fs::POSIX_FADV_NOREUSE { Err(Errno::EINVAL) } else { Ok(()) }
}

/// `fallocate(2)`.
fn fallocate(task: &mut Task, fd: Fd, mode: Flags<FallocFlags>, offset: i64, len: i64) -> Result<(), Errno> {
    let file = task.fd(fd.0)?;
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    let mode = mode.known().map_err(|_| Errno::EOPNOTSUPP)?;
    let punch = mode.contains(FallocFlags::FALLOC_FL_PUNCH_HOLE);
    if punch && !mode.contains(FallocFlags::FALLOC_FL_KEEP_SIZE) {
        return Err(Errno::EOPNOTSUPP);
    }
    if punch && mode.contains(FallocFlags::FALLOC_FL_ZERO_RANGE) {
        return Err(Errno::EOPNOTSUPP);
    }
    if !mode.contains(FallocFlags::FALLOC_FL_KEEP_SIZE)
        && let Ok(end) = u64::try_from(offset.saturating_add(len))
        && file.is_writable()
    {
        check_new_size(task, end)?;
    }
    file.allocate(&task.fs_context(), mode, offset, len)
}

/// Whether RLIMIT_FSIZE lets a file have `size` bytes.
pub(crate) fn check_new_size(task: &Task, size: u64) -> Result<(), Errno> {
    match size.checked_sub(1) {
        Some(last) => within_file_limit(task, last, 1).map(drop),
        None => Ok(()),
    }
}

/// `ftruncate(2)`.
fn ftruncate(task: &mut Task, fd: Fd, len: i64) -> Result<(), Errno> {
    let len = u64::try_from(len).map_err(|_| Errno::EINVAL)?;
    let file = task.fd(fd.0)?;
    check_new_size(task, len)?;
    file.truncate(&task.fs_context(), len)
}
