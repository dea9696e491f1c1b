//! Making tasks: fork(2), vfork(2), clone(2), clone3(2).

use std::sync::Arc;

use abi::Errno;
use abi::clone::CloneFlags;
use mm::Company;
use usermem::Addr;
use usermem::platform::PlatformError;
use usermem::ptr::UserPtr;

use stops::Busy;

use super::attributes::Reset;
use super::group::{Handlers, ThreadGroup};

use super::set::{GroupEntry, Subreaper, Tree};
use super::state::{Leave, RunState, Stop, VforkDone};
use super::thread::{Parts, Thread};
use super::{NewTask, Task, pidfd};
use crate::error::{Restart, SysErr, SysResult};
use crate::fdtable::CloseOnExec;
use crate::fsstate::FsState;
use crate::ids::{Pid, Tid};
use crate::kernel::Beside;
use crate::rlimit::{INFINITY, Resource};
use crate::signal::types::{AltStack, Signal};

/// What clone(2) is asked for; the caller has decoded it and checked the pointers that clone3(2) names.
#[derive(Clone, Copy, Debug)]
pub struct CloneRequest {
    /// `CLONE_*`.
    pub flags: CloneFlags,
    /// Sent to the parent when the child ends; 0 for none.
    pub exit_signal: i32,
    /// The child's stack pointer; `None` keeps the caller's.
    pub stack: Option<Addr>,
    /// CLONE_SETTLS: the FS base.
    pub tls: u64,
    /// CLONE_PARENT_SETTID.
    pub parent_tid: Addr,
    /// CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID.
    pub child_tid: Addr,
    /// CLONE_PIDFD.
    pub pidfd: Addr,
    /// clone3's `set_tid` in our one pid namespace; needs CAP_CHECKPOINT_RESTORE, which the caller checks.
    pub wanted_tid: Option<u32>,
}

impl CloneRequest {
    /// fork(2).
    pub fn fork() -> Self {
        Self {
            flags: CloneFlags::empty(),
            exit_signal: Signal::CHLD.number(),
            stack: None,
            tls: 0,
            parent_tid: Addr(0),
            child_tid: Addr(0),
            pidfd: Addr(0),
            wanted_tid: None,
        }
    }

    /// vfork(2).
    pub fn vfork() -> Self {
        Self { flags: CloneFlags::CLONE_VFORK | CloneFlags::CLONE_VM, ..Self::fork() }
    }

    fn has(&self, flags: CloneFlags) -> bool {
        self.flags.contains(flags)
    }

    /// The combinations that clone(2) refuses.
    fn check(&self, task: &Task) -> Result<Option<Signal>, Errno> {
        use CloneFlags as F;
        let namespaces = F::CLONE_NEWNS
            | F::CLONE_NEWCGROUP
            | F::CLONE_NEWUTS
            | F::CLONE_NEWIPC
            | F::CLONE_NEWUSER
            | F::CLONE_NEWPID
            | F::CLONE_NEWNET
            | F::CLONE_NEWTIME;
        if self.flags.intersects(namespaces) {
            // Namespaces come with an issue of their own: what a kernel without them says, or the missing privilege.
            let privileged = task.creds().has(auth::Caps::SYS_ADMIN);
            return Err(if privileged { Errno::EINVAL } else { Errno::EPERM });
        }
        if self.has(F::CLONE_SIGHAND) && !self.has(F::CLONE_VM)
            || self.has(F::CLONE_THREAD) && !self.has(F::CLONE_SIGHAND)
            || self.has(F::CLONE_SIGHAND) && self.has(F::CLONE_CLEAR_SIGHAND)
            || self.has(F::CLONE_INTO_CGROUP)
            || self.has(F::CLONE_PIDFD) && self.has(F::CLONE_DETACHED)
        {
            return Err(Errno::EINVAL);
        }
        if self.has(F::CLONE_PARENT) && task.kernel().main_pid() == Some(task.pid()) {
            // A sibling of what init runs would outlive it unseen.
            return Err(Errno::EINVAL);
        }
        match self.exit_signal {
            0 => Ok(None),
            n => Signal::new(n).map(Some).ok_or(Errno::EINVAL),
        }
    }
}

/// How a platform's failure to make something looks to a guest: EAGAIN, as for every limit on tasks, also when it is the
/// host that has no more processes, threads or descriptors; ENOMEM for its memory, and for what is being killed.
pub(super) fn out_of_room(error: &PlatformError) -> Errno {
    log::debug!("no room for a task: {error}");
    match error {
        PlatformError::Limit(_) => Errno::EAGAIN,
        PlatformError::Host { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory => Errno::ENOMEM,
        PlatformError::Host { .. } => Errno::EAGAIN,
        PlatformError::Dead(_) => Errno::ENOMEM,
    }
}

impl Task {
    /// clone(2): makes a task; answers its thread number in the parent.
    pub fn clone_task(&mut self, request: &CloneRequest) -> SysResult {
        let exit_signal = request.check(self)?;
        self.check_process_limit()?;
        let mm = if request.has(CloneFlags::CLONE_VM) {
            Arc::clone(self.mm())
        } else {
            let space = self.kernel().platform().new_address_space().map_err(|e| out_of_room(&e))?;
            // Two are the task's own: its, and what others see of it.
            let company = if Arc::strong_count(self.mm()) > 2 { Company::Shared } else { Company::Alone };
            self.mm().fork(space, company)?
        };
        let mut ctx = mm.space().new_context(Some(&mut *self.ctx)).map_err(|e| out_of_room(&e))?;
        if request.has(CloneFlags::CLONE_VFORK) {
            // It prepares to execute a program.
            ctx.expect_calls();
        }
        let fds = if request.has(CloneFlags::CLONE_FILES) {
            self.fds().add_user();
            Arc::clone(self.fds())
        } else {
            Arc::new(self.fds().fork())
        };
        let fs: Arc<FsState> =
            if request.has(CloneFlags::CLONE_FS) { Arc::clone(self.fs()) } else { Arc::new(self.fs().fork()) };

        let parts = Parts { mm: Some(Arc::clone(&mm)), fds: Some(Arc::clone(&fds)), fs: Some(Arc::clone(&fs)) };
        let thread = match self.add_to_tree(request, exit_signal, parts) {
            Ok(thread) => thread,
            Err(error) => {
                // What the child would have closed.
                for file in fds.remove_user() {
                    let _ = self.close_file(file);
                }
                return Err(error);
            }
        };
        let tid = thread.tid();
        if !request.has(CloneFlags::CLONE_THREAD) {
            thread.group().change_space(Some(&mm));
        }

        let mut user = self.user.clone();
        user.regs.rax = 0;
        user.regs.orig_rax = u64::MAX;
        if let Some(stack) = request.stack {
            user.regs.rsp = stack.0;
        }
        if request.has(CloneFlags::CLONE_SETTLS) {
            user.regs.fs_base = request.tls;
        }
        let kernel = Arc::clone(self.kernel());
        let child_fds = Arc::clone(&fds);
        let creds = Arc::clone(self.creds());
        let mut child = Self::new(NewTask { kernel, thread: Arc::clone(&thread), user, ctx, mm, fds, fs, creds });
        child.memory_policy = self.memory_policy;
        // sigaltstack(2): kept by fork, dropped by threads that share memory, but not by vfork.
        let shares_memory = request.has(CloneFlags::CLONE_VM) && !request.has(CloneFlags::CLONE_VFORK);
        child.altstack = if shares_memory { AltStack::default() } else { self.altstack };
        child.clear_child_tid = request.has(CloneFlags::CLONE_CHILD_CLEARTID).then_some(request.child_tid);
        child.set_child_tid = request.has(CloneFlags::CLONE_CHILD_SETTID).then_some(request.child_tid);
        let vfork = request.has(CloneFlags::CLONE_VFORK).then(|| {
            let done = VforkDone::new(Arc::clone(self.thread().parker()));
            child.vfork_done = Some(Arc::clone(&done));
            done
        });

        let prepared = self.prepare_parent(request, &thread);
        // Who makes a thread, or a child of vfork(2), mostly waits for it soon.
        let beside = if request.has(CloneFlags::CLONE_VM) { Beside::Nobody } else { Beside::Parent };
        if prepared.is_err() || self.kernel().spawn(child, RunState::App, beside).is_err() {
            self.kernel().abandon(&thread);
            for file in child_fds.remove_user() {
                let _ = self.close_file(file);
            }
            prepared?;
            return Err(SysErr::Errno(Errno::EAGAIN));
        }
        match vfork {
            Some(done) => Err(Leave::Stop(Stop::Vfork { child: tid, done }).into()),
            None => Ok(u64::from(tid.0)),
        }
    }

    /// Writes what the parent gets before the child runs.
    fn prepare_parent(&mut self, request: &CloneRequest, thread: &Arc<Thread>) -> Result<(), Errno> {
        if request.has(CloneFlags::CLONE_PIDFD) {
            let subject = if request.has(CloneFlags::CLONE_THREAD) {
                pidfd::Subject::Thread(Arc::clone(thread))
            } else {
                pidfd::Subject::Process(Arc::clone(thread.group()))
            };
            let file = pidfd::open(subject, pidfd::Nonblocking::No);
            let fd = self.install_fd(file, 0, CloseOnExec::Yes)?;
            if let Err(e) = UserPtr::<i32>::new(request.pidfd).write(self.mem(), &fd) {
                let _ = self.close_fd(fd);
                return Err(e);
            }
        }
        if request.has(CloneFlags::CLONE_PARENT_SETTID) {
            // Linux does not report a bad address here either.
            let _ = UserPtr::<u32>::new(request.parent_tid).write(self.mem(), &thread.tid().0);
        }
        Ok(())
    }

    /// RLIMIT_NPROC: `EAGAIN` when the real user has as many threads.
    fn check_process_limit(&self) -> Result<(), Errno> {
        let limit = self.group().limit(Resource::Nproc).soft;
        let creds = self.creds();
        if limit == INFINITY
            || creds.ruid.is_root()
            || creds.has(auth::Caps::SYS_ADMIN)
            || creds.has(auth::Caps::SYS_RESOURCE)
        {
            return Ok(());
        }
        let tree = self.kernel().tasks().lock();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // Counting is only worth it when all threads together reach the limit.
        if tree.count < limit || tree.threads.values().filter(|t| t.creds().ruid == creds.ruid).count() < limit {
            return Ok(());
        }
        Err(Errno::EAGAIN)
    }

    fn add_to_tree(&self, request: &CloneRequest, exit_signal: Option<Signal>, parts: Parts) -> SysResult<Arc<Thread>> {
        let mut tree = self.kernel().tasks().lock();
        // A task that has to stop or end first does so, and then makes the child or not.
        let again = |_: Busy| SysErr::Restart(Restart::NoIntr);
        self.group().lock_signals().stops.check_idle().map_err(again)?;
        let number = tree.allocate(request.wanted_tid)?;
        let tid = Tid(number);
        let new_thread = |group: &Arc<ThreadGroup>, parts| {
            let thread = Thread::new(
                tid,
                Arc::clone(group),
                Arc::clone(self.creds()),
                self.thread().comm(),
                self.saved_mask.unwrap_or_else(|| self.signal_mask()),
                parts,
                sync::monotonic_now_ns(),
            );
            thread.set_nice(self.thread().nice());
            if thread.attributes().inherit(self.thread().attributes()) == Reset::Yes {
                // sched(7): a negative niceness goes too.
                thread.set_nice(self.thread().nice().max(0));
            }
            thread.set_affinity(self.thread().affinity());
            thread
        };
        let thread = if request.has(CloneFlags::CLONE_THREAD) {
            let thread = new_thread(self.group(), parts);
            // All of the process may have begun to stop or end meanwhile.
            self.group().lock_signals().stops.join(Arc::clone(&thread)).map_err(again)?;
            tree.threads.insert(tid, Arc::clone(&thread));
            tree.entry_mut(self.pid())?.live += 1;
            thread
        } else {
            let group = self.new_group(request, Pid(number));
            let thread = new_thread(&group, parts);
            group.lock_signals().stops.join(Arc::clone(&thread)).map_err(again)?;
            let entry = self.new_entry(&tree, request, exit_signal, &group, &thread)?;
            tree.add_group(entry);
            thread
        };
        tree.count += 1;
        Ok(thread)
    }

    fn new_group(&self, request: &CloneRequest, pid: Pid) -> Arc<ThreadGroup> {
        let handlers: Arc<Handlers> = {
            let signals = self.group().lock_signals();
            if request.has(CloneFlags::CLONE_SIGHAND) {
                Arc::clone(&signals.handlers)
            } else if request.has(CloneFlags::CLONE_CLEAR_SIGHAND) {
                signals.handlers.cleared()
            } else {
                signals.handlers.fork()
            }
        };
        let group = ThreadGroup::new(pid, handlers, self.group().limits(), sync::monotonic_now_ns());
        group.set_image(self.group().image());
        group.set_oom_score_adj(self.group().oom_score_adj());
        group.set_dumpable(self.group().dumpable());
        group.set_core_filter(self.group().core_filter());
        group.set_barriers(self.group().barriers());
        group.set_thp_disabled(self.group().thp_disabled());
        group.set_tty(self.group().tty());
        group
    }

    fn new_entry(
        &self,
        tree: &Tree,
        request: &CloneRequest,
        exit_signal: Option<Signal>,
        group: &Arc<ThreadGroup>,
        leader: &Arc<Thread>,
    ) -> Result<GroupEntry, Errno> {
        let own = tree.entry(self.pid())?;
        let sibling = request.has(CloneFlags::CLONE_PARENT);
        Ok(GroupEntry {
            group: Arc::clone(group),
            leader: Arc::clone(leader),
            live: 1,
            parent: if sibling { own.parent } else { self.pid() },
            parent_thread: if sibling { own.parent_thread } else { self.tid() },
            children: Default::default(),
            pgrp: own.pgrp,
            session: Arc::clone(&own.session),
            // clone(2), CLONE_PARENT: the child ends as its sibling the caller does.
            exit_signal: if sibling { own.exit_signal } else { exit_signal },
            subreaper: Subreaper::No,
            execed: false,
            zombie: None,
        })
    }
}
