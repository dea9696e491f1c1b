//! The Linux user-kernel interface as types and constants, a file per UAPI family. No logic, no unsafe.
#![no_std]
#![forbid(unsafe_code)]

pub mod errno;

pub use errno::Errno;
