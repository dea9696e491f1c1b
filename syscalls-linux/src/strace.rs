//! A line per system call, in the manner of `strace -f -y`, from the same rows that dispatch.
//!
//! What the kernel reads is shown as it was before the call, what it writes as it is after. Guest memory is read with
//! bounds and may be gone: then the pointer is shown.

use std::fmt::Write as _;

use abi::Errno;
use abi::fs::{AT_FDCWD, Iovec};
use kernel::error::Restart;
use kernel::syscall::{ArgKind, RawArgs, RetKind, SysErr, SysResult, SyscallDef, When};
use kernel::task::Task;
use usermem::Addr;

use crate::mem;

/// Bytes of a buffer that are shown.
const BYTES_SHOWN: usize = 32;
/// Bytes of a string that are shown.
const STR_SHOWN: usize = 256;
/// Elements of an array that are shown.
const ELEMENTS_SHOWN: usize = 16;

/// Writes traces to wherever its owner wants them.
pub struct Strace {
    sink: Box<dyn Fn(&str) + Send + Sync>,
}

/// The arguments of a call under way, as far as they could be shown before it.
pub(crate) struct Entered {
    args: Vec<Option<String>>,
}

impl Strace {
    /// Hands every line, with its newline, to `sink`.
    pub fn new(sink: Box<dyn Fn(&str) + Send + Sync>) -> Self {
        Self { sink }
    }

    /// Looks at the arguments before the call.
    pub(crate) fn enter(&self, task: &Task, def: &SyscallDef, raw: RawArgs) -> Entered {
        let args = def.args.iter().enumerate().map(|(i, kind)| {
            let (arg, next) = arg_and_next(raw, i);
            entry_text(task, *kind, arg, next)
        });
        Entered { args: args.collect() }
    }

    /// Writes the line when the call is done.
    pub(crate) fn exit(&self, task: &Task, def: &SyscallDef, raw: RawArgs, entered: Entered, result: &SysResult) {
        let mut line = String::with_capacity(128);
        let _ = write!(line, "[pid {:>5}] {}(", crate::mem::trace_tid(task), def.name);
        for (i, text) in entered.args.into_iter().enumerate() {
            if i > 0 {
                line.push_str(", ");
            }
            match (text, def.args.get(i)) {
                (Some(text), _) => line.push_str(&text),
                (None, Some(kind)) => {
                    let (arg, next) = arg_and_next(raw, i);
                    line.push_str(&exit_text(task, *kind, arg, next, result));
                }
                (None, None) => {}
            }
        }
        line.push_str(") = ");
        result_text(task, def.ret, result, &mut line);
        line.push('\n');
        (self.sink)(&line);
    }

    /// Writes the line of a call without a row.
    pub(crate) fn unknown(&self, task: &Task, nr: u64, raw: RawArgs) {
        let [a, b, c, d, e, f] = raw.0;
        (self.sink)(&format!(
            "[pid {:>5}] syscall_{nr:#x}({a:#x}, {b:#x}, {c:#x}, {d:#x}, {e:#x}, {f:#x}) = -1 ENOSYS (Function not implemented)\n",
            crate::mem::trace_tid(task)
        ));
    }
}

fn arg_and_next(raw: RawArgs, i: usize) -> (u64, u64) {
    (raw.0.get(i).copied().unwrap_or(0), raw.0.get(i + 1).copied().unwrap_or(0))
}

/// The text of an argument before the call; `None` for what only the call fills.
fn entry_text(task: &Task, kind: ArgKind, arg: u64, next: u64) -> Option<String> {
    let low = u32::try_from(arg & 0xffff_ffff).unwrap_or(0);
    Some(match kind {
        ArgKind::Int => low.cast_signed().to_string(),
        ArgKind::Uint => low.to_string(),
        ArgKind::Long => arg.cast_signed().to_string(),
        ArgKind::Ulong => arg.to_string(),
        ArgKind::Hex => format!("{arg:#x}"),
        ArgKind::Mode => format!("{low:#o}"),
        ArgKind::Fd => fd_text(task, low.cast_signed()),
        ArgKind::DirFd if low.cast_signed() == AT_FDCWD => "AT_FDCWD".to_owned(),
        ArgKind::DirFd => fd_text(task, low.cast_signed()),
        ArgKind::Addr => pointer(arg),
        ArgKind::Str => string(task, arg),
        ArgKind::StrVec => string_vec(task, arg),
        ArgKind::Value(text) => {
            let mut out = String::new();
            text(arg, &mut out);
            out
        }
        ArgKind::Bytes(When::Exit)
        | ArgKind::Iovec(When::Exit)
        | ArgKind::Struct { when: When::Exit, .. }
        | ArgKind::Array { when: When::Exit, .. } => return None,
        ArgKind::Bytes(_) => bytes(task, arg, next),
        ArgKind::Iovec(_) => iovec(task, arg, next, u64::MAX),
        ArgKind::Struct { size, text, .. } => structure(task, arg, size, text),
        ArgKind::Array { size, text, .. } => array(task, arg, next, size, text),
    })
}

/// The text of an argument that the call fills, after it.
fn exit_text(task: &Task, kind: ArgKind, arg: u64, next: u64, result: &SysResult) -> String {
    let Ok(ret) = result else { return pointer(arg) };
    match kind {
        ArgKind::Bytes(_) => bytes(task, arg, next.min(*ret)),
        ArgKind::Iovec(_) => iovec(task, arg, next, *ret),
        ArgKind::Struct { size, text, .. } => structure(task, arg, size, text),
        ArgKind::Array { size, text, .. } => array(task, arg, next, size, text),
        _ => pointer(arg),
    }
}

fn result_text(task: &Task, kind: RetKind, result: &SysResult, out: &mut String) {
    let _ = match result {
        Ok(value) => match kind {
            RetKind::Number => write!(out, "{}", value.cast_signed()),
            RetKind::Hex => write!(out, "{value:#x}"),
            RetKind::Fd => {
                out.push_str(&fd_text(task, i32::try_from(*value).unwrap_or(-1)));
                Ok(())
            }
        },
        Err(SysErr::Errno(errno)) => write!(out, "-1 {errno} ({})", message(*errno)),
        Err(SysErr::Restart(restart)) => write!(out, "? {}", restart_text(restart)),
        // The call ends the thread, replaces the program or waits in a state of its own; or the registers are set.
        Err(SysErr::Switch(_) | SysErr::LeaveRegs) => write!(out, "?"),
    };
}

fn restart_text(restart: &Restart) -> &'static str {
    match restart {
        Restart::Sys => "ERESTARTSYS (To be restarted if SA_RESTART is set)",
        Restart::NoIntr => "ERESTARTNOINTR (To be restarted)",
        Restart::NoHand => "ERESTARTNOHAND (To be restarted if no handler)",
        Restart::Block(_) => "ERESTART_RESTARTBLOCK (Interrupted by signal)",
    }
}

fn pointer(addr: u64) -> String {
    if addr == 0 { "NULL".to_owned() } else { format!("{addr:#x}") }
}

fn fd_text(task: &Task, fd: i32) -> String {
    match mem::trace_fd_path(task, fd) {
        Some(path) => {
            let mut out = format!("{fd}<");
            escape(&path, &mut out);
            out.push('>');
            out
        }
        None => fd.to_string(),
    }
}

/// Appends `bytes` with C escapes.
fn escape(bytes: &[u8], out: &mut String) {
    for (i, &byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x0b => out.push_str("\\v"),
            0x0c => out.push_str("\\f"),
            0x20..=0x7e => out.push(char::from(byte)),
            // A digit after a short octal escape would be read as part of it.
            _ if bytes.get(i + 1).is_some_and(u8::is_ascii_digit) => {
                let _ = write!(out, "\\{byte:03o}");
            }
            _ => {
                let _ = write!(out, "\\{byte:o}");
            }
        }
    }
}

fn quoted(bytes: &[u8], more: bool) -> String {
    let mut out = String::with_capacity(bytes.len() + 8);
    out.push('"');
    escape(bytes, &mut out);
    out.push_str(if more { "\"..." } else { "\"" });
    out
}

fn string(task: &Task, addr: u64) -> String {
    if addr == 0 {
        return "NULL".to_owned();
    }
    let mut buf = [0; STR_SHOWN];
    let got = mem::read_prefix(task, Addr(addr), &mut buf);
    let seen = buf.get(..got).unwrap_or(&[]);
    match seen.iter().position(|&b| b == 0) {
        Some(end) => quoted(seen.get(..end).unwrap_or(&[]), false),
        None if got == 0 => pointer(addr),
        None => quoted(seen, true),
    }
}

fn string_vec(task: &Task, addr: u64) -> String {
    if addr == 0 {
        return "NULL".to_owned();
    }
    let mut out = String::from("[");
    for i in 0..=ELEMENTS_SHOWN as u64 {
        let Some(at) = Addr(addr).checked_add(i * 8) else { break };
        match mem::read::<u64>(task, at) {
            Ok(0) => break,
            Err(_) if i == 0 => return pointer(addr),
            Err(_) => {
                out.push_str(", ???");
                break;
            }
            Ok(_) if i == ELEMENTS_SHOWN as u64 => out.push_str(", ..."),
            Ok(element) => {
                out.push_str(if i == 0 { "" } else { ", " });
                out.push_str(&string(task, element));
            }
        }
    }
    out.push(']');
    out
}

fn bytes(task: &Task, addr: u64, len: u64) -> String {
    if addr == 0 {
        return "NULL".to_owned();
    }
    let mut buf = [0; BYTES_SHOWN];
    let want = usize::try_from(len).unwrap_or(usize::MAX).min(BYTES_SHOWN);
    let got = buf.get_mut(..want).map_or(0, |buf| mem::read_prefix(task, Addr(addr), buf));
    if got == 0 && want > 0 {
        return pointer(addr);
    }
    quoted(buf.get(..got).unwrap_or(&[]), len > got as u64)
}

fn structure(task: &Task, addr: u64, size: usize, text: fn(&[u8], &mut String)) -> String {
    if addr == 0 {
        return "NULL".to_owned();
    }
    let mut image = vec![0; size];
    if mem::read_prefix(task, Addr(addr), &mut image) < size {
        return pointer(addr);
    }
    let mut out = String::new();
    text(&image, &mut out);
    out
}

fn array(task: &Task, addr: u64, count: u64, size: usize, text: fn(&[u8], &mut String)) -> String {
    if addr == 0 {
        return "NULL".to_owned();
    }
    let shown = usize::try_from(count & 0xffff_ffff).unwrap_or(0).min(ELEMENTS_SHOWN);
    let mut image = vec![0; shown.saturating_mul(size)];
    let got = mem::read_prefix(task, Addr(addr), &mut image);
    if got < image.len() {
        return pointer(addr);
    }
    let mut out = String::from("[");
    for (i, element) in image.chunks_exact(size.max(1)).enumerate() {
        out.push_str(if i == 0 { "" } else { ", " });
        text(element, &mut out);
    }
    out.push_str(if shown as u64 == count & 0xffff_ffff { "]" } else { ", ...]" });
    out
}

/// Buffers described by an array of `struct iovec`, of which `filled` bytes mean something.
fn iovec(task: &Task, addr: u64, count: u64, mut filled: u64) -> String {
    if addr == 0 {
        return "NULL".to_owned();
    }
    let mut out = String::from("[");
    for i in 0..count.min(ELEMENTS_SHOWN as u64) {
        let element = Addr(addr).checked_add(i * 16).and_then(|at| mem::read::<Iovec>(task, at).ok());
        let Some(element) = element else {
            return pointer(addr);
        };
        out.push_str(if i == 0 { "{iov_base=" } else { ", {iov_base=" });
        out.push_str(&bytes(task, element.iov_base, element.iov_len.min(filled)));
        let _ = write!(out, ", iov_len={}}}", element.iov_len);
        filled = filled.saturating_sub(element.iov_len);
    }
    out.push_str(if count > ELEMENTS_SHOWN as u64 { ", ...]" } else { "]" });
    out
}

/// `strerror(3)` of the common errors; the name itself for others.
pub(crate) fn message(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => "Operation not permitted",
        Errno::ENOENT => "No such file or directory",
        Errno::ESRCH => "No such process",
        Errno::EINTR => "Interrupted system call",
        Errno::EIO => "Input/output error",
        Errno::ENXIO => "No such device or address",
        Errno::E2BIG => "Argument list too long",
        Errno::ENOEXEC => "Exec format error",
        Errno::EBADF => "Bad file descriptor",
        Errno::ECHILD => "No child processes",
        Errno::EAGAIN => "Resource temporarily unavailable",
        Errno::ENOMEM => "Cannot allocate memory",
        Errno::EACCES => "Permission denied",
        Errno::EFAULT => "Bad address",
        Errno::EBUSY => "Device or resource busy",
        Errno::EEXIST => "File exists",
        Errno::EXDEV => "Invalid cross-device link",
        Errno::ENODEV => "No such device",
        Errno::ENOTDIR => "Not a directory",
        Errno::EISDIR => "Is a directory",
        Errno::EINVAL => "Invalid argument",
        Errno::ENFILE => "Too many open files in system",
        Errno::EMFILE => "Too many open files",
        Errno::ENOTTY => "Inappropriate ioctl for device",
        Errno::ETXTBSY => "Text file busy",
        Errno::EFBIG => "File too large",
        Errno::ENOSPC => "No space left on device",
        Errno::ESPIPE => "Illegal seek",
        Errno::EROFS => "Read-only file system",
        Errno::EMLINK => "Too many links",
        Errno::EPIPE => "Broken pipe",
        Errno::ERANGE => "Numerical result out of range",
        Errno::EDEADLK => "Resource deadlock avoided",
        Errno::ENAMETOOLONG => "File name too long",
        Errno::ENOLCK => "No locks available",
        Errno::ENOSYS => "Function not implemented",
        Errno::ENOTEMPTY => "Directory not empty",
        Errno::ELOOP => "Too many levels of symbolic links",
        Errno::ENODATA => "No data available",
        Errno::EOVERFLOW => "Value too large for defined data type",
        Errno::EOPNOTSUPP => "Operation not supported",
        Errno::EAFNOSUPPORT => "Address family not supported by protocol",
        Errno::EADDRINUSE => "Address already in use",
        Errno::EADDRNOTAVAIL => "Cannot assign requested address",
        Errno::ENOTSOCK => "Socket operation on non-socket",
        Errno::EDESTADDRREQ => "Destination address required",
        Errno::EMSGSIZE => "Message too long",
        Errno::EPROTOTYPE => "Protocol wrong type for socket",
        Errno::ENOPROTOOPT => "Protocol not available",
        Errno::EPROTONOSUPPORT => "Protocol not supported",
        Errno::ESOCKTNOSUPPORT => "Socket type not supported",
        Errno::ECONNRESET => "Connection reset by peer",
        Errno::EISCONN => "Transport endpoint is already connected",
        Errno::ENOTCONN => "Transport endpoint is not connected",
        Errno::ETIMEDOUT => "Connection timed out",
        Errno::ECONNREFUSED => "Connection refused",
        Errno::EALREADY => "Operation already in progress",
        Errno::EINPROGRESS => "Operation now in progress",
        _ => "see errno(3)",
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_SHOWN, escape, quoted};

    #[test]
    fn strings_are_escaped_as_c_reads_them() {
        let mut out = String::new();
        escape(b"a\"\\\n\t\x01\x012\xff", &mut out);
        assert_eq!(out, "a\\\"\\\\\\n\\t\\1\\0012\\377");
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(quoted(b"abc", false), "\"abc\"");
        assert_eq!(quoted(&[b'x'; BYTES_SHOWN], true), format!("\"{}\"...", "x".repeat(BYTES_SHOWN)));
    }
}
