//! The open files of a pair.

use std::sync::Arc;

use abi::Errno;
use abi::tty::LocalModes;
use fs::Context;
use fs::vfs::{File, FileOps};
use ldisc::Modes;
use usermem::bytes::{IoDst, IoSrc};
use usermem::ptr::UserMemory;
use waiter::{EventMask, Pollable, WaitQueue};

use super::control::{self, ControllingTty, Through};
use super::pty::{Input, Pty};
use super::{caller, ioctl};
use crate::ids::Pid;
use crate::signal::types::Signal;

/// Nanoseconds in the unit of `VTIME`.
const TENTH_NS: u64 = 100_000_000;

/// The open file of a master; there is one.
pub(super) struct Master {
    pty: Arc<Pty>,
}

impl Master {
    pub(super) fn new(pty: Arc<Pty>) -> Self {
        Self { pty }
    }

    pub(super) fn pty(&self) -> &Arc<Pty> {
        &self.pty
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.pty.master_closed();
    }
}

impl FileOps for Master {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() == 0 { Ok(0) } else { self.pty.read_master(dst) }
    }

    fn write(&self, _ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc, _offset: u64) -> Result<usize, Errno> {
        self.pty.write_master(src)
    }

    fn ioctl(
        &self,
        ctx: &Context<'_>,
        file: &File,
        command: u32,
        argument: u64,
        mem: &dyn UserMemory,
    ) -> Result<u64, Errno> {
        ioctl::Request { pty: &self.pty, through: Through::Master, ctx, file, mem }.answer(command, argument)
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        self.pty.master_readiness() & (interest | EventMask::ALWAYS)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(self.pty.master_queue())
    }

    fn signals_for(&self) -> Option<EventMask> {
        Some(EventMask::IN | EventMask::OUT)
    }

    fn to_tell(&self, events: EventMask) -> EventMask {
        self.pty.to_tell_master(events)
    }

    fn fdinfo(&self) -> String {
        format!("tty-index:\t{}\n", self.pty.index())
    }
}

/// An open file of a slave.
pub(super) struct Slave {
    pty: Arc<Pty>,
    /// Of the pair when this was opened; with another the file is dead.
    generation: u32,
}

impl Slave {
    pub(super) fn new(pty: &Arc<Pty>, generation: u32) -> Self {
        Self { pty: Arc::clone(pty), generation }
    }

    /// The process group in the foreground.
    pub(super) fn foreground(&self) -> Option<Pid> {
        self.pty.seat().foreground()
    }

    /// A process in the background may not read, and not print where `TOSTOP` says so.
    fn check_background(&self, ctx: &Context<'_>, signal: Signal) -> Result<(), Errno> {
        let (Some(thread), Some(kernel)) = (caller(ctx), self.pty.kernel()) else { return Ok(()) };
        control::check_background(&kernel, thread, &self.pty.as_tty(), signal)
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        self.pty.slave_closed(self.generation);
    }
}

/// For how long a read of raw input waits.
struct Patience {
    /// For so many bytes.
    minimum: usize,
    /// So long between bytes, or for the first where none need come; 0 is for ever, or not at all.
    time_ns: u64,
    /// Whether the time runs before the first byte.
    from_the_start: bool,
}

impl Patience {
    fn of(modes: &Modes) -> Self {
        let time_ns = u64::from(modes.time()) * TENTH_NS;
        match modes.min() {
            _ if modes.is_canonical() => Self { minimum: 0, time_ns: 0, from_the_start: false },
            0 => Self { minimum: 1, time_ns, from_the_start: true },
            min => Self { minimum: usize::from(min), time_ns, from_the_start: false },
        }
    }
}

impl Pollable for Slave {
    fn readiness(&self, interest: EventMask) -> EventMask {
        FileOps::readiness(self, interest)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        FileOps::queue(self)
    }
}

impl FileOps for Slave {
    /// Waits here, and not by `EAGAIN`, where `VMIN` and `VTIME` make a read of several parts.
    fn read(&self, ctx: &Context<'_>, file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        if self.pty.is_hung_up(self.generation) {
            return Ok(0);
        }
        self.check_background(ctx, Signal::TTIN)?;
        let mut done = 0;
        let mut deadline = None;
        while dst.remaining() > 0 {
            let modes = match self.pty.read_slave(dst, self.generation) {
                Ok(Input::Bytes(n, modes)) => {
                    done += n;
                    let patience = Patience::of(&modes);
                    if done >= patience.minimum {
                        break;
                    }
                    deadline = (patience.time_ns > 0).then(|| sync::monotonic_now_ns() + patience.time_ns);
                    continue;
                }
                Ok(Input::Nothing(modes)) => modes,
                Ok(Input::Gone) if done == 0 => return Err(Errno::EIO),
                Ok(Input::Gone | Input::HungUp) => break,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            let patience = Patience::of(&modes);
            if patience.from_the_start {
                let end = *deadline.get_or_insert_with(|| sync::monotonic_now_ns() + patience.time_ns);
                if sync::monotonic_now_ns() >= end {
                    break;
                }
            } else if deadline.is_some_and(|end| sync::monotonic_now_ns() >= end) {
                break;
            }
            if file.is_nonblocking() || (done == 0 && deadline.is_none()) {
                // Whoever waits does so outside.
                return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
            }
            match ctx.blocker.wait_until(self, EventMask::READABLE, deadline) {
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write(&self, ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc, _offset: u64) -> Result<usize, Errno> {
        let stops = self.pty.state().discipline.modes().local.contains(LocalModes::TOSTOP);
        if stops && !self.pty.is_hung_up(self.generation) {
            self.check_background(ctx, Signal::TTOU)?;
        }
        self.pty.write_slave(src, self.generation)
    }

    fn ioctl(
        &self,
        ctx: &Context<'_>,
        file: &File,
        command: u32,
        argument: u64,
        mem: &dyn UserMemory,
    ) -> Result<u64, Errno> {
        if self.pty.is_hung_up(self.generation) {
            return Err(if command == abi::tty::TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        ioctl::Request { pty: &self.pty, through: Through::Terminal, ctx, file, mem }.answer(command, argument)
    }

    fn readiness(&self, interest: EventMask) -> EventMask {
        self.pty.slave_readiness(self.generation) & (interest | EventMask::ALWAYS)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(self.pty.slave_queue())
    }

    fn signals_for(&self) -> Option<EventMask> {
        Some(EventMask::IN | EventMask::OUT)
    }

    fn to_tell(&self, events: EventMask) -> EventMask {
        self.pty.to_tell_slave(events, self.generation)
    }
}
