//! A guest that turns against what runs it. Inside, that lies above the end of user space: no call may reach it, and who jumps
//! there, writes there or interrupts itself there harms its own process alone. Natively the same lies beyond Linux's end.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use casemate_guest_tests::{Memory, child, fork_status, inside, pipe, sys, wait_status};

const PAGE: u64 = 4096;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// Longer than the region of which guests can know parts.
const REGION: u64 = 1 << 29;

/// The first address that no mapping can have.
fn end_of_user_space() -> u64 {
    let (mut low, mut high) = (0x7000_0000_0000, 0x7fff_ffff_f000);
    while low < high {
        let middle = low + ((high - low) / 2 / PAGE) * PAGE;
        match sys!(mmap, middle, PAGE, 0, ANONYMOUS | libc::MAP_FIXED_NOREPLACE, -1_i64, 0) {
            Err(libc::ENOMEM) => high = middle,
            Ok(_) => {
                sys!(munmap, middle, PAGE).expect("munmap");
                low = middle + PAGE;
            }
            Err(errno) => {
                assert_eq!(errno, libc::EEXIST);
                low = middle + PAGE;
            }
        }
    }
    low
}

/// What the thread's calls go through where they are patched; natively 0.
fn gs_base() -> u64 {
    let mut base = 0_u64;
    sys!(arch_prctl, 0x1004, &raw mut base).expect("ARCH_GET_GS");
    // SAFETY: 1. reads what the kernel told the program at its start.
    let features = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    if features & 2 != 0 {
        // Nobody was told about it; the CPU knows better.
        // SAFETY: 1. reads a register, where the kernel lets programs do so.
        unsafe { asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    }
    base
}

/// Addresses that a guest may think of.
fn places() -> Vec<u64> {
    let end = end_of_user_space();
    let gs = gs_base();
    let mut all: Vec<_> = [0, 1, 2, 4, 8, 0x100, 0x101, 0x104].iter().map(|page| end + page * PAGE).collect();
    if gs >= end {
        assert!(inside());
        all.extend([gs & !(PAGE - 1), (gs & !(PAGE - 1)) + PAGE]);
    }
    all
}

#[test]
fn no_call_reaches_past_the_end_of_user_space() {
    let own = Memory::new(2 * PAGE as usize, libc::MAP_PRIVATE);
    let (from, to) = pipe(0);
    let mut byte = [7_u8];
    for place in places() {
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        for flags in [libc::MAP_FIXED, libc::MAP_FIXED_NOREPLACE] {
            assert_eq!(sys!(mmap, place, PAGE, all, ANONYMOUS | flags, -1_i64, 0), Err(libc::ENOMEM), "{place:x}");
        }
        assert_eq!(sys!(munmap, place, PAGE), Err(libc::EINVAL), "{place:x}");
        assert_eq!(sys!(munmap, own.start, place - own.start as u64 + PAGE), Err(libc::EINVAL), "{place:x}");
        assert_eq!(own.get(0), 0);
        assert_eq!(sys!(mprotect, place, PAGE, all), Err(libc::ENOMEM), "{place:x}");
        assert_eq!(sys!(pkey_mprotect, place, PAGE, all, -1_i64), Err(libc::ENOMEM), "{place:x}");
        for advice in [libc::MADV_DONTNEED, libc::MADV_REMOVE, libc::MADV_POPULATE_WRITE, libc::MADV_DONTFORK] {
            assert_eq!(sys!(madvise, place, PAGE, advice), Err(libc::ENOMEM), "{place:x} {advice}");
        }
        let moved = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        assert_eq!(sys!(mremap, own.start, PAGE, PAGE, moved, place), Err(libc::EINVAL), "{place:x}");
        assert_eq!(sys!(mremap, place, PAGE, PAGE, libc::MREMAP_MAYMOVE), Err(libc::EFAULT), "{place:x}");
        assert_eq!(sys!(mlock, place, PAGE), Err(libc::ENOMEM), "{place:x}");
        assert_eq!(sys!(msync, place, PAGE, libc::MS_SYNC), Err(libc::ENOMEM), "{place:x}");
        assert_eq!(sys!(mincore, place, PAGE, &raw mut byte), Err(libc::ENOMEM), "{place:x}");

        // As memory that calls read and write: also where the host has it mapped, and writable, in this process.
        let mine = libc::iovec { iov_base: own.start.cast(), iov_len: 8 };
        let theirs = libc::iovec { iov_base: place as *mut _, iov_len: 8 };
        let me = sys!(getpid).expect("getpid");
        assert_eq!(sys!(process_vm_readv, me, &raw const mine, 1, &raw const theirs, 1, 0), Err(libc::EFAULT));
        assert_eq!(sys!(process_vm_writev, me, &raw const mine, 1, &raw const theirs, 1, 0), Err(libc::EFAULT));
        assert_eq!(sys!(write, to, place, 8), Err(libc::EFAULT));
        assert_eq!(sys!(write, to, &raw const byte, 1), Ok(1));
        assert_eq!(sys!(read, from, place, 1), Err(libc::EFAULT));
        assert_eq!(sys!(read, from, &raw mut byte, 1), Ok(1));
        assert_eq!(sys!(rt_sigprocmask, libc::SIG_BLOCK, place, 0, 8), Err(libc::EFAULT));
        assert_eq!(sys!(rt_sigprocmask, libc::SIG_BLOCK, 0, place, 8), Err(libc::EFAULT));
        assert_eq!(sys!(rt_sigaction, libc::SIGUSR1, place, 0, 8), Err(libc::EFAULT));
        assert_eq!(sys!(rt_sigaction, libc::SIGUSR1, 0, place, 8), Err(libc::EFAULT));
        assert_eq!(sys!(uname, place), Err(libc::EFAULT));
        assert_eq!(sys!(open, place, 0), Err(libc::EFAULT));
        assert_eq!(sys!(futex, place, libc::FUTEX_WAIT, 0, 0, 0, 0), Err(libc::EFAULT));
        assert_eq!(sys!(arch_prctl, 0x1002, u64::MAX / 2), Err(libc::EPERM));
    }
    let _ = (sys!(close, from), sys!(close, to));
}

#[test]
fn no_frame_is_written_past_the_end_of_user_space() {
    for place in places() {
        // A handler's frame on an alternate stack there, or on a stack pointer there.
        let alternate = || {
            let stack = libc::stack_t { ss_sp: place as *mut _, ss_flags: 0, ss_size: 0x8000 };
            // SAFETY: 1. `stack` lives as long as the call, and nothing else of this child runs.
            unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
            handle(never, libc::SA_ONSTACK);
            let _ = sys!(tkill, sys!(gettid).unwrap_or(0), libc::SIGUSR1);
            1
        };
        let status = fork_status(alternate);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{place:x}: {status:#x}");
        let pushed = || {
            // SAFETY: 1. it does not return: the push faults, and there is no handler.
            unsafe { asm!("mov rsp, {}", "ud2", in(reg) place + 0x800, options(noreturn)) }
        };
        let status = fork_status(pushed);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGILL, "{place:x}: {status:#x}");
    }
}

/// Has `handler` run at SIGUSR1.
fn handle(handler: extern "C" fn(i32), flags: i32) {
    // SAFETY: 1. all zeroes are a `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags;
    // SAFETY: 1. `action` lives as long as the call, and the handlers here may run at any time.
    unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
}

extern "C" fn never(_: i32) {
    // SAFETY: 1. always sound.
    unsafe { libc::_exit(2) };
}

/// Pseudo-random words: xorshift.
struct Words(u64);

impl Words {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Processes that must go on whatever their neighbour does: one that answers, and this one.
struct Witness {
    ask: i32,
    answer: i32,
    pid: i32,
}

impl Witness {
    fn start() -> Self {
        let (question, ask) = pipe(libc::O_CLOEXEC);
        let (answer, reply) = pipe(libc::O_CLOEXEC);
        let pid = child(|| {
            let _ = (sys!(close, ask), sys!(close, answer));
            let mut word = 0_u64;
            while sys!(read, question, &raw mut word, 8) == Ok(8) {
                word = word.wrapping_mul(3);
                if sys!(write, reply, &raw const word, 8) != Ok(8) {
                    return 1;
                }
            }
            0
        });
        let _ = (sys!(close, question), sys!(close, reply));
        Self { ask, answer, pid }
    }

    fn is_well(&self, round: u64) -> bool {
        let mut got = 0_u64;
        sys!(write, self.ask, &raw const round, 8) == Ok(8)
            && sys!(read, self.answer, &raw mut got, 8) == Ok(8)
            && got == round.wrapping_mul(3)
            && fork_status(|| 5) == 5 << 8
    }

    fn end(self) {
        let _ = (sys!(close, self.ask), sys!(close, self.answer));
        assert_eq!(wait_status(self.pid), 0);
    }
}

/// How often a test does it: in every run, and with `--long`.
fn rounds(routine: u64, long: u64) -> u64 {
    if std::env::var_os("CASEMATE_LONG").is_some() { long } else { routine }
}

/// Runs `body` in a child without descriptors, at most a tenth of a second long, and takes it away.
fn suffers(body: impl FnOnce()) {
    let pid = child(|| {
        let _ = sys!(close_range, 0, u32::MAX, 0);
        body();
        0
    });
    let watch = sys!(pidfd_open, pid, 0).expect("pidfd");
    let mut poll = libc::pollfd { fd: watch as i32, events: libc::POLLIN, revents: 0 };
    let _ = sys!(poll, &raw mut poll, 1, 100);
    sys!(kill, pid, libc::SIGKILL).expect("kill");
    wait_status(pid);
    let _ = sys!(close, watch);
}

#[test]
fn who_jumps_past_the_end_harms_itself_alone() {
    let end = end_of_user_space();
    let own = Memory::new(0x8000, libc::MAP_PRIVATE);
    let witness = Witness::start();
    let mut words = Words(0x9e37_79b9_7f4a_7c15);
    for round in 0..rounds(20, 400) {
        let target = end + words.next() % 0x1000;
        let stack = [own.start as u64 + 0x4000, end + 0x10_0000 + 0x1800, words.next()][(words.next() % 3) as usize];
        // The number of a hand-over, a harmless call, or anything; pointers to memory, to the region, or anything.
        let number = [0xca5, libc::SYS_getppid as u64, words.next() | 1 << 40][(words.next() % 3) as usize];
        let argument = [own.start as u64, end + 0x10_0000, words.next()][(words.next() % 3) as usize];
        // SAFETY: 1. none of this returns, in a process that is made for it.
        suffers(|| unsafe {
            asm!(
                "mov rsp, rsi", "mov rcx, rdi", "mov r11, 0x202", "mov r15, rdx", "mov rbx, rdx", "mov rbp, rdx", "jmp rdi",
                in("rdi") target, in("rsi") stack, in("rax") number, in("rdx") argument, options(noreturn)
            )
        });
        assert!(witness.is_well(round), "round {round}: {target:x}");
    }
    witness.end();
}

static VICTIM: AtomicU64 = AtomicU64::new(0);

#[test]
fn who_forges_what_its_threads_say_harms_itself_alone() {
    let end = end_of_user_space();
    let witness = Witness::start();
    for round in 1..=rounds(20, 200) {
        suffers(|| forge(end, round));
        assert!(witness.is_well(round), "round {round}");
    }
    witness.end();
}

extern "C" fn quiet(_: i32) {}

/// A thread makes calls, traps and faults; another writes over all it can find of it above `end`, and sends it signals.
fn forge(end: u64, seed: u64) {
    let me = sys!(getpid).unwrap_or(0);
    handle(quiet, 0);
    VICTIM.store(0, Ordering::SeqCst);
    let victim = std::thread::spawn(move || {
        VICTIM.store(sys!(gettid).unwrap_or(1) as u64, Ordering::SeqCst);
        loop {
            let _ = (sys!(getppid), sys!(fcntl, -1_i64, libc::F_GETFD), sys!(rt_sigprocmask, 0, 0, 0, 8));
            let at = sys!(mmap, 0, PAGE, READ_WRITE, ANONYMOUS, -1_i64, 0).unwrap_or(0);
            if at > 0 {
                // SAFETY: 1. just mapped; if a forged answer says so, this thread dies, which is its neighbour's wish.
                unsafe { (at as *mut u8).write_volatile(1) };
                let _ = sys!(munmap, at, PAGE);
            }
        }
    });
    while VICTIM.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let tid = VICTIM.load(Ordering::SeqCst);
    let own = gs_base();
    let mut words = Words(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for _ in 0..200_000 {
        // Slabs of the threads lie beside each other; small words are states, others anything, never the number of a call that harms.
        if own >= end && own < end + REGION {
            let slab = (own & !0x3fff).wrapping_add((words.next() % 3).wrapping_sub(1) * 0x4000);
            let offset =
                [words.next() % 0x40, words.next() % 0x1000, words.next() % 0x4000][(words.next() % 3) as usize];
            let value = [words.next() % 5, u64::MAX, words.next() | 1 << 40][(words.next() % 3) as usize];
            // SAFETY: 1. nothing of the program lives there; where nothing is mapped, this process dies.
            unsafe { (((slab + offset) & !3) as *mut u32).write_volatile(value as u32) };
        }
        if words.next().is_multiple_of(64) {
            let _ = sys!(tgkill, me, tid, libc::SIGUSR1);
        }
    }
    drop(victim);
}
