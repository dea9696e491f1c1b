//! Rules on single source files.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cargo::root;

/// Longest file, in lines; tables and tests apart.
const LONGEST: usize = 1000;

/// Files that may be longer: tables.
const TABLES: &[&str] = &["abi/src/nr.rs"];

/// Folders whose crates may hold `unsafe`.
pub(super) const UNSAFE_ROOMS: &[&str] = &[
    "arch/",
    "usermem/",
    "platform-systrap/",
    "platform-kvm/",
    "libs/sync/",
    "runner/src/host.rs",
    "runner/src/host/",
    "loader/vdso/",
    "runner/tests/",
    "bench/calls/",
    "abi/tests/",
    "loader/tests/",
    "arch/tests/",
];

/// A Rust source file that git knows or would add.
pub(super) struct Source {
    /// Path from the workspace's root.
    pub(super) path: String,
    /// Its text.
    pub(super) text: String,
    /// Its parent declares it for tests alone.
    for_tests: bool,
}

impl Source {
    /// Whether the file is only tests.
    pub(super) fn is_test(&self) -> bool {
        self.for_tests
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.contains("/benches/")
    }

    /// Whether the file is tidy's own, whose strings name what it looks for.
    pub(super) fn names_rules(&self) -> bool {
        self.path.starts_with("xtask/src/tidy/")
    }

    /// The lines before the file's unit tests.
    pub(super) fn code(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(&self.text)
    }
}

/// Every Rust file of the workspace.
pub(super) fn rust_files() -> Result<Vec<Source>> {
    let mut git = std::process::Command::new("git");
    git.current_dir(root()).args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]);
    let list = crate::cargo::output(&mut git)?;
    let mut files = Vec::new();
    for path in list.lines() {
        let full: PathBuf = root().join(path);
        if !full.exists() {
            continue;
        }
        let text = std::fs::read_to_string(&full).with_context(|| format!("cannot read {path}"))?;
        files.push(Source { path: path.to_owned(), text, for_tests: false });
    }
    let tests: BTreeSet<String> = files.iter().flat_map(test_modules).collect();
    for file in &mut files {
        file.for_tests = tests.contains(&file.path);
    }
    Ok(files)
}

/// Paths of the files that `file` declares as modules for tests alone.
fn test_modules(file: &Source) -> Vec<String> {
    let folder = match file.path.rsplit_once('/') {
        Some((folder, "lib.rs" | "main.rs" | "mod.rs")) => folder,
        _ => file.path.trim_end_matches(".rs"),
    };
    let lines: Vec<&str> = file.text.lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    let names = pairs.filter_map(|pair| pair[1].split_once("mod ")?.1.strip_suffix(';'));
    names.map(|name| format!("{folder}/{name}.rs")).collect()
}

/// Each broken rule.
pub(super) fn check(files: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        let path = &file.path;
        let in_room = UNSAFE_ROOMS.iter().any(|room| path.starts_with(room));
        let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
        let mixed = path == "runner/src/main.rs";
        if is_root && !in_room && !mixed && !file.text.contains("#![forbid(unsafe_code)]") {
            problems.push(format!("{path}: no #![forbid(unsafe_code)], and not an unsafe room"));
        }
        if !in_room && !file.is_test() && !file.names_rules() && has_unsafe(&file.text) {
            problems.push(format!("{path}: unsafe outside the unsafe rooms"));
        }
        if !file.text.starts_with("//!") && !file.is_test() {
            problems.push(format!("{path}: does not begin with a //! head"));
        }
        let lines = file.code().lines().count();
        if lines > LONGEST && !file.is_test() && !TABLES.contains(&path.as_str()) {
            problems.push(format!("{path}: {lines} lines; split it by operation"));
        }
    }
    problems
}

/// Whether code outside comments opens an unsafe block, function or impl.
fn has_unsafe(text: &str) -> bool {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .any(|code| code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl"))
}

#[cfg(test)]
mod tests {
    use super::{Source, has_unsafe, test_modules};

    #[test]
    fn modules_for_tests_are_found_in_their_parents() {
        let text = "//! Head.\nmod a;\n#[cfg(test)]\nmod harness;\n#[cfg(test)]\nmod tests {\n}\n".to_owned();
        let of = |path: &str| test_modules(&Source { path: path.to_owned(), text: text.clone(), for_tests: false });
        assert_eq!(of("kernel/src/lib.rs"), ["kernel/src/harness.rs"]);
        assert_eq!(of("kernel/src/task.rs"), ["kernel/src/task/harness.rs"]);
    }

    #[test]
    fn unsafe_is_found_in_code_only() {
        assert!(has_unsafe("    let x = unsafe { y };"));
        assert!(has_unsafe("unsafe impl Send for X {}"));
        assert!(!has_unsafe("// SAFETY: unsafe { } is not here"));
        assert!(!has_unsafe("#![forbid(unsafe_code)]"));
    }
}
