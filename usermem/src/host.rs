//! Host calls on memory: file I/O into and out of volatile slices, and the care of memory files.
//!
//! The pointers inside slices reach the host only here. The host answers `EFAULT` for memory that is not there, as it
//! does to any program.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use abi::Errno;
use smallvec::SmallVec;
use vm_memory::VolatileSlice;

use crate::memfile::FileRange;
use crate::platform::HostCallRule;
use crate::safecopy;

/// Most slices that one call takes (IOV_MAX); more are left for the next call.
const MAX_SLICES: usize = 1024;

/// What this crate calls in the sandbox process once guests run, for its filter.
pub const HOST_CALLS: &[HostCallRule] = &[
    HostCallRule { nr: libc::SYS_preadv, args: &[], reason: "usermem: host file into guest memory" },
    HostCallRule { nr: libc::SYS_pwritev, args: &[], reason: "usermem: guest memory into a host file" },
    HostCallRule { nr: libc::SYS_preadv2, args: &[], reason: "usermem: as preadv, without waiting for a disk" },
    HostCallRule { nr: libc::SYS_readv, args: &[], reason: "usermem: host stream into guest memory" },
    HostCallRule { nr: libc::SYS_writev, args: &[], reason: "usermem: guest memory into a host stream" },
    HostCallRule {
        nr: libc::SYS_fallocate,
        args: &[
            &[(1, u32::MAX as u64, (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64)],
            &[(1, u32::MAX as u64, libc::FALLOC_FL_KEEP_SIZE as u64)],
        ],
        reason: "usermem: give freed pages of the memory file back; take huge pages for it",
    },
    HostCallRule {
        nr: libc::SYS_lseek,
        args: &[&[(2, u32::MAX as u64, libc::SEEK_DATA as u64)], &[(2, u32::MAX as u64, libc::SEEK_HOLE as u64)]],
        reason: "usermem: which pages of the memory file hold data",
    },
    HostCallRule { nr: libc::SYS_fstatfs, args: &[], reason: "usermem: whether a host file may be mapped as text" },
    HostCallRule { nr: libc::SYS_fstat, args: &[], reason: "usermem: how much memory the memory file holds" },
    HostCallRule { nr: libc::SYS_newfstatat, args: &[], reason: "usermem: as fstat, which is how glibc calls it" },
    HostCallRule { nr: libc::SYS_ftruncate, args: &[], reason: "usermem: sizes of memfds" },
    HostCallRule {
        nr: libc::SYS_rt_sigreturn,
        args: &[],
        reason: "usermem: return from the handler that fixes faulting copies",
    },
];

type HostIoVecs = SmallVec<[libc::iovec; 16]>;

#[allow(clippy::disallowed_methods, reason = "the host, not we, touches this memory, and answers EFAULT")]
fn iovecs(slices: &[VolatileSlice<'_>]) -> HostIoVecs {
    slices
        .iter()
        .filter(|s| !s.is_empty())
        .take(MAX_SLICES)
        .map(|s| libc::iovec { iov_base: s.ptr_guard_mut().as_ptr().cast(), iov_len: s.len() })
        .collect()
}

/// The error of the host call that just failed on this thread.
pub(crate) fn last_errno() -> Errno {
    errno_of(&std::io::Error::last_os_error())
}

/// The error number inside an I/O error; `EIO` if there is none.
pub fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
}

fn count(ret: isize) -> Result<usize, Errno> {
    usize::try_from(ret).map_err(|_| last_errno())
}

/// The number of slices as the host's type.
fn len_of(vecs: &HostIoVecs) -> i32 {
    // At most MAX_SLICES.
    vecs.len() as i32
}

fn offset_of(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// preadv(2): reads from `offset` of `file` into `slices`; says how many bytes. Partial reads are normal.
pub fn preadv(file: BorrowedFd<'_>, slices: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
    let vecs = iovecs(slices);
    let offset = offset_of(offset)?;
    // SAFETY: each iovec is a live slice of memory that no Rust reference covers; the host checks accessibility itself.
    count(unsafe { libc::preadv(file.as_raw_fd(), vecs.as_ptr(), len_of(&vecs), offset) })
}

/// pwritev(2): writes `slices` to `offset` of `file`; says how many bytes.
pub fn pwritev(file: BorrowedFd<'_>, slices: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
    let vecs = iovecs(slices);
    let offset = offset_of(offset)?;
    // SAFETY: as in `preadv`; the host only reads the memory.
    count(unsafe { libc::pwritev(file.as_raw_fd(), vecs.as_ptr(), len_of(&vecs), offset) })
}

/// readv(2): reads from the file's position, or from a stream.
pub fn readv(file: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
    let vecs = iovecs(slices);
    // SAFETY: as in `preadv`.
    count(unsafe { libc::readv(file.as_raw_fd(), vecs.as_ptr(), len_of(&vecs)) })
}

/// writev(2): writes at the file's position, or to a stream.
pub fn writev(file: BorrowedFd<'_>, slices: &[VolatileSlice<'_>]) -> Result<usize, Errno> {
    let vecs = iovecs(slices);
    // SAFETY: as in `pwritev`.
    count(unsafe { libc::writev(file.as_raw_fd(), vecs.as_ptr(), len_of(&vecs)) })
}

/// preadv2(2) with RWF_NOWAIT: as [`preadv`], but `EAGAIN` instead of waiting for a disk.
pub fn preadv_nowait(file: BorrowedFd<'_>, slices: &[VolatileSlice<'_>], offset: u64) -> Result<usize, Errno> {
    let vecs = iovecs(slices);
    let offset = offset_of(offset)?;
    // SAFETY: as in `preadv`.
    count(unsafe { libc::preadv2(file.as_raw_fd(), vecs.as_ptr(), len_of(&vecs), offset, libc::RWF_NOWAIT) })
}

/// A piece of a host file, mapped to be read: always what the file has there now. Dropping it unmaps it.
#[derive(Debug)]
pub struct FileView {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is read-only memory that no reference covers; it is only read, through `safecopy`.
unsafe impl Send for FileView {}
// SAFETY: as above.
unsafe impl Sync for FileView {}

impl FileView {
    /// mmap(2): `len` bytes of `file` from `offset` on, a multiple of the page size; they may reach past its end.
    pub fn new(file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self, Errno> {
        let offset = offset_of(offset)?;
        let (prot, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: a fresh mapping at an address of the host's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, file.as_raw_fd(), offset) };
        if base == libc::MAP_FAILED {
            return Err(last_errno());
        }
        Ok(Self { base: base.cast(), len })
    }

    /// Copies the bytes from `at` on to `buf`. `EFAULT` outside the piece, and where the file has no bytes (any more).
    pub fn read(&self, at: usize, buf: &mut [u8]) -> Result<(), Errno> {
        if at.checked_add(buf.len()).is_none_or(|end| end > self.len) {
            return Err(Errno::EFAULT);
        }
        // SAFETY: the bytes lie in the mapping, which outlives the slice; no reference covers them, and a fault (the file
        // is shorter now) is caught by `safecopy`.
        let slice = unsafe { VolatileSlice::new(self.base.wrapping_add(at), buf.len()) };
        let n = safecopy::read_slices(&[slice], buf)?;
        if n == buf.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }
}

impl Drop for FileView {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; slices of it live only inside `read`.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// ftruncate(2).
pub fn set_len(file: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
    let len = offset_of(len)?;
    // SAFETY: a borrowed descriptor is open; the call touches no memory of ours.
    if unsafe { libc::ftruncate(file.as_raw_fd(), len) } == 0 { Ok(()) } else { Err(last_errno()) }
}

/// fallocate(2): the range has storage, and reads as before. `ENOSPC` at a limit.
pub fn allocate(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<(), Errno> {
    let (offset, len) = (offset_of(offset)?, offset_of(len)?);
    loop {
        // SAFETY: as in `set_len`.
        if unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, len) } == 0 {
            return Ok(());
        }
        match last_errno() {
            Errno::EINTR => {}
            e => return Err(e),
        }
    }
}

/// fallocate(2) with PUNCH_HOLE: the range reads as zeros and its memory is free.
pub fn punch_hole(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<(), Errno> {
    let (offset, len) = (offset_of(offset)?, offset_of(len)?);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    loop {
        // SAFETY: as in `set_len`; mappings of the range stay valid and read as zeros.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } == 0 {
            return Ok(());
        }
        match last_errno() {
            Errno::EINTR => {}
            e => return Err(e),
        }
    }
}

/// lseek(2) with SEEK_DATA and SEEK_HOLE: the first run in `range` that is not a hole.
pub fn next_data(file: BorrowedFd<'_>, range: FileRange) -> Result<Option<FileRange>, Errno> {
    if range.is_empty() {
        return Ok(None);
    }
    let seek = |at: u64, whence| -> Result<Option<u64>, Errno> {
        // SAFETY: as in `set_len`. The file position that it moves is used by nobody.
        let ret = unsafe { libc::lseek(file.as_raw_fd(), offset_of(at)?, whence) };
        match u64::try_from(ret) {
            Ok(found) => Ok(Some(found)),
            Err(_) => match last_errno() {
                Errno::ENXIO => Ok(None),
                e => Err(e),
            },
        }
    };
    let Some(start) = seek(range.start, libc::SEEK_DATA)?.filter(|&start| start < range.end) else {
        return Ok(None);
    };
    let end = seek(start, libc::SEEK_HOLE)?.unwrap_or(range.end).min(range.end);
    Ok(Some(FileRange { start, end }))
}

/// Bytes of storage (for tmpfs: of memory) behind a file.
pub fn allocated_bytes(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(u64::try_from(fstat(file)?.st_blocks).unwrap_or(0).saturating_mul(512))
}

fn fstat(file: BorrowedFd<'_>) -> Result<libc::stat, Errno> {
    // SAFETY: an all-zero stat is a valid value of the C struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `stat` is live.
    if unsafe { libc::fstat(file.as_raw_fd(), &mut stat) } != 0 {
        return Err(last_errno());
    }
    Ok(stat)
}

/// Which file a descriptor is of, and in which state: two that are equal hold the same bytes, as far as a host whose clock
/// ticks can tell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileIdentity {
    dev: u64,
    ino: u64,
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The identity of an open file.
pub fn identity(file: BorrowedFd<'_>) -> Result<FileIdentity, Errno> {
    let stat = fstat(file)?;
    Ok(FileIdentity {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: stat.st_size,
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        changed: (stat.st_ctime, stat.st_ctime_nsec),
    })
}

/// fstatfs(2): whether the file's mount forbids to map it as text. A host that does not say does not forbid.
pub fn is_noexec(file: BorrowedFd<'_>) -> bool {
    // SAFETY: an all-zero statvfs is a valid value of the C struct.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `stat` is live.
    let asked = unsafe { libc::fstatvfs(file.as_raw_fd(), &mut stat) } == 0;
    asked && stat.f_flag & libc::ST_NOEXEC != 0
}

/// memfd_create(2), close-on-exec.
pub fn memfd(name: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: the name is a C string that lives through the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A read-only descriptor of an open file, through `/proc/self/fd`.
pub fn reopen_read_only(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let opened = std::fs::File::open(path).map_err(|e| errno_of(&e))?;
    Ok(OwnedFd::from(opened))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use abi::Errno;
    use vm_memory::VolatileSlice;

    use super::{FileView, memfd, next_data, preadv, pwritev, set_len};
    use crate::memfile::FileRange;

    #[test]
    fn a_view_shows_what_the_file_has_now() {
        crate::safecopy::install();
        let file = memfd(c"t").unwrap();
        set_len(file.as_fd(), 8192).unwrap();
        let view = FileView::new(file.as_fd(), 4096, 8192).unwrap();
        let mut buf = [1; 4];
        view.read(10, &mut buf).unwrap();
        assert_eq!(buf, [0; 4]);
        pwritev(file.as_fd(), &[VolatileSlice::from(&mut b"word".to_owned()[..])], 4106).unwrap();
        view.read(10, &mut buf).unwrap();
        assert_eq!(&buf, b"word");
        assert_eq!(view.read(4096, &mut buf), Err(Errno::EFAULT), "past the end of the file");
        assert_eq!(view.read(8190, &mut buf), Err(Errno::EFAULT), "past the end of the piece");
        set_len(file.as_fd(), 0).unwrap();
        assert_eq!(view.read(10, &mut buf), Err(Errno::EFAULT), "truncated");
    }

    #[test]
    fn files_and_slices() {
        let file = memfd(c"t").unwrap();
        let (mut a, mut b) = (*b"hello ", *b"world");
        let slices = [VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..])];
        assert_eq!(pwritev(file.as_fd(), &slices, 4096), Ok(11));
        let mut c = [0; 20];
        assert_eq!(preadv(file.as_fd(), &[VolatileSlice::from(&mut c[..])], 4096), Ok(11));
        assert_eq!(&c[..11], b"hello world");
        assert_eq!(preadv(file.as_fd(), &[VolatileSlice::from(&mut c[..])], u64::MAX), Err(Errno::EINVAL));
        assert_eq!(preadv(file.as_fd(), &[], 0), Ok(0));
        set_len(file.as_fd(), 1 << 30).unwrap();
        let all = FileRange { start: 0, end: 1 << 30 };
        assert_eq!(next_data(file.as_fd(), all), Ok(Some(FileRange { start: 4096, end: 8192 })));
        assert_eq!(next_data(file.as_fd(), FileRange { start: 8192, ..all }), Ok(None));
    }
}
