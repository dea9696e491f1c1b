//! The path walk against a model: what a path means is what its components say one after another.

use abi::Errno;
use abi::fs::{OpenFlags, ResolveFlags};
use casemate_fs as fs;
use fs::vfs::{At, LookupFlags, Mount, MountNs, MountOptions, OpenHow, Path};
use fs::{KernelContext, tmpfs};
use proptest::prelude::{Just, prop_oneof, proptest};
use usermem::memfile::MemoryFile;

/// `/a/b/c` and `/a/f` exist; `/a/b/up` → `..`, `/a/abs` → `/a/b`, `/a/b/rel` → `c/./..`.
fn tree() -> (std::sync::Arc<MountNs>, KernelContext) {
    let memory = MemoryFile::on_memfd(1 << 26).unwrap();
    let fs = tmpfs::new(&memory, &tmpfs::TmpfsOptions::of_size(1 << 20)).unwrap();
    let ns = MountNs::new(Mount::of(fs, b"t", MountOptions::default()));
    let kernel = KernelContext::default();
    {
        let (ctx, root) = (kernel.context(), ns.root());
        let at = At::new(&ctx, &root, &root);
        for dir in [&b"a"[..], b"a/b", b"a/b/c"] {
            at.mkdir(dir, 0o755).unwrap();
        }
        at.open(b"a/f", &OpenHow::from_open((OpenFlags::O_CREAT | OpenFlags::O_RDWR).bits(), 0o644)).unwrap();
        at.symlink(b"..", b"a/b/up").unwrap();
        at.symlink(b"/a/b", b"a/abs").unwrap();
        at.symlink(b"c/./..", b"a/b/rel").unwrap();
    }
    (ns, kernel)
}

/// The model: a directory is the list of its names from the root.
fn model(start: &[&'static str], path: &[&str], absolute: bool) -> Result<Vec<&'static str>, Errno> {
    let mut cur: Vec<&'static str> = if absolute { vec![] } else { start.to_vec() };
    for component in path {
        if cur == ["a", "f"] {
            return Err(Errno::ENOTDIR);
        }
        match (*component, cur.join("/").as_str()) {
            (".", _) => {}
            ("..", _) => {
                cur.pop();
            }
            ("a", "") => cur.push("a"),
            ("b", "a") => cur.push("b"),
            ("f", "a") => cur.push("f"),
            ("c", "a/b") => cur.push("c"),
            ("up", "a/b") => cur = vec!["a"],
            ("abs", "a") => cur = vec!["a", "b"],
            ("rel", "a/b") => cur = vec!["a", "b"],
            _ => return Err(Errno::ENOENT),
        }
    }
    Ok(cur)
}

fn text(place: &Path, root: &Path) -> String {
    String::from_utf8(place.d_path(root)).unwrap()
}

proptest! {
    #[test]
    fn paths_mean_their_components(
        absolute in proptest::bool::ANY,
        start in prop_oneof![Just(&[][..]), Just(&["a"][..]), Just(&["a", "b"][..]), Just(&["a", "b", "c"][..])],
        path in proptest::collection::vec(
            (prop_oneof![
                Just("."), Just(".."), Just("a"), Just("b"), Just("c"), Just("f"), Just("up"), Just("abs"), Just("rel"),
                Just("none"),
            ], 1usize..3),
            1..8,
        ),
    ) {
        let (ns, kernel) = tree();
        let (ctx, root) = (kernel.context(), ns.root());
        let start_path = At::new(&ctx, &root, &root)
            .lookup(format!("/{}", start.join("/")).as_bytes(), LookupFlags::empty()).unwrap();
        let at = At::new(&ctx, &root, &start_path);
        let names: Vec<&str> = path.iter().map(|(name, _)| *name).collect();
        let mut spelled = String::from(if absolute { "/" } else { "" });
        for (at, (name, slashes)) in path.iter().enumerate() {
            if at > 0 {
                spelled.push_str(&"/".repeat(*slashes));
            }
            spelled.push_str(name);
        }
        let got = at.lookup(spelled.as_bytes(), LookupFlags::FOLLOW).map(|place| text(&place, &root));
        let wanted = model(start, &names, absolute).map(|names| format!("/{}", names.join("/")));
        proptest::prop_assert_eq!(got, wanted, "{}", spelled);
    }
}

#[test]
fn resolve_flags_confine() {
    let (ns, kernel) = tree();
    let (ctx, root) = (kernel.context(), ns.root());
    let a = At::new(&ctx, &root, &root).lookup(b"a", LookupFlags::empty()).unwrap();
    let at = At::new(&ctx, &root, &a);
    let open = |path: &str, resolve: ResolveFlags| {
        let how = OpenHow { flags: OpenFlags::O_PATH, mode: 0, resolve };
        at.open(path.as_bytes(), &how).map(|file| text(file.path(), &root))
    };
    use ResolveFlags as R;
    let cases = [
        ("b/c", R::RESOLVE_BENEATH, Ok("/a/b/c")),
        ("b/up/f", R::RESOLVE_BENEATH, Ok("/a/f")),
        ("b/../..", R::RESOLVE_BENEATH, Err(Errno::EXDEV)),
        ("..", R::RESOLVE_BENEATH, Err(Errno::EXDEV)),
        ("/a", R::RESOLVE_BENEATH, Err(Errno::EXDEV)),
        ("abs", R::RESOLVE_BENEATH, Err(Errno::EXDEV)),
        ("/b/c", R::RESOLVE_IN_ROOT, Ok("/a/b/c")),
        ("../../b", R::RESOLVE_IN_ROOT, Ok("/a/b")),
        ("abs", R::RESOLVE_IN_ROOT, Err(Errno::ENOENT)),
        ("b/up", R::RESOLVE_NO_SYMLINKS, Err(Errno::ELOOP)),
        ("b/up", R::RESOLVE_NO_MAGICLINKS, Ok("/a")),
        ("b", R::RESOLVE_CACHED, Err(Errno::EAGAIN)),
    ];
    for (path, resolve, wanted) in cases {
        assert_eq!(open(path, resolve), wanted.map(str::to_owned), "{path} {resolve:?}");
    }
    assert_eq!(OpenHow::from_openat2(0, 0o644, 0), Err(Errno::EINVAL), "a mode without creation");
    assert_eq!(OpenHow::from_openat2(1 << 40, 0, 0), Err(Errno::EINVAL));
    assert_eq!(OpenHow::from_openat2(0, 0, 0x18), Err(Errno::EINVAL));
}

#[test]
fn names_of_places_follow_renames() {
    let (ns, kernel) = tree();
    let (ctx, root) = (kernel.context(), ns.root());
    let at = At::new(&ctx, &root, &root);
    let c = at.lookup(b"a/b/c", LookupFlags::empty()).unwrap();
    at.rename(b"a/b", &root, b"moved", abi::fs::RenameFlags::empty()).unwrap();
    assert_eq!(c.d_path(&root), b"/moved/c");
    assert_eq!(c.live_path(&root).unwrap(), b"/moved/c");
    at.rmdir(b"moved/c").unwrap();
    assert_eq!(c.d_path(&root), b"/moved/c (deleted)");
    assert_eq!(c.live_path(&root), None);
    let inside = At::new(&ctx, &root, &c);
    assert_eq!(inside.mkdir(b"x", 0o755).unwrap_err(), Errno::ENOENT);
    assert_eq!(text(&inside.lookup(b"..", LookupFlags::empty()).unwrap(), &root), "/moved");
    let other = at.lookup(b"a", LookupFlags::empty()).unwrap();
    assert_eq!(root.d_path(&other), b"(unreachable)/");
}
