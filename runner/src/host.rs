//! The host calls of the launcher and the sandbox process that no safe library offers. The only unsafe room of this
//! crate.
//!
//! **Invariant**: every function here is sound to call from safe code; what it may do to the *process* (fork, close
//! descriptors) is said in its documentation.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

mod probe;
mod startup;

pub(crate) use probe::{Listener, NamespaceSupport, listener_support, mount_support, namespace_support, with_deadline};
pub(crate) use startup::Inherited;

/// Turns a `-1` return into the calling thread's error.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Who returns from [`fork_into`].
pub(crate) enum Forked {
    /// The caller, with the child's process id.
    Parent(rustix::process::Pid),
    /// The new process.
    Child,
}

/// Namespaces that [`fork_into`] can enter.
pub(crate) const SANDBOX_NAMESPACES: libc::c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
/// The user namespace, apart because root can do without.
pub(crate) const USER_NAMESPACE: libc::c_int = libc::CLONE_NEWUSER;

/// Forks into the namespaces that `flags` (`CLONE_NEW*`) names, in one call: clone(2).
///
/// The caller must have a single thread (checked), because the child continues with a copy of this memory.
pub(crate) fn fork_into(flags: libc::c_int) -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(io::Error::other("cannot fork with several threads"));
    }
    let allowed = SANDBOX_NAMESPACES | USER_NAMESPACE;
    let flags = libc::c_long::from((flags & allowed) | libc::SIGCHLD);
    // SAFETY: (1) without CLONE_VM and with a null stack this is fork: the child runs on a copy of this stack; (2) the
    // flags are restricted to namespaces, so nothing is shared that Rust believes to own; (3) there is one thread, so
    // no lock of the allocator or of std can be held by a thread that the child lacks; (4) the unused pointer arguments
    // are null and no flag makes the kernel read them.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) })?;
    match rustix::process::Pid::from_raw(i32::try_from(pid).unwrap_or(0)) {
        None => Ok(Forked::Child),
        Some(child) => Ok(Forked::Parent(child)),
    }
}

/// Attributes for every mount of a detached tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TreeAccess {
    /// Writes fail with EROFS.
    ReadOnly,
    /// Writes are decided by permissions.
    ReadWrite,
}

/// Makes the mount behind `tree` nosuid, nodev, private and perhaps read-only: mount_setattr(2).
pub(crate) fn restrict_mount(tree: BorrowedFd<'_>, access: TreeAccess) -> io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if access == TreeAccess::ReadOnly {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: (1) the path is a valid, empty C string and AT_EMPTY_PATH says to use the descriptor; (2) the structure
    // lives across the call, which only reads it, and its true size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// `pivot_root(".", ".")`: the working directory, which must be the root of a mount, becomes the root.
pub(crate) fn pivot_here() -> io::Result<()> {
    // SAFETY: both arguments are valid C strings, and the call touches no memory of ours.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    Ok(())
}

/// Closes every descriptor that is not in `keep` (sorted ascending).
///
/// Owners of closed descriptors must not be dropped or used afterwards: the sandbox process leaks what it inherited from
/// the launcher (`mem::forget`) before it calls this.
pub(crate) fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut next: u32 = 0;
    for &fd in keep {
        let Ok(fd) = u32::try_from(fd) else { continue };
        if fd > next {
            close_range(next, fd - 1)?;
        }
        next = fd.saturating_add(1);
    }
    close_range(next, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the call takes integers only; that no owner uses the closed descriptors is the contract of the caller.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) })?;
    Ok(())
}

/// Blocks `signals` in the calling thread and returns a descriptor that reports them: signalfd(2).
pub(crate) fn signal_descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: the set is initialised and lives across the call; the old mask is not asked for.
    check(libc::c_long::from(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }))?;
    // SAFETY: as above; -1 asks for a new descriptor.
    let fd = check(libc::c_long::from(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    }))?;
    // SAFETY: the call has just returned this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap_or(-1)) })
}

/// Unblocks every signal in the calling thread.
pub(crate) fn unblock_signals() {
    let set = signal_set(&[]);
    // SAFETY: the set is initialised and lives across the call; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is a valid (empty) set on Linux.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for &signal in signals {
        // SAFETY: the set is initialised; an invalid number only makes the call fail.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// What a signal descriptor reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedSignal {
    /// Its number.
    pub(crate) number: i32,
    /// `si_code`: says whether the terminal or a process sent it.
    pub(crate) code: i32,
}

/// The next signal of a [`signal_descriptor`], if one is pending.
pub(crate) fn next_signal(descriptor: BorrowedFd<'_>) -> Option<ReceivedSignal> {
    let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let length = rustix::io::read(descriptor, &mut record).ok()?;
    if length != record.len() {
        return None;
    }
    let field =
        |at: usize| -> Option<i32> { Some(i32::from_ne_bytes(record.get(at..at.checked_add(4)?)?.try_into().ok()?)) };
    Some(ReceivedSignal {
        number: field(std::mem::offset_of!(libc::signalfd_siginfo, ssi_signo))?,
        code: field(std::mem::offset_of!(libc::signalfd_siginfo, ssi_code))?,
    })
}

/// Ends the process at once, without running destructors or exit handlers.
pub(crate) fn exit_now(status: u8) -> ! {
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(libc::c_int::from(status)) }
}

/// Makes a system call with zero arguments, for tests of the filter.
#[cfg(test)]
pub(crate) fn raw_call(number: libc::c_long) -> libc::c_long {
    // SAFETY: tests pass numbers of calls that take no pointers (all arguments are zero).
    unsafe { libc::syscall(number, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize) }
}

/// Makes a system call that the seccomp filter refuses print its number to standard error before the process dies. Only
/// for `--debug`: without it the host kills the process with no handler involved.
pub(crate) fn report_refused_calls() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid: default handler, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction =
        on_refused_call as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: (1) the structure lives across the call; (2) the handler is async-signal-safe: it formats into its stack
    // and makes two system calls.
    check(libc::c_long::from(unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) }))?;
    Ok(())
}

extern "C" fn on_refused_call(_signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: (1) the host passes a valid siginfo_t, which is 128 bytes; (2) nobody writes it while the handler runs.
    let info = unsafe { &*info.cast::<[u8; 128]>() };
    // si_syscall follows three ints, padding and a pointer (asm-generic/siginfo.h).
    let number = info.get(24..28).and_then(|bytes| bytes.try_into().ok()).map_or(-1, i32::from_ne_bytes);
    // SAFETY: the host passes a valid ucontext_t to SA_SIGINFO handlers.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let register =
        |index: libc::c_int| registers.get(usize::try_from(index).unwrap_or(usize::MAX)).copied().unwrap_or(0);
    write_line(format_args!(
        "casemate: the sandbox's filter refused host call {number} ({:#x}, {:#x}, {:#x}, {:#x}) at {:#x}\n",
        register(libc::REG_RDI),
        register(libc::REG_RSI),
        register(libc::REG_RDX),
        register(libc::REG_R10),
        register(libc::REG_RIP),
    ));
    exit_now(crate::failure::STATUS_OURS)
}

/// Installs the handlers that let copies to and from guest memory fault, and says what to do about any other fault of
/// the kernel itself: one line, status 125.
pub(crate) fn install_fault_handlers() {
    usermem::safecopy::on_crash(report_crash);
    usermem::safecopy::install();
}

/// Runs in the signal handler: formats into its stack, writes once, ends the process.
fn report_crash(crash: &usermem::safecopy::Crash) {
    write_line(format_args!(
        "casemate: internal error: signal {} (code {}) for address {:#x} at {:#x}, sp {:#x}; casemate {}\n",
        crash.signal,
        crash.code,
        crash.addr,
        crash.ip,
        crash.sp,
        env!("CARGO_PKG_VERSION")
    ));
    exit_now(crate::failure::STATUS_OURS)
}

/// Writes at most 255 bytes to standard error, without the heap and without locks.
fn write_line(text: std::fmt::Arguments<'_>) {
    let mut line = [0_u8; 255];
    let mut cursor = io::Cursor::new(&mut line[..]);
    let _ = io::Write::write_fmt(&mut cursor, text);
    let length = usize::try_from(cursor.position()).unwrap_or(0);
    if let Some(text) = line.get(..length) {
        // SAFETY: the buffer is valid for its length.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }
}

/// Size of the host's `struct termios` (asm-generic/termbits.h): four words, the line discipline, nineteen characters.
pub(crate) const TERMIOS_SIZE: usize = 36;

/// When a change of mode takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TermiosChange {
    /// At once.
    Now,
    /// When output has drained.
    Drain,
    /// When output has drained; input is thrown away.
    Flush,
}

/// The mode of a terminal, as `TCGETS` gives it.
pub(crate) fn terminal_mode(fd: BorrowedFd<'_>) -> io::Result<[u8; TERMIOS_SIZE]> {
    let mut mode = [0; TERMIOS_SIZE];
    // SAFETY: TCGETS writes `struct termios`, which is as large as the buffer.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TCGETS, mode.as_mut_ptr()) }))?;
    Ok(mode)
}

/// Sets the mode of a terminal.
pub(crate) fn set_terminal_mode(fd: BorrowedFd<'_>, when: TermiosChange, mode: &[u8; TERMIOS_SIZE]) -> io::Result<()> {
    let request = match when {
        TermiosChange::Now => libc::TCSETS,
        TermiosChange::Drain => libc::TCSETSW,
        TermiosChange::Flush => libc::TCSETSF,
    };
    // SAFETY: the three requests read `struct termios`, which is as large as the buffer.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), request, mode.as_ptr()) }))?;
    Ok(())
}

/// Block size from which the C library maps each block on its own, and free bytes at the end of a heap from which it gives
/// them back. Said once, they stay: left alone both grow with the largest block ever freed, up to 64 MiB per heap, and a guest
/// decides how large our blocks get.
const LARGE_BLOCK: libc::c_int = 256 << 10;

/// Settles the C library's heaps for a machine of `cpus`: their number, so that it never looks for the number of CPUs in `/sys`
/// (a call outside the filter), and what they keep of freed memory.
pub(crate) fn settle_heaps(cpus: usize) {
    let heaps = libc::c_int::try_from(cpus.saturating_mul(2)).unwrap_or(64).clamp(4, 64);
    for (parameter, value) in
        [(libc::M_ARENA_MAX, heaps), (libc::M_MMAP_THRESHOLD, LARGE_BLOCK), (libc::M_TRIM_THRESHOLD, LARGE_BLOCK)]
    {
        // SAFETY: mallopt takes integers; the process has no other thread yet.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives the pages of the C library's heaps that hold nothing back to the host.
pub(crate) fn trim_heaps() {
    // SAFETY: takes the heaps' own locks and touches only what is free.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::{LARGE_BLOCK, settle_heaps, trim_heaps};

    /// Anonymous memory of this process, in KiB.
    fn anonymous_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Blocks that the C library mapped one by one.
    fn mapped_blocks() -> usize {
        // SAFETY: takes no arguments.
        unsafe { libc::mallinfo2() }.hblks
    }

    fn filled(bytes: usize) -> Vec<u8> {
        std::hint::black_box(vec![1; bytes])
    }

    #[test]
    fn settled_heaps_give_back_what_was_freed() {
        // What it settles is the whole process's, and so is what it looks at.
        if std::env::var_os("CASEMATE_HEAP_CHILD").is_none() {
            let me = std::env::current_exe().expect("path");
            let status = std::process::Command::new(me)
                .args([
                    "--exact",
                    "host::tests::settled_heaps_give_back_what_was_freed",
                    "--nocapture",
                    "--test-threads=1",
                ])
                .env("CASEMATE_HEAP_CHILD", "1")
                .stdout(std::process::Stdio::null())
                .status()
                .expect("runs");
            assert!(status.success(), "{status:?}");
            return;
        }
        settle_heaps(2);
        let large = usize::try_from(LARGE_BLOCK).expect("a size");
        // Left alone, the library takes blocks of up to this size from its heaps from now on.
        drop(filled(100 * large));
        let before = mapped_blocks();
        let block = filled(large);
        assert_eq!(mapped_blocks(), before + 1);
        drop(block);

        // Memory at the end of a heap goes by itself.
        let before = anonymous_kib();
        drop((0..1000).map(|_| filled(large / 8)).collect::<Vec<_>>());
        let left = anonymous_kib().saturating_sub(before);
        assert!(left < 2 << 10, "{left} KiB are left");

        // What lies between objects that live goes when it is asked for.
        let mut all: Vec<(Vec<u8>, Vec<u8>)> = (0..1000).map(|_| (filled(large / 8), filled(large / 64))).collect();
        let lives: Vec<Vec<u8>> = all.drain(..).map(|(_, lives)| lives).collect();
        let held = anonymous_kib();
        trim_heaps();
        let given = held.saturating_sub(anonymous_kib());
        assert!(given > 20 << 10, "{given} KiB of {held} were given back");
        assert!(lives.iter().flatten().all(|byte| *byte == 1));
    }
}
