//! CPU exceptions.

use super::guest::{CODE, DATA, NOWHERE, Process, READ, RW, map, pages, same};
use super::{Fixture, code};
use crate::addr::{Addr, PAGE_SIZE};
use crate::platform::{Access, FaultInfo, MapOp, Prot};

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;

fn page_fault(info: FaultInfo, addr: u64, access: Access, code: i32) -> Result<(), String> {
    same("signal", info.signal, libc::SIGSEGV)?;
    same("address", info.addr, Addr(addr))?;
    same("access", info.access, access)?;
    same("vector", info.trapno, 14)?;
    same("code", info.code, code)
}

pub(super) fn load_unmapped(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load())?;
    let mut guest = process.thread()?;
    for addr in [NOWHERE, NOWHERE + 0x123, 0, 8] {
        guest.user.regs.rip = CODE;
        guest.user.regs.rdi = addr;
        page_fault(guest.fault()?, addr, Access::Read, SEGV_MAPERR)?;
        same("rip", guest.user.regs.rip, CODE)?;
    }
    Ok(())
}

pub(super) fn store_read_only(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::store())?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = CODE + 100;
    page_fault(guest.fault()?, CODE + 100, Access::Write, SEGV_ACCERR)?;
    guest.user.regs.rdi = NOWHERE + 8;
    page_fault(guest.fault()?, NOWHERE + 8, Access::Write, SEGV_MAPERR)
}

pub(super) fn fetch_data(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::jump())?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = DATA;
    page_fault(guest.fault()?, DATA, Access::Exec, SEGV_ACCERR)?;
    same("rip", guest.user.regs.rip, DATA)?;
    guest.user.regs.rip = CODE;
    guest.user.regs.rdi = NOWHERE;
    page_fault(guest.fault()?, NOWHERE, Access::Exec, SEGV_MAPERR)
}

pub(super) fn no_access(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load())?;
    process.apply(&[MapOp::Protect { range: pages(DATA, 1), prot: Prot::empty() }])?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = DATA + 16;
    page_fault(guest.fault()?, DATA + 16, Access::Read, SEGV_ACCERR)
}

pub(super) fn non_canonical(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load())?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = 0x8000_0000_0000_0000;
    let info = guest.fault()?;
    same("signal", info.signal, libc::SIGSEGV)?;
    same("vector", info.trapno, 13)?;
    // The upper half of canonical addresses is a page fault like any other.
    guest.user.regs.rdi = 0xffff_ffff_8000_0000;
    same("signal", guest.fault()?.signal, libc::SIGSEGV)
}

pub(super) fn divide(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::divide())?;
    let info = process.thread()?.fault()?;
    same("signal", info.signal, libc::SIGFPE)?;
    same("vector", info.trapno, 0)?;
    same("code", info.code, 1)
}

pub(super) fn undefined(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::undefined())?;
    let info = process.thread()?.fault()?;
    same("signal", info.signal, libc::SIGILL)?;
    same("vector", info.trapno, 6)?;
    same("address", info.addr, Addr(CODE))
}

pub(super) fn breakpoint(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::breakpoint())?;
    let mut guest = process.thread()?;
    let info = guest.fault()?;
    same("signal", info.signal, libc::SIGTRAP)?;
    same("vector", info.trapno, 3)?;
    same("rip", guest.user.regs.rip, CODE + 1)
}

pub(super) fn privileged(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::halt())?;
    let info = process.thread()?.fault()?;
    same("signal", info.signal, libc::SIGSEGV)?;
    same("vector", info.trapno, 13)
}

pub(super) fn resolved(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load())?;
    let mut guest = process.thread()?;
    let memory = process.allocate(1)?;
    process.put_word(memory, 4711)?;
    guest.user.regs.rdi = NOWHERE;
    page_fault(guest.fault()?, NOWHERE, Access::Read, SEGV_MAPERR)?;
    process.apply(&[map(NOWHERE, memory, READ)])?;
    guest.run_to_end()?;
    same("value", guest.user.regs.rax, 4711)?;
    // Read-only so far; a store faults, is resolved, and goes through.
    process.put(process.code, code::store())?;
    let mut guest = process.thread()?;
    (guest.user.regs.rdi, guest.user.regs.rsi) = (NOWHERE, 4712);
    page_fault(guest.fault()?, NOWHERE, Access::Write, SEGV_ACCERR)?;
    process.apply(&[map(NOWHERE, memory, RW)])?;
    guest.run_to_end()?;
    same("stored", process.word(memory)?, 4712)?;
    guest.user.regs.rip = CODE;
    guest.user.regs.rdi = NOWHERE + PAGE_SIZE;
    page_fault(guest.fault()?, NOWHERE + PAGE_SIZE, Access::Write, SEGV_MAPERR)
}
