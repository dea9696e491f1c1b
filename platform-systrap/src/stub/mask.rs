//! rt_sigprocmask in the stub, from a patched site, with r11 = where to return: the protocol is [`crate::mask`]'s.
//!
//! Its pointers are used with the rights of guest code, in which this runs: what it can reach, the guest can; those past the end
//! of user space are the kernel's to refuse. A fault there, or a kick, ends in `.Lcs_mask_left`, which can be reached from anywhere between `.Lcs_mask_start` and `.Lcs_mask_end`, because
//! - only rax, rcx and flags change;
//! - ax holds the guest's flags while its bit 9 is set, which it is after lahf, and neither in the call's number nor in its
//!   result; `cmp al, 0x81` makes the overflow flag what al says;
//! - the mask is new behind the xchg, and nowhere before.

/// Each signal but SIGKILL and SIGSTOP.
pub(super) const BLOCKABLE: i64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));

/// The flags that arithmetic changes.
pub(super) const ARITHMETIC: u32 = 0x8d5;

/// The code.
macro_rules! mask_code {
    () => {
        r#"
    .balign 16
.Lcs_mask_start:
24:
    // Only the old mask is asked for.
    test rdx, rdx
    jz 28f
    mov rcx, gs:[{MASK}]
    mov [rdx], rcx
28:
    cmp al, 0x81
    sahf
    mov eax, 0
    jmp r11
25:
    // The ordinary way.
    cmp al, 0x81
    sahf
    mov eax, {NR_rt_sigprocmask}
    jmp .Lcs_call_on
.Lcs_mask:
    // Here it starts.
    seto al
    lahf
    cmp qword ptr gs:[{MASK_OPEN}], 0
    je 25b
    cmp r10, 8
    jne 25b
    // What lies past the end of user space is no memory of the guest's, though some of it is mapped.
    lea rcx, [rip + .Lcs_base - 7]
    cmp rsi, rcx
    jae 25b
    cmp rdx, rcx
    jae 25b
    test rsi, rsi
    jz 24b
    // Sets that overlap could not be read again after the old mask is stored.
    lea rcx, [rsi + 7]
    sub rcx, rdx
    cmp rcx, 15
    jb 25b
    cmp edi, {SIG_SETMASK}
    ja 25b
    mov rcx, [rsi]
    test rdx, rdx
    jz 22f
    mov rcx, gs:[{MASK}]
    mov [rdx], rcx
    mov rcx, [rsi]
22:
    cmp edi, {SIG_UNBLOCK}
    ja 23f
    jb 26f
    not rcx
    and rcx, gs:[{MASK}]
    jmp 23f
26:
    or rcx, gs:[{MASK}]
23:
    and rcx, {BLOCKABLE}
    xchg gs:[{MASK}], rcx
.Lcs_mask_changed:
    cmp qword ptr gs:[{MASK_OPEN}], 0
    je 27f
    cmp al, 0x81
    sahf
    mov eax, 0
    jmp r11
27:
    cmp al, 0x81
    sahf
    mov eax, 0
    mov dword ptr gs:[{L_SIGNAL}], {LOOK}
    mov rcx, gs:[{L_FRAME}]
    xchg rcx, rsp
.Lcs_mask_end:
    jmp .Lcs_call_taken

.Lcs_mask_left:
    // A kick, or a fault of the guest's pointers, at rax in there. Before the exchange: as if the thread were about to make
    // its call. Behind it the call is over. The guest chose r11, so this must not come here again without the kernel.
    mov [rbx + {L_FRAME}], rdx
    mov dword ptr [rbx + {L_LIVE}], 0
    mov rsi, rax
    mov eax, [rdx + {RAX}]
    test eax, 0x200
    jz 29f
    cmp al, 0x81
    sahf
    pushfq
    pop rcx
    and ecx, {ARITHMETIC}
    mov rax, [rdx + {EFLAGS}]
    and rax, ~{ARITHMETIC}
    or rax, rcx
    mov [rdx + {EFLAGS}], rax
29:
    mov rcx, [rdx + {R11}]
    lea rax, [rip + .Lcs_mask_changed]
    cmp rsi, rax
    jae 30f
    sub rcx, 2
    mov [rdx + {RIP}], rcx
    mov qword ptr [rdx + {RAX}], {NR_rt_sigprocmask}
    mov edi, {KICK}
    jmp .Lcs_trapped
30:
    mov [rdx + {RIP}], rcx
    mov qword ptr [rdx + {RAX}], 0
    mov edi, {LOOK}
    jmp .Lcs_trapped
"#
    };
}
