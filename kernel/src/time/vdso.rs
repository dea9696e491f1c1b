//! The vDSO's pages: one copy of its code and one page of clock parameters, mapped into every program.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use mm::{FileSource, MappedFile, SharedMemory, Source};
use usermem::PAGE_SIZE;
use usermem::memfile::MemoryFile;
use usermem::platform::Prot;

/// The vDSO as it is mapped.
pub(crate) struct VdsoPages {
    data: Arc<SharedMemory>,
    code: Arc<SharedMemory>,
}

struct Nameless;

impl MappedFile for Nameless {
    fn path(&self) -> Vec<u8> {
        Vec::new()
    }

    fn dev(&self) -> u64 {
        0
    }

    fn ino(&self) -> u64 {
        0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl VdsoPages {
    pub(crate) fn new(memory: &Arc<MemoryFile>) -> Result<Self, Errno> {
        let data = SharedMemory::new(memory, PAGE_SIZE)?;
        let code = SharedMemory::new(memory, (loader::vdso::IMAGE.len() as u64).max(PAGE_SIZE))?;
        code.write(0, loader::vdso::IMAGE)?;
        Ok(Self { data, code })
    }

    /// Whether there is code to map.
    pub(crate) fn presence(&self) -> loader::Vdso {
        if loader::vdso::IMAGE.is_empty() { loader::Vdso::Absent } else { loader::Vdso::Mapped }
    }

    fn source(memory: &Arc<SharedMemory>, max_prot: Prot) -> Source {
        Source::File(FileSource { object: Arc::clone(memory) as _, file: Arc::new(Nameless), offset: 0, max_prot })
    }

    pub(crate) fn data_source(&self) -> Source {
        Self::source(&self.data, Prot::READ)
    }

    pub(crate) fn code_source(&self) -> Source {
        Self::source(&self.code, Prot::all())
    }
}
