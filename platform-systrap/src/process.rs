//! A stub process: its memory thread, its application threads, its death.
//!
//! Lock: [`Stub::inner`] serialises everything that involves the memory thread, the leader or the stub's descriptor table,
//! because descriptors are named by the number the host will give them next.
//!
//! **Invariants.**
//! - A stub that gave an impossible answer is killed, and its address space is [`PlatformError::Dead`] from then on.
//! - The chunks and control pages of a stub are reused only after the host has confirmed its death, or by the same stub
//!   for another guest, cleared ([`Tenant::renew`]).
//! - The pid stays taken (as a zombie) while an interrupter that names it lives.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sync::{LockClass, Mutex};
use usermem::platform::PlatformError;

use crate::handover::{self, Handover, MemoryThread};
use crate::host::{self, Gone, Listener, MAX_FDS, Reap, Transport};
use crate::layout::{
    ALTSTACK, CHUNK, CHUNK_SLABS, FD_FREE, FD_OPS, FD_SLABS, MAX_SLABS, SLAB, SLABS, control, own_slab,
};
use crate::machine::Machine;
use crate::spares::Tenant;
use crate::thread::{Impossible, Thread};
use crate::zygote::Born;

/// A host call for the memory thread: number and arguments.
pub(crate) type Op = [u64; 7];

/// Most operations in one batch; two places are kept for receiving and closing descriptors.
pub(crate) const BATCH: usize = control::OPS_MAX - 2;
/// Slabs of a stub that is used again, at most: its own, a thread's, and that of a child of vfork(2). More threads would
/// only lie about.
const MOST_RECYCLED: u64 = 3;
/// Most host files in one batch.
pub(crate) const BATCH_FILES: usize = MAX_FDS;

/// Identity of a stub process. Dropped last, it gives the pid back.
#[derive(Debug)]
pub(crate) struct Process {
    /// In our pid namespace.
    pub(crate) pid: i32,
    pidfd: OwnedFd,
    /// Set before the process is killed, or when it was found dead. Pairs with the loads in `is_dead`.
    dead: AtomicBool,
    /// Slabs whose kernel threads may sleep at their words and must hear of its death; only where there are no listeners.
    sleepers: Mutex<Vec<u64>>,
}

impl Process {
    fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, dead: AtomicBool::new(false), sleepers: Mutex::new(SLEEPERS, Vec::new()) }
    }

    /// Starts the thread that tells sleepers of the process's death: a futex does not.
    fn watch(self: &Arc<Self>, machine: &Arc<Machine>) -> io::Result<()> {
        // The process is killed before all others let go of it, so this thread ends.
        let (machine, process) = (Arc::downgrade(machine), Arc::clone(self));
        let body = move || {
            host::wait_dead(process.pidfd.as_fd(), Reap::Leave);
            // Pairs with the load in `is_dead`.
            process.dead.store(true, Ordering::Release);
            if let Some(machine) = machine.upgrade() {
                // Under the lock: a slab that is given back has left the list.
                process.sleepers.lock().iter().for_each(|&slab| handover::bury(&machine, &process, slab));
            }
        };
        std::thread::Builder::new().name("systrap-death".into()).stack_size(64 << 10).spawn(body).map(drop)
    }

    /// Whether [`Self::kill`] was called, or the process found dead.
    pub(crate) fn is_dead(&self) -> bool {
        // Pairs with the store in `kill`.
        self.dead.load(Ordering::Acquire)
    }

    /// CPU time of all its threads; what it ended with once it has ended.
    pub(crate) fn cpu_time_ns(&self) -> u64 {
        sync::process_cpu_ns(self.pid).unwrap_or(0)
    }

    /// Starts the death of the process; every wait for its threads ends with it.
    pub(crate) fn kill_soon(&self) {
        // Pairs with the load in `is_dead`.
        self.dead.store(true, Ordering::Release);
        host::kill(self.pidfd.as_fd());
    }

    /// Kills all threads and waits until the host has torn down the address space.
    pub(crate) fn kill(&self) {
        self.kill_soon();
        host::wait_dead(self.pidfd.as_fd(), Reap::Leave);
    }

    /// Kills the process because of `why`, for the caller to report.
    pub(crate) fn condemn(&self, why: &'static str) -> PlatformError {
        if !self.is_dead() {
            log::warn!("stub {} killed: {why}", self.pid);
        }
        self.kill();
        PlatformError::Dead(why)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        host::wait_dead(self.pidfd.as_fd(), Reap::Take);
    }
}

#[derive(Debug)]
struct Inner {
    memory_thread: MemoryThread,
    /// Offsets of the stub's chunks in the slab file.
    chunks: Vec<u64>,
    /// Slabs given to threads so far; the first is the stub's own.
    slabs: u64,
    /// Threads without a context.
    parked: Vec<Thread>,
    /// Most operations that its control pages have held.
    most_ops: u64,
    /// A kick may still be on its way to one of its threads.
    kicked: bool,
}

/// A stub process.
#[derive(Debug)]
pub(crate) struct Stub {
    pub(crate) machine: Arc<Machine>,
    pub(crate) process: Arc<Process>,
    leader: OwnedFd,
    ops_socket: OwnedFd,
    /// Offset of its control pages in the control file.
    control: u64,
    inner: Mutex<Inner>,
}

const INNER: LockClass = LockClass::new("systrap stub", 60_000);
const SLEEPERS: LockClass = LockClass::new("systrap sleepers", 60_500);

fn refused(what: &'static str, source: io::Error) -> PlatformError {
    PlatformError::Host { what, source }
}

/// The units a stub is made with; gives them back unless a [`Stub`] has taken them over.
#[derive(Debug)]
pub(crate) struct Units {
    pub(crate) control: u64,
    pub(crate) chunk: u64,
}

impl Stub {
    /// Fills the control pages with what a leader needs for its first thread, before the zygote forks it.
    pub(crate) fn lay_out(machine: &Machine, units: &Units) {
        write_altstack(machine, units.control, 1);
        lay_out_receive(machine, units.chunk, MAX_FDS);
    }

    /// Takes over a process that the zygote has forked and waits for its first threads.
    pub(crate) fn adopt(machine: Arc<Machine>, units: Units, born: Born) -> Result<Self, PlatformError> {
        let process = Arc::new(Process::new(born.pid, born.pidfd));
        let threads = (|| {
            if machine.features.transport == Transport::Futex {
                process.watch(&machine)?;
            }
            let memory_thread = match receive_listener(&born.leader, &machine)? {
                Some(listener) => {
                    let pending = listener.receive().map_err(|Gone| io::Error::other("the memory thread died"))?.id;
                    MemoryThread::Notify { listener, pending }
                }
                None => MemoryThread::Socket,
            };
            let app = receive_listener(&born.leader, &machine)?;
            let first = adopt_thread(&machine, &process, app, units.chunk + SLAB, 1, units.chunk)?;
            Ok((memory_thread, first))
        })();
        let (memory_thread, first) = match threads {
            Ok(threads) => threads,
            Err(source) => {
                process.kill();
                process.sleepers.lock().clear();
                machine.control.free(units.control);
                machine.slabs.free(units.chunk);
                return Err(refused("start of a stub", source));
            }
        };
        let inner = Inner {
            memory_thread,
            chunks: vec![units.chunk],
            slabs: 2,
            parked: vec![first],
            most_ops: 0,
            kicked: false,
        };
        Ok(Self {
            machine,
            process,
            leader: born.leader,
            ops_socket: born.ops,
            control: units.control,
            inner: Mutex::new(INNER, inner),
        })
    }

    /// Ends a process that the zygote has forked and that nobody wants.
    pub(crate) fn discard(born: Born) {
        drop(Process::new(born.pid, born.pidfd));
    }

    /// Carries out a batch in the memory thread: at most [`BATCH`] operations, of which some name `files` as [`FD_FREE`]
    /// plus an index. Any refusal kills the stub.
    pub(crate) fn run(&self, ops: &[Op], files: &[Arc<OwnedFd>]) -> Result<(), PlatformError> {
        self.run_locked(&mut self.inner.lock(), ops, files)
    }

    fn run_locked(&self, inner: &mut Inner, ops: &[Op], files: &[Arc<OwnedFd>]) -> Result<(), PlatformError> {
        if self.process.is_dead() {
            return Err(PlatformError::Dead("killed"));
        }
        let control = &self.machine.control;
        let mut count = 0;
        let mut put = |op: &Op| {
            let at = self.control + control::OPS + count * control::OP_LEN;
            for (index, word) in op.iter().enumerate() {
                control.write_u64(at + index as u64 * 8, *word);
            }
            count += 1;
        };
        if !files.is_empty() && inner.memory_thread.receives_in_batch() {
            let message = lay_out_receive(&self.machine, inner.chunks[0], files.len());
            put(&[libc::SYS_recvmsg as u64, FD_OPS as u64, message, 0, 0, 0, 0]);
        }
        ops.iter().for_each(&mut put);
        if !files.is_empty() {
            put(&[libc::SYS_close_range as u64, FD_FREE as u64, u64::from(u32::MAX), 0, 0, 0, 0]);
        }
        control.write_u64(self.control + control::OPS_COUNT, count);
        inner.most_ops = inner.most_ops.max(count);
        let Ok((done, errno)) = inner.memory_thread.run(&self.ops_socket, files, count) else {
            return Err(self.process.condemn("the memory thread is gone"));
        };
        if done == count {
            return Ok(());
        }
        self.process.kill();
        log::warn!("stub {}: operation {done} of {count} failed with errno {errno}", self.process.pid);
        Err(refused("memory operation in a stub", io::Error::from_raw_os_error(errno)))
    }

    /// Returns when every thread of the stub has passed a full memory barrier.
    pub(crate) fn barrier(&self) -> Result<(), PlatformError> {
        let expedited = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED as u64;
        self.run(&[[libc::SYS_membarrier as u64, expedited, 0, 0, 0, 0, 0]], &[])
    }

    /// A thread without a context: a parked one, or a new one.
    pub(crate) fn take_thread(&self) -> Result<Thread, PlatformError> {
        let mut inner = self.inner.lock();
        if self.process.is_dead() {
            return Err(PlatformError::Dead("killed"));
        }
        if let Some(thread) = inner.parked.pop() {
            return Ok(thread);
        }
        self.machine.look_for_descriptors()?;
        let slab = inner.slabs;
        if slab >= MAX_SLABS {
            return Err(PlatformError::Limit("threads in one address space"));
        }
        if slab / CHUNK_SLABS == inner.chunks.len() as u64 {
            self.grow(&mut inner)?;
        }
        let chunk = inner.chunks[(slab / CHUNK_SLABS) as usize];
        let file_offset = chunk + slab % CHUNK_SLABS * SLAB;
        write_altstack(&self.machine, self.control, slab);
        let thread = host::send(self.leader.as_fd(), &[0], &[])
            .and_then(|()| receive_listener(&self.leader, &self.machine))
            .and_then(|app| adopt_thread(&self.machine, &self.process, app, file_offset, slab, inner.chunks[0]));
        match thread {
            Ok(thread) => {
                inner.slabs = slab + 1;
                Ok(thread)
            }
            // No thread, or one that has ended at once: the slab is still free.
            Err(source) if source.raw_os_error() == Some(host::NO_LISTENER) => {
                Err(PlatformError::Limit("threads, or seccomp listeners, of the host"))
            }
            Err(source) => {
                self.process.kill();
                Err(refused("start of a stub thread", source))
            }
        }
    }

    /// Maps one more chunk of slabs.
    fn grow(&self, inner: &mut Inner) -> Result<(), PlatformError> {
        let chunk = self.machine.slabs.allocate().ok_or(PlatformError::Limit("stub threads"))?;
        let address = self.machine.base + SLABS + inner.chunks.len() as u64 * CHUNK;
        // Owned by the stub from here on, so that it is freed even if mapping fails.
        inner.chunks.push(chunk);
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        self.run_locked(inner, &[[libc::SYS_mmap as u64, address, CHUNK, access, flags, FD_SLABS as u64, chunk]], &[])
    }

    /// Keeps a thread for the next context.
    pub(crate) fn park(&self, thread: Thread, kicked: Kicked) {
        if !self.process.is_dead() {
            let mut inner = self.inner.lock();
            inner.kicked |= kicked == Kicked::Perhaps;
            inner.parked.push(thread);
        }
    }

    /// Its process, for who may outlive it.
    pub(crate) fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process)
    }

    fn clear_out(&self) -> Result<(), &'static str> {
        let machine = &self.machine;
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if machine.features.transport != Transport::Notify || self.process.is_dead() {
            return Err("its threads cannot be placed");
        }
        if inner.kicked {
            return Err("a kick may be on its way");
        }
        let &[chunk] = inner.chunks.as_slice() else { return Err("many threads") };
        if inner.slabs > MOST_RECYCLED || inner.parked.len() as u64 + 1 != inner.slabs {
            return Err("many threads");
        }
        if !inner.parked.iter_mut().all(Thread::settle) {
            return Err("a thread is elsewhere");
        }
        let guest = [libc::SYS_munmap as u64, 0, machine.base, 0, 0, 0, 0];
        self.run_locked(inner, &[guest], &[]).map_err(|_| "memory not given back")?;
        machine.slabs.clear(chunk, inner.slabs * SLAB);
        if !machine.slabs.discard(chunk + inner.slabs * SLAB, CHUNK - inner.slabs * SLAB) {
            return Err("slabs not cleared");
        }
        machine.control.clear(self.control + control::OPS, inner.most_ops * control::OP_LEN);
        inner.most_ops = 0;
        lay_out_receive(machine, chunk, MAX_FDS);
        for thread in &mut inner.parked {
            thread.restart().map_err(|Impossible(why)| why)?;
        }
        Ok(())
    }
}

impl Tenant for Stub {
    fn kill_soon(&self) {
        self.process.kill_soon();
    }

    /// Either way no page is mapped in it any more.
    ///
    /// Nothing of the last guest is left. Its threads stand still before its memory goes, at a place and in a call that the
    /// host names, not they; its slabs are cleared while nothing can write to them; then each thread is sent to where it
    /// forgets its registers, which ends in a hand-over that the host places too. The leader waits in its read(2), the
    /// memory thread in its hand-over, with nothing of a guest in them.
    fn renew(self) -> Option<Self> {
        match self.clear_out() {
            Ok(()) => Some(self),
            Err(why) => {
                log::debug!("stub {} is not used again: {why}", self.process.pid);
                self.process.kill();
                None
            }
        }
    }
}

/// Whether a kick may still be on its way to a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kicked {
    /// None was sent.
    No,
    /// One was sent, or is about to be.
    Perhaps,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.process.kill();
        // Nobody sleeps there any more, and who gets the slabs next must not be told of this death.
        self.process.sleepers.lock().clear();
        self.machine.control.free(self.control);
        for chunk in self.inner.get_mut().chunks.drain(..) {
            self.machine.slabs.free(chunk);
        }
    }
}

/// Writes the `stack_t` of the next application thread, which gets slab `slab`.
fn write_altstack(machine: &Machine, control_pages: u64, slab: u64) {
    let stack = [machine.base + SLABS + slab * SLAB + ALTSTACK, 0, SLAB - ALTSTACK];
    for (index, word) in stack.iter().enumerate() {
        machine.control.write_u64(control_pages + control::ALTSTACK + index as u64 * 8, *word);
    }
}

/// Writes the `msghdr` for `count` descriptors into a stub's own slab, which lies at `own` in the slab file; returns its
/// address in the stub. The guest can change it: then the descriptors do not arrive, the batch fails, the guest is dead.
fn lay_out_receive(machine: &Machine, own: u64, count: usize) -> u64 {
    let stub = machine.base + SLABS;
    let control_len = (16 + 4 * count as u64).next_multiple_of(8);
    let header = [0, 0, stub + own_slab::FD_IOV, 1, stub + own_slab::FD_CONTROL, control_len, 0];
    for (index, word) in header.iter().enumerate() {
        machine.slabs.write_u64(own + own_slab::FD_MSG + index as u64 * 8, *word);
    }
    machine.slabs.write_u64(own + own_slab::FD_IOV, stub + own_slab::FD_BYTE);
    machine.slabs.write_u64(own + own_slab::FD_IOV + 8, 1);
    stub + own_slab::FD_MSG
}

/// What a leader says about a new thread: its listener, or nothing where there are none. When this returns, the leader has
/// closed its own descriptor, and [`FD_FREE`] is free.
fn receive_listener(leader: &OwnedFd, machine: &Machine) -> io::Result<Option<Listener>> {
    let gone = || io::Error::other("the stub's leader is gone");
    let listener = match machine.features.transport {
        Transport::Notify => {
            let (len, fds) = host::receive(leader.as_fd(), &mut [0])?;
            Some(fds.into_iter().next().filter(|_| len == 1).ok_or_else(gone)?)
        }
        Transport::Futex => None,
    };
    match host::receive_length(leader.as_fd())? {
        1 => listener.map(|fd| Listener::new(fd, machine.features)).transpose(),
        2 => Err(io::Error::from_raw_os_error(host::NO_LISTENER)),
        _ => Err(gone()),
    }
}

/// Takes over the newest thread of a stub, which has slab `slab` at `file_offset` of the slab file.
fn adopt_thread(
    machine: &Arc<Machine>,
    process: &Arc<Process>,
    listener: Option<Listener>,
    file_offset: u64,
    slab: u64,
    own: u64,
) -> io::Result<Thread> {
    if listener.is_none() {
        process.sleepers.lock().push(file_offset);
    }
    let handover = Handover::new(listener, process, &machine.cores);
    let address = machine.base + SLABS + slab * SLAB;
    // What the leader's clone wrote. The guest may have changed it: then it misses kicks, and dies of that.
    let tid = machine.slabs.read_u32(own + own_slab::NEW_TID) as i32;
    Thread::adopt(Arc::clone(machine), handover, file_offset, address, tid)
}
