//! A guest that makes random system calls, for `cargo xtask fuzz-guest`. It refuses to run anywhere but inside Casemate.
//!
//! A supervisor starts one worker process after the other. A worker's threads make calls whose kinds of arguments are known
//! ([`spec`]), with mostly good and sometimes hostile values ([`args`]); a seed gives each thread its sequence. Workers that
//! sleep are woken by a signal, those that stay asleep are killed. What must not happen is that the kernel below breaks.
//!
//! It speaks in lines on its standard output: `batch NUMBER CALLS` when a worker starts, `rest CALLS FREE-KIB` when nothing
//! runs, and then it waits for a line on standard input; `row`, `ends` and `done` at the end.
#![allow(clippy::print_stdout, reason = "it speaks on its standard output")]

mod arena;
mod args;
mod ipc;
mod random;
mod raw;
mod spec;
mod tree;
mod worker;

use std::io::{BufRead, Write};
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use random::Rng;
use worker::{NUMBERS, Plan, Shared};

/// Times of 2 ms that a thread may make no call before it is woken, and before its process is killed.
const WAKE_AFTER: u64 = 2;
const KILL_AFTER: u64 = 150;

/// Rests in a run.
const RESTS: u64 = 10;

struct Options {
    calls: u64,
    seed: u64,
    threads: u64,
    first: u64,
    /// Numbers that are made seldom: calls without support.
    rare: Vec<u16>,
}

fn options() -> Option<Options> {
    let mut found = Options { calls: 1000, seed: 1, threads: 4, first: 0, rare: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--calls" => found.calls = value.parse().ok()?,
            "--seed" => found.seed = value.parse().ok()?,
            "--threads" => found.threads = value.parse().ok()?,
            "--batch" => found.first = value.parse().ok()?,
            "--rare" => found.rare = value.split(',').filter_map(|nr| nr.parse().ok()).collect(),
            _ => return None,
        }
    }
    Some(found)
}

/// Whether this is Casemate's kernel: the calls would damage any other.
fn is_inside() -> bool {
    std::fs::read_to_string("/proc/version").is_ok_and(|version| version.contains("(casemate@casemate)"))
}

fn main() -> ExitCode {
    if !is_inside() {
        println!("refused: this is not Casemate");
        return ExitCode::from(2);
    }
    let Some(options) = options() else {
        println!("refused: arguments");
        return ExitCode::from(2);
    };
    if let Err(error) = detach() {
        println!("refused: no copy of the program: {error}");
        return ExitCode::from(2);
    }
    run(&options);
    ExitCode::SUCCESS
}

/// Goes on in a sealed copy of this program that has no name: workers may truncate every file that has one.
fn detach() -> std::io::Result<()> {
    let exe = std::fs::read_link("/proc/self/exe")?;
    if exe.as_os_str().as_encoded_bytes().starts_with(b"/memfd:") {
        return Ok(());
    }
    // SAFETY: a name that ends.
    let fd = unsafe { libc::memfd_create(c"fuzz-guest".as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new.
    let mut copy = unsafe { std::fs::File::from_raw_fd(fd) };
    std::io::copy(&mut std::fs::File::open(exe)?, &mut copy)?;
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: takes no pointers.
    unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) };
    Err(std::process::Command::new(format!("/proc/self/fd/{fd}")).args(std::env::args_os().skip(1)).exec())
}

/// Memory that supervisor and workers share.
fn shared() -> &'static Shared {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Shared>(), rw, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED, "no memory");
    // SAFETY: 1. zeroes are a Shared, all of whose parts are atomic; 2. it stays mapped to the end of the process.
    unsafe { &*at.cast::<Shared>() }
}

fn run(options: &Options) {
    let specs = spec::all();
    let mut weights = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        let weight = if options.rare.contains(&spec.nr) {
            1
        } else if spec.child_only {
            3
        } else {
            8
        };
        weights.extend(std::iter::repeat_n(u16::try_from(at).unwrap_or(0), weight));
    }
    let threads = options.threads.clamp(1, arena::THREADS);
    // SAFETY: takes no pointers.
    let supervisor = unsafe { libc::getpid() };
    let plan = Plan { seed: options.seed, threads, calls: 1000, specs, weights, supervisor };
    let plan: &'static Plan = Box::leak(Box::new(plan));
    let shared = shared();
    // SAFETY: makes orphans this process's children.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    block_child_signal();
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let outside = tree::Outside::look();
    let mut ends = [0_u64; 3];
    let mut batch = options.first;
    // The first before any call: what the sandbox takes then is what it may take at the end.
    let mut next_rest = 0;
    loop {
        let total = shared.total.load(Ordering::Relaxed);
        if total >= options.calls {
            break;
        }
        if total >= next_rest {
            rest(total, &outside);
            next_rest = total + options.calls / RESTS;
        }
        say(&format!("batch {batch} {total}"));
        tree::reset(&mut Rng::new(&[options.seed, batch, 99]));
        match work(plan, shared, batch) {
            End::Finished => ends[0] += 1,
            End::Signal => ends[1] += 1,
            End::Killed => ends[2] += 1,
        }
        batch += 1;
    }
    rest(shared.total.load(Ordering::Relaxed), &outside);
    report(shared, ends);
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Removes what calls have left, lets the kernel forget what it only keeps to be quick, says how much memory is free when nothing runs, and waits until the other side has looked; it may want to look again.
fn rest(total: u64, outside: &tree::Outside) {
    outside.restore();
    tree::reset(&mut Rng::new(&[0]));
    loop {
        let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
        // SAFETY: zeroes are a sysinfo.
        let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
        // SAFETY: fills it.
        unsafe { libc::sysinfo(&raw mut info) };
        say(&format!("rest {total} {}", info.freeram * u64::from(info.mem_unit) / 1024));
        let mut answer = String::new();
        let _ = std::io::stdin().lock().read_line(&mut answer);
        if answer.trim() != "again" {
            break;
        }
    }
}

fn report(shared: &Shared, ends: [u64; 3]) {
    let [mut judged, mut past, mut given] = [0; 3];
    for nr in 0..NUMBERS {
        let Some(name) = abi::nr::NAMES[nr] else { continue };
        let [m, p, g] = [&shared.made, &shared.past, &shared.given].map(|of| of[nr].load(Ordering::Relaxed));
        println!("row {name} {m} {p} {g}");
        judged += m;
        past += p;
        given += g;
    }
    println!("ends {} {} {}", ends[0], ends[1], ends[2]);
    let odd = shared.odd.load(Ordering::Relaxed);
    say(&format!("done {} {judged} {past} {given} {odd}", shared.total.load(Ordering::Relaxed)));
}

fn child_signal() -> libc::sigset_t {
    // SAFETY: zeroes are a set, which sigemptyset makes empty.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    set
}

fn block_child_signal() {
    let set = child_signal();
    // SAFETY: reads the set.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

enum End {
    /// All calls were made.
    Finished,
    /// A signal or a call ended it before.
    Signal,
    /// It slept for too long.
    Killed,
}

/// Runs one worker, and ends all that it has left.
fn work(plan: &'static Plan, shared: &'static Shared, batch: u64) -> End {
    for thread in &shared.threads {
        thread.tid.store(0, Ordering::Relaxed);
    }
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let set = child_signal();
        // SAFETY: reads the set.
        unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
        worker::run(plan, shared, batch);
    }
    let end = watch(pid, shared);
    // Everybody but this process and init: nothing of the worker outlives it.
    loop {
        // SAFETY: inside Casemate every other process is the worker's.
        unsafe { libc::kill(-1, libc::SIGKILL) };
        // SAFETY: asks for no status.
        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } < 0 {
            break end;
        }
    }
}

/// Waits for the worker's end, waking threads that sleep.
fn watch(pid: i32, shared: &Shared) -> End {
    let set = child_signal();
    let mut seen = [(0, 0); arena::THREADS as usize];
    // A worker that is not yet there, or no longer: opening the files of the one before it can take for ever.
    let mut absent = 0;
    loop {
        let mut status = 0;
        // SAFETY: fills the status.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        if ended != 0 {
            return if status == 0 { End::Finished } else { End::Signal };
        }
        absent =
            if shared.threads.iter().any(|thread| thread.tid.load(Ordering::Relaxed) != 0) { 0 } else { absent + 1 };
        let mut stuck = absent > 10 * KILL_AFTER;
        for (thread, (calls, still)) in shared.threads.iter().zip(&mut seen) {
            let tid = thread.tid.load(Ordering::Relaxed);
            let now = thread.calls.load(Ordering::Relaxed);
            if now != *calls || tid == 0 {
                (*calls, *still) = (now, 0);
                continue;
            }
            *still += 1;
            stuck |= *still > KILL_AFTER;
            if *still >= WAKE_AFTER {
                // SAFETY: takes no pointers; the worker is this process's child and not reaped.
                unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, args::KICK) };
            }
        }
        if stuck {
            // SAFETY: as above.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            return End::Killed;
        }
        let tick = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        // SAFETY: reads set and time.
        unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const tick) };
    }
}
