//! Thread groups: what Linux calls a process.
//!
//! What relates groups to each other (parents, process groups, sessions, zombies) is in the tree
//! ([`super::set::TaskSet`]) under its lock; what the threads of one group share is here, under the group's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use fs::vfs::Path;
use mm::Mm;
use sync::{LockClass, Mutex, MutexGuard};
use waiter::WaitQueue;

use stops::{Member, Stops, Work};

use super::account::IoTotals;
use super::cputime::GroupClock;
use super::thread::{CpuTimes, Thread};
use super::usage::Usage;
use crate::ids::Pid;
use crate::lock::{GROUP_SIGNALS, HANDLERS, LIMITS};
use crate::rlimit::{Resource, Rlimit, Rlimits};
use crate::signal::queue::PendingSignals;
use crate::signal::types::{SaFlags, SigAction, SigSet, Signal};
use crate::tty::ControllingTty;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitStatus {
    /// By `exit` or `exit_group`.
    Exited(u8),
    /// By a signal.
    Killed(Signal),
    /// By a signal whose action dumps core. (No file is written: the limit on core files is zero.)
    Dumped(Signal),
}

impl ExitStatus {
    /// As `wait4` reports it.
    pub fn wait_status(self) -> i32 {
        match self {
            Self::Exited(code) => abi::wait::status_exited(code),
            Self::Killed(signal) => abi::wait::status_killed(signal.number()),
            Self::Dumped(signal) => abi::wait::status_killed(signal.number()) | abi::wait::WCOREFLAG,
        }
    }

    /// As a shell reports it: the code, or 128 + signal.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) | Self::Dumped(signal) => 128_u8.wrapping_add(signal.number().to_ne_bytes()[0]),
        }
    }
}

/// Signal actions, shared by the groups that CLONE_SIGHAND joined.
pub(crate) struct Handlers {
    table: Mutex<[SigAction; 64]>,
}

impl Handlers {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { table: Mutex::new(HANDLERS, [SigAction::default(); 64]) })
    }

    /// A copy, as after fork.
    pub(crate) fn fork(&self) -> Arc<Self> {
        Arc::new(Self { table: Mutex::new(HANDLERS, *self.table.lock()) })
    }

    /// A copy in which what had a handler has the default action, as after exec.
    pub(crate) fn for_exec(&self) -> Arc<Self> {
        let mut table = *self.table.lock();
        for action in &mut table {
            let handler = if action.is_handler() { SigAction::DEFAULT } else { action.handler };
            *action = SigAction { handler, ..SigAction::default() };
        }
        Arc::new(Self { table: Mutex::new(HANDLERS, table) })
    }

    /// A copy with default actions only, for CLONE_CLEAR_SIGHAND: ignored signals stay ignored.
    pub(crate) fn cleared(&self) -> Arc<Self> {
        self.for_exec()
    }

    pub(crate) fn get(&self, signal: Signal) -> SigAction {
        self.table.lock().get(signal.index()).copied().unwrap_or_default()
    }

    pub(crate) fn set(&self, signal: Signal, action: SigAction) -> SigAction {
        match self.table.lock().get_mut(signal.index()) {
            Some(slot) => std::mem::replace(slot, action),
            None => SigAction::default(),
        }
    }

    /// Signals that are ignored by request, and those that have a handler, as `/proc/[pid]/status` shows them.
    pub(crate) fn summary(&self) -> (SigSet, SigSet) {
        let table = self.table.lock();
        let mut ignored = SigSet::EMPTY;
        let mut caught = SigSet::EMPTY;
        for (signal, action) in (1..=64).filter_map(Signal::new).zip(table.iter()) {
            if action.handler == SigAction::IGNORE {
                ignored = ignored.with(signal);
            } else if action.is_handler() {
                caught = caught.with(signal);
            }
        }
        (ignored, caught)
    }
}

/// What the group's lock guards.
pub(crate) struct GroupSignals {
    /// Sent to the group.
    pub(crate) pending: PendingSignals,
    /// Actions.
    pub(crate) handlers: Arc<Handlers>,
    /// Threads that can take signals, and what they do together: stop, end, give way to a program.
    pub(crate) stops: Stops<Thread, Signal, ExitStatus>,
    /// Fatal signals do not come from its own sandbox (init).
    pub(crate) immune: bool,
}

/// A process.
pub struct ThreadGroup {
    pid: Pid,
    pub(crate) signals: Mutex<GroupSignals>,
    limits: Mutex<Rlimits>,
    /// Told when a child changes state.
    pub(crate) child_events: WaitQueue,
    /// Told when this process or a thread of it exits (pidfd_open(2)).
    pub(crate) exit_events: WaitQueue,
    /// Told when a signal arrives (signalfd(2)).
    pub(crate) signal_events: WaitQueue,
    pub(crate) timers: crate::time::GroupTimers,
    /// CPU time of its threads, also of those that are gone.
    pub(crate) clock: GroupClock,
    /// Page faults and sleeps of threads that are gone.
    pub(super) gone: EventCounters,
    /// What calls of threads that are gone have moved, and of children that were waited for.
    gone_io: Mutex<IoTotals>,
    /// CPU time of children that were waited for, and their faults and sleeps.
    children: CpuCounters,
    pub(super) children_events: EventCounters,
    /// Largest resident set so far, and of children waited for; KiB.
    pub(crate) max_rss_kib: AtomicU64,
    pub(crate) children_max_rss_kib: AtomicU64,
    /// `/proc/[pid]/oom_score_adj`.
    pub(crate) oom_score_adj: std::sync::atomic::AtomicI32,
    dumpable: AtomicU8,
    /// `/proc/[pid]/coredump_filter`: kept and told. Relaxed.
    core_filter: AtomicU32,
    /// What membarrier(2) has registered. Relaxed: the barrier itself is the platform's.
    barriers: AtomicU32,
    /// PR_SET_THP_DISABLE: kept and told.
    thp_disabled: AtomicBool,
    start_ns: u64,
    /// It is a zombie or gone. Release/Acquire: who sees it sees the zombie's status too.
    ended: AtomicBool,
    image: Mutex<Arc<Image>>,
    /// The controlling terminal. Changes under the lock of the process tree, but for the process's own wishes.
    tty: Mutex<Option<Arc<dyn ControllingTty>>>,
}

const IMAGE: LockClass = LockClass::leaf("group.image");
/// What a core dump holds when nobody says otherwise, core(5).
const CORE_FILTER: u32 = 0x33;

const GONE_IO: LockClass = LockClass::leaf("group.io");
const TTY: LockClass = LockClass::leaf("group.tty");

/// The program that a process runs, for `/proc`.
#[derive(Default)]
pub struct Image {
    /// `/proc/[pid]/exe`.
    pub exe: Option<Path>,
    /// `/proc/[pid]/auxv`.
    pub auxv: Vec<u8>,
}

#[derive(Default)]
struct CpuCounters {
    user_ns: AtomicU64,
    system_ns: AtomicU64,
}

/// What [`super::Usage`] counts besides time.
#[derive(Default)]
pub(super) struct EventCounters {
    pub(super) minor_faults: AtomicU64,
    pub(super) voluntary: AtomicU64,
    pub(super) involuntary: AtomicU64,
}

impl EventCounters {
    fn add(&self, minor_faults: u64, (voluntary, involuntary): (u64, u64)) {
        self.minor_faults.fetch_add(minor_faults, Ordering::Relaxed);
        self.voluntary.fetch_add(voluntary, Ordering::Relaxed);
        self.involuntary.fetch_add(involuntary, Ordering::Relaxed);
    }
}

impl CpuCounters {
    fn add(&self, times: CpuTimes) {
        self.user_ns.fetch_add(times.user_ns, Ordering::Relaxed);
        self.system_ns.fetch_add(times.system_ns, Ordering::Relaxed);
    }

    fn get(&self) -> CpuTimes {
        CpuTimes { user_ns: self.user_ns.load(Ordering::Relaxed), system_ns: self.system_ns.load(Ordering::Relaxed) }
    }
}

impl ThreadGroup {
    pub(crate) fn new(pid: Pid, handlers: Arc<Handlers>, limits: Rlimits, start_ns: u64) -> Arc<Self> {
        Arc::new(Self {
            pid,
            signals: Mutex::new(
                GROUP_SIGNALS,
                GroupSignals { pending: PendingSignals::default(), handlers, stops: Stops::default(), immune: false },
            ),
            limits: Mutex::new(LIMITS, limits),
            child_events: WaitQueue::new(),
            exit_events: WaitQueue::new(),
            signal_events: WaitQueue::new(),
            timers: crate::time::GroupTimers::new(),
            clock: GroupClock::new(),
            gone: EventCounters::default(),
            gone_io: Mutex::new(GONE_IO, IoTotals::default()),
            children: CpuCounters::default(),
            children_events: EventCounters::default(),
            max_rss_kib: AtomicU64::new(0),
            children_max_rss_kib: AtomicU64::new(0),
            oom_score_adj: std::sync::atomic::AtomicI32::new(0),
            dumpable: AtomicU8::new(Dumpable::Yes as u8),
            core_filter: AtomicU32::new(CORE_FILTER),
            barriers: AtomicU32::new(0),
            thp_disabled: AtomicBool::new(false),
            start_ns,
            ended: AtomicBool::new(false),
            image: Mutex::new(IMAGE, Arc::new(Image::default())),
            tty: Mutex::new(TTY, None),
        })
    }

    /// The process number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// When it was created, on the monotonic clock.
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// The program that it runs.
    pub fn image(&self) -> Arc<Image> {
        Arc::clone(&self.image.lock())
    }

    pub(crate) fn set_image(&self, image: Arc<Image>) {
        let old = std::mem::replace(&mut *self.image.lock(), image);
        drop(old);
    }

    /// A number of its table of signal actions, which groups may share (CLONE_SIGHAND).
    pub fn handlers_id(&self) -> u64 {
        Arc::as_ptr(&self.lock_signals().handlers).addr() as u64
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether it has ended, or is about to.
    pub fn is_ending(&self) -> bool {
        self.has_ended() || self.signals.lock().stops.exiting().is_some()
    }

    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn lock_signals(&self) -> MutexGuard<'_, GroupSignals> {
        self.signals.lock()
    }

    /// Its live threads.
    pub fn threads(&self) -> Vec<Arc<Thread>> {
        self.signals.lock().stops.threads().to_vec()
    }

    /// One of its limits.
    pub fn limit(&self, resource: Resource) -> Rlimit {
        self.limits.lock().get(resource)
    }

    /// All its limits.
    pub fn limits(&self) -> Rlimits {
        *self.limits.lock()
    }

    /// Reads and changes limits in one step.
    pub fn with_limits<T>(&self, f: impl FnOnce(&mut Rlimits) -> T) -> T {
        let (value, cpu_changed) = {
            let mut limits = self.limits.lock();
            let before = limits.get(Resource::Cpu);
            let value = f(&mut limits);
            (value, limits.get(Resource::Cpu) != before)
        };
        if cpu_changed {
            for thread in self.threads() {
                thread.kick(Work::CPU_TIMERS);
            }
        }
        value
    }

    /// CPU time of all its threads, also of those that are gone.
    pub fn cpu_times(&self) -> CpuTimes {
        let live = self.threads();
        self.clock.read(live.iter().map(|t| &t.clock))
    }

    /// `/proc/[pid]/oom_score_adj`.
    pub fn oom_score_adj(&self) -> i32 {
        self.oom_score_adj.load(Ordering::Relaxed)
    }

    /// Changes `/proc/[pid]/oom_score_adj`; the caller has checked range and privilege.
    pub fn set_oom_score_adj(&self, adj: i32) {
        self.oom_score_adj.store(adj, Ordering::Relaxed);
    }

    /// PR_GET_DUMPABLE.
    pub fn dumpable(&self) -> Dumpable {
        match self.dumpable.load(Ordering::Relaxed) {
            0 => Dumpable::No,
            _ => Dumpable::Yes,
        }
    }

    /// PR_SET_DUMPABLE.
    pub fn set_dumpable(&self, dumpable: Dumpable) {
        self.dumpable.store(dumpable as u8, Ordering::Relaxed);
    }

    /// Which mappings a core dump would hold, core(5).
    pub fn core_filter(&self) -> u32 {
        self.core_filter.load(Ordering::Relaxed)
    }

    /// Changes which mappings a core dump would hold.
    pub fn set_core_filter(&self, filter: u32) {
        self.core_filter.store(filter, Ordering::Relaxed);
    }

    /// What membarrier(2) has registered, as its commands' bits.
    pub fn barriers(&self) -> u32 {
        self.barriers.load(Ordering::Relaxed)
    }

    /// Registers for commands of membarrier(2), and for no others.
    pub fn set_barriers(&self, commands: u32) {
        self.barriers.store(commands, Ordering::Relaxed);
    }

    /// PR_GET_THP_DISABLE.
    pub fn thp_disabled(&self) -> bool {
        self.thp_disabled.load(Ordering::Relaxed)
    }

    /// PR_SET_THP_DISABLE.
    pub fn set_thp_disabled(&self, disabled: bool) {
        self.thp_disabled.store(disabled, Ordering::Relaxed);
    }

    /// Largest resident set so far, KiB.
    pub fn max_rss_kib(&self) -> u64 {
        self.max_rss_kib.load(Ordering::Relaxed)
    }

    /// Signals ignored by request, and those with a handler.
    pub fn action_sets(&self) -> (SigSet, SigSet) {
        self.signals.lock().handlers.summary()
    }

    /// Signals pending for the whole group.
    pub fn pending_set(&self) -> SigSet {
        self.signals.lock().pending.set()
    }

    /// CPU time of children that were waited for, with theirs.
    pub fn children_cpu_times(&self) -> CpuTimes {
        self.children.get()
    }

    /// A thread takes part no more: what it used is kept.
    pub(super) fn add_gone(&self, thread: &Thread) {
        self.clock.add_gone(thread.clock.end());
        self.gone.add(thread.minor_faults(), thread.switches());
        self.add_io(thread.io().totals());
    }

    fn add_io(&self, more: IoTotals) {
        let mut io = self.gone_io.lock();
        *io = io.plus(more);
    }

    /// What its calls have moved, and those of children that were waited for: proc_pid_io(5).
    pub fn io_totals(&self) -> IoTotals {
        let gone = *self.gone_io.lock();
        self.threads().iter().fold(gone, |sum, thread| sum.plus(thread.io().totals()))
    }

    /// It uses another address space from now on, or none.
    pub(crate) fn change_space(&self, mm: Option<&Mm>) {
        let live = self.threads();
        self.clock.change_space(mm.and_then(|mm| mm.space().cpu_clock()), live.iter().map(|t| &t.clock));
    }

    /// A child was waited for: what it used is counted here too.
    pub(super) fn add_child(&self, child: &Self) {
        let usage = Usage::of_group(child).plus(&Usage::of_children(child));
        self.children.add(CpuTimes { user_ns: usage.user_ns, system_ns: usage.system_ns });
        self.children_events.add(usage.minor_faults, (usage.voluntary_switches, usage.involuntary_switches));
        self.children_max_rss_kib.fetch_max(usage.max_rss_kib, Ordering::Relaxed);
        self.add_io(child.io_totals());
    }

    /// Signals pending for the group, ignored by request, and caught, as `/proc/[pid]/status` shows them.
    pub fn signal_sets(&self) -> GroupSignalSets {
        let signals = self.signals.lock();
        let (ignored, caught) = signals.handlers.summary();
        let queued = signals.pending.len()
            + signals.stops.threads().iter().map(|t| t.signals.lock().pending.len()).sum::<usize>();
        GroupSignalSets { pending: signals.pending.set(), ignored, caught, queued }
    }

    /// Its controlling terminal.
    pub fn tty(&self) -> Option<Arc<dyn ControllingTty>> {
        self.tty.lock().clone()
    }

    pub(crate) fn set_tty(&self, tty: Option<Arc<dyn ControllingTty>>) {
        let old = std::mem::replace(&mut *self.tty.lock(), tty);
        drop(old);
    }

    /// Told when this process exits, for `pidfd_open(2)`.
    pub fn exit_queue(&self) -> &WaitQueue {
        &self.exit_events
    }

    /// Told when a signal arrives, for `signalfd(2)`.
    pub fn signal_events(&self) -> &WaitQueue {
        &self.signal_events
    }

    /// Whether children's SIGCHLD is ignored or their zombies unwanted (`SIG_IGN`, `SA_NOCLDWAIT`).
    pub(crate) fn child_policy(&self) -> ChildPolicy {
        let action = self.signals.lock().handlers.get(Signal::CHLD);
        ChildPolicy {
            ignores: action.handler == SigAction::IGNORE,
            no_zombies: action.handler == SigAction::IGNORE || action.flags.contains(SaFlags::NOCLDWAIT),
            no_stop_signal: action.handler == SigAction::IGNORE || action.flags.contains(SaFlags::NOCLDSTOP),
        }
    }
}

impl std::fmt::Debug for ThreadGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

/// Whether others of the same user may look into a process (PR_SET_DUMPABLE, ptrace(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Dumpable {
    /// Only with CAP_SYS_PTRACE.
    No,
    /// Yes.
    Yes,
}

/// What [`ThreadGroup::signal_sets`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupSignalSets {
    /// Pending for the group.
    pub pending: SigSet,
    /// Ignored by request.
    pub ignored: SigSet,
    /// With a handler.
    pub caught: SigSet,
    /// Instances queued with details.
    pub queued: usize,
}

/// What a parent wants to know of its children (sigaction(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChildPolicy {
    pub(crate) ignores: bool,
    pub(crate) no_zombies: bool,
    pub(crate) no_stop_signal: bool,
}
