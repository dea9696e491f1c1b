//! The line discipline of terminals, `termios(3)`: what happens between the two sides of a terminal.
//!
//! A [`Discipline`] is a value without locks, time and tasks. What is typed goes through [`Discipline::receive`]: it is
//! edited, echoed, and becomes signals, or lines that [`Discipline::read`] gives to programs. What programs print goes
//! through [`Discipline::write`]. Echo and output leave by an [`Output`]; all else that its owner has to do is in the
//! [`Effects`] that calls answer.
//!
//! It behaves as Linux's N_TTY does, byte for byte: `tests/host.rs` compares it with a terminal of the host.
//!
//! **Invariants.** Input is bounded by [`BUFFER`] bytes, echo that waits for room likewise. `tail <= canon <= head` among
//! the positions of the input, which count up and are masked where they index.
#![forbid(unsafe_code)]

mod buffer;
mod echo;
mod input;
mod modes;
mod output;

pub use input::Look;
pub use modes::Modes;

use buffer::Buffer;
use echo::Echo;

/// Bytes of input that a terminal holds for its readers, and the longest line.
pub const BUFFER: usize = 4096;

/// The character that a `c_cc` entry of this value turns off (`_POSIX_VDISABLE`).
const DISABLED: u8 = 0;

/// Where echo and output go.
pub trait Output {
    /// How many bytes there is room for.
    fn room(&self) -> usize;
    /// Takes bytes, never more than there is room for.
    fn put(&mut self, bytes: &[u8]);
    /// Drops what has not been passed on, because the terminal's user pressed a key that makes a signal.
    fn flush(&mut self);
}

/// What the owner of a discipline has to do after a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// Keys for signals that were pressed.
    pub signals: Keys,
    /// There may be something for readers.
    pub readable: bool,
    /// Input was thrown away.
    pub input_flushed: bool,
    /// Output was thrown away.
    pub output_flushed: bool,
    /// Output went from flowing to stopped or back; the last change counts.
    pub flow: Option<Flow>,
}

impl Effects {
    /// These, and then those of a later call.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        Self {
            signals: Keys {
                interrupt: self.signals.interrupt || later.signals.interrupt,
                quit: self.signals.quit || later.signals.quit,
                suspend: self.signals.suspend || later.signals.suspend,
            },
            readable: self.readable || later.readable,
            input_flushed: self.input_flushed || later.input_flushed,
            output_flushed: self.output_flushed || later.output_flushed,
            flow: later.flow.or(self.flow),
        }
    }
}

/// Keys that make signals for the foreground process group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keys {
    /// `VINTR`.
    pub interrupt: bool,
    /// `VQUIT`.
    pub quit: bool,
    /// `VSUSP`.
    pub suspend: bool,
}

/// Whether output flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// It does.
    Started,
    /// It waits.
    Stopped,
}

/// Who stopped the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Stops {
    /// The user (`VSTOP`).
    key: bool,
    /// A program (`TCOOFF`).
    call: bool,
}

/// The state of one terminal.
pub struct Discipline {
    modes: Modes,
    input: Buffer,
    echo: Echo,
    stops: Stops,
    /// The next character is taken literally (`VLNEXT`).
    literal_next: bool,
    /// Characters are being erased between `\` and `/` (`ECHOPRT`).
    erasing: bool,
    /// Where the cursor is.
    column: u32,
    /// Where the cursor was when the line began that is being edited.
    canon_column: u32,
    effects: Effects,
}

impl Discipline {
    /// A terminal in the state of a new one.
    pub fn new() -> Self {
        Self {
            modes: Modes::sane(),
            input: Buffer::new(),
            echo: Echo::new(),
            stops: Stops::default(),
            literal_next: false,
            erasing: false,
            column: 0,
            canon_column: 0,
            effects: Effects::default(),
        }
    }

    /// The modes now.
    pub fn modes(&self) -> &Modes {
        &self.modes
    }

    /// Whether output waits, because of a key or a call.
    pub fn is_stopped(&self) -> bool {
        self.stops.key || self.stops.call
    }

    /// Takes other modes, `tcsetattr(3)`.
    pub fn set_modes(&mut self, modes: Modes, out: &mut dyn Output) -> Effects {
        let old = std::mem::replace(&mut self.modes, modes);
        if old.is_canonical() != self.modes.is_canonical() {
            self.input.change_kind(self.modes.is_canonical());
            self.erasing = false;
            self.literal_next = false;
        }
        if old.flow_keys() && !self.modes.flow_keys() && !self.stops.call {
            self.start_by_key(out);
        }
        self.effects.readable = true;
        self.take_effects()
    }

    /// Throws away input that nobody has read, `tcflush(3)`.
    pub fn flush_input(&mut self) -> Effects {
        self.forget_input();
        self.effects.input_flushed = true;
        self.take_effects()
    }

    /// Stops output or lets it go on, `tcflow(3)`. Echo that waited shows with what comes next.
    pub fn set_flow(&mut self, flow: Flow) -> Effects {
        match flow {
            Flow::Stopped if !self.stops.call => {
                self.stops.call = true;
                self.stop_by_key();
            }
            Flow::Started if self.stops.call => {
                self.stops.call = false;
                self.start();
            }
            _ => {}
        }
        self.take_effects()
    }

    fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    fn forget_input(&mut self) {
        self.input.clear();
        self.erasing = false;
    }

    fn stop_by_key(&mut self) {
        if !self.stops.key {
            self.stops.key = true;
            self.effects.flow = Some(Flow::Stopped);
        }
    }

    /// A stop by a call outlasts the keys.
    fn start(&mut self) {
        if self.stops.key && !self.stops.call {
            self.stops.key = false;
            self.effects.flow = Some(Flow::Started);
        }
    }

    fn start_by_key(&mut self, out: &mut dyn Output) {
        self.start();
        self.process_echoes(out);
    }
}

impl Default for Discipline {
    fn default() -> Self {
        Self::new()
    }
}

/// `iscntrl` of the C locale, which Linux's console has too.
const fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// Letters and digits of ISO 8859-1, as the kernel of Linux sees bytes.
const fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || (byte >= 0xc0 && byte != 0xd7 && byte != 0xf7)
}

/// To lower case in ISO 8859-1.
const fn lower(byte: u8) -> u8 {
    if byte.is_ascii_uppercase() || (byte >= 0xc0 && byte <= 0xde && byte != 0xd7) { byte + 0x20 } else { byte }
}

/// To upper case in ISO 8859-1; the two letters that have none there become what stands 32 places before them.
const fn upper(byte: u8) -> u8 {
    if byte.is_ascii_lowercase() || (byte >= 0xdf && byte != 0xf7) { byte - 0x20 } else { byte }
}
