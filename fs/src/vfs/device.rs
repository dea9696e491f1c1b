//! What device numbers mean: who opens a device node.

use std::collections::HashMap;
use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use sync::RwLock;

use crate::Context;
use crate::lockclass;
use crate::vfs::file::FileOps;
use crate::vfs::mount::Path;
use crate::vfs::types::{major, minor};

/// The two kinds of device node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// Opens devices of one range of numbers.
pub trait DeviceOpener: Send + Sync {
    /// Opens the device `rdev`, whose node is at `path`.
    fn open(&self, ctx: &Context<'_>, rdev: u64, flags: OpenFlags, path: &Path) -> Result<Arc<dyn FileOps>, Errno>;
}

/// A range of minors and who opens them.
type Served = (core::ops::RangeInclusive<u32>, Arc<dyn DeviceOpener>);

/// The table of device numbers. One per kernel.
pub struct Devices {
    /// By kind and major.
    openers: RwLock<HashMap<(DeviceKind, u32), Vec<Served>>>,
}

impl Devices {
    /// An empty table: every open of a device is `ENXIO`.
    pub fn new() -> Self {
        Self { openers: RwLock::new(lockclass::REGISTRY, HashMap::new()) }
    }

    /// Serves `minors` of `major` by `opener`; later registrations win.
    pub fn register(
        &self,
        kind: DeviceKind,
        major: u32,
        minors: core::ops::RangeInclusive<u32>,
        opener: Arc<dyn DeviceOpener>,
    ) {
        self.openers.write().entry((kind, major)).or_default().push((minors, opener));
    }

    /// Opens a device node; `ENXIO` where nobody serves the number.
    pub(crate) fn open(
        &self,
        ctx: &Context<'_>,
        kind: DeviceKind,
        rdev: u64,
        flags: OpenFlags,
        path: &Path,
    ) -> Result<Arc<dyn FileOps>, Errno> {
        let opener = self
            .openers
            .read()
            .get(&(kind, major(rdev)))
            .and_then(|list| list.iter().rev().find(|(minors, _)| minors.contains(&minor(rdev))))
            .map(|(_, opener)| Arc::clone(opener))
            .ok_or(Errno::ENXIO)?;
        opener.open(ctx, rdev, flags, path)
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::new()
    }
}
