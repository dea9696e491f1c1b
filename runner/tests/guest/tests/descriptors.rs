//! fcntl, locks, ioctl, duplicates, ranges, and the calls that make descriptors in their old forms.

use std::ffi::CStr;

use casemate_guest_tests::{Scratch, child, in_child, pipe, steps, sys, until_asleep, wait_status};

fn open(path: &CStr, flags: i32) -> i64 {
    sys!(openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o644).unwrap()
}

fn lock(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn set(fd: i64, cmd: i32, kind: i32, start: i64, len: i64) -> Result<i64, i32> {
    let mut lock = lock(kind, start, len);
    sys!(fcntl, fd, cmd, &raw mut lock)
}

#[test]
fn status_flags_belong_to_the_description() {
    let scratch = Scratch::new("flags");
    let fd = open(&scratch.c_path("f"), libc::O_CREAT | libc::O_RDWR);
    let copy = sys!(dup, fd).unwrap();
    assert_eq!(sys!(fcntl, fd, libc::F_SETFL, libc::O_APPEND | libc::O_NONBLOCK), Ok(0));
    let shown = i32::try_from(sys!(fcntl, copy, libc::F_GETFL, 0).unwrap()).unwrap();
    assert_eq!(shown & libc::O_ACCMODE, libc::O_RDWR);
    assert_eq!(shown & (libc::O_APPEND | libc::O_NONBLOCK), libc::O_APPEND | libc::O_NONBLOCK);
    // The access mode and creation flags cannot change.
    assert_eq!(sys!(fcntl, fd, libc::F_SETFL, libc::O_WRONLY | libc::O_TRUNC), Ok(0));
    let shown = i32::try_from(sys!(fcntl, fd, libc::F_GETFL, 0).unwrap()).unwrap();
    assert_eq!(shown & (libc::O_ACCMODE | libc::O_APPEND | libc::O_TRUNC), libc::O_RDWR);
    // The position is shared, the close-on-exec flag is not.
    assert_eq!(sys!(write, fd, b"abcdef".as_ptr(), 6), Ok(6));
    assert_eq!(sys!(lseek, copy, 0, libc::SEEK_CUR), Ok(6));
    assert_eq!(sys!(fcntl, fd, libc::F_SETFD, libc::FD_CLOEXEC), Ok(0));
    assert_eq!(sys!(fcntl, copy, libc::F_GETFD, 0), Ok(0));
    assert_eq!(sys!(fcntl, fd, 9999, 0), Err(libc::EINVAL));
    assert_eq!(sys!(fcntl, 9999, libc::F_GETFD, 0), Err(libc::EBADF));
    for fd in [fd, copy] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn duplicates_take_the_lowest_number_and_keep_limits() {
    in_child(|| {
        let first = sys!(dup, 0).unwrap();
        let second = sys!(dup, 0).unwrap();
        let _ = sys!(close, first);
        let small = [64_u64, 64];
        steps(&[
            sys!(dup, 0) == Ok(first),
            sys!(fcntl, 0, libc::F_DUPFD, second) == Ok(second + 1),
            sys!(prlimit64, 0, libc::RLIMIT_NOFILE, small.as_ptr(), 0) == Ok(0),
            sys!(dup2, 0, 64) == Err(libc::EBADF),
            sys!(dup2, 0, -1_i64) == Err(libc::EBADF),
            sys!(dup2, 63, 63) == Err(libc::EBADF),
            sys!(dup2, 0, 0) == Ok(0),
            sys!(dup3, 0, 5, 1) == Err(libc::EINVAL),
            sys!(fcntl, 0, libc::F_DUPFD, 64) == Err(libc::EINVAL),
            sys!(dup2, 0, 63) == Ok(63),
            sys!(fcntl, 0, libc::F_DUPFD, 63) == Err(libc::EMFILE),
        ])
    });
}

#[test]
fn close_range_flags() {
    in_child(|| {
        for fd in 100..110 {
            if sys!(dup2, 0, fd) != Ok(fd) {
                return 99;
            }
        }
        let cloexec = libc::CLOSE_RANGE_CLOEXEC;
        steps(&[
            sys!(close_range, 102, 104, cloexec) == Ok(0),
            sys!(fcntl, 101, libc::F_GETFD, 0) == Ok(0),
            sys!(fcntl, 102, libc::F_GETFD, 0) == Ok(1),
            sys!(fcntl, 104, libc::F_GETFD, 0) == Ok(1),
            sys!(fcntl, 105, libc::F_GETFD, 0) == Ok(0),
            sys!(close_range, 105, 107, libc::CLOSE_RANGE_UNSHARE) == Ok(0),
            sys!(fcntl, 107, libc::F_GETFD, 0) == Err(libc::EBADF),
            sys!(fcntl, 108, libc::F_GETFD, 0) == Ok(0),
            sys!(close_range, 9, 8, 0) == Err(libc::EINVAL),
            sys!(close_range, 1, 2, 0x100) == Err(libc::EINVAL),
            sys!(close_range, 100, u32::MAX, 0) == Ok(0),
            sys!(fcntl, 100, libc::F_GETFD, 0) == Err(libc::EBADF),
        ])
    });
}

#[test]
fn record_locks_exclude_other_processes() {
    let scratch = Scratch::new("posix-locks");
    let path = scratch.c_path("f");
    let fd = open(&path, libc::O_CREAT | libc::O_RDWR);
    let me = sys!(getpid).unwrap();
    assert_eq!(set(fd, libc::F_SETLK, libc::F_WRLCK, 10, 20), Ok(0));
    // The owner sees no conflict, not even through another description.
    assert_eq!(set(fd, libc::F_SETLK, libc::F_RDLCK, 10, 5), Ok(0));
    let mut asked = lock(libc::F_WRLCK, 0, 0);
    assert_eq!(sys!(fcntl, fd, libc::F_GETLK, &raw mut asked), Ok(0));
    assert_eq!(i32::from(asked.l_type), libc::F_UNLCK);
    in_child(|| {
        let mut asked = lock(libc::F_WRLCK, 0, 0);
        let told = sys!(fcntl, fd, libc::F_GETLK, &raw mut asked);
        steps(&[
            told == Ok(0),
            i32::from(asked.l_type) == libc::F_RDLCK && (asked.l_start, asked.l_len) == (10, 5),
            i64::from(asked.l_pid) == me,
            set(fd, libc::F_SETLK, libc::F_RDLCK, 10, 5) == Ok(0),
            set(fd, libc::F_SETLK, libc::F_RDLCK, 10, 6) == Err(libc::EAGAIN),
            set(fd, libc::F_SETLK, libc::F_WRLCK, 30, 0) == Ok(0),
            set(fd, libc::F_SETLK, libc::F_UNLCK, 0, 0) == Ok(0),
        ])
    });
    // Unlocking the middle splits.
    assert_eq!(set(fd, libc::F_SETLK, libc::F_UNLCK, 17, 3), Ok(0));
    in_child(|| {
        steps(&[
            set(fd, libc::F_SETLK, libc::F_WRLCK, 17, 3) == Ok(0),
            set(fd, libc::F_SETLK, libc::F_WRLCK, 16, 1) == Err(libc::EAGAIN),
            set(fd, libc::F_SETLK, libc::F_WRLCK, 20, 1) == Err(libc::EAGAIN),
        ])
    });
    // Closing any description of the file drops the process's locks.
    let other = open(&path, libc::O_RDWR);
    assert_eq!(sys!(close, other), Ok(0));
    in_child(|| steps(&[set(fd, libc::F_SETLK, libc::F_WRLCK, 0, 0) == Ok(0)]));
    let read_only = open(&path, libc::O_RDONLY);
    assert_eq!(set(read_only, libc::F_SETLK, libc::F_WRLCK, 0, 0), Err(libc::EBADF));
    assert_eq!(set(fd, libc::F_SETLK, 77, 0, 0), Err(libc::EINVAL));
    assert_eq!(set(fd, libc::F_SETLK, libc::F_WRLCK, -1, 0), Err(libc::EINVAL));
    for fd in [fd, read_only] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn a_waiting_record_lock_is_granted() {
    let scratch = Scratch::new("lock-wait");
    let fd = open(&scratch.c_path("f"), libc::O_CREAT | libc::O_RDWR);
    assert_eq!(set(fd, libc::F_SETLK, libc::F_WRLCK, 0, 0), Ok(0));
    let waiter = child(|| steps(&[set(fd, libc::F_SETLKW, libc::F_WRLCK, 0, 0) == Ok(0)]));
    until_asleep(waiter.into(), waiter.into());
    assert_eq!(set(fd, libc::F_SETLK, libc::F_UNLCK, 0, 0), Ok(0));
    assert_eq!(wait_status(waiter), 0);
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn description_locks_exclude_each_other() {
    let scratch = Scratch::new("ofd-locks");
    let path = scratch.c_path("f");
    // In a child: a description lives as long as any copy of its descriptors, also those that other tests' children have.
    in_child(|| {
        let (one, two) = (open(&path, libc::O_CREAT | libc::O_RDWR), open(&path, libc::O_RDWR));
        let first = set(one, libc::F_OFD_SETLK, libc::F_WRLCK, 0, 10);
        let overlap = set(two, libc::F_OFD_SETLK, libc::F_WRLCK, 5, 10);
        let beside = set(two, libc::F_OFD_SETLK, libc::F_WRLCK, 10, 10);
        let mut asked = lock(libc::F_RDLCK, 0, 0);
        let told = sys!(fcntl, two, libc::F_OFD_GETLK, &raw mut asked);
        let owner = (i32::from(asked.l_type), asked.l_start, asked.l_len, asked.l_pid);
        // They conflict with a record lock of the same process, and live as long as the description.
        let record = set(two, libc::F_SETLK, libc::F_WRLCK, 0, 1);
        let copy = sys!(dup, one).unwrap_or(-1);
        let closed = sys!(close, one);
        let held = set(two, libc::F_OFD_SETLK, libc::F_RDLCK, 0, 1);
        let closed_copy = sys!(close, copy);
        let free = set(two, libc::F_OFD_SETLK, libc::F_RDLCK, 0, 1);
        let mut with_pid = lock(libc::F_RDLCK, 0, 0);
        with_pid.l_pid = 1;
        steps(&[
            first == Ok(0),
            overlap == Err(libc::EAGAIN),
            beside == Ok(0),
            told == Ok(0) && owner == (libc::F_WRLCK, 0, 10, -1),
            record == Err(libc::EAGAIN),
            closed == Ok(0),
            held == Err(libc::EAGAIN),
            closed_copy == Ok(0),
            free == Ok(0),
            sys!(fcntl, two, libc::F_OFD_SETLK, &raw mut with_pid) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn owners_signals_and_pipe_sizes() {
    let (read, write) = pipe(0);
    let me = sys!(getpid).unwrap();
    assert_eq!(sys!(fcntl, read, libc::F_GETOWN, 0), Ok(0));
    assert_eq!(sys!(fcntl, read, libc::F_SETOWN, me), Ok(0));
    assert_eq!(sys!(fcntl, read, libc::F_GETOWN, 0), Ok(me));
    assert_eq!(sys!(fcntl, read, 10, libc::SIGUSR1), Ok(0)); // F_SETSIG
    assert_eq!(sys!(fcntl, read, 11, 0), Ok(libc::SIGUSR1.into())); // F_GETSIG
    assert_eq!(sys!(fcntl, read, 10, 65), Err(libc::EINVAL));
    assert_eq!(sys!(fcntl, write, libc::F_SETPIPE_SZ, 4096), Ok(4096));
    assert_eq!(sys!(fcntl, read, libc::F_GETPIPE_SZ, 0), Ok(4096));
    assert_eq!(sys!(fcntl, write, libc::F_SETPIPE_SZ, 5000), Ok(8192));
    assert_eq!(sys!(write, write, [0_u8; 5000].as_ptr(), 5000), Ok(5000));
    assert_eq!(sys!(fcntl, write, libc::F_SETPIPE_SZ, 4096), Err(libc::EBUSY));
    assert_eq!(sys!(fcntl, read, libc::F_GET_SEALS, 0), Err(libc::EINVAL));
    let scratch = Scratch::new("pipe-size");
    let file = open(&scratch.c_path("f"), libc::O_CREAT | libc::O_RDWR);
    assert_eq!(sys!(fcntl, file, libc::F_GETPIPE_SZ, 0), Err(libc::EBADF));
    for fd in [i64::from(read), i64::from(write), file] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn ioctls_of_any_descriptor() {
    let (read, write) = pipe(0);
    let (mut count, on, off) = (0_i32, 1_i32, 0_i32);
    assert_eq!(sys!(write, write, b"12345".as_ptr(), 5), Ok(5));
    assert_eq!(sys!(ioctl, read, libc::FIONREAD, &raw mut count), Ok(0));
    assert_eq!(count, 5);
    assert_eq!(sys!(ioctl, read, libc::FIONBIO, &raw const on), Ok(0));
    assert_ne!(sys!(fcntl, read, libc::F_GETFL, 0).unwrap() & i64::from(libc::O_NONBLOCK), 0);
    assert_eq!(sys!(ioctl, read, libc::FIONBIO, &raw const off), Ok(0));
    assert_eq!(sys!(fcntl, read, libc::F_GETFL, 0).unwrap() & i64::from(libc::O_NONBLOCK), 0);
    assert_eq!(sys!(ioctl, read, libc::FIOCLEX, 0), Ok(0));
    assert_eq!(sys!(fcntl, read, libc::F_GETFD, 0), Ok(1));
    assert_eq!(sys!(ioctl, read, libc::FIONCLEX, 0), Ok(0));
    assert_eq!(sys!(fcntl, read, libc::F_GETFD, 0), Ok(0));
    assert_eq!(sys!(ioctl, read, libc::TCGETS, 0), Err(libc::ENOTTY));
    assert_eq!(sys!(ioctl, read, libc::TIOCGWINSZ, &raw mut count), Err(libc::ENOTTY));
    assert_eq!(sys!(ioctl, 9999, libc::FIONREAD, &raw mut count), Err(libc::EBADF));
    let scratch = Scratch::new("ioctl");
    let file = open(&scratch.c_path("f"), libc::O_CREAT | libc::O_RDWR);
    assert_eq!(sys!(write, file, b"12345".as_ptr(), 5), Ok(5));
    assert_eq!(sys!(lseek, file, 2, libc::SEEK_SET), Ok(2));
    assert_eq!(sys!(ioctl, file, libc::FIONREAD, &raw mut count), Ok(0));
    assert_eq!(count, 3);
    assert_eq!(sys!(ioctl, file, libc::TCGETS, &raw mut count), Err(libc::ENOTTY));
    for fd in [i64::from(read), i64::from(write), file] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn old_forms_make_descriptors() {
    let mut ends = [0_i32; 2];
    assert_eq!(sys!(pipe, ends.as_mut_ptr()), Ok(0));
    assert_eq!(sys!(fcntl, ends[0], libc::F_GETFD, 0), Ok(0));
    assert_eq!(sys!(pipe, 16), Err(libc::EFAULT));
    let event = sys!(eventfd, 4).unwrap();
    let mut value = 0_u64;
    assert_eq!(sys!(read, event, &raw mut value, 8), Ok(8));
    assert_eq!(value, 4);
    assert_eq!(sys!(read, event, &raw mut value, 7), Err(libc::EINVAL));
    let epoll = sys!(epoll_create, 1).unwrap();
    assert_eq!(sys!(epoll_create, 0), Err(libc::EINVAL));
    assert_eq!(sys!(epoll_create1, 1), Err(libc::EINVAL));
    for fd in [i64::from(ends[0]), i64::from(ends[1]), event, epoll] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn flock_converts_and_passes_to_children() {
    let scratch = Scratch::new("flock-more");
    let path = scratch.c_path("f");
    let (one, two) = (open(&path, libc::O_CREAT | libc::O_RDONLY), open(&path, libc::O_RDONLY));
    assert_eq!(sys!(flock, one, libc::LOCK_SH), Ok(0));
    assert_eq!(sys!(flock, two, libc::LOCK_SH), Ok(0));
    assert_eq!(sys!(flock, two, libc::LOCK_EX | libc::LOCK_NB), Err(libc::EWOULDBLOCK));
    assert_eq!(sys!(flock, one, libc::LOCK_UN), Ok(0));
    assert_eq!(sys!(flock, two, libc::LOCK_EX | libc::LOCK_NB), Ok(0));
    // The child has the same description: it may convert, and its close does not unlock.
    in_child(|| steps(&[sys!(flock, two, libc::LOCK_SH) == Ok(0), sys!(flock, two, libc::LOCK_EX) == Ok(0)]));
    assert_eq!(sys!(flock, one, libc::LOCK_SH | libc::LOCK_NB), Err(libc::EWOULDBLOCK));
    let waiter = child(|| steps(&[sys!(flock, one, libc::LOCK_EX) == Ok(0)]));
    until_asleep(waiter.into(), waiter.into());
    assert_eq!(sys!(flock, two, libc::LOCK_UN), Ok(0));
    assert_eq!(wait_status(waiter), 0);
    assert_eq!(sys!(flock, one, 16), Err(libc::EINVAL));
    for fd in [one, two] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

/// Found by the guest fuzzer: reading one took the lock of the position that it tells.
#[test]
fn fdinfo_tells_positions_even_its_own() {
    let file = sys!(openat, libc::AT_FDCWD, c"/bin/true".as_ptr(), libc::O_RDONLY).unwrap();
    assert_eq!(sys!(lseek, file, 7, libc::SEEK_SET), Ok(7));
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{file}")).unwrap();
    assert!(text.starts_with("pos:\t7\n"), "{text}");
    let path = std::ffi::CString::new(format!("/proc/self/fdinfo/{file}")).unwrap();
    let own = sys!(openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY).unwrap();
    assert_eq!(sys!(dup2, own, file), Ok(file));
    let mut bytes = [0_u8; 6];
    assert_eq!(sys!(read, own, bytes.as_mut_ptr(), bytes.len()), Ok(6));
    assert_eq!(&bytes, b"pos:\t0");
    assert_eq!((sys!(close, own), sys!(close, file)), (Ok(0), Ok(0)));
}

#[test]
fn locks_are_listed() {
    let scratch = Scratch::new("listed-locks");
    let path = scratch.c_path("f");
    let fd = open(&path, libc::O_CREAT | libc::O_RDWR);
    let ino = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path.to_str().unwrap()).unwrap());
    // Without number and device.
    let listed = || -> Vec<String> {
        let text = std::fs::read_to_string("/proc/locks").unwrap();
        let ours = text.lines().filter(|line| line.contains(&format!(":{ino} ")));
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut lines: Vec<String> = ours.map(words).map(|line| [&line[1..5], &line[6..]].concat().join(" ")).collect();
        lines.sort();
        lines
    };
    let me = std::process::id();
    assert!(listed().is_empty());
    assert_eq!(set(fd, libc::F_SETLK, libc::F_WRLCK, 10, 20), Ok(0));
    assert_eq!(set(fd, libc::F_SETLK, libc::F_RDLCK, 40, 0), Ok(0));
    assert_eq!(set(fd, libc::F_OFD_SETLK, libc::F_WRLCK, 35, 1), Ok(0));
    assert_eq!(sys!(flock, fd, libc::LOCK_SH), Ok(0));
    let all = [
        format!("FLOCK ADVISORY READ {me} 0 EOF"),
        "OFDLCK ADVISORY WRITE -1 35 35".to_owned(),
        format!("POSIX ADVISORY READ {me} 40 EOF"),
        format!("POSIX ADVISORY WRITE {me} 10 29"),
    ];
    assert_eq!(listed(), all);
    assert_eq!(sys!(close, fd), Ok(0));
    assert!(listed().is_empty());
}
