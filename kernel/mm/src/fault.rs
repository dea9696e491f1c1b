//! Page faults: from an address and a wish to the bytes, and to what the platform maps.
//!
//! Two callers share the logic. Guest code faults ([`State::fault`]): the bytes are found and mapped, with more around
//! them than was asked for, since a trip to us costs as much as copying dozens of pages. The kernel's own copies
//! ([`State::resolve`]) find the bytes only, and tell the platform no more than it has to know.

mod private;

use usermem::memmap::Located;
use usermem::platform::{Access, Prot};
use usermem::{Addr, AddrRange, PAGE_SIZE};

use crate::addrmap::Piece;
use crate::mm::Mm;
use crate::pma::Place;
use crate::state::{Batch, Entries, STACK_GUARD, State, WINDOW};
use crate::types::Fault;
use crate::vma::{Force, Vma, VmaFlags, needs};

/// Anonymous mappings up to this size are made as a whole.
const SMALL_MAPPING: u64 = 16 * PAGE_SIZE;

/// Private copies of file pages and of shared pages are made in aligned runs of this size.
const COPY_RUN: u64 = 16 * PAGE_SIZE;

/// Read-only mappings of files and of zeros are made up to this far around a fault.
const READ_AHEAD: u64 = 64 << 20;

/// A hole smaller than this is filled on a read fault too: the write will follow.
const SMALL_HOLE: u64 = 1 << 20;

/// Writable private mappings of files up to this size are taken for a program's data.
const SMALL_DATA: u64 = 256 << 10;

/// How far from a mapping others of the same file are looked for, and how many are mapped along with it.
const SIBLINGS_WITHIN: u64 = 32 << 20;
const MAX_SIBLINGS: usize = 4;

/// The aligned block of `size` bytes (a power of two) around `addr`.
pub(crate) fn block(addr: Addr, size: u64) -> AddrRange {
    let start = addr.0 & !(size - 1);
    AddrRange { start: Addr(start), end: Addr(start.saturating_add(size)) }
}

/// The part of `range` in `limits` (which has at least one address of it).
fn clip(range: AddrRange, limits: AddrRange) -> AddrRange {
    range.intersect(limits).unwrap_or(AddrRange { start: range.start, end: range.start })
}

impl Mm {
    /// Maps what a program that is about to start will use first, in one go: its text and constants, its data, its stack.
    pub fn map_program(&self) {
        let mut state = self.lock();
        let mut batch = Batch::default();
        let vmas: Vec<_> = state.vmas.iter().map(|(range, vma)| (range, vma.clone())).collect();
        for (range, vma) in vmas {
            state.map_ahead(range, &vma, &mut batch);
        }
        // A dead address space is noticed by the task in it.
        let _ = state.commit(batch);
    }
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
        if access != Access::Write {
            self.install_patched(range, vma, batch);
            if self.installed.get(page).is_some_and(|(_, installed)| installed.prot.contains(needs(access))) {
                return Ok(());
            }
        }
        if !vma.is_private() {
            let (run, place) = self.locate(page, self.fresh_around(page, range, WINDOW), range, vma)?;
            self.install(run, place, vma.cpu_prot(), Entries::Later, batch);
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
                    self.install(run, place, vma.cpu_prot() - Prot::WRITE, Entries::Later, batch);
                    self.install_siblings(range, vma, batch);
                    return Ok(());
                }
                if vma.file.is_none() && (!vma.prot.contains(Prot::WRITE) || hole.len() >= SMALL_HOLE) {
                    let around = clip(self.fresh_around(page, range, READ_AHEAD), hole);
                    self.install(around, Place::Zero, vma.cpu_prot() - Prot::WRITE, Entries::Later, batch);
                    return Ok(());
                }
            }
            let (run, entries) = self.make_private(page, range, vma, PAGE_SIZE, batch)?;
            self.install_private(run, vma, entries, batch);
            self.install_siblings(range, vma, batch);
            return Ok(());
        }
        let run = if access == Access::Write {
            self.break_cow(page, range, batch)?
        } else {
            // What is there and not mapped yet, or mapped with too little.
            let whole = self.pmas.get(page).map_or(block(page, PAGE_SIZE), |(piece, _)| clip(piece, range));
            clip(whole, self.fresh_around(page, range, READ_AHEAD))
        };
        let entries = if run.len() <= COPY_RUN { Entries::Now } else { Entries::Later };
        self.install_private(run, vma, entries, batch);
        Ok(())
    }

    /// Maps the other parts of the same file next to a VMA along with it: who runs a library's text will read its constants
    /// and write to its data, and one more operation in a batch costs far less than a fault.
    fn install_siblings(&mut self, range: AddrRange, vma: &Vma, batch: &mut Batch) {
        let Some(file) = &vma.file else { return };
        let id = file.object.id();
        // What lies behind data that is touched first is about to be replaced: by the data that the file has no bytes for.
        let data = vma.prot.contains(Prot::WRITE);
        let near = AddrRange {
            start: Addr(range.start.0.saturating_sub(SIBLINGS_WITHIN)),
            end: Addr(range.end.0.saturating_add(SIBLINGS_WITHIN)),
        };
        let is_sibling = |other: &Vma| {
            other.is_private()
                && !other.prot.is_empty()
                && !other.copies_text()
                && other.file.as_ref().is_some_and(|file| file.object.id() == id)
        };
        let siblings: Vec<(AddrRange, Vma)> = self
            .vmas
            .touching(near)
            .filter(|(at, other)| *at != range && !(data && at.start > range.start) && is_sibling(other))
            .take(MAX_SIBLINGS)
            .map(|(at, other)| (at, other.clone()))
            .collect();
        for (at, other) in siblings {
            let data = other.prot.contains(Prot::WRITE);
            if self.installed.overlaps(at) || (data && self.pmas.overlaps(at)) {
                continue;
            }
            self.map_ahead(at, &other, batch);
            // What the file has no bytes for: uninitialized data.
            let next = self.vmas.get(at.end).filter(|(next, vma)| data && vma.file.is_none() && next.start == at.end);
            if let Some((at, vma)) = next.map(|(at, vma)| (at, vma.clone()))
                && !self.installed.overlaps(at)
            {
                self.map_ahead(at, &vma, batch);
            }
        }
    }

    /// Maps what a program is about to use of a VMA. What cannot be had now, its fault will ask for again.
    pub(crate) fn map_ahead(&mut self, range: AddrRange, vma: &Vma, batch: &mut Batch) {
        if vma.prot.is_empty() || vma.copies_text() || !vma.is_private() {
            return;
        }
        let data = vma.prot.contains(Prot::WRITE);
        if data && vma.file.is_some() {
            if range.len() > COPY_RUN {
                return;
            }
            let mut at = range.start;
            while at < range.end && self.pmas.get(at).is_none() {
                let Ok((run, _)) = self.make_private(at, range, vma, PAGE_SIZE, batch) else { break };
                at = run.end;
            }
        } else if !data && vma.file.is_some() {
            self.install_patched(range, vma, batch);
            let around = clip(self.fresh_around(range.start, range, READ_AHEAD), range);
            if !self.installed.overlaps(around)
                && !self.pmas.overlaps(around)
                && let Ok((run, place)) = self.locate(range.start, around, range, vma)
            {
                self.install(run, place, vma.cpu_prot(), Entries::Later, batch);
            }
            return;
        } else if vma.flags.contains(VmaFlags::GROWSDOWN) {
            // A stack goes on below what is there.
            let top = self.pmas.within(range).next().map(|(top, _)| top.start);
            if let Some(top) = top.filter(|top| *top > range.start) {
                let _ = self.make_private(Addr(top.0 - PAGE_SIZE), range, vma, PAGE_SIZE, batch);
            }
        } else if data && range.len() <= SMALL_MAPPING && !self.pmas.overlaps(range) {
            let _ = self.make_private(range.start, range, vma, PAGE_SIZE, batch);
        }
        self.install_private(range, vma, Entries::Now, batch);
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
    pub(crate) fn install_private(&mut self, run: AddrRange, vma: &Vma, entries: Entries, batch: &mut Batch) {
        let pieces: Vec<_> = self.pmas.within(run).collect();
        for (piece, pma) in pieces {
            let prot = if pma.cow { vma.cpu_prot() - Prot::WRITE } else { vma.cpu_prot() };
            self.install(piece, Place::Memory { offset: pma.offset }, prot, entries, batch);
        }
    }

    /// Where the file has the bytes of `page`, with as much of `around` as lies in one run with it.
    pub(crate) fn locate(
        &self,
        page: Addr,
        around: AddrRange,
        range: AddrRange,
        vma: &Vma,
    ) -> Result<(AddrRange, Place), Fault> {
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

    /// Where in the memory file an access of the kernel to `len` bytes at `addr` finds them, if they are private memory in one
    /// piece that is ready for it, as mostly. `None`: ask [`Self::resolve`].
    pub(crate) fn resolve_at_once(&self, addr: Addr, len: u64, access: Access) -> Option<u64> {
        let (range, vma) = self.vmas.get(addr)?;
        let (piece, pma) = self.pmas.get(addr)?;
        let ready = vma.is_private()
            && vma.allows(access, Force::No)
            && !pma.text
            && !(pma.cow && access == Access::Write)
            && addr.0.checked_add(len)? <= range.end.0.min(piece.end.0);
        ready.then(|| pma.offset + (addr.0 - piece.start.0))
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
            if access == Access::Write && self.pmas.get(page).is_some_and(|(_, pma)| pma.text) {
                let mut batch = Batch::default();
                self.drop_text(wanted, &mut batch);
                self.commit(batch)?;
            }
            let pma = self.pmas.get(page).map(|(_, pma)| *pma);
            let changed = match (access, pma) {
                (Access::Write, None) => {
                    let mut batch = Batch::default();
                    let run = self.make_private(page, range, &vma, wanted.len(), &mut batch).map(|(run, _)| run);
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
                    self.install_private(run, &vma, Entries::Later, &mut batch);
                }
                self.commit(batch)?;
                run?;
            }
            match self.pmas.get(page) {
                // What is displayed is the file.
                Some((piece, pma)) if pma.text && vma.file.is_some() => {
                    self.locate(page, clip(piece, wanted), range, &vma)?
                }
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
