//! The file system of POSIX message queues, mq_overview(7): one directory, a file per queue whose text tells its state.
//!
//! Names are looked up anew each time: queues come and go by `mq_open` and `mq_unlink`, which pass by the mount.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Caps, Creds};
use fs::vfs::{
    Attr, Caching, DirEntry, DirOps, File, FileOps, FileType, Filesystem, Inode, InodeOps, InodeSlots, NewNode,
    NodeKind, Position, SetAttr, StatFs, SyncWhat, Timestamp, generic_attr_change, new_device_id,
};
use fs::{Clock as _, Context};
use sync::Mutex;
use usermem::PAGE_SIZE;
use usermem::bytes::IoDst;
use waiter::{EventMask, WaitQueue};

use super::limits::{Limits, Privileged, Shape};
use super::queue::{Notify, Queue};
use crate::lock::MQUEUE_NAMES;
use crate::rlimit::Resource;
use crate::task::thread::Thread;

/// Size that a directory entry counts as.
const ENTRY_SIZE: u64 = 20;
/// Size that a queue's file has.
const FILE_SIZE: u64 = 80;

/// The file system.
pub(super) struct QueueFs {
    root: Arc<Root>,
}

impl QueueFs {
    pub(super) fn new(limits: &Arc<Limits>) -> Self {
        let device = new_device_id();
        let now = fs::SystemClock.now();
        let attr = Attr { size: 2 * ENTRY_SIZE, ..Attr::new(device, 1, FileType::Directory, 0o1777, now) };
        let names = Mutex::new(MQUEUE_NAMES, Names { by_name: BTreeMap::new(), attr });
        let (limits, slots) = (Arc::clone(limits), InodeSlots::new());
        Self { root: Arc::new(Root { device, limits, names, next_ino: AtomicU64::new(2), slots }) }
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Arc<Root> {
        &self.root
    }
}

impl Filesystem for QueueFs {
    fn type_name(&self) -> &str {
        "mqueue"
    }

    fn root(&self) -> Inode {
        Arc::clone(&self.root) as Inode
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: abi::stat::MQUEUE_MAGIC, block_size: PAGE_SIZE, name_max: 255, ..StatFs::default() })
    }

    fn device(&self) -> u64 {
        self.root.device
    }
}

struct Names {
    by_name: BTreeMap<Box<[u8]>, Arc<QueueInode>>,
    attr: Attr,
}

/// The only directory.
pub(super) struct Root {
    device: u64,
    limits: Arc<Limits>,
    names: Mutex<Names>,
    /// Relaxed: only has to give each number once.
    next_ino: AtomicU64,
    slots: InodeSlots,
}

/// Who makes a queue.
pub(super) struct Maker<'a> {
    pub(super) creds: &'a Creds,
    /// Its `RLIMIT_MSGQUEUE`.
    pub(super) limit: u64,
}

impl Root {
    /// Makes a queue; `asked` is how many messages of which size. Errors: `EEXIST`, `EINVAL`, `ENOSPC`, `EMFILE`.
    pub(super) fn make(
        &self,
        name: &[u8],
        node: &NewNode,
        asked: Option<(i64, i64)>,
        maker: &Maker<'_>,
        now: Timestamp,
    ) -> Result<Arc<QueueInode>, Errno> {
        let privileged = if maker.creds.has(Caps::SYS_RESOURCE) { Privileged::Yes } else { Privileged::No };
        let shape = match asked {
            Some((messages, size)) => self.limits.check_shape(messages, size, privileged)?,
            None => self.limits.default_shape(),
        };
        let mut names = self.names.lock();
        if names.by_name.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let inode = self.queue(shape, node, maker, privileged, now)?;
        names.by_name.insert(name.into(), Arc::clone(&inode));
        names.attr.size = names.attr.size.saturating_add(ENTRY_SIZE);
        (names.attr.atime, names.attr.mtime, names.attr.ctime) = (now, now, now);
        Ok(inode)
    }

    fn queue(
        &self,
        shape: Shape,
        node: &NewNode,
        maker: &Maker<'_>,
        privileged: Privileged,
        now: Timestamp,
    ) -> Result<Arc<QueueInode>, Errno> {
        let charge = self.limits.charge(maker.creds.ruid.0, shape, maker.limit, privileged)?;
        let ino = self.next_ino.fetch_add(1, Ordering::Relaxed);
        let attr = Attr {
            uid: node.uid,
            gid: node.gid,
            size: FILE_SIZE,
            btime: None,
            ..Attr::new(self.device, ino, FileType::Regular, node.mode, now)
        };
        let queue = Arc::new(Queue::new(shape, attr, charge));
        Ok(Arc::new(QueueInode { device: self.device, ino, queue, slots: InodeSlots::new() }))
    }
}

impl InodeOps for Root {
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(self.names.lock().attr)
    }

    fn file_type(&self) -> FileType {
        FileType::Directory
    }

    fn identity(&self) -> (u64, u64) {
        (self.device, 1)
    }

    fn slots(&self) -> &InodeSlots {
        &self.slots
    }

    fn set_attr(&self, ctx: &Context<'_>, change: &SetAttr) -> Result<(), Errno> {
        generic_attr_change(&mut self.names.lock().attr, change, ctx.clock);
        Ok(())
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        Some(self)
    }
}

impl DirOps for Root {
    fn lookup(&self, _ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        let names = self.names.lock();
        names.by_name.get(name).map(|inode| Arc::clone(inode) as Inode).ok_or(Errno::ENOENT)
    }

    fn list(&self, _ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        let names = self.names.lock();
        let entry = |name: &[u8], ino| DirEntry { name: name.to_vec(), ino, file_type: FileType::Regular };
        Ok(names.by_name.iter().map(|(name, inode)| entry(name, inode.ino)).collect())
    }

    fn caching(&self) -> Caching {
        Caching::Revalidate
    }

    fn keeps_unused(&self) -> bool {
        false
    }

    fn create(&self, ctx: &Context<'_>, name: &[u8], node: &NewNode) -> Result<Inode, Errno> {
        if node.kind != NodeKind::Regular {
            return Err(Errno::EPERM);
        }
        let thread = ctx.caller_as::<Arc<Thread>>().ok_or(Errno::EPERM)?;
        let maker = Maker { creds: ctx.creds, limit: thread.group().limit(Resource::Msgqueue).soft };
        Ok(self.make(name, node, None, &maker, ctx.clock.now())?)
    }

    fn unlink(&self, ctx: &Context<'_>, name: &[u8], _inode: &Inode) -> Result<(), Errno> {
        let now = ctx.clock.now();
        let removed = {
            let mut names = self.names.lock();
            let removed = names.by_name.remove(name).ok_or(Errno::ENOENT)?;
            names.attr.size = names.attr.size.saturating_sub(ENTRY_SIZE);
            (names.attr.atime, names.attr.mtime, names.attr.ctime) = (now, now, now);
            removed
        };
        removed.queue.change_attr(|attr| {
            attr.nlink = 0;
            attr.ctime = now;
        });
        Ok(())
    }
}

/// A queue in the tree.
pub(super) struct QueueInode {
    device: u64,
    ino: u64,
    queue: Arc<Queue>,
    slots: InodeSlots,
}

impl QueueInode {
    /// The queue.
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// The queue that `inode` is, if it is one.
    pub(super) fn queue_of(inode: &Inode) -> Option<Arc<Queue>> {
        let any: &dyn std::any::Any = inode.as_ref();
        any.downcast_ref::<Self>().map(|inode| Arc::clone(&inode.queue))
    }
}

impl InodeOps for QueueInode {
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(self.queue.attr())
    }

    fn file_type(&self) -> FileType {
        FileType::Regular
    }

    fn identity(&self) -> (u64, u64) {
        (self.device, self.ino)
    }

    fn slots(&self) -> &InodeSlots {
        &self.slots
    }

    /// A size is taken and changes nothing.
    fn set_attr(&self, ctx: &Context<'_>, change: &SetAttr) -> Result<(), Errno> {
        self.queue.change_attr(|attr| generic_attr_change(attr, change, ctx.clock));
        Ok(())
    }

    fn open(self: Arc<Self>, _ctx: &Context<'_>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        Ok(Arc::new(OpenQueue { queue: Arc::clone(&self.queue) }))
    }
}

/// A queue that is open.
pub(super) struct OpenQueue {
    pub(super) queue: Arc<Queue>,
}

impl OpenQueue {
    /// What the file tells.
    fn text(&self) -> String {
        let status = self.queue.status();
        let (notify, signal, pid) = match status.registered {
            None => (0, 0, 0),
            Some((pid, Notify::Nothing)) => (abi::signal::SIGEV_NONE, 0, pid.raw()),
            Some((pid, Notify::Signal(signal, _))) => {
                (abi::signal::SIGEV_SIGNAL, signal.map_or(0, |signal| signal.number()), pid.raw())
            }
        };
        format!("QSIZE:{:<10} NOTIFY:{notify:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n", status.bytes)
    }
}

impl FileOps for OpenQueue {
    fn read(&self, ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, offset: u64) -> Result<usize, Errno> {
        let text = self.text();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let rest = text.as_bytes().get(from..).unwrap_or_default();
        let read = if rest.is_empty() || dst.remaining() == 0 { 0 } else { dst.put(rest)? };
        let now = ctx.clock.now();
        self.queue.change_attr(|attr| (attr.atime, attr.ctime) = (now, now));
        Ok(read)
    }

    fn position(&self) -> Position {
        Position::Offsets
    }

    fn size(&self) -> Result<u64, Errno> {
        Ok(FILE_SIZE)
    }

    fn sync(&self, _what: SyncWhat) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        self.queue.readiness() & interest
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(self.queue.events())
    }

    /// Closing any of its descriptors ends a process's registration, mq_close(3).
    fn flush(&self, ctx: &Context<'_>) -> Result<(), Errno> {
        if let Some(thread) = ctx.caller_as::<Arc<Thread>>() {
            self.queue.unregister(thread.pid());
        }
        Ok(())
    }
}
