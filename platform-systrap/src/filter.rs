//! The seccomp filters of a stub.
//!
//! Every thread has the **base** filter, installed in the zygote. The memory thread and the application threads add one with
//! a listener, which stops nothing but the hand-over: they pass the listener on, themselves. Then they add one more, which
//! takes all from them that they will not need. The strictest answer of a thread's filters counts (seccomp(2): TRAP before
//! USER_NOTIF before TRACE before ALLOW).
//!
//! | thread | from stub text | from anywhere else |
//! | --- | --- | --- |
//! | leader | what it needs to make threads | SIGSYS |
//! | memory thread | hand-over; mmap, munmap, mprotect, … | SIGSYS |
//! | application | hand-over; nothing is allowed | SIGSYS |
//!
//! Where the host refuses listeners, threads hand over through futexes instead: then the application filter has its one
//! rule that allows, futex(2) with the operations wait and wake from stub text.
//!
//! The base filter answers TRAP and never KILL, because it is also in the chain of the application threads, whose calls
//! must reach us; and it allows the hand-over, because its TRAP would outrank the listener. The last filter answers TRACE
//! for it, which the listener outranks too, and which refuses it where there is none. Where a call comes from is the base
//! filter's business.

use std::ops::Range;

use crate::host::Transport;
use crate::layout::HANDOFF_NR;

/// `struct sock_filter` (linux/filter.h).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Insn {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

/// BPF_LD | BPF_W | BPF_ABS
const LOAD: u16 = 0x20;
/// BPF_JMP | BPF_JEQ | BPF_K
const JUMP_EQ: u16 = 0x15;
/// BPF_JMP | BPF_JGE | BPF_K
const JUMP_GE: u16 = 0x35;
/// BPF_RET | BPF_K
const RETURN: u16 = 0x06;

const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_IP: u32 = 8;
const OFFSET_ARG1: u32 = 24;

/// `AUDIT_ARCH_X86_64`.
const ARCH_X86_64: u32 = 0xc000_003e;

/// Runs on.
pub(crate) const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
/// SIGSYS.
pub(crate) const TRAP: u32 = libc::SECCOMP_RET_TRAP;
/// Refused with ENOSYS, for nobody traces stubs.
const TRACE: u32 = libc::SECCOMP_RET_TRACE;
/// To the listener.
pub(crate) const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;

/// What the leader and the zygote call, and therefore the most that any thread of a stub may.
const BASE_CALLS: &[i64] = &[
    libc::SYS_read,         // leader, zygote: wait for a request
    libc::SYS_sendmsg,      // new thread, leader, zygote: pass descriptors
    libc::SYS_futex,        // leader: until the memory thread has passed its listener
    libc::SYS_close,        // new thread: after passing its listener
    libc::SYS_clone,        // leader: threads; zygote: stubs
    libc::SYS_sigaltstack,  // new application thread
    libc::SYS_seccomp,      // new thread: its filters
    libc::SYS_dup,          // thread without a listener: the stand-in
    libc::SYS_exit,         // thread without a listener
    libc::SYS_exit_group,   // whoever finds its peer gone
    libc::SYS_mmap,         // memory thread; start of a stub
    libc::SYS_munmap,       // memory thread; start of a stub
    libc::SYS_mprotect,     // memory thread
    libc::SYS_recvmsg,      // memory thread: host files
    libc::SYS_close_range,  // memory thread: host files; zygote
    libc::SYS_membarrier,   // memory thread: barriers
    libc::SYS_socketpair,   // zygote
    libc::SYS_prctl,        // start of a stub: parent-death signal
    libc::SYS_dup2,         // start of a stub
    crate::host::SYS_MSEAL, // start of a stub
];

/// What the memory thread calls.
const OPS_CALLS: &[i64] = &[
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_recvmsg,
    libc::SYS_close_range,
    libc::SYS_membarrier,
    libc::SYS_exit_group,
];

/// What the futex transport calls besides.
const FUTEX_CALLS: &[i64] = &[
    libc::SYS_sendto, // memory thread, leader: answers
];

/// The filter of every thread of a stub whose text is `text`.
pub(crate) fn base(text: &Range<u64>, transport: Transport) -> Vec<Insn> {
    match transport {
        Transport::Notify => program(Some(text), ALLOW, BASE_CALLS),
        Transport::Futex => program(Some(text), ALLOW, &[BASE_CALLS, FUTEX_CALLS].concat()),
    }
}

/// With which a thread gets its listener, where there are any.
pub(crate) fn listen() -> Vec<Insn> {
    vec![
        insn(LOAD, 0, 0, OFFSET_NR),
        insn(JUMP_EQ, 0, 1, HANDOFF_NR as u32),
        insn(RETURN, 0, 0, NOTIFY),
        insn(RETURN, 0, 0, ALLOW),
    ]
}

/// What the memory thread adds.
pub(crate) fn ops(transport: Transport) -> Vec<Insn> {
    match transport {
        Transport::Notify => program(None, TRACE, OPS_CALLS),
        Transport::Futex => program(None, TRAP, &[OPS_CALLS, &[libc::SYS_sendto]].concat()),
    }
}

/// What threads that run guest code add at last. With listeners it has no rule that allows.
pub(crate) fn app(text: &Range<u64>, transport: Transport) -> Vec<Insn> {
    match transport {
        Transport::Notify => program(None, TRACE, &[]),
        Transport::Futex => {
            let mut program = head(text, 13);
            program.extend([
                insn(JUMP_EQ, 0, 4, libc::SYS_futex as u32),
                insn(LOAD, 0, 0, OFFSET_ARG1),
                insn(JUMP_EQ, 1, 0, libc::FUTEX_WAIT as u32),
                insn(JUMP_EQ, 0, 1, libc::FUTEX_WAKE as u32),
                insn(RETURN, 0, 0, ALLOW),
                insn(RETURN, 0, 0, TRAP),
            ]);
            program
        }
    }
}

const fn insn(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
    Insn { code, jt, jf, k }
}

/// Instructions of [`head`].
const HEAD: usize = 8;

/// To instruction `trap_at` unless the call comes from `text`; then the number is loaded.
fn head(text: &Range<u64>, trap_at: usize) -> Vec<Insn> {
    let high = (text.start >> 32) as u32;
    debug_assert_eq!(high, ((text.end - 1) >> 32) as u32, "stub text is one page");
    let trap = |at: usize| distance(at, trap_at);
    vec![
        insn(LOAD, 0, 0, OFFSET_ARCH),
        insn(JUMP_EQ, 0, trap(1), ARCH_X86_64),
        insn(LOAD, 0, 0, OFFSET_IP + 4),
        insn(JUMP_EQ, 0, trap(3), high),
        insn(LOAD, 0, 0, OFFSET_IP),
        insn(JUMP_GE, 0, trap(5), text.start as u32),
        insn(JUMP_GE, trap(6), 0, text.end as u32),
        insn(LOAD, 0, 0, OFFSET_NR),
    ]
}

/// The jump from instruction `from` to instruction `to`. Programs are far shorter than the 255 that a jump can span.
fn distance(from: usize, to: usize) -> u8 {
    u8::try_from(to - from - 1).expect("short program")
}

/// TRAP, but from `text`: `handoff` for the hand-over, ALLOW for `calls`. Without `text` from anywhere, for filters above one
/// that looks.
fn program(text: Option<&Range<u64>>, handoff: u32, calls: &[i64]) -> Vec<Insn> {
    let start = if text.is_some() { HEAD } else { 1 };
    let trap_at = start + 2 + calls.len();
    let mut program = text.map_or_else(|| vec![insn(LOAD, 0, 0, OFFSET_NR)], |text| head(text, trap_at));
    program.push(insn(JUMP_EQ, 0, 1, HANDOFF_NR as u32));
    program.push(insn(RETURN, 0, 0, handoff));
    for nr in calls {
        program.push(insn(JUMP_EQ, distance(program.len(), trap_at + 1), 0, *nr as u32));
    }
    program.push(insn(RETURN, 0, 0, TRAP));
    if !calls.is_empty() {
        program.push(insn(RETURN, 0, 0, ALLOW));
    }
    program
}

#[cfg(test)]
mod tests {
    use super::{
        ALLOW, ARCH_X86_64, BASE_CALLS, FUTEX_CALLS, HANDOFF_NR, Insn, JUMP_EQ, JUMP_GE, LOAD, NOTIFY, OFFSET_ARCH,
        OFFSET_ARG1, OFFSET_IP, OFFSET_NR, OPS_CALLS, RETURN, TRAP, Transport, app, base, listen, ops,
    };

    const TEXT: std::ops::Range<u64> = 0x7ffe_1234_5000..0x7ffe_1234_6000;

    /// Interprets the subset of classic BPF that the filters use.
    fn run_with(program: &[Insn], nr: u32, arch: u32, ip: u64, arg1: u32) -> u32 {
        let (mut at, mut acc) = (0_usize, 0_u32);
        loop {
            let insn = program[at];
            at += 1;
            match insn.code {
                LOAD => {
                    acc = match insn.k {
                        OFFSET_NR => nr,
                        OFFSET_ARCH => arch,
                        OFFSET_IP => ip as u32,
                        OFFSET_ARG1 => arg1,
                        other => {
                            assert_eq!(other, OFFSET_IP + 4);
                            (ip >> 32) as u32
                        }
                    }
                }
                JUMP_EQ => at += usize::from(if acc == insn.k { insn.jt } else { insn.jf }),
                JUMP_GE => at += usize::from(if acc >= insn.k { insn.jt } else { insn.jf }),
                RETURN => return insn.k,
                other => panic!("instruction {other:#x} is not in our subset"),
            }
        }
    }

    fn run(program: &[Insn], nr: u32, arch: u32, ip: u64) -> u32 {
        run_with(program, nr, arch, ip, 7)
    }

    /// The answer of the chain: the strictest.
    fn chain(programs: &[Vec<Insn>], nr: u32, arch: u32, ip: u64) -> u32 {
        programs.iter().map(|program| run(program, nr, arch, ip)).min_by_key(|action| *action as i32).unwrap()
    }

    fn numbers() -> impl Iterator<Item = u32> {
        let near = [HANDOFF_NR as u32, HANDOFF_NR as u32 - 1, HANDOFF_NR as u32 + 1, u32::MAX, 0x7fff_ffff];
        (0..1024).chain(near).flat_map(|nr| [nr, nr | 0x4000_0000])
    }

    fn addresses() -> Vec<(u64, bool)> {
        vec![
            (TEXT.start, true),
            (TEXT.start + 0x800, true),
            (TEXT.end - 1, true),
            (TEXT.end, false),
            (TEXT.start - 1, false),
            (0x40_0000, false),
            (TEXT.start & 0xffff_ffff, false),
            (TEXT.start + (1 << 32), false),
            (0xffff_ffff_ff60_0000, false),
        ]
    }

    const ARCHES: [u32; 4] = [ARCH_X86_64, 0x4000_0003, 0xc000_00b7, 0];

    #[test]
    fn threads_that_run_guest_code_are_never_allowed_anything() {
        let filters = [base(&TEXT, Transport::Notify), listen(), app(&TEXT, Transport::Notify)];
        for arch in ARCHES {
            for (ip, inside) in addresses() {
                for nr in numbers() {
                    let expected = arch == ARCH_X86_64 && inside && u64::from(nr) == HANDOFF_NR;
                    let answer = chain(&filters, nr, arch, ip);
                    assert_eq!(answer, if expected { NOTIFY } else { TRAP }, "nr {nr} arch {arch:#x} ip {ip:#x}");
                    assert_ne!(run(&filters[2], nr, arch, ip), ALLOW);
                }
            }
        }
    }

    #[test]
    fn with_futexes_guest_threads_may_wait_and_wake_from_stub_text() {
        let (base, app) = (base(&TEXT, Transport::Futex), app(&TEXT, Transport::Futex));
        for arch in ARCHES {
            for (ip, inside) in addresses() {
                for nr in numbers() {
                    for operation in [0, 1, 2, 3, 9, 128, 129, u32::MAX] {
                        let expected = arch == ARCH_X86_64 && inside && nr == 202 && operation < 2;
                        let answers = [&base, &app].map(|filter| run_with(filter, nr, arch, ip, operation));
                        let answer = answers.into_iter().min_by_key(|action| *action as i32).unwrap();
                        assert_eq!(answer, if expected { ALLOW } else { TRAP }, "nr {nr} ip {ip:#x} op {operation}");
                    }
                }
            }
        }
    }

    #[test]
    fn privileged_threads_have_their_calls_from_stub_text_only() {
        let cases: [(Vec<Vec<Insn>>, Vec<i64>, u32); 5] = [
            (vec![base(&TEXT, Transport::Notify)], BASE_CALLS.to_vec(), ALLOW),
            (vec![base(&TEXT, Transport::Notify), listen()], BASE_CALLS.to_vec(), NOTIFY),
            (vec![base(&TEXT, Transport::Notify), listen(), ops(Transport::Notify)], OPS_CALLS.to_vec(), NOTIFY),
            (vec![base(&TEXT, Transport::Futex)], [BASE_CALLS, FUTEX_CALLS].concat(), ALLOW),
            (
                vec![base(&TEXT, Transport::Futex), ops(Transport::Futex)],
                [OPS_CALLS, &[libc::SYS_sendto]].concat(),
                TRAP,
            ),
        ];
        for (filters, calls, handoff) in cases {
            for arch in ARCHES {
                for (ip, inside) in addresses() {
                    for nr in numbers() {
                        let ours = arch == ARCH_X86_64 && inside;
                        let expected = if ours && u64::from(nr) == HANDOFF_NR {
                            handoff
                        } else if ours && calls.contains(&i64::from(nr)) {
                            ALLOW
                        } else {
                            TRAP
                        };
                        assert_eq!(chain(&filters, nr, arch, ip), expected, "nr {nr} arch {arch:#x} ip {ip:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_memory_thread_may_do_the_base_filter_allows_too() {
        assert!(OPS_CALLS.iter().all(|nr| BASE_CALLS.contains(nr)));
    }
}
