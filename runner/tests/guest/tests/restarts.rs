//! What an interrupted call does, call by call (signal(7)): begin again when the handler says so, fail with EINTR, or go
//! on as if nothing had been where no handler ran.

use std::sync::atomic::{AtomicU32, Ordering};

use casemate_guest_tests::{child, in_child, pipe, sys, until_asleep, wait_status};

/// Handlers that ran, in memory that the helper shares.
static SHARED: AtomicU32 = AtomicU32::new(0);

fn count(at: usize) -> &'static AtomicU32 {
    let base = SHARED.load(Ordering::SeqCst) as usize;
    // SAFETY: 1. the page at `base` is mapped for as long as a test runs, and zeroed.
    unsafe { &*std::ptr::with_exposed_provenance::<AtomicU32>(base + at * 4) }
}

const FIRST: usize = 0;
const LAST: usize = 1;

extern "C" fn first(_signal: i32) {
    count(FIRST).fetch_add(1, Ordering::SeqCst);
}

extern "C" fn last(_signal: i32) {
    count(LAST).fetch_add(1, Ordering::SeqCst);
}

fn handle(signal: i32, handler: extern "C" fn(i32), flags: i32) {
    // SAFETY: 1. sigaction is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    (action.sa_sigaction, action.sa_flags) = (handler as usize, flags);
    // SAFETY: 1. `action` lives across the call and names a handler of the right type.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
}

/// What interrupts the call.
#[derive(Clone, Copy, PartialEq, Debug)]
enum By {
    /// A handler with SA_RESTART.
    Restarting,
    /// A handler without.
    Plain,
    /// A stop and a continuation, without any handler.
    Stop,
}

/// Whether `call`, which sleeps until something interrupts it, went on after `by`: a handler without SA_RESTART ends it
/// in any case then. Its own answer must be EINTR.
fn goes_on(name: &str, by: By, call: impl FnOnce() -> Result<i64, i32>) -> bool {
    // Below 4 GiB, so that one word says where.
    let page = sys!(
        mmap,
        0,
        4096,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
        -1_i64,
        0
    )
    .unwrap();
    SHARED.store(u32::try_from(page).unwrap(), Ordering::SeqCst);
    let sleeper = child(|| {
        handle(libc::SIGUSR1, first, if by == By::Restarting { libc::SA_RESTART } else { 0 });
        handle(libc::SIGUSR2, last, 0);
        let result = call();
        // 1: interrupted at once; 2: by the last one only; otherwise a mistake.
        match (result, count(LAST).load(Ordering::SeqCst)) {
            (Err(libc::EINTR), 0) => 1,
            (Err(libc::EINTR), 1) => 2,
            (Err(errno), _) => errno,
            (Ok(_), _) => 99,
        }
    });
    until_asleep(sleeper.into(), sleeper.into());
    if by == By::Stop {
        let mut status = 0;
        let _ = sys!(kill, sleeper, libc::SIGSTOP);
        assert_eq!(sys!(wait4, sleeper, &raw mut status, libc::WUNTRACED, 0), Ok(sleeper.into()));
        let _ = sys!(kill, sleeper, libc::SIGCONT);
    } else {
        let _ = sys!(kill, sleeper, libc::SIGUSR1);
        while count(FIRST).load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }
    // It has ended, or sleeps again.
    let status = loop {
        let mut status = 0;
        if sys!(wait4, sleeper, &raw mut status, libc::WNOHANG, 0) != Ok(0) {
            break status;
        }
        let stat = std::fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
        if stat.contains(") S") {
            let _ = sys!(kill, sleeper, libc::SIGUSR2);
            break wait_status(sleeper);
        }
        std::thread::yield_now();
    };
    let _ = sys!(munmap, page, 4096);
    assert!(libc::WIFEXITED(status), "{name} {by:?}: status {status:#x}");
    match libc::WEXITSTATUS(status) {
        1 => false,
        2 => true,
        other => panic!("{name} {by:?}: {other}"),
    }
}

/// When a call goes on: after a handler with SA_RESTART, and after a stop without handler.
fn check(name: &str, after_restart: bool, after_stop: bool, call: impl Fn() -> Result<i64, i32>) {
    assert_eq!(goes_on(name, By::Restarting, &call), after_restart, "{name}: SA_RESTART");
    assert!(!goes_on(name, By::Plain, &call), "{name}: without SA_RESTART");
    assert_eq!(goes_on(name, By::Stop, &call), after_stop, "{name}: stop");
}

fn long() -> [i64; 2] {
    [1000, 0]
}

#[test]
fn slow_files_begin_again() {
    let (read, write) = pipe(0);
    check("read", true, true, || {
        let mut byte = 0_u8;
        sys!(read, read, &raw mut byte, 1)
    });
    let full = vec![0_u8; 1 << 20];
    check("write", true, true, || {
        // What fits is taken first: the interruption is of a write that has moved nothing.
        let _ = sys!(fcntl, write, libc::F_SETFL, libc::O_NONBLOCK);
        while sys!(write, write, full.as_ptr(), 4096).is_ok() {}
        let _ = sys!(fcntl, write, libc::F_SETFL, 0);
        sys!(write, write, full.as_ptr(), 4096)
    });
    let mut pair = [0; 2];
    assert_eq!(sys!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()), Ok(0));
    let receive = || {
        let mut byte = 0_u8;
        sys!(recvfrom, pair[0], &raw mut byte, 1, 0, 0, 0)
    };
    check("recv", true, true, receive);
    let patience = [1000_i64, 0];
    let set = sys!(setsockopt, pair[0], libc::SOL_SOCKET, libc::SO_RCVTIMEO, patience.as_ptr(), 16);
    assert_eq!(set, Ok(0));
    check("recv with SO_RCVTIMEO", false, false, receive);
    let listener = sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
    // Bound to a name of its own.
    let family = libc::AF_UNIX as u16;
    assert_eq!(sys!(bind, listener, &raw const family, 2), Ok(0));
    assert_eq!(sys!(listen, listener, 1), Ok(0));
    check("accept", true, true, || sys!(accept, listener, 0, 0));
}

#[test]
fn waits_for_children_and_locks_begin_again() {
    check("wait4", true, true, || {
        let idle = child(|| {
            let _ = sys!(prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            loop {
                let _ = sys!(pause);
            }
        });
        let result = sys!(wait4, idle, 0, 0, 0);
        let _ = sys!(kill, idle, libc::SIGKILL);
        result
    });
    check("waitid", true, true, || {
        let idle = child(|| {
            let _ = sys!(prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            loop {
                let _ = sys!(pause);
            }
        });
        let result = sys!(waitid, libc::P_PID, idle, 0, libc::WEXITED, 0);
        let _ = sys!(kill, idle, libc::SIGKILL);
        result
    });
    let file = sys!(memfd_create, c"lock".as_ptr(), 0).unwrap();
    let again = std::fs::File::open(format!("/proc/self/fd/{file}")).unwrap();
    assert_eq!(sys!(flock, file, libc::LOCK_EX), Ok(0));
    let other = std::os::fd::AsRawFd::as_raw_fd(&again);
    check("flock", true, true, || sys!(flock, other, libc::LOCK_EX));
    let mut lock = libc::flock { l_type: 1, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    assert_eq!(sys!(fcntl, file, libc::F_SETLK, &raw mut lock), Ok(0));
    check("F_SETLKW", true, true, || {
        let mut lock = libc::flock { l_type: 1, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
        sys!(fcntl, file, libc::F_SETLKW, &raw mut lock)
    });
}

#[test]
fn futexes_begin_again() {
    let word = 0_u32;
    check("FUTEX_WAIT", true, true, || sys!(futex, &raw const word, libc::FUTEX_WAIT, 0, 0, 0, 0));
    // With a timeout it is restart_syscall's, which no handler lets go on.
    let patience = long();
    check("FUTEX_WAIT with a timeout", false, true, || {
        sys!(futex, &raw const word, libc::FUTEX_WAIT, 0, patience.as_ptr(), 0, 0)
    });
}

#[test]
fn sleeps_go_on_only_without_a_handler() {
    let patience = long();
    check("nanosleep", false, true, || sys!(nanosleep, patience.as_ptr(), 0));
    check("clock_nanosleep", false, true, || sys!(clock_nanosleep, libc::CLOCK_MONOTONIC, 0, patience.as_ptr(), 0));
    let never = [i64::MAX / 2, 0];
    check("clock_nanosleep to a time", false, true, || {
        sys!(clock_nanosleep, libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, never.as_ptr(), 0)
    });
    check("poll", false, true, || sys!(poll, 0, 0, -1_i64));
    check("poll with a timeout", false, true, || sys!(poll, 0, 0, 1_000_000));
    check("ppoll", false, true, || {
        let mut patience = long();
        sys!(ppoll, 0, 0, patience.as_mut_ptr(), 0, 8)
    });
    check("select", false, true, || sys!(select, 0, 0, 0, 0, 0));
    check("pselect", false, true, || {
        let mut patience = long();
        sys!(pselect6, 0, 0, 0, 0, patience.as_mut_ptr(), 0)
    });
    check("pause", false, true, || sys!(pause));
    let none = 0_u64;
    check("sigsuspend", false, true, || sys!(rt_sigsuspend, &raw const none, 8));
}

#[test]
fn some_calls_end_at_any_interruption() {
    let epoll = sys!(epoll_create1, 0).unwrap();
    check("epoll_wait", false, false, || {
        let mut event = [0_u64; 2];
        sys!(epoll_wait, epoll, event.as_mut_ptr(), 1, -1_i64)
    });
    let set = 1_u64 << (libc::SIGRTMIN() - 1);
    check("sigtimedwait", false, false, || sys!(rt_sigtimedwait, &raw const set, 0, 0, 8));
    let semaphores = sys!(semget, libc::IPC_PRIVATE, 1, 0o600).unwrap();
    let down = [0_i16, -1, 0];
    check("semop", false, false, || sys!(semop, semaphores, down.as_ptr(), 1));
    let _ = sys!(semctl, semaphores, 0, libc::IPC_RMID, 0);
    let queue = sys!(msgget, libc::IPC_PRIVATE, 0o600).unwrap();
    check("msgrcv", false, true, || {
        let mut message = [0_u64; 4];
        sys!(msgrcv, queue, message.as_mut_ptr(), 8, 0, 0)
    });
    let _ = sys!(msgctl, queue, libc::IPC_RMID, 0);
}

#[test]
fn a_sleep_that_was_interrupted_says_what_is_left() {
    in_child(|| {
        handle(libc::SIGALRM, ignore, libc::SA_RESTART);
        let soon = [0_i64, 0, 0, 2000];
        let (asked, mut left) = ([100_i64, 0], [0_i64; 2]);
        let _ = sys!(setitimer, libc::ITIMER_REAL, soon.as_ptr(), 0);
        let result = sys!(nanosleep, asked.as_ptr(), left.as_mut_ptr());
        casemate_guest_tests::steps(&[result == Err(libc::EINTR), (90..100).contains(&left[0])])
    });
}

extern "C" fn ignore(_signal: i32) {}
