//! The mask of blocked signals that the stub changes alone: as the call would, and never halfway.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;

use arch::{Regs, UserContext};
use usermem::platform::{Context, Exit, GuestMask, Platform, Prot};

use crate::common::{CODE, DATA, Guest, LEN, Machine, map, start};

/// As in `calls`.
macro_rules! call {
    () => {
        "lea rcx, [rip + 77f]\n .byte 0xff, 0x24, 0x25\n .long 0x500000\n syscall\n 77:"
    };
}

/// SIGKILL and SIGSTOP.
const UNBLOCKABLE: u64 = 1 << 8 | 1 << 18;
/// Arithmetic flags and the direction flag.
const FLAGS: u64 = 0xcd5;
const SIGPROCMASK: u64 = 14;

fn guest(machine: &Machine, code: &[u8]) -> (Guest, Box<dyn Context>, Arc<dyn GuestMask>) {
    let guest = machine.guest(code);
    machine.write(guest.data, &machine.systrap.call_entry().expect("an entry").0.to_le_bytes());
    let context = guest.context();
    let mask = context.mask().expect("a mask");
    (guest, context, mask)
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    let x = *state ^ *state >> 29;
    x.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ x >> 32
}

/// sigprocmask(2), with sets that can be read.
fn changed(how: u64, old: u64, set: u64) -> u64 {
    let new = match how {
        0 => old | set,
        1 => old & !set,
        _ => set,
    };
    new & !UNBLOCKABLE
}

crate::guest_code!(once, "2:", call!(), "mov r15, rax", "pushfq", "pop r14", "mov eax, 500", "syscall", "jmp 2b");

/// Makes the call with `args`, with flags and registers that must stay. What it said, or `None`: it came to us.
fn ask(context: &mut dyn Context, args: [u64; 4], flags: u64) -> Option<u64> {
    let mut user = start();
    let keep = [0xb0, 0xb1, 0xc0, 0xc1, 0x80, 0x90];
    let r = &mut user.regs;
    // Linux goes by the lower half of the number.
    r.rax = 0xabcd_0000_0000_0000 | SIGPROCMASK;
    [r.rdi, r.rsi, r.rdx, r.r10] = args;
    [r.rbx, r.rbp, r.r12, r.r13, r.r8, r.r9] = keep;
    r.eflags = 0x202 | flags;
    let kept = |r: &Regs| {
        assert_eq!([r.rdi, r.rsi, r.rdx, r.r10], args);
        assert_eq!([r.rbx, r.rbp, r.r12, r.r13, r.r8, r.r9], keep);
        assert_eq!(r.rsp, start().regs.rsp);
    };
    let exit = context.switch(&mut user).unwrap();
    kept(&user.regs);
    match (exit, user.regs.orig_rax & 0xffff_ffff) {
        (Exit::Syscall, 500) => {
            assert_eq!(user.regs.r14 & FLAGS, flags & FLAGS, "{args:x?}");
            Some(user.regs.r15)
        }
        (Exit::Call | Exit::Syscall, SIGPROCMASK) => {
            assert_eq!(user.regs.eflags & FLAGS, flags & FLAGS, "{args:x?}");
            None
        }
        other => panic!("{other:?} at {:#x}", user.regs.rip),
    }
}

#[test]
fn an_answer_is_what_the_kernel_would_say() {
    let machine = Machine::new();
    let (guest, mut context, mask) = guest(&machine, once());
    let (set, old) = (DATA + 0x100, DATA + 0x200);
    let mut seed = 1;
    mask.set(0);
    assert_eq!(ask(&mut *context, [0, set, old, 8], 0), None, "closed at first");
    let mut answered = 0;
    for _ in 0..3000 {
        let (before, bits) = (random(&mut seed) & !UNBLOCKABLE, random(&mut seed));
        let junk = random(&mut seed);
        let flags = random(&mut seed) & FLAGS;
        let high = if random(&mut seed).is_multiple_of(8) { 7 << 32 } else { 0 };
        let how = high | (random(&mut seed) % 3);
        let set = if random(&mut seed).is_multiple_of(5) { 0 } else { set + random(&mut seed) % 9 };
        let old = if random(&mut seed).is_multiple_of(5) { 0 } else { old + random(&mut seed) % 9 };
        machine.write(guest.data + 0x200, &junk.to_le_bytes().repeat(3));
        if set != 0 {
            machine.write(guest.data + (set - DATA), &bits.to_le_bytes());
        }
        mask.set(before);
        let is_open = !random(&mut seed).is_multiple_of(4);
        if is_open {
            mask.open()
        } else {
            mask.close()
        }
        let said = ask(&mut *context, [how, set, old, 8], flags);
        assert_eq!(said, is_open.then_some(0));
        let after = if is_open && set != 0 { changed(how & 3, before, bits) } else { before };
        assert_eq!(mask.get(), after, "{how} {set:x} {before:x} {bits:x}");
        if old != 0 && is_open {
            assert_eq!(machine.read(guest.data + (old - DATA), 8), before.to_le_bytes());
        } else {
            assert_eq!(machine.word(guest.data + 0x200), junk);
        }
        answered += u32::from(is_open);
    }
    assert!(answered > 1000);
}

#[test]
fn what_is_not_plain_comes_as_a_call_with_nothing_changed() {
    let machine = Machine::new();
    let (guest, mut context, mask) = guest(&machine, once());
    // A page that can be read only, one that cannot be used, and a gap.
    let more = machine.allocate(3 * 0x1000);
    let at = DATA + LEN + 0x10_0000;
    guest.space.apply(&[map(at, 0x1000, more, Prot::READ), map(at + 0x1000, 0x1000, more, Prot::empty())]).unwrap();
    let entry = machine.systrap.call_entry().unwrap().0;
    let text = entry & !0xfff;
    let good = DATA + 0x100;
    machine.write(guest.data + 0x100, &[0xff; 24]);
    let stack_edge = 0x7fff_ffff_f000 - 4;
    let mut bad = vec![
        [0, good, 0, 4],
        [0, good, 0, 0],
        [0, good, 0, 8 | 1 << 32],
        [3, good, 0, 8],
        [u64::MAX, good, 0, 8],
        [0, good, good, 8],
        [0, good, good + 7, 8],
        [0, good, good - 7, 8],
    ];
    for pointer in [
        1,
        CODE + LEN - 4,
        at - 4,
        at + 0x1000 - 4,
        at + 0x1000,
        at + 0x2000,
        text + 0x1000,
        stack_edge,
        0x8000_0000_0000,
        1 << 63,
        u64::MAX,
        u64::MAX - 8,
    ] {
        bad.push([2, pointer, 0, 8]);
        bad.push([2, pointer, good + 64, 8]);
        bad.push([2, good, pointer, 8]);
        bad.push([2, 0, pointer, 8]);
    }
    // What only cannot be written: code, the page, the stub's text, its constants and its control page.
    // Some of the stub's memory could be read, and the slabs written; as far as calls go there is nothing.
    for pointer in [text - 4, text, entry, text + 0x2000, text + 0x10_0000, text + 0x10_4080] {
        bad.push([2, pointer, 0, 8]);
        bad.push([2, 0, pointer, 8]);
        bad.push([2, good, pointer, 8]);
    }
    for pointer in [CODE, at, text, text + 0x2000, text + 0x4000, entry] {
        bad.push([2, good, pointer, 8]);
        bad.push([2, 0, pointer, 8]);
    }
    for (index, args) in bad.into_iter().enumerate() {
        mask.set(0x1234);
        mask.open();
        let flags = if index % 2 == 0 { FLAGS } else { 0 };
        assert_eq!(ask(&mut *context, args, flags), None, "{args:x?}");
        assert_eq!(mask.get(), 0x1234, "{args:x?}");
    }
    // The lower half of `how` counts, and neither set need be there.
    assert_eq!(ask(&mut *context, [5 << 32, good, 0, 8], FLAGS), Some(0));
    assert_eq!(ask(&mut *context, [9, 0, 0, 8], 0), Some(0));
    assert_eq!(ask(&mut *context, [9, 0, good, 8], 0), Some(0));
    // An unaligned pointer, by a guest that wants to hear of those.
    assert_eq!(ask(&mut *context, [2, good + 1, 0, 8], 0x4_0000), None);
    assert_eq!(ask(&mut *context, [2, good, 0, 8], 0), Some(0));
    assert_eq!(mask.get(), !UNBLOCKABLE);
}

/// Where an honest guest cannot come: into the middle of the stub's change, with registers of its own choice.
#[test]
fn guests_that_jump_into_the_change_harm_only_themselves() {
    crate::guest_code!(code, "mov eax, 14", "mov r10d, 8", "jmp rbx", ".fill 64, 1, 0x0f");
    let machine = Machine::with_patience(std::time::Duration::from_millis(200));
    let entry = machine.systrap.call_entry().unwrap().0;
    let text = entry & !0xfff;
    let (_witness, mut well, open) = guest(&machine, once());
    let mut seed = 3;
    for round in 0..200 {
        let (guest, mut context, mask) = guest(&machine, code());
        mask.open();
        let interrupter = context.interrupter();
        let mut user = start();
        let r = &mut user.regs;
        r.rbx = entry + 0x80 + round % 100 * 4;
        let wild = [1, DATA, DATA + 0x100, entry, text + 0x10_4080, r.rbx, entry + random(&mut seed) % 0x300, u64::MAX];
        for reg in [&mut r.r11, &mut r.rcx, &mut r.rsi, &mut r.rdx] {
            *reg = wild[random(&mut seed) as usize % wild.len()];
        }
        std::thread::scope(|scope| {
            let (done, ended) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                while ended
                    .recv_timeout(std::time::Duration::from_micros(500))
                    .is_err_and(|e| e == RecvTimeoutError::Timeout)
                {
                    interrupter.interrupt();
                }
            });
            for _ in 0..20 {
                if !matches!(context.switch(&mut user), Ok(Exit::Interrupted | Exit::Syscall | Exit::Call)) {
                    break;
                }
            }
            drop(done);
        });
        guest.space.kill();
        open.open();
        assert_eq!(ask(&mut *well, [9, 0, 0, 8], 0), Some(0));
    }
}

/// Serves the call as the kernel does, for `changes_and_interrupts_do_not_disturb_each_other`.
fn serve(machine: &Machine, guest: &Guest, mask: &dyn GuestMask, user: &mut UserContext) {
    let r = &mut user.regs;
    let bits = machine.word(guest.data + (r.rsi - DATA));
    let before = mask.get();
    mask.set(changed(r.rdi, before, bits));
    machine.write(guest.data + (r.rdx - DATA), &before.to_le_bytes());
    r.rax = 0;
}

#[test]
fn changes_and_interrupts_do_not_disturb_each_other() {
    // Counts up in the mask, and checks the old one and the flags each time.
    crate::guest_code!(
        code,
        "mov edi, 2",
        "mov esi, 0x500100",
        "mov edx, 0x500200",
        "mov r10d, 8",
        "xor ebx, ebx",
        "2: mov rbp, rbx",
        "add rbx, 0x80000",
        "mov [0x500100], rbx",
        "mov qword ptr [0x500200], -1",
        "mov eax, 14",
        "cmp eax, eax",
        "stc",
        call!(),
        "jnc 3f",
        "jnz 3f",
        "test rax, rax",
        "jnz 3f",
        "cmp [0x500200], rbp",
        "jne 3f",
        "inc r15",
        "test r15, 0xffff",
        "jnz 2b",
        "mov eax, 500",
        call!(),
        "jmp 2b",
        "3: ud2",
    );
    let machine = Machine::new();
    let (guest, mut context, mask) = guest(&machine, code());
    let interrupter = context.interrupter();
    let mut user = start();
    user.regs.r15 = 0;
    mask.set(0);
    mask.open();
    let stop = AtomicBool::new(false);
    let (mut interrupts, mut ordinary, mut looks) = (0_u64, 0_u64, 0_u64);
    let begun = std::time::Instant::now();
    let wrong = std::thread::scope(|scope| {
        let (interrupter, other, stop) = (&interrupter, &mask, &stop);
        scope.spawn(move || {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                if sent.is_multiple_of(3) {
                    other.close();
                } else {
                    interrupter.interrupt();
                }
                sent += 1;
                for _ in 0..sent % 3000 {
                    std::hint::spin_loop();
                }
            }
        });
        let mut wrong = None;
        while (interrupts < 3000 || ordinary < 300 || looks < 30) && begun.elapsed().as_secs() < 20 && wrong.is_none() {
            match context.switch(&mut user) {
                Ok(Exit::Call | Exit::Syscall) if user.regs.orig_rax == SIGPROCMASK => {
                    ordinary += 1;
                    serve(&machine, &guest, &*mask, &mut user);
                    mask.open();
                }
                Ok(Exit::Call | Exit::Syscall) if user.regs.orig_rax == 500 => {}
                Ok(Exit::Interrupted) => {
                    interrupts += 1;
                    looks += u64::from(user.regs.rax == 0);
                    mask.open();
                }
                other => wrong = Some(format!("{other:?} {:?}", user.regs)),
            }
        }
        stop.store(true, Ordering::Relaxed);
        wrong
    });
    assert_eq!(wrong, None);
    let done = user.regs.r15 << 19;
    assert!(mask.get() == done || mask.get() == done.wrapping_add(0x80000), "{:x} {done:x}", mask.get());
    assert!(interrupts > 10, "{interrupts} interrupts");
}

#[test]
fn the_next_context_on_a_thread_has_nothing_of_the_last() {
    let machine = Machine::new();
    let (guest, context, mask) = guest(&machine, once());
    mask.set(5);
    mask.open();
    drop((context, mask));
    for _ in 0..2 {
        let mut next = guest.context();
        assert_eq!(ask(&mut *next, [0, 0, 0, 8], 0), None);
    }
    let trapping = Machine::trapping();
    let plain = trapping.guest(once());
    assert!(plain.context().mask().is_none());
}
