//! The code that runs in stub processes and in the zygote: assembly in a section of its own, copied to a page.
//!
//! **Invariants.**
//! - Position independent, without relocations: only labels local to this block, reached relative to rip.
//! - The zygote, the leader and the memory thread keep everything in registers or in pages that the stub can only read,
//!   and run with rsp = 0: they hold rights that guest code has not (mmap, clone), and guest code in the same address
//!   space can write any stack.
//! - Threads that run guest code hold no right but the hand-over. What they read back from their slab may have been
//!   forged by another thread of the same guest process, which hurts only that process.
//!
//! ## Ways through an application thread
//! `trap` (SIGSYS, SIGSEGV, …) leaves the registers where the host put them, in the signal frame on the alternate stack,
//! notes where that is, and hands over; the kernel edits the frame in place. `exit` undoes the frame by hand. Until its
//! last instruction it only reads the frame and keeps rsp on the alternate stack, so that it can be restarted at any
//! point: that is what the kick handler does when it finds the thread there. At `leave` (the last jump of the fast exit,
//! rsp is the guest's already) all registers are the guest's, and the handler moves rip to the guest's.
//!
//! `call` is where patched sites jump to, without a signal: it fills the frame that the last exit left behind and hands over
//! with the guest's extended state still in the CPU. Until it has its stack, a kick sends it back to a `syscall`
//! instruction; `save` writes the extended state to the frame when the kernel asks for it.
//!
//! `mask` is where `call` goes for rt_sigprocmask: see that module.
//!
//! `renew` is where a thread goes whose hand-over the kernel answers with a value that is not 0: its stub gets a new guest.

mod entries;
#[macro_use]
mod mask;

use core::arch::global_asm;

pub(crate) use entries::{Entries, call_window, entries, text};

use crate::layout::{
    CHUNK, CONFIG, CONFIG_LEN, CONTROL, CONTROL_LEN, FD_CONTROL, FD_FREE, FD_LEADER, FD_OPS, FD_SLABS, HANDOFF_NR,
    KICK_SIGNAL, SCRATCH, SLAB, SLABS, ZYGOTE_END, config, control, frame, line, own_slab, scratch,
};

/// Clone flags of every thread of a stub.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;

global_asm!(
    r#"
    .pushsection .text.casemate_stub, "ax", @progbits
    .balign 4096
    .globl casemate_stub_start
    .hidden casemate_stub_start
casemate_stub_start:
.Lcs_base:

    // Loads everything but rip, rflags and rsp from the frame at rdx; leaves its address in rsp (plus \off).
    .macro cs_load_gprs off
    mov r8, [rsp + \off + {R8}]
    mov r9, [rsp + \off + {R9}]
    mov r10, [rsp + \off + {R10}]
    mov r12, [rsp + \off + {R12}]
    mov r13, [rsp + \off + {R13}]
    mov r14, [rsp + \off + {R14}]
    mov r15, [rsp + \off + {R15}]
    mov rdi, [rsp + \off + {RDI}]
    mov rsi, [rsp + \off + {RSI}]
    mov rbp, [rsp + \off + {RBP}]
    mov rbx, [rsp + \off + {RBX}]
    mov rax, [rsp + \off + {RAX}]
    mov rdx, [rsp + \off + {RDX}]
    .endm

    // Extended state of the frame at rdx. Clobbers rax, rcx, rdi; keeps rdx.
    .macro cs_load_xstate
    mov rcx, rdx
    mov rdi, [rdx + {FPSTATE}]
    mov eax, [rip + .Lcs_base + {CONFIG} + {XFEATURES}]
    mov edx, [rip + .Lcs_base + {CONFIG} + {XFEATURES} + 4]
    xrstor64 [rdi]
    mov rdx, rcx
    .endm

    // Leaves through iretq to what the frame at rdx says. NT set would make iretq fault.
    .macro cs_iret
    mov rsp, rdx
    push 2
    popfq
    push 0x2b
    push [rdx + {RSP}]
    push [rdx + {EFLAGS}]
    movzx eax, word ptr [rdx + {SEGMENTS}]
    push rax
    push [rdx + {RIP}]
    cs_load_gprs 40
    mov r11, [rsp + 40 + {R11}]
    mov rcx, [rsp + 40 + {RCX}]
    iretq
    .endm

    // ---- application threads -------------------------------------------------------------------------------------
    .globl casemate_stub_trap
    .hidden casemate_stub_trap
    .balign 64
casemate_stub_trap:
.Lcs_trap:
    // rdi = signal, rdx = ucontext, on the alternate stack
    mov rbx, rdx
    and rbx, -{SLAB}
    mov [rbx + {L_FRAME}], rdx
    mov dword ptr [rbx + {L_LIVE}], 0
    cmp edi, {SIGSYS}
    jne 16f
    // A call that has an answer here? Where sites are patched, the kernel wants to see them trap, and patched ones are
    // answered without a signal.
    cmp dword ptr [rip + .Lcs_base + {CONFIG} + {ANSWER_TRAPS}], 0
    je 17f
    mov eax, [rdx + {RAX}]
    cmp eax, {ANSWERS_LEN}
    jae 17f
    mov rcx, [rbx + {ANSWERS} + 8 * rax]
    sub rcx, 1
    jb 17f
    cmp dword ptr [rsi + {CODE}], {SYS_SECCOMP}
    jne 17f
    cmp dword ptr [rsi + {ARCH}], {ARCH_X86_64}
    jne 17f
    test dword ptr [rdx + {EFLAGS}], {SLOW_FLAGS}
    jnz 17f
    cmp word ptr [rdx + {SEGMENTS}], {CODE_64}
    jne 17f
    mov [rdx + {RAX}], rcx
    mov dword ptr [rbx + {L_FLAGS}], {FAST_EXIT}
    jmp .Lcs_exit
16:
    // A fault of the guest's pointers, in the stub's change of its mask?
    mov rax, [rdx + {RIP}]
    lea rcx, [rip + .Lcs_mask_start]
    cmp rax, rcx
    jb 17f
    lea rcx, [rip + .Lcs_mask_end]
    cmp rax, rcx
    jb .Lcs_mask_left
17:
.Lcs_trapped:
    mov [rbx + {L_SIGNAL}], edi
    rdfsbase rax
    mov [rbx + {L_FS}], rax
    rdgsbase rax
    mov [rbx + {L_GS}], rax
.Lcs_handoff:
    // rbx = the line, complete. The protocol of its word: `line`.
    mov eax, {APP_SPINNING}
    mov ecx, {REQ_SPINNING}
    lock cmpxchg [rbx + {L_STATE}], ecx
    jne .Lcs_block
    mov ecx, [rip + .Lcs_base + {CONFIG} + {LOOKS}]
11:
    pause
    mov eax, [rbx + {L_STATE}]
    cmp eax, {REQ_SPINNING}
    jne 12f
    dec ecx
    jnz 11b
    mov ecx, {REQ_BLOCKED}
    lock cmpxchg [rbx + {L_STATE}], ecx
    je .Lcs_wait
12:
    // An answer, or the kernel's word that none will come soon.
    cmp eax, {REQ_SPINNING}
    jb .Lcs_exit
    jmp .Lcs_wait
.Lcs_block:
    mov dword ptr [rbx + {L_STATE}], {REQ_BLOCKED}
    cmp dword ptr [rip + .Lcs_base + {CONFIG} + {FUTEX}], 0
    je .Lcs_wait
    mov eax, {NR_futex}
    lea rdi, [rbx + {L_STATE}]
    mov esi, {FUTEX_WAKE}
    mov edx, 1
    syscall
.Lcs_wait:
    // Until the word says that the thread is ours: a kick may end each wait.
    cmp dword ptr [rip + .Lcs_base + {CONFIG} + {FUTEX}], 0
    jne .Lcs_futex
    mov eax, {HANDOFF}
    syscall
    .globl casemate_stub_handed
    .hidden casemate_stub_handed
casemate_stub_handed:
    test eax, eax
    jnz .Lcs_renew
    cmp dword ptr [rbx + {L_STATE}], {REQ_SPINNING}
    jae .Lcs_wait
    jmp .Lcs_exit
.Lcs_futex:
    cmp dword ptr [rbx + {L_STATE}], {REQ_SPINNING}
    jb .Lcs_exit
    mov eax, {NR_futex}
    lea rdi, [rbx + {L_STATE}]
    mov esi, {FUTEX_WAIT}
    mov edx, {REQ_BLOCKED}
    xor r10d, r10d
    syscall
    jmp .Lcs_futex

.Lcs_exit:
    // Restartable from here to .Lcs_exit_end. rsp lies in the slab.
    mov rbx, rsp
    and rbx, -{SLAB}
    mov rdx, [rbx + {L_FRAME}]
    lea rsp, [rdx - 8]
    cmp dword ptr [rbx + {L_KICKED}], 0
    jne .Lcs_kicked
    mov esi, [rbx + {L_FLAGS}]
    test esi, {SAVE}
    jnz .Lcs_save
    test esi, {SET_BASES}
    jz 1f
    mov rax, [rbx + {L_FS}]
    wrfsbase rax
    mov rax, [rbx + {L_GS}]
    wrgsbase rax
1:
    test esi, {STILL_LIVE}
    jnz 2f
    cs_load_xstate
2:
    test esi, {FAST_EXIT}
    jz .Lcs_slow_exit
    mov rsp, rdx
    mov rcx, [rsp + {RIP}]
    mov r11, [rsp + {EFLAGS}]
    push r11
    popfq
    cs_load_gprs 0
    mov rsp, [rsp + {RSP}]
.Lcs_leave:
    jmp rcx
.Lcs_slow_exit:
    cs_iret
.Lcs_exit_end:

.Lcs_renew:
    // The guest of this thread is gone, says the kernel, which has looked that the thread is here. Whatever that guest
    // left in it goes, without a look at memory that it could write; the fault replaces what the host remembers of its
    // last fault, and its frame is as the first of a new thread.
    lea rsp, [rip + .Lcs_base + {CONFIG} + {PLAIN_FLAGS}]
    popfq
    xor esp, esp
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    wrfsbase rax
    wrgsbase rax
    xor ebx, ebx
    xor ecx, ecx
    xor edx, edx
    xor esi, esi
    xor edi, edi
    xor ebp, ebp
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    xor r11d, r11d
    xor r12d, r12d
    xor r13d, r13d
    xor r14d, r14d
    xor r15d, r15d
    .globl casemate_stub_renewed
    .hidden casemate_stub_renewed
casemate_stub_renewed:
    mov eax, [rax]
    ud2

.Lcs_save:
    // rdx = the frame; the extended state is the guest's.
    mov rdi, [rdx + {FPSTATE}]
    mov eax, [rip + .Lcs_base + {CONFIG} + {XFEATURES}]
    mov edx, [rip + .Lcs_base + {CONFIG} + {XFEATURES} + 4]
    xsave64 [rdi]
    mov dword ptr [rbx + {L_LIVE}], 0
    mov dword ptr [rbx + {L_SIGNAL}], {SAVED}
    jmp .Lcs_handoff

.Lcs_kicked:
    // The frame is intact and complete: hand over again.
    mov eax, [rbx + {L_FLAGS}]
    and eax, {STILL_LIVE}
    mov [rbx + {L_LIVE}], eax
    mov dword ptr [rbx + {L_KICKED}], 0
    mov dword ptr [rbx + {L_SIGNAL}], {KICK}
    test dword ptr [rbx + {L_FLAGS}], {SET_BASES}
    jz 1f
    // What the line says of the bases holds from here on: the kernel takes them for set, and does not set them again.
    mov rax, [rbx + {L_FS}]
    wrfsbase rax
    mov rax, [rbx + {L_GS}]
    wrgsbase rax
    jmp .Lcs_handoff
1:
    rdfsbase rax
    rdgsbase rcx
    mov [rbx + {L_FS}], rax
    mov [rbx + {L_GS}], rcx
    jmp .Lcs_handoff

    .globl casemate_stub_call
    .hidden casemate_stub_call
    .globl casemate_stub_call_swapped
    .hidden casemate_stub_call_swapped
    .globl casemate_stub_call_window
    .hidden casemate_stub_call_window
    .globl casemate_stub_call_taken
    .hidden casemate_stub_call_taken
    .balign 64
casemate_stub_call:
.Lcs_call:
    // A patched site: rcx = where to return, the rest as at a system call. Flags and stack are the guest's.
    // GS may be the guest's too: is its upper half that of our slabs? Without touching a flag.
    rdgsbase r11
    xchg r11, rcx
casemate_stub_call_swapped:
.Lcs_call_swapped:
    bswap rcx
    .byte 0x8d, 0x89            // lea ecx, [rcx + WINDOW]
casemate_stub_call_window:
    .long 0
    jrcxz 13f
    // Not ours: the instruction before the return address is a system call that traps.
    lea rcx, [r11 - 2]
    jmp rcx
21:
    jmp .Lcs_mask
13:
    // A call below 256 that has an answer? rcx and r11 are free, flags are not.
    mov ecx, eax
    mov cl, 0
    jrcxz 18f
    jmp 19f
18:
    movzx ecx, al
    mov rcx, gs:[8 * rcx + {ANSWERS}]
    jrcxz 20f
    lea rax, [rcx - 1]
.Lcs_answered:
    jmp r11
20:
    lea ecx, [rax - {NR_rt_sigprocmask}]
    jrcxz 21b
19:
.Lcs_call_on:
    mov dword ptr gs:[{L_SIGNAL}], {CALLED}
    mov rcx, gs:[{L_FRAME}]
    xchg rcx, rsp
casemate_stub_call_taken:
.Lcs_call_taken:
    // Up to here a kick goes back to that instruction. From here on frames of signals lie below ours.
    mov [rsp + {RSP}], rcx
    mov [rsp + {RIP}], r11
    mov [rsp + {RCX}], r11
    mov [rsp + {RAX}], rax
    mov [rsp + {RBX}], rbx
    mov [rsp + {RDX}], rdx
    mov [rsp + {RSI}], rsi
    mov [rsp + {RDI}], rdi
    mov [rsp + {RBP}], rbp
    mov [rsp + {R8}], r8
    mov [rsp + {R9}], r9
    mov [rsp + {R10}], r10
    mov [rsp + {R12}], r12
    mov [rsp + {R13}], r13
    mov [rsp + {R14}], r14
    mov [rsp + {R15}], r15
    pushfq
    pop rax
    mov [rsp + {EFLAGS}], rax
    mov [rsp + {R11}], rax
    push 2
    popfq
    rdgsbase rbx
    rdfsbase rax
    mov [rbx + {L_FS}], rax
    mov [rbx + {L_GS}], rbx
    mov dword ptr [rbx + {L_LIVE}], 1
    jmp .Lcs_handoff

"#,
    mask_code!(),
    r#"
    .globl casemate_stub_kick
    .hidden casemate_stub_kick
    .balign 64
casemate_stub_kick:
    mov rbx, rdx
    and rbx, -{SLAB}
    mov rax, [rdx + {RIP}]
    lea rcx, [rip + .Lcs_base]
    cmp rax, rcx
    jb .Lcs_trap
    lea rcx, [rip + .Lcs_end]
    cmp rax, rcx
    jae .Lcs_trap
    // At work in the stub.
    lea rcx, [rip + .Lcs_leave]
    cmp rax, rcx
    jne 2f
    mov rcx, [rdx + {RCX}]
    mov [rdx + {RIP}], rcx
    jmp .Lcs_trap
2:
    lea rcx, [rip + .Lcs_answered]
    cmp rax, rcx
    jne 20f
    mov rcx, [rdx + {R11}]
    mov [rdx + {RIP}], rcx
    jmp .Lcs_trap
20:
    lea rcx, [rip + .Lcs_mask_start]
    cmp rax, rcx
    jb 21f
    lea rcx, [rip + .Lcs_mask_end]
    cmp rax, rcx
    jb .Lcs_mask_left
21:
    lea rcx, [rip + .Lcs_call]
    cmp rax, rcx
    jb 14f
    lea rcx, [rip + .Lcs_call_taken]
    cmp rax, rcx
    jae 14f
    // On the way from a patched site: as if it were about to make its call.
    mov rcx, [rdx + {RCX}]
    lea r8, [rip + .Lcs_call_swapped]
    cmp rax, r8
    cmovae rcx, [rdx + {R11}]
    sub rcx, 2
    mov [rdx + {RIP}], rcx
    jmp .Lcs_trap
14:
    mov dword ptr [rbx + {L_KICKED}], 1
    lea rcx, [rip + .Lcs_exit_end]
    cmp rax, rcx
    jae 3f
    lea rcx, [rip + .Lcs_exit]
    cmp rax, rcx
    jb 3f
    mov [rdx + {RIP}], rcx
3:
    // Back to where the kick came in. Not the exit above, which a second kick would restart.
    cs_load_xstate
    cs_iret

    // ---- threads of a stub ---------------------------------------------------------------------------------------
    .balign 16
.Lcs_app:
    // A new application thread: alternate stack, listener, filter, then a call that traps, so that it is parked like any
    // other.
    mov eax, {NR_sigaltstack}
    lea rdi, [rip + .Lcs_base + {CONTROL} + {C_ALTSTACK}]
    xor esi, esi
    syscall
    lea r15, [rip + 11f]
    jmp .Lcs_listen
11:
    lea r13, [rip + .Lcs_base + {CONFIG} + {APP_PROG}]
    lea r15, [rip + 12f]
    jmp .Lcs_confine
12:
    mov eax, {NR_getpid}
    syscall
    ud2

.Lcs_confine:
    // The filter at r13, for good. Returns to r15.
    mov eax, {NR_seccomp}
    mov edi, 1
    mov rsi, [rip + .Lcs_base + {CONFIG} + {FILTER_FLAGS}]
    mov rdx, r13
    syscall
    test rax, rax
    jnz .Lcs_die
    jmp r15

.Lcs_listen:
    // Makes this thread's listener and passes it on, while no filter of its own is in the way. Returns to r15.
    cmp dword ptr [rip + .Lcs_base + {CONFIG} + {FUTEX}], 0
    jne .Lcs_done
    mov eax, {NR_seccomp}
    mov edi, 1
    mov rsi, [rip + .Lcs_base + {CONFIG} + {LISTEN_FLAGS}]
    lea rdx, [rip + .Lcs_base + {CONFIG} + {LISTEN_PROG}]
    syscall
    test rax, rax
    jns .Lcs_publish
    // No listener: a descriptor that is none, and no thread.
    lea r15, [rip + .Lcs_exit_thread]
.Lcs_stand_in:
    mov eax, {NR_dup}
    mov edi, {FD_LEADER}
    syscall
.Lcs_publish:
    mov eax, {NR_sendmsg}
    mov edi, {FD_LEADER}
    lea rsi, [rip + .Lcs_base + {CONFIG} + {LISTENER_MSG}]
    xor edx, edx
    syscall
    test rax, rax
    js .Lcs_die
    mov eax, {NR_close}
    mov edi, {FD_FREE}
    syscall
.Lcs_done:
    // Only now may the number be used for something else.
    mov eax, {NR_sendmsg}
    mov edi, {FD_LEADER}
    lea rsi, [rip + .Lcs_base + {CONFIG} + {DONE_MSG}]
    xor edx, edx
    syscall
    test rax, rax
    js .Lcs_die
    jmp r15
.Lcs_exit_thread:
    mov eax, {NR_exit}
    xor edi, edi
    syscall
    ud2

    .balign 16
.Lcs_ops:
    lea r15, [rip + 13f]
    jmp .Lcs_listen
13:
    // The leader may make the next thread. No guest code has run yet that could write there.
    mov dword ptr [rip + .Lcs_base + {SLABS} + {LISTENS}], 1
    mov eax, {NR_futex}
    lea rdi, [rip + .Lcs_base + {SLABS} + {LISTENS}]
    mov esi, {FUTEX_WAKE}
    mov edx, 1
    syscall
    lea r13, [rip + .Lcs_base + {CONFIG} + {OPS_PROG}]
    lea r15, [rip + .Lcs_ops_start]
    jmp .Lcs_confine
.Lcs_ops_start:
    xor r13d, r13d
    xor r14d, r14d
    lea r15, [rip + .Lcs_ops_loop]
    cmp dword ptr [rip + .Lcs_base + {CONFIG} + {FUTEX}], 0
    jne .Lcs_ops_socket
.Lcs_ops_loop:
    mov rdi, r13
    mov rsi, r14
    mov eax, {HANDOFF}
    syscall
    test rax, rax
    jnz .Lcs_die
.Lcs_ops_run:
    // Carries out the batch: r13 operations done of r12, r14 = what the last one returned. Returns to r15.
    mov r12, [rip + .Lcs_base + {CONTROL} + {C_COUNT}]
    lea rbx, [rip + .Lcs_base + {CONTROL} + {C_OPS}]
    xor r13d, r13d
4:
    cmp r13, r12
    jae 8f
    mov rax, [rbx]
    mov rdi, [rbx + 8]
    mov rsi, [rbx + 16]
    mov rdx, [rbx + 24]
    mov r10, [rbx + 32]
    mov r8, [rbx + 40]
    mov r9, [rbx + 48]
    syscall
    mov r14, rax
    cmp rax, -4095
    jae 8f
    inc r13
    add rbx, {OP_LEN}
    jmp 4b
8:
    jmp r15

.Lcs_ops_socket:
    // Without a listener: a message on the socket is a batch, with its descriptors; the answer is the *length* of a
    // message, which no other thread can forge: operations done plus one, then, after a failure, the error number.
    lea rsi, [rip + .Lcs_base + {SLABS} + {FD_MSG}]
    mov qword ptr [rsi + 40], {FD_CONTROL_LEN}
    mov eax, {NR_recvmsg}
    mov edi, {FD_OPS}
    xor edx, edx
    syscall
    cmp rax, 1
    jne .Lcs_die
    lea r15, [rip + 9f]
    jmp .Lcs_ops_run
9:
    lea rdx, [r13 + 1]
    lea r15, [rip + 10f]
    jmp .Lcs_ops_tell
10:
    cmp r13, r12
    jae .Lcs_ops_socket
    mov rdx, r14
    neg rdx
    lea r15, [rip + .Lcs_ops_socket]
.Lcs_ops_tell:
    mov eax, {NR_sendto}
    mov edi, {FD_OPS}
    lea rsi, [rip + .Lcs_base]
    xor r10d, r10d
    xor r8d, r8d
    xor r9d, r9d
    syscall
    test rax, rax
    js .Lcs_die
    jmp r15

    // ---- leader --------------------------------------------------------------------------------------------------
.Lcs_first_app:
    // The first application thread is made when the memory thread has passed its listener, which had the same number.
    mov eax, {NR_futex}
    lea rdi, [rip + .Lcs_base + {SLABS} + {LISTENS}]
    mov esi, {FUTEX_WAIT}
    xor edx, edx
    xor r10d, r10d
    syscall
    cmp dword ptr [rip + .Lcs_base + {SLABS} + {LISTENS}], 0
    je .Lcs_first_app
    jmp .Lcs_new_app

.Lcs_leader:
    mov eax, {NR_read}
    mov edi, {FD_LEADER}
    lea rsi, [rip + .Lcs_base + {SLABS} + {LEADER_BUF}]
    mov edx, 16
    syscall
    test rax, rax
    jle .Lcs_die
.Lcs_new_app:
    mov eax, {NR_clone}
    mov edi, {APP_THREAD}
    xor esi, esi
    lea rdx, [rip + .Lcs_base + {SLABS} + {NEW_TID}]
    xor r10d, r10d
    xor r8d, r8d
    syscall
    test rax, rax
    jz .Lcs_app
    jns .Lcs_leader
    lea r15, [rip + .Lcs_leader]
    cmp dword ptr [rip + .Lcs_base + {CONFIG} + {FUTEX}], 0
    je .Lcs_stand_in
    // Two bytes instead of one.
    mov eax, {NR_sendto}
    mov edi, {FD_LEADER}
    lea rsi, [rip + .Lcs_base]
    mov edx, 2
    xor r10d, r10d
    xor r8d, r8d
    xor r9d, r9d
    syscall
    test rax, rax
    js .Lcs_die
    jmp r15

.Lcs_die:
    mov eax, {NR_exit_group}
    mov edi, 1
    syscall
    ud2

    // ---- zygote --------------------------------------------------------------------------------------------------
    .globl casemate_stub_zygote
    .hidden casemate_stub_zygote
    .balign 16
casemate_stub_zygote:
    xor esp, esp
    xor ebp, ebp
    mov eax, {NR_munmap}
    xor edi, edi
    lea rsi, [rip + .Lcs_base]
    syscall
    test rax, rax
    jnz .Lcs_die
    mov eax, {NR_munmap}
    lea rdi, [rip + .Lcs_base + {ZYGOTE_END}]
    mov rsi, 0x7ffffffff000
    sub rsi, rdi
    syscall
    test rax, rax
    jnz .Lcs_die
.Lcs_zygote:
    mov eax, {NR_read}
    mov edi, {FD_LEADER}
    lea rsi, [rip + .Lcs_base + {SCRATCH}]
    mov edx, {REQUEST_LEN}
    syscall
    cmp rax, {REQUEST_LEN}
    jne .Lcs_die
    mov eax, {NR_socketpair}
    mov edi, 1
    mov esi, {SOCK}
    xor edx, edx
    lea r10, [rip + .Lcs_base + {SCRATCH} + {PAIR_LEADER}]
    syscall
    test rax, rax
    jnz .Lcs_die
    mov eax, {NR_socketpair}
    mov edi, 1
    mov esi, {SOCK}
    xor edx, edx
    lea r10, [rip + .Lcs_base + {SCRATCH} + {PAIR_OPS}]
    syscall
    test rax, rax
    jnz .Lcs_die
    mov eax, {NR_clone}
    mov edi, {STUB}
    xor esi, esi
    lea rdx, [rip + .Lcs_base + {SCRATCH} + {PIDFD}]
    xor r10d, r10d
    xor r8d, r8d
    syscall
    test rax, rax
    jz .Lcs_stub
    mov [rip + .Lcs_base + {SCRATCH} + {REPLY}], rax
    jns 6f
    // No process: a descriptor that is no pidfd, to go with the error.
    mov eax, {NR_dup}
    mov edi, {FD_LEADER}
    syscall
6:
    mov eax, {NR_sendmsg}
    mov edi, {FD_LEADER}
    lea rsi, [rip + .Lcs_base + {CONFIG} + {ZYGOTE_MSG}]
    xor edx, edx
    syscall
    test rax, rax
    js .Lcs_die
    mov eax, {NR_close_range}
    mov edi, {FD_OPS}
    mov esi, -1
    xor edx, edx
    syscall
    jmp .Lcs_zygote

.Lcs_stub:
    // The new stub. A parent that died before this prctl shows as end-of-file in the first read.
    mov eax, {NR_prctl}
    mov edi, 1
    mov esi, 9
    xor edx, edx
    xor r10d, r10d
    xor r8d, r8d
    syscall
    mov eax, {NR_dup2}
    mov edi, 6
    mov esi, {FD_LEADER}
    syscall
    mov eax, {NR_dup2}
    mov edi, 8
    mov esi, {FD_OPS}
    syscall
    mov eax, {NR_close_range}
    mov edi, {FD_FREE}
    mov esi, -1
    xor edx, edx
    syscall
    mov eax, {NR_mmap}
    lea rdi, [rip + .Lcs_base + {CONTROL}]
    mov esi, {CONTROL_LEN}
    mov edx, 1
    mov r10d, 0x11
    mov r8d, {FD_CONTROL}
    mov r9, [rip + .Lcs_base + {SCRATCH} + {CONTROL_OFFSET}]
    syscall
    cmp rax, -4095
    jae .Lcs_die
    mov eax, {NR_mmap}
    lea rdi, [rip + .Lcs_base + {SLABS}]
    mov esi, {CHUNK}
    mov edx, 3
    mov r10d, 0x11
    mov r8d, {FD_SLABS}
    mov r9, [rip + .Lcs_base + {SCRATCH} + {CHUNK_OFFSET}]
    syscall
    cmp rax, -4095
    jae .Lcs_die
    mov eax, {NR_munmap}
    lea rdi, [rip + .Lcs_base + {SCRATCH}]
    mov esi, 0x1000
    syscall
    // Sealed where the host can (6.10); no thread of a stub may change these mappings in any case.
    mov eax, {NR_mseal}
    lea rdi, [rip + .Lcs_base]
    mov esi, 0x1000
    xor edx, edx
    syscall
    mov eax, {NR_mseal}
    lea rdi, [rip + .Lcs_base + {CONFIG}]
    mov esi, {CONFIG_LEN}
    xor edx, edx
    syscall
    mov eax, {NR_mseal}
    lea rdi, [rip + .Lcs_base + {CONTROL}]
    mov esi, {CONTROL_LEN}
    xor edx, edx
    syscall
    mov eax, {NR_membarrier}
    mov edi, 16
    xor esi, esi
    xor edx, edx
    syscall
    mov eax, {NR_clone}
    mov edi, {THREAD}
    xor esi, esi
    xor edx, edx
    xor r10d, r10d
    xor r8d, r8d
    syscall
    test rax, rax
    jz .Lcs_ops
    js .Lcs_die
    jmp .Lcs_first_app

.Lcs_end:
    .globl casemate_stub_end
    .hidden casemate_stub_end
casemate_stub_end:
    .popsection
"#,
    R8 = const frame::R8,
    R9 = const frame::R9,
    R10 = const frame::R10,
    R11 = const frame::R11,
    R12 = const frame::R12,
    R13 = const frame::R13,
    R14 = const frame::R14,
    R15 = const frame::R15,
    RDI = const frame::RDI,
    RSI = const frame::RSI,
    RBP = const frame::RBP,
    RBX = const frame::RBX,
    RDX = const frame::RDX,
    RAX = const frame::RAX,
    RCX = const frame::RCX,
    RSP = const frame::RSP,
    RIP = const frame::RIP,
    EFLAGS = const frame::EFLAGS,
    SEGMENTS = const frame::SEGMENTS,
    FPSTATE = const frame::FPSTATE,
    SLAB = const SLAB,
    L_STATE = const line::STATE,
    APP_SPINNING = const crate::line::APP_SPINNING,
    REQ_SPINNING = const crate::line::REQ_SPINNING,
    REQ_BLOCKED = const crate::line::REQ_BLOCKED,
    LOOKS = const config::LOOKS,
    FUTEX = const config::FUTEX,
    FUTEX_WAIT = const libc::FUTEX_WAIT,
    FUTEX_WAKE = const libc::FUTEX_WAKE,
    L_FRAME = const line::FRAME,
    ANSWERS = const crate::layout::ANSWERS,
    ANSWER_TRAPS = const config::ANSWER_TRAPS,
    ANSWERS_LEN = const crate::layout::ANSWERS_LEN,
    SIGSYS = const libc::SIGSYS,
    CODE = const frame::CODE,
    ARCH = const frame::ARCH,
    SYS_SECCOMP = const crate::thread::SYS_SECCOMP,
    ARCH_X86_64 = const crate::thread::ARCH_X86_64,
    SLOW_FLAGS = const crate::thread::SLOW_FLAGS,
    CODE_64 = const crate::thread::CODE_64,
    L_SIGNAL = const line::SIGNAL,
    L_FS = const line::FS_BASE,
    L_GS = const line::GS_BASE,
    L_KICKED = const line::KICKED,
    L_FLAGS = const line::FLAGS,
    SET_BASES = const line::SET_BASES,
    FAST_EXIT = const line::FAST_EXIT,
    STILL_LIVE = const line::STILL_LIVE,
    SAVE = const line::SAVE,
    SAVED = const line::SAVED,
    CALLED = const line::CALLED,
    LOOK = const line::LOOK,
    MASK = const crate::layout::MASK,
    MASK_OPEN = const crate::layout::MASK_OPEN,
    BLOCKABLE = const mask::BLOCKABLE,
    ARITHMETIC = const mask::ARITHMETIC,
    SIG_UNBLOCK = const libc::SIG_UNBLOCK,
    SIG_SETMASK = const libc::SIG_SETMASK,
    NR_rt_sigprocmask = const libc::SYS_rt_sigprocmask,
    L_LIVE = const line::LIVE,
    HANDOFF = const HANDOFF_NR,
    KICK = const KICK_SIGNAL,
    CONFIG = const CONFIG,
    CONFIG_LEN = const CONFIG_LEN,
    XFEATURES = const config::XFEATURES,
    PLAIN_FLAGS = const config::PLAIN_FLAGS,
    LISTEN_FLAGS = const config::LISTEN_FLAGS,
    APP_PROG = const config::APP_PROG,
    OPS_PROG = const config::OPS_PROG,
    LISTEN_PROG = const config::LISTEN_PROG,
    FILTER_FLAGS = const config::FILTER_FLAGS,
    LISTENER_MSG = const config::LISTENER_MSG,
    DONE_MSG = const config::DONE_MSG,
    ZYGOTE_MSG = const config::ZYGOTE_MSG,
    CONTROL = const CONTROL,
    CONTROL_LEN = const CONTROL_LEN,
    C_ALTSTACK = const control::ALTSTACK,
    C_COUNT = const control::OPS_COUNT,
    C_OPS = const control::OPS,
    OP_LEN = const control::OP_LEN,
    SLABS = const SLABS,
    CHUNK = const CHUNK,
    LEADER_BUF = const own_slab::LEADER_BUF,
    NEW_TID = const own_slab::NEW_TID,
    LISTENS = const own_slab::LISTENS,
    FD_MSG = const own_slab::FD_MSG,
    FD_CONTROL_LEN = const own_slab::FD_CONTROL_LEN,
    SCRATCH = const SCRATCH,
    ZYGOTE_END = const ZYGOTE_END,
    REQUEST_LEN = const scratch::REQUEST_LEN,
    PAIR_LEADER = const scratch::PAIR_LEADER,
    PAIR_OPS = const scratch::PAIR_OPS,
    PIDFD = const scratch::PIDFD,
    REPLY = const scratch::REPLY,
    CONTROL_OFFSET = const scratch::CONTROL_OFFSET,
    CHUNK_OFFSET = const scratch::CHUNK_OFFSET,
    FD_LEADER = const FD_LEADER,
    FD_SLABS = const FD_SLABS,
    FD_CONTROL = const FD_CONTROL,
    FD_OPS = const FD_OPS,
    FD_FREE = const FD_FREE,
    THREAD = const THREAD,
    APP_THREAD = const THREAD | libc::CLONE_PARENT_SETTID as u64,
    STUB = const (libc::CLONE_PARENT | libc::CLONE_PIDFD),
    SOCK = const (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC),
    NR_sigaltstack = const libc::SYS_sigaltstack,
    NR_seccomp = const libc::SYS_seccomp,
    NR_futex = const libc::SYS_futex,
    NR_sendto = const libc::SYS_sendto,
    NR_recvmsg = const libc::SYS_recvmsg,
    NR_getpid = const libc::SYS_getpid,
    NR_dup = const libc::SYS_dup,
    NR_dup2 = const libc::SYS_dup2,
    NR_exit = const libc::SYS_exit,
    NR_exit_group = const libc::SYS_exit_group,
    NR_sendmsg = const libc::SYS_sendmsg,
    NR_close = const libc::SYS_close,
    NR_close_range = const libc::SYS_close_range,
    NR_read = const libc::SYS_read,
    NR_clone = const libc::SYS_clone,
    NR_munmap = const libc::SYS_munmap,
    NR_mmap = const libc::SYS_mmap,
    NR_socketpair = const libc::SYS_socketpair,
    NR_prctl = const libc::SYS_prctl,
    NR_mseal = const crate::host::SYS_MSEAL,
    NR_membarrier = const libc::SYS_membarrier,
);
