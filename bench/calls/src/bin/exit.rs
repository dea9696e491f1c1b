//! A program that does nothing; built static, it is what the vfork+exec measure starts. With an argument it first sleeps until
//! its standard input ends.
#![no_main]

use libc::{c_char, c_int};

/// The C library's entry point; success is all it says.
// SAFETY: 1. no other item of this program is called `main`.
#[unsafe(no_mangle)]
pub extern "C" fn main(arguments: c_int, _words: *const *const c_char) -> c_int {
    let mut byte = 0_u8;
    // SAFETY: 1. the byte lives and is as long as said.
    while arguments > 1 && unsafe { libc::read(libc::STDIN_FILENO, (&raw mut byte).cast(), 1) } == 1 {}
    0
}
