//! `mprotect(2)`.

use abi::Errno;
use usermem::platform::{MapOp, Prot};
use usermem::{Addr, AddrRange};

use crate::mm::Mm;
use crate::pma::Place;
use crate::state::{Batch, MAX_MAP_COUNT, State};
use crate::types::Grow;
use crate::unmap::Empty;
use crate::vma::VmaFlags;

impl Mm {
    /// Changes what may be done in `[addr, addr + len)`.
    ///
    /// Errors: `EINVAL` (unaligned, `Grow` without such a mapping), `ENOMEM` (a hole in the range; RLIMIT_DATA; too many
    /// mappings), `EACCES` (more than the file allows), `EPERM` (sealed). What comes before the hole or the refusal is changed, as on
    /// Linux.
    pub fn protect(&self, addr: Addr, len: u64, prot: Prot, grow: Grow) -> Result<(), Errno> {
        let mut state = self.lock();
        let range = match state.range_of(addr, len, Empty::Fine) {
            Err(_) if addr.is_page_aligned() => return Err(Errno::ENOMEM),
            other => other?,
        };
        if range.is_empty() {
            return Ok(());
        }
        state.protect(range, prot, grow)
    }
}

impl State {
    fn protect(&mut self, mut range: AddrRange, prot: Prot, grow: Grow) -> Result<(), Errno> {
        let Some((first, vma)) = self.vmas.at_or_after(range.start) else { return Err(Errno::ENOMEM) };
        match grow {
            Grow::Up => return Err(Errno::EINVAL),
            Grow::Down => {
                if first.start >= range.end {
                    return Err(Errno::ENOMEM);
                }
                if !vma.flags.contains(VmaFlags::GROWSDOWN) {
                    return Err(Errno::EINVAL);
                }
                range.start = first.start;
            }
            Grow::No => {}
        }
        if !self.vmas.overlaps(range) || first.start > range.start {
            return Err(Errno::ENOMEM);
        }
        let mut outcome = Ok(());
        let mut at = range.start;
        let mut data = self.usage.data;
        let mut noexec = false;
        for (piece, mut vma) in self.vmas.within(range) {
            if prot.contains(Prot::EXEC) && !vma.prot.contains(Prot::EXEC) {
                vma.note_noexec();
                noexec |= vma.flags.contains(VmaFlags::NOEXEC);
            }
            let refused = if piece.start != at {
                Some(Errno::ENOMEM)
            } else if !vma.max_prot.contains(prot)
                || vma.flags.contains(VmaFlags::NOEXEC) && prot.contains(Prot::EXEC) && !vma.is_private()
            {
                Some(Errno::EACCES)
            } else if vma.flags.contains(VmaFlags::SEALED) {
                Some(Errno::EPERM)
            } else {
                let becomes_data = !vma.is_data() && {
                    let mut after = vma.clone();
                    after.prot = prot;
                    after.is_data()
                };
                if becomes_data {
                    data = data.saturating_add(piece.len());
                }
                (becomes_data && data > self.limits.data).then_some(Errno::ENOMEM)
            };
            if let Some(errno) = refused {
                outcome = Err(errno);
                break;
            }
            at = piece.end;
        }
        if outcome.is_ok() && at < range.end {
            outcome = Err(Errno::ENOMEM);
        }
        let range = AddrRange { start: range.start, end: at };
        if range.is_empty() {
            return outcome;
        }
        if self.vmas.len() + 2 > MAX_MAP_COUNT && self.cuts(range) {
            return Err(Errno::ENOMEM);
        }
        self.change_vmas(range, |vma| {
            vma.prot = prot;
            if noexec {
                vma.note_noexec();
            }
        });
        let mut batch = Batch::default();
        if prot.contains(Prot::WRITE) {
            self.drop_text(range, &mut batch);
        }
        self.downgrade(range, &mut batch);
        self.commit(batch).map_err(|_| Errno::ENOMEM)?;
        outcome
    }

    /// Whether an end of `range` lies inside a VMA.
    fn cuts(&self, range: AddrRange) -> bool {
        [range.start, range.end].into_iter().any(|at| self.vmas.get(at).is_some_and(|(vma, _)| vma.start < at))
    }

    /// Takes from the platform what the VMAs of `range` allow no more. Where it has to be told anyway, it is told all
    /// that they do allow; where more is allowed than before, a fault will ask.
    fn downgrade(&mut self, range: AddrRange, batch: &mut Batch) {
        let pieces: Vec<_> = self.installed.within(range).collect();
        for (piece, installed) in pieces {
            for (part, vma) in self.vmas.within(piece).collect::<Vec<_>>() {
                let allowed = vma.cpu_prot();
                if allowed.contains(installed.prot) {
                    continue;
                }
                if allowed.is_empty() && !matches!(installed.place, Place::Memory { .. }) {
                    self.uninstall(part, batch);
                    continue;
                }
                let shared_cow = self.pmas.within(part).any(|(_, pma)| pma.cow);
                let writable = installed.made_writable && !shared_cow;
                let prot = if writable { allowed } else { allowed - Prot::WRITE };
                self.installed.update(part, |_, installed| installed.prot = prot);
                match batch.ops.last_mut() {
                    Some(MapOp::Protect { range: last, prot: same }) if *same == prot && last.end == part.start => {
                        last.end = part.end;
                    }
                    _ => batch.ops.push(MapOp::Protect { range: part, prot }),
                }
            }
        }
    }
}
