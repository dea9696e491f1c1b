//! What an address space sees of files: where bytes are, and that it is told when they go or move.

use std::sync::{Arc, Mutex};

use abi::Errno;
use abi::fs::{FallocFlags, MemfdFlags, OpenFlags, Seals};
use casemate_fs as fs;
use fs::anon::SharedMemory;
use fs::vfs::{At, Mount, MountNs, MountOptions, OpenHow, Whence};
use fs::{KernelContext, host, overlay, tmpfs};
use usermem::bytes::{KernelDst, KernelSrc};
use usermem::memfile::{FileRange, MemoryFile};
use usermem::memmap::{Located, MappingObserver, Truncated};

#[derive(Default)]
struct Told(Mutex<Vec<(u64, u64, u64, Truncated)>>);

impl MappingObserver for Told {
    fn invalidate(&self, object: u64, offset: u64, len: u64, truncated: Truncated) {
        self.0.lock().unwrap().push((object, offset, len, truncated));
    }
}

fn memory() -> Arc<MemoryFile> {
    usermem::safecopy::install();
    MemoryFile::on_memfd(1 << 30).unwrap()
}

fn byte(memory: &MemoryFile, located: &Located) -> u8 {
    let Located::Memory { offset } = located else { panic!("not in memory: {located:?}") };
    let mut one = [0];
    usermem::safecopy::read_slices(&[memory.slice(FileRange::of_len(*offset, 1)).unwrap()], &mut one).unwrap();
    one[0]
}

#[test]
fn memfd_is_mapped_where_it_is_written() {
    let memory = memory();
    let shared = SharedMemory::new(&memory);
    let kernel = KernelContext::default();
    let ctx = kernel.context();
    let file = shared.memfd(&ctx, b"m", MemfdFlags::MFD_ALLOW_SEALING).unwrap();
    assert_eq!(file.path().d_path(file.path()), b"/memfd:m (deleted)");
    file.write(&ctx, &mut KernelSrc::new(&[7; 10_000])).unwrap();
    let mapping = file.mappable().unwrap();
    assert_eq!(mapping.size(), 10_000);
    let (located, run) = mapping.locate(8192, 1 << 20, false).unwrap();
    assert_eq!((byte(&memory, &located), run), (7, 4096));
    assert_eq!(mapping.locate(12_288, 4096, true).unwrap_err(), Errno::EFAULT);

    let told: Arc<Told> = Arc::default();
    let observer: Arc<dyn MappingObserver> = told.clone();
    mapping.attach(&observer);
    assert_eq!(file.ops().sealable().unwrap().add_seals(Seals::F_SEAL_WRITE), Err(Errno::EBUSY));
    file.truncate(&ctx, 5000).unwrap();
    assert_eq!(*told.0.lock().unwrap(), [(mapping.id(), 8192, u64::MAX, Truncated::Yes)]);
    let (located, run) = mapping.locate(4096, 1 << 20, false).unwrap();
    assert_eq!((byte(&memory, &located), run), (7, 4096));
    // What lies past the end is zero again when the file grows over it.
    file.truncate(&ctx, 8192).unwrap();
    let mut buf = [1; 4096];
    assert_eq!(file.read_at(&ctx, &mut KernelDst::new(&mut buf), 4096).unwrap(), 4096);
    assert!(buf[..904].iter().all(|byte| *byte == 7) && buf[904..].iter().all(|byte| *byte == 0));

    file.allocate(&ctx, FallocFlags::FALLOC_FL_PUNCH_HOLE | FallocFlags::FALLOC_FL_KEEP_SIZE, 0, 4096).unwrap();
    assert_eq!(file.seek(&ctx, 0, Whence::Data).unwrap(), 4096);
    assert_eq!(file.seek(&ctx, 0, Whence::Hole).unwrap(), 0);
    mapping.detach(&observer);
    let seals = file.ops().sealable().unwrap();
    seals.add_seals(Seals::F_SEAL_WRITE | Seals::F_SEAL_SHRINK | Seals::F_SEAL_GROW).unwrap();
    assert_eq!(file.write(&ctx, &mut KernelSrc::new(b"x")).unwrap_err(), Errno::EPERM);
    assert_eq!(file.truncate(&ctx, 0), Err(Errno::EPERM));
    assert_eq!(file.truncate(&ctx, 1 << 20), Err(Errno::EPERM));
    seals.add_seals(Seals::F_SEAL_SEAL).unwrap();
    assert_eq!(seals.add_seals(Seals::F_SEAL_EXEC), Err(Errno::EPERM));
}

#[test]
fn memory_comes_back() {
    let memory = memory();
    let shared = SharedMemory::new(&memory);
    let kernel = KernelContext::default();
    let ctx = kernel.context();
    let before = memory.reserved().allocated;
    let file = shared.memfd(&ctx, b"", MemfdFlags::empty()).unwrap();
    file.write(&ctx, &mut KernelSrc::new(&vec![1; 3 << 20])).unwrap();
    assert!(memory.reserved().allocated >= before + (3 << 20));
    let object = shared.object(1 << 30);
    object.locate(1 << 29, 4096, true).unwrap();
    drop((file, object));
    assert_eq!(memory.reserved().allocated, before);
}

#[test]
fn a_mapping_stays_with_the_original_through_copy_up() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), vec![b'a'; 5000]).unwrap();
    let memory = memory();
    let options =
        host::HostOptions { access: host::Access::ReadOnly, belief: host::Belief::Lasting, ids: host::Ids::All };
    let lower = host::new(std::fs::File::open(dir.path()).unwrap().into(), options).unwrap();
    let upper = tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(1 << 20)).unwrap();
    let fs = overlay::new(vec![lower], Some(upper)).unwrap();
    let ns = MountNs::new(Mount::of(fs, b"overlay", MountOptions::default()));
    let (kernel, root) = (KernelContext::default(), ns.root());
    let ctx = kernel.context();
    let at = At::new(&ctx, &root, &root);
    let file = at.open(b"f", &OpenHow::from_open(0, 0)).unwrap();
    let mapping = file.mappable().unwrap();
    let told: Arc<Told> = Arc::default();
    let observer: Arc<dyn MappingObserver> = told.clone();
    mapping.attach(&observer);
    let (located, run) = mapping.locate(0, 1 << 20, false).unwrap();
    assert!(matches!(located, Located::Host { offset: 0, .. }));
    assert_eq!(run, 8192);

    // A program that runs is written anew: its text stays.
    let flags = abi::fs::O_RDWR | OpenFlags::O_TRUNC.bits();
    let writer = at.open(b"f", &OpenHow::from_open(flags, 0)).unwrap();
    writer.write(&ctx, &mut KernelSrc::new(b"b")).unwrap();
    assert_eq!(*told.0.lock().unwrap(), []);
    assert_eq!(mapping.size(), 5000);
    assert!(matches!(mapping.locate(4096, 4096, false).unwrap().0, Located::Host { offset: 4096, .. }));
    // Who reads or maps from now on gets the copy.
    let mut one = [0; 2];
    assert_eq!(file.read_at(&ctx, &mut KernelDst::new(&mut one), 0), Ok(1));
    let anew = file.mappable().unwrap();
    assert_eq!((one[0], anew.size()), (b'b', 1));
    assert_eq!(byte(&memory, &anew.locate(0, 4096, false).unwrap().0), b'b');
    assert_eq!(writer.mappable().unwrap().id(), anew.id());
    assert_ne!(anew.id(), mapping.id());
    anew.attach(&observer);
    writer.truncate(&ctx, 0).unwrap();
    assert_eq!(*told.0.lock().unwrap(), [(anew.id(), 0, u64::MAX, Truncated::Yes)]);
}
