//! The process that the user started: makes the sandbox process, forwards signals to it, and mirrors how it ends.
//!
//! ```text
//! launcher                                   sandbox process (pid 1 of its namespaces)
//!   open streams, logs, caller's attributes
//!   [host trees, if it may mount]
//!   fork_into(namespaces) ─────────────────▶ die with the launcher; own session; wait
//!   write id maps, order Go ───────────────▶ [host trees, if the launcher could not]
//!   forward signals ──── orders ───────────▶ memory file, empty root, drop everything, boot
//!   mirror the end  ◀─── reports ─────────── Stopped, Ended, Failed
//! ```
//!
//! **Invariant**: when the launcher returns, the sandbox process has been reaped, and with it (pid namespace) every
//! process that it had.

mod caller;
mod idmap;
mod streams;
mod terminal;
mod trees;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitIdOptions};

pub(crate) use caller::Caller;
pub(crate) use idmap::{IdMap, inner as inner_id};
pub(crate) use streams::{Stream, StreamKind};
pub(crate) use trees::{HostTree, HostView, Skeleton, TreeKind, TreeRole};

use crate::config::{GuestTerminal, Isolation, LogSink, RunConfig};
use crate::control::{Control, Order, Received, Report};
use crate::door::{Door, Request};
use crate::failure::{Doing, Failure, Outcome, STATUS_OURS, print_line};
use crate::host::{self, Forked, Inherited, ReceivedSignal};
use terminal::Terminal;

/// Signals that reach the guest instead of the launcher.
const FORWARDED: [i32; 11] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGPIPE,
];

/// Signals that the launcher blocks besides, so that they neither stop nor kill it.
const BLOCKED: [i32; 3] = [libc::SIGTTOU, libc::SIGTTIN, libc::SIGCHLD];

/// Everything that the sandbox process starts from.
#[derive(Debug)]
pub(crate) struct Setup {
    /// What to run.
    pub(crate) config: RunConfig,
    /// What the guest inherits.
    pub(crate) caller: Caller,
    /// Signal dispositions at the start.
    pub(crate) inherited: Inherited,
    /// Ids of the user namespace.
    pub(crate) ids: IdMap,
    /// Standard streams.
    pub(crate) streams: [Option<Stream>; 3],
    /// The host's files, when the launcher could open them.
    pub(crate) view: Option<HostView>,
    /// Where system calls are logged.
    pub(crate) strace: Option<OwnedFd>,
    /// Where our own log goes.
    pub(crate) debug: Option<OwnedFd>,
}

/// Whether the sandbox process is in a user namespace of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum UserNamespace {
    /// It is.
    Own,
    /// Root where user namespaces are off: the other namespaces alone.
    Inherited,
}

/// Runs `config` to its end; returns the exit status that mirrors it.
pub(crate) fn run(config: RunConfig) -> Outcome<u8> {
    let inherited = Inherited::get();
    let debug = open_log(&config.debug)?;
    crate::logging::init(debug.as_ref())?;
    let caller = Caller::read();
    raise_descriptor_limit();
    let terminal = Terminal::find().map(|terminal| Screen { terminal, guest: config.terminal });
    let streams = streams::open_all(inherited).doing("standard streams")?;
    let strace = open_log(&config.strace)?;
    let ids = IdMap::for_caller();
    let door = Door::open(config.name.as_ref())?;
    let namespaces = config.isolation == Isolation::Namespaces;
    if !namespaces {
        print_line("--isolation=seccomp: no namespaces and no empty root; the seccomp filter alone holds the sandbox");
    }
    let view = if !namespaces || may_mount() { Some(HostView::collect(&config)?) } else { None };

    let signals: Vec<i32> = FORWARDED.into_iter().filter(|&signal| !inherited.ignores(signal)).collect();
    let blocked: Vec<i32> = signals.iter().chain(&BLOCKED).copied().collect();
    let signals = host::signal_descriptor(&blocked).doing("signals")?;
    let (ours, theirs) = crate::control::pair().doing("control socket")?;

    let (forked, user_namespace) = fork(&config, ids)?;
    let child = match forked {
        Forked::Child => {
            drop((ours, door));
            let setup = Setup { config, caller, inherited, ids, streams, view, strace, debug };
            // Never returns, so nothing of the launcher (the terminal's mode) is undone twice.
            crate::sandbox::main(setup, theirs)
        }
        Forked::Parent(child) => child,
    };
    let process = Process::watch(child).doing("sandbox process")?;
    drop((theirs, streams, view, strace, caller));
    // The guest alone decides when the streams' other ends see the end of input; 2 stays for our own lines.
    detach_streams();

    if user_namespace == UserNamespace::Own
        && namespaces
        && let Err(error) = ids.write(child)
    {
        process.kill();
        process.reap();
        return Err(Failure::ours(format!("user namespace: id maps in /proc: {error} (see `casemate doctor`)")));
    }
    // A sandbox process that is already gone shows in the loop below.
    if let Some(screen) = &terminal {
        screen.begin();
    }
    let _ = ours.order(Order::Go);
    supervise(&process, &ours, &signals, terminal.as_ref(), door)
}

/// As many descriptors as this process may have: the guest keeps the caller's limit, and ours opens a tree per mount.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    // Within the hard limit nothing can refuse.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
}

fn fork(config: &RunConfig, ids: IdMap) -> Outcome<(Forked, UserNamespace)> {
    if config.isolation == Isolation::SeccompOnly {
        return Ok((host::fork_into(0).doing("fork")?, UserNamespace::Inherited));
    }
    match host::fork_into(host::SANDBOX_NAMESPACES | host::USER_NAMESPACE) {
        Ok(forked) => return Ok((forked, UserNamespace::Own)),
        Err(error) if ids != IdMap::All => {
            return Err(Failure::ours(format!(
                "user namespaces are not available here: {error} (see `casemate doctor`; --isolation=seccomp runs without)"
            )));
        }
        Err(error) => log::info!("no user namespace ({error}): continuing as root without one"),
    }
    let forked = host::fork_into(host::SANDBOX_NAMESPACES).map_err(|error| {
        Failure::ours(format!(
            "namespaces are not available here: {error} (see `casemate doctor`; --isolation=seccomp runs without)"
        ))
    })?;
    Ok((forked, UserNamespace::Inherited))
}

/// Whether this process may make bind mounts where it is.
fn may_mount() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

fn open_log(sink: &LogSink) -> Outcome<Option<OwnedFd>> {
    let fd: OwnedFd = match sink {
        LogSink::Off => return Ok(None),
        LogSink::Stderr => rustix::io::fcntl_dupfd_cloexec(io::stderr(), 3).doing("standard error")?,
        LogSink::File(path) => open_log_file(path).doing(path.display())?.into(),
    };
    Ok(Some(fd))
}

fn open_log_file(path: &Path) -> io::Result<File> {
    // Emptied, as by strace -o; appended to, because more than one of our processes writes to it.
    let flags = libc::O_NOCTTY | libc::O_TRUNC;
    OpenOptions::new().create(true).append(true).mode(0o644).custom_flags(flags).open(path)
}

fn detach_streams() {
    let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") else { return };
    let _ = rustix::stdio::dup2_stdin(&null);
    let _ = rustix::stdio::dup2_stdout(&null);
}

/// The caller's terminal, and what the guest has of it.
struct Screen {
    terminal: Terminal,
    guest: GuestTerminal,
}

impl Screen {
    /// At the start, and when the launcher goes on after a stop: keys go to the guest's own terminal, if it has one.
    fn begin(&self) {
        if self.guest == GuestTerminal::OwnTyped {
            self.terminal.set_raw();
        }
    }
}

/// The sandbox process as the launcher sees it.
struct Process {
    pid: Pid,
    handle: OwnedFd,
}

impl Process {
    fn watch(pid: Pid) -> io::Result<Self> {
        Ok(Self { pid, handle: rustix::process::pidfd_open(pid, PidfdFlags::empty())? })
    }

    fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Waits for the end and collects it; the signal that killed it, if one did.
    fn reap(&self) -> Option<i32> {
        let target = rustix::process::WaitId::Pid(self.pid);
        let status = rustix::io::retry_on_intr(|| rustix::process::waitid(target.clone(), WaitIdOptions::EXITED));
        status.ok().flatten().and_then(|status| status.terminating_signal())
    }
}

/// Forwards signals, serves visitors, and waits for the end.
fn supervise(
    process: &Process,
    control: &Control,
    signals: &OwnedFd,
    terminal: Option<&Screen>,
    mut door: Option<Door>,
) -> Outcome<u8> {
    let mut ended = None;
    loop {
        let mut set = vec![
            PollFd::new(&process.handle, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN),
        ];
        set.extend(door.iter().flat_map(Door::interests));
        match poll(&mut set, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::ours(format!("poll: {error}"))),
        }
        let process_ended = set.first().is_some_and(|process| !process.revents().is_empty());
        while let Some(signal) = host::next_signal(signals.as_fd()) {
            forward(signal, control, terminal);
        }
        let closed = take_reports(process, control, terminal, door.as_mut(), &mut ended);
        if let Some(door) = &mut door {
            // A sandbox process that is gone shows above, next time.
            door.serve(|request| drop(control.order(order_for(request))));
        }
        if process_ended || closed {
            // A closed socket without an exit is a process on its way out, or a broken one: either way it must go.
            process.kill();
            let signal = process.reap();
            return conclude(ended, signal);
        }
    }
}

/// How the sandbox process said that it ended.
enum Ended {
    Mirrored(u8),
    Failed(Failure),
}

/// Handles the reports that are there; says whether the other end is gone.
fn take_reports(
    process: &Process,
    control: &Control,
    terminal: Option<&Screen>,
    mut door: Option<&mut Door>,
    ended: &mut Option<Ended>,
) -> bool {
    loop {
        match control.try_next_report() {
            Ok(None) => return false,
            Ok(Some(Received::Closed)) => return true,
            Err(error) => {
                ended.get_or_insert(Ended::Failed(Failure::ours(format!("control socket: {error}"))));
                return true;
            }
            Ok(Some(Received::Message(report))) => match report {
                Report::Failed { status, line } => {
                    ended.get_or_insert(Ended::Failed(Failure::from_parts(status, line)));
                    process.kill();
                }
                Report::Ended { status } => {
                    ended.get_or_insert(Ended::Mirrored(status));
                    process.kill();
                }
                Report::Notice(line) => print_line(&line),
                Report::Stopped => stop_like_the_guest(terminal),
                Report::Done => door.iter_mut().for_each(|door| door.done()),
            },
        }
    }
}

fn order_for(request: Request) -> Order {
    match request {
        Request::Pause => Order::Pause,
        Request::Resume => Order::Resume,
    }
}

fn conclude(ended: Option<Ended>, signal: Option<i32>) -> Outcome<u8> {
    match (ended, signal) {
        (Some(Ended::Mirrored(status)), _) => Ok(status),
        (Some(Ended::Failed(failure)), _) => Err(failure),
        (None, Some(signal)) => Err(Failure::ours(format!("the sandbox process was killed by signal {signal}"))),
        // It has said why on standard error.
        (None, None) => Ok(STATUS_OURS),
    }
}

fn forward(signal: ReceivedSignal, control: &Control, terminal: Option<&Screen>) {
    if BLOCKED.contains(&signal.number) {
        return;
    }
    if signal.number == libc::SIGCONT
        && let Some(screen) = terminal
    {
        // The shell that stopped us may have left its own mode; the guest's came back in `stop_like_the_guest`.
        screen.begin();
    }
    // What the terminal sends goes to the guest's foreground group, what a process sends to the command.
    let order = if signal.code == libc::SI_KERNEL && terminal.is_some() {
        Order::TerminalSignal(signal.number)
    } else {
        Order::Signal(signal.number)
    };
    // A sandbox process that is gone shows in the loop.
    let _ = control.order(order);
}

/// The command has stopped: the launcher stops too, with the caller's terminal mode while it is stopped. A guest with a
/// terminal of its own does that by itself.
fn stop_like_the_guest(screen: Option<&Screen>) {
    let terminal = match screen {
        Some(screen) if screen.guest != GuestTerminal::Callers => return,
        Some(screen) => Some(&screen.terminal),
        None => None,
    };
    let mode = terminal.and_then(Terminal::current);
    if let Some(terminal) = terminal {
        terminal.restore();
    }
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
    // Continued.
    if let (Some(terminal), Some(mode)) = (terminal, mode) {
        terminal.set(&mode);
    }
}
