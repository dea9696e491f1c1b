//! Clocks, sleeping, timers.

use std::time::{Duration, Instant};

use casemate_guest_tests::{child, in_child, steps, sys, wait_status};

fn clock(id: i32) -> Duration {
    let mut time = [0_u64; 2];
    assert_eq!(sys!(clock_gettime, id, time.as_mut_ptr()), Ok(0));
    Duration::new(time[0], u32::try_from(time[1]).unwrap())
}

#[test]
fn clocks_advance_and_agree_with_the_vdso() {
    for id in [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME, libc::CLOCK_MONOTONIC_RAW] {
        let mut last = clock(id);
        for _ in 0..1000 {
            let now = clock(id);
            assert!(now >= last);
            last = now;
        }
    }
    // libc's clock_gettime is the vDSO's: between two calls of the kernel it must lie between them.
    for _ in 0..1000 {
        let before = clock(libc::CLOCK_REALTIME);
        let shown = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let after = clock(libc::CLOCK_REALTIME);
        assert!(before <= shown + Duration::from_micros(2) && shown <= after + Duration::from_micros(2));
    }
    let mut time = [0_u64; 2];
    assert_eq!(sys!(clock_gettime, 99, time.as_mut_ptr()), Err(libc::EINVAL));
    assert_eq!(sys!(clock_gettime, 0, 16), Err(libc::EFAULT));
    assert_eq!(sys!(clock_getres, libc::CLOCK_MONOTONIC, time.as_mut_ptr()), Ok(0));
    assert_eq!(time, [0, 1]);
}

#[test]
fn sleeping_takes_its_time() {
    let started = Instant::now();
    std::thread::sleep(Duration::from_millis(30));
    assert!(started.elapsed() >= Duration::from_millis(30));
    let bad = [0_i64, 1_000_000_000];
    assert_eq!(sys!(nanosleep, bad.as_ptr(), 0), Err(libc::EINVAL));
    let past = [1_i64, 0];
    assert_eq!(sys!(clock_nanosleep, libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, past.as_ptr(), 0), Ok(0));
}

#[test]
fn cpu_time_is_counted() {
    let before = clock(libc::CLOCK_PROCESS_CPUTIME_ID);
    let mut sum = 0_u64;
    for value in 0..20_000_000_u64 {
        sum = std::hint::black_box(sum.wrapping_add(value));
    }
    assert!(clock(libc::CLOCK_PROCESS_CPUTIME_ID) > before);
    assert!(clock(libc::CLOCK_THREAD_CPUTIME_ID) > Duration::ZERO);
}

#[test]
fn an_alarm_interrupts() {
    in_child(|| {
        extern "C" fn ignore(_signal: i32) {}
        // SAFETY: 1. a handler of the right type.
        unsafe { libc::signal(libc::SIGALRM, ignore as extern "C" fn(i32) as usize) };
        let timer = [0_i64, 0, 0, 20_000];
        if sys!(setitimer, libc::ITIMER_REAL, timer.as_ptr(), 0) != Ok(0) {
            return 1;
        }
        let long = [10_i64, 0];
        let mut left = [0_i64; 2];
        if sys!(nanosleep, long.as_ptr(), left.as_mut_ptr()) != Err(libc::EINTR) {
            return 2;
        }
        i32::from(!(8..=9).contains(&left[0]))
    });
}

#[test]
fn timerfd_expires() {
    let fd = sys!(timerfd_create, libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK).unwrap();
    let mut count = 0_u64;
    assert_eq!(sys!(read, fd, &raw mut count, 8), Err(libc::EAGAIN));
    let spec = [0_i64, 1_000_000, 0, 1_000_000];
    assert_eq!(sys!(timerfd_settime, fd, 0, spec.as_ptr(), 0), Ok(0));
    let mut poll = libc::pollfd { fd: i32::try_from(fd).unwrap(), events: libc::POLLIN, revents: 0 };
    assert_eq!(sys!(poll, &raw mut poll, 1, 5000), Ok(1));
    assert_eq!(sys!(read, fd, &raw mut count, 8), Ok(8));
    assert!(count >= 1);
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn timeouts_of_poll_are_kept() {
    let started = Instant::now();
    assert_eq!(sys!(poll, 0, 0, 25), Ok(0));
    assert!(started.elapsed() >= Duration::from_millis(25));
}

#[test]
fn waiting_for_a_processor_is_not_cpu_time() {
    let processors = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    // Alone with its children, so that those of other tests do not count.
    in_child(|| {
        let began = clock(libc::CLOCK_MONOTONIC);
        for _ in 0..4 * processors {
            child(|| {
                let until = clock(libc::CLOCK_MONOTONIC) + Duration::from_millis(400);
                while clock(libc::CLOCK_MONOTONIC) < until {}
                0
            });
        }
        let ended = (0..4 * processors).all(|_| sys!(wait4, -1_i64, 0, 0, 0).is_ok());
        let mut usage = [0_i64; 18];
        let told = sys!(getrusage, libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) == Ok(0);
        let part = |at: usize| {
            Duration::from_secs(usage[at].unsigned_abs()) + Duration::from_micros(usage[at + 1].unsigned_abs())
        };
        let (used, passed) = (part(0) + part(2), clock(libc::CLOCK_MONOTONIC) - began);
        let most = (passed + Duration::from_millis(100)) * processors;
        steps(&[ended, told, used <= most, used >= Duration::from_millis(20)])
    });
}

#[test]
fn a_busy_process_is_seen_to_use_its_time() {
    let busy = child(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{busy}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(11).unwrap().parse().unwrap()
    };
    let until = Instant::now() + Duration::from_secs(20);
    while ticks() < 5 {
        assert!(Instant::now() < until, "it seems to use nothing");
        std::thread::yield_now();
    }
    assert_eq!(sys!(kill, busy, libc::SIGKILL), Ok(0));
    assert_eq!(wait_status(busy), libc::SIGKILL);
}
