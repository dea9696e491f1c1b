//! What an operation knows of its caller: credentials, clock, a way to wait, and an opaque identity.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use auth::Creds;
use waiter::{EventMask, Pollable};

use crate::pipe::Pipe;
use crate::vfs::{Devices, Timestamp};

/// Reads the wall clock, for the times in inodes.
pub trait Clock: Send + Sync {
    /// `CLOCK_REALTIME` now.
    fn now(&self) -> Timestamp;
}

/// The host's wall clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
    }
}

/// How the few operations that must wait inside do so (opening a FIFO, `fifo(7)`; raw reads of a terminal, `termios(3)`).
pub trait Blocker {
    /// Returns when `object` may have become ready for one of `interest`, or when CLOCK_MONOTONIC has reached
    /// `deadline_ns`; `EINTR` when a signal came instead. Spurious returns are fine.
    fn wait_until(&self, object: &dyn Pollable, interest: EventMask, deadline_ns: Option<u64>) -> Result<(), Errno>;

    /// The same without a deadline.
    fn wait(&self, object: &dyn Pollable, interest: EventMask) -> Result<(), Errno> {
        self.wait_until(object, interest, None)
    }

    /// Wakes those who wait to read from `pipe`, perhaps only a moment later, and before the caller sleeps: who writes much
    /// in many pieces need not wake its reader for each. `false`: it does not, and that is left to who asked.
    fn wake_readers_later(&self, _pipe: &Arc<Pipe>) -> bool {
        false
    }
}

/// A caller that cannot wait: every wait is `EAGAIN`.
#[derive(Debug, Default, Clone, Copy)]
pub struct NeverBlock;

impl Blocker for NeverBlock {
    fn wait_until(&self, _object: &dyn Pollable, _interest: EventMask, _deadline: Option<u64>) -> Result<(), Errno> {
        Err(Errno::EAGAIN)
    }
}

/// Who holds a POSIX lock: an opaque number, unique per thread group (file table), never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LockOwner(pub u64);

/// Who asks and what they brought. Cheap to make: borrow it for one system call.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Credentials; file access uses `fsuid`, `fsgid`, `groups` and `effective`.
    pub creds: &'a Creds,
    /// Mode bits removed from new files.
    pub umask: u32,
    /// The wall clock.
    pub clock: &'a dyn Clock,
    /// How to wait.
    pub blocker: &'a dyn Blocker,
    /// Owner of POSIX locks taken and released.
    pub lock_owner: LockOwner,
    /// What device numbers mean.
    pub devices: &'a Devices,
    /// The caller, opaque to fs: kernel's own files (`/proc/self`, `/dev/tty`) recover the task from it.
    pub caller: Option<&'a (dyn Any + Send + Sync)>,
}

impl<'a> Context<'a> {
    /// The same caller with other credentials.
    pub fn with_creds<'b>(&self, creds: &'b Creds) -> Context<'b>
    where
        'a: 'b,
    {
        Context { creds, ..*self }
    }

    /// The caller as a `T`, if it is one.
    pub fn caller_as<T: 'static>(&self) -> Option<&'a T> {
        self.caller?.downcast_ref()
    }
}

/// An owned context with every capability, for boot and for tests.
pub struct KernelContext {
    creds: Creds,
    clock: SystemClock,
    blocker: NeverBlock,
    devices: std::sync::Arc<Devices>,
}

impl KernelContext {
    /// A root context with these devices.
    pub fn new(devices: std::sync::Arc<Devices>) -> Self {
        Self { creds: Creds::root(), clock: SystemClock, blocker: NeverBlock, devices }
    }

    /// The context to pass on; umask 0.
    pub fn context(&self) -> Context<'_> {
        Context {
            creds: &self.creds,
            umask: 0,
            clock: &self.clock,
            blocker: &self.blocker,
            lock_owner: LockOwner(u64::MAX),
            devices: &self.devices,
            caller: None,
        }
    }
}

impl Default for KernelContext {
    fn default() -> Self {
        Self::new(std::sync::Arc::new(Devices::new()))
    }
}
