//! The routines whose instructions may fault, and the table of where to go on if they do.
//!
//! Registers: System V calling convention, no stack, direction flag clear. The copies keep the number of bytes left in
//! `rcx`, so that their fixup only moves it to `rax`. The atomics return the value they found and leave a flag behind a
//! pointer: their fixup says "faulted" there.

use core::arch::global_asm;

// Short copies go by words: `rep movsb` takes some thirty cycles to start. A fault of the word loop (which may span two
// pages, of which one is there) goes on bytewise, so that the count returned is exact.
global_asm!(
    ".text",
    ".p2align 6",
    // usize copy(dst: rdi, src: rsi, len: rdx) -> bytes left
    ".globl casemate_usermem_copy",
    ".hidden casemate_usermem_copy",
    ".type casemate_usermem_copy, @function",
    "casemate_usermem_copy:",
    "mov rcx, rdx",
    "cmp rcx, 128",
    "ja 3f",
    ".globl casemate_usermem_words_start",
    ".hidden casemate_usermem_words_start",
    "casemate_usermem_words_start:",
    "2:",
    "cmp rcx, 8",
    "jb 3f",
    "mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "sub rcx, 8",
    "jmp 2b",
    ".globl casemate_usermem_bytes_start",
    ".hidden casemate_usermem_bytes_start",
    "casemate_usermem_bytes_start:",
    "3:",
    "rep movsb",
    "mov rax, rcx",
    "ret",
    ".size casemate_usermem_copy, . - casemate_usermem_copy",
    ".p2align 4",
    // usize set(dst: rdi, value: sil, len: rdx) -> bytes left
    ".globl casemate_usermem_set",
    ".hidden casemate_usermem_set",
    ".type casemate_usermem_set, @function",
    "casemate_usermem_set:",
    "mov rcx, rdx",
    "mov eax, esi",
    "rep stosb",
    ".globl casemate_usermem_bytes_end",
    ".hidden casemate_usermem_bytes_end",
    "casemate_usermem_bytes_end:",
    ".globl casemate_usermem_left",
    ".hidden casemate_usermem_left",
    "casemate_usermem_left:",
    "mov rax, rcx",
    "ret",
    ".size casemate_usermem_set, . - casemate_usermem_set",
    // The atomics: first argument the address, last argument where the flag goes.
    ".p2align 4",
    ".globl casemate_usermem_atomics_start",
    ".hidden casemate_usermem_atomics_start",
    "casemate_usermem_atomics_start:",
    // u32 load32(rdi, value: -, flag: rdx)
    ".globl casemate_usermem_load32",
    ".hidden casemate_usermem_load32",
    "casemate_usermem_load32:",
    "mov eax, [rdi]",
    "ret",
    // u64 load64(rdi, -, rdx)
    ".globl casemate_usermem_load64",
    ".hidden casemate_usermem_load64",
    "casemate_usermem_load64:",
    "mov rax, [rdi]",
    "ret",
    // u32 swap32(rdi, value: esi, rdx); also the store: its locked write is what a futex word needs
    ".globl casemate_usermem_swap32",
    ".hidden casemate_usermem_swap32",
    "casemate_usermem_swap32:",
    "mov eax, esi",
    "xchg [rdi], eax",
    "ret",
    // u64 swap64(rdi, rsi, rdx)
    ".globl casemate_usermem_swap64",
    ".hidden casemate_usermem_swap64",
    "casemate_usermem_swap64:",
    "mov rax, rsi",
    "xchg [rdi], rax",
    "ret",
    // u32 add32(rdi, esi, rdx)
    ".globl casemate_usermem_add32",
    ".hidden casemate_usermem_add32",
    "casemate_usermem_add32:",
    "mov eax, esi",
    "lock xadd [rdi], eax",
    "ret",
    // u32 cmpxchg32(rdi, new: esi, flag: rdx, old: ecx) -> found
    ".globl casemate_usermem_cmpxchg32",
    ".hidden casemate_usermem_cmpxchg32",
    "casemate_usermem_cmpxchg32:",
    "mov eax, ecx",
    "lock cmpxchg [rdi], esi",
    "ret",
    // u64 cmpxchg64(rdi, rsi, rdx, rcx)
    ".globl casemate_usermem_cmpxchg64",
    ".hidden casemate_usermem_cmpxchg64",
    "casemate_usermem_cmpxchg64:",
    "mov rax, rcx",
    "lock cmpxchg [rdi], rsi",
    "ret",
    ".globl casemate_usermem_atomics_end",
    ".hidden casemate_usermem_atomics_end",
    "casemate_usermem_atomics_end:",
    ".globl casemate_usermem_faulted",
    ".hidden casemate_usermem_faulted",
    "casemate_usermem_faulted:",
    "mov byte ptr [rdx], 1",
    "xor eax, eax",
    "ret",
);

unsafe extern "C" {
    fn casemate_usermem_copy(dst: *mut u8, src: *const u8, len: usize) -> usize;
    fn casemate_usermem_set(dst: *mut u8, value: u32, len: usize) -> usize;
    fn casemate_usermem_load32(at: *const u32, unused: u64, faulted: *mut bool) -> u32;
    fn casemate_usermem_load64(at: *const u64, unused: u64, faulted: *mut bool) -> u64;
    fn casemate_usermem_swap32(at: *mut u32, value: u32, faulted: *mut bool) -> u32;
    fn casemate_usermem_swap64(at: *mut u64, value: u64, faulted: *mut bool) -> u64;
    fn casemate_usermem_add32(at: *mut u32, value: u32, faulted: *mut bool) -> u32;
    fn casemate_usermem_cmpxchg32(at: *mut u32, new: u32, faulted: *mut bool, old: u32) -> u32;
    fn casemate_usermem_cmpxchg64(at: *mut u64, new: u64, faulted: *mut bool, old: u64) -> u64;

    static casemate_usermem_words_start: u8;
    static casemate_usermem_bytes_start: u8;
    static casemate_usermem_bytes_end: u8;
    static casemate_usermem_left: u8;
    static casemate_usermem_atomics_start: u8;
    static casemate_usermem_atomics_end: u8;
    static casemate_usermem_faulted: u8;
}

/// Copies `len` bytes; says how many moved before a fault, if any.
///
/// # Safety
/// Neither range may be memory whose faults or changes would break Rust's rules: each is either validly borrowed for the
/// call, or address space set aside for guest data. `install` must have run if a fault is possible.
#[inline]
pub(super) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) -> usize {
    // SAFETY: the caller's promise is the routine's condition; it keeps to `len` bytes from each pointer.
    len - unsafe { casemate_usermem_copy(dst, src, len) }
}

/// Sets `len` bytes; says how many before a fault, if any.
///
/// # Safety
/// As for [`copy`], for `dst`.
#[inline]
pub(super) unsafe fn set(dst: *mut u8, value: u8, len: usize) -> usize {
    // SAFETY: as in `copy`.
    len - unsafe { casemate_usermem_set(dst, u32::from(value), len) }
}

macro_rules! atomics {
    ($($(#[$doc:meta])* $name:ident = $routine:ident($ptr:ty $(, $arg:ident: $ty:ty)*) -> $ret:ty |$at:ident, $flag:ident| $call:expr;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// The word is aligned and lies in address space set aside for guest data, and `install` has run.
            #[inline]
            pub(super) unsafe fn $name($at: $ptr $(, $arg: $ty)*) -> Option<$ret> {
                let mut faulted = false;
                let $flag = &raw mut faulted;
                // SAFETY: the caller's promise is the routine's condition; the flag is a live local.
                let found = unsafe { $call };
                (!faulted).then_some(found)
            }
        )*
    };
}

atomics! {
    /// Loads a word.
    load32 = casemate_usermem_load32(*const u32) -> u32 |at, flag| casemate_usermem_load32(at, 0, flag);
    /// Loads a double word.
    load64 = casemate_usermem_load64(*const u64) -> u64 |at, flag| casemate_usermem_load64(at, 0, flag);
    /// Stores a word and says what it replaced.
    swap32 = casemate_usermem_swap32(*mut u32, value: u32) -> u32 |at, flag| casemate_usermem_swap32(at, value, flag);
    /// Stores a double word and says what it replaced.
    swap64 = casemate_usermem_swap64(*mut u64, value: u64) -> u64 |at, flag| casemate_usermem_swap64(at, value, flag);
    /// Adds, wrapping, and says what was there.
    add32 = casemate_usermem_add32(*mut u32, value: u32) -> u32 |at, flag| casemate_usermem_add32(at, value, flag);
    /// Stores `new` if `old` is there; says what was there.
    cmpxchg32 = casemate_usermem_cmpxchg32(*mut u32, old: u32, new: u32) -> u32 |at, flag| casemate_usermem_cmpxchg32(at, new, flag, old);
    /// Stores `new` if `old` is there; says what was there.
    cmpxchg64 = casemate_usermem_cmpxchg64(*mut u64, old: u64, new: u64) -> u64 |at, flag| casemate_usermem_cmpxchg64(at, new, flag, old);
}

/// Where to go on after a fault of the instruction at `ip`; `None` if it is none of ours.
pub(super) fn fixup(ip: usize) -> Option<usize> {
    let words = (&raw const casemate_usermem_words_start).addr();
    let bytes = (&raw const casemate_usermem_bytes_start).addr();
    let bytes_end = (&raw const casemate_usermem_bytes_end).addr();
    let atomics = (&raw const casemate_usermem_atomics_start).addr();
    let atomics_end = (&raw const casemate_usermem_atomics_end).addr();
    if (words..bytes).contains(&ip) {
        Some(bytes)
    } else if (bytes..bytes_end).contains(&ip) {
        Some((&raw const casemate_usermem_left).addr())
    } else if (atomics..atomics_end).contains(&ip) {
        Some((&raw const casemate_usermem_faulted).addr())
    } else {
        None
    }
}
