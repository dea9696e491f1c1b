//! Limits, priorities, scheduling policies, processors, and what was used.

use casemate_guest_tests::{fork_status, in_child, is_root, steps, sys};

#[test]
fn limits_in_their_old_forms() {
    let (mut old, mut new) = ([0_u64; 2], [0_u64; 2]);
    assert_eq!(sys!(getrlimit, libc::RLIMIT_NOFILE, old.as_mut_ptr()), Ok(0));
    assert_eq!(sys!(prlimit64, 0, libc::RLIMIT_NOFILE, 0, new.as_mut_ptr()), Ok(0));
    assert_eq!(old, new);
    assert_eq!(sys!(getrlimit, 16, old.as_mut_ptr()), Err(libc::EINVAL));
    assert_eq!(sys!(setrlimit, libc::RLIMIT_NOFILE, [2_u64, 1].as_ptr()), Err(libc::EINVAL));
    in_child(|| {
        let mut limit = [0_u64; 2];
        let child = sys!(getpid).unwrap();
        steps(&[
            sys!(setrlimit, libc::RLIMIT_CORE, [0_u64, 4096].as_ptr()) == Ok(0),
            sys!(getrlimit, libc::RLIMIT_CORE, limit.as_mut_ptr()) == Ok(0),
            limit == [0, 4096],
            sys!(prlimit64, child, libc::RLIMIT_CORE, [1_u64, 4096].as_ptr(), limit.as_mut_ptr()) == Ok(0),
            limit == [0, 4096],
            sys!(prlimit64, 0x3fff_ffff, libc::RLIMIT_CORE, 0, limit.as_mut_ptr()) == Err(libc::ESRCH),
            is_root() || sys!(setrlimit, libc::RLIMIT_CORE, [0_u64, 8192].as_ptr()) == Err(libc::EPERM),
        ])
    });
}

#[test]
fn limits_pass_to_children() {
    in_child(|| {
        if sys!(setrlimit, libc::RLIMIT_NOFILE, [77_u64, 77].as_ptr()) != Ok(0) {
            return 1;
        }
        fork_status(|| {
            let mut limit = [0_u64; 2];
            let _ = sys!(getrlimit, libc::RLIMIT_NOFILE, limit.as_mut_ptr());
            steps(&[limit == [77, 77]])
        })
    });
}

#[test]
fn address_space_is_limited() {
    in_child(|| {
        let limit = [1_u64 << 32, 1 << 32];
        let map = |len: u64| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            sys!(mmap, 0, len, libc::PROT_NONE, flags, -1_i64, 0)
        };
        steps(&[
            sys!(setrlimit, libc::RLIMIT_AS, limit.as_ptr()) == Ok(0),
            map(1 << 33) == Err(libc::ENOMEM),
            map(1 << 20).is_ok(),
        ])
    });
}

#[test]
fn policies_are_told_and_checked() {
    let mut param = 99_i32;
    assert_eq!(sys!(sched_getscheduler, 0), Ok(libc::SCHED_OTHER.into()));
    assert_eq!(sys!(sched_getparam, 0, &raw mut param), Ok(0));
    assert_eq!(param, 0);
    assert_eq!(sys!(sched_getparam, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(sched_getscheduler, -1_i64), Err(libc::EINVAL));
    assert_eq!(sys!(sched_getscheduler, 0x3fff_ffff), Err(libc::ESRCH));
    assert_eq!(sys!(sched_setscheduler, 0, libc::SCHED_OTHER, &raw const param), Ok(0));
    assert_eq!(sys!(sched_setparam, 0, &raw const param), Ok(0));
    param = 5;
    assert_eq!(sys!(sched_setscheduler, 0, libc::SCHED_OTHER, &raw const param), Err(libc::EINVAL));
    assert_eq!(sys!(sched_setscheduler, 0, 77, &raw const param), Err(libc::EINVAL));
    for (policy, least, most) in [
        (libc::SCHED_OTHER, 0, 0),
        (libc::SCHED_BATCH, 0, 0),
        (libc::SCHED_IDLE, 0, 0),
        (libc::SCHED_FIFO, 1, 99),
        (libc::SCHED_RR, 1, 99),
    ] {
        assert_eq!(sys!(sched_get_priority_min, policy), Ok(least));
        assert_eq!(sys!(sched_get_priority_max, policy), Ok(most));
    }
    assert_eq!(sys!(sched_get_priority_min, 77), Err(libc::EINVAL));
    assert_eq!(sys!(sched_get_priority_max, 77), Err(libc::EINVAL));
    let mut interval = [-1_i64; 2];
    assert_eq!(sys!(sched_rr_get_interval, 0, interval.as_mut_ptr()), Ok(0));
    assert!(interval[0] == 0 && (0..1_000_000_000).contains(&interval[1]));
    let mut attributes = [0_u32; 14];
    assert_eq!(sys!(sched_getattr, 0, attributes.as_mut_ptr(), 56, 0), Ok(0));
    assert!(attributes[0] >= 48 && attributes[1] == 0);
    assert_eq!(sys!(sched_getattr, 0, attributes.as_mut_ptr(), 8, 0), Err(libc::EINVAL));
    assert_eq!(sys!(sched_setattr, 0, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(sched_yield), Ok(0));
}

#[test]
fn priorities_are_checked() {
    // The raw call answers 20 − nice.
    let before = sys!(getpriority, libc::PRIO_PROCESS, 0).unwrap();
    assert!((1..=40).contains(&before));
    assert_eq!(sys!(getpriority, 7, 0), Err(libc::EINVAL));
    assert_eq!(sys!(getpriority, libc::PRIO_PROCESS, 0x3fff_ffff), Err(libc::ESRCH));
    assert_eq!(sys!(setpriority, 7, 0, 0), Err(libc::EINVAL));
    assert_eq!(sys!(setpriority, libc::PRIO_PROCESS, 0x3fff_ffff, 0), Err(libc::ESRCH));
    in_child(|| steps(&[sys!(setpriority, libc::PRIO_PROCESS, 0, 20 - before) == Ok(0)]));
    assert!(sys!(ioprio_get, 1, 0).is_ok());
    assert_eq!(sys!(ioprio_get, 9, 0), Err(libc::EINVAL));
    assert_eq!(sys!(ioprio_set, 1, 0, (2 << 13) | 4), Ok(0));
    assert_eq!(sys!(ioprio_set, 1, 0, 7 << 13), Err(libc::EINVAL));
}

#[test]
fn processors_are_checked() {
    let mut mask = [0_u64; 16];
    let bytes = sys!(sched_getaffinity, 0, 128, mask.as_mut_ptr()).unwrap();
    assert_eq!(sys!(sched_setaffinity, 0, bytes, mask.as_ptr()), Ok(0));
    assert_eq!(sys!(sched_setaffinity, 0, 128, [0_u64; 16].as_ptr()), Err(libc::EINVAL));
    assert_eq!(sys!(sched_setaffinity, 0, 128, 16), Err(libc::EFAULT));
    assert_eq!(sys!(sched_setaffinity, 0x3fff_ffff, 128, mask.as_ptr()), Err(libc::ESRCH));
    assert_eq!(sys!(sched_getaffinity, 0x3fff_ffff, 128, mask.as_mut_ptr()), Err(libc::ESRCH));
    let (mut cpu, mut node) = (99_u32, 99_u32);
    assert_eq!(sys!(getcpu, &raw mut cpu, &raw mut node, 0), Ok(0));
    assert!(cpu < 1024 && node < 64);
    assert_eq!(sys!(getcpu, 16, 0, 0), Err(libc::EFAULT));
}

#[test]
fn usage_of_children_is_summed() {
    in_child(|| {
        let spent = || {
            let mut sum = 0_u64;
            for value in 0..3_000_000_u64 {
                sum = std::hint::black_box(sum.wrapping_add(value));
            }
            0
        };
        // SAFETY: 1. plain data.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let before = sys!(getrusage, libc::RUSAGE_CHILDREN, &raw mut usage);
        // Ticks decide what of it counts as the user's: only the sum is sure.
        let total = |usage: &libc::rusage| {
            let (user, system) = (usage.ru_utime, usage.ru_stime);
            (user.tv_sec + system.tv_sec) * 1_000_000 + user.tv_usec + system.tv_usec
        };
        let none = total(&usage) == 0;
        if fork_status(spent) != 0 {
            return 99;
        }
        let after = sys!(getrusage, libc::RUSAGE_CHILDREN, &raw mut usage);
        let some = total(&usage) > 0;
        let pid = casemate_guest_tests::child(spent);
        let waited = sys!(wait4, pid, 0, 0, &raw mut usage);
        let its = total(&usage) > 0;
        let mut times = [-1_i64; 4];
        let ticks = sys!(times, times.as_mut_ptr());
        steps(&[
            before == Ok(0) && none,
            after == Ok(0) && some,
            waited == Ok(pid.into()) && its,
            ticks.is_ok() && times.iter().all(|&t| t >= 0),
            sys!(times, 0).is_ok(),
            sys!(times, 16) == Err(libc::EFAULT),
        ])
    });
}

#[test]
fn policies_are_set_and_inherited() {
    const RESET_ON_FORK: i32 = 0x4000_0000;
    in_child(|| {
        let (zero, five) = (0_i32, 5_i32);
        let policy = || sys!(sched_getscheduler, 0);
        let batch = sys!(sched_setscheduler, 0, libc::SCHED_BATCH, &raw const zero);
        let mut checks = vec![batch == Ok(0) && policy() == Ok(libc::SCHED_BATCH.into())];
        checks.push(fork_status(|| steps(&[policy() == Ok(libc::SCHED_BATCH.into())])) == 0);
        let reset = sys!(sched_setscheduler, 0, libc::SCHED_BATCH | RESET_ON_FORK, &raw const zero);
        checks.push(reset == Ok(0) && policy() == Ok((libc::SCHED_BATCH | RESET_ON_FORK).into()));
        // Only what is above others is reset.
        checks.push(fork_status(|| steps(&[policy() == Ok(libc::SCHED_BATCH.into())])) == 0);
        checks.push(sys!(sched_setparam, 0, &raw const five) == Err(libc::EINVAL));
        checks.push(sys!(sched_setparam, 0, &raw const zero) == Ok(0));
        checks.push(sys!(sched_setscheduler, 0, -1_i64, &raw const zero) == Err(libc::EINVAL));
        checks.push(sys!(sched_setscheduler, 0, libc::SCHED_FIFO, &raw const zero) == Err(libc::EINVAL));
        checks.push(sys!(sched_setscheduler, 0, libc::SCHED_OTHER, 16) == Err(libc::EFAULT));
        // Containers may be refused what root may do.
        let real_time = sys!(sched_setscheduler, 0, libc::SCHED_FIFO | RESET_ON_FORK, &raw const five);
        let mut told = 0_i32;
        if real_time == Ok(0) {
            checks.push(policy() == Ok((libc::SCHED_FIFO | RESET_ON_FORK).into()));
            checks.push(sys!(sched_getparam, 0, &raw mut told) == Ok(0) && told == 5);
            checks.push(fork_status(|| steps(&[policy() == Ok(libc::SCHED_OTHER.into())])) == 0);
        } else {
            checks.push(real_time == Err(libc::EPERM));
        }
        checks.push(sys!(sched_get_priority_max, 6) == Ok(0) && sys!(sched_get_priority_min, 6) == Ok(0));
        checks.push(sys!(sched_rr_get_interval, -1_i64, &raw mut told) == Err(libc::EINVAL));
        checks.push(sys!(sched_rr_get_interval, 0, 16) == Err(libc::EFAULT));
        steps(&checks)
    });
}

/// `struct sched_attr` in words: 0 size, 1 policy, 2 and 3 flags, 4 nice, 5 priority.
type Attributes = [u32; 14];

#[test]
fn attributes_are_set_together() {
    in_child(|| {
        let set = |attributes: &Attributes| sys!(sched_setattr, 0, attributes.as_ptr(), 0);
        let batch: Attributes = [48, libc::SCHED_BATCH.cast_unsigned(), 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let with = |at: usize, value: u32| {
            let mut attributes = batch;
            attributes[at] = value;
            attributes
        };
        let mut now: Attributes = [0; 14];
        let done = set(&batch);
        let told = sys!(sched_getattr, 0, now.as_mut_ptr(), 48, 0);
        let mut short = with(0, 47);
        steps(&[
            done == Ok(0),
            told == Ok(0) && now[..6] == [48, libc::SCHED_BATCH.cast_unsigned(), 0, 0, 7, 0],
            sys!(getpriority, libc::PRIO_PROCESS, 0) == Ok(20 - 7),
            // No size is that of the first version; a shorter one is told the right one.
            set(&with(0, 0)) == Ok(0),
            sys!(sched_setattr, 0, short.as_mut_ptr(), 0) == Err(libc::E2BIG) && short[0] >= 48,
            set(&with(1, 77)) == Err(libc::EINVAL),
            set(&with(2, 1 << 31)) == Err(libc::EINVAL),
            set(&with(5, 3)) == Err(libc::EINVAL),
            // A niceness past the limits is taken for the limit.
            set(&with(4, 100)) == Ok(0) && sys!(getpriority, libc::PRIO_PROCESS, 0) == Ok(20 - 19),
            sys!(sched_setattr, 0, batch.as_ptr(), 1) == Err(libc::EINVAL),
            sys!(sched_getattr, 0, now.as_mut_ptr(), 48, 1) == Err(libc::EINVAL),
            sys!(sched_getattr, 0x3fff_ffff, now.as_mut_ptr(), 48, 0) == Err(libc::ESRCH),
        ])
    });
}

#[test]
fn niceness_has_limits() {
    in_child(|| {
        let nice = || 20 - sys!(getpriority, libc::PRIO_PROCESS, 0).unwrap_or(99);
        let set = |which: u32, who: i64, nice: i32| sys!(setpriority, which, who, i64::from(nice));
        let mut checks = vec![set(libc::PRIO_PROCESS, 0, 100) == Ok(0) && nice() == 19];
        if !is_root() {
            checks.push(set(libc::PRIO_PROCESS, 0, 18) == Err(libc::EACCES));
            return steps(&checks);
        }
        checks.push(set(libc::PRIO_PROCESS, 0, -100) == Ok(0) && nice() == -20);
        checks.push(fork_status(|| steps(&[nice() == -20])) == 0);
        let parent = sys!(getpid).unwrap();
        // Of a group: the best of its members is told, all are set.
        assert_eq!(sys!(setpgid, 0, 0), Ok(0));
        checks.push(
            fork_status(|| {
                let mine = set(libc::PRIO_PROCESS, 0, 3) == Ok(0);
                let best = sys!(getpriority, libc::PRIO_PGRP, 0) == Ok(40);
                let all = set(libc::PRIO_PGRP, parent, 4) == Ok(0) && nice() == 4;
                steps(&[mine, best, all])
            }) == 0,
        );
        checks.push(nice() == 4);
        // Who is nobody goes as far as RLIMIT_NICE lets it, 20 less the niceness, and never at another's.
        let limit = [25_u64, 25];
        if sys!(setrlimit, libc::RLIMIT_NICE, limit.as_ptr()).is_err() {
            // A container's root.
            return steps(&checks);
        }
        checks.push(
            fork_status(|| {
                assert_eq!(sys!(setresuid, 65534, 65534, 65534), Ok(0));
                steps(&[
                    set(libc::PRIO_PROCESS, 0, 10) == Ok(0),
                    set(libc::PRIO_PROCESS, 0, -5) == Ok(0) && nice() == -5,
                    set(libc::PRIO_PROCESS, 0, -6) == Err(libc::EACCES) && nice() == -5,
                    set(libc::PRIO_PROCESS, parent, 19) == Err(libc::EPERM),
                ])
            }) == 0,
        );
        steps(&checks)
    });
}

#[test]
fn processors_are_set_and_inherited() {
    in_child(|| {
        let mut all = [0_u64; 16];
        let bytes = sys!(sched_getaffinity, 0, 128, all.as_mut_ptr()).unwrap_or(0);
        let first = all[0] & all[0].wrapping_neg();
        let now = || {
            let mut mask = [0_u64; 16];
            sys!(sched_getaffinity, 0, 128, mask.as_mut_ptr()).map(|_| mask[0])
        };
        // A CPU that is not there, and one that is not there beside one that is.
        let (mut absent, mut mixed) = ([0_u64; 16], [0_u64; 16]);
        absent[15] = 1 << 63;
        mixed[15] = 1 << 63;
        mixed[0] = first;
        let mut small = [0_u8; 8];
        steps(&[
            bytes >= 8 && bytes % 8 == 0 && first != 0,
            sys!(sched_setaffinity, 0, 8, &raw const first) == Ok(0) && now() == Ok(first),
            fork_status(|| steps(&[now() == Ok(first)])) == 0,
            sys!(sched_setaffinity, 0, 128, absent.as_ptr()) == Err(libc::EINVAL),
            sys!(sched_setaffinity, 0, 128, mixed.as_ptr()) == Ok(0) && now() == Ok(first),
            sys!(sched_setaffinity, 0, 128, all.as_ptr()) == Ok(0) && now() == Ok(all[0]),
            // A length in odd bytes, and one too short for all CPUs.
            sys!(sched_getaffinity, 0, 7, small.as_mut_ptr()) == Err(libc::EINVAL),
            sys!(sched_getaffinity, 0, 0, small.as_mut_ptr()) == Err(libc::EINVAL),
            sys!(sched_setaffinity, 0, 0, small.as_ptr()) == Err(libc::EINVAL),
        ])
    });
}
