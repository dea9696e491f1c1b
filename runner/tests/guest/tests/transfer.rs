//! Reading and writing at positions, copies inside the kernel, and what flushes or advises.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use casemate_guest_tests::{Scratch, in_child, pipe, steps, sys, until_asleep};

fn open(path: &CStr) -> i64 {
    sys!(openat, libc::AT_FDCWD, path.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o644).unwrap()
}

fn write(fd: i64, bytes: &[u8]) {
    assert_eq!(sys!(write, fd, bytes.as_ptr(), bytes.len()), Ok(i64::try_from(bytes.len()).unwrap()));
}

/// What up to 64 bytes of a read give.
fn read(fd: i64) -> Vec<u8> {
    let mut buffer = [0_u8; 64];
    let got = sys!(read, fd, buffer.as_mut_ptr(), 64).unwrap();
    buffer[..usize::try_from(got).unwrap()].to_vec()
}

fn close_all(fds: &[i64]) {
    for &fd in fds {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

#[test]
fn positions_are_left_alone() {
    let scratch = Scratch::new("positions");
    let fd = open(&scratch.c_path("f"));
    write(fd, b"0123456789");
    assert_eq!(sys!(pwrite64, fd, b"AB".as_ptr(), 2, 3), Ok(2));
    assert_eq!(sys!(pwrite64, fd, b"z".as_ptr(), 1, 12), Ok(1));
    assert_eq!(sys!(lseek, fd, 0, libc::SEEK_CUR), Ok(10));
    assert_eq!(sys!(pwrite64, fd, b"A".as_ptr(), 1, -1_i64), Err(libc::EINVAL));
    assert_eq!(sys!(lseek, fd, 0, libc::SEEK_SET), Ok(0));
    let (mut one, mut two) = ([0_u8; 4], [0_u8; 16]);
    let vectors = [iovec(&mut one), iovec(&mut two)];
    assert_eq!(sys!(readv, fd, vectors.as_ptr(), 2), Ok(13));
    assert_eq!((&one, &two[..9]), (b"012A", b"B56789\0\0z".as_slice()));
    assert_eq!(sys!(readv, fd, vectors.as_ptr(), 2), Ok(0));
    let out = [iovec(&mut one), iovec(&mut two[..2])];
    assert_eq!(sys!(pwritev, fd, out.as_ptr(), 2, 20, 0), Ok(6));
    let mut back = [0_u8; 6];
    assert_eq!(sys!(pread64, fd, back.as_mut_ptr(), 6, 20), Ok(6));
    assert_eq!(&back, b"012AB5");
    let (pipe_read, pipe_write) = pipe(0);
    assert_eq!(sys!(pread64, pipe_read, back.as_mut_ptr(), 1, 0), Err(libc::ESPIPE));
    assert_eq!(sys!(pwrite64, pipe_write, back.as_ptr(), 1, 0), Err(libc::ESPIPE));
    assert_eq!(sys!(pwritev, pipe_write, out.as_ptr(), 2, 0, 0), Err(libc::ESPIPE));
    // With O_APPEND the position of pwrite does not matter.
    assert_eq!(sys!(fcntl, fd, libc::F_SETFL, libc::O_APPEND), Ok(0));
    assert_eq!(sys!(pwrite64, fd, b"end".as_ptr(), 3, 0), Ok(3));
    assert_eq!(sys!(pread64, fd, back.as_mut_ptr(), 6, 26), Ok(3));
    close_all(&[fd, pipe_read.into(), pipe_write.into()]);
}

#[test]
fn second_forms_take_flags() {
    let scratch = Scratch::new("v2");
    let fd = open(&scratch.c_path("f"));
    let (mut one, mut two) = (*b"abc", *b"de");
    let vectors = [iovec(&mut one), iovec(&mut two)];
    assert_eq!(sys!(pwritev2, fd, vectors.as_ptr(), 2, -1_i64, 0, libc::RWF_DSYNC), Ok(5));
    assert_eq!(sys!(lseek, fd, 0, libc::SEEK_CUR), Ok(5));
    assert_eq!(sys!(pwritev2, fd, vectors.as_ptr(), 2, 0, 0, libc::RWF_APPEND), Ok(5));
    assert_eq!(sys!(preadv2, fd, vectors.as_ptr(), 2, 4, 0, 0), Ok(5));
    assert_eq!((one, two), (*b"eab", *b"cd"));
    assert_eq!(sys!(lseek, fd, 0, libc::SEEK_CUR), Ok(5));
    assert_eq!(sys!(preadv2, fd, vectors.as_ptr(), 1, 0, 0, 1 << 30), Err(libc::EOPNOTSUPP));
    assert_eq!(sys!(preadv2, fd, vectors.as_ptr(), 2, -1_i64, 0, 0), Ok(5));
    let (pipe_read, pipe_write) = pipe(0);
    assert_eq!(sys!(preadv2, pipe_read, vectors.as_ptr(), 1, -1_i64, 0, libc::RWF_NOWAIT), Err(libc::EAGAIN));
    close_all(&[fd, pipe_read.into(), pipe_write.into()]);
}

#[test]
fn sendfile_copies_to_files_and_pipes() {
    let scratch = Scratch::new("sendfile");
    let (from, to) = (open(&scratch.c_path("from")), open(&scratch.c_path("to")));
    write(from, b"0123456789");
    assert_eq!(sys!(lseek, from, 2, libc::SEEK_SET), Ok(2));
    assert_eq!(sys!(sendfile, to, from, 0, 3), Ok(3));
    assert_eq!(sys!(lseek, from, 0, libc::SEEK_CUR), Ok(5));
    let mut offset = 7_i64;
    assert_eq!(sys!(sendfile, to, from, &raw mut offset, 100), Ok(3));
    assert_eq!(offset, 10);
    assert_eq!(sys!(sendfile, to, from, &raw mut offset, 100), Ok(0));
    assert_eq!(sys!(lseek, from, 0, libc::SEEK_CUR), Ok(5));
    assert_eq!(std::fs::read(scratch.path("to")).unwrap(), b"234789");
    let (pipe_read, pipe_write) = pipe(0);
    assert_eq!(sys!(sendfile, pipe_write, from, 0, 64), Ok(5));
    assert_eq!(read(pipe_read.into()), b"56789");
    offset = -1;
    assert_eq!(sys!(sendfile, to, from, &raw mut offset, 1), Err(libc::EINVAL));
    assert_eq!(sys!(sendfile, to, pipe_read, &raw mut offset, 1), Err(libc::ESPIPE));
    assert_eq!(sys!(sendfile, pipe_read, from, 0, 1), Err(libc::EBADF));
    assert_eq!(sys!(fcntl, to, libc::F_SETFL, libc::O_APPEND), Ok(0));
    assert_eq!(sys!(sendfile, to, from, 0, 1), Err(libc::EINVAL));
    close_all(&[from, to, pipe_read.into(), pipe_write.into()]);
}

#[test]
fn copy_file_range_copies() {
    let scratch = Scratch::new("copy-range");
    let (from, to) = (open(&scratch.c_path("from")), open(&scratch.c_path("to")));
    write(from, b"0123456789");
    let (mut input, mut output) = (4_i64, 2_i64);
    assert_eq!(sys!(copy_file_range, from, &raw mut input, to, &raw mut output, 100, 0), Ok(6));
    assert_eq!((input, output), (10, 8));
    assert_eq!(std::fs::read(scratch.path("to")).unwrap(), b"\0\x00456789");
    assert_eq!(sys!(copy_file_range, from, &raw mut input, to, &raw mut output, 100, 0), Ok(0));
    assert_eq!(sys!(lseek, from, 0, libc::SEEK_SET), Ok(0));
    assert_eq!(sys!(copy_file_range, from, 0, to, 0, 2, 0), Ok(2));
    assert_eq!((sys!(lseek, from, 0, libc::SEEK_CUR), sys!(lseek, to, 0, libc::SEEK_CUR)), (Ok(2), Ok(2)));
    assert_eq!(std::fs::read(scratch.path("to")).unwrap(), b"01456789");
    // One file, overlapping.
    (input, output) = (0, 2);
    assert_eq!(sys!(copy_file_range, from, &raw mut input, from, &raw mut output, 4, 0), Err(libc::EINVAL));
    assert_eq!(sys!(copy_file_range, from, 0, to, 0, 2, 1), Err(libc::EINVAL));
    let (pipe_read, pipe_write) = pipe(0);
    assert_eq!(sys!(copy_file_range, from, 0, pipe_write, 0, 2, 0), Err(libc::EINVAL));
    let dir = sys!(open, scratch.c_path(".").as_ptr(), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys!(copy_file_range, dir, 0, to, 0, 2, 0), Err(libc::EISDIR));
    assert_eq!(sys!(fcntl, to, libc::F_SETFL, libc::O_APPEND), Ok(0));
    assert_eq!(sys!(copy_file_range, from, 0, to, 0, 2, 0), Err(libc::EBADF));
    close_all(&[from, to, dir, pipe_read.into(), pipe_write.into()]);
}

#[test]
fn splice_moves_between_pipes_and_files() {
    let scratch = Scratch::new("splice");
    let (from, to) = (open(&scratch.c_path("from")), open(&scratch.c_path("to")));
    write(from, b"0123456789");
    let (pipe_read, pipe_write) = pipe(0);
    let (other_read, other_write) = pipe(0);
    let mut offset = 2_i64;
    assert_eq!(sys!(splice, from, &raw mut offset, pipe_write, 0, 5, 0), Ok(5));
    assert_eq!(offset, 7);
    assert_eq!(sys!(splice, pipe_read, 0, other_write, 0, 3, 0), Ok(3));
    assert_eq!(read(other_read.into()), b"234");
    offset = 1;
    assert_eq!(sys!(splice, pipe_read, 0, to, &raw mut offset, 100, libc::SPLICE_F_NONBLOCK), Ok(2));
    assert_eq!(offset, 3);
    assert_eq!(std::fs::read(scratch.path("to")).unwrap(), b"\x0056");
    let nonblock = libc::SPLICE_F_NONBLOCK;
    assert_eq!(sys!(splice, pipe_read, 0, to, 0, 100, nonblock), Err(libc::EAGAIN));
    assert_eq!(sys!(splice, pipe_read, 0, other_write, 0, 100, nonblock), Err(libc::EAGAIN));
    // The file's own position, and its end.
    assert_eq!(sys!(lseek, from, 8, libc::SEEK_SET), Ok(8));
    assert_eq!(sys!(splice, from, 0, pipe_write, 0, 100, 0), Ok(2));
    assert_eq!(sys!(splice, from, 0, pipe_write, 0, 100, 0), Ok(0));
    assert_eq!(read(pipe_read.into()), b"89");
    assert_eq!(sys!(splice, from, 0, to, 0, 1, 0), Err(libc::EINVAL));
    assert_eq!(sys!(splice, from, 0, pipe_write, &raw mut offset, 1, 0), Err(libc::ESPIPE));
    assert_eq!(sys!(splice, pipe_read, 0, pipe_write, 0, 1, 0), Err(libc::EINVAL));
    assert_eq!(sys!(splice, from, 0, pipe_read, 0, 1, 0), Err(libc::EBADF));
    assert_eq!(sys!(splice, from, 0, pipe_write, 0, 1, 0x100), Err(libc::EINVAL));
    assert_eq!(sys!(splice, from, 0, pipe_write, 0, 0, 0), Ok(0));
    // The end of a pipe without writers.
    close_all(&[pipe_write.into()]);
    assert_eq!(sys!(splice, pipe_read, 0, to, 0, 1, 0), Ok(0));
    close_all(&[from, to, pipe_read.into(), other_read.into(), other_write.into()]);
}

#[test]
fn splice_waits_for_bytes() {
    let (first_read, first_write) = pipe(0);
    let (second_read, second_write) = pipe(0);
    let mover = casemate_guest_tests::child(|| steps(&[sys!(splice, first_read, 0, second_write, 0, 10, 0) == Ok(4)]));
    casemate_guest_tests::until_asleep(mover.into(), mover.into());
    write(first_write.into(), b"late");
    assert_eq!(read(second_read.into()), b"late");
    assert_eq!(casemate_guest_tests::wait_status(mover), 0);
    close_all(&[first_read.into(), first_write.into(), second_read.into(), second_write.into()]);
}

#[test]
fn tee_leaves_what_it_copies() {
    let (first_read, first_write) = pipe(0);
    let (second_read, second_write) = pipe(0);
    write(first_write.into(), b"abc");
    write(first_write.into(), b"def");
    assert_eq!(sys!(tee, first_read, second_write, 4, 0), Ok(4));
    assert_eq!(read(second_read.into()), b"abcd");
    assert_eq!(read(first_read.into()), b"abcdef");
    assert_eq!(sys!(tee, first_read, second_write, 4, libc::SPLICE_F_NONBLOCK), Err(libc::EAGAIN));
    assert_eq!(sys!(tee, first_read, first_write, 4, 0), Err(libc::EINVAL));
    let scratch = Scratch::new("tee");
    let file = open(&scratch.c_path("f"));
    assert_eq!(sys!(tee, first_read, file, 4, 0), Err(libc::EINVAL));
    close_all(&[first_read.into(), first_write.into(), second_read.into(), second_write.into(), file]);
}

#[test]
fn vmsplice_fills_and_empties_pipes() {
    let (pipe_read, pipe_write) = pipe(0);
    let (mut one, mut two) = (*b"abc", *b"de");
    let vectors = [iovec(&mut one), iovec(&mut two)];
    assert_eq!(sys!(vmsplice, pipe_write, vectors.as_ptr(), 2, 0), Ok(5));
    let (mut first, mut second) = ([0_u8; 2], [0_u8; 8]);
    let back = [iovec(&mut first), iovec(&mut second)];
    assert_eq!(sys!(vmsplice, pipe_read, back.as_ptr(), 2, 0), Ok(5));
    assert_eq!((&first, &second[..3]), (b"ab", b"cde".as_slice()));
    assert_eq!(sys!(vmsplice, pipe_read, back.as_ptr(), 2, libc::SPLICE_F_NONBLOCK), Err(libc::EAGAIN));
    let scratch = Scratch::new("vmsplice");
    let file = open(&scratch.c_path("f"));
    assert_eq!(sys!(vmsplice, file, vectors.as_ptr(), 2, 0), Err(libc::EBADF));
    assert_eq!(sys!(vmsplice, pipe_write, vectors.as_ptr(), 2, 0x100), Err(libc::EINVAL));
    close_all(&[pipe_read.into(), pipe_write.into(), file]);
}

#[test]
fn flushing_and_advising() {
    let scratch = Scratch::new("flush");
    let fd = open(&scratch.c_path("f"));
    write(fd, b"abc");
    assert_eq!(sys!(fsync, fd), Ok(0));
    assert_eq!(sys!(fdatasync, fd), Ok(0));
    assert_eq!(sys!(syncfs, fd), Ok(0));
    if casemate_guest_tests::inside() {
        // Natively it would wait for all of the host's disks.
        assert_eq!(sys!(sync), Ok(0));
    }
    assert_eq!(sys!(sync_file_range, fd, 0, 0, libc::SYNC_FILE_RANGE_WRITE), Ok(0));
    assert_eq!(sys!(sync_file_range, fd, 0, 0, 8), Err(libc::EINVAL));
    assert_eq!(sys!(sync_file_range, fd, -1_i64, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(readahead, fd, 0, 4096), Ok(0));
    assert_eq!(sys!(fadvise64, fd, 0, 0, libc::POSIX_FADV_SEQUENTIAL), Ok(0));
    assert_eq!(sys!(fadvise64, fd, 0, 0, 77), Err(libc::EINVAL));
    let (pipe_read, pipe_write) = pipe(0);
    assert_eq!(sys!(fsync, pipe_read), Err(libc::EINVAL));
    assert_eq!(sys!(fdatasync, pipe_read), Err(libc::EINVAL));
    assert_eq!(sys!(fadvise64, pipe_read, 0, 0, 0), Err(libc::ESPIPE));
    assert_eq!(sys!(sync_file_range, pipe_read, 0, 0, 0), Err(libc::ESPIPE));
    for result in [sys!(fsync, 9999), sys!(fdatasync, 9999), sys!(syncfs, 9999), sys!(readahead, 9999, 0, 1)] {
        assert_eq!(result, Err(libc::EBADF));
    }
    close_all(&[fd, pipe_read.into(), pipe_write.into()]);
}

#[test]
fn fallocate_modes() {
    let scratch = Scratch::new("fallocate");
    let fd = open(&scratch.c_path("f"));
    let size = || sys!(lseek, fd, 0, libc::SEEK_END).unwrap();
    assert_eq!(sys!(fallocate, fd, 0, 0, 10_000), Ok(0));
    assert_eq!(size(), 10_000);
    assert_eq!(sys!(fallocate, fd, libc::FALLOC_FL_KEEP_SIZE, 0, 20_000), Ok(0));
    assert_eq!(size(), 10_000);
    assert_eq!(sys!(pwrite64, fd, [1_u8; 8192].as_ptr(), 8192, 0), Ok(8192));
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(sys!(fallocate, fd, punch, 100, 200), Ok(0));
    let mut bytes = [9_u8; 400];
    assert_eq!(sys!(pread64, fd, bytes.as_mut_ptr(), 400, 0), Ok(400));
    assert!(bytes[..100].iter().chain(&bytes[300..]).all(|&b| b == 1) && bytes[100..300].iter().all(|&b| b == 0));
    assert_eq!(sys!(fallocate, fd, libc::FALLOC_FL_PUNCH_HOLE, 0, 1), Err(libc::EOPNOTSUPP));
    assert_eq!(sys!(fallocate, fd, 0, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(fallocate, fd, 0, -1_i64, 1), Err(libc::EINVAL));
    let (pipe_read, pipe_write) = pipe(0);
    assert_eq!(sys!(fallocate, pipe_write, 0, 0, 1), Err(libc::ESPIPE));
    close_all(&[fd, pipe_read.into(), pipe_write.into()]);
}

#[test]
fn file_sizes_are_limited() {
    let scratch = Scratch::new("fsize");
    let fd = open(&scratch.c_path("f"));
    in_child(|| {
        let limit = [100_u64, 100];
        // SAFETY: 1. ignoring a signal is always sound.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        steps(&[
            sys!(prlimit64, 0, libc::RLIMIT_FSIZE, limit.as_ptr(), 0) == Ok(0),
            sys!(pwrite64, fd, [1_u8; 64].as_ptr(), 64, 80) == Ok(20),
            sys!(pwrite64, fd, [1_u8; 64].as_ptr(), 64, 100) == Err(libc::EFBIG),
            sys!(ftruncate, fd, 101) == Err(libc::EFBIG),
            sys!(ftruncate, fd, 100) == Ok(0),
        ])
    });
    close_all(&[fd]);
}

/// What is written in bulk may be told to a sleeping reader a little later, but whatever its writer does then: here it
/// makes no call any more.
#[test]
fn a_reader_hears_of_much_data_while_its_writer_computes() {
    for _ in 0..20 {
        let (read, write) = pipe(0);
        let (tid, heard) = (AtomicI64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                tid.store(sys!(gettid).unwrap(), Ordering::SeqCst);
                let mut buffer = [0_u8; 16384];
                assert_eq!(sys!(read, read, buffer.as_mut_ptr(), buffer.len()), Ok(8192));
                heard.store(true, Ordering::SeqCst);
            });
            while tid.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            until_asleep(sys!(getpid).unwrap(), tid.load(Ordering::SeqCst));
            // A row of quick calls, so that what serves them waits for more.
            (0..300).for_each(|_| assert_eq!(sys!(fcntl, write, libc::F_GETFD), Ok(0)));
            assert_eq!(sys!(write, write, [1_u8; 8192].as_ptr(), 8192), Ok(8192));
            while !heard.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
        });
        close_all(&[read.into(), write.into()]);
    }
}

#[test]
fn pages_of_files_are_counted() {
    let fd = sys!(memfd_create, c"counted".as_ptr(), 0).unwrap();
    assert_eq!(sys!(ftruncate, fd, 16 * 4096), Ok(0));
    for page in [0, 3, 4, 15] {
        assert_eq!(sys!(pwrite64, fd, b"x".as_ptr(), 1, page * 4096), Ok(1));
    }
    let count = |fd: i64, offset: u64, len: u64, flags: u32| {
        let (range, mut figures) = ([offset, len], [9_u64; 5]);
        sys!(cachestat, fd, range.as_ptr(), figures.as_mut_ptr(), flags).map(|_| figures[0])
    };
    match count(fd, 0, 0, 0) {
        Err(libc::ENOSYS) if !casemate_guest_tests::inside() => return,
        result => assert_eq!(result, Ok(4)),
    }
    assert_eq!(count(fd, 0, 4096, 0), Ok(1));
    assert_eq!(count(fd, 1, 4096, 0), Ok(1));
    assert_eq!(count(fd, 4096, 2 * 4096, 0), Ok(0));
    assert_eq!(count(fd, 4 * 4096 - 1, 2, 0), Ok(2));
    assert_eq!(count(fd, 4 * 4096, 0, 0), Ok(2));
    assert_eq!(count(fd, 1 << 40, 1, 0), Ok(0));
    assert_eq!(count(fd, 0, 0, 1), Err(libc::EINVAL));
    assert_eq!(count(-1, 0, 0, 0), Err(libc::EBADF));
    assert_eq!(sys!(cachestat, fd, 8, 8, 0), Err(libc::EFAULT));
    let (read, write) = pipe(0);
    assert_eq!(count(read.into(), 0, 0, 0), Ok(0));
    close_all(&[fd, read.into(), write.into()]);
}
