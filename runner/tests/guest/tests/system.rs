//! What the system says of itself and of a process: uname, ids, limits, /proc, prctl.

use casemate_guest_tests::{child, in_child, inside, pipe, steps, sys, wait_status};

#[test]
fn uname_is_linux() {
    // SAFETY: 1. plain data.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(uname, &raw mut name), Ok(0));
    let text = |field: &[i8]| -> String {
        field.iter().take_while(|&&c| c != 0).map(|&c| char::from(c.cast_unsigned())).collect()
    };
    assert_eq!(text(&name.sysname), "Linux");
    assert_eq!(text(&name.machine), "x86_64");
    if inside() {
        assert!(text(&name.release).starts_with("6.12.0"), "{}", text(&name.release));
    }
}

#[test]
fn ids_are_consistent() {
    let uid = sys!(getuid).unwrap();
    let mut all = [9_u32; 3];
    assert_eq!(sys!(getresuid, all.as_mut_ptr(), &raw mut all[1], &raw mut all[2]), Ok(0));
    assert_eq!(i64::from(all[0]), uid);
    assert_eq!(i64::from(all[1]), sys!(geteuid).unwrap());
    assert!(sys!(getgroups, 0, 0).unwrap() >= 0);
    if uid == 0 {
        in_child(|| {
            if sys!(setresuid, 1000, 1000, 1000) != Ok(0) {
                return 1;
            }
            i32::from(sys!(setuid, 0) != Err(libc::EPERM) || sys!(geteuid) != Ok(1000))
        });
    }
}

#[test]
fn limits_are_read_and_lowered() {
    let mut limit = [0_u64; 2];
    assert_eq!(sys!(prlimit64, 0, libc::RLIMIT_NOFILE, 0, limit.as_mut_ptr()), Ok(0));
    assert!(limit[0] <= limit[1]);
    assert_eq!(sys!(prlimit64, 0, 99, 0, limit.as_mut_ptr()), Err(libc::EINVAL));
    in_child(|| {
        let small = [16_u64, 16];
        if sys!(prlimit64, 0, libc::RLIMIT_NOFILE, small.as_ptr(), 0) != Ok(0) {
            return 1;
        }
        let mut last = Ok(0);
        for _ in 0..20 {
            last = sys!(dup, 0);
            if last.is_err() {
                break;
            }
        }
        i32::from(last != Err(libc::EMFILE))
    });
}

#[test]
fn limits_of_another_process_hold_for_it() {
    let (read, write) = pipe(libc::O_CLOEXEC);
    let other = child(|| {
        let mut byte = 0_u8;
        if sys!(read, read, &raw mut byte, 1) != Ok(1) {
            return 1;
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        steps(&[sys!(mmap, 0, 1 << 20, libc::PROT_READ, flags, -1_i64, 0) == Err(libc::ENOMEM)])
    });
    let none = [0_u64, 0];
    assert_eq!(sys!(prlimit64, other, libc::RLIMIT_AS, none.as_ptr(), 0), Ok(0));
    assert_eq!(sys!(write, write, b"x".as_ptr(), 1), Ok(1));
    assert_eq!(wait_status(other), 0);
    for end in [read, write] {
        assert_eq!(sys!(close, end), Ok(0));
    }
}

#[test]
fn proc_self_tells_about_us() {
    let pid = std::process::id();
    let link = std::fs::read_link("/proc/self").unwrap();
    assert_eq!(link.as_os_str(), std::ffi::OsStr::new(&pid.to_string()));
    assert_eq!(std::fs::read_link("/proc/self/exe").unwrap(), std::env::current_exe().unwrap());
    let arguments = std::fs::read("/proc/self/cmdline").unwrap();
    assert_eq!(arguments.split(|&b| b == 0).next().unwrap(), std::env::args_os().next().unwrap().as_encoded_bytes());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    assert!(status.lines().any(|line| line == format!("Pid:\t{pid}")), "{status}");
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    assert!(stat.starts_with(&format!("{pid} (")));
    assert!(stat.split_whitespace().count() >= 52);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    for part in ["[stack]", "[heap]", "libc"] {
        assert!(maps.contains(part), "no {part} in\n{maps}");
    }
    let fds: Vec<_> = std::fs::read_dir("/proc/self/fd").unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(fds.iter().any(|fd| fd == "0"));
    assert!(std::fs::read_dir("/proc/self/task").unwrap().count() >= 1);
}

#[test]
fn proc_tells_about_the_system() {
    for (path, word) in [
        ("/proc/meminfo", "MemTotal:"),
        ("/proc/cpuinfo", "processor"),
        ("/proc/stat", "cpu "),
        ("/proc/uptime", "."),
        ("/proc/loadavg", "/"),
        ("/proc/version", "Linux version"),
        ("/proc/mounts", "/proc"),
        ("/proc/self/mountinfo", "/proc"),
        ("/proc/filesystems", "tmpfs"),
        ("/proc/sys/kernel/osrelease", "."),
        ("/proc/sys/kernel/pid_max", "\n"),
        ("/proc/sys/vm/overcommit_memory", "\n"),
        ("/sys/devices/system/cpu/online", "0"),
    ] {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(text.contains(word), "{path}: {text}");
    }
}

#[test]
fn prctl_names_the_thread() {
    std::thread::spawn(|| {
        assert_eq!(sys!(prctl, libc::PR_SET_NAME, c"a-very-long-thread-name".as_ptr()), Ok(0));
        let mut name = [0_u8; 16];
        assert_eq!(sys!(prctl, libc::PR_GET_NAME, name.as_mut_ptr()), Ok(0));
        assert_eq!(&name, b"a-very-long-thr\0");
        let tid = sys!(gettid).unwrap();
        assert_eq!(std::fs::read(format!("/proc/self/task/{tid}/comm")).unwrap(), b"a-very-long-thr\n");
    })
    .join()
    .unwrap();
    assert_eq!(sys!(prctl, 0x7fff_ffff, 0, 0, 0, 0), Err(libc::EINVAL));
}

#[test]
fn affinity_and_cpu_numbers_agree() {
    let mut mask = [0_u64; 16];
    let bytes = sys!(sched_getaffinity, 0, 128, mask.as_mut_ptr()).unwrap();
    assert!(bytes >= 8 && bytes % 8 == 0);
    let mut cpu = 0_u32;
    assert_eq!(sys!(getcpu, &raw mut cpu, 0, 0), Ok(0));
    assert_ne!(mask[usize::try_from(cpu).unwrap() / 64] & (1 << (cpu % 64)), 0);
    assert!(std::thread::available_parallelism().unwrap().get() >= 1);
    assert_eq!(sys!(sched_getaffinity, 0, 1, mask.as_mut_ptr()), Err(libc::EINVAL));
}

#[test]
fn parent_death_signal_arrives() {
    in_child(|| {
        if sys!(prctl, libc::PR_SET_CHILD_SUBREAPER, 1) != Ok(0) {
            return 1;
        }
        // SAFETY: 1. both children only make system calls and leave by `_exit` or a signal.
        let middle = unsafe { libc::fork() };
        if middle == 0 {
            let (read, write) = casemate_guest_tests::pipe(0);
            // SAFETY: 1. as above.
            if unsafe { libc::fork() } == 0 {
                let _ = sys!(prctl, libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                let _ = sys!(write, write, b"r".as_ptr(), 1);
                loop {
                    let _ = sys!(ppoll, 0, 0, 0, 0, 0);
                }
            }
            let mut byte = 0_u8;
            let _ = sys!(read, read, &raw mut byte, 1);
            // SAFETY: 1. always sound; it does not return.
            unsafe { libc::_exit(0) };
        }
        if casemate_guest_tests::wait_status(middle) != 0 {
            return 2;
        }
        // The grandchild is ours now, and dies of the signal.
        let mut status = 0;
        if sys!(wait4, -1_i64, &raw mut status, 0, 0).is_err() {
            return 3;
        }
        i32::from(!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGTERM))
    });
}

#[test]
fn sysinfo_and_rusage_are_plausible() {
    // SAFETY: 1. plain data.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: 1. plain data.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(sysinfo, &raw mut info), Ok(0));
    assert!(info.totalram > 0 && info.freeram <= info.totalram && info.procs > 0);
    assert_eq!(sys!(getrusage, libc::RUSAGE_SELF, &raw mut usage), Ok(0));
    assert!(usage.ru_maxrss > 0);
    assert_eq!(sys!(getrusage, 7, &raw mut usage), Err(libc::EINVAL));
}

#[test]
fn niceness_is_kept_and_inherited() {
    let nice = |which: u32| sys!(getpriority, which, 0).map(|answer| 20 - answer);
    in_child(|| {
        let before = nice(libc::PRIO_PROCESS).unwrap_or(99);
        let wanted = (before + 3).min(19);
        if sys!(setpriority, libc::PRIO_PROCESS, 0, wanted) != Ok(0) || nice(libc::PRIO_PROCESS) != Ok(wanted) {
            return 1;
        }
        // A child has it too, and a number too large means the largest.
        let status = casemate_guest_tests::fork_status(|| {
            if nice(libc::PRIO_PROCESS) != Ok(wanted) {
                return 1;
            }
            let largest = sys!(setpriority, libc::PRIO_PROCESS, 0, 100).and_then(|_| nice(libc::PRIO_PROCESS));
            i32::from(largest != Ok(19))
        });
        if status != 0 {
            return 2;
        }
        i32::from(sys!(getpriority, 3, 0) != Err(libc::EINVAL)) * 3
    });
    assert_eq!(sys!(setpriority, libc::PRIO_PROCESS, i32::MAX, 0), Err(libc::ESRCH));
}

#[test]
fn a_title_written_over_the_arguments_is_the_command_line() {
    in_child(|| {
        let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return 1 };
        let field = |number: usize| -> Option<usize> {
            stat.rsplit_once(") ")
                .and_then(|(_, rest)| rest.split(' ').nth(number - 3))
                .and_then(|text| text.parse().ok())
        };
        let (Some(start), Some(end)) = (field(48), field(49)) else { return 2 };
        let title = b"title\0";
        if end < start + title.len() + 2 {
            return 3;
        }
        for at in start..end {
            let byte = title.get(at - start).copied().unwrap_or(b' ');
            // SAFETY: 1. our own argument strings, which nobody else reads now.
            unsafe { (at as *mut u8).write_volatile(byte) };
        }
        let Ok(line) = std::fs::read("/proc/self/cmdline") else { return 4 };
        i32::from(line != title) * 5
    });
}

#[test]
fn affinity_is_kept_and_inherited() {
    in_child(|| {
        let mut all = [0_u8; 128];
        let Ok(len) = sys!(sched_getaffinity, 0, all.len(), all.as_mut_ptr()) else { return 1 };
        let Some(at) = all.iter().position(|byte| *byte != 0) else { return 2 };
        let mut one = [0_u8; 128];
        one[at] = 1 << all[at].trailing_zeros();
        if sys!(sched_setaffinity, 0, one.len(), one.as_ptr()) != Ok(0) {
            return 3;
        }
        let status = casemate_guest_tests::fork_status(|| {
            let mut now = [0_u8; 128];
            let got = sys!(sched_getaffinity, 0, now.len(), now.as_mut_ptr());
            i32::from(got != Ok(len) || now != one)
        });
        if status != 0 {
            return 4;
        }
        let none = [0_u8; 128];
        i32::from(sys!(sched_setaffinity, 0, none.len(), none.as_ptr()) != Err(libc::EINVAL)) * 5
    });
}

#[test]
fn memory_policies_know_one_node() {
    const BIND: u64 = 2;
    const LOCAL: u64 = 4;
    in_child(|| {
        let ask = |addr: u64, flags: u64| -> Result<(i32, u64), i32> {
            let (mut mode, mut nodes) = (-1_i32, [0_u64; 16]);
            sys!(get_mempolicy, &raw mut mode, nodes.as_mut_ptr(), 1024, addr, flags).map(|_| (mode, nodes[0]))
        };
        let set = |mode: u64, nodes: u64| sys!(set_mempolicy, mode, &raw const nodes, 64);
        let here = &raw const ask as u64;
        let elsewhere = 2_u64;
        casemate_guest_tests::steps(&[
            sys!(get_mempolicy, 0, 0, 0, 0, 0) == Ok(0),
            ask(0, 0) == Ok((0, 0)),
            ask(0, 4) == Ok((0, 1)),
            ask(here, 2).is_ok(),
            ask(8, 2) == Err(libc::EFAULT),
            ask(here, 0) == Err(libc::EINVAL),
            ask(0, 64) == Err(libc::EINVAL),
            set(BIND, 1) == Ok(0),
            ask(0, 0) == Ok((2, 1)),
            casemate_guest_tests::fork_status(|| i32::from(ask(0, 0) != Ok((2, 1)))) == 0,
            set(BIND, 0) == Err(libc::EINVAL),
            set(99, 1) == Err(libc::EINVAL),
            set(LOCAL, 1) == Err(libc::EINVAL),
            set(LOCAL, 0) == Ok(0),
            ask(0, 0) == Ok((4, 0)),
            sys!(set_mempolicy, 0, 0, 0) == Ok(0),
            ask(0, 0) == Ok((0, 0)),
            sys!(mbind, 1, 4096, 0, 0, 0, 0) == Err(libc::EINVAL),
            sys!(mbind, 4096, 4096, 0, 0, 0, 0) == Err(libc::EFAULT),
            sys!(mbind, 4096, 4096, 0, 0, 0, 64) == Err(libc::EINVAL),
            sys!(migrate_pages, 0, 64, &raw const elsewhere, &raw const elsewhere).is_err(),
        ])
    });
}

#[test]
fn each_uuid_is_another() {
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    let (one, other) = (read(), read());
    assert_ne!(one, other);
    let lengths: Vec<usize> = one.trim_end().split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12]);
    assert_eq!(one.as_bytes()[14], b'4');
}

#[test]
fn namespaces_are_shown() {
    let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let text = own(name).to_str().unwrap().to_owned();
        let number: u64 = text.strip_prefix(&format!("{name}:[")).unwrap().strip_suffix(']').unwrap().parse().unwrap();
        let path = format!("/proc/self/ns/{name}");
        let file = std::fs::File::open(&path).unwrap();
        let looks = file.metadata().unwrap();
        assert_eq!((std::os::unix::fs::MetadataExt::ino(&looks), looks.is_file(), looks.len()), (number, true, 0));
        let mut byte = [0_u8];
        assert_eq!(std::io::Read::read(&mut &file, &mut byte).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        // All threads are in it.
        assert_eq!(std::fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap(), own(name));
    }
    assert_eq!(own("pid_for_children"), own("pid"));
    assert!(std::fs::read_dir("/proc/self/ns").unwrap().count() >= 8);
    assert!(std::fs::read_link("/proc/self/ns/nothing").is_err());
}

/// Only inside: the host's caches are everybody's.
#[test]
fn caches_are_dropped() {
    let knob = "/proc/sys/vm/drop_caches";
    if !inside() || sys!(geteuid) != Ok(0) {
        return;
    }
    for text in ["1", "2\n", "3", "4"] {
        std::fs::write(knob, text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(knob).unwrap(), "4\n");
    for text in ["0", "5", "x", "1 2"] {
        assert_eq!(std::fs::write(knob, text).unwrap_err().raw_os_error(), Some(libc::EINVAL), "{text}");
    }
    // Names are found again.
    assert!(std::fs::metadata("/usr/bin").unwrap().is_dir());
    assert!(std::fs::metadata("/proc/self/status").is_ok());
}
