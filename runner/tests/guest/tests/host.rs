//! What a process may change about its machine's name and its own attributes: hostname, personality, prctl, arch_prctl.

use casemate_guest_tests::{in_child, is_root, steps, sys};

fn node_name() -> Vec<u8> {
    let mut name = [0_u8; 65 * 6];
    let _ = sys!(uname, name.as_mut_ptr());
    name[65..130].iter().copied().take_while(|&byte| byte != 0).collect()
}

#[test]
fn names_are_set_by_root() {
    assert_eq!(sys!(sethostname, 0, 65), Err(if is_root() { libc::EINVAL } else { libc::EPERM }));
    assert_eq!(sys!(setdomainname, 0, 65), Err(if is_root() { libc::EINVAL } else { libc::EPERM }));
    let name = node_name();
    assert!(!name.is_empty());
    assert_eq!(std::fs::read("/proc/sys/kernel/hostname").unwrap(), [name.as_slice(), b"\n"].concat());
    if is_root() && casemate_guest_tests::inside() {
        // Natively this would rename the machine that runs the tests.
        assert_eq!(sys!(sethostname, b"ship".as_ptr(), 4), Ok(0));
        assert_eq!(node_name(), b"ship");
        assert_eq!(sys!(setdomainname, b"sea".as_ptr(), 3), Ok(0));
        assert_eq!(sys!(sethostname, name.as_ptr(), name.len()), Ok(0));
    }
    if is_root() {
        in_child(|| {
            steps(&[
                sys!(setresuid, 1000, 1000, 1000) == Ok(0),
                sys!(sethostname, b"x".as_ptr(), 1) == Err(libc::EPERM),
                sys!(setdomainname, b"x".as_ptr(), 1) == Err(libc::EPERM),
            ])
        });
    }
}

#[test]
fn the_personality_is_linux() {
    let now = sys!(personality, 0xffff_ffff_u64).unwrap();
    assert_eq!(now & 0xff, 0);
    assert_eq!(sys!(personality, now), Ok(now));
}

#[test]
fn segment_bases_are_read_and_set() {
    in_child(|| {
        let (get_fs, get_gs, set_gs) = (0x1003, 0x1004, 0x1001);
        let (mut fs, mut gs) = (0_u64, 0_u64);
        let value = 0x1234_5000_u64;
        let own: u64;
        // SAFETY: 1. the first word of a thread's control block on x86-64 is its own address.
        unsafe { std::arch::asm!("mov {}, fs:0", out(reg) own) };
        steps(&[
            sys!(arch_prctl, get_fs, &raw mut fs) == Ok(0),
            fs == own,
            sys!(arch_prctl, set_gs, value) == Ok(0),
            sys!(arch_prctl, get_gs, &raw mut gs) == Ok(0),
            gs == value,
            sys!(arch_prctl, set_gs, u64::MAX >> 1) == Err(libc::EPERM),
            sys!(arch_prctl, get_fs, 16) == Err(libc::EFAULT),
            sys!(arch_prctl, 0x9999, 0) == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn processes_have_attributes() {
    in_child(|| {
        let mut value = -1_i32;
        steps(&[
            sys!(prctl, libc::PR_SET_PDEATHSIG, libc::SIGUSR1, 0, 0, 0) == Ok(0),
            sys!(prctl, libc::PR_GET_PDEATHSIG, &raw mut value, 0, 0, 0) == Ok(0),
            value == libc::SIGUSR1,
            sys!(prctl, libc::PR_SET_PDEATHSIG, 99, 0, 0, 0) == Err(libc::EINVAL),
            sys!(prctl, libc::PR_GET_DUMPABLE, 0, 0, 0, 0) == Ok(1),
            sys!(prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == Ok(0),
            sys!(prctl, libc::PR_GET_CHILD_SUBREAPER, &raw mut value, 0, 0, 0) == Ok(0),
            value == 1,
            sys!(prctl, libc::PR_GET_TIMERSLACK, 0, 0, 0, 0) == Ok(50_000),
            sys!(prctl, libc::PR_GET_NAME, 16, 0, 0, 0) == Err(libc::EFAULT),
        ])
    });
}

#[test]
fn random_bytes_come_as_asked() {
    let mut bytes = [0_u8; 512];
    assert_eq!(sys!(getrandom, bytes.as_mut_ptr(), 512, libc::GRND_NONBLOCK), Ok(512));
    assert!(bytes.iter().any(|&byte| byte != 0));
    assert_eq!(sys!(getrandom, bytes.as_mut_ptr(), 16, libc::GRND_RANDOM), Ok(16));
    assert_eq!(sys!(getrandom, bytes.as_mut_ptr(), 0, 0), Ok(0));
    assert_eq!(sys!(getrandom, 16, 8, 0), Err(libc::EFAULT));
    let both = libc::GRND_RANDOM | libc::GRND_INSECURE;
    assert_eq!(sys!(getrandom, bytes.as_mut_ptr(), 8, both), Err(libc::EINVAL));
}

#[test]
fn nothing_to_restart_is_an_interruption() {
    assert_eq!(sys!(restart_syscall), Err(libc::EINTR));
}
