//! Overlay: file systems below that are never written, one above that takes every change.
//!
//! The upper one is driven through its inodes alone, and belongs to its overlay: nobody else may use it. What is changed is
//! first *copied up* (`copy`); what is removed below is hidden by a *whiteout* (character device 0:0) above; a directory
//! made where the lower layers have a name is *opaque* (`trusted.overlay.opaque`), as on Linux. Renaming a directory that
//! has a lower part is `EXDEV`, which makes programs copy.
//!
//! An `OvlInode` stands for one object for good: its number is that of its lowest origin and stays through copy-up, and
//! the table of inodes in use makes two lookups of one object (hard links too) meet. A file that is open while it is copied
//! up goes on with the copy; what is mapped stays the original, as on Linux.

mod copy;
mod dir;
mod file;
mod inode;

use std::sync::{Arc, Weak};

use abi::Errno;
use hashbrown::HashMap;
use sync::Mutex;

use crate::vfs::{Attr, FileType, Filesystem, Inode, SetAttr, SetTime, StatFs, new_device_id};
use crate::{KernelContext, lockclass, table};

use inode::OvlInode;

/// Marks a directory that hides whatever the layers below have at its place.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Names of ours on upper inodes, not shown.
const OWN_XATTRS: &[u8] = b"trusted.overlay.";
/// Set in the numbers of inodes that were born above.
const UPPER_NUMBER: u64 = 1 << 55;
/// Where the index of a lower device stands in a number.
const DEVICE_SHIFT: u32 = 56;
/// What stands there in numbers that were given out one by one; indices are smaller.
const ODD_INDEX: u64 = 0x7f;

/// What the inodes of one overlay share.
struct OverlayFs {
    device: u64,
    /// Above; without one the overlay is read-only.
    upper: Option<Inode>,
    numbers: Mutex<Numbers>,
    /// Inodes in use, by number.
    inodes: Mutex<HashMap<u64, Weak<OvlInode>>>,
    /// Files that have several names below and of which something changed above, by number.
    hard_links: Mutex<HashMap<u64, HardLinked>>,
}

/// What inodes of the lower layers are called.
#[derive(Default)]
struct Numbers {
    /// Devices; the index tells inodes of the same number apart.
    devices: Vec<u64>,
    /// Inodes whose number and device's index do not fit into one number, with what they are called instead.
    odd: HashMap<(u64, u64), u64>,
}

impl Numbers {
    fn on(&mut self, device: u64) -> NumbersOn {
        let index = match self.devices.iter().position(|known| *known == device) {
            Some(index) => index,
            None => {
                self.devices.push(device);
                self.devices.len() - 1
            }
        };
        NumbersOn { device, index: index as u64 }
    }

    fn of(&mut self, device: u64, ino: u64) -> u64 {
        if let Some(number) = self.on(device).of(ino) {
            return number;
        }
        let next = (ODD_INDEX << DEVICE_SHIFT) | self.odd.len() as u64;
        *self.odd.entry((device, ino)).or_insert(next)
    }
}

/// What inodes of one lower device are called.
#[derive(Clone, Copy)]
struct NumbersOn {
    device: u64,
    index: u64,
}

impl NumbersOn {
    /// The number of inode `ino`, unless it is an odd one.
    fn of(self, ino: u64) -> Option<u64> {
        (self.index < ODD_INDEX && ino < UPPER_NUMBER).then_some(ino | (self.index << DEVICE_SHIFT))
    }
}

/// A file with several names below.
struct HardLinked {
    /// Its copy, while names below must find it.
    copy: Option<Inode>,
    /// Names below in all.
    below: u32,
    /// How many of them are hidden: removed, or taken over by names above.
    hidden: u32,
}

/// Whether an inode marks an absence.
fn is_whiteout(inode: &Inode) -> bool {
    inode.file_type() == FileType::CharDevice && inode.attr().is_ok_and(|attr| attr.rdev == 0)
}

fn is_opaque(inode: &Inode) -> bool {
    inode.xattr().is_some_and(|xattrs| xattrs.get(OPAQUE).is_ok())
}

impl OverlayFs {
    /// The number that an inode of a lower layer shows.
    fn lower_number(&self, (device, ino): (u64, u64)) -> u64 {
        self.numbers.lock().of(device, ino)
    }

    /// The numbers that inodes of a lower device show.
    fn numbers_on(&self, device: u64) -> NumbersOn {
        self.numbers.lock().on(device)
    }

    /// The number that an inode of the upper layer shows.
    fn upper_number(inode: &Inode) -> u64 {
        inode.slots().layer_number_if_set().unwrap_or(inode.identity().1 | UPPER_NUMBER)
    }

    /// The inode of these layers: the one in use, or a new one.
    fn inode(
        self: &Arc<Self>,
        place: Option<(&Arc<OvlInode>, &[u8])>,
        upper: Option<Inode>,
        lowers: Vec<Inode>,
    ) -> Result<Arc<OvlInode>, Errno> {
        let number = match (&upper, lowers.first()) {
            // A merged directory is what it was below; a copy remembers its origin.
            (Some(upper), Some(lower)) if upper.slots().layer_number_if_set().is_none() => {
                self.lower_number(lower.identity())
            }
            (Some(upper), _) => Self::upper_number(upper),
            (None, Some(lower)) => self.lower_number(lower.identity()),
            (None, None) => return Err(Errno::ENOENT),
        };
        let known = self.inodes.lock().get(&number).and_then(Weak::upgrade);
        if let Some(known) = known
            && known.serves(upper.as_ref(), lowers.first())
        {
            return Ok(known);
        }
        let upper = upper.or_else(|| self.hard_links.lock().get(&number).and_then(|linked| linked.copy.clone()));
        let inode = OvlInode::new(self, number, place, upper, lowers)?;
        let old = self.inodes.lock().insert(number, Arc::downgrade(&inode));
        drop(old);
        Ok(inode)
    }

    /// Notes a change of a file that has `below` names below, if those are several.
    fn hard_link_changed(&self, number: u64, below: u32, change: impl FnOnce(&mut HardLinked)) {
        if below > 1 {
            let mut all = self.hard_links.lock();
            let linked = all.entry(number).or_insert(HardLinked { copy: None, below, hidden: 0 });
            change(linked);
            if linked.hidden >= linked.below {
                // No name below leads to the copy: it lives as long as its names above and those who have it open.
                let copy = linked.copy.take();
                drop(all);
                drop(copy);
            }
        }
    }

    /// Names below that still show, of a file with several of which something changed.
    fn names_below(&self, number: u64) -> Option<u32> {
        self.hard_links.lock().get(&number).map(|linked| linked.below.saturating_sub(linked.hidden))
    }

    fn forget(&self, number: u64) {
        let mut inodes = self.inodes.lock();
        if inodes.get(&number).is_some_and(|weak| weak.strong_count() == 0) {
            table::remove(&mut inodes, &number);
        }
    }
}

/// An overlay with its layers and its root, which hold each other.
struct OverlayTree {
    fs: Arc<OverlayFs>,
    root: Arc<OvlInode>,
    layers: Vec<Arc<dyn Filesystem>>,
    upper: Option<Arc<dyn Filesystem>>,
}

/// Lays `upper` (empty, used by nobody else) over `lowers`, the topmost first. Roots are directories, or all of them single
/// files but the upper one, which is always a directory. Without an upper layer the overlay is read-only.
pub fn new(lowers: Vec<Arc<dyn Filesystem>>, upper: Option<Arc<dyn Filesystem>>) -> Result<Arc<dyn Filesystem>, Errno> {
    let upper_root = upper.as_ref().map(|fs| fs.root());
    let lower_roots: Vec<Inode> = lowers.iter().map(|fs| fs.root()).collect();
    let first: Attr = lower_roots.first().ok_or(Errno::EINVAL)?.attr()?;
    let fs = Arc::new(OverlayFs {
        device: new_device_id(),
        upper: upper_root.clone(),
        numbers: Mutex::new(lockclass::OVERLAY, Numbers::default()),
        inodes: Mutex::new(lockclass::OVERLAY, HashMap::new()),
        hard_links: Mutex::new(lockclass::OVERLAY, HashMap::new()),
    });
    let directory = first.file_type == FileType::Directory;
    if let Some(upper_root) = &upper_root
        && directory
    {
        let kernel = KernelContext::default();
        let change = SetAttr {
            mode: Some(first.mode),
            uid: Some(first.uid),
            gid: Some(first.gid),
            size: None,
            atime: Some(SetTime::At(first.atime)),
            mtime: Some(SetTime::At(first.mtime)),
        };
        upper_root.set_attr(&kernel.context(), &change)?;
    }
    let root = fs.inode(None, upper_root.filter(|_| directory), lower_roots)?;
    Ok(Arc::new(OverlayTree { fs, root, layers: lowers, upper }))
}

impl Filesystem for OverlayTree {
    fn type_name(&self) -> &str {
        "overlay"
    }

    fn root(&self) -> Inode {
        Arc::clone(&self.root) as Inode
    }

    /// What can be written is the upper layer's; what is there is on all of them.
    fn statfs(&self) -> Result<StatFs, Errno> {
        let mut layers = self.upper.iter().chain(&self.layers);
        let mut shown = layers.next().ok_or(Errno::EIO)?.statfs()?;
        for layer in layers {
            let below = layer.statfs()?;
            let used = below.blocks.saturating_sub(below.blocks_free).saturating_mul(below.block_size);
            shown.blocks = shown.blocks.saturating_add(used / shown.block_size.max(1));
            shown.files = shown.files.saturating_add(below.files.saturating_sub(below.files_free));
        }
        Ok(StatFs { magic: abi::stat::OVERLAYFS_SUPER_MAGIC, fsid: self.fs.device, ..shown })
    }

    fn device(&self) -> u64 {
        self.fs.device
    }

    fn sync(&self) -> Result<(), Errno> {
        self.upper.as_ref().map_or(Ok(()), |upper| upper.sync())
    }
}

#[cfg(test)]
mod tests {
    use super::{Numbers, UPPER_NUMBER};

    #[test]
    fn numbers_of_different_inodes_differ() {
        let mut numbers = Numbers::default();
        let mut seen = std::collections::HashSet::new();
        for device in 0..300 {
            for ino in [1, 2, UPPER_NUMBER - 1, UPPER_NUMBER, UPPER_NUMBER | 1, u64::MAX, 1 << 56, 1 << 63] {
                let number = numbers.of(device, ino);
                assert!(seen.insert(number), "{device} {ino:#x}");
                assert_eq!(number & UPPER_NUMBER, 0);
                assert_eq!(numbers.of(device, ino), number);
            }
        }
    }
}
