//! `brk(2)`.

use usermem::platform::Prot;
use usermem::{Addr, AddrRange};

use crate::map::Mapped;
use crate::mm::Mm;
use crate::state::{Heap, MAX_MAP_COUNT, STACK_GUARD, State};
use crate::types::Sharing;
use crate::vma::{Vma, VmaFlags};

impl Mm {
    /// Says where the heap starts, after exec has loaded a program or `prctl(PR_SET_MM_START_BRK)`.
    pub fn set_heap_start(&self, start: Addr) {
        let mut state = self.lock();
        // Slots behind the program's last mapping are in the way of a heap that would start there.
        let hidden = state.vmas.get(start).filter(|(_, vma)| vma.flags.contains(VmaFlags::HIDDEN));
        let start = hidden.map_or(start, |(range, _)| range.end);
        state.heap = Heap { start, end: start };
    }

    /// Start of the heap and its end as last set.
    pub fn heap(&self) -> (Addr, Addr) {
        let heap = self.lock().heap;
        (heap.start, heap.end)
    }

    /// Where the heap starts.
    pub fn brk_start(&self) -> Addr {
        self.lock().heap.start
    }

    /// Moves the end of the heap if possible; answers where it is then, which is how callers see failure.
    pub fn brk(&self, addr: Addr) -> Addr {
        let mut state = self.lock();
        let _ = state.brk(addr);
        state.heap.end
    }
}

impl State {
    /// `None` if the end stays where it is.
    fn brk(&mut self, addr: Addr) -> Option<()> {
        if addr < self.heap.start || addr > self.layout.user.end {
            return None;
        }
        let data = self.bounds.end_data.0.saturating_sub(self.bounds.start_data.0);
        if (addr.0 - self.heap.start.0).saturating_add(data) > self.limits.data {
            return None;
        }
        let old = self.heap.end.page_up()?;
        let new = addr.page_up()?;
        if new < old {
            let range = AddrRange { start: new, end: old };
            self.check_unmap(range).ok()?;
            self.unmap(range).ok()?;
        } else if new > old {
            let range = AddrRange { start: old, end: new };
            let with_gap = AddrRange { start: old, end: new.checked_add(STACK_GUARD)? };
            let in_the_way = self
                .vmas
                .touching(with_gap)
                .any(|(vma, other)| vma.start < range.end || other.flags.contains(VmaFlags::GROWSDOWN));
            if in_the_way || self.vmas.len() >= MAX_MAP_COUNT {
                return None;
            }
            let vma = Vma {
                prot: Prot::READ | Prot::WRITE,
                max_prot: Prot::all(),
                sharing: Sharing::Private,
                flags: VmaFlags::HEAP | self.lock_future,
                file: None,
                label: "[heap]",
            };
            if vma.flags.contains(VmaFlags::LOCKED) {
                self.check_lock(range.len(), false, abi::Errno::EAGAIN).ok()?;
            }
            self.check_growth(&vma, range.len(), Mapped::default()).ok()?;
            self.add_vma(range, vma);
        }
        self.heap.end = addr;
        Some(())
    }
}
