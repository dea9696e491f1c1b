//! Output: what programs print, on its way to the terminal.

use abi::tty::OutputModes;

use crate::{Discipline, Effects, Output, is_control, upper};

/// Output with the bits of `OutputModes` in which a tab is spaces (`XTABS`).
const SPACES: OutputModes = OutputModes::TABDLY;

impl Discipline {
    /// Prints a prefix of `bytes`, as much as there is room for; says how much.
    pub fn write(&mut self, bytes: &[u8], out: &mut dyn Output) -> (usize, Effects) {
        self.process_echoes(out);
        if self.is_stopped() {
            return (0, self.take_effects());
        }
        let written = if self.modes.output.contains(OutputModes::OPOST) {
            self.write_processed(bytes, out)
        } else {
            let part = bytes.get(..out.room()).unwrap_or(bytes);
            out.put(part);
            part.len()
        };
        (written, self.take_effects())
    }

    fn write_processed(&mut self, bytes: &[u8], out: &mut dyn Output) -> usize {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            // Runs go out in one piece.
            let run = self.plain_run(rest.get(..out.room()).unwrap_or(rest));
            if run > 0 {
                out.put(rest.get(..run).unwrap_or_default());
                done += run;
                continue;
            }
            let Some(&byte) = rest.first() else { break };
            if put_processed(self, byte, out.room(), out).is_none() {
                break;
            }
            done += 1;
        }
        done
    }

    /// How many bytes at the start pass as they are; the column follows.
    fn plain_run(&mut self, bytes: &[u8]) -> usize {
        let capitals = self.modes.output.contains(OutputModes::OLCUC);
        let plain = |byte: u8| !is_control(byte) && !capitals;
        let run = bytes.iter().position(|&byte| !plain(byte)).unwrap_or(bytes.len());
        let columns = match self.modes.input.contains(abi::tty::InputModes::IUTF8) {
            false => run,
            true => bytes.iter().take(run).filter(|&&byte| byte & 0xc0 != 0x80).count(),
        };
        self.column = self.column.wrapping_add(u32::try_from(columns).unwrap_or(u32::MAX));
        run
    }
}

/// Prints one byte by the modes of output; says how much room that took, or that there is too little.
pub(crate) fn put_processed(of: &mut Discipline, byte: u8, room: usize, out: &mut dyn Output) -> Option<usize> {
    if room == 0 {
        return None;
    }
    let modes = of.modes.output;
    let mut shown = byte;
    match byte {
        b'\n' => {
            if modes.contains(OutputModes::ONLRET) {
                of.column = 0;
            }
            if modes.contains(OutputModes::ONLCR) {
                if room < 2 {
                    return None;
                }
                (of.column, of.canon_column) = (0, 0);
                out.put(b"\r\n");
                return Some(2);
            }
            of.canon_column = of.column;
        }
        b'\r' => {
            if modes.contains(OutputModes::ONOCR) && of.column == 0 {
                return Some(0);
            }
            if modes.contains(OutputModes::OCRNL) {
                shown = b'\n';
                if modes.contains(OutputModes::ONLRET) {
                    (of.column, of.canon_column) = (0, 0);
                }
            } else {
                (of.column, of.canon_column) = (0, 0);
            }
        }
        b'\t' => {
            let columns = 8 - (of.column & 7);
            if modes.contains(SPACES) {
                let spaces = [b' '; 8];
                let spaces = spaces.get(..usize::try_from(columns).unwrap_or(8)).unwrap_or(&spaces);
                if room < spaces.len() {
                    return None;
                }
                of.column = of.column.wrapping_add(columns);
                out.put(spaces);
                return Some(spaces.len());
            }
            of.column = of.column.wrapping_add(columns);
        }
        8 => of.column = of.column.saturating_sub(1),
        _ if is_control(byte) => {}
        _ => {
            if modes.contains(OutputModes::OLCUC) {
                shown = upper(byte);
            }
            // Of what is shown, even where that is another character's byte.
            if !of.modes.is_continuation(shown) {
                of.column = of.column.wrapping_add(1);
            }
        }
    }
    out.put(&[shown]);
    Some(1)
}
