//! Makes the file systems of the mount tree, from the crates that have them.

use std::sync::Arc;

use abi::Errno;
use auth::{Gid, Uid};
use fs::anon::SharedMemory;
use fs::host::{Access, Belief, HostOptions, Ids};
use fs::tmpfs::{Account, TmpfsOptions};
use fs::vfs::{Devices, Filesystem, MountOptions};
use kernel::Kernel;
use kernel::tty::Terminals;
use usermem::memfile::MemoryFile;

use super::PLAIN;
use super::files::{Makers, Tree};
use crate::failure::{Failure, Outcome};
use crate::host::TreeAccess;
use crate::launcher::{HostTree, IdMap, TreeRole};

/// File systems over the host's trees and the memory file.
pub(super) struct FromHost {
    memory: Arc<MemoryFile>,
    ids: Ids,
    limit: u64,
    account: Account,
}

impl FromHost {
    /// Contents of every tmpfs come from `memory`; they may take `limit` bytes together, which leaves the rest to programs.
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
        Self { memory: Arc::clone(memory), ids, limit, account: Account::new(limit) }
    }

    /// Mounts what only a kernel can answer for: `/dev`, `/proc`, `/sys`, and an empty `/run` over the host's. Answers the
    /// terminals in `/dev/pts`.
    pub(super) fn add_kernel_trees(
        &self,
        tree: &Tree<'_>,
        kernel: &Arc<Kernel>,
        devices: &Devices,
        root: GuestRoot,
    ) -> Outcome<Terminals> {
        let shared = Arc::new(SharedMemory::new(&self.memory));
        fs::dev::register(devices, &shared);
        let tmpfs = |mode| self.tmpfs(mode).map_err(|errno| Failure::ours(format!("tmpfs: {errno}")));
        let dev = MountOptions::NOSUID | MountOptions::NOEXEC | MountOptions::RELATIME;
        tree.mount("/dev", tmpfs(0o755)?, dev)?;
        tree.populate_dev()?;
        tree.mount("/dev/shm", tmpfs(0o1777)?, PLAIN & !MountOptions::NOEXEC)?;
        tree.mount_more("/dev/mqueue", kernel.ipc().mqueues().superblock(), PLAIN & !MountOptions::RELATIME)?;
        let terminals = Terminals::new(kernel, devices);
        let pts = MountOptions::NOSUID | MountOptions::NOEXEC | MountOptions::RELATIME;
        tree.mount("/dev/pts", terminals.filesystem(), pts)?;
        tree.mount("/proc", kernel::procfs::filesystem(kernel), PLAIN)?;
        tree.mount("/sys", kernel::sysfs::filesystem(kernel), PLAIN | MountOptions::READ_ONLY)?;
        match root {
            GuestRoot::OfTheHost => tree.mount("/run", tmpfs(0o755)?, MountOptions::NOSUID | MountOptions::NODEV)?,
            GuestRoot::ItsOwn => {}
        }
        Ok(terminals)
    }
}

/// Whose files the guest's root shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GuestRoot {
    /// The host's.
    OfTheHost,
    /// `--rootfs`.
    ItsOwn,
}

impl Makers for FromHost {
    fn tmpfs(&self, mode: u32) -> Result<Arc<dyn Filesystem>, Errno> {
        fs::tmpfs::new_within(&self.memory, &TmpfsOptions { mode, ..TmpfsOptions::of_size(self.limit) }, &self.account)
    }

    fn host(&self, tree: HostTree) -> Result<Arc<dyn Filesystem>, Errno> {
        let access = match tree.access {
            TreeAccess::ReadOnly => Access::ReadOnly,
            TreeAccess::ReadWrite => Access::ReadWrite,
        };
        let belief = match tree.role {
            TreeRole::Root => Belief::Brief,
            TreeRole::Volume => Belief::None,
        };
        fs::host::new(tree.fd, HostOptions { access, belief, ids: self.ids })
    }

    fn overlay(&self, lower: Arc<dyn Filesystem>) -> Result<Arc<dyn Filesystem>, Errno> {
        let upper = self.tmpfs(0o755)?;
        fs::overlay::new(vec![lower], Some(upper))
    }
}
