//! The generator of random numbers: a seed gives one sequence, on every machine.

/// SplitMix64: a counter behind a mixing function. Small, and good enough to choose calls.
pub(crate) struct Rng(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// One step of mixing.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// A sequence of its own for each combination of `parts`.
    pub(crate) fn new(parts: &[u64]) -> Self {
        Self(parts.iter().fold(0, |state, part| mix(state ^ part.wrapping_add(STEP))))
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `values`, which are not none.
    pub(crate) fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::try_from(self.below(values.len() as u64)).unwrap_or(0)]
    }

    /// Numbers at which kernels go wrong, and some others.
    pub(crate) fn interesting(&mut self) -> u64 {
        match self.below(14) {
            0 => 0,
            1 => u64::MAX,
            2 => self.below(16),
            3 => self.below(4096),
            4 => 1 << self.below(64),
            5 => (1_u64 << self.below(64)).wrapping_sub(1),
            6 => self.below(16).wrapping_neg(),
            7 => self.next(),
            8 => self.next() & 0xffff_ffff,
            9 => self.pick(&[0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0000]),
            10 => self.pick(&[i64::MAX.cast_unsigned(), 1 << 63, (1 << 63) - 4096, 1 << 47, (1 << 47) - 4096]),
            11 => self.below(64) * 4096,
            12 => (1 << self.below(64)) | (1 << self.below(64)),
            _ => self.pick(&[4095, 4096, 4097, 65535, 65536, 1 << 20, 8, 16, 128, 1024]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn a_seed_gives_one_sequence() {
        let take = |parts: &[u64]| {
            let mut rng = Rng::new(parts);
            (0..4).map(|_| rng.next()).collect::<Vec<_>>()
        };
        assert_eq!(take(&[1, 2]), take(&[1, 2]));
        assert_ne!(take(&[1, 2]), take(&[2, 1]));
    }
}
