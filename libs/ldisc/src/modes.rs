//! The modes of a terminal: `struct termios` with names for its bits.

use abi::tty::{
    ControlModes, InputModes, LocalModes, NCCS, OutputModes, VEOF, VEOL, VEOL2, VERASE, VINTR, VKILL, VLNEXT, VMIN,
    VQUIT, VREPRINT, VSTART, VSTOP, VSUSP, VTIME, VWERASE,
};

use crate::DISABLED;

/// `struct termios2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Modes {
    /// `c_iflag`.
    pub input: InputModes,
    /// `c_oflag`.
    pub output: OutputModes,
    /// `c_cflag`.
    pub control: ControlModes,
    /// `c_lflag`.
    pub local: LocalModes,
    /// `c_line`, which a terminal keeps and nothing else.
    pub line: u8,
    /// `c_cc`.
    pub chars: [u8; NCCS],
    /// `c_ispeed`, bits per second.
    pub input_speed: u32,
    /// `c_ospeed`, bits per second.
    pub output_speed: u32,
}

impl Modes {
    /// What Linux gives a new terminal.
    pub const fn sane() -> Self {
        let mut chars = [0; NCCS];
        chars[VINTR] = 3;
        chars[VQUIT] = 0x1c;
        chars[VERASE] = 0x7f;
        chars[VKILL] = 0x15;
        chars[VEOF] = 4;
        chars[VMIN] = 1;
        chars[VSTART] = 0x11;
        chars[VSTOP] = 0x13;
        chars[VSUSP] = 0x1a;
        chars[VREPRINT] = 0x12;
        chars[abi::tty::VDISCARD] = 0xf;
        chars[VWERASE] = 0x17;
        chars[VLNEXT] = 0x16;
        Self {
            input: InputModes::ICRNL.union(InputModes::IXON),
            output: OutputModes::OPOST.union(OutputModes::ONLCR),
            control: ControlModes::CS8
                .union(ControlModes::CREAD)
                .union(ControlModes::from_bits_retain(abi::tty::B38400)),
            local: LocalModes::ISIG
                .union(LocalModes::ICANON)
                .union(LocalModes::ECHO)
                .union(LocalModes::ECHOE)
                .union(LocalModes::ECHOK)
                .union(LocalModes::ECHOCTL)
                .union(LocalModes::ECHOKE)
                .union(LocalModes::IEXTEN),
            line: 0,
            chars,
            input_speed: 38400,
            output_speed: 38400,
        }
    }

    /// Whether input is edited and read by lines.
    pub const fn is_canonical(&self) -> bool {
        self.local.contains(LocalModes::ICANON)
    }

    /// Bytes for which a read of raw input waits, `VMIN`.
    pub const fn min(&self) -> u8 {
        self.chars[VMIN]
    }

    /// Tenths of a second for which it waits, `VTIME`.
    pub const fn time(&self) -> u8 {
        self.chars[VTIME]
    }

    /// Whether the flow of output is controlled by keys.
    pub const fn flow_keys(&self) -> bool {
        self.input.contains(InputModes::IXON)
    }

    /// Whether ^S and ^Q stop and start output, which packet mode tells of.
    pub const fn usual_flow_keys(&self) -> bool {
        self.flow_keys() && self.chars[VSTOP] == 0x13 && self.chars[VSTART] == 0x11
    }

    pub(crate) const fn echoes(&self) -> bool {
        self.local.contains(LocalModes::ECHO)
    }

    pub(crate) const fn has(&self, local: LocalModes) -> bool {
        self.local.contains(local)
    }

    pub(crate) const fn is_extended(&self) -> bool {
        self.local.contains(LocalModes::IEXTEN)
    }

    /// Whether `byte` is the control character at `index`, as far as the modes look for it at all.
    pub(crate) const fn is_char(&self, byte: u8, index: usize) -> bool {
        self.chars[index] == byte
    }

    /// Whether input passes as it is.
    pub(crate) fn is_raw(&self) -> bool {
        let input = InputModes::ISTRIP
            | InputModes::IUCLC
            | InputModes::IGNCR
            | InputModes::ICRNL
            | InputModes::INLCR
            | InputModes::IXON
            | InputModes::PARMRK;
        let local = LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO;
        !self.input.intersects(input) && !self.local.intersects(local)
    }

    /// Whether `byte` needs more than to be queued and echoed.
    pub(crate) fn is_special(&self, byte: u8) -> bool {
        if byte == DISABLED {
            return false;
        }
        let any = |indices: &[usize]| indices.iter().any(|&index| self.is_char(byte, index));
        (byte == b'\r' && self.input.intersects(InputModes::IGNCR | InputModes::ICRNL))
            || (byte == b'\n' && (self.input.contains(InputModes::INLCR) || self.is_canonical()))
            || (self.is_canonical() && any(&[VERASE, VKILL, VEOF, VEOL]))
            || (self.is_canonical() && self.is_extended() && any(&[VWERASE, VLNEXT, VEOL2]))
            || (self.is_canonical() && self.is_extended() && self.echoes() && any(&[VREPRINT]))
            || (self.flow_keys() && any(&[VSTART, VSTOP]))
            || (self.has(LocalModes::ISIG) && any(&[VINTR, VQUIT, VSUSP]))
    }

    /// Whether `byte` goes on a character that began before it.
    pub(crate) const fn is_continuation(&self, byte: u8) -> bool {
        self.input.contains(InputModes::IUTF8) && byte & 0xc0 == 0x80
    }
}
