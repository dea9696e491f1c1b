use std::os::fd::AsFd;
use std::sync::Arc;

use super::FakePlatform;
use crate::addr::{Addr, AddrRange};
use crate::host;
use crate::memfile::{MemoryFile, Place};
use crate::platform::{Access, AddressSpace, Backing, Exit, MapOp, Platform, PlatformError, Prot};

const PAGE: u64 = 4096;

fn range(start: u64, pages: u64) -> AddrRange {
    AddrRange { start: Addr(start), end: Addr(start + pages * PAGE) }
}

fn rw() -> Prot {
    Prot::READ | Prot::WRITE
}

#[test]
fn loads_and_stores_obey_the_table() {
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    let platform = FakePlatform::new(Arc::clone(&memory));
    let space = platform.fake_space();
    let pages = memory.allocate(2 * PAGE, Place::Anywhere).unwrap();
    let map = |at, prot| MapOp::Map {
        range: range(at, 2),
        backing: Backing::Memory { offset: pages.start },
        prot,
        populate: false,
    };
    space.apply(&[map(0x10_0000, rw()), map(0x20_0000, Prot::READ)]).unwrap();
    space.store(Addr(0x10_0ffe), b"abcd").unwrap();
    let mut buf = [0; 4];
    space.load(Addr(0x20_0ffe), &mut buf).unwrap();
    assert_eq!(&buf, b"abcd");
    let fault = space.store(Addr(0x20_0000), b"x").unwrap_err();
    assert_eq!((fault.addr, fault.access, fault.error_code), (Addr(0x20_0000), Access::Write, 7));
    let fault = space.load(Addr(0x20_1ffe), &mut buf).unwrap_err();
    assert_eq!((fault.addr, fault.access, fault.code), (Addr(0x20_2000), Access::Read, 1));
    assert_eq!(space.fetch(Addr(0x10_0000)).unwrap_err().access, Access::Exec);
    space.apply(&[MapOp::Unmap { range: range(0x10_0000, 1) }]).unwrap();
    assert!(space.load(Addr(0x10_0000), &mut buf).is_err());
    space.load(Addr(0x10_1000), &mut buf[..2]).unwrap();
    assert_eq!(&buf[..2], b"cd");
}

#[test]
fn host_files_and_zeros() {
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    let platform = FakePlatform::new(memory);
    let space = platform.fake_space();
    let file = Arc::new(host::memfd(c"f").unwrap());
    let mut bytes = *b"file";
    host::pwritev(file.as_fd(), &[crate::VolatileSlice::from(&mut bytes[..])], PAGE).unwrap();
    let backing = Backing::Host { file, offset: PAGE, shared: true };
    space
        .apply(&[
            MapOp::Map { range: range(0x10_0000, 2), backing, prot: rw(), populate: false },
            MapOp::Map { range: range(0x20_0000, 1), backing: Backing::Zero, prot: Prot::READ, populate: false },
        ])
        .unwrap();
    let mut buf = [1; 6];
    space.load(Addr(0x10_0000), &mut buf).unwrap();
    assert_eq!(&buf, b"file\0\0");
    space.store(Addr(0x10_0000), b"F").unwrap();
    space.load(Addr(0x10_0000), &mut buf).unwrap();
    assert_eq!(&buf[..4], b"File");
    assert_eq!(space.load(Addr(0x10_1000), &mut buf).unwrap_err().signal, libc::SIGBUS);
    space.load(Addr(0x20_0000), &mut buf).unwrap();
    assert_eq!(buf, [0; 6]);
}

#[test]
#[should_panic(expected = "use after free")]
fn freeing_what_is_mapped_is_found() {
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    let platform = FakePlatform::new(Arc::clone(&memory));
    let space = platform.fake_space();
    let page = memory.allocate(PAGE, Place::Anywhere).unwrap();
    let backing = Backing::Memory { offset: page.start };
    space.apply(&[MapOp::Map { range: range(0x10_0000, 1), backing, prot: rw(), populate: false }]).unwrap();
    memory.dec_ref(page).unwrap();
    let _ = space.load(Addr(0x10_0000), &mut [0]);
}

#[test]
fn contexts_run_the_script() {
    let platform = FakePlatform::new(MemoryFile::on_memfd(1 << 30).unwrap());
    let space = platform.new_address_space().unwrap();
    let mut context = space.new_context(None).unwrap();
    let mut user = arch::UserContext::default();
    platform.set_script(Arc::new(|_, user| {
        user.regs.orig_rax = 39;
        Exit::Syscall
    }));
    assert_eq!(context.switch(&mut user).unwrap(), Exit::Syscall);
    assert_eq!(user.regs.orig_rax, 39);
    context.interrupter().interrupt();
    assert_eq!(context.switch(&mut user).unwrap(), Exit::Interrupted);
    space.kill();
    assert!(matches!(context.switch(&mut user), Err(PlatformError::Dead(_))));
}
