//! A stub gets another guest: nothing of the last one may reach it, and a stub in doubt is killed.

use arch::UserContext;
use usermem::platform::{Context, Exit, Platform as _, PlatformError, Prot};

use super::{loop_getpid, stubs};
use crate::common::{CODE, DATA, Guest, LEN, Machine, map, start, syscall};

/// Where stubs have their slabs and their control pages, from the end of what guests may map.
const SLABS: u64 = 0x10_0000;
const SLAB: u64 = 0x4000;
const CHUNK: u64 = 16 * SLAB;
const CONTROL: u64 = 0x4000;
/// The hand-over's number.
const HANDOFF: u64 = 0xca5;
/// Where the second guest copies what it sees.
const COPY: u64 = 0x80_0000;

/// The stub that has our guest.
fn stub_of(machine: &Machine) -> i32 {
    let base = machine.systrap.limits().user.end.0;
    let ours = |pid: &i32| {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        maps.contains(&format!("{base:x}-")) && maps.contains("00400000-")
    };
    stubs().into_iter().find(ours).expect("our stub")
}

/// Whether a stub has memory still; its number stays while somebody holds it.
fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| !maps.is_empty())
}

/// Interrupts a context that does not come back by itself within two seconds.
struct Watch(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>);

impl Watch {
    fn over(context: &dyn Context) -> Self {
        let interrupter = context.interrupter();
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            if stopped.recv_timeout(std::time::Duration::from_secs(2)).is_err() {
                interrupter.interrupt();
            }
        });
        Self(stop, thread)
    }

    fn stop(self) {
        // It may have lost patience.
        let _ = self.0.send(());
        self.1.join().unwrap();
    }
}

/// The stub's text.
fn text_of(machine: &Machine) -> Vec<u8> {
    let mut text = vec![0; 0x1000];
    let file = std::fs::File::open(format!("/proc/{}/mem", stub_of(machine))).unwrap();
    let base = machine.systrap.limits().user.end.0;
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut text, base).unwrap();
    text
}

fn recycles() -> bool {
    crate::HANDOVER != casemate_platform_systrap::Handover::Futex
}

fn end(guest: Guest, context: Box<dyn Context>) {
    drop(context);
    guest.space.end();
    assert!(matches!(guest.space.new_context(None), Err(PlatformError::Dead(_))));
    assert!(guest.space.apply(&[map(DATA, LEN, guest.data, Prot::READ)]).is_err());
    // Idempotent, and harmless to whoever has the stub now.
    guest.space.end();
    guest.space.kill();
}

/// Guest code that shows what it finds: selectors, bases, flags, extended state, slabs, control pages.
fn show() -> &'static [u8] {
    crate::guest_code!(
        code,
        "mov [rdi], rsp",
        "mov [rdi + 8], rax",
        "mov [rdi + 16], rbx",
        "mov [rdi + 24], rcx",
        "mov [rdi + 32], rdx",
        "mov [rdi + 40], rbp",
        "mov [rdi + 48], r8",
        "mov [rdi + 56], r9",
        "mov [rdi + 64], r10",
        "mov [rdi + 72], r11",
        "mov [rdi + 80], r12",
        "mov [rdi + 88], r13",
        "mov [rdi + 96], r14",
        "mov [rdi + 104], r15",
        "mov ax, ds",
        "mov [rdi + 112], ax",
        "mov ax, es",
        "mov [rdi + 114], ax",
        "mov ax, fs",
        "mov [rdi + 116], ax",
        "mov ax, gs",
        "mov [rdi + 118], ax",
        "rdfsbase rax",
        "mov [rdi + 120], rax",
        "pushfq",
        "pop rax",
        "mov [rdi + 128], rax",
        // All extended state that there is: x87, MXCSR, vector registers.
        "mov eax, -1",
        "mov edx, -1",
        "xsave64 [rdi + 0x1000]",
        // Slabs and control pages, as bytes.
        "mov r8, rsi",
        "mov rdi, 0x800000",
        "mov rcx, 0x40000",
        "rep movsb",
        "mov rsi, r9",
        "mov rcx, 0x4000",
        "rep movsb",
        "mov eax, 39",
        "syscall",
    );
    code()
}

/// A guest on whatever stub there is, all of whose sight is free of `marks`.
fn sees_nothing(machine: &Machine, marks: &[[u8; 6]]) -> i32 {
    let base = machine.systrap.limits().user.end.0;
    let guest = machine.guest(show());
    let len = CHUNK + CONTROL;
    let copy = machine.allocate(len);
    guest.space.apply(&[map(COPY, len, copy, Prot::READ | Prot::WRITE)]).unwrap();
    let pid = stub_of(machine);
    let mut context = guest.context();
    let mut user = start();
    (user.regs.rdi, user.regs.rsi, user.regs.r9) = (DATA, base + SLABS, base + CONTROL);
    assert_eq!(syscall(&mut *context, &mut user), 39);
    let saved = machine.read(guest.data, 0x4000);
    let word = |at: usize| u64::from_le_bytes(saved[at..at + 8].try_into().unwrap());
    assert_eq!(word(0), start().regs.rsp);
    for register in (8..112).step_by(8).filter(|at| ![24, 56, 72].contains(at)) {
        assert_eq!(word(register), 0, "register {register}");
    }
    assert_eq!(word(112), 0, "selectors");
    assert_eq!(word(120), 0, "FS base");
    assert_eq!(word(128) & !0x246, 0, "flags");
    // Of the extended state, MXCSR and the control word have their first values; no vector register has anything.
    assert_eq!(saved[0x1000..0x1002], 0x37f_u16.to_le_bytes());
    assert_eq!(saved[0x1018..0x101c], 0x1f80_u32.to_le_bytes());
    assert!(saved[0x10a0..0x11a0].iter().all(|&byte| byte == 0), "vector registers");
    let sight = [saved, machine.read(copy, len as usize)].concat();
    for mark in marks {
        let at = sight.windows(mark.len()).position(|bytes| bytes == mark);
        assert_eq!(at, None, "{mark:x?} of the last guest");
    }
    end(guest, context);
    pid
}

#[test]
fn nothing_of_a_guest_reaches_the_next_one_on_its_stub() {
    crate::guest_code!(
        leave_traces,
        // Unused slabs, the stub's own, and the free part of this thread's.
        "mov rax, 0x5a5b5c5d5e5f5051",
        "rep stosq",
        // Behind what the memory thread may still be about to read on its way to its next call, where there are no listeners.
        "lea rdi, [rsi + 0x200]",
        "mov ecx, 0x6c0",
        "rep stosq",
        "rdgsbase rdi",
        "add rdi, 0x100",
        "mov ecx, 0xe0",
        "rep stosq",
        "vmovdqu ymm0, [rdx]",
        "vmovdqu ymm15, [rdx]",
        "fld qword ptr [rdx]",
        "ldmxcsr [rdx + 64]",
        "mov ecx, 0x2b",
        "mov ds, ecx",
        "mov es, ecx",
        "mov fs, ecx",
        "wrfsbase r8",
        "std",
        // A fault whose address the host remembers.
        "mov rax, [r9]",
    );
    if !std::arch::is_x86_feature_detected!("avx") {
        return;
    }
    let machine = Machine::alone();
    let base = machine.systrap.limits().user.end.0;
    let mark = |byte: u8| [byte, byte + 1, byte + 2, byte + 3, byte + 4, byte + 5];
    let marks = [0x11, 0x21, 0x31, 0x41, 0x71, 0x81, 0x91, 0xa1].map(mark);
    let value = |byte: u8| {
        let [a, b, c, d, e, f] = mark(byte);
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    };
    let mut pids = Vec::new();
    for _ in 0..4 {
        let guest = machine.guest(leave_traces());
        pids.push(stub_of(&machine));
        machine.write(guest.data, &[mark(0x11), mark(0x21), mark(0x31), mark(0x41), mark(0x11), mark(0x21)].concat());
        machine.write(guest.data + 64, &0x1f9f_u32.to_le_bytes());
        let mut context = guest.context();
        let mut user = start();
        let r = &mut user.regs;
        (r.rdi, r.rcx) = (base + SLABS + 2 * SLAB, (CHUNK - 2 * SLAB) / 8);
        (r.rsi, r.rdx) = (base + SLABS, DATA);
        // Canonical, and nothing is there.
        (r.r8, r.r9) = (value(0x71) & 0x7fff_ffff_ffff, value(0x81) & 0x3fff_ffff_ffff);
        (r.r12, r.r13, r.r14, r.r15) = (value(0x91), value(0xa1), value(0x91), value(0xa1));
        match context.switch(&mut user) {
            Ok(Exit::Fault(info)) => assert_eq!(info.addr.0, user.regs.r9),
            other => panic!("{other:?} at {:#x}", user.regs.rip),
        }
        // What the memory thread did for it.
        let far = value(0x31) & 0x3fff_ffff_f000;
        guest.space.apply(&[map(far, 0x1000, guest.data, Prot::READ)]).unwrap();
        end(guest, context);
        let traces = [0x5150, 0x5f50, 0x5a5b].map(|_| [0x51, 0x50, 0x5f, 0x5e, 0x5d, 0x5c]);
        pids.push(sees_nothing(&machine, &[&marks[..], &traces[..]].concat()));
    }
    if recycles() {
        pids.dedup();
        assert_eq!(pids.len(), 1, "one stub for all: {pids:?}");
    }
}

#[test]
fn its_memory_is_gone_when_a_space_has_ended() {
    let machine = Machine::alone();
    let guest = machine.guest(loop_getpid());
    let pid = stub_of(&machine);
    let mut context = guest.context();
    assert_eq!(syscall(&mut *context, &mut start()), 39);
    end(guest, context);
    let base = machine.systrap.limits().user.end.0;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    for line in maps.lines() {
        let at = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        assert!(at >= base, "{line}");
    }
    if recycles() {
        assert!(lives(pid));
    }
}

#[test]
fn a_stub_with_threads_is_used_again_and_again() {
    let machine = Machine::alone();
    let mut pids = Vec::new();
    for round in 0..40_u64 {
        let guest = machine.guest(loop_getpid());
        pids.push(stub_of(&machine));
        let mut contexts: Vec<_> = (0..1 + round % 2).map(|_| guest.context()).collect();
        for call in 0..30 {
            for context in &mut contexts {
                let mut user = start();
                (user.regs.rbx, user.regs.r15) = (round, call);
                assert_eq!(syscall(&mut **context, &mut user), 39);
                assert_eq!((user.regs.rbx, user.regs.r15), (round, call));
            }
        }
        let last = contexts.pop().unwrap();
        drop(contexts);
        end(guest, last);
    }
    if recycles() {
        pids.dedup();
        assert_eq!(pids.len(), 1, "{pids:?}");
    }
}

#[test]
fn a_stub_with_many_threads_is_not_used_again() {
    let machine = Machine::alone();
    let guest = machine.guest(loop_getpid());
    let pid = stub_of(&machine);
    let mut contexts: Vec<_> = (0..3).map(|_| guest.context()).collect();
    contexts.iter_mut().for_each(|context| assert_eq!(syscall(&mut **context, &mut start()), 39));
    let last = contexts.pop().unwrap();
    drop(contexts);
    end(guest, last);
    assert!(!lives(pid));
}

#[test]
fn a_stub_whose_thread_was_interrupted_is_not_used_again() {
    crate::guest_code!(spin, "2: jmp 2b");
    let machine = Machine::alone();
    let guest = machine.guest(spin());
    let pid = stub_of(&machine);
    let mut context = guest.context();
    let interrupter = context.interrupter();
    let thread = std::thread::spawn(move || {
        assert!(matches!(context.switch(&mut start()), Ok(Exit::Interrupted)));
        context
    });
    interrupter.interrupt();
    let context = thread.join().unwrap();
    end(guest, context);
    assert!(!lives(pid), "a late kick could hit the next guest");
    sees_nothing(&machine, &[]);
}

#[test]
fn a_space_with_a_context_left_is_killed() {
    let machine = Machine::alone();
    let guest = machine.guest(loop_getpid());
    let pid = stub_of(&machine);
    let mut context = guest.context();
    assert_eq!(syscall(&mut *context, &mut start()), 39);
    guest.space.end();
    assert!(matches!(context.switch(&mut start()), Err(PlatformError::Dead(_))));
    drop(context);
    assert!(!lives(pid));
}

#[test]
fn threads_in_crafted_states_do_not_reach_the_next_guest() {
    // Says in its line that it has handed over, and does so at a place of its choice with registers of its choice.
    crate::guest_code!(craft, "mov dword ptr gs:[0], 3", "push r11", "popfq", "jmp rcx");
    let machine = Machine::alone();
    let base = machine.systrap.limits().user.end.0;
    let text = {
        let guest = machine.guest(loop_getpid());
        let text = text_of(&machine);
        end(guest, machine.guest(loop_getpid()).context());
        text
    };
    let sites: Vec<u64> =
        (0..text.len() - 1).filter(|&at| text[at..at + 2] == [0x0f, 0x05]).map(|at| base + at as u64).collect();
    assert!(sites.len() > 10);
    let mut reused = 0;
    for (index, site) in sites.iter().enumerate() {
        // Plain, single-stepping, with alignment checks, going down, with NT.
        for flags in [0x202, 0x302, 0x4_0202, 0x602, 0x4202] {
            let guest = machine.guest(craft());
            let pid = stub_of(&machine);
            let mut context = guest.context();
            let mut user = start();
            let r = &mut user.regs;
            (r.rax, r.rcx, r.r11) = (HANDOFF, *site, flags);
            (r.rbx, r.r15, r.rdx) = (DATA, CODE, DATA);
            [r.rdi, r.rsi, r.r12, r.r13, r.r14] = [index as u64; 5];
            // Nothing of it matters but that it comes back: an exit of any kind, or a stub that was killed for it.
            let watch = Watch::over(&*context);
            let _ = context.switch(&mut user);
            watch.stop();
            end(guest, context);
            reused += usize::from(sees_nothing(&machine, &[]) == pid);
        }
    }
    // At the one site where honest threads wait, with flags that trap nowhere, there is nothing to doubt.
    assert!(!recycles() || (2..=5).contains(&reused), "{reused} of {}", sites.len() * 5);
}

#[test]
fn a_thread_that_only_says_it_waits_is_not_believed() {
    // Calls until the kernel watches the line, then writes there that it has handed over, and runs on.
    crate::guest_code!(
        pretend,
        "2: mov eax, 39",
        "syscall",
        "dec r12",
        "jnz 2b",
        "mov dword ptr gs:[0], 2",
        "3: inc rbx",
        "jmp 3b"
    );
    let machine = Machine::alone();
    let guest = machine.guest(pretend());
    let pid = stub_of(&machine);
    let mut context = guest.context();
    let mut user: UserContext = start();
    user.regs.r12 = 20_000;
    let watch = Watch::over(&*context);
    // Until the forged request, which is read as the last call once more, or until the interrupt where nobody watched.
    for _ in 0..20_001 {
        if !matches!(context.switch(&mut user), Ok(Exit::Syscall)) {
            break;
        }
    }
    watch.stop();
    end(guest, context);
    assert!(!lives(pid), "it ran on");
    sees_nothing(&machine, &[]);
}
