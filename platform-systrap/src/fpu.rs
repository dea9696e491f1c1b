//! Extended state as it lies in a signal frame: an XSAVE image in the standard format.
//!
//! The image comes from memory that the guest can write and goes back there, so both directions normalise it: what
//! `xrstor` would refuse is forced to a legal value, and state that the CPU left in its initial configuration is written
//! out as such (Intel SDM vol. 1, 13.4 to 13.8).

use core::arch::x86_64::__cpuid_count;

/// Features that the host enables per process on demand (AMX tiles). Stubs never have them.
const ON_DEMAND: u64 = (1 << 17) | (1 << 18);
/// Protection key rights. Nobody can allocate a key in here, and a thread that denied itself key 0 could not even take the
/// signal that hands over; so each run starts with the host's default.
const KEY_RIGHTS: u64 = 1 << 9;
/// Legacy region and header.
const HEADER_END: usize = 576;
const XSTATE_BV: usize = 512;
const MXCSR: usize = 24;
const MXCSR_DEFAULT: u32 = 0x1f80;
const FCW_DEFAULT: u16 = 0x37f;
/// Bytes 464..512 of the legacy region: no state, the host's notes about the frame.
const SOFTWARE: core::ops::Range<usize> = 464..512;

/// The layout of the images of this host.
#[derive(Clone, Debug)]
pub(crate) struct XsaveLayout {
    /// Features of which an image holds state.
    pub(crate) features: u64,
    /// Length of an image.
    pub(crate) size: usize,
    /// Feature bit, offset and length of each component past the header.
    components: Vec<(u32, usize, usize)>,
    /// Bits of MXCSR that exist.
    mxcsr_mask: u32,
}

#[repr(C, align(16))]
struct Fxsave([u8; 512]);

impl XsaveLayout {
    /// Asks the CPU.
    pub(crate) fn probe() -> Self {
        let (low, high): (u32, u32);
        // SAFETY: xgetbv(0) is available whenever the host saves extended state with XSAVE, which `Systrap::new` has
        // checked; it reads a register.
        unsafe { core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
        let features = (u64::from(high) << 32 | u64::from(low)) & !ON_DEMAND;
        let mut size = HEADER_END;
        let mut components = Vec::new();
        for bit in 2..63 {
            if features & (1 << bit) == 0 {
                continue;
            }
            let leaf = __cpuid_count(0xd, bit);
            let (offset, len) = (leaf.ebx as usize, leaf.eax as usize);
            components.push((bit, offset, len));
            size = size.max(offset + len);
        }
        let mut area = Fxsave([0; 512]);
        // SAFETY: every x86-64 CPU has FXSAVE; the area is 512 bytes, aligned to 16.
        unsafe { core::arch::asm!("fxsave64 [{}]", in(reg) area.0.as_mut_ptr(), options(nostack)) };
        let mask = u32::from_le_bytes([area.0[28], area.0[29], area.0[30], area.0[31]]);
        Self {
            features: features & !KEY_RIGHTS,
            size: size.next_multiple_of(8),
            components,
            mxcsr_mask: if mask == 0 { 0xffbf } else { mask },
        }
    }

    /// Extended state of a new program.
    pub(crate) fn initial(&self) -> Vec<u8> {
        let mut image = vec![0; self.size];
        image[..2].copy_from_slice(&FCW_DEFAULT.to_le_bytes());
        image[MXCSR..MXCSR + 4].copy_from_slice(&MXCSR_DEFAULT.to_le_bytes());
        image
    }

    /// Makes an image that came from anywhere one that `xrstor` loads without a fault, whose every byte is what the CPU
    /// would have, and whose length is [`Self::size`].
    pub(crate) fn normalise(&self, image: &mut Vec<u8>) {
        if image.len() < HEADER_END {
            *image = self.initial();
            return;
        }
        image.resize(self.size, 0);
        let mut word = [0; 8];
        word.copy_from_slice(&image[XSTATE_BV..XSTATE_BV + 8]);
        let present = u64::from_le_bytes(word) & self.features;
        image[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&present.to_le_bytes());
        // XCOMP_BV and the reserved part of the header: zero in the standard format.
        image[XSTATE_BV + 8..HEADER_END].fill(0);
        image[SOFTWARE].fill(0);
        if present & 1 == 0 {
            let mxcsr = [image[MXCSR], image[MXCSR + 1], image[MXCSR + 2], image[MXCSR + 3]];
            image[..160].fill(0);
            image[..2].copy_from_slice(&FCW_DEFAULT.to_le_bytes());
            image[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr);
        }
        if present & 2 == 0 {
            image[160..416].fill(0);
        }
        // Without SSE and AVX state MXCSR is at its initial value, whatever the bytes say.
        let mxcsr = u32::from_le_bytes([image[MXCSR], image[MXCSR + 1], image[MXCSR + 2], image[MXCSR + 3]]);
        image[MXCSR..MXCSR + 4].copy_from_slice(&(mxcsr & self.mxcsr_mask).to_le_bytes());
        image[MXCSR + 4..MXCSR + 8].copy_from_slice(&self.mxcsr_mask.to_le_bytes());
        for &(bit, offset, len) in &self.components {
            if present & (1 << bit) == 0 {
                image[offset..offset + len].fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HEADER_END, MXCSR, XSTATE_BV, XsaveLayout};

    #[test]
    fn the_initial_image_is_normal() {
        let layout = XsaveLayout::probe();
        let mut image = layout.initial();
        layout.normalise(&mut image);
        assert_eq!(image[..2], [0x7f, 0x03]);
        assert_eq!(image[MXCSR..MXCSR + 4], [0x80, 0x1f, 0, 0]);
        assert_eq!(image.len(), layout.size);
        assert!(layout.size >= HEADER_END);
    }

    #[test]
    fn what_xrstor_refuses_is_removed() {
        let layout = XsaveLayout::probe();
        let mut image = vec![0xff; layout.size + 100];
        layout.normalise(&mut image);
        assert_eq!(image.len(), layout.size);
        assert_eq!(image[XSTATE_BV..XSTATE_BV + 8], layout.features.to_le_bytes());
        assert!(image[XSTATE_BV + 8..HEADER_END].iter().all(|byte| *byte == 0));
        assert_eq!(image[MXCSR + 2..MXCSR + 4], (layout.mxcsr_mask >> 16).to_le_bytes()[..2]);
        // The restored state must load.
        let area = Aligned::from(&image);
        // SAFETY: the area is aligned to 64 and holds a normalised image; what it loads is restored right after.
        unsafe {
            core::arch::asm!(
                "xsave64 [{save}]", "xrstor64 [{load}]", "xrstor64 [{save}]",
                save = in(reg) Aligned::from(&vec![0; layout.size]).0.as_mut_ptr(),
                load = in(reg) area.0.as_ptr(),
                in("eax") u32::MAX, in("edx") u32::MAX, options(nostack)
            );
        }
    }

    #[repr(C, align(64))]
    struct Aligned([u8; 16384]);

    impl Aligned {
        fn from(bytes: &[u8]) -> Box<Self> {
            let mut area = Box::new(Self([0; 16384]));
            area.0[..bytes.len()].copy_from_slice(bytes);
            area
        }
    }

    #[test]
    fn absent_components_read_as_zero() {
        let layout = XsaveLayout::probe();
        let mut image = vec![0xaa; layout.size];
        image[XSTATE_BV..XSTATE_BV + 8].fill(0);
        layout.normalise(&mut image);
        assert!(image[HEADER_END..].iter().all(|byte| *byte == 0));
        assert!(image[32..416].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_short_image_becomes_the_initial_one() {
        let layout = XsaveLayout::probe();
        let mut image = vec![1, 2, 3];
        layout.normalise(&mut image);
        assert_eq!(image, layout.initial());
    }
}
