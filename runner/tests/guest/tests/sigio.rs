//! Signals for who owns a file that becomes ready: fcntl(2), "Managing signals"; signal(7).

use std::sync::atomic::{AtomicI32, Ordering};

use casemate_guest_tests::signals::{Info, SI_KERNEL, bit, block, pending, take};
use casemate_guest_tests::{Scratch, child, in_child, is_root, pipe, steps, sys, wait_status};

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_OWNER_TID: i32 = 0;
const F_OWNER_PID: i32 = 1;
const F_OWNER_PGRP: i32 = 2;
const FIOSETOWN: u32 = 0x8901;
const FIOGETOWN: u32 = 0x8903;

const POLL_IN: i32 = 1;
const POLL_OUT: i32 = 2;
const POLL_HUP: i32 = 6;
const SI_SIGIO: i32 = -5;

const IN: i32 = 0x41;
const OUT: i32 = 0x304;
const HUP: i32 = 0x18;

/// The signal that the tests ask for.
fn asked() -> i32 {
    libc::SIGRTMIN() + 3
}

/// Blocks what the tests use.
fn block_all() {
    block(bit(libc::SIGIO) | bit(asked()) | bit(libc::SIGCHLD) | bit(libc::SIGUSR1));
}

fn pid() -> i64 {
    sys!(getpid).unwrap()
}

/// Sets O_ASYNC beside what else is set.
fn set_async(fd: i64) {
    let flags = sys!(fcntl, fd, libc::F_GETFL, 0).unwrap();
    assert_eq!(sys!(fcntl, fd, libc::F_SETFL, flags | i64::from(libc::O_ASYNC)), Ok(0));
}

/// Makes this process the owner, by the signal `asked`, and sets O_ASYNC.
fn own(fd: i64) {
    assert_eq!(sys!(fcntl, fd, libc::F_SETOWN, pid()), Ok(0));
    assert_eq!(sys!(fcntl, fd, F_SETSIG, asked()), Ok(0));
    set_async(fd);
}

fn put(fd: i64) {
    assert_eq!(sys!(write, fd, c"x".as_ptr(), 1), Ok(1));
}

fn get(fd: i64) {
    let mut byte = 0_u8;
    assert_eq!(sys!(read, fd, &raw mut byte, 1), Ok(1));
}

fn ends(flags: i32) -> (i64, i64) {
    let (read, write) = pipe(flags);
    (read.into(), write.into())
}

fn sockets(kind: i32) -> (i64, i64) {
    let mut pair = [0_i32; 2];
    assert_eq!(sys!(socketpair, libc::AF_UNIX, kind | libc::SOCK_NONBLOCK, 0, pair.as_mut_ptr()), Ok(0));
    (pair[0].into(), pair[1].into())
}

/// Whom a file signals: F_GETOWN's negative numbers look like errors.
fn owner_of(fd: i64) -> (i32, i64) {
    let mut owner = [7_i32; 2];
    assert_eq!(sys!(fcntl, fd, F_GETOWN_EX, owner.as_mut_ptr()), Ok(0));
    (owner[0], owner[1].into())
}

/// What a signal says of a file.
fn tells(info: Info, signal: i32, code: i32, band: i32, fd: i64) -> bool {
    info[0] == signal && info[1] == 0 && info[2] == code && info[4..7] == [band, 0, i32::try_from(fd).unwrap()]
}

/// Takes the signal `asked`, and says whether that is what it tells and there is no other.
fn told(code: i32, band: i32, fd: i64) -> bool {
    tells(take(asked()), asked(), code, band, fd) && !pending(asked())
}

#[test]
fn the_plain_signal_says_nothing_and_others_say_which_descriptor() {
    in_child(|| {
        block_all();
        let (read, write) = ends(0);
        assert_eq!(sys!(fcntl, read, libc::F_SETOWN, pid()), Ok(0));
        put(write);
        let too_soon = pending(libc::SIGIO);
        set_async(read);
        let not_for_old_news = !pending(libc::SIGIO);
        put(write);
        let plain = take(libc::SIGIO);
        let mut checks = vec![!too_soon, not_for_old_news, plain[0] == libc::SIGIO && plain[2] == SI_KERNEL];
        checks.push(plain[4..7] == [0, 0, 0]);
        // SIGIO as a choice says more than SIGIO for want of one.
        assert_eq!(sys!(fcntl, read, F_SETSIG, libc::SIGIO), Ok(0));
        put(write);
        checks.push(tells(take(libc::SIGIO), libc::SIGIO, POLL_IN, IN, read));
        // SIGCHLD has codes of its own.
        assert_eq!(sys!(fcntl, read, F_SETSIG, libc::SIGCHLD), Ok(0));
        put(write);
        checks.push(tells(take(libc::SIGCHLD), libc::SIGCHLD, SI_SIGIO, IN, read));
        // One for each write, queued.
        assert_eq!(sys!(fcntl, read, F_SETSIG, asked()), Ok(0));
        (0..3).for_each(|_| put(write));
        checks.extend((0..3).map(|_| tells(take(asked()), asked(), POLL_IN, IN, read)));
        checks.push(!pending(asked()));
        // Not any more.
        assert_eq!(sys!(fcntl, read, libc::F_SETFL, 0), Ok(0));
        put(write);
        checks.push(!pending(asked()) && !pending(libc::SIGIO));
        steps(&checks)
    });
}

static CAUGHT: AtomicI32 = AtomicI32::new(0);

extern "C" fn count(_signal: i32) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_handler_runs_before_the_call_that_made_the_event_returns() {
    in_child(|| {
        // SAFETY: 1. the handler only counts.
        unsafe { libc::signal(libc::SIGIO, count as extern "C" fn(i32) as usize) };
        let (read, write) = ends(libc::O_NONBLOCK);
        assert_eq!(sys!(fcntl, read, libc::F_SETOWN, pid()), Ok(0));
        set_async(read);
        let mut checks = Vec::new();
        for round in 1..=100 {
            put(write);
            checks.push(CAUGHT.load(Ordering::Relaxed) == round);
        }
        // Many bytes at once: their readers may be told later, owners are not.
        let page = [0_u8; 8192];
        assert_eq!(sys!(write, write, page.as_ptr(), page.len()), Ok(8192));
        checks.push(CAUGHT.load(Ordering::Relaxed) == 101);
        steps(&checks)
    });
}

#[test]
fn pipes_tell_of_input_room_and_ends() {
    in_child(|| {
        block_all();
        let (read, write) = ends(libc::O_NONBLOCK);
        own(read);
        put(write);
        let input = told(POLL_IN, IN, read);
        // One's own reading is no news to a reader.
        get(read);
        let silent = !pending(asked());
        own(write);
        put(write);
        let once = told(POLL_IN, IN, read);
        get(read);
        let room = told(POLL_OUT, OUT, write);
        // A copy tells of the number that was asked by, and so does what is left of it.
        let copy = sys!(dup, read).unwrap();
        assert_eq!(sys!(close, read), Ok(0));
        put(write);
        let by_copy = told(POLL_IN, IN, read);
        assert_eq!(sys!(close, copy), Ok(0));
        let no_reader = told(POLL_OUT, OUT, write);
        let (read, write) = ends(libc::O_NONBLOCK);
        own(read);
        assert_eq!(sys!(close, write), Ok(0));
        let no_writer = told(POLL_IN, IN, read);
        steps(&[input, silent, once, room, by_copy, no_reader, no_writer])
    });
}

#[test]
fn a_fifo_that_is_both_ends_hears_of_both() {
    let scratch = Scratch::new("sigio");
    let path = scratch.c_path("fifo");
    assert_eq!(sys!(mknod, path.as_ptr(), libc::S_IFIFO | 0o600, 0), Ok(0));
    in_child(|| {
        block_all();
        let fifo = sys!(open, path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK, 0).unwrap();
        own(fifo);
        put(fifo);
        let input = told(POLL_IN, IN, fifo);
        get(fifo);
        let room = told(POLL_OUT, OUT, fifo);
        // O_ASYNC at open(2) is a flag and nothing more, until it changes.
        let early = sys!(open, path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK | libc::O_ASYNC, 0).unwrap();
        assert_eq!(sys!(close, fifo), Ok(0));
        own(early);
        put(early);
        let nothing = !pending(asked());
        steps(&[input, room, nothing])
    });
}

#[test]
fn sockets_tell_of_messages_room_and_ends() {
    in_child(|| {
        block_all();
        let (one, other) = sockets(libc::SOCK_STREAM);
        own(one);
        put(other);
        let input = told(POLL_IN, IN, one);
        // Room is news only to who missed it.
        put(one);
        get(other);
        let silent = !pending(asked());
        let page = [0_u8; 4096];
        while sys!(write, one, page.as_ptr(), page.len()).is_ok() {}
        let full = !pending(asked());
        let mut drain = vec![0_u8; 1 << 20];
        while sys!(read, other, drain.as_mut_ptr(), drain.len()).is_ok() {}
        let room = told(POLL_OUT, OUT, one);
        assert_eq!(sys!(shutdown, other, libc::SHUT_WR), Ok(0));
        let half = told(POLL_IN, IN, one);
        assert_eq!(sys!(close, other), Ok(0));
        let gone = told(POLL_HUP, HUP, one);
        let (one, other) = sockets(libc::SOCK_DGRAM);
        own(one);
        put(other);
        let datagram = told(POLL_IN, IN, one);
        steps(&[input, silent, full, room, half, gone, datagram])
    });
}

#[test]
fn a_listener_hears_of_who_knocks() {
    in_child(|| {
        block_all();
        let listener = sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0).unwrap();
        // Bound to a name of the kernel's choice.
        let family = [1_u8, 0];
        assert_eq!(sys!(bind, listener, family.as_ptr(), 2), Ok(0));
        assert_eq!(sys!(listen, listener, 4), Ok(0));
        let (mut name, mut len) = ([0_u8; 110], 110_u32);
        assert_eq!(sys!(getsockname, listener, name.as_mut_ptr(), &raw mut len), Ok(0));
        own(listener);
        let client = sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
        let connected = sys!(connect, client, name.as_ptr(), len);
        steps(&[connected == Ok(0), told(POLL_IN, IN, listener)])
    });
}

#[test]
fn terminals_tell_of_input_and_find_an_owner_themselves() {
    in_child(|| {
        block_all();
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK;
        let master = sys!(open, c"/dev/ptmx".as_ptr(), flags, 0).unwrap();
        let (unlocked, mut number) = (0_i32, 0_u32);
        assert_eq!(sys!(ioctl, master, libc::TIOCSPTLCK, &raw const unlocked), Ok(0));
        assert_eq!(sys!(ioctl, master, libc::TIOCGPTN, &raw mut number), Ok(0));
        let name = std::ffi::CString::new(format!("/dev/pts/{number}")).unwrap();
        let slave = sys!(open, name.as_ptr(), flags, 0).unwrap();
        let nobody = sys!(fcntl, slave, libc::F_GETOWN, 0);
        assert_eq!(sys!(fcntl, slave, F_SETSIG, asked()), Ok(0));
        set_async(slave);
        let me = sys!(fcntl, slave, libc::F_GETOWN, 0);
        // Nobody's terminal: half a line is no input, a whole one is.
        assert_eq!(sys!(write, master, c"ab\n".as_ptr(), 3), Ok(3));
        let line = tells(take(asked()), asked(), POLL_IN, IN, slave);
        // A session's: its foreground is.
        assert!(sys!(setsid).is_ok());
        assert_eq!(sys!(ioctl, slave, libc::TIOCSCTTY, 0), Ok(0));
        let second = sys!(open, name.as_ptr(), flags, 0).unwrap();
        set_async(second);
        let group = owner_of(second);
        // The other end hears what is printed.
        assert_eq!(sys!(fcntl, master, F_SETSIG, libc::SIGUSR1), Ok(0));
        set_async(master);
        put(slave);
        let printed = tells(take(libc::SIGUSR1), libc::SIGUSR1, POLL_IN, IN, master);
        steps(&[nobody == Ok(0), me == Ok(pid()), line, group == (F_OWNER_PGRP, pid()), printed])
    });
}

#[test]
fn watched_directories_tell() {
    let scratch = Scratch::new("sigio-watch");
    let (directory, file) = (scratch.c_path(""), scratch.c_path("f"));
    in_child(|| {
        block_all();
        let watch = sys!(inotify_init1, libc::IN_NONBLOCK).unwrap();
        assert!(sys!(inotify_add_watch, watch, directory.as_ptr(), libc::IN_CREATE).is_ok());
        own(watch);
        let made = sys!(open, file.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600);
        steps(&[made.is_ok(), told(POLL_IN, IN, watch)])
    });
}

#[test]
fn only_files_with_something_to_tell_have_the_flag() {
    in_child(|| {
        let on = 1_i32;
        let (read, _write) = ends(0);
        let counter = sys!(eventfd2, 0, 0).unwrap();
        let flags = |fd| sys!(fcntl, fd, libc::F_GETFL, 0).unwrap() & i64::from(libc::O_ASYNC);
        let by_command = sys!(ioctl, read, libc::FIOASYNC, &raw const on);
        let (set, off) = (flags(read), 0_i32);
        let again = sys!(ioctl, read, libc::FIOASYNC, &raw const off);
        let ignored = sys!(fcntl, counter, libc::F_SETFL, libc::O_ASYNC);
        steps(&[
            by_command == Ok(0) && set != 0,
            again == Ok(0) && flags(read) == 0,
            ignored == Ok(0) && flags(counter) == 0,
            sys!(ioctl, counter, libc::FIOASYNC, &raw const on) == Err(libc::ENOTTY),
            sys!(ioctl, counter, libc::FIOASYNC, &raw const off) == Ok(0),
        ])
    });
}

#[test]
fn owners_are_threads_processes_and_groups_that_exist() {
    in_child(|| {
        let (read, _write) = ends(0);
        let (one, _other) = sockets(libc::SOCK_STREAM);
        let set = |kind: i32, id: i64| {
            let owner = [kind, i32::try_from(id).unwrap()];
            sys!(fcntl, read, F_SETOWN_EX, owner.as_ptr())
        };
        let now = || owner_of(read);
        let none = now();
        let (me, tid) = (pid(), sys!(gettid).unwrap());
        let group = sys!(getpgid, 0).unwrap();
        let mut checks = vec![none == (F_OWNER_TID, 0)];
        checks.push(set(F_OWNER_TID, tid) == Ok(0) && now() == (F_OWNER_TID, tid));
        checks.push(set(F_OWNER_PID, me) == Ok(0) && now() == (F_OWNER_PID, me));
        checks.push(set(F_OWNER_PGRP, group) == Ok(0) && now() == (F_OWNER_PGRP, group));
        checks.push(set(3, me) == Err(libc::EINVAL) && set(-1, me) == Err(libc::EINVAL));
        checks.push(set(F_OWNER_PID, 4_000_000) == Err(libc::ESRCH));
        checks.push(sys!(fcntl, read, libc::F_SETOWN, 4_000_000) == Err(libc::ESRCH));
        checks.push(sys!(fcntl, read, libc::F_SETOWN, i64::from(i32::MIN)) == Err(libc::EINVAL));
        checks.push(now() == (F_OWNER_PGRP, group));
        // Who has ended is nobody.
        let short = child(|| 0);
        checks.push(sys!(fcntl, read, libc::F_SETOWN, short) == Ok(0));
        let _ = wait_status(short);
        checks.push(sys!(fcntl, read, libc::F_GETOWN, 0) == Ok(0));
        checks.push(sys!(fcntl, read, libc::F_SETOWN, 0) == Ok(0) && sys!(fcntl, read, libc::F_GETOWN, 0) == Ok(0));
        checks.push(sys!(fcntl, read, F_SETSIG, 65) == Err(libc::EINVAL) && sys!(fcntl, read, F_GETSIG, 0) == Ok(0));
        // Sockets have commands of their own.
        let (given, mut back) = (i32::try_from(-group).unwrap(), 0_i32);
        checks.push(sys!(ioctl, one, FIOSETOWN, &raw const given) == Ok(0));
        checks.push(sys!(ioctl, one, FIOGETOWN, &raw mut back) == Ok(0) && back == given);
        checks.push(sys!(ioctl, read, FIOSETOWN, &raw const given) == Err(libc::ENOTTY));
        steps(&checks)
    });
}

#[test]
fn a_thread_may_own_alone_and_a_group_together() {
    in_child(|| {
        block_all();
        let (read, write) = ends(0);
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(sys!(gettid).unwrap()).unwrap();
            ended.recv().unwrap();
            tells(take(asked()), asked(), POLL_IN, IN, read)
        });
        let owner = [F_OWNER_TID, i32::try_from(told.recv().unwrap()).unwrap()];
        assert_eq!(sys!(fcntl, read, F_SETOWN_EX, owner.as_ptr()), Ok(0));
        assert_eq!(sys!(fcntl, read, F_SETSIG, asked()), Ok(0));
        set_async(read);
        put(write);
        let not_mine = !pending(asked());
        end.send(()).unwrap();
        let its_own = thread.join().unwrap();
        // It is gone: nobody is told.
        put(write);
        let nobody = !pending(asked());
        assert_eq!(sys!(setpgid, 0, 0), Ok(0));
        let (ready, go) = ends(0);
        let member = child(|| {
            put(go);
            steps(&[tells(take(asked()), asked(), POLL_IN, IN, read)])
        });
        get(ready);
        assert_eq!(sys!(fcntl, read, libc::F_SETOWN, -pid()), Ok(0));
        put(write);
        let mine = tells(take(asked()), asked(), POLL_IN, IN, read);
        steps(&[not_mine, its_own, nobody, mine, wait_status(member) == 0])
    });
}

#[test]
fn who_named_the_owner_must_be_allowed_to_signal_it() {
    if !is_root() {
        return;
    }
    in_child(|| {
        block_all();
        let parent = pid();
        let attempt = |named_as_root: bool| {
            child(|| {
                let (read, write) = ends(0);
                if named_as_root {
                    assert_eq!(sys!(fcntl, read, libc::F_SETOWN, parent), Ok(0));
                }
                assert_eq!(sys!(setresuid, 65534, 65534, 65534), Ok(0));
                if !named_as_root {
                    assert_eq!(sys!(fcntl, read, libc::F_SETOWN, parent), Ok(0));
                }
                set_async(read);
                put(write);
                0
            })
        };
        let refused = wait_status(attempt(false)) == 0 && !pending(libc::SIGIO);
        // It is the one who named that counts, not the one who writes.
        let allowed = wait_status(attempt(true)) == 0 && take(libc::SIGIO)[2] == SI_KERNEL;
        steps(&[refused, allowed])
    });
}

#[test]
fn without_room_in_the_queue_the_plain_signal_comes() {
    in_child(|| {
        block_all();
        let (read, write) = ends(0);
        own(read);
        let none = [0_u64; 2];
        assert_eq!(sys!(setrlimit, libc::RLIMIT_SIGPENDING, none.as_ptr()), Ok(0));
        put(write);
        let plain = take(libc::SIGIO);
        steps(&[plain[2] == SI_KERNEL && plain[4..7] == [0, 0, 0], !pending(asked())])
    });
}
