//! The host calls of this crate, each a thin wrapper: seccomp listeners, descriptors over sockets, signals, waiting.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU32;

use smallvec::SmallVec;

/// mseal(2), Linux 6.10; not in every libc.
pub(crate) const SYS_MSEAL: i64 = 462;

/// `SECCOMP_IOCTL_NOTIF_RECV`.
pub(crate) const NOTIF_RECV: u64 = 0xc050_2100;
/// `SECCOMP_IOCTL_NOTIF_SEND`.
pub(crate) const NOTIF_SEND: u64 = 0xc018_2101;
/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`, Linux 6.6.
pub(crate) const NOTIF_SET_FLAGS: u64 = 0x4008_2104;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
const SYNC_WAKE_UP: u64 = 1;

/// `struct seccomp_notif` (linux/seccomp.h).
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    /// The thread, in our pid namespace.
    pub(crate) pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    /// Where the call returns to. The host's word, as all of this: no guest can forge it.
    pub(crate) instruction_pointer: u64,
    pub(crate) args: [u64; 6],
}

static_assertions::assert_eq_size!(Notification, [u8; 80]);

#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

static_assertions::assert_eq_size!(Response, [u8; 24]);

/// How threads of a stub hand over to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    /// By seccomp notification.
    Notify,
    /// By futex, where the host gives no seccomp listeners.
    Futex,
}

/// What the host's kernel can do, found out once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    /// How threads hand over.
    pub(crate) transport: Transport,
    /// Flags for seccomp(2) in new threads.
    pub(crate) listen_flags: u64,
    /// A blocked NOTIF_RECV returns when the last thread of the filter is gone (6.11).
    pub(crate) recv_sees_death: bool,
    /// Listeners are to be asked to wake the partner on the CPU of the waker (6.6 has it).
    pub(crate) sync_wake_up: bool,
}

impl Features {
    /// Asks the host.
    pub(crate) fn probe(transport: Transport) -> Self {
        let (mut listen_flags, wanted) = match transport {
            Transport::Notify => (
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                [libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV],
            ),
            Transport::Futex => (0, [libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW; 2]),
        };
        for flag in wanted {
            // Unknown flags are EINVAL; known ones get as far as the missing program.
            // SAFETY: the call fails before it changes anything: its program pointer is null.
            let answer = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    listen_flags | flag,
                    std::ptr::null::<u8>(),
                )
            };
            if answer == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) {
                listen_flags |= flag;
            }
        }
        Self { transport, listen_flags, recv_sees_death: kernel_version() >= (6, 11), sync_wake_up: true }
    }
}

/// Major and minor version of the host's kernel; (0, 0) when it does not say.
fn kernel_version() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// What [`Listener::new`] reports for a descriptor that is no listener: the stub could not make the thread, or was refused
/// the listener (EBUSY where the host's runtime holds one in our filter chain).
pub(crate) const NO_LISTENER: i32 = libc::EBUSY;

/// Why a listener gave no notification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone;

/// A seccomp listener of one stub thread.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    poll_first: bool,
    sync: bool,
}

impl Listener {
    /// Takes over `fd`; fails when it is not a listener (the stub was refused one).
    pub(crate) fn new(fd: OwnedFd, features: Features) -> io::Result<Self> {
        let wanted = if features.sync_wake_up { SYNC_WAKE_UP } else { 0 };
        // SAFETY: the request takes a value, no pointer.
        let answer = unsafe { libc::ioctl(fd.as_raw_fd(), NOTIF_SET_FLAGS as libc::Ioctl, wanted) };
        let sync = answer == 0 && features.sync_wake_up;
        if answer != 0 {
            // Before 6.6 a listener answers EINVAL; anything that is no listener says ENOTTY or the like.
            if io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
                return Err(io::Error::from_raw_os_error(NO_LISTENER));
            }
        }
        Ok(Self { fd, poll_first: !features.recv_sees_death, sync })
    }

    /// Whether a hand-over wakes its partner on the CPU it runs on.
    pub(crate) fn is_sync(&self) -> bool {
        self.sync
    }

    /// Waits for the thread to hand over. Returns [`Gone`] when the thread is dead.
    pub(crate) fn receive(&self) -> Result<Notification, Gone> {
        loop {
            if self.poll_first && self.poll(-1) {
                return Err(Gone);
            }
            let mut notification = Notification::default();
            // SAFETY: `notification` is a `struct seccomp_notif`, zeroed as the call demands, valid for the call.
            let answer = unsafe { libc::ioctl(self.fd.as_raw_fd(), NOTIF_RECV as libc::Ioctl, &raw mut notification) };
            if answer == 0 {
                return Ok(notification);
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                // The notification was withdrawn (its thread took a signal), or the thread is dead.
                Some(libc::ENOENT) if !self.poll(0) => {}
                _ => return Err(Gone),
            }
        }
    }

    /// Answers notification `id` with 0: the thread runs on. `Ok(false)` when the notification was withdrawn.
    pub(crate) fn resume(&self, id: u64) -> Result<bool, Gone> {
        self.answer(id, 0)
    }

    /// The same with `val`.
    pub(crate) fn answer(&self, id: u64, val: i64) -> Result<bool, Gone> {
        let response = Response { id, val, error: 0, flags: 0 };
        loop {
            // SAFETY: `response` is a `struct seccomp_notif_resp`, valid for the call.
            let answer = unsafe { libc::ioctl(self.fd.as_raw_fd(), NOTIF_SEND as libc::Ioctl, &raw const response) };
            if answer == 0 {
                return Ok(true);
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::ENOENT) if !self.poll(0) => return Ok(false),
                _ => return Err(Gone),
            }
        }
    }

    /// Waits until the thread has handed over, `timeout_ms` at most; whether it has.
    pub(crate) fn has_request(&self, timeout_ms: i32) -> bool {
        self.events(timeout_ms) == libc::POLLIN
    }

    /// Waits until there is something; whether it is the thread's death.
    fn poll(&self, timeout: i32) -> bool {
        self.events(timeout) & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    fn events(&self, timeout: i32) -> i16 {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            // SAFETY: one pollfd, valid for the call.
            let answer = unsafe { libc::poll(&raw mut poll, 1, timeout) };
            if answer >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                break;
            }
        }
        poll.revents
    }
}

/// Most descriptors in one message.
pub(crate) const MAX_FDS: usize = 64;

const CONTROL_WORDS: usize = 2 + MAX_FDS.div_ceil(2) + 1;

/// Sends `data` with `fds`.
pub(crate) fn send(socket: BorrowedFd<'_>, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(fds.len() <= MAX_FDS, "the caller splits its batches");
    let mut control = [0_u64; CONTROL_WORDS];
    let bytes = size_of_val(fds);
    // `struct cmsghdr`: length, level and type, then the numbers.
    control[0] = 16 + bytes as u64;
    control[1] = (libc::SOL_SOCKET as u64) | ((libc::SCM_RIGHTS as u64) << 32);
    for (index, fd) in fds.iter().enumerate() {
        control[2 + index / 2] |= u64::from(fd.as_raw_fd() as u32) << (32 * (index % 2));
    }
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = (16 + bytes).next_multiple_of(8);
    }
    loop {
        // SAFETY: the message, its one iovec and its control buffer live to the end of the call, which reads them.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// Length of the next message, whose bytes do not matter. 0: the peer is gone.
pub(crate) fn receive_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut byte = 0_u8;
    loop {
        // SAFETY: one byte of room; MSG_TRUNC makes the call return the message's real length.
        let got = unsafe { libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_TRUNC) };
        if got >= 0 {
            return Ok(got as usize);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// Waits until `word` is not `value`, or is woken.
pub(crate) fn futex_wait(word: &AtomicU32, value: u32) {
    let forever = std::ptr::null::<libc::timespec>();
    // SAFETY: the word is shared memory that lives as long as the reference; no timeout is read.
    let _ = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, forever) };
}

/// Wakes one waiter of `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: as in `futex_wait`.
    let _ = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

/// Receives up to `data.len()` bytes and the descriptors that come with them. 0 bytes: the peer is gone.
pub(crate) fn receive(socket: BorrowedFd<'_>, data: &mut [u8]) -> io::Result<(usize, SmallVec<[OwnedFd; 3]>)> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let got = loop {
        // SAFETY: the message, its one iovec and its control buffer live to the end of the call and are writable.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if got >= 0 {
            break got as usize;
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    };
    let mut fds = SmallVec::new();
    let rights = (libc::SOL_SOCKET as u64) | ((libc::SCM_RIGHTS as u64) << 32);
    if message.msg_controllen >= 20 && control[1] == rights {
        let count = (control[0] as usize).saturating_sub(16) / size_of::<RawFd>();
        for index in 0..count.min(MAX_FDS) {
            let number = (control[2 + index / 2] >> (32 * (index % 2))) as u32 as RawFd;
            // SAFETY: the host has just put this descriptor into our table, for us.
            fds.push(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
    Ok((got, fds))
}

/// Numbers of descriptors of this process are below this.
pub(crate) fn most_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives across the call and is writable.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if known { limit.rlim_cur } else { u64::MAX }
}

/// The number that a new descriptor would get now.
pub(crate) fn lowest_free_descriptor(any: BorrowedFd<'_>) -> io::Result<u64> {
    // Dropped at once.
    Ok(u64::from(any.try_clone_to_owned()?.as_raw_fd().unsigned_abs()))
}

/// Kills the process behind `pidfd`. A process that is gone already is fine.
pub(crate) fn kill(pidfd: BorrowedFd<'_>) {
    // SAFETY: no pointers but a null `siginfo`.
    let _ = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, std::ptr::null::<u8>(), 0)
    };
}

/// Whether a wait takes the dead child away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reap {
    /// It stays a zombie, so that its numbers stay taken.
    Leave,
    /// It is gone.
    Take,
}

/// Waits until all threads of the child behind `pidfd` are dead, and with them its address space.
pub(crate) fn wait_dead(pidfd: BorrowedFd<'_>, reap: Reap) {
    let leave = if reap == Reap::Leave { libc::WNOWAIT } else { 0 };
    loop {
        // SAFETY: all-zero is a valid `siginfo_t`.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is valid for the call, which writes it.
        let answer = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                pidfd.as_raw_fd() as libc::id_t,
                &raw mut info,
                libc::WEXITED | libc::__WALL | leave,
            )
        };
        // Anything but a signal of our own means that there is nobody to wait for.
        if answer == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}

/// Sends `signal` to a thread; one that is gone is fine.
pub(crate) fn signal_thread(process: i32, thread: i32, signal: i32) {
    // SAFETY: no pointers.
    let _ = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
}

/// A memory file that no program sees.
pub(crate) fn memory_file(name: &std::ffi::CStr, len: u64) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, len)?;
    Ok(fd)
}

/// Frees the pages of a range of a file; they read as zeros afterwards.
pub(crate) fn punch(fd: &impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(fd, flags, offset, len)?)
}

/// The CPU that this thread runs on; negative where the host does not say.
pub(crate) fn current_cpu() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::sched_getcpu() }
}

/// A set of CPUs, as the host's affinity calls take it.
type CpuSet = [u64; 16];

/// Binds a thread to one CPU. Best effort: where it fails, hand-overs are slow.
pub(crate) fn bind(thread: i32, cpu: i32) {
    let mut set = CpuSet::default();
    if let Some(word) = set.get_mut(cpu as usize / 64) {
        *word = 1 << (cpu % 64);
        set_affinity(thread, &set);
    }
}

fn set_affinity(thread: i32, set: &CpuSet) {
    // SAFETY: `set` is valid for its length.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setaffinity, thread, size_of_val(set), set.as_ptr()) };
}

/// The CPUs that a thread of ours may run on, which are those of the sandbox.
#[derive(Debug)]
pub(crate) struct Affinity {
    all: CpuSet,
}

impl Affinity {
    /// Those of the calling thread.
    pub(crate) fn of_this_thread() -> Self {
        let mut all = CpuSet::default();
        // SAFETY: `all` is valid for its length.
        let len = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&all), all.as_mut_ptr()) };
        // A host with more CPUs than fit: nobody is moved, and nobody watches.
        Self { all: if len > 0 { all } else { CpuSet::default() } }
    }

    /// How many.
    pub(crate) fn count(&self) -> u32 {
        self.all.iter().map(|word| word.count_ones()).sum()
    }

    /// Keeps `thread` off the CPU that the caller runs on, so that waking it moves it. Best effort.
    pub(crate) fn send_away(&self, thread: i32) {
        let cpu = current_cpu();
        let mut set = self.all;
        if let Some(word) = set.get_mut(cpu as usize / 64) {
            *word &= !(1 << (cpu % 64));
            set_affinity(thread, &set);
        }
    }

    /// Lets `thread` run anywhere again.
    pub(crate) fn let_go(&self, thread: i32) {
        set_affinity(thread, &self.all);
    }
}
