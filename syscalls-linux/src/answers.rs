//! Calls that only tell a fact about the caller, or change one that it may keep itself: a platform may answer them without coming to us.

use kernel::task::published::Fact;

/// The fact that each asks for, and its number.
pub(crate) const ANSWERS: &[(Fact, u16)] = &[
    (Fact::Pid, 39),
    (Fact::Tid, 186),
    (Fact::ParentPid, 110),
    (Fact::ProcessGroup, 111),
    (Fact::Uid, 102),
    (Fact::EffectiveUid, 107),
    (Fact::Gid, 104),
    (Fact::EffectiveGid, 108),
    (Fact::SignalMask, 14),
];

#[cfg(test)]
mod tests {
    use super::ANSWERS;
    use crate::row;

    #[test]
    fn they_are_the_rows_that_they_seem() {
        let names: Vec<_> =
            ANSWERS.iter().map(|(_, number)| row(u64::from(*number)).map_or("none", |row| row.name)).collect();
        let expected =
            ["getpid", "gettid", "getppid", "getpgrp", "getuid", "geteuid", "getgid", "getegid", "rt_sigprocmask"];
        assert_eq!(names, expected);
        assert!(ANSWERS.iter().all(|(_, number)| *number < 256));
    }
}
