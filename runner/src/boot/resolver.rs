//! Small files that the guest expects and that lie where the host's are not shown: `/etc/resolv.conf` is often a
//! symbolic link into `/run`.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::config::RunConfig;

/// Files whose targets are carried over when they lie under `/run`.
const WANTED: [&str; 4] = ["/etc/resolv.conf", "/etc/hosts", "/etc/localtime", "/etc/timezone"];
/// Most bytes of one of them.
const LARGEST: u64 = 256 << 10;

/// Contents read from the host before its files went away.
#[derive(Debug, Default)]
pub(crate) struct ResolverFiles {
    /// Absolute guest path and bytes.
    pub(super) files: Vec<(Vec<u8>, Vec<u8>)>,
    /// `/proc/cpuinfo`.
    pub(super) cpuinfo: Vec<u8>,
}

impl ResolverFiles {
    /// Reads what the guest of `config` will miss. A guest with its own root directory has its own files.
    pub(crate) fn read(config: &RunConfig) -> Self {
        let cpuinfo = read("/proc/cpuinfo".as_ref()).unwrap_or_default();
        if config.rootfs.is_some() {
            return Self { files: Vec::new(), cpuinfo };
        }
        let files = WANTED
            .iter()
            .filter_map(|path| {
                let target = Path::new(path).canonicalize().ok()?;
                if !target.starts_with("/run") {
                    return None;
                }
                Some((target.as_os_str().as_bytes().to_vec(), read(&target)?))
            })
            .collect();
        Self { files, cpuinfo }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
