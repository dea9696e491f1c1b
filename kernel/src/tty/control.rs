//! Controlling terminals, `credentials(7)`, `ioctl_tty(2)`: which terminal a process has, who is in its foreground, and what
//! happens to the others.
//!
//! A process has a terminal ([`ThreadGroup::tty`]), its children inherit it, `setsid` takes it away. A terminal belongs to
//! at most one session, and one process group of that is in the foreground: its [`Seat`]. Both sides change under the lock
//! of the process tree.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use auth::Caps;
use fs::Context;
use fs::vfs::FileOps;
use sync::{LockClass, Mutex};
use usermem::Addr;
use usermem::ptr::UserMemory;

use crate::ids::Pid;
use crate::kernel::Kernel;
use crate::signal::info::SigInfo;
use crate::signal::send::Origin;
use crate::signal::types::Signal;
use crate::task::set::{Session, Tree};
use crate::task::{Thread, ThreadGroup};

const SEAT: LockClass = LockClass::leaf("tty.seat");

/// A terminal that processes may have as their controlling terminal.
pub trait ControllingTty: Send + Sync {
    /// Device number, for `/proc/[pid]/stat`.
    fn device(&self) -> u64;
    /// Whose it is.
    fn seat(&self) -> &Seat;
    /// Opens it as `/dev/tty`.
    fn open(self: Arc<Self>, ctx: &Context<'_>, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno>;
}

/// The session and the foreground process group of a terminal.
pub struct Seat {
    occupant: Mutex<Occupant>,
}

#[derive(Clone, Copy, Default)]
struct Occupant {
    session: Option<Pid>,
    foreground: Option<Pid>,
}

impl Seat {
    /// Nobody's.
    pub fn new() -> Self {
        Self { occupant: Mutex::new(SEAT, Occupant::default()) }
    }

    /// The session whose terminal it is.
    pub fn session(&self) -> Option<Pid> {
        self.occupant.lock().session
    }

    /// The process group in the foreground.
    pub fn foreground(&self) -> Option<Pid> {
        self.occupant.lock().foreground
    }

    fn take(&self, session: Pid, foreground: Pid) {
        *self.occupant.lock() = Occupant { session: Some(session), foreground: Some(foreground) };
    }

    fn set_foreground(&self, group: Pid) {
        self.occupant.lock().foreground = Some(group);
    }

    fn clear(&self) {
        *self.occupant.lock() = Occupant::default();
    }
}

impl Default for Seat {
    fn default() -> Self {
        Self::new()
    }
}

fn is_same(one: &Arc<dyn ControllingTty>, other: &Arc<dyn ControllingTty>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

fn has(group: &ThreadGroup, tty: &Arc<dyn ControllingTty>) -> bool {
    group.tty().is_some_and(|own| is_same(&own, tty))
}

/// Takes the terminal away from all of a session who have it.
fn clear_session(tree: &Tree, session: Pid, tty: &Arc<dyn ControllingTty>) {
    for entry in tree.groups.values().filter(|entry| entry.session.id() == session) {
        if has(&entry.group, tty) {
            entry.group.set_tty(None);
        }
    }
}

/// A process in the background wants to read (`signal` is SIGTTIN), or to print or change the terminal (SIGTTOU): its
/// process group gets the signal and the call is interrupted, `EINTR`. Where the signal could not stop it, it may print but
/// not read (`EIO`); in an orphaned group neither.
pub fn check_background(
    kernel: &Kernel,
    thread: &Thread,
    tty: &Arc<dyn ControllingTty>,
    signal: Signal,
) -> Result<(), Errno> {
    if !has(thread.group(), tty) {
        return Ok(());
    }
    let Some(foreground) = tty.seat().foreground() else { return Ok(()) };
    let Some(own) = kernel.tasks().pgrp_of(thread.pid()) else { return Ok(()) };
    if own == foreground {
        return Ok(());
    }
    let (blocked, _) = thread.signal_sets();
    if blocked.union(thread.group().signal_sets().ignored).contains(signal) {
        return if signal == Signal::TTIN { Err(Errno::EIO) } else { Ok(()) };
    }
    if kernel.tasks().is_orphaned_pgrp(own) {
        return Err(Errno::EIO);
    }
    kernel.signal_pgrp(own, &SigInfo::kernel(signal));
    Err(Errno::EINTR)
}

/// A terminal was opened without O_NOCTTY: it becomes the controlling terminal of a session leader who has none, if it is
/// nobody else's.
pub(super) fn opened(kernel: &Kernel, thread: &Thread, tty: &Arc<dyn ControllingTty>) {
    let group = thread.group();
    if group.tty().is_some() {
        return;
    }
    let tree = kernel.tasks().lock();
    let Ok(entry) = tree.entry(thread.pid()) else { return };
    if entry.session.id() == thread.pid() && group.tty().is_none() && tty.seat().session().is_none() {
        tty.seat().take(thread.pid(), entry.pgrp);
        group.set_tty(Some(Arc::clone(tty)));
    }
}

/// A terminal is gone, or was hung up: its session loses it, and the session's leader hears of it.
pub(super) fn hung_up(kernel: &Kernel, tty: &Arc<dyn ControllingTty>) {
    let leader = {
        let tree = kernel.tasks().lock();
        let Some(session) = tty.seat().session() else { return };
        clear_session(&tree, session, tty);
        let foreground = tty.seat().foreground();
        tty.seat().clear();
        tree.groups.get(&session).filter(|entry| entry.zombie.is_none()).map(|entry| {
            // It hears of it when the leader ends.
            entry.session.set_old_foreground(foreground);
            Arc::clone(&entry.group)
        })
    };
    if let Some(leader) = leader {
        for signal in [Signal::HUP, Signal::CONT] {
            kernel.send_to_group(&leader, SigInfo::kernel(signal), Origin::Kernel);
        }
    }
}

/// Why a session leader and its terminal part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// The leader ended.
    End,
    /// It said so, TIOCNOTTY.
    Wish,
}

impl Kernel {
    /// The leader of `session` has ended: the terminal is nobody's, and who was in the foreground hears of it.
    pub(crate) fn session_ended(&self, leader: &ThreadGroup, session: &Session) {
        match leader.tty() {
            Some(tty) => self.part(session.id(), &tty, Parting::End),
            None => {
                if let Some(group) = session.take_old_foreground() {
                    self.signal_pgrp(group, &SigInfo::kernel(Signal::HUP));
                    self.signal_pgrp(group, &SigInfo::kernel(Signal::CONT));
                }
            }
        }
    }

    fn part(&self, session: Pid, tty: &Arc<dyn ControllingTty>, why: Parting) {
        let foreground = {
            let tree = self.tasks().lock();
            clear_session(&tree, session, tty);
            if tty.seat().session() != Some(session) {
                return;
            }
            let foreground = tty.seat().foreground();
            tty.seat().clear();
            foreground
        };
        if let Some(group) = foreground {
            self.signal_pgrp(group, &SigInfo::kernel(Signal::HUP));
            if why == Parting::Wish {
                self.signal_pgrp(group, &SigInfo::kernel(Signal::CONT));
            }
        }
    }

    /// Makes `tty` the controlling terminal of the command, which leads a session.
    pub(crate) fn give_tty(&self, leader: &ThreadGroup, tty: Arc<dyn ControllingTty>) {
        let tree = self.tasks().lock();
        if let Ok(entry) = tree.entry(leader.pid()) {
            tty.seat().take(entry.session.id(), entry.pgrp);
            leader.set_tty(Some(tty));
        }
    }
}

/// Through which side of a pair a request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Through {
    /// The terminal itself.
    Terminal,
    /// Its master, for which it need not be the caller's controlling terminal.
    Master,
}

/// A request about sessions and process groups.
pub struct JobRequest<'a> {
    /// Our kernel.
    pub kernel: &'a Kernel,
    /// Who asks.
    pub thread: &'a Arc<Thread>,
    /// With which rights.
    pub creds: &'a auth::Creds,
    /// The terminal.
    pub tty: &'a Arc<dyn ControllingTty>,
    /// Where it was asked.
    pub through: Through,
    /// Whether the descriptor can be read from.
    pub readable: bool,
    /// The caller's memory.
    pub mem: &'a dyn UserMemory,
}

impl JobRequest<'_> {
    /// Answers `TIOCGPGRP`, `TIOCSPGRP`, `TIOCGSID`, `TIOCSCTTY` and `TIOCNOTTY`; `None` for other commands.
    pub fn answer(&self, command: u32, argument: u64) -> Option<Result<u64, Errno>> {
        let answer = match command {
            abi::tty::TIOCGPGRP => self.foreground(Addr(argument)),
            abi::tty::TIOCSPGRP => self.set_foreground(Addr(argument)),
            abi::tty::TIOCGSID => self.session(Addr(argument)),
            abi::tty::TIOCSCTTY => self.claim(argument),
            abi::tty::TIOCNOTTY => self.give_up(),
            _ => return None,
        };
        Some(answer.map(|()| 0))
    }

    fn check_ours(&self) -> Result<(), Errno> {
        let ours = self.through == Through::Master || has(self.thread.group(), self.tty);
        if ours { Ok(()) } else { Err(Errno::ENOTTY) }
    }

    fn put(&self, at: Addr, pid: Option<Pid>) -> Result<(), Errno> {
        self.mem.write(at, &pid.map_or(0, Pid::raw).to_ne_bytes())
    }

    fn foreground(&self, at: Addr) -> Result<(), Errno> {
        self.check_ours()?;
        self.put(at, self.tty.seat().foreground())
    }

    fn session(&self, at: Addr) -> Result<(), Errno> {
        self.check_ours()?;
        let session = self.tty.seat().session().ok_or(Errno::ENOTTY)?;
        self.put(at, Some(session))
    }

    fn set_foreground(&self, at: Addr) -> Result<(), Errno> {
        match check_background(self.kernel, self.thread, self.tty, Signal::TTOU) {
            Err(Errno::EIO) => return Err(Errno::ENOTTY),
            other => other?,
        }
        let mut bytes = [0; 4];
        self.mem.read(at, &mut bytes)?;
        let raw = i32::from_ne_bytes(bytes);
        if raw < 0 {
            return Err(Errno::EINVAL);
        }
        let tree = self.kernel.tasks().lock();
        let own = tree.entry(self.thread.pid())?.session.id();
        if !has(self.thread.group(), self.tty) || self.tty.seat().session() != Some(own) {
            return Err(Errno::ENOTTY);
        }
        let group = Pid::from_raw(raw).ok_or(Errno::ESRCH)?;
        // A process that leads no group stands for itself.
        let session = match tree.pgrps.get(&group) {
            Some(pgrp) => pgrp.session.id(),
            None => tree.groups.get(&group).ok_or(Errno::ESRCH)?.session.id(),
        };
        if session != own {
            return Err(Errno::EPERM);
        }
        self.tty.seat().set_foreground(group);
        Ok(())
    }

    fn claim(&self, argument: u64) -> Result<(), Errno> {
        let tree = self.kernel.tasks().lock();
        let (group, pid) = (self.thread.group(), self.thread.pid());
        let entry = tree.entry(pid)?;
        let leads = entry.session.id() == pid;
        let seat = self.tty.seat();
        let holder = seat.session();
        if leads && holder == Some(pid) {
            return Ok(());
        }
        if !leads || group.tty().is_some() {
            return Err(Errno::EPERM);
        }
        let administrator = self.creds.has(Caps::SYS_ADMIN);
        if let Some(holder) = holder {
            if argument != 1 || !administrator {
                return Err(Errno::EPERM);
            }
            clear_session(&tree, holder, self.tty);
        }
        if !self.readable && !administrator {
            return Err(Errno::EPERM);
        }
        seat.take(pid, entry.pgrp);
        group.set_tty(Some(Arc::clone(self.tty)));
        Ok(())
    }

    fn give_up(&self) -> Result<(), Errno> {
        let group = self.thread.group();
        if !has(group, self.tty) {
            return Err(Errno::ENOTTY);
        }
        let session = self.kernel.tasks().session_of(self.thread.pid()).ok_or(Errno::ENOTTY)?;
        if session.id() == self.thread.pid() {
            self.kernel.part(session.id(), self.tty, Parting::Wish);
        }
        group.set_tty(None);
        Ok(())
    }
}
