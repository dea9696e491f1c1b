//! System calls: any bytes as a program that is nothing but calls, on the platform that runs no code.
//!
//! One byte says how many calls there are; each has fourteen: its number and six arguments, as [`Program::argument`] reads
//! them. What follows is the guest's memory at [`DATA`].

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use auth::Creds;
use fs::vfs::{At, Devices, Mount, MountNs, MountOptions, NodeKind, OpenHow};
use kernel::rlimit::Rlimits;
use kernel::signal::types::SigSet;
use kernel::syscall::{Dispatch, SysResult};
use kernel::task::Task;
use kernel::{Command, Entropy, Kernel, KernelConfig, Machine, Supervised, Uts};
use syscalls_linux::{Linux, Strace};
use usermem::Addr;
use usermem::bytes::KernelSrc;
use usermem::fake::FakePlatform;
use usermem::memfile::MemoryFile;
use usermem::platform::Exit;

/// Where the first instruction is; one has two bytes, as `syscall`.
const BASE: u64 = 0x40_0200;
/// Where memory is, and how much.
const DATA: u64 = 0x10_0000;
const DATA_LEN: u64 = 16_384;
/// Calls in a program, and steps that it may make with all its children.
const MOST_CALLS: usize = 16;
const MOST_STEPS: u32 = 100;
/// How long a program may sleep before it is killed, and how long that may take.
const SLEEP: Duration = Duration::from_millis(20);
const END: Duration = Duration::from_secs(20);

const MMAP: u64 = 9;
const EXIT_GROUP: u64 = 231;
const RESTART: u64 = 219;
/// The number of the call that stands at instruction 0.
const FIRST: u64 = 10_000;

struct Program {
    calls: Vec<[u16; 7]>,
    data: Vec<u8>,
    /// Results so far, for later arguments.
    results: Mutex<[u64; MOST_CALLS]>,
    steps: AtomicU32,
    linux: Linux,
}

impl Program {
    fn new(bytes: &[u8]) -> Option<Self> {
        let (&count, rest) = bytes.split_first()?;
        let count = usize::from(count) % MOST_CALLS + 1;
        let (records, data) = rest.split_at_checked(count * 14)?;
        let word = |pair: &[u8]| pair.iter().rev().fold(0, |word, &byte| (word << 8) | u16::from(byte));
        let calls = records.chunks_exact(14).map(|record| {
            let mut words = record.chunks_exact(2).map(word);
            std::array::from_fn(|_| words.next().unwrap_or(0))
        });
        let len = data.len().min(usize::try_from(DATA_LEN).unwrap_or(0));
        let strace = Strace::new(Box::new(|line| assert!(line.ends_with('\n') && line.len() < 1 << 16)));
        Some(Self {
            calls: calls.collect(),
            data: data.get(..len)?.to_vec(),
            results: Mutex::new([0; MOST_CALLS]),
            steps: AtomicU32::new(0),
            linux: Linux::new(Some(strace)),
        })
    }

    /// Small numbers, addresses of memory, bits, descriptors, earlier results, words of the memory, extremes.
    fn argument(&self, code: u16) -> u64 {
        let value = u64::from(code & 0x1fff);
        let index = usize::from(code & 0x1fff);
        match code >> 13 {
            0 => value,
            1 | 2 => DATA + value,
            3 => value.wrapping_neg(),
            4 => 1 << (value % 64),
            5 => self.results.lock().map_or(0, |results| results[index % MOST_CALLS]),
            6 => self
                .data
                .get(index..index + 8)
                .map_or(0, |word| word.iter().rev().fold(0, |word, &byte| (word << 8) | u64::from(byte))),
            _ => [0, u64::MAX, 0x7fff_ffff_f000, DATA + DATA_LEN - 4, 1 << 63, BASE, 0xffff_8000_0000_0000, 4096]
                [index % 8],
        }
    }
}

impl Dispatch for Program {
    fn dispatch(&self, task: &mut Task, nr: u64, _args: [u64; 6]) -> SysResult {
        if self.steps.fetch_add(1, Ordering::Relaxed) > MOST_STEPS {
            return self.linux.dispatch(task, EXIT_GROUP, [0; 6]);
        }
        if nr == RESTART {
            return self.linux.dispatch(task, RESTART, [0; 6]);
        }
        let at = usize::try_from(nr.wrapping_sub(FIRST)).unwrap_or(usize::MAX);
        if at == 0 {
            let result = self.linux.dispatch(task, MMAP, [DATA, DATA_LEN, 3, 0x32, u64::MAX, 0]);
            let _ = task.mm().write_remote(Addr(DATA), &self.data);
            return result;
        }
        let Some(&[nr, args @ ..]) = at.checked_sub(1).and_then(|at| self.calls.get(at)) else {
            return self.linux.dispatch(task, EXIT_GROUP, [0; 6]);
        };
        let result = self.linux.dispatch(task, u64::from(nr) % 470, args.map(|code| self.argument(code)));
        if let (Ok(value), Ok(mut results)) = (&result, self.results.lock()) {
            results[at % MOST_CALLS] = *value;
        }
        result
    }

    fn name(&self, nr: u64) -> Option<&'static str> {
        self.linux.name(nr)
    }
}

struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, buf: &mut [u8]) {
        buf.fill(7);
    }
}

/// A static program of one page, whose code is never looked at.
fn elf() -> Vec<u8> {
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    out.extend([BASE, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    out.extend([0; 4]);
    out.extend([64_u16, 56, 1, 64, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    out.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    out.extend([0_u64, 0x40_0000, 0x40_0000, 4096, 4096, 4096].iter().flat_map(|word| word.to_le_bytes()));
    out.resize(4096, 0);
    out
}

/// Runs the program that `bytes` are.
pub(crate) fn calls(bytes: &[u8]) {
    let Some(program) = Program::new(bytes) else { return };
    let memory = MemoryFile::on_memfd(64 << 20).expect("a memfd");
    let platform = FakePlatform::new(Arc::clone(&memory));
    platform.set_script(Arc::new(move |_, user| {
        let regs = &mut user.regs;
        // A frame to return from is somewhere in memory.
        let at = regs.rip.wrapping_sub(BASE) / 2;
        regs.rip = BASE + 2 * (at.min(MOST_CALLS as u64 + 1) + 1);
        regs.orig_rax = if regs.rax == RESTART { RESTART } else { FIRST + at.min(1 << 20) };
        regs.rsp = DATA + 8 * (at % 64);
        Exit::Syscall
    }));
    let root = fs::tmpfs::new(&memory, &fs::tmpfs::TmpfsOptions::of_size(1 << 20)).expect("a tmpfs");
    let mounts = MountNs::new(Mount::of(root, b"tmpfs", MountOptions::empty()));
    let devices = Arc::new(Devices::new());
    let boot = fs::KernelContext::new(Arc::clone(&devices));
    let root = mounts.root();
    let at = At { ctx: &boot.context(), root: &root, start: &root };
    at.mkdir(b"d", 0o777).expect("an empty tree");
    at.mknod(b"f", NodeKind::Regular, 0o755).expect("an empty tree");
    let file = at.open(b"f", &OpenHow::from_open(abi::fs::O_RDWR, 0)).expect("it was made");
    file.write(&boot.context(), &mut KernelSrc::new(&elf())).expect("there is room");
    // What is open for writing is not executed.
    drop(file);
    let config = KernelConfig {
        platform,
        memory,
        mounts,
        devices,
        dispatch: Arc::new(program),
        entropy: Arc::new(Fixed),
        heap: None,
        observer: None,
        uts: Uts::new("fuzz"),
        machine: Machine::default(),
        pids: 16,
        boot_id: String::new(),
    };
    let kernel = Kernel::new(config).expect("a kernel");
    let command = Command {
        program: b"/f".to_vec(),
        argv: vec![b"f".to_vec()],
        envp: Vec::new(),
        root: root.clone(),
        cwd: root,
        umask: 0o22,
        creds: Creds::root(),
        limits: Rlimits::default(),
        files: Vec::new(),
        ignored: SigSet::EMPTY,
        tty: None,
        supervised: Supervised::No,
    };
    kernel.start(command).expect("a program");
    let (ended, end) = mpsc::channel();
    let waiting = Arc::clone(&kernel);
    let waiter = std::thread::spawn(move || {
        let _ = waiting.wait();
        let _ = ended.send(());
    });
    if end.recv_timeout(SLEEP).is_err() {
        kernel.kill_all();
        end.recv_timeout(END).expect("a killed program ends");
    }
    waiter.join().expect("the kernel ends");
}
