//! Owners and permissions of an object: `svipc(7)`, "Resource access permissions".

use abi::Errno;
use auth::{Caps, Creds, Gid, Uid};

/// What an object with a key does for those who ask for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// It has to be there, `ENOENT`.
    Needed,
    /// It is made if it is not (`IPC_CREAT`).
    Welcome,
    /// It must not be there, `EEXIST` (`IPC_CREAT | IPC_EXCL`).
    Refused,
}

/// What a caller wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Look.
    Read,
    /// Change.
    Write,
    /// Both.
    ReadWrite,
    /// What permission bits say, as given to `shmget` and its relatives.
    Mode(u32),
}

impl Wanted {
    const fn bits(self) -> u32 {
        match self {
            Self::Read => 0o4,
            Self::Write => 0o2,
            Self::ReadWrite => 0o6,
            // For whichever class they were meant.
            Self::Mode(mode) => (mode >> 6) | (mode >> 3) | mode,
        }
    }
}

/// What `IPC_SET` changes.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// The new owner.
    pub uid: Uid,
    /// The new group.
    pub gid: Gid,
    /// The new permission bits.
    pub mode: u32,
}

/// Whose an object is, and who may do what with it.
#[derive(Clone, Copy, Debug)]
pub struct Perm {
    /// The key; 0 (`IPC_PRIVATE`) for none.
    pub key: i32,
    /// Owner.
    pub uid: Uid,
    /// Owner's group.
    pub gid: Gid,
    /// Creator.
    pub cuid: Uid,
    /// Creator's group.
    pub cgid: Gid,
    /// Permission bits.
    pub mode: u32,
}

impl Perm {
    /// Of something that `creds` creates.
    pub(super) fn new(key: i32, mode: u32, creds: &Creds) -> Self {
        Self { key, uid: creds.euid, gid: creds.egid, cuid: creds.euid, cgid: creds.egid, mode: mode & 0o777 }
    }

    /// Whether `creds` may do what is wanted; `EACCES`.
    pub(super) fn check(&self, creds: &Creds, wanted: Wanted) -> Result<(), Errno> {
        let granted = if self.is_owner(creds) {
            self.mode >> 6
        } else if creds.in_group(self.gid) || creds.in_group(self.cgid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted.bits() & !granted & 0o7 == 0 || creds.has(Caps::IPC_OWNER) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Whether `creds` may change or remove the object; `EPERM`.
    pub(super) fn check_owner(&self, creds: &Creds) -> Result<(), Errno> {
        if self.is_owner(creds) || creds.has(Caps::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    pub(super) fn is_owner(&self, creds: &Creds) -> bool {
        creds.euid == self.uid || creds.euid == self.cuid
    }

    pub(super) fn change(&mut self, change: &Change) {
        self.uid = change.uid;
        self.gid = change.gid;
        self.mode = (self.mode & !0o777) | (change.mode & 0o777);
    }
}

#[cfg(test)]
mod tests {
    use abi::Errno;
    use auth::{Creds, Gid, Uid};

    use super::{Perm, Wanted};

    #[test]
    fn owner_group_and_others_have_their_bits() {
        let of = |uid, gid| Creds::new(Uid(uid), Gid(gid), vec![]);
        let perm = Perm::new(1, 0o640, &of(10, 20));
        assert!(perm.check(&of(10, 99), Wanted::ReadWrite).is_ok());
        assert!(perm.check(&of(11, 20), Wanted::Read).is_ok());
        assert_eq!(perm.check(&of(11, 20), Wanted::Write), Err(Errno::EACCES));
        assert_eq!(perm.check(&of(11, 21), Wanted::Read), Err(Errno::EACCES));
        assert!(perm.check(&Creds::root(), Wanted::ReadWrite).is_ok());
        assert!(perm.check(&of(11, 20), Wanted::Mode(0o400)).is_ok());
        assert_eq!(perm.check_owner(&of(11, 20)), Err(Errno::EPERM));
    }
}
