//! The time-stamp counter.

/// The counter about now: it may be read some instructions early.
pub fn read_loosely() -> u64 {
    // SAFETY: as in `read`.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The counter now, not read before what precedes it has been executed.
pub fn read() -> u64 {
    // SAFETY: every x86-64 CPU has SSE2; the instruction only orders others.
    unsafe { core::arch::x86_64::_mm_lfence() };
    // SAFETY: every x86-64 CPU has the counter, and Linux lets user code read it unless the process asked otherwise.
    unsafe { core::arch::x86_64::_rdtsc() }
}
