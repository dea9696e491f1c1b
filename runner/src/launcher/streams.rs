//! The standard streams, opened anew where possible so that the caller's own descriptions never become non-blocking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::event::epoll;
use rustix::fs::{FileType, Mode, OFlags};

use crate::host::Inherited;

/// How the sandbox may use a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StreamKind {
    /// Never blocks for long (regular file, block device, `/dev/null`); shares the caller's offset.
    File,
    /// Our own, non-blocking description of a pipe or FIFO.
    Pipe,
    /// Our own, non-blocking description of a terminal.
    Terminal,
    /// Our own, non-blocking description of another character device.
    Device,
    /// The caller's description of a socket: `MSG_DONTWAIT` per call.
    Socket,
    /// The caller's description of something that cannot be opened anew: poll, then move little.
    Shared,
}

/// One standard stream.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The descriptor for the sandbox.
    pub(crate) fd: OwnedFd,
    /// How to use it.
    pub(crate) kind: StreamKind,
    /// Access mode and status flags of the caller's description.
    pub(crate) flags: u32,
    /// What `/proc/self/fd` says of it.
    pub(crate) name: Vec<u8>,
}

/// The three streams; `None` where the caller had closed one.
pub(crate) fn open_all(inherited: Inherited) -> io::Result<[Option<Stream>; 3]> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let open = |index: usize, fd: BorrowedFd<'_>| -> io::Result<Option<Stream>> {
        if inherited.is_open(index) { open(index, fd).map(Some) } else { Ok(None) }
    };
    Ok([open(0, stdin.as_fd())?, open(1, stdout.as_fd())?, open(2, stderr.as_fd())?])
}

fn open(index: usize, fd: BorrowedFd<'_>) -> io::Result<Stream> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    let name = std::fs::read_link(format!("/proc/self/fd/{index}")).unwrap_or_default();
    let (fd, kind) = open_anew(index, fd, flags)?;
    Ok(Stream { fd, kind, flags: flags.bits(), name: name.into_os_string().into_vec() })
}

fn open_anew(index: usize, fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<(OwnedFd, StreamKind)> {
    // Never one of 0 to 2, which the sandbox process points elsewhere.
    let duplicate = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let kind = match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
        FileType::Fifo => StreamKind::Pipe,
        FileType::CharacterDevice if rustix::termios::isatty(fd) => StreamKind::Terminal,
        FileType::CharacterDevice => StreamKind::Device,
        FileType::Socket => return Ok((duplicate(fd)?, StreamKind::Socket)),
        FileType::RegularFile | FileType::BlockDevice | FileType::Directory => {
            return Ok((duplicate(fd)?, StreamKind::File));
        }
        _ => return Ok((duplicate(fd)?, StreamKind::Shared)),
    };
    let access = flags & (OFlags::RWMODE | OFlags::APPEND);
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(own) = rustix::fs::open(format!("/proc/self/fd/{index}"), flags, Mode::empty()) else {
        // No permission on the inode (after `su`), or a FIFO whose readers are gone.
        return Ok((duplicate(fd)?, if pollable(fd) { StreamKind::Shared } else { StreamKind::File }));
    };
    let kind = if kind == StreamKind::Device && !pollable(own.as_fd()) { StreamKind::File } else { kind };
    Ok((duplicate(own.as_fd())?, kind))
}

/// Whether epoll takes the descriptor: it refuses what is always ready (EPERM).
fn pollable(fd: BorrowedFd<'_>) -> bool {
    let Ok(set) = epoll::create(epoll::CreateFlags::CLOEXEC) else { return true };
    epoll::add(&set, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).is_ok()
}
