//! What the caller left us, recorded before Rust's runtime changes it: it opens `/dev/null` for closed standard streams
//! and ignores SIGPIPE, and a guest must see the truth.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Standard streams that were open at exec: bit N is descriptor N.
static OPEN_STREAMS: AtomicU64 = AtomicU64::new(0);
/// Signals that were ignored at exec: bit N-1 is signal N.
static IGNORED: AtomicU64 = AtomicU64::new(0);
/// Whether the record was taken.
static RECORDED: AtomicBool = AtomicBool::new(false);

/// Runs among the C constructors, before `main` and so before std's runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

extern "C" fn record() {
    // Relaxed everywhere: this runs before any other thread exists.
    let mut open = 0;
    for fd in 0..3 {
        // SAFETY: F_GETFD takes no pointer; a closed descriptor makes it fail.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1 {
            open |= 1 << fd;
        }
    }
    OPEN_STREAMS.store(open, Ordering::Relaxed);

    let mut ignored = 0;
    for signal in 1..=31 {
        // SAFETY: an all-zero sigaction is valid storage.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: no new action is set; the old one is written to storage that lives across the call.
        let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        if result == 0 && action.sa_sigaction == libc::SIG_IGN {
            ignored |= 1 << (signal - 1);
        }
    }
    IGNORED.store(ignored, Ordering::Relaxed);

    // std gives every thread an alternate stack when it finds these two at their default and takes them over: three host
    // calls and two mappings per guest thread, for a message about stack overflow. A handler that undoes itself keeps it
    // away; `install_fault_handlers` puts the real ones in place.
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the handler is async-signal-safe: it only makes one call that is.
        unsafe { libc::signal(signal, die_of as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
    RECORDED.store(true, Ordering::Relaxed);
}

/// Puts the default action back; the fault then happens again and has it.
extern "C" fn die_of(signal: libc::c_int) {
    // SAFETY: signal(2) with the default action needs nothing.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// What the caller of `casemate` left to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inherited {
    open_streams: u64,
    /// Ignored signals: bit N-1 is signal N.
    pub(crate) ignored_signals: u64,
}

impl Inherited {
    /// The record; without one (a linker that drops constructors), all streams count as open.
    pub(crate) fn get() -> Self {
        if !RECORDED.load(Ordering::Relaxed) {
            return Self { open_streams: 0b111, ignored_signals: 0 };
        }
        Self { open_streams: OPEN_STREAMS.load(Ordering::Relaxed), ignored_signals: IGNORED.load(Ordering::Relaxed) }
    }

    /// Whether standard stream `fd` (0 to 2) was open.
    pub(crate) fn is_open(self, fd: usize) -> bool {
        fd < 3 && self.open_streams & (1 << fd) != 0
    }

    /// Whether `signal` was ignored.
    pub(crate) fn ignores(self, signal: i32) -> bool {
        (1..=64).contains(&signal) && self.ignored_signals & (1 << (signal - 1)) != 0
    }
}
