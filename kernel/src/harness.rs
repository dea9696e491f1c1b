//! A sandbox for this crate's tests: a kernel on the fake platform, whose guest programs are lists of operations.
//!
//! A program's instruction `i` stands at `BASE + 2 i`, so that a restarted call goes back by the two bytes of a `syscall`.
//! A call is a closure over the task; everything else that a program can do is to jump.

use std::sync::{Arc, Mutex, mpsc};

use abi::Errno;
use arch::UserContext;
use auth::Creds;
use fs::vfs::{At, Devices, Mount, MountNs, MountOptions, NodeKind, OpenHow};
use usermem::bytes::KernelSrc;
use usermem::fake::{FakePlatform, FakeSpace};
use usermem::memfile::MemoryFile;
use usermem::platform::Exit;

use crate::error::{SysErr, SysResult};
use crate::kernel::{Command, Entropy, Kernel, KernelConfig, Machine, Uts};
use crate::rlimit::Rlimits;
use crate::signal::types::{SaFlags, SigAction, SigSet};
use crate::syscall::Dispatch;
use crate::task::group::ExitStatus;
use crate::task::{CloneRequest, Task};

/// Address of the first instruction.
pub(crate) const BASE: u64 = 0x40_0200;

type Call = Box<dyn Fn(&mut Task) -> SysResult + Send + Sync>;

/// One instruction.
pub(crate) enum Op {
    /// A system call.
    Call(Call),
    /// Goes to an instruction if rax is zero.
    JumpIfZero(usize),
    /// Goes to an instruction.
    Jump(usize),
    /// Runs for ever.
    Spin,
    /// Returns from a handler.
    Return,
}

/// A call.
pub(crate) fn call(f: impl Fn(&mut Task) -> SysResult + Send + Sync + 'static) -> Op {
    Op::Call(Box::new(f))
}

/// fork(2).
pub(crate) fn fork() -> Op {
    call(|task| task.clone_task(&CloneRequest::fork()))
}

/// exit_group(2).
pub(crate) fn exit(code: i32) -> Op {
    call(move |task| task.exit_group(code))
}

/// The address of instruction `at`, as a handler.
pub(crate) fn handler(at: usize, flags: SaFlags) -> SigAction {
    SigAction { handler: BASE + 2 * at as u64, flags, restorer: BASE, mask: SigSet::EMPTY }
}

struct Table(Arc<Vec<Op>>);

impl Dispatch for Table {
    fn dispatch(&self, task: &mut Task, nr: u64, _args: [u64; 6]) -> SysResult {
        match nr {
            RETURN => task.sigreturn(),
            219 => task.restart_syscall(),
            nr => match usize::try_from(nr - FIRST).ok().and_then(|at| self.0.get(at)) {
                Some(Op::Call(f)) => f(task),
                _ => Err(SysErr::Errno(Errno::ENOSYS)),
            },
        }
    }

    fn name(&self, _nr: u64) -> Option<&'static str> {
        None
    }
}

const RETURN: u64 = 15;
/// Number of the call that is instruction 0; past all real numbers.
const FIRST: u64 = 1000;

fn step(program: &[Op], user: &mut UserContext) -> Exit {
    for _ in 0..1000 {
        let at = usize::try_from((user.regs.rip - BASE) / 2).unwrap();
        let regs = &mut user.regs;
        match program.get(at) {
            Some(Op::Call(_)) => {
                regs.rip += 2;
                // As a restart leaves it: the call that rax names.
                regs.orig_rax = if regs.rax == 219 { 219 } else { FIRST + at as u64 };
                return Exit::Syscall;
            }
            Some(Op::JumpIfZero(to)) => regs.rip = if regs.rax == 0 { BASE + 2 * *to as u64 } else { regs.rip + 2 },
            Some(Op::Jump(to)) => regs.rip = BASE + 2 * *to as u64,
            Some(Op::Spin) => return Exit::Interrupted,
            Some(Op::Return) => {
                regs.rsp += 8;
                regs.orig_rax = RETURN;
                return Exit::Syscall;
            }
            None => panic!("the program ran past its end"),
        }
    }
    Exit::Interrupted
}

struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, buf: &mut [u8]) {
        buf.fill(7);
    }
}

/// What a program reports, in order of arrival.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn add(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A static program of one page: what exec loads; its code is never looked at.
fn elf() -> Vec<u8> {
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend_from_slice(&2_u16.to_le_bytes());
    out.extend_from_slice(&62_u16.to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    for word in [BASE, 64, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    for word in [1_u32, 5] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for word in [0_u64, 0x40_0000, 0x40_0000, 4096, 4096, 4096] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.resize(4096, 0);
    out
}

/// A kernel whose command runs `program`.
pub(crate) struct Sandbox {
    pub(crate) kernel: Arc<Kernel>,
    command: Mutex<Option<Command>>,
}

impl Sandbox {
    pub(crate) fn new(program: Vec<Op>) -> Self {
        Self::with_pids(program, 100)
    }

    pub(crate) fn with_pids(program: Vec<Op>, pids: usize) -> Self {
        let memory = MemoryFile::on_memfd(64 << 20).unwrap();
        let platform = FakePlatform::new(Arc::clone(&memory));
        let program = Arc::new(program);
        let code = Arc::clone(&program);
        platform.set_script(Arc::new(move |_: &FakeSpace, user: &mut UserContext| step(&code, user)));
        let root = fs::tmpfs::new(&memory, &fs::tmpfs::TmpfsOptions::of_size(1 << 20)).unwrap();
        let mount = Mount::of(root, b"tmpfs", MountOptions::empty());
        let mounts = MountNs::new(mount);
        let devices = Arc::new(Devices::new());
        let boot = fs::KernelContext::new(Arc::clone(&devices));
        let root = mounts.root();
        let at = At { ctx: &boot.context(), root: &root, start: &root };
        at.mknod(b"/prog", NodeKind::Regular, 0o755).unwrap();
        let file = at.open(b"/prog", &OpenHow::from_open(abi::fs::O_RDWR, 0)).unwrap();
        file.write(&boot.context(), &mut KernelSrc::new(&elf())).unwrap();
        let kernel = Kernel::new(KernelConfig {
            platform,
            memory,
            mounts,
            devices,
            dispatch: Arc::new(Table(program)),
            entropy: Arc::new(Fixed),
            heap: None,
            observer: None,
            uts: Uts::new("test"),
            machine: Machine::default(),
            pids,
            boot_id: String::new(),
        });
        let command = Command {
            program: b"/prog".to_vec(),
            argv: vec![b"prog".to_vec()],
            envp: Vec::new(),
            root: root.clone(),
            cwd: root,
            umask: 0o22,
            creds: Creds::root(),
            limits: Rlimits::default(),
            files: Vec::new(),
            ignored: SigSet::EMPTY,
            tty: None,
            supervised: crate::kernel::Supervised::No,
        };
        Self { kernel: kernel.unwrap(), command: Mutex::new(Some(command)) }
    }

    /// Starts the command.
    pub(crate) fn start(&self) -> crate::ids::Pid {
        let command = self.command.lock().unwrap().take().unwrap();
        self.kernel.start(command).unwrap()
    }

    /// Runs to the end; fails a test that hangs.
    pub(crate) fn finish(self) -> ExitStatus {
        let (tx, rx) = mpsc::channel();
        let kernel = Arc::clone(&self.kernel);
        std::thread::spawn(move || {
            let _ = tx.send(kernel.wait());
        });
        rx.recv_timeout(std::time::Duration::from_secs(20)).expect("the sandbox hangs")
    }

    /// Starts and finishes.
    pub(crate) fn run(self) -> ExitStatus {
        self.start();
        self.finish()
    }
}
