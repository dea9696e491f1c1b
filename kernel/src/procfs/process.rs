//! `/proc/[pid]` and `/proc/[pid]/task/[tid]`: a directory whose files are rows of [`FILES`].
//!
//! A row's function gets a [`Subject`]: the thread that the directory stands for. Parts of it that are gone after exit
//! (address space, descriptors) make a file empty or `ESRCH`, as on Linux. Files that show another process's memory or
//! descriptors ask [`Subject::inspect`] first (ptrace(2), "Ptrace access mode checking").

use std::sync::{Arc, Weak};

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Caps, Gid, Uid};
use fs::Context;
use fs::kernfs::{Content, Directory, Link, Owned, Special, Tree, entry};
use fs::vfs::{DirEntry, File, FileOps, FileType, Inode, Path, Position};
use mm::Mm;
use usermem::bytes::IoDst;
use usermem::ptr::UserMemory as _;
use usermem::{Addr, PAGE_SIZE};

use super::knobs::{KNOBS, Knob};
use super::{Proc, activity, caller, fds, memory, mounts, namespaces, parse_number, stat};
use crate::fdtable::FdTable;
use crate::fsstate::FsState;
use crate::ids::{Pid, Tid};
use crate::kernel::Kernel;
use crate::task::{Dumpable, Thread, ThreadGroup};

/// Longest command line or environment that is shown, in bytes.
const MAX_AREA: u64 = 4 << 20;

/// What a directory shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// `/proc/[pid]`: with `task`, and sums over all threads.
    Process,
    /// `/proc/[pid]/task/[tid]`.
    Thread,
}

/// Inode number of the directory of the thread or process `number` born at `start_ns`.
pub(super) fn ino(number: u32, start_ns: u64) -> u64 {
    Tree::ino(start_ns, &number.to_le_bytes())
}

/// The thread that a node shows, held weakly: its directory may outlive it.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) proc: Proc,
    thread: Weak<Thread>,
    group: Weak<ThreadGroup>,
    pub(super) scope: Scope,
    /// Inode number of its directory.
    pub(super) ino: u64,
}

impl Subject {
    pub(super) fn kernel(&self) -> Result<Arc<Kernel>, Errno> {
        self.proc.kernel()
    }

    pub(super) fn thread(&self) -> Result<Arc<Thread>, Errno> {
        let kernel = self.kernel()?;
        if self.scope == Scope::Process {
            // By way of the group: an exec of another thread gives it another leader.
            let group = self.group.upgrade().ok_or(Errno::ESRCH)?;
            let info = kernel.tasks().describe(group.pid()).ok_or(Errno::ESRCH)?;
            return if Arc::ptr_eq(info.leader.group(), &group) { Ok(info.leader) } else { Err(Errno::ESRCH) };
        }
        let thread = self.thread.upgrade().ok_or(Errno::ESRCH)?;
        // The thread may live on in someone's hands after it was reaped.
        let known = kernel.tasks().thread(thread.tid()).is_some_and(|known| Arc::ptr_eq(&known, &thread))
            || kernel.tasks().describe(thread.pid()).is_some_and(|info| Arc::ptr_eq(&info.leader, &thread));
        if known { Ok(thread) } else { Err(Errno::ESRCH) }
    }

    pub(super) fn group(&self) -> Result<Arc<ThreadGroup>, Errno> {
        Ok(Arc::clone(self.thread()?.group()))
    }

    /// A live thread's parts: the leader of a process may have exited before the others.
    fn live(&self) -> Result<Arc<Thread>, Errno> {
        let thread = self.thread()?;
        if thread.mm().is_some() || self.scope == Scope::Thread {
            return Ok(thread);
        }
        Ok(thread.group().threads().into_iter().next().unwrap_or(thread))
    }

    pub(super) fn mm(&self) -> Result<Option<Arc<Mm>>, Errno> {
        Ok(self.live()?.mm())
    }

    pub(super) fn fds(&self) -> Result<Arc<FdTable>, Errno> {
        self.live()?.fds().ok_or(Errno::ENOENT)
    }

    pub(super) fn fs(&self) -> Result<Arc<FsState>, Errno> {
        self.live()?.fs().ok_or(Errno::EINVAL)
    }

    /// Whether the caller is the thread, or of the process, that this shows.
    pub(super) fn is_caller(&self, ctx: &Context<'_>) -> bool {
        let (Ok(caller), Ok(thread)) = (caller(ctx), self.thread()) else { return false };
        Arc::ptr_eq(caller, &thread)
    }

    /// Whether the caller may look into this process: its own, one of the same ids that can do no more, or by
    /// `CAP_SYS_PTRACE` (ptrace(2), PTRACE_MODE_READ_FSCREDS).
    pub(super) fn inspect(&self, ctx: &Context<'_>) -> Result<(), Errno> {
        let thread = self.thread()?;
        if caller(ctx).is_ok_and(|caller| Arc::ptr_eq(caller.group(), thread.group())) {
            return Ok(());
        }
        let (ours, theirs) = (ctx.creds, thread.creds());
        let same_user = [theirs.ruid, theirs.euid, theirs.suid].iter().all(|&uid| uid == ours.fsuid);
        let same_group = [theirs.rgid, theirs.egid, theirs.sgid].iter().all(|&gid| gid == ours.fsgid);
        let dumpable = thread.group().dumpable() == Dumpable::Yes;
        let can_less = ours.effective.contains(theirs.permitted);
        let allowed = same_user && same_group && dumpable && can_less || ours.has(Caps::SYS_PTRACE);
        if allowed { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Owner of its files: root's once nobody of its ids may look into it, proc(5).
    pub(super) fn ids(&self) -> (Uid, Gid) {
        match self.thread() {
            Ok(thread) if thread.group().dumpable() == Dumpable::Yes => self.effective_ids(),
            _ => (Uid::ROOT, Gid::ROOT),
        }
    }

    /// Owner of those of its directories that all may read.
    pub(super) fn effective_ids(&self) -> (Uid, Gid) {
        self.thread().map_or((Uid::ROOT, Gid::ROOT), |thread| {
            let creds = thread.creds();
            (creds.euid, creds.egid)
        })
    }
}

type Render = fn(&Subject, &Context<'_>) -> Result<Vec<u8>, Errno>;

/// Text files: name, mode, contents.
const FILES: &[(&str, u32, Render)] =
    &[
        ("cgroup", 0o444, |_, _| Ok(b"0::/\n".to_vec())),
        ("cmdline", 0o444, cmdline),
        ("cpuset", 0o444, |_, _| Ok(b"/\n".to_vec())),
        ("io", 0o400, activity::io),
        ("ksm_merging_pages", 0o400, |_, _| Ok(b"0\n".to_vec())),
        ("limits", 0o444, stat::limits),
        ("mountinfo", 0o444, |subject, _| mounts::mountinfo(subject)),
        ("mounts", 0o444, |subject, _| mounts::mounts(subject)),
        ("mountstats", 0o400, |subject, _| mounts::mountstats(subject)),
        ("oom_score", 0o444, oom_score),
        ("personality", 0o400, activity::personality),
        ("projid_map", 0o444, |_, _| Ok(b"         0          0 4294967295\n".to_vec())),
        ("sched", 0o444, activity::sched),
        ("schedstat", 0o444, activity::schedstat),
        ("sessionid", 0o444, |_, _| Ok(b"4294967295".to_vec())),
        ("loginuid", 0o444, |_, _| Ok(b"4294967295".to_vec())),
        ("stack", 0o400, activity::stack),
        ("stat", 0o444, stat::stat),
        ("statm", 0o444, stat::statm),
        ("status", 0o444, stat::status),
        ("syscall", 0o400, activity::syscall),
        ("timens_offsets", 0o444, |_, _| {
            Ok(b"monotonic           0         0\nboottime            0         0\n".to_vec())
        }),
        ("timers", 0o444, activity::timers),
        ("wchan", 0o444, activity::wchan),
        ("uid_map", 0o444, |_, _| Ok(b"         0          0 4294967295\n".to_vec())),
        ("gid_map", 0o444, |_, _| Ok(b"         0          0 4294967295\n".to_vec())),
        ("setgroups", 0o444, |_, _| Ok(b"allow\n".to_vec())),
    ];

/// Text files that only those who may look into the process may open.
const INNER_FILES: &[(&str, u32, Render)] = &[
    ("auxv", 0o400, auxv),
    ("environ", 0o400, environ),
    ("maps", 0o444, memory::maps),
    ("numa_maps", 0o444, memory::numa_maps),
    ("smaps", 0o444, memory::smaps),
    ("smaps_rollup", 0o444, memory::smaps_rollup),
];

/// Files that one of the two directories does not have.
const OF_PROCESSES: &[&str] = &["coredump_filter", "mountstats", "task", "timers", "timerslack_ns"];
const OF_THREADS: &[&str] = &["children"];

/// Everything else in the directory, with its kind.
const OTHERS: &[(&str, FileType)] = &[
    ("children", FileType::Regular),
    ("clear_refs", FileType::Regular),
    ("mem", FileType::Regular),
    ("pagemap", FileType::Regular),
    ("cwd", FileType::Symlink),
    ("exe", FileType::Symlink),
    ("root", FileType::Symlink),
    ("fd", FileType::Directory),
    ("fdinfo", FileType::Directory),
    ("net", FileType::Directory),
    ("ns", FileType::Directory),
    ("task", FileType::Directory),
];

/// The directory of `thread`.
pub(super) fn directory(proc: &Proc, thread: &Arc<Thread>, scope: Scope) -> Inode {
    let number = if scope == Scope::Process { thread.pid().0 } else { thread.tid().0 };
    let born = if scope == Scope::Process { thread.group().start_ns() } else { thread.start_ns() };
    let ino = match scope {
        Scope::Process => ino(number, born),
        Scope::Thread => Tree::ino(ino(number, born), b"task"),
    };
    let subject = Subject {
        proc: proc.clone(),
        thread: Arc::downgrade(thread),
        group: Arc::downgrade(thread.group()),
        scope,
        ino,
    };
    proc.tree.dir(ino, 0o555, ProcessDir { subject })
}

struct ProcessDir {
    subject: Subject,
}

impl Owned for ProcessDir {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.effective_ids()
    }
}

impl ProcessDir {
    /// Whether this kind of directory has `name`.
    fn has(&self, name: &str) -> bool {
        let others = match self.subject.scope {
            Scope::Process => OF_THREADS,
            Scope::Thread => OF_PROCESSES,
        };
        !others.contains(&name)
    }
}

impl Directory for ProcessDir {
    fn lookup(&self, _ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        self.subject.thread()?;
        if !std::str::from_utf8(name).is_ok_and(|name| self.has(name)) {
            return Err(Errno::ENOENT);
        }
        let subject = self.subject.clone();
        let tree = subject.proc.tree;
        let ino = Tree::ino(subject.ino, name);
        if let Some(&(_, mode, render)) = FILES.iter().find(|(file, _, _)| file.as_bytes() == name) {
            return Ok(tree.file(ino, mode, Text { subject, render }));
        }
        if let Some(&(_, mode, render)) = INNER_FILES.iter().find(|(file, _, _)| file.as_bytes() == name) {
            return Ok(tree.file(ino, mode, InnerText { subject, render }));
        }
        if let Some(&(_, mode, read, write)) = KNOBS.iter().find(|(file, ..)| file.as_bytes() == name) {
            return Ok(tree.file(ino, mode, Knob { subject, read, write }));
        }
        Ok(match name {
            b"children" => tree.file(ino, 0o444, Text { subject, render: activity::children }),
            b"clear_refs" => tree.file(ino, 0o200, memory::ClearRefs { subject }),
            b"pagemap" => tree.special(ino, 0o400, memory::PageMap { subject }),
            b"mem" => tree.special(ino, 0o600, MemFile { subject }),
            b"cwd" => tree.link(ino, Place { subject, place: |fs| fs.cwd() }),
            b"root" => tree.link(ino, Place { subject, place: |fs| fs.root() }),
            b"exe" => tree.link(ino, Exe { subject }),
            b"fd" => tree.dir(ino, 0o500, fds::FdDir { subject, ino }),
            b"fdinfo" => tree.dir(ino, 0o555, fds::FdInfoDir { subject, ino }),
            b"net" => tree.dir(ino, 0o555, net(&subject, ino)),
            b"ns" => tree.dir(ino, 0o511, namespaces::NsDir { subject, ino }),
            b"task" => tree.dir(ino, 0o555, TaskDir { subject }),
            _ => return Err(Errno::ENOENT),
        })
    }

    fn list(&self, _ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        self.subject.thread()?;
        let row = |name: &str, file_type| {
            let name = name.as_bytes().to_vec();
            DirEntry { ino: Tree::ino(self.subject.ino, &name), name, file_type }
        };
        let texts = FILES.iter().chain(INNER_FILES).map(|(name, ..)| *name);
        let files = texts.chain(KNOBS.iter().map(|(name, ..)| *name)).map(|name| (name, FileType::Regular));
        let all = files.chain(OTHERS.iter().copied()).filter(|(name, _)| self.has(name));
        Ok(all.map(|(name, file_type)| row(name, file_type)).collect())
    }
}

/// A row of [`FILES`] for one process.
struct Text {
    subject: Subject,
    render: Render,
}

impl Owned for Text {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Content for Text {
    fn render(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        (self.render)(&self.subject, ctx)
    }
}

/// A row of [`INNER_FILES`] for one process.
struct InnerText {
    subject: Subject,
    render: Render,
}

impl Owned for InnerText {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Content for InnerText {
    fn admit(&self, ctx: &Context<'_>) -> Result<(), Errno> {
        self.subject.inspect(ctx)
    }

    fn render(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        (self.render)(&self.subject, ctx)
    }
}

/// Bytes of the process's own memory; short when some are not accessible.
fn area(mm: &Mm, start: Addr, end: Addr) -> Vec<u8> {
    let len = end.0.saturating_sub(start.0).min(MAX_AREA);
    let mut bytes = Vec::new();
    let mut at = start.0;
    let stop = start.0.saturating_add(len);
    while at < stop {
        let step = (PAGE_SIZE - at % PAGE_SIZE).min(stop - at);
        let mut page = vec![0; usize::try_from(step).unwrap_or(0)];
        if mm.read(Addr(at), &mut page).is_err() {
            break;
        }
        bytes.append(&mut page);
        at += step;
    }
    bytes
}

fn oom_score(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    Ok(format!("{}\n", subject.kernel()?.oom_score(&*subject.group()?)).into_bytes())
}

fn cmdline(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let Some(mm) = subject.mm()? else { return Ok(Vec::new()) };
    let bounds = mm.bounds();
    let mut bytes = area(&mm, bounds.arg_start, bounds.arg_end);
    // A program that wrote a title over its arguments, and so over the last one's end, shows what stands up to the first
    // zero, be it in the environment behind: proc_pid_cmdline(5).
    if bytes.last().is_some_and(|last| *last != 0) {
        if !bytes.contains(&0) && bounds.env_start == bounds.arg_end {
            bytes.append(&mut area(&mm, bounds.env_start, bounds.env_end));
        }
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            bytes.truncate(end.saturating_add(1));
        }
    }
    Ok(bytes)
}

fn environ(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let Some(mm) = subject.mm()? else { return Ok(Vec::new()) };
    let bounds = mm.bounds();
    Ok(area(&mm, bounds.env_start, bounds.env_end))
}

fn auxv(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    Ok(subject.group()?.image().auxv.clone())
}

/// `cwd` and `root`: magic links to where the process is.
struct Place {
    subject: Subject,
    place: fn(&FsState) -> Path,
}

impl Owned for Place {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Link for Place {
    fn target(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        self.subject.inspect(ctx)?;
        let root = caller(ctx)?.fs().ok_or(Errno::ENOENT)?.root();
        Ok((self.place)(&*self.subject.fs()?).d_path(&root))
    }

    fn follow(&self, ctx: &Context<'_>) -> Result<Option<Path>, Errno> {
        self.subject.inspect(ctx)?;
        Ok(Some((self.place)(&*self.subject.fs()?)))
    }
}

/// `exe`: the program, wherever its name went.
struct Exe {
    subject: Subject,
}

impl Exe {
    fn path(&self, ctx: &Context<'_>) -> Result<Path, Errno> {
        self.subject.inspect(ctx)?;
        self.subject.group()?.image().exe.clone().ok_or(Errno::ENOENT)
    }
}

impl Owned for Exe {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Link for Exe {
    fn target(&self, ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        let root = caller(ctx)?.fs().ok_or(Errno::ENOENT)?.root();
        Ok(self.path(ctx)?.d_path(&root))
    }

    fn follow(&self, ctx: &Context<'_>) -> Result<Option<Path>, Errno> {
        self.path(ctx).map(Some)
    }
}

/// `mem`: the process's memory at its addresses.
struct MemFile {
    subject: Subject,
}

impl Owned for MemFile {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Special for MemFile {
    fn open(&self, ctx: &Context<'_>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        self.subject.inspect(ctx)?;
        Ok(Arc::new(OpenMem { mm: self.subject.mm()?.ok_or(Errno::ESRCH)? }))
    }
}

/// An open `mem`: of the address space at the time of opening, as on Linux.
struct OpenMem {
    mm: Arc<Mm>,
}

impl FileOps for OpenMem {
    fn position(&self) -> Position {
        Position::Offsets
    }

    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, offset: u64) -> Result<usize, Errno> {
        let mut done = 0;
        while dst.remaining() > 0 {
            let at = offset.checked_add(done as u64).ok_or(Errno::EIO)?;
            let step = usize::try_from(PAGE_SIZE - at % PAGE_SIZE).unwrap_or(0).min(dst.remaining());
            let mut page = vec![0; step];
            if self.mm.read(Addr(at), &mut page).is_err() {
                return if done > 0 { Ok(done) } else { Err(Errno::EIO) };
            }
            let put = dst.put(&page)?;
            done += put;
            if put < step {
                break;
            }
        }
        Ok(done)
    }
}

/// `net`: there are no interfaces and no sockets of network families yet.
fn net(subject: &Subject, ino: u64) -> fs::kernfs::StaticDir {
    let tree = subject.proc.tree;
    let empty = |name: &str, head: &'static str| {
        tree.file(Tree::ino(ino, name.as_bytes()), 0o444, move |_: &Context<'_>| Ok(head.as_bytes().to_vec()))
    };
    let dev = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";
    fs::kernfs::StaticDir::new()
        .with("dev", empty("dev", dev))
        .with("unix", empty("unix", "Num       RefCount Protocol Flags    Type St Inode Path\n"))
}

/// `task`: the threads of a process.
struct TaskDir {
    subject: Subject,
}

impl Owned for TaskDir {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.effective_ids()
    }
}

impl Directory for TaskDir {
    fn lookup(&self, _ctx: &Context<'_>, name: &[u8]) -> Result<Inode, Errno> {
        let tid = Tid(parse_number(name).ok_or(Errno::ENOENT)?);
        let pid = self.subject.thread()?.pid();
        let kernel = self.subject.kernel()?;
        let thread = kernel.tasks().thread(tid).filter(|thread| thread.pid() == pid);
        let zombie = || kernel.tasks().describe(pid).map(|info| info.leader).filter(|leader| leader.tid() == tid);
        let thread = thread.or_else(zombie).ok_or(Errno::ENOENT)?;
        Ok(directory(&self.subject.proc, &thread, Scope::Thread))
    }

    fn list(&self, ctx: &Context<'_>) -> Result<Vec<DirEntry>, Errno> {
        let pid: Pid = self.subject.thread()?.pid();
        let mut entries = Vec::new();
        for tid in self.subject.kernel()?.tasks().threads_of(pid) {
            let name = tid.0.to_string().into_bytes();
            if let Ok(inode) = self.lookup(ctx, &name) {
                entries.push(entry(&name, &inode));
            }
        }
        Ok(entries)
    }
}
