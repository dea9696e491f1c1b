//! Dentries: names in directories, cached.
//!
//! A dentry is always positive; absence is an entry in its directory's table of children. Children are held by their
//! directory (that is the cache, which `cache` bounds) and hold their parent, so what is in use keeps its way to the root.

mod cache;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::Errno;
use hashbrown::HashMap;
use sync::{Mutex, MutexGuard};

use crate::table::remove;
use crate::vfs::inode::{Caching, DirOps, Inode};
use crate::vfs::moment::{AtomicMoment, Moment};
use crate::vfs::types::FileType;

use crate::{Context, lockclass};
pub use cache::{dentry_cache_limit, drop_dentry_cache, set_dentry_cache_limit};

/// Names as they are shared between a dentry and its directory.
pub(crate) type Name = Arc<[u8]>;

/// A name for an inode.
pub struct Dentry {
    inode: Inode,
    /// Identity of the superblock, to compare file systems cheaply.
    superblock: u64,
    links: Mutex<Links>,
    children: Mutex<HashMap<Name, Child>>,
    /// Held across each lookup that asks the file system and each change of this directory.
    pub(crate) dir_op: Mutex<()>,
    /// How many mounts are on this dentry, in any namespace. Relaxed: a walk that races a mount may miss it, as on Linux.
    mounts: AtomicU32,
    /// Below a directory whose names are not worth keeping ([`DirOps::keeps_unused`]).
    transient: bool,
    /// Found since the cache last looked. Relaxed: a hint.
    used: AtomicBool,
    /// When the file system last said that this name stands for this object.
    confirmed: AtomicMoment,
}

struct Links {
    parent: Option<Arc<Dentry>>,
    name: Name,
    /// Whether the name is gone: unlinked, or never was (`O_TMPFILE`).
    state: LinkState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Linked,
    Unlinked,
    /// A pipe, a socket: the name is all of the path.
    Pseudo,
}

enum Child {
    Positive(Arc<Dentry>),
    /// The file system said so at this moment.
    Negative(Moment),
}

/// What a directory's cache says about a name.
enum Cached {
    Positive(Arc<Dentry>),
    Negative,
    /// The name was there when last asked about, which is too long ago.
    Past(Arc<Dentry>),
    Unknown,
}

impl Dentry {
    fn make(inode: Inode, superblock: u64, links: Links) -> Arc<Self> {
        let below = |dir: &Arc<Self>| dir.transient || dir.inode.dir().is_some_and(|dir| !dir.keeps_unused());
        let transient = links.parent.as_ref().is_some_and(below);
        Arc::new(Self {
            inode,
            superblock,
            links: Mutex::new(lockclass::DENTRY_LINKS, links),
            children: Mutex::new(lockclass::DENTRY_CHILDREN, HashMap::new()),
            dir_op: Mutex::new(lockclass::DIR_OP, ()),
            mounts: AtomicU32::new(0),
            transient,
            used: AtomicBool::new(false),
            confirmed: AtomicMoment::now(),
        })
    }

    /// The root of a superblock.
    pub(crate) fn new_root(inode: Inode, superblock: u64) -> Arc<Self> {
        Self::make(inode, superblock, Links { parent: None, name: Arc::from(&b"/"[..]), state: LinkState::Linked })
    }

    /// A dentry outside any directory, whose name is its whole path.
    pub(crate) fn new_pseudo(inode: Inode, superblock: u64, name: &[u8]) -> Arc<Self> {
        Self::make(inode, superblock, Links { parent: None, name: Arc::from(name), state: LinkState::Pseudo })
    }

    /// A dentry without a name, below `parent` (`O_TMPFILE`).
    pub(crate) fn new_unlinked(inode: Inode, parent: &Arc<Self>, name: &[u8]) -> Arc<Self> {
        let links = Links { parent: Some(Arc::clone(parent)), name: Arc::from(name), state: LinkState::Unlinked };
        Self::make(inode, parent.superblock, links)
    }

    /// The object.
    pub fn inode(&self) -> &Inode {
        &self.inode
    }

    /// The directory this name is in; `None` at a root.
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.links.lock().parent.clone()
    }

    /// The last part of the path.
    pub fn name(&self) -> Arc<[u8]> {
        Arc::clone(&self.links.lock().name)
    }

    /// Whether the name is gone.
    pub fn is_unlinked(&self) -> bool {
        self.links.lock().state == LinkState::Unlinked
    }

    /// Whether the name is the whole path (pipes, sockets).
    pub(crate) fn is_pseudo(&self) -> bool {
        self.links.lock().state == LinkState::Pseudo
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.inode.file_type() == FileType::Directory
    }

    /// The directory side; `ENOTDIR`.
    pub(crate) fn dir(&self) -> Result<&dyn DirOps, Errno> {
        self.inode.dir().ok_or(Errno::ENOTDIR)
    }

    pub(crate) fn is_mountpoint(&self) -> bool {
        self.mounts.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn add_mount(&self) {
        self.mounts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_mount(&self) {
        self.mounts.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether `self` is `other` or above it.
    pub(crate) fn is_ancestor_of(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        let mut cur = Arc::clone(other);
        loop {
            if Arc::ptr_eq(self, &cur) {
                return true;
            }
            let Some(parent) = cur.parent() else { return false };
            cur = parent;
        }
    }

    fn cached(&self, name: &[u8], caching: Caching) -> Cached {
        let holds = |moment: Moment| match caching {
            Caching::Stable => true,
            Caching::Brief => moment.is_recent(),
            Caching::Revalidate => false,
        };
        match self.children.lock().get(name) {
            Some(Child::Positive(child)) if holds(child.confirmed.load()) => {
                // Most are marked already: a line that several cores read is not written for nothing.
                if !child.used.load(Ordering::Relaxed) {
                    child.used.store(true, Ordering::Relaxed);
                }
                Cached::Positive(Arc::clone(child))
            }
            Some(Child::Positive(child)) => Cached::Past(Arc::clone(child)),
            Some(Child::Negative(moment)) if holds(*moment) => Cached::Negative,
            Some(Child::Negative(_)) | None => Cached::Unknown,
        }
    }

    /// The child called `name`, from the cache or the file system.
    pub(crate) fn lookup(self: &Arc<Self>, ctx: &Context<'_>, name: &[u8]) -> Result<Arc<Self>, Errno> {
        let caching = self.dir()?.caching();
        if caching != Caching::Revalidate {
            match self.cached(name, caching) {
                Cached::Positive(child) => return Ok(child),
                Cached::Negative => return Err(Errno::ENOENT),
                Cached::Past(_) | Cached::Unknown => {}
            }
        }
        let _op = self.dir_op.lock();
        self.lookup_locked(ctx, name)
    }

    /// [`Dentry::lookup`] that asks the file system, unless the cache holds for good.
    pub(crate) fn lookup_again(self: &Arc<Self>, ctx: &Context<'_>, name: &[u8]) -> Result<Arc<Self>, Errno> {
        let caching = match self.dir()?.caching() {
            Caching::Brief => Caching::Revalidate,
            other => other,
        };
        let _op = self.dir_op.lock();
        self.lookup_as(ctx, name, caching)
    }

    /// [`Dentry::lookup`] for who holds this directory's `dir_op`.
    pub(crate) fn lookup_locked(self: &Arc<Self>, ctx: &Context<'_>, name: &[u8]) -> Result<Arc<Self>, Errno> {
        self.lookup_as(ctx, name, self.dir()?.caching())
    }

    fn lookup_as(self: &Arc<Self>, ctx: &Context<'_>, name: &[u8], caching: Caching) -> Result<Arc<Self>, Errno> {
        let past = match self.cached(name, caching) {
            Cached::Positive(child) => return Ok(child),
            Cached::Negative => return Err(Errno::ENOENT),
            Cached::Past(child) => Some(child),
            Cached::Unknown => None,
        };
        match self.dir()?.lookup(ctx, name) {
            Ok(inode) => {
                if let Some(child) = past {
                    if is_same_object(&child.inode, &inode) {
                        child.confirmed.set_now();
                        return Ok(child);
                    }
                    self.drop_child(name);
                }
                Ok(self.instantiate(name, inode))
            }
            Err(Errno::ENOENT) => {
                if past.is_some() {
                    self.drop_child(name);
                }
                if caching != Caching::Revalidate && !self.is_unlinked() {
                    self.insert_negative(name);
                }
                Err(Errno::ENOENT)
            }
            Err(other) => Err(other),
        }
    }

    /// Holds the lookups and changes of two directories, which may be one, against those who hold no tree lock.
    pub(crate) fn lock_both<'a>(
        one: &'a Arc<Self>,
        other: &'a Arc<Self>,
    ) -> (MutexGuard<'a, ()>, Option<MutexGuard<'a, ()>>) {
        let (first, second) = match Arc::as_ptr(one).cmp(&Arc::as_ptr(other)) {
            std::cmp::Ordering::Equal => return (one.dir_op.lock(), None),
            std::cmp::Ordering::Less => (one, other),
            std::cmp::Ordering::Greater => (other, one),
        };
        // Two locks of one class, in the order of their addresses.
        let held = first.dir_op.lock();
        (held, Some(second.dir_op.lock_nested()))
    }

    /// Enters a child that the file system has just named.
    pub(crate) fn instantiate(self: &Arc<Self>, name: &[u8], inode: Inode) -> Arc<Self> {
        let name: Name = Arc::from(name);
        let links = Links { parent: Some(Arc::clone(self)), name: Arc::clone(&name), state: LinkState::Linked };
        let child = Self::make(inode, self.superblock, links);
        let old = self.children.lock().insert(name, Child::Positive(Arc::clone(&child)));
        drop(old);
        cache::inserted(&child);
        child
    }

    fn insert_negative(self: &Arc<Self>, name: &[u8]) {
        let name: Name = Arc::from(name);
        let old = self.children.lock().insert(Arc::clone(&name), Child::Negative(Moment::now()));
        // A name that was absent before is on the list.
        if !matches!(old, Some(Child::Negative(_))) {
            cache::absent(self, name);
        }
    }

    /// Forgets what is known of a name; the old dentry counts as unlinked.
    pub(crate) fn drop_child(&self, name: &[u8]) {
        let old = remove(&mut self.children.lock(), name);
        if let Some(Child::Positive(child)) = old {
            child.links.lock().state = LinkState::Unlinked;
        }
    }

    /// The child's name is gone: it stays as an unlinked dentry for those who hold it.
    pub(crate) fn unlinked(&self, child: &Arc<Self>) {
        let name = child.name();
        let mut children = self.children.lock();
        if matches!(children.get(&*name), Some(Child::Positive(cached)) if Arc::ptr_eq(cached, child)) {
            remove(&mut children, &*name);
        }
        drop(children);
        child.links.lock().state = LinkState::Unlinked;
    }

    /// Forgets that a name is absent, before it is created.
    pub(crate) fn forget_negative(&self, name: &[u8]) {
        let mut children = self.children.lock();
        if matches!(children.get(name), Some(Child::Negative(_))) {
            remove(&mut children, name);
        }
    }

    /// Gives an unlinked dentry (`O_TMPFILE`) its name.
    pub(crate) fn link_as(self: &Arc<Self>, child: &Arc<Self>, name: &[u8]) {
        self.adopt(child, name);
    }

    fn adopt(self: &Arc<Self>, child: &Arc<Self>, name: &[u8]) {
        let name: Name = Arc::from(name);
        {
            let mut links = child.links.lock();
            links.parent = Some(Arc::clone(self));
            links.name = Arc::clone(&name);
            links.state = LinkState::Linked;
        }
        child.confirmed.set_now();
        let old = self.children.lock().insert(name, Child::Positive(Arc::clone(child)));
        drop(old);
    }

    /// Moves `child` of `self` to `new_dir` under `new_name`; the tree is held for writing.
    pub(crate) fn moved(self: &Arc<Self>, child: &Arc<Self>, new_dir: &Arc<Self>, new_name: &[u8]) {
        let name = child.name();
        remove(&mut self.children.lock(), &*name);
        new_dir.adopt(child, new_name);
    }

    /// Exchanges two dentries; the tree is held for writing.
    pub(crate) fn exchanged(self: &Arc<Self>, child: &Arc<Self>, other_dir: &Arc<Self>, other: &Arc<Self>) {
        let (name, other_name) = (child.name(), other.name());
        self.adopt(other, &name);
        other_dir.adopt(child, &other_name);
    }

    /// Empties the cache below: children and parents hold each other, so a tree that goes out of use is taken apart.
    pub(crate) fn take_apart(self: &Arc<Self>) {
        let mut stack = vec![Arc::clone(self)];
        while let Some(dentry) = stack.pop() {
            let children = std::mem::take(&mut *dentry.children.lock());
            stack.extend(children.into_values().filter_map(|child| match child {
                Child::Positive(child) => Some(child),
                Child::Negative(_) => None,
            }));
        }
    }

    /// Removes this dentry from the cache if nobody else uses it; whether it went.
    fn evict(self: &Arc<Self>) -> bool {
        let Some(parent) = self.parent() else { return false };
        let name = self.name();
        let mut children = parent.children.lock();
        // Two references: the table's and ours (`self`). More mean use, also by children, who hold their parent.
        // New references come only through the table, whose lock is held.
        let held = matches!(children.get(&*name), Some(Child::Positive(cached)) if Arc::ptr_eq(cached, self));
        if !held || Arc::strong_count(self) > 2 || self.is_mountpoint() {
            return false;
        }
        let old = remove(&mut children, &*name);
        drop(children);
        drop(old);
        self.inode.forget();
        true
    }
}

/// Whether two inodes that one name led to are one object.
fn is_same_object(one: &Inode, other: &Inode) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
        || !other.is_only_one() && one.identity() == other.identity() && one.file_type() == other.file_type()
}

impl core::fmt::Debug for Dentry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Dentry").field("name", &String::from_utf8_lossy(&self.name())).finish_non_exhaustive()
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        // A deep path would drop its parents recursively: unwind it in a loop.
        let mut parent = self.links.get_mut().parent.take();
        while let Some(dentry) = parent {
            match Arc::try_unwrap(dentry) {
                Ok(mut only) => parent = only.links.get_mut().parent.take(),
                Err(_) => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::Errno;
    use auth::{Gid, Uid};

    use super::{Dentry, cache, drop_dentry_cache};
    use crate::kernfs::{Directory, Owned, Tree};
    use crate::vfs::inode::Inode;
    use crate::vfs::pseudo::AnonInode;
    use crate::vfs::types::{DirEntry, FileType};
    use crate::{Context, KernelContext};

    #[test]
    fn dentries_that_are_gone_leave_the_list() {
        let inode = || AnonInode::new(FileType::Directory, 0o755, Uid::ROOT, Gid::ROOT);
        let root = Dentry::new_root(inode(), 1);
        // Each takes the place of the one before.
        for _ in 0..10_000 {
            root.instantiate(b"name", inode());
        }
        assert!(cache::len() < 5_000, "{} entries", cache::len());
        root.take_apart();
    }

    /// A directory in which every name is a directory like it.
    struct Everything(Tree);

    impl Owned for Everything {}

    impl Directory for Everything {
        fn lookup(&self, _ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
            Ok(self.0.dir(Tree::ino(2, name), 0o755, Everything(self.0)))
        }

        fn list(&self, _ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn names_that_are_asked_for_anew_are_not_kept() {
        let kernel = KernelContext::default();
        let ctx = kernel.context();
        let tree = Tree::new();
        let root = Dentry::new_root(tree.dir(1, 0o755, Everything(tree)), 1);
        let used = root.lookup(&ctx, b"used").unwrap();
        for number in 0..10_000_u32 {
            let dir = root.lookup(&ctx, number.to_string().as_bytes()).unwrap();
            dir.lookup(&ctx, b"below").unwrap();
        }
        let kept = root.children.lock().len();
        assert!((1..5_000).contains(&kept), "{kept} names");
        assert!(std::sync::Arc::ptr_eq(&used, &root.lookup(&ctx, b"used").unwrap()));
        root.take_apart();
    }

    #[test]
    fn absent_names_are_bounded_over_all_directories() {
        let inode = || AnonInode::new(FileType::Directory, 0o755, Uid::ROOT, Gid::ROOT);
        let root = Dentry::new_root(inode(), 1);
        let dirs: Vec<_> = (0..40_u32).map(|dir| root.instantiate(dir.to_string().as_bytes(), inode())).collect();
        for dir in &dirs {
            for number in 0..1000_u32 {
                dir.insert_negative(number.to_string().as_bytes());
            }
        }
        let known = |dir: &std::sync::Arc<Dentry>| dir.children.lock().len();
        let all: usize = dirs.iter().map(known).sum();
        assert!(all <= cache::MAX_ABSENT, "{all} absent names");
        // The oldest went, and the room that they took.
        assert_eq!(known(&dirs[0]), 0);
        assert!(dirs[0].children.lock().capacity() < 200);
        root.take_apart();
    }

    #[test]
    fn a_dropped_cache_keeps_what_is_in_use() {
        let inode = || AnonInode::new(FileType::Directory, 0o755, Uid::ROOT, Gid::ROOT);
        let root = Dentry::new_root(inode(), 1);
        let used = root.instantiate(b"used", inode());
        let below = used.instantiate(b"below", inode());
        for number in 0..100_u32 {
            let dir = below.instantiate(number.to_string().as_bytes(), inode());
            dir.instantiate(b"deeper", inode());
            dir.insert_negative(b"absent");
        }
        drop(below);
        used.insert_negative(b"absent");
        drop_dentry_cache();
        assert!(used.children.lock().is_empty());
        assert_eq!(root.children.lock().len(), 1);
        root.take_apart();
    }
}
