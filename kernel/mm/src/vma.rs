//! What the guest asked for: one [`Vma`] for each run of addresses mapped alike.

use std::os::fd::AsFd;
use std::sync::Arc;

use usermem::memmap::{Located, Mappable};
use usermem::platform::{Access, Prot};
use usermem::{Addr, AddrRange, PAGE_SIZE, host};

use crate::addrmap::Piece;
use crate::types::{MappedFile, Sharing, Text};

bitflags::bitflags! {
    /// Properties of a mapping beyond its protection; `/proc/[pid]/smaps` shows them as VmFlags.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct VmaFlags: u32 {
        /// Grows towards lower addresses.
        const GROWSDOWN = 1 << 0;
        /// Not counted by the overcommit heuristic.
        const NORESERVE = 1 << 1;
        /// Counted against RLIMIT_MEMLOCK.
        const LOCKED = 1 << 2;
        /// Locked when touched (`mlock2(MLOCK_ONFAULT)`).
        const LOCK_ON_FAULT = 1 << 3;
        /// Counted as stack.
        const STACK = 1 << 4;
        /// Neither grown nor merged (vDSO).
        const SPECIAL = 1 << 5;
        /// Not copied by fork.
        const DONTFORK = 1 << 6;
        /// Not in core dumps.
        const DONTDUMP = 1 << 7;
        /// Zeros in the child of a fork.
        const WIPEONFORK = 1 << 8;
        /// `MADV_HUGEPAGE`.
        const HUGEPAGE = 1 << 9;
        /// `MADV_NOHUGEPAGE`.
        const NOHUGEPAGE = 1 << 10;
        /// `MADV_RANDOM`.
        const RANDOM = 1 << 11;
        /// `MADV_SEQUENTIAL`.
        const SEQUENTIAL = 1 << 12;
        /// The heap of `brk(2)`.
        const HEAP = 1 << 13;
        /// Slots of patched call sites: not listed anywhere, not counted.
        const HIDDEN = 1 << 14;
        /// Of a host file that the host does not let be text.
        const NOEXEC = 1 << 15;
        /// `mseal(2)`: stays as it is until the address space ends.
        const SEALED = 1 << 16;
    }
}

/// A file in a VMA.
#[derive(Clone)]
pub(crate) struct FileBacking {
    pub(crate) object: Arc<dyn Mappable>,
    pub(crate) file: Arc<dyn MappedFile>,
    /// Of the first byte of the VMA.
    pub(crate) offset: u64,
}

/// One mapping.
#[derive(Clone)]
pub(crate) struct Vma {
    pub(crate) prot: Prot,
    /// The most that `prot` may become.
    pub(crate) max_prot: Prot,
    pub(crate) sharing: Sharing,
    pub(crate) flags: VmaFlags,
    /// `None`: anonymous.
    pub(crate) file: Option<FileBacking>,
    pub(crate) label: &'static str,
}

/// How an access that the VMA's protection does not allow is treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Force {
    /// Refused.
    No,
    /// As a debugger's (`FOLL_FORCE`): private mappings are readable and writable whatever their protection.
    Yes,
}

impl Vma {
    /// The protection as the CPU has it: what can be written or executed can be read.
    pub(crate) fn cpu_prot(&self) -> Prot {
        if self.prot.intersects(Prot::WRITE | Prot::EXEC) { self.prot | Prot::READ } else { self.prot }
    }

    pub(crate) fn is_private(&self) -> bool {
        self.sharing == Sharing::Private
    }

    /// Whether pages written belong to this address space alone and count as data.
    pub(crate) fn is_private_writable(&self) -> bool {
        self.is_private() && self.prot.contains(Prot::WRITE)
    }

    /// Counted against RLIMIT_DATA: private, writable and no stack, as Linux's `is_data_mapping`.
    pub(crate) fn is_data(&self) -> bool {
        self.is_private_writable() && !self.flags.intersects(VmaFlags::GROWSDOWN | VmaFlags::STACK)
    }

    /// Whether its bytes have to be copied to be executed.
    pub(crate) fn copies_text(&self) -> bool {
        self.prot.contains(Prot::EXEC)
            && (self.flags.contains(VmaFlags::NOEXEC)
                || self.file.as_ref().is_some_and(|file| file.file.text() == Text::Copied))
    }

    /// Finds out whether the host lets its file be text, before it becomes text.
    pub(crate) fn note_noexec(&mut self) {
        let Some(file) = self.file.as_ref().filter(|_| !self.flags.contains(VmaFlags::NOEXEC)) else { return };
        if let Ok((Located::Host { file, .. }, _)) = file.object.locate(0, PAGE_SIZE, false)
            && host::is_noexec(file.as_fd())
        {
            self.flags |= VmaFlags::NOEXEC;
        }
    }

    pub(crate) fn allows(&self, access: Access, force: Force) -> bool {
        let needed = needs(access);
        if self.cpu_prot().contains(needed) {
            return true;
        }
        force == Force::Yes
            && match access {
                Access::Read | Access::Exec => true,
                Access::Write => self.is_private(),
            }
    }

    /// Offset in the file of `addr`, for a VMA at `range`.
    pub(crate) fn offset_of(&self, range: AddrRange, addr: Addr) -> u64 {
        self.file.as_ref().map_or(0, |f| f.offset.saturating_add(addr.0.saturating_sub(range.start.0)))
    }
}

/// The protection that an access needs.
pub(crate) const fn needs(access: Access) -> Prot {
    match access {
        Access::Read => Prot::READ,
        Access::Write => Prot::WRITE,
        Access::Exec => Prot::EXEC,
    }
}

impl Piece for Vma {
    fn cut(&self, offset: u64) -> Self {
        let mut part = self.clone();
        if let Some(file) = &mut part.file {
            file.offset = file.offset.saturating_add(offset);
        }
        part
    }

    fn joins(&self, len: u64, next: &Self) -> bool {
        self.prot == next.prot
            && self.max_prot == next.max_prot
            && self.sharing == next.sharing
            && self.flags == next.flags
            && !self.flags.contains(VmaFlags::SPECIAL)
            && self.label == next.label
            && match (&self.file, &next.file) {
                (None, None) => true,
                (Some(a), Some(b)) => {
                    Arc::ptr_eq(&a.object, &b.object)
                        && Arc::ptr_eq(&a.file, &b.file)
                        && a.offset.checked_add(len) == Some(b.offset)
                }
                _ => false,
            }
    }
}
