//! Edges of calls that a test suite of Linux looks at and that we once had wrong.

use std::ffi::CString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;

use casemate_guest_tests::{
    child, fork_status, in_child, inside, is_root, pipe, steps, sys, until_asleep, wait_status,
};

/// A file of its own, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("casemate-edges-{name}-{}", std::process::id())))
    }

    fn path(&self) -> CString {
        CString::new(self.0.to_str().unwrap()).unwrap()
    }

    /// Opens it; the descriptor is closed in programs.
    fn open(&self, flags: i32) -> Result<i64, i32> {
        sys!(open, self.path().as_ptr(), flags | libc::O_CLOEXEC, 0o755)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A copy of a program that sleeps.
fn sleeper(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    std::fs::copy("/bin/sleep", &scratch.0).unwrap();
    std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    scratch
}

#[test]
fn what_is_open_for_writing_is_not_executed() {
    let program = sleeper("written");
    let writer = program.open(libc::O_WRONLY).unwrap();
    let run = || {
        let path = program.path();
        let args = [path.as_ptr(), c"0".as_ptr(), std::ptr::null()];
        let status = fork_status(|| sys!(execve, path.as_ptr(), args.as_ptr(), 0).map_or_else(|errno| errno, |_| 0));
        assert!(libc::WIFEXITED(status), "{status:#x}");
        libc::WEXITSTATUS(status)
    };
    assert_eq!(run(), libc::ETXTBSY);
    sys!(close, writer).unwrap();
    let reader = program.open(libc::O_RDONLY).unwrap();
    assert_eq!(run(), 0, "who only reads does no harm");
    sys!(close, reader).unwrap();
}

#[test]
fn what_is_executed_is_not_written() {
    let program = sleeper("executed");
    let mut running = std::process::Command::new(&program.0).arg("1000").spawn().unwrap();
    let pid = i64::from(running.id());
    until_asleep(pid, pid);
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(program.open(flags), Err(libc::ETXTBSY), "{flags:o}");
    }
    assert_eq!(sys!(truncate, program.path().as_ptr(), 0), Err(libc::ETXTBSY));
    running.kill().unwrap();
    // It counts no longer once it is a zombie.
    let mut info = [0_u64; 16];
    sys!(waitid, libc::P_PID, pid, info.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT, 0).unwrap();
    let writer = program.open(libc::O_WRONLY).unwrap();
    sys!(close, writer).unwrap();
    running.wait().unwrap();
}

#[test]
fn a_shared_futex_past_the_end_of_its_file_is_a_bad_address() {
    let file = Scratch::new("futex");
    let fd = file.open(libc::O_RDWR | libc::O_CREAT).unwrap();
    sys!(ftruncate, fd, 4096).unwrap();
    let at = sys!(mmap, 0, 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0).unwrap();
    assert_eq!(sys!(futex, at, libc::FUTEX_WAKE, 1, 0, 0, 0), Ok(0));
    sys!(ftruncate, fd, 0).unwrap();
    assert_eq!(sys!(futex, at, libc::FUTEX_WAKE, 1, 0, 0, 0), Err(libc::EFAULT));
    sys!(munmap, at, 4096).unwrap();
    sys!(close, fd).unwrap();
}

#[test]
fn a_vector_of_futexes_waits_by_two_clocks_only() {
    static WORD: AtomicUsize = AtomicUsize::new(0);
    let waiter = [0_u64, WORD.as_ptr() as u64, 2];
    let past = [1_i64, 0];
    let wait = |clock: i32| sys!(futex_waitv, waiter.as_ptr(), 1, 0, past.as_ptr(), clock);
    if wait(libc::CLOCK_MONOTONIC) == Err(libc::ENOSYS) {
        assert!(!inside(), "the host lacks it, we do not");
        return;
    }
    assert_eq!(wait(libc::CLOCK_REALTIME), Err(libc::ETIMEDOUT));
    assert_eq!(wait(libc::CLOCK_TAI), Err(libc::EINVAL));
}

#[test]
fn an_exclusive_event_that_was_told_is_not_passed_on() {
    let (read, write) = pipe(0);
    let set = || {
        let set = sys!(epoll_create1, 0).unwrap();
        let events = (libc::EPOLLIN | libc::EPOLLET | libc::EPOLLEXCLUSIVE).cast_unsigned();
        let event = libc::epoll_event { events, u64: 7 };
        sys!(epoll_ctl, set, libc::EPOLL_CTL_ADD, read, &raw const event).unwrap();
        set
    };
    let wait = |set: i64| {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        sys!(epoll_wait, set, &raw mut event, 1, 0)
    };
    let (one, two) = (set(), set());
    sys!(write, write, b"x".as_ptr(), 1).unwrap();
    assert_eq!((wait(one), wait(two)), (Ok(1), Ok(1)), "nobody waited, so that nobody is spared");
    // With somebody who waits, only they hear of it; that they go without reading wakes nobody else.
    let (send, receive) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        send.send(sys!(gettid).unwrap()).unwrap();
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let told = sys!(epoll_wait, one, &raw mut event, 1, u64::MAX);
        sys!(close, one).unwrap();
        told
    });
    until_asleep(sys!(getpid).unwrap(), receive.recv().unwrap());
    // The set that nobody waits for may be asked first, and then knows.
    sys!(write, write, b"x".as_ptr(), 1).unwrap();
    assert_eq!(waiting.join().unwrap(), Ok(1));
    assert!(wait(two).is_ok_and(|told| told <= 1));
    assert_eq!(wait(two), Ok(0), "no more than once");
    for fd in [two, i64::from(read), i64::from(write)] {
        sys!(close, fd).unwrap();
    }
}

#[test]
fn vmsplice_fills_what_room_there_is_and_returns() {
    let (read, write) = pipe(0);
    let size = sys!(fcntl, write, libc::F_GETPIPE_SZ).unwrap();
    let bytes = vec![7_u8; usize::try_from(size).unwrap() * 2];
    let vector = [bytes.as_ptr() as u64, bytes.len() as u64];
    // Natively a page of the vector takes one of the pipe, whatever part of it is in the vector.
    let done = sys!(vmsplice, write, vector.as_ptr(), 1, 0).unwrap();
    assert!(done > size / 2 && done <= size, "{done} of {size}");
    assert_eq!(sys!(vmsplice, write, vector.as_ptr(), 1, libc::SPLICE_F_NONBLOCK), Err(libc::EAGAIN), "it is full");
    let nothing = [0_u64, 0];
    assert_eq!(sys!(vmsplice, write, nothing.as_ptr(), 1, 0), Ok(0), "nothing needs no room");
    sys!(close, read).unwrap();
    sys!(close, write).unwrap();
}

extern "C" fn ignore(_signal: i32) {}

#[test]
fn a_sleep_without_a_place_for_what_is_left_says_so() {
    in_child(|| {
        let pid = sys!(getpid).unwrap();
        // SAFETY: 1. the handler does nothing.
        let set = unsafe { libc::signal(libc::SIGUSR1, ignore as extern "C" fn(i32) as libc::sighandler_t) };
        let waker = child(|| {
            until_asleep(pid, pid);
            steps(&[sys!(kill, pid, libc::SIGUSR1) == Ok(0)])
        });
        let long = [1000_i64, 0];
        let slept = sys!(nanosleep, long.as_ptr(), 8);
        steps(&[set != libc::SIG_ERR, slept == Err(libc::EFAULT), wait_status(waker) == 0])
    });
}

#[test]
fn coarse_clocks_do_not_go_back() {
    for clock in [libc::CLOCK_REALTIME_COARSE, libc::CLOCK_MONOTONIC_COARSE] {
        let mut last = (0, 0);
        for turn in 0..1000 {
            let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            if turn % 2 == 0 {
                // SAFETY: 1. `now` outlives the call, which may be the vDSO's.
                assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut now) }, 0);
            } else {
                sys!(clock_gettime, clock, &raw mut now).unwrap();
            }
            let now = (now.tv_sec, now.tv_nsec);
            assert!(now >= last, "clock {clock}: {now:?} after {last:?}");
            last = now;
        }
    }
}

#[test]
fn a_timer_counts_what_it_missed_before_it_was_set() {
    in_child(|| {
        let mask = 1_u64 << (libc::SIGUSR1 - 1);
        let blocked = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const mask, 0, 8);
        let mut event = [0_u8; 64];
        // sigev_signo and sigev_notify (SIGEV_SIGNAL).
        event[8..12].copy_from_slice(&libc::SIGUSR1.to_ne_bytes());
        let mut id = 0_i32;
        let made = sys!(timer_create, libc::CLOCK_REALTIME, event.as_ptr(), &raw mut id);
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let read = sys!(clock_gettime, libc::CLOCK_REALTIME, &raw mut now);
        // Each nanosecond since five seconds ago: more than the counter holds.
        let past = [0_i64, 1, now.tv_sec - 5, now.tv_nsec];
        let set = sys!(timer_settime, id, libc::TIMER_ABSTIME, past.as_ptr(), 0);
        let mut info = [0_u64; 16];
        let got = sys!(rt_sigtimedwait, &raw const mask, info.as_mut_ptr(), 0, 8);
        let overrun = sys!(timer_getoverrun, id);
        let calls = [blocked == Ok(0), made == Ok(0), read == Ok(0), set == Ok(0)];
        steps(&[calls.iter().all(|ok| *ok), got == Ok(i64::from(libc::SIGUSR1)), overrun == Ok(i64::from(i32::MAX))])
    });
}

#[test]
fn those_without_io_priorities_or_adjustments_compare_equal() {
    const KCMP_IO: i32 = 5;
    const KCMP_SYSVSEM: i32 = 6;
    let parent = sys!(getpid).unwrap();
    let status = fork_status(|| {
        let own = sys!(getpid).unwrap();
        let compare = |kind: i32| sys!(kcmp, parent, own, kind, 0, 0);
        steps(&[compare(KCMP_IO) == Ok(0), compare(KCMP_SYSVSEM) == Ok(0)])
    });
    // A host may not have been built with it, or not let us look at our parent.
    assert!(status == 0 || !inside(), "{status}");
}

#[test]
fn deadline_scheduling_is_kept_and_told() {
    const SCHED_DEADLINE: u64 = 6;
    if !is_root() {
        return;
    }
    // A reservation, in the words of `struct sched_attr`: size and policy, flags, niceness and priority, times.
    let attr = |runtime: u64, deadline: u64, period: u64| [48 | SCHED_DEADLINE << 32, 0, 0, runtime, deadline, period];
    in_child(|| {
        let set = |attr: [u64; 6]| sys!(sched_setattr, 0, attr.as_ptr(), 0);
        let refused = [
            set(attr(1000, 30_000_000, 30_000_000)) == Err(libc::EINVAL),
            set(attr(40_000_000, 30_000_000, 30_000_000)) == Err(libc::EINVAL),
            set(attr(10_000_000, 30_000_000, 20_000_000)) == Err(libc::EINVAL),
        ];
        let taken = set(attr(10_000_000, 30_000_000, 0));
        if taken != Ok(0) && !inside() {
            // The host's to refuse: it depends on its CPUs and control groups.
            return 0;
        }
        let mut told = [0_u64; 6];
        let asked = sys!(sched_getattr, 0, told.as_mut_ptr(), 48, 0);
        let policy = sys!(sched_getscheduler, 0);
        steps(&[
            refused.iter().all(|ok| *ok),
            asked == Ok(0),
            told[3..] == [10_000_000, 30_000_000, 30_000_000],
            policy == Ok(6),
        ])
    });
}

/// Writes a number to a setting and says how that went.
fn set(name: &str, value: i64) -> std::io::Result<()> {
    std::fs::write(format!("/proc/sys/kernel/{name}"), value.to_string())
}

#[test]
fn settings_of_message_queues_take_effect() {
    // Natively these are the machine's, or need a kernel built for checkpoints: only in the sandbox.
    if !inside() || !is_root() {
        return;
    }
    let make = || sys!(msgget, libc::IPC_PRIVATE, 0o600);
    let remove = |id: i64| sys!(msgctl, id, libc::IPC_RMID, 0).unwrap();
    set("msg_next_id", 98_765).unwrap();
    let first = make().unwrap();
    assert_eq!(first, 98_765);
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/msg_next_id").unwrap(), "-1\n");
    set("msg_next_id", 98_765).unwrap();
    let second = make().unwrap();
    assert_ne!(second, first);
    set("msgmni", 2).unwrap();
    assert_eq!(make(), Err(libc::ENOSPC));
    set("msgmni", 32_000).unwrap();
    assert!(set("msgmni", 40_000).is_err(), "more than there can be");
    remove(first);
    remove(second);
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/tainted").unwrap(), "0\n");
}
