//! The mask of blocked signals of one thread, behind the only way to it, and who may change it.
//!
//! A thread that runs guest code may keep its mask itself ([`GuestMask`]): its calls of rt_sigprocmask then change it without
//! the kernel, and the word that it keeps is the mask, for all who ask, until the thread gets another context or ends.
//! So no mask is ever out of date, and nothing has to be told on the way in or out of guest code.
//!
//! That is right while no signal is pending, because then a change of the mask has no effect that anybody could miss. So
//! the mask is *open* only then, and each signal closes it:
//!
//! - Whoever queues a signal for a thread, or for its group, closes the mask of each thread that may take it, and only
//!   then reads masks to choose one ([`super::send`]). A change that is not seen by that comes with an interrupt, at which
//!   the thread looks at what is pending with the locks held, and passes on what others have to take now
//!   (`Task::next_signal`). The platform says how (`platform_systrap::mask`; loom runs it, this side included).
//! - A mask is opened with the lock of its group and of its thread held, and only when nothing is pending for either
//!   ([`ThreadSignals::reopen`]): at the thread's own calls.
//!
//! Masks that hold for one call (ppoll, sigsuspend) need no more: they are set and put back while the thread is with us.
//! A guest that forges the word blocks or unblocks its own signals. It may be any bits, and another value at each look.

use std::sync::Arc;

use usermem::platform::GuestMask;

use super::queue::PendingSignals;
use super::types::SigSet;
use crate::task::thread::ThreadSignals;

/// A thread's mask. SIGKILL and SIGSTOP are never in it.
#[derive(Default)]
pub(crate) struct Mask {
    /// While it is not lent.
    own: SigSet,
    lent: Option<Lent>,
}

struct Lent {
    mask: Arc<dyn GuestMask>,
    /// Opened, and not closed since.
    open: bool,
}

impl Mask {
    /// A mask of its own.
    pub(crate) fn new(set: SigSet) -> Self {
        Self { own: set.minus(SigSet::UNBLOCKABLE), lent: None }
    }

    /// What is blocked.
    pub(crate) fn get(&self) -> SigSet {
        match &self.lent {
            Some(lent) => SigSet(lent.mask.get()).minus(SigSet::UNBLOCKABLE),
            None => self.own,
        }
    }

    /// Blocks `set` and nothing else. By the thread itself.
    pub(crate) fn set(&mut self, set: SigSet) {
        self.own = set.minus(SigSet::UNBLOCKABLE);
        if let Some(lent) = &self.lent {
            lent.mask.set(self.own.bits());
        }
    }

    /// Gives it to a new context of the thread, closed.
    pub(crate) fn lend(&mut self, mask: Arc<dyn GuestMask>) {
        mask.set(self.get().bits());
        self.lent = Some(Lent { mask, open: false });
    }

    /// Takes it back, before the context ends.
    pub(crate) fn reclaim(&mut self) {
        self.own = self.get();
        self.lent = None;
    }

    /// From here on no change is missed: see the module. Before the masks of a group are read to choose by them.
    pub(crate) fn close(&mut self) {
        if let Some(lent) = self.lent.as_mut().filter(|lent| lent.open) {
            lent.open = false;
            lent.mask.close();
        }
    }
}

impl ThreadSignals {
    /// Opens the mask if nothing is pending, for the group neither. By the thread itself.
    pub(crate) fn reopen(&mut self, group: &PendingSignals) {
        if let Some(lent) = &mut self.mask.lent
            && self.pending.set().union(group.set()).is_empty()
        {
            lent.open = true;
            lent.mask.open();
        }
    }
}
