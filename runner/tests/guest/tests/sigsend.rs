//! Sending signals to threads, waiting for them, and how a signal's frame and stack are told.

use std::sync::atomic::{AtomicI32, Ordering};

use casemate_guest_tests::{Memory, child, in_child, steps, sys, until_asleep, wait_status};

static SEEN: AtomicI32 = AtomicI32::new(0);
static THREAD: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32) {
    THREAD.store(i32::try_from(sys!(gettid).unwrap_or(0)).unwrap_or(0), Ordering::Relaxed);
    SEEN.store(signal, Ordering::Relaxed);
}

fn handle(signal: i32) {
    // SAFETY: 1. sigaction is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = note as extern "C" fn(i32) as usize;
    // SAFETY: 1. `action` lives across the call and names a handler of the right type.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn change(how: i32, set: u64) -> u64 {
    let mut old = 0_u64;
    let _ = sys!(rt_sigprocmask, how, &raw const set, &raw mut old, 8);
    old
}

#[test]
fn signals_reach_one_thread() {
    in_child(|| {
        handle(libc::SIGUSR1);
        let (pid, tid) = (sys!(getpid).unwrap(), sys!(gettid).unwrap());
        let first = sys!(tgkill, pid, tid, libc::SIGUSR1);
        let there = SEEN.swap(0, Ordering::Relaxed) == libc::SIGUSR1;
        let second = sys!(tkill, tid, libc::SIGUSR1);
        let again = SEEN.swap(0, Ordering::Relaxed) == libc::SIGUSR1;
        let other = std::thread::spawn(move || {
            let me = sys!(gettid).unwrap();
            let sent = sys!(tgkill, pid, me, libc::SIGUSR1);
            sent == Ok(0) && i64::from(THREAD.load(Ordering::Relaxed)) == me
        });
        steps(&[
            first == Ok(0) && there,
            second == Ok(0) && again,
            other.join().unwrap_or(false),
            sys!(tgkill, pid, tid, 0) == Ok(0),
            sys!(tgkill, pid + 1, tid, 0) == Err(libc::ESRCH),
            sys!(tgkill, pid, 0x3fff_ffff, 0) == Err(libc::ESRCH),
            sys!(tgkill, -1_i64, tid, 0) == Err(libc::EINVAL),
            sys!(tgkill, pid, 0, 0) == Err(libc::EINVAL),
            sys!(tkill, 0, 0) == Err(libc::EINVAL),
            sys!(tkill, tid, 65) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn queued_signals_reach_one_thread() {
    in_child(|| {
        let signal = libc::SIGRTMIN() + 2;
        let _ = change(libc::SIG_BLOCK, bit(signal));
        let (pid, tid) = (sys!(getpid).unwrap(), sys!(gettid).unwrap());
        // si_signo, si_errno, si_code, padding, pid, uid, value.
        let mut info = [0_i32; 32];
        (info[2], info[6]) = (libc::SI_QUEUE, 4711);
        let sent = sys!(rt_tgsigqueueinfo, pid, tid, signal, info.as_ptr());
        let mut got = [0_i32; 32];
        let set = bit(signal);
        let zero = [0_i64; 2];
        let taken = sys!(rt_sigtimedwait, &raw const set, got.as_mut_ptr(), zero.as_ptr(), 8);
        info[2] = libc::SI_USER;
        steps(&[
            sent == Ok(0),
            taken == Ok(signal.into()),
            (got[0], got[2], got[6]) == (signal, libc::SI_QUEUE, 4711),
            // Only to oneself may one pretend that the kernel or kill sent it.
            sys!(rt_tgsigqueueinfo, pid, tid, signal, info.as_ptr()) == Ok(0),
            sys!(rt_sigqueueinfo, sys!(getppid).unwrap(), 0, info.as_ptr()) == Err(libc::EPERM),
            sys!(rt_tgsigqueueinfo, pid, 0x3fff_ffff, signal, info.as_ptr()) == Err(libc::EPERM),
            sys!(rt_tgsigqueueinfo, pid, 0x3fff_ffff, signal, got.as_ptr()) == Err(libc::ESRCH),
            sys!(rt_tgsigqueueinfo, pid, tid, signal, 16) == Err(libc::EFAULT),
        ])
    });
}

#[test]
fn suspending_takes_a_mask_for_a_while() {
    in_child(|| {
        handle(libc::SIGUSR1);
        let _ = change(libc::SIG_BLOCK, bit(libc::SIGUSR1));
        let _ = sys!(kill, sys!(getpid).unwrap(), libc::SIGUSR1);
        let none = 0_u64;
        let blocked = SEEN.load(Ordering::Relaxed) == 0;
        let woken = sys!(rt_sigsuspend, &raw const none, 8);
        steps(&[
            blocked,
            woken == Err(libc::EINTR),
            SEEN.load(Ordering::Relaxed) == libc::SIGUSR1,
            change(libc::SIG_BLOCK, 0) & bit(libc::SIGUSR1) != 0,
            sys!(rt_sigsuspend, &raw const none, 4) == Err(libc::EINVAL),
            sys!(rt_sigsuspend, 16, 8) == Err(libc::EFAULT),
        ])
    });
}

#[test]
fn pause_ends_after_a_handler() {
    let pid = child(|| {
        handle(libc::SIGUSR2);
        steps(&[sys!(pause) == Err(libc::EINTR), SEEN.load(Ordering::Relaxed) == libc::SIGUSR2])
    });
    // Its handler stands when it sleeps.
    until_asleep(pid.into(), pid.into());
    assert_eq!(sys!(kill, pid, libc::SIGUSR2), Ok(0));
    assert_eq!(wait_status(pid), 0);
}

#[test]
fn sigtimedwait_waits_and_is_interrupted() {
    let set = bit(libc::SIGUSR1);
    let wait = |timeout: *const i64| sys!(rt_sigtimedwait, &raw const set, 0, timeout, 8);
    for (sent, expected) in [(libc::SIGUSR1, Ok(libc::SIGUSR1.into())), (libc::SIGUSR2, Err(libc::EINTR))] {
        let pid = child(|| {
            handle(libc::SIGUSR2);
            let _ = change(libc::SIG_BLOCK, set);
            steps(&[wait(std::ptr::null()) == expected])
        });
        until_asleep(pid.into(), pid.into());
        assert_eq!(sys!(kill, pid, sent), Ok(0));
        assert_eq!(wait_status(pid), 0);
    }
    in_child(|| {
        let _ = change(libc::SIG_BLOCK, set);
        steps(&[
            wait([0_i64, 1_000_000].as_ptr()) == Err(libc::EAGAIN),
            wait([0_i64, -1].as_ptr()) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn alternate_stacks_are_told_and_checked() {
    in_child(|| {
        let memory = Memory::new(65536, libc::MAP_PRIVATE);
        // SAFETY: 1. plain data.
        let mut old: libc::stack_t = unsafe { std::mem::zeroed() };
        let none = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        let stack =
            |flags: i32, size: usize| libc::stack_t { ss_sp: memory.start.cast(), ss_flags: flags, ss_size: size };
        let (good, small, bad) = (stack(0, 65536), stack(0, 1024), stack(77, 65536));
        let disabled = sys!(sigaltstack, &raw const none, 0);
        let told = sys!(sigaltstack, 0, &raw mut old);
        let off = old.ss_flags == libc::SS_DISABLE;
        let set = sys!(sigaltstack, &raw const good, 0);
        let told_again = sys!(sigaltstack, 0, &raw mut old);
        let results = [
            disabled == Ok(0) && told == Ok(0) && off,
            set == Ok(0) && told_again == Ok(0),
            (old.ss_sp.cast(), old.ss_flags, old.ss_size) == (memory.start, 0, 65536),
            sys!(sigaltstack, &raw const small, 0) == Err(libc::ENOMEM),
            sys!(sigaltstack, &raw const bad, 0) == Err(libc::EINVAL),
            sys!(sigaltstack, 16, 0) == Err(libc::EFAULT),
            sys!(sigaltstack, &raw const none, 0) == Ok(0),
        ];
        steps(&results)
    });
}
