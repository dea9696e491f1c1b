//! Crowds that wake each other: two threads by a futex each, and groups of processes over pipes, as `hackbench` has them.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::measure::{Harness, Measure, Sample, cvt};

pub(crate) const MEASURES: &[Measure] =
    &[Measure { name: "futex-threads", run: futex_threads }, Measure { name: "storm-10", run: storm }];

/// Groups of a storm.
const GROUPS: usize = 10;
/// Senders of a group, and receivers: each of the former sends to each of the latter.
const CROWD: usize = 20;
/// Bytes of a message; the first four say how many a sender sends to each receiver in this round.
const MESSAGE: usize = 100;

fn wait(word: &AtomicU32, while_it_is: u32) {
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: 1. the word lives; 2. without a timeout.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, while_it_is, std::ptr::null::<libc::timespec>()) };
}

fn wake(word: &AtomicU32) {
    // SAFETY: 1. the word lives; 2. waking reads nothing through the pointer.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
}

/// Sets the other's word and wakes it, then waits for one's own to change.
fn hand_over(mine: &AtomicU32, other: &AtomicU32, turn: u32) {
    other.store(turn, Ordering::SeqCst);
    wake(other);
    loop {
        let now = mine.load(Ordering::SeqCst);
        if now >= turn {
            return;
        }
        wait(mine, now);
    }
}

/// A round trip between two threads, each of which waits for the other.
fn futex_threads(harness: &Harness) -> io::Result<Sample> {
    Ok(harness.batches(|count| {
        let (ping, pong) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 1..=count {
                    loop {
                        let now = ping.load(Ordering::SeqCst);
                        if now >= turn {
                            break;
                        }
                        wait(&ping, now);
                    }
                    pong.store(turn, Ordering::SeqCst);
                    wake(&pong);
                }
            });
            let started = Instant::now();
            for turn in 1..=count {
                hand_over(&pong, &ping, turn);
            }
            started.elapsed()
        })
    }))
}

/// A forked child that ends with this process.
fn child(body: impl FnOnce() -> io::Result<()>) -> io::Result<libc::pid_t> {
    // SAFETY: 1. this process has one thread, so the child may do anything.
    let pid = cvt(unsafe { libc::fork() })?;
    if pid == 0 {
        // SAFETY: 1. always sound.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let code = i32::from(body().is_err());
        // SAFETY: 1. always sound; it does not return.
        unsafe { libc::_exit(code) };
    }
    Ok(pid)
}

/// Sends as many messages to each of `to` as each order says; the last order is 0.
fn sender(mut orders: &PipeReader, to: &[(PipeReader, PipeWriter)]) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        let mut order = [0; 4];
        orders.read_exact(&mut order)?;
        message[..4].copy_from_slice(&order);
        let count = u32::from_ne_bytes(order);
        for _ in 0..count.max(1) {
            for (_, write) in to {
                (&*write).write_all(&message)?;
            }
        }
        if count == 0 {
            return Ok(());
        }
    }
}

/// Says after each round that all messages of all senders came.
fn receiver(mut from: &PipeReader, mut done: &PipeWriter) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        from.read_exact(&mut message)?;
        let count = u32::from_ne_bytes([message[0], message[1], message[2], message[3]]);
        for _ in 1..u64::from(count.max(1)) * CROWD as u64 {
            from.read_exact(&mut message)?;
        }
        if count == 0 {
            return Ok(());
        }
        done.write_all(&[1])?;
    }
}

/// What starts each sender of a storm, and who is in it.
struct Storm {
    orders: Vec<PipeWriter>,
    done: PipeReader,
    children: Vec<libc::pid_t>,
}

impl Storm {
    fn new() -> io::Result<Self> {
        let (done, finished) = io::pipe()?;
        let mut storm = Self { orders: Vec::new(), done, children: Vec::new() };
        for _ in 0..GROUPS {
            let pipes = (0..CROWD).map(|_| io::pipe()).collect::<io::Result<Vec<_>>>()?;
            for (read, _) in &pipes {
                storm.children.push(child(|| receiver(read, &finished))?);
            }
            for _ in 0..CROWD {
                let (orders, order) = io::pipe()?;
                storm.children.push(child(|| sender(&orders, &pipes))?);
                storm.orders.push(order);
            }
        }
        Ok(storm)
    }

    fn order(&mut self, count: u32) -> io::Result<()> {
        self.orders.iter_mut().try_for_each(|order| order.write_all(&count.to_ne_bytes()))
    }

    /// One round, until every message was received.
    fn round(&mut self, count: u32) -> io::Result<()> {
        self.order(count)?;
        self.done.read_exact(&mut [0; GROUPS * CROWD])
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.order(0);
        for &pid in &self.children {
            // SAFETY: 1. no status is asked for.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        }
    }
}

/// One message from each sender to each receiver of its group.
fn storm(harness: &Harness) -> io::Result<Sample> {
    let mut storm = Storm::new()?;
    let mut failed = None;
    let sample = harness.batches(|count| {
        let started = Instant::now();
        if let Err(error) = storm.round(count) {
            failed.get_or_insert(error);
        }
        started.elapsed()
    });
    failed.map_or(Ok(sample), Err)
}
