//! `mremap(2)`.

use abi::Errno;
use usermem::{Addr, AddrRange};

use crate::addrmap::Piece;
use crate::map::Mapped;
use crate::mm::Mm;
use crate::state::{Batch, MAX_MAP_COUNT, State};
use crate::unmap::Empty;
use crate::vma::{Vma, VmaFlags};

bitflags::bitflags! {
    /// Flags of `mremap(2)`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RemapOptions: u32 {
        /// `MREMAP_MAYMOVE`.
        const MAY_MOVE = 1 << 0;
        /// `MREMAP_FIXED`: to `new_addr`, in place of what is there.
        const FIXED = 1 << 1;
        /// `MREMAP_DONTUNMAP`: the old range stays mapped, without its pages.
        const DONT_UNMAP = 1 << 2;
        /// The caller may lock any amount (CAP_IPC_LOCK).
        const MAY_LOCK = 1 << 3;
    }
}

/// Arguments of `mremap(2)`.
#[derive(Clone, Copy, Debug)]
pub struct RemapRequest {
    /// Start of the old mapping.
    pub old_addr: Addr,
    /// Its length; 0 with a shared mapping makes a second mapping of it.
    pub old_len: u64,
    /// The length it shall have.
    pub new_len: u64,
    /// Where to, with `FIXED`; a hint with `DONT_UNMAP`.
    pub new_addr: Addr,
    /// Flags.
    pub options: RemapOptions,
}

impl Mm {
    /// Grows, shrinks or moves a mapping; answers where it is then.
    ///
    /// Errors: `EINVAL`, `EFAULT` (no such mapping, or the range is not one mapping), `EPERM` (sealed), `ENOMEM`, `EAGAIN`
    /// (RLIMIT_MEMLOCK).
    pub fn remap(&self, request: &RemapRequest) -> Result<Addr, Errno> {
        let (addr, grown) = self.lock().remap(request)?;
        if let Some(range) = grown {
            // A locked mapping is populated, as far as possible.
            let _ = self.populate(range);
        }
        Ok(addr)
    }
}

impl State {
    /// The new address, and what has to be populated because it is locked.
    fn remap(&mut self, request: &RemapRequest) -> Result<(Addr, Option<AddrRange>), Errno> {
        let options = request.options;
        let fixed = options.contains(RemapOptions::FIXED);
        let keep = options.contains(RemapOptions::DONT_UNMAP);
        if (fixed || keep) && !options.contains(RemapOptions::MAY_MOVE) {
            return Err(Errno::EINVAL);
        }
        if keep && request.old_len != request.new_len {
            return Err(Errno::EINVAL);
        }
        let new_len = Addr(request.new_len).page_up().ok_or(Errno::EINVAL)?.0;
        if new_len == 0 || !request.old_addr.is_page_aligned() {
            return Err(Errno::EINVAL);
        }
        // Nothing is mapped past the end of user space.
        let old = self.range_of(request.old_addr, request.old_len, Empty::Fine);
        let mut old = old.map_err(|_| Errno::EFAULT)?;
        let target = if fixed {
            Some(self.remap_target(request.new_addr, new_len, old)?)
        } else if keep && request.new_addr != Addr(0) {
            self.remap_target(request.new_addr, new_len, old)?;
            None
        } else {
            None
        };
        let (whole, vma) = match self.vmas.get(old.start) {
            Some((range, vma)) => (range, vma.cut(old.start.0 - range.start.0)),
            None => return Err(Errno::EFAULT),
        };
        if vma.flags.contains(VmaFlags::SEALED) {
            return Err(Errno::EPERM);
        }
        if !fixed && !keep && old.len() >= new_len {
            let tail = AddrRange { start: Addr(old.start.0 + new_len), end: old.end };
            self.check_unmap(tail)?;
            self.unmap(tail).map_err(|_| Errno::ENOMEM)?;
            return Ok((old.start, None));
        }
        if vma.flags.contains(VmaFlags::SPECIAL) && (keep || new_len > old.len()) {
            return Err(Errno::EFAULT);
        }
        if old.is_empty() && vma.is_private() {
            return Err(Errno::EINVAL);
        }
        if old.end > whole.end {
            return Err(Errno::EFAULT);
        }
        if let Some(file) = &vma.file
            && file.offset.checked_add(new_len).is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(Errno::EINVAL);
        }
        let added = new_len.saturating_sub(if keep { 0 } else { old.len() });
        let locked = vma.flags.contains(VmaFlags::LOCKED);
        if locked {
            self.check_lock(added, options.contains(RemapOptions::MAY_LOCK), Errno::EAGAIN)?;
        }
        self.check_growth(&vma, added, Mapped::default())?;
        if self.vmas.len() + 3 > MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        // In place, if there is room.
        if !fixed && !keep && old.end == whole.end && !old.is_empty() {
            let more = AddrRange { start: old.end, end: Addr(old.start.0.saturating_add(new_len)) };
            if more.end <= self.layout.user.end && self.room_to_grow(more) {
                let tail = vma.cut(old.len());
                self.add_vma(more, tail);
                return Ok((old.start, locked.then_some(more)));
            }
        }
        if !options.contains(RemapOptions::MAY_MOVE) {
            return Err(Errno::ENOMEM);
        }
        let target = match target {
            Some(range) => {
                self.check_unmap(range)?;
                self.unmap(range).map_err(|_| Errno::ENOMEM)?;
                if old.len() > new_len {
                    let tail = AddrRange { start: Addr(old.start.0 + new_len), end: old.end };
                    self.unmap(tail).map_err(|_| Errno::ENOMEM)?;
                    old.end = tail.start;
                }
                range
            }
            None => {
                let hint = if keep { request.new_addr } else { Addr(0) };
                self.find(hint, new_len, vma.flags - VmaFlags::GROWSDOWN, self.layout.user)?
            }
        };
        self.relocate(old, target, vma, if keep { Old::Stays } else { Old::Goes })?;
        Ok((target.start, locked.then_some(target)))
    }

    fn remap_target(&mut self, addr: Addr, len: u64, old: AddrRange) -> Result<AddrRange, Errno> {
        let range = AddrRange::of_len(addr, len).ok_or(Errno::EINVAL)?;
        if !addr.is_page_aligned() || range.end > self.layout.user.end {
            return Err(Errno::EINVAL);
        }
        if range.intersect(old).is_some() {
            return Err(Errno::EINVAL);
        }
        if range.start < self.layout.user.start {
            return Err(Errno::EPERM);
        }
        self.yield_slots(range);
        Ok(range)
    }

    fn room_to_grow(&self, more: AddrRange) -> bool {
        !self.vmas.overlaps(more)
            && self.vmas.at_or_after(more.end).is_none_or(|(next, other)| {
                !other.flags.contains(VmaFlags::GROWSDOWN) || next.start.0 - more.end.0 >= crate::state::STACK_GUARD
            })
    }

    /// Moves the mapping of `old` (part of the VMA `vma`) with its pages to `target`, which is free.
    fn relocate(&mut self, old: AddrRange, target: AddrRange, vma: Vma, stays: Old) -> Result<(), Errno> {
        let mut batch = Batch::default();
        // Jumps to slots do not move.
        self.drop_text(old, &mut batch);
        let mut moved = Vec::new();
        if !old.is_empty() {
            self.uninstall(old, &mut batch);
            moved = self.pmas.take(old);
            match stays {
                Old::Goes => {
                    self.take_vmas(old);
                }
                // Locked pages have gone with the rest.
                Old::Stays => self.change_vmas(old, |vma| vma.flags -= VmaFlags::LOCKED | VmaFlags::LOCK_ON_FAULT),
            }
        }
        self.add_vma(target, vma);
        for (piece, pma) in moved {
            let start = Addr(target.start.0 + (piece.start.0 - old.start.0));
            self.pmas.insert(AddrRange { start, end: Addr(start.0 + piece.len()) }, pma);
        }
        self.commit(batch).map_err(|_| Errno::ENOMEM)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    Goes,
    Stays,
}
