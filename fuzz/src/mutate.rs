//! A small mutator for machines without libFuzzer: it changes what the corpus has, and keeps nothing.

/// A generator of numbers: the same for the same seed.
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (SplitMix64).
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `limit`, 0 for an empty range.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }
}

/// Bytes that a target has not seen: one of `corpus`, changed in a few places, or put together from two.
pub fn input(corpus: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = corpus.get(numbers.below(corpus.len())).cloned().unwrap_or_default();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(bytes.len());
        let word = match numbers.below(4) {
            0 => numbers.next(),
            1 => 1 << numbers.below(64),
            2 => u64::MAX >> numbers.below(64),
            _ => numbers.next() % 512,
        };
        match numbers.below(8) {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = word.to_le_bytes()[0];
                }
            }
            2 | 3 => {
                for (to, from) in bytes.iter_mut().skip(at).zip(word.to_le_bytes()) {
                    *to = from;
                }
            }
            4 => bytes.truncate(at),
            5 => {
                let part: Vec<u8> = bytes.iter().skip(at).take(numbers.below(64)).copied().collect();
                bytes.splice(at..at, part);
            }
            6 => bytes.extend(word.to_le_bytes()),
            _ => {
                let other = corpus.get(numbers.below(corpus.len())).map_or(&[][..], Vec::as_slice);
                let from = numbers.below(other.len());
                bytes.truncate(at);
                bytes.extend(other.iter().skip(from));
            }
        }
    }
    bytes.truncate(1 << 16);
    bytes
}
