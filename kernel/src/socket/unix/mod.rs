//! AF_UNIX sockets, unix(7).
//!
//! Each socket reads from one `Channel` of its own for life; a connected one writes into its peer's. A listening stream
//! socket holds the accepted ends, made by connect(2), until accept(2) gives them files.
//!
//! - `address`: names, and the abstract ones' table. `connect`: bind, listen, connect, accept. `channel`: the queues.
//!   `transfer`: send and receive. `rights`: descriptors in messages. `options`: what socket options keep.
//!
//! **Locks.** `socket.naming`, over what a file system does, before `socket.names` and `socket.state`, that before
//! `socket.channel`; never two of one class. Queues are woken and files dropped without any.

mod address;
mod channel;
mod connect;
mod options;
mod rights;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Creds, Gid, Uid};
use fs::Context;
use fs::vfs::{AnonInode, File, FileOps, FileType, Path};
use sync::{LockClass, Mutex};
use usermem::bytes::{IoDst, IoSrc};
use waiter::{EventMask, WaitQueue};

pub use address::{Address, Given, Space, encode};
pub use channel::Sender;
pub use options::{BufferBound, Direction, Options, PassCredentials};
pub use rights::{Allowance, Rights};
pub use transfer::{Destination, Outgoing};

use address::NameCell;
use channel::Channel;

use crate::task::Thread;

/// A socket gets one name, however many threads bind it. Outside all locks of a file system.
const NAMING: LockClass = LockClass::new("socket.naming", 90);
/// What a socket is connected to, or listens with.
const STATE: LockClass = LockClass::new("socket.state", 3640);

/// `SOCK_*`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Bytes copied.
    pub copied: usize,
    /// Length of the whole packet; larger than `copied` when its rest was dropped (`MSG_TRUNC`).
    pub packet: usize,
    /// Who sent it; `None` at the end.
    pub sender: Option<Sender>,
    /// The sender's name.
    pub from: Option<Address>,
    /// Descriptors that came with it.
    pub files: Vec<Arc<File>>,
}

/// Who made one end: SO_PEERCRED of the other.
#[derive(Clone, Debug)]
pub struct Maker {
    /// Process id.
    pub pid: i32,
    /// Its credentials.
    pub creds: Arc<Creds>,
}

/// What a socket sends to.
#[derive(Clone)]
struct Peer {
    outbox: Arc<Channel>,
    name: NameCell,
    socket: Weak<Socket>,
}

/// An accepting socket.
struct Listening {
    backlog: usize,
    pending: VecDeque<Arc<Socket>>,
    /// Who waits for room in the backlog.
    waiting: Vec<Weak<Socket>>,
    maker: Maker,
}

#[derive(Default)]
struct State {
    peer: Option<Peer>,
    listening: Option<Listening>,
    /// connect(2) is under way.
    connecting: bool,
    /// Who made the other end.
    peer_maker: Option<Maker>,
    /// SHUT_WR without a peer.
    write_ended: bool,
}

/// A socket.
pub struct Socket {
    kind: Kind,
    space: Arc<Space>,
    me: Weak<Self>,
    queue: WaitQueue,
    inbox: Arc<Channel>,
    name: NameCell,
    /// Held while it gets its name.
    naming: Mutex<()>,
    /// Where it is bound in the file system: keeps the inode.
    place: OnceLock<Path>,
    state: Mutex<State>,
    options: Options,
    owner: (Uid, Gid),
    /// A write found too little room: its owner hears of more (SIGIO). Relaxed: set and read before and after the channel's
    /// lock, under which there came to be room.
    short_of_room: AtomicBool,
}

/// What the inode of a bound socket holds.
struct Bound(Weak<Socket>);

impl Socket {
    fn make(space: &Arc<Space>, kind: Kind, owner: (Uid, Gid), name: NameCell) -> Arc<Self> {
        Arc::new_cyclic(|me| {
            let queue = WaitQueue::new();
            Self {
                kind,
                space: Arc::clone(space),
                me: Weak::clone(me),
                inbox: Channel::new(&queue),
                queue,
                name,
                naming: Mutex::new(NAMING, ()),
                place: OnceLock::new(),
                state: Mutex::new(STATE, State::default()),
                options: Options::new(),
                owner,
                short_of_room: AtomicBool::new(false),
            }
        })
    }

    /// socket(2): neither bound nor connected.
    pub fn create(space: &Arc<Space>, kind: Kind, creds: &Creds) -> Arc<File> {
        Self::make(space, kind, (creds.fsuid, creds.fsgid), NameCell::default()).into_file()
    }

    /// socketpair(2).
    pub fn pair(space: &Arc<Space>, kind: Kind, maker: &Maker) -> (Arc<File>, Arc<File>) {
        let owner = (maker.creds.fsuid, maker.creds.fsgid);
        let make = || Self::make(space, kind, owner, NameCell::default());
        let (first, second) = (make(), make());
        first.join(&second, maker.clone());
        second.join(&first, maker.clone());
        (first.into_file(), second.into_file())
    }

    /// Sends to `other` from now on.
    fn join(&self, other: &Arc<Self>, maker: Maker) {
        if self.kind != Kind::Datagram {
            other.inbox.flow.lock().writer = Some(self.queue.clone());
        }
        let mut state = self.state.lock();
        state.peer = Some(other.as_peer());
        state.peer_maker = Some(maker);
        state.connecting = false;
    }

    fn as_peer(&self) -> Peer {
        Peer { outbox: Arc::clone(&self.inbox), name: Arc::clone(&self.name), socket: Weak::clone(&self.me) }
    }

    fn into_file(self: Arc<Self>) -> Arc<File> {
        let inode = AnonInode::new(FileType::Socket, 0o777, self.owner.0, self.owner.1);
        let name = format!("socket:[{}]", inode.ino());
        File::pseudo(self, OpenFlags::O_RDWR, name.as_bytes(), inode)
    }

    /// The socket behind `file`; `ENOTSOCK`.
    pub fn of(file: &File) -> Result<Arc<Self>, Errno> {
        file.ops_arc::<Self>().ok_or(Errno::ENOTSOCK)
    }

    /// `SO_TYPE`.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What options were set.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Its name, getsockname(2).
    pub fn name(&self) -> Option<Address> {
        self.name.get().cloned()
    }

    /// The name of what it is connected to, getpeername(2); `ENOTCONN`.
    pub fn peer_name(&self) -> Result<Option<Address>, Errno> {
        self.state.lock().peer.as_ref().map(|peer| peer.name.get().cloned()).ok_or(Errno::ENOTCONN)
    }

    /// Who made the other end, `SO_PEERCRED`.
    pub fn peer_maker(&self) -> Option<Maker> {
        let state = self.state.lock();
        state.peer_maker.clone().or_else(|| state.listening.as_ref().map(|listening| listening.maker.clone()))
    }

    /// `SO_ACCEPTCONN`.
    pub fn is_listening(&self) -> bool {
        self.state.lock().listening.is_some()
    }

    /// Bytes that can be read now, `FIONREAD`: of a packet socket, the first packet's. `EINVAL` while listening.
    pub fn readable_bytes(&self) -> Result<usize, Errno> {
        if self.is_listening() {
            return Err(Errno::EINVAL);
        }
        let flow = self.inbox.flow.lock();
        Ok(match self.kind {
            Kind::Stream => flow.bytes,
            _ => flow.packets.front().map_or(0, |packet| packet.bytes.len()),
        })
    }

    /// Bytes sent that the other end has not read, `SIOCOUTQ`.
    pub fn unread_bytes(&self) -> Result<usize, Errno> {
        let state = self.state.lock();
        if state.listening.is_some() {
            return Err(Errno::EINVAL);
        }
        let outbox = state.peer.as_ref().map(|peer| Arc::clone(&peer.outbox));
        drop(state);
        Ok(outbox.map_or(0, |outbox| outbox.flow.lock().bytes))
    }

    /// Ends one or both halves, shutdown(2).
    pub fn shutdown(&self, how: Shutdown) {
        let outbox = {
            let mut state = self.state.lock();
            state.write_ended |= how != Shutdown::Read;
            // A datagram socket's peer reads from others too: only the sending side ends.
            state.peer.as_ref().filter(|_| self.kind != Kind::Datagram).map(|peer| Arc::clone(&peer.outbox))
        };
        if how != Shutdown::Write {
            self.inbox.end(|flow| flow.read_ended = true);
        }
        if how != Shutdown::Read {
            match outbox {
                Some(outbox) => outbox.end(|flow| flow.write_ended = true),
                None => self.queue.wake(EventMask::all()),
            }
        }
    }

    /// The files of sockets that lie in its queue, and in those of ends not accepted yet.
    fn sockets_in_queue(&self) -> Vec<u64> {
        let pending: Vec<Arc<Self>> =
            self.state.lock().listening.iter().flat_map(|listening| listening.pending.iter().cloned()).collect();
        let mut found = Vec::new();
        for inbox in pending.iter().map(|socket| &socket.inbox).chain([&self.inbox]) {
            let flow = inbox.flow.lock();
            let files = flow.packets.iter().filter_map(|packet| packet.rights.as_ref()).flat_map(Rights::files);
            found.extend(files.filter(|file| file.ops_as::<Self>().is_some()).map(|file| file.id()));
        }
        found
    }

    /// Drops what lies in its queue, and ends not accepted yet.
    fn empty_queue(&self) {
        let pending = self.state.lock().listening.as_mut().map(|listening| std::mem::take(&mut listening.pending));
        for socket in pending.into_iter().flatten() {
            socket.close();
        }
        let packets = self.inbox.flow.lock().take_all();
        drop(packets);
    }

    /// Its last file is gone, or it will never get one.
    fn close(&self) {
        let (peer, listening) = {
            let mut state = self.state.lock();
            (state.peer.take(), state.listening.take())
        };
        if let Some(Address::Abstract(name)) = self.name.get() {
            self.space.give_back(self.kind, name, &self.me);
        }
        if let Some(listening) = listening {
            for socket in listening.pending {
                // Who connected is told by a reset, as if data were lost.
                let outbox = socket.state.lock().peer.as_ref().map(|peer| Arc::clone(&peer.outbox));
                if let Some(outbox) = outbox {
                    outbox.end(|flow| flow.reset = true);
                }
                socket.close();
            }
            for waiter in listening.waiting.into_iter().filter_map(|socket| socket.upgrade()) {
                waiter.queue.wake(EventMask::all());
            }
        }
        let (unread, packets) = {
            let mut flow = self.inbox.flow.lock();
            flow.read_ended = true;
            (!flow.packets.is_empty(), flow.take_all())
        };
        drop(packets);
        if let Some(peer) = peer.filter(|_| self.kind != Kind::Datagram) {
            peer.outbox.end(|flow| {
                flow.write_ended = true;
                flow.reset |= unread && self.kind == Kind::Stream;
            });
        }
        self.inbox.wake_writers(EventMask::all());
        self.space.socket_closed();
    }
}

/// The process that calls, as sockets tell of it.
pub fn caller_of(ctx: &Context<'_>) -> Sender {
    let pid = ctx.caller_as::<Arc<Thread>>().map_or(0, |thread| thread.pid().raw());
    Sender::of(pid, ctx.creds)
}

impl FileOps for Socket {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() == 0 && self.kind == Kind::Stream {
            return Ok(0);
        }
        Ok(self.receive(dst, Take::Consume)?.copied)
    }

    fn write(&self, ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc, _offset: u64) -> Result<usize, Errno> {
        self.send(src, &mut Outgoing::plain(caller_of(ctx)))
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        let mut ready = EventMask::empty();
        let (peer, idle, write_ended) = {
            let state = self.state.lock();
            if let Some(listening) = &state.listening {
                if !listening.pending.is_empty() {
                    ready |= EventMask::READABLE;
                }
                return ready & (interest | EventMask::ALWAYS);
            }
            (state.peer.clone(), state.peer.is_none(), state.write_ended)
        };
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
        let output_ended = match &peer {
            None => {
                ready |= EventMask::WRITABLE;
                write_ended
            }
            Some(peer) => {
                let mut flow = peer.outbox.flow.lock();
                let ended = flow.read_ended || flow.write_ended || write_ended;
                // A quarter of the buffer free, as Linux: a wake for each byte read would be in vain.
                if ended || flow.bytes <= self.options.send_buffer() / 4 * 3 {
                    ready |= EventMask::WRITABLE;
                } else if interest.intersects(EventMask::WRITABLE) {
                    flow.tell_of_room(&self.me);
                }
                ended
            }
        };
        let connection = self.kind != Kind::Datagram;
        if (connection && idle) || (input_ended && output_ended && (connection || write_ended)) {
            ready |= EventMask::HUP;
        }
        ready & (interest | EventMask::ALWAYS)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn signals_for(&self) -> Option<EventMask> {
        Some(EventMask::IN | EventMask::OUT)
    }

    fn to_tell(&self, events: EventMask) -> EventMask {
        let ready = events & FileOps::readiness(self, events);
        if ready.contains(EventMask::HUP) {
            return EventMask::HUP;
        }
        let room = ready.contains(EventMask::OUT) && self.short_of_room.swap(false, Ordering::Relaxed);
        (ready & EventMask::IN) | if room { EventMask::OUT } else { EventMask::empty() }
    }

    fn ioctl(
        &self,
        _ctx: &Context<'_>,
        _file: &File,
        command: u32,
        argument: u64,
        mem: &dyn usermem::ptr::UserMemory,
    ) -> Result<u64, Errno> {
        let bytes = match command {
            abi::tty::FIONREAD => self.readable_bytes()?,
            abi::tty::TIOCOUTQ => self.unread_bytes()?,
            _ => return Err(Errno::ENOTTY),
        };
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        mem.write(usermem::Addr(argument), &bytes.to_ne_bytes())?;
        Ok(0)
    }

    fn release(&self, _file: &File) {
        self.close();
    }
}

impl Socket {
    /// Whether it asks for the sender with each message, SO_PASSCRED.
    pub fn passes_credentials(&self) -> bool {
        self.options.pass_credentials.load(Ordering::Relaxed)
    }
}
