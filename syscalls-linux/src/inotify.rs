//! Watching files, inotify(7).

use abi::Errno;
use abi::fs::{InotifyInitFlags, InotifyMask, OpenFlags};
use fs::anon::{Inotify, check_inotify_mask};
use fs::vfs::LookupFlags;
use kernel::fdtable::CloseOnExec;
use kernel::syscalls;
use kernel::task::Task;

use crate::args::{Fd, Flags, NewFd, PathArg};
use crate::fd::install;
use crate::walk::{CWD, lookup, pathname};

syscalls! {
    pub(crate) const ROWS;

    /// Makes an inotify instance.
    inotify_init [253, -] Full("watches::instances_and_watches_are_numbered");
    /// Makes an inotify instance, with flags.
    inotify_init1 [294, 26] Full("watches::instances_and_watches_are_numbered");
    /// Watches a file.
    inotify_add_watch [254, 27] Partial("what others do to the host's files raises no events, nor does unmounting");
    /// Ends a watch.
    inotify_rm_watch [255, 28] Full("watches::instances_and_watches_are_numbered");
}

/// `inotify_init(2)`.
fn inotify_init(task: &mut Task) -> Result<NewFd, Errno> {
    inotify_init1(task, Flags(InotifyInitFlags::empty()))
}

/// `inotify_init1(2)`.
fn inotify_init1(task: &mut Task, flags: Flags<InotifyInitFlags>) -> Result<NewFd, Errno> {
    let flags = flags.known()?;
    let mut open = OpenFlags::empty();
    open.set(OpenFlags::O_NONBLOCK, flags.contains(InotifyInitFlags::IN_NONBLOCK));
    let cloexec = if flags.contains(InotifyInitFlags::IN_CLOEXEC) { CloseOnExec::Yes } else { CloseOnExec::No };
    install(task, Inotify::create(open)?, cloexec)
}

/// `inotify_add_watch(2)`.
fn inotify_add_watch(task: &mut Task, fd: Fd, path: PathArg, mask: Flags<InotifyMask>) -> Result<i32, Errno> {
    let mask = check_inotify_mask(mask.0.bits())?;
    let file = task.fd(fd.0)?;
    let instance = file.ops_as::<Inotify>().ok_or(Errno::EINVAL)?;
    let mut flags = LookupFlags::FOLLOW;
    flags.set(LookupFlags::FOLLOW, !mask.contains(InotifyMask::IN_DONT_FOLLOW));
    flags.set(LookupFlags::DIRECTORY, mask.contains(InotifyMask::IN_ONLYDIR));
    let path = pathname(task, path)?;
    let place = lookup(task, CWD, &path, flags)?;
    instance.add_watch(&task.fs_context(), &place, mask)
}

/// `inotify_rm_watch(2)`.
fn inotify_rm_watch(task: &mut Task, fd: Fd, wd: i32) -> Result<(), Errno> {
    let file = task.fd(fd.0)?;
    file.ops_as::<Inotify>().ok_or(Errno::EINVAL)?.remove_watch(wd)
}
