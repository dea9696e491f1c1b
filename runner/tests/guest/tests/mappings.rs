//! Locking, moving and asking about memory: mlock, mremap flags, mincore, madvise of files, memfd, pkeys.

use casemate_guest_tests::{Memory, in_child, is_root, steps, sys};

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

#[test]
fn memory_is_locked_within_limits() {
    in_child(|| {
        let memory = Memory::new(4 * PAGE, libc::MAP_PRIVATE);
        let at = memory.start as u64;
        let results = [
            sys!(mlock, at, PAGE) == Ok(0),
            sys!(mlock2, at, 2 * PAGE, libc::MLOCK_ONFAULT) == Ok(0),
            sys!(mlock2, at, PAGE, 2) == Err(libc::EINVAL),
            sys!(munlock, at, 4 * PAGE) == Ok(0),
            sys!(mlock, 0x1000, PAGE) == Err(libc::ENOMEM),
            sys!(munlock, 0x1000, PAGE) == Err(libc::ENOMEM),
            sys!(mlockall, 0) == Err(libc::EINVAL),
            sys!(mlockall, 8) == Err(libc::EINVAL),
            sys!(munlockall) == Ok(0),
        ];
        steps(&results)
    });
    if !is_root() {
        return;
    }
    in_child(|| {
        let memory = Memory::new(8 * PAGE, libc::MAP_PRIVATE);
        let at = memory.start as u64;
        let limit = [2 * PAGE as u64, 2 * PAGE as u64];
        let results = [
            sys!(munlockall) == Ok(0),
            sys!(prlimit64, 0, libc::RLIMIT_MEMLOCK, limit.as_ptr(), 0) == Ok(0),
            sys!(setresuid, 1000, 1000, 1000) == Ok(0),
            sys!(mlock, at, 4 * PAGE) == Err(libc::ENOMEM),
            sys!(mlock, at, PAGE) == Ok(0),
            sys!(munlock, at, PAGE) == Ok(0),
        ];
        steps(&results)
    });
}

#[test]
fn mremap_places_and_keeps() {
    let memory = Memory::new(2 * PAGE, libc::MAP_PRIVATE);
    let room = Memory::new(4 * PAGE, libc::MAP_PRIVATE);
    memory.set(0, 9);
    let (old, new) = (memory.start as u64, room.start as u64);
    let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    assert_eq!(sys!(mremap, old, PAGE, PAGE, libc::MREMAP_FIXED, new), Err(libc::EINVAL));
    assert_eq!(sys!(mremap, old, PAGE, PAGE, fixed, old), Err(libc::EINVAL));
    assert_eq!(sys!(mremap, old, PAGE, PAGE, fixed, new + 1), Err(libc::EINVAL));
    assert_eq!(sys!(mremap, old, PAGE, 0, libc::MREMAP_MAYMOVE), Err(libc::EINVAL));
    assert_eq!(sys!(mremap, old + 1, PAGE, PAGE, libc::MREMAP_MAYMOVE), Err(libc::EINVAL));
    assert_eq!(sys!(mremap, old, PAGE, PAGE, 8), Err(libc::EINVAL));
    assert_eq!(sys!(mremap, old, PAGE, PAGE, fixed, new).map(i64::cast_unsigned), Ok(new));
    assert_eq!(room.get(0), 9);
    // What moved is gone from where it was; the kernel says so.
    assert_eq!(sys!(uname, old), Err(libc::EFAULT));
    // With DONTUNMAP the old place stays, empty.
    let keep = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    let moved = sys!(mremap, new, PAGE, PAGE, keep, 0).unwrap() as *mut u8;
    let moved = Memory { start: moved, len: PAGE };
    assert_eq!((moved.get(0), room.get(0)), (9, 0));
    assert_eq!(sys!(mremap, new, PAGE, 2 * PAGE, keep, 0), Err(libc::EINVAL));
    // Length zero of a shared mapping makes a second one.
    let shared = Memory::new(PAGE, libc::MAP_SHARED);
    let second = sys!(mremap, shared.start, 0, PAGE, libc::MREMAP_MAYMOVE).unwrap() as *mut u8;
    let second = Memory { start: second, len: PAGE };
    shared.set(5, 6);
    assert_eq!(second.get(5), 6);
}

#[test]
fn residency_is_told() {
    let memory = Memory::new(4 * PAGE, libc::MAP_PRIVATE);
    let mut resident = [0_u8; 4];
    memory.set(PAGE, 1);
    assert_eq!(sys!(mincore, memory.start, 4 * PAGE, resident.as_mut_ptr()), Ok(0));
    assert_eq!(resident[1] & 1, 1);
    assert_eq!(sys!(mincore, memory.start as u64 + 1, PAGE, resident.as_mut_ptr()), Err(libc::EINVAL));
    assert_eq!(sys!(mincore, memory.start, PAGE, 16), Err(libc::EFAULT));
    assert_eq!(sys!(madvise, memory.start, 4 * PAGE, libc::MADV_POPULATE_WRITE), Ok(0));
    (0..4).filter(|page| *page != 1).for_each(|page| memory.set(page * PAGE, 2));
    assert_eq!(sys!(mincore, memory.start, 4 * PAGE, resident.as_mut_ptr()), Ok(0));
    assert_eq!(resident.map(|page| page & 1), [1; 4]);
    assert_eq!(memory.get(PAGE), 1);
    for advice in [libc::MADV_NORMAL, libc::MADV_RANDOM, libc::MADV_SEQUENTIAL, libc::MADV_WILLNEED] {
        assert_eq!(sys!(madvise, memory.start, 4 * PAGE, advice), Ok(0));
    }
    assert_eq!(sys!(madvise, memory.start as u64 + 1, PAGE, libc::MADV_NORMAL), Err(libc::EINVAL));
}

#[test]
fn advice_about_forks_is_kept() {
    let memory = Memory::new(2 * PAGE, libc::MAP_PRIVATE);
    memory.set(0, 1);
    memory.set(PAGE, 2);
    assert_eq!(sys!(madvise, memory.start, PAGE, libc::MADV_WIPEONFORK), Ok(0));
    in_child(|| steps(&[memory.get(0) == 0, memory.get(PAGE) == 2]));
    assert_eq!(sys!(madvise, memory.start, PAGE, libc::MADV_KEEPONFORK), Ok(0));
    in_child(|| steps(&[memory.get(0) == 1]));
    assert_eq!(sys!(madvise, memory.start, PAGE, libc::MADV_DONTFORK), Ok(0));
    in_child(|| steps(&[sys!(uname, memory.start) == Err(libc::EFAULT), memory.get(PAGE) == 2]));
    assert_eq!(sys!(madvise, memory.start, PAGE, libc::MADV_DOFORK), Ok(0));
}

#[test]
fn memory_files_are_files_with_seals() {
    let fd = sys!(memfd_create, c"name".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING).unwrap();
    assert_eq!(sys!(fcntl, fd, libc::F_GETFD, 0), Ok(1));
    assert_eq!(sys!(write, fd, b"abcdef".as_ptr(), 6), Ok(6));
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    assert_eq!(link.as_os_str(), "/memfd:name (deleted)");
    assert_eq!(sys!(fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_GROW), Ok(0));
    assert_eq!(sys!(pwrite64, fd, b"x".as_ptr(), 1, 6), Err(libc::EPERM));
    assert_eq!(sys!(pwrite64, fd, b"x".as_ptr(), 1, 5), Ok(1));
    assert_eq!(sys!(fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE | libc::F_SEAL_SEAL), Ok(0));
    assert_eq!(sys!(pwrite64, fd, b"x".as_ptr(), 1, 0), Err(libc::EPERM));
    assert_eq!(sys!(mmap, 0, PAGE, RW, libc::MAP_SHARED, fd, 0), Err(libc::EPERM));
    assert_eq!(sys!(fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK), Err(libc::EPERM));
    assert_eq!(sys!(close, fd), Ok(0));
    let fd = sys!(memfd_create, c"".as_ptr(), 0).unwrap();
    assert_eq!(sys!(fcntl, fd, libc::F_GET_SEALS, 0), Ok(libc::F_SEAL_SEAL.into()));
    assert_eq!(sys!(close, fd), Ok(0));
    assert_eq!(sys!(memfd_create, c"x".as_ptr(), 0x100), Err(libc::EINVAL));
    let long = std::ffi::CString::new(vec![b'x'; 250]).unwrap();
    assert_eq!(sys!(memfd_create, long.as_ptr(), 0), Err(libc::EINVAL));
    assert_eq!(sys!(memfd_create, 16, 0), Err(libc::EFAULT));
}

#[test]
fn protection_without_a_key() {
    let memory = Memory::new(PAGE, libc::MAP_PRIVATE);
    assert_eq!(sys!(pkey_mprotect, memory.start, PAGE, libc::PROT_READ, -1_i64), Ok(0));
    assert_eq!(sys!(uname, memory.start), Err(libc::EFAULT));
    assert_eq!(sys!(pkey_mprotect, memory.start, PAGE, RW, -1_i64), Ok(0));
    assert_eq!(sys!(pkey_mprotect, memory.start, PAGE, RW, 99), Err(libc::EINVAL));
}
