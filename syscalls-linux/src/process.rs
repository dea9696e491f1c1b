//! Processes and threads: making, running, ending, waiting for and naming them.

use std::sync::Arc;

use abi::Errno;
use abi::clone::{CLONE_ARGS_SIZE_VER0, CSIGNAL, CloneArgs, CloneFlags};
use abi::fs::AtFlags;
use abi::resource::Rusage;
use abi::signal::SigInfo;
use abi::time::Timeval;
use abi::wait::{P_ALL, P_PGID, P_PID, P_PIDFD, WaitOptions};
use auth::Caps;
use fs::vfs::LookupFlags;
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::pidfd::{Nonblocking, PidFd};
use kernel::task::{CloneRequest, ExecRequest, ExecTarget, Pid, Task, Tid, Usage, WaitOutcome, WaitRequest, WaitWhich};
use usermem::Addr;

use crate::args::{DirFd, Flags, Hex, In, Out, PathArg, StrVecArg, WaitIdType};
use crate::mem;
use crate::remote::may_trace;
use crate::walk::{CWD, lookup_flags, pathname, pathname_or_empty, start};

syscalls! {
    pub(crate) const ROWS;

    /// Makes a process.
    fork [57, -] Full("pidfd::raw_fork_and_clone");
    /// Makes a process that borrows the memory of its parent.
    vfork [58, -] Full("process::vfork_shares_memory_and_waits");
    /// Makes a process or thread.
    clone [56, 220] Partial("no new namespaces");
    /// Makes a process or thread, the extensible form.
    clone3 [435, 435] Partial("no new namespaces");
    /// Runs a program.
    execve [59, 221] Full("process::exec_errors");
    /// Runs a program, from a directory or descriptor.
    execveat [322, 281] Full("pidfd::files_run_by_descriptor");
    /// Ends the thread.
    exit [60, 93] Full("thread::many_threads_come_and_go");
    /// Ends the process.
    exit_group [231, 94] Full("thread::exit_group_ends_every_thread");
    /// Waits for a child.
    wait4 [61, 260] Full("process::wait_options_and_errors");
    /// Waits for a child, without or with reaping.
    waitid [247, 95] Full("process::waitid_reports_without_reaping");
    /// Number of the process.
    getpid [39, 172] Full("process::a_child_has_its_parent_and_its_own_pid");
    /// Number of the thread.
    gettid [186, 178] Full("thread::threads_share_memory_and_have_tids");
    /// Number of the parent process.
    getppid [110, 173] Full("process::a_child_has_its_parent_and_its_own_pid");
    /// Number of the process group.
    getpgrp [111, -] Full("process::groups_and_sessions");
    /// Number of a process's group.
    getpgid [121, 155] Full("pidfd::process_groups_by_the_rules");
    /// Moves a process to a group.
    setpgid [109, 154] Full("pidfd::process_groups_by_the_rules");
    /// Number of a process's session.
    getsid [124, 156] Full("pidfd::process_groups_by_the_rules");
    /// Begins a session.
    setsid [112, 157] Full("process::groups_and_sessions");
    /// Names the word that is cleared when the thread ends.
    set_tid_address [218, 96] Full("pidfd::thread_words_are_kept");
    /// Names the list of futexes to release when the thread ends.
    set_robust_list [273, 99] Full("futexes::robust_words_tell_of_a_death");
    /// Asks for the list of futexes to release.
    get_robust_list [274, 100] Full("kept::robust_lists_are_told");
    /// Gives the caller its own copy of what it shares.
    unshare [272, 97] Partial("descriptors, working directory; no new namespaces");
    /// Enters a namespace.
    setns [308, 268] Unsupported(EPERM, "one namespace of each kind")(Fd, Hex);
}

/// `fork(2)`.
fn fork(task: &mut Task) -> SysResult {
    task.clone_task(&CloneRequest::fork())
}

/// `vfork(2)`.
fn vfork(task: &mut Task) -> SysResult {
    task.clone_task(&CloneRequest::vfork())
}

/// `clone(2)`, the call: the low byte of the flags is the exit signal, and a pidfd goes where the parent's copy of the
/// thread number would.
fn clone(
    task: &mut Task,
    flags: Flags<CloneFlags>,
    stack: Addr,
    parent_tid: Addr,
    child_tid: Addr,
    tls: Hex,
) -> SysResult {
    let raw = flags.0.bits() & 0xffff_ffff;
    let flags = CloneFlags::from_bits_retain(raw & !CSIGNAL);
    if flags.contains(CloneFlags::CLONE_PIDFD | CloneFlags::CLONE_PARENT_SETTID) {
        return Err(Errno::EINVAL.into());
    }
    task.clone_task(&CloneRequest {
        flags,
        exit_signal: i32::try_from(raw & CSIGNAL).map_err(|_| Errno::EINVAL)?,
        stack: (stack.0 != 0).then_some(stack),
        tls: tls.0,
        parent_tid,
        child_tid,
        pidfd: parent_tid,
        wanted_tid: None,
    })
}

/// The stack pointer that `clone3(2)` names by lowest address and size.
fn stack_of(args: &CloneArgs) -> Result<Option<Addr>, Errno> {
    match (args.stack, args.stack_size) {
        (0, 0) => Ok(None),
        (0, _) | (_, 0) => Err(Errno::EINVAL),
        (stack, size) => Addr(stack).checked_add(size).map(Some).ok_or(Errno::EINVAL),
    }
}

/// The thread number that `clone3(2)` wants, `set_tid`.
fn wanted_tid(task: &Task, args: &CloneArgs) -> Result<Option<u32>, Errno> {
    match (args.set_tid, args.set_tid_size) {
        (0, 0) => Ok(None),
        (_, 1) if args.set_tid != 0 => {
            if !task.creds().has(Caps::CHECKPOINT_RESTORE) && !task.creds().has(Caps::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            let tid: i32 = mem::read(task, Addr(args.set_tid))?;
            u32::try_from(tid).ok().filter(|&tid| tid > 0).map(Some).ok_or(Errno::EINVAL)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `clone3(2)`.
fn clone3(task: &mut Task, args: In<CloneArgs>, size: usize) -> SysResult {
    let args: CloneArgs = mem::read_extensible(task, args.0, size, CLONE_ARGS_SIZE_VER0)?;
    let flags = CloneFlags::from_bits(args.flags).ok_or(Errno::EINVAL)?;
    if flags.contains(CloneFlags::CLONE_DETACHED) || args.exit_signal & !CSIGNAL != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags.intersects(CloneFlags::CLONE_THREAD | CloneFlags::CLONE_PARENT) && args.exit_signal != 0 {
        return Err(Errno::EINVAL.into());
    }
    let request = CloneRequest {
        flags,
        exit_signal: i32::try_from(args.exit_signal).map_err(|_| Errno::EINVAL)?,
        stack: stack_of(&args)?,
        tls: args.tls,
        parent_tid: Addr(args.parent_tid),
        child_tid: Addr(args.child_tid),
        pidfd: Addr(args.pidfd),
        wanted_tid: wanted_tid(task, &args)?,
    };
    task.clone_task(&request)
}

/// `exit(2)`, the call: this thread alone.
fn exit(task: &mut Task, code: i32) -> SysResult {
    task.exit_thread(code)
}

/// `exit_group(2)`.
fn exit_group(task: &mut Task, code: i32) -> SysResult {
    task.exit_group(code)
}

/// Nanoseconds as seconds and microseconds.
pub(crate) fn timeval(ns: u64) -> Timeval {
    Timeval {
        tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_usec: i64::try_from(ns % 1_000_000_000 / 1000).unwrap_or(0),
    }
}

/// What was used, as `getrusage(2)` tells it.
pub(crate) fn to_rusage(usage: &Usage) -> Rusage {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Rusage {
        ru_utime: timeval(usage.user_ns),
        ru_stime: timeval(usage.system_ns),
        ru_maxrss: signed(usage.max_rss_kib),
        ru_minflt: signed(usage.minor_faults),
        ru_nvcsw: signed(usage.voluntary_switches),
        ru_nivcsw: signed(usage.involuntary_switches),
        ..Rusage::default()
    }
}

/// `wait4(2)`.
fn wait4(
    task: &mut Task,
    pid: i32,
    status: Out<i32>,
    options: Flags<WaitOptions>,
    rusage: Out<Rusage>,
) -> SysResult<i32> {
    let options = options.within(
        WaitOptions::WNOHANG
            | WaitOptions::WUNTRACED
            | WaitOptions::WCONTINUED
            | WaitOptions::__WNOTHREAD
            | WaitOptions::__WCLONE
            | WaitOptions::__WALL,
    )?;
    let which = match pid {
        -1 => WaitWhich::Any,
        0 => WaitWhich::OwnGroup,
        i32::MIN => return Err(Errno::ESRCH.into()),
        pid if pid < 0 => WaitWhich::Group(Pid(pid.unsigned_abs())),
        pid => WaitWhich::Process(Pid(pid.unsigned_abs())),
    };
    let request = WaitRequest { which, options: options | WaitOptions::WEXITED };
    let Some(outcome) = task.wait(&request)? else { return Ok(0) };
    status.write_opt(task, &outcome.wait_status)?;
    rusage.write_opt(task, &to_rusage(&outcome.usage))?;
    Ok(outcome.pid.raw())
}

/// What `waitid(2)` waits for, and whether the descriptor it names says not to wait.
fn waitid_which(task: &Task, kind: u32, id: i32) -> Result<(WaitWhich, Nonblocking), Errno> {
    let which = match kind {
        P_ALL => WaitWhich::Any,
        P_PID => WaitWhich::Process(Pid::from_raw(id).ok_or(Errno::EINVAL)?),
        P_PGID if id == 0 => WaitWhich::OwnGroup,
        P_PGID => WaitWhich::Group(Pid::from_raw(id).ok_or(Errno::EINVAL)?),
        P_PIDFD => {
            let id = if id < 0 { return Err(Errno::EINVAL) } else { id };
            let file = task.fd(id)?;
            let pidfd = file.ops_as::<PidFd>().ok_or(Errno::EBADF)?;
            let process = pidfd.group().pid();
            if pidfd.thread().is_some_and(|tid| tid != process.leader()) {
                // Nobody's child.
                return Err(Errno::ECHILD);
            }
            let nonblocking = if file.is_nonblocking() { Nonblocking::Yes } else { Nonblocking::No };
            return Ok((WaitWhich::Process(process), nonblocking));
        }
        _ => return Err(Errno::EINVAL),
    };
    Ok((which, Nonblocking::No))
}

fn wait_info(outcome: Option<&WaitOutcome>) -> SigInfo {
    outcome.map_or_else(SigInfo::default, |outcome| {
        SigInfo::child(outcome.code, outcome.pid.raw(), outcome.uid, outcome.status, 0, 0)
    })
}

/// `waitid(2)`, the call: stores resource usage too.
fn waitid(
    task: &mut Task,
    kind: WaitIdType,
    id: i32,
    info: Out<SigInfo>,
    options: Flags<WaitOptions>,
    rusage: Out<Rusage>,
) -> SysResult<()> {
    let options = options.known()?;
    if !options.intersects(WaitOptions::WEXITED | WaitOptions::WSTOPPED | WaitOptions::WCONTINUED) {
        return Err(Errno::EINVAL.into());
    }
    let (which, nonblocking) = waitid_which(task, kind.0, id)?;
    let waits = nonblocking == Nonblocking::No;
    let request = WaitRequest { which, options: if waits { options } else { options | WaitOptions::WNOHANG } };
    let outcome = task.wait(&request)?;
    if outcome.is_none() && !waits && !options.contains(WaitOptions::WNOHANG) {
        return Err(Errno::EAGAIN.into());
    }
    if let Some(outcome) = &outcome {
        rusage.write_opt(task, &to_rusage(&outcome.usage))?;
    }
    Ok(info.write_opt(task, &wait_info(outcome.as_ref()))?)
}

/// `getpid(2)`.
fn getpid(task: &mut Task) -> Result<i32, Errno> {
    Ok(task.pid().raw())
}

/// `gettid(2)`.
fn gettid(task: &mut Task) -> Result<i32, Errno> {
    Ok(task.tid().raw())
}

/// `getppid(2)`.
fn getppid(task: &mut Task) -> Result<i32, Errno> {
    Ok(task.ppid().raw())
}

/// `getpgrp(2)`.
fn getpgrp(task: &mut Task) -> Result<i32, Errno> {
    task.getpgid(None).map(Pid::raw)
}

/// A process by number; 0 is the caller.
fn process_or_self(pid: i32) -> Result<Option<Pid>, Errno> {
    if pid == 0 { Ok(None) } else { Pid::from_raw(pid).map(Some).ok_or(Errno::ESRCH) }
}

/// `getpgid(2)`.
fn getpgid(task: &mut Task, pid: i32) -> Result<i32, Errno> {
    task.getpgid(process_or_self(pid)?).map(Pid::raw)
}

/// `setpgid(2)`.
fn setpgid(task: &mut Task, pid: i32, pgid: i32) -> Result<(), Errno> {
    // A group of 0 is the process's own number, whatever that is.
    if pgid < 0 || (pgid == 0 && pid < 0) {
        return Err(Errno::EINVAL);
    }
    task.setpgid(process_or_self(pid)?, Pid::from_raw(pgid))
}

/// `getsid(2)`.
fn getsid(task: &mut Task, pid: i32) -> Result<i32, Errno> {
    task.getsid(process_or_self(pid)?).map(Pid::raw)
}

/// `setsid(2)`.
fn setsid(task: &mut Task) -> Result<i32, Errno> {
    task.setsid().map(Pid::raw)
}

/// `set_tid_address(2)`.
fn set_tid_address(task: &mut Task, addr: Addr) -> Result<i32, Errno> {
    Ok(task.set_tid_address(addr).raw())
}

/// `set_robust_list(2)`.
fn set_robust_list(task: &mut Task, head: Addr, len: usize) -> Result<(), Errno> {
    if len != size_of::<abi::futex::RobustListHead>() {
        return Err(Errno::EINVAL);
    }
    task.set_robust_list(head);
    Ok(())
}

/// `get_robust_list(2)`: of another's thread only who may trace it may ask.
fn get_robust_list(task: &mut Task, tid: i32, head: Out<u64>, len: Out<u64>) -> Result<(), Errno> {
    let thread = match tid {
        0 => Arc::clone(task.thread()),
        tid => {
            let tid = Tid::from_raw(tid).ok_or(Errno::ESRCH)?;
            task.kernel().tasks().thread(tid).ok_or(Errno::ESRCH)?
        }
    };
    if !may_trace(task, &thread) {
        return Err(Errno::EPERM);
    }
    len.write(task, &(size_of::<abi::futex::RobustListHead>() as u64))?;
    head.write(task, &thread.robust_list())
}

/// `unshare(2)`: what tasks share by CLONE_THREAD and CLONE_VM can be given up only by a single thread.
fn unshare(task: &mut Task, flags: Flags<CloneFlags>) -> Result<(), Errno> {
    let flags = flags.0;
    let single = CloneFlags::CLONE_THREAD | CloneFlags::CLONE_SIGHAND | CloneFlags::CLONE_VM;
    let own = CloneFlags::CLONE_FILES | CloneFlags::CLONE_FS | CloneFlags::CLONE_SYSVSEM;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWTIME;
    if !(single | own | namespaces).contains(flags) {
        return Err(Errno::EINVAL);
    }
    if flags.intersects(namespaces) {
        return Err(Errno::EPERM);
    }
    if flags.intersects(single) && task.group().threads().len() > 1 {
        return Err(Errno::EINVAL);
    }
    if flags.contains(CloneFlags::CLONE_FILES) {
        task.unshare_fds();
    }
    if flags.contains(CloneFlags::CLONE_FS) {
        task.unshare_fs();
    }
    Ok(())
}

/// Longest argument or environment string with its NUL, `MAX_ARG_STRLEN`.
const ARG_MAX: usize = 131_072;
/// Most bytes of strings and their pointers whatever the stack limit: three quarters of 8 MiB.
const ARGS_MAX: u64 = 6 << 20;

/// Room for arguments and environment: a quarter of the stack limit, `execve(2)`.
fn args_room(task: &Task) -> u64 {
    let stack = task.group().limit(kernel::rlimit::Resource::Stack).soft;
    (stack / 4).clamp(ARG_MAX as u64, ARGS_MAX)
}

/// A NULL-terminated array of strings; what they and their pointers take is taken from `room`.
fn strings(task: &Task, StrVecArg(array): StrVecArg, room: &mut u64) -> Result<Vec<Vec<u8>>, Errno> {
    let mut out = Vec::new();
    if array.0 == 0 {
        return Ok(out);
    }
    let mut at = array;
    loop {
        let pointer: u64 = mem::read(task, at)?;
        if pointer == 0 {
            return Ok(out);
        }
        let string = mem::c_string(task, Addr(pointer), ARG_MAX, Errno::E2BIG)?;
        *room = room.checked_sub(string.len() as u64 + 9).ok_or(Errno::E2BIG)?;
        out.push(string);
        at = at.checked_add(8).ok_or(Errno::EFAULT)?;
    }
}

fn exec(task: &mut Task, target: ExecTarget, argv: StrVecArg, envp: StrVecArg) -> SysResult {
    let mut room = args_room(task);
    let argv = strings(task, argv, &mut room)?;
    let envp = strings(task, envp, &mut room)?;
    task.execve(&ExecRequest { target, argv, envp })
}

/// `execve(2)`.
fn execve(task: &mut Task, path: PathArg, argv: StrVecArg, envp: StrVecArg) -> SysResult {
    let path = pathname(task, path)?;
    let start = start(task, CWD, &path)?;
    let target = ExecTarget::Path { start, name: path.clone(), path, flags: LookupFlags::FOLLOW };
    exec(task, target, argv, envp)
}

/// `execveat(2)`: a program that is named from a descriptor is called `/dev/fd/N/…`.
fn execveat(
    task: &mut Task,
    dir: DirFd,
    path: PathArg,
    argv: StrVecArg,
    envp: StrVecArg,
    flags: Flags<AtFlags>,
) -> SysResult {
    let flags = flags.within(AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)?;
    let path = pathname_or_empty(task, path, flags)?;
    let start = start(task, dir, &path)?;
    let target = if path.is_empty() && flags.contains(AtFlags::AT_EMPTY_PATH) {
        ExecTarget::File { path: start, name: format!("/dev/fd/{}", dir.0).into_bytes() }
    } else {
        let name = if path.first() == Some(&b'/') || dir == CWD {
            path.clone()
        } else {
            [format!("/dev/fd/{}/", dir.0).as_bytes(), &path].concat()
        };
        ExecTarget::Path { start, path, flags: lookup_flags(flags.difference(AtFlags::AT_EMPTY_PATH)), name }
    };
    exec(task, target, argv, envp)
}
