//! The vocabulary of requests to an address space, decoded from system call arguments by the callers.

use std::sync::Arc;

use abi::Errno;
use usermem::memmap::Mappable;
use usermem::platform::Prot;
use usermem::{Addr, AddrRange};

/// The name of what is mapped, for `/proc/[pid]/maps`, and the operations of `madvise(2)` that only a file can do. The
/// kernel implements it over an open file description, which thereby stays open while mapped.
pub trait MappedFile: Send + Sync {
    /// The path, as `/proc/[pid]/maps` shows it (not yet escaped).
    fn path(&self) -> Vec<u8>;
    /// Device number.
    fn dev(&self) -> u64;
    /// Inode number.
    fn ino(&self) -> u64;
    /// Frees the bytes `[offset, offset + len)`, for `madvise(MADV_REMOVE)`.
    fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let _ = (offset, len);
        Err(Errno::EOPNOTSUPP)
    }
    /// How text is made executable. Constant; called with the address space locked.
    fn text(&self) -> Text {
        Text::Mapped
    }
    /// The concrete file, for those who know it (`/proc/[pid]/map_files`, `/proc/[pid]/exe`).
    fn as_any(&self) -> &dyn std::any::Any;
}

/// How a private executable mapping of a file gets its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Text {
    /// From the host's file itself.
    #[default]
    Mapped,
    /// As a copy, because the host's file is on a noexec mount there.
    Copied,
}

/// Whether changes are seen by others who map the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// `MAP_PRIVATE`.
    Private,
    /// `MAP_SHARED`, `MAP_SHARED_VALIDATE`.
    Shared,
}

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Anywhere; near this address if it is not zero and there is room.
    Hint(Addr),
    /// As `Hint`, in the first 2 GiB (`MAP_32BIT`).
    Low(Addr),
    /// There and nowhere else, in place of whatever is there (`MAP_FIXED`).
    Fixed(Addr),
    /// There and nowhere else, `EEXIST` if something is there (`MAP_FIXED_NOREPLACE`).
    FixedNoReplace(Addr),
}

/// A file as the source of a mapping.
#[derive(Clone)]
pub struct FileSource {
    /// Its bytes.
    pub object: Arc<dyn Mappable>,
    /// Its name.
    pub file: Arc<dyn MappedFile>,
    /// Offset of the first byte, page-aligned.
    pub offset: u64,
    /// The most that `mprotect(2)` may ask for: without [`Prot::WRITE`] for a shared mapping of a file not open for
    /// writing, without [`Prot::EXEC`] on a noexec mount.
    pub max_prot: Prot,
}

/// What is mapped.
#[derive(Clone)]
pub enum Source {
    /// Zeros. Private only: for shared anonymous memory the caller passes an object ([`crate::SharedMemory`]).
    Anonymous,
    /// A file, or another object with bytes.
    File(FileSource),
}

bitflags::bitflags! {
    /// Further wishes of `mmap(2)`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MapOptions: u32 {
        /// `MAP_GROWSDOWN`: grows towards lower addresses when touched below.
        const GROWSDOWN = 1 << 0;
        /// `MAP_NORESERVE`: not refused by the overcommit heuristic.
        const NORESERVE = 1 << 1;
        /// `MAP_LOCKED`.
        const LOCKED = 1 << 2;
        /// `MAP_POPULATE` without `MAP_NONBLOCK`.
        const POPULATE = 1 << 3;
        /// The main thread's stack, made by exec: named `[stack]`, counted as stack.
        const STACK = 1 << 4;
        /// Never grows nor moves, not copied into core dumps (vDSO and its data).
        const SPECIAL = 1 << 5;
        /// The caller may lock any amount (CAP_IPC_LOCK).
        const MAY_LOCK = 1 << 6;
    }
}

/// Arguments of `mmap(2)`.
#[derive(Clone)]
pub struct MapRequest {
    /// Where.
    pub placement: Placement,
    /// How many bytes; rounded up to pages.
    pub len: u64,
    /// Access.
    pub prot: Prot,
    /// Private or shared.
    pub sharing: Sharing,
    /// What.
    pub source: Source,
    /// Flags.
    pub options: MapOptions,
    /// Name to show in place of a path: `[vdso]`, `[heap]`. Empty for none.
    pub label: &'static str,
}

impl MapRequest {
    /// Private anonymous memory, anywhere, without options.
    pub fn anonymous(len: u64, prot: Prot) -> Self {
        Self {
            placement: Placement::Hint(Addr(0)),
            len,
            prot,
            sharing: Sharing::Private,
            source: Source::Anonymous,
            options: MapOptions::empty(),
            label: "",
        }
    }

    /// The same at a fixed place.
    pub fn at(self, addr: Addr) -> Self {
        Self { placement: Placement::Fixed(addr), ..self }
    }
}

/// Which way `mprotect(2)` extends its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grow {
    /// Not at all.
    No,
    /// `PROT_GROWSDOWN`: down to the start of a mapping that grows down.
    Down,
    /// `PROT_GROWSUP`: up to the end of a mapping that grows up. x86 has none: `EINVAL`.
    Up,
}

/// Resource limits that concern memory, in bytes; `u64::MAX` is none. `getrlimit(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// RLIMIT_AS.
    pub address_space: u64,
    /// RLIMIT_DATA.
    pub data: u64,
    /// RLIMIT_STACK.
    pub stack: u64,
    /// RLIMIT_MEMLOCK.
    pub memlock: u64,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self { address_space: u64::MAX, data: u64::MAX, stack: u64::MAX, memlock: u64::MAX };
}

impl Default for Limits {
    fn default() -> Self {
        Self { stack: 8 << 20, memlock: 8 << 20, ..Self::NONE }
    }
}

/// Where things go in a new address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Addresses that may be mapped.
    pub user: AddrRange,
    /// Top of the area that is filled downwards by mappings without a place of their own.
    pub mmap_base: Addr,
}

/// In which direction mappings without a place of their own are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Direction {
    /// From [`Layout::mmap_base`] downwards.
    #[default]
    Down,
    /// From [`Layout::mmap_base`] upwards: the legacy layout, for unlimited stacks.
    Up,
}

/// Addresses of a process image that `/proc/[pid]/stat` shows and `prctl(PR_SET_MM)` changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names are prctl(2)'s PR_SET_MM_*")]
pub struct Bounds {
    pub start_code: Addr,
    pub end_code: Addr,
    pub start_data: Addr,
    pub end_data: Addr,
    pub start_stack: Addr,
    pub arg_start: Addr,
    pub arg_end: Addr,
    pub env_start: Addr,
    pub env_end: Addr,
}

/// Why a fault cannot be resolved; the guest gets the signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// SIGSEGV, SEGV_MAPERR: nothing is mapped there.
    NotMapped,
    /// SIGSEGV, SEGV_ACCERR: the mapping does not allow it.
    NotAllowed,
    /// SIGBUS, BUS_ADRERR: past the end of the mapped file, or the file cannot be read.
    Bus,
    /// The sandbox's memory is used up: someone has to be killed.
    Oom,
    /// The platform's address space is gone: the process has to be killed.
    Dead,
}

impl From<Fault> for Errno {
    fn from(_: Fault) -> Self {
        Self::EFAULT
    }
}

/// What a futex word is, to find those who wait on it: `futex(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum FutexKey {
    /// Memory of one address space.
    Private {
        /// Which.
        mm: u64,
        /// Address of the word.
        addr: u64,
    },
    /// A word of an object that may be mapped in several places.
    Shared {
        /// [`Mappable::id`].
        object: u64,
        /// Offset of the word in the object.
        offset: u64,
    },
}
