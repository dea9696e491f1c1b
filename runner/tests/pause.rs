//! `casemate pause` and `casemate resume`: nothing of the guest runs while it is paused, and it notices nothing.
#![allow(clippy::print_stdout, reason = "the guest's half of a test speaks to the other")]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{As, Done, command, everybody, finish, wait};

/// Threads of the guest's load.
const THREADS: usize = 64;
/// Pauses of the load: a thousand with `CASEMATE_LONG`.
fn pauses() -> usize {
    if std::env::var_os("CASEMATE_LONG").is_some() { 1000 } else { 100 }
}

/// Set for the guest's half: the file with the counters.
const COUNTERS: &str = "CASEMATE_TEST_COUNTERS";

/// A program in a sandbox, and its first line of output.
struct Running {
    child: Child,
    name: String,
}

impl Running {
    fn start(who: As, name: &str, arguments: &[&str]) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let mut child = command(who, &[&["run", "--name", &name], arguments].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut said = Vec::new();
        // No further than the line: the rest stays in the pipe.
        for byte in BufReader::with_capacity(1, child.stdout.as_mut().expect("piped")).bytes() {
            said.push(byte.expect("reads"));
            if said.ends_with(b"up\n") {
                break;
            }
        }
        assert!(said.ends_with(b"up\n"), "{}", String::from_utf8_lossy(&said));
        Self { child, name }
    }

    /// The rest of its output, and its status.
    fn end(mut self) -> (String, Option<i32>) {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut text).expect("reads");
        (text, wait(&mut self.child).code())
    }
}

fn ask(who: As, verb: &str, sandbox: &str) -> Done {
    finish(command(who, &[verb, sandbox]), b"")
}

#[test]
fn a_paused_sandbox_stands_still_and_pauses_nest() {
    for who in everybody() {
        let script = "echo up; while read line; do echo $line; done; echo end";
        let mut running = Running::start(who, "nest", &["--", "/bin/sh", "-c", script]);
        let name = running.name.clone();
        for _ in 0..2 {
            let done = ask(who, "pause", &name);
            assert_eq!((done.status, done.err.as_str()), (Some(0), ""), "{who:?}");
        }
        running.child.stdin.as_mut().expect("piped").write_all(b"more\n").expect("writes");
        let done = ask(who, "resume", &name);
        assert!(done.status == Some(0) && done.err.contains("still paused, by 1 more"), "{who:?}: {done:?}");
        let out = running.child.stdout.as_ref().expect("piped");
        let mut set = [rustix::event::PollFd::new(out, rustix::event::PollFlags::IN)];
        let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        assert_eq!(rustix::event::poll(&mut set, Some(&moment)), Ok(0), "{who:?}: output of a paused sandbox");
        assert_eq!(ask(who, "resume", &name).status, Some(0));
        let done = ask(who, "resume", &name);
        assert!(done.status == Some(125) && done.err.contains("it is not paused"), "{who:?}: {done:?}");
        assert_eq!(running.end(), ("more\nend\n".to_owned(), Some(0)), "{who:?}");
        let done = ask(who, "pause", &name);
        assert!(done.status == Some(125) && done.err.contains("no sandbox of this name"), "{who:?}: {done:?}");
    }
}

#[test]
fn a_sandbox_without_a_name_goes_by_its_launcher_and_names_are_taken_once() {
    let mut child = command(As::Me, &["run", "--", "/bin/sh", "-c", "read line; exit 3"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("starts");
    let number = child.id().to_string();
    // Its door is there before its process has anything to do.
    while ask(As::Me, "pause", &number).status != Some(0) {
        std::thread::yield_now();
    }
    // Killed while it is paused, nothing of it is left, its name neither.
    let named = Running::start(As::Me, "taken", &["--", "/bin/sh", "-c", "echo up; read line"]);
    let done = finish(command(As::Me, &["run", "--name", &named.name, "--", "/bin/true"]), b"");
    assert!(done.status == Some(125) && done.err.contains("another sandbox has this name"), "{done:?}");
    assert_eq!(ask(As::Me, "pause", &named.name).status, Some(0));
    let mut killed = named.child;
    killed.kill().expect("kill");
    wait(&mut killed);
    assert_eq!(ask(As::Me, "resume", &named.name).status, Some(125));
    assert_eq!(finish(command(As::Me, &["run", "--name", &named.name, "--", "/bin/true"]), b"").status, Some(0));

    assert_eq!(ask(As::Me, "resume", &number).status, Some(0));
    drop(child.stdin.take());
    assert_eq!(wait(&mut child).code(), Some(3));
}

#[test]
fn only_its_user_and_root_may_pause_a_sandbox() {
    if everybody().len() < 2 {
        return;
    }
    let mine = Running::start(As::Me, "mine", &["--", "/bin/sh", "-c", "echo up; read line"]);
    assert_eq!(ask(As::Nobody, "pause", &mine.name).status, Some(125), "names are each user's own");
    // And by its address, past our own client.
    let address = format!("casemate/0/{}", mine.name);
    let script = format!(
        "import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); \
         s.connect('\\0{address}'); s.settimeout(30)\ntry: s.send(b'P'); print(s.recv(99))\nexcept OSError: print(b'')"
    );
    let output = std::process::Command::new("python3").args(["-c", &script]).output().expect("python3");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "b''\n", "{output:?}");
    assert_eq!(mine.end(), (String::new(), Some(1)));
}

/// Counters in a file that the guest and the test map.
struct Counters(*const AtomicU64);

// SAFETY: 1. the memory stays mapped to the end of the process, and is touched through atomics only.
unsafe impl Send for Counters {}
// SAFETY: as above.
unsafe impl Sync for Counters {}

impl Counters {
    fn map(path: &Path) -> Self {
        let file = File::options().read(true).write(true).open(path).expect("the counters' file");
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: 1. a new mapping where the host likes it; 2. the file is longer, and nobody shortens it.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), THREADS * 8, access, flags, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Self(at.cast())
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: 1. mapped, zeroed, aligned and never unmapped (`map`).
        unsafe { std::slice::from_raw_parts(self.0, THREADS) }
    }

    fn read(&self) -> Vec<u64> {
        self.all().iter().map(|counter| counter.load(Ordering::SeqCst)).collect()
    }
}

/// One connection's request and answer, without a process for each.
fn ask_directly(name: &str, request: u8) {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
    let uid = rustix::process::geteuid().as_raw();
    let address = SocketAddrUnix::new_abstract_name(format!("casemate/{uid}/{name}").as_bytes()).expect("address");
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("socket");
    rustix::net::connect(&socket, &address).expect("connect");
    rustix::net::send(&socket, &[request], SendFlags::NOSIGNAL).expect("send");
    let mut answer = [0_u8; 128];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).expect("recv");
    assert_eq!(answer.get(..length), Some(b"+".as_slice()), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn pauses_under_load_lose_nothing() {
    let path = std::env::temp_dir().join(format!("casemate-test-pause-{}", std::process::id()));
    std::fs::write(&path, vec![0_u8; THREADS * 8]).expect("writes");
    let counters = Counters::map(&path);
    let here = std::env::current_exe().expect("this program");
    let volume = format!("{}:/counters", path.display());
    let variable = format!("{COUNTERS}=/counters");
    let program = here.to_str().expect("text");
    let sandbox = ["--volume", &volume, "--env", &variable, "--"];
    let arguments = [sandbox.as_slice(), &[program, "--exact", "the_load_itself", "--nocapture"]].concat();
    let running = Running::start(As::Me, "load", &arguments);
    for round in 0..pauses() {
        ask_directly(&running.name, b'P');
        let before = counters.read();
        if round % 100 == 0 {
            // Longer than a turn of any thread, for one that has not stopped.
            std::thread::sleep(std::time::Duration::from_millis(5));
        } else {
            std::thread::yield_now();
        }
        assert_eq!(counters.read(), before, "somebody ran while paused (round {round})");
        ask_directly(&running.name, b'R');
    }
    let (text, status) = running.end();
    let _ = std::fs::remove_file(&path);
    assert!(status == Some(0) && text.contains("all well"), "{status:?}: {text}");
    assert!(counters.read().iter().all(|&count| count > 0), "{:?}", counters.read());
}

/// Whether the guest's threads shall end.
static END: AtomicBool = AtomicBool::new(false);
/// Signals that handlers have seen.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// The guest's half of the test above: not a test by itself.
#[test]
fn the_load_itself() {
    let Some(path) = std::env::var_os(COUNTERS) else { return };
    let counters = Counters::map(Path::new(&path));
    // SAFETY: 1. the handler only counts.
    unsafe { libc::signal(libc::SIGUSR1, seen as extern "C" fn(i32) as usize) };
    std::thread::scope(|scope| {
        for (index, counter) in counters.all().iter().enumerate() {
            scope.spawn(move || {
                let mut rounds = 0;
                while !END.load(Ordering::SeqCst) || rounds == 0 {
                    one_round(index, rounds);
                    rounds += 1;
                    assert_eq!(counter.fetch_add(1, Ordering::SeqCst) + 1, rounds, "a round was lost or came twice");
                }
            });
        }
        println!("up");
        let line = BufReader::new(std::io::stdin()).lines().next();
        assert!(line.is_none(), "end of input is the end");
        END.store(true, Ordering::SeqCst);
    });
    println!("all well");
}

extern "C" fn seen(_signal: i32) {
    SEEN.fetch_add(1, Ordering::SeqCst);
}

/// What a thread does in a round, by its number: each call says what it says on a Linux where nothing interrupts it.
fn one_round(index: usize, round: u64) {
    match index % 8 {
        0 => compute(round),
        1 => sleeps(),
        2 => {
            let code = (round % 100).try_into().expect("small");
            // SAFETY: 1. the child leaves at once.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: 1. always sound.
                unsafe { libc::_exit(code) };
            }
            assert_eq!(wait_for(pid), code);
        }
        3 => faults(round),
        4 => {
            let status = std::process::Command::new("/bin/true").status();
            assert!(status.is_ok_and(|status| status.success()), "exec");
        }
        5 => pipe_of(round),
        6 => {
            let before = SEEN.load(Ordering::SeqCst);
            let signal = libc::SIGUSR1.unsigned_abs().into();
            let thread = raw(libc::SYS_gettid, [0; 6]).expect("gettid").cast_unsigned();
            assert_eq!(raw(libc::SYS_tgkill, [std::process::id().into(), thread, signal, 0, 0, 0]), Ok(0));
            assert!(SEEN.load(Ordering::SeqCst) > before, "the signal came before its sender went on");
        }
        _ => {
            // A child that waits for a byte of its parent, and the parent for its end.
            let (here, there) = std::os::unix::net::UnixStream::pair().expect("socketpair");
            let thread = std::thread::spawn(move || {
                let mut byte = [0];
                (&there).read_exact(&mut byte).expect("not interrupted");
                byte[0]
            });
            (&here).write_all(&[round.to_le_bytes()[0]]).expect("not interrupted");
            assert_eq!(thread.join().expect("joins"), round.to_le_bytes()[0]);
        }
    }
}

fn compute(round: u64) {
    let mut x = round | 1;
    for _ in 0..20_000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    assert_ne!(std::hint::black_box(x), 0);
}

fn wait_for(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: 1. `status` outlives the call.
    let got = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(got, pid, "waitpid: {}", std::io::Error::last_os_error());
    libc::WEXITSTATUS(status)
}

/// A raw system call: its value, or the errno.
fn raw(nr: i64, args: [u64; 6]) -> Result<i64, i32> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: 1. the callers pass pointers to live memory, or null where the call allows it.
    let value = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
    if value < 0 { Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(value) }
}

/// Sleeps of all kinds to their end: those that Linux never restarts show each interruption.
fn sleeps() {
    let millisecond = || libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let at = |time: &libc::timespec| std::ptr::from_ref(time).expose_provenance() as u64;
    let time = millisecond();
    assert_eq!(raw(libc::SYS_nanosleep, [at(&time), 0, 0, 0, 0, 0]), Ok(0));
    assert_eq!(raw(libc::SYS_poll, [0, 0, 1, 0, 0, 0]), Ok(0));
    let mut left = millisecond();
    let left_at = (&raw mut left).expose_provenance() as u64;
    assert_eq!(raw(libc::SYS_pselect6, [0, 0, 0, 0, left_at, 0]), Ok(0));
    let set = 1_u64 << (libc::SIGUSR2 - 1);
    let set_at = (&raw const set).expose_provenance() as u64;
    assert_eq!(raw(libc::SYS_rt_sigtimedwait, [set_at, 0, at(&time), 8, 0, 0]), Err(libc::EAGAIN));
    let epoll = raw(libc::SYS_epoll_create1, [0; 6]).expect("epoll_create1").cast_unsigned();
    let mut events = [0_u64; 2];
    let events_at = events.as_mut_ptr().expose_provenance() as u64;
    assert_eq!(raw(libc::SYS_epoll_wait, [epoll, events_at, 1, 1, 0, 0]), Ok(0));
    assert_eq!(raw(libc::SYS_close, [epoll, 0, 0, 0, 0, 0]), Ok(0));
    let word = 0_u32;
    let word_at = (&raw const word).expose_provenance() as u64;
    let wait = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG).unsigned_abs().into();
    assert_eq!(raw(libc::SYS_futex, [word_at, wait, 0, at(&time), 0, 0]), Err(libc::ETIMEDOUT));
}

/// New memory, written, given back and written again.
fn faults(round: u64) {
    const LEN: u64 = 64 << 10;
    let access = (libc::PROT_READ | libc::PROT_WRITE).unsigned_abs().into();
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unsigned_abs().into();
    let at = raw(libc::SYS_mmap, [0, LEN, access, flags, u64::MAX, 0]).expect("mmap").cast_unsigned();
    {
        let start = std::ptr::with_exposed_provenance::<AtomicU64>(usize::try_from(at).expect("an address"));
        // SAFETY: 1. the mapping just made, zeroed, used by nobody else, and unmapped after the last use.
        let words = unsafe { std::slice::from_raw_parts(start, (LEN / 8) as usize) };
        for _ in 0..2 {
            for (page, word) in words.iter().step_by(512).enumerate() {
                assert_eq!(word.swap(round + page as u64, Ordering::Relaxed), 0);
            }
            for (page, word) in words.iter().step_by(512).enumerate() {
                assert_eq!(word.load(Ordering::Relaxed), round + page as u64);
            }
            assert_eq!(raw(libc::SYS_madvise, [at, LEN, libc::MADV_DONTNEED.unsigned_abs().into(), 0, 0, 0]), Ok(0));
        }
    }
    assert_eq!(raw(libc::SYS_munmap, [at, LEN, 0, 0, 0, 0]), Ok(0));
}

/// More than a pipe holds, through a pipe: each half waits for the other.
fn pipe_of(round: u64) {
    let (mut from, mut to) = std::io::pipe().expect("pipe");
    let sent: Vec<u8> = (0..100_000_u64).map(|at| (at.wrapping_mul(31).wrapping_add(round)).to_le_bytes()[0]).collect();
    let expected = sent.clone();
    // One call each: the library would begin an interrupted one again.
    let writer = std::thread::spawn(move || {
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let count = to.write(rest).expect("not interrupted");
            rest = &rest[count..];
        }
    });
    let mut got = Vec::new();
    loop {
        let mut piece = [0_u8; 4096];
        match from.read(&mut piece).expect("not interrupted") {
            0 => break,
            count => got.extend_from_slice(&piece[..count]),
        }
    }
    assert!(got == expected, "bytes lost");
    writer.join().expect("joins");
}
