//! A program that does nothing; built static, it is what the vfork+exec measure starts. With an argument it first sleeps until
//! its standard input ends.
#![no_main]

use std::io::Read as _;

use libc::{c_char, c_int};

/// The C library's entry point; success is all it says.
// SAFETY: 1. no other item of this program is called `main`.
#[unsafe(no_mangle)]
pub extern "C" fn main(arguments: c_int, _words: *const *const c_char) -> c_int {
    if arguments > 1 {
        let _ = std::io::stdin().read(&mut [0]);
    }
    0
}
