//! The host files that a sandbox may see, as descriptors of detached bind mounts.
//!
//! A detached mount (`open_tree(OPEN_TREE_CLONE)`) ends at its own root: `..` and absolute paths lead nowhere, even for
//! a compromised sandbox process that holds the descriptor. Every mount is passed by itself, read-only, nosuid and
//! nodev unless a volume says otherwise; pseudo file systems, `/dev` and `/run` are never passed.
//!
//! A directory with *locked* mounts below it (any, when the caller is not root) cannot be cloned by itself; it becomes a
//! directory of the *skeleton* and its entries are passed one by one. So does the host's `/`, always, because `/run` and
//! `/dev` may be plain directories in it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use crate::config::{Isolation, RunConfig, VolumeAccess};
use crate::failure::{Doing, Failure, Outcome};
use crate::host::{TreeAccess, restrict_mount};

/// Host directories of which nothing is ever passed.
const NEVER: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// File systems that show the host rather than files.
const PSEUDO: [&str; 24] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fuse.lxcfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// Most trees of one sandbox; what is beyond is not shown.
const MOST_TREES: usize = 4096;

/// What a tree's root is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TreeKind {
    /// A directory with what is below it.
    Directory,
    /// A single regular file.
    File,
}

/// Why a tree is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TreeRole {
    /// It belongs to the guest's root: writes go to a layer in memory.
    Root,
    /// `--volume`: shown as it is.
    Volume,
}

/// One detached mount and where the guest sees it.
#[derive(Debug)]
pub(crate) struct HostTree {
    /// Root of the mount (`O_PATH`-like), or the single file, open for what `access` allows.
    pub(crate) fd: OwnedFd,
    /// Absolute path in the guest.
    pub(crate) guest: PathBuf,
    /// Directory or file.
    pub(crate) kind: TreeKind,
    /// Root or volume.
    pub(crate) role: TreeRole,
    /// Whether writes reach the host.
    pub(crate) access: TreeAccess,
}

/// An object that the sandbox makes up, because its host directory could not be passed whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Skeleton {
    /// A directory with the host's permission bits and owner.
    Directory { mode: u32, uid: u32, gid: u32 },
    /// A symbolic link.
    Symlink { target: PathBuf },
}

/// Everything of the host that a sandbox sees.
#[derive(Debug, Default)]
pub(crate) struct HostView {
    /// In mount order: parents before children, volumes last.
    pub(crate) trees: Vec<HostTree>,
    /// By absolute guest path.
    pub(crate) skeleton: BTreeMap<PathBuf, Skeleton>,
}

/// A mount of the caller's namespace.
#[derive(Debug, PartialEq, Eq)]
struct MountPoint {
    path: PathBuf,
    fstype: String,
}

/// How host objects become descriptors.
#[derive(Clone, Copy)]
enum Opener {
    /// Detached mounts.
    Detached,
    /// Plain descriptors, where mounting is impossible (`--isolation=seccomp`).
    Plain,
}

impl HostView {
    /// Opens what `config` lets the guest see. Needs `CAP_SYS_ADMIN` in the user namespace that owns the current mount
    /// namespace, except with [`Isolation::SeccompOnly`].
    pub(crate) fn collect(config: &RunConfig) -> Outcome<Self> {
        let opener = match config.isolation {
            Isolation::Namespaces => Opener::Detached,
            Isolation::SeccompOnly => Opener::Plain,
        };
        let mounts = parse_mountinfo(&std::fs::read("/proc/self/mountinfo").doing("/proc/self/mountinfo")?);
        let mut collector = Collector { opener, role: TreeRole::Root, mounts, view: Self::default() };
        match &config.rootfs {
            None => collector.take_apart(Path::new("/"), Path::new("/")),
            Some(dir) => collector.add_directory(dir, Path::new("/")),
        }
        .map_err(|error| explain(config.rootfs.as_deref().unwrap_or(Path::new("/")), &error))?;
        collector.role = TreeRole::Volume;
        for volume in &config.volumes {
            let access = match volume.access {
                VolumeAccess::ReadOnly => TreeAccess::ReadOnly,
                VolumeAccess::ReadWrite => TreeAccess::ReadWrite,
            };
            collector.add_volume(&volume.host, &volume.guest, access).map_err(|error| explain(&volume.host, &error))?;
        }
        Ok(collector.view)
    }
}

fn explain(path: &Path, error: &io::Error) -> Failure {
    if error.raw_os_error() == Some(libc::EPERM) {
        return Failure::ours(format!(
            "{}: cannot be bind-mounted: {error} (user namespaces may be stripped of their capabilities here; see \
             `casemate doctor`)",
            path.display()
        ));
    }
    Failure::ours(format!("{}: {error}", path.display()))
}

struct Collector {
    opener: Opener,
    role: TreeRole,
    mounts: Vec<MountPoint>,
    view: HostView,
}

impl Collector {
    /// Adds host directory `host` as `guest`: whole if possible, else its entries one by one.
    fn add_directory(&mut self, host: &Path, guest: &Path) -> io::Result<()> {
        match self.open(host, TreeAccess::ReadOnly) {
            Ok(fd) => {
                self.push(fd, guest, TreeKind::Directory, TreeAccess::ReadOnly);
                self.add_mounts_below(host, guest);
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.take_apart(host, guest),
            Err(error) => Err(error),
        }
    }

    /// Makes `guest` a skeleton directory and adds the entries of `host` below it.
    fn take_apart(&mut self, host: &Path, guest: &Path) -> io::Result<()> {
        let metadata = std::fs::metadata(host)?;
        self.view.skeleton.insert(guest.to_owned(), Skeleton::directory(&metadata));
        let entries = match std::fs::read_dir(host) {
            Ok(entries) => entries,
            // What the caller may not list stays empty, but for mounts that the next step would have found.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && host != Path::new("/") => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let (host, guest) = (entry.path(), guest.join(entry.file_name()));
            // An entry that vanishes or refuses is not shown; the rest is.
            if let Err(error) = self.add_entry(&host, &guest) {
                log::info!("{}: not shown to the guest: {error}", host.display());
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, host: &Path, guest: &Path) -> io::Result<()> {
        let metadata = std::fs::symlink_metadata(host)?;
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = std::fs::read_link(host)?;
            self.view.skeleton.insert(guest.to_owned(), Skeleton::Symlink { target });
        } else if kind.is_dir() {
            if self.forbidden(host) {
                self.view.skeleton.insert(guest.to_owned(), Skeleton::directory(&metadata));
                return Ok(());
            }
            self.add_directory(host, guest)?;
        } else if kind.is_file() && !self.forbidden(host) {
            let fd = self.open_file(host, TreeAccess::ReadOnly)?;
            self.push(fd, guest, TreeKind::File, TreeAccess::ReadOnly);
        }
        Ok(())
    }

    /// Mounts below a directory that was cloned without them.
    fn add_mounts_below(&mut self, host: &Path, guest: &Path) {
        let below: Vec<PathBuf> = self
            .mounts
            .iter()
            .map(|mount| mount.path.clone())
            .filter(|path| path != host && path.starts_with(host))
            .collect();
        for path in below {
            let Ok(relative) = path.strip_prefix(host) else { continue };
            let guest = guest.join(relative);
            if self.forbidden(&path) || self.view.trees.iter().any(|tree| tree.guest == guest) {
                continue;
            }
            let added = std::fs::metadata(&path).and_then(|metadata| {
                let access = TreeAccess::ReadOnly;
                if metadata.is_dir() {
                    let fd = self.open(&path, access)?;
                    self.push(fd, &guest, TreeKind::Directory, access);
                } else if metadata.is_file() {
                    let fd = self.open_file(&path, access)?;
                    self.push(fd, &guest, TreeKind::File, access);
                }
                Ok(())
            });
            if let Err(error) = added {
                log::info!("{}: not shown to the guest: {error}", path.display());
            }
        }
    }

    fn add_volume(&mut self, host: &Path, guest: &Path, access: TreeAccess) -> io::Result<()> {
        let metadata = std::fs::metadata(host)?;
        let kind = if metadata.is_dir() {
            TreeKind::Directory
        } else if metadata.is_file() {
            TreeKind::File
        } else {
            return Err(io::Error::other("only directories and regular files can be volumes"));
        };
        if self.pseudo(host) {
            return Err(io::Error::other("a pseudo file system cannot be a volume"));
        }
        let opened = match kind {
            TreeKind::Directory => self.open(host, access),
            TreeKind::File => self.open_file(host, access),
        };
        match opened {
            Ok(fd) => self.push(fd, guest, kind, access),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && access == TreeAccess::ReadOnly => {
                self.take_apart(host, guest)?;
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Err(io::Error::other(
                    "has mounts below it: pass each as a volume of its own, or this one as :ro",
                ));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn push(&mut self, fd: OwnedFd, guest: &Path, kind: TreeKind, access: TreeAccess) {
        if self.view.trees.len() < MOST_TREES {
            self.view.trees.push(HostTree { fd, guest: guest.to_owned(), kind, role: self.role, access });
        }
    }

    fn open(&self, host: &Path, access: TreeAccess) -> io::Result<OwnedFd> {
        match self.opener {
            Opener::Detached => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_NO_AUTOMOUNT
                    | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
                let fd = rustix::mount::open_tree(CWD, host, flags)?;
                restrict_mount(fd.as_fd(), access)?;
                Ok(fd)
            }
            Opener::Plain => {
                let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                Ok(rustix::fs::open(host, flags, Mode::empty())?)
            }
        }
    }

    /// A single file, opened for what `access` allows: a tree of one file has no directory to open it from later.
    fn open_file(&self, host: &Path, access: TreeAccess) -> io::Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        let tree = self.open(host, access)?;
        let mode = match access {
            TreeAccess::ReadOnly => OFlags::RDONLY,
            TreeAccess::ReadWrite => OFlags::RDWR,
        };
        let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
        Ok(rustix::fs::open(path, mode | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?)
    }

    fn forbidden(&self, host: &Path) -> bool {
        NEVER.iter().any(|never| host.starts_with(never)) || self.pseudo(host)
    }

    /// Whether `host` lies in a pseudo file system: decided by the deepest mount on the way to it.
    fn pseudo(&self, host: &Path) -> bool {
        self.mounts
            .iter()
            .filter(|mount| host.starts_with(&mount.path))
            // Later mounts cover earlier ones at the same place.
            .max_by_key(|mount| mount.path.components().count())
            .is_some_and(|mount| PSEUDO.contains(&mount.fstype.as_str()))
    }
}

impl Skeleton {
    fn directory(metadata: &std::fs::Metadata) -> Self {
        Self::Directory { mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() }
    }
}

/// proc_pid_mountinfo(5): field 5 is the mount point, with octal escapes; the type follows a lone `-`.
fn parse_mountinfo(text: &[u8]) -> Vec<MountPoint> {
    let mut mounts = Vec::new();
    for line in text.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let Some(path) = fields.nth(4) else { continue };
        let Some(fstype) = fields.skip_while(|field| *field != b"-").nth(1) else { continue };
        mounts.push(MountPoint {
            path: PathBuf::from(OsStr::from_bytes(&unescape(path))),
            fstype: String::from_utf8_lossy(fstype).into_owned(),
        });
    }
    mounts
}

/// Resolves `\040`-like escapes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'\\')
            .then(|| std::str::from_utf8(tail.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or(&[]);
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use rustix::fs::{Mode, OFlags};

    use super::{Collector, HostView, MountPoint, Opener, TreeAccess, TreeRole, parse_mountinfo};

    #[test]
    fn mountinfo_lines() {
        let text = b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                     22 1 0:20 / /proc rw - proc proc rw\nbroken line\n";
        let expected = [
            MountPoint { path: PathBuf::from("/mnt two"), fstype: "ext3".into() },
            MountPoint { path: PathBuf::from("/proc"), fstype: "proc".into() },
        ];
        assert_eq!(parse_mountinfo(text), expected);
    }

    /// Nothing above a detached mount can be reached through its descriptor, by whatever path.
    #[test]
    fn trees_end_at_their_roots() {
        if !rustix::process::geteuid().is_root() {
            // Needs the right to mount, which `casemate` gets from its user namespace.
            return;
        }
        let collector =
            Collector { opener: Opener::Detached, role: TreeRole::Root, mounts: Vec::new(), view: HostView::default() };
        let tree = collector.open(Path::new("/usr/bin"), TreeAccess::ReadOnly).expect("detached mount");
        let open = |path: &str, flags| rustix::fs::openat(&tree, path, flags, Mode::empty());
        assert!(open("sh", OFlags::RDONLY).is_ok());
        for path in ["..", "../..", "../../../.."] {
            let up = open(path, OFlags::PATH).expect("`..` of a root is itself");
            assert_eq!(rustix::fs::fstat(&up).expect("stat").st_ino, rustix::fs::fstat(&tree).expect("stat").st_ino);
        }
        for path in ["../lib", "../../etc/passwd", "../../../../etc/passwd"] {
            assert!(open(path, OFlags::PATH).is_err(), "{path}");
        }
        assert_eq!(open("casemate-new", OFlags::RDWR | OFlags::CREATE).err(), Some(rustix::io::Errno::ROFS));
    }

    #[test]
    fn pseudo_file_systems_are_told_by_the_deepest_mount() {
        let mount = |path: &str, fstype: &str| MountPoint { path: path.into(), fstype: fstype.into() };
        let collector = Collector {
            opener: Opener::Plain,
            role: TreeRole::Root,
            mounts: vec![mount("/", "ext4"), mount("/x", "proc"), mount("/x/disk", "ext4")],
            view: HostView::default(),
        };
        assert!(collector.pseudo(Path::new("/x")));
        assert!(collector.pseudo(Path::new("/x/1/fd")));
        assert!(!collector.pseudo(Path::new("/x/disk/file")));
        assert!(!collector.pseudo(Path::new("/xy")));
        assert!(collector.forbidden(Path::new("/run/docker.sock")));
        assert!(!collector.forbidden(Path::new("/runtime")));
    }
}
