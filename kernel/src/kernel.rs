//! The kernel of one sandbox: what all its tasks share, and how the runner starts and ends it.
//!
//! The runner makes a [`Kernel`] from a [`KernelConfig`], starts the sandbox's command with [`Kernel::start`] and waits
//! for its end with [`Kernel::wait_command`]. Inside, process 1 is an init that is part of the kernel: it has no guest code and no
//! host thread, reaps orphans at once, hands signals on to the command, and ends with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use arch::x86_64::xsave::XsaveLayout;
use arch::x86_64::{cpuid, sigframe};
use auth::Creds;
use fs::vfs::{Devices, File, LookupFlags, MountNs, Path};
use loader::Randomness;
use mm::Mm;
use sync::{Condvar, HostTerms, Hosts, Mutex};
use usermem::memfile::MemoryFile;
use usermem::platform::Platform;

use crate::fdtable::{CloseOnExec, FdTable};
use crate::fsstate::FsState;
use crate::futex::FutexTable;
use crate::heap::{Heap, Trimmed};
use crate::ids::{INIT_PID, Pid, Tid};
use crate::ipc::Ipc;
use crate::load::Load;
use crate::lock::{EXT, LOAD, UTS};
use crate::pause::Pauses;
use crate::rlimit::Rlimits;
use crate::signal::info::SigInfo;
use crate::signal::limits::SignalQuota;
use crate::signal::send::{self, Origin};
use crate::signal::types::{SigAction, SigSet, Signal};
use crate::socket::unix;
use crate::syscall::Dispatch;
use crate::task::exec::{ExecRequest, ExecTarget, Executor, first_task};
use crate::task::group::{ExitStatus, Handlers, ThreadGroup};
use crate::task::run::RunState;
use crate::task::set::{ControllingTty, GroupEntry, Subreaper, TaskSet, first_session};
use crate::task::thread::{Comm, CpuTimes, Parts, Thread};
use crate::task::{NoNewPrivs, Task};
use crate::time::thread::Timers;
use crate::time::vdso::VdsoPages;

/// The host threads of tasks: handlers are shallow, and few tasks begin at once.
const HOSTS: HostTerms = HostTerms { name: "task", stack: 512 << 10, most_idle: 8 };

/// Random bytes.
pub trait Entropy: Send + Sync {
    /// Fills `buf`.
    fn fill(&self, buf: &mut [u8]);
}

/// Hears of what happens to the sandbox's command.
pub trait Observer: Send + Sync {
    /// It was stopped by this signal.
    fn stopped(&self, signal: Signal);
    /// It was continued.
    fn continued(&self);
}

/// uname(2).
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are uname(2)'s")]
pub struct Uts {
    pub sysname: String,
    pub nodename: String,
    pub release: String,
    pub version: String,
    pub machine: String,
    pub domainname: String,
}

impl Uts {
    /// What we report, with this host name.
    pub fn new(nodename: &str) -> Self {
        Self {
            sysname: "Linux".to_owned(),
            nodename: nodename.to_owned(),
            release: "6.12.0".to_owned(),
            version: "#1 SMP PREEMPT_DYNAMIC Casemate".to_owned(),
            machine: "x86_64".to_owned(),
            domainname: "(none)".to_owned(),
        }
    }
}

/// What the machine looks like to guests.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// CPUs.
    pub cpus: usize,
    /// `/proc/cpuinfo`.
    pub cpuinfo: Vec<u8>,
}

/// CPU properties that programs are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    pub(crate) xsave: XsaveLayout,
    pub(crate) hwcap: u64,
    pub(crate) hwcap2: u64,
    pub(crate) min_sigstack: u64,
}

/// What a kernel is made of.
pub struct KernelConfig {
    /// Runs guest code.
    pub platform: Arc<dyn Platform>,
    /// Holds guest memory.
    pub memory: Arc<MemoryFile>,
    /// The mounts that processes see.
    pub mounts: Arc<MountNs>,
    /// What device numbers mean.
    pub devices: Arc<Devices>,
    /// The system-call table.
    pub dispatch: Arc<dyn Dispatch>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// The heap of the kernel's own objects; `None` where others use it too.
    pub heap: Option<Arc<dyn Heap>>,
    /// Hears of stops of the command.
    pub observer: Option<Arc<dyn Observer>>,
    /// Host name and the rest of uname(2).
    pub uts: Uts,
    /// CPUs.
    pub machine: Machine,
    /// Most guest threads at a time.
    pub pids: usize,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// The sandbox's command.
pub struct Command {
    /// Path of the program in the sandbox, already searched in PATH.
    pub program: Vec<u8>,
    /// Arguments, with the name.
    pub argv: Vec<Vec<u8>>,
    /// Environment.
    pub envp: Vec<Vec<u8>>,
    /// Root directory.
    pub root: Path,
    /// Working directory.
    pub cwd: Path,
    /// Mode bits that new files do not get.
    pub umask: u32,
    /// Ids and capabilities.
    pub creds: Creds,
    /// Resource limits.
    pub limits: Rlimits,
    /// Open files by number; numbers that are missing are closed.
    pub files: Vec<(i32, Arc<File>)>,
    /// Signals that it starts with ignored.
    pub ignored: SigSet,
    /// The controlling terminal of its session.
    pub tty: Option<Arc<dyn ControllingTty>>,
}

#[derive(Default)]
struct End {
    status: Option<ExitStatus>,
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
    load: Mutex<Load>,
    /// CPU time of processes that have ended. Relaxed: only a sum.
    gone_user_ns: AtomicU64,
    gone_system_ns: AtomicU64,
    timers: Timers,
    pauses: Pauses,
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
            heap: Trimmed::new(config.heap),
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
            load: Mutex::new(LOAD, Load::default()),
            gone_user_ns: AtomicU64::new(0),
            gone_system_ns: AtomicU64::new(0),
            timers: Timers::new(),
            pauses: Pauses::new(),
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
        leader.quiet.store(true, Ordering::SeqCst);
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
            leader_status: None,
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
            let mut tree = self.tasks.lock();
            tree.supervised = Some(group.pid());
            if let Ok(entry) = tree.entry(group.pid()) {
                entry.session.set_tty(Some(tty));
            }
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
            self.spawn(task, RunState::App)
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
        group.lock_signals().threads.push(Arc::clone(&thread));
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
            leader_status: None,
            zombie: None,
        });
        tree.count += 1;
        Ok((group, thread))
    }

    /// Gives a task its host thread. `EAGAIN` when the host has none left.
    pub(crate) fn spawn(self: &Arc<Self>, task: Task, first: RunState) -> Result<(), Errno> {
        *self.tasks.running.lock() += 1;
        let kernel = Arc::clone(self);
        let started = self.hosts.start(Box::new(move || {
            task.run(first);
            kernel.host_thread_done();
        }));
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
            send::begin_exit(&mut group.lock_signals(), ExitStatus::Killed(Signal::KILL));
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

    /// A process signals init: what would reach an init's handler is handed on to the command.
    pub(crate) fn signal_from_guest_to_init(&self, info: SigInfo) {
        if info.signal.is_unblockable() || info.signal == Signal::CHLD {
            return;
        }
        if let Some(group) = self.main_pid().and_then(|pid| self.tasks.group(pid)) {
            self.send_to_group(&group, info, Origin::Kernel);
        }
    }

    /// Stops all tasks; returns when they stand still. Nests.
    pub fn pause(&self) {
        self.pauses.pause(&self.tasks);
    }

    /// Takes back one [`Kernel::pause`].
    pub fn unpause(&self) {
        self.pauses.unpause();
    }

    pub(crate) fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Arms a timer of one of the kernel's own objects (timerfd): `target` hears `token` at `deadline_ns`, monotonic.
    pub fn arm_timer(
        &self,
        deadline_ns: u64,
        target: std::sync::Weak<dyn crate::time::TimerTarget>,
        token: u64,
    ) -> crate::time::TimerHandle {
        self.timers.arm(deadline_ns, target, token)
    }

    /// Takes an armed timer back; says whether it was still to come.
    pub fn disarm_timer(&self, handle: crate::time::TimerHandle) -> bool {
        self.timers.disarm(handle)
    }

    /// System V IPC.
    pub fn ipc(&self) -> &Ipc {
        &self.ipc
    }

    /// Everyone who sleeps on a futex.
    pub fn futexes(&self) -> &FutexTable {
        &self.futexes
    }

    /// What UNIX sockets share: abstract names, descriptors on their way.
    pub fn unix_sockets(&self) -> &Arc<unix::Space> {
        &self.unix_sockets
    }

    pub(crate) fn signal_quota(&self) -> &SignalQuota {
        &self.signal_quota
    }

    pub(crate) fn vdso(&self) -> &VdsoPages {
        &self.vdso
    }

    pub(crate) fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// All tasks.
    pub fn tasks(&self) -> &TaskSet {
        &self.tasks
    }

    /// What runs guest code.
    pub fn platform(&self) -> &Arc<dyn Platform> {
        &self.platform
    }

    /// Patched text, if calls are patched.
    pub(crate) fn text(&self) -> Option<Arc<mm::TextCache>> {
        self.text.clone()
    }

    /// What holds guest memory.
    pub fn memory(&self) -> &Arc<MemoryFile> {
        &self.memory
    }

    /// The mounts that processes see.
    pub fn mounts(&self) -> &Arc<MountNs> {
        &self.mounts
    }

    /// What device numbers mean.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    pub(crate) fn devices_arc(&self) -> &Arc<Devices> {
        &self.devices
    }

    /// The system-call table.
    pub fn dispatch(&self) -> &Arc<dyn Dispatch> {
        &self.dispatch
    }

    /// The wall clock, as file systems read it.
    pub fn file_clock(&self) -> &dyn fs::Clock {
        &self.file_clock
    }

    /// The heap of our own objects.
    pub(crate) fn heap(&self) -> &Trimmed {
        &self.heap
    }

    /// Random bytes.
    pub fn fill_random(&self, buf: &mut [u8]) {
        self.entropy.fill(buf);
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    pub(crate) fn randomness(&self) -> Randomness {
        let mut at_random = [0; 16];
        self.entropy.fill(&mut at_random);
        Randomness {
            stack: self.random_u64(),
            stack_offset: self.random_u64(),
            mmap: self.random_u64(),
            exec: self.random_u64(),
            brk: self.random_u64(),
            at_random,
        }
    }

    /// For a program that asked not to be placed at random (ADDR_NO_RANDOMIZE): only AT_RANDOM is.
    pub(crate) fn fixed_places(&self) -> Randomness {
        let mut at_random = [0; 16];
        self.entropy.fill(&mut at_random);
        Randomness { stack: 0, stack_offset: 0, mmap: 0, exec: 0, brk: 0, at_random }
    }

    /// Averages of how many tasks used a processor, over 1, 5 and 15 minutes, in units of 1/65536.
    pub fn load_averages(&self) -> [u64; 3] {
        let used = self.cpu_times().total();
        self.load.lock().read(self.uptime_ns(), used)
    }

    /// Extended states of the processor that programs may use, as bits of XCR0.
    pub fn extended_state(&self) -> u64 {
        self.cpu.xsave.features
    }

    /// CPU time of all processes, also of those that have ended.
    pub fn cpu_times(&self) -> CpuTimes {
        let gone = CpuTimes {
            user_ns: self.gone_user_ns.load(Ordering::Relaxed),
            system_ns: self.gone_system_ns.load(Ordering::Relaxed),
        };
        let groups = self.tasks.groups();
        groups.iter().filter(|group| !group.has_ended()).fold(gone, |sum, group| sum.plus(group.cpu_times()))
    }

    pub(crate) fn add_gone(&self, times: CpuTimes) {
        self.gone_user_ns.fetch_add(times.user_ns, Ordering::Relaxed);
        self.gone_system_ns.fetch_add(times.system_ns, Ordering::Relaxed);
    }

    /// uname(2).
    pub fn uts(&self) -> Uts {
        self.uts.lock().clone()
    }

    /// sethostname(2); `EINVAL` past 64 bytes.
    pub fn set_hostname(&self, name: &[u8]) -> Result<(), Errno> {
        self.uts.lock().nodename = uts_name(name)?;
        Ok(())
    }

    /// setdomainname(2); `EINVAL` past 64 bytes.
    pub fn set_domainname(&self, name: &[u8]) -> Result<(), Errno> {
        self.uts.lock().domainname = uts_name(name)?;
        Ok(())
    }

    /// CPUs.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// `/proc/sys/kernel/random/boot_id`.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// CLOCK_MONOTONIC when the kernel started.
    pub fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    /// The wall clock when the kernel started, in seconds.
    pub fn boot_time_secs(&self) -> u64 {
        self.boot_time_secs
    }

    /// Nanoseconds since the kernel started.
    pub fn uptime_ns(&self) -> u64 {
        sync::monotonic_now_ns().saturating_sub(self.boot_ns)
    }

    /// Most guest threads at a time.
    pub fn pids_limit(&self) -> usize {
        self.tasks.lock().limit
    }

    /// Guest memory in bytes.
    pub fn memory_info(&self) -> MemoryInfo {
        let total = self.memory.limit();
        MemoryInfo { total, free: total.saturating_sub(self.memory.usage()) }
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

/// Guest memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryInfo {
    /// The sandbox's limit.
    pub total: u64,
    /// What is left of it.
    pub free: u64,
}

fn uts_name(name: &[u8]) -> Result<String, Errno> {
    if name.len() > 64 {
        return Err(Errno::EINVAL);
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernel({})", self.boot_id)
    }
}
