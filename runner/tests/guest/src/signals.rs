//! Signals that are blocked and taken: what a test asks about them needs no handler.

use crate::sys;

/// The words of a `siginfo_t`: 0 si_signo, 1 si_errno, 2 si_code, 4 and 5 si_pid and si_uid (or si_addr, or si_band), 6
/// si_status, si_fd or si_value.
pub type Info = [i32; 32];

/// `si_code` of what the kernel itself sends.
pub const SI_KERNEL: i32 = 0x80;

/// The signal's bit in a set.
pub fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Blocks the signals of `set` in this thread.
pub fn block(set: u64) {
    assert_eq!(sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8), Ok(0));
}

/// Waits for a blocked signal and gives what is told of it.
pub fn take(signal: i32) -> Info {
    let mut info: Info = [0; 32];
    let (set, patience) = (bit(signal), [20_i64, 0]);
    let got = sys!(rt_sigtimedwait, &raw const set, info.as_mut_ptr(), patience.as_ptr(), 8);
    assert_eq!(got, Ok(signal.into()));
    info
}

/// Whether the signal is pending.
pub fn pending(signal: i32) -> bool {
    let mut set = 0_u64;
    assert_eq!(sys!(rt_sigpending, &raw mut set, 8), Ok(0));
    set & bit(signal) != 0
}
