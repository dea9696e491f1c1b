//! `/dev/pts`: the slaves by number, and `ptmx`, each open of which makes a pair.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Gid, Uid};
use fs::vfs::{
    Attr, Caching, DirEntry, DirOps, FileOps, FileType, Filesystem, Inode, InodeOps, InodeSlots, SetAttr, StatFs,
    generic_attr_change, makedev, new_device_id,
};
use fs::{Clock as _, Context, SystemClock};
use sync::{LockClass, Mutex};

use super::ends::Master;
use super::pty::Pty;
use super::{MAX_PTYS, PTMX, SLAVE_MAJOR};
use crate::kernel::Kernel;

const TABLE: LockClass = LockClass::new("tty.devpts", 3655);
const ATTR: LockClass = LockClass::leaf("tty.attr");

const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
/// The slave of index 0 has this number.
const FIRST_INO: u64 = 3;

/// Group of slaves: Debian's and most others' `tty`, which write(1) and its like run as.
const TTY_GROUP: Gid = Gid(5);
const SLAVE_MODE: u32 = 0o620;
const PTMX_MODE: u32 = 0o666;

/// A terminal that is none of ours and shows among them: the caller's.
pub trait Foreign: Send + Sync {
    /// Opens it.
    fn open(&self, ctx: &Context<'_>, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno>;
}

/// The file system.
pub struct DevPts {
    kernel: Weak<Kernel>,
    /// Itself, for the pairs.
    own: Weak<Self>,
    device: u64,
    nodes: Mutex<BTreeMap<u32, Arc<Node>>>,
    root: Arc<Root>,
}

impl DevPts {
    pub(super) fn new(kernel: &Arc<Kernel>) -> Arc<Self> {
        let device = new_device_id();
        let now = SystemClock.now();
        Arc::new_cyclic(|own: &Weak<Self>| {
            let attr = Attr::new(device, ROOT_INO, FileType::Directory, 0o755, now);
            let ptmx = Attr { rdev: PTMX, ..Attr::new(device, PTMX_INO, FileType::CharDevice, PTMX_MODE, now) };
            let ptmx = Arc::new(Node::new(ptmx, Target::Multiplexer(Weak::clone(own))));
            let root = Arc::new(Root {
                attr: Mutex::new(ATTR, attr),
                device,
                slots: InodeSlots::new(),
                devpts: Weak::clone(own),
                ptmx,
            });
            Self {
                kernel: Arc::downgrade(kernel),
                own: Weak::clone(own),
                device,
                nodes: Mutex::new(TABLE, BTreeMap::new()),
                root,
            }
        })
    }

    /// Makes a pair; its master. `ENOSPC` when there are too many.
    pub(super) fn new_pair(&self, ctx: &Context<'_>) -> Result<Arc<Master>, Errno> {
        let mut nodes = self.nodes.lock();
        let index = (0..MAX_PTYS).find(|index| !nodes.contains_key(index)).ok_or(Errno::ENOSPC)?;
        let pty = Pty::new(index, &self.kernel, &self.own);
        nodes.insert(index, self.node(index, ctx.creds.fsuid, Target::Slave(Arc::downgrade(&pty))));
        drop(nodes);
        self.count();
        Ok(Arc::new(Master::new(pty)))
    }

    /// Shows a terminal that is none of ours under its own number; says whether that was free.
    pub fn adopt(&self, index: u32, uid: Uid, terminal: Arc<dyn Foreign>) -> bool {
        let mut nodes = self.nodes.lock();
        let free = !nodes.contains_key(&index);
        if free {
            nodes.insert(index, self.node(index, uid, Target::Foreign(terminal)));
        }
        free
    }

    pub(super) fn remove(&self, index: u32) {
        let node = self.nodes.lock().remove(&index);
        drop(node);
        self.count();
    }

    fn node(&self, index: u32, uid: Uid, target: Target) -> Arc<Node> {
        let ino = FIRST_INO + u64::from(index);
        let attr = Attr::new(self.device, ino, FileType::CharDevice, SLAVE_MODE, SystemClock.now());
        Arc::new(Node::new(Attr { uid, gid: TTY_GROUP, rdev: makedev(SLAVE_MAJOR, index), ..attr }, target))
    }

    fn count(&self) {
        if let Some(kernel) = self.kernel.upgrade() {
            let pairs = u32::try_from(self.nodes.lock().len()).unwrap_or(u32::MAX);
            kernel.tty_knobs().set_pairs(pairs);
        }
    }
}

impl Filesystem for DevPts {
    fn type_name(&self) -> &str {
        "devpts"
    }

    fn root(&self) -> Inode {
        Arc::clone(&self.root) as _
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: abi::stat::DEVPTS_SUPER_MAGIC, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn device(&self) -> u64 {
        self.device
    }

    fn options(&self) -> String {
        format!("gid={},mode={SLAVE_MODE:o},ptmxmode={PTMX_MODE:o}", TTY_GROUP.0)
    }
}

/// The directory.
struct Root {
    attr: Mutex<Attr>,
    device: u64,
    slots: InodeSlots,
    devpts: Weak<DevPts>,
    ptmx: Arc<Node>,
}

impl InodeOps for Root {
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.attr.lock())
    }

    fn file_type(&self) -> FileType {
        FileType::Directory
    }

    fn identity(&self) -> (u64, u64) {
        (self.device, ROOT_INO)
    }

    fn slots(&self) -> &InodeSlots {
        &self.slots
    }

    fn set_attr(&self, ctx: &Context<'_>, change: &SetAttr) -> Result<(), Errno> {
        generic_attr_change(&mut self.attr.lock(), change, ctx.clock);
        Ok(())
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        Some(self)
    }
}

impl DirOps for Root {
    fn lookup(&self, _ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        if name == b"ptmx" {
            return Ok(Arc::clone(&self.ptmx) as _);
        }
        // One name for each number: "07" is none.
        let index = std::str::from_utf8(name).ok().and_then(|text| text.parse::<u32>().ok()).ok_or(Errno::ENOENT)?;
        if index.to_string().as_bytes() != name {
            return Err(Errno::ENOENT);
        }
        let devpts = self.devpts.upgrade().ok_or(Errno::ENOENT)?;
        let node = devpts.nodes.lock().get(&index).cloned();
        Ok(node.ok_or(Errno::ENOENT)? as _)
    }

    fn list(&self, _ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        let entry = |name: String, ino| DirEntry { name: name.into_bytes(), ino, file_type: FileType::CharDevice };
        let mut entries = vec![entry("ptmx".to_owned(), PTMX_INO)];
        if let Some(devpts) = self.devpts.upgrade() {
            let indices: Vec<u32> = devpts.nodes.lock().keys().copied().collect();
            entries.extend(indices.into_iter().map(|index| entry(index.to_string(), FIRST_INO + u64::from(index))));
        }
        Ok(entries)
    }

    fn caching(&self) -> Caching {
        Caching::Revalidate
    }
}

/// What a node opens.
enum Target {
    Slave(Weak<Pty>),
    Multiplexer(Weak<DevPts>),
    Foreign(Arc<dyn Foreign>),
}

/// A node in the directory.
pub(super) struct Node {
    ino: (u64, u64),
    attr: Mutex<Attr>,
    slots: InodeSlots,
    target: Target,
}

impl Node {
    fn new(attr: Attr, target: Target) -> Self {
        Self { ino: (attr.dev, attr.ino), attr: Mutex::new(ATTR, attr), slots: InodeSlots::new(), target }
    }

    /// Whether it is the slave of `pty`.
    pub(super) fn is_slave_of(inode: &Inode, pty: &Arc<Pty>) -> bool {
        let any: &dyn Any = inode.as_ref();
        let node: Option<&Self> = any.downcast_ref();
        matches!(node.map(|node| &node.target), Some(Target::Slave(own)) if own.ptr_eq(&Arc::downgrade(pty)))
    }
}

impl InodeOps for Node {
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.attr.lock())
    }

    fn file_type(&self) -> FileType {
        FileType::CharDevice
    }

    fn identity(&self) -> (u64, u64) {
        self.ino
    }

    fn is_only_one(&self) -> bool {
        true
    }

    fn slots(&self) -> &InodeSlots {
        &self.slots
    }

    fn set_attr(&self, ctx: &Context<'_>, change: &SetAttr) -> Result<(), Errno> {
        generic_attr_change(&mut self.attr.lock(), change, ctx.clock);
        Ok(())
    }

    fn opens_itself(&self) -> bool {
        true
    }

    fn open(self: Arc<Self>, ctx: &Context<'_>, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        match &self.target {
            // The node of a pair that is gone, still held.
            Target::Slave(pty) => Ok(pty.upgrade().ok_or(Errno::EIO)?.open_slave(ctx, flags)?),
            Target::Multiplexer(devpts) => Ok(devpts.upgrade().ok_or(Errno::EIO)?.new_pair(ctx)?),
            Target::Foreign(terminal) => terminal.open(ctx, flags),
        }
    }
}
