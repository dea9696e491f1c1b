//! A pseudo-terminal: a line discipline between two bounded queues.
//!
//! ```text
//!  master write ─▶ typed ─▶ discipline ─▶ its input ─▶ slave read
//!  master read  ◀─ shown ◀─ discipline ◀───────────── slave write
//! ```
//! What is typed passes the discipline at once where there is room; the rest waits in `typed` until a reader made some.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::fs::OpenFlags;
use abi::tty::{
    TIOCPKT_DATA, TIOCPKT_DOSTOP, TIOCPKT_FLUSHREAD, TIOCPKT_FLUSHWRITE, TIOCPKT_NOSTOP, TIOCPKT_START, TIOCPKT_STOP,
    Termios, Winsize,
};
use fs::Context;
use fs::vfs::{FileOps, makedev};
use ldisc::{BUFFER, Discipline, Effects, Flow, Look, Modes, Output};
use sync::{LockClass, Mutex, MutexGuard};
use usermem::bytes::{IoDst, IoSrc};
use waiter::{EventMask, WaitQueue};

use super::control::{self, ControllingTty, Seat};
use super::devpts::DevPts;
use super::ends::Slave;
use super::{SLAVE_MAJOR, caller};
use crate::kernel::Kernel;
use crate::signal::info::SigInfo;
use crate::signal::types::Signal;

/// May be held over a user copy: the fault path never takes it.
const PTY: LockClass = LockClass::new("tty.pty", 3660);

/// Bytes that wait to be taken by the discipline.
const TYPED: usize = 16 << 10;
/// Bytes that wait to be read from the master.
const SHOWN: usize = 20 << 10;
/// So much of them nothing takes back any more.
const PASSED_ON: usize = BUFFER - 1;
/// Bytes that one step moves.
const STEP: usize = 2048;
/// A writer is told of room from so much on.
const WORTHWHILE: usize = 256;

/// A pair.
pub struct Pty {
    index: u32,
    kernel: Weak<Kernel>,
    devpts: Weak<DevPts>,
    state: Mutex<State>,
    seat: Seat,
    master_queue: WaitQueue,
    slave_queue: WaitQueue,
}

/// What the lock guards.
pub(super) struct State {
    pub(super) discipline: Discipline,
    typed: VecDeque<u8>,
    pub(super) shown: VecDeque<u8>,
    /// Open files of the slave that were opened since the last hang-up.
    slaves: u32,
    /// Whether there ever was one since then: the end of the last is an end to the master's reader.
    was_opened: bool,
    /// Grows with each hang-up: files of an older one are dead.
    generation: u32,
    master: Presence,
    /// TIOCSPTLCK: the slave cannot be opened.
    pub(super) locked: bool,
    /// TIOCEXCL.
    pub(super) exclusive: bool,
    /// TIOCPKT.
    pub(super) packets: bool,
    /// What the next packet tells.
    packet_status: u8,
    pub(super) size: Winsize,
    /// TIOCSLCKTRMIOS: bits, and characters that are not 0, of what no change of the modes changes.
    pub(super) kept_modes: Termios,
    /// tcflow(3) on the master: what is typed waits.
    pub(super) master_stopped: bool,
    short_of_room: Short,
}

/// Which end's last write found too little room: its owner is to hear of more (SIGIO).
#[derive(Clone, Copy, Debug, Default)]
struct Short {
    master: bool,
    slave: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presence {
    Open,
    Closed,
}

/// The master's side as the discipline sees it.
pub(super) struct Shown<'a>(&'a mut VecDeque<u8>);

impl Output for Shown<'_> {
    fn room(&self) -> usize {
        SHOWN.saturating_sub(self.0.len())
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    fn flush(&mut self) {
        self.0.truncate(PASSED_ON);
    }
}

impl State {
    /// The discipline, and where it prints.
    pub(super) fn parts(&mut self) -> (&mut Discipline, Shown<'_>) {
        (&mut self.discipline, Shown(&mut self.shown))
    }

    /// Lets the discipline take what was typed.
    pub(super) fn feed(&mut self) -> Effects {
        let mut effects = Effects::default();
        loop {
            let (front, _) = self.typed.as_slices();
            if front.is_empty() {
                return effects;
            }
            let (taken, more) = self.discipline.receive(front, &mut Shown(&mut self.shown));
            let all = taken == front.len();
            self.typed.drain(..taken);
            effects = effects.and(more);
            if !all {
                return effects;
            }
        }
    }

    /// Types `bytes`, of which those beyond the room are lost.
    pub(super) fn type_in(&mut self, bytes: &[u8]) -> Effects {
        let room = self.typed_room();
        self.typed.extend(bytes.get(..room).unwrap_or(bytes));
        self.feed()
    }

    fn typed_room(&self) -> usize {
        TYPED.saturating_sub(self.typed.len())
    }

    pub(super) fn forget_typed(&mut self) {
        self.typed.clear();
    }

    /// Notes for packet mode what happened.
    pub(super) fn note(&mut self, effects: &Effects) {
        if !self.packets {
            return;
        }
        if effects.input_flushed {
            self.packet_status |= TIOCPKT_FLUSHREAD;
        }
        if effects.output_flushed {
            self.packet_status |= TIOCPKT_FLUSHWRITE;
        }
        match effects.flow {
            Some(Flow::Stopped) => self.packet_status = (self.packet_status & !TIOCPKT_START) | TIOCPKT_STOP,
            Some(Flow::Started) => self.packet_status = (self.packet_status & !TIOCPKT_STOP) | TIOCPKT_START,
            None => {}
        }
    }

    /// Sets modes, and notes for packet mode whether ^S and ^Q work.
    pub(super) fn set_modes(&mut self, modes: Modes) -> Effects {
        let old = self.discipline.modes().usual_flow_keys();
        let new = modes.usual_flow_keys();
        if self.packets && old != new {
            self.packet_status &= !(TIOCPKT_DOSTOP | TIOCPKT_NOSTOP);
            self.packet_status |= if new { TIOCPKT_DOSTOP } else { TIOCPKT_NOSTOP };
        }
        let (discipline, mut shown) = self.parts();
        let effects = discipline.set_modes(modes, &mut shown);
        // What was held up may pass now.
        effects.and(self.feed())
    }

    pub(super) fn set_packets(&mut self, on: bool) {
        if on && !self.packets {
            self.packet_status = 0;
        }
        self.packets = on;
    }

    fn master_readable(&self) -> bool {
        !self.shown.is_empty() || (self.packets && self.packet_status != 0)
    }
}

/// Counts a step of a write, which moved nothing if there was no room; says how the write ends, if it does.
fn count_step(step: Result<usize, Errno>, done: &mut usize, short_of_room: &mut bool) -> Option<Result<usize, Errno>> {
    match step {
        Ok(0) => {
            *short_of_room = true;
            Some(if *done == 0 { Err(Errno::EAGAIN) } else { Ok(*done) })
        }
        Ok(n) => {
            *done += n;
            None
        }
        Err(_) if *done > 0 => Some(Ok(*done)),
        Err(error) => Some(Err(error)),
    }
}

impl Pty {
    pub(super) fn new(index: u32, kernel: &Weak<Kernel>, devpts: &Weak<DevPts>) -> Arc<Self> {
        Arc::new(Self {
            index,
            kernel: Weak::clone(kernel),
            devpts: Weak::clone(devpts),
            state: Mutex::new(
                PTY,
                State {
                    discipline: Discipline::new(),
                    typed: VecDeque::new(),
                    shown: VecDeque::new(),
                    slaves: 0,
                    was_opened: false,
                    generation: 0,
                    master: Presence::Open,
                    locked: true,
                    exclusive: false,
                    packets: false,
                    packet_status: 0,
                    size: Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 },
                    kept_modes: Termios::default(),
                    master_stopped: false,
                    short_of_room: Short::default(),
                },
            ),
            seat: Seat::new(),
            master_queue: WaitQueue::new(),
            slave_queue: WaitQueue::new(),
        })
    }

    /// Its number: the slave's name in `/dev/pts`.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Lets the slave be opened, `unlockpt(3)`.
    pub(super) fn unlock(&self) {
        self.state.lock().locked = false;
    }

    pub(super) fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.upgrade()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Itself as a controlling terminal.
    pub(super) fn as_tty(self: &Arc<Self>) -> Arc<dyn ControllingTty> {
        Arc::clone(self) as _
    }

    pub(super) fn master_queue(&self) -> &WaitQueue {
        &self.master_queue
    }

    pub(super) fn slave_queue(&self) -> &WaitQueue {
        &self.slave_queue
    }

    /// Does what a call of the discipline asked for, without the lock.
    pub(super) fn act(&self, effects: Effects) {
        let keys = effects.signals;
        for (pressed, signal) in
            [(keys.interrupt, Signal::INT), (keys.quit, Signal::QUIT), (keys.suspend, Signal::TSTP)]
        {
            if pressed {
                self.signal(signal);
            }
        }
        if effects.readable {
            self.slave_queue.wake(EventMask::READABLE);
        }
        if effects.flow == Some(Flow::Started) {
            self.slave_queue.wake(EventMask::WRITABLE);
        }
        // Echo, or a packet.
        self.master_queue.wake(EventMask::READABLE | EventMask::PRI);
    }

    /// Sends a signal to the foreground process group.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = self.seat.foreground()
            && let Some(kernel) = self.kernel()
        {
            kernel.signal_pgrp(group, &SigInfo::kernel(signal));
        }
    }

    /// Sets the size of the window; who is in the foreground hears of it.
    pub fn set_size(&self, size: Winsize) {
        let old = std::mem::replace(&mut self.state.lock().size, size);
        if old != size {
            self.signal(Signal::WINCH);
        }
    }

    /// The byte that ends input where it has lines, if there is one.
    pub fn end_of_input(&self) -> Option<u8> {
        let state = self.state.lock();
        let modes = state.discipline.modes();
        Some(modes.chars[abi::tty::VEOF]).filter(|&byte| modes.is_canonical() && byte != 0)
    }

    /// Takes what is typed at the master.
    pub(super) fn write_master(&self, src: &mut dyn IoSrc) -> Result<usize, Errno> {
        let mut done = 0;
        let mut effects = Effects::default();
        let result = loop {
            if src.remaining() == 0 {
                break Ok(done);
            }
            let mut state = self.state.lock();
            let room = if state.master_stopped { 0 } else { state.typed_room().min(STEP) };
            let step = src.drain(room, &mut |slices| {
                let mut buffer = [0; STEP];
                let filled = usermem::safecopy::read_slices(slices, &mut buffer)?;
                state.typed.extend(buffer.get(..filled).unwrap_or_default());
                Ok(filled)
            });
            let more = state.feed();
            state.note(&more);
            effects = effects.and(more);
            if let Some(end) = count_step(step, &mut done, &mut state.short_of_room.master) {
                break end;
            }
        };
        self.act(effects);
        result
    }

    /// Gives what the terminal shows.
    pub(super) fn read_master(&self, dst: &mut dyn IoDst) -> Result<usize, Errno> {
        let (result, freed) = {
            let mut state = self.state.lock();
            if state.packets && state.packet_status != 0 {
                let status = std::mem::take(&mut state.packet_status);
                return dst.put(&[status]);
            }
            if state.shown.is_empty() {
                return Err(if state.was_opened && state.slaves == 0 { Errno::EIO } else { Errno::EAGAIN });
            }
            let before = state.shown.len();
            let head = if state.packets { dst.put(&[TIOCPKT_DATA])? } else { 0 };
            let (front, back) = state.shown.as_slices();
            let mut moved = match dst.put(front) {
                Ok(moved) => moved,
                Err(_) if head > 0 => 0,
                Err(error) => return Err(error),
            };
            if moved == front.len() && dst.remaining() > 0 {
                moved += dst.put(back).unwrap_or(0);
            }
            state.shown.drain(..moved);
            if before >= SHOWN - WORTHWHILE {
                // Echo may wait for room.
                let (discipline, mut shown) = state.parts();
                discipline.write(&[], &mut shown);
            }
            (Ok(head + moved), moved > 0)
        };
        if freed {
            self.slave_queue.wake(EventMask::WRITABLE);
        }
        result
    }

    /// Prints what a program writes to the slave.
    pub(super) fn write_slave(&self, src: &mut dyn IoSrc, generation: u32) -> Result<usize, Errno> {
        let mut done = 0;
        let mut effects = Effects::default();
        let result = loop {
            let mut state = self.state.lock();
            if state.generation != generation || state.master == Presence::Closed {
                break if done > 0 { Ok(done) } else { Err(Errno::EIO) };
            }
            if src.remaining() == 0 {
                break Ok(done);
            }
            let step = src.drain(STEP, &mut |slices| {
                let mut buffer = [0; STEP];
                let filled = usermem::safecopy::read_slices(slices, &mut buffer)?;
                let (discipline, mut shown) = state.parts();
                let (written, more) = discipline.write(buffer.get(..filled).unwrap_or_default(), &mut shown);
                effects = effects.and(more);
                Ok(written)
            });
            if let Some(end) = count_step(step, &mut done, &mut state.short_of_room.slave) {
                break end;
            }
        };
        self.act(effects);
        result
    }

    /// What one look at the slave's input gives.
    pub(super) fn read_slave(&self, dst: &mut dyn IoDst, generation: u32) -> Result<Input, Errno> {
        let (input, effects) = {
            let mut state = self.state.lock();
            if state.generation != generation {
                return Ok(Input::HungUp);
            }
            if !state.discipline.is_readable(Look::Read) {
                let modes = *state.discipline.modes();
                return Ok(if state.master == Presence::Closed { Input::Gone } else { Input::Nothing(modes) });
            }
            let most = dst.remaining();
            let n = state.discipline.read(most, &mut |bytes| dst.put(bytes))?;
            let modes = *state.discipline.modes();
            let more = state.feed();
            state.note(&more);
            (Input::Bytes(n, modes), more)
        };
        self.act(effects);
        self.master_queue.wake(EventMask::WRITABLE);
        Ok(input)
    }

    pub(super) fn master_readiness(&self) -> EventMask {
        let state = self.state.lock();
        let mut ready = EventMask::empty();
        if state.master_readable() {
            ready |= EventMask::READABLE;
        }
        if state.packets && state.packet_status != 0 {
            ready |= EventMask::PRI;
        }
        if !state.master_stopped && state.typed_room() >= WORTHWHILE {
            ready |= EventMask::WRITABLE;
        }
        if state.was_opened && state.slaves == 0 {
            ready |= EventMask::HUP;
        }
        ready
    }

    /// What a wake with `events` is to the owner of the master: of room it hears only after it found too little.
    pub(super) fn to_tell_master(&self, events: EventMask) -> EventMask {
        let ready = events & self.master_readiness();
        let room = ready.contains(EventMask::OUT) && std::mem::take(&mut self.state.lock().short_of_room.master);
        (ready & EventMask::IN) | if room { EventMask::OUT } else { EventMask::empty() }
    }

    /// As [`Pty::to_tell_master`], of a slave; one that is hung up tells nothing.
    pub(super) fn to_tell_slave(&self, events: EventMask, generation: u32) -> EventMask {
        if self.is_hung_up(generation) {
            return EventMask::empty();
        }
        let ready = events & self.slave_readiness(generation);
        let room = ready.contains(EventMask::OUT) && std::mem::take(&mut self.state.lock().short_of_room.slave);
        (ready & EventMask::IN) | if room { EventMask::OUT } else { EventMask::empty() }
    }

    pub(super) fn slave_readiness(&self, generation: u32) -> EventMask {
        let state = self.state.lock();
        if state.generation != generation {
            return EventMask::READABLE | EventMask::WRITABLE | EventMask::ERR | EventMask::HUP;
        }
        let mut ready = EventMask::empty();
        if state.discipline.is_readable(Look::Poll) {
            ready |= EventMask::READABLE;
        }
        if !state.discipline.is_stopped() && SHOWN.saturating_sub(state.shown.len()) >= WORTHWHILE {
            ready |= EventMask::WRITABLE;
        }
        if state.master == Presence::Closed {
            ready |= EventMask::HUP;
        }
        ready
    }

    /// Whether files of this generation are dead.
    pub(super) fn is_hung_up(&self, generation: u32) -> bool {
        self.state.lock().generation != generation
    }

    /// Another open file of the slave. `EIO` while it is locked or when the master is gone, `EBUSY` while it is exclusive.
    pub(super) fn open_slave(self: &Arc<Self>, ctx: &Context<'_>, flags: OpenFlags) -> Result<Arc<Slave>, Errno> {
        let slave = {
            let mut state = self.state.lock();
            if state.locked || state.master == Presence::Closed {
                return Err(Errno::EIO);
            }
            if state.exclusive && !ctx.creds.has(auth::Caps::SYS_ADMIN) {
                return Err(Errno::EBUSY);
            }
            state.slaves = state.slaves.saturating_add(1);
            state.was_opened = true;
            Arc::new(Slave::new(self, state.generation))
        };
        let access = flags.bits() & abi::fs::O_ACCMODE;
        if !flags.contains(OpenFlags::O_NOCTTY)
            && access != abi::fs::O_WRONLY
            && let (Some(kernel), Some(thread)) = (self.kernel(), caller(ctx))
        {
            control::opened(&kernel, thread, &self.as_tty());
        }
        Ok(slave)
    }

    /// An open file of the slave is gone.
    pub(super) fn slave_closed(&self, generation: u32) {
        {
            let mut state = self.state.lock();
            if state.generation != generation {
                return;
            }
            state.slaves = state.slaves.saturating_sub(1);
            if state.slaves > 0 {
                return;
            }
            state.exclusive = false;
        }
        self.master_queue.wake(EventMask::READABLE | EventMask::HUP);
    }

    /// The master is gone, and with it the terminal.
    pub(super) fn master_closed(self: &Arc<Self>) {
        if let Some(devpts) = self.devpts.upgrade() {
            devpts.remove(self.index);
        }
        self.state.lock().master = Presence::Closed;
        self.hang_up();
    }

    /// Whoever has the slave open sees an end; the session whose terminal it is loses it, `vhangup(2)`.
    pub(super) fn hang_up(self: &Arc<Self>) {
        {
            let mut state = self.state.lock();
            state.generation = state.generation.wrapping_add(1);
            state.slaves = 0;
            state.packets = false;
            state.typed.clear();
            state.discipline.flush_input();
        }
        if let Some(kernel) = self.kernel() {
            control::hung_up(&kernel, &self.as_tty());
        }
        self.slave_queue.wake(EventMask::all());
        self.master_queue.wake(EventMask::all());
    }
}

/// What one look at the input of a slave gave.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    /// Bytes, none at an end of file; and the modes by which to judge whether they are enough.
    Bytes(usize, Modes),
    /// Nothing yet.
    Nothing(Modes),
    /// Nothing, ever: the master is closed.
    Gone,
    /// The file is dead.
    HungUp,
}

impl ControllingTty for Pty {
    fn device(&self) -> u64 {
        makedev(SLAVE_MAJOR, self.index)
    }

    fn seat(&self) -> &Seat {
        &self.seat
    }

    fn open(self: Arc<Self>, ctx: &Context<'_>, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        Ok(self.open_slave(ctx, flags)?)
    }
}
