//! Who is asking: user and group ids, capability sets and the credentials made of them, `credentials(7)` and
//! `capabilities(7)`.
//!
//! Pure data. The kernel decides how credentials change (exec, setuid family); file systems and IPC only ask.
//!
//! **Invariants.** A [`Creds`] value never changes after it is shared: whoever changes credentials makes a new one.
#![forbid(unsafe_code)]

/// A user id inside the sandbox.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Uid(pub u32);

/// A group id inside the sandbox.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Gid(pub u32);

impl Uid {
    /// The superuser.
    pub const ROOT: Self = Self(0);
    /// The argument that means "leave it", and never a valid id.
    pub const INVALID: Self = Self(u32::MAX);
    /// What an id without a mapping shows as.
    pub const OVERFLOW: Self = Self(65534);

    /// The id that a system call argument names; `None` for −1, "leave it".
    pub const fn from_arg(raw: u32) -> Option<Self> {
        if raw == u32::MAX { None } else { Some(Self(raw)) }
    }

    /// Whether this is the superuser.
    pub const fn is_root(self) -> bool {
        self.0 == 0
    }
}

impl Gid {
    /// The superuser's group.
    pub const ROOT: Self = Self(0);
    /// The argument that means "leave it", and never a valid id.
    pub const INVALID: Self = Self(u32::MAX);
    /// What an id without a mapping shows as.
    pub const OVERFLOW: Self = Self(65534);

    /// The id that a system call argument names; `None` for −1, "leave it".
    pub const fn from_arg(raw: u32) -> Option<Self> {
        if raw == u32::MAX { None } else { Some(Self(raw)) }
    }
}

bitflags::bitflags! {
    /// A set of capabilities; bit numbers are Linux's (`linux/capability.h`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Caps: u64 {
        /// Change owners of files.
        const CHOWN = 1 << 0;
        /// Ignore permission bits.
        const DAC_OVERRIDE = 1 << 1;
        /// Read any file, search any directory.
        const DAC_READ_SEARCH = 1 << 2;
        /// Do what only a file's owner may.
        const FOWNER = 1 << 3;
        /// Keep set-id bits on changes.
        const FSETID = 1 << 4;
        /// Signal anyone.
        const KILL = 1 << 5;
        /// Become any group.
        const SETGID = 1 << 6;
        /// Become any user.
        const SETUID = 1 << 7;
        /// Change capability sets.
        const SETPCAP = 1 << 8;
        /// Set immutable and append-only flags.
        const LINUX_IMMUTABLE = 1 << 9;
        /// Bind ports below 1024.
        const NET_BIND_SERVICE = 1 << 10;
        /// Broadcast and multicast.
        const NET_BROADCAST = 1 << 11;
        /// Administer the network.
        const NET_ADMIN = 1 << 12;
        /// Raw and packet sockets.
        const NET_RAW = 1 << 13;
        /// Lock memory.
        const IPC_LOCK = 1 << 14;
        /// Ignore owners of IPC objects.
        const IPC_OWNER = 1 << 15;
        /// Load kernel modules.
        const SYS_MODULE = 1 << 16;
        /// Raw I/O.
        const SYS_RAWIO = 1 << 17;
        /// `chroot`.
        const SYS_CHROOT = 1 << 18;
        /// Trace anyone.
        const SYS_PTRACE = 1 << 19;
        /// Process accounting.
        const SYS_PACCT = 1 << 20;
        /// Administer the system: mounts and much else.
        const SYS_ADMIN = 1 << 21;
        /// Reboot.
        const SYS_BOOT = 1 << 22;
        /// Raise priorities.
        const SYS_NICE = 1 << 23;
        /// Exceed resource limits.
        const SYS_RESOURCE = 1 << 24;
        /// Set the clock.
        const SYS_TIME = 1 << 25;
        /// Configure terminals.
        const SYS_TTY_CONFIG = 1 << 26;
        /// Make device nodes.
        const MKNOD = 1 << 27;
        /// Take leases.
        const LEASE = 1 << 28;
        /// Write the audit log.
        const AUDIT_WRITE = 1 << 29;
        /// Configure auditing.
        const AUDIT_CONTROL = 1 << 30;
        /// Set file capabilities.
        const SETFCAP = 1 << 31;
        /// Override mandatory access control.
        const MAC_OVERRIDE = 1 << 32;
        /// Administer mandatory access control.
        const MAC_ADMIN = 1 << 33;
        /// Read the kernel log.
        const SYSLOG = 1 << 34;
        /// Set wake-up alarms.
        const WAKE_ALARM = 1 << 35;
        /// Block suspend.
        const BLOCK_SUSPEND = 1 << 36;
        /// Read the audit log.
        const AUDIT_READ = 1 << 37;
        /// Performance monitoring.
        const PERFMON = 1 << 38;
        /// BPF operations.
        const BPF = 1 << 39;
        /// Checkpoint and restore.
        const CHECKPOINT_RESTORE = 1 << 40;
    }
}

impl Caps {
    /// The number of the last capability, `/proc/sys/kernel/cap_last_cap`.
    pub const LAST: u32 = 40;

    /// The capability of this number, if there is one.
    pub const fn from_number(number: u32) -> Option<Self> {
        if number <= Self::LAST { Self::from_bits(1 << number) } else { None }
    }
}

/// Credentials of a task: ids, groups, capability sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Creds {
    /// Real, effective, saved and file-system user ids.
    pub ruid: Uid,
    /// Effective user id.
    pub euid: Uid,
    /// Saved user id.
    pub suid: Uid,
    /// User id for file access; follows `euid`.
    pub fsuid: Uid,
    /// Real group id.
    pub rgid: Gid,
    /// Effective group id.
    pub egid: Gid,
    /// Saved group id.
    pub sgid: Gid,
    /// Group id for file access; follows `egid`.
    pub fsgid: Gid,
    /// Supplementary groups.
    pub groups: Vec<Gid>,
    /// Capabilities in effect.
    pub effective: Caps,
    /// Capabilities that may be put in effect.
    pub permitted: Caps,
    /// Capabilities kept across exec by agreement of the file.
    pub inheritable: Caps,
    /// The limit on what exec may add.
    pub bounding: Caps,
    /// Capabilities kept across exec of an ordinary file.
    pub ambient: Caps,
    /// `SECBIT_*`, `capabilities(7)`.
    pub securebits: u32,
}

impl Creds {
    /// The superuser with every capability.
    pub fn root() -> Self {
        Self::new(Uid::ROOT, Gid::ROOT, Vec::new())
    }

    /// A fresh set of credentials for a user: every capability for root, none for others.
    pub fn new(uid: Uid, gid: Gid, groups: Vec<Gid>) -> Self {
        let caps = if uid.is_root() { Caps::all() } else { Caps::empty() };
        Self {
            ruid: uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            rgid: gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups,
            effective: caps,
            permitted: caps,
            inheritable: Caps::empty(),
            bounding: Caps::all(),
            ambient: Caps::empty(),
            securebits: 0,
        }
    }

    /// Whether all of `caps` are in effect.
    pub fn has(&self, caps: Caps) -> bool {
        self.effective.contains(caps)
    }

    /// Whether file access counts `gid` among this task's groups.
    pub fn in_group(&self, gid: Gid) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// These credentials as `access(2)` sees them: real ids in place of effective ones, and capabilities as if they had
    /// been executed with (root: the permitted ones; others: none).
    pub fn real(&self) -> Self {
        let mut creds = self.clone();
        creds.fsuid = self.ruid;
        creds.fsgid = self.rgid;
        creds.effective = if self.ruid.is_root() { self.permitted } else { Caps::empty() };
        creds
    }
}

#[cfg(test)]
mod tests {
    use super::{Caps, Creds, Gid, Uid};

    #[test]
    fn access_uses_real_ids() {
        let mut creds = Creds::root();
        creds.ruid = Uid(1000);
        assert!(creds.has(Caps::CHOWN));
        assert!(!creds.real().has(Caps::CHOWN));
        assert_eq!(creds.real().fsuid, Uid(1000));
    }

    #[test]
    fn groups() {
        let creds = Creds::new(Uid(1), Gid(2), vec![Gid(3)]);
        assert!(creds.in_group(Gid(2)) && creds.in_group(Gid(3)) && !creds.in_group(Gid(4)));
        assert_eq!(Caps::from_number(41), None);
        assert_eq!(Caps::from_number(0), Some(Caps::CHOWN));
    }
}
