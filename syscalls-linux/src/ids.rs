//! User and group ids and capabilities: `credentials(7)`, `capabilities(7)`. Credentials belong to a thread; libraries
//! change those of all threads together.

use std::sync::Arc;

use abi::Errno;
use abi::caps::{CapData, CapHeader};
use auth::{Caps, Creds, Gid, Uid};
use kernel::syscalls;
use kernel::task::Task;
use usermem::Addr;

use crate::args::{InArray, InOut, Out};
use crate::mem;

syscalls! {
    pub(crate) const ROWS;

    /// Real user id of the caller.
    getuid [102, 174] Full("system::ids_are_consistent");
    /// Effective user id of the caller.
    geteuid [107, 175] Full("system::ids_are_consistent");
    /// Real group id of the caller.
    getgid [104, 176] Full("ids::group_ids_are_consistent");
    /// Effective group id of the caller.
    getegid [108, 177] Full("ids::group_ids_are_consistent");
    /// Real, effective and saved user ids.
    getresuid [118, 148] Full("system::ids_are_consistent");
    /// Real, effective and saved group ids.
    getresgid [120, 150] Full("ids::group_ids_are_consistent");
    /// Sets the effective user id, all three with CAP_SETUID.
    setuid [105, 146] Full("ids::user_ids_change_by_the_rules");
    /// Sets the effective group id, all three with CAP_SETGID.
    setgid [106, 144] Full("ids::group_ids_change_by_the_rules");
    /// Sets the real and effective user ids.
    setreuid [113, 145] Full("ids::user_ids_change_by_the_rules");
    /// Sets the real and effective group ids.
    setregid [114, 143] Full("ids::group_ids_change_by_the_rules");
    /// Sets the real, effective and saved user ids.
    setresuid [117, 147] Full("ids::user_ids_change_by_the_rules");
    /// Sets the real, effective and saved group ids.
    setresgid [119, 149] Full("ids::group_ids_change_by_the_rules");
    /// Sets the user id that file access uses.
    setfsuid [122, 151] Full("ids::file_system_ids_decide_about_files");
    /// Sets the group id that file access uses.
    setfsgid [123, 152] Full("ids::file_system_ids_decide_about_files");
    /// Supplementary groups.
    getgroups [115, 158] Full("ids::supplementary_groups_are_set_by_root");
    /// Sets the supplementary groups.
    setgroups [116, 159] Full("ids::supplementary_groups_are_set_by_root");
    /// Capabilities of a thread.
    capget [125, 90] Full("ids::capabilities_are_read_and_dropped");
    /// Sets the caller's capabilities.
    capset [126, 91] Full("ids::capabilities_are_read_and_dropped");
}

/// `NGROUPS_MAX`.
const NGROUPS_MAX: usize = 65536;
/// `SECBIT_NO_SETUID_FIXUP`.
const NO_SETUID_FIXUP: u32 = 1 << 2;
/// `SECBIT_KEEP_CAPS`.
const KEEP_CAPS: u32 = 1 << 4;

fn getuid(task: &mut Task) -> Result<u32, Errno> {
    Ok(task.creds().ruid.0)
}

fn geteuid(task: &mut Task) -> Result<u32, Errno> {
    Ok(task.creds().euid.0)
}

fn getgid(task: &mut Task) -> Result<u32, Errno> {
    Ok(task.creds().rgid.0)
}

fn getegid(task: &mut Task) -> Result<u32, Errno> {
    Ok(task.creds().egid.0)
}

fn getresuid(task: &mut Task, ruid: Out<u32>, euid: Out<u32>, suid: Out<u32>) -> Result<(), Errno> {
    let creds = Arc::clone(task.creds());
    ruid.write(task, &creds.ruid.0)?;
    euid.write(task, &creds.euid.0)?;
    suid.write(task, &creds.suid.0)
}

fn getresgid(task: &mut Task, rgid: Out<u32>, egid: Out<u32>, sgid: Out<u32>) -> Result<(), Errno> {
    let creds = Arc::clone(task.creds());
    rgid.write(task, &creds.rgid.0)?;
    egid.write(task, &creds.egid.0)?;
    sgid.write(task, &creds.sgid.0)
}

/// File-access capabilities, which follow the file-system user id ("Effect of user ID changes", `capabilities(7)`).
const FS_CAPS: Caps = Caps::CHOWN
    .union(Caps::DAC_OVERRIDE)
    .union(Caps::DAC_READ_SEARCH)
    .union(Caps::FOWNER)
    .union(Caps::FSETID)
    .union(Caps::LINUX_IMMUTABLE)
    .union(Caps::MKNOD)
    .union(Caps::MAC_OVERRIDE);

/// Adjusts the capabilities of `new` after a change of user ids from `old` ("Effect of user ID changes").
fn fix_caps(old: &Creds, new: &mut Creds) {
    if new.securebits & NO_SETUID_FIXUP != 0 {
        return;
    }
    let any_root = |creds: &Creds| creds.ruid.is_root() || creds.euid.is_root() || creds.suid.is_root();
    if any_root(old) && !any_root(new) {
        if new.securebits & KEEP_CAPS == 0 {
            new.permitted = Caps::empty();
            new.effective = Caps::empty();
        }
        new.ambient = Caps::empty();
    }
    if old.euid.is_root() && !new.euid.is_root() {
        new.effective = Caps::empty();
    } else if !old.euid.is_root() && new.euid.is_root() {
        new.effective = new.permitted;
    }
}

/// Makes a changed copy of the caller's credentials its own.
fn change(task: &mut Task, f: impl FnOnce(&Creds, &mut Creds) -> Result<(), Errno>) -> Result<(), Errno> {
    let old = Arc::clone(task.creds());
    let mut new = Creds::clone(&old);
    f(&old, &mut new)?;
    task.set_creds(new);
    Ok(())
}

/// An id argument of which −1 means "leave it".
fn kept_uid(raw: u32) -> Option<Uid> {
    Uid::from_arg(raw)
}

fn kept_gid(raw: u32) -> Option<Gid> {
    Gid::from_arg(raw)
}

/// `setuid(2)`.
fn setuid(task: &mut Task, uid: u32) -> Result<(), Errno> {
    let uid = Uid::from_arg(uid).ok_or(Errno::EINVAL)?;
    change(task, |old, new| {
        if old.has(Caps::SETUID) {
            (new.ruid, new.suid) = (uid, uid);
        } else if uid != old.ruid && uid != old.suid {
            return Err(Errno::EPERM);
        }
        (new.euid, new.fsuid) = (uid, uid);
        fix_caps(old, new);
        Ok(())
    })
}

/// `setgid(2)`.
fn setgid(task: &mut Task, gid: u32) -> Result<(), Errno> {
    let gid = Gid::from_arg(gid).ok_or(Errno::EINVAL)?;
    change(task, |old, new| {
        if old.has(Caps::SETGID) {
            (new.rgid, new.sgid) = (gid, gid);
        } else if gid != old.rgid && gid != old.sgid {
            return Err(Errno::EPERM);
        }
        (new.egid, new.fsgid) = (gid, gid);
        Ok(())
    })
}

/// `setreuid(2)`: the saved id follows when the real id is set, or the effective one to something but the real id.
fn setreuid(task: &mut Task, ruid: u32, euid: u32) -> Result<(), Errno> {
    let (ruid, euid) = (kept_uid(ruid), kept_uid(euid));
    change(task, |old, new| {
        let capable = old.has(Caps::SETUID);
        if let Some(ruid) = ruid {
            if !capable && ruid != old.ruid && ruid != old.euid {
                return Err(Errno::EPERM);
            }
            new.ruid = ruid;
        }
        if let Some(euid) = euid {
            if !capable && euid != old.ruid && euid != old.euid && euid != old.suid {
                return Err(Errno::EPERM);
            }
            new.euid = euid;
        }
        if ruid.is_some() || euid.is_some_and(|euid| euid != old.ruid) {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        fix_caps(old, new);
        Ok(())
    })
}

/// `setregid(2)`.
fn setregid(task: &mut Task, rgid: u32, egid: u32) -> Result<(), Errno> {
    let (rgid, egid) = (kept_gid(rgid), kept_gid(egid));
    change(task, |old, new| {
        let capable = old.has(Caps::SETGID);
        if let Some(rgid) = rgid {
            if !capable && rgid != old.rgid && rgid != old.egid {
                return Err(Errno::EPERM);
            }
            new.rgid = rgid;
        }
        if let Some(egid) = egid {
            if !capable && egid != old.rgid && egid != old.egid && egid != old.sgid {
                return Err(Errno::EPERM);
            }
            new.egid = egid;
        }
        if rgid.is_some() || egid.is_some_and(|egid| egid != old.rgid) {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(())
    })
}

/// `setresuid(2)`.
fn setresuid(task: &mut Task, ruid: u32, euid: u32, suid: u32) -> Result<(), Errno> {
    let wanted = [kept_uid(ruid), kept_uid(euid), kept_uid(suid)];
    change(task, |old, new| {
        let mine = [old.ruid, old.euid, old.suid];
        if !old.has(Caps::SETUID) && wanted.iter().flatten().any(|id| !mine.contains(id)) {
            return Err(Errno::EPERM);
        }
        let [ruid, euid, suid] = wanted;
        new.ruid = ruid.unwrap_or(old.ruid);
        new.euid = euid.unwrap_or(old.euid);
        new.suid = suid.unwrap_or(old.suid);
        new.fsuid = new.euid;
        fix_caps(old, new);
        Ok(())
    })
}

/// `setresgid(2)`.
fn setresgid(task: &mut Task, rgid: u32, egid: u32, sgid: u32) -> Result<(), Errno> {
    let wanted = [kept_gid(rgid), kept_gid(egid), kept_gid(sgid)];
    change(task, |old, new| {
        let mine = [old.rgid, old.egid, old.sgid];
        if !old.has(Caps::SETGID) && wanted.iter().flatten().any(|id| !mine.contains(id)) {
            return Err(Errno::EPERM);
        }
        let [rgid, egid, sgid] = wanted;
        new.rgid = rgid.unwrap_or(old.rgid);
        new.egid = egid.unwrap_or(old.egid);
        new.sgid = sgid.unwrap_or(old.sgid);
        new.fsgid = new.egid;
        Ok(())
    })
}

/// `setfsuid(2)`: answers the old id whether or not it changed.
fn setfsuid(task: &mut Task, uid: u32) -> Result<u32, Errno> {
    let before = task.creds().fsuid;
    let _ = change(task, |old, new| {
        let uid = Uid::from_arg(uid).ok_or(Errno::EINVAL)?;
        if !old.has(Caps::SETUID) && ![old.ruid, old.euid, old.suid, old.fsuid].contains(&uid) {
            return Err(Errno::EPERM);
        }
        new.fsuid = uid;
        if new.securebits & NO_SETUID_FIXUP == 0 {
            if old.fsuid.is_root() && !uid.is_root() {
                new.effective = old.effective.difference(FS_CAPS);
            } else if !old.fsuid.is_root() && uid.is_root() {
                new.effective = old.effective.union(old.permitted.intersection(FS_CAPS));
            }
        }
        Ok(())
    });
    Ok(before.0)
}

/// `setfsgid(2)`: answers the old id whether or not it changed.
fn setfsgid(task: &mut Task, gid: u32) -> Result<u32, Errno> {
    let before = task.creds().fsgid;
    let _ = change(task, |old, new| {
        let gid = Gid::from_arg(gid).ok_or(Errno::EINVAL)?;
        if !old.has(Caps::SETGID) && ![old.rgid, old.egid, old.sgid, old.fsgid].contains(&gid) {
            return Err(Errno::EPERM);
        }
        new.fsgid = gid;
        Ok(())
    });
    Ok(before.0)
}

/// `getgroups(2)`.
fn getgroups(task: &mut Task, size: i32, list: Addr) -> Result<usize, Errno> {
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let creds = Arc::clone(task.creds());
    if size == 0 {
        return Ok(creds.groups.len());
    }
    if creds.groups.len() > size {
        return Err(Errno::EINVAL);
    }
    let groups: Vec<u32> = creds.groups.iter().map(|gid| gid.0).collect();
    mem::write_array(task, list, &groups)?;
    Ok(groups.len())
}

/// `setgroups(2)`. The count stands before the array here, so a trace shows the address alone.
fn setgroups(task: &mut Task, size: i32, list: Addr) -> Result<(), Errno> {
    if !task.creds().has(Caps::SETGID) {
        return Err(Errno::EPERM);
    }
    let size = usize::try_from(size).ok().filter(|&n| n <= NGROUPS_MAX).ok_or(Errno::EINVAL)?;
    let groups: Vec<u32> = mem::read_array(task, list, size)?;
    let groups: Option<Vec<Gid>> = groups.into_iter().map(Gid::from_arg).collect();
    let mut groups = groups.ok_or(Errno::EINVAL)?;
    groups.sort_unstable();
    change(task, |_, new| {
        new.groups = groups;
        Ok(())
    })
}

/// Number of 32-bit words per set for a version of the interface; `None` for an unknown version.
fn cap_words(version: u32) -> Option<usize> {
    match version {
        abi::caps::_LINUX_CAPABILITY_VERSION_1 => Some(1),
        abi::caps::_LINUX_CAPABILITY_VERSION_2 | abi::caps::_LINUX_CAPABILITY_VERSION_3 => Some(2),
        _ => None,
    }
}

/// The header, with the version we prefer written back (and `None`) when the caller's is unknown.
fn cap_header(task: &Task, header: &InOut<CapHeader>) -> Result<Option<(CapHeader, usize)>, Errno> {
    let mut value = header.read(task)?;
    if let Some(words) = cap_words(value.version) {
        return Ok(Some((value, words)));
    }
    value.version = abi::caps::_LINUX_CAPABILITY_VERSION_3;
    header.write(task, &value)?;
    Ok(None)
}

/// `capget(2)`.
fn capget(task: &mut Task, header: InOut<CapHeader>, data: Addr) -> Result<(), Errno> {
    let Some((value, words)) = cap_header(task, &header)? else {
        // Asking for the version with no data is how libcap probes it.
        return if data.0 == 0 { Ok(()) } else { Err(Errno::EINVAL) };
    };
    if value.pid < 0 {
        return Err(Errno::EINVAL);
    }
    let creds = if value.pid == 0 { Arc::clone(task.creds()) } else { task.creds_of(value.pid)? };
    if data.0 == 0 {
        return Ok(());
    }
    let half = |caps: Caps, word: u32| u32::try_from((caps.bits() >> (32 * word)) & 0xffff_ffff).unwrap_or(0);
    let sets = [0, 1].map(|word| CapData {
        effective: half(creds.effective, word),
        permitted: half(creds.permitted, word),
        inheritable: half(creds.inheritable, word),
    });
    mem::write_array(task, data, sets.get(..words).unwrap_or(&sets))
}

/// `capset(2)`.
fn capset(task: &mut Task, header: InOut<CapHeader>, data: InArray<CapData>) -> Result<(), Errno> {
    let (value, words) = cap_header(task, &header)?.ok_or(Errno::EINVAL)?;
    if value.pid != 0 && value.pid != task.tid().raw() {
        return Err(Errno::EPERM);
    }
    let sets: Vec<CapData> = mem::read_array(task, data.0, words)?;
    let join = |part: fn(&CapData) -> u32| {
        let bits = sets.iter().rev().fold(0, |bits, set| bits << 32 | u64::from(part(set)));
        Caps::from_bits_truncate(bits)
    };
    let (effective, permitted, inheritable) =
        (join(|set| set.effective), join(|set| set.permitted), join(|set| set.inheritable));
    change(task, |old, new| {
        let may_inherit = old.inheritable.union(if old.has(Caps::SETPCAP) { old.bounding } else { old.permitted });
        if !old.permitted.contains(permitted)
            || !permitted.contains(effective)
            || !may_inherit.contains(inheritable)
            || !old.inheritable.union(old.bounding).contains(inheritable)
        {
            return Err(Errno::EPERM);
        }
        (new.effective, new.permitted, new.inheritable) = (effective, permitted, inheritable);
        new.ambient = old.ambient.intersection(permitted).intersection(inheritable);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use auth::{Caps, Creds, Uid};

    use super::{KEEP_CAPS, fix_caps};

    #[test]
    fn leaving_root_drops_capabilities_unless_kept() {
        let root = Creds::root();
        let mut user = root.clone();
        (user.ruid, user.euid, user.suid) = (Uid(1), Uid(1), Uid(1));
        let mut keeper = user.clone();
        keeper.securebits = KEEP_CAPS;
        fix_caps(&root, &mut user);
        assert_eq!((user.permitted, user.effective), (Caps::empty(), Caps::empty()));
        fix_caps(&root, &mut keeper);
        assert_eq!((keeper.permitted, keeper.effective), (Caps::all(), Caps::empty()));
    }

    #[test]
    fn an_effective_user_alone_keeps_permitted() {
        let root = Creds::root();
        let mut user = root.clone();
        user.euid = Uid(1);
        fix_caps(&root, &mut user);
        assert_eq!((user.permitted, user.effective), (Caps::all(), Caps::empty()));
        let mut back = user.clone();
        back.euid = Uid::ROOT;
        fix_caps(&user, &mut back);
        assert_eq!(back.effective, Caps::all());
    }
}
