//! Futexes that know their owner: FUTEX_LOCK_PI and its kin (futex(2), "Priority-inheritance futexes").
//!
//! The word holds the owner's thread number, and FUTEX_WAITERS while somebody sleeps. An unlock hands the word to the
//! first who waits; no time passes in which it is free. Priorities are the host's business: waiters come in their order.
//!
//! An owner that ends leaves its waiters as heirs, each of which may take the word over with FUTEX_OWNER_DIED. A waiter
//! that comes while the owner ends either is found by it, or sees that it ends:
//! ```text
//!   waiter                                  owner
//!   contended := true; into the bucket      ending := true
//!   ending? -> heir                         contended? -> wakes all in the buckets who wait for it
//! ```
//! All four steps are SeqCst: one of the two sees the other.
//!
//! Whom a thread waits for stands in `Thread::waits_for`, so that one that would wait for itself is told (`EDEADLK`): it
//! writes its own down, then follows the others'. It is cleared before a word is handed over, so an owner never seems to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::futex::{FUTEX_BITSET_MATCH_ANY, FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use mm::FutexKey;
use usermem::ptr::UserMemory as _;
use waiter::Waiter;

use super::{FutexTable, Sleeper, Sleeping, Woken, Word, wake_all};
use crate::error::{Restart, SysErr, SysResult};
use crate::ids::Tid;
use crate::task::{Blocked, Patience, Task, Thread};

/// Attempts before a word that a guest changes all the time is given up for this time.
pub(super) const TRIES: u32 = 1024;

/// Owners in a row that wait for the next, as far as Linux follows them.
const MAX_CHAIN: u32 = 1024;

/// What a sleeper on such a word has besides.
pub(super) struct PiWait {
    /// Who sleeps.
    thread: Arc<Thread>,
    /// The owner ended. Release/Acquire, as `woken`.
    died: AtomicBool,
}

/// What came of one attempt.
enum Attempt {
    Taken,
    Sleep(Arc<Sleeper>, Arc<Thread>),
    /// The word changed.
    Again,
}

/// Whether the owner that a waiter waited for ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    None,
    Heir,
}

/// One of `thread` that waits for the owner of the word `key`.
pub(super) fn for_owner(key: FutexKey, thread: &Arc<Thread>, who: Arc<dyn Waiter>) -> Arc<Sleeper> {
    let pi = PiWait { thread: Arc::clone(thread), died: AtomicBool::new(false) };
    Sleeper::new(key, Sleeping { bitset: FUTEX_BITSET_MATCH_ANY, who, pi: Some(pi), proxy: None })
}

/// Whether it waits for the owner of the word `key`.
pub(super) fn waits_for_owner(sleeper: &Sleeper, key: FutexKey) -> bool {
    sleeper.pi.is_some() && sleeper.is_at(key)
}

/// Tells those who still wait on `key` who owns the word now.
pub(super) fn change_owner(bucket: &[Arc<Sleeper>], key: FutexKey, owner: &Thread) {
    for pi in bucket.iter().filter(|sleeper| waits_for_owner(sleeper, key)).filter_map(|sleeper| sleeper.pi.as_ref()) {
        pi.thread.waits_for.store(owner.tid().0, Ordering::SeqCst);
        owner.contended.store(true, Ordering::SeqCst);
    }
}

impl FutexTable {
    fn try_lock(&self, task: &Task, word: Word, claim: Claim, patience: Patience) -> Result<Attempt, Errno> {
        let (mm, own) = (task.mm(), task.tid().0);
        let key = word.key(mm)?;
        let seen = mm.load_u32(word.addr)? & FUTEX_TID_MASK;
        // Before the bucket is locked: the tree's lock stands outside.
        let owner = if seen == 0 { None } else { task.kernel().tasks().thread(Tid(seen)) };
        let obstacle = owner.as_ref().filter(|_| patience == Patience::Wait);
        task.thread().waits_for.store(obstacle.map_or(0, |_| seen), Ordering::SeqCst);
        if obstacle.is_some_and(|owner| leads_to(task, owner)) {
            return Err(Errno::EDEADLK);
        }
        let mut bucket = self.sleepers.lock(key);
        let old = mm.load_u32(word.addr)?;
        if old & FUTEX_TID_MASK != seen {
            return Ok(Attempt::Again);
        }
        if seen == own {
            return Err(Errno::EDEADLK);
        }
        let inherits = claim == Claim::Heir && owner.as_ref().is_none_or(|owner| owner.is_ending());
        if seen == 0 || inherits {
            let waiters = bucket.iter().any(|sleeper| waits_for_owner(sleeper, key));
            let mut new = own | old & FUTEX_OWNER_DIED;
            if inherits {
                new |= FUTEX_OWNER_DIED;
            }
            if waiters {
                new |= FUTEX_WAITERS;
            }
            if mm.cmpxchg_u32(word.addr, old, new)?.is_err() {
                return Ok(Attempt::Again);
            }
            change_owner(&bucket, key, task.thread());
            return Ok(Attempt::Taken);
        }
        let owner = owner.ok_or(Errno::ESRCH)?;
        if patience == Patience::None {
            return Err(Errno::EAGAIN);
        }
        if old & FUTEX_WAITERS == 0 && mm.cmpxchg_u32(word.addr, old, old | FUTEX_WAITERS)?.is_err() {
            return Ok(Attempt::Again);
        }
        let sleeper = for_owner(key, task.thread(), task.waiter());
        owner.contended.store(true, Ordering::SeqCst);
        bucket.push(Arc::clone(&sleeper));
        Ok(Attempt::Sleep(sleeper, owner))
    }

    fn unlock(&self, task: &Task, word: Word) -> Result<(), Errno> {
        let mm = task.mm();
        let key = word.key(mm)?;
        let mut woken = Woken::new();
        for _ in 0..TRIES {
            let mut bucket = self.sleepers.lock(key);
            let old = mm.load_u32(word.addr)?;
            if old & FUTEX_TID_MASK != task.tid().0 {
                return Err(Errno::EPERM);
            }
            let mut waiting = bucket.iter().enumerate().filter(|(_, sleeper)| waits_for_owner(sleeper, key));
            let next = waiting.next().map(|(at, sleeper)| (at, Arc::clone(sleeper)));
            let more = if waiting.next().is_some() { FUTEX_WAITERS } else { 0 };
            let heir = next.as_ref().and_then(|(_, sleeper)| sleeper.pi.as_ref()).map(|pi| Arc::clone(&pi.thread));
            let new = heir.as_ref().map_or(0, |heir| heir.tid().0 | more);
            if let Some(heir) = &heir {
                heir.waits_for.store(0, Ordering::SeqCst);
            }
            if mm.cmpxchg_u32(word.addr, old, new)?.is_err() {
                if let Some(heir) = &heir {
                    heir.waits_for.store(task.tid().0, Ordering::SeqCst);
                }
                continue;
            }
            if let (Some((at, sleeper)), Some(heir)) = (next, heir) {
                bucket.remove(at);
                change_owner(&bucket, key, &heir);
                sleeper.mark();
                woken.push(sleeper);
            }
            drop(bucket);
            wake_all(&woken);
            return Ok(());
        }
        Err(Errno::EAGAIN)
    }

    /// Thread `tid` ends: who waits for it may take over.
    pub(super) fn owner_ends(&self, tid: Tid) {
        let mut woken = Woken::new();
        self.sleepers.each(|bucket| {
            bucket.retain(|sleeper| match &sleeper.pi {
                Some(pi) if pi.thread.waits_for.load(Ordering::SeqCst) == tid.0 => {
                    // Release pairs with the Acquire in `futex_lock_pi`.
                    pi.died.store(true, Ordering::Release);
                    woken.push(Arc::clone(sleeper));
                    false
                }
                _ => true,
            });
        });
        wake_all(&woken);
    }
}

/// Whether `owner` waits for the caller, perhaps over others.
fn leads_to(task: &Task, owner: &Arc<Thread>) -> bool {
    let mut at = Arc::clone(owner);
    for _ in 0..MAX_CHAIN {
        match at.waits_for.load(Ordering::SeqCst) {
            0 => return false,
            next if next == task.tid().0 => return true,
            next => match task.kernel().tasks().thread(Tid(next)) {
                Some(thread) => at = thread,
                None => return false,
            },
        }
    }
    true
}

impl Task {
    /// `FUTEX_LOCK_PI`, `FUTEX_LOCK_PI2`, and without patience `FUTEX_TRYLOCK_PI`.
    pub fn futex_lock_pi(&mut self, word: Word, patience: Patience, deadline_ns: Option<u64>) -> SysResult<()> {
        let locked = self.wait_for_owner(word, patience, deadline_ns, Claim::None);
        self.thread().waits_for.store(0, Ordering::SeqCst);
        locked
    }

    /// As [`Self::futex_lock_pi`], of one whose word's owner ended while it waited.
    pub(super) fn inherit_word(&mut self, word: Word, deadline_ns: Option<u64>) -> SysResult<()> {
        self.wait_for_owner(word, Patience::Wait, deadline_ns, Claim::Heir)
    }

    fn wait_for_owner(
        &mut self,
        word: Word,
        patience: Patience,
        deadline_ns: Option<u64>,
        mut claim: Claim,
    ) -> SysResult<()> {
        let kernel = Arc::clone(self.kernel());
        for _ in 0..TRIES {
            let (sleeper, owner) = match kernel.futexes().try_lock(self, word, claim, patience)? {
                Attempt::Taken => return Ok(()),
                Attempt::Again => continue,
                Attempt::Sleep(sleeper, owner) => (sleeper, owner),
            };
            // The word is asked for again, whatever a handler says.
            let interrupted = SysErr::Restart(Restart::NoIntr);
            match self.wait_in_line(&sleeper, &owner, deadline_ns, interrupted)? {
                Claim::None => return Ok(()),
                Claim::Heir => claim = Claim::Heir,
            }
        }
        Err(Errno::EAGAIN.into())
    }

    /// Sleeps until the word is handed over, or its owner ends: then it may be taken over.
    pub(super) fn wait_in_line(
        &mut self,
        sleeper: &Arc<Sleeper>,
        owner: &Arc<Thread>,
        deadline_ns: Option<u64>,
        interrupted: SysErr,
    ) -> SysResult<Claim> {
        let kernel = Arc::clone(self.kernel());
        loop {
            if sleeper.is_woken() {
                return Ok(Claim::None);
            }
            let died = sleeper.pi.as_ref().is_some_and(|pi| pi.died.load(Ordering::Acquire));
            if died || owner.is_ending() {
                if kernel.futexes().leave(sleeper) && !died {
                    // Handed over at the last moment.
                    return if sleeper.is_woken() { Ok(Claim::None) } else { Err(Errno::EAGAIN.into()) };
                }
                return Ok(Claim::Heir);
            }
            let Err(blocked) = self.sleep(deadline_ns) else { continue };
            if kernel.futexes().leave(sleeper) && sleeper.is_woken() {
                return Ok(Claim::None);
            }
            return Err(match blocked {
                Blocked::TimedOut => Errno::ETIMEDOUT.into(),
                Blocked::Interrupted => interrupted,
            });
        }
    }

    /// `FUTEX_UNLOCK_PI`: `EPERM` unless the caller owns it.
    pub fn futex_unlock_pi(&mut self, word: Word) -> Result<(), Errno> {
        self.kernel().futexes().unlock(self, word)
    }
}
