//! Waking and waiting: pipes within a thread, between threads and between processes; epoll over many descriptors.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::measure::{Harness, Measure, Sample, cvt};

pub(crate) const MEASURES: &[Measure] = &[
    Measure { name: "pipe-self", run: pipe_self },
    Measure { name: "pipe-threads", run: pipe_threads },
    Measure { name: "pipe-processes", run: pipe_processes },
    Measure { name: "epoll-1000", run: epoll },
];

/// Descriptors that the epoll instance watches.
const WATCHED: usize = 1000;

fn pipe_self(harness: &Harness) -> io::Result<Sample> {
    let (mut read, mut write) = io::pipe()?;
    let mut byte = [0];
    Ok(harness.each(|| {
        let _ = write.write(&byte);
        let _ = read.read(&mut byte);
    }))
}

/// Sends each byte back until the pipe's other end is closed.
fn echo(mut read: io::PipeReader, mut write: io::PipeWriter) {
    let mut byte = [0];
    while read.read(&mut byte).is_ok_and(|count| count == 1) && write.write(&byte).is_ok() {}
}

fn pipe_threads(harness: &Harness) -> io::Result<Sample> {
    let (there, mut to) = io::pipe()?;
    let (mut from, back) = io::pipe()?;
    let partner = std::thread::spawn(|| echo(there, back));
    let mut byte = [0];
    let sample = harness.each(|| {
        let _ = to.write(&byte);
        let _ = from.read(&mut byte);
    });
    drop(to);
    let _ = partner.join();
    Ok(sample)
}

fn pipe_processes(harness: &Harness) -> io::Result<Sample> {
    let (there, mut to) = io::pipe()?;
    let (mut from, back) = io::pipe()?;
    // SAFETY: 1. this process has one thread, so the child may do anything.
    let pid = cvt(unsafe { libc::fork() })?;
    if pid == 0 {
        drop((to, from));
        echo(there, back);
        // SAFETY: 1. always sound; it does not return.
        unsafe { libc::_exit(0) };
    }
    drop((there, back));
    let mut byte = [0];
    let sample = harness.each(|| {
        let _ = to.write(&byte);
        let _ = from.read(&mut byte);
    });
    drop(to);
    // SAFETY: 1. no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    Ok(sample)
}

/// One of many watched descriptors is ready, and stays so.
fn epoll(harness: &Harness) -> io::Result<Sample> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: 1. the limit goes to a live rlimit.
    cvt(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max.min(65_536);
    // SAFETY: 1. the limit is read from a live rlimit.
    cvt(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    // SAFETY: 1. always sound.
    let instance = cvt(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: 1. the descriptor is new and ours.
    let instance = unsafe { OwnedFd::from_raw_fd(instance) };
    let mut watched = Vec::new();
    for at in 0..WATCHED {
        // SAFETY: 1. always sound.
        let event = cvt(unsafe { libc::eventfd(u32::from(at == WATCHED / 2), libc::EFD_CLOEXEC) })?;
        // SAFETY: 1. the descriptor is new and ours.
        watched.push(unsafe { OwnedFd::from_raw_fd(event) });
        let mut interest = libc::epoll_event { events: libc::EPOLLIN as u32, u64: at as u64 };
        // SAFETY: 1. the event is read from a live value.
        cvt(unsafe { libc::epoll_ctl(instance.as_raw_fd(), libc::EPOLL_CTL_ADD, event, &mut interest) })?;
    }
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
    Ok(harness.each(|| {
        // SAFETY: 1. the array lives and is as long as said.
        unsafe { libc::epoll_wait(instance.as_raw_fd(), events.as_mut_ptr(), 64, -1) };
    }))
}
