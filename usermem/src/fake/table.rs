//! An entry of the model of a page table: a run of pages with consecutive backing.

use std::sync::Arc;

use segment::Segment;

use crate::platform::{Backing, Prot};

#[derive(Clone, Debug)]
pub(super) struct Pte {
    pub(super) backing: Backing,
    pub(super) prot: Prot,
    /// Whether [`Prot::WRITE`] may be added later.
    pub(super) writable: bool,
}

impl Pte {
    /// The entry for the pages from `by` bytes on.
    pub(super) fn advanced(mut self, by: u64) -> Self {
        match &mut self.backing {
            Backing::Memory { offset } | Backing::Host { offset, .. } => *offset += by,
            Backing::Zero => {}
        }
        self
    }
}

impl Segment for Pte {
    fn split(self, at: u64) -> (Self, Self) {
        let right = self.clone().advanced(at);
        (self, right)
    }

    fn try_merge(&self, len: u64, next: &Self) -> Option<Self> {
        let same = self.prot == next.prot
            && self.writable == next.writable
            && match (&self.backing, &next.backing) {
                (Backing::Memory { offset: a }, Backing::Memory { offset: b }) => a + len == *b,
                (Backing::Host { file: f, offset: a, shared: s }, Backing::Host { file: g, offset: b, shared: t }) => {
                    Arc::ptr_eq(f, g) && a + len == *b && s == t
                }
                (Backing::Zero, Backing::Zero) => true,
                _ => false,
            };
        same.then(|| self.clone())
    }
}
