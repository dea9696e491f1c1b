//! Resource limits of a process (getrlimit(2)).

use abi::Errno;

/// Which limit; the numbers are Linux's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are Linux's")]
#[repr(u8)]
pub enum Resource {
    Cpu,
    Fsize,
    Data,
    Stack,
    Core,
    Rss,
    Nproc,
    Nofile,
    Memlock,
    As,
    Locks,
    Sigpending,
    Msgqueue,
    Nice,
    Rtprio,
    Rttime,
}

/// How many there are.
pub const RESOURCES: usize = 16;

/// No limit.
pub const INFINITY: u64 = u64::MAX;

impl Resource {
    /// All, in the order of their numbers.
    pub const ALL: [Self; RESOURCES] = [
        Self::Cpu,
        Self::Fsize,
        Self::Data,
        Self::Stack,
        Self::Core,
        Self::Rss,
        Self::Nproc,
        Self::Nofile,
        Self::Memlock,
        Self::As,
        Self::Locks,
        Self::Sigpending,
        Self::Msgqueue,
        Self::Nice,
        Self::Rtprio,
        Self::Rttime,
    ];

    /// From its number; `EINVAL` for others.
    pub fn from_raw(raw: u32) -> Result<Self, Errno> {
        usize::try_from(raw).ok().and_then(|at| Self::ALL.get(at)).copied().ok_or(Errno::EINVAL)
    }
}

/// One limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rlimit {
    /// What is enforced.
    pub soft: u64,
    /// How far `soft` may be raised.
    pub hard: u64,
}

/// The limits of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rlimits([Rlimit; RESOURCES]);

impl Default for Rlimits {
    /// What Linux gives its first process, with Debian's usual sizes.
    fn default() -> Self {
        let infinite = Rlimit { soft: INFINITY, hard: INFINITY };
        let mut all = Self([infinite; RESOURCES]);
        all.set_unchecked(Resource::Stack, Rlimit { soft: 8 << 20, hard: INFINITY });
        all.set_unchecked(Resource::Core, Rlimit { soft: 0, hard: INFINITY });
        all.set_unchecked(Resource::Nofile, Rlimit { soft: 1024, hard: 1_048_576 });
        all.set_unchecked(Resource::Memlock, Rlimit { soft: 8 << 20, hard: 8 << 20 });
        all.set_unchecked(Resource::Sigpending, Rlimit { soft: 63_000, hard: 63_000 });
        all.set_unchecked(Resource::Msgqueue, Rlimit { soft: 819_200, hard: 819_200 });
        all.set_unchecked(Resource::Nice, Rlimit { soft: 0, hard: 0 });
        all.set_unchecked(Resource::Rtprio, Rlimit { soft: 0, hard: 0 });
        all
    }
}

impl Rlimits {
    /// One of them.
    pub fn get(&self, resource: Resource) -> Rlimit {
        let none = Rlimit { soft: INFINITY, hard: INFINITY };
        self.0.get(resource as usize).copied().unwrap_or(none)
    }

    /// Changes one without asking.
    pub fn set_unchecked(&mut self, resource: Resource, limit: Rlimit) {
        if let Some(slot) = self.0.get_mut(resource as usize) {
            *slot = limit;
        }
    }

    /// Changes one by setrlimit(2)'s rules: `EINVAL` when the soft limit is above the hard one, `EPERM` when the hard
    /// limit is raised by a caller who is not `privileged`. Says the old one.
    pub fn set(&mut self, resource: Resource, limit: Rlimit, privilege: Privilege) -> Result<Rlimit, Errno> {
        if limit.soft > limit.hard {
            return Err(Errno::EINVAL);
        }
        let old = self.get(resource);
        if limit.hard > old.hard && privilege == Privilege::None {
            return Err(Errno::EPERM);
        }
        if matches!(resource, Resource::Nofile) && limit.hard > crate::fdtable::NR_OPEN {
            return Err(Errno::EPERM);
        }
        self.set_unchecked(resource, limit);
        Ok(old)
    }
}

/// Whether the caller has CAP_SYS_RESOURCE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// It has not.
    None,
    /// It has.
    SysResource,
}

#[cfg(test)]
mod tests {
    use super::{Privilege, Resource, Rlimit, Rlimits};
    use abi::Errno;

    #[test]
    fn the_rules_of_setrlimit() {
        let mut all = Rlimits::default();
        let both = |soft, hard| Rlimit { soft, hard };
        let set = |all: &mut Rlimits, l| all.set(Resource::Nofile, l, Privilege::None);
        assert_eq!(set(&mut all, both(5, 4)), Err(Errno::EINVAL));
        assert_eq!(set(&mut all, both(5, 100)).map(|old| old.soft), Ok(1024));
        assert_eq!(set(&mut all, both(5, 101)), Err(Errno::EPERM));
        assert!(all.set(Resource::Nofile, both(5, 101), Privilege::SysResource).is_ok());
        assert_eq!(Resource::from_raw(7), Ok(Resource::Nofile));
        assert_eq!(Resource::from_raw(16), Err(Errno::EINVAL));
    }
}
