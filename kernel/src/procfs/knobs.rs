//! What of a process may be changed by writing: `comm`, `oom_adj`, `oom_score_adj`, `coredump_filter`, `timerslack_ns`.
//!
//! One type of node, [`Knob`], with a pair of functions for each file.

use std::sync::Arc;

use abi::Errno;
use auth::{Caps, Gid, Uid};
use fs::Context;
use fs::kernfs::{Content, Owned};

use super::caller;
use super::process::Subject;
use crate::task::Comm;

type Read = fn(&Subject, &Context<'_>) -> Result<Vec<u8>, Errno>;
type Write = fn(&Subject, &Context<'_>, &[u8]) -> Result<(), Errno>;

/// Name, mode, what it shows, what a write does.
pub(super) const KNOBS: &[(&str, u32, Read, Write)] = &[
    ("comm", 0o644, comm, set_comm),
    ("coredump_filter", 0o644, |s, _| line(format!("{:08x}", s.group()?.core_filter())), set_core_filter),
    ("oom_adj", 0o644, oom_adj, set_oom_adj),
    ("oom_score_adj", 0o644, |s, _| line(s.group()?.oom_score_adj()), set_oom_score_adj),
    ("timerslack_ns", 0o666, timer_slack, set_timer_slack),
];

/// A file of [`KNOBS`].
pub(super) struct Knob {
    pub(super) subject: Subject,
    pub(super) read: Read,
    pub(super) write: Write,
}

impl Owned for Knob {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Content for Knob {
    fn render(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        (self.read)(&self.subject, ctx)
    }

    fn write(&self, ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
        (self.write)(&self.subject, ctx, bytes)
    }
}

/// A text of one line.
fn line(value: impl std::fmt::Display) -> Result<Vec<u8>, Errno> {
    Ok(format!("{value}\n").into_bytes())
}

/// `comm`: the thread's name.
fn comm(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let mut name = subject.thread()?.comm().as_bytes().to_vec();
    name.push(b'\n');
    Ok(name)
}

/// The thread's name, which only its own process may change.
fn set_comm(subject: &Subject, ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
    let thread = subject.thread()?;
    if !Arc::ptr_eq(caller(ctx)?.group(), thread.group()) {
        return Err(Errno::EINVAL);
    }
    thread.set_comm(Comm::new(bytes));
    Ok(())
}

fn number(bytes: &[u8]) -> Result<i64, Errno> {
    let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    text.trim().parse().map_err(|_| Errno::EINVAL)
}

/// A number as C writes it: hexadecimal with `0x`, octal with `0`.
fn c_number(bytes: &[u8]) -> Result<u32, Errno> {
    let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?.trim();
    let parsed = match (text.strip_prefix("0x"), text.strip_prefix('0')) {
        (Some(hex), _) => u32::from_str_radix(hex, 16),
        (None, Some(octal)) if !octal.is_empty() => u32::from_str_radix(octal, 8),
        _ => text.parse(),
    };
    parsed.map_err(|_| Errno::EINVAL)
}

fn set_core_filter(subject: &Subject, _ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
    /// All kinds of mappings that core(5) knows.
    const KINDS: u32 = 0x1ff;
    subject.group()?.set_core_filter(c_number(bytes)? & KINDS);
    Ok(())
}

/// Ends of the two scales, and what switches the killer off on the old one.
const OOM_SCORE_ADJ_MAX: i32 = 1000;
const OOM_ADJ_MAX: i32 = 15;
const OOM_DISABLE: i32 = -17;

/// `oom_adj`: the same on an older scale, proc_pid_oom_adj(5).
fn oom_adj(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let adj = subject.group()?.oom_score_adj();
    let old = if adj == OOM_SCORE_ADJ_MAX {
        OOM_ADJ_MAX
    } else {
        adj.saturating_mul(-OOM_DISABLE).checked_div(OOM_SCORE_ADJ_MAX).unwrap_or(0)
    };
    line(old)
}

fn set_oom_adj(subject: &Subject, ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
    let old = i32::try_from(number(bytes)?).map_err(|_| Errno::EINVAL)?;
    if !(OOM_DISABLE..=OOM_ADJ_MAX).contains(&old) {
        return Err(Errno::EINVAL);
    }
    let adj = if old == OOM_ADJ_MAX { OOM_SCORE_ADJ_MAX } else { old * OOM_SCORE_ADJ_MAX / -OOM_DISABLE };
    change_oom_score_adj(subject, ctx, adj)
}

fn set_oom_score_adj(subject: &Subject, ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
    let adj = i32::try_from(number(bytes)?).map_err(|_| Errno::EINVAL)?;
    if !(-OOM_SCORE_ADJ_MAX..=OOM_SCORE_ADJ_MAX).contains(&adj) {
        return Err(Errno::EINVAL);
    }
    change_oom_score_adj(subject, ctx, adj)
}

fn change_oom_score_adj(subject: &Subject, ctx: &Context<'_>, adj: i32) -> Result<(), Errno> {
    let group = subject.group()?;
    if adj < group.oom_score_adj() && !ctx.creds.has(Caps::SYS_RESOURCE) {
        return Err(Errno::EACCES);
    }
    group.set_oom_score_adj(adj);
    Ok(())
}

/// Another's timer slack is for `CAP_SYS_NICE`.
fn may_time(subject: &Subject, ctx: &Context<'_>) -> Result<(), Errno> {
    if subject.is_caller(ctx) || ctx.creds.has(Caps::SYS_NICE) { Ok(()) } else { Err(Errno::EPERM) }
}

fn timer_slack(subject: &Subject, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    may_time(subject, ctx)?;
    line(subject.thread()?.attributes().slack_ns())
}

fn set_timer_slack(subject: &Subject, ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
    let ns = u64::try_from(number(bytes)?).map_err(|_| Errno::EINVAL)?;
    may_time(subject, ctx)?;
    subject.thread()?.attributes().set_slack_ns(ns);
    Ok(())
}
