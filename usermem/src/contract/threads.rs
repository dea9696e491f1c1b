//! Several threads of one space.

use std::sync::Arc;
use std::thread;

use super::guest::{CODE, DATA, Guest, NOWHERE, Process, READ, RW, ensure, map, pages, same, words};
use super::{Fixture, code};
use crate::addr::PAGE_SIZE;
use crate::platform::{Access, Exit, MapOp, PlatformError};

type Running = thread::JoinHandle<(Guest, Result<Exit, PlatformError>)>;

/// Runs a guest until its next exit on another thread.
fn spawn(mut guest: Guest) -> Running {
    thread::spawn(move || {
        let exit = guest.context.switch(&mut guest.user);
        (guest, exit)
    })
}

fn join(running: Running) -> Result<(Guest, Result<Exit, PlatformError>), String> {
    running.join().map_err(|_| "a thread panicked".to_owned())
}

fn expect_fault(exit: Result<Exit, PlatformError>, addr: u64, access: Access) -> Result<(), String> {
    match words("switch", exit)? {
        Exit::Fault(info) => same("fault", (info.addr.0, info.access), (addr, access)),
        other => Err(format!("exit: got {other:?}, want a fault")),
    }
}

pub(super) fn unmap_while_running(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::store_loop())?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = DATA;
    let running = spawn(guest);
    process.wait_for_change(process.data, 0)?;
    process.apply(&[MapOp::Unmap { range: pages(DATA, 1) }])?;
    let at_return = process.word(process.data)?;
    let (_, exit) = join(running)?;
    expect_fault(exit, DATA, Access::Write)?;
    same("no store after apply returned", process.word(process.data)?, at_return)
}

pub(super) fn protect_while_running(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::store_loop())?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = DATA;
    let mut running = spawn(guest);
    for _ in 0..20 {
        let before = process.word(process.data)?;
        process.wait_for_change(process.data, before)?;
        process.apply(&[MapOp::Protect { range: pages(DATA, 1), prot: READ }])?;
        let at_return = process.word(process.data)?;
        let (guest, exit) = join(running)?;
        expect_fault(exit, DATA, Access::Write)?;
        same("no store after apply returned", process.word(process.data)?, at_return)?;
        process.apply(&[MapOp::Protect { range: pages(DATA, 1), prot: RW }])?;
        running = spawn(guest);
    }
    process.space.kill();
    join(running).map(drop)
}

pub(super) fn map_seen_by_others(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::load_loop())?;
    let (one, two) = (process.allocate(1)?, process.allocate(1)?);
    process.put_word(one, 1)?;
    process.put_word(two, 2)?;
    process.apply(&[map(NOWHERE, one, READ)])?;
    let mut guest = process.thread()?;
    (guest.user.regs.rdi, guest.user.regs.rsi) = (NOWHERE, DATA);
    let running = spawn(guest);
    process.wait_for_change(process.data, 0)?;
    process.apply(&[map(NOWHERE, two, READ)])?;
    // Two rounds of the loop later, the value must be the new one.
    let now = process.word(process.data)?;
    let next = process.wait_for_change(process.data, now)?;
    process.wait_for_change(process.data, next)?;
    process.apply(&[MapOp::Unmap { range: pages(NOWHERE, 1) }])?;
    let (guest, exit) = join(running)?;
    expect_fault(exit, NOWHERE, Access::Read)?;
    same("last value", guest.user.regs.rax, 2)
}

pub(super) fn many(fixture: &Fixture) -> Result<(), String> {
    const THREADS: u64 = 32;
    const ROUNDS: u64 = 200;
    let process = Process::new(fixture, code::count_and_call())?;
    let guests: Result<Vec<Guest>, String> = (0..THREADS).map(|_| process.thread()).collect();
    let threads: Vec<_> = guests?
        .into_iter()
        .map(|mut guest| {
            thread::spawn(move || -> Result<u64, String> {
                (guest.user.regs.rdi, guest.user.regs.rbx) = (DATA, ROUNDS);
                let mut calls = 0;
                loop {
                    match guest.switch()? {
                        Exit::Syscall => {
                            same("number", guest.user.regs.orig_rax, 24)?;
                            calls += 1;
                        }
                        Exit::Fault(info) if info.signal == libc::SIGILL => return Ok(calls),
                        other => return Err(format!("exit: {other:?} at {:#x}", guest.user.regs.rip)),
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        let calls = thread.join().map_err(|_| "a thread panicked".to_owned())??;
        same("calls", calls, ROUNDS)?;
    }
    same("count", process.word(process.data)?, THREADS * ROUNDS)
}

pub(super) fn barrier(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::spin())?;
    words("with no thread", process.space.barrier())?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = DATA;
    let idle = process.thread()?;
    let running = spawn(guest);
    process.wait_for_change(process.data, 0)?;
    for _ in 0..10 {
        words("barrier", process.space.barrier())?;
    }
    drop(idle);
    process.space.kill();
    join(running).map(drop)
}

pub(super) fn kill(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::spin())?;
    let mut guest = process.thread()?;
    guest.user.regs.rdi = DATA + PAGE_SIZE;
    let mut idle = process.thread()?;
    let running = spawn(guest);
    process.wait_for_change(process.data.part(PAGE_SIZE, PAGE_SIZE), 0)?;
    process.space.kill();
    process.space.kill();
    let (mut guest, exit) = join(running)?;
    ensure("the running switch says Dead", matches!(exit, Err(PlatformError::Dead(_))))?;
    for guest in [&mut guest, &mut idle] {
        guest.user.regs.rip = CODE;
        let exit = guest.context.switch(&mut guest.user);
        ensure("a later switch says Dead", matches!(exit, Err(PlatformError::Dead(_))))?;
    }
    ensure("apply fails", process.space.apply(&[MapOp::Unmap { range: pages(DATA, 1) }]).is_err())?;
    // Others live on.
    let space = Arc::clone(&process.space);
    drop(process);
    drop(space);
    let other = Process::new(fixture, code::undefined())?;
    other.thread()?.run_to_end()
}
