//! Argument types: what a handler's register means, how guest memory behind it is reached, and (by [`FromRaw::KIND`])
//! how a trace shows it.
//!
//! A guest pointer is an allegation: the pointer types here hold a number, and only their `read` and `write` go to guest
//! memory, which may fail.

mod text;
mod values;

use std::fmt::Write as _;
use std::marker::PhantomData;

use abi::Errno;
use abi::fs::{O_ACCMODE, OpenFlags};
use bitflags::Bits as _;
use kernel::syscall::{ArgKind, FromRaw, IntoRet, RetKind, When};
use kernel::task::Task;
use usermem::Addr;

pub(crate) use text::Text;
pub(crate) use values::{
    AdviceArg, ArchPrctlOp, ClockArg, EpollOp, FadviseArg, FcntlCmd, FutexOp, IoctlCmd, ItimerArg, MsgctlCmd,
    PolicyArg, PrctlOp, PriorityWho, SemctlCmd, ShmctlCmd, SigHow, SignalArg, WaitIdType, Whence,
};

use crate::mem;

macro_rules! plain {
    ($($(#[$meta:meta])* $name:ident($inner:ty) = $kind:expr;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) struct $name(pub(crate) $inner);

        impl FromRaw for $name {
            const KIND: ArgKind = $kind;

            fn from_raw(raw: u64) -> Self {
                Self(<$inner>::from_raw(raw))
            }
        }
    )*};
}

plain! {
    /// A file descriptor.
    Fd(i32) = ArgKind::Fd;
    /// A directory's descriptor, or `AT_FDCWD`.
    DirFd(i32) = ArgKind::DirFd;
    /// A file mode: type and permission bits.
    Mode(u32) = ArgKind::Mode;
    /// The pathname at an address.
    PathArg(Addr) = ArgKind::Str;
    /// The string at an address.
    StrArg(Addr) = ArgKind::Str;
    /// A NULL-terminated array of strings at an address.
    StrVecArg(Addr) = ArgKind::StrVec;
    /// A buffer that the call reads; its length is the next argument.
    InBuf(Addr) = ArgKind::Bytes(When::Entry);
    /// A buffer that the call fills; its length is the next argument.
    OutBuf(Addr) = ArgKind::Bytes(When::Exit);
    /// Buffers that the call reads; how many is the next argument.
    InVec(Addr) = ArgKind::Iovec(When::Entry);
    /// Buffers that the call fills; how many is the next argument.
    OutVec(Addr) = ArgKind::Iovec(When::Exit);
    /// A number best shown in hexadecimal.
    Hex(u64) = ArgKind::Hex;
}

/// A result that is a new file descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NewFd(pub(crate) i32);

impl IntoRet for NewFd {
    const KIND: RetKind = RetKind::Fd;

    fn into_ret(self) -> u64 {
        self.0.into_ret()
    }
}

/// Flags, shown by name. Unknown bits stay: refusing them is the handler's business.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flags<T>(pub(crate) T);

impl<T: bitflags::Flags<Bits: FromRaw + Into<u64>>> FromRaw for Flags<T> {
    const KIND: ArgKind = ArgKind::Value(flags_text::<T>);

    fn from_raw(raw: u64) -> Self {
        Self(T::from_bits_retain(T::Bits::from_raw(raw)))
    }
}

impl<T: bitflags::Flags> Flags<T> {
    /// The flags, or `EINVAL` when there is a bit outside `allowed`.
    pub(crate) fn within(self, allowed: T) -> Result<T, Errno> {
        let (bits, allowed) = (self.0.bits(), allowed.bits());
        if bits & !allowed == T::Bits::EMPTY { Ok(self.0) } else { Err(Errno::EINVAL) }
    }

    /// The flags, or `EINVAL` when there is a bit without a name.
    pub(crate) fn known(self) -> Result<T, Errno> {
        self.within(T::all())
    }
}

/// Flags of `open(2)`: an access mode and bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenArg(pub(crate) OpenFlags);

impl FromRaw for OpenArg {
    const KIND: ArgKind = ArgKind::Value(open_text);

    fn from_raw(raw: u64) -> Self {
        Self(OpenFlags::from_bits_retain(u32::from_raw(raw)))
    }
}

fn open_text(raw: u64, out: &mut String) {
    let raw = u32::from_raw(raw);
    out.push_str(match raw & O_ACCMODE {
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    });
    if raw & !O_ACCMODE != 0 {
        out.push('|');
        flags_text::<OpenFlags>(u64::from(raw & !O_ACCMODE), out);
    }
}

/// Appends `raw` as names joined by `|`, unnamed bits as one number. Names that contain others win over them.
pub(crate) fn flags_text<T: bitflags::Flags<Bits: FromRaw + Into<u64>>>(raw: u64, out: &mut String) {
    let mut rest: u64 = T::Bits::from_raw(raw).into();
    if rest == 0 {
        out.push('0');
        return;
    }
    let mut named: Vec<(u64, &str)> =
        T::FLAGS.iter().map(|flag| (flag.value().bits().into(), flag.name())).filter(|flag| flag.0 != 0).collect();
    named.sort_by_key(|flag| std::cmp::Reverse(flag.0.count_ones()));
    let mut chosen: Vec<(u64, &str)> = Vec::new();
    for flag in named {
        if rest & flag.0 == flag.0 {
            rest &= !flag.0;
            chosen.push(flag);
        }
    }
    chosen.sort_by_key(|flag| flag.0);
    let mut first = true;
    for (_, name) in chosen {
        if !std::mem::take(&mut first) {
            out.push('|');
        }
        out.push_str(name);
    }
    if rest != 0 {
        if !first {
            out.push('|');
        }
        let _ = write!(out, "{rest:#x}");
    }
}

macro_rules! pointer {
    ($($(#[$meta:meta])* $name:ident: $when:expr;)*) => {$(
        $(#[$meta])*
        pub(crate) struct $name<T>(pub(crate) Addr, PhantomData<fn() -> T>);

        impl<T: Text> FromRaw for $name<T> {
            const KIND: ArgKind = ArgKind::Struct { when: $when, size: size_of::<T>(), text: text::of::<T> };

            fn from_raw(raw: u64) -> Self {
                Self(Addr(raw), PhantomData)
            }
        }

        impl<T> $name<T> {
            /// Whether the guest passed no pointer.
            #[allow(dead_code, reason = "the three pointer types are made alike")]
            pub(crate) fn is_null(&self) -> bool {
                self.0 == Addr(0)
            }
        }
    )*};
}

pointer! {
    /// A pointer to a `T` that the call reads.
    In: When::Entry;
    /// A pointer to a `T` that the call writes.
    Out: When::Exit;
    /// A pointer to a `T` that the call reads and writes.
    InOut: When::Both;
}

impl<T: Text> In<T> {
    /// The value, or `EFAULT`.
    pub(crate) fn read(&self, task: &Task) -> Result<T, Errno> {
        mem::read(task, self.0)
    }

    /// The value, `None` for a null pointer, or `EFAULT`.
    pub(crate) fn read_opt(&self, task: &Task) -> Result<Option<T>, Errno> {
        if self.is_null() { Ok(None) } else { self.read(task).map(Some) }
    }
}

impl<T: Text> Out<T> {
    /// Stores `value`, or `EFAULT`.
    pub(crate) fn write(&self, task: &Task, value: &T) -> Result<(), Errno> {
        mem::write(task, self.0, value)
    }

    /// Stores `value` unless the pointer is null.
    pub(crate) fn write_opt(&self, task: &Task, value: &T) -> Result<(), Errno> {
        if self.is_null() { Ok(()) } else { self.write(task, value) }
    }
}

impl<T: Text> InOut<T> {
    /// The value, or `EFAULT`.
    pub(crate) fn read(&self, task: &Task) -> Result<T, Errno> {
        mem::read(task, self.0)
    }

    /// The value, `None` for a null pointer, or `EFAULT`.
    pub(crate) fn read_opt(&self, task: &Task) -> Result<Option<T>, Errno> {
        if self.is_null() { Ok(None) } else { self.read(task).map(Some) }
    }

    /// Stores `value`, or `EFAULT`.
    pub(crate) fn write(&self, task: &Task, value: &T) -> Result<(), Errno> {
        mem::write(task, self.0, value)
    }
}

/// An array of `T` that the call reads; how many is the next argument.
pub(crate) struct InArray<T>(pub(crate) Addr, PhantomData<fn() -> T>);

/// An array of `T` that the call reads and writes; how many is the next argument.
pub(crate) struct InOutArray<T>(pub(crate) Addr, PhantomData<fn() -> T>);

impl<T: Text> FromRaw for InArray<T> {
    const KIND: ArgKind = ArgKind::Array { when: When::Entry, size: size_of::<T>(), text: text::of::<T> };

    fn from_raw(raw: u64) -> Self {
        Self(Addr(raw), PhantomData)
    }
}

impl<T: Text> FromRaw for InOutArray<T> {
    const KIND: ArgKind = ArgKind::Array { when: When::Both, size: size_of::<T>(), text: text::of::<T> };

    fn from_raw(raw: u64) -> Self {
        Self(Addr(raw), PhantomData)
    }
}

#[cfg(test)]
mod tests {
    use abi::fs::AtFlags;

    use super::{flags_text, open_text};

    fn text(f: fn(u64, &mut String), raw: u64) -> String {
        let mut out = String::new();
        f(raw, &mut out);
        out
    }

    #[test]
    fn open_flags_read_as_in_strace() {
        assert_eq!(text(open_text, 0), "O_RDONLY");
        assert_eq!(text(open_text, 0o2000000), "O_RDONLY|O_CLOEXEC");
        assert_eq!(text(open_text, 0o1101), "O_WRONLY|O_CREAT|O_TRUNC");
        assert_eq!(text(open_text, 0o20200002), "O_RDWR|O_TMPFILE");
    }

    #[test]
    fn unknown_bits_come_last_as_a_number() {
        assert_eq!(text(flags_text::<AtFlags>, 0x8000_0100), "AT_SYMLINK_NOFOLLOW|0x80000000");
        assert_eq!(text(flags_text::<AtFlags>, 0), "0");
    }
}
