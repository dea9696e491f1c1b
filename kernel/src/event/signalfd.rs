//! signalfd(2): signals as something to read.
//!
//! A read takes the signals of the thread that reads, whoever made the file, as on Linux.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use fs::Context;
use fs::vfs::{File, FileOps};
use sync::{LockClass, Mutex};
use usermem::bytes::IoDst;
use waiter::{EventMask, WaitQueue};

use crate::signal::info::{SigData, SigInfo};
use crate::signal::{SigSet, Signal};
use crate::task::Thread;

const MASK: LockClass = LockClass::leaf("signalfd.mask");

/// Bytes of a `struct signalfd_siginfo`.
const RECORD: usize = 128;

/// A set of signals to read.
pub struct SignalFd {
    mask: Mutex<SigSet>,
    /// The thread that made it: whose signals `poll` tells of.
    maker: Arc<Thread>,
    /// Told when a signal arrives for the maker's process.
    queue: WaitQueue,
}

impl SignalFd {
    /// A file for the signals of `mask`.
    pub fn create(maker: &Arc<Thread>, mask: SigSet, flags: OpenFlags) -> Arc<File> {
        let signals =
            Self { mask: Mutex::new(MASK, mask), maker: Arc::clone(maker), queue: maker.group().signal_events.clone() };
        File::anonymous(Arc::new(signals), flags | OpenFlags::O_RDWR, "anon_inode:[signalfd]")
    }

    /// The set behind `file`; `EINVAL` for other files.
    pub fn of(file: &File) -> Result<Arc<Self>, Errno> {
        file.ops_arc::<Self>().ok_or(Errno::EINVAL)
    }

    /// Replaces the set.
    pub fn set_mask(&self, mask: SigSet) {
        *self.mask.lock() = mask;
        self.queue.wake(EventMask::READABLE);
    }
}

impl FileOps for SignalFd {
    fn read(&self, ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() < RECORD {
            return Err(Errno::EINVAL);
        }
        let reader = ctx.caller_as::<Arc<Thread>>().unwrap_or(&self.maker);
        let mask = *self.mask.lock();
        let mut done = 0;
        while dst.remaining() >= RECORD {
            let Some(info) = reader.take_signal(mask) else { break };
            match dst.put(&record(&info)) {
                Ok(RECORD) => done += RECORD,
                _ if done > 0 => break,
                _ => return Err(Errno::EFAULT),
            }
        }
        if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        let pending = self.maker.pending_signals().intersect(*self.mask.lock());
        if pending == SigSet::EMPTY { EventMask::empty() } else { interest & EventMask::READABLE }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn fdinfo(&self) -> String {
        format!("sigmask:\t{:016x}\n", self.mask.lock().0)
    }
}

/// `struct signalfd_siginfo`.
fn record(info: &SigInfo) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(to) = out.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    let value = |put: &mut dyn FnMut(usize, &[u8]), value: u64| {
        // ssi_int is the low half of ssi_ptr.
        put(44, &value.to_ne_bytes()[..4]);
        put(48, &value.to_ne_bytes());
    };
    put(0, &Signal::number(info.signal).to_ne_bytes());
    put(4, &info.errno.to_ne_bytes());
    put(8, &info.code.to_ne_bytes());
    if let Some((pid, uid)) = info.sender() {
        put(12, &pid.0.to_ne_bytes());
        put(16, &uid.to_ne_bytes());
    }
    match &info.data {
        SigData::Queue { value: word, .. } => value(&mut put, *word),
        SigData::Child { status, utime, stime, .. } => {
            put(40, &status.to_ne_bytes());
            put(56, &utime.to_ne_bytes());
            put(64, &stime.to_ne_bytes());
        }
        SigData::Fault { addr } => put(72, &addr.to_ne_bytes()),
        SigData::Timer { id, overrun, value: word } => {
            put(24, &id.to_ne_bytes());
            put(32, &overrun.to_ne_bytes());
            value(&mut put, *word);
        }
        SigData::Poll { band, fd } => {
            put(20, &fd.to_ne_bytes());
            put(28, &band.to_ne_bytes()[..4]);
        }
        SigData::Raw(bytes) => {
            // As after rt_sigqueueinfo: pid, uid and value in their places.
            put(12, &bytes[..4]);
            put(16, &bytes[4..8]);
            put(44, &bytes[8..12]);
            put(48, &bytes[8..16]);
        }
        SigData::None | SigData::Kill { .. } | SigData::Sys { .. } => {}
    }
    out
}
