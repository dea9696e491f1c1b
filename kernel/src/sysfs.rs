//! `/sys`, sysfs(5): what programs read to find CPUs and memory nodes.

use std::sync::Arc;

use fs::Context;
use fs::kernfs::{StaticDir, Tree};
use fs::vfs::{Filesystem, Inode};

use crate::kernel::Kernel;

/// A list of CPUs from 0 on, as the kernel writes them: `0` or `0-3`.
pub(crate) fn cpu_list(cpus: usize) -> String {
    if cpus <= 1 { "0".to_owned() } else { format!("0-{}", cpus - 1) }
}

/// A set of CPUs as the kernel writes masks: hexadecimal, as many digits as `cpus` CPUs need, a comma every 32 bits.
fn cpu_mask(set: core::ops::Range<usize>, cpus: usize) -> String {
    let word = |index: usize| {
        let bits = (0..32).filter(|bit| set.contains(&index.saturating_mul(32).saturating_add(*bit as usize)));
        bits.fold(0_u32, |word, bit: u32| word | 1 << bit)
    };
    let last = cpus.saturating_sub(1) / 32;
    let digits = (cpus.saturating_sub(last.saturating_mul(32))).div_ceil(4);
    let mut text = format!("{:0digits$x}", word(last));
    for index in (0..last).rev() {
        text.push_str(&format!(",{:08x}", word(index)));
    }
    text
}

/// What is said of the set of nodes, which is always the first.
const NODE_SETS: &[&str] = &["has_cpu", "has_memory", "has_normal_memory", "online", "possible"];

/// A directory in the making.
struct Folder {
    tree: Tree,
    ino: u64,
    contents: StaticDir,
}

impl Folder {
    fn new(tree: Tree, ino: u64) -> Self {
        Self { tree, ino, contents: StaticDir::new() }
    }

    fn text(self, name: &str, text: String) -> Self {
        let ino = Tree::ino(self.ino, name.as_bytes());
        let render = move |_: &Context<'_>| Ok(format!("{text}\n").into_bytes());
        let inode = self.tree.file(ino, 0o444, render);
        Self { contents: self.contents.with(name, inode), ..self }
    }

    fn folder(self, name: &str, fill: impl FnOnce(Self) -> Self) -> Self {
        let inner = fill(Self::new(self.tree, Tree::ino(self.ino, name.as_bytes())));
        let inode = inner.inode();
        Self { contents: self.contents.with(name, inode), ..self }
    }

    fn inode(self) -> Inode {
        self.tree.dir(self.ino, 0o555, self.contents)
    }
}

/// Makes the file system for `kernel`.
pub fn filesystem(kernel: &Kernel) -> Arc<dyn Filesystem> {
    let cpus = kernel.machine().cpus.max(1);
    let memory_kib = kernel.memory_info().total / 1024;
    let tree = Tree::new();
    let root = Folder::new(tree, 1)
        .folder("block", |dir| dir)
        .folder("bus", |dir| dir)
        .folder("class", |dir| dir.folder("net", |net| net).folder("tty", |tty| tty))
        .folder("dev", |dir| dir.folder("block", |block| block).folder("char", |char| char))
        .folder("devices", |dir| {
            dir.folder("system", |system| {
                system.folder("cpu", |dir| cpu_folder(dir, cpus)).folder("node", |dir| {
                    let dir = NODE_SETS.iter().fold(dir, |dir, name| dir.text(name, "0".into()));
                    dir.folder("node0", |node| {
                        node.text("cpulist", cpu_list(cpus))
                            .text("cpumap", cpu_mask(0..cpus, cpus))
                            .text("distance", "10".into())
                            .text("meminfo", node_memory(memory_kib))
                    })
                })
            })
        })
        .folder("firmware", |dir| dir)
        .folder("fs", |dir| dir.folder("cgroup", |cgroup| cgroup))
        .folder("kernel", |dir| {
            dir.folder("mm", |mm| {
                mm.folder("transparent_hugepage", |thp| {
                    thp.text("enabled", "always [madvise] never".into()).text("hpage_pmd_size", (2 << 20).to_string())
                })
                .folder("hugepages", |pages| pages)
            })
        })
        .folder("module", |dir| dir)
        .inode();
    tree.filesystem("sysfs", abi::stat::SYSFS_MAGIC, root)
}

/// What `/sys/devices/system/node/node0/meminfo` says, of which libnuma wants the first two lines.
fn node_memory(total_kib: u64) -> String {
    let lines = [("MemTotal:", total_kib), ("MemFree:", total_kib), ("MemUsed:", 0)];
    lines.map(|(name, kib)| format!("Node 0 {name:<15}{kib:>8} kB")).join("\n")
}

fn cpu_folder(dir: Folder, cpus: usize) -> Folder {
    let all = cpu_list(cpus);
    let dir = ["online", "possible", "present"].into_iter().fold(dir, |dir, name| dir.text(name, all.clone()));
    let dir = dir.text("offline", String::new()).text("isolated", String::new()).text("kernel_max", "8191".into());
    (0..cpus).fold(dir, |dir, cpu| {
        dir.folder(&format!("cpu{cpu}"), |one| {
            one.text("online", "1".into()).folder("topology", |topology| {
                let own = ["thread_siblings", "core_cpus"];
                let package = ["core_siblings", "package_cpus"];
                let topology = own.into_iter().fold(topology, |topology, name| {
                    topology
                        .text(name, cpu_mask(cpu..cpu.saturating_add(1), cpus))
                        .text(&format!("{name}_list"), cpu.to_string())
                });
                let topology = package.into_iter().fold(topology, |topology, name| {
                    topology.text(name, cpu_mask(0..cpus, cpus)).text(&format!("{name}_list"), all.clone())
                });
                topology.text("core_id", cpu.to_string()).text("physical_package_id", "0".into())
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::cpu_mask;

    #[test]
    fn masks_are_written_as_the_kernel_does() {
        assert_eq!(cpu_mask(0..2, 2), "3");
        assert_eq!(cpu_mask(1..2, 8), "02");
        assert_eq!(cpu_mask(0..32, 32), "ffffffff");
        assert_eq!(cpu_mask(31..33, 34), "1,80000000");
    }
}
