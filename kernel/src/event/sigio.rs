//! SIGIO: while a file has `O_ASYNC`, its owner gets a signal when something happens to it (fcntl(2), "Managing signals").
//!
//! A [`Notifier`] is registered at the file's queue, so files without `O_ASYNC` pay nothing. Queues are woken deep inside of
//! operations, where no signal can be sent: the notifier notes what happened, and the task whose call it was sends the
//! signals when its call is over ([`Work::TIDINGS`]) or before it sleeps. Who wakes without being such a task leaves it to the
//! timer thread.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::fs::{F_OWNER_PGRP, F_OWNER_PID, F_OWNER_TID, OpenFlags};
use abi::signal::{POLL_HUP, POLL_IN, POLL_OUT, SI_SIGIO};
use auth::{Creds, Uid};
use fs::vfs::File;
use waiter::{EventMask, Waiter};

use stops::Work;

use crate::ids::{Pid, Tid};
use crate::kernel::Kernel;
use crate::signal::info::{SigData, SigInfo};
use crate::signal::send::{Origin, Sent};
use crate::signal::types::Signal;
use crate::task::{Task, Thread, ThreadGroup};
use crate::time::thread::TimerTarget;

/// What is told, in this order: the event, its `si_code`, the bits of its `si_band`.
const BANDS: [(EventMask, i32, EventMask); 3] = [
    (EventMask::IN, POLL_IN, EventMask::READABLE),
    (EventMask::OUT, POLL_OUT, EventMask::WRITABLE.union(EventMask::WRBAND)),
    (EventMask::HUP, POLL_HUP, EventMask::HUP.union(EventMask::ERR)),
];

/// Whom `F_SETOWN` or `F_SETOWN_EX` named, and who did.
struct Owner {
    who: Who,
    /// The number as given; 0 names nobody.
    id: i32,
    /// Of who named it: what may be signalled is decided by these, whoever makes the event.
    ruid: Uid,
    euid: Uid,
}

/// Numbers are given again; who was meant is not.
enum Who {
    Thread(Weak<Thread>),
    Process(Weak<ThreadGroup>),
    Group(Pid),
}

impl Owner {
    /// `F_OWNER_*`.
    fn kind(&self) -> i32 {
        match self.who {
            Who::Thread(_) => F_OWNER_TID,
            Who::Process(_) => F_OWNER_PID,
            Who::Group(_) => F_OWNER_PGRP,
        }
    }

    /// The thread, while it has the number that it was named by.
    fn thread(&self, weak: &Weak<Thread>) -> Option<Arc<Thread>> {
        weak.upgrade().filter(|thread| thread.tid().raw() == self.id && !thread.is_ending())
    }

    fn exists(&self, kernel: &Kernel) -> bool {
        match &self.who {
            Who::Thread(weak) => self.thread(weak).is_some(),
            Who::Process(weak) => weak
                .upgrade()
                .is_some_and(|group| kernel.tasks().group(group.pid()).is_some_and(|now| Arc::ptr_eq(&now, &group))),
            Who::Group(pgrp) => !kernel.tasks().lock().members(*pgrp).is_empty(),
        }
    }

    /// fcntl(2): as kill(2) would for who named it, but root counts by its effective id and not by a capability.
    fn may_signal(&self, target: &Creds) -> bool {
        let equal = |uid| uid == target.suid || uid == target.ruid;
        self.euid == Uid::ROOT || equal(self.euid) || equal(self.ruid)
    }

    /// Sends `info`, or SIGIO without details where that is not given or has no room.
    fn signal(&self, kernel: &Kernel, info: Option<&SigInfo>) {
        match &self.who {
            Who::Thread(weak) => {
                if let Some(thread) = self.thread(weak) {
                    self.signal_one(&thread.creds(), info, |info| kernel.send_to_thread(&thread, info, Origin::Guest));
                }
            }
            Who::Process(weak) => {
                if let Some(group) = weak.upgrade() {
                    self.signal_group(kernel, &group, info);
                }
            }
            Who::Group(pgrp) => {
                let members = kernel.tasks().lock().members(*pgrp);
                members.iter().for_each(|group| self.signal_group(kernel, group, info));
            }
        }
    }

    fn signal_group(&self, kernel: &Kernel, group: &Arc<ThreadGroup>, info: Option<&SigInfo>) {
        let creds = kernel.tasks().lock().entry(group.pid()).ok().map(|entry| entry.leader.creds());
        if let Some(creds) = creds {
            self.signal_one(&creds, info, |info| kernel.send_to_group(group, info, Origin::Guest));
        }
    }

    fn signal_one(&self, target: &Creds, info: Option<&SigInfo>, send: impl Fn(SigInfo) -> Sent) {
        if !self.may_signal(target) {
            return;
        }
        if info.is_none_or(|info| send(info.clone()) == Sent::NoRoom) {
            send(SigInfo::kernel(Signal::IO));
        }
    }
}

/// What tells the owner of one file.
struct Notifier {
    kernel: Weak<Kernel>,
    file: Weak<File>,
    me: Weak<Self>,
    /// The descriptor that `O_ASYNC` was set by.
    fd: i32,
    /// What happened and was not told yet; not empty while it is due.
    events: AtomicU32,
}

impl Waiter for Notifier {
    fn wake(&self, events: EventMask) {
        // Pairs with the swap in `tell`: who finds nothing under way sends it on its way.
        if self.events.fetch_or(events.bits(), Ordering::AcqRel) == 0
            && let Err(me) = put_off(&self.me)
            && let Some(kernel) = self.kernel.upgrade()
        {
            kernel.timers().arm(0, me, 0);
        }
    }
}

impl TimerTarget for Notifier {
    fn expired(&self, _token: u64, _now_ns: u64) {
        self.tell();
    }
}

impl Notifier {
    fn tell(&self) {
        // Pairs with `wake`.
        let events = EventMask::from_bits_truncate(self.events.swap(0, Ordering::AcqRel));
        let (Some(kernel), Some(file)) = (self.kernel.upgrade(), self.file.upgrade()) else { return };
        let told = file.ops().to_tell(events);
        let Some(owner) = file.owner::<Owner>() else { return };
        for (_, code, band) in BANDS.into_iter().filter(|(event, ..)| told.contains(*event)) {
            let info = Signal::new(file.owner_signal()).map(|signal| SigInfo {
                signal,
                code: if has_codes_of_its_own(signal) { SI_SIGIO } else { code },
                errno: 0,
                data: SigData::Poll { band: i64::from(band.bits()), fd: self.fd },
            });
            owner.signal(&kernel, info.as_ref());
        }
    }
}

/// Signals whose `si_code` would be taken for something else; SIGIO's are these.
fn has_codes_of_its_own(signal: Signal) -> bool {
    use Signal as S;
    [S::ILL, S::FPE, S::SEGV, S::BUS, S::TRAP, S::CHLD, S::SYS].contains(&signal)
}

/// The task that this host thread runs, and what it has to tell.
struct Here {
    thread: Arc<Thread>,
    due: Vec<Weak<Notifier>>,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// Leaves it to the task of this thread, if it is in the kernel; else gives it back.
fn put_off(notifier: &Weak<Notifier>) -> Result<(), Weak<Notifier>> {
    let put_off = HERE.try_with(|here| {
        let Ok(mut here) = here.try_borrow_mut() else { return false };
        // In guest code, or about to be there, it would not look for a while.
        let Some(here) = here.as_mut().filter(|here| !here.thread.attention().is_in_guest()) else { return false };
        here.due.push(Weak::clone(notifier));
        here.thread.attention().set_work(Work::TIDINGS);
        true
    });
    if put_off == Ok(true) { Ok(()) } else { Err(Weak::clone(notifier)) }
}

/// This host thread runs `thread` from here on: it sends what its calls have to tell.
pub(crate) fn begin(thread: &Arc<Thread>) {
    HERE.set(Some(Here { thread: Arc::clone(thread), due: Vec::new() }));
}

/// This host thread's task ends; what is to tell from here on is told by the timer thread.
pub(crate) fn end() {
    tell();
    HERE.set(None);
}

/// Sends what this host thread's task has to tell. No lock may be held.
pub(crate) fn tell() {
    let due = HERE.with_borrow_mut(|here| {
        let here = here.as_mut().filter(|here| !here.due.is_empty())?;
        here.thread.attention().clear_work(Work::TIDINGS);
        Some(std::mem::take(&mut here.due))
    });
    for notifier in due.into_iter().flatten() {
        if let Some(notifier) = notifier.upgrade() {
            notifier.tell();
        }
    }
}

impl Task {
    /// `F_SETOWN_EX`: whom (`F_OWNER_*`) to signal for `file`; nobody where `id` is 0. `ESRCH` where there is no such one.
    pub fn set_file_owner(&self, file: &File, kind: i32, id: i32) -> Result<(), Errno> {
        let owner = self.file_owner(kind, id)?;
        file.set_owner(Arc::new(owner));
        Ok(())
    }

    /// `F_SETOWN`: a process, or a process group where `id` is negative.
    pub fn set_file_owner_by_id(&self, file: &File, id: i32) -> Result<(), Errno> {
        let kind = if id < 0 { F_OWNER_PGRP } else { F_OWNER_PID };
        self.set_file_owner(file, kind, id.checked_abs().ok_or(Errno::EINVAL)?)
    }

    fn file_owner(&self, kind: i32, id: i32) -> Result<Owner, Errno> {
        let tree = self.kernel().tasks().lock();
        let thread = match Tid::from_raw(id) {
            _ if id < 0 => return Err(Errno::ESRCH),
            None => None,
            Some(tid) => match tree.threads.get(&tid) {
                None if kind == F_OWNER_PGRP && tree.pgrps.contains_key(&tid.as_pid()) => None,
                found => Some(found.ok_or(Errno::ESRCH)?),
            },
        };
        let who = match kind {
            F_OWNER_TID => Who::Thread(thread.map(Arc::downgrade).unwrap_or_default()),
            F_OWNER_PID => Who::Process(thread.map(|thread| Arc::downgrade(thread.group())).unwrap_or_default()),
            F_OWNER_PGRP => Who::Group(Pid(id.unsigned_abs())),
            _ => return Err(Errno::EINVAL),
        };
        Ok(Owner { who, id, ruid: self.creds().ruid, euid: self.creds().euid })
    }

    /// `F_GETOWN_EX`: whom (`F_OWNER_*`, number) `file` signals; number 0 if nobody, or nobody any more.
    pub fn owner_of_file(&self, file: &File) -> (i32, i32) {
        match file.owner::<Owner>() {
            None => (F_OWNER_TID, 0),
            Some(owner) => (owner.kind(), if owner.exists(self.kernel()) { owner.id } else { 0 }),
        }
    }

    /// `F_GETOWNER_UIDS`: real and effective user of who named the owner.
    pub fn owner_uids_of_file(&self, file: &File) -> [u32; 2] {
        file.owner::<Owner>().map_or([0; 2], |owner| [owner.ruid.0, owner.euid.0])
    }

    /// Sets `O_ASYNC` of `file`, by its descriptor `fd`, as it is in `flags`. `ENOTTY` when that would be a change and no
    /// signals come of such a file.
    pub fn set_async(&self, fd: i32, file: &Arc<File>, flags: OpenFlags) -> Result<(), Errno> {
        if flags.contains(OpenFlags::O_ASYNC)
            && let Some(foreground) = crate::tty::foreground_of(file)
        {
            // A terminal's: its foreground process group, or who asks.
            let (kind, id) = foreground.map_or((F_OWNER_PID, self.pid().raw()), |pgrp| (F_OWNER_PGRP, pgrp.raw()));
            file.set_owner_if_none(Arc::new(self.file_owner(kind, id)?));
        }
        file.set_async(flags, || {
            Arc::new_cyclic(|me| Notifier {
                kernel: Arc::downgrade(self.kernel()),
                file: Arc::downgrade(file),
                me: Weak::clone(me),
                fd,
                events: AtomicU32::new(0),
            })
        })
    }
}
