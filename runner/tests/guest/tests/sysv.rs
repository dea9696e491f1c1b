//! System V IPC: shared memory, semaphores, message queues.

use casemate_guest_tests::{child, fork_status, in_child, steps, sys, until_asleep, wait_status};
use libc::{
    EACCES, EAGAIN, EEXIST, EINVAL, ENOENT, ENOMSG, IPC_CREAT, IPC_EXCL, IPC_NOWAIT, IPC_PRIVATE, IPC_RMID, IPC_STAT,
};

/// A key that nobody else is likely to use.
fn key(salt: u32) -> i32 {
    (std::process::id() << 8 | salt).cast_signed() | 1
}

fn new_segment(size: usize) -> i64 {
    sys!(shmget, IPC_PRIVATE, size, IPC_CREAT | 0o600).expect("shmget")
}

fn segment(id: i64) -> libc::shmid_ds {
    // SAFETY: 1. plain data.
    let mut info: libc::shmid_ds = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(shmctl, id, IPC_STAT, &raw mut info), Ok(0));
    info
}

fn poke(at: i64, value: u8) {
    // SAFETY: 1. the segment is attached there, and this is its only thread.
    unsafe { (at as *mut u8).write_volatile(value) }
}

fn peek(at: i64) -> u8 {
    // SAFETY: 1. the segment is attached there, and this is its only thread.
    unsafe { (at as *const u8).read_volatile() }
}

#[test]
fn shared_memory_is_shared_and_counted() {
    let id = new_segment(5000);
    let first = sys!(shmat, id, 0, 0).unwrap();
    let second = sys!(shmat, id, 0, libc::SHM_RDONLY).unwrap();
    poke(first, 7);
    assert_eq!(peek(second), 7);
    let info = segment(id);
    assert_eq!((info.shm_segsz, info.shm_nattch, info.shm_perm.mode & 0o777), (5000, 2, 0o600));
    assert_eq!(info.shm_cpid, std::process::id().cast_signed());
    // A child has both, and gives them back by its end.
    let status = fork_status(|| {
        let shared = segment(id).shm_nattch == 4;
        poke(first, 9);
        i32::from(!shared)
    });
    assert_eq!(status, 0);
    assert_eq!((peek(second), segment(id).shm_nattch), (9, 2));
    // Removed, it lives on where it is mapped.
    assert_eq!(sys!(shmctl, id, IPC_RMID, 0), Ok(0));
    assert_eq!(segment(id).shm_perm.mode & 0o1000, 0o1000);
    assert_eq!(peek(first), 9);
    assert_eq!(sys!(shmdt, second), Ok(0));
    assert_eq!(sys!(shmdt, second), Err(EINVAL));
    assert_eq!(sys!(shmdt, first + 1), Err(EINVAL));
    assert_eq!(sys!(shmdt, first), Ok(0));
    assert_eq!(sys!(shmat, id, 0, 0), Err(EINVAL));
}

#[test]
fn shared_memory_goes_where_it_is_asked_to() {
    let id = new_segment(8192);
    let at = sys!(shmat, id, 0, 0).unwrap();
    assert_eq!(sys!(shmdt, at), Ok(0));
    assert_eq!(sys!(shmat, id, at, 0), Ok(at));
    assert_eq!(sys!(shmat, id, at, 0), Err(EINVAL));
    assert_eq!(sys!(shmat, id, at + 1, 0), Err(EINVAL));
    assert_eq!(sys!(shmat, id, at + 1, libc::SHM_RND | libc::SHM_REMAP), Ok(at));
    assert_eq!(sys!(shmat, id, 0, libc::SHM_REMAP), Err(EINVAL));
    poke(at + 4096, 3);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.starts_with(&format!("{at:08x}-"))).unwrap();
    assert!(line.contains("rw-s") && line.contains("/SYSV00000000 (deleted)"), "{line}");
    // What is left of it goes as a whole.
    assert_eq!(sys!(munmap, at + 4096, 4096), Ok(0));
    assert_eq!(sys!(shmdt, at), Ok(0));
    assert_eq!(segment(id).shm_nattch, 0);
    assert_eq!(sys!(shmctl, id, IPC_RMID, 0), Ok(0));
    assert_eq!(sys!(shmctl, id, IPC_RMID, 0), Err(EINVAL));
}

#[test]
fn keys_name_objects() {
    let (key, other) = (key(1), key(2));
    assert_eq!(sys!(shmget, key, 4096, 0), Err(ENOENT));
    let id = sys!(shmget, key, 4096, IPC_CREAT | IPC_EXCL | 0o600).unwrap();
    assert_eq!(sys!(shmget, key, 4096, IPC_CREAT | IPC_EXCL), Err(EEXIST));
    assert_eq!(sys!(shmget, key, 100, 0), Ok(id));
    assert_eq!(sys!(shmget, key, 4097, 0), Err(EINVAL));
    assert_eq!(sys!(shmget, other, 0, IPC_CREAT), Err(EINVAL));
    assert_eq!(sys!(shmctl, id, IPC_RMID, 0), Ok(0));
    assert_eq!(sys!(shmget, key, 4096, 0), Err(ENOENT));
    let set = sys!(semget, key, 3, IPC_CREAT | 0o600).unwrap();
    assert_eq!(sys!(semget, key, 4, 0), Err(EINVAL));
    assert_eq!(sys!(semget, key, 0, 0), Ok(set));
    assert_eq!(sys!(semctl, set, 0, IPC_RMID), Ok(0));
    let queue = sys!(msgget, key, IPC_CREAT | 0o400).unwrap();
    assert_eq!(sys!(msgget, key, IPC_CREAT), Ok(queue));
    if !casemate_guest_tests::is_root() {
        assert_eq!(sys!(msgget, key, 0o600), Err(EACCES));
    }
    assert_eq!(sys!(msgctl, queue, IPC_RMID, 0), Ok(0));
}

fn op(num: u16, add: i16, flags: i32) -> libc::sembuf {
    libc::sembuf { sem_num: num, sem_op: add, sem_flg: i16::try_from(flags).unwrap() }
}

fn new_set(count: i32) -> i64 {
    sys!(semget, IPC_PRIVATE, count, IPC_CREAT | 0o600).expect("semget")
}

fn operate(set: i64, ops: &[libc::sembuf]) -> Result<i64, i32> {
    sys!(semop, set, ops.as_ptr(), ops.len())
}

fn value(set: i64, num: i32) -> i64 {
    sys!(semctl, set, num, libc::GETVAL).unwrap()
}

#[test]
fn semaphores_count_and_block() {
    let set = new_set(2);
    assert_eq!(operate(set, &[op(0, 5, 0), op(1, 1, 0)]), Ok(0));
    assert_eq!((value(set, 0), value(set, 1)), (5, 1));
    // All or nothing.
    assert_eq!(operate(set, &[op(0, -1, IPC_NOWAIT), op(1, -2, IPC_NOWAIT)]), Err(EAGAIN));
    assert_eq!((value(set, 0), value(set, 1)), (5, 1));
    assert_eq!(operate(set, &[op(2, 1, 0)]), Err(libc::EFBIG));
    assert_eq!(operate(set, &[]), Err(EINVAL));
    assert_eq!(operate(set, &[op(0, 32767, 0)]), Err(libc::ERANGE));
    assert_eq!(sys!(semop, set, 8, 1), Err(libc::EFAULT));
    assert_eq!(sys!(semop, set, 8, 501), Err(libc::E2BIG));
    // One waits for more, one for zero.
    let more = child(|| i32::from(operate(set, &[op(1, -3, 0)]) != Ok(0)));
    until_asleep(more.into(), more.into());
    let zero = child(|| i32::from(operate(set, &[op(0, 0, 0)]) != Ok(0)));
    until_asleep(zero.into(), zero.into());
    assert_eq!(sys!(semctl, set, 1, libc::GETNCNT), Ok(1));
    assert_eq!(sys!(semctl, set, 0, libc::GETZCNT), Ok(1));
    assert_eq!(operate(set, &[op(1, 2, 0)]), Ok(0));
    assert_eq!(wait_status(more), 0);
    assert_eq!(sys!(semctl, set, 1, libc::GETPID), Ok(more.into()));
    assert_eq!(operate(set, &[op(0, -5, 0)]), Ok(0));
    assert_eq!(wait_status(zero), 0);
    assert_eq!((value(set, 0), value(set, 1)), (0, 0));
    assert_eq!(sys!(semctl, set, 0, IPC_RMID), Ok(0));
}

#[test]
fn semaphores_time_out_and_vanish() {
    let set = new_set(1);
    let short = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    let take = [op(0, -1, 0)];
    assert_eq!(sys!(semtimedop, set, take.as_ptr(), 1, &raw const short), Err(EAGAIN));
    let wrong = libc::timespec { tv_sec: 0, tv_nsec: -1 };
    assert_eq!(sys!(semtimedop, set, take.as_ptr(), 1, &raw const wrong), Err(EINVAL));
    assert_eq!(sys!(semctl, set, 0, libc::GETNCNT), Ok(0));
    // What a process takes back at its end.
    let undo = libc::SEM_UNDO;
    assert_eq!(operate(set, &[op(0, 3, 0)]), Ok(0));
    in_child(|| {
        let done = operate(set, &[op(0, -2, undo)]).is_ok() && operate(set, &[op(0, 1, undo)]).is_ok();
        i32::from(!done || value(set, 0) != 2)
    });
    assert_eq!(value(set, 0), 3);
    let waiting = child(|| i32::from(operate(set, &[op(0, -9, 0)]) != Err(libc::EIDRM)));
    until_asleep(waiting.into(), waiting.into());
    assert_eq!(sys!(semctl, set, 0, IPC_RMID), Ok(0));
    assert_eq!(wait_status(waiting), 0);
    assert_eq!(operate(set, &[op(0, 1, 0)]), Err(EINVAL));
}

#[test]
fn semaphores_are_controlled() {
    let set = new_set(3);
    let values = [1_u16, 2, 3];
    assert_eq!(sys!(semctl, set, 0, libc::SETALL, values.as_ptr()), Ok(0));
    let mut now = [0_u16; 3];
    assert_eq!(sys!(semctl, set, 0, libc::GETALL, now.as_mut_ptr()), Ok(0));
    assert_eq!(now, values);
    assert_eq!(sys!(semctl, set, 1, libc::SETVAL, 9), Ok(0));
    assert_eq!(value(set, 1), 9);
    assert_eq!(sys!(semctl, set, 1, libc::SETVAL, 40000), Err(libc::ERANGE));
    assert_eq!(sys!(semctl, set, 3, libc::GETVAL), Err(EINVAL));
    assert_eq!(sys!(semctl, set, 0, 99), Err(EINVAL));
    // SAFETY: 1. plain data.
    let mut info: libc::semid_ds = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(semctl, set, 0, IPC_STAT, &raw mut info), Ok(0));
    assert_eq!((info.sem_nsems, info.sem_otime, info.sem_perm.mode & 0o777), (3, 0, 0o600));
    info.sem_perm.mode = 0o644;
    assert_eq!(sys!(semctl, set, 0, libc::IPC_SET, &raw const info), Ok(0));
    assert_eq!(operate(set, &[op(0, 1, 0)]), Ok(0));
    assert_eq!(sys!(semctl, set, 0, IPC_STAT, &raw mut info), Ok(0));
    assert!(info.sem_otime > 0 && info.sem_perm.mode & 0o777 == 0o644);
    let listed = std::fs::read_to_string("/proc/sysvipc/sem").unwrap();
    assert!(listed.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some(&set.to_string())), "{listed}");
    assert_eq!(sys!(semctl, set, 0, IPC_RMID), Ok(0));
}

#[repr(C)]
struct Message {
    kind: i64,
    text: [u8; 16],
}

fn send(queue: i64, kind: i64, text: &[u8], flags: i32) -> Result<i64, i32> {
    let mut message = Message { kind, text: [0; 16] };
    message.text[..text.len()].copy_from_slice(text);
    sys!(msgsnd, queue, &raw const message, text.len(), flags)
}

fn receive(queue: i64, max: usize, kind: i64, flags: i32) -> Result<(i64, Vec<u8>), i32> {
    let mut message = Message { kind: 0, text: [0; 16] };
    let got = sys!(msgrcv, queue, &raw mut message, max, kind, flags)?;
    Ok((message.kind, message.text[..usize::try_from(got).unwrap()].to_vec()))
}

#[test]
fn messages_are_sent_and_selected() {
    let queue = sys!(msgget, IPC_PRIVATE, IPC_CREAT | 0o600).unwrap();
    for (kind, text) in [(5, "five"), (2, "two"), (3, "three"), (2, "again")] {
        assert_eq!(send(queue, kind, text.as_bytes(), 0), Ok(0));
    }
    assert_eq!(send(queue, 0, b"x", 0), Err(EINVAL));
    assert_eq!(receive(queue, 16, 3, 0), Ok((3, b"three".to_vec())));
    assert_eq!(receive(queue, 16, -4, 0), Ok((2, b"two".to_vec())));
    assert_eq!(receive(queue, 16, 5, libc::MSG_EXCEPT), Ok((2, b"again".to_vec())));
    assert_eq!(receive(queue, 2, 0, 0), Err(libc::E2BIG));
    assert_eq!(receive(queue, 2, 0, libc::MSG_NOERROR), Ok((5, b"fi".to_vec())));
    assert_eq!(receive(queue, 16, 0, IPC_NOWAIT), Err(ENOMSG));
    assert_eq!(receive(queue, 16, 1, libc::MSG_COPY), Err(EINVAL));
    // One that waits gets what comes, of its type.
    let waiting = child(|| i32::from(receive(queue, 16, 7, 0) != Ok((7, b"seven".to_vec()))));
    until_asleep(waiting.into(), waiting.into());
    assert_eq!(send(queue, 6, b"six", 0), Ok(0));
    assert_eq!(send(queue, 7, b"seven", 0), Ok(0));
    assert_eq!(wait_status(waiting), 0);
    // A full queue makes senders wait.
    let mut sent = 1;
    while send(queue, 1, &[b'x'; 16], IPC_NOWAIT).is_ok() {
        sent += 1;
    }
    assert_eq!(send(queue, 1, &[b'x'; 16], IPC_NOWAIT), Err(EAGAIN));
    let waiting = child(|| i32::from(send(queue, 9, &[b'y'; 16], 0) != Ok(0)));
    until_asleep(waiting.into(), waiting.into());
    for _ in 0..sent {
        assert!(receive(queue, 16, -8, 0).is_ok());
    }
    assert_eq!(wait_status(waiting), 0);
    let waiting = child(|| i32::from(receive(queue, 16, 3, 0) != Err(libc::EIDRM)));
    until_asleep(waiting.into(), waiting.into());
    assert_eq!(sys!(msgctl, queue, IPC_RMID, 0), Ok(0));
    assert_eq!(wait_status(waiting), 0);
    assert_eq!(send(queue, 1, b"x", 0), Err(EINVAL));
}

#[test]
fn queues_are_controlled() {
    let queue = sys!(msgget, IPC_PRIVATE, IPC_CREAT | 0o600).unwrap();
    assert_eq!(send(queue, 1, b"text", 0), Ok(0));
    // SAFETY: 1. plain data.
    let mut info: libc::msqid_ds = unsafe { std::mem::zeroed() };
    assert_eq!(sys!(msgctl, queue, IPC_STAT, &raw mut info), Ok(0));
    assert_eq!((info.msg_qnum, info.__msg_cbytes), (1, 4));
    assert_eq!((info.msg_lspid, info.msg_lrpid), (std::process::id().cast_signed(), 0));
    info.msg_qbytes = 8;
    assert_eq!(sys!(msgctl, queue, libc::IPC_SET, &raw const info), Ok(0));
    assert_eq!(send(queue, 1, b"more!", IPC_NOWAIT), Err(EAGAIN));
    assert_eq!(send(queue, 1, b"four", IPC_NOWAIT), Ok(0));
    let listed = std::fs::read_to_string("/proc/sysvipc/msg").unwrap();
    assert!(listed.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some(&queue.to_string())), "{listed}");
    in_child(|| {
        steps(&[
            sys!(msgctl, queue, 99, 0) == Err(EINVAL),
            sys!(msgctl, -1_i64, IPC_STAT, &raw const info) == Err(EINVAL),
            sys!(msgctl, queue, IPC_STAT, 8) == Err(libc::EFAULT),
        ])
    });
    assert_eq!(sys!(msgctl, queue, IPC_RMID, 0), Ok(0));
    assert_eq!(sys!(msgctl, queue, IPC_STAT, &raw mut info), Err(EINVAL));
}
