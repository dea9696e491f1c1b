//! What this CPU can do, as far as guests are told or our own code depends on it.

use core::arch::x86_64::{__cpuid, __cpuid_count};

/// `AT_HWCAP` on x86: EDX of leaf 1.
pub fn hwcap() -> u64 {
    u64::from(__cpuid(1).edx)
}

/// `AT_HWCAP2`: `rdfsbase` and its kin, which every supported host kernel enables where the CPU has them.
pub fn hwcap2() -> u64 {
    if has_fsgsbase() { abi::auxv::HWCAP2_FSGSBASE } else { 0 }
}

/// Whether user code can read and write the FS and GS bases.
pub fn has_fsgsbase() -> bool {
    max_leaf() >= 7 && __cpuid_count(7, 0).ebx & 1 != 0
}

/// Whether the time-stamp counter ticks at one rate in all power states.
pub fn has_invariant_tsc() -> bool {
    max_extended_leaf() >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0
}

/// Whether `rdtscp` exists, which also reads the CPU number.
pub fn has_rdtscp() -> bool {
    max_extended_leaf() >= 0x8000_0001 && __cpuid(0x8000_0001).edx & 1 << 27 != 0
}

/// Whether XSAVE is there and the host's kernel uses it.
pub fn has_xsave() -> bool {
    // OSXSAVE
    __cpuid(1).ecx & 1 << 27 != 0
}

fn max_leaf() -> u32 {
    __cpuid(0).eax
}

fn max_extended_leaf() -> u32 {
    __cpuid(0x8000_0000).eax
}
