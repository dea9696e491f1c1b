//! The toolkit for file systems whose files are the kernel's own knowledge: `/proc`, `/sys`.
//!
//! A tree is made of four kinds of node, each a small trait: a [`Directory`] that looks names up, a [`Content`] that
//! renders a text (and may take writes), a [`Link`] that leads somewhere, and a [`Special`] that opens to a
//! [`FileOps`] of its own. [`Tree`] makes inodes of them; [`StaticDir`] is a directory with a fixed list.
//!
//! A text is rendered when a file is read from its start and kept for that open file, so that a reader in small steps sees
//! one consistent text, as with seq_file on Linux.
//!
//! **Inode numbers** are the caller's: the same object must get the same number each time it is looked up, another
//! object another one. [`Tree::ino`] mixes a number from a parent's and a name.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Gid, Uid};
use sync::Mutex;
use usermem::bytes::{IoDst, IoSrc};

use crate::vfs::{
    Attr, Caching, DirEntry, DirOps, File, FileOps, FileType, Filesystem, Inode, InodeOps, InodeSlots, Path, Position,
    SetAttr, StatFs, Timestamp, new_device_id,
};
use crate::{Clock as _, Context, SystemClock, lockclass};

/// Longest write that a [`Content`] sees.
const MAX_WRITE: usize = 64 * 1024;

/// Who a node belongs to: most belong to root for ever, those of a process to its user.
pub trait Owned {
    /// Owner and group now.
    fn owner(&self) -> (Uid, Gid) {
        (Uid::ROOT, Gid::ROOT)
    }
}

/// A directory whose names are computed.
pub trait Directory: Owned + Send + Sync + 'static {
    /// The inode called `name`; `ENOENT`.
    fn lookup(&self, ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno>;
    /// Every entry, in a stable order.
    fn list(&self, ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno>;
    /// Whether what was looked up may be kept.
    fn caching(&self) -> Caching {
        Caching::Revalidate
    }
}

/// A file with a text.
pub trait Content: Owned + Send + Sync + 'static {
    /// Whether the caller may open it, beyond what its mode says.
    fn admit(&self, _ctx: &Context<'_>) -> Result<(), Errno> {
        Ok(())
    }
    /// The whole text now.
    fn render(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno>;
    /// Takes a write of at most 64 KiB.
    fn write(&self, _ctx: &Context<'_>, _bytes: &[u8]) -> Result<(), Errno> {
        Err(Errno::EIO)
    }
}

/// A symbolic link.
pub trait Link: Owned + Send + Sync + 'static {
    /// What `readlink(2)` shows.
    fn target(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno>;
    /// Where a magic link leads, whatever its text says.
    fn follow(&self, _ctx: &Context<'_>) -> Result<Option<Path>, Errno> {
        Ok(None)
    }
}

/// A file that does its own I/O.
pub trait Special: Owned + Send + Sync + 'static {
    /// Opens it.
    fn open(&self, ctx: &Context<'_>, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno>;
}

impl<F: Fn(&Context<'_>) -> Result<Vec<u8>, Errno> + Send + Sync + 'static> Owned for F {}

impl<F: Fn(&Context<'_>) -> Result<Vec<u8>, Errno> + Send + Sync + 'static> Content for F {
    fn render(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        self(ctx)
    }
}

/// Makes the inodes of one file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tree {
    device: u64,
    born: Timestamp,
}

impl Tree {
    /// A file system to be, with a device number of its own.
    pub fn new() -> Self {
        Self { device: new_device_id(), born: SystemClock.now() }
    }

    /// A stable inode number for `name` below the directory numbered `parent`.
    pub fn ino(parent: u64, name: &[u8]) -> u64 {
        // FNV-1a over both; 0 and 1 are kept for "none" and the root.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in parent.to_le_bytes().iter().chain(name) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        // Below 2^53, so that tools that keep numbers in doubles see distinct ones.
        (hash >> 11).max(2)
    }

    /// A directory.
    pub fn dir(&self, ino: u64, mode: u32, contents: impl Directory) -> Inode {
        Arc::new(DirNode { base: Base::new(self, ino, mode), contents })
    }

    /// A text file.
    pub fn file(&self, ino: u64, mode: u32, contents: impl Content) -> Inode {
        Arc::new(TextNode { base: Base::new(self, ino, mode), contents: Arc::new(contents) })
    }

    /// A symbolic link.
    pub fn link(&self, ino: u64, contents: impl Link) -> Inode {
        Arc::new(LinkNode { base: Base::new(self, ino, 0o777), contents })
    }

    /// A file that does its own I/O.
    pub fn special(&self, ino: u64, mode: u32, contents: impl Special) -> Inode {
        Arc::new(SpecialNode { base: Base::new(self, ino, mode), contents })
    }

    /// The file system with this root.
    pub fn filesystem(&self, type_name: &'static str, magic: i64, root: Inode) -> Arc<dyn Filesystem> {
        Arc::new(KernFs { tree: *self, type_name, magic, root })
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

struct KernFs {
    tree: Tree,
    type_name: &'static str,
    magic: i64,
    root: Inode,
}

impl Filesystem for KernFs {
    fn type_name(&self) -> &str {
        self.type_name
    }

    fn root(&self) -> Inode {
        Arc::clone(&self.root)
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: self.magic, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn device(&self) -> u64 {
        self.tree.device
    }
}

/// What every node has.
struct Base {
    tree: Tree,
    ino: u64,
    mode: u32,
    slots: InodeSlots,
}

impl Base {
    fn new(tree: &Tree, ino: u64, mode: u32) -> Self {
        Self { tree: *tree, ino, mode, slots: InodeSlots::new() }
    }

    fn attr(&self, file_type: FileType, (uid, gid): (Uid, Gid)) -> Attr {
        Attr { uid, gid, btime: None, ..Attr::new(self.tree.device, self.ino, file_type, self.mode, self.tree.born) }
    }
}

/// The methods of [`InodeOps`] that all nodes share.
macro_rules! node {
    ($kind:expr) => {
        fn attr(&self) -> Result<Attr, Errno> {
            Ok(self.base.attr($kind, self.contents.owner()))
        }

        fn file_type(&self) -> FileType {
            $kind
        }

        fn identity(&self) -> (u64, u64) {
            (self.base.tree.device, self.base.ino)
        }

        fn slots(&self) -> &InodeSlots {
            &self.base.slots
        }

        fn set_attr(&self, _ctx: &Context<'_>, change: &SetAttr) -> Result<(), Errno> {
            // Truncating a knob before writing to it is what a shell's `>` does: it means nothing here.
            if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() {
                Err(Errno::EPERM)
            } else {
                Ok(())
            }
        }
    };
}

struct DirNode<T> {
    base: Base,
    contents: T,
}

impl<T: Directory> InodeOps for DirNode<T> {
    node!(FileType::Directory);

    fn dir(&self) -> Option<&dyn DirOps> {
        Some(self)
    }
}

impl<T: Directory> DirOps for DirNode<T> {
    fn lookup(&self, ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        self.contents.lookup(ctx, name)
    }

    fn list(&self, ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        self.contents.list(ctx)
    }

    fn caching(&self) -> Caching {
        self.contents.caching()
    }

    fn keeps_unused(&self) -> bool {
        self.contents.caching() != Caching::Revalidate
    }
}

struct LinkNode<T> {
    base: Base,
    contents: T,
}

impl<T: Link> InodeOps for LinkNode<T> {
    node!(FileType::Symlink);

    fn readlink(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        self.contents.target(ctx)
    }

    fn follow(&self, ctx: &Context<'_>) -> Result<Option<Path>, Errno> {
        self.contents.follow(ctx)
    }
}

struct SpecialNode<T> {
    base: Base,
    contents: T,
}

impl<T: Special> InodeOps for SpecialNode<T> {
    node!(FileType::Regular);

    fn open(self: Arc<Self>, ctx: &Context<'_>, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        self.contents.open(ctx, flags)
    }
}

struct TextNode<T> {
    base: Base,
    contents: Arc<T>,
}

impl<T: Content> InodeOps for TextNode<T> {
    node!(FileType::Regular);

    fn open(self: Arc<Self>, ctx: &Context<'_>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        self.contents.admit(ctx)?;
        let snapshot = Mutex::new(lockclass::DIR_SNAPSHOT, None);
        Ok(Arc::new(TextFile { contents: Arc::clone(&self.contents), snapshot }))
    }
}

/// An open text file.
struct TextFile<T> {
    contents: Arc<T>,
    /// The text as of the last read from the start.
    snapshot: Mutex<Option<Arc<[u8]>>>,
}

impl<T: Content> FileOps for TextFile<T> {
    fn position(&self) -> Position {
        Position::Offsets
    }

    fn read(&self, ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, offset: u64) -> Result<usize, Errno> {
        let kept = if offset > 0 { self.snapshot.lock().clone() } else { None };
        let text = match kept {
            Some(text) => text,
            None => {
                // Without the lock: what is told may have locks of any kind.
                let text: Arc<[u8]> = self.contents.render(ctx)?.into();
                *self.snapshot.lock() = Some(Arc::clone(&text));
                text
            }
        };
        let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
        dst.put(rest)
    }

    fn write(&self, ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc, _offset: u64) -> Result<usize, Errno> {
        let len = src.remaining();
        if len > MAX_WRITE {
            return Err(Errno::EINVAL);
        }
        let mut bytes = vec![0; len];
        let got = src.take(&mut bytes)?;
        bytes.truncate(got);
        self.contents.write(ctx, &bytes)?;
        Ok(got)
    }
}

/// A directory with a fixed list of entries.
#[derive(Default)]
pub struct StaticDir {
    entries: Vec<(Vec<u8>, Inode)>,
}

impl StaticDir {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more entry.
    #[must_use]
    pub fn with(mut self, name: &str, inode: Inode) -> Self {
        self.entries.push((name.as_bytes().to_vec(), inode));
        self
    }
}

impl Owned for StaticDir {}

impl Directory for StaticDir {
    fn lookup(&self, _ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        let found = self.entries.iter().find(|(entry, _)| entry == name);
        found.map(|(_, inode)| Arc::clone(inode)).ok_or(Errno::ENOENT)
    }

    fn list(&self, _ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        Ok(self.entries.iter().map(|(name, inode)| entry(name, inode)).collect())
    }

    fn caching(&self) -> Caching {
        Caching::Stable
    }
}

/// The directory entry of `inode` under `name`.
pub fn entry(name: &[u8], inode: &Inode) -> DirEntry {
    DirEntry { name: name.to_vec(), ino: inode.identity().1, file_type: inode.file_type() }
}

/// A symbolic link whose target is a fixed text.
pub struct StaticLink(pub Vec<u8>);

impl Owned for StaticLink {}

impl Link for StaticLink {
    fn target(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        Ok(self.0.clone())
    }
}
