//! How the kernel waits for a stub thread and lets it go: by seccomp notification, or by futex where the host gives no
//! listeners.
//!
//! With futexes the state word lies in memory that the guest can write. It can claim to have handed over while it runs on:
//! then the kernel reads registers that mean nothing, which is the guest's own loss; what it may reach is decided by the
//! memory thread, whose answers are lengths of messages that no thread of the guest can send.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::SmallVec;

use crate::host::{self, Gone, Listener};
use crate::layout::line;
use crate::machine::Machine;
use crate::process::Process;

/// How often the death of a stub is looked for while its guest code runs (futex only: an idle task waits elsewhere).
const DEATH_CHECK: Duration = Duration::from_millis(50);

/// The kernel's end of an application thread.
#[derive(Debug)]
pub(crate) enum Handover {
    /// The thread's listener, and the notification that waits for our answer.
    Notify { listener: Listener, pending: u64 },
    /// The thread's process, to see it die.
    Futex { process: Arc<Process> },
}

impl Handover {
    /// Waits until a new thread has handed over for the first time. Returns its thread id when the host tells.
    pub(crate) fn first(&mut self, machine: &Machine, slab: u64) -> Result<Option<i32>, Gone> {
        match self {
            Self::Notify { listener, pending } => {
                let notification = listener.receive()?;
                *pending = notification.id;
                Ok(Some(notification.pid as i32))
            }
            Self::Futex { process } => {
                wait_for_kernel(process, machine, slab)?;
                Ok(None)
            }
        }
    }

    /// Whether the partner wakes on the CPU that its waker runs on.
    pub(crate) fn is_sync(&self) -> bool {
        match self {
            Self::Notify { listener, .. } => listener.is_sync(),
            Self::Futex { .. } => false,
        }
    }

    /// Lets the thread go, and waits until it hands over again.
    pub(crate) fn run(&mut self, machine: &Machine, slab: u64) -> Result<(), Gone> {
        match self {
            Self::Notify { listener, pending } => {
                while !listener.resume(*pending)? {
                    // Withdrawn by a kick (hosts before 5.19): the thread hands over again, with the same frame.
                    *pending = listener.receive()?.id;
                }
                *pending = listener.receive()?.id;
                Ok(())
            }
            Self::Futex { process } => {
                let state = machine.slabs.atomic_u32(slab + line::STATE);
                // Pairs with the stub's load: it sees the registers that we wrote.
                state.store(line::GUEST, Ordering::Release);
                host::futex_wake(state);
                wait_for_kernel(process, machine, slab)
            }
        }
    }
}

fn wait_for_kernel(process: &Process, machine: &Machine, slab: u64) -> Result<(), Gone> {
    let state = machine.slabs.atomic_u32(slab + line::STATE);
    loop {
        // Pairs with the stub's store: we see the registers that it wrote.
        if state.load(Ordering::Acquire) != line::GUEST {
            return Ok(());
        }
        host::futex_wait(state, line::GUEST, DEATH_CHECK);
        if state.load(Ordering::Relaxed) == line::GUEST && process.has_ended() {
            return Err(Gone);
        }
    }
}

/// The kernel's end of a memory thread.
#[derive(Debug)]
pub(crate) enum MemoryThread {
    /// Its listener, and the notification that waits for our answer.
    Notify { listener: Listener, pending: u64 },
    /// It waits on its socket.
    Socket,
}

impl MemoryThread {
    /// Starts the batch of `count` operations that lies in the control pages, with `files` if it has any. Returns how many
    /// were carried out and, if not all, the error number.
    pub(crate) fn run(&mut self, socket: &OwnedFd, files: &[Arc<OwnedFd>], count: u64) -> Result<(u64, i32), Gone> {
        let fds: SmallVec<[_; 4]> = files.iter().map(|file| file.as_fd()).collect();
        match self {
            Self::Notify { listener, pending } => {
                if !fds.is_empty() {
                    host::send(socket.as_fd(), &[0], &fds).map_err(|_| Gone)?;
                }
                if !listener.resume(*pending)? {
                    return Err(Gone);
                }
                let answer = listener.receive()?;
                *pending = answer.id;
                // Arguments of the hand-over: operations carried out, and what the last one returned.
                let [done, result, ..] = answer.args;
                Ok((done, (result as i64).wrapping_neg() as i32))
            }
            Self::Socket => {
                host::send(socket.as_fd(), &[0], &fds).map_err(|_| Gone)?;
                let length = || host::receive_length(socket.as_fd()).ok().filter(|len| *len != 0).ok_or(Gone);
                let done = length()? as u64 - 1;
                let errno = if done < count { length()? as i32 } else { 0 };
                Ok((done, errno))
            }
        }
    }

    /// Whether descriptors are received by an operation of the batch, rather than with the message that starts it.
    pub(crate) fn receives_in_batch(&self) -> bool {
        matches!(self, Self::Notify { .. })
    }
}
