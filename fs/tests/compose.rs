//! Trees put together from others, by themselves and below an overlay.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{OpenFlags, RenameFlags};
use auth::{Gid, Uid};
use casemate_fs as fs;
use fs::KernelContext;
use fs::compose::{Composer, Looks};
use fs::vfs::{At, DirSink, FileType, LookupFlags, Mount, MountNs, MountOptions, OpenHow};
use fs::{host, overlay, tmpfs};
use usermem::memfile::MemoryFile;

fn tree(dir: &std::path::Path) -> Arc<dyn fs::vfs::Filesystem> {
    let fd = std::fs::File::open(dir).unwrap();
    let options =
        host::HostOptions { access: host::Access::ReadOnly, belief: host::Belief::Lasting, ids: host::Ids::All };
    host::new(fd.into(), options).unwrap()
}

#[derive(Default)]
struct Entries(Vec<(String, u64, FileType)>);

impl DirSink for Entries {
    fn entry(&mut self, name: &[u8], ino: u64, file_type: FileType, _next: u64) -> bool {
        self.0.push((String::from_utf8_lossy(name).into_owned(), ino, file_type));
        true
    }
}

#[test]
fn paths_are_checked() {
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    let graft = || tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(1 << 20)).unwrap();
    let mut composer = Composer::new(Looks::PLAIN);
    composer.graft(&[b"a", b"b"], graft()).unwrap();
    assert_eq!(composer.graft(&[b"a", b"b", b"c"], graft()), Err(Errno::ENOTDIR));
    assert_eq!(composer.graft(&[b"a", b"b"], graft()), Err(Errno::EEXIST));
    assert_eq!(composer.symlink(&[b"a"], b"x"), Err(Errno::EEXIST));
    assert_eq!(composer.graft(&[], graft()), Err(Errno::EEXIST));
    composer.directory(&[b"a"], Looks { mode: 0o700, uid: Uid(3), gid: Gid(4) }).unwrap();
    assert!(composer.is_taken(&[b"a", b"b", b"c"]) && composer.is_taken(&[b"a", b"b"]));
    assert!(!composer.is_taken(&[b"a"]) && !composer.is_taken(&[b"x", b"y"]));
    let root = composer.build().root();
    let kernel = KernelContext::default();
    let a = root.dir().unwrap().lookup(&kernel.context(), b"a").unwrap();
    let attr = a.attr().unwrap();
    assert_eq!((attr.mode, attr.uid, attr.gid, attr.nlink), (0o700, Uid(3), Gid(4), 3));
}

/// One overlay over several trees: one device, renames and links across, numbers in listings that are those of `stat`.
#[test]
fn one_file_system_over_several() {
    usermem::safecopy::install();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(one.path().join("f"), "text").unwrap();
    std::fs::write(two.path().join("single"), "s").unwrap();
    std::fs::create_dir(two.path().join("sub")).unwrap();
    let mut composer = Composer::new(Looks::PLAIN);
    composer.graft(&[b"one"], tree(one.path())).unwrap();
    composer.graft(&[b"deep", b"two"], tree(two.path())).unwrap();
    composer.graft(&[b"file"], tree(&two.path().join("single"))).unwrap();
    composer.symlink(&[b"link"], b"one/f").unwrap();
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    let upper = tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(64 << 20)).unwrap();
    let fs = overlay::new(vec![composer.build()], Some(upper)).unwrap();
    let ns = MountNs::new(Mount::of(fs, b"x", MountOptions::default()));
    let (kernel, root) = (KernelContext::default(), ns.root());
    let ctx = kernel.context();
    let at = At::new(&ctx, &root, &root);
    let stat = |path: &[u8]| at.lookup(path, LookupFlags::empty()).and_then(|place| place.attr());

    let device = stat(b"/").unwrap().dev;
    for path in [&b"one"[..], b"one/f", b"deep", b"deep/two", b"deep/two/sub", b"file", b"link"] {
        assert_eq!(stat(path).unwrap().dev, device, "{}", String::from_utf8_lossy(path));
    }
    for dir in [&b"/"[..], b"deep", b"deep/two", b"one"] {
        let open = at.open(dir, &OpenHow::from_open(0, 0)).unwrap();
        let mut entries = Entries::default();
        open.readdir(&ctx, &mut entries).unwrap();
        for (name, ino, file_type) in entries.0.into_iter().filter(|(name, ..)| name != "." && name != "..") {
            let attr = stat(&[dir, b"/", name.as_bytes()].concat()).unwrap();
            assert_eq!((attr.ino, attr.file_type), (ino, file_type), "{name}");
        }
    }
    // A merged directory does not say how many directories it holds, one that is still whole does.
    assert_eq!((stat(b"/").unwrap().nlink, stat(b"deep/two").unwrap().nlink), (1, 3));
    let figures = root.statfs().unwrap();
    assert_eq!(figures.blocks_free * figures.block_size, 64 << 20, "what can be written");
    assert!(figures.blocks > figures.blocks_free, "what is there below is used");
    at.rename(b"one/f", &root, b"deep/two/moved", RenameFlags::empty()).unwrap();
    assert_eq!(stat(b"one/f").unwrap_err(), Errno::ENOENT);
    assert_eq!(stat(b"deep/two/moved").unwrap().size, 4);
    let moved = at.lookup(b"deep/two/moved", LookupFlags::empty()).unwrap();
    at.link(&moved, b"top").unwrap();
    assert_eq!(stat(b"top").unwrap().nlink, 2);
    at.unlink(b"file").unwrap();
    assert_eq!(stat(b"file").unwrap_err(), Errno::ENOENT);
    let flags = OpenFlags::O_CREAT.bits() | abi::fs::O_RDWR;
    at.open(b"deep/new", &OpenHow::from_open(flags, 0o600)).unwrap();
    at.rmdir(b"deep/two/sub").unwrap();
    assert_eq!(at.rename(b"one", &root, b"uno", RenameFlags::empty()), Err(Errno::EXDEV));
    assert!(one.path().join("f").exists() && two.path().join("sub").exists());
}
