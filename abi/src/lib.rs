//! The Linux user-kernel interface as types and constants, a file per UAPI family. No logic, no unsafe.
//!
//! Values are those of x86-64. Structures are `#[repr(C)]` with explicit padding and can be read from and written to
//! guest memory as bytes (`zerocopy`). Flag words are `bitflags` whose `from_bits` answers `None` for a bit that Linux
//! does not know, since the calls differ in whether they ignore or refuse one. Names are Linux's.
#![no_std]
#![forbid(unsafe_code)]

/// A flag word with Linux's names: `flags! { /// doc pub struct Name: u32 { A = 1, B = 2, } }`.
macro_rules! flags {
    ($($(#[$($meta:tt)*])* pub struct $name:ident: $repr:ty { $($(#[$($fmeta:tt)*])* $flag:ident = $value:expr,)* })*) => {
        $(bitflags::bitflags! {
            $(#[$($meta)*])*
            #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
            pub struct $name: $repr { $($(#[$($fmeta)*])* const $flag = $value;)* }
        })*
    };
}

/// Plain constants of one type: `consts! { u32 { A = 1, B = 2, } }`.
macro_rules! consts {
    ($($repr:ty { $($(#[$meta:meta])* $name:ident = $value:expr,)* })*) => {
        $($($(#[$meta])* pub const $name: $repr = $value;)*)*
    };
}

/// Asserts sizes and offsets at compile time: `layout! { Type: size, field @ offset, … }`.
macro_rules! layout {
    ($($ty:ty: $size:expr $(, $field:ident @ $offset:expr)*;)*) => {
        $(static_assertions::const_assert_eq!(core::mem::size_of::<$ty>(), $size);
          $(static_assertions::const_assert_eq!(core::mem::offset_of!($ty, $field), $offset);)*)*
    };
}

/// A `#[repr(C)]` structure of the interface, with what it takes to move it as bytes.
macro_rules! uapi_struct {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $fty:ty,)* })*) => {
        $($(#[$meta])*
        #[repr(C)]
        #[derive(
            Clone, Copy, PartialEq, Eq, Debug,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        pub struct $name { $($(#[$fmeta])* pub $field: $fty,)* }

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        })*
    };
}

pub mod auxv;
pub mod caps;
pub mod clone;
pub mod elf;
pub mod epoll;
pub mod errno;
pub mod fs;
pub mod futex;
pub mod ioctl;
pub mod ipc;
pub mod keyctl;
pub mod mm;
pub mod nr;
pub mod poll;
pub mod prctl;
pub mod ptrace;
pub mod resource;
pub mod rseq;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod stat;
pub mod sysinfo;
pub mod time;
pub mod tty;
pub mod ucontext;
pub mod utsname;
pub mod wait;

pub use errno::Errno;
