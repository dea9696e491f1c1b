//! Calls on files.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use crate::measure::{Harness, Measure, Sample, c_path, cvt};

pub(crate) const MEASURES: &[Measure] = &[
    Measure { name: "read-zero", run: read_zero },
    Measure { name: "stat", run: stat },
    Measure { name: "open-read-close", run: open_read_close },
    Measure { name: "create-unlink", run: create_unlink },
    Measure { name: "pread", run: pread },
];

/// A file of every system that has a page to read and lies in the tree that the host shows.
const FILE: &std::ffi::CStr = c"/etc/passwd";

fn open(path: &std::ffi::CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: 1. the path is a C string; 2. the mode is there for O_CREAT.
    let descriptor = cvt(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) })?;
    // SAFETY: 1. the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn read(file: &OwnedFd, buffer: &mut [u8]) {
    // SAFETY: 1. the buffer lives and is as long as said.
    unsafe { libc::read(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
}

fn read_zero(harness: &Harness) -> io::Result<Sample> {
    let zero = open(c"/dev/zero", libc::O_RDONLY)?;
    let mut byte = [1];
    Ok(harness.each(|| read(&zero, &mut byte)))
}

fn stat(harness: &Harness) -> io::Result<Sample> {
    // SAFETY: 1. zeroes are a valid stat.
    let mut answer: libc::stat = unsafe { std::mem::zeroed() };
    Ok(harness.each(|| {
        // SAFETY: 1. the path is a C string; 2. the answer goes to a live stat.
        unsafe { libc::stat(FILE.as_ptr(), &mut answer) };
    }))
}

fn open_read_close(harness: &Harness) -> io::Result<Sample> {
    open(FILE, libc::O_RDONLY)?;
    let mut page = [0; 4096];
    Ok(harness.each(|| {
        if let Ok(file) = open(FILE, libc::O_RDONLY) {
            read(&file, &mut page);
        }
    }))
}

fn create_unlink(harness: &Harness) -> io::Result<Sample> {
    let path = std::env::temp_dir().join(format!("bench-calls-{}", std::process::id()));
    let path = c_path(&path)?;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    let unlink = || {
        // SAFETY: 1. the path is a C string and names a file of ours.
        unsafe { libc::unlink(path.as_ptr()) };
    };
    open(&path, flags)?;
    unlink();
    Ok(harness.each(|| {
        drop(open(&path, flags));
        unlink();
    }))
}

fn pread(harness: &Harness) -> io::Result<Sample> {
    let file = open(&c_path(Path::new(&std::env::current_exe()?))?, libc::O_RDONLY)?;
    let mut page = [0_u8; 4096];
    Ok(harness.each(|| {
        // SAFETY: 1. the buffer lives and is as long as said.
        unsafe { libc::pread(file.as_raw_fd(), page.as_mut_ptr().cast(), page.len(), 4096) };
    }))
}
