//! Calls that neither sleep nor touch files, from the C library's sites; with other cores busy; from several threads.

use std::io;
use std::sync::Barrier;
use std::time::Instant;

use crate::measure::{Harness, Measure, Sample, cvt};
use crate::sites;

pub(crate) const MEASURES: &[Measure] = &[
    Measure { name: "getpid", run: |harness| Ok(harness.each(getpid)) },
    Measure { name: "getpid-syscall", run: |harness| Ok(harness.each(|| raw(libc::SYS_getpid))) },
    Measure { name: "getppid", run: |harness| Ok(harness.each(getppid)) },
    Measure { name: "getppid-syscall", run: |harness| Ok(harness.each(|| raw(libc::SYS_getppid))) },
    Measure { name: "fcntl", run: |harness| Ok(harness.each(fcntl)) },
    Measure { name: "clock-gettime", run: clock_gettime },
    Measure { name: "sigprocmask", run: sigprocmask },
    Measure { name: "sigprocmask-pair", run: sigprocmask_pair },
    Measure { name: "futex-wake", run: futex_wake },
    Measure { name: "busy-getppid", run: |harness| busy(|| Ok(harness.each(getppid))) },
    Measure { name: "busy-fcntl", run: |harness| busy(|| Ok(harness.each(fcntl))) },
    Measure { name: "busy-unpatchable", run: |harness| busy(|| Ok(harness.each(sites::unpatchable))) },
    Measure { name: "threads-1", run: |harness| Ok(threads(harness, 1)) },
    Measure { name: "threads-2", run: |harness| Ok(threads(harness, 2)) },
    Measure { name: "threads-4", run: |harness| Ok(threads(harness, 4)) },
    Measure { name: "threads-8", run: |harness| Ok(threads(harness, 8)) },
];

fn getpid() {
    // SAFETY: 1. always sound.
    unsafe { libc::getpid() };
}

fn getppid() {
    // SAFETY: 1. always sound.
    unsafe { libc::getppid() };
}

/// A call without arguments by `syscall(2)`, whose site all numbers share.
fn raw(number: libc::c_long) {
    // SAFETY: 1. the numbers used here take no arguments and change nothing.
    unsafe { libc::syscall(number) };
}

/// A call that only the kernel can answer.
fn fcntl() {
    // SAFETY: 1. it reads a flag of descriptor 1, if that is open.
    unsafe { libc::fcntl(1, libc::F_GETFD) };
}

fn clock_gettime(harness: &Harness) -> io::Result<Sample> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(harness.each(|| {
        // SAFETY: 1. the pointer is to a live timespec.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    }))
}

fn sigprocmask(harness: &Harness) -> io::Result<Sample> {
    // SAFETY: 1. zeroes are an empty set.
    let mut old: libc::sigset_t = unsafe { std::mem::zeroed() };
    Ok(harness.each(|| {
        // SAFETY: 1. no new set is given; 2. the old one goes to a live set.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &mut old) };
    }))
}

/// Blocks a signal and puts the mask back, as shells do around nearly everything.
fn sigprocmask_pair(harness: &Harness) -> io::Result<Sample> {
    // SAFETY: 1. zeroes are an empty set.
    let mut old: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut set = old;
    // SAFETY: 1. the set is live, and the signal has a number.
    unsafe { libc::sigaddset(&mut set, libc::SIGCHLD) };
    Ok(harness.each(|| {
        // SAFETY: 1. both sets are live; 2. nobody here sends the signal.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, &mut old) };
        // SAFETY: 1. as above.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &old, std::ptr::null_mut()) };
    }))
}

/// Wakes a word that nobody waits on.
fn futex_wake(harness: &Harness) -> io::Result<Sample> {
    let word = 0_u32;
    Ok(harness.each(|| {
        // SAFETY: 1. the word lives; 2. waking reads nothing through the pointer.
        unsafe { libc::syscall(libc::SYS_futex, &raw const word, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
    }))
}

/// Takes a measure while every other core runs a process of this system that only computes.
fn busy(measure: impl FnOnce() -> io::Result<Sample>) -> io::Result<Sample> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let spinners = (1..cores.max(2)).map(|_| Spinner::start()).collect::<io::Result<Vec<_>>>()?;
    let sample = measure();
    drop(spinners);
    sample
}

/// A process that computes until this is dropped.
struct Spinner(libc::pid_t);

impl Spinner {
    fn start() -> io::Result<Self> {
        // SAFETY: 1. this process has one thread, so the child may do anything.
        let pid = cvt(unsafe { libc::fork() })?;
        if pid == 0 {
            // SAFETY: 1. always sound; 2. the child then ends with its parent.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            loop {
                std::hint::spin_loop();
            }
        }
        Ok(Self(pid))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // SAFETY: 1. the child is ours and not yet waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: 1. no status is asked for.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

/// What a call costs each of `count` threads that do nothing else.
fn threads(harness: &Harness, count: u32) -> Sample {
    harness.batches(|calls| {
        let start = Barrier::new(count as usize + 1);
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..count)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let started = Instant::now();
                        for _ in 0..calls {
                            fcntl();
                        }
                        started.elapsed()
                    })
                })
                .collect();
            start.wait();
            callers.into_iter().filter_map(|caller| caller.join().ok()).max().unwrap_or_default()
        })
    })
}
