//! The seccomp filter of the sandbox process: which host calls our kernel makes, why, and with which arguments.
//!
//! Everything else kills the process. Two calls that the C library makes of its own accord are answered ENOSYS by a
//! second, tiny filter: `clone3`, because its arguments lie in memory where a filter cannot look (the library then uses
//! `clone`, whose flags are checked), and `openat` of a path (its allocator looks for a setting in `/proc` and does
//! without).
//!
//! **Invariants**: no call opens a file by an absolute path that leads anywhere (the root is empty), none maps
//! executable memory, none creates a process or a socket, none changes credentials or mounts.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use usermem::platform::HostCallRule;

use crate::failure::{Doing, Outcome};

mod table;

/// What happens to a call outside the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// The host kills the process.
    Kill,
    /// A handler prints the call and ends the process (`--debug`).
    Report,
}

/// Installs both filters on every thread of the process.
pub(super) fn install(platform: &[HostCallRule], refusal: Refusal) -> Outcome<()> {
    let what = "seccomp filter";
    let fallback = fallback_filter().doing(what)?;
    let filter = main_filter(platform, refusal).doing(what)?;
    seccompiler::apply_filter_all_threads(&fallback).doing(what)?;
    seccompiler::apply_filter_all_threads(&filter).doing(what)
}

/// Answers ENOSYS to `clone3` and to opening a path from the working directory; lets the rest through to the main filter (the stricter verdict of the two counts).
fn fallback_filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let here = u64::from(libc::AT_FDCWD.cast_unsigned());
    let from_here = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, here)
        .and_then(|condition| SeccompRule::new(vec![condition]))?;
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new()), (libc::SYS_openat, vec![from_here])]);
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, enosys, TargetArch::x86_64)?.try_into()
}

fn main_filter(platform: &[HostCallRule], refusal: Refusal) -> Result<BpfProgram, seccompiler::BackendError> {
    let refuse = match refusal {
        Refusal::Kill => SeccompAction::KillProcess,
        Refusal::Report => SeccompAction::Trap,
    };
    let rules = merge(table::RULES.iter().chain(platform))?;
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

/// Alternatives of the same call add up; a rule without conditions lets every argument through.
fn merge<'a>(
    rules: impl Iterator<Item = &'a HostCallRule>,
) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut merged: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut unconditional = Vec::new();
    for rule in rules {
        let alternatives = merged.entry(rule.nr).or_default();
        if rule.args.is_empty() {
            unconditional.push(rule.nr);
        }
        for conditions in rule.args {
            let conditions = conditions
                .iter()
                .map(|&(index, mask, value)| {
                    SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
                })
                .collect::<Result<Vec<_>, _>>()?;
            alternatives.push(SeccompRule::new(conditions)?);
        }
    }
    for number in unconditional {
        merged.insert(number, Vec::new());
    }
    Ok(merged)
}

#[cfg(test)]
mod tests;
