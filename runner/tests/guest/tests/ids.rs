//! Users, groups and capabilities, and the prctl(2) options about them.

use casemate_guest_tests::{Scratch, in_child, is_root, steps, sys};

const KEEP: i64 = -1;

fn uids() -> [u32; 3] {
    let mut all = [99_u32; 3];
    let _ = sys!(getresuid, all.as_mut_ptr(), &raw mut all[1], &raw mut all[2]);
    all
}

fn gids() -> [u32; 3] {
    let mut all = [99_u32; 3];
    let _ = sys!(getresgid, all.as_mut_ptr(), &raw mut all[1], &raw mut all[2]);
    all
}

/// Effective, permitted and inheritable capabilities, capget(2).
fn caps() -> [u64; 3] {
    let mut header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    let _ = sys!(capget, header.as_mut_ptr(), data.as_mut_ptr());
    [0, 1, 2].map(|at| u64::from(data[at]) | u64::from(data[at + 3]) << 32)
}

fn set_caps(effective: u64, permitted: u64, inheritable: u64) -> Result<i64, i32> {
    let header = [0x2008_0522_u32, 0];
    let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap();
    let data = [
        low(effective),
        low(permitted),
        low(inheritable),
        low(effective >> 32),
        low(permitted >> 32),
        low(inheritable >> 32),
    ];
    sys!(capset, header.as_ptr(), data.as_ptr())
}

#[test]
fn group_ids_are_consistent() {
    let gid = sys!(getgid).unwrap();
    assert_eq!(i64::from(gids()[0]), gid);
    assert_eq!(i64::from(gids()[1]), sys!(getegid).unwrap());
    assert_eq!(sys!(setgid, gids()[0]), Ok(0));
    assert_eq!(sys!(setregid, KEEP, KEEP), Ok(0));
    assert_eq!(sys!(getresgid, 16, 16, 16), Err(libc::EFAULT));
}

#[test]
fn user_ids_change_by_the_rules() {
    if !is_root() {
        assert_eq!(sys!(setresuid, 0, KEEP, KEEP), Err(libc::EPERM));
        return;
    }
    in_child(|| {
        steps(&[
            sys!(setresuid, 1000, 2000, 3000) == Ok(0),
            uids() == [1000, 2000, 3000],
            sys!(setresuid, 3000, 1000, KEEP) == Ok(0),
            uids() == [3000, 1000, 3000],
            sys!(setresuid, KEEP, 2000, KEEP) == Err(libc::EPERM),
            sys!(setuid, 2000) == Err(libc::EPERM),
            sys!(setuid, 3000) == Ok(0),
            uids() == [3000, 3000, 3000],
            sys!(setuid, KEEP) == Err(libc::EINVAL),
        ])
    });
    in_child(|| {
        // setreuid: the saved id follows the effective one when the real one is set.
        steps(&[
            sys!(setreuid, 1000, 2000) == Ok(0),
            uids() == [1000, 2000, 2000],
            sys!(setreuid, 2000, 1000) == Ok(0),
            uids() == [2000, 1000, 1000],
            sys!(setreuid, KEEP, 3000) == Err(libc::EPERM),
            sys!(setreuid, KEEP, KEEP) == Ok(0),
        ])
    });
    in_child(|| steps(&[sys!(setuid, 1000) == Ok(0), uids() == [1000; 3], sys!(setuid, 0) == Err(libc::EPERM)]));
}

#[test]
fn group_ids_change_by_the_rules() {
    if !is_root() {
        return;
    }
    in_child(|| {
        steps(&[
            sys!(setresgid, 1000, 2000, 3000) == Ok(0),
            gids() == [1000, 2000, 3000],
            sys!(setregid, KEEP, 1000) == Ok(0),
            gids() == [1000, 1000, 3000],
            sys!(setgid, 5) == Ok(0),
            gids() == [5; 3],
            sys!(setresuid, 1000, 1000, 1000) == Ok(0),
            sys!(setgid, 6) == Err(libc::EPERM),
            sys!(setresgid, 6, KEEP, KEEP) == Err(libc::EPERM),
            sys!(setregid, 6, KEEP) == Err(libc::EPERM),
            sys!(setgid, 5) == Ok(0),
        ])
    });
}

#[test]
fn supplementary_groups_are_set_by_root() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("groups");
    std::fs::write(scratch.path("f"), b"").unwrap();
    let path = scratch.c_path("f");
    assert_eq!(sys!(chown, path.as_ptr(), 5, 21), Ok(0));
    assert_eq!(sys!(chmod, path.as_ptr(), 0o040), Ok(0));
    assert_eq!(sys!(chmod, scratch.c_path(".").as_ptr(), 0o755), Ok(0));
    in_child(|| {
        let groups = [30_u32, 21, 20];
        let mut back = [0_u32; 4];
        steps(&[
            sys!(setgroups, 3, groups.as_ptr()) == Ok(0),
            sys!(getgroups, 0, 0) == Ok(3),
            sys!(getgroups, 2, back.as_mut_ptr()) == Err(libc::EINVAL),
            sys!(getgroups, 4, back.as_mut_ptr()) == Ok(3),
            back == [20, 21, 30, 0] || back == [30, 21, 20, 0],
            sys!(setgroups, 65537, groups.as_ptr()) == Err(libc::EINVAL),
            sys!(setresgid, 1000, 1000, 1000) == Ok(0),
            sys!(setresuid, 1000, 1000, 1000) == Ok(0),
            // The group may read.
            sys!(open, path.as_ptr(), libc::O_RDONLY, 0).is_ok(),
            sys!(open, path.as_ptr(), libc::O_WRONLY, 0) == Err(libc::EACCES),
            sys!(setgroups, 0, 0) == Err(libc::EPERM),
        ])
    });
}

#[test]
fn file_system_ids_decide_about_files() {
    in_child(|| {
        let (uid, gid) = (sys!(geteuid).unwrap(), sys!(getegid).unwrap());
        // Both answer the old id, whether or not they changed it.
        steps(&[sys!(setfsuid, KEEP) == Ok(uid), sys!(setfsgid, KEEP) == Ok(gid)])
    });
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("fsuid");
    std::fs::write(scratch.path("f"), b"").unwrap();
    let path = scratch.c_path("f");
    assert_eq!(sys!(chmod, path.as_ptr(), 0o600), Ok(0));
    in_child(|| {
        steps(&[
            sys!(setfsgid, 1000) == Ok(0),
            sys!(setfsuid, 1000) == Ok(0),
            sys!(setfsuid, KEEP) == Ok(1000),
            sys!(open, path.as_ptr(), libc::O_RDONLY, 0) == Err(libc::EACCES),
            sys!(geteuid) == Ok(0),
            sys!(setfsuid, 0) == Ok(1000),
            sys!(open, path.as_ptr(), libc::O_RDONLY, 0).is_ok(),
        ])
    });
}

#[test]
fn capabilities_are_read_and_dropped() {
    let mut version = [0_u32, 0];
    assert_eq!(sys!(capget, version.as_mut_ptr(), [0_u32; 6].as_ptr()), Err(libc::EINVAL));
    // The kernel says which version it prefers.
    assert_eq!(version[0], 0x2008_0522);
    let mut header = [0x2008_0522_u32, 0x7fff_ffff];
    assert_eq!(sys!(capget, header.as_mut_ptr(), [0_u32; 6].as_ptr()), Err(libc::ESRCH));
    in_child(|| {
        let [effective, permitted, _] = caps();
        let chown = 1_u64;
        if permitted & chown == 0 {
            return 0;
        }
        steps(&[
            effective & !permitted == 0,
            set_caps(0, permitted, 0) == Ok(0),
            caps() == [0, permitted, 0],
            set_caps(chown, permitted, chown) == Ok(0),
            set_caps(chown, chown, 0) == Ok(0),
            set_caps(chown, chown | 2, 0) == Err(libc::EPERM),
            set_caps(3, 1, 0) == Err(libc::EPERM),
            caps() == [1, 1, 0],
            sys!(prctl, libc::PR_CAPBSET_READ, 0, 0, 0, 0).is_ok(),
            sys!(prctl, libc::PR_CAPBSET_READ, 63, 0, 0, 0) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn capabilities_follow_the_user() {
    if !is_root() {
        return;
    }
    in_child(|| {
        steps(&[
            caps()[0] != 0,
            sys!(setresuid, KEEP, 1000, KEEP) == Ok(0),
            caps()[0] == 0 && caps()[1] != 0,
            sys!(setresuid, KEEP, 0, KEEP) == Ok(0),
            caps()[0] != 0,
            sys!(setresuid, 1000, 1000, 1000) == Ok(0),
            caps() == [0; 3],
        ])
    });
    in_child(|| {
        steps(&[
            sys!(prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) == Ok(0),
            sys!(prctl, libc::PR_GET_KEEPCAPS, 0, 0, 0, 0) == Ok(1),
            sys!(setresuid, 1000, 1000, 1000) == Ok(0),
            caps()[0] == 0 && caps()[1] != 0,
            sys!(prctl, libc::PR_SET_KEEPCAPS, 2, 0, 0, 0) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn no_new_privileges_stays() {
    in_child(|| {
        steps(&[
            sys!(prctl, libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == Ok(0),
            sys!(prctl, libc::PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) == Err(libc::EINVAL),
            sys!(prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == Ok(0),
            sys!(prctl, libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == Ok(1),
        ])
    });
}

#[test]
fn kill_asks_for_permission() {
    if !is_root() {
        return;
    }
    let me = sys!(getpid).unwrap();
    in_child(|| {
        steps(&[
            sys!(setresuid, 1000, 1000, 1000) == Ok(0),
            sys!(kill, me, 0) == Err(libc::EPERM),
            sys!(kill, sys!(getpid).unwrap(), 0) == Ok(0),
            sys!(kill, 0x3fff_ffff, 0) == Err(libc::ESRCH),
        ])
    });
}
