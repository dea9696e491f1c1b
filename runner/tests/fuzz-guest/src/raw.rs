//! System calls by number, a child that makes a list of calls without ever touching a stack, and accesses that may fault.

use std::arch::{asm, global_asm};

/// A call: number and arguments.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Call {
    pub(crate) nr: u64,
    pub(crate) args: [u64; 6],
}

/// Makes a call.
///
/// # Safety
/// The call may do anything to this process. The caller must be one that nobody minds to lose, or the call harmless.
pub(crate) unsafe fn call(nr: u64, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the caller answers for what the call does; registers are as the kernel's interface has them.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// Makes `clone`, one of the fork family; the child makes the calls of `list` and exits. rt_sigreturn takes its stack
/// pointer as first argument.
///
/// # Safety
/// As [`call`]. `list` must stay readable until the child is done with it, or the child makes other calls.
pub(crate) unsafe fn spawn(clone: Call, list: *const Call, count: usize) -> i64 {
    let result: i64;
    let args = clone.args;
    // SAFETY: as in `call`; the child never leaves the assembly, and uses neither the stack nor thread-local data.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 4f",
            "2:",
            "test r13, r13",
            "jz 3f",
            "mov rax, [r12]",
            "mov rdi, [r12 + 8]",
            "mov rsi, [r12 + 16]",
            "mov rdx, [r12 + 24]",
            "mov r10, [r12 + 32]",
            "mov r8, [r12 + 40]",
            "mov r9, [r12 + 48]",
            "cmp rax, 15",
            "jne 5f",
            "mov rsp, rdi",
            "5:",
            "syscall",
            "add r12, 56",
            "dec r13",
            "jmp 2b",
            "3:",
            "mov eax, 60",
            "mov edi, 7",
            "syscall",
            "jmp 3b",
            "4:",
            inlateout("rax") clone.nr => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            in("r12") list, in("r13") count,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

global_asm!(
    ".global casemate_fuzz_touch",
    "casemate_fuzz_touch:",
    "mov al, [rdi]",
    "test esi, esi",
    "jz 2f",
    "mov [rdi], al",
    "2:",
    "xor eax, eax",
    "ret",
    ".global casemate_fuzz_touch_end",
    "casemate_fuzz_touch_end:",
    "mov eax, 1",
    "ret",
    ".global casemate_fuzz_exit",
    "casemate_fuzz_exit:",
    "mov eax, 60",
    "mov edi, 9",
    "syscall",
    "jmp casemate_fuzz_exit",
);

unsafe extern "C" {
    safe fn casemate_fuzz_touch(at: u64, write: i32) -> i32;
    safe fn casemate_fuzz_touch_end();
    safe fn casemate_fuzz_exit();
}

/// Reads a byte at `at`, and writes it back if `write` is not 0. A fault is caught by [`on_fault`].
pub(crate) fn touch(at: u64, write: i32) {
    let _ = casemate_fuzz_touch(at, write);
}

/// Address of code that ends the thread.
pub(crate) fn exit_code() -> u64 {
    casemate_fuzz_exit as *const () as u64
}

/// Bytes from a signal frame's start to the interrupted registers' rip, and to the pointer to floating-point state.
const RIP: usize = 8 + 40 + 16 * 8;
const FP: usize = 8 + 40 + 23 * 8;
/// Bytes of a frame that are kept.
pub(crate) const FRAME: usize = 4096;

static FRAME_TO: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// Handler of faults: one in [`touch`] goes on behind it, any other ends the process.
extern "C" fn on_fault(_sig: i32, _info: *const u8, context: *mut u64) {
    // SAFETY: the kernel passes the frame's ucontext, whose registers begin 40 bytes in, rip the 17th.
    let rip = unsafe { context.add(RIP / 8 - 1) };
    // SAFETY: as above.
    let at = unsafe { *rip };
    let end = casemate_fuzz_touch_end as *const () as u64;
    if (casemate_fuzz_touch as *const () as u64..end).contains(&at) {
        // SAFETY: as above.
        unsafe { *rip = end };
        return;
    }
    // SAFETY: ends this process alone.
    unsafe { call(libc::SYS_exit_group.cast_unsigned(), [139, 0, 0, 0, 0, 0]) };
}

extern "C" fn on_signal(_sig: i32) {}

/// Keeps a copy of its own frame at `FRAME_TO`, with a pointer to its floating-point state that fits the copy.
extern "C" fn on_frame(_sig: i32, _info: *const u8, context: *const u8) {
    let to = FRAME_TO.load(std::sync::atomic::Ordering::Relaxed);
    let from = context as u64 - 8;
    // SAFETY: the frame is on an alternate stack of more than FRAME bytes above it; `to` has FRAME bytes.
    unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, FRAME) };
    let field = (to + FP as u64) as *mut u64;
    // SAFETY: inside the copy.
    let state = unsafe { field.read_unaligned() };
    // SAFETY: as above.
    unsafe { field.write_unaligned(state.wrapping_sub(from).wrapping_add(to)) };
    // SAFETY: as above.
    unsafe { ((to + RIP as u64) as *mut u64).write_unaligned(exit_code()) };
}

/// Addresses of handlers that do nothing.
pub(crate) fn handler() -> u64 {
    on_signal as *const () as u64
}

unsafe extern "C" {
    fn casemate_fuzz_restorer();
}

global_asm!(".global casemate_fuzz_restorer", "casemate_fuzz_restorer:", "mov eax, 15", "syscall",);

/// Address of the code that handlers return to.
pub(crate) fn restorer() -> u64 {
    casemate_fuzz_restorer as *const () as u64
}

/// `struct sigaction` as the kernel has it.
#[repr(C)]
struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

const SA_SIGINFO: u64 = 4;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_ONSTACK: u64 = 0x0800_0000;

fn set_action(sig: u64, handler: u64, flags: u64) {
    let action = Action { handler, flags: flags | SA_RESTORER, restorer: restorer(), mask: 0 };
    // SAFETY: `action` is a sigaction with a handler of this program.
    unsafe { call(libc::SYS_rt_sigaction.cast_unsigned(), [sig, &raw const action as u64, 0, 8, 0, 0]) };
}

/// Gives every signal a handler, and captures a signal frame at `frame`, which has [`FRAME`] bytes; `stack` has
/// `stack_len` and is used for that.
pub(crate) fn set_handlers(frame: u64, stack: u64, stack_len: u64) {
    FRAME_TO.store(frame, std::sync::atomic::Ordering::Relaxed);
    let alternate = [stack, 0, stack_len];
    // SAFETY: the stack is mapped and nobody else's.
    unsafe { call(libc::SYS_sigaltstack.cast_unsigned(), [alternate.as_ptr() as u64, 0, 0, 0, 0, 0]) };
    set_action(10, on_frame as *const () as u64, SA_SIGINFO | SA_ONSTACK);
    // SAFETY: takes no pointers.
    let pid = unsafe { call(libc::SYS_getpid.cast_unsigned(), [0; 6]) }.cast_unsigned();
    // SAFETY: the signal has a handler.
    unsafe { call(libc::SYS_kill.cast_unsigned(), [pid, 10, 0, 0, 0, 0]) };
    let none = [0_u64, 2, 0];
    // SAFETY: as above.
    unsafe { call(libc::SYS_sigaltstack.cast_unsigned(), [none.as_ptr() as u64, 0, 0, 0, 0, 0]) };
    for sig in (1..=64).filter(|sig| ![9, 19].contains(sig)) {
        match sig {
            7 | 11 => set_action(sig, on_fault as *const () as u64, SA_SIGINFO),
            _ => set_action(sig, handler(), 0),
        }
    }
}
