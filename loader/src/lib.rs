//! Turns the bytes of a program into a plan of what to map and what to write: ELF, `#!`, the auxiliary vector, the vDSO.
//!
//! Pure: bytes and randomness in, [`LoadPlan`] out. [`resolve`] follows `#!` lines to a program; [`Program::plan`] lays
//! it out; [`load`] does both. The address-space crate carries a plan out; the kernel opens files and answers for
//! permissions. Errors are those of `execve(2)` on Linux.
//!
//! **Invariants.** Nothing in a file or an argument vector can make this crate panic, loop or allocate without bound:
//! at most 64 KiB of program headers are read per file, at most six files are looked at besides the interpreter, and
//! strings are counted against the limits of `execve(2)` before they are copied.
#![forbid(unsafe_code)]

mod elf;
#[doc(hidden)]
pub mod fuzz;
mod place;
mod plan;
mod script;
mod stack;
pub mod vdso;

pub use plan::{
    ExecFile, Identity, Layout, LoadPlan, LoadRequest, MapSource, MmapDirection, PlannedMap, PlannedStack, Randomness,
    Rseq, StackAccess, Vdso,
};
pub use script::{Program, resolve};

use abi::Errno;

/// Follows `#!` lines from `file` and lays the program out: [`resolve`] and [`Program::plan`] in one step.
pub fn load<F: ExecFile>(
    request: &LoadRequest<'_>,
    file: F,
    open: &mut dyn FnMut(&[u8]) -> Result<F, Errno>,
) -> Result<LoadPlan<F>, Errno> {
    resolve(file, request.path, request.argv, open)?.plan(request, open)
}
