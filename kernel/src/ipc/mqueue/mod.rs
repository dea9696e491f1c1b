//! POSIX message queues, mq_overview(7).
//!
//! A queue (`queue`) is an inode of a small file system (`tree`), which the runner mounts at `/dev/mqueue`; the
//! calls go to it by names of its only directory, whatever is mounted. Limits are in `limits`. One of each per IPC
//! namespace: here, one per [`super::Ipc`].
//!
//! **Invariants.** No lock of this module is held while guest memory is touched, a task sleeps or a signal is sent: they are
//! leaves. What all queues hold is bounded, whatever guests set.

mod limits;
mod queue;
mod tree;

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use auth::Creds;
use fs::vfs::{At, File, Filesystem, LookupFlags, Mount, MountOptions, NewNode, NodeKind, Path, Perm, Superblock};

use crate::error::SysResult;
use crate::rlimit::Resource;
use crate::signal::info::{SI_MESGQ, SigData, SigInfo};
use crate::signal::send::Origin;
use crate::task::{Blocked, Patience, Task};

use limits::Limits;
use queue::{Message, Queue, Registered, Sent};
use tree::{Maker, OpenQueue, QueueFs, QueueInode};

pub use limits::{Knob, MQ_PRIO_MAX};
pub use queue::Notify;

/// The queues there are.
pub struct Mqueues {
    limits: Arc<Limits>,
    fs: Arc<QueueFs>,
    /// Where the calls look names up.
    mount: Arc<Mount>,
}

/// What mq_open(2) is asked for.
#[derive(Clone, Copy, Debug)]
pub struct MqOpen {
    /// Access mode, `O_CREAT`, `O_EXCL`, `O_NONBLOCK`.
    pub flags: OpenFlags,
    /// Permission bits of a new queue.
    pub mode: u32,
    /// Messages and their size, of a new queue.
    pub shape: Option<(i64, i64)>,
}

/// A queue's attributes, mq_getattr(3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MqStatus {
    /// Whether the description never waits.
    pub nonblocking: bool,
    /// Messages at most.
    pub max_messages: usize,
    /// Bytes of each at most.
    pub message_size: usize,
    /// Messages now.
    pub messages: usize,
}

/// A message that was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MqMessage {
    /// Its priority.
    pub priority: u32,
    /// Its text.
    pub text: Vec<u8>,
}

impl Mqueues {
    pub(crate) fn new() -> Self {
        let limits = Limits::new();
        let fs = Arc::new(QueueFs::new(&limits));
        let superblock = Superblock::new(Arc::clone(&fs) as Arc<dyn Filesystem>);
        let mount = Mount::new(&superblock, b"mqueue", MountOptions::empty());
        Self { limits, fs, mount }
    }

    /// What to mount at `/dev/mqueue`.
    pub fn superblock(&self) -> &Arc<Superblock> {
        self.mount.superblock()
    }

    /// A knob's value.
    pub fn knob(&self, knob: Knob) -> u32 {
        self.limits.get(knob)
    }

    /// Sets a knob; `EINVAL` out of its range.
    pub fn set_knob(&self, knob: Knob, value: u32) -> Result<(), Errno> {
        self.limits.set(knob, value)
    }
}

/// The queue behind a descriptor that may do what is wanted; `EBADF`.
fn queue_of(file: &File) -> Result<Arc<Queue>, Errno> {
    file.ops_as::<OpenQueue>().map(|open| Arc::clone(&open.queue)).ok_or(Errno::EBADF)
}

/// Whether `name` may name a queue: `EACCES` as Linux says for what is no single component.
fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        _ if name.contains(&b'/') => Err(Errno::EACCES),
        _ if name.len() > 255 => Err(Errno::ENAMETOOLONG),
        _ => Ok(()),
    }
}

impl Task {
    fn mqueues(&self) -> &Mqueues {
        self.kernel().ipc().mqueues()
    }

    fn mqueue_at<T>(&self, op: impl FnOnce(&At<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        let root = self.mqueues().mount.root_path();
        op(&At { ctx: &self.fs_context(), root: &root, start: &root })
    }

    /// mq_open(2): the file of the queue called `name`. Errors: `ENOENT`, `EEXIST`, `EACCES`, `EINVAL`, `ENOSPC`, `EMFILE`,
    /// `ENAMETOOLONG`.
    pub fn mq_open(&self, name: &[u8], open: &MqOpen) -> Result<Arc<File>, Errno> {
        check_name(name)?;
        loop {
            match self.mqueue_at(|at| at.lookup(name, LookupFlags::empty())) {
                Ok(place) => return self.open_queue(place, open),
                Err(Errno::ENOENT) if open.flags.contains(OpenFlags::O_CREAT) => {}
                Err(error) => return Err(error),
            }
            match self.make_queue(name, open) {
                // Another came first: what is there now counts.
                Err(Errno::EEXIST) => {}
                made => return made,
            }
        }
    }

    fn open_queue(&self, place: Path, open: &MqOpen) -> Result<Arc<File>, Errno> {
        if open.flags.contains(OpenFlags::O_CREAT | OpenFlags::O_EXCL) {
            return Err(Errno::EEXIST);
        }
        let wanted = match open.flags.bits() & abi::fs::O_ACCMODE {
            abi::fs::O_RDONLY => Perm::READ,
            abi::fs::O_WRONLY => Perm::WRITE,
            abi::fs::O_RDWR => Perm::READ | Perm::WRITE,
            _ => return Err(Errno::EINVAL),
        };
        place.inode().permission(&self.fs_context(), wanted)?;
        let queue = QueueInode::queue_of(place.inode()).ok_or(Errno::EACCES)?;
        Ok(File::new(Arc::new(OpenQueue { queue }), place, open.flags & !(OpenFlags::O_CREAT | OpenFlags::O_EXCL)))
    }

    fn make_queue(&self, name: &[u8], open: &MqOpen) -> Result<Arc<File>, Errno> {
        let creds: &Creds = self.creds();
        let mode = open.mode & 0o7777 & !self.fs().umask();
        let node = NewNode { kind: NodeKind::Regular, mode, uid: creds.fsuid, gid: creds.fsgid };
        let maker = Maker { creds, limit: self.group().limit(Resource::Msgqueue).soft };
        let now = self.fs_context().clock.now();
        let made = self.mqueues().fs.directory().make(name, &node, open.shape, &maker, now)?;
        let place = self.mqueue_at(|at| at.lookup(name, LookupFlags::empty()))?;
        let queue = QueueInode::queue_of(place.inode()).ok_or(Errno::EACCES)?;
        if !Arc::ptr_eq(&queue, made.queue()) {
            // Removed and made anew by others between the two.
            return Err(Errno::EEXIST);
        }
        Ok(File::new(Arc::new(OpenQueue { queue }), place, open.flags & !(OpenFlags::O_CREAT | OpenFlags::O_EXCL)))
    }

    /// mq_unlink(2). Errors: `ENOENT`, `EACCES`, `EPERM`, `ENAMETOOLONG`.
    pub fn mq_unlink(&self, name: &[u8]) -> Result<(), Errno> {
        check_name(name)?;
        self.mqueue_at(|at| at.unlink(name))
    }

    /// mq_timedsend(2) of what `text` reads, until CLOCK_MONOTONIC reaches `deadline_ns`. Errors: `EBADF`, `EMSGSIZE`,
    /// `EAGAIN`, `ETIMEDOUT`, `EINTR`, `ENOMEM`, and those of `text`.
    pub fn mq_send(
        &mut self,
        file: &Arc<File>,
        len: usize,
        priority: u32,
        deadline_ns: Option<u64>,
        text: impl FnOnce(&Self) -> Result<Vec<u8>, Errno>,
    ) -> SysResult<()> {
        let queue = queue_of(file)?;
        if !file.is_writable() {
            return Err(Errno::EBADF.into());
        }
        if len > queue.shape().size {
            return Err(Errno::EMSGSIZE.into());
        }
        let held = self.mqueues().limits.hold(len)?;
        let message = Message { priority, text: text(self)?, _held: held };
        let now = self.fs_context().clock.now();
        let message = match queue.send(message, now) {
            Sent::Done(told) => {
                self.tell(told);
                return Ok(());
            }
            Sent::Full(_) if Patience::of(file) == Patience::None => return Err(Errno::EAGAIN.into()),
            Sent::Full(message) => message,
        };
        let ticket = match queue.wait_to_send(message, self.waiter(), now) {
            Ok(ticket) => ticket,
            Err(told) => {
                self.tell(told);
                return Ok(());
            }
        };
        loop {
            let slept = self.sleep(deadline_ns);
            if queue.was_sent(ticket) {
                return Ok(());
            }
            if let Err(blocked) = slept {
                return if queue.give_up_sending(ticket) { Err(gave_up(blocked)) } else { Ok(()) };
            }
        }
    }

    /// mq_timedreceive(2) into a buffer of `len` bytes, until CLOCK_MONOTONIC reaches `deadline_ns`. Errors: `EBADF`,
    /// `EMSGSIZE`, `EAGAIN`, `ETIMEDOUT`, `EINTR`.
    pub fn mq_receive(&mut self, file: &Arc<File>, len: usize, deadline_ns: Option<u64>) -> SysResult<MqMessage> {
        let queue = queue_of(file)?;
        if !file.is_readable() {
            return Err(Errno::EBADF.into());
        }
        if len < queue.shape().size {
            return Err(Errno::EMSGSIZE.into());
        }
        let now = self.fs_context().clock.now();
        let of = |message: Message| MqMessage { priority: message.priority, text: message.text };
        if let Some(message) = queue.receive(now) {
            return Ok(of(message));
        }
        if Patience::of(file) == Patience::None {
            return Err(Errno::EAGAIN.into());
        }
        let ticket = match queue.wait_to_receive(self.waiter(), now) {
            Ok(ticket) => ticket,
            Err(message) => return Ok(of(message)),
        };
        loop {
            let slept = self.sleep(deadline_ns);
            if let Some(message) = queue.delivered(ticket) {
                return Ok(of(message));
            }
            if let Err(blocked) = slept {
                return queue.give_up_receiving(ticket).map(of).ok_or_else(|| gave_up(blocked));
            }
        }
    }

    /// mq_notify(2); `None` ends the caller's registration. Errors: `EBADF`, `EBUSY`.
    pub fn mq_notify(&self, file: &File, how: Option<Notify>) -> Result<(), Errno> {
        let queue = queue_of(file)?;
        let Some(how) = how else {
            queue.unregister(self.pid());
            return Ok(());
        };
        let registered = Registered { pid: self.pid(), group: Arc::downgrade(self.group()), how };
        queue.register(registered, self.fs_context().clock.now())
    }

    /// mq_getattr(3). Errors: `EBADF`.
    pub fn mq_status(&self, file: &File) -> Result<MqStatus, Errno> {
        let queue = queue_of(file)?;
        let (shape, status) = (queue.shape(), queue.status());
        Ok(MqStatus {
            nonblocking: file.is_nonblocking(),
            max_messages: shape.messages,
            message_size: shape.size,
            messages: status.messages,
        })
    }

    /// Tells a process that a message came, whose registration has ended thereby.
    fn tell(&self, registered: Option<Registered>) {
        let Some(Registered { group, how: Notify::Signal(Some(signal), value), .. }) = registered else { return };
        let Some(group) = group.upgrade() else { return };
        let data = SigData::Queue { pid: self.pid(), uid: self.creds().ruid.0, value };
        self.kernel().send_to_group(&group, SigInfo { signal, code: SI_MESGQ, errno: 0, data }, Origin::Guest);
    }
}

/// What a wait that ended for nothing answers.
fn gave_up(blocked: Blocked) -> crate::error::SysErr {
    match blocked {
        Blocked::TimedOut => Errno::ETIMEDOUT.into(),
        Blocked::Interrupted => blocked.into_restart(),
    }
}
