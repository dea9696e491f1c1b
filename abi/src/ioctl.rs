//! Requests of `ioctl(2)` outside terminals: files, block devices, namespaces, sockets. `linux/fs.h`, `linux/sockios.h`,
//! `linux/nsfs.h`. Terminal requests and those common to all files (`FIONREAD`, …) stand in [`crate::tty`].

consts! {
    u32 {
        FIBMAP = 1,
        FIGETBSZ = 2,
        FIFREEZE = 0xc004_5877,
        FITHAW = 0xc004_5878,
        FITRIM = 0xc018_5879,
        FICLONE = 0x4004_9409,
        FICLONERANGE = 0x4020_940d,
        FIDEDUPERANGE = 0xc018_9436,
        FS_IOC_GETFLAGS = 0x8008_6601,
        FS_IOC_SETFLAGS = 0x4008_6602,
        FS_IOC_GETVERSION = 0x8008_7601,
        FS_IOC_SETVERSION = 0x4008_7602,
        FS_IOC_FIEMAP = 0xc020_660b,
        FS_IOC_FSGETXATTR = 0x801c_581f,
        FS_IOC_FSSETXATTR = 0x401c_5820,
        FS_IOC_GETFSLABEL = 0x8100_9431,
        BLKGETSIZE = 0x1260,
        BLKGETSIZE64 = 0x8008_1272,
        BLKSSZGET = 0x1268,
        NS_GET_USERNS = 0xb701,
        NS_GET_PARENT = 0xb702,
        NS_GET_NSTYPE = 0xb703,
        NS_GET_OWNER_UID = 0xb704,
    }
    u32 {
        SIOCGSTAMP = 0x8906,
        SIOCATMARK = 0x8905,
        SIOCGPGRP = 0x8904,
        SIOCSPGRP = 0x8902,
        FIOSETOWN = 0x8901,
        FIOGETOWN = 0x8903,
        SIOCGIFNAME = 0x8910,
        SIOCGIFCONF = 0x8912,
        SIOCGIFFLAGS = 0x8913,
        SIOCSIFFLAGS = 0x8914,
        SIOCGIFADDR = 0x8915,
        SIOCSIFADDR = 0x8916,
        SIOCGIFBRDADDR = 0x8919,
        SIOCGIFNETMASK = 0x891b,
        SIOCGIFMTU = 0x8921,
        SIOCSIFMTU = 0x8922,
        SIOCGIFHWADDR = 0x8927,
        SIOCGIFINDEX = 0x8933,
        SIOCGIFTXQLEN = 0x8942,
        SIOCINQ = 0x541b,
        SIOCOUTQ = 0x5411,
    }
    u32 {
        RNDGETENTCNT = 0x8004_5200,
        RNDADDTOENTCNT = 0x4004_5201,
        RNDADDENTROPY = 0x4008_5203,
        RNDZAPENTCNT = 0x5204,
        RNDCLEARPOOL = 0x5206,
        RNDRESEEDCRNG = 0x5207,
    }
}

flags! {
    /// `getrandom(2)`.
    pub struct GetrandomFlags: u32 {
        GRND_NONBLOCK = 1,
        GRND_RANDOM = 2,
        GRND_INSECURE = 4,
    }
}
