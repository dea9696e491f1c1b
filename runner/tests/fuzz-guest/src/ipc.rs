//! Structures of calls between processes, about terminals and about scheduling: semaphore operations, messages, queue
//! attributes, terminal settings, window sizes, restartable sequences, scheduling attributes. Mostly what the calls take,
//! with a word that is not. Also what a worker makes before its calls, so that they find more than wrong ids: System V
//! objects, timers, a controlling terminal.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::args::Gen;
use crate::random::Rng;
use crate::{raw, tree};

/// System V objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    Memory,
    Semaphores,
    Messages,
}

/// Ids of two objects of each family, which [`make_objects`] sets before a worker has threads: Relaxed.
static OBJECTS: [[AtomicU64; 2]; 3] = [const { [const { AtomicU64::new(0) }; 2] }; 3];

/// Makes what calls are to find in a new worker.
pub(crate) fn make_objects(rng: &mut Rng) {
    // SAFETY: the calls make objects, and read and write words that live here.
    let made = |nr: i64, args: [u64; 6]| unsafe { raw::call(nr.cast_unsigned(), args) };
    let makers = [(libc::SYS_shmget, [8192, 0o1666]), (libc::SYS_semget, [3, 0o1666]), (libc::SYS_msgget, [0o1666, 0])];
    for (ids, (nr, [first, second])) in OBJECTS.iter().zip(makers) {
        for (key, id) in [0, 1234].into_iter().zip(ids) {
            id.store(made(nr, [key, first, second, 0, 0, 0]).cast_unsigned(), Ordering::Relaxed);
        }
    }
    let mut timer = 0_u64;
    for clock in [0, 1, 2, 3] {
        // What an expiry sends is ignored unless somebody handles it.
        let event = [7_u64, libc::SIGURG.cast_unsigned().into(), 0, 0, 0, 0, 0, 0];
        made(libc::SYS_timer_create, [clock, event.as_ptr() as u64, &raw mut timer as u64, 0, 0, 0]);
    }
    if rng.chance(30) {
        made(libc::SYS_ioctl, [tree::TERMINAL, libc::TIOCSCTTY, 0, 0, 0, 0]);
    }
}

impl Gen {
    /// `struct sembuf`, some of them.
    pub(crate) fn semaphore_operations(&mut self) -> u64 {
        let mut words: Vec<u16> = Vec::new();
        for _ in 0..3 {
            let number = self.rng.pick(&[0, 0, 1, 2, 3, 249, 0xffff]);
            let change = self.rng.pick(&[1, 1, 0xffff, 0xffff, 0, 2, 0x7fff, 0x8000]);
            // IPC_NOWAIT mostly, SEM_UNDO.
            let flags = self.rng.pick(&[0o4000, 0o4000, 0o4000 | 0x1000, 0x1000, 0, 0xffff]);
            words.extend([number, change, flags]);
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.image(&bytes)
    }

    /// The id of an object of `family`: one of those that were there, or that a call made.
    pub(crate) fn object(&mut self, family: Family) -> u64 {
        match self.rng.below(10) {
            0..7 => OBJECTS[family as usize][usize::from(self.rng.chance(50))].load(Ordering::Relaxed),
            7 | 8 => self.recent(),
            _ => self.rng.pick(&[0, 1, 2, 0x8000, u64::MAX]),
        }
    }

    /// `struct sched_attr`: size and policy, flags, niceness and priority, three times, and two shares of a processor.
    pub(crate) fn scheduling(&mut self) -> u64 {
        let size = self.rng.pick(&[48_u64, 56, 48, 0, 100]);
        let policy = self.rng.pick(&[0_u64, 0, 1, 2, 3, 5, 6, 7, 0xffff_ffff]);
        let flags = self.rng.pick(&[0_u64, 0, 1, 2, 4, 8, 0x18, 0x60, 1 << 40]);
        let niceness = self.rng.pick(&[0_u64, 0, 5, 19, 20, 0xffff_ffec, 0xffff_ffff]);
        let priority = self.rng.pick(&[0_u64, 0, 1, 99, 100]);
        let time = self.rng.pick(&[0_u64, 1_000_000, 1 << 63]);
        let shares = self.rng.pick(&[0_u64, 1024 << 32, u64::MAX]);
        self.words(&[size | policy << 32, flags, niceness | priority << 32, time, time, time, shares])
    }

    /// `struct msgbuf`: a type and a text.
    pub(crate) fn message_with_type(&mut self) -> u64 {
        let kind = self.rng.pick(&[1, 1, 2, 3, u64::MAX >> 1, 0, u64::MAX]);
        let text = self.rng.next();
        self.words(&[kind, text, text, text, text, text, text, text])
    }

    /// The name of a POSIX message queue: one of few, so that calls meet.
    pub(crate) fn queue_name(&mut self) -> u64 {
        let name =
            self.rng.pick(&[&b"q1\0"[..], b"q1\0", b"q2\0", b"q3\0", b"\0", b".\0", b"..\0", b"/q1\0", b"a/b\0"]);
        self.image(name)
    }

    /// `struct mq_attr`.
    pub(crate) fn queue_attributes(&mut self) -> u64 {
        let flags = self.rng.pick(&[0, 0, 0o4000, 0o4000, 1, u64::MAX]);
        let messages = self.rng.pick(&[1, 2, 10, 10, 0, 100, 65_536, 65_537, u64::MAX]);
        let size = self.rng.pick(&[8, 64, 8192, 8192, 0, 1 << 24, u64::MAX]);
        if self.rng.chance(25) { 0 } else { self.words(&[flags, messages, size, 0, 0, 0, 0, 0]) }
    }

    /// What an `ioctl` of a terminal reads: `struct termios2`, whose first fields are `termios`', or `struct winsize`.
    pub(crate) fn terminal_settings(&mut self) -> u64 {
        let mut bytes = vec![0; 64];
        let flags = [
            self.rng.pick(&[0_u32, 0x500, 0x2502, 0x1, 0xffff_ffff]),
            self.rng.pick(&[0_u32, 0x5, 0x1, 0xffff_ffff]),
            self.rng.pick(&[0xbf_u32, 0x8bd, 0, 0xffff_ffff]),
            self.rng.pick(&[0_u32, 0x8a3b, 0x8a3b, 0x2, 0x20, 0xffff_ffff]),
        ];
        for (at, word) in flags.iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        // c_line, then VINTR VQUIT VERASE VKILL VEOF VTIME VMIN and the rest.
        let characters =
            [0, 3, 28, 127, 21, 4, self.rng.pick(&[0, 1, 2]), self.rng.pick(&[0, 1, 255]), 0, 17, 19, 26, 0];
        bytes[16..16 + characters.len()].copy_from_slice(&characters);
        if self.rng.chance(30) {
            let size = [self.rng.pick(&[24_u16, 0, 0xffff]), self.rng.pick(&[80_u16, 0, 0xffff]), 0, 0];
            for (at, word) in size.iter().enumerate() {
                bytes[at * 2..at * 2 + 2].copy_from_slice(&word.to_le_bytes());
            }
        }
        self.image(&bytes)
    }

    /// `struct rseq`: numbers of a processor, then the address of a critical section, which may be anywhere.
    pub(crate) fn restartable_sequence(&mut self) -> u64 {
        let section = if self.rng.chance(50) { 0 } else { self.rng.interesting() };
        self.words(&[u64::MAX, section, 0, 0])
    }
}
