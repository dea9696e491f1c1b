//! Futexes beyond waiting and waking one word: operations, bit sets, vectors, the calls of Linux 6.7, and membarrier(2).

use std::sync::atomic::{AtomicU32, Ordering};

use casemate_guest_tests::{Memory, in_child, steps, sys, until_asleep};

const PRIVATE: i32 = libc::FUTEX_PRIVATE_FLAG;

/// Runs `wait` on a thread until it sleeps, then `wake`; the answers of both.
fn meet(
    wait: impl FnOnce() -> Result<i64, i32> + Send + 'static,
    wake: impl FnOnce() -> Result<i64, i32>,
) -> (Result<i64, i32>, Result<i64, i32>) {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        send.send(sys!(gettid).unwrap()).unwrap();
        wait()
    });
    let tid = receive.recv().unwrap();
    until_asleep(sys!(getpid).unwrap(), tid);
    let woken = wake();
    (thread.join().unwrap(), woken)
}

#[test]
fn bit_sets_choose_whom_to_wake() {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let at = WORD.as_ptr() as u64;
    let (waited, woken) = meet(
        move || sys!(futex, at, libc::FUTEX_WAIT_BITSET | PRIVATE, 0, 0, 0, 2),
        || {
            assert_eq!(sys!(futex, at, libc::FUTEX_WAKE_BITSET | PRIVATE, 9, 0, 0, 1), Ok(0));
            sys!(futex, at, libc::FUTEX_WAKE_BITSET | PRIVATE, 9, 0, 0, 6)
        },
    );
    assert_eq!((waited, woken), (Ok(0), Ok(1)));
    assert_eq!(sys!(futex, at, libc::FUTEX_WAKE_BITSET | PRIVATE, 9, 0, 0, 0), Err(libc::EINVAL));
    // The timeout of a bit set wait is a point in time.
    let past = [1_i64, 0];
    let wait = libc::FUTEX_WAIT_BITSET | PRIVATE;
    assert_eq!(sys!(futex, at, wait, 0, past.as_ptr(), 0, u32::MAX), Err(libc::ETIMEDOUT));
    let realtime = wait | libc::FUTEX_CLOCK_REALTIME;
    assert_eq!(sys!(futex, at, realtime, 0, past.as_ptr(), 0, u32::MAX), Err(libc::ETIMEDOUT));
    assert_eq!(sys!(futex, at, 99, 0, 0, 0, 0), Err(libc::ENOSYS));
}

#[test]
fn wake_op_changes_and_wakes() {
    static FIRST: AtomicU32 = AtomicU32::new(0);
    static SECOND: AtomicU32 = AtomicU32::new(5);
    let (first, second) = (FIRST.as_ptr() as u64, SECOND.as_ptr() as u64);
    let op = |code: u32, argument: u32, compare: u32, with: u32| code << 28 | compare << 24 | argument << 12 | with;
    let (waited, woken) = meet(
        move || sys!(futex, second, libc::FUTEX_WAIT | PRIVATE, 5, 0, 0, 0),
        // second += 3; it was 5 as compared, so that its waiters wake too.
        || sys!(futex, first, libc::FUTEX_WAKE_OP | PRIVATE, 1, 1, second, op(1, 3, 0, 5)),
    );
    assert_eq!((waited, woken, SECOND.load(Ordering::SeqCst)), (Ok(0), Ok(1), 8));
    let run = |value: u32| sys!(futex, first, libc::FUTEX_WAKE_OP | PRIVATE, 1, 1, second, value);
    assert_eq!((run(op(0, 12, 0, 0)), SECOND.load(Ordering::SeqCst)), (Ok(0), 12));
    assert_eq!((run(op(2, 3, 0, 0)), SECOND.load(Ordering::SeqCst)), (Ok(0), 15));
    assert_eq!((run(op(3, 5, 0, 0)), SECOND.load(Ordering::SeqCst)), (Ok(0), 10));
    assert_eq!((run(op(4, 3, 0, 0)), SECOND.load(Ordering::SeqCst)), (Ok(0), 9));
    // With the shift flag the argument is a bit number.
    assert_eq!((run(op(8 | 2, 4, 0, 0)), SECOND.load(Ordering::SeqCst)), (Ok(0), 25));
    assert_eq!(run(op(7, 0, 0, 0)), Err(libc::ENOSYS));
}

#[test]
fn one_of_several_words_wakes() {
    static WORDS: [AtomicU32; 2] = [AtomicU32::new(1), AtomicU32::new(2)];
    let (zero, one) = (WORDS[0].as_ptr() as u64, WORDS[1].as_ptr() as u64);
    // struct futex_waitv: value, address, flags (32 bits, private) and a reserved word.
    let flags = 2 | u64::from(PRIVATE.cast_unsigned());
    let list = move |first: u64, second: u64| [first, zero, flags, second, one, flags];
    let (waited, woken) = meet(
        move || sys!(futex_waitv, list(1, 2).as_ptr(), 2, 0, 0, libc::CLOCK_MONOTONIC),
        || sys!(futex, one, libc::FUTEX_WAKE | PRIVATE, 1, 0, 0, 0),
    );
    assert_eq!((waited, woken), (Ok(1), Ok(1)));
    let past = [1_i64, 0];
    let wait = |list: [u64; 6], flags: u32| sys!(futex_waitv, list.as_ptr(), 2, flags, past.as_ptr(), 1);
    assert_eq!(wait(list(1, 3), 0), Err(libc::EAGAIN));
    assert_eq!(wait(list(1, 2), 0), Err(libc::ETIMEDOUT));
    assert_eq!(wait(list(1, 2), 1), Err(libc::EINVAL));
    assert_eq!(wait([1, zero, 0x1000, 2, one, flags], 0), Err(libc::EINVAL));
    assert_eq!(sys!(futex_waitv, 16, 2, 0, 0, 1), Err(libc::EFAULT));
    assert_eq!(sys!(futex_waitv, list(1, 2).as_ptr(), 0, 0, 0, 1), Err(libc::EINVAL));
    assert_eq!(sys!(futex_waitv, list(1, 2).as_ptr(), 129, 0, 0, 1), Err(libc::EINVAL));
}

#[test]
fn the_newer_calls_wait_wake_and_move() {
    static FIRST: AtomicU32 = AtomicU32::new(7);
    static SECOND: AtomicU32 = AtomicU32::new(0);
    let (first, second) = (FIRST.as_ptr() as u64, SECOND.as_ptr() as u64);
    let flags = 2 | PRIVATE;
    let all = u64::from(u32::MAX);
    if sys!(futex_wake, first, all, 1, flags) == Err(libc::ENOSYS) {
        // A host before Linux 6.7; we are not one.
        assert!(!casemate_guest_tests::inside());
        return;
    }
    let (waited, woken) = meet(
        move || sys!(futex_wait, first, 7, all, flags, 0, libc::CLOCK_MONOTONIC),
        || {
            // struct futex_waitv of both words: from, to.
            let bits = u64::from(flags.cast_unsigned());
            let pair = [7, first, bits, 0, second, bits];
            assert_eq!(sys!(futex_requeue, pair.as_ptr(), 0, 0, 1), Ok(1));
            assert_eq!(sys!(futex_wake, first, all, 1, flags), Ok(0));
            sys!(futex_wake, second, all, 1, flags)
        },
    );
    assert_eq!((waited, woken), (Ok(0), Ok(1)));
    let past = [1_i64, 0];
    assert_eq!(sys!(futex_wait, first, 8, all, flags, past.as_ptr(), 1), Err(libc::EAGAIN));
    assert_eq!(sys!(futex_wait, first, 7, all, flags, past.as_ptr(), 1), Err(libc::ETIMEDOUT));
    assert_eq!(sys!(futex_wake, first, all, 1, 0x100), Err(libc::EINVAL));
}

#[test]
fn robust_words_tell_of_a_death() {
    static WORD: AtomicU32 = AtomicU32::new(0);
    // A list head, and one entry whose word stands 16 bytes after it.
    static LIST: [std::sync::atomic::AtomicU64; 6] = [const { std::sync::atomic::AtomicU64::new(0) }; 6];
    let thread = std::thread::spawn(|| {
        let head = LIST.as_ptr() as u64;
        let entry = head + 24;
        LIST[0].store(entry, Ordering::SeqCst);
        LIST[1].store((WORD.as_ptr() as u64).wrapping_sub(entry), Ordering::SeqCst);
        LIST[3].store(head, Ordering::SeqCst);
        WORD.store(u32::try_from(sys!(gettid).unwrap()).unwrap(), Ordering::SeqCst);
        // Past the C library's own list, which is empty then.
        sys!(set_robust_list, head, 24)
    });
    assert_eq!(thread.join().unwrap(), Ok(0));
    // Joining may come before the list was walked: the word's waiters are woken by it.
    loop {
        let value = WORD.load(Ordering::SeqCst);
        if value & libc::FUTEX_OWNER_DIED != 0 {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(WORD.load(Ordering::SeqCst) & libc::FUTEX_TID_MASK, 0);
}

#[test]
fn barriers_are_offered_and_made() {
    let offered = sys!(membarrier, 0, 0, 0).unwrap();
    let (register, expedited) = (1 << 4, 1 << 3);
    assert_eq!(offered & (register | expedited), register | expedited);
    in_child(|| {
        steps(&[
            sys!(membarrier, register, 0, 0) == Ok(0),
            sys!(membarrier, expedited, 0, 0) == Ok(0),
            sys!(membarrier, expedited, 1, 0) == Err(libc::EINVAL),
            sys!(membarrier, 1 << 20, 0, 0) == Err(libc::EINVAL),
        ])
    });
}

const LOCK_PI: i32 = 6;
const UNLOCK_PI: i32 = 7;
const TRYLOCK_PI: i32 = 8;
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;

#[test]
fn owned_words_are_handed_over() {
    let word = AtomicU32::new(0);
    let at = word.as_ptr() as u64;
    let own = u32::try_from(sys!(gettid).unwrap()).unwrap();
    assert_eq!(sys!(futex, at, UNLOCK_PI, 0, 0, 0, 0), Err(libc::EPERM));
    assert_eq!(sys!(futex, at, LOCK_PI, 0, 0, 0, 0), Ok(0));
    assert_eq!(word.load(Ordering::SeqCst), own);
    assert_eq!(sys!(futex, at, LOCK_PI, 0, 0, 0, 0), Err(libc::EDEADLK));
    assert_eq!(sys!(futex, at, TRYLOCK_PI, 0, 0, 0, 0), Err(libc::EDEADLK));
    let tid = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let own = u32::try_from(sys!(gettid).unwrap()).unwrap();
            assert_eq!(sys!(futex, at, TRYLOCK_PI, 0, 0, 0, 0), Err(libc::EAGAIN));
            assert_eq!(sys!(futex, at, UNLOCK_PI, 0, 0, 0, 0), Err(libc::EPERM));
            tid.store(own, Ordering::SeqCst);
            assert_eq!(sys!(futex, at, LOCK_PI, 0, 0, 0, 0), Ok(0));
            assert_eq!(word.load(Ordering::SeqCst) & !WAITERS, own);
            assert_eq!(sys!(futex, at, UNLOCK_PI, 0, 0, 0, 0), Ok(0));
        });
        while tid.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let pid = sys!(getpid).unwrap();
        casemate_guest_tests::until_asleep(pid, tid.load(Ordering::SeqCst).into());
        assert_eq!(word.load(Ordering::SeqCst), own | WAITERS);
        // A plain wake is not for those who wait for an owner.
        assert!(sys!(futex, at, libc::FUTEX_WAKE, 1, 0, 0, 0) != Ok(1));
        assert_eq!(sys!(futex, at, UNLOCK_PI, 0, 0, 0, 0), Ok(0));
        waiter.join().unwrap();
    });
    assert_eq!(word.load(Ordering::SeqCst) & !WAITERS, 0);
    // A deadline on the wall clock that has passed; 1 is a process that is not ours.
    let owner = AtomicU32::new(1);
    let past = [1_u64, 0];
    let outcome = sys!(futex, owner.as_ptr(), LOCK_PI, 0, past.as_ptr(), 0, 0);
    assert!(matches!(outcome, Err(libc::ETIMEDOUT | libc::ESRCH | libc::EPERM)), "{outcome:?}");
    assert_eq!(sys!(futex, at + 1, LOCK_PI, 0, 0, 0, 0), Err(libc::EINVAL));
}

#[test]
fn the_heirs_of_a_dead_owner_take_over() {
    let word = AtomicU32::new(0);
    let at = word.as_ptr() as u64;
    let owning = AtomicU32::new(0);
    let leave = AtomicU32::new(0);
    let tid = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(sys!(futex, at, LOCK_PI, 0, 0, 0, 0), Ok(0));
            owning.store(1, Ordering::SeqCst);
            while leave.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
        });
        while owning.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let heir = scope.spawn(|| {
            let own = u32::try_from(sys!(gettid).unwrap()).unwrap();
            tid.store(own, Ordering::SeqCst);
            let got = sys!(futex, at, LOCK_PI, 0, 0, 0, 0);
            (got, own, word.load(Ordering::SeqCst))
        });
        while tid.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        casemate_guest_tests::until_asleep(sys!(getpid).unwrap(), tid.load(Ordering::SeqCst).into());
        leave.store(1, Ordering::SeqCst);
        let (got, own, seen) = heir.join().unwrap();
        assert_eq!((got, seen & !WAITERS), (Ok(0), own | OWNER_DIED));
    });
}

#[test]
fn mutexes_with_inheritance_exclude() {
    // SAFETY: 1. plain data, initialised below before use.
    let mut mutex: libc::pthread_mutex_t = unsafe { std::mem::zeroed() };
    // SAFETY: 1. plain data, initialised below before use.
    let mut attributes: libc::pthread_mutexattr_t = unsafe { std::mem::zeroed() };
    // SAFETY: 1. the attributes are live.
    assert_eq!(unsafe { libc::pthread_mutexattr_init(&raw mut attributes) }, 0);
    // SAFETY: 1. the attributes are initialised.
    let set = unsafe { libc::pthread_mutexattr_setprotocol(&raw mut attributes, libc::PTHREAD_PRIO_INHERIT) };
    assert_eq!(set, 0);
    // SAFETY: 1. the mutex is live, the attributes are initialised.
    assert_eq!(unsafe { libc::pthread_mutex_init(&raw mut mutex, &raw const attributes) }, 0);
    let at = &raw mut mutex as usize;
    let (count, inside) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    // SAFETY: 1. the mutex outlives the scope.
                    assert_eq!(unsafe { libc::pthread_mutex_lock(at as *mut libc::pthread_mutex_t) }, 0);
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    count.fetch_add(1, Ordering::SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    // SAFETY: 1. as above; this thread holds it.
                    assert_eq!(unsafe { libc::pthread_mutex_unlock(at as *mut libc::pthread_mutex_t) }, 0);
                }
            });
        }
    });
    assert_eq!(count.load(Ordering::SeqCst), 2000);
}

#[test]
fn a_wake_wakes_at_least_one() {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let at = WORD.as_ptr() as u64;
    for count in [0, -1] {
        let sleepers: Vec<_> = (0..2)
            .map(|_| {
                let (send, receive) = std::sync::mpsc::channel();
                let thread = std::thread::spawn(move || {
                    send.send(sys!(gettid).unwrap()).unwrap();
                    sys!(futex, at, libc::FUTEX_WAIT | PRIVATE, 0, 0, 0, 0)
                });
                until_asleep(sys!(getpid).unwrap(), receive.recv().unwrap());
                thread
            })
            .collect();
        assert_eq!(sys!(futex, at, libc::FUTEX_WAKE | PRIVATE, count, 0, 0, 0), Ok(1), "{count}");
        assert_eq!(sys!(futex, at, libc::FUTEX_WAKE | PRIVATE, 9, 0, 0, 0), Ok(1), "{count}");
        for sleeper in sleepers {
            assert_eq!(sleeper.join().unwrap(), Ok(0));
        }
    }
}

#[test]
fn owners_that_wait_in_a_circle_are_told() {
    let (first, second) = (AtomicU32::new(0), AtomicU32::new(0));
    let (one, two) = (first.as_ptr() as u64, second.as_ptr() as u64);
    assert_eq!(sys!(futex, one, LOCK_PI, 0, 0, 0, 0), Ok(0));
    let tid = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            assert_eq!(sys!(futex, two, LOCK_PI, 0, 0, 0, 0), Ok(0));
            tid.store(u32::try_from(sys!(gettid).unwrap()).unwrap(), Ordering::SeqCst);
            assert_eq!(sys!(futex, one, LOCK_PI, 0, 0, 0, 0), Ok(0));
            assert_eq!(sys!(futex, one, UNLOCK_PI, 0, 0, 0, 0), Ok(0));
            assert_eq!(sys!(futex, two, UNLOCK_PI, 0, 0, 0, 0), Ok(0));
        });
        while tid.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        until_asleep(sys!(getpid).unwrap(), tid.load(Ordering::SeqCst).into());
        assert_eq!(sys!(futex, two, LOCK_PI, 0, 0, 0, 0), Err(libc::EDEADLK));
        assert_eq!(sys!(futex, one, UNLOCK_PI, 0, 0, 0, 0), Ok(0));
        other.join().unwrap();
    });
    // Nobody waits for anybody any more.
    assert_eq!(sys!(futex, two, LOCK_PI, 0, 0, 0, 0), Ok(0));
    assert_eq!(sys!(futex, two, UNLOCK_PI, 0, 0, 0, 0), Ok(0));
}

#[test]
fn a_word_that_its_owner_was_giving_back_wakes_the_next() {
    let shared = Memory::new(4096, libc::MAP_SHARED);
    let at = shared.start as u64;
    let limit = [20_u64, 0];
    let (waited, ended) = meet(
        move || sys!(futex, at, libc::FUTEX_WAIT, 0, limit.as_ptr(), 0, 0),
        || {
            in_child(|| {
                // struct robust_list_head: an empty list, and the word that was just set to 0.
                let mut head = [0_u64, 0, at];
                head[0] = head.as_ptr() as u64;
                steps(&[sys!(set_robust_list, head.as_ptr(), 24) == Ok(0)])
            });
            Ok(0)
        },
    );
    assert_eq!((waited, ended), (Ok(0), Ok(0)));
}

/// Waits on `from`, to be moved to `to`; then gives `to` back. What the wait answered, and whether the word was its then.
fn wait_to_be_moved(from: u64, to: &'static AtomicU32) -> Result<i64, i32> {
    let waited = sys!(futex, from, libc::FUTEX_WAIT_REQUEUE_PI | PRIVATE, 0, 0, to.as_ptr(), 0);
    if waited.is_ok() {
        let own = u32::try_from(sys!(gettid).unwrap()).unwrap();
        assert_eq!(to.load(Ordering::SeqCst) & libc::FUTEX_TID_MASK, own);
        assert_eq!(sys!(futex, to.as_ptr(), libc::FUTEX_UNLOCK_PI | PRIVATE, 0, 0, 0, 0), Ok(0));
    }
    waited
}

#[test]
fn waiters_are_moved_to_a_word_with_an_owner() {
    static FROM: AtomicU32 = AtomicU32::new(0);
    static LOCK: AtomicU32 = AtomicU32::new(0);
    static OTHER: AtomicU32 = AtomicU32::new(0);
    let (from, lock, other) = (FROM.as_ptr() as u64, LOCK.as_ptr() as u64, OTHER.as_ptr() as u64);
    let requeue = libc::FUTEX_CMP_REQUEUE_PI | PRIVATE;
    // The word is free: the waiter has it.
    let met = meet(move || wait_to_be_moved(from, &LOCK), || sys!(futex, from, requeue, 1, 0, lock, 0));
    assert_eq!((met, LOCK.load(Ordering::SeqCst)), ((Ok(0), Ok(1)), 0));
    // It is ours: the waiter waits until it is given back.
    let met = meet(
        move || wait_to_be_moved(from, &LOCK),
        || {
            assert_eq!(sys!(futex, lock, libc::FUTEX_LOCK_PI | PRIVATE, 0, 0, 0, 0), Ok(0));
            // Not to be woken, nor moved elsewhere or by calls that know no owners.
            assert_eq!(sys!(futex, from, libc::FUTEX_WAKE | PRIVATE, 1, 0, 0, 0), Err(libc::EINVAL));
            assert_eq!(sys!(futex, from, requeue, 1, 1, other, 0), Err(libc::EINVAL));
            assert_eq!(sys!(futex, from, libc::FUTEX_CMP_REQUEUE | PRIVATE, 0, 1, other, 0), Err(libc::EINVAL));
            assert_eq!(sys!(futex, from, requeue, 1, 9, lock, 1), Err(libc::EAGAIN));
            assert_eq!(sys!(futex, from, requeue, 2, 9, lock, 0), Err(libc::EINVAL));
            assert_eq!(sys!(futex, from, requeue, 1, 9, lock, 0), Ok(1));
            let own = u32::try_from(sys!(gettid).unwrap()).unwrap();
            assert_eq!(LOCK.load(Ordering::SeqCst), own | libc::FUTEX_WAITERS);
            assert_eq!(sys!(futex, lock, libc::FUTEX_WAKE | PRIVATE, 1, 0, 0, 0), Err(libc::EINVAL));
            sys!(futex, lock, libc::FUTEX_UNLOCK_PI | PRIVATE, 0, 0, 0, 0)
        },
    );
    assert_eq!(met, (Ok(0), Ok(0)));
    // Waits that end for other reasons.
    let past = [1_i64, 0];
    let wait = libc::FUTEX_WAIT_REQUEUE_PI | PRIVATE;
    assert_eq!(sys!(futex, from, wait, 0, past.as_ptr(), lock, 0), Err(libc::ETIMEDOUT));
    assert_eq!(sys!(futex, from, wait | libc::FUTEX_CLOCK_REALTIME, 0, past.as_ptr(), lock, 0), Err(libc::ETIMEDOUT));
    assert_eq!(sys!(futex, from, wait, 1, past.as_ptr(), lock, 0), Err(libc::EAGAIN));
    assert_eq!(sys!(futex, from, wait, 0, past.as_ptr(), from, 0), Err(libc::EINVAL));
    assert_eq!(sys!(futex, from, requeue, 1, 1, lock, 0), Ok(0));
    // A plain waiter is not moved to a word with an owner.
    let met = meet(
        move || sys!(futex, from, libc::FUTEX_WAIT | PRIVATE, 0, 0, 0, 0),
        || {
            assert_eq!(sys!(futex, from, requeue, 1, 1, lock, 0), Err(libc::EINVAL));
            sys!(futex, from, libc::FUTEX_WAKE | PRIVATE, 1, 0, 0, 0)
        },
    );
    assert_eq!(met, (Ok(0), Ok(1)));
}

#[test]
fn several_are_moved_and_have_the_word_in_turn() {
    static FROM: AtomicU32 = AtomicU32::new(0);
    static LOCK: AtomicU32 = AtomicU32::new(0);
    let (from, lock) = (FROM.as_ptr() as u64, LOCK.as_ptr() as u64);
    let (send, receive) = std::sync::mpsc::channel();
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let send = send.clone();
            std::thread::spawn(move || {
                send.send(sys!(gettid).unwrap()).unwrap();
                wait_to_be_moved(from, &LOCK)
            })
        })
        .collect();
    for _ in 0..4 {
        until_asleep(sys!(getpid).unwrap(), receive.recv().unwrap());
    }
    // One has it and three wait.
    assert_eq!(sys!(futex, from, libc::FUTEX_CMP_REQUEUE_PI | PRIVATE, 1, i32::MAX, lock, 0), Ok(4));
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), Ok(0));
    }
    assert_eq!(LOCK.load(Ordering::SeqCst), 0);
}

#[test]
fn one_that_was_moved_inherits_from_an_owner_that_ends() {
    static FROM: AtomicU32 = AtomicU32::new(0);
    static LOCK: AtomicU32 = AtomicU32::new(0);
    let (from, lock) = (FROM.as_ptr() as u64, LOCK.as_ptr() as u64);
    let (waited, moved) = meet(
        move || {
            let waited = sys!(futex, from, libc::FUTEX_WAIT_REQUEUE_PI | PRIVATE, 0, 0, lock, 0);
            let own = u32::try_from(sys!(gettid).unwrap()).unwrap();
            assert_eq!(LOCK.load(Ordering::SeqCst) & !libc::FUTEX_WAITERS, own | libc::FUTEX_OWNER_DIED);
            waited
        },
        || {
            // The owner moves the waiter to the word that it holds, and ends without giving it back.
            std::thread::spawn(move || {
                assert_eq!(sys!(futex, lock, libc::FUTEX_LOCK_PI | PRIVATE, 0, 0, 0, 0), Ok(0));
                sys!(futex, from, libc::FUTEX_CMP_REQUEUE_PI | PRIVATE, 1, 1, lock, 0)
            })
            .join()
            .unwrap()
        },
    );
    assert_eq!((waited, moved), (Ok(0), Ok(1)));
}
