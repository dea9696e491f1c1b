//! The vDSO as an ELF file, and called natively.

use std::collections::BTreeMap;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use casemate_loader::vdso::data::VdsoData;
use casemate_loader::vdso::{
    CODE_OFFSET, CpuMode, DataPage, IMAGE, MAPPED_LEN, Publisher, Reading, Sample, Timekeeper,
};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};

const FUNCTIONS: [&str; 5] = ["clock_gettime", "gettimeofday", "time", "clock_getres", "getcpu"];

fn symbols() -> BTreeMap<String, u64> {
    let file = ElfFile64::<Endianness>::parse(IMAGE).unwrap();
    file.dynamic_symbols()
        .filter(|symbol| symbol.is_definition())
        .map(|symbol| (symbol.name().unwrap().to_owned(), symbol.address()))
        .collect()
}

#[test]
fn the_object_is_self_contained() {
    let file = ElfFile64::<Endianness>::parse(IMAGE).unwrap();
    assert_eq!(file.dynamic_symbols().filter(ObjectSymbol::is_undefined).count(), 0);
    assert!(file.dynamic_relocations().is_none_or(|mut all| all.next().is_none()), "no relocations");
    let header = file.elf_header();
    let segments = header.program_headers(Endianness::Little, IMAGE).unwrap();
    let loads: Vec<_> =
        segments.iter().filter(|segment| segment.p_type(Endianness::Little) == object::elf::PT_LOAD).collect();
    assert_eq!(loads.len(), 1);
    assert_eq!((loads[0].p_offset(Endianness::Little), loads[0].p_vaddr(Endianness::Little)), (0, 0));
    assert_eq!(loads[0].p_flags(Endianness::Little), object::elf::PF_R | object::elf::PF_X);
    assert!(loads[0].p_memsz(Endianness::Little) <= IMAGE.len() as u64);

    let symbols = symbols();
    for name in FUNCTIONS {
        assert_eq!(symbols[name], symbols[&format!("__vdso_{name}")], "{name}");
    }
    // Names and version are found through the strings that a dynamic linker reads.
    for text in [b"linux-vdso.so.1\0".as_slice(), b"LINUX_2.6\0"] {
        assert!(IMAGE.windows(text.len()).any(|window| window == text));
    }
}

/// Data page and image, mapped as in a guest.
struct Mapped(*mut u8);

impl Mapped {
    fn new() -> Self {
        let len = usize::try_from(MAPPED_LEN).unwrap();
        // SAFETY: a new anonymous mapping.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        let mapped = Self(start.cast());
        // SAFETY: the mapping has room for page and image.
        unsafe { ptr::copy_nonoverlapping(IMAGE.as_ptr(), mapped.code(), IMAGE.len()) };
        // SAFETY: the range was just mapped and holds the image.
        let result = unsafe { libc::mprotect(mapped.code().cast(), IMAGE.len(), libc::PROT_READ | libc::PROT_EXEC) };
        assert_eq!(result, 0);
        mapped
    }

    fn code(&self) -> *mut u8 {
        self.0.wrapping_add(usize::try_from(CODE_OFFSET).unwrap())
    }

    fn data(&self) -> &VdsoData {
        // SAFETY: the page is zeroed memory, mapped as long as `self`, and the structure is made of atomics.
        unsafe { &*self.0.cast::<VdsoData>() }
    }

    fn function(&self, name: &str) -> *const u8 {
        self.code().wrapping_add(usize::try_from(symbols()[name]).unwrap())
    }

    fn clock_gettime(&self, clock: i32) -> (i32, u64) {
        // SAFETY: the symbol has this type.
        let call: extern "C" fn(i32, *mut libc::timespec) -> i32 =
            unsafe { std::mem::transmute(self.function("__vdso_clock_gettime")) };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let result = call(clock, &raw mut time);
        (result, u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap())
    }
}

impl DataPage for Mapped {
    fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        let field = self.0.wrapping_add(offset).cast::<AtomicU32>();
        // SAFETY: offsets of `VdsoData` fields are within the page and aligned.
        unsafe { &*field }.store(value, order);
    }

    fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        let field = self.0.wrapping_add(offset).cast::<AtomicU64>();
        // SAFETY: offsets of `VdsoData` fields are within the page and aligned.
        unsafe { &*field }.store(value, order);
    }
}

fn host(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

fn sample() -> Sample {
    let clocks = Reading {
        monotonic_ns: host(libc::CLOCK_MONOTONIC),
        realtime_ns: host(libc::CLOCK_REALTIME),
        boottime_ns: host(libc::CLOCK_BOOTTIME),
    };
    Sample { tsc: arch::x86_64::tsc::read(), clocks }
}

const CLOCKS: [i32; 3] = [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME];

#[test]
fn an_empty_page_means_real_calls() {
    let mapped = Mapped::new();
    for clock in CLOCKS.into_iter().chain([libc::CLOCK_THREAD_CPUTIME_ID, libc::CLOCK_TAI]) {
        let before = host(clock);
        let (result, time) = mapped.clock_gettime(clock);
        assert_eq!(result, 0);
        assert!(before <= time && time <= host(clock), "clock {clock}");
    }
    assert_eq!(mapped.clock_gettime(77).0, -libc::EINVAL);
    // SAFETY: the symbol has this type.
    let time: extern "C" fn(*mut i64) -> i64 = unsafe { std::mem::transmute(mapped.function("__vdso_time")) };
    let mut stored = 0;
    let now = time(&raw mut stored);
    assert!(now == stored && u64::try_from(now).unwrap().abs_diff(host(libc::CLOCK_REALTIME) / 1_000_000_000) <= 1);
}

#[test]
fn published_parameters_are_used_until_they_expire() {
    let mapped = Mapped::new();
    let mut keeper = Timekeeper::default();
    let mut publisher = Publisher::default();
    let (_, none) = keeper.renew(sample());
    publisher.publish(&mapped, none.as_ref());
    let begin = host(libc::CLOCK_MONOTONIC);
    while host(libc::CLOCK_MONOTONIC) < begin + 20_000_000 {
        std::hint::spin_loop();
    }
    let (_, params) = keeper.renew(sample());
    let params = params.expect("two samples suffice");
    publisher.publish(&mapped, Some(&params));
    for clock in CLOCKS {
        let (result, time) = mapped.clock_gettime(clock);
        assert_eq!(result, 0);
        assert!(time.abs_diff(host(clock)) < 50_000_000, "clock {clock}: {time}");
    }
    // Time runs on from the page alone: a page that says it is another year is believed.
    let mut shifted = params;
    shifted.base.monotonic_ns += 1 << 60;
    shifted.expires_tsc = u64::MAX;
    publisher.publish(&mapped, Some(&shifted));
    let first = mapped.clock_gettime(libc::CLOCK_MONOTONIC).1;
    let second = mapped.clock_gettime(libc::CLOCK_MONOTONIC).1;
    assert!(first > 1 << 60 && second >= first);
    // SAFETY: the symbol has this type.
    let gettimeofday: extern "C" fn(*mut libc::timeval, *mut u8) -> i32 =
        unsafe { std::mem::transmute(mapped.function("gettimeofday")) };
    let mut value = libc::timeval { tv_sec: 0, tv_usec: -1 };
    assert_eq!(gettimeofday(&raw mut value, ptr::null_mut()), 0);
    assert!((0..1_000_000).contains(&value.tv_usec));
    // Expired, or locked for good: the call is made.
    shifted.expires_tsc = shifted.base_tsc;
    publisher.publish(&mapped, Some(&shifted));
    assert!(mapped.clock_gettime(libc::CLOCK_MONOTONIC).1 < 1 << 60);
    shifted.expires_tsc = u64::MAX;
    publisher.publish(&mapped, Some(&shifted));
    let seq = mapped.data().seq.load(Ordering::Relaxed);
    mapped.data().seq.store(seq | 1, Ordering::Relaxed);
    assert!(mapped.clock_gettime(libc::CLOCK_MONOTONIC).1 < 1 << 60);
}

#[test]
fn getcpu_answers_both_ways() {
    let mapped = Mapped::new();
    // SAFETY: the symbol has this type.
    let getcpu: extern "C" fn(*mut u32, *mut u32, *mut u8) -> i64 =
        unsafe { std::mem::transmute(mapped.function("__vdso_getcpu")) };
    let cpus = std::thread::available_parallelism().unwrap().get();
    for mode in [CpuMode::Call, CpuMode::Segment] {
        Publisher::default().set_cpu_mode(&mapped, mode);
        let (mut cpu, mut node) = (u32::MAX, u32::MAX);
        assert_eq!(getcpu(&raw mut cpu, &raw mut node, ptr::null_mut()), 0);
        assert!((cpu as usize) < cpus.max(4096) && node < 1024, "{mode:?}: cpu {cpu}, node {node}");
        assert_eq!(getcpu(ptr::null_mut(), ptr::null_mut(), ptr::null_mut()), 0);
    }
}
