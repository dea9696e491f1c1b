use std::sync::{Arc, Mutex, MutexGuard};

use abi::Errno;
use proptest::prelude::{Strategy, prop_oneof, proptest};

use super::{Content, FileRange, MemoryFile, Place};
use crate::safecopy::{install, read_slices, write_slices};

const PAGE: u64 = 4096;

/// Pins are the process's: tests that expect reuse run one by one.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn memory() -> Arc<MemoryFile> {
    install();
    MemoryFile::on_memfd(64 << 20).unwrap()
}

fn put(mem: &MemoryFile, range: FileRange, byte: u8) {
    let data = vec![byte; range.len() as usize];
    assert_eq!(write_slices(&[mem.slice(range).unwrap()], &data), Ok(data.len()));
}

fn first_byte(mem: &MemoryFile, range: FileRange) -> u8 {
    let mut byte = [0];
    assert_eq!(read_slices(&[mem.slice(range).unwrap()], &mut byte), Ok(1));
    byte[0]
}

#[test]
fn allocate_write_free_reuse() {
    let _alone = alone();
    let mem = memory();
    let a = mem.allocate(100, Place::Anywhere).unwrap();
    assert_eq!(a.len(), PAGE);
    put(&mem, a, 7);
    assert_eq!(mem.refs(a), Some((1, PAGE)));
    assert_eq!(mem.usage(), PAGE);
    mem.dec_ref(a).unwrap();
    assert_eq!(mem.refs(a), None);
    assert_eq!(mem.reserved().pending, PAGE);
    mem.reclaim();
    assert_eq!(mem.reserved().pending, 0);
    let b = mem.allocate(PAGE, Place::Anywhere).unwrap();
    assert_eq!(a, b, "a kept page is used first");
    assert_eq!(first_byte(&mem, b), 0, "and reads as zeros");
    mem.dec_ref(b).unwrap();
    mem.trim();
    assert_eq!(mem.usage(), 0);
    mem.space.lock().check();
}

/// A reader translates, the page is unmapped and freed, somebody else allocates: the reader's slice must not show the new
/// owner's data.
#[test]
fn a_stale_translation_never_shows_anothers_page() {
    let _alone = alone();
    let mem = memory();
    let mine = mem.allocate(PAGE, Place::Anywhere).unwrap();
    put(&mem, mine, 1);
    let pin = mem.pin();
    let translated = mem.slice(mine).unwrap();
    let other = Arc::clone(&mem);
    std::thread::spawn(move || {
        // Another thread of the process unmaps (confirmed), and another process allocates all it can.
        other.dec_ref(mine).unwrap();
        other.reclaim();
        for _ in 0..100 {
            let theirs = other.allocate(PAGE, Place::At(mine.start)).unwrap();
            assert_ne!(theirs, mine);
            put(&other, theirs, 2);
        }
        other.trim();
    })
    .join()
    .unwrap();
    let mut byte = [0];
    assert_eq!(read_slices(&[translated], &mut byte), Ok(1));
    assert_eq!(byte, [1], "not zeroed, not another's");
    drop(pin);
    mem.reclaim();
    let again = mem.allocate(PAGE, Place::At(mine.start)).unwrap();
    assert_eq!(again, mine);
    assert_eq!(first_byte(&mem, again), 0);
}

/// The same of pages that are given out with what is in them.
#[test]
fn a_taken_page_waits_for_pins_too() {
    let _alone = alone();
    let mem = memory();
    let (mine, content) = mem.take(PAGE, None).unwrap();
    assert_ne!(content, Content::Leftovers);
    put(&mem, mine, 1);
    let pin = mem.pin();
    mem.dec_ref(mine).unwrap();
    for _ in 0..100 {
        let (theirs, content) = mem.take(PAGE, None).unwrap();
        assert_ne!((theirs, content), (mine, Content::Leftovers));
        put(&mem, theirs, 2);
    }
    assert_eq!(first_byte(&mem, mine), 1);
    drop(pin);
    assert_eq!(mem.take(PAGE, None), Ok((mine, Content::Leftovers)));
    assert_eq!(first_byte(&mem, mine), 1, "as it was");
    mem.zero(mine).unwrap();
    assert_eq!(first_byte(&mem, mine), 0);
    mem.space.lock().check();
}

#[test]
fn taken_memory_goes_back_to_the_host() {
    let _alone = alone();
    let mem = memory();
    let chunks: Vec<_> = (0..16).map(|_| mem.take(2 << 20, None).unwrap().0).collect();
    for chunk in &chunks {
        assert!(chunk.start.is_multiple_of(2 << 20));
        put(&mem, *chunk, 1);
    }
    assert_eq!(mem.usage(), 32 << 20);
    for chunk in chunks {
        mem.dec_ref(chunk).unwrap();
    }
    mem.reclaim();
    assert!(mem.usage() <= 2 << 20, "{}", mem.usage());
    mem.trim();
    assert_eq!(mem.usage(), 0);
    assert_eq!(mem.take(0, None), Err(Errno::EINVAL));
    assert_eq!(mem.take((2 << 20) + 1, None), Err(Errno::EINVAL));
    mem.space.lock().check();
}

#[test]
fn takes_end_at_the_limit() {
    let _alone = alone();
    let mem = memory();
    let mut taken = Vec::new();
    let error = loop {
        match mem.take(1 << 20, taken.last().map(|range: &FileRange| range.end)) {
            Ok((range, _)) => {
                put(&mem, range, 1);
                taken.push(range);
            }
            Err(error) => break error,
        }
    };
    assert_eq!((error, mem.usage()), (Errno::ENOMEM, mem.limit()));
    mem.dec_ref(taken[3]).unwrap();
    assert!(mem.take(1 << 20, None).is_ok());
}

#[test]
fn places() {
    let mem = memory();
    let big = mem.allocate(3 << 20, Place::Aligned(2 << 20)).unwrap();
    assert!(big.start.is_multiple_of(2 << 20));
    let small = mem.allocate(PAGE, Place::Anywhere).unwrap();
    let next = mem.allocate(PAGE, Place::At(small.end)).unwrap();
    assert_eq!(next.start, small.end);
    let taken = mem.allocate(PAGE, Place::At(small.start)).unwrap();
    assert_ne!(taken.start, small.start);
    assert_eq!(mem.allocate(0, Place::Anywhere), Err(Errno::EINVAL));
    assert_eq!(mem.allocate(u64::MAX, Place::Anywhere), Err(Errno::EINVAL));
    assert_eq!(mem.allocate(PAGE, Place::Aligned(3)), Err(Errno::EINVAL));
    assert_eq!(mem.allocate(mem.space_len(), Place::Anywhere), Err(Errno::ENOMEM));
    assert_eq!(mem.allocate(PAGE, Place::At(u64::MAX)).map(FileRange::len), Ok(PAGE));
    assert!(mem.slice(FileRange::of_len(mem.space_len(), 1)).is_err());
}

#[test]
fn sharing_is_by_page() {
    let mem = memory();
    let r = mem.allocate(4 * PAGE, Place::Anywhere).unwrap();
    mem.inc_ref(r.part(PAGE, PAGE)).unwrap();
    assert!(mem.shared(r));
    assert!(!mem.shared(r.part(2 * PAGE, 2 * PAGE)));
    assert_eq!(mem.refs(r), Some((1, PAGE)));
    assert_eq!(mem.refs(r.part(PAGE, 3 * PAGE)), Some((2, PAGE)));
    mem.dec_ref(r).unwrap();
    assert_eq!(mem.refs(r), None);
    assert_eq!(mem.refs(r.part(PAGE, PAGE)), Some((1, PAGE)));
    assert_eq!(mem.dec_ref(r), Err(Errno::EINVAL), "partly free");
    assert_eq!(mem.inc_ref(r.part(0, PAGE)), Err(Errno::EINVAL));
    assert_eq!(mem.inc_ref(FileRange { start: r.start + 1, end: r.end }), Err(Errno::EINVAL));
    mem.dec_ref(r.part(PAGE, PAGE)).unwrap();
    mem.space.lock().check();
}

#[test]
fn data_is_found_punched_and_counted() {
    let mem = memory();
    let r = mem.allocate(64 << 20, Place::Anywhere).unwrap();
    assert_eq!(mem.next_data(r), Ok(None));
    put(&mem, r.part(5 * PAGE, 2 * PAGE), 1);
    assert_eq!(mem.next_data(r), Ok(Some(r.part(5 * PAGE, 2 * PAGE))));
    assert!(!mem.would_exceed(mem.limit() - 2 * PAGE));
    assert!(mem.would_exceed(mem.limit() - PAGE));
    mem.punch(r.part(5 * PAGE, PAGE)).unwrap();
    assert_eq!(mem.next_data(r), Ok(Some(r.part(6 * PAGE, PAGE))));
    assert_eq!(first_byte(&mem, r.part(5 * PAGE, PAGE)), 0);
}

#[test]
fn frees_pile_up_only_so_far() {
    let _alone = alone();
    let mem = memory();
    for _ in 0..2000 {
        let r = mem.allocate(4 * PAGE, Place::Anywhere).unwrap();
        put(&mem, r, 3);
        mem.dec_ref(r).unwrap();
    }
    assert!(mem.reserved().pending < 8 << 20);
    assert!(mem.usage() < 32 << 20);
    mem.space.lock().check();
}

#[derive(Clone, Debug)]
enum Op {
    Allocate { pages: u64 },
    Take { pages: u64, after: usize },
    IncRef { which: usize, at: u64, pages: u64 },
    DecRef { which: usize, at: u64, pages: u64 },
    Reclaim,
    Trim,
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        (1..9u64).prop_map(|pages| Op::Allocate { pages }),
        (1..40u64, 0..64usize).prop_map(|(pages, after)| Op::Take { pages, after }),
        (0..64usize, 0..8u64, 1..8u64).prop_map(|(which, at, pages)| Op::IncRef { which, at, pages }),
        (0..64usize, 0..8u64, 1..8u64).prop_map(|(which, at, pages)| Op::DecRef { which, at, pages }),
        (0..64usize, 0..8u64, 1..8u64).prop_map(|(which, at, pages)| Op::DecRef { which, at, pages }),
        proptest::strategy::Just(Op::Reclaim),
        proptest::strategy::Just(Op::Trim),
    ]
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    /// Against a model with a count per page: what is referenced keeps its bytes, what is allocated reads as zeros.
    #[test]
    fn counts_match_a_model(ops in proptest::collection::vec(ops(), 1..60)) {
        let mem = memory();
        let mut ranges: Vec<FileRange> = Vec::new();
        let mut counts = std::collections::BTreeMap::<u64, u32>::new();
        for op in ops {
            match op {
                Op::Allocate { .. } | Op::Take { .. } => {
                    let r = match op {
                        Op::Take { pages, after } => {
                            let after = ranges.get(after % ranges.len().max(1)).map(|r: &FileRange| r.end);
                            let (r, content) = mem.take(pages * PAGE, after).unwrap();
                            if content == Content::Leftovers {
                                mem.zero(r).unwrap();
                            }
                            r
                        }
                        Op::Allocate { pages } => mem.allocate(pages * PAGE, Place::Anywhere).unwrap(),
                        _ => continue,
                    };
                    for page in (r.start..r.end).step_by(PAGE as usize) {
                        assert_eq!(counts.insert(page, 1), None, "given out twice");
                        let one = FileRange::of_len(page, PAGE);
                        assert_eq!(first_byte(&mem, one), 0);
                        put(&mem, one, 1 + (page / PAGE % 250) as u8);
                    }
                    ranges.push(r);
                }
                Op::IncRef { which, at, pages } | Op::DecRef { which, at, pages } => {
                    let Some(r) = ranges.get(which % ranges.len().max(1)) else { continue };
                    let part = r.part(at * PAGE, pages * PAGE);
                    let all: Vec<u64> = (part.start..part.end).step_by(PAGE as usize).collect();
                    let allocated = all.iter().all(|p| counts.contains_key(p));
                    let more = matches!(op, Op::IncRef { .. });
                    let result = if more { mem.inc_ref(part) } else { mem.dec_ref(part) };
                    assert_eq!(result.is_ok(), allocated);
                    if allocated {
                        for page in all {
                            let count = counts.get_mut(&page).unwrap();
                            if more { *count += 1 } else { *count -= 1 }
                            if *count == 0 {
                                counts.remove(&page);
                            }
                        }
                    }
                }
                Op::Reclaim => mem.reclaim(),
                Op::Trim => mem.trim(),
            }
            mem.space.lock().check();
            for (&page, &count) in &counts {
                let one = FileRange::of_len(page, PAGE);
                assert_eq!(mem.refs(one), Some((count, PAGE)));
                assert_eq!(first_byte(&mem, one), 1 + (page / PAGE % 250) as u8);
            }
        }
    }
}
