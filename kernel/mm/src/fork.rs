//! Copying an address space, for `fork(2)`: private pages that hold data become shared copy-on-write, nothing is copied.
//!
//! What holds data is asked from the memory file. Reserved pages that nobody has touched stay with the parent, still
//! writable there without a fault; the child has none at those addresses and takes fresh ones. Copies by the kernel into
//! the parent's memory are waited for, since a page that is being written must not become shared meanwhile.

use std::sync::Arc;

use abi::Errno;
use usermem::platform::{AddressSpace, MapOp, Prot};
use usermem::{Addr, AddrRange, PAGE_SIZE};

use crate::mm::Mm;
use crate::pma::{Installed, Place, Pma};
use crate::state::{Batch, State};
use crate::vma::{Vma, VmaFlags};

/// Gaps between data up to this size are shared too: fewer, larger ranges.
const BRIDGED: u64 = 16 * PAGE_SIZE;

/// One mapping's data in more pieces than this is shared as a whole.
const MAX_RUNS: usize = 256;

/// How many mappings of the parent the child starts with; others come with its faults.
const PREMAPPED: usize = 192;

impl Mm {
    /// A copy of the address space in `space`, which is empty.
    pub fn fork(&self, space: Arc<dyn AddressSpace>) -> Result<Arc<Self>, Errno> {
        let (layout, limits) = {
            let state = self.lock();
            (state.layout, state.limits)
        };
        let child = Self::new(crate::NewMm { space, memory: Arc::clone(self.memory()), layout, limits });
        let forked = {
            let mut parent = self.lock_without_writes();
            let mut state = child.lock_child();
            parent.fork_into(&mut state)
        };
        forked.map(|()| child)
    }
}

impl State {
    fn fork_into(&mut self, child: &mut Self) -> Result<(), Errno> {
        child.heap = self.heap;
        child.bounds = self.bounds;
        child.direction = self.direction;
        child.executable = self.executable.clone();
        let mut protect = Batch::default();
        let shared = self.share_all(child, &mut protect);
        // Also when it failed half-way: what is marked as shared must not stay writable.
        self.commit(protect).map_err(|_| Errno::ENOMEM)?;
        shared?;
        let mut batch = Batch::default();
        self.premap(child, &mut batch);
        child.commit(batch).map_err(|_| Errno::ENOMEM)
    }

    fn share_all(&mut self, child: &mut Self, protect: &mut Batch) -> Result<(), Errno> {
        for (range, vma) in self.vmas.iter().map(|(range, vma)| (range, vma.clone())).collect::<Vec<_>>() {
            if vma.flags.contains(VmaFlags::DONTFORK) {
                continue;
            }
            if vma.is_private() && !vma.flags.contains(VmaFlags::WIPEONFORK) {
                self.share_pages(range, child, protect)?;
            }
            let mut copy = vma;
            copy.flags -= VmaFlags::LOCKED | VmaFlags::LOCK_ON_FAULT;
            child.add_vma(range, copy);
        }
        Ok(())
    }

    /// Shares the private pages of a VMA that hold data.
    fn share_pages(&mut self, range: AddrRange, child: &mut Self, protect: &mut Batch) -> Result<(), Errno> {
        for (piece, pma) in self.pmas.within(range).collect::<Vec<_>>() {
            let data =
                if pma.full { vec![(pma.offset, piece.len())] } else { self.data_to_share(pma.offset, piece.len()) };
            for (offset, len) in data {
                let start = Addr(piece.start.0 + (offset - pma.offset));
                let run = AddrRange { start, end: Addr(start.0 + len) };
                self.pool.inc_ref(offset, len)?;
                let shared = Pma { offset, cow: true, full: true };
                child.pmas.insert(run, shared);
                if pma != (Pma { offset: pma.offset, ..shared }) {
                    self.pmas.update(run, |_, pma| (pma.cow, pma.full) = (true, true));
                }
                self.write_protect(run, protect);
            }
        }
        Ok(())
    }

    /// The parts of `[offset, offset + len)` of the memory file that hold data, not too finely.
    fn data_to_share(&self, offset: u64, len: u64) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (start, len) in self.pool.data_runs(offset, len) {
            match runs.last_mut() {
                Some((last, last_len)) if start - (*last + *last_len) < BRIDGED => *last_len = start + len - *last,
                _ => runs.push((start, len)),
            }
        }
        match (runs.first(), runs.last()) {
            (Some(&(first, _)), Some(&(last, last_len))) if runs.len() > MAX_RUNS => {
                vec![(first, last + last_len - first)]
            }
            _ => runs,
        }
    }

    fn write_protect(&mut self, run: AddrRange, batch: &mut Batch) {
        let writable: Vec<(AddrRange, Prot)> = self
            .installed
            .within(run)
            .filter(|(_, installed)| installed.prot.contains(Prot::WRITE))
            .map(|(piece, installed)| (piece, installed.prot - Prot::WRITE))
            .collect();
        for (piece, prot) in writable {
            self.installed.update(piece, |_, installed| installed.prot = prot);
            batch.ops.push(MapOp::Protect { range: piece, prot });
        }
    }

    /// Maps in the child what the parent has mapped, where that needs no copy: it will run the same code over the same
    /// data.
    fn premap(&self, child: &mut Self, batch: &mut Batch) {
        for (range, installed) in self.installed.iter() {
            if batch.ops.len() >= PREMAPPED {
                return;
            }
            for (piece, vma) in child.vmas.within(range).collect::<Vec<_>>() {
                child.premap_piece(piece, range, installed, &vma, batch);
            }
        }
    }

    fn premap_piece(
        &mut self,
        piece: AddrRange,
        range: AddrRange,
        installed: &Installed,
        vma: &Vma,
        batch: &mut Batch,
    ) {
        use crate::addrmap::Piece;
        match &installed.place {
            Place::Zero => {}
            Place::Memory { .. } if vma.is_private() && self.pmas.overlaps(piece) => {
                for (part, _) in self.pmas.within(piece).collect::<Vec<_>>() {
                    if batch.ops.len() < PREMAPPED {
                        self.install_private(part, vma, batch);
                    }
                }
            }
            // Reserved pages of the parent without data, or a file's page cache.
            Place::Memory { .. } if vma.is_private() && vma.file.is_none() => {}
            Place::Memory { .. } if vma.is_private() && installed.made_writable => {}
            place => {
                let place = place.cut(piece.start.0 - range.start.0);
                self.install(piece, place, installed.prot, batch);
            }
        }
    }
}
