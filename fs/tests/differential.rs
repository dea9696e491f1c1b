//! Random operations, each done by the host's kernel in a directory of its own and by our VFS: the outcomes and the trees
//! that result must be the same.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use abi::Errno;
use abi::fs::{OpenFlags, RenameFlags};
use casemate_fs as fs;
use fs::vfs::{
    At, DirSink, FileType, Filesystem, LookupFlags, Mount, MountNs, MountOptions, OpenHow, Path, SetTime, Timestamp,
};
use fs::{Context, KernelContext, compose, host, overlay, tmpfs};
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{AtFlags, Mode, OFlags};
use usermem::bytes::{KernelDst, KernelSrc};
use usermem::memfile::MemoryFile;

#[derive(Clone, Debug)]
enum Op {
    Mkdir(String),
    Rmdir(String),
    Create(String, bool),
    Write(String, usize),
    Truncate(String, u64),
    Unlink(String),
    Symlink(&'static str, String),
    Link(String, String),
    Rename(String, String, u32),
    Read(String),
    Stat(String, bool),
    Readlink(String),
    List(String),
    Chmod(String, u32),
    Times(String),
}

fn path() -> impl Strategy<Value = String> {
    let name = || prop_oneof![5 => Just("a"), 5 => Just("b"), 4 => Just("c"), 1 => Just("."), 1 => Just("low")];
    let trailing = prop_oneof![8 => Just(""), 1 => Just("/"), 1 => Just("/.")];
    (proptest::collection::vec(name(), 1..4), trailing).prop_map(|(names, end)| names.join("/") + end)
}

fn op() -> impl Strategy<Value = Op> {
    let target = prop_oneof![Just("a"), Just("b"), Just("a/b"), Just("c/"), Just("./c"), Just("low/a")];
    let flags = prop_oneof![4 => Just(0u32), 1 => Just(1), 1 => Just(2)];
    prop_oneof![
        4 => path().prop_map(Op::Mkdir),
        2 => path().prop_map(Op::Rmdir),
        3 => (path(), proptest::bool::ANY).prop_map(|(path, exclusive)| Op::Create(path, exclusive)),
        3 => (path(), 0usize..9000).prop_map(|(path, len)| Op::Write(path, len)),
        1 => (path(), 0u64..9000).prop_map(|(path, len)| Op::Truncate(path, len)),
        2 => path().prop_map(Op::Unlink),
        2 => (target, path()).prop_map(|(target, path)| Op::Symlink(target, path)),
        2 => (path(), path()).prop_map(|(from, to)| Op::Link(from, to)),
        4 => (path(), path(), flags).prop_map(|(from, to, flags)| Op::Rename(from, to, flags)),
        2 => path().prop_map(Op::Read),
        2 => (path(), proptest::bool::ANY).prop_map(|(path, follow)| Op::Stat(path, follow)),
        1 => path().prop_map(Op::Readlink),
        2 => path().prop_map(Op::List),
        1 => (path(), 0u32..0o10000).prop_map(|(path, mode)| Op::Chmod(path, mode)),
        1 => path().prop_map(Op::Times),
    ]
}

/// An outcome in words, so that both sides compare.
type Outcome = Result<String, Errno>;

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap()
}

fn open_native(dir: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o640)).map_err(errno)
}

fn describe(mode: u32, nlink: u64, size: u64) -> String {
    let directory = mode & 0o170000 == 0o040000;
    // The size and the links of directories are a file system's own affair.
    if directory { format!("{mode:o}") } else { format!("{mode:o} {nlink} {size}") }
}

fn native(dir: &OwnedFd, op: &Op) -> Outcome {
    let done = |result: rustix::io::Result<()>| result.map(|()| String::new()).map_err(errno);
    match op {
        Op::Mkdir(path) => done(rustix::fs::mkdirat(dir, path.as_str(), Mode::from_raw_mode(0o750))),
        Op::Rmdir(path) => done(rustix::fs::unlinkat(dir, path.as_str(), AtFlags::REMOVEDIR)),
        Op::Create(path, exclusive) => {
            let exclusive = if *exclusive { OFlags::EXCL } else { OFlags::empty() };
            open_native(dir, path, OFlags::CREATE | OFlags::RDWR | exclusive).map(|_| String::new())
        }
        Op::Write(path, len) => {
            let fd = open_native(dir, path, OFlags::WRONLY | OFlags::APPEND)?;
            rustix::io::write(fd, &vec![b'w'; *len]).map(|n| n.to_string()).map_err(errno)
        }
        Op::Truncate(path, len) => {
            let fd = open_native(dir, path, OFlags::WRONLY)?;
            done(rustix::fs::ftruncate(fd, *len))
        }
        Op::Unlink(path) => done(rustix::fs::unlinkat(dir, path.as_str(), AtFlags::empty())),
        Op::Symlink(target, path) => done(rustix::fs::symlinkat(*target, dir, path.as_str())),
        Op::Link(from, to) => done(rustix::fs::linkat(dir, from.as_str(), dir, to.as_str(), AtFlags::empty())),
        Op::Rename(from, to, flags) => {
            let flags = rustix::fs::RenameFlags::from_bits_retain(*flags);
            done(rustix::fs::renameat_with(dir, from.as_str(), dir, to.as_str(), flags))
        }
        Op::Read(path) => {
            let fd = open_native(dir, path, OFlags::RDONLY)?;
            let mut buf = vec![0; 64 * 1024];
            let n = rustix::io::read(fd, &mut buf).map_err(errno)?;
            buf.truncate(n);
            Ok(format!("{:?}", buf.iter().fold((0usize, 0u64), |(n, sum), byte| (n + 1, sum + u64::from(*byte)))))
        }
        Op::Stat(path, follow) => {
            let flags = if *follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
            let stat = rustix::fs::statat(dir, path.as_str(), flags).map_err(errno)?;
            Ok(describe(stat.st_mode, stat.st_nlink, stat.st_size.unsigned_abs()))
        }
        Op::Readlink(path) => {
            let target = rustix::fs::readlinkat(dir, path.as_str(), vec![]).map_err(errno)?;
            Ok(target.to_string_lossy().into_owned())
        }
        Op::List(path) => {
            let fd = open_native(dir, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let mut names: Vec<_> = rustix::fs::Dir::new(fd)
                .map_err(errno)?
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            Ok(names.join(" "))
        }
        Op::Chmod(path, mode) => {
            done(rustix::fs::chmodat(dir, path.as_str(), Mode::from_raw_mode(*mode), AtFlags::empty()))
        }
        Op::Times(path) => {
            let at = rustix::fs::Timespec { tv_sec: 5, tv_nsec: 6 };
            let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
            done(rustix::fs::utimensat(dir, path.as_str(), &times, AtFlags::SYMLINK_NOFOLLOW))?;
            let stat = rustix::fs::statat(dir, path.as_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(errno)?;
            Ok(format!("{} {}", stat.st_mtime, stat.st_mtime_nsec))
        }
    }
}

fn ours(ctx: &Context<'_>, root: &Path, op: &Op) -> Outcome {
    let at = At::new(ctx, root, root);
    let nothing = |()| String::new();
    let open = |path: &str, flags: OpenFlags| at.open(path.as_bytes(), &OpenHow::from_open(flags.bits(), 0o640));
    match op {
        Op::Mkdir(path) => at.mkdir(path.as_bytes(), 0o750).map(|_| String::new()),
        Op::Rmdir(path) => at.rmdir(path.as_bytes()).map(nothing),
        Op::Create(path, exclusive) => {
            let exclusive = if *exclusive { OpenFlags::O_EXCL } else { OpenFlags::empty() };
            open(path, OpenFlags::O_CREAT | OpenFlags::O_RDWR | exclusive).map(|_| String::new())
        }
        Op::Write(path, len) => {
            let file = open(path, OpenFlags::O_WRONLY | OpenFlags::O_APPEND)?;
            file.write(ctx, &mut KernelSrc::new(&vec![b'w'; *len])).map(|n| n.to_string())
        }
        Op::Truncate(path, len) => open(path, OpenFlags::O_WRONLY)?.truncate(ctx, *len).map(nothing),
        Op::Unlink(path) => at.unlink(path.as_bytes()).map(nothing),
        Op::Symlink(target, path) => at.symlink(target.as_bytes(), path.as_bytes()).map(|_| String::new()),
        Op::Link(from, to) => {
            let target = at.lookup(from.as_bytes(), LookupFlags::empty())?;
            at.link(&target, to.as_bytes()).map(nothing)
        }
        Op::Rename(from, to, flags) => {
            at.rename(from.as_bytes(), root, to.as_bytes(), RenameFlags::from_bits_retain(*flags)).map(nothing)
        }
        Op::Read(path) => {
            let file = open(path, OpenFlags::empty())?;
            let mut buf = vec![0; 64 * 1024];
            let n = file.read(ctx, &mut KernelDst::new(&mut buf))?;
            buf.truncate(n);
            Ok(format!("{:?}", buf.iter().fold((0usize, 0u64), |(n, sum), byte| (n + 1, sum + u64::from(*byte)))))
        }
        Op::Stat(path, follow) => {
            let flags = if *follow { LookupFlags::FOLLOW } else { LookupFlags::empty() };
            let attr = at.lookup(path.as_bytes(), flags)?.attr()?;
            Ok(describe(attr.st_mode(), u64::from(attr.nlink), attr.size))
        }
        Op::Readlink(path) => at.readlink(path.as_bytes()).map(|target| String::from_utf8(target).unwrap()),
        Op::List(path) => {
            let dir = open(path, OpenFlags::O_DIRECTORY)?;
            let mut names = Names(vec![]);
            dir.readdir(ctx, &mut names)?;
            names.0.sort();
            Ok(names.0.join(" "))
        }
        Op::Chmod(path, mode) => at.lookup(path.as_bytes(), LookupFlags::FOLLOW)?.chmod(ctx, *mode).map(nothing),
        Op::Times(path) => {
            let time = Some(SetTime::At(Timestamp { secs: 5, nanos: 6 }));
            let place = at.lookup(path.as_bytes(), LookupFlags::empty())?;
            place.set_times(ctx, time, time)?;
            let mtime = place.attr()?.mtime;
            Ok(format!("{} {}", mtime.secs, mtime.nanos))
        }
    }
}

struct Names(Vec<String>);

impl DirSink for Names {
    fn entry(&mut self, name: &[u8], _ino: u64, _file_type: FileType, _next: u64) -> bool {
        self.0.push(String::from_utf8_lossy(name).into_owned());
        true
    }
}

/// What both sides start with: below an overlay, in the other file systems written.
fn prepare(dir: &std::path::Path) {
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::create_dir_all(dir.join("low/b")).unwrap();
    std::fs::write(dir.join("low/a"), "lower").unwrap();
    std::fs::write(dir.join("low/b/c"), "deep").unwrap();
    std::fs::hard_link(dir.join("low/a"), dir.join("low/c")).unwrap();
    std::os::unix::fs::symlink("low", dir.join("c")).unwrap();
}

/// Who writes to the host alone may be believed for good, else never.
fn belief(access: host::Access) -> host::Belief {
    if access == host::Access::ReadOnly { host::Belief::Lasting } else { host::Belief::None }
}

fn host_fs(dir: &std::path::Path, access: host::Access) -> Arc<dyn Filesystem> {
    let fd = std::fs::File::open(dir).unwrap();
    host::new(fd.into(), host::HostOptions { access, belief: belief(access), ids: host::Ids::All }).unwrap()
}

/// Everything below, for the comparison at the end.
fn everything(list: &dyn Fn(&Op) -> Outcome) -> Vec<(String, Outcome)> {
    let mut all = vec![];
    let mut pending = vec![".".to_owned()];
    while let Some(dir) = pending.pop() {
        let names = list(&Op::List(dir.clone()));
        for name in names.iter().flat_map(|names| names.split(' ')).filter(|name| !matches!(*name, "." | ".." | "")) {
            let path = format!("{dir}/{name}");
            let stat = list(&Op::Stat(path.clone(), false));
            if stat.as_ref().is_ok_and(|text| text.starts_with('4')) {
                pending.push(path.clone());
            }
            all.push((format!("{path}: {:?}", list(&Op::Read(path.clone()))), stat));
        }
    }
    all
}

fn run(make: &dyn Fn() -> (Arc<dyn Filesystem>, Vec<tempfile::TempDir>), moves_lower_directories: bool) {
    rustix::process::umask(Mode::empty());
    usermem::safecopy::install();
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    runner
        .run(&proptest::collection::vec(op(), 1..50), |ops| {
            let real = tempfile::tempdir().unwrap();
            prepare(real.path());
            let dir: OwnedFd = std::fs::File::open(real.path()).unwrap().into();
            let (fs, _kept) = make();
            let ns = MountNs::new(Mount::of(fs, b"x", MountOptions::default()));
            let (kernel, root) = (KernelContext::default(), ns.root());
            let ctx = kernel.context();
            for (step, op) in ops.iter().enumerate() {
                let got = ours(&ctx, &root, op);
                if got == Err(Errno::EXDEV) && !moves_lower_directories {
                    // An overlay's answer to moving a directory that is partly below: not done on the other side either.
                    continue;
                }
                proptest::prop_assert_eq!(got, native(&dir, op), "step {} {:?}", step, op);
            }
            let ours = everything(&|op| ours(&ctx, &root, op));
            let native = everything(&|op| native(&dir, op));
            proptest::prop_assert_eq!(sorted(ours), sorted(native));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

fn sorted(mut all: Vec<(String, Outcome)>) -> Vec<(String, Outcome)> {
    all.sort();
    all
}

#[test]
fn writable_host_tree() {
    run(
        &|| {
            let dir = tempfile::tempdir().unwrap();
            prepare(dir.path());
            (host_fs(dir.path(), host::Access::ReadWrite), vec![dir])
        },
        true,
    );
}

fn overlay_of(belief: host::Belief) {
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    run(
        &|| {
            let dir = tempfile::tempdir().unwrap();
            prepare(dir.path());
            let upper = tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(64 << 20)).unwrap();
            let fd = std::fs::File::open(dir.path()).unwrap();
            let options = host::HostOptions { access: host::Access::ReadOnly, belief, ids: host::Ids::All };
            let lower = host::new(fd.into(), options).unwrap();
            (overlay::new(vec![lower], Some(upper)).unwrap(), vec![dir])
        },
        false,
    );
}

#[test]
fn overlay_of_a_host_tree() {
    overlay_of(host::Belief::Lasting);
}

/// Each step of each walk asks the host again, and must find what it found before.
#[test]
fn overlay_of_a_host_tree_that_others_change() {
    overlay_of(host::Belief::None);
}

/// The same layers, put together from two trees.
#[test]
fn overlay_of_a_composed_tree() {
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    run(
        &|| {
            let dir = tempfile::tempdir().unwrap();
            prepare(dir.path());
            let upper = tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(64 << 20)).unwrap();
            let metadata = std::fs::metadata(dir.path()).unwrap();
            let looks = compose::Looks {
                mode: metadata.mode() & 0o7777,
                uid: auth::Uid(metadata.uid()),
                gid: auth::Gid(metadata.gid()),
            };
            let mut composer = compose::Composer::new(looks);
            for entry in std::fs::read_dir(dir.path()).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name();
                if entry.file_type().unwrap().is_symlink() {
                    let target = std::fs::read_link(entry.path()).unwrap();
                    composer.symlink(&[name.as_bytes()], target.as_os_str().as_bytes()).unwrap();
                } else {
                    composer.graft(&[name.as_bytes()], host_fs(&entry.path(), host::Access::ReadOnly)).unwrap();
                }
            }
            (overlay::new(vec![composer.build()], Some(upper)).unwrap(), vec![dir])
        },
        false,
    );
}

#[test]
fn memory() {
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    run(
        &|| {
            let options = tmpfs::TmpfsOptions { mode: 0o777, ..tmpfs::TmpfsOptions::of_size(64 << 20) };
            let fs = tmpfs::new(&memory, &options).unwrap();
            let ns = MountNs::new(Mount::of(Arc::clone(&fs), b"x", MountOptions::default()));
            let (kernel, root) = (KernelContext::default(), ns.root());
            let ctx = kernel.context();
            let at = At::new(&ctx, &root, &root);
            for dir in ["low", "low/b"] {
                at.mkdir(dir.as_bytes(), 0o777).unwrap();
            }
            for (path, text) in [("low/a", "lower"), ("low/b/c", "deep")] {
                let flags = OpenFlags::O_CREAT | OpenFlags::O_WRONLY;
                let file = at.open(path.as_bytes(), &OpenHow::from_open(flags.bits(), 0o666)).unwrap();
                file.write(&ctx, &mut KernelSrc::new(text.as_bytes())).unwrap();
            }
            at.link(&at.lookup(b"low/a", LookupFlags::empty()).unwrap(), b"low/c").unwrap();
            at.symlink(b"low", b"c").unwrap();
            (fs, vec![])
        },
        true,
    );
}
