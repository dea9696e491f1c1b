//! Evaluates the compiled filters for every number and architecture, and lets a real process try a call outside.

use seccompiler::BpfProgram;

use super::table::RULES;
use super::{Refusal, fallback_filter, main_filter};
use crate::host::{Forked, exit_now, fork_into, raw_call};

const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;
const ARCH_AARCH64: u32 = 0xc000_00b7;
const X32_BIT: u32 = 0x4000_0000;

/// What the host's filter machine reads: seccomp(2), `struct seccomp_data`.
struct Data {
    nr: u32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

impl Data {
    fn call(nr: i64, args: [u64; 6]) -> Self {
        Self { nr: u32::try_from(nr).expect("small"), arch: ARCH_X86_64, ip: 0, args }
    }

    fn word(&self, offset: u32) -> u32 {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.nr.to_le_bytes());
        bytes.extend_from_slice(&self.arch.to_le_bytes());
        bytes.extend_from_slice(&self.ip.to_le_bytes());
        for arg in self.args {
            bytes.extend_from_slice(&arg.to_le_bytes());
        }
        let at = usize::try_from(offset).expect("usize");
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }
}

/// The subset of classic BPF that seccompiler emits.
fn evaluate(program: &BpfProgram, data: &Data) -> u32 {
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    loop {
        let instruction = &program[at];
        at += 1;
        let jump = |condition: bool| usize::from(if condition { instruction.jt } else { instruction.jf });
        match instruction.code {
            0x20 => accumulator = data.word(instruction.k),
            0x54 => accumulator &= instruction.k,
            0x05 => at += usize::try_from(instruction.k).expect("usize"),
            0x15 => at += jump(accumulator == instruction.k),
            0x25 => at += jump(accumulator > instruction.k),
            0x35 => at += jump(accumulator >= instruction.k),
            0x45 => at += jump(accumulator & instruction.k != 0),
            0x06 => return instruction.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO_ENOSYS: u32 = 0x0005_0000 | 38;

fn filter() -> BpfProgram {
    main_filter(&[], Refusal::Kill).expect("compiles")
}

#[test]
fn only_the_table_passes_for_every_number() {
    let filter = filter();
    for nr in (0..2048).chain([u32::MAX, u32::MAX - 1, 0x8000_0000]) {
        let listed = RULES.iter().find(|rule| rule.nr == i64::from(nr));
        // All-ones arguments satisfy no condition of the table.
        let strange = evaluate(&filter, &Data { nr, arch: ARCH_X86_64, ip: 0x1234, args: [u64::MAX; 6] });
        match listed {
            Some(rule) if rule.args.is_empty() => assert_eq!(strange, ALLOW, "{nr}"),
            _ => assert_eq!(strange, KILL_PROCESS, "{nr}"),
        }
        for ip in [0, 0x7fff_ffff_f000, u64::MAX] {
            let first = Data { nr: nr | X32_BIT, arch: ARCH_X86_64, ip, args: [0; 6] };
            assert_eq!(evaluate(&filter, &first), KILL_PROCESS, "x32 {nr}");
            for arch in [ARCH_I386, ARCH_AARCH64, 0] {
                let foreign = Data { nr, arch, ip, args: [0; 6] };
                assert_eq!(evaluate(&filter, &foreign), KILL_PROCESS, "arch {arch:#x} {nr}");
            }
        }
    }
}

#[test]
fn arguments_are_checked() {
    let filter = filter();
    let verdict = |nr, args| evaluate(&filter, &Data::call(nr, args));
    assert_eq!(verdict(libc::SYS_mmap, [0, 4096, 3, 0x22, u64::MAX, 0]), ALLOW);
    assert_eq!(verdict(libc::SYS_mmap, [0, 4096, 7, 0x22, u64::MAX, 0]), KILL_PROCESS);
    assert_eq!(verdict(libc::SYS_mmap, [0, 4096, 5, 0x22, u64::MAX, 0]), KILL_PROCESS);
    assert_eq!(verdict(libc::SYS_mprotect, [0, 4096, 4, 0, 0, 0]), KILL_PROCESS);
    assert_eq!(verdict(libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0]), KILL_PROCESS);
    assert_eq!(verdict(libc::SYS_ioctl, [0, libc::TIOCGWINSZ, 0, 0, 0, 0]), ALLOW);
    assert_eq!(verdict(libc::SYS_clone, [0x003d_0f00, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(verdict(libc::SYS_clone, [17, 0, 0, 0, 0, 0]), KILL_PROCESS);
    assert_eq!(verdict(libc::SYS_clone, [0x003d_0f00 | 0x1000_0000, 0, 0, 0, 0, 0]), KILL_PROCESS);
    assert_eq!(verdict(libc::SYS_fcntl, [0, 4, 0o4000, 0, 0, 0]), KILL_PROCESS);
    assert_eq!(verdict(libc::SYS_tgkill, [1, 77, 6, 0, 0, 0]), ALLOW);
    assert_eq!(verdict(libc::SYS_tgkill, [2, 77, 9, 0, 0, 0]), KILL_PROCESS);
    for forbidden in [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_ptrace,
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_open,
        libc::SYS_mount,
        libc::SYS_setuid,
        libc::SYS_kill,
        libc::SYS_open_by_handle_at,
        libc::SYS_process_vm_readv,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
    ] {
        assert_eq!(verdict(forbidden, [0; 6]), KILL_PROCESS, "{forbidden}");
    }
}

#[test]
fn what_the_c_library_tries_is_refused_without_harm() {
    let fallback = fallback_filter().expect("compiles");
    assert_eq!(evaluate(&fallback, &Data::call(libc::SYS_clone3, [0; 6])), ERRNO_ENOSYS);
    let here = u64::from(libc::AT_FDCWD.cast_unsigned());
    assert_eq!(evaluate(&fallback, &Data::call(libc::SYS_openat, [here, 0, 0, 0, 0, 0])), ERRNO_ENOSYS);
    assert_eq!(evaluate(&fallback, &Data::call(libc::SYS_read, [0; 6])), ALLOW);
    // Opening relative to a tree is not what this filter answers, and the main one refuses it.
    assert_eq!(evaluate(&fallback, &Data::call(libc::SYS_openat, [7, 0, 0, 0, 0, 0])), ALLOW);
    assert_eq!(evaluate(&filter(), &Data::call(libc::SYS_openat, [7, 0, 0, 0, 0, 0])), KILL_PROCESS);
}

#[test]
fn table_is_small_unique_and_reasoned() {
    let mut numbers: Vec<i64> = RULES.iter().map(|rule| rule.nr).collect();
    // The platform's own calls come on top, ten or so that are not here already.
    assert!(numbers.len() <= 68, "{} calls", numbers.len());
    numbers.sort_unstable();
    let total = numbers.len();
    numbers.dedup();
    assert_eq!(numbers.len(), total, "a call is listed twice");
    assert!(RULES.iter().all(|rule| rule.reason.len() > 5));
}

/// Forks even though the test harness has threads: the child only makes system calls.
#[test]
fn a_call_outside_the_table_kills() {
    // The harness runs tests in threads, and `fork_into` insists on a single one: run this in a process of its own.
    if std::env::var_os("CASEMATE_FILTER_CHILD").is_none() {
        let me = std::env::current_exe().expect("path");
        let status = std::process::Command::new(me)
            .args([
                "--exact",
                "sandbox::seccomp::tests::a_call_outside_the_table_kills",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("CASEMATE_FILTER_CHILD", "1")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .expect("runs");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGSYS), "{status:?}");
        return;
    }
    super::install(&[], Refusal::Kill).expect("installs");
    // getppid is in no table.
    raw_call(libc::SYS_getppid);
    exit_now(3);
}

#[test]
fn fork_helper_refuses_threads() {
    // The harness has more than one thread, except with --test-threads=1, where it still has the main one.
    match fork_into(0) {
        Ok(Forked::Child) => exit_now(0),
        Ok(Forked::Parent(child)) => {
            let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
        }
        Err(error) => assert!(error.to_string().contains("threads")),
    }
}
