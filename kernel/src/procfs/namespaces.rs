//! `/proc/[pid]/ns`, namespaces(7): the sandbox has one namespace of each kind, numbered as Linux numbers its first ones.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Gid, Uid};
use fs::Context;
use fs::kernfs::{Directory, Link, Owned, Special, Tree};
use fs::vfs::{DirEntry, FileOps, FileType, Inode, Path};

use super::process::Subject;

/// A namespace of the sandbox.
struct Namespace {
    /// Name of the link.
    name: &'static str,
    kind: &'static str,
    number: u64,
}

const fn namespace(name: &'static str, kind: &'static str, number: u64) -> Namespace {
    Namespace { name, kind, number }
}

const ALL: &[Namespace] = &[
    namespace("cgroup", "cgroup", 4_026_531_835),
    namespace("ipc", "ipc", 4_026_531_839),
    namespace("mnt", "mnt", 4_026_531_832),
    namespace("net", "net", 4_026_531_833),
    namespace("pid", "pid", 4_026_531_836),
    namespace("pid_for_children", "pid", 4_026_531_836),
    namespace("time", "time", 4_026_531_834),
    namespace("time_for_children", "time", 4_026_531_834),
    namespace("user", "user", 4_026_531_837),
    namespace("uts", "uts", 4_026_531_838),
];

/// `ns`.
pub(super) struct NsDir {
    pub(super) subject: Subject,
    pub(super) ino: u64,
}

impl Owned for NsDir {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Directory for NsDir {
    fn lookup(&self, _ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        self.subject.thread()?;
        let found = ALL.iter().find(|ns| ns.name.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let link = NsLink { subject: self.subject.clone(), namespace: found };
        Ok(self.subject.proc.tree.link(Tree::ino(self.ino, name), link))
    }

    fn list(&self, _ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        self.subject.thread()?;
        let row = |ns: &Namespace| {
            let name = ns.name.as_bytes().to_vec();
            DirEntry { ino: Tree::ino(self.ino, &name), name, file_type: FileType::Symlink }
        };
        Ok(ALL.iter().map(row).collect())
    }
}

/// A magic link to a namespace.
struct NsLink {
    subject: Subject,
    namespace: &'static Namespace,
}

impl NsLink {
    fn text(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        self.subject.inspect(ctx)?;
        Ok(format!("{}:[{}]", self.namespace.kind, self.namespace.number).into_bytes())
    }
}

impl Owned for NsLink {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Link for NsLink {
    fn target(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        self.text(ctx)
    }

    fn follow(&self, ctx: &Context<'_>) -> Result<Option<Path>, Errno> {
        let text = self.text(ctx)?;
        let inode = self.subject.proc.namespaces.special(self.namespace.number, 0o444, Opened);
        Ok(Some(Path::pseudo(&text, inode)))
    }
}

/// A namespace as a file, which is good for nothing but to have it: there is no other to enter.
struct Opened;

impl Owned for Opened {}

impl Special for Opened {
    fn open(&self, _ctx: &Context<'_>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        Ok(Arc::new(Self))
    }
}

impl FileOps for Opened {}
