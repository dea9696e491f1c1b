//! The figures of a process: `stat`, `status`, `statm`, `limits`. What of them Linux 6.12 has and nothing here stands for
//! is a zero, as there: swap, page tables, blocks of I/O.

use std::fmt::Write as _;

use abi::Errno;
use fs::Context;
use mm::MemoryStat;
use usermem::PAGE_SIZE;

use super::mounts::escape;
use super::process::{Scope, Subject};
use super::system::ticks;
use crate::rlimit::{INFINITY, Resource, Rlimit};
use crate::task::attributes::persona;
use crate::task::{Activity, CpuTimes, GroupInfo, NoNewPrivs, Thread, Usage};

/// Sums of the address space; zeros without one.
fn memory(subject: &Subject) -> Result<MemoryStat, Errno> {
    Ok(subject.mm()?.map(|mm| mm.stat()).unwrap_or_default())
}

fn cpu_times(subject: &Subject) -> Result<(CpuTimes, CpuTimes), Errno> {
    let group = subject.group()?;
    let own = match subject.scope {
        Scope::Process => group.cpu_times(),
        Scope::Thread => subject.thread()?.cpu_times(),
    };
    Ok((own, group.children_cpu_times()))
}

/// CPUs as words of 32 bits, the highest first, as many digits as there are CPUs for.
fn cpu_mask(allowed: &[usize], cpus: usize) -> String {
    let word =
        |at: usize| allowed.iter().filter(|&&cpu| cpu / 32 == at).fold(0_u32, |word, cpu| word | 1 << (cpu % 32));
    let last = cpus.saturating_sub(1) / 32;
    let digits = (cpus - last * 32).div_ceil(4);
    let mut text = format!("{:0digits$x}", word(last));
    for at in (0..last).rev() {
        let _ = write!(text, ",{:08x}", word(at));
    }
    text
}

/// CPUs as ranges: `0-2,5`.
fn cpu_ranges(allowed: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = allowed;
    while let [first, ..] = rest {
        let len = rest.iter().enumerate().take_while(|(at, cpu)| **cpu == first + at).count();
        let (range, after) = rest.split_at(len);
        let comma = if text.is_empty() { "" } else { "," };
        let _ = match range.last() {
            Some(last) if last != first => write!(text, "{comma}{first}-{last}"),
            _ => write!(text, "{comma}{first}"),
        };
        rest = after;
    }
    text
}

/// What the process is doing.
fn activity(subject: &Subject) -> Result<Activity, Errno> {
    let thread = subject.thread()?;
    let info = subject.kernel()?.tasks().describe(thread.pid()).ok_or(Errno::ESRCH)?;
    Ok(if info.zombie.is_some() { Activity::Zombie } else { thread.activity() })
}

fn letter(activity: Activity) -> char {
    char::from(activity as u8)
}

fn word(activity: Activity) -> &'static str {
    match activity {
        Activity::Running => "R (running)",
        Activity::Sleeping => "S (sleeping)",
        Activity::Waiting => "D (disk sleep)",
        Activity::Stopped => "T (stopped)",
        Activity::Zombie => "Z (zombie)",
    }
}

/// `PF_*` of Linux, as far as they are told of here.
mod flag {
    pub(super) const EXITING: u32 = 0x4;
    pub(super) const FORKNOEXEC: u32 = 0x40;
    pub(super) const RANDOMIZE: u32 = 0x40_0000;
}

fn flags(thread: &Thread, info: &GroupInfo) -> u32 {
    let randomized = thread.attributes().persona() & persona::ADDR_NO_RANDOMIZE == 0;
    [
        (thread.is_ending() || info.zombie.is_some(), flag::EXITING),
        (!info.execed, flag::FORKNOEXEC),
        (randomized, flag::RANDOMIZE),
    ]
    .into_iter()
    .fold(0, |sum, (set, bit)| if set { sum | bit } else { sum })
}

/// The column `priority`: 20 and the niceness, or below zero for real-time policies.
fn shown_priority(thread: &Thread) -> i32 {
    let real_time = thread.attributes().scheduling().priority;
    if real_time > 0 { real_time.saturating_neg().saturating_sub(1) } else { thread.nice().saturating_add(20) }
}

/// `stat`: 52 fields, proc_pid_stat(5).
pub(super) fn stat(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let thread = subject.thread()?;
    let group = subject.group()?;
    let info = subject.kernel()?.tasks().describe(thread.pid()).ok_or(Errno::ESRCH)?;
    let number = if subject.scope == Scope::Process { thread.pid().0 } else { thread.tid().0 };
    let memory = memory(subject)?;
    let (own, children) = cpu_times(subject)?;
    let faults = match subject.scope {
        Scope::Process => Usage::of_group(&group).minor_faults,
        Scope::Thread => thread.minor_faults(),
    };
    let (blocked, pending) = thread.signal_sets();
    let (ignored, caught) = group.lock_signals().handlers.summary();
    // Addresses are for those who may look into the process.
    let permitted = subject.inspect(ctx).is_ok();
    let mm = subject.mm()?;
    let bounds = mm.as_ref().filter(|_| permitted).map(|mm| mm.bounds()).unwrap_or_default();
    let code = match (&mm, permitted) {
        (Some(_), false) => (1, 1),
        _ => (bounds.start_code.0, bounds.end_code.0),
    };
    let start_ns = if subject.scope == Scope::Process { group.start_ns() } else { thread.start_ns() };
    let start_ns = start_ns.saturating_sub(subject.kernel()?.boot_ns());
    let tty = info.tty.as_ref().map_or(0, |tty| tty.device());
    let foreground = info.tty.as_ref().and_then(|tty| tty.seat().foreground()).map_or(-1, |pid| i64::from(pid.0));
    let comm = thread.comm();
    let mut text = format!("{number} (").into_bytes();
    text.extend_from_slice(comm.as_bytes());
    let mut rest = format!(
        ") {} {} {} {} {tty} {foreground} {} {faults} {} 0 0 {} {} {} {} {} {} {} 0 {} {} {} {}",
        letter(activity(subject)?),
        info.parent.0,
        info.pgrp.0,
        info.session.0,
        flags(&thread, &info),
        Usage::of_children(&group).minor_faults,
        ticks(own.user_ns),
        ticks(own.system_ns),
        ticks(children.user_ns),
        ticks(children.system_ns),
        shown_priority(&thread),
        thread.nice(),
        info.threads.max(1),
        ticks(start_ns),
        memory.total,
        memory.rss / PAGE_SIZE,
        group.limit(Resource::Rss).soft,
    );
    let scheduling = thread.attributes().scheduling();
    let cpu = allowed_cpus(&thread, subject.kernel()?.machine().cpus).first().copied().unwrap_or(0);
    let _ = write!(
        rest,
        " {} {} {} 0 0 {} {} {} {} {} 0 0 {} {cpu} {} {} 0 0 0",
        code.0,
        code.1,
        bounds.start_stack.0,
        pending.0,
        blocked.0,
        ignored.0,
        caught.0,
        u8::from(permitted && activity(subject)? == Activity::Sleeping),
        info.exit_signal.map_or(-1, crate::signal::types::Signal::number),
        scheduling.priority,
        scheduling.policy,
    );
    let brk = mm.filter(|_| permitted).map_or(0, |mm| mm.brk_start().0);
    let status = info.zombie.filter(|_| permitted).map_or(0, crate::task::ExitStatus::wait_status);
    let _ = writeln!(
        rest,
        " {} {} {brk} {} {} {} {} {status}",
        bounds.start_data.0,
        bounds.end_data.0,
        bounds.arg_start.0,
        bounds.arg_end.0,
        bounds.env_start.0,
        bounds.env_end.0,
    );
    text.extend_from_slice(rest.as_bytes());
    Ok(text)
}

/// `statm`, in pages.
pub(super) fn statm(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let memory = memory(subject)?;
    let pages = |bytes: u64| bytes / PAGE_SIZE;
    let shared = memory.rss.saturating_sub(memory.anonymous);
    let (total, rss, exec, data) = (memory.total, memory.rss, memory.exec, memory.data + memory.stack);
    let text = format!("{} {} {} {} 0 {} 0\n", pages(total), pages(rss), pages(shared), pages(exec), pages(data));
    Ok(text.into_bytes())
}

/// `status`, proc_pid_status(5).
pub(super) fn status(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let thread = subject.thread()?;
    let info = subject.kernel()?.tasks().describe(thread.pid()).ok_or(Errno::ESRCH)?;
    let mut text = String::from("Name:\t");
    text.push_str(&escape(thread.comm().as_bytes()));
    // Without the file system's part, a task has no umask to tell.
    if let Ok(fs) = subject.fs() {
        let _ = write!(text, "\nUmask:\t{:04o}", fs.umask());
    }
    identity(&mut text, subject, &thread, &info)?;
    if subject.mm()?.is_some() {
        memory_rows(&mut text, subject)?;
    }
    signal_rows(&mut text, subject, &thread, &info)?;
    let creds = thread.creds();
    let no_new_privs = u8::from(thread.attributes().no_new_privs() == NoNewPrivs::Yes);
    let _ = write!(
        text,
        "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\n\
         NoNewPrivs:\t{no_new_privs}\nSeccomp:\t0\nSeccomp_filters:\t0\nSpeculation_Store_Bypass:\tvulnerable\n\
         SpeculationIndirectBranch:\talways enabled\n",
        creds.inheritable.bits(),
        creds.permitted.bits(),
        creds.effective.bits(),
        creds.bounding.bits(),
        creds.ambient.bits(),
    );
    let cpus = subject.kernel()?.machine().cpus.max(1);
    let allowed = allowed_cpus(&thread, cpus);
    let (voluntary, involuntary) = thread.switches();
    let _ = write!(
        text,
        "Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\nMems_allowed:\t{}\nMems_allowed_list:\t0\n\
         voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n",
        cpu_mask(&allowed, cpus),
        cpu_ranges(&allowed),
        cpu_mask(&[0], NODES),
    );
    Ok(text.into_bytes())
}

/// As many memory nodes as a usual kernel for this machine has room for.
const NODES: usize = 1024;

fn allowed_cpus(thread: &Thread, cpus: usize) -> Vec<usize> {
    let mask = thread.affinity();
    let allowed = |cpu: usize| match &mask {
        Some(mask) => mask.get(cpu / 8).is_some_and(|byte| byte >> (cpu % 8) & 1 != 0),
        None => true,
    };
    (0..cpus.max(1)).filter(|&cpu| allowed(cpu)).collect()
}

/// Who it is.
fn identity(text: &mut String, subject: &Subject, thread: &Thread, info: &GroupInfo) -> Result<(), Errno> {
    let creds = thread.creds();
    let fds = subject.fds().map_or(0, |fds| fds.capacity());
    let groups: String = creds.groups.iter().map(|gid| format!("{} ", gid.0)).collect();
    // Linux ends the list with a blank, be it empty or not.
    let groups = if groups.is_empty() { " ".to_owned() } else { groups };
    let _ = write!(
        text,
        "\nState:\t{}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t0\n\
         Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{fds}\nGroups:\t{groups}\n\
         NStgid:\t{}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\nKthread:\t0\n",
        word(activity(subject)?),
        thread.pid().0,
        thread.tid().0,
        info.parent.0,
        creds.ruid.0,
        creds.euid.0,
        creds.suid.0,
        creds.fsuid.0,
        creds.rgid.0,
        creds.egid.0,
        creds.sgid.0,
        creds.fsgid.0,
        thread.pid().0,
        thread.tid().0,
        info.pgrp.0,
        info.session.0,
    );
    Ok(())
}

/// Its memory. Page tables are the host's, and not told.
fn memory_rows(text: &mut String, subject: &Subject) -> Result<(), Errno> {
    let memory = memory(subject)?;
    let group = subject.group()?;
    let bounds = subject.mm()?.map(|mm| mm.bounds()).unwrap_or_default();
    let code = bounds.end_code.0.next_multiple_of(PAGE_SIZE).saturating_sub(bounds.start_code.0 & !(PAGE_SIZE - 1));
    let code = code.min(memory.exec);
    let kib = |bytes: u64| bytes / 1024;
    let rows = [
        ("VmPeak", kib(memory.peak_total)),
        ("VmSize", kib(memory.total)),
        ("VmLck", kib(memory.locked)),
        ("VmPin", 0),
        ("VmHWM", kib(memory.peak_rss)),
        ("VmRSS", kib(memory.rss)),
        ("RssAnon", kib(memory.anonymous)),
        ("RssFile", kib(memory.rss.saturating_sub(memory.anonymous).saturating_sub(memory.shmem))),
        ("RssShmem", kib(memory.shmem)),
        ("VmData", kib(memory.data)),
        ("VmStk", kib(memory.stack)),
        ("VmExe", kib(code)),
        ("VmLib", kib(memory.exec.saturating_sub(code))),
        ("VmPTE", 0),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "{name}:\t{value:>8} kB");
    }
    let huge = u8::from(!group.thp_disabled());
    let _ = write!(text, "CoreDumping:\t0\nTHP_enabled:\t{huge}\nuntag_mask:\t0xffffffffffffffff\n");
    Ok(())
}

/// Its threads and signals.
fn signal_rows(text: &mut String, subject: &Subject, thread: &Thread, info: &GroupInfo) -> Result<(), Errno> {
    let group = subject.group()?;
    let (blocked, pending) = thread.signal_sets();
    let sets = group.signal_sets();
    let queued = subject.kernel()?.signal_quota().queued(thread.creds().ruid.0);
    let limit = group.limit(Resource::Sigpending).soft;
    let _ = write!(
        text,
        "Threads:\t{}\nSigQ:\t{queued}/{limit}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\n\
         SigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
        info.threads.max(1),
        pending.0,
        sets.pending.0,
        blocked.0,
        sets.ignored.0,
        sets.caught.0,
    );
    Ok(())
}

/// Name and unit of each limit in `limits`, in Linux's order.
const LIMITS: &[(&str, Resource, &str)] = &[
    ("Max cpu time", Resource::Cpu, "seconds"),
    ("Max file size", Resource::Fsize, "bytes"),
    ("Max data size", Resource::Data, "bytes"),
    ("Max stack size", Resource::Stack, "bytes"),
    ("Max core file size", Resource::Core, "bytes"),
    ("Max resident set", Resource::Rss, "bytes"),
    ("Max processes", Resource::Nproc, "processes"),
    ("Max open files", Resource::Nofile, "files"),
    ("Max locked memory", Resource::Memlock, "bytes"),
    ("Max address space", Resource::As, "bytes"),
    ("Max file locks", Resource::Locks, "locks"),
    ("Max pending signals", Resource::Sigpending, "signals"),
    ("Max msgqueue size", Resource::Msgqueue, "bytes"),
    ("Max nice priority", Resource::Nice, ""),
    ("Max realtime priority", Resource::Rtprio, ""),
    ("Max realtime timeout", Resource::Rttime, "us"),
];

/// `limits`.
pub(super) fn limits(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let group = subject.group()?;
    let show = |value: u64| if value == INFINITY { "unlimited".to_owned() } else { value.to_string() };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for &(name, resource, unit) in LIMITS {
        let Rlimit { soft, hard } = group.limit(resource);
        let _ = writeln!(text, "{name:<25} {:<20} {:<20} {unit:<10}", show(soft), show(hard));
    }
    Ok(text.into_bytes())
}
