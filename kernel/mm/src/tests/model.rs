//! What a process should see: a table of pages with one word each.

use std::collections::BTreeMap;

use usermem::platform::Prot;

/// Where a page's word is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Word {
    /// The process's own.
    Own(u64),
    /// A private page of an object, not yet written.
    Unwritten { object: usize, page: u64 },
    /// A shared page of an object.
    Shared { object: usize, page: u64 },
}

/// A mapped page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ModelPage {
    pub(super) prot: Prot,
    pub(super) word: Word,
    /// What it is again after MADV_DONTNEED.
    pub(super) fresh: Word,
}

/// A process.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) pages: BTreeMap<u64, ModelPage>,
}

/// Objects that processes map: a word for each page.
pub(super) type Objects = Vec<Vec<u64>>;

/// What an access should give.
#[derive(PartialEq, Eq, Debug, Clone, Copy)]
pub(super) enum Outcome {
    Value(u64),
    NotMapped,
    NotAllowed,
}

impl Model {
    pub(super) fn load(&self, objects: &Objects, page: u64) -> Outcome {
        let Some(found) = self.pages.get(&page) else { return Outcome::NotMapped };
        if found.prot.is_empty() {
            return Outcome::NotAllowed;
        }
        Outcome::Value(match found.word {
            Word::Own(value) => value,
            Word::Unwritten { object, page } | Word::Shared { object, page } => objects[object][page as usize],
        })
    }

    pub(super) fn store(&mut self, objects: &mut Objects, page: u64, value: u64) -> Outcome {
        let Some(found) = self.pages.get_mut(&page) else { return Outcome::NotMapped };
        if !found.prot.contains(Prot::WRITE) {
            return Outcome::NotAllowed;
        }
        match found.word {
            Word::Shared { object, page } => objects[object][page as usize] = value,
            _ => found.word = Word::Own(value),
        }
        Outcome::Value(value)
    }
}
