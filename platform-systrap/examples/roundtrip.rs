//! Measures the platform: `cargo run --release -p casemate-platform-systrap --example roundtrip [futex]`.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use arch::UserContext;
use casemate_platform_systrap::{Handover, Systrap, SystrapConfig};
use usermem::platform::{Backing, Exit, MapOp, Platform, Prot};
use usermem::{Addr, AddrRange};

const CODE: u64 = 0x40_0000;

fn map(at: u64, len: u64, offset: u64, prot: Prot) -> MapOp {
    let range = AddrRange::of_len(Addr(at), len).unwrap();
    MapOp::Map { range, backing: Backing::Memory { offset }, prot, populate: false }
}

fn measure(what: &str, count: u32, mut run: impl FnMut(u32)) {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        for index in 0..count {
            run(index);
        }
        best = best.min(begun.elapsed().as_secs_f64() / f64::from(count));
    }
    println!("{what:40} {:10.0} ns", best * 1e9);
}

fn main() {
    // SAFETY: the name is a C string.
    let memory = unsafe { libc::memfd_create(c"bench".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: a new descriptor.
    let memory = unsafe { OwnedFd::from_raw_fd(memory) };
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::ftruncate(memory.as_raw_fd(), 1 << 30) }, 0);
    let read_only = std::fs::File::open(format!("/proc/self/fd/{}", memory.as_raw_fd())).unwrap();
    // 2: syscall; jmp 2b / at 16: mov [rdi], al; jmp back
    let code: [u8; 20] = [0x0f, 0x05, 0xeb, 0xfc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x88, 0x07, 0xeb, 0xfc];
    // SAFETY: `code` is valid for its length.
    let n = unsafe { libc::pwrite(memory.as_raw_fd(), code.as_ptr().cast(), code.len(), 0) };
    assert_eq!(n, code.len() as isize);
    let mut config = SystrapConfig::new(Arc::new(memory), Arc::new(read_only.into()));
    if std::env::args().any(|argument| argument == "futex") {
        config.handover = Handover::Futex;
    }
    let begun = Instant::now();
    let systrap = Systrap::new(&config).unwrap();
    println!("{:40} {:10} ns", "platform", begun.elapsed().as_nanos());
    let space = systrap.new_address_space().unwrap();
    println!("{:40} {:10} ns", "platform and first space", begun.elapsed().as_nanos());
    space.apply(&[map(CODE, 0x1000, 0, Prot::READ | Prot::EXEC)]).unwrap();
    let mut context = space.new_context(None).unwrap();
    let mut user = UserContext::default();
    user.regs.rip = CODE;
    user.regs.eflags = 0x202;
    measure("system call", 100_000, |index| {
        user.regs.rax = u64::from(index % 300);
        assert_eq!(context.switch(&mut user).unwrap(), Exit::Syscall);
    });
    user.regs.rip = CODE + 16;
    user.regs.rdi = 0x1000;
    measure("fault", 50_000, |_| assert!(matches!(context.switch(&mut user).unwrap(), Exit::Fault(_))));
    let page = map(0x1000_0000, 0x1_0000, 0x10_0000, Prot::READ | Prot::WRITE);
    measure("apply: one map over existing", 20_000, |_| space.apply(std::slice::from_ref(&page)).unwrap());
    let unmap = MapOp::Unmap { range: AddrRange::of_len(Addr(0x1000_0000), 0x1_0000).unwrap() };
    let pair = [page, unmap];
    measure("apply: map and unmap", 20_000, |_| space.apply(&pair).unwrap());
    measure("barrier", 20_000, |_| space.barrier().unwrap());
    measure("new thread, recycled", 1_000, |_| drop(space.new_context(None).unwrap()));
    let mut held = Vec::new();
    measure("new thread, new", 60, |_| held.push(space.new_context(None).unwrap()));
    measure("new space and its end", 100, |_| drop(systrap.new_address_space().unwrap()));
}
