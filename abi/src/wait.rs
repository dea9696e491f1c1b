//! Waiting for children: `wait(2)`, `waitid(2)`. `linux/wait.h`.

flags! {
    /// Options of `wait4(2)` and `waitid(2)`.
    pub struct WaitOptions: u32 {
        WNOHANG = 0x1,
        /// `WSTOPPED` is the same.
        WUNTRACED = 0x2,
        WSTOPPED = 0x2,
        WEXITED = 0x4,
        WCONTINUED = 0x8,
        WNOWAIT = 0x0100_0000,
        __WNOTHREAD = 0x2000_0000,
        __WALL = 0x4000_0000,
        __WCLONE = 0x8000_0000,
    }
}

consts! {
    u32 {
        P_ALL = 0,
        P_PID = 1,
        P_PGID = 2,
        P_PIDFD = 3,
    }
    i32 {
        /// In a wait status: the child dumped core.
        WCOREFLAG = 0x80,
        /// Wait status of a child that was continued.
        WSTATUS_CONTINUED = 0xffff,
    }
}

/// Wait status of a child that exited with `code`.
pub const fn status_exited(code: u8) -> i32 {
    (code as i32) << 8
}

/// Wait status of a child that `signal` killed.
pub const fn status_killed(signal: i32) -> i32 {
    signal & 0x7f
}

/// Wait status of a child that `signal` stopped.
pub const fn status_stopped(signal: i32) -> i32 {
    (signal & 0xff) << 8 | 0x7f
}
