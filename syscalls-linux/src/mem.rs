//! Guest memory as handlers use it: values, arrays, strings, buffers. All of it may fail with `EFAULT`.

use std::sync::Arc;

use abi::Errno;
use kernel::task::Task;
use mm::{Mm, UserDst, UserSrc};
use usermem::Addr;
use usermem::ptr::{IoVecs, UserBuf, UserPtr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The value at `addr`.
pub(crate) fn read<T: FromBytes>(task: &Task, addr: Addr) -> Result<T, Errno> {
    UserPtr::new(addr).read(task.mem())
}

/// Stores a value at `addr`.
pub(crate) fn write<T: IntoBytes + Immutable>(task: &Task, addr: Addr, value: &T) -> Result<(), Errno> {
    UserPtr::new(addr).write(task.mem(), value)
}

/// `count` values; the caller has bounded the count.
pub(crate) fn read_array<T: FromBytes>(task: &Task, addr: Addr, count: usize) -> Result<Vec<T>, Errno> {
    UserPtr::new(addr).read_slice(task.mem(), count, count)
}

/// Stores values one after the other.
pub(crate) fn write_array<T: IntoBytes + Immutable>(task: &Task, addr: Addr, values: &[T]) -> Result<(), Errno> {
    UserPtr::new(addr).write_slice(task.mem(), values)
}

/// `len` bytes; the caller has bounded the length.
pub(crate) fn read_bytes(task: &Task, addr: Addr, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; len];
    task.mem().read(addr, &mut bytes)?;
    Ok(bytes)
}

/// Stores bytes.
pub(crate) fn write_bytes(task: &Task, addr: Addr, bytes: &[u8]) -> Result<(), Errno> {
    task.mem().write(addr, bytes)
}

/// Fills a prefix of `buf`; says how much of it could be read.
pub(crate) fn read_prefix(task: &Task, addr: Addr, buf: &mut [u8]) -> usize {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let Some(at) = addr.checked_add(done as u64) else { break };
        match task.mem().read_partial(at, rest) {
            Ok(n) if n > 0 => done = done.saturating_add(n),
            _ => break,
        }
    }
    done
}

/// A string of at most `max` bytes with its NUL, without it; `too_long` when there is no NUL among them.
pub(crate) fn c_string(task: &Task, addr: Addr, max: usize, too_long: Errno) -> Result<Vec<u8>, Errno> {
    task.mem().read_cstr(addr, max).map_err(|error| if error == Errno::ENAMETOOLONG { too_long } else { error })
}

/// A structure that grew over time: the caller says how much of it there is. Shorter than `min` is `EINVAL`, longer than
/// ours is `E2BIG` unless the rest is zero; what is missing is zero.
pub(crate) fn read_extensible<T: FromBytes>(task: &Task, addr: Addr, size: usize, min: usize) -> Result<T, Errno> {
    if size < min {
        return Err(Errno::EINVAL);
    }
    if size > usize::try_from(usermem::PAGE_SIZE).unwrap_or(0) {
        return Err(Errno::E2BIG);
    }
    let mut bytes = read_bytes(task, addr, size)?;
    if bytes.iter().skip(size_of::<T>()).any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    bytes.resize(size_of::<T>(), 0);
    T::read_from_bytes(&bytes).map_err(|_| Errno::EINVAL)
}

/// The caller's thread number, for traces.
pub(crate) fn trace_tid(task: &Task) -> i32 {
    task.tid().raw()
}

/// The path behind a descriptor, for traces.
pub(crate) fn trace_fd_path(task: &Task, fd: i32) -> Option<Vec<u8>> {
    let file = task.fds().get(fd).ok()?;
    Some(file.path().d_path(&task.fs().root()))
}

/// One buffer to fill.
pub(crate) fn dst(mm: &Arc<Mm>, addr: Addr, len: u64) -> Result<UserDst<Arc<Mm>>, Errno> {
    Ok(mm.dst(single(addr, len)?.bufs()))
}

/// One buffer to take from.
pub(crate) fn src(mm: &Arc<Mm>, addr: Addr, len: u64) -> Result<UserSrc<Arc<Mm>>, Errno> {
    Ok(mm.src(single(addr, len)?.bufs()))
}

fn single(addr: Addr, len: u64) -> Result<IoVecs, Errno> {
    // A length that is negative as `ssize_t` reaches past the end of any address space.
    let len = i64::try_from(len).ok().and_then(|len| usize::try_from(len).ok()).ok_or(Errno::EFAULT)?;
    IoVecs::single(UserBuf::new(addr, len))
}

fn vectors(task: &Task, addr: Addr, count: u64) -> Result<IoVecs, Errno> {
    IoVecs::import(task.mem(), addr, usize::try_from(count).map_err(|_| Errno::EINVAL)?)
}

/// Several buffers to fill.
pub(crate) fn dst_vec(task: &Task, mm: &Arc<Mm>, addr: Addr, count: u64) -> Result<UserDst<Arc<Mm>>, Errno> {
    Ok(mm.dst(vectors(task, addr, count)?.bufs()))
}

/// Several buffers to take from.
pub(crate) fn src_vec(task: &Task, mm: &Arc<Mm>, addr: Addr, count: u64) -> Result<UserSrc<Arc<Mm>>, Errno> {
    Ok(mm.src(vectors(task, addr, count)?.bufs()))
}
