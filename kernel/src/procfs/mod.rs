//! `/proc`, proc(5): the process tree and the machine as text.
//!
//! [`filesystem`] makes the tree. A process's directory is looked up anew each time (`process`); what belongs to the
//! whole system stands in `system`, the knobs below `/proc/sys` in `sysctl`, mounts in `mounts`.
//!
//! **Invariants.** Nothing here keeps a process alive: nodes hold a thread only while they are in use, and answer `ESRCH`
//! once it is gone. Inode numbers are made of a process's number and birth, so a number that is given again names another
//! inode.

mod activity;
mod fds;
mod knobs;
mod locks;
mod memory;
mod mounts;
mod namespaces;
mod process;
mod stat;
mod sysctl;
mod system;
mod sysvipc;

use std::sync::{Arc, Weak};

use abi::Errno;
use fs::Context;
use fs::kernfs::{Directory, Link, Owned, StaticDir, StaticLink, Tree};
use fs::vfs::{DirEntry, File, FileType, Filesystem, Inode};

use crate::ids::Pid;
use crate::kernel::Kernel;
use crate::task::{Thread, ThreadGroup};

/// Inode number of the root.
const ROOT_INO: u64 = 1;

/// What every node of the tree can reach.
#[derive(Clone)]
struct Proc {
    tree: Tree,
    /// Of the files that stand for namespaces.
    namespaces: Tree,
    kernel: Weak<Kernel>,
}

impl Proc {
    fn kernel(&self) -> Result<Arc<Kernel>, Errno> {
        self.kernel.upgrade().ok_or(Errno::ESRCH)
    }

    /// A text file that belongs to root.
    fn text<F>(&self, parent: u64, name: &str, mode: u32, render: F) -> Inode
    where
        F: Fn(&Kernel, &Context<'_>) -> Result<Vec<u8>, Errno> + Send + Sync + 'static,
    {
        let proc = self.clone();
        let render = move |ctx: &Context<'_>| render(&*proc.kernel()?, ctx);
        self.tree.file(Tree::ino(parent, name.as_bytes()), mode, render)
    }

    fn link(&self, parent: u64, name: &str, target: &str) -> Inode {
        self.tree.link(Tree::ino(parent, name.as_bytes()), StaticLink(target.as_bytes().to_vec()))
    }
}

/// Makes the file system for `kernel`.
pub fn filesystem(kernel: &Arc<Kernel>) -> Arc<dyn Filesystem> {
    let proc = Proc { tree: Tree::new(), namespaces: Tree::new(), kernel: Arc::downgrade(kernel) };
    let fixed = system::entries(&proc)
        .with("sys", sysctl::directory(&proc))
        .with("sysvipc", sysvipc::directory(&proc))
        .with("mounts", proc.link(ROOT_INO, "mounts", "self/mounts"))
        .with("net", proc.link(ROOT_INO, "net", "self/net"))
        .with("self", proc.tree.link(Tree::ino(ROOT_INO, b"self"), SelfLink))
        .with("thread-self", proc.tree.link(Tree::ino(ROOT_INO, b"thread-self"), ThreadSelfLink));
    let tree = proc.tree;
    let root = tree.dir(ROOT_INO, 0o555, Root { proc, fixed });
    tree.filesystem("proc", abi::stat::PROC_SUPER_MAGIC, root)
}

/// The process whose directory `file` is (pidfd_send_signal(2)), by the inode number that no other directory has; `EBADF`
/// for other files, `ESRCH` when the process is gone.
pub fn process_of(kernel: &Arc<Kernel>, file: &File) -> Result<Arc<ThreadGroup>, Errno> {
    let is_proc = file.statfs().is_ok_and(|fs| fs.magic == abi::stat::PROC_SUPER_MAGIC);
    if !is_proc || file.inode().file_type() != FileType::Directory {
        return Err(Errno::EBADF);
    }
    let number = file.inode().identity().1;
    let mut groups = kernel.tasks().groups().into_iter();
    groups.find(|group| process::ino(group.pid().0, group.start_ns()) == number).ok_or_else(|| {
        let path = file.path().d_path(&kernel.mounts().root());
        let mut names = path.rsplit(|&byte| byte == b'/');
        let name = names.next().unwrap_or_default();
        let digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // A thread's directory stands in one called `task`.
        if digits > 0 && names.next() != Some(b"task".as_slice()) { Errno::ESRCH } else { Errno::EBADF }
    })
}

/// The thread that asks.
fn caller<'a>(ctx: &Context<'a>) -> Result<&'a Arc<Thread>, Errno> {
    ctx.caller_as::<Arc<Thread>>().ok_or(Errno::ENOENT)
}

/// The number in `name`, if it is one as `/proc` writes them.
fn parse_number(name: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(name).ok()?;
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

struct Root {
    proc: Proc,
    fixed: StaticDir,
}

impl Owned for Root {}

impl Directory for Root {
    fn lookup(&self, ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        if let Some(number) = parse_number(name) {
            let kernel = self.proc.kernel()?;
            // A thread's number finds its process too, though it is not listed.
            let thread = match kernel.tasks().describe(Pid(number)) {
                Some(info) => info.leader,
                None => kernel.tasks().thread(crate::ids::Tid(number)).ok_or(Errno::ENOENT)?,
            };
            return Ok(process::directory(&self.proc, &thread, process::Scope::Process));
        }
        self.fixed.lookup(ctx, name)
    }

    fn list(&self, ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        let mut entries = self.fixed.list(ctx)?;
        for group in self.proc.kernel()?.tasks().groups() {
            let name = group.pid().0.to_string().into_bytes();
            let ino = process::ino(group.pid().0, group.start_ns());
            entries.push(DirEntry { name, ino, file_type: FileType::Directory });
        }
        Ok(entries)
    }
}

/// `/proc/self`.
struct SelfLink;

impl Owned for SelfLink {}

impl Link for SelfLink {
    fn target(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        Ok(caller(ctx)?.pid().0.to_string().into_bytes())
    }
}

/// `/proc/thread-self`.
struct ThreadSelfLink;

impl Owned for ThreadSelfLink {}

impl Link for ThreadSelfLink {
    fn target(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        let thread = caller(ctx)?;
        Ok(format!("{}/task/{}", thread.pid().0, thread.tid().0).into_bytes())
    }
}
