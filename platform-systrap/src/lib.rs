//! Runs guest code in stub processes, trapped by seccomp: works on any Linux from 5.15, without privileges.
//!
//! Each guest address space is a stub process; each guest thread is a thread of it, paired with the kernel thread that
//! serves it. Guest code runs there natively until it makes a system call, faults, or is kicked; then the thread waits in
//! a seccomp notification while the kernel reads and edits its registers in shared memory. Design and measurements:
//! DESIGN.md §4; choices of this stage: docs/adr/0010-systrap-first-stage.md.
//!
//! | module | what |
//! | --- | --- |
//! | `stub` | the code in the stub, assembly |
//! | `layout` | addresses and offsets that it shares with us |
//! | `filter` | the seccomp filters |
//! | `zygote` | the process from which stubs are forked |
//! | `machine` | what stubs have in common, and the pool |
//! | `process` | a stub: memory thread, leader, death |
//! | `thread` | an application thread: its signal frame |
//! | `context`, `space` | the platform traits |
//! | `line` | the word that says who has a thread and who sleeps |
//! | `mask` | the signal mask that a stub may change alone |
//! | `pace` | when to watch that word instead of sleeping |
//! | `cores` | who uses the cores, and who watches on one |
//! | `turns` | whose turn it is where more would watch than cores allow |
//! | `kick` | whether an interrupt is outstanding |
//! | `watchdog` | ends stubs that do not answer kicks |
//! | `handover` | waiting for stub threads and letting them go |
//! | `spares` | stubs between two guests, and whose a stub is |
//! | `mapped` | which addresses of a stub are mapped |
//! | `shared`, `fpu`, `host` | shared files, XSAVE images, host calls |
//!
//! **Invariants.**
//! - Nothing in stub memory is trusted: not for safety, not for what another address space may see.
//! - Threads that run guest code have no permitted host call. Threads with permitted calls read no memory that the guest
//!   can write.
//! - Lock order: spares; map (`space`) → stub (`process`) → units (`shared`); pool (`machine`) → units.

mod context;
#[doc(hidden)]
pub mod cores;
mod filter;
mod fpu;
mod handover;
mod host;
#[doc(hidden)]
pub mod kick;
mod layout;
#[doc(hidden)]
pub mod line;
mod machine;
mod mapped;
#[doc(hidden)]
pub mod mask;
mod pace;
mod process;
mod shared;
mod space;
#[doc(hidden)]
pub mod spares;
mod stub;
mod thread;
#[doc(hidden)]
pub mod turns;
mod watchdog;
mod zygote;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use usermem::platform::{AddressSpace, HostCallRule, Limits, Platform, PlatformError};
use usermem::{Addr, AddrRange};

pub use context::SystrapContext;
pub use space::SystrapSpace;

use host::{Affinity, Features, Transport};
use layout::{KICK_SIGNAL, MAX_SLABS};
use machine::Machine;
use process::Stub;
use spares::Spares;

/// Lowest address a guest may map: the usual `vm.mmap_min_addr`, rounded up to what every host allows.
const USER_START: u64 = 0x1_0000;

/// Most stubs that are kept for the next guest. What takes part in a pipeline of a shell, or in a build on a few cores.
const MOST_SPARES: usize = 6;

/// What a [`Systrap`] is made with.
#[derive(Clone, Debug)]
pub struct SystrapConfig {
    /// The sandbox's memory file, writable.
    pub memory: Arc<OwnedFd>,
    /// The same file, opened read-only: what the guest may not write is mapped from here.
    pub memory_read_only: Arc<OwnedFd>,
    /// Stubs kept ready for the next address space.
    pub spare_stubs: usize,
    /// How stub threads hand over to the kernel.
    pub handover: Handover,
    /// How long guest code may leave an interrupt unanswered before its process is killed. Honest code answers at once.
    pub kick_patience: Duration,
    /// Most CPUs that the sandbox may keep busy at once, as its CPU quota says; its affinity may say less. With 1, no thread
    /// ever watches for another's answer instead of sleeping.
    pub cpus: u32,
    /// Whether patched call sites may be used.
    pub calls: Calls,
}

/// How guest code may make system calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Calls {
    /// Also through [`Platform::call_entry`]; the GS base of guest code that has none of its own is then ours.
    #[default]
    Entered,
    /// Only by trapping.
    Trapped,
}

/// How stub threads hand over to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Handover {
    /// By seccomp notification where the host gives listeners, else by futex.
    #[default]
    Auto,
    /// By seccomp notification: fastest on any host from 6.6, and guest threads have no permitted host call.
    Notify,
    /// By seccomp notification as hosts before 6.6 have it, without `SYNC_WAKE_UP`: who wakes the other binds it to its own
    /// CPU. For tests.
    NotifyUnsynced,
    /// By futex: works where the host's runtime holds a seccomp listener itself.
    Futex,
}

impl SystrapConfig {
    /// The usual settings for a memory file.
    pub fn new(memory: Arc<OwnedFd>, memory_read_only: Arc<OwnedFd>) -> Self {
        Self {
            memory,
            memory_read_only,
            spare_stubs: 2,
            handover: Handover::Auto,
            kick_patience: Duration::from_secs(10),
            cpus: u32::MAX,
            calls: Calls::default(),
        }
    }
}

/// The platform.
#[derive(Debug)]
pub struct Systrap {
    machine: Arc<Machine>,
    spares: Arc<Spares<Stub>>,
}

impl Systrap {
    /// Sets up the platform and forks its zygote.
    ///
    /// Call it before the process has threads or a seccomp filter, from the thread that will live longest: when that
    /// thread ends, the host kills all stubs. Needs no /proc. What the process's no_new_privs, namespaces and
    /// oom_score_adj are now, those of all stubs will be; capabilities are dropped. Nobody but this crate may wait for the
    /// children it makes (they send no signal; `waitpid(-1)` without `__WALL` does not see them).
    ///
    /// # Errors
    /// [`PlatformError`] with the step that the host refused.
    pub fn new(config: &SystrapConfig) -> Result<Self, PlatformError> {
        let transport = match config.handover {
            Handover::Auto if zygote::listeners_work() => Transport::Notify,
            Handover::Notify | Handover::NotifyUnsynced => Transport::Notify,
            Handover::Auto | Handover::Futex => Transport::Futex,
        };
        let mut features = Features::probe(transport);
        features.sync_wake_up &= config.handover != Handover::NotifyUnsynced;
        let memory = [config.memory.as_fd(), config.memory_read_only.as_fd()];
        let machine =
            Machine::new(memory, config.spare_stubs, features, config.kick_patience, config.cpus, config.calls)?;
        Ok(Self { machine: Arc::new(machine), spares: Arc::new(Spares::new(MOST_SPARES)) })
    }
}

/// Whether this host gives seccomp listeners, for `doctor`: without them the slower futex hand-over is used.
pub fn listeners_work() -> bool {
    zygote::listeners_work()
}

impl Platform for Systrap {
    fn name(&self) -> &'static str {
        "systrap"
    }

    fn limits(&self) -> Limits {
        Limits {
            user: AddrRange { start: Addr(USER_START), end: Addr(self.machine.base) },
            max_threads: MAX_SLABS as usize - 1,
        }
    }

    fn call_entry(&self) -> Option<Addr> {
        (self.machine.calls == Calls::Entered).then(|| Addr(self.machine.call_entry()))
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, PlatformError> {
        let stub = match self.spares.take() {
            Some(stub) => stub,
            None => self.machine.take_stub()?,
        };
        Ok(Arc::new(SystrapSpace::new(stub, self.limits().user, &self.spares)))
    }

    fn wake_elsewhere(&self, tid: i32, wake: &mut dyn FnMut()) {
        if !self.machine.cores.is_one_free() {
            return wake();
        }
        // The host leaves a thread that slept for short where it was, even if that core is busy and another idle.
        let affinity = Affinity::of_this_thread();
        affinity.send_away(tid);
        wake();
        affinity.let_go(tid);
    }

    fn host_calls(&self) -> &'static [HostCallRule] {
        HOST_CALLS
    }
}

const WORD: u64 = u32::MAX as u64;

/// What the platform calls in the sandbox process once it runs guests. [`Systrap::new`] calls more.
const HOST_CALLS: &[HostCallRule] = &[
    HostCallRule {
        nr: libc::SYS_ioctl,
        args: &[&[(1, WORD, host::NOTIF_RECV)], &[(1, WORD, host::NOTIF_SEND)], &[(1, WORD, host::NOTIF_SET_FLAGS)]],
        reason: "systrap: wait for stub threads, answer them, and wake them on the current CPU",
    },
    HostCallRule {
        nr: libc::SYS_poll,
        args: &[&[(1, WORD, 1)]],
        reason: "systrap: whether a stub is dead; before Linux 6.11 also ahead of each wait",
    },
    HostCallRule {
        nr: libc::SYS_tgkill,
        args: &[&[(2, WORD, KICK_SIGNAL as u64)]],
        reason: "systrap: interrupt guest code",
    },
    HostCallRule {
        nr: libc::SYS_pidfd_send_signal,
        args: &[&[(1, WORD, libc::SIGKILL as u64), (3, WORD, 0)]],
        reason: "systrap: kill a stub",
    },
    HostCallRule {
        nr: libc::SYS_waitid,
        args: &[&[(0, WORD, libc::P_PIDFD as u64)]],
        reason: "systrap: wait until a stub's address space is gone, reap it",
    },
    HostCallRule {
        nr: libc::SYS_sendmsg,
        args: &[],
        reason: "systrap: ask the zygote for a stub, a leader for a thread, hand host files to a memory thread",
    },
    HostCallRule {
        nr: libc::SYS_recvmsg,
        args: &[],
        reason: "systrap: receive new stubs and the listeners of new threads",
    },
    HostCallRule {
        nr: libc::SYS_recvfrom,
        args: &[&[(3, WORD, libc::MSG_TRUNC as u64)]],
        reason: "systrap: answers of leaders, and of memory threads where there are no seccomp listeners",
    },
    HostCallRule {
        nr: libc::SYS_futex,
        args: &[&[(1, WORD, libc::FUTEX_WAIT as u64)], &[(1, WORD, libc::FUTEX_WAKE as u64)]],
        reason: "systrap: hand over to stub threads where there are no seccomp listeners",
    },
    HostCallRule { nr: libc::SYS_close, args: &[], reason: "systrap: descriptors of dead stubs" },
    HostCallRule {
        nr: libc::SYS_fallocate,
        args: &[&[(1, WORD, (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64)]],
        reason: "systrap: clear the slabs of a dead stub",
    },
    HostCallRule {
        nr: libc::SYS_sched_setaffinity,
        args: &[],
        reason: "systrap: move a stub thread off the CPU on which its kernel thread will watch for its calls, and a child's host thread off its parent's; before Linux 6.6, keep stub threads there",
    },
    HostCallRule { nr: libc::SYS_getcpu, args: &[], reason: "systrap: as above, where the vDSO does not answer" },
];
