//! File locks: `flock(2)` and POSIX record locks with their open-file-description kind, `fcntl(2)`.
//!
//! They hang off the inode. Nothing waits here: a conflict is `EAGAIN` (`EDEADLK` cannot arise then), and who wants to
//! wait does so on [`InodeLocks::queue`].

use abi::Errno;
use sync::Mutex;
use waiter::{EventMask, WaitQueue};

use crate::LockOwner;
use crate::lockclass;
use crate::vfs::file::File;

/// What `flock(2)` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlockKind {
    /// Others may share.
    Shared,
    /// Nobody else.
    Exclusive,
    /// None.
    Unlock,
}

/// Kind of a record lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// `F_RDLCK`.
    Read,
    /// `F_WRLCK`.
    Write,
}

/// A range of bytes; `end` is exclusive, `u64::MAX` for "to the end and beyond".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRange {
    /// First byte.
    pub start: u64,
    /// First byte after.
    pub end: u64,
}

impl LockRange {
    fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Who holds a record lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    /// A process (its file table).
    Owner(LockOwner),
    /// An open file description.
    Description(u64),
}

/// A record lock as `F_GETLK` reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PosixLock {
    /// Read or write.
    pub kind: LockKind,
    /// Where.
    pub range: LockRange,
    /// Process that took it; −1 for description locks.
    pub pid: i32,
}

#[derive(Clone, Copy)]
struct Record {
    holder: Holder,
    lock: PosixLock,
}

/// A `flock(2)` lock.
#[derive(Clone, Copy)]
struct Flock {
    description: u64,
    kind: LockKind,
    /// Process that took it.
    pid: i32,
}

/// How a lock was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockFamily {
    /// `flock(2)`.
    Flock,
    /// `F_SETLK`: a process's.
    Process,
    /// `F_OFD_SETLK`: an open file description's.
    Description,
}

/// A lock as `/proc/locks` lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldLock {
    /// How it was taken.
    pub family: LockFamily,
    /// The rest.
    pub lock: PosixLock,
}

/// Gives back the room of a list that was much longer once.
fn settle<T>(list: &mut Vec<T>) {
    if list.capacity() > 64 && list.len() < list.capacity() / 8 {
        list.shrink_to(list.len() * 2);
    }
}

#[derive(Default)]
struct State {
    flocks: Vec<Flock>,
    records: Vec<Record>,
}

/// Most record locks on one inode: past it `ENOLCK`, so that a guest cannot grow the table without bound.
const MAX_RECORDS: usize = 65_536;

/// The locks on one inode.
pub(crate) struct InodeLocks {
    state: Mutex<State>,
    queue: WaitQueue,
}

impl InodeLocks {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(lockclass::SLOTS, State::default()), queue: WaitQueue::new() }
    }

    fn changed(&self) {
        self.queue.wake(EventMask::OUT | EventMask::IN);
    }

    fn flock(&self, description: u64, pid: i32, kind: FlockKind) -> Result<(), Errno> {
        let kind = match kind {
            FlockKind::Shared => Some(LockKind::Read),
            FlockKind::Exclusive => Some(LockKind::Write),
            FlockKind::Unlock => None,
        };
        let mut state = self.state.lock();
        let held = state.flocks.iter().position(|flock| flock.description == description);
        let conflict = kind.is_some_and(|kind| {
            let excludes = |other: &Flock| kind == LockKind::Write || other.kind == LockKind::Write;
            state.flocks.iter().any(|other| other.description != description && excludes(other))
        });
        // A conversion gives up the old lock first, flock(2).
        let released = held.map(|at| state.flocks.swap_remove(at)).is_some();
        match kind {
            Some(kind) if !conflict => state.flocks.push(Flock { description, kind, pid }),
            _ => settle(&mut state.flocks),
        }
        drop(state);
        if released {
            self.changed();
        }
        if conflict { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    fn conflict(state: &State, holder: Holder, kind: LockKind, range: LockRange) -> Option<PosixLock> {
        state
            .records
            .iter()
            .filter(|record| {
                record.holder != holder
                    && record.lock.range.overlaps(range)
                    && (kind == LockKind::Write || record.lock.kind == LockKind::Write)
            })
            .map(|record| record.lock)
            .min_by_key(|lock| lock.range.start)
    }

    fn set(&self, holder: Holder, pid: i32, kind: Option<LockKind>, range: LockRange) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if let Some(kind) = kind {
            if Self::conflict(&state, holder, kind, range).is_some() {
                return Err(Errno::EAGAIN);
            }
            if state.records.len() >= MAX_RECORDS {
                return Err(Errno::ENOLCK);
            }
        }
        let mut rest = Vec::new();
        state.records.retain(|record| {
            if record.holder != holder || !record.lock.range.overlaps(range) {
                return true;
            }
            let old = record.lock.range;
            for piece in [
                LockRange { start: old.start, end: range.start.min(old.end) },
                LockRange { start: range.end.max(old.start), end: old.end },
            ] {
                if piece.start < piece.end {
                    rest.push(Record { holder, lock: PosixLock { range: piece, ..record.lock } });
                }
            }
            false
        });
        state.records.extend(rest);
        if let Some(kind) = kind {
            // Neighbours of the same kind become one, so that a program that locks byte by byte does not pile up records.
            let mut merged = range;
            state.records.retain(|record| {
                let near = record.lock.range.start <= merged.end && merged.start <= record.lock.range.end;
                if record.holder == holder && record.lock.kind == kind && near {
                    merged.start = merged.start.min(record.lock.range.start);
                    merged.end = merged.end.max(record.lock.range.end);
                    return false;
                }
                true
            });
            state.records.push(Record { holder, lock: PosixLock { kind, range: merged, pid } });
        }
        settle(&mut state.records);
        drop(state);
        self.changed();
        Ok(())
    }

    pub(crate) fn release_posix(&self, owner: LockOwner) {
        self.release(|record| record.holder == Holder::Owner(owner), |_| false);
    }

    pub(crate) fn release_description(&self, id: u64) {
        self.release(|record| record.holder == Holder::Description(id), |flock| flock == id);
    }

    fn release(&self, records: impl Fn(&Record) -> bool, flocks: impl Fn(u64) -> bool) {
        let mut state = self.state.lock();
        let before = state.records.len() + state.flocks.len();
        state.records.retain(|record| !records(record));
        state.flocks.retain(|flock| !flocks(flock.description));
        let changed = before != state.records.len() + state.flocks.len();
        settle(&mut state.records);
        settle(&mut state.flocks);
        drop(state);
        if changed {
            self.changed();
        }
    }
}

impl File {
    /// Takes for process `pid`, or gives up, the description's `flock(2)` lock; `EAGAIN` on conflict.
    pub fn flock(&self, pid: i32, kind: FlockKind) -> Result<(), Errno> {
        if self.is_path_only() {
            return Err(Errno::EBADF);
        }
        self.note_locked();
        self.inode().slots().locks().flock(self.id(), pid, kind)
    }

    /// Where to wait for the locks of this file's inode to change.
    pub fn lock_queue(&self) -> &WaitQueue {
        &self.inode().slots().locks().queue
    }

    /// Sets (`None`: removes) a record lock of the process; `EAGAIN` on conflict, `EBADF` without the access it needs.
    pub fn posix_lock(
        &self,
        owner: LockOwner,
        pid: i32,
        kind: Option<LockKind>,
        range: LockRange,
    ) -> Result<(), Errno> {
        self.check_lock(kind)?;
        self.inode().slots().locks().set(Holder::Owner(owner), pid, kind, range)
    }

    /// Sets (`None`: removes) a record lock of the open file description, `F_OFD_SETLK`.
    pub fn description_lock(&self, kind: Option<LockKind>, range: LockRange) -> Result<(), Errno> {
        self.check_lock(kind)?;
        self.note_locked();
        self.inode().slots().locks().set(Holder::Description(self.id()), -1, kind, range)
    }

    /// The first lock that stands in the way of such a record lock, `F_GETLK`; with no owner `F_OFD_GETLK`.
    pub fn lock_conflict(&self, owner: Option<LockOwner>, kind: LockKind, range: LockRange) -> Option<PosixLock> {
        let locks = self.inode().slots().locks_if_any()?;
        let holder = owner.map_or(Holder::Description(self.id()), Holder::Owner);
        InodeLocks::conflict(&locks.state.lock(), holder, kind, range)
    }

    /// All locks on this file's inode.
    pub fn held_locks(&self) -> Vec<HeldLock> {
        let Some(locks) = self.inode().slots().locks_if_any() else { return Vec::new() };
        let state = locks.state.lock();
        let whole = LockRange { start: 0, end: u64::MAX };
        let flocks = state.flocks.iter().map(|&Flock { kind, pid, .. }| {
            let lock = PosixLock { kind, range: whole, pid };
            HeldLock { family: LockFamily::Flock, lock }
        });
        let records = state.records.iter().map(|&Record { holder, lock }| match holder {
            Holder::Owner(_) => HeldLock { family: LockFamily::Process, lock },
            Holder::Description(_) => HeldLock { family: LockFamily::Description, lock },
        });
        flocks.chain(records).collect()
    }

    fn check_lock(&self, kind: Option<LockKind>) -> Result<(), Errno> {
        let allowed = match kind {
            Some(LockKind::Read) => self.is_readable(),
            Some(LockKind::Write) => self.is_writable(),
            None => !self.is_path_only(),
        };
        if allowed { Ok(()) } else { Err(Errno::EBADF) }
    }
}

#[cfg(test)]
mod tests {
    use abi::Errno;

    use super::{FlockKind, Holder, InodeLocks, LockKind, LockRange};
    use crate::LockOwner;

    fn range(start: u64, end: u64) -> LockRange {
        LockRange { start, end }
    }

    #[test]
    fn record_locks_split_and_merge() {
        let locks = InodeLocks::new();
        let (a, b) = (Holder::Owner(LockOwner(1)), Holder::Owner(LockOwner(2)));
        locks.set(a, 1, Some(LockKind::Write), range(0, 100)).unwrap();
        assert_eq!(locks.set(b, 2, Some(LockKind::Read), range(50, 60)), Err(Errno::EAGAIN));
        locks.set(a, 1, None, range(40, 70)).unwrap();
        locks.set(b, 2, Some(LockKind::Read), range(50, 60)).unwrap();
        assert_eq!(locks.set(a, 1, Some(LockKind::Write), range(0, 100)), Err(Errno::EAGAIN));
        locks.set(a, 1, Some(LockKind::Read), range(40, 70)).unwrap();
        locks.set(a, 1, Some(LockKind::Read), range(0, 100)).unwrap();
        assert_eq!(locks.state.lock().records.len(), 2);
        locks.release_posix(LockOwner(1));
        assert_eq!(locks.state.lock().records.len(), 1);
    }

    #[test]
    fn flock_converts() {
        let locks = InodeLocks::new();
        locks.flock(1, 7, FlockKind::Shared).unwrap();
        locks.flock(2, 7, FlockKind::Shared).unwrap();
        assert_eq!(locks.flock(1, 7, FlockKind::Exclusive), Err(Errno::EAGAIN));
        locks.flock(2, 7, FlockKind::Exclusive).unwrap();
        locks.flock(2, 7, FlockKind::Unlock).unwrap();
        locks.flock(1, 7, FlockKind::Exclusive).unwrap();
    }

    #[test]
    fn lists_of_locks_shrink() {
        let locks = InodeLocks::new();
        for at in 0..1000 {
            let holder = Holder::Owner(LockOwner(at));
            locks.set(holder, 1, Some(LockKind::Read), range(at * 10, at * 10 + 1)).unwrap();
            locks.flock(at, 1, FlockKind::Shared).unwrap();
        }
        for at in 0..1000 {
            locks.release_posix(LockOwner(at));
            locks.release_description(at);
        }
        let state = locks.state.lock();
        assert!(state.records.capacity() <= 64 && state.flocks.capacity() <= 64);
    }
}
