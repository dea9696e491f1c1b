//! `mmap(2)`: checks, placement, limits.

use abi::Errno;
use usermem::platform::Prot;
use usermem::{Addr, AddrRange, PAGE_SIZE};

use crate::mm::Mm;
use crate::state::{MAX_MAP_COUNT, Packed, STACK_GUARD, State};
use crate::types::{Direction, MapOptions, MapRequest, Placement, Sharing, Source};
use crate::vma::{FileBacking, Vma, VmaFlags};

/// Where `MAP_32BIT` puts mappings.
const LOW: AddrRange = AddrRange { start: Addr(0x4000_0000), end: Addr(0x8000_0000) };

impl Mm {
    /// Maps what `request` says; answers where.
    ///
    /// Errors: `EINVAL` (length zero, unaligned address or offset), `ENOMEM` (no room, RLIMIT_AS, RLIMIT_DATA, too many
    /// mappings, more than there is), `EOVERFLOW` (offset plus length), `EPERM` (below the first address that may be
    /// mapped; locking not permitted; shared text of a host's noexec mount), `EAGAIN` (RLIMIT_MEMLOCK), `EEXIST` (FixedNoReplace), `EACCES` (protection beyond
    /// what the file allows).
    pub fn map(&self, request: &MapRequest) -> Result<Addr, Errno> {
        // Nothing is told to the platform yet: the first fault will.
        let range = self.lock().map(request)?;
        let locked = request.options.contains(MapOptions::LOCKED);
        if request.options.contains(MapOptions::POPULATE) || locked {
            // Failure to populate is not failure to map, mmap(2).
            let _ = self.populate(range);
        }
        Ok(range.start)
    }
}

impl State {
    fn map(&mut self, request: &MapRequest) -> Result<AddrRange, Errno> {
        if request.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = Addr(request.len).page_up().filter(|len| len.0 != 0).ok_or(Errno::ENOMEM)?.0;
        if len > self.layout.user.len() {
            return Err(Errno::ENOMEM);
        }
        let vma = self.vma_of(request, len)?;
        let (range, replace) = self.place(request.placement, len, &vma)?;
        let replaced = if replace { self.mapped_in(range) } else { Mapped::default() };
        if self.vmas.len() >= MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        self.check_limits(&vma, len, replaced, request.options)?;
        if replace && replaced.total != 0 {
            self.check_unmap(range)?;
            self.unmap(range).map_err(|_| Errno::ENOMEM)?;
        }
        self.add_vma(range, vma);
        self.text_mapped(range);
        Ok(range)
    }

    fn vma_of(&self, request: &MapRequest, len: u64) -> Result<Vma, Errno> {
        let mut flags = self.lock_future;
        for (option, flag) in [
            (MapOptions::GROWSDOWN, VmaFlags::GROWSDOWN),
            (MapOptions::NORESERVE, VmaFlags::NORESERVE),
            (MapOptions::LOCKED, VmaFlags::LOCKED),
            (MapOptions::STACK, VmaFlags::STACK | VmaFlags::GROWSDOWN),
            (MapOptions::SPECIAL, VmaFlags::SPECIAL | VmaFlags::DONTDUMP),
        ] {
            if request.options.contains(option) {
                flags |= flag;
            }
        }
        let (file, max_prot) = match &request.source {
            Source::Anonymous if request.sharing == Sharing::Shared => return Err(Errno::EINVAL),
            Source::Anonymous => (None, Prot::all()),
            Source::File(source) => {
                if source.offset % PAGE_SIZE != 0 {
                    return Err(Errno::EINVAL);
                }
                if source.offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
                    return Err(Errno::EOVERFLOW);
                }
                if flags.contains(VmaFlags::GROWSDOWN) {
                    return Err(Errno::EINVAL);
                }
                if !source.max_prot.contains(request.prot) {
                    return Err(Errno::EACCES);
                }
                let file =
                    FileBacking { object: source.object.clone(), file: source.file.clone(), offset: source.offset };
                (Some(file), source.max_prot)
            }
        };
        let mut vma = Vma { prot: request.prot, max_prot, sharing: request.sharing, flags, file, label: request.label };
        if vma.prot.contains(Prot::EXEC) {
            vma.note_noexec();
            if vma.flags.contains(VmaFlags::NOEXEC) && !vma.is_private() {
                return Err(Errno::EPERM);
            }
        }
        Ok(vma)
    }

    /// The range to map, and whether what is there is replaced.
    fn place(&mut self, placement: Placement, len: u64, vma: &Vma) -> Result<(AddrRange, bool), Errno> {
        match placement {
            Placement::Fixed(addr) | Placement::FixedNoReplace(addr) => {
                let range = self.fixed(addr, len)?;
                let replace = matches!(placement, Placement::Fixed(_));
                if !replace && self.vmas.overlaps(range) {
                    return Err(Errno::EEXIST);
                }
                Ok((range, replace))
            }
            Placement::Hint(addr) => Ok((self.find(addr, len, vma.flags, self.layout.user)?, false)),
            Placement::Low(addr) => Ok((self.find(addr, len, vma.flags, LOW)?, false)),
        }
    }

    /// The range of `len` bytes (whole pages) at `addr`, if it may be mapped.
    pub(crate) fn fixed(&mut self, addr: Addr, len: u64) -> Result<AddrRange, Errno> {
        if !addr.is_page_aligned() {
            return Err(Errno::EINVAL);
        }
        let range = AddrRange::of_len(addr, len).ok_or(Errno::ENOMEM)?;
        if range.end > self.layout.user.end {
            return Err(Errno::ENOMEM);
        }
        // vm.mmap_min_addr.
        if range.start < self.layout.user.start {
            return Err(Errno::EPERM);
        }
        self.yield_slots(range);
        Ok(range)
    }

    /// A free range of `len` bytes: at the hint if possible, else the highest below the base, else the lowest above it.
    pub(crate) fn find(&self, hint: Addr, len: u64, flags: VmaFlags, limits: AddrRange) -> Result<AddrRange, Errno> {
        let hint = hint.page_up().unwrap_or_default();
        if hint != Addr(0)
            && let Some(range) = AddrRange::of_len(hint, len)
            && limits.contains_range(range)
            && self.layout.user.contains_range(range)
            && self.is_free(range, flags)
        {
            return Ok(range);
        }
        let low = limits.start.max(self.layout.user.start);
        let top = limits.end.min(self.layout.user.end);
        let base = if limits == LOW { low } else { self.layout.mmap_base.min(top).max(low) };
        let extra = if flags.contains(VmaFlags::GROWSDOWN) { STACK_GUARD } else { 0 };
        let (below, above) = (AddrRange { start: low, end: base }, AddrRange { start: base, end: top });
        let found = match self.direction {
            Direction::Down => self.find_packed(below, len, extra).or_else(|| self.find_up(above, len, extra)),
            Direction::Up => self.find_up(above, len, extra).or_else(|| self.find_up(below, len, extra)),
        };
        found.ok_or(Errno::ENOMEM)
    }

    /// Whether nothing is in `range`, nor a mapping that grows down too close above it (or below, if this one grows).
    pub(crate) fn is_free(&self, range: AddrRange, flags: VmaFlags) -> bool {
        if self.vmas.overlaps(range) {
            return false;
        }
        let above = self.vmas.at_or_after(range.end);
        let room_above = above.is_none_or(|(vma, other)| vma.start.0 - guard(other) >= range.end.0);
        let room_below = !flags.contains(VmaFlags::GROWSDOWN)
            || self.vmas.before(range.start).is_none_or(|(vma, _)| range.start.0 - vma.end.0 >= STACK_GUARD);
        room_above && room_below
    }

    /// [`Self::find_down`], without a look at what is known to be too small: a process with thousands of threads has thousands
    /// of stacks below each other.
    fn find_packed(&self, limits: AddrRange, len: u64, extra: u64) -> Option<AddrRange> {
        let known = self.packed.get().filter(|packed| packed.base == limits.end && limits.start < packed.from);
        let skip = known.filter(|packed| packed.hole < len.saturating_add(extra));
        let end = skip.map_or(limits.end, |packed| packed.from);
        let (found, passed) = self.find_down(AddrRange { end, ..limits }, len, extra)?;
        if known.is_none_or(|packed| found.end < packed.from) {
            let hole = skip.map_or(passed, |packed| packed.hole.max(passed));
            self.packed.set(Some(Packed { base: limits.end, from: found.end, hole }));
        }
        Some(found)
    }

    /// The highest place, and the longest that was too short above it.
    fn find_down(&self, limits: AddrRange, len: u64, extra: u64) -> Option<(AddrRange, u64)> {
        let need = len.checked_add(extra)?;
        let mut top = limits.end;
        let mut passed = 0;
        // What reaches over the end counts from its start.
        if let Some((vma, other)) = self.vmas.at_or_after(limits.end) {
            top = top.min(Addr(vma.start.0.saturating_sub(guard(other))));
        }
        for (vma, other) in self.vmas.touching(limits).rev() {
            let gap = top.0.saturating_sub(vma.end.max(limits.start).0);
            if vma.end <= top && gap >= need {
                break;
            }
            passed = passed.max(gap);
            // As is_free: what keeps room below itself does so down to the next mapping, not past it.
            top = Addr(vma.start.0.saturating_sub(guard(other)));
            if top.0 < limits.start.0.saturating_add(need) {
                return None;
            }
        }
        let start = top.0.checked_sub(len)?;
        let range = AddrRange { start: Addr(start), end: top };
        (start >= limits.start.0.saturating_add(extra)).then_some((range, passed))
    }

    fn find_up(&self, limits: AddrRange, len: u64, extra: u64) -> Option<AddrRange> {
        let mut at = limits.start;
        if let Some((vma, _)) = self.vmas.before(limits.start) {
            at = at.max(Addr(vma.end.0));
        }
        for (vma, other) in self.vmas.touching(limits) {
            let end = at.0.checked_add(extra)?.checked_add(len)?;
            if end <= vma.start.0.saturating_sub(guard(other)) {
                break;
            }
            at = at.max(vma.end);
        }
        let range = AddrRange::of_len(at.checked_add(extra)?, len)?;
        let (next, other) = match self.vmas.at_or_after(range.start) {
            Some((vma, other)) => (vma.start.0.saturating_sub(guard(other)), true),
            None => (u64::MAX, false),
        };
        (range.end <= limits.end && (!other || range.end.0 <= next)).then_some(range)
    }

    /// What a mapping that replaces `range` gives back.
    fn mapped_in(&self, range: AddrRange) -> Mapped {
        let mut sum = Mapped::default();
        for (piece, vma) in self.vmas.touching(range) {
            let len = piece.intersect(range).map_or(0, AddrRange::len);
            sum.total += len;
            if vma.is_data() {
                sum.data += len;
            }
        }
        sum
    }

    fn check_limits(&self, vma: &Vma, len: u64, replaced: Mapped, options: MapOptions) -> Result<(), Errno> {
        if vma.flags.contains(VmaFlags::LOCKED) {
            self.check_lock(len, options.contains(MapOptions::MAY_LOCK), Errno::EAGAIN)?;
        }
        self.check_growth(vma, len, replaced)?;
        // Heuristic overcommit, vm.overcommit_memory = 0: refuse what can never be.
        if vma.is_private_writable() && !vma.flags.contains(VmaFlags::NORESERVE) && len > self.pool.limit() {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// RLIMIT_AS and RLIMIT_DATA for `len` more bytes of mappings like `vma`.
    pub(crate) fn check_growth(&self, vma: &Vma, len: u64, replaced: Mapped) -> Result<(), Errno> {
        let total = self.usage.total.saturating_sub(replaced.total).saturating_add(len);
        let data = self.usage.data.saturating_sub(replaced.data).saturating_add(len);
        if total > self.limits.address_space || (vma.is_data() && data > self.limits.data) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// RLIMIT_MEMLOCK for `len` more bytes; `over` is what exceeding it gives.
    pub(crate) fn check_lock(&self, len: u64, privileged: bool, over: Errno) -> Result<(), Errno> {
        if privileged {
            return Ok(());
        }
        if self.limits.memlock == 0 {
            return Err(Errno::EPERM);
        }
        if self.usage.locked.saturating_add(len) > self.limits.memlock { Err(over) } else { Ok(()) }
    }
}

/// Bytes that a range gives back when it is replaced.
#[derive(Clone, Copy, Default)]
pub(crate) struct Mapped {
    pub(crate) total: u64,
    pub(crate) data: u64,
}

/// What has to stay free below a mapping.
fn guard(vma: &Vma) -> u64 {
    if vma.flags.contains(VmaFlags::GROWSDOWN) { STACK_GUARD } else { 0 }
}
