//! What stays cached of directories: names that lead somewhere, and names that do not.
//!
//! Both are bounded, over all directories together. Past the limit the oldest go: of dentries the leaves that nobody uses,
//! with a second chance for those that were found meanwhile; of absent names any.
//!
//! Lock order: neither list's lock is held while a dentry's is taken, or dropped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use sync::Mutex;

use super::{Dentry, Name};
use crate::lockclass;

/// Cached dentries at most; Relaxed: read as a hint.
static LIMIT: AtomicUsize = AtomicUsize::new(32_768);

/// Names at most that are known to be absent: a guest may ask for any number of them, in any number of directories.
pub(super) const MAX_ABSENT: usize = 16_384;

/// Entries past which the list is first swept.
const FIRST_SWEEP: usize = 512;

/// Those that may be cached. An entry holds the memory of its dentry, also of one that is gone, until it leaves.
struct List {
    entries: VecDeque<Weak<Dentry>>,
    /// Length at which it is swept: twice what was left the last time, so that sweeps cost little.
    sweep_at: usize,
}

static LIST: Mutex<List> = Mutex::new(lockclass::DCACHE, List { entries: VecDeque::new(), sweep_at: FIRST_SWEEP });

/// Absent names with their directories, as they came. Each name that a directory knows to be absent is here; one that is
/// here may have come to exist.
static ABSENT: Mutex<VecDeque<(Weak<Dentry>, Name)>> = Mutex::new(lockclass::DCACHE, VecDeque::new());

/// Notes a new dentry and lets others go: now and then those that are of no use, past the limit any that nobody uses.
pub(super) fn inserted(dentry: &Arc<Dentry>) {
    let limit = dentry_cache_limit();
    let mut list = LIST.lock();
    list.entries.push_back(Arc::downgrade(dentry));
    if list.entries.len() >= list.sweep_at {
        // Until it is done, nobody else begins one.
        list.sweep_at = usize::MAX;
        let all = std::mem::take(&mut list.entries);
        drop(list);
        return sweep(all, |dentry| dentry.transient);
    }
    if list.entries.len() <= limit {
        return;
    }
    // A few candidates per insertion keep the list at its limit without a long pause.
    let candidates: Vec<_> = (0..4).filter_map(|_| list.entries.pop_front()).collect();
    drop(list);
    let mut keep = Vec::new();
    for weak in candidates {
        let Some(dentry) = weak.upgrade() else { continue };
        if dentry.used.swap(false, Ordering::Relaxed) || !dentry.evict() {
            if dentry.is_unlinked() {
                continue;
            }
            keep.push(weak);
        }
    }
    LIST.lock().entries.extend(keep);
}

/// Notes that `dir` has no `name`, and forgets the oldest of such names.
pub(super) fn absent(dir: &Arc<Dentry>, name: Name) {
    let oldest = {
        let mut list = ABSENT.lock();
        list.push_back((Arc::downgrade(dir), name));
        if list.len() > MAX_ABSENT { list.pop_front() } else { None }
    };
    forget(oldest);
}

fn forget(absent: impl IntoIterator<Item = (Weak<Dentry>, Name)>) {
    for (dir, name) in absent {
        if let Some(dir) = dir.upgrade() {
            dir.forget_negative(&name);
        }
    }
}

/// Forgets those of `entries` that are gone, and lets those that `may_go` go, unless somebody uses them. The youngest
/// first: a directory's children are younger than it, and keep it.
fn sweep(mut entries: VecDeque<Weak<Dentry>>, may_go: impl Fn(&Dentry) -> bool) {
    let mut kept = VecDeque::new();
    while let Some(weak) = entries.pop_back() {
        if weak.upgrade().is_some_and(|dentry| !(may_go(&dentry) && dentry.evict())) {
            kept.push_front(weak);
        }
    }
    let mut list = LIST.lock();
    kept.append(&mut list.entries);
    list.sweep_at = kept.len().saturating_mul(2).max(FIRST_SWEEP);
    list.entries = kept;
}

/// Forgets all names that nobody uses, those that lead somewhere and those that do not.
pub fn drop_dentry_cache() {
    let absent = std::mem::take(&mut *ABSENT.lock());
    forget(absent);
    let mut list = LIST.lock();
    // As in `inserted`.
    list.sweep_at = usize::MAX;
    let all = std::mem::take(&mut list.entries);
    drop(list);
    sweep(all, |_| true);
}

/// Bounds how many dentries stay cached.
pub fn set_dentry_cache_limit(limit: usize) {
    LIMIT.store(limit, Ordering::Relaxed);
}

/// How many dentries stay cached at most.
pub fn dentry_cache_limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

/// Entries now; for tests.
#[cfg(test)]
pub(super) fn len() -> usize {
    LIST.lock().entries.len()
}
