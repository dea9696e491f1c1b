//! Becoming another program: execve(2), execveat(2).
//!
//! All that can fail is done first, beside the running program (`prepare`): files are opened and checked, the new
//! address space is laid out and filled. Then the other threads are ended (`ExecWait`), and the new program takes over
//! in one step that cannot fail. An exec that fails therefore leaves the caller as it was.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use abi::mm::ProtFlags;
use arch::{Regs, UserContext};
use auth::{Caps, Creds, Uid};
use fs::vfs::{At, File, FileType, LookupFlags, MountOptions, Path, Perm};
use loader::{ExecFile, LoadPlan, LoadRequest, MapSource, PlannedMap};
use mm::{FileSource, MapOptions, MapRequest, Mm, NewMm, Placement, Sharing, Source};
use usermem::AddrRange;
use usermem::bytes::KernelDst;
use usermem::platform::{Context, Prot};
use usermem::ptr::UserMemory;

use stops::{Busy, Interrupted, wait_alone};

use super::attributes::persona::{ADDR_NO_RANDOMIZE, CLEAR_ON_SETID};
use super::block::Interruptible;
use super::clone::out_of_room;
use super::group::{Dumpable, ExitStatus, Image};
use super::state::{Leave, RunState, Stop};
use super::thread::{Comm, Thread};
use super::{NoNewPrivs, Task};
use crate::error::{Restart, SysErr, SysResult};
use crate::fdtable::FdTable;
use crate::kernel::Kernel;
use crate::mapped::MappedDescription;
use crate::rlimit::{Resource, Rlimits};
use crate::signal::types::{AltStack, Signal};

/// Most anonymous memory of an address space that outlives the program in it for a while.
const MOST_KEPT: u64 = 4 << 20;

/// What to execute.
pub enum ExecTarget {
    /// A path from a start directory.
    Path {
        /// Where relative paths start.
        start: Path,
        /// As the caller gave it.
        path: Vec<u8>,
        /// `FOLLOW`, unless AT_SYMLINK_NOFOLLOW.
        flags: LookupFlags,
        /// The path that scripts and AT_EXECFN get: `path`, or `/dev/fd/N/path` for execveat.
        name: Vec<u8>,
    },
    /// An open file (AT_EMPTY_PATH); the name is `/dev/fd/N`.
    File {
        /// What it is.
        path: Path,
        /// `/dev/fd/N`.
        name: Vec<u8>,
    },
}

/// Arguments of execve(2). Sizes are the caller's to bound while it copies them (`E2BIG`).
pub struct ExecRequest {
    /// What.
    pub target: ExecTarget,
    /// Arguments.
    pub argv: Vec<Vec<u8>>,
    /// Environment.
    pub envp: Vec<Vec<u8>>,
}

/// A program that is ready to take over.
pub(crate) struct PreparedExec {
    pub(super) mm: Arc<Mm>,
    pub(super) ctx: Box<dyn Context>,
    pub(super) regs: Regs,
    pub(super) comm: Comm,
    pub(super) image: Arc<Image>,
    pub(super) creds: Creds,
}

/// What a file is opened for.
#[derive(Clone, Copy)]
enum Role {
    /// To be run: nobody writes it meanwhile (ETXTBSY).
    Program,
    /// To be mapped beside what runs, as a library is.
    Interpreter,
}

/// A file opened for execution.
struct Program {
    file: Arc<File>,
    ctx: fs::KernelContext,
}

impl ExecFile for Program {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let ctx = self.ctx.context();
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.checked_add(done as u64).ok_or(Errno::EINVAL)?;
            match self.file.read_at(&ctx, &mut KernelDst::new(rest), at)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }
}

/// Who executes, and where.
pub(crate) struct Executor<'a> {
    pub(crate) kernel: &'a Arc<Kernel>,
    pub(crate) ctx: fs::Context<'a>,
    pub(crate) root: Path,
    pub(crate) cwd: Path,
    pub(crate) limits: Rlimits,
    pub(crate) no_new_privs: NoNewPrivs,
    /// personality(2).
    pub(crate) persona: u32,
}

/// As whom a program with these credentials learns where call sites are.
pub(super) fn learner(creds: &Creds) -> mm::Learner {
    mm::Learner { uid: creds.euid.0, gid: creds.egid.0, capabilities: creds.permitted.bits() }
}

impl Executor<'_> {
    /// Finds what to run and checks that it may be (execve(2), "ERRORS").
    fn open(&self, path: &Path, role: Role) -> Result<Program, Errno> {
        let attr = path.attr()?;
        if attr.file_type != FileType::Regular || path.mount.options().contains(MountOptions::NOEXEC) {
            return Err(Errno::EACCES);
        }
        path.access(&self.ctx, Perm::EXEC)?;
        // A file may be executable and not readable: the kernel reads it all the same.
        let ctx = fs::KernelContext::new(Arc::clone(self.kernel.devices_arc()));
        let file = match role {
            Role::Program => path.open_to_execute(&ctx.context())?,
            Role::Interpreter => path.open(&ctx.context(), OpenFlags::empty())?,
        };
        Ok(Program { file, ctx })
    }

    fn lookup(&self, start: &Path, path: &[u8], flags: LookupFlags) -> Result<Path, Errno> {
        At { ctx: &self.ctx, root: &self.root, start }.lookup(path, flags)
    }

    /// Does all of an exec that can fail.
    pub(crate) fn prepare(&self, request: &ExecRequest) -> Result<PreparedExec, Errno> {
        let (path, name) = match &request.target {
            ExecTarget::Path { start, path, flags, name } => (self.lookup(start, path, *flags)?, name),
            ExecTarget::File { path, name } => (path.clone(), name),
        };
        if path.attr()?.file_type == FileType::Symlink {
            return Err(Errno::ELOOP);
        }
        let program = self.open(&path, Role::Program)?;
        let mut open = |path: &[u8]| self.open(&self.lookup(&self.cwd, path, LookupFlags::FOLLOW)?, Role::Program);
        let program = loader::resolve(program, name, &request.argv, &mut open)?;
        let (creds, secure) = self.creds_for(&program.file)?;
        let limits = self.kernel.platform().limits();
        let request = LoadRequest {
            path: name,
            argv: &request.argv,
            envp: &request.envp,
            user: limits.user,
            stack_limit: self.limits.get(Resource::Stack).soft,
            identity: loader::Identity {
                uid: creds.ruid.0,
                euid: creds.euid.0,
                gid: creds.rgid.0,
                egid: creds.egid.0,
                secure,
            },
            random: if self.persona & ADDR_NO_RANDOMIZE == 0 {
                self.kernel.randomness()
            } else {
                self.kernel.fixed_places()
            },
            hwcap: self.kernel.cpu().hwcap,
            hwcap2: self.kernel.cpu().hwcap2,
            min_sigstack: self.kernel.cpu().min_sigstack,
            vdso: self.kernel.vdso().presence(),
            rseq: loader::Rseq::Absent,
        };
        let mut open = |path: &[u8]| self.open(&self.lookup(&self.cwd, path, LookupFlags::FOLLOW)?, Role::Interpreter);
        let plan = program.plan(&request, &mut open)?;
        let text = self.kernel.text().map(|cache| mm::SharedText { cache, learner: learner(&creds), secure });
        let mm = self.build(&plan, limits.user, text)?;
        let mut ctx = mm.space().new_context(None).map_err(|e| out_of_room(&e))?;
        ctx.expect_calls();
        Ok(PreparedExec {
            regs: initial_regs(&plan),
            comm: Comm::new(&plan.comm),
            image: Arc::new(Image { exe: plan.files.first().map(|f| f.file.path().clone()), auxv: plan.auxv }),
            mm,
            ctx,
            creds,
        })
    }

    /// Credentials after the exec, and AT_SECURE (execve(2), capabilities(7)).
    fn creds_for(&self, program: &Program) -> Result<(Creds, bool), Errno> {
        let mut creds = self.ctx.creds.clone();
        let path = program.file.path();
        let honoured = self.no_new_privs == NoNewPrivs::No && !path.mount.options().contains(MountOptions::NOSUID);
        let attr = program.file.attr()?;
        if honoured && attr.mode & 0o4000 != 0 {
            creds.euid = attr.uid;
        }
        // Set-group-id without group execution marks mandatory locking, not a privilege.
        if honoured && attr.mode & 0o2010 == 0o2010 {
            creds.egid = attr.gid;
        }
        creds.suid = creds.euid;
        creds.fsuid = creds.euid;
        creds.sgid = creds.egid;
        creds.fsgid = creds.egid;
        let changed = creds.euid != creds.ruid || creds.egid != creds.rgid;
        if creds.euid == Uid::ROOT || creds.ruid == Uid::ROOT {
            creds.permitted = creds.bounding.union(creds.inheritable);
            creds.effective = if creds.euid == Uid::ROOT { creds.permitted } else { creds.ambient };
        } else {
            if changed {
                creds.ambient = Caps::empty();
            }
            creds.permitted = creds.ambient;
            creds.effective = creds.ambient;
        }
        Ok((creds, changed))
    }

    /// A new address space filled as planned.
    fn build(&self, plan: &LoadPlan<Program>, user: AddrRange, text: Option<mm::SharedText>) -> Result<Arc<Mm>, Errno> {
        let space = self.kernel.platform().new_address_space().map_err(|e| out_of_room(&e))?;
        let mm = Mm::new(NewMm {
            space,
            memory: Arc::clone(self.kernel.memory()),
            layout: mm::Layout { user, mmap_base: plan.layout.mmap_base },
            limits: mm_limits(&self.limits),
            text,
        });
        let files = plan.files.iter().map(|program| {
            let object = program.file.mappable()?;
            Ok((object, MappedDescription::new(Arc::clone(&program.file), self.root.clone())))
        });
        let files = files.collect::<Result<Vec<_>, Errno>>()?;
        mm.set_direction(match plan.layout.mmap_direction {
            loader::MmapDirection::TopDown => mm::Direction::Down,
            loader::MmapDirection::BottomUp => mm::Direction::Up,
        });
        if let Some((_, program)) = files.first() {
            mm.set_executable(Arc::clone(program) as _);
        }
        for map in &plan.maps {
            let source = match map.source {
                MapSource::Anonymous => Source::Anonymous,
                MapSource::File { file, offset } => {
                    let (object, file) = files.get(file).ok_or(Errno::ENOEXEC)?;
                    Source::File(FileSource {
                        object: Arc::clone(object),
                        file: Arc::clone(file) as _,
                        offset,
                        max_prot: Prot::all(),
                    })
                }
                MapSource::Vvar => self.kernel.vdso().data_source(),
                MapSource::Vdso => self.kernel.vdso().code_source(),
            };
            mm.map(&request_for(map, source))?;
            if let Some(from) = map.zero_from {
                let len = map.range.end.0.saturating_sub(from.0);
                mm.zero(from, usize::try_from(len).map_err(|_| Errno::ENOEXEC)?)?;
            }
        }
        mm.place_slots();
        let stack = &plan.stack;
        let exec = if stack.access == loader::StackAccess::Exec { Prot::EXEC } else { Prot::empty() };
        mm.map(&MapRequest {
            placement: Placement::Fixed(stack.range.start),
            options: MapOptions::GROWSDOWN | MapOptions::STACK,
            ..MapRequest::anonymous(stack.range.len(), Prot::READ | Prot::WRITE | exec)
        })?;
        mm.write(stack.rsp, &stack.bytes)?;
        mm.set_heap_start(plan.layout.start_brk);
        let l = &plan.layout;
        mm.set_bounds(mm::Bounds {
            start_code: l.start_code,
            end_code: l.end_code,
            start_data: l.start_data,
            end_data: l.end_data,
            start_stack: l.start_stack,
            arg_start: l.arg_start,
            arg_end: l.arg_end,
            env_start: l.env_start,
            env_end: l.env_end,
        });
        mm.map_program();
        Ok(mm)
    }
}

/// Limits of memory as mm wants them.
pub(crate) fn mm_limits(limits: &Rlimits) -> mm::Limits {
    mm::Limits {
        address_space: limits.get(Resource::As).soft,
        data: limits.get(Resource::Data).soft,
        stack: limits.get(Resource::Stack).soft,
        memlock: limits.get(Resource::Memlock).soft,
    }
}

fn request_for(map: &PlannedMap, source: Source) -> MapRequest {
    let pairs =
        [(ProtFlags::PROT_READ, Prot::READ), (ProtFlags::PROT_WRITE, Prot::WRITE), (ProtFlags::PROT_EXEC, Prot::EXEC)];
    let prot = pairs.into_iter().filter(|(theirs, _)| map.prot.contains(*theirs)).map(|(_, ours)| ours).collect();
    let (label, sharing, options) = match map.source {
        MapSource::Vvar => ("[vvar]", Sharing::Private, MapOptions::SPECIAL),
        MapSource::Vdso => ("[vdso]", Sharing::Private, MapOptions::SPECIAL),
        MapSource::File { .. } | MapSource::Anonymous => ("", Sharing::Private, MapOptions::empty()),
    };
    let len = map.range.len();
    MapRequest { placement: Placement::Fixed(map.range.start), len, prot, sharing, source, options, label }
}

/// User code and stack selectors, and interrupts enabled: what Linux starts a program with.
fn initial_regs<F>(plan: &LoadPlan<F>) -> Regs {
    Regs {
        rip: plan.entry.0,
        rsp: plan.stack.rsp.0,
        cs: 0x33,
        ss: 0x2b,
        eflags: 0x202,
        orig_rax: u64::MAX,
        ..Regs::default()
    }
}

impl Task {
    /// execve(2). Comes back only with an error; a program that takes over is a change of run state.
    pub fn execve(&mut self, request: &ExecRequest) -> SysResult {
        let executor = Executor {
            kernel: self.kernel(),
            ctx: self.fs_context(),
            root: self.fs().root(),
            cwd: self.fs().cwd(),
            limits: self.group().limits(),
            no_new_privs: self.no_new_privs(),
            persona: self.thread().attributes().persona(),
        };
        let prepared = executor.prepare(request)?;
        let mut signals = self.group().lock_signals();
        signals.stops.begin_exec(self.thread()).map_err(|Busy| SysErr::Restart(Restart::NoIntr))?;
        drop(signals);
        Err(Leave::Stop(Stop::Exec(Box::new(prepared))).into())
    }

    pub(super) fn run_exec_wait(&mut self, exec: Box<PreparedExec>) -> RunState {
        let group = Arc::clone(self.group());
        let is_alone = || self.kernel().tasks().lock().entry(self.pid()).is_ok_and(|entry| entry.live == 1);
        let sleep = || self.sleeper.park(None, Interruptible::Killable).map_err(|_| Interrupted);
        if wait_alone(is_alone, sleep).is_err() {
            let status = group.lock_signals().stops.exiting().unwrap_or(ExitStatus::Killed(Signal::KILL));
            return RunState::Exit(status);
        }
        self.take_over(*exec);
        RunState::App
    }

    /// The step that cannot fail.
    fn take_over(&mut self, exec: PreparedExec) {
        let PreparedExec { mm, ctx, regs, comm, image, creds } = exec;
        self.become_leader();
        // A vfork(2) child's is its parent's too.
        let old_is_small = self.vfork_done.is_none() && self.note_rss().anonymous <= MOST_KEPT;
        // Memory: robust futexes and the thread's word are the old program's.
        self.release_robust_list();
        if let Some(addr) = self.clear_child_tid.take()
            && Arc::strong_count(self.mm()) > 2
        {
            self.clear_tid(addr);
        }
        self.thread().set_interrupter(Some(ctx.interrupter()));
        self.group().change_space(Some(&mm));
        let old_ctx = std::mem::replace(&mut self.ctx, ctx);
        let old_mm = std::mem::replace(&mut self.mm, mm);
        self.user = UserContext { regs, ..UserContext::default() };
        drop(old_ctx);
        // Descriptors: no longer shared, and those marked are closed.
        self.unshare_fds();
        let closing = self.fds().remove_cloexec();
        for file in closing {
            let _ = self.close_file(file);
        }
        self.publish_parts();
        if Arc::strong_count(&old_mm) == 1 {
            // What others see of its end is now.
            self.kernel().close_space(&old_mm, self.pid());
        }
        if old_is_small && Arc::strong_count(&old_mm) == 1 {
            // The host's part of it can wait until nobody waits for this task.
            self.sleeper.keep_old_space(old_mm);
        } else {
            drop(old_mm);
        }
        if let Some(vfork) = self.vfork_done.take() {
            vfork.complete();
        }
        // Signals: handlers go, what is ignored or pending stays (execve(2)).
        {
            let mut signals = self.group().lock_signals();
            signals.handlers = signals.handlers.for_exec();
            signals.stops.end_exec();
        }
        self.altstack = AltStack::default();
        self.restart_block = None;
        self.last_fault = None;
        self.settled_sites = [0; super::run::SETTLED_SITES];
        self.thread().set_comm(comm);
        self.group().set_image(image);
        self.group().set_barriers(0);
        self.group().timers.disarm_posix(self.kernel());
        if creds != **self.creds() {
            let attributes = self.thread().attributes();
            attributes.set_persona(attributes.persona() & !CLEAR_ON_SETID);
            self.set_death_signal(0);
            self.group().set_dumpable(Dumpable::Yes);
            self.set_creds(creds);
        } else {
            self.group().set_dumpable(Dumpable::Yes);
        }
        if let Ok(entry) = self.kernel().tasks().lock().entry_mut(self.pid()) {
            entry.execed = true;
            entry.exit_signal = entry.exit_signal.map(|_| Signal::CHLD);
        }
        self.publish_all();
    }

    /// A thread that executes becomes its process's leader and takes its number (execve(2)).
    fn become_leader(&mut self) {
        if self.thread().is_leader() {
            return;
        }
        let pid = self.pid();
        let old_tid = self.tid();
        let mut tree = self.kernel().tasks().lock();
        // The leader that made room is not reaped: this thread takes its place.
        tree.threads.remove(&old_tid);
        tree.count = tree.count.saturating_sub(1);
        self.thread().set_tid(pid.leader());
        tree.threads.insert(pid.leader(), Arc::clone(self.thread()));
        let children: Vec<_> = match tree.entry_mut(pid) {
            Ok(entry) => {
                entry.leader = Arc::clone(self.thread());
                entry.children.iter().copied().collect()
            }
            Err(_) => return,
        };
        for child in children {
            if let Ok(entry) = tree.entry_mut(child) {
                entry.parent_thread = pid.leader();
            }
        }
    }
}

/// What the first task of the sandbox starts as: there is no caller to replace.
pub(crate) fn first_task(
    kernel: &Arc<Kernel>,
    thread: Arc<Thread>,
    exec: PreparedExec,
    fds: Arc<FdTable>,
    fs: Arc<crate::fsstate::FsState>,
) -> Task {
    let PreparedExec { mm, ctx, regs, comm, image, creds } = exec;
    thread.set_comm(comm);
    thread.group().set_image(image);
    thread.group().change_space(Some(&mm));
    let creds = Arc::new(creds);
    thread.set_creds(Arc::clone(&creds));
    let user = UserContext { regs, ..UserContext::default() };
    let task = Task::new(super::NewTask { kernel: Arc::clone(kernel), thread, user, ctx, mm, fds, fs, creds });
    task.publish_parts();
    task
}
