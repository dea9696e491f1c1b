//! The part of a task that others may hold: identity, flags, wake-ups, and what `/proc` looks at.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use auth::Creds;
use mm::Mm;
use stops::{Attention, Member};
use sync::{LockClass, Mutex, Parker};
use usermem::platform::Interrupt;

use super::account::{CurrentCall, IoCounters};
use super::attributes::Attributes;
use super::cputime::ThreadClock;
use super::group::{Image, ThreadGroup};
use super::state::Kind;
use crate::fdtable::FdTable;
use crate::fsstate::FsState;
use crate::ids::{Pid, Tid};
use crate::lock::{THREAD_PARTS, THREAD_SIGNALS};
use crate::signal::mask::Mask;
use crate::signal::queue::PendingSignals;
use crate::signal::types::SigSet;

/// What a task is doing, as the letter in `/proc/[pid]/stat` tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Activity {
    /// R
    Running = b'R',
    /// S
    Sleeping = b'S',
    /// D: only SIGKILL ends it.
    Waiting = b'D',
    /// T
    Stopped = b'T',
    /// Z
    Zombie = b'Z',
}

impl Activity {
    fn from_raw(raw: u8) -> Self {
        match raw {
            b'S' => Self::Sleeping,
            b'D' => Self::Waiting,
            b'T' => Self::Stopped,
            b'Z' => Self::Zombie,
            _ => Self::Running,
        }
    }
}

/// A name as `prctl(PR_SET_NAME)` and exec set it: at most 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Comm([u8; 16]);

impl Comm {
    /// The first 15 bytes of `name`, up to a NUL.
    pub fn new(name: &[u8]) -> Self {
        let mut out = [0; 16];
        for (to, from) in out.iter_mut().zip(name.iter().take_while(|&&b| b != 0).take(15)) {
            *to = *from;
        }
        Self(out)
    }

    /// Without the NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|&b| b == 0).next().unwrap_or(&[])
    }

    /// NUL-padded, as `prctl(PR_GET_NAME)` gives it.
    pub const fn padded(&self) -> &[u8; 16] {
        &self.0
    }
}

/// What a task uses and others may look at. Empty once the task has exited.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    pub(crate) mm: Option<Arc<Mm>>,
    pub(crate) fds: Option<Arc<FdTable>>,
    pub(crate) fs: Option<Arc<FsState>>,
}

/// Signal state of one thread, guarded by its lock, which is taken inside the group's.
#[derive(Default)]
pub(crate) struct ThreadSignals {
    /// Blocked.
    pub(crate) mask: Mask,
    /// Sent to this thread.
    pub(crate) pending: PendingSignals,
    /// Signals that `sigtimedwait` waits for: they wake though blocked.
    pub(crate) awaited: SigSet,
    /// It exits: nothing is sent to it any more.
    pub(crate) exiting: bool,
}

/// A guest thread. On lines of its own: each call writes to it.
#[repr(align(128))]
pub struct Thread {
    tid: AtomicU32,
    group: Arc<ThreadGroup>,
    attention: Attention,
    interrupter: Mutex<Option<Arc<dyn Interrupt>>>,
    /// Calls that its platform may answer; unset before its first context.
    pub(super) answers: OnceLock<&'static [(super::published::Fact, u16)]>,
    pub(crate) signals: Mutex<ThreadSignals>,
    parts: Mutex<Parts>,
    identity: Mutex<Identity>,
    activity: AtomicU8,
    /// [`Kind`], for others to tell of. Relaxed.
    state: AtomicU8,
    pub(crate) clock: ThreadClock,
    /// Monotonic time of creation.
    start_ns: u64,
    /// The call being served.
    call: CurrentCall,
    /// What its calls have moved.
    io: IoCounters,
    /// PR_SET_PDEATHSIG; 0 is none.
    pub(crate) death_signal: AtomicI32,
    /// Niceness, -20 to 19. Kept and told; the host schedules.
    nice: AtomicI32,
    /// CPUs that it may run on, a bit for each; `None` is all. Kept and told; the host schedules.
    affinity: Mutex<Option<Arc<[u8]>>>,
    attributes: Attributes,
    /// set_robust_list(2); 0 is none. Relaxed: others only ask.
    pub(crate) robust_list: AtomicU64,
    /// Somebody may wait for a futex that it owns; it has begun to end. SeqCst: see the diagram in `futex::pi`.
    pub(crate) contended: AtomicBool,
    /// The owner of the PI futex that it waits for, by number; 0 is none. SeqCst (`futex::pi`).
    pub(crate) waits_for: AtomicU32,
    pub(crate) ending: AtomicBool,
    voluntary: AtomicU64,
    involuntary: AtomicU64,
    minor_faults: AtomicU64,
}

struct Identity {
    creds: Arc<Creds>,
    comm: Comm,
}

const INTERRUPTER: LockClass = LockClass::leaf("thread.interrupter");
const IDENTITY: LockClass = LockClass::leaf("thread.identity");
const AFFINITY: LockClass = LockClass::leaf("thread.affinity");

impl Thread {
    pub(crate) fn new(
        tid: Tid,
        group: Arc<ThreadGroup>,
        creds: Arc<Creds>,
        comm: Comm,
        mask: SigSet,
        parts: Parts,
        start_ns: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            tid: AtomicU32::new(tid.0),
            group,
            attention: Attention::new(),
            interrupter: Mutex::new(INTERRUPTER, None),
            answers: OnceLock::new(),
            signals: Mutex::new(THREAD_SIGNALS, ThreadSignals { mask: Mask::new(mask), ..ThreadSignals::default() }),
            parts: Mutex::new(THREAD_PARTS, parts),
            identity: Mutex::new(IDENTITY, Identity { creds, comm }),
            activity: AtomicU8::new(Activity::Running as u8),
            state: AtomicU8::new(Kind::App as u8),
            clock: ThreadClock::new(),
            start_ns,
            call: CurrentCall::default(),
            io: IoCounters::default(),
            death_signal: AtomicI32::new(0),
            nice: AtomicI32::new(0),
            affinity: Mutex::new(AFFINITY, None),
            attributes: Attributes::new(),
            robust_list: AtomicU64::new(0),
            contended: AtomicBool::new(false),
            waits_for: AtomicU32::new(0),
            ending: AtomicBool::new(false),
            voluntary: AtomicU64::new(0),
            involuntary: AtomicU64::new(0),
            minor_faults: AtomicU64::new(0),
        })
    }

    /// Its number. Changes only when a thread that is not the leader executes a program and becomes the leader.
    pub fn tid(&self) -> Tid {
        Tid(self.tid.load(Ordering::Relaxed))
    }

    /// Takes another number; the caller holds the tree's lock.
    pub(crate) fn set_tid(&self, tid: Tid) {
        self.tid.store(tid.0, Ordering::Relaxed);
    }

    /// Its process.
    pub fn group(&self) -> &Arc<ThreadGroup> {
        &self.group
    }

    /// Its process's number.
    pub fn pid(&self) -> Pid {
        self.group.pid()
    }

    /// Whether it is the leader of its process.
    pub fn is_leader(&self) -> bool {
        self.tid().0 == self.pid().0
    }

    /// Its credentials now.
    pub fn creds(&self) -> Arc<Creds> {
        Arc::clone(&self.identity.lock().creds)
    }

    pub(crate) fn set_creds(&self, creds: Arc<Creds>) {
        self.identity.lock().creds = creds;
    }

    /// Its name.
    pub fn comm(&self) -> Comm {
        self.identity.lock().comm
    }

    /// Gives it another name.
    pub fn set_comm(&self, comm: Comm) {
        self.identity.lock().comm = comm;
    }

    /// Its address space; `None` once it has exited.
    pub fn mm(&self) -> Option<Arc<Mm>> {
        self.parts.lock().mm.clone()
    }

    /// Its descriptor table; `None` once it has exited.
    pub fn fds(&self) -> Option<Arc<FdTable>> {
        self.parts.lock().fds.clone()
    }

    /// Its root, working directory and umask; `None` once it has exited.
    pub fn fs(&self) -> Option<Arc<FsState>> {
        self.parts.lock().fs.clone()
    }

    /// The program that it runs; `None` once it has exited.
    pub fn image(&self) -> Option<Arc<Image>> {
        self.mm().map(|_| self.group.image())
    }

    /// Replaces what others see; gives back the old parts, which the caller drops without locks.
    pub(crate) fn set_parts(&self, parts: Parts) -> Parts {
        std::mem::replace(&mut *self.parts.lock(), parts)
    }

    /// Where it sleeps.
    pub fn parker(&self) -> &Arc<Parker> {
        self.attention.parker()
    }

    /// The context that the thread had, if any, keeps its mask no more.
    pub(crate) fn set_interrupter(&self, interrupter: Option<Arc<dyn Interrupt>>) {
        self.signals.lock().mask.reclaim();
        let old = std::mem::replace(&mut *self.interrupter.lock(), interrupter);
        drop(old);
    }

    /// Lets its platform answer call `number`. Under the lock, so that nothing reaches a context that is gone.
    pub(super) fn publish_answer(&self, number: u16, answer: u64) {
        if let Some(context) = &*self.interrupter.lock() {
            context.publish(number, Some(answer));
        }
    }

    /// What interrupts its guest code; none before it has a context.
    pub(crate) fn interrupter(&self) -> Option<Arc<dyn Interrupt>> {
        self.interrupter.lock().clone()
    }

    /// What makes it look, wherever it is.
    pub(crate) fn attention(&self) -> &Attention {
        &self.attention
    }

    /// The run state of the step that it is in.
    pub(crate) fn state(&self) -> Kind {
        Kind::from_raw(self.state.load(Ordering::Relaxed))
    }

    pub(super) fn set_state(&self, kind: Kind) {
        self.state.store(kind as u8, Ordering::Relaxed);
    }

    /// What it is doing.
    pub fn activity(&self) -> Activity {
        Activity::from_raw(self.activity.load(Ordering::Relaxed))
    }

    pub(crate) fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::Relaxed);
    }

    /// The system call it is in.
    pub fn current_call(&self) -> Option<u64> {
        self.call.number()
    }

    /// Arguments of that call, stack pointer and program counter at it, or (the last two) where it was stopped.
    pub(crate) fn call_words(&self) -> [u64; 8] {
        self.call.words()
    }

    pub(super) fn call(&self) -> &CurrentCall {
        &self.call
    }

    /// What its calls have read and written; counted by the thread itself.
    pub fn io(&self) -> &IoCounters {
        &self.io
    }

    /// CPU time used so far: guest code, kernel; nanoseconds.
    pub fn cpu_times(&self) -> CpuTimes {
        let threads = self.group.threads();
        self.group.clock.read_thread(&self.clock, threads.iter().map(|t| &t.clock))
    }

    /// When it was created, on the monotonic clock.
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// Context switches: voluntary, involuntary.
    pub fn switches(&self) -> (u64, u64) {
        (self.voluntary.load(Ordering::Relaxed), self.involuntary.load(Ordering::Relaxed))
    }

    pub(crate) fn count_sleep(&self) {
        self.voluntary.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_preemption(&self) {
        self.involuntary.fetch_add(1, Ordering::Relaxed);
    }

    /// Page faults that we served.
    pub fn minor_faults(&self) -> u64 {
        self.minor_faults.load(Ordering::Relaxed)
    }

    pub(crate) fn count_fault(&self) {
        self.minor_faults.fetch_add(1, Ordering::Relaxed);
    }

    /// What it asks to be treated like.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Whether it has begun to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// The head of its list of robust futexes, get_robust_list(2); 0 is none.
    pub fn robust_list(&self) -> u64 {
        self.robust_list.load(Ordering::Relaxed)
    }

    /// Niceness, setpriority(2): -20 to 19.
    pub fn nice(&self) -> i32 {
        self.nice.load(Ordering::Relaxed)
    }

    /// Sets the niceness; the caller has checked the privilege.
    pub fn set_nice(&self, nice: i32) {
        self.nice.store(nice.clamp(-20, 19), Ordering::Relaxed);
    }

    /// The CPUs that sched_setaffinity(2) named, a bit for each, as many bytes as all CPUs need; `None` is all.
    pub fn affinity(&self) -> Option<Arc<[u8]>> {
        self.affinity.lock().clone()
    }

    /// Names the CPUs; the caller has checked that there is one of them, and the privilege.
    pub fn set_affinity(&self, cpus: Option<Arc<[u8]>>) {
        let old = std::mem::replace(&mut *self.affinity.lock(), cpus);
        drop(old);
    }

    /// Blocked signals and those pending for this thread alone.
    pub fn signal_sets(&self) -> (SigSet, SigSet) {
        let signals = self.signals.lock();
        (signals.mask.get(), signals.pending.set())
    }
}

impl Member for Thread {
    fn attention(&self) -> &Attention {
        &self.attention
    }

    fn interrupt(&self) {
        if let Some(interrupter) = self.interrupter() {
            interrupter.interrupt();
        }
    }
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "thread {}", self.tid())
    }
}

/// CPU time, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuTimes {
    /// In guest code.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

impl CpuTimes {
    /// Both together.
    pub const fn total(self) -> u64 {
        self.user_ns.saturating_add(self.system_ns)
    }

    /// The sum with another.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            user_ns: self.user_ns.saturating_add(other.user_ns),
            system_ns: self.system_ns.saturating_add(other.system_ns),
        }
    }
}
