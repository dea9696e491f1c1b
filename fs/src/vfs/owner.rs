//! Who is signalled when a file becomes ready, fcntl(2) "Managing signals".
//!
//! What an owner is and how it is signalled is the kernel's business. A description keeps the owner as a value that it knows
//! nothing about, and while `O_ASYNC` is set a registration at the file's queue: without it, nothing costs anything.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use waiter::{Mode, Registration, Waiter};

use super::file::File;

/// What a description keeps for SIGIO, if ever anything was asked for.
#[derive(Default)]
pub(super) struct Telling {
    owner: Option<Arc<dyn Any + Send + Sync>>,
    /// `F_SETSIG`; 0 is SIGIO without details.
    signal: i32,
    /// While `O_ASYNC` is set.
    registration: Option<Registration>,
}

impl File {
    /// Who is signalled, `F_GETOWN`; what [`File::set_owner`] was given, if it is a `T`.
    pub fn owner<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.telling.lock().as_ref()?.owner.clone()?.downcast().ok()
    }

    /// Names whom to signal, `F_SETOWN`.
    pub fn set_owner(&self, owner: Arc<dyn Any + Send + Sync>) {
        let old = self.telling.lock().get_or_insert_default().owner.replace(owner);
        drop(old);
    }

    /// Names whom to signal unless somebody is named, as who opens a terminal for it does.
    pub fn set_owner_if_none(&self, owner: Arc<dyn Any + Send + Sync>) {
        self.telling.lock().get_or_insert_default().owner.get_or_insert(owner);
    }

    /// The signal of `F_SETSIG`, 0 for none.
    pub fn owner_signal(&self) -> i32 {
        self.telling.lock().as_ref().map_or(0, |telling| telling.signal)
    }

    /// `F_SETSIG`.
    pub fn set_owner_signal(&self, signal: i32) {
        self.telling.lock().get_or_insert_default().signal = signal;
    }

    /// Sets `O_ASYNC` as it is in `flags`. `teller` makes who is woken while it is set. `ENOTTY` when that would be a change
    /// and the file has nothing to tell.
    pub fn set_async(&self, flags: OpenFlags, teller: impl FnOnce() -> Arc<dyn Waiter>) -> Result<(), Errno> {
        if self.is_path_only() {
            return Err(Errno::EBADF);
        }
        let old = {
            let mut telling = self.telling.lock();
            let on = flags.contains(OpenFlags::O_ASYNC);
            if on == self.flags().contains(OpenFlags::O_ASYNC) {
                return Ok(());
            }
            let told = self.ops().signals_for().ok_or(Errno::ENOTTY)?;
            let queue = self.ops().queue().ok_or(Errno::ENOTTY)?;
            self.put_async(on);
            let telling = telling.get_or_insert_default();
            let registration = on.then(|| queue.register(teller(), told, Mode::Shared));
            std::mem::replace(&mut telling.registration, registration)
        };
        // Its last reference may go here, without the lock.
        drop(old);
        Ok(())
    }
}
