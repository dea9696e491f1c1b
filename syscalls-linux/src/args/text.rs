//! How structures in guest memory read in a trace.

use std::fmt::{Debug, Write as _};

use abi::caps::{CapData, CapHeader};
use abi::clone::CloneArgs;
use abi::epoll::{EpollEvent, EpollEvents};
use abi::fs::{OpenHow, Utimbuf};
use abi::futex::FutexWaitv;
use abi::ipc::{MqAttr, Sembuf};
use abi::poll::{PollEvents, PollFd};
use abi::resource::{Rlimit, Rusage};
use abi::sched::{SchedAttr, SchedParam};
use abi::signal::{SaFlags, SigAction, SigEvent, SigInfo, SigSet, SigSetArgument, StackT};
use abi::socket::Msghdr;
use abi::stat::{Stat, Statfs, Statx};
use abi::sysinfo::Sysinfo;
use abi::time::{Itimerspec, Itimerval, Timespec, Timeval, Timex, Timezone, Tms};
use abi::utsname::Utsname;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::flags_text;

/// A structure that moves between guest and kernel as bytes and has a text.
pub(crate) trait Text: FromBytes + IntoBytes + Immutable + KnownLayout + Copy + Debug {
    /// Appends the text; the fields with their names, unless a type has a shorter custom.
    fn text(&self, out: &mut String) {
        let _ = write!(out, "{self:?}");
    }
}

/// Appends the text of the `T` whose image `bytes` is.
pub(crate) fn of<T: Text>(bytes: &[u8], out: &mut String) {
    match T::read_from_bytes(bytes) {
        Ok(value) => value.text(out),
        Err(_) => out.push('?'),
    }
}

macro_rules! number_text {
    ($($ty:ty)*) => {$(
        impl Text for $ty {
            fn text(&self, out: &mut String) {
                let _ = write!(out, "[{self}]");
            }
        }
    )*};
}
number_text!(i32 u32 i64);

/// Pointers and 64-bit masks.
impl Text for u64 {
    fn text(&self, out: &mut String) {
        let _ = write!(out, "[{self:#x}]");
    }
}

/// A pair of descriptors.
impl Text for [i32; 2] {
    fn text(&self, out: &mut String) {
        let [a, b] = self;
        let _ = write!(out, "[{a}, {b}]");
    }
}

/// Access and modification time.
impl Text for [Timespec; 2] {
    fn text(&self, out: &mut String) {
        let [a, b] = self;
        out.push('[');
        a.text(out);
        out.push_str(", ");
        b.text(out);
        out.push(']');
    }
}

/// Access and modification time.
impl Text for [Timeval; 2] {
    fn text(&self, out: &mut String) {
        let [a, b] = self;
        out.push('[');
        a.text(out);
        out.push_str(", ");
        b.text(out);
        out.push(']');
    }
}

impl Text for Timespec {
    fn text(&self, out: &mut String) {
        let _ = write!(out, "{{tv_sec={}, tv_nsec={}}}", self.tv_sec, self.tv_nsec);
    }
}

impl Text for Timeval {
    fn text(&self, out: &mut String) {
        let _ = write!(out, "{{tv_sec={}, tv_usec={}}}", self.tv_sec, self.tv_usec);
    }
}

impl Text for Itimerspec {
    fn text(&self, out: &mut String) {
        out.push_str("{it_interval=");
        self.it_interval.text(out);
        out.push_str(", it_value=");
        self.it_value.text(out);
        out.push('}');
    }
}

impl Text for Itimerval {
    fn text(&self, out: &mut String) {
        out.push_str("{it_interval=");
        self.it_interval.text(out);
        out.push_str(", it_value=");
        self.it_value.text(out);
        out.push('}');
    }
}

/// Names of the signals in a set, as `[INT CHLD]`, or `~[…]` when most are in it.
fn signals(set: SigSet, out: &mut String) {
    let (set, inverted) = if set.0.count_ones() > 32 { (!set.0, true) } else { (set.0, false) };
    out.push_str(if inverted { "~[" } else { "[" });
    let mut first = true;
    for sig in (1..=64u32).filter(|sig| set & (1 << (sig - 1)) != 0) {
        if !std::mem::take(&mut first) {
            out.push(' ');
        }
        match usize::try_from(sig - 1).ok().and_then(|i| abi::signal::NAMES.get(i)) {
            Some(name) => out.push_str(name),
            None => {
                let _ = write!(out, "RT_{}", sig - 32);
            }
        }
    }
    out.push(']');
}

impl Text for SigSet {
    fn text(&self, out: &mut String) {
        signals(*self, out);
    }
}

impl Text for SigAction {
    fn text(&self, out: &mut String) {
        out.push_str("{sa_handler=");
        match self.handler {
            abi::signal::SIG_DFL => out.push_str("SIG_DFL"),
            abi::signal::SIG_IGN => out.push_str("SIG_IGN"),
            handler => {
                let _ = write!(out, "{handler:#x}");
            }
        }
        out.push_str(", sa_mask=");
        signals(self.mask, out);
        out.push_str(", sa_flags=");
        flags_text::<SaFlags>(self.flags, out);
        out.push('}');
    }
}

impl Text for SigInfo {
    fn text(&self, out: &mut String) {
        let _ = write!(
            out,
            "{{si_signo={}, si_code={}, si_pid={}, si_uid={}, si_status={}}}",
            self.si_signo,
            self.si_code,
            self.pid(),
            self.uid(),
            self.status()
        );
    }
}

impl Text for StackT {
    fn text(&self, out: &mut String) {
        let _ = write!(out, "{{ss_sp={:#x}, ss_flags=", self.ss_sp);
        flags_text::<abi::signal::SsFlags>(u64::from(self.ss_flags), out);
        let _ = write!(out, ", ss_size={}}}", self.ss_size);
    }
}

impl Text for PollFd {
    fn text(&self, out: &mut String) {
        let _ = write!(out, "{{fd={}, events=", self.fd);
        poll_events(self.events, out);
        if self.revents != 0 {
            out.push_str(", revents=");
            poll_events(self.revents, out);
        }
        out.push('}');
    }
}

fn poll_events(bits: u16, out: &mut String) {
    let known = PollEvents::from_bits_truncate(bits);
    let names: Vec<&str> = known.iter_names().map(|(name, _)| name).collect();
    out.push_str(if names.is_empty() { "0" } else { "" });
    out.push_str(&names.join("|"));
}

impl Text for EpollEvent {
    fn text(&self, out: &mut String) {
        let (events, data) = (self.events, self.data);
        out.push_str("{events=");
        flags_text::<EpollEvents>(u64::from(events), out);
        let _ = write!(out, ", data={data:#x}}}");
    }
}

impl Text for Stat {
    fn text(&self, out: &mut String) {
        let _ = write!(
            out,
            "{{st_dev={:#x}, st_ino={}, st_mode={:#o}, st_nlink={}, st_uid={}, st_gid={}, st_size={}, ...}}",
            self.st_dev, self.st_ino, self.st_mode, self.st_nlink, self.st_uid, self.st_gid, self.st_size
        );
    }
}

impl Text for Statx {
    fn text(&self, out: &mut String) {
        let _ = write!(
            out,
            "{{stx_mask={:#x}, stx_mode={:#o}, stx_ino={}, stx_nlink={}, stx_uid={}, stx_gid={}, stx_size={}, ...}}",
            self.stx_mask, self.stx_mode, self.stx_ino, self.stx_nlink, self.stx_uid, self.stx_gid, self.stx_size
        );
    }
}

impl Text for OpenHow {
    fn text(&self, out: &mut String) {
        out.push_str("{flags=");
        super::open_text(self.flags, out);
        let _ = write!(out, ", mode={:#o}, resolve=", self.mode);
        flags_text::<abi::fs::ResolveFlags>(self.resolve, out);
        out.push('}');
    }
}

impl Text for CloneArgs {
    fn text(&self, out: &mut String) {
        out.push_str("{flags=");
        flags_text::<abi::clone::CloneFlags>(self.flags, out);
        let _ = write!(
            out,
            ", child_tid={:#x}, parent_tid={:#x}, exit_signal={}, stack={:#x}, stack_size={:#x}, tls={:#x}}}",
            self.child_tid, self.parent_tid, self.exit_signal, self.stack, self.stack_size, self.tls
        );
    }
}

impl Text for Rlimit {
    fn text(&self, out: &mut String) {
        let limit = |value: u64| if value == u64::MAX { "RLIM64_INFINITY".to_owned() } else { value.to_string() };
        let _ = write!(out, "{{rlim_cur={}, rlim_max={}}}", limit(self.rlim_cur), limit(self.rlim_max));
    }
}

impl Text for Utsname {
    fn text(&self, out: &mut String) {
        let name = String::from_utf8_lossy(&self.nodename);
        let _ = write!(out, "{{sysname=\"Linux\", nodename=\"{}\", ...}}", name.trim_end_matches('\0'));
    }
}

macro_rules! as_debug {
    ($($ty:ty)*) => { $(impl Text for $ty {})* };
}
as_debug!(CapData CapHeader FutexWaitv MqAttr Msghdr Rusage Sembuf Statfs Sysinfo Utimbuf SchedAttr SchedParam SigEvent SigSetArgument Timex Timezone Tms);
