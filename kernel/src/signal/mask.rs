//! The mask of blocked signals of one thread, behind the only two ways to it.

use super::types::SigSet;

/// A thread's mask. SIGKILL and SIGSTOP are never in it.
#[derive(Default)]
pub(crate) struct Mask {
    own: SigSet,
}

impl Mask {
    /// A mask of its own.
    pub(crate) fn new(set: SigSet) -> Self {
        Self { own: set.minus(SigSet::UNBLOCKABLE) }
    }

    /// What is blocked.
    pub(crate) fn get(&self) -> SigSet {
        self.own
    }

    /// Blocks `set` and nothing else.
    pub(crate) fn set(&mut self, set: SigSet) {
        self.own = set.minus(SigSet::UNBLOCKABLE);
    }
}
