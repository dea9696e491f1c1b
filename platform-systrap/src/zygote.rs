//! The zygote: a nearly empty process, made while the sandbox process is still small and single-threaded, from which stubs
//! are forked for as long as the sandbox lives.
//!
//! The sandbox process cannot fork once its seccomp filter is on, and forking it would copy its page tables; the zygote
//! holds two pages of stub and six descriptors. It is made through a helper that shares our memory (`CLONE_VM`): such a
//! process starts without the caller's rseq registration, which would otherwise stay in force in the zygote and make the
//! host kill it when the page is gone. `CLONE_PARENT` makes the zygote, and later every stub, a child of the thread that
//! called [`spawn`]: that thread must live as long as the sandbox (PR_SET_PDEATHSIG goes by thread).
//!
//! **Invariant.** Between clone and the jump to the stub's text the zygote makes raw system calls only: no allocation, no
//! lock, nothing that another thread of a test program could have held.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::host::Transport;
use crate::layout::{CONFIG, CONFIG_LEN, FD_FREE, KICK_SIGNAL, SCRATCH, TEXT_LEN};
use crate::stub::Entries;
use crate::{filter, host};

/// A raw call in the zygote; `false` when it failed.
macro_rules! call {
    ($nr:ident $(, $argument:expr)*) => {
        // SAFETY: the arguments are numbers or point to data of this function; the process is alone in its memory. All are
        // full words: the upper half of a narrower variadic argument would be whatever is there.
        (unsafe { libc::syscall(libc::$nr $(, $argument as usize)*) } >= 0)
    };
}

/// Signals that the CPU or a filter raises in guest code.
const SYNCHRONOUS: [i32; 6] = [libc::SIGSYS, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// `SA_RESTORER`: x86-64 demands one, though ours is never called.
const SA_RESTORER: u64 = 0x0400_0000;

/// What the zygote is made of.
pub(crate) struct Plan<'a> {
    /// Start of the stub region.
    pub(crate) base: u64,
    /// File with the stub's text at 0 and its configuration at [`CONFIG`].
    pub(crate) image: BorrowedFd<'a>,
    /// Descriptors 1 to 4 of every stub.
    pub(crate) files: [BorrowedFd<'a>; 4],
    /// Entry points.
    pub(crate) entries: Entries,
    /// How threads hand over.
    pub(crate) transport: Transport,
}

struct Child {
    base: u64,
    image: RawFd,
    /// Descriptors 0 to 4.
    files: [RawFd; 5],
    entries: Entries,
    program: libc::sock_fprog,
    /// The zygote's pid, written by the helper.
    pid: AtomicI32,
}

/// The running zygote.
#[derive(Debug)]
pub(crate) struct Zygote {
    /// Our end of its socket; `None` only while dropping.
    socket: Option<OwnedFd>,
    pid: i32,
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // End-of-file ends it.
        drop(self.socket.take());
        reap(self.pid);
    }
}

/// Waits for a child to end. Returns its status, or `None` when it is not our child.
fn reap(pid: i32) -> Option<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is valid for the call.
        let answer = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        if answer == pid {
            return Some(status);
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}

/// Makes the zygote.
pub(crate) fn spawn(plan: &Plan<'_>) -> io::Result<Zygote> {
    let (ours, theirs) = socket_pair()?;
    let mut insns = filter::base(&(plan.base..plan.base + TEXT_LEN), plan.transport);
    let [memory, memory_ro, slabs, control] = plan.files.map(|fd| fd.as_raw_fd());
    let child = Child {
        base: plan.base,
        image: plan.image.as_raw_fd(),
        files: [theirs.as_raw_fd(), memory, memory_ro, slabs, control],
        entries: plan.entries,
        program: libc::sock_fprog {
            len: u16::try_from(insns.len()).map_err(|_| io::Error::other("filter too long"))?,
            filter: insns.as_mut_ptr().cast(),
        },
        pid: AtomicI32::new(-1),
    };
    // SAFETY: `helper` takes a `Child` and makes raw calls only.
    let status = unsafe { run_helper(helper, (&raw const child).cast_mut().cast()) }?;
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        // Written before the helper ended, which we have waited for.
        Ok(Zygote { socket: Some(ours), pid: child.pid.load(Ordering::Relaxed) })
    } else {
        Err(io::Error::other("the host refused to fork the zygote"))
    }
}

/// Runs `body` in a process that shares our memory, while we are suspended; returns its wait status.
///
/// # Safety
/// `body` must make raw system calls only, and be fine with `argument`.
unsafe fn run_helper(body: extern "C" fn(*mut libc::c_void) -> i32, argument: *mut libc::c_void) -> io::Result<i32> {
    let mut stack = vec![0_u128; 4096];
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: (1) the stack is ours for as long as the helper runs, because CLONE_VFORK suspends us until it has ended;
    // (2) the caller vouches for the rest.
    let pid = unsafe { libc::clone(body, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK, argument) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    reap(pid).ok_or_else(|| io::Error::other("somebody else waited for our child"))
}

/// Whether the host gives a process like ours seccomp listeners; a container runtime may hold one in our filter chain, and
/// then nobody below it gets another (EBUSY).
pub(crate) fn listeners_work() -> bool {
    extern "C" fn try_listen(_: *mut libc::c_void) -> i32 {
        let mut allow = libc::sock_filter { code: 6, jt: 0, jf: 0, k: filter::ALLOW };
        let program = libc::sock_fprog { len: 1, filter: &raw mut allow };
        let works = call!(SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            && call!(
                SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program
            );
        i32::from(!works)
    }
    // SAFETY: `try_listen` makes raw calls only; its filter, descriptor and flag end with it.
    let status = unsafe { run_helper(try_listen, std::ptr::null_mut()) };
    status.is_ok_and(|status| libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
}

/// A connected pair of sockets that keep message boundaries.
fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [0; 2];
    // SAFETY: `pair` has room for two descriptors.
    let answer =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, owned by nobody else.
    let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((own(pair[0]), own(pair[1])))
}

/// Runs in our memory, on its own stack, while we are suspended.
extern "C" fn helper(argument: *mut libc::c_void) -> i32 {
    // SAFETY: CLONE_PARENT without CLONE_VM: the child has a copy of everything, this stack included.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(libc::CLONE_PARENT), 0_usize, 0_usize, 0_usize, 0_usize)
    };
    // SAFETY: `spawn` passed a `Child`; the new process has a copy of it.
    let child = unsafe { &*argument.cast::<Child>() };
    if pid == 0 {
        zygote(child);
    }
    child.pid.store(pid as i32, Ordering::Relaxed);
    i32::from(pid < 0)
}

/// Turns this process into the zygote.
fn zygote(child: &Child) -> ! {
    if prepare(child) {
        let entry = (child.base + child.entries.zygote) as usize;
        // SAFETY: the stub's text is mapped there; it expects no arguments and no stack, and unmaps all else first.
        unsafe { core::arch::asm!("jmp {}", in(reg) entry, options(noreturn)) }
    }
    // SAFETY: ends this process, which shares nothing with ours.
    unsafe { libc::_exit(1) }
}

/// All that the zygote needs before it forgets our code. `false`: the host refused something.
fn prepare(child: &Child) -> bool {
    let own_session = call!(SYS_setsid);
    let _ = own_session; // Fails only when we lead a session already; the terminal's signals must not reach stubs.
    let bound = call!(SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0)
        && call!(SYS_prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0)
        && call!(SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        && call!(SYS_prctl, libc::PR_SET_NAME, c"casemate-stub".as_ptr(), 0, 0, 0)
        && drop_capabilities();
    // Huge pages come from the memory file where the kernel has taken them; a touch of anything else brings one small page.
    let _ = call!(SYS_prctl, libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    bound
        && call!(SYS_setrlimit, libc::RLIMIT_CORE, &raw const no_core)
        && signals(child)
        && files(child)
        && map(child)
        && call!(
            SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const child.program
        )
}

/// Gives up every capability.
fn drop_capabilities() -> bool {
    // `_LINUX_CAPABILITY_VERSION_3`, this process (linux/capability.h).
    let header = [0x2008_0522_u32, 0];
    let none = [0_u32; 6];
    call!(SYS_capset, header.as_ptr(), none.as_ptr())
}

/// Every signal unblocked and at its default but those that end guest code. Children of the zygote inherit all of it.
fn signals(child: &Child) -> bool {
    /// `struct sigaction` of the kernel.
    #[repr(C)]
    struct Action {
        handler: u64,
        flags: u64,
        restorer: u64,
        mask: u64,
    }
    // SA_NODEFER and an empty mask: returning by hand then has nothing to undo. SA_RESTART: a hand-over that a kick
    // interrupts is made again.
    let flags = (libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_SIGINFO | libc::SA_RESTART) as u64 | SA_RESTORER;
    let ours = |offset: u64| Action { handler: child.base + offset, flags, restorer: child.base, mask: 0 };
    for signal in 1..=64 {
        let action = if SYNCHRONOUS.contains(&signal) {
            ours(child.entries.trap)
        } else if signal == KICK_SIGNAL {
            ours(child.entries.kick)
        } else {
            Action { handler: libc::SIG_DFL as u64, flags: 0, restorer: 0, mask: 0 }
        };
        // SIGKILL and SIGSTOP refuse; nothing else does.
        let set = call!(SYS_rt_sigaction, signal, &raw const action, 0, 8);
        if !set && signal != libc::SIGKILL && signal != libc::SIGSTOP {
            return false;
        }
    }
    let none = 0_u64;
    call!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0, 8)
}

/// Moves the descriptors to their numbers and closes all others but the image.
fn files(child: &Child) -> bool {
    const AWAY: i32 = 64;
    let mut away = [0_i32; 5];
    for (slot, fd) in away.iter_mut().zip(child.files) {
        // SAFETY: no pointers.
        let number = unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_DUPFD, AWAY) };
        if number < 0 {
            return false;
        }
        *slot = number as i32;
    }
    // SAFETY: no pointers.
    let image = unsafe { libc::syscall(libc::SYS_fcntl, child.image, libc::F_DUPFD, AWAY) };
    if image < 0 {
        return false;
    }
    for (number, fd) in away.iter().enumerate() {
        if !call!(SYS_dup2, *fd, number) {
            return false;
        }
    }
    // The image becomes the one number after them, until it is mapped.
    call!(SYS_dup2, image, 5) && call!(SYS_close_range, FD_FREE, u32::MAX, 0)
}

/// Maps the stub's text, its configuration and the zygote's page, over the reservation made before the fork.
fn map(child: &Child) -> bool {
    let shared = libc::MAP_PRIVATE | libc::MAP_FIXED;
    call!(SYS_mmap, child.base, TEXT_LEN, libc::PROT_READ | libc::PROT_EXEC, shared, 5, 0)
        && call!(SYS_mmap, child.base + CONFIG, CONFIG_LEN, libc::PROT_READ, shared, 5, CONFIG)
        && call!(
            SYS_mmap,
            child.base + SCRATCH,
            0x1000,
            libc::PROT_READ | libc::PROT_WRITE,
            shared | libc::MAP_ANONYMOUS,
            -1_isize,
            0
        )
        && call!(SYS_close, 5)
}

/// A stretch of address space at a random place near the top, kept free while the zygote is made.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) base: u64,
    len: u64,
}

impl Reservation {
    /// Reserves `len` bytes aligned to `align` in the top 32 GiB of the user address space.
    pub(crate) fn near_the_top(len: u64, align: u64) -> io::Result<Self> {
        const TOP: u64 = 0x7fff_ffff_0000;
        const SPREAD: u64 = 32 << 30;
        for _ in 0..64 {
            let mut bytes = [0_u8; 8];
            // SAFETY: `bytes` is valid for 8 bytes.
            let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), 8, 0) };
            if got != 8 {
                return Err(io::Error::last_os_error());
            }
            let base = (TOP - len - u64::from_le_bytes(bytes) % (SPREAD - len)) & !(align - 1);
            if base >> 32 != (base + len - 1) >> 32 {
                // The entry of patched sites looks at the upper half only.
                continue;
            }
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
            // SAFETY: NOREPLACE never touches what is mapped.
            let at = unsafe { libc::mmap(base as *mut _, len as usize, libc::PROT_NONE, flags, -1, 0) };
            if at as u64 == base {
                return Ok(Self { base, len });
            }
            if at != libc::MAP_FAILED {
                // SAFETY: the mapping just made, elsewhere than asked.
                unsafe { libc::munmap(at, len as usize) };
            }
        }
        Err(io::Error::other("no room for the stub near the top of the address space"))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: our own inaccessible mapping.
        unsafe { libc::munmap(self.base as *mut _, self.len as usize) };
    }
}

/// A stub as the zygote reports it.
#[derive(Debug)]
pub(crate) struct Born {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Our end of the leader's socket.
    pub(crate) leader: OwnedFd,
    /// Our end of the memory thread's socket.
    pub(crate) ops: OwnedFd,
}

impl Zygote {
    fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd).ok_or_else(|| io::Error::other("the zygote is gone"))
    }

    /// Asks for a stub with these units of the control file and of the slab file. Does not wait.
    pub(crate) fn request(&self, control_offset: u64, chunk_offset: u64) -> io::Result<()> {
        let mut data = [0; 16];
        data[..8].copy_from_slice(&control_offset.to_le_bytes());
        data[8..].copy_from_slice(&chunk_offset.to_le_bytes());
        host::send(self.socket()?, &data, &[])
    }

    /// Waits for the answer to the oldest open request.
    pub(crate) fn answer(&self) -> io::Result<Born> {
        let mut data = [0; 8];
        let (len, fds) = host::receive(self.socket()?, &mut data)?;
        if len != data.len() {
            return Err(io::Error::other("the zygote is gone"));
        }
        let pid = i64::from_le_bytes(data);
        if pid < 0 {
            return Err(io::Error::from_raw_os_error((-pid) as i32));
        }
        let mut fds = fds.into_iter();
        match (fds.next(), fds.next(), fds.next()) {
            (Some(leader), Some(ops), Some(pidfd)) => Ok(Born { pid: pid as i32, pidfd, leader, ops }),
            _ => Err(io::Error::other("the zygote sent no descriptors")),
        }
    }
}
