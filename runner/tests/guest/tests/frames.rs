//! Signal frames as the handler finds them, and what of them counts on the way back: sigaction(2), rt_sigreturn(2),
//! sigaltstack(2). Stacks that cannot take a frame, frames that are none.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use casemate_guest_tests::signals::{SI_KERNEL, bit, pending};
use casemate_guest_tests::{Memory, in_child, steps, sys};

const SS_ONSTACK: i32 = 1;
const SS_DISABLE: i32 = 2;
const SS_AUTODISARM: i32 = 1 << 31;
const UC_FP_XSTATE: u64 = 1;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// Where the notes of the kernel lie in a frame's extended state, and its fields.
const NOTES: usize = 464;
const XSTATE_BV: usize = 512;
const MXCSR: usize = 24;
/// The registers xmm7 in a frame's extended state.
const XMM7: usize = 160 + 7 * 16;
const STACK: usize = 65536;

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t);

fn handle(signal: i32, handler: Handler, flags: i32) {
    // SAFETY: 1. sigaction is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | flags;
    // SAFETY: 1. `action` lives across the call and names a handler of the right type.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
}

/// How a child ends that does `body` without the handler that Rust's runtime has for faults.
fn fork_status(body: impl FnOnce() -> i32) -> i32 {
    casemate_guest_tests::fork_status(|| {
        // SAFETY: 1. a plain change of the action.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        body()
    })
}

fn raise(signal: i32) {
    let _ = sys!(tgkill, sys!(getpid).unwrap_or(0), sys!(gettid).unwrap_or(0), signal);
}

/// Asks for an alternate stack at `start`; none where the size is 0.
fn set_stack(start: u64, flags: i32, size: usize) -> Result<i64, i32> {
    let stack = libc::stack_t { ss_sp: start as *mut _, ss_flags: flags, ss_size: size };
    sys!(sigaltstack, &raw const stack, 0)
}

/// The alternate stack now: start, flags, size.
fn stack_now() -> (u64, i32, usize) {
    // SAFETY: 1. plain data.
    let mut now: libc::stack_t = unsafe { std::mem::zeroed() };
    let _ = sys!(sigaltstack, 0, &raw mut now);
    (now.ss_sp as u64, now.ss_flags, now.ss_size)
}

fn stack() -> u64 {
    let memory = Memory::new(STACK, libc::MAP_PRIVATE);
    let start = memory.start as u64;
    // For as long as the process lives.
    std::mem::forget(memory);
    start
}

static FIRST: AtomicU64 = AtomicU64::new(0);
static SECOND: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicI32 = AtomicI32::new(0);
static RAN: AtomicI32 = AtomicI32::new(0);

/// Notes the first of the checks of a handler that failed, by its number.
fn check(at: i32, passed: bool) {
    if !passed {
        let _ = FAILED.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn is_on(start: &AtomicU64) -> bool {
    let here = 0_u8;
    let at = &raw const here as u64;
    (start.load(Ordering::Relaxed)..start.load(Ordering::Relaxed) + STACK as u64).contains(&at)
}

fn kept_stack(context: *mut libc::ucontext_t) -> (u64, i32, usize) {
    // SAFETY: 1. the kernel's frame, while the handler runs.
    let stack = unsafe { (*context).uc_stack };
    (stack.ss_sp as u64, stack.ss_flags, stack.ss_size)
}

#[test]
fn a_stack_that_disarms_itself_can_be_left_and_entered_again() {
    extern "C" fn inner(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
        check(11, is_on(&SECOND));
        check(12, stack_now() == (0, SS_DISABLE, 0));
        check(13, kept_stack(context) == (SECOND.load(Ordering::Relaxed), SS_AUTODISARM, STACK));
        RAN.fetch_add(1, Ordering::Relaxed);
    }
    extern "C" fn outer(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
        check(1, is_on(&FIRST));
        check(2, stack_now() == (0, SS_DISABLE, 0));
        check(3, kept_stack(context) == (FIRST.load(Ordering::Relaxed), SS_AUTODISARM, STACK));
        // As after swapcontext(3): the program goes on elsewhere, with another stack.
        let second = SECOND.load(Ordering::Relaxed);
        check(4, set_stack(second, SS_AUTODISARM, STACK) == Ok(0));
        raise(libc::SIGUSR2);
        check(5, RAN.load(Ordering::Relaxed) == 1);
        check(6, stack_now() == (second, SS_AUTODISARM, STACK));
    }
    in_child(|| {
        FIRST.store(stack(), Ordering::Relaxed);
        SECOND.store(stack(), Ordering::Relaxed);
        let first = FIRST.load(Ordering::Relaxed);
        handle(libc::SIGUSR1, outer, libc::SA_ONSTACK);
        handle(libc::SIGUSR2, inner, libc::SA_ONSTACK);
        assert_eq!(set_stack(first, SS_AUTODISARM, STACK), Ok(0));
        raise(libc::SIGUSR1);
        check(20, stack_now() == (first, SS_AUTODISARM, STACK));
        // It is given back to a handler that runs elsewhere, too.
        check(21, RAN.load(Ordering::Relaxed) == 1);
        FAILED.load(Ordering::Relaxed)
    });
}

#[test]
fn a_stack_in_use_stays_as_it_is() {
    extern "C" fn inner(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
        check(11, is_on(&FIRST));
        // What the frame keeps are the flags that were asked for, not whether it is in use.
        check(12, kept_stack(context) == (FIRST.load(Ordering::Relaxed), 0, STACK));
        check(13, stack_now() == (FIRST.load(Ordering::Relaxed), SS_ONSTACK, STACK));
    }
    extern "C" fn outer(_: i32, _: *mut libc::siginfo_t, _: *mut libc::ucontext_t) {
        check(1, set_stack(SECOND.load(Ordering::Relaxed), 0, STACK) == Err(libc::EPERM));
        check(2, set_stack(0, SS_DISABLE, 0) == Err(libc::EPERM));
        raise(libc::SIGUSR2);
        check(3, stack_now() == (FIRST.load(Ordering::Relaxed), SS_ONSTACK, STACK));
    }
    in_child(|| {
        FIRST.store(stack(), Ordering::Relaxed);
        SECOND.store(stack(), Ordering::Relaxed);
        handle(libc::SIGUSR1, outer, libc::SA_ONSTACK);
        handle(libc::SIGUSR2, inner, libc::SA_ONSTACK);
        check(20, set_stack(FIRST.load(Ordering::Relaxed), SS_ONSTACK, STACK) == Ok(0));
        // The flag says nothing when it is set.
        check(21, stack_now().1 == SS_ONSTACK || stack_now().1 == 0);
        check(22, set_stack(FIRST.load(Ordering::Relaxed), 0, STACK) == Ok(0));
        raise(libc::SIGUSR1);
        FAILED.load(Ordering::Relaxed)
    });
}

/// Sends itself `signal` with this stack pointer; what it does then is the handler's, or nobody's.
fn raise_with_stack(signal: i32, stack: u64) -> ! {
    let (pid, tid) = (sys!(getpid).unwrap_or(0), sys!(gettid).unwrap_or(0));
    // SAFETY: 1. it does not return; 2. after the change of the stack there are only registers.
    unsafe {
        asm!(
            "mov rsp, {stack}", "syscall", "mov edi, 55", "mov eax, 231", "syscall", "ud2",
            stack = in(reg) stack, in("rax") libc::SYS_tgkill, in("rdi") pid, in("rsi") tid, in("rdx") i64::from(signal),
            options(noreturn),
        )
    }
}

fn killed_by(status: i32, signal: i32) -> bool {
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == signal
}

#[test]
fn a_stack_that_takes_no_frame_is_a_fault() {
    extern "C" fn never(_: i32, _: *mut libc::siginfo_t, _: *mut libc::ucontext_t) {
        let _ = sys!(exit_group, 44);
    }
    extern "C" fn told(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::ucontext_t) {
        // SAFETY: 1. the kernel's siginfo, of 128 bytes.
        let words = unsafe { info.cast::<[i32; 6]>().read() };
        let right = signal == libc::SIGSEGV && words[2] == SI_KERNEL && words[4..] == [0, 0];
        let _ = sys!(exit_group, if right && is_on(&FIRST) { 0 } else { 45 });
    }
    let read_only = Memory::new(STACK, libc::MAP_PRIVATE);
    assert_eq!(sys!(mprotect, read_only.start, STACK, libc::PROT_READ), Ok(0));
    // Nowhere, at the first page, where nothing may be written, past all addresses.
    for place in [16, 4096, read_only.start as u64 + STACK as u64, 0x7fff_ffff_f000, 1 << 63, u64::MAX - 7] {
        let status = fork_status(|| {
            handle(libc::SIGUSR1, never, 0);
            raise_with_stack(libc::SIGUSR1, place)
        });
        assert!(killed_by(status, libc::SIGSEGV), "{place:x}: {status:#x}");
        // A handler of SIGSEGV on a sound stack hears of it.
        let status = fork_status(|| {
            FIRST.store(stack(), Ordering::Relaxed);
            assert_eq!(set_stack(FIRST.load(Ordering::Relaxed), 0, STACK), Ok(0));
            handle(libc::SIGUSR1, never, 0);
            handle(libc::SIGSEGV, told, libc::SA_ONSTACK);
            raise_with_stack(libc::SIGUSR1, place)
        });
        assert_eq!(status, 0, "{place:x}");
        // One that is blocked or ignored does not help.
        let status = fork_status(|| {
            handle(libc::SIGUSR1, never, 0);
            // SAFETY: 1. a plain change of the action.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_IGN) };
            raise_with_stack(libc::SIGUSR1, place)
        });
        assert!(killed_by(status, libc::SIGSEGV), "{place:x}: {status:#x}");
    }
}

#[test]
fn an_alternate_stack_that_overflows_kills() {
    extern "C" fn again(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::ucontext_t) {
        RAN.fetch_add(1, Ordering::Relaxed);
        if RAN.load(Ordering::Relaxed) > 10_000 {
            let _ = sys!(exit_group, 44);
        }
        raise(signal);
    }
    // Below the stack there is memory that a frame would fit into: it is the bounds that count.
    let status = fork_status(|| {
        let low = stack();
        assert_eq!(set_stack(low + STACK as u64 / 2, 0, STACK / 2), Ok(0));
        handle(libc::SIGUSR1, again, libc::SA_ONSTACK | libc::SA_NODEFER);
        raise(libc::SIGUSR1);
        46
    });
    assert!(killed_by(status, libc::SIGSEGV), "{status:#x}");
}

/// rt_sigreturn(2) with this stack pointer.
fn return_from(stack: u64) -> ! {
    // SAFETY: 1. it does not return; what the frame says happens, or the process dies.
    unsafe { asm!("mov rsp, {}", "syscall", "ud2", in(reg) stack, in("rax") libc::SYS_rt_sigreturn, options(noreturn)) }
}

#[test]
fn a_frame_that_is_none_is_a_fault() {
    let page = Memory::new(STACK, libc::MAP_PRIVATE);
    let middle = page.start as u64 + STACK as u64 / 2;
    for place in [0, 16, 0x7fff_ffff_f000, 1 << 63, u64::MAX - 7, page.start as u64 + STACK as u64 - 64] {
        let status = fork_status(|| return_from(place));
        assert!(killed_by(status, libc::SIGSEGV), "{place:x}: {status:#x}");
    }
    for fill in [0_u8, 0x01, 0x55, 0x80, 0xff] {
        for at in 0..STACK {
            page.set(at, fill);
        }
        let status = fork_status(|| return_from(middle));
        assert!(killed_by(status, libc::SIGSEGV), "{fill:x}: {status:#x}");
    }
}

/// What a handler does to its frame before it returns.
static DAMAGE: AtomicUsize = AtomicUsize::new(0);

fn put<T: Copy>(at: usize, value: T) {
    // SAFETY: 1. the callers pass addresses in the frame of the handler that they are called by.
    unsafe { (at as *mut T).write_unaligned(value) }
}

fn get<T: Copy>(at: usize) -> T {
    // SAFETY: 1. as above.
    unsafe { (at as *const T).read_unaligned() }
}

/// Bytes of extended state in a frame, without the closing magic.
fn state_len(state: usize) -> usize {
    get::<u32>(state + NOTES + 16) as usize
}

#[test]
fn what_cannot_be_restored_is_a_fault() {
    extern "C" fn damage(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
        // SAFETY: 1. the kernel's frame, while the handler runs.
        let context = unsafe { &mut *context };
        let state = context.uc_mcontext.fpregs as usize;
        match DAMAGE.load(Ordering::Relaxed) {
            0 => context.uc_mcontext.fpregs = 16 as *mut _,
            1 => context.uc_mcontext.fpregs = (1_usize << 63) as *mut _,
            2 => put(state + MXCSR, 0xffff_0000_u32),
            // Components that no CPU has, a header that must be zero.
            3 => put(state + XSTATE_BV, 1_u64 << 62),
            4 => put(state + XSTATE_BV + 16, 1_u64),
            5 => context.uc_mcontext.gregs[libc::REG_RIP as usize] = i64::MIN,
            6 => context.uc_mcontext.gregs[libc::REG_RIP as usize] = 0x7fff_ffff_f000,
            _ => context.uc_mcontext.gregs[libc::REG_CSGSFS as usize] = 0x10,
        }
    }
    for kind in 0..8 {
        let status = fork_status(|| {
            DAMAGE.store(kind, Ordering::Relaxed);
            handle(libc::SIGUSR1, damage, 0);
            raise(libc::SIGUSR1);
            47
        });
        assert!(killed_by(status, libc::SIGSEGV), "{kind}: {status:#x}");
    }
}

/// Offset of the upper halves of the AVX registers, where there are any.
fn upper_halves() -> Option<usize> {
    std::is_x86_feature_detected!("avx").then(|| __cpuid_count(0xd, 2).ebx as usize)
}

/// Sends SIGUSR1 with `before` in ymm7 and 1 to 4 in registers; what they hold after the handler.
fn through_a_handler(before: [u64; 4]) -> ([u64; 4], [u64; 2]) {
    let (pid, tid) = (sys!(getpid).unwrap(), sys!(gettid).unwrap());
    let mut after = [0_u64; 4];
    let (mut twelve, mut thirteen) = (12_u64, 13_u64);
    // SAFETY: 1. a plain tgkill(2) with ymm7 live across it; 2. both arrays are 32 bytes.
    unsafe {
        asm!(
            "vmovdqu ymm7, [r8]", "syscall", "vmovdqu [r9], ymm7", "vzeroupper",
            in("r8") before.as_ptr(), in("r9") after.as_mut_ptr(), inout("r12") twelve, inout("r13") thirteen,
            inout("rax") libc::SYS_tgkill => _, in("rdi") pid, in("rsi") tid, in("rdx") i64::from(libc::SIGUSR1),
            out("rcx") _, out("r11") _, out("xmm7") _,
        );
    }
    (after, [twelve, thirteen])
}

const BEFORE: [u64; 4] = [11, 12, 13, 14];
const CHANGED: [u64; 4] = [0xa1, 0xa2, 0xa3, 0xa4];

/// Whether the frame says what Linux says of its extended state; changes it as [`DAMAGE`] says.
extern "C" fn look(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    let Some(upper) = upper_halves() else { return };
    // SAFETY: 1. the kernel's frame, while the handler runs.
    let context = unsafe { &mut *context };
    let state = context.uc_mcontext.fpregs as usize;
    let size = state_len(state);
    check(1, context.uc_flags & UC_FP_XSTATE != 0);
    check(2, state.is_multiple_of(64));
    check(3, get::<u32>(state + NOTES) == MAGIC1);
    check(4, get::<u32>(state + NOTES + 4) as usize == size + 4);
    check(5, get::<u64>(state + NOTES + 8) & 7 == 7);
    check(6, get::<u32>(state + size) == MAGIC2);
    check(7, get::<u64>(state + XSTATE_BV) & 7 == 7);
    check(8, get::<[u64; 2]>(state + XMM7) == [BEFORE[0], BEFORE[1]]);
    check(9, get::<[u64; 2]>(state + upper + 7 * 16) == [BEFORE[2], BEFORE[3]]);
    check(10, context.uc_mcontext.gregs[libc::REG_R12 as usize] == 12);
    context.uc_mcontext.gregs[libc::REG_R13 as usize] = 1313;
    put(state + XMM7, [CHANGED[0], CHANGED[1]]);
    put(state + upper + 7 * 16, [CHANGED[2], CHANGED[3]]);
    match DAMAGE.load(Ordering::Relaxed) {
        1 => put(state + size, 0_u32),
        2 => put(state + NOTES, 0_u32),
        // The upper halves are in their initial state.
        3 => put(state + XSTATE_BV, 3_u64),
        // Nothing of it is wanted.
        4 => put(state + NOTES + 8, 3_u64),
        5 => context.uc_mcontext.fpregs = std::ptr::null_mut(),
        // A longer area than there is.
        6 => put(state + NOTES + 16, u32::MAX),
        _ => {}
    }
    // What it uses itself is not the program's.
    // SAFETY: 1. vector registers are the handler's to use.
    unsafe { asm!("vpcmpeqd xmm7, xmm7, xmm7", "vzeroupper", out("xmm7") _) };
}

#[test]
fn a_handler_changes_what_it_returns_to() {
    if upper_halves().is_none() {
        return;
    }
    let [a, b, ..] = CHANGED;
    let expected = [CHANGED, [a, b, 0, 0], [a, b, 0, 0], [a, b, 0, 0], [a, b, 0, 0], [0; 4], [a, b, 0, 0]];
    for (kind, expected) in expected.into_iter().enumerate() {
        in_child(|| {
            DAMAGE.store(kind, Ordering::Relaxed);
            handle(libc::SIGUSR1, look, 0);
            let (after, [twelve, thirteen]) = through_a_handler(BEFORE);
            match FAILED.load(Ordering::Relaxed) {
                0 if after != expected => 20,
                0 => steps(&[twelve == 12, thirteen == 1313]),
                failed => failed,
            }
        });
    }
}

#[test]
fn the_mask_that_a_handler_leaves_counts() {
    extern "C" fn mask(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
        let set = bit(libc::SIGUSR2) | bit(libc::SIGKILL) | bit(libc::SIGSTOP);
        put(context as usize + std::mem::offset_of!(libc::ucontext_t, uc_sigmask), set);
    }
    in_child(|| {
        handle(libc::SIGUSR1, mask, 0);
        raise(libc::SIGUSR1);
        let mut now = 0_u64;
        let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, 0, &raw mut now, 8);
        raise(libc::SIGUSR2);
        steps(&[now == bit(libc::SIGUSR2), pending(libc::SIGUSR2)])
    });
}
