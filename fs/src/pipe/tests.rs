//! Pipes without a kernel around them.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Gid, Uid};
use proptest::prelude::*;
use usermem::bytes::{KernelDst, KernelSrc};
use waiter::{EventMask, Mode, Pollable, Waiter};

use super::{Borders, PIPE_BUF, Pipe, create};
use crate::vfs::{AnonInode, File, FileOps, FileType};
use crate::{Blocker, Context, KernelContext};

fn read(pipe: &Pipe, len: usize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; len];
    let n = pipe.read(&mut KernelDst::new(&mut buffer))?;
    buffer.truncate(n);
    Ok(buffer)
}

fn write(pipe: &Pipe, bytes: &[u8]) -> Result<usize, Errno> {
    pipe.write(&mut KernelSrc::new(bytes), Borders::Joined)
}

fn pipe_with_ends() -> (Arc<Pipe>, super::PipeEnd, super::PipeEnd) {
    let pipe = Arc::new(Pipe::new());
    let (reader, writer) = (pipe.open_end(true, false), pipe.open_end(false, true));
    (pipe, reader, writer)
}

#[test]
fn ends_and_errors() {
    let (pipe, reader, writer) = pipe_with_ends();
    assert_eq!(read(&pipe, 1), Err(Errno::EAGAIN));
    assert_eq!(write(&pipe, b"abc"), Ok(3));
    drop(writer);
    assert_eq!(read(&pipe, 9).unwrap(), b"abc");
    assert_eq!(read(&pipe, 9).unwrap(), b"");
    drop(reader);
    assert_eq!(write(&pipe, b"x"), Err(Errno::EPIPE));
}

/// A FIFO's reader waited for ever for a writer that had waited for it, and was gone when it looked.
#[test]
fn an_open_counts_the_other_side_that_is_gone_already() {
    let pipe = Arc::new(Pipe::new());
    let (writer, reader_to_come) = pipe.open_side(false, true);
    assert!(!reader_to_come.came());
    let (reader, writer_to_come) = pipe.open_side(true, false);
    assert!(reader_to_come.came());
    drop(writer);
    assert!(writer_to_come.came());
    drop(reader);
    let (_late, writer_to_come) = pipe.open_side(true, false);
    assert!(!writer_to_come.came(), "the one before does not count");
}

#[test]
fn small_writes_are_atomic_and_large_ones_partial() {
    let (pipe, _reader, _writer) = pipe_with_ends();
    assert_eq!(write(&pipe, &vec![1; 65_536 - 10]), Ok(65_526));
    assert_eq!(write(&pipe, &[2; 11]), Err(Errno::EAGAIN));
    assert_eq!(write(&pipe, &[3; PIPE_BUF + 1]), Ok(10));
    assert_eq!(write(&pipe, &[4]), Err(Errno::EAGAIN));
    assert_eq!(read(&pipe, 100_000).unwrap().len(), 65_536);
}

#[test]
fn bytes_put_back_come_first() {
    let (pipe, _reader, _writer) = pipe_with_ends();
    assert_eq!(pipe.take(4), Err(Errno::EAGAIN));
    assert_eq!(pipe.peek(4), Err(Errno::EAGAIN));
    write(&pipe, &[1; 4090]).unwrap();
    assert_eq!(read(&pipe, 4088).unwrap().len(), 4088);
    write(&pipe, b"abcdefghijkl").unwrap();
    assert_eq!(pipe.peek(5).unwrap(), b"\x01\x01abc");
    let taken = pipe.take(6).unwrap();
    assert_eq!(taken, b"\x01\x01abcd");
    pipe.put_back(&taken[2..]).unwrap();
    assert_eq!(read(&pipe, 99).unwrap(), b"abcdefghijkl");
    write(&pipe, &[2; 65_536]).unwrap();
    let taken = pipe.take(10_000).unwrap();
    write(&pipe, &[3; 10_000]).unwrap();
    pipe.put_back(&taken).unwrap();
    assert_eq!(write(&pipe, b"x"), Err(Errno::EAGAIN));
    assert_eq!(read(&pipe, 100_000).unwrap().len(), 75_536);
}

/// Puts every wake-up off.
#[derive(Default)]
struct Later(std::cell::RefCell<Vec<Arc<Pipe>>>);

impl Blocker for Later {
    fn wait_until(&self, _object: &dyn Pollable, _interest: EventMask, _deadline: Option<u64>) -> Result<(), Errno> {
        Err(Errno::EAGAIN)
    }

    fn wake_readers_later(&self, pipe: &Arc<Pipe>) -> bool {
        self.0.borrow_mut().push(Arc::clone(pipe));
        true
    }
}

#[derive(Default)]
struct Count(std::sync::atomic::AtomicU32);

impl Waiter for Count {
    fn wake(&self, _events: EventMask) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn readers_of_much_data_are_woken_later_or_for_half_a_pipe() {
    let kernel = KernelContext::default();
    let later = Later::default();
    let ctx = Context { blocker: &later, ..kernel.context() };
    let (pipe, _reader, end) = pipe_with_ends();
    let end: Arc<dyn FileOps> = Arc::new(end);
    let inode = AnonInode::new(FileType::Fifo, 0o600, Uid::ROOT, Gid::ROOT);
    let writer = File::pseudo(end, OpenFlags::O_WRONLY, b"pipe", inode);
    let count = Arc::new(Count::default());
    let put_off = || later.0.borrow().len();
    let woken = || count.0.load(std::sync::atomic::Ordering::Relaxed);
    writer.write(&ctx, &mut KernelSrc::new(&[1; PIPE_BUF])).unwrap();
    assert_eq!(put_off(), 0, "nobody waits");
    let waiter: Arc<dyn Waiter> = Arc::<Count>::clone(&count);
    let _waits = pipe.queue.register(waiter, EventMask::READABLE, Mode::Shared);
    writer.write(&ctx, &mut KernelSrc::new(&[1; PIPE_BUF])).unwrap();
    assert_eq!((put_off(), woken()), (1, 0));
    writer.write(&ctx, &mut KernelSrc::new(b"short")).unwrap();
    assert_eq!((put_off(), woken()), (1, 1));
    writer.write(&ctx, &mut KernelSrc::new(&[1; 6 * PIPE_BUF])).unwrap();
    assert_eq!((put_off(), woken()), (1, 2), "half full");
}

#[test]
fn packets_keep_borders() {
    let (pipe, _reader, _writer) = pipe_with_ends();
    write(&pipe, b"run").unwrap();
    pipe.write(&mut KernelSrc::new(b"packet"), Borders::Packets).unwrap();
    write(&pipe, b"tail").unwrap();
    write(&pipe, b"more").unwrap();
    assert_eq!(read(&pipe, 99).unwrap(), b"run");
    assert_eq!(read(&pipe, 3).unwrap(), b"pac");
    assert_eq!(read(&pipe, 99).unwrap(), b"tailmore");
}

#[test]
fn capacity_changes() {
    let kernel = KernelContext::default();
    let ctx = kernel.context();
    let (pipe, _reader, _writer) = pipe_with_ends();
    assert_eq!(pipe.set_capacity(&ctx, 5000), Ok(8192));
    assert_eq!(write(&pipe, &[1; 9000]), Ok(8192));
    assert_eq!(pipe.set_capacity(&ctx, 4096), Err(Errno::EBUSY));
    assert_eq!(pipe.set_capacity(&ctx, 1 << 17), Ok(1 << 17));
    assert_eq!(write(&pipe, &[1; 5000]), Ok(5000));
    assert_eq!(pipe.set_capacity(&ctx, 1 << 31), Err(Errno::EINVAL));
}

#[test]
fn files_tell_readiness() {
    let (reader, writer) = create(Uid::ROOT, Gid::ROOT, OpenFlags::empty());
    let all = EventMask::all();
    assert_eq!(reader.readiness(all), EventMask::empty());
    assert_eq!(writer.readiness(all), EventMask::WRITABLE);
    drop(writer);
    assert_eq!(reader.readiness(all), EventMask::HUP);
}

proptest! {
    #[test]
    fn bytes_come_out_as_they_went_in(steps in prop::collection::vec((any::<bool>(), 1_usize..20_000), 1..60)) {
        let (pipe, _reader, _writer) = pipe_with_ends();
        let mut model: VecDeque<u8> = VecDeque::new();
        let mut next = 0_u8;
        for (writes, len) in steps {
            if writes {
                let bytes: Vec<u8> = (0..len).map(|i| next.wrapping_add(i.to_le_bytes()[0])).collect();
                match write(&pipe, &bytes) {
                    Ok(n) => {
                        prop_assert!(n == len || len > PIPE_BUF);
                        model.extend(&bytes[..n]);
                        next = next.wrapping_add(n.to_le_bytes()[0]);
                    }
                    Err(e) => prop_assert_eq!(e, Errno::EAGAIN),
                }
            } else {
                match read(&pipe, len) {
                    Ok(bytes) => {
                        let expected: Vec<u8> = model.drain(..len.min(model.len())).collect();
                        prop_assert_eq!(bytes, expected);
                    }
                    Err(e) => {
                        prop_assert_eq!(e, Errno::EAGAIN);
                        prop_assert!(model.is_empty());
                    }
                }
            }
        }
    }
}
