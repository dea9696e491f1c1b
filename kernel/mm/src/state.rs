//! The state of an address space behind its lock, and the one way in which changes reach the platform.
//!
//! Operations collect what to tell the platform and what to give back in a [`Batch`]; [`State::commit`] tells the platform
//! first and gives pages back after, so that no page is reused while guest code can reach it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::HashMap;
use usermem::memmap::{Mappable, MappingObserver, Truncated};
use usermem::platform::{AddressSpace, MapOp, Prot};
use usermem::{Addr, AddrRange, PAGE_SIZE};

use crate::addrmap::{AddrMap, Piece};
use crate::pma::{Installed, Place, Pma};
use crate::pool::Pool;
use crate::sites::{Area, Text};
use crate::types::{Bounds, Direction, Fault, Layout, Limits, MappedFile};
use crate::vma::{FileBacking, Vma, VmaFlags};

/// Size and alignment of the windows in which memory is mapped ahead: what one page-table page covers.
pub(crate) const WINDOW: u64 = 2 << 20;

/// `vm.max_map_count`.
pub(crate) const MAX_MAP_COUNT: usize = 65_530;

/// Most mappings that the platform holds at a time; the host allows 65,530 and the platform needs some itself.
const MAX_INSTALLED: usize = 40_000;

/// `stack_guard_gap`: what stays free below a mapping that grows down.
pub(crate) const STACK_GUARD: u64 = 256 * PAGE_SIZE;

/// Bytes mapped, by kind.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// All.
    pub(crate) total: u64,
    /// The most that it ever was.
    pub(crate) peak_total: u64,
    /// Private, writable, no stack.
    pub(crate) data: u64,
    /// Stacks.
    pub(crate) stack: u64,
    /// Executable and not writable.
    pub(crate) exec: u64,
    /// Locked.
    pub(crate) locked: u64,
}

/// The heap of `brk(2)`.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Heap {
    pub(crate) start: Addr,
    pub(crate) end: Addr,
}

/// What to tell the platform and what to give back afterwards.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) ops: Vec<MapOp>,
    /// Parts of the memory file (offset, length) of which a reference is dropped.
    freed: Vec<(u64, u64)>,
    /// The same, of pages that other address spaces may go on using.
    freed_shared: Vec<(u64, u64)>,
}

impl Batch {
    /// Gives back what is reserved.
    pub(crate) fn free(&mut self, range: AddrRange, offset: u64) {
        push(&mut self.freed, range, offset);
    }

    /// Gives back pages.
    pub(crate) fn free_pages(&mut self, range: AddrRange, pma: Pma) {
        push(if pma.cow { &mut self.freed_shared } else { &mut self.freed }, range, pma.offset);
    }
}

fn push(list: &mut Vec<(u64, u64)>, range: AddrRange, offset: u64) {
    match list.last_mut() {
        Some((last, len)) if *last + *len == offset => *len += range.len(),
        _ => list.push((offset, range.len())),
    }
}

/// Copies between the kernel and guest memory that are under way. Counted up with the state locked.
#[derive(Default)]
pub(crate) struct InFlight {
    /// Out of guest memory. A page that such a copy reads must not be left to others who could then write to it.
    pub(crate) reads: AtomicU32,
    /// Into guest memory. Fork waits for them: a page that is being written must not become shared.
    pub(crate) writes: AtomicU32,
}

/// An object of which something is mapped.
struct Attached {
    object: Arc<dyn Mappable>,
    bytes: u64,
}

/// What is to be dropped without the lock.
pub(crate) enum Unmapped {
    /// Of a VMA.
    File(#[allow(dead_code, reason = "kept only to be dropped")] FileBacking),
    /// Of the last VMA of an object.
    Object(#[allow(dead_code, reason = "kept only to be dropped")] Arc<dyn Mappable>),
}

/// Between `from` and `base`, where mappings are placed downwards, no gap is longer than `hole` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    pub(crate) base: Addr,
    pub(crate) from: Addr,
    pub(crate) hole: u64,
}

/// An address space.
pub(crate) struct State {
    pub(crate) space: Arc<dyn AddressSpace>,
    pub(crate) pool: Pool,
    pub(crate) layout: Layout,
    pub(crate) limits: Limits,
    pub(crate) direction: Direction,
    pub(crate) executable: Option<Arc<dyn MappedFile>>,
    pub(crate) bounds: Bounds,
    pub(crate) heap: Heap,
    pub(crate) usage: Usage,
    /// The most bytes present at any look.
    pub(crate) peak_rss: u64,
    /// `mlockall(MCL_FUTURE)`: what new mappings get.
    pub(crate) lock_future: VmaFlags,
    pub(crate) vmas: AddrMap<Vma>,
    /// What is known of the places below the mappings' base.
    pub(crate) packed: Cell<Option<Packed>>,
    pub(crate) pmas: AddrMap<Pma>,
    pub(crate) installed: AddrMap<Installed>,
    /// Patched text of the sandbox, if calls are patched.
    pub(crate) text: Text,
    /// Where slots are.
    pub(crate) areas: Vec<Area>,
    /// What has been unmapped since the lock was taken.
    pub(crate) unmapped: Vec<Unmapped>,
    /// Where the host last raised SIGBUS for want of memory.
    pub(crate) last_bus: Option<Addr>,
    objects: HashMap<u64, Attached>,
    observer: Arc<dyn MappingObserver>,
    /// Set when the platform failed: nothing can be told to it any more.
    dead: bool,
    pub(crate) in_flight: Arc<InFlight>,
    /// Shared pages to give back when no read is under way: until then others must not find themselves alone with them.
    deferred: Vec<(u64, u64)>,
    /// What could not be given back because the platform failed, until the end.
    limbo: Vec<(u64, u64)>,
}

impl State {
    pub(crate) fn new(
        space: Arc<dyn AddressSpace>,
        pool: Pool,
        layout: Layout,
        limits: Limits,
        observer: Arc<dyn MappingObserver>,
    ) -> Self {
        Self {
            space,
            pool,
            layout,
            limits,
            direction: Direction::Down,
            executable: None,
            bounds: Bounds::default(),
            heap: Heap::default(),
            usage: Usage::default(),
            peak_rss: 0,
            lock_future: VmaFlags::empty(),
            vmas: AddrMap::new(),
            packed: Cell::new(None),
            pmas: AddrMap::new(),
            installed: AddrMap::new(),
            text: None,
            areas: Vec::new(),
            unmapped: Vec::new(),
            last_bus: None,
            objects: HashMap::new(),
            observer,
            dead: false,
            in_flight: Arc::default(),
            deferred: Vec::new(),
            limbo: Vec::new(),
        }
    }

    /// Tells the platform, then gives back.
    pub(crate) fn commit(&mut self, mut batch: Batch) -> Result<(), Fault> {
        if self.installed.len() > MAX_INSTALLED {
            // The host has a limit too. All comes back by faults.
            let all = self.installed.take_all();
            batch.ops.clear();
            if let (Some((first, _)), Some((last, _))) = (all.first(), all.last()) {
                batch.ops.push(MapOp::Unmap { range: AddrRange { start: first.start, end: last.end } });
            }
        }
        if !batch.ops.is_empty()
            && !self.dead
            && let Err(error) = self.space.apply(&batch.ops)
        {
            log::debug!("address space lost: {error}");
            self.dead = true;
            self.space.kill();
        }
        if self.dead {
            self.limbo.extend(batch.freed);
            self.limbo.extend(batch.freed_shared);
            return Err(Fault::Dead);
        }
        for (offset, len) in batch.freed {
            self.pool.dec_ref(offset, len);
        }
        self.deferred.extend(batch.freed_shared);
        // Acquire pairs with the end of a read. New ones need the lock.
        if !self.deferred.is_empty() && self.in_flight.reads.load(Ordering::Acquire) == 0 {
            for (offset, len) in self.deferred.drain(..) {
                self.pool.dec_ref(offset, len);
            }
        }
        Ok(())
    }

    /// Gives everything back; the platform's side is gone.
    pub(crate) fn release(&mut self) {
        for attached in std::mem::take(&mut self.objects).into_values() {
            attached.object.detach(&self.observer);
        }
        self.vmas.take_all();
        self.installed.take_all();
        let mut batch = Batch::default();
        for (range, pma) in self.pmas.take_all() {
            batch.free(range, pma.offset);
        }
        let kept = std::mem::take(&mut self.limbo).into_iter().chain(std::mem::take(&mut self.deferred));
        for (offset, len) in batch.freed.into_iter().chain(batch.freed_shared).chain(kept) {
            self.pool.dec_ref(offset, len);
        }
    }

    /// Adds a VMA where none is.
    pub(crate) fn add_vma(&mut self, range: AddrRange, vma: Vma) {
        self.account(range, &vma, Count::Add);
        if let Some(file) = &vma.file {
            let attached = self.objects.entry(file.object.id()).or_insert_with(|| {
                file.object.attach(&self.observer);
                Attached { object: Arc::clone(&file.object), bytes: 0 }
            });
            attached.bytes = attached.bytes.saturating_add(range.len());
        }
        self.vmas.insert(range, vma);
    }

    /// Removes the VMAs of a range, and nothing else of it.
    pub(crate) fn take_vmas(&mut self, range: AddrRange) -> Vec<(AddrRange, Vma)> {
        let taken = self.vmas.take(range);
        if let Some(packed) = self.packed.get_mut()
            && range.end > packed.from
        {
            // A new gap, perhaps joined with the one above it.
            packed.from = self.vmas.at_or_after(range.end).map_or(packed.base, |(vma, _)| vma.start).min(packed.base);
        }
        for (piece, vma) in &taken {
            self.account(*piece, vma, Count::Remove);
            let Some(file) = &vma.file else { continue };
            let id = file.object.id();
            if let Some(attached) = self.objects.get_mut(&id) {
                attached.bytes = attached.bytes.saturating_sub(piece.len());
                if attached.bytes == 0 {
                    attached.object.detach(&self.observer);
                    if let Some(last) = self.objects.remove(&id) {
                        self.unmapped.push(Unmapped::Object(last.object));
                    }
                }
            }
            self.unmapped.push(Unmapped::File(file.clone()));
        }
        taken
    }

    /// Changes the VMAs of a range without changing what they map.
    pub(crate) fn change_vmas(&mut self, range: AddrRange, mut change: impl FnMut(&mut Vma)) {
        for (piece, mut vma) in self.vmas.take(range) {
            self.account(piece, &vma, Count::Remove);
            change(&mut vma);
            self.account(piece, &vma, Count::Add);
            self.vmas.insert(piece, vma);
        }
    }

    fn account(&mut self, range: AddrRange, vma: &Vma, count: Count) {
        if vma.flags.contains(VmaFlags::HIDDEN) {
            return;
        }
        let apply = |sum: &mut u64| {
            *sum = match count {
                Count::Add => sum.saturating_add(range.len()),
                Count::Remove => sum.saturating_sub(range.len()),
            };
        };
        apply(&mut self.usage.total);
        self.usage.peak_total = self.usage.peak_total.max(self.usage.total);
        if vma.is_data() {
            apply(&mut self.usage.data);
        }
        if vma.flags.intersects(VmaFlags::GROWSDOWN | VmaFlags::STACK) {
            apply(&mut self.usage.stack);
        }
        if vma.prot.contains(Prot::EXEC) && !vma.prot.contains(Prot::WRITE) {
            apply(&mut self.usage.exec);
        }
        if vma.flags.contains(VmaFlags::LOCKED) {
            apply(&mut self.usage.locked);
        }
    }

    /// Takes from the platform whatever it holds in `range`.
    pub(crate) fn uninstall(&mut self, range: AddrRange, batch: &mut Batch) {
        let taken = self.installed.take(range);
        if let (Some((first, _)), Some((last, _))) = (taken.first(), taken.last()) {
            batch.ops.push(MapOp::Unmap { range: AddrRange { start: first.start, end: last.end } });
        }
    }

    /// Has the platform map `range` from `place`, in place of whatever it holds there. `prot` without any bit is
    /// nothing to install.
    pub(crate) fn install(&mut self, range: AddrRange, place: Place, prot: Prot, entries: Entries, batch: &mut Batch) {
        if prot.is_empty() {
            self.uninstall(range, batch);
            return;
        }
        let old = self.installed.take(range);
        // If the very same bytes are mapped there already, page tables are kept.
        let covered: u64 = old.iter().map(|(piece, _)| piece.len()).sum();
        let again = covered == range.len()
            && old.iter().all(|(piece, was)| {
                let upgradable = was.made_writable || !prot.contains(Prot::WRITE);
                upgradable && was.place.same(&place.cut(piece.start.0 - range.start.0))
            });
        let made_writable =
            if again { old.iter().all(|(_, was)| was.made_writable) } else { prot.contains(Prot::WRITE) };
        batch.ops.push(if again {
            MapOp::Protect { range, prot }
        } else {
            let populate = entries == Entries::Now;
            MapOp::Map { range, backing: place.backing(), prot, populate }
        });
        self.installed.insert(range, Installed { place, prot, made_writable });
    }

    /// The file's bytes `[offset, offset + len)` have gone or moved.
    pub(crate) fn invalidate(&mut self, object: u64, offset: u64, len: u64, truncated: Truncated) {
        let end = offset.saturating_add(len);
        let mut hit = Vec::new();
        for (range, vma) in self.vmas.iter() {
            let Some(file) = &vma.file else { continue };
            if file.object.id() != object {
                continue;
            }
            let from = offset.max(file.offset) - file.offset;
            let to = end.saturating_sub(file.offset).min(range.len()).next_multiple_of(PAGE_SIZE);
            let from = from & !(PAGE_SIZE - 1);
            if from < to.min(range.len()) {
                hit.push((
                    AddrRange { start: Addr(range.start.0 + from), end: Addr(range.start.0 + to.min(range.len())) },
                    vma.is_private(),
                ));
            }
        }
        let mut batch = Batch::default();
        for (range, private) in hit {
            if private && truncated == Truncated::Yes {
                for (piece, pma) in self.pmas.take(range) {
                    batch.free_pages(piece, pma);
                }
            }
            self.uninstall(range, &mut batch);
        }
        // A dead address space is noticed by the tasks in it.
        let _ = self.commit(batch);
    }
}

/// When page-table entries are made for what is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entries {
    /// At once: the pages have memory and are about to be used.
    Now,
    /// By the host, as they are touched.
    Later,
}

#[derive(Clone, Copy)]
enum Count {
    Add,
    Remove,
}
