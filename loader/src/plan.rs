//! What goes into loading and what comes out of it.

use abi::Errno;
use abi::mm::ProtFlags;
use usermem::addr::{Addr, AddrRange};

/// A file that was opened for execution: the caller has checked that it is a regular file the task may execute.
pub trait ExecFile {
    /// Reads at `offset` into `buf`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno>;
}

/// What `execve(2)` was asked to do, and the properties of task and machine that shape the result.
#[derive(Clone, Copy, Debug)]
pub struct LoadRequest<'a> {
    /// The path as the caller gave it (`/dev/fd/N` or `/dev/fd/N/path` for `execveat(2)` on a descriptor).
    pub path: &'a [u8],
    /// Arguments; an empty list becomes one empty string, as Linux makes it.
    pub argv: &'a [Vec<u8>],
    /// Environment.
    pub envp: &'a [Vec<u8>],
    /// Addresses that may be mapped. Its end takes the place of Linux's `TASK_SIZE`.
    pub user: AddrRange,
    /// Soft `RLIMIT_STACK` in bytes, `u64::MAX` when unlimited.
    pub stack_limit: u64,
    /// What `AT_UID` and its neighbours say.
    pub identity: Identity,
    /// Randomness, or what stands in for it when address randomisation is off.
    pub random: Randomness,
    /// `AT_HWCAP`: EDX of CPUID leaf 1.
    pub hwcap: u64,
    /// `AT_HWCAP2`.
    pub hwcap2: u64,
    /// `AT_MINSIGSTKSZ`: bytes of the largest signal frame.
    pub min_sigstack: u64,
    /// Whether to map our vDSO.
    pub vdso: Vdso,
    /// Whether to announce restartable sequences (`AT_RSEQ_*`).
    pub rseq: Rseq,
}

/// Whether a program gets the vDSO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vdso {
    /// Mapped, with `AT_SYSINFO_EHDR`.
    Mapped,
    /// Left out: the program makes real calls.
    Absent,
}

/// Whether a program is told about `rseq(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rseq {
    /// `AT_RSEQ_FEATURE_SIZE` and `AT_RSEQ_ALIGN` are there.
    Announced,
    /// They are not.
    Absent,
}

/// Ids of the task after the exec.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    /// `AT_SECURE`: the exec gained privilege, so the dynamic linker must not trust the environment.
    pub secure: bool,
}

/// Random words, one per decision, so that a test can fix each. [`Randomness::none`] gives the layout of
/// `ADDR_NO_RANDOMIZE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Randomness {
    /// Moves the stack down.
    pub stack: u64,
    /// Moves the stack pointer within its page and the one below.
    pub stack_offset: u64,
    /// Moves the mapping area.
    pub mmap: u64,
    /// Moves a position-independent executable.
    pub exec: u64,
    /// Moves the program break.
    pub brk: u64,
    /// `AT_RANDOM`: always random, whatever the personality.
    pub at_random: [u8; 16],
}

impl Randomness {
    /// No randomisation of addresses; `at_random` is still the caller's.
    pub const fn none(at_random: [u8; 16]) -> Self {
        Self { stack: 0, stack_offset: 0, mmap: 0, exec: 0, brk: 0, at_random }
    }
}

/// Where the bytes of a planned mapping come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapSource {
    /// A private mapping of [`LoadPlan::files`]`[file]` from page-aligned `offset` on.
    File { file: usize, offset: u64 },
    /// Private zeros.
    Anonymous,
    /// The data page of the vDSO, shared and read-only (`[vvar]` in maps).
    Vvar,
    /// The code of the vDSO, [`crate::vdso::IMAGE`] (`[vdso]` in maps).
    Vdso,
}

/// One mapping to make, replacing whatever earlier ones of the plan left there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlannedMap {
    /// Page-aligned, not empty, inside the user range.
    pub range: AddrRange,
    /// Its bytes.
    pub source: MapSource,
    /// Protection: read, write, exec.
    pub prot: ProtFlags,
    /// Bytes from here to the end of `range` (less than a page) must read as zero: the start of a bss that shares its
    /// page with file data. Only on writable mappings.
    pub zero_from: Option<Addr>,
}

/// Whether code may run on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StackAccess {
    /// Readable and writable.
    NoExec,
    /// Executable as well: `PT_GNU_STACK` asked for it.
    Exec,
}

/// The initial stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedStack {
    /// To be mapped private, anonymous and growing down.
    pub range: AddrRange,
    /// Its protection beyond read and write.
    pub access: StackAccess,
    /// Where `bytes` go; also the initial stack pointer, a multiple of 16.
    pub rsp: Addr,
    /// argc, pointers, auxiliary vector and strings; they end at the end of `range`.
    pub bytes: Vec<u8>,
}

/// In which direction `mmap(2)` looks for free addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmapDirection {
    /// Down from `mmap_base`.
    TopDown,
    /// Up from `mmap_base`: Linux's legacy layout, which an unlimited stack asks for.
    BottomUp,
}

/// Addresses that `/proc/[pid]/stat`, `prctl(PR_SET_MM)` and the memory manager ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Where `mmap(2)` starts looking.
    pub mmap_base: Addr,
    /// In which direction.
    pub mmap_direction: MmapDirection,
    pub start_code: Addr,
    pub end_code: Addr,
    pub start_data: Addr,
    pub end_data: Addr,
    /// Page-aligned; the break starts here, with nothing mapped.
    pub start_brk: Addr,
    /// The initial stack pointer.
    pub start_stack: Addr,
    pub arg_start: Addr,
    pub arg_end: Addr,
    pub env_start: Addr,
    pub env_end: Addr,
}

/// What to do to an empty address space so that the program can start.
#[derive(Clone, Debug)]
pub struct LoadPlan<F> {
    /// Files that [`MapSource::File`] names; the first is the program itself (`/proc/[pid]/exe`), the second, if any, its
    /// interpreter.
    pub files: Vec<F>,
    /// Mappings in the order to make them, without the stack.
    pub maps: Vec<PlannedMap>,
    /// The stack.
    pub stack: PlannedStack,
    /// First instruction: the interpreter's, or the program's when there is none.
    pub entry: Addr,
    /// Remarkable addresses.
    pub layout: Layout,
    /// Start of the vDSO's ELF header, when it is mapped.
    pub vdso: Option<Addr>,
    /// `/proc/[pid]/auxv`.
    pub auxv: Vec<u8>,
    /// The task's new name: the last component of the path, at most 15 bytes.
    pub comm: Vec<u8>,
}
