//! Events at their edges: sets of files that close, packets in pipes, timers on other clocks, what System V objects tell.

use casemate_guest_tests::{child, fork_status, in_child, pipe, steps, sys, until_asleep, wait_status};
use libc::{
    CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME, CLOCK_THREAD_CPUTIME_ID, EAGAIN, EBUSY, EEXIST, EINVAL,
    ENOENT, EPERM, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN,
    EPOLLONESHOT, EPOLLOUT, EPOLLRDHUP, IPC_CREAT, IPC_INFO, IPC_PRIVATE, IPC_RMID, IPC_STAT, O_DIRECT, O_NONBLOCK,
};

fn event(events: i32, data: u64) -> libc::epoll_event {
    libc::epoll_event { events: events.cast_unsigned(), u64: data }
}

/// What a set reports now: the events and the word of each.
fn ready(epoll: i64) -> Vec<(i32, u64)> {
    let mut events = [event(0, 0); 8];
    let count = sys!(epoll_wait, epoll, events.as_mut_ptr(), 8, 0).expect("epoll_wait");
    events[..usize::try_from(count).unwrap()].iter().map(|e| ({ e.events }.cast_signed(), { e.u64 })).collect()
}

fn control(epoll: i64, op: i32, fd: impl Into<i64>, events: i32, data: u64) -> Result<i64, i32> {
    let mut event = event(events, data);
    sys!(epoll_ctl, epoll, op, fd.into(), &raw mut event)
}

#[test]
fn closed_files_leave_sets_when_nobody_has_them() {
    let epoll = sys!(epoll_create1, 0).unwrap();
    let (read, write) = pipe(0);
    assert_eq!(control(epoll, EPOLL_CTL_ADD, read, EPOLLIN, 1), Ok(0));
    assert_eq!(control(epoll, EPOLL_CTL_ADD, read, EPOLLIN, 1), Err(EEXIST));
    assert_eq!(sys!(write, write, c"x".as_ptr(), 1), Ok(1));
    let twin = sys!(dup, read).unwrap();
    assert_eq!(sys!(close, read), Ok(0));
    // The description lives on, and with it the entry, which has no number any more.
    assert_eq!(ready(epoll), [(EPOLLIN, 1)]);
    assert_eq!(control(epoll, EPOLL_CTL_DEL, twin, 0, 0), Err(ENOENT));
    assert_eq!(control(epoll, EPOLL_CTL_ADD, twin, EPOLLIN, 2), Ok(0));
    assert_eq!(ready(epoll).len(), 2);
    assert_eq!(sys!(close, twin), Ok(0));
    assert_eq!(ready(epoll), []);
    assert_eq!((sys!(close, write), sys!(close, epoll)), (Ok(0), Ok(0)));
}

#[test]
fn ends_of_connections_are_events() {
    let epoll = sys!(epoll_create1, 0).unwrap();
    let mut pair = [0_i32; 2];
    assert_eq!(sys!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()), Ok(0));
    assert_eq!(control(epoll, EPOLL_CTL_ADD, pair[0], EPOLLIN | EPOLLRDHUP, 1), Ok(0));
    assert_eq!(ready(epoll), []);
    assert_eq!(sys!(shutdown, pair[1], libc::SHUT_WR), Ok(0));
    assert_eq!(ready(epoll), [(EPOLLIN | EPOLLRDHUP, 1)]);
    assert_eq!(sys!(close, pair[1]), Ok(0));
    assert_eq!(ready(epoll), [(EPOLLIN | EPOLLRDHUP | EPOLLHUP, 1)]);
    assert_eq!(control(epoll, EPOLL_CTL_DEL, pair[0], 0, 0), Ok(0));
    let (read, write) = pipe(0);
    assert_eq!(control(epoll, EPOLL_CTL_ADD, read, 0, 1), Ok(0));
    assert_eq!(control(epoll, EPOLL_CTL_ADD, write, EPOLLOUT, 2), Ok(0));
    assert_eq!(ready(epoll), [(EPOLLOUT, 2)]);
    let twin = sys!(dup, write).unwrap();
    assert_eq!(sys!(close, read), Ok(0));
    assert_eq!(ready(epoll), [(EPOLLOUT | EPOLLERR, 2)]);
    for fd in [twin, write.into(), pair[0].into(), epoll] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn edges_are_told_once_and_again_after_a_change() {
    let epoll = sys!(epoll_create1, 0).unwrap();
    let (read, write) = pipe(0);
    assert_eq!(control(epoll, EPOLL_CTL_ADD, read, EPOLLIN | EPOLLET, 1), Ok(0));
    for _ in 0..2 {
        // Each write is an edge, also while there is something to read.
        assert_eq!(sys!(write, write, c"x".as_ptr(), 1), Ok(1));
        assert_eq!((ready(epoll), ready(epoll)), (vec![(EPOLLIN, 1)], vec![]));
    }
    assert_eq!(control(epoll, EPOLL_CTL_MOD, read, EPOLLIN | EPOLLET, 2), Ok(0));
    assert_eq!((ready(epoll), ready(epoll)), (vec![(EPOLLIN, 2)], vec![]));
    assert_eq!(control(epoll, EPOLL_CTL_MOD, read, EPOLLIN | EPOLLONESHOT, 3), Ok(0));
    assert_eq!((ready(epoll), ready(epoll)), (vec![(EPOLLIN, 3)], vec![]));
    assert_eq!(sys!(write, write, c"x".as_ptr(), 1), Ok(1));
    assert_eq!(ready(epoll), []);
    assert_eq!(control(epoll, EPOLL_CTL_MOD, read, EPOLLIN | EPOLLONESHOT, 4), Ok(0));
    assert_eq!(ready(epoll), [(EPOLLIN, 4)]);
    assert_eq!(control(epoll, EPOLL_CTL_MOD, read, EPOLLIN | EPOLLEXCLUSIVE, 4), Err(EINVAL));
    assert_eq!(control(epoll, EPOLL_CTL_ADD, write, EPOLLOUT | EPOLLEXCLUSIVE | EPOLLONESHOT, 4), Err(EINVAL));
    assert_eq!(control(epoll, EPOLL_CTL_ADD, write, EPOLLOUT | EPOLLEXCLUSIVE, 5), Ok(0));
    assert_eq!(control(epoll, EPOLL_CTL_MOD, write, EPOLLOUT, 5), Err(EINVAL));
    assert_eq!(ready(epoll), [(EPOLLOUT, 5)]);
    for fd in [read.into(), write.into(), epoll] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn packets_stay_apart_in_a_pipe() {
    let (read, write) = pipe(O_DIRECT | O_NONBLOCK);
    for text in [c"one", c"three"] {
        assert_eq!(
            sys!(write, write, text.as_ptr(), text.count_bytes()),
            Ok(i64::try_from(text.count_bytes()).unwrap())
        );
    }
    let mut waiting = 0_i32;
    assert_eq!(sys!(ioctl, read, libc::FIONREAD, &raw mut waiting), Ok(0));
    assert_eq!(waiting, 8);
    let mut buffer = [0_u8; 16];
    assert_eq!(sys!(read, read, buffer.as_mut_ptr(), 16), Ok(3));
    // What does not fit of a packet is lost.
    assert_eq!(sys!(read, read, buffer.as_mut_ptr(), 2), Ok(2));
    assert_eq!(&buffer[..3], b"the");
    assert_eq!(sys!(read, read, buffer.as_mut_ptr(), 16), Err(EAGAIN));
    // Long writes are packets of a page.
    let long = [7_u8; 5000];
    let mut much = [0_u8; 8192];
    assert_eq!(sys!(write, write, long.as_ptr(), long.len()), Ok(5000));
    assert_eq!(sys!(read, read, much.as_mut_ptr(), much.len()), Ok(4096));
    assert_eq!(sys!(read, read, much.as_mut_ptr(), much.len()), Ok(904));
    // Sizes are powers of two of pages.
    assert_eq!(sys!(fcntl, write, libc::F_SETPIPE_SZ, 5000), Ok(8192));
    assert_eq!(sys!(fcntl, read, libc::F_GETPIPE_SZ, 0), Ok(8192));
    assert_eq!(sys!(fcntl, write, libc::F_SETPIPE_SZ, (1_u32 << 31) + 1), Err(EINVAL));
    for _ in 0..2 {
        assert_eq!(sys!(write, write, long.as_ptr(), 4096), Ok(4096));
    }
    assert_eq!(sys!(write, write, long.as_ptr(), 1), Err(EAGAIN));
    assert_eq!(sys!(fcntl, write, libc::F_SETPIPE_SZ, 4096), Err(EBUSY));
    assert_eq!(sys!(fcntl, write, libc::F_SETPIPE_SZ, 16384), Ok(16384));
    assert_eq!(sys!(write, write, long.as_ptr(), 1), Ok(1));
    assert_eq!(sys!(tee, read, write, 10, 0), Err(EINVAL));
    assert_eq!(sys!(splice, read, 0, write, 0, 10, 0), Err(EINVAL));
    let offset = 0_i64;
    let other = pipe(0);
    assert_eq!(sys!(splice, read, &raw const offset, other.1, 0, 10, 0), Err(libc::ESPIPE));
    for fd in [read, write, other.0, other.1] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

/// Nanoseconds as a `struct timespec`.
fn span(ns: i64) -> [i64; 2] {
    [ns / 1_000_000_000, ns % 1_000_000_000]
}

#[test]
fn timer_descriptors_take_what_linux_takes() {
    assert_eq!(sys!(timerfd_create, CLOCK_PROCESS_CPUTIME_ID, 0), Err(EINVAL));
    assert_eq!(sys!(timerfd_create, CLOCK_MONOTONIC, 1), Err(EINVAL));
    let timer = sys!(timerfd_create, CLOCK_REALTIME, O_NONBLOCK).unwrap();
    let mut count = [0_u64; 1];
    assert_eq!(sys!(read, timer, count.as_mut_ptr(), 8), Err(EAGAIN));
    assert_eq!(sys!(read, timer, count.as_mut_ptr(), 7), Err(EINVAL));
    // Long past, and every second since: one for each.
    let past = [1_i64, 0, 1, 0];
    let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
    assert_eq!(sys!(timerfd_settime, timer, flags, past.as_ptr(), 0), Ok(0));
    assert_eq!(sys!(read, timer, count.as_mut_ptr(), 8), Ok(8));
    assert!(count[0] > 1_000_000_000, "{count:?}");
    let mut left = [0_i64; 4];
    assert_eq!(sys!(timerfd_gettime, timer, left.as_mut_ptr()), Ok(0));
    assert!(left[0] == 1 && left[2] <= 1, "{left:?}");
    assert_eq!(sys!(timerfd_settime, timer, 4, past.as_ptr(), 0), Err(EINVAL));
    let wrong = [0_i64, 1_000_000_000, 0, 0];
    assert_eq!(sys!(timerfd_settime, timer, 0, wrong.as_ptr(), 0), Err(EINVAL));
    // Disarmed, it tells nothing.
    assert_eq!(sys!(timerfd_settime, timer, 0, [0_i64; 4].as_ptr(), left.as_mut_ptr()), Ok(0));
    assert_eq!(left[0], 1);
    assert_eq!(sys!(read, timer, count.as_mut_ptr(), 8), Err(EAGAIN));
    assert_eq!(sys!(close, timer), Ok(0));
}

/// The CPU clock of a process or thread, as clock_getcpuclockid(3) makes it.
fn cpu_clock(id: i64, thread: bool) -> i64 {
    (!id) << 3 | if thread { 6 } else { 2 }
}

#[test]
fn cpu_clocks_of_others_are_read_and_slept_on() {
    let mut now = [0_i64; 2];
    let (read, write) = pipe(0);
    let busy = child(|| {
        let mut byte = [0_u8; 1];
        loop {
            // Computes until it is told to end.
            let mut told = libc::pollfd { fd: read, events: libc::POLLIN, revents: 0 };
            if sys!(poll, &raw mut told, 1, 0) == Ok(1) {
                return i32::from(sys!(read, read, byte.as_mut_ptr(), 1) != Ok(1));
            }
        }
    });
    let clock = cpu_clock(busy.into(), false);
    assert_eq!(sys!(clock_gettime, clock, now.as_mut_ptr()), Ok(0));
    // Until the other has used that much.
    let long = span(5_000_000);
    assert_eq!(sys!(clock_nanosleep, clock, 0, long.as_ptr(), 0), Ok(0));
    let mut later = [0_i64; 2];
    assert_eq!(sys!(clock_gettime, clock, later.as_mut_ptr()), Ok(0));
    let used = (later[0] - now[0]) * 1_000_000_000 + later[1] - now[1];
    assert!(used >= 5_000_000, "{used}");
    assert_eq!(sys!(write, write, c"x".as_ptr(), 1), Ok(1));
    assert_eq!(wait_status(busy), 0);
    assert_eq!(sys!(clock_gettime, clock, now.as_mut_ptr()), Err(EINVAL));
    let mut id = -1_i32;
    assert_eq!(sys!(timer_create, clock, 0, &raw mut id), Err(EINVAL));
    // Nobody sleeps on a clock that stands meanwhile.
    assert_eq!(sys!(clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, long.as_ptr(), 0), Err(libc::EOPNOTSUPP));
    assert_eq!(sys!(clock_nanosleep, 99, 0, long.as_ptr(), 0), Err(EINVAL));
    assert_eq!(sys!(clock_nanosleep, CLOCK_MONOTONIC, 0, [0_i64, -1].as_ptr(), 0), Err(EINVAL));
    assert_eq!((sys!(close, read), sys!(close, write)), (Ok(0), Ok(0)));
}

/// `struct sigevent` of `SIGEV_NONE`.
fn no_signal() -> libc::sigevent {
    // SAFETY: 1. plain data.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_NONE;
    event
}

#[test]
fn a_thread_has_its_own_cpu_timers() {
    let silent = no_signal();
    let mut id = -1_i32;
    assert_eq!(sys!(timer_create, CLOCK_THREAD_CPUTIME_ID, &raw const silent, &raw mut id), Ok(0));
    assert_eq!(sys!(timer_settime, id, 0, [0_i64, 0, 0, 900_000_000].as_ptr(), 0), Ok(0));
    // What another thread uses does not count.
    std::thread::spawn(|| {
        let (mut start, mut now) = ([0_i64; 2], [0_i64; 2]);
        assert_eq!(sys!(clock_gettime, CLOCK_THREAD_CPUTIME_ID, start.as_mut_ptr()), Ok(0));
        while (now[0] - start[0]) * 1_000_000_000 + now[1] - start[1] < 50_000_000 {
            assert_eq!(sys!(clock_gettime, CLOCK_THREAD_CPUTIME_ID, now.as_mut_ptr()), Ok(0));
        }
    })
    .join()
    .unwrap();
    let mut left = [0_i64; 4];
    assert_eq!(sys!(timer_gettime, id, left.as_mut_ptr()), Ok(0));
    assert!(left[3] > 870_000_000, "{left:?}");
    assert_eq!(sys!(timer_delete, id), Ok(0));
}

#[test]
fn timers_stay_with_their_process() {
    let mut id = -1_i32;
    let silent = no_signal();
    assert_eq!(sys!(timer_create, CLOCK_MONOTONIC, &raw const silent, &raw mut id), Ok(0));
    assert_eq!(sys!(timer_settime, id, 0, [0_i64, 0, 1000, 0].as_ptr(), 0), Ok(0));
    let mut left = [0_i64; 4];
    in_child(|| i32::from(sys!(timer_gettime, id, left.as_mut_ptr()) != Err(EINVAL)));
    assert_eq!(sys!(timer_gettime, id, left.as_mut_ptr()), Ok(0));
    assert!(left[2] > 900, "{left:?}");
    assert_eq!(sys!(timer_settime, id, libc::TIMER_ABSTIME, [0_i64, 0, 1, 0].as_ptr(), 0), Ok(0));
    assert_eq!(sys!(timer_gettime, id, left.as_mut_ptr()), Ok(0));
    assert_eq!(left, [0; 4]);
    assert_eq!((sys!(timer_delete, id), sys!(timer_delete, id)), (Ok(0), Err(EINVAL)));
    for (notify, signal) in [(9, 10), (libc::SIGEV_SIGNAL, 0), (libc::SIGEV_SIGNAL, 65), (libc::SIGEV_THREAD_ID, 10)] {
        let mut wrong = no_signal();
        (wrong.sigev_notify, wrong.sigev_signo, wrong.sigev_notify_thread_id) = (notify, signal, 1);
        assert_eq!(
            sys!(timer_create, CLOCK_MONOTONIC, &raw const wrong, &raw mut id),
            Err(EINVAL),
            "{notify} {signal}"
        );
    }
    assert_eq!(sys!(timer_create, libc::CLOCK_MONOTONIC_COARSE, 0, &raw mut id), Err(libc::EOPNOTSUPP));
    assert_eq!(sys!(timer_create, 99, 0, &raw mut id), Err(EINVAL));
}

#[test]
fn what_is_left_of_a_wait_is_told() {
    let (read, write) = pipe(0);
    assert_eq!(sys!(write, write, c"x".as_ptr(), 1), Ok(1));
    let mut left = [100_i64, 0];
    let mut fd = libc::pollfd { fd: read, events: libc::POLLIN, revents: 0 };
    assert_eq!(sys!(ppoll, &raw mut fd, 1, left.as_mut_ptr(), 0, 8), Ok(1));
    assert!((1..100).contains(&left[0]), "{left:?}");
    let mut set = [0_u64; 16];
    set[usize::try_from(read).unwrap() / 64] |= 1 << (read % 64);
    left = [100, 0];
    assert_eq!(sys!(pselect6, read + 1, set.as_mut_ptr(), 0, 0, left.as_mut_ptr(), 0), Ok(1));
    assert!((1..100).contains(&left[0]), "{left:?}");
    let mut short = [0_i64, 1_000_000];
    assert_eq!(sys!(ppoll, 0, 0, short.as_mut_ptr(), 0, 8), Ok(0));
    assert_eq!(short, [0, 0]);
    // A sleep that a signal ends says how long it would have gone on.
    extern "C" fn nothing(_: i32) {}
    let status = fork_status(|| {
        let sleeper = child(|| {
            // SAFETY: 1. the handler does nothing.
            unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as usize) };
            let (long, mut rest) = (span(1_000_000_000_000), [0_i64; 2]);
            let told = sys!(clock_nanosleep, CLOCK_MONOTONIC, 0, long.as_ptr(), rest.as_mut_ptr()) == Err(libc::EINTR);
            let absolute = span(i64::MAX);
            let mut kept = [7_i64; 2];
            let flags = libc::TIMER_ABSTIME;
            let again = sys!(clock_nanosleep, CLOCK_MONOTONIC, flags, absolute.as_ptr(), kept.as_mut_ptr());
            steps(&[told, (900..1000).contains(&rest[0]), again == Err(libc::EINTR), kept == [7, 7]])
        });
        for _ in 0..2 {
            until_asleep(sleeper.into(), sleeper.into());
            // Woken once: awake, then asleep again in the second wait, or gone.
            let before = switches(sleeper);
            let _ = sys!(kill, sleeper, libc::SIGUSR1);
            while switches(sleeper) == before {
                std::thread::yield_now();
            }
        }
        libc::WEXITSTATUS(wait_status(sleeper))
    });
    assert_eq!(status, 0);
    assert_eq!((sys!(close, read), sys!(close, write)), (Ok(0), Ok(0)));
}

/// How often a process has gone to sleep by itself; `None` when it is gone.
fn switches(pid: i32) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    if status.contains("State:\tZ") {
        return None;
    }
    status.lines().find(|line| line.starts_with("voluntary")).map(str::to_owned)
}

#[test]
fn objects_tell_of_those_who_used_them() {
    let id = sys!(shmget, IPC_PRIVATE, 4096, IPC_CREAT | 0o600).unwrap();
    // SAFETY: 1. plain data.
    let mut info: libc::shmid_ds = unsafe { std::mem::zeroed() };
    let user = child(|| i32::from(sys!(shmat, id, 0, 0).is_err()));
    assert_eq!(wait_status(user), 0);
    assert_eq!(sys!(shmctl, id, IPC_STAT, &raw mut info), Ok(0));
    assert_eq!((info.shm_nattch, info.shm_lpid), (0, user));
    assert!(info.shm_atime > 0 && info.shm_dtime >= info.shm_atime, "{} {}", info.shm_atime, info.shm_dtime);
    let list = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    assert!(list.lines().any(|line| line.split_whitespace().nth(1) == Some(&id.to_string())), "{list}");
    assert_eq!(sys!(shmctl, id, libc::SHM_LOCK, 0), Ok(0));
    assert_eq!(sys!(shmctl, id, IPC_STAT, &raw mut info), Ok(0));
    assert_eq!(info.shm_perm.mode & 0o2000, 0o2000);
    assert_eq!(sys!(shmctl, id, IPC_RMID, 0), Ok(0));

    let set = sys!(semget, IPC_PRIVATE, 2, IPC_CREAT | 0o600).unwrap();
    let ops = [
        libc::sembuf { sem_num: 0, sem_op: 3, sem_flg: i16::try_from(libc::SEM_UNDO).unwrap() },
        libc::sembuf { sem_num: 1, sem_op: 1, sem_flg: 0 },
    ];
    in_child(|| i32::from(sys!(semop, set, ops.as_ptr(), 2) != Ok(0)));
    assert_eq!((sys!(semctl, set, 0, libc::GETVAL), sys!(semctl, set, 1, libc::GETVAL)), (Ok(0), Ok(1)));
    let far = [libc::sembuf { sem_num: 2, sem_op: 1, sem_flg: 0 }];
    assert_eq!(sys!(semop, set, far.as_ptr(), 1), Err(libc::EFBIG));
    assert_eq!(sys!(semop, set, ops.as_ptr(), 0), Err(EINVAL));
    let mut limits = [0_i32; 10];
    let highest = sys!(semctl, 0, 0, IPC_INFO, limits.as_mut_ptr());
    assert!(highest.is_ok(), "{highest:?}");
    // semmsl, semopm, semvmx.
    assert_eq!((limits[4], limits[5], limits[8]), (32000, 500, 32767));
    assert_eq!(sys!(semctl, set, 0, IPC_RMID), Ok(0));
    assert_eq!(sys!(semctl, set, 0, libc::GETVAL), Err(EINVAL));
}

#[test]
fn barriers_need_registration() {
    let call = |command: i32, flags: u32| sys!(membarrier, command, flags, 0);
    let offered = call(0, 0).unwrap();
    assert_eq!(offered & 0x7f, 0x7f, "{offered:#x}");
    assert_eq!((call(1 << 20, 0), call(0, 4), call(3, 0)), (Err(EINVAL), Err(EINVAL), Err(EINVAL)));
    in_child(|| {
        // Another process than the test's, which may have registered.
        let private = call(8, 0) == Err(EPERM) || call(512, 0).is_ok_and(|registered| registered & 16 != 0);
        let registered = call(16, 0) == Ok(0) && call(8, 0) == Ok(0);
        let global = call(1, 0) == Ok(0) && call(4, 0) == Ok(0) && call(2, 0) == Ok(0);
        let core = call(64, 0) == Ok(0) && call(32, 0) == Ok(0);
        steps(&[private, registered, global, core])
    });
}
