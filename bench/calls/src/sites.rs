//! Call instructions of our own: one that cannot be rewritten, and many that each run for the first time.

use std::arch::{asm, global_asm};
use std::io;
use std::time::Instant;

use crate::measure::{Harness, Measure, Sample};

pub(crate) const MEASURES: &[Measure] = &[
    Measure { name: "unpatchable", run: |harness| Ok(harness.each(unpatchable)) },
    Measure { name: "first-site", run: first_site },
];

/// Sites that run once in the life of a process.
const SITES: usize = 512;

/// Sites that are timed together.
const BATCH: usize = 64;

/// Bytes from one site to the next.
const STRIDE: usize = 32;

// Each site looks as compilers make them: the number loaded into a register, the call, a comparison of its result.
global_asm!(
    ".pushsection .text.bench_sites, \"ax\", @progbits",
    ".p2align 12",
    "bench_sites:",
    ".rept 512",
    ".p2align 5",
    "mov eax, 72",
    "syscall",
    "cmp rax, -4095",
    "ret",
    ".endr",
    ".popsection",
);

unsafe extern "C" {
    /// The first of the sites.
    fn bench_sites(descriptor: libc::c_int, command: libc::c_int) -> libc::c_long;
}

/// `fcntl(1, F_GETFD)` at a site that no rewriting fits: nothing loads its number just before, a jump follows just after.
pub(crate) fn unpatchable() {
    // SAFETY: 1. the call reads a flag and writes no memory; 2. what it changes is declared.
    unsafe {
        asm!(
            "nop",
            "syscall",
            "jmp 2f",
            "2:",
            inlateout("rax") libc::SYS_fcntl => _,
            in("rdi") 1,
            in("rsi") libc::F_GETFD,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
}

/// What the first execution of a site costs; only the first process of a sandbox shows it, where sites are rewritten.
fn first_site(_harness: &Harness) -> io::Result<Sample> {
    let first = bench_sites as *const () as usize;
    // The pages are mapped by reading them, so that no fault is counted.
    for page in (first..first + SITES * STRIDE).step_by(4096) {
        // SAFETY: 1. the address lies in this program's text.
        unsafe { std::ptr::read_volatile(page as *const u8) };
    }
    let mut costs = Vec::new();
    for batch in 0..SITES / BATCH {
        let started = Instant::now();
        for site in batch * BATCH..(batch + 1) * BATCH {
            let address = first + site * STRIDE;
            // SAFETY: 1. each stride begins with such a function, which the assembler aligned.
            let call: unsafe extern "C" fn(libc::c_int, libc::c_int) -> libc::c_long =
                unsafe { std::mem::transmute(address) };
            // SAFETY: 1. the call reads a flag of descriptor 1.
            unsafe { call(1, libc::F_GETFD) };
        }
        costs.push(started.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    Ok(Sample::of(costs))
}
