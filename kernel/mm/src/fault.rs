//! Page faults: from an address and a wish to the bytes, and to what the platform maps.
//!
//! Two callers share the logic. Guest code faults ([`State::fault`]): the bytes are found and mapped, with more around
//! them than was asked for, since a trip to us costs as much as copying dozens of pages. The kernel's own copies
//! ([`State::resolve`]) find the bytes only, and tell the platform no more than it has to know.

use usermem::memmap::Located;
use usermem::platform::{Access, Prot};
use usermem::{Addr, AddrRange, PAGE_SIZE};

use crate::addrmap::Piece;
use crate::pma::{Home, Place, Pma};
use crate::state::{Batch, STACK_GUARD, State, WINDOW};
use crate::types::Fault;
use crate::vma::{Force, Vma, VmaFlags, needs};

/// Private copies of file pages and of shared pages are made in aligned runs of this size.
const COPY_RUN: u64 = 16 * PAGE_SIZE;

/// Text that has to be copied is copied in runs of this size.
const TEXT_RUN: u64 = 64 * PAGE_SIZE;

/// Read-only mappings of files and of zeros are made up to this far around a fault.
const READ_AHEAD: u64 = 64 << 20;

/// A hole smaller than this is filled on a read fault too: the write will follow.
const SMALL_HOLE: u64 = 1 << 20;

/// Writable private mappings of files up to this size are taken for a program's data.
const SMALL_DATA: u64 = 256 << 10;

/// How far from a mapping others of the same file are looked for, and how many are mapped along with it.
const SIBLINGS_WITHIN: u64 = 32 << 20;
const MAX_SIBLINGS: usize = 4;

/// How many other shared pieces are looked at when one turns out to be shared no more.
const MAX_SWEEP: usize = 128;

/// Space for large anonymous mappings is reserved in pieces of this size.
const ARENA: u64 = 64 << 20;

/// Past this many host mappings, copies are made in whole windows to have fewer.
const MANY_INSTALLED: usize = 20_000;

/// The aligned block of `size` bytes (a power of two) around `addr`.
pub(crate) fn block(addr: Addr, size: u64) -> AddrRange {
    let start = addr.0 & !(size - 1);
    AddrRange { start: Addr(start), end: Addr(start.saturating_add(size)) }
}

/// The part of `range` in `limits` (which has at least one address of it).
fn clip(range: AddrRange, limits: AddrRange) -> AddrRange {
    range.intersect(limits).unwrap_or(AddrRange { start: range.start, end: range.start })
}

impl State {
    /// The VMA at `addr`, after growing a stack down to it if that is what lies above.
    pub(crate) fn vma_for(&mut self, addr: Addr) -> Option<(AddrRange, Vma)> {
        if let Some((range, vma)) = self.vmas.get(addr) {
            return Some((range, vma.clone()));
        }
        self.grow_stack(addr)?;
        self.vmas.get(addr).map(|(range, vma)| (range, vma.clone()))
    }

    /// Grows the mapping above `addr` down to it: `mmap(2)` MAP_GROWSDOWN, `getrlimit(2)` RLIMIT_STACK.
    fn grow_stack(&mut self, addr: Addr) -> Option<()> {
        let start = addr.page_down();
        if !self.layout.user.contains(start) {
            return None;
        }
        let (range, vma) = self.vmas.at_or_after(addr)?;
        if !vma.flags.contains(VmaFlags::GROWSDOWN) || vma.file.is_some() {
            return None;
        }
        let vma = vma.clone();
        let grown = AddrRange { start, end: range.start };
        if range.end.0 - start.0 > self.limits.stack
            || self.usage.total.saturating_add(grown.len()) > self.limits.address_space
        {
            return None;
        }
        if vma.flags.contains(VmaFlags::LOCKED) && self.usage.locked.saturating_add(grown.len()) > self.limits.memlock {
            return None;
        }
        // The guard gap: to any mapping below that can be accessed and is not itself growing.
        if let Some((below, other)) = self.vmas.before(start)
            && !other.flags.contains(VmaFlags::GROWSDOWN)
            && !other.prot.is_empty()
            && start.0 - below.end.0 < STACK_GUARD
        {
            return None;
        }
        self.add_vma(grown, vma);
        Some(())
    }

    /// A fault of guest code.
    pub(crate) fn fault(&mut self, addr: Addr, access: Access) -> Result<(), Fault> {
        let page = addr.page_down();
        let (range, vma) = self.vma_for(addr).ok_or(Fault::NotMapped)?;
        if !vma.allows(access, Force::No) {
            return Err(Fault::NotAllowed);
        }
        if let Some((_, installed)) = self.installed.get(page)
            && installed.prot.contains(needs(access))
        {
            // Another thread was here first.
            return Ok(());
        }
        let mut batch = Batch::default();
        let done = self.bring_in(page, range, &vma, access, &mut batch);
        self.commit(batch)?;
        done
    }

    /// A SIGBUS from the host for guest code: past the end of a file, or no memory left.
    pub(crate) fn bus(&mut self, addr: Addr, access: Access) -> Result<(), Fault> {
        let page = addr.page_down();
        let (range, vma) = self.vma_for(addr).ok_or(Fault::NotMapped)?;
        match self.installed.get(page).map(|(_, installed)| installed.place.clone()) {
            Some(Place::Host { .. }) => Err(Fault::Bus),
            Some(_) if self.pmas.get(page).is_none() && !self.has_file_page(page, range, &vma) => Err(Fault::Bus),
            Some(Place::Memory { .. }) => {
                // Either we give back what was freed, or the host's limits are tighter than ours: try once more, but
                // not for ever.
                if self.pool.is_full() || self.last_bus.replace(page) == Some(page) {
                    return Err(Fault::Oom);
                }
                Ok(())
            }
            Some(Place::Zero) | None => self.fault(addr, access),
        }
    }

    fn has_file_page(&self, page: Addr, range: AddrRange, vma: &Vma) -> bool {
        vma.file.as_ref().is_none_or(|file| vma.offset_of(range, page) < file.object.size())
    }

    /// Finds the bytes for a fault at `page` and maps them.
    fn bring_in(
        &mut self,
        page: Addr,
        range: AddrRange,
        vma: &Vma,
        access: Access,
        batch: &mut Batch,
    ) -> Result<(), Fault> {
        if !vma.is_private() {
            let (run, place) = self.locate(page, self.fresh_around(page, range, WINDOW), range, vma)?;
            self.install(run, place, vma.cpu_prot(), batch);
            return Ok(());
        }
        if self.pmas.get(page).is_none() {
            if access != Access::Write {
                let hole = self.pmas.gap_around(page, clip(block(page, READ_AHEAD), range));
                // Initialized data of a program: the write follows at once (relocation).
                let data = vma.prot.contains(Prot::WRITE) && range.len() <= SMALL_DATA || vma.copies_text();
                if vma.file.is_some() && !data {
                    let around = clip(self.fresh_around(page, range, READ_AHEAD), hole);
                    let (run, place) = self.locate(page, around, range, vma)?;
                    self.install(run, place, vma.cpu_prot() - Prot::WRITE, batch);
                    self.install_siblings(range, vma, batch);
                    return Ok(());
                }
                if vma.file.is_none() && (!vma.prot.contains(Prot::WRITE) || hole.len() >= SMALL_HOLE) {
                    let around = clip(self.fresh_around(page, range, READ_AHEAD), hole);
                    self.install(around, Place::Zero, vma.cpu_prot() - Prot::WRITE, batch);
                    return Ok(());
                }
            }
            let run = self.make_private(page, range, vma, batch)?;
            self.install_private(run, vma, batch);
            return Ok(());
        }
        let run = if access == Access::Write {
            self.break_cow(page, range, batch)?
        } else {
            // What is there and not mapped yet, or mapped with too little.
            let whole = self.pmas.get(page).map_or(block(page, PAGE_SIZE), |(piece, _)| clip(piece, range));
            clip(whole, self.fresh_around(page, range, READ_AHEAD))
        };
        self.install_private(run, vma, batch);
        Ok(())
    }

    /// Maps the read-only parts of the same file next to a VMA along with it: who runs a library's text will read its
    /// constants, and one more operation in a batch costs far less than a fault.
    fn install_siblings(&mut self, range: AddrRange, vma: &Vma, batch: &mut Batch) {
        let Some(file) = &vma.file else { return };
        let id = file.object.id();
        let near = AddrRange {
            start: Addr(range.start.0.saturating_sub(SIBLINGS_WITHIN)),
            end: Addr(range.end.0.saturating_add(SIBLINGS_WITHIN)),
        };
        let is_sibling = |other: &Vma| {
            other.is_private()
                && !other.prot.is_empty()
                && !other.prot.contains(Prot::WRITE)
                && !other.copies_text()
                && other.file.as_ref().is_some_and(|file| file.object.id() == id)
        };
        let siblings: Vec<(AddrRange, Vma)> = self
            .vmas
            .touching(near)
            .filter(|(at, other)| *at != range && is_sibling(other))
            .take(MAX_SIBLINGS)
            .map(|(at, other)| (at, other.clone()))
            .collect();
        for (at, other) in siblings {
            if self.installed.overlaps(at) || self.pmas.overlaps(at) || at.len() > READ_AHEAD {
                continue;
            }
            if let Ok((run, place)) = self.locate(at.start, at, at, &other) {
                self.install(run, place, other.cpu_prot(), batch);
            }
        }
    }

    /// Up to `size` bytes around `page` that the platform holds nothing in, or one installed mapping, which then is to
    /// be replaced as a whole.
    fn fresh_around(&self, page: Addr, range: AddrRange, size: u64) -> AddrRange {
        let limits = clip(block(page, size), range);
        match self.installed.get(page) {
            Some((installed, _)) => clip(installed, limits),
            None => self.installed.gap_around(page, limits),
        }
    }

    /// Maps the private pages of `run`, which all exist.
    pub(crate) fn install_private(&mut self, run: AddrRange, vma: &Vma, batch: &mut Batch) {
        let pieces: Vec<_> = self.pmas.within(run).collect();
        for (piece, pma) in pieces {
            let prot = if pma.cow { vma.cpu_prot() - Prot::WRITE } else { vma.cpu_prot() };
            self.install(piece, Place::Memory { offset: pma.offset }, prot, batch);
        }
    }

    /// Where the file has the bytes of `page`, with as much of `around` as lies in one run with it.
    fn locate(&self, page: Addr, around: AddrRange, range: AddrRange, vma: &Vma) -> Result<(AddrRange, Place), Fault> {
        let Some(file) = &vma.file else { return Err(Fault::Bus) };
        let write = !vma.is_private() && vma.prot.contains(Prot::WRITE);
        let at = vma.offset_of(range, page);
        let limit = file.object.size().checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX - (PAGE_SIZE - 1));
        if at >= limit {
            return Err(Fault::Bus);
        }
        let find = |from: Addr, end: Addr| -> Option<(AddrRange, Place)> {
            let offset = vma.offset_of(range, from);
            let len = (end.0.saturating_sub(from.0)).min(limit.saturating_sub(offset));
            let (located, run) = file.object.locate(offset, len, write).ok()?;
            let run = run.min(len) & !(PAGE_SIZE - 1);
            let place = match located {
                Located::Memory { offset } => Place::Memory { offset },
                Located::Host { file, offset } => Place::Host { file, offset, shared: !vma.is_private() },
            };
            let found = AddrRange { start: from, end: Addr(from.0 + run) };
            found.contains(page).then_some((found, place))
        };
        // An object in memory fills its holes for what it is asked for: ask for a window first, for more only where that
        // costs nothing.
        let near = clip(block(page, WINDOW), around);
        let found = if near.start < page { find(near.start, near.end) } else { None };
        let found = found.or_else(|| find(page, near.end)).ok_or(Fault::Bus)?;
        if near != around && matches!(found.1, Place::Host { .. }) {
            return Ok(find(around.start, around.end).unwrap_or(found));
        }
        Ok(found)
    }

    /// Makes private pages at `page`, where none are, and around it; says where.
    fn make_private(&mut self, page: Addr, range: AddrRange, vma: &Vma, batch: &mut Batch) -> Result<AddrRange, Fault> {
        let size = match &vma.file {
            None => WINDOW,
            Some(_) if vma.copies_text() => self.copy_run().max(TEXT_RUN),
            Some(_) => self.copy_run(),
        };
        let mut hole = self.pmas.gap_around(page, clip(block(page, size), range));
        if let Some(file) = &vma.file {
            let limit = file.object.size().checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX - (PAGE_SIZE - 1));
            let left = limit.saturating_sub(vma.offset_of(range, hole.start));
            hole.end = Addr(hole.end.0.min(hole.start.0.saturating_add(left)));
            if !hole.contains(page) {
                return Err(Fault::Bus);
            }
        }
        if self.pool.is_full() {
            return Err(Fault::Oom);
        }
        let homes = self.take_homes(hole, range)?;
        if vma.file.is_some() {
            for (piece, offset) in &homes {
                if let Err(fault) = self.copy_file(*piece, *offset, range, vma) {
                    for (piece, offset) in homes {
                        batch.free(piece, offset);
                    }
                    return Err(fault);
                }
            }
        }
        for (piece, offset) in homes {
            self.pmas.insert(piece, Pma { offset, cow: false, full: vma.file.is_some() });
        }
        Ok(hole)
    }

    /// Copies the file's bytes for the addresses `piece` to `offset` in the memory file, which is fresh (zeros).
    fn copy_file(&self, piece: AddrRange, offset: u64, range: AddrRange, vma: &Vma) -> Result<(), Fault> {
        let mut at = piece.start;
        while at < piece.end {
            let left = AddrRange { start: at, end: piece.end };
            let (run, place) = self.locate(at, left, range, vma)?;
            let to = offset + (run.start.0 - piece.start.0);
            match place {
                Place::Memory { offset: from } => self.pool.copy(from, to, run.len())?,
                Place::Host { file, offset: from, .. } => self.pool.read_host(&file, from, to, run.len())?,
                Place::Zero => {}
            }
            at = run.end;
        }
        Ok(())
    }

    fn copy_run(&self) -> u64 {
        if self.installed.len() > MANY_INSTALLED { WINDOW } else { COPY_RUN }
    }

    /// Makes the private page at `page` and what is like it around it writable: alone in its owner's hands. Says where.
    fn break_cow(&mut self, page: Addr, range: AddrRange, batch: &mut Batch) -> Result<AddrRange, Fault> {
        let Some((piece, &pma)) = self.pmas.get(page) else { return Err(Fault::NotMapped) };
        let whole = clip(piece, range);
        if !pma.cow {
            return Ok(clip(whole, self.fresh_around(page, range, READ_AHEAD)));
        }
        // The part of the window around the page where as many share.
        let window = clip(block(page, WINDOW), whole);
        let sole = self.sole_run(page, window, pma.offset + (window.start.0 - piece.start.0));
        if let Some(run) = sole {
            self.pmas.update(run, |_, pma| pma.cow = false);
            self.sweep(run, batch);
            return Ok(run);
        }
        if self.pool.is_full() {
            return Err(Fault::Oom);
        }
        let run = clip(block(page, self.copy_run()), window);
        let homes = self.take_homes(run, range)?;
        for (part, to) in &homes {
            let from = pma.offset + (part.start.0 - piece.start.0);
            if let Err(fault) = self.pool.copy(from, *to, part.len()) {
                for (part, offset) in homes {
                    batch.free(part, offset);
                }
                return Err(fault);
            }
        }
        for (part, old) in self.pmas.take(run) {
            batch.free_pages(part, old);
        }
        for (part, offset) in homes {
            self.pmas.insert(part, Pma { offset, cow: false, full: true });
        }
        Ok(run)
    }

    /// Whoever shared `run` has gone, and with it probably what else was shared: makes all that is shared no more
    /// writable in one batch, where guest code could write before.
    fn sweep(&mut self, run: AddrRange, batch: &mut Batch) {
        let shared: Vec<(AddrRange, Pma)> = self
            .pmas
            .iter()
            .filter(|(piece, pma)| pma.cow && piece.intersect(run).is_none())
            .take(MAX_SWEEP)
            .map(|(piece, pma)| (piece, *pma))
            .collect();
        for (piece, pma) in shared {
            if self.pool.refs(pma.offset, piece.len()) != (1, piece.len()) {
                continue;
            }
            self.pmas.update(piece, |_, pma| pma.cow = false);
            let upgradable: Vec<AddrRange> = self
                .installed
                .within(piece)
                .filter(|(_, installed)| installed.made_writable && !installed.prot.contains(Prot::WRITE))
                .map(|(part, _)| part)
                .collect();
            for part in upgradable {
                for (part, vma) in self.vmas.within(part).collect::<Vec<_>>() {
                    if vma.prot.contains(Prot::WRITE) {
                        self.install_private(part, &vma, batch);
                    }
                }
            }
        }
    }

    /// The part of `window` (whose pages start at `offset` in the memory file) around `page` that nobody shares, or
    /// `None` if somebody shares the page.
    fn sole_run(&self, page: Addr, window: AddrRange, offset: u64) -> Option<AddrRange> {
        let mut at = window.start;
        while at < window.end {
            let (refs, len) = self.pool.refs(offset + (at.0 - window.start.0), window.end.0 - at.0);
            let run = AddrRange { start: at, end: Addr(at.0 + len.max(PAGE_SIZE)) };
            if run.contains(page) {
                return (refs == 1).then(|| clip(run, window));
            }
            at = run.end;
        }
        None
    }

    /// Space in the memory file for fresh pages at `range`, in pieces, out of what is reserved for them or newly
    /// reserved together with the surroundings (in the VMA at `vma`). The caller owns the references.
    fn take_homes(&mut self, range: AddrRange, vma: AddrRange) -> Result<Vec<(AddrRange, u64)>, Fault> {
        for gap in self.homes.gaps(range) {
            // Whole windows, so that neighbours get neighbouring pages; larger pieces inside large mappings.
            let size = if vma.len() >= ARENA { ARENA } else { WINDOW };
            let region = AddrRange {
                start: block(gap.start, size).start.max(block(vma.start, WINDOW).start),
                end: block(Addr(gap.end.0 - 1), size).end.min(block(Addr(vma.end.0 - 1), WINDOW).end),
            };
            let mut region = self.homes.gap_around(gap.start, region);
            let offset = match self.pool.allocate(region.len(), region.start.0 % WINDOW) {
                Ok(offset) => offset,
                // Offset space is short: no more than needed.
                Err(_) => {
                    region = gap;
                    self.pool.allocate(region.len(), region.start.0 % WINDOW)?
                }
            };
            self.homes.insert(region, Home { offset });
        }
        Ok(self.homes.take(range).into_iter().map(|(piece, home)| (piece, home.offset)).collect())
    }

    /// Finds the bytes for an access of the kernel to `[addr, end)`: a first part of it, and where it is.
    pub(crate) fn resolve(
        &mut self,
        addr: Addr,
        end: Addr,
        access: Access,
        force: Force,
    ) -> Result<(AddrRange, Place), Fault> {
        let page = addr.page_down();
        let (range, vma) = self.vma_for(addr).ok_or(Fault::NotMapped)?;
        if !vma.allows(access, force) {
            return Err(Fault::NotAllowed);
        }
        let wanted = AddrRange { start: page, end: end.page_up().unwrap_or(range.end).min(range.end) };
        let (run, place) = if !vma.is_private() {
            self.locate(page, wanted, range, &vma)?
        } else {
            let pma = self.pmas.get(page).map(|(_, pma)| *pma);
            let changed = match (access, pma) {
                (Access::Write, None) => {
                    let mut batch = Batch::default();
                    let run = self.make_private(page, range, &vma, &mut batch);
                    Some((run, batch))
                }
                (Access::Write, Some(pma)) if pma.cow => {
                    let mut batch = Batch::default();
                    let run = self.break_cow(page, range, &mut batch);
                    Some((run, batch))
                }
                _ => None,
            };
            if let Some((run, mut batch)) = changed {
                if let Ok(run) = run
                    && self.installed.overlaps(run)
                {
                    self.install_private(run, &vma, &mut batch);
                }
                self.commit(batch)?;
                run?;
            }
            match self.pmas.get(page) {
                Some((piece, pma)) => (piece, Place::Memory { offset: pma.offset }),
                None if vma.file.is_some() => {
                    let hole = self.pmas.gap_around(page, wanted);
                    self.locate(page, hole, range, &vma)?
                }
                None => (self.pmas.gap_around(page, wanted), Place::Zero),
            }
        };
        let part = clip(AddrRange { start: addr, end }, clip(run, range));
        Ok((part, place.cut(part.start.0 - run.start.0)))
    }
}
