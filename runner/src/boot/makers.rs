//! Makes the file systems of the mount tree, from the crates that have them.

use std::sync::Arc;

use abi::Errno;
use auth::{Gid, Uid};
use fs::host::{Access, HostOptions, Ids};
use fs::tmpfs::TmpfsOptions;
use fs::vfs::{Devices, Filesystem};
use kernel::Kernel;
use usermem::memfile::MemoryFile;

use super::files::{Makers, Tree};
use crate::failure::Outcome;
use crate::host::TreeAccess;
use crate::launcher::{HostTree, IdMap};

/// File systems over the host's trees and the memory file.
pub(super) struct FromHost {
    memory: Arc<MemoryFile>,
    ids: Ids,
    limit: u64,
}

impl FromHost {
    /// Contents of every tmpfs come from `memory`, which limits their sum; each alone may take `limit` bytes.
    pub(super) fn new(memory: &Arc<MemoryFile>, ids: IdMap, limit: u64) -> Self {
        let ids = match ids {
            IdMap::All => Ids::All,
            IdMap::Own { uid, gid } => Ids::Single {
                host_uid: crate::launcher::inner_id(uid),
                host_gid: crate::launcher::inner_id(gid),
                uid: Uid(uid),
                gid: Gid(gid),
            },
        };
        Self { memory: Arc::clone(memory), ids, limit }
    }

    /// Mounts what only a kernel can answer for: `/proc`, `/sys`, `/dev`, and the empty `/run`.
    pub(super) fn add_kernel_trees(&self, tree: &Tree<'_>, _kernel: &Arc<Kernel>, _devices: &Arc<Devices>) -> Outcome<()> {
        let _ = tree;
        Ok(())
    }
}

impl Makers for FromHost {
    fn tmpfs(&self, mode: u32) -> Result<Arc<dyn Filesystem>, Errno> {
        fs::tmpfs::new(&self.memory, &TmpfsOptions { mode, ..TmpfsOptions::of_size(self.limit) })
    }

    fn host(&self, tree: HostTree) -> Result<Arc<dyn Filesystem>, Errno> {
        let access = match tree.access {
            TreeAccess::ReadOnly => Access::ReadOnly,
            TreeAccess::ReadWrite => Access::ReadWrite,
        };
        fs::host::new(tree.fd, HostOptions { access, ids: self.ids })
    }

    fn overlay(&self, lower: Arc<dyn Filesystem>) -> Result<Arc<dyn Filesystem>, Errno> {
        Ok(lower)
    }
}
