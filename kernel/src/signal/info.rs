//! `siginfo_t` as data, and its 128-byte form.

use super::types::Signal;
use crate::ids::Pid;

/// `si_code`: sent by `kill`.
pub const SI_USER: i32 = 0;
/// `si_code`: sent by the kernel.
pub const SI_KERNEL: i32 = 0x80;
/// `si_code`: sent by `sigqueue`.
pub const SI_QUEUE: i32 = -1;
/// `si_code`: a POSIX timer expired.
pub const SI_TIMER: i32 = -2;
/// `si_code`: a message came into an empty POSIX queue.
pub const SI_MESGQ: i32 = -3;
/// `si_code`: sent by `tkill` or `tgkill`.
pub const SI_TKILL: i32 = -6;

/// `si_code` of SIGCHLD.
pub mod child {
    /// The child exited.
    pub const CLD_EXITED: i32 = 1;
    /// It was killed.
    pub const CLD_KILLED: i32 = 2;
    /// It was killed and dumped core.
    pub const CLD_DUMPED: i32 = 3;
    /// It stopped.
    pub const CLD_STOPPED: i32 = 5;
    /// It continued.
    pub const CLD_CONTINUED: i32 = 6;
}

/// Bytes of a `siginfo_t`.
pub const SIGINFO_SIZE: usize = 128;

/// A signal instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SigInfo {
    /// Which signal.
    pub signal: Signal,
    /// `si_code`.
    pub code: i32,
    /// `si_errno`.
    pub errno: i32,
    /// What follows, by kind.
    pub data: SigData,
}

/// The union of `siginfo_t`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SigData {
    /// Nothing.
    None,
    /// `si_pid`, `si_uid`.
    Kill { pid: Pid, uid: u32 },
    /// `si_pid`, `si_uid`, `si_value`.
    Queue { pid: Pid, uid: u32, value: u64 },
    /// SIGCHLD; times in clock ticks of 10 ms.
    Child { pid: Pid, uid: u32, status: i32, utime: u64, stime: u64 },
    /// `si_addr`.
    Fault { addr: u64 },
    /// `si_timerid`, `si_overrun`, `si_value`.
    Timer { id: i32, overrun: i32, value: u64 },
    /// `si_band`, `si_fd`.
    Poll { band: i64, fd: i32 },
    /// `si_call_addr`, `si_syscall`, `si_arch`.
    Sys { call_addr: u64, syscall: i32, arch: u32 },
    /// As the guest gave it to `rt_sigqueueinfo`: the bytes after `si_code`.
    Raw(Box<[u8; 112]>),
}

impl SigInfo {
    /// From `kill(2)` by this process.
    pub fn kill(signal: Signal, pid: Pid, uid: u32) -> Self {
        Self { signal, code: SI_USER, errno: 0, data: SigData::Kill { pid, uid } }
    }

    /// From the kernel, without details.
    pub fn kernel(signal: Signal) -> Self {
        Self { signal, code: SI_KERNEL, errno: 0, data: SigData::None }
    }

    /// From the CPU.
    pub fn fault(signal: Signal, code: i32, addr: u64) -> Self {
        Self { signal, code, errno: 0, data: SigData::Fault { addr } }
    }

    /// From the bytes that a guest gave to `rt_sigqueueinfo`; `signal` wins over the number in them.
    pub fn from_guest(signal: Signal, bytes: &[u8; SIGINFO_SIZE]) -> Self {
        let word =
            |at: usize| i32::from_ne_bytes(bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).unwrap_or([0; 4]));
        let mut rest = [0; 112];
        rest.copy_from_slice(bytes.get(16..).unwrap_or(&[0; 112]));
        Self { signal, errno: word(4), code: word(8), data: SigData::Raw(Box::new(rest)) }
    }

    /// Who sent it, where the kind says so.
    pub fn sender(&self) -> Option<(Pid, u32)> {
        match self.data {
            SigData::Kill { pid, uid } | SigData::Queue { pid, uid, .. } | SigData::Child { pid, uid, .. } => {
                Some((pid, uid))
            }
            _ => None,
        }
    }

    /// The 128 bytes of a `siginfo_t`; unused ones are zero.
    pub fn to_bytes(&self) -> [u8; SIGINFO_SIZE] {
        let mut out = [0_u8; SIGINFO_SIZE];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(to) = out.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
        };
        put(0, &self.signal.number().to_ne_bytes());
        put(4, &self.errno.to_ne_bytes());
        put(8, &self.code.to_ne_bytes());
        match &self.data {
            SigData::None => {}
            SigData::Kill { pid, uid } => {
                put(16, &pid.0.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
            }
            SigData::Queue { pid, uid, value } => {
                put(16, &pid.0.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
                put(24, &value.to_ne_bytes());
            }
            SigData::Child { pid, uid, status, utime, stime } => {
                put(16, &pid.0.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
                put(24, &status.to_ne_bytes());
                put(32, &utime.to_ne_bytes());
                put(40, &stime.to_ne_bytes());
            }
            SigData::Fault { addr } => put(16, &addr.to_ne_bytes()),
            SigData::Timer { id, overrun, value } => {
                put(16, &id.to_ne_bytes());
                put(20, &overrun.to_ne_bytes());
                put(24, &value.to_ne_bytes());
            }
            SigData::Poll { band, fd } => {
                put(16, &band.to_ne_bytes());
                put(24, &fd.to_ne_bytes());
            }
            SigData::Sys { call_addr, syscall, arch } => {
                put(16, &call_addr.to_ne_bytes());
                put(24, &syscall.to_ne_bytes());
                put(28, &arch.to_ne_bytes());
            }
            SigData::Raw(rest) => put(16, rest.as_slice()),
        }
        out
    }
}
