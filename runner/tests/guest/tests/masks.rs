//! Masks of blocked signals that change while signals come: none is lost, and none comes while it is blocked.

use std::cell::Cell;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use casemate_guest_tests::{Memory, child, in_child, inside, pipe, steps, sys, wait_status};

const BLOCK: i32 = libc::SIG_BLOCK;
const UNBLOCK: i32 = libc::SIG_UNBLOCK;
const SET: i32 = libc::SIG_SETMASK;
/// SIGKILL and SIGSTOP.
const UNBLOCKABLE: u64 = 1 << 8 | 1 << 18;
/// What a test waits at most for a signal that should have come long before.
const PATIENCE: Duration = Duration::from_secs(30);
/// Signals of the storm: real-time ones, of which each counts.
const STORM: [i32; 3] = [40, 41, 42];

thread_local! {
    /// What this thread has told the kernel to block; narrower while it does so, wider afterwards.
    static SHADOW: Cell<u64> = const { Cell::new(0) };
}
static TAKEN: AtomicU64 = AtomicU64::new(0);
static WHILE_BLOCKED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(signal: i32) {
    if SHADOW.with(Cell::get) & bit(signal) != 0 {
        WHILE_BLOCKED.fetch_add(1, Ordering::Relaxed);
    }
    TAKEN.fetch_add(1, Ordering::Relaxed);
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn handle(signal: i32) {
    // SAFETY: 1. sigaction is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as extern "C" fn(i32) as usize;
    // SAFETY: 1. `action` lives across the call and names a handler of the right type.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
}

/// Changes the mask; says the old one.
fn change(how: i32, set: u64) -> u64 {
    let mut old = !0_u64;
    assert_eq!(sys!(rt_sigprocmask, how, &raw const set, &raw mut old, 8), Ok(0));
    old
}

fn mask() -> u64 {
    let mut old = !0_u64;
    assert_eq!(sys!(rt_sigprocmask, 99, 0, &raw mut old, 8), Ok(0));
    old
}

/// As [`change`], with the shadow.
fn set(new: u64) {
    SHADOW.with(|shadow| shadow.set(shadow.get() & new));
    change(SET, new);
    SHADOW.with(|shadow| shadow.set(new));
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    *state >> 33
}

fn until(mut done: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > PATIENCE {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Sends by `send` until there is room.
fn insist(send: impl Fn() -> Result<i64, i32>) {
    while send() == Err(libc::EAGAIN) {
        std::thread::yield_now();
    }
}

fn queue(signal: i32, tid: Option<i64>) {
    let pid = sys!(getpid).unwrap_or(0);
    let mut info = [0_u32; 32];
    (info[0], info[2]) = (signal.unsigned_abs(), (-1_i32).cast_unsigned());
    insist(|| match tid {
        Some(tid) => sys!(rt_tgsigqueueinfo, pid, tid, signal, info.as_ptr()),
        None => sys!(rt_sigqueueinfo, pid, signal, info.as_ptr()),
    });
}

#[test]
fn no_signal_of_a_storm_is_lost_or_comes_while_blocked() {
    const THREADS: usize = 3;
    const EACH: u64 = 1_500;
    in_child(|| {
        STORM.iter().for_each(|signal| handle(*signal));
        let tids: [AtomicI64; THREADS] = Default::default();
        let (begin, quiet) = (Barrier::new(THREADS + 1), AtomicBool::new(false));
        let all = STORM.iter().fold(0, |set, signal| set | bit(*signal));
        // The main thread, which only sends, takes none.
        set(all);
        let sent = EACH * STORM.len() as u64;
        let came = std::thread::scope(|scope| {
            for (index, tid) in tids.iter().enumerate() {
                let (begin, quiet) = (&begin, &quiet);
                scope.spawn(move || {
                    set(all);
                    tid.store(sys!(gettid).unwrap_or(0), Ordering::Relaxed);
                    begin.wait();
                    let mut seed = index as u64 + 1;
                    while !quiet.load(Ordering::Relaxed) {
                        let new = STORM.iter().fold(0, |set, signal| set | (bit(*signal) * (random(&mut seed) & 1)));
                        set(new);
                        for _ in 0..random(&mut seed) % 200 {
                            std::hint::spin_loop();
                        }
                    }
                    // All that came meanwhile finds a thread that runs and calls nothing.
                    set(0);
                    let begun = Instant::now();
                    while TAKEN.load(Ordering::Relaxed) < sent && begun.elapsed() < PATIENCE {
                        std::hint::spin_loop();
                    }
                });
            }
            begin.wait();
            let mut seed = 99;
            for round in 0..sent {
                let signal = STORM[round as usize % STORM.len()];
                let tid = &tids[random(&mut seed) as usize % THREADS];
                queue(signal, (round % 2 == 0).then(|| tid.load(Ordering::Relaxed)));
                if random(&mut seed).is_multiple_of(64) {
                    std::thread::yield_now();
                }
            }
            quiet.store(true, Ordering::Relaxed);
            until(|| TAKEN.load(Ordering::Relaxed) >= sent)
        });
        steps(&[came, TAKEN.load(Ordering::Relaxed) == sent, WHILE_BLOCKED.load(Ordering::Relaxed) == 0])
    });
}

#[test]
fn a_thread_that_keeps_flipping_takes_each_signal() {
    in_child(|| {
        handle(libc::SIGUSR1);
        let (stop, tid) = (AtomicBool::new(false), AtomicI64::new(0));
        set(bit(libc::SIGUSR1));
        let fine = std::thread::scope(|scope| {
            scope.spawn(|| {
                tid.store(sys!(gettid).unwrap_or(0), Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    set(0);
                    set(bit(libc::SIGUSR1));
                }
            });
            until(|| tid.load(Ordering::Relaxed) != 0);
            let (pid, tid) = (sys!(getpid).unwrap_or(0), tid.load(Ordering::Relaxed));
            let fine = (1..=1_500).all(|round| {
                let sent =
                    if round % 2 == 0 { sys!(kill, pid, libc::SIGUSR1) } else { sys!(tkill, tid, libc::SIGUSR1) };
                sent == Ok(0) && until(|| TAKEN.load(Ordering::Relaxed) == round)
            });
            stop.store(true, Ordering::Relaxed);
            fine
        });
        steps(&[fine, WHILE_BLOCKED.load(Ordering::Relaxed) == 0])
    });
}

#[test]
fn a_signal_goes_from_a_thread_that_blocks_it_to_one_that_does_not() {
    in_child(|| {
        handle(libc::SIGUSR2);
        set(bit(libc::SIGUSR2));
        let (stop, owner) = (AtomicBool::new(false), AtomicU64::new(0));
        let fine = std::thread::scope(|scope| {
            for me in 0..2 {
                let (stop, owner) = (&stop, &owner);
                scope.spawn(move || {
                    // One of the two takes it at any time, but for moments.
                    while !stop.load(Ordering::Relaxed) {
                        if owner.load(Ordering::Relaxed) == me {
                            set(0);
                            owner.store(1 - me, Ordering::Relaxed);
                            set(bit(libc::SIGUSR2));
                        }
                        std::hint::spin_loop();
                    }
                });
            }
            let pid = sys!(getpid).unwrap_or(0);
            let fine = (1..=1_000).all(|round| {
                sys!(kill, pid, libc::SIGUSR2) == Ok(0) && until(|| TAKEN.load(Ordering::Relaxed) == round)
            });
            stop.store(true, Ordering::Relaxed);
            fine
        });
        steps(&[fine, WHILE_BLOCKED.load(Ordering::Relaxed) == 0])
    });
}

#[test]
fn what_waits_for_signals_agrees_with_masks() {
    in_child(|| {
        handle(libc::SIGUSR1);
        let (me, usr1, usr2) = (sys!(getpid).unwrap_or(0), bit(libc::SIGUSR1), bit(libc::SIGUSR2));
        let pending = || {
            let mut set = 0_u64;
            assert_eq!(sys!(rt_sigpending, &raw mut set, 8), Ok(0));
            set
        };
        for round in 1..=300_u64 {
            set(usr1 | usr2);
            let first = pending() == 0 && sys!(kill, me, libc::SIGUSR2) == Ok(0) && pending() == usr2;
            let taken = sys!(rt_sigtimedwait, &raw const usr2, 0, 0, 8) == Ok(i64::from(libc::SIGUSR2));
            let none = [0_u64; 2];
            let nothing = sys!(rt_sigtimedwait, &raw const usr2, 0, none.as_ptr(), 8) == Err(libc::EAGAIN);
            let sent = sys!(kill, me, libc::SIGUSR1) == Ok(0) && TAKEN.load(Ordering::Relaxed) == 2 * round - 2;
            // ppoll(2) lets it in, and the mask before comes back.
            SHADOW.with(|shadow| shadow.set(0));
            let polled = sys!(ppoll, 0, 0, 0, &raw const usr2, 8) == Err(libc::EINTR);
            let came = TAKEN.load(Ordering::Relaxed) == 2 * round - 1 && mask() == usr1 | usr2 && pending() == 0;
            set(usr1 | usr2);
            // As does sigsuspend(2).
            let again = sys!(kill, me, libc::SIGUSR1) == Ok(0) && pending() == usr1;
            SHADOW.with(|shadow| shadow.set(0));
            let slept = sys!(rt_sigsuspend, &raw const usr2, 8) == Err(libc::EINTR);
            let after = TAKEN.load(Ordering::Relaxed) == 2 * round && mask() == usr1 | usr2;
            let result = steps(&[first, taken, nothing, sent, polled, came, again, slept, after]);
            if result != 0 {
                return result;
            }
        }
        // What was blocked is taken before the call that unblocks it returns.
        let before = TAKEN.load(Ordering::Relaxed);
        set(usr1);
        let _ = sys!(kill, me, libc::SIGUSR1);
        set(0);
        steps(&[TAKEN.load(Ordering::Relaxed) == before + 1, WHILE_BLOCKED.load(Ordering::Relaxed) == 0])
    });
}

#[test]
fn changes_are_those_that_were_asked_for() {
    in_child(|| {
        let mut seed = 7;
        let mut known = mask();
        for round in 0..4_000_u64 {
            let set = random(&mut seed) << 33 ^ random(&mut seed) << 11;
            let how = (random(&mut seed) % 5) as i32 - 1;
            let mut old = 0xbad_u64;
            let tell = !random(&mut seed).is_multiple_of(3);
            let place = if tell { (&raw mut old).addr() } else { 0 };
            let result = sys!(rt_sigprocmask, how, &raw const set, place, 8);
            let valid = [BLOCK, UNBLOCK, SET].contains(&how);
            let told = if tell && valid { known } else { 0xbad };
            if result != if valid { Ok(0) } else { Err(libc::EINVAL) } || old != told {
                return 1;
            }
            known = match how {
                BLOCK => known | set,
                UNBLOCK => known & !set,
                SET => set,
                _ => known,
            } & !UNBLOCKABLE;
            if round % 7 == 0 && mask() != known {
                return 2;
            }
            // The same place for both, and sets that overlap.
            if round % 11 == 0 {
                let mut both = [known, 0];
                let at = (&raw mut both).cast::<u8>();
                let other = at.wrapping_add(usize::try_from(round % 5).unwrap_or(0));
                let expected = known;
                if sys!(rt_sigprocmask, SET, at, other, 8) != Ok(0) || mask() != known {
                    return 3;
                }
                // SAFETY: 1. eight bytes inside `both`.
                if unsafe { other.cast::<u64>().read_unaligned() } != expected {
                    return 4;
                }
            }
        }
        0
    });
}

#[test]
fn bad_sets_are_refused_and_change_nothing() {
    in_child(|| {
        let page = 4096;
        let memory = Memory::new(4 * page, libc::MAP_PRIVATE);
        let at = |offset: usize| memory.start.wrapping_add(offset);
        let _ = sys!(mprotect, at(page), page, libc::PROT_READ);
        let _ = sys!(mprotect, at(2 * page), page, libc::PROT_NONE);
        let _ = sys!(munmap, at(3 * page), page);
        let (set, mut old) = (1_u64 << 40, 5_u64);
        let (set, old) = ((&raw const set).cast::<u8>().cast_mut(), (&raw mut old).cast::<u8>());
        let wild = |address: u64| std::ptr::without_provenance_mut::<u8>(address as usize);
        change(SET, 1 << 20);
        let ask = |how: i32, set: *mut u8, old: *mut u8, size: u64| sys!(rt_sigprocmask, how, set, old, size);
        let unreadable =
            [at(2 * page - 4), at(2 * page), at(3 * page), wild(1), wild(1 << 47), wild(1 << 63), wild(u64::MAX - 3)];
        for round in 0..20 {
            let mut checks = vec![
                ask(BLOCK, set, old, 4) == Err(libc::EINVAL),
                ask(BLOCK, set, old, 16) == Err(libc::EINVAL),
                ask(3, set, old, 8) == Err(libc::EINVAL),
                ask(-1, set, old, 8) == Err(libc::EINVAL),
                ask(3, wild(0), old, 8) == Ok(0),
                // A set that is not there yet, or shared with a parent.
                ask(UNBLOCK, at(8 * round), wild(0), 8) == Ok(0),
            ];
            checks.extend(unreadable.map(|bad| ask(BLOCK, bad, old, 8) == Err(libc::EFAULT) && mask() == 1 << 20));
            let mut unwritable = unreadable.to_vec();
            unwritable.extend([at(page - 4), at(page)]);
            for bad in unwritable {
                // The mask has changed then, as Linux has it.
                checks.push(ask(BLOCK, set, bad, 8) == Err(libc::EFAULT) && mask() == 1 << 20 | 1 << 40);
                checks.push(ask(BLOCK, wild(0), bad, 8) == Err(libc::EFAULT));
                change(SET, 1 << 20);
            }
            let result = steps(&checks);
            if result != 0 {
                return result;
            }
        }
        0
    });
}

fn blocked_of(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[test]
fn children_threads_and_new_programs_inherit_the_mask() {
    in_child(|| {
        for round in 0..12_u64 {
            let set = 1 << 50 | 1 << (30 + round);
            change(SET, set);
            let status = wait_status(child(|| {
                let fine = mask() == set && blocked_of("self") == Some(set);
                change(SET, 3 << 60);
                let thread = std::thread::spawn(mask).join().is_ok_and(|mask| mask == 3 << 60);
                steps(&[fine, thread, mask() == 3 << 60])
            }));
            let (out, into) = pipe(0);
            let cat = child(|| {
                let _ = sys!(dup2, into, 1);
                change(BLOCK, 1 << 55);
                let words = [c"cat".as_ptr(), c"/proc/self/status".as_ptr(), std::ptr::null()];
                let environment = [std::ptr::null::<libc::c_char>()];
                let _ = sys!(execve, c"/bin/cat".as_ptr(), words.as_ptr(), environment.as_ptr());
                1
            });
            let _ = sys!(close, into);
            let mut text = vec![0; 1 << 16];
            let mut len = 0;
            while let Ok(more @ 1..) = sys!(read, out, text.as_mut_ptr().wrapping_add(len), text.len() - len) {
                len += usize::try_from(more).unwrap_or(0);
            }
            let _ = sys!(close, out);
            let expected = format!("SigBlk:\t{:016x}\n", set | 1 << 55);
            let told = String::from_utf8_lossy(text.get(..len).unwrap_or(&[])).contains(&expected);
            let result = steps(&[status == 0, wait_status(cat) == 0, told, mask() == set]);
            if result != 0 {
                return result;
            }
        }
        0
    });
}

#[test]
fn others_see_the_mask_of_a_process_that_calls_nothing_else() {
    let page = Memory::new(4096, libc::MAP_SHARED);
    // SAFETY: 1. aligned memory that outlives both processes' use of it.
    let [go, done] = [0, 8].map(|at| unsafe { AtomicU64::from_ptr(page.start.wrapping_add(at).cast()) });
    let other = child(|| {
        loop {
            let wanted = go.load(Ordering::Acquire);
            if wanted == 0 {
                std::hint::spin_loop();
                continue;
            }
            change(SET, wanted);
            done.store(wanted, Ordering::Release);
        }
    });
    let right = (0..40).all(|round| {
        let wanted = 1 << 33 | 1 << (40 + round % 20);
        go.store(wanted, Ordering::Release);
        // It may be on the way there, from the value before or this one again.
        until(|| done.load(Ordering::Acquire) == wanted) && blocked_of(&other.to_string()) == Some(wanted)
    });
    let _ = sys!(kill, other, libc::SIGKILL);
    let status = wait_status(other);
    assert!(right && libc::WIFSIGNALED(status), "{status:#x}");
}

/// Where the thread's own block of memory is that it shares with the sandbox: inside, a program without a GS base has it
/// there. The words that say what is blocked are in it.
fn forge(words: std::ops::Range<usize>, value: u64) {
    let base: usize;
    // SAFETY: 1. reads a register, as the host's flag below allows it.
    unsafe { std::arch::asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    assert_ne!(base, 0);
    for at in words {
        // SAFETY: 1. none: memory that no program should touch; inside, it is mapped and this process's own.
        unsafe { std::ptr::with_exposed_provenance_mut::<u64>(base + at * 8).write_volatile(value) };
    }
}

#[test]
fn nothing_keeps_a_process_from_being_killed_or_stopped() {
    for forged in [None, Some(0), Some(1), Some(u64::MAX)] {
        if forged.is_some() && !inside() {
            continue;
        }
        let (out, into) = pipe(0);
        let other = child(|| {
            change(SET, !0);
            for _ in 0..20 {
                change(BLOCK, !0);
            }
            let _ = sys!(write, into, c"x".as_ptr(), 1);
            loop {
                if let Some(value) = forged {
                    // A line's worth of both words and what is about them.
                    forge(16..24, value);
                }
                change(BLOCK, !0);
            }
        });
        let mut byte = 0_u8;
        assert_eq!(sys!(read, out, &raw mut byte, 1), Ok(1));
        // A forger may let it in.
        if forged.is_none() {
            assert_eq!(sys!(kill, other, libc::SIGTERM), Ok(0));
        }
        assert_eq!(sys!(kill, other, libc::SIGSTOP), Ok(0));
        let mut status = 0;
        assert_eq!(sys!(wait4, other, &raw mut status, libc::WUNTRACED, 0), Ok(i64::from(other)));
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
        let told = blocked_of(&other.to_string()).expect("a process");
        assert_eq!(told & UNBLOCKABLE, 0, "{told:x}");
        assert_eq!(sys!(kill, other, libc::SIGCONT), Ok(0));
        assert_eq!(sys!(kill, other, libc::SIGKILL), Ok(0));
        let status = wait_status(other);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL, "{status:#x}");
        let _ = (sys!(close, out), sys!(close, into));
    }
}
