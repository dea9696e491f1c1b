//! The XSAVE area in its standard format: Intel SDM vol. 1, chapter 13.

use alloc::vec;
use alloc::vec::Vec;

use super::cpuid;
use super::regs::FpuState;

/// Bytes of the legacy region (the FXSAVE image).
pub const LEGACY_LEN: usize = 512;
/// Bytes of legacy region and header.
pub const HEADER_END: usize = 576;
/// Offset of XSTATE_BV, which says which components hold state.
pub const XSTATE_BV: usize = 512;
/// x87 and SSE, the components of the legacy region.
pub const FPSSE: u64 = 3;

const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const MXCSR_DEFAULT: u32 = 0x1f80;
/// Bits of MXCSR that every CPU with XSAVE has.
const MXCSR_BITS: u32 = 0xffff;
/// And the one that only some have (AMD's misaligned SSE mode); elsewhere the platform takes it out.
const MXCSR_MM: u32 = 1 << 17;
/// Bytes of the legacy region that hold no state: software's.
const SOFTWARE: core::ops::Range<usize> = 464..512;
const FCW_DEFAULT: u16 = 0x37f;
/// Components that a process must ask its kernel for (AMX tiles): never part of our images.
const ON_DEMAND: u64 = 1 << 17 | 1 << 18;
const ALIGN: usize = 8;

/// Which components an image has and how long it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XsaveLayout {
    /// Components, as bits of XCR0.
    pub features: u64,
    /// Bytes of an image.
    pub size: usize,
}

/// An image that a CPU would refuse to load, or that is too short to be one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalid;

impl XsaveLayout {
    /// The layout of the CPU this runs on: the components that the host's kernel enabled, less those on demand.
    pub fn host() -> Self {
        if !cpuid::has_xsave() {
            return Self { features: FPSSE, size: LEGACY_LEN };
        }
        let (low, high): (u32, u32);
        // SAFETY: 1. OSXSAVE was just seen in CPUID, so the instruction exists and is enabled. 2. It only reads XCR0.
        unsafe {
            core::arch::asm!("xgetbv", in("ecx") 0_u32, out("eax") low, out("edx") high, options(nomem, nostack));
        }
        let features = (u64::from(high) << 32 | u64::from(low)) & !ON_DEMAND;
        let mut size = HEADER_END;
        for bit in (2..63_u32).filter(|bit| features & 1 << bit != 0) {
            let leaf = core::arch::x86_64::__cpuid_count(0xd, bit);
            size = size.max(leaf.ebx as usize + leaf.eax as usize);
        }
        Self { features, size: size.next_multiple_of(ALIGN) }
    }

    /// The state that a new program and a signal handler start with.
    pub fn initial(&self) -> FpuState {
        let mut image = vec![0; self.size];
        put(&mut image, 0, &FCW_DEFAULT.to_le_bytes());
        put(&mut image, MXCSR, &MXCSR_DEFAULT.to_le_bytes());
        put(&mut image, MXCSR_MASK, &MXCSR_BITS.to_le_bytes());
        if self.size >= HEADER_END {
            put(&mut image, XSTATE_BV, &FPSSE.to_le_bytes());
        }
        FpuState { image }
    }

    /// Checks `bytes` as `xrstor` with the components `wanted` would: reserved bits of MXCSR and of the header. The
    /// result is a whole image; components that are not wanted are in their initial state.
    pub fn accept(&self, bytes: &[u8], wanted: u64) -> Result<FpuState, Invalid> {
        let legacy = bytes.get(..LEGACY_LEN).ok_or(Invalid)?;
        let mxcsr = get_u32(legacy, MXCSR).ok_or(Invalid)?;
        if mxcsr & !(MXCSR_BITS | MXCSR_MM) != 0 {
            return Err(Invalid);
        }
        let mut image = vec![0; self.size];
        match bytes.get(..self.size) {
            Some(whole) if self.size >= HEADER_END => {
                put(&mut image, 0, whole);
                let present = get_u64(whole, XSTATE_BV).ok_or(Invalid)?;
                let reserved = whole.get(XSTATE_BV + 8..HEADER_END).ok_or(Invalid)?;
                if present & !self.features != 0 || reserved.iter().any(|&byte| byte != 0) {
                    return Err(Invalid);
                }
                put(&mut image, XSTATE_BV, &(present & wanted).to_le_bytes());
            }
            _ => {
                put(&mut image, 0, legacy);
                if self.size >= HEADER_END {
                    put(&mut image, XSTATE_BV, &(FPSSE & wanted).to_le_bytes());
                }
            }
        }
        put(&mut image, SOFTWARE.start, &[0; SOFTWARE.end - SOFTWARE.start]);
        Ok(FpuState { image })
    }
}

pub(crate) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = image.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The FXSAVE part of an image, as `PTRACE_GETFPREGS` gives it.
pub fn fxsave(state: &FpuState) -> Option<Vec<u8>> {
    state.image.get(..LEGACY_LEN).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::{FPSSE, HEADER_END, Invalid, LEGACY_LEN, XSTATE_BV, XsaveLayout, put};

    const LAYOUT: XsaveLayout = XsaveLayout { features: 7, size: 832 };

    #[test]
    fn the_initial_state_is_accepted_unchanged() {
        for layout in [LAYOUT, XsaveLayout::host()] {
            let initial = layout.initial();
            assert_eq!(layout.accept(&initial.image, layout.features), Ok(initial));
        }
    }

    #[test]
    fn what_a_cpu_refuses_is_refused() {
        let good = LAYOUT.initial().image;
        for (at, value) in [(27, 1_u8), (XSTATE_BV, 0x80), (XSTATE_BV + 8, 1), (HEADER_END - 1, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(LAYOUT.accept(&bad, u64::MAX), Err(Invalid), "byte {at}");
        }
        assert_eq!(LAYOUT.accept(&good[..LEGACY_LEN - 1], u64::MAX), Err(Invalid));
    }

    #[test]
    fn legacy_state_alone_leaves_the_rest_initial() {
        let mut bytes = LAYOUT.initial().image;
        put(&mut bytes, XSTATE_BV, &7_u64.to_le_bytes());
        let state = LAYOUT.accept(&bytes[..LEGACY_LEN], FPSSE).unwrap();
        assert_eq!(state.image[XSTATE_BV], 3);
        assert!(state.image[HEADER_END..].iter().all(|&byte| byte == 0));
    }
}
