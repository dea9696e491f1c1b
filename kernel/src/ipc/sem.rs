//! Semaphore sets: `semget(2)`, `semop(2)`, `semctl(2)`.

use std::collections::HashMap;
use std::sync::Arc;

use abi::Errno;
use auth::Creds;
use sync::Mutex;
use waiter::{EventMask, WaitQueue};

use super::perm::{Change, Existing, Perm, Wanted};
use super::table::{Named, Object, Settings, Table};
use crate::error::SysResult;
use crate::ids::Pid;
use crate::lock::IPC;
use crate::task::{Blocked, Task};

/// Most sets.
pub const SEMMNI: usize = 32_000;
/// Most semaphores of a set.
pub const SEMMSL: usize = 32_000;
/// Most semaphores of all sets. Linux's default is a thousand times this; ours bounds what guests make us keep.
pub const SEMMNS: usize = 1_024_000;
/// Most operations of one call.
pub const SEMOPM: usize = 500;
/// Largest value of a semaphore.
pub const SEMVMX: i32 = 32_767;
/// Most adjustments that are kept for processes' ends.
const UNDO_LIMIT: usize = 1_000_000;

/// Whether an operation is taken back when the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undo {
    /// No.
    No,
    /// `SEM_UNDO`.
    Yes,
}

/// Whether an operation may wait for its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// Until it can be done.
    Allowed,
    /// `IPC_NOWAIT`: `EAGAIN`.
    Refused,
}

/// One operation of `semop(2)`.
#[derive(Clone, Copy, Debug)]
pub struct SemOp {
    /// On which semaphore.
    pub num: u16,
    /// What is added; 0 waits for zero.
    pub add: i16,
    /// Whether it may wait.
    pub waiting: Waiting,
    /// Whether it is taken back.
    pub undo: Undo,
}

#[derive(Clone, Copy, Default)]
struct Sem {
    value: i32,
    /// Who changed it last; 0 for nobody.
    pid: i32,
    /// How many wait for more, and for zero.
    waiting_more: u32,
    waiting_zero: u32,
}

/// What `semctl(2)` tells of a set.
#[derive(Clone, Copy, Debug)]
pub struct SemaphoreSet {
    /// Owner and permissions.
    pub perm: Perm,
    /// When semop(2) last succeeded.
    pub op_time: i64,
    /// When it was last changed.
    pub change_time: i64,
    /// How many semaphores there are.
    pub count: u64,
}

/// What all sets are together.
#[derive(Clone, Copy, Debug)]
pub struct SemTotals {
    /// How many there are.
    pub used: i32,
    /// Their semaphores.
    pub semaphores: i32,
    /// Index of the last one.
    pub last_index: i32,
}

struct Set {
    perm: Perm,
    op_time: i64,
    change_time: i64,
    sems: Vec<Sem>,
    /// What each process's end adds, by semaphore.
    undo: HashMap<Pid, HashMap<u16, i32>>,
    /// Woken when values change and when the set goes.
    changed: Arc<WaitQueue>,
}

impl Object for Set {
    fn perm(&self) -> &Perm {
        &self.perm
    }
}

/// Why operations cannot be done now.
struct Stuck {
    op: SemOp,
}

impl Set {
    fn info(&self) -> SemaphoreSet {
        SemaphoreSet {
            perm: self.perm,
            op_time: self.op_time,
            change_time: self.change_time,
            count: u64::try_from(self.sems.len()).unwrap_or(u64::MAX),
        }
    }

    fn wake(&self) {
        self.changed.wake(EventMask::READABLE);
    }

    fn sem(&mut self, num: i32) -> Result<&mut Sem, Errno> {
        usize::try_from(num).ok().and_then(|num| self.sems.get_mut(num)).ok_or(Errno::EINVAL)
    }

    /// Does all of `ops`, or none. `Ok(Err(_))`: not now. Errors: `ERANGE`.
    fn attempt(&mut self, ops: &[SemOp], pid: Pid) -> Result<Result<(), Stuck>, Errno> {
        // Values and adjustments as they would become; both are small next to the set.
        let mut values: HashMap<u16, i32> = HashMap::new();
        let mut adjust: HashMap<u16, i32> = HashMap::new();
        for op in ops {
            let now = self.sems.get(usize::from(op.num)).ok_or(Errno::EFBIG)?.value;
            let value = values.entry(op.num).or_insert(now);
            let after = *value + i32::from(op.add);
            if after < 0 || (op.add == 0 && *value != 0) {
                return Ok(Err(Stuck { op: *op }));
            }
            if after > SEMVMX {
                return Err(Errno::ERANGE);
            }
            *value = after;
            if op.undo == Undo::Yes {
                let before = self.undo.get(&pid).and_then(|of| of.get(&op.num)).copied().unwrap_or(0);
                let sum = adjust.entry(op.num).or_insert(before);
                *sum -= i32::from(op.add);
                if *sum < -SEMVMX - 1 || *sum > SEMVMX {
                    return Err(Errno::ERANGE);
                }
            }
        }
        for (num, value) in values {
            if let Some(sem) = self.sems.get_mut(usize::from(num)) {
                (sem.value, sem.pid) = (value, pid.raw());
            }
        }
        if !adjust.is_empty() {
            self.undo.entry(pid).or_default().extend(adjust);
        }
        Ok(Ok(()))
    }

    /// Counts one that waits for `op`, or no longer does.
    fn count_waiter(&mut self, op: SemOp, by: i32) {
        if let Some(sem) = self.sems.get_mut(usize::from(op.num)) {
            let count = if op.add == 0 { &mut sem.waiting_zero } else { &mut sem.waiting_more };
            *count = count.saturating_add_signed(by);
        }
    }

    /// How many adjustments it keeps.
    fn kept(&self) -> usize {
        self.undo.values().map(HashMap::len).sum()
    }

    fn forget_undo(&mut self, num: Option<u16>) {
        match num {
            None => self.undo.clear(),
            Some(num) => self.undo.values_mut().for_each(|of| {
                of.remove(&num);
            }),
        }
    }
}

struct State {
    sets: Table<Set>,
    /// Semaphores of all sets.
    semaphores: usize,
    /// Adjustments of all sets.
    undo: usize,
}

impl State {
    /// Does something with a set that may change how many adjustments it keeps.
    fn with<T>(&mut self, id: i32, act: impl FnOnce(&mut Set) -> Result<T, Errno>) -> Result<T, Errno> {
        let set = self.sets.get(id)?;
        let before = set.kept();
        let result = act(set);
        self.undo = self.undo.saturating_sub(before).saturating_add(set.kept());
        result
    }
}

/// All semaphore sets.
pub struct Semaphores {
    state: Mutex<State>,
}

impl Semaphores {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(IPC, State { sets: Table::new(SEMMNI), semaphores: 0, undo: 0 }) }
    }

    /// What belongs to all of them, for their settings.
    pub(super) fn with_settings<R>(&self, then: impl FnOnce(&mut dyn Settings) -> R) -> R {
        then(&mut self.state.lock().sets)
    }

    /// What is told of the set in a slot; without `creds`, whoever asks. Errors: `EINVAL`, `EACCES`.
    pub fn info_at(&self, index: i32, creds: Option<&Creds>) -> Result<Named<SemaphoreSet>, Errno> {
        let mut state = self.state.lock();
        let (id, set) = state.sets.at(index)?;
        if let Some(creds) = creds {
            set.perm.check(creds, Wanted::Read)?;
        }
        Ok(Named { id, info: set.info() })
    }

    /// All of them, for `/proc/sysvipc/sem`.
    pub fn list(&self) -> Vec<Named<SemaphoreSet>> {
        self.state.lock().sets.iter().map(|(id, set)| Named { id, info: set.info() }).collect()
    }

    /// Sums.
    pub fn totals(&self) -> SemTotals {
        let state = self.state.lock();
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        SemTotals {
            used: number(state.sets.len()),
            semaphores: number(state.semaphores),
            last_index: state.sets.last_index(),
        }
    }

    fn with<T>(&self, id: i32, act: impl FnOnce(&mut Set) -> Result<T, Errno>) -> Result<T, Errno> {
        self.state.lock().with(id, act)
    }

    /// Whether a process has operations that are to be taken back when it ends.
    pub fn has_undo(&self, pid: Pid) -> bool {
        self.state.lock().sets.iter().any(|(_, set)| set.undo.contains_key(&pid))
    }

    /// Takes back what the process's operations asked to be taken back.
    pub(crate) fn process_ends(&self, pid: Pid) {
        let mut state = self.state.lock();
        if state.sets.len() == 0 {
            return;
        }
        let ids: Vec<i32> =
            state.sets.iter().filter(|(_, set)| set.undo.contains_key(&pid)).map(|(id, _)| id).collect();
        for id in ids {
            let undone = state.with(id, |set| {
                for (num, add) in set.undo.remove(&pid).unwrap_or_default() {
                    if let Some(sem) = set.sems.get_mut(usize::from(num)) {
                        (sem.value, sem.pid) = ((sem.value + add).clamp(0, SEMVMX), pid.raw());
                    }
                }
                set.wake();
                Ok(())
            });
            debug_assert!(undone.is_ok(), "the set was there under the same lock");
        }
    }
}

impl Task {
    fn sems(&self) -> &Semaphores {
        self.kernel().ipc().sem()
    }

    /// semget(2). Errors: `EINVAL`, `ENOENT`, `EEXIST`, `EACCES`, `ENOSPC`.
    pub fn sem_get(&self, key: i32, count: i32, existing: Existing, mode: u32) -> Result<i32, Errno> {
        let count = usize::try_from(count).ok().filter(|&count| count <= SEMMSL).ok_or(Errno::EINVAL)?;
        let now = super::now(self.kernel());
        let mut state = self.sems().state.lock();
        if let Some(id) = state.sets.find(key, existing, mode, self.creds(), |set| count <= set.sems.len())? {
            return Ok(id);
        }
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        if state.semaphores.saturating_add(count) > SEMMNS {
            return Err(Errno::ENOSPC);
        }
        let id = state.sets.insert(|_| Set {
            perm: Perm::new(key, mode, self.creds()),
            op_time: 0,
            change_time: now,
            sems: vec![Sem::default(); count],
            undo: HashMap::new(),
            changed: Arc::new(WaitQueue::new()),
        })?;
        state.semaphores += count;
        Ok(id)
    }

    /// semop(2), semtimedop(2). Errors: `EINVAL`, `EIDRM`, `EFBIG`, `EACCES`, `ERANGE`, `EAGAIN`, `EINTR`, `ENOMEM`.
    pub fn sem_op(&mut self, id: i32, ops: &[SemOp], deadline_ns: Option<u64>) -> SysResult<()> {
        let pid = self.pid();
        let alters = ops.iter().any(|op| op.add != 0);
        let kernel = Arc::clone(self.kernel());
        let full = self.sems().state.lock().undo >= UNDO_LIMIT;
        let queue = self.sems().with(id, |set| {
            if ops.iter().any(|op| usize::from(op.num) >= set.sems.len()) {
                return Err(Errno::EFBIG);
            }
            set.perm.check(self.creds(), if alters { Wanted::Write } else { Wanted::Read })?;
            if full && ops.iter().any(|op| op.undo == Undo::Yes) {
                return Err(Errno::ENOMEM);
            }
            Ok(Arc::clone(&set.changed))
        })?;
        let mut counted: Option<SemOp> = None;
        let result = self.wait_until(&queue, EventMask::READABLE, deadline_ns, |task| {
            let attempt = task.sems().with(id, |set| {
                if !Arc::ptr_eq(&set.changed, &queue) {
                    return Err(Errno::EIDRM);
                }
                if let Some(op) = counted.take() {
                    set.count_waiter(op, -1);
                }
                match set.attempt(ops, pid)? {
                    Ok(()) => {
                        set.op_time = super::now(&kernel);
                        set.wake();
                        Ok(true)
                    }
                    Err(Stuck { op }) if op.waiting == Waiting::Refused => Err(Errno::EAGAIN),
                    Err(Stuck { op }) => {
                        set.count_waiter(op, 1);
                        counted = Some(op);
                        Ok(false)
                    }
                }
            });
            match attempt {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                // The set was there when the call began.
                Err(Errno::EINVAL) => Some(Err(Errno::EIDRM)),
                Err(error) => Some(Err(error)),
            }
        });
        let result = match result {
            Ok(result) => result,
            Err(Blocked::TimedOut) => Err(Errno::EAGAIN),
            // signal(7): never restarted.
            Err(Blocked::Interrupted) => Err(Errno::EINTR),
        };
        if let Some(op) = counted {
            let _ = self.sems().with(id, |set| {
                if Arc::ptr_eq(&set.changed, &queue) {
                    set.count_waiter(op, -1);
                }
                Ok(())
            });
        }
        Ok(result?)
    }

    /// `IPC_STAT`. Errors: `EINVAL`, `EACCES`.
    pub fn sem_info(&self, id: i32) -> Result<SemaphoreSet, Errno> {
        self.sems().with(id, |set| {
            set.perm.check(self.creds(), Wanted::Read)?;
            Ok(set.info())
        })
    }

    /// `GETALL`.
    pub fn sem_values(&self, id: i32) -> Result<Vec<u16>, Errno> {
        self.sems().with(id, |set| {
            set.perm.check(self.creds(), Wanted::Read)?;
            Ok(set.sems.iter().map(|sem| u16::try_from(sem.value).unwrap_or(u16::MAX)).collect())
        })
    }

    fn sem_field(&self, id: i32, num: i32, field: impl FnOnce(&Sem) -> i32) -> Result<i32, Errno> {
        self.sems().with(id, |set| {
            set.perm.check(self.creds(), Wanted::Read)?;
            Ok(field(set.sem(num)?))
        })
    }

    /// `GETVAL`.
    pub fn sem_value(&self, id: i32, num: i32) -> Result<i32, Errno> {
        self.sem_field(id, num, |sem| sem.value)
    }

    /// `GETPID`.
    pub fn sem_pid(&self, id: i32, num: i32) -> Result<i32, Errno> {
        self.sem_field(id, num, |sem| sem.pid)
    }

    /// `GETNCNT`.
    pub fn sem_waiting_more(&self, id: i32, num: i32) -> Result<i32, Errno> {
        self.sem_field(id, num, |sem| sem.waiting_more.cast_signed())
    }

    /// `GETZCNT`.
    pub fn sem_waiting_zero(&self, id: i32, num: i32) -> Result<i32, Errno> {
        self.sem_field(id, num, |sem| sem.waiting_zero.cast_signed())
    }

    /// `SETVAL`. Errors: `EINVAL`, `EACCES`, `ERANGE`.
    pub fn sem_set(&self, id: i32, num: i32, value: i32) -> Result<(), Errno> {
        let (pid, now) = (self.pid().raw(), super::now(self.kernel()));
        self.sems().with(id, |set| {
            if !(0..=SEMVMX).contains(&value) {
                return Err(Errno::ERANGE);
            }
            set.sem(num)?;
            set.perm.check(self.creds(), Wanted::Write)?;
            let sem = set.sem(num)?;
            (sem.value, sem.pid) = (value, pid);
            set.forget_undo(u16::try_from(num).ok());
            set.change_time = now;
            set.wake();
            Ok(())
        })
    }

    /// How many values `SETALL` takes; `EINVAL`, `EACCES`.
    pub fn sem_count(&self, id: i32) -> Result<usize, Errno> {
        self.sems().with(id, |set| {
            set.perm.check(self.creds(), Wanted::Write)?;
            Ok(set.sems.len())
        })
    }

    /// `SETALL`. Errors: `EINVAL`, `EIDRM`, `EACCES`, `ERANGE`.
    pub fn sem_set_all(&self, id: i32, values: &[u16]) -> Result<(), Errno> {
        let (pid, now) = (self.pid().raw(), super::now(self.kernel()));
        if values.iter().any(|&value| i32::from(value) > SEMVMX) {
            return Err(Errno::ERANGE);
        }
        self.sems().with(id, |set| {
            set.perm.check(self.creds(), Wanted::Write)?;
            if set.sems.len() != values.len() {
                return Err(Errno::EIDRM);
            }
            for (sem, &value) in set.sems.iter_mut().zip(values) {
                (sem.value, sem.pid) = (i32::from(value), pid);
            }
            set.forget_undo(None);
            set.change_time = now;
            set.wake();
            Ok(())
        })
    }

    /// `IPC_SET`. Errors: `EINVAL`, `EPERM`.
    pub fn sem_change(&self, id: i32, change: &Change) -> Result<(), Errno> {
        let now = super::now(self.kernel());
        self.sems().with(id, |set| {
            set.perm.check_owner(self.creds())?;
            set.perm.change(change);
            set.change_time = now;
            Ok(())
        })
    }

    /// `IPC_RMID`: who waits gets `EIDRM`. Errors: `EINVAL`, `EPERM`.
    pub fn sem_remove(&self, id: i32) -> Result<(), Errno> {
        let mut state = self.sems().state.lock();
        state.sets.get(id)?.perm.check_owner(self.creds())?;
        let set = state.sets.remove(id)?;
        state.undo = state.undo.saturating_sub(set.kept());
        state.semaphores = state.semaphores.saturating_sub(set.sems.len());
        set.wake();
        Ok(())
    }
}
