//! Private pages: made, copied from files, taken out of what is shared.

use smallvec::SmallVec;
use usermem::memfile::Content;
use usermem::platform::Prot;
use usermem::{Addr, AddrRange, PAGE_SIZE};

use super::{COPY_RUN, READ_AHEAD, SMALL_MAPPING, block, clip};
use crate::pma::{Place, Pma};
use crate::state::{Batch, Entries, State, WINDOW};
use crate::types::Fault;
use crate::vma::Vma;

/// Anonymous memory begins with runs of this size; where it grows contiguously, they become as long as what is there.
const FIRST_RUN: u64 = 8 * PAGE_SIZE;

/// Text that has to be copied is copied in runs of this size.
const TEXT_RUN: u64 = 64 * PAGE_SIZE;

/// How many other shared pieces are looked at when one turns out to be shared no more.
const MAX_SWEEP: usize = 128;

/// Private pages get their page-table entries at once in runs up to this size; longer ones are one huge page, which the
/// host enters as a whole.
const ENTERED: u64 = WINDOW / 2;

/// Past this many host mappings, copies are made in whole windows to have fewer.
const MANY_INSTALLED: usize = 20_000;

/// Pages for addresses: where in the memory file, and what is in them.
type Taken = SmallVec<[(AddrRange, u64, Content); 2]>;

impl State {
    /// Makes private pages at `page`, where none are, and around it, the more if the next `wanted` bytes are about to be
    /// used; says where, and whether they have memory already.
    pub(super) fn make_private(
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
    pub(super) fn break_cow(&mut self, page: Addr, range: AddrRange, batch: &mut Batch) -> Result<AddrRange, Fault> {
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
}
