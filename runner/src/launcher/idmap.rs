//! Ids of the sandbox's user namespace: user_namespaces(7).
//!
//! Root maps every id it has itself, unchanged; anybody else maps only their own.

use std::fmt::Write;
use std::fs;
use std::io;

use rustix::process::Pid;

/// Which ids exist in the sandbox process's user namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IdMap {
    /// All that the caller has, unchanged.
    All,
    /// The caller's own, unchanged; everything else shows as the overflow id.
    Own {
        /// Effective user id of the caller.
        uid: u32,
        /// Effective group id of the caller.
        gid: u32,
    },
}

impl IdMap {
    /// The widest map that the caller may write.
    pub(super) fn for_caller() -> Self {
        use rustix::thread::CapabilitySet;
        let both = CapabilitySet::SETUID | CapabilitySet::SETGID;
        match rustix::thread::capabilities(None) {
            Ok(sets) if sets.effective.contains(both) => Self::All,
            _ => Self::Own { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() },
        }
    }

    /// Writes the maps of `child`, which waits for it.
    pub(super) fn write(self, child: Pid) -> io::Result<()> {
        let dir = format!("/proc/{}", child.as_raw_pid());
        match self {
            Self::All => {
                fs::write(format!("{dir}/uid_map"), identity(&fs::read_to_string("/proc/self/uid_map")?))?;
                fs::write(format!("{dir}/gid_map"), identity(&fs::read_to_string("/proc/self/gid_map")?))
            }
            Self::Own { uid, gid } => {
                // A process without privilege must first give up setgroups(2) in the namespace.
                fs::write(format!("{dir}/setgroups"), "deny")?;
                fs::write(format!("{dir}/uid_map"), format!("{} {uid} 1\n", inner(uid)))?;
                fs::write(format!("{dir}/gid_map"), format!("{} {gid} 1\n", inner(gid)))
            }
        }
    }

    /// What the guest sees for a user id that the sandbox process sees: ids without a mapping show as 0.
    pub(crate) fn guest_uid(self, seen: u32) -> u32 {
        match self {
            Self::All => seen,
            Self::Own { uid, .. } => {
                if seen == inner(uid) {
                    uid
                } else {
                    0
                }
            }
        }
    }

    /// The same for a group id.
    pub(crate) fn guest_gid(self, seen: u32) -> u32 {
        match self {
            Self::All => seen,
            Self::Own { gid, .. } => {
                if seen == inner(gid) {
                    gid
                } else {
                    0
                }
            }
        }
    }
}

/// The id that the host shows for ids without a mapping (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65_534;

/// The id inside the namespace for the caller's own: the same, unless that would look like no mapping at all.
pub(crate) fn inner(own: u32) -> u32 {
    if own == OVERFLOW { OVERFLOW - 1 } else { own }
}

/// A map of each id that exists in our own namespace (first column of `own`) to itself.
fn identity(own: &str) -> String {
    let mut map = String::new();
    for line in own.lines() {
        let mut fields = line.split_whitespace();
        if let (Some(first), Some(_), Some(count)) = (fields.next(), fields.next(), fields.next()) {
            let _ = writeln!(map, "{first} {first} {count}");
        }
    }
    map
}

#[cfg(test)]
mod tests {
    #[test]
    fn foreign_ids_show_as_root() {
        let map = super::IdMap::Own { uid: 1000, gid: 65_534 };
        assert_eq!((map.guest_uid(1000), map.guest_uid(65_534), map.guest_uid(5)), (1000, 0, 0));
        assert_eq!((map.guest_gid(65_533), map.guest_gid(65_534)), (65_534, 0));
        assert_eq!(super::IdMap::All.guest_uid(42), 42);
    }

    #[test]
    fn identity_of_nested_maps() {
        assert_eq!(super::identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(super::identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
