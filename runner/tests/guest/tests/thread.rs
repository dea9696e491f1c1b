//! Threads and futexes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::time::Duration;

use casemate_guest_tests::{fork_status, in_child, sys};

#[test]
fn threads_share_memory_and_have_tids() {
    let main = sys!(gettid).unwrap();
    let pid = sys!(getpid).unwrap();
    let tids: Vec<i64> = (0..8)
        .map(|_| std::thread::spawn(|| (sys!(gettid).unwrap(), sys!(getpid).unwrap())))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| {
            let (tid, its_pid) = thread.join().unwrap();
            assert_eq!(its_pid, pid);
            tid
        })
        .collect();
    assert!(!tids.contains(&main));
}

#[test]
fn mutexes_exclude() {
    let counter = Arc::new(Mutex::new(0_u64));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let counter = Arc::clone(&counter);
            std::thread::spawn(move || {
                for _ in 0..2_000 {
                    *counter.lock().unwrap() += 1;
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(*counter.lock().unwrap(), 16_000);
}

#[test]
fn condition_variables_and_barriers_wake() {
    let barrier = Arc::new(Barrier::new(5));
    let (send, receive) = mpsc::channel();
    let threads: Vec<_> = (0..4)
        .map(|id| {
            let (barrier, send) = (Arc::clone(&barrier), send.clone());
            std::thread::spawn(move || {
                for round in 0..50 {
                    barrier.wait();
                    send.send((round, id)).unwrap();
                }
            })
        })
        .collect();
    for round in 0..50 {
        barrier.wait();
        let got: Vec<_> = (0..4).map(|_| receive.recv().unwrap()).collect();
        assert!(got.iter().all(|(r, _)| *r == round));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let pair = (Mutex::new(()), Condvar::new());
    let guard = pair.0.lock().unwrap();
    let (_guard, timeout) = pair.1.wait_timeout(guard, Duration::from_millis(20)).unwrap();
    assert!(timeout.timed_out());
}

#[test]
fn futex_values_and_timeouts() {
    let word = AtomicU32::new(5);
    let at = word.as_ptr();
    let private = libc::FUTEX_PRIVATE_FLAG;
    assert_eq!(sys!(futex, at, libc::FUTEX_WAIT | private, 4, 0, 0, 0), Err(libc::EAGAIN));
    let timeout = [0_i64, 5_000_000];
    assert_eq!(sys!(futex, at, libc::FUTEX_WAIT | private, 5, timeout.as_ptr(), 0, 0), Err(libc::ETIMEDOUT));
    assert_eq!(sys!(futex, at, libc::FUTEX_WAKE | private, 1, 0, 0, 0), Ok(0));
    assert_eq!(sys!(futex, at as u64 + 1, libc::FUTEX_WAKE | private, 1, 0, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(futex, 0, libc::FUTEX_WAIT | private, 1, 0, 0, 0), Err(libc::EFAULT));
    let bad = [0_i64, 1_000_000_000];
    assert_eq!(sys!(futex, at, libc::FUTEX_WAIT | private, 5, bad.as_ptr(), 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(futex, at, libc::FUTEX_WAIT_BITSET | private, 5, 0, 0, 0), Err(libc::EINVAL));
}

#[test]
fn requeue_moves_waiters() {
    static FIRST: AtomicU32 = AtomicU32::new(0);
    static SECOND: AtomicU32 = AtomicU32::new(0);
    let private = libc::FUTEX_PRIVATE_FLAG;
    let threads: Vec<_> = (0..3)
        .map(|_| std::thread::spawn(move || sys!(futex, FIRST.as_ptr(), libc::FUTEX_WAIT | private, 0, 0, 0, 0)))
        .collect();
    // Until all three have been moved: a requeue says how many it moved or woke.
    let mut moved = 0;
    while moved < 3 {
        moved += sys!(futex, FIRST.as_ptr(), libc::FUTEX_CMP_REQUEUE | private, 0, 3, SECOND.as_ptr(), 0).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(sys!(futex, FIRST.as_ptr(), libc::FUTEX_WAKE | private, 9, 0, 0, 0), Ok(0));
    assert_eq!(sys!(futex, SECOND.as_ptr(), libc::FUTEX_WAKE | private, 9, 0, 0, 0), Ok(3));
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Ok(0));
    }
}

#[test]
fn shared_futexes_work_between_processes() {
    let memory = casemate_guest_tests::Memory::new(4096, libc::MAP_SHARED);
    // SAFETY: 1. page-aligned, shared, alive as long as `memory`.
    let word = unsafe { &*memory.start.cast::<AtomicU32>() };
    in_child(|| {
        // SAFETY: 1. the child only makes system calls and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            word.store(1, Ordering::SeqCst);
            while sys!(futex, word.as_ptr(), libc::FUTEX_WAKE, 1, 0, 0, 0) == Ok(0) {
                let _ = sys!(sched_yield);
            }
            // SAFETY: 1. always sound; it does not return.
            unsafe { libc::_exit(0) };
        }
        let mut got = Err(libc::EAGAIN);
        for value in [0, 1] {
            got = sys!(futex, word.as_ptr(), libc::FUTEX_WAIT, value, 0, 0, 0);
            if got.is_ok() {
                break;
            }
        }
        let status = casemate_guest_tests::wait_status(pid);
        i32::from(got != Ok(0) || status != 0)
    });
}

#[test]
fn exit_group_ends_every_thread() {
    let status = fork_status(|| {
        for _ in 0..4 {
            std::thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
        }
        7
    });
    assert_eq!(libc::WEXITSTATUS(status), 7);
}

#[test]
fn a_fatal_signal_ends_every_thread() {
    let status = fork_status(|| {
        for _ in 0..3 {
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
        }
        let _ = sys!(kill, sys!(getpid).unwrap(), libc::SIGTERM);
        0
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGTERM, "{status:#x}");
}

#[test]
fn exec_from_a_thread_replaces_the_process() {
    let status = fork_status(|| {
        let thread = std::thread::spawn(|| {
            let null: *const u8 = std::ptr::null();
            let argv = [c"sh".as_ptr().cast(), c"-c".as_ptr().cast(), c"exit 6".as_ptr().cast(), null];
            sys!(execve, c"/bin/sh".as_ptr(), argv.as_ptr(), 0)
        });
        let _ = thread.join();
        1
    });
    assert_eq!(libc::WEXITSTATUS(status), 6, "{status:#x}");
}

#[test]
fn many_threads_come_and_go() {
    for _ in 0..10 {
        let threads: Vec<_> = (0..30_u64).map(|id| std::thread::spawn(move || id * 2)).collect();
        for (id, thread) in threads.into_iter().enumerate() {
            assert_eq!(thread.join().unwrap(), id as u64 * 2);
        }
    }
}
