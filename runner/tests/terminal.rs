//! A terminal passes input, output, control characters and its size; its mode comes back; nothing is pushed into it.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{casemate, wait};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// A terminal with `casemate run -- sh -c SCRIPT` in its foreground.
struct Session {
    master: File,
    slave: OwnedFd,
    child: Child,
    seen: String,
}

impl Session {
    fn start(script: &str) -> Self {
        Self::run(&[], &["/bin/sh", "-c", script])
    }

    /// `casemate run OPTIONS -- COMMAND`.
    fn run(options: &[&str], guest: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("pty");
        grantpt(&master).expect("grant");
        unlockpt(&master).expect("unlock");
        let name = ptsname(&master, Vec::new()).expect("name");
        let slave: OwnedFd = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().expect("UTF-8"))
            .expect("slave")
            .into();
        tcsetwinsize(&slave, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).expect("size");
        // setsid(1) makes the terminal the controlling one of the new session.
        let mut command = Command::new("/usr/bin/setsid");
        // env(1): whoever runs the tests may ignore some signals, and a terminal's user does not.
        command
            .args(["--ctty", "--wait", "/usr/bin/env", "--default-signal"])
            .arg(casemate())
            .arg("run")
            .args(options)
            .arg("--")
            .args(guest);
        let copy = || slave.try_clone().expect("dup");
        let child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().expect("starts");
        Self { master: master.into(), slave, child, seen: String::new() }
    }

    /// Reads until `text` has come.
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.seen.contains(text) {
            let mut set = [rustix::event::PollFd::new(&self.master, rustix::event::PollFlags::IN)];
            let tick = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            if rustix::event::poll(&mut set, Some(&tick)).expect("poll") > 0 {
                let mut buffer = [0; 4096];
                let length = self.master.read(&mut buffer).unwrap_or(0);
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
            assert!(Instant::now() < deadline, "waited for {text:?}, saw {:?}", self.seen);
        }
        let end = self.seen.find(text).expect("found") + text.len();
        self.seen.drain(..end);
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("typed");
    }

    /// `setsid` is replaced by the launcher, or its parent.
    fn launcher(&self) -> Pid {
        let own = self.child.id();
        let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let pid = std::iter::once(own).chain(common::descendants(own)).find(|&pid| name(pid).trim() == "casemate");
        Pid::from_raw(pid.expect("the launcher").cast_signed()).expect("a pid")
    }
}

#[test]
fn input_output_and_size() {
    let mut session = Session::start("echo ready; read line; echo got:$line; stty size");
    session.expect("ready");
    session.type_in("hello\n");
    session.expect("got:hello");
    session.expect("24 80");
    assert_eq!(wait(&mut session.child).code(), Some(0));
}

#[test]
fn control_c_and_window_change() {
    let mut session = Session::start("trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done");
    session.expect("ready");
    tcsetwinsize(session.slave.as_fd(), Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).expect("size");
    session.expect("40 100");
    session.type_in("\x03");
    assert_eq!(wait(&mut session.child).code(), Some(130));
}

#[test]
fn the_mode_comes_back() {
    for script in ["stty raw -echo; exit 3", "stty raw -echo; kill -9 $$"] {
        let mut session = Session::start(script);
        let before = tcgetattr(&session.slave).expect("mode").local_modes;
        assert!(before.contains(LocalModes::ECHO | LocalModes::ICANON));
        wait(&mut session.child);
        assert_eq!(tcgetattr(&session.slave).expect("mode").local_modes, before, "{script}");
    }
}

#[test]
fn control_z_stops_the_launcher_too() {
    let mut session = Session::start("echo ready; read line; echo got:$line");
    session.expect("ready");
    let launcher = session.launcher();
    session.type_in("\x1a");
    let deadline = Instant::now() + Duration::from_secs(10);
    let stopped = |pid: Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    while !stopped(launcher) {
        assert!(Instant::now() < deadline, "not stopped");
        std::thread::yield_now();
    }
    kill_process(launcher, Signal::CONT).expect("continue");
    session.type_in("again\n");
    session.expect("got:again");
    assert_eq!(wait(&mut session.child).code(), Some(0));
    let _ = waitpid(None, WaitOptions::NOHANG);
}

#[test]
fn a_terminal_of_its_own_has_keys_and_size() {
    let script = "trap 'echo interrupted' INT; tty; stty size; echo ready; read line; echo got:$line; \
                  trap 'stty size; exit 4' WINCH; echo waiting; while :; do sleep 0.1; done";
    let mut session = Session::run(&["-it"], &["/bin/sh", "-c", script]);
    session.expect("/dev/pts/0\r\n24 80\r\nready");
    // Keys are the guest's: the caller's terminal passes all of them on, and echoes nothing.
    let modes = tcgetattr(&session.slave).expect("mode").local_modes;
    assert!(!modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
    session.type_in("helo\x7f\x7fllo\n");
    session.expect("helo\x08 \x08\x08 \x08llo\r\ngot:hello");
    session.expect("waiting");
    session.type_in("\x03");
    session.expect("interrupted");
    tcsetwinsize(session.slave.as_fd(), Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).expect("size");
    session.expect("40 100");
    assert_eq!(wait(&mut session.child).code(), Some(4));
    let modes = tcgetattr(&session.slave).expect("mode").local_modes;
    assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
}

#[test]
fn a_shell_controls_its_jobs() {
    let mut session =
        Session::run(&["-i", "-t", "-e", "PS1=> "], &["/bin/bash", "--norc", "--noprofile", "--noediting"]);
    session.expect("> ");
    session.type_in("cat\n");
    session.expect("cat\r\n");
    session.type_in("one\n");
    session.expect("one\r\none\r\n");
    session.type_in("\x1a");
    session.expect("Stopped");
    session.expect("> ");
    session.type_in("jobs; fg\n");
    session.expect("Stopped                 cat\r\ncat\r\n");
    session.type_in("two\n");
    session.expect("two\r\ntwo\r\n");
    session.type_in("\x04");
    session.expect("> ");
    // A key before the job has the terminal is the shell's, and the job then takes the terminal from it.
    session.type_in("sh -c 'echo st\"\"arted; exec sleep 1000'\n");
    session.expect("started\r\n");
    session.type_in("\x03");
    session.expect("> ");
    session.type_in("echo status $?; cat < /dev/tty & wait\n");
    session.expect("status 130");
    session.expect("Stopped");
    // The first is refused if the shell has not yet heard of the job's end.
    session.type_in("kill %1; exit 7 || exit 7\n");
    assert_eq!(wait(&mut session.child).code(), Some(7));
}

#[test]
fn all_that_a_terminal_shows_comes_out() {
    let mut session =
        Session::run(&["-t"], &["/bin/sh", "-c", "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done"]);
    // The guest's terminal makes \r\n of a line's end, and the caller's, which is not raw where nothing is typed, one more \r.
    session.expect("line 4999\r\r\n");
    assert_eq!(wait(&mut session.child).code(), Some(0));
}

#[test]
fn whatever_ends_the_launcher_the_mode_comes_back() {
    let mut session = Session::run(&["-it"], &["/bin/sh", "-c", "echo ready; cat"]);
    session.expect("ready");
    let launcher = session.launcher();
    kill_process(launcher, Signal::TERM).expect("signal");
    assert_eq!(wait(&mut session.child).code(), Some(143));
    let modes = tcgetattr(&session.slave).expect("mode").local_modes;
    assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
}

#[test]
fn streams_that_are_no_terminal_can_be_one_to_the_guest() {
    let output = Command::new("/bin/sh")
        .args(["-c", "printf 'typed\\n' | \"$0\" run -it -- /bin/sh -c 'test -t 0 && cat; echo end'"])
        .arg(casemate())
        .output()
        .expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "typed\r\ntyped\r\nend\r\n");
}
