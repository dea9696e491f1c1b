//! Paths: any bytes, walked in a small tree.

use std::sync::Arc;

use fs::vfs::{At, LookupFlags, Mount, MountNs, MountOptions, NodeKind, OpenHow};
use fs::{KernelContext, tmpfs};
use usermem::memfile::MemoryFile;

/// The first bytes choose operation and flags, the rest is the path.
pub(crate) fn path(bytes: &[u8]) {
    let Some((&[op, low, high], path)) = bytes.split_first_chunk::<3>() else { return };
    let flags = u32::from(low) | (u32::from(high) << 8);
    usermem::safecopy::install();
    let memory = MemoryFile::on_memfd(1 << 20).expect("a memfd");
    let root = tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(1 << 20)).expect("a tmpfs");
    let mounts = MountNs::new(Mount::of(root, b"t", MountOptions::default()));
    let kernel = KernelContext::default();
    let ctx = kernel.context();
    let root = mounts.root();
    let at = At { ctx: &ctx, root: &root, start: &root };
    for folder in [&b"a"[..], b"a/b", b"a/b/c"] {
        at.mkdir(folder, 0o755).expect("an empty tree");
    }
    at.mknod(b"a/f", NodeKind::Regular, 0o644).expect("an empty tree");
    for (name, to) in
        [(&b"l"[..], &b"a"[..]), (b"a/up", b".."), (b"loop", b"loop"), (b"abs", b"/a/b"), (b"two", b"l/up/l")]
    {
        at.symlink(to, name).expect("an empty tree");
    }
    let start = at.lookup(b"a", LookupFlags::empty()).expect("it was made");
    let inside = At { ctx: &ctx, root: &root, start: &start };
    match op % 10 {
        0..3 => {
            if let Ok(found) = inside.lookup(path, LookupFlags::from_bits_truncate(flags)) {
                let shown = found.d_path(&root);
                assert!(shown.starts_with(b"/"), "{shown:?}");
                // What was found is found again by the name that it is shown by.
                let again = at.lookup(&shown, LookupFlags::empty()).expect("a name that d_path gave");
                assert!(Arc::ptr_eq(again.inode(), found.inode()), "{shown:?}");
            }
        }
        3 => drop(inside.open(path, &OpenHow::from_open(flags << 6, 0o644))),
        4 => drop(inside.mkdir(path, flags)),
        5 => drop(inside.unlink(path)),
        6 => drop(inside.rmdir(path)),
        7 => drop(inside.readlink(path)),
        8 => {
            // A link's target is a path too.
            if inside.symlink(path, b"new").is_ok() {
                drop(inside.lookup(b"new/new", LookupFlags::FOLLOW));
            }
        }
        _ => drop(inside.rename(b"b", &start, path, abi::fs::RenameFlags::from_bits_truncate(flags))),
    }
}
