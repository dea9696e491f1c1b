//! Several threads of one process and forks among them: no write is lost, nothing deadlocks.

use std::sync::atomic::{AtomicBool, Ordering};

use usermem::platform::Prot;
use usermem::ptr::UserMemory;
use usermem::{Addr, PAGE_SIZE};

use super::fake::{BASE, Guest, memory};
use crate::{Advice, Company};

const PAGES: u64 = 24;

#[test]
fn writes_survive_forks() {
    let memory = memory();
    {
        let guest = Guest::new(&memory);
        guest.map_anonymous(BASE, PAGES + 4, Prot::READ | Prot::WRITE).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (guest, done) = (&guest, &done);
            // Each thread has a word of its own in each page.
            for thread in 0..4u64 {
                scope.spawn(move || {
                    let mut round = 0u64;
                    while !done.load(Ordering::Relaxed) {
                        round += 1;
                        for page in 0..PAGES {
                            let at = BASE + page * PAGE_SIZE + thread * 8;
                            let value = round * 100 + page;
                            if thread % 2 == 0 {
                                guest.store(at, value).unwrap();
                            } else {
                                guest.mm.write(Addr(at), &value.to_le_bytes()).unwrap();
                            }
                            let mut bytes = [0; 8];
                            guest.mm.read(Addr(at), &mut bytes).unwrap();
                            assert_eq!(u64::from_le_bytes(bytes), value, "thread {thread} page {page}");
                            assert_eq!(guest.load(at), Ok(value), "thread {thread} page {page}");
                        }
                    }
                });
            }
            // And one that keeps unmapping pages next to them.
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let at = BASE + PAGES * PAGE_SIZE;
                    guest.store(at, 1).unwrap();
                    guest.mm.advise(Addr(at), 4 * PAGE_SIZE, Advice::DontNeed).unwrap();
                    assert_eq!(guest.load(at), Ok(0));
                }
            });
            let mut children = Vec::new();
            for round in 0..300 {
                let child = guest.fork();
                for page in 0..PAGES {
                    let at = BASE + page * PAGE_SIZE + 64;
                    child.store(at, 7).unwrap();
                    for thread in 0..4 {
                        let at = BASE + page * PAGE_SIZE + thread * 8;
                        let value = child.load(at).unwrap();
                        assert!(value == 0 || value % 100 == page);
                        assert_eq!(child.load(at), Ok(value), "nobody else writes here");
                    }
                }
                children.push(child);
                if round % 3 == 0 {
                    children.clear();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
    memory.reclaim();
    assert_eq!(memory.reserved().allocated, 0);
}

#[test]
fn a_child_sees_no_write_without_those_before_it() {
    /// Runs of one page each: what a fork would copy.
    const RUNS: u64 = 80;
    let memory = memory();
    {
        let guest = Guest::new(&memory);
        let at = [0, RUNS / 2, RUNS - 1].map(|run| BASE + run * 2 * PAGE_SIZE);
        for run in 0..RUNS {
            let at = BASE + run * 2 * PAGE_SIZE;
            guest.map_anonymous(at, 1, Prot::READ | Prot::WRITE).unwrap();
            guest.store(at, 0).unwrap();
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (guest, done) = (&guest, &done);
            scope.spawn(move || {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) {
                    round += 1;
                    // First up, then down: each order of the fork's meets one that it could tear.
                    let order = if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] };
                    for run in order {
                        guest.store(at[run], round).unwrap();
                    }
                }
            });
            let torn = (0..1000).find_map(|_| {
                let child = guest.fork_in(Company::Shared);
                let seen = at.map(|at| child.load(at).unwrap());
                let newest = seen.iter().copied().max().unwrap();
                let mut order = seen;
                if newest % 2 == 1 {
                    order.reverse();
                }
                let is_whole = order.is_sorted_by(|earlier, later| earlier >= later);
                (!is_whole || seen.iter().any(|&value| value + 1 < newest)).then_some(seen)
            });
            done.store(true, Ordering::Relaxed);
            assert_eq!(torn, None);
        });
    }
}
