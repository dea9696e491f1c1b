//! Stubs between two guests.
//!
//! A stub whose guest has ended is cleaned and kept, threads and all ([`Stub::recycle`]): making and ending one costs half
//! of what a fork may cost, and most of it happens on the cores that the parent and the child need.
//!
//! They are owned by the platform, not by the machine, which they hold themselves.

use std::sync::Arc;

use sync::{LockClass, Mutex};

use crate::process::Stub;

/// Most stubs that are kept. What takes part in a pipeline of a shell, or in a build on a few cores.
const MOST: usize = 6;

/// See the module.
#[derive(Debug)]
pub(crate) struct Spares(Mutex<Vec<Stub>>);

impl Spares {
    /// None.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(LockClass::new("systrap spares", 57_000), Vec::with_capacity(MOST))))
    }

    /// The stub that was put back last: its pages are most likely to be in the caches.
    pub(crate) fn take(&self) -> Option<Stub> {
        self.0.lock().pop()
    }

    /// Keeps a stub that is as new, or ends it if there are enough.
    pub(crate) fn put(&self, stub: Stub) {
        let mut stubs = self.0.lock();
        if stubs.len() < MOST {
            stubs.push(stub);
            return;
        }
        drop(stubs);
        drop(stub);
    }
}
