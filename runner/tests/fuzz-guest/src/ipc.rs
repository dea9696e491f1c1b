//! Structures of calls between processes and about terminals: semaphore operations, messages, queue attributes, terminal
//! settings, window sizes, restartable sequences. Mostly what the calls take, with a word that is not.

use crate::args::Gen;

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
