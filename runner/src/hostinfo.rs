//! Facts about the host that are read before anything is set up: kernel version, memory.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Doing, Failure, Outcome};

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

/// 80 % of the smaller of the host's memory and the caller's cgroup limit, in bytes.
pub(crate) fn default_memory() -> Outcome<u64> {
    let info = fs::read_to_string("/proc/meminfo").doing("/proc/meminfo")?;
    let host = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .ok_or_else(|| Failure::ours("/proc/meminfo: no MemTotal"))?
        .saturating_mul(1024);
    let limit = cgroup_memory_limit().map_or(host, |limit| limit.min(host));
    Ok((limit / 5 * 4).max(crate::config::MIN_MEMORY))
}

/// The tightest memory limit of the caller's cgroup and its ancestors, version 2 or 1.
fn cgroup_memory_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut tightest: Option<u64> = None;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut dir = PathBuf::from(root);
        dir.push(path.trim_start_matches('/'));
        while dir.starts_with(root) {
            if let Some(limit) = read_number(&dir.join(file)) {
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
    use super::{default_memory, parse_version, supported};

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
        assert!(default_memory().expect("readable") >= crate::config::MIN_MEMORY);
    }
}
