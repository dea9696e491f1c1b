//! Names and directories: the *at forms, links, listings, openat2, O_PATH, device nodes, roots, extended attributes.

use std::ffi::{CStr, CString};

use casemate_guest_tests::{Scratch, in_child, is_root, steps, sys};

const CWD: i32 = libc::AT_FDCWD;

fn open_at(dir: i64, path: &CStr, flags: i32) -> Result<i64, i32> {
    sys!(openat, dir, path.as_ptr(), flags, 0o644)
}

fn open_dir(scratch: &Scratch) -> i64 {
    open_at(CWD.into(), &scratch.c_path("."), libc::O_DIRECTORY | libc::O_RDONLY).unwrap()
}

fn close(fd: i64) {
    assert_eq!(sys!(close, fd), Ok(0));
}

/// Inode number, type and name of each entry that getdents64(2) gives, in buffers of `size` bytes.
fn entries(dir: i64, size: usize) -> Result<Vec<(u64, u8, String)>, i32> {
    let mut all = Vec::new();
    loop {
        let mut buffer = vec![0_u8; size];
        let got = usize::try_from(sys!(getdents64, dir, buffer.as_mut_ptr(), size)?).unwrap();
        if got == 0 {
            return Ok(all);
        }
        let mut rest = &buffer[..got];
        while !rest.is_empty() {
            let ino = u64::from_ne_bytes(rest[..8].try_into().unwrap());
            let len = usize::from(u16::from_ne_bytes(rest[16..18].try_into().unwrap()));
            assert!(len % 8 == 0 && len >= 24, "record of {len} bytes");
            let name = CStr::from_bytes_until_nul(&rest[19..len]).unwrap();
            all.push((ino, rest[18], name.to_str().unwrap().to_owned()));
            rest = &rest[len..];
        }
    }
}

#[test]
fn directory_records_tell_type_and_inode() {
    let scratch = Scratch::new("dents");
    std::fs::write(scratch.path("file"), b"").unwrap();
    std::fs::create_dir(scratch.path("dir")).unwrap();
    std::os::unix::fs::symlink("file", scratch.path("link")).unwrap();
    let dir = open_dir(&scratch);
    let mut found = entries(dir, 64).unwrap();
    found.sort_by(|a, b| a.2.cmp(&b.2));
    let names: Vec<&str> = found.iter().map(|entry| entry.2.as_str()).collect();
    assert_eq!(names, [".", "..", "dir", "file", "link"]);
    let kinds: Vec<u8> = found.iter().map(|entry| entry.1).collect();
    let (d, r, l) = (libc::DT_DIR, libc::DT_REG, libc::DT_LNK);
    assert_eq!(kinds, [d, d, d, r, l]);
    for (ino, _, name) in &found {
        let meta = std::fs::symlink_metadata(scratch.path(name)).unwrap();
        assert_eq!(*ino, std::os::unix::fs::MetadataExt::ino(&meta), "{name}");
    }
    assert_eq!(sys!(getdents64, dir, [0_u8; 8].as_mut_ptr(), 8), Ok(0));
    assert_eq!(sys!(lseek, dir, 0, libc::SEEK_SET), Ok(0));
    assert_eq!(sys!(getdents64, dir, [0_u8; 8].as_mut_ptr(), 8), Err(libc::EINVAL));
    assert_eq!(entries(dir, 4096).unwrap().len(), 5);
    // The old form ends each record with the type.
    assert_eq!(sys!(lseek, dir, 0, libc::SEEK_SET), Ok(0));
    let mut buffer = [0_u8; 1024];
    let got = usize::try_from(sys!(getdents, dir, buffer.as_mut_ptr(), 1024).unwrap()).unwrap();
    let (mut at, mut old) = (0, Vec::new());
    while at < got {
        let len = usize::from(u16::from_ne_bytes(buffer[at + 16..at + 18].try_into().unwrap()));
        let name = CStr::from_bytes_until_nul(&buffer[at + 18..]).unwrap();
        old.push((name.to_str().unwrap().to_owned(), buffer[at + len - 1]));
        at += len;
    }
    old.sort();
    let names: Vec<_> = found.iter().map(|entry| (entry.2.clone(), entry.1)).collect();
    assert_eq!(old, names);
    let file = open_at(dir, c"file", libc::O_RDONLY).unwrap();
    assert_eq!(sys!(getdents64, file, buffer.as_mut_ptr(), 1024), Err(libc::ENOTDIR));
    assert_eq!(sys!(getdents64, 9999, buffer.as_mut_ptr(), 1024), Err(libc::EBADF));
    assert_eq!(sys!(lseek, dir, 0, libc::SEEK_SET), Ok(0));
    assert_eq!(sys!(read, dir, buffer.as_mut_ptr(), 8), Err(libc::EISDIR));
    close(file);
    close(dir);
}

#[test]
fn a_removed_directory_is_empty_and_takes_nothing() {
    let scratch = Scratch::new("gone");
    std::fs::create_dir(scratch.path("d")).unwrap();
    let dir = open_at(CWD.into(), &scratch.c_path("d"), libc::O_DIRECTORY).unwrap();
    std::fs::remove_dir(scratch.path("d")).unwrap();
    assert_eq!(sys!(getdents64, dir, [0_u8; 256].as_mut_ptr(), 256), Err(libc::ENOENT));
    assert_eq!(open_at(dir, c"x", libc::O_CREAT | libc::O_WRONLY), Err(libc::ENOENT));
    assert_eq!(sys!(mkdirat, dir, c"x".as_ptr(), 0o755), Err(libc::ENOENT));
    close(dir);
}

#[test]
fn calls_below_a_directory() {
    let scratch = Scratch::new("at");
    let dir = open_dir(&scratch);
    assert_eq!(sys!(mkdirat, dir, c"sub".as_ptr(), 0o755), Ok(0));
    assert_eq!(sys!(mkdirat, dir, c"sub/".as_ptr(), 0o755), Err(libc::EEXIST));
    assert_eq!(sys!(mkdirat, dir, c"new/".as_ptr(), 0o755), Ok(0));
    assert_eq!(sys!(mkdirat, dir, c"a/b".as_ptr(), 0o755), Err(libc::ENOENT));
    close(open_at(dir, c"sub/f", libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY).unwrap());
    assert_eq!(sys!(linkat, dir, c"sub/f".as_ptr(), dir, c"hard".as_ptr(), 0), Ok(0));
    assert_eq!(sys!(linkat, dir, c"sub".as_ptr(), dir, c"no".as_ptr(), 0), Err(libc::EPERM));
    assert_eq!(sys!(symlinkat, c"sub/f".as_ptr(), dir, c"soft".as_ptr()), Ok(0));
    assert_eq!(sys!(symlinkat, c"".as_ptr(), dir, c"empty".as_ptr()), Err(libc::ENOENT));
    let mut target = [0_u8; 16];
    assert_eq!(sys!(readlinkat, dir, c"soft".as_ptr(), target.as_mut_ptr(), 16), Ok(5));
    assert_eq!(&target[..6], b"sub/f\0");
    assert_eq!(sys!(readlinkat, dir, c"soft".as_ptr(), target.as_mut_ptr(), 3), Ok(3));
    assert_eq!(sys!(readlinkat, dir, c"hard".as_ptr(), target.as_mut_ptr(), 3), Err(libc::EINVAL));
    assert_eq!(sys!(readlinkat, dir, c"soft".as_ptr(), target.as_mut_ptr(), 0), Err(libc::EINVAL));
    // A link to the symbolic link, or through it.
    assert_eq!(sys!(linkat, dir, c"soft".as_ptr(), dir, c"soft2".as_ptr(), 0), Ok(0));
    assert_eq!(sys!(readlinkat, dir, c"soft2".as_ptr(), target.as_mut_ptr(), 16), Ok(5));
    assert_eq!(sys!(linkat, dir, c"soft".as_ptr(), dir, c"hard2".as_ptr(), libc::AT_SYMLINK_FOLLOW), Ok(0));
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata(scratch.path("hard2")).unwrap()), 3);
    assert_eq!(sys!(renameat, dir, c"hard2".as_ptr(), dir, c"sub/moved".as_ptr()), Ok(0));
    assert_eq!(sys!(renameat, dir, c"absent".as_ptr(), dir, c"x".as_ptr()), Err(libc::ENOENT));
    assert_eq!(sys!(renameat, dir, c"sub".as_ptr(), dir, c"hard".as_ptr()), Err(libc::ENOTDIR));
    assert_eq!(sys!(renameat, dir, c"new".as_ptr(), dir, c"sub".as_ptr()), Err(libc::ENOTEMPTY));
    assert_eq!(sys!(renameat, dir, c"sub".as_ptr(), dir, c"new".as_ptr()), Ok(0));
    // Two names of one file: renaming one to the other changes nothing.
    assert_eq!(sys!(renameat, dir, c"hard".as_ptr(), dir, c"new/f".as_ptr()), Ok(0));
    assert!(scratch.path("hard").exists() && scratch.path("new/f").exists());
    assert_eq!(sys!(unlinkat, dir, c"new".as_ptr(), 0), Err(libc::EISDIR));
    assert_eq!(sys!(unlinkat, dir, c"hard".as_ptr(), libc::AT_REMOVEDIR), Err(libc::ENOTDIR));
    assert_eq!(sys!(unlinkat, dir, c"new".as_ptr(), libc::AT_REMOVEDIR), Err(libc::ENOTEMPTY));
    assert_eq!(sys!(unlinkat, dir, c"hard".as_ptr(), 1), Err(libc::EINVAL));
    assert_eq!(sys!(unlinkat, dir, c".".as_ptr(), libc::AT_REMOVEDIR), Err(libc::EINVAL));
    assert_eq!(sys!(unlinkat, dir, c"hard".as_ptr(), 0), Ok(0));
    let file = open_at(dir, c"new/f", libc::O_RDONLY).unwrap();
    assert_eq!(open_at(file, c"x", libc::O_RDONLY), Err(libc::ENOTDIR));
    assert_eq!(open_at(9999, c"x", libc::O_RDONLY), Err(libc::EBADF));
    close(open_at(9999, &scratch.c_path("new/f"), libc::O_RDONLY).unwrap());
    close(file);
    close(dir);
}

#[test]
fn old_forms_of_names() {
    let scratch = Scratch::new("old-names");
    let at = |name: &str| scratch.c_path(name);
    let created = sys!(creat, at("f").as_ptr(), 0o600).unwrap();
    assert_eq!(sys!(fcntl, created, libc::F_GETFL, 0).unwrap() & 3, 1);
    assert_eq!(sys!(write, created, b"xyz".as_ptr(), 3), Ok(3));
    close(created);
    close(sys!(creat, at("f").as_ptr(), 0o600).unwrap());
    assert_eq!(std::fs::metadata(scratch.path("f")).unwrap().len(), 0);
    close(sys!(open, at("f").as_ptr(), libc::O_RDWR, 0).unwrap());
    assert_eq!(sys!(open, at("g").as_ptr(), libc::O_RDWR, 0), Err(libc::ENOENT));
    assert_eq!(sys!(link, at("f").as_ptr(), at("g").as_ptr()), Ok(0));
    assert_eq!(sys!(link, at("f").as_ptr(), at("g").as_ptr()), Err(libc::EEXIST));
    assert_eq!(sys!(link, at("absent").as_ptr(), at("h").as_ptr()), Err(libc::ENOENT));
    assert_eq!(sys!(symlink, c"f".as_ptr(), at("s").as_ptr()), Ok(0));
    assert_eq!(sys!(symlink, c"f".as_ptr(), at("s").as_ptr()), Err(libc::EEXIST));
    assert_eq!(sys!(rename, at("s").as_ptr(), at("t").as_ptr()), Ok(0));
    let mut target = [0_u8; 4];
    assert_eq!(sys!(readlink, at("t").as_ptr(), target.as_mut_ptr(), 4), Ok(1));
    assert_eq!(sys!(unlink, at("t").as_ptr()), Ok(0));
    assert_eq!(sys!(mkdir, at("d").as_ptr(), 0o755), Ok(0));
    assert_eq!(sys!(unlink, at("d").as_ptr()), Err(libc::EISDIR));
    assert_eq!(sys!(rmdir, at("d").as_ptr()), Ok(0));
    assert_eq!(sys!(rmdir, at("d").as_ptr()), Err(libc::ENOENT));
    assert_eq!(sys!(rmdir, at("f").as_ptr()), Err(libc::ENOTDIR));
    assert_eq!(sys!(open, 16, libc::O_RDONLY, 0), Err(libc::EFAULT));
}

#[test]
fn path_descriptors_name_and_do_nothing_else() {
    let scratch = Scratch::new("opath");
    std::fs::write(scratch.path("f"), b"abc").unwrap();
    std::os::unix::fs::symlink("f", scratch.path("l")).unwrap();
    let dir = open_at(CWD.into(), &scratch.c_path("."), libc::O_PATH | libc::O_DIRECTORY).unwrap();
    let file = open_at(dir, c"f", libc::O_PATH | libc::O_CLOEXEC).unwrap();
    let link = open_at(dir, c"l", libc::O_PATH | libc::O_NOFOLLOW).unwrap();
    let mut buffer = [0_u8; 256];
    assert_eq!(sys!(read, file, buffer.as_mut_ptr(), 3), Err(libc::EBADF));
    assert_eq!(sys!(write, file, buffer.as_ptr(), 3), Err(libc::EBADF));
    assert_eq!(sys!(lseek, file, 0, 0), Err(libc::EBADF));
    assert_eq!(sys!(fchmod, file, 0o600), Err(libc::EBADF));
    assert_eq!(sys!(getdents64, dir, buffer.as_mut_ptr(), 256), Err(libc::EBADF));
    assert_eq!(sys!(mmap, 0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, file, 0), Err(libc::EBADF));
    assert_eq!(sys!(fcntl, file, libc::F_GETFL, 0).unwrap() & i64::from(libc::O_PATH), libc::O_PATH.into());
    assert_eq!(sys!(fcntl, file, libc::F_GETFD, 0), Ok(1));
    assert_eq!(sys!(readlinkat, link, c"".as_ptr(), buffer.as_mut_ptr(), 16), Ok(1));
    // SAFETY: 1. plain data.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(fstat, file, &raw mut stat), Ok(0));
    assert_eq!(stat.st_size, 3);
    assert_eq!(sys!(newfstatat, link, c"".as_ptr(), &raw mut stat, libc::AT_EMPTY_PATH), Ok(0));
    assert_eq!(stat.st_mode & libc::S_IFMT, libc::S_IFLNK);
    // Its name in /proc opens what it names.
    let name = CString::new(format!("/proc/self/fd/{file}")).unwrap();
    let opened = open_at(CWD.into(), &name, libc::O_RDONLY).unwrap();
    assert_eq!(sys!(read, opened, buffer.as_mut_ptr(), 256), Ok(3));
    for fd in [dir, file, link, opened] {
        close(fd);
    }
}

#[test]
fn openat2_resolves_as_told() {
    let scratch = Scratch::new("openat2");
    std::fs::create_dir(scratch.path("d")).unwrap();
    std::fs::write(scratch.path("f"), b"").unwrap();
    std::fs::write(scratch.path("d/f"), b"").unwrap();
    std::os::unix::fs::symlink("../f", scratch.path("d/up")).unwrap();
    std::os::unix::fs::symlink("/f", scratch.path("d/root")).unwrap();
    std::os::unix::fs::symlink("f", scratch.path("d/in")).unwrap();
    let dir = open_at(CWD.into(), &scratch.c_path("d"), libc::O_PATH).unwrap();
    let open = |path: &CStr, flags: i32, mode: u64, resolve: u64| {
        let how = [u64::from(flags.cast_unsigned()), mode, resolve];
        sys!(openat2, dir, path.as_ptr(), how.as_ptr(), 24).inspect(|&fd| close(fd))
    };
    let (beneath, in_root) = (libc::RESOLVE_BENEATH, libc::RESOLVE_IN_ROOT);
    assert!(open(c"f", libc::O_RDONLY, 0, beneath).is_ok());
    assert!(open(c"in", libc::O_RDONLY, 0, beneath).is_ok());
    assert_eq!(open(c"../f", libc::O_RDONLY, 0, beneath), Err(libc::EXDEV));
    assert_eq!(open(c"up", libc::O_RDONLY, 0, beneath), Err(libc::EXDEV));
    assert_eq!(open(c"root", libc::O_RDONLY, 0, beneath), Err(libc::EXDEV));
    assert_eq!(open(c"/etc/passwd", libc::O_RDONLY, 0, beneath), Err(libc::EXDEV));
    assert!(open(c"root", libc::O_RDONLY, 0, in_root).is_ok());
    assert!(open(c"up", libc::O_RDONLY, 0, in_root).is_ok());
    assert!(open(c"../../f", libc::O_RDONLY, 0, in_root).is_ok());
    assert_eq!(open(c"in", libc::O_RDONLY, 0, libc::RESOLVE_NO_SYMLINKS), Err(libc::ELOOP));
    assert_eq!(open(c"/proc/self/exe", libc::O_RDONLY, 0, libc::RESOLVE_NO_MAGICLINKS), Err(libc::ELOOP));
    assert_eq!(open(c"/proc/self", libc::O_PATH, 0, libc::RESOLVE_NO_XDEV), Err(libc::EXDEV));
    assert_eq!(open(c"f", libc::O_RDONLY, 0o600, 0), Err(libc::EINVAL));
    assert_eq!(open(c"n", libc::O_CREAT | libc::O_RDWR, 0o10_0000, 0), Err(libc::EINVAL));
    assert_eq!(open(c"f", libc::O_RDONLY, 0, 1 << 40), Err(libc::EINVAL));
    assert_eq!(open(c"f", libc::O_RDONLY, 0, beneath | in_root), Err(libc::EINVAL));
    let how = [0_u64, 0, 0, 1];
    assert_eq!(sys!(openat2, dir, c"f".as_ptr(), how.as_ptr(), 32), Err(libc::E2BIG));
    assert_eq!(sys!(openat2, dir, c"f".as_ptr(), how.as_ptr(), 16), Err(libc::EINVAL));
    close(dir);
}

#[test]
fn unnamed_files_get_a_name_later() {
    let scratch = Scratch::new("tmpfile");
    let dir = open_dir(&scratch);
    let file = open_at(dir, c".", libc::O_TMPFILE | libc::O_RDWR).unwrap();
    assert_eq!(sys!(write, file, b"late".as_ptr(), 4), Ok(4));
    let name = CString::new(format!("/proc/self/fd/{file}")).unwrap();
    assert_eq!(sys!(linkat, CWD, name.as_ptr(), dir, c"named".as_ptr(), libc::AT_SYMLINK_FOLLOW), Ok(0));
    assert_eq!(std::fs::read(scratch.path("named")).unwrap(), b"late");
    assert_eq!(open_at(dir, c".", libc::O_TMPFILE | libc::O_RDONLY), Err(libc::EINVAL));
    close(file);
    close(dir);
}

#[test]
fn nodes_are_made() {
    let scratch = Scratch::new("nodes");
    let at = |name: &str| scratch.c_path(name);
    let mode = |name: &str| {
        std::os::unix::fs::MetadataExt::mode(&std::fs::symlink_metadata(scratch.path(name)).unwrap()) & libc::S_IFMT
    };
    assert_eq!(sys!(mknod, at("file").as_ptr(), libc::S_IFREG | 0o644, 0), Ok(0));
    assert_eq!(mode("file"), libc::S_IFREG);
    assert_eq!(sys!(mknod, at("zero").as_ptr(), 0o644, 0), Ok(0));
    assert_eq!(sys!(mknodat, CWD, at("fifo").as_ptr(), libc::S_IFIFO | 0o644, 0), Ok(0));
    assert_eq!(mode("fifo"), libc::S_IFIFO);
    assert_eq!(sys!(mknod, at("fifo").as_ptr(), libc::S_IFIFO | 0o644, 0), Err(libc::EEXIST));
    assert_eq!(sys!(mknod, at("dir").as_ptr(), libc::S_IFDIR | 0o755, 0), Err(libc::EPERM));
    assert_eq!(sys!(mknod, at("socket").as_ptr(), libc::S_IFSOCK | 0o644, 0), Ok(0));
    assert_eq!(mode("socket"), libc::S_IFSOCK);
    assert_eq!(open_at(CWD.into(), &at("socket"), libc::O_RDONLY), Err(libc::ENXIO));
}

#[test]
fn named_pipes_meet() {
    let scratch = Scratch::new("fifo");
    let path = scratch.c_path("p");
    assert_eq!(sys!(mknod, path.as_ptr(), libc::S_IFIFO | 0o644, 0), Ok(0));
    let open = |flags| open_at(CWD.into(), &path, flags);
    assert_eq!(open(libc::O_WRONLY | libc::O_NONBLOCK), Err(libc::ENXIO));
    let waiting = open(libc::O_RDONLY | libc::O_NONBLOCK).unwrap();
    let mut buffer = [0_u8; 8];
    assert_eq!(sys!(read, waiting, buffer.as_mut_ptr(), 8), Ok(0));
    close(waiting);
    let writer = casemate_guest_tests::child(|| {
        let fd = open(libc::O_WRONLY).unwrap_or(-1);
        steps(&[sys!(write, fd, b"hello".as_ptr(), 5) == Ok(5)])
    });
    let reader = open(libc::O_RDONLY).unwrap();
    assert_eq!(sys!(read, reader, buffer.as_mut_ptr(), 8), Ok(5));
    assert_eq!(sys!(read, reader, buffer.as_mut_ptr(), 8), Ok(0));
    assert_eq!(casemate_guest_tests::wait_status(writer), 0);
    assert_eq!(sys!(lseek, reader, 0, 0), Err(libc::ESPIPE));
    close(reader);
}

#[test]
fn directories_are_entered_by_descriptor() {
    let scratch = Scratch::new("fchdir");
    std::fs::write(scratch.path("f"), b"").unwrap();
    let dir = open_dir(&scratch);
    let file = open_at(dir, c"f", libc::O_RDONLY).unwrap();
    in_child(|| {
        let mut buffer = [0_u8; 4096];
        let moved = sys!(fchdir, dir);
        let n = sys!(getcwd, buffer.as_mut_ptr(), 4096).unwrap_or(1);
        let shown = &buffer[..usize::try_from(n).unwrap_or(1) - 1];
        let expected = scratch.0.canonicalize().unwrap();
        steps(&[
            moved == Ok(0),
            shown == expected.as_os_str().as_encoded_bytes(),
            sys!(fchdir, file) == Err(libc::ENOTDIR),
            sys!(fchdir, 9999) == Err(libc::EBADF),
            sys!(chdir, c"f".as_ptr()) == Err(libc::ENOTDIR),
            sys!(chdir, c"absent".as_ptr()) == Err(libc::ENOENT),
            sys!(chdir, c"..".as_ptr()) == Ok(0),
        ])
    });
    close(file);
    close(dir);
}

#[test]
fn a_changed_root_is_the_root() {
    let scratch = Scratch::new("chroot");
    std::fs::create_dir(scratch.path("d")).unwrap();
    std::fs::write(scratch.path("d/here"), b"").unwrap();
    let path = scratch.c_path("d");
    let expected = if is_root() { Ok(0) } else { Err(libc::EPERM) };
    in_child(|| {
        if sys!(chroot, path.as_ptr()) != expected {
            return 99;
        }
        if expected.is_err() {
            return 0;
        }
        let mut buffer = [0_u8; 64];
        steps(&[
            open_at(CWD.into(), c"/here", libc::O_RDONLY).is_ok(),
            open_at(CWD.into(), c"/../here", libc::O_RDONLY).is_ok(),
            open_at(CWD.into(), c"/etc/passwd", libc::O_RDONLY) == Err(libc::ENOENT),
            // The working directory is still outside: getcwd says so.
            sys!(getcwd, buffer.as_mut_ptr(), 64).is_ok() && buffer.starts_with(b"(unreachable)/"),
            sys!(chdir, c"/".as_ptr()) == Ok(0),
            sys!(getcwd, buffer.as_mut_ptr(), 64) == Ok(2),
            sys!(chroot, c"/here".as_ptr()) == Err(libc::ENOTDIR),
        ])
    });
}

#[test]
fn extended_attributes_are_kept() {
    let scratch = Scratch::new("xattr");
    std::fs::write(scratch.path("f"), b"").unwrap();
    std::os::unix::fs::symlink("f", scratch.path("l")).unwrap();
    let (path, link) = (scratch.c_path("f"), scratch.c_path("l"));
    let fd = open_at(CWD.into(), &path, libc::O_RDWR).unwrap();
    let (one, two) = (c"user.one", c"user.two");
    let (create, replace) = (libc::XATTR_CREATE, libc::XATTR_REPLACE);
    assert_eq!(sys!(setxattr, path.as_ptr(), one.as_ptr(), b"11".as_ptr(), 2, replace), Err(libc::ENODATA));
    assert_eq!(sys!(setxattr, path.as_ptr(), one.as_ptr(), b"11".as_ptr(), 2, create), Ok(0));
    assert_eq!(sys!(setxattr, path.as_ptr(), one.as_ptr(), b"11".as_ptr(), 2, create), Err(libc::EEXIST));
    assert_eq!(sys!(fsetxattr, fd, two.as_ptr(), b"222".as_ptr(), 3, 0), Ok(0));
    assert_eq!(sys!(setxattr, path.as_ptr(), one.as_ptr(), b"1".as_ptr(), 1, 4), Err(libc::EINVAL));
    let mut value = [0_u8; 64];
    assert_eq!(sys!(getxattr, link.as_ptr(), one.as_ptr(), value.as_mut_ptr(), 64), Ok(2));
    assert_eq!(&value[..2], b"11");
    assert_eq!(sys!(fgetxattr, fd, two.as_ptr(), value.as_mut_ptr(), 64), Ok(3));
    assert_eq!(sys!(getxattr, path.as_ptr(), two.as_ptr(), 0, 0), Ok(3));
    assert_eq!(sys!(getxattr, path.as_ptr(), two.as_ptr(), value.as_mut_ptr(), 2), Err(libc::ERANGE));
    assert_eq!(sys!(getxattr, path.as_ptr(), c"user.no".as_ptr(), 0, 0), Err(libc::ENODATA));
    assert_eq!(sys!(getxattr, path.as_ptr(), c"none.such".as_ptr(), 0, 0), Err(libc::EOPNOTSUPP));
    assert_eq!(sys!(lgetxattr, link.as_ptr(), one.as_ptr(), 0, 0), Err(libc::ENODATA));
    // User attributes are for files and directories alone.
    assert_eq!(sys!(lsetxattr, link.as_ptr(), one.as_ptr(), b"1".as_ptr(), 1, 0), Err(libc::EPERM));
    let names = |call: &dyn Fn(*mut u8, usize) -> Result<i64, i32>| {
        let mut list = [0_u8; 256];
        let got = usize::try_from(call(list.as_mut_ptr(), 256).unwrap()).unwrap();
        let text = list[..got].split(|&b| b == 0).map(|name| String::from_utf8_lossy(name).into_owned());
        let mut names: Vec<String> = text.filter(|name| name.starts_with("user.")).collect();
        names.sort();
        names
    };
    assert_eq!(names(&|at, len| sys!(listxattr, path.as_ptr(), at, len)), ["user.one", "user.two"]);
    assert_eq!(names(&|at, len| sys!(flistxattr, fd, at, len)), ["user.one", "user.two"]);
    assert!(names(&|at, len| sys!(llistxattr, link.as_ptr(), at, len)).is_empty());
    assert_eq!(sys!(listxattr, path.as_ptr(), value.as_mut_ptr(), 3), Err(libc::ERANGE));
    assert_eq!(sys!(removexattr, path.as_ptr(), one.as_ptr()), Ok(0));
    assert_eq!(sys!(removexattr, path.as_ptr(), one.as_ptr()), Err(libc::ENODATA));
    assert_eq!(sys!(fremovexattr, fd, two.as_ptr()), Ok(0));
    assert_eq!(sys!(lremovexattr, path.as_ptr(), two.as_ptr()), Err(libc::ENODATA));
    assert!(names(&|at, len| sys!(listxattr, path.as_ptr(), at, len)).is_empty());
    close(fd);
}
