//! Process and thread numbers as types of their own.

use core::fmt;

/// The number of a thread group (process), as `getpid` says it. Process groups and sessions use the same numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u32);

/// The number of a thread, as `gettid` says it. A leader's equals its process's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub u32);

/// The init process of the sandbox: part of the kernel, no guest code.
pub const INIT_PID: Pid = Pid(1);

/// Largest process number plus one, as `/proc/sys/kernel/pid_max` says.
pub const PID_MAX: u32 = 4_194_304;

impl Pid {
    /// The leader's thread number.
    pub const fn leader(self) -> Tid {
        Tid(self.0)
    }

    /// From a guest's `pid_t`; zero and negative numbers have special meanings that the caller handles first.
    pub fn from_raw(raw: i32) -> Option<Self> {
        u32::try_from(raw).ok().filter(|&n| n != 0).map(Self)
    }

    /// As a `pid_t`.
    pub const fn raw(self) -> i32 {
        self.0.cast_signed()
    }
}

impl Tid {
    /// From a guest's `pid_t`.
    pub fn from_raw(raw: i32) -> Option<Self> {
        u32::try_from(raw).ok().filter(|&n| n != 0).map(Self)
    }

    /// As a `pid_t`.
    pub const fn raw(self) -> i32 {
        self.0.cast_signed()
    }

    /// The process number that equals this thread number.
    pub const fn as_pid(self) -> Pid {
        Pid(self.0)
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
