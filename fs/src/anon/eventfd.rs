//! eventfd(2): a counter to wait for.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use sync::Mutex;
use usermem::bytes::{IoDst, IoSrc};
use waiter::{EventMask, WaitQueue};

use crate::vfs::{File, FileOps};
use crate::{Context, lockclass};

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
    count: Mutex<u64>,
    queue: WaitQueue,
}

impl EventFd {
    /// A counter that starts at `count`, as a file.
    pub fn create(count: u64, mode: Mode, flags: OpenFlags) -> Arc<File> {
        let event = Self { mode, count: Mutex::new(lockclass::BUFFER, count), queue: WaitQueue::new() };
        File::anonymous(Arc::new(event), flags | OpenFlags::O_RDWR, "anon_inode:[eventfd]")
    }

    /// Adds to the counter, from inside the kernel; saturates at the highest count.
    pub fn signal(&self, add: u64) {
        {
            let mut count = self.count.lock();
            *count = count.saturating_add(add).min(u64::MAX - 1);
        }
        self.queue.wake(EventMask::READABLE);
    }
}

impl FileOps for EventFd {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let taken = {
            let mut count = self.count.lock();
            let taken = if self.mode == Mode::Semaphore { (*count).min(1) } else { *count };
            if taken == 0 {
                return Err(Errno::EAGAIN);
            }
            *count -= taken;
            taken
        };
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
        {
            let mut count = self.count.lock();
            // The highest count is u64::MAX - 1.
            let sum = count.checked_add(add).filter(|sum| *sum < u64::MAX).ok_or(Errno::EAGAIN)?;
            *count = sum;
        }
        self.queue.wake(EventMask::READABLE);
        Ok(8)
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        let count = *self.count.lock();
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
        format!("eventfd-count: {:16x}\n", *self.count.lock())
    }
}
