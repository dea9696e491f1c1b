//! Takes from the sandbox process what it does not need: the host's mounts, descriptors, capabilities.
//!
//! Order matters: what needs a mount or `/proc` comes first, then the empty root, then capabilities.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::failure::{Doing, Outcome};
use crate::host;

/// The file that holds guest memory: one description to write it, one that can only read.
#[derive(Debug)]
pub(crate) struct MemoryFiles {
    /// For the kernel process.
    pub(crate) write: OwnedFd,
    /// For mappings that must never become writable.
    pub(crate) read_only: OwnedFd,
}

/// Makes the memory file on a tmpfs of the sandbox's own, which nobody else can see, with `limit` bytes.
pub(super) fn memory_on_tmpfs(limit: u64) -> Outcome<MemoryFiles> {
    let what = "memory file";
    let tmpfs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).doing(what)?;
    rustix::mount::fsconfig_set_string(&tmpfs, "size", limit.to_string()).doing(what)?;
    rustix::mount::fsconfig_set_string(&tmpfs, "mode", "0700").doing(what)?;
    // Who maps the file says where huge pages are not wanted; fallocate, which asks for them, cannot say that it wants them.
    if let Err(error) = rustix::mount::fsconfig_set_string(&tmpfs, "huge", "always") {
        // A kernel without transparent huge pages.
        log::info!("{what}: huge=always: {error}");
    }
    rustix::mount::fsconfig_create(&tmpfs).doing(what)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = rustix::mount::fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).doing(what)?;
    let name = "memory";
    let create = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let write = rustix::fs::openat(&mount, name, create, Mode::RUSR | Mode::WUSR).doing(what)?;
    let read_only = rustix::fs::openat(&mount, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(what)?;
    rustix::fs::unlinkat(&mount, name, rustix::fs::AtFlags::empty()).doing(what)?;
    Ok(MemoryFiles { write, read_only })
}

/// The same where mounting is forbidden; nothing but our own accounting limits it.
pub(super) fn memory_on_memfd() -> Outcome<MemoryFiles> {
    let what = "memory file";
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let write = rustix::fs::memfd_create("casemate-memory", flags).doing(what)?;
    let path = format!("/proc/self/fd/{}", write.as_raw_fd());
    let read_only = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(what)?;
    Ok(MemoryFiles { write, read_only })
}

/// Replaces the root by an empty, read-only directory and lets go of every mount of the host.
pub(super) fn empty_root() -> Outcome<()> {
    use rustix::mount::MountPropagationFlags;
    let what = "empty root";
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).doing(what)?;
    let tmpfs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).doing(what)?;
    rustix::mount::fsconfig_set_string(&tmpfs, "size", "4k").doing(what)?;
    rustix::mount::fsconfig_set_string(&tmpfs, "mode", "0555").doing(what)?;
    rustix::mount::fsconfig_create(&tmpfs).doing(what)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let mount = rustix::mount::fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).doing(what)?;
    rustix::mount::move_mount(&mount, "", rustix::fs::CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).doing(what)?;
    rustix::process::fchdir(&mount).doing(what)?;
    match host::pivot_here() {
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH).doing(what)?,
        // The initial root file system cannot be pivoted away from: cover it instead.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            rustix::mount::mount_move(".", "/").doing(what)?;
            rustix::process::chroot(".").doing(what)?;
        }
        Err(error) => return Err(error).doing(what),
    }
    rustix::process::chdir("/").doing(what)
}

/// Points standard input and output at `/dev/null` and closes every descriptor that is not in `keep`.
pub(super) fn close_descriptors(null: &OwnedFd, keep: impl IntoIterator<Item = RawFd>) -> Outcome<()> {
    rustix::stdio::dup2_stdin(null).doing("/dev/null")?;
    rustix::stdio::dup2_stdout(null).doing("/dev/null")?;
    let keep: BTreeSet<RawFd> = [0, 1, 2].into_iter().chain(keep).collect();
    host::close_all_but(&keep.into_iter().collect::<Vec<_>>()).doing("close_range")
}

/// Host id rights that the mode needs over files of the trees; nothing else survives.
pub(super) fn kept_capabilities(all_ids: bool, writable_volumes: bool) -> CapabilitySet {
    let mut kept = CapabilitySet::empty();
    if all_ids {
        // The guest's root reads what the host's root could; our VFS decides for its other users.
        kept |= CapabilitySet::DAC_READ_SEARCH;
        if writable_volumes {
            kept |= CapabilitySet::DAC_OVERRIDE | CapabilitySet::CHOWN | CapabilitySet::FOWNER | CapabilitySet::FSETID;
        }
    }
    kept
}

/// Drops every capability but `kept`, for good.
pub(super) fn drop_capabilities(kept: CapabilitySet) -> Outcome<()> {
    let what = "dropping capabilities";
    rustix::thread::set_no_new_privs(true).doing(what)?;
    let _ = rustix::thread::clear_ambient_capability_set();
    let own = rustix::thread::capabilities(None).doing(what)?;
    if own.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..64 {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // The first number that this kernel does not know.
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => return Err(error).doing(what),
            }
        }
    }
    let kept = kept & own.permitted;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).doing(what)
}

/// Makes the process unreadable to others, without core dumps and without soft limits.
pub(super) fn set_process_attributes() -> Outcome<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing("prctl")?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).doing("RLIMIT_CORE")?;
    // The guest's limits are our kernel's business; the host's must not hit its threads.
    for resource in [Resource::Fsize, Resource::Cpu, Resource::Stack, Resource::Data, Resource::As] {
        let limit = rustix::process::getrlimit(resource);
        let _ = rustix::process::setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// This process's `oom_score_adj`, held open because `/proc` goes away.
pub(crate) struct OomScore {
    file: std::fs::File,
    original: String,
}

impl OomScore {
    /// Opens it; before the empty root and before the process becomes non-dumpable. Where `/proc` cannot be written,
    /// stubs are no likelier than others to be the ones that the host kills for their memory.
    pub(super) fn open() -> Option<Self> {
        let path = "/proc/self/oom_score_adj";
        let open = || {
            let original = std::fs::read_to_string(path)?.trim().to_owned();
            let file = std::fs::OpenOptions::new().write(true).open(path)?;
            io::Result::Ok(Self { file, original })
        };
        open().inspect_err(|error| log::info!("{path}: {error}")).ok()
    }

    /// The descriptor, which must survive the closing of others.
    pub(super) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `body` with the largest score, so that processes forked in it are the host's first choice, then puts this
    /// process's own score back.
    pub(crate) fn raised_during<T>(self, body: impl FnOnce() -> T) -> T {
        use std::os::unix::fs::FileExt;
        if let Err(error) = self.file.write_all_at(b"1000", 0) {
            log::info!("oom_score_adj: {error}");
        }
        let result = body();
        if let Err(error) = self.file.write_all_at(self.original.as_bytes(), 0) {
            log::info!("oom_score_adj: {error}");
        }
        result
    }
}
