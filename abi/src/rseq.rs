//! Restartable sequences, `rseq(2)`. `linux/rseq.h`.

consts! {
    u32 {
        RSEQ_FLAG_UNREGISTER = 1,
        /// `cpu_id` before registration.
        RSEQ_CPU_ID_UNINITIALIZED = u32::MAX,
        /// `cpu_id` when registration failed.
        RSEQ_CPU_ID_REGISTRATION_FAILED = u32::MAX - 1,
    }
    u64 {
        /// `AT_RSEQ_FEATURE_SIZE`: bytes of [`Rseq`] that the kernel fills, up to and with `mm_cid`.
        RSEQ_FEATURE_SIZE = 28,
        /// `AT_RSEQ_ALIGN`.
        RSEQ_ALIGN = 32,
        /// Size of the first published `struct rseq`, which registration accepts whatever the feature size.
        RSEQ_ORIG_SIZE = 32,
    }
}

uapi_struct! {
    /// `struct rseq`.
    pub struct Rseq {
        pub cpu_id_start: u32,
        pub cpu_id: u32,
        /// Address of the current [`RseqCs`], or 0.
        pub rseq_cs: u64,
        pub flags: u32,
        pub node_id: u32,
        pub mm_cid: u32,
        pub _pad: u32,
    }
    /// `struct rseq_cs`.
    pub struct RseqCs {
        pub version: u32,
        pub flags: u32,
        pub start_ip: u64,
        pub post_commit_offset: u64,
        pub abort_ip: u64,
    }
}

layout! {
    Rseq: 32, rseq_cs @ 8, mm_cid @ 24;
    RseqCs: 32;
}
