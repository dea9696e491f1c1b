//! Shared memory segments: `shmget(2)`, `shmop(2)`, `shmctl(2)`.
//!
//! A segment's pages belong to an [`Attached`], which the table and every mapping of it hold. A removed segment lives on
//! in its mappings alone; the table then only remembers it for those who know its id.

use std::sync::{Arc, Weak};

use abi::Errno;
use auth::{Caps, Creds};
use mm::{MappedFile, SharedMemory};
use sync::Mutex;
use usermem::PAGE_SIZE;

use super::perm::{Change, Existing, Perm, Wanted};
use super::table::{Named, Object, Settings, Table};
use crate::ids::Pid;
use crate::kernel::Kernel;
use crate::lock::IPC;
use crate::rlimit::Resource;
use crate::task::Task;

/// Most segments; `/proc/sys/kernel/shmmni`.
pub const SHMMNI: usize = 4096;

/// Largest segment, and most pages of all; `/proc/sys/kernel/shmmax`, `shmall`.
pub const SHMMAX: u64 = u64::MAX - (1 << 24);

/// The segment is gone once nobody has it mapped (`SHM_DEST`).
const DEST: u32 = 0o1000;

/// It is locked in memory (`SHM_LOCKED`).
const LOCKED: u32 = 0o2000;

/// The memory of a segment, as mappings hold it.
pub struct Attached {
    id: i32,
    key: i32,
    memory: Arc<SharedMemory>,
}

impl Attached {
    /// Its bytes.
    pub fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }
}

impl MappedFile for Attached {
    fn path(&self) -> Vec<u8> {
        format!("/SYSV{:08x} (deleted)", self.key).into_bytes()
    }

    fn dev(&self) -> u64 {
        self.memory.dev()
    }

    fn ino(&self) -> u64 {
        u64::try_from(self.id).unwrap_or(0)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.memory.punch(offset, len)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Whether a segment is to stay in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Locking {
    /// `SHM_LOCK`.
    Lock,
    /// `SHM_UNLOCK`.
    Unlock,
}

/// Who keeps a segment.
enum Hold {
    /// The table, until it is removed.
    Kept(Arc<Attached>),
    /// Its mappings.
    Doomed(Weak<Attached>),
}

struct Segment {
    info: SegmentInfo,
    hold: Hold,
}

impl Segment {
    fn attached(&self) -> Option<Arc<Attached>> {
        match &self.hold {
            Hold::Kept(attached) => Some(Arc::clone(attached)),
            Hold::Doomed(weak) => weak.upgrade(),
        }
    }

    fn mappings(&self) -> usize {
        match &self.hold {
            Hold::Kept(attached) => Arc::strong_count(attached).saturating_sub(1),
            Hold::Doomed(weak) => weak.strong_count(),
        }
    }

    fn is_alive(&self) -> bool {
        matches!(self.hold, Hold::Kept(_)) || self.mappings() > 0
    }

    fn info(&self) -> SegmentInfo {
        SegmentInfo { mappings: u64::try_from(self.mappings()).unwrap_or(u64::MAX), ..self.info }
    }
}

impl Object for Segment {
    fn perm(&self) -> &Perm {
        &self.info.perm
    }
}

/// What `shmctl(2)` tells of a segment.
#[derive(Clone, Copy, Debug)]
pub struct SegmentInfo {
    /// Owner and permissions.
    pub perm: Perm,
    /// Bytes, as asked for.
    pub size: u64,
    /// When it was last attached.
    pub attach_time: i64,
    /// When it was last detached, by shmdt(2) or the end of a process.
    pub detach_time: i64,
    /// When it was last changed.
    pub change_time: i64,
    /// Who made it.
    pub creator: Pid,
    /// Who last attached or detached it.
    pub last: Option<Pid>,
    /// How many mappings there are.
    pub mappings: u64,
}

/// What all segments are together.
#[derive(Clone, Copy, Debug)]
pub struct SegmentTotals {
    /// How many there are.
    pub used: i32,
    /// Their pages.
    pub pages: u64,
    /// Index of the last one.
    pub last_index: i32,
}

/// All segments.
pub struct Segments {
    table: Mutex<Table<Segment>>,
}

/// A request for a segment.
#[derive(Clone, Copy, Debug)]
struct Get {
    key: i32,
    size: u64,
    existing: Existing,
    mode: u32,
}

impl Segments {
    pub(super) fn new() -> Self {
        Self { table: Mutex::new(IPC, Table::new(SHMMNI)) }
    }

    /// Most segments that there may be.
    pub fn limit(&self) -> usize {
        self.with_settings(|table| table.limit())
    }

    /// What belongs to all of them, for their settings.
    pub(super) fn with_settings<R>(&self, then: impl FnOnce(&mut dyn Settings) -> R) -> R {
        then(&mut *self.table.lock())
    }

    fn get(&self, kernel: &Arc<Kernel>, task: &Task, request: Get) -> Result<i32, Errno> {
        let Get { key, size, existing, mode } = request;
        let creds = task.creds();
        let find = |table: &mut Table<Segment>| {
            table.retain(Segment::is_alive);
            table.find(key, existing, mode, creds, |segment| size <= segment.info.size)
        };
        if let Some(id) = find(&mut self.table.lock())? {
            return Ok(id);
        }
        if size == 0 || size > SHMMAX {
            return Err(Errno::EINVAL);
        }
        let memory = SharedMemory::new(kernel.memory(), size)?;
        let now = super::now(kernel);
        let mut table = self.table.lock();
        // Somebody may have made it meanwhile.
        if let Some(id) = find(&mut table)? {
            return Ok(id);
        }
        table.insert(|id| Segment {
            info: SegmentInfo {
                perm: Perm::new(key, mode, creds),
                size,
                attach_time: 0,
                detach_time: 0,
                change_time: now,
                creator: task.pid(),
                last: None,
                mappings: 0,
            },
            hold: Hold::Kept(Arc::new(Attached { id, key, memory })),
        })
    }

    /// What is told of segment `id`; `EINVAL`, `EACCES`.
    pub fn info(&self, id: i32, creds: &Creds) -> Result<SegmentInfo, Errno> {
        let mut table = self.table.lock();
        let segment = table.get(id).ok().filter(|segment| segment.is_alive()).ok_or(Errno::EINVAL)?;
        segment.info.perm.check(creds, Wanted::Read)?;
        Ok(segment.info())
    }

    /// What is told of the segment in a slot; without `creds`, whoever asks.
    pub fn info_at(&self, index: i32, creds: Option<&Creds>) -> Result<Named<SegmentInfo>, Errno> {
        let mut table = self.table.lock();
        table.retain(Segment::is_alive);
        let (id, segment) = table.at(index)?;
        if let Some(creds) = creds {
            segment.info.perm.check(creds, Wanted::Read)?;
        }
        Ok(Named { id, info: segment.info() })
    }

    /// All of them, for `/proc/sysvipc/shm`.
    pub fn list(&self) -> Vec<Named<SegmentInfo>> {
        let mut table = self.table.lock();
        table.retain(Segment::is_alive);
        table.iter().map(|(id, segment)| Named { id, info: segment.info() }).collect()
    }

    /// Sums.
    pub fn totals(&self) -> SegmentTotals {
        let mut table = self.table.lock();
        table.retain(Segment::is_alive);
        let pages = table.iter().map(|(_, segment)| segment.info.size.div_ceil(PAGE_SIZE)).sum();
        SegmentTotals { used: i32::try_from(table.len()).unwrap_or(i32::MAX), pages, last_index: table.last_index() }
    }

    /// Notes the detachments by a process whose last mappings `files` were.
    pub(crate) fn note_end(&self, kernel: &Arc<Kernel>, files: &[Arc<dyn MappedFile>], pid: Pid) {
        let ids = files.iter().filter_map(|file| Some(file.as_any().downcast_ref::<Attached>()?.id));
        for id in ids {
            let now = super::now(kernel);
            let noted = self.change(id, |segment| {
                segment.info.detach_time = now;
                segment.info.last = Some(pid);
                Ok(())
            });
            // It may be gone already.
            let _ = noted;
        }
    }

    fn change<T>(&self, id: i32, act: impl FnOnce(&mut Segment) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut table = self.table.lock();
        let segment = table.get(id).ok().filter(|segment| segment.is_alive()).ok_or(Errno::EINVAL)?;
        act(segment)
    }
}

impl Task {
    /// shmget(2). Errors: `EINVAL` (size), `ENOENT`, `EEXIST`, `EACCES`, `ENOSPC`, `ENOMEM`.
    pub fn shm_get(&self, key: i32, size: u64, existing: Existing, mode: u32) -> Result<i32, Errno> {
        let kernel = Arc::clone(self.kernel());
        kernel.ipc().shm().get(&kernel, self, Get { key, size, existing, mode })
    }

    /// The memory of segment `id`, to map it; `EINVAL`, `EACCES`.
    pub fn shm_open(&self, id: i32, wanted: Wanted) -> Result<(Arc<Attached>, u64), Errno> {
        self.kernel().ipc().shm().change(id, |segment| {
            segment.info.perm.check(self.creds(), wanted)?;
            Ok((segment.attached().ok_or(Errno::EINVAL)?, segment.info.size))
        })
    }

    /// Notes that the caller has mapped segment `id`.
    pub fn shm_attached(&self, id: i32) {
        let now = super::now(self.kernel());
        let noted = self.kernel().ipc().shm().change(id, |segment| {
            segment.info.attach_time = now;
            segment.info.last = Some(self.pid());
            Ok(())
        });
        // It may be gone already.
        let _ = noted;
    }

    /// shmdt(2): unmaps the segment that was attached at `addr`; `EINVAL`.
    pub fn shm_detach(&self, addr: usermem::Addr) -> Result<(), Errno> {
        let file = self.mm().detach(addr, &|file| file.as_any().is::<Attached>())?;
        let id = file.as_any().downcast_ref::<Attached>().map_or(-1, |attached| attached.id);
        drop(file);
        let now = super::now(self.kernel());
        let noted = self.kernel().ipc().shm().change(id, |segment| {
            segment.info.detach_time = now;
            segment.info.last = Some(self.pid());
            Ok(())
        });
        let _ = noted;
        Ok(())
    }

    /// `IPC_RMID`: the segment goes with its last mapping. Errors: `EINVAL`, `EPERM`.
    pub fn shm_remove(&self, id: i32) -> Result<(), Errno> {
        let mut table = self.kernel().ipc().shm().table.lock();
        let segment = table.get(id)?;
        segment.info.perm.check_owner(self.creds())?;
        let Hold::Kept(attached) = &segment.hold else {
            return if segment.is_alive() { Ok(()) } else { Err(Errno::EINVAL) };
        };
        segment.hold = Hold::Doomed(Arc::downgrade(attached));
        segment.info.perm.mode |= DEST;
        segment.info.perm.key = abi::ipc::IPC_PRIVATE;
        table.retain(Segment::is_alive);
        Ok(())
    }

    /// `IPC_SET`. Errors: `EINVAL`, `EPERM`.
    pub fn shm_change(&self, id: i32, change: &Change) -> Result<(), Errno> {
        let now = super::now(self.kernel());
        self.kernel().ipc().shm().change(id, |segment| {
            segment.info.perm.check_owner(self.creds())?;
            segment.info.perm.change(change);
            segment.info.change_time = now;
            Ok(())
        })
    }

    /// `SHM_LOCK` and `SHM_UNLOCK`, which the host may not heed. Errors: `EINVAL`, `EPERM`.
    pub fn shm_lock(&self, id: i32, locking: Locking) -> Result<(), Errno> {
        let limit = self.group().limit(Resource::Memlock).soft;
        self.kernel().ipc().shm().change(id, |segment| {
            if !self.creds().has(Caps::IPC_LOCK) {
                if !segment.info.perm.is_owner(self.creds()) {
                    return Err(Errno::EPERM);
                }
                if locking == Locking::Lock && limit == 0 {
                    return Err(Errno::EPERM);
                }
            }
            match locking {
                Locking::Lock => segment.info.perm.mode |= LOCKED,
                Locking::Unlock => segment.info.perm.mode &= !LOCKED,
            }
            Ok(())
        })
    }
}
