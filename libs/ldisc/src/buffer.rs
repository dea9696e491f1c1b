//! The input that waits for readers: a ring of bytes, of which some end lines.

use crate::{BUFFER, DISABLED};

const WORDS: usize = BUFFER / 64;

/// Positions count up for ever and are masked to index.
pub(crate) struct Buffer {
    bytes: Box<[u8; BUFFER]>,
    /// Which bytes end a line.
    ends: Box<[u64; WORDS]>,
    /// The next byte to read.
    tail: usize,
    /// Past the last complete line.
    canon: usize,
    /// Past the last byte.
    head: usize,
    /// Up to where raw readers may read.
    commit: usize,
    /// The end of the first line is only where raw input became canonical.
    pushed: bool,
}

/// What a read takes.
struct Line {
    /// Bytes to give.
    len: usize,
    /// Bytes to remove.
    used: usize,
    /// Whether it reaches the end of the line.
    ended: bool,
}

const fn index(position: usize) -> usize {
    position % BUFFER
}

impl Buffer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Box::new([0; BUFFER]),
            ends: Box::new([0; WORDS]),
            tail: 0,
            canon: 0,
            head: 0,
            commit: 0,
            pushed: false,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.ends.fill(0);
        (self.tail, self.canon, self.head, self.commit) = (0, 0, 0, 0);
        self.pushed = false;
    }

    /// Bytes that are there.
    pub(crate) fn len(&self) -> usize {
        self.head.wrapping_sub(self.tail)
    }

    /// Where the line begins that is being edited.
    pub(crate) fn canon(&self) -> usize {
        self.canon
    }

    pub(crate) fn head(&self) -> usize {
        self.head
    }

    /// Whether the line being edited is empty.
    pub(crate) fn line_is_empty(&self) -> bool {
        self.canon == self.head
    }

    pub(crate) fn has_line(&self) -> bool {
        self.canon != self.tail
    }

    /// Bytes that raw readers may have.
    pub(crate) fn committed(&self) -> usize {
        self.commit.wrapping_sub(self.tail)
    }

    pub(crate) fn commit(&mut self) {
        self.commit = self.head;
    }

    pub(crate) fn at(&self, position: usize) -> u8 {
        self.bytes[index(position)]
    }

    pub(crate) fn push(&mut self, byte: u8) {
        self.bytes[index(self.head)] = byte;
        self.head = self.head.wrapping_add(1);
    }

    /// Appends bytes for which there is room.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let at = index(self.head);
        let (first, second) = bytes.split_at(bytes.len().min(BUFFER - at));
        self.bytes[at..at + first.len()].copy_from_slice(first);
        let second = second.get(..second.len().min(BUFFER)).unwrap_or_default();
        self.bytes[..second.len()].copy_from_slice(second);
        self.head = self.head.wrapping_add(first.len() + second.len());
    }

    /// Appends a byte that ends the line.
    pub(crate) fn push_end(&mut self, byte: u8) {
        let at = index(self.head);
        self.ends[at / 64] |= 1 << (at % 64);
        self.push(byte);
        self.canon = self.head;
    }

    /// Takes back the byte past the last that fits: it is written over.
    pub(crate) fn drop_last(&mut self) {
        self.head = self.head.wrapping_sub(1);
    }

    /// Erases from `position` on.
    pub(crate) fn cut(&mut self, position: usize) {
        self.head = position;
    }

    fn is_end(&self, position: usize) -> bool {
        let at = index(position);
        self.ends[at / 64] & (1 << (at % 64)) != 0
    }

    fn clear_end(&mut self, position: usize) {
        let at = index(position);
        self.ends[at / 64] &= !(1 << (at % 64));
    }

    /// Canonical input became raw or the other way round: what is there becomes one line, or none.
    pub(crate) fn change_kind(&mut self, canonical: bool) {
        self.ends.fill(0);
        if canonical && self.len() > 0 {
            let last = index(self.head.wrapping_sub(1));
            self.ends[last / 64] |= 1 << (last % 64);
            self.canon = self.head;
            self.pushed = true;
        } else {
            self.canon = self.tail;
            self.pushed = false;
        }
        self.commit = self.head;
    }

    /// Bytes of complete lines, without the marks of their ends (FIONREAD).
    pub(crate) fn line_bytes(&self) -> usize {
        let count = self.canon.wrapping_sub(self.tail);
        let marks = (0..count).map(|at| self.tail.wrapping_add(at));
        count - marks.filter(|&at| self.is_end(at) && self.at(at) == DISABLED).count()
    }

    fn line(&self, most: usize) -> Line {
        let available = self.canon.wrapping_sub(self.tail).min(most);
        let end = (0..available).find(|&at| self.is_end(self.tail.wrapping_add(at)));
        match end {
            Some(at) if self.at(self.tail.wrapping_add(at)) == DISABLED => Line { len: at, used: at + 1, ended: true },
            Some(at) => Line { len: at + 1, used: at + 1, ended: true },
            None => Line { len: available, used: available, ended: false },
        }
    }

    /// Gives at most `most` bytes of the first line to `sink`, which says how many it took.
    pub(crate) fn read_line<E>(
        &mut self,
        most: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let line = self.line(most);
        let taken = self.give(line.len, sink)?;
        if taken < line.len {
            self.tail = self.tail.wrapping_add(taken);
            return Ok(taken);
        }
        self.tail = self.tail.wrapping_add(line.used);
        if line.ended {
            self.clear_end(self.tail.wrapping_sub(1));
            self.pushed = false;
        } else if taken == most && self.has_line() && self.is_end(self.tail) && self.at(self.tail) == DISABLED {
            // The end of file after exactly what was asked for is not another read's.
            self.clear_end(self.tail);
            self.tail = self.tail.wrapping_add(1);
        }
        Ok(taken)
    }

    /// Gives at most `most` bytes to `sink`, which says how many it took.
    pub(crate) fn read_raw<E>(
        &mut self,
        most: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let taken = self.give(self.committed().min(most), sink)?;
        self.tail = self.tail.wrapping_add(taken);
        Ok(taken)
    }

    fn give<E>(&self, len: usize, sink: &mut dyn FnMut(&[u8]) -> Result<usize, E>) -> Result<usize, E> {
        let len = len.min(BUFFER);
        let at = index(self.tail);
        let first = len.min(BUFFER - at);
        if len == 0 {
            return Ok(0);
        }
        let taken = sink(&self.bytes[at..at + first])?.min(first);
        if taken < first || len == first {
            return Ok(taken);
        }
        // What came before an error is taken.
        Ok(taken + sink(&self.bytes[..len - first]).unwrap_or(0).min(len - first))
    }
}
