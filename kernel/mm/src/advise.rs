//! `madvise(2)`, and populating memory ahead of use.

use abi::Errno;
use usermem::platform::{Access, Prot};
use usermem::{Addr, AddrRange, PAGE_SIZE};

use crate::mm::Mm;
use crate::pma::Place;
use crate::state::{Batch, MAX_MAP_COUNT, State, WINDOW};
use crate::unmap::Empty;
use crate::vma::{Force, Vma, VmaFlags};
use crate::{Fault, Sharing};

/// Anonymous pages that are thrown away: up to this many bytes of them stay, as zeros.
const FEW: u64 = 4 * PAGE_SIZE;

/// What `madvise(2)` says about a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are madvise(2)'s MADV_*")]
pub enum Advice {
    Normal,
    Random,
    Sequential,
    WillNeed,
    DontNeed,
    DontNeedLocked,
    Free,
    Remove,
    DontFork,
    DoFork,
    HugePage,
    NoHugePage,
    DontDump,
    DoDump,
    WipeOnFork,
    KeepOnFork,
    Cold,
    PageOut,
    PopulateRead,
    PopulateWrite,
}

impl Mm {
    /// Takes the advice for `[addr, addr + len)`. Holes in the range are skipped and give `ENOMEM` at the end; `EINVAL`
    /// where the advice does not fit the mapping, `EPERM` where a seal forbids it.
    pub fn advise(&self, addr: Addr, len: u64, advice: Advice) -> Result<(), Errno> {
        let end = self.lock().layout.user.end;
        let asked = Addr(len).page_up().and_then(|len| AddrRange::of_len(addr, len.0));
        let past = addr.is_page_aligned() && len > 0 && asked.is_some_and(|asked| asked.end > end);
        if past {
            // What lies past the end of user space is a hole as any other.
            let below = end.0.saturating_sub(addr.0);
            return self.advise(addr.min(end), below, advice).and(Err(Errno::ENOMEM));
        }
        let range = self.lock().range_of(addr, len, Empty::Fine)?;
        if range.is_empty() {
            return Ok(());
        }
        match advice {
            Advice::PopulateRead => self.populate_with(range, Access::Read),
            Advice::PopulateWrite => self.populate_with(range, Access::Write),
            Advice::Remove => self.remove(range),
            _ => self.lock().advise(range, advice),
        }
    }

    /// Brings the pages of `range` in as its mappings allow, for MAP_POPULATE and mlock(2).
    pub(crate) fn populate(&self, range: AddrRange) -> Result<(), Errno> {
        let mut at = range.start;
        // No more than there is, however much is asked for.
        let mut left = self.pool.limit();
        while at < range.end && left > 0 {
            // The lock is given up between steps: others fault meanwhile.
            let mut state = self.lock();
            let Some((piece, vma)) = state.vmas.at_or_after(at).map(|(piece, vma)| (piece, vma.clone())) else { break };
            at = at.max(piece.start);
            if at >= range.end {
                break;
            }
            if vma.prot.is_empty() {
                at = piece.end;
                continue;
            }
            let access = if vma.is_private_writable() { Access::Write } else { Access::Read };
            let next = state.populate_step(at, piece.end.min(range.end), access).map_err(|_| Errno::ENOMEM)?;
            left = left.saturating_sub(next.0 - at.0);
            at = next;
        }
        Ok(())
    }

    /// MADV_POPULATE_READ and MADV_POPULATE_WRITE.
    fn populate_with(&self, range: AddrRange, access: Access) -> Result<(), Errno> {
        if range.len() > self.pool.limit() {
            return Err(Errno::ENOMEM);
        }
        let mut at = range.start;
        while at < range.end {
            at = self.lock().populate_step(at, range.end, access).map_err(|fault| match fault {
                Fault::NotMapped | Fault::Oom | Fault::Dead => Errno::ENOMEM,
                Fault::NotAllowed => Errno::EINVAL,
                Fault::Bus => Errno::EFAULT,
            })?;
        }
        Ok(())
    }

    /// MADV_REMOVE: frees the bytes in the object behind a shared writable mapping.
    fn remove(&self, range: AddrRange) -> Result<(), Errno> {
        let pieces: Vec<(AddrRange, Vma)> = self.lock().vmas.within(range).collect();
        let mut outcome = Ok(());
        let mut at = range.start;
        for (piece, vma) in pieces {
            if piece.start != at {
                outcome = Err(Errno::ENOMEM);
            }
            at = piece.end;
            if is_refused(&vma, Advice::Remove) {
                return Err(Errno::EPERM);
            }
            if vma.flags.contains(VmaFlags::LOCKED) {
                return Err(Errno::EINVAL);
            }
            let Some(file) = &vma.file else { return Err(Errno::EINVAL) };
            if vma.sharing != Sharing::Shared || !vma.max_prot.contains(Prot::WRITE) {
                return Err(Errno::EACCES);
            }
            file.file.punch(file.offset, piece.len())?;
        }
        if at < range.end { Err(Errno::ENOMEM) } else { outcome }
    }
}

/// Whether a seal forbids the advice: what could not be written must not become zeros.
fn is_refused(vma: &Vma, advice: Advice) -> bool {
    vma.flags.contains(VmaFlags::SEALED)
        && vma.is_private()
        && vma.file.is_none()
        && !vma.prot.contains(Prot::WRITE)
        && matches!(
            advice,
            Advice::Free
                | Advice::DontNeed
                | Advice::DontNeedLocked
                | Advice::Remove
                | Advice::DontFork
                | Advice::WipeOnFork
        )
}

impl State {
    /// Brings in what one access of the kernel to `[at, end)` and one fault at `at` bring in; answers where to go on.
    fn populate_step(&mut self, at: Addr, end: Addr, access: Access) -> Result<Addr, Fault> {
        if self.vmas.get(at).is_some_and(|(_, vma)| access != Access::Write || vma.is_private()) {
            // The longer run, and its memory; a fault alone would leave it to the first touch.
            let (found, place) = self.resolve(at, end, access, Force::No)?;
            if let Place::Memory { offset } = place {
                let len = found.len().min(WINDOW);
                self.pool.touch(offset, len)?;
                self.fault(at, access)?;
                return Ok(Addr(at.0 + len));
            }
        }
        self.fault(at, access)?;
        let reached = self.installed.get(at).map_or(at.0.saturating_add(PAGE_SIZE), |(piece, _)| piece.end.0);
        Ok(Addr(reached).min(end))
    }

    fn advise(&mut self, range: AddrRange, advice: Advice) -> Result<(), Errno> {
        let mut outcome = Ok(());
        let mut at = range.start;
        let mut batch = Batch::default();
        for (piece, vma) in self.vmas.within(range).collect::<Vec<_>>() {
            if piece.start != at {
                outcome = Err(Errno::ENOMEM);
            }
            at = piece.end;
            if let Err(errno) = self.advise_vma(piece, &vma, advice, &mut batch) {
                outcome = Err(errno);
                at = range.end;
                break;
            }
        }
        self.commit(batch).map_err(|_| Errno::ENOMEM)?;
        if at < range.end { Err(Errno::ENOMEM) } else { outcome }
    }

    fn advise_vma(&mut self, piece: AddrRange, vma: &Vma, advice: Advice, batch: &mut Batch) -> Result<(), Errno> {
        let special = vma.flags.contains(VmaFlags::SPECIAL);
        let locked = vma.flags.contains(VmaFlags::LOCKED);
        let anonymous = vma.is_private() && vma.file.is_none();
        if is_refused(vma, advice) {
            return Err(Errno::EPERM);
        }
        let (clear, set) = match advice {
            Advice::Normal => (VmaFlags::RANDOM | VmaFlags::SEQUENTIAL, VmaFlags::empty()),
            Advice::Random => (VmaFlags::SEQUENTIAL, VmaFlags::RANDOM),
            Advice::Sequential => (VmaFlags::RANDOM, VmaFlags::SEQUENTIAL),
            Advice::DontFork => (VmaFlags::empty(), VmaFlags::DONTFORK),
            Advice::DoFork if special => return Err(Errno::EINVAL),
            Advice::DoFork => (VmaFlags::DONTFORK, VmaFlags::empty()),
            Advice::HugePage => (VmaFlags::NOHUGEPAGE, VmaFlags::HUGEPAGE),
            Advice::NoHugePage => (VmaFlags::HUGEPAGE, VmaFlags::NOHUGEPAGE),
            Advice::DontDump => (VmaFlags::empty(), VmaFlags::DONTDUMP),
            Advice::DoDump if special => return Err(Errno::EINVAL),
            Advice::DoDump => (VmaFlags::DONTDUMP, VmaFlags::empty()),
            Advice::WipeOnFork if !anonymous => return Err(Errno::EINVAL),
            Advice::WipeOnFork => (VmaFlags::empty(), VmaFlags::WIPEONFORK),
            Advice::KeepOnFork => (VmaFlags::WIPEONFORK, VmaFlags::empty()),
            // No swap and a host that reads ahead by itself: nothing to do early.
            Advice::WillNeed => return Ok(()),
            Advice::Cold | Advice::PageOut if locked => return Err(Errno::EINVAL),
            Advice::Cold | Advice::PageOut => return Ok(()),
            Advice::DontNeed | Advice::Free if locked => return Err(Errno::EINVAL),
            Advice::Free if !anonymous => return Err(Errno::EINVAL),
            Advice::DontNeed | Advice::DontNeedLocked | Advice::Free => {
                self.discard(piece, vma, batch);
                return Ok(());
            }
            // Not advice for one mapping: the callers deal with them.
            Advice::Remove | Advice::PopulateRead | Advice::PopulateWrite => return Err(Errno::EINVAL),
        };
        let changes = vma.flags.intersects(clear) || !vma.flags.contains(set);
        if changes && self.vmas.len() + 2 > MAX_MAP_COUNT {
            return Err(Errno::EAGAIN);
        }
        self.change_vmas(piece, |vma| vma.flags = (vma.flags - clear) | set);
        Ok(())
    }

    /// Private pages of `piece` are as if never written.
    fn discard(&mut self, piece: AddrRange, vma: &Vma, batch: &mut Batch) {
        if !vma.is_private() {
            return;
        }
        for (part, pma) in self.pmas.within(piece).collect::<Vec<_>>() {
            // A few pages are zeroed sooner than taken from the platform.
            let few = vma.file.is_none() && !pma.cow && part.len() <= FEW;
            if !few || self.pool.zero(pma.offset, part.len()).is_err() {
                self.drop_pages(part, batch);
            }
        }
    }
}
