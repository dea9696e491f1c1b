//! Who owns which part of the offset space.
//!
//! ```text
//!   free --allocate--> refs (count >= 1) --last dec_ref--> pending --take_ripe--> (cleaned by the caller) --give_back--> free
//! ```
//! The upper half is `super::packed`'s, with counts and a wait of the same kind.
//!
//! **Invariant.** At each moment an offset is in exactly one of `free`, `packed`, `refs`, `pending` and a caller's hands.

use std::collections::VecDeque;

use abi::Errno;
use segment::{Segment, SegmentMap};
use sync::epoch::{self, Horizon, Retired};

use super::packed::{CHUNK, Content, Packed};
use super::{FileRange, Keep, Place, Reserved};
use crate::addr::PAGE_SIZE;

/// Freed bytes that may wait before a reclaim is due.
const DUE_BYTES: u64 = 4 << 20;
/// Freed ranges that may wait before a reclaim is due.
const DUE_RANGES: usize = 256;
/// Free pages kept with their memory.
const ZEROED_MAX: u64 = 16 << 20;
/// Allocations from this size on come from the top of the space, so that small ones do not fragment their room.
const LARGE: u64 = 1 << 20;

/// A reference count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Count(u32);

impl Segment for Count {
    fn split(self, _at: u64) -> (Self, Self) {
        (self, self)
    }
    fn try_merge(&self, _len: u64, next: &Self) -> Option<Self> {
        (self == next).then_some(*self)
    }
}

/// Where the upper half of a space of `len` bytes starts.
pub(super) const fn packed_from(len: u64) -> u64 {
    (len / 2) & !(CHUNK - 1)
}

pub(super) struct Space {
    #[cfg(test)]
    len: u64,
    free: SegmentMap<()>,
    /// Parts of `free` whose pages were kept, zeroed.
    zeroed: SegmentMap<()>,
    zeroed_bytes: u64,
    pub(super) packed: Packed,
    refs: SegmentMap<Count>,
    allocated: u64,
    /// In order of retirement.
    pending: VecDeque<(FileRange, Retired)>,
    pending_bytes: u64,
    /// No reclaim is due before this many bytes wait: raised when one found little ripe.
    due_bytes: u64,
    due_ranges: usize,
}

impl Space {
    /// A space of `len` bytes, all free. The first page is never given out, so that offset 0 is always a mistake; nor is the
    /// last one of the lower half, so that nothing reaches over.
    pub(super) fn new(len: u64) -> Self {
        let half = packed_from(len);
        let mut free = SegmentMap::new();
        let inserted = free.insert(PAGE_SIZE..half - PAGE_SIZE, ());
        debug_assert!(inserted.is_ok());
        Self {
            #[cfg(test)]
            len,
            free,
            zeroed: SegmentMap::new(),
            zeroed_bytes: 0,
            packed: Packed::new(FileRange { start: half, end: len & !(CHUNK - 1) }),
            refs: SegmentMap::new(),
            allocated: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            due_bytes: DUE_BYTES,
            due_ranges: DUE_RANGES,
        }
    }

    pub(super) fn allocate(&mut self, len: u64, place: Place) -> Option<FileRange> {
        let start = self.find(len, place)?;
        let range = FileRange::of_len(start, len);
        self.free.remove(range.range());
        self.drop_zeroed(range);
        self.own(range);
        Some(range)
    }

    /// Takes packed pages that have been used before.
    pub(super) fn take_used(&mut self, len: u64, after: Option<u64>) -> Option<(FileRange, Content)> {
        let (range, content) = self.packed.take_used(len, after)?;
        self.own(range);
        Some((range, content))
    }

    /// Takes packed pages that read as zeros.
    pub(super) fn take_zero(&mut self, len: u64) -> Option<FileRange> {
        let range = self.packed.take_zero(len)?;
        self.own(range);
        Some(range)
    }

    /// Counts one owner of a range that had none.
    pub(super) fn own(&mut self, range: FileRange) {
        self.allocated += range.len();
        let inserted = self.refs.insert(range.range(), Count(1));
        debug_assert!(inserted.is_ok(), "free space had references");
    }

    /// Whether anything waits for pins.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn find(&self, len: u64, place: Place) -> Option<u64> {
        let align = match place {
            Place::At(at) if at.is_multiple_of(PAGE_SIZE) => {
                let fits = at.checked_add(len).is_some_and(|end| self.free.get(at).is_some_and(|(r, _)| end <= r.end));
                if fits {
                    return Some(at);
                }
                PAGE_SIZE
            }
            Place::At(_) | Place::Anywhere => PAGE_SIZE,
            Place::Aligned(align) => align,
        };
        if len < LARGE {
            if align == PAGE_SIZE
                && let Some((kept, ())) = self.zeroed.iter().take(4).find(|(r, ())| r.end - r.start >= len)
            {
                return Some(kept.start);
            }
            self.free.iter().find_map(|(r, ())| {
                let start = r.start.checked_next_multiple_of(align)?;
                (start.checked_add(len)? <= r.end).then_some(start)
            })
        } else {
            self.free.iter().rev().find_map(|(r, ())| {
                let start = r.end.checked_sub(len)? & !(align - 1);
                (start >= r.start).then_some(start)
            })
        }
    }

    fn drop_zeroed(&mut self, range: FileRange) {
        if self.zeroed_bytes > 0 {
            let taken: u64 = self.zeroed.remove(range.range()).iter().map(|(r, ())| r.end - r.start).sum();
            self.zeroed_bytes -= taken;
        }
    }

    pub(super) fn inc_ref(&mut self, range: FileRange) -> Result<(), Errno> {
        if !self.refs.is_covered(range.range()) {
            return Err(Errno::EINVAL);
        }
        if self.refs.overlapping(range.range()).any(|(_, count)| count.0 == u32::MAX) {
            return Err(Errno::ENOMEM);
        }
        self.refs.update(range.range(), |_, count| count.0 += 1);
        Ok(())
    }

    /// Says whether a reclaim is due.
    pub(super) fn dec_ref(&mut self, range: FileRange) -> Result<bool, Errno> {
        if !self.refs.is_covered(range.range()) {
            return Err(Errno::EINVAL);
        }
        let mut dead: smallvec::SmallVec<[FileRange; 4]> = smallvec::SmallVec::new();
        self.refs.isolate(range.range());
        for (r, count) in self.refs.overlapping_mut(range.range()) {
            count.0 -= 1;
            if count.0 == 0 {
                dead.push(FileRange { start: r.start, end: r.end });
            }
        }
        for freed in &dead {
            self.refs.take_at(freed.start);
        }
        self.refs.merge_range(range.range());
        if dead.is_empty() {
            return Ok(false);
        }
        let retired = epoch::retire();
        for freed in dead {
            self.allocated -= freed.len();
            self.pending_bytes += freed.len();
            match self.pending.back_mut() {
                // The younger moment is right for both.
                Some((last, when)) if last.end == freed.start => {
                    last.end = freed.end;
                    *when = retired;
                }
                _ => self.pending.push_back((freed, retired)),
            }
        }
        Ok(self.pending_bytes >= self.due_bytes || self.pending.len() >= self.due_ranges)
    }

    pub(super) fn refs(&self, range: FileRange) -> Option<(u32, u64)> {
        let (r, count) = self.refs.get(range.start)?;
        Some((count.0, r.end.min(range.end) - range.start))
    }

    pub(super) fn shared(&self, range: FileRange) -> bool {
        self.refs.overlapping(range.range()).any(|(_, count)| count.0 > 1)
    }

    /// Takes out what no pin can see any more, merged.
    pub(super) fn take_ripe(&mut self, horizon: Horizon) -> Vec<FileRange> {
        let mut ripe = Vec::new();
        while let Some((range, when)) = self.pending.front().copied() {
            if !when.is_past(horizon) {
                break;
            }
            self.pending.pop_front();
            self.pending_bytes -= range.len();
            ripe.push(range);
        }
        // What stays waits for a pin: do not look again for each single free.
        self.due_bytes = self.pending_bytes.saturating_mul(2).max(DUE_BYTES);
        self.due_ranges = self.pending.len().saturating_mul(2).max(DUE_RANGES);
        ripe.sort_unstable_by_key(|r| r.start);
        ripe.dedup_by(|next, last| {
            let touches = last.end == next.start;
            if touches {
                last.end = next.end;
            }
            touches
        });
        ripe
    }

    /// Bytes of kept pages that may be added.
    pub(super) fn zeroed_room(&self) -> u64 {
        ZEROED_MAX.saturating_sub(self.zeroed_bytes)
    }

    /// A clean range is free again.
    pub(super) fn give_back(&mut self, range: FileRange, keep: Keep) {
        let inserted = self.free.insert(range.range(), ());
        debug_assert!(inserted.is_ok(), "free twice: {range:?}");
        if keep == Keep::Zeroed && self.zeroed.insert(range.range(), ()).is_ok() {
            self.zeroed_bytes += range.len();
        }
    }

    /// Takes all kept pages out of the free space, to be punched and given back.
    pub(super) fn take_zeroed(&mut self) -> Vec<FileRange> {
        let zeroed = std::mem::take(&mut self.zeroed);
        self.zeroed_bytes = 0;
        zeroed
            .into_iter()
            .map(|(r, ())| {
                self.free.remove(r.clone());
                FileRange { start: r.start, end: r.end }
            })
            .collect()
    }

    pub(super) fn reserved(&self) -> Reserved {
        let kept = self.packed.kept();
        Reserved { allocated: self.allocated, pending: self.pending_bytes, zeroed: self.zeroed_bytes, kept }
    }

    /// Checks the invariants; for tests.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let free: u64 = self.free.iter().map(|(r, ())| r.end - r.start).sum();
        let used: u64 = self.refs.iter().map(|(r, _)| r.end - r.start).sum();
        let pending: u64 = self.pending.iter().map(|(r, _)| r.len()).sum();
        let zeroed: u64 = self.zeroed.iter().map(|(r, ())| r.end - r.start).sum();
        let packed: u64 = self.packed.free().iter().map(|r| r.len()).sum();
        assert_eq!(free + used + pending + packed + 2 * PAGE_SIZE, self.len);
        assert!(self.packed.free().iter().all(|r| self.refs.is_free(r.range())));
        assert_eq!((used, pending, zeroed), (self.allocated, self.pending_bytes, self.zeroed_bytes));
        assert!(self.zeroed.iter().all(|(r, ())| self.free.is_covered(r)));
        assert!(self.refs.iter().all(|(r, c)| c.0 > 0 && self.free.is_free(r)));
        assert!(self.pending.iter().all(|(r, _)| self.free.is_free(r.range()) && self.refs.is_free(r.range())));
    }
}
