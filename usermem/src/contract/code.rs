//! Guest code, position independent, to be copied into guest pages.

use core::arch::global_asm;

macro_rules! guest_code {
    ($($(#[$doc:meta])* $name:ident $start:literal $end:literal: $($line:literal)+;)*) => {
        $(
            global_asm!(
                ".pushsection .rodata.casemate_contract,\"a\",@progbits",
                concat!(".globl ", $start),
                concat!(".hidden ", $start),
                concat!($start, ":"),
                $($line,)+
                concat!(".globl ", $end),
                concat!(".hidden ", $end),
                concat!($end, ":"),
                ".popsection",
            );
            $(#[$doc])*
            pub(super) fn $name() -> &'static [u8] {
                unsafe extern "C" {
                    #[link_name = $start]
                    static START: u8;
                    #[link_name = $end]
                    static END: u8;
                }
                let start = &raw const START;
                let len = (&raw const END).addr() - start.addr();
                // SAFETY: both symbols stand in one read-only section, the second after the first, with initialised bytes
                // between.
                unsafe { std::slice::from_raw_parts(start, len) }
            }
        )*
    };
}

guest_code! {
    /// Undefined instructions, two bytes each.
    undefined "casemate_gc_undefined" "casemate_gc_undefined_end": "ud2" "ud2" "ud2" "ud2";
    /// Calls for ever; `rbx` counts the returns.
    call_loop "casemate_gc_call_loop" "casemate_gc_call_loop_end": "1: syscall" "inc rbx" "jmp 1b";
    /// Loads from `rdi` into `rax`.
    load "casemate_gc_load" "casemate_gc_load_end": "mov rax, [rdi]" "ud2";
    /// Stores `rsi` to `rdi`.
    store "casemate_gc_store" "casemate_gc_store_end": "mov [rdi], rsi" "ud2";
    /// Jumps to `rdi`.
    jump "casemate_gc_jump" "casemate_gc_jump_end": "jmp rdi";
    /// Divides by zero.
    divide "casemate_gc_divide" "casemate_gc_divide_end": "xor edx, edx" "xor ecx, ecx" "mov eax, 1" "div ecx";
    /// A breakpoint.
    breakpoint "casemate_gc_breakpoint" "casemate_gc_breakpoint_end": "int3" "ud2";
    /// Halts.
    halt "casemate_gc_halt" "casemate_gc_halt_end": "hlt" "ud2";
    /// Counts in memory at `rdi`, for ever.
    store_loop "casemate_gc_store_loop" "casemate_gc_store_loop_end": "1: inc qword ptr [rdi]" "jmp 1b";
    /// Loads from `rdi` and counts at `rsi`, for ever.
    load_loop "casemate_gc_load_loop" "casemate_gc_load_loop_end":
        "1: mov rax, [rdi]" "inc qword ptr [rsi]" "jmp 1b";
    /// Says at `rdi` that it runs, and spins.
    spin "casemate_gc_spin" "casemate_gc_spin_end": "mov qword ptr [rdi], 1" "1: pause" "jmp 1b";
    /// `rbx` times: counts at `rdi` and calls.
    count_and_call "casemate_gc_count" "casemate_gc_count_end":
        "1: lock inc qword ptr [rdi]" "mov eax, 24" "syscall" "dec rbx" "jnz 1b" "ud2";
    /// Keeps `rdi` and `rsi` in vector registers over a call; `r8` and `r9` get them back.
    vectors "casemate_gc_vectors" "casemate_gc_vectors_end":
        "movq xmm0, rdi" "movq xmm1, rsi" "syscall" "movq r8, xmm0" "movq r9, xmm1" "ud2";
    /// `r8` and `r9` get what is in the vector registers.
    read_vectors "casemate_gc_read_vectors" "casemate_gc_read_vectors_end": "movq r8, xmm0" "movq r9, xmm1" "ud2";
    /// Loads through fs and gs before and after a call.
    segments "casemate_gc_segments" "casemate_gc_segments_end":
        "mov r8, fs:[0]" "mov r9, gs:[0]" "syscall" "mov r8, fs:[0]" "mov r9, gs:[0]" "ud2";
    /// Reads a word through each base, and calls, again and again.
    segment_loop "casemate_gc_segment_loop" "casemate_gc_segment_loop_end":
        "1: mov r8, fs:[0]" "mov r9, gs:[0]" "syscall" "jmp 1b";
    /// Sets the fs base itself, and calls.
    set_fs_base "casemate_gc_set_fs" "casemate_gc_set_fs_end": "wrfsbase rdi" "syscall" "mov r8, fs:[0]" "ud2";
    /// `rax` is the sum of the first words of `rsi` pages from `rdi`.
    sum "casemate_gc_sum" "casemate_gc_sum_end":
        "xor eax, eax" "1: add rax, [rdi]" "add rdi, 4096" "dec rsi" "jnz 1b" "ud2";
    /// Uses the red zone over a call.
    red_zone "casemate_gc_red_zone" "casemate_gc_red_zone_end":
        "mov [rsp - 8], rdi" "mov [rsp - 128], rsi" "syscall" "mov r8, [rsp - 8]" "mov r9, [rsp - 128]" "ud2";
}
