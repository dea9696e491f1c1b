//! Mapping, unmapping and faulting anonymous memory.

use std::io;
use std::time::{Duration, Instant};

use crate::measure::{Harness, Measure, Sample};

pub(crate) const MEASURES: &[Measure] = &[
    Measure { name: "mmap-munmap-64k", run: |harness| mmap_munmap(harness, Touch::Nothing) },
    Measure { name: "mmap-touch-munmap-64k", run: |harness| mmap_munmap(harness, Touch::EveryPage) },
    Measure { name: "fault-small-region", run: |harness| fault(harness, 1 << 20) },
    Measure { name: "fault-large-region", run: |harness| fault(harness, 32 << 20) },
];

const PAGE: usize = 4096;

/// What is written before the memory goes.
#[derive(Clone, Copy, PartialEq)]
enum Touch {
    Nothing,
    EveryPage,
}

/// Anonymous private memory, unmapped when dropped.
struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(length: usize) -> io::Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: 1. a new mapping where the kernel likes it replaces nothing.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { start: start.cast(), length })
        }
    }

    /// Writes a byte of each page, in order.
    fn touch(&self) {
        for offset in (0..self.length).step_by(PAGE) {
            // SAFETY: 1. the offset lies within the mapping, which only we use.
            unsafe { self.start.wrapping_add(offset).write_volatile(1) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: 1. the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

fn mmap_munmap(harness: &Harness, touch: Touch) -> io::Result<Sample> {
    Mapping::new(1 << 16)?;
    Ok(harness.each(|| {
        if let (Ok(mapping), Touch::EveryPage) = (Mapping::new(1 << 16), touch) {
            mapping.touch();
        }
    }))
}

/// Per page, the first write to each page of a fresh region of `length` bytes; mapping and unmapping are not counted.
fn fault(harness: &Harness, length: usize) -> io::Result<Sample> {
    Mapping::new(length)?;
    let pages = (length / PAGE) as u32;
    let per_region = harness.batches(|regions| {
        let mut taken = Duration::ZERO;
        for _ in 0..regions {
            let Ok(mapping) = Mapping::new(length) else { continue };
            let started = Instant::now();
            mapping.touch();
            taken += started.elapsed();
        }
        taken
    });
    let per_page = |cost: f64| cost / f64::from(pages);
    Ok(Sample { median: per_page(per_region.median), low: per_page(per_region.low), high: per_page(per_region.high) })
}
