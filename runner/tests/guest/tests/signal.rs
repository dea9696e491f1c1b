//! Signals: handlers, masks, queues, alternate stacks, restarts, faults.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use casemate_guest_tests::{Memory, fork_status, in_child, pipe, sys};

static SEEN: AtomicI32 = AtomicI32::new(0);
static ZERO: u64 = 0;
static WHERE: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(signal: i32) {
    SEEN.store(signal, Ordering::Relaxed);
}

extern "C" fn note_address(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: 1. the kernel passes a valid siginfo of a fault.
    let info = unsafe { &*info };
    // SAFETY: 1. it is a fault's, so it has an address.
    let address = unsafe { info.si_addr() };
    SEEN.store(signal, Ordering::Relaxed);
    WHERE.store(address as u64, Ordering::Relaxed);
    // SAFETY: 1. always sound; it does not return.
    unsafe { libc::_exit(if address as u64 == 0x1000 { 0 } else { 1 }) };
}

fn handle(signal: i32, handler: usize, flags: i32) {
    // SAFETY: 1. sigaction is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: 1. `action` lives across the call and names a handler of the right type.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
}

fn note_handler() -> usize {
    note as extern "C" fn(i32) as usize
}

fn me() -> i64 {
    sys!(getpid).unwrap()
}

#[test]
fn a_handler_runs_before_kill_returns() {
    in_child(|| {
        handle(libc::SIGUSR1, note_handler(), 0);
        let _ = sys!(kill, me(), libc::SIGUSR1);
        i32::from(SEEN.load(Ordering::Relaxed) != libc::SIGUSR1)
    });
}

#[test]
fn a_blocked_signal_waits() {
    in_child(|| {
        handle(libc::SIGUSR2, note_handler(), 0);
        let set = 1_u64 << (libc::SIGUSR2 - 1);
        let mut pending = 0_u64;
        if sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8) != Ok(0) {
            return 1;
        }
        let _ = sys!(kill, me(), libc::SIGUSR2);
        if SEEN.load(Ordering::Relaxed) != 0 {
            return 2;
        }
        if sys!(rt_sigpending, &raw mut pending, 8) != Ok(0) || pending & set == 0 {
            return 3;
        }
        let _ = sys!(rt_sigprocmask, libc::SIG_UNBLOCK, &raw const set, 0, 8);
        i32::from(SEEN.load(Ordering::Relaxed) != libc::SIGUSR2)
    });
}

#[test]
fn a_fault_tells_its_address() {
    in_child(|| {
        let handler = note_address as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        handle(libc::SIGSEGV, handler, libc::SA_SIGINFO);
        // SAFETY: 1. none: the fault is the point, and its handler leaves.
        unsafe { std::ptr::without_provenance_mut::<u8>(0x1000).write_volatile(1) };
        2
    });
}

/// Found by the guest fuzzer, as locks taken in the wrong order.
#[test]
fn faults_that_are_blocked_or_ignored_kill() {
    for ignored in [false, true] {
        let status = fork_status(|| {
            if ignored {
                handle(libc::SIGSEGV, libc::SIG_IGN, 0);
            } else {
                handle(libc::SIGSEGV, note_handler(), 0);
                let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, [1_u64 << (libc::SIGSEGV - 1)].as_ptr(), 0, 8);
            }
            // SAFETY: 1. none: the fault is the point.
            unsafe { std::ptr::without_provenance_mut::<u8>(16).write_volatile(1) };
            0
        });
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{ignored} {status:#x}");
    }
}

#[test]
fn faults_without_a_handler_kill() {
    let segv = fork_status(|| {
        handle(libc::SIGSEGV, libc::SIG_DFL, 0);
        // SAFETY: 1. none: the fault is the point.
        unsafe { std::ptr::without_provenance_mut::<u8>(16).write_volatile(1) };
        0
    });
    assert!(libc::WIFSIGNALED(segv) && libc::WTERMSIG(segv) == libc::SIGSEGV, "{segv:#x}");
    let ill = fork_status(|| {
        // SAFETY: 1. none: the fault is the point.
        unsafe { std::arch::asm!("ud2") };
        0
    });
    assert!(libc::WIFSIGNALED(ill) && libc::WTERMSIG(ill) == libc::SIGILL, "{ill:#x}");
    let trap = fork_status(|| {
        // SAFETY: 1. none: the trap is the point.
        unsafe { std::arch::asm!("int3") };
        0
    });
    assert!(libc::WIFSIGNALED(trap) && libc::WTERMSIG(trap) == libc::SIGTRAP, "{trap:#x}");
    let fpe = fork_status(|| {
        // SAFETY: 1. none: the fault is the point.
        unsafe { std::arch::asm!("xor edx, edx", "xor ecx, ecx", "div ecx", out("eax") _, out("edx") _, out("ecx") _) };
        0
    });
    assert!(libc::WIFSIGNALED(fpe) && libc::WTERMSIG(fpe) == libc::SIGFPE, "{fpe:#x}");
}

#[test]
fn legacy_system_call_gates_do_not_reach_the_host() {
    // int 0x80: Linux without IA32 emulation faults; with it, the 32-bit call runs. Inside, it never runs.
    if casemate_guest_tests::inside() {
        let status = fork_status(|| {
            // SAFETY: 1. 20 is getpid in the 32-bit table: harmless where it runs.
            unsafe { std::arch::asm!("int 0x80", inout("eax") 20 => _) };
            0
        });
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{status:#x}");
        // x32 numbers.
        assert_eq!(casemate_guest_tests::syscall(0x4000_0000 + 39, [0; 6]), Err(libc::ENOSYS));
    }
    assert_eq!(casemate_guest_tests::syscall(100_000, [0; 6]), Err(libc::ENOSYS));
}

#[test]
fn handlers_run_on_the_alternate_stack() {
    static INSIDE: AtomicI32 = AtomicI32::new(0);
    static START: AtomicU64 = AtomicU64::new(0);
    extern "C" fn on_stack(_signal: i32) {
        let here = 0_u8;
        let at = &raw const here as u64;
        let start = START.load(Ordering::Relaxed);
        INSIDE.store(i32::from(at >= start && at < start + 65536), Ordering::Relaxed);
    }
    in_child(|| {
        let memory = Memory::new(65536, libc::MAP_PRIVATE);
        START.store(memory.start as u64, Ordering::Relaxed);
        let stack = libc::stack_t { ss_sp: memory.start.cast(), ss_flags: 0, ss_size: memory.len };
        if sys!(sigaltstack, &raw const stack, 0) != Ok(0) {
            return 1;
        }
        handle(libc::SIGUSR1, on_stack as extern "C" fn(i32) as usize, libc::SA_ONSTACK);
        let _ = sys!(kill, me(), libc::SIGUSR1);
        let code = i32::from(INSIDE.load(Ordering::Relaxed) != 1);
        std::mem::forget(memory);
        code
    });
}

#[test]
fn floating_point_survives_a_handler() {
    extern "C" fn clobber(_signal: i32) {
        // SAFETY: 1. xmm registers are the handler's to use.
        unsafe { std::arch::asm!("pcmpeqd xmm7, xmm7", "pcmpeqd xmm0, xmm0", out("xmm7") _, out("xmm0") _) };
    }
    in_child(|| {
        handle(libc::SIGUSR1, clobber as extern "C" fn(i32) as usize, 0);
        let pid = me();
        let value = 0x1234_5678_9abc_def0_u64;
        let after: u64;
        // SAFETY: 1. a plain kill(2) with xmm7 live across it.
        unsafe {
            std::arch::asm!(
                "movq xmm7, {v}", "syscall", "movq {after}, xmm7",
                v = in(reg) value, after = lateout(reg) after,
                inout("rax") libc::SYS_kill => _, in("rdi") pid, in("rsi") i64::from(libc::SIGUSR1),
                out("rcx") _, out("r11") _, out("xmm7") _,
            );
        }
        i32::from(after != value)
    });
}

#[test]
fn an_interrupted_read_restarts_or_fails_as_asked() {
    static SHARED: AtomicU64 = AtomicU64::new(0);
    extern "C" fn tell(_signal: i32) {
        // SAFETY: 1. the page is mapped as long as the handler is set.
        unsafe { (SHARED.load(Ordering::Relaxed) as *mut u8).write_volatile(1) };
    }
    for (flags, expected) in [(libc::SA_RESTART, Ok(1)), (0, Err(libc::EINTR))] {
        let told = Memory::new(4096, libc::MAP_SHARED);
        SHARED.store(told.start as u64, Ordering::Relaxed);
        in_child(|| {
            handle(libc::SIGALRM, tell as extern "C" fn(i32) as usize, flags);
            let (read, write) = pipe(0);
            let reader = me();
            let helper = casemate_guest_tests::child(|| {
                casemate_guest_tests::until_asleep(reader, reader);
                let _ = sys!(kill, reader, libc::SIGALRM);
                // Once the handler has run, what becomes of the read is settled.
                while told.get(0) == 0 {
                    let _ = sys!(sched_yield);
                }
                let _ = sys!(write, write, b"y".as_ptr(), 1);
                0
            });
            let mut byte = 0_u8;
            let got = sys!(read, read, &raw mut byte, 1);
            let _ = sys!(wait4, helper, 0, 0, 0);
            i32::from(got != expected || told.get(0) != 1)
        });
    }
}

#[test]
fn queued_signals_keep_values_and_order() {
    in_child(|| {
        let signal = libc::SIGRTMIN() + 1;
        let set = 1_u64 << (signal - 1);
        let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8);
        for value in 0..5_usize {
            let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(value + 100) };
            // SAFETY: 1. plain values.
            if unsafe { libc::sigqueue(i32::try_from(me()).unwrap(), signal, value) } != 0 {
                return 1;
            }
        }
        for value in 0..5_usize {
            // SAFETY: 1. siginfo_t is plain data.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let zero = [0_u64; 2];
            if sys!(rt_sigtimedwait, &raw const set, &raw mut info, zero.as_ptr(), 8) != Ok(i64::from(signal)) {
                return 2;
            }
            // SAFETY: 1. the kernel filled in a queued siginfo.
            if unsafe { info.si_value() }.sival_ptr.addr() != value + 100 || info.si_code != libc::SI_QUEUE {
                return 3;
            }
        }
        let zero = [0_u64; 2];
        i32::from(sys!(rt_sigtimedwait, &raw const set, 0, zero.as_ptr(), 8) != Err(libc::EAGAIN))
    });
}

#[test]
fn sigkill_and_sigstop_cannot_be_handled() {
    for signal in [libc::SIGKILL, libc::SIGSTOP] {
        // SAFETY: 1. a handler of the right type; the call must fail.
        let old = unsafe { libc::signal(signal, note_handler()) };
        assert_eq!(old, libc::SIG_ERR);
    }
    assert_eq!(sys!(kill, me(), 65), Err(libc::EINVAL));
    assert_eq!(sys!(rt_sigprocmask, 77, std::ptr::addr_of!(ZERO), 0, 8), Err(libc::EINVAL));
    assert_eq!(sys!(rt_sigprocmask, libc::SIG_BLOCK, std::ptr::addr_of!(ZERO), 0, 4), Err(libc::EINVAL));
}

#[test]
fn sigpipe_ends_a_writer() {
    let status = fork_status(|| {
        handle(libc::SIGPIPE, libc::SIG_DFL, 0);
        let (read, write) = pipe(0);
        let _ = sys!(close, read);
        let _ = sys!(write, write, b"x".as_ptr(), 1);
        0
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGPIPE);
}

#[test]
fn nested_handlers_and_resethand() {
    in_child(|| {
        handle(libc::SIGUSR1, note_handler(), libc::SA_RESETHAND | libc::SA_NODEFER);
        let _ = sys!(kill, me(), libc::SIGUSR1);
        // SAFETY: 1. sigaction is plain data.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: 1. `action` outlives the call.
        unsafe { libc::sigaction(libc::SIGUSR1, std::ptr::null(), &raw mut action) };
        i32::from(action.sa_sigaction != libc::SIG_DFL)
    });
}

extern "C" fn note_alignment(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: 1. the kernel passes a siginfo.
    WHERE.store(u64::from(unsafe { (*info).si_code }.cast_unsigned()), Ordering::Relaxed);
    SEEN.store(signal, Ordering::Relaxed);
    // SAFETY: 1. the kernel passes a ucontext.
    let flags = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] };
    // Not to be told any more: the access is done again.
    *flags &= !(1 << 18);
}

/// A program may want to hear of unaligned accesses (EFLAGS.AC). Its calls go on, and it is told as often as it asks.
#[test]
fn unaligned_accesses_are_told() {
    in_child(|| {
        let handler = note_alignment as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        handle(libc::SIGBUS, handler, libc::SA_SIGINFO);
        let words = [0x0102_0304_0506_0708_u64; 2];
        for turn in 0..3 {
            SEEN.store(0, Ordering::Relaxed);
            let (mut call, value): (u64, u64);
            // SAFETY: 1. the flag is switched off by the handler; 2. getpid takes no memory; 3. the word is inside `words`.
            unsafe {
                std::arch::asm!(
                    "pushfq",
                    "or qword ptr [rsp], 0x40000",
                    "popfq",
                    "mov eax, 39",
                    "syscall",
                    "mov {call}, rax",
                    "mov {value}, [{at} + 1]",
                    call = out(reg) call,
                    value = out(reg) value,
                    at = in(reg) words.as_ptr(),
                    out("rax") _, out("rcx") _, out("r11") _,
                );
            }
            call ^= me().cast_unsigned();
            let told = (SEEN.load(Ordering::Relaxed), WHERE.load(Ordering::Relaxed));
            // BUS_ADRALN.
            if call != 0 || value != 0x0801_0203_0405_0607 || told != (libc::SIGBUS, 1) {
                return turn + 1;
            }
        }
        0
    });
}
