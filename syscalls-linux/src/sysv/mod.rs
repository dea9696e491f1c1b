//! System V IPC: `shmget(2)`, `semget(2)`, `msgget(2)` and what goes with them. The objects are the kernel's; here are
//! flag words, commands and structures.

mod msg;
mod sem;
mod shm;

use abi::Errno;
use abi::ipc::{IPC_CREAT, IPC_EXCL, IpcPerm};
use auth::{Gid, Uid};
use kernel::ipc::{Change, Existing, IPCMNI, Perm};

pub(crate) use msg::ROWS as MSG;
pub(crate) use sem::ROWS as SEM;
pub(crate) use shm::ROWS as SHM;

/// What a `*get` call is asked to do about an object that is there, or is not.
fn existing(flags: u32) -> Existing {
    match (flags & IPC_CREAT != 0, flags & IPC_EXCL != 0) {
        (false, _) => Existing::Needed,
        (true, false) => Existing::Welcome,
        (true, true) => Existing::Refused,
    }
}

/// `struct ipc64_perm` of object `id`.
fn perm(id: i32, perm: &Perm) -> IpcPerm {
    IpcPerm {
        key: perm.key,
        uid: perm.uid.0,
        gid: perm.gid.0,
        cuid: perm.cuid.0,
        cgid: perm.cgid.0,
        mode: perm.mode,
        seq: u16::try_from(id / IPCMNI).unwrap_or(u16::MAX),
        ..IpcPerm::default()
    }
}

/// What `IPC_SET` shall change; `EINVAL` for ids that nobody has.
fn change(perm: &IpcPerm) -> Result<Change, Errno> {
    let uid = Uid::from_arg(perm.uid).ok_or(Errno::EINVAL)?;
    let gid = Gid::from_arg(perm.gid).ok_or(Errno::EINVAL)?;
    Ok(Change { uid, gid, mode: perm.mode })
}

/// The command without the bit that says which of two forms its structure has: we have only the younger, as glibc and
/// musl use it on x86-64.
fn command(raw: i32) -> i32 {
    const IPC_64: i32 = 0x100;
    raw & !IPC_64
}
