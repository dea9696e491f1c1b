//! Patched call sites: who sees the jumps, who the file, and when they go.

use std::os::fd::AsFd;
use std::sync::Arc;

use usermem::memmap::Mappable;
use usermem::platform::{Access, AddressSpace, Prot};
use usermem::ptr::UserMemory;
use usermem::{Addr, AddrRange, PAGE_SIZE, host};
use vm_memory::VolatileSlice;

use super::fake::{FakeSpace, Guest, HostFile, file_request, layout, memory, space};
use crate::{CallSite, Grow, Learner, Limits, MapRequest, Mm, NewMm, Placement, SharedText, Sharing, TextCache};

const ENTRY: u64 = 0x7ff1_2345_6000;
/// Pages of the library: headers, text, data.
const TEXT: u64 = 2;
const TEXT_PAGES: u64 = 20;
const PAGES: u64 = 30;
/// A site in the library: `syscall; cmp $-4096, %rax`.
const SITE: u64 = 5 * PAGE_SIZE + 0x120;
const SITE_CODE: [u8; 8] = [0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff];
/// One with two short instructions behind it: `syscall; mov %eax, %edx; neg %edx; cmp …`.
const PAIR_SITE: u64 = 7 * PAGE_SIZE + 0x40;
const PAIR_CODE: [u8; 8] = [0x0f, 0x05, 0x89, 0xc2, 0xf7, 0xda, 0x3d, 0x00];
/// One like the first in another run.
const FAR_SITE: u64 = 17 * PAGE_SIZE + 0x80;
/// One that cannot be patched: `syscall; call`.
const CALL_SITE: u64 = 6 * PAGE_SIZE;
/// Of getppid(2).
const NR: u64 = 110;

fn library() -> Arc<HostFile> {
    let file = HostFile::new(7, PAGES, 0);
    let call = [0x0f, 0x05, 0xe8, 1, 0, 0, 0, 0x90];
    for (at, mut code) in [(SITE, SITE_CODE), (PAIR_SITE, PAIR_CODE), (FAR_SITE, SITE_CODE), (CALL_SITE, call)] {
        host::pwritev(file.file.as_fd(), &[VolatileSlice::from(&mut code[..])], at).unwrap();
    }
    file
}

const ROOT: Learner = Learner { uid: 0, gid: 0, capabilities: u64::MAX };

struct Sandbox {
    memory: Arc<usermem::memfile::MemoryFile>,
    cache: Arc<TextCache>,
    file: Arc<HostFile>,
}

impl Sandbox {
    fn new() -> Self {
        let memory = memory();
        Self { cache: TextCache::new(Arc::clone(&memory), Addr(ENTRY)), file: library(), memory }
    }

    /// A process that has loaded the library as ld.so does: all of it, then its text over it, then data.
    fn process(&self) -> (Guest, u64) {
        self.process_of(ROOT, false)
    }

    fn process_of(&self, learner: Learner, secure: bool) -> (Guest, u64) {
        let space: Arc<FakeSpace> = space(&self.memory);
        let mm = Mm::new(NewMm {
            space: Arc::clone(&space) as Arc<dyn AddressSpace>,
            memory: Arc::clone(&self.memory),
            layout: layout(),
            limits: Limits::default(),
            text: Some(SharedText { cache: Arc::clone(&self.cache), learner, secure }),
        });
        let guest = Guest { mm, space };
        let object = || Arc::clone(&self.file) as Arc<dyn Mappable>;
        let all = file_request(object(), 0, PAGES, 0, Prot::READ, Sharing::Private);
        let base = guest.mm.map(&MapRequest { placement: Placement::Hint(Addr(0)), ..all }).unwrap().0;
        let at = |page, pages, prot| {
            let request =
                file_request(object(), base + page * PAGE_SIZE, pages, page * PAGE_SIZE, prot, Sharing::Private);
            guest.mm.map(&request).unwrap()
        };
        at(TEXT, TEXT_PAGES, Prot::READ | Prot::EXEC);
        at(TEXT + TEXT_PAGES, PAGES - TEXT - TEXT_PAGES, Prot::READ | Prot::WRITE);
        (guest, base)
    }

    fn patched(&self) -> (Guest, u64) {
        let (guest, base) = self.process();
        guest.load(base + SITE).unwrap();
        for _ in 0..8 {
            assert_eq!(guest.mm.note_call(Addr(base + SITE + 2), NR, ROOT), CallSite::Open);
        }
        (guest, base)
    }
}

/// Where the slots of the library at `base` begin, of which one is at `slot`.
fn area_of(base: u64, slot: u64) -> u64 {
    // Their distance from the text is a multiple of their length.
    slot - (slot - (base + TEXT * PAGE_SIZE)) % crate::text::SLOTS_LEN
}

/// What guest code finds at a site: the slot that it jumps to, if it does.
fn slot_of(guest: &Guest, site: u64) -> Option<u64> {
    let code = guest.load(site).unwrap().to_le_bytes();
    let [0xe9, distance @ .., _, _, _] = code else {
        assert_eq!(code, SITE_CODE);
        return None;
    };
    let distance = i32::from_le_bytes(distance);
    Some((site + 5).wrapping_add_signed(i64::from(distance)))
}

#[test]
fn a_hot_site_jumps_to_a_slot_that_calls_and_comes_back() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.patched();
    let slot = slot_of(&guest, base + SITE).expect("patched");
    let slots = area_of(base, slot);
    assert!(arch::x86_64::patch::traps(((slot - base) >> 24) as u8), "the jump's last byte");
    assert_eq!(guest.load(slots), Ok(ENTRY));
    assert_eq!(guest.load(slot).unwrap().to_le_bytes()[..3], [0x48, 0x8d, 0x0d]);
    // The instruction pointers in between stand for the site.
    let visible = |ip| guest.mm.visible_ip(Addr(ip)).0 - base;
    assert_eq!(visible(slot), SITE);
    assert_eq!(visible(slot + 13), SITE, "a call to be restarted");
    assert_eq!(visible(slot + 15), SITE + 2);
    assert_eq!(visible(slot + 21), SITE + 8);
    assert_eq!(guest.mm.visible_ip(Addr(slots)).0, slots, "no code");
    assert_eq!(guest.mm.visible_ip(Addr(base + SITE)).0, base + SITE);
    assert_eq!(guest.mm.displaced_ip(Addr(base + SITE + 2)), Some(Addr(slot + 15)));
    assert_eq!(guest.mm.displaced_ip(Addr(base + SITE + 8)), None);
    assert_eq!(guest.mm.displaced_ip(Addr(0x1234)), None);
}

#[test]
fn each_displaced_instruction_has_its_copy() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.process();
    guest.load(base + PAIR_SITE).unwrap();
    for _ in 0..8 {
        assert_eq!(guest.mm.note_call(Addr(base + PAIR_SITE + 2), NR, ROOT), CallSite::Open);
    }
    let code = guest.load(base + PAIR_SITE).unwrap().to_le_bytes();
    assert_eq!((code[0], &code[5..]), (0xe9, &PAIR_CODE[5..]));
    assert!([code[2], code[4]].into_iter().all(arch::x86_64::patch::traps), "{code:02x?}");
    let distance = i32::from_le_bytes(code[1..5].try_into().unwrap());
    let slot = (base + PAIR_SITE + 5).wrapping_add_signed(i64::from(distance));
    assert_eq!(guest.load(slot + 15).unwrap().to_le_bytes()[..5], [0x89, 0xc2, 0xf7, 0xda, 0xe9]);
    for (within, slot_within) in [(2, 15), (4, 17)] {
        let copy = Addr(slot + slot_within);
        assert_eq!(guest.mm.displaced_ip(Addr(base + PAIR_SITE + within)), Some(copy));
        assert_eq!(guest.mm.visible_ip(copy), Addr(base + PAIR_SITE + within));
    }
    assert_eq!(guest.mm.visible_ip(Addr(slot + 19)), Addr(base + PAIR_SITE + 6));
    assert_eq!(guest.mm.displaced_ip(Addr(base + PAIR_SITE + 3)), None, "no instruction");
    assert_eq!(guest.mm.displaced_ip(Addr(base + PAIR_SITE + 6)), None, "not displaced");
    // A jump in the middle of a jump would be neither.
    for _ in 0..8 {
        guest.mm.note_call(Addr(base + PAIR_SITE + 3 + 2), NR, ROOT);
    }
    assert_eq!(guest.mm.note_call(Addr(base + PAIR_SITE + 3 + 2), NR, ROOT), CallSite::Settled);
}

#[test]
fn who_has_met_a_jump_goes_on_when_it_is_gone() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.patched();
    let slot = slot_of(&guest, base + SITE).unwrap();
    let text = (Addr(base + TEXT * PAGE_SIZE), TEXT_PAGES * PAGE_SIZE);
    guest.mm.protect(text.0, text.1, Prot::all(), Grow::No).unwrap();
    assert_eq!(slot_of(&guest, base + SITE), None);
    assert_eq!(guest.mm.displaced_ip(Addr(base + SITE + 2)), Some(Addr(slot + 15)));
    assert_eq!(guest.load(slot).unwrap().to_le_bytes()[..3], [0x48, 0x8d, 0x0d]);
    // What the program has written there is its own.
    guest.store(base + SITE, 1).unwrap();
    assert_eq!(guest.mm.displaced_ip(Addr(base + SITE + 2)), None);
}

#[test]
fn slots_do_not_go_for_what_merely_grows() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.patched();
    let slots = area_of(base, slot_of(&guest, base + SITE).unwrap());
    guest.mm.set_heap_start(Addr(slots - PAGE_SIZE));
    // A thread may be in a call from there: the C library takes its memory elsewhere.
    assert_eq!(guest.mm.brk(Addr(slots + PAGE_SIZE)), Addr(slots - PAGE_SIZE));
    assert!(slot_of(&guest, base + SITE).is_some());
}

/// Mappings of its text that the platform has.
fn text_mappings(guest: &Guest, base: u64) -> usize {
    let text = AddrRange::of_len(Addr(base + TEXT * PAGE_SIZE), TEXT_PAGES * PAGE_SIZE).unwrap();
    guest.mm.lock().installed.within(text).count()
}

#[test]
fn copies_that_no_longer_change_become_one() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.patched();
    let teach = |guest: &Guest, site: u64| {
        for _ in 0..8 {
            assert_eq!(guest.mm.note_call(Addr(site + 2), NR, ROOT), CallSite::Open);
        }
    };
    teach(&guest, base + FAR_SITE);
    // A copy, eight pages of the file, a copy.
    assert_eq!(text_mappings(&guest, base), 3);
    let processes: Vec<_> = (0..8).map(|_| sandbox.process()).collect();
    let (late, late_base) = processes.last().unwrap();
    assert!(slot_of(late, late_base + SITE).is_some() && slot_of(late, late_base + FAR_SITE).is_some());
    assert_eq!(text_mappings(late, *late_base), 1);
    let between = late_base + 12 * PAGE_SIZE;
    assert_eq!(late.load(between), guest.load(base + 12 * PAGE_SIZE));
    // A parent follows when it forks.
    let child = guest.fork();
    for process in [&guest, &child] {
        assert!(slot_of(process, base + SITE).is_some() && slot_of(process, base + FAR_SITE).is_some());
        assert_eq!(text_mappings(process, base), 1);
    }
    // One more site cuts its run out, for those who meet it and for those who come.
    teach(late, late_base + PAIR_SITE);
    assert_eq!(text_mappings(late, *late_base), 2);
    let (next, next_base) = sandbox.process();
    for site in [SITE, PAIR_SITE, FAR_SITE] {
        assert_eq!(next.load(next_base + site).unwrap().to_le_bytes()[0], 0xe9);
    }
    assert!(slot_of(&guest, base + SITE).is_some());
}

#[test]
fn later_processes_start_patched_and_old_ones_follow() {
    let sandbox = Sandbox::new();
    let (other, other_base) = sandbox.process();
    other.load(other_base + SITE).unwrap();
    let (guest, base) = sandbox.patched();
    let (third, third_base) = sandbox.process();
    assert_eq!(slot_of(&third, third_base + SITE).unwrap() - third_base, slot_of(&guest, base + SITE).unwrap() - base);
    assert_eq!(slot_of(&other, other_base + SITE), None);
    assert_eq!(other.mm.note_call(Addr(other_base + SITE + 2), NR, ROOT), CallSite::Open);
    assert!(slot_of(&other, other_base + SITE).is_some());
    // A child has what its parent has.
    let child = guest.fork();
    assert!(slot_of(&child, base + SITE).is_some());
    assert!(child.mm.displaced_ip(Addr(base + SITE + 2)).is_some());
    drop(guest);
    assert!(slot_of(&child, base + SITE).is_some());
}

#[test]
fn who_has_other_rights_teaches_nothing() {
    let sandbox = Sandbox::new();
    let user = Learner { uid: 1000, gid: 1000, capabilities: 0 };
    let learn = |guest: &Guest, base: u64, learner: Learner| {
        let answers: Vec<_> = (0..8).map(|_| guest.mm.note_call(Addr(base + SITE + 2), NR, learner)).collect();
        (answers[7], slot_of(guest, base + SITE).is_some())
    };
    let (hostile, hostile_base) = sandbox.process_of(user, false);
    assert_eq!(learn(&hostile, hostile_base, user), (CallSite::Open, true));
    for (learner, secure) in [(ROOT, false), (user, true), (Learner { gid: 0, ..user }, false)] {
        let (guest, base) = sandbox.process_of(learner, secure);
        assert_eq!(slot_of(&guest, base + SITE), None, "{learner:?} {secure}");
        // Nor does a program that has become somebody else.
        assert_eq!(learn(&guest, base, Learner { uid: 7, ..learner }), (CallSite::Settled, false));
        assert_eq!(learn(&guest, base, learner), (CallSite::Open, true));
    }
    let (same, same_base) = sandbox.process_of(user, false);
    assert!(slot_of(&same, same_base + SITE).is_some());
}

#[test]
fn sites_that_cannot_be_patched_are_settled() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.process();
    for _ in 0..7 {
        assert_eq!(guest.mm.note_call(Addr(base + CALL_SITE + 2), NR, ROOT), CallSite::Open);
    }
    assert_eq!(guest.mm.note_call(Addr(base + CALL_SITE + 2), NR, ROOT), CallSite::Settled);
    assert_eq!(guest.mm.note_call(Addr(base + SITE + 2), 15, ROOT), CallSite::Settled, "rt_sigreturn never returns");
    assert_eq!(guest.mm.note_call(Addr(0x4444), NR, ROOT), CallSite::Settled, "nothing mapped");
    assert_eq!(guest.mm.note_call(Addr(0), NR, ROOT), CallSite::Settled);
    let heap = guest.map_anonymous(0x5555_0000, 1, Prot::all()).unwrap();
    assert_eq!(guest.mm.note_call(Addr(heap.0 + 2), NR, ROOT), CallSite::Settled, "made at run time");
}

#[test]
fn only_the_cpu_sees_the_jumps() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.patched();
    let mut bytes = [0; 8];
    guest.mm.read(Addr(base + SITE), &mut bytes).unwrap();
    assert_eq!(bytes, SITE_CODE);
    let listed = guest.mm.vmas();
    assert_eq!(listed.len(), 3, "slots are not listed: {listed:?}");
    assert_eq!(guest.mm.stat().total, PAGES * PAGE_SIZE);
    assert!(guest.mm.vma_at(Addr(slot_of(&guest, base + SITE).unwrap())).is_none());
}

#[test]
fn writable_text_is_the_files_own() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.patched();
    let text = (Addr(base + TEXT * PAGE_SIZE), TEXT_PAGES * PAGE_SIZE);
    guest.mm.protect(text.0, text.1, Prot::all(), Grow::No).unwrap();
    assert_eq!(slot_of(&guest, base + SITE), None);
    guest.store(base + SITE + 8, 1).unwrap();
    assert_eq!(slot_of(&guest, base + SITE), None);
    guest.mm.protect(text.0, text.1, Prot::READ | Prot::EXEC, Grow::No).unwrap();
    assert_eq!(slot_of(&guest, base + SITE), None);
    assert_eq!(guest.mm.note_call(Addr(base + SITE + 2), NR, ROOT), CallSite::Settled, "the guest's own copy");
    assert_eq!(guest.load(base + SITE + 8), Ok(1));
}

#[test]
fn a_debugger_writes_to_the_files_bytes() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.patched();
    guest.mm.write_remote(Addr(base + SITE + 16), &[0xcc]).unwrap();
    assert_eq!(slot_of(&guest, base + SITE), None);
    assert_eq!(guest.load(base + SITE + 16).unwrap() & 0xff, 0xcc);
}

#[test]
fn who_names_the_slots_loses_them() {
    let sandbox = Sandbox::new();
    let slots = |guest: &Guest, base| area_of(base, slot_of(guest, base + SITE).unwrap());
    let (guest, base) = sandbox.patched();
    let at = slots(&guest, base);
    guest.map_anonymous(at, 1, Prot::READ).unwrap();
    assert_eq!(slot_of(&guest, base + SITE), None);
    assert_eq!(guest.load(at), Ok(0));
    let (guest, base) = sandbox.patched();
    let at = slots(&guest, base);
    assert!(guest.mm.unmap(Addr(at + PAGE_SIZE), PAGE_SIZE).is_ok());
    assert_eq!(slot_of(&guest, base + SITE), None);
    assert!(guest.load(at).is_err());
}

#[test]
fn slots_go_with_their_library() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.patched();
    let slot = slot_of(&guest, base + SITE).unwrap();
    guest.mm.unmap(Addr(base), PAGES * PAGE_SIZE).unwrap();
    assert!(guest.mm.handle_fault(Addr(slot), Access::Exec).is_err());
    assert!(guest.mm.vmas().is_empty());
    // The place is free again.
    let (other, again) = sandbox.process();
    assert_eq!(again, base);
    assert!(slot_of(&other, again + SITE).is_some());
}

#[test]
fn nothing_is_left_of_it() {
    let sandbox = Sandbox::new();
    let (guest, base) = sandbox.patched();
    let child = guest.fork();
    assert!(slot_of(&child, base + SITE).is_some());
    drop((guest, child));
    let Sandbox { memory, cache, .. } = sandbox;
    drop(cache);
    // With the pages that are kept for the next who needs some.
    memory.trim();
    assert_eq!(memory.usage(), 0);
}
