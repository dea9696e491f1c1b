//! Pipes and FIFOs, pipe(7), fifo(7).
//!
//! A [`Pipe`] is a bounded ring of bytes that counts its readers and writers; each open file of it is a [`PipeEnd`]. A
//! write of at most `PIPE_BUF` bytes goes in as a whole or not at all. With `O_DIRECT` each write is a packet of its own.
//!
//! **Locks.** `fs.pipe` may be held over a user copy (it stands before mm's locks); queues are woken without it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Caps, Gid, Uid};
use sync::Mutex;
use usermem::bytes::{IoDst, IoSrc, KernelDst};
use usermem::ptr::UserMemory;
use waiter::{EventMask, Pollable, WaitQueue};

use crate::ring::Ring;
use crate::vfs::{AnonInode, File, FileOps, FileType, InodeOps, Path};
use crate::{Context, lockclass};

/// Largest write that is atomic, in bytes.
pub const PIPE_BUF: usize = 4096;

/// Capacity of a new pipe, in bytes.
const DEFAULT_CAPACITY: usize = 65_536;

/// Largest capacity without `CAP_SYS_RESOURCE`, in bytes (`/proc/sys/fs/pipe-max-size`).
const MAX_CAPACITY: usize = 1 << 20;

/// Largest capacity at all, in bytes.
const HARD_CAPACITY: usize = 1 << 30;

/// Size of a new ring, in bytes; it grows up to the capacity when it must.
const FIRST_RING: usize = 4096;

struct State {
    /// The bytes: `len` of them from `start` on, wrapping around.
    ring: Ring,
    start: usize,
    len: usize,
    /// Most bytes it may hold.
    capacity: usize,
    /// Lengths of packets from the front, while any were written with `O_DIRECT`; bytes without packets are one run.
    packets: VecDeque<Packet>,
    readers: usize,
    writers: usize,
    /// How often each side was opened: what a blocked `open` waits for.
    reader_opens: u64,
    writer_opens: u64,
}

/// A run of bytes with a border after it, or without one.
#[derive(Clone, Copy)]
struct Packet {
    len: usize,
    bordered: bool,
}

/// A pipe.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
    /// Somebody wanted a signal for what happens (`O_ASYNC`), perhaps no longer: which comes before the call returns that
    /// it is for, so no wake-up waits. Relaxed: a hint.
    prompt: AtomicBool,
}

impl Pipe {
    /// An empty pipe that nobody has open.
    pub fn new() -> Self {
        let state = State {
            ring: Ring::default(),
            start: 0,
            len: 0,
            capacity: DEFAULT_CAPACITY,
            packets: VecDeque::new(),
            readers: 0,
            writers: 0,
            reader_opens: 0,
            writer_opens: 0,
        };
        Self { state: Mutex::new(lockclass::PIPE, state), queue: WaitQueue::new(), prompt: AtomicBool::new(false) }
    }

    /// Most bytes it holds, `F_GETPIPE_SZ`.
    pub fn capacity(&self) -> usize {
        self.state.lock().capacity
    }

    /// Changes the capacity, `F_SETPIPE_SZ`: rounded up to a power of two of pages; answers what it is then.
    pub fn set_capacity(&self, ctx: &Context<'_>, bytes: usize) -> Result<usize, Errno> {
        if bytes > HARD_CAPACITY {
            return Err(Errno::EINVAL);
        }
        let capacity = bytes.max(PIPE_BUF).next_power_of_two();
        let mut state = self.state.lock();
        if capacity > state.capacity && capacity > MAX_CAPACITY && !ctx.creds.has(Caps::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        if state.len > capacity {
            return Err(Errno::EBUSY);
        }
        state.capacity = capacity;
        if state.ring.len() > capacity {
            state.resize(capacity)?;
        }
        drop(state);
        self.queue.wake(EventMask::WRITABLE);
        Ok(capacity)
    }

    /// Bytes in it.
    pub fn readable_bytes(&self) -> usize {
        self.state.lock().len
    }

    /// Takes bytes out; 0 when it is empty and nobody can write, `EAGAIN` when somebody can.
    pub fn read(&self, dst: &mut dyn IoDst) -> Result<usize, Errno> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let n = {
            let mut state = self.state.lock();
            if state.len == 0 {
                return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
            }
            state.read(dst)?
        };
        self.queue.wake(EventMask::WRITABLE);
        Ok(n)
    }

    /// Puts bytes in, maybe not all; `EPIPE` without readers (the caller raises SIGPIPE), `EAGAIN` without room.
    pub fn write(&self, src: &mut dyn IoSrc, packets: Borders) -> Result<usize, Errno> {
        let (n, _) = self.put(src, packets)?;
        self.wake_readers();
        Ok(n)
    }

    /// [`Pipe::write`] that wakes nobody: how many bytes it put in, and whether the pipe is half full.
    fn put(&self, src: &mut dyn IoSrc, packets: Borders) -> Result<(usize, Filled), Errno> {
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        if src.remaining() == 0 {
            return Ok((0, Filled::Little));
        }
        let n = state.write(src, packets)?;
        Ok((n, if state.len < state.capacity / 2 { Filled::Little } else { Filled::Half }))
    }

    /// Tells those who wait to read.
    pub fn wake_readers(&self) {
        self.queue.wake(EventMask::READABLE);
    }

    /// Whether there are bytes, or nobody to write any; `EAGAIN`.
    pub fn has_bytes(&self) -> Result<bool, Errno> {
        let state = self.state.lock();
        if state.len == 0 && state.writers > 0 { Err(Errno::EAGAIN) } else { Ok(state.len > 0) }
    }

    /// How many bytes a write would take now; `EPIPE`, `EAGAIN`.
    pub fn room(&self) -> Result<usize, Errno> {
        let state = self.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        if state.room() == 0 { Err(Errno::EAGAIN) } else { Ok(state.room()) }
    }

    /// Takes up to `len` bytes out; none at the end, `EAGAIN`.
    pub fn take(&self, len: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; len.min(self.readable_bytes())];
        if bytes.is_empty() && len > 0 {
            return if self.has_bytes()? { Err(Errno::EAGAIN) } else { Ok(bytes) };
        }
        let got = self.read(&mut KernelDst::new(&mut bytes))?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// The first `len` bytes, or as many as there are, which stay; none at the end, `EAGAIN`.
    pub fn peek(&self, len: usize) -> Result<Vec<u8>, Errno> {
        let state = self.state.lock();
        if state.len == 0 {
            return if state.writers == 0 { Ok(Vec::new()) } else { Err(Errno::EAGAIN) };
        }
        let (front, back) = state.runs(state.start, len.min(state.len));
        let mut bytes = state.ring.get(front).unwrap_or_default().to_vec();
        bytes.extend_from_slice(state.ring.get(back).unwrap_or_default());
        Ok(bytes)
    }

    /// Gives bytes that [`Pipe::take`] took back to the front. Writers that came meanwhile may make it hold more than its
    /// capacity for a while.
    pub fn put_back(&self, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.state.lock().put_back(bytes)?;
        self.queue.wake(EventMask::READABLE);
        Ok(())
    }

    fn open_end(self: &Arc<Self>, reads: bool, writes: bool) -> PipeEnd {
        self.open_side(reads, writes).0
    }

    /// An end, and the other side that an open waits for. In one step: one who waits there for us may be gone, with all that
    /// it had to say, as soon as we are seen.
    fn open_side(self: &Arc<Self>, reads: bool, writes: bool) -> (PipeEnd, OtherSide<'_>) {
        let mut state = self.state.lock();
        let (opens, present) =
            if reads { (state.writer_opens, state.writers > 0) } else { (state.reader_opens, state.readers > 0) };
        if reads {
            state.readers += 1;
            state.reader_opens += 1;
        }
        if writes {
            state.writers += 1;
            state.writer_opens += 1;
        }
        let writers_before = state.writer_opens;
        drop(state);
        let end = PipeEnd { pipe: Arc::clone(self), reads, writes, writers_before };
        (end, OtherSide { pipe: self, writer: reads, seen: (!present).then_some(opens) })
    }

    fn close_end(&self, end: &PipeEnd) {
        {
            let mut state = self.state.lock();
            if end.reads {
                state.readers -= 1;
            }
            if end.writes {
                state.writers -= 1;
            }
            if state.readers + state.writers == 0 {
                state.ring = Ring::default();
                state.packets.clear();
                state.start = 0;
                state.len = 0;
            }
        }
        self.queue.wake(EventMask::all());
    }
}

impl Default for Pipe {
    fn default() -> Self {
        Self::new()
    }
}

/// How much is in a pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Filled {
    Little,
    /// Half of its capacity or more.
    Half,
}

/// Whether a write keeps its borders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Borders {
    /// Bytes join what is there.
    Joined,
    /// Each write is a packet, `O_DIRECT`.
    Packets,
}

impl State {
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.len)
    }

    /// Moves the contents into a ring of `size` bytes, which holds them.
    fn resize(&mut self, size: usize) -> Result<(), Errno> {
        let (front, back) = self.runs(self.start, self.len);
        let bytes = |run| self.ring.get(run).unwrap_or_default();
        self.ring = Ring::new(size, bytes(front), bytes(back))?;
        self.start = 0;
        Ok(())
    }

    /// The two index ranges of `len` bytes from `from` on.
    fn runs(&self, from: usize, len: usize) -> (core::ops::Range<usize>, core::ops::Range<usize>) {
        let size = self.ring.len();
        debug_assert!(len <= size && (from < size || size == 0), "no more than there is");
        let first = len.min(size - from);
        (from..from + first, 0..len - first)
    }

    fn read(&mut self, dst: &mut dyn IoDst) -> Result<usize, Errno> {
        let packet = self.packets.front().copied();
        let available = packet.map_or(self.len, |packet| packet.len);
        let (front, back) = self.runs(self.start, available);
        let mut n = dst.put(self.ring.get(front.clone()).unwrap_or_default())?;
        if n == front.len() && !back.is_empty() && dst.remaining() > 0 {
            // A fault after some bytes leaves the rest in the pipe.
            n += dst.put(self.ring.get(back).unwrap_or_default()).unwrap_or(0);
        }
        // The rest of a packet that was read in part is lost.
        let gone = if packet.is_some_and(|packet| packet.bordered) { available } else { n };
        self.start = (self.start + gone) % self.ring.len();
        self.len -= gone;
        if let Some(front) = self.packets.front_mut() {
            front.len -= gone;
            if front.len == 0 {
                self.packets.pop_front();
            }
        }
        Ok(n)
    }

    fn write(&mut self, src: &mut dyn IoSrc, borders: Borders) -> Result<usize, Errno> {
        let wanted = src.remaining();
        let room = self.room();
        if room == 0 || (wanted <= PIPE_BUF && room < wanted) {
            return Err(Errno::EAGAIN);
        }
        let len = match borders {
            Borders::Joined => wanted.min(room),
            Borders::Packets => wanted.min(PIPE_BUF).min(room),
        };
        let needed = self.len + len;
        if needed > self.ring.len() {
            self.resize(needed.next_power_of_two().max(FIRST_RING).min(self.capacity.max(needed)))?;
        }
        let at = (self.start + self.len) % self.ring.len();
        let (front, back) = self.runs(at, len);
        let mut n = src.take(self.ring.get_mut(front.clone()).unwrap_or_default())?;
        if n == front.len() && !back.is_empty() {
            n += src.take(self.ring.get_mut(back).unwrap_or_default()).unwrap_or(0);
        }
        self.note_packet(n, borders);
        self.len += n;
        Ok(n)
    }

    fn put_back(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let needed = self.len + bytes.len();
        if needed > self.ring.len() {
            self.resize(needed.next_power_of_two().max(FIRST_RING))?;
        }
        let size = self.ring.len();
        self.start = (self.start + size - bytes.len()) % size;
        let (front, back) = self.runs(self.start, bytes.len());
        let (first, second) = bytes.split_at(front.len());
        if let Some(room) = self.ring.get_mut(front) {
            room.copy_from_slice(first);
        }
        if let Some(room) = self.ring.get_mut(back) {
            room.copy_from_slice(second);
        }
        if !self.packets.is_empty() {
            self.packets.push_front(Packet { len: bytes.len(), bordered: false });
        }
        self.len = needed;
        Ok(())
    }

    fn note_packet(&mut self, len: usize, borders: Borders) {
        let bordered = borders == Borders::Packets;
        if self.packets.is_empty() {
            if !bordered {
                return;
            }
            // The bytes before the first packet are a run of their own.
            if self.len > 0 {
                self.packets.push_back(Packet { len: self.len, bordered: false });
            }
        }
        match self.packets.back_mut() {
            Some(last) if !bordered && !last.bordered => last.len += len,
            _ => self.packets.push_back(Packet { len, bordered }),
        }
    }
}

/// An open file of a pipe.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// How often the pipe had been opened for writing when this end was: a reader that came first has seen no hang-up.
    writers_before: u64,
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        self.pipe.close_end(self);
    }
}

impl FileOps for PipeEnd {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        self.pipe.read(dst)
    }

    fn write(&self, ctx: &Context<'_>, file: &File, src: &mut dyn IoSrc, _offset: u64) -> Result<usize, Errno> {
        let direct = file.flags().contains(OpenFlags::O_DIRECT);
        let (n, filled) = self.pipe.put(src, if direct { Borders::Packets } else { Borders::Joined })?;
        // Short messages are waited for; of long ones there will be more.
        let may_wait = n >= PIPE_BUF
            && filled == Filled::Little
            && !self.pipe.queue.is_empty()
            && !self.pipe.prompt.load(Ordering::Relaxed);
        if n > 0 && !(may_wait && ctx.blocker.wake_readers_later(&self.pipe)) {
            self.pipe.wake_readers();
        }
        Ok(n)
    }

    fn ioctl(
        &self,
        _ctx: &Context<'_>,
        _file: &File,
        command: u32,
        argument: u64,
        mem: &dyn UserMemory,
    ) -> Result<u64, Errno> {
        if command != abi::tty::FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes = i32::try_from(self.pipe.readable_bytes()).unwrap_or(i32::MAX);
        mem.write(usermem::Addr(argument), &bytes.to_ne_bytes())?;
        Ok(0)
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        let state = self.pipe.state.lock();
        let mut ready = EventMask::empty();
        if self.reads {
            if state.len > 0 {
                ready |= EventMask::READABLE;
            }
            if state.writers == 0 && state.writer_opens > self.writers_before {
                ready |= EventMask::HUP;
            }
        }
        if self.writes {
            // Room for an atomic write, or a poller would spin.
            if state.room() >= PIPE_BUF {
                ready |= EventMask::WRITABLE;
            }
            if state.readers == 0 {
                ready |= EventMask::ERR;
            }
        }
        ready & (interest | EventMask::ALWAYS)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn signals_for(&self) -> Option<EventMask> {
        self.pipe.prompt.store(true, Ordering::Relaxed);
        let side = |is_ours: bool, mask: EventMask| if is_ours { mask } else { EventMask::empty() };
        Some(side(self.reads, EventMask::IN) | side(self.writes, EventMask::OUT))
    }

    fn to_tell(&self, events: EventMask) -> EventMask {
        let ready = self.readiness(events);
        let mut told = events & ready & (EventMask::IN | EventMask::OUT);
        // The other side's end is an end of waiting.
        if self.reads && ready.contains(EventMask::HUP) {
            told |= EventMask::IN;
        }
        if self.writes && ready.contains(EventMask::ERR) {
            told |= EventMask::OUT;
        }
        told
    }

    fn pipe(&self) -> Option<&Arc<Pipe>> {
        Some(&self.pipe)
    }
}

/// Makes a pipe, pipe2(2): the read end and the write end. `flags` may hold `O_NONBLOCK` and `O_DIRECT`.
pub fn create(uid: Uid, gid: Gid, flags: OpenFlags) -> (Arc<File>, Arc<File>) {
    let pipe = Arc::new(Pipe::new());
    let mut reader = pipe.open_end(true, false);
    // Both ends exist from the start: the reader sees the writer go.
    reader.writers_before = 0;
    let writer = pipe.open_end(false, true);
    let inode = AnonInode::new(FileType::Fifo, 0o600, uid, gid);
    inode.slots().set_fifo(&pipe);
    let name = format!("pipe:[{}]", inode.ino());
    let flags = flags & (OpenFlags::O_NONBLOCK | OpenFlags::O_DIRECT);
    let file = |end: PipeEnd, access: u32| {
        let access = OpenFlags::from_bits_retain(access);
        File::pseudo(Arc::new(end), flags | access, name.as_bytes(), Arc::clone(&inode) as _)
    };
    (file(reader, abi::fs::O_RDONLY), file(writer, abi::fs::O_WRONLY))
}

/// The event that a FIFO is opened, of which only those hear who wait to open it: nothing becomes ready by it.
const OPENED: EventMask = EventMask::PRI;

/// Waits for the other side of a FIFO to be opened.
struct OtherSide<'a> {
    pipe: &'a Pipe,
    /// Whether a writer is waited for, and the count of opens to be passed; none when it was there already.
    writer: bool,
    seen: Option<u64>,
}

impl OtherSide<'_> {
    fn came(&self) -> bool {
        let Some(seen) = self.seen else { return true };
        let state = self.pipe.state.lock();
        let opens = if self.writer { state.writer_opens } else { state.reader_opens };
        opens > seen
    }
}

impl Pollable for OtherSide<'_> {
    fn readiness(&self, interest: EventMask) -> EventMask {
        if self.came() { interest } else { EventMask::empty() }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }
}

/// Opens the FIFO at `place`, fifo(7): waits for the other side unless `O_NONBLOCK`.
pub(crate) fn open_fifo(ctx: &Context<'_>, place: Path, flags: OpenFlags) -> Result<Arc<File>, Errno> {
    let pipe = place.inode().slots().fifo();
    let access = flags.bits() & abi::fs::O_ACCMODE;
    let reads = access == abi::fs::O_RDONLY || access == abi::fs::O_RDWR;
    let writes = access == abi::fs::O_WRONLY || access == abi::fs::O_RDWR;
    // A pipe without a name, opened again through /proc, waits for nobody, as if with O_NONBLOCK.
    let unnamed = place.dentry.is_pseudo();
    let nonblocking = flags.contains(OpenFlags::O_NONBLOCK);
    if !unnamed && writes && !reads && nonblocking && pipe.state.lock().readers == 0 {
        return Err(Errno::ENXIO);
    }
    // Dropped again on error, which tells the others.
    let (end, other) = pipe.open_side(reads, writes);
    pipe.queue.wake(OPENED);
    if reads != writes && !nonblocking && !unnamed {
        while !other.came() {
            ctx.blocker.wait(&other, OPENED)?;
        }
    }
    Ok(File::new(Arc::new(end), place, flags))
}

#[cfg(test)]
mod tests;
