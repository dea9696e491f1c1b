//! What a guest sees of a host tree that others change meanwhile (docs/adr/0020-host-changes.md).

use std::path::Path as HostPath;
use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use casemate_fs as fs;
use fs::vfs::{
    At, Attr, FileType, Filesystem, LookupFlags, Mount, MountNs, MountOptions, OpenHow, Path, drop_dentry_cache,
    end_brief_answers,
};
use fs::{Context, KernelContext, host, overlay, tmpfs};
use usermem::bytes::{KernelDst, KernelSrc};
use usermem::memfile::MemoryFile;

struct Guest<'a> {
    ctx: Context<'a>,
    root: Path,
}

impl Guest<'_> {
    fn at(&self) -> At<'_> {
        At::new(&self.ctx, &self.root, &self.root)
    }

    fn stat(&self, path: &str) -> Result<Attr, Errno> {
        self.at().lookup(path.as_bytes(), LookupFlags::empty())?.attr()
    }

    fn read(&self, path: &str) -> Result<String, Errno> {
        let file = self.at().open(path.as_bytes(), &OpenHow::from_open(OpenFlags::empty().bits(), 0))?;
        let mut buffer = [0; 100];
        let n = file.read(&self.ctx, &mut KernelDst::new(&mut buffer))?;
        Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
    }
}

fn tree(dir: &HostPath, belief: host::Belief) -> Arc<dyn Filesystem> {
    usermem::safecopy::install();
    let fd = std::fs::File::open(dir).unwrap();
    host::new(fd.into(), host::HostOptions { access: host::Access::ReadOnly, belief, ids: host::Ids::All }).unwrap()
}

/// The tree by itself and below an overlay.
fn views(dir: &HostPath, belief: host::Belief) -> Vec<Arc<dyn Filesystem>> {
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    let upper = tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(64 << 20)).unwrap();
    vec![tree(dir, belief), overlay::new(vec![tree(dir, belief)], Some(upper)).unwrap()]
}

/// What a change of the host's looks like once `seen` has been called after it.
fn changes_show(belief: host::Belief, seen: fn()) {
    for view in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let host = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(host("d/e")).unwrap();
        std::fs::write(host("d/f"), "old").unwrap();
        std::fs::write(host("d/e/g"), "deep").unwrap();
        std::os::unix::fs::symlink("f", host("d/link")).unwrap();
        let fs = views(dir.path(), belief).remove(view);
        let ns = MountNs::new(Mount::of(fs, b"x", MountOptions::default()));
        let kernel = KernelContext::default();
        let guest = Guest { ctx: kernel.context(), root: ns.root() };

        assert_eq!(guest.read("d/f").unwrap(), "old");
        assert_eq!(guest.read("d/link").unwrap(), "old");
        assert_eq!(guest.stat("d/new").unwrap_err(), Errno::ENOENT);
        let open = guest.at().open(b"d/f", &OpenHow::from_open(0, 0)).unwrap();

        // Written in place.
        std::fs::write(host("d/f"), "longer").unwrap();
        seen();
        assert_eq!((guest.read("d/f").unwrap().as_str(), guest.stat("d/f").unwrap().size), ("longer", 6));
        assert_eq!(open.attr().unwrap().size, 6);

        // Replaced, as editors do; who has the old one open goes on with it.
        std::fs::write(host("d/f~"), "replaced!").unwrap();
        std::fs::rename(host("d/f~"), host("d/f")).unwrap();
        seen();
        assert_eq!((guest.read("d/f").unwrap().as_str(), guest.stat("d/f").unwrap().size), ("replaced!", 9));
        let mut buffer = [0; 10];
        assert_eq!(open.read_at(&guest.ctx, &mut KernelDst::new(&mut buffer), 0).unwrap(), 6);

        // Made, removed, turned into something else.
        std::fs::write(host("d/new"), "new").unwrap();
        std::fs::remove_file(host("d/link")).unwrap();
        std::fs::create_dir(host("d/link")).unwrap();
        seen();
        assert_eq!(guest.read("d/new").unwrap(), "new");
        assert_eq!(guest.stat("d/link").unwrap().file_type, FileType::Directory);
        std::fs::remove_file(host("d/new")).unwrap();
        seen();
        assert_eq!(guest.read("d/new").unwrap_err(), Errno::ENOENT);

        // Numbers that become free are given to others.
        for round in 0..20 {
            let text = format!("round {round}");
            let _ = std::fs::remove_file(host("d/reused"));
            std::fs::write(host("d/reused"), &text).unwrap();
            seen();
            assert_eq!(guest.read("d/reused").unwrap(), text);
            assert_eq!(guest.stat("d/reused").unwrap().size, text.len() as u64);
        }

        // A directory on the way becomes another.
        assert_eq!(guest.read("d/e/g").unwrap(), "deep");
        std::fs::rename(host("d/e"), host("gone")).unwrap();
        std::fs::create_dir(host("d/e")).unwrap();
        std::fs::write(host("d/e/g"), "another").unwrap();
        seen();
        assert_eq!(guest.read("d/e/g").unwrap(), "another");
        assert_eq!(guest.read("gone/g").unwrap(), "deep");
    }
}

#[test]
fn without_belief_changes_show_at_once() {
    changes_show(host::Belief::None, || ());
}

#[test]
fn with_brief_belief_changes_show_after_a_while() {
    changes_show(host::Belief::Brief, end_brief_answers);
}

/// A cached name whose file was replaced leads to the new file, not to an error.
#[test]
fn what_proves_wrong_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "old").unwrap();
    for view in 0..2 {
        let fs = views(dir.path(), host::Belief::Brief).remove(view);
        let ns = MountNs::new(Mount::of(fs, b"x", MountOptions::default()));
        let kernel = KernelContext::default();
        let guest = Guest { ctx: kernel.context(), root: ns.root() };
        guest.stat("f").unwrap();
        std::fs::write(dir.path().join("f~"), "new").unwrap();
        std::fs::rename(dir.path().join("f~"), dir.path().join("f")).unwrap();
        assert_eq!(guest.read("f").unwrap(), "new");
    }
}

/// A file that has two names below, changed and then removed by both of them, leaves nothing.
#[test]
fn the_copy_of_a_file_with_several_names_goes_with_the_last() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("one"), vec![1; 100_000]).unwrap();
    std::fs::hard_link(dir.path().join("one"), dir.path().join("two")).unwrap();
    let memory = MemoryFile::on_memfd(1 << 30).unwrap();
    let upper = tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(64 << 20)).unwrap();
    let fs = overlay::new(vec![tree(dir.path(), host::Belief::Lasting)], Some(Arc::clone(&upper))).unwrap();
    let ns = MountNs::new(Mount::of(fs, b"x", MountOptions::default()));
    let kernel = KernelContext::default();
    let guest = Guest { ctx: kernel.context(), root: ns.root() };
    let before = (memory.reserved().allocated, upper.statfs().unwrap().files_free);

    let write = OpenHow::from_open(OpenFlags::O_WRONLY.bits(), 0);
    let file = guest.at().open(b"one", &write).unwrap();
    file.write(&guest.ctx, &mut KernelSrc::new(b"new")).unwrap();
    drop(file);
    // The other name finds the copy, as long as there is one.
    guest.at().unlink(b"one").unwrap();
    drop_dentry_cache();
    assert!(guest.read("two").unwrap().starts_with("new"));
    assert_eq!(guest.stat("two").unwrap().nlink, 1);
    guest.at().unlink(b"two").unwrap();
    drop_dentry_cache();
    // Two whiteouts stay.
    let after = (memory.reserved().allocated, upper.statfs().unwrap().files_free);
    assert_eq!(after, (before.0, before.1 - 2));
}
