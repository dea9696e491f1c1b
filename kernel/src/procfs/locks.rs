//! `/proc/locks`, proc_locks(5): the locks on files that processes have open.

use std::fmt::Write as _;

use abi::Errno;
use fs::Context;
use fs::vfs::{LockFamily, LockKind, major, minor};
use hashbrown::HashSet;

use crate::kernel::Kernel;

/// Lines at most: what is shown is made at once.
const MAX_LINES: usize = 65_536;

/// Linux keeps a list of all locks; here each inode has its own, and a lock ends with the last descriptor of its file.
pub(super) fn locks(kernel: &Kernel, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    let mut lines = 0_usize;
    let mut seen = HashSet::new();
    for thread in kernel.tasks().groups().iter().flat_map(|group| group.threads()) {
        let Some(fds) = thread.fds() else { continue };
        for file in fds.numbers().into_iter().filter_map(|number| fds.get(number).ok()) {
            let locks = file.held_locks();
            if locks.is_empty() || !seen.insert(file.inode().identity()) {
                continue;
            }
            let Ok(attr) = file.inode().attr() else { continue };
            for lock in locks {
                lines = lines.saturating_add(1);
                if lines > MAX_LINES {
                    return Ok(text.into_bytes());
                }
                let family = match lock.family {
                    LockFamily::Flock => "FLOCK  ADVISORY ",
                    LockFamily::Process => "POSIX  ADVISORY ",
                    LockFamily::Description => "OFDLCK ADVISORY ",
                };
                let kind = if lock.lock.kind == LockKind::Write { "WRITE" } else { "READ" };
                let (start, end) = (lock.lock.range.start, lock.lock.range.end);
                let end = if end > i64::MAX as u64 { "EOF".to_owned() } else { end.saturating_sub(1).to_string() };
                let (pid, major, minor, ino) = (lock.lock.pid, major(attr.dev), minor(attr.dev), attr.ino);
                let _ = writeln!(text, "{lines}: {family} {kind} {pid} {major:02x}:{minor:02x}:{ino} {start} {end}");
            }
        }
    }
    Ok(text.into_bytes())
}
