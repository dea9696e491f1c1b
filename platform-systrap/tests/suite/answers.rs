//! Calls that the stub answers.

use arch::UserContext;

use super::interrupts::storm;
use crate::common::{CODE, Machine, start, syscall};

crate::guest_code!(
    ask,
    "2: mov eax, 39",
    "mov ecx, 1",
    "stc",
    "syscall",
    "setc r12b",
    "mov r13, rcx",
    "lea r14, [rip - 14]",
    "mov rbx, rax",
    "mov eax, 500",
    "syscall",
    "jmp 2b",
);
crate::guest_code!(
    ask_much,
    "2: mov eax, 39",
    "syscall",
    "cmp rax, 77",
    "jne 3f",
    "inc r15",
    "test r15, 0xff",
    "jnz 2b",
    "mov eax, 500",
    "syscall",
    "jmp 2b",
    "3: ud2",
);

#[test]
fn a_published_answer_needs_no_exit() {
    let machine = Machine::trapping();
    let guest = machine.guest(ask());
    let mut context = guest.context();
    let answers = context.interrupter();
    let mut user = start();
    assert_eq!(syscall(&mut *context, &mut user), 39);
    user.regs.rip = CODE;
    for answer in [77, 0, u64::from(u32::MAX), u64::MAX - 1] {
        answers.publish(39, Some(answer));
        assert_eq!(syscall(&mut *context, &mut user), 500);
        let r = &user.regs;
        assert_eq!((r.rbx, r.r12 & 0xff), (answer, 1), "the answer, and flags that stay");
        assert_eq!(r.r13, r.r14, "rcx is what the instruction leaves");
    }
    // Values without room, and calls that have none, come to us.
    answers.publish(39, Some(u64::MAX));
    answers.publish(256, Some(1));
    answers.publish(u16::MAX, Some(1));
    assert_eq!(syscall(&mut *context, &mut user), 39);
    user.regs.rax = 5;
    assert_eq!(syscall(&mut *context, &mut user), 500);
    answers.publish(39, Some(1));
    answers.publish(39, None);
    assert_eq!(syscall(&mut *context, &mut user), 39);
    // Neither another thread has it, nor the next on this one.
    answers.publish(39, Some(1));
    let mut other = guest.context();
    assert_eq!(syscall(&mut *other, &mut start()), 39);
    drop((context, answers));
    for _ in 0..2 {
        let mut next = guest.context();
        assert_eq!(syscall(&mut *next, &mut start()), 39);
    }
}

#[test]
fn answers_and_interrupts_do_not_disturb_each_other() {
    let machine = Machine::trapping();
    let guest = machine.guest(ask_much());
    let mut context = guest.context();
    context.interrupter().publish(39, Some(77));
    let at_call = |user: &UserContext, before| {
        assert_eq!((user.regs.orig_rax, user.regs.r15), (500, (before + 1) * 256));
    };
    let (calls, interrupts) = storm(&mut *context, &mut start(), 500, at_call);
    assert!(interrupts > 10 && calls > 10, "{interrupts} interrupts, {calls} calls");
}
