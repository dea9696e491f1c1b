//! The figures of a process: `stat`, `status`, `statm`, `maps`, `smaps`, `limits`, `io`, `syscall`.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use abi::Errno;
use fs::Context;
use mm::{MemoryStat, Sharing, VmaInfo};
use usermem::PAGE_SIZE;
use usermem::platform::Prot;

use super::mounts::escape;
use super::process::{Scope, Subject};
use super::system::ticks;
use crate::rlimit::{INFINITY, Resource, Rlimit};
use crate::task::{Activity, CpuTimes};

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

/// `stat`: 52 fields, proc_pid_stat(5).
pub(super) fn stat(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let thread = subject.thread()?;
    let group = subject.group()?;
    let info = subject.kernel()?.tasks().describe(thread.pid()).ok_or(Errno::ESRCH)?;
    let number = if subject.scope == Scope::Process { thread.pid().0 } else { thread.tid().0 };
    let memory = memory(subject)?;
    let (own, children) = cpu_times(subject)?;
    let (blocked, pending) = thread.signal_sets();
    let (ignored, caught) = group.lock_signals().handlers.summary();
    // Addresses are for those who may look into the process.
    let bounds = match subject.mm()? {
        Some(mm) if subject.inspect(ctx).is_ok() => mm.bounds(),
        _ => mm::Bounds::default(),
    };
    let start_ns = if subject.scope == Scope::Process { group.start_ns() } else { thread.start_ns() };
    let start_ns = start_ns.saturating_sub(subject.kernel()?.boot_ns());
    let tty = info.tty.as_ref().map_or(0, |tty| tty.device());
    let foreground = info.tty.as_ref().and_then(|tty| tty.foreground()).map_or(-1, |pid| i64::from(pid.0));
    let (comm, nice) = (thread.comm(), thread.nice());
    let mut text = format!("{number} (").into_bytes();
    text.extend_from_slice(comm.as_bytes());
    let mut rest = format!(
        ") {} {} {} {} {tty} {foreground} 0 {} 0 0 0 {} {} {} {} {} {nice} {} 0 {} {} {} {}",
        letter(activity(subject)?),
        info.parent.0,
        info.pgrp.0,
        info.session.0,
        thread.minor_faults(),
        ticks(own.user_ns),
        ticks(own.system_ns),
        ticks(children.user_ns),
        ticks(children.system_ns),
        nice.saturating_add(20),
        info.threads.max(1),
        ticks(start_ns),
        memory.total,
        memory.rss / PAGE_SIZE,
        group.limit(Resource::Rss).soft,
    );
    let _ = write!(
        rest,
        " {} {} {} 0 0 {} {} {} {} 0 0 0 {} 0 0 0 0 0 0",
        bounds.start_code.0,
        bounds.end_code.0,
        bounds.start_stack.0,
        pending.0,
        blocked.0,
        ignored.0,
        caught.0,
        info.exit_signal.map_or(-1, crate::signal::types::Signal::number),
    );
    let brk = subject.mm()?.map_or(0, |mm| mm.brk_start().0);
    let _ = writeln!(
        rest,
        " {} {} {brk} {} {} {} {} 0",
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
    let group = subject.group()?;
    let info = subject.kernel()?.tasks().describe(thread.pid()).ok_or(Errno::ESRCH)?;
    let creds = thread.creds();
    let mut text = String::from("Name:\t");
    text.push_str(&escape(thread.comm().as_bytes()));
    let fds = subject.fds().map_or(0, |fds| fds.capacity());
    let umask = subject.fs().map_or(0, |fs| fs.umask());
    let groups: String = creds.groups.iter().map(|gid| format!("{} ", gid.0)).collect();
    let _ = write!(
        text,
        "\nUmask:\t{umask:04o}\nState:\t{}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t0\n\
         Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{fds}\nGroups:\t{groups}\n\
         NStgid:\t{}\nNSpid:\t{}\nNSpgid:\t{}\nNSsid:\t{}\n",
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
    if subject.mm()?.is_some() {
        let memory = memory(subject)?;
        let kib = |bytes: u64| bytes / 1024;
        let peak = group.max_rss_kib.load(Ordering::Relaxed).max(kib(memory.rss));
        let rows = [
            ("VmPeak", kib(memory.total)),
            ("VmSize", kib(memory.total)),
            ("VmLck", kib(memory.locked)),
            ("VmPin", 0),
            ("VmHWM", peak),
            ("VmRSS", kib(memory.rss)),
            ("RssAnon", kib(memory.anonymous)),
            ("RssFile", kib(memory.rss.saturating_sub(memory.anonymous))),
            ("RssShmem", 0),
            ("VmData", kib(memory.data)),
            ("VmStk", kib(memory.stack)),
            ("VmExe", kib(memory.exec)),
            ("VmLib", 0),
            ("VmPTE", 0),
            ("VmSwap", 0),
        ];
        for (name, value) in rows {
            let _ = writeln!(text, "{name}:\t{value:>8} kB");
        }
    }
    let (blocked, pending) = thread.signal_sets();
    let (ignored, caught) = group.lock_signals().handlers.summary();
    let shared_pending = group.lock_signals().pending.set();
    let limit = group.limit(Resource::Sigpending).soft;
    let _ = write!(
        text,
        "Threads:\t{}\nSigQ:\t0/{limit}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\n\
         SigCgt:\t{:016x}\nCapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\n\
         NoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n",
        info.threads.max(1),
        pending.0,
        shared_pending.0,
        blocked.0,
        ignored.0,
        caught.0,
        creds.inheritable.bits(),
        creds.permitted.bits(),
        creds.effective.bits(),
        creds.bounding.bits(),
        creds.ambient.bits(),
    );
    let cpus = subject.kernel()?.machine().cpus.max(1);
    let allowed = |cpu: usize| match thread.affinity() {
        Some(mask) => mask.get(cpu / 8).is_some_and(|byte| byte >> (cpu % 8) & 1 != 0),
        None => true,
    };
    let allowed: Vec<usize> = (0..cpus).filter(|&cpu| allowed(cpu)).collect();
    let (voluntary, involuntary) = thread.switches();
    let _ = write!(
        text,
        "Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\nMems_allowed_list:\t0\n\
         voluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n",
        cpu_mask(&allowed, cpus),
        cpu_ranges(&allowed),
    );
    Ok(text.into_bytes())
}

/// The first line of a mapping in `maps` and `smaps`.
fn map_line(text: &mut String, vma: &VmaInfo) {
    use fs::vfs::{major, minor};
    let bit = |prot, letter| if vma.prot.contains(prot) { letter } else { '-' };
    let start = text.len();
    let _ = write!(
        text,
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {}",
        vma.range.start.0,
        vma.range.end.0,
        bit(Prot::READ, 'r'),
        bit(Prot::WRITE, 'w'),
        bit(Prot::EXEC, 'x'),
        if vma.sharing == Sharing::Shared { 's' } else { 'p' },
        vma.offset,
        major(vma.dev),
        minor(vma.dev),
        vma.ino,
    );
    if !vma.name.is_empty() {
        // The name stands in column 74.
        let width = text.len() - start;
        text.extend(std::iter::repeat_n(' ', 73_usize.saturating_sub(width).max(1)));
        text.push_str(&String::from_utf8_lossy(&vma.name).replace('\n', "\\012"));
    }
    text.push('\n');
}

/// `maps`.
pub(super) fn maps(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    subject.inspect(ctx)?;
    let mut text = String::new();
    for vma in subject.mm()?.map(|mm| mm.vmas()).unwrap_or_default() {
        map_line(&mut text, &vma);
    }
    Ok(text.into_bytes())
}

/// The figures of a mapping, or of all, in `smaps` and `smaps_rollup`.
fn figures(text: &mut String, rss: u64, anonymous: u64, locked: u64) {
    let kib = |bytes: u64| bytes / 1024;
    let clean = rss.saturating_sub(anonymous);
    for (name, bytes) in [
        ("Rss", rss),
        ("Pss", rss),
        ("Shared_Clean", 0),
        ("Shared_Dirty", 0),
        ("Private_Clean", clean),
        ("Private_Dirty", anonymous),
        ("Referenced", rss),
        ("Anonymous", anonymous),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", locked),
    ] {
        let _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), kib(bytes));
    }
}

/// `smaps`.
pub(super) fn smaps(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    subject.inspect(ctx)?;
    let mut text = String::new();
    for vma in subject.mm()?.map(|mm| mm.vmas_with_usage()).unwrap_or_default() {
        map_line(&mut text, &vma);
        let _ = writeln!(text, "{:<16}{:>8} kB", "Size:", vma.range.len() / 1024);
        let _ = writeln!(text, "{:<16}{:>8} kB\n{:<16}{:>8} kB", "KernelPageSize:", 4, "MMUPageSize:", 4);
        figures(&mut text, vma.rss, vma.anonymous, if vma.locked { vma.rss } else { 0 });
        let _ = writeln!(text, "VmFlags: {}", vma.vm_flags);
    }
    Ok(text.into_bytes())
}

/// `smaps_rollup`.
pub(super) fn smaps_rollup(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    subject.inspect(ctx)?;
    let vmas = subject.mm()?.map(|mm| mm.vmas_with_usage()).unwrap_or_default();
    let (Some(first), Some(last)) = (vmas.first(), vmas.last()) else { return Ok(Vec::new()) };
    let mut text = format!("{:08x}-{:08x} ---p 00000000 00:00 0 [rollup]\n", first.range.start.0, last.range.end.0);
    let locked = vmas.iter().filter(|vma| vma.locked).map(|vma| vma.rss).sum();
    figures(&mut text, vmas.iter().map(|vma| vma.rss).sum(), vmas.iter().map(|vma| vma.anonymous).sum(), locked);
    Ok(text.into_bytes())
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

/// `io`: not counted.
pub(super) fn io(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    subject.inspect(ctx)?;
    Ok(b"rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n".to_vec())
}

/// `syscall`: the number of the call it is in. Its arguments are its own thread's to know.
pub(super) fn syscall(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    subject.inspect(ctx)?;
    Ok(match subject.thread()?.current_call() {
        Some(nr) => format!("{nr} 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n").into_bytes(),
        None => b"running\n".to_vec(),
    })
}
