//! Maps from ranges of guest addresses to what is there, in the terms of an address space: [`AddrRange`]s in, clipped
//! pieces out. Neighbours whose values continue each other are one entry.

use segment::{Segment, SegmentMap};
use usermem::{Addr, AddrRange};

/// A value that describes a range and can be cut and joined with it.
pub(crate) trait Piece: Clone {
    /// The value of the part that starts `offset` bytes into the range.
    fn cut(&self, offset: u64) -> Self;
    /// Whether `next` continues this value, which covers `len` bytes.
    fn joins(&self, len: u64, next: &Self) -> bool;
}

/// A piece as a segment.
#[derive(Clone, Debug)]
struct Entry<V>(V);

impl<V: Piece> Segment for Entry<V> {
    fn split(self, at: u64) -> (Self, Self) {
        let right = self.0.cut(at);
        (self, Self(right))
    }

    fn try_merge(&self, len: u64, next: &Self) -> Option<Self> {
        self.0.joins(len, &next.0).then(|| self.clone())
    }
}

/// Ranges of addresses and their values; ranges do not overlap.
#[derive(Clone, Debug)]
pub(crate) struct AddrMap<V> {
    inner: SegmentMap<Entry<V>>,
}

fn span(range: std::ops::Range<u64>) -> AddrRange {
    AddrRange { start: Addr(range.start), end: Addr(range.end) }
}

const fn raw(range: AddrRange) -> std::ops::Range<u64> {
    range.start.0..range.end.0
}

fn seen<V>((range, entry): (std::ops::Range<u64>, &Entry<V>)) -> (AddrRange, &V) {
    (span(range), &entry.0)
}

fn owned<V>((range, entry): (std::ops::Range<u64>, Entry<V>)) -> (AddrRange, V) {
    (span(range), entry.0)
}

impl<V: Piece> AddrMap<V> {
    /// A map with nothing in it.
    pub(crate) const fn new() -> Self {
        Self { inner: SegmentMap::new() }
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.inner.len()
    }

    /// The entry that holds `addr`.
    pub(crate) fn get(&self, addr: Addr) -> Option<(AddrRange, &V)> {
        self.inner.get(addr.0).map(seen)
    }

    /// The first entry that ends after `addr`.
    pub(crate) fn at_or_after(&self, addr: Addr) -> Option<(AddrRange, &V)> {
        self.inner.at_or_after(addr.0).map(seen)
    }

    /// The last entry that starts before `addr`.
    pub(crate) fn before(&self, addr: Addr) -> Option<(AddrRange, &V)> {
        self.inner.before(addr.0).map(seen)
    }

    /// All entries, in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (AddrRange, &V)> {
        self.inner.iter().map(seen)
    }

    /// Entries that touch `range`, in order, not clipped.
    pub(crate) fn touching(&self, range: AddrRange) -> impl DoubleEndedIterator<Item = (AddrRange, &V)> {
        self.inner.overlapping(raw(range)).map(seen)
    }

    /// The pieces of entries that lie in `range`, in order.
    pub(crate) fn within(&self, range: AddrRange) -> impl DoubleEndedIterator<Item = (AddrRange, V)> {
        self.touching(range).filter_map(move |(entry, value)| {
            let piece = entry.intersect(range)?;
            Some((piece, value.cut(piece.start.0 - entry.start.0)))
        })
    }

    /// Whether an entry touches `range`.
    pub(crate) fn overlaps(&self, range: AddrRange) -> bool {
        !self.inner.is_free(raw(range))
    }

    /// The parts of `range` without an entry, in order.
    pub(crate) fn gaps(&self, range: AddrRange) -> Vec<AddrRange> {
        self.inner.gaps(raw(range)).into_iter().map(span).collect()
    }

    /// The largest part of `range` that holds `addr` (which no entry does) and no entry.
    pub(crate) fn gap_around(&self, addr: Addr, range: AddrRange) -> AddrRange {
        let start = self.before(addr).map_or(range.start, |(entry, _)| entry.end.max(range.start));
        let end = self.at_or_after(addr).map_or(range.end, |(entry, _)| entry.start.min(range.end));
        AddrRange { start, end }
    }

    /// Adds `value` for `range`, where nothing is.
    pub(crate) fn insert(&mut self, range: AddrRange, value: V) {
        let inserted = self.inner.insert(raw(range), Entry(value));
        debug_assert!(inserted.is_ok(), "insert over something: {range:?}");
    }

    /// Removes what is in `range`; says which pieces that was.
    pub(crate) fn take(&mut self, range: AddrRange) -> Vec<(AddrRange, V)> {
        self.inner.remove(raw(range)).into_iter().map(owned).collect()
    }

    /// Changes the values in `range`, piece by piece.
    pub(crate) fn update(&mut self, range: AddrRange, mut change: impl FnMut(AddrRange, &mut V)) {
        self.inner.update(raw(range), |piece, entry| change(span(piece), &mut entry.0));
    }

    /// Removes everything.
    pub(crate) fn take_all(&mut self) -> Vec<(AddrRange, V)> {
        std::mem::take(&mut self.inner).into_iter().map(owned).collect()
    }
}
