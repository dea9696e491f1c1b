//! The mask of blocked signals in a thread's slab, and when its stub may change it alone. Free of the host, so that loom can
//! run it (`tests/models/mask.rs`).
//!
//! ```text
//!   stub (assembly, `stub.rs`)              the kernel, under the locks of signals
//!   open? else the ordinary call            queues a signal
//!   mask := new      (xchg: full fence)     open := 0, fence        close
//!   open? else hand over: LOOK              reads mask, chooses, kicks
//! ```
//! As in any Dekker pair one of both sees the other: the kernel reads the new mask and chooses by it, or the stub finds the
//! mask closed and has the kernel look again, with the locks held, at what is pending under the mask as it is then. The
//! change is never taken back, so nobody reads a mask that was not in force. The kernel opens the mask again when nothing
//! is pending that any mask could hold back; that is done under the same locks, so a signal comes before it or closes it.
//!
//! A kick finds the stub before the exchange, and then nothing has happened yet but that the old mask was stored where the
//! guest wants it: it goes back to the `syscall` instruction. Or it finds it behind: then the call is complete, and the kernel
//! is told to look, as if the stub had found the mask closed.
//!
//! Both words are the guest's to write, like the rest of the slab. Who forges them loses or delays signals of that process;
//! SIGKILL and SIGSTOP are nobody's to block, and what ends, stops or pauses a thread does not ask for masks.

/// The two words.
pub trait Words {
    /// Reads the mask.
    fn mask(&self) -> u64;
    /// Says whether the stub may change the mask.
    fn set_open(&self, open: u64);
    /// Orders what is before it and what is after it, in one order for all (SeqCst).
    fn fence(&self);
}

/// The stub may change the mask alone. The caller holds what whoever queues a signal holds.
pub fn open<W: Words>(words: &W) {
    words.set_open(1);
}

/// From here on a change of the mask that is not seen in it comes with a hand-over.
pub fn close<W: Words>(words: &W) {
    words.set_open(0);
    // Pairs with the stub's xchg of the mask, after which it reads `open` again.
    words.fence();
}
