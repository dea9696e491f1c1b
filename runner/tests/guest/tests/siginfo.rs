//! What `siginfo_t` says, for each source of signals, and what the limit on queued ones takes away.

use std::sync::atomic::{AtomicI32, Ordering};

use casemate_guest_tests::signals::{Info, SI_KERNEL, bit, block, pending, take};
use casemate_guest_tests::{child, in_child, inside, pipe, steps, sys, wait_status};

const SI_TKILL: i32 = -6;

fn me() -> (i32, i32) {
    let number = |value: Result<i64, i32>| i32::try_from(value.unwrap()).unwrap();
    (number(sys!(getpid)), number(sys!(getuid)))
}

#[test]
fn senders_are_named() {
    in_child(|| {
        let real_time = libc::SIGRTMIN() + 1;
        block(bit(libc::SIGUSR1) | bit(real_time));
        let (pid, uid) = me();
        let tid = sys!(gettid).unwrap();
        let _ = sys!(kill, pid, libc::SIGUSR1);
        let by_kill = take(libc::SIGUSR1);
        let _ = sys!(tgkill, pid, tid, libc::SIGUSR1);
        let by_tgkill = take(libc::SIGUSR1);
        let mut info: Info = [0; 32];
        (info[1], info[2], info[4], info[5], info[6], info[7]) = (7, libc::SI_QUEUE, 17, 18, 19, 20);
        let _ = sys!(rt_sigqueueinfo, pid, real_time, info.as_ptr());
        let by_queue = take(real_time);
        let parent = child(|| {
            let _ = sys!(kill, pid, libc::SIGUSR1);
            0
        });
        let by_child = take(libc::SIGUSR1);
        let _ = wait_status(parent);
        info[0] = real_time;
        steps(&[
            by_kill[..6] == [libc::SIGUSR1, 0, libc::SI_USER, 0, pid, uid],
            by_tgkill[..6] == [libc::SIGUSR1, 0, SI_TKILL, 0, pid, uid],
            // As given, but for the number.
            by_queue == info,
            by_child[..6] == [libc::SIGUSR1, 0, libc::SI_USER, 0, parent, uid],
        ])
    });
}

#[test]
fn children_tell_how_they_ended_stopped_and_went_on() {
    in_child(|| {
        block(bit(libc::SIGCHLD) | bit(libc::SIGUSR2));
        let (_, uid) = me();
        let tells = |info: Info, code, pid, status| {
            info[0] == libc::SIGCHLD && info[1] == 0 && info[2] == code && info[4..7] == [pid, uid, status]
        };
        let exited = child(|| 300);
        let exit = take(libc::SIGCHLD);
        let again = wait_status(exited);
        let stopped = child(|| {
            loop {
                let _ = sys!(pause);
            }
        });
        let _ = sys!(kill, stopped, libc::SIGSTOP);
        let stop = take(libc::SIGCHLD);
        let _ = sys!(kill, stopped, libc::SIGCONT);
        let cont = take(libc::SIGCHLD);
        let _ = sys!(kill, stopped, libc::SIGKILL);
        let kill = take(libc::SIGCHLD);
        let _ = wait_status(stopped);
        // A child of clone(2) that ends with another signal tells the same.
        let other = sys!(clone, libc::SIGUSR2, 0, 0, 0, 0).unwrap();
        if other == 0 {
            let _ = sys!(exit_group, 5);
        }
        let with = take(libc::SIGUSR2);
        let mut status = 0_i32;
        let _ = sys!(wait4, other, &raw mut status, libc::__WCLONE, 0);
        steps(&[
            tells(exit, libc::CLD_EXITED, exited, 300 & 0xff) && libc::WEXITSTATUS(again) == 300 & 0xff,
            tells(stop, libc::CLD_STOPPED, stopped, libc::SIGSTOP),
            tells(cont, libc::CLD_CONTINUED, stopped, libc::SIGCONT),
            tells(kill, libc::CLD_KILLED, stopped, libc::SIGKILL),
            i64::from(with[4]) == other && with[0] == libc::SIGUSR2 && with[2] == libc::CLD_EXITED && with[6] == 5,
            libc::WEXITSTATUS(status) == 5,
        ])
    });
}

/// How a child that does `act` dies, as its parent hears of it, with this RLIMIT_CORE.
fn death(core: u64, act: fn()) -> (i32, Info) {
    block(bit(libc::SIGCHLD));
    let pid = child(|| {
        let limit = [core, core];
        let _ = sys!(setrlimit, libc::RLIMIT_CORE, limit.as_ptr());
        let _ = sys!(chdir, c"/proc/self".as_ptr());
        act();
        0
    });
    let info = take(libc::SIGCHLD);
    (wait_status(pid), info)
}

#[test]
fn without_a_core_file_the_status_says_so() {
    in_child(|| {
        let abort = || {
            let _ = sys!(kill, sys!(getpid).unwrap(), libc::SIGABRT);
        };
        let (status, info) = death(0, abort);
        let none = !libc::WCOREDUMP(status) && libc::WTERMSIG(status) == libc::SIGABRT && info[2] == libc::CLD_KILLED;
        // Natively a file, or somebody's handler, would come of it.
        let some = !inside() || {
            let (status, info) = death(1 << 20, abort);
            libc::WCOREDUMP(status) && libc::WTERMSIG(status) == libc::SIGABRT && info[2] == libc::CLD_DUMPED
        };
        // Signals that dump nothing, whatever the limit.
        let (status, info) = death(1 << 20, || {
            let _ = sys!(kill, sys!(getpid).unwrap(), libc::SIGTERM);
        });
        steps(&[none, some, status == libc::SIGTERM && info[2] == libc::CLD_KILLED && info[6] == libc::SIGTERM])
    });
}

static CAUGHT: [AtomicI32; 8] = [const { AtomicI32::new(0) }; 8];

/// Keeps what a fault told, and ends the process with success if it is as expected.
extern "C" fn catch(signal: i32, info: *const i32, _context: *mut u8) {
    // SAFETY: 1. the kernel's siginfo, of 128 bytes.
    let info = unsafe { info.cast::<[i32; 6]>().read() };
    for (word, told) in CAUGHT.iter().zip(info) {
        word.store(told, Ordering::Relaxed);
    }
    let words: Vec<i32> = (0..6).map(|at| CAUGHT[at].load(Ordering::Relaxed)).collect();
    let right = words[0] == signal && words[2] == CAUGHT[6].load(Ordering::Relaxed);
    let address = (words[4].cast_unsigned() as u64) | (words[5].cast_unsigned() as u64) << 32;
    let expected = CAUGHT[7].load(Ordering::Relaxed).cast_unsigned() as u64;
    // 1 stands for any address.
    let _ = sys!(exit_group, if right && (expected == 1 || address == expected) { 0 } else { 77 });
}

/// Whether `act` raises `signal` with this code, at `address` (1: any).
fn raises(signal: i32, code: i32, address: u32, act: fn()) {
    in_child(|| {
        // SAFETY: 1. sigaction is plain data.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = catch as extern "C" fn(i32, *const i32, *mut u8) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: 1. `action` lives across the call and names a handler of the right type.
        let _ = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        CAUGHT[6].store(code, Ordering::Relaxed);
        CAUGHT[7].store(address.cast_signed(), Ordering::Relaxed);
        act();
        99
    });
}

/// Where the tests map something below 4 GiB.
const PLACE: u64 = 0x1234_0000;

fn map_at_place(prot: i32, flags: i32, fd: i32) {
    let got = sys!(mmap, PLACE, 4096, prot, flags | libc::MAP_FIXED, i64::from(fd), 0);
    assert_eq!(got, Ok(PLACE.cast_signed()));
}

#[test]
fn faults_tell_what_and_where() {
    // SEGV_MAPERR, SEGV_ACCERR, BUS_ADRERR.
    raises(libc::SIGSEGV, 1, 0x1234_0008, || poke(PLACE + 8));
    raises(libc::SIGSEGV, 2, 0x1234_0010, || {
        map_at_place(libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        poke(PLACE + 16);
    });
    raises(libc::SIGBUS, 2, 0x1234_0018, || {
        let fd = i32::try_from(sys!(memfd_create, c"empty".as_ptr(), 0).unwrap()).unwrap();
        map_at_place(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd);
        poke(PLACE + 24);
    });
    // An address that is none: the CPU does not say which.
    raises(libc::SIGSEGV, SI_KERNEL, 0, || poke(0x8000_0000_0000_0000));
    // FPE_INTDIV, ILL_ILLOPN: at the instruction.
    raises(libc::SIGFPE, 1, 1, || {
        // SAFETY: 1. it faults, which is what the test is about.
        unsafe {
            core::arch::asm!("xor edx, edx", "xor eax, eax", "xor ecx, ecx", "div ecx", out("eax") _, out("ecx") _, out("edx") _)
        }
    });
    raises(libc::SIGILL, 2, 1, || {
        // SAFETY: 1. as above.
        unsafe { core::arch::asm!("ud2") }
    });
    raises(libc::SIGTRAP, SI_KERNEL, 0, || {
        // SAFETY: 1. as above.
        unsafe { core::arch::asm!("int3") }
    });
}

fn poke(at: u64) {
    // SAFETY: 1. it faults, which is what the tests are about.
    unsafe { core::arch::asm!("mov byte ptr [{}], 1", in(reg) at) }
}

#[test]
fn the_kernel_s_own_signals_name_nobody() {
    in_child(|| {
        block(bit(libc::SIGALRM) | bit(libc::SIGVTALRM) | bit(libc::SIGPIPE) | bit(libc::SIGXFSZ));
        let (pid, uid) = me();
        let soon = [0_i64, 0, 0, 1000];
        let _ = sys!(setitimer, libc::ITIMER_REAL, soon.as_ptr(), 0);
        let alarm = take(libc::SIGALRM);
        let _ = sys!(setitimer, libc::ITIMER_VIRTUAL, soon.as_ptr(), 0);
        while !pending(libc::SIGVTALRM) {
            for _ in 0..10_000 {
                std::hint::black_box(0);
            }
        }
        let virtual_time = take(libc::SIGVTALRM);
        // Errors of one's own calls come from oneself.
        let (read, write) = pipe(0);
        let _ = sys!(close, read);
        let broken = sys!(write, write, c"x".as_ptr(), 1);
        let pipe = take(libc::SIGPIPE);
        let limit = [4096_u64, 4096];
        let file = sys!(memfd_create, c"long".as_ptr(), 0).unwrap();
        let _ = sys!(setrlimit, libc::RLIMIT_FSIZE, limit.as_ptr());
        let long = sys!(pwrite64, file, c"x".as_ptr(), 1, 4096);
        let size = take(libc::SIGXFSZ);
        steps(&[
            alarm[..6] == [libc::SIGALRM, 0, SI_KERNEL, 0, 0, 0],
            virtual_time[..6] == [libc::SIGVTALRM, 0, SI_KERNEL, 0, 0, 0],
            broken == Err(libc::EPIPE) && pipe[..6] == [libc::SIGPIPE, 0, libc::SI_USER, 0, pid, uid],
            long == Err(libc::EFBIG) && size[..6] == [libc::SIGXFSZ, 0, libc::SI_USER, 0, pid, uid],
        ])
    });
}

#[test]
fn queued_signals_are_limited_and_others_lose_what_they_tell() {
    in_child(|| {
        let real_time = libc::SIGRTMIN() + 4;
        block(bit(libc::SIGUSR1) | bit(libc::SIGUSR2) | bit(real_time));
        let (pid, uid) = me();
        let tid = sys!(gettid).unwrap();
        let mut info: Info = [0; 32];
        (info[2], info[6]) = (libc::SI_QUEUE, 1);
        let none = [0_u64, 0];
        let _ = sys!(setrlimit, libc::RLIMIT_SIGPENDING, none.as_ptr());
        let refused = sys!(rt_sigqueueinfo, pid, real_time, info.as_ptr());
        let refused_too = sys!(tgkill, pid, tid, real_time);
        let nothing = !pending(real_time);
        // kill(2) always gets through: a standard signal with all it says, a real-time one without.
        let _ = sys!(kill, pid, libc::SIGUSR1);
        let whole = take(libc::SIGUSR1);
        let first = sys!(kill, pid, real_time);
        let second = sys!(kill, pid, real_time);
        let bare = take(real_time);
        let once = !pending(real_time);
        // A standard signal that is queued is not refused.
        let queued = sys!(rt_sigqueueinfo, pid, libc::SIGUSR2, info.as_ptr());
        let queued_bare = take(libc::SIGUSR2);
        let directed = sys!(tgkill, pid, tid, libc::SIGUSR2);
        let directed_bare = take(libc::SIGUSR2);
        steps(&[
            refused == Err(libc::EAGAIN),
            refused_too == Err(libc::EAGAIN) && nothing,
            whole[..6] == [libc::SIGUSR1, 0, libc::SI_USER, 0, pid, uid],
            (first, second) == (Ok(0), Ok(0)) && once,
            bare[..7] == [real_time, 0, libc::SI_USER, 0, 0, 0, 0],
            queued == Ok(0) && queued_bare[..7] == [libc::SIGUSR2, 0, libc::SI_USER, 0, 0, 0, 0],
            directed == Ok(0) && directed_bare[..6] == [libc::SIGUSR2, 0, libc::SI_USER, 0, 0, 0],
        ])
    });
}

#[test]
fn a_timer_has_its_place_in_the_queue() {
    in_child(|| {
        let real_time = libc::SIGRTMIN() + 5;
        block(bit(real_time));
        // sigevent: value, signal, SIGEV_SIGNAL.
        let mut event = [0_i32; 16];
        (event[0], event[2], event[3]) = (42, real_time, 0);
        let mut timer = 0_i32;
        let made = sys!(timer_create, libc::CLOCK_MONOTONIC, event.as_ptr(), &raw mut timer);
        let none = [0_u64, 0];
        let _ = sys!(setrlimit, libc::RLIMIT_SIGPENDING, none.as_ptr());
        let refused = sys!(timer_create, libc::CLOCK_MONOTONIC, event.as_ptr(), &raw mut timer);
        let soon = [0_i64, 0, 0, 1000];
        let set = sys!(timer_settime, timer, 0, soon.as_ptr(), 0);
        let told = take(real_time);
        steps(&[
            made == Ok(0),
            refused == Err(libc::EAGAIN),
            set == Ok(0) && told[2] == libc::SI_TIMER && told[4..7] == [timer, 0, 42],
        ])
    });
}

#[test]
fn a_parent_s_death_is_told_to_who_asked() {
    in_child(|| {
        block(bit(libc::SIGUSR1));
        // The parent is the thread that made the child, not its process.
        let maker = std::thread::spawn(|| {
            let (read, write) = pipe(0);
            let pid = child(|| {
                let _ = sys!(prctl, libc::PR_SET_PDEATHSIG, libc::SIGUSR1, 0, 0, 0);
                let _ = sys!(write, write, c"x".as_ptr(), 1);
                let info = take(libc::SIGUSR1);
                let (parent, uid) = (i32::try_from(sys!(getppid).unwrap()).unwrap(), me().1);
                steps(&[info[2] == libc::SI_USER, info[4..6] == [parent, uid]])
            });
            let mut byte = 0_u8;
            let _ = sys!(read, read, &raw mut byte, 1);
            let _ = (sys!(close, read), sys!(close, write));
            pid
        });
        let pid = maker.join().unwrap();
        let status = wait_status(pid);
        if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 90 }
    });
}
