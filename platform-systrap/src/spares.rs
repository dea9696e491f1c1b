//! Stubs between two guests, and whose a stub is.
//!
//! A stub whose guest has ended is cleaned and kept, threads and all ([`Tenant::renew`]): making and ending one costs half
//! of what a fork may cost, and most of it happens on the cores that the parent and the child need.
//!
//! A space has its stub in a [`Lease`], for as long as it lives. Whoever works in the stub borrows it; who kills the space does
//! that under the lease's lock; so nothing that is meant for one space can hit the stub when it is another's.
//!
//! [`Spares`] are owned by the platform, not by the machine, which stubs hold themselves. Loom runs this module
//! (`tests/loom.rs`).

use sync::{Arc, LockClass, Mutex};

/// What may have another guest: a stub.
pub trait Tenant: Sized {
    /// Starts its death; whoever works in it learns of that.
    fn kill_soon(&self);
    /// Makes it what it was when it was new. `None`: it was not in a state that allows it, and is dead.
    fn renew(self) -> Option<Self>;
}

/// A space's hold of its stub.
#[derive(Debug)]
pub struct Lease<S>(Mutex<Option<Arc<S>>>);

impl<S: Tenant> Lease<S> {
    /// Of a stub that nobody else has.
    pub fn new(stub: S) -> Self {
        Self(Mutex::new(LockClass::leaf("systrap space"), Some(Arc::new(stub))))
    }

    /// The stub, to work in: as long as this reference lives, it is not another's. `None`: the space has ended.
    pub fn borrow(&self) -> Option<Arc<S>> {
        self.0.lock().clone()
    }

    /// Starts the death of the stub, if the space has not ended. Returns what `name` says of it.
    pub fn kill<N>(&self, name: impl FnOnce(&S) -> N) -> Option<N> {
        // Under the lock: after it, the stub may be another's.
        let stub = self.0.lock();
        let stub = stub.as_ref()?;
        stub.kill_soon();
        Some(name(stub))
    }

    /// Ends the space: the stub, if nobody works in it. `Err`: somebody does, or the space had ended before.
    pub fn end<N>(&self, name: impl FnOnce(&S) -> N) -> Result<S, Option<N>> {
        let Some(stub) = self.0.lock().take() else { return Err(None) };
        Arc::try_unwrap(stub).map_err(|stub| Some(name(&stub)))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Spares<S> {
    stubs: Mutex<Vec<S>>,
    most: usize,
}

impl<S: Tenant> Spares<S> {
    /// None yet, and never more than `most`.
    pub fn new(most: usize) -> Self {
        Self { stubs: Mutex::new(LockClass::new("systrap spares", 57_000), Vec::with_capacity(most)), most }
    }

    /// The stub that was put back last: its pages are most likely to be in the caches.
    pub fn take(&self) -> Option<S> {
        self.stubs.lock().pop()
    }

    /// Keeps a stub that is as new, or ends it if there are enough.
    pub fn put(&self, stub: S) {
        let mut stubs = self.stubs.lock();
        if stubs.len() < self.most {
            stubs.push(stub);
            return;
        }
        drop(stubs);
        drop(stub);
    }
}
