//! `uname(2)`. `linux/utsname.h`.

/// Bytes of a field, NUL included.
pub const FIELD_LEN: usize = 65;
/// Longest host or domain name, without NUL.
pub const UTS_LEN: usize = 64;

uapi_struct! {
    /// `struct new_utsname`: NUL-terminated strings.
    pub struct Utsname {
        pub sysname: [u8; FIELD_LEN],
        pub nodename: [u8; FIELD_LEN],
        pub release: [u8; FIELD_LEN],
        pub version: [u8; FIELD_LEN],
        pub machine: [u8; FIELD_LEN],
        pub domainname: [u8; FIELD_LEN],
    }
}

layout! { Utsname: 390; }
