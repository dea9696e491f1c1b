//! Segment bases: thread-local storage.

/// First address that is no user address with four-level page tables.
const USER_END: u64 = 0x7fff_ffff_f000;

/// Whether a task may set its FS or GS base to `base`: `arch_prctl(2)` answers EPERM for other values.
pub const fn is_valid_base(base: u64) -> bool {
    base < USER_END
}
