//! Trees of the host, reached through a directory descriptor.
//!
//! The descriptor is that of a detached bind mount: above it there is nothing. Beneath it every open is an `openat2` of a
//! name (or of names that are known to be directories) with `RESOLVE_BENEATH`, `NO_XDEV`, `NO_SYMLINKS` and
//! `NO_MAGICLINKS`, so that neither links nor `..` nor a mount lead out, whatever the host does to the tree meanwhile.
//! Only regular files, directories and symbolic links are opened, and only after their type was seen; a FIFO, socket or
//! device shows in the tree and answers `ENXIO`.
//!
//! How long an answer of the host is believed is the tree's [`Belief`] (docs/adr/0020-host-changes.md). Descriptors of
//! directories, and of files where belief lasts at all, are kept up to a bound; everything else is opened on use.

mod calls;
mod dir;
mod file;
mod inode;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use auth::{Gid, Uid};
use hashbrown::HashMap;
use sync::Mutex;

use crate::vfs::{Caching, Filesystem, Inode, StatFs, new_device_id};
use crate::{lockclass, table};

use calls::Found;
use inode::HostInode;

pub use calls::HOST_CALLS;

/// Whether a tree may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Never written.
    ReadOnly,
    /// Written through.
    ReadWrite,
}

/// For how long what the host said of a tree is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Belief {
    /// For good: nobody else changes the tree.
    Lasting,
    /// For a second: others change it now and then.
    Brief,
    /// Not at all: others change it, and are seen at once.
    None,
}

impl Belief {
    const fn caching(self) -> Caching {
        match self {
            Self::Lasting => Caching::Stable,
            Self::Brief => Caching::Brief,
            Self::None => Caching::Revalidate,
        }
    }
}

/// How owners on the host show inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ids {
    /// As they are.
    All,
    /// One user and one group have a meaning; everyone else shows as 0, and nothing can be given away.
    Single {
        /// The user as the sandbox process sees it on files.
        host_uid: u32,
        /// The group likewise.
        host_gid: u32,
        /// What that user is inside.
        uid: Uid,
        /// What that group is inside.
        gid: Gid,
    },
}

/// How a host tree is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostOptions {
    /// Whether it may be written.
    pub access: Access,
    /// Who else changes it.
    pub belief: Belief,
    /// How owners show.
    pub ids: Ids,
}

/// Host descriptors kept open per tree at most, beyond those of open files.
const MAX_CACHED_FDS: usize = 512;

/// A tree of the host.
struct HostFs {
    options: HostOptions,
    device: u64,
    /// The directory, or (of a single file) the file itself, open for what the options allow.
    root_fd: Arc<OwnedFd>,
    root_found: Found,
    /// Device numbers of the host, and what they show as.
    devices: Mutex<HashMap<u64, u64>>,
    /// Inodes in use, by device and inode number on the host.
    inodes: Mutex<HashMap<(u64, u64), Weak<HostInode>>>,
    fds: Mutex<std::collections::VecDeque<Weak<HostInode>>>,
}

static NEXT_MAPPABLE: AtomicU64 = AtomicU64::new(1);

/// A number for a mappable object, never reused.
pub(crate) fn next_mappable_id() -> u64 {
    NEXT_MAPPABLE.fetch_add(1, Ordering::Relaxed)
}

/// Shows the tree below `root`: a descriptor of a directory (`O_PATH` will do), or of one regular file opened for what
/// `options` allow.
pub fn new(root: OwnedFd, options: HostOptions) -> Result<Arc<dyn Filesystem>, Errno> {
    let found = calls::stat_fd(root.as_fd())?;
    let fs = Arc::new(HostFs {
        options,
        device: new_device_id(),
        root_fd: Arc::new(root),
        root_found: found,
        devices: Mutex::new(lockclass::HOST, HashMap::new()),
        inodes: Mutex::new(lockclass::HOST, HashMap::new()),
        fds: Mutex::new(lockclass::HOST, std::collections::VecDeque::new()),
    });
    let root = fs.inode(None, b"", found);
    Ok(Arc::new(HostTree { fs, root }))
}

impl HostFs {
    fn is_writable(&self) -> bool {
        self.options.access == Access::ReadWrite
    }

    fn belief(&self) -> Belief {
        self.options.belief
    }

    /// The device number that stands for one of the host.
    fn device_of(&self, host: u64) -> u64 {
        if host == self.root_found.dev {
            return self.device;
        }
        *self.devices.lock().entry(host).or_insert_with(new_device_id)
    }

    fn uid_of(&self, host: u32) -> Uid {
        match self.options.ids {
            Ids::All => Uid(host),
            Ids::Single { host_uid, uid, .. } if host_uid == host => uid,
            Ids::Single { .. } => Uid::ROOT,
        }
    }

    fn gid_of(&self, host: u32) -> Gid {
        match self.options.ids {
            Ids::All => Gid(host),
            Ids::Single { host_gid, gid, .. } if host_gid == host => gid,
            Ids::Single { .. } => Gid::ROOT,
        }
    }

    /// The inode of what was found in a directory: the one in use, or a new one.
    fn inode(self: &Arc<Self>, parent: Option<&Arc<HostInode>>, name: &[u8], found: Found) -> Arc<HostInode> {
        let key = (found.dev, found.ino);
        let known = self.inodes.lock().get(&key).and_then(Weak::upgrade);
        if let Some(inode) = known
            && inode.is_of(&found)
        {
            inode.seen_at(parent, name, found);
            return inode;
        }
        let inode = HostInode::new(Arc::clone(self), parent, name, found);
        let old = self.inodes.lock().insert(key, Arc::downgrade(&inode));
        drop(old);
        inode
    }

    /// An inode is gone: so is its entry, unless a new one has taken its place.
    fn forget(&self, key: (u64, u64)) {
        let mut inodes = self.inodes.lock();
        if inodes.get(&key).is_some_and(|weak| weak.strong_count() == 0) {
            table::remove(&mut inodes, &key);
        }
    }

    /// Notes that an inode keeps a descriptor; past the limit the oldest closes its own.
    fn fd_cached(&self, inode: &Arc<HostInode>) {
        let victim = {
            let mut fds = self.fds.lock();
            fds.push_back(Arc::downgrade(inode));
            if fds.len() > MAX_CACHED_FDS { fds.pop_front() } else { None }
        };
        if let Some(victim) = victim.and_then(|weak| weak.upgrade()) {
            victim.close_cached();
        }
    }
}

/// A tree taken into use: the file system with its root inode, which holds it.
struct HostTree {
    fs: Arc<HostFs>,
    root: Arc<HostInode>,
}

impl Filesystem for HostTree {
    fn type_name(&self) -> &str {
        "casemate"
    }

    fn root(&self) -> Inode {
        Arc::clone(&self.root) as Inode
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        calls::statfs(self.fs.root_fd.as_fd(), self.fs.device)
    }

    fn device(&self) -> u64 {
        self.fs.device
    }
}
