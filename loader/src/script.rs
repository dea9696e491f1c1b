//! `#!` lines: from the file that was named to the program that runs.
//!
//! The rules are those of Linux's `binfmt_script`: the line must end within the first 256 bytes, or at least the
//! interpreter's path must; there is at most one argument, which keeps its inner blanks; nesting is bounded.

use abi::Errno;

use crate::plan::ExecFile;

/// Bytes of a file that decide what it is (`BINPRM_BUF_SIZE`).
const HEAD_LEN: usize = 256;
/// Largest number of `#!` files in a row; one more is `ELOOP`.
const MAX_SCRIPTS: usize = 5;

/// A program found behind any number of scripts.
#[derive(Clone, Debug)]
pub struct Program<F> {
    /// The program's file: not a script.
    pub file: F,
    /// Its arguments, after the rewriting that each script does.
    pub argv: Vec<Vec<u8>>,
    /// Path of the program's file: the one that was asked for, or what the last `#!` line named.
    pub path: Vec<u8>,
}

/// What a `#!` line says.
#[derive(PartialEq, Eq, Debug)]
struct Line<'a> {
    interpreter: &'a [u8],
    argument: Option<&'a [u8]>,
}

/// Follows `#!` lines from `file`, which was opened under the name `path`, to a file that is none. `open` opens an
/// interpreter for execution by the path the line gives (relative to the working directory).
///
/// Errors: `ELOOP` for too many scripts in a row, `ENOEXEC` for a malformed line, and what `open` and reading answer.
pub fn resolve<F: ExecFile>(
    file: F,
    path: &[u8],
    argv: &[Vec<u8>],
    open: &mut dyn FnMut(&[u8]) -> Result<F, Errno>,
) -> Result<Program<F>, Errno> {
    let mut argv = argv.to_vec();
    if argv.is_empty() {
        argv.push(Vec::new());
    }
    let mut program = Program { file, argv, path: path.to_vec() };
    for _ in 0..=MAX_SCRIPTS {
        let mut head = [0; HEAD_LEN];
        read_up_to(&program.file, 0, &mut head)?;
        if !head.starts_with(b"#!") {
            return Ok(program);
        }
        let line = parse(&head)?;
        let mut prefix = vec![line.interpreter.to_vec()];
        prefix.extend(line.argument.map(<[u8]>::to_vec));
        prefix.push(core::mem::take(&mut program.path));
        program.argv.splice(..1, prefix);
        program.file = open(line.interpreter)?;
        program.path = line.interpreter.to_vec();
    }
    Err(Errno::ELOOP)
}

/// Fills `buf` from `offset` on as far as the file goes; the number of bytes read.
pub(crate) fn read_up_to<F: ExecFile>(file: &F, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.checked_add(done as u64).ok_or(Errno::EINVAL)?;
        match file.read_at(at, rest)?.min(rest.len()) {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn is_terminator(byte: u8) -> bool {
    is_blank(byte) || byte == 0
}

fn parse(head: &[u8; HEAD_LEN]) -> Result<Line<'_>, Errno> {
    let body = head.get(2..).unwrap_or_default();
    // A newline counts only before the first NUL; the last byte of the buffer is never part of an unfinished line.
    let text = body.split(|&byte| byte == 0).next().unwrap_or_default();
    let line = match text.iter().position(|&byte| byte == b'\n') {
        Some(end) => text.get(..end).unwrap_or_default(),
        None => {
            let window = body.get(..HEAD_LEN - 3).unwrap_or_default();
            let name = window.iter().position(|&byte| !is_blank(byte)).ok_or(Errno::ENOEXEC)?;
            // Cut off in the middle of the interpreter's path: running another file by a prefix would be wrong.
            if !window.iter().skip(name).any(|&byte| is_terminator(byte)) {
                return Err(Errno::ENOEXEC);
            }
            window.split(|&byte| byte == 0).next().unwrap_or_default()
        }
    };
    let line = trim_start(trim_end(line));
    let name_len = line.iter().position(|&byte| is_blank(byte)).unwrap_or(line.len());
    let (interpreter, rest) = line.split_at_checked(name_len).ok_or(Errno::ENOEXEC)?;
    if interpreter.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    let argument = trim_start(rest);
    Ok(Line { interpreter, argument: (!argument.is_empty()).then_some(argument) })
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let from = bytes.iter().position(|&byte| !is_blank(byte)).unwrap_or(bytes.len());
    bytes.get(from..).unwrap_or_default()
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let to = bytes.iter().rposition(|&byte| !is_blank(byte)).map_or(0, |last| last + 1);
    bytes.get(..to).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{ExecFile, HEAD_LEN, Line, parse, resolve};
    use abi::Errno;

    fn head(text: &[u8]) -> [u8; HEAD_LEN] {
        let mut head = [0; HEAD_LEN];
        let len = text.len().min(HEAD_LEN);
        head[..len].copy_from_slice(&text[..len]);
        head
    }

    fn parsed(text: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>), Errno> {
        let head = head(text);
        parse(&head).map(|Line { interpreter, argument }| (interpreter.to_vec(), argument.map(<[u8]>::to_vec)))
    }

    #[test]
    fn a_line_has_a_path_and_at_most_one_argument() {
        assert_eq!(parsed(b"#!/bin/sh\n"), Ok((b"/bin/sh".to_vec(), None)));
        assert_eq!(parsed(b"#! \t/bin/sh \t \nx"), Ok((b"/bin/sh".to_vec(), None)));
        assert_eq!(parsed(b"#!/usr/bin/env  a  b \n"), Ok((b"/usr/bin/env".to_vec(), Some(b"a  b".to_vec()))));
        assert_eq!(parsed(b"#!/bin/sh"), Ok((b"/bin/sh".to_vec(), None)), "the file ends before the line");
    }

    #[test]
    fn an_empty_line_is_no_program() {
        assert_eq!(parsed(b"#!\n"), Err(Errno::ENOEXEC));
        assert_eq!(parsed(b"#!  \t \n"), Err(Errno::ENOEXEC));
        assert_eq!(parsed(b"#!"), Err(Errno::ENOEXEC));
    }

    #[test]
    fn a_long_line_may_lose_its_argument_but_not_its_path() {
        let mut long = b"#!/bin/sh ".to_vec();
        long.resize(600, b'a');
        let (interpreter, argument) = parsed(&long).unwrap();
        assert_eq!(interpreter, b"/bin/sh");
        assert_eq!(argument.map(|argument| argument.len()), Some(HEAD_LEN - 1 - 10));
        let mut path = b"#!".to_vec();
        path.resize(600, b'a');
        assert_eq!(parsed(&path), Err(Errno::ENOEXEC));
        assert_eq!(parsed(&[b"#!".as_slice(), &[b' '; 300]].concat()), Err(Errno::ENOEXEC));
    }

    struct Bytes(&'static [u8]);

    impl ExecFile for Bytes {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
            let rest = self.0.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }
    }

    #[test]
    fn scripts_nest_five_deep() {
        let mut left = 0;
        let mut run = |scripts: usize| {
            left = scripts;
            let mut open = |path: &[u8]| {
                assert_eq!(path, b"/i");
                left -= 1;
                Ok(Bytes(if left > 0 { b"#!/i x\n" } else { b"\x7fELF" }))
            };
            resolve(Bytes(b"#!/i x\n"), b"script", &[b"zero".to_vec(), b"one".to_vec()], &mut open)
                .map(|program| program.argv)
        };
        let argv: Vec<Vec<u8>> = [b"/i".as_slice(), b"x", b"script", b"one"].map(<[u8]>::to_vec).to_vec();
        assert_eq!(run(1), Ok(argv));
        assert_eq!(run(2).map(|argv| argv.len()), Ok(6));
        assert!(run(5).is_ok());
        assert_eq!(run(6), Err(Errno::ELOOP));
    }
}
