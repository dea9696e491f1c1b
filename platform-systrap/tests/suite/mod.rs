//! The platform's promises, with guest code in assembly; each hand-over runs all of them.
mod answers;
mod calls;
mod interrupts;
mod mask;
mod recycling;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::common::{CODE, DATA, LEN, Machine, map, range, start, syscall};
use arch::UserContext;
use usermem::Addr;
use usermem::platform::{Access, Backing, Context, Exit, FaultInfo, MapOp, Platform, PlatformError, Prot};

crate::guest_code!(spin, "2: inc rax", "jmp 2b");
crate::guest_code!(loop_getpid, "2: mov eax, 39", "syscall", "jmp 2b");

const ENOSYS: u64 = (-38_i64) as u64;

#[test]
fn a_call_comes_with_all_registers_and_returns_what_we_say() {
    crate::guest_code!(
        code,
        "mov rax, 0x1001",
        "mov rbx, 0x1002",
        "mov rdx, 0x1004",
        "mov rsi, 0x1005",
        "mov rdi, 0x1006",
        "mov rbp, 0x1007",
        "mov r8, 0x1008",
        "mov r9, 0x1009",
        "mov r10, 0x100a",
        "mov r12, 0x100c",
        "mov r13, 0x100d",
        "mov r14, 0x100e",
        "mov r15, 0x100f",
        "stc",
        "std",
        "syscall",
        "mov [rdi], rax",
        "pushfq",
        "pop rax",
        "syscall",
    );
    let machine = Machine::new();
    let guest = machine.guest(code());
    let mut context = guest.context();
    let mut user = start();
    assert_eq!(syscall(&mut *context, &mut user), 0x1001);
    let r = user.regs;
    assert_eq!(r.rax, ENOSYS);
    assert_eq!([r.rbx, r.rdx, r.rsi, r.rdi, r.rbp], [0x1002, 0x1004, 0x1005, 0x1006, 0x1007]);
    assert_eq!(
        [r.r8, r.r9, r.r10, r.r12, r.r13, r.r14, r.r15],
        [0x1008, 0x1009, 0x100a, 0x100c, 0x100d, 0x100e, 0x100f]
    );
    assert_eq!((r.rcx, r.r11), (r.rip, r.eflags));
    assert_eq!(r.eflags & 0x401, 0x401);
    assert_eq!(r.rsp, start().regs.rsp);
    user.regs.rax = 0xabcd;
    user.regs.rdi = DATA;
    assert_eq!(syscall(&mut *context, &mut user) & 0x401, 0x401);
    assert_eq!(machine.word(guest.data), 0xabcd);
    assert_eq!(user.regs.rbx, 0x1002);
}

#[test]
fn every_register_can_be_set_at_any_instruction() {
    // Saves everything that the guest can see, in order, then calls.
    crate::guest_code!(
        save,
        "push rax",
        "push rbx",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push rbp",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "pushfq",
        "rdfsbase rax",
        "push rax",
        "rdgsbase rax",
        "push rax",
        "syscall",
    );
    let machine = Machine::new();
    let guest = machine.guest(save());
    let mut context = guest.context();
    let mut user = start();
    let r = &mut user.regs;
    [r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp] = [1, 2, 3, 4, 5, 6, 7];
    [r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15] = [8, 9, 10, 11, 12, 13, 14, 15];
    r.eflags = 0x202 | 0x800 | 0x1;
    (r.fs_base, r.gs_base) = (0x1234_5000, 0x7fff_0000_1000);
    let top = r.rsp;
    syscall(&mut *context, &mut user);
    let saved: Vec<u64> = (1..=18).map(|i| machine.word(guest.data + (top - 8 * i - DATA))).collect();
    assert_eq!(
        saved[..15],
        (1..=15).map(|i| [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15][i]).collect::<Vec<u64>>()
    );
    assert_eq!(saved[15], 0xa03);
    assert_eq!(saved[16..], [0x1234_5000, 0x7fff_0000_1000]);
    assert_eq!((user.regs.fs_base, user.regs.gs_base), (0x1234_5000, 0x7fff_0000_1000));
}

#[test]
fn faults_say_what_was_attempted() {
    crate::guest_code!(code, "mov rax, [rdi]", "nop", "nop", "nop", "nop", "nop", "mov [rdi], rax", "ud2");
    let machine = Machine::new();
    let guest = machine.guest(code());
    let mut context = guest.context();
    let mut fault = |user: &mut UserContext| match context.switch(user) {
        Ok(Exit::Fault(info)) => info,
        other => panic!("{other:?}"),
    };
    let mut user = start();
    user.regs.rdi = 0x7000_0123;
    let info = fault(&mut user);
    let expected = FaultInfo {
        signal: libc::SIGSEGV,
        code: 1,
        addr: Addr(0x7000_0123),
        trapno: 14,
        error_code: 4,
        access: Access::Read,
    };
    assert_eq!(info, expected);
    assert_eq!((user.regs.rip, user.regs.orig_rax), (CODE, u64::MAX));
    // Mapping it makes the instruction succeed.
    let page = machine.allocate(0x1000);
    machine.write(page + 0x123, &77_u64.to_le_bytes());
    guest.space.apply(&[map(0x7000_0000, 0x1000, page, Prot::READ)]).unwrap();
    let info = fault(&mut user);
    assert_eq!((info.access, info.error_code, info.code), (Access::Write, 7, 2));
    assert_eq!(user.regs.rax, 77);
    user.regs.rdi = DATA;
    let info = fault(&mut user);
    assert_eq!((info.signal, info.trapno), (libc::SIGILL, 6));
    // Execution of what is not executable.
    user.regs.rip = DATA;
    let info = fault(&mut user);
    assert_eq!((info.access, info.addr), (Access::Exec, Addr(DATA)));
    // An address that is none.
    user.regs.rip = 0x8000_0000_0000_0000;
    assert_eq!(fault(&mut user).trapno, 13);
    // Division by zero, breakpoint, single step.
    crate::guest_code!(others, "xor ecx, ecx", "div ecx", "int3", "nop", "nop");
    machine.write(guest.code, others());
    user.regs.rip = CODE;
    let info = fault(&mut user);
    assert_eq!((info.signal, info.trapno, user.regs.rip), (libc::SIGFPE, 0, CODE + 2));
    user.regs.rip += 2;
    let info = fault(&mut user);
    assert_eq!((info.signal, info.trapno, user.regs.rip), (libc::SIGTRAP, 3, CODE + 5));
    user.regs.eflags |= 0x100;
    let info = fault(&mut user);
    assert_eq!((info.signal, info.trapno, user.regs.rip), (libc::SIGTRAP, 1, CODE + 6));
    assert_eq!(user.regs.eflags & 0x100, 0x100);
}

#[test]
fn removals_and_downgrades_hold_when_apply_returns() {
    crate::guest_code!(code, "2: mov [rdi], rax", "mov eax, 39", "syscall", "jmp 2b");
    let machine = Machine::new();
    let guest = machine.guest(code());
    let mut context = guest.context();
    let mut user = start();
    user.regs.rdi = DATA;
    assert_eq!(syscall(&mut *context, &mut user), 39);
    guest.space.apply(&[MapOp::Protect { range: range(DATA, 0x1000), prot: Prot::READ }]).unwrap();
    assert!(matches!(context.switch(&mut user), Ok(Exit::Fault(info)) if info.access == Access::Write));
    guest.space.apply(&[MapOp::Protect { range: range(DATA, 0x1000), prot: Prot::READ | Prot::WRITE }]).unwrap();
    assert_eq!(syscall(&mut *context, &mut user), 39);
    guest.space.apply(&[MapOp::Unmap { range: range(DATA, 0x1000) }]).unwrap();
    assert!(matches!(context.switch(&mut user), Ok(Exit::Fault(info)) if info.addr == Addr(DATA)));
    // What was mapped without write access never gets it.
    guest.space.apply(&[map(DATA, 0x1000, guest.data, Prot::READ)]).unwrap();
    let upgrade = MapOp::Protect { range: range(DATA, 0x1000), prot: Prot::READ | Prot::WRITE };
    assert!(guest.space.apply(&[upgrade]).is_err());
    assert!(matches!(context.switch(&mut user), Err(PlatformError::Dead(_))));
}

#[test]
fn a_long_batch_is_carried_out_in_order() {
    let machine = Machine::new();
    let guest = machine.guest(loop_getpid());
    let page = machine.allocate(0x1000);
    let mut ops = Vec::new();
    for i in 0..1000 {
        ops.push(map(0x1000_0000 + i * 0x2000, 0x1000, page, Prot::READ | Prot::WRITE));
    }
    for i in 0..1000 {
        ops.push(MapOp::Unmap { range: range(0x1000_0000 + i * 0x2000, 0x1000) });
    }
    guest.space.apply(&ops).unwrap();
    guest.space.barrier().unwrap();
    assert_eq!(syscall(&mut *guest.context(), &mut start()), 39);
}

#[test]
fn the_stub_region_is_out_of_reach() {
    let machine = Machine::new();
    let guest = machine.guest(loop_getpid());
    let user = machine.systrap.limits().user;
    for range in [range(user.end.0, 0x1000), range(user.end.0 - 0x1000, 0x2000), range(0, 0x1000)] {
        assert!(guest.space.apply(&[MapOp::Unmap { range }]).is_err());
    }
    assert_eq!(syscall(&mut *guest.context(), &mut start()), 39);
}

#[test]
fn host_files_and_zeros_are_mapped() {
    crate::guest_code!(code, "mov rax, [rdi]", "add rax, [rsi]", "add rax, [rdx]", "syscall");
    let machine = Machine::new();
    let guest = machine.guest(code());
    let dir = std::env::temp_dir().join(format!("casemate-systrap-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = |name: &str, value: u64| -> Arc<OwnedFd> {
        let path = dir.join(name);
        let mut bytes = vec![0; 0x2000];
        bytes[0x1000..0x1008].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        Arc::new(std::fs::File::open(path).unwrap().into())
    };
    let (one, two) = (file("one", 1), file("two", 20));
    let host = |at, file: &Arc<OwnedFd>| MapOp::Map {
        range: range(at, 0x1000),
        backing: Backing::Host { file: Arc::clone(file), offset: 0x1000, shared: false },
        prot: Prot::READ | Prot::EXEC,
        populate: true,
    };
    let zero =
        MapOp::Map { range: range(0x3000_0000, 1 << 30), backing: Backing::Zero, prot: Prot::READ, populate: false };
    let mut context = guest.context();
    for _ in 0..3 {
        guest
            .space
            .apply(&[host(0x1000_0000, &one), zero.clone(), host(0x2000_0000, &two), host(0x2000_1000, &one)])
            .unwrap();
        let mut user = start();
        (user.regs.rdi, user.regs.rsi, user.regs.rdx) = (0x1000_0000, 0x2000_0000, 0x3fff_0000);
        assert_eq!(syscall(&mut *context, &mut user), 21);
    }
    // Many files, more than fit in one message.
    let files: Vec<_> = (0..150).map(|i| file(&format!("many{i}"), i)).collect();
    let ops: Vec<_> = files.iter().enumerate().map(|(i, file)| host(0x5000_0000 + i as u64 * 0x1000, file)).collect();
    guest.space.apply(&ops).unwrap();
    let mut user = start();
    (user.regs.rdi, user.regs.rsi, user.regs.rdx) =
        (0x5000_0000 + 149 * 0x1000, 0x5000_0000 + 100 * 0x1000, 0x3fff_0000);
    assert_eq!(syscall(&mut *context, &mut user), 249);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn threads_share_memory_and_run_in_parallel() {
    crate::guest_code!(
        code,
        "lock inc qword ptr [rdi]",
        "mov eax, 39",
        "syscall",
        "jmp 2f",
        "2: lock inc qword ptr [rdi]",
        "syscall"
    );
    let machine = Machine::new();
    let guest = machine.guest(code());
    for round in 0..3 {
        // More than one chunk of slabs.
        let threads: Vec<_> = (0..40)
            .map(|_| {
                let mut context = guest.context();
                std::thread::spawn(move || {
                    let mut user = start();
                    user.regs.rdi = DATA;
                    assert_eq!(syscall(&mut *context, &mut user), 39);
                    user.regs.rax = 5;
                    assert_eq!(syscall(&mut *context, &mut user), 5);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(machine.word(guest.data), (round + 1) * 80);
    }
}

#[test]
fn spaces_come_and_go() {
    let machine = Machine::alone();
    for i in 0..50_u64 {
        let guest = machine.guest(loop_getpid());
        let mut context = guest.context();
        let mut user = start();
        user.regs.rbx = i;
        assert_eq!(syscall(&mut *context, &mut user), 39);
        assert_eq!(user.regs.rbx, i);
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    for _ in 0..20 {
        drop(machine.guest(loop_getpid()));
    }
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() <= open + 2, "descriptors leak");
}

#[test]
fn killing_a_space_ends_every_switch() {
    let machine = Machine::new();
    let guest = machine.guest(spin());
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let mut context = guest.context();
            std::thread::spawn(move || {
                assert!(matches!(context.switch(&mut start()), Err(PlatformError::Dead(_))));
                assert!(matches!(context.switch(&mut start()), Err(PlatformError::Dead(_))));
            })
        })
        .collect();
    let late = guest.context().interrupter();
    std::thread::yield_now();
    guest.space.kill();
    guest.space.kill();
    late.interrupt();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(guest.space.apply(&[MapOp::Unmap { range: range(DATA, LEN) }]).is_err());
    assert!(matches!(guest.space.new_context(None), Err(PlatformError::Dead(_))));
}

/// Pids of the processes called "casemate-stub" whose parent we are and that have `code` mapped.
fn stubs() -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        if status.contains("casemate-stub") && status.contains(&format!("PPid:\t{}\n", std::process::id())) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn a_stub_killed_from_outside_shows_as_dead() {
    let before = stubs();
    let machine = Machine::alone();
    let guest = machine.guest(spin());
    let mut context = guest.context();
    let mut ours = None;
    // Other tests run beside us: our stub is the one that has our memory file's guest mapped, found by its parent thread
    // being this one's process and by not having been there before; kill only a process of this test.
    for pid in stubs().into_iter().filter(|pid| !before.contains(pid)) {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let base = machine.systrap.limits().user.end.0;
        if maps.contains(&format!("{base:x}-")) && maps.contains("00400000-") {
            ours = Some(pid);
        }
    }
    let pid = ours.expect("our stub");
    let thread = std::thread::spawn(move || {
        assert!(matches!(context.switch(&mut start()), Err(PlatformError::Dead(_))));
    });
    std::thread::yield_now();
    // SAFETY: no pointers; the process is a stub of this test.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    thread.join().unwrap();
    assert!(guest.space.apply(&[MapOp::Unmap { range: range(DATA, LEN) }]).is_err());
    // The platform goes on.
    let other = machine.guest(loop_getpid());
    assert_eq!(syscall(&mut *other.context(), &mut start()), 39);
}

#[test]
fn extended_state_stays_and_can_be_moved() {
    crate::guest_code!(
        code,
        "vmovdqu ymm7, [rdi]",
        "movdqu xmm3, [rdi + 8]",
        "fld1",
        "mov eax, 39",
        "syscall",
        "2: vmovdqu [rdi + 64], ymm7",
        "movdqu [rdi + 96], xmm3",
        "fstp qword ptr [rdi + 128]",
        "fld1",
        "mov eax, 40",
        "syscall",
        "jmp 2b",
    );
    if !std::arch::is_x86_feature_detected!("avx") {
        return;
    }
    let machine = Machine::new();
    let guest = machine.guest(code());
    let pattern: Vec<u8> = (1..=40).collect();
    machine.write(guest.data, &pattern);
    let mut context = guest.context();
    let mut user = start();
    user.regs.rdi = DATA;
    assert_eq!(syscall(&mut *context, &mut user), 39);
    // A busy host thread with other vector contents in between.
    assert_eq!(std::hint::black_box([1.5_f64; 32]).iter().sum::<f64>(), 48.0);
    let expect = |guest: &crate::common::Guest| {
        assert_eq!(machine.read(guest.data + 64, 32), pattern[..32]);
        assert_eq!(machine.read(guest.data + 96, 16), pattern[8..24]);
        assert_eq!(f64::from_bits(machine.word(guest.data + 128)), 1.0);
        machine.write(guest.data + 64, &[0; 80]);
    };
    assert_eq!(syscall(&mut *context, &mut user), 40);
    expect(&guest);
    // A copy has it too.
    let mut copy = guest.space.new_context(Some(&mut *context)).unwrap();
    let mut copied = user.clone();
    assert_eq!(syscall(&mut *copy, &mut copied), 40);
    expect(&guest);
    // A new one has not.
    let mut fresh = guest.context();
    let mut clean = user.clone();
    assert_eq!(syscall(&mut *fresh, &mut clean), 40);
    assert_eq!(machine.read(guest.data + 64, 48), vec![0; 48]);
    // Pull from one, set in another space.
    context.pull_full(&mut user).unwrap();
    let other = machine.guest(code());
    let mut moved = other.context();
    let mut user2 = user.clone();
    moved.set_full(&user2).unwrap();
    assert_eq!(syscall(&mut *moved, &mut user2), 40);
    expect(&other);
    // Nonsense is made harmless.
    user2.fpu.image.fill(0xff);
    moved.set_full(&user2).unwrap();
    assert_eq!(syscall(&mut *moved, &mut user2), 40);
    // A parked thread does not hand its state on.
    drop(fresh);
    drop(copy);
    drop(context);
    for _ in 0..3 {
        let mut fresh = guest.context();
        let mut clean = user.clone();
        assert_eq!(syscall(&mut *fresh, &mut clean), 40);
        assert_eq!(machine.read(guest.data + 64, 48), vec![0; 48]);
        machine.write(guest.data + 64, &[7; 80]);
    }
}

#[test]
fn foreign_ways_into_the_host_are_closed() {
    let machine = Machine::new();
    // 32-bit call: the instruction faults.
    crate::guest_code!(int80, "mov eax, 20", "int 0x80", "mov eax, 0x40000027", "syscall", "nop");
    let guest = machine.guest(int80());
    let mut context = guest.context();
    let mut user = start();
    match context.switch(&mut user).unwrap() {
        Exit::Fault(info) => assert_eq!((info.signal, info.trapno), (libc::SIGSEGV, 13)),
        other => panic!("{other:?}"),
    }
    assert_eq!((user.regs.rip, user.regs.rax), (CODE + 5, 20));
    user.regs.rip += 2;
    // An x32 number is a number like any other.
    assert_eq!(syscall(&mut *context, &mut user), 0x4000_0027);
    // Every number comes to us.
    crate::guest_code!(any, "2: syscall", "jmp 2b");
    machine.write(guest.code, any());
    user.regs.rip = CODE;
    for nr in (0..600).chain([0xca5, 0x4000_0000 + 15, u64::MAX, 1 << 32]) {
        // uretprobe and uprobe: Linux keeps them from seccomp filters (since 6.14), and answers by itself.
        if (335..=336).contains(&nr) {
            continue;
        }
        user.regs.rax = nr;
        assert_eq!(syscall(&mut *context, &mut user), nr);
    }
}

#[test]
fn vsyscalls_arrive_at_the_caller() {
    crate::guest_code!(code, "mov rax, 0xffffffffff600400", "call rax", "mov rdi, rax", "mov eax, 39", "syscall");
    let machine = Machine::new();
    let guest = machine.guest(code());
    let mut context = guest.context();
    let mut user = start();
    match context.switch(&mut user).unwrap() {
        Exit::Syscall => {
            assert_eq!(user.regs.orig_rax, 201);
            user.regs.rax = 4711;
            assert_eq!(syscall(&mut *context, &mut user), 39);
            assert_eq!(user.regs.rdi, 4711);
        }
        // The host may have no vsyscall page.
        Exit::Fault(info) => assert_eq!(info.access, Access::Exec),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_in_stub_text_hurts_only_itself() {
    let machine = Machine::with_patience(std::time::Duration::from_millis(300));
    let base = machine.systrap.limits().user.end.0;
    let witness = machine.guest(loop_getpid());
    let mut well = witness.context();
    let mut fine = start();
    assert_eq!(syscall(&mut *well, &mut fine), 39);
    // Jump to every 1st byte of a stretch of stub text, with registers that mean something to its code.
    for offset in (0..0x600).step_by(7) {
        let guest = machine.guest(loop_getpid());
        let mut context = guest.context();
        let interrupter = context.interrupter();
        let mut user = start();
        user.regs.rip = base + offset;
        [user.regs.rax, user.regs.rdx, user.regs.rbx] = [0xca5, DATA, DATA];
        let watch = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(5));
            interrupter.interrupt();
        });
        for _ in 0..20 {
            if !matches!(context.switch(&mut user), Ok(Exit::Syscall | Exit::Fault(_))) {
                break;
            }
        }
        watch.join().unwrap();
        guest.space.kill();
        assert_eq!(syscall(&mut *well, &mut fine), 39);
    }
}

#[test]
fn nothing_of_ours_is_left_in_a_stub() {
    let machine = Machine::alone();
    let base = machine.systrap.limits().user.end.0;
    let guest = machine.guest(loop_getpid());
    let context = guest.context();
    let mut seen = 0;
    for pid in stubs() {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        // The zygote, and a spare that is still being made, have no guest.
        if !maps.contains(&format!("{base:x}-")) || !maps.contains("00400000-") {
            continue;
        }
        seen += 1;
        for line in maps.lines() {
            let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
            let ours = start >= base || (CODE..DATA + LEN).contains(&start);
            assert!(ours, "stray mapping: {line}");
            assert!(!line.contains(" rwxp ") && !line.contains(" rwxs "), "{line}");
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
            assert!(status.contains(line), "{line} in {status}");
        }
        if let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) {
            assert!(fds.count() <= 6, "stray descriptors");
        }
    }
    assert_eq!(seen, 1);
    drop(context);
}

#[test]
fn the_context_trait_objects_are_send() {
    fn is_send<T: Send + ?Sized>() {}
    is_send::<dyn Context>();
}
