//! Copying an address space, for `fork(2)`: a few small runs of private pages are copied, since each would cost both sides
//! a fault; all others become shared copy-on-write. Copies by the kernel into the parent's memory are waited for, since a
//! page that is being written must not become shared, nor be copied, meanwhile.
//!
//! Where others run in the parent nothing is copied: a page would be as it was before what another thread wrote meanwhile to a
//! page that is copied later. Shared pages change until they are write-protected, and who writes to a protected one
//! waits; so the child sees each write that was done before the last page was, and none that followed one it does not see.

use std::sync::Arc;

use abi::Errno;
use usermem::AddrRange;
use usermem::platform::{AddressSpace, MapOp, Prot};

use crate::Fault;
use crate::mm::Mm;
use crate::pma::{Installed, Place, Pma};
use crate::state::{Batch, Entries, State};
use crate::vma::{Vma, VmaFlags};

/// Who else runs in an address space while it is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Company {
    /// Nobody but who copies it.
    Alone,
    /// Others, who go on writing meanwhile.
    Shared,
}

/// Runs of writable pages up to this size are copied for the child: initialized data, the top of the stack, a small heap.
const COPIED_RUN: u64 = 128 << 10;

/// How much is copied in all. It costs less than a handful of faults.
const COPIED: u64 = 384 << 10;

/// Runs up to this size are entered in the child's page tables at once.
const ENTERED: u64 = 32 << 10;

/// How many mappings of the parent the child starts with; others come with its faults.
const PREMAPPED: usize = 192;

/// Whether the child starts with page-table entries for `part`.
fn entries(part: AddrRange) -> Entries {
    if part.len() <= ENTERED { Entries::Now } else { Entries::Later }
}

impl Mm {
    /// A copy of the address space in `space`, which is empty.
    pub fn fork(&self, space: Arc<dyn AddressSpace>, company: Company) -> Result<Arc<Self>, Errno> {
        let (layout, limits, text) = {
            let state = self.lock();
            (state.layout, state.limits, state.text.clone())
        };
        let child = Self::new(crate::NewMm { space, memory: Arc::clone(self.memory()), layout, limits, text });
        let forked = {
            let mut parent = self.lock_without_writes();
            parent.follow_text();
            let mut state = child.lock_child();
            parent.fork_into(&mut state, company)
        };
        forked.map(|()| child)
    }
}

impl State {
    fn fork_into(&mut self, child: &mut Self, company: Company) -> Result<(), Errno> {
        child.heap = self.heap;
        child.bounds = self.bounds;
        child.direction = self.direction;
        child.areas = self.areas.clone();
        child.executable = self.executable.clone();
        let mut protect = Batch::default();
        let shared = self.share_all(child, company, &mut protect);
        // Also when it failed half-way: what is marked as shared must not stay writable.
        self.commit(protect).map_err(|_| Errno::ENOMEM)?;
        shared?;
        let mut batch = Batch::default();
        self.premap(child, &mut batch);
        child.commit(batch).map_err(|_| Errno::ENOMEM)
    }

    fn share_all(&mut self, child: &mut Self, company: Company, protect: &mut Batch) -> Result<(), Errno> {
        let mut room = if company == Company::Alone { COPIED } else { 0 };
        for (range, vma) in self.vmas.iter().map(|(range, vma)| (range, vma.clone())).collect::<Vec<_>>() {
            if vma.flags.contains(VmaFlags::DONTFORK) {
                continue;
            }
            if vma.is_private() && !vma.flags.contains(VmaFlags::WIPEONFORK) {
                self.share_pages(range, &vma, child, &mut room, protect)?;
            }
            let mut copy = vma;
            copy.flags -= VmaFlags::LOCKED | VmaFlags::LOCK_ON_FAULT;
            child.add_vma(range, copy);
        }
        Ok(())
    }

    /// Gives the child the private pages of a VMA: copies of small runs, which both would write to soon, while there is
    /// `room`; the rest is shared.
    fn share_pages(
        &mut self,
        range: AddrRange,
        vma: &Vma,
        child: &mut Self,
        room: &mut u64,
        protect: &mut Batch,
    ) -> Result<(), Errno> {
        for (piece, pma) in self.pmas.within(range).collect::<Vec<_>>() {
            if vma.prot.contains(Prot::WRITE)
                && piece.len() <= COPIED_RUN.min(*room)
                && let Ok(offset) = self.copy_pages(pma.offset, piece.len())
            {
                *room -= piece.len();
                child.pmas.insert(piece, Pma { offset, cow: false, text: false });
                continue;
            }
            self.pool.inc_ref(pma.offset, piece.len())?;
            let shared = Pma { cow: true, ..pma };
            child.pmas.insert(piece, shared);
            if pma != shared {
                self.pmas.update(piece, |_, pma| pma.cow = true);
            }
            self.write_protect(piece, protect);
        }
        Ok(())
    }

    /// A copy of pages, nobody's yet.
    fn copy_pages(&self, from: u64, len: u64) -> Result<u64, Fault> {
        let (to, _) = self.pool.take(len, None)?;
        self.pool.copy(from, to, len).inspect_err(|_| self.pool.dec_ref(to, len))?;
        Ok(to)
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
                        self.install_private(part, vma, entries(part), batch);
                    }
                }
            }
            // Reserved pages of the parent without data, or a file's page cache.
            Place::Memory { .. } if vma.is_private() && vma.file.is_none() => {}
            Place::Memory { .. } if vma.is_private() && installed.made_writable => {}
            place => {
                let place = place.cut(piece.start.0 - range.start.0);
                self.install(piece, place, installed.prot, Entries::Later, batch);
            }
        }
    }
}
