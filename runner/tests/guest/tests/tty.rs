//! Pseudo-terminals: pts(4), ioctl_tty(2), termios(3).

use std::ffi::CString;
use std::time::Duration;

use casemate_guest_tests::{cvt, fork_status, in_child, steps, sys};

/// A pair of descriptors, closed in the end.
struct Pair {
    master: i64,
    slave: i64,
    number: u32,
}

impl Pair {
    fn new() -> Self {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let master = sys!(open, c"/dev/ptmx".as_ptr(), flags, 0).expect("ptmx");
        let unlocked = 0_i32;
        assert_eq!(sys!(ioctl, master, libc::TIOCSPTLCK, &raw const unlocked), Ok(0));
        let mut number = 0_u32;
        assert_eq!(sys!(ioctl, master, libc::TIOCGPTN, &raw mut number), Ok(0));
        let slave = sys!(open, name(number).as_ptr(), flags, 0).expect("slave");
        Self { master, slave, number }
    }

    fn raw() -> Self {
        let pair = Self::new();
        let mut modes = pair.modes();
        modes.c_iflag = 0;
        modes.c_oflag = 0;
        modes.c_lflag = 0;
        pair.set_modes(&modes);
        pair
    }

    fn modes(&self) -> libc::termios2 {
        modes_of(self.slave)
    }

    fn set_modes(&self, modes: &libc::termios2) {
        assert_eq!(sys!(ioctl, self.slave, libc::TCSETS2, modes as *const libc::termios2), Ok(0));
    }

    /// Types at the terminal, and waits until that is what `FIONREAD` counts.
    fn type_in(&self, bytes: &[u8], readable: i32) {
        assert_eq!(write(self.master, bytes), Ok(bytes.len()));
        until(|| waiting(self.slave) == readable);
    }

    /// What the terminal shows, once that is `expected`.
    fn shows(&self, expected: &[u8]) {
        let mut shown = Vec::new();
        while shown.len() < expected.len() {
            shown.extend(read(self.master, 4096).expect("shown"));
        }
        assert_eq!(shown.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = sys!(close, self.slave);
        let _ = sys!(close, self.master);
    }
}

fn name(number: u32) -> CString {
    CString::new(format!("/dev/pts/{number}")).expect("no zero byte")
}

fn modes_of(fd: i64) -> libc::termios2 {
    // SAFETY: 1. termios2 is plain data.
    let mut modes: libc::termios2 = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(ioctl, fd, libc::TCGETS2, &raw mut modes), Ok(0));
    modes
}

fn write(fd: i64, bytes: &[u8]) -> Result<usize, i32> {
    sys!(write, fd, bytes.as_ptr(), bytes.len()).map(|len| usize::try_from(len).expect("not negative"))
}

fn read(fd: i64, most: usize) -> Result<Vec<u8>, i32> {
    let mut buffer = vec![0_u8; most];
    let len = sys!(read, fd, buffer.as_mut_ptr(), most)?;
    buffer.truncate(usize::try_from(len).expect("not negative"));
    Ok(buffer)
}

fn waiting(fd: i64) -> i32 {
    let mut count = -1_i32;
    assert_eq!(sys!(ioctl, fd, libc::FIONREAD, &raw mut count), Ok(0));
    count
}

fn nonblocking(fd: i64) {
    let flags = sys!(fcntl, fd, libc::F_GETFL, 0).expect("flags");
    assert_eq!(sys!(fcntl, fd, libc::F_SETFL, flags | i64::from(libc::O_NONBLOCK)), Ok(0));
}

/// Yields until `done`: a terminal takes what was typed in its own time on Linux.
fn until(done: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "never");
        std::thread::yield_now();
    }
}

fn events(fd: i64) -> i16 {
    let asked = libc::POLLIN | libc::POLLOUT | libc::POLLPRI;
    let mut poll = libc::pollfd { fd: i32::try_from(fd).expect("fd"), events: asked, revents: 0 };
    sys!(poll, &raw mut poll, 1, 0).expect("poll");
    poll.revents
}

#[test]
fn names_and_numbers() {
    let pair = Pair::new();
    // SAFETY: 1. stat is plain data.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(fstat, pair.slave, &raw mut stat), Ok(0));
    assert_eq!(stat.st_mode & libc::S_IFMT, libc::S_IFCHR);
    assert_eq!((libc::major(stat.st_rdev), libc::minor(stat.st_rdev)), (136, pair.number));
    let link = std::fs::read_link(format!("/proc/self/fd/{}", pair.slave)).expect("link");
    assert_eq!(link.to_str(), name(pair.number).to_str().ok());
    let mut buffer = [0_u8; 64];
    let slave = i32::try_from(pair.slave).expect("fd");
    // SAFETY: 1. the buffer is as long as is said.
    assert_eq!(unsafe { libc::ttyname_r(slave, buffer.as_mut_ptr().cast(), buffer.len()) }, 0);
    assert!(buffer.starts_with(name(pair.number).as_bytes()));
    // SAFETY: 1. always sound.
    assert_eq!(unsafe { libc::isatty(slave) }, 1);
    let listed: Vec<_> = std::fs::read_dir("/dev/pts").expect("list").map(|e| e.expect("entry").file_name()).collect();
    assert!(listed.iter().any(|entry| *entry == *pair.number.to_string()));
    assert!(listed.iter().any(|entry| entry == "ptmx"));
    let mut device = 0_u32;
    assert_eq!(sys!(ioctl, pair.slave, libc::TIOCGDEV, &raw mut device), Ok(0));
    assert_eq!(device, 136 << 8 | pair.number);
    assert_eq!(sys!(ioctl, pair.slave, libc::TIOCGPTN, &raw mut device), Err(libc::ENOTTY));
    let number = pair.number;
    drop(pair);
    assert_eq!(sys!(open, name(number).as_ptr(), libc::O_RDWR | libc::O_NOCTTY, 0), Err(libc::ENOENT));
}

#[test]
fn locked_until_said_otherwise() {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = sys!(open, c"/dev/ptmx".as_ptr(), flags, 0).unwrap();
    let mut number = 0_u32;
    assert_eq!(sys!(ioctl, master, libc::TIOCGPTN, &raw mut number), Ok(0));
    let mut locked = 0_i32;
    assert_eq!(sys!(ioctl, master, libc::TIOCGPTLCK, &raw mut locked), Ok(0));
    assert_eq!(locked, 1);
    assert_eq!(sys!(open, name(number).as_ptr(), flags, 0), Err(libc::EIO));
    let unlocked = 0_i32;
    assert_eq!(sys!(ioctl, master, libc::TIOCSPTLCK, &raw const unlocked), Ok(0));
    let peer = sys!(ioctl, master, libc::TIOCGPTPEER, flags | libc::O_CLOEXEC).unwrap();
    assert_eq!(sys!(fcntl, peer, libc::F_GETFD, 0), Ok(1));
    assert_eq!(write(peer, b"x\n"), Ok(2));
    assert_eq!(read(master, 10), Ok(b"x\r\n".to_vec()));
    assert_eq!(sys!(close, peer), Ok(0));
    assert_eq!(sys!(close, master), Ok(0));
}

#[test]
fn a_new_terminal_is_sane() {
    let pair = Pair::new();
    let modes = pair.modes();
    assert_eq!(modes.c_iflag, libc::ICRNL | libc::IXON);
    assert_eq!(modes.c_oflag, libc::OPOST | libc::ONLCR);
    assert_eq!(modes.c_cflag, libc::B38400 | libc::CS8 | libc::CREAD);
    let local = libc::ISIG | libc::ICANON | libc::ECHO | libc::ECHOE | libc::ECHOK;
    assert_eq!(modes.c_lflag, local | libc::ECHOCTL | libc::ECHOKE | libc::IEXTEN);
    let chars = [3, 0x1c, 0x7f, 0x15, 4, 0, 1, 0, 0x11, 0x13, 0x1a, 0, 0x12, 0xf, 0x17, 0x16, 0, 0, 0];
    assert_eq!(modes.c_cc, chars);
    assert_eq!((modes.c_ispeed, modes.c_ospeed), (38400, 38400));
    // Either end has the terminal's modes and size.
    let mut other = modes;
    other.c_lflag &= !libc::ECHO;
    other.c_cflag = libc::B115200 | libc::CS5 | libc::PARENB;
    assert_eq!(sys!(ioctl, pair.master, libc::TCSETSW2, &raw const other), Ok(0));
    let seen = pair.modes();
    assert_eq!(seen.c_lflag & libc::ECHO, 0);
    assert_eq!(seen.c_cflag, libc::B115200 | libc::CS8 | libc::CREAD);
    assert_eq!(seen.c_ospeed, 115_200);
    let size = libc::winsize { ws_row: 33, ws_col: 99, ws_xpixel: 1, ws_ypixel: 2 };
    assert_eq!(sys!(ioctl, pair.master, libc::TIOCSWINSZ, &raw const size), Ok(0));
    let mut got = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    assert_eq!(sys!(ioctl, pair.slave, libc::TIOCGWINSZ, &raw mut got), Ok(0));
    assert_eq!((got.ws_row, got.ws_col, got.ws_xpixel, got.ws_ypixel), (33, 99, 1, 2));
    assert_eq!(sys!(ioctl, pair.slave, 0x7777, 0), Err(libc::ENOTTY));
    assert_eq!(sys!(ioctl, pair.slave, libc::TCGETS, 16), Err(libc::EFAULT));
    let mut discipline = 7_i32;
    assert_eq!(sys!(ioctl, pair.slave, libc::TIOCGETD, &raw mut discipline), Ok(0));
    assert_eq!(discipline, 0);
    assert_eq!(sys!(lseek, pair.slave, 0, libc::SEEK_SET), Err(libc::ESPIPE));
}

#[test]
fn lines_are_edited_echoed_and_read() {
    let pair = Pair::new();
    nonblocking(pair.slave);
    assert_eq!(read(pair.slave, 10), Err(libc::EAGAIN));
    pair.type_in(b"hexx\x7f\x7fllo\r", 6);
    pair.shows(b"hexx\x08 \x08\x08 \x08llo\r\n");
    assert_eq!(read(pair.slave, 3), Ok(b"hel".to_vec()));
    assert_eq!(read(pair.slave, 100), Ok(b"lo\n".to_vec()));
    pair.type_in(b"one\ntwo\nthr", 8);
    assert_eq!(read(pair.slave, 100), Ok(b"one\n".to_vec()));
    assert_eq!(read(pair.slave, 100), Ok(b"two\n".to_vec()));
    assert_eq!(read(pair.slave, 100), Err(libc::EAGAIN));
    pair.type_in(b"ee\x04", 5);
    assert_eq!(read(pair.slave, 100), Ok(b"three".to_vec()));
    // An end of file by itself is an empty read, and only one.
    assert_eq!(write(pair.master, b"\x04"), Ok(1));
    until(|| events(pair.slave) & libc::POLLIN != 0);
    assert_eq!(read(pair.slave, 100), Ok(Vec::new()));
    assert_eq!(read(pair.slave, 100), Err(libc::EAGAIN));
    pair.shows(b"one\r\ntwo\r\nthree");
    pair.type_in(b"kill me\x15word gone\x17left\x16\x03\n", 11);
    assert_eq!(read(pair.slave, 100), Ok(b"word left\x03\n".to_vec()));
    assert_eq!(write(pair.slave, b"a\tb\nc"), Ok(5));
}

#[test]
fn a_line_that_is_too_long_is_cut() {
    let pair = Pair::new();
    let mut modes = pair.modes();
    modes.c_lflag &= !libc::ECHO;
    pair.set_modes(&modes);
    for _ in 0..10 {
        assert_eq!(write(pair.master, &[b'x'; 500]), Ok(500));
    }
    assert_eq!(write(pair.master, b"yz\n"), Ok(3));
    let line = read(pair.slave, 10_000).unwrap();
    assert_eq!((line.len(), &line[4093..]), (4096, &b"xx\n"[..]));
}

#[test]
fn raw_reads_wait_for_bytes_and_time() {
    let pair = Pair::raw();
    let mut modes = pair.modes();
    modes.c_cc[libc::VMIN] = 5;
    pair.set_modes(&modes);
    pair.type_in(b"abc", 3);
    assert_eq!(events(pair.slave), libc::POLLOUT, "not enough for a read");
    let (master, slave) = (pair.master, pair.slave);
    let reader = std::thread::spawn(move || read(slave, 100));
    assert_eq!(write(master, b"de"), Ok(2));
    assert_eq!(reader.join().expect("reads"), Ok(b"abcde".to_vec()));
    // Between bytes, a time.
    modes.c_cc[libc::VTIME] = 1;
    pair.set_modes(&modes);
    pair.type_in(b"abc", 3);
    assert_eq!(read(slave, 100), Ok(b"abc".to_vec()));
    // For the first byte, a time.
    modes.c_cc[libc::VMIN] = 0;
    pair.set_modes(&modes);
    let start = std::time::Instant::now();
    assert_eq!(read(slave, 100), Ok(Vec::new()));
    assert!(start.elapsed() >= Duration::from_millis(90));
    modes.c_cc[libc::VTIME] = 0;
    pair.set_modes(&modes);
    assert_eq!(read(slave, 100), Ok(Vec::new()));
    nonblocking(slave);
    assert_eq!(read(slave, 100), Ok(Vec::new()));
    modes.c_cc[libc::VMIN] = 9;
    pair.set_modes(&modes);
    assert_eq!(read(slave, 100), Err(libc::EAGAIN));
    pair.type_in(b"four", 4);
    assert_eq!(read(slave, 100), Ok(b"four".to_vec()));
}

#[test]
fn much_passes_both_ways() {
    let pair = Pair::raw();
    let text: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    for (from, to) in [(pair.slave, pair.master), (pair.master, pair.slave)] {
        let given = text.clone();
        let writer = std::thread::spawn(move || write(from, &given));
        let mut got = Vec::new();
        while got.len() < text.len() {
            got.extend(read(to, 5000).expect("bytes"));
        }
        assert_eq!(writer.join().expect("writes"), Ok(text.len()));
        assert!(got == text);
    }
    // Without a reader there is an end to it, and room again when there is one.
    for (from, to) in [(pair.slave, pair.master), (pair.master, pair.slave)] {
        nonblocking(from);
        let mut total = 0;
        while let Ok(len) = write(from, &[7; 1000]) {
            total += len;
            assert!(total < 1 << 20);
        }
        assert!(total >= 4096);
        assert_eq!(events(from) & libc::POLLOUT, 0);
        let mut got = 0;
        while got < total {
            got += read(to, 8192).expect("bytes").len();
        }
        until(|| events(from) & libc::POLLOUT != 0);
    }
}

#[test]
fn output_stops_and_goes_on() {
    let pair = Pair::new();
    nonblocking(pair.slave);
    nonblocking(pair.master);
    assert_eq!(write(pair.master, b"\x13"), Ok(1));
    until(|| events(pair.slave) & libc::POLLOUT == 0);
    assert_eq!(write(pair.slave, b"x"), Err(libc::EAGAIN));
    assert_eq!(write(pair.master, b"\x11"), Ok(1));
    until(|| events(pair.slave) & libc::POLLOUT != 0);
    assert_eq!(sys!(ioctl, pair.slave, libc::TCXONC, libc::TCOOFF), Ok(0));
    assert_eq!(write(pair.slave, b"x"), Err(libc::EAGAIN));
    assert_eq!(sys!(ioctl, pair.slave, libc::TCXONC, libc::TCOON), Ok(0));
    assert_eq!(write(pair.slave, b"x"), Ok(1));
    pair.shows(b"x");
    assert_eq!(sys!(ioctl, pair.slave, libc::TCXONC, libc::TCIOFF), Ok(0));
    assert_eq!(read(pair.master, 10), Ok(b"\x13".to_vec()));
    assert_eq!(sys!(ioctl, pair.slave, libc::TCXONC, 9), Err(libc::EINVAL));
    pair.type_in(b"gone\n", 5);
    assert_eq!(sys!(ioctl, pair.slave, libc::TCFLSH, libc::TCIFLUSH), Ok(0));
    assert_eq!(waiting(pair.slave), 0);
    assert_eq!(read(pair.slave, 10), Err(libc::EAGAIN));
    assert_eq!(sys!(ioctl, pair.slave, libc::TCFLSH, 7), Err(libc::EINVAL));
    assert_eq!(sys!(ioctl, pair.slave, libc::TCSBRK, 1), Ok(0));
    let mut queued = 9_i32;
    assert_eq!(sys!(ioctl, pair.slave, libc::TIOCOUTQ, &raw mut queued), Ok(0));
    assert_eq!(queued, 0);
}

#[test]
fn packets_tell_what_happens() {
    let pair = Pair::new();
    let on = 1_i32;
    assert_eq!(sys!(ioctl, pair.slave, libc::TIOCPKT, &raw const on), Err(libc::ENOTTY));
    assert_eq!(sys!(ioctl, pair.master, libc::TIOCPKT, &raw const on), Ok(0));
    assert_eq!(write(pair.slave, b"text"), Ok(4));
    assert_eq!(read(pair.master, 100), Ok(b"\0text".to_vec()));
    assert_eq!(sys!(ioctl, pair.slave, libc::TCFLSH, libc::TCIOFLUSH), Ok(0));
    assert_eq!(events(pair.master), libc::POLLIN | libc::POLLPRI | libc::POLLOUT);
    assert_eq!(read(pair.master, 100), Ok(vec![1 | 2]));
    assert_eq!(sys!(ioctl, pair.slave, libc::TCXONC, libc::TCOOFF), Ok(0));
    assert_eq!(read(pair.master, 100), Ok(vec![4]));
    assert_eq!(sys!(ioctl, pair.slave, libc::TCXONC, libc::TCOON), Ok(0));
    assert_eq!(read(pair.master, 100), Ok(vec![8]));
    let mut modes = pair.modes();
    modes.c_iflag &= !libc::IXON;
    pair.set_modes(&modes);
    assert_eq!(read(pair.master, 100), Ok(vec![16]));
    modes.c_iflag |= libc::IXON;
    pair.set_modes(&modes);
    assert_eq!(read(pair.master, 100), Ok(vec![32]));
    assert_eq!(events(pair.master), libc::POLLOUT);
}

#[test]
fn the_end_of_either_side() {
    let pair = Pair::new();
    assert_eq!(write(pair.slave, b"last"), Ok(4));
    assert_eq!(sys!(close, pair.slave), Ok(0));
    until(|| events(pair.master) & libc::POLLHUP != 0);
    assert_eq!(read(pair.master, 100), Ok(b"last".to_vec()));
    assert_eq!(read(pair.master, 100), Err(libc::EIO));
    let slave = sys!(open, name(pair.number).as_ptr(), libc::O_RDWR | libc::O_NOCTTY, 0).unwrap();
    assert_eq!(events(pair.master) & libc::POLLHUP, 0);
    let reader = std::thread::spawn(move || read(slave, 100));
    assert_eq!(sys!(close, pair.master), Ok(0));
    assert_eq!(reader.join().expect("reads"), Ok(Vec::new()));
    let all = libc::POLLIN | libc::POLLOUT | libc::POLLERR | libc::POLLHUP;
    assert_eq!(events(slave), all);
    assert_eq!(read(slave, 100), Ok(Vec::new()));
    assert_eq!(write(slave, b"x"), Err(libc::EIO));
    assert_eq!(sys!(ioctl, slave, libc::TIOCGPGRP, 0), Err(libc::EIO));
    assert_eq!(sys!(ioctl, slave, libc::TIOCSPGRP, 0), Err(libc::ENOTTY));
    assert_eq!(sys!(close, slave), Ok(0));
    std::mem::forget(pair);
}

#[test]
fn exclusive_terminals_refuse_others() {
    let pair = Pair::new();
    assert_eq!(sys!(ioctl, pair.slave, libc::TIOCEXCL), Ok(0));
    let mut exclusive = 0_i32;
    assert_eq!(sys!(ioctl, pair.slave, libc::TIOCGEXCL, &raw mut exclusive), Ok(0));
    assert_eq!(exclusive, 1);
    let again = || sys!(open, name(pair.number).as_ptr(), libc::O_RDWR | libc::O_NOCTTY, 0);
    if !casemate_guest_tests::is_root() {
        assert_eq!(again(), Err(libc::EBUSY));
    }
    assert_eq!(sys!(ioctl, pair.slave, libc::TIOCNXCL), Ok(0));
    assert_eq!(sys!(close, again().unwrap()), Ok(0));
}

/// Administrators may say what no change of the modes changes.
#[test]
fn locked_modes_stay() {
    let pair = Pair::new();
    // SAFETY: 1. zeroes are a termios.
    let [mut now, mut lock] = unsafe { std::mem::zeroed::<[libc::termios; 2]>() };
    assert_eq!(sys!(ioctl, pair.slave, libc::TIOCGLCKTRMIOS, &raw mut lock), Ok(0));
    assert_eq!((lock.c_lflag, lock.c_cc[libc::VINTR]), (0, 0));
    lock.c_lflag = libc::ECHO;
    lock.c_cc[libc::VINTR] = 1;
    let locked = sys!(ioctl, pair.master, libc::TIOCSLCKTRMIOS, &raw const lock);
    assert_eq!(locked, if casemate_guest_tests::is_root() { Ok(0) } else { Err(libc::EPERM) });
    assert_eq!(sys!(ioctl, pair.slave, libc::TCGETS, &raw mut now), Ok(0));
    let mut changed = now;
    changed.c_lflag &= !(libc::ECHO | libc::ECHOE);
    changed.c_cc[libc::VINTR] = 5;
    changed.c_cc[libc::VQUIT] = 6;
    assert_eq!(sys!(ioctl, pair.slave, libc::TCSETS, &raw const changed), Ok(0));
    assert_eq!(sys!(ioctl, pair.slave, libc::TCGETS, &raw mut now), Ok(0));
    let (echoes, interrupt) = if locked == Ok(0) { (libc::ECHO, 3) } else { (0, 5) };
    assert_eq!((now.c_lflag & (libc::ECHO | libc::ECHOE), now.c_cc[libc::VINTR]), (echoes, interrupt));
    assert_eq!(now.c_cc[libc::VQUIT], 6);
}

/// Runs `body` in a child that leads a session of its own; 0 is success.
fn in_session(pair: &Pair, body: impl FnOnce(&Pair) -> i32) {
    in_child(|| {
        if sys!(setsid).is_err() {
            return 99;
        }
        body(pair)
    });
}

fn group_of(fd: i64) -> Result<i64, i32> {
    let mut group = 0_i32;
    sys!(ioctl, fd, libc::TIOCGPGRP, &raw mut group).map(|_| i64::from(group))
}

fn set_group(fd: i64, group: i64) -> Result<i64, i32> {
    let group = i32::try_from(group).unwrap_or(-1);
    sys!(ioctl, fd, libc::TIOCSPGRP, &raw const group)
}

/// Fields of `/proc/self/stat`: tty_nr and tpgid.
fn own_terminal() -> (i64, i64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let field = |at: usize| rest.get(at).and_then(|text| text.parse().ok()).unwrap_or(-99);
    (field(4), field(5))
}

fn open_tty() -> Result<i64, i32> {
    sys!(open, c"/dev/tty".as_ptr(), libc::O_RDWR, 0)
}

#[test]
fn a_session_gets_its_terminal() {
    let pair = Pair::new();
    in_session(&pair, |pair| {
        // What the leader gives up hangs up on its foreground, which it is.
        ignore(libc::SIGHUP);
        let pid = sys!(getpid).unwrap_or(-1);
        let device = 136 << 8 | i64::from(pair.number);
        let before = [
            open_tty() == Err(libc::ENXIO),
            own_terminal() == (0, -1),
            group_of(pair.slave) == Err(libc::ENOTTY),
            // Of no session yet, which the master may be told.
            group_of(pair.master) == Ok(0),
            sys!(ioctl, pair.slave, libc::TIOCNOTTY) == Err(libc::ENOTTY),
            sys!(ioctl, pair.slave, libc::TIOCSCTTY, 0) == Ok(0),
            sys!(ioctl, pair.slave, libc::TIOCSCTTY, 0) == Ok(0),
            own_terminal() == (device, pid),
            group_of(pair.slave) == Ok(pid),
            group_of(pair.master) == Ok(pid),
        ];
        let tty = open_tty();
        let mut session = 0_i32;
        let after = [
            tty.is_ok(),
            sys!(ioctl, tty.unwrap_or(-1), libc::TIOCGSID, &raw mut session) == Ok(0),
            i64::from(session) == pid,
            write(tty.unwrap_or(-1), b"hi") == Ok(2),
            set_group(pair.slave, 0x3fff_ffff) == Err(libc::ESRCH),
            set_group(pair.slave, -1) == Err(libc::EINVAL),
            // Another session's.
            set_group(pair.slave, sys!(getppid).unwrap_or(1)) == Err(libc::EPERM),
            sys!(ioctl, pair.slave, libc::TIOCNOTTY) == Ok(0),
            open_tty() == Err(libc::ENXIO),
            own_terminal() == (0, -1),
        ];
        steps(&[before.as_slice(), after.as_slice()].concat())
    });
    pair.shows(b"hi");
}

#[test]
fn opening_a_terminal_can_take_it() {
    let pair = Pair::new();
    let open = |flags: i32| sys!(open, name(pair.number).as_ptr(), flags, 0).is_ok();
    in_session(&pair, |_| {
        steps(&[
            open(libc::O_RDWR | libc::O_NOCTTY) && own_terminal().0 == 0,
            open(libc::O_WRONLY) && own_terminal().0 == 0,
            open(libc::O_RDWR) && own_terminal().0 != 0,
            // Somebody else's now.
            fork_status(|| {
                let _ = sys!(setsid);
                let stolen = open(libc::O_RDWR) && own_terminal().0 != 0;
                i32::from(stolen || sys!(ioctl, pair.slave, libc::TIOCSCTTY, 0) != Err(libc::EPERM))
            }) == 0,
        ])
    });
}

/// Ignores SIGHUP, so that the end of a terminal does not end a test.
fn ignore(signal: i32) {
    // SAFETY: 1. SIG_IGN is no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// A set of one signal, blocked.
fn block(signal: i32) -> u64 {
    let set = 1_u64 << (signal - 1);
    let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8);
    set
}

/// Waits for a signal of `set`.
fn await_signal(set: u64) -> Result<i64, i32> {
    let limit = libc::timespec { tv_sec: 20, tv_nsec: 0 };
    sys!(rt_sigtimedwait, &raw const set, 0, &raw const limit, 8)
}

#[test]
fn keys_and_sizes_signal_the_foreground() {
    let pair = Pair::new();
    in_session(&pair, |pair| {
        let signals = [(libc::SIGINT, 3_u8), (libc::SIGQUIT, 0x1c), (libc::SIGTSTP, 0x1a)];
        let _ = sys!(ioctl, pair.slave, libc::TIOCSCTTY, 0);
        for (signal, key) in signals {
            let set = block(signal);
            if write(pair.master, &[b'x', key]) != Ok(2) || await_signal(set) != Ok(i64::from(signal)) {
                return signal;
            }
        }
        let set = block(libc::SIGWINCH);
        let size = libc::winsize { ws_row: 5, ws_col: 6, ws_xpixel: 0, ws_ypixel: 0 };
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        steps(&[
            waiting(pair.slave) == 0,
            sys!(ioctl, pair.master, libc::TIOCSWINSZ, &raw const size) == Ok(0),
            await_signal(set) == Ok(libc::SIGWINCH.into()),
            sys!(ioctl, pair.master, libc::TIOCSWINSZ, &raw const size) == Ok(0),
            sys!(rt_sigtimedwait, &raw const set, 0, &raw const none, 8) == Err(libc::EAGAIN),
            sys!(ioctl, pair.master, libc::TIOCSIG, libc::SIGKILL) == Err(libc::EINVAL),
            sys!(ioctl, pair.master, libc::TIOCSIG, libc::SIGINT) == Ok(0),
            await_signal(1 << (libc::SIGINT - 1)) == Ok(libc::SIGINT.into()),
        ])
    });
}

/// A child in a process group of its own, in the background of the caller's terminal; its wait status when it has stopped
/// or ended, and its number.
fn background(body: impl FnOnce() -> i32) -> (i64, i32) {
    let pid = i64::from(casemate_guest_tests::child(|| {
        let _ = sys!(setpgid, 0, 0);
        body()
    }));
    let _ = sys!(setpgid, pid, pid);
    (pid, wait_untraced(pid))
}

fn wait_untraced(pid: i64) -> i32 {
    let mut status = 0_i32;
    let _ = sys!(wait4, pid, &raw mut status, libc::WUNTRACED, 0);
    status
}

fn stopped_by(status: i32, signal: i32) -> bool {
    libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == signal
}

#[test]
fn the_background_waits_its_turn() {
    let pair = Pair::new();
    in_session(&pair, |pair| {
        let _ = sys!(ioctl, pair.slave, libc::TIOCSCTTY, 0);
        let own = sys!(getpid).unwrap_or(-1);
        // Reading stops it; in the foreground the read goes on where it was.
        let slave = pair.slave;
        let (pid, status) = background(|| i32::from(read(slave, 100) != Ok(b"line\n".to_vec())));
        let read_stops = stopped_by(status, libc::SIGTTIN);
        let moved = set_group(slave, pid) == Ok(0) && sys!(kill, -pid, libc::SIGCONT) == Ok(0);
        let typed = write(pair.master, b"line\n") == Ok(5);
        let read_again = wait_untraced(pid) == 0;
        // Whoever changes the terminal from the background is stopped, unless that is what it ignores.
        ignore(libc::SIGTTOU);
        let back = set_group(slave, own) == Ok(0);
        let (ignoring, ignored) = background(|| i32::from(read(slave, 1).err() == Some(libc::EIO)));
        let _ = sys!(kill, -ignoring, libc::SIGKILL);
        let stops_anyway = stopped_by(ignored, libc::SIGTTIN) && wait_untraced(ignoring) != 0;
        let (_, blocked) = background(|| {
            block(libc::SIGTTIN);
            i32::from(read(slave, 1) != Err(libc::EIO))
        });
        // SAFETY: 1. SIG_DFL is no handler.
        unsafe { libc::signal(libc::SIGTTOU, libc::SIG_DFL) };
        let modes = modes_of(slave);
        let (pid, status) = background(|| {
            // SAFETY: 1. termios2 is plain data, and alive.
            i32::from(sys!(ioctl, slave, libc::TCSETS2, &raw const modes) != Ok(0))
        });
        let change_stops = stopped_by(status, libc::SIGTTOU);
        let _ = sys!(kill, -pid, libc::SIGKILL);
        let gone = wait_untraced(pid) == libc::SIGKILL;
        // Printing is free unless TOSTOP says otherwise.
        let (_, prints) = background(|| i32::from(write(slave, b"free") != Ok(4)));
        let mut strict = modes;
        strict.c_lflag |= libc::TOSTOP;
        let strict_set = sys!(ioctl, slave, libc::TCSETS2, &raw const strict) == Ok(0);
        let (pid, status) = background(|| i32::from(write(slave, b"held") != Ok(4)));
        let print_stops = stopped_by(status, libc::SIGTTOU);
        let _ = sys!(kill, -pid, libc::SIGKILL);
        wait_untraced(pid);
        steps(&[
            read_stops,
            moved,
            typed,
            read_again,
            back,
            stops_anyway,
            blocked == 0,
            change_stops,
            gone,
            prints == 0,
            strict_set,
            print_stops,
        ])
    });
}

#[test]
fn an_orphaned_group_reads_nothing() {
    let pair = Pair::new();
    in_session(&pair, |pair| {
        let _ = sys!(ioctl, pair.slave, libc::TIOCSCTTY, 0);
        let slave = pair.slave;
        let (report, answer) = casemate_guest_tests::pipe(libc::O_CLOEXEC);
        // The grandchild's parent goes, and with it the last who could continue its group.
        let middle = casemate_guest_tests::child(|| {
            let _ = sys!(setpgid, 0, 0);
            let own = sys!(getpid);
            casemate_guest_tests::child(|| {
                while sys!(getppid) == own {
                    let _ = sys!(sched_yield);
                }
                let errno = read(slave, 1).err().unwrap_or(0);
                let byte = u8::try_from(errno).unwrap_or(255);
                let _ = write(answer.into(), &[byte]);
                0
            });
            0
        });
        let _ = casemate_guest_tests::wait_status(middle);
        let errno = read(report.into(), 1);
        steps(&[errno == Ok(vec![u8::try_from(libc::EIO).unwrap_or(0)])])
    });
}

#[test]
fn the_end_of_a_terminal_is_told() {
    let pair = Pair::new();
    in_session(&pair, |pair| {
        let _ = sys!(ioctl, pair.slave, libc::TIOCSCTTY, 0);
        let hup = block(libc::SIGHUP);
        let cont = block(libc::SIGCONT);
        // The last copy of the master goes: the test's own is closed in this child, and the parent's is another process's.
        let own = Pair::new();
        let mine = [
            sys!(ioctl, pair.slave, libc::TIOCNOTTY) == Ok(0),
            sys!(ioctl, own.slave, libc::TIOCSCTTY, 0) == Ok(0),
            await_signal(hup) == Ok(libc::SIGHUP.into()),
            await_signal(cont) == Ok(libc::SIGCONT.into()),
            sys!(close, own.master) == Ok(0),
            await_signal(hup) == Ok(libc::SIGHUP.into()),
            await_signal(cont) == Ok(libc::SIGCONT.into()),
            own_terminal() == (0, -1),
            open_tty() == Err(libc::ENXIO),
        ];
        std::mem::forget(own);
        steps(&mine)
    });
}

#[test]
fn the_end_of_a_session_is_told() {
    let pair = Pair::new();
    let (report, answer) = casemate_guest_tests::pipe(libc::O_CLOEXEC);
    in_session(&pair, |pair| {
        let _ = sys!(ioctl, pair.slave, libc::TIOCSCTTY, 0);
        let (ready, go) = casemate_guest_tests::pipe(libc::O_CLOEXEC);
        casemate_guest_tests::child(|| {
            let set = block(libc::SIGHUP);
            let _ = write(go.into(), b"!");
            let told = await_signal(set) == Ok(libc::SIGHUP.into());
            let lost = own_terminal() == (0, -1);
            let _ = write(answer.into(), &[u8::from(told), u8::from(lost)]);
            0
        });
        i32::from(read(ready.into(), 1) != Ok(b"!".to_vec()))
    });
    assert_eq!(read(report.into(), 2), Ok(vec![1, 1]));
    assert_eq!(group_of(pair.master), Ok(0));
    let _ = (sys!(close, report), sys!(close, answer));
}

#[test]
fn input_is_not_pushed() {
    let pair = Pair::new();
    if casemate_guest_tests::is_root() {
        assert_eq!(sys!(ioctl, pair.slave, libc::TIOCSTI, b"q\n".as_ptr()), Ok(0));
        pair.type_in(b"\n", 2);
        return;
    }
    let refused = sys!(ioctl, pair.slave, libc::TIOCSTI, b"q".as_ptr());
    assert!(matches!(refused, Err(libc::EIO | libc::EPERM)), "{refused:?}");
}

#[test]
fn old_requests_work() {
    let pair = Pair::new();
    // struct termio: four halves of flags, the discipline, eight characters.
    let mut old = [0_u8; 18];
    assert_eq!(sys!(ioctl, pair.slave, libc::TCGETA, old.as_mut_ptr()), Ok(0));
    assert_eq!(u16::from_ne_bytes([old[0], old[1]]), u16::try_from(libc::ICRNL | libc::IXON).unwrap());
    assert_eq!(&old[9..17], &[3, 0x1c, 0x7f, 0x15, 4, 0, 1, 0]);
    old[9] = 0x18;
    assert_eq!(sys!(ioctl, pair.slave, libc::TCSETA, old.as_ptr()), Ok(0));
    assert_eq!(pair.modes().c_cc[libc::VINTR], 0x18);
    assert_eq!(cvt(0), Ok(0));
}
