//! System V IPC (shared memory, semaphore sets and message queues, `sysvipc(7)`) and POSIX message queues ([`mqueue`]).
//!
//! Each System V family is one table behind one lock: [`Segments`], [`Semaphores`], [`Queues`]. What they have in common (ids,
//! keys, permissions) is in `table` and `perm`. Those who sleep hold only the wait queue of what they sleep on and look
//! their object up again after each wake, so that a removal is seen as `EIDRM`.
//!
//! **Invariants.** No lock of this module is held while guest memory is touched or a task sleeps. What all objects of a
//! family hold together is bounded, whatever guests create.

mod knobs;
pub mod mqueue;
mod msg;
mod perm;
mod sem;
mod shm;
mod table;

use std::sync::Arc;

use crate::kernel::Kernel;
use crate::time::ClockId;

pub(crate) use knobs::{Family, TableKnob};
pub use msg::{Copied, MSGMAX, MSGMNB, MSGMNI, MessageQueue, QueueTotals, Queues, Select, Shortening};
pub use perm::{Change, Existing, Perm, Wanted};
pub use sem::{SEMMNI, SEMMNS, SEMMSL, SEMOPM, SEMVMX, SemOp, SemTotals, SemaphoreSet, Semaphores, Undo, Waiting};
pub use shm::{Attached, Locking, SHMMAX, SHMMNI, SegmentInfo, SegmentTotals, Segments};
pub use table::{IPCMNI, Named};

/// What IPC there is.
pub struct Ipc {
    shm: Segments,
    sem: Semaphores,
    msg: Queues,
    mqueues: mqueue::Mqueues,
}

impl Ipc {
    pub(crate) fn new() -> Self {
        Self { shm: Segments::new(), sem: Semaphores::new(), msg: Queues::new(), mqueues: mqueue::Mqueues::new() }
    }

    /// Shared memory.
    pub fn shm(&self) -> &Segments {
        &self.shm
    }

    /// Semaphore sets.
    pub fn sem(&self) -> &Semaphores {
        &self.sem
    }

    /// Message queues.
    pub fn msg(&self) -> &Queues {
        &self.msg
    }

    /// POSIX message queues.
    pub fn mqueues(&self) -> &mqueue::Mqueues {
        &self.mqueues
    }
}

/// Seconds since the epoch, as the times of objects count.
fn now(kernel: &Arc<Kernel>) -> i64 {
    i64::try_from(kernel.clock_ns(ClockId::Realtime) / 1_000_000_000).unwrap_or(0)
}
