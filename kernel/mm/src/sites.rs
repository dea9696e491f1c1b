//! Call sites in an address space: which of its text is patched ([`crate::text`]), where the slots are, and what an
//! instruction pointer in them stands for.
//!
//! Copies of text are private pages ([`crate::pma::Pma`]) marked `text`: shared, never written, dropped as soon as the
//! mapping becomes writable. The slots are a hidden mapping; whoever names an address in it (munmap, mprotect, MAP_FIXED
//! …) makes it go, and the patched text with it. It lies where the jumps to it have a top byte
//! that traps ([`arch::x86_64::patch::traps`]): some 70 MB to 1.8 GB away from the text.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use arch::x86_64::patch::SITE_WINDOW;
use usermem::host::FileIdentity;
use usermem::memmap::Located;
use usermem::platform::Prot;
use usermem::ptr::UserMemory;
use usermem::{Addr, AddrRange, PAGE_SIZE, host};

use crate::mm::Mm;
use crate::pma::Pma;
use crate::state::{Batch, Entries, State};
use crate::text::{Copied, Image, Key, Learner, SLOTS_LEN, SharedText, TEXT_RUN, Trapped};
use crate::types::Sharing;
use crate::vma::{Vma, VmaFlags};

/// Top bytes of the distances from text to its slots, with how many follow each other: those that trap. First what lies
/// below, where there is nothing before a program and little among libraries.
const TOP_BYTES: [(i8, i64); 13] = [
    (-6, 2),
    (-20, 4),
    (-28, 4),
    (0x60, 2),
    (0x6c, 4),
    (0x3f, 1),
    (0x37, 1),
    (0x2f, 1),
    (0x27, 1),
    (0x1e, 2),
    (0x16, 2),
    (0x0e, 1),
    (-12, 1),
];

/// The same for text from where that leads above the area of mappings that have no place of their own.
const TOP_BYTES_ABOVE: (i8, i64) = (6, 2);

/// Places that slots may have for one top byte, so that libraries next to each other have slots next to each other.
const PLACES: u64 = 64;

/// Most files of which an address space has patched text; others stay as they are. They are looked through at each trap.
const MAX_AREAS: usize = 256;

/// What came of a trap at a call site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallSite {
    /// Later traps are worth telling.
    Open,
    /// This site will always trap in this address space.
    Settled,
}

/// The slots of one file in this address space.
#[derive(Clone)]
pub(crate) struct Area {
    slots: AddrRange,
    /// The address that offset 0 of the file would have.
    origin: u64,
    object: u64,
    image: Arc<Image>,
    /// How often the copies had been joined when all of them were taken over.
    joins: u32,
}

impl Mm {
    /// A system call of `learner` has trapped; `next` is the address behind the instruction. Its site is patched when that
    /// pays.
    pub fn note_call(&self, next: Addr, nr: u64, learner: Learner) -> CallSite {
        self.lock().note_call(next, nr, learner)
    }

    /// Makes room for the slots of the text that is mapped now: a program and its interpreter, once they are complete.
    /// Libraries that these map bring theirs.
    pub fn place_slots(&self) {
        let mut state = self.lock();
        if state.text.is_none() {
            return;
        }
        let text: Vec<AddrRange> =
            state.vmas.iter().filter(|(_, vma)| vma.is_patchable()).map(|(range, _)| range).collect();
        for range in text {
            state.place_area(range);
        }
    }

    /// The address that the guest shall see for an instruction pointer of its own.
    pub fn visible_ip(&self, ip: Addr) -> Addr {
        let state = self.lock();
        let seen = state.areas.iter().find(|area| area.slots.contains(ip)).and_then(|area| {
            let offset = area.image.stands_for(ip.0 - area.slots.start.0)?;
            Some(Addr(area.origin.wrapping_add(offset)))
        });
        seen.unwrap_or(ip)
    }

    /// Where to go on when guest code is at `ip` and a jump of ours has displaced the instruction there.
    ///
    /// The jump may have gone since guest code met it (another thread has made the text writable): the copy means the same
    /// as long as nothing else has been written there.
    pub fn displaced_ip(&self, ip: Addr) -> Option<Addr> {
        let (copy, displaced) = {
            let state = self.lock();
            let (vma_range, vma) = state.vmas.get(ip)?;
            let area = state.area_of(vma_range, vma)?;
            state.pmas.get(area.slots.start)?;
            let displaced = area.image.displaced(vma.offset_of(vma_range, ip))?;
            let copy = Addr(area.slots.start.0 + displaced.copy);
            if state.pmas.get(ip).is_some_and(|(_, pma)| pma.text) {
                return Some(copy);
            }
            (copy, displaced)
        };
        let mut now = [0; SITE_WINDOW];
        let now = now.get_mut(..displaced.code().len())?;
        self.read(ip, now).ok()?;
        (now == displaced.code()).then_some(copy)
    }
}

impl Vma {
    /// Whether its system calls may be patched.
    fn is_patchable(&self) -> bool {
        self.is_private()
            && self.prot.contains(Prot::EXEC)
            && !self.prot.contains(Prot::WRITE)
            && self.file.is_some()
            && !self.flags.contains(VmaFlags::SPECIAL)
            && !self.copies_text()
    }
}

impl State {
    fn area_of(&self, range: AddrRange, vma: &Vma) -> Option<&Area> {
        let file = vma.file.as_ref()?;
        let origin = range.start.0.wrapping_sub(file.offset);
        let id = file.object.id();
        self.areas.iter().find(|area| area.origin == origin && area.object == id)
    }

    /// The host file behind a patchable VMA.
    fn text_source(range: AddrRange, vma: &Vma) -> Option<Arc<OwnedFd>> {
        let file = vma.file.as_ref()?;
        match file.object.locate(file.offset, range.len(), false).ok()? {
            (Located::Host { file: source, offset }, _) if offset == file.offset => Some(source),
            _ => None,
        }
    }

    fn note_call(&mut self, next: Addr, nr: u64, learner: Learner) -> CallSite {
        if self.text.as_ref().is_none_or(|text| text.learner != learner) {
            return CallSite::Settled;
        }
        let site = Addr(next.0.wrapping_sub(2));
        let Some((range, vma)) = self.vmas.get(site) else { return CallSite::Settled };
        if !vma.is_patchable() || self.pmas.get(site).is_some_and(|(_, pma)| !pma.text) {
            return CallSite::Settled;
        }
        let Some(area) = self.area_of(range, vma).cloned() else { return CallSite::Settled };
        let Some(source) = Self::text_source(range, vma) else { return CallSite::Settled };
        let offset = vma.offset_of(range, site);
        match area.image.trapped(offset, nr, &source) {
            Trapped::Counted => CallSite::Open,
            Trapped::Settled => CallSite::Settled,
            Trapped::Patched => {
                let mut batch = Batch::default();
                let run = offset & !(TEXT_RUN - 1);
                self.adopt(&area, range, run, run + TEXT_RUN, &mut batch);
                let adopted = self.pmas.get(site).is_some();
                if adopted && let Some((range, vma)) = self.vmas.get(site).map(|(range, vma)| (range, vma.clone())) {
                    self.install_patched(range, &vma, &mut batch);
                }
                // A dead address space is noticed by the tasks in it.
                let _ = self.commit(batch);
                if adopted { CallSite::Open } else { CallSite::Settled }
            }
        }
    }

    /// A mapping has been made. If it is the text of a file of which the rest is mapped already, its slots are placed.
    pub(crate) fn text_mapped(&mut self, range: AddrRange) {
        if self.text.is_none() {
            return;
        }
        let Some((at, vma)) = self.vmas.get(range.start) else { return };
        let Some(file) = vma.file.as_ref().filter(|_| vma.is_patchable()) else { return };
        let id = file.object.id();
        let rest = self.vmas.get(at.end).and_then(|(_, next)| next.file.as_ref());
        if rest.is_some_and(|rest| rest.object.id() == id) {
            self.place_area(at);
        }
    }

    /// Places the slots of the text at `text`, and takes over what is patched of it.
    fn place_area(&mut self, text: AddrRange) {
        let Some(SharedText { cache, learner, secure }) = self.text.clone() else { return };
        let Some((range, vma)) = self.vmas.get(text.start).map(|(range, vma)| (range, vma.clone())) else { return };
        let Some(file) = &vma.file else { return };
        let Some(source) = Self::text_source(range, &vma) else { return };
        let origin = range.start.0.wrapping_sub(file.offset);
        let area = match self.area_of(range, &vma) {
            Some(area) => {
                area.image.settle(|| Some(source));
                area.clone()
            }
            None if self.areas.len() >= MAX_AREAS => return,
            None => {
                let Ok(identity) = host::identity(source.as_fd()) else { return };
                let Some(slots) = self.room_for_slots(range, identity) else { return };
                let key = Key { file: identity, distance: slots.start.0.wrapping_sub(origin), learner, secure };
                let image = cache.image(key);
                let joins = image.settle(|| Some(source));
                let area = Area { slots, origin, object: file.object.id(), image, joins };
                self.add_vma(slots, hidden());
                self.areas.push(area.clone());
                area
            }
        };
        let mut batch = Batch::default();
        self.adopt(&area, range, file.offset, file.offset.saturating_add(range.len()), &mut batch);
        // Nothing that the platform knows has changed: this text is new, or was not patched.
        let _ = self.commit(batch);
    }

    /// Takes over copies that have been joined since: a child is about to get what is here, and each mapping costs it.
    pub(crate) fn follow_text(&mut self) {
        let mut batch = Batch::default();
        for at in 0..self.areas.len() {
            let Some(area) = self.areas.get(at).cloned() else { break };
            let joins = area.image.settle(|| {
                let (range, vma) = self.text_of(&area).next()?;
                Self::text_source(range, vma)
            });
            if joins == area.joins {
                continue;
            }
            let text: Vec<_> = self.text_of(&area).map(|(range, vma)| (range, vma.clone())).collect();
            for (range, vma) in text {
                let offset = vma.offset_of(range, range.start);
                self.adopt(&area, range, offset, offset.saturating_add(range.len()), &mut batch);
                self.install_patched(range, &vma, &mut batch);
            }
            if let Some(area) = self.areas.get_mut(at) {
                area.joins = joins;
            }
        }
        // A dead address space is noticed by the tasks in it.
        let _ = self.commit(batch);
    }

    /// The patchable VMAs that an area is for.
    fn text_of<'a>(&'a self, area: &'a Area) -> impl Iterator<Item = (AddrRange, &'a Vma)> {
        self.vmas.iter().filter(|(range, vma)| {
            let file = vma.file.as_ref().filter(|file| file.object.id() == area.object);
            vma.is_patchable() && file.is_some_and(|file| range.start.0.wrapping_sub(file.offset) == area.origin)
        })
    }

    /// A free place for the slots of `text`. It should have the same distance in each process, so it hangs on the file.
    fn room_for_slots(&self, text: AddrRange, identity: FileIdentity) -> Option<AddrRange> {
        let mut hasher = std::hash::DefaultHasher::new();
        identity.hash(&mut hasher);
        let place = hasher.finish() % PLACES * SLOTS_LEN;
        let above = Some(TOP_BYTES_ABOVE).filter(|(top, count)| {
            let reach = (i64::from(*top) + count) << 24;
            text.start.0.saturating_add_signed(reach) > self.layout.mmap_base.0
        });
        above.into_iter().chain(TOP_BYTES).find_map(|(top, count)| {
            // The largest distance is that of the first site, of which there may be one at the start.
            let end = text.start.0.checked_add_signed((i64::from(top) + count) << 24)?;
            let start = end.checked_sub(SLOTS_LEN + place)?;
            let slots = AddrRange::of_len(Addr(start).page_down(), SLOTS_LEN)?;
            // Nor where a stack may grow to.
            let stack = self.vmas.at_or_after(slots.end).filter(|(_, vma)| vma.flags.contains(VmaFlags::GROWSDOWN));
            let below = stack.is_none_or(|(at, _)| at.end.0.saturating_sub(self.limits.stack) > slots.end.0);
            let free = self.layout.user.contains_range(slots) && self.is_free(slots, VmaFlags::empty());
            (below && free).then_some(slots)
        })
    }

    /// Takes over the copies of `[start, end)` of the file in the VMA at `range`, in place of older ones.
    fn adopt(&mut self, area: &Area, range: AddrRange, start: u64, end: u64, batch: &mut Batch) {
        for Copied { start, len, copy } in area.image.runs(start, end) {
            let at = AddrRange::of_len(Addr(area.origin.wrapping_add(start)), len).and_then(|at| at.intersect(range));
            let Some(at) = at else {
                self.pool.dec_ref(copy, len);
                continue;
            };
            let skipped = at.start.0 - area.origin.wrapping_add(start);
            let mut mine = vec![at];
            for (piece, pma) in self.pmas.within(at).collect::<Vec<_>>() {
                if pma.text {
                    continue;
                }
                // Private copies of the guest's own stay.
                mine = mine.into_iter().flat_map(|part| without(part, piece)).collect();
            }
            for part in mine {
                for (piece, old) in self.pmas.take(part) {
                    batch.free_pages(piece, old);
                }
                let by = skipped + (part.start.0 - at.start.0);
                if self.pool.inc_ref(copy + by, part.len()).is_ok() {
                    self.pmas.insert(part, Pma { offset: copy + by, cow: true, text: true });
                }
            }
            self.pool.dec_ref(copy, len);
        }
        if self.pmas.get(area.slots.start).is_none()
            && self.vmas.get(area.slots.start).is_some_and(|(_, vma)| vma.flags.contains(VmaFlags::HIDDEN))
            && let Some(slots) = area.image.slots()
        {
            self.pmas.insert(area.slots, Pma { offset: slots, cow: true, text: true });
        }
    }

    /// If the VMA is text of which something is patched: maps all of it, with its slots, in one batch.
    pub(crate) fn install_patched(&mut self, range: AddrRange, vma: &Vma, batch: &mut Batch) {
        if self.areas.is_empty() || !vma.is_patchable() || !self.pmas.within(range).any(|(_, pma)| pma.text) {
            return;
        }
        let Some(slots) = self.area_of(range, vma).map(|area| area.slots) else { return };
        self.install_text(range, vma, batch);
        self.install_slots(slots, batch);
    }

    /// Maps the text of a VMA: copies and the file's own parts.
    fn install_text(&mut self, range: AddrRange, vma: &Vma, batch: &mut Batch) {
        let mut at = range.start;
        while at < range.end {
            let piece = self.pmas.get(at).map(|(piece, _)| piece.intersect(range).unwrap_or(piece));
            let end = match piece {
                Some(piece) => {
                    self.install_if_new(piece, vma, batch);
                    piece.end
                }
                None => {
                    let gap = self.pmas.gap_around(at, AddrRange { start: at, end: range.end });
                    if !self.installed.overlaps(gap) {
                        let Ok((run, place)) = self.locate(at, gap, range, vma) else { return };
                        self.install(run, place, vma.cpu_prot(), Entries::Later, batch);
                    }
                    gap.end
                }
            };
            if end <= at {
                return;
            }
            at = end;
        }
    }

    /// Maps private pages that the platform does not have as they are.
    fn install_if_new(&mut self, piece: AddrRange, vma: &Vma, batch: &mut Batch) {
        let there = self.pmas.get(piece.start).is_some_and(|(start, pma)| {
            let place = crate::pma::Place::Memory { offset: pma.offset + (piece.start.0 - start.start.0) };
            self.installed.get(piece.start).is_some_and(|(at, installed)| {
                use crate::addrmap::Piece;
                at.end >= piece.end && installed.place.cut(piece.start.0 - at.start.0).same(&place)
            })
        });
        if !there {
            self.install_private(piece, vma, Entries::Later, batch);
        }
    }

    fn install_slots(&mut self, slots: AddrRange, batch: &mut Batch) {
        if !self.installed.overlaps(slots)
            && let Some((_, vma)) = self.vmas.get(slots.start)
        {
            let vma = vma.clone();
            self.install_private(slots, &vma, Entries::Later, batch);
        }
    }

    /// Gives up the patched text of `range`, which the guest is about to write or to see.
    pub(crate) fn drop_text(&mut self, range: AddrRange, batch: &mut Batch) {
        let copies: Vec<AddrRange> =
            self.pmas.within(range).filter(|(_, pma)| pma.text).map(|(piece, _)| piece).collect();
        for piece in copies {
            self.drop_pages(piece, batch);
        }
    }

    /// The guest names `range`: slots in it go, with the text that jumps to them.
    pub(crate) fn yield_slots(&mut self, range: AddrRange) {
        if self.areas.iter().any(|area| area.slots.intersect(range).is_some()) {
            self.drop_areas(|area| area.slots.intersect(range).is_some());
        }
    }

    /// Executable mappings of files have gone: slots without text go too.
    pub(crate) fn text_unmapped(&mut self) {
        let alive: HashSet<(u64, u64)> = self
            .vmas
            .iter()
            .filter(|(_, vma)| vma.prot.contains(Prot::EXEC))
            .filter_map(|(range, vma)| {
                let file = vma.file.as_ref()?;
                Some((range.start.0.wrapping_sub(file.offset), file.object.id()))
            })
            .collect();
        self.drop_areas(|area| !alive.contains(&(area.origin, area.object)));
    }

    fn drop_areas(&mut self, gone: impl Fn(&Area) -> bool) {
        let mut batch = Batch::default();
        for area in self.areas.extract_if(.., |area| gone(area)).collect::<Vec<_>>() {
            let text: Vec<AddrRange> = self
                .vmas
                .iter()
                .filter(|(range, vma)| {
                    let file = vma.file.as_ref().filter(|file| file.object.id() == area.object);
                    file.is_some_and(|file| range.start.0.wrapping_sub(file.offset) == area.origin)
                })
                .map(|(range, _)| range)
                .collect();
            for range in text {
                self.drop_text(range, &mut batch);
            }
            self.take_vmas(area.slots);
            self.drop_pages(area.slots, &mut batch);
        }
        // A dead address space is noticed by the tasks in it.
        let _ = self.commit(batch);
    }
}

/// What is left of `range` without `hole`.
fn without(range: AddrRange, hole: AddrRange) -> Vec<AddrRange> {
    let Some(cut) = range.intersect(hole) else { return vec![range] };
    [AddrRange { start: range.start, end: cut.start }, AddrRange { start: cut.end, end: range.end }]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect()
}

/// The mapping of slots: not listed anywhere.
fn hidden() -> Vma {
    Vma {
        prot: Prot::READ | Prot::EXEC,
        max_prot: Prot::READ | Prot::EXEC,
        sharing: Sharing::Private,
        flags: VmaFlags::HIDDEN | VmaFlags::SPECIAL | VmaFlags::DONTDUMP,
        file: None,
        label: "",
    }
}

/// What a new address space gets.
pub(crate) type Text = Option<SharedText>;

const _: () = assert!(TEXT_RUN.is_multiple_of(PAGE_SIZE) && SLOTS_LEN.is_multiple_of(PAGE_SIZE));

#[cfg(test)]
mod tests {
    use super::{TOP_BYTES, TOP_BYTES_ABOVE};

    #[test]
    fn distances_to_slots_have_top_bytes_that_trap() {
        for (top, count) in TOP_BYTES.into_iter().chain([TOP_BYTES_ABOVE]) {
            for byte in (0..count).map(|more| (i64::from(top) + more).to_le_bytes()[0]) {
                assert!(arch::x86_64::patch::traps(byte), "{byte:#x}");
            }
        }
    }
}
