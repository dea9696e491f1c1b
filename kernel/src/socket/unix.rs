//! Connected AF_UNIX sockets, unix(7): the two ends that socketpair(2) makes.
//!
//! Each direction is a `Channel`: a bounded queue of packets, one writer and one reader. Stream sockets forget the
//! borders of packets when they read, the other kinds keep them.
//!
//! **Locks.** `socket.channel` may be held over a user copy: the fault path never takes it. Queues are woken without it.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Gid, Uid};
use fs::Context;
use fs::vfs::{AnonInode, File, FileOps, FileType};
use sync::{LockClass, Mutex};
use usermem::bytes::{IoDst, IoSrc};
use waiter::{EventMask, WaitQueue};

/// One direction of a pair.
const CHANNEL: LockClass = LockClass::new("socket.channel", 3650);

/// Bytes that a channel holds: Linux's default `net.core.wmem_default`.
const CAPACITY: usize = 212_992;

/// Packets that a channel holds, so that empty ones are bounded too.
const MAX_PACKETS: usize = 4096;

/// Longest packet of a stream; longer writes become several.
const STREAM_PACKET: usize = 65_536;

/// `SOCK_*` of the pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `SOCK_STREAM`: bytes without borders.
    Stream,
    /// `SOCK_DGRAM`: packets.
    Datagram,
    /// `SOCK_SEQPACKET`: packets, with an end.
    SeqPacket,
}

/// Which half of a connection ends, shutdown(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// `SHUT_RD`.
    Read,
    /// `SHUT_WR`.
    Write,
    /// `SHUT_RDWR`.
    Both,
}

/// Whether a receive takes what it reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Take {
    /// It does.
    Consume,
    /// `MSG_PEEK`: it does not.
    Peek,
}

/// What a receive got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes copied.
    pub copied: usize,
    /// Length of the whole packet; larger than `copied` when its rest was dropped (`MSG_TRUNC`).
    pub packet: usize,
}

/// Who made the pair: `SO_PEERCRED`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Maker {
    /// Process id.
    pub pid: i32,
    /// Effective user.
    pub uid: Uid,
    /// Effective group.
    pub gid: Gid,
}

#[derive(Default)]
struct Flow {
    packets: VecDeque<Vec<u8>>,
    /// Bytes in `packets`, less what was read of the first.
    bytes: usize,
    /// Bytes of the first packet already read.
    consumed: usize,
    /// The writer will write no more.
    write_ended: bool,
    /// The reader will read no more.
    read_ended: bool,
    /// The other end closed with our data unread: one `ECONNRESET`.
    reset: bool,
}

/// One direction.
struct Channel {
    flow: Mutex<Flow>,
    reader: WaitQueue,
    writer: WaitQueue,
}

impl Channel {
    fn new(reader: &WaitQueue, writer: &WaitQueue) -> Arc<Self> {
        let flow = Mutex::new(CHANNEL, Flow::default());
        Arc::new(Self { flow, reader: reader.clone(), writer: writer.clone() })
    }

    fn end(&self, change: impl FnOnce(&mut Flow)) {
        change(&mut self.flow.lock());
        self.reader.wake(EventMask::all());
        self.writer.wake(EventMask::all());
    }
}

/// One end of a pair.
pub struct Socket {
    kind: Kind,
    maker: Maker,
    queue: WaitQueue,
    inbox: Arc<Channel>,
    outbox: Arc<Channel>,
}

/// Makes a connected pair, socketpair(2).
pub fn pair(kind: Kind, maker: Maker) -> (Arc<File>, Arc<File>) {
    let (first, second) = (WaitQueue::new(), WaitQueue::new());
    let to_first = Channel::new(&first, &second);
    let to_second = Channel::new(&second, &first);
    let file = |queue, inbox: &Arc<Channel>, outbox: &Arc<Channel>| {
        let socket = Socket { kind, maker, queue, inbox: Arc::clone(inbox), outbox: Arc::clone(outbox) };
        let inode = AnonInode::new(FileType::Socket, 0o777, maker.uid, maker.gid);
        let name = format!("socket:[{}]", inode.ino());
        File::pseudo(Arc::new(socket), OpenFlags::O_RDWR, name.as_bytes(), inode)
    };
    (file(first, &to_first, &to_second), file(second, &to_second, &to_first))
}

impl Socket {
    /// The socket behind `file`; `ENOTSOCK`.
    pub fn of(file: &File) -> Result<Arc<Self>, Errno> {
        file.ops_arc::<Self>().ok_or(Errno::ENOTSOCK)
    }

    /// `SO_TYPE`.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `SO_PEERCRED`.
    pub fn maker(&self) -> Maker {
        self.maker
    }

    /// `SO_SNDBUF`, `SO_RCVBUF`, in bytes.
    pub fn capacity(&self) -> usize {
        CAPACITY
    }

    /// Sends; a stream may take less than all. `EPIPE` when the other end reads no more (the caller raises SIGPIPE),
    /// `EMSGSIZE` for a packet that can never fit.
    pub fn send(&self, src: &mut dyn IoSrc) -> Result<usize, Errno> {
        let stream = self.kind == Kind::Stream;
        let len = src.remaining();
        if !stream && len > CAPACITY {
            return Err(Errno::EMSGSIZE);
        }
        let mut sent = 0;
        {
            let mut flow = self.outbox.flow.lock();
            loop {
                if flow.read_ended || flow.write_ended {
                    let gone = if self.kind == Kind::Datagram { Errno::ECONNREFUSED } else { Errno::EPIPE };
                    return if sent > 0 { Ok(sent) } else { Err(gone) };
                }
                let room = CAPACITY.saturating_sub(flow.bytes);
                let full = flow.packets.len() >= MAX_PACKETS || if stream { room == 0 && len > 0 } else { room < len };
                if full {
                    if sent == 0 {
                        return Err(Errno::EAGAIN);
                    }
                    break;
                }
                if stream && src.remaining() == 0 {
                    break;
                }
                let take = if stream { src.remaining().min(room).min(STREAM_PACKET) } else { len };
                let mut packet = Vec::new();
                packet.try_reserve_exact(take).map_err(|_| Errno::ENOBUFS)?;
                packet.resize(take, 0);
                let got = match src.take(&mut packet) {
                    Ok(got) => got,
                    Err(_) if sent > 0 => break,
                    Err(e) => return Err(e),
                };
                if got < take && !stream {
                    return Err(Errno::EFAULT);
                }
                packet.truncate(got);
                flow.bytes += got;
                sent += got;
                flow.packets.push_back(packet);
                if !stream || got < take {
                    break;
                }
            }
        }
        if sent > 0 || !stream {
            self.outbox.reader.wake(EventMask::READABLE);
        }
        Ok(sent)
    }

    /// Receives; 0 bytes at the end.
    pub fn receive(&self, dst: &mut dyn IoDst, take: Take) -> Result<Received, Errno> {
        let received = {
            let mut flow = self.inbox.flow.lock();
            if flow.packets.is_empty() {
                if std::mem::take(&mut flow.reset) {
                    return Err(Errno::ECONNRESET);
                }
                let ended = flow.input_ended(self.kind);
                return if ended { Ok(Received { copied: 0, packet: 0 }) } else { Err(Errno::EAGAIN) };
            }
            if self.kind == Kind::Stream { flow.read_stream(dst, take)? } else { flow.read_packet(dst, take)? }
        };
        if take == Take::Consume {
            self.inbox.writer.wake(EventMask::WRITABLE);
        }
        Ok(received)
    }

    /// Bytes that can be read now, `FIONREAD`: of a packet socket, the first packet's.
    pub fn readable_bytes(&self) -> usize {
        let flow = self.inbox.flow.lock();
        match self.kind {
            Kind::Stream => flow.bytes,
            _ => flow.packets.front().map_or(0, Vec::len),
        }
    }

    /// Ends one or both halves, shutdown(2).
    pub fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Write {
            self.inbox.end(|flow| flow.read_ended = true);
        }
        if how != Shutdown::Read {
            self.outbox.end(|flow| flow.write_ended = true);
        }
    }
}

impl Flow {
    /// Nothing more will come: datagrams, without a connection to end, wait on when the other end is gone.
    fn input_ended(&self, kind: Kind) -> bool {
        self.read_ended || (self.write_ended && kind != Kind::Datagram)
    }

    fn read_stream(&mut self, dst: &mut dyn IoDst, take: Take) -> Result<Received, Errno> {
        let (mut copied, mut skip, mut at) = (0, self.consumed, 0);
        while let Some(packet) = self.packets.get(at) {
            if dst.remaining() == 0 {
                break;
            }
            let rest = packet.get(skip..).unwrap_or_default();
            let got = match dst.put(rest) {
                Ok(got) => got,
                Err(_) if copied > 0 => break,
                Err(e) => return Err(e),
            };
            copied += got;
            let whole = got == rest.len();
            if take == Take::Consume {
                self.bytes -= got;
                if whole {
                    self.packets.pop_front();
                    self.consumed = 0;
                } else {
                    self.consumed += got;
                }
            } else {
                at += 1;
            }
            skip = 0;
            if !whole {
                break;
            }
        }
        Ok(Received { copied, packet: copied })
    }

    fn read_packet(&mut self, dst: &mut dyn IoDst, take: Take) -> Result<Received, Errno> {
        let Some(packet) = self.packets.front() else { return Err(Errno::EAGAIN) };
        let room = dst.remaining();
        let copied = if packet.is_empty() || room == 0 { 0 } else { dst.put(packet)? };
        if copied < packet.len().min(room) {
            return Err(Errno::EFAULT);
        }
        let received = Received { copied, packet: packet.len() };
        if take == Take::Consume {
            self.bytes -= received.packet;
            self.packets.pop_front();
        }
        Ok(received)
    }
}

impl FileOps for Socket {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() == 0 && self.kind == Kind::Stream {
            return Ok(0);
        }
        Ok(self.receive(dst, Take::Consume)?.copied)
    }

    fn write(&self, _ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc, _offset: u64) -> Result<usize, Errno> {
        self.send(src)
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        let mut ready = EventMask::empty();
        let input_ended = {
            let flow = self.inbox.flow.lock();
            let ended = flow.input_ended(self.kind);
            if !flow.packets.is_empty() || ended || flow.reset {
                ready |= EventMask::READABLE;
            }
            if ended {
                ready |= EventMask::RDHUP;
            }
            ended
        };
        let flow = self.outbox.flow.lock();
        let output_ended = flow.read_ended || flow.write_ended;
        // A quarter of the buffer free, as Linux: a wake for each byte read would be in vain.
        if output_ended || flow.bytes <= CAPACITY / 4 * 3 {
            ready |= EventMask::WRITABLE;
        }
        if input_ended && output_ended && self.kind != Kind::Datagram {
            ready |= EventMask::HUP;
        }
        ready & (interest | EventMask::ALWAYS)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn ioctl(
        &self,
        _ctx: &Context<'_>,
        _file: &File,
        command: u32,
        argument: u64,
        mem: &dyn usermem::ptr::UserMemory,
    ) -> Result<u64, Errno> {
        if command != abi::tty::FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes = i32::try_from(self.readable_bytes()).unwrap_or(i32::MAX);
        mem.write(usermem::Addr(argument), &bytes.to_ne_bytes())?;
        Ok(0)
    }

    fn release(&self, _file: &File) {
        let unread = {
            let mut flow = self.inbox.flow.lock();
            flow.read_ended = true;
            let unread = !flow.packets.is_empty();
            flow.packets.clear();
            flow.bytes = 0;
            flow.consumed = 0;
            unread
        };
        self.outbox.end(|flow| {
            flow.write_ended = true;
            flow.reset |= unread && self.kind == Kind::Stream;
        });
        self.inbox.writer.wake(EventMask::all());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use abi::Errno;
    use auth::{Gid, Uid};
    use fs::vfs::File;
    use usermem::bytes::{KernelDst, KernelSrc};
    use waiter::{EventMask, Pollable as _};

    use super::{CAPACITY, Kind, Maker, Received, Shutdown, Socket, Take, pair};

    fn sockets(kind: Kind) -> (Arc<File>, Arc<File>, Arc<Socket>, Arc<Socket>) {
        let (a, b) = pair(kind, Maker { pid: 1, uid: Uid::ROOT, gid: Gid::ROOT });
        let (sa, sb) = (Socket::of(&a).unwrap(), Socket::of(&b).unwrap());
        (a, b, sa, sb)
    }

    fn send(socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
        socket.send(&mut KernelSrc::new(bytes))
    }

    fn receive(socket: &Socket, len: usize, take: Take) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; len];
        let got = socket.receive(&mut KernelDst::new(&mut buffer), take)?;
        buffer.truncate(got.copied);
        Ok(buffer)
    }

    #[test]
    fn streams_join_and_split() {
        let (_fa, _fb, a, b) = sockets(Kind::Stream);
        assert_eq!(receive(&b, 4, Take::Consume), Err(Errno::EAGAIN));
        send(&a, b"hello ").unwrap();
        send(&a, b"world").unwrap();
        assert_eq!(receive(&b, 8, Take::Peek).unwrap(), b"hello wo");
        assert_eq!(receive(&b, 3, Take::Consume).unwrap(), b"hel");
        assert_eq!(receive(&b, 100, Take::Peek).unwrap(), b"lo world");
        assert_eq!(receive(&b, 100, Take::Consume).unwrap(), b"lo world");
        assert_eq!(b.readable_bytes(), 0);
    }

    #[test]
    fn packets_keep_their_borders() {
        let (_fa, _fb, a, b) = sockets(Kind::SeqPacket);
        send(&a, b"first").unwrap();
        send(&a, b"").unwrap();
        send(&a, b"third").unwrap();
        let mut small = [0; 2];
        let got = b.receive(&mut KernelDst::new(&mut small), Take::Consume);
        assert_eq!((got, &small), (Ok(Received { copied: 2, packet: 5 }), b"fi"));
        assert_eq!(receive(&b, 9, Take::Consume).unwrap(), b"");
        assert_eq!(receive(&b, 9, Take::Consume).unwrap(), b"third");
        assert_eq!(send(&a, &vec![0; CAPACITY + 1]), Err(Errno::EMSGSIZE));
    }

    #[test]
    fn a_full_stream_takes_what_fits() {
        let (fa, _fb, a, b) = sockets(Kind::Stream);
        assert_eq!(send(&a, &vec![7; CAPACITY + 100]), Ok(CAPACITY));
        assert_eq!(send(&a, b"x"), Err(Errno::EAGAIN));
        assert!(!fa.readiness(EventMask::OUT).contains(EventMask::OUT));
        assert_eq!(receive(&b, CAPACITY, Take::Consume).unwrap().len(), CAPACITY);
        assert!(fa.readiness(EventMask::OUT).contains(EventMask::OUT));
    }

    #[test]
    fn ends_are_told() {
        let (fa, fb, a, b) = sockets(Kind::Stream);
        send(&a, b"last").unwrap();
        a.shutdown(Shutdown::Write);
        assert_eq!(send(&a, b"x"), Err(Errno::EPIPE));
        assert_eq!(receive(&b, 9, Take::Consume).unwrap(), b"last");
        assert_eq!(receive(&b, 9, Take::Consume).unwrap(), b"");
        assert_eq!(send(&b, b"back"), Ok(4));
        drop(fa);
        assert_eq!(receive(&b, 9, Take::Consume), Err(Errno::ECONNRESET));
        assert!(fb.readiness(EventMask::IN).contains(EventMask::IN | EventMask::HUP));
        assert_eq!(send(&b, b"x"), Err(Errno::EPIPE));
    }
}
