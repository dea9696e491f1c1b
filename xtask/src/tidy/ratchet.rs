//! Counts per crate that only go down: unsafe blocks, `unwrap`/`expect` outside tests, lint exceptions, ignored tests.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::source::Source;
use crate::cargo::root;

/// The checked-in counts.
const FILE: &str = "xtask/ratchet.json";

/// What one crate has of each.
#[derive(Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    unsafe_blocks: usize,
    unwraps: usize,
    lint_exceptions: usize,
    ignored_tests: usize,
}

/// Each count that went up; with `fix`, the file is lowered to today's counts instead.
pub(super) fn check(files: &[Source], fix: bool) -> Result<Vec<String>> {
    let now = count(files);
    let path = root().join(FILE);
    let held: BTreeMap<String, Counts> = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{FILE} is not what tidy wrote"))?,
        Err(_) => BTreeMap::new(),
    };
    if fix {
        let mut text = serde_json::to_string_pretty(&now)?;
        text.push('\n');
        std::fs::write(&path, text)?;
        return Ok(Vec::new());
    }
    let mut problems = Vec::new();
    for (name, counts) in &now {
        let held = held.get(name).cloned().unwrap_or_default();
        let pairs = [
            ("unsafe blocks", counts.unsafe_blocks, held.unsafe_blocks),
            ("unwrap/expect outside tests", counts.unwraps, held.unwraps),
            ("lint exceptions", counts.lint_exceptions, held.lint_exceptions),
            ("ignored tests", counts.ignored_tests, held.ignored_tests),
        ];
        for (what, now, held) in pairs {
            if now > held {
                problems.push(format!("{name}: {now} {what}, {FILE} allows {held}"));
            }
        }
    }
    Ok(problems)
}

fn count(files: &[Source]) -> BTreeMap<String, Counts> {
    let mut all: BTreeMap<String, Counts> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.names_rules()) {
        let krate = file.path.split("/src/").next().unwrap_or(&file.path);
        let counts = all.entry(krate.to_owned()).or_default();
        counts.ignored_tests += file.text.matches("#[ignore").count();
        if file.is_test() {
            continue;
        }
        for line in file.code().lines() {
            let code = line.split("//").next().unwrap_or_default();
            counts.unsafe_blocks += code.matches("unsafe {").count();
            counts.unwraps += code.matches(".unwrap()").count() + code.matches(".expect(").count();
            counts.lint_exceptions += code.matches("[allow(").count() + code.matches("[expect(").count();
        }
    }
    all.retain(|_, counts| *counts != Counts::default());
    all
}
