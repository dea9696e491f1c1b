//! The memory that calls are made with: pages of every kind at known places, and a part of its own for each thread.

use crate::random::Rng;
use crate::raw;

pub(crate) const PAGE: u64 = 4096;
/// Where it stands; the same in every run.
pub(crate) const BASE: u64 = 0x10_0000_0000;
const PAGES: u64 = 768;
/// Pages below this are for calls that map and unmap.
const LOOSE: u64 = 96;
const READ_ONLY: u64 = 128;
const NO_ACCESS: u64 = 129;
/// A page whose successor is not mapped.
const LAST: u64 = 130;
const SHARED_FILE: u64 = 132;
const PRIVATE_FILE: u64 = 140;
const SHARED: u64 = 148;
/// A captured signal frame, and the stack it was captured on.
const FRAME: u64 = 160;
const STACK: u64 = 162;
/// The threads' parts.
const OWN: u64 = 256;
/// Pages of one thread: arguments, then lists of calls.
const OWN_PAGES: u64 = 64;
const LISTS: u64 = 56;
/// Most threads.
pub(crate) const THREADS: u64 = 8;

/// Lists of calls that a thread's children may be busy with.
const LIST_COUNT: u64 = 32;

fn page(number: u64) -> u64 {
    BASE + number * PAGE
}

fn map(number: u64, pages: u64, prot: i32, flags: i32, fd: i32) {
    let flags = (flags | libc::MAP_FIXED).cast_unsigned();
    let args =
        [page(number), pages * PAGE, prot.cast_unsigned().into(), flags.into(), i64::from(fd).cast_unsigned(), 0];
    // SAFETY: the range is the arena's own.
    unsafe { raw::call(libc::SYS_mmap.cast_unsigned(), args) };
}

/// Maps the arena. `shared` and `private` are files to map, of some pages.
pub(crate) fn set_up(shared: i32, private: i32, rng: &mut Rng) {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    map(0, PAGES, rw, anonymous, -1);
    map(NO_ACCESS, 1, libc::PROT_NONE, anonymous, -1);
    map(SHARED_FILE, 8, rw, libc::MAP_SHARED, shared);
    map(PRIVATE_FILE, 8, rw, libc::MAP_PRIVATE, private);
    map(SHARED, 8, rw, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
    for word in 0..PAGE / 8 * 16 {
        // SAFETY: the first pages were just mapped.
        unsafe { ((BASE + word * 8) as *mut u64).write(if word % 4 == 0 { rng.interesting() } else { 0 }) };
    }
    raw::set_handlers(page(FRAME), page(STACK), 32 * PAGE);
    map(READ_ONLY, 1, libc::PROT_READ, anonymous, -1);
    // SAFETY: a page of the arena.
    unsafe { raw::call(libc::SYS_munmap.cast_unsigned(), [page(LAST + 1), PAGE, 0, 0, 0, 0]) };
}

/// The captured signal frame.
pub(crate) fn frame() -> Vec<u8> {
    let mut bytes = vec![0; raw::FRAME];
    // SAFETY: the frame's page is the arena's.
    unsafe { std::ptr::copy_nonoverlapping(page(FRAME) as *const u8, bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

/// Where the frame was captured.
pub(crate) fn frame_address() -> u64 {
    page(FRAME)
}

/// An address of the pages that are mapped and unmapped, on a page's border.
pub(crate) fn loose(rng: &mut Rng) -> u64 {
    page(rng.below(LOOSE))
}

/// A word that futexes are at: few, so that threads meet.
pub(crate) fn futex(rng: &mut Rng) -> u64 {
    rng.pick(&[page(120), page(120) + 4, page(121), page(SHARED), page(SHARED) + 8, page(SHARED_FILE)])
}

/// An address that a kernel should mind.
pub(crate) fn hostile(rng: &mut Rng) -> u64 {
    match rng.below(16) {
        0 => 0,
        1 => rng.below(PAGE),
        2 | 3 => page(LAST + 1) - rng.below(64),
        4 => page(READ_ONLY) + rng.below(PAGE),
        5 => page(NO_ACCESS) + rng.below(PAGE),
        6 => page(SHARED_FILE) + rng.below(8 * PAGE),
        7 => page(PRIVATE_FILE) + rng.below(8 * PAGE),
        8 => page(SHARED) + rng.below(8 * PAGE),
        9 => 0xffff_8000_0000_0000 + rng.below(1 << 40),
        10 => 0x8000_0000_0000 + rng.below(1 << 46),
        11 => 0x7fff_ffff_f000 - rng.below(8192),
        12 => u64::MAX - rng.below(8192),
        13 => page(0) + rng.below(LOOSE * PAGE),
        14 => rng.pick(&[raw::handler(), raw::exit_code(), page(LAST), page(PAGES), page(PAGES) - 8]),
        _ => rng.interesting(),
    }
}

/// Where bytes of which `inside` are mapped begin, the rest being behind the end.
pub(crate) fn half_mapped(inside: usize) -> u64 {
    page(LAST + 1) - inside as u64
}

/// A thread's own part.
pub(crate) struct Own {
    start: u64,
    used: u64,
    list: u64,
}

impl Own {
    /// Thread `index`'s, below [`THREADS`].
    pub(crate) fn new(index: u64) -> Self {
        Self { start: page(OWN + index * OWN_PAGES), used: 0, list: 0 }
    }

    /// Memory for `len` bytes, at most a page's, until some calls later.
    pub(crate) fn take(&mut self, len: usize) -> u64 {
        let len = (len as u64).next_multiple_of(16);
        if self.used + len > LISTS * PAGE {
            self.used = 0;
        }
        let at = self.start + self.used;
        self.used += len;
        at
    }

    /// A copy of `bytes`.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.take(bytes.len());
        write(at, bytes);
        at
    }

    /// Whether `at` is in it.
    pub(crate) fn contains(&self, at: u64) -> bool {
        (self.start..self.start + LISTS * PAGE - 16).contains(&at)
    }

    /// A copy of `calls` for a child.
    pub(crate) fn put_list(&mut self, calls: &[raw::Call]) -> *const raw::Call {
        self.list = (self.list + 1) % LIST_COUNT;
        let to = (self.start + LISTS * PAGE + self.list * (OWN_PAGES - LISTS) * PAGE / LIST_COUNT) as *mut raw::Call;
        // SAFETY: a list is at most 8 calls of 56 bytes, the place 1024 bytes.
        unsafe { std::ptr::copy_nonoverlapping(calls.as_ptr(), to, calls.len().min(8)) };
        to
    }
}

/// Writes `bytes` at `at`, which is the arena's.
pub(crate) fn write(at: u64, bytes: &[u8]) {
    // SAFETY: the arena's pages are mapped; where a call has unmapped them, this process ends.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
}

/// Reads two descriptors at `at`, which is the arena's.
pub(crate) fn read_pair(at: u64) -> [i32; 2] {
    // SAFETY: as `write`.
    unsafe { (at as *const [i32; 2]).read_unaligned() }
}
