//! Message queues: `msgget(2)`, `msgop(2)`, `msgctl(2)`.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::Errno;
use auth::{Caps, Creds};
use sync::Mutex;
use waiter::{EventMask, WaitQueue};

use super::perm::{Change, Existing, Perm, Wanted};
use super::sem::Waiting;
use super::table::{Named, Object, Settings, Table};
use crate::error::{Restart, SysErr, SysResult};
use crate::ids::Pid;
use crate::lock::IPC;
use crate::task::{Blocked, Task};

/// Most queues.
pub const MSGMNI: usize = 32_000;
/// Longest message, bytes.
pub const MSGMAX: usize = 8192;
/// Bytes that a new queue holds.
pub const MSGMNB: u64 = 16_384;
/// Bytes that all queues hold; with what each message costs us.
const ALL_BYTES: usize = 64 << 20;
/// What a message costs beyond its text.
const OVERHEAD: usize = 64;

/// Which message is received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Select {
    /// The first.
    First,
    /// The first of this type.
    Type(i64),
    /// The first of another type (`MSG_EXCEPT`).
    Except(i64),
    /// The first of the lowest type up to this.
    UpTo(i64),
    /// The one at this place, which stays (`MSG_COPY`).
    Copy(i64),
}

/// What happens to a message that is longer than the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortening {
    /// It stays: `E2BIG`.
    Refused,
    /// It is cut (`MSG_NOERROR`).
    Allowed,
}

/// A message that was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// Its type.
    pub kind: i64,
    /// Its text, not longer than the buffer.
    pub text: Vec<u8>,
}

struct Message {
    kind: i64,
    text: Vec<u8>,
}

/// What `msgctl(2)` tells of a queue.
#[derive(Clone, Copy, Debug)]
pub struct MessageQueue {
    /// Owner and permissions.
    pub perm: Perm,
    /// When a message was last sent.
    pub send_time: i64,
    /// When one was last received.
    pub receive_time: i64,
    /// When it was last changed.
    pub change_time: i64,
    /// Bytes in it.
    pub bytes: u64,
    /// Messages in it.
    pub messages: u64,
    /// Bytes that it holds at most.
    pub limit: u64,
    /// Who sent last.
    pub last_sender: Option<Pid>,
    /// Who received last.
    pub last_receiver: Option<Pid>,
}

/// What all queues are together.
#[derive(Clone, Copy, Debug)]
pub struct QueueTotals {
    /// How many there are.
    pub used: i32,
    /// Their messages.
    pub messages: i32,
    /// The bytes of these.
    pub bytes: i32,
    /// Index of the last one.
    pub last_index: i32,
}

struct Queue {
    info: MessageQueue,
    messages: VecDeque<Message>,
    /// Woken for readers when a message comes, for writers when one goes, for both when the queue does.
    changed: Arc<WaitQueue>,
}

impl Object for Queue {
    fn perm(&self) -> &Perm {
        &self.info.perm
    }
}

impl Queue {
    /// Where the message is that `select` means.
    fn position(&self, select: Select) -> Option<usize> {
        match select {
            Select::First => (!self.messages.is_empty()).then_some(0),
            Select::Type(kind) => self.messages.iter().position(|m| m.kind == kind),
            Select::Except(kind) => self.messages.iter().position(|m| m.kind != kind),
            // Of equal types the first.
            Select::UpTo(kind) => {
                let fitting = self.messages.iter().enumerate().filter(|(_, m)| m.kind <= kind);
                fitting.min_by_key(|(at, m)| (m.kind, *at)).map(|(at, _)| at)
            }
            Select::Copy(at) => usize::try_from(at).ok().filter(|&at| at < self.messages.len()),
        }
    }
}

struct State {
    queues: Table<Queue>,
    /// Bytes of all messages, with [`OVERHEAD`] each.
    cost: usize,
}

/// All message queues.
pub struct Queues {
    state: Mutex<State>,
}

impl Queues {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(IPC, State { queues: Table::new(MSGMNI), cost: 0 }) }
    }

    /// Most queues that there may be.
    pub fn limit(&self) -> usize {
        self.with_settings(|table| table.limit())
    }

    /// What belongs to all of them, for their settings.
    pub(super) fn with_settings<R>(&self, then: impl FnOnce(&mut dyn Settings) -> R) -> R {
        then(&mut self.state.lock().queues)
    }

    /// What is told of the queue in a slot; without `creds`, whoever asks. Errors: `EINVAL`, `EACCES`.
    pub fn info_at(&self, index: i32, creds: Option<&Creds>) -> Result<Named<MessageQueue>, Errno> {
        let mut state = self.state.lock();
        let (id, queue) = state.queues.at(index)?;
        if let Some(creds) = creds {
            queue.info.perm.check(creds, Wanted::Read)?;
        }
        Ok(Named { id, info: queue.info })
    }

    /// All of them, for `/proc/sysvipc/msg`.
    pub fn list(&self) -> Vec<Named<MessageQueue>> {
        self.state.lock().queues.iter().map(|(id, queue)| Named { id, info: queue.info }).collect()
    }

    /// Sums.
    pub fn totals(&self) -> QueueTotals {
        let state = self.state.lock();
        let number = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
        QueueTotals {
            used: i32::try_from(state.queues.len()).unwrap_or(i32::MAX),
            messages: number(state.queues.iter().map(|(_, queue)| queue.info.messages).sum()),
            bytes: number(state.queues.iter().map(|(_, queue)| queue.info.bytes).sum()),
            last_index: state.queues.last_index(),
        }
    }

    fn with<T>(&self, id: i32, act: impl FnOnce(&mut Queue) -> Result<T, Errno>) -> Result<T, Errno> {
        act(self.state.lock().queues.get(id)?)
    }

    fn queue_of(&self, id: i32, creds: &Creds, wanted: Wanted) -> Result<Arc<WaitQueue>, Errno> {
        self.with(id, |queue| {
            queue.info.perm.check(creds, wanted)?;
            Ok(Arc::clone(&queue.changed))
        })
    }

    /// Puts a message in; `None` while there is no room. Errors: `EIDRM`, `ENOMEM`, `EAGAIN`.
    fn send(
        &self,
        id: i32,
        changed: &Arc<WaitQueue>,
        message: &mut Option<Message>,
        pid: Pid,
        now: i64,
    ) -> Attempt<()> {
        let mut state = self.state.lock();
        let cost = state.cost;
        let Some(queue) = state.queues.get(id).ok().filter(|queue| Arc::ptr_eq(&queue.changed, changed)) else {
            return Attempt::Failed(Errno::EIDRM);
        };
        let Some(Message { text, .. }) = message else { return Attempt::Done(()) };
        let len = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let own = text.len().saturating_add(OVERHEAD);
        if queue.info.bytes.saturating_add(len) > queue.info.limit || queue.info.messages + 1 > queue.info.limit {
            return Attempt::Later;
        }
        if cost.saturating_add(own) > ALL_BYTES {
            return Attempt::Failed(Errno::ENOMEM);
        }
        queue.info.bytes += len;
        queue.info.messages += 1;
        queue.info.send_time = now;
        queue.info.last_sender = Some(pid);
        queue.messages.extend(message.take());
        queue.changed.wake(EventMask::READABLE);
        state.cost = cost.saturating_add(own);
        Attempt::Done(())
    }

    /// Takes a message out, or copies it.
    fn receive(&self, id: i32, changed: &Arc<WaitQueue>, wish: Wish, pid: Pid, now: i64) -> Attempt<Copied> {
        let mut state = self.state.lock();
        let Some(queue) = state.queues.get(id).ok().filter(|queue| Arc::ptr_eq(&queue.changed, changed)) else {
            return Attempt::Failed(Errno::EIDRM);
        };
        let Some(at) = queue.position(wish.select) else { return Attempt::Later };
        let Some(found) = queue.messages.get(at) else { return Attempt::Later };
        if found.text.len() > wish.max && wish.shortening == Shortening::Refused {
            return Attempt::Failed(Errno::E2BIG);
        }
        if let Select::Copy(_) = wish.select {
            let text = found.text.get(..wish.max.min(found.text.len())).unwrap_or_default().to_vec();
            return Attempt::Done(Copied { kind: found.kind, text });
        }
        let Some(Message { kind, mut text }) = queue.messages.remove(at) else { return Attempt::Later };
        queue.info.bytes = queue.info.bytes.saturating_sub(u64::try_from(text.len()).unwrap_or(0));
        queue.info.messages = queue.info.messages.saturating_sub(1);
        queue.info.receive_time = now;
        queue.info.last_receiver = Some(pid);
        queue.changed.wake(EventMask::WRITABLE);
        state.cost = state.cost.saturating_sub(text.len().saturating_add(OVERHEAD));
        text.truncate(wish.max);
        Attempt::Done(Copied { kind, text })
    }
}

/// What became of one attempt to send or receive.
enum Attempt<T> {
    Done(T),
    /// It has to wait.
    Later,
    Failed(Errno),
}

impl<T> Attempt<T> {
    /// As [`Task::wait_until`] asks; `busy` is what one says who does not wait.
    fn answer(self, waiting: Waiting, busy: Errno) -> Option<Result<T, Errno>> {
        match self {
            Self::Done(value) => Some(Ok(value)),
            Self::Failed(error) => Some(Err(error)),
            Self::Later if waiting == Waiting::Refused => Some(Err(busy)),
            Self::Later => None,
        }
    }
}

/// What a receiver wants.
#[derive(Clone, Copy, Debug)]
struct Wish {
    select: Select,
    max: usize,
    shortening: Shortening,
}

/// What an interrupted wait answers: signal(7) says that it is never restarted by `SA_RESTART`, but it is when no
/// handler ran.
fn interrupted(_: Blocked) -> SysErr {
    SysErr::Restart(Restart::NoHand)
}

impl Task {
    fn queues(&self) -> &Queues {
        self.kernel().ipc().msg()
    }

    /// msgget(2). Errors: `ENOENT`, `EEXIST`, `EACCES`, `ENOSPC`.
    pub fn msg_get(&self, key: i32, existing: Existing, mode: u32) -> Result<i32, Errno> {
        let now = super::now(self.kernel());
        let mut state = self.queues().state.lock();
        if let Some(id) = state.queues.find(key, existing, mode, self.creds(), |_| true)? {
            return Ok(id);
        }
        state.queues.insert(|_| Queue {
            info: MessageQueue {
                perm: Perm::new(key, mode, self.creds()),
                send_time: 0,
                receive_time: 0,
                change_time: now,
                bytes: 0,
                messages: 0,
                limit: MSGMNB,
                last_sender: None,
                last_receiver: None,
            },
            messages: VecDeque::new(),
            changed: Arc::new(WaitQueue::new()),
        })
    }

    /// msgsnd(2). Errors: `EINVAL`, `EACCES`, `EAGAIN`, `EIDRM`, `EINTR`, `ENOMEM`.
    pub fn msg_send(&mut self, id: i32, kind: i64, text: Vec<u8>, waiting: Waiting) -> SysResult<()> {
        if kind < 1 || text.len() > MSGMAX {
            return Err(Errno::EINVAL.into());
        }
        let changed = self.queues().queue_of(id, self.creds(), Wanted::Write)?;
        let mut message = Some(Message { kind, text });
        let sent = self.wait_until(&changed, EventMask::WRITABLE, None, |task| {
            let (pid, now) = (task.pid(), super::now(task.kernel()));
            task.queues().send(id, &changed, &mut message, pid, now).answer(waiting, Errno::EAGAIN)
        });
        Ok(sent.map_err(interrupted)??)
    }

    /// msgrcv(2), at most `max` bytes. Errors: `EINVAL`, `EACCES`, `E2BIG`, `ENOMSG`, `EIDRM`, `EINTR`.
    pub fn msg_receive(
        &mut self,
        id: i32,
        max: usize,
        select: Select,
        shortening: Shortening,
        waiting: Waiting,
    ) -> SysResult<Copied> {
        let changed = self.queues().queue_of(id, self.creds(), Wanted::Read)?;
        let wish = Wish { select, max, shortening };
        let received = self.wait_until(&changed, EventMask::READABLE, None, |task| {
            let (pid, now) = (task.pid(), super::now(task.kernel()));
            task.queues().receive(id, &changed, wish, pid, now).answer(waiting, Errno::ENOMSG)
        });
        Ok(received.map_err(interrupted)??)
    }

    /// `IPC_STAT`. Errors: `EINVAL`, `EACCES`.
    pub fn msg_info(&self, id: i32) -> Result<MessageQueue, Errno> {
        self.queues().with(id, |queue| {
            queue.info.perm.check(self.creds(), Wanted::Read)?;
            Ok(queue.info)
        })
    }

    /// `IPC_SET`, with the bytes that the queue shall hold. Errors: `EINVAL`, `EPERM`.
    pub fn msg_change(&self, id: i32, change: &Change, limit: u64) -> Result<(), Errno> {
        let now = super::now(self.kernel());
        self.queues().with(id, |queue| {
            queue.info.perm.check_owner(self.creds())?;
            if limit > MSGMNB && !self.creds().has(Caps::SYS_RESOURCE) {
                return Err(Errno::EPERM);
            }
            queue.info.perm.change(change);
            queue.info.limit = limit;
            queue.info.change_time = now;
            queue.changed.wake(EventMask::all());
            Ok(())
        })
    }

    /// `IPC_RMID`: who waits gets `EIDRM`. Errors: `EINVAL`, `EPERM`.
    pub fn msg_remove(&self, id: i32) -> Result<(), Errno> {
        let mut state = self.queues().state.lock();
        state.queues.get(id)?.info.perm.check_owner(self.creds())?;
        let queue = state.queues.remove(id)?;
        let cost: usize = queue.messages.iter().map(|m| m.text.len().saturating_add(OVERHEAD)).sum();
        state.cost = state.cost.saturating_sub(cost);
        queue.changed.wake(EventMask::all());
        Ok(())
    }
}
