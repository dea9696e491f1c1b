//! Facts about a thread that its platform may tell it without coming to us: who it is and who is about it.
//!
//! One of them, the mask of blocked signals, the guest may also change, and then keeps itself: [`crate::signal::mask`].
//!
//! Each is published when a thread gets a context and whenever it changes, before anybody can observe the change: facts of
//! the process tree under its lock, credentials by the thread itself. Which calls ask for them the table of calls says
//! ([`crate::syscall::Dispatch::answers`]); it says nothing while calls are traced.

use auth::Creds;

use super::Task;
use super::set::GroupEntry;
use super::thread::Thread;

/// What a call without arguments that matter asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fact {
    /// Number of the process.
    Pid,
    /// Number of the thread.
    Tid,
    /// Number of the parent process.
    ParentPid,
    /// Number of the process group.
    ProcessGroup,
    /// Real user.
    Uid,
    /// Effective user.
    EffectiveUid,
    /// Real group.
    Gid,
    /// Effective group.
    EffectiveGid,
    /// The mask of blocked signals, which the call may change too: rt_sigprocmask(2).
    SignalMask,
}

impl Thread {
    /// Publishes one fact, if there are calls that ask for it.
    fn publish(&self, fact: Fact, value: u64) {
        let Some(answers) = self.answers.get() else { return };
        for (_, number) in answers.iter().filter(|(asked, _)| *asked == fact) {
            self.publish_answer(*number, value);
        }
    }

    fn publish_creds(&self, creds: &Creds) {
        self.publish(Fact::Uid, u64::from(creds.ruid.0));
        self.publish(Fact::EffectiveUid, u64::from(creds.euid.0));
        self.publish(Fact::Gid, u64::from(creds.rgid.0));
        self.publish(Fact::EffectiveGid, u64::from(creds.egid.0));
    }
}

impl GroupEntry {
    /// Publishes what the process tree knows, to all threads of the process. The tree is locked.
    pub(super) fn publish_kin(&self) {
        for thread in self.group.threads() {
            self.publish_kin_to(&thread);
        }
    }

    fn publish_kin_to(&self, thread: &Thread) {
        thread.publish(Fact::ParentPid, u64::from(self.parent.0));
        thread.publish(Fact::ProcessGroup, u64::from(self.pgrp.0));
    }
}

impl Task {
    /// Publishes everything, to a new context.
    pub(super) fn publish_all(&self) {
        let thread = self.thread();
        thread.answers.get_or_init(|| self.kernel().dispatch().answers());
        thread.publish(Fact::Pid, u64::from(self.pid().0));
        thread.publish(Fact::Tid, u64::from(self.tid().0));
        thread.publish_creds(self.creds());
        self.lend_mask();
        let tree = self.kernel().tasks().lock();
        if let Ok(entry) = tree.entry(self.pid()) {
            entry.publish_kin_to(thread);
        }
    }

    /// Has the guest keep its mask of blocked signals, if its platform can.
    fn lend_mask(&self) {
        let answers = self.thread().answers.get().copied().unwrap_or_default();
        if !answers.iter().any(|(asked, _)| *asked == Fact::SignalMask) {
            return;
        }
        let Some(mask) = self.ctx.mask() else { return };
        let signals = self.group().lock_signals();
        let mut own = self.thread().signals.lock();
        own.mask.lend(mask);
        own.reopen(&signals.pending);
    }

    /// Publishes new credentials.
    pub(super) fn publish_new_creds(&self) {
        self.thread().publish_creds(self.creds());
    }
}
