//! Moving waiters to a word that has an owner: FUTEX_WAIT_REQUEUE_PI and FUTEX_CMP_REQUEUE_PI (futex(2)).
//!
//! A waiter says beforehand to which word it may be moved. Whoever moves it either takes that word for it, or queues it up
//! there in its name: what became of it stands in its [`Proxy`], written before it is marked as woken from the first word.
//! Its own thread need not run for that, and wakes once, when the second word is its.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use abi::futex::{FUTEX_BITSET_MATCH_ANY, FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use mm::FutexKey;
use smallvec::SmallVec;
use sync::{LockClass, Mutex};
use usermem::ptr::UserMemory as _;

use super::pi::{Claim, TRIES, change_owner, for_owner, waits_for_owner};
use super::{Bucket, Deadline, FutexTable, Sleeper, Woken, Word, wake_all};
use crate::error::{Restart, SysErr, SysResult};
use crate::ids::Tid;
use crate::task::{Blocked, Task, Thread};

/// What became of one that was moved.
const OUTCOME: LockClass = LockClass::leaf("futex.outcome");

/// What one has besides that waits to be moved.
pub(super) struct Proxy {
    /// To which word it may be moved.
    to: FutexKey,
    thread: Arc<Thread>,
    outcome: Mutex<Option<Outcome>>,
}

/// What became of one that was moved.
#[derive(Clone)]
enum Outcome {
    /// The word is its.
    Owns,
    /// It waits for this owner.
    Waits(Arc<Sleeper>, Arc<Thread>),
}

/// Whom a requeue concerns.
struct Moved {
    sleepers: SmallVec<[Arc<Sleeper>; 8]>,
    /// One that may not be moved came after them.
    unfit: bool,
}

/// Those on `from` that may be moved to `to`, at most `most`.
fn movable(bucket: &Bucket, from: FutexKey, to: FutexKey, most: usize) -> Moved {
    let mut moved = Moved { sleepers: SmallVec::new(), unfit: false };
    for sleeper in bucket.iter().filter(|sleeper| sleeper.is_at(from)) {
        if moved.sleepers.len() >= most {
            break;
        }
        if sleeper.proxy.as_ref().is_none_or(|proxy| proxy.to != to) {
            moved.unfit = true;
            break;
        }
        moved.sleepers.push(Arc::clone(sleeper));
    }
    moved
}

impl FutexTable {
    /// `FUTEX_CMP_REQUEUE_PI`: moves at most one more than `more` from `from`, which has to have the value `expected`, to
    /// `to`; says how many. Errors: `EINVAL`, `EAGAIN`, `EDEADLK`, `ESRCH`.
    pub fn requeue_pi(&self, task: &Task, from: Word, to: Word, more: u32, expected: u32) -> Result<u32, Errno> {
        let mm = task.mm();
        let (from_key, to_key) = (from.key(mm)?, to.key(mm)?);
        if from_key == to_key {
            return Err(Errno::EINVAL);
        }
        let most = usize::try_from(more).unwrap_or(usize::MAX).saturating_add(1);
        for _ in 0..TRIES {
            let seen = mm.load_u32(to.addr)? & FUTEX_TID_MASK;
            // Before the buckets are locked: the tree's lock stands outside.
            let owner = if seen == 0 { None } else { task.kernel().tasks().thread(Tid(seen)) };
            let mut woken = Woken::new();
            let done = self.sleepers.with_both(from_key, to_key, |source, target| {
                if mm.load_u32(from.addr)? != expected {
                    return Err(Errno::EAGAIN);
                }
                let moved = movable(source, from_key, to_key, most);
                let Some(first) = moved.sleepers.first() else {
                    return if moved.unfit { Err(Errno::EINVAL) } else { Ok(Some(0)) };
                };
                let old = mm.load_u32(to.addr)?;
                if old & FUTEX_TID_MASK != seen {
                    return Ok(None);
                }
                let new = match (seen, &owner, &first.proxy) {
                    (0, _, Some(proxy)) => {
                        let there = target.as_deref().unwrap_or(source);
                        let others =
                            moved.sleepers.len() > 1 || there.iter().any(|there| waits_for_owner(there, to_key));
                        let waiters = if others { FUTEX_WAITERS } else { 0 };
                        proxy.thread.tid().0 | waiters | old & FUTEX_OWNER_DIED
                    }
                    (_, Some(_), _) => old | FUTEX_WAITERS,
                    _ => return Err(Errno::ESRCH),
                };
                let own = |sleeper: &Arc<Sleeper>| sleeper.proxy.as_ref().is_some_and(|p| p.thread.tid().0 == seen);
                if moved.sleepers.iter().any(own) {
                    return Err(Errno::EDEADLK);
                }
                if mm.cmpxchg_u32(to.addr, old, new)?.is_err() {
                    return Ok(None);
                }
                move_all(&moved.sleepers, source, target, to_key, owner.as_ref(), &mut woken);
                if moved.unfit { Err(Errno::EINVAL) } else { Ok(Some(moved.sleepers.len())) }
            });
            wake_all(&woken);
            if let Some(count) = done? {
                return Ok(u32::try_from(count).unwrap_or(u32::MAX));
            }
        }
        Err(Errno::EAGAIN)
    }
}

/// Moves `sleepers` to `target`, to wait for `owner`; without one, the first of them becomes it. Who has to look is `woken`.
fn move_all(
    sleepers: &[Arc<Sleeper>],
    source: &mut Bucket,
    target: Option<&mut Bucket>,
    to: FutexKey,
    owner: Option<&Arc<Thread>>,
    woken: &mut Woken,
) {
    source.retain(|sleeper| !sleepers.iter().any(|moved| Arc::ptr_eq(moved, sleeper)));
    let target = target.unwrap_or(source);
    let mut owner = owner.map(Arc::clone);
    for sleeper in sleepers {
        let Some(proxy) = &sleeper.proxy else { continue };
        let outcome = match &owner {
            None => {
                change_owner(target, to, &proxy.thread);
                owner = Some(Arc::clone(&proxy.thread));
                woken.push(Arc::clone(sleeper));
                Outcome::Owns
            }
            Some(owner) => {
                proxy.thread.waits_for.store(owner.tid().0, Ordering::SeqCst);
                let waits = for_owner(to, &proxy.thread, Arc::clone(&sleeper.who));
                owner.contended.store(true, Ordering::SeqCst);
                target.push(Arc::clone(&waits));
                // An owner that ends has looked already, or finds it: see `pi`.
                if owner.is_ending() {
                    woken.push(Arc::clone(sleeper));
                }
                Outcome::Waits(waits, Arc::clone(owner))
            }
        };
        *proxy.outcome.lock() = Some(outcome);
        sleeper.mark();
    }
}

impl Task {
    /// `FUTEX_WAIT_REQUEUE_PI`: waits on `from` while it has `value`, to be moved to `to`. Errors: `EINVAL`, `EAGAIN`,
    /// `ETIMEDOUT`.
    pub fn futex_wait_requeue_pi(&mut self, from: Word, value: u32, to: Word, deadline: Deadline) -> SysResult<()> {
        let waited = self.wait_to_be_moved(from, value, to, deadline);
        self.thread().waits_for.store(0, Ordering::SeqCst);
        waited
    }

    fn wait_to_be_moved(&mut self, from: Word, value: u32, to: Word, deadline: Deadline) -> SysResult<()> {
        let kernel = Arc::clone(self.kernel());
        let to_key = to.key(self.mm())?;
        if from.key(self.mm())? == to_key {
            return Err(Errno::EINVAL.into());
        }
        let proxy = Proxy { to: to_key, thread: Arc::clone(self.thread()), outcome: Mutex::new(OUTCOME, None) };
        let bitset = FUTEX_BITSET_MATCH_ANY;
        let sleeper = kernel.futexes().enqueue_as(self.mm(), from, value, bitset, self.waiter(), Some(proxy))?;
        loop {
            if sleeper.is_woken() {
                let outcome = sleeper.proxy.as_ref().and_then(|proxy| proxy.outcome.lock().clone());
                return match outcome {
                    Some(Outcome::Owns) => Ok(()),
                    Some(Outcome::Waits(waits, owner)) => {
                        // A second attempt would find another value in the first word.
                        let interrupted = Errno::EAGAIN.into();
                        match self.wait_in_line(&waits, &owner, deadline.ns(), interrupted)? {
                            Claim::None => Ok(()),
                            Claim::Heir => self.inherit_word(to, deadline.ns()),
                        }
                    }
                    None => Err(Errno::EAGAIN.into()),
                };
            }
            let Err(blocked) = self.sleep(deadline.ns()) else { continue };
            if kernel.futexes().leave(&sleeper) {
                continue;
            }
            return Err(match blocked {
                Blocked::TimedOut => Errno::ETIMEDOUT.into(),
                Blocked::Interrupted => SysErr::Restart(Restart::NoIntr),
            });
        }
    }
}
