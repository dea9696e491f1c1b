//! What backs private pages, and what the platform has been told.
//!
//! - A [`Pma`] says that private pages of a run of addresses exist and where in the memory file they are. Addresses of a
//!   private VMA without one have never been written: zeros, or the file's bytes.
//! - An [`Installed`] is a mapping that the platform holds.
//!
//! Each PMA owns one reference on its part of the memory file.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use usermem::platform::{Backing, Prot};

use crate::addrmap::Piece;

/// Private pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pma {
    /// Where they are in the memory file.
    pub(crate) offset: u64,
    /// Whether others may share them: then never writable as they are.
    pub(crate) cow: bool,
    /// Patched text or its slots ([`crate::sites`]): the file's bytes for all but the CPU.
    pub(crate) text: bool,
}

impl Piece for Pma {
    fn cut(&self, offset: u64) -> Self {
        Self { offset: self.offset + offset, ..*self }
    }

    fn joins(&self, len: u64, next: &Self) -> bool {
        self.cow == next.cow && self.text == next.text && self.offset + len == next.offset
    }
}

/// Where the bytes of an installed mapping are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In the memory file.
    Memory { offset: u64 },
    /// In a host file.
    Host { file: Arc<OwnedFd>, offset: u64, shared: bool },
    /// Zeros.
    Zero,
}

impl Place {
    /// The same as the platform is told.
    pub(crate) fn backing(&self) -> Backing {
        match self {
            Self::Memory { offset } => Backing::Memory { offset: *offset },
            Self::Host { file, offset, shared } => {
                Backing::Host { file: Arc::clone(file), offset: *offset, shared: *shared }
            }
            Self::Zero => Backing::Zero,
        }
    }

    /// Whether these are the very same bytes.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.joins(0, other)
    }
}

impl Piece for Place {
    fn cut(&self, by: u64) -> Self {
        match self {
            Self::Memory { offset } => Self::Memory { offset: offset.saturating_add(by) },
            Self::Host { file, offset, shared } => {
                Self::Host { file: Arc::clone(file), offset: offset.saturating_add(by), shared: *shared }
            }
            Self::Zero => Self::Zero,
        }
    }

    fn joins(&self, len: u64, next: &Self) -> bool {
        match (self, next) {
            (Self::Memory { offset: a }, Self::Memory { offset: b }) => a.checked_add(len) == Some(*b),
            (Self::Host { file: f, offset: a, shared: s }, Self::Host { file: g, offset: b, shared: t }) => {
                Arc::ptr_eq(f, g) && s == t && a.checked_add(len) == Some(*b)
            }
            (Self::Zero, Self::Zero) => true,
            _ => false,
        }
    }
}

/// A mapping that the platform holds.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    pub(crate) place: Place,
    /// What guest code may do now.
    pub(crate) prot: Prot,
    /// Whether it was made writable, so that the platform can make it so again.
    pub(crate) made_writable: bool,
}

impl Piece for Installed {
    fn cut(&self, offset: u64) -> Self {
        Self { place: self.place.cut(offset), prot: self.prot, made_writable: self.made_writable }
    }

    fn joins(&self, len: u64, next: &Self) -> bool {
        self.prot == next.prot && self.made_writable == next.made_writable && self.place.joins(len, &next.place)
    }
}
