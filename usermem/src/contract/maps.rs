//! Changes of an address space, seen by one thread.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::guest::{CODE, DATA, DATA_PAGES, NOWHERE, Process, READ, RW, RX, ensure, map, pages, same, words};
use super::{Fixture, code};
use crate::VolatileSlice;
use crate::addr::PAGE_SIZE;
use crate::host;
use crate::platform::{Access, Backing, MapOp, Prot};

/// Runs `code` with `rdi` and `rsi` to its end; says `rax`.
fn call(process: &Process, code: &[u8], rdi: u64, rsi: u64) -> Result<u64, String> {
    process.put(process.code, code)?;
    let mut guest = process.thread()?;
    (guest.user.regs.rdi, guest.user.regs.rsi) = (rdi, rsi);
    guest.run_to_end()?;
    Ok(guest.user.regs.rax)
}

/// Runs `code` as [`call`]; says which access faulted at `rdi`.
fn faults(process: &Process, code: &[u8], rdi: u64) -> Result<Access, String> {
    process.put(process.code, code)?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = rdi;
    let info = guest.fault()?;
    same("signal", info.signal, libc::SIGSEGV)?;
    same("address", info.addr.0, rdi)?;
    Ok(info.access)
}

pub(super) fn memory_is_shared(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load())?;
    process.put_word(process.data.part(PAGE_SIZE, PAGE_SIZE), 99)?;
    same("guest reads", call(&process, code::load(), DATA + PAGE_SIZE, 0)?, 99)?;
    call(&process, code::store(), DATA + PAGE_SIZE, 100)?;
    same("kernel reads", process.word(process.data.part(PAGE_SIZE, PAGE_SIZE))?, 100)?;
    // The same pages at a second place.
    process.apply(&[map(NOWHERE, process.data, READ)])?;
    same("alias", call(&process, code::load(), NOWHERE + PAGE_SIZE, 0)?, 100)
}

pub(super) fn map_replaces(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load())?;
    let other = process.allocate(1)?;
    process.put_word(process.data, 1)?;
    process.put_word(other, 2)?;
    same("before", call(&process, code::load(), DATA, 0)?, 1)?;
    process.apply(&[map(DATA, other, RW)])?;
    same("after", call(&process, code::load(), DATA, 0)?, 2)?;
    same("old page", process.word(process.data)?, 1)?;
    process.apply(&[MapOp::Unmap { range: pages(DATA, 1) }])?;
    same("access", faults(&process, code::load(), DATA)?, Access::Read)?;
    same("neighbour", call(&process, code::load(), DATA + PAGE_SIZE, 0)?, 0)
}

pub(super) fn protect(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load())?;
    let range = pages(DATA + PAGE_SIZE, 1);
    process.apply(&[MapOp::Protect { range, prot: READ }])?;
    same("store", faults(&process, code::store(), DATA + PAGE_SIZE)?, Access::Write)?;
    call(&process, code::load(), DATA + PAGE_SIZE, 0)?;
    call(&process, code::store(), DATA, 5)?;
    call(&process, code::store(), DATA + 2 * PAGE_SIZE, 5)?;
    process.apply(&[MapOp::Protect { range, prot: Prot::empty() }])?;
    same("load", faults(&process, code::load(), DATA + PAGE_SIZE)?, Access::Read)?;
    process.apply(&[MapOp::Protect { range, prot: RW }])?;
    call(&process, code::store(), DATA + PAGE_SIZE, 6)?;
    same("value", process.word(process.data.part(PAGE_SIZE, PAGE_SIZE))?, 6)?;
    // Execution given to data.
    process.put(process.data.part(PAGE_SIZE, PAGE_SIZE), code::undefined())?;
    process.apply(&[MapOp::Protect { range, prot: RX }])?;
    process.put(process.code, code::jump())?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = DATA + PAGE_SIZE;
    guest.run_to_end()?;
    same("rip", guest.user.regs.rip, DATA + PAGE_SIZE)
}

pub(super) fn populate(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::sum())?;
    let memory = process.allocate(16)?;
    for i in 0..16 {
        process.put_word(memory.part(i * PAGE_SIZE, PAGE_SIZE), i)?;
    }
    let backing = Backing::Memory { offset: memory.start };
    process.apply(&[MapOp::Map { range: pages(NOWHERE, 16), backing, prot: RW, populate: true }])?;
    same("sum", call(&process, code::sum(), NOWHERE, 16)?, 120)
}

pub(super) fn zeros(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load())?;
    let backing = Backing::Zero;
    process.apply(&[MapOp::Map { range: pages(NOWHERE, 1024), backing, prot: READ, populate: false }])?;
    same("sum", call(&process, code::sum(), NOWHERE, 1024)?, 0)?;
    same("store", faults(&process, code::store(), NOWHERE + 512 * PAGE_SIZE)?, Access::Write)
}

/// A host file of two pages: code at its start, a word at the second page.
fn host_file(code: &[u8], word: u64) -> Result<Arc<std::os::fd::OwnedFd>, String> {
    let file = words("memfd", host::memfd(c"casemate-contract"))?;
    let mut bytes = vec![0; 2 * PAGE_SIZE as usize];
    for (to, from) in bytes.iter_mut().zip(code) {
        *to = *from;
    }
    for (to, from) in bytes.iter_mut().skip(PAGE_SIZE as usize).zip(word.to_le_bytes()) {
        *to = from;
    }
    words("pwrite", host::pwritev(file.as_fd(), &[VolatileSlice::from(&mut bytes[..])], 0))?;
    Ok(Arc::new(file))
}

pub(super) fn host_private(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load())?;
    let file = host_file(code::undefined(), 77)?;
    let backing = |offset| Backing::Host { file: Arc::clone(&file), offset, shared: false };
    process.apply(&[
        MapOp::Map { range: pages(NOWHERE, 1), backing: backing(0), prot: RX, populate: false },
        MapOp::Map { range: pages(NOWHERE + PAGE_SIZE, 1), backing: backing(PAGE_SIZE), prot: READ, populate: false },
    ])?;
    same("word", call(&process, code::load(), NOWHERE + PAGE_SIZE, 0)?, 77)?;
    same("store", faults(&process, code::store(), NOWHERE + PAGE_SIZE)?, Access::Write)?;
    process.put(process.code, code::jump())?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = NOWHERE;
    guest.run_to_end()?;
    same("rip in the file", guest.user.regs.rip, NOWHERE)
}

pub(super) fn host_shared(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::store())?;
    let file = host_file(&[], 1)?;
    let backing = Backing::Host { file: Arc::clone(&file), offset: PAGE_SIZE, shared: true };
    process.apply(&[MapOp::Map { range: pages(NOWHERE, 2), backing, prot: RW, populate: false }])?;
    call(&process, code::store(), NOWHERE, 0x1122)?;
    let mut word = [0; 8];
    words("pread", host::preadv(file.as_fd(), &[VolatileSlice::from(&mut word[..])], PAGE_SIZE))?;
    same("in the file", u64::from_le_bytes(word), 0x1122)?;
    // Past the end of the file.
    process.put(process.code, code::load())?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = NOWHERE + PAGE_SIZE;
    same("past the end", guest.fault()?.signal, libc::SIGBUS)
}

pub(super) fn batches(fixture: &Fixture) -> Result<(), String> {
    const PAGES: u64 = 1000;
    let process = Process::new(fixture, code::sum())?;
    let memory = process.allocate(PAGES)?;
    let file = host_file(&[], 3)?;
    let mut ops = Vec::new();
    let mut sum = 0;
    for i in 0..PAGES {
        let part = memory.part((PAGES - 1 - i) * PAGE_SIZE, PAGE_SIZE);
        process.put_word(part, i * i)?;
        let at = NOWHERE + i * PAGE_SIZE;
        ops.push(map(at, part, RW));
        match i % 5 {
            0 => {
                ops.push(MapOp::Unmap { range: pages(at, 1) });
                let backing = Backing::Host { file: Arc::clone(&file), offset: PAGE_SIZE, shared: false };
                ops.push(MapOp::Map { range: pages(at, 1), backing, prot: READ, populate: false });
                sum += 3;
            }
            1 => {
                ops.push(MapOp::Protect { range: pages(at, 1), prot: READ });
                sum += i * i;
            }
            _ => sum += i * i,
        }
    }
    process.apply(&ops)?;
    same("sum", call(&process, code::sum(), NOWHERE, PAGES)?, sum)?;
    same("protected", faults(&process, code::store(), NOWHERE + PAGE_SIZE)?, Access::Write)?;
    process.apply(&[MapOp::Unmap { range: pages(NOWHERE, PAGES) }])?;
    same("gone", faults(&process, code::load(), NOWHERE + 999 * PAGE_SIZE)?, Access::Read)?;
    process.apply(&[])
}

pub(super) fn holes(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load())?;
    process.apply(&[
        MapOp::Unmap { range: pages(NOWHERE, 100) },
        MapOp::Protect { range: pages(NOWHERE, 100), prot: READ },
        MapOp::Protect { range: pages(DATA - 16 * PAGE_SIZE, 32), prot: READ },
        MapOp::Unmap { range: pages(DATA + (DATA_PAGES - 1) * PAGE_SIZE, 8) },
    ])?;
    same("still there", call(&process, code::load(), DATA, 0)?, 0)?;
    same("protected", faults(&process, code::store(), DATA)?, Access::Write)?;
    same("gone", faults(&process, code::load(), DATA + (DATA_PAGES - 1) * PAGE_SIZE)?, Access::Read)
}

pub(super) fn isolation(fixture: &Fixture) -> Result<(), String> {
    let a = Process::new(fixture, code::load())?;
    let b = Process::new(fixture, code::load())?;
    a.put_word(a.data, 1)?;
    b.put_word(b.data, 2)?;
    a.apply(&[map(NOWHERE, a.data, RW)])?;
    same("a", call(&a, code::load(), DATA, 0)?, 1)?;
    same("b", call(&b, code::load(), DATA, 0)?, 2)?;
    call(&b, code::store(), DATA, 3)?;
    same("a after b's store", a.word(a.data)?, 1)?;
    same("b has no such mapping", faults(&b, code::load(), NOWHERE)?, Access::Read)?;
    let limits = fixture.platform.limits();
    ensure("the user range holds the usual addresses", limits.user.contains_range(pages(CODE, 1)))?;
    ensure("the user range ends on a page", limits.user.is_page_aligned())
}
