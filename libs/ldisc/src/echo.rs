//! Echo: what is typed shows, edited, at the terminal.
//!
//! Echo is noted while input is edited, and goes out when a piece of input is done, when there is much of it, or before
//! the next output. Until then a key for a signal takes it back. How long it waits is therefore visible, and as on Linux.

use abi::tty::{LocalModes, OutputModes};

use crate::output::put_processed;
use crate::{BUFFER, Discipline, Output, is_control};

/// Much of it: from so many bytes on it goes out, and again with each block.
const BLOCK: usize = 256;

/// From so many bytes on that could not go out, the oldest are forgotten.
const TOO_MUCH: usize = BUFFER - (BLOCK + 32);

/// Begins a note of more than a byte to show. Shown itself as two of it.
const ESCAPE: u8 = 0xff;
/// After [`ESCAPE`]: the cursor goes back a column without any byte.
const MOVE_BACK: u8 = 0x80;
/// After [`ESCAPE`]: the edited line begins at this column.
const LINE_BEGINS: u8 = 0x81;
/// After [`ESCAPE`], with a byte after it: a tab is erased.
const ERASE_TAB: u8 = 0x82;
/// In the byte after [`ERASE_TAB`]: columns are counted from another tab.
const AFTER_TAB: u8 = 0x80;

/// Echo that waits; anything else after [`ESCAPE`] is a control character to be shown as two.
pub(crate) struct Echo {
    bytes: Box<[u8; BUFFER]>,
    tail: usize,
    /// Up to where it may go out.
    commit: usize,
    /// Up to where it may go out when asked for.
    mark: usize,
    head: usize,
}

/// One note.
#[derive(Clone, Copy)]
enum Note {
    Byte(u8),
    Escape,
    MoveBack,
    LineBegins,
    EraseTab(u8),
    Control(u8),
}

impl Note {
    const fn len(self) -> usize {
        match self {
            Self::Byte(_) => 1,
            Self::EraseTab(_) => 3,
            _ => 2,
        }
    }
}

impl Echo {
    pub(crate) fn new() -> Self {
        Self { bytes: Box::new([0; BUFFER]), tail: 0, commit: 0, mark: 0, head: 0 }
    }

    pub(crate) fn clear(&mut self) {
        (self.tail, self.commit, self.mark, self.head) = (0, 0, 0, 0);
    }

    fn at(&self, position: usize) -> u8 {
        self.bytes[position % BUFFER]
    }

    fn add(&mut self, byte: u8) {
        if self.head.wrapping_sub(self.tail) >= BUFFER {
            // Only where a long line is shown again at once.
            self.forget_first();
        }
        self.bytes[self.head % BUFFER] = byte;
        self.head = self.head.wrapping_add(1);
    }

    fn forget_first(&mut self) {
        let len = self.note(self.tail).len();
        self.tail = self.tail.wrapping_add(len);
        // Both stand between the tail and the head.
        if self.commit.wrapping_sub(self.tail) > BUFFER {
            self.commit = self.tail;
        }
        if self.mark.wrapping_sub(self.tail) > BUFFER {
            self.mark = self.tail;
        }
    }

    fn note(&self, position: usize) -> Note {
        let next = |by: usize| self.at(position.wrapping_add(by));
        match next(0) {
            ESCAPE => match next(1) {
                ESCAPE => Note::Escape,
                MOVE_BACK => Note::MoveBack,
                LINE_BEGINS => Note::LineBegins,
                ERASE_TAB => Note::EraseTab(next(2)),
                byte => Note::Control(byte),
            },
            byte => Note::Byte(byte),
        }
    }

    fn waiting(&self, to: usize) -> usize {
        to.wrapping_sub(self.tail)
    }

    /// Notes a byte to be shown as it is.
    pub(crate) fn raw(&mut self, byte: u8) {
        self.add(byte);
        if byte == ESCAPE {
            self.add(ESCAPE);
        }
    }

    pub(crate) fn line_begins(&mut self) {
        self.add(ESCAPE);
        self.add(LINE_BEGINS);
    }

    pub(crate) fn move_back(&mut self) {
        self.add(ESCAPE);
        self.add(MOVE_BACK);
    }

    /// Notes that a tab is erased which stood `columns` after another tab or the beginning of the line.
    pub(crate) fn erase_tab(&mut self, columns: u8, after_tab: bool) {
        self.add(ESCAPE);
        self.add(ERASE_TAB);
        self.add((columns & 7) | if after_tab { AFTER_TAB } else { 0 });
    }
}

impl Discipline {
    /// Notes that `byte` is to be shown, a control character perhaps as two.
    pub(crate) fn echo(&mut self, byte: u8) {
        if byte != ESCAPE && self.modes.has(LocalModes::ECHOCTL) && is_control(byte) && byte != b'\t' {
            self.echo.add(ESCAPE);
            self.echo.add(byte);
        } else {
            self.echo.raw(byte);
        }
    }

    /// What was noted so far may go out; does so when it is much.
    pub(crate) fn commit_echoes(&mut self, out: &mut dyn Output) {
        let echo = &mut self.echo;
        echo.mark = echo.head;
        let (all, old) = (echo.waiting(echo.head), echo.waiting(echo.commit));
        if all >= BLOCK && all % BLOCK <= old % BLOCK {
            echo.commit = echo.head;
            self.show_echoes(out);
        }
    }

    /// Shows what may go out.
    pub(crate) fn process_echoes(&mut self, out: &mut dyn Output) {
        if self.echo.mark != self.echo.tail {
            self.echo.commit = self.echo.mark;
            self.show_echoes(out);
        }
    }

    /// Shows all that was noted, at the end of a piece of input.
    pub(crate) fn flush_echoes(&mut self, out: &mut dyn Output) {
        let shows = self.modes.echoes() || self.modes.has(LocalModes::ECHONL);
        if shows && self.echo.commit != self.echo.head {
            self.echo.mark = self.echo.head;
            self.echo.commit = self.echo.head;
            self.show_echoes(out);
        }
    }

    fn show_echoes(&mut self, out: &mut dyn Output) {
        let mut room = if self.is_stopped() { 0 } else { out.room() };
        while self.echo.waiting(self.echo.commit) > 0 {
            let note = self.echo.note(self.echo.tail);
            let Some(used) = self.show(note, room, out) else { break };
            room -= used;
            self.echo.tail = self.echo.tail.wrapping_add(note.len());
        }
        while self.echo.waiting(self.echo.commit) >= TOO_MUCH {
            self.echo.forget_first();
        }
    }

    /// Shows one note; says how much room it took, or that there is too little.
    fn show(&mut self, note: Note, room: usize, out: &mut dyn Output) -> Option<usize> {
        let used = match note {
            Note::Byte(byte) if self.modes.output.contains(OutputModes::OPOST) => {
                return put_processed(self, byte, room, out);
            }
            Note::Byte(byte) if room > 0 => {
                out.put(&[byte]);
                1
            }
            Note::Escape if room > 0 => {
                out.put(&[ESCAPE]);
                self.column = self.column.wrapping_add(1);
                1
            }
            Note::Control(byte) if room > 1 => {
                out.put(&[b'^', byte ^ 0o100]);
                self.column = self.column.wrapping_add(2);
                2
            }
            Note::MoveBack => {
                self.column = self.column.saturating_sub(1);
                0
            }
            Note::LineBegins => {
                self.canon_column = self.column;
                0
            }
            Note::EraseTab(columns) => {
                let from = if columns & AFTER_TAB == 0 { self.canon_column } else { 0 };
                let back = 8 - (u32::from(columns).wrapping_add(from) & 7);
                let bytes = [8; 8];
                let bytes = bytes.get(..usize::try_from(back).unwrap_or(8)).unwrap_or(&bytes);
                if room < bytes.len() {
                    return None;
                }
                out.put(bytes);
                self.column = self.column.saturating_sub(back);
                bytes.len()
            }
            Note::Byte(_) | Note::Escape | Note::Control(_) => return None,
        };
        Some(used)
    }
}
