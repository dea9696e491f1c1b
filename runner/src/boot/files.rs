//! The guest's mount tree: host trees below layers in memory, and what is ours alone.
//!
//! ```text
//! /            overlay(the host's tree, or one composed of its parts, tmpfs)
//! /home/disk … overlay(host tree, tmpfs), one per mount below a tree; volumes without a layer
//! /dev /proc /sys /run /dev/shm   ours
//! ```

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path as HostPath, PathBuf};
use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Gid, Uid};
use fs::Context;
use fs::compose::{Composer, Looks};
use fs::vfs::{At, Filesystem, LookupFlags, Mount, MountNs, MountOptions, OpenHow, Path, Superblock};

use crate::config::RunConfig;
use crate::failure::{Failure, Outcome, describe};
use crate::host::TreeAccess;
use crate::launcher::{HostTree, HostView, IdMap, Skeleton, TreeKind, TreeRole};

/// Makes file systems for [`build`]; the one place that knows which crates they come from.
pub(super) trait Makers {
    /// A tmpfs whose root directory has this mode.
    fn tmpfs(&self, mode: u32) -> Result<Arc<dyn Filesystem>, Errno>;
    /// The files below a detached mount.
    fn host(&self, tree: HostTree) -> Result<Arc<dyn Filesystem>, Errno>;
    /// `lower` below a fresh tmpfs.
    fn overlay(&self, lower: Arc<dyn Filesystem>) -> Result<Arc<dyn Filesystem>, Errno>;
}

/// The mount tree under construction.
pub(super) struct Tree<'a> {
    ctx: Context<'a>,
    ns: Arc<MountNs>,
}

/// Builds everything that comes from the host: the root, the trees, volumes, hidden paths.
pub(super) fn build<'a>(
    ctx: Context<'a>,
    makers: &dyn Makers,
    view: HostView,
    ids: IdMap,
    config: &RunConfig,
) -> Outcome<Tree<'a>> {
    let HostView { trees, skeleton } = view;
    let mut trees = trees.into_iter().peekable();
    let whole = trees.next_if(|tree| tree.guest == HostPath::new("/"));
    let mut rest = Rest { skeleton: BTreeMap::new(), trees: Vec::new() };
    let lower = match whole {
        Some(tree) => {
            rest = Rest { skeleton, trees: trees.collect() };
            makers.host(tree).map_err(|errno| wrong("/", errno))?
        }
        None => compose(makers, skeleton, trees, ids, &mut rest)?,
    };
    let root = makers.overlay(lower).map_err(|errno| wrong("/", errno))?;
    let ns = MountNs::new(Mount::of(root, b"overlay", MountOptions::RELATIME));
    let tree = Tree { ctx, ns };
    tree.add_skeleton(&rest.skeleton, ids)?;
    for host in rest.trees {
        tree.add_host_tree(makers, host)?;
    }
    for hidden in &config.hidden {
        tree.hide(makers, hidden)?;
    }
    Ok(tree)
}

/// What is put into the tree after its root is mounted.
struct Rest {
    skeleton: BTreeMap<PathBuf, Skeleton>,
    trees: Vec<HostTree>,
}

/// The names in an absolute path.
fn names(path: &HostPath) -> Vec<&[u8]> {
    path.components().skip(1).map(|part| part.as_os_str().as_bytes()).collect()
}

/// One tree of everything that belongs to the root, so that it is one file system to the guest. What lies below another
/// tree is `rest`, and so are volumes.
fn compose(
    makers: &dyn Makers,
    skeleton: BTreeMap<PathBuf, Skeleton>,
    trees: impl Iterator<Item = HostTree>,
    ids: IdMap,
    rest: &mut Rest,
) -> Outcome<Arc<dyn Filesystem>> {
    let mut composer = Composer::new(Looks::PLAIN);
    for tree in trees {
        let path = tree.guest.clone();
        if tree.role == TreeRole::Root && !composer.is_taken(&names(&path)) {
            makers.host(tree).and_then(|fs| composer.graft(&names(&path), fs)).map_err(|errno| wrong(&path, errno))?;
        } else {
            rest.trees.push(tree);
        }
    }
    for (path, entry) in skeleton {
        let place = names(&path);
        if composer.is_taken(&place) {
            rest.skeleton.insert(path, entry);
            continue;
        }
        match &entry {
            Skeleton::Symlink { target } => composer.symlink(&place, target.as_os_str().as_bytes()),
            Skeleton::Directory { mode, uid, gid } => {
                let (uid, gid) = (Uid(ids.guest_uid(*uid)), Gid(ids.guest_gid(*gid)));
                composer.directory(&place, Looks { mode: *mode, uid, gid })
            }
        }
        .map_err(|errno| wrong(&path, errno))?;
    }
    Ok(composer.build())
}

fn wrong(path: impl AsRef<HostPath>, errno: Errno) -> Failure {
    Failure::ours(format!("{}: cannot be shown in the guest: {}", path.as_ref().display(), describe(errno)))
}

impl<'a> Tree<'a> {
    /// The namespace built so far.
    pub(super) fn namespace(&self) -> &Arc<MountNs> {
        &self.ns
    }

    /// Mounts `fs` at `path`, making directories on the way.
    pub(super) fn mount(&self, path: &str, fs: Arc<dyn Filesystem>, options: MountOptions) -> Outcome<()> {
        let place = self.directory(HostPath::new(path)).map_err(|errno| wrong(path, errno))?;
        let source = fs.type_name().to_owned();
        self.ns.mount_fs(&place, fs, source.as_bytes(), options).map_err(|errno| wrong(path, errno))?;
        Ok(())
    }

    /// Mounts a file system that is in use already at `path`.
    pub(super) fn mount_more(&self, path: &str, of: &Arc<Superblock>, options: MountOptions) -> Outcome<()> {
        let place = self.directory(HostPath::new(path)).map_err(|errno| wrong(path, errno))?;
        let mount = Mount::new(of, of.fs().type_name().as_bytes(), options);
        self.ns.mount(&place, mount).map_err(|errno| wrong(path, errno))
    }

    /// Fills the tmpfs at `/dev`.
    pub(super) fn populate_dev(&self) -> Outcome<()> {
        let populate = || -> Result<(), Errno> {
            let root = self.ns.root();
            let dev = self.at(&root).lookup(b"/dev", LookupFlags::FOLLOW | LookupFlags::DIRECTORY)?;
            fs::dev::populate(&At { ctx: &self.ctx, root: &root, start: &dev })
        };
        populate().map_err(|errno| wrong("/dev", errno))
    }

    /// The character device node at `path` below `/dev`, made if it is not there; `None` when that cannot be.
    pub(super) fn device_node(&self, path: &[u8], rdev: u64) -> Option<Path> {
        const MODE: u32 = 0o620;
        if !path.starts_with(b"/dev/") {
            return None;
        }
        let root = self.ns.root();
        let at = self.at(&root);
        match at.mknod(path, fs::vfs::NodeKind::CharDevice(rdev), MODE) {
            Ok(node) => Some(node),
            Err(_) => self.existing_node(path, rdev),
        }
    }

    /// Opens the guest's terminal of this number; it becomes nobody's controlling terminal by that.
    pub(super) fn open_terminal(&self, index: u32) -> Result<Arc<fs::vfs::File>, Errno> {
        let root = self.ns.root();
        let flags = abi::fs::O_RDWR | OpenFlags::O_NOCTTY.bits();
        self.at(&root).open(format!("/dev/pts/{index}").as_bytes(), &OpenHow::from_open(flags, 0))
    }

    /// The node of this character device at `path`, if it is there.
    pub(super) fn existing_node(&self, path: &[u8], rdev: u64) -> Option<Path> {
        let root = self.ns.root();
        self.at(&root).lookup(path, LookupFlags::empty()).ok().filter(|node| {
            node.attr().is_ok_and(|attr| attr.file_type == fs::vfs::FileType::CharDevice && attr.rdev == rdev)
        })
    }

    /// Creates or replaces a small file.
    pub(super) fn write_file(&self, path: &[u8], bytes: &[u8]) -> Outcome<()> {
        let shown = HostPath::new(std::ffi::OsStr::from_bytes(path));
        let write = || -> Result<(), Errno> {
            if let Some(parent) = shown.parent() {
                self.directory(parent)?;
            }
            let root = self.ns.root();
            let flags = abi::fs::O_WRONLY | OpenFlags::O_CREAT.bits() | OpenFlags::O_TRUNC.bits();
            let file = self.at(&root).open(path, &OpenHow::from_open(flags, 0o644))?;
            let mut source = usermem::bytes::KernelSrc::new(bytes);
            file.write(&self.ctx, &mut source)?;
            Ok(())
        };
        write().map_err(|errno| wrong(shown, errno))
    }

    /// The bytes of a small file of the guest, empty when there is none.
    pub(super) fn read_file(&self, path: &[u8], largest: usize) -> Vec<u8> {
        let read = || -> Result<Vec<u8>, Errno> {
            let root = self.ns.root();
            let file = self.at(&root).open(path, &OpenHow::from_open(abi::fs::O_RDONLY, 0))?;
            let mut bytes = vec![0; largest];
            let mut length = 0;
            while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
                let mut target = usermem::bytes::KernelDst::new(rest);
                let got = file.read(&self.ctx, &mut target)?;
                if got == 0 {
                    break;
                }
                length = length.saturating_add(got);
            }
            bytes.truncate(length);
            Ok(bytes)
        };
        read().unwrap_or_default()
    }

    fn at<'b>(&'b self, root: &'b Path) -> At<'b> {
        At { ctx: &self.ctx, root, start: root }
    }

    /// The directory at `path`, made with its parents where missing.
    fn directory(&self, path: &HostPath) -> Result<Path, Errno> {
        let root = self.ns.root();
        let at = self.at(&root);
        let mut so_far = PathBuf::from("/");
        for part in path.components().skip(1) {
            so_far.push(part);
            match at.mkdir(so_far.as_os_str().as_bytes(), 0o755) {
                Ok(_) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        at.lookup(path.as_os_str().as_bytes(), LookupFlags::FOLLOW | LookupFlags::DIRECTORY)
    }

    /// An empty file at `path` to mount on.
    fn file(&self, path: &HostPath) -> Result<Path, Errno> {
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        let root = self.ns.root();
        let at = self.at(&root);
        match at.lookup(path.as_os_str().as_bytes(), LookupFlags::FOLLOW) {
            Err(Errno::ENOENT) => {
                let flags = abi::fs::O_WRONLY | OpenFlags::O_CREAT.bits();
                at.open(path.as_os_str().as_bytes(), &OpenHow::from_open(flags, 0o644))?;
                at.lookup(path.as_os_str().as_bytes(), LookupFlags::FOLLOW)
            }
            other => other,
        }
    }

    fn add_skeleton(&self, skeleton: &BTreeMap<PathBuf, Skeleton>, ids: IdMap) -> Outcome<()> {
        // Sorted by path: parents come first.
        for (path, entry) in skeleton {
            self.add_skeleton_entry(path, entry, ids).map_err(|errno| wrong(path, errno))?;
        }
        Ok(())
    }

    fn add_skeleton_entry(&self, path: &HostPath, entry: &Skeleton, ids: IdMap) -> Result<(), Errno> {
        let root = self.ns.root();
        let at = self.at(&root);
        let bytes = path.as_os_str().as_bytes();
        match entry {
            Skeleton::Symlink { target } => {
                at.symlink(target.as_os_str().as_bytes(), bytes)?;
            }
            Skeleton::Directory { mode, uid, gid } => {
                let place = self.directory(path)?;
                place.chmod(&self.ctx, *mode)?;
                place.chown(&self.ctx, Some(Uid(ids.guest_uid(*uid))), Some(Gid(ids.guest_gid(*gid))))?;
            }
        }
        Ok(())
    }

    fn add_host_tree(&self, makers: &dyn Makers, tree: HostTree) -> Outcome<()> {
        let path = tree.guest.clone();
        let (kind, role, access) = (tree.kind, tree.role, tree.access);
        let add = || -> Result<(), Errno> {
            let place = match kind {
                TreeKind::Directory => self.directory(&path)?,
                TreeKind::File => self.file(&path)?,
            };
            let host = makers.host(tree)?;
            let mut options = MountOptions::NODEV | MountOptions::RELATIME;
            let fs = match (role, access) {
                (TreeRole::Root, _) => makers.overlay(host)?,
                (TreeRole::Volume, TreeAccess::ReadOnly) => {
                    options |= MountOptions::READ_ONLY;
                    host
                }
                (TreeRole::Volume, TreeAccess::ReadWrite) => host,
            };
            let source = fs.type_name().to_owned();
            self.ns.mount_fs(&place, fs, source.as_bytes(), options)?;
            Ok(())
        };
        add().map_err(|errno| wrong(&path, errno))
    }

    fn hide(&self, makers: &dyn Makers, path: &HostPath) -> Outcome<()> {
        let hide = || -> Result<(), Errno> {
            let root = self.ns.root();
            let place = match self.at(&root).lookup(path.as_os_str().as_bytes(), LookupFlags::FOLLOW) {
                Ok(place) => place,
                // Nothing to hide.
                Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
                Err(errno) => return Err(errno),
            };
            let options = MountOptions::READ_ONLY | MountOptions::RELATIME;
            if place.dentry.is_dir() {
                self.ns.mount_fs(&place, makers.tmpfs(0o755)?, b"tmpfs", options)?;
                return Ok(());
            }
            // A file: an empty one of a tmpfs of its own is bound over it.
            let empty = MountNs::new(Mount::of(makers.tmpfs(0o755)?, b"tmpfs", MountOptions::empty()));
            let top = empty.root();
            let at = At { ctx: &self.ctx, root: &top, start: &top };
            at.open(b"empty", &OpenHow::from_open(abi::fs::O_WRONLY | OpenFlags::O_CREAT.bits(), 0o444))?;
            let file = at.lookup(b"empty", LookupFlags::empty())?;
            let mount = self.ns.bind(&file, &place, fs::vfs::Recursive::No)?;
            mount.set_options(options);
            Ok(())
        };
        hide().map_err(|errno| wrong(path, errno))
    }
}
