//! `casemate doctor`: what this host offers, which platform fits, and what to do about the rest.

use std::fmt;
use std::fs;
use std::io::Write;

use clap::Args;

use crate::failure::{Doing, Outcome};
use crate::host::{self, Listener};
use crate::hostinfo;

/// Say what this host offers, which platform fits, and what to do about the rest.
#[derive(Args)]
pub(super) struct DoctorArgs {}

/// How a finding bears on `casemate run`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Good,
    /// Works, with less.
    Reduced,
    /// `casemate run` cannot work with its defaults.
    Bad,
}

/// One line of the answer, and what to do when it is not good.
struct Finding {
    verdict: Verdict,
    what: &'static str,
    found: String,
    advice: Option<&'static str>,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, what, found: found.into(), advice: None }
    }

    fn reduced(what: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { verdict: Verdict::Reduced, what, found: found.into(), advice: Some(advice) }
    }

    fn bad(what: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { verdict: Verdict::Bad, what, found: found.into(), advice: Some(advice) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.verdict {
            Verdict::Good => "ok  ",
            Verdict::Reduced => "note",
            Verdict::Bad => "FAIL",
        };
        write!(f, "{mark}  {:<20} {}", self.what, self.found)?;
        match self.advice {
            Some(advice) => write!(f, "\n      {:<20} -> {advice}", ""),
            None => Ok(()),
        }
    }
}

impl DoctorArgs {
    pub(super) fn execute(self) -> Outcome<u8> {
        let findings = [
            kernel(),
            user_namespaces(),
            mounts(),
            proc(),
            seccomp_listener(),
            fsgsbase(),
            memory_file(),
            memory_limit(),
            tasks(),
            limits(),
            kvm(),
        ];
        let usable = findings.iter().all(|finding| finding.verdict != Verdict::Bad);
        let mut text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
        text.push_str(if usable {
            "\nplatform: systrap (the only one so far); `casemate run` should work here\n"
        } else {
            "\n`casemate run` will not work here until the lines marked FAIL are dealt with\n"
        });
        match std::io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            result => result.doing("standard output")?,
        }
        Ok(u8::from(!usable))
    }
}

fn kernel() -> Finding {
    let (major, minor) = hostinfo::kernel_version();
    let found = format!("Linux {major}.{minor}");
    if (major, minor) < hostinfo::OLDEST_KERNEL {
        Finding::bad("kernel", found, "Linux 5.15 or newer is needed")
    } else {
        Finding::good("kernel", found)
    }
}

fn user_namespaces() -> Finding {
    let what = "user namespaces";
    match host::namespace_support() {
        Ok(host::NamespaceSupport::Full) => Finding::good(what, "available"),
        Ok(host::NamespaceSupport::Stripped) => Finding::bad(
            what,
            "can be made, but are stripped of their capabilities",
            "AppArmor does this: `sysctl kernel.apparmor_restrict_unprivileged_userns=0` or a profile with `userns,`; \
             else --isolation=seccomp",
        ),
        Ok(host::NamespaceSupport::Refused(errno)) => {
            let error = std::io::Error::from_raw_os_error(errno);
            let advice =
                match (read_sysctl("user/max_user_namespaces"), read_sysctl("kernel/unprivileged_userns_clone")) {
                    (Some(0), _) => "`sysctl user.max_user_namespaces=10000`; else --isolation=seccomp",
                    (_, Some(0)) => "`sysctl kernel.unprivileged_userns_clone=1`; else --isolation=seccomp",
                    _ => "a container's seccomp profile may forbid clone(CLONE_NEWUSER); else --isolation=seccomp",
                };
            if rustix::process::geteuid().is_root() {
                Finding::reduced(what, format!("refused: {error}"), "root goes on without one")
            } else {
                Finding::bad(what, format!("refused: {error}"), advice)
            }
        }
        Err(error) => Finding::reduced(what, format!("cannot be probed: {error}"), "try `casemate run -- true`"),
    }
}

fn read_sysctl(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}

fn mounts() -> Finding {
    let what = "detached mounts";
    match host::mount_support() {
        Ok(true) => Finding::good(what, "open_tree, mount_setattr and own tmpfs work"),
        Ok(false) => Finding::bad(
            what,
            "mounting is refused, even in an own namespace",
            "a container's seccomp profile or AppArmor may forbid mounting; else --isolation=seccomp",
        ),
        Err(error) => Finding::bad(
            what,
            format!("no namespace to try them in: {error}"),
            "a container's seccomp profile may forbid namespaces; else --isolation=seccomp",
        ),
    }
}

fn proc() -> Finding {
    let what = "/proc";
    if let Err(error) = fs::read("/proc/self/mountinfo") {
        return Finding::bad(what, format!("/proc/self/mountinfo: {error}"), "`mount -t proc proc /proc`");
    }
    match fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj") {
        Ok(_) => Finding::good(what, "there, and can be written"),
        Err(error) => Finding::bad(
            what,
            format!("cannot be written: {error}"),
            "user namespaces need it for their id maps; else --isolation=seccomp",
        ),
    }
}

fn seccomp_listener() -> Finding {
    let what = "seccomp listener";
    match host::listener_support() {
        Ok(Listener::WithSyncWakeUp) => Finding::good(what, "with SYNC_WAKE_UP"),
        Ok(Listener::Plain) => {
            Finding::reduced(what, "without SYNC_WAKE_UP", "calls are slower; Linux 6.6 or newer has it")
        }
        Ok(Listener::Taken) => Finding::reduced(
            what,
            "already held by the process that started us (EBUSY)",
            "futexes are used instead: calls are slower",
        ),
        Ok(Listener::Refused(errno)) => Finding::reduced(
            what,
            format!("refused: {}", std::io::Error::from_raw_os_error(errno)),
            "futexes are used instead: calls are slower",
        ),
        Err(error) => Finding::reduced(what, format!("cannot be probed: {error}"), "try `casemate run -- true`"),
    }
}

fn fsgsbase() -> Finding {
    /// `HWCAP2_FSGSBASE` of x86.
    const FSGSBASE: usize = 1 << 1;
    let (_, second) = rustix::param::linux_hwcap();
    if second & FSGSBASE != 0 {
        Finding::good("FSGSBASE", "yes")
    } else {
        Finding::reduced("FSGSBASE", "no", "thread pointers are switched by a system call: slower")
    }
}

fn memory_file() -> Finding {
    let what = "memory file";
    let noexec = read_sysctl("vm/memfd_noexec").unwrap_or(0);
    match rustix::fs::memfd_create("casemate-doctor", rustix::fs::MemfdFlags::CLOEXEC) {
        Ok(_) => Finding::good(what, if noexec == 0 { "memfd unrestricted" } else { "memfd sealed against execution" }),
        Err(error) => Finding::bad(
            what,
            format!("memfd refused: {error} (vm.memfd_noexec={noexec})"),
            "`sysctl vm.memfd_noexec=1` or 0, or a container's profile that allows memfd_create",
        ),
    }
}

fn memory_limit() -> Finding {
    Finding::good("memory", format!("{} MiB by default (80% of host or cgroup)", hostinfo::default_memory() >> 20))
}

fn tasks() -> Finding {
    Finding::good("tasks", format!("{} processes and threads by default", hostinfo::default_pids()))
}

fn limits() -> Finding {
    match hostinfo::require_limits() {
        Ok(()) => Finding::good("resource limits", "leave the sandbox what it needs"),
        Err(error) => Finding::bad("resource limits", error.to_string(), "see ulimit in bash(1), or limits.conf(5)"),
    }
}

fn kvm() -> Finding {
    let what = "KVM";
    match host::with_deadline(std::time::Duration::from_secs(2), || {
        let report = platform_kvm::probe();
        report.to_string()
    }) {
        Ok(Some(text)) => match text.strip_prefix("ok: ") {
            Some(found) => Finding::good(what, format!("{found}; its platform is not there yet")),
            None => Finding::reduced(what, text, "not needed: systrap does not use it"),
        },
        Ok(None) => {
            Finding::reduced(what, "the self-test did not end within 2 s", "not needed: systrap does not use it")
        }
        Err(error) => {
            Finding::reduced(what, format!("cannot be probed: {error}"), "not needed: systrap does not use it")
        }
    }
}
