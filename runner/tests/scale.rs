//! Many threads, many processes, and what a guest hears where the host has no more: EAGAIN, and all else goes on.
#![allow(clippy::print_stdout, reason = "the guest's half of a test speaks to the other")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use common::{As, command, descendants, wait};

/// Set for the guest's half: what to make, and how many at most.
const MAKE: &str = "CASEMATE_TEST_MAKE";

/// This program in a sandbox, as the guest's half.
fn guest(what: &str) -> Command {
    let here = std::env::current_exe().expect("this program");
    let variable = format!("{MAKE}={what}");
    let program = here.to_str().expect("text");
    let run =
        ["run", "--pids", "16384", "--env", &variable, "--", program, "--exact", "the_guest_s_half", "--nocapture"];
    let mut command = command(As::Me, &run);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Runs the guest's half; `look` gets what it says when all is made, and the sandbox process.
fn run(mut command: Command, look: impl FnOnce(&str, u32)) {
    let mut child = command.spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
    let said = lines.find(|line| line.contains("made")).expect("the guest says what it has made");
    let sandbox = *descendants(child.id()).first().expect("a sandbox process");
    look(&said, sandbox);
    child.stdin.take().expect("piped").write_all(b"end\n").expect("writes");
    let rest: Vec<String> = lines.collect();
    let status = wait(&mut child);
    assert!(status.success() && rest.iter().any(|line| line.ends_with("all well")), "{status}: {rest:?}");
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count()
}

/// A few in each run; with `CASEMATE_LONG` as many as promised, where the host has room.
fn count(few: usize, promised: usize) -> usize {
    if std::env::var_os("CASEMATE_LONG").is_some() { promised } else { few }
}

#[test]
fn many_threads_need_one_descriptor_each() {
    let mut counted = Vec::new();
    let most = count(500, 10_000);
    for threads in [1, most] {
        run(guest(&format!("threads {threads}")), |said, sandbox| {
            assert!(said.ends_with(&format!("made {threads}")), "{said}");
            counted.push(descriptors(sandbox));
        });
    }
    // The second round of the last run may have taken a stub more.
    assert!(counted[1] - counted[0] <= most + 16, "{counted:?} for 1 and {most} threads");
}

#[test]
fn many_processes() {
    let processes = count(100, 2000);
    run(guest(&format!("processes {processes}")), |said, _| {
        assert!(said.ends_with(&format!("made {processes}")), "{said}");
    });
}

#[test]
fn where_the_host_has_no_more_descriptors_the_guest_hears_eagain() {
    for what in ["threads 2000", "processes 2000"] {
        let mut command = guest(what);
        let limit = libc::rlimit { rlim_cur: 400, rlim_max: 400 };
        let lower = move || {
            // SAFETY: 1. a structure of the closure's own.
            let answer = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
            if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: 1. one call, which is async-signal-safe.
        unsafe { command.pre_exec(lower) };
        run(command, |said, sandbox| {
            // Some hundred threads, or some fewer processes, which take several each.
            let made: usize = said.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a number");
            assert!((20..400).contains(&made), "{what}: {said}");
            assert!(descriptors(sandbox) <= 400);
        });
    }
}

/// The guest's half of the tests above: not a test by itself.
#[test]
fn the_guest_s_half() {
    let Ok(what) = std::env::var(MAKE) else { return };
    let (kind, most) = what.split_once(' ').expect("two words");
    let most = most.parse().expect("a number");
    // Twice: what the first round took is there again.
    for round in 0..2 {
        match kind {
            "threads" => threads(most, round == 0),
            _ => processes(most, round == 0),
        }
    }
    println!("all well");
}

/// Says how many were made, and waits until the other half has looked.
fn tell(made: usize) {
    println!("made {made}");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("reads");
    assert_eq!(line, "end\n");
}

fn threads(most: usize, speak: bool) {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let mut made = Vec::new();
    for number in 0..most {
        let gate = Arc::clone(&gate);
        let body = move || {
            let mut open = gate.0.lock().expect("whole");
            while !*open {
                open = gate.1.wait(open).expect("whole");
            }
            number
        };
        match std::thread::Builder::new().stack_size(32 << 10).spawn(body) {
            Ok(thread) => made.push(thread),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{error}");
                break;
            }
        }
    }
    if speak {
        tell(made.len());
    }
    *gate.0.lock().expect("whole") = true;
    gate.1.notify_all();
    for (number, thread) in made.into_iter().enumerate() {
        assert_eq!(thread.join().expect("joins"), number);
    }
}

fn processes(most: usize, speak: bool) {
    let (mut read, write) = std::io::pipe().expect("pipe");
    let write_end = std::os::fd::AsRawFd::as_raw_fd(&write);
    let mut made = Vec::new();
    for number in 0..most {
        // SAFETY: 1. the child reads a byte and leaves by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // The end of the input is the end.
            // SAFETY: 1. the child's own descriptor.
            unsafe { libc::close(write_end) };
            let mut byte = [0];
            let _ = read.read(&mut byte);
            // SAFETY: 1. always sound.
            unsafe { libc::_exit((number % 100).try_into().expect("small")) };
        }
        if pid < 0 {
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
            break;
        }
        made.push(pid);
    }
    if speak {
        tell(made.len());
    }
    drop(write);
    for (number, pid) in made.into_iter().enumerate() {
        let mut status = 0;
        // SAFETY: 1. `status` outlives the call.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), i32::try_from(number % 100).expect("small"));
    }
}
