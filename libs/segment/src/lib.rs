//! Maps from ranges of `u64` to values that split and merge.
//!
//! A [`SegmentMap`] holds disjoint, non-empty, half-open ranges, each with a value. What a value means when its range is
//! cut in two, and when two neighbours are one, is the value's business ([`Segment`]). Users: VMAs and PMAs (addresses),
//! the memory file's free space and reference counts (offsets), file locks.
//!
//! **Invariant.** Ranges never overlap and are never empty. Neighbours that could merge may stand unmerged after
//! operations that say so.
#![forbid(unsafe_code)]

mod gap;
#[cfg(test)]
mod model;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

pub use gap::Placement;

/// A value that can stand for a range.
pub trait Segment: Sized {
    /// The values for the first `at` units of the range and for the rest; `0 < at < len`.
    fn split(self, at: u64) -> (Self, Self);
    /// One value for a range of `len` units with `self`, followed directly by one with `next`; `None` if they must stay
    /// apart.
    fn try_merge(&self, len: u64, next: &Self) -> Option<Self>;
}

/// Ranges without a value: a set.
impl Segment for () {
    fn split(self, _at: u64) -> (Self, Self) {
        ((), ())
    }
    fn try_merge(&self, _len: u64, _next: &Self) -> Option<Self> {
        Some(())
    }
}

/// A map from disjoint ranges to values.
#[derive(Clone)]
pub struct SegmentMap<V> {
    /// Start to (end, value).
    map: BTreeMap<u64, (u64, V)>,
}

/// The range is not free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overlaps;

impl<V> Default for SegmentMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: fmt::Debug> fmt::Debug for SegmentMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<V> SegmentMap<V> {
    /// An empty map.
    pub const fn new() -> Self {
        Self { map: BTreeMap::new() }
    }

    /// Number of segments.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no segment.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.map.clear();
    }

    /// The segment that holds `at`.
    pub fn get(&self, at: u64) -> Option<(Range<u64>, &V)> {
        let (&start, (end, value)) = self.map.range(..=at).next_back()?;
        (at < *end).then_some((start..*end, value))
    }

    /// The segment that holds `at`, to change its value in place.
    pub fn get_mut(&mut self, at: u64) -> Option<(Range<u64>, &mut V)> {
        let (&start, (end, value)) = self.map.range_mut(..=at).next_back()?;
        (at < *end).then_some((start..*end, value))
    }

    /// The first segment that ends after `at`: the one that holds it, or else the next one.
    pub fn at_or_after(&self, at: u64) -> Option<(Range<u64>, &V)> {
        self.get(at).or_else(|| self.map.range(at..).next().map(|(&start, (end, value))| (start..*end, value)))
    }

    /// The last segment that starts before `at`.
    pub fn before(&self, at: u64) -> Option<(Range<u64>, &V)> {
        self.map.range(..at).next_back().map(|(&start, (end, value))| (start..*end, value))
    }

    /// The lowest segment.
    pub fn first(&self) -> Option<(Range<u64>, &V)> {
        self.map.iter().next().map(|(&start, (end, value))| (start..*end, value))
    }

    /// The highest segment.
    pub fn last(&self) -> Option<(Range<u64>, &V)> {
        self.map.iter().next_back().map(|(&start, (end, value))| (start..*end, value))
    }

    /// All segments, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Range<u64>, &V)> {
        self.map.iter().map(|(&start, (end, value))| (start..*end, value))
    }

    /// All segments, in order, with their values changeable in place.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (Range<u64>, &mut V)> {
        self.map.iter_mut().map(|(&start, (end, value))| (start..*end, value))
    }

    /// The segments that overlap `range`, whole (not clipped), in order.
    pub fn overlapping(&self, range: Range<u64>) -> impl DoubleEndedIterator<Item = (Range<u64>, &V)> {
        let start = self.first_start(&range);
        self.map.range(start..range.end.max(start)).map(|(&start, (end, value))| (start..*end, value))
    }

    /// As [`SegmentMap::overlapping`], with the values changeable in place.
    pub fn overlapping_mut(&mut self, range: Range<u64>) -> impl DoubleEndedIterator<Item = (Range<u64>, &mut V)> {
        let start = self.first_start(&range);
        self.map.range_mut(start..range.end.max(start)).map(|(&start, (end, value))| (start..*end, value))
    }

    /// Where a walk over what overlaps `range` starts.
    fn first_start(&self, range: &Range<u64>) -> u64 {
        if range.is_empty() {
            return range.start;
        }
        self.get(range.start).map_or(range.start, |(r, _)| r.start)
    }

    /// Whether no segment overlaps `range`.
    pub fn is_free(&self, range: Range<u64>) -> bool {
        range.is_empty() || self.at_or_after(range.start).is_none_or(|(r, _)| r.start >= range.end)
    }

    /// Whether each point of `range` lies in a segment.
    pub fn is_covered(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            match self.get(at) {
                Some((r, _)) => at = r.end,
                None => return false,
            }
        }
        true
    }

    /// The parts of `range` in no segment, in order.
    pub fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for (r, _) in self.overlapping(range.clone()) {
            if at < r.start {
                gaps.push(at..r.start);
            }
            at = r.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Units of `range` that lie in a segment.
    pub fn covered(&self, range: Range<u64>) -> u64 {
        self.overlapping(range.clone()).map(|(r, _)| r.end.min(range.end) - r.start.max(range.start)).sum()
    }

    /// Takes out the segment that starts exactly at `start`.
    pub fn take_at(&mut self, start: u64) -> Option<(Range<u64>, V)> {
        self.map.remove(&start).map(|(end, value)| (start..end, value))
    }
}

impl<V> IntoIterator for SegmentMap<V> {
    type Item = (Range<u64>, V);
    type IntoIter = std::iter::Map<std::collections::btree_map::IntoIter<u64, (u64, V)>, IntoItem<V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.map.into_iter().map(|(start, (end, value))| (start..end, value))
    }
}

/// How [`SegmentMap::into_iter`] turns an entry into an item.
type IntoItem<V> = fn((u64, (u64, V))) -> (Range<u64>, V);

impl<V: Segment> SegmentMap<V> {
    /// Puts `value` into the free, non-empty `range` and merges it with its neighbours.
    pub fn insert(&mut self, range: Range<u64>, value: V) -> Result<(), Overlaps> {
        let start = range.start;
        self.insert_apart(range, value)?;
        let start = self.merge_left(start);
        self.merge_right(start);
        Ok(())
    }

    /// Puts `value` into the free, non-empty `range` without merging.
    pub fn insert_apart(&mut self, range: Range<u64>, value: V) -> Result<(), Overlaps> {
        if range.is_empty() || !self.is_free(range.clone()) {
            return Err(Overlaps);
        }
        self.map.insert(range.start, (range.end, value));
        Ok(())
    }

    /// Puts `value` into the non-empty `range`, whatever was there, and merges; says what was there.
    pub fn replace(&mut self, range: Range<u64>, value: V) -> Vec<(Range<u64>, V)> {
        let old = self.remove(range.clone());
        let inserted = self.insert(range, value);
        debug_assert!(inserted.is_ok(), "the range was just emptied");
        old
    }

    /// Cuts the segment that holds `at` in two there; nothing if `at` is in none or at a bound.
    pub fn split_at(&mut self, at: u64) {
        let Some((&start, &(end, _))) = self.map.range(..at).next_back() else { return };
        if end <= at {
            return;
        }
        if let Some((end, value)) = self.map.remove(&start) {
            let (left, right) = value.split(at - start);
            self.map.insert(start, (at, left));
            self.map.insert(at, (end, right));
        }
    }

    /// Cuts at both ends of `range`, so that each segment is wholly inside or outside.
    pub fn isolate(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.split_at(range.start);
            self.split_at(range.end);
        }
    }

    /// Empties `range`; says what was there, cut at its bounds, in order.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<(Range<u64>, V)> {
        if range.is_empty() {
            return Vec::new();
        }
        self.isolate(range.clone());
        let mut removed = Vec::new();
        while let Some((&start, _)) = self.map.range(range.start..range.end).next() {
            if let Some((end, value)) = self.map.remove(&start) {
                removed.push((start..end, value));
            }
        }
        removed
    }

    /// Changes the values in `range` (segments are cut at its bounds first), then merges.
    pub fn update(&mut self, range: Range<u64>, mut f: impl FnMut(Range<u64>, &mut V)) {
        if range.is_empty() {
            return;
        }
        self.isolate(range.clone());
        for (r, value) in self.overlapping_mut(range.clone()) {
            f(r, value);
        }
        self.merge_range(range);
    }

    /// Merges what can be merged in `range` and at its bounds.
    pub fn merge_range(&mut self, range: Range<u64>) {
        let mut at = match self.before(range.start) {
            Some((r, _)) => r.start,
            None => range.start,
        };
        while let Some(start) = self.map.range(at..).next().map(|(&start, _)| start) {
            if start > range.end {
                break;
            }
            at = match self.merge_right(start) {
                // Grown: look at the same one again.
                true => start,
                false => start + 1,
            };
        }
    }

    /// Merges the segment at `start` with its left neighbour; says where the result starts.
    fn merge_left(&mut self, start: u64) -> u64 {
        match self.before(start).map(|(r, _)| r) {
            Some(left) if left.end == start && self.merge_right(left.start) => left.start,
            _ => start,
        }
    }

    /// Merges the segment at `start` with its right neighbour; says whether it did.
    fn merge_right(&mut self, start: u64) -> bool {
        let Some((mid, value)) = self.map.get(&start) else { return false };
        let mid = *mid;
        let Some((end, next)) = self.map.get(&mid) else { return false };
        let end = *end;
        let Some(merged) = value.try_merge(mid - start, next) else { return false };
        self.map.remove(&mid);
        self.map.insert(start, (end, merged));
        true
    }
}
