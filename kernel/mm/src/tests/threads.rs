//! Several threads of one process and forks among them: no write is lost, nothing deadlocks.

use std::sync::atomic::{AtomicBool, Ordering};

use usermem::platform::Prot;
use usermem::ptr::UserMemory;
use usermem::{Addr, PAGE_SIZE};

use super::fake::{BASE, Guest, memory};
use crate::Advice;

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
