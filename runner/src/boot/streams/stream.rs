//! A standard stream as an open file: bytes go straight between the host's descriptor and the guest's memory where the
//! descriptor cannot block, through a small buffer where it might.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use abi::Errno;
use auth::{Gid, Uid};
use fs::Context;
use fs::vfs::{
    Attr, CURRENT, File, FileOps, FileType, Inode, InodeOps, InodeSlots, Position, SetAttr, SyncWhat, Timestamp, Whence,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, SeekFrom, StatxFlags};
use rustix::io::{Errno as HostErrno, ReadWriteFlags};
use rustix::net::{RecvFlags, SendFlags};
use usermem::bytes::{IoDst, IoSrc};
use usermem::ptr::UserMemory;
use waiter::{EventMask, WaitQueue};

use super::reactor::{Reactor, Watch};
use super::terminal::Terminal;
use crate::launcher::{IdMap, Stream, StreamKind};

/// Most bytes per host call.
const MAX_STEP: usize = 1 << 20;
/// Most bytes per call on a descriptor that might block, and of a copy through the buffer.
const SMALL_STEP: usize = 4096;
/// Most bytes of a socket's data per call.
const SOCKET_STEP: usize = 64 << 10;

/// The open file.
pub(super) struct HostStream {
    // Before the descriptor: the entry goes, then the descriptor is closed and leaves the epoll set.
    _watch: Option<Watch>,
    fd: Arc<OwnedFd>,
    kind: StreamKind,
    queue: Option<WaitQueue>,
    terminal: Option<Arc<Terminal>>,
}

/// The object behind it, for fstat(2).
struct StreamInode {
    fd: Arc<OwnedFd>,
    file_type: FileType,
    identity: (u64, u64),
    ids: IdMap,
    slots: InodeSlots,
}

impl HostStream {
    /// Makes the file and its inode.
    pub(super) fn make(
        stream: Stream,
        ids: IdMap,
        terminal: &Arc<Terminal>,
        reactor: &Arc<Reactor>,
    ) -> io::Result<(Arc<dyn FileOps>, Inode)> {
        let fd = Arc::new(stream.fd);
        let (queue, watch) = match stream.kind {
            StreamKind::File => (None, None),
            _ => {
                let queue = WaitQueue::new();
                let watch = reactor.watch(fd.as_fd(), &queue)?;
                (Some(queue), Some(watch))
            }
        };
        let mut inode = StreamInode {
            fd: Arc::clone(&fd),
            file_type: FileType::Fifo,
            identity: (0, 0),
            ids,
            slots: InodeSlots::new(),
        };
        let attr = inode.attr().map_err(|errno| io::Error::other(errno.to_string()))?;
        inode.file_type = attr.file_type;
        inode.identity = (attr.dev, attr.ino);
        let is_terminal = stream.kind == StreamKind::Terminal;
        let ops = Arc::new(Self {
            _watch: watch,
            fd: Arc::clone(&fd),
            kind: stream.kind,
            queue,
            terminal: is_terminal.then(|| Arc::clone(terminal)),
        });
        if is_terminal {
            let weak: Weak<Self> = Arc::downgrade(&ops);
            terminal.adopt(&fd, attr.rdev, weak);
        }
        Ok((ops, Arc::new(inode)))
    }

    /// Which of `interest` hold now, as the host's poll(2) says.
    fn poll(&self, interest: EventMask) -> EventMask {
        let bits = u16::try_from(interest.bits()).unwrap_or(0);
        let mut set = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::from_bits_truncate(bits))];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::io::retry_on_intr(|| poll(&mut set, Some(&now))) {
            Ok(0) => EventMask::empty(),
            Ok(_) => EventMask::from_bits_truncate(u32::from(set[0].revents().bits())),
            Err(_) => EventMask::ERR,
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, HostErrno> {
        match self.kind {
            StreamKind::Socket => {
                let (length, _) = rustix::net::recv(&self.fd, buffer, RecvFlags::DONTWAIT)?;
                Ok(length)
            }
            _ => {
                let mut slices = [io::IoSliceMut::new(buffer)];
                match rustix::io::preadv2(&self.fd, &mut slices, u64::MAX, ReadWriteFlags::NOWAIT) {
                    Err(HostErrno::OPNOTSUPP) => {}
                    other => return other,
                }
                if !self.poll(EventMask::IN).intersects(EventMask::IN | EventMask::ALWAYS) {
                    return Err(HostErrno::AGAIN);
                }
                rustix::io::read(&self.fd, buffer)
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, HostErrno> {
        match self.kind {
            StreamKind::Socket => rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            _ => {
                match rustix::io::pwritev2(&self.fd, &[io::IoSlice::new(bytes)], u64::MAX, ReadWriteFlags::NOWAIT) {
                    Err(HostErrno::OPNOTSUPP) => {}
                    other => return other,
                }
                // A pipe that is writable has room for PIPE_BUF bytes, which is our step.
                if !self.poll(EventMask::OUT).intersects(EventMask::OUT | EventMask::ALWAYS) {
                    return Err(HostErrno::AGAIN);
                }
                rustix::io::write(&self.fd, bytes)
            }
        }
    }

    fn small_step(&self) -> usize {
        if self.kind == StreamKind::Socket { SOCKET_STEP } else { SMALL_STEP }
    }

    fn is_direct(&self) -> bool {
        !matches!(self.kind, StreamKind::Socket | StreamKind::Shared)
    }
}

/// The guest's error for the host's.
fn errno(error: HostErrno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

/// Repeats a host call that a signal to our own thread broke off.
fn uninterrupted(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

impl FileOps for HostStream {
    fn read(&self, ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, offset: u64) -> Result<usize, Errno> {
        if let Some(terminal) = &self.terminal {
            terminal.may_read(ctx)?;
        }
        if self.kind == StreamKind::File && offset != CURRENT {
            return dst.fill(MAX_STEP, &mut |slices| {
                uninterrupted(|| usermem::host::preadv(self.fd.as_fd(), slices, offset))
            });
        }
        if self.is_direct() {
            return dst.fill(MAX_STEP, &mut |slices| uninterrupted(|| usermem::host::readv(self.fd.as_fd(), slices)));
        }
        let mut buffer = vec![0; dst.remaining().min(self.small_step())];
        dst.fill(buffer.len(), &mut |slices| {
            let room: usize = slices.iter().map(|slice| slice.len()).sum();
            let Some(part) = buffer.get_mut(..room.min(self.small_step())) else { return Ok(0) };
            let length = uninterrupted(|| self.receive(part).map_err(errno))?;
            usermem::safecopy::write_slices(slices, part.get(..length).unwrap_or_default())
        })
    }

    fn write(&self, _ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc, offset: u64) -> Result<usize, Errno> {
        if self.kind == StreamKind::File && offset != CURRENT {
            return src.drain(MAX_STEP, &mut |slices| {
                uninterrupted(|| usermem::host::pwritev(self.fd.as_fd(), slices, offset))
            });
        }
        if self.is_direct() {
            return src.drain(MAX_STEP, &mut |slices| uninterrupted(|| usermem::host::writev(self.fd.as_fd(), slices)));
        }
        src.drain(self.small_step(), &mut |slices| {
            let length: usize = slices.iter().map(|slice| slice.len()).sum();
            let mut buffer = vec![0; length.min(self.small_step())];
            let filled = usermem::safecopy::read_slices(slices, &mut buffer)?;
            uninterrupted(|| self.send(buffer.get(..filled).unwrap_or_default()).map_err(errno))
        })
    }

    /// A regular file's position is the caller's: whoever else holds the description goes on where the guest stopped.
    fn position(&self) -> Position {
        if self.kind == StreamKind::File { Position::Own } else { Position::Stream }
    }

    fn seek(&self, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let from_start = |offset: i64| u64::try_from(offset).map_err(|_| Errno::EINVAL);
        let target = match whence {
            Whence::Set => SeekFrom::Start(from_start(offset)?),
            Whence::Current => SeekFrom::Current(offset),
            Whence::End => SeekFrom::End(offset),
            Whence::Data => SeekFrom::Data(u64::try_from(offset).map_err(|_| Errno::ENXIO)?),
            Whence::Hole => SeekFrom::Hole(u64::try_from(offset).map_err(|_| Errno::ENXIO)?),
        };
        rustix::fs::seek(&self.fd, target).map_err(errno)
    }

    /// A file that was opened to append does so, at whatever offset it is written.
    fn append(&self, ctx: &Context<'_>, file: &File, src: &mut dyn IoSrc) -> Result<(u64, usize), Errno> {
        let written = self.write(ctx, file, src, CURRENT)?;
        Ok((self.seek(0, Whence::Current)?.saturating_sub(written as u64), written))
    }

    fn sync(&self, what: SyncWhat) -> Result<(), Errno> {
        match what {
            SyncWhat::All => rustix::fs::fsync(&self.fd),
            SyncWhat::Data => rustix::fs::fdatasync(&self.fd),
        }
        .map_err(errno)
    }

    fn truncate(&self, _ctx: &Context<'_>, _file: &File, size: u64) -> Result<(), Errno> {
        rustix::fs::ftruncate(&self.fd, size).map_err(errno)
    }

    fn ioctl(
        &self,
        ctx: &Context<'_>,
        _file: &File,
        command: u32,
        argument: u64,
        mem: &dyn UserMemory,
    ) -> Result<u64, Errno> {
        if command == abi::tty::FIONREAD && self.kind != StreamKind::File {
            let waiting = rustix::io::ioctl_fionread(&self.fd).map_err(errno)?;
            let waiting = i32::try_from(waiting).unwrap_or(i32::MAX);
            super::terminal::put(mem, argument, &waiting.to_ne_bytes())?;
            return Ok(0);
        }
        match &self.terminal {
            Some(terminal) => terminal.ioctl(ctx, command, argument, mem),
            None => Err(Errno::ENOTTY),
        }
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        match self.kind {
            StreamKind::File => interest & (EventMask::READABLE | EventMask::WRITABLE),
            _ => self.poll(interest),
        }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        self.queue.as_ref()
    }
}

impl InodeOps for StreamInode {
    fn attr(&self) -> Result<Attr, Errno> {
        let wanted = StatxFlags::BASIC_STATS;
        let stat = rustix::fs::statx(&self.fd, c"", AtFlags::EMPTY_PATH, wanted).map_err(errno)?;
        let time = |stamp: rustix::fs::StatxTimestamp| Timestamp { secs: stamp.tv_sec, nanos: stamp.tv_nsec };
        let mode = u32::from(stat.stx_mode);
        Ok(Attr {
            dev: fs::vfs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            file_type: FileType::from_mode(mode).unwrap_or(FileType::Anonymous),
            mode: mode & 0o7777,
            nlink: stat.stx_nlink,
            uid: Uid(self.ids.guest_uid(stat.stx_uid)),
            gid: Gid(self.ids.guest_gid(stat.stx_gid)),
            rdev: fs::vfs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            blksize: stat.stx_blksize,
            blocks: stat.stx_blocks,
            atime: time(stat.stx_atime),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
            btime: None,
        })
    }

    fn file_type(&self) -> FileType {
        self.file_type
    }

    fn identity(&self) -> (u64, u64) {
        self.identity
    }

    fn slots(&self) -> &InodeSlots {
        &self.slots
    }

    /// The caller's files are not the guest's to change.
    fn set_attr(&self, _ctx: &Context<'_>, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
}
