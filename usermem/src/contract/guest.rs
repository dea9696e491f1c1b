//! A guest thread with code, data and a stack, for the checks to drive.

use std::fmt::Debug;
use std::sync::Arc;

use arch::UserContext;

use super::Fixture;
use crate::addr::{Addr, AddrRange, PAGE_SIZE};
use crate::memfile::{FileRange, Place};
use crate::platform::{AddressSpace, Backing, Context, Exit, FaultInfo, MapOp, Prot};
use crate::safecopy;

/// Where code is mapped, read and execute.
pub(super) const CODE: u64 = 0x40_0000;
/// Where data is mapped, read and write: [`DATA_PAGES`] pages.
pub(super) const DATA: u64 = 0x50_0000;
pub(super) const DATA_PAGES: u64 = 4;
/// Where the stack is mapped: [`STACK_PAGES`] pages; the guest starts in the middle of it.
pub(super) const STACK: u64 = 0x60_0000;
pub(super) const STACK_PAGES: u64 = 4;
/// Nothing is mapped here.
pub(super) const NOWHERE: u64 = 0x7000_0000;

pub(super) const READ: Prot = Prot::READ;
pub(super) const RW: Prot = Prot::READ.union(Prot::WRITE);
pub(super) const RX: Prot = Prot::READ.union(Prot::EXEC);

/// Turns any error into words.
pub(super) fn words<T, E: Debug>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e:?}"))
}

/// Words for a difference.
pub(super) fn same<T: PartialEq + Debug>(what: &str, got: T, want: T) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:#x?}, want {want:#x?}")) }
}

/// Words for a condition.
pub(super) fn ensure(what: &str, fine: bool) -> Result<(), String> {
    if fine { Ok(()) } else { Err(what.to_owned()) }
}

/// `pages` pages at `start`.
pub(super) fn pages(start: u64, pages: u64) -> AddrRange {
    AddrRange { start: Addr(start), end: Addr(start + pages * PAGE_SIZE) }
}

/// Maps memory of the memory file.
pub(super) fn map(start: u64, memory: FileRange, prot: Prot) -> MapOp {
    let range = AddrRange { start: Addr(start), end: Addr(start + memory.len()) };
    MapOp::Map { range, backing: Backing::Memory { offset: memory.start }, prot, populate: false }
}

/// An address space with code, data and stack.
pub(super) struct Process {
    pub(super) fixture: Fixture,
    pub(super) space: Arc<dyn AddressSpace>,
    pub(super) code: FileRange,
    pub(super) data: FileRange,
    pub(super) stack: FileRange,
}

impl Process {
    pub(super) fn new(fixture: &Fixture, code: &[u8]) -> Result<Self, String> {
        let space = words("new_address_space", fixture.platform.new_address_space())?;
        let fixture = fixture.clone();
        let take = |pages: u64| words("allocate", fixture.memory.allocate(pages * PAGE_SIZE, Place::Anywhere));
        let (text, data, stack) = (take(1)?, take(DATA_PAGES)?, take(STACK_PAGES)?);
        let process = Self { space, code: text, data, stack, fixture };
        process.put(text, code)?;
        process.apply(&[map(CODE, text, RX), map(DATA, data, RW), map(STACK, stack, RW)])?;
        Ok(process)
    }

    pub(super) fn apply(&self, ops: &[MapOp]) -> Result<(), String> {
        words("apply", self.space.apply(ops))
    }

    /// More memory of the memory file; never given back, the checks are short.
    pub(super) fn allocate(&self, pages: u64) -> Result<FileRange, String> {
        words("allocate", self.fixture.memory.allocate(pages * PAGE_SIZE, Place::Anywhere))
    }

    /// Writes to memory as the kernel does.
    pub(super) fn put(&self, range: FileRange, bytes: &[u8]) -> Result<(), String> {
        let slice = words("slice", self.fixture.memory.slice(range))?;
        same("kernel's write", safecopy::write_slices(&[slice], bytes), Ok(bytes.len()))
    }

    /// Writes a word at the start of `range`.
    pub(super) fn put_word(&self, range: FileRange, word: u64) -> Result<(), String> {
        self.put(range, &word.to_le_bytes())
    }

    /// Reads a word at the start of `range` as the kernel does.
    pub(super) fn word(&self, range: FileRange) -> Result<u64, String> {
        let slice = words("slice", self.fixture.memory.slice(range))?;
        words("kernel's read", safecopy::load_u64(slice, 0))
    }

    /// Waits until the word at the start of `range` is not `old`.
    pub(super) fn wait_for_change(&self, range: FileRange, old: u64) -> Result<u64, String> {
        loop {
            let word = self.word(range)?;
            if word != old {
                return Ok(word);
            }
            std::thread::yield_now();
        }
    }

    /// A new thread at the start of the code.
    pub(super) fn thread(&self) -> Result<Guest, String> {
        let context = words("new_context", self.space.new_context(None))?;
        Ok(Guest::new(context))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.space.kill();
    }
}

/// A guest thread.
pub(super) struct Guest {
    pub(super) context: Box<dyn Context>,
    pub(super) user: UserContext,
}

impl Guest {
    pub(super) fn new(context: Box<dyn Context>) -> Self {
        let mut user = UserContext::default();
        user.regs.rip = CODE;
        user.regs.rsp = STACK + STACK_PAGES / 2 * PAGE_SIZE;
        user.regs.cs = 0x33;
        user.regs.ss = 0x2b;
        user.regs.eflags = 0x202;
        user.regs.orig_rax = u64::MAX;
        Self { context, user }
    }

    pub(super) fn switch(&mut self) -> Result<Exit, String> {
        words("switch", self.context.switch(&mut self.user))
    }

    pub(super) fn syscall(&mut self) -> Result<(), String> {
        same("exit", self.switch()?, Exit::Syscall)
    }

    pub(super) fn fault(&mut self) -> Result<FaultInfo, String> {
        match self.switch()? {
            Exit::Fault(info) => Ok(info),
            other => Err(format!("exit: got {other:?}, want a fault")),
        }
    }

    /// Runs to the `ud2` that ends most pieces of code.
    pub(super) fn run_to_end(&mut self) -> Result<(), String> {
        same("signal at the end", self.fault()?.signal, libc::SIGILL)
    }
}
