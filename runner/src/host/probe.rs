//! What seccomp offers here, found out in a child process, because a filter cannot be taken back.

use std::io::{self, Read, Write};
use std::time::Duration;

/// Support of the host for seccomp's user notification, which systrap's blocking hand-over needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// A listener works, and its `SYNC_WAKE_UP` flag too (Linux 6.6).
    WithSyncWakeUp,
    /// A listener works; hand-over pins both threads together.
    Plain,
    /// A listener is already in our filter chain: futex hand-over.
    Taken,
    /// Refused for another reason: futex hand-over.
    Refused(i32),
}

const SYNC_WAKE_UP: libc::c_ulong = 1;
/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`: `_IOW('!', 4, u64)`.
const SET_FLAGS: libc::c_ulong = 0x4008_2104;
const REPORT_SYNC: u8 = 0;
const REPORT_PLAIN: u8 = 1;
/// Reports above this carry an errno.
const REPORT_ERRNO: u8 = 100;

/// Tries to install a listener in a child process.
pub(crate) fn listener_support() -> io::Result<Listener> {
    let child = match super::fork_into(0)? {
        super::Forked::Child => super::exit_now(try_listener()),
        super::Forked::Parent(child) => child,
    };
    let status = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?
        .and_then(|(_, status)| status.exit_status());
    match status.and_then(|status| u8::try_from(status).ok()) {
        Some(REPORT_SYNC) => Ok(Listener::WithSyncWakeUp),
        Some(REPORT_PLAIN) => Ok(Listener::Plain),
        Some(report) if report > REPORT_ERRNO => match i32::from(report - REPORT_ERRNO) {
            libc::EBUSY => Ok(Listener::Taken),
            errno => Ok(Listener::Refused(errno)),
        },
        _ => Err(io::Error::other("the probe process died")),
    }
}

fn try_listener() -> u8 {
    let errno = || {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        REPORT_ERRNO.saturating_add(u8::try_from(errno).unwrap_or(u8::MAX))
    };
    // SAFETY: this prctl takes integers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return errno();
    }
    // A filter that notifies for no call: it only returns ALLOW.
    let allow = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let program = libc::sock_fprog { len: 1, filter: (&raw const allow).cast_mut() };
    // SAFETY: program and filter live across the call, which only reads them; the length is right.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if listener < 0 {
        return errno();
    }
    // SAFETY: this ioctl takes its argument by value; the descriptor is the listener just made.
    if unsafe { libc::syscall(libc::SYS_ioctl, listener, SET_FLAGS, SYNC_WAKE_UP) } == 0 {
        REPORT_SYNC
    } else {
        REPORT_PLAIN
    }
}

/// What becomes of a new user namespace here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamespaceSupport {
    /// It can be made and its capabilities work.
    Full,
    /// It can be made, but the capabilities do nothing (AppArmor).
    Stripped,
    /// It cannot be made.
    Refused(i32),
}

/// Makes a user, mount and pid namespace in a child process and tries a capability there.
pub(crate) fn namespace_support() -> io::Result<NamespaceSupport> {
    let outcome = in_namespaces(|| {
        use rustix::mount::{MountPropagationFlags, mount_change};
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).is_ok()
    });
    match outcome {
        Ok(true) => Ok(NamespaceSupport::Full),
        Ok(false) => Ok(NamespaceSupport::Stripped),
        Err(error) => match error.raw_os_error() {
            Some(errno) => Ok(NamespaceSupport::Refused(errno)),
            None => Err(error),
        },
    }
}

/// Whether a child process in its own namespaces can clone a mount, restrict it, and make a tmpfs.
pub(crate) fn mount_support() -> io::Result<bool> {
    in_namespaces(|| {
        use rustix::mount::{FsOpenFlags, OpenTreeFlags, fsopen, open_tree};
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(rustix::fs::CWD, "/usr", flags).or_else(|_| open_tree(rustix::fs::CWD, "/etc", flags));
        let restricted = tree.is_ok_and(|tree| {
            super::restrict_mount(std::os::fd::AsFd::as_fd(&tree), super::TreeAccess::ReadOnly).is_ok()
        });
        restricted && fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
    })
}

/// Runs `test` in a child process in namespaces of its own. Ids are not mapped, which the tests do not need.
fn in_namespaces(test: impl FnOnce() -> bool) -> io::Result<bool> {
    let flags = super::SANDBOX_NAMESPACES | super::USER_NAMESPACE;
    let child = match super::fork_into(flags)? {
        super::Forked::Child => super::exit_now(u8::from(!test())),
        super::Forked::Parent(child) => child,
    };
    let status = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
    Ok(status.and_then(|(_, status)| status.exit_status()) == Some(0))
}

/// Runs `work` in a child process and returns its text, or `None` if it did not end within `deadline`, in which case it
/// has been killed.
pub(crate) fn with_deadline(deadline: Duration, work: impl FnOnce() -> String) -> io::Result<Option<String>> {
    let (reader, writer) = io::pipe()?;
    let child = match super::fork_into(0)? {
        super::Forked::Child => {
            let mut writer = writer;
            let _ = writer.write_all(work().as_bytes());
            super::exit_now(0)
        }
        super::Forked::Parent(child) => child,
    };
    drop(writer);
    let mut set = [rustix::event::PollFd::new(&reader, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec {
        tv_sec: i64::try_from(deadline.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(deadline.subsec_nanos()),
    };
    let ready = rustix::event::poll(&mut set, Some(&limit))?;
    let text = if ready == 0 {
        let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        None
    } else {
        let mut text = String::new();
        (&reader).take(4096).read_to_string(&mut text)?;
        Some(text)
    };
    rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
    Ok(text.map(|text| if text.is_empty() { "the self-test died".to_owned() } else { text }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn set_flags_number_matches_its_parts() {
        let number = (1_u64 << 30) | (8 << 16) | (u64::from(b'!') << 8) | 4;
        assert_eq!(super::SET_FLAGS, number);
    }
}
