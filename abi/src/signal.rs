//! Signals: `signal(7)`, `sigaction(2)`, `sigaltstack(2)`. `asm/signal.h`, `asm-generic/siginfo.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

consts! {
    i32 {
        SIGHUP = 1,
        SIGINT = 2,
        SIGQUIT = 3,
        SIGILL = 4,
        SIGTRAP = 5,
        SIGABRT = 6,
        SIGBUS = 7,
        SIGFPE = 8,
        SIGKILL = 9,
        SIGUSR1 = 10,
        SIGSEGV = 11,
        SIGUSR2 = 12,
        SIGPIPE = 13,
        SIGALRM = 14,
        SIGTERM = 15,
        SIGSTKFLT = 16,
        SIGCHLD = 17,
        SIGCONT = 18,
        SIGSTOP = 19,
        SIGTSTP = 20,
        SIGTTIN = 21,
        SIGTTOU = 22,
        SIGURG = 23,
        SIGXCPU = 24,
        SIGXFSZ = 25,
        SIGVTALRM = 26,
        SIGPROF = 27,
        SIGWINCH = 28,
        SIGIO = 29,
        SIGPWR = 30,
        SIGSYS = 31,
        /// First real-time signal as the kernel counts them.
        SIGRTMIN = 32,
        /// Last real-time signal.
        SIGRTMAX = 64,
        /// Number of signals; they are 1 to `NSIG`.
        NSIG = 64,
    }
    u64 {
        /// Default action, as a handler.
        SIG_DFL = 0,
        /// Ignore, as a handler.
        SIG_IGN = 1,
    }
    u32 {
        SIG_BLOCK = 0,
        SIG_UNBLOCK = 1,
        SIG_SETMASK = 2,
    }
    i32 {
        /// Sent by `kill(2)`.
        SI_USER = 0,
        SI_KERNEL = 0x80,
        SI_QUEUE = -1,
        SI_TIMER = -2,
        SI_MESGQ = -3,
        SI_ASYNCIO = -4,
        SI_SIGIO = -5,
        SI_TKILL = -6,
        SI_DETHREAD = -7,
        SI_ASYNCNL = -60,
    }
    i32 {
        ILL_ILLOPC = 1,
        ILL_ILLOPN = 2,
        ILL_ILLADR = 3,
        ILL_ILLTRP = 4,
        ILL_PRVOPC = 5,
        ILL_PRVREG = 6,
        ILL_COPROC = 7,
        ILL_BADSTK = 8,
        FPE_INTDIV = 1,
        FPE_INTOVF = 2,
        FPE_FLTDIV = 3,
        FPE_FLTOVF = 4,
        FPE_FLTUND = 5,
        FPE_FLTRES = 6,
        FPE_FLTINV = 7,
        FPE_FLTSUB = 8,
        SEGV_MAPERR = 1,
        SEGV_ACCERR = 2,
        SEGV_BNDERR = 3,
        SEGV_PKUERR = 4,
        BUS_ADRALN = 1,
        BUS_ADRERR = 2,
        BUS_OBJERR = 3,
        BUS_MCEERR_AR = 4,
        BUS_MCEERR_AO = 5,
        TRAP_BRKPT = 1,
        TRAP_TRACE = 2,
        TRAP_BRANCH = 3,
        TRAP_HWBKPT = 4,
        CLD_EXITED = 1,
        CLD_KILLED = 2,
        CLD_DUMPED = 3,
        CLD_TRAPPED = 4,
        CLD_STOPPED = 5,
        CLD_CONTINUED = 6,
        POLL_IN = 1,
        POLL_OUT = 2,
        POLL_MSG = 3,
        POLL_ERR = 4,
        POLL_PRI = 5,
        POLL_HUP = 6,
        SYS_SECCOMP = 1,
        SYS_USER_DISPATCH = 2,
    }
    u64 {
        MINSIGSTKSZ = 2048,
        SIGSTKSZ = 8192,
    }
    i32 {
        SIGEV_SIGNAL = 0,
        SIGEV_NONE = 1,
        SIGEV_THREAD = 2,
        SIGEV_THREAD_ID = 4,
    }
}

flags! {
    /// `sigaction.sa_flags`. The kernel keeps unknown bits out of what it stores.
    pub struct SaFlags: u64 {
        SA_NOCLDSTOP = 0x1,
        SA_NOCLDWAIT = 0x2,
        SA_SIGINFO = 0x4,
        SA_UNSUPPORTED = 0x400,
        SA_EXPOSE_TAGBITS = 0x800,
        SA_RESTORER = 0x0400_0000,
        SA_ONSTACK = 0x0800_0000,
        SA_RESTART = 0x1000_0000,
        SA_NODEFER = 0x4000_0000,
        SA_RESETHAND = 0x8000_0000,
    }
    /// `stack_t.ss_flags`.
    pub struct SsFlags: u32 {
        SS_ONSTACK = 1,
        SS_DISABLE = 2,
        SS_AUTODISARM = 0x8000_0000,
    }
    /// `signalfd4(2)`.
    pub struct SignalfdFlags: u32 {
        SFD_NONBLOCK = 0o4000,
        SFD_CLOEXEC = 0o2000000,
    }
}

/// A set of signals, `sigset_t` of the kernel: bit n-1 stands for signal n.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);
    /// Every signal.
    pub const ALL: Self = Self(u64::MAX);

    /// The set of one signal; empty for a number outside 1 to [`NSIG`].
    pub const fn of(sig: i32) -> Self {
        if sig >= 1 && sig <= NSIG { Self(1 << (sig - 1)) } else { Self(0) }
    }

    /// Whether `sig` is in the set.
    pub const fn contains(self, sig: i32) -> bool {
        self.0 & Self::of(sig).0 != 0
    }

    /// Whether no signal is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Signals in either set.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Signals in both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Signals of this set that are not in `other`.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The set with `sig` added.
    #[must_use]
    pub const fn with(self, sig: i32) -> Self {
        self.union(Self::of(sig))
    }

    /// The set with `sig` taken out.
    #[must_use]
    pub const fn without(self, sig: i32) -> Self {
        self.difference(Self::of(sig))
    }

    /// The lowest-numbered signal in the set.
    pub const fn first(self) -> Option<i32> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() as i32 + 1) }
    }
}

impl core::fmt::Debug for SigSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SigSet({:#x})", self.0)
    }
}

/// Signals that cannot be blocked, caught or ignored.
pub const UNBLOCKABLE: SigSet = SigSet::of(SIGKILL).with(SIGSTOP);

/// Names of signals 1 to 31, without `SIG`.
pub const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

uapi_struct! {
    /// `struct sigaction` as the kernel takes it.
    pub struct SigAction {
        /// Address of the handler, [`SIG_DFL`] or [`SIG_IGN`].
        pub handler: u64,
        /// [`SaFlags`].
        pub flags: u64,
        /// Where the handler returns to.
        pub restorer: u64,
        /// Blocked while the handler runs.
        pub mask: SigSet,
    }
    /// `stack_t`.
    pub struct StackT {
        pub ss_sp: u64,
        /// [`SsFlags`].
        pub ss_flags: u32,
        pub _pad: u32,
        pub ss_size: u64,
    }
    /// `siginfo_t`: a header and, from byte 16, fields that depend on signal and code. See the constructors.
    pub struct SigInfo {
        pub si_signo: i32,
        pub si_errno: i32,
        pub si_code: i32,
        pub _pad: i32,
        pub fields: [u64; 14],
    }
    /// `struct sigevent`.
    pub struct SigEvent {
        pub sigev_value: u64,
        pub sigev_signo: i32,
        pub sigev_notify: i32,
        /// Meaningful with [`SIGEV_THREAD_ID`].
        pub sigev_notify_thread_id: i32,
        pub _pad: [i32; 11],
    }
    /// `struct signalfd_siginfo`.
    pub struct SignalfdSiginfo {
        pub ssi_signo: u32,
        pub ssi_errno: i32,
        pub ssi_code: i32,
        pub ssi_pid: u32,
        pub ssi_uid: u32,
        pub ssi_fd: i32,
        pub ssi_tid: u32,
        pub ssi_band: u32,
        pub ssi_overrun: u32,
        pub ssi_trapno: u32,
        pub ssi_status: i32,
        pub ssi_int: i32,
        pub ssi_ptr: u64,
        pub ssi_utime: u64,
        pub ssi_stime: u64,
        pub ssi_addr: u64,
        pub ssi_addr_lsb: u16,
        pub _pad2: u16,
        pub ssi_syscall: i32,
        pub ssi_call_addr: u64,
        pub ssi_arch: u32,
        pub _pad: [u8; 28],
    }
    /// The sixth argument of `pselect6(2)`.
    pub struct SigSetArgument {
        /// Address of a [`SigSet`], or 0.
        pub ss: u64,
        /// Its size, 8.
        pub ss_len: u64,
    }
}

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// Constructors and accessors; each names the union member of `siginfo_t` that it stands for. Accessors of another
/// member than the one that was filled answer whatever the bytes say, as in C.
impl SigInfo {
    const fn with_fields(signo: i32, code: i32, first: [u64; 4]) -> Self {
        let mut fields = [0; 14];
        fields[0] = first[0];
        fields[1] = first[1];
        fields[2] = first[2];
        fields[3] = first[3];
        Self { si_signo: signo, si_errno: 0, si_code: code, _pad: 0, fields }
    }

    /// `_kill`: sent by a process (`SI_USER`, `SI_TKILL`) or, with pid 0, by the kernel (`SI_KERNEL`).
    pub const fn kill(signo: i32, code: i32, pid: i32, uid: u32) -> Self {
        Self::with_fields(signo, code, [pair(pid as u32, uid), 0, 0, 0])
    }

    /// A signal of the kernel's own, `SI_KERNEL` and nothing more.
    pub const fn kernel(signo: i32) -> Self {
        Self::kill(signo, SI_KERNEL, 0, 0)
    }

    /// `_rt`: `sigqueue(3)` with its value.
    pub const fn queue(signo: i32, code: i32, pid: i32, uid: u32, value: u64) -> Self {
        Self::with_fields(signo, code, [pair(pid as u32, uid), value, 0, 0])
    }

    /// `_timer`: expiry of a POSIX timer.
    pub const fn timer(signo: i32, timer_id: i32, overrun: i32, value: u64) -> Self {
        Self::with_fields(signo, SI_TIMER, [pair(timer_id as u32, overrun as u32), value, 0, 0])
    }

    /// `_sigchld`; times in clock ticks.
    pub const fn child(code: i32, pid: i32, uid: u32, status: i32, utime: i64, stime: i64) -> Self {
        Self::with_fields(SIGCHLD, code, [pair(pid as u32, uid), pair(status as u32, 0), utime as u64, stime as u64])
    }

    /// `_sigfault`: a CPU exception at `addr`.
    pub const fn fault(signo: i32, code: i32, addr: u64) -> Self {
        Self::with_fields(signo, code, [addr, 0, 0, 0])
    }

    /// `_sigpoll`: I/O is possible on `fd`.
    pub const fn poll(signo: i32, code: i32, band: i64, fd: i32) -> Self {
        Self::with_fields(signo, code, [band as u64, pair(fd as u32, 0), 0, 0])
    }

    /// `_sigsys`: a seccomp filter refused a call.
    pub const fn sys(call_addr: u64, syscall: i32, arch: u32, errno: i32) -> Self {
        let mut info = Self::with_fields(SIGSYS, SYS_SECCOMP, [call_addr, pair(syscall as u32, arch), 0, 0]);
        info.si_errno = errno;
        info
    }

    /// `si_pid` of `_kill`, `_rt` and `_sigchld`.
    pub const fn pid(&self) -> i32 {
        self.fields[0] as i32
    }

    /// `si_uid` of `_kill`, `_rt` and `_sigchld`.
    pub const fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }

    /// `si_value` of `_rt` and `_timer`.
    pub const fn value(&self) -> u64 {
        self.fields[1]
    }

    /// `si_status` of `_sigchld`.
    pub const fn status(&self) -> i32 {
        self.fields[1] as i32
    }

    /// `si_utime` of `_sigchld` in clock ticks.
    pub const fn utime(&self) -> u64 {
        self.fields[2]
    }

    /// `si_stime` of `_sigchld` in clock ticks.
    pub const fn stime(&self) -> u64 {
        self.fields[3]
    }

    /// `si_addr` of `_sigfault`.
    pub const fn addr(&self) -> u64 {
        self.fields[0]
    }

    /// `si_timerid` of `_timer`.
    pub const fn timer_id(&self) -> i32 {
        self.fields[0] as i32
    }

    /// `si_overrun` of `_timer`.
    pub const fn overrun(&self) -> i32 {
        (self.fields[0] >> 32) as i32
    }

    /// `si_band` of `_sigpoll`.
    pub const fn band(&self) -> i64 {
        self.fields[0] as i64
    }

    /// `si_fd` of `_sigpoll`.
    pub const fn fd(&self) -> i32 {
        self.fields[1] as i32
    }

    /// `si_call_addr` of `_sigsys`.
    pub const fn call_addr(&self) -> u64 {
        self.fields[0]
    }

    /// `si_syscall` of `_sigsys`.
    pub const fn syscall(&self) -> i32 {
        self.fields[1] as i32
    }

    /// `si_arch` of `_sigsys`.
    pub const fn arch(&self) -> u32 {
        (self.fields[1] >> 32) as u32
    }
}

layout! {
    SigSet: 8;
    SigAction: 32, flags @ 8, restorer @ 16, mask @ 24;
    StackT: 24, ss_size @ 16;
    SigInfo: 128, si_code @ 8, fields @ 16;
    SigEvent: 64, sigev_notify_thread_id @ 16;
    SignalfdSiginfo: 128, ssi_ptr @ 48, ssi_addr @ 72, ssi_call_addr @ 88;
}

#[cfg(test)]
mod tests {
    use super::{SIGINT, SIGKILL, SIGRTMAX, SigSet, UNBLOCKABLE};

    #[test]
    fn bit_n_minus_one_is_signal_n() {
        let set = SigSet::of(SIGINT).with(SIGRTMAX);
        assert_eq!(set.0, 1 << 1 | 1 << 63);
        assert!(set.contains(SIGINT) && !set.contains(SIGKILL));
        assert_eq!(set.first(), Some(SIGINT));
        assert_eq!(SigSet::of(0), SigSet::EMPTY);
        assert_eq!(SigSet::of(65), SigSet::EMPTY);
        assert_eq!(SigSet::of(i32::MIN), SigSet::EMPTY);
        assert_eq!(UNBLOCKABLE.0, 1 << 8 | 1 << 18);
    }
}
