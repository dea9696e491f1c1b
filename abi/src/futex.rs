//! Futexes: `futex(2)`, `get_robust_list(2)`, `futex_waitv(2)`. `linux/futex.h`.

consts! {
    u32 {
        FUTEX_WAIT = 0,
        FUTEX_WAKE = 1,
        FUTEX_FD = 2,
        FUTEX_REQUEUE = 3,
        FUTEX_CMP_REQUEUE = 4,
        FUTEX_WAKE_OP = 5,
        FUTEX_LOCK_PI = 6,
        FUTEX_UNLOCK_PI = 7,
        FUTEX_TRYLOCK_PI = 8,
        FUTEX_WAIT_BITSET = 9,
        FUTEX_WAKE_BITSET = 10,
        FUTEX_WAIT_REQUEUE_PI = 11,
        FUTEX_CMP_REQUEUE_PI = 12,
        FUTEX_LOCK_PI2 = 13,
        FUTEX_PRIVATE_FLAG = 128,
        FUTEX_CLOCK_REALTIME = 256,
        FUTEX_CMD_MASK = !(128 | 256),
        FUTEX_BITSET_MATCH_ANY = 0xffff_ffff,
        FUTEX_WAITERS = 0x8000_0000,
        FUTEX_OWNER_DIED = 0x4000_0000,
        FUTEX_TID_MASK = 0x3fff_ffff,
    }
    u32 {
        FUTEX_OP_SET = 0,
        FUTEX_OP_ADD = 1,
        FUTEX_OP_OR = 2,
        FUTEX_OP_ANDN = 3,
        FUTEX_OP_XOR = 4,
        FUTEX_OP_OPARG_SHIFT = 8,
        FUTEX_OP_CMP_EQ = 0,
        FUTEX_OP_CMP_NE = 1,
        FUTEX_OP_CMP_LT = 2,
        FUTEX_OP_CMP_LE = 3,
        FUTEX_OP_CMP_GT = 4,
        FUTEX_OP_CMP_GE = 5,
    }
    u32 {
        FUTEX2_SIZE_U8 = 0,
        FUTEX2_SIZE_U16 = 1,
        FUTEX2_SIZE_U32 = 2,
        FUTEX2_SIZE_U64 = 3,
        FUTEX2_SIZE_MASK = 3,
        FUTEX2_NUMA = 4,
        FUTEX2_PRIVATE = 128,
    }
    usize {
        FUTEX_WAITV_MAX = 128,
        /// Most entries of a robust list that are walked at exit.
        ROBUST_LIST_LIMIT = 2048,
    }
}

uapi_struct! {
    /// `struct robust_list_head`.
    pub struct RobustListHead {
        /// First entry, or the head's own address. Bit 0 marks a PI futex.
        pub list: u64,
        pub futex_offset: i64,
        pub list_op_pending: u64,
    }
    /// `struct futex_waitv`.
    pub struct FutexWaitv {
        pub val: u64,
        pub uaddr: u64,
        pub flags: u32,
        pub _reserved: u32,
    }
}

layout! {
    RobustListHead: 24;
    FutexWaitv: 24, flags @ 16;
}
