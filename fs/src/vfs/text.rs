//! Who writes a regular file and who executes it: never both at a time (`ETXTBSY`; open(2), execve(2)).
//!
//! A description that was opened for writing, or that a program was started from, holds a [`TextHold`] of the inode.
//! Files that come to be without open(2) (`memfd_create`) count no writers, as on Linux.

use std::sync::atomic::{AtomicI32, Ordering};

use abi::Errno;

use crate::vfs::Inode;

/// Writers of an inode when positive, programs that it is the text of when negative. Relaxed: it orders nothing else.
#[derive(Default)]
pub(crate) struct TextUse(AtomicI32);

/// Whoever keeps the other kind out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Writer,
    Program,
}

impl Role {
    const fn step(self) -> i32 {
        match self {
            Self::Writer => 1,
            Self::Program => -1,
        }
    }
}

impl TextUse {
    pub(crate) const fn new() -> Self {
        Self(AtomicI32::new(0))
    }

    /// One more of `role`, unless there are others of the other.
    fn enter(&self, role: Role) -> Result<(), Errno> {
        let step = role.step();
        let more = |now: i32| if now.signum() == -step { None } else { now.checked_add(step) };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(drop).map_err(|_| Errno::ETXTBSY)
    }

    fn leave(&self, role: Role) {
        self.0.fetch_sub(role.step(), Ordering::Relaxed);
    }
}

/// While it lives, an inode is written and not executed, or the other way round.
pub(crate) struct TextHold {
    inode: Inode,
    role: Role,
}

impl TextHold {
    /// `ETXTBSY` while somebody is what excludes `role`.
    pub(crate) fn new(inode: &Inode, role: Role) -> Result<Self, Errno> {
        inode.slots().text().enter(role)?;
        Ok(Self { inode: inode.clone(), role })
    }
}

impl Drop for TextHold {
    fn drop(&mut self) {
        self.inode.slots().text().leave(self.role);
    }
}

#[cfg(test)]
mod tests {
    use abi::Errno;

    use super::{Role, TextUse};

    #[test]
    fn writers_and_programs_keep_each_other_out() {
        let text = TextUse::new();
        assert_eq!((text.enter(Role::Writer), text.enter(Role::Writer)), (Ok(()), Ok(())));
        assert_eq!(text.enter(Role::Program), Err(Errno::ETXTBSY));
        text.leave(Role::Writer);
        assert_eq!(text.enter(Role::Program), Err(Errno::ETXTBSY));
        text.leave(Role::Writer);
        assert_eq!((text.enter(Role::Program), text.enter(Role::Program)), (Ok(()), Ok(())));
        assert_eq!(text.enter(Role::Writer), Err(Errno::ETXTBSY));
        text.leave(Role::Program);
        text.leave(Role::Program);
        assert_eq!(text.enter(Role::Writer), Ok(()));
    }
}
