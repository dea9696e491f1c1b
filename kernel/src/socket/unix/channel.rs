//! One direction of a conversation: a bounded queue of packets that one socket reads.
//!
//! Stream sockets forget the borders of packets when they read, the other kinds keep them. A stream's channel has one
//! writer for life; into that of a datagram socket anyone may write, and those who found it full are told when it is not.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use auth::Creds;
use sync::{LockClass, Mutex};
use usermem::bytes::IoDst;
use waiter::{EventMask, WaitQueue};

use super::address::NameCell;
use super::rights::Rights;
use super::{Kind, Received, Socket, Take};

/// May be held over a user copy: the fault path never takes it. Queues are woken without it.
const CHANNEL: LockClass = LockClass::new("socket.channel", 3650);

/// Packets that a channel holds, so that empty ones are bounded too.
pub(super) const MAX_PACKETS: usize = 4096;

/// Bytes that all channels hold together: a privileged guest bounds neither its sockets nor their buffers.
const ALL_BYTES: usize = 256 << 20;

/// What a packet costs us beyond its bytes.
const OVERHEAD: usize = 256;

/// What there is of [`ALL_BYTES`]. Relaxed: a count that guards nothing.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// The room of a packet, as long as it lies in a channel.
pub(super) struct Room(usize);

impl Room {
    /// For `len` bytes; `ENOBUFS` when all channels together hold too much.
    pub(super) fn take(len: usize) -> Result<Self, Errno> {
        let cost = len.saturating_add(OVERHEAD);
        let more = |held: usize| held.checked_add(cost).filter(|&held| held <= ALL_BYTES);
        HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Errno::ENOBUFS)?;
        Ok(Self(cost))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Who sends: SCM_CREDENTIALS.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Process id.
    pub pid: i32,
    /// Real or claimed user.
    pub uid: u32,
    /// Real or claimed group.
    pub gid: u32,
}

impl Sender {
    /// The process `pid` under its own ids.
    pub fn of(pid: i32, creds: &Creds) -> Self {
        Self { pid, uid: creds.ruid.0, gid: creds.rgid.0 }
    }

    fn is(&self, other: &Self) -> bool {
        (self.pid, self.uid, self.gid) == (other.pid, other.uid, other.gid)
    }
}

/// Whether one read of a stream may have bytes of several senders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Senders {
    Any,
    /// Not where it tells who sent them (SO_PASSCRED).
    One,
}

/// One write.
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) sender: Sender,
    pub(super) from: NameCell,
    pub(super) rights: Option<Rights>,
    /// Given back with it.
    pub(super) _room: Room,
}

#[derive(Default)]
pub(super) struct Flow {
    pub(super) packets: VecDeque<Packet>,
    /// Bytes in `packets`, less what was read of the first.
    pub(super) bytes: usize,
    /// Bytes of the first packet already read.
    consumed: usize,
    /// The writer will write no more.
    pub(super) write_ended: bool,
    /// The reader will read no more.
    pub(super) read_ended: bool,
    /// The other end closed with our data unread: one `ECONNRESET`.
    pub(super) reset: bool,
    /// The one writer of a stream.
    pub(super) writer: Option<WaitQueue>,
    /// Sockets that found no room.
    blocked: Vec<Weak<Socket>>,
}

/// One direction.
pub(super) struct Channel {
    pub(super) flow: Mutex<Flow>,
    pub(super) reader: WaitQueue,
}

impl Channel {
    pub(super) fn new(reader: &WaitQueue) -> Arc<Self> {
        Arc::new(Self { flow: Mutex::new(CHANNEL, Flow::default()), reader: reader.clone() })
    }

    /// Changes its ends and tells both sides.
    pub(super) fn end(&self, change: impl FnOnce(&mut Flow)) {
        change(&mut self.flow.lock());
        self.reader.wake(EventMask::all());
        self.wake_writers(EventMask::all());
    }

    /// There is room again.
    pub(super) fn wake_writers(&self, events: EventMask) {
        let (writer, blocked) = {
            let mut flow = self.flow.lock();
            (flow.writer.clone(), std::mem::take(&mut flow.blocked))
        };
        if let Some(writer) = writer {
            writer.wake(events);
        }
        for socket in blocked.into_iter().filter_map(|socket| socket.upgrade()) {
            socket.queue.wake(events);
        }
    }
}

impl Flow {
    /// `socket` wants to hear of room. Twice is once.
    pub(super) fn tell_of_room(&mut self, socket: &Weak<Socket>) {
        if self.writer.is_none() && !self.blocked.iter().any(|other| other.ptr_eq(socket)) {
            self.blocked.retain(|other| other.strong_count() > 0);
            self.blocked.push(Weak::clone(socket));
        }
    }

    /// Nothing more will come: datagrams, without a connection to end, wait on when the other end is gone.
    pub(super) fn input_ended(&self, kind: Kind) -> bool {
        self.read_ended || (self.write_ended && kind != Kind::Datagram)
    }

    /// Takes everything out, for the caller to drop without locks.
    pub(super) fn take_all(&mut self) -> VecDeque<Packet> {
        self.bytes = 0;
        self.consumed = 0;
        std::mem::take(&mut self.packets)
    }

    fn rights_of(packet: &mut Packet, take: Take) -> Vec<Arc<fs::vfs::File>> {
        match take {
            Take::Consume => packet.rights.take().map(Rights::arrive).unwrap_or_default(),
            Take::Peek => packet.rights.as_ref().map(|rights| rights.files().to_vec()).unwrap_or_default(),
        }
    }

    /// Reads across borders, but not past descriptors.
    pub(super) fn read_stream(&mut self, dst: &mut dyn IoDst, take: Take, senders: Senders) -> Result<Received, Errno> {
        let mut received = Received::default();
        let (mut skip, mut at) = (self.consumed, 0);
        while let Some(packet) = self.packets.get_mut(at) {
            if dst.remaining() == 0 {
                break;
            }
            if let Some(sender) = &received.sender
                && senders == Senders::One
                && !sender.is(&packet.sender)
            {
                break;
            }
            let rest = packet.bytes.get(skip..).unwrap_or_default();
            let got = match dst.put(rest) {
                Ok(got) => got,
                Err(_) if received.copied > 0 => break,
                Err(e) => return Err(e),
            };
            let whole = got == rest.len();
            received.copied += got;
            received.packet = received.copied;
            if received.sender.is_none() {
                received.sender = Some(packet.sender.clone());
                received.from = packet.from.get().cloned();
            }
            received.files.extend(Self::rights_of(packet, take));
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
            if !whole || !received.files.is_empty() {
                break;
            }
        }
        Ok(received)
    }

    pub(super) fn read_packet(&mut self, dst: &mut dyn IoDst, take: Take) -> Result<Received, Errno> {
        let Some(packet) = self.packets.front_mut() else { return Err(Errno::EAGAIN) };
        let room = dst.remaining();
        let copied = if packet.bytes.is_empty() || room == 0 { 0 } else { dst.put(&packet.bytes)? };
        let len = packet.bytes.len();
        if copied < len.min(room) {
            return Err(Errno::EFAULT);
        }
        let received = Received {
            copied,
            packet: len,
            sender: Some(packet.sender.clone()),
            from: packet.from.get().cloned(),
            files: Self::rights_of(packet, take),
        };
        if take == Take::Consume {
            self.bytes -= len;
            self.packets.pop_front();
        }
        Ok(received)
    }
}

#[cfg(test)]
mod tests {
    use super::{ALL_BYTES, Room};
    use abi::Errno;

    #[test]
    fn all_channels_together_are_bounded() {
        // Other tests hold a little at the same time.
        let most = Room::take(ALL_BYTES - (32 << 20)).unwrap();
        assert_eq!(Room::take(32 << 20).map(drop), Err(Errno::ENOBUFS));
        assert_eq!(Room::take(usize::MAX).map(drop), Err(Errno::ENOBUFS));
        drop(most);
        assert!(Room::take(32 << 20).is_ok());
    }
}
