//! A context that runs a script.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arch::{FpuState, UserContext};
use sync::Mutex;

use super::{FakeSpace, Script};
use crate::platform::{Context, Exit, Interrupt, PlatformError};

/// One fake thread of execution.
pub struct FakeContext {
    space: Arc<FakeSpace>,
    fpu: FpuState,
    script: Arc<Mutex<Option<Script>>>,
    interrupt: Arc<Pending>,
}

#[derive(Default)]
struct Pending(AtomicBool);

impl Interrupt for Pending {
    fn interrupt(&self) {
        // Release pairs with the acquire in `switch`.
        self.0.store(true, Ordering::Release);
    }
}

impl FakeContext {
    pub(super) fn new(space: Arc<FakeSpace>, fpu: FpuState, script: Arc<Mutex<Option<Script>>>) -> Self {
        Self { space, fpu, script, interrupt: Arc::default() }
    }

    pub(super) fn fpu(&self) -> FpuState {
        self.fpu.clone()
    }
}

impl Context for FakeContext {
    fn switch(&mut self, user: &mut UserContext) -> Result<Exit, PlatformError> {
        if self.space.is_dead() {
            return Err(PlatformError::Dead("killed"));
        }
        if self.interrupt.0.swap(false, Ordering::Acquire) {
            return Ok(Exit::Interrupted);
        }
        let script = self.script.lock().clone();
        Ok(script.map_or(Exit::Interrupted, |script| script(&self.space, user)))
    }

    fn pull_full(&mut self, user: &mut UserContext) -> Result<(), PlatformError> {
        user.fpu = self.fpu.clone();
        Ok(())
    }

    fn set_full(&mut self, user: &UserContext) -> Result<(), PlatformError> {
        self.fpu = user.fpu.clone();
        Ok(())
    }

    fn interrupter(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.interrupt) as Arc<dyn Interrupt>
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
