//! Memory without a place in any tree: `memfd_create(2)` and shared anonymous mappings.

use std::sync::Arc;

use abi::Errno;
use abi::fs::{MFD_NAME_MAX, MemfdFlags, OpenFlags, Seals};
use usermem::memfile::MemoryFile;
use usermem::memmap::Mappable;

use crate::Context;
use crate::memory::MemoryObject;
use crate::tmpfs::{MemFile, TmpFs, TmpfsOptions};
use crate::vfs::{File, Inode, NewNode, NodeKind};

/// The kernel's own tmpfs, mounted nowhere. One per kernel.
pub struct SharedMemory {
    fs: Arc<TmpFs>,
}

impl SharedMemory {
    /// Objects made here are in `memory`, whose limit is their only one.
    pub fn new(memory: &Arc<MemoryFile>) -> Self {
        let options = TmpfsOptions { inodes: u64::MAX, ..TmpfsOptions::of_size(u64::MAX) };
        Self { fs: TmpFs::create(memory, &options, None) }
    }

    /// `memfd_create(2)`: an unnamed file open for reading and writing. `EINVAL` for a long name or huge pages. Whether
    /// the descriptor closes on exec is the caller's.
    pub fn memfd(&self, ctx: &Context<'_>, name: &[u8], flags: MemfdFlags) -> Result<Arc<File>, Errno> {
        if name.len() > MFD_NAME_MAX || flags.contains(MemfdFlags::MFD_HUGETLB) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(MemfdFlags::MFD_EXEC | MemfdFlags::MFD_NOEXEC_SEAL) {
            return Err(Errno::EINVAL);
        }
        let noexec = flags.contains(MemfdFlags::MFD_NOEXEC_SEAL);
        let seals = match (noexec, flags.contains(MemfdFlags::MFD_ALLOW_SEALING)) {
            (true, _) => Seals::F_SEAL_EXEC,
            (false, true) => Seals::empty(),
            (false, false) => Seals::F_SEAL_SEAL,
        };
        let mode = if noexec { 0o666 } else { 0o777 };
        let node = NewNode { kind: NodeKind::Regular, mode, uid: ctx.creds.fsuid, gid: ctx.creds.fsgid };
        let now = ctx.clock.now();
        let inode = self.fs.make_sealable(&node, now, seals)?;
        inode.add_links(-1, now);
        let object = Arc::clone(inode.object().ok_or(Errno::EIO)?);
        let shown = [b"/memfd:", name, b" (deleted)"].concat();
        let ops = Arc::new(MemFile { inode: Arc::clone(&inode), object });
        Ok(File::pseudo(ops, OpenFlags::O_RDWR, &shown, inode as Inode))
    }

    /// An object of `len` zeros to map: `MAP_SHARED | MAP_ANONYMOUS`, `/dev/zero`, System V segments.
    pub fn object(&self, len: u64) -> Arc<dyn Mappable> {
        Arc::new(MemoryObject::new(&self.fs.memory, None, len, Seals::F_SEAL_SEAL))
    }
}
