//! Terminals, `termios(3)`, `ioctl_tty(2)`. `asm-generic/termbits.h`, `asm-generic/ioctls.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Control characters in the kernel's structure.
pub const NCCS: usize = 19;

uapi_struct! {
    /// `struct winsize`.
    pub struct Winsize {
        pub ws_row: u16,
        pub ws_col: u16,
        pub ws_xpixel: u16,
        pub ws_ypixel: u16,
    }
    /// `struct termios` as `TCGETS` gives it.
    pub struct Termios {
        pub c_iflag: u32,
        pub c_oflag: u32,
        pub c_cflag: u32,
        pub c_lflag: u32,
        pub c_line: u8,
        pub c_cc: [u8; NCCS],
    }
    /// `struct termios2`.
    pub struct Termios2 {
        pub c_iflag: u32,
        pub c_oflag: u32,
        pub c_cflag: u32,
        pub c_lflag: u32,
        pub c_line: u8,
        pub c_cc: [u8; NCCS],
        pub c_ispeed: u32,
        pub c_ospeed: u32,
    }
}

/// `struct termio`, the oldest form (`TCGETA`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Termio {
    pub c_iflag: u16,
    pub c_oflag: u16,
    pub c_cflag: u16,
    pub c_lflag: u16,
    pub c_line: u8,
    pub c_cc: [u8; 8],
    pub _pad: u8,
}

flags! {
    /// `c_iflag`.
    pub struct InputModes: u32 {
        IGNBRK = 0o1,
        BRKINT = 0o2,
        IGNPAR = 0o4,
        PARMRK = 0o10,
        INPCK = 0o20,
        ISTRIP = 0o40,
        INLCR = 0o100,
        IGNCR = 0o200,
        ICRNL = 0o400,
        IUCLC = 0o1000,
        IXON = 0o2000,
        IXANY = 0o4000,
        IXOFF = 0o10000,
        IMAXBEL = 0o20000,
        IUTF8 = 0o40000,
    }
    /// `c_oflag`.
    pub struct OutputModes: u32 {
        OPOST = 0o1,
        OLCUC = 0o2,
        ONLCR = 0o4,
        OCRNL = 0o10,
        ONOCR = 0o20,
        ONLRET = 0o40,
        OFILL = 0o100,
        OFDEL = 0o200,
        /// Delays: fields, not flags.
        NLDLY = 0o400,
        CRDLY = 0o3000,
        TABDLY = 0o14000,
        BSDLY = 0o20000,
        VTDLY = 0o40000,
        FFDLY = 0o100000,
    }
    /// `c_cflag`.
    pub struct ControlModes: u32 {
        CBAUD = 0o10017,
        CSIZE = 0o60,
        CS6 = 0o20,
        CS7 = 0o40,
        CS8 = 0o60,
        CSTOPB = 0o100,
        CREAD = 0o200,
        PARENB = 0o400,
        PARODD = 0o1000,
        HUPCL = 0o2000,
        CLOCAL = 0o4000,
        CIBAUD = 0o2_003_600_000,
        CMSPAR = 0o10_000_000_000,
        CRTSCTS = 0o20_000_000_000,
    }
    /// `c_lflag`.
    pub struct LocalModes: u32 {
        ISIG = 0o1,
        ICANON = 0o2,
        XCASE = 0o4,
        ECHO = 0o10,
        ECHOE = 0o20,
        ECHOK = 0o40,
        ECHONL = 0o100,
        NOFLSH = 0o200,
        TOSTOP = 0o400,
        ECHOCTL = 0o1000,
        ECHOPRT = 0o2000,
        ECHOKE = 0o4000,
        FLUSHO = 0o10000,
        PENDIN = 0o40000,
        IEXTEN = 0o100000,
        EXTPROC = 0o200000,
    }
}

consts! {
    usize {
        VINTR = 0,
        VQUIT = 1,
        VERASE = 2,
        VKILL = 3,
        VEOF = 4,
        VTIME = 5,
        VMIN = 6,
        VSWTC = 7,
        VSTART = 8,
        VSTOP = 9,
        VSUSP = 10,
        VEOL = 11,
        VREPRINT = 12,
        VDISCARD = 13,
        VWERASE = 14,
        VLNEXT = 15,
        VEOL2 = 16,
    }
    u32 {
        B0 = 0,
        B9600 = 0o15,
        B38400 = 0o17,
        B115200 = 0o10002,
        BOTHER = 0o10000,
    }
    u32 {
        TCGETS = 0x5401,
        TCSETS = 0x5402,
        TCSETSW = 0x5403,
        TCSETSF = 0x5404,
        TCGETA = 0x5405,
        TCSETA = 0x5406,
        TCSETAW = 0x5407,
        TCSETAF = 0x5408,
        TCSBRK = 0x5409,
        TCXONC = 0x540a,
        TCFLSH = 0x540b,
        TIOCEXCL = 0x540c,
        TIOCNXCL = 0x540d,
        TIOCSCTTY = 0x540e,
        TIOCGPGRP = 0x540f,
        TIOCSPGRP = 0x5410,
        TIOCOUTQ = 0x5411,
        TIOCSTI = 0x5412,
        TIOCGWINSZ = 0x5413,
        TIOCSWINSZ = 0x5414,
        TIOCMGET = 0x5415,
        TIOCMBIS = 0x5416,
        TIOCMBIC = 0x5417,
        TIOCMSET = 0x5418,
        TIOCGSOFTCAR = 0x5419,
        TIOCSSOFTCAR = 0x541a,
        FIONREAD = 0x541b,
        /// The same as [`FIONREAD`].
        TIOCINQ = 0x541b,
        TIOCLINUX = 0x541c,
        TIOCCONS = 0x541d,
        TIOCGSERIAL = 0x541e,
        TIOCSSERIAL = 0x541f,
        TIOCPKT = 0x5420,
        FIONBIO = 0x5421,
        TIOCNOTTY = 0x5422,
        TIOCSETD = 0x5423,
        TIOCGETD = 0x5424,
        TCSBRKP = 0x5425,
        TIOCSBRK = 0x5427,
        TIOCCBRK = 0x5428,
        TIOCGSID = 0x5429,
        TCGETS2 = 0x802c_542a,
        TCSETS2 = 0x402c_542b,
        TCSETSW2 = 0x402c_542c,
        TCSETSF2 = 0x402c_542d,
        TIOCGPTN = 0x8004_5430,
        TIOCSPTLCK = 0x4004_5431,
        TIOCGDEV = 0x8004_5432,
        TIOCSIG = 0x4004_5436,
        TIOCVHANGUP = 0x5437,
        TIOCGPKT = 0x8004_5438,
        TIOCGPTLCK = 0x8004_5439,
        TIOCGEXCL = 0x8004_5440,
        TIOCGPTPEER = 0x5441,
        FIONCLEX = 0x5450,
        FIOCLEX = 0x5451,
        FIOASYNC = 0x5452,
        TIOCGLCKTRMIOS = 0x5456,
        TIOCSLCKTRMIOS = 0x5457,
        FIOQSIZE = 0x5460,
    }
    u32 {
        TCIFLUSH = 0,
        TCOFLUSH = 1,
        TCIOFLUSH = 2,
        TCOOFF = 0,
        TCOON = 1,
        TCIOFF = 2,
        TCION = 3,
    }
    u8 {
        TIOCPKT_DATA = 0,
        TIOCPKT_FLUSHREAD = 1,
        TIOCPKT_FLUSHWRITE = 2,
        TIOCPKT_STOP = 4,
        TIOCPKT_START = 8,
        TIOCPKT_NOSTOP = 16,
        TIOCPKT_DOSTOP = 32,
        TIOCPKT_IOCTL = 64,
    }
    u32 {
        N_TTY = 0,
    }
}

layout! {
    Winsize: 8;
    Termios: 36, c_line @ 16, c_cc @ 17;
    Termios2: 44, c_ispeed @ 36;
    Termio: 18;
}
