//! Epochs: readers pin, and what was retired before waits for all pins that might still see it.
//!
//! One domain per process. Each thread has a slot of its own; pinning writes the current epoch there. Retiring returns
//! the epoch that was current and advances it. What was retired at `r` may be reused once [`Retired::is_past`] says that
//! no pin of epoch `r` or older is left.
//!
//! ```text
//!   reader                               freer
//!   slot := EPOCH, fence                 remove the translation
//!   look the translation up              r := EPOCH++          (SeqCst)
//!   use the memory                       fence, read all slots
//!   slot := 0          (Release)         reuse if every slot is 0 or > r
//! ```
//! A reader that saw the translation wrote its slot before, and took its epoch before the freer's increment: the freer
//! sees the slot, and `slot <= r`. A pin is a thread's, so [`Pin`] is neither `Send` nor kept across a sleep.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// The algorithm, over a trait for its words, so that loom can run it (`tests/loom.rs`).
pub mod protocol {
    /// A shared 64-bit word.
    pub trait Word {
        /// Loads, sequentially consistent.
        fn load(&self) -> u64;
        /// Stores with release.
        fn store(&self, value: u64);
        /// Adds 1, sequentially consistent; gives what was there.
        fn increment(&self) -> u64;
        /// A sequentially consistent fence.
        fn fence();
    }

    /// Pins the current epoch in the thread's slot.
    #[inline]
    pub fn pin<W: Word>(epoch: &W, slot: &W) {
        slot.store(epoch.load());
        // The slot is written before any translation is read; partner of the fence in `oldest`.
        W::fence();
    }

    /// Ends a pin. The uses under it come before.
    #[inline]
    pub fn unpin<W: Word>(slot: &W) {
        slot.store(0);
    }

    /// Retires what was removed before the call.
    pub fn retire<W: Word>(epoch: &W) -> u64 {
        epoch.increment()
    }

    /// The oldest epoch in any of `slots`; `u64::MAX` when none is pinned.
    pub fn oldest<'a, W: Word + 'a>(slots: impl Iterator<Item = &'a W>) -> u64 {
        // Removals come before the slots are read; partner of the fence in `pin`.
        W::fence();
        slots.map(W::load).filter(|&pinned| pinned != 0).min().unwrap_or(u64::MAX)
    }

    /// Whether what was retired at `retired` is out of sight, given an `oldest` taken afterwards.
    pub const fn is_past(retired: u64, oldest: u64) -> bool {
        retired < oldest
    }
}

impl protocol::Word for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        // SeqCst, here and below: see the diagram at the module's head.
        AtomicU64::load(self, Ordering::SeqCst)
    }
    #[inline]
    fn store(&self, value: u64) {
        // Release would do where the fence follows or a pin ends; pairs with the loads in `oldest`.
        AtomicU64::store(self, value, Ordering::Release);
    }
    fn increment(&self) -> u64 {
        self.fetch_add(1, Ordering::SeqCst)
    }
    #[inline]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

const BLOCK_SLOTS: usize = 256;
const BLOCKS: usize = 1024;

/// A thread's slot, alone on its cache lines.
#[repr(align(128))]
struct Slot {
    /// 0, or the epoch at which the thread pinned.
    pinned: AtomicU64,
    /// Whether a live thread owns the slot.
    taken: AtomicBool,
}

struct Domain {
    /// Starts at 1, so that 0 can mean "not pinned".
    epoch: AtomicU64,
    blocks: [OnceLock<Box<[Slot]>>; BLOCKS],
    /// Blocks that may hold taken slots.
    used_blocks: AtomicUsize,
}

static DOMAIN: Domain =
    Domain { epoch: AtomicU64::new(1), blocks: [const { OnceLock::new() }; BLOCKS], used_blocks: AtomicUsize::new(0) };

fn new_block() -> Box<[Slot]> {
    (0..BLOCK_SLOTS).map(|_| Slot { pinned: AtomicU64::new(0), taken: AtomicBool::new(false) }).collect()
}

/// The calling thread's slot; freed when the thread ends.
struct Mine {
    slot: &'static Slot,
    depth: Cell<usize>,
}

impl Mine {
    fn take() -> Self {
        for (index, block) in DOMAIN.blocks.iter().enumerate() {
            let block = block.get_or_init(new_block);
            // Before any slot of the block is taken, so that a scan that could need it sees the block. Pairs with the
            // load in `horizon`.
            DOMAIN.used_blocks.fetch_max(index + 1, Ordering::SeqCst);
            for slot in block {
                // Acquire pairs with the release in `Drop`: the slot's last pin is over.
                if slot.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Self { slot, depth: Cell::new(0) };
                }
            }
        }
        panic!("more than {} threads pin memory", BLOCKS * BLOCK_SLOTS);
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        self.slot.pinned.store(0, Ordering::Release);
        self.slot.taken.store(false, Ordering::Release);
    }
}

thread_local! {
    static MINE: Mine = Mine::take();
}

/// While it lives, nothing retired after its creation counts as past. Cheap; nests; a thread's own.
#[derive(Debug)]
pub struct Pin {
    _not_send: PhantomData<*const ()>,
}

/// Pins the current epoch for this thread.
#[inline]
pub fn pin() -> Pin {
    MINE.with(|mine| {
        let depth = mine.depth.get();
        if depth == 0 {
            protocol::pin(&DOMAIN.epoch, &mine.slot.pinned);
        }
        mine.depth.set(depth + 1);
    });
    Pin { _not_send: PhantomData }
}

impl Drop for Pin {
    #[inline]
    fn drop(&mut self) {
        // A thread that is ending has given its slot back already.
        let _ = MINE.try_with(|mine| {
            let depth = mine.depth.get() - 1;
            mine.depth.set(depth);
            if depth == 0 {
                protocol::unpin(&mine.slot.pinned);
            }
        });
    }
}

/// When something was retired.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Retired(u64);

/// Marks the present as the moment of a retirement: what was removed before this call can be seen only by pins that are
/// not younger.
pub fn retire() -> Retired {
    Retired(protocol::retire(&DOMAIN.epoch))
}

/// The oldest pin of the process; `u64::MAX` when there is none.
#[derive(Clone, Copy, Debug)]
pub struct Horizon(u64);

/// Looks at all pins once. Good for any number of [`Retired::is_past`] questions about retirements made before.
pub fn horizon() -> Horizon {
    let blocks = DOMAIN.blocks.iter().take(DOMAIN.used_blocks.load(Ordering::SeqCst));
    let slots = blocks.filter_map(OnceLock::get).flatten();
    Horizon(protocol::oldest(slots.map(|slot| &slot.pinned)))
}

impl Retired {
    /// Whether no pin that existed at the retirement was left when `horizon` was taken (after the retirement).
    pub const fn is_past(self, horizon: Horizon) -> bool {
        protocol::is_past(self.0, horizon.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::{horizon, pin, retire};

    /// The domain is the process's: tests that assert on the horizon run one by one.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn a_pin_holds_back_what_is_retired_after_it() {
        let _alone = ALONE.lock().unwrap();
        let before = retire();
        let outer = pin();
        let inner = pin();
        let during = retire();
        assert!(before.is_past(horizon()));
        drop(outer);
        assert!(!during.is_past(horizon()), "nested pin still holds");
        drop(inner);
        assert!(during.is_past(horizon()));
    }

    #[test]
    fn other_threads_pins_count_until_they_end() {
        let _alone = ALONE.lock().unwrap();
        let (pinned_tx, pinned_rx) = mpsc::channel();
        let (done_tx, done_rx) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let _pin = pin();
            pinned_tx.send(()).unwrap();
            done_rx.recv().unwrap();
        });
        pinned_rx.recv().unwrap();
        let retired = retire();
        assert!(!retired.is_past(horizon()));
        done_tx.send(()).unwrap();
        thread.join().unwrap();
        assert!(retired.is_past(horizon()));
    }
}
