//! Facts about the host that are read before anything is set up: kernel version, memory, how many tasks it can bear, the
//! caller's resource limits.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit};

use crate::failure::{Failure, Outcome};

/// Oldest kernel that has what every mode needs (`mount_setattr`, `close_range`, seccomp listeners with ADDFD).
pub(crate) const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// `(major, minor)` of the running kernel.
pub(crate) fn kernel_version() -> (u32, u32) {
    parse_version(&rustix::system::uname().release().to_string_lossy())
}

fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Fails with one line on kernels that are too old.
pub(crate) fn require_supported_kernel() -> Outcome<()> {
    supported(kernel_version())
}

fn supported((major, minor): (u32, u32)) -> Outcome<()> {
    if (major, minor) < OLDEST_KERNEL {
        let (need_major, need_minor) = OLDEST_KERNEL;
        return Err(Failure::ours(format!(
            "Linux {need_major}.{need_minor} or newer is needed, this is {major}.{minor}"
        )));
    }
    Ok(())
}

/// The smaller of the host's memory and the caller's cgroup limit, in bytes.
fn memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let shown = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib.saturating_mul(1024));
    // Without /proc, what sysinfo(2) says; a container may have a /proc/meminfo of its own, with less.
    let host = shown.unwrap_or_else(|| {
        let info = rustix::system::sysinfo();
        info.totalram.saturating_mul(info.mem_unit.into())
    });
    cgroup_memory_limit().map_or(host, |limit| limit.min(host))
}

/// What `--memory` is by default: 80 % of the smaller of the host's memory and the caller's cgroup limit, in bytes.
pub(crate) fn default_memory() -> u64 {
    (memory() / 5 * 4).max(crate::config::MIN_MEMORY)
}

/// What `--pids` is by default, where the host can bear as many.
const DEFAULT_PIDS: u64 = 16_384;
/// What it is at least.
const FEWEST_PIDS: u64 = 64;
/// Host tasks of a guest process with one thread: three in its stub, one in our kernel.
const HOST_TASKS: u64 = 4;
/// Host memory of a guest process that is not the guest's own, so not counted by `--memory`: task structures, kernel
/// stacks and page tables, in bytes (measured: 250 KiB).
const HOST_MEMORY: u64 = 256 << 10;

/// What `--pids` is by default: 16,384, or as many processes as take half of the host's process numbers and a fifth of its
/// memory (what `--memory` leaves by default), so that a fork bomb inside leaves the host enough of both.
pub(crate) fn default_pids() -> u32 {
    let numbers = ["pid_max", "threads-max"]
        .iter()
        .filter_map(|name| read_number(&Path::new("/proc/sys/kernel").join(name)))
        .min()
        .unwrap_or(u64::MAX);
    pids_for(numbers, memory())
}

fn pids_for(numbers: u64, memory: u64) -> u32 {
    let bearable = (numbers / 2 / HOST_TASKS).min(memory / 5 / HOST_MEMORY);
    u32::try_from(bearable.clamp(FEWEST_PIDS, DEFAULT_PIDS)).unwrap_or(u32::MAX)
}

/// Descriptors that the sandbox and its stubs need for themselves.
const FEWEST_FILES: u64 = 128;
/// Address space, and the largest file, that the sandbox reserves room for: the memory file's mapping is 32 TiB.
const ADDRESS_SPACE: u64 = 48 << 40;

/// Fails with one line when a hard resource limit leaves the sandbox too little. Soft limits are the guest's: it inherits
/// them, and our kernel enforces them.
pub(crate) fn require_limits() -> Outcome<()> {
    for (resource, option, needed) in [
        (Resource::Nofile, "n", FEWEST_FILES),
        (Resource::As, "v", ADDRESS_SPACE),
        (Resource::Fsize, "f", ADDRESS_SPACE),
    ] {
        enough(getrlimit(resource), option, needed)?;
    }
    Ok(())
}

fn enough(limit: Rlimit, option: &str, needed: u64) -> Outcome<()> {
    match limit.maximum {
        Some(hard) if hard < needed => {
            let wanted = if needed == ADDRESS_SPACE { "unlimited".to_owned() } else { format!("{needed} or more") };
            Err(Failure::ours(format!(
                "the hard limit `ulimit -H{option}` must be {wanted} for the sandbox itself; \
                 `ulimit -S{option}` limits the program inside"
            )))
        }
        _ => Ok(()),
    }
}

/// The tightest memory limit of the caller's cgroup and its ancestors, version 2 or 1.
fn cgroup_memory_limit() -> Option<u64> {
    tightest_in_cgroups("memory", |dir, version| match version {
        CgroupVersion::Two => read_number(&dir.join("memory.max")),
        CgroupVersion::One => read_number(&dir.join("memory.limit_in_bytes")),
    })
}

/// CPUs that the caller's cgroup and its ancestors let it keep busy, rounded up: `u32::MAX` without a quota.
pub(crate) fn cpu_quota() -> u32 {
    let quota = tightest_in_cgroups("cpu", |dir, version| match version {
        CgroupVersion::Two => quota_of(&fs::read_to_string(dir.join("cpu.max")).ok()?),
        CgroupVersion::One => {
            // A negative quota, which means none, is no number to us.
            let quota = read_number(&dir.join("cpu.cfs_quota_us"))?;
            Some(quota.div_ceil(read_number(&dir.join("cpu.cfs_period_us"))?.max(1)))
        }
    });
    quota.map_or(u32::MAX, |cpus| u32::try_from(cpus.max(1)).unwrap_or(u32::MAX))
}

/// Whole CPUs of a `cpu.max` line: quota and period in microseconds, or `max`.
fn quota_of(line: &str) -> Option<u64> {
    let mut fields = line.split_whitespace().map(str::parse::<u64>);
    let (quota, period) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(quota.div_ceil(period.max(1)))
}

#[derive(Clone, Copy)]
enum CgroupVersion {
    One,
    Two,
}

/// The smallest of what `read` finds in the caller's cgroup for `controller` and in its ancestors.
fn tightest_in_cgroups(controller: &str, read: impl Fn(&Path, CgroupVersion) -> Option<u64>) -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut tightest: Option<u64> = None;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, version) = match controllers {
            "" => (PathBuf::from("/sys/fs/cgroup"), CgroupVersion::Two),
            list if list.split(',').any(|name| name == controller) => {
                (Path::new("/sys/fs/cgroup").join(controller), CgroupVersion::One)
            }
            _ => continue,
        };
        let mut dir = root.join(path.trim_start_matches('/'));
        while dir.starts_with(&root) {
            if let Some(limit) = read(&dir, version) {
                tightest = Some(tightest.map_or(limit, |best| best.min(limit)));
            }
            if !dir.pop() {
                break;
            }
        }
    }
    tightest
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use rustix::process::Rlimit;

    use super::{
        ADDRESS_SPACE, cpu_quota, default_memory, default_pids, enough, parse_version, pids_for, quota_of, supported,
    };

    #[test]
    fn versions() {
        assert_eq!(parse_version("6.1.0-13-amd64"), (6, 1));
        assert_eq!(parse_version("5.15"), (5, 15));
        assert_eq!(parse_version("7-rc1"), (7, 0));
        assert_eq!(parse_version(""), (0, 0));
    }

    #[test]
    fn an_old_kernel_is_one_line() {
        for fine in [(5, 15), (6, 1), (7, 0)] {
            assert!(supported(fine).is_ok(), "{fine:?}");
        }
        for old in [(5, 14), (4, 19), (0, 0)] {
            let failure = supported(old).expect_err("too old");
            let line = failure.to_string();
            assert_eq!((failure.status(), line.lines().count()), (125, 1), "{line}");
            assert!(line.contains("5.15") && line.contains(&format!("{}.{}", old.0, old.1)), "{line}");
        }
    }

    #[test]
    fn memory_is_a_share_of_the_host() {
        assert!(default_memory() >= crate::config::MIN_MEMORY);
    }

    #[test]
    fn tasks_are_what_the_host_can_bear() {
        const GIB: u64 = 1 << 30;
        // A large machine with systemd; the old limit of process numbers; small memories; absurd ones.
        assert_eq!(pids_for(4_194_304, 64 * GIB), 16_384);
        assert_eq!(pids_for(32_768, 64 * GIB), 4096);
        assert_eq!(pids_for(4_194_304, 4 * GIB), 3276);
        assert_eq!(pids_for(31_000, GIB), 819);
        assert_eq!(pids_for(301, 0), 64);
        assert_eq!(pids_for(u64::MAX, u64::MAX), 16_384);
        assert!((64..=16_384).contains(&default_pids()));
    }

    #[test]
    fn a_hard_limit_that_is_too_small_is_one_line() {
        let limit = |hard| Rlimit { current: Some(1), maximum: hard };
        for fine in [None, Some(ADDRESS_SPACE), Some(u64::MAX)] {
            assert!(enough(limit(fine), "v", ADDRESS_SPACE).is_ok(), "{fine:?}");
        }
        for (option, needed, words) in [("v", ADDRESS_SPACE, "unlimited"), ("n", 128, "128 or more")] {
            let failure = enough(limit(Some(100)), option, needed).expect_err("too small");
            let line = failure.to_string();
            assert_eq!((failure.status(), line.lines().count()), (125, 1), "{line}");
            assert!(line.contains(&format!("ulimit -H{option}")) && line.contains(words), "{line}");
        }
    }

    #[test]
    fn quotas_are_whole_cpus() {
        for (line, cpus) in [
            ("max 100000\n", None),
            ("200000 100000\n", Some(2)),
            ("150000 100000", Some(2)),
            ("1000 100000", Some(1)),
            ("", None),
            ("7 0", Some(7)),
        ] {
            assert_eq!(quota_of(line), cpus, "{line:?}");
        }
        assert!(cpu_quota() >= 1);
    }
}
