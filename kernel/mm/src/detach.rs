//! Mappings let go of what they map: `shmdt(2)`, and the end of a process.

use std::sync::Arc;

use abi::Errno;
use usermem::{Addr, AddrRange};

use crate::mm::Mm;
use crate::types::MappedFile;

/// In place of a file that is closed.
struct Closed;

impl MappedFile for Closed {
    fn path(&self) -> Vec<u8> {
        Vec::new()
    }

    fn dev(&self) -> u64 {
        0
    }

    fn ino(&self) -> u64 {
        0
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Mm {
    /// Closes the files of all mappings, of an address space that nobody will run in any more: what that does for others
    /// (locks on files, attachments of segments) is done when what it answers is dropped, however long the host takes over
    /// the rest.
    #[must_use = "dropping the files closes them"]
    pub fn close_files(&self) -> Vec<Arc<dyn MappedFile>> {
        let closed: Arc<dyn MappedFile> = Arc::new(Closed);
        let mut files = Vec::new();
        let mut state = self.lock();
        let everywhere = state.layout.user;
        state.vmas.update(everywhere, |_, vma| {
            if let Some(file) = &mut vma.file {
                files.push(std::mem::replace(&mut file.file, Arc::clone(&closed)));
            }
        });
        files.extend(state.executable.take());
        drop(state);
        files
    }

    /// Removes what is left of the mapping of a whole object that began at `addr`, and says of which; only objects for
    /// which `is_meant` says so count. `EINVAL` if there is none.
    pub fn detach(&self, addr: Addr, is_meant: &dyn Fn(&dyn MappedFile) -> bool) -> Result<Arc<dyn MappedFile>, Errno> {
        if !addr.is_page_aligned() {
            return Err(Errno::EINVAL);
        }
        let mut state = self.lock();
        let rest = AddrRange { start: addr, end: state.layout.user.end.max(addr) };
        let mut found: Option<Arc<dyn MappedFile>> = None;
        let mut pieces = Vec::new();
        let mut end = rest.end;
        for (range, vma) in state.vmas.touching(rest) {
            if range.start >= end {
                break;
            }
            let Some(file) = &vma.file else { continue };
            // A piece of the mapping that began at `addr` lies as far from there as it does from the object's start.
            if range.start < addr || range.start.0 - addr.0 != file.offset {
                continue;
            }
            match &found {
                None if is_meant(&*file.file) => {
                    end = AddrRange::of_len(addr, file.object.size()).map_or(rest.end, |range| range.end);
                    found = Some(Arc::clone(&file.file));
                }
                Some(first) if Arc::ptr_eq(first, &file.file) => {}
                _ => continue,
            }
            pieces.push(range);
        }
        let found = found.ok_or(Errno::EINVAL)?;
        // What is sealed stays, and nobody is told, as on Linux.
        for range in pieces {
            if state.is_sealed(range) {
                continue;
            }
            state.unmap(range).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(found)
    }
}
