//! eventfd(2): a counter to wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::fs::OpenFlags;
use usermem::bytes::{IoDst, IoSrc};
use waiter::{EventMask, WaitQueue};

use crate::Context;
use crate::vfs::{File, FileOps};

/// What a read takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The whole count.
    Counter,
    /// One, `EFD_SEMAPHORE`.
    Semaphore,
}

/// The counter.
pub struct EventFd {
    mode: Mode,
    /// SeqCst throughout: what `readiness` reports, so it changes before the queue is woken.
    count: AtomicU64,
    queue: WaitQueue,
}

impl EventFd {
    /// A counter that starts at `count`, as a file.
    pub fn create(count: u64, mode: Mode, flags: OpenFlags) -> Arc<File> {
        let event = Self { mode, count: AtomicU64::new(count), queue: WaitQueue::new() };
        File::anonymous(Arc::new(event), flags | OpenFlags::O_RDWR, "anon_inode:[eventfd]")
    }

    /// Adds to the counter, from inside the kernel; saturates at the highest count.
    pub fn signal(&self, add: u64) {
        self.change(|count| Some(count.saturating_add(add).min(u64::MAX - 1)));
        self.queue.wake(EventMask::READABLE);
    }

    /// Replaces the count by what `to` makes of it, unless that is nothing; says what it was.
    fn change(&self, to: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
        self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, to).ok()
    }
}

impl FileOps for EventFd {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let left = |count: u64| if self.mode == Mode::Semaphore { count - 1 } else { 0 };
        let count = self.change(|count| (count > 0).then(|| left(count))).ok_or(Errno::EAGAIN)?;
        let taken = count - left(count);
        self.queue.wake(EventMask::WRITABLE);
        // Linux, too, loses the count when the buffer turns out to be bad.
        if dst.put(&taken.to_ne_bytes())? == 8 { Ok(8) } else { Err(Errno::EFAULT) }
    }

    fn write(&self, _ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc, _offset: u64) -> Result<usize, Errno> {
        if src.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if src.take(&mut bytes)? != 8 {
            return Err(Errno::EFAULT);
        }
        let add = u64::from_ne_bytes(bytes);
        if add == u64::MAX {
            return Err(Errno::EINVAL);
        }
        // The highest count is u64::MAX - 1.
        self.change(|count| count.checked_add(add).filter(|sum| *sum < u64::MAX)).ok_or(Errno::EAGAIN)?;
        self.queue.wake(EventMask::READABLE);
        Ok(8)
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        let count = self.count.load(Ordering::SeqCst);
        let mut ready = EventMask::empty();
        if count > 0 {
            ready |= EventMask::READABLE;
        }
        if count < u64::MAX - 1 {
            ready |= EventMask::WRITABLE;
        }
        if count == u64::MAX {
            ready |= EventMask::ERR;
        }
        ready & (interest | EventMask::ALWAYS)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn fdinfo(&self) -> String {
        format!("eventfd-count: {:16x}\n", self.count.load(Ordering::SeqCst))
    }
}
