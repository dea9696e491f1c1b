//! Superblocks, mounts and mount namespaces.
//!
//! A [`Superblock`] is one instance of a file system with its dentry tree; a [`Mount`] shows a subtree of it at a place; a
//! [`MountNs`] is the tree of mounts that a set of tasks sees. Propagation between mounts comes with the mount calls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use sync::{Mutex, RwLock};

use crate::Context;
use crate::lockclass;
use crate::vfs::dentry::Dentry;
use crate::vfs::inode::Inode;
use crate::vfs::types::{StatFs, makedev};

/// An instance of a file system.
pub trait Filesystem: Send + Sync {
    /// Type name as `/proc/mounts` shows it.
    fn type_name(&self) -> &str;
    /// The root directory (or, of a bound single file, that file).
    fn root(&self) -> Inode;
    /// Figures.
    fn statfs(&self) -> Result<StatFs, Errno>;
    /// Device number, as `/proc/self/mountinfo` shows it.
    fn device(&self) -> u64;
    /// Writes everything back, `syncfs(2)`.
    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// Options of the file system for `/proc/mounts`, comma-separated.
    fn options(&self) -> String {
        String::new()
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static NEXT_DEVICE: AtomicU32 = AtomicU32::new(1);

fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// A device number for a file system without a device (major 0).
pub fn new_device_id() -> u64 {
    makedev(0, NEXT_DEVICE.fetch_add(1, Ordering::Relaxed))
}

/// A file system with its dentries.
pub struct Superblock {
    id: u64,
    fs: Arc<dyn Filesystem>,
    root: Arc<Dentry>,
    /// Shape of the tree: held for reading by changes of one directory, for writing by renames.
    pub(crate) tree: RwLock<()>,
}

impl Superblock {
    /// Takes a file system into use.
    pub fn new(fs: Arc<dyn Filesystem>) -> Arc<Self> {
        let id = next_id();
        let root = Dentry::new_root(fs.root(), id);
        Arc::new(Self { id, fs, root, tree: RwLock::new(lockclass::SB_TREE, ()) })
    }

    /// The file system.
    pub fn fs(&self) -> &Arc<dyn Filesystem> {
        &self.fs
    }

    /// The dentry of its root.
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// A dentry outside any directory (pipes, sockets).
    pub(crate) fn pseudo(&self, inode: Inode, name: &[u8]) -> Arc<Dentry> {
        Dentry::new_pseudo(inode, self.id, name)
    }
}

impl Drop for Superblock {
    fn drop(&mut self) {
        // Every path holds its mount, and that its superblock: nobody walks this tree any more.
        self.root.take_apart();
    }
}

bitflags::bitflags! {
    /// Per-mount options.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MountOptions: u32 {
        /// No writing through this mount.
        const READ_ONLY = 1;
        /// Set-id bits mean nothing.
        const NOSUID = 2;
        /// Device nodes cannot be opened.
        const NODEV = 4;
        /// Nothing can be executed.
        const NOEXEC = 8;
        /// Access times stay.
        const NOATIME = 16;
        /// Access times of directories stay.
        const NODIRATIME = 32;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 64;
        /// Access times change when they lag (the default on Linux).
        const RELATIME = 128;
    }
}

/// A subtree of a superblock, shown at a place.
pub struct Mount {
    id: u64,
    superblock: Arc<Superblock>,
    root: Arc<Dentry>,
    source: Vec<u8>,
    /// [`MountOptions`]; Relaxed: a change concerns later operations only.
    options: AtomicU32,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// Where it hangs.
    parent: Option<Path>,
    ns: Weak<MountNs>,
}

impl Mount {
    /// A mount of the whole superblock, hung nowhere yet. `source` is what `/proc/mounts` shows first.
    pub fn new(superblock: &Arc<Superblock>, source: &[u8], options: MountOptions) -> Arc<Self> {
        Self::of_subtree(superblock, Arc::clone(superblock.root()), source, options)
    }

    fn of_subtree(superblock: &Arc<Superblock>, root: Arc<Dentry>, source: &[u8], options: MountOptions) -> Arc<Self> {
        Arc::new(Self {
            id: next_id(),
            superblock: Arc::clone(superblock),
            root,
            source: source.to_vec(),
            options: AtomicU32::new(options.bits()),
            place: Mutex::new(lockclass::MOUNT, Place::default()),
        })
    }

    /// A new file system, mounted nowhere yet.
    pub fn of(fs: Arc<dyn Filesystem>, source: &[u8], options: MountOptions) -> Arc<Self> {
        Self::new(&Superblock::new(fs), source, options)
    }

    /// Identity, `STATX_MNT_ID`.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The superblock shown.
    pub fn superblock(&self) -> &Arc<Superblock> {
        &self.superblock
    }

    /// Top of what is shown.
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// First field of `/proc/mounts`.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Options now.
    pub fn options(&self) -> MountOptions {
        MountOptions::from_bits_truncate(self.options.load(Ordering::Relaxed))
    }

    /// Changes the options.
    pub fn set_options(&self, options: MountOptions) {
        self.options.store(options.bits(), Ordering::Relaxed);
    }

    /// `EROFS` on a read-only mount.
    pub(crate) fn check_writable(&self) -> Result<(), Errno> {
        if self.options().contains(MountOptions::READ_ONLY) { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Where it hangs; `None` at the root of a namespace and when unmounted.
    pub fn parent(&self) -> Option<Path> {
        self.place.lock().parent.clone()
    }

    /// The namespace it is in.
    pub fn namespace(&self) -> Option<Arc<MountNs>> {
        self.place.lock().ns.upgrade()
    }

    /// The path of its root.
    pub fn root_path(self: &Arc<Self>) -> Path {
        Path { mount: Arc::clone(self), dentry: Arc::clone(&self.root) }
    }
}

impl core::fmt::Debug for Mount {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Mount").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A place in the tree of files: a dentry seen through a mount.
#[derive(Clone, Debug)]
pub struct Path {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The dentry.
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// The object here.
    pub fn inode(&self) -> &Inode {
        self.dentry.inode()
    }

    /// Whether both are the same place.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// A place of another dentry in the same mount.
    pub(crate) fn with_dentry(&self, dentry: Arc<Dentry>) -> Self {
        Self { mount: Arc::clone(&self.mount), dentry }
    }

    /// The top mount at this place, if anything is mounted here.
    pub(crate) fn mounted_here(&self) -> Option<Self> {
        if !self.dentry.is_mountpoint() {
            return None;
        }
        let ns = self.mount.namespace()?;
        let mount = ns.mounted_at(self)?;
        let dentry = Arc::clone(mount.root());
        Some(Self { mount, dentry })
    }

    /// The place one goes up to from the root of a mount: its mount point.
    pub(crate) fn above_mount(&self) -> Option<Self> {
        if Arc::ptr_eq(&self.dentry, self.mount.root()) { self.mount.parent() } else { None }
    }

    /// The path's text as seen from `root`, as `getcwd(2)` and `/proc` show it: with ` (deleted)` when the name is gone,
    /// with `(unreachable)` before it when it is not below `root`.
    pub fn d_path(&self, root: &Self) -> Vec<u8> {
        let (mut text, reached) = self.text_from(root);
        if !reached && !self.dentry.is_pseudo() {
            let mut prefixed = b"(unreachable)".to_vec();
            prefixed.append(&mut text);
            text = prefixed;
        }
        if self.dentry.is_unlinked() {
            text.extend_from_slice(b" (deleted)");
        }
        text
    }

    /// The path's text from `root`; `None` when it is deleted or not below `root` (`getcwd(2)`: `ENOENT`, or the
    /// `(unreachable)` form of [`Path::d_path`]).
    pub fn live_path(&self, root: &Self) -> Option<Vec<u8>> {
        let (text, reached) = self.text_from(root);
        (reached && !self.dentry.is_unlinked()).then_some(text)
    }

    /// Its name was removed.
    pub fn is_deleted(&self) -> bool {
        self.dentry.is_unlinked()
    }

    fn text_from(&self, root: &Self) -> (Vec<u8>, bool) {
        if self.dentry.is_pseudo() {
            return (self.dentry.name().to_vec(), false);
        }
        let mut names: Vec<Arc<[u8]>> = Vec::new();
        let mut cur = self.clone();
        let reached = loop {
            if cur.is_same(root) {
                break true;
            }
            if Arc::ptr_eq(&cur.dentry, cur.mount.root()) {
                match cur.mount.parent() {
                    Some(up) => cur = up,
                    None => break false,
                }
                continue;
            }
            names.push(cur.dentry.name());
            match cur.dentry.parent() {
                Some(parent) => cur = cur.with_dentry(parent),
                None => break false,
            }
        };
        let mut text = Vec::new();
        for name in names.iter().rev() {
            text.push(b'/');
            text.extend_from_slice(name);
        }
        if text.is_empty() {
            text.push(b'/');
        }
        (text, reached)
    }
}

/// The tree of mounts that a set of tasks sees.
pub struct MountNs {
    id: u64,
    state: RwLock<NsState>,
}

struct NsState {
    root: Arc<Mount>,
    /// By parent mount and mount point; the top one last.
    points: HashMap<(u64, usize), Vec<Arc<Mount>>>,
    /// Every mount, in the order of mounting.
    all: Vec<Arc<Mount>>,
}

fn point(path: &Path) -> (u64, usize) {
    (path.mount.id, Arc::as_ptr(&path.dentry).addr())
}

impl MountNs {
    /// A namespace whose root is `mount`.
    pub fn new(mount: Arc<Mount>) -> Arc<Self> {
        let state = NsState { root: Arc::clone(&mount), points: HashMap::new(), all: vec![Arc::clone(&mount)] };
        let ns = Arc::new(Self { id: next_id(), state: RwLock::new(lockclass::MOUNT_NS, state) });
        mount.place.lock().ns = Arc::downgrade(&ns);
        ns
    }

    /// Identity.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The root directory.
    pub fn root(&self) -> Path {
        let root = Arc::clone(&self.state.read().root);
        let path = root.root_path();
        path.mounted_here().unwrap_or(path)
    }

    /// Every mount, parents before children.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.state.read().all.clone()
    }

    fn mounted_at(&self, path: &Path) -> Option<Arc<Mount>> {
        self.state.read().points.get(&point(path)).and_then(|stack| stack.last().cloned())
    }

    /// Mounts `mount` at `at`, on top of whatever is there. Directories on directories, files on files: `ENOTDIR`.
    pub fn mount(self: &Arc<Self>, at: &Path, mount: Arc<Mount>) -> Result<(), Errno> {
        if at.dentry.is_dir() != mount.root.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if at.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let mut target = at.clone();
        while let Some(top) = target.mounted_here() {
            target = top;
        }
        let mut state = self.state.write();
        {
            let mut place = mount.place.lock();
            if place.parent.is_some() || place.ns.strong_count() > 0 {
                return Err(Errno::EINVAL);
            }
            place.parent = Some(target.clone());
            place.ns = Arc::downgrade(self);
        }
        target.dentry.add_mount();
        state.points.entry(point(&target)).or_default().push(Arc::clone(&mount));
        state.all.push(mount);
        Ok(())
    }

    /// Mounts a new file system at `at`.
    pub fn mount_fs(
        self: &Arc<Self>,
        at: &Path,
        fs: Arc<dyn Filesystem>,
        source: &[u8],
        options: MountOptions,
    ) -> Result<Arc<Mount>, Errno> {
        let mount = Mount::of(fs, source, options);
        self.mount(at, Arc::clone(&mount))?;
        Ok(mount)
    }

    /// Shows the tree at `from` also at `at`, with the mounts beneath it when `recursive`.
    pub fn bind(self: &Arc<Self>, from: &Path, at: &Path, recursive: Recursive) -> Result<Arc<Mount>, Errno> {
        let copy = |mount: &Arc<Mount>, root: &Arc<Dentry>| {
            Mount::of_subtree(&mount.superblock, Arc::clone(root), &mount.source, mount.options())
        };
        let top = copy(&from.mount, &from.dentry);
        let below = if recursive == Recursive::Yes { self.mounts_below(from) } else { Vec::new() };
        self.mount(at, Arc::clone(&top))?;
        let mut copies: HashMap<u64, Arc<Mount>> = HashMap::from([(from.mount.id, Arc::clone(&top))]);
        for mount in below {
            let Some(place) = mount.parent() else { continue };
            let Some(parent) = copies.get(&place.mount.id).cloned() else { continue };
            let twin = copy(&mount, mount.root());
            self.mount(&Path { mount: parent, dentry: place.dentry }, Arc::clone(&twin))?;
            copies.insert(mount.id, twin);
        }
        Ok(top)
    }

    /// Mounts that hang at or below `from`, parents first.
    fn mounts_below(&self, from: &Path) -> Vec<Arc<Mount>> {
        let all = self.mounts();
        let mut inside: Vec<u64> = vec![from.mount.id];
        let mut found = Vec::new();
        for mount in all {
            let Some(place) = mount.parent() else { continue };
            let below = place.mount.id == from.mount.id && from.dentry.is_ancestor_of(&place.dentry)
                || place.mount.id != from.mount.id && inside.contains(&place.mount.id);
            if below {
                inside.push(mount.id);
                found.push(mount);
            }
        }
        found
    }

    /// Takes a mount away. `EBUSY` when something is mounted on it, unless `detach`, which takes that away too.
    /// Open files go on working.
    pub fn umount(&self, mount: &Arc<Mount>, detach: Detach) -> Result<(), Errno> {
        let victims = {
            let path = mount.root_path();
            let mut list = self.mounts_below(&path);
            if !list.is_empty() && detach == Detach::No {
                return Err(Errno::EBUSY);
            }
            list.insert(0, Arc::clone(mount));
            list
        };
        let mut state = self.state.write();
        if Arc::ptr_eq(&state.root, mount) || !state.all.iter().any(|known| Arc::ptr_eq(known, mount)) {
            return Err(Errno::EINVAL);
        }
        for victim in victims.iter().rev() {
            let parent = {
                let mut place = victim.place.lock();
                place.ns = Weak::new();
                place.parent.take()
            };
            let Some(parent) = parent else { continue };
            parent.dentry.remove_mount();
            if let Some(stack) = state.points.get_mut(&point(&parent)) {
                stack.retain(|known| !Arc::ptr_eq(known, victim));
                if stack.is_empty() {
                    state.points.remove(&point(&parent));
                }
            }
            state.all.retain(|known| !Arc::ptr_eq(known, victim));
        }
        Ok(())
    }

    /// A copy of the whole tree for a new namespace, and where each old mount went (to move roots and working
    /// directories), `clone(CLONE_NEWNS)`.
    pub fn duplicate(&self) -> (Arc<Self>, HashMap<u64, Arc<Mount>>) {
        let (root, all) = {
            let state = self.state.read();
            (Arc::clone(&state.root), state.all.clone())
        };
        let copy = |mount: &Arc<Mount>| {
            Mount::of_subtree(&mount.superblock, Arc::clone(&mount.root), &mount.source, mount.options())
        };
        let new_root = copy(&root);
        let ns = Self::new(Arc::clone(&new_root));
        let mut copies = HashMap::from([(root.id, new_root)]);
        for mount in all {
            let Some(place) = mount.parent() else { continue };
            let Some(parent) = copies.get(&place.mount.id).cloned() else { continue };
            let twin = copy(&mount);
            if ns.mount(&Path { mount: parent, dentry: place.dentry }, Arc::clone(&twin)).is_ok() {
                copies.insert(mount.id, twin);
            }
        }
        (ns, copies)
    }

    /// Makes `new_root` (a mount of this namespace) the root, `pivot_root(2)`; the old root is hung at `put_old`.
    pub fn pivot(self: &Arc<Self>, new_root: &Arc<Mount>, put_old: &Path) -> Result<(), Errno> {
        let mut state = self.state.write();
        let old_root = Arc::clone(&state.root);
        let Some(place) = new_root.place.lock().parent.take() else { return Err(Errno::EINVAL) };
        place.dentry.remove_mount();
        if let Some(stack) = state.points.get_mut(&point(&place)) {
            stack.retain(|known| !Arc::ptr_eq(known, new_root));
        }
        state.root = Arc::clone(new_root);
        put_old.dentry.add_mount();
        old_root.place.lock().parent = Some(put_old.clone());
        state.points.entry(point(put_old)).or_default().push(old_root);
        Ok(())
    }

    /// Writes back every file system, `sync(2)`.
    pub fn sync(&self) {
        for mount in self.mounts() {
            // sync(2) cannot fail.
            let _ = mount.superblock.fs.sync();
        }
    }
}

/// Whether an operation takes in the mounts beneath.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recursive {
    /// With everything mounted beneath.
    Yes,
    /// This one alone.
    No,
}

/// Whether a busy mount is detached all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detach {
    /// `MNT_DETACH`.
    Yes,
    /// Fail when busy.
    No,
}

impl Drop for MountNs {
    fn drop(&mut self) {
        // Mounts refer to their parents' paths and the namespace to all of them: no cycle, but dentries must forget.
        let state = self.state.get_mut();
        for mount in &state.all {
            if let Some(parent) = mount.place.lock().parent.take() {
                parent.dentry.remove_mount();
            }
        }
    }
}

/// Whether `ctx` may change mounts.
pub fn may_mount(ctx: &Context<'_>) -> bool {
    ctx.creds.has(auth::Caps::SYS_ADMIN)
}
