//! A read-only tree put together from directories and links of its own and the roots of other file systems.
//!
//! The lower layer of a guest's `/` where the host's `/` had to be taken apart: one overlay over this is one file system to
//! the guest, with one device number and renames between all its directories. [`Composer`] collects, [`Composer::build`]
//! ends that: the tree never changes afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use auth::{Gid, Uid};

use crate::vfs::{
    Attr, DirEntry, DirOps, FileType, Filesystem, Inode, InodeOps, InodeSlots, StatFs, Timestamp, new_device_id,
};
use crate::{Clock, Context, SystemClock};

/// Owner, group and permission bits of a directory of the tree's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Looks {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
}

impl Looks {
    /// A directory of root's that everyone may search.
    pub const PLAIN: Self = Self { mode: 0o755, uid: Uid::ROOT, gid: Gid::ROOT };
}

/// What stands at a name.
enum Entry {
    Directory(Looks, BTreeMap<Box<[u8]>, Entry>),
    Symlink(Vec<u8>),
    Graft(Arc<dyn Filesystem>),
}

/// A tree in the making. Paths are lists of names from its root.
pub struct Composer {
    looks: Looks,
    entries: BTreeMap<Box<[u8]>, Entry>,
}

impl Composer {
    /// An empty root.
    pub const fn new(looks: Looks) -> Self {
        Self { looks, entries: BTreeMap::new() }
    }

    /// Puts `entry` at `path`, with plain directories on the way. `EEXIST`; `ENOTDIR` below what is no directory of ours.
    fn put(&mut self, path: &[&[u8]], entry: Entry) -> Result<(), Errno> {
        let (last, above) = path.split_last().ok_or(Errno::EEXIST)?;
        let mut entries = &mut self.entries;
        for name in above {
            let next = entries.entry((*name).into()).or_insert_with(|| Entry::Directory(Looks::PLAIN, BTreeMap::new()));
            let Entry::Directory(_, below) = next else { return Err(Errno::ENOTDIR) };
            entries = below;
        }
        match (entries.get_mut(*last), entry) {
            (None, entry) => {
                entries.insert((*last).into(), entry);
                Ok(())
            }
            // One that was only on the way gets its own looks.
            (Some(Entry::Directory(looks, _)), Entry::Directory(new, _)) => {
                *looks = new;
                Ok(())
            }
            _ => Err(Errno::EEXIST),
        }
    }

    /// A directory of the tree's own; one that is there gets these looks. `EEXIST`, `ENOTDIR`.
    pub fn directory(&mut self, path: &[&[u8]], looks: Looks) -> Result<(), Errno> {
        if path.is_empty() {
            self.looks = looks;
            return Ok(());
        }
        self.put(path, Entry::Directory(looks, BTreeMap::new()))
    }

    /// A symbolic link. `EEXIST`, `ENOTDIR`.
    pub fn symlink(&mut self, path: &[&[u8]], target: &[u8]) -> Result<(), Errno> {
        self.put(path, Entry::Symlink(target.to_vec()))
    }

    /// The root of `fs`, directory or file, at `path`. `EEXIST`; `ENOTDIR` below another graft.
    pub fn graft(&mut self, path: &[&[u8]], fs: Arc<dyn Filesystem>) -> Result<(), Errno> {
        self.put(path, Entry::Graft(fs))
    }

    /// Whether `path` is a graft or below one: it cannot hold anything of ours.
    pub fn is_taken(&self, path: &[&[u8]]) -> bool {
        let mut entries = &self.entries;
        for name in path {
            match entries.get(*name) {
                Some(Entry::Directory(_, below)) => entries = below,
                Some(Entry::Symlink(_) | Entry::Graft(_)) => return true,
                None => return false,
            }
        }
        false
    }

    /// The tree.
    pub fn build(self) -> Arc<dyn Filesystem> {
        let mut maker =
            Maker { device: new_device_id(), next: AtomicU64::new(1), now: SystemClock.now(), grafts: Vec::new() };
        let root = maker.directory(self.looks, self.entries);
        Arc::new(Composed { device: maker.device, root, grafts: maker.grafts })
    }
}

/// Numbers nodes and collects the file systems that they come from.
struct Maker {
    device: u64,
    next: AtomicU64,
    now: Timestamp,
    grafts: Vec<Arc<dyn Filesystem>>,
}

impl Maker {
    fn node(&mut self, file_type: FileType, looks: Looks, body: Body) -> Arc<Node> {
        // Relaxed: only numbers.
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        let mut attr = Attr::new(self.device, ino, file_type, looks.mode, self.now);
        (attr.uid, attr.gid) = (looks.uid, looks.gid);
        match &body {
            Body::Directory(children) => {
                attr.size = 4096;
                let below = children.values().filter(|child| child.file_type() == FileType::Directory).count();
                attr.nlink = u32::try_from(below).unwrap_or(u32::MAX).saturating_add(2);
            }
            Body::Symlink(target) => attr.size = target.len() as u64,
        }
        Arc::new(Node { attr, body, slots: InodeSlots::new() })
    }

    /// Recursion: as deep as the paths that the runner named.
    fn directory(&mut self, looks: Looks, entries: BTreeMap<Box<[u8]>, Entry>) -> Arc<Node> {
        let mut children = BTreeMap::new();
        for (name, entry) in entries {
            let child: Inode = match entry {
                Entry::Directory(looks, below) => self.directory(looks, below),
                Entry::Symlink(target) => {
                    let looks = Looks { mode: 0o777, ..Looks::PLAIN };
                    self.node(FileType::Symlink, looks, Body::Symlink(target))
                }
                Entry::Graft(fs) => {
                    let root = fs.root();
                    self.grafts.push(fs);
                    root
                }
            };
            children.insert(name, child);
        }
        self.node(FileType::Directory, looks, Body::Directory(children))
    }
}

/// A directory or link of the tree's own.
struct Node {
    attr: Attr,
    body: Body,
    slots: InodeSlots,
}

enum Body {
    Directory(BTreeMap<Box<[u8]>, Inode>),
    Symlink(Vec<u8>),
}

impl InodeOps for Node {
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(self.attr)
    }

    fn file_type(&self) -> FileType {
        self.attr.file_type
    }

    fn identity(&self) -> (u64, u64) {
        (self.attr.dev, self.attr.ino)
    }

    fn slots(&self) -> &InodeSlots {
        &self.slots
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        matches!(self.body, Body::Directory(_)).then_some(self as &dyn DirOps)
    }

    fn readlink(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        match &self.body {
            Body::Symlink(target) => Ok(target.clone()),
            Body::Directory(_) => Err(Errno::EINVAL),
        }
    }
}

impl Node {
    fn children(&self) -> Result<&BTreeMap<Box<[u8]>, Inode>, Errno> {
        match &self.body {
            Body::Directory(children) => Ok(children),
            Body::Symlink(_) => Err(Errno::ENOTDIR),
        }
    }
}

impl DirOps for Node {
    fn lookup(&self, _ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        self.children()?.get(name).cloned().ok_or(Errno::ENOENT)
    }

    fn list(&self, _ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        let mut all = Vec::new();
        for (name, inode) in self.children()? {
            all.push(DirEntry { name: name.to_vec(), ino: inode.identity().1, file_type: inode.file_type() });
        }
        Ok(all)
    }

    fn spans_devices(&self) -> bool {
        true
    }
}

/// A finished tree.
struct Composed {
    device: u64,
    root: Arc<Node>,
    /// Kept while their roots are shown.
    grafts: Vec<Arc<dyn Filesystem>>,
}

impl Filesystem for Composed {
    fn type_name(&self) -> &str {
        "casemate"
    }

    fn root(&self) -> Inode {
        Arc::clone(&self.root) as Inode
    }

    /// The figures of the largest part: most of them lie on one file system of the host.
    fn statfs(&self) -> Result<StatFs, Errno> {
        let empty = StatFs { block_size: 4096, name_max: 255, ..StatFs::default() };
        let parts = self.grafts.iter().filter_map(|fs| fs.statfs().ok());
        let largest =
            parts.max_by_key(|part| part.blocks.saturating_sub(part.blocks_free).saturating_mul(part.block_size));
        Ok(StatFs { magic: abi::stat::TMPFS_MAGIC, fsid: self.device, ..largest.unwrap_or(empty) })
    }

    fn device(&self) -> u64 {
        self.device
    }
}
