//! The data page of the vDSO. One source for both sides: the kernel, which writes it, and the vDSO, which is linked
//! alone and cannot depend on a crate.
//!
//! A sequence lock: `seq` is odd while the rest changes. Everything is an atomic, so that a torn read is a wrong number
//! that the lock then rejects and not undefined behaviour.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// Contents of the page, from its first byte on. All zeros is valid and means "call the kernel".
#[repr(C)]
#[derive(Debug, Default)]
pub struct VdsoData {
    /// Odd while the clock parameters are being written.
    pub seq: AtomicU32,
    /// [`CLOCK_CALL`] or [`CLOCK_TSC`].
    pub clock_mode: AtomicU32,
    /// Time-stamp counter at which the bases hold.
    pub base_tsc: AtomicU64,
    /// First time-stamp counter value for which the parameters no longer hold.
    pub expires_tsc: AtomicU64,
    /// Nanoseconds per tick, times 2^32.
    pub mult: AtomicU64,
    /// `CLOCK_MONOTONIC` at `base_tsc`, in nanoseconds.
    pub monotonic_ns: AtomicU64,
    /// `CLOCK_REALTIME` at `base_tsc`, in nanoseconds since the epoch.
    pub realtime_ns: AtomicU64,
    /// `CLOCK_BOOTTIME` at `base_tsc`, in nanoseconds.
    pub boottime_ns: AtomicU64,
    /// [`CPU_CALL`] or [`CPU_LSL`]; not part of what `seq` guards.
    pub cpu_mode: AtomicU32,
    /// Fills the structure up.
    pub reserved: AtomicU32,
}

/// `clock_mode`: make the system call.
pub const CLOCK_CALL: u32 = 0;
/// `clock_mode`: compute from the time-stamp counter.
pub const CLOCK_TSC: u32 = 1;
/// `cpu_mode`: make the system call.
pub const CPU_CALL: u32 = 0;
/// `cpu_mode`: the limit of segment 0x7b holds CPU and node, as on a Linux host.
pub const CPU_LSL: u32 = 1;
