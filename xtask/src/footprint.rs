//! What a sandbox takes of the host, seen from outside, and whether it has grown: for the commands that keep one busy.

use std::path::PathBuf;

/// What the sandbox takes of the host, and what is free in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub(crate) anonymous_kib: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) processes: usize,
    pub(crate) free_kib: u64,
}

/// What each stub has: descriptors of its own and those of the sandbox that belong to it, threads.
const OF_A_STUB: (usize, usize) = (11, 3);
/// Stubs that are kept for later, beyond those that are there before any call.
const KEPT_STUBS: usize = 6;
/// Host threads that are kept for later.
const KEPT_THREADS: usize = 8;
/// Descriptors and threads that come and go.
const FEW: usize = 4;

impl Use {
    /// What `self` has more than `before`, which neither stubs nor kept threads explain.
    fn exceeds(&self, before: &Self, more_kib: u64, less_free_kib: u64) -> bool {
        let (of_descriptors, of_threads) = OF_A_STUB;
        // Both sides with as many stubs: with those of `self` added to `before`, and the reverse.
        let with_stubs = |count: usize, of: usize, stubs: usize| count + of * stubs;
        self.anonymous_kib > before.anonymous_kib + more_kib
            || with_stubs(self.descriptors, of_descriptors, before.processes)
                > with_stubs(before.descriptors, of_descriptors, self.processes) + FEW
            || with_stubs(self.threads, of_threads, before.processes)
                > with_stubs(before.threads, of_threads, self.processes) + KEPT_THREADS + FEW
            || self.free_kib + less_free_kib < before.free_kib
    }

    /// What is more than it was before any call, but for what is kept for later, and pages that a little lives in each of.
    pub(crate) fn growth_since(&self, start: &Self) -> Option<String> {
        let grown = self.processes > start.processes + KEPT_STUBS || self.exceeds(start, 8 << 10, 8 << 10);
        grown.then(|| format!("at first {start:?}, now {self:?}"))
    }

    /// What is more than it was once everything had been done a few times: nothing grows from then on.
    pub(crate) fn leak_since(&self, warm: &Self) -> Option<String> {
        let leaked = self.exceeds(warm, 3 << 10, 4 << 10);
        leaked.then(|| format!("after its beginnings {warm:?}, now {self:?}"))
    }
}

/// The processes below `pid`, with itself.
fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        at += 1;
        for task in entries(&format!("/proc/{parent}/task")) {
            let text = std::fs::read_to_string(task.join("children")).unwrap_or_default();
            found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

fn entries(folder: &str) -> Vec<PathBuf> {
    std::fs::read_dir(folder).map(|list| list.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// What launcher, sandbox and stubs take together. A stub that is kept may have a second thread for its guest's, with a
/// descriptor: the guest before decided that, and neither counts.
pub(crate) fn measure(launcher: u32, free_kib: u64) -> Use {
    let family = family(launcher);
    let mut sum = Use { anonymous_kib: 0, descriptors: 0, threads: 0, processes: family.len(), free_kib };
    for pid in family {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = anonymous.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        sum.anonymous_kib += kib.unwrap_or(0);
        sum.descriptors += entries(&format!("/proc/{pid}/fd")).len();
        let threads = entries(&format!("/proc/{pid}/task")).len();
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let second = if name.trim_end() == "casemate-stub" { threads.saturating_sub(OF_A_STUB.1) } else { 0 };
        sum.threads += threads - second;
        sum.descriptors = sum.descriptors.saturating_sub(second);
    }
    sum
}

/// A line per thread of the sandbox that is not a stub's: what it is and whether it runs.
pub(crate) fn threads(launcher: u32) -> String {
    let mut lines = Vec::new();
    for task in family(launcher).iter().flat_map(|pid| entries(&format!("/proc/{pid}/task"))) {
        let read = |name: &str| std::fs::read_to_string(task.join(name)).unwrap_or_default();
        let stat = read("stat");
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?');
        let (name, place) = (read("comm"), read("wchan"));
        if !name.contains("stub") {
            lines.push(format!("  {} {state} {} {place}", task.display(), name.trim()));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::Use;

    const START: Use = Use { anonymous_kib: 976, descriptors: 90, threads: 18, processes: 7, free_kib: 1_047_140 };

    #[test]
    fn stubs_and_kept_threads_are_no_leak() {
        let with_stubs = Use { descriptors: 112, threads: 32, processes: 9, anonymous_kib: 4_700, ..START };
        assert_eq!(with_stubs.growth_since(&START), None);
        let warm = Use { descriptors: 90, threads: 26, processes: 7, anonymous_kib: 4_000, ..START };
        assert_eq!(with_stubs.leak_since(&warm), None);
        // Fewer stubs hide nothing.
        assert_eq!(warm.leak_since(&with_stubs), None);
        assert!(Use { descriptors: 95, ..warm }.leak_since(&with_stubs).is_some());
    }

    #[test]
    fn what_they_do_not_explain_is_one() {
        let leaks = [
            Use { descriptors: 95, ..START },
            Use { threads: 31, ..START },
            Use { processes: 14, descriptors: 167, threads: 39, ..START },
            Use { anonymous_kib: 9_500, ..START },
            Use { free_kib: 1_038_000, ..START },
        ];
        assert!(leaks.iter().all(|leak| leak.growth_since(&START).is_some()));
    }
}
