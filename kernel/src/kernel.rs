//! The kernel of one sandbox: what all its tasks share, and how the runner starts and ends it.
//!
//! The runner makes a [`Kernel`] from a [`KernelConfig`], starts the sandbox's command with [`Kernel::start`] and waits
//! for its end with [`Kernel::wait_command`]. Inside, process 1 is an init that is part of the kernel: it has no guest code and no
//! host thread, reaps orphans at once, hands signals on to the command, and ends with it.

mod config;
mod queries;

pub(crate) use config::Cpu;
pub use config::{Command, Entropy, KernelConfig, Machine, Observer, Supervised, Uts};
pub use queries::MemoryInfo;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use arch::x86_64::xsave::XsaveLayout;
use arch::x86_64::{cpuid, sigframe};
use auth::Creds;
use fs::vfs::{Devices, LookupFlags, MountNs};
use mm::Mm;
use sync::{Condvar, HostTerms, Hosts, Mutex};
use usermem::memfile::MemoryFile;
use usermem::platform::Platform;

use crate::fdtable::{CloseOnExec, FdTable};
use crate::fsstate::FsState;
use crate::futex::FutexTable;
use crate::heap::Trimmed;
use crate::ids::{INIT_PID, Pid, Tid};
use crate::ipc::Ipc;
use crate::load::Load;
use crate::lock::{EXT, LOAD, UTS};
use crate::rlimit::Rlimits;
use crate::signal::info::SigInfo;
use crate::signal::limits::SignalQuota;
use crate::signal::send::Origin;
use crate::signal::types::{SigAction, SigSet, Signal};
use crate::socket::unix;
use crate::syscall::Dispatch;
use crate::task::exec::{ExecRequest, ExecTarget, Executor, first_task};
use crate::task::group::{ExitStatus, Handlers, ThreadGroup};
use stops::Pauses;

use crate::task::set::{GroupEntry, Subreaper, TaskSet, first_session};
use crate::task::state::RunState;
use crate::task::thread::{Comm, Parts, Thread};
use crate::task::{NoNewPrivs, Task};
use crate::time::thread::Timers;
use crate::time::vdso::VdsoPages;
use crate::watchdog::Watchdog;

/// The host threads of tasks: handlers are shallow, and few tasks begin at once.
const HOSTS: HostTerms = HostTerms { name: "task", stack: 512 << 10, most_idle: 8 };

#[derive(Default)]
struct End {
    status: Option<ExitStatus>,
}

/// Who runs on while a new task begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Beside {
    /// Its parent, for long enough that the task should have another core.
    Parent,
    /// Nobody for long.
    Nobody,
}

/// Most address spaces that end after their process has.
const MAX_ENDING: u32 = 8;

/// An address space that ends when this is dropped.
pub(crate) struct Ending<'a> {
    kernel: &'a Kernel,
    mm: Option<Arc<Mm>>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        drop(self.mm.take());
        self.kernel.ending.fetch_sub(1, Ordering::Relaxed);
        self.kernel.room.wake(waiter::EventMask::READABLE);
    }
}

/// The kernel of a sandbox.
pub struct Kernel {
    platform: Arc<dyn Platform>,
    memory: Arc<MemoryFile>,
    /// Patched text, on platforms that take calls without a trap.
    text: Option<Arc<mm::TextCache>>,
    mounts: Arc<MountNs>,
    devices: Arc<Devices>,
    dispatch: Arc<dyn Dispatch>,
    entropy: Arc<dyn Entropy>,
    heap: Trimmed,
    observer: Option<Arc<dyn Observer>>,
    uts: Mutex<Uts>,
    machine: Machine,
    boot_id: String,
    boot_ns: u64,
    boot_time_secs: u64,
    file_clock: fs::SystemClock,
    cpu: Cpu,
    vdso: VdsoPages,
    tasks: TaskSet,
    hosts: Hosts,
    futexes: FutexTable,
    unix_sockets: Arc<unix::Space>,
    ipc: Ipc,
    tty: crate::tty::Knobs,
    load: Mutex<Load>,
    /// CPU time of processes that have ended. Relaxed: only a sum.
    gone_user_ns: AtomicU64,
    gone_system_ns: AtomicU64,
    timers: Timers,
    pauses: Pauses,
    watchdog: Watchdog,
    signal_quota: SignalQuota,
    /// The command's process; 0 before it starts. Relaxed: written before its thread starts.
    main: AtomicU32,
    end: Mutex<End>,
    ended: Condvar,
    /// Calls of kinds that a guest asked for and that we do not have; for diagnostics.
    unsupported: AtomicU64,
    /// Address spaces whose tasks are gone and which the host is taking down.
    ending: AtomicU32,
    /// Told when a process or its address space has ended: there may be room for those who met the end of memory.
    room: waiter::WaitQueue,
}

impl Kernel {
    /// A kernel with an init and nothing else. `ENOMEM` when not even the vDSO's pages can be had.
    pub fn new(config: KernelConfig) -> Result<Arc<Self>, Errno> {
        crate::task::cputime::start();
        let xsave = XsaveLayout::host();
        let cpu = Cpu { xsave, hwcap: cpuid::hwcap(), hwcap2: cpuid::hwcap2(), min_sigstack: sigframe::max_len(xsave) };
        let realtime = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let kernel = Arc::new(Self {
            vdso: VdsoPages::new(&config.memory)?,
            text: config.platform.call_entry().map(|entry| mm::TextCache::new(Arc::clone(&config.memory), entry)),
            platform: config.platform,
            memory: config.memory,
            mounts: config.mounts,
            devices: config.devices,
            dispatch: config.dispatch,
            entropy: config.entropy,
            heap: Trimmed::new(config.heap, sync::monotonic_now_ns()),
            observer: config.observer,
            uts: Mutex::new(UTS, config.uts),
            machine: config.machine,
            boot_id: config.boot_id,
            boot_ns: sync::monotonic_now_ns(),
            boot_time_secs: u64::try_from(realtime.tv_sec).unwrap_or(0),
            file_clock: fs::SystemClock,
            cpu,
            tasks: TaskSet::new(config.pids),
            hosts: Hosts::new(HOSTS),
            futexes: FutexTable::new(),
            unix_sockets: unix::Space::new(),
            ipc: Ipc::new(),
            tty: crate::tty::Knobs::default(),
            load: Mutex::new(LOAD, Load::default()),
            gone_user_ns: AtomicU64::new(0),
            gone_system_ns: AtomicU64::new(0),
            timers: Timers::new(),
            pauses: Pauses::new(),
            watchdog: Watchdog::new(),
            signal_quota: SignalQuota::new(),
            main: AtomicU32::new(0),
            end: Mutex::new(EXT, End::default()),
            ended: Condvar::new(),
            unsupported: AtomicU64::new(0),
            ending: AtomicU32::new(0),
            room: waiter::WaitQueue::new(),
        });
        kernel.make_init()?;
        Ok(kernel)
    }

    /// Process 1: a place in the tree and nothing that runs.
    fn make_init(&self) -> Result<(), Errno> {
        let mut tree = self.tasks.lock();
        let number = tree.allocate(None)?;
        debug_assert_eq!(number, INIT_PID.0, "init is the first process");
        let group = ThreadGroup::new(INIT_PID, Handlers::new(), Rlimits::default(), self.boot_ns);
        let creds = Arc::new(Creds::root());
        let comm = Comm::new(b"init");
        let leader = Thread::new(
            INIT_PID.leader(),
            Arc::clone(&group),
            creds,
            comm,
            SigSet::EMPTY,
            Parts::default(),
            self.boot_ns,
        );
        leader.set_activity(crate::task::Activity::Sleeping);
        leader.attention().never_runs();
        group.lock_signals().immune = true;
        tree.add_group(GroupEntry {
            group,
            leader,
            live: 1,
            parent: INIT_PID,
            parent_thread: INIT_PID.leader(),
            children: Default::default(),
            pgrp: INIT_PID,
            session: first_session(INIT_PID),
            exit_signal: None,
            subreaper: Subreaper::No,
            execed: true,
            zombie: None,
        });
        Ok(())
    }

    /// Starts the command as init's child, the leader of a session of its own. Errors are those of execve(2), and nothing
    /// has been started then.
    pub fn start(self: &Arc<Self>, command: Command) -> Result<Pid, Errno> {
        let fds = Arc::new(FdTable::new());
        for (number, file) in command.files {
            fds.replace(file, number, crate::fdtable::NR_OPEN, CloseOnExec::No)?;
        }
        let root = command.root.clone();
        let cwd = command.cwd.clone();
        let fs_state = Arc::new(FsState::new(command.root, command.cwd, command.umask));
        let (group, thread) = self.make_main(&command.creds, command.limits, command.ignored)?;
        if let Some(tty) = command.tty {
            if command.supervised == Supervised::Yes {
                self.tasks.lock().supervised = Some(group.pid());
            }
            self.give_tty(&group, tty);
        }
        let prepared = {
            let blocker = fs::NeverBlock;
            let executor = Executor {
                kernel: self,
                ctx: fs::Context {
                    creds: &command.creds,
                    umask: command.umask,
                    clock: &self.file_clock,
                    blocker: &blocker,
                    lock_owner: fds.lock_owner(),
                    devices: &self.devices,
                    caller: Some(&thread),
                },
                root,
                cwd: cwd.clone(),
                limits: command.limits,
                no_new_privs: NoNewPrivs::No,
                persona: 0,
            };
            executor.prepare(&ExecRequest {
                target: ExecTarget::Path {
                    start: cwd,
                    path: command.program.clone(),
                    flags: LookupFlags::FOLLOW,
                    name: command.program,
                },
                argv: command.argv,
                envp: command.envp,
            })
        };
        let started = prepared.and_then(|prepared| {
            let task = first_task(self, Arc::clone(&thread), prepared, fds, fs_state);
            self.main.store(group.pid().0, Ordering::Relaxed);
            self.spawn(task, RunState::App, Beside::Nobody)
        });
        if started.is_err() {
            self.abandon(&thread);
        }
        started.map(|()| group.pid())
    }

    fn make_main(
        &self,
        creds: &Creds,
        limits: Rlimits,
        ignored: SigSet,
    ) -> Result<(Arc<ThreadGroup>, Arc<Thread>), Errno> {
        let handlers = Handlers::new();
        for signal in ignored.iter().filter(|s| !s.is_unblockable()) {
            handlers.set(signal, SigAction { handler: SigAction::IGNORE, ..SigAction::default() });
        }
        let mut tree = self.tasks.lock();
        let number = tree.allocate(None)?;
        let pid = Pid(number);
        let now = sync::monotonic_now_ns();
        let group = ThreadGroup::new(pid, handlers, limits, now);
        let thread = Thread::new(
            Tid(number),
            Arc::clone(&group),
            Arc::new(creds.clone()),
            Comm::default(),
            SigSet::EMPTY,
            Parts::default(),
            now,
        );
        // A new process is in nothing that it could disturb.
        let _ = group.lock_signals().stops.join(Arc::clone(&thread));
        tree.add_group(GroupEntry {
            group: Arc::clone(&group),
            leader: Arc::clone(&thread),
            live: 1,
            parent: INIT_PID,
            parent_thread: INIT_PID.leader(),
            children: Default::default(),
            pgrp: pid,
            session: first_session(pid),
            exit_signal: Some(Signal::CHLD),
            subreaper: Subreaper::No,
            execed: true,
            zombie: None,
        });
        tree.count += 1;
        Ok((group, thread))
    }

    /// Gives a task its host thread. `EAGAIN` when the host has none left.
    pub(crate) fn spawn(self: &Arc<Self>, task: Task, first: RunState, beside: Beside) -> Result<(), Errno> {
        *self.tasks.running.lock() += 1;
        let kernel = Arc::clone(self);
        let job = Box::new(move || {
            task.run(first);
            kernel.host_thread_done();
        });
        let started = self.hosts.start_by(job, |tid, wake| match beside {
            Beside::Parent => self.platform.wake_elsewhere(tid, wake),
            Beside::Nobody => wake(),
        });
        if let Err(e) = started {
            log::warn!("no host thread for a task: {e}");
            self.host_thread_done();
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    fn host_thread_done(&self) {
        let mut running = self.tasks.running.lock();
        *running = running.saturating_sub(1);
        if *running == 0 {
            self.tasks.all_done.notify_all();
        }
    }

    /// Waits until the command has ended; says how. What it left behind is no longer waited for: it ends with the host
    /// process of the sandbox, as a pid namespace ends with its init, even where a task is held up in a host call.
    pub fn wait_command(&self) -> ExitStatus {
        let mut end = self.end.lock();
        loop {
            if let Some(status) = end.status {
                return status;
            }
            end = self.ended.wait(end);
        }
    }

    /// Waits until the command and everything that it left behind has ended; says how the command ended.
    pub fn wait(&self) -> ExitStatus {
        let status = self.wait_command();
        self.kill_all();
        let mut running = self.tasks.running.lock();
        while *running > 0 {
            running = self.tasks.all_done.wait(running);
        }
        status
    }

    /// [`Kernel::start`] and [`Kernel::wait`].
    pub fn run(self: &Arc<Self>, command: Command) -> Result<ExitStatus, Errno> {
        self.start(command)?;
        Ok(self.wait())
    }

    /// Ends every process but init; no further one can be made.
    pub fn kill_all(&self) {
        let groups: Vec<_> = {
            let mut tree = self.tasks.lock();
            tree.closing = true;
            tree.groups.values().filter(|e| e.group.pid() != INIT_PID).map(|e| Arc::clone(&e.group)).collect()
        };
        for group in groups {
            group.lock_signals().stops.begin_exit(ExitStatus::Killed(Signal::KILL));
        }
    }

    pub(crate) fn main_ended(&self, status: ExitStatus) {
        self.end.lock().status.get_or_insert(status);
        self.ended.notify_all();
    }

    pub(crate) fn main_stopped(&self, stopped: Stopped, signal: Signal) {
        let Some(observer) = &self.observer else { return };
        match stopped {
            Stopped::Yes => observer.stopped(signal),
            Stopped::No => observer.continued(),
        }
    }

    /// Keeps the address space of a process that has ended until the end of the process has been told, or ends it now if
    /// too many are kept.
    pub(crate) fn end_later(&self, mm: Arc<Mm>) -> Option<Ending<'_>> {
        // Relaxed, here and below: a bound, nothing is ordered by it.
        let ending = Ending { kernel: self, mm: Some(mm) };
        let many = self.ending.fetch_add(1, Ordering::Relaxed) >= MAX_ENDING;
        (!many).then_some(ending)
    }

    /// Address spaces of processes that have ended and that are still there.
    pub(crate) fn spaces_ending(&self) -> u32 {
        self.ending.load(Ordering::Relaxed)
    }

    /// Told when a process or its address space has ended.
    pub(crate) fn room(&self) -> &waiter::WaitQueue {
        &self.room
    }

    /// The command's process, once it has been started.
    pub fn main_pid(&self) -> Option<Pid> {
        Some(self.main.load(Ordering::Relaxed)).filter(|&n| n != 0).map(Pid)
    }

    /// Sends a signal from outside to the command.
    pub fn signal_main(&self, signal: Signal) {
        if let Some(group) = self.main_pid().and_then(|pid| self.tasks.group(pid)) {
            self.send_to_group(&group, SigInfo::kill(signal, Pid(0), 0), Origin::Kernel);
        }
    }

    /// Sends a signal from outside to a process group (the foreground group of a terminal).
    pub fn signal_pgrp(&self, pgrp: Pid, info: &SigInfo) {
        let members = self.tasks.lock().members(pgrp);
        for group in members {
            self.send_to_group(&group, info.clone(), Origin::Kernel);
        }
    }

    /// A process signals init: what would reach an init's handler is handed on to the command. That of a CPU's exception would
    /// not, since an init hands on what it is asked, not what it does wrong itself.
    pub(crate) fn signal_from_guest_to_init(&self, info: SigInfo) {
        let own = SigSet::UNBLOCKABLE.union(SigSet::SYNCHRONOUS).with(Signal::CHLD);
        if own.contains(info.signal) {
            return;
        }
        if let Some(group) = self.main_pid().and_then(|pid| self.tasks.group(pid)) {
            self.send_to_group(&group, info, Origin::Kernel);
        }
    }

    /// Stops all tasks; returns when they stand still. Nests.
    pub fn pause(&self) {
        self.pauses.pause(|| self.tasks.lock().threads.values().cloned().collect());
    }

    /// Takes back one [`Kernel::pause`].
    pub fn unpause(&self) {
        self.pauses.unpause();
    }

    /// What is told of all terminals.
    pub(crate) fn tty_knobs(&self) -> &crate::tty::Knobs {
        &self.tty
    }

    /// Stops one task; returns when it stands still. Nests, also with [`Kernel::pause`].
    pub fn pause_task(&self, thread: &Arc<Thread>) {
        self.pauses.pause_task(thread);
    }

    /// Takes back one [`Kernel::pause_task`].
    pub fn unpause_task(&self, thread: &Thread) {
        self.pauses.unpause_task(thread.attention());
    }

    /// Counts a request for something that we do not have.
    pub fn count_unsupported(&self) {
        self.unsupported.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether the command stopped or went on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopped {
    Yes,
    No,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernel({})", self.boot_id)
    }
}
