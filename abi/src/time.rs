//! Clocks and timers: `clock_gettime(2)`, `timer_create(2)`, `timerfd_create(2)`, `adjtimex(2)`. `linux/time.h`,
//! `linux/timex.h`.

uapi_struct! {
    /// `struct timespec`.
    pub struct Timespec {
        pub tv_sec: i64,
        pub tv_nsec: i64,
    }
    /// `struct timeval`.
    pub struct Timeval {
        pub tv_sec: i64,
        pub tv_usec: i64,
    }
    /// `struct itimerspec`.
    pub struct Itimerspec {
        pub it_interval: Timespec,
        pub it_value: Timespec,
    }
    /// `struct itimerval`.
    pub struct Itimerval {
        pub it_interval: Timeval,
        pub it_value: Timeval,
    }
    /// `struct timezone`.
    pub struct Timezone {
        pub tz_minuteswest: i32,
        pub tz_dsttime: i32,
    }
    /// `struct tms` of `times(2)`, in clock ticks.
    pub struct Tms {
        pub tms_utime: i64,
        pub tms_stime: i64,
        pub tms_cutime: i64,
        pub tms_cstime: i64,
    }
    /// `struct timex` of `adjtimex(2)`.
    pub struct Timex {
        pub modes: u32,
        pub _pad0: u32,
        pub offset: i64,
        pub freq: i64,
        pub maxerror: i64,
        pub esterror: i64,
        pub status: i32,
        pub _pad1: u32,
        pub constant: i64,
        pub precision: i64,
        pub tolerance: i64,
        pub time: Timeval,
        pub tick: i64,
        pub ppsfreq: i64,
        pub jitter: i64,
        pub shift: i32,
        pub _pad2: u32,
        pub stabil: i64,
        pub jitcnt: i64,
        pub calcnt: i64,
        pub errcnt: i64,
        pub stbcnt: i64,
        pub tai: i32,
        pub _pad3: [u32; 11],
    }
}

consts! {
    i32 {
        CLOCK_REALTIME = 0,
        CLOCK_MONOTONIC = 1,
        CLOCK_PROCESS_CPUTIME_ID = 2,
        CLOCK_THREAD_CPUTIME_ID = 3,
        CLOCK_MONOTONIC_RAW = 4,
        CLOCK_REALTIME_COARSE = 5,
        CLOCK_MONOTONIC_COARSE = 6,
        CLOCK_BOOTTIME = 7,
        CLOCK_REALTIME_ALARM = 8,
        CLOCK_BOOTTIME_ALARM = 9,
        CLOCK_TAI = 11,
        MAX_CLOCKS = 16,
        /// Low three bits of a negative clock id: which CPU clock, and whether of a thread.
        CPUCLOCK_PROF = 0,
        CPUCLOCK_VIRT = 1,
        CPUCLOCK_SCHED = 2,
        CPUCLOCK_CLOCK_MASK = 3,
        CPUCLOCK_PERTHREAD_MASK = 4,
        /// Low three bits of a negative clock id that stands for a descriptor.
        CLOCKFD = 3,
    }
    i32 {
        ITIMER_REAL = 0,
        ITIMER_VIRTUAL = 1,
        ITIMER_PROF = 2,
    }
    i64 {
        NSEC_PER_SEC = 1_000_000_000,
        NSEC_PER_USEC = 1_000,
        USEC_PER_SEC = 1_000_000,
        /// Clock ticks per second as user space sees them (`AT_CLKTCK`).
        USER_HZ = 100,
    }
    i32 {
        TIME_OK = 0,
        TIME_ERROR = 5,
        STA_UNSYNC = 0x40,
        STA_NANO = 0x2000,
    }
}

flags! {
    /// `clock_nanosleep(2)`, `timer_settime(2)`.
    pub struct TimerFlags: u32 {
        TIMER_ABSTIME = 1,
    }
    /// `timerfd_create(2)`.
    pub struct TimerfdCreateFlags: u32 {
        TFD_NONBLOCK = 0o4000,
        TFD_CLOEXEC = 0o2000000,
    }
    /// `timerfd_settime(2)`.
    pub struct TimerfdSettimeFlags: u32 {
        TFD_TIMER_ABSTIME = 1,
        TFD_TIMER_CANCEL_ON_SET = 2,
    }
}

layout! {
    Timespec: 16;
    Timeval: 16;
    Itimerspec: 32;
    Itimerval: 32;
    Tms: 32;
    Timex: 208, time @ 72, stabil @ 120, tai @ 160;
}
