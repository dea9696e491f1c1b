//! Random sequences of operations in up to four related processes: each sees exactly what the model says, and in the end
//! nothing is left allocated.

use std::sync::Arc;

use abi::Errno;
use usermem::memmap::Mappable;
use usermem::platform::Prot;
use usermem::ptr::UserMemory;
use usermem::{Addr, PAGE_SIZE};

use super::fake::{BASE, Guest, HostFile, file_request, memory};
use super::model::{Model, ModelPage, Objects, Outcome, Word};
use crate::{Advice, Fault, Grow, LockOptions, MapRequest, RemapOptions, RemapRequest, SharedMemory, Sharing};

/// Pages of the arena; its middle is the border of two windows.
const PAGES: u64 = 96;
const START: u64 = BASE + (2 << 20) - PAGES / 2 * PAGE_SIZE;
const OBJECT_PAGES: u64 = 40;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
    fn prot(&mut self) -> Prot {
        match self.below(6) {
            0 => Prot::empty(),
            1 => Prot::READ,
            2 => Prot::READ | Prot::EXEC,
            _ => Prot::READ | Prot::WRITE,
        }
    }
}

fn addr(page: u64) -> u64 {
    START + page * PAGE_SIZE
}

struct World {
    rng: Rng,
    guests: Vec<(Guest, Model)>,
    objects: Objects,
    mapped: Vec<Arc<dyn Mappable>>,
}

fn outcome(result: Result<u64, Fault>) -> Outcome {
    match result {
        Ok(value) => Outcome::Value(value),
        Err(Fault::NotMapped) => Outcome::NotMapped,
        Err(Fault::NotAllowed) => Outcome::NotAllowed,
        Err(other) => panic!("{other:?}"),
    }
}

impl World {
    fn step(&mut self) {
        let rng = &mut self.rng;
        let which = rng.below(self.guests.len() as u64) as usize;
        let count = self.guests.len();
        let (guest, model) = &mut self.guests[which];
        let page = rng.below(PAGES);
        let pages = 1 + rng.below(12).min(PAGES - page - 1);
        let at = addr(page);
        let len = pages * PAGE_SIZE;
        match rng.below(32) {
            0..=2 => {
                let prot = rng.prot();
                guest.map_anonymous(at, pages, prot).unwrap();
                let fresh = Word::Own(0);
                for page in page..page + pages {
                    model.pages.insert(page, ModelPage { prot, word: fresh.clone(), fresh: fresh.clone() });
                }
            }
            3..=5 => {
                // Each object is mapped shared or privately, never both: whether a change of a file shows in a private
                // mapping of it is unspecified, mmap(2).
                let object = rng.below(self.mapped.len() as u64) as usize;
                let first = rng.below(OBJECT_PAGES - pages);
                let prot = rng.prot();
                let sharing = if object < 2 { Sharing::Shared } else { Sharing::Private };
                let source = Arc::clone(&self.mapped[object]);
                guest.mm.map(&file_request(source, at, pages, first * PAGE_SIZE, prot, sharing)).unwrap();
                for i in 0..pages {
                    let fresh = match sharing {
                        Sharing::Shared => Word::Shared { object, page: first + i },
                        Sharing::Private => Word::Unwritten { object, page: first + i },
                    };
                    model.pages.insert(page + i, ModelPage { prot, word: fresh.clone(), fresh });
                }
            }
            6 => {
                guest.mm.unmap(Addr(at), len).unwrap();
                model.pages.retain(|p, _| *p < page || *p >= page + pages);
            }
            7..=9 => {
                let prot = rng.prot();
                let result = guest.mm.protect(Addr(at), len, prot, Grow::No);
                let mapped = (page..page + pages).take_while(|p| model.pages.contains_key(p)).count() as u64;
                assert_eq!(result, if mapped == pages { Ok(()) } else { Err(Errno::ENOMEM) });
                for page in page..page + mapped {
                    model.pages.get_mut(&page).unwrap().prot = prot;
                }
            }
            10 | 11 => {
                let hole = (page..page + pages).any(|p| !model.pages.contains_key(&p));
                let advice = if rng.below(2) == 0 { Advice::DontNeed } else { Advice::DontNeedLocked };
                let result = guest.mm.advise(Addr(at), len, advice);
                assert_eq!(result, if hole { Err(Errno::ENOMEM) } else { Ok(()) });
                for page in page..page + pages {
                    if let Some(found) = model.pages.get_mut(&page) {
                        found.word = found.fresh.clone();
                    }
                }
            }
            12 | 13 => self.remap(which),
            14 if count < 4 => {
                let child = (guest.fork(), model.clone());
                self.guests.push(child);
            }
            15 if count > 1 && rng.below(2) == 0 => {
                self.guests.swap_remove(which);
            }
            16 => {
                let result = guest.mm.lock_range(Addr(at), len, LockOptions::MAY_LOCK);
                let ok = (page..page + pages).all(|p| model.pages.contains_key(&p));
                assert_eq!(result.is_ok(), ok);
                let _ = guest.mm.unlock_range(Addr(at), len);
            }
            17..=21 => {
                let value = rng.next();
                let expected = model.store(&mut self.objects, page, value);
                assert_eq!(outcome(guest.store(at, value).map(|()| value)), expected, "store {page}");
            }
            22..=25 => {
                assert_eq!(outcome(guest.load(at)), model.load(&self.objects, page), "load {page}");
            }
            26 | 27 => {
                let value = rng.next();
                let done = guest.mm.write(Addr(at), &value.to_le_bytes());
                match model.store(&mut self.objects, page, value) {
                    Outcome::Value(_) => assert_eq!(done, Ok(())),
                    _ => assert_eq!(done, Err(Errno::EFAULT)),
                }
            }
            28 => {
                // Several pages at once, as far as they go.
                let mut buf = vec![0; (pages * PAGE_SIZE) as usize];
                let done = guest.mm.read_partial(Addr(at), &mut buf).unwrap_or(0) as u64;
                let mut rest = done;
                for i in 0..pages {
                    match model.load(&self.objects, page + i) {
                        Outcome::Value(value) if rest >= PAGE_SIZE => {
                            let from = (i * PAGE_SIZE) as usize;
                            assert_eq!(buf[from..from + 8], value.to_le_bytes(), "page {}", page + i);
                            rest -= PAGE_SIZE;
                        }
                        Outcome::Value(_) => panic!("read {done} bytes, page {} is readable", page + i),
                        _ => break,
                    }
                }
                assert_eq!(rest, 0);
            }
            _ => {
                let expected = model.load(&self.objects, page);
                let mut bytes = [0; 8];
                let done = guest.mm.read(Addr(at), &mut bytes).map(|()| u64::from_le_bytes(bytes));
                match expected {
                    Outcome::Value(value) => assert_eq!(done, Ok(value), "kernel load {page}"),
                    _ => assert_eq!(done, Err(Errno::EFAULT)),
                }
            }
        }
    }

    fn remap(&mut self, which: usize) {
        let rng = &mut self.rng;
        let (guest, model) = &mut self.guests[which];
        let from = rng.below(PAGES);
        let old = 1 + rng.below(8).min(PAGES - from - 1);
        let to = rng.below(PAGES);
        let new = 1 + rng.below(8).min(PAGES - to - 1);
        let keep = rng.below(3) == 0;
        let (new, extra) =
            if keep { (old.min(PAGES - to), RemapOptions::DONT_UNMAP) } else { (new, RemapOptions::empty()) };
        let old = if keep { new } else { old };
        let request = RemapRequest {
            old_addr: Addr(addr(from)),
            old_len: old * PAGE_SIZE,
            new_len: new * PAGE_SIZE,
            new_addr: Addr(addr(to)),
            options: RemapOptions::MAY_MOVE | RemapOptions::FIXED | extra,
        };
        let before: Vec<_> = (from..from + old).map(|p| model.pages.get(&p).cloned()).collect();
        let Ok(at) = guest.mm.remap(&request) else {
            // Whatever it has done to the target on its way: the model follows by looking.
            let vmas = guest.mm.vmas();
            model.pages.retain(|p, _| vmas.iter().any(|vma| vma.range.contains(Addr(addr(*p)))));
            return;
        };
        assert_eq!(at.0, addr(to));
        let first = before[0].clone().expect("was mapped");
        for page in to..to + new {
            let i = page - to;
            let moved = match before.get(i as usize).cloned().flatten() {
                Some(page) => page,
                None => {
                    // Growth continues the mapping.
                    let shift = |word: &Word| match *word {
                        Word::Own(_) => Word::Own(0),
                        Word::Unwritten { object, page } => Word::Unwritten { object, page: page + i },
                        Word::Shared { object, page } => Word::Shared { object, page: page + i },
                    };
                    let fresh = shift(&first.fresh);
                    ModelPage { prot: first.prot, word: fresh.clone(), fresh }
                }
            };
            model.pages.insert(page, moved);
        }
        for page in from..from + old {
            let found = before[(page - from) as usize].clone().expect("was mapped");
            if keep {
                model.pages.insert(page, ModelPage { word: found.fresh.clone(), ..found });
            } else {
                model.pages.remove(&page);
            }
        }
        // Past the object's end there would be SIGBUS: keep out of that.
        let beyond: Vec<u64> = model
            .pages
            .iter()
            .filter(|(_, found)| match found.word {
                Word::Unwritten { page, .. } | Word::Shared { page, .. } => page >= OBJECT_PAGES,
                Word::Own(_) => false,
            } || matches!(found.fresh, Word::Unwritten { page, .. } if page >= OBJECT_PAGES))
            .map(|(page, _)| *page)
            .collect();
        for page in beyond {
            guest.mm.unmap(Addr(addr(page)), PAGE_SIZE).unwrap();
            model.pages.remove(&page);
        }
    }

    fn check_all(&self) {
        for (guest, model) in &self.guests {
            for page in 0..PAGES {
                assert_eq!(outcome(guest.load(addr(page))), model.load(&self.objects, page), "page {page}");
            }
        }
    }
}

fn run(seed: u64, steps: usize) {
    let memory = memory();
    {
        let shared = SharedMemory::new(&memory, OBJECT_PAGES * PAGE_SIZE).unwrap();
        let file = HostFile::new(7, OBJECT_PAGES, 1000);
        let cached = SharedMemory::new(&memory, OBJECT_PAGES * PAGE_SIZE).unwrap();
        for page in 0..OBJECT_PAGES {
            cached.write(page * PAGE_SIZE, &(page + 3000).to_le_bytes()).unwrap();
        }
        let text = HostFile::new(8, OBJECT_PAGES, 2000);
        let mut world = World {
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            guests: vec![(Guest::new(&memory), Model::default())],
            objects: vec![
                vec![0; OBJECT_PAGES as usize],
                (0..OBJECT_PAGES).map(|page| page + 1000).collect(),
                (0..OBJECT_PAGES).map(|page| page + 2000).collect(),
                (0..OBJECT_PAGES).map(|page| page + 3000).collect(),
            ],
            mapped: vec![
                shared,
                Arc::clone(&file) as Arc<dyn Mappable>,
                Arc::clone(&text) as Arc<dyn Mappable>,
                cached,
            ],
        };
        for step in 0..steps {
            world.step();
            if step % 64 == 63 {
                world.check_all();
            }
        }
        world.check_all();
        drop(world);
        assert_eq!((file.observers(), text.observers()), (0, 0));
    }
    assert_eq!(memory.reserved().allocated, 0, "leak");
}

#[test]
fn processes_see_what_they_should() {
    for seed in 1..=60 {
        eprint_seed(seed);
        run(seed, 600);
    }
}

#[allow(clippy::print_stderr, reason = "a failing seed has to be known")]
fn eprint_seed(seed: u64) {
    eprintln!("seed {seed}");
}

#[test]
fn huge_requests_are_refused_or_cheap() {
    let memory = memory();
    let guest = Guest::new(&memory);
    for len in [u64::MAX, u64::MAX - 4095, 1 << 63, 1 << 47, 1 << 46] {
        let _ = guest.mm.map(&MapRequest::anonymous(len, Prot::READ | Prot::WRITE));
        let _ = guest.mm.unmap(Addr(0x1000), len);
        let _ = guest.mm.protect(Addr(BASE), len, Prot::READ, Grow::No);
        let _ = guest.mm.advise(Addr(BASE), len, Advice::DontNeed);
        let _ = guest.mm.lock_range(Addr(BASE), len, LockOptions::empty());
        let request = RemapRequest {
            old_addr: Addr(BASE),
            old_len: len,
            new_len: len,
            new_addr: Addr(len & !4095),
            options: RemapOptions::MAY_MOVE | RemapOptions::FIXED,
        };
        let _ = guest.mm.remap(&request);
        let _ = guest.mm.brk(Addr(len));
        assert_eq!(guest.mm.handle_fault(Addr(len), usermem::platform::Access::Read), Err(Fault::NotMapped));
    }
}
