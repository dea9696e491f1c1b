//! Interrupts of guest code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arch::UserContext;
use usermem::platform::{Context, Exit, Platform};

use super::{loop_getpid, spin};
use crate::common::{CODE, DATA, Machine, start};

crate::guest_code!(spin_and_call, "2: mov rcx, 50", "3: loop 3b", "mov eax, 39", "syscall", "inc r15", "jmp 2b");

#[test]
fn an_interrupt_stops_guest_code_that_makes_no_calls() {
    let machine = Machine::new();
    let guest = machine.guest(spin());
    let mut context = guest.context();
    let mut user = start();
    let interrupter = context.interrupter();
    interrupter.interrupt();
    interrupter.interrupt();
    let before = user.clone();
    assert_eq!(context.switch(&mut user).unwrap(), Exit::Interrupted);
    assert_eq!(user, before, "a remembered interrupt runs nothing");
    for _ in 0..100 {
        let interrupter = context.interrupter();
        let thread = std::thread::spawn(move || {
            std::thread::yield_now();
            interrupter.interrupt();
        });
        assert_eq!(context.switch(&mut user).unwrap(), Exit::Interrupted);
        assert!((CODE..CODE + 16).contains(&user.regs.rip), "{:#x}", user.regs.rip);
        thread.join().unwrap();
    }
}

/// Runs `user` while interrupts rain on it, until it has made `most` calls or 20 s are over; `at_call` hears of each call and how
/// many came before it. Returns how many calls and interrupts there were.
pub(super) fn storm(
    context: &mut dyn Context,
    user: &mut UserContext,
    most: u64,
    at_call: impl Fn(&UserContext, u64),
) -> (u64, u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let (interrupter, stopped) = (context.interrupter(), Arc::clone(&stop));
    let thread = std::thread::spawn(move || {
        let mut sent = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            interrupter.interrupt();
            sent += 1;
            for _ in 0..sent % 3000 {
                std::hint::spin_loop();
            }
        }
    });
    let (mut calls, mut interrupts) = (0_u64, 0_u64);
    user.regs.r15 = 0;
    [user.regs.rbx, user.regs.rbp, user.regs.r12, user.regs.r8] = [0xb, 0xbb, 0xc, 0x8];
    let begun = Instant::now();
    while calls < most && begun.elapsed().as_secs() < 20 {
        match context.switch(user).unwrap() {
            Exit::Syscall => {
                at_call(user, calls);
                calls += 1;
            }
            Exit::Interrupted => interrupts += 1,
            other => panic!("{other:?} after {calls} calls"),
        }
        let r = &user.regs;
        assert_eq!([r.rbx, r.rbp, r.r12, r.r8], [0xb, 0xbb, 0xc, 0x8]);
        assert_eq!(r.rsp, start().regs.rsp);
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    (calls, interrupts)
}

#[test]
fn a_storm_of_interrupts_loses_and_corrupts_nothing() {
    let machine = Machine::new();
    let guest = machine.guest(spin_and_call());
    let mut context = guest.context();
    let at_call = |user: &UserContext, before| assert_eq!(user.regs.r15, before, "calls and increments");
    let (calls, interrupts) = storm(&mut *context, &mut start(), 50_000, at_call);
    assert!(interrupts > 10 && calls > 1000, "{interrupts} interrupts, {calls} calls");
}

#[test]
fn interrupts_from_many_threads_are_never_lost() {
    // Each round: the guest spins, one interrupt must end it.
    let machine = Machine::new();
    let guest = machine.guest(spin_and_call());
    let mut context = guest.context();
    let mut user = start();
    let interrupter = context.interrupter();
    let (ask, asked) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        while asked.recv().is_ok() {
            interrupter.interrupt();
        }
    });
    for _ in 0..5_000 {
        ask.send(()).unwrap();
        // Calls may come first; the interrupt must come.
        let mut calls = 0_u64;
        while context.switch(&mut user).unwrap() != Exit::Interrupted {
            calls += 1;
            assert!(calls < 50_000_000, "interrupt lost");
        }
    }
    drop(ask);
    thread.join().unwrap();
}

#[test]
fn a_guest_that_is_deaf_to_interrupts_is_killed() {
    // A loop through the exit's iretq, whose frame names it again.
    let machine = Machine::with_patience(std::time::Duration::from_millis(300));
    let base = machine.systrap.limits().user.end.0;
    let guest = machine.guest(loop_getpid());
    let mut context = guest.context();
    let mut code = vec![0; 0x1000];
    let file = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let maps = std::fs::read_to_string(entry.path().join("maps")).ok()?;
        let ours = maps.contains(&format!("{base:x}-")) && maps.contains("00400000-");
        ours.then(|| std::fs::File::open(entry.path().join("mem")).ok()).flatten()
    });
    std::os::unix::fs::FileExt::read_exact_at(&file.expect("our stub"), &mut code, base).unwrap();
    let iretq = base + code.windows(2).position(|bytes| bytes == [0x48, 0xcf]).unwrap() as u64;
    for (index, word) in [iretq, 0x33, 0x202, DATA, 0x2b].iter().enumerate() {
        machine.write(guest.data + index as u64 * 8, &word.to_le_bytes());
    }
    let mut user = start();
    (user.regs.rip, user.regs.rsp) = (iretq, DATA);
    let interrupter = context.interrupter();
    let thread = std::thread::spawn(move || context.switch(&mut user).map_err(|_| ()));
    std::thread::sleep(std::time::Duration::from_millis(20));
    interrupter.interrupt();
    let begun = std::time::Instant::now();
    let outcome = thread.join().unwrap();
    assert!(begun.elapsed().as_secs() < 5);
    assert!(matches!(outcome, Err(()) | Ok(Exit::Interrupted)), "{outcome:?}");
}
