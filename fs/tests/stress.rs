//! Many threads at once, and a host that changes a shared tree under us.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use abi::fs::{OpenFlags, RenameFlags};
use casemate_fs as fs;
use fs::vfs::{
    At, DirSink, FileType, Filesystem, LookupFlags, Mount, MountNs, MountOptions, OpenHow, dentry_cache_limit,
    set_dentry_cache_limit,
};
use fs::{KernelContext, host, overlay, tmpfs};
use usermem::bytes::{KernelDst, KernelSrc};
use usermem::memfile::MemoryFile;

/// Who writes to the host alone may be believed for good, else never.
fn belief(access: host::Access) -> host::Belief {
    if access == host::Access::ReadOnly { host::Belief::Lasting } else { host::Belief::None }
}

fn host_fs(dir: &std::path::Path, access: host::Access) -> Arc<dyn Filesystem> {
    let fd = std::fs::File::open(dir).unwrap();
    host::new(fd.into(), host::HostOptions { access, belief: belief(access), ids: host::Ids::All }).unwrap()
}

/// A small generator: the same numbers for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        (0..depth)
            .map(|_| ["a", "b", "c", "low"][usize::try_from(self.below(4)).unwrap()])
            .collect::<Vec<_>>()
            .join("/")
    }
}

struct Nothing;

impl DirSink for Nothing {
    fn entry(&mut self, _name: &[u8], _ino: u64, _file_type: FileType, _next: u64) -> bool {
        true
    }
}

/// Each thread does what it likes in one small tree; only the absence of panics and deadlocks is asserted, and that what
/// is listed at the end can be looked up.
fn churn(fs: Arc<dyn Filesystem>) {
    let ns = MountNs::new(Mount::of(fs, b"x", MountOptions::default()));
    std::thread::scope(|scope| {
        for seed in 1..=4u64 {
            let ns = &ns;
            scope.spawn(move || {
                let (kernel, root) = (KernelContext::default(), ns.root());
                let ctx = kernel.context();
                let at = At::new(&ctx, &root, &root);
                let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                for _ in 0..3000 {
                    let (path, other) = (numbers.path(), numbers.path());
                    let (path, other) = (path.as_bytes(), other.as_bytes());
                    // Whatever comes of it: the other threads decide.
                    let _: Result<(), Errno> = match numbers.below(10) {
                        0 => at.mkdir(path, 0o777).map(|_| ()),
                        1 => at.rmdir(path),
                        2 => at.unlink(path),
                        3 => at.rename(path, &root, other, RenameFlags::empty()),
                        4 => at.rename(path, &root, other, RenameFlags::RENAME_EXCHANGE),
                        5 => at.lookup(path, LookupFlags::empty()).and_then(|target| at.link(&target, other)),
                        6 => at
                            .open(path, &OpenHow::from_open(OpenFlags::O_DIRECTORY.bits(), 0))
                            .and_then(|dir| dir.readdir(&ctx, &mut Nothing)),
                        7 => at.symlink(other, path).map(|_| ()),
                        _ => {
                            let flags = OpenFlags::O_CREAT | OpenFlags::O_RDWR;
                            at.open(path, &OpenHow::from_open(flags.bits(), 0o666)).and_then(|file| {
                                file.write(&ctx, &mut KernelSrc::new(b"some bytes"))?;
                                file.truncate(&ctx, numbers.below(9000))?;
                                file.read_at(&ctx, &mut KernelDst::new(&mut [0; 100]), 0).map(|_| ())
                            })
                        }
                    };
                }
            });
        }
    });
    let (kernel, root) = (KernelContext::default(), ns.root());
    let ctx = kernel.context();
    struct Names(Vec<Vec<u8>>);
    impl DirSink for Names {
        fn entry(&mut self, name: &[u8], _ino: u64, _file_type: FileType, _next: u64) -> bool {
            self.0.push(name.to_vec());
            true
        }
    }
    let at = At::new(&ctx, &root, &root);
    let mut names = Names(vec![]);
    at.open(b"/", &OpenHow::from_open(0, 0)).unwrap().readdir(&ctx, &mut names).unwrap();
    for name in names.0 {
        at.lookup(&name, LookupFlags::empty()).unwrap();
    }
}

#[test]
fn threads_share_each_file_system() {
    usermem::safecopy::install();
    let limit = dentry_cache_limit();
    set_dentry_cache_limit(8);
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    let upper = || tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(64 << 20)).unwrap();
    let before = memory.reserved().allocated;
    churn(upper());
    let (volume, lower) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    churn(host_fs(volume.path(), host::Access::ReadWrite));
    std::fs::create_dir_all(lower.path().join("low/a")).unwrap();
    std::fs::write(lower.path().join("low/b"), "below").unwrap();
    std::fs::hard_link(lower.path().join("low/b"), lower.path().join("low/c")).unwrap();
    churn(overlay::new(vec![host_fs(lower.path(), host::Access::ReadOnly)], Some(upper())).unwrap());
    assert_eq!(std::fs::read_to_string(lower.path().join("low/b")).unwrap(), "below");
    assert_eq!(memory.reserved().allocated, before, "everything was given back");
    set_dentry_cache_limit(limit);
}

#[test]
fn a_hostile_host_leads_nowhere() {
    usermem::safecopy::install();
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("f"), "secret").unwrap();
    std::fs::create_dir(inside.path().join("d")).unwrap();
    std::fs::write(inside.path().join("d/f"), "fine").unwrap();
    std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("f"), inside.path().join("flink")).unwrap();
    std::fs::write(inside.path().join("f"), "fine").unwrap();
    let done = AtomicBool::new(false);
    for access in [host::Access::ReadWrite, host::Access::ReadOnly] {
        done.store(false, Ordering::Relaxed);
        let ns = MountNs::new(Mount::of(host_fs(inside.path(), access), b"x", MountOptions::default()));
        std::thread::scope(|scope| {
            let (done, inside) = (&done, &inside);
            scope.spawn(move || {
                let dir = std::fs::File::open(inside.path()).unwrap();
                while !done.load(Ordering::Relaxed) {
                    for (one, two) in [("d", "link"), ("f", "flink")] {
                        rustix::fs::renameat_with(&dir, one, &dir, two, rustix::fs::RenameFlags::EXCHANGE).unwrap();
                    }
                }
            });
            let (kernel, root) = (KernelContext::default(), ns.root());
            let ctx = kernel.context();
            let at = At::new(&ctx, &root, &root);
            for _ in 0..5000 {
                for path in [&b"d/f"[..], b"f"] {
                    let Ok(file) = at.open(path, &OpenHow::from_open(0, 0)) else { continue };
                    let mut buf = [0; 16];
                    let n = file.read(&ctx, &mut KernelDst::new(&mut buf)).unwrap_or(0);
                    assert_ne!(&buf[..n], b"secret");
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
