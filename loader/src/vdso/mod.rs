//! The vDSO: code that answers time questions without a trap.

/// The shared object, a whole number of pages.
pub const IMAGE: &[u8] = &[];

/// Distance from the start of the data page to the code.
pub const CODE_OFFSET: u64 = 4096;
/// Bytes of data page and code together.
pub const MAPPED_LEN: u64 = CODE_OFFSET + IMAGE.len() as u64;
