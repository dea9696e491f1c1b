//! tmpfs, `tmpfs(5)`: everything in memory.
//!
//! Contents are `MemoryObject`s under one budget; directories are tables by name whose entries are numbered as they come,
//! which is the order they are listed in (newest first, as on Linux).

mod dir;
mod inode;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use abi::fs::Seals;
use auth::{Gid, Uid};
use usermem::PAGE_SIZE;
use usermem::memfile::MemoryFile;

use crate::memory::{Budget, MemoryObject};
use crate::vfs::{Filesystem, Inode, NewNode, NodeKind, StatFs, Timestamp, new_device_id};
use crate::{Clock, SystemClock};

pub(crate) use inode::{MemFile, TmpInode};

/// Limits and looks of a new tmpfs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TmpfsOptions {
    /// Bytes of contents at most.
    pub size: u64,
    /// Inodes at most.
    pub inodes: u64,
    /// Permission bits of the root.
    pub mode: u32,
    /// Owner of the root.
    pub uid: Uid,
    /// Group of the root.
    pub gid: Gid,
}

impl TmpfsOptions {
    /// A tmpfs of at most `size` bytes, with an inode per 4 KiB, root's and open to all (mode 1777), as `mount` makes it.
    pub const fn of_size(size: u64) -> Self {
        Self {
            size,
            inodes: if size / PAGE_SIZE < 1024 { 1024 } else { size / PAGE_SIZE },
            mode: 0o1777,
            uid: Uid::ROOT,
            gid: Gid::ROOT,
        }
    }
}

/// A limit on the contents of several tmpfs together.
#[derive(Clone)]
pub struct Account(Arc<Budget>);

impl Account {
    /// An account of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Budget::new(limit, None)))
    }
}

/// What the inodes of one tmpfs share.
pub(crate) struct TmpFs {
    pub(crate) memory: Arc<MemoryFile>,
    pub(crate) device: u64,
    pub(crate) budget: Arc<Budget>,
    max_inodes: u64,
    /// Relaxed, as is the next: counters that guard nothing.
    inodes: AtomicU64,
    next_ino: AtomicU64,
}

impl TmpFs {
    pub(crate) fn create(memory: &Arc<MemoryFile>, options: &TmpfsOptions, account: Option<&Account>) -> Arc<Self> {
        let within = account.map(|Account(budget)| Arc::clone(budget));
        Arc::new(Self {
            memory: Arc::clone(memory),
            device: new_device_id(),
            budget: Arc::new(Budget::new(options.size, within)),
            max_inodes: options.inodes,
            inodes: AtomicU64::new(0),
            next_ino: AtomicU64::new(1),
        })
    }

    fn take_inode(&self) -> Result<u64, Errno> {
        self.inodes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < self.max_inodes).then_some(used + 1))
            .map_err(|_| Errno::ENOSPC)?;
        Ok(self.next_ino.fetch_add(1, Ordering::Relaxed))
    }

    fn give_inode(&self) {
        self.inodes.fetch_sub(1, Ordering::Relaxed);
    }

    /// A new inode without a name.
    pub(crate) fn make(self: &Arc<Self>, node: &NewNode, now: Timestamp) -> Result<Arc<TmpInode>, Errno> {
        let ino = self.take_inode()?;
        Ok(TmpInode::new(self, ino, node, now, Seals::F_SEAL_SEAL))
    }

    /// A new regular file without a name that may be sealed, unless `seals` say otherwise.
    pub(crate) fn make_sealable(
        self: &Arc<Self>,
        node: &NewNode,
        now: Timestamp,
        seals: Seals,
    ) -> Result<Arc<TmpInode>, Errno> {
        let ino = self.take_inode()?;
        Ok(TmpInode::new(self, ino, node, now, seals))
    }

    fn object(&self, seals: Seals) -> Arc<MemoryObject> {
        Arc::new(MemoryObject::new(&self.memory, Some(Arc::clone(&self.budget)), 0, seals))
    }
}

/// A tmpfs whose contents are in `memory`.
pub fn new(memory: &Arc<MemoryFile>, options: &TmpfsOptions) -> Result<Arc<dyn Filesystem>, Errno> {
    build(memory, options, None)
}

/// A tmpfs whose contents are in `memory` and count in `account`, too.
pub fn new_within(
    memory: &Arc<MemoryFile>,
    options: &TmpfsOptions,
    account: &Account,
) -> Result<Arc<dyn Filesystem>, Errno> {
    build(memory, options, Some(account))
}

fn build(
    memory: &Arc<MemoryFile>,
    options: &TmpfsOptions,
    account: Option<&Account>,
) -> Result<Arc<dyn Filesystem>, Errno> {
    let fs = TmpFs::create(memory, options, account);
    let node = NewNode { kind: NodeKind::Directory, mode: options.mode, uid: options.uid, gid: options.gid };
    let root = fs.make(&node, SystemClock.now())?;
    Ok(Arc::new(TmpTree { fs, root }))
}

/// A tmpfs with its root.
struct TmpTree {
    fs: Arc<TmpFs>,
    root: Arc<TmpInode>,
}

impl Filesystem for TmpTree {
    fn type_name(&self) -> &str {
        "tmpfs"
    }

    fn root(&self) -> Inode {
        Arc::clone(&self.root) as Inode
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        let blocks = self.fs.budget.limit() / PAGE_SIZE;
        let free = self.fs.budget.left() / PAGE_SIZE;
        Ok(StatFs {
            magic: abi::stat::TMPFS_MAGIC,
            block_size: PAGE_SIZE,
            blocks,
            blocks_free: free,
            blocks_available: free,
            files: self.fs.max_inodes,
            files_free: self.fs.max_inodes.saturating_sub(self.fs.inodes.load(Ordering::Relaxed)),
            name_max: 255,
            fsid: self.fs.device,
        })
    }

    fn device(&self) -> u64 {
        self.fs.device
    }

    fn options(&self) -> String {
        format!("size={}k,nr_inodes={}", self.fs.budget.limit() / 1024, self.fs.max_inodes)
    }
}
