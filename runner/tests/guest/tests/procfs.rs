//! `/proc/[pid]` in Linux's formats, and who may look: proc(5). Also what getrusage(2) sums.

use std::collections::HashMap;
use std::fs;

use casemate_guest_tests::{child, fork_status, in_child, is_root, pipe, steps, sys, until_asleep, wait_status};

/// `/proc/[pid]/status` as rows in order.
fn status(pid: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let row = |line: &str| line.split_once(":\t").map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.lines().map(|line| row(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
}

/// The figure in a row of `status`.
fn figure(pid: &str, name: &str) -> u64 {
    let rows = status(pid);
    let (_, value) = rows.iter().find(|(row, _)| row == name).unwrap_or_else(|| panic!("no {name}"));
    value.trim().trim_end_matches(" kB").parse().unwrap_or_else(|_| panic!("{name}: {value:?}"))
}

/// Fields of `/proc/[pid]/stat`, counted from 1 as proc_pid_stat(5) does.
fn stat(path: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let (start, end) = (text.find('(').unwrap(), text.rfind(')').unwrap());
    let mut fields = vec![String::new(), text[..start].trim().to_owned(), text[start..=end].to_owned()];
    fields.extend(text[end + 1..].split_whitespace().map(str::to_owned));
    fields
}

/// `name: number` rows, as of `io`.
fn numbers(path: &str) -> HashMap<String, u64> {
    let text = fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_owned(), value.trim().parse().unwrap())
    };
    text.lines().map(row).collect()
}

fn me() -> i64 {
    sys!(getpid).unwrap()
}

#[test]
fn status_has_the_rows_of_linux_in_order() {
    let rows = status("self");
    let mut names = rows.iter().map(|(name, _)| name.as_str());
    let wanted = [
        "Name",
        "Umask",
        "State",
        "Tgid",
        "Ngid",
        "Pid",
        "PPid",
        "TracerPid",
        "Uid",
        "Gid",
        "FDSize",
        "Groups",
        "NStgid",
        "NSpid",
        "NSpgid",
        "NSsid",
        "Kthread",
        "VmPeak",
        "VmSize",
        "VmLck",
        "VmPin",
        "VmHWM",
        "VmRSS",
        "RssAnon",
        "RssFile",
        "RssShmem",
        "VmData",
        "VmStk",
        "VmExe",
        "VmLib",
        "VmPTE",
        "VmSwap",
        "HugetlbPages",
        "CoreDumping",
        "THP_enabled",
        "untag_mask",
        "Threads",
        "SigQ",
        "SigPnd",
        "ShdPnd",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "Speculation_Store_Bypass",
        "SpeculationIndirectBranch",
        "Cpus_allowed",
        "Cpus_allowed_list",
        "Mems_allowed",
        "Mems_allowed_list",
        "voluntary_ctxt_switches",
        "nonvoluntary_ctxt_switches",
    ];
    // Kernels before 6.10 have no Kthread row, those without some options lack other rows.
    let may_lack = ["Kthread", "HugetlbPages", "untag_mask", "Seccomp_filters", "SpeculationIndirectBranch"];
    for name in wanted {
        let mut rest = names.clone();
        if rest.any(|row| row == name) {
            names = rest;
        } else {
            assert!(may_lack.contains(&name), "{name} is not in its place");
        }
    }
    let (rss, parts) = (figure("self", "VmRSS"), ["RssAnon", "RssFile", "RssShmem"].map(|name| figure("self", name)));
    assert!(rss > 0 && parts[0] > 0 && parts[1] > 0, "{rss} {parts:?}");
    assert!(figure("self", "VmExe") > 0 && figure("self", "VmPeak") >= figure("self", "VmSize"));
}

#[test]
fn status_follows_what_the_process_does() {
    in_child(|| {
        let before = figure("self", "VmSize");
        let len = 64 << 20;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let Ok(at) = sys!(mmap, 0, len, libc::PROT_READ, flags, -1_i64, 0) else { return 90 };
        let mapped = figure("self", "VmSize");
        let unmapped = sys!(munmap, at, len) == Ok(0);
        let privs = figure("self", "NoNewPrivs");
        steps(&[
            mapped >= before + (64 << 10),
            unmapped,
            figure("self", "VmPeak") >= mapped,
            figure("self", "VmSize") < mapped,
            privs == 0,
            sys!(prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == Ok(0),
            figure("self", "NoNewPrivs") == 1,
            fork_status(|| i32::from(figure("self", "NoNewPrivs") != 1)) == 0,
            figure("self", "THP_enabled") == 1,
            sys!(prctl, libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) == Ok(0),
            figure("self", "THP_enabled") == 0,
        ])
    });
}

#[test]
fn queued_signals_are_counted() {
    in_child(|| {
        let signal = libc::SIGRTMIN() + 3;
        let set = 1_u64 << (signal - 1);
        let mut info = [0_u32; 32];
        info[0] = u32::try_from(signal).unwrap_or(0);
        info[2] = (-1_i32).cast_unsigned();
        let blocked = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8) == Ok(0);
        let sent = (0..3).all(|_| sys!(rt_sigqueueinfo, me(), signal, info.as_ptr()) == Ok(0));
        let rows = status("self");
        let value = |name: &str| rows.iter().find(|(row, _)| row == name).map_or("", |(_, value)| value.as_str());
        let queued = value("SigQ").split('/').next().and_then(|count| count.parse::<u64>().ok());
        let shared = u64::from_str_radix(value("ShdPnd"), 16);
        steps(&[blocked, sent, queued.is_some_and(|count| count >= 3), shared.is_ok_and(|bits| bits & set != 0)])
    });
}

#[test]
fn stat_has_its_fields() {
    let fields = stat("/proc/self/stat");
    assert_eq!(fields.len(), 53, "{fields:?}");
    let field = |at: usize| fields[at].parse::<i64>().unwrap_or_else(|_| panic!("field {at}: {}", fields[at]));
    assert_eq!((field(1), field(4), field(5)), (me(), sys!(getppid).unwrap(), sys!(getpgrp).unwrap()));
    assert_eq!(field(18), field(19) + 20);
    assert!(field(10) > 0 && field(20) >= 1 && field(22) >= 0 && field(23) > 0 && field(24) > 0);
    // PF_RANDOMIZE, unless personality(2) says otherwise; SIGCHLD; SCHED_OTHER.
    let plain = sys!(personality, 0xffff_ffff_u32).unwrap() & 0x4_0000 == 0;
    assert_eq!(field(9) & 0x40_0000 != 0, plain);
    assert_eq!((field(38), field(40), field(41)), (libc::SIGCHLD.into(), 0, 0));
    let auxiliary = [26, 27, 28, 45, 46, 47, 48, 49, 50, 51].map(field);
    assert!(auxiliary.iter().all(|address| *address > 1), "{auxiliary:?}");
    in_child(|| {
        // PF_FORKNOEXEC: it has executed nothing since.
        let own = stat("/proc/self/stat");
        steps(&[own[9].parse::<i64>().is_ok_and(|flags| flags & 0x40 != 0), sys!(setpriority, 0, 0, 7) == Ok(0), {
            let own = stat("/proc/self/stat");
            own[18] == "27" && own[19] == "7"
        }])
    });
}

#[test]
fn a_thread_s_directory_tells_of_the_thread() {
    let tid = sys!(gettid).unwrap();
    let own = stat(&format!("/proc/self/task/{tid}/stat"));
    assert_eq!(own[1], tid.to_string());
    assert_eq!(own.len(), 53);
    let exists = |name: &str| fs::metadata(format!("/proc/self/task/{tid}/{name}")).is_ok();
    assert!(["children", "comm", "io", "maps", "schedstat", "syscall"].iter().all(|name| exists(name)));
    assert!(["task", "timers", "timerslack_ns", "coredump_filter"].iter().all(|name| !exists(name)));
    assert!(fs::metadata("/proc/self/children").is_err());
}

#[test]
fn reads_and_writes_are_counted() {
    in_child(|| {
        let (read, write) = pipe(0);
        let before = numbers("/proc/self/io");
        let mut data = [7_u8; 1000];
        let wrote = sys!(write, write, data.as_ptr(), 1000) == Ok(1000);
        let got = sys!(read, read, data.as_mut_ptr(), 400) == Ok(400);
        let after = numbers("/proc/self/io");
        let child = fork_status(|| i32::from(sys!(write, write, data.as_ptr(), 300) != Ok(300)));
        let waited = numbers("/proc/self/io");
        let more = |name: &str, old: &HashMap<String, u64>, new: &HashMap<String, u64>| new[name] - old[name];
        steps(&[
            wrote && got,
            more("wchar", &before, &after) == 1000,
            more("syscw", &before, &after) == 1,
            more("rchar", &before, &after) >= 400,
            more("syscr", &before, &after) >= 1,
            child == 0,
            more("wchar", &after, &waited) == 300,
            after.contains_key("cancelled_write_bytes") && after.len() == 7,
        ])
    });
}

#[test]
fn the_call_of_a_sleeper_is_told() {
    let (read, write) = pipe(0);
    let mut room = [0_u8; 8];
    let at = room.as_mut_ptr() as u64;
    let pid = child(|| i32::from(sys!(read, read, at, 5) != Ok(1)));
    until_asleep(pid.into(), pid.into());
    let line = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words.len(), 9, "{line:?}");
    assert_eq!(words[..4], ["0", &format!("{read:#x}"), &format!("{at:#x}"), "0x5"], "{line:?}");
    assert!(words[7] != "0x0" && words[8] != "0x0", "{line:?}");
    assert!(!fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap().is_empty());
    assert_eq!(stat(&format!("/proc/{pid}/stat"))[3], "S");
    assert_eq!(sys!(write, write, b"x".as_ptr(), 1), Ok(1));
    assert_eq!(wait_status(pid), 0);
    // Who reads it is in the call that reads.
    let own = fs::read_to_string("/proc/thread-self/syscall").unwrap();
    assert!(own.split_whitespace().count() == 9 || own == "running\n", "{own:?}");
    for fd in [read, write] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn children_are_listed_with_the_thread_that_made_them() {
    let (read, write) = pipe(0);
    let wait = move || {
        let mut byte = 0_u8;
        let _ = sys!(close, write);
        i32::from(sys!(read, read, &raw mut byte, 1) != Ok(0))
    };
    let first = child(wait);
    let (second, other) = std::thread::spawn(move || (child(wait), 0)).join().unwrap();
    assert_eq!(other, 0);
    let tid = sys!(gettid).unwrap();
    let Ok(text) = fs::read_to_string(format!("/proc/self/task/{tid}/children")) else { panic!("no children") };
    let listed: Vec<i32> = text.split(' ').filter(|word| !word.is_empty()).map(|word| word.parse().unwrap()).collect();
    assert!(text.ends_with(' ') && listed.contains(&first), "{text:?}");
    // The thread that made the second is gone: it is another's now.
    let all: String = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path().join("children")).unwrap_or_default())
        .collect();
    assert!(all.split(' ').any(|word| word == second.to_string()), "{all:?}");
    assert_eq!(sys!(close, write), Ok(0));
    assert_eq!((wait_status(first), wait_status(second)), (0, 0));
    assert_eq!(sys!(close, read), Ok(0));
}

#[test]
fn timers_are_listed() {
    in_child(|| {
        // SAFETY: 1. plain data.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGUSR2;
        event.sigev_value.sival_ptr = std::ptr::without_provenance_mut(0x1234);
        let mut id = -1_i32;
        let made = sys!(timer_create, libc::CLOCK_MONOTONIC, &raw const event, &raw mut id) == Ok(0);
        let text = fs::read_to_string("/proc/self/timers").unwrap_or_default();
        let wanted = format!("ID: {id}\nsignal: 12/0000000000001234\nnotify: signal/pid.{}\nClockID: 1\n", me());
        steps(&[made, text == wanted])
    });
}

#[test]
fn knobs_of_a_process_are_kept() {
    in_child(|| {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let write = |name: &str, value: &str| fs::write(format!("/proc/self/{name}"), value);
        let start = read("coredump_filter");
        let slack = read("timerslack_ns");
        steps(&[
            start == "00000033\n" || start == "00000023\n",
            write("coredump_filter", "0x7f").is_ok(),
            read("coredump_filter") == "0000007f\n",
            fork_status(|| i32::from(read("coredump_filter") != "0000007f\n")) == 0,
            write("coredump_filter", "x").is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)),
            slack == "50000\n",
            write("timerslack_ns", "70000\n").is_ok(),
            read("timerslack_ns") == "70000\n",
            sys!(prctl, libc::PR_GET_TIMERSLACK, 0, 0, 0, 0) == Ok(70_000),
            write("oom_score_adj", "500").is_ok(),
            read("oom_score_adj") == "500\n",
            read("oom_adj") == "8\n",
            write("oom_adj", "15").is_ok(),
            read("oom_score_adj") == "1000\n",
            write("oom_adj", "16").is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)),
            write("comm", "renamed").is_ok(),
            read("comm") == "renamed\n",
            write("clear_refs", "6").is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)),
            write("clear_refs", "1").is_ok(),
        ])
    });
}

#[test]
fn pages_are_told_as_present_or_not() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // Far apart: the pages about one that is touched may come with it.
    let len: u64 = 64 << 20;
    let at = sys!(mmap, 0, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1_i64, 0).unwrap();
    // SAFETY: 1. the first page was just mapped for writing.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(at).unwrap()).write(1) };
    let map = fs::File::open("/proc/self/pagemap").unwrap();
    let mut bytes = [0_u8; 16];
    let mut entry = |address: u64| {
        assert_eq!(std::os::unix::fs::FileExt::read_at(&map, &mut bytes, address / 4096 * 8).unwrap(), 16);
        bytes[7] & 0x80 != 0
    };
    let start = u64::try_from(at).unwrap();
    assert!(entry(start) && !entry(start + len / 2) && !entry(start + len - 8192));
    let odd = std::os::unix::fs::FileExt::read_at(&map, &mut bytes[..7], 0);
    assert_eq!(odd.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(sys!(munmap, at, len), Ok(0));
}

#[test]
fn others_see_what_their_ids_allow() {
    if !is_root() {
        return;
    }
    let parent = me();
    in_child(|| {
        let ids = 65_534;
        if sys!(setresgid, ids, ids, ids) != Ok(0) || sys!(setresuid, ids, ids, ids) != Ok(0) {
            return 90;
        }
        let open = |name: &str| fs::File::open(format!("/proc/{parent}/{name}")).err().and_then(|e| e.raw_os_error());
        let shown = stat(&format!("/proc/{parent}/stat"));
        let owner = |path: &str| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
        steps(&[
            ["environ", "maps", "smaps", "auxv", "mem", "io", "syscall", "pagemap"]
                .iter()
                .all(|name| open(name) == Some(libc::EACCES)),
            ["stat", "statm", "status", "cmdline", "limits", "comm", "wchan"].iter().all(|name| open(name).is_none()),
            fs::read_dir(format!("/proc/{parent}/fd")).is_err(),
            fs::read_link(format!("/proc/{parent}/exe")).is_err_and(|error| error.raw_os_error() == Some(libc::EACCES)),
            fs::read_to_string(format!("/proc/{parent}/wchan")).is_ok_and(|name| name == "0"),
            shown[26] == "1" && shown[27] == "1" && shown[28] == "0" && shown[45] == "0",
            // Who changed ids is not dumpable: the directory is its own, the files in it are root's.
            owner("/proc/self") == 65_534 && owner("/proc/self/environ") == 0,
            sys!(prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0) == Ok(0),
            owner("/proc/self/environ") == 65_534,
        ])
    });
}

#[test]
fn faults_and_switches_of_children_are_summed() {
    in_child(|| {
        // SAFETY: 1. plain data.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let none = sys!(getrusage, libc::RUSAGE_CHILDREN, &raw mut usage);
        let start = (usage.ru_minflt, usage.ru_nvcsw);
        let before: i64 = stat("/proc/self/stat")[11].parse().unwrap_or(-1);
        let (read, write) = pipe(0);
        let pid = child(|| {
            let pages = vec![1_u8; 1 << 20];
            let mut byte = 0_u8;
            let got = sys!(read, read, &raw mut byte, 1);
            i32::from(got != Ok(1) || std::hint::black_box(&pages)[77] != 1)
        });
        until_asleep(pid.into(), pid.into());
        let woken = sys!(write, write, b"x".as_ptr(), 1) == Ok(1);
        let ended = wait_status(pid) == 0;
        let some = sys!(getrusage, libc::RUSAGE_CHILDREN, &raw mut usage);
        let after: i64 = stat("/proc/self/stat")[11].parse().unwrap_or(-1);
        steps(&[
            none == Ok(0) && start == (0, 0),
            before == 0,
            woken && ended && some == Ok(0),
            usage.ru_minflt > 0 && usage.ru_nvcsw >= 1,
            after == usage.ru_minflt,
        ])
    });
}

#[test]
fn a_busy_thread_s_schedstat_grows() {
    let read = || -> Vec<u64> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    };
    let before = read();
    assert_eq!(before.len(), 3);
    // Linux brings it up to date at ticks.
    while read()[0] <= before[0] {
        std::hint::spin_loop();
    }
}

#[test]
fn memory_of_the_machine_is_told_in_full() {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let rows: HashMap<&str, u64> = text
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name, value.trim().trim_end_matches(" kB").parse().unwrap())
        })
        .collect();
    for name in [
        "MemTotal",
        "MemFree",
        "MemAvailable",
        "Buffers",
        "Cached",
        "Active(anon)",
        "Inactive(file)",
        "SwapTotal",
        "Shmem",
        "Slab",
        "SReclaimable",
        "SUnreclaim",
        "KernelStack",
        "PageTables",
        "CommitLimit",
        "Committed_AS",
        "VmallocTotal",
        "AnonHugePages",
        "HugePages_Total",
        "Hugepagesize",
    ] {
        assert!(rows.contains_key(name), "{name}");
    }
    assert!(rows["MemTotal"] >= rows["MemAvailable"] && rows["MemAvailable"] > 0);
}

#[test]
fn knobs_of_the_kernel_are_numbers() {
    for name in [
        "fs/aio-max-nr",
        "fs/leases-enable",
        "fs/overflowuid",
        "fs/suid_dumpable",
        "kernel/dmesg_restrict",
        "kernel/ns_last_pid",
        "kernel/panic",
        "kernel/sched_rr_timeslice_ms",
        "kernel/tainted",
        "kernel/threads-max",
        "user/max_user_namespaces",
        "vm/dirty_ratio",
        "vm/nr_hugepages",
        "vm/overcommit_kbytes",
        "vm/vfs_cache_pressure",
    ] {
        let text = fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.trim_end().parse::<i64>().is_ok(), "{name}: {text:?}");
    }
}
