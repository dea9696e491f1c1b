//! Calls made so often that inside they are patched: what a program can see of it must be nothing.

use std::arch::{asm, global_asm};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use casemate_guest_tests::{in_child, sys};

// One call site that the tests know, as C libraries have them: `hot_site` makes call `rdi` with `rsi` as its argument.
global_asm!(
    ".pushsection .text.hot_site, \"ax\", @progbits",
    ".globl hot_site",
    ".globl hot_site_call",
    ".globl hot_site_after",
    ".globl hot_site_end",
    ".balign 64",
    "hot_site:",
    "mov rax, rdi",
    "mov rdi, rsi",
    "hot_site_call:",
    "syscall",
    "hot_site_after:",
    "cmp rax, -4096",
    "ja 2f",
    "ret",
    "2: neg rax",
    "ret",
    "hot_site_end:",
    ".popsection",
);

// One with two short instructions behind it: answers call `rdi`'s result in rax, and its negative, which may be jumped to.
global_asm!(
    ".pushsection .text.short_site, \"ax\", @progbits",
    ".globl short_site",
    ".globl short_site_second",
    ".balign 64",
    "short_site:",
    "mov eax, edi",
    "syscall",
    "mov ecx, eax",
    "short_site_second:",
    "neg ecx",
    "mov rdx, rcx",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    static short_site: u8;
    static short_site_second: u8;
    fn hot_site(nr: u64, arg: u64) -> u64;
    static hot_site_call: u8;
    static hot_site_after: u8;
}

fn hot(nr: i64, arg: u64) -> u64 {
    // SAFETY: 1. the callers pass calls that take no pointer.
    unsafe { hot_site(nr as u64, arg) }
}

/// Calls until any kernel that patches has done so.
fn heat() {
    for _ in 0..200 {
        hot(libc::SYS_getppid, 0);
    }
}

fn site() -> usize {
    (&raw const hot_site_call).addr()
}

/// Parts of the address space that may be executed, as listed.
fn executable() -> Vec<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of = |line: &str| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    };
    maps.lines().filter(|line| line.contains("x")).filter_map(of).collect()
}

#[test]
fn hot_calls_return_what_they_always_did() {
    let parent = sys!(getppid).unwrap() as u64;
    for round in 0..20_000 {
        assert_eq!(hot(libc::SYS_getppid, 0), parent, "round {round}");
        assert_eq!(hot(libc::SYS_close, 4_000_000), libc::EBADF as u64, "round {round}");
    }
}

#[test]
fn threads_call_while_sites_change() {
    let parent = sys!(getppid).unwrap() as u64;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(hot(libc::SYS_getppid, 0), parent);
                    assert_eq!(sys!(getppid), Ok(parent as i64));
                }
            });
        }
        // Writable text is nobody's but the program's, executable text may change again.
        let page = site() & !4095;
        let protect = |prot| assert_eq!(sys!(mprotect, page, 4096, prot), Ok(0));
        for _ in 0..200 {
            protect(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
            for _ in 0..20 {
                assert_eq!(hot(libc::SYS_getppid, 0), parent);
            }
            protect(libc::PROT_READ | libc::PROT_EXEC);
            for _ in 0..20 {
                assert_eq!(hot(libc::SYS_getppid, 0), parent);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_instruction_after_a_call_can_be_jumped_to() {
    heat();
    for value in [0_u64, 1, 4711, 7_u64.wrapping_neg()] {
        let result = after(value);
        let expected = if value == 7_u64.wrapping_neg() { 7 } else { value };
        assert_eq!(result, expected);
    }
}

/// Goes to `entry` in [`short_site`] with `value`: the call's number, or its result; answers the result and its negative.
fn short(entry: *const u8, value: u32) -> (u32, u32) {
    let (result, negative): (u64, u64);
    // SAFETY: 1. the code there makes a call that takes no pointer, or none, and returns to where this calls it.
    unsafe {
        asm!(
            "call {entry}", entry = in(reg) entry, in("edi") value, inout("ecx") value => _,
            lateout("rax") result, lateout("rdx") negative, clobber_abi("C"),
        );
    }
    (result as u32, negative as u32)
}

/// Goes to the instruction behind the call of [`hot_site`] with `value` as its result.
fn after(value: u64) -> u64 {
    let after = (&raw const hot_site_after).addr();
    let result: u64;
    // SAFETY: 1. the code there compares rax, maybe negates it, and returns to where this calls it.
    unsafe { asm!("call {after}", after = in(reg) after, inout("rax") value => result, clobber_abi("C")) };
    result
}

#[test]
fn so_can_both_instructions_where_they_are_short() {
    let parent = sys!(getppid).unwrap() as u32;
    for _ in 0..2_000 {
        let call = short(&raw const short_site, libc::SYS_getppid as u32);
        assert_eq!(call, (parent, parent.wrapping_neg()));
    }
    for value in [0, 1, 4711, u32::MAX] {
        assert_eq!(short(&raw const short_site_second, value).1, value.wrapping_neg());
    }
}

/// Sites become jumps and instructions again under threads that call, and under one that jumps into their middle. With
/// `CASEMATE_LONG` until five million calls are made.
#[test]
fn calls_and_jumps_are_right_while_sites_change() {
    let long = std::env::var_os("CASEMATE_LONG").is_some();
    let calls_wanted: u64 = if long { 5_000_000 } else { 20_000 };
    let parent = sys!(getppid).unwrap() as u32;
    let calls = AtomicU64::new(0);
    let begun = Instant::now();
    let goes_on = || calls.load(Ordering::Relaxed) < calls_wanted && begun.elapsed() < Duration::from_secs(100);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while goes_on() {
                    for _ in 0..50 {
                        assert_eq!(hot(libc::SYS_close, 4_000_000), libc::EBADF as u64);
                        let call = short(&raw const short_site, libc::SYS_getppid as u32);
                        assert_eq!(call, (parent, parent.wrapping_neg()));
                    }
                    calls.fetch_add(100, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            let mut value = 1_u32;
            while goes_on() {
                value = value.wrapping_mul(3) >> 1 | 1;
                assert_eq!(after(u64::from(value)), u64::from(value));
                assert_eq!(short(&raw const short_site_second, value).1, value.wrapping_neg());
            }
        });
        let sites = [site(), (&raw const short_site).addr()];
        let protect = |prot| {
            for site in sites {
                assert_eq!(sys!(mprotect, site & !4095, 8192, prot), Ok(0));
            }
        };
        while goes_on() {
            protect(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
            protect(libc::PROT_READ | libc::PROT_EXEC);
            // Until calls have trapped often enough to be patched again.
            let before = calls.load(Ordering::Relaxed);
            while goes_on() && calls.load(Ordering::Relaxed) < before + 500 {
                std::thread::yield_now();
            }
        }
    });
    assert!(calls.load(Ordering::Relaxed) >= calls_wanted / 20);
}

static OUTSIDE: AtomicUsize = AtomicUsize::new(0);
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static mut TEXT: [(usize, usize); 64] = [(0, 0); 64];

extern "C" fn look(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: 1. the kernel passes a valid context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let ip = context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
    let text = &raw const TEXT;
    // SAFETY: 1. written before the handler was installed.
    let listed = unsafe { (*text).iter() }.any(|(start, end)| (*start..*end).contains(&ip));
    // Never between the bytes of the call.
    if !listed || ip == site() + 1 {
        OUTSIDE.store(ip, Ordering::Relaxed);
    }
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn handlers_see_instruction_pointers_of_the_program() {
    in_child(|| {
        heat();
        let text = executable();
        if text.len() > 64 {
            return 10;
        }
        let table = &raw mut TEXT;
        for (slot, range) in text.into_iter().enumerate() {
            // SAFETY: 1. no handler runs yet, and the child has one thread.
            unsafe { (*table)[slot] = range };
        }
        // SAFETY: 1. sigaction is plain data.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = look as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        let every = libc::timeval { tv_sec: 0, tv_usec: 200 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        // SAFETY: 1. `action` lives across the call and names a handler of the right type.
        if unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) } != 0 {
            return 11;
        }
        let parent = hot(libc::SYS_getppid, 0);
        if sys!(setitimer, libc::ITIMER_REAL, &raw const timer, 0) != Ok(0) {
            return 12;
        }
        let begun = Instant::now();
        while SIGNALS.load(Ordering::Relaxed) < 300 && begun.elapsed() < Duration::from_secs(20) {
            for _ in 0..50 {
                if hot(libc::SYS_getppid, 0) != parent {
                    return 13;
                }
            }
        }
        match OUTSIDE.load(Ordering::Relaxed) {
            0 if SIGNALS.load(Ordering::Relaxed) >= 300 => 0,
            0 => 14,
            _ => 15,
        }
    });
}

#[test]
fn text_reads_as_the_file_has_it() {
    use std::os::unix::fs::FileExt;
    let mut before = [0; 16];
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    memory.read_exact_at(&mut before, site() as u64).unwrap();
    assert_eq!(before[..2], [0x0f, 0x05]);
    heat();
    let mut after = [0; 16];
    memory.read_exact_at(&mut after, site() as u64).unwrap();
    assert_eq!(before, after);
    // So does write(2).
    let (read, write) = casemate_guest_tests::pipe(0);
    assert_eq!(sys!(write, write, site(), 16), Ok(16));
    assert_eq!(sys!(read, read, after.as_mut_ptr(), 16), Ok(16));
    assert_eq!(before, after);
}

#[test]
fn a_program_may_rewrite_its_own_text() {
    in_child(|| {
        heat();
        let page = site() & !4095;
        if sys!(mprotect, page, 8192, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) != Ok(0) {
            return 1;
        }
        let bytes = site() as *mut [u8; 2];
        // SAFETY: 1. the page is mapped and readable.
        let found = unsafe { bytes.read_volatile() };
        // SAFETY: 1. it is writable, and this is the only thread; nop nop: no call is made.
        unsafe { bytes.write_volatile([0x90, 0x90]) };
        let unchanged = hot(1234, 0);
        // SAFETY: 1. as above.
        unsafe { bytes.write_volatile([0x0f, 0x05]) };
        let parent = hot(libc::SYS_getppid, 0);
        casemate_guest_tests::steps(&[found == [0x0f, 0x05], unchanged == 1234, sys!(getppid) == Ok(parent as i64)])
    });
}

#[test]
fn a_gs_base_of_the_programs_own_is_kept() {
    in_child(|| {
        const ARCH_SET_GS: u64 = 0x1001;
        const ARCH_GET_GS: u64 = 0x1004;
        heat();
        let value = 0x1122_3344_5566_7788_u64;
        let mut base = 1_u64;
        let none = sys!(arch_prctl, ARCH_GET_GS, &raw mut base) == Ok(0) && base == 0;
        if sys!(arch_prctl, ARCH_SET_GS, &raw const value) != Ok(0) {
            return 1;
        }
        let parent = hot(libc::SYS_getppid, 0);
        heat();
        let seen: u64;
        // SAFETY: 1. GS points at `value`.
        unsafe { asm!("mov {seen}, gs:[0]", seen = out(reg) seen) };
        casemate_guest_tests::steps(&[none, seen == value, sys!(getppid) == Ok(parent as i64)])
    });
}

#[test]
fn children_call_as_their_parents_do() {
    heat();
    let me = sys!(getpid).unwrap() as u64;
    for _ in 0..20 {
        in_child(|| i32::from((0..50).any(|_| hot(libc::SYS_getppid, 0) != me)));
    }
}
