//! Page faults: from an address and a wish to the bytes, and to what the platform maps.
//!
//! Two callers share the logic. Guest code faults ([`State::fault`]): the bytes are found and mapped, with more around
//! them than was asked for, since a trip to us costs as much as copying dozens of pages. The kernel's own copies
//! ([`State::resolve`]) find the bytes only, and tell the platform no more than it has to know.

use smallvec::SmallVec;
use usermem::memfile::Content;
use usermem::memmap::Located;
use usermem::platform::{Access, Prot};
use usermem::{Addr, AddrRange, PAGE_SIZE};

use crate::addrmap::Piece;
use crate::mm::Mm;
use crate::pma::{Place, Pma};
use crate::state::{Batch, Entries, STACK_GUARD, State, WINDOW};
use crate::types::Fault;
use crate::vma::{Force, Vma, VmaFlags, needs};

/// Anonymous memory begins with runs of this size; where it grows contiguously, they become as long as what is there.
const FIRST_RUN: u64 = 8 * PAGE_SIZE;

/// Anonymous mappings up to this size are made as a whole.
const SMALL_MAPPING: u64 = 16 * PAGE_SIZE;

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

/// Private pages get their page-table entries at once in runs up to this size; longer ones are one huge page, which the
/// host enters as a whole.
const ENTERED: u64 = WINDOW / 2;

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

/// Pages for addresses: where in the memory file, and what is in them.
type Taken = SmallVec<[(AddrRange, u64, Content); 2]>;

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

    /// Makes private pages at `page`, where none are, and around it, the more if the next `wanted` bytes are about to be
    /// used; says where, and whether they have memory already.
    fn make_private(
        &mut self,
        page: Addr,
        range: AddrRange,
        vma: &Vma,
        wanted: u64,
        batch: &mut Batch,
    ) -> Result<(AddrRange, Entries), Fault> {
        let run = match &vma.file {
            None => self.anonymous_run(page, range, wanted),
            Some(file) => {
                let size = if vma.copies_text() { self.copy_run().max(TEXT_RUN) } else { self.copy_run() };
                let mut run = self.pmas.gap_around(page, clip(block(page, size), range));
                let limit =
                    file.object.size().checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX - (PAGE_SIZE - 1));
                let left = limit.saturating_sub(vma.offset_of(range, run.start));
                run.end = Addr(run.end.0.min(run.start.0.saturating_add(left)));
                if !run.contains(page) {
                    return Err(Fault::Bus);
                }
                run
            }
        };
        let (run, taken) = self.take_pages(page, run)?;
        let fill = |state: &Self| {
            taken.iter().try_for_each(|(piece, offset, content)| {
                if *content == Content::Leftovers {
                    state.pool.zero(*offset, piece.len())?;
                }
                if vma.file.is_some() { state.copy_file(*piece, *offset, range, vma) } else { Ok(()) }
            })
        };
        if let Err(fault) = fill(self) {
            for (piece, offset, _) in taken {
                batch.free(piece, offset);
            }
            return Err(fault);
        }
        let holes = vma.file.is_none() && taken.iter().any(|(_, _, content)| *content == Content::Holes);
        for (piece, offset, _) in taken {
            self.pmas.insert(piece, Pma { offset, cow: false, text: false });
        }
        let entries = if holes || run.len() > ENTERED { Entries::Later } else { Entries::Now };
        Ok((run, entries))
    }

    /// How much anonymous memory to make at `page` of the VMA at `range`, where there is none: little at first, and where
    /// it continues what is there, as much again.
    fn anonymous_run(&self, page: Addr, range: AddrRange, wanted: u64) -> AddrRange {
        let hole = self.pmas.gap_around(page, range);
        if range.len() <= SMALL_MAPPING {
            return hole;
        }
        let grown = if page.0 - hole.start.0 < FIRST_RUN {
            self.present_before(hole.start, range)
        } else if hole.end.0 - page.0 <= FIRST_RUN {
            self.present_after(hole.end, range)
        } else {
            0
        };
        // The largest power of two that is not more.
        let size = (grown.max(FIRST_RUN) / 2 + 1).next_power_of_two().min(WINDOW);
        let mut run = block(page, size);
        run.end = run.end.max(Addr(page.0.saturating_add(wanted)).min(block(page, WINDOW).end));
        clip(run, hole)
    }

    /// Bytes of private pages that end at `end`, up to a window of them.
    fn present_before(&self, end: Addr, range: AddrRange) -> u64 {
        let start = Addr(end.0.saturating_sub(WINDOW)).max(range.start);
        let mut at = end;
        for (piece, _) in self.pmas.within(AddrRange { start, end: end.max(start) }).rev() {
            if piece.end != at {
                break;
            }
            at = piece.start;
        }
        end.0 - at.0
    }

    /// Bytes of private pages that start at `start`, up to a window of them.
    fn present_after(&self, start: Addr, range: AddrRange) -> u64 {
        let end = Addr(start.0.saturating_add(WINDOW)).min(range.end);
        let mut at = start;
        for (piece, _) in self.pmas.within(AddrRange { start: start.min(end), end }) {
            if piece.start != at {
                break;
            }
            at = piece.end;
        }
        at.0 - start.0
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
        let (run, taken) = self.take_pages(page, clip(block(page, self.copy_run()), window))?;
        for (part, to, _) in &taken {
            let from = pma.offset + (part.start.0 - piece.start.0);
            if let Err(fault) = self.pool.copy(from, *to, part.len()) {
                for (part, offset, _) in taken {
                    batch.free(part, offset);
                }
                return Err(fault);
            }
        }
        for (part, old) in self.pmas.take(run) {
            batch.free_pages(part, old);
        }
        for (part, offset, _) in taken {
            self.pmas.insert(part, Pma { offset, cow: false, text: false });
        }
        Ok(run)
    }

    /// Whoever shared `run` has gone, and with it probably what else was shared: makes all that is shared no more
    /// writable in one batch, where guest code could write before.
    fn sweep(&mut self, run: AddrRange, batch: &mut Batch) {
        let shared: Vec<(AddrRange, Pma)> = self
            .pmas
            .iter()
            .filter(|(piece, pma)| pma.cow && !pma.text && piece.intersect(run).is_none())
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
                        self.install_private(part, &vma, Entries::Later, batch);
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

    /// Takes pages for `run`, or if there are not so many, for `page` of it: for which addresses, where they are, and what
    /// is in them. The caller owns the references.
    fn take_pages(&self, page: Addr, run: AddrRange) -> Result<(AddrRange, Taken), Fault> {
        match self.take_run(run) {
            Ok(taken) => Ok((run, taken)),
            Err(_) => {
                let run = block(page, PAGE_SIZE);
                self.take_run(run).map(|taken| (run, taken))
            }
        }
    }

    fn take_run(&self, run: AddrRange) -> Result<Taken, Fault> {
        let mut taken = Taken::new();
        let mut at = run.start;
        // To continue what is there makes one mapping of two.
        let below = self.pmas.before(run.start).filter(|(piece, _)| piece.end == run.start);
        let mut after = below.map(|(piece, pma)| pma.offset + piece.len());
        while at < run.end {
            let len = (run.end.0 - at.0).min(WINDOW);
            match self.pool.take(len, after) {
                Ok((offset, content)) => {
                    let piece = AddrRange { start: at, end: Addr(at.0 + len) };
                    taken.push((piece, offset, content));
                    after = Some(offset + len);
                    at = piece.end;
                }
                Err(fault) => {
                    // Nobody has seen them.
                    for (piece, offset, _) in taken {
                        self.pool.dec_ref(offset, piece.len());
                    }
                    return Err(fault);
                }
            }
        }
        Ok(taken)
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
