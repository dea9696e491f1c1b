//! `/proc/sys`: the knobs that programs read.
//!
//! A knob that only reports is a row of [`KNOBS`]. Those that take writes are nodes of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use fs::Context;
use fs::kernfs::{Content, Owned, StaticDir, Tree};
use fs::vfs::Inode;

use super::{Proc, ROOT_INO};
use crate::ipc::mqueue::Knob;
use crate::ipc::{Family, SEMMNI, SEMMNS, SEMMSL, SEMOPM, TableKnob};
use crate::kernel::Kernel;

type Render = fn(&Kernel) -> String;

/// Directory, name, value.
const KNOBS: &[(&str, &str, Render)] = &[
    ("fs", "epoll/max_user_watches", |_| crate::event::epoll::MAX_ITEMS.to_string()),
    ("fs", "file-max", |_| "9223372036854775807".into()),
    ("fs", "file-nr", |_| "0\t0\t9223372036854775807".into()),
    ("fs", "aio-max-nr", |_| "65536".into()),
    ("fs", "aio-nr", |_| "0".into()),
    ("fs", "dentry-state", |_| "0\t0\t45\t0\t0\t0".into()),
    ("fs", "dir-notify-enable", |_| "1".into()),
    ("fs", "inode-nr", |_| "0\t0".into()),
    ("fs", "inode-state", |_| "0\t0\t0\t0\t0\t0\t0".into()),
    ("fs", "lease-break-time", |_| "45".into()),
    ("fs", "leases-enable", |_| "1".into()),
    ("fs", "mount-max", |_| "100000".into()),
    ("fs", "overflowgid", |_| "65534".into()),
    ("fs", "overflowuid", |_| "65534".into()),
    ("fs", "pipe-user-pages-hard", |_| "0".into()),
    ("fs", "pipe-user-pages-soft", |_| "0".into()),
    ("fs", "protected_fifos", |_| "0".into()),
    ("fs", "protected_regular", |_| "0".into()),
    ("fs", "suid_dumpable", |_| "0".into()),
    ("fs", "inotify/max_queued_events", |_| fs::anon::MAX_INOTIFY_EVENTS.to_string()),
    ("fs", "inotify/max_user_instances", |_| fs::anon::MAX_INOTIFY_INSTANCES.to_string()),
    ("fs", "inotify/max_user_watches", |_| fs::vfs::MAX_WATCHES.to_string()),
    ("fs", "nr_open", |_| "1048576".into()),
    ("fs", "pipe-max-size", |_| "1048576".into()),
    ("fs", "protected_hardlinks", |_| "0".into()),
    ("fs", "protected_symlinks", |_| "0".into()),
    ("kernel", "cap_last_cap", |_| auth::Caps::LAST.to_string()),
    ("kernel", "core_pattern", |_| "core".into()),
    ("kernel", "arch", |_| "x86_64".into()),
    ("kernel", "auto_msgmni", |_| "0".into()),
    ("kernel", "core_pipe_limit", |_| "0".into()),
    ("kernel", "core_uses_pid", |_| "0".into()),
    ("kernel", "ctrl-alt-del", |_| "0".into()),
    ("kernel", "dmesg_restrict", |_| "1".into()),
    ("kernel", "io_uring_disabled", |_| "2".into()),
    ("kernel", "kptr_restrict", |_| "1".into()),
    ("kernel", "modules_disabled", |_| "1".into()),
    ("kernel", "numa_balancing", |_| "0".into()),
    ("kernel", "panic", |_| "0".into()),
    ("kernel", "panic_on_oops", |_| "0".into()),
    ("kernel", "perf_event_paranoid", |_| "3".into()),
    ("kernel", "printk", |_| "4\t4\t1\t7".into()),
    ("kernel", "sched_rr_timeslice_ms", |_| "100".into()),
    ("kernel", "sched_rt_period_us", |_| "1000000".into()),
    ("kernel", "sched_rt_runtime_us", |_| "950000".into()),
    ("kernel", "sysrq", |_| "0".into()),
    ("kernel", "tainted", |_| "0".into()),
    ("kernel", "unprivileged_bpf_disabled", |_| "2".into()),
    ("kernel", "watchdog", |_| "0".into()),
    ("kernel", "domainname", |kernel| kernel.uts().domainname),
    ("kernel", "msgmax", |_| crate::ipc::MSGMAX.to_string()),
    ("kernel", "msgmnb", |_| crate::ipc::MSGMNB.to_string()),
    ("kernel", "ngroups_max", |_| "65536".into()),
    ("kernel", "ns_last_pid", |kernel| kernel.tasks().last_pid().0.to_string()),
    ("kernel", "osrelease", |kernel| kernel.uts().release),
    ("kernel", "ostype", |kernel| kernel.uts().sysname),
    ("kernel", "overflowgid", |_| "65534".into()),
    ("kernel", "overflowuid", |_| "65534".into()),
    ("kernel", "pid_max", |_| crate::ids::PID_MAX.to_string()),
    ("kernel", "pty/max", |_| crate::tty::MAX_PTYS.to_string()),
    ("kernel", "pty/nr", |kernel| kernel.tty_knobs().pairs().to_string()),
    ("kernel", "pty/reserve", |_| "0".into()),
    ("kernel", "randomize_va_space", |_| "2".into()),
    ("kernel", "sem", |_| format!("{SEMMSL}\t{SEMMNS}\t{SEMOPM}\t{SEMMNI}")),
    ("kernel", "shmall", |_| crate::ipc::SHMMAX.to_string()),
    ("kernel", "shmmax", |_| crate::ipc::SHMMAX.to_string()),
    // Nothing taints this kernel: it loads no modules, and what would be an oops ends it.
    ("kernel", "tainted", |_| "0".into()),
    ("kernel", "threads-max", |kernel| kernel.pids_limit().to_string()),
    ("kernel", "version", |kernel| kernel.uts().version),
    ("kernel", "yama/ptrace_scope", |_| "1".into()),
    ("kernel", "random/boot_id", |kernel| kernel.boot_id().to_owned()),
    ("kernel", "random/entropy_avail", |_| "256".into()),
    ("kernel", "random/uuid", uuid),
    ("kernel", "random/poolsize", |_| "256".into()),
    ("net", "core/somaxconn", |_| "4096".into()),
    // Namespaces of their own guests cannot have.
    ("user", "max_cgroup_namespaces", |_| "0".into()),
    ("user", "max_ipc_namespaces", |_| "0".into()),
    ("user", "max_mnt_namespaces", |_| "0".into()),
    ("user", "max_net_namespaces", |_| "0".into()),
    ("user", "max_pid_namespaces", |_| "0".into()),
    ("user", "max_time_namespaces", |_| "0".into()),
    ("user", "max_user_namespaces", |_| "0".into()),
    ("user", "max_uts_namespaces", |_| "0".into()),
    ("vm", "max_map_count", |_| "65530".into()),
    ("vm", "mmap_min_addr", |_| "65536".into()),
    ("vm", "overcommit_memory", |_| "0".into()),
    ("vm", "overcommit_ratio", |_| "50".into()),
    ("vm", "admin_reserve_kbytes", |_| "8192".into()),
    ("vm", "dirty_background_bytes", |_| "0".into()),
    ("vm", "dirty_background_ratio", |_| "10".into()),
    ("vm", "dirty_bytes", |_| "0".into()),
    ("vm", "dirty_expire_centisecs", |_| "3000".into()),
    ("vm", "dirty_ratio", |_| "20".into()),
    ("vm", "dirty_writeback_centisecs", |_| "500".into()),
    ("vm", "laptop_mode", |_| "0".into()),
    ("vm", "legacy_va_layout", |_| "0".into()),
    ("vm", "nr_hugepages", |_| "0".into()),
    ("vm", "nr_overcommit_hugepages", |_| "0".into()),
    ("vm", "oom_dump_tasks", |_| "0".into()),
    ("vm", "oom_kill_allocating_task", |_| "0".into()),
    ("vm", "overcommit_kbytes", |_| "0".into()),
    ("vm", "page-cluster", |_| "3".into()),
    ("vm", "panic_on_oom", |_| "0".into()),
    ("vm", "stat_interval", |_| "1".into()),
    ("vm", "user_reserve_kbytes", |_| "131072".into()),
    ("vm", "vfs_cache_pressure", |_| "100".into()),
    ("vm", "zone_reclaim_mode", |_| "0".into()),
    ("vm", "swappiness", |_| "60".into()),
];

/// A fresh random UUID, of version 4.
fn uuid(kernel: &Kernel) -> String {
    let mut bytes = [0; 16];
    kernel.fill_random(&mut bytes);
    let number = (u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62)) | (4 << 76) | (2 << 62);
    let hex = format!("{number:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

/// `/proc/sys`.
pub(super) fn directory(proc: &Proc) -> Inode {
    let ino = Tree::ino(ROOT_INO, b"sys");
    let mut top = StaticDir::new();
    let dev = Tree::ino(ino, b"dev");
    let tty = Tree::ino(dev, b"tty");
    let knob = proc.tree.file(Tree::ino(tty, b"legacy_tiocsti"), 0o644, LegacyTiocsti { proc: proc.clone() });
    let knobs = proc.tree.dir(tty, 0o555, StaticDir::new().with("legacy_tiocsti", knob));
    top = top.with("dev", proc.tree.dir(dev, 0o555, StaticDir::new().with("tty", knobs)));
    for name in ["fs", "kernel", "net", "user", "vm"] {
        let folder = Folder { proc, ino: Tree::ino(ino, name.as_bytes()) };
        let rows: Vec<(&str, Render)> =
            KNOBS.iter().filter(|(dir, _, _)| *dir == name).map(|&(_, path, value)| (path, value)).collect();
        let mut dir = folder.fill(&rows);
        match name {
            "kernel" => {
                dir = dir.with("hostname", hostname(proc, folder.ino));
                for (name, family, knob) in TableKnob::ALL {
                    let content = IpcKnob { proc: proc.clone(), family, knob };
                    dir = dir.with(name, proc.tree.file(Tree::ino(folder.ino, name.as_bytes()), 0o644, content));
                }
            }
            "fs" => dir = dir.with("mqueue", mqueue(proc, folder.ino)),
            "vm" => dir = dir.with("drop_caches", drop_caches(proc, folder.ino)),
            _ => {}
        }
        top = top.with(name, proc.tree.dir(folder.ino, 0o555, dir));
    }
    proc.tree.dir(ino, 0o555, top)
}

/// A directory of knobs in the making.
struct Folder<'a> {
    proc: &'a Proc,
    ino: u64,
}

impl Folder<'_> {
    /// The knobs of `rows`; a path with a slash goes one directory down.
    fn fill(&self, rows: &[(&str, Render)]) -> StaticDir {
        let mut dir = StaticDir::new();
        let mut below: Vec<&str> = Vec::new();
        for &(path, value) in rows {
            match path.split_once('/') {
                None => {
                    let text = move |kernel: &Kernel, _: &Context<'_>| Ok((value(kernel) + "\n").into_bytes());
                    dir = dir.with(path, self.proc.text(self.ino, path, 0o444, text));
                }
                Some((name, _)) if !below.contains(&name) => {
                    below.push(name);
                    let deeper = Folder { proc: self.proc, ino: Tree::ino(self.ino, name.as_bytes()) };
                    let rows: Vec<(&str, Render)> = rows
                        .iter()
                        .filter_map(|&(path, value)| {
                            path.strip_prefix(name)?.strip_prefix('/').map(|rest| (rest, value))
                        })
                        .collect();
                    let contents = deeper.fill(&rows);
                    dir = dir.with(name, self.proc.tree.dir(deeper.ino, 0o555, contents));
                }
                Some(_) => {}
            }
        }
        dir
    }
}

/// `/proc/sys/dev/tty/legacy_tiocsti`: whether everybody may push input into their terminal.
struct LegacyTiocsti {
    proc: Proc,
}

impl Owned for LegacyTiocsti {}

impl Content for LegacyTiocsti {
    fn render(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        Ok(format!("{}\n", u8::from(self.proc.kernel()?.tty_knobs().legacy_tiocsti())).into_bytes())
    }

    fn write(&self, ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
        if !ctx.creds.has(auth::Caps::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let on = match bytes.trim_ascii() {
            b"0" => false,
            b"1" => true,
            _ => return Err(Errno::EINVAL),
        };
        self.proc.kernel()?.tty_knobs().set_legacy_tiocsti(on);
        Ok(())
    }
}

fn hostname(proc: &Proc, parent: u64) -> Inode {
    proc.tree.file(Tree::ino(parent, b"hostname"), 0o644, Hostname { proc: proc.clone() })
}

struct Hostname {
    proc: Proc,
}

impl Owned for Hostname {}

impl Content for Hostname {
    fn render(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        let kernel: Arc<Kernel> = self.proc.kernel()?;
        Ok((kernel.uts().nodename + "\n").into_bytes())
    }

    fn write(&self, ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
        if !ctx.creds.has(auth::Caps::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let name = bytes.split(|&b| b == b'\n' || b == 0).next().unwrap_or_default();
        self.proc.kernel()?.set_hostname(name)
    }
}

/// `/proc/sys/fs/mqueue`.
fn mqueue(proc: &Proc, parent: u64) -> Inode {
    let ino = Tree::ino(parent, b"mqueue");
    let dir = Knob::ALL.into_iter().fold(StaticDir::new(), |dir, (name, knob)| {
        let content = MqueueKnob { proc: proc.clone(), knob };
        dir.with(name, proc.tree.file(Tree::ino(ino, name.as_bytes()), 0o644, content))
    });
    proc.tree.dir(ino, 0o555, dir)
}

struct MqueueKnob {
    proc: Proc,
    knob: Knob,
}

impl Owned for MqueueKnob {}

impl Content for MqueueKnob {
    fn render(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        Ok(format!("{}\n", self.proc.kernel()?.ipc().mqueues().knob(self.knob)).into_bytes())
    }

    fn write(&self, _ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(bytes.trim_ascii()).map_err(|_| Errno::EINVAL)?;
        let value = text.parse().map_err(|_| Errno::EINVAL)?;
        self.proc.kernel()?.ipc().mqueues().set_knob(self.knob, value)
    }
}

/// A setting of a table of System V IPC objects.
struct IpcKnob {
    proc: Proc,
    family: Family,
    knob: TableKnob,
}

impl Owned for IpcKnob {}

impl Content for IpcKnob {
    fn render(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        Ok(format!("{}\n", self.proc.kernel()?.ipc().knob(self.family, self.knob)).into_bytes())
    }

    fn write(&self, _ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(bytes.trim_ascii()).map_err(|_| Errno::EINVAL)?;
        let value = text.parse().map_err(|_| Errno::EINVAL)?;
        self.proc.kernel()?.ipc().set_knob(self.family, self.knob, value)
    }
}

fn drop_caches(proc: &Proc, parent: u64) -> Inode {
    let dropped = AtomicU32::new(0);
    proc.tree.file(Tree::ino(parent, b"drop_caches"), 0o200, DropCaches { proc: proc.clone(), dropped })
}

/// `/proc/sys/vm/drop_caches`: names that nobody uses are forgotten (2), what caches hold of files goes with them (1); of
/// 3, both, and 4, to be quiet about it.
struct DropCaches {
    proc: Proc,
    /// What was written last. Relaxed: it guards nothing.
    dropped: AtomicU32,
}

impl Owned for DropCaches {}

impl Content for DropCaches {
    fn render(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        Ok(format!("{}\n", self.dropped.load(Ordering::Relaxed)).into_bytes())
    }

    fn write(&self, _ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(bytes.trim_ascii()).map_err(|_| Errno::EINVAL)?;
        let what: u32 = text.parse().ok().filter(|what| (1..=4).contains(what)).ok_or(Errno::EINVAL)?;
        self.dropped.store(what, Ordering::Relaxed);
        let kernel: Arc<Kernel> = self.proc.kernel()?;
        if what & 2 != 0 {
            fs::vfs::drop_dentry_cache();
        }
        kernel.memory().trim();
        kernel.heap().trim();
        Ok(())
    }
}
