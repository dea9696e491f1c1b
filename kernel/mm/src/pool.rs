//! The memory file as an address space uses it: offsets and lengths of whole pages.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::Errno;
use sync::epoch::Pin;
use usermem::memfile::{Content, FileRange, MemoryFile, Place};
use usermem::{PAGE_SIZE, host, safecopy};
use vm_memory::VolatileSlice;

use crate::types::Fault;

/// A handle on the memory file.
#[derive(Clone)]
pub(crate) struct Pool {
    memory: Arc<MemoryFile>,
}

impl Pool {
    pub(crate) fn new(memory: Arc<MemoryFile>) -> Self {
        Self { memory }
    }

    pub(crate) fn memory(&self) -> &Arc<MemoryFile> {
        &self.memory
    }

    /// Reserves `len` bytes that read as zeros and need no memory until touched.
    pub(crate) fn allocate(&self, len: u64) -> Result<u64, Fault> {
        self.memory.allocate(len, Place::Anywhere).map(|range| range.start).map_err(|_| Fault::Oom)
    }

    /// Takes `len` bytes of pages, at most [`crate::state::WINDOW`], at `after` if possible; says where and what is in
    /// them.
    pub(crate) fn take(&self, len: u64, after: Option<u64>) -> Result<(u64, Content), Fault> {
        self.memory.take(len, after).map(|(range, content)| (range.start, content)).map_err(|_| Fault::Oom)
    }

    /// Has memory come for each page of a range, whose bytes stay.
    pub(crate) fn touch(&self, offset: u64, len: u64) -> Result<(), Fault> {
        let mut byte = [0];
        for at in (offset..offset.saturating_add(len)).step_by(PAGE_SIZE as usize) {
            let page = self.slice(at, 1).map_err(|_| Fault::Oom)?;
            safecopy::read_slices(&[page], &mut byte).map_err(|_| Fault::Oom)?;
        }
        Ok(())
    }

    /// Sets pages of the caller's own to zero.
    pub(crate) fn zero(&self, offset: u64, len: u64) -> Result<(), Fault> {
        self.memory.zero(FileRange::of_len(offset, len)).map_err(|_| Fault::Oom)
    }

    pub(crate) fn inc_ref(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.memory.inc_ref(FileRange::of_len(offset, len))
    }

    pub(crate) fn dec_ref(&self, offset: u64, len: u64) {
        if let Err(error) = self.memory.dec_ref(FileRange::of_len(offset, len)) {
            // A reference that we do not own: a mistake of ours, worse to act on than to leak.
            log::error!("dropping a reference on {offset:#x}+{len:#x}: {error:?}");
            debug_assert!(false, "dropping a reference on {offset:#x}+{len:#x}: {error:?}");
        }
    }

    /// How many share the page at `offset`, and for how many of `len` bytes that is so.
    pub(crate) fn refs(&self, offset: u64, len: u64) -> (u32, u64) {
        self.memory.refs(FileRange::of_len(offset, len)).unwrap_or((u32::MAX, PAGE_SIZE))
    }

    /// The parts of `[offset, offset + len)` that hold data, as (offset, length); all of it if that cannot be known.
    pub(crate) fn data_runs(&self, offset: u64, len: u64) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        let mut left = FileRange::of_len(offset, len);
        while !left.is_empty() {
            match self.memory.next_data(left) {
                Ok(Some(run)) if !run.is_empty() => {
                    runs.push((run.start, run.len()));
                    left.start = run.end;
                }
                Ok(_) => break,
                Err(_) => {
                    runs.push((left.start, left.len()));
                    break;
                }
            }
        }
        runs
    }

    /// Whether there is no memory left to give out.
    pub(crate) fn is_full(&self) -> bool {
        self.memory.would_exceed(PAGE_SIZE)
    }

    /// All there ever is, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.memory.limit()
    }

    /// Gives the memory of a range back; it reads as zeros everywhere. Says whether it did.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> bool {
        self.memory.punch(FileRange::of_len(offset, len)).is_ok()
    }

    pub(crate) fn pin(&self) -> Pin {
        self.memory.pin()
    }

    /// The kernel's view of a range.
    pub(crate) fn slice(&self, offset: u64, len: u64) -> Result<VolatileSlice<'_>, Errno> {
        self.memory.slice(FileRange::of_len(offset, len))
    }

    /// Copies inside the memory file. The caller owns both ranges, or has excluded that they are freed.
    pub(crate) fn copy(&self, from: u64, to: u64, len: u64) -> Result<(), Fault> {
        let copied = self
            .slice(from, len)
            .and_then(|from| Ok((from, self.slice(to, len)?)))
            .and_then(|(from, to)| safecopy::copy_slices(&[to], &[from]));
        // A short copy is a host that has no page to give.
        if copied.is_ok_and(|n| n as u64 == len) { Ok(()) } else { Err(Fault::Oom) }
    }

    /// Fills `[to, to + len)` from a host file; what lies past its end stays zero.
    pub(crate) fn read_host(&self, file: &OwnedFd, from: u64, to: u64, len: u64) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let target = self.slice(to + done, len - done).map_err(|_| Fault::Bus)?;
            match host::preadv(file.as_fd(), &[target], from.saturating_add(done)) {
                Ok(0) => break,
                Ok(n) => done += n as u64,
                Err(Errno::EINTR) => {}
                Err(Errno::EFAULT | Errno::ENOMEM) => return Err(Fault::Oom),
                Err(_) => return Err(Fault::Bus),
            }
        }
        Ok(())
    }

    /// Reads bytes at `offset` to the kernel.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let source = self.slice(offset, bytes.len() as u64)?;
        let n = safecopy::read_slices(&[source], bytes)?;
        if n == bytes.len() { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Writes kernel bytes at `offset`.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let target = self.slice(offset, bytes.len() as u64)?;
        let n = safecopy::write_slices(&[target], bytes)?;
        if n == bytes.len() { Ok(()) } else { Err(Errno::ENOMEM) }
    }
}
