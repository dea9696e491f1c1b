//! Reading directories: a snapshot per open description, taken when it is read from the start.
//!
//! Positions are indices: 0 and 1 are `.` and `..`, then the entries in the order of the snapshot. A snapshot makes
//! `readdir` with removals in between as exact as POSIX asks, for any file system that can list its entries.

use abi::Errno;
use sync::Mutex;
use usermem::bytes::IoDst;

use crate::vfs::file::{File, FileOps, Position, SyncWhat};
use crate::vfs::types::{DirEntry, DirSink, FileType};
use crate::{Context, lockclass};

/// An open directory.
pub(crate) struct DirFile {
    snapshot: Mutex<Option<Vec<DirEntry>>>,
}

impl DirFile {
    pub(crate) fn new() -> Self {
        Self { snapshot: Mutex::new(lockclass::DIR_SNAPSHOT, None) }
    }
}

impl FileOps for DirFile {
    fn read(&self, _ctx: &Context<'_>, _file: &File, _dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn position(&self) -> Position {
        Position::Offsets
    }

    fn size(&self) -> Result<u64, Errno> {
        Ok(i64::MAX.unsigned_abs())
    }

    fn readdir(&self, ctx: &Context<'_>, file: &File, position: u64, sink: &mut dyn DirSink) -> Result<u64, Errno> {
        let dentry = &file.path().dentry;
        if dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let dir = dentry.dir()?;
        let mut snapshot = self.snapshot.lock();
        if position == 0 {
            *snapshot = None;
        }
        let mut next = position;
        if next == 0 {
            if !sink.entry(b".", dentry.inode().identity().1, FileType::Directory, 1) {
                return Ok(0);
            }
            next = 1;
        }
        if next == 1 {
            let parent = dentry.parent().map_or(dentry.inode().identity().1, |parent| parent.inode().identity().1);
            if !sink.entry(b"..", parent, FileType::Directory, 2) {
                return Ok(1);
            }
            next = 2;
        }
        if snapshot.is_none() {
            *snapshot = Some(dir.list(ctx)?);
        }
        let entries = snapshot.as_deref().unwrap_or_default();
        let first = usize::try_from(next - 2).unwrap_or(usize::MAX).min(entries.len());
        for entry in entries.iter().skip(first) {
            if !sink.entry(&entry.name, entry.ino, entry.file_type, next + 1) {
                break;
            }
            next += 1;
        }
        Ok(next)
    }

    fn sync(&self, _what: SyncWhat) -> Result<(), Errno> {
        Ok(())
    }
}
