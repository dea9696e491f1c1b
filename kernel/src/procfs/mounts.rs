//! `/proc/[pid]/mounts`, `mountinfo`, `mountstats`: the mounts below a process's root.

use std::fmt::Write as _;
use std::sync::Arc;

use abi::Errno;
use fs::vfs::{Mount, MountOptions, Path, major, minor};

use super::process::Subject;

/// Space, tab, newline and backslash as octal, fstab(5).
pub(super) fn escape(text: &[u8]) -> String {
    let mut out = String::new();
    for &byte in text {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => {
                let _ = write!(out, "\\{byte:03o}");
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

fn options(mount: &Mount) -> String {
    let options = mount.options();
    let mut text = String::from(if options.contains(MountOptions::READ_ONLY) { "ro" } else { "rw" });
    for (flag, name) in [
        (MountOptions::NOSUID, ",nosuid"),
        (MountOptions::NODEV, ",nodev"),
        (MountOptions::NOEXEC, ",noexec"),
        (MountOptions::NOATIME, ",noatime"),
        (MountOptions::NODIRATIME, ",nodiratime"),
        (MountOptions::RELATIME, ",relatime"),
    ] {
        if options.contains(flag) {
            text.push_str(name);
        }
    }
    text
}

/// The mounts that the process can reach, with their mount points as it sees them.
fn visible(subject: &Subject) -> Result<Vec<(Arc<Mount>, String)>, Errno> {
    let root: Path = subject.fs()?.root();
    let Some(namespace) = root.mount.namespace() else { return Ok(Vec::new()) };
    let point = |mount: &Arc<Mount>| mount.root_path().live_path(&root).map(|path| escape(&path));
    Ok(namespace.mounts().into_iter().filter_map(|mount| point(&mount).map(|path| (mount, path))).collect())
}

/// `mounts`.
pub(super) fn mounts(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    for (mount, point) in visible(subject)? {
        let fs = mount.superblock().fs();
        let extra = fs.options();
        let comma = if extra.is_empty() { "" } else { "," };
        let source = escape(mount.source());
        let _ = writeln!(text, "{source} {point} {} {}{comma}{extra} 0 0", fs.type_name(), options(&mount));
    }
    Ok(text.into_bytes())
}

/// `mountinfo`.
pub(super) fn mountinfo(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    for (mount, point) in visible(subject)? {
        let fs = mount.superblock().fs();
        let parent = mount.parent().map_or(mount.id(), |path| path.mount.id());
        let device = fs.device();
        let extra = fs.options();
        let read_only = if mount.options().contains(MountOptions::READ_ONLY) { "ro" } else { "rw" };
        let comma = if extra.is_empty() { "" } else { "," };
        let _ = writeln!(
            text,
            "{} {parent} {}:{} / {point} {} - {} {} {read_only}{comma}{extra}",
            mount.id(),
            major(device),
            minor(device),
            options(&mount),
            fs.type_name(),
            escape(mount.source()),
        );
    }
    Ok(text.into_bytes())
}

/// `mountstats`.
pub(super) fn mountstats(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    for (mount, point) in visible(subject)? {
        let fs = mount.superblock().fs();
        let _ = writeln!(text, "device {} mounted on {point} with fstype {}", escape(mount.source()), fs.type_name());
    }
    Ok(text.into_bytes())
}
