//! Watches on inodes, inotify(7): who is told of what happens to a file, and the calls that tell them.
//!
//! A [`Watch`] hangs off an inode and belongs to a [`Listener`], which keeps the inode in use. Operations call [`happened`]
//! with what they did; while nobody watches anything that is one load. What others do to a host tree raises nothing.
//!
//! **Locks.** `fs.slots` for an inode's watches; listeners are told with no lock of this module held.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::fs::InotifyMask;
use smallvec::SmallVec;
use sync::Mutex;

use crate::lockclass;
use crate::vfs::dentry::Dentry;
use crate::vfs::inode::Inode;
use crate::vfs::types::FileType;

/// Watches at most, over all listeners: each keeps an inode in memory (`/proc/sys/fs/inotify/max_user_watches`).
pub const MAX_WATCHES: usize = 65_536;

/// Watches there are. Relaxed: a walk that races with the first watch may come before it.
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// Ties the two halves of a rename together. Relaxed: only numbers.
static COOKIE: AtomicU32 = AtomicU32::new(1);

/// Gets the events of its watches.
pub(crate) trait Listener: Send + Sync {
    /// Something happened; `name` is the entry's, for what happened in a watched directory.
    fn event(&self, wd: i32, mask: InotifyMask, cookie: u32, name: Option<&[u8]>);
    /// The watch is over: its file is gone, or it was for one event.
    fn over(&self, wd: i32);
}

/// One listener's interest in one inode.
pub(crate) struct Watch {
    listener: Weak<dyn Listener>,
    wd: i32,
    /// Events and options. Relaxed: a change concerns later events.
    mask: AtomicU32,
}

impl Watch {
    pub(crate) fn mask(&self) -> InotifyMask {
        InotifyMask::from_bits_retain(self.mask.load(Ordering::Relaxed))
    }

    pub(crate) fn set_mask(&self, mask: InotifyMask) {
        self.mask.store(mask.bits(), Ordering::Relaxed);
    }

    pub(crate) fn wd(&self) -> i32 {
        self.wd
    }

    fn tell(&self, mask: InotifyMask, cookie: u32, name: Option<&[u8]>) {
        let Some(listener) = self.listener.upgrade() else { return };
        listener.event(self.wd, mask, cookie, name);
        if self.mask().contains(InotifyMask::IN_ONESHOT) {
            listener.over(self.wd);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The watches on one inode.
pub(crate) struct Watches {
    list: Mutex<SmallVec<[Arc<Watch>; 1]>>,
}

impl Watches {
    pub(crate) fn new() -> Self {
        Self { list: Mutex::new(lockclass::SLOTS, SmallVec::new()) }
    }

    fn all(&self) -> SmallVec<[Arc<Watch>; 4]> {
        self.list.lock().iter().cloned().collect()
    }

    /// The watch of a listener, if it has one here.
    pub(crate) fn of(&self, listener: &Weak<dyn Listener>) -> Option<Arc<Watch>> {
        self.list.lock().iter().find(|watch| watch.listener.ptr_eq(listener)).cloned()
    }

    /// Adds a watch; `ENOSPC` when there are too many.
    pub(crate) fn add(&self, listener: &Weak<dyn Listener>, wd: i32, mask: InotifyMask) -> Result<Arc<Watch>, Errno> {
        WATCHES
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| (all < MAX_WATCHES).then_some(all + 1))
            .map_err(|_| Errno::ENOSPC)?;
        let watch = Arc::new(Watch { listener: Weak::clone(listener), wd, mask: AtomicU32::new(mask.bits()) });
        self.list.lock().push(Arc::clone(&watch));
        Ok(watch)
    }

    pub(crate) fn remove(&self, watch: &Arc<Watch>) {
        let mut list = self.list.lock();
        if let Some(at) = list.iter().position(|known| Arc::ptr_eq(known, watch)) {
            list.remove(at);
        }
    }
}

/// A number for the two events of a rename.
pub(crate) fn new_cookie() -> u32 {
    COOKIE.fetch_add(1, Ordering::Relaxed)
}

/// Whether anybody watches anything.
#[inline]
pub(crate) fn is_anybody_there() -> bool {
    WATCHES.load(Ordering::Relaxed) != 0
}

fn tell(inode: &Inode, mask: InotifyMask, cookie: u32, entry: Option<(&[u8], Unlinked)>) {
    let Some(watches) = inode.slots().watches_if_any() else { return };
    for watch in watches.all() {
        let wanted = watch.mask();
        if !wanted.intersects(mask) {
            continue;
        }
        let excluded = wanted.contains(InotifyMask::IN_EXCL_UNLINK)
            && entry.is_some_and(|(_, unlinked)| unlinked == Unlinked::Yes);
        if !excluded {
            watch.tell(mask, cookie, entry.map(|(name, _)| name));
        }
    }
}

/// Whether an entry's name is gone already (`IN_EXCL_UNLINK`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unlinked {
    Yes,
    No,
}

fn kind(inode: &Inode) -> InotifyMask {
    if inode.file_type() == FileType::Directory { InotifyMask::IN_ISDIR } else { InotifyMask::empty() }
}

/// Something happened to what a dentry names: tells those who watch it and those who watch its directory.
#[inline]
pub(crate) fn happened(dentry: &Arc<Dentry>, mask: InotifyMask) {
    if is_anybody_there() {
        happened_to(dentry, mask);
    }
}

#[cold]
fn happened_to(dentry: &Arc<Dentry>, mask: InotifyMask) {
    let inode = dentry.inode();
    let mask = mask | kind(inode);
    if let Some(parent) = dentry.parent()
        && parent.inode().slots().watches_if_any().is_some()
    {
        let unlinked = if dentry.is_unlinked() { Unlinked::Yes } else { Unlinked::No };
        tell(parent.inode(), mask, 0, Some((&dentry.name(), unlinked)));
    }
    tell(inode, mask, 0, None);
}

/// An entry of a directory came or went: tells those who watch the directory.
#[inline]
pub(crate) fn entry_changed(dir: &Arc<Dentry>, name: &[u8], inode: &Inode, mask: InotifyMask, cookie: u32) {
    if is_anybody_there() {
        tell(dir.inode(), mask | kind(inode), cookie, Some((name, Unlinked::No)));
    }
}

/// Something happened to an inode itself: tells those who watch it.
#[inline]
pub(crate) fn inode_changed(inode: &Inode, mask: InotifyMask) {
    if is_anybody_there() {
        tell(inode, mask, 0, None);
    }
}

/// An entry was removed: its file is gone too when it has no other name and nobody has it open.
#[inline]
pub(crate) fn entry_removed(dir: &Arc<Dentry>, name: &[u8], entry: &Arc<Dentry>) {
    if is_anybody_there() {
        if !entry.is_dir() {
            inode_changed(entry.inode(), InotifyMask::IN_ATTRIB);
        }
        entry_changed(dir, name, entry.inode(), InotifyMask::IN_DELETE, 0);
        maybe_gone(entry);
    }
}

/// Tells those who watch a file without a name that it is gone, if `entry` is the last that refers to it.
pub(crate) fn maybe_gone(entry: &Arc<Dentry>) {
    if !is_anybody_there() || !entry.is_unlinked() || Arc::strong_count(entry) > 1 {
        return;
    }
    let inode = entry.inode();
    let Some(watches) = inode.slots().watches_if_any() else { return };
    // A directory that was removed keeps no names; of anything else the last name must be gone.
    if !entry.is_dir() && inode.attr().is_ok_and(|attr| attr.nlink > 0) {
        return;
    }
    for watch in watches.all() {
        let Some(listener) = watch.listener.upgrade() else { continue };
        if watch.mask().contains(InotifyMask::IN_DELETE_SELF) {
            listener.event(watch.wd, InotifyMask::IN_DELETE_SELF, 0, None);
        }
        listener.over(watch.wd);
    }
}
