//! The state word of a thread's shared line: who has the thread, and who sleeps. Free of the host, so that loom can run
//! it (`tests/loom.rs`).
//!
//! ```text
//! APP_SLEEPING  guest code runs, the kernel thread sleeps      REQ_SPINNING  a request, the stub looks at the word
//! APP_SPINNING  guest code runs, the kernel thread looks       REQ_BLOCKED   a request, the stub blocks or soon will
//!
//!             stub: post (CAS)                          kernel: answer (CAS)
//! APP_SPINNING ───────────────> REQ_SPINNING ─────────────────────────────────> APP_*
//!      │ kernel: give_up (CAS)        │ stub: enough, or kernel: rest (CAS)
//!      ▼                              ▼
//! APP_SLEEPING ───────────────> REQ_BLOCKED ──────────────────────────────────> APP_*
//!             stub: post (store, then it        kernel: has the stub's wake-up in hand, stores, wakes
//!                   wakes the kernel and blocks)
//! ```
//! Each transition that two sides may race for is a CAS, so nothing is lost and nobody needs a timeout: the loser finds
//! what the winner wrote, and does what that asks for. A side that blocks has said so in the word before.
//!
//! A kick may wake a blocked stub early. It looks at the word again and blocks again while that says `REQ_*`; so a wake-up
//! that finds `APP_*` may meet a stub that has gone on already, and the kernel, when it next finds the stub blocked with the
//! word at `APP_*`, wakes it once more.
//!
//! A stub may die at any point, and a futex tells nobody. So one who watches for that marks the process dead, then writes
//! [`GONE`] and wakes ([`bury`]); the kernel thread, before it sleeps, looks for the mark and then at the word
//! ([`sleep`]). Its own last answer may have gone over [`GONE`]: then it sees the mark, by the fences between.
//!
//! The word lies in memory that guest code can write. A forged value makes one side wait for the other until a kick ends
//! it, or read registers that mean nothing; both are that process's own loss.

/// Guest code runs, or the stub is on its way there; the kernel thread sleeps.
pub const APP_SLEEPING: u32 = 0;
/// As [`APP_SLEEPING`], but the kernel thread watches the word.
pub const APP_SPINNING: u32 = 1;
/// The stub has handed over and watches the word.
pub const REQ_SPINNING: u32 = 2;
/// The stub has handed over and sleeps, or is about to.
pub const REQ_BLOCKED: u32 = 3;

/// The stub is dead. Written by the kernel; from a stub it is as impossible as any other value.
pub const GONE: u32 = u32::MAX;

/// The word. Loads acquire, stores release; each pairs with the other side's.
pub trait Word {
    /// Its value.
    fn load(&self) -> u32;
    /// Replaces `old` by `new`, or says what is there.
    fn cas(&self, old: u32, new: u32) -> Result<(), u32>;
    /// Sets it.
    fn store(&self, value: u32);
}

/// What the word says to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// The stub has the thread.
    App,
    /// A request.
    Request,
    /// No value of ours.
    Impossible,
}

/// Reads a value of the word.
pub fn seen(value: u32) -> Seen {
    match value {
        APP_SLEEPING | APP_SPINNING => Seen::App,
        REQ_SPINNING | REQ_BLOCKED => Seen::Request,
        _ => Seen::Impossible,
    }
}

/// How the kernel thread will wait for the next request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Asleep.
    Sleep,
    /// Watching the word.
    Spin,
}

impl Wait {
    fn app(self) -> u32 {
        match self {
            Self::Sleep => APP_SLEEPING,
            Self::Spin => APP_SPINNING,
        }
    }
}

/// Answers a stub that watches the word. `false`: it does not any more, and must be woken: [`release`].
pub fn answer<W: Word>(word: &W, wait: Wait) -> bool {
    word.cas(REQ_SPINNING, wait.app()).is_ok()
}

/// Answers a stub that blocks; the caller wakes it then.
pub fn release<W: Word>(word: &W, wait: Wait) {
    word.store(wait.app());
}

/// The kernel thread stops watching. [`Seen::App`]: it may sleep, the stub will wake it; else there is a request.
pub fn give_up<W: Word>(word: &W) -> Seen {
    match word.cas(APP_SPINNING, APP_SLEEPING) {
        Ok(()) => Seen::App,
        Err(value) => seen(value),
    }
}

/// No answer will come soon: a stub that watches the word had better sleep.
pub fn rest<W: Word>(word: &W) {
    // Whoever is not there is asleep already.
    let _ = word.cas(REQ_SPINNING, REQ_BLOCKED);
}

/// A word to sleep at: futex(2).
pub trait Futex: Word {
    /// Orders what is before it and what is after it, in one order for all (SeqCst).
    fn fence(&self);
    /// Whether the stub's process was marked dead.
    fn is_dead(&self) -> bool;
    /// Sleeps while the word is `value`, or shorter.
    fn wait(&self, value: u32);
    /// Wakes whoever sleeps there.
    fn wake(&self);
}

/// The kernel thread sleeps until there is a request. `None`: the stub is dead.
pub fn sleep<F: Futex>(word: &F) -> Option<Seen> {
    loop {
        // Pairs with the fence of `bury`: either we see the mark, or our last answer is older than GONE.
        word.fence();
        let dead = word.is_dead();
        let value = word.load();
        match seen(value) {
            Seen::App if dead => return None,
            Seen::App => word.wait(value),
            Seen::Impossible if word.is_dead() => return None,
            seen => return Some(seen),
        }
    }
}

/// Tells the kernel thread that the stub, already marked, is dead.
pub fn bury<F: Futex>(word: &F) {
    // Pairs with the fence of `sleep`.
    word.fence();
    word.store(GONE);
    word.wake();
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{APP_SLEEPING, APP_SPINNING, REQ_BLOCKED, REQ_SPINNING, Seen, Wait, Word};

    impl Word for Cell<u32> {
        fn load(&self) -> u32 {
            self.get()
        }
        fn cas(&self, old: u32, new: u32) -> Result<(), u32> {
            if self.get() != old {
                return Err(self.get());
            }
            self.set(new);
            Ok(())
        }
        fn store(&self, value: u32) {
            self.set(value);
        }
    }

    #[test]
    fn answers_reach_the_stub_that_watches() {
        for (wait, app) in [(Wait::Sleep, APP_SLEEPING), (Wait::Spin, APP_SPINNING)] {
            let word = Cell::new(REQ_SPINNING);
            assert!(super::answer(&word, wait));
            assert_eq!(word.get(), app);
            let word = Cell::new(REQ_BLOCKED);
            assert!(!super::answer(&word, wait));
            super::release(&word, wait);
            assert_eq!(word.get(), app);
        }
    }

    #[test]
    fn giving_up_finds_the_request_that_came_meanwhile() {
        for (value, expected, left) in [
            (APP_SPINNING, Seen::App, APP_SLEEPING),
            (REQ_SPINNING, Seen::Request, REQ_SPINNING),
            (REQ_BLOCKED, Seen::Request, REQ_BLOCKED),
            (77, Seen::Impossible, 77),
        ] {
            let word = Cell::new(value);
            assert_eq!(super::give_up(&word), expected);
            assert_eq!(word.get(), left);
        }
    }

    #[test]
    fn a_hint_to_sleep_is_for_stubs_that_watch() {
        for (value, left) in
            [(REQ_SPINNING, REQ_BLOCKED), (REQ_BLOCKED, REQ_BLOCKED), (APP_SLEEPING, APP_SLEEPING), (9, 9)]
        {
            let word = Cell::new(value);
            super::rest(&word);
            assert_eq!(word.get(), left);
        }
    }
}
