//! The classes of this crate's locks, outermost first; ranks below 4000 so that file systems and mm come inside.
//!
//! ```text
//! kernel.ext ─ kernel.tasks ─ group.signals ─ group.handlers ─ thread.signals ─ thread.parts
//!                                                                        (leaves: fd table, fs state, quota)
//! kernel.futex ─ [mm]   kernel.ipc ─ [memory file]
//! ```
//! A wait queue or parker may be woken under any of them (they are leaves). User memory is never touched under a lock of
//! this crate but a futex bucket's.

use sync::LockClass;

/// What brackets the whole sandbox: pause, shutdown.
pub(crate) const EXT: LockClass = LockClass::new("kernel.ext", 1000);
/// The process tree ([`crate::task::TaskSet`]).
pub(crate) const TASKS: LockClass = LockClass::new("kernel.tasks", 1100);
/// A thread group's interval and POSIX timers, which send signals.
pub(crate) const GROUP_TIMERS: LockClass = LockClass::new("group.timers", 1150);
/// A thread group's signal state.
pub(crate) const GROUP_SIGNALS: LockClass = LockClass::new("group.signals", 1200);
/// A table of signal actions, which groups may share.
pub(crate) const HANDLERS: LockClass = LockClass::new("group.handlers", 1210);
/// A thread's signal state.
pub(crate) const THREAD_SIGNALS: LockClass = LockClass::new("thread.signals", 1220);
/// What others may look at of a thread: mm, files, credentials.
pub(crate) const THREAD_PARTS: LockClass = LockClass::new("thread.parts", 1300);
/// A futex bucket; two are taken in the order of their index.
pub(crate) const FUTEX: LockClass = LockClass::new("kernel.futex", 1500);
/// A family of System V IPC objects; no two are held at a time.
pub(crate) const IPC: LockClass = LockClass::new("kernel.ipc", 1600);
/// A POSIX message queue; a leaf.
pub(crate) const MQUEUE: LockClass = LockClass::leaf("kernel.mqueue");
/// The names of POSIX message queues; a queue's room is charged inside.
pub(crate) const MQUEUE_NAMES: LockClass = LockClass::new("kernel.mqueue_names", 3030);
/// Bytes of POSIX message queues by user.
pub(crate) const MQUEUE_QUOTA: LockClass = LockClass::new("kernel.mqueue_quota", 3040);
/// A descriptor table.
pub(crate) const FD_TABLE: LockClass = LockClass::new("kernel.fdtable", 3000);
/// Root, working directory and umask.
pub(crate) const FS_STATE: LockClass = LockClass::new("kernel.fs_state", 3010);
/// Resource limits of a group.
pub(crate) const LIMITS: LockClass = LockClass::new("group.limits", 3020);
/// The timer thread's heap; a leaf, because whoever becomes ready may have a signal sent from there.
pub(crate) const TIMERS: LockClass = LockClass::leaf("kernel.timers");
/// Clock parameters and the page they are published on.
pub(crate) const CLOCKS: LockClass = LockClass::new("kernel.clocks", 3105);
/// Load averages.
pub(crate) const LOAD: LockClass = LockClass::new("kernel.load", 3107);
/// The host and domain name.
pub(crate) const UTS: LockClass = LockClass::new("kernel.uts", 3110);
/// Counts of queued signals.
pub(crate) const SIGNAL_QUOTA: LockClass = LockClass::new("kernel.signal_quota", 3200);
