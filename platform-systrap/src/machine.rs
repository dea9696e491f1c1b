//! What all stubs of a sandbox have in common: where they are, what they share with us, what the host can do, and the
//! zygote with its small pool of stubs that are being made.
//!
//! The pool is a count of open requests: the zygote works them off while nobody waits, and its answers stay in the socket.
//! Nothing wakes up when the sandbox is idle.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use sync::{LockClass, Mutex};
use usermem::platform::PlatformError;

use crate::Calls;
use crate::cores::Cores;
use crate::filter::{self, Insn};
use crate::fpu::XsaveLayout;
use crate::host::{self, Affinity, Features, Transport};
use crate::layout::{
    ALTSTACK, CHUNK, CONFIG, CONFIG_LEN, CONTROL_LEN, FD_FREE, REGION_LEN, SCRATCH, SLAB, TEXT_LEN, config, scratch,
};
use crate::pace::Scale;
use crate::process::{Stub, Units};
use crate::shared::{SharedFile, Writers};
use crate::stub;
use crate::thread::FIXED_FLAGS;
use crate::watchdog::Watchdog;
use crate::zygote::{self, Plan, Reservation, Zygote};

/// Stubs that can exist at once.
const MAX_STUBS: u64 = 32_768;
/// Chunks of slabs in all stubs together: 16 GiB of address space.
const MAX_CHUNKS: u64 = 65_536;
/// What a signal frame needs besides the XSAVE image: red zone, ucontext, siginfo, alignment, the host's mark.
const FRAME_OVERHEAD: u64 = 128 + 8 + 304 + 128 + 64 + 16 + 8;
/// Frames that may be on an alternate stack at once: the guest's exit, a kick during our work, a kick during that kick.
const NESTED_FRAMES: u64 = 3;

#[derive(Debug)]
struct Pool {
    /// Requests that the zygote has not answered, or whose answers nobody has read, oldest first.
    open: VecDeque<Units>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Start of the stub region, the same in every stub.
    pub(crate) base: u64,
    pub(crate) features: Features,
    pub(crate) xsave: XsaveLayout,
    pub(crate) control: SharedFile,
    pub(crate) slabs: SharedFile,
    zygote: Zygote,
    pool: Mutex<Pool>,
    pool_size: usize,
    pub(crate) watchdog: Watchdog,
    pub(crate) cores: Cores,
    pub(crate) calls: Calls,
    /// Numbers of our descriptors are below this: RLIMIT_NOFILE.
    most_descriptors: u64,
}

/// Descriptors that threads and stubs leave free, or a sixteenth of all where there are few. One that the host cannot give us when a new thread passes it on is lost, and
/// its stub with it; others may open files between the look and that moment.
const SPARE_DESCRIPTORS: u64 = 32;

fn step<T>(what: &'static str, result: io::Result<T>) -> Result<T, PlatformError> {
    result.map_err(|source| PlatformError::Host { what, source })
}

impl Machine {
    /// Makes the zygote. `memory` are the memory file's two descriptors, writable and read-only.
    pub(crate) fn new(
        memory: [BorrowedFd<'_>; 2],
        pool_size: usize,
        features: Features,
        patience: Duration,
        most_cpus: u32,
        calls: Calls,
    ) -> Result<Self, PlatformError> {
        // HWCAP2_FSGSBASE: the stub reads and writes the bases itself.
        // SAFETY: reads the process's own auxiliary vector.
        let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
        if hwcap2 & 2 == 0 {
            return Err(PlatformError::Limit("the host does not enable FSGSBASE"));
        }
        let xsave = XsaveLayout::probe();
        if (xsave.size as u64 + FRAME_OVERHEAD) * NESTED_FRAMES > SLAB - ALTSTACK {
            return Err(PlatformError::Limit("the CPU's extended state is larger than a stub thread's stack"));
        }
        let cores = Cores::new(Affinity::of_this_thread().count().min(most_cpus), Scale::measure());
        let reservation = step("address space for stubs", Reservation::near_the_top(REGION_LEN, SLAB))?;
        let base = reservation.base;
        let control =
            step("control file", SharedFile::new(c"casemate-control", CONTROL_LEN, MAX_STUBS, Writers::KernelOnly))?;
        let slabs = step("slab file", SharedFile::new(c"casemate-slabs", CHUNK, MAX_CHUNKS, Writers::Everyone))?;
        let image = step("stub image", image(base, features, &xsave, cores.scale.stub_looks, calls))?;
        let plan = Plan {
            base,
            image: image.as_fd(),
            files: [memory[0], memory[1], slabs.fd(), control.fd()],
            entries: stub::entries(),
            transport: features.transport,
        };
        let zygote = step("zygote", zygote::spawn(&plan))?;
        let pool = Mutex::new(LockClass::new("systrap pool", 59_000), Pool { open: VecDeque::new() });
        let watchdog = Watchdog::new(patience);
        let most_descriptors = host::most_descriptors();
        let machine = Self {
            base,
            features,
            xsave,
            control,
            slabs,
            zygote,
            pool,
            pool_size,
            watchdog,
            cores,
            calls,
            most_descriptors,
        };
        {
            let mut pool = machine.pool.lock();
            while pool.open.len() < machine.pool_size {
                machine.request(&mut pool)?;
            }
        }
        Ok(machine)
    }

    /// Refuses what needs descriptors when few are left.
    pub(crate) fn look_for_descriptors(&self) -> Result<(), PlatformError> {
        // The host gives the lowest number that is free.
        match host::lowest_free_descriptor(self.slabs.fd()) {
            Ok(lowest) if lowest.saturating_add(self.spare_descriptors()) < self.most_descriptors => Ok(()),
            Ok(_) => Err(PlatformError::Limit("descriptors of the host")),
            Err(source) => Err(PlatformError::Host { what: "a descriptor", source }),
        }
    }

    fn spare_descriptors(&self) -> u64 {
        SPARE_DESCRIPTORS.min(self.most_descriptors / 16)
    }

    /// Addresses of the stub's code.
    pub(crate) fn text(&self) -> Range<u64> {
        self.base..self.base + TEXT_LEN
    }

    /// Where patched sites jump to.
    pub(crate) fn call_entry(&self) -> u64 {
        self.base + stub::entries().call
    }

    /// Where threads go on after a hand-over by notification.
    pub(crate) fn handed(&self) -> u64 {
        self.base + stub::entries().handed
    }

    /// Where threads fault when they have forgotten their guest.
    pub(crate) fn renewed(&self) -> u64 {
        self.base + stub::entries().renewed
    }

    /// Where a thread that is at `rip` in the entry of patched sites, with `rcx` and `r11`, would make its call instead.
    pub(crate) fn call_before(&self, rip: u64, rcx: u64, r11: u64) -> Option<u64> {
        let entries = stub::entries();
        let at = rip.wrapping_sub(self.base);
        let back = if at < entries.call_swapped { rcx } else { r11 };
        (entries.call..entries.call_taken).contains(&at).then(|| back.wrapping_sub(2))
    }

    fn request(&self, pool: &mut Pool) -> Result<(), PlatformError> {
        let control = self.control.allocate().ok_or(PlatformError::Limit("address spaces"))?;
        let Some(chunk) = self.slabs.allocate() else {
            self.control.free(control);
            return Err(PlatformError::Limit("stub threads"));
        };
        let units = Units { control, chunk };
        Stub::lay_out(self, &units);
        let sent = self.zygote.request(control, chunk);
        // Not given back on failure: the zygote is gone then, and with it every later stub.
        pool.open.push_back(units);
        step("zygote", sent)
    }

    /// A fresh stub; orders its successor.
    pub(crate) fn take_stub(self: &Arc<Self>) -> Result<Stub, PlatformError> {
        self.look_for_descriptors()?;
        let (units, born) = {
            let mut pool = self.pool.lock();
            if pool.open.is_empty() {
                self.request(&mut pool)?;
            }
            let born = self.zygote.answer();
            let units = pool.open.pop_front().ok_or(PlatformError::Limit("the zygote is gone"))?;
            while born.is_ok() && pool.open.len() < self.pool_size {
                self.request(&mut pool)?;
            }
            (units, born)
        };
        match born {
            Ok(born) => Stub::adopt(Arc::clone(self), units, born),
            Err(source) => {
                self.control.free(units.control);
                self.slabs.free(units.chunk);
                Err(PlatformError::Host { what: "fork of a stub", source })
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Stubs that nobody took: dead before the zygote is, and reaped.
        for _ in self.pool.get_mut().open.drain(..) {
            if let Ok(born) = self.zygote.answer() {
                Stub::discard(born);
            }
        }
    }
}

/// The file that the zygote maps: text, and the configuration page, in which every address is the stub's.
fn image(
    base: u64,
    features: Features,
    xsave: &XsaveLayout,
    looks: u32,
    calls: Calls,
) -> io::Result<std::os::fd::OwnedFd> {
    let text = stub::text();
    if text.len() as u64 > TEXT_LEN {
        return Err(io::Error::other("stub text too long"));
    }
    let mut bytes = vec![0_u8; (CONFIG + CONFIG_LEN) as usize];
    bytes[..text.len()].copy_from_slice(text);
    let window = stub::entries().call_window as usize;
    bytes[window..window + 4].copy_from_slice(&stub::call_window(base).to_le_bytes());
    let mut put = |at: u64, word: u64| {
        let at = (CONFIG + at) as usize;
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    };
    let range = base..base + TEXT_LEN;
    for (prog, insns_at, insns) in [
        (config::LISTEN_PROG, config::LISTEN_INSNS, filter::listen()),
        (config::APP_PROG, config::APP_INSNS, filter::app(&range, features.transport)),
        (config::OPS_PROG, config::OPS_INSNS, filter::ops(features.transport)),
    ] {
        put(prog, insns.len() as u64);
        put(prog + 8, base + CONFIG + insns_at);
        for (index, insn) in insns.iter().enumerate() {
            put(insns_at + index as u64 * 8, encode(*insn));
        }
    }
    put(config::LISTEN_FLAGS, features.listen_flags);
    put(config::FILTER_FLAGS, features.listen_flags & libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    put(config::XFEATURES, xsave.features);
    put(config::PLAIN_FLAGS, FIXED_FLAGS);
    put(config::LOOKS, u64::from(looks));
    put(config::ANSWER_TRAPS, u64::from(calls == Calls::Trapped));
    put(config::FUTEX, u64::from(features.transport == Transport::Futex));
    // The zygote's answer: the pid, with the two socket ends and the pidfd, whose numbers follow from the layout.
    put_message(&mut put, base, config::ZYGOTE_MSG, base + SCRATCH + scratch::REPLY, 8, &[5, 7, 9]);
    // A listener has the first free number.
    put_message(&mut put, base, config::LISTENER_MSG, base + CONFIG, 1, &[FD_FREE as u32]);
    put_message(&mut put, base, config::DONE_MSG, base + CONFIG, 1, &[]);

    let file = host::memory_file(c"casemate-stub", bytes.len() as u64)?;
    let written = rustix::io::pwrite(&file, &bytes, 0)?;
    if written != bytes.len() {
        return Err(io::Error::other("stub image cut short"));
    }
    let seals = rustix::fs::SealFlags::WRITE
        | rustix::fs::SealFlags::SHRINK
        | rustix::fs::SealFlags::GROW
        | rustix::fs::SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// `struct sock_filter` as one word.
fn encode(insn: Insn) -> u64 {
    u64::from(insn.code) | u64::from(insn.jt) << 16 | u64::from(insn.jf) << 24 | u64::from(insn.k) << 32
}

/// Lays out a `msghdr`, its iovec and its control message of descriptors at `at` of the configuration page.
fn put_message(put: &mut impl FnMut(u64, u64), base: u64, at: u64, data: u64, len: u64, fds: &[u32]) {
    let (iov, control) = (at + 64, at + 80);
    let control_len = if fds.is_empty() { 0 } else { 16 + 4 * fds.len() as u64 };
    let header = [0, 0, base + CONFIG + iov, 1, base + CONFIG + control, control_len.next_multiple_of(8), 0];
    for (index, word) in header.iter().enumerate() {
        put(at + index as u64 * 8, *word);
    }
    put(iov, data);
    put(iov + 8, len);
    put(control, control_len);
    put(control + 8, libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32);
    for (index, pair) in fds.chunks(2).enumerate() {
        let high = pair.get(1).copied().unwrap_or(0);
        put(control + 16 + index as u64 * 8, u64::from(pair[0]) | u64::from(high) << 32);
    }
}
