//! The kernel's own access to guest memory.
//!
//! Every access takes a pin, translates with the lock held, and moves bytes without it: nothing that the fault path
//! needs is held across a copy. Copies announce themselves before the lock is dropped ([`crate::state::InFlight`]). Pages of host files are read and written by
//! `pread` and `pwrite`, but for those that are read again and again ([`crate::views`]).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::Errno;
use smallvec::SmallVec;
use sync::epoch::Pin;
use usermem::bytes::{IoDst, IoSrc};
use usermem::platform::Access;
use usermem::ptr::{UserBuf, UserMemory};
use usermem::{Addr, AddrRange, host, safecopy};
use vm_memory::VolatileSlice;

use crate::mm::{CopyGuard, Mm};
use crate::pma::Place;
use crate::vma::Force;

/// Most bytes that one call of `fill` or `drain` hands out.
const MAX_STEP: u64 = 1 << 20;

/// Most pieces that it hands out.
const MAX_PIECES: usize = 256;

/// Most bytes of host files and zeros among them: these go through a buffer.
const MAX_BOUNCE: u64 = 256 << 10;

/// A run of guest memory, found.
struct Run {
    len: usize,
    place: Place,
}

type Runs = SmallVec<[Run; 8]>;

impl Mm {
    /// Finds the bytes of a prefix of `ranges`, of at most `max` bytes. The first byte not being accessible is `EFAULT`.
    /// Call with a pin held.
    fn translate(
        &self,
        ranges: impl Iterator<Item = AddrRange>,
        max: u64,
        access: Access,
        force: Force,
    ) -> Result<(Runs, CopyGuard<'_>), Errno> {
        let mut runs = Runs::new();
        let mut left = max.min(MAX_STEP);
        let mut bounce = MAX_BOUNCE;
        let mut state = self.lock();
        'ranges: for range in ranges {
            let mut at = range.start;
            while at < range.end && left > 0 {
                let end = Addr(range.end.0.min(at.0.saturating_add(left)));
                let (found, place) = match state.resolve(at, end, access, force) {
                    Ok((found, place)) if !found.is_empty() => (found, place),
                    _ if runs.is_empty() => return Err(Errno::EFAULT),
                    _ => break 'ranges,
                };
                let mut len = found.len().min(left);
                if !matches!(place, Place::Memory { .. }) {
                    len = len.min(bounce);
                    bounce -= len;
                    if len == 0 {
                        break 'ranges;
                    }
                }
                left -= len;
                at = Addr(at.0 + len);
                // At most 1 MiB, so it fits.
                runs.push(Run { len: usize::try_from(len).unwrap_or(0), place });
                if runs.len() >= MAX_PIECES {
                    break 'ranges;
                }
            }
        }
        let guard = self.begin_copy(&state, access);
        drop(state);
        Ok((runs, guard))
    }

    /// The `len` bytes at `addr` for `access`, where finding them takes no more than looking them up, and what to hold while
    /// they are moved; `None` where it takes more. Most copies are of a structure in a page that is there.
    fn at_once(&self, addr: Addr, len: u64, access: Access) -> Option<(Pin, CopyGuard<'_>, VolatileSlice<'_>)> {
        if len > MAX_STEP {
            return None;
        }
        let pin = self.pool.pin();
        let state = self.lock();
        let offset = state.resolve_at_once(addr, len, access)?;
        let bytes = self.pool.slice(offset, len).ok()?;
        let guard = self.begin_copy(&state, access);
        drop(state);
        Some((pin, guard, bytes))
    }

    /// Copies guest memory at `addr` to a prefix of `buf`; says how many bytes, `EFAULT` when the first cannot be read.
    pub(crate) fn read_at(&self, addr: Addr, buf: &mut [u8], force: Force) -> Result<usize, Errno> {
        if let Some((_pin, _guard, bytes)) = self.at_once(addr, buf.len() as u64, Access::Read) {
            return safecopy::read_slices(&[bytes], buf);
        }
        let mut src = UserSrc::with_force(self, &[UserBuf::new(addr, buf.len())], force);
        if buf.is_empty() { Ok(0) } else { src.take(buf) }
    }

    /// Copies a prefix of `bytes` to guest memory at `addr`; says how many bytes, `EFAULT` when the first cannot be
    /// written.
    pub(crate) fn write_at(&self, addr: Addr, bytes: &[u8], force: Force) -> Result<usize, Errno> {
        if let Some((_pin, _guard, to)) = self.at_once(addr, bytes.len() as u64, Access::Write) {
            return safecopy::write_slices(&[to], bytes);
        }
        let mut dst = UserDst::with_force(self, &[UserBuf::new(addr, bytes.len())], force);
        if bytes.is_empty() { Ok(0) } else { dst.put(bytes) }
    }

    /// Sets guest memory to zero; says how many bytes.
    pub(crate) fn zero_at(&self, addr: Addr, len: usize) -> Result<usize, Errno> {
        let mut dst = UserDst::with_force(self, &[UserBuf::new(addr, len)], Force::No);
        let mut done = 0;
        while done < len {
            let max = len - done;
            match dst.fill(max, &mut |slices| safecopy::zero_slices(slices, max)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Reads as a debugger does: private and shared mappings whatever their protection (`process_vm_readv(2)` asks for
    /// [`Mm::src`] instead; `ptrace(2)` PEEK and `/proc/[pid]/mem` for this).
    pub fn read_remote(&self, addr: Addr, buf: &mut [u8]) -> Result<usize, Errno> {
        self.read_at(addr, buf, Force::Yes)
    }

    /// Writes as a debugger does: private mappings whatever their protection, in copies of their own.
    pub fn write_remote(&self, addr: Addr, bytes: &[u8]) -> Result<usize, Errno> {
        self.write_at(addr, bytes, Force::Yes)
    }

    /// Does `f` with the word of `size` bytes at `addr` (aligned), found for `access`.
    pub(crate) fn with_word<T>(
        &self,
        addr: Addr,
        size: u64,
        access: Access,
        f: impl FnOnce(VolatileSlice<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if !addr.0.is_multiple_of(size) {
            return Err(Errno::EINVAL);
        }
        let range = AddrRange::of_len(addr, size).ok_or(Errno::EFAULT)?;
        if let Some((_pin, _guard, word)) = self.at_once(addr, size, access) {
            return f(word);
        }
        let _pin = self.pool.pin();
        let (runs, _guard) = self.translate(std::iter::once(range), size, access, Force::No)?;
        match runs.as_slice() {
            [Run { place: Place::Memory { offset }, len }] if *len as u64 == size => {
                f(self.pool.slice(*offset, size)?)
            }
            [Run { place, len }] if access == Access::Read && *len as u64 == size => {
                // Nobody writes there but the host: a copy is as good as the word.
                let mut copy = [0; 8];
                let buf = copy.get_mut(..*len).ok_or(Errno::EFAULT)?;
                if let Place::Host { file, offset, .. } = place {
                    read_all(file, buf, *offset)?;
                }
                f(VolatileSlice::from(buf))
            }
            [Run { place: Place::Host { file, offset, shared: true }, len }] if *len as u64 == size => {
                // The kernel process has no mapping of host files. What is changed here is futex words whose owner waits
                // or is gone (robust lists, wake operations): the window between read and write is accepted.
                let mut copy = [0; 8];
                let buf = copy.get_mut(..*len).ok_or(Errno::EFAULT)?;
                read_all(file, buf, *offset)?;
                let before = buf.to_vec();
                let result = f(VolatileSlice::from(&mut *buf))?;
                if before != buf {
                    host::pwritev(file.as_fd(), &[VolatileSlice::from(buf)], *offset)?;
                }
                Ok(result)
            }
            _ => Err(Errno::EFAULT),
        }
    }

    /// Guest buffers as the destination of a read. Lengths that reach beyond the address space are `EFAULT` when reached.
    pub fn dst(self: &Arc<Self>, buffers: &[UserBuf]) -> UserDst<Arc<Self>> {
        UserDst::with_force(Arc::clone(self), buffers, Force::No)
    }

    /// Guest buffers as the source of a write.
    pub fn src(self: &Arc<Self>, buffers: &[UserBuf]) -> UserSrc<Arc<Self>> {
        UserSrc::with_force(Arc::clone(self), buffers, Force::No)
    }
}

impl UserMemory for Mm {
    fn read_partial(&self, addr: Addr, buf: &mut [u8]) -> Result<usize, Errno> {
        self.read_at(addr, buf, Force::No)
    }

    fn write_partial(&self, addr: Addr, bytes: &[u8]) -> Result<usize, Errno> {
        self.write_at(addr, bytes, Force::No)
    }

    fn zero_partial(&self, addr: Addr, len: usize) -> Result<usize, Errno> {
        self.zero_at(addr, len)
    }

    fn load_u32(&self, addr: Addr) -> Result<u32, Errno> {
        self.with_word(addr, 4, Access::Read, |word| safecopy::load_u32(word, 0))
    }

    fn cmpxchg_u32(&self, addr: Addr, old: u32, new: u32) -> Result<Result<u32, u32>, Errno> {
        self.with_word(addr, 4, Access::Write, |word| safecopy::cmpxchg_u32(word, 0, old, new))
    }
}

/// Buffers and how much of them is used up.
struct Cursor {
    buffers: SmallVec<[AddrRange; 4]>,
    /// Index of the current buffer.
    index: usize,
    remaining: u64,
    force: Force,
}

impl Cursor {
    fn new(buffers: &[UserBuf], force: Force) -> Self {
        let clipped =
            |buf: &UserBuf| AddrRange { start: buf.addr, end: Addr(buf.addr.0.saturating_add(buf.len as u64)) };
        let buffers: SmallVec<[AddrRange; 4]> = buffers.iter().map(clipped).filter(|range| !range.is_empty()).collect();
        let remaining = buffers.iter().fold(0u64, |sum, range| sum.saturating_add(range.len()));
        Self { buffers, index: 0, remaining, force }
    }

    fn ranges(&self) -> impl Iterator<Item = AddrRange> {
        self.buffers.iter().skip(self.index).copied()
    }

    fn advance(&mut self, bytes: u64) {
        let mut left = bytes.min(self.remaining);
        self.remaining -= left;
        while let Some(range) = self.buffers.get_mut(self.index) {
            let step = left.min(range.len());
            range.start = Addr(range.start.0 + step);
            left -= step;
            if !range.is_empty() {
                break;
            }
            self.index += 1;
        }
    }

    fn remaining(&self) -> usize {
        usize::try_from(self.remaining).unwrap_or(usize::MAX)
    }

    /// Where the next `max` bytes go, or all that remain, if that is in one buffer.
    fn single(&self, max: usize) -> Option<(Addr, u64)> {
        let range = self.buffers.get(self.index)?;
        let len = self.remaining.min(max as u64);
        (len <= range.len()).then_some((range.start, len))
    }
}

/// Slices for runs: of guest memory where it is in the memory file, of `bounce` elsewhere.
fn slices<'a>(mm: &'a Mm, runs: &Runs, mut bounce: &'a mut [u8]) -> Result<SmallVec<[VolatileSlice<'a>; 8]>, Errno> {
    let mut slices = SmallVec::new();
    for run in runs {
        slices.push(match run.place {
            Place::Memory { offset } => mm.pool.slice(offset, run.len as u64)?,
            Place::Host { .. } | Place::Zero => {
                let (part, rest) = bounce.split_at_mut_checked(run.len).ok_or(Errno::EFAULT)?;
                bounce = rest;
                VolatileSlice::from(part)
            }
        });
    }
    Ok(slices)
}

/// A buffer for the runs that are not in the memory file, with their bytes.
fn fetch(mm: &Mm, runs: &Runs) -> Result<Vec<u8>, Errno> {
    let len = runs.iter().filter(|run| !matches!(run.place, Place::Memory { .. })).map(|run| run.len).sum();
    let mut bounce = vec![0; len];
    let mut rest = bounce.as_mut_slice();
    for run in runs {
        if matches!(run.place, Place::Memory { .. }) {
            continue;
        }
        let (part, tail) = rest.split_at_mut_checked(run.len).ok_or(Errno::EFAULT)?;
        rest = tail;
        if let Place::Host { file, offset, .. } = &run.place
            && !mm.views.read(file, *offset, part)
        {
            read_all(file, part, *offset)?;
        }
    }
    Ok(bounce)
}

/// Reads as much of `buf` as the file has.
fn read_all(file: &OwnedFd, buf: &mut [u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match host::preadv(file.as_fd(), &[VolatileSlice::from(rest)], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::EINTR) => {}
            Err(_) => return Err(Errno::EFAULT),
        }
    }
    Ok(())
}

/// Writes the first `len` bytes that went to runs of host files back to these.
fn write_back(runs: &Runs, bounce: &mut [u8], len: usize) -> Result<(), Errno> {
    let mut rest = bounce;
    let mut left = len;
    for run in runs {
        let used = run.len.min(left);
        left -= used;
        if matches!(run.place, Place::Memory { .. }) {
            continue;
        }
        let (part, tail) = rest.split_at_mut_checked(run.len).ok_or(Errno::EFAULT)?;
        rest = tail;
        if let (Place::Host { file, offset, shared: true }, Some(part)) = (&run.place, part.get_mut(..used)) {
            let mut done = 0;
            while let Some(bytes) = part.get_mut(done..).filter(|bytes| !bytes.is_empty()) {
                let n = host::pwritev(file.as_fd(), &[VolatileSlice::from(bytes)], offset.saturating_add(done as u64))?;
                if n == 0 {
                    return Err(Errno::EFAULT);
                }
                done += n;
            }
        }
    }
    Ok(())
}

/// Guest memory that is read into.
pub struct UserDst<M> {
    mm: M,
    cursor: Cursor,
}

impl<M: std::ops::Deref<Target = Mm>> UserDst<M> {
    fn with_force(mm: M, buffers: &[UserBuf], force: Force) -> Self {
        Self { mm, cursor: Cursor::new(buffers, force) }
    }
}

impl<M: std::ops::Deref<Target = Mm>> IoDst for UserDst<M> {
    fn remaining(&self) -> usize {
        self.cursor.remaining()
    }

    fn fill(
        &mut self,
        max: usize,
        f: &mut dyn FnMut(&[VolatileSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        if max == 0 || self.cursor.remaining == 0 {
            return Ok(0);
        }
        let mm: &Mm = &self.mm;
        let single = self.cursor.single(max);
        if let Some((_pin, _guard, bytes)) = single.and_then(|(addr, len)| mm.at_once(addr, len, Access::Write)) {
            let n = f(&[bytes])?.min(bytes.len());
            self.cursor.advance(n as u64);
            return Ok(n);
        }
        let _pin = mm.pool.pin();
        let (runs, _guard) = mm.translate(self.cursor.ranges(), max as u64, Access::Write, self.cursor.force)?;
        let total: usize = runs.iter().map(|run| run.len).sum();
        // What the file has now, since `f` may fill less than it is given.
        let mut bounce = fetch(mm, &runs)?;
        let n = f(&slices(mm, &runs, &mut bounce)?)?.min(total);
        if !bounce.is_empty() {
            write_back(&runs, &mut bounce, n)?;
        }
        self.cursor.advance(n as u64);
        Ok(n)
    }
}

/// Guest memory that is written from.
pub struct UserSrc<M> {
    mm: M,
    cursor: Cursor,
}

impl<M: std::ops::Deref<Target = Mm>> UserSrc<M> {
    fn with_force(mm: M, buffers: &[UserBuf], force: Force) -> Self {
        Self { mm, cursor: Cursor::new(buffers, force) }
    }
}

impl<M: std::ops::Deref<Target = Mm>> IoSrc for UserSrc<M> {
    fn remaining(&self) -> usize {
        self.cursor.remaining()
    }

    fn drain(
        &mut self,
        max: usize,
        f: &mut dyn FnMut(&[VolatileSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        if max == 0 || self.cursor.remaining == 0 {
            return Ok(0);
        }
        let mm: &Mm = &self.mm;
        let single = self.cursor.single(max);
        if let Some((_pin, _guard, bytes)) = single.and_then(|(addr, len)| mm.at_once(addr, len, Access::Read)) {
            let n = f(&[bytes])?.min(bytes.len());
            self.cursor.advance(n as u64);
            return Ok(n);
        }
        let _pin = mm.pool.pin();
        let (runs, _guard) = mm.translate(self.cursor.ranges(), max as u64, Access::Read, self.cursor.force)?;
        let total: usize = runs.iter().map(|run| run.len).sum();
        let mut bounce = fetch(mm, &runs)?;
        let n = f(&slices(mm, &runs, &mut bounce)?)?.min(total);
        self.cursor.advance(n as u64);
        Ok(n)
    }
}
