//! Calls through the entry of patched sites: nothing but what a system call changes is changed, whatever comes between.

use std::sync::atomic::{AtomicBool, Ordering};

use usermem::platform::{Context, Exit, Platform};

use crate::common::{CODE, DATA, Machine, start, syscall};

/// As a slot does it, the entry's address being the first word of the data: the return address in rcx, and a `syscall` instruction before it.
macro_rules! call {
    () => {
        "lea rcx, [rip + 77f]\n .byte 0xff, 0x24, 0x25\n .long 0x500000\n syscall\n 77:"
    };
}

fn guest(machine: &Machine, code: &[u8]) -> (crate::common::Guest, Box<dyn Context>) {
    let guest = machine.guest(code);
    let entry = machine.systrap.call_entry().expect("an entry");
    machine.write(guest.data, &entry.0.to_le_bytes());
    let context = guest.context();
    (guest, context)
}

#[test]
fn registers_and_flags_pass_through() {
    crate::guest_code!(code, "2:", "stc", call!(), "jnc 3f", "jmp 2b", "3: ud2");
    let machine = Machine::new();
    let (_guest, mut context) = guest(&machine, code());
    let mut user = start();
    let r = &mut user.regs;
    for (index, reg) in [
        &mut r.rax, &mut r.rbx, &mut r.rdx, &mut r.rsi, &mut r.rdi, &mut r.rbp, &mut r.r8, &mut r.r9, &mut r.r10,
        &mut r.r12, &mut r.r13, &mut r.r14, &mut r.r15,
    ]
    .into_iter()
    .enumerate()
    {
        *reg = 0x1111_0000_0000_0000 + index as u64;
    }
    (user.regs.rax, user.regs.ss, user.regs.fs_base) = (39, 0x2b, DATA + 0x100);
    for round in 0..1000_u64 {
        let before = user.regs;
        assert_eq!(context.switch(&mut user).unwrap(), Exit::Call);
        let r = user.regs;
        assert_eq!((r.orig_rax, r.rax), (before.rax, (-38_i64) as u64));
        assert_eq!((r.rcx, r.r11), (r.rip, r.eflags), "as after the instruction");
        assert_eq!(r.eflags & 1, 1);
        let expected = arch::Regs {
            orig_rax: r.orig_rax,
            rax: r.rax,
            rip: r.rip,
            rcx: r.rcx,
            r11: r.r11,
            eflags: r.eflags,
            ..before
        };
        assert_eq!(r, expected);
        (user.regs.rax, user.regs.r14) = (round, round ^ 5);
    }
}

#[test]
fn extended_state_stays_in_the_cpu_until_asked_for() {
    crate::guest_code!(
        code,
        "movq xmm3, rdi",
        "fld1",
        "mov eax, 1",
        call!(),
        "2: movq [0x500100], xmm3",
        "fst qword ptr [0x500108]",
        "mov eax, 2",
        call!(),
        "jmp 2b",
    );
    let machine = Machine::new();
    let (guest, mut context) = guest(&machine, code());
    let mut user = start();
    user.regs.rdi = 0x1234_5678;
    let expect = || {
        assert_eq!(machine.word(guest.data + 0x100), 0x1234_5678);
        assert_eq!(f64::from_bits(machine.word(guest.data + 0x108)), 1.0);
        machine.write(guest.data + 0x100, &[0; 16]);
    };
    assert_eq!(context.switch(&mut user).unwrap(), Exit::Call);
    assert_eq!(std::hint::black_box([1.5_f64; 32]).iter().sum::<f64>(), 48.0);
    assert_eq!(context.switch(&mut user).unwrap(), Exit::Call);
    expect();
    // A look changes nothing, and sees it.
    context.pull_full(&mut user).unwrap();
    assert_eq!(user.fpu.image[160 + 48..160 + 56], 0x1234_5678_u64.to_le_bytes());
    assert_eq!(context.switch(&mut user).unwrap(), Exit::Call);
    expect();
    // A copy has it, and goes on by itself.
    let mut copy = guest.space.new_context(Some(&mut *context)).unwrap();
    let mut copied = user.clone();
    assert_eq!(copy.switch(&mut copied).unwrap(), Exit::Call);
    expect();
    assert_eq!(context.switch(&mut user).unwrap(), Exit::Call);
    expect();
    // What is set is there.
    user.fpu.image[160 + 48..160 + 56].copy_from_slice(&77_u64.to_le_bytes());
    context.set_full(&user).unwrap();
    assert_eq!(context.switch(&mut user).unwrap(), Exit::Call);
    assert_eq!(machine.word(guest.data + 0x100), 77);
}

#[test]
fn interrupts_at_any_point_change_nothing() {
    crate::guest_code!(
        code,
        "xor ebx, ebx",
        "2: inc rbx",
        "mov rdi, rbx",
        "movq xmm5, rbx",
        "mov rax, rbx",
        "stc",
        call!(),
        "jnc 3f",
        "lea rdx, [rbx + 7]",
        "cmp rax, rdx",
        "jne 3f",
        "movq rdx, xmm5",
        "cmp rdx, rbx",
        "jne 3f",
        "cmp rdi, rbx",
        "jne 3f",
        "jmp 2b",
        "3: ud2",
    );
    const CALLS: u64 = 30_000;
    let machine = Machine::new();
    let (_guest, mut context) = guest(&machine, code());
    let mut user = start();
    let done = AtomicBool::new(false);
    let kicks = std::thread::scope(|scope| {
        let interrupter = context.interrupter();
        let done = &done;
        let kicker = scope.spawn(move || {
            let mut kicks = 0_u64;
            while !done.load(Ordering::Relaxed) {
                interrupter.interrupt();
                kicks += 1;
                for _ in 0..kicks % 997 {
                    std::hint::spin_loop();
                }
            }
            kicks
        });
        let mut calls = 0;
        while calls < CALLS {
            match context.switch(&mut user).unwrap() {
                Exit::Call | Exit::Syscall => {
                    calls += 1;
                    assert_eq!(user.regs.orig_rax, calls);
                    user.regs.rax = calls + 7;
                    if calls % 97 == 0 {
                        context.pull_full(&mut user).unwrap();
                        assert_eq!(user.fpu.image[160 + 80..160 + 88], calls.to_le_bytes());
                    }
                }
                Exit::Interrupted => {}
                Exit::Fault(fault) => {
                    done.store(true, Ordering::Relaxed);
                    panic!("{fault:?} at {:#x}, {:?}", user.regs.rip - CODE, user.regs);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        kicker.join().unwrap()
    });
    assert!(kicks > 100);
}

#[test]
fn a_guest_with_a_gs_base_of_its_own_traps() {
    crate::guest_code!(
        code,
        "mov eax, 1",
        call!(),
        "wrgsbase rdi",
        "mov eax, 2",
        call!(),
        "mov rbx, gs:[8]",
        "mov eax, 3",
        call!()
    );
    let machine = Machine::new();
    let (guest, mut context) = guest(&machine, code());
    let mut user = start();
    user.regs.rdi = DATA + 0x200;
    machine.write(guest.data + 0x208, &0xabcd_u64.to_le_bytes());
    assert_eq!(context.switch(&mut user).unwrap(), Exit::Call);
    assert_eq!(user.regs.gs_base, 0, "what the guest has set");
    assert_eq!(syscall(&mut *context, &mut user), 2);
    assert_eq!(user.regs.gs_base, DATA + 0x200);
    assert_eq!(syscall(&mut *context, &mut user), 3);
    assert_eq!(user.regs.rbx, 0xabcd);
}

#[test]
fn single_steps_go_by_the_instruction_that_traps() {
    crate::guest_code!(code, "mov eax, 9", call!(), "mov eax, 10", "syscall");
    let machine = Machine::new();
    let (_guest, mut context) = guest(&machine, code());
    let mut user = start();
    user.regs.eflags |= 0x100;
    let (mut steps, mut calls) = (0, 0);
    while calls < 2 {
        match context.switch(&mut user).unwrap() {
            Exit::Fault(info) => {
                assert_eq!((info.signal, info.trapno), (libc::SIGTRAP, 1));
                assert!((CODE..CODE + 64).contains(&user.regs.rip), "{:#x}", user.regs.rip);
                steps += 1;
            }
            Exit::Syscall => {
                calls += 1;
                assert_eq!(user.regs.orig_rax, 8 + calls);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(steps >= 4);
}

#[test]
fn published_answers_come_without_an_exit_also_under_interrupts() {
    crate::guest_code!(
        code,
        "2: mov eax, 39",
        "stc",
        call!(),
        "jnc 3f",
        "cmp rax, 77",
        "jne 3f",
        "inc r15",
        "test r15, 0xffff",
        "jnz 2b",
        // The same low byte, and none that has an answer.
        "mov eax, 0x127",
        call!(),
        "jmp 2b",
        "3: ud2",
    );
    let machine = Machine::new();
    let (_guest, mut context) = guest(&machine, code());
    let interrupter = context.interrupter();
    interrupter.publish(39, Some(77));
    let mut user = start();
    user.regs.r15 = 0;
    [user.regs.rbx, user.regs.rbp, user.regs.r12, user.regs.r8] = [0xb, 0xbb, 0xc, 0x8];
    let stop = AtomicBool::new(false);
    let (mut calls, mut interrupts) = (0_u64, 0_u64);
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                interrupter.interrupt();
                sent += 1;
                for _ in 0..sent % 3000 {
                    std::hint::spin_loop();
                }
            }
        });
        while interrupts < 300 && begun.elapsed().as_secs() < 20 {
            match context.switch(&mut user) {
                Ok(Exit::Call) => {
                    calls += 1;
                    if (user.regs.orig_rax, user.regs.r15) != (0x127, calls << 16) {
                        break;
                    }
                }
                Ok(Exit::Interrupted) => interrupts += 1,
                // The first after an interrupt in the entry comes by the trap, without an answer.
                Ok(Exit::Syscall) if user.regs.orig_rax == 0x127 => calls += 1,
                Ok(Exit::Syscall) if user.regs.orig_rax == 39 => user.regs.rax = 77,
                _ => break,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let r = &user.regs;
    // The last interrupt came somewhere between two calls.
    assert!((r.r15 >> 16) - calls <= 1, "{} of {calls} calls, {interrupts} interrupts, at {:#x}", r.r15, r.rip);
    assert_eq!([r.rbx, r.rbp, r.r12, r.r8], [0xb, 0xbb, 0xc, 0x8]);
    // Fewer on a machine that is busy for twenty seconds; anything wrong ends the loop at once.
    let slow = begun.elapsed().as_secs() >= 20;
    assert!(calls > 10 && (interrupts >= 300 || slow), "{calls} calls, {interrupts} interrupts, at {:#x}", r.rip);
}
