//! Memory of pipes, which is bounded over all of them: a guest's root may have as many as it likes, each as large as
//! `F_SETPIPE_SZ` lets it.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::Errno;

/// Most bytes of all rings together.
const ALL_BYTES: usize = 256 << 20;

/// Bytes of all rings. Relaxed: a count that guards nothing but itself.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// The bytes of one pipe; they are given back with it.
#[derive(Default)]
pub(crate) struct Ring {
    bytes: Box<[u8]>,
}

impl Ring {
    /// `size` bytes, of which `front` and then `back` are the first; `ENOMEM`, also when all pipes together have too many.
    pub(crate) fn new(size: usize, front: &[u8], back: &[u8]) -> Result<Self, Errno> {
        let more = |held: usize| held.checked_add(size).filter(|&held| held <= ALL_BYTES);
        HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Errno::ENOMEM)?;
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(size).is_err() {
            HELD.fetch_sub(size, Ordering::Relaxed);
            return Err(Errno::ENOMEM);
        }
        bytes.extend_from_slice(front);
        bytes.extend_from_slice(back);
        bytes.resize(size, 0);
        Ok(Self { bytes: bytes.into_boxed_slice() })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        HELD.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Deref for Ring {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Ring {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use abi::Errno;

    use super::{ALL_BYTES, Ring};

    #[test]
    fn all_rings_together_are_bounded() {
        // Other tests hold a little at the same time.
        let most = Ring::new(ALL_BYTES - (32 << 20), b"ab", b"c").unwrap();
        assert_eq!(most.get(..4), Some(&b"abc\0"[..]));
        assert_eq!(Ring::new(8 << 20, b"", b"").err(), None);
        assert_eq!(Ring::new(32 << 20 | 1, b"", b"").err(), Some(Errno::ENOMEM));
        drop(most);
        assert!(Ring::new(64 << 20, b"", b"").is_ok());
    }
}
