//! Running guest code in a stub thread, and interrupting it.
//!
//! What decides whether an interrupt is outstanding is a word of ours, not of the stub: [`crate::kick`].
//! A guest that jumps into stub code can make itself deaf to kicks; `watchdog` ends it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use arch::UserContext;
use usermem::platform::{Context, Exit, GuestMask, Interrupt, PlatformError};

use crate::Calls;
use crate::cores::Seat;
use crate::handover::{self, Lost};
use crate::host;
use crate::kick;
use crate::layout::{ANSWERS, ANSWERS_LEN, KICK_SIGNAL, MASK, MASK_OPEN};
use crate::machine::Machine;
use crate::mask;
use crate::process::{Kicked, Process, Stub};
use crate::thread::{Event, Impossible, Thread};

/// The interruptible part of a context. On lines of its own: each call writes to it.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Kick {
    machine: Arc<Machine>,
    process: Arc<Process>,
    tid: i32,
    /// Offset of the thread's slab in the slab file.
    slab: u64,
    /// What it counts as among those that share the cores.
    seat: Seat,
    state: AtomicU32,
    /// It was interrupted: a kick may have been sent, and be late. Relaxed: by the context's own thread only.
    interrupted: AtomicBool,
    /// When the kick of this run was sent, in nanoseconds since `made`; `u64::MAX` before.
    kicked_at: AtomicU64,
    made: Instant,
}

impl kick::Word for AtomicU32 {
    fn cas(&self, old: u32, new: u32) -> bool {
        // Pairs with the other operations of this trait, as those below.
        self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn set(&self, bits: u32) -> u32 {
        self.fetch_or(bits, Ordering::AcqRel)
    }

    fn clear(&self, bits: u32) -> u32 {
        self.fetch_and(!bits, Ordering::AcqRel)
    }
}

impl Kick {
    /// Before guest code runs. `false`: an interrupt was pending, and is consumed.
    fn begin(&self) -> bool {
        // Before RUNNING, so that no interrupter of this run compares with the kick of an earlier one.
        self.kicked_at.store(u64::MAX, Ordering::Relaxed);
        // Pairs with `interrupt`: what the interrupter did before is seen by our caller when this returns false.
        let begun = kick::begin(&self.state);
        if !begun {
            self.interrupted.store(true, Ordering::Relaxed);
        }
        begun
    }

    /// Takes a pending interrupt, after a kick has ended a run.
    fn consume(&self) -> bool {
        let pending = kick::consume(&self.state);
        if pending {
            self.interrupted.store(true, Ordering::Relaxed);
        }
        pending
    }

    /// Whether a kick of this context may still be on its way. Whoever sends one has set PENDING before, which is there
    /// still or was seen by `begin` or `consume`.
    fn kicked(&self) -> Kicked {
        let pending = self.state.load(Ordering::Acquire) & kick::PENDING != 0;
        if pending || self.interrupted.load(Ordering::Relaxed) { Kicked::Perhaps } else { Kicked::No }
    }

    /// The task sleeps, or ends.
    fn sleep(&self) {
        self.seat.sleep(&self.machine.cores);
        handover::rest(&self.machine, self.slab);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Kills the stub if its last kick is unanswered for longer than `patience`. Whether one is still on its way.
    pub(crate) fn enforce(&self, patience: Duration) -> bool {
        // Pairs with `begin` and `end`.
        if self.state.load(Ordering::Acquire) != kick::RUNNING | kick::PENDING || self.process.is_dead() {
            return false;
        }
        let waited = self.now().saturating_sub(self.kicked_at.load(Ordering::Relaxed));
        if u128::from(waited) < patience.as_nanos() {
            return true;
        }
        log::warn!("stub {} killed: it did not answer a kick", self.process.pid);
        self.process.kill_soon();
        false
    }
}

impl Interrupt for Kick {
    fn interrupt(&self) {
        if kick::interrupt(&self.state) {
            self.kicked_at.store(self.now(), Ordering::Relaxed);
            host::signal_thread(self.process.pid, self.tid, KICK_SIGNAL);
            self.seat.hurry();
            self.machine.watchdog.arm();
        }
    }

    fn publish(&self, number: u16, answer: Option<u64>) {
        if u64::from(number) < ANSWERS_LEN {
            // The largest value has no room for the one that is added, and comes to us.
            let word = answer.and_then(|answer| answer.checked_add(1)).unwrap_or(0);
            self.machine.slabs.write_u64(self.slab + ANSWERS + u64::from(number) * 8, word);
        }
    }

    fn rest(&self, woken: &dyn Fn() -> bool) {
        if !self.seat.nap(&self.machine.cores, woken) {
            self.sleep();
        }
    }

    fn wake(&self) {
        self.seat.wake(&self.machine.cores);
    }
}

/// The words of a thread's slab that [`mask`] is about.
#[derive(Debug)]
struct StubMask {
    machine: Arc<Machine>,
    /// Offset of the thread's slab in the slab file.
    slab: u64,
}

impl StubMask {
    fn words(&self) -> &[AtomicU64; 2] {
        static_assertions::const_assert!(MASK_OPEN == MASK + 8);
        self.machine.slabs.atomic_words(self.slab + MASK)
    }
}

impl mask::Words for StubMask {
    fn mask(&self) -> u64 {
        let [mask, _] = self.words();
        // Pairs with the stub's xchg: what the thread did before it changed the mask is seen.
        mask.load(Ordering::Acquire)
    }

    fn set_open(&self, open: u64) {
        let [_, word] = self.words();
        // Release: a mask that was set before holds for whoever finds it open.
        word.store(open, Ordering::Release);
    }

    fn fence(&self) {
        // Pairs with the stub's xchg.
        fence(Ordering::SeqCst);
    }
}

impl GuestMask for StubMask {
    fn get(&self) -> u64 {
        mask::Words::mask(self)
    }

    fn set(&self, mask: u64) {
        let [word, _] = self.words();
        // Pairs with `mask`.
        word.store(mask, Ordering::Release);
    }

    fn open(&self) {
        mask::open(self);
    }

    fn close(&self) {
        mask::close(self);
    }
}

/// A guest thread of execution in a stub.
#[derive(Debug)]
pub struct SystrapContext {
    stub: sync::Arc<Stub>,
    /// Always there, but while dropping.
    thread: Option<Thread>,
    kick: Arc<Kick>,
}

const NO_THREAD: PlatformError = PlatformError::Dead("no thread");

impl SystrapContext {
    /// A context on a thread of `stub`, with the extended state of `fpu_of` or that of a new program.
    pub(crate) fn new(stub: sync::Arc<Stub>, fpu_of: Option<&mut Self>) -> Result<Self, PlatformError> {
        let image = match fpu_of {
            Some(other) => other.read_image()?,
            None => stub.machine.xsave.initial(),
        };
        let mut thread = stub.take_thread()?;
        // Of the last context on this thread.
        for number in 0..ANSWERS_LEN {
            stub.machine.slabs.write_u64(thread.slab() + ANSWERS + number * 8, 0);
        }
        stub.machine.slabs.write_u64(thread.slab() + MASK_OPEN, 0);
        let condemn = |Impossible(why)| stub.process.condemn(why);
        thread.write_image(image).map_err(condemn)?;
        let kick = Arc::new(Kick {
            machine: Arc::clone(&stub.machine),
            process: Arc::clone(&stub.process),
            tid: thread.tid,
            slab: thread.slab(),
            seat: Seat::default(),
            state: AtomicU32::new(kick::IDLE),
            interrupted: AtomicBool::new(false),
            kicked_at: AtomicU64::new(u64::MAX),
            made: Instant::now(),
        });
        stub.machine.watchdog.watch(&kick);
        Ok(Self { stub, thread: Some(thread), kick })
    }

    fn read_image(&mut self) -> Result<Vec<u8>, PlatformError> {
        let thread = self.thread.as_mut().ok_or(NO_THREAD)?;
        thread.read_image(&self.kick.seat).map_err(|Impossible(why)| self.stub.process.condemn(why))
    }
}

impl Context for SystrapContext {
    fn switch(&mut self, user: &mut UserContext) -> Result<Exit, PlatformError> {
        self.switch_or(user, &mut || {})
    }

    fn switch_or(&mut self, user: &mut UserContext, idle: &mut dyn FnMut()) -> Result<Exit, PlatformError> {
        let thread = self.thread.as_mut().ok_or(NO_THREAD)?;
        let process = &self.stub.process;
        self.kick.wake();
        loop {
            if process.is_dead() {
                return Err(PlatformError::Dead("killed"));
            }
            if let Err(fault) = thread.load(&user.regs) {
                return Ok(fault);
            }
            if !self.kick.begin() {
                thread.not_run();
                return Ok(Exit::Interrupted);
            }
            let ran = thread.run(&self.kick.seat, idle);
            kick::end(&self.kick.state);
            match ran {
                Ok(()) => {}
                Err(Lost::Gone) => return Err(process.condemn("the stub is gone")),
                Err(Lost::Nonsense) => return Err(process.condemn("a state that no stub has")),
            }
            match thread.read(&mut user.regs) {
                Ok(Event::Exit(exit)) => return Ok(exit),
                Ok(Event::Kicked) if self.kick.consume() => return Ok(Exit::Interrupted),
                // A kick for an earlier run: on with it.
                Ok(Event::Kicked) => {}
                Err(Impossible(why)) => return Err(process.condemn(why)),
            }
        }
    }

    fn expect_calls(&mut self) {
        if let Some(thread) = &mut self.thread {
            thread.expect_calls();
        }
    }

    fn pull_full(&mut self, user: &mut UserContext) -> Result<(), PlatformError> {
        user.fpu.image = self.read_image()?;
        Ok(())
    }

    fn set_full(&mut self, user: &UserContext) -> Result<(), PlatformError> {
        let thread = self.thread.as_mut().ok_or(NO_THREAD)?;
        thread.write_image(user.fpu.image.clone()).map_err(|Impossible(why)| self.stub.process.condemn(why))
    }

    fn interrupter(&self) -> Arc<dyn Interrupt> {
        let kick: Arc<Kick> = Arc::clone(&self.kick);
        kick
    }

    fn mask(&self) -> Option<Arc<dyn GuestMask>> {
        // A call that traps comes to us in any case.
        if self.kick.machine.calls == Calls::Trapped {
            return None;
        }
        Some(Arc::new(StubMask { machine: Arc::clone(&self.kick.machine), slab: self.kick.slab }))
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Drop for SystrapContext {
    fn drop(&mut self) {
        self.kick.sleep();
        if let Some(mut thread) = self.thread.take() {
            thread.renew();
            self.stub.park(thread, self.kick.kicked());
        }
    }
}
