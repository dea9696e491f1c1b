//! Address spaces: `mmap(2)` and its relatives. The rules are `mm`'s; here are flag words and their checks.

use std::sync::Arc;

use abi::Errno;
use abi::fs::Seals;
use abi::mm::{MAP_TYPE, MapFlags, MlockFlags, MlockallFlags, MremapFlags, MsyncFlags, ProtFlags};
use auth::Caps;
use fs::vfs::{File, MountOptions};
use kernel::mapped::MappedDescription;
use kernel::syscall::SysResult;
use kernel::syscalls;
use kernel::task::Task;
use mm::{
    Advice, FileSource, Grow, LockOptions, MapOptions, MapRequest, Placement, RemapOptions, RemapRequest, SharedMemory,
    Sharing, Source, SyncOptions,
};
use usermem::platform::Prot;
use usermem::{Addr, AddrRange, PAGE_SIZE};

use crate::args::{AdviceArg, Fd, Flags, Hex};
use crate::mem;

syscalls! {
    pub(crate) const ROWS;

    /// Maps files or memory.
    mmap [9, 222] Partial("no huge pages");
    /// Removes mappings.
    munmap [11, 215] Full("memory::protection_is_enforced");
    /// Changes the protection of mappings.
    mprotect [10, 226] Full("memory::protection_is_enforced");
    /// As mprotect; with a key other than -1 as on a CPU without keys.
    pkey_mprotect [329, 288] Partial("no protection keys");
    /// Moves or resizes mappings.
    mremap [25, 216] Full("mappings::mremap_places_and_keeps");
    /// Gives advice about the use of memory.
    madvise [28, 233] Partial("populating maps ahead, pages are allocated when touched");
    /// Writes mapped files back.
    msync [26, 227] Full("memory::mincore_and_msync_know_holes");
    /// Says which pages are resident.
    mincore [27, 232] Full("mappings::residency_is_told");
    /// Moves the end of the data segment.
    brk [12, 214] Full("memory::brk_moves");
    /// Locks pages in memory.
    mlock [149, 228] Partial("counts against the limit; the host may still page");
    /// Locks pages in memory, also when they come later.
    mlock2 [325, 284] Partial("counts against the limit; the host may still page");
    /// Unlocks pages.
    munlock [150, 229] Full("mappings::memory_is_locked_within_limits");
    /// Locks all pages in memory.
    mlockall [151, 230] Partial("counts against the limit; the host may still page");
    /// Unlocks all pages.
    munlockall [152, 231] Full("mappings::memory_is_locked_within_limits");
    /// Forbids changes to mappings.
    mseal [462, 462] Full("memory::sealed_mappings_stay");
}

/// What the platform's protection bits are for `prot`; the rest of the word is checked by the callers.
fn protection(prot: ProtFlags) -> Prot {
    let pairs =
        [(ProtFlags::PROT_READ, Prot::READ), (ProtFlags::PROT_WRITE, Prot::WRITE), (ProtFlags::PROT_EXEC, Prot::EXEC)];
    pairs.into_iter().filter(|(theirs, _)| prot.contains(*theirs)).fold(Prot::empty(), |all, (_, ours)| all | ours)
}

/// Where `mmap(2)` puts it.
fn placement(addr: Addr, flags: MapFlags) -> Result<Placement, Errno> {
    let fixed = flags.contains(MapFlags::MAP_FIXED);
    let noreplace = flags.contains(MapFlags::MAP_FIXED_NOREPLACE);
    if (fixed || noreplace) && !addr.is_page_aligned() {
        return Err(Errno::EINVAL);
    }
    Ok(if noreplace {
        Placement::FixedNoReplace(addr)
    } else if fixed {
        Placement::Fixed(addr)
    } else if flags.contains(MapFlags::MAP_32BIT) {
        Placement::Low(addr.page_down())
    } else {
        Placement::Hint(addr.page_down())
    })
}

fn options(task: &Task, flags: MapFlags) -> MapOptions {
    let pairs = [
        (MapFlags::MAP_GROWSDOWN, MapOptions::GROWSDOWN),
        (MapFlags::MAP_NORESERVE, MapOptions::NORESERVE),
        (MapFlags::MAP_LOCKED, MapOptions::LOCKED),
    ];
    let mut options = pairs
        .into_iter()
        .filter(|(theirs, _)| flags.contains(*theirs))
        .fold(MapOptions::empty(), |all, (_, o)| all | o);
    if flags.contains(MapFlags::MAP_POPULATE) && !flags.contains(MapFlags::MAP_NONBLOCK) {
        options |= MapOptions::POPULATE;
    }
    if task.creds().has(Caps::IPC_LOCK) {
        options |= MapOptions::MAY_LOCK;
    }
    options
}

/// A file as what is mapped: readable, for shared writing also writable (`EACCES`), and on no noexec mount to run
/// (`EPERM`). A seal against writing is `EPERM` too.
fn file_source(task: &Task, file: &Arc<File>, offset: u64, prot: Prot, sharing: Sharing) -> Result<Source, Errno> {
    if !file.is_readable() {
        return Err(Errno::EACCES);
    }
    let mut max_prot = Prot::all();
    if sharing == Sharing::Shared && !file.is_writable() {
        if prot.contains(Prot::WRITE) {
            return Err(Errno::EACCES);
        }
        max_prot.remove(Prot::WRITE);
    }
    let sealed = file.ops().sealable().map_or(Seals::empty(), |object| object.seals());
    if sharing == Sharing::Shared && sealed.intersects(Seals::F_SEAL_WRITE | Seals::F_SEAL_FUTURE_WRITE) {
        if prot.contains(Prot::WRITE) {
            return Err(Errno::EPERM);
        }
        max_prot.remove(Prot::WRITE);
    }
    if file.path().mount.options().contains(MountOptions::NOEXEC) {
        if prot.contains(Prot::EXEC) {
            return Err(Errno::EPERM);
        }
        max_prot.remove(Prot::EXEC);
    }
    let object = file.mappable()?;
    Ok(Source::File(FileSource {
        object,
        file: MappedDescription::new(Arc::clone(file), task.fs().root()),
        offset,
        max_prot,
    }))
}

/// Memory that children share, as Linux has it: an unnamed file.
fn shared_anonymous(task: &Task, len: u64) -> Result<Source, Errno> {
    let object = SharedMemory::new(task.mm().memory(), len)?;
    Ok(Source::File(FileSource { file: Arc::clone(&object) as _, object, offset: 0, max_prot: Prot::all() }))
}

/// Flags that any mapping may have; `MAP_SHARED_VALIDATE` refuses others.
const VALIDATED: MapFlags = MapFlags::all().difference(MapFlags::MAP_SYNC).difference(MapFlags::MAP_UNINITIALIZED);

/// `mmap(2)`.
fn mmap(
    task: &mut Task,
    addr: Addr,
    len: u64,
    Flags(prot): Flags<ProtFlags>,
    Flags(flags): Flags<MapFlags>,
    fd: Fd,
    offset: Hex,
) -> SysResult<Addr> {
    if !offset.0.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL.into());
    }
    let file = if flags.contains(MapFlags::MAP_ANONYMOUS) { None } else { Some(task.fd(fd.0)?) };
    if len == 0 {
        return Err(Errno::EINVAL.into());
    }
    if len.checked_next_multiple_of(PAGE_SIZE).is_none() {
        return Err(Errno::ENOMEM.into());
    }
    let sharing = match flags.bits() & MAP_TYPE {
        1 => Sharing::Shared,
        2 => Sharing::Private,
        3 if VALIDATED.contains(flags) => Sharing::Shared,
        3 => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    if flags.contains(MapFlags::MAP_HUGETLB) {
        // As with vm.nr_hugepages = 0.
        return Err(if file.is_some() { Errno::EINVAL } else { Errno::ENOMEM }.into());
    }
    let prot = protection(prot);
    let source = match file {
        Some(file) => file_source(task, &file, offset.0, prot, sharing)?,
        None if sharing == Sharing::Shared => shared_anonymous(task, len)?,
        None => Source::Anonymous,
    };
    let request = MapRequest {
        placement: placement(addr, flags)?,
        len,
        prot,
        sharing,
        source,
        options: options(task, flags),
        label: "",
    };
    Ok(task.mm().map(&request)?)
}

/// `munmap(2)`.
fn munmap(task: &mut Task, addr: Addr, len: u64) -> Result<(), Errno> {
    task.mm().unmap(addr, len)
}

/// A length in whole pages: Linux's rounding wraps, so that the longest lengths are none.
fn whole_pages(addr: Addr, len: u64) -> u64 {
    len.wrapping_add(addr.page_offset()).checked_next_multiple_of(PAGE_SIZE).unwrap_or(0)
}

fn protect(task: &Task, addr: Addr, len: u64, prot: Flags<ProtFlags>) -> Result<(), Errno> {
    let Flags(asked) = prot;
    let grow = match (asked.contains(ProtFlags::PROT_GROWSDOWN), asked.contains(ProtFlags::PROT_GROWSUP)) {
        (true, true) => return Err(Errno::EINVAL),
        (true, false) => Grow::Down,
        (false, true) => Grow::Up,
        (false, false) => Grow::No,
    };
    if !addr.is_page_aligned() {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(());
    }
    if addr.checked_add(whole_pages(addr, len)).is_none_or(|end| end <= addr) {
        return Err(Errno::ENOMEM);
    }
    task.mm().protect(addr, len, protection(prot.known()?), grow)
}

/// `mprotect(2)`.
fn mprotect(task: &mut Task, addr: Addr, len: u64, prot: Flags<ProtFlags>) -> Result<(), Errno> {
    protect(task, addr, len, prot)
}

/// `pkey_mprotect(2)` without keys: only key -1, "as mprotect", exists.
fn pkey_mprotect(task: &mut Task, addr: Addr, len: u64, prot: Flags<ProtFlags>, key: i32) -> Result<(), Errno> {
    if key != -1 {
        return Err(Errno::EINVAL);
    }
    protect(task, addr, len, prot)
}

/// `mremap(2)`.
fn mremap(
    task: &mut Task,
    old_addr: Addr,
    old_len: u64,
    new_len: u64,
    flags: Flags<MremapFlags>,
    new_addr: Addr,
) -> Result<Addr, Errno> {
    let flags = flags.known()?;
    let mut options = RemapOptions::empty();
    options.set(RemapOptions::MAY_MOVE, flags.contains(MremapFlags::MREMAP_MAYMOVE));
    options.set(RemapOptions::FIXED, flags.contains(MremapFlags::MREMAP_FIXED));
    options.set(RemapOptions::DONT_UNMAP, flags.contains(MremapFlags::MREMAP_DONTUNMAP));
    options.set(RemapOptions::MAY_LOCK, task.creds().has(Caps::IPC_LOCK));
    task.mm().remap(&RemapRequest { old_addr, old_len, new_len, new_addr, options })
}

/// `mseal(2)`.
fn mseal(task: &mut Task, addr: Addr, len: u64, flags: Hex) -> Result<(), Errno> {
    if flags.0 != 0 {
        return Err(Errno::EINVAL);
    }
    task.mm().seal(addr, len)
}

/// What `madvise(2)` is told; `EINVAL` for what is unknown.
pub(crate) fn advice(raw: u32) -> Result<Advice, Errno> {
    use abi::mm as m;
    Ok(match raw {
        m::MADV_NORMAL => Advice::Normal,
        m::MADV_RANDOM => Advice::Random,
        m::MADV_SEQUENTIAL => Advice::Sequential,
        m::MADV_WILLNEED => Advice::WillNeed,
        m::MADV_DONTNEED => Advice::DontNeed,
        m::MADV_DONTNEED_LOCKED => Advice::DontNeedLocked,
        m::MADV_FREE => Advice::Free,
        m::MADV_REMOVE => Advice::Remove,
        m::MADV_DONTFORK => Advice::DontFork,
        m::MADV_DOFORK => Advice::DoFork,
        m::MADV_HUGEPAGE => Advice::HugePage,
        m::MADV_NOHUGEPAGE => Advice::NoHugePage,
        m::MADV_DONTDUMP => Advice::DontDump,
        m::MADV_DODUMP => Advice::DoDump,
        m::MADV_WIPEONFORK => Advice::WipeOnFork,
        m::MADV_KEEPONFORK => Advice::KeepOnFork,
        m::MADV_COLD => Advice::Cold,
        m::MADV_PAGEOUT => Advice::PageOut,
        m::MADV_POPULATE_READ => Advice::PopulateRead,
        m::MADV_POPULATE_WRITE => Advice::PopulateWrite,
        m::MADV_HWPOISON | m::MADV_SOFT_OFFLINE => return Err(Errno::EPERM),
        // Same-page merging and collapsing: as a kernel built without them.
        _ => return Err(Errno::EINVAL),
    })
}

/// `madvise(2)`.
fn madvise(task: &mut Task, addr: Addr, len: u64, AdviceArg(raw): AdviceArg) -> Result<(), Errno> {
    task.mm().advise(addr, len, advice(raw)?)
}

/// `msync(2)`.
fn msync(task: &mut Task, addr: Addr, len: u64, flags: Flags<MsyncFlags>) -> Result<(), Errno> {
    let flags = flags.known()?;
    if flags.contains(MsyncFlags::MS_ASYNC | MsyncFlags::MS_SYNC) {
        return Err(Errno::EINVAL);
    }
    let mut options = SyncOptions::empty();
    options.set(SyncOptions::ASYNC, flags.contains(MsyncFlags::MS_ASYNC));
    options.set(SyncOptions::INVALIDATE, flags.contains(MsyncFlags::MS_INVALIDATE));
    options.set(SyncOptions::SYNC, flags.contains(MsyncFlags::MS_SYNC));
    if addr.is_page_aligned() && whole_pages(addr, len) == 0 {
        return Ok(());
    }
    task.mm().sync(addr, len, options)
}

/// Most bytes that one step of `mincore` asks about.
const INCORE_STEP: u64 = 64 << 20;

/// `mincore(2)`: a byte per page.
fn mincore(task: &mut Task, addr: Addr, len: u64, vec: Addr) -> Result<(), Errno> {
    if !addr.is_page_aligned() {
        return Err(Errno::EINVAL);
    }
    let range = AddrRange::of_len(addr, len).ok_or(Errno::ENOMEM)?;
    let (mut at, mut out) = (range.start, vec);
    while at < range.end {
        let step = INCORE_STEP.min(range.end.0.saturating_sub(at.0));
        let pages = task.mm().incore(at, step)?;
        mem::write_bytes(task, out, &pages)?;
        at = at.checked_add(step).ok_or(Errno::ENOMEM)?;
        out = out.checked_add(pages.len() as u64).ok_or(Errno::EFAULT)?;
    }
    Ok(())
}

/// `brk(2)`, the call: the new end, or the old one where it could not move.
fn brk(task: &mut Task, addr: Addr) -> Result<Addr, Errno> {
    Ok(task.mm().brk(addr))
}

fn lock_options(task: &Task) -> LockOptions {
    if task.creds().has(Caps::IPC_LOCK) { LockOptions::MAY_LOCK } else { LockOptions::empty() }
}

/// `mlock(2)`.
fn mlock(task: &mut Task, addr: Addr, len: u64) -> Result<(), Errno> {
    if len != 0 && whole_pages(addr, len) == 0 {
        return Ok(());
    }
    task.mm().lock_range(addr, len, lock_options(task))
}

/// `mlock2(2)`.
fn mlock2(task: &mut Task, addr: Addr, len: u64, flags: Flags<MlockFlags>) -> Result<(), Errno> {
    let mut options = lock_options(task);
    options.set(LockOptions::ON_FAULT, flags.known()?.contains(MlockFlags::MLOCK_ONFAULT));
    task.mm().lock_range(addr, len, options)
}

/// `munlock(2)`.
fn munlock(task: &mut Task, addr: Addr, len: u64) -> Result<(), Errno> {
    task.mm().unlock_range(addr, len)
}

/// `mlockall(2)`.
fn mlockall(task: &mut Task, flags: Flags<MlockallFlags>) -> Result<(), Errno> {
    let flags = flags.known()?;
    if flags.is_empty() {
        return Err(Errno::EINVAL);
    }
    let mut options = lock_options(task);
    options.set(LockOptions::CURRENT, flags.contains(MlockallFlags::MCL_CURRENT));
    options.set(LockOptions::FUTURE, flags.contains(MlockallFlags::MCL_FUTURE));
    options.set(LockOptions::ON_FAULT, flags.contains(MlockallFlags::MCL_ONFAULT));
    task.mm().lock_all(options)
}

/// `munlockall(2)`.
fn munlockall(task: &mut Task) -> Result<(), Errno> {
    task.mm().unlock_all();
    Ok(())
}
