//! Sending and receiving.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use usermem::bytes::{IoDst, IoSrc};
use waiter::EventMask;

use super::channel::{Channel, Flow, MAX_PACKETS, Packet, Room, Sender, Senders};
use super::rights::Rights;
use super::{Kind, Received, Socket, Take};

/// Longest packet of a stream; longer writes become several.
const STREAM_PACKET: usize = 65_536;
/// What Linux keeps of the send buffer for itself when it judges a packet's length, in bytes.
const RESERVE: usize = 32;

/// Where a message goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// To the peer.
    Peer,
    /// To this datagram socket.
    Socket(Arc<Socket>),
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} socket", self.kind)
    }
}

/// A message besides its bytes.
#[derive(Debug)]
pub struct Outgoing {
    /// Where it goes.
    pub to: Destination,
    /// Who sends it.
    pub sender: Sender,
    /// Descriptors; taken by the first packet that is made.
    pub rights: Option<Rights>,
}

impl Outgoing {
    /// To the peer, without descriptors.
    pub fn plain(sender: Sender) -> Self {
        Self { to: Destination::Peer, sender, rights: None }
    }
}

impl Socket {
    /// Sends; a stream may take less than all. `EPIPE` when the other end reads no more (the caller raises SIGPIPE),
    /// `ENOTCONN` without one, `EMSGSIZE` for a packet that can never fit, `ENOBUFS` when all queues hold too much.
    pub fn send(&self, src: &mut dyn IoSrc, message: &mut Outgoing) -> Result<usize, Errno> {
        let outbox = self.outbox(&message.to)?;
        if self.kind == Kind::Stream {
            self.send_stream(src, &outbox, message)
        } else {
            self.send_packet(src, &outbox, message)
        }
    }

    fn outbox(&self, to: &Destination) -> Result<Arc<Channel>, Errno> {
        let peer = {
            let state = self.state.lock();
            if state.write_ended {
                return Err(Errno::EPIPE);
            }
            state.peer.clone()
        };
        match to {
            Destination::Peer => {
                let peer = peer.ok_or(Errno::ENOTCONN)?;
                if self.kind == Kind::Datagram {
                    let Some(socket) = peer.socket.upgrade() else {
                        return Err(self.lose_peer());
                    };
                    self.check_may_send(&socket)?;
                }
                Ok(peer.outbox)
            }
            Destination::Socket(other) => {
                self.check_may_send(other)?;
                Ok(Arc::clone(&other.inbox))
            }
        }
    }

    /// A datagram socket whose peer is gone has none any more.
    fn lose_peer(&self) -> Errno {
        self.state.lock().peer = None;
        Errno::ECONNREFUSED
    }

    fn packet(&self, bytes: Vec<u8>, room: Room, message: &mut Outgoing) -> Packet {
        let (sender, from) = (message.sender.clone(), Arc::clone(&self.name));
        Packet { bytes, sender, from, rights: message.rights.take(), _room: room }
    }

    fn send_stream(&self, src: &mut dyn IoSrc, outbox: &Channel, message: &mut Outgoing) -> Result<usize, Errno> {
        let mut sent = 0;
        {
            let mut flow = outbox.flow.lock();
            loop {
                if flow.read_ended || flow.write_ended {
                    return if sent > 0 { Ok(sent) } else { Err(Errno::EPIPE) };
                }
                if src.remaining() == 0 {
                    break;
                }
                let room = self.options.send_buffer().saturating_sub(flow.bytes);
                if flow.packets.len() >= MAX_PACKETS || room == 0 {
                    self.short_of_room.store(true, Ordering::Relaxed);
                    if sent == 0 {
                        return Err(Errno::EAGAIN);
                    }
                    break;
                }
                let want = src.remaining().min(room).min(STREAM_PACKET);
                let (room, bytes) = match Room::take(want).and_then(|room| Ok((room, take_bytes(src, want)?))) {
                    Ok(taken) => taken,
                    Err(_) if sent > 0 => break,
                    Err(e) => return Err(e),
                };
                let got = bytes.len();
                sent += got;
                flow.bytes += got;
                let packet = self.packet(bytes, room, message);
                flow.packets.push_back(packet);
                if got < want {
                    break;
                }
            }
        }
        if sent > 0 {
            outbox.reader.wake(EventMask::READABLE);
        }
        Ok(sent)
    }

    fn send_packet(&self, src: &mut dyn IoSrc, outbox: &Channel, message: &mut Outgoing) -> Result<usize, Errno> {
        let len = src.remaining();
        let buffer = self.options.send_buffer();
        if len > buffer.saturating_sub(RESERVE) {
            return Err(Errno::EMSGSIZE);
        }
        {
            let mut flow = outbox.flow.lock();
            if flow.read_ended || flow.write_ended {
                drop(flow);
                // A datagram socket that only shut down still is one; one that is closed is nobody.
                return Err(match (&message.to, self.kind) {
                    (_, Kind::Datagram) if self.is_gone(message) => self.lose_peer(),
                    _ => Errno::EPIPE,
                });
            }
            if flow.packets.len() >= MAX_PACKETS || buffer.saturating_sub(flow.bytes) < len {
                flow.tell_of_room(&self.me);
                self.short_of_room.store(true, Ordering::Relaxed);
                return Err(Errno::EAGAIN);
            }
            let room = Room::take(len)?;
            let bytes = take_bytes(src, len)?;
            if bytes.len() < len {
                return Err(Errno::EFAULT);
            }
            flow.bytes += len;
            let packet = self.packet(bytes, room, message);
            flow.packets.push_back(packet);
        }
        outbox.reader.wake(EventMask::READABLE);
        Ok(len)
    }

    /// Whether whoever the message is for has been closed.
    fn is_gone(&self, message: &Outgoing) -> bool {
        match &message.to {
            Destination::Peer => {
                let state = self.state.lock();
                state.peer.as_ref().is_none_or(|peer| peer.socket.strong_count() == 0)
            }
            Destination::Socket(_) => false,
        }
    }

    /// Receives; 0 bytes and no sender at the end.
    pub fn receive(&self, dst: &mut dyn IoDst, take: Take) -> Result<Received, Errno> {
        if self.kind != Kind::Datagram {
            self.check_connected()?;
        }
        let received = {
            let mut flow = self.inbox.flow.lock();
            if flow.packets.is_empty() {
                return self.nothing(&mut flow);
            }
            if self.kind == Kind::Stream {
                let senders = if self.passes_credentials() { Senders::One } else { Senders::Any };
                flow.read_stream(dst, take, senders)?
            } else {
                flow.read_packet(dst, take)?
            }
        };
        if take == Take::Consume {
            self.inbox.wake_writers(EventMask::WRITABLE);
        }
        Ok(received)
    }

    fn check_connected(&self) -> Result<(), Errno> {
        let connected = self.state.lock().peer.is_some();
        match self.kind {
            _ if connected => Ok(()),
            Kind::Stream => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTCONN),
        }
    }

    fn nothing(&self, flow: &mut Flow) -> Result<Received, Errno> {
        if std::mem::take(&mut flow.reset) {
            return Err(Errno::ECONNRESET);
        }
        if flow.input_ended(self.kind) { Ok(Received::default()) } else { Err(Errno::EAGAIN) }
    }
}

/// Up to `want` bytes of `src`.
fn take_bytes(src: &mut dyn IoSrc, want: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(want).map_err(|_| Errno::ENOBUFS)?;
    bytes.resize(want, 0);
    let got = if want == 0 { 0 } else { src.take(&mut bytes)? };
    bytes.truncate(got);
    Ok(bytes)
}
