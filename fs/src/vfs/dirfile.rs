//! Reading directories: a snapshot per open description, taken when it is read from the start.
//!
//! Positions are indices: 0 and 1 are `.` and `..`, then the entries in the order of the snapshot. A snapshot makes
//! `readdir` with removals in between as exact as POSIX asks, for any file system that can list its entries.

use abi::Errno;
use sync::Mutex;
use usermem::bytes::IoDst;

use crate::vfs::file::{File, FileOps, Position, SyncWhat};
use crate::vfs::inode::DirOps;
use crate::vfs::types::{DirSink, FileType};
use crate::{Context, lockclass};

/// An open directory.
pub(crate) struct DirFile {
    snapshot: Mutex<Option<Snapshot>>,
}

/// The entries of a directory at one moment, names in one piece.
#[derive(Default)]
struct Snapshot {
    names: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    /// Where its name ends in `names`; it begins where the one before ends.
    end: usize,
    ino: u64,
    file_type: FileType,
}

impl Snapshot {
    fn take(dir: &dyn DirOps, ctx: &Context<'_>) -> Result<Self, Errno> {
        let mut all = Self::default();
        dir.for_each(ctx, &mut |name, ino, file_type| {
            all.names.extend_from_slice(name);
            all.entries.push(Entry { end: all.names.len(), ino, file_type });
        })?;
        Ok(all)
    }

    /// The entries from the `first`th on, with their names.
    fn from(&self, first: usize) -> impl Iterator<Item = (&[u8], &Entry)> {
        let mut start = first.checked_sub(1).and_then(|last| self.entries.get(last)).map_or(0, |entry| entry.end);
        self.entries.iter().skip(first).filter_map(move |entry| {
            let name = self.names.get(start..entry.end)?;
            start = entry.end;
            Some((name, entry))
        })
    }
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
        let taken = match &mut *snapshot {
            Some(taken) => taken,
            empty => empty.insert(Snapshot::take(dir, ctx)?),
        };
        let first = usize::try_from(next - 2).unwrap_or(usize::MAX);
        for (name, entry) in taken.from(first) {
            if !sink.entry(name, entry.ino, entry.file_type, next + 1) {
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
