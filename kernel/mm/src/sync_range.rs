//! `msync(2)` and `mincore(2)`.

use abi::Errno;
use usermem::{Addr, AddrRange, PAGE_SIZE};

use crate::mm::Mm;
use crate::unmap::Empty;
use crate::vma::VmaFlags;

bitflags::bitflags! {
    /// Flags of `msync(2)`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SyncOptions: u32 {
        /// `MS_ASYNC`: nothing to wait for.
        const ASYNC = 1 << 0;
        /// `MS_INVALIDATE`: `EBUSY` for locked mappings.
        const INVALIDATE = 1 << 1;
        /// `MS_SYNC`: written back when the call returns.
        const SYNC = 1 << 2;
    }
}

impl Mm {
    /// Writes shared file mappings back. Errors: `EINVAL`, `EBUSY`, `ENOMEM` (holes, after the rest is done), and those
    /// of writing.
    pub fn sync(&self, addr: Addr, len: u64, options: SyncOptions) -> Result<(), Errno> {
        if options.contains(SyncOptions::ASYNC | SyncOptions::SYNC) {
            return Err(Errno::EINVAL);
        }
        let range = match self.lock().range_of(addr, len, Empty::Fine) {
            Err(_) if addr.is_page_aligned() => return Err(Errno::ENOMEM),
            other => other?,
        };
        let mut at = range.start;
        let mut outcome = Ok(());
        while at < range.end {
            // One mapping at a time, and no lock while the object writes.
            let Some((piece, vma)) = self.lock().vmas.at_or_after(at).map(|(piece, vma)| (piece, vma.clone())) else {
                return Err(Errno::ENOMEM);
            };
            if piece.start >= range.end {
                return Err(Errno::ENOMEM);
            }
            if piece.start > at {
                outcome = Err(Errno::ENOMEM);
                at = piece.start;
            }
            if options.contains(SyncOptions::INVALIDATE) && vma.flags.contains(VmaFlags::LOCKED) {
                return Err(Errno::EBUSY);
            }
            let part = AddrRange { start: at, end: piece.end.min(range.end) };
            if let Some(file) = &vma.file
                && options.contains(SyncOptions::SYNC)
                && !vma.is_private()
            {
                file.object.sync(vma.offset_of(piece, part.start), part.len())?;
            }
            at = part.end;
        }
        outcome
    }

    /// For each page of `[addr, addr + len)`, whether it is in memory: bit 0, as `mincore(2)` has it. The caller bounds
    /// `len`. Errors: `EINVAL` (unaligned), `ENOMEM` (holes).
    pub fn incore(&self, addr: Addr, len: u64) -> Result<Vec<u8>, Errno> {
        let mut state = self.lock();
        let range = match state.range_of(addr, len, Empty::Fine) {
            Err(_) if addr.is_page_aligned() => return Err(Errno::ENOMEM),
            other => other?,
        };
        let mut pages = Vec::new();
        let mut at = range.start;
        for (piece, vma) in state.vmas.within(range) {
            if piece.start != at {
                return Err(Errno::ENOMEM);
            }
            at = piece.end;
            let first = pages.len();
            let file_size = vma.file.as_ref().map_or(0, |file| file.object.size().saturating_sub(file.offset));
            for page in 0..piece.len() / PAGE_SIZE {
                pages.push(u8::from(page * PAGE_SIZE < file_size));
            }
            for (part, pma) in state.pmas.within(piece) {
                let resident = state.pool.data_runs(pma.offset, part.len());
                let base = (part.start.0 - piece.start.0) / PAGE_SIZE;
                let mut set = |from: u64, to: u64, value: u8| {
                    for page in from..to {
                        let index = usize::try_from(base + page).ok().and_then(|index| first.checked_add(index));
                        if let Some(slot) = index.and_then(|index| pages.get_mut(index)) {
                            *slot = value;
                        }
                    }
                };
                set(0, part.len() / PAGE_SIZE, 0);
                for (offset, len) in resident {
                    set((offset - pma.offset) / PAGE_SIZE, (offset + len - pma.offset) / PAGE_SIZE, 1);
                }
            }
        }
        if at < range.end { Err(Errno::ENOMEM) } else { Ok(pages) }
    }
}
