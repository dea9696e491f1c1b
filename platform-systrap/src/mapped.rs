//! Which guest addresses of a stub are mapped.
//!
//! mprotect(2) stops with ENOMEM at the first hole, and in a stub any error is fatal; the contract allows holes. So the
//! kernel side keeps the set of mapped ranges and asks for each piece by itself.

use std::collections::BTreeMap;

use usermem::{Addr, AddrRange};

/// Disjoint ranges that do not touch: start to end.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    ranges: BTreeMap<u64, u64>,
}

impl Mapped {
    /// Adds a range.
    pub(crate) fn insert(&mut self, range: AddrRange) {
        let (mut start, mut end) = (range.start.0, range.end.0);
        // Whatever overlaps or touches becomes part of it.
        while let Some((&other_start, &other_end)) = self.ranges.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.ranges.remove(&other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.ranges.insert(start, end);
    }

    /// Removes a range.
    pub(crate) fn remove(&mut self, range: AddrRange) {
        let (start, end) = (range.start.0, range.end.0);
        while let Some((&other_start, &other_end)) = self.ranges.range(..end).next_back() {
            if other_end <= start {
                break;
            }
            self.ranges.remove(&other_start);
            if other_start < start {
                self.ranges.insert(other_start, start);
            }
            if end < other_end {
                self.ranges.insert(end, other_end);
            }
        }
    }

    /// Mapped bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// The mapped pieces of a range, in no particular order.
    pub(crate) fn pieces(&self, range: AddrRange) -> impl Iterator<Item = AddrRange> + '_ {
        self.ranges
            .range(..range.end.0)
            .rev()
            .take_while(move |(_, end)| **end > range.start.0)
            .filter_map(move |(start, end)| AddrRange { start: Addr(*start), end: Addr(*end) }.intersect(range))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, proptest};
    use usermem::{Addr, AddrRange};

    use super::Mapped;

    const SPACE: u64 = 64;

    fn operations() -> impl Strategy<Value = Vec<(bool, u64, u64)>> {
        proptest::collection::vec((any::<bool>(), 0..SPACE, 1..16_u64), 1..40)
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_pages(operations in operations()) {
            let mut mapped = Mapped::default();
            let mut model = [false; SPACE as usize + 16];
            for (insert, start, len) in operations {
                let range = AddrRange { start: Addr(start), end: Addr(start + len) };
                if insert { mapped.insert(range) } else { mapped.remove(range) }
                model[start as usize..(start + len) as usize].fill(insert);
                assert_eq!(mapped.bytes(), model.iter().filter(|page| **page).count() as u64);
                for from in [0, start, start + len / 2] {
                    let mut seen = [false; SPACE as usize + 16];
                    let all = AddrRange { start: Addr(from), end: Addr(SPACE + 16) };
                    for piece in mapped.pieces(all) {
                        for page in piece.start.0..piece.end.0 {
                            assert!(!seen[page as usize], "pieces overlap");
                            seen[page as usize] = true;
                        }
                    }
                    assert_eq!(seen[from as usize..], model[from as usize..]);
                }
                let edges = model.windows(2).filter(|pair| pair[0] != pair[1]).count() + usize::from(model[0]);
                assert_eq!(mapped.ranges.len(), edges.div_ceil(2), "ranges that touch are one");
            }
        }
    }
}
