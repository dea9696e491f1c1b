//! One operation at a time: errors, limits, placement, and how often the platform is asked.

use std::sync::Arc;

use abi::Errno;
use usermem::bytes::{IoDst, IoSrc};
use usermem::memmap::Mappable;
use usermem::platform::{Access, Prot};
use usermem::ptr::{UserBuf, UserMemory};
use usermem::{Addr, PAGE_SIZE};

use super::fake::{BASE, Guest, HostFile, file_request, layout, memory};
use crate::pma::Place;
use crate::vma::VmaFlags;
use crate::{
    Advice, Fault, FutexKey, Grow, Limits, LockOptions, MapOptions, MapRequest, MappedFile, Placement, RemapOptions,
    RemapRequest, SharedMemory, Sharing, Source, SyncOptions, Text,
};

const RW: Prot = Prot::READ.union(Prot::WRITE);

#[test]
fn placement_is_top_down_with_hints() {
    let guest = Guest::new(&memory());
    let first = guest.mm.map(&MapRequest::anonymous(PAGE_SIZE, RW)).unwrap();
    assert_eq!(first.0, layout().mmap_base.0 - PAGE_SIZE);
    let second = guest.mm.map(&MapRequest::anonymous(1, Prot::READ)).unwrap();
    assert_eq!(second.0, first.0 - PAGE_SIZE);
    let hint =
        |addr, len| MapRequest { placement: Placement::Hint(Addr(addr)), ..MapRequest::anonymous(len, Prot::READ) };
    assert_eq!(guest.mm.map(&hint(BASE + 5, PAGE_SIZE)).unwrap().0, BASE + PAGE_SIZE);
    assert_eq!(guest.mm.map(&hint(BASE + 5, PAGE_SIZE)).unwrap().0, second.0 - PAGE_SIZE);
    let low = MapRequest { placement: Placement::Low(Addr(0)), ..MapRequest::anonymous(PAGE_SIZE, RW) };
    assert_eq!(guest.mm.map(&low).unwrap().0, 0x4000_0000);
    assert_eq!(guest.mm.map(&low).unwrap().0, 0x4000_1000);
    // A hole in the middle is found again.
    guest.mm.unmap(second, PAGE_SIZE).unwrap();
    assert_eq!(guest.mm.map(&MapRequest::anonymous(PAGE_SIZE, RW)).unwrap(), second);
    let taken = MapRequest { placement: Placement::FixedNoReplace(second), ..MapRequest::anonymous(PAGE_SIZE, RW) };
    assert_eq!(guest.mm.map(&taken), Err(Errno::EEXIST));
    let at = |addr| MapRequest::anonymous(PAGE_SIZE, RW).at(Addr(addr));
    assert_eq!(guest.mm.map(&at(0x1000)), Err(Errno::EPERM));
    assert_eq!(guest.mm.map(&at(1)), Err(Errno::EINVAL));
    assert_eq!(guest.mm.map(&at(0x7fff_ffff_f000)), Err(Errno::ENOMEM));
    assert_eq!(guest.mm.map(&MapRequest::anonymous(0, RW)), Err(Errno::EINVAL));
}

#[test]
fn what_is_remembered_of_places_changes_none() {
    let guest = Guest::new(&memory());
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..3000 {
        let pages = [1, 1, 2, 2, 3, 40][random(6) as usize];
        let somewhere = Addr(layout().mmap_base.0 - (1 + random(3000)) * PAGE_SIZE);
        if random(2) == 0 {
            guest.mm.unmap(somewhere, pages * PAGE_SIZE).unwrap();
            continue;
        }
        let request = MapRequest::anonymous(pages * PAGE_SIZE, RW);
        let (options, flags) = match random(20) {
            0 => (MapOptions::GROWSDOWN, VmaFlags::GROWSDOWN),
            _ => (MapOptions::empty(), VmaFlags::empty()),
        };
        let request = MapRequest { options, ..request };
        if random(10) == 0 {
            guest.mm.map(&request.at(somewhere)).unwrap();
            continue;
        }
        let expected = {
            let state = guest.mm.lock();
            let remembered = state.packed.replace(None);
            let expected = state.find(Addr(0), pages * PAGE_SIZE, flags, layout().user);
            state.packed.set(remembered);
            expected.unwrap().start
        };
        assert_eq!(guest.mm.map(&request).unwrap(), expected);
    }
}

#[test]
fn what_was_never_touched_costs_the_platform_nothing() {
    let guest = Guest::new(&memory());
    guest.map_anonymous(BASE, 100, RW).unwrap();
    guest.mm.protect(Addr(BASE), 10 * PAGE_SIZE, Prot::READ, Grow::No).unwrap();
    guest.mm.unmap(Addr(BASE), 100 * PAGE_SIZE).unwrap();
    assert_eq!(guest.batches(), 0);
    guest.map_anonymous(BASE, 100, RW).unwrap();
    for page in 0..100 {
        guest.store(BASE + page * PAGE_SIZE, page).unwrap();
    }
    assert_eq!(guest.batches(), 5, "each run is as long as all before it");
    guest.mm.unmap(Addr(BASE), 100 * PAGE_SIZE).unwrap();
    assert_eq!(guest.batches(), 6);
}

#[test]
fn locked_and_populated_memory_is_there() {
    let memory = memory();
    let guest = Guest::new(&memory);
    guest.map_anonymous(BASE, 1000, RW).unwrap();
    guest.store(BASE, 5).unwrap();
    guest.mm.lock_range(Addr(BASE), 1000 * PAGE_SIZE, LockOptions::MAY_LOCK).unwrap();
    assert_eq!(memory.usage(), 1000 * PAGE_SIZE);
    assert_eq!(guest.mm.incore(Addr(BASE), 1000 * PAGE_SIZE), Ok(vec![1; 1000]));
    assert_eq!(guest.load(BASE), Ok(5));
    let batches = guest.batches();
    guest.store(BASE + 999 * PAGE_SIZE, 6).unwrap();
    assert_eq!(guest.batches(), batches, "no fault");
    let more = MapRequest { options: MapOptions::POPULATE, ..MapRequest::anonymous(9 * PAGE_SIZE, RW) };
    let more = guest.mm.map(&more).unwrap();
    assert_eq!(guest.mm.incore(more, 9 * PAGE_SIZE), Ok(vec![1; 9]));
    guest.map_anonymous(BASE, 1000, RW).unwrap();
    guest.mm.advise(Addr(BASE), 9 * PAGE_SIZE, Advice::PopulateWrite).unwrap();
    assert_eq!(guest.mm.incore(Addr(BASE), 9 * PAGE_SIZE), Ok(vec![1; 9]));
}

#[test]
fn reading_a_large_hole_takes_no_memory() {
    let memory = memory();
    let guest = Guest::new(&memory);
    guest.map_anonymous(BASE, 64 << 8, RW).unwrap();
    for page in 0..1000 {
        assert_eq!(guest.load(BASE + page * PAGE_SIZE), Ok(0));
    }
    assert_eq!(memory.usage(), 0);
    assert_eq!(guest.batches(), 1);
    guest.store(BASE + 5 * PAGE_SIZE, 1).unwrap();
    assert_eq!(guest.load(BASE + 5 * PAGE_SIZE), Ok(1));
    assert_eq!(guest.load(BASE + 6 * PAGE_SIZE), Ok(0));
}

#[test]
fn a_kernel_write_shows_under_an_installed_zero_page() {
    let guest = Guest::new(&memory());
    guest.map_anonymous(BASE, 1024, RW).unwrap();
    assert_eq!(guest.load(BASE), Ok(0));
    guest.mm.write(Addr(BASE), &7u64.to_le_bytes()).unwrap();
    assert_eq!(guest.load(BASE), Ok(7));
}

#[test]
fn copies_after_fork_end_up_contiguous() {
    let guest = Guest::new(&memory());
    guest.map_anonymous(BASE, 256, RW).unwrap();
    for page in 0..256 {
        guest.store(BASE + page * PAGE_SIZE, page).unwrap();
    }
    let child = guest.fork();
    for page in 0..256 {
        child.store(BASE + page * PAGE_SIZE, page + 1).unwrap();
        assert_eq!(guest.load(BASE + page * PAGE_SIZE), Ok(page));
    }
    assert_eq!(child.mm.lock().installed.len(), 1);
    assert_eq!(child.mm.lock().pmas.len(), 1);
    // The child has copied all: the parent is alone and upgrades without copying.
    let before = guest.batches();
    guest.store(BASE, 9).unwrap();
    guest.store(BASE + 200 * PAGE_SIZE, 9).unwrap();
    assert_eq!(guest.batches() - before, 1);
    assert_eq!(child.load(BASE), Ok(1));
}

#[test]
fn stacks_grow_to_their_limit_and_keep_their_distance() {
    let guest = Guest::new(&memory());
    guest.mm.set_limits(Limits { stack: 1 << 20, ..Limits::NONE });
    let stack = MapRequest { options: MapOptions::STACK, ..MapRequest::anonymous(16 * PAGE_SIZE, RW).at(Addr(BASE)) };
    guest.mm.map(&stack).unwrap();
    let top = BASE + 16 * PAGE_SIZE;
    guest.store(BASE - 8, 1).unwrap();
    guest.store(top - (1 << 20), 1).unwrap();
    assert_eq!(guest.store(top - (1 << 20) - 8, 1), Err(Fault::NotMapped));
    guest.mm.set_limits(Limits { stack: 16 << 20, ..Limits::NONE });
    guest.map_anonymous(top - (4 << 20), 1, RW).unwrap();
    assert_eq!(guest.store(top - (4 << 20) + 2 * PAGE_SIZE, 1), Err(Fault::NotMapped), "too near");
    guest.store(top - (2 << 20), 1).unwrap();
    assert_eq!(guest.mm.write(Addr(top - (2 << 20) - 16), &[1; 8]), Ok(()), "the kernel's writes grow it too");
}

#[test]
fn limits() {
    let memory = memory();
    let guest = Guest::new(&memory);
    guest.mm.set_limits(Limits { address_space: 10 * PAGE_SIZE, data: 4 * PAGE_SIZE, ..Limits::NONE });
    guest.map_anonymous(BASE, 4, RW).unwrap();
    assert_eq!(guest.map_anonymous(BASE + (1 << 20), 1, RW), Err(Errno::ENOMEM));
    guest.map_anonymous(BASE, 4, RW).unwrap();
    guest.map_anonymous(BASE + (1 << 20), 6, Prot::READ).unwrap();
    assert_eq!(guest.map_anonymous(BASE + (2 << 20), 1, Prot::READ), Err(Errno::ENOMEM));
    assert_eq!(guest.mm.protect(Addr(BASE + (1 << 20)), PAGE_SIZE, RW, Grow::No), Err(Errno::ENOMEM));
    guest.mm.set_limits(Limits::NONE);
    assert_eq!(guest.mm.map(&MapRequest::anonymous(2 << 30, RW)), Err(Errno::ENOMEM), "more than there is");
    let sparse = MapRequest { options: MapOptions::NORESERVE, ..MapRequest::anonymous(1 << 40, RW) };
    guest.mm.map(&sparse).unwrap();
}

#[test]
fn too_many_mappings() {
    let guest = Guest::new(&memory());
    let mut made = 0;
    let outcome = loop {
        match guest.map_anonymous(BASE + made * 2 * PAGE_SIZE, 1, RW) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((made, outcome), (65_530, Errno::ENOMEM));
}

#[test]
fn heap() {
    let guest = Guest::new(&memory());
    guest.mm.set_heap_start(Addr(BASE + 100));
    assert_eq!(guest.mm.brk(Addr(0)).0, BASE + 100);
    assert_eq!(guest.mm.brk(Addr(BASE + 5000)).0, BASE + 5000);
    guest.store(BASE + PAGE_SIZE, 1).unwrap();
    assert_eq!(guest.load(BASE + 2 * PAGE_SIZE), Err(Fault::NotMapped));
    assert_eq!(guest.mm.brk(Addr(BASE + 100)).0, BASE + 100);
    assert_eq!(guest.load(BASE + PAGE_SIZE), Err(Fault::NotMapped));
    guest.map_anonymous(BASE + (1 << 20), 1, RW).unwrap();
    assert_eq!(guest.mm.brk(Addr(BASE + (2 << 20))).0, BASE + 100);
    assert_eq!(guest.mm.brk(Addr(BASE + (1 << 20))).0, BASE + (1 << 20));
    assert_eq!(guest.mm.vmas().first().unwrap().name, b"[heap]");
}

#[test]
fn truncation_takes_pages_and_gives_bus_errors() {
    let memory = memory();
    let guest = Guest::new(&memory);
    let file = HostFile::new(5, 8, 100);
    let map =
        |addr, sharing| guest.mm.map(&file_request(Arc::clone(&file) as Arc<dyn Mappable>, addr, 16, 0, RW, sharing));
    map(BASE, Sharing::Private).unwrap();
    map(BASE + (1 << 20), Sharing::Shared).unwrap();
    assert_eq!(guest.load(BASE + 7 * PAGE_SIZE), Ok(107));
    guest.store(BASE + 7 * PAGE_SIZE, 1).unwrap();
    guest.store(BASE + (1 << 20) + 6 * PAGE_SIZE, 55).unwrap();
    assert_eq!(guest.load(BASE + 6 * PAGE_SIZE), Ok(106), "copied in one run with page 7");
    assert_eq!(guest.load(BASE + 8 * PAGE_SIZE), Err(Fault::Bus));
    assert_eq!(guest.store(BASE + 9 * PAGE_SIZE, 1), Err(Fault::Bus));
    file.truncate(7 * PAGE_SIZE);
    assert_eq!(guest.load(BASE + 7 * PAGE_SIZE), Err(Fault::Bus));
    assert_eq!(guest.load(BASE + (1 << 20) + 7 * PAGE_SIZE), Err(Fault::Bus));
    assert_eq!(guest.load(BASE + (1 << 20) + 6 * PAGE_SIZE), Ok(55));
    assert_eq!(guest.mm.read(Addr(BASE + 7 * PAGE_SIZE), &mut [0; 8]), Err(Errno::EFAULT));
}

#[test]
fn vectors_move_between_all_kinds_of_memory() {
    let memory = memory();
    let guest = Guest::new(&memory);
    let file = HostFile::new(5, 4, 100) as Arc<dyn Mappable>;
    guest.mm.map(&file_request(Arc::clone(&file), BASE, 4, 0, RW, Sharing::Shared)).unwrap();
    guest.mm.map(&file_request(file, BASE + (1 << 20), 4, 0, Prot::READ, Sharing::Private)).unwrap();
    guest.map_anonymous(BASE + (2 << 20), 4, RW).unwrap();
    let bufs = [
        UserBuf::new(Addr(BASE + PAGE_SIZE), 8),
        UserBuf::new(Addr(BASE + (2 << 20)), 8),
        UserBuf::new(Addr(BASE + PAGE_SIZE * 2), 8),
        UserBuf::new(Addr(0x1000), 8),
    ];
    let mut dst = guest.mm.dst(&bufs);
    assert_eq!(dst.put(&[3; 32]), Ok(24));
    assert_eq!(dst.put(&[3; 8]), Err(Errno::EFAULT));
    let word = u64::from_le_bytes([3; 8]);
    assert_eq!(guest.load(BASE + PAGE_SIZE), Ok(word));
    assert_eq!(guest.load(BASE + (2 << 20)), Ok(word));
    let bufs = [
        UserBuf::new(Addr(BASE + (1 << 20) + 2 * PAGE_SIZE), 8),
        UserBuf::new(Addr(BASE + (2 << 20)), 8),
        UserBuf::new(Addr(BASE + (2 << 20) + PAGE_SIZE), 8),
    ];
    let mut out = [9; 24];
    assert_eq!(guest.mm.src(&bufs).take(&mut out), Ok(24));
    assert_eq!(out[..16], [3; 16]);
    assert_eq!(guest.mm.write(Addr(BASE + (1 << 20)), &[1]), Err(Errno::EFAULT));
    assert_eq!(guest.mm.write_remote(Addr(BASE + (1 << 20)), &[1; 8]), Ok(8), "a debugger may");
    assert_eq!(guest.load(BASE + (1 << 20)), Ok(u64::from_le_bytes([1; 8])));
    assert_eq!(guest.load(BASE), Ok(100), "in a copy of its own");
    assert_eq!(guest.mm.cmpxchg_u32(Addr(BASE + (2 << 20)), 0x0303_0303, 5), Ok(Ok(0x0303_0303)));
    assert_eq!(guest.mm.load_u32(Addr(BASE + (2 << 20))), Ok(5));
    assert_eq!(guest.mm.load_u32(Addr(BASE + (2 << 20) + 2)), Err(Errno::EINVAL));
    assert_eq!(guest.mm.cmpxchg_u32(Addr(BASE + 3 * PAGE_SIZE), 103, 5), Ok(Ok(103)), "in the file");
    assert_eq!(guest.mm.cmpxchg_u32(Addr(BASE + 3 * PAGE_SIZE), 103, 6), Ok(Err(5)));
    assert_eq!(guest.load(BASE + 3 * PAGE_SIZE), Ok(5));
}

#[test]
fn advice() {
    let guest = Guest::new(&memory());
    guest.map_anonymous(BASE, 4, RW).unwrap();
    guest.store(BASE, 1).unwrap();
    guest.store(BASE + PAGE_SIZE, 2).unwrap();
    guest.mm.advise(Addr(BASE), 1, Advice::Free).unwrap();
    assert_eq!((guest.load(BASE), guest.load(BASE + PAGE_SIZE)), (Ok(0), Ok(2)));
    guest.mm.advise(Addr(BASE), PAGE_SIZE, Advice::WipeOnFork).unwrap();
    guest.mm.advise(Addr(BASE + 2 * PAGE_SIZE), PAGE_SIZE, Advice::DontFork).unwrap();
    guest.store(BASE, 3).unwrap();
    let child = guest.fork();
    assert_eq!((child.load(BASE), child.load(BASE + PAGE_SIZE)), (Ok(0), Ok(2)));
    assert_eq!(child.load(BASE + 2 * PAGE_SIZE), Err(Fault::NotMapped));
    guest.mm.lock_range(Addr(BASE), 1, LockOptions::empty()).unwrap();
    assert_eq!(guest.mm.advise(Addr(BASE), 1, Advice::DontNeed), Err(Errno::EINVAL));
    assert_eq!(guest.mm.sync(Addr(BASE), 1, SyncOptions::INVALIDATE), Err(Errno::EBUSY));
    assert_eq!(guest.mm.advise(Addr(BASE), 1, Advice::Remove), Err(Errno::EINVAL));
    assert_eq!(guest.mm.advise(Addr(BASE + 1), 1, Advice::Normal), Err(Errno::EINVAL));
    assert_eq!(guest.mm.advise(Addr(BASE), 5 * PAGE_SIZE, Advice::PopulateWrite), Err(Errno::ENOMEM));
    assert_eq!(guest.mm.advise(Addr(BASE), 5 * PAGE_SIZE, Advice::Cold), Err(Errno::EINVAL));
    assert_eq!(guest.mm.incore(Addr(BASE), 4 * PAGE_SIZE).map(|pages| pages.len()), Ok(4));
}

#[test]
fn mremap_errors_and_growth() {
    let guest = Guest::new(&memory());
    guest.map_anonymous(BASE, 4, RW).unwrap();
    guest.map_anonymous(BASE + 8 * PAGE_SIZE, 1, RW).unwrap();
    guest.store(BASE + 3 * PAGE_SIZE, 7).unwrap();
    let request = |old: u64, new: u64, options| RemapRequest {
        old_addr: Addr(BASE),
        old_len: old * PAGE_SIZE,
        new_len: new * PAGE_SIZE,
        new_addr: Addr(0),
        options,
    };
    let none = RemapOptions::empty();
    assert_eq!(guest.mm.remap(&request(4, 8, none)), Ok(Addr(BASE)));
    assert_eq!(guest.mm.remap(&request(8, 9, none)), Err(Errno::ENOMEM));
    let moved = guest.mm.remap(&request(8, 9, RemapOptions::MAY_MOVE)).unwrap();
    assert_eq!(guest.load(moved.0 + 3 * PAGE_SIZE), Ok(7));
    assert_eq!(guest.load(BASE), Err(Fault::NotMapped));
    assert_eq!(guest.mm.remap(&request(1, 2, RemapOptions::MAY_MOVE)), Err(Errno::EFAULT));
    assert_eq!(guest.mm.remap(&request(1, 0, none)), Err(Errno::EINVAL));
    assert_eq!(guest.mm.remap(&request(1, 2, RemapOptions::FIXED)), Err(Errno::EINVAL));
}

#[test]
fn futexes_of_shared_memory_meet() {
    let memory = memory();
    let (one, two) = (Guest::new(&memory), Guest::new(&memory));
    let shared = SharedMemory::new(&memory, 2 * PAGE_SIZE).unwrap() as Arc<dyn Mappable>;
    one.mm.map(&file_request(Arc::clone(&shared), BASE, 2, 0, RW, Sharing::Shared)).unwrap();
    two.mm.map(&file_request(shared, BASE + (1 << 20), 1, PAGE_SIZE, RW, Sharing::Shared)).unwrap();
    let key = one.mm.futex_key(Addr(BASE + PAGE_SIZE + 8), Sharing::Shared).unwrap();
    assert_eq!(Ok(key), two.mm.futex_key(Addr(BASE + (1 << 20) + 8), Sharing::Shared));
    assert!(matches!(one.mm.futex_key(Addr(BASE), Sharing::Private), Ok(FutexKey::Private { .. })));
    assert_eq!(one.mm.futex_key(Addr(8), Sharing::Shared), Err(Errno::EFAULT));
    one.store(BASE + PAGE_SIZE, 4).unwrap();
    assert_eq!(two.load(BASE + (1 << 20)), Ok(4));
    assert_eq!(one.mm.handle_fault(Addr(BASE), Access::Exec), Err(Fault::NotAllowed));
}

#[test]
fn the_platform_never_holds_too_many_mappings() {
    let guest = Guest::new(&memory());
    let pages = 130_000;
    guest.map_anonymous(BASE, pages, Prot::READ).unwrap();
    for page in (0..pages).step_by(2) {
        let at = BASE + page * PAGE_SIZE;
        match guest.mm.protect(Addr(at), PAGE_SIZE, RW, Grow::No) {
            Ok(()) => guest.store(at, page).unwrap(),
            Err(error) => {
                assert_eq!(error, Errno::ENOMEM);
                assert!(page > 60_000);
                break;
            }
        }
        assert!(guest.mm.lock().installed.len() <= 40_000);
    }
    for page in (0..60_000).step_by(1000) {
        assert_eq!(guest.load(BASE + page * PAGE_SIZE), Ok(page));
    }
}

#[test]
fn populating_ends() {
    let guest = Guest::new(&memory());
    let request = MapRequest {
        options: MapOptions::POPULATE | MapOptions::NORESERVE,
        ..MapRequest::anonymous(1 << 45, RW).at(Addr(1 << 45))
    };
    guest.mm.map(&request).unwrap();
    assert_eq!(guest.mm.advise(Addr(1 << 45), 1 << 45, Advice::PopulateRead), Err(Errno::ENOMEM));
    guest.mm.lock_range(Addr(1 << 45), 1 << 45, LockOptions::MAY_LOCK).unwrap();
}

/// A file on a noexec mount.
struct Noexec;

impl MappedFile for Noexec {
    fn path(&self) -> Vec<u8> {
        Vec::new()
    }
    fn dev(&self) -> u64 {
        0
    }
    fn ino(&self) -> u64 {
        0
    }
    fn text(&self) -> Text {
        Text::Copied
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[test]
fn text_of_noexec_mounts_is_copied() {
    let guest = Guest::new(&memory());
    let file = HostFile::new(5, 4, 100) as Arc<dyn Mappable>;
    let mut request = file_request(file, BASE, 4, 0, Prot::READ | Prot::EXEC, Sharing::Private);
    if let Source::File(source) = &mut request.source {
        source.file = Arc::new(Noexec);
    }
    guest.mm.map(&request).unwrap();
    guest.mm.handle_fault(Addr(BASE), Access::Exec).unwrap();
    assert_eq!(guest.load(BASE + 3 * PAGE_SIZE), Ok(103));
    let state = guest.mm.lock();
    let memory_only = state.installed.iter().all(|(_, installed)| matches!(installed.place, Place::Memory { .. }));
    assert!(memory_only && state.installed.len() == 1);
}
