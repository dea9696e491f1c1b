//! Scheduling: `sched(7)`. `linux/sched.h`, `linux/sched/types.h`, `linux/ioprio.h`.

consts! {
    i32 {
        SCHED_NORMAL = 0,
        SCHED_FIFO = 1,
        SCHED_RR = 2,
        SCHED_BATCH = 3,
        SCHED_IDLE = 5,
        SCHED_DEADLINE = 6,
        SCHED_EXT = 7,
        /// Or-ed into a policy.
        SCHED_RESET_ON_FORK = 0x4000_0000,
    }
    u64 {
        SCHED_FLAG_RESET_ON_FORK = 0x01,
        SCHED_FLAG_RECLAIM = 0x02,
        SCHED_FLAG_DL_OVERRUN = 0x04,
        SCHED_FLAG_KEEP_POLICY = 0x08,
        SCHED_FLAG_KEEP_PARAMS = 0x10,
        SCHED_FLAG_UTIL_CLAMP_MIN = 0x20,
        SCHED_FLAG_UTIL_CLAMP_MAX = 0x40,
    }
    u32 {
        SCHED_ATTR_SIZE_VER0 = 48,
        SCHED_ATTR_SIZE_VER1 = 56,
    }
    i32 {
        PRIO_PROCESS = 0,
        PRIO_PGRP = 1,
        PRIO_USER = 2,
        IOPRIO_WHO_PROCESS = 1,
        IOPRIO_WHO_PGRP = 2,
        IOPRIO_WHO_USER = 3,
        IOPRIO_CLASS_NONE = 0,
        IOPRIO_CLASS_RT = 1,
        IOPRIO_CLASS_BE = 2,
        IOPRIO_CLASS_IDLE = 3,
        IOPRIO_CLASS_SHIFT = 13,
    }
}

uapi_struct! {
    /// `struct sched_param`.
    pub struct SchedParam {
        pub sched_priority: i32,
    }
    /// `struct sched_attr`.
    pub struct SchedAttr {
        pub size: u32,
        pub sched_policy: u32,
        pub sched_flags: u64,
        pub sched_nice: i32,
        pub sched_priority: u32,
        pub sched_runtime: u64,
        pub sched_deadline: u64,
        pub sched_period: u64,
        pub sched_util_min: u32,
        pub sched_util_max: u32,
    }
}

layout! {
    SchedParam: 4;
    SchedAttr: 56, sched_util_min @ 48;
}
