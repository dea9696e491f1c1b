//! mmap and its family, as mmap(2), mprotect(2), mremap(2), madvise(2), msync(2), mincore(2), brk(2) say.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use casemate_guest_tests::{Memory, Scratch, fork_status, in_child, sys};

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Whether a store at `at` kills a child.
fn store_faults(at: *mut u8) -> bool {
    let status = fork_status(|| {
        // SAFETY: 1. none: whether this faults is the question.
        unsafe { at.write_volatile(1) };
        0
    });
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV
}

#[test]
fn anonymous_memory_is_zero_and_keeps_what_is_written() {
    let memory = Memory::new(1 << 20, libc::MAP_PRIVATE);
    for offset in (0..memory.len).step_by(PAGE) {
        assert_eq!(memory.get(offset), 0);
        memory.set(offset, u8::try_from(offset / PAGE % 251).unwrap());
    }
    for offset in (0..memory.len).step_by(PAGE) {
        assert_eq!(usize::from(memory.get(offset)), offset / PAGE % 251);
    }
}

#[test]
fn copy_on_write_keeps_parent_and_child_apart() {
    let memory = Memory::new(64 * PAGE, libc::MAP_PRIVATE);
    for page in 0..64 {
        memory.set(page * PAGE, 1);
    }
    in_child(|| {
        for page in 0..64 {
            if memory.get(page * PAGE) != 1 {
                return 1;
            }
            memory.set(page * PAGE, 2);
        }
        // A grandchild sees the child's.
        let status = fork_status(|| i32::from((0..64).any(|page| memory.get(page * PAGE) != 2)));
        i32::from(status != 0 || (0..64).any(|page| memory.get(page * PAGE) != 2))
    });
    assert!((0..64).all(|page| memory.get(page * PAGE) == 1));
}

#[test]
fn shared_memory_is_shared_over_fork() {
    let memory = Memory::new(4 * PAGE, libc::MAP_SHARED);
    in_child(|| {
        memory.set(0, 9);
        memory.set(3 * PAGE, 8);
        0
    });
    assert_eq!((memory.get(0), memory.get(3 * PAGE)), (9, 8));
}

#[test]
fn protection_is_enforced() {
    let memory = Memory::new(3 * PAGE, libc::MAP_PRIVATE);
    memory.set(PAGE, 5);
    // SAFETY: 1. inside the mapping.
    let middle = unsafe { memory.start.add(PAGE) };
    assert_eq!(sys!(mprotect, middle, PAGE, libc::PROT_READ), Ok(0));
    assert_eq!(memory.get(PAGE), 5);
    assert!(store_faults(middle));
    memory.set(0, 1);
    memory.set(2 * PAGE, 1);
    assert_eq!(sys!(mprotect, middle, PAGE, RW), Ok(0));
    memory.set(PAGE, 6);
    assert_eq!(memory.get(PAGE), 6);
    assert_eq!(sys!(mprotect, middle as u64 + 1, PAGE, RW), Err(libc::EINVAL));
    assert_eq!(sys!(munmap, middle, PAGE), Ok(0));
    assert!(store_faults(middle));
    assert_eq!(sys!(mprotect, memory.start, 3 * PAGE, RW), Err(libc::ENOMEM));
}

#[test]
fn the_kernel_respects_protection_too() {
    let memory = Memory::new(2 * PAGE, libc::MAP_PRIVATE);
    assert_eq!(sys!(mprotect, memory.start, PAGE, libc::PROT_READ), Ok(0));
    assert_eq!(sys!(uname, memory.start), Err(libc::EFAULT));
    // SAFETY: 1. inside the mapping.
    let second = unsafe { memory.start.add(PAGE) };
    assert_eq!(sys!(uname, second), Ok(0));
}

#[test]
fn fixed_maps_replace_and_noreplace_does_not() {
    let memory = Memory::new(4 * PAGE, libc::MAP_PRIVATE);
    memory.set(PAGE, 3);
    let at = memory.start as u64 + PAGE as u64;
    let noreplace = PRIVATE | libc::MAP_FIXED_NOREPLACE;
    assert_eq!(sys!(mmap, at, PAGE, RW, noreplace, -1_i64, 0), Err(libc::EEXIST));
    assert_eq!(memory.get(PAGE), 3);
    assert_eq!(sys!(mmap, at, PAGE, RW, PRIVATE | libc::MAP_FIXED, -1_i64, 0), Ok(at.cast_signed()));
    assert_eq!(memory.get(PAGE), 0);
}

#[test]
fn bad_arguments_of_mmap() {
    assert_eq!(sys!(mmap, 0, 0, RW, PRIVATE, -1_i64, 0), Err(libc::EINVAL));
    assert_eq!(sys!(mmap, 1, PAGE, RW, PRIVATE | libc::MAP_FIXED, -1_i64, 0), Err(libc::EINVAL));
    assert_eq!(sys!(mmap, 0, PAGE, RW, libc::MAP_PRIVATE, 999, 0), Err(libc::EBADF));
    assert_eq!(sys!(mmap, 0, PAGE, RW, libc::MAP_ANONYMOUS, -1_i64, 0), Err(libc::EINVAL));
    assert_eq!(sys!(mmap, 0, u64::MAX - 8192, RW, PRIVATE, -1_i64, 0), Err(libc::ENOMEM));
    assert_eq!(sys!(munmap, 1, PAGE), Err(libc::EINVAL));
    assert_eq!(sys!(munmap, 0x1000, 0), Err(libc::EINVAL));
}

#[test]
fn files_map_private_and_shared() {
    let scratch = Scratch::new("map");
    let path = scratch.path("file");
    let mut file = std::fs::File::create_new(&path).unwrap();
    file.write_all(&vec![7_u8; 2 * PAGE + 100]).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let map = |flags: i32| {
        let start = sys!(mmap, 0, 3 * PAGE, RW, flags, file.as_raw_fd(), 0).unwrap() as *mut u8;
        Memory { start, len: 3 * PAGE }
    };
    let private = map(libc::MAP_PRIVATE);
    assert_eq!((private.get(0), private.get(2 * PAGE + 99), private.get(2 * PAGE + 100)), (7, 7, 0));
    private.set(0, 1);
    let shared = map(libc::MAP_SHARED);
    assert_eq!(shared.get(0), 7);
    shared.set(1, 2);
    assert_eq!(sys!(msync, shared.start, PAGE, libc::MS_SYNC), Ok(0));
    assert_eq!(&std::fs::read(&path).unwrap()[..3], [7, 2, 7]);
    std::fs::File::options().write(true).open(&path).unwrap().write_all(b"ab").unwrap();
    assert_eq!((shared.get(0), shared.get(1)), (b'a', b'b'));
    assert_eq!(private.get(0), 1);
}

#[test]
fn touching_past_the_end_of_a_file_is_sigbus() {
    let scratch = Scratch::new("bus");
    let path = scratch.path("file");
    std::fs::write(&path, b"x").unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let start = sys!(mmap, 0, 2 * PAGE, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0).unwrap() as *mut u8;
    let memory = Memory { start, len: 2 * PAGE };
    let status = fork_status(|| i32::from(memory.get(PAGE)));
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS, "{status:#x}");
}

#[test]
fn mremap_grows_moves_and_shrinks() {
    let memory = Memory::new(2 * PAGE, libc::MAP_PRIVATE);
    memory.set(0, 1);
    memory.set(PAGE, 2);
    let moved = sys!(mremap, memory.start, 2 * PAGE, 64 * PAGE, libc::MREMAP_MAYMOVE).unwrap() as *mut u8;
    let grown = Memory { start: moved, len: 64 * PAGE };
    std::mem::forget(memory);
    assert_eq!((grown.get(0), grown.get(PAGE), grown.get(63 * PAGE)), (1, 2, 0));
    assert_eq!(sys!(mremap, grown.start, 64 * PAGE, PAGE, 0), Ok(grown.start as i64));
    // SAFETY: 1. only an address, for a store that must fault.
    let cut = unsafe { grown.start.add(PAGE) };
    assert!(store_faults(cut));
    assert_eq!(sys!(mremap, 0x1000, PAGE, 2 * PAGE, libc::MREMAP_MAYMOVE), Err(libc::EFAULT));
}

#[test]
fn dontneed_gives_zeros_back() {
    let memory = Memory::new(8 * PAGE, libc::MAP_PRIVATE);
    memory.set(PAGE, 1);
    memory.set(2 * PAGE, 1);
    // SAFETY: 1. inside the mapping.
    let second = unsafe { memory.start.add(PAGE) };
    assert_eq!(sys!(madvise, second, PAGE, libc::MADV_DONTNEED), Ok(0));
    assert_eq!((memory.get(PAGE), memory.get(2 * PAGE)), (0, 1));
    assert_eq!(sys!(madvise, second, PAGE, 9999), Err(libc::EINVAL));
}

#[test]
fn brk_moves() {
    // In a child without other threads: the C library allocates by brk too.
    in_child(|| {
        let start = sys!(brk, 0).unwrap();
        let end = start + 10 * PAGE as i64;
        if sys!(brk, end) != Ok(end) {
            return 1;
        }
        let last = (end - 1) as *mut u8;
        // SAFETY: 1. just below the new break.
        unsafe { last.write_volatile(3) };
        i32::from(sys!(brk, start) != Ok(start) || sys!(brk, 1) != Ok(start))
    });
}

#[test]
fn the_stack_grows() {
    fn deep(level: usize) -> usize {
        let frame = [level; 512];
        if level == 0 { std::hint::black_box(frame)[0] } else { deep(level - 1) + std::hint::black_box(frame)[1] }
    }
    in_child(|| {
        // Well below the 2 MiB of a test thread, even unoptimised.
        let total = deep(60);
        i32::from(total != (1..=60).sum::<usize>())
    });
}

#[test]
fn memfd_maps_and_seals() {
    let fd = sys!(memfd_create, c"x".as_ptr(), libc::MFD_ALLOW_SEALING).unwrap();
    assert_eq!(sys!(ftruncate, fd, PAGE), Ok(0));
    let start = sys!(mmap, 0, PAGE, RW, libc::MAP_SHARED, fd, 0).unwrap() as *mut u8;
    let memory = Memory { start, len: PAGE };
    memory.set(10, 4);
    let mut byte = 0_u8;
    assert_eq!(sys!(pread64, fd, &raw mut byte, 1, 10), Ok(1));
    assert_eq!(byte, 4);
    assert_eq!(sys!(fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE), Err(libc::EBUSY));
    assert_eq!(sys!(fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK), Ok(0));
    assert_eq!(sys!(ftruncate, fd, 0), Err(libc::EPERM));
    assert_eq!(sys!(fcntl, fd, libc::F_GET_SEALS, 0), Ok(i64::from(libc::F_SEAL_SHRINK)));
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn big_reservations_cost_nothing() {
    let len = 1_usize << 40;
    let flags = PRIVATE | libc::MAP_NORESERVE;
    let start = sys!(mmap, 0, len, libc::PROT_NONE, flags, -1_i64, 0).unwrap();
    assert_eq!(sys!(mprotect, start + (1 << 39), PAGE, RW), Ok(0));
    let at = (start + (1 << 39)) as *mut u8;
    // SAFETY: 1. just made writable.
    unsafe { at.write_volatile(1) };
    assert_eq!(sys!(munmap, start, len), Ok(0));
}

#[test]
fn code_can_be_written_and_run() {
    let memory = Memory::new(PAGE, libc::MAP_PRIVATE);
    // mov eax, 42; ret
    for (offset, byte) in [0xb8, 42, 0, 0, 0, 0xc3].into_iter().enumerate() {
        memory.set(offset, byte);
    }
    assert_eq!(sys!(mprotect, memory.start, PAGE, libc::PROT_READ | libc::PROT_EXEC), Ok(0));
    // SAFETY: 1. the bytes above are a function of this type.
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(memory.start) };
    assert_eq!(function(), 42);
}

#[test]
fn mincore_and_msync_know_holes() {
    let memory = Memory::new(2 * PAGE, libc::MAP_PRIVATE);
    memory.set(0, 1);
    let mut resident = [0_u8; 2];
    assert_eq!(sys!(mincore, memory.start, 2 * PAGE, resident.as_mut_ptr()), Ok(0));
    assert_eq!(resident[0] & 1, 1);
    assert_eq!(sys!(msync, memory.start, 2 * PAGE, libc::MS_ASYNC), Ok(0));
    assert_eq!(sys!(munmap, memory.start, PAGE), Ok(0));
    assert_eq!(sys!(mincore, memory.start, 2 * PAGE, resident.as_mut_ptr()), Err(libc::ENOMEM));
    assert_eq!(sys!(msync, memory.start, 2 * PAGE, libc::MS_ASYNC), Err(libc::ENOMEM));
}

/// Found when the guest fuzzer wanted to run from a memfd.
#[test]
fn memfd_is_executed() {
    let name = std::ffi::CString::new("program").unwrap();
    let fd = sys!(memfd_create, name.as_ptr(), 0).unwrap();
    let program = std::fs::read("/bin/true").unwrap();
    assert_eq!(sys!(write, fd, program.as_ptr(), program.len()), Ok(i64::try_from(program.len()).unwrap()));
    let path = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).unwrap();
    let copy = sys!(openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC).unwrap();
    assert_eq!(sys!(close, fd), Ok(0));
    let (empty, argv) = (c"".as_ptr(), [name.as_ptr(), std::ptr::null()]);
    in_child(|| {
        let _ = sys!(execveat, copy, empty, argv.as_ptr(), [0_u64].as_ptr(), libc::AT_EMPTY_PATH);
        1
    });
    assert_eq!(sys!(close, copy), Ok(0));
}

/// What stays mapped to the end of the process: `pages` with protection `prot`.
fn for_good(pages: usize, prot: i32) -> i64 {
    sys!(mmap, 0, pages * PAGE, prot, PRIVATE, -1_i64, 0).unwrap()
}

#[test]
fn sealed_mappings_stay() {
    let page = i64::try_from(PAGE).unwrap();
    let start = for_good(4, RW);
    let sealed = start + page;
    match sys!(mseal, sealed, 2 * PAGE, 0) {
        Err(libc::ENOSYS) if !casemate_guest_tests::inside() => return,
        result => assert_eq!(result, Ok(0)),
    }
    assert_eq!(sys!(mseal, sealed, PAGE, 1), Err(libc::EINVAL));
    assert_eq!(sys!(mseal, sealed + 1, PAGE, 0), Err(libc::EINVAL));
    assert_eq!(sys!(mseal, sealed, usize::MAX, 0), Err(libc::EINVAL));
    assert_eq!(sys!(mseal, sealed, 0, 0), Ok(0));
    assert_eq!(sys!(mseal, sealed, 2 * PAGE, 0), Ok(0));

    assert_eq!(sys!(munmap, start, 4 * PAGE), Err(libc::EPERM));
    assert_eq!(sys!(munmap, sealed, PAGE), Err(libc::EPERM));
    assert_eq!(sys!(mprotect, sealed, PAGE, libc::PROT_READ), Err(libc::EPERM));
    assert_eq!(sys!(mprotect, sealed, PAGE, RW), Err(libc::EPERM));
    assert_eq!(sys!(mprotect, start, 4 * PAGE, libc::PROT_READ), Err(libc::EPERM));
    if casemate_guest_tests::inside() {
        // What comes before is changed, as since Linux 6.12.
        assert_eq!(sys!(getrandom, start, 1, 0), Err(libc::EFAULT));
    }
    let fixed = PRIVATE | libc::MAP_FIXED;
    assert_eq!(sys!(mmap, sealed, PAGE, RW, fixed, -1_i64, 0), Err(libc::EPERM));
    assert_eq!(sys!(mremap, sealed, 2 * PAGE, PAGE, libc::MREMAP_MAYMOVE, 0), Err(libc::EPERM));
    assert_eq!(sys!(mremap, sealed, PAGE, 2 * PAGE, libc::MREMAP_MAYMOVE, 0), Err(libc::EPERM));
    let other = for_good(1, RW);
    let onto = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    assert_eq!(sys!(mremap, other, PAGE, PAGE, onto, sealed), Err(libc::EPERM));

    // What can be written anyway may be discarded, what cannot may not.
    // SAFETY: 1. mapped and writable.
    unsafe { (sealed as *mut u8).write_volatile(7) };
    assert_eq!(sys!(madvise, sealed, PAGE, libc::MADV_DONTNEED), Ok(0));
    // SAFETY: as above.
    assert_eq!(unsafe { (sealed as *mut u8).read_volatile() }, 0);
    let constant = for_good(1, libc::PROT_READ);
    assert_eq!(sys!(mseal, constant, PAGE, 0), Ok(0));
    for advice in [libc::MADV_DONTNEED, libc::MADV_FREE, libc::MADV_DONTFORK, libc::MADV_WIPEONFORK] {
        assert_eq!(sys!(madvise, constant, PAGE, advice), Err(libc::EPERM), "{advice}");
    }
    assert_eq!(sys!(madvise, constant, PAGE, libc::MADV_WILLNEED), Ok(0));
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let of_sealed = maps.split_once(&format!("{sealed:x}-")).unwrap().1;
    assert!(of_sealed.lines().find(|line| line.starts_with("VmFlags:")).unwrap().contains(" sl"));

    // Nothing is sealed where there is a hole.
    let holey = for_good(3, RW);
    assert_eq!(sys!(munmap, holey + page, PAGE), Ok(0));
    assert_eq!(sys!(mseal, holey, 3 * PAGE, 0), Err(libc::ENOMEM));
    assert_eq!(sys!(munmap, holey, 3 * PAGE), Ok(0));
    // A child's are sealed too.
    in_child(|| i32::from(sys!(munmap, sealed, PAGE) != Err(libc::EPERM)));
}
