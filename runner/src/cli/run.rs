//! `casemate run`: a program in a new sandbox.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use platform_systrap::Handover;

use crate::config::{GuestTerminal, Isolation, LogSink, MIN_MEMORY, Patching, RunConfig, Volume, VolumeAccess};
use crate::door::Name;
use crate::failure::{Doing, Failure, Outcome};

/// Run a program inside a new sandbox.
///
/// Without --rootfs the program sees the host's files, read-only below a layer in memory: what it writes is gone when
/// it ends, unless a --volume says so. It keeps the caller's directory, user, limits and environment. With --rootfs it
/// runs as root in `/` with PATH, HOME and TERM alone.
///
/// The exit status is the program's; 128+N if signal N killed it; 125 if Casemate failed, 126 if CMD cannot be
/// executed, 127 if it does not exist.
#[derive(Args)]
pub(super) struct RunArgs {
    /// What `casemate pause` and `casemate resume` call the sandbox [default: the number of this process]
    #[arg(long, value_name = "NAME", value_parser = Name::parse_chosen)]
    name: Option<Name>,
    /// Directory on the host that becomes the guest's `/` (never written to)
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Working directory in the guest
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Set a variable, or pass the caller's on when no value is given (repeatable)
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Start from an empty environment
    #[arg(long)]
    clear_env: bool,
    /// With --tty, type what comes on standard input at the guest's terminal; without, standard input is passed on anyway
    #[arg(long, short = 'i')]
    interactive: bool,
    /// Give the guest a terminal of its own, which shows on standard output
    #[arg(long, short = 't')]
    tty: bool,
    /// User and group inside the guest, names or numbers
    #[arg(long, short = 'u', value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Show a host directory or file in the guest; writes reach the host unless `:ro` (repeatable)
    #[arg(long, short = 'v', value_name = "HOST:GUEST[:ro]")]
    volume: Vec<OsString>,
    /// Make a path look empty (repeatable)
    #[arg(long, value_name = "PATH")]
    hide: Vec<PathBuf>,
    /// Host name of the guest
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Memory for programs, files in memory and /tmp together (K, M, G, T) [default: 80% of the host's or cgroup's]
    #[arg(long, short = 'm', value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Largest number of processes and threads [default: 16384, fewer on a host with few process numbers or little memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=4_000_000))]
    pids: Option<u32>,
    /// Log every system call, to standard error or to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    strace: Option<Option<PathBuf>>,
    /// Log what Casemate does, to standard error or to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    debug: Option<Option<PathBuf>>,
    /// What runs guest code
    #[arg(long, value_enum, default_value_t = PlatformArg::Auto)]
    platform: PlatformArg,
    /// Whether threads may wait for each other actively while a CPU is free: for tests and measurements
    #[arg(long, value_enum, default_value_t = SpinArg::Auto, hide = true)]
    spin: SpinArg,
    /// How guest threads hand over to the kernel: for tests of what other hosts have
    #[arg(long, value_enum, default_value_t = HandoverArg::Auto, hide = true)]
    handover: HandoverArg,
    /// Leave the code of programs as it is, so that each system call traps: slower
    #[arg(long)]
    no_patch: bool,
    /// What keeps the sandbox apart from the host
    #[arg(long, value_enum, default_value_t = IsolationArg::Namespaces)]
    isolation: IsolationArg,
    /// Program and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum PlatformArg {
    /// The best that works here: systrap
    Auto,
    /// Stub processes under seccomp; needs no hardware support
    Systrap,
}

#[derive(Clone, Copy, ValueEnum)]
enum SpinArg {
    /// While a CPU is free
    Auto,
    /// Never
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
enum HandoverArg {
    /// The fastest that the host has
    Auto,
    /// As on Linux before 6.6: notifications that wake on any CPU
    Unsynced,
    /// As on hosts that refuse a seccomp listener
    Futex,
}

#[derive(Clone, Copy, ValueEnum)]
enum IsolationArg {
    /// Own namespaces, empty root, seccomp filter
    Namespaces,
    /// The seccomp filter alone, where user namespaces are forbidden
    Seccomp,
}

impl RunArgs {
    pub(super) fn execute(self) -> Outcome<u8> {
        crate::hostinfo::require_supported_kernel()?;
        crate::hostinfo::require_limits()?;
        let config = self.into_config()?;
        crate::launcher::run(config)
    }

    fn into_config(self) -> Outcome<RunConfig> {
        match self.platform {
            // One platform so far, so both mean the same.
            PlatformArg::Auto | PlatformArg::Systrap => {}
        }
        let memory = match self.memory {
            Some(bytes) if bytes < MIN_MEMORY => {
                return Err(Failure::ours(format!("--memory: at least {}M are needed", MIN_MEMORY >> 20)));
            }
            Some(bytes) => bytes,
            None => crate::hostinfo::default_memory(),
        };
        if let Some(name) = &self.hostname
            && (name.is_empty() || name.len() > 64)
        {
            return Err(Failure::ours("--hostname: 1 to 64 characters are allowed"));
        }
        for path in self.cwd.iter().chain(&self.hide) {
            if !path.is_absolute() {
                return Err(Failure::ours(format!("{}: the path must be absolute", path.display())));
            }
        }
        let rootfs = match self.rootfs {
            None => None,
            Some(dir) => Some(readable_directory(&dir)?),
        };
        Ok(RunConfig {
            name: self.name,
            command: self.command,
            rootfs,
            cwd: self.cwd,
            env: self.env,
            clear_env: self.clear_env,
            user: self.user,
            volumes: self.volume.iter().map(|text| parse_volume(text.as_bytes())).collect::<Outcome<_>>()?,
            hidden: self.hide,
            hostname: self.hostname,
            memory,
            pids: self.pids.unwrap_or_else(crate::hostinfo::default_pids),
            strace: sink(self.strace)?,
            debug: sink(self.debug)?,
            cpus: match self.spin {
                SpinArg::Auto => crate::hostinfo::cpu_quota(),
                SpinArg::Off => 1,
            },
            handover: match self.handover {
                HandoverArg::Auto => Handover::Auto,
                HandoverArg::Unsynced => Handover::NotifyUnsynced,
                HandoverArg::Futex => Handover::Futex,
            },
            patching: if self.no_patch { Patching::Off } else { Patching::On },
            isolation: match self.isolation {
                IsolationArg::Namespaces => Isolation::Namespaces,
                IsolationArg::Seccomp => Isolation::SeccompOnly,
            },
            terminal: match (self.tty, self.interactive) {
                (false, _) => GuestTerminal::Callers,
                (true, false) => GuestTerminal::Own,
                (true, true) => GuestTerminal::OwnTyped,
            },
        })
    }
}

/// `None`: not asked for; `Some(None)`: standard error; `Some(Some(file))`: that file.
fn sink(argument: Option<Option<PathBuf>>) -> Outcome<LogSink> {
    Ok(match argument {
        None => LogSink::Off,
        Some(None) => LogSink::Stderr,
        Some(Some(path)) => LogSink::File(std::path::absolute(&path).doing(path.display())?),
    })
}

/// The absolute path of `dir`, which must be a directory whose entries can be listed.
fn readable_directory(dir: &Path) -> Outcome<PathBuf> {
    let absolute = dir.canonicalize().doing(format_args!("--rootfs {}", dir.display()))?;
    std::fs::read_dir(&absolute).doing(format_args!("--rootfs {}", dir.display()))?;
    Ok(absolute)
}

fn parse_volume(text: &[u8]) -> Outcome<Volume> {
    let shown = String::from_utf8_lossy(text).into_owned();
    let bad = |why: &str| Failure::ours(format!("--volume {shown}: {why}"));
    let mut parts = text.split(|&byte| byte == b':');
    let (Some(host), Some(guest)) = (parts.next(), parts.next()) else {
        return Err(bad("expected HOST:GUEST or HOST:GUEST:ro"));
    };
    let access = match parts.next() {
        None | Some(b"rw") => VolumeAccess::ReadWrite,
        Some(b"ro") => VolumeAccess::ReadOnly,
        Some(_) => return Err(bad("the third part must be `ro` or `rw`")),
    };
    if parts.next().is_some() {
        return Err(bad("expected HOST:GUEST or HOST:GUEST:ro"));
    }
    let guest = Path::new(std::ffi::OsStr::from_bytes(guest));
    if !guest.is_absolute() || guest == Path::new("/") {
        return Err(bad("GUEST must be an absolute path other than /"));
    }
    let host = Path::new(std::ffi::OsStr::from_bytes(host));
    let host = host.canonicalize().map_err(|error| bad(&error.to_string()))?;
    Ok(Volume { host, guest: guest.to_owned(), access })
}

/// Bytes with an optional binary suffix: `512M`, `2G`, `1048576`.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or("").to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("expected a number with K, M, G or T".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a number with K, M, G or T".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{parse_size, parse_volume};
    use crate::config::VolumeAccess;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64k"), Ok(65_536));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        assert_eq!(parse_size("3MiB"), Ok(3 << 20));
        assert!(parse_size("").is_err());
        assert!(parse_size("G").is_err());
        assert!(parse_size("12x").is_err());
        assert!(parse_size("99999999999T").is_err());
    }

    #[test]
    fn volumes() {
        let volume = parse_volume(b"/usr:/mnt/usr:ro").expect("valid");
        assert_eq!(volume.access, VolumeAccess::ReadOnly);
        assert_eq!(volume.guest.to_str(), Some("/mnt/usr"));
        assert!(parse_volume(b"/usr").is_err());
        assert!(parse_volume(b"/usr:relative").is_err());
        assert!(parse_volume(b"/usr:/").is_err());
        assert!(parse_volume(b"/usr:/a:xx").is_err());
        assert!(parse_volume(b"/usr:/a:ro:b").is_err());
        assert!(parse_volume(b"/does/not/exist:/a").is_err());
    }
}
