//! Property tests against an array with one cell per unit.

use std::ops::Range;

use proptest::prelude::{Strategy, any, prop_oneof, proptest};

use crate::{Placement, Segment, SegmentMap};

const UNITS: u64 = 64;

/// A value whose cells are `base + offset`: splitting and merging wrongly shows in the cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ramp {
    base: u64,
    /// Different kinds never merge.
    kind: u8,
}

impl Segment for Ramp {
    fn split(self, at: u64) -> (Self, Self) {
        (self, Self { base: self.base + at, ..self })
    }
    fn try_merge(&self, len: u64, next: &Self) -> Option<Self> {
        (self.kind == next.kind && self.base + len == next.base).then_some(*self)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Range<u64>, Ramp),
    InsertApart(Range<u64>, Ramp),
    Replace(Range<u64>, Ramp),
    Remove(Range<u64>),
    Isolate(Range<u64>),
    SetKind(Range<u64>, u8),
    Merge(Range<u64>),
}

fn ranges() -> impl Strategy<Value = Range<u64>> {
    (0..UNITS, 0..16u64).prop_map(|(start, len)| start..(start + len).min(UNITS))
}

fn ramps() -> impl Strategy<Value = Ramp> {
    // Often the base that lets neighbours merge.
    (prop_oneof![0..4u64, 100..120u64], 0..2u8).prop_map(|(base, kind)| Ramp { base: base * 16, kind })
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        (ranges(), ramps()).prop_map(|(r, v)| Op::Insert(r, v)),
        (ranges(), 0..2u8).prop_map(|(r, kind)| {
            let base = r.start;
            Op::Insert(r, Ramp { base, kind })
        }),
        (ranges(), 0..2u8).prop_map(|(r, kind)| {
            let base = r.start;
            Op::InsertApart(r, Ramp { base, kind })
        }),
        (ranges(), ramps()).prop_map(|(r, v)| Op::Replace(r, v)),
        ranges().prop_map(Op::Remove),
        ranges().prop_map(Op::Isolate),
        (ranges(), 0..2u8).prop_map(|(r, k)| Op::SetKind(r, k)),
        ranges().prop_map(Op::Merge),
    ]
}

type Cells = [Option<(u64, u8)>; UNITS as usize];

fn cells_of(map: &SegmentMap<Ramp>) -> Cells {
    let mut cells = [None; UNITS as usize];
    for (r, v) in map.iter() {
        for at in r.clone() {
            assert_eq!(cells[at as usize], None, "overlap at {at}");
            cells[at as usize] = Some((v.base + (at - r.start), v.kind));
        }
    }
    cells
}

fn fill(cells: &mut Cells, r: Range<u64>, v: Ramp) {
    for at in r.clone() {
        cells[at as usize] = Some((v.base + (at - r.start), v.kind));
    }
}

fn any_set(cells: &Cells, r: Range<u64>) -> bool {
    r.into_iter().any(|at| cells[at as usize].is_some())
}

fn apply(map: &mut SegmentMap<Ramp>, cells: &mut Cells, op: Op) {
    match op {
        Op::Insert(r, v) => {
            let fits = !r.is_empty() && !any_set(cells, r.clone());
            assert_eq!(map.insert(r.clone(), v).is_ok(), fits);
            if fits {
                fill(cells, r, v);
            }
        }
        Op::InsertApart(r, v) => {
            let fits = !r.is_empty() && !any_set(cells, r.clone());
            assert_eq!(map.insert_apart(r.clone(), v).is_ok(), fits);
            if fits {
                fill(cells, r, v);
            }
        }
        Op::Replace(r, v) => {
            if !r.is_empty() {
                map.replace(r.clone(), v);
                fill(cells, r, v);
            }
        }
        Op::Remove(r) => {
            let removed = map.remove(r.clone());
            let mut seen: Cells = [None; UNITS as usize];
            for (s, v) in removed {
                assert!(s.start >= r.start && s.end <= r.end);
                fill(&mut seen, s, v);
            }
            for at in r {
                assert_eq!(seen[at as usize], cells[at as usize].take());
            }
        }
        Op::Isolate(r) => {
            map.isolate(r.clone());
            if !r.is_empty() {
                for (s, _) in map.iter() {
                    let cuts = |at: u64| s.start < at && at < s.end;
                    assert!(!cuts(r.start));
                    assert!(!cuts(r.end));
                }
            }
        }
        Op::SetKind(r, kind) => {
            map.update(r.clone(), |_, v| v.kind = kind);
            for at in r {
                if let Some(cell) = &mut cells[at as usize] {
                    cell.1 = kind;
                }
            }
        }
        Op::Merge(r) => {
            map.merge_range(r.clone());
            let inside: Vec<_> = map.iter().filter(|(s, _)| s.end >= r.start && s.start <= r.end).collect();
            for pair in inside.windows(2) {
                let ((a, v), (b, w)) = (&pair[0], &pair[1]);
                let touches = b.start >= r.start && b.start <= r.end;
                assert!(!touches || a.end != b.start || v.try_merge(a.end - a.start, w).is_none());
            }
        }
    }
}

fn check_queries(map: &SegmentMap<Ramp>, cells: &Cells, r: Range<u64>, len: u64, align: u64) {
    for at in 0..UNITS {
        let got = map.get(at).map(|(s, v)| (v.base + (at - s.start), v.kind));
        assert_eq!(got, cells[at as usize]);
        let next = (at..UNITS).find(|&a| cells[a as usize].is_some());
        assert_eq!(map.at_or_after(at).map(|(s, _)| s.start.max(at)), next);
    }
    assert_eq!(map.is_free(r.clone()), !any_set(cells, r.clone()));
    assert_eq!(map.is_covered(r.clone()), r.clone().all(|at| cells[at as usize].is_some()));
    assert_eq!(map.covered(r.clone()), r.clone().filter(|&at| cells[at as usize].is_some()).count() as u64);
    let free: Vec<u64> = map.gaps(r.clone()).into_iter().flatten().collect();
    let expect: Vec<u64> = r.clone().filter(|&at| cells[at as usize].is_none()).collect();
    assert_eq!(free, expect);
    let fits = |s: &u64| s.is_multiple_of(align) && s + len <= r.end && !any_set(cells, *s..*s + len);
    let (low, high) = if len == 0 { (None, None) } else { (r.clone().find(fits), r.clone().rev().find(fits)) };
    assert_eq!(map.find_gap(len, r.clone(), align, Placement::BottomUp), low);
    assert_eq!(map.find_gap(len, r, align, Placement::TopDown), high);
}

proptest! {
    #[test]
    fn behaves_as_an_array(
        ops in proptest::collection::vec(ops(), 0..40),
        query in ranges(),
        len in 0..9u64,
        align in 0..4u32,
        _seed in any::<u8>(),
    ) {
        let mut map = SegmentMap::new();
        let mut cells: Cells = [None; UNITS as usize];
        for op in ops {
            apply(&mut map, &mut cells, op);
            assert_eq!(cells_of(&map), cells);
        }
        check_queries(&map, &cells, query, len, 1 << align);
    }
}

#[test]
fn the_end_of_the_number_line() {
    let mut map: SegmentMap<()> = SegmentMap::new();
    map.insert(u64::MAX - 4..u64::MAX, ()).unwrap();
    assert_eq!(map.find_gap(8, u64::MAX - 8..u64::MAX, 1, Placement::BottomUp), None);
    assert_eq!(map.find_gap(u64::MAX, 0..u64::MAX, 1 << 63, Placement::TopDown), None);
    assert_eq!(map.remove(0..u64::MAX).len(), 1);
    assert!(map.is_empty());
}
