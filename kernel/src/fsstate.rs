//! Root, working directory and umask of a task; shared with CLONE_FS.

use std::sync::atomic::{AtomicU32, Ordering};

use fs::vfs::Path;
use sync::Mutex;

use crate::lock::FS_STATE;

#[derive(Clone)]
struct Inner {
    root: Path,
    cwd: Path,
}

/// What path walks of a task start from.
pub struct FsState {
    inner: Mutex<Inner>,
    /// Outside the lock, because each call that may create a file asks for it.
    umask: AtomicU32,
}

impl FsState {
    /// With this root and working directory.
    pub fn new(root: Path, cwd: Path, umask: u32) -> Self {
        Self { inner: Mutex::new(FS_STATE, Inner { root, cwd }), umask: AtomicU32::new(umask & 0o777) }
    }

    /// A copy, as after fork.
    pub fn fork(&self) -> Self {
        Self { inner: Mutex::new(FS_STATE, self.inner.lock().clone()), umask: AtomicU32::new(self.umask()) }
    }

    /// The root directory, chroot(2).
    pub fn root(&self) -> Path {
        self.inner.lock().root.clone()
    }

    /// The working directory.
    pub fn cwd(&self) -> Path {
        self.inner.lock().cwd.clone()
    }

    /// Mode bits that new files do not get.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Changes the root directory; the working directory stays.
    pub fn set_root(&self, root: Path) {
        let old = std::mem::replace(&mut self.inner.lock().root, root);
        drop(old);
    }

    /// Changes the working directory.
    pub fn set_cwd(&self, cwd: Path) {
        let old = std::mem::replace(&mut self.inner.lock().cwd, cwd);
        drop(old);
    }

    /// Changes the umask; says the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }
}
