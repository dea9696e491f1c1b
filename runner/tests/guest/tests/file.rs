//! Files, directories, links, metadata.

use std::ffi::CStr;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use casemate_guest_tests::{Scratch, in_child, sys};

fn open(path: &CStr, flags: i32) -> Result<i64, i32> {
    sys!(openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o644)
}

#[test]
fn files_are_written_read_and_sought() {
    let scratch = Scratch::new("rw");
    let path = scratch.path("f");
    let mut file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all(b"hello world").unwrap();
    file.seek(std::io::SeekFrom::Start(6)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "world");
    file.write_at(b"HE", 0).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"HEllo world");
    file.set_len(3).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"HEl");
    file.set_len(6).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"HEl\0\0\0");
    assert_eq!(sys!(lseek, file.as_raw_fd(), -1_i64, libc::SEEK_SET), Err(libc::EINVAL));
    assert_eq!(sys!(lseek, file.as_raw_fd(), 0, libc::SEEK_END), Ok(6));
    assert_eq!(sys!(lseek, file.as_raw_fd(), 0, 77), Err(libc::EINVAL));
}

#[test]
fn appending_writes_at_the_end() {
    let scratch = Scratch::new("append");
    let path = scratch.path("f");
    std::fs::write(&path, b"one").unwrap();
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    file.write_all(b"two").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"onetwo");
}

#[test]
fn vectors_read_and_write() {
    let scratch = Scratch::new("vec");
    let fd = open(&scratch.c_path("f"), libc::O_RDWR | libc::O_CREAT).unwrap();
    let vector = |buffer: &[u8]| libc::iovec { iov_base: buffer.as_ptr().cast_mut().cast(), iov_len: buffer.len() };
    let out = [vector(b"abc"), vector(b""), vector(b"defg")];
    assert_eq!(sys!(writev, fd, out.as_ptr(), 3), Ok(7));
    let (mut first, mut second) = ([0_u8; 2], [0_u8; 9]);
    let room = |buffer: &mut [u8]| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let back = [room(&mut first), room(&mut second)];
    assert_eq!(sys!(preadv, fd, back.as_ptr(), 2, 1, 0), Ok(6));
    assert_eq!((first, second), (*b"bc", *b"defg\0\0\0\0\0"));
    assert_eq!(sys!(writev, fd, out.as_ptr(), 1025), Err(libc::EINVAL));
    assert_eq!(sys!(writev, fd, out.as_ptr(), -1_i64), Err(libc::EINVAL));
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn open_flags_and_errors() {
    let scratch = Scratch::new("open");
    let (file, dir) = (scratch.c_path("f"), scratch.c_path("."));
    assert_eq!(open(&file, libc::O_RDONLY), Err(libc::ENOENT));
    let fd = open(&file, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY).unwrap();
    assert_eq!(open(&file, libc::O_CREAT | libc::O_EXCL), Err(libc::EEXIST));
    assert_eq!(sys!(read, fd, 0, 0), Err(libc::EBADF));
    assert_eq!(open(&dir, libc::O_WRONLY), Err(libc::EISDIR));
    assert_eq!(open(&file, libc::O_DIRECTORY), Err(libc::ENOTDIR));
    assert_eq!(open(&scratch.c_path("f/x"), libc::O_RDONLY), Err(libc::ENOTDIR));
    assert_eq!(open(&scratch.c_path("f/"), libc::O_RDONLY), Err(libc::ENOTDIR));
    assert_eq!(open(c"", libc::O_RDONLY), Err(libc::ENOENT));
    let long = std::ffi::CString::new(vec![b'x'; 256]).unwrap();
    assert_eq!(open(&long, libc::O_RDONLY), Err(libc::ENAMETOOLONG));
    assert_eq!(sys!(symlinkat, c"loop".as_ptr(), libc::AT_FDCWD, scratch.c_path("loop").as_ptr()), Ok(0));
    assert_eq!(open(&scratch.c_path("loop"), libc::O_RDONLY), Err(libc::ELOOP));
    assert_eq!(open(&scratch.c_path("loop"), libc::O_NOFOLLOW), Err(libc::ELOOP));
    assert_eq!(sys!(close, fd), Ok(0));
    assert_eq!(sys!(close, fd), Err(libc::EBADF));
    let path_fd = open(&file, libc::O_PATH).unwrap();
    assert_eq!(sys!(read, path_fd, 0, 0), Err(libc::EBADF));
    assert_eq!(sys!(close, path_fd), Ok(0));
    let unnamed = open(&dir, libc::O_TMPFILE | libc::O_RDWR).unwrap();
    assert_eq!(sys!(write, unnamed, b"x".as_ptr(), 1), Ok(1));
    assert_eq!(sys!(close, unnamed), Ok(0));
}

#[test]
fn directories_list_what_is_in_them() {
    let scratch = Scratch::new("dir");
    for name in 0..300 {
        std::fs::write(scratch.path(&format!("file-{name}")), b"").unwrap();
    }
    std::fs::create_dir(scratch.path("sub")).unwrap();
    let mut names: Vec<String> =
        std::fs::read_dir(&scratch.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut expected: Vec<String> = (0..300).map(|name| format!("file-{name}")).chain(["sub".into()]).collect();
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(std::fs::remove_dir(&scratch.0).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    std::fs::remove_dir(scratch.path("sub")).unwrap();
    assert_eq!(std::fs::remove_dir(scratch.path("file-1")).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
}

#[test]
fn names_link_rename_and_unlink() {
    let scratch = Scratch::new("names");
    let at = |name: &str| scratch.path(name);
    std::fs::write(at("a"), b"1").unwrap();
    std::fs::hard_link(at("a"), at("b")).unwrap();
    assert_eq!(std::fs::metadata(at("a")).unwrap().nlink(), 2);
    assert_eq!(std::fs::metadata(at("a")).unwrap().ino(), std::fs::metadata(at("b")).unwrap().ino());
    std::fs::rename(at("b"), at("c")).unwrap();
    std::fs::write(at("d"), b"2").unwrap();
    std::fs::rename(at("d"), at("c")).unwrap();
    assert_eq!(std::fs::metadata(at("a")).unwrap().nlink(), 1);
    assert_eq!(std::fs::read(at("c")).unwrap(), b"2");
    let flags = |flags: u32, from: &str, to: &str| {
        let (from, to) = (scratch.c_path(from), scratch.c_path(to));
        sys!(renameat2, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags)
    };
    assert_eq!(flags(libc::RENAME_NOREPLACE, "a", "c"), Err(libc::EEXIST));
    assert_eq!(flags(libc::RENAME_EXCHANGE, "a", "c"), Ok(0));
    assert_eq!(std::fs::read(at("c")).unwrap(), b"1");
    std::fs::create_dir_all(at("x/y")).unwrap();
    assert_eq!(std::fs::rename(at("x"), at("x/y/z")).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(std::fs::rename(at("a"), at("x")).unwrap_err().raw_os_error(), Some(libc::EISDIR));
    // An unlinked file lives on while it is open.
    let mut file = std::fs::File::options().read(true).write(true).open(at("a")).unwrap();
    std::fs::remove_file(at("a")).unwrap();
    file.write_all(b"still").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert!(!at("a").exists());
}

#[test]
fn symbolic_links_resolve() {
    let scratch = Scratch::new("links");
    std::fs::create_dir(scratch.path("d")).unwrap();
    std::fs::write(scratch.path("d/f"), b"x").unwrap();
    std::os::unix::fs::symlink("d", scratch.path("l")).unwrap();
    std::os::unix::fs::symlink("../d/f", scratch.path("d/up")).unwrap();
    assert_eq!(std::fs::read(scratch.path("l/up")).unwrap(), b"x");
    assert_eq!(std::fs::read_link(scratch.path("l")).unwrap().as_os_str(), "d");
    assert!(scratch.path("l").symlink_metadata().unwrap().file_type().is_symlink());
    std::os::unix::fs::symlink("nowhere", scratch.path("dangling")).unwrap();
    assert_eq!(std::fs::read(scratch.path("dangling")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(scratch.path("l/up").canonicalize().unwrap(), scratch.0.canonicalize().unwrap().join("d/f"));
    let how = [u64::from(libc::O_RDONLY.cast_unsigned()), 0, libc::RESOLVE_NO_SYMLINKS];
    let path = scratch.c_path("l/f");
    assert_eq!(sys!(openat2, libc::AT_FDCWD, path.as_ptr(), how.as_ptr(), 24), Err(libc::ELOOP));
}

#[test]
fn metadata_changes() {
    let scratch = Scratch::new("meta");
    let path = scratch.path("f");
    std::fs::write(&path, vec![1_u8; 5000]).unwrap();
    let before = std::fs::metadata(&path).unwrap();
    assert_eq!((before.size(), before.is_file()), (5000, true));
    assert_eq!(before.mode() & 0o170_000, libc::S_IFREG);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    let times = [1_000_000_i64, 5, 2_000_000, 7];
    let c_path = scratch.c_path("f");
    assert_eq!(sys!(utimensat, libc::AT_FDCWD, c_path.as_ptr(), times.as_ptr(), 0), Ok(0));
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!((after.atime(), after.atime_nsec(), after.mtime(), after.mtime_nsec()), (1_000_000, 5, 2_000_000, 7));
    assert!(after.ctime() >= before.ctime());
    in_child(|| {
        let _ = sys!(umask, 0o077);
        let fd = open(&scratch.c_path("masked"), libc::O_CREAT | libc::O_WRONLY).unwrap();
        let _ = sys!(close, fd);
        i32::from(std::fs::metadata(scratch.path("masked")).unwrap().mode() & 0o777 != 0o600)
    });
}

#[test]
fn stat_forms_agree() {
    let scratch = Scratch::new("stat");
    std::fs::write(scratch.path("f"), b"abc").unwrap();
    let path = scratch.c_path("f");
    // SAFETY: 1. plain data.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: 1. plain data.
    let mut statx: libc::statx = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(newfstatat, libc::AT_FDCWD, path.as_ptr(), &raw mut stat, 0), Ok(0));
    assert_eq!(sys!(statx, libc::AT_FDCWD, path.as_ptr(), 0, 0xfff, &raw mut statx), Ok(0));
    assert_eq!((stat.st_size, stat.st_ino, stat.st_mode), (3, statx.stx_ino, u32::from(statx.stx_mode)));
    assert_eq!(statx.stx_size, 3);
    assert_eq!(sys!(newfstatat, libc::AT_FDCWD, path.as_ptr(), 16, 0), Err(libc::EFAULT));
    assert_eq!(sys!(newfstatat, libc::AT_FDCWD, path.as_ptr(), &raw mut stat, 0x8000_0000_u64), Err(libc::EINVAL));
    assert_eq!(sys!(newfstatat, 0, c"".as_ptr(), &raw mut stat, libc::AT_EMPTY_PATH), Ok(0));
}

#[test]
fn working_directory_moves() {
    in_child(|| {
        let scratch = Scratch::new("cwd");
        let mut buffer = [0_u8; 4096];
        if std::env::set_current_dir(&scratch.0).is_err() {
            return 1;
        }
        let n = sys!(getcwd, buffer.as_mut_ptr(), buffer.len()).unwrap();
        let shown = &buffer[..usize::try_from(n).unwrap() - 1];
        if shown != scratch.0.canonicalize().unwrap().as_os_str().as_encoded_bytes() {
            return 2;
        }
        if sys!(getcwd, buffer.as_mut_ptr(), 2) != Err(libc::ERANGE) {
            return 3;
        }
        std::fs::write("here", b"x").unwrap();
        i32::from(!scratch.path("here").exists())
    });
}

#[test]
fn devices_behave() {
    let mut zeros = [1_u8; 64];
    std::fs::File::open("/dev/zero").unwrap().read_exact(&mut zeros).unwrap();
    assert_eq!(zeros, [0; 64]);
    assert_eq!(std::fs::read("/dev/null").unwrap(), b"");
    std::fs::write("/dev/null", b"gone").unwrap();
    let full = std::fs::write("/dev/full", b"x").unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let mut noise = [0_u8; 64];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    assert_ne!(noise, [0; 64]);
    assert_eq!(sys!(getrandom, noise.as_mut_ptr(), 64, 0), Ok(64));
    assert_eq!(sys!(getrandom, noise.as_mut_ptr(), 64, 0x100), Err(libc::EINVAL));
}

#[test]
fn holes_and_data_are_found() {
    let scratch = Scratch::new("holes");
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(scratch.path("f")).unwrap();
    file.write_at(b"x", 1 << 20).unwrap();
    let fd = file.as_raw_fd();
    assert_eq!(sys!(lseek, fd, 0, libc::SEEK_DATA), Ok(1 << 20));
    assert_eq!(sys!(lseek, fd, 0, libc::SEEK_HOLE), Ok(0));
    assert_eq!(sys!(lseek, fd, 1 << 21, libc::SEEK_DATA), Err(libc::ENXIO));
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    let (offset, len) = (1 << 20, 4096);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(sys!(fallocate, fd, punch, offset, len), Ok(0));
    assert_eq!(sys!(lseek, fd, 0, libc::SEEK_DATA), Err(libc::ENXIO));
}

#[test]
fn host_files_are_not_changed_from_inside() {
    // The overlay's upper layer takes every change; natively this only writes to a scratch directory.
    let scratch = Scratch::new("overlay");
    let copy = scratch.path("passwd");
    std::fs::copy("/etc/passwd", &copy).unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read("/etc/passwd").unwrap());
    if casemate_guest_tests::inside() && sys!(geteuid) == Ok(0) {
        let before = std::fs::read("/etc/passwd").unwrap();
        let mut file = std::fs::File::options().append(true).open("/etc/passwd").unwrap();
        file.write_all(b"x:x:1:1::/:/bin/sh\n").unwrap();
        assert_eq!(std::fs::read("/etc/passwd").unwrap().len(), before.len() + 19);
        std::fs::rename("/etc/hostname", "/etc/hostname.moved").unwrap();
        assert!(!std::path::Path::new("/etc/hostname").exists());
        std::fs::rename("/etc/hostname.moved", "/etc/hostname").unwrap();
        std::fs::remove_file("/etc/debian_version").unwrap();
        assert!(!std::fs::read_dir("/etc").unwrap().any(|e| e.unwrap().file_name() == "debian_version"));
    }
}

#[test]
fn locks_exclude_other_descriptions() {
    let scratch = Scratch::new("flock");
    let path = scratch.c_path("f");
    let first = open(&path, libc::O_CREAT | libc::O_RDWR).unwrap();
    let second = open(&path, libc::O_RDWR).unwrap();
    assert_eq!(sys!(flock, first, libc::LOCK_EX), Ok(0));
    assert_eq!(sys!(flock, second, libc::LOCK_EX | libc::LOCK_NB), Err(libc::EWOULDBLOCK));
    assert_eq!(sys!(flock, first, libc::LOCK_UN), Ok(0));
    assert_eq!(sys!(flock, second, libc::LOCK_EX | libc::LOCK_NB), Ok(0));
    for fd in [first, second] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}
