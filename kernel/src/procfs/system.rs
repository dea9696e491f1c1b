//! Files of `/proc` that tell of the whole system.

use std::fmt::Write as _;

use abi::Errno;
use fs::Context;
use fs::kernfs::{StaticDir, Tree};

use super::{Proc, ROOT_INO};
use crate::kernel::Kernel;
use crate::task::{Activity, CpuTimes};

/// Ticks per second in `/proc` (`USER_HZ`).
pub(super) const USER_HZ: u64 = 100;

type Render = fn(&Kernel, &Context<'_>) -> Result<Vec<u8>, Errno>;

/// Every file with its text.
const FILES: &[(&str, Render)] = &[
    ("cmdline", |_, _| Ok(b"casemate\n".to_vec())),
    ("consoles", |_, _| Ok(Vec::new())),
    ("cpuinfo", |kernel, _| Ok(kernel.machine().cpuinfo.clone())),
    ("devices", |_, _| Ok(DEVICES.as_bytes().to_vec())),
    ("diskstats", |_, _| Ok(Vec::new())),
    ("filesystems", |_, _| Ok(FILESYSTEMS.as_bytes().to_vec())),
    ("loadavg", loadavg),
    ("locks", super::locks::locks),
    ("meminfo", meminfo),
    ("modules", |_, _| Ok(Vec::new())),
    ("partitions", |_, _| Ok(Vec::new())),
    ("stat", stat),
    ("swaps", |_, _| Ok(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec())),
    ("uptime", uptime),
    ("version", version),
    ("vmstat", vmstat),
];

const DEVICES: &str =
    "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n128 ptm\n136 pts\n\nBlock devices:\n";
const FILESYSTEMS: &str =
    "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\toverlay\nnodev\tdevpts\nnodev\tmqueue\n";

/// `/proc/tty/drivers`, which ps(1) reads to name terminals.
const DRIVERS: &str = "\
/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
";

/// Pressure stall information: nothing is measured, nobody is seen to wait.
const NO_PRESSURE: &str =
    "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";

/// `pressure`.
fn pressure(proc: &Proc) -> StaticDir {
    let ino = Tree::ino(ROOT_INO, b"pressure");
    let file = |name: &str| proc.text(ino, name, 0o444, |_, _| Ok(NO_PRESSURE.as_bytes().to_vec()));
    ["cpu", "io", "memory"].iter().fold(StaticDir::new(), |dir, name| dir.with(name, file(name)))
}

/// `tty`.
fn tty(proc: &Proc) -> StaticDir {
    let ino = Tree::ino(ROOT_INO, b"tty");
    StaticDir::new()
        .with("drivers", proc.text(ino, "drivers", 0o444, |_, _| Ok(DRIVERS.as_bytes().to_vec())))
        .with("ldiscs", proc.text(ino, "ldiscs", 0o444, |_, _| Ok(b"n_tty       0\n".to_vec())))
}

/// The directory's fixed entries.
pub(super) fn entries(proc: &Proc) -> StaticDir {
    let text = |(name, render): &(&str, Render)| proc.text(ROOT_INO, name, 0o444, *render);
    let files = FILES.iter().fold(StaticDir::new(), |dir, row| dir.with(row.0, text(row)));
    files
        .with("pressure", proc.tree.dir(Tree::ino(ROOT_INO, b"pressure"), 0o555, pressure(proc)))
        .with("tty", proc.tree.dir(Tree::ino(ROOT_INO, b"tty"), 0o555, tty(proc)))
}

/// Nanoseconds as ticks of [`USER_HZ`].
pub(super) const fn ticks(ns: u64) -> u64 {
    ns / (1_000_000_000 / USER_HZ)
}

fn running(kernel: &Kernel) -> usize {
    let groups = kernel.tasks().groups();
    groups.iter().flat_map(|group| group.threads()).filter(|t| t.activity() == Activity::Running).count()
}

/// Load averages are not kept: a sandbox has no scheduler of its own.
fn loadavg(kernel: &Kernel, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let (threads, _) = kernel.tasks().counts();
    let last = kernel.tasks().last_pid();
    let [one, five, fifteen] = kernel.load_averages().map(|load| {
        let hundredths = load.saturating_mul(100) / 65_536;
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    });
    Ok(format!("{one} {five} {fifteen} {}/{threads} {}\n", running(kernel).max(1), last.0).into_bytes())
}

fn meminfo(kernel: &Kernel, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let memory = kernel.memory_info();
    let (total, free) = (memory.total / 1024, memory.free / 1024);
    let used = total.saturating_sub(free);
    // Rows of Linux 6.12 in its order. All that is used is taken for anonymous: nothing of it can be written back.
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("Active(anon)", used),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Zswap", 0),
        ("Zswapped", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("SecPageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", total),
        ("Committed_AS", used),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
        ("HardwareCorrupted", 0),
        ("AnonHugePages", 0),
        ("ShmemHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FileHugePages", 0),
        ("FilePmdMapped", 0),
    ];
    /// Pages of other sizes: counted, not measured.
    const HUGE: &str = "HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\n\
                        HugePages_Surp:        0\nHugepagesize:       2048 kB\nHugetlb:               0 kB\n";
    let mut text = String::new();
    for (name, kib) in rows {
        let _ = writeln!(text, "{:<16}{kib:>8} kB", format!("{name}:"));
    }
    text.push_str(HUGE);
    Ok(text.into_bytes())
}

fn stat(kernel: &Kernel, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let CpuTimes { user_ns: user, system_ns: system } = kernel.cpu_times();
    let cpus = kernel.machine().cpus.max(1);
    let cpus_u64 = u64::try_from(cpus).unwrap_or(1);
    let up = kernel.uptime_ns();
    let idle = up.saturating_mul(cpus_u64).saturating_sub(user).saturating_sub(system);
    let row = |share: u64| {
        format!("{} 0 {} {} 0 0 0 0 0 0\n", ticks(user) / share, ticks(system) / share, ticks(idle) / share)
    };
    let mut text = format!("cpu  {}", row(1));
    for cpu in 0..cpus {
        let _ = write!(text, "cpu{cpu} {}", row(cpus_u64));
    }
    let (threads, _) = kernel.tasks().counts();
    let _ = write!(
        text,
        "intr 0\nctxt 0\nbtime {}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        kernel.boot_time_secs(),
        kernel.tasks().last_pid().0.max(u32::try_from(threads).unwrap_or(0)),
        running(kernel).max(1),
    );
    Ok(text.into_bytes())
}

fn uptime(kernel: &Kernel, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let up = kernel.uptime_ns();
    let (secs, hundredths) = (up / 1_000_000_000, up / 10_000_000 % 100);
    let idle = secs.saturating_mul(u64::try_from(kernel.machine().cpus).unwrap_or(1));
    Ok(format!("{secs}.{hundredths:02} {idle}.00\n").into_bytes())
}

fn version(kernel: &Kernel, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let uts = kernel.uts();
    let (release, version) = (uts.release, uts.version);
    Ok(format!("Linux version {release} (casemate@casemate) (rustc) {version}\n").into_bytes())
}

fn vmstat(kernel: &Kernel, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let memory = kernel.memory_info();
    let pages = |bytes: u64| bytes / usermem::PAGE_SIZE;
    let used = memory.total.saturating_sub(memory.free);
    Ok(format!(
        "nr_free_pages {}\nnr_anon_pages {}\nnr_mapped 0\npgfault 0\npgmajfault 0\n",
        pages(memory.free),
        pages(used)
    )
    .into_bytes())
}
