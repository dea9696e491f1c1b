//! Permission checks: owner, group, others, and the capabilities that override them, `path_resolution(7)`.

use abi::Errno;
use auth::Caps;

use crate::Context;
use crate::vfs::types::PermAttr;

bitflags::bitflags! {
    /// What is to be done with an inode.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Perm: u32 {
        /// Execute a file, search a directory.
        const EXEC = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

/// Whether `ctx` may do `want`; `EACCES` if not.
pub fn check(ctx: &Context<'_>, attr: PermAttr, want: Perm) -> Result<(), Errno> {
    let shift = if ctx.creds.fsuid == attr.uid {
        6
    } else if ctx.creds.in_group(attr.gid) {
        3
    } else {
        0
    };
    if (attr.mode >> shift) & 7 & want.bits() == want.bits() {
        return Ok(());
    }
    let overridden = if attr.directory {
        ctx.creds.has(Caps::DAC_OVERRIDE) || (!want.contains(Perm::WRITE) && ctx.creds.has(Caps::DAC_READ_SEARCH))
    } else {
        (ctx.creds.has(Caps::DAC_OVERRIDE) && (!want.contains(Perm::EXEC) || attr.mode & 0o111 != 0))
            || (want == Perm::READ && ctx.creds.has(Caps::DAC_READ_SEARCH))
    };
    if overridden { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether `ctx` owns the inode or may act as if.
pub(crate) fn owner_or_capable(ctx: &Context<'_>, attr: PermAttr) -> bool {
    ctx.creds.fsuid == attr.uid || ctx.creds.has(Caps::FOWNER)
}

/// The sticky rule: in a sticky directory only the owner of the entry or of the directory may remove the entry.
pub(crate) fn check_sticky(ctx: &Context<'_>, dir: PermAttr, entry: PermAttr) -> Result<(), Errno> {
    let sticky = dir.mode & abi::fs::S_ISVTX != 0;
    if !sticky || ctx.creds.fsuid == entry.uid || ctx.creds.fsuid == dir.uid || ctx.creds.has(Caps::FOWNER) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

#[cfg(test)]
mod tests {
    use auth::{Caps, Creds, Gid, Uid};

    use super::{Perm, check};
    use crate::KernelContext;
    use crate::vfs::types::PermAttr;

    #[test]
    fn classes_and_capabilities() {
        let kernel = KernelContext::default();
        let file = PermAttr { mode: 0o640, uid: Uid(1), gid: Gid(2), directory: false };
        let directory = PermAttr { directory: true, ..file };
        let cases = [
            (Creds::new(Uid(1), Gid(9), vec![]), file, Perm::READ | Perm::WRITE, true),
            (Creds::new(Uid(1), Gid(9), vec![]), file, Perm::EXEC, false),
            (Creds::new(Uid(5), Gid(9), vec![Gid(2)]), file, Perm::READ, true),
            (Creds::new(Uid(5), Gid(2), vec![]), file, Perm::WRITE, false),
            (Creds::new(Uid(5), Gid(9), vec![]), file, Perm::READ, false),
            (Creds::root(), file, Perm::READ | Perm::WRITE, true),
            (Creds::root(), file, Perm::EXEC, false),
            (Creds::root(), directory, Perm::EXEC, true),
        ];
        for (creds, attr, want, allowed) in cases {
            let ctx = kernel.context().with_creds(&creds);
            assert_eq!(check(&ctx, attr, want).is_ok(), allowed, "{creds:?} {attr:?} {want:?}");
        }
        let mut reader = Creds::new(Uid(5), Gid(9), vec![]);
        reader.effective = Caps::DAC_READ_SEARCH;
        let ctx = kernel.context().with_creds(&reader);
        assert!(check(&ctx, file, Perm::READ).is_ok());
        assert!(check(&ctx, file, Perm::WRITE).is_err());
    }
}
