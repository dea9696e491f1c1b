//! ioctl_tty(2): what a pair answers besides reads and writes.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use abi::tty::{
    self as uapi, BOTHER, ControlModes, InputModes, LocalModes, NCCS, OutputModes, Termio, Termios, Termios2, VEOF,
    VERASE, VINTR, VKILL, VMIN, VQUIT, VSTART, VSTOP, VTIME, Winsize,
};
use auth::Caps;
use fs::Context;
use fs::vfs::{At, File, LookupFlags};
use ldisc::{Flow, Modes};
use usermem::Addr;
use usermem::ptr::UserMemory;
use waiter::EventMask;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::control::{self, JobRequest, Through};
use super::devpts::Node;
use super::ends::Master;
use super::pty::Pty;
use super::{SLAVE_MAJOR, caller};
use crate::signal::types::Signal;

/// Where the input's speed stands in `c_cflag`.
const INPUT_SPEED_SHIFT: u32 = 16;

/// Speeds by the low bits of their code, and by those with `CBAUDEX`.
const SPEEDS: [u32; 16] = [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400];
const FAST_SPEEDS: [u32; 15] = [
    57_600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000,
    2_500_000, 3_000_000, 3_500_000, 4_000_000,
];

/// A request to a file of a pair.
pub(super) struct Request<'a> {
    pub(super) pty: &'a Arc<Pty>,
    pub(super) through: Through,
    pub(super) ctx: &'a Context<'a>,
    pub(super) file: &'a File,
    pub(super) mem: &'a dyn UserMemory,
}

/// When new modes hold, and what becomes of input that nobody has read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Keep,
    Flush,
}

/// The speed that a code means; `other` is the one that stands beside it.
fn speed(code: u32, other: u32) -> u32 {
    let code = code & ControlModes::CBAUD.bits();
    if code == BOTHER {
        return other;
    }
    let index = usize::try_from(code & 0o17).unwrap_or(0);
    let known = match code & BOTHER {
        0 => SPEEDS.get(index),
        _ => FAST_SPEEDS.get(index.wrapping_sub(1)),
    };
    known.copied().unwrap_or(0)
}

fn as_termios2(modes: &Modes) -> Termios2 {
    Termios2 {
        c_iflag: modes.input.bits(),
        c_oflag: modes.output.bits(),
        c_cflag: modes.control.bits(),
        c_lflag: modes.local.bits(),
        c_line: modes.line,
        c_cc: modes.chars,
        c_ispeed: modes.input_speed,
        c_ospeed: modes.output_speed,
    }
}

/// What a pseudo-terminal makes of modes: it always moves whole bytes.
fn settled(asked: &Termios2) -> Modes {
    let output_speed = speed(asked.c_cflag, asked.c_ospeed);
    let input_code = (asked.c_cflag >> INPUT_SPEED_SHIFT) & ControlModes::CBAUD.bits();
    let input_speed = if input_code == 0 { output_speed } else { speed(input_code, asked.c_ispeed) };
    let fixed = ControlModes::CSIZE | ControlModes::PARENB;
    let control = ControlModes::from_bits_retain(asked.c_cflag) & !fixed;
    Modes {
        input: InputModes::from_bits_retain(asked.c_iflag),
        output: OutputModes::from_bits_retain(asked.c_oflag),
        control: control | ControlModes::CS8 | ControlModes::CREAD,
        local: LocalModes::from_bits_retain(asked.c_lflag),
        line: asked.c_line,
        chars: asked.c_cc,
        input_speed,
        output_speed,
    }
}

/// The eight characters of `struct termio`.
const OLD_CHARS: [usize; 8] = [VINTR, VQUIT, VERASE, VKILL, VEOF, VTIME, VMIN, uapi::VSWTC];

fn low(bits: u32) -> u16 {
    let [a, b, ..] = bits.to_le_bytes();
    u16::from_le_bytes([a, b])
}

impl Request<'_> {
    fn put<T: IntoBytes + Immutable>(&self, at: u64, value: &T) -> Result<(), Errno> {
        self.mem.write(Addr(at), value.as_bytes())
    }

    fn get<T: FromBytes + IntoBytes>(&self, at: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.mem.read(Addr(at), value.as_mut_bytes())?;
        Ok(value)
    }

    /// Answers `command`; `ENOTTY` for what pseudo-terminals do not know, `EINTR` where the caller is in the background.
    pub(super) fn answer(&self, command: u32, argument: u64) -> Result<u64, Errno> {
        if let (Some(kernel), Some(thread)) = (self.pty.kernel(), caller(self.ctx)) {
            let tty = self.pty.as_tty();
            let request = JobRequest {
                kernel: &kernel,
                thread,
                creds: self.ctx.creds,
                tty: &tty,
                through: self.through,
                readable: self.file.is_readable(),
                mem: self.mem,
            };
            if let Some(answer) = request.answer(command, argument) {
                return answer;
            }
        }
        match command {
            uapi::TCGETS
            | uapi::TCGETS2
            | uapi::TCGETA
            | uapi::TCSETS
            | uapi::TCSETSW
            | uapi::TCSETSF
            | uapi::TCSETS2
            | uapi::TCSETSW2
            | uapi::TCSETSF2
            | uapi::TCSETA
            | uapi::TCSETAW
            | uapi::TCSETAF
            | uapi::TIOCGSOFTCAR
            | uapi::TIOCSSOFTCAR => self.modes(command, argument)?,
            uapi::TIOCGLCKTRMIOS => {
                let kept = self.pty.state().kept_modes;
                self.put(argument, &kept)?;
            }
            uapi::TIOCSLCKTRMIOS => {
                if !self.ctx.creds.has(Caps::SYS_ADMIN) {
                    return Err(Errno::EPERM);
                }
                let kept = self.get(argument)?;
                self.pty.state().kept_modes = kept;
            }
            uapi::TIOCGWINSZ => {
                let size = self.pty.state().size;
                self.put(argument, &size)?;
            }
            uapi::TIOCSWINSZ => self.pty.set_size(self.get::<Winsize>(argument)?),
            uapi::TCFLSH => self.flush(argument)?,
            uapi::TCXONC => self.flow(argument)?,
            uapi::TCSBRK | uapi::TCSBRKP | uapi::TIOCSBRK | uapi::TIOCCBRK => {
                // All output has been sent, and there is no line to break.
                self.check_background()?;
            }
            uapi::FIONREAD => {
                let bytes = match self.through {
                    Through::Terminal => self.pty.state().discipline.readable_bytes(),
                    Through::Master => self.pty.state().shown.len(),
                };
                self.put(argument, &i32::try_from(bytes).unwrap_or(i32::MAX))?;
            }
            uapi::TIOCOUTQ => self.put(argument, &0_i32)?,
            uapi::TIOCSTI => self.push(argument)?,
            uapi::TIOCEXCL => self.pty.state().exclusive = true,
            uapi::TIOCNXCL => self.pty.state().exclusive = false,
            uapi::TIOCGEXCL => {
                let exclusive = self.pty.state().exclusive;
                self.put(argument, &i32::from(exclusive))?;
            }
            uapi::TIOCGETD => self.put(argument, &uapi::N_TTY)?,
            uapi::TIOCSETD => {
                let wanted: u32 = self.get(argument)?;
                self.check_background()?;
                if wanted != uapi::N_TTY {
                    return Err(Errno::EINVAL);
                }
            }
            uapi::TIOCGDEV => {
                // Major and minor as old programs have them.
                let index = self.pty.index();
                let device = (SLAVE_MAJOR << 8) | (index & 0xff) | ((index & !0xff) << 12);
                self.put(argument, &device)?;
            }
            uapi::TIOCVHANGUP => {
                if !self.ctx.creds.has(Caps::SYS_ADMIN) {
                    return Err(Errno::EPERM);
                }
                self.pty.hang_up();
            }
            _ if self.through == Through::Master => self.master(command, argument)?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    /// A process in the background changes nothing.
    fn check_background(&self) -> Result<(), Errno> {
        let (Some(thread), Some(kernel)) = (caller(self.ctx), self.pty.kernel()) else { return Ok(()) };
        control::check_background(&kernel, thread, &self.pty.as_tty(), Signal::TTOU)
    }

    /// What only a master knows.
    fn master(&self, command: u32, argument: u64) -> Result<(), Errno> {
        match command {
            uapi::TIOCGPTN => self.put(argument, &self.pty.index()),
            uapi::TIOCSPTLCK => {
                let locked: i32 = self.get(argument)?;
                self.pty.state().locked = locked != 0;
                Ok(())
            }
            uapi::TIOCGPTLCK => {
                let locked = self.pty.state().locked;
                self.put(argument, &i32::from(locked))
            }
            uapi::TIOCPKT => {
                let packets: i32 = self.get(argument)?;
                self.pty.state().set_packets(packets != 0);
                Ok(())
            }
            uapi::TIOCGPKT => {
                let packets = self.pty.state().packets;
                self.put(argument, &i32::from(packets))
            }
            uapi::TIOCSIG => {
                let signal = i32::try_from(argument).ok().and_then(Signal::new).ok_or(Errno::EINVAL)?;
                if ![Signal::INT, Signal::QUIT, Signal::TSTP].contains(&signal) {
                    return Err(Errno::EINVAL);
                }
                self.pty.signal(signal);
                Ok(())
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn modes(&self, command: u32, argument: u64) -> Result<(), Errno> {
        let now = as_termios2(self.pty.state().discipline.modes());
        let (asked, change) = match command {
            uapi::TCGETS2 => return self.put(argument, &now),
            uapi::TCGETS => {
                let Termios2 { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc, .. } = now;
                return self.put(argument, &Termios { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc });
            }
            uapi::TCGETA => return self.put(argument, &as_termio(&now)),
            uapi::TIOCGSOFTCAR => {
                let local = now.c_cflag & ControlModes::CLOCAL.bits() != 0;
                return self.put(argument, &i32::from(local));
            }
            uapi::TIOCSSOFTCAR => {
                let local: i32 = self.get(argument)?;
                let rest = now.c_cflag & !ControlModes::CLOCAL.bits();
                let c_cflag = if local != 0 { rest | ControlModes::CLOCAL.bits() } else { rest };
                (Termios2 { c_cflag, ..now }, Change::Keep)
            }
            uapi::TCSETS2 | uapi::TCSETSW2 | uapi::TCSETSF2 => {
                let flush = command == uapi::TCSETSF2;
                (self.get::<Termios2>(argument)?, if flush { Change::Flush } else { Change::Keep })
            }
            uapi::TCSETS | uapi::TCSETSW | uapi::TCSETSF => {
                let Termios { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc } = self.get(argument)?;
                let asked = Termios2 { c_iflag, c_oflag, c_cflag, c_lflag, c_line, c_cc, ..now };
                (asked, if command == uapi::TCSETSF { Change::Flush } else { Change::Keep })
            }
            _ => {
                let asked = with_termio(&now, &self.get(argument)?);
                (asked, if command == uapi::TCSETAF { Change::Flush } else { Change::Keep })
            }
        };
        self.check_background()?;
        let effects = {
            let mut state = self.pty.state();
            let flushed = match change {
                Change::Flush => state.discipline.flush_input(),
                Change::Keep => ldisc::Effects::default(),
            };
            let asked = settled(&without_kept(&now, &asked, &state.kept_modes));
            let effects = flushed.and(state.set_modes(asked));
            state.note(&effects);
            effects
        };
        self.pty.act(effects);
        self.pty.slave_queue().wake(EventMask::READABLE | EventMask::WRITABLE);
        Ok(())
    }

    /// tcflush(3).
    fn flush(&self, argument: u64) -> Result<(), Errno> {
        self.check_background()?;
        let queue = u32::try_from(argument).map_err(|_| Errno::EINVAL)?;
        let (input, output) = match queue {
            uapi::TCIFLUSH => (true, false),
            uapi::TCOFLUSH => (false, true),
            uapi::TCIOFLUSH => (true, true),
            _ => return Err(Errno::EINVAL),
        };
        let effects = {
            let mut state = self.pty.state();
            let mut effects = ldisc::Effects::default();
            match self.through {
                Through::Terminal => {
                    if input {
                        effects = state.discipline.flush_input().and(state.feed());
                    }
                    if output {
                        let (_, mut shown) = state.parts();
                        ldisc::Output::flush(&mut shown);
                        effects.output_flushed = true;
                    }
                    state.note(&effects);
                }
                Through::Master => {
                    if input {
                        state.shown.clear();
                    }
                    if output {
                        state.forget_typed();
                    }
                }
            }
            effects
        };
        self.pty.act(effects);
        self.pty.master_queue().wake(EventMask::WRITABLE);
        self.pty.slave_queue().wake(EventMask::WRITABLE);
        Ok(())
    }

    /// tcflow(3).
    fn flow(&self, argument: u64) -> Result<(), Errno> {
        self.check_background()?;
        let effects = {
            let mut state = self.pty.state();
            let master = self.through == Through::Master;
            let effects = match u32::try_from(argument).map_err(|_| Errno::EINVAL)? {
                uapi::TCOOFF if master => {
                    state.master_stopped = true;
                    ldisc::Effects::default()
                }
                uapi::TCOON if master => {
                    state.master_stopped = false;
                    ldisc::Effects::default()
                }
                uapi::TCOOFF => state.discipline.set_flow(Flow::Stopped),
                uapi::TCOON => state.discipline.set_flow(Flow::Started),
                which @ (uapi::TCIOFF | uapi::TCION) => {
                    let index = if which == uapi::TCIOFF { VSTOP } else { VSTART };
                    // A master's own characters are those of a new terminal.
                    let modes = if master { Modes::sane() } else { *state.discipline.modes() };
                    match modes.chars.get(index).copied().unwrap_or(0) {
                        0 => ldisc::Effects::default(),
                        byte if master => state.type_in(&[byte]),
                        byte => {
                            let (_, mut shown) = state.parts();
                            if ldisc::Output::room(&shown) > 0 {
                                ldisc::Output::put(&mut shown, &[byte]);
                            }
                            ldisc::Effects::default()
                        }
                    }
                }
                _ => return Err(Errno::EINVAL),
            };
            state.note(&effects);
            effects
        };
        self.pty.act(effects);
        self.pty.master_queue().wake(EventMask::WRITABLE);
        Ok(())
    }

    /// TIOCSTI: input that nobody typed, which only administrators may make, or where `dev.tty.legacy_tiocsti` says so those
    /// whose terminal it is.
    fn push(&self, argument: u64) -> Result<(), Errno> {
        let administrator = self.ctx.creds.has(Caps::SYS_ADMIN);
        let kernel = self.pty.kernel().ok_or(Errno::EIO)?;
        if !administrator && !kernel.tty_knobs().legacy_tiocsti() {
            return Err(Errno::EIO);
        }
        let own = caller(self.ctx).and_then(|thread| thread.group().tty());
        let ours = own.is_some_and(|tty| std::ptr::addr_eq(Arc::as_ptr(&tty), Arc::as_ptr(self.pty)));
        if !(administrator || ours && self.through == Through::Terminal) {
            return Err(Errno::EPERM);
        }
        let byte: u8 = self.get(argument)?;
        let effects = {
            let mut state = self.pty.state();
            let effects = match self.through {
                Through::Terminal => state.type_in(&[byte]),
                Through::Master => {
                    let (_, mut shown) = state.parts();
                    if ldisc::Output::room(&shown) > 0 {
                        ldisc::Output::put(&mut shown, &[byte]);
                    }
                    ldisc::Effects::default()
                }
            };
            state.note(&effects);
            effects
        };
        self.pty.act(effects);
        Ok(())
    }
}

/// `asked`, but for what `kept` keeps as it is in `now`.
fn without_kept(now: &Termios2, asked: &Termios2, kept: &Termios) -> Termios2 {
    let bits = |now: u32, asked: u32, kept: u32| (now & kept) | (asked & !kept);
    let mut chars = asked.c_cc;
    for ((to, now), kept) in chars.iter_mut().zip(now.c_cc).zip(kept.c_cc) {
        *to = if kept == 0 { *to } else { now };
    }
    Termios2 {
        c_iflag: bits(now.c_iflag, asked.c_iflag, kept.c_iflag),
        c_oflag: bits(now.c_oflag, asked.c_oflag, kept.c_oflag),
        c_cflag: bits(now.c_cflag, asked.c_cflag, kept.c_cflag),
        c_lflag: bits(now.c_lflag, asked.c_lflag, kept.c_lflag),
        c_line: if kept.c_line == 0 { asked.c_line } else { now.c_line },
        c_cc: chars,
        ..*asked
    }
}

fn as_termio(modes: &Termios2) -> Termio {
    let mut old = Termio {
        c_iflag: low(modes.c_iflag),
        c_oflag: low(modes.c_oflag),
        c_cflag: low(modes.c_cflag),
        c_lflag: low(modes.c_lflag),
        c_line: modes.c_line,
        ..Termio::default()
    };
    for (to, from) in old.c_cc.iter_mut().zip(OLD_CHARS) {
        *to = modes.c_cc.get(from).copied().unwrap_or(0);
    }
    old
}

fn with_termio(now: &Termios2, old: &Termio) -> Termios2 {
    let with = |bits: u32, half: u16| (bits & !0xffff) | u32::from(half);
    let mut chars: [u8; NCCS] = now.c_cc;
    for (from, to) in old.c_cc.iter().zip(OLD_CHARS) {
        if let Some(place) = chars.get_mut(to) {
            *place = *from;
        }
    }
    Termios2 {
        c_iflag: with(now.c_iflag, old.c_iflag),
        c_oflag: with(now.c_oflag, old.c_oflag),
        c_cflag: with(now.c_cflag, old.c_cflag),
        c_lflag: with(now.c_lflag, old.c_lflag),
        c_line: old.c_line,
        c_cc: chars,
        ..*now
    }
}

/// TIOCGPTPEER: opens the slave of the master `file`, whatever its name leads to by now.
pub fn open_peer(ctx: &Context<'_>, file: &File, flags: OpenFlags) -> Result<Arc<File>, Errno> {
    let master: &Master = file.ops_as().ok_or(Errno::ENOTTY)?;
    let top = file.path().mount.root_path();
    let name = master.pty().index().to_string();
    let place = At { ctx, root: &top, start: &top }.lookup(name.as_bytes(), LookupFlags::empty());
    match place {
        Ok(place) if Node::is_slave_of(place.inode(), master.pty()) => place.open(ctx, flags),
        // A node of ptmx outside a devpts has no directory to look in.
        _ => Err(Errno::EIO),
    }
}
