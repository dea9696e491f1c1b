//! POSIX message queues: names, priorities, waiting, notification, limits.

use std::ffi::CString;

use casemate_guest_tests::{child, in_child, inside, is_root, steps, sys, until_asleep, wait_status};
use libc::{
    EACCES, EAGAIN, EBADF, EBUSY, EEXIST, EINVAL, EMSGSIZE, ENAMETOOLONG, ENOENT, ENOTSOCK, ETIMEDOUT, O_CREAT, O_EXCL,
    O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY,
};

/// A queue that is unlinked when the test ends.
struct Queue {
    name: CString,
    fd: i64,
}

/// `struct mq_attr` of so many messages of this size.
fn shape(messages: i64, size: i64) -> [i64; 8] {
    [0, messages, size, 0, 0, 0, 0, 0]
}

fn open(name: &CString, flags: i32, mode: u32, attr: Option<&[i64; 8]>) -> Result<i64, i32> {
    sys!(mq_open, name.as_ptr(), flags, mode, attr.map_or(std::ptr::null(), |attr| attr.as_ptr()))
}

fn name(salt: &str) -> CString {
    CString::new(format!("casemate-{}-{salt}", std::process::id())).unwrap()
}

impl Queue {
    fn new(salt: &str, messages: i64, size: i64, flags: i32) -> Self {
        let name = name(salt);
        let fd = open(&name, O_CREAT | O_EXCL | O_RDWR | flags, 0o600, Some(&shape(messages, size))).expect("mq_open");
        Self { name, fd }
    }

    fn send(&self, text: &[u8], priority: u32) -> Result<i64, i32> {
        sys!(mq_timedsend, self.fd, text.as_ptr(), text.len(), priority, 0)
    }

    fn receive(&self) -> Result<(Vec<u8>, u32), i32> {
        let (mut buffer, mut priority) = (vec![0_u8; 8192], u32::MAX);
        let len = sys!(mq_timedreceive, self.fd, buffer.as_mut_ptr(), buffer.len(), &raw mut priority, 0)?;
        buffer.truncate(usize::try_from(len).unwrap());
        Ok((buffer, priority))
    }

    fn attr(&self) -> [i64; 8] {
        let mut attr = [-1; 8];
        assert_eq!(sys!(mq_getsetattr, self.fd, 0, attr.as_mut_ptr()), Ok(0));
        attr
    }

    /// What reading the descriptor tells.
    fn text(&self) -> String {
        let mut text = [0_u8; 120];
        let n = sys!(pread64, self.fd, text.as_mut_ptr(), text.len(), 0).expect("read");
        String::from_utf8_lossy(&text[..usize::try_from(n).unwrap()]).into_owned()
    }

    fn poll(&self) -> i16 {
        let fd = i32::try_from(self.fd).unwrap();
        let mut poll = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
        assert!(sys!(poll, &raw mut poll, 1, 0).is_ok());
        poll.revents
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let _ = sys!(mq_unlink, self.name.as_ptr());
        let _ = sys!(close, self.fd);
    }
}

#[test]
fn queues_are_made_opened_and_unlinked() {
    let queue = Queue::new("names", 4, 64, 0);
    assert_eq!(open(&queue.name, O_CREAT | O_EXCL | O_RDWR, 0o600, None), Err(EEXIST));
    // What there is keeps its shape, whatever is asked for.
    let again = open(&queue.name, O_CREAT | O_RDONLY, 0o600, Some(&shape(0, 0))).unwrap();
    assert_eq!(sys!(fcntl, again, libc::F_GETFD), Ok(libc::FD_CLOEXEC.into()));
    assert_eq!(sys!(mq_timedsend, again, c"x".as_ptr(), 1, 0, 0), Err(EBADF));
    assert_eq!(sys!(close, again), Ok(0));
    let writer = open(&queue.name, O_WRONLY, 0, None).unwrap();
    let mut buffer = [0_u8; 64];
    assert_eq!(sys!(mq_timedreceive, writer, buffer.as_mut_ptr(), 64, 0, 0), Err(EBADF));
    assert_eq!(sys!(close, writer), Ok(0));
    assert_eq!(open(&queue.name, O_WRONLY | O_RDWR, 0, None), Err(EINVAL));
    for (bad, error) in [("", ENOENT), (".", EACCES), ("..", EACCES), ("/slash", EACCES), ("a/b", EACCES)] {
        let bad = CString::new(bad).unwrap();
        assert_eq!(open(&bad, O_CREAT | O_RDWR, 0o600, None), Err(error), "{bad:?}");
    }
    let long = CString::new(vec![b'n'; 256]).unwrap();
    assert_eq!(open(&long, O_CREAT | O_RDWR, 0o600, None), Err(ENAMETOOLONG));
    let other = name("shapes");
    for (messages, size) in [(0, 8), (8, 0), (-1, 8), (8, -1), (65_537, 8), (8, (16 << 20) + 1)] {
        let attr = shape(messages, size);
        assert_eq!(open(&other, O_CREAT | O_RDWR, 0o600, Some(&attr)), Err(EINVAL), "{attr:?}");
    }
    assert_eq!(open(&other, O_RDWR, 0, None), Err(ENOENT));
    assert_eq!(sys!(mq_open, other.as_ptr(), O_RDWR, 0, 1), Err(libc::EFAULT));
    assert_eq!(sys!(mq_unlink, other.as_ptr()), Err(ENOENT));
    // Unlinked, it lives on where it is open; the name is free.
    assert_eq!(sys!(mq_unlink, queue.name.as_ptr()), Ok(0));
    assert_eq!(sys!(mq_unlink, queue.name.as_ptr()), Err(ENOENT));
    assert_eq!(open(&queue.name, O_RDWR, 0, None), Err(ENOENT));
    assert_eq!(queue.send(b"still", 0), Ok(0));
    assert_eq!(queue.receive(), Ok((b"still".to_vec(), 0)));
}

#[test]
fn messages_come_by_priority() {
    let queue = Queue::new("order", 4, 64, O_NONBLOCK);
    assert_eq!(queue.receive(), Err(EAGAIN));
    assert_eq!(queue.poll(), libc::POLLOUT);
    for (text, priority) in [(&b"low"[..], 0), (b"high", 32767), (b"", 5), (b"later", 5)] {
        assert_eq!(queue.send(text, priority), Ok(0));
    }
    assert_eq!(queue.poll(), libc::POLLIN);
    assert_eq!((queue.send(b"more", 0), queue.send(b"x", 32768)), (Err(EAGAIN), Err(EINVAL)));
    assert!(
        queue.text().starts_with("QSIZE:12         NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n"),
        "{}",
        queue.text()
    );
    assert_eq!(queue.attr()[..4], [O_NONBLOCK.into(), 4, 64, 4]);
    let mut short = [0_u8; 63];
    assert_eq!(sys!(mq_timedreceive, queue.fd, short.as_mut_ptr(), 63, 0, 0), Err(EMSGSIZE));
    for (text, priority) in [(&b"high"[..], 32767), (b"", 5), (b"later", 5), (b"low", 0)] {
        assert_eq!(queue.receive(), Ok((text.to_vec(), priority)));
    }
    assert_eq!(queue.send(&[0; 65], 0), Err(EMSGSIZE));
    assert_eq!(sys!(mq_timedsend, queue.fd, 1, 8, 0, 0), Err(libc::EFAULT));
    let file = sys!(openat, libc::AT_FDCWD, c"/dev/null".as_ptr(), O_RDWR).unwrap();
    assert_eq!(sys!(mq_timedsend, file, c"x".as_ptr(), 1, 0, 0), Err(EBADF));
    assert_eq!(sys!(mq_getsetattr, file, 0, 0), Err(EBADF));
    assert_eq!(sys!(close, file), Ok(0));
}

#[test]
fn attributes_are_told_and_set() {
    let queue = Queue::new("attr", 3, 16, 0);
    let mut old = [-1_i64; 8];
    let nonblocking = [i64::from(O_NONBLOCK), 9, 9, 9, 0, 0, 0, 0];
    assert_eq!(sys!(mq_getsetattr, queue.fd, nonblocking.as_ptr(), old.as_mut_ptr()), Ok(0));
    assert_eq!(old, [0, 3, 16, 0, 0, 0, 0, 0]);
    assert_eq!(queue.attr(), [O_NONBLOCK.into(), 3, 16, 0, 0, 0, 0, 0]);
    assert_eq!(queue.receive(), Err(EAGAIN));
    assert_eq!(sys!(mq_getsetattr, queue.fd, [1_i64; 8].as_ptr(), 0), Err(EINVAL));
    assert_eq!(sys!(mq_getsetattr, -1_i64, 0, 0), Err(EBADF));
    assert_eq!(sys!(mq_getsetattr, queue.fd, 0, 1), Err(libc::EFAULT));
    // SAFETY: 1. plain data.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(fstat, queue.fd, &raw mut stat), Ok(0));
    assert_eq!((stat.st_mode & !0o077, stat.st_size, stat.st_nlink), (libc::S_IFREG | 0o600, 80, 1));
    assert_eq!(sys!(write, queue.fd, c"x".as_ptr(), 1), Err(EINVAL));
}

#[test]
fn receivers_and_senders_wait_for_each_other() {
    let queue = Queue::new("wait", 1, 16, 0);
    let waiting = child(|| i32::from(queue.receive() != Ok((b"one".to_vec(), 3))));
    until_asleep(waiting.into(), waiting.into());
    assert_eq!(queue.send(b"one", 3), Ok(0));
    assert_eq!(wait_status(waiting), 0);
    // It was never in the queue, or is not any more.
    assert_eq!(queue.attr()[3], 0);
    assert_eq!(queue.send(b"two", 1), Ok(0));
    let sending = child(|| i32::from(queue.send(b"three", 2) != Ok(0)));
    until_asleep(sending.into(), sending.into());
    assert_eq!(queue.receive(), Ok((b"two".to_vec(), 1)));
    assert_eq!(wait_status(sending), 0);
    assert_eq!(queue.receive(), Ok((b"three".to_vec(), 2)));
    // Waits end at a moment of the wall clock, and nothing is left behind.
    let past = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    let mut buffer = [0_u8; 16];
    assert_eq!(sys!(mq_timedreceive, queue.fd, buffer.as_mut_ptr(), 16, 0, &raw const past), Err(ETIMEDOUT));
    let wrong = libc::timespec { tv_sec: 1, tv_nsec: 1_000_000_000 };
    assert_eq!(sys!(mq_timedreceive, queue.fd, buffer.as_mut_ptr(), 16, 0, &raw const wrong), Err(EINVAL));
    assert_eq!(queue.send(b"four", 0), Ok(0));
    assert_eq!(sys!(mq_timedsend, queue.fd, c"five".as_ptr(), 4, 0, &raw const past), Err(ETIMEDOUT));
    assert_eq!(queue.receive(), Ok((b"four".to_vec(), 0)));
    assert_eq!(queue.attr()[3], 0);
}

/// `SIGEV_*` about a signal with a value.
fn event(notify: i32, signal: i32, value: usize) -> libc::sigevent {
    // SAFETY: 1. plain data.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = notify;
    event.sigev_signo = signal;
    event.sigev_value.sival_ptr = value as *mut libc::c_void;
    event
}

#[test]
fn a_message_into_the_empty_queue_is_told() {
    let queue = Queue::new("notify", 4, 16, 0);
    in_child(|| {
        let signal = libc::SIGUSR1;
        let mask = 1_u64 << (signal - 1);
        let told = event(libc::SIGEV_SIGNAL, signal, 77);
        let blocked = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const mask, 0, 8) == Ok(0);
        let registered = sys!(mq_notify, queue.fd, &raw const told) == Ok(0);
        let text = queue.text();
        let shown = text.contains(&format!("NOTIFY:0     SIGNO:{signal:<5} NOTIFY_PID:{:<6}", std::process::id()));
        let busy = sys!(mq_notify, queue.fd, &raw const told) == Err(EBUSY);
        let sent = queue.send(b"hello", 0) == Ok(0);
        // SAFETY: 1. plain data.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let got = sys!(rt_sigtimedwait, &raw const mask, &raw mut info, 0, 8) == Ok(signal.into());
        // SAFETY: 1. a signal of this code has this field.
        let pid = unsafe { info.si_pid() };
        // SAFETY: 1. as above.
        let value = unsafe { info.si_value() }.sival_ptr as usize;
        let right = (info.si_code, pid.cast_unsigned(), value) == (libc::SI_MESGQ, std::process::id(), 77);
        // Told once only; and only of a message into the empty queue.
        let free = sys!(mq_notify, queue.fd, &raw const told) == Ok(0);
        let second = queue.send(b"again", 0) == Ok(0);
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let silent = sys!(rt_sigtimedwait, &raw const mask, 0, &raw const none, 8) == Err(EAGAIN);
        let ended = sys!(mq_notify, queue.fd, 0) == Ok(0);
        let emptied = queue.receive().is_ok() && queue.receive().is_ok();
        let unheard = queue.send(b"third", 0) == Ok(0);
        let still = sys!(rt_sigtimedwait, &raw const mask, 0, &raw const none, 8) == Err(EAGAIN);
        let cleared = queue.receive().is_ok();
        steps(&[
            blocked, registered, shown, busy, sent, got, right, free, second, silent, ended, emptied, unheard, still,
            cleared,
        ])
    });
    assert!(queue.text().contains("NOTIFY_PID:0"));
}

#[test]
fn a_registration_ends_with_any_descriptor_of_its_process() {
    let queue = Queue::new("flush", 4, 16, 0);
    let nothing = event(libc::SIGEV_NONE, 0, 0);
    assert_eq!(sys!(mq_notify, queue.fd, &raw const nothing), Ok(0));
    assert!(queue.text().contains("NOTIFY:1 "));
    in_child(|| {
        let busy = sys!(mq_notify, queue.fd, &raw const nothing) == Err(EBUSY);
        // Another's end and closes are not its.
        let closed = sys!(close, queue.fd) == Ok(0);
        steps(&[busy, closed])
    });
    assert!(queue.text().contains("NOTIFY:1 "));
    let twin = sys!(dup, queue.fd).unwrap();
    assert_eq!(sys!(close, twin), Ok(0));
    assert!(queue.text().contains("NOTIFY:0 "));
    in_child(|| i32::from(sys!(mq_notify, queue.fd, &raw const nothing) != Ok(0)));
    assert!(queue.text().contains("NOTIFY:0 "));
    // One that waits gets the message instead.
    assert_eq!(sys!(mq_notify, queue.fd, &raw const nothing), Ok(0));
    let waiting = child(|| i32::from(queue.receive().is_err()));
    until_asleep(waiting.into(), waiting.into());
    assert_eq!(queue.send(b"x", 0), Ok(0));
    assert_eq!(wait_status(waiting), 0);
    assert!(queue.text().contains("NOTIFY:1 "));
    for (notify, signal) in [(9, 1), (libc::SIGEV_SIGNAL, 65), (libc::SIGEV_SIGNAL, -1), (libc::SIGEV_THREAD_ID, 1)] {
        let wrong = event(notify, signal, 0);
        assert_eq!(sys!(mq_notify, queue.fd, &raw const wrong), Err(EINVAL));
    }
    assert_eq!(sys!(mq_notify, -1_i64, &raw const nothing), Err(EBADF));
    let cookie = [0_u8; 32];
    for (fd, error) in [(queue.fd, ENOTSOCK), (-1, EBADF)] {
        let thread = event(libc::SIGEV_THREAD, i32::try_from(fd).unwrap(), cookie.as_ptr() as usize);
        assert_eq!(sys!(mq_notify, queue.fd, &raw const thread), Err(error));
    }
}

#[test]
fn a_wait_is_interrupted_and_restarted() {
    extern "C" fn ignore(_: i32) {}
    let queue = Queue::new("signal", 1, 16, 0);
    for (flags, expected) in [(0, Err(libc::EINTR)), (libc::SA_RESTART, Ok((b"late".to_vec(), 0)))] {
        let waiting = child(|| {
            // SAFETY: 1. plain data.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = ignore as *const () as usize;
            action.sa_flags = flags;
            // SAFETY: 1. the handler does nothing.
            unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()) };
            // Told that the handler is there by the message that is taken.
            let first = queue.receive();
            i32::from(first.is_err() || queue.receive() != expected)
        });
        assert_eq!(queue.send(b"go", 0), Ok(0));
        while queue.attr()[3] != 0 {
            std::thread::yield_now();
        }
        until_asleep(waiting.into(), waiting.into());
        assert_eq!(sys!(kill, waiting, libc::SIGUSR2), Ok(0));
        if flags != 0 {
            assert_eq!(queue.send(b"late", 0), Ok(0));
        }
        assert_eq!(wait_status(waiting), 0);
    }
}

#[test]
fn queues_are_limited() {
    in_child(|| {
        let limit = libc::rlimit { rlim_cur: 10_000, rlim_max: 10_000 };
        let set = sys!(setrlimit, libc::RLIMIT_MSGQUEUE, &raw const limit) == Ok(0);
        let name = name("limit");
        let over = open(&name, O_CREAT | O_RDWR, 0o600, Some(&shape(10, 1000))) == Err(libc::EMFILE);
        let within = open(&name, O_CREAT | O_RDWR, 0o600, Some(&shape(10, 900)));
        let second = self::name("limit2");
        let more = open(&second, O_CREAT | O_RDWR, 0o600, Some(&shape(1, 500))) == Err(libc::EMFILE);
        let gone = sys!(mq_unlink, name.as_ptr()) == Ok(0) && sys!(close, within.unwrap_or(-1)) == Ok(0);
        let room = open(&second, O_CREAT | O_RDWR, 0o600, Some(&shape(1, 500))).is_ok();
        let cleared = sys!(mq_unlink, second.as_ptr()) == Ok(0);
        steps(&[set, over, within.is_ok(), more, gone, room, cleared])
    });
    for (knob, value) in [("msg_default", 10), ("msg_max", 10), ("msgsize_default", 8192), ("msgsize_max", 8192)] {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/mqueue/{knob}")).unwrap();
        let number: i64 = text.trim().parse().unwrap();
        assert!(number > 0 && (!inside() || number == value), "{knob}: {text}");
    }
    if is_root() {
        return;
    }
    let name = name("knobs");
    assert_eq!(open(&name, O_CREAT | O_RDWR, 0o600, Some(&shape(65_536, 8))), Err(EINVAL));
}

#[test]
fn queues_are_files_below_dev() {
    if !inside() {
        // Where it is mounted, if at all, is the machine's business.
        return;
    }
    let queue = Queue::new("file", 4, 16, 0);
    let path = format!("/dev/mqueue/{}", queue.name.to_str().unwrap());
    assert_eq!(queue.send(b"abc", 0), Ok(0));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), queue.text());
    let listed: Vec<_> = std::fs::read_dir("/dev/mqueue").unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(listed.iter().any(|at| at.to_str() == Some(&path)), "{listed:?}");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(open(&queue.name, O_RDWR, 0, None), Err(ENOENT));
    let made = "/dev/mqueue/casemate-made";
    std::fs::write(made, "").unwrap();
    let plain = open(&CString::new("casemate-made").unwrap(), O_RDONLY, 0, None).unwrap();
    let mut attr = [0_i64; 8];
    assert_eq!(sys!(mq_getsetattr, plain, 0, attr.as_mut_ptr()), Ok(0));
    assert_eq!(attr[1..4], [10, 8192, 0]);
    assert!(std::fs::create_dir("/dev/mqueue/dir").is_err() && std::fs::rename(made, "/dev/mqueue/b").is_err());
    std::fs::remove_file(made).unwrap();
    assert_eq!(sys!(close, plain), Ok(0));
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(mounts.contains("mqueue /dev/mqueue mqueue rw"), "{mounts}");
}
