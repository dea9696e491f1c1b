//! The word that decides whether an interrupt is outstanding, free of the host, so that loom can run it (`tests/loom.rs`).
//!
//! ```text
//! IDLE ──switch──> RUNNING ──thread handed over──> IDLE
//!   └──interrupt──> IDLE|PENDING        └──interrupt: kick──> RUNNING|PENDING ──> IDLE|PENDING
//! ```
//! `switch` consumes PENDING: it returns `Interrupted` without running anything, or, when a kick ended the run, at its end.
//! A kick is sent only by the interrupt that sets PENDING in RUNNING, so at most one per run. It may be late and hit a
//! later run: the handler never drops a kick on the way to guest code, so the stub hands over again, and `switch` finds
//! PENDING clear and just continues.

/// No guest code runs.
pub const IDLE: u32 = 0;
/// Guest code runs, or the stub is on its way there or back.
pub const RUNNING: u32 = 1;
/// An interrupt has not been reported yet.
pub const PENDING: u32 = 2;

/// The word; all operations acquire and release, and pair with each other.
pub trait Word {
    /// Replaces `old` by `new`; whether it was `old`.
    fn cas(&self, old: u32, new: u32) -> bool;
    /// Sets `bits`; the word before.
    fn set(&self, bits: u32) -> u32;
    /// Clears `bits`; the word before.
    fn clear(&self, bits: u32) -> u32;
}

/// Before guest code runs. `false`: an interrupt was pending, and is consumed.
pub fn begin<W: Word>(word: &W) -> bool {
    let begun = word.cas(IDLE, RUNNING);
    if !begun {
        word.clear(PENDING);
    }
    begun
}

/// Guest code has stopped. Keeps a pending interrupt.
pub fn end<W: Word>(word: &W) {
    word.clear(RUNNING);
}

/// Takes a pending interrupt, after a kick has ended a run.
pub fn consume<W: Word>(word: &W) -> bool {
    word.clear(PENDING) & PENDING != 0
}

/// Notes an interrupt. `true`: the caller must kick the thread.
pub fn interrupt<W: Word>(word: &W) -> bool {
    word.set(PENDING) == RUNNING
}
