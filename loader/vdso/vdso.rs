//! The vDSO: `clock_gettime(2)`, `gettimeofday(2)`, `time(2)`, `clock_getres(2)` and `getcpu(2)` without a trap, `vdso(7)`.
//!
//! This is guest code. It is compiled by `loader/build.rs` into a shared object of its own, runs in guest processes and
//! reads one page below its ELF header, which the kernel maps read-only and keeps current. When that page says so, when
//! its parameters have expired or when it stays locked, the real call is made, and the kernel renews the page.
//!
//! Nothing here may call into `core` other than by inlining: the object is linked with no library at all.
#![no_std]

use core::arch::{asm, global_asm};
use core::sync::atomic::{Ordering, fence};

#[allow(dead_code, reason = "the kernel's side uses the rest")]
mod data;

use data::{CLOCK_TSC, CPU_LSL, VdsoData};

const NSEC_PER_SEC: u64 = 1_000_000_000;
/// Times a reader looks at a locked page before it makes the call: the writer may not be running.
const PATIENCE: u32 = 64;

const NR_GETTIMEOFDAY: u64 = 96;
const NR_TIME: u64 = 201;
const NR_CLOCK_GETTIME: u64 = 228;
const NR_CLOCK_GETRES: u64 = 229;
const NR_GETCPU: u64 = 309;

const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const CLOCK_REALTIME_COARSE: i32 = 5;
const CLOCK_MONOTONIC_COARSE: i32 = 6;
const CLOCK_BOOTTIME: i32 = 7;

/// Seconds and a fraction: nanoseconds in `timespec`, microseconds in `timeval`.
#[repr(C)]
pub struct Time {
    seconds: i64,
    fraction: i64,
}

/// Which base a clock counts from.
#[derive(Clone, Copy)]
enum Base {
    Realtime,
    Monotonic,
    Boottime,
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[inline(always)]
fn data() -> &'static VdsoData {
    let page: *const VdsoData;
    // SAFETY: the linker defines `__ehdr_start` as the object's first byte; only an address is computed.
    unsafe { asm!("lea {}, [rip + __ehdr_start - 4096]", out(reg) page, options(nomem, nostack, preserves_flags)) };
    // SAFETY: the kernel maps the data page, which starts with this structure, right below the object for as long as the
    // object is mapped; all its fields are atomics.
    unsafe { &*page }
}

#[inline(always)]
fn call3(number: u64, a: u64, b: u64, c: u64) -> i64 {
    let result: i64;
    // SAFETY: the arguments are the caller's own, passed on as they are: the call does what the caller asked for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as i64 => result,
            in("rdi") a, in("rsi") b, in("rdx") c,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// The time-stamp counter, not read before what precedes it has been executed.
#[inline(always)]
fn tsc() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reads a counter.
    unsafe { asm!("lfence", "rdtsc", out("rax") low, out("rdx") high, options(nostack, preserves_flags)) };
    high << 32 | low
}

/// Nanoseconds of a clock, or `None` when only the kernel knows.
#[inline(always)]
fn read(base: Base) -> Option<u64> {
    let data = data();
    let mut tries = 0;
    while tries < PATIENCE {
        tries += 1;
        // Acquire: pairs with the Release store of an even number by `loader::vdso::Publisher::publish`.
        let seq = data.seq.load(Ordering::Acquire);
        if seq & 1 != 0 {
            core::hint::spin_loop();
            continue;
        }
        let mode = data.clock_mode.load(Ordering::Relaxed);
        let base_tsc = data.base_tsc.load(Ordering::Relaxed);
        let expires_tsc = data.expires_tsc.load(Ordering::Relaxed);
        let mult = data.mult.load(Ordering::Relaxed);
        let base_ns = match base {
            Base::Realtime => &data.realtime_ns,
            Base::Monotonic => &data.monotonic_ns,
            Base::Boottime => &data.boottime_ns,
        }
        .load(Ordering::Relaxed);
        let now = tsc();
        // Orders the loads above before the next one: pairs with the Release fence in `loader::vdso::Publisher::publish`.
        fence(Ordering::Acquire);
        if data.seq.load(Ordering::Relaxed) != seq {
            continue;
        }
        if mode != CLOCK_TSC || now >= expires_tsc {
            return None;
        }
        let ticks = now.saturating_sub(base_tsc);
        let elapsed = (ticks as u128 * mult as u128) >> 32;
        return Some(base_ns.wrapping_add(elapsed as u64));
    }
    None
}

/// `clock_gettime(2)`: 0 or a negated error number.
///
/// # Safety
/// `time` must point to a writable `struct timespec`, as in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_gettime(clock: i32, time: *mut Time) -> i32 {
    let base = match clock {
        CLOCK_REALTIME | CLOCK_REALTIME_COARSE => Some(Base::Realtime),
        CLOCK_MONOTONIC | CLOCK_MONOTONIC_COARSE => Some(Base::Monotonic),
        CLOCK_BOOTTIME => Some(Base::Boottime),
        _ => None,
    };
    if let Some(base) = base {
        if let Some(ns) = read(base) {
            let value = Time { seconds: (ns / NSEC_PER_SEC) as i64, fraction: (ns % NSEC_PER_SEC) as i64 };
            // SAFETY: the caller's promise.
            unsafe { time.write_unaligned(value) };
            return 0;
        }
    }
    call3(NR_CLOCK_GETTIME, clock as u64, time as u64, 0) as i32
}

/// `gettimeofday(2)`: 0 or a negated error number.
///
/// # Safety
/// `time` must be null or point to a writable `struct timeval`, `zone` to a `struct timezone`, as in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_gettimeofday(time: *mut Time, zone: *mut u8) -> i32 {
    if zone.is_null() && !time.is_null() {
        if let Some(ns) = read(Base::Realtime) {
            let value = Time { seconds: (ns / NSEC_PER_SEC) as i64, fraction: (ns % NSEC_PER_SEC / 1000) as i64 };
            // SAFETY: the caller's promise.
            unsafe { time.write_unaligned(value) };
            return 0;
        }
    }
    call3(NR_GETTIMEOFDAY, time as u64, zone as u64, 0) as i32
}

/// `time(2)`: seconds since the epoch.
///
/// # Safety
/// `time` must be null or writable, as in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_time(time: *mut i64) -> i64 {
    match read(Base::Realtime) {
        Some(ns) => {
            let seconds = (ns / NSEC_PER_SEC) as i64;
            if !time.is_null() {
                // SAFETY: the caller's promise.
                unsafe { time.write_unaligned(seconds) };
            }
            seconds
        }
        None => call3(NR_TIME, time as u64, 0, 0),
    }
}

/// `clock_getres(2)`: 0 or a negated error number.
///
/// # Safety
/// `time` must be null or point to a writable `struct timespec`, as in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_getres(clock: i32, time: *mut Time) -> i32 {
    match clock {
        CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME => {
            if !time.is_null() {
                // SAFETY: the caller's promise.
                unsafe { time.write_unaligned(Time { seconds: 0, fraction: 1 }) };
            }
            0
        }
        _ => call3(NR_CLOCK_GETRES, clock as u64, time as u64, 0) as i32,
    }
}

/// `getcpu(2)`: 0 or a negated error number. The third argument is ignored, as by the call.
///
/// # Safety
/// `cpu` and `node` must be null or writable, as in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_getcpu(cpu: *mut u32, node: *mut u32, _cache: *mut u8) -> i64 {
    if data().cpu_mode.load(Ordering::Relaxed) != CPU_LSL {
        return call3(NR_GETCPU, cpu as u64, node as u64, 0);
    }
    let limit: u32;
    // SAFETY: reads a segment limit; an absent segment leaves the register as it was, which is zero.
    unsafe { asm!("lsl {0:e}, {1:e}", inout(reg) 0_u32 => limit, in(reg) 0x7b_u32, options(nomem, nostack)) };
    if !cpu.is_null() {
        // SAFETY: the caller's promise.
        unsafe { cpu.write_unaligned(limit & 0xfff) };
    }
    if !node.is_null() {
        // SAFETY: the caller's promise.
        unsafe { node.write_unaligned(limit >> 12) };
    }
    0
}

// The unprefixed names that `vdso(7)` also lists.
global_asm!(
    ".weak clock_gettime, gettimeofday, time, clock_getres, getcpu",
    ".set clock_gettime, __vdso_clock_gettime",
    ".set gettimeofday, __vdso_gettimeofday",
    ".set time, __vdso_time",
    ".set clock_getres, __vdso_clock_getres",
    ".set getcpu, __vdso_getcpu",
);
