//! The vDSO: its image, its data page, and the clock parameters that the kernel puts there.
//!
//! The code is compiled from `vdso/vdso.rs` by the build script. A process sees one data page and, right above it, the
//! image. The data page is one page for the whole sandbox, mapped read-only and never writable for a guest; the kernel
//! writes it through [`Publisher::publish`] from parameters that a [`Timekeeper`] makes. A page of zeros is valid: every function
//! then makes the real call.

mod clock;
#[path = "../../vdso/data.rs"]
pub mod data;

use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};

pub use clock::{ClockParams, Reading, Sample, Timekeeper};
use data::{CLOCK_CALL, CLOCK_TSC, VdsoData};

/// The shared object, a whole number of pages.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.img"));

/// Bytes of the data page, and the distance from its start to the image.
pub const CODE_OFFSET: u64 = 4096;
/// Bytes of data page and image together.
pub const MAPPED_LEN: u64 = CODE_OFFSET + IMAGE.len() as u64;

/// The data page as the kernel sees it: atomic stores at an offset within it.
pub trait DataPage {
    /// Stores four bytes.
    fn store_u32(&self, offset: usize, value: u32, order: Ordering);
    /// Stores eight bytes.
    fn store_u64(&self, offset: usize, value: u64, order: Ordering);
}

/// Where [`Publisher::publish`] stands in the sequence of changes. One per page; whoever holds it is the page's only writer.
#[derive(Debug, Default)]
pub struct Publisher {
    seq: u32,
}

/// How guests learn which CPU they run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuMode {
    /// By the call.
    Call,
    /// From the limit of segment 0x7b, which holds it when guest code runs in a process of a Linux host.
    Segment,
}

impl Publisher {
    /// Puts `params` on the page; `None` makes every reader call the kernel.
    pub fn publish(&mut self, page: &dyn DataPage, params: Option<&ClockParams>) {
        let odd = self.seq.wrapping_add(1);
        self.seq = self.seq.wrapping_add(2);
        page.store_u32(offset_of!(VdsoData, seq), odd, Ordering::Relaxed);
        // Keeps the stores below after the odd number: pairs with the Acquire fence of readers in the vDSO.
        fence(Ordering::Release);
        if let Some(params) = params {
            let values = [
                (offset_of!(VdsoData, base_tsc), params.base_tsc),
                (offset_of!(VdsoData, expires_tsc), params.expires_tsc),
                (offset_of!(VdsoData, mult), params.mult),
                (offset_of!(VdsoData, monotonic_ns), params.base.monotonic_ns),
                (offset_of!(VdsoData, realtime_ns), params.base.realtime_ns),
                (offset_of!(VdsoData, boottime_ns), params.base.boottime_ns),
            ];
            for (offset, value) in values {
                page.store_u64(offset, value, Ordering::Relaxed);
            }
        }
        let mode = if params.is_some() { CLOCK_TSC } else { CLOCK_CALL };
        page.store_u32(offset_of!(VdsoData, clock_mode), mode, Ordering::Relaxed);
        // Release: pairs with the first Acquire load of `seq` by readers in the vDSO.
        page.store_u32(offset_of!(VdsoData, seq), self.seq, Ordering::Release);
    }

    /// Says how `getcpu(2)` is answered.
    pub fn set_cpu_mode(&mut self, page: &dyn DataPage, mode: CpuMode) {
        let value = match mode {
            CpuMode::Call => data::CPU_CALL,
            CpuMode::Segment => data::CPU_LSL,
        };
        page.store_u32(offset_of!(VdsoData, cpu_mode), value, Ordering::Relaxed);
    }
}

static_assertions::const_assert!(IMAGE.len().is_multiple_of(4096));
static_assertions::const_assert!(!IMAGE.is_empty());
static_assertions::const_assert!(size_of::<VdsoData>() <= CODE_OFFSET as usize);
