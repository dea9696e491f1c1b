//! Random operations on memory in a process and its children, against a table of what each page must hold: mmap(2),
//! munmap(2), mprotect(2), madvise(2), mremap(2), fork(2), and accesses of the program and of the kernel.

use casemate_guest_tests::{fork_status, pipe, sys};

const PAGE: usize = 4096;
/// Pages of the arena; its middle is the border of two page tables.
const PAGES: usize = 640;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// What a page is: its protection, and the word at its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    prot: i32,
    word: u64,
}

struct World {
    rng: Rng,
    start: usize,
    pages: Vec<Option<Page>>,
    pipe: (i32, i32),
    depth: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let room = sys!(mmap, 0, 8 << 20, libc::PROT_NONE, flags, -1_i64, 0).unwrap() as usize;
        let start = room.next_multiple_of(2 << 20) + (2 << 20) - PAGES / 2 * PAGE;
        assert_eq!(sys!(munmap, room, 8 << 20), Ok(0));
        Self { rng: Rng(seed), start, pages: vec![None; PAGES], pipe: pipe(libc::O_NONBLOCK), depth: 0 }
    }

    fn at(&self, page: usize) -> usize {
        self.start + page * PAGE
    }

    fn map(&mut self, page: usize, count: usize, prot: i32) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let at = self.at(page);
        assert_eq!(sys!(mmap, at, count * PAGE, prot, flags, -1_i64, 0), Ok(at as i64));
        self.pages[page..page + count].fill(Some(Page { prot, word: 0 }));
    }

    /// One operation; whether all is as it should be.
    fn step(&mut self) -> bool {
        // Few pages mostly, now and then many.
        let most = if self.rng.below(8) == 0 { PAGES } else { 24 };
        let page = self.rng.below(PAGES);
        let count = 1 + self.rng.below(most.min(PAGES - page));
        let at = self.at(page);
        let hole = self.pages[page..page + count].contains(&None);
        let result = |failed: bool| if failed { Err(libc::ENOMEM) } else { Ok(0) };
        match self.rng.below(24) {
            0..=2 => self.map(page, count, RW),
            3 => self.map(page, count, libc::PROT_READ),
            4 => {
                if sys!(munmap, at, count * PAGE) != Ok(0) {
                    return false;
                }
                self.pages[page..page + count].fill(None);
            }
            5 | 6 => {
                let prot = [0, libc::PROT_READ, RW, RW][self.rng.below(4)];
                if sys!(mprotect, at, count * PAGE, prot) != result(hole) {
                    return false;
                }
                for found in self.pages[page..page + count].iter_mut().map_while(Option::as_mut) {
                    found.prot = prot;
                }
            }
            7 => {
                if sys!(madvise, at, count * PAGE, libc::MADV_DONTNEED) != result(hole) {
                    return false;
                }
                for found in self.pages[page..page + count].iter_mut().flatten() {
                    found.word = 0;
                }
            }
            8 if !hole => {
                // To another place, which must not overlap.
                let to = self.rng.below(PAGES - count + 1);
                let one_mapping = self.pages[page..page + count].iter().all(|p| p.map(|p| p.prot) == Some(RW));
                if !one_mapping || to < page + count && page < to + count {
                    return true;
                }
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                let moved = sys!(mremap, at, count * PAGE, count * PAGE, flags, self.at(to));
                // Linux merges what it can: pages of different birth may be two mappings.
                if moved == Err(libc::EFAULT) {
                    return true;
                }
                if moved != Ok(self.at(to) as i64) {
                    return false;
                }
                let taken = self.pages[page..page + count].to_vec();
                self.pages[page..page + count].fill(None);
                self.pages[to..to + count].copy_from_slice(&taken);
            }
            9 if self.depth < 3 => {
                let seed = self.rng.0;
                let status = fork_status(|| {
                    self.depth += 1;
                    self.rng.0 ^= 0x9e37_79b9_7f4a_7c15;
                    let fine = (0..30).all(|_| self.step()) && self.all_is_as_it_should_be();
                    i32::from(!fine)
                });
                // The child's steps were the child's.
                return status == 0 && seed == self.rng.0;
            }
            10 => return self.kernel_writes(page, count),
            _ => {
                for page in page..page + count.min(6) {
                    if !self.access(page) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// The program's own access, where it may.
    fn access(&mut self, page: usize) -> bool {
        let word = self.at(page) as *mut u64;
        let Some(found) = self.pages[page] else { return true };
        if found.prot & libc::PROT_READ == 0 {
            return true;
        }
        // SAFETY: 1. the page is mapped and readable.
        if unsafe { word.read_volatile() } != found.word {
            return false;
        }
        if found.prot == RW {
            let new = self.rng.0;
            // SAFETY: 1. the page is mapped and writable.
            unsafe { word.write_volatile(new) };
            self.pages[page] = Some(Page { prot: RW, word: new });
        }
        true
    }

    /// A write and a read through a pipe: the kernel's copies stop where the program's accesses would.
    fn kernel_writes(&mut self, page: usize, count: usize) -> bool {
        let count = count.min(8);
        let pages = &self.pages[page..page + count];
        let readable = pages.iter().take_while(|p| p.is_some_and(|p| p.prot & libc::PROT_READ != 0)).count();
        let sent = sys!(write, self.pipe.1, self.at(page), count * PAGE);
        if sent != if readable == 0 { Err(libc::EFAULT) } else { Ok((readable * PAGE) as i64) } {
            return false;
        }
        let words: Vec<u64> = pages[..readable].iter().flatten().map(|p| p.word).collect();
        // Into other pages, as far as they are writable; what is left is read away.
        let to = self.rng.below(PAGES - count + 1);
        let writable = self.pages[to..to + readable].iter().take_while(|p| p.is_some_and(|p| p.prot == RW)).count();
        let mut left = readable;
        if writable > 0 {
            if sys!(read, self.pipe.0, self.at(to), writable * PAGE) != Ok((writable * PAGE) as i64) {
                return false;
            }
            for (offset, word) in words[..writable].iter().enumerate() {
                self.pages[to + offset] = Some(Page { prot: RW, word: *word });
            }
            left -= writable;
        }
        let mut rest = vec![0_u8; left * PAGE];
        left == 0 || sys!(read, self.pipe.0, rest.as_mut_ptr(), rest.len()) == Ok(rest.len() as i64)
    }

    fn all_is_as_it_should_be(&mut self) -> bool {
        (0..PAGES).all(|page| self.access(page))
    }
}

#[test]
fn memory_is_what_a_table_says() {
    for seed in 1..=6_u64 {
        let mut world = World::new(seed.wrapping_mul(0x1234_5678_9abc_def1));
        for step in 0..700 {
            assert!(world.step(), "seed {seed}, step {step}");
        }
        assert!(world.all_is_as_it_should_be(), "seed {seed}");
        assert_eq!(sys!(munmap, world.start, PAGES * PAGE), Ok(0));
        assert_eq!((sys!(close, world.pipe.0), sys!(close, world.pipe.1)), (Ok(0), Ok(0)));
    }
}
