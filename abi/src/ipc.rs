//! System V and POSIX IPC: `shmget(2)`, `semop(2)`, `msgget(2)`, `mq_open(3)`. `linux/ipc.h`, `linux/shm.h`,
//! `linux/sem.h`, `linux/msg.h`, `linux/mqueue.h`.

consts! {
    i32 {
        IPC_PRIVATE = 0,
        IPC_RMID = 0,
        IPC_SET = 1,
        IPC_STAT = 2,
        IPC_INFO = 3,
    }
    u32 {
        IPC_CREAT = 0o1000,
        IPC_EXCL = 0o2000,
        IPC_NOWAIT = 0o4000,
        SHM_RDONLY = 0o10000,
        SHM_RND = 0o20000,
        SHM_REMAP = 0o40000,
        SHM_EXEC = 0o100000,
        SHM_HUGETLB = 0o4000,
        SHM_NORESERVE = 0o10000,
        SEM_UNDO = 0x1000,
        MSG_NOERROR = 0o10000,
        MSG_EXCEPT = 0o20000,
        MSG_COPY = 0o40000,
    }
    i32 {
        SHM_LOCK = 11,
        SHM_UNLOCK = 12,
        SHM_STAT = 13,
        SHM_INFO = 14,
        SHM_STAT_ANY = 15,
        GETPID = 11,
        GETVAL = 12,
        GETALL = 13,
        GETNCNT = 14,
        GETZCNT = 15,
        SETVAL = 16,
        SETALL = 17,
        SEM_STAT = 18,
        SEM_INFO = 19,
        SEM_STAT_ANY = 20,
        MSG_STAT = 11,
        MSG_INFO = 12,
        MSG_STAT_ANY = 13,
    }
}

uapi_struct! {
    /// `struct ipc64_perm`.
    pub struct IpcPerm {
        pub key: i32,
        pub uid: u32,
        pub gid: u32,
        pub cuid: u32,
        pub cgid: u32,
        pub mode: u32,
        pub seq: u16,
        pub _pad2: [u16; 3],
        pub _unused: [u64; 2],
    }
    /// `struct shmid64_ds`.
    pub struct ShmidDs {
        pub shm_perm: IpcPerm,
        pub shm_segsz: u64,
        pub shm_atime: i64,
        pub shm_dtime: i64,
        pub shm_ctime: i64,
        pub shm_cpid: i32,
        pub shm_lpid: i32,
        pub shm_nattch: u64,
        pub _unused: [u64; 2],
    }
    /// `struct semid64_ds`.
    pub struct SemidDs {
        pub sem_perm: IpcPerm,
        pub sem_otime: i64,
        pub _unused1: u64,
        pub sem_ctime: i64,
        pub _unused2: u64,
        pub sem_nsems: u64,
        pub _unused3: [u64; 2],
    }
    /// `struct shminfo64`.
    pub struct ShmInfo64 {
        pub shmmax: u64,
        pub shmmin: u64,
        pub shmmni: u64,
        pub shmseg: u64,
        pub shmall: u64,
        pub _unused: [u64; 4],
    }
    /// `struct shm_info`.
    pub struct ShmInfo {
        pub used_ids: i32,
        pub _pad: i32,
        pub shm_tot: u64,
        pub shm_rss: u64,
        pub shm_swp: u64,
        pub swap_attempts: u64,
        pub swap_successes: u64,
    }
    /// `struct seminfo`.
    pub struct SemInfo {
        pub semmap: i32,
        pub semmni: i32,
        pub semmns: i32,
        pub semmnu: i32,
        pub semmsl: i32,
        pub semopm: i32,
        pub semume: i32,
        pub semusz: i32,
        pub semvmx: i32,
        pub semaem: i32,
    }
    /// `struct msginfo`.
    pub struct MsgInfo {
        pub msgpool: i32,
        pub msgmap: i32,
        pub msgmax: i32,
        pub msgmnb: i32,
        pub msgmni: i32,
        pub msgssz: i32,
        pub msgtql: i32,
        pub msgseg: u16,
        pub _pad: u16,
    }
    /// `struct sembuf`.
    pub struct Sembuf {
        pub sem_num: u16,
        pub sem_op: i16,
        pub sem_flg: i16,
    }
    /// `struct msqid64_ds`.
    pub struct MsqidDs {
        pub msg_perm: IpcPerm,
        pub msg_stime: i64,
        pub msg_rtime: i64,
        pub msg_ctime: i64,
        pub msg_cbytes: u64,
        pub msg_qnum: u64,
        pub msg_qbytes: u64,
        pub msg_lspid: i32,
        pub msg_lrpid: i32,
        pub _unused: [u64; 2],
    }
    /// `struct mq_attr`.
    pub struct MqAttr {
        pub mq_flags: i64,
        pub mq_maxmsg: i64,
        pub mq_msgsize: i64,
        pub mq_curmsgs: i64,
        pub _reserved: [i64; 4],
    }
}

layout! {
    IpcPerm: 48;
    ShmidDs: 112, shm_nattch @ 88;
    SemidDs: 104, sem_nsems @ 80;
    ShmInfo64: 72;
    ShmInfo: 48;
    SemInfo: 40;
    MsgInfo: 32;
    Sembuf: 6;
    MsqidDs: 120;
    MqAttr: 64;
}
