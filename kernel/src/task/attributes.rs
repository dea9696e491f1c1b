//! What a thread asks to be treated like: execution domain, scheduling, I/O priority, timer slack. Kept, inherited and
//! told; the host schedules all threads alike.
//!
//! Relaxed throughout: single figures that their owner or a privileged process sets and anybody may read.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use sync::{LockClass, Mutex};

use super::NoNewPrivs;

const SCHEDULING: LockClass = LockClass::leaf("thread.scheduling");

/// Timer slack of the first task, in nanoseconds.
const DEFAULT_SLACK_NS: u64 = 50_000;

/// personality(2).
pub mod persona {
    /// Programs are placed at the same addresses each time.
    pub const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;
    /// PROT_READ implies PROT_EXEC.
    pub const READ_IMPLIES_EXEC: u32 = 0x040_0000;
    /// select(2) and its kin leave their timeout alone.
    pub const STICKY_TIMEOUTS: u32 = 0x400_0000;
    /// uname(2) tells of a Linux 2.6.
    pub const UNAME26: u32 = 0x002_0000;
    /// The domain itself, without the flags.
    pub const PER_MASK: u32 = 0xff;
    /// The domain of 32-bit programs.
    pub const PER_LINUX32: u32 = 8;
    /// What a program that changes ids loses.
    pub const CLEAR_ON_SETID: u32 = READ_IMPLIES_EXEC | ADDR_NO_RANDOMIZE | 0x020_0000 | 0x010_0000;
}

/// Policy and priority, sched(7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scheduling {
    /// `SCHED_*`.
    pub policy: i32,
    /// 1 to 99 for real-time policies, else 0.
    pub priority: i32,
    /// Children begin without real-time policy and negative niceness.
    pub reset_on_fork: bool,
    /// `SCHED_DEADLINE` only.
    pub reservation: Reservation,
}

/// CPU time that a thread asks for: so much of each period, before so much of it has passed. In nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reservation {
    /// CPU time.
    pub runtime_ns: u64,
    /// From the beginning of a period to when it is had.
    pub deadline_ns: u64,
    /// From one period to the next.
    pub period_ns: u64,
}

/// A thread's wishes.
pub struct Attributes {
    persona: AtomicU32,
    slack_ns: AtomicU64,
    default_slack_ns: AtomicU64,
    io_priority: AtomicI32,
    machine_check: AtomicU32,
    io_flusher: AtomicU32,
    no_new_privs: AtomicBool,
    scheduling: Mutex<Scheduling>,
}

impl Attributes {
    pub(crate) fn new() -> Self {
        Self {
            persona: AtomicU32::new(0),
            slack_ns: AtomicU64::new(DEFAULT_SLACK_NS),
            default_slack_ns: AtomicU64::new(DEFAULT_SLACK_NS),
            io_priority: AtomicI32::new(0),
            machine_check: AtomicU32::new(abi::prctl::PR_MCE_KILL_DEFAULT as u32),
            io_flusher: AtomicU32::new(0),
            no_new_privs: AtomicBool::new(false),
            scheduling: Mutex::new(SCHEDULING, Scheduling::default()),
        }
    }

    /// As a child has them; whether its scheduling begins anew.
    pub(crate) fn inherit(&self, parent: &Self) -> Reset {
        let copy = |to: &AtomicU32, from: &AtomicU32| to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        copy(&self.persona, &parent.persona);
        copy(&self.machine_check, &parent.machine_check);
        copy(&self.io_flusher, &parent.io_flusher);
        self.no_new_privs.store(parent.no_new_privs.load(Ordering::Relaxed), Ordering::Relaxed);
        // prctl(2), PR_SET_TIMERSLACK: both values of the child are the current one of its creator.
        let slack = parent.slack_ns();
        self.slack_ns.store(slack, Ordering::Relaxed);
        self.default_slack_ns.store(slack, Ordering::Relaxed);
        self.io_priority.store(parent.io_priority(), Ordering::Relaxed);
        let theirs = parent.scheduling();
        if !theirs.reset_on_fork {
            self.set_scheduling(theirs);
            return Reset::No;
        }
        // sched(7): a real-time policy becomes the default one; the wish itself is not inherited.
        let real_time = theirs.priority > 0 || theirs.policy == abi::sched::SCHED_DEADLINE;
        self.set_scheduling(if real_time {
            Scheduling::default()
        } else {
            Scheduling { reset_on_fork: false, ..theirs }
        });
        Reset::Yes
    }

    /// personality(2).
    pub fn persona(&self) -> u32 {
        self.persona.load(Ordering::Relaxed)
    }

    /// Changes the execution domain; says the old one.
    pub fn set_persona(&self, persona: u32) -> u32 {
        self.persona.swap(persona, Ordering::Relaxed)
    }

    /// PR_GET_NO_NEW_PRIVS: whether exec may grant privileges.
    pub fn no_new_privs(&self) -> NoNewPrivs {
        if self.no_new_privs.load(Ordering::Relaxed) { NoNewPrivs::Yes } else { NoNewPrivs::No }
    }

    /// PR_SET_NO_NEW_PRIVS: for ever.
    pub fn set_no_new_privs(&self) {
        self.no_new_privs.store(true, Ordering::Relaxed);
    }

    /// Policy and priority.
    pub fn scheduling(&self) -> Scheduling {
        *self.scheduling.lock()
    }

    /// Sets policy and priority; the caller has checked them.
    pub fn set_scheduling(&self, scheduling: Scheduling) {
        *self.scheduling.lock() = scheduling;
    }

    /// ioprio_get(2): class and level.
    pub fn io_priority(&self) -> i32 {
        self.io_priority.load(Ordering::Relaxed)
    }

    /// ioprio_set(2); the caller has checked it.
    pub fn set_io_priority(&self, priority: i32) {
        self.io_priority.store(priority, Ordering::Relaxed);
    }

    /// PR_GET_TIMERSLACK, in nanoseconds.
    pub fn slack_ns(&self) -> u64 {
        self.slack_ns.load(Ordering::Relaxed)
    }

    /// PR_SET_TIMERSLACK; 0 is the default again.
    pub fn set_slack_ns(&self, ns: u64) {
        let ns = if ns == 0 { self.default_slack_ns.load(Ordering::Relaxed) } else { ns };
        self.slack_ns.store(ns, Ordering::Relaxed);
    }

    /// PR_MCE_KILL_GET.
    pub fn machine_check(&self) -> u32 {
        self.machine_check.load(Ordering::Relaxed)
    }

    /// PR_MCE_KILL.
    pub fn set_machine_check(&self, policy: u32) {
        self.machine_check.store(policy, Ordering::Relaxed);
    }

    /// PR_GET_IO_FLUSHER: 0 or 1.
    pub fn io_flusher(&self) -> u32 {
        self.io_flusher.load(Ordering::Relaxed)
    }

    /// PR_SET_IO_FLUSHER.
    pub fn set_io_flusher(&self, on: u32) {
        self.io_flusher.store(on, Ordering::Relaxed);
    }
}

/// Whether a child's scheduling begins anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reset {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::{Attributes, Reset, Scheduling};

    #[test]
    fn children_inherit_but_for_what_is_reset() {
        let (parent, child) = (Attributes::new(), Attributes::new());
        parent.set_persona(7);
        parent.set_slack_ns(9);
        parent.set_scheduling(Scheduling { policy: 1, priority: 5, ..Scheduling::default() });
        assert_eq!(child.inherit(&parent), Reset::No);
        assert_eq!((child.persona(), child.slack_ns(), child.scheduling().priority), (7, 9, 5));
        child.set_slack_ns(1);
        child.set_slack_ns(0);
        assert_eq!(child.slack_ns(), 9);
        parent.set_scheduling(Scheduling { policy: 1, priority: 5, reset_on_fork: true, ..Scheduling::default() });
        let child = Attributes::new();
        assert_eq!((child.inherit(&parent), child.scheduling()), (Reset::Yes, Scheduling::default()));
    }
}
