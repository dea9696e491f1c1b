//! What a process asks for and is told again: execution domain, policies, priorities, attributes; and what others may ask
//! of it.

use casemate_guest_tests::{child, in_child, inside, is_root, steps, sys, wait_status};

#[test]
fn personalities_are_kept_and_inherited() {
    in_child(|| {
        let no_randomize = 0x004_0000;
        let before = sys!(personality, 0xffff_ffff_u64).unwrap_or(-1);
        let set = sys!(personality, no_randomize) == Ok(before);
        let inherited =
            casemate_guest_tests::fork_status(|| steps(&[sys!(personality, 0xffff_ffff_u64) == Ok(no_randomize)]));
        // The program that is run next has its stack where the last one had it.
        steps(&[set, inherited == 0, sys!(personality, 8) == Ok(no_randomize), sys!(personality, 0) == Ok(8)])
    });
}

#[test]
fn unrandomized_programs_stand_still() {
    let run = || {
        let out = std::process::Command::new("/usr/bin/setarch")
            .args(["-R", "/bin/cat", "/proc/self/maps"])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap().lines().next().unwrap().to_owned()
    };
    assert_eq!(run(), run());
}

#[test]
fn uname_follows_the_personality() {
    let out =
        std::process::Command::new("/usr/bin/setarch").args(["--uname-2.6", "/bin/uname", "-r"]).output().unwrap();
    assert!(out.stdout.starts_with(b"2.6."), "{out:?}");
    let out = std::process::Command::new("/usr/bin/setarch").args(["i686", "/bin/uname", "-m"]).output().unwrap();
    assert_eq!(out.stdout, b"i686\n");
}

#[test]
fn attributes_are_told_again() {
    in_child(|| {
        let mut word = 0_u64;
        let mut auxv = [0_u64; 64];
        let get = |op: i32| sys!(prctl, op, 0, 0, 0, 0);
        steps(&[
            get(libc::PR_GET_DUMPABLE) == Ok(1),
            sys!(prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0) == Ok(0),
            get(libc::PR_GET_DUMPABLE) == Ok(0),
            sys!(prctl, libc::PR_SET_DUMPABLE, 2, 0, 0, 0) == Err(libc::EINVAL),
            sys!(prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0) == Ok(0),
            sys!(prctl, libc::PR_SET_TIMERSLACK, 1234, 0, 0, 0) == Ok(0),
            get(libc::PR_GET_TIMERSLACK) == Ok(1234),
            casemate_guest_tests::fork_status(|| {
                let own = get(libc::PR_GET_TIMERSLACK) == Ok(1234);
                let _ = sys!(prctl, libc::PR_SET_TIMERSLACK, 9, 0, 0, 0);
                let reset = sys!(prctl, libc::PR_SET_TIMERSLACK, 0, 0, 0, 0) == Ok(0);
                steps(&[own, reset, get(libc::PR_GET_TIMERSLACK) == Ok(1234)])
            }) == 0,
            sys!(prctl, libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) == Ok(0),
            get(libc::PR_GET_THP_DISABLE) == Ok(1),
            sys!(prctl, libc::PR_SET_THP_DISABLE, 0, 0, 0, 0) == Ok(0),
            get(libc::PR_MCE_KILL_GET) == Ok(2),
            sys!(prctl, libc::PR_MCE_KILL, 1, 1, 0, 0) == Ok(0),
            get(libc::PR_MCE_KILL_GET) == Ok(1),
            sys!(prctl, libc::PR_MCE_KILL, 1, 3, 0, 0) == Err(libc::EINVAL),
            get(libc::PR_GET_TIMING) == Ok(0),
            sys!(prctl, libc::PR_SET_TIMING, 1, 0, 0, 0) == Err(libc::EINVAL),
            sys!(prctl, libc::PR_GET_SPECULATION_CTRL, 99, 0, 0, 0) == Err(libc::ENODEV),
            sys!(set_tid_address, &raw mut word).is_ok(),
            sys!(prctl, 0x4155_5856, auxv.as_mut_ptr(), 512, 0, 0).map_or(true, |len| len > 100 && auxv[0] != 0),
        ])
    });
}

#[test]
fn undumpable_processes_are_closed_to_others() {
    let hidden = child(|| {
        let _ = sys!(setresuid, 65_534, 65_534, 65_534);
        let _ = sys!(prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        let _ = sys!(kill, sys!(getpid).unwrap_or(0), libc::SIGSTOP);
        0
    });
    assert_eq!(sys!(wait4, hidden, 0, libc::WUNTRACED, 0), Ok(hidden.into()));
    in_child(|| {
        let _ = sys!(setresuid, 65_534, 65_534, 65_534);
        let (mut head, mut len) = (0_u64, 0_u64);
        steps(&[sys!(get_robust_list, hidden, &raw mut head, &raw mut len) == Err(libc::EPERM)])
    });
    assert_eq!(sys!(kill, hidden, libc::SIGKILL), Ok(0));
    wait_status(hidden);
}

#[test]
fn policies_are_kept_and_inherited() {
    in_child(|| {
        let zero = 0_i32;
        let batch = libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK;
        let policy = |pid: i32| sys!(sched_getscheduler, pid);
        let mut attributes = [0_u32; 14];
        let told = steps(&[
            sys!(sched_setscheduler, 0, libc::SCHED_BATCH, &raw const zero) == Ok(0),
            policy(0) == Ok(libc::SCHED_BATCH.into()),
            casemate_guest_tests::fork_status(|| steps(&[policy(0) == Ok(libc::SCHED_BATCH.into())])) == 0,
            sys!(sched_setscheduler, 0, batch, &raw const zero) == Ok(0),
            policy(0) == Ok(batch.into()),
            casemate_guest_tests::fork_status(|| steps(&[policy(0) == Ok(libc::SCHED_BATCH.into())])) == 0,
            sys!(sched_getattr, 0, attributes.as_mut_ptr(), 56, 0) == Ok(0),
            attributes[1] == libc::SCHED_BATCH.unsigned_abs() && attributes[2] == 1,
            sys!(sched_setscheduler, 0, libc::SCHED_FIFO, &raw const zero) == Err(libc::EINVAL),
        ]);
        if told != 0 || sys!(setresuid, 65_534, 65_534, 65_534).is_err() {
            return told;
        }
        let one = 1_i32;
        let no = [0_u64, 0];
        steps(&[
            sys!(setrlimit, libc::RLIMIT_RTPRIO, no.as_ptr()) == Ok(0),
            sys!(sched_setscheduler, 0, libc::SCHED_FIFO, &raw const one) == Err(libc::EPERM),
            sys!(sched_setscheduler, 0, libc::SCHED_OTHER, &raw const zero) == Err(libc::EPERM),
            sys!(sched_setscheduler, 0, libc::SCHED_RESET_ON_FORK, &raw const zero) == Ok(0),
        ])
    });
}

#[test]
fn real_time_is_for_the_privileged() {
    if !(is_root() && inside()) {
        return;
    }
    in_child(|| {
        let (mut param, mut interval) = (7_i32, [0_i64; 2]);
        steps(&[
            sys!(sched_setscheduler, 0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const param) == Ok(0),
            casemate_guest_tests::fork_status(|| steps(&[sys!(sched_getscheduler, 0) == Ok(0)])) == 0,
            sys!(sched_setscheduler, 0, libc::SCHED_RR, &raw const param) == Ok(0),
            sys!(sched_getscheduler, 0) == Ok(libc::SCHED_RR.into()),
            sys!(sched_rr_get_interval, 0, interval.as_mut_ptr()) == Ok(0),
            interval == [0, 100_000_000],
            sys!(sched_getparam, 0, &raw mut param) == Ok(0),
            param == 7,
        ])
    });
}

#[test]
fn io_priorities_are_kept() {
    in_child(|| {
        let best_effort = 2 << 13 | 3;
        steps(&[
            sys!(ioprio_set, 1, 0, best_effort) == Ok(0),
            sys!(ioprio_get, 1, 0) == Ok(best_effort),
            casemate_guest_tests::fork_status(|| steps(&[sys!(ioprio_get, 1, 0) == Ok(best_effort)])) == 0,
            sys!(ioprio_set, 1, 0, 3 << 13) == Ok(0),
            sys!(ioprio_get, 1, 0) == Ok(3 << 13),
            sys!(ioprio_set, 1, 0, 9) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn barriers_are_registered_for() {
    let (global, private, register, registrations) = (1, 8, 16, 512);
    let offered = sys!(membarrier, 0, 0, 0).unwrap();
    assert_eq!(offered & (private | register), private | register);
    in_child(|| {
        steps(&[
            sys!(membarrier, private, 0, 0) == Err(libc::EPERM),
            sys!(membarrier, register, 0, 0) == Ok(0),
            sys!(membarrier, private, 0, 0) == Ok(0),
            offered & registrations == 0 || sys!(membarrier, registrations, 0, 0) == Ok(register),
            offered & global == 0 || sys!(membarrier, global, 0, 0) == Ok(0),
            // Global: whoever asked for it.
            sys!(membarrier, 2, 0, 0) == Ok(0),
            sys!(membarrier, 4, 0, 0) == Ok(0),
            sys!(membarrier, 2, 0, 0) == Ok(0),
            sys!(membarrier, private | register, 0, 0) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn the_load_is_told() {
    // SAFETY: 1. plain data.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(sysinfo, &raw mut info), Ok(0));
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    let one: f64 = text.split(' ').next().unwrap().parse().unwrap();
    let told = info.loads[0] as f64 / 65_536.0;
    assert!((one - told).abs() < 1.0 && told < 10_000.0, "{one} {told}");
    assert_eq!(sys!(sysinfo, 16), Err(libc::EFAULT));
}

#[test]
fn the_architecture_tells_its_state() {
    let (get_cpuid, supported) = (0x1011, 0x1021);
    assert_eq!(sys!(arch_prctl, get_cpuid, 0), Ok(1));
    let mut features = 0_u64;
    assert_eq!(sys!(arch_prctl, supported, &raw mut features), Ok(0));
    // x87 and SSE are always there.
    assert_eq!(features & 3, 3);
    assert_eq!(sys!(arch_prctl, supported, 16), Err(libc::EFAULT));
    assert_eq!(sys!(arch_prctl, 0x1023, 63), Err(libc::EINVAL));
    assert_eq!(sys!(arch_prctl, 0x1023, 1), Err(libc::EOPNOTSUPP));
}

#[test]
fn robust_lists_are_told() {
    let list = [0_u64; 3];
    let waiting = child(|| {
        let set = sys!(set_robust_list, list.as_ptr(), 24) == Ok(0);
        let _ = sys!(kill, sys!(getpid).unwrap_or(0), libc::SIGSTOP);
        i32::from(!set)
    });
    assert_eq!(sys!(wait4, waiting, 0, libc::WUNTRACED, 0), Ok(waiting.into()));
    let (mut head, mut len) = (0_u64, 0_u64);
    assert_eq!(sys!(get_robust_list, waiting, &raw mut head, &raw mut len), Ok(0));
    assert_eq!((head, len), (list.as_ptr() as u64, 24));
    assert_eq!(sys!(kill, waiting, libc::SIGCONT), Ok(0));
    assert_eq!(wait_status(waiting), 0);
}

#[test]
fn objects_are_compared() {
    let own = sys!(getpid).unwrap();
    let copy = sys!(dup, 0).unwrap();
    let other = sys!(memfd_create, c"other".as_ptr(), 0).unwrap();
    let compare = |pid: i64, kind: i32, a: i64, b: i64| sys!(kcmp, own, pid, kind, a, b);
    assert_eq!(compare(own, 0, 0, copy), Ok(0));
    let (one, two) = (compare(own, 0, other, copy).unwrap(), compare(own, 0, copy, other).unwrap());
    assert!((one, two) == (1, 2) || (one, two) == (2, 1), "{one} {two}");
    assert_eq!(compare(own, 0, 0x3fff_ffff, 0), Err(libc::EBADF));
    assert_eq!(compare(own, 99, 0, 0), Err(libc::EINVAL));
    assert_eq!(compare(0x3fff_ffff, 0, 0, 0), Err(libc::ESRCH));
    for kind in 1..=6 {
        assert_eq!(compare(own, kind, 0, 0), Ok(0), "{kind}");
    }
    let pid = child(|| {
        let _ = sys!(kill, sys!(getpid).unwrap_or(0), libc::SIGSTOP);
        0
    });
    assert_eq!(sys!(wait4, pid, 0, libc::WUNTRACED, 0), Ok(pid.into()));
    assert_eq!(compare(pid.into(), 0, other, other), Ok(0));
    for kind in [1, 2, 3, 4] {
        assert!(compare(pid.into(), kind, 0, 0).unwrap() > 0, "{kind}");
    }
    // A descriptor against what an epoll set holds.
    let set = sys!(epoll_create1, 0).unwrap();
    let event = sys!(eventfd2, 0, 0).unwrap();
    let interest = libc::epoll_event { events: 1, u64: 0 };
    assert_eq!(sys!(epoll_ctl, set, libc::EPOLL_CTL_ADD, event, &raw const interest), Ok(0));
    let slot = [u32::try_from(set).unwrap(), u32::try_from(event).unwrap(), 0];
    assert_eq!(sys!(kcmp, own, own, 7, event, slot.as_ptr()), Ok(0));
    assert!(sys!(kcmp, own, own, 7, copy, slot.as_ptr()).unwrap() > 0);
    assert_eq!(sys!(kill, pid, libc::SIGKILL), Ok(0));
    wait_status(pid);
    for fd in [copy, other, set, event] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn threads_share_what_processes_do_not() {
    let own = sys!(getpid).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tell.send(sys!(gettid).unwrap()).unwrap();
        let _ = ended.recv();
    });
    let tid = told.recv().unwrap();
    // KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND, KCMP_SYSVSEM.
    for kind in [1, 2, 3, 4, 6] {
        assert_eq!(sys!(kcmp, own, tid, kind, 0, 0), Ok(0), "{kind}");
    }
    assert_eq!(sys!(kcmp, tid, tid, 0, 1, 1), Ok(0));
    drop(end);
    thread.join().unwrap();
    let pid = child(|| {
        let _ = sys!(pause);
        1
    });
    for kind in [1, 2, 3, 4] {
        let order = sys!(kcmp, own, pid, kind, 0, 0);
        let reverse = sys!(kcmp, pid, own, kind, 0, 0);
        assert!(matches!((order, reverse), (Ok(1), Ok(2)) | (Ok(2), Ok(1))), "{kind}: {order:?} {reverse:?}");
    }
    assert_eq!(sys!(kill, pid, libc::SIGKILL), Ok(0));
    wait_status(pid);
}

#[test]
fn signals_go_by_a_directory_of_proc() {
    let pid = child(|| {
        let _ = sys!(pause);
        1
    });
    let dir = std::fs::File::open(format!("/proc/{pid}")).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&dir);
    assert_eq!(sys!(pidfd_send_signal, fd, 0, 0, 0), Ok(0));
    assert_eq!(sys!(pidfd_send_signal, fd, libc::SIGTERM, 0, 0), Ok(0));
    assert_eq!(wait_status(pid), libc::SIGTERM);
    assert_eq!(sys!(pidfd_send_signal, fd, 0, 0, 0), Err(libc::ESRCH));
    let other = std::fs::File::open("/proc/self/status").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&other);
    assert_eq!(sys!(pidfd_send_signal, fd, 0, 0, 0), Err(libc::EBADF));
}

#[test]
fn the_status_tells_of_the_processors() {
    in_child(|| {
        let mut mask = [0_u64; 16];
        if sys!(sched_getaffinity, 0, 128, mask.as_mut_ptr()).is_err() {
            return 50;
        }
        // The lowest one that there is, alone.
        let lowest = mask[0] & mask[0].wrapping_neg();
        let one = [lowest];
        if sys!(sched_setaffinity, 0, 8, one.as_ptr()) != Ok(0) {
            return 51;
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let list = format!("Cpus_allowed_list:\t{}\n", lowest.trailing_zeros());
        let bits = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:\t")).unwrap_or("-");
        let bits = bits.rsplit(',').next().and_then(|word| u64::from_str_radix(word, 16).ok());
        steps(&[status.contains(&list), bits == Some(lowest)])
    });
}
