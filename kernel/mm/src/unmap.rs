//! `munmap(2)`.

use abi::Errno;
use usermem::platform::Prot;
use usermem::{Addr, AddrRange};

use crate::mm::Mm;
use crate::state::{Batch, MAX_MAP_COUNT, State};

impl Mm {
    /// Removes the mappings of the pages that hold `[addr, addr + len)`; nothing there is fine. `EPERM` where one is sealed.
    pub fn unmap(&self, addr: Addr, len: u64) -> Result<(), Errno> {
        let mut state = self.lock();
        let range = state.range_of(addr, len, Empty::Refused)?;
        state.check_unmap(range)?;
        state.unmap(range).map_err(|_| Errno::ENOMEM)
    }
}

/// What an operation makes of a length of zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Empty {
    /// `EINVAL`.
    Refused,
    /// Nothing to do.
    Fine,
}

impl State {
    /// The pages of `[addr, addr + len)`; `EINVAL` if that is not a range of user addresses that starts at a page.
    pub(crate) fn range_of(&mut self, addr: Addr, len: u64, empty: Empty) -> Result<AddrRange, Errno> {
        if !addr.is_page_aligned() || (len == 0 && empty == Empty::Refused) {
            return Err(Errno::EINVAL);
        }
        let len = Addr(len).page_up().ok_or(Errno::EINVAL)?.0;
        let range = AddrRange::of_len(addr, len).ok_or(Errno::EINVAL)?;
        if range.end > self.layout.user.end {
            return Err(Errno::EINVAL);
        }
        self.yield_slots(range);
        Ok(range)
    }

    /// `EPERM` if something in `range` is sealed, `ENOMEM` if cutting it out would leave too many mappings.
    pub(crate) fn check_unmap(&self, range: AddrRange) -> Result<(), Errno> {
        if self.is_sealed(range) {
            return Err(Errno::EPERM);
        }
        let splits = self.vmas.get(range.start).is_some_and(|(vma, _)| vma.start < range.start && vma.end > range.end);
        if splits && self.vmas.len() >= MAX_MAP_COUNT { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Removes all in `range`.
    pub(crate) fn unmap(&mut self, range: AddrRange) -> Result<(), crate::Fault> {
        if range.is_empty() {
            return Ok(());
        }
        let gone = self.take_vmas(range);
        if gone.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        self.drop_pages(range, &mut batch);
        self.commit(batch)?;
        if !self.areas.is_empty() && gone.iter().any(|(_, vma)| vma.file.is_some() && vma.prot.contains(Prot::EXEC)) {
            self.text_unmapped();
        }
        Ok(())
    }

    /// Forgets the private pages of `range` and takes the range from the platform.
    pub(crate) fn drop_pages(&mut self, range: AddrRange, batch: &mut Batch) {
        self.uninstall(range, batch);
        for (piece, pma) in self.pmas.take(range) {
            batch.free_pages(piece, pma);
        }
    }
}
