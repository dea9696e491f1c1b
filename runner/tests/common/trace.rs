//! Counts the host's system calls with its `raw_syscalls:sys_enter` tracepoint: which process, which number, and the
//! instruction pointer of user space. A call that a seccomp filter answers (TRAP, USER_NOTIF, ERRNO, KILL) never gets
//! there: the tracepoint comes after the filters.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// One system call that the host served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) pid: u32,
    pub(crate) nr: i64,
    /// User-space instruction pointer, behind the `syscall` instruction.
    pub(crate) ip: u64,
}

/// Pages of a ring buffer; one per CPU.
const RING_PAGES: usize = 1024;
const PAGE: usize = 4096;

/// perf_event.h.
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_SAMPLE_TID: u64 = 1 << 1;
const PERF_SAMPLE_RAW: u64 = 1 << 10;
const PERF_SAMPLE_REGS_USER: u64 = 1 << 12;
const PERF_REG_X86_IP: u64 = 8;
const PERF_RECORD_LOST: u32 = 2;
const PERF_RECORD_SAMPLE: u32 = 9;
const PERF_FLAG_FD_CLOEXEC: u64 = 8;
/// `inherit` and `watermark` of `perf_event_attr`.
const FLAGS: u64 = (1 << 1) | (1 << 14);
/// Offsets of `data_head` and `data_tail` in `perf_event_mmap_page`.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

/// `struct perf_event_attr`, version 5.
#[repr(C)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_watermark: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clockid: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u32,
}

/// Follows the thread that makes it and every process that this thread starts, until [`Tracer::finish`].
pub(crate) struct Tracer {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Call>>,
}

impl Tracer {
    /// Starts; the error says why this host does not let us.
    pub(crate) fn start() -> Result<Self, String> {
        let id = tracepoint_id()?;
        let mut rings = Vec::new();
        for cpu in 0..std::thread::available_parallelism().map_or(1, usize::from).max(online_cpus()) {
            rings.push(Ring::open(id, i32::try_from(cpu).expect("few CPUs"))?);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            let mut calls = Vec::new();
            loop {
                // Acquire: pairs with `finish`; what was counted before it is drained in this round.
                let last = stopped.load(Ordering::Acquire);
                for ring in &mut rings {
                    ring.drain(&mut calls);
                }
                if last {
                    return calls;
                }
                let mut set: Vec<libc::pollfd> = rings
                    .iter()
                    .map(|ring| libc::pollfd { fd: ring.event.as_raw_fd(), events: libc::POLLIN, revents: 0 })
                    .collect();
                // SAFETY: 1. `set` has as many entries as are named, and outlives the call.
                unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, 20) };
            }
        });
        Ok(Self { stop, reader })
    }

    /// Every call since the start.
    pub(crate) fn finish(self) -> Vec<Call> {
        // Release: pairs with the reader's load.
        self.stop.store(true, Ordering::Release);
        self.reader.join().expect("no events were lost")
    }
}

/// Number of CPUs that may run the processes.
fn online_cpus() -> usize {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let last = text.trim().rsplit(['-', ',']).next().and_then(|number| number.parse::<usize>().ok());
    last.map_or(1, |last| last + 1)
}

/// The tracepoint's number, from tracefs; which is mounted for the moment if it is not.
fn tracepoint_id() -> Result<u64, String> {
    let below = |root: &str| {
        let text = fs::read_to_string(format!("{root}/events/raw_syscalls/sys_enter/id")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    if let Some(id) = below("/sys/kernel/tracing").or_else(|| below("/sys/kernel/debug/tracing")) {
        return Ok(id);
    }
    let directory = std::env::temp_dir().join(format!("tracefs-{}", std::process::id()));
    fs::create_dir_all(&directory).map_err(|error| format!("no directory for tracefs: {error}"))?;
    let target = CString::new(directory.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: 1. all strings end with NUL and outlive the call.
    let mounted = unsafe { libc::mount(c"nodev".as_ptr(), target.as_ptr(), c"tracefs".as_ptr(), 0, std::ptr::null()) };
    let error = std::io::Error::last_os_error();
    let id = below(directory.to_str().expect("UTF-8"));
    if mounted == 0 {
        // SAFETY: 1. as above.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
    let _ = fs::remove_dir(&directory);
    id.ok_or_else(|| format!("tracefs cannot be mounted here, or has no raw_syscalls: {error}"))
}

/// The events of one CPU.
struct Ring {
    event: OwnedFd,
    base: *mut u8,
}

// SAFETY: 1. the mapping belongs to this value alone, on whatever thread it is.
unsafe impl Send for Ring {}

impl Ring {
    fn open(id: u64, cpu: i32) -> Result<Self, String> {
        let attr = Attr {
            kind: PERF_TYPE_TRACEPOINT,
            size: u32::try_from(size_of::<Attr>()).expect("small"),
            config: id,
            sample_period: 1,
            sample_type: PERF_SAMPLE_TID | PERF_SAMPLE_RAW | PERF_SAMPLE_REGS_USER,
            read_format: 0,
            flags: FLAGS,
            wakeup_watermark: u32::try_from(RING_PAGES * PAGE / 8).expect("small"),
            bp_type: 0,
            config1: 0,
            config2: 0,
            branch_sample_type: 0,
            sample_regs_user: 1 << PERF_REG_X86_IP,
            sample_stack_user: 0,
            clockid: 0,
            sample_regs_intr: 0,
            aux_watermark: 0,
            sample_max_stack: 0,
        };
        // SAFETY: 1. `attr` is as long as its size field says and outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, 0, cpu, -1, PERF_FLAG_FD_CLOEXEC) };
        if fd < 0 {
            return Err(format!("perf_event_open on CPU {cpu}: {}", std::io::Error::last_os_error()));
        }
        // SAFETY: 1. the call gave us this descriptor.
        let event = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) };
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: 1. a new mapping at an address that the host chooses touches nothing of ours.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), (RING_PAGES + 1) * PAGE, protection, flags, event.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(format!("ring buffer of CPU {cpu}: {}", std::io::Error::last_os_error()));
        }
        Ok(Self { event, base: base.cast() })
    }

    /// Takes what the host has written.
    fn drain(&mut self, calls: &mut Vec<Call>) {
        let (head, tail) = (self.word(DATA_HEAD), self.word(DATA_TAIL));
        // Acquire: pairs with the host's barrier after writing records.
        let end = head.load(Ordering::Acquire);
        let mut at = tail.load(Ordering::Relaxed);
        while at < end {
            let header = self.copy(at, 8);
            let kind = u32::from_ne_bytes(header[..4].try_into().expect("4"));
            let len = usize::from(u16::from_ne_bytes(header[6..8].try_into().expect("2")));
            assert!(len >= 8, "an empty record");
            let record = self.copy(at, len);
            assert_ne!(kind, PERF_RECORD_LOST, "the host lost events");
            if kind == PERF_RECORD_SAMPLE {
                calls.push(parse(&record));
            }
            at += len as u64;
        }
        // Release: pairs with the host's reading of it before it writes over the records.
        tail.store(end, Ordering::Release);
    }

    /// A word of the mapping's first page, which we share with the host.
    fn word(&self, offset: usize) -> &AtomicU64 {
        let at = self.base.wrapping_add(offset).cast::<AtomicU64>();
        // SAFETY: 1. the offsets are those of aligned words in the first page, mapped while `self` lives.
        unsafe { &*at }
    }

    /// `len` bytes of the ring at `at`.
    fn copy(&self, at: u64, len: usize) -> Vec<u8> {
        let size = RING_PAGES * PAGE;
        let start = usize::try_from(at % size as u64).expect("small");
        let byte = |i| {
            let at = self.base.wrapping_add(PAGE + (start + i) % size);
            // SAFETY: 1. the address is in the ring, and the host does not write these records any more.
            unsafe { at.read_volatile() }
        };
        (0..len).map(byte).collect()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: 1. the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.base.cast(), (RING_PAGES + 1) * PAGE) };
    }
}

/// A sample: pid and tid; raw data with its size, whose field `id` stands at 8; the ABI of the registers, and ip.
fn parse(record: &[u8]) -> Call {
    let u32_at = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().expect("4"));
    let u64_at = |at: usize| u64::from_ne_bytes(record[at..at + 8].try_into().expect("8"));
    let raw = usize::try_from(u32_at(16)).expect("small");
    let registers = 20 + raw;
    let ip = if u64_at(registers) == 0 { 0 } else { u64_at(registers + 8) };
    Call { pid: u32_at(8), nr: u64_at(28).cast_signed(), ip }
}
