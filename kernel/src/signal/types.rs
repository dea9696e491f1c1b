//! Signal numbers, sets and actions (signal(7)).

use core::fmt;
use core::num::NonZeroU8;

/// A signal number from 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(NonZeroU8);

/// What happens without a handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultAction {
    /// The process ends.
    Terminate,
    /// The process ends and its status says that it dumped core.
    Core,
    /// The process stops.
    Stop,
    /// A stopped process continues.
    Continue,
    /// Nothing.
    Ignore,
}

macro_rules! signals {
    ($($name:ident = $number:literal,)*) => {
        #[allow(missing_docs, reason = "the names are Linux's")]
        impl Signal {
            $(pub const $name: Signal = Signal(NonZeroU8::new($number).expect("not zero"));)*

            /// The name without `SIG`, or `None` for a real-time signal.
            pub const fn name(self) -> Option<&'static str> {
                match self.0.get() {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

signals! {
    HUP = 1,
    INT = 2,
    QUIT = 3,
    ILL = 4,
    TRAP = 5,
    ABRT = 6,
    BUS = 7,
    FPE = 8,
    KILL = 9,
    USR1 = 10,
    SEGV = 11,
    USR2 = 12,
    PIPE = 13,
    ALRM = 14,
    TERM = 15,
    STKFLT = 16,
    CHLD = 17,
    CONT = 18,
    STOP = 19,
    TSTP = 20,
    TTIN = 21,
    TTOU = 22,
    URG = 23,
    XCPU = 24,
    XFSZ = 25,
    VTALRM = 26,
    PROF = 27,
    WINCH = 28,
    IO = 29,
    PWR = 30,
    SYS = 31,
}

impl Signal {
    /// Highest signal number.
    pub const MAX: u8 = 64;

    /// The signal with this number, if there is one.
    pub fn new(number: i32) -> Option<Self> {
        let number = u8::try_from(number).ok().filter(|&n| n <= Self::MAX)?;
        NonZeroU8::new(number).map(Self)
    }

    /// Its number, 1 to 64.
    pub const fn number(self) -> i32 {
        self.0.get() as i32
    }

    /// Index into a table of 64.
    pub(crate) const fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// Whether several instances queue (numbers from 32 on).
    pub const fn is_real_time(self) -> bool {
        self.0.get() >= 32
    }

    /// Whether it can be neither caught, blocked nor ignored.
    pub const fn is_unblockable(self) -> bool {
        matches!(self, Self::KILL | Self::STOP)
    }

    /// What happens without a handler.
    pub const fn default_action(self) -> DefaultAction {
        match self {
            Self::CHLD | Self::URG | Self::WINCH => DefaultAction::Ignore,
            Self::CONT => DefaultAction::Continue,
            Self::STOP | Self::TSTP | Self::TTIN | Self::TTOU => DefaultAction::Stop,
            Self::QUIT
            | Self::ILL
            | Self::TRAP
            | Self::ABRT
            | Self::BUS
            | Self::FPE
            | Self::SEGV
            | Self::XCPU
            | Self::XFSZ
            | Self::SYS => DefaultAction::Core,
            _ => DefaultAction::Terminate,
        }
    }

    const fn bit(self) -> u64 {
        1 << (self.0.get() - 1)
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "SIGRT_{}", self.0.get() - 32),
        }
    }
}

/// A set of signals; bit n-1 is signal n, as in the kernel's `sigset_t`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);
    /// Each signal.
    pub const ALL: Self = Self(u64::MAX);
    /// Those that can be neither caught, blocked nor ignored.
    pub const UNBLOCKABLE: Self = Self::of(&[Signal::KILL, Signal::STOP]);
    /// Those whose default action stops the process.
    pub const STOPS: Self = Self::of(&[Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU]);
    /// Those that the CPU raises; they are taken first.
    pub const SYNCHRONOUS: Self =
        Self::of(&[Signal::SEGV, Signal::BUS, Signal::ILL, Signal::TRAP, Signal::FPE, Signal::SYS]);

    /// The set of these signals.
    pub const fn of(signals: &[Signal]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < signals.len() {
            bits |= signals[i].bit();
            i += 1;
        }
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `signal` is in it.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & signal.bit() != 0
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// With `signal`.
    #[must_use]
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | signal.bit())
    }

    /// Without `signal`.
    #[must_use]
    pub const fn without(self, signal: Signal) -> Self {
        Self(self.0 & !signal.bit())
    }

    /// In either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// In both.
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// In this one only.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The lowest-numbered signal.
    pub fn first(self) -> Option<Signal> {
        if self.0 == 0 {
            return None;
        }
        Signal::new(i32::try_from(self.0.trailing_zeros()).ok()? + 1)
    }

    /// In ascending order.
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        let mut rest = self;
        core::iter::from_fn(move || {
            let next = rest.first()?;
            rest = rest.without(next);
            Some(next)
        })
    }
}

impl fmt::Debug for SigSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

bitflags::bitflags! {
    /// `sa_flags` of sigaction(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SaFlags: u64 {
        /// No SIGCHLD when a child stops.
        const NOCLDSTOP = 1;
        /// Children do not become zombies.
        const NOCLDWAIT = 2;
        /// The handler gets siginfo.
        const SIGINFO = 4;
        /// A restorer is given.
        const RESTORER = 0x0400_0000;
        /// The handler runs on the alternate stack.
        const ONSTACK = 0x0800_0000;
        /// Interrupted calls are repeated.
        const RESTART = 0x1000_0000;
        /// The signal is not blocked in its own handler.
        const NODEFER = 0x4000_0000;
        /// The action is reset before the handler runs.
        const RESETHAND = 0x8000_0000;
        /// Tag bits of fault addresses are told; there are none here.
        const EXPOSE_TAGBITS = 0x800;
    }
}

/// What to do on a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SigAction {
    /// 0 is the default action, 1 ignores, anything else is the handler's address.
    pub handler: u64,
    /// Flags.
    pub flags: SaFlags,
    /// Where a handler returns to.
    pub restorer: u64,
    /// Blocked additionally while the handler runs.
    pub mask: SigSet,
}

impl SigAction {
    /// `SIG_DFL`.
    pub const DEFAULT: u64 = 0;
    /// `SIG_IGN`.
    pub const IGNORE: u64 = 1;

    /// Whether `signal` under this action has no effect at all.
    pub fn ignores(&self, signal: Signal) -> bool {
        match self.handler {
            Self::IGNORE => true,
            Self::DEFAULT => {
                matches!(signal.default_action(), DefaultAction::Ignore | DefaultAction::Continue)
            }
            _ => false,
        }
    }

    /// Whether a handler function is set.
    pub fn is_handler(&self) -> bool {
        self.handler > Self::IGNORE
    }
}

/// An alternate signal stack, sigaltstack(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AltStack {
    /// Lowest address.
    pub base: u64,
    /// Bytes; 0 is no alternate stack.
    pub size: u64,
    /// `SS_AUTODISARM`: disabled while a handler runs on it.
    pub autodisarm: AutoDisarm,
}

/// Whether an alternate stack is disabled while a handler runs on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AutoDisarm {
    /// It is not.
    #[default]
    No,
    /// It is.
    Yes,
}

impl AltStack {
    /// Whether `rsp` lies on it.
    pub const fn holds(&self, rsp: u64) -> bool {
        self.size != 0 && rsp > self.base && rsp - self.base <= self.size
    }
}
