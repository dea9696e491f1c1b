//! `mlock(2)`, `mlock2(2)`, `munlock(2)`, `mlockall(2)`, `munlockall(2)`. Nothing of ours is ever swapped, so this is
//! accounting, populating, and what other calls refuse for locked memory.

use abi::Errno;
use usermem::{Addr, AddrRange};

use crate::mm::Mm;
use crate::state::MAX_MAP_COUNT;
use crate::unmap::Empty;
use crate::vma::VmaFlags;

bitflags::bitflags! {
    /// How memory is locked.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct LockOptions: u32 {
        /// `MCL_CURRENT`: what is mapped now.
        const CURRENT = 1 << 0;
        /// `MCL_FUTURE`: what is mapped later.
        const FUTURE = 1 << 1;
        /// `MCL_ONFAULT`, `MLOCK_ONFAULT`: only once touched.
        const ON_FAULT = 1 << 2;
        /// The caller may lock any amount (CAP_IPC_LOCK).
        const MAY_LOCK = 1 << 3;
    }
}

fn vma_flags(options: LockOptions) -> VmaFlags {
    if options.contains(LockOptions::ON_FAULT) { VmaFlags::LOCKED | VmaFlags::LOCK_ON_FAULT } else { VmaFlags::LOCKED }
}

const ALL: VmaFlags = VmaFlags::LOCKED.union(VmaFlags::LOCK_ON_FAULT);

impl Mm {
    /// `mlock2(2)` of the pages that hold `[addr, addr + len)`. Errors: `EPERM` (nothing may be locked), `ENOMEM` (more
    /// than RLIMIT_MEMLOCK, holes), `EINVAL` (the range wraps).
    pub fn lock_range(&self, addr: Addr, len: u64, options: LockOptions) -> Result<(), Errno> {
        let range = {
            let mut state = self.lock();
            let range = state.pages_around(addr, len)?;
            if range.is_empty() {
                return Ok(());
            }
            let already: u64 = state
                .vmas
                .touching(range)
                .filter(|(_, vma)| vma.flags.contains(VmaFlags::LOCKED))
                .map(|(piece, _)| piece.intersect(range).map_or(0, AddrRange::len))
                .sum();
            let privileged = options.contains(LockOptions::MAY_LOCK);
            state.check_lock(range.len() - already, privileged, Errno::ENOMEM)?;
            state.set_locked(range, vma_flags(options))?;
            range
        };
        if !options.contains(LockOptions::ON_FAULT) {
            self.populate(range)?;
        }
        Ok(())
    }

    /// `munlock(2)`. Errors: `ENOMEM` (holes), `EINVAL` (the range wraps).
    pub fn unlock_range(&self, addr: Addr, len: u64) -> Result<(), Errno> {
        let mut state = self.lock();
        let range = state.pages_around(addr, len)?;
        if range.is_empty() { Ok(()) } else { state.set_locked(range, VmaFlags::empty()) }
    }

    /// `mlockall(2)`. Errors: `EINVAL` (no wish, or only `ON_FAULT`), `EPERM`, `ENOMEM`.
    pub fn lock_all(&self, options: LockOptions) -> Result<(), Errno> {
        if !options.intersects(LockOptions::CURRENT | LockOptions::FUTURE) {
            return Err(Errno::EINVAL);
        }
        let ranges = {
            let mut state = self.lock();
            if !options.contains(LockOptions::MAY_LOCK) {
                if state.limits.memlock == 0 {
                    return Err(Errno::EPERM);
                }
                if options.contains(LockOptions::CURRENT) && state.usage.total > state.limits.memlock {
                    return Err(Errno::ENOMEM);
                }
            }
            let future = options.contains(LockOptions::FUTURE);
            state.lock_future = if future { vma_flags(options) } else { VmaFlags::empty() };
            if !options.contains(LockOptions::CURRENT) {
                return Ok(());
            }
            let user = state.layout.user;
            state.change_vmas(user, |vma| vma.flags = (vma.flags - ALL) | vma_flags(options));
            if options.contains(LockOptions::ON_FAULT) { None } else { Some(user) }
        };
        if let Some(range) = ranges {
            // As Linux: what cannot be populated is no error here.
            let _ = self.populate(range);
        }
        Ok(())
    }

    /// `munlockall(2)`.
    pub fn unlock_all(&self) {
        let mut state = self.lock();
        state.lock_future = VmaFlags::empty();
        let user = state.layout.user;
        state.change_vmas(user, |vma| vma.flags -= ALL);
    }
}

impl crate::state::State {
    /// The pages that hold `[addr, addr + len)`, as mlock(2) rounds.
    fn pages_around(&mut self, addr: Addr, len: u64) -> Result<AddrRange, Errno> {
        let start = addr.page_down();
        let len = len.checked_add(addr.page_offset()).ok_or(Errno::EINVAL)?;
        match self.range_of(start, len, Empty::Fine) {
            Err(_) if AddrRange::of_len(start, len).is_some() => Err(Errno::ENOMEM),
            other => other,
        }
    }

    /// Sets the lock flags of `range`; up to the first hole, which is `ENOMEM`.
    fn set_locked(&mut self, range: AddrRange, flags: VmaFlags) -> Result<(), Errno> {
        if self.vmas.len() + 2 > MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        let hole = self.vmas.gaps(range).first().map(|gap| gap.start);
        let end = hole.unwrap_or(range.end);
        let range = AddrRange { start: range.start, end };
        if !range.is_empty() {
            self.change_vmas(range, |vma| vma.flags = (vma.flags - ALL) | flags);
        }
        if hole.is_some() { Err(Errno::ENOMEM) } else { Ok(()) }
    }
}
