//! Limits, usage and scheduling.
//!
//! Scheduling is the host's: what a guest asks for is checked, kept, inherited and told, and all threads run alike.

use std::sync::Arc;

use abi::Errno;
use abi::resource::{RUSAGE_CHILDREN, RUSAGE_SELF, RUSAGE_THREAD, Rlimit as AbiRlimit, Rusage};
use abi::sched::{
    IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE, IOPRIO_CLASS_NONE, IOPRIO_CLASS_RT, IOPRIO_CLASS_SHIFT, IOPRIO_WHO_PGRP,
    IOPRIO_WHO_PROCESS, IOPRIO_WHO_USER, PRIO_PGRP, PRIO_PROCESS, PRIO_USER, SCHED_ATTR_SIZE_VER0, SCHED_BATCH,
    SCHED_DEADLINE, SCHED_EXT, SCHED_FIFO, SCHED_FLAG_KEEP_PARAMS, SCHED_FLAG_KEEP_POLICY, SCHED_FLAG_RESET_ON_FORK,
    SCHED_IDLE, SCHED_NORMAL, SCHED_RESET_ON_FORK, SCHED_RR, SchedAttr, SchedParam,
};
use abi::time::{Timespec, Tms};
use auth::{Caps, Uid};
use kernel::rlimit::{Privilege, Resource, Rlimit};
use kernel::syscalls;
use kernel::task::attributes::{Reservation, Scheduling};
use kernel::task::{Pid, Task, Thread, ThreadGroup, Tid};
use mm::Limits;
use usermem::Addr;

use crate::args::{In, Out, PolicyArg, PriorityWho};
use crate::mem;
use crate::process::to_rusage;

syscalls! {
    pub(crate) const ROWS;

    /// Gets a limit.
    getrlimit [97, 163] Full("schedule::limits_in_their_old_forms");
    /// Sets a limit.
    setrlimit [160, 164] Full("schedule::limits_in_their_old_forms");
    /// Gets and sets a limit of a process.
    prlimit64 [302, 261] Full("system::limits_are_read_and_lowered");
    /// Resources used.
    getrusage [98, 165] Full("schedule::usage_of_children_is_summed");
    /// CPU times of the process and its children.
    times [100, 153] Full("schedule::usage_of_children_is_summed");
    /// Gets the niceness.
    getpriority [140, 141] Full("system::niceness_is_kept_and_inherited");
    /// Sets the niceness.
    setpriority [141, 140] Partial("kept and told; the host schedules");
    /// Gives up the CPU.
    sched_yield [24, 124] Full("process::orphans_go_to_init");
    /// Gets the scheduling policy.
    sched_getscheduler [145, 120] Full("kept::policies_are_kept_and_inherited");
    /// Sets the scheduling policy.
    sched_setscheduler [144, 119] Partial("kept and told; the host schedules");
    /// Gets the scheduling parameters.
    sched_getparam [143, 121] Full("kept::policies_are_kept_and_inherited");
    /// Sets the scheduling parameters.
    sched_setparam [142, 118] Partial("kept and told; the host schedules");
    /// Gets policy and parameters.
    sched_getattr [315, 275] Full("kept::policies_are_kept_and_inherited");
    /// Sets policy and parameters.
    sched_setattr [314, 274] Partial("kept and told; the host schedules");
    /// Highest priority of a policy.
    sched_get_priority_max [146, 125] Full("schedule::policies_are_told_and_checked");
    /// Lowest priority of a policy.
    sched_get_priority_min [147, 126] Full("schedule::policies_are_told_and_checked");
    /// Time slice of a thread.
    sched_rr_get_interval [148, 127] Full("schedule::policies_are_told_and_checked");
    /// CPUs that a thread may run on.
    sched_getaffinity [204, 123] Full("system::affinity_is_kept_and_inherited");
    /// Restricts a thread to CPUs.
    sched_setaffinity [203, 122] Partial("kept and told; the host schedules");
    /// Gets the I/O priority.
    ioprio_get [252, 31] Full("kept::io_priorities_are_kept");
    /// Sets the I/O priority.
    ioprio_set [251, 30] Partial("kept and told; the host schedules");
}

/// The thread with number `tid`; 0 is the caller. `EINVAL` for negative numbers, `ESRCH`.
fn thread(task: &Task, tid: i32) -> Result<Arc<Thread>, Errno> {
    if tid == 0 {
        return Ok(Arc::clone(task.thread()));
    }
    task.kernel().tasks().thread(Tid::from_raw(tid).ok_or(Errno::EINVAL)?).ok_or(Errno::ESRCH)
}

fn to_abi(limit: Rlimit) -> AbiRlimit {
    AbiRlimit { rlim_cur: limit.soft, rlim_max: limit.hard }
}

/// Changes a limit of `group` for the caller; says the old one.
fn change_limit(task: &Task, group: &ThreadGroup, resource: Resource, new: AbiRlimit) -> Result<Rlimit, Errno> {
    let privilege = if task.creds().has(Caps::SYS_RESOURCE) { Privilege::SysResource } else { Privilege::None };
    let limit = Rlimit { soft: new.rlim_cur, hard: new.rlim_max };
    let old = group.with_limits(|limits| limits.set(resource, limit, privilege))?;
    if let Some(mm) = group.threads().iter().find_map(|thread| thread.mm()) {
        let soft = |resource| group.limit(resource).soft;
        mm.set_limits(Limits {
            address_space: soft(Resource::As),
            data: soft(Resource::Data),
            stack: soft(Resource::Stack),
            memlock: soft(Resource::Memlock),
        });
    }
    Ok(old)
}

/// `getrlimit(2)`.
fn getrlimit(task: &mut Task, resource: u32, limit: Out<AbiRlimit>) -> Result<(), Errno> {
    let value = task.group().limit(Resource::from_raw(resource)?);
    limit.write(task, &to_abi(value))
}

/// `setrlimit(2)`.
fn setrlimit(task: &mut Task, resource: u32, limit: In<AbiRlimit>) -> Result<(), Errno> {
    let new = limit.read(task)?;
    let resource = Resource::from_raw(resource)?;
    change_limit(task, task.group(), resource, new).map(drop)
}

/// `prlimit(2)`: another's limits need equal user and group ids, or CAP_SYS_RESOURCE.
fn prlimit64(task: &mut Task, pid: i32, resource: u32, new: In<AbiRlimit>, old: Out<AbiRlimit>) -> Result<(), Errno> {
    let new = new.read_opt(task)?;
    let target = thread(task, pid).map_err(|_| Errno::ESRCH)?;
    if target.pid() != task.pid() {
        let (own, other) = (task.creds(), target.creds());
        let same = [other.ruid, other.euid, other.suid].iter().all(|&uid| uid == own.ruid)
            && [other.rgid, other.egid, other.sgid].iter().all(|&gid| gid == own.rgid);
        if !same && !own.has(Caps::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
    }
    let resource = Resource::from_raw(resource)?;
    let before = match new {
        Some(new) => change_limit(task, target.group(), resource, new)?,
        None => target.group().limit(resource),
    };
    old.write_opt(task, &to_abi(before))
}

/// `getrusage(2)`.
fn getrusage(task: &mut Task, who: i32, usage: Out<Rusage>) -> Result<(), Errno> {
    let used = match who {
        RUSAGE_SELF => task.group_usage(),
        RUSAGE_CHILDREN => task.children_usage(),
        RUSAGE_THREAD => task.thread_usage(),
        _ => return Err(Errno::EINVAL),
    };
    usage.write(task, &to_rusage(&used))
}

/// `times(2)`: answers ticks of 10 ms since boot.
fn times(task: &mut Task, out: Out<Tms>) -> Result<i64, Errno> {
    let ticks = |ns: u64| i64::try_from(ns / 10_000_000).unwrap_or(i64::MAX);
    let (own, children) = (task.group_usage(), task.children_usage());
    let value = Tms {
        tms_utime: ticks(own.user_ns),
        tms_stime: ticks(own.system_ns),
        tms_cutime: ticks(children.user_ns),
        tms_cstime: ticks(children.system_ns),
    };
    out.write_opt(task, &value)?;
    Ok(ticks(task.kernel().uptime_ns()))
}

/// The threads that `which` and `who` name: one, or all of a process group's or user's; `ESRCH`, `EINVAL`.
fn threads_of(task: &Task, which: i32, who: i32) -> Result<Vec<Arc<Thread>>, Errno> {
    let all = |wanted: &dyn Fn(&ThreadGroup) -> bool| -> Vec<Arc<Thread>> {
        let groups = task.kernel().tasks().groups();
        groups.iter().filter(|group| wanted(group)).flat_map(|group| group.threads()).collect()
    };
    let threads = match which {
        PRIO_PROCESS => return thread(task, who).map(|thread| vec![thread]).map_err(|_| Errno::ESRCH),
        PRIO_PGRP => {
            let group = if who == 0 { task.getpgid(None)? } else { Pid::from_raw(who).ok_or(Errno::ESRCH)? };
            all(&|one| task.getpgid(Some(one.pid())).is_ok_and(|pgrp| pgrp == group))
        }
        PRIO_USER => {
            let uid = if who == 0 { task.creds().ruid } else { Uid(who.cast_unsigned()) };
            all(&|one| one.threads().first().is_some_and(|thread| thread.creds().ruid == uid))
        }
        _ => return Err(Errno::EINVAL),
    };
    if threads.is_empty() { Err(Errno::ESRCH) } else { Ok(threads) }
}

/// `getpriority(2)`, the call: 20 less the lowest niceness, so that it is never negative.
fn getpriority(task: &mut Task, which: PriorityWho, who: i32) -> Result<u32, Errno> {
    let threads = threads_of(task, which.0, who)?;
    let lowest = threads.iter().map(|thread| thread.nice()).min().unwrap_or(0);
    Ok((20 - lowest).unsigned_abs())
}

/// `setpriority(2)`.
fn setpriority(task: &mut Task, which: PriorityWho, who: i32, nice: i32) -> Result<(), Errno> {
    let threads = threads_of(task, which.0, who)?;
    let nice = nice.clamp(-20, 19);
    let mut outcome = Ok(());
    for thread in threads {
        if let Err(errno) = set_nice(task, &thread, nice) {
            outcome = Err(errno);
        }
    }
    outcome
}

/// Sets the niceness of `thread`: `EPERM` for another user's, `EACCES` below what `RLIMIT_NICE` allows.
fn set_nice(task: &Task, thread: &Thread, nice: i32) -> Result<(), Errno> {
    let (creds, its) = (task.creds(), thread.creds());
    let privileged = creds.has(Caps::SYS_NICE);
    if !privileged && creds.euid != its.ruid && creds.euid != its.euid {
        return Err(Errno::EPERM);
    }
    let floor = thread.group().limit(Resource::Nice).soft;
    if !privileged && nice < thread.nice() && i64::from(20 - nice).cast_unsigned() > floor {
        return Err(Errno::EACCES);
    }
    thread.set_nice(nice);
    Ok(())
}

/// `sched_yield(2)`.
fn sched_yield(_task: &mut Task) -> Result<(), Errno> {
    std::thread::yield_now();
    Ok(())
}

/// `sched_getscheduler(2)`.
fn sched_getscheduler(task: &mut Task, tid: i32) -> Result<i32, Errno> {
    let scheduling = thread(task, tid)?.attributes().scheduling();
    let reset = if scheduling.reset_on_fork { SCHED_RESET_ON_FORK } else { 0 };
    Ok(scheduling.policy | reset)
}

/// Least runtime of a reservation (sched(7)).
const LEAST_RUNTIME_NS: u64 = 1024;

/// Whether a policy and what comes with it go together; `EINVAL`.
fn check_policy(new: &Scheduling) -> Result<(), Errno> {
    let Reservation { runtime_ns, deadline_ns, period_ns } = new.reservation;
    let fits = match new.policy {
        SCHED_NORMAL | SCHED_BATCH | SCHED_IDLE => new.priority == 0,
        SCHED_FIFO | SCHED_RR => (1..=99).contains(&new.priority),
        SCHED_DEADLINE => {
            new.priority == 0
                && runtime_ns >= LEAST_RUNTIME_NS
                && runtime_ns <= deadline_ns
                && deadline_ns <= period_ns
                && i64::try_from(period_ns).is_ok()
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether the caller may give `thread` this scheduling (`sched(7)`, "Privileges and resource limits"); `EPERM`.
fn check_scheduling(task: &Task, thread: &Thread, new: Scheduling) -> Result<(), Errno> {
    check_policy(&new)?;
    if task.creds().has(Caps::SYS_NICE) {
        return Ok(());
    }
    let (creds, its) = (task.creds(), thread.creds());
    let old = thread.attributes().scheduling();
    let limit = |resource| thread.group().limit(resource).soft;
    let real_time = matches!(new.policy, SCHED_FIFO | SCHED_RR);
    let priority = u64::try_from(new.priority).unwrap_or(0);
    let raises = real_time
        && (new.policy != old.policy && limit(Resource::Rtprio) == 0
            || new.priority > old.priority && priority > limit(Resource::Rtprio));
    let leaves_idle = old.policy == SCHED_IDLE
        && new.policy != SCHED_IDLE
        && i64::from(20 - thread.nice()).cast_unsigned() > limit(Resource::Nice);
    let foreign = creds.euid != its.ruid && creds.euid != its.euid;
    if raises || leaves_idle || new.policy == SCHED_DEADLINE || foreign || (old.reset_on_fork && !new.reset_on_fork) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

fn set_scheduling(task: &Task, thread: &Thread, new: Scheduling) -> Result<(), Errno> {
    check_scheduling(task, thread, new)?;
    thread.attributes().set_scheduling(new);
    Ok(())
}

/// `sched_setscheduler(2)`.
fn sched_setscheduler(task: &mut Task, tid: i32, policy: PolicyArg, param: In<SchedParam>) -> Result<(), Errno> {
    if param.is_null() || policy.0 < 0 || tid < 0 {
        return Err(Errno::EINVAL);
    }
    let param = param.read(task)?;
    let thread = thread(task, tid)?;
    let reset_on_fork = policy.0 & SCHED_RESET_ON_FORK != 0;
    let policy = policy.0 & !SCHED_RESET_ON_FORK;
    set_scheduling(
        task,
        &thread,
        Scheduling { policy, priority: param.sched_priority, reset_on_fork, ..Scheduling::default() },
    )
}

/// `sched_getparam(2)`.
fn sched_getparam(task: &mut Task, tid: i32, param: Out<SchedParam>) -> Result<(), Errno> {
    if param.is_null() {
        return Err(Errno::EINVAL);
    }
    let scheduling = thread(task, tid)?.attributes().scheduling();
    param.write(task, &SchedParam { sched_priority: scheduling.priority })
}

/// `sched_setparam(2)`: the policy stays.
fn sched_setparam(task: &mut Task, tid: i32, param: In<SchedParam>) -> Result<(), Errno> {
    if param.is_null() || tid < 0 {
        return Err(Errno::EINVAL);
    }
    let param = param.read(task)?;
    let thread = thread(task, tid)?;
    let old = thread.attributes().scheduling();
    // Without a reservation, which this call cannot name.
    let reservation = Reservation::default();
    set_scheduling(task, &thread, Scheduling { priority: param.sched_priority, reservation, ..old })
}

/// `sched_getattr(2)`.
fn sched_getattr(task: &mut Task, tid: i32, attr: Addr, size: u32, flags: u32) -> Result<(), Errno> {
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let first = usize::try_from(SCHED_ATTR_SIZE_VER0).unwrap_or(48);
    if attr.0 == 0 || flags != 0 || size < first || size > 4096 {
        return Err(Errno::EINVAL);
    }
    let thread = thread(task, tid)?;
    let scheduling = thread.attributes().scheduling();
    let filled = size.min(size_of::<SchedAttr>());
    let ordinary = matches!(scheduling.policy, SCHED_NORMAL | SCHED_BATCH);
    let value = SchedAttr {
        size: u32::try_from(filled).unwrap_or(0),
        sched_policy: scheduling.policy.cast_unsigned(),
        sched_flags: if scheduling.reset_on_fork { SCHED_FLAG_RESET_ON_FORK } else { 0 },
        sched_nice: if ordinary { thread.nice() } else { 0 },
        sched_priority: scheduling.priority.cast_unsigned(),
        sched_runtime: scheduling.reservation.runtime_ns,
        sched_deadline: scheduling.reservation.deadline_ns,
        sched_period: scheduling.reservation.period_ns,
        ..SchedAttr::default()
    };
    let bytes = zerocopy::IntoBytes::as_bytes(&value);
    mem::write_bytes(task, attr, bytes.get(..filled).unwrap_or(bytes))
}

/// `sched_setattr(2)`: the structure says its size.
fn sched_setattr(task: &mut Task, tid: i32, attr: In<SchedAttr>, flags: u32) -> Result<(), Errno> {
    if attr.is_null() || flags != 0 || tid < 0 {
        return Err(Errno::EINVAL);
    }
    let size: u32 = mem::read(task, attr.0)?;
    let first = usize::try_from(SCHED_ATTR_SIZE_VER0).unwrap_or(48);
    let size = if size == 0 { first } else { usize::try_from(size).map_err(|_| Errno::EINVAL)? };
    let asked = if size < first { Err(Errno::E2BIG) } else { mem::read_extensible(task, attr.0, size, first) };
    let asked: SchedAttr = asked.inspect_err(|error| {
        if *error == Errno::E2BIG {
            // What is known, for the caller to try again. A bad address is not told.
            let _ = mem::write(task, attr.0, &u32::try_from(size_of::<SchedAttr>()).unwrap_or(0));
        }
    })?;
    let thread = thread(task, tid)?;
    let old = thread.attributes().scheduling();
    let known = SCHED_FLAG_RESET_ON_FORK | SCHED_FLAG_KEEP_POLICY | SCHED_FLAG_KEEP_PARAMS;
    if asked.sched_flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let keeps = |flag| asked.sched_flags & flag != 0;
    let policy = if keeps(SCHED_FLAG_KEEP_POLICY) {
        old.policy
    } else {
        i32::try_from(asked.sched_policy).map_err(|_| Errno::EINVAL)?
    };
    let priority = if keeps(SCHED_FLAG_KEEP_PARAMS) {
        old.priority
    } else {
        i32::try_from(asked.sched_priority).map_err(|_| Errno::EINVAL)?
    };
    let reservation = match policy {
        SCHED_DEADLINE if keeps(SCHED_FLAG_KEEP_PARAMS) => old.reservation,
        SCHED_DEADLINE => Reservation {
            runtime_ns: asked.sched_runtime,
            deadline_ns: asked.sched_deadline,
            // sched_setattr(2): without a period, it is the deadline.
            period_ns: if asked.sched_period == 0 { asked.sched_deadline } else { asked.sched_period },
        },
        _ => Reservation::default(),
    };
    let new = Scheduling { policy, priority, reset_on_fork: keeps(SCHED_FLAG_RESET_ON_FORK), reservation };
    let nice = asked.sched_nice.clamp(-20, 19);
    check_scheduling(task, &thread, new)?;
    if matches!(policy, SCHED_NORMAL | SCHED_BATCH) && !keeps(SCHED_FLAG_KEEP_PARAMS) {
        set_nice(task, &thread, nice).map_err(|_| Errno::EPERM)?;
    }
    thread.attributes().set_scheduling(new);
    Ok(())
}

fn priority_range(policy: i32) -> Result<(i32, i32), Errno> {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok((1, 99)),
        SCHED_NORMAL | SCHED_BATCH | SCHED_IDLE | SCHED_DEADLINE | SCHED_EXT => Ok((0, 0)),
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_get_priority_max(2)`.
fn sched_get_priority_max(_task: &mut Task, policy: PolicyArg) -> Result<i32, Errno> {
    priority_range(policy.0).map(|(_, max)| max)
}

/// `sched_get_priority_min(2)`.
fn sched_get_priority_min(_task: &mut Task, policy: PolicyArg) -> Result<i32, Errno> {
    priority_range(policy.0).map(|(min, _)| min)
}

/// `sched_rr_get_interval(2)`: one tick of a kernel with CONFIG_HZ=250; of SCHED_RR 100 ms, of SCHED_FIFO none.
fn sched_rr_get_interval(task: &mut Task, tid: i32, interval: Out<Timespec>) -> Result<(), Errno> {
    let tv_nsec = match thread(task, tid)?.attributes().scheduling().policy {
        SCHED_FIFO => 0,
        SCHED_RR => 100_000_000,
        _ => 4_000_000,
    };
    interval.write(task, &Timespec { tv_sec: 0, tv_nsec })
}

/// All CPUs, as a mask in bytes: a multiple of 8 of them.
fn cpu_mask(cpus: usize) -> Vec<u8> {
    let mut mask = vec![0_u8; cpus.div_ceil(64).max(1) * 8];
    for (index, byte) in mask.iter_mut().enumerate() {
        let left = cpus.saturating_sub(index * 8).min(8);
        *byte = u8::try_from((1_u16 << left) - 1).unwrap_or(u8::MAX);
    }
    mask
}

/// `sched_getaffinity(2)`, the call: answers how many bytes it stored.
fn sched_getaffinity(task: &mut Task, tid: i32, len: u32, mask: Addr) -> Result<usize, Errno> {
    let all = cpu_mask(task.kernel().machine().cpus.max(1));
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    if len < all.len() || len % 8 != 0 {
        return Err(Errno::EINVAL);
    }
    let allowed = thread(task, tid).map_err(|_| Errno::ESRCH)?.affinity();
    mem::write_bytes(task, mask, allowed.as_deref().unwrap_or(&all))?;
    Ok(all.len())
}

/// `sched_setaffinity(2)`: at least one CPU that there is.
fn sched_setaffinity(task: &mut Task, tid: i32, len: u32, mask: Addr) -> Result<(), Errno> {
    let all = cpu_mask(task.kernel().machine().cpus.max(1));
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?.min(all.len());
    let asked = mem::read_bytes(task, mask, len)?;
    let thread = thread(task, tid).map_err(|_| Errno::ESRCH)?;
    let (creds, its) = (task.creds(), thread.creds());
    if creds.euid != its.ruid && creds.euid != its.euid && !creds.has(Caps::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    // A mask shorter than all CPUs leaves the others out.
    let asked = asked.iter().copied().chain(std::iter::repeat(0));
    let allowed: Vec<u8> = asked.zip(&all).map(|(asked, all)| asked & all).collect();
    if allowed.iter().all(|byte| *byte == 0) {
        return Err(Errno::EINVAL);
    }
    thread.set_affinity((allowed != all).then(|| allowed.into()));
    Ok(())
}

/// The threads that the I/O priority calls name, in the terms of [`threads_of`].
fn io_threads(task: &Task, which: i32, who: i32) -> Result<Vec<Arc<Thread>>, Errno> {
    let which = match which {
        IOPRIO_WHO_PROCESS => PRIO_PROCESS,
        IOPRIO_WHO_PGRP => PRIO_PGRP,
        IOPRIO_WHO_USER => PRIO_USER,
        _ => return Err(Errno::EINVAL),
    };
    threads_of(task, which, who)
}

/// The I/O priority that follows from the niceness while none has been set: best effort, in five levels.
fn effective_io_priority(thread: &Thread) -> i32 {
    let own = thread.attributes().io_priority();
    if own >> IOPRIO_CLASS_SHIFT != IOPRIO_CLASS_NONE {
        return own;
    }
    let scheduling = thread.attributes().scheduling();
    let class = match scheduling.policy {
        SCHED_IDLE => IOPRIO_CLASS_IDLE,
        SCHED_FIFO | SCHED_RR => IOPRIO_CLASS_RT,
        _ => IOPRIO_CLASS_BE,
    };
    (class << IOPRIO_CLASS_SHIFT) | ((thread.nice() + 20) / 5)
}

/// `ioprio_get(2)`: of several threads the highest.
fn ioprio_get(task: &mut Task, which: i32, who: i32) -> Result<i32, Errno> {
    let threads = io_threads(task, which, who)?;
    if which == IOPRIO_WHO_PROCESS {
        return Ok(threads.first().map_or(0, |thread| thread.attributes().io_priority()));
    }
    Ok(threads.iter().map(|thread| effective_io_priority(thread)).min().unwrap_or(0))
}

/// `ioprio_set(2)`.
fn ioprio_set(task: &mut Task, which: i32, who: i32, priority: i32) -> Result<(), Errno> {
    let (class, level) = (priority >> IOPRIO_CLASS_SHIFT, priority & ((1 << IOPRIO_CLASS_SHIFT) - 1));
    match class {
        IOPRIO_CLASS_RT if !task.creds().has(Caps::SYS_ADMIN) && !task.creds().has(Caps::SYS_NICE) => {
            return Err(Errno::EPERM);
        }
        IOPRIO_CLASS_RT | IOPRIO_CLASS_BE if level & 7 == level => {}
        IOPRIO_CLASS_IDLE => {}
        IOPRIO_CLASS_NONE if level == 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    for thread in io_threads(task, which, who)? {
        let (creds, its) = (task.creds(), thread.creds());
        if its.ruid != creds.euid && its.ruid != creds.ruid && !creds.has(Caps::SYS_NICE) {
            return Err(Errno::EPERM);
        }
        thread.attributes().set_io_priority(priority);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Reservation, Scheduling, check_policy, cpu_mask};
    use abi::Errno;

    #[test]
    fn masks_have_a_bit_per_cpu() {
        assert_eq!(cpu_mask(1), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(cpu_mask(10), [0xff, 3, 0, 0, 0, 0, 0, 0]);
        assert_eq!(cpu_mask(65).len(), 16);
    }

    #[test]
    fn policies_and_priorities_go_together() {
        let check = |policy, priority| check_policy(&Scheduling { policy, priority, ..Scheduling::default() });
        assert_eq!(check(0, 0), Ok(()));
        assert_eq!(check(0, 1), Err(Errno::EINVAL));
        assert_eq!(check(1, 0), Err(Errno::EINVAL));
        assert_eq!(check(1, 5), Ok(()));
        assert_eq!(check(6, 0), Err(Errno::EINVAL), "without a reservation");
        let reservation = Reservation { runtime_ns: 2000, deadline_ns: 2000, period_ns: 3000 };
        let deadline = Scheduling { policy: 6, reservation, ..Scheduling::default() };
        assert_eq!(check_policy(&deadline), Ok(()));
        assert_eq!(check(42, 0), Err(Errno::EINVAL));
    }
}
