//! `sysinfo(2)`. `linux/sysinfo.h`.

consts! {
    u64 {
        /// Load averages are fixed-point numbers with this many fraction bits.
        SI_LOAD_SHIFT = 16,
    }
}

uapi_struct! {
    /// `struct sysinfo`. Sizes are in units of `mem_unit` bytes, `uptime` in seconds.
    pub struct Sysinfo {
        pub uptime: i64,
        pub loads: [u64; 3],
        pub totalram: u64,
        pub freeram: u64,
        pub sharedram: u64,
        pub bufferram: u64,
        pub totalswap: u64,
        pub freeswap: u64,
        pub procs: u16,
        pub _pad: [u16; 3],
        pub totalhigh: u64,
        pub freehigh: u64,
        pub mem_unit: u32,
        pub _pad2: u32,
    }
}

layout! { Sysinfo: 112, procs @ 80, mem_unit @ 104; }
