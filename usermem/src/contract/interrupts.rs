//! Interrupts from other threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::guest::{CODE, DATA, Process, ensure, same, words};
use super::{Fixture, code};
use crate::addr::PAGE_SIZE;
use crate::platform::{Exit, Interrupt};

pub(super) fn running(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::spin())?;
    let mut guest = process.thread()?;
    for round in 0..20 {
        process.put_word(process.data, 0)?;
        guest.user.regs.rip = CODE;
        guest.user.regs.rdi = DATA;
        guest.user.regs.rbx = round;
        let interrupter = guest.context.interrupter();
        let runner = thread::spawn(move || {
            let exit = guest.switch();
            (guest, exit)
        });
        process.wait_for_change(process.data, 0)?;
        interrupter.interrupt();
        let (back, exit) = runner.join().map_err(|_| "a thread panicked".to_owned())?;
        guest = back;
        same("exit", exit?, Exit::Interrupted)?;
        let rip = guest.user.regs.rip;
        let len = code::spin().len() as u64;
        ensure("rip is in the loop", rip > CODE && rip < CODE + len)?;
        same("rbx", guest.user.regs.rbx, round)?;
    }
    Ok(())
}

pub(super) fn remembered(fixture: &Fixture) -> Result<(), String> {
    let process = Process::new(fixture, code::call_loop())?;
    let mut guest = process.thread()?;
    let interrupter = guest.context.interrupter();
    for round in 0..20 {
        guest.user.regs.rax = round;
        let before = guest.user.clone();
        interrupter.interrupt();
        same("exit", guest.switch()?, Exit::Interrupted)?;
        same("registers", guest.user.regs, before.regs)?;
        // Once is once.
        guest.syscall()?;
        same("number", guest.user.regs.orig_rax, round)?;
        same("returns", guest.user.regs.rbx, round)?;
    }
    // From the first switch on.
    let mut fresh = process.thread()?;
    fresh.context.interrupter().interrupt();
    same("exit", fresh.switch()?, Exit::Interrupted)?;
    fresh.user.regs.rax = 1;
    fresh.syscall()
}

pub(super) fn storm(fixture: &Fixture) -> Result<(), String> {
    const CALLS: u64 = 2000;
    let process = Process::new(fixture, code::call_loop())?;
    let mut guest = process.thread()?;
    stormed(guest.context.interrupter(), || {
        let mut calls = 0;
        while calls < CALLS {
            if guest.user.regs.rip == CODE || guest.user.regs.rip == CODE + 2 {
                // About to call, or returning: the number of the next call.
                guest.user.regs.rax = 1000 + calls;
            }
            match guest.switch()? {
                Exit::Syscall => {
                    same("returns", guest.user.regs.rbx, calls)?;
                    same("rip", guest.user.regs.rip, CODE + 2)?;
                    same("number", guest.user.regs.orig_rax, 1000 + calls)?;
                    calls += 1;
                }
                Exit::Interrupted => {
                    let inside = (CODE..CODE + code::call_loop().len() as u64).contains(&guest.user.regs.rip);
                    ensure("rip after an interrupt is in the guest's code", inside)?;
                }
                other => return Err(format!("exit: {other:?} at {:#x}", guest.user.regs.rip)),
            }
        }
        Ok(())
    })
}

/// Bases that were set are in force, also where an interrupt came between their setting and the guest's next instruction.
pub(super) fn storm_of_bases(fixture: &Fixture) -> Result<(), String> {
    const CALLS: u64 = 20_000;
    let process = Process::new(fixture, code::segment_loop())?;
    let at = |page: u64| process.data.part(page * PAGE_SIZE, PAGE_SIZE);
    for page in 0..4 {
        process.put_word(at(page), 10 + page)?;
    }
    let mut guest = process.thread()?;
    stormed(guest.context.interrupter(), || {
        for call in 0..CALLS {
            let (fs, gs) = (call % 3, 3 - call % 2);
            (guest.user.regs.fs_base, guest.user.regs.gs_base) = (DATA + fs * PAGE_SIZE, DATA + gs * PAGE_SIZE);
            loop {
                match guest.switch()? {
                    Exit::Syscall => break,
                    Exit::Interrupted => {}
                    other => return Err(format!("exit: {other:?} at {:#x}", guest.user.regs.rip)),
                }
            }
            same("what the bases lead to", (guest.user.regs.r8, guest.user.regs.r9), (10 + fs, 10 + gs))?;
        }
        Ok(())
    })
}

/// Does `work` while another thread interrupts all the time.
fn stormed(interrupter: Arc<dyn Interrupt>, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let stormer = thread::spawn(move || {
        let mut sent = 0u64;
        while !stopped.load(Ordering::Relaxed) {
            interrupter.interrupt();
            sent += 1;
            for _ in 0..sent % 64 {
                std::hint::spin_loop();
            }
            thread::yield_now();
        }
    });
    let result = work();
    stop.store(true, Ordering::Relaxed);
    words("the storming thread", stormer.join().map_err(|_| "panicked"))?;
    result
}
