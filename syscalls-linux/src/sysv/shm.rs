//! Shared memory: `shmget(2)`, `shmop(2)`, `shmctl(2)`.

use std::sync::Arc;

use abi::Errno;
use abi::ipc::{
    IPC_INFO, IPC_PRIVATE, IPC_RMID, IPC_SET, IPC_STAT, SHM_EXEC, SHM_HUGETLB, SHM_INFO, SHM_LOCK, SHM_RDONLY,
    SHM_REMAP, SHM_RND, SHM_STAT, SHM_STAT_ANY, SHM_UNLOCK, ShmInfo, ShmInfo64, ShmidDs,
};
use kernel::ipc::{Existing, Locking, SegmentInfo, Wanted};
use kernel::syscalls;
use kernel::task::Task;
use mm::{FileSource, MapOptions, MapRequest, Placement, Sharing, Source};
use usermem::Addr;
use usermem::platform::Prot;

use super::{change, command, existing, perm};
use crate::args::{Hex, ShmctlCmd};
use crate::mem;

syscalls! {
    pub(crate) const ROWS;

    /// Gets a segment of System V shared memory.
    shmget [29, 194] Partial("no huge pages");
    /// Attaches System V shared memory.
    shmat [30, 196] Full("sysv::shared_memory_is_shared_and_counted");
    /// Detaches System V shared memory.
    shmdt [67, 197] Full("sysv::shared_memory_is_shared_and_counted");
    /// Controls System V shared memory.
    shmctl [31, 195] Partial("times of attachments that end by munmap; what is resident");
}

/// `shmget(2)`.
fn shmget(task: &mut Task, key: i32, size: u64, flags: u32) -> Result<i32, Errno> {
    if flags & SHM_HUGETLB == 0 {
        return task.shm_get(key, size, existing(flags), flags & 0o777);
    }
    // As with vm.nr_hugepages = 0: those that are there are found, no new one can be made.
    let found =
        if key == IPC_PRIVATE { Err(Errno::ENOENT) } else { task.shm_get(key, size, Existing::Needed, flags & 0o777) };
    match (found, existing(flags)) {
        (Ok(_), Existing::Refused) => Err(Errno::EEXIST),
        (Err(Errno::ENOENT), Existing::Welcome | Existing::Refused) => Err(Errno::ENOMEM),
        (Err(Errno::ENOENT), Existing::Needed) if key == IPC_PRIVATE => Err(Errno::ENOMEM),
        (found, _) => found,
    }
}

/// Where `shmat(2)` puts it; `EINVAL`.
fn place(addr: Addr, flags: u32) -> Result<Placement, Errno> {
    if addr == Addr(0) {
        return if flags & SHM_REMAP != 0 { Err(Errno::EINVAL) } else { Ok(Placement::Hint(Addr(0))) };
    }
    let at = if flags & SHM_RND != 0 { addr.page_down() } else { addr };
    if !at.is_page_aligned() || (at == Addr(0) && flags & SHM_REMAP != 0) {
        return Err(Errno::EINVAL);
    }
    Ok(if flags & SHM_REMAP != 0 { Placement::Fixed(at) } else { Placement::FixedNoReplace(at) })
}

/// `shmat(2)`.
fn shmat(task: &mut Task, id: i32, addr: Addr, flags: u32) -> Result<Addr, Errno> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let placement = place(addr, flags)?;
    let read_only = flags & SHM_RDONLY != 0;
    let (mut prot, mut wanted) = if read_only { (Prot::READ, 0o444) } else { (Prot::READ | Prot::WRITE, 0o666) };
    if flags & SHM_EXEC != 0 {
        prot |= Prot::EXEC;
        wanted |= 0o111;
    }
    let (attached, size) = task.shm_open(id, Wanted::Mode(wanted))?;
    let max_prot = if read_only { Prot::READ | Prot::EXEC } else { Prot::all() };
    let request = MapRequest {
        placement,
        len: size,
        prot,
        sharing: Sharing::Shared,
        source: Source::File(FileSource {
            object: Arc::clone(attached.memory()) as _,
            file: attached,
            offset: 0,
            max_prot,
        }),
        options: MapOptions::empty(),
        label: "",
    };
    let mapped = task.mm().map(&request).map_err(|error| match error {
        // Something is there.
        Errno::EEXIST => Errno::EINVAL,
        error => error,
    });
    drop(request);
    let at = mapped?;
    task.shm_attached(id);
    Ok(at)
}

/// `shmdt(2)`.
fn shmdt(task: &mut Task, addr: Addr) -> Result<(), Errno> {
    task.shm_detach(addr)
}

fn describe(id: i32, info: &SegmentInfo) -> ShmidDs {
    ShmidDs {
        shm_perm: perm(id, &info.perm),
        shm_segsz: info.size,
        shm_atime: info.attach_time,
        shm_dtime: info.detach_time,
        shm_ctime: info.change_time,
        shm_cpid: info.creator.raw(),
        shm_lpid: info.last.map_or(0, kernel::task::Pid::raw),
        shm_nattch: info.mappings,
        ..ShmidDs::default()
    }
}

/// `shmctl(2)`.
fn shmctl(task: &mut Task, id: i32, ShmctlCmd(raw): ShmctlCmd, out: Hex) -> Result<i32, Errno> {
    let out = Addr(out.0);
    let command = command(raw);
    if id < 0 || raw < 0 {
        return Err(Errno::EINVAL);
    }
    let kernel = Arc::clone(task.kernel());
    let shm = kernel.ipc().shm();
    match command {
        IPC_INFO => {
            let limits = ShmInfo64 {
                shmmax: kernel::ipc::SHMMAX,
                shmmin: 1,
                shmmni: u64::try_from(shm.limit()).unwrap_or(0),
                shmseg: u64::try_from(shm.limit()).unwrap_or(0),
                shmall: kernel::ipc::SHMMAX,
                ..ShmInfo64::default()
            };
            mem::write(task, out, &limits)?;
            Ok(shm.totals().last_index)
        }
        SHM_INFO => {
            let totals = shm.totals();
            let info = ShmInfo { used_ids: totals.used, shm_tot: totals.pages, ..ShmInfo::default() };
            mem::write(task, out, &info)?;
            Ok(totals.last_index)
        }
        IPC_STAT => {
            let info = shm.info(id, task.creds())?;
            mem::write(task, out, &describe(id, &info))?;
            Ok(0)
        }
        SHM_STAT | SHM_STAT_ANY => {
            let found = shm.info_at(id, (command == SHM_STAT).then_some(task.creds()))?;
            mem::write(task, out, &describe(found.id, &found.info))?;
            Ok(found.id)
        }
        IPC_SET => {
            let wish: ShmidDs = mem::read(task, out)?;
            task.shm_change(id, &change(&wish.shm_perm)?)?;
            Ok(0)
        }
        IPC_RMID => task.shm_remove(id).map(|()| 0),
        SHM_LOCK => task.shm_lock(id, Locking::Lock).map(|()| 0),
        SHM_UNLOCK => task.shm_lock(id, Locking::Unlock).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}
