//! An address space: map operations become host calls of the stub's memory thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use smallvec::SmallVec;
use sync::{LockClass, Mutex};
use usermem::AddrRange;
use usermem::platform::{AddressSpace, Backing, Context, CpuClock, MapOp, PlatformError, Prot};

use crate::context::SystrapContext;
use crate::layout::{FD_FREE, FD_MEMORY, FD_MEMORY_RO};
use crate::mapped::Mapped;
use crate::process::{BATCH, BATCH_FILES, Op, Process, Stub};
use crate::spares::{Lease, Spares, Tenant};

/// One guest address space: one stub process.
#[derive(Debug)]
pub struct SystrapSpace {
    stub: Lease<Stub>,
    user: AddrRange,
    clock: Arc<StubClock>,
    spares: Weak<Spares<Stub>>,
    /// Held while a batch is carried out, so that it is what the stub has.
    mapped: Mutex<Mapped>,
}

/// Host calls and the files they name, for one round trip.
#[derive(Default)]
struct Batch {
    ops: SmallVec<[Op; 8]>,
    files: SmallVec<[Arc<OwnedFd>; 2]>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.ops.len() >= BATCH || self.files.len() >= BATCH_FILES
    }

    /// The number that `file` will have in the stub.
    fn number_of(&mut self, file: &Arc<OwnedFd>) -> u64 {
        let known = self.files.iter().position(|other| Arc::ptr_eq(other, file));
        let index = known.unwrap_or_else(|| {
            self.files.push(Arc::clone(file));
            self.files.len() - 1
        });
        FD_FREE as u64 + index as u64
    }

    /// Adds `op`, for the addresses of `range`, which is all of the operation's or a part.
    fn add(&mut self, op: &MapOp, range: AddrRange) {
        let op = match op {
            MapOp::Unmap { .. } => [libc::SYS_munmap as u64, range.start.0, range.len(), 0, 0, 0, 0],
            MapOp::Protect { prot, .. } => {
                [libc::SYS_mprotect as u64, range.start.0, range.len(), host_prot(*prot), 0, 0, 0]
            }
            MapOp::Map { backing, prot, populate, .. } => {
                let (flags, fd, offset) = match backing {
                    // Without write access from a descriptor that has none: no later mprotect can add it.
                    Backing::Memory { offset } => {
                        let fd = if prot.contains(Prot::WRITE) { FD_MEMORY } else { FD_MEMORY_RO };
                        (libc::MAP_SHARED, fd as u64, *offset)
                    }
                    Backing::Host { file, offset, shared } => {
                        let kind = if *shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                        (kind, self.number_of(file), *offset)
                    }
                    Backing::Zero => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, u64::MAX, 0),
                };
                let populate = if *populate { libc::MAP_POPULATE } else { 0 };
                let flags = (flags | libc::MAP_FIXED | populate) as u64;
                [libc::SYS_mmap as u64, range.start.0, range.len(), host_prot(*prot), flags, fd, offset]
            }
        };
        self.ops.push(op);
    }
}

fn host_prot(prot: Prot) -> u64 {
    let bit = |has: Prot, host: i32| if prot.contains(has) { host as u64 } else { 0 };
    bit(Prot::READ, libc::PROT_READ) | bit(Prot::WRITE, libc::PROT_WRITE) | bit(Prot::EXEC, libc::PROT_EXEC)
}

/// The operation's range, and whether it asks for write access to something that has none.
fn shape(op: &MapOp) -> (AddrRange, bool) {
    match op {
        MapOp::Unmap { range } | MapOp::Protect { range, .. } => (*range, false),
        MapOp::Map { range, backing, prot, .. } => {
            let read_only = match backing {
                Backing::Memory { .. } => false,
                Backing::Host { shared, .. } => !shared,
                Backing::Zero => true,
            };
            (*range, read_only && prot.contains(Prot::WRITE))
        }
    }
}

/// Most mapped bytes of a stub that is emptied and used again: with more, unmapping costs what a new stub does, and a killed one
/// does it by itself.
const MOST_EMPTIED: u64 = 8 << 20;

const ENDED: PlatformError = PlatformError::Dead("ended");

impl SystrapSpace {
    /// A space in a stub that is as new, which `spares` may get when it ends.
    pub(crate) fn new(stub: Stub, user: AddrRange, spares: &Arc<Spares<Stub>>) -> Self {
        let process = Arc::clone(&stub.process);
        let clock = StubClock { base_ns: process.cpu_time_ns(), process, ended_ns: OnceLock::new() };
        Self {
            stub: Lease::new(stub),
            user,
            clock: Arc::new(clock),
            spares: Arc::downgrade(spares),
            mapped: Mutex::new(LockClass::new("systrap map", 58_000), Mapped::default()),
        }
    }

    fn stub(&self) -> Result<sync::Arc<Stub>, PlatformError> {
        self.stub.borrow().ok_or(ENDED)
    }
}

/// Adds to the batch, of which a full one goes first.
fn add(stub: &Stub, batch: &mut Batch, op: &MapOp, range: AddrRange) -> Result<(), PlatformError> {
    if batch.is_full() {
        let full = std::mem::take(batch);
        stub.run(&full.ops, &full.files)?;
    }
    batch.add(op, range);
    Ok(())
}

/// The CPU time of a stub while it had an address space.
#[derive(Debug)]
struct StubClock {
    process: Arc<Process>,
    /// The stub's when it became this address space.
    base_ns: u64,
    /// The stub's when it was no more.
    ended_ns: OnceLock<u64>,
}

impl CpuClock for StubClock {
    fn cpu_time_ns(&self) -> u64 {
        // The end is looked at after the clock, so that the time of the stub's next space never counts.
        let now = self.process.cpu_time_ns();
        self.ended_ns.get().copied().unwrap_or(now).saturating_sub(self.base_ns)
    }
}

impl AddressSpace for SystrapSpace {
    fn apply(&self, ops: &[MapOp]) -> Result<(), PlatformError> {
        // Checked before anything is done: the stub's own pages lie outside, and must stay out of reach.
        let fine = ops.iter().all(|op| {
            let (range, forbidden) = shape(op);
            self.user.contains_range(range) && range.is_page_aligned() && !range.is_empty() && !forbidden
        });
        if !fine {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(PlatformError::Host { what: "map operation against the contract", source });
        }
        let stub = self.stub()?;
        let mut mapped = self.mapped.lock();
        let mut batch = Batch::default();
        for op in ops {
            let (range, _) = shape(op);
            match op {
                MapOp::Map { .. } => {
                    add(&stub, &mut batch, op, range)?;
                    mapped.insert(range);
                }
                MapOp::Unmap { .. } => {
                    add(&stub, &mut batch, op, range)?;
                    mapped.remove(range);
                }
                MapOp::Protect { .. } => {
                    for piece in mapped.pieces(range) {
                        add(&stub, &mut batch, op, piece)?;
                    }
                }
            }
        }
        if batch.ops.is_empty() { Ok(()) } else { stub.run(&batch.ops, &batch.files) }
    }

    fn new_context(&self, copy_fpu_from: Option<&mut dyn Context>) -> Result<Box<dyn Context>, PlatformError> {
        let other = match copy_fpu_from {
            None => None,
            Some(context) => Some(
                context
                    .as_any()
                    .downcast_mut::<SystrapContext>()
                    .ok_or(PlatformError::Limit("a context of another platform"))?,
            ),
        };
        Ok(Box::new(SystrapContext::new(self.stub()?, other)?))
    }

    fn barrier(&self) -> Result<(), PlatformError> {
        self.stub()?.barrier()
    }

    fn kill(&self) {
        if let Some(process) = self.stub.kill(Stub::process) {
            process.kill();
        }
    }

    fn end(&self) {
        let stub = match self.stub.end(Stub::process) {
            Ok(stub) => stub,
            Err(process) => {
                // Contexts hold the stub: then guest code may run in it.
                process.iter().for_each(|process| process.kill());
                return;
            }
        };
        let process = stub.process();
        if self.mapped.lock().bytes() > MOST_EMPTIED {
            process.kill();
            return;
        }
        let _ = self.clock.ended_ns.set(process.cpu_time_ns());
        drop(process);
        if let Some(stub) = stub.renew()
            && let Some(spares) = self.spares.upgrade()
        {
            spares.put(stub);
        }
    }

    fn cpu_clock(&self) -> Option<Arc<dyn CpuClock>> {
        Some(Arc::clone(&self.clock) as _)
    }
}
