//! Bytes in the memory file: what a tmpfs file, a memfd and a shared anonymous mapping are made of.
//!
//! A [`MemoryObject`] maps its offsets to runs of the memory file; what is in no run is a hole and reads as zeros. Something
//! is reserved ahead of the last run that grew, since untouched pages cost nothing.
//!
//! **Locks.** `writers` orders writers and truncations and may be held over a user copy. `state` is taken by the fault
//! path ([`Mappable::locate`]) and, inside user copies, around the copy itself; so bytes that a reader sees are those of
//! one size. Pages leave the object under `state`, then every address space is told, and only then are they freed.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::fs::{FallocFlags, Seals};
use segment::{Segment, SegmentMap};
use sync::{Mutex, RwLock};
use usermem::PAGE_SIZE;
use usermem::bytes::{IoDst, IoSrc};
use usermem::memfile::{FileRange, MemoryFile, Place};
use usermem::memmap::{Located, Mappable, MappingObserver};
use usermem::safecopy;

use crate::host::next_mappable_id;
use crate::lockclass;
use crate::mapping::Observers;
use crate::vfs::Whence;

/// Most bytes copied under the lock at once.
const MAX_STEP: u64 = 1 << 20;
/// How far ahead runs are reserved once an object has grown past it, in bytes.
const AHEAD: u64 = 64 * 1024;

/// A limit on bytes shared by the files of one file system, maybe within one that several file systems share.
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
    within: Option<Arc<Budget>>,
}

impl Budget {
    pub(crate) const fn new(limit: u64, within: Option<Arc<Self>>) -> Self {
        Self { limit, used: AtomicU64::new(0), within }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that can still be taken.
    pub(crate) fn left(&self) -> u64 {
        let own = self.limit.saturating_sub(self.used.load(Ordering::Relaxed));
        self.within.as_ref().map_or(own, |within| own.min(within.left()))
    }

    /// Takes `bytes`; `ENOSPC`. Relaxed: the counter guards no other memory.
    fn take(&self, bytes: u64) -> Result<(), Errno> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.limit)
            })
            .map_err(|_| Errno::ENOSPC)?;
        match self.within.as_ref().map(|within| within.take(bytes)) {
            Some(Err(error)) => {
                self.used.fetch_sub(bytes, Ordering::Relaxed);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(within) = &self.within {
            within.give(bytes);
        }
    }
}

/// Where a run of an object starts in the memory file.
#[derive(Clone, Copy, Debug)]
struct Run(u64);

impl Segment for Run {
    fn split(self, at: u64) -> (Self, Self) {
        (self, Self(self.0 + at))
    }

    fn try_merge(&self, len: u64, next: &Self) -> Option<Self> {
        (self.0 + len == next.0).then_some(*self)
    }
}

/// Reserved for the bytes of an object from `at` on, and not used yet: it counts nowhere.
struct Ahead {
    at: u64,
    range: FileRange,
}

struct State {
    size: u64,
    runs: SegmentMap<Run>,
    ahead: Option<Ahead>,
    /// Pages in `runs`.
    pages: u64,
    seals: Seals,
}

/// A run of bytes in memory that can be read, written, truncated, mapped and sealed.
pub(crate) struct MemoryObject {
    memory: Arc<MemoryFile>,
    budget: Option<Arc<Budget>>,
    id: u64,
    writers: Mutex<()>,
    state: RwLock<State>,
    observers: Observers,
}

fn page_up(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(PAGE_SIZE)
}

const fn page_down(bytes: u64) -> u64 {
    bytes & !(PAGE_SIZE - 1)
}

impl MemoryObject {
    /// An object of `size` zeros.
    pub(crate) fn new(memory: &Arc<MemoryFile>, budget: Option<Arc<Budget>>, size: u64, seals: Seals) -> Self {
        Self {
            memory: Arc::clone(memory),
            budget,
            id: next_mappable_id(),
            writers: Mutex::new(lockclass::INODE_WRITE, ()),
            state: RwLock::new(
                lockclass::INODE_DATA,
                State { size, runs: SegmentMap::new(), ahead: None, pages: 0, seals },
            ),
            observers: Observers::new(),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.state.read().size
    }

    /// Room taken, in bytes.
    pub(crate) fn bytes_used(&self) -> u64 {
        self.state.read().pages * PAGE_SIZE
    }

    pub(crate) fn seals(&self) -> Seals {
        self.state.read().seals
    }

    pub(crate) fn add_seals(&self, seals: Seals) -> Result<(), Errno> {
        let mut state = self.state.write();
        if state.seals.contains(Seals::F_SEAL_SEAL) {
            return Err(Errno::EPERM);
        }
        // A mapping may be writable; which kind it is, only its address space knows.
        if seals.contains(Seals::F_SEAL_WRITE)
            && !state.seals.contains(Seals::F_SEAL_WRITE)
            && !self.observers.is_empty()
        {
            return Err(Errno::EBUSY);
        }
        state.seals |= seals;
        Ok(())
    }

    /// Reads into `dst` from `offset` on; says how many bytes.
    pub(crate) fn read(&self, dst: &mut dyn IoDst, offset: u64) -> Result<usize, Errno> {
        let mut done: usize = 0;
        while dst.remaining() > 0 {
            let at = offset.saturating_add(done as u64);
            let step = dst.fill(usize::try_from(MAX_STEP).unwrap_or(usize::MAX), &mut |slices| {
                let state = self.state.read();
                let left = state.size.saturating_sub(at);
                if left == 0 {
                    return Ok(0);
                }
                match state.runs.at_or_after(at) {
                    Some((range, run)) if range.start <= at => {
                        let len = left.min(range.end - at).min(MAX_STEP);
                        let from = self.memory.slice(FileRange::of_len(run.0 + (at - range.start), len))?;
                        safecopy::copy_slices(slices, &[from])
                    }
                    next => {
                        let hole = next.map_or(left, |(range, _)| left.min(range.start - at)).min(MAX_STEP);
                        safecopy::zero_slices(slices, usize::try_from(hole).unwrap_or(usize::MAX))
                    }
                }
            });
            match step {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes from `offset` on; says how many bytes. `ENOSPC`, `EPERM` when sealed, `EFBIG`.
    pub(crate) fn write(&self, src: &mut dyn IoSrc, offset: u64) -> Result<usize, Errno> {
        let _writers = self.writers.lock();
        self.write_locked(src, offset)
    }

    /// Writes at the end; says where that was and how many bytes.
    pub(crate) fn append(&self, src: &mut dyn IoSrc) -> Result<(u64, usize), Errno> {
        let _writers = self.writers.lock();
        let end = self.size();
        Ok((end, self.write_locked(src, end)?))
    }

    fn write_locked(&self, src: &mut dyn IoSrc, offset: u64) -> Result<usize, Errno> {
        let mut done: usize = 0;
        while src.remaining() > 0 {
            let at = offset.checked_add(done as u64).filter(|at| i64::try_from(*at).is_ok()).ok_or(Errno::EFBIG)?;
            let step = src.drain(usize::try_from(MAX_STEP).unwrap_or(usize::MAX), &mut |slices| {
                let len = slices.iter().map(|slice| slice.len() as u64).sum::<u64>().min(MAX_STEP);
                let mut state = self.state.write();
                if state.seals.intersects(Seals::F_SEAL_WRITE | Seals::F_SEAL_FUTURE_WRITE) {
                    return Err(Errno::EPERM);
                }
                let end = at.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::EFBIG)?;
                if end > state.size && state.seals.contains(Seals::F_SEAL_GROW) {
                    return Err(Errno::EPERM);
                }
                if at > state.size {
                    self.clear_tail(&state);
                }
                let run = self.ensure(&mut state, at, len)?;
                let to = self.memory.slice(run)?;
                let n = safecopy::copy_slices(&[to], slices)?;
                state.size = state.size.max(at + n as u64);
                Ok(n)
            });
            match step {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// The run that holds `at`, from there for at most `len` bytes, reserved if it is a hole.
    fn ensure(&self, state: &mut State, at: u64, len: u64) -> Result<FileRange, Errno> {
        if let Some((range, run)) = state.runs.get(at) {
            return Ok(FileRange::of_len(run.0 + (at - range.start), len.min(range.end - at)));
        }
        let start = page_down(at);
        let wanted = page_up(at.checked_add(len).ok_or(Errno::EFBIG)?).ok_or(Errno::EFBIG)?;
        let limit = state.runs.at_or_after(start).map_or(u64::MAX, |(range, _)| range.start);
        let range = match Self::take_ahead(state, start, wanted.min(limit)) {
            Some(range) if self.take_budget(range.len()).is_ok() => range,
            ahead => {
                // Too little room for all of it: what there is room for.
                ahead.into_iter().for_each(|range| self.drop_range(range));
                self.reserve(state, start, wanted, limit)?
            }
        };
        let end = start + range.len();
        state.pages += range.len() / PAGE_SIZE;
        if state.runs.insert(start..end, Run(range.start)).is_err() {
            return Err(Errno::EIO);
        }
        Ok(FileRange::of_len(range.start + (at - start), len.min(end - at)))
    }

    /// What was reserved for `start`, up to `end`.
    fn take_ahead(state: &mut State, start: u64, end: u64) -> Option<FileRange> {
        let ahead = state.ahead.take_if(|ahead| ahead.at == start)?;
        let taken = ahead.range.part(0, end - start);
        let rest = FileRange { start: taken.end, end: ahead.range.end };
        if !rest.is_empty() {
            state.ahead = Some(Ahead { at: start + taken.len(), range: rest });
        }
        Some(taken)
    }

    /// Reserves `start..wanted`, or less when there is little room, and something ahead of it; all below `limit`.
    fn reserve(&self, state: &mut State, start: u64, wanted: u64, limit: u64) -> Result<FileRange, Errno> {
        let mut end = wanted.min(limit);
        if self.take_room(end - start).is_err() {
            end = start + PAGE_SIZE;
            self.take_room(PAGE_SIZE)?;
        }
        let ahead = if start >= AHEAD { end.checked_next_multiple_of(AHEAD).unwrap_or(end).min(limit) } else { end };
        let place = match state.runs.before(start) {
            Some((range, run)) if range.end == start => Place::At(run.0 + (range.end - range.start)),
            _ => Place::Anywhere,
        };
        let all = self.memory.allocate(ahead - start, place).map_err(|error| {
            self.give_room(end - start);
            if error == Errno::ENOMEM { Errno::ENOSPC } else { error }
        })?;
        let taken = all.part(0, end - start);
        if ahead > end {
            let range = FileRange { start: taken.end, end: all.end };
            if let Some(old) = state.ahead.replace(Ahead { at: end, range }) {
                self.drop_range(old.range);
            }
        }
        Ok(taken)
    }

    fn take_budget(&self, bytes: u64) -> Result<(), Errno> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.take(bytes))
    }

    fn take_room(&self, bytes: u64) -> Result<(), Errno> {
        self.take_budget(bytes)?;
        if self.memory.would_exceed(bytes) {
            if let Some(budget) = &self.budget {
                budget.give(bytes);
            }
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    fn give_room(&self, bytes: u64) {
        if let Some(budget) = &self.budget {
            budget.give(bytes);
        }
    }

    /// Bytes past the end in the last page may have been written through a mapping: they read as zeros once the object
    /// grows over them.
    fn clear_tail(&self, state: &State) {
        let tail = state.size;
        let Some(end) = page_up(tail) else { return };
        if let Some((range, run)) = state.runs.get(tail)
            && tail < end
            && let Ok(slice) = self.memory.slice(FileRange::of_len(run.0 + (tail - range.start), end - tail))
        {
            // A page that cannot be touched holds nothing to clear.
            let _ = safecopy::zero_slices(&[slice], slice.len());
        }
    }

    /// Takes the runs in `range` (page-aligned) out; they are freed by [`MemoryObject::free`].
    fn take_runs(state: &mut State, range: Range<u64>) -> Vec<FileRange> {
        if range.is_empty() {
            return Vec::new();
        }
        let taken = state.runs.remove(range);
        let ranges: Vec<_> =
            taken.into_iter().map(|(range, run)| FileRange::of_len(run.0, range.end - range.start)).collect();
        state.pages -= ranges.iter().map(|range| range.len() / PAGE_SIZE).sum::<u64>();
        ranges
    }

    fn free(&self, ranges: Vec<FileRange>) {
        for range in ranges {
            self.give_room(range.len());
            self.drop_range(range);
        }
    }

    fn drop_range(&self, range: FileRange) {
        if let Err(error) = self.memory.dec_ref(range) {
            log::error!("memory object: {range:?} was not ours: {error:?}");
        }
    }

    /// Sets the size. `EPERM` when sealed.
    pub(crate) fn truncate(&self, size: u64) -> Result<(), Errno> {
        if i64::try_from(size).is_err() {
            return Err(Errno::EFBIG);
        }
        let _writers = self.writers.lock();
        let (freed, shrunk) = {
            let mut state = self.state.write();
            let shrinks = size < state.size;
            let sealed = (shrinks && state.seals.contains(Seals::F_SEAL_SHRINK))
                || (size > state.size && state.seals.contains(Seals::F_SEAL_GROW));
            if sealed {
                return Err(Errno::EPERM);
            }
            let freed = if shrinks {
                let keep = page_up(size).unwrap_or(u64::MAX);
                Self::take_runs(&mut state, keep..u64::MAX)
            } else {
                self.clear_tail(&state);
                Vec::new()
            };
            state.size = size;
            if shrinks {
                self.clear_tail(&state);
            }
            (freed, shrinks)
        };
        if shrunk {
            self.observers.truncated(self.id, page_up(size).unwrap_or(u64::MAX), u64::MAX);
        }
        self.free(freed);
        Ok(())
    }

    /// `fallocate(2)`: reserves, punches and zeroes; other modes are `EOPNOTSUPP`.
    pub(crate) fn allocate(&self, mode: FallocFlags, offset: u64, len: u64) -> Result<(), Errno> {
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        let keep_size = mode.contains(FallocFlags::FALLOC_FL_KEEP_SIZE);
        let kind = mode & !FallocFlags::FALLOC_FL_KEEP_SIZE;
        let _writers = self.writers.lock();
        let sealed = self.seals();
        if kind == FallocFlags::FALLOC_FL_PUNCH_HOLE && keep_size {
            if sealed.intersects(Seals::F_SEAL_WRITE | Seals::F_SEAL_FUTURE_WRITE) {
                return Err(Errno::EPERM);
            }
            self.punch(offset, end);
            return Ok(());
        }
        if kind == FallocFlags::FALLOC_FL_ZERO_RANGE {
            self.punch(offset, end);
        } else if !kind.is_empty() {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.write();
        if end > state.size && !keep_size && sealed.contains(Seals::F_SEAL_GROW) {
            return Err(Errno::EPERM);
        }
        let mut added = Vec::new();
        if let Err(error) =
            self.fill_holes(&mut state, page_down(offset)..page_up(end).ok_or(Errno::EFBIG)?, &mut added)
        {
            // All or nothing, as Linux's tmpfs.
            let freed = added.into_iter().flat_map(|hole| Self::take_runs(&mut state, hole)).collect();
            drop(state);
            self.free(freed);
            return Err(error);
        }
        if end > state.size && !keep_size {
            self.clear_tail(&state);
            state.size = end;
        }
        Ok(())
    }

    /// Reserves each hole of `range` (page-aligned) as a whole, since the guest chose its length; says which in `added`.
    fn fill_holes(&self, state: &mut State, range: Range<u64>, added: &mut Vec<Range<u64>>) -> Result<(), Errno> {
        let mut at = range.start;
        while at < range.end {
            match state.runs.at_or_after(at) {
                Some((run, _)) if run.start <= at => at = run.end,
                next => {
                    let hole = at..next.map_or(range.end, |(run, _)| run.start.min(range.end));
                    let len = hole.end - hole.start;
                    self.take_room(len)?;
                    let run = self.memory.allocate(len, Place::Anywhere).map_err(|error| {
                        self.give_room(len);
                        if error == Errno::ENOMEM { Errno::ENOSPC } else { error }
                    })?;
                    state.pages += len / PAGE_SIZE;
                    state.runs.insert(hole.clone(), Run(run.start)).map_err(|_| Errno::EIO)?;
                    at = hole.end;
                    added.push(hole);
                }
            }
        }
        Ok(())
    }

    fn punch(&self, offset: u64, end: u64) {
        let (first, last) = (page_up(offset).unwrap_or(u64::MAX), page_down(end));
        let freed = {
            let mut state = self.state.write();
            let tail = if last > offset && last >= first { last..end } else { end..end };
            for edge in [offset..first.min(end), tail].into_iter().filter(|edge| !edge.is_empty()) {
                if let Some((range, run)) = state.runs.get(edge.start) {
                    let part = FileRange::of_len(run.0 + (edge.start - range.start), edge.end - edge.start);
                    if let Ok(slice) = self.memory.slice(part) {
                        let _ = safecopy::zero_slices(&[slice], slice.len());
                    }
                }
            }
            if first < last { Self::take_runs(&mut state, first..last) } else { Vec::new() }
        };
        if first < last {
            self.observers.truncated(self.id, first, last - first);
        }
        self.free(freed);
    }

    pub(crate) fn seek(&self, offset: u64, whence: Whence) -> Result<u64, Errno> {
        let state = self.state.read();
        if offset >= state.size {
            return Err(Errno::ENXIO);
        }
        if whence == Whence::Data {
            let (range, _) = state.runs.at_or_after(offset).ok_or(Errno::ENXIO)?;
            let data = range.start.max(offset);
            return if data < state.size { Ok(data) } else { Err(Errno::ENXIO) };
        }
        let mut at = offset;
        while let Some((range, _)) = state.runs.get(at) {
            at = range.end;
        }
        Ok(at.min(state.size))
    }
}

impl Drop for MemoryObject {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let all = Self::take_runs(state, 0..u64::MAX);
        let ahead = state.ahead.take();
        self.free(all);
        if let Some(ahead) = ahead {
            self.drop_range(ahead.range);
        }
    }
}

impl Mappable for MemoryObject {
    fn id(&self) -> u64 {
        self.id
    }

    fn locate(&self, offset: u64, len: u64, _write: bool) -> Result<(Located, u64), Errno> {
        let found = |state: &State| {
            let end = page_up(state.size).ok_or(Errno::EFAULT)?;
            if offset >= end {
                return Err(Errno::EFAULT);
            }
            Ok((len.min(end - offset), state.runs.get(offset).map(|(range, run)| (range, *run))))
        };
        {
            let state = self.state.read();
            if let (len, Some((range, run))) = found(&state)? {
                let located = Located::Memory { offset: run.0 + (offset - range.start) };
                return Ok((located, len.min(range.end - offset)));
            }
        }
        // A hole is filled also for reading: what is written there later must show in every mapping.
        let mut state = self.state.write();
        let (len, _) = found(&state)?;
        let run = self.ensure(&mut state, offset, len)?;
        Ok((Located::Memory { offset: run.start }, run.len()))
    }

    fn size(&self) -> u64 {
        MemoryObject::size(self)
    }

    fn sync(&self, _offset: u64, _len: u64) -> Result<(), Errno> {
        Ok(())
    }

    fn attach(&self, observer: &Arc<dyn MappingObserver>) {
        self.observers.attach(observer);
    }

    fn detach(&self, observer: &Arc<dyn MappingObserver>) {
        self.observers.detach(observer);
    }
}
