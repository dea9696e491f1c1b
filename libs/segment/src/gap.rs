//! Looking for room between segments.

use std::ops::Range;

use crate::SegmentMap;

/// From which end a search starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// The lowest place that fits.
    BottomUp,
    /// The highest place that fits.
    TopDown,
}

impl<V> SegmentMap<V> {
    /// The start of a free range of `len` units inside `within`, at a multiple of `align` (a power of two): the first that
    /// fits from the side that `placement` names. `None` when nothing fits or `len` is 0.
    pub fn find_gap(&self, len: u64, within: Range<u64>, align: u64, placement: Placement) -> Option<u64> {
        if len == 0 || within.is_empty() || !align.is_power_of_two() {
            return None;
        }
        match placement {
            Placement::BottomUp => self.find_up(len, within, align),
            Placement::TopDown => self.find_down(len, within, align),
        }
    }

    fn find_up(&self, len: u64, within: Range<u64>, align: u64) -> Option<u64> {
        let mut at = within.start;
        for (r, _) in self.overlapping(within.clone()) {
            if let Some(found) = fit_low(at..r.start.max(at), len, align) {
                return Some(found);
            }
            at = r.end;
        }
        fit_low(at..within.end.max(at), len, align)
    }

    fn find_down(&self, len: u64, within: Range<u64>, align: u64) -> Option<u64> {
        let mut end = within.end;
        for (r, _) in self.overlapping(within.clone()).rev() {
            if let Some(found) = fit_high(r.end.min(end)..end, len, align) {
                return Some(found);
            }
            end = r.start;
        }
        fit_high(within.start.min(end)..end, len, align)
    }
}

/// The lowest aligned place for `len` in `gap`.
fn fit_low(gap: Range<u64>, len: u64, align: u64) -> Option<u64> {
    let start = gap.start.checked_next_multiple_of(align)?;
    (start.checked_add(len)? <= gap.end).then_some(start)
}

/// The highest aligned place for `len` in `gap`.
fn fit_high(gap: Range<u64>, len: u64, align: u64) -> Option<u64> {
    let start = gap.end.checked_sub(len)? & !(align - 1);
    (start >= gap.start).then_some(start)
}
