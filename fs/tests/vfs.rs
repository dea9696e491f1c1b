//! One table of VFS behaviour, run over every file system that can be written: what each step answers is Linux's.
#![allow(clippy::print_stderr, reason = "a failing test says which file system it ran on")]

use std::sync::Arc;

use abi::Errno;
use abi::fs::{FallocFlags, OpenFlags, RenameFlags, XattrFlags};
use auth::{Creds, Gid, Uid};
use casemate_fs as fs;
use fs::vfs::{
    At, DirSink, File, FileType, Filesystem, LookupFlags, Mount, MountNs, MountOptions, NodeKind, OpenHow, Path,
    SetTime, Timestamp, Whence,
};
use fs::{Context, KernelContext, host, overlay, tmpfs};
use usermem::bytes::{KernelDst, KernelSrc};
use usermem::memfile::MemoryFile;

const MEMORY: u64 = 1 << 30;

/// A file system under test, and what keeps it alive.
struct Bed {
    name: &'static str,
    fs: Arc<dyn Filesystem>,
    /// Whether inodes made by others than root can be chowned, and special files made.
    whole: bool,
    _dirs: Vec<tempfile::TempDir>,
}

fn memory() -> Arc<MemoryFile> {
    usermem::safecopy::install();
    MemoryFile::on_memfd(MEMORY).unwrap()
}

/// Who writes to the host alone may be believed for good, else never.
fn belief(access: host::Access) -> host::Belief {
    if access == host::Access::ReadOnly { host::Belief::Lasting } else { host::Belief::None }
}

fn host_tree(dir: &tempfile::TempDir, access: host::Access) -> Arc<dyn Filesystem> {
    let fd = std::fs::File::open(dir.path()).unwrap();
    host::new(fd.into(), host::HostOptions { access, belief: belief(access), ids: host::Ids::All }).unwrap()
}

fn temp() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("casemate-fs-").tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(0), Some(0)).ok();
    dir
}

fn beds() -> Vec<Bed> {
    let memory = memory();
    let upper = || tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(64 << 20)).unwrap();
    let (rw, lower) = (temp(), temp());
    vec![
        Bed { name: "tmpfs", fs: upper(), whole: true, _dirs: vec![] },
        Bed { name: "host", fs: host_tree(&rw, host::Access::ReadWrite), whole: false, _dirs: vec![rw] },
        Bed {
            name: "overlay",
            fs: overlay::new(vec![host_tree(&lower, host::Access::ReadOnly)], Some(upper())).unwrap(),
            whole: true,
            _dirs: vec![lower],
        },
        Bed {
            name: "overlay on tmpfs",
            fs: overlay::new(vec![upper(), upper()], Some(upper())).unwrap(),
            whole: true,
            _dirs: vec![],
        },
    ]
}

struct World<'a> {
    ctx: Context<'a>,
    root: Path,
}

impl World<'_> {
    fn at(&self) -> At<'_> {
        At::new(&self.ctx, &self.root, &self.root)
    }

    fn open(&self, path: &str, flags: OpenFlags, mode: u32) -> Result<Arc<File>, Errno> {
        self.at().open(path.as_bytes(), &OpenHow::from_open(flags.bits(), mode))
    }

    fn write(&self, path: &str, text: &str) -> Result<(), Errno> {
        let file = self.open(path, OpenFlags::O_WRONLY | OpenFlags::O_CREAT | OpenFlags::O_TRUNC, 0o644)?;
        assert_eq!(file.write(&self.ctx, &mut KernelSrc::new(text.as_bytes()))?, text.len());
        Ok(())
    }

    fn read(&self, path: &str) -> Result<String, Errno> {
        let file = self.open(path, OpenFlags::empty(), 0)?;
        read_all(&self.ctx, &file)
    }

    fn rename(&self, from: &str, to: &str, flags: RenameFlags) -> Result<(), Errno> {
        self.at().rename(from.as_bytes(), &self.root, to.as_bytes(), flags)
    }

    fn link(&self, from: &str, to: &str) -> Result<(), Errno> {
        let target = self.at().lookup(from.as_bytes(), LookupFlags::empty())?;
        self.at().link(&target, to.as_bytes())
    }

    fn names(&self, path: &str) -> Result<Vec<String>, Errno> {
        struct Names(Vec<String>);
        impl DirSink for Names {
            fn entry(&mut self, name: &[u8], _ino: u64, _file_type: FileType, _next: u64) -> bool {
                self.0.push(String::from_utf8_lossy(name).into_owned());
                true
            }
        }
        let dir = self.open(path, OpenFlags::O_DIRECTORY, 0)?;
        let mut names = Names(vec![]);
        dir.readdir(&self.ctx, &mut names)?;
        names.0.retain(|name| name != "." && name != "..");
        names.0.sort();
        Ok(names.0)
    }

    fn stat(&self, path: &str) -> Result<fs::vfs::Attr, Errno> {
        self.at().lookup(path.as_bytes(), LookupFlags::empty())?.attr()
    }
}

fn read_all(ctx: &Context<'_>, file: &File) -> Result<String, Errno> {
    let mut all = Vec::new();
    loop {
        let mut buf = [0; 97];
        let n = file.read(ctx, &mut KernelDst::new(&mut buf))?;
        if n == 0 {
            return Ok(String::from_utf8_lossy(&all).into_owned());
        }
        all.extend_from_slice(&buf[..n]);
    }
}

fn each(test: impl Fn(&World<'_>, &Bed)) {
    for bed in beds() {
        eprintln!("on {}", bed.name);
        let ns = MountNs::new(Mount::of(Arc::clone(&bed.fs), b"test", MountOptions::default()));
        let kernel = KernelContext::default();
        test(&World { ctx: kernel.context(), root: ns.root() }, &bed);
    }
}

/// A step and what it must answer.
enum Step {
    Mkdir(&'static str),
    Rmdir(&'static str),
    Write(&'static str, &'static str),
    Read(&'static str, &'static str),
    Unlink(&'static str),
    Symlink(&'static str, &'static str),
    Link(&'static str, &'static str),
    Rename(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    NoReplace(&'static str, &'static str),
    Stat(&'static str),
    Names(&'static str, &'static [&'static str]),
    Open(&'static str, OpenFlags),
    Readlink(&'static str, &'static str),
}

type Outcome = Result<(), Errno>;

#[test]
fn table() {
    use Step::{
        Exchange, Link, Mkdir, Names, NoReplace, Open, Read, Readlink, Rename, Rmdir, Stat, Symlink, Unlink, Write,
    };
    const CREATE_EXCL: OpenFlags = OpenFlags::O_CREAT.union(OpenFlags::O_EXCL);
    let steps: &[(Step, Outcome)] = &[
        (Mkdir("d"), Ok(())),
        (Mkdir("d"), Err(Errno::EEXIST)),
        (Mkdir("d/"), Err(Errno::EEXIST)),
        (Mkdir("d/e/"), Ok(())),
        (Mkdir("x/y"), Err(Errno::ENOENT)),
        (Mkdir("/"), Err(Errno::EEXIST)),
        (Mkdir("d/."), Err(Errno::EEXIST)),
        (Mkdir(""), Err(Errno::ENOENT)),
        (Write("d/f", "hello"), Ok(())),
        (Read("d/f", "hello"), Ok(())),
        (Read("/d//./e/../f", "hello"), Ok(())),
        (Read("/../d/f", "hello"), Ok(())),
        (Read("d/f/", ""), Err(Errno::ENOTDIR)),
        (Read("d/f/g", ""), Err(Errno::ENOTDIR)),
        (Stat("d/g"), Err(Errno::ENOENT)),
        (Open("d", OpenFlags::O_RDWR), Err(Errno::EISDIR)),
        (Open("d/f", OpenFlags::O_DIRECTORY), Err(Errno::ENOTDIR)),
        (Open("d/f", CREATE_EXCL), Err(Errno::EEXIST)),
        (Open("d", OpenFlags::O_CREAT), Err(Errno::EISDIR)),
        (Open("d/new/", OpenFlags::O_CREAT), Err(Errno::EISDIR)),
        (Symlink("f", "d/l"), Ok(())),
        (Symlink("f", "d/l"), Err(Errno::EEXIST)),
        (Readlink("d/l", "f"), Ok(())),
        (Readlink("d/f", ""), Err(Errno::EINVAL)),
        (Read("d/l", "hello"), Ok(())),
        (Open("d/l", OpenFlags::O_NOFOLLOW), Err(Errno::ELOOP)),
        (Open("d/l", CREATE_EXCL), Err(Errno::EEXIST)),
        (Symlink("made", "d/dangling"), Ok(())),
        (Read("d/dangling", ""), Err(Errno::ENOENT)),
        (Write("d/dangling", "via link"), Ok(())),
        (Read("d/made", "via link"), Ok(())),
        (Symlink("/d", "abs"), Ok(())),
        (Read("abs/f", "hello"), Ok(())),
        (Unlink("abs/"), Err(Errno::ENOTDIR)),
        (Symlink("loop2", "loop1"), Ok(())),
        (Symlink("loop1", "loop2"), Ok(())),
        (Stat("loop1/x"), Err(Errno::ELOOP)),
        (Link("d/f", "d/h"), Ok(())),
        (Link("d/f", "d/h"), Err(Errno::EEXIST)),
        (Link("d", "dd"), Err(Errno::EPERM)),
        (Read("d/h", "hello"), Ok(())),
        (Unlink("d/f"), Ok(())),
        (Stat("d/f"), Err(Errno::ENOENT)),
        (Read("d/h", "hello"), Ok(())),
        (Unlink("d"), Err(Errno::EISDIR)),
        (Rmdir("d/h"), Err(Errno::ENOTDIR)),
        (Rmdir("d"), Err(Errno::ENOTEMPTY)),
        (Rmdir("d/."), Err(Errno::EINVAL)),
        (Rmdir("d/.."), Err(Errno::ENOTEMPTY)),
        (Rmdir("/"), Err(Errno::EBUSY)),
        (Rmdir("d/e"), Ok(())),
        (Stat("d/e"), Err(Errno::ENOENT)),
        (Names("d", &["dangling", "h", "l", "made"]), Ok(())),
        (Rename("d/h", "d/f"), Ok(())),
        (Stat("d/h"), Err(Errno::ENOENT)),
        (Read("d/f", "hello"), Ok(())),
        (Rename("d/nothing", "d/f"), Err(Errno::ENOENT)),
        (Rename("d", "d/f/x"), Err(Errno::ENOTDIR)),
        (Mkdir("d/sub"), Ok(())),
        (Rename("d", "d/sub/x"), Err(Errno::EINVAL)),
        (Rename("d/sub", "d"), Err(Errno::ENOTEMPTY)),
        (Rename("d/f", "d/sub"), Err(Errno::EISDIR)),
        (Rename("d/sub", "d/f"), Err(Errno::ENOTDIR)),
        (Rename("d/f", "d/renamed/"), Err(Errno::ENOTDIR)),
        (NoReplace("d/f", "d/made"), Err(Errno::EEXIST)),
        (NoReplace("d/f", "d/fresh"), Ok(())),
        (Exchange("d/fresh", "d/made"), Ok(())),
        (Read("d/made", "hello"), Ok(())),
        (Read("d/fresh", "via link"), Ok(())),
        (Exchange("d/fresh", "d/nope"), Err(Errno::ENOENT)),
        (Rename("d/fresh", "d/made"), Ok(())),
        (Read("d/made", "via link"), Ok(())),
        (Write("d/sub/deep", "deep"), Ok(())),
        (Rename("d/sub", "moved"), Ok(())),
        (Read("moved/deep", "deep"), Ok(())),
        (Stat("d/sub"), Err(Errno::ENOENT)),
        (Mkdir("d/sub"), Ok(())),
        (Names("d/sub", &[]), Ok(())),
        (Rename("d/sub", "moved"), Err(Errno::ENOTEMPTY)),
        (Unlink("moved/deep"), Ok(())),
        (Rename("d/sub", "moved"), Ok(())),
        (Names("moved", &[]), Ok(())),
        (Names("d", &["dangling", "l", "made"]), Ok(())),
    ];
    each(|world, _| {
        for (at, (step, wanted)) in steps.iter().enumerate() {
            let place = || format!("step {at}");
            let got = match step {
                Mkdir(path) => world.at().mkdir(path.as_bytes(), 0o755).map(|_| ()),
                Rmdir(path) => world.at().rmdir(path.as_bytes()),
                Write(path, text) => world.write(path, text),
                Read(path, text) => world.read(path).map(|got| assert_eq!(got, *text, "{}", place())),
                Unlink(path) => world.at().unlink(path.as_bytes()),
                Symlink(target, path) => world.at().symlink(target.as_bytes(), path.as_bytes()).map(|_| ()),
                Link(from, to) => world.link(from, to),
                Rename(from, to) => world.rename(from, to, RenameFlags::empty()),
                Exchange(from, to) => world.rename(from, to, RenameFlags::RENAME_EXCHANGE),
                NoReplace(from, to) => world.rename(from, to, RenameFlags::RENAME_NOREPLACE),
                Stat(path) => world.stat(path).map(|_| ()),
                Names(path, wanted) => world.names(path).map(|got| assert_eq!(got, *wanted, "{}", place())),
                Open(path, flags) => world.open(path, *flags, 0o644).map(|_| ()),
                Readlink(path, wanted) => {
                    world.at().readlink(path.as_bytes()).map(|got| assert_eq!(got, wanted.as_bytes()))
                }
            };
            assert_eq!(got, *wanted, "{}", place());
        }
    });
}

#[test]
fn contents() {
    each(|world, _| {
        let ctx = &world.ctx;
        let rw = OpenFlags::O_RDWR | OpenFlags::O_CREAT;
        let file = world.open("f", rw, 0o644).unwrap();
        assert_eq!(file.write(ctx, &mut KernelSrc::new(b"0123456789")).unwrap(), 10);
        assert_eq!(file.seek(ctx, -3, Whence::End).unwrap(), 7);
        assert_eq!(read_all(ctx, &file).unwrap(), "789");
        assert_eq!(file.seek(ctx, -1, Whence::Set).unwrap_err(), Errno::EINVAL);
        // A hole reads as zeros, before and after truncation.
        assert_eq!(file.write_at(ctx, &mut KernelSrc::new(b"end"), 100_000).unwrap(), 3);
        assert_eq!(file.attr().unwrap().size, 100_003);
        let mut buf = [1; 20];
        assert_eq!(file.read_at(ctx, &mut KernelDst::new(&mut buf), 5).unwrap(), 20);
        assert_eq!(&buf[..5], b"56789");
        assert!(buf[5..].iter().all(|byte| *byte == 0));
        file.truncate(ctx, 4).unwrap();
        file.truncate(ctx, 8).unwrap();
        assert_eq!(file.seek(ctx, 0, Whence::Set).unwrap(), 0);
        assert_eq!(read_all(ctx, &file).unwrap(), "0123\0\0\0\0");
        // Appending goes to the end, wherever others moved it.
        let append = world.open("f", OpenFlags::O_WRONLY | OpenFlags::O_APPEND, 0).unwrap();
        append.write(ctx, &mut KernelSrc::new(b"A")).unwrap();
        append.write(ctx, &mut KernelSrc::new(b"B")).unwrap();
        assert_eq!(append.position(), 10);
        assert_eq!(append.read(ctx, &mut KernelDst::new(&mut buf)).unwrap_err(), Errno::EBADF);
        // A file lives on without its name.
        world.at().unlink(b"f").unwrap();
        assert_eq!(file.attr().unwrap().nlink, 0);
        file.seek(ctx, 8, Whence::Set).unwrap();
        assert_eq!(read_all(ctx, &file).unwrap(), "AB");
        assert!(file.path().d_path(&world.root).ends_with(b"/f (deleted)"));
        assert_eq!(world.stat("f").unwrap_err(), Errno::ENOENT);
    });
}

#[test]
fn large_files_move_whole() {
    each(|world, _| {
        let ctx = &world.ctx;
        let bytes: Vec<u8> = (0..3_000_017u32).map(|n| (n % 251) as u8).collect();
        let file = world.open("big", OpenFlags::O_RDWR | OpenFlags::O_CREAT, 0o600).unwrap();
        assert_eq!(file.write(ctx, &mut KernelSrc::new(&bytes)).unwrap(), bytes.len());
        let mut back = vec![0; bytes.len() + 10];
        assert_eq!(file.read_at(ctx, &mut KernelDst::new(&mut back), 0).unwrap(), bytes.len());
        assert!(back[..bytes.len()] == bytes[..]);
    });
}

#[test]
fn metadata() {
    each(|world, bed| {
        let ctx = &world.ctx;
        world.write("f", "x").unwrap();
        let place = world.at().lookup(b"f", LookupFlags::empty()).unwrap();
        place.chmod(ctx, 0o4755).unwrap();
        assert_eq!(place.attr().unwrap().st_mode(), 0o104755);
        if bed.whole || rustix::process::geteuid().is_root() {
            place.chown(ctx, Some(Uid(7)), Some(Gid(8))).unwrap();
            let attr = place.attr().unwrap();
            assert_eq!((attr.uid, attr.gid, attr.mode), (Uid(7), Gid(8), 0o755), "chown drops set-id bits");
            let other = Creds::new(Uid(9), Gid(9), vec![]);
            let ctx = ctx.with_creds(&other);
            assert_eq!(place.chmod(&ctx, 0o777), Err(Errno::EPERM));
            assert_eq!(place.chown(&ctx, Some(Uid(9)), None), Err(Errno::EPERM));
            let now = Some(SetTime::Now);
            assert_eq!(place.set_times(&ctx, now, now), Err(Errno::EACCES));
            assert_eq!(place.truncate(&ctx, 0), Err(Errno::EACCES));
        }
        let time = Timestamp { secs: 1_000_000, nanos: 5 };
        place.set_times(ctx, None, Some(SetTime::At(time))).unwrap();
        assert_eq!(place.attr().unwrap().mtime, time);
        world.link("f", "g").unwrap();
        assert_eq!(place.attr().unwrap().nlink, 2);
        assert_eq!(world.stat("g").unwrap().ino, world.stat("f").unwrap().ino);
        if bed.whole {
            place.set_xattr(ctx, b"user.k", b"v", XattrFlags::XATTR_CREATE).unwrap();
            assert_eq!(place.set_xattr(ctx, b"user.k", b"v", XattrFlags::XATTR_CREATE), Err(Errno::EEXIST));
            assert_eq!(place.get_xattr(ctx, b"user.k").unwrap(), b"v");
            assert_eq!(place.list_xattr(ctx).unwrap(), b"user.k\0");
            place.remove_xattr(ctx, b"user.k").unwrap();
            assert_eq!(place.get_xattr(ctx, b"user.k"), Err(Errno::ENODATA));
            assert_eq!(world.at().mknod(b"fifo", NodeKind::Fifo, 0o644).unwrap().attr().unwrap().st_mode(), 0o010644);
        }
    });
}

#[test]
fn permissions_bind_ordinary_users() {
    each(|world, bed| {
        if !bed.whole {
            return;
        }
        let ctx = &world.ctx;
        world.at().mkdir(b"sticky", 0o777).unwrap();
        world.at().lookup(b"sticky", LookupFlags::empty()).unwrap().chmod(ctx, 0o1777).unwrap();
        world.write("sticky/roots", "").unwrap();
        world.at().mkdir(b"closed", 0o700).unwrap();
        world.write("closed/f", "").unwrap();
        let user = Creds::new(Uid(5), Gid(5), vec![]);
        let user_ctx = ctx.with_creds(&user);
        let user_world = World { ctx: user_ctx, root: world.root.clone() };
        assert_eq!(user_world.stat("closed/f").unwrap_err(), Errno::EACCES);
        assert_eq!(user_world.at().unlink(b"sticky/roots"), Err(Errno::EPERM));
        assert_eq!(user_world.rename("sticky/roots", "sticky/x", RenameFlags::empty()), Err(Errno::EPERM));
        user_world.write("sticky/mine", "").unwrap();
        assert_eq!(user_world.stat("sticky/mine").unwrap().uid, Uid(5));
        user_world.at().unlink(b"sticky/mine").unwrap();
        assert_eq!(user_world.write("sticky/roots", "x"), Err(Errno::EACCES));
        world.at().lookup(b"sticky", LookupFlags::empty()).unwrap().chown(ctx, None, Some(Gid(77))).unwrap();
        world.at().lookup(b"sticky", LookupFlags::empty()).unwrap().chmod(ctx, 0o2777).unwrap();
        let made = user_world.at().mkdir(b"sticky/d", 0o755).unwrap().attr().unwrap();
        assert_eq!((made.gid, made.mode), (Gid(77), 0o2755), "set-gid directories pass on their group");
    });
}

#[test]
fn unnamed_files_get_names() {
    each(|world, bed| {
        if !bed.whole {
            return;
        }
        let file = world.open("/", OpenFlags::O_TMPFILE | OpenFlags::O_RDWR, 0o600).unwrap();
        assert_eq!(file.attr().unwrap().nlink, 0);
        file.write(&world.ctx, &mut KernelSrc::new(b"late")).unwrap();
        world.at().link(file.path(), b"named").unwrap();
        assert_eq!(world.read("named").unwrap(), "late");
        assert_eq!(file.path().d_path(&world.root), b"/named");
    });
}

#[test]
fn overlay_never_writes_below() {
    let lower = temp();
    std::fs::create_dir_all(lower.path().join("etc/deep")).unwrap();
    std::fs::write(lower.path().join("etc/passwd"), "root:x:0:0").unwrap();
    std::fs::write(lower.path().join("etc/deep/f"), "deep").unwrap();
    std::fs::hard_link(lower.path().join("etc/passwd"), lower.path().join("etc/twin")).unwrap();
    std::os::unix::fs::symlink("passwd", lower.path().join("etc/link")).unwrap();
    let memory = memory();
    let upper = tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(64 << 20)).unwrap();
    let fs = overlay::new(vec![host_tree(&lower, host::Access::ReadOnly)], Some(upper)).unwrap();
    let ns = MountNs::new(Mount::of(fs, b"overlay", MountOptions::default()));
    let kernel = KernelContext::default();
    let world = World { ctx: kernel.context(), root: ns.root() };

    assert_eq!(world.read("etc/link").unwrap(), "root:x:0:0");
    let before = world.stat("etc/passwd").unwrap();
    let reader = world.open("etc/passwd", OpenFlags::empty(), 0).unwrap();
    let writer = world.open("etc/passwd", OpenFlags::O_WRONLY | OpenFlags::O_APPEND, 0).unwrap();
    writer.write(&world.ctx, &mut KernelSrc::new(b"!")).unwrap();
    assert_eq!(world.stat("etc/passwd").unwrap().ino, before.ino, "a copy keeps its number");
    assert_eq!(read_all(&world.ctx, &reader).unwrap(), "root:x:0:0!", "and older openings see it");
    assert_eq!(world.read("etc/twin").unwrap(), "root:x:0:0!", "as other names do");
    assert_eq!(world.names("etc").unwrap(), ["deep", "link", "passwd", "twin"]);

    assert_eq!(world.rename("etc/deep", "moved", RenameFlags::empty()), Err(Errno::EXDEV));
    assert_eq!(world.at().rmdir(b"etc/deep"), Err(Errno::ENOTEMPTY));
    let open = world.open("etc/deep/f", OpenFlags::empty(), 0).unwrap();
    world.at().unlink(b"etc/deep/f").unwrap();
    world.at().rmdir(b"etc/deep").unwrap();
    assert_eq!(world.stat("etc/deep").unwrap_err(), Errno::ENOENT);
    open.path().chmod(&world.ctx, 0o600).unwrap();
    assert_eq!(read_all(&world.ctx, &open).unwrap(), "deep");
    assert_eq!(world.names("etc").unwrap(), ["link", "passwd", "twin"]);
    world.at().mkdir(b"etc/deep", 0o755).unwrap();
    assert_eq!(world.names("etc/deep").unwrap(), Vec::<String>::new(), "a new directory hides the old one");
    world.write("etc/deep/g", "new").unwrap();
    world.rename("etc/deep", "moved", RenameFlags::empty()).unwrap();
    assert_eq!(world.names("moved").unwrap(), ["g"]);
    assert_eq!(world.stat("etc/deep").unwrap_err(), Errno::ENOENT);
    world.rename("etc/passwd", "shadow", RenameFlags::empty()).unwrap();
    assert_eq!(world.read("shadow").unwrap(), "root:x:0:0!");
    assert_eq!(world.read("etc/link").unwrap_err(), Errno::ENOENT);

    assert_eq!(std::fs::read_to_string(lower.path().join("etc/passwd")).unwrap(), "root:x:0:0");
    assert_eq!(std::fs::read_to_string(lower.path().join("etc/deep/f")).unwrap(), "deep");
    assert!(!lower.path().join("shadow").exists());
}

#[test]
fn host_special_files_cannot_be_opened() {
    let dir = temp();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let ns = MountNs::new(Mount::of(host_tree(&dir, host::Access::ReadWrite), b"host", MountOptions::default()));
    let kernel = KernelContext::default();
    let world = World { ctx: kernel.context(), root: ns.root() };
    for name in ["fifo", "socket"] {
        assert_eq!(world.open(name, OpenFlags::O_RDWR, 0).unwrap_err(), Errno::ENXIO, "{name}");
        assert!(world.stat(name).is_ok());
    }
}

#[test]
fn mounts_are_crossed() {
    let memory = memory();
    let make = || tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(1 << 20)).unwrap();
    let ns = MountNs::new(Mount::of(make(), b"a", MountOptions::default()));
    let kernel = KernelContext::default();
    let world = World { ctx: kernel.context(), root: ns.root() };
    let place = world.at().mkdir(b"mnt", 0o755).unwrap();
    let mount = ns.mount_fs(&place, make(), b"b", MountOptions::default()).unwrap();
    world.write("mnt/f", "inside").unwrap();
    let inner = world.at().lookup(b"mnt/f", LookupFlags::empty()).unwrap();
    assert_eq!(inner.d_path(&world.root), b"/mnt/f");
    assert_eq!(world.read("mnt/../mnt/f").unwrap(), "inside");
    assert_eq!(world.at().lookup(b"mnt", LookupFlags::NO_XDEV).unwrap_err(), Errno::EXDEV);
    assert_eq!(world.at().rmdir(b"mnt"), Err(Errno::EBUSY));
    assert_eq!(world.rename("mnt/f", "f", RenameFlags::empty()), Err(Errno::EXDEV));
    world.at().mkdir(b"other", 0o755).unwrap();
    let other = world.at().lookup(b"other", LookupFlags::empty()).unwrap();
    let from = world.at().lookup(b"mnt", LookupFlags::empty()).unwrap();
    ns.bind(&from, &other, fs::vfs::Recursive::No).unwrap();
    assert_eq!(world.read("other/f").unwrap(), "inside");
    mount.set_options(MountOptions::READ_ONLY);
    assert_eq!(world.write("mnt/f", "x"), Err(Errno::EROFS));
    assert_eq!(world.write("other/f", "x"), Ok(()));
    ns.umount(&mount, fs::vfs::Detach::No).unwrap();
    assert_eq!(world.read("mnt/f").unwrap_err(), Errno::ENOENT);
    assert_eq!(world.read("other/f").unwrap(), "x");
    world.at().rmdir(b"mnt").unwrap();
}

#[test]
fn limits() {
    let memory = memory();
    let fs = tmpfs::new(&memory, &tmpfs::TmpfsOptions { inodes: 4, ..tmpfs::TmpfsOptions::of_size(8192) }).unwrap();
    let ns = MountNs::new(Mount::of(fs, b"t", MountOptions::default()));
    let kernel = KernelContext::default();
    let world = World { ctx: kernel.context(), root: ns.root() };
    let file = world.open("f", OpenFlags::O_RDWR | OpenFlags::O_CREAT, 0o600).unwrap();
    let bytes = vec![1; 20_000];
    assert_eq!(file.write(&world.ctx, &mut KernelSrc::new(&bytes)).unwrap(), 8192);
    assert_eq!(file.write(&world.ctx, &mut KernelSrc::new(&bytes)).unwrap_err(), Errno::ENOSPC);
    file.truncate(&world.ctx, 0).unwrap();
    assert_eq!(file.write_at(&world.ctx, &mut KernelSrc::new(b"x"), 0).unwrap(), 1);
    world.at().mkdir(b"a", 0o755).unwrap();
    world.at().mkdir(b"b", 0o755).unwrap();
    assert_eq!(world.at().mkdir(b"c", 0o755).unwrap_err(), Errno::ENOSPC);
    world.at().rmdir(b"b").unwrap();
    world.at().mkdir(b"c", 0o755).unwrap();
    let long = [b'x'; 256];
    assert_eq!(world.at().mkdir(&long, 0o755).unwrap_err(), Errno::ENAMETOOLONG);
    assert_eq!(world.at().lookup(&[b'/'; 4096], LookupFlags::empty()).unwrap_err(), Errno::ENAMETOOLONG);
    assert!(world.at().lookup(&[b'/'; 4095], LookupFlags::empty()).is_ok());
}

/// Found by the guest fuzzer: a length that nothing can hold was reserved page by page, and kept.
#[test]
fn room_is_reserved_as_a_whole_or_not_at_all() {
    let memory = memory();
    let fs = tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(1 << 20)).unwrap();
    let ns = MountNs::new(Mount::of(fs, b"t", MountOptions::default()));
    let kernel = KernelContext::default();
    let world = World { ctx: kernel.context(), root: ns.root() };
    let file = world.open("f", OpenFlags::O_RDWR | OpenFlags::O_CREAT, 0o600).unwrap();
    file.write_at(&world.ctx, &mut KernelSrc::new(b"x"), 40_000).unwrap();
    for len in [1 << 21, 1 << 40, 1 << 62] {
        assert_eq!(file.allocate(&world.ctx, FallocFlags::empty(), 4096, len), Err(Errno::ENOSPC), "{len}");
    }
    assert_eq!(file.inode().attr().unwrap().blocks, 8, "what was reserved before the hole that failed is free again");
    assert_eq!(file.allocate(&world.ctx, FallocFlags::empty(), 100, 100_000), Ok(()));
    assert_eq!(file.inode().attr().unwrap().blocks, 25 * 8);
}

/// Several file systems in memory share one limit, and what they do not hold is not counted.
#[test]
fn rooms_are_counted() {
    let memory = memory();
    let account = tmpfs::Account::new(256 << 10);
    let make = || tmpfs::new_within(&memory, &tmpfs::TmpfsOptions::of_size(256 << 10), &account).unwrap();
    let ns = MountNs::new(Mount::of(make(), b"a", MountOptions::default()));
    let kernel = KernelContext::default();
    let world = World { ctx: kernel.context(), root: ns.root() };
    let place = world.at().mkdir(b"mnt", 0o755).unwrap();
    ns.mount_fs(&place, make(), b"b", MountOptions::default()).unwrap();
    let create = |name: &str| world.open(name, OpenFlags::O_RDWR | OpenFlags::O_CREAT, 0o600).unwrap();
    let write_at = |file: &File, len: usize, at: u64| file.write_at(&world.ctx, &mut KernelSrc::new(&vec![1; len]), at);
    let blocks = |file: &File| file.attr().unwrap().blocks;

    // Pages that hold something count, holes between them do not.
    let sparse = create("sparse");
    write_at(&sparse, 1, 0).unwrap();
    write_at(&sparse, 1, 16_384).unwrap();
    assert_eq!(blocks(&sparse), 16);
    write_at(&sparse, 1, 1 << 20).unwrap();
    assert_eq!(blocks(&sparse), 24);
    assert_eq!(sparse.seek(&world.ctx, 5000, Whence::Data).unwrap(), 16_384);
    // Growing in small steps comes to the same as at once.
    let grown = create("grown");
    for step in 0..200 {
        write_at(&grown, 500, step * 500).unwrap();
    }
    assert_eq!(blocks(&grown), 100_000_u64.div_ceil(4096) * 8);

    let used = (3 + 25) * 4096;
    let free =
        |path: &str| world.at().lookup(path.as_bytes(), LookupFlags::empty()).unwrap().statfs().unwrap().blocks_free;
    assert_eq!((free("/"), free("mnt")), (64 - 28, 64 - 28));
    let other = create("mnt/other");
    assert_eq!(write_at(&other, 256 << 10, 0).unwrap(), (256 << 10) - used);
    assert_eq!(write_at(&sparse, 1, 2 << 20).unwrap_err(), Errno::ENOSPC);
    grown.truncate(&world.ctx, 0).unwrap();
    assert_eq!(write_at(&sparse, 1, 2 << 20).unwrap(), 1);
    assert_eq!((free("/"), free("mnt")), (24, 24));
}
