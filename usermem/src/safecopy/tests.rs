use std::os::fd::{AsFd, AsRawFd};

use abi::Errno;
use vm_memory::VolatileSlice;

use super::{
    cmpxchg_u32, copy_slices, fetch_add_u32, fetch_update_u32, install, load_u32, load_u64, read_slices, store_u32,
    store_u64, swap_u32, write_slices, zero_slices,
};

const PAGE: usize = 4096;

/// `pages` pages of which the last one is inaccessible.
struct Guarded {
    base: *mut u8,
    pages: usize,
}

impl Guarded {
    fn new(pages: usize) -> Self {
        install();
        // SAFETY: a fresh anonymous mapping touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                pages * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        let base = base.cast::<u8>();
        // SAFETY: the last page is inside the mapping just made.
        let ret = unsafe { libc::mprotect(base.wrapping_add((pages - 1) * PAGE).cast(), PAGE, libc::PROT_NONE) };
        assert_eq!(ret, 0);
        Self { base, pages }
    }

    fn slice(&self, at: usize, len: usize) -> VolatileSlice<'_> {
        assert!(at + len <= self.pages * PAGE);
        // SAFETY: within the mapping, which lives as long as `self` and is referenced by nobody else.
        unsafe { VolatileSlice::new(self.base.wrapping_add(at), len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and unused from here on.
        unsafe { libc::munmap(self.base.cast(), self.pages * PAGE) };
    }
}

#[test]
fn copies_stop_exactly_at_the_fault() {
    let mem = Guarded::new(3);
    for len in [1, 7, 8, 9, 63, 64, 127, 128, 129, 130, 1000, 5000] {
        for before in [0, 1, 3, 8, 13, 100, 127, 128, 500] {
            let start = 2 * PAGE - before;
            let slice = mem.slice(start, len.min(3 * PAGE - start));
            let data: Vec<u8> = (0..slice.len()).map(|i| i as u8).collect();
            let expect = if slice.len() <= before { Ok(slice.len()) } else { Ok(before) };
            let expect = if before == 0 { Err(Errno::EFAULT) } else { expect };
            assert_eq!(write_slices(&[slice], &data), expect, "write {len} {before}");
            let mut back = vec![0xee; slice.len()];
            assert_eq!(read_slices(&[slice], &mut back), expect, "read {len} {before}");
            let n = expect.unwrap_or(0);
            assert_eq!(back[..n], data[..n]);
            assert!(back[n..].iter().all(|&b| b == 0xee));
            assert_eq!(zero_slices(&[slice], usize::MAX), expect, "zero {len} {before}");
        }
    }
}

#[test]
fn several_slices_are_one_sequence() {
    let mem = Guarded::new(3);
    let slices = [mem.slice(10, 3), mem.slice(0, 0), mem.slice(100, 5)];
    assert_eq!(write_slices(&slices, b"abcdefghij"), Ok(8));
    let mut buf = [0; 8];
    assert_eq!(read_slices(&slices, &mut buf), Ok(8));
    assert_eq!(&buf, b"abcdefgh");
    let dst = [mem.slice(4000, 6), mem.slice(5000, 100)];
    assert_eq!(copy_slices(&dst, &slices), Ok(8));
    let mut buf = [0; 8];
    assert_eq!(read_slices(&dst, &mut buf), Ok(8));
    assert_eq!(&buf, b"abcdefgh");
    assert_eq!(copy_slices(&[mem.slice(2 * PAGE, 8)], &slices), Err(Errno::EFAULT));
    assert_eq!(copy_slices(&[mem.slice(2 * PAGE - 4, 8)], &slices), Ok(4), "up to the fault");
    assert_eq!(zero_slices(&slices, 4), Ok(4));
    let mut buf = [1; 8];
    assert_eq!(read_slices(&slices, &mut buf), Ok(8));
    assert_eq!(&buf, b"\0\0\0\0efgh");
}

#[test]
fn atomics_work_and_fault() {
    let mem = Guarded::new(2);
    let good = mem.slice(0, PAGE);
    assert_eq!(store_u32(good, 8, 5), Ok(()));
    assert_eq!(fetch_add_u32(good, 8, 2), Ok(5));
    assert_eq!(load_u32(good, 8), Ok(7));
    assert_eq!(cmpxchg_u32(good, 8, 6, 1), Ok(Err(7)));
    assert_eq!(cmpxchg_u32(good, 8, 7, 1), Ok(Ok(7)));
    assert_eq!(fetch_update_u32(good, 8, |v| v | 0x8000_0000), Ok(1));
    assert_eq!(swap_u32(good, 8, 9), Ok(0x8000_0001));
    assert_eq!(store_u64(good, 16, u64::MAX - 1), Ok(()));
    assert_eq!(load_u64(good, 16), Ok(u64::MAX - 1));
    assert_eq!(load_u32(good, 2), Err(Errno::EINVAL));
    assert_eq!(load_u32(good, PAGE), Err(Errno::EFAULT));
    let bad = mem.slice(PAGE, PAGE);
    assert_eq!(load_u32(bad, 0), Err(Errno::EFAULT));
    assert_eq!(load_u64(bad, 0), Err(Errno::EFAULT));
    assert_eq!(store_u32(bad, 0, 1), Err(Errno::EFAULT));
    assert_eq!(store_u64(bad, 0, 1), Err(Errno::EFAULT));
    assert_eq!(cmpxchg_u32(bad, 0, 0, 1), Err(Errno::EFAULT));
    assert_eq!(fetch_add_u32(bad, 4, 1), Err(Errno::EFAULT));
    assert_eq!(fetch_update_u32(bad, 4, |v| v), Err(Errno::EFAULT));
}

#[test]
fn faults_are_caught_on_any_thread_at_once() {
    let mem = Guarded::new(2);
    let at = mem.base.addr();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                // SAFETY: inside the mapping, which outlives the scope.
                let bad = unsafe { VolatileSlice::new(std::ptr::with_exposed_provenance_mut(at + PAGE), PAGE) };
                for _ in 0..1000 {
                    assert_eq!(read_slices(&[bad], &mut [0; 200]), Err(Errno::EFAULT));
                }
            });
        }
    });
}

#[test]
fn a_truncated_file_is_a_fault_too() {
    install();
    let file = crate::host::memfd(c"casemate-test").unwrap();
    crate::host::set_len(file.as_fd(), PAGE as u64).unwrap();
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping touches nothing that exists.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), 2 * PAGE, prot, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(base, libc::MAP_FAILED);
    // SAFETY: two pages of the mapping, referenced by nobody else.
    let slice = unsafe { VolatileSlice::new(base.cast(), 2 * PAGE) };
    assert_eq!(write_slices(&[slice], &vec![1; 2 * PAGE]), Ok(PAGE));
    crate::host::set_len(file.as_fd(), 0).unwrap();
    assert_eq!(read_slices(&[slice], &mut [0; 4]), Err(Errno::EFAULT));
    // SAFETY: a mapping of ours, unused after this.
    unsafe { libc::munmap(base, 2 * PAGE) };
}
