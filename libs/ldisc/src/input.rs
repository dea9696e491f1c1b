//! Input: what is typed, on its way to programs.

use abi::tty::{
    InputModes, LocalModes, VEOF, VEOL, VEOL2, VERASE, VINTR, VKILL, VLNEXT, VQUIT, VREPRINT, VSTART, VSTOP, VSUSP,
    VWERASE,
};

use crate::{BUFFER, DISABLED, Discipline, Effects, Output, is_alphanumeric, is_control, lower};

/// What an erasing key erases.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Erase {
    Character,
    Word,
    Line,
}

/// Whether readers look for a poll, which `VMIN` concerns, or to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// `poll(2)`: a read would have all that it waits for.
    Poll,
    /// Anything to read.
    Read,
}

impl Discipline {
    /// Takes a prefix of what was typed, as much as there is room for; says how much.
    pub fn receive(&mut self, bytes: &[u8], out: &mut dyn Output) -> (usize, Effects) {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let room = self.room();
            let part = rest.get(..room).unwrap_or(rest);
            if part.is_empty() {
                break;
            }
            self.receive_part(part, out);
            done += part.len();
        }
        (done, self.take_effects())
    }

    /// How many bytes may come. A line that is too long takes more, each in the place of the last: it must be possible to
    /// erase it and to end it.
    fn room(&mut self) -> usize {
        let free = BUFFER.saturating_sub(self.input.len());
        // Each byte may take more than one place.
        let free = if self.modes.input.contains(InputModes::PARMRK) { free.div_ceil(3) } else { free };
        if free > 1 {
            return free - 1;
        }
        let overflows = self.modes.is_canonical() && !self.input.has_line();
        if overflows && free == 0 {
            self.input.drop_last();
        }
        usize::from(overflows)
    }

    fn receive_part(&mut self, bytes: &[u8], out: &mut dyn Output) {
        if self.modes.is_raw() {
            self.input.extend(bytes);
        } else {
            for &byte in bytes {
                self.receive_byte(byte, out);
            }
            self.flush_echoes(out);
        }
        if self.modes.is_canonical() {
            return;
        }
        self.input.commit();
        if self.input.committed() > 0 {
            self.effects.readable = true;
        }
    }

    fn receive_byte(&mut self, byte: u8, out: &mut dyn Output) {
        let mut byte = byte;
        if self.modes.input.contains(InputModes::ISTRIP) {
            byte &= 0x7f;
        }
        if self.modes.input.contains(InputModes::IUCLC) && self.modes.is_extended() {
            byte = lower(byte);
        }
        if std::mem::take(&mut self.literal_next) {
            self.receive_plain(byte, out);
        } else if self.modes.is_special(byte) {
            self.receive_special(byte, out);
        } else {
            self.receive_plain(byte, out);
        }
    }

    fn receive_plain(&mut self, byte: u8, out: &mut dyn Output) {
        self.start_by_any(out);
        self.echo_and_queue(byte, out);
    }

    fn start_by_any(&mut self, out: &mut dyn Output) {
        let by_any = self.modes.flow_keys() && self.modes.input.contains(InputModes::IXANY);
        if self.stops.key && !self.stops.call && by_any {
            self.start_by_key(out);
        }
    }

    fn echo_and_queue(&mut self, byte: u8, out: &mut dyn Output) {
        if self.modes.echoes() {
            self.finish_erasing();
            if self.input.line_is_empty() {
                self.echo.line_begins();
            }
            self.echo(byte);
            self.commit_echoes(out);
        }
        self.queue(byte);
    }

    /// With PARMRK, 0xff begins a mark, and stands for itself when there are two.
    fn queue(&mut self, byte: u8) {
        if byte == 0xff && self.modes.input.contains(InputModes::PARMRK) {
            self.input.push(byte);
        }
        self.input.push(byte);
    }

    fn receive_special(&mut self, byte: u8, out: &mut dyn Output) {
        let is = |index: usize| self.modes.is_char(byte, index);
        if self.modes.flow_keys() && is(VSTART) {
            self.start_by_key(out);
            return;
        }
        if self.modes.flow_keys() && is(VSTOP) {
            self.stop_by_key();
            return;
        }
        if self.modes.has(LocalModes::ISIG) && (is(VINTR) || is(VQUIT) || is(VSUSP)) {
            self.signal(byte, out);
            return;
        }
        self.start_by_any(out);
        let input = self.modes.input;
        let byte = match byte {
            b'\r' if input.contains(InputModes::IGNCR) => return,
            b'\r' if input.contains(InputModes::ICRNL) => b'\n',
            b'\n' if input.contains(InputModes::INLCR) => b'\r',
            byte => byte,
        };
        if self.modes.is_canonical() && self.edit(byte, out) {
            return;
        }
        if byte == b'\n' {
            if self.modes.echoes() {
                self.finish_erasing();
                self.echo.raw(b'\n');
                self.commit_echoes(out);
            }
            self.queue(byte);
        } else {
            self.echo_and_queue(byte, out);
        }
    }

    fn signal(&mut self, byte: u8, out: &mut dyn Output) {
        let keys = &mut self.effects.signals;
        if self.modes.is_char(byte, VINTR) {
            keys.interrupt = true;
        } else if self.modes.is_char(byte, VQUIT) {
            keys.quit = true;
        } else {
            keys.suspend = true;
        }
        if !self.modes.has(LocalModes::NOFLSH) {
            out.flush();
            self.effects.output_flushed = true;
            self.echo.clear();
            self.forget_input();
            self.effects.input_flushed = true;
        }
        if self.modes.flow_keys() {
            self.start_by_key(out);
        }
        if self.modes.echoes() {
            self.echo(byte);
            self.commit_echoes(out);
        } else {
            self.process_echoes(out);
        }
    }

    /// Edits the line if `byte` is a key for that.
    fn edit(&mut self, byte: u8, out: &mut dyn Output) -> bool {
        let extended = self.modes.is_extended();
        let is = |index: usize| self.modes.is_char(byte, index) && byte != DISABLED;
        if is(VERASE) || is(VKILL) || (extended && is(VWERASE)) {
            let what = if is(VERASE) {
                Erase::Character
            } else if extended && is(VWERASE) {
                Erase::Word
            } else {
                Erase::Line
            };
            self.erase(what);
            self.commit_echoes(out);
        } else if extended && is(VLNEXT) {
            self.literal_next = true;
            if self.modes.echoes() {
                self.finish_erasing();
                if self.modes.has(LocalModes::ECHOCTL) {
                    self.echo.raw(b'^');
                    self.echo.raw(8);
                    self.commit_echoes(out);
                }
            }
        } else if extended && self.modes.echoes() && is(VREPRINT) {
            self.finish_erasing();
            self.echo(byte);
            self.echo.raw(b'\n');
            let mut position = self.input.canon();
            while position != self.input.head() {
                self.echo(self.input.at(position));
                position = position.wrapping_add(1);
            }
            self.commit_echoes(out);
        } else if byte == b'\n' {
            if self.modes.echoes() || self.modes.has(LocalModes::ECHONL) {
                self.echo.raw(b'\n');
                self.commit_echoes(out);
            }
            self.end_line(byte);
        } else if is(VEOF) {
            self.end_line(DISABLED);
        } else if is(VEOL) || (extended && is(VEOL2)) {
            if self.modes.echoes() {
                if self.input.line_is_empty() {
                    self.echo.line_begins();
                }
                self.echo(byte);
                self.commit_echoes(out);
            }
            if byte == 0xff && self.modes.input.contains(InputModes::PARMRK) {
                self.input.push(byte);
            }
            self.end_line(byte);
        } else {
            return false;
        }
        true
    }

    fn end_line(&mut self, byte: u8) {
        self.input.push_end(byte);
        self.effects.readable = true;
    }

    fn finish_erasing(&mut self) {
        if std::mem::take(&mut self.erasing) {
            self.echo.raw(b'/');
        }
    }

    fn erase(&mut self, what: Erase) {
        if self.input.line_is_empty() {
            return;
        }
        let modes = self.modes;
        let echoes = modes.echoes();
        if what == Erase::Line {
            if !echoes {
                self.input.cut(self.input.canon());
                return;
            }
            if !modes.has(LocalModes::ECHOK | LocalModes::ECHOKE | LocalModes::ECHOE) {
                self.input.cut(self.input.canon());
                self.finish_erasing();
                self.echo(modes.chars[VKILL]);
                if modes.has(LocalModes::ECHOK) {
                    self.echo.raw(b'\n');
                }
                return;
            }
        }
        let mut seen_word = false;
        while !self.input.line_is_empty() {
            let Some(at) = self.last_character() else { break };
            let first = self.input.at(at);
            if what == Erase::Word {
                if is_alphanumeric(first) || first == b'_' {
                    seen_word = true;
                } else if seen_word {
                    break;
                }
            }
            let end = self.input.head();
            self.input.cut(at);
            if echoes {
                self.echo_erasure(what, first, end);
            }
            if what == Erase::Character {
                break;
            }
        }
        if self.input.line_is_empty() && echoes {
            self.finish_erasing();
        }
    }

    /// Where the last character of the line begins; none where its beginning is not in the line.
    fn last_character(&self) -> Option<usize> {
        let mut at = self.input.head();
        loop {
            at = at.wrapping_sub(1);
            if !self.modes.is_continuation(self.input.at(at)) {
                return Some(at);
            }
            if at == self.input.canon() {
                return None;
            }
        }
    }

    /// Shows that a character is gone which reached from the end of the line to `end` and begins with `first`.
    fn echo_erasure(&mut self, what: Erase, first: u8, end: usize) {
        if self.modes.has(LocalModes::ECHOPRT) {
            if !self.erasing {
                self.echo.raw(b'\\');
                self.erasing = true;
            }
            self.echo(first);
            let mut at = self.input.head().wrapping_add(1);
            while at != end {
                self.echo.raw(self.input.at(at));
                self.echo.move_back();
                at = at.wrapping_add(1);
            }
        } else if what == Erase::Character && !self.modes.has(LocalModes::ECHOE) {
            self.echo(self.modes.chars[VERASE]);
        } else if first == b'\t' {
            self.echo_erased_tab();
        } else {
            let shows_control = self.modes.has(LocalModes::ECHOCTL);
            let columns = match (is_control(first), shows_control) {
                (true, true) => 2,
                (true, false) => 0,
                (false, _) => 1,
            };
            for _ in 0..columns {
                for byte in *b"\x08 \x08" {
                    self.echo.raw(byte);
                }
            }
        }
    }

    /// A tab is as wide as what stands before it in the line makes it.
    fn echo_erased_tab(&mut self) {
        let mut columns = 0_u8;
        let mut at = self.input.head();
        let mut after_tab = false;
        while at != self.input.canon() {
            at = at.wrapping_sub(1);
            let byte = self.input.at(at);
            if byte == b'\t' {
                after_tab = true;
                break;
            } else if is_control(byte) {
                if self.modes.has(LocalModes::ECHOCTL) {
                    columns = columns.wrapping_add(2);
                }
            } else if !self.modes.is_continuation(byte) {
                columns = columns.wrapping_add(1);
            }
        }
        self.echo.erase_tab(columns, after_tab);
    }

    /// Whether there is something for readers.
    pub fn is_readable(&self, look: Look) -> bool {
        if self.modes.is_canonical() {
            return self.input.has_line();
        }
        let wanted = match look {
            Look::Poll if self.modes.time() == 0 && self.modes.min() > 0 => usize::from(self.modes.min()),
            _ => 1,
        };
        self.input.committed() >= wanted
    }

    /// How many bytes a read could give, `FIONREAD`.
    pub fn readable_bytes(&self) -> usize {
        if self.modes.is_canonical() { self.input.line_bytes() } else { self.input.len() }
    }

    /// Gives at most `most` bytes, no more than a line where input has lines, to `sink`, which says how many it took. 0 at
    /// the end of file, and when there is nothing: ask [`Discipline::is_readable`] first.
    pub fn read<E>(&mut self, most: usize, sink: &mut dyn FnMut(&[u8]) -> Result<usize, E>) -> Result<usize, E> {
        if most == 0 {
            return Ok(0);
        }
        if self.modes.is_canonical() { self.input.read_line(most, sink) } else { self.input.read_raw(most, sink) }
    }
}
