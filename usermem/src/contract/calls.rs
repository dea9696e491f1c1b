//! System calls.

use arch::Regs;

use super::guest::{CODE, Process, STACK, STACK_PAGES, ensure, same, words};
use super::{Fixture, code};
use crate::addr::PAGE_SIZE;
use crate::platform::{Exit, PlatformError};

const ENOSYS: u64 = (-38i64).cast_unsigned();

/// Distinct values in all registers that code may use freely.
fn fill(regs: &mut Regs, seed: u64) {
    let all: [&mut u64; 14] = [
        &mut regs.r15,
        &mut regs.r14,
        &mut regs.r13,
        &mut regs.r12,
        &mut regs.rbp,
        &mut regs.rbx,
        &mut regs.r11,
        &mut regs.r10,
        &mut regs.r9,
        &mut regs.r8,
        &mut regs.rcx,
        &mut regs.rdx,
        &mut regs.rsi,
        &mut regs.rdi,
    ];
    for (i, reg) in all.into_iter().enumerate() {
        *reg = seed.wrapping_mul(i as u64 + 3).rotate_left(i as u32) | 1;
    }
}

pub(super) fn arguments_arrive(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::call_loop())?;
    let mut guest = process.thread()?;
    for number in [0, 39, 231, 511, 0x3fff_ffff] {
        guest.user.regs.rip = CODE;
        fill(&mut guest.user.regs, 0x0123_4567_89ab_cdef);
        guest.user.regs.rax = number;
        let before = guest.user.regs;
        guest.syscall()?;
        let after = guest.user.regs;
        same("number", after.orig_rax, number)?;
        same("rax", after.rax, ENOSYS)?;
        same("rip", after.rip, CODE + 2)?;
        // The instruction itself overwrites rcx and r11.
        let expect = Regs {
            orig_rax: number,
            rax: ENOSYS,
            rip: CODE + 2,
            rcx: after.rcx,
            r11: after.r11,
            eflags: after.eflags,
            ..before
        };
        same("registers", after, expect)?;
    }
    Ok(())
}

pub(super) fn results_go_back(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, &[code::call_loop().get(..2).unwrap_or_default(), code::undefined()].concat())?;
    let mut guest = process.thread()?;
    guest.user.regs.rax = 39;
    guest.syscall()?;
    fill(&mut guest.user.regs, 0x1357_9bdf_0246_8ace);
    guest.user.regs.rax = 0xdead_beef_1234_5678;
    guest.user.regs.orig_rax = u64::MAX;
    let before = guest.user.regs;
    guest.run_to_end()?;
    let after = guest.user.regs;
    same("registers", Regs { orig_rax: before.orig_rax, eflags: before.eflags, ..after }, before)
}

pub(super) fn all_registers_survive(fixture: &Fixture) -> Result<(), String> {
    // CF, PF, AF, ZF, SF, DF, OF, one set at a time and all together.
    const FLAGS: [u64; 9] = [0, 1, 1 << 2, 1 << 4, 1 << 6, 1 << 7, 1 << 10, 1 << 11, 0xcd5];
    let process = Process::new(fixture, code::undefined())?;
    let mut guest = process.thread()?;
    guest.run_to_end()?;
    for (i, flags) in FLAGS.into_iter().enumerate() {
        fill(&mut guest.user.regs, 0x0f1e_2d3c_4b5a_6978 + i as u64);
        guest.user.regs.rax = 0xaaaa_5555_0000_ffff;
        guest.user.regs.rip = CODE + 2 * (i as u64 % 4);
        guest.user.regs.eflags = 0x202 | flags;
        let before = guest.user.regs;
        guest.run_to_end()?;
        let mut after = guest.user.regs;
        // The CPU sets the resume flag for a fault, and nobody cares.
        after.eflags &= !(1 << 16);
        same("registers", Regs { orig_rax: before.orig_rax, ..after }, before)?;
    }
    Ok(())
}

pub(super) fn many_in_a_row(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::call_loop())?;
    let mut guest = process.thread()?;
    // Not every number: from Linux 6.14 on, the host's seccomp lets `uretprobe` (335) and `uprobe` (336) pass unseen.
    for i in 0..1000 {
        guest.user.regs.rax = 400 + i;
        guest.syscall().map_err(|e| format!("call {i}: {e}"))?;
        same("number", guest.user.regs.orig_rax, 400 + i)?;
        same("count", guest.user.regs.rbx, i)?;
    }
    Ok(())
}

pub(super) fn stack_is_untouched(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::red_zone())?;
    let pattern: Vec<u8> = (0..STACK_PAGES * PAGE_SIZE).map(|i| (i * 7 % 251) as u8).collect();
    process.put(process.stack, &pattern)?;
    let mut guest = process.thread()?;
    (guest.user.regs.rdi, guest.user.regs.rsi) = (0x1111_2222_3333_4444, 0x5555_6666_7777_8888);
    guest.syscall()?;
    guest.run_to_end()?;
    same("red zone, top", guest.user.regs.r8, 0x1111_2222_3333_4444)?;
    same("red zone, bottom", guest.user.regs.r9, 0x5555_6666_7777_8888)?;
    let slice = words("slice", fixture.memory.slice(process.stack))?;
    let mut now = vec![0; pattern.len()];
    words("read", crate::safecopy::read_slices(&[slice], &mut now))?;
    let changed = now.iter().zip(&pattern).filter(|(a, b)| a != b).count();
    ensure("bytes of the stack changed that the guest did not write", changed <= 16)
}

pub(super) fn no_stack_needed(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::call_loop())?;
    let mut guest = process.thread()?;
    for rsp in [0, 8, STACK, u64::MAX, 0x8000_0000_0000_0000, 0xffff_8000_0000_0000] {
        guest.user.regs.rsp = rsp;
        guest.user.regs.rax = 39;
        guest.syscall()?;
        same("rsp", guest.user.regs.rsp, rsp)?;
    }
    Ok(())
}

pub(super) fn hostile_rip(fixture: &Fixture) -> Result<(), String> {
    for rip in [0, u64::MAX, 0x8000_0000_0000_0000, 0xffff_8000_0000_0000, 0x7fff_ffff_ffff] {
        let process = Process::new(fixture, code::call_loop())?;
        let mut guest = process.thread()?;
        guest.user.regs.rax = 39;
        guest.syscall()?;
        guest.user.regs.rip = rip;
        match guest.context.switch(&mut guest.user) {
            Ok(Exit::Fault(info)) => same("signal", info.signal, libc::SIGSEGV)?,
            Err(PlatformError::Dead(_)) => {}
            other => return Err(format!("rip {rip:#x}: {other:?}")),
        }
    }
    Ok(())
}
