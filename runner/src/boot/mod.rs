//! Builds our kernel in the sandbox process and runs the command in it: platform, memory, files, credentials, environment,
//! standard streams, and the filter just before the first guest instruction.

mod command;
mod environment;
mod files;
mod makers;
mod orders;
mod resolver;
mod streams;
mod users;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use auth::{Creds, Gid, Uid};
use fs::KernelContext;
use fs::vfs::{At, Devices, LookupFlags, MountOptions};
use kernel::heap::Heap;
use kernel::rlimit::{Resource, Rlimit, Rlimits};
use kernel::signal::types::{SigSet, Signal};
use kernel::tty::Terminals;
use kernel::{Command, Entropy, Kernel, KernelConfig, Machine, Observer, Supervised, Uts};
use platform_systrap::{Calls, Systrap, SystrapConfig};
use usermem::memfile::MemoryFile;
use usermem::platform::{HostCallRule, Platform};

pub(crate) use kernel::crash_context;
pub(crate) use resolver::ResolverFiles;

use crate::config::GuestTerminal;
use crate::control::{Control, Report};
use crate::failure::{Doing, Failure, Outcome, describe};
use crate::host;
use crate::launcher::{Caller, HostView, Setup};
use crate::sandbox::{MemoryFiles, OomScore, install_filter};
use files::Tree;
use makers::GuestRoot;
use streams::{Places, Relay, Terminal, Typing};
use users::Identity;

/// Largest `/etc/passwd` or `/etc/group` that `--user` reads.
const LARGEST_USER_FILE: usize = 4 << 20;

/// Everything that the sandbox process has left when it is confined.
pub(crate) struct Boot {
    /// What to run.
    pub(crate) setup: Setup,
    /// The host's files.
    pub(crate) view: HostView,
    /// The memory file.
    pub(crate) memory: MemoryFiles,
    /// Small files read before the host's went away.
    pub(crate) resolver: ResolverFiles,
    /// This process's score.
    pub(crate) oom: Option<OomScore>,
    /// The launcher.
    pub(crate) control: Arc<Control>,
}

/// The C library's heap: nobody else is in this process.
struct HostHeap;

impl Heap for HostHeap {
    fn trim(&self) {
        host::trim_heaps();
    }
}

/// Random bytes from the host.
struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&self, buf: &mut [u8]) {
        let mut rest = buf;
        while !rest.is_empty() {
            let length = match rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()) {
                Ok(length) => length,
                Err(rustix::io::Errno::INTR) => 0,
                // The host's generator cannot fail once it is seeded; bytes that are not random would be worse.
                Err(error) => panic!("getrandom: {error}"),
            };
            rest = rest.get_mut(length..).unwrap_or_default();
        }
    }
}

/// Tells the launcher when the command stops.
struct Mirror {
    control: Arc<Control>,
}

impl Observer for Mirror {
    fn stopped(&self, _signal: Signal) {
        // A launcher that is gone takes us along.
        let _ = self.control.report(&Report::Stopped);
    }

    fn continued(&self) {}

    fn stuck(&self, line: &str) {
        let _ = self.control.report(&Report::Notice(line.to_owned()));
    }
}

/// Carries what comes from outside into the kernel.
#[derive(Clone)]
struct Outside {
    kernel: Arc<Kernel>,
    terminal: Keys,
}

/// Where the caller's terminal sends signals.
#[derive(Clone)]
enum Keys {
    /// To the foreground of the same terminal, as the guest sees it.
    Callers(Arc<Terminal>),
    /// To the guest's own terminal.
    Own(Arc<Relay>),
}

impl orders::Guest for Outside {
    fn signal(&self, number: i32) {
        if let Some(signal) = Signal::new(number) {
            self.kernel.signal_main(signal);
        }
    }

    fn terminal_signal(&self, number: i32) {
        let Some(signal) = Signal::new(number) else { return };
        match &self.terminal {
            Keys::Callers(terminal) => streams::signal_foreground(&self.kernel, terminal, signal),
            // The size tells who is in the foreground.
            Keys::Own(relay) if signal == Signal::WINCH => relay.resize(),
            Keys::Own(relay) => relay.pty().signal(signal),
        }
    }

    fn pause(&self) {
        self.kernel.pause();
    }

    fn resume(&self) {
        self.kernel.unpause();
    }
}

impl Boot {
    /// Runs the command to its end; the status that mirrors it.
    pub(crate) fn run(self) -> Outcome<u8> {
        let Self { mut setup, view, memory, mut resolver, oom, control } = self;
        let (write, read_only) = (Arc::new(memory.write), Arc::new(memory.read_only));
        let duplicate = |fd: &Arc<OwnedFd>| fd.try_clone().doing("memory file");
        let (write_too, read_only_too) = (duplicate(&write)?, duplicate(&read_only)?);
        let mut config = SystrapConfig::new(write, read_only);
        config.cpus = setup.config.cpus;
        config.handover = setup.config.handover;
        config.calls = match setup.config.patching {
            crate::config::Patching::On => Calls::Entered,
            crate::config::Patching::Off => Calls::Trapped,
        };
        // Forks the zygote: from this thread, while it is the only one, before the filter.
        let start = || Systrap::new(&config);
        let platform = oom.map_or_else(start, |oom| oom.raised_during(start));
        let platform = platform.map_err(|error| Failure::ours(format!("systrap: {error} (see `casemate doctor`)")))?;
        host::install_fault_handlers();
        let machine = machine(std::mem::take(&mut resolver.cpuinfo));
        host::settle_heaps(machine.cpus);
        let limit = setup.config.memory;
        let memory = MemoryFile::new(write_too, read_only_too, limit).doing("memory file")?;

        let devices = Arc::new(Devices::new());
        let context = KernelContext::new(Arc::clone(&devices));
        let makers = makers::FromHost::new(&memory, setup.ids, limit / 2);
        let tree = files::build(context.context(), &makers, view, setup.ids, &setup.config)?;
        let identity = identity(&setup, &tree)?;
        let host_calls = platform.host_calls();

        let strace = setup.strace.take();
        let kernel = Kernel::new(KernelConfig {
            platform: Arc::new(platform),
            memory: Arc::clone(&memory),
            mounts: Arc::clone(tree.namespace()),
            devices: Arc::clone(&devices),
            dispatch: Arc::new(syscalls_linux::Linux::new(strace.map(trace_to))),
            entropy: Arc::new(HostEntropy),
            heap: Some(Arc::new(HostHeap)),
            observer: Some(Arc::new(Mirror { control: Arc::clone(&control) })),
            uts: Uts::new(&hostname(&setup)),
            machine,
            pids: usize::try_from(setup.config.pids).unwrap_or(usize::MAX),
            boot_id: uuid(),
        })
        .doing("kernel")?;
        let root = if setup.config.rootfs.is_some() { GuestRoot::ItsOwn } else { GuestRoot::OfTheHost };
        let terminals = makers.add_kernel_trees(&tree, &kernel, &devices, root)?;
        for (path, bytes) in &resolver.files {
            tree.write_file(path, bytes)?;
        }

        if setup.config.terminal != GuestTerminal::Callers {
            let guest = AtTerminal { kernel, tree: &tree, context: &context, terminals };
            return guest.run(setup, identity, host_calls, control);
        }
        let terminal = Terminal::new(&kernel);
        let streams = streams::open(
            std::mem::take(&mut setup.streams),
            setup.ids,
            &terminal,
            &Places { tree: &tree, devices: &devices, devpts: terminals.devpts() },
        )?;
        let mut command = prepare(&setup, &tree, &context, identity, streams)?;
        command.tty = terminal.controlling();
        command.supervised = Supervised::Yes;
        install_filter(host_calls, &setup.config.debug)?;
        orders::follow(control, Outside { kernel: Arc::clone(&kernel), terminal: Keys::Callers(terminal) })?;
        let name = setup.config.command.first().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        kernel.start(command).map_err(|errno| command::refused(&name, errno))?;
        Ok(kernel.wait_command().shell_code())
    }
}

/// A guest that gets a terminal of its own.
struct AtTerminal<'a> {
    kernel: Arc<Kernel>,
    tree: &'a Tree<'a>,
    context: &'a KernelContext,
    terminals: Terminals,
}

impl AtTerminal<'_> {
    /// Runs the command at the terminal to its end.
    fn run(
        self,
        mut setup: Setup,
        identity: Identity,
        host_calls: &'static [HostCallRule],
        control: Arc<Control>,
    ) -> Outcome<u8> {
        let trouble = |errno| Failure::ours(format!("terminal: {}", describe(errno)));
        let creds = Creds::new(Uid(identity.uid), Gid(identity.gid), Vec::new());
        let ours = self.context.context();
        let (master, pty) = self.terminals.make_console(&ours.with_creds(&creds)).map_err(trouble)?;
        let file = self.tree.open_terminal(pty.index()).map_err(trouble)?;
        let files = (0..3).map(|number| (number, Arc::clone(&file))).collect();
        let typing = match setup.config.terminal {
            GuestTerminal::OwnTyped => Typing::Yes,
            _ => Typing::No,
        };
        let relay = Arc::new(Relay::start(master, &pty, std::mem::take(&mut setup.streams), typing)?);
        let mut command = prepare(&setup, self.tree, self.context, identity, files)?;
        command.tty = Some(pty);
        drop(file);
        install_filter(host_calls, &setup.config.debug)?;
        let keys = Keys::Own(Arc::clone(&relay));
        orders::follow(control, Outside { kernel: Arc::clone(&self.kernel), terminal: keys })?;
        let name = setup.config.command.first().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        self.kernel.start(command).map_err(|errno| command::refused(&name, errno))?;
        let status = self.kernel.wait_command();
        relay.finish();
        Ok(status.shell_code())
    }
}

/// What the command starts from.
fn prepare(
    setup: &Setup,
    tree: &Tree<'_>,
    context: &KernelContext,
    identity: Identity,
    files: Vec<(i32, Arc<fs::vfs::File>)>,
) -> Outcome<Command> {
    let (config, caller) = (&setup.config, &setup.caller);
    let groups = identity.groups.iter().copied().map(Gid).collect();
    let creds = Creds::new(Uid(identity.uid), Gid(identity.gid), groups);
    let envp = environment::build(config, &caller.env, &identity.home);
    let root = tree.namespace().root();
    let ours = context.context();
    let theirs = ours.with_creds(&creds);

    let wanted = match (&config.cwd, &config.rootfs) {
        (Some(cwd), _) => Some(cwd.as_path()),
        (None, None) => caller.cwd.as_deref(),
        (None, Some(_)) => None,
    };
    let cwd = match wanted {
        None => root.clone(),
        Some(path) => {
            let at = At { ctx: &theirs, root: &root, start: &root };
            match at.lookup(path.as_os_str().as_bytes(), LookupFlags::FOLLOW | LookupFlags::DIRECTORY) {
                Ok(place) => place,
                // Asked for: it must be there. The caller's own may be in a part of the host that is not shown.
                Err(errno) if config.cwd.is_some() => {
                    return Err(Failure::ours(format!("--cwd {}: {}", path.display(), describe(errno))));
                }
                Err(errno) => {
                    log::warn!("{}: {}: starting in /", path.display(), describe(errno));
                    root.clone()
                }
            }
        }
    };
    let argv: Vec<Vec<u8>> = config.command.iter().map(|argument| argument.as_bytes().to_vec()).collect();
    let name = argv.first().cloned().unwrap_or_default();
    let program = command::find(&theirs, &root, &cwd, &environment::search_path(&envp), &name)?;
    Ok(Command {
        program,
        argv,
        envp,
        root,
        cwd,
        umask: if config.rootfs.is_some() { 0o022 } else { caller.umask },
        creds,
        limits: limits(setup, caller),
        files,
        ignored: SigSet(setup.inherited.ignored_signals),
        tty: None,
        supervised: Supervised::No,
    })
}

/// Who the command runs as.
fn identity(setup: &Setup, tree: &Tree<'_>) -> Outcome<Identity> {
    let (config, caller) = (&setup.config, &setup.caller);
    if let Some(user) = &config.user {
        let passwd = tree.read_file(b"/etc/passwd", LARGEST_USER_FILE);
        let group = tree.read_file(b"/etc/group", LARGEST_USER_FILE);
        return users::resolve(user, &passwd, &group).map_err(Failure::ours);
    }
    if config.rootfs.is_some() {
        return Ok(Identity { uid: 0, gid: 0, groups: Vec::new(), home: b"/root".to_vec() });
    }
    Ok(Identity { uid: caller.uid, gid: caller.gid, groups: caller.groups.clone(), home: b"/".to_vec() })
}

/// The caller's limits, or Linux's for a guest with its own root directory.
fn limits(setup: &Setup, caller: &Caller) -> Rlimits {
    let mut limits = Rlimits::default();
    if setup.config.rootfs.is_none() {
        for limit in &caller.limits {
            if let Ok(resource) = Resource::from_raw(limit.resource) {
                limits.set_unchecked(resource, Rlimit { soft: limit.soft, hard: limit.hard });
            }
        }
    }
    limits
}

fn hostname(setup: &Setup) -> String {
    match (&setup.config.hostname, &setup.config.rootfs) {
        (Some(name), _) => name.clone(),
        (None, None) => setup.caller.hostname.clone(),
        (None, Some(_)) => "casemate".to_owned(),
    }
}

fn machine(cpuinfo: Vec<u8>) -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Machine { cpus, cpuinfo }
}

/// A random UUID, version 4 (RFC 9562).
fn uuid() -> String {
    let mut bytes = [0_u8; 16];
    HostEntropy.fill(&mut bytes);
    let number = u128::from_be_bytes(bytes);
    let number = number & !(0xf000 << 64) | (0x4000 << 64);
    let number = number & !(0xc000 << 48) | (0x8000 << 48);
    let hex = format!("{number:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// Writes each line in one piece; a sink that fails loses lines and nothing else.
fn trace_to(sink: OwnedFd) -> syscalls_linux::Strace {
    let file = std::fs::File::from(sink);
    syscalls_linux::Strace::new(Box::new(move |line| {
        let _ = (&file).write_all(line.as_bytes());
    }))
}

/// Options of file systems that hold no programs and no devices.
const PLAIN: MountOptions =
    MountOptions::NOSUID.union(MountOptions::NODEV).union(MountOptions::NOEXEC).union(MountOptions::RELATIME);

#[cfg(test)]
mod tests {
    #[test]
    fn uuids_have_their_form() {
        let id = super::uuid();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }
}
