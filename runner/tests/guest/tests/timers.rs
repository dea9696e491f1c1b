//! Interval timers, POSIX timers, timer descriptors, absolute sleeps, and the clocks' older forms.

use casemate_guest_tests::{in_child, steps, sys};

fn now(clock: i32) -> i64 {
    let mut time = [0_i64; 2];
    let _ = sys!(clock_gettime, clock, time.as_mut_ptr());
    time[0] * 1_000_000_000 + time[1]
}

fn split(ns: i64) -> [i64; 2] {
    [ns / 1_000_000_000, ns % 1_000_000_000]
}

/// Waits for `signal`, which is blocked, for at most ten seconds; its number, code and value.
fn take(signal: i32) -> Result<(i64, i32, u64), i32> {
    let set = 1_u64 << (signal - 1);
    let limit = [10_i64, 0];
    // si_signo, si_errno, si_code, padding, then what the signal is about.
    let mut info = [0_i32; 32];
    let got = sys!(rt_sigtimedwait, &raw const set, info.as_mut_ptr(), limit.as_ptr(), 8)?;
    Ok((got, info[2], u64::from(info[6].cast_unsigned()) | u64::from(info[7].cast_unsigned()) << 32))
}

fn block(signal: i32) {
    let set = 1_u64 << (signal - 1);
    let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8);
}

#[test]
fn interval_timers_tell_what_is_left() {
    in_child(|| {
        block(libc::SIGALRM);
        let timer = [0_i64, 0, 100, 5];
        let (mut shown, mut old) = ([9_i64; 4], [9_i64; 4]);
        steps(&[
            sys!(setitimer, libc::ITIMER_REAL, timer.as_ptr(), old.as_mut_ptr()) == Ok(0),
            old == [0; 4],
            sys!(getitimer, libc::ITIMER_REAL, shown.as_mut_ptr()) == Ok(0),
            shown[..2] == [0, 0] && (99..=100).contains(&shown[2]),
            sys!(alarm, 50) == Ok(100),
            sys!(alarm, 0) == Ok(50),
            sys!(alarm, 0) == Ok(0),
            sys!(getitimer, libc::ITIMER_REAL, shown.as_mut_ptr()) == Ok(0),
            shown == [0; 4],
            sys!(getitimer, 7, shown.as_mut_ptr()) == Err(libc::EINVAL),
            sys!(setitimer, libc::ITIMER_REAL, [0_i64, 0, 0, 1_000_000].as_ptr(), 0) == Err(libc::EINVAL),
            sys!(setitimer, libc::ITIMER_REAL, [0_i64, 0, 0, 1000].as_ptr(), 0) == Ok(0),
            take(libc::SIGALRM).map(|(signal, _, _)| signal) == Ok(libc::SIGALRM.into()),
        ])
    });
}

#[test]
fn cpu_timers_count_work() {
    in_child(|| {
        block(libc::SIGVTALRM);
        let set = 1_u64 << (libc::SIGVTALRM - 1);
        let none = [0_i64, 0];
        if sys!(setitimer, libc::ITIMER_VIRTUAL, [0_i64, 0, 0, 20_000].as_ptr(), 0) != Ok(0) {
            return 1;
        }
        let started = now(libc::CLOCK_MONOTONIC);
        while sys!(rt_sigtimedwait, &raw const set, 0, none.as_ptr(), 8) != Ok(libc::SIGVTALRM.into()) {
            for value in 0..200_000_u64 {
                std::hint::black_box(value);
            }
            if now(libc::CLOCK_MONOTONIC) - started > 20_000_000_000 {
                return 2;
            }
        }
        0
    });
}

#[test]
fn posix_timers_signal_with_a_value() {
    in_child(|| {
        let signal = libc::SIGRTMIN() + 3;
        block(signal);
        // sigval, signo, notify, then padding to 64 bytes.
        let mut event = [0_u64; 8];
        event[0] = 0x1234_5678_9abc;
        event[1] = u64::from(signal.cast_unsigned());
        let mut id = -1_i32;
        let made = sys!(timer_create, libc::CLOCK_MONOTONIC, event.as_ptr(), &raw mut id);
        let once = [0_i64, 0, 0, 1_000_000];
        let mut shown = [9_i64; 4];
        let set = sys!(timer_settime, id, 0, once.as_ptr(), 0);
        let got = take(signal);
        let spent = sys!(timer_gettime, id, shown.as_mut_ptr());
        let idle = shown;
        let far = [2_i64, 0, 100, 0];
        let again = sys!(timer_settime, id, 0, far.as_ptr(), shown.as_mut_ptr());
        let running = sys!(timer_gettime, id, shown.as_mut_ptr());
        let absolute = split(now(libc::CLOCK_MONOTONIC) + 1_000_000);
        let at = [0, 0, absolute[0], absolute[1]];
        steps(&[
            made == Ok(0) && set == Ok(0),
            got == Ok((signal.into(), libc::SI_TIMER, 0x1234_5678_9abc)),
            spent == Ok(0) && idle == [0; 4],
            again == Ok(0) && running == Ok(0),
            shown[..2] == [2, 0] && (99..=100).contains(&shown[2]),
            sys!(timer_getoverrun, id) == Ok(0),
            sys!(timer_settime, id, libc::TIMER_ABSTIME, at.as_ptr(), 0) == Ok(0),
            take(signal).is_ok(),
            sys!(timer_settime, id, 0, [0_i64, 0, 0, 1_000_000_000].as_ptr(), 0) == Err(libc::EINVAL),
            sys!(timer_delete, id) == Ok(0),
            sys!(timer_delete, id) == Err(libc::EINVAL),
            sys!(timer_settime, id, 0, once.as_ptr(), 0) == Err(libc::EINVAL),
            sys!(timer_create, 99, event.as_ptr(), &raw mut id) == Err(libc::EINVAL),
            sys!(timer_create, libc::CLOCK_MONOTONIC, event.as_ptr(), 16) == Err(libc::EFAULT),
        ])
    });
}

#[test]
fn missed_expirations_are_counted() {
    in_child(|| {
        let signal = libc::SIGRTMIN() + 4;
        block(signal);
        let mut event = [0_u64; 8];
        event[1] = u64::from(signal.cast_unsigned());
        let mut id = -1_i32;
        let made = sys!(timer_create, libc::CLOCK_MONOTONIC, event.as_ptr(), &raw mut id);
        let each = [0_i64, 1_000_000, 0, 1_000_000];
        let set = sys!(timer_settime, id, 0, each.as_ptr(), 0);
        // At least ten periods with the signal blocked: one is queued, the others are its overrun, however late it comes.
        let until = split(now(libc::CLOCK_MONOTONIC) + 12_000_000);
        let slept = sys!(clock_nanosleep, libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, until.as_ptr(), 0);
        let got = take(signal);
        let overrun = sys!(timer_getoverrun, id).unwrap_or(-1);
        steps(&[
            made == Ok(0),
            set == Ok(0),
            slept == Ok(0),
            got.is_ok(),
            overrun >= 9,
            sys!(timer_delete, id) == Ok(0),
        ])
    });
}

#[test]
fn timer_descriptors_repeat_and_tell() {
    let fd = sys!(timerfd_create, libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC).unwrap();
    let (mut shown, mut old) = ([9_i64; 4], [9_i64; 4]);
    assert_eq!(sys!(timerfd_gettime, fd, shown.as_mut_ptr()), Ok(0));
    assert_eq!(shown, [0; 4]);
    assert_eq!(sys!(timerfd_settime, fd, 0, [3_i64, 0, 100, 0].as_ptr(), 0), Ok(0));
    assert_eq!(sys!(timerfd_gettime, fd, shown.as_mut_ptr()), Ok(0));
    assert!(shown[..2] == [3, 0] && (99..=100).contains(&shown[2]));
    let at = split(now(libc::CLOCK_MONOTONIC) + 2_000_000);
    let spec = [0, 0, at[0], at[1]];
    assert_eq!(sys!(timerfd_settime, fd, libc::TFD_TIMER_ABSTIME, spec.as_ptr(), old.as_mut_ptr()), Ok(0));
    assert!(old[0] == 3 && (99..=100).contains(&old[2]));
    let mut count = 0_u64;
    // A blocking read waits for it.
    assert_eq!(sys!(read, fd, &raw mut count, 8), Ok(8));
    assert!(count == 1 && now(libc::CLOCK_MONOTONIC) >= at[0] * 1_000_000_000 + at[1]);
    assert_eq!(sys!(read, fd, &raw mut count, 4), Err(libc::EINVAL));
    assert_eq!(sys!(timerfd_settime, fd, 0x100, spec.as_ptr(), 0), Err(libc::EINVAL));
    assert_eq!(sys!(timerfd_settime, fd, 0, [0_i64, 0, 0, -1].as_ptr(), 0), Err(libc::EINVAL));
    assert_eq!(sys!(timerfd_settime, 0x3ff, 0, spec.as_ptr(), 0), Err(libc::EBADF));
    assert_eq!(sys!(timerfd_create, 99, 0), Err(libc::EINVAL));
    assert_eq!(sys!(timerfd_create, libc::CLOCK_MONOTONIC, 1), Err(libc::EINVAL));
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn sleeps_until_a_time() {
    for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME, libc::CLOCK_BOOTTIME] {
        let until = now(clock) + 3_000_000;
        assert_eq!(sys!(clock_nanosleep, clock, libc::TIMER_ABSTIME, split(until).as_ptr(), 0), Ok(0));
        assert!(now(clock) >= until);
    }
    let short = [0_i64, 1000];
    assert_eq!(sys!(clock_nanosleep, 99, 0, short.as_ptr(), 0), Err(libc::EINVAL));
    assert_eq!(sys!(clock_nanosleep, libc::CLOCK_THREAD_CPUTIME_ID, 0, short.as_ptr(), 0), Err(libc::EOPNOTSUPP));
    assert_eq!(sys!(clock_nanosleep, libc::CLOCK_MONOTONIC, 0, 16, 0), Err(libc::EFAULT));
}

#[test]
fn old_clocks_agree() {
    let (mut time, mut zone) = ([0_i64; 2], [9_i32; 2]);
    let before = now(libc::CLOCK_REALTIME) / 1000;
    assert_eq!(sys!(gettimeofday, time.as_mut_ptr(), zone.as_mut_ptr()), Ok(0));
    let shown = time[0] * 1_000_000 + time[1];
    assert!(before <= shown && shown <= now(libc::CLOCK_REALTIME) / 1000);
    let mut seconds = 0_i64;
    let answer = sys!(time, &raw mut seconds).unwrap();
    assert!(answer == seconds && answer >= time[0] && answer <= time[0] + 2);
    assert_eq!(sys!(time, 16), Err(libc::EFAULT));
    assert_eq!(sys!(gettimeofday, 16, 0), Err(libc::EFAULT));
    // Reading the clock's state needs no privilege.
    let mut state = [0_u64; 26];
    assert!(sys!(adjtimex, state.as_mut_ptr()).is_ok());
    state = [0; 26];
    assert!(sys!(clock_adjtime, libc::CLOCK_REALTIME, state.as_mut_ptr()).is_ok());
    assert!(state[9] > 1_000_000_000);
}
