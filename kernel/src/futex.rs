//! Futexes, futex(2), futex(7): sleeping until another thread says that a word may have changed.
//!
//! Waiters stand in hash buckets by the identity of their word ([`mm::FutexKey`]): [`waiter::sleepers`], which loom runs. Here
//! is what Linux's calls make of it.
//!
//! **Locks.** A bucket's lock is held over the one read of the word, which takes mm's lock inside it. Sleepers are woken
//! without locks.

mod pi;
mod requeue;

use std::collections::hash_map::RandomState;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::futex::{
    FUTEX_BITSET_MATCH_ANY, FUTEX_OP_ADD, FUTEX_OP_ANDN, FUTEX_OP_CMP_EQ, FUTEX_OP_CMP_GE, FUTEX_OP_CMP_GT,
    FUTEX_OP_CMP_LE, FUTEX_OP_CMP_LT, FUTEX_OP_CMP_NE, FUTEX_OP_OPARG_SHIFT, FUTEX_OP_OR, FUTEX_OP_SET, FUTEX_OP_XOR,
    FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS, ROBUST_LIST_LIMIT, RobustListHead,
};
use mm::{FutexKey, Mm};
use smallvec::SmallVec;
use usermem::Addr;
use usermem::ptr::{UserMemory, UserPtr};
use waiter::sleepers::{self, Fit, Sleepers, Unfit};
use waiter::{EventMask, Waiter};

use crate::error::{Restart, RestartBlock, SysErr, SysResult};
use crate::ids::Tid;
use crate::lock::FUTEX;
use crate::task::{Blocked, Task};

pub use mm::Sharing;

use pi::PiWait;
use requeue::Proxy;

/// Number of buckets; a power of two.
const BUCKETS: usize = 256;

/// One that sleeps on a word.
type Sleeper = sleepers::Sleeper<FutexKey, Sleeping>;

/// Sleepers whose words have one hash.
type Bucket = sleepers::Bucket<FutexKey, Sleeping>;

/// What is known of a sleeper besides its word.
struct Sleeping {
    bitset: u32,
    who: Arc<dyn Waiter>,
    /// It waits for the word's owner, not for a wake.
    pi: Option<PiWait>,
    /// It waits to be moved to a word with an owner, not for a wake.
    proxy: Option<Proxy>,
}

impl Sleeping {
    /// Whether a wake or a move of those with a bit of `bitset` is meant for it.
    fn fits(&self, bitset: u32) -> Fit {
        if self.pi.is_some() || self.proxy.is_some() {
            return Fit::Unfit;
        }
        if self.bitset & bitset == 0 { Fit::No } else { Fit::Yes }
    }
}

/// Those to wake once the locks are gone.
type Woken = SmallVec<[Arc<Sleeper>; 4]>;

fn wake_all(woken: &Woken) {
    for sleeper in woken {
        sleeper.who.wake(EventMask::empty());
    }
}

/// Everyone who sleeps on a futex of this kernel.
pub struct FutexTable {
    sleepers: Sleepers<FutexKey, Sleeping>,
}

/// What a waiter waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitRequest {
    /// The word.
    pub addr: Addr,
    /// `FUTEX_PRIVATE_FLAG` or not.
    pub sharing: Sharing,
    /// The value that it must have.
    pub value: u32,
    /// Which wakes count (`FUTEX_WAIT_BITSET`); never 0.
    pub bitset: u32,
    /// When to give up, on the monotonic clock.
    pub deadline: Deadline,
}

/// How a deadline was given, which decides how the wait goes on after a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// None.
    Never,
    /// As an absolute time: the call is simply repeated.
    Absolute(u64),
    /// As a span, which ends then: the rest is waited for by `restart_syscall`.
    Relative(u64),
}

impl Deadline {
    /// On the monotonic clock; `None` is never.
    pub fn ns(self) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::Absolute(ns) | Self::Relative(ns) => Some(ns),
        }
    }
}

/// Whether a requeue looks at the first word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compare {
    /// `FUTEX_CMP_REQUEUE`: it must have this value, else `EAGAIN`.
    Value(u32),
    /// `FUTEX_REQUEUE`.
    No,
}

/// A word by address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// Where it is.
    pub addr: Addr,
    /// `FUTEX_PRIVATE_FLAG` or not.
    pub sharing: Sharing,
}

impl Word {
    fn key(self, mm: &Mm) -> Result<FutexKey, Errno> {
        if !self.addr.0.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        mm.futex_key(self.addr, self.sharing)
    }
}

impl FutexTable {
    /// Nobody sleeps.
    pub fn new() -> Self {
        Self { sleepers: Sleepers::new(BUCKETS, FUTEX, RandomState::new()) }
    }

    /// Wakes at most `count` of those who sleep on `word` with a bit of `bitset`; says how many. `EINVAL` at one that waits
    /// for the word's owner.
    pub fn wake(&self, mm: &Mm, word: Word, count: u32, bitset: u32) -> Result<u32, Errno> {
        if bitset == 0 {
            return Err(Errno::EINVAL);
        }
        self.wake_key(word.key(mm)?, count, bitset)
    }

    fn wake_key(&self, key: FutexKey, count: u32, bitset: u32) -> Result<u32, Errno> {
        let mut woken = Woken::new();
        let fits = |sleeping: &Sleeping| sleeping.fits(bitset);
        let taken = sleepers::wake(&mut self.sleepers.lock(key), key, count, fits, &mut woken);
        wake_all(&woken);
        let count = u32::try_from(woken.len()).unwrap_or(u32::MAX);
        taken.map(|()| count).map_err(unfit)
    }

    /// Wakes at most `wake` of those on `from` and moves at most `moved` others to `to`; says how many in both ways.
    pub fn requeue(
        &self,
        mm: &Mm,
        from: Word,
        to: Word,
        wake: u32,
        moved: u32,
        compare: Compare,
    ) -> Result<u32, Errno> {
        let (from_key, to_key) = (from.key(mm)?, to.key(mm)?);
        let (mut woken, mut count) = (Woken::new(), 0);
        let fits = |sleeping: &Sleeping| sleeping.fits(FUTEX_BITSET_MATCH_ANY);
        let taken = self.sleepers.with_both(from_key, to_key, |source, target| {
            if let Compare::Value(expected) = compare
                && mm.load_u32(from.addr)? != expected
            {
                return Err(Errno::EAGAIN);
            }
            sleepers::wake(source, from_key, wake, fits, &mut woken).map_err(unfit)?;
            if from_key == to_key {
                return Ok(());
            }
            let (gone, all_fit) = sleepers::requeue(source, target, (from_key, to_key), moved, fits);
            count = gone;
            all_fit.map_err(unfit)
        });
        wake_all(&woken);
        taken.map(|()| count.saturating_add(u32::try_from(woken.len()).unwrap_or(u32::MAX)))
    }

    /// `FUTEX_WAKE_OP`: changes `second` as `operation` says, wakes `wake` on `first`, and `wake_second` on `second` if its
    /// old value compares as `operation` says.
    pub fn wake_op(
        &self,
        mm: &Mm,
        first: Word,
        second: Word,
        wake: u32,
        wake_second: u32,
        operation: u32,
    ) -> Result<u32, Errno> {
        let (first_key, second_key) = (first.key(mm)?, second.key(mm)?);
        let operation = Operation::decode(operation)?;
        let old = mm.fetch_update_u32(second.addr, &|word| operation.apply(word))?;
        let mut count = self.wake_key(first_key, wake, FUTEX_BITSET_MATCH_ANY)?;
        if operation.holds(old) {
            count = count.saturating_add(self.wake_key(second_key, wake_second, FUTEX_BITSET_MATCH_ANY)?);
        }
        Ok(count)
    }

    /// Puts a sleeper into the bucket of `word` if that has `value`; `EAGAIN` if not.
    fn enqueue(
        &self,
        mm: &Mm,
        word: Word,
        value: u32,
        bitset: u32,
        who: Arc<dyn Waiter>,
    ) -> Result<Arc<Sleeper>, Errno> {
        self.enqueue_as(mm, word, value, bitset, who, None)
    }

    /// As [`Self::enqueue`], of one that waits to be moved if it has a `proxy`.
    fn enqueue_as(
        &self,
        mm: &Mm,
        word: Word,
        value: u32,
        bitset: u32,
        who: Arc<dyn Waiter>,
        proxy: Option<Proxy>,
    ) -> Result<Arc<Sleeper>, Errno> {
        let key = word.key(mm)?;
        let sleeper = Sleeper::new(key, Sleeping { bitset, who, pi: None, proxy });
        let check = || if mm.load_u32(word.addr)? == value { Ok(()) } else { Err(Errno::EAGAIN) };
        self.sleepers.enter(key, &sleeper, check)?;
        Ok(sleeper)
    }

    /// Takes a sleeper out; says whether it had been woken before.
    fn leave(&self, sleeper: &Arc<Sleeper>) -> bool {
        self.sleepers.leave(sleeper)
    }
}

impl Default for FutexTable {
    fn default() -> Self {
        Self::new()
    }
}

/// What is said of a sleeper that waits for something else than the call is about.
fn unfit(_: Unfit) -> Errno {
    Errno::EINVAL
}

/// What `FUTEX_WAKE_OP` does to the second word and asks of its old value.
struct Operation {
    op: u32,
    argument: u32,
    compare: u32,
    compared: u32,
}

impl Operation {
    fn decode(raw: u32) -> Result<Self, Errno> {
        // Two fields of twelve bits with a sign.
        let signed = |field: u32| ((field << 20).cast_signed() >> 20).cast_unsigned();
        let (op, compare) = (raw >> 28, raw >> 24 & 0xf);
        let mut argument = signed(raw >> 12 & 0xfff);
        if op & FUTEX_OP_OPARG_SHIFT != 0 {
            // Linux takes the argument modulo 32, with a complaint.
            argument = 1 << (argument & 31);
        }
        let op = op & !FUTEX_OP_OPARG_SHIFT;
        let known = [FUTEX_OP_SET, FUTEX_OP_ADD, FUTEX_OP_OR, FUTEX_OP_ANDN, FUTEX_OP_XOR].contains(&op);
        if !known || compare > FUTEX_OP_CMP_GE {
            return Err(Errno::ENOSYS);
        }
        Ok(Self { op, argument, compare, compared: signed(raw & 0xfff) })
    }

    fn apply(&self, word: u32) -> u32 {
        match self.op {
            FUTEX_OP_SET => self.argument,
            FUTEX_OP_ADD => word.wrapping_add(self.argument),
            FUTEX_OP_OR => word | self.argument,
            FUTEX_OP_ANDN => word & !self.argument,
            _ => word ^ self.argument,
        }
    }

    fn holds(&self, old: u32) -> bool {
        let (old, with) = (old.cast_signed(), self.compared.cast_signed());
        match self.compare {
            FUTEX_OP_CMP_EQ => old == with,
            FUTEX_OP_CMP_NE => old != with,
            FUTEX_OP_CMP_LT => old < with,
            FUTEX_OP_CMP_LE => old <= with,
            FUTEX_OP_CMP_GT => old > with,
            _ => old >= with,
        }
    }
}

impl Task {
    /// `FUTEX_WAIT`, `FUTEX_WAIT_BITSET`.
    pub fn futex_wait(&mut self, request: WaitRequest) -> SysResult<()> {
        let WaitRequest { addr, sharing, value, bitset, deadline } = request;
        if bitset == 0 {
            return Err(Errno::EINVAL.into());
        }
        let kernel = Arc::clone(self.kernel());
        let word = Word { addr, sharing };
        let sleeper = kernel.futexes().enqueue(self.mm(), word, value, bitset, self.waiter())?;
        loop {
            if sleeper.is_woken() {
                return Ok(());
            }
            let Err(blocked) = self.sleep(deadline.ns()) else { continue };
            if kernel.futexes().leave(&sleeper) {
                return Ok(());
            }
            return Err(match (blocked, deadline) {
                (Blocked::TimedOut, _) => Errno::ETIMEDOUT.into(),
                (Blocked::Interrupted, Deadline::Relative(deadline_ns)) => {
                    let block = RestartBlock::Futex { addr, shared: sharing, value, bitset, deadline_ns };
                    SysErr::Restart(Restart::Block(block))
                }
                (Blocked::Interrupted, _) => SysErr::Restart(Restart::Sys),
            });
        }
    }

    /// `futex_waitv(2)`: waits on several words; says which was woken.
    pub fn futex_wait_any(&mut self, words: &[(Word, u32)], deadline_ns: Option<u64>) -> SysResult<usize> {
        let kernel = Arc::clone(self.kernel());
        let mut sleepers: SmallVec<[Arc<Sleeper>; 8]> = SmallVec::new();
        for &(word, value) in words {
            let waiter = self.waiter();
            match kernel.futexes().enqueue(self.mm(), word, value, FUTEX_BITSET_MATCH_ANY, waiter) {
                Ok(sleeper) => sleepers.push(sleeper),
                Err(error) => return leave_all(kernel.futexes(), &sleepers).ok_or(error.into()),
            }
        }
        loop {
            if sleepers.iter().any(|sleeper| sleeper.is_woken()) {
                return leave_all(kernel.futexes(), &sleepers).ok_or(Errno::EAGAIN.into());
            }
            let Err(blocked) = self.sleep(deadline_ns) else { continue };
            return leave_all(kernel.futexes(), &sleepers).ok_or(match blocked {
                Blocked::TimedOut => Errno::ETIMEDOUT.into(),
                Blocked::Interrupted => SysErr::Restart(Restart::Sys),
            });
        }
    }

    /// At the end of a thread: releases the robust futexes that it holds (get_robust_list(2)). Bounded, and an unreadable
    /// list ends it.
    pub(crate) fn release_robust_list(&mut self) {
        let kernel = Arc::clone(self.kernel());
        let head = self.thread().robust_list.swap(0, Ordering::Relaxed);
        if head != 0 {
            let _ = walk_robust_list(kernel.futexes(), self.mm(), Addr(head), self.tid());
        }
        if self.thread().contended.swap(false, Ordering::SeqCst) {
            kernel.futexes().owner_ends(self.tid());
        }
    }
}

/// Takes every sleeper out; the first that had been woken, if any.
fn leave_all(table: &FutexTable, sleepers: &[Arc<Sleeper>]) -> Option<usize> {
    let mut first = None;
    for (at, sleeper) in sleepers.iter().enumerate() {
        if table.leave(sleeper) && first.is_none() {
            first = Some(at);
        }
    }
    first
}

fn walk_robust_list(table: &FutexTable, mm: &Mm, at: Addr, tid: Tid) -> Result<(), Errno> {
    let head: RobustListHead = UserPtr::new(at).read(mm)?;
    let word = |entry: u64| Addr((entry & !1).wrapping_add_signed(head.futex_offset));
    let pending = head.list_op_pending;
    let mut entry = head.list;
    for _ in 0..ROBUST_LIST_LIMIT {
        if entry & !1 == at.0 || entry & !1 == 0 {
            break;
        }
        // The next is read first: a released word may be freed by its new owner.
        let next: Result<u64, Errno> = UserPtr::new(Addr(entry & !1)).read(mm);
        if entry & !1 != pending & !1 {
            release_dead(table, mm, word(entry), tid, Kind::of(entry))?;
        }
        entry = next?;
    }
    if pending & !1 == 0 {
        return Ok(());
    }
    let kind = Kind::of(pending);
    if kind == Kind::Plain && mm.load_u32(word(pending))? & FUTEX_TID_MASK == 0 {
        // It died after it gave the word back and before it woke the next, or woken and before it took the word.
        let word = Word { addr: word(pending), sharing: Sharing::Shared };
        table.wake(mm, word, 1, FUTEX_BITSET_MATCH_ANY)?;
        return Ok(());
    }
    release_dead(table, mm, word(pending), tid, kind)
}

/// What an entry of a robust list says of its word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Its waiters wait for its owner: [`FutexTable::owner_ends`] is theirs.
    Owned,
}

impl Kind {
    fn of(entry: u64) -> Self {
        if entry & 1 == 0 { Self::Plain } else { Self::Owned }
    }
}

/// Marks the word as its owner's who died, and wakes one who waits for it.
fn release_dead(table: &FutexTable, mm: &Mm, addr: Addr, tid: Tid, kind: Kind) -> Result<(), Errno> {
    if !addr.0.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let mut old = mm.load_u32(addr)?;
    // A guest that changes the word all the time only keeps its own exit busy: a bounded number of tries.
    for _ in 0..1024 {
        if old & FUTEX_TID_MASK != tid.0 & FUTEX_TID_MASK {
            return Ok(());
        }
        match mm.cmpxchg_u32(addr, old, old & FUTEX_WAITERS | FUTEX_OWNER_DIED)? {
            Ok(_) => break,
            Err(now) => old = now,
        }
    }
    if kind == Kind::Plain && old & FUTEX_WAITERS != 0 {
        // Waiters of another kind are no reason to leave the rest of the list.
        let _ = table.wake(mm, Word { addr, sharing: Sharing::Shared }, 1, FUTEX_BITSET_MATCH_ANY);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Operation;

    fn encode(op: u32, argument: u32, compare: u32, compared: u32) -> u32 {
        op << 28 | compare << 24 | (argument & 0xfff) << 12 | compared & 0xfff
    }

    #[test]
    fn operations_change_and_compare() {
        let add = Operation::decode(encode(1, 5, 4, 7)).unwrap();
        assert_eq!((add.apply(10), add.holds(8), add.holds(7)), (15, true, false));
        let shifted = Operation::decode(encode(8 | 2, 4, 0, 0)).unwrap();
        assert_eq!(shifted.apply(1), 17);
        let negative = Operation::decode(encode(0, 0xfff, 2, 0xffe)).unwrap();
        assert_eq!((negative.apply(3), negative.holds(u32::MAX - 5), negative.holds(0)), (u32::MAX, true, false));
        assert!(Operation::decode(encode(6, 0, 0, 0)).is_err());
        assert!(Operation::decode(encode(0, 0, 9, 0)).is_err());
    }
}
