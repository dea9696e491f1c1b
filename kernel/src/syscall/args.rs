//! One type per argument register: how its 64 bits are read, and how a trace shows them.

use usermem::Addr;

/// When guest memory behind an argument means something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Before the call: the kernel reads it.
    Entry,
    /// After the call, if it succeeded: the kernel wrote it.
    Exit,
    /// Both: what went in is shown.
    Both,
}

/// What an argument is, as far as traces and the documentation care.
#[derive(Clone, Copy, Debug)]
pub enum ArgKind {
    /// A signed 32-bit number.
    Int,
    /// An unsigned 32-bit number.
    Uint,
    /// A signed 64-bit number.
    Long,
    /// An unsigned 64-bit number or a length.
    Ulong,
    /// A number best read in hexadecimal.
    Hex,
    /// A file mode, octal.
    Mode,
    /// A file descriptor.
    Fd,
    /// A directory descriptor or `AT_FDCWD`.
    DirFd,
    /// A guest address that is not followed.
    Addr,
    /// A NUL-terminated string.
    Str,
    /// A NULL-terminated array of pointers to strings.
    StrVec,
    /// Bytes; the next argument is how many, or how many at most (after the call, the result is).
    Bytes(When),
    /// An array of `struct iovec` that describes bytes; the next argument is how many elements.
    Iovec(When),
    /// A value that its register holds whole: flags, names of commands.
    Value(fn(u64, &mut String)),
    /// A structure of `size` bytes.
    Struct {
        /// When it is read.
        when: When,
        /// Bytes.
        size: usize,
        /// Appends the text of an image of `size` bytes.
        text: fn(&[u8], &mut String),
    },
    /// An array of structures of `size` bytes; the next argument is how many.
    Array {
        /// When it is read.
        when: When,
        /// Bytes of one.
        size: usize,
        /// Appends the text of an image of `size` bytes.
        text: fn(&[u8], &mut String),
    },
}

/// What a result is, as far as traces care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetKind {
    /// A signed number.
    Number,
    /// An address or another number best read in hexadecimal.
    Hex,
    /// A file descriptor.
    Fd,
}

/// A type that an argument register is decoded to.
pub trait FromRaw: Sized {
    /// How traces show it.
    const KIND: ArgKind;

    /// Takes the bits that Linux takes. Checks nothing: which error comes first is the handler's business.
    fn from_raw(raw: u64) -> Self;
}

impl FromRaw for i32 {
    const KIND: ArgKind = ArgKind::Int;

    #[allow(clippy::cast_possible_truncation, reason = "an int argument is the register's low half")]
    fn from_raw(raw: u64) -> Self {
        (raw as u32).cast_signed()
    }
}

impl FromRaw for u32 {
    const KIND: ArgKind = ArgKind::Uint;

    #[allow(clippy::cast_possible_truncation, reason = "an unsigned int argument is the register's low half")]
    fn from_raw(raw: u64) -> Self {
        raw as u32
    }
}

impl FromRaw for i64 {
    const KIND: ArgKind = ArgKind::Long;

    fn from_raw(raw: u64) -> Self {
        raw.cast_signed()
    }
}

impl FromRaw for u64 {
    const KIND: ArgKind = ArgKind::Ulong;

    fn from_raw(raw: u64) -> Self {
        raw
    }
}

impl FromRaw for usize {
    const KIND: ArgKind = ArgKind::Ulong;

    #[allow(clippy::cast_possible_truncation, reason = "we build for 64-bit targets alone")]
    fn from_raw(raw: u64) -> Self {
        raw as usize
    }
}

impl FromRaw for Addr {
    const KIND: ArgKind = ArgKind::Addr;

    fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::FromRaw;

    #[test]
    fn narrow_arguments_take_the_low_half() {
        assert_eq!(i32::from_raw(0xdead_beef_ffff_ffff), -1);
        assert_eq!(u32::from_raw(0xdead_beef_8000_0000), 0x8000_0000);
        assert_eq!(i64::from_raw(u64::MAX), -1);
    }
}
