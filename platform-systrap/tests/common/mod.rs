//! A tiny kernel for tests: a memory file, address spaces with a page of code and one of data, and guest code in assembly.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use arch::UserContext;
use casemate_platform_systrap::{Calls, Systrap, SystrapConfig};
use usermem::platform::{AddressSpace, Backing, Context, Exit, MapOp, Platform, Prot};
use usermem::{Addr, AddrRange};

/// Where guest code is mapped.
pub(crate) const CODE: u64 = 0x40_0000;
/// Where guest data is mapped.
pub(crate) const DATA: u64 = 0x50_0000;
/// Length of each.
pub(crate) const LEN: u64 = 0x1_0000;

/// Tests of one process run beside each other, but for those that count what the process has.
static COMPANY: RwLock<()> = RwLock::new(());

/// Whether other tests run meanwhile.
#[allow(dead_code, reason = "held, not read")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

pub(crate) struct Machine {
    pub(crate) memory: Arc<OwnedFd>,
    pub(crate) systrap: Systrap,
    next: std::sync::atomic::AtomicU64,
    _turn: Turn,
}

/// One guest process.
pub(crate) struct Guest {
    pub(crate) space: Arc<dyn AddressSpace>,
    /// Offsets in the memory file.
    pub(crate) code: u64,
    pub(crate) data: u64,
}

pub(crate) fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::of_len(Addr(start), len).unwrap()
}

pub(crate) fn map(at: u64, len: u64, offset: u64, prot: Prot) -> MapOp {
    MapOp::Map { range: range(at, len), backing: Backing::Memory { offset }, prot, populate: false }
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with(Turn::Shared(COMPANY.read().unwrap_or_else(PoisonError::into_inner)), None, Calls::Entered)
    }

    /// Without the entry of patched sites.
    pub(crate) fn trapping() -> Self {
        Self::with(Turn::Shared(COMPANY.read().unwrap_or_else(PoisonError::into_inner)), None, Calls::Trapped)
    }

    /// For tests that count descriptors or processes.
    pub(crate) fn alone() -> Self {
        Self::with(Turn::Alone(COMPANY.write().unwrap_or_else(PoisonError::into_inner)), None, Calls::Entered)
    }

    /// With another patience for kicks than the default, which a busy machine does not reach.
    pub(crate) fn with_patience(patience: Duration) -> Self {
        Self::with(Turn::Shared(COMPANY.read().unwrap_or_else(PoisonError::into_inner)), Some(patience), Calls::Entered)
    }

    fn with(turn: Turn, patience: Option<Duration>, calls: Calls) -> Self {
        // SAFETY: the name is a C string.
        let memory = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(memory >= 0);
        // SAFETY: a new descriptor.
        let memory = unsafe { OwnedFd::from_raw_fd(memory) };
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::ftruncate(memory.as_raw_fd(), 1 << 30) }, 0);
        let read_only = std::fs::File::open(format!("/proc/self/fd/{}", memory.as_raw_fd())).unwrap();
        let memory = Arc::new(memory);
        let mut config = SystrapConfig::new(Arc::clone(&memory), Arc::new(read_only.into()));
        config.handover = crate::HANDOVER;
        config.calls = calls;
        config.kick_patience = patience.unwrap_or(config.kick_patience);
        let systrap = Systrap::new(&config).expect("platform");
        Self { memory, systrap, next: std::sync::atomic::AtomicU64::new(0), _turn: turn }
    }

    pub(crate) fn allocate(&self, len: u64) -> u64 {
        self.next.fetch_add(len, std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        // SAFETY: `bytes` is valid for its length.
        let n = unsafe { libc::pwrite(self.memory.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset as i64) };
        assert_eq!(n, bytes.len() as isize);
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: `bytes` is valid for its length.
        let n = unsafe { libc::pread(self.memory.as_raw_fd(), bytes.as_mut_ptr().cast(), len, offset as i64) };
        assert_eq!(n, len as isize);
        bytes
    }

    pub(crate) fn word(&self, offset: u64) -> u64 {
        u64::from_le_bytes(self.read(offset, 8).try_into().unwrap())
    }

    /// A process with `code` at [`CODE`] and zeros at [`DATA`].
    pub(crate) fn guest(&self, code: &[u8]) -> Guest {
        let space = self.systrap.new_address_space().expect("space");
        let guest = Guest { space, code: self.allocate(LEN), data: self.allocate(LEN) };
        self.write(guest.code, code);
        guest
            .space
            .apply(&[
                map(CODE, LEN, guest.code, Prot::READ | Prot::EXEC),
                map(DATA, LEN, guest.data, Prot::READ | Prot::WRITE),
            ])
            .expect("map");
        guest
    }
}

impl Guest {
    pub(crate) fn context(&self) -> Box<dyn Context> {
        self.space.new_context(None).expect("context")
    }
}

/// Registers of a fresh program at [`CODE`].
pub(crate) fn start() -> UserContext {
    let mut user = UserContext::default();
    user.regs.rip = CODE;
    user.regs.rsp = DATA + LEN - 64;
    user.regs.eflags = 0x202;
    user.regs.cs = 0x33;
    user
}

/// Runs to the next system call and returns its number.
pub(crate) fn syscall(context: &mut dyn Context, user: &mut UserContext) -> u64 {
    match context.switch(user) {
        Ok(Exit::Syscall) => user.regs.orig_rax,
        other => panic!("{other:?} at {:#x}", user.regs.rip),
    }
}

/// Guest code, assembled into this binary.
#[macro_export]
macro_rules! guest_code {
    ($name:ident, $($line:expr),+ $(,)?) => {
        fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: takes the addresses of two labels around bytes that nothing here executes.
            unsafe {
                core::arch::asm!(
                    ".pushsection .rodata.guest,\"a\",@progbits",
                    "91:",
                    $($line),+,
                    "92:",
                    ".popsection",
                    "lea {start}, [rip + 91b]",
                    "lea {end}, [rip + 92b]",
                    start = out(reg) start, end = out(reg) end, options(nomem, nostack, preserves_flags)
                );
            }
            // SAFETY: the labels bound constant bytes of this binary.
            unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
        }
    };
}
