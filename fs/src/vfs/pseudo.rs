//! Files without a place in any tree: their inodes, and the mount that stands for "nowhere".

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use abi::Errno;
use auth::{Gid, Uid};
use sync::Mutex;

use crate::vfs::inode::{Inode, InodeOps, InodeSlots};
use crate::vfs::mount::{Filesystem, Mount, MountOptions, Path, Superblock, new_device_id};
use crate::vfs::types::{Attr, FileType, SetAttr, StatFs, Timestamp};
use crate::{Clock, Context, SystemClock, lockclass};

/// The inode of a file without a place.
pub struct AnonInode {
    ino: u64,
    file_type: FileType,
    attr: Mutex<Attr>,
    slots: InodeSlots,
}

impl AnonInode {
    /// An inode of this kind, owned by these ids, with times of now.
    pub fn new(file_type: FileType, mode: u32, uid: Uid, gid: Gid) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let ino = NEXT.fetch_add(1, Ordering::Relaxed);
        let now: Timestamp = SystemClock.now();
        let attr = Attr { uid, gid, btime: None, ..Attr::new(PSEUDO.device, ino, file_type, mode, now) };
        Arc::new(Self { ino, file_type, attr: Mutex::new(lockclass::INODE, attr), slots: InodeSlots::new() })
    }

    /// Inode number, for names such as `pipe:[7]`.
    pub fn ino(&self) -> u64 {
        self.ino
    }
}

impl InodeOps for AnonInode {
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.attr.lock())
    }

    fn file_type(&self) -> FileType {
        self.file_type
    }

    fn identity(&self) -> (u64, u64) {
        (PSEUDO.device, self.ino)
    }

    fn slots(&self) -> &InodeSlots {
        &self.slots
    }

    fn set_attr(&self, ctx: &Context<'_>, change: &SetAttr) -> Result<(), Errno> {
        if change.size.is_some() {
            return Err(Errno::EINVAL);
        }
        crate::vfs::generic_attr_change(&mut self.attr.lock(), change, ctx.clock);
        Ok(())
    }
}

/// The file system of files without a place.
struct PseudoFs {
    device: u64,
}

impl Filesystem for PseudoFs {
    fn type_name(&self) -> &str {
        "anon_inodefs"
    }

    fn root(&self) -> Inode {
        AnonInode::new(FileType::Directory, 0o555, Uid::ROOT, Gid::ROOT)
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: abi::stat::ANON_INODE_FS_MAGIC, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn device(&self) -> u64 {
        self.device
    }
}

static PSEUDO: LazyLock<PseudoFs> = LazyLock::new(|| PseudoFs { device: new_device_id() });
static PSEUDO_MOUNT: LazyLock<Arc<Mount>> = LazyLock::new(|| {
    let fs = Arc::new(PseudoFs { device: PSEUDO.device });
    // Not NOEXEC: a memfd may be executed, and nothing else here is a regular file.
    Mount::new(&Superblock::new(fs), b"none", MountOptions::NOSUID | MountOptions::NODEV)
});

impl Path {
    /// The place of an object that is in no tree.
    pub fn pseudo(name: &[u8], inode: Inode) -> Self {
        let mount = Arc::clone(&PSEUDO_MOUNT);
        let dentry = mount.superblock().pseudo(inode, name);
        Self { mount, dentry }
    }
}
