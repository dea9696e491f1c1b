//! Pages given out together with their memory: the upper half of the offset space.
//!
//! Memory comes from the host in chunks of 2 MiB, one huge page each where the host has them, and is carved into runs of
//! any length. What is given back keeps its memory and its bytes ("used") and is given out again first: no host call, no
//! page fault, and no zeroing where the next owner overwrites all of it. Chunks that nobody uses any part of go back to
//! the host, but for a few.
//!
//! ```text
//!   never used --\
//!   empty --------+--reserve--> (memory: caller) --add--> zero --take--> refs --> pending --give_back--> used --take--> refs
//!     ^---------------------------------(punched by the caller)--------------------------------------------'
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::FileRange;

/// What the host gives and gets back.
pub(super) const CHUNK: u64 = 2 << 20;

/// Chunks without any user that are kept.
const KEPT: u64 = 1;

/// What is in pages that were taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Zeros, whose memory comes page by page as they are touched.
    Holes,
    /// Zeros.
    Zeros,
    /// Bytes of an earlier owner: overwrite all of it, or zero it, before anybody may look.
    Leftovers,
}

/// Disjoint ranges that do not touch, found by place and by length.
#[derive(Default)]
pub(super) struct Parts {
    /// Start to end.
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    bytes: u64,
    /// Whole chunks inside.
    chunks: u64,
}

/// The part of a range that is whole chunks.
fn whole(start: u64, end: u64) -> FileRange {
    let first = start.next_multiple_of(CHUNK);
    FileRange { start: first, end: (end & !(CHUNK - 1)).max(first) }
}

impl Parts {
    fn put(&mut self, start: u64, end: u64) {
        self.by_start.insert(start, end);
        self.by_len.insert((end - start, start));
        self.bytes += end - start;
        self.chunks += whole(start, end).len() / CHUNK;
    }

    fn cut(&mut self, start: u64, end: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(end - start, start));
        self.bytes -= end - start;
        self.chunks -= whole(start, end).len() / CHUNK;
    }

    /// The part that holds `at`.
    fn around(&self, at: u64) -> Option<FileRange> {
        let (&start, &end) = self.by_start.range(..=at).next_back()?;
        (at < end).then_some(FileRange { start, end })
    }

    /// Adds a range, of which nothing is there; returns the part that it has become one with.
    pub(super) fn add(&mut self, range: FileRange) -> FileRange {
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &touching)) = self.by_start.range(..start).next_back()
            && touching == start
        {
            self.cut(before, touching);
            start = before;
        }
        if let Some(&after) = self.by_start.get(&end) {
            self.cut(end, after);
            end = after;
        }
        self.put(start, end);
        FileRange { start, end }
    }

    /// Takes `range` out if all of it is there.
    pub(super) fn take(&mut self, range: FileRange) -> bool {
        let Some(part) = self.around(range.start).filter(|part| range.end <= part.end) else { return false };
        self.cut(part.start, part.end);
        if part.start < range.start {
            self.put(part.start, range.start);
        }
        if range.end < part.end {
            self.put(range.end, part.end);
        }
        true
    }

    /// Takes `len` bytes out of the shortest part that has them.
    fn take_best(&mut self, len: u64) -> Option<FileRange> {
        let &(_, start) = self.by_len.range((len, 0)..).next()?;
        let range = FileRange::of_len(start, len);
        self.take(range).then_some(range)
    }

    /// Takes a whole, aligned chunk out.
    fn take_chunk(&mut self) -> Option<FileRange> {
        if self.chunks == 0 {
            return None;
        }
        // The longest part has one if any has; but for one that only just holds a chunk, which may lie askew.
        let start = self.by_len.iter().rev().find_map(|&(len, start)| {
            let inner = whole(start, start + len);
            (!inner.is_empty()).then_some(inner.start)
        })?;
        let range = FileRange::of_len(start, CHUNK);
        self.take(range).then_some(range)
    }

    fn take_all(&mut self) -> Vec<FileRange> {
        let all = std::mem::take(self);
        all.by_start.into_iter().map(|(start, end)| FileRange { start, end }).collect()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = FileRange> {
        self.by_start.iter().map(|(&start, &end)| FileRange { start, end })
    }
}

/// The free part of the upper half.
pub(super) struct Packed {
    region: FileRange,
    /// Chunks from here on have never been used.
    next: u64,
    /// Chunks without memory.
    empty: Parts,
    /// Reads as zeros.
    zero: Parts,
    /// Holds what earlier owners left.
    used: Parts,
}

impl Packed {
    /// `region` is a multiple of chunks.
    pub(super) fn new(region: FileRange) -> Self {
        let (empty, zero, used) = (Parts::default(), Parts::default(), Parts::default());
        Self { region, next: region.start, empty, zero, used }
    }

    /// Takes `len` bytes, at `after` if they are free there. Of what has been used before.
    pub(super) fn take_used(&mut self, len: u64, after: Option<u64>) -> Option<(FileRange, Content)> {
        if let Some(at) = after {
            let range = FileRange::of_len(at, len);
            if self.used.take(range) {
                return Some((range, Content::Leftovers));
            }
            if self.zero.take(range) {
                return Some((range, Content::Zeros));
            }
        }
        if len == CHUNK {
            return self.used.take_chunk().map(|range| (range, Content::Leftovers));
        }
        self.used.take_best(len).map(|range| (range, Content::Leftovers))
    }

    /// Takes `len` bytes that read as zeros.
    pub(super) fn take_zero(&mut self, len: u64) -> Option<FileRange> {
        if len == CHUNK { self.zero.take_chunk() } else { self.zero.take_best(len) }
    }

    /// Takes a chunk without memory.
    pub(super) fn reserve(&mut self) -> Option<FileRange> {
        if let Some(chunk) = self.empty.take_chunk() {
            return Some(chunk);
        }
        let chunk = FileRange::of_len(self.next, CHUNK);
        if chunk.end > self.region.end {
            return None;
        }
        self.next = chunk.end;
        Some(chunk)
    }

    /// Gives a chunk that reads as zeros.
    pub(super) fn add(&mut self, chunk: FileRange) {
        self.zero.add(chunk);
    }

    /// Gives chunks without memory.
    pub(super) fn add_empty(&mut self, chunks: FileRange) {
        self.empty.add(chunks);
    }

    /// Takes back pages that nobody can see any more; returns the chunks whose memory the caller is to give to the host,
    /// and then to pass to [`Packed::add_empty`].
    pub(super) fn give_back(&mut self, range: FileRange) -> Option<FileRange> {
        let part = self.used.add(range);
        if self.used.chunks <= KEPT {
            return None;
        }
        let mut surplus = whole(part.start, part.end);
        let most = (self.used.chunks - KEPT) * CHUNK;
        surplus.start = surplus.start.max(surplus.end.saturating_sub(most));
        (!surplus.is_empty() && self.used.take(surplus)).then_some(surplus)
    }

    /// Takes all free pages out, for the caller to punch: what is whole chunks then goes to [`Packed::add_empty`], the
    /// rest to [`Packed::add`].
    pub(super) fn take_all(&mut self) -> Vec<FileRange> {
        let mut all = self.used.take_all();
        all.extend(self.zero.take_all());
        all.into_iter()
            .flat_map(|range| {
                let inner = whole(range.start, range.end);
                if inner.is_empty() {
                    return vec![range];
                }
                let ends = [
                    FileRange { start: range.start, end: inner.start },
                    inner,
                    FileRange { start: inner.end, end: range.end },
                ];
                ends.into_iter().filter(|part| !part.is_empty()).collect()
            })
            .collect()
    }

    /// Bytes of free pages with memory.
    pub(super) fn kept(&self) -> u64 {
        self.used.bytes + self.zero.bytes
    }

    /// Ranges that are free; for tests.
    #[cfg(test)]
    pub(super) fn free(&self) -> Vec<FileRange> {
        let rest = FileRange { start: self.next, end: self.region.end };
        let mut all: Vec<_> = self.used.iter().chain(self.zero.iter()).chain(self.empty.iter()).collect();
        all.push(rest);
        all.retain(|range| !range.is_empty());
        all.sort_unstable_by_key(|range| range.start);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, Content, FileRange, Packed};

    const PAGE: u64 = 4096;

    fn packed() -> Packed {
        Packed::new(FileRange { start: 8 * CHUNK, end: 16 * CHUNK })
    }

    #[test]
    fn what_is_given_back_is_taken_first() {
        let mut packed = packed();
        assert_eq!(packed.take_zero(PAGE), None);
        let chunk = packed.reserve().unwrap();
        packed.add(chunk);
        let a = packed.take_zero(4 * PAGE).unwrap();
        let (b, content) = packed.take_used(4 * PAGE, Some(a.end)).unwrap();
        assert_eq!((b.start, content), (a.end, Content::Zeros));
        assert_eq!(packed.give_back(a), None);
        assert_eq!(packed.take_used(2 * PAGE, None), Some((a.part(0, 2 * PAGE), Content::Leftovers)));
        assert_eq!(packed.take_used(4 * PAGE, None), None);
    }

    #[test]
    fn chunks_without_users_go_back() {
        let mut packed = packed();
        let chunks: Vec<_> = (0..4).map(|_| packed.reserve().unwrap()).collect();
        assert_eq!(packed.give_back(chunks[1].part(0, PAGE)), None);
        assert_eq!(packed.give_back(chunks[1].part(PAGE, CHUNK)), None, "one is kept");
        assert_eq!(packed.give_back(chunks[2]), Some(chunks[2]));
        packed.add_empty(chunks[2]);
        assert_eq!(packed.reserve(), Some(chunks[2]));
        assert_eq!(packed.take_used(CHUNK, None), Some((chunks[1], Content::Leftovers)));
        assert_eq!(packed.take_used(CHUNK, None), None);
    }

    #[test]
    fn chunks_are_aligned_and_end() {
        let mut packed = packed();
        let chunks: Vec<_> = (0..8).map(|_| packed.reserve().unwrap()).collect();
        assert_eq!(packed.reserve(), None);
        // A chunk's length that lies askew is no chunk.
        assert_eq!(packed.give_back(FileRange::of_len(chunks[0].start + PAGE, CHUNK)), None);
        assert_eq!(packed.take_used(CHUNK, None), None);
        let all = packed.take_all();
        assert_eq!(all, [FileRange::of_len(chunks[0].start + PAGE, CHUNK)]);
        assert_eq!(packed.kept(), 0);
    }
}
