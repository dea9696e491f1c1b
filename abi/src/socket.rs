//! Sockets: `socket(2)`, `unix(7)`, control messages. `linux/socket.h`, `asm-generic/socket.h`.

consts! {
    u16 {
        AF_UNSPEC = 0,
        AF_UNIX = 1,
        AF_INET = 2,
        AF_INET6 = 10,
        AF_NETLINK = 16,
        AF_PACKET = 17,
        AF_VSOCK = 40,
        AF_MAX = 46,
    }
    u32 {
        SOCK_STREAM = 1,
        SOCK_DGRAM = 2,
        SOCK_RAW = 3,
        SOCK_RDM = 4,
        SOCK_SEQPACKET = 5,
        SOCK_PACKET = 10,
        /// Mask of the type in the second argument of `socket(2)`.
        SOCK_TYPE_MASK = 0xf,
    }
    i32 {
        SOL_SOCKET = 1,
        SOL_IP = 0,
        SOL_TCP = 6,
        SOL_UDP = 17,
        SOL_IPV6 = 41,
        SOL_RAW = 255,
        SOL_NETLINK = 270,
    }
    i32 {
        SO_DEBUG = 1,
        SO_REUSEADDR = 2,
        SO_TYPE = 3,
        SO_ERROR = 4,
        SO_DONTROUTE = 5,
        SO_BROADCAST = 6,
        SO_SNDBUF = 7,
        SO_RCVBUF = 8,
        SO_KEEPALIVE = 9,
        SO_OOBINLINE = 10,
        SO_NO_CHECK = 11,
        SO_PRIORITY = 12,
        SO_LINGER = 13,
        SO_BSDCOMPAT = 14,
        SO_REUSEPORT = 15,
        SO_PASSCRED = 16,
        SO_PEERCRED = 17,
        SO_RCVLOWAT = 18,
        SO_SNDLOWAT = 19,
        SO_RCVTIMEO = 20,
        SO_SNDTIMEO = 21,
        SO_BINDTODEVICE = 25,
        SO_ATTACH_FILTER = 26,
        SO_DETACH_FILTER = 27,
        SO_PEERNAME = 28,
        SO_TIMESTAMP = 29,
        SO_ACCEPTCONN = 30,
        SO_PEERSEC = 31,
        SO_SNDBUFFORCE = 32,
        SO_RCVBUFFORCE = 33,
        SO_PASSSEC = 34,
        SO_TIMESTAMPNS = 35,
        SO_MARK = 36,
        SO_TIMESTAMPING = 37,
        SO_PROTOCOL = 38,
        SO_DOMAIN = 39,
        SO_RXQ_OVFL = 40,
        SO_PEEK_OFF = 42,
        SO_LOCK_FILTER = 44,
        SO_BUSY_POLL = 46,
        SO_INCOMING_CPU = 49,
        SO_PEERGROUPS = 59,
        SO_ZEROCOPY = 60,
        SO_RCVTIMEO_NEW = 66,
        SO_SNDTIMEO_NEW = 67,
        SO_PASSPIDFD = 76,
        SO_PEERPIDFD = 77,
    }
    i32 {
        SCM_RIGHTS = 1,
        SCM_CREDENTIALS = 2,
        SCM_SECURITY = 3,
        SCM_PIDFD = 4,
        /// Most descriptors in one message.
        SCM_MAX_FD = 253,
    }
    u32 {
        SHUT_RD = 0,
        SHUT_WR = 1,
        SHUT_RDWR = 2,
        SOMAXCONN = 4096,
    }
    usize {
        /// Bytes of a UNIX socket path.
        UNIX_PATH_MAX = 108,
        /// Size of the largest socket address.
        SOCKADDR_STORAGE_SIZE = 128,
    }
}

flags! {
    /// Flags in the second argument of `socket(2)` and of `accept4(2)`.
    pub struct SockFlags: u32 {
        SOCK_NONBLOCK = 0o4000,
        SOCK_CLOEXEC = 0o2000000,
    }
    /// `send(2)`, `recv(2)` and `msg_flags`.
    pub struct MsgFlags: u32 {
        MSG_OOB = 0x1,
        MSG_PEEK = 0x2,
        MSG_DONTROUTE = 0x4,
        MSG_CTRUNC = 0x8,
        MSG_PROBE = 0x10,
        MSG_TRUNC = 0x20,
        MSG_DONTWAIT = 0x40,
        MSG_EOR = 0x80,
        MSG_WAITALL = 0x100,
        MSG_FIN = 0x200,
        MSG_SYN = 0x400,
        MSG_CONFIRM = 0x800,
        MSG_RST = 0x1000,
        MSG_ERRQUEUE = 0x2000,
        MSG_NOSIGNAL = 0x4000,
        MSG_MORE = 0x8000,
        MSG_WAITFORONE = 0x1_0000,
        MSG_BATCH = 0x4_0000,
        MSG_ZEROCOPY = 0x400_0000,
        MSG_FASTOPEN = 0x2000_0000,
        MSG_CMSG_CLOEXEC = 0x4000_0000,
    }
}

uapi_struct! {
    /// `struct user_msghdr`.
    pub struct Msghdr {
        pub msg_name: u64,
        pub msg_namelen: i32,
        pub _pad0: u32,
        pub msg_iov: u64,
        pub msg_iovlen: u64,
        pub msg_control: u64,
        pub msg_controllen: u64,
        pub msg_flags: u32,
        pub _pad1: u32,
    }
    /// `struct mmsghdr`.
    pub struct Mmsghdr {
        pub msg_hdr: Msghdr,
        pub msg_len: u32,
        pub _pad: u32,
    }
    /// `struct cmsghdr`; its data follow, each message is padded to 8 bytes.
    pub struct Cmsghdr {
        pub cmsg_len: u64,
        pub cmsg_level: i32,
        pub cmsg_type: i32,
    }
    /// `struct ucred`.
    pub struct Ucred {
        pub pid: i32,
        pub uid: u32,
        pub gid: u32,
    }
    /// `struct sockaddr_un`.
    pub struct SockaddrUn {
        pub sun_family: u16,
        pub sun_path: [u8; UNIX_PATH_MAX],
    }
    /// `struct sockaddr_in`; port and address are big-endian.
    pub struct SockaddrIn {
        pub sin_family: u16,
        pub sin_port: [u8; 2],
        pub sin_addr: [u8; 4],
        pub sin_zero: [u8; 8],
    }
    /// `struct sockaddr_in6`; port and address are big-endian.
    pub struct SockaddrIn6 {
        pub sin6_family: u16,
        pub sin6_port: [u8; 2],
        pub sin6_flowinfo: u32,
        pub sin6_addr: [u8; 16],
        pub sin6_scope_id: u32,
    }
    /// `struct sockaddr_nl`.
    pub struct SockaddrNl {
        pub nl_family: u16,
        pub nl_pad: u16,
        pub nl_pid: u32,
        pub nl_groups: u32,
    }
    /// `struct linger`.
    pub struct Linger {
        pub l_onoff: i32,
        pub l_linger: i32,
    }
}

layout! {
    Msghdr: 56, msg_iov @ 16, msg_control @ 32, msg_flags @ 48;
    Mmsghdr: 64, msg_len @ 56;
    Cmsghdr: 16;
    Ucred: 12;
    SockaddrUn: 110;
    SockaddrIn: 16;
    SockaddrIn6: 28;
    SockaddrNl: 12;
    Linger: 8;
}
