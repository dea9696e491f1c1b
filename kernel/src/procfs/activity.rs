//! What a process is doing: `io`, `syscall`, `wchan`, `stack`, `sched`, `schedstat`, `timers`, `children`.

use std::fmt::Write as _;

use abi::Errno;
use fs::Context;

use super::process::{Scope, Subject};
use crate::task::{Activity, CpuTimes, IoTotals, Thread};
use crate::time::TimerNotify;

/// `io`: what calls have moved. Nothing here does block I/O of its own.
pub(super) fn io(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    subject.inspect(ctx)?;
    let IoTotals { read_bytes, written_bytes, reads, writes } = match subject.scope {
        Scope::Process => subject.group()?.io_totals(),
        Scope::Thread => subject.thread()?.io().totals(),
    };
    let text = format!(
        "rchar: {read_bytes}\nwchar: {written_bytes}\nsyscr: {reads}\nsyscw: {writes}\nread_bytes: 0\n\
         write_bytes: 0\ncancelled_write_bytes: 0\n"
    );
    Ok(text.into_bytes())
}

/// For files that need the right to trace: another errno than for those that need the right to look.
fn trace(subject: &Subject, ctx: &Context<'_>) -> Result<(), Errno> {
    subject.inspect(ctx).map_err(|_| Errno::EPERM)
}

/// `syscall`: the call that it sleeps in, with its arguments, stack pointer and program counter.
pub(super) fn syscall(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    trace(subject, ctx)?;
    let thread = subject.thread()?;
    if thread.activity() == Activity::Running || subject.is_caller(ctx) {
        // A task that looks at itself is in a call, though it runs.
        return Ok(match thread.current_call() {
            Some(nr) if subject.is_caller(ctx) => call_line(nr, thread.call_words()),
            _ => "running\n".to_owned(),
        }
        .into_bytes());
    }
    let words @ [.., stack, pc] = thread.call_words();
    let text = match thread.current_call() {
        Some(nr) => call_line(nr, words),
        None => format!("-1 {stack:#x} {pc:#x}\n"),
    };
    Ok(text.into_bytes())
}

fn call_line(nr: u64, words: [u64; 8]) -> String {
    let mut text = nr.to_string();
    for word in words {
        let _ = write!(text, " {word:#x}");
    }
    text.push('\n');
    text
}

/// `wchan`: the name of the call that it sleeps in stands for Linux's name of a function; 0 while it runs, and for those
/// who may not look.
pub(super) fn wchan(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let thread = subject.thread()?;
    let kernel = subject.kernel()?;
    let name = match thread.activity() {
        Activity::Sleeping | Activity::Waiting if subject.inspect(ctx).is_ok() => {
            thread.current_call().and_then(|nr| kernel.dispatch().name(nr))
        }
        _ => None,
    };
    Ok(name.unwrap_or("0").as_bytes().to_vec())
}

/// `stack`: no kernel has a stack for it.
pub(super) fn stack(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    if !ctx.creds.has(auth::Caps::SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    trace(subject, ctx)?;
    Ok(Vec::new())
}

/// `personality`.
pub(super) fn personality(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    trace(subject, ctx)?;
    Ok(format!("{:08x}\n", subject.thread()?.attributes().persona()).into_bytes())
}

fn times(subject: &Subject, thread: &Thread) -> CpuTimes {
    match subject.scope {
        Scope::Process => thread.group().cpu_times(),
        Scope::Thread => thread.cpu_times(),
    }
}

/// `schedstat`: time on a CPU, time waited for one (the host's to know), turns.
pub(super) fn schedstat(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let thread = subject.thread()?;
    let (voluntary, involuntary) = thread.switches();
    let turns = voluntary.saturating_add(involuntary).saturating_add(1);
    Ok(format!("{} 0 {turns}\n", times(subject, &thread).total()).into_bytes())
}

/// `sched`: what of Linux's scheduler has a meaning here.
pub(super) fn sched(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let thread = subject.thread()?;
    let threads = thread.group().threads().len().max(1);
    let (voluntary, involuntary) = thread.switches();
    let scheduling = thread.attributes().scheduling();
    let ran = times(subject, &thread).total();
    let priority = match scheduling.priority {
        0 => thread.nice().saturating_add(120),
        real_time => 99_i32.saturating_sub(real_time),
    };
    let millis = |ns: u64| format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000);
    let mut text = String::from_utf8_lossy(thread.comm().as_bytes()).into_owned();
    let _ = write!(text, " ({}, #threads: {threads})\n{}\n", thread.tid().0, "-".repeat(67));
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<45}:{value:>21}");
    };
    row("se.exec_start", millis(sync::monotonic_now_ns()));
    row("se.sum_exec_runtime", millis(ran));
    row("nr_switches", voluntary.saturating_add(involuntary).to_string());
    row("nr_voluntary_switches", voluntary.to_string());
    row("nr_involuntary_switches", involuntary.to_string());
    row("policy", scheduling.policy.to_string());
    row("prio", priority.to_string());
    Ok(text.into_bytes())
}

/// `timers`: POSIX timers, proc_pid_timers(5).
pub(super) fn timers(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let group = subject.group()?;
    let mut text = String::new();
    for (id, spec) in group.timers.listing() {
        let (signal, value, how, whom) = match spec.notify {
            Some(TimerNotify::Signal { signal, value, thread: None }) => {
                (signal.number(), value, "signal", format!("pid.{}", group.pid().0))
            }
            Some(TimerNotify::Signal { signal, value, thread: Some(tid) }) => {
                (signal.number(), value, "signal", format!("tid.{}", tid.0))
            }
            _ => (0, 0, "none", format!("pid.{}", group.pid().0)),
        };
        let clock = spec.clock.number();
        let _ = write!(text, "ID: {id}\nsignal: {signal}/{value:016x}\nnotify: {how}/{whom}\nClockID: {clock}\n");
    }
    Ok(text.into_bytes())
}

/// `task/[tid]/children`: numbers, each with a blank behind it.
pub(super) fn children(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let thread = subject.thread()?;
    let children = subject.kernel()?.tasks().children_of(&thread);
    Ok(children.iter().map(|pid| format!("{} ", pid.0)).collect::<String>().into_bytes())
}
