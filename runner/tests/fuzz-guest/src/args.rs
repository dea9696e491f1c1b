//! Arguments: for each kind of argument mostly a good value, sometimes a hostile one.

use crate::arena::{self, Own};
use crate::random::Rng;
use crate::raw;
use crate::spec::Kind;
use crate::tree;

/// The signal with which the supervisor wakes threads: calls should not block or change it.
pub(crate) const KICK: u64 = 40;

/// What one thread makes arguments from.
pub(crate) struct Gen {
    pub(crate) rng: Rng,
    pub(crate) own: Own,
    /// Results of late calls: descriptors, processes, timers.
    recent: [u64; 8],
    /// Processes that no call may name: the supervisor.
    forbidden: i32,
    /// The command argument before the one that is made.
    command: u64,
    /// The length that the last buffer has.
    buffer: usize,
    /// The last signal number that was made: what comes with it names the same one.
    signal: u64,
    frame: Vec<u8>,
}

const FCNTL: &[u64] = &[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 16, 36, 37, 38, 1024, 1025, 1026, 1030, 1031, 1032, 1033, 1034, 1035,
    1036, 1037, 1038, 1039, 1040,
];
const IOCTL: &[u64] = &[
    2,
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x5409,
    0x540a,
    0x540b,
    0x540e,
    0x540f,
    0x5410,
    0x5411,
    0x5412,
    0x5413,
    0x5414,
    0x541b,
    0x5420,
    0x5421,
    0x5422,
    0x5429,
    0x5423,
    0x5424,
    0x5437,
    0x5450,
    0x5451,
    0x5452,
    0x5456,
    0x5457,
    0x802c_542a,
    0x402c_542b,
    0x402c_542c,
    0x402c_542d,
    0x8004_5438,
    0x8004_5439,
    0x5441,
    0x5460,
    0x8004_5430,
    0x4004_5431,
    0x4004_9409,
    0x4020_940d,
    0xc020_660b,
    0x8008_6601,
    0x4008_6602,
    0x801c_581f,
    0x8901,
    0x8903,
    0x8904,
    0x8905,
    0x8910,
    0x8912,
    0x8913,
    0x8927,
];
const PRCTL: &[u64] = &[
    1,
    2,
    3,
    4,
    7,
    8,
    13,
    14,
    15,
    16,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    29,
    30,
    33,
    34,
    35,
    36,
    37,
    38,
    39,
    40,
    41,
    42,
    43,
    45,
    46,
    47,
    53,
    55,
    62,
    65,
    0x5356_4d41,
    0x5961_6d61,
];
const OPTIONS: &[u64] = &[
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 20, 21, 28, 29, 30, 31, 32, 33, 34, 38, 39, 42, 45, 59,
    70, 77,
];
const NAMES: &[&[u8]] = &[
    b"user.a",
    b"user.b",
    b"user.",
    b"user",
    b"trusted.x",
    b"security.y",
    b"security.capability",
    b"system.posix_acl_access",
    b"x.y",
    b"",
    b"/mq",
    b"/mq2",
    b"tmpfs",
    b"proc",
];
const CLONE_FLAGS: &[u64] = &[
    0x100,
    0x200,
    0x400,
    0x800,
    0x1000,
    0x2000,
    0x4000,
    0x8000,
    0x1_0000,
    0x4_0000,
    0x8_0000,
    0x10_0000,
    0x20_0000,
    0x80_0000,
    0x100_0000,
    0x200_0000,
    0x8000_0000,
];
const CLONE_MANY: &[u64] = &[0, 0x100, 0x4100, 0xf00, 0x1_0f00, 0x5_0f00, 0x1000, 0x10_0000, 0x120_0000, 0x4900];

impl Gen {
    /// Thread `index`'s; `forbidden` is the supervisor.
    pub(crate) fn new(rng: Rng, index: u64, forbidden: i32) -> Self {
        let recent = [u64::MAX; 8];
        Self { rng, own: Own::new(index), recent, forbidden, command: 0, buffer: 64, signal: 10, frame: arena::frame() }
    }

    /// Keeps a result for later arguments.
    pub(crate) fn remember(&mut self, value: u64) {
        let at = usize::try_from(self.rng.below(8)).unwrap_or(0);
        self.recent[at] = value;
    }

    /// Memory for `len` bytes, mostly.
    fn out(&mut self, len: usize) -> u64 {
        if self.rng.chance(86) { self.own.take(len) } else { arena::hostile(&mut self.rng) }
    }

    /// A pointer to `bytes`, mostly; sometimes to a part of them, or elsewhere.
    pub(crate) fn image(&mut self, bytes: &[u8]) -> u64 {
        match self.rng.below(100) {
            0..88 => self.own.put(bytes),
            88..94 => {
                let inside = usize::try_from(self.rng.below(bytes.len() as u64 + 1)).unwrap_or(0);
                let at = arena::half_mapped(inside);
                arena::write(at, &bytes[..inside]);
                at
            }
            _ => arena::hostile(&mut self.rng),
        }
    }

    /// A pointer to `words`, of which one is sometimes something else.
    pub(crate) fn words(&mut self, words: &[u64]) -> u64 {
        let mut words = words.to_vec();
        self.spoil(&mut words);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.image(&bytes)
    }

    fn spoil(&mut self, words: &mut [u64]) {
        if self.rng.chance(10) && !words.is_empty() {
            let at = usize::try_from(self.rng.below(words.len() as u64)).unwrap_or(0);
            words[at] = self.rng.interesting();
        }
    }

    fn fd(&mut self) -> u64 {
        let range = (tree::END_FD - tree::FIRST_FD).cast_unsigned().into();
        match self.rng.below(100) {
            0..84 => u64::from(tree::FIRST_FD.cast_unsigned()) + self.rng.below(range),
            84..92 => self.rng.pick(&self.recent),
            92..96 => self.rng.below(128),
            96 => 10 | (self.rng.next() << 32),
            97 => u64::MAX,
            98 => (-100_i64).cast_unsigned(),
            _ => self.rng.interesting(),
        }
    }

    /// One of `fds`, mostly.
    fn fd_of(&mut self, fds: &[u64]) -> u64 {
        if self.rng.chance(85) { self.rng.pick(fds) } else { self.fd() }
    }

    /// The result of a call before.
    pub(crate) fn recent(&mut self) -> u64 {
        self.rng.pick(&self.recent)
    }

    fn dir(&mut self) -> u64 {
        match self.rng.below(100) {
            0..70 => (-100_i64).cast_unsigned(),
            70..84 => self.rng.pick(&[13, 14, 13, 14, 37, 45]),
            _ => self.fd(),
        }
    }

    fn new_fd(&mut self) -> u64 {
        match self.rng.below(100) {
            0..88 => u64::from(tree::END_FD.cast_unsigned()) + self.rng.below(68),
            88..92 => self.rng.pick(&self.recent),
            92..97 => self.fd(),
            _ => self.rng.interesting(),
        }
    }

    fn path(&mut self) -> u64 {
        let mut bytes = match self.rng.below(100) {
            0..88 => self.rng.pick(tree::PATHS).to_vec(),
            88..92 => [self.rng.pick(tree::PATHS), b"/", self.rng.pick(tree::PATHS)].concat(),
            92 => vec![b'x'; usize::try_from(self.rng.pick(&[254, 255, 256, 1000, 3000])).unwrap_or(0)],
            93 => b"d/../".repeat(usize::try_from(self.rng.below(800)).unwrap_or(0)),
            94 => b"dirlink/../".repeat(usize::try_from(self.rng.below(300)).unwrap_or(0)),
            95 => (0..self.rng.below(40)).map(|_| self.rng.next().to_le_bytes()[0]).collect(),
            _ => return arena::hostile(&mut self.rng),
        };
        bytes.push(0);
        bytes.truncate(4000);
        self.image(&bytes)
    }

    fn program(&mut self) -> u64 {
        if self.rng.chance(60) {
            let name =
                self.rng.pick(&[&b"prog\0"[..], b"broken\0", b"script\0", b"good\0", b"/tmp/casemate-fuzz/prog\0"]);
            return self.image(name);
        }
        self.path()
    }

    fn strings(&mut self) -> u64 {
        let count = self.rng.below(5);
        let mut words: Vec<u64> = (0..count).map(|_| self.path()).collect();
        if self.rng.chance(4) {
            let one = self.path();
            words = vec![one; 400];
        }
        if self.rng.chance(95) {
            words.push(0);
        }
        self.words(&words)
    }

    fn len(&mut self) -> u64 {
        match self.rng.below(100) {
            0..60 => self.rng.pick(&[0, 1, 2, 4, 8, 16, 24, 64]),
            60..85 => self.rng.below(self.buffer as u64 + 1),
            85..92 => self.rng.below(64 << 10),
            _ => self.rng.interesting(),
        }
    }

    fn off(&mut self) -> u64 {
        match self.rng.below(100) {
            0..85 => self.rng.pick(&[0, 0, 1, 10, 38, 100, 4095, 4096, 8192, 39_999, 65_536]),
            _ => self.rng.interesting(),
        }
    }

    fn pid(&mut self) -> u64 {
        // SAFETY: takes no pointers.
        let own = unsafe { libc::getpid() };
        let value = match self.rng.below(16) {
            0..5 => 0,
            5..10 => own,
            10 | 11 => i32::try_from(self.rng.pick(&self.recent).cast_signed()).unwrap_or(0),
            12 => own + 1 + i32::try_from(self.rng.below(6)).unwrap_or(0),
            13 => -own,
            14 => self.rng.pick(&[3, 99_999, i32::MAX, i32::MIN, -99_999]),
            _ => i32::try_from(self.rng.below(40_000)).unwrap_or(0) + 100,
        };
        self.allowed(value)
    }

    /// `pid`, or the own process where that is the supervisor, its group, init (which passes signals on), or everybody.
    fn allowed(&self, pid: i32) -> u64 {
        // SAFETY: takes no pointers.
        let own = unsafe { libc::getpid() };
        let named = pid == 1 || pid == self.forbidden || pid == -self.forbidden || pid == -1;
        i64::from(if named { own } else { pid }).cast_unsigned()
    }

    fn sig(&mut self) -> u64 {
        self.signal = match self.rng.below(100) {
            0..20 => 0,
            20..88 => match 1 + self.rng.below(64) {
                9 | 19 | KICK if !self.rng.chance(5) => 10,
                sig => sig,
            },
            88..95 => self.rng.pick(&[10, 12, 17, 18, 20, 34, 64]),
            _ => self.rng.pick(&[65, 66, u64::MAX, 1 << 31, 128]),
        };
        self.signal
    }

    fn set(&mut self) -> u64 {
        let set = match self.rng.below(4) {
            0 => 0,
            1 => 1 << self.rng.below(64),
            2 => u64::MAX,
            _ => self.rng.next(),
        };
        let set = if self.rng.chance(98) { set & !(1 << (KICK - 1)) } else { set };
        if self.rng.chance(10) { 0 } else { self.image(&set.to_le_bytes()) }
    }

    /// Nanoseconds of a short time, mostly.
    fn nanos(&mut self) -> u64 {
        match self.rng.below(20) {
            0..8 => 0,
            8..16 => self.rng.below(300_000),
            16 => 999_999_999,
            17 => 1_000_000_000,
            _ => self.rng.interesting(),
        }
    }

    fn seconds(&mut self) -> u64 {
        if self.rng.chance(95) { 0 } else { self.rng.interesting() }
    }

    fn times(&mut self, pairs: usize, scale: u64) -> u64 {
        let words: Vec<u64> = (0..pairs).flat_map(|_| [self.seconds(), self.nanos() / scale]).collect();
        if self.rng.chance(12) { 0 } else { self.words(&words) }
    }

    fn iov(&mut self) -> u64 {
        let mut words = Vec::new();
        for _ in 0..=self.rng.below(6) {
            let len = self.len() % 4096;
            let at = self.out(usize::try_from(len).unwrap_or(0));
            words.extend([at, len]);
        }
        self.words(&words)
    }

    fn polls(&mut self) -> u64 {
        let mut bytes = Vec::new();
        for _ in 0..=self.rng.below(8) {
            let fd = self.fd().to_le_bytes();
            bytes.extend(&fd[..4]);
            bytes.extend(&self.rng.pick(&[1_u16, 4, 5, 0, 0x2f, 0xffff]).to_le_bytes());
            bytes.extend([0, 0]);
        }
        self.image(&bytes)
    }

    fn sigevent(&mut self) -> u64 {
        if self.rng.chance(30) {
            return 0;
        }
        let sig = self.sig();
        let tid = self.pid() & 0xffff_ffff;
        let how = self.rng.pick(&[0_u64, 1, 1, 2, 4, 4, 3]);
        let value = self.rng.next();
        self.words(&[value, (sig & 0xffff_ffff) | (how << 32), tid, 0, 0, 0, 0, 0])
    }

    fn clone_args(&mut self) -> u64 {
        let flags = self.clone_flags() & !0xff;
        let (stack, size) = if self.rng.chance(50) { (0, 0) } else { (self.own.take(1024), 1024) };
        let (pidfd, tid) = (self.out(8), self.out(8));
        let sig = self.rng.pick(&[17, 0, 17, 10, 65]);
        self.words(&[flags, pidfd, tid, tid, sig, stack, size, 0, 0, 0, 0])
    }

    fn clone_flags(&mut self) -> u64 {
        let base = self.rng.pick(CLONE_MANY);
        let extra = if self.rng.chance(40) { self.rng.pick(CLONE_FLAGS) } else { 0 };
        base | extra | self.rng.pick(&[17, 17, 0, 10, 65])
    }

    fn socket_address(&mut self) -> u64 {
        let mut bytes = vec![0; 128];
        match self.rng.below(4) {
            0 => bytes[..7].copy_from_slice(b"\x01\0sock\0"),
            1 => bytes[..6].copy_from_slice(b"\x01\0\0abs"),
            2 => bytes[..8].copy_from_slice(&[2, 0, 0x1f, 0x90, 127, 0, 0, 1]),
            _ => bytes[..2].copy_from_slice(&self.rng.pick(&[0_u16, 1, 2, 10, 16, 17, 99]).to_le_bytes()),
        }
        if self.rng.chance(20) { 0 } else { self.image(&bytes) }
    }

    fn message(&mut self) -> [u64; 7] {
        let name = self.socket_address();
        let (name, name_len) = if self.rng.chance(70) { (0, 0) } else { (name, self.rng.pick(&[7, 16, 110, 0, 2])) };
        let iov = self.iov();
        let mut control = Vec::new();
        for _ in 0..self.rng.below(3) {
            let fd = self.fd();
            let len = self.rng.pick(&[20, 24, 20, 16, 0, 15, 28]);
            let kind = self.rng.pick(&[1_u64, 1, 2, 3]);
            control.extend([len, 1 | (kind << 32), fd & 0xffff_ffff]);
        }
        let control_len = control.len() as u64 * 8;
        let control = if control.is_empty() { 0 } else { self.words(&control) };
        [name, name_len, iov, 1 + self.rng.below(2), control, control_len, 0]
    }

    fn value(&mut self, values: &[u64]) -> u64 {
        if self.rng.chance(95) { self.rng.pick(values) } else { self.rng.interesting() }
    }

    fn bits(&mut self, bits: &[u64]) -> u64 {
        let mut value = 0;
        for _ in 0..self.rng.below(3) {
            value |= self.rng.pick(bits);
        }
        if self.rng.chance(95) { value } else { value | (1 << self.rng.below(64)) }
    }

    fn id(&mut self) -> u64 {
        self.rng.pick(&[0, 0, 1000, 1000, 65_534, u64::MAX, 0xffff_fffe])
    }

    fn frame(&mut self) -> u64 {
        let mut bytes = self.frame.clone();
        if self.rng.chance(80) {
            for _ in 0..=self.rng.below(8) {
                let limit = self.rng.pick(&[440, 1100, raw::FRAME as u64]);
                let at = usize::try_from(self.rng.below(limit / 8) * 8).unwrap_or(0);
                let word = if self.rng.chance(70) { self.rng.interesting() } else { arena::hostile(&mut self.rng) };
                bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
        }
        // The pointer to floating-point state points into the frame where it was captured: that stays as it is.
        if self.rng.chance(60) {
            arena::write(arena::frame_address(), &bytes);
            return arena::frame_address() + 8;
        }
        self.image(&bytes).wrapping_add(8)
    }

    fn fcntl_arg(&mut self) -> u64 {
        match self.command {
            0 | 1030 => self.new_fd(),
            4 => self.bits(&[0o2000, 0o4000, 0o20000, 0o1000000]),
            5..=7 | 36..=38 => {
                let (start, len) = (self.off(), self.off());
                let kind = self.rng.pick(&[0_u64, 1, 2]) | (self.rng.pick(&[0_u64, 0, 1, 2]) << 16);
                let pid = self.pid() & 0xffff_ffff;
                let pid = if self.command >= 36 { 0 } else { pid };
                self.words(&[kind, start, len, pid])
            }
            8 => self.pid(),
            10 => self.sig(),
            15 | 16 => {
                let pid = self.pid() & 0xffff_ffff;
                let kind = self.rng.pick(&[0_u64, 1, 2]);
                self.image(&(kind | (pid << 32)).to_le_bytes())
            }
            1031 => self.rng.pick(&[4096, 65_536, 0, 1 << 20, 1 << 31]),
            1033 => self.bits(&[1, 2, 4, 8, 16]),
            1035..=1040 => self.words(&[1]),
            _ => self.rng.pick(&[0, 1, 2]),
        }
    }

    /// An argument of `kind`.
    pub(crate) fn arg(&mut self, kind: &Kind) -> u64 {
        if self.rng.chance(1)
            && !matches!(kind, Kind::Pid | Kind::Tid | Kind::SigEvent | Kind::FcntlCmd | Kind::FcntlArg)
        {
            return self.rng.interesting();
        }
        match kind {
            Kind::Fd => self.fd(),
            Kind::FdOf(fds) => self.fd_of(fds),
            Kind::Dir => self.dir(),
            Kind::NewFd => self.new_fd(),
            Kind::Path => self.path(),
            Kind::ProgPath => self.program(),
            Kind::Name => {
                let name = [self.rng.pick(NAMES), b"\0"].concat();
                self.image(&name)
            }
            Kind::In => {
                let mut bytes = vec![0; self.rng.pick(&[64, 64, 512, 4096])];
                self.buffer = bytes.len();
                for chunk in bytes.chunks_exact_mut(8).take(16) {
                    chunk.copy_from_slice(&self.rng.interesting().to_le_bytes());
                }
                self.image(&bytes)
            }
            Kind::Out | Kind::TimesBuf if *kind == Kind::TimesBuf && self.rng.chance(70) => self.times(2, 1000),
            Kind::Out | Kind::TimesBuf => {
                self.buffer = self.rng.pick(&[512, 512, 4096]);
                self.out(self.buffer)
            }
            Kind::Len => self.len(),
            Kind::Off => self.off(),
            Kind::OffPtr => {
                let off = self.off();
                if self.rng.chance(50) { 0 } else { self.words(&[off]) }
            }
            Kind::Int => match self.rng.below(3) {
                0 => self.rng.interesting(),
                1 => self.rng.below(64),
                _ => self.out(512),
            },
            Kind::One(values) => {
                let value = self.value(values);
                self.command = value;
                value
            }
            Kind::Bits(bits) => self.bits(bits),
            Kind::Iov => self.iov(),
            Kind::IovCount => self.value(&[1, 1, 1, 2, 3, 0, 1024]),
            Kind::Addr => {
                if self.rng.chance(93) {
                    arena::loose(&mut self.rng)
                } else {
                    arena::hostile(&mut self.rng)
                }
            }
            Kind::AddrLen => {
                if self.rng.chance(93) {
                    self.rng.below(9) * arena::PAGE
                } else {
                    self.rng.interesting()
                }
            }
            Kind::Hint => {
                if self.rng.chance(60) {
                    0
                } else {
                    arena::loose(&mut self.rng)
                }
            }
            Kind::Prot => self.value(&[0, 1, 3, 3, 3, 5, 7, 0x0100_0003, 0x0200_0003]),
            Kind::MapFlags => {
                let base = self.rng.pick(&[0x22, 0x22, 0x32, 0x21, 0x31, 0x10_0022, 1, 2, 0x12, 0x11, 3]);
                let extra = if self.rng.chance(30) {
                    self.rng.pick(&[0x100, 0x2000, 0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x40])
                } else {
                    0
                };
                base | extra
            }
            Kind::OpenFlags => {
                let base = self.rng.pick(&[0, 1, 2, 2, 0o100, 0o102, 0o1101, 0o301, 0o200000, 0o10000000, 0o20200002]);
                let extra = self.rng.pick(&[0, 0o4000, 0o2000000, 0o2000, 0o400000, 0o40000, 0o4010000, 0o1000000]);
                // A FIFO's other end may never come.
                base | extra | if self.rng.chance(80) { 0o4000 } else { 0 }
            }
            Kind::Mode => self.value(&[0o644, 0o755, 0o777, 0o600, 0o4755, 0o2777, 0o1777, 0]),
            Kind::Pid | Kind::Tid => self.pid(),
            Kind::Sig => self.sig(),
            Kind::SigSet => self.set(),
            Kind::SigAct => {
                let handler = match self.rng.below(100) {
                    0..6 => 0,
                    6..30 => 1,
                    30..97 => raw::handler(),
                    _ => arena::hostile(&mut self.rng),
                };
                let flags = 0x0400_0000 | self.bits(&[1, 2, 4, 0x0800_0000, 0x1000_0000, 0x4000_0000, 0x8000_0000]);
                let mask = self.rng.next() & self.rng.next() & !(1 << (KICK - 1));
                if self.rng.chance(15) { 0 } else { self.words(&[handler, flags, raw::restorer(), mask]) }
            }
            Kind::SigInfo => {
                let sig = if self.rng.chance(85) { self.signal } else { self.sig() } & 0xffff_ffff;
                let code = self.rng.pick(&[0xffff_ffff_u64, 0xffff_fffe, 0, 1, 0xffff_fffa, 0x80]);
                let mut words = [0; 16];
                words[0] = sig;
                words[1] = code;
                self.words(&words)
            }
            Kind::SigStack => {
                let at = self.own.take(16_384);
                let flags = self.rng.pick(&[0_u64, 2, 1, 0x8000_0000, 4]);
                let size = self.rng.pick(&[16_384, 8192, 2048, 100, 0]);
                if self.rng.chance(20) { 0 } else { self.words(&[at, flags, size]) }
            }
            Kind::Timespec => self.times(1, 1),
            Kind::Timeval => self.times(1, 1000),
            Kind::ItimerVal => self.times(2, 1000),
            Kind::ItimerSpec => self.times(2, 1),
            Kind::Clock => self.value(&[0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 0xffff_fffe, 0xffff_fffd, 0xffff_ffd6]),
            Kind::Timer => {
                if self.rng.chance(70) {
                    self.rng.below(4)
                } else {
                    self.recent()
                }
            }
            Kind::SigEvent => self.sigevent(),
            Kind::Polls => self.polls(),
            Kind::Count => self.value(&[1, 1, 2, 3, 8, 60, 64, 0]),
            Kind::Timeout => self.value(&[0, 0, 0, 0, 1, 1, 2, u64::MAX]),
            Kind::FdSet => {
                let words: [u64; 4] = [self.rng.next() & self.rng.next() & self.rng.next(), 0, 0, 0];
                if self.rng.chance(40) { 0 } else { self.words(&words) }
            }
            Kind::EpollEvent => {
                let events = self.bits(&[1, 2, 4, 8, 0x10, 0x2000, 1 << 28, 1 << 29, 1 << 30, 1 << 31]) & 0xffff_ffff;
                self.words(&[events, 5])
            }
            Kind::FcntlCmd => self.choose(FCNTL),
            Kind::FcntlArg => self.fcntl_arg(),
            Kind::IoctlCmd => self.choose(IOCTL),
            Kind::IoctlArg => {
                let pid = self.pid();
                match self.command {
                    0x5402..=0x5404 | 0x540b | 0x5414 | 0x5457 | 0x402c_542b..=0x402c_542d => self.terminal_settings(),
                    0x5410 | 0x8901 | 0x8902 => self.image(&pid.to_le_bytes()),
                    // A flag's new state, a packet mode's, a lock's, how a peer is opened, what to forget.
                    0x5409..=0x540a | 0x540e | 0x5425 | 0x5441 => self.rng.pick(&[0, 1, 2, 3, 0o402]),
                    0x5420 | 0x5450..=0x5452 | 0x4004_5431 | 0x5421 | 0x5423 => {
                        let flag = self.rng.pick(&[0_u64, 1, 1, 0xffff_ffff]);
                        self.image(&flag.to_le_bytes())
                    }
                    _ if self.rng.chance(75) => {
                        let fd = self.fd();
                        self.words(&[fd & 0xffff_ffff, 0, 16, 0, 0, 0, 0, 0])
                    }
                    _ => self.rng.below(3),
                }
            }
            Kind::PrctlCmd => self.choose(PRCTL),
            Kind::PrctlArg => match self.rng.below(4) {
                0 | 1 => self.rng.below(4),
                2 => self.out(64),
                _ => self.rng.below(42),
            },
            Kind::Futex => {
                if self.rng.chance(85) {
                    arena::futex(&mut self.rng)
                } else {
                    arena::hostile(&mut self.rng)
                }
            }
            Kind::FutexOp => {
                let op = self.rng.below(14);
                op | self.rng.pick(&[0, 128, 128, 256])
            }
            Kind::FutexVal => self.value(&[0, 0, 0, 1, 2, 0x7fff_ffff, 0x0100_0001, 0x1200_1001]),
            Kind::FutexWaiters => {
                let mut words = Vec::new();
                for _ in 0..2 {
                    let at = arena::futex(&mut self.rng);
                    words.extend([0, at, self.rng.pick(&[2, 0x82])]);
                }
                self.words(&words)
            }
            Kind::CloneFlags => self.clone_flags(),
            Kind::Stack => {
                if self.rng.chance(50) {
                    0
                } else {
                    self.own.take(1024) + 1024
                }
            }
            Kind::CloneArgs => self.clone_args(),
            Kind::OpenHow => {
                let flags = self.arg(&Kind::OpenFlags) & 0xffff_ffff;
                let mode = if flags & 0o20000100 == 0 { 0 } else { 0o644 };
                let resolve = self.bits(&[1, 2, 4, 8, 16, 32]);
                self.words(&[flags, mode, resolve, 0, 0])
            }
            Kind::OpenHowLen => self.value(&[24, 24, 24, 32, 40, 16, 0, 4097]),
            Kind::SockAddr => self.socket_address(),
            Kind::SockLen => self.value(&[7, 6, 16, 28, 110, 2, 0, 128]),
            Kind::LenPtr => {
                let len = self.rng.pick(&[16_u64, 110, 128, 4, 0, 1, 0xffff_ffff]);
                self.words(&[len])
            }
            Kind::MsgHdr => {
                let words = self.message();
                self.words(&words)
            }
            Kind::MmsgHdr => {
                let mut words = Vec::new();
                for _ in 0..3 {
                    words.extend(self.message());
                    words.push(0);
                }
                self.words(&words)
            }
            Kind::SockOpt => self.value(OPTIONS),
            Kind::Limit => {
                let soft = self.rng.pick(&[u64::MAX, 256, 1 << 20, 1 << 30, 64]);
                if self.rng.chance(60) { 0 } else { self.words(&[soft, u64::MAX]) }
            }
            Kind::Strings => self.strings(),
            Kind::CapHead => {
                let pid = self.pid() & 0xffff_ffff;
                let version = self.rng.pick(&[0x2008_0522_u64, 0x2008_0522, 0x1998_0330, 0x2007_1026, 0]);
                self.image(&(version | (pid << 32)).to_le_bytes())
            }
            Kind::CapData => {
                let all = self.rng.pick(&[u64::MAX, 0, 0x1ff_ffff_ffff]);
                self.words(&[all, all, all])
            }
            Kind::SchedParam => {
                let priority = self.rng.pick(&[0_u64, 0, 0, 1, 99]);
                self.words(&[priority])
            }
            Kind::SchedAttr => self.scheduling(),
            Kind::SetAndSize => {
                let set = self.set();
                if self.rng.chance(40) { 0 } else { self.words(&[set, 8]) }
            }
            Kind::Ids => {
                let id = self.id();
                self.words(&[id, 1000, 1 | (2 << 32), 5])
            }
            Kind::Id => self.id(),
            Kind::Frame => self.frame(),
            Kind::Sembufs => self.semaphore_operations(),
            Kind::MsgBuf => self.message_with_type(),
            Kind::QueueName => self.queue_name(),
            Kind::QueueAttr => self.queue_attributes(),
            Kind::Rseq => self.restartable_sequence(),
            Kind::Object(family) => self.object(*family),
            Kind::Recent => self.recent(),
            Kind::WaitId if self.command == 3 => self.fd_of(&[tree::PIDFD]),
            Kind::WaitId => self.pid(),
            Kind::RobustList => {
                let head = self.own.take(24);
                let (next, offset, pending) = match self.rng.below(4) {
                    0 => (head, 0, 0),
                    1 => (arena::hostile(&mut self.rng), self.rng.interesting(), arena::hostile(&mut self.rng)),
                    _ => (arena::futex(&mut self.rng), 0_u64.wrapping_sub(8), arena::futex(&mut self.rng)),
                };
                arena::write(head, &[next.to_le_bytes(), offset.to_le_bytes(), pending.to_le_bytes()].concat());
                head
            }
        }
    }

    /// One of `values`, seldom another; the next argument depends on it.
    fn choose(&mut self, values: &[u64]) -> u64 {
        self.command = self.value(values);
        self.command
    }
}
