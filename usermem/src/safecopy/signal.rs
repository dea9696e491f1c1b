//! The handler of SIGSEGV and SIGBUS.
//!
//! It runs on whichever thread faulted, touches only that thread's saved context and atomics of this module, and so is
//! safe wherever the fault came from.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::asm;

/// A fault of the kernel process that no fixup covers, as told to the hook of [`on_crash`].
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    /// SIGSEGV or SIGBUS.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`.
    pub addr: usize,
    /// Where the instruction pointer was.
    pub ip: usize,
    /// Where the stack pointer was.
    pub sp: usize,
    /// The frame pointer, for a backtrace.
    pub fp: usize,
}

/// What was installed before us, for SIGSEGV and SIGBUS.
static PREVIOUS: OnceLock<[libc::sigaction; 2]> = OnceLock::new();

/// A `fn(&Crash)`, or 0.
static HOOK: AtomicUsize = AtomicUsize::new(0);

const SIGNALS: [i32; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Sets `hook` to be called once for a crash, before the previous handler or the default action. It runs in the signal
/// handler: only async-signal-safe work.
pub fn on_crash(hook: fn(&Crash)) {
    // Release pairs with the acquire in `crash`: the hook's data is ready.
    HOOK.store(hook as usize, Ordering::Release);
}

/// Installs the handlers for this process. Later calls do nothing. Must come after anything else that installs handlers
/// for SIGSEGV and SIGBUS (std does at start), since those are what we pass other faults on to.
///
/// # Panics
/// If the host refuses to install a handler, which it has no reason to.
pub fn install() {
    PREVIOUS.get_or_init(|| {
        // Read first, so that the handler always finds its predecessors.
        SIGNALS.map(|signal| {
            // SAFETY: an all-zero sigaction is a valid value of the C struct.
            let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: a null new action only queries; `old` is a live sigaction.
            let ret = unsafe { libc::sigaction(signal, std::ptr::null(), &mut old) };
            assert_eq!(ret, 0, "sigaction query");
            old
        })
    });
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        for signal in SIGNALS {
            // SAFETY: an all-zero sigaction is a valid value of the C struct; an empty mask is one of them.
            let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
            new.sa_sigaction = handler as *const () as usize;
            // SA_ONSTACK so that threads with std's alternate stack still report overflows.
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: the handler has the SA_SIGINFO signature and is async-signal-safe; `new` is live.
            let ret = unsafe { libc::sigaction(signal, &new, std::ptr::null_mut()) };
            assert_eq!(ret, 0, "sigaction");
        }
    });
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the host passes a valid siginfo to an SA_SIGINFO handler.
    let info_ref = unsafe { &*info };
    // SAFETY: the third argument of an SA_SIGINFO handler is a ucontext_t, ours to change until we return.
    let ucontext = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let gregs = &mut ucontext.uc_mcontext.gregs;
    let ip = gregs[libc::REG_RIP as usize] as usize;
    // A positive code means that the CPU faulted; one that someone sent to us is never a copy's.
    if info_ref.si_code > 0
        && let Some(target) = asm::fixup(ip)
    {
        gregs[libc::REG_RIP as usize] = target as i64;
        return;
    }
    // SAFETY: si_addr is meaningful for these signals and plain data in any case.
    let addr = unsafe { info_ref.si_addr() }.addr();
    let crash = Crash {
        signal,
        code: info_ref.si_code,
        addr,
        ip,
        sp: gregs[libc::REG_RSP as usize] as usize,
        fp: gregs[libc::REG_RBP as usize] as usize,
    };
    pass_on(&crash, info, context);
}

/// Tells the hook and hands the signal to whoever had it before us.
fn pass_on(crash: &Crash, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // Taken, so that a crash inside the hook does not call it again. Acquire pairs with `on_crash`.
    let hook = HOOK.swap(0, Ordering::AcqRel);
    if hook != 0 {
        // SAFETY: only `on_crash` stores here, and what it stores is a fn(&Crash).
        let hook: fn(&Crash) = unsafe { std::mem::transmute(hook) };
        hook(crash);
    }
    let at = usize::from(crash.signal == libc::SIGBUS);
    let previous = PREVIOUS.get().map(|all| all[at]);
    match previous {
        Some(old) if old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != libc::SIG_IGN => {
            if old.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: a non-default action with SA_SIGINFO is a function of this type.
                let call: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    unsafe { std::mem::transmute(old.sa_sigaction) };
                call(crash.signal, info, context);
            } else {
                // SAFETY: a non-default action without SA_SIGINFO is a function of this type.
                let call: extern "C" fn(i32) = unsafe { std::mem::transmute(old.sa_sigaction) };
                call(crash.signal);
            }
        }
        _ => {
            // The default action, taken when the faulting instruction runs again, or now for a sent signal.
            // SAFETY: an all-zero sigaction is SIG_DFL with an empty mask.
            let default: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: `default` is live; the signal is valid.
            unsafe { libc::sigaction(crash.signal, &default, std::ptr::null_mut()) };
            if crash.code <= 0 {
                // SAFETY: raise has no memory conditions.
                unsafe { libc::raise(crash.signal) };
            }
        }
    }
}
