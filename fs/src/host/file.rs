//! Open regular files of a host tree: bytes move once, between the host file and guest memory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::Errno;
use abi::fs::FallocFlags;
use rustix::fs::FallocateFlags;
use usermem::PAGE_SIZE;
use usermem::bytes::{IoDst, IoSrc};
use usermem::host;
use usermem::memmap::{Located, Mappable, MappingObserver};

use crate::Context;
use crate::host::Belief;
use crate::host::calls::{self, errno};
use crate::host::inode::HostInode;
use crate::vfs::{File, FileOps, Position, SetAttr, SyncWhat, Whence, stripped_mode};

/// Most bytes that one host call moves: a call cannot be interrupted.
const MAX_STEP: usize = 1 << 20;

/// An open regular file.
pub(super) struct HostFile {
    inode: Arc<HostInode>,
    fd: Arc<OwnedFd>,
}

impl HostFile {
    pub(super) fn new(inode: Arc<HostInode>, fd: Arc<OwnedFd>) -> Self {
        Self { inode, fd }
    }

    fn current_size(&self) -> Result<u64, Errno> {
        if self.inode.fs.belief() != Belief::None {
            return Ok(self.inode.found()?.size);
        }
        Ok(calls::stat_fd(self.fd.as_fd())?.size)
    }
}

impl FileOps for HostFile {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, offset: u64) -> Result<usize, Errno> {
        let mut done = 0;
        while dst.remaining() > 0 {
            let at = offset.saturating_add(done as u64);
            let wanted = dst.remaining().min(MAX_STEP);
            match dst.fill(MAX_STEP, &mut |slices| host::preadv(self.fd.as_fd(), slices, at)) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    // Short: the end, in most cases; when it was guest memory's pieces, `fill` gives the next ones.
                    if n < wanted && at.saturating_add(n as u64) >= self.current_size()? {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write(&self, ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc, offset: u64) -> Result<usize, Errno> {
        let mut done = 0;
        if let Some(mode) = stripped_mode(ctx, self.inode.found()?.mode) {
            self.inode.change(&SetAttr { mode: Some(mode), ..SetAttr::default() })?;
        }
        while src.remaining() > 0 {
            let at = offset.saturating_add(done as u64);
            match src.drain(MAX_STEP, &mut |slices| host::pwritev(self.fd.as_fd(), slices, at)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn append(&self, ctx: &Context<'_>, file: &File, src: &mut dyn IoSrc) -> Result<(u64, usize), Errno> {
        let _appending = self.inode.in_turn.lock();
        let end = self.current_size()?;
        Ok((end, self.write(ctx, file, src, end)?))
    }

    fn position(&self) -> Position {
        Position::Offsets
    }

    fn size(&self) -> Result<u64, Errno> {
        self.current_size()
    }

    fn seek_data_hole(&self, offset: u64, whence: Whence) -> Result<u64, Errno> {
        // Our positions are kept apart from the host's, so moving that one harms nobody.
        let from = match whence {
            Whence::Data => rustix::fs::SeekFrom::Data(offset),
            _ => rustix::fs::SeekFrom::Hole(offset),
        };
        rustix::fs::seek(&*self.fd, from).map_err(errno)
    }

    fn sync(&self, what: SyncWhat) -> Result<(), Errno> {
        if !self.inode.fs.is_writable() {
            return Ok(());
        }
        match what {
            SyncWhat::All => rustix::fs::fsync(&*self.fd),
            SyncWhat::Data => rustix::fs::fdatasync(&*self.fd),
        }
        .map_err(errno)
    }

    fn truncate(&self, ctx: &Context<'_>, _file: &File, size: u64) -> Result<(), Errno> {
        if let Some(mode) = stripped_mode(ctx, self.inode.found()?.mode) {
            self.inode.change(&SetAttr { mode: Some(mode), ..SetAttr::default() })?;
        }
        self.inode.set_size(&self.fd, size)
    }

    fn allocate(&self, _ctx: &Context<'_>, mode: FallocFlags, offset: u64, len: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::from_bits_retain(mode.bits());
        let shifts = mode.intersects(FallocFlags::FALLOC_FL_COLLAPSE_RANGE | FallocFlags::FALLOC_FL_INSERT_RANGE);
        rustix::fs::fallocate(&*self.fd, flags, offset, len).map_err(errno)?;
        if shifts {
            self.inode.observers.truncated(self.inode.mappable_id, offset, u64::MAX);
        }
        Ok(())
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(Arc::new(HostMapping { inode: Arc::clone(&self.inode), fd: Arc::clone(&self.fd) }))
    }
}

/// A host file as an address space sees it.
struct HostMapping {
    inode: Arc<HostInode>,
    fd: Arc<OwnedFd>,
}

impl Mappable for HostMapping {
    fn id(&self) -> u64 {
        self.inode.mappable_id
    }

    fn locate(&self, offset: u64, len: u64, _write: bool) -> Result<(Located, u64), Errno> {
        let end = self.size().checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EFAULT)?;
        if offset >= end {
            return Err(Errno::EFAULT);
        }
        Ok((Located::Host { file: Arc::clone(&self.fd), offset }, len.min(end - offset)))
    }

    fn size(&self) -> u64 {
        if self.inode.fs.belief() != Belief::None {
            return self.inode.found().map_or(0, |found| found.size);
        }
        calls::stat_fd(self.fd.as_fd()).map_or(0, |found| found.size)
    }

    fn sync(&self, _offset: u64, _len: u64) -> Result<(), Errno> {
        if self.inode.fs.is_writable() { rustix::fs::fdatasync(&*self.fd).map_err(errno) } else { Ok(()) }
    }

    fn attach(&self, observer: &Arc<dyn MappingObserver>) {
        self.inode.observers.attach(observer);
    }

    fn detach(&self, observer: &Arc<dyn MappingObserver>) {
        self.inode.observers.detach(observer);
    }
}
