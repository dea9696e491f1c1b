//! Fuzz targets: what the guest controls byte by byte, each parser a plain function of bytes.
//!
//! A target returns, whatever it is given; a panic is a finding, and so is one that does not come back. Tests run the corpus
//! and properties; `cargo xtask fuzz NAME` runs one for as long as one likes, with libFuzzer where a nightly toolchain and
//! cargo-fuzz are, else with [`mutate`].
//!
//! | name | bytes |
//! | --- | --- |
//! | `elf` | a program |
//! | `script` | a file with a `#!` line, and the files that it names |
//! | `path` | a path that is walked, opened, made, removed in a small tree |
//! | `calls` | system calls, their arguments, and the memory that these point to: vectors, strings, structures with a size, address and poll arrays, messages, signal frames; each call is traced too |
#![forbid(unsafe_code)]

mod calls;
pub mod mutate;
mod path;

/// A name and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] =
    &[("elf", loader::fuzz::elf), ("script", loader::fuzz::script), ("path", path::path), ("calls", calls::calls)];

/// The target of this name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|target| target.0 == name).map(|target| target.1)
}
