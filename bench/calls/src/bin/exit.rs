//! A program that does nothing; built static, it is what the vfork+exec measure starts.
#![no_main]

/// The C library's entry point; success is all it says.
// SAFETY: 1. no other item of this program is called `main`.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> libc::c_int {
    0
}
