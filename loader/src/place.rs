//! Choosing addresses: where the stack ends, where the mapping area starts, where objects go.
//!
//! Distances and amounts of randomness are those of Linux on x86-64 with four-level page tables; the end of the user
//! range takes the place of `TASK_SIZE`.

use abi::Errno;
use abi::mm::STACK_GUARD_GAP;
use usermem::addr::{Addr, AddrRange, PAGE_SIZE};

use crate::plan::{LoadRequest, MmapDirection};

const GIB: u64 = 1 << 30;
/// Pages the stack may be moved down by, as a mask (`STACK_RND_MASK`): 16 GiB.
const STACK_RANDOM_MASK: u64 = 0x3f_ffff;
/// Pages that mappings and programs may be moved by, as a mask (`vm.mmap_rnd_bits` is 28): 1 TiB.
const MMAP_RANDOM_MASK: u64 = (1 << 28) - 1;

/// Addresses handed out so far.
pub(crate) struct Placer {
    user: AddrRange,
    taken: Vec<AddrRange>,
    pub(crate) mmap_base: Addr,
    pub(crate) direction: MmapDirection,
}

impl Placer {
    pub(crate) fn new(request: &LoadRequest<'_>) -> Self {
        let end = request.user.end.page_down().0;
        let random = (request.random.mmap & MMAP_RANDOM_MASK) * PAGE_SIZE;
        let (base, direction) = if request.stack_limit == u64::MAX {
            ((end / 3).saturating_add(random), MmapDirection::BottomUp)
        } else {
            let reserve = (STACK_RANDOM_MASK + 1) * PAGE_SIZE + STACK_GUARD_GAP;
            let largest = end / 6 * 5;
            let gap = request.stack_limit.saturating_add(reserve).min(largest).max(largest.min(GIB / 8));
            (end.saturating_sub(gap).saturating_sub(random), MmapDirection::TopDown)
        };
        let base = base.clamp(request.user.start.0, end);
        Self { user: request.user, taken: Vec::new(), mmap_base: Addr(base).page_down(), direction }
    }

    /// The end of the stack.
    pub(crate) fn stack_top(&self, random: u64) -> Result<Addr, Errno> {
        let down = (random & STACK_RANDOM_MASK) * PAGE_SIZE;
        self.user.end.page_down().0.checked_sub(down).map(Addr).ok_or(Errno::ENOMEM)
    }

    /// Where programs that can run anywhere are put before randomisation (`ELF_ET_DYN_BASE`).
    pub(crate) fn program_base(&self) -> Addr {
        Addr(self.user.end.0 / 3 * 2).page_down()
    }

    /// A place near `program_base` for `len` bytes, moved by `random`.
    pub(crate) fn program(&mut self, len: u64, align: u64, random: u64) -> Result<AddrRange, Errno> {
        let base = self.program_base().0.saturating_add((random & MMAP_RANDOM_MASK) * PAGE_SIZE);
        let start = Addr(base & !(align - 1));
        let range = AddrRange::of_len(start, len).ok_or(Errno::ENOMEM)?;
        if self.is_free(range) {
            self.taken.push(range);
            Ok(range)
        } else {
            self.anywhere(len, align)
        }
    }

    /// Takes exactly `range`; `ENOMEM` when it is not inside the user range.
    pub(crate) fn fixed(&mut self, range: AddrRange) -> Result<(), Errno> {
        if !self.user.contains_range(range) {
            return Err(Errno::ENOMEM);
        }
        self.taken.push(range);
        Ok(())
    }

    /// A free place for `len` bytes in the mapping area. `align` is a power of two of at least a page.
    pub(crate) fn anywhere(&mut self, len: u64, align: u64) -> Result<AddrRange, Errno> {
        let range = match self.direction {
            MmapDirection::TopDown => self.below(len, align),
            MmapDirection::BottomUp => self.above(len, align),
        }
        .ok_or(Errno::ENOMEM)?;
        self.taken.push(range);
        Ok(range)
    }

    fn is_free(&self, range: AddrRange) -> bool {
        self.user.contains_range(range) && self.collision(range).is_none()
    }

    fn collision(&self, range: AddrRange) -> Option<AddrRange> {
        self.taken.iter().copied().find(|taken| taken.intersect(range).is_some())
    }

    // Each step passes one taken range for good, so both searches end after at most `taken.len() + 1` steps.
    fn below(&self, len: u64, align: u64) -> Option<AddrRange> {
        let mut end = self.mmap_base.0;
        loop {
            let start = end.checked_sub(len)? & !(align - 1);
            let range = AddrRange::of_len(Addr(start), len)?;
            if !self.user.contains_range(range) {
                return None;
            }
            match self.collision(range) {
                None => return Some(range),
                Some(taken) => end = taken.start.0,
            }
        }
    }

    fn above(&self, len: u64, align: u64) -> Option<AddrRange> {
        let mut from = self.mmap_base.0;
        loop {
            let start = from.checked_add(align - 1)? & !(align - 1);
            let range = AddrRange::of_len(Addr(start), len)?;
            if !self.user.contains_range(range) {
                return None;
            }
            match self.collision(range) {
                None => return Some(range),
                Some(taken) => from = taken.end.page_up()?.0,
            }
        }
    }

    /// The program break for a program that ends at `end`, moved up by at most a GiB.
    pub(crate) fn brk(&self, end: Addr, random: u64) -> Result<Addr, Errno> {
        let start = end.page_up().ok_or(Errno::ENOMEM)?;
        let moved = start.0.saturating_add(random % (GIB / PAGE_SIZE) * PAGE_SIZE);
        // Without room above, the break stays where it is: growing it fails, as it would on Linux.
        Ok(if moved < self.user.end.0 { Addr(moved) } else { start })
    }
}
