//! How the kernel waits for a stub thread and lets it go: by the word in the shared line ([`crate::line`]) while both
//! sides watch it; asleep by seccomp notification, or by futex where the host gives no listeners.
//!
//! The word lies in memory that the guest can write. It can claim to have handed over while it runs on: then the kernel
//! reads registers that mean nothing, which is the guest's own loss; what it may reach is decided by the memory thread,
//! whose answers no thread of the guest can send.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use smallvec::SmallVec;

use crate::cores::{Cores, Seat};
use crate::host::{self, Affinity, Gone, Listener, Notification};
use crate::layout::line as at;
use crate::line::{self, Futex, Seen, Wait, Word};
use crate::machine::Machine;
use crate::pace::{Pace, Plan, ticks};
use crate::process::Process;

/// How long a thread that should sleep may take to do so. One that has lost its core to others may need a while.
const SETTLING_MS: i32 = 20;
/// How long a thread may take to forget its guest.
const RENEWING_MS: i32 = 1000;
/// The answer to a hand-over that sends the thread to `renew`; all others are 0.
const RENEW: i64 = 1;

/// Why a thread did not hand over again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lost {
    /// It is dead.
    Gone,
    /// Its line says what no honest stub writes.
    Nonsense,
}

impl From<Gone> for Lost {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

struct State<'a>(&'a AtomicU32);

impl Word for State<'_> {
    fn load(&self) -> u32 {
        // Pairs with the stub's CAS and store: we see the registers that it wrote.
        self.0.load(Ordering::Acquire)
    }

    fn cas(&self, old: u32, new: u32) -> Result<(), u32> {
        // Pairs with the stub's operations, in both directions.
        self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }

    fn store(&self, value: u32) {
        // Pairs with the stub's load: it sees the registers that we wrote.
        self.0.store(value, Ordering::Release);
    }
}

/// The word of a thread of a process, to sleep at.
struct Bed<'a> {
    state: State<'a>,
    process: &'a Process,
}

impl Word for Bed<'_> {
    fn load(&self) -> u32 {
        self.state.load()
    }

    fn cas(&self, old: u32, new: u32) -> Result<(), u32> {
        self.state.cas(old, new)
    }

    fn store(&self, value: u32) {
        self.state.store(value);
    }
}

impl Futex for Bed<'_> {
    fn fence(&self) {
        // Pairs with itself in the other thread.
        fence(Ordering::SeqCst);
    }

    fn is_dead(&self) -> bool {
        self.process.is_dead()
    }

    fn wait(&self, value: u32) {
        host::futex_wait(self.state.0, value);
    }

    fn wake(&self) {
        host::futex_wake(self.state.0);
    }
}

/// Tells the kernel thread of the slab at `slab` that `process`, marked dead, will not hand over again.
pub(crate) fn bury(machine: &Machine, process: &Process, slab: u64) {
    line::bury(&Bed { state: State(machine.slabs.atomic_u32(slab + at::STATE)), process });
}

/// A notification that waits for our answer.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: u64,
    /// Where the thread will go on.
    at: u64,
}

impl From<Notification> for Waiting {
    fn from(notification: Notification) -> Self {
        Self { id: notification.id, at: notification.instruction_pointer }
    }
}

/// How a sleeping side is woken.
#[derive(Debug)]
enum Bell {
    /// The thread's listener, and the notification that waits for our answer.
    Notify { listener: Listener, pending: Option<Waiting> },
    /// The thread's process, to see it die.
    Futex { process: Arc<Process> },
}

/// The kernel's end of an application thread.
#[derive(Debug)]
pub(crate) struct Handover {
    bell: Bell,
    pace: Pace,
    /// CPU to which the thread was last bound, where wake-ups are not synchronous.
    bound: Option<i32>,
}

impl Handover {
    /// Of a new thread with its listener, or, where there are none, of `process`.
    pub(crate) fn new(listener: Option<Listener>, process: &Arc<Process>, cores: &Cores) -> Self {
        let bell = match listener {
            Some(listener) => Bell::Notify { listener, pending: None },
            None => Bell::Futex { process: Arc::clone(process) },
        };
        Self { bell, pace: Pace::new(cores), bound: None }
    }

    /// Waits until a new thread has handed over for the first time. Returns its thread id when the host tells.
    pub(crate) fn first(&mut self, machine: &Machine, slab: u64) -> Result<Option<i32>, Lost> {
        if let Bell::Notify { listener, pending } = &mut self.bell {
            let notification = listener.receive()?;
            *pending = Some(notification.into());
            return Ok(Some(notification.pid as i32));
        }
        self.sleep(&State(machine.slabs.atomic_u32(slab + at::STATE)))?;
        Ok(None)
    }

    /// Forgets the past of a thread that gets a new context.
    pub(crate) fn renew(&mut self, cores: &Cores) {
        log::debug!("hand-overs: {:?}", self.pace.tally);
        self.pace = Pace::new(cores);
    }

    /// Whether the thread, which has no context, is known to wait in its hand-over: the host says so, and that it will go on
    /// at `handed`. Then nothing but our answer moves it, for a thread that no kick is on its way to.
    pub(crate) fn settle(&mut self, machine: &Machine, slab: u64, handed: u64) -> bool {
        let Bell::Notify { listener, pending } = &mut self.bell else { return false };
        if pending.is_none() {
            rest(machine, slab);
            if listener.has_request(SETTLING_MS) {
                *pending = listener.receive().ok().map(Waiting::from);
            }
        }
        pending.is_some_and(|waiting| waiting.at == handed)
    }

    /// Has a settled thread forget its guest; returns when it has handed over again at `handed`. `Err`: it was not there, or
    /// is not now.
    pub(crate) fn restart(&mut self, handed: u64) -> Result<(), Lost> {
        let Bell::Notify { listener, pending } = &mut self.bell else { return Err(Lost::Nonsense) };
        let Some(Waiting { id, .. }) = pending.take() else { return Err(Lost::Nonsense) };
        if !listener.answer(id, RENEW)? {
            return Err(Lost::Nonsense);
        }
        // Nobody waits longer for a thread that should be back at once.
        if !listener.has_request(RENEWING_MS) {
            return Err(Lost::Nonsense);
        }
        let next = Waiting::from(listener.receive()?);
        *pending = Some(next);
        if next.at == handed { Ok(()) } else { Err(Lost::Nonsense) }
    }

    /// The guest is about to make many calls.
    pub(crate) fn expect_calls(&mut self) {
        self.pace.expect_calls();
    }

    /// What the thread will do next is for us, not for the guest.
    pub(crate) fn on_errand(&mut self) {
        self.pace.on_errand();
    }

    /// Lets the thread go, and waits until it hands over again; `idle` is called before that wait becomes a sleep.
    pub(crate) fn run(
        &mut self,
        machine: &Machine,
        slab: u64,
        tid: i32,
        seat: &Seat,
        idle: &mut dyn FnMut(),
    ) -> Result<(), Lost> {
        let cores = &machine.cores;
        let word = State(machine.slabs.atomic_u32(slab + at::STATE));
        let mut plan = self.pace.plan(seat, cores);
        if plan == Plan::Wait {
            idle();
            line::rest(&word);
            plan = self.pace.wait(seat, cores);
        }
        let wait = |plan: Plan| if matches!(plan, Plan::Begin | Plan::Watch) { Wait::Spin } else { Wait::Sleep };
        if self.bell.is_silent() && line::answer(&word, wait(plan)) {
            self.pace.answered();
        } else {
            if plan == Plan::Watch {
                // The stub has lost patience: this call was not one to wait for.
                plan = self.pace.late(seat, cores);
            }
            self.wake(&word, wait(plan), plan, machine, tid)?;
        }
        if plan != Plan::Sleep {
            match self.pace.watch(cores, || Some(line::seen(word.load())).filter(|seen| *seen != Seen::App)) {
                Ok(seen) => {
                    return self.requested(seen, machine, seat);
                }
                Err(ended) => {
                    self.pace.stop(seat, cores, ended, ticks());
                    let seen = line::give_up(&word);
                    if seen != Seen::App {
                        return self.requested(seen, machine, seat);
                    }
                }
            }
        }
        idle();
        let seen = self.sleep(&word)?;
        self.requested(seen, machine, seat)
    }

    fn requested(&mut self, seen: Seen, machine: &Machine, seat: &Seat) -> Result<(), Lost> {
        self.pace.requested(seat, &machine.cores);
        match (seen, &self.bell) {
            (Seen::Impossible, Bell::Futex { process }) if process.is_dead() => Err(Lost::Gone),
            (Seen::Impossible, _) => Err(Lost::Nonsense),
            _ => Ok(()),
        }
    }

    /// Answers a stub that sleeps or is about to.
    fn wake(&mut self, word: &State<'_>, wait: Wait, plan: Plan, machine: &Machine, tid: i32) -> Result<(), Lost> {
        if let Bell::Notify { listener, pending } = &mut self.bell
            && pending.is_none()
        {
            *pending = Some(listener.receive()?.into());
        }
        // Looked at each time: whoever changes it for the sandbox changes it for all its threads.
        let affinity = (plan == Plan::Begin).then(Affinity::of_this_thread);
        if let Some(affinity) = &affinity {
            machine.cores.note(affinity.count());
            // Woken here, it would wait for the core that we are about to watch on.
            affinity.send_away(tid);
            self.bound = None;
        } else if !self.bell.is_sync() {
            self.follow(tid);
        }
        line::release(word, wait);
        self.pace.answered();
        match &mut self.bell {
            Bell::Notify { listener, pending } => {
                // A kick may have withdrawn it; then the stub looks at the word by itself, or comes to sleep again.
                if let Some(Waiting { id, .. }) = pending.take() {
                    listener.resume(id)?;
                }
            }
            Bell::Futex { .. } => host::futex_wake(word.0),
        }
        if let Some(affinity) = &affinity {
            affinity.let_go(tid);
        }
        Ok(())
    }

    /// Sleeps until there is a request.
    fn sleep(&mut self, word: &State<'_>) -> Result<Seen, Lost> {
        match &mut self.bell {
            Bell::Notify { listener, pending } => loop {
                let notification = listener.receive()?;
                match line::seen(word.load()) {
                    // It went to sleep over an answer that it had not seen.
                    Seen::App => listener.resume(notification.id).map(drop)?,
                    seen => {
                        *pending = Some(notification.into());
                        return Ok(seen);
                    }
                }
            },
            Bell::Futex { process } => line::sleep(&Bed { state: State(word.0), process }).ok_or(Lost::Gone),
        }
    }

    /// Hosts before 6.6 wake the partner on another CPU, which costs ten times the switch: bind it to ours.
    fn follow(&mut self, tid: i32) {
        let cpu = host::current_cpu();
        if cpu >= 0 && Some(cpu) != self.bound {
            self.bound = Some(cpu);
            host::bind(tid, cpu);
        }
    }
}

impl Bell {
    /// No notification waits for our answer.
    fn is_silent(&self) -> bool {
        !matches!(self, Self::Notify { pending: Some(_), .. })
    }

    /// Whether the partner wakes on the CPU that its waker runs on.
    fn is_sync(&self) -> bool {
        match self {
            Self::Notify { listener, .. } => listener.is_sync(),
            Self::Futex { .. } => false,
        }
    }
}

/// Tells a stub that watches for an answer that none will come soon.
pub(crate) fn rest(machine: &Machine, slab: u64) {
    line::rest(&State(machine.slabs.atomic_u32(slab + at::STATE)));
}

/// The kernel's end of a memory thread.
#[derive(Debug)]
pub(crate) enum MemoryThread {
    /// Its listener, and the notification that waits for our answer.
    Notify { listener: Listener, pending: u64 },
    /// It waits on its socket.
    Socket,
}

impl MemoryThread {
    /// Starts the batch of `count` operations that lies in the control pages, with `files` if it has any. Returns how many
    /// were carried out and, if not all, the error number.
    pub(crate) fn run(&mut self, socket: &OwnedFd, files: &[Arc<OwnedFd>], count: u64) -> Result<(u64, i32), Gone> {
        let fds: SmallVec<[_; 4]> = files.iter().map(|file| file.as_fd()).collect();
        match self {
            Self::Notify { listener, pending } => {
                if !fds.is_empty() {
                    host::send(socket.as_fd(), &[0], &fds).map_err(|_| Gone)?;
                }
                if !listener.resume(*pending)? {
                    return Err(Gone);
                }
                let answer = listener.receive()?;
                *pending = answer.id;
                // Arguments of the hand-over: operations carried out, and what the last one returned.
                let [done, result, ..] = answer.args;
                Ok((done, (result as i64).wrapping_neg() as i32))
            }
            Self::Socket => {
                host::send(socket.as_fd(), &[0], &fds).map_err(|_| Gone)?;
                let length = || host::receive_length(socket.as_fd()).ok().filter(|len| *len != 0).ok_or(Gone);
                let done = length()? as u64 - 1;
                let errno = if done < count { length()? as i32 } else { 0 };
                Ok((done, errno))
            }
        }
    }

    /// Whether descriptors are received by an operation of the batch, rather than with the message that starts it.
    pub(crate) fn receives_in_batch(&self) -> bool {
        matches!(self, Self::Notify { .. })
    }
}
