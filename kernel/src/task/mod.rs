//! Tasks: guest threads as the kernel runs them.
//!
//! - [`Task`] is the state that a task's own host thread owns; system-call handlers get it as `&mut Task`. `run` is its loop, `state` what that goes through.
//! - [`Thread`] is what others may hold of it, [`ThreadGroup`] its process, [`TaskSet`] the tree of all processes.
//! - One file per operation: `clone`, `exec`, `exit`, `wait`, `jobs` (process groups, sessions), `block` (sleeping), `usage`.
//!
//! **Invariants.** A task's guest registers, platform context and run state are touched by its own host thread only.
//! Nothing that must survive a stop lives on a host stack: it is in a `state::RunState` or a restart block.

mod account;
pub mod attributes;
pub(crate) mod block;
mod clone;
pub(crate) mod cputime;
pub(crate) mod exec;
mod exit;
pub mod group;
mod jobs;
mod later;
mod oom;
pub mod pidfd;
pub mod published;
pub(crate) mod run;
pub(crate) mod set;
pub(crate) mod state;
#[cfg(test)]
mod tests;
pub mod thread;
mod usage;
mod wait;

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use arch::UserContext;
use auth::Creds;
use fs::vfs::File;
use mm::Mm;
use usermem::Addr;
use usermem::platform::{Context, FaultInfo};
use usermem::ptr::UserMemory;

use block::Sleeper;
use thread::Parts;

use crate::error::RestartBlock;
use crate::fdtable::{CloseOnExec, FdTable};
use crate::fsstate::FsState;
use crate::kernel::Kernel;
use crate::rlimit::Resource;
use crate::signal::types::{AltStack, SigSet};
use crate::syscall::Dispatch;

pub use crate::error::SysErr;
pub use crate::ids::{INIT_PID, Pid, Tid};
pub use account::{IoCounters, IoTotals};
pub use block::{Blocked, Patience};
pub use clone::CloneRequest;
pub use exec::{ExecRequest, ExecTarget};
pub use group::{Dumpable, ExitStatus, Image, ThreadGroup};
pub use set::{GroupInfo, Session, Subreaper, TaskSet};
pub use thread::{Activity, Comm, CpuTimes, Thread};
pub use usage::Usage;
pub use wait::{WaitOutcome, WaitRequest, WaitWhich};

/// A task, owned by its host thread.
pub struct Task {
    kernel: Arc<Kernel>,
    thread: Arc<Thread>,
    /// Guest registers.
    pub user: UserContext,
    pub(crate) ctx: Box<dyn Context>,
    mm: Arc<Mm>,
    fds: Arc<FdTable>,
    fs: Arc<FsState>,
    creds: Arc<Creds>,
    /// The system-call table; taken while a call is in it, so that the call may have all of the task.
    pub(crate) dispatch: Option<Arc<dyn Dispatch>>,
    pub(crate) sleeper: Sleeper,
    pub(crate) altstack: AltStack,
    /// The mask to return to when the call that replaced it ends.
    pub(crate) saved_mask: Option<SigSet>,
    pub(crate) restart_block: Option<RestartBlock>,
    /// The CPU exception that the next frame tells of.
    pub(crate) last_fault: Option<FaultInfo>,
    /// Where it met the end of memory.
    oom: oom::Met,
    /// Addresses behind `syscall` instructions that will always trap, by their low bits.
    settled_sites: [u64; run::SETTLED_SITES],
    /// set_tid_address(2), CLONE_CHILD_CLEARTID.
    pub(crate) clear_child_tid: Option<Addr>,
    /// Told when this task's first address space is no longer used by it (vfork(2)).
    pub(crate) vfork_done: Option<Arc<state::VforkDone>>,
    /// Filled into the new task's memory when it first runs (CLONE_CHILD_SETTID).
    pub(crate) set_child_tid: Option<Addr>,
    /// set_mempolicy(2).
    pub memory_policy: MemoryPolicy,
}

/// PR_SET_NO_NEW_PRIVS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NoNewPrivs {
    /// Exec may grant privileges.
    #[default]
    No,
    /// It may not, for ever.
    Yes,
}

/// Where a thread wants its memory, on a machine with one node: kept to be told, `set_mempolicy(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryPolicy {
    /// `MPOL_*`.
    pub mode: u32,
    /// `MPOL_F_*`.
    pub flags: u32,
    /// The nodes, as bits.
    pub nodes: u64,
}

/// What a task is made of.
pub(crate) struct NewTask {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) thread: Arc<Thread>,
    pub(crate) user: UserContext,
    pub(crate) ctx: Box<dyn Context>,
    pub(crate) mm: Arc<Mm>,
    pub(crate) fds: Arc<FdTable>,
    pub(crate) fs: Arc<FsState>,
    pub(crate) creds: Arc<Creds>,
}

impl Task {
    pub(crate) fn new(parts: NewTask) -> Self {
        let NewTask { kernel, thread, user, ctx, mm, fds, fs, creds } = parts;
        thread.set_interrupter(Some(ctx.interrupter()));
        let sleeper = Sleeper::new(Arc::clone(&kernel), Arc::clone(&thread));
        let dispatch = Some(Arc::clone(kernel.dispatch()));
        Self {
            kernel,
            thread,
            user,
            ctx,
            mm,
            fds,
            fs,
            creds,
            dispatch,
            sleeper,
            altstack: AltStack::default(),
            saved_mask: None,
            restart_block: None,
            last_fault: None,
            oom: oom::Met::default(),
            settled_sites: [0; run::SETTLED_SITES],
            clear_child_tid: None,
            vfork_done: None,
            set_child_tid: None,
            memory_policy: MemoryPolicy::default(),
        }
    }

    /// The kernel.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// What others see of this task.
    pub fn thread(&self) -> &Arc<Thread> {
        &self.thread
    }

    /// Its process.
    pub fn group(&self) -> &Arc<ThreadGroup> {
        self.thread.group()
    }

    /// gettid(2).
    pub fn tid(&self) -> Tid {
        self.thread.tid()
    }

    /// getpid(2).
    pub fn pid(&self) -> Pid {
        self.thread.pid()
    }

    /// getppid(2).
    pub fn ppid(&self) -> Pid {
        self.kernel.tasks().lock().entry(self.pid()).map_or(INIT_PID, |e| e.parent)
    }

    /// Its address space.
    pub fn mm(&self) -> &Arc<Mm> {
        &self.mm
    }

    /// Its memory, for copies.
    pub fn mem(&self) -> &dyn UserMemory {
        &*self.mm
    }

    /// Its descriptor table.
    pub fn fds(&self) -> &Arc<FdTable> {
        &self.fds
    }

    /// The open file `fd`; `EBADF`. With `O_PATH` files, which most calls refuse: see [`Task::fd`].
    pub fn fd_or_path(&self, fd: i32) -> Result<Arc<File>, Errno> {
        self.fds.get(fd)
    }

    /// The open file `fd`; `EBADF` if there is none, or it is open with `O_PATH` only.
    pub fn fd(&self, fd: i32) -> Result<Arc<File>, Errno> {
        let file = self.fds.get(fd)?;
        if file.is_path_only() { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// Installs `file` at the lowest free number from `min` on; `EMFILE` past RLIMIT_NOFILE.
    pub fn install_fd(&self, file: Arc<File>, min: i32, cloexec: CloseOnExec) -> Result<i32, Errno> {
        self.fds.install(file, min, self.nofile(), cloexec)
    }

    /// RLIMIT_NOFILE.
    pub fn nofile(&self) -> u64 {
        self.group().limit(Resource::Nofile).soft
    }

    /// close(2).
    pub fn close_fd(&self, fd: i32) -> Result<(), Errno> {
        let file = self.fds.remove(fd)?;
        self.close_file(file)
    }

    /// What closing a descriptor of `file` does, once it is out of the table.
    pub fn close_file(&self, file: Arc<File>) -> Result<(), Errno> {
        file.flush(&self.fs_context())
    }

    /// Gives the task a descriptor table of its own (`CLOSE_RANGE_UNSHARE`, `unshare(CLONE_FILES)`).
    pub fn unshare_fds(&mut self) {
        if self.fds.is_shared() {
            let own = Arc::new(self.fds.fork());
            let old = std::mem::replace(&mut self.fds, own);
            self.publish_parts();
            for file in old.remove_user() {
                let _ = file.flush(&self.fs_context());
            }
        }
    }

    /// Gives the task a root, working directory and umask of its own (`unshare(CLONE_FS)`).
    pub fn unshare_fs(&mut self) {
        self.fs = Arc::new(self.fs.fork());
        self.publish_parts();
    }

    /// Root, working directory, umask.
    pub fn fs(&self) -> &Arc<FsState> {
        &self.fs
    }

    /// Its credentials.
    pub fn creds(&self) -> &Arc<Creds> {
        &self.creds
    }

    /// Replaces its credentials.
    pub fn set_creds(&mut self, creds: Creds) {
        // prctl(2), PR_SET_DUMPABLE: a process that changes whom it acts as is not dumped.
        let old = &self.creds;
        if (old.euid, old.egid, old.fsuid, old.fsgid) != (creds.euid, creds.egid, creds.fsuid, creds.fsgid)
            || !old.permitted.contains(creds.permitted)
        {
            self.group().set_dumpable(Dumpable::No);
        }
        let creds = Arc::new(creds);
        self.thread.set_creds(Arc::clone(&creds));
        self.creds = creds;
        self.publish_new_creds();
    }

    /// Whether exec may grant privileges.
    pub fn no_new_privs(&self) -> NoNewPrivs {
        self.thread.attributes().no_new_privs()
    }

    /// PR_SET_NO_NEW_PRIVS.
    pub fn set_no_new_privs(&self) {
        self.thread.attributes().set_no_new_privs();
    }

    /// What file systems know of this task. The caller, for [`fs::Context::caller_as`], is its `Arc<Thread>`.
    pub fn fs_context(&self) -> fs::Context<'_> {
        let caller: &(dyn Any + Send + Sync) = &self.thread;
        fs::Context {
            creds: &self.creds,
            umask: self.fs.umask(),
            clock: self.kernel.file_clock(),
            blocker: &self.sleeper,
            lock_owner: self.fds.lock_owner(),
            devices: self.kernel.devices(),
            caller: Some(caller),
        }
    }

    /// set_tid_address(2).
    pub fn set_tid_address(&mut self, addr: Addr) -> Tid {
        self.clear_child_tid = (addr.0 != 0).then_some(addr);
        self.tid()
    }

    /// set_robust_list(2).
    pub fn set_robust_list(&mut self, head: Addr) {
        self.thread.robust_list.store(head.0, std::sync::atomic::Ordering::Relaxed);
    }

    /// The word that is cleared when the task ends (PR_GET_TID_ADDRESS).
    pub fn tid_address(&self) -> Option<Addr> {
        self.clear_child_tid
    }

    /// The block that an interrupted sleep left, for `restart_syscall`.
    pub fn take_restart_block(&mut self) -> Option<RestartBlock> {
        self.restart_block.take()
    }

    /// prctl(PR_SET_PDEATHSIG); 0 for none.
    pub fn set_death_signal(&self, signal: i32) {
        self.thread.death_signal.store(signal, std::sync::atomic::Ordering::Relaxed);
    }

    /// prctl(PR_GET_PDEATHSIG).
    pub fn death_signal(&self) -> i32 {
        self.thread.death_signal.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Shows others the parts that this task uses now.
    pub(crate) fn publish_parts(&self) {
        let old = self.thread.set_parts(Parts {
            mm: Some(Arc::clone(&self.mm)),
            fds: Some(Arc::clone(&self.fds)),
            fs: Some(Arc::clone(&self.fs)),
        });
        drop(old);
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "task {}", self.tid())
    }
}
