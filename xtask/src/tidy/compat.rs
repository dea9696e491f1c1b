//! docs/compat/syscalls.md is what the table says, and a row marked full names a guest test that exists.

use std::process::Command;

use anyhow::Result;

use crate::build::Build;
use crate::cargo::{output, root};

/// The generated document.
const DOCUMENT: &str = "docs/compat/syscalls.md";

/// Where the guest tests are.
const GUEST_TESTS: &str = "runner/tests/guest";

/// What is out of date; with `fix`, the document is written anew.
pub(super) fn check(fix: bool) -> Result<Vec<String>> {
    let binary = Build { release: false }.run()?;
    let markdown = output(Command::new(&binary).args(["syscalls", "--format", "markdown"]))?;
    let path = root().join(DOCUMENT);
    let mut problems = Vec::new();
    if fix {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, &markdown)?;
    } else if std::fs::read_to_string(&path).unwrap_or_default() != markdown {
        problems.push(format!("{DOCUMENT} is out of date; run `cargo xtask tidy --fix`"));
    }
    let tests = guest_test_names()?;
    let rows: Vec<Row> = serde_json::from_str(&output(Command::new(&binary).args(["syscalls", "--format", "json"]))?)?;
    for row in rows {
        match (row.support.as_str(), row.test) {
            ("full", Some(test)) if tests.contains(&test) => {}
            ("full", Some(test)) => {
                problems.push(format!("{} names the guest test {test}, which is not there", row.name))
            }
            ("full", None) => problems.push(format!("{} is marked full and names no guest test", row.name)),
            _ => {}
        }
    }
    Ok(problems)
}

/// One row, as `casemate syscalls --format json` prints it.
#[derive(serde::Deserialize)]
struct Row {
    name: String,
    support: String,
    test: Option<String>,
}

/// Names of the guest tests, as `file::function`.
fn guest_test_names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![root().join(GUEST_TESTS)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path)?;
            let mut after_attribute = false;
            for line in text.lines().map(str::trim) {
                if line == "#[test]" {
                    after_attribute = true;
                } else if let (true, Some(rest)) = (after_attribute, line.strip_prefix("fn ")) {
                    let name = rest.split('(').next().unwrap_or_default();
                    names.push(format!("{stem}::{name}"));
                    after_attribute = false;
                }
            }
        }
    }
    Ok(names)
}
