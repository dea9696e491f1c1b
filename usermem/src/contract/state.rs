//! Extended state, segment bases, and the life of spaces.

use super::guest::{DATA, Guest, Process, ensure, same, words};
use super::{Fixture, code};
use crate::addr::PAGE_SIZE;

/// Where XSAVE's legacy area keeps xmm0 (Intel SDM vol. 1, 13.4.1), sixteen bytes each.
const XMM0: usize = 160;
/// Where its header keeps the bitmap of components in use.
const XSTATE_BV: usize = 512;

fn vector(image: &[u8], index: usize) -> Result<u64, String> {
    let at = XMM0 + 16 * index;
    let bytes = image.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map(u64::from_le_bytes).ok_or_else(|| format!("the image has only {} bytes", image.len()))
}

pub(super) fn fpu_survives(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::vectors())?;
    let mut guest = process.thread()?;
    (guest.user.regs.rdi, guest.user.regs.rsi) = (0x1111_1111_2222_2222, 0x3333_3333_4444_4444);
    guest.syscall()?;
    // The kernel's own use of vector registers in between must not show.
    let noise: Vec<f64> = (0..1000).map(f64::from).map(f64::sqrt).collect();
    ensure("noise", noise.iter().sum::<f64>() > 1.0)?;
    guest.run_to_end()?;
    same("xmm0", guest.user.regs.r8, 0x1111_1111_2222_2222)?;
    same("xmm1", guest.user.regs.r9, 0x3333_3333_4444_4444)
}

pub(super) fn fpu_pull_set(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::vectors())?;
    let mut guest = process.thread()?;
    (guest.user.regs.rdi, guest.user.regs.rsi) = (0xa1, 0xb2);
    guest.syscall()?;
    words("pull_full", guest.context.pull_full(&mut guest.user))?;
    same("xmm0", vector(&guest.user.fpu.image, 0)?, 0xa1)?;
    same("xmm1", vector(&guest.user.fpu.image, 1)?, 0xb2)?;
    let image = &mut guest.user.fpu.image;
    for (to, from) in image.iter_mut().skip(XMM0 + 16).zip(0xc3c3_u64.to_le_bytes()) {
        *to = from;
    }
    // Bit 1: the vector registers are not in their initial state.
    if let Some(bitmap) = image.get_mut(XSTATE_BV) {
        *bitmap |= 2;
    }
    words("set_full", guest.context.set_full(&guest.user))?;
    // Pulling again before the switch gives what was set.
    words("pull_full", guest.context.pull_full(&mut guest.user))?;
    same("xmm1 as set", vector(&guest.user.fpu.image, 1)?, 0xc3c3)?;
    guest.run_to_end()?;
    same("xmm0 in the guest", guest.user.regs.r8, 0xa1)?;
    same("xmm1 in the guest", guest.user.regs.r9, 0xc3c3)
}

pub(super) fn fpu_copy(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::vectors())?;
    let mut guest = process.thread()?;
    (guest.user.regs.rdi, guest.user.regs.rsi) = (0x5151, 0x6262);
    guest.syscall()?;
    // Within the space (clone) and into another one (fork).
    let other = Process::new(fixture, code::read_vectors())?;
    for (space, what) in [(&process, "same space"), (&other, "other space")] {
        space.put(space.code, code::read_vectors())?;
        let context = words(what, space.space.new_context(Some(&mut *guest.context)))?;
        let mut copy = Guest::new(context);
        copy.run_to_end()?;
        same(what, (copy.user.regs.r8, copy.user.regs.r9), (0x5151, 0x6262))?;
    }
    // The original is as it was.
    words("pull_full", guest.context.pull_full(&mut guest.user))?;
    same("original", vector(&guest.user.fpu.image, 0)?, 0x5151)
}

pub(super) fn fpu_apart(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::vectors())?;
    let mut guests = Vec::new();
    for i in 0..4 {
        let mut guest = process.thread()?;
        (guest.user.regs.rdi, guest.user.regs.rsi) = (100 + i, 200 + i);
        guest.syscall()?;
        guests.push(guest);
    }
    for (i, mut guest) in (0..).zip(guests) {
        guest.run_to_end()?;
        same("vectors", (guest.user.regs.r8, guest.user.regs.r9), (100 + i, 200 + i))?;
    }
    // A context made without a source starts from zeros.
    process.put(process.code, code::read_vectors())?;
    let mut fresh = process.thread()?;
    fresh.run_to_end()?;
    same("fresh", (fresh.user.regs.r8, fresh.user.regs.r9), (0, 0))
}

pub(super) fn segment_bases(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::segments())?;
    let at = |i: u64| process.data.part(i * PAGE_SIZE, PAGE_SIZE);
    for i in 0..4 {
        process.put_word(at(i), 10 + i)?;
    }
    let mut guest = process.thread()?;
    (guest.user.regs.fs_base, guest.user.regs.gs_base) = (DATA, DATA + PAGE_SIZE);
    guest.syscall()?;
    same("before the call", (guest.user.regs.r8, guest.user.regs.r9), (10, 11))?;
    same("bases", (guest.user.regs.fs_base, guest.user.regs.gs_base), (DATA, DATA + PAGE_SIZE))?;
    (guest.user.regs.fs_base, guest.user.regs.gs_base) = (DATA + 2 * PAGE_SIZE, DATA + 3 * PAGE_SIZE);
    guest.run_to_end()?;
    same("after the call", (guest.user.regs.r8, guest.user.regs.r9), (12, 13))?;
    // SAFETY: getauxval has no memory conditions.
    let can_set_its_own = unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 != 0;
    if can_set_its_own {
        process.put(process.code, code::set_fs_base())?;
        let mut guest = process.thread()?;
        guest.user.regs.fs_base = DATA;
        guest.user.regs.rdi = DATA + PAGE_SIZE;
        guest.syscall()?;
        same("base set by the guest", guest.user.regs.fs_base, DATA + PAGE_SIZE)?;
        guest.run_to_end()?;
        same("still set", guest.user.regs.r8, 11)?;
    }
    Ok(())
}

pub(super) fn churn(fixture: &Fixture) -> Result<(), String> {
    let open = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let mut after_first = 0;
    for round in 0..30 {
        let process = Process::new(fixture, code::undefined())?;
        let threads: Result<Vec<Guest>, String> = (0..3).map(|_| process.thread()).collect();
        for mut guest in threads? {
            guest.run_to_end()?;
        }
        drop(process);
        if round == 5 {
            after_first = open();
        }
    }
    ensure("descriptors leak", open() <= after_first + 16)
}
