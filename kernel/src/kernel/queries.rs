//! What the rest asks a kernel for: its parts, its figures, its names.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use fs::vfs::{Devices, MountNs};
use loader::Randomness;
use usermem::memfile::MemoryFile;
use usermem::platform::Platform;

use super::Kernel;
use super::config::{Cpu, Machine, Uts};
use crate::futex::FutexTable;
use crate::heap::Trimmed;
use crate::ipc::Ipc;
use crate::signal::limits::SignalQuota;
use crate::socket::unix;
use crate::syscall::Dispatch;
use crate::task::set::TaskSet;
use crate::task::thread::CpuTimes;
use crate::time::thread::Timers;
use crate::time::vdso::VdsoPages;
use crate::watchdog::Watchdog;
use stops::Pauses;

/// Guest memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryInfo {
    /// The sandbox's limit.
    pub total: u64,
    /// What is left of it.
    pub free: u64,
}

impl Kernel {
    pub(crate) fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    pub(crate) fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// Tells whoever watches the sandbox of a task that does not come back.
    pub(crate) fn tell_stuck(&self, line: &str) {
        if let Some(observer) = &self.observer {
            observer.stuck(line);
        }
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Arms a timer of one of the kernel's own objects (timerfd): `target` hears `token` at `deadline_ns`, monotonic.
    pub fn arm_timer(
        &self,
        deadline_ns: u64,
        target: std::sync::Weak<dyn crate::time::TimerTarget>,
        token: u64,
    ) -> crate::time::TimerHandle {
        self.timers.arm(deadline_ns, target, token)
    }

    /// Takes an armed timer back; says whether it was still to come.
    pub fn disarm_timer(&self, handle: crate::time::TimerHandle) -> bool {
        self.timers.disarm(handle)
    }

    /// System V IPC.
    pub fn ipc(&self) -> &Ipc {
        &self.ipc
    }

    /// Everyone who sleeps on a futex.
    pub fn futexes(&self) -> &FutexTable {
        &self.futexes
    }

    /// What UNIX sockets share: abstract names, descriptors on their way.
    pub fn unix_sockets(&self) -> &Arc<unix::Space> {
        &self.unix_sockets
    }

    pub(crate) fn signal_quota(&self) -> &SignalQuota {
        &self.signal_quota
    }

    pub(crate) fn vdso(&self) -> &VdsoPages {
        &self.vdso
    }

    pub(crate) fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// All tasks.
    pub fn tasks(&self) -> &TaskSet {
        &self.tasks
    }

    /// What runs guest code.
    pub fn platform(&self) -> &Arc<dyn Platform> {
        &self.platform
    }

    /// Patched text, if calls are patched.
    pub(crate) fn text(&self) -> Option<Arc<mm::TextCache>> {
        self.text.clone()
    }

    /// What holds guest memory.
    pub fn memory(&self) -> &Arc<MemoryFile> {
        &self.memory
    }

    /// The mounts that processes see.
    pub fn mounts(&self) -> &Arc<MountNs> {
        &self.mounts
    }

    /// What device numbers mean.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    pub(crate) fn devices_arc(&self) -> &Arc<Devices> {
        &self.devices
    }

    /// The system-call table.
    pub fn dispatch(&self) -> &Arc<dyn Dispatch> {
        &self.dispatch
    }

    /// The wall clock, as file systems read it.
    pub fn file_clock(&self) -> &dyn fs::Clock {
        &self.file_clock
    }

    /// The heap of our own objects.
    pub(crate) fn heap(&self) -> &Trimmed {
        &self.heap
    }

    /// Random bytes.
    pub fn fill_random(&self, buf: &mut [u8]) {
        self.entropy.fill(buf);
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    pub(crate) fn randomness(&self) -> Randomness {
        let mut at_random = [0; 16];
        self.entropy.fill(&mut at_random);
        Randomness {
            stack: self.random_u64(),
            stack_offset: self.random_u64(),
            mmap: self.random_u64(),
            exec: self.random_u64(),
            brk: self.random_u64(),
            at_random,
        }
    }

    /// For a program that asked not to be placed at random (ADDR_NO_RANDOMIZE): only AT_RANDOM is.
    pub(crate) fn fixed_places(&self) -> Randomness {
        let mut at_random = [0; 16];
        self.entropy.fill(&mut at_random);
        Randomness { stack: 0, stack_offset: 0, mmap: 0, exec: 0, brk: 0, at_random }
    }

    /// Averages of how many tasks used a processor, over 1, 5 and 15 minutes, in units of 1/65536.
    pub fn load_averages(&self) -> [u64; 3] {
        let used = self.cpu_times().total();
        self.load.lock().read(self.uptime_ns(), used)
    }

    /// Extended states of the processor that programs may use, as bits of XCR0.
    pub fn extended_state(&self) -> u64 {
        self.cpu.xsave.features
    }

    /// CPU time of all processes, also of those that have ended.
    pub fn cpu_times(&self) -> CpuTimes {
        let gone = CpuTimes {
            user_ns: self.gone_user_ns.load(Ordering::Relaxed),
            system_ns: self.gone_system_ns.load(Ordering::Relaxed),
        };
        let groups = self.tasks.groups();
        groups.iter().filter(|group| !group.has_ended()).fold(gone, |sum, group| sum.plus(group.cpu_times()))
    }

    pub(crate) fn add_gone(&self, times: CpuTimes) {
        self.gone_user_ns.fetch_add(times.user_ns, Ordering::Relaxed);
        self.gone_system_ns.fetch_add(times.system_ns, Ordering::Relaxed);
    }

    /// uname(2).
    pub fn uts(&self) -> Uts {
        self.uts.lock().clone()
    }

    /// sethostname(2); `EINVAL` past 64 bytes.
    pub fn set_hostname(&self, name: &[u8]) -> Result<(), Errno> {
        self.uts.lock().nodename = uts_name(name)?;
        Ok(())
    }

    /// setdomainname(2); `EINVAL` past 64 bytes.
    pub fn set_domainname(&self, name: &[u8]) -> Result<(), Errno> {
        self.uts.lock().domainname = uts_name(name)?;
        Ok(())
    }

    /// CPUs.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// `/proc/sys/kernel/random/boot_id`.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// CLOCK_MONOTONIC when the kernel started.
    pub fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    /// The wall clock when the kernel started, in seconds.
    pub fn boot_time_secs(&self) -> u64 {
        self.boot_time_secs
    }

    /// Nanoseconds since the kernel started.
    pub fn uptime_ns(&self) -> u64 {
        sync::monotonic_now_ns().saturating_sub(self.boot_ns)
    }

    /// Most guest threads at a time.
    pub fn pids_limit(&self) -> usize {
        self.tasks.lock().limit
    }

    /// Guest memory in bytes.
    pub fn memory_info(&self) -> MemoryInfo {
        let total = self.memory.limit();
        MemoryInfo { total, free: total.saturating_sub(self.memory.usage()) }
    }
}

fn uts_name(name: &[u8]) -> Result<String, Errno> {
    if name.len() > 64 {
        return Err(Errno::EINVAL);
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}
