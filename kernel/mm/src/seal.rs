//! `mseal(2)`: mappings that stay as they are until the address space ends.

use abi::Errno;
use usermem::{Addr, AddrRange};

use crate::mm::Mm;
use crate::state::{MAX_MAP_COUNT, State};
use crate::unmap::Empty;
use crate::vma::VmaFlags;

impl Mm {
    /// Seals `[addr, addr + len)`: from now on none of it can be unmapped, moved, replaced or given another protection.
    ///
    /// Errors: `EINVAL` (unaligned, or no range of addresses), `ENOMEM` (a hole in it, and then nothing is sealed; too many
    /// mappings).
    pub fn seal(&self, addr: Addr, len: u64) -> Result<(), Errno> {
        let mut state = self.lock();
        if !addr.is_page_aligned() {
            return Err(Errno::EINVAL);
        }
        let len = Addr(len).page_up().ok_or(Errno::EINVAL)?.0;
        AddrRange::of_len(addr, len).ok_or(Errno::EINVAL)?;
        let range = state.range_of(addr, len, Empty::Fine).map_err(|_| Errno::ENOMEM)?;
        let mut at = range.start;
        for (piece, _) in state.vmas.within(range) {
            if piece.start != at {
                return Err(Errno::ENOMEM);
            }
            at = piece.end;
        }
        if at < range.end || state.vmas.len() + 2 > MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        state.change_vmas(range, |vma| vma.flags |= VmaFlags::SEALED);
        Ok(())
    }
}

impl State {
    /// Whether something in `range` is sealed.
    pub(crate) fn is_sealed(&self, range: AddrRange) -> bool {
        self.vmas.touching(range).any(|(_, vma)| vma.flags.contains(VmaFlags::SEALED))
    }
}
