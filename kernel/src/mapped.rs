//! Open files as the sources of mappings.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use fs::vfs::{File, Path};
use mm::{FileSource, MappedFile};
use usermem::platform::Prot;

/// The file of `file`, as the source of a mapping for a task with this root directory. `ENODEV` for files that cannot be
/// mapped.
pub fn file_source(file: &Arc<File>, offset: u64, max_prot: Prot, root: Path) -> Result<FileSource, Errno> {
    Ok(FileSource { object: file.mappable()?, file: MappedDescription::new(Arc::clone(file), root), offset, max_prot })
}

/// The open file behind a mapping, if it is one of ours.
pub fn mapped_file(mapped: &dyn MappedFile) -> Option<Arc<File>> {
    Some(Arc::clone(mapped.as_any().downcast_ref::<MappedDescription>()?.file()))
}

/// An open file description that is mapped; it stays open as long as a mapping holds it.
pub struct MappedDescription {
    file: Arc<File>,
    root: Path,
    dev: u64,
    ino: u64,
}

impl MappedDescription {
    /// `file` as seen by a task with this root directory.
    pub fn new(file: Arc<File>, root: Path) -> Arc<Self> {
        let (dev, ino) = file.attr().map_or((0, 0), |attr| (attr.dev, attr.ino));
        Arc::new(Self { file, root, dev, ino })
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl MappedFile for MappedDescription {
    fn path(&self) -> Vec<u8> {
        self.file.path().d_path(&self.root)
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn ino(&self) -> u64 {
        self.ino
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
