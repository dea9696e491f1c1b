//! Attributes of files: modes, owners, access checks, times, lengths, and what a file system says of itself.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use casemate_guest_tests::{Scratch, in_child, is_root, steps, sys};

const CWD: i32 = libc::AT_FDCWD;

/// Becomes an ordinary user without groups, in a child of root.
fn drop_to(uid: u32) -> bool {
    sys!(setgroups, 0, 0) == Ok(0) && sys!(setresgid, uid, uid, uid) == Ok(0) && sys!(setresuid, uid, uid, uid) == Ok(0)
}

fn stat_zeroed() -> libc::stat {
    // SAFETY: 1. plain data.
    unsafe { std::mem::zeroed() }
}

#[test]
fn stat_in_its_old_forms() {
    let scratch = Scratch::new("old-stat");
    std::fs::write(scratch.path("f"), b"abcd").unwrap();
    std::os::unix::fs::symlink("f", scratch.path("l")).unwrap();
    let mut stat = stat_zeroed();
    assert_eq!(sys!(stat, scratch.c_path("l").as_ptr(), &raw mut stat), Ok(0));
    assert_eq!((stat.st_mode & libc::S_IFMT, stat.st_size, stat.st_nlink), (libc::S_IFREG, 4, 1));
    assert_eq!(sys!(lstat, scratch.c_path("l").as_ptr(), &raw mut stat), Ok(0));
    assert_eq!((stat.st_mode & libc::S_IFMT, stat.st_size), (libc::S_IFLNK, 1));
    let fd = sys!(open, scratch.c_path("f").as_ptr(), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys!(fstat, fd, &raw mut stat), Ok(0));
    assert_eq!(stat.st_size, 4);
    assert_eq!(sys!(stat, scratch.c_path("none").as_ptr(), &raw mut stat), Err(libc::ENOENT));
    assert_eq!(sys!(fstat, 9999, &raw mut stat), Err(libc::EBADF));
    assert_eq!(sys!(fstat, fd, 16), Err(libc::EFAULT));
    let (read, write) = casemate_guest_tests::pipe(0);
    assert_eq!(sys!(fstat, read, &raw mut stat), Ok(0));
    assert_eq!(stat.st_mode & libc::S_IFMT, libc::S_IFIFO);
    for fd in [fd, i64::from(read), i64::from(write)] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
    assert_eq!(sys!(stat, c"/dev/null".as_ptr(), &raw mut stat), Ok(0));
    assert_eq!((stat.st_mode & libc::S_IFMT, stat.st_rdev), (libc::S_IFCHR, libc::makedev(1, 3)));
}

#[test]
fn modes_change_in_every_form() {
    let scratch = Scratch::new("modes");
    std::fs::write(scratch.path("f"), b"").unwrap();
    std::os::unix::fs::symlink("f", scratch.path("l")).unwrap();
    let path = scratch.c_path("f");
    let mode = || std::fs::metadata(scratch.path("f")).unwrap().mode() & 0o7777;
    let fd = sys!(open, path.as_ptr(), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys!(fchmod, fd, 0o4711), Ok(0));
    assert_eq!(mode(), 0o4711);
    assert_eq!(sys!(fchmodat, CWD, path.as_ptr(), 0o600), Ok(0));
    assert_eq!(mode(), 0o600);
    assert_eq!(sys!(chmod, scratch.c_path("l").as_ptr(), 0o601), Ok(0));
    assert_eq!(mode(), 0o601);
    assert_eq!(sys!(fchmodat2, CWD, path.as_ptr(), 0o602, libc::AT_SYMLINK_NOFOLLOW), Ok(0));
    assert_eq!(mode(), 0o602);
    let nofollow = sys!(fchmodat2, CWD, scratch.c_path("l").as_ptr(), 0o602, libc::AT_SYMLINK_NOFOLLOW);
    assert_eq!(nofollow, Err(libc::EOPNOTSUPP));
    assert_eq!(sys!(fchmodat2, fd, c"".as_ptr(), 0o603, libc::AT_EMPTY_PATH), Ok(0));
    assert_eq!(mode(), 0o603);
    assert_eq!(sys!(fchmodat2, CWD, path.as_ptr(), 0o602, 1), Err(libc::EINVAL));
    assert_eq!(sys!(fchmod, 9999, 0o600), Err(libc::EBADF));
    assert_eq!(sys!(fchmodat, CWD, scratch.c_path("none").as_ptr(), 0o600), Err(libc::ENOENT));
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn owners_change_by_the_rules() {
    let scratch = Scratch::new("owners");
    std::fs::write(scratch.path("f"), b"").unwrap();
    std::os::unix::fs::symlink("f", scratch.path("l")).unwrap();
    let (path, link) = (scratch.c_path("f"), scratch.c_path("l"));
    let fd = sys!(open, path.as_ptr(), libc::O_RDONLY, 0).unwrap();
    let owner = |name: &str| {
        let meta = std::fs::symlink_metadata(scratch.path(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    let before = owner("f");
    // Nothing to change is allowed to the owner.
    assert_eq!(sys!(chown, path.as_ptr(), -1_i64, -1_i64), Ok(0));
    assert_eq!(sys!(fchown, 9999, 0, 0), Err(libc::EBADF));
    assert_eq!(sys!(fchownat, CWD, path.as_ptr(), -1_i64, -1_i64, 1), Err(libc::EINVAL));
    if !is_root() {
        assert_eq!(sys!(chown, path.as_ptr(), before.0 + 1, -1_i64), Err(libc::EPERM));
        assert_eq!(sys!(close, fd), Ok(0));
        return;
    }
    assert_eq!(sys!(chmod, path.as_ptr(), 0o6755), Ok(0));
    assert_eq!(sys!(chown, link.as_ptr(), 11, 12), Ok(0));
    assert_eq!((owner("f"), owner("l")), ((11, 12), before));
    // The set-id bits go when the owner changes.
    assert_eq!(std::fs::metadata(scratch.path("f")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(sys!(lchown, link.as_ptr(), 13, -1_i64), Ok(0));
    assert_eq!((owner("f"), owner("l")), ((11, 12), (13, before.1)));
    assert_eq!(sys!(fchown, fd, -1_i64, 14), Ok(0));
    assert_eq!(owner("f"), (11, 14));
    assert_eq!(sys!(fchownat, CWD, link.as_ptr(), 15, 15, libc::AT_SYMLINK_NOFOLLOW), Ok(0));
    assert_eq!(sys!(fchownat, fd, c"".as_ptr(), 16, 16, libc::AT_EMPTY_PATH), Ok(0));
    assert_eq!((owner("f"), owner("l")), ((16, 16), (15, 15)));
    std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o777)).unwrap();
    in_child(|| {
        steps(&[
            drop_to(16),
            sys!(chown, path.as_ptr(), 17, -1_i64) == Err(libc::EPERM),
            sys!(chown, path.as_ptr(), -1_i64, 17) == Err(libc::EPERM),
            sys!(chown, path.as_ptr(), 16, 16) == Ok(0),
            sys!(chmod, path.as_ptr(), 0o2640) == Ok(0),
            sys!(lchown, link.as_ptr(), 16, 16) == Err(libc::EPERM),
        ])
    });
    in_child(|| {
        steps(&[
            drop_to(17),
            sys!(chmod, path.as_ptr(), 0o600) == Err(libc::EPERM),
            sys!(open, path.as_ptr(), libc::O_RDONLY, 0) == Err(libc::EACCES),
            sys!(utimensat, CWD, path.as_ptr(), 0, 0) == Err(libc::EACCES),
        ])
    });
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn sticky_directories_protect_names() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("sticky");
    std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::write(scratch.path("f"), b"").unwrap();
    std::fs::create_dir(scratch.path("closed")).unwrap();
    std::fs::set_permissions(scratch.path("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::create_dir(scratch.path("readable")).unwrap();
    std::fs::set_permissions(scratch.path("readable"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| scratch.c_path(name);
    in_child(|| {
        steps(&[
            drop_to(1000),
            sys!(unlink, at("f").as_ptr()) == Err(libc::EPERM),
            sys!(rename, at("f").as_ptr(), at("g").as_ptr()) == Err(libc::EPERM),
            sys!(mkdir, at("mine").as_ptr(), 0o777) == Ok(0),
            sys!(rmdir, at("mine").as_ptr()) == Ok(0),
            sys!(open, at("closed/x").as_ptr(), libc::O_RDONLY, 0) == Err(libc::EACCES),
            sys!(mkdir, at("readable/x").as_ptr(), 0o777) == Err(libc::EACCES),
            sys!(chdir, at("closed").as_ptr()) == Err(libc::EACCES),
            sys!(open, at("closed").as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY, 0) == Err(libc::EACCES),
        ])
    });
}

#[test]
fn directories_pass_their_group_on() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("setgid");
    let path = scratch.c_path(".");
    assert_eq!(sys!(chown, path.as_ptr(), -1_i64, 77), Ok(0));
    assert_eq!(sys!(chmod, path.as_ptr(), 0o2755), Ok(0));
    std::fs::write(scratch.path("f"), b"").unwrap();
    std::fs::create_dir(scratch.path("d")).unwrap();
    let (file, dir) = (std::fs::metadata(scratch.path("f")).unwrap(), std::fs::metadata(scratch.path("d")).unwrap());
    assert_eq!((file.gid(), dir.gid(), dir.mode() & 0o2000), (77, 77, 0o2000));
}

#[test]
fn access_is_checked_for_the_real_ids() {
    let scratch = Scratch::new("access");
    std::fs::write(scratch.path("f"), b"").unwrap();
    std::fs::set_permissions(scratch.path("f"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("absent", scratch.path("l")).unwrap();
    let path = scratch.c_path("f");
    let (r, w, x) = (libc::R_OK, libc::W_OK, libc::X_OK);
    assert_eq!(sys!(access, path.as_ptr(), libc::F_OK), Ok(0));
    assert_eq!(sys!(access, path.as_ptr(), r | w), Ok(0));
    // Even root runs only what somebody may run.
    assert_eq!(sys!(access, path.as_ptr(), x), Err(libc::EACCES));
    assert_eq!(sys!(access, path.as_ptr(), 8), Err(libc::EINVAL));
    assert_eq!(sys!(access, scratch.c_path("none").as_ptr(), libc::F_OK), Err(libc::ENOENT));
    assert_eq!(sys!(faccessat, CWD, path.as_ptr(), r), Ok(0));
    assert_eq!(sys!(faccessat2, CWD, path.as_ptr(), r, libc::AT_EACCESS), Ok(0));
    assert_eq!(sys!(faccessat2, CWD, path.as_ptr(), r, 1), Err(libc::EINVAL));
    let link = scratch.c_path("l");
    assert_eq!(sys!(faccessat, CWD, link.as_ptr(), libc::F_OK), Err(libc::ENOENT));
    assert_eq!(sys!(faccessat2, CWD, link.as_ptr(), libc::F_OK, libc::AT_SYMLINK_NOFOLLOW), Ok(0));
    let fd = sys!(open, path.as_ptr(), libc::O_PATH, 0).unwrap();
    assert_eq!(sys!(faccessat2, fd, c"".as_ptr(), r, libc::AT_EMPTY_PATH), Ok(0));
    assert_eq!(sys!(close, fd), Ok(0));
    if is_root() {
        std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o755)).unwrap();
        in_child(|| {
            // Effective root, real user: access asks for the real one.
            steps(&[
                sys!(setresgid, 1000, 1000, 0) == Ok(0),
                sys!(setresuid, 1000, 0, 0) == Ok(0),
                sys!(access, path.as_ptr(), r) == Err(libc::EACCES),
                sys!(faccessat2, CWD, path.as_ptr(), r, libc::AT_EACCESS) == Ok(0),
                sys!(access, path.as_ptr(), libc::F_OK) == Ok(0),
            ])
        });
    }
}

#[test]
fn times_are_set_in_every_form() {
    let scratch = Scratch::new("times");
    std::fs::write(scratch.path("f"), b"").unwrap();
    std::os::unix::fs::symlink("f", scratch.path("l")).unwrap();
    let (path, link) = (scratch.c_path("f"), scratch.c_path("l"));
    let times = |name: &str| {
        let meta = std::fs::symlink_metadata(scratch.path(name)).unwrap();
        (meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(sys!(utime, path.as_ptr(), [10_i64, 20].as_ptr()), Ok(0));
    assert_eq!(times("f"), (10, 0, 20, 0));
    assert_eq!(sys!(utimes, path.as_ptr(), [11_i64, 5, 21, 6].as_ptr()), Ok(0));
    assert_eq!(times("f"), (11, 5000, 21, 6000));
    assert_eq!(sys!(utimes, path.as_ptr(), [11_i64, 1_000_000, 21, 6].as_ptr()), Err(libc::EINVAL));
    assert_eq!(sys!(futimesat, CWD, link.as_ptr(), [12_i64, 5, 22, 6].as_ptr()), Ok(0));
    assert_eq!(times("f"), (12, 5000, 22, 6000));
    let omit_atime = [0_i64, libc::UTIME_OMIT, 23, 7];
    assert_eq!(sys!(utimensat, CWD, path.as_ptr(), omit_atime.as_ptr(), 0), Ok(0));
    assert_eq!(times("f"), (12, 5000, 23, 7));
    let both = [30_i64, 1, 31, 2];
    assert_eq!(sys!(utimensat, CWD, link.as_ptr(), both.as_ptr(), libc::AT_SYMLINK_NOFOLLOW), Ok(0));
    assert_eq!((times("l"), times("f")), ((30, 1, 31, 2), (12, 5000, 23, 7)));
    let fd = sys!(open, path.as_ptr(), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys!(utimensat, fd, 0, both.as_ptr(), 0), Ok(0));
    assert_eq!(times("f"), (30, 1, 31, 2));
    let now = [0_i64, libc::UTIME_NOW, 0, libc::UTIME_NOW];
    assert_eq!(sys!(utimensat, fd, 0, now.as_ptr(), 0), Ok(0));
    assert!(times("f").0 > 1_000_000_000 && times("f").0 == times("f").2);
    assert_eq!(sys!(utime, path.as_ptr(), 0), Ok(0));
    let bad = [0_i64, 1_000_000_000, 0, 0];
    assert_eq!(sys!(utimensat, CWD, path.as_ptr(), bad.as_ptr(), 0), Err(libc::EINVAL));
    assert_eq!(sys!(utimensat, CWD, path.as_ptr(), both.as_ptr(), 1), Err(libc::EINVAL));
    assert_eq!(sys!(utimensat, CWD, 0, both.as_ptr(), 0), Err(libc::EFAULT));
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn changes_move_the_times() {
    let scratch = Scratch::new("times-move");
    let path = scratch.c_path("f");
    let old = [5_i64, 0, 5, 0];
    let fd = sys!(open, path.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o644).unwrap();
    let reset = || assert_eq!(sys!(utimensat, fd, 0, old.as_ptr(), 0), Ok(0));
    let mtime = || std::fs::metadata(scratch.path("f")).unwrap().mtime();
    reset();
    assert_eq!(sys!(write, fd, b"abc".as_ptr(), 3), Ok(3));
    assert!(mtime() > 5);
    reset();
    assert_eq!(sys!(fchmod, fd, 0o600), Ok(0));
    assert_eq!(mtime(), 5);
    assert!(std::fs::metadata(scratch.path("f")).unwrap().ctime() > 5);
    assert_eq!(sys!(ftruncate, fd, 1), Ok(0));
    assert!(mtime() > 5);
    let dir = scratch.c_path(".");
    assert_eq!(sys!(utimensat, CWD, dir.as_ptr(), old.as_ptr(), 0), Ok(0));
    std::fs::write(scratch.path("new"), b"").unwrap();
    assert!(std::fs::metadata(&scratch.0).unwrap().mtime() > 5);
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn lengths_change() {
    let scratch = Scratch::new("truncate");
    std::fs::write(scratch.path("f"), vec![7_u8; 10_000]).unwrap();
    let path = scratch.c_path("f");
    assert_eq!(sys!(truncate, path.as_ptr(), 5000), Ok(0));
    assert_eq!(std::fs::read(scratch.path("f")).unwrap(), vec![7_u8; 5000]);
    assert_eq!(sys!(truncate, path.as_ptr(), 9000), Ok(0));
    let back = std::fs::read(scratch.path("f")).unwrap();
    assert!(back.len() == 9000 && back[..5000].iter().all(|&b| b == 7) && back[5000..].iter().all(|&b| b == 0));
    assert_eq!(sys!(truncate, path.as_ptr(), -1_i64), Err(libc::EINVAL));
    assert_eq!(sys!(truncate, scratch.c_path(".").as_ptr(), 0), Err(libc::EISDIR));
    assert_eq!(sys!(truncate, scratch.c_path("none").as_ptr(), 0), Err(libc::ENOENT));
    let read_only = sys!(open, path.as_ptr(), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys!(ftruncate, read_only, 0), Err(libc::EINVAL));
    assert_eq!(sys!(close, read_only), Ok(0));
    let (read, write) = casemate_guest_tests::pipe(0);
    assert_eq!(sys!(ftruncate, write, 0), Err(libc::EINVAL));
    for fd in [read, write] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn file_systems_describe_themselves() {
    let scratch = Scratch::new("statfs");
    // SAFETY: 1. plain data.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: 1. plain data.
    let mut by_fd: libc::statfs = unsafe { std::mem::zeroed() };
    let fd = sys!(open, scratch.c_path(".").as_ptr(), libc::O_RDONLY, 0).unwrap();
    // An overlay counts what is used below as its own, and others may change that between two looks: one pair must agree.
    let agree = (0..100).any(|_| {
        assert_eq!(sys!(statfs, scratch.c_path(".").as_ptr(), &raw mut stat), Ok(0));
        assert!(stat.f_bsize > 0 && stat.f_namelen == 255 && stat.f_bfree <= stat.f_blocks);
        assert_eq!(sys!(fstatfs, fd, &raw mut by_fd), Ok(0));
        assert_eq!((stat.f_type, stat.f_bsize), (by_fd.f_type, by_fd.f_bsize));
        stat.f_blocks == by_fd.f_blocks
    });
    assert!(agree, "{} and {} blocks", stat.f_blocks, by_fd.f_blocks);
    assert_eq!(sys!(statfs, c"/proc/self".as_ptr(), &raw mut stat), Ok(0));
    assert_eq!(stat.f_type, libc::PROC_SUPER_MAGIC);
    let (read, write) = casemate_guest_tests::pipe(0);
    assert_eq!(sys!(fstatfs, read, &raw mut stat), Ok(0));
    assert_eq!(stat.f_type, 0x5049_5045);
    assert_eq!(sys!(fstatfs, 9999, &raw mut stat), Err(libc::EBADF));
    assert_eq!(sys!(statfs, scratch.c_path("none").as_ptr(), &raw mut stat), Err(libc::ENOENT));
    for fd in [i64::from(read), i64::from(write), fd] {
        assert_eq!(sys!(close, fd), Ok(0));
    }
}

#[test]
fn the_creation_mask_is_per_process() {
    let scratch = Scratch::new("umask");
    in_child(|| {
        let first = sys!(umask, 0o027).unwrap();
        let made = |path: &std::ffi::CStr| {
            let fd = sys!(open, path.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o777).unwrap_or(-1);
            let _ = sys!(close, fd);
        };
        made(&scratch.c_path("f"));
        let _ = sys!(mkdir, scratch.c_path("d").as_ptr(), 0o777);
        let mode = |name: &str| std::fs::metadata(scratch.path(name)).map_or(0, |meta| meta.mode() & 0o7777);
        steps(&[
            first < 0o1000,
            mode("f") == 0o750,
            mode("d") == 0o750,
            sys!(umask, 0o7777) == Ok(0o027),
            sys!(umask, 0) == Ok(0o777),
        ])
    });
}
