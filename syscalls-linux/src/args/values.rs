//! Arguments that are one of a list of named numbers: commands, kinds, clocks.

use std::fmt::Write as _;

use kernel::syscall::{ArgKind, FromRaw};

macro_rules! values {
    ($($(#[$meta:meta])* $name:ident($inner:ty) = $module:ident { $($value:ident)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) struct $name(pub(crate) $inner);

        impl FromRaw for $name {
            const KIND: ArgKind = ArgKind::Value(Self::text);

            fn from_raw(raw: u64) -> Self {
                Self(<$inner>::from_raw(raw))
            }
        }

        impl $name {
            #[allow(
                trivial_numeric_casts,
                clippy::unnecessary_cast,
                clippy::cast_possible_wrap,
                clippy::cast_sign_loss,
                clippy::cast_possible_truncation,
                reason = "abi's constants have the types of their commonest use"
            )]
            fn text(raw: u64, out: &mut String) {
                let value = <$inner>::from_raw(raw);
                $(if value == abi::$module::$value as $inner {
                    out.push_str(stringify!($value));
                    return;
                })*
                let _ = write!(out, "{value:#x}");
            }
        }
    )*};
}

values! {
    /// Where `lseek(2)` counts from.
    Whence(u32) = fs { SEEK_SET SEEK_CUR SEEK_END SEEK_DATA SEEK_HOLE }
    /// What `fcntl(2)` does.
    FcntlCmd(u32) = fs {
        F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW F_SETOWN F_GETOWN F_SETSIG F_GETSIG F_SETOWN_EX
        F_GETOWN_EX F_GETOWNER_UIDS F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW F_SETLEASE F_GETLEASE F_NOTIFY F_DUPFD_QUERY
        F_CREATED_QUERY F_DUPFD_CLOEXEC F_SETPIPE_SZ F_GETPIPE_SZ F_ADD_SEALS F_GET_SEALS F_GET_RW_HINT F_SET_RW_HINT
        F_GET_FILE_RW_HINT F_SET_FILE_RW_HINT
    }
    /// What `posix_fadvise(2)` is told.
    FadviseArg(u32) = fs {
        POSIX_FADV_NORMAL POSIX_FADV_RANDOM POSIX_FADV_SEQUENTIAL POSIX_FADV_WILLNEED POSIX_FADV_DONTNEED
        POSIX_FADV_NOREUSE
    }
    /// What `madvise(2)` is told.
    AdviceArg(u32) = mm {
        MADV_NORMAL MADV_RANDOM MADV_SEQUENTIAL MADV_WILLNEED MADV_DONTNEED MADV_FREE MADV_REMOVE MADV_DONTFORK
        MADV_DOFORK MADV_MERGEABLE MADV_UNMERGEABLE MADV_HUGEPAGE MADV_NOHUGEPAGE MADV_DONTDUMP MADV_DODUMP
        MADV_WIPEONFORK MADV_KEEPONFORK MADV_COLD MADV_PAGEOUT MADV_POPULATE_READ MADV_POPULATE_WRITE
        MADV_DONTNEED_LOCKED MADV_COLLAPSE MADV_HWPOISON MADV_SOFT_OFFLINE
    }
    /// How `rt_sigprocmask(2)` changes the mask.
    SigHow(u32) = signal { SIG_BLOCK SIG_UNBLOCK SIG_SETMASK }
    /// A signal's number.
    SignalArg(i32) = signal {
        SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM SIGTERM
        SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO
        SIGPWR SIGSYS
    }
    /// A clock.
    ClockArg(i32) = time {
        CLOCK_REALTIME CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID CLOCK_THREAD_CPUTIME_ID CLOCK_MONOTONIC_RAW
        CLOCK_REALTIME_COARSE CLOCK_MONOTONIC_COARSE CLOCK_BOOTTIME CLOCK_REALTIME_ALARM CLOCK_BOOTTIME_ALARM CLOCK_TAI
    }
    /// An interval timer.
    ItimerArg(i32) = time { ITIMER_REAL ITIMER_VIRTUAL ITIMER_PROF }
    /// A scheduling policy.
    PolicyArg(i32) = sched {
        SCHED_NORMAL SCHED_FIFO SCHED_RR SCHED_BATCH SCHED_IDLE SCHED_DEADLINE SCHED_EXT
    }
    /// Whose priority.
    PriorityWho(i32) = sched { PRIO_PROCESS PRIO_PGRP PRIO_USER }
    /// Which children `waitid(2)` waits for.
    WaitIdType(u32) = wait { P_ALL P_PID P_PGID P_PIDFD }
    /// What `ioctl(2)` does.
    IoctlCmd(u32) = tty {
        TCGETS TCSETS TCSETSW TCSETSF TCSBRK TCXONC TCFLSH TIOCSCTTY TIOCGPGRP TIOCSPGRP TIOCGWINSZ TIOCSWINSZ TIOCNOTTY
        TIOCGSID TIOCSTI FIONREAD FIONBIO FIOASYNC FIOCLEX FIONCLEX TIOCGPTN TIOCSPTLCK TIOCGPTLCK TIOCGPTPEER TIOCPKT
        TIOCGPKT TIOCSIG TIOCOUTQ TIOCEXCL TIOCNXCL TIOCGEXCL TIOCGDEV TIOCVHANGUP TIOCGETD TIOCSETD TCSBRKP TCGETS2 TCSETS2
        TCSETSW2 TCSETSF2 TCGETA TCSETA TCSETAW TCSETAF TIOCGLCKTRMIOS TIOCSLCKTRMIOS
    }
    /// What `shmctl(2)` does.
    ShmctlCmd(i32) = ipc {
        IPC_RMID IPC_SET IPC_STAT IPC_INFO SHM_LOCK SHM_UNLOCK SHM_STAT SHM_INFO SHM_STAT_ANY
    }
    /// What `semctl(2)` does.
    SemctlCmd(i32) = ipc {
        IPC_RMID IPC_SET IPC_STAT IPC_INFO GETPID GETVAL GETALL GETNCNT GETZCNT SETVAL SETALL SEM_STAT SEM_INFO
        SEM_STAT_ANY
    }
    /// What `msgctl(2)` does.
    MsgctlCmd(i32) = ipc { IPC_RMID IPC_SET IPC_STAT IPC_INFO MSG_STAT MSG_INFO MSG_STAT_ANY }
    /// What `prctl(2)` does.
    PrctlOp(u32) = prctl {
        PR_SET_PDEATHSIG PR_GET_PDEATHSIG PR_GET_DUMPABLE PR_SET_DUMPABLE PR_GET_KEEPCAPS PR_SET_KEEPCAPS PR_SET_NAME
        PR_GET_NAME PR_GET_SECCOMP PR_SET_SECCOMP PR_CAPBSET_READ PR_CAPBSET_DROP PR_GET_TSC PR_SET_TSC PR_GET_SECUREBITS
        PR_SET_SECUREBITS PR_SET_TIMERSLACK PR_GET_TIMERSLACK PR_MCE_KILL PR_MCE_KILL_GET PR_SET_MM
        PR_SET_CHILD_SUBREAPER PR_GET_CHILD_SUBREAPER PR_SET_NO_NEW_PRIVS PR_GET_NO_NEW_PRIVS PR_GET_TID_ADDRESS
        PR_SET_THP_DISABLE PR_GET_THP_DISABLE PR_CAP_AMBIENT PR_GET_SPECULATION_CTRL PR_SET_SPECULATION_CTRL PR_SET_VMA
        PR_SET_PTRACER
    }
    /// What `arch_prctl(2)` does.
    ArchPrctlOp(u32) = prctl {
        ARCH_SET_GS ARCH_SET_FS ARCH_GET_FS ARCH_GET_GS ARCH_GET_CPUID ARCH_SET_CPUID ARCH_GET_XCOMP_SUPP
        ARCH_GET_XCOMP_PERM ARCH_REQ_XCOMP_PERM ARCH_SHSTK_ENABLE ARCH_SHSTK_DISABLE ARCH_SHSTK_LOCK ARCH_SHSTK_STATUS
    }
    /// What `epoll_ctl(2)` does.
    EpollOp(i32) = epoll { EPOLL_CTL_ADD EPOLL_CTL_DEL EPOLL_CTL_MOD }
}

/// What `futex(2)` does, with its two flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FutexOp(pub(crate) u32);

impl FromRaw for FutexOp {
    const KIND: ArgKind = ArgKind::Value(futex_text);

    fn from_raw(raw: u64) -> Self {
        Self(u32::from_raw(raw))
    }
}

fn futex_text(raw: u64, out: &mut String) {
    use abi::futex::{FUTEX_CLOCK_REALTIME, FUTEX_CMD_MASK, FUTEX_PRIVATE_FLAG};
    const NAMES: [&str; 14] = [
        "FUTEX_WAIT",
        "FUTEX_WAKE",
        "FUTEX_FD",
        "FUTEX_REQUEUE",
        "FUTEX_CMP_REQUEUE",
        "FUTEX_WAKE_OP",
        "FUTEX_LOCK_PI",
        "FUTEX_UNLOCK_PI",
        "FUTEX_TRYLOCK_PI",
        "FUTEX_WAIT_BITSET",
        "FUTEX_WAKE_BITSET",
        "FUTEX_WAIT_REQUEUE_PI",
        "FUTEX_CMP_REQUEUE_PI",
        "FUTEX_LOCK_PI2",
    ];
    let op = u32::from_raw(raw);
    match usize::try_from(op & FUTEX_CMD_MASK).ok().and_then(|cmd| NAMES.get(cmd)) {
        Some(name) => out.push_str(name),
        None => {
            let _ = write!(out, "{:#x}", op & FUTEX_CMD_MASK);
        }
    }
    if op & FUTEX_PRIVATE_FLAG != 0 {
        out.push_str("_PRIVATE");
    }
    if op & FUTEX_CLOCK_REALTIME != 0 {
        out.push_str("|FUTEX_CLOCK_REALTIME");
    }
}

#[cfg(test)]
mod tests {
    use super::{FutexOp, SignalArg, Whence};
    use kernel::syscall::{ArgKind, FromRaw};

    fn text<T: FromRaw>(raw: u64) -> String {
        let mut out = String::new();
        if let ArgKind::Value(f) = T::KIND {
            f(raw, &mut out);
        }
        out
    }

    #[test]
    fn named_and_unnamed() {
        assert_eq!(text::<Whence>(2), "SEEK_END");
        assert_eq!(text::<Whence>(9), "0x9");
        assert_eq!(text::<SignalArg>(9), "SIGKILL");
        assert_eq!(text::<FutexOp>(0x189), "FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME");
    }
}
