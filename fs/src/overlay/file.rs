//! Open regular files of an overlay: the original until it is copied up, the copy from then on.

use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::fs::{FallocFlags, OpenFlags};
use usermem::bytes::{IoDst, IoSrc};
use usermem::memmap::Mappable;

use crate::Context;
use crate::overlay::copy::CopyData;
use crate::overlay::inode::OvlInode;
use crate::vfs::{File, FileOps, Position, SyncWhat, Whence};

/// An open regular file.
pub(super) struct OvlFile {
    inode: Arc<OvlInode>,
    /// The original, when it was opened before the copy was made.
    lower: Option<Arc<dyn FileOps>>,
    upper: OnceLock<Arc<dyn FileOps>>,
}

impl OvlFile {
    pub(super) fn open(inode: Arc<OvlInode>, ctx: &Context<'_>) -> Result<Self, Errno> {
        let upper = OnceLock::new();
        let lower = match inode.upper.get() {
            Some(above) => {
                let ops = Arc::clone(above).open(ctx, OpenFlags::O_RDWR)?;
                upper.get_or_init(|| ops);
                None
            }
            None => Some(Arc::clone(inode.lowers.first().ok_or(Errno::EIO)?).open(ctx, OpenFlags::empty())?),
        };
        Ok(Self { inode, lower, upper })
    }

    /// Where the contents are now.
    fn ops(&self, ctx: &Context<'_>) -> Result<&Arc<dyn FileOps>, Errno> {
        if let Some(upper) = self.upper.get() {
            return Ok(upper);
        }
        match self.inode.upper.get() {
            Some(above) => {
                let ops = Arc::clone(above).open(ctx, OpenFlags::O_RDWR)?;
                Ok(self.upper.get_or_init(|| ops))
            }
            None => self.lower.as_ref().ok_or(Errno::EIO),
        }
    }

    /// The same where nobody asks: opened before, or the original.
    fn ops_open(&self) -> Result<&Arc<dyn FileOps>, Errno> {
        let kernel = crate::KernelContext::default();
        self.ops(&kernel.context())
    }
}

impl FileOps for OvlFile {
    fn read(&self, ctx: &Context<'_>, file: &File, dst: &mut dyn IoDst, offset: u64) -> Result<usize, Errno> {
        self.ops(ctx)?.read(ctx, file, dst, offset)
    }

    fn write(&self, ctx: &Context<'_>, file: &File, src: &mut dyn IoSrc, offset: u64) -> Result<usize, Errno> {
        self.inode.copy_up(ctx, CopyData::Yes)?;
        self.ops(ctx)?.write(ctx, file, src, offset)
    }

    fn append(&self, ctx: &Context<'_>, file: &File, src: &mut dyn IoSrc) -> Result<(u64, usize), Errno> {
        self.inode.copy_up(ctx, CopyData::Yes)?;
        self.ops(ctx)?.append(ctx, file, src)
    }

    fn position(&self) -> Position {
        Position::Offsets
    }

    fn size(&self) -> Result<u64, Errno> {
        self.ops_open()?.size()
    }

    fn seek_data_hole(&self, offset: u64, whence: Whence) -> Result<u64, Errno> {
        self.ops_open()?.seek_data_hole(offset, whence)
    }

    fn sync(&self, what: SyncWhat) -> Result<(), Errno> {
        self.ops_open()?.sync(what)
    }

    fn truncate(&self, ctx: &Context<'_>, file: &File, size: u64) -> Result<(), Errno> {
        self.inode.copy_up(ctx, CopyData::Yes)?;
        self.ops(ctx)?.truncate(ctx, file, size)
    }

    fn allocate(&self, ctx: &Context<'_>, mode: FallocFlags, offset: u64, len: u64) -> Result<(), Errno> {
        self.inode.copy_up(ctx, CopyData::Yes)?;
        self.ops(ctx)?.allocate(ctx, mode, offset, len)
    }

    /// What is mapped stays what it was when the file is copied up later, as on Linux: a program that runs goes on when
    /// its file is written anew.
    fn mappable(&self, file: &File) -> Result<Arc<dyn Mappable>, Errno> {
        self.ops_open()?.mappable(file)
    }
}
