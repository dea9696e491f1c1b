//! The crate graph points one way.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::cargo::{cargo, output};

/// Which of our crates each crate may depend on. What is not listed may not exist.
const EDGES: &[(&str, &[&str])] = &[
    ("abi", &[]),
    ("sync", &[]),
    ("waiter", &["sync"]),
    ("segment", &[]),
    ("auth", &["abi"]),
    ("ldisc", &["abi"]),
    ("arch", &["abi"]),
    ("usermem", &["arch", "abi", "sync", "segment", "waiter"]),
    ("loader", &["arch", "abi", "usermem"]),
    ("platform-systrap", &["usermem", "arch", "abi", "sync"]),
    ("platform-kvm", &["usermem", "arch", "sync"]),
    ("fs", &["usermem", "abi", "auth", "sync", "waiter", "segment"]),
    ("mm", &["usermem", "arch", "abi", "sync", "segment"]),
    ("stops", &["sync"]),
    (
        "kernel",
        &["fs", "mm", "stops", "loader", "usermem", "arch", "abi", "auth", "sync", "waiter", "segment", "ldisc"],
    ),
    ("syscalls-linux", &["kernel", "mm", "fs", "usermem", "arch", "abi", "auth", "sync", "waiter"]),
    (
        "runner",
        &[
            "abi",
            "arch",
            "auth",
            "usermem",
            "platform-systrap",
            "platform-kvm",
            "fs",
            "loader",
            "mm",
            "kernel",
            "syscalls-linux",
            "sync",
            "waiter",
        ],
    ),
    ("guest-tests", &[]),
    ("fuzz-guest", &["abi"]),
    ("fuzz", &["abi", "auth", "usermem", "fs", "loader", "kernel", "syscalls-linux"]),
    ("bench-calls", &[]),
    ("xtask", &[]),
];

/// Each edge that is not allowed.
pub(super) fn check() -> Result<Vec<String>> {
    let text = output(&mut cargo(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut problems = Vec::new();
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    for package in packages {
        let name = short(package["name"].as_str().unwrap_or_default());
        let Some(allowed) = allowed.get(name) else {
            problems.push(format!("crate {name} is not in the crate graph of xtask/src/tidy/graph.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let is_ours = dependency["path"].is_string();
            let is_dev = dependency["kind"] == "dev";
            let to = short(dependency["name"].as_str().unwrap_or_default());
            if is_ours && !is_dev && !allowed.contains(&to) {
                problems.push(format!("{name} must not depend on {to}"));
            }
        }
    }
    Ok(problems)
}

fn short(package: &str) -> &str {
    package.strip_prefix("casemate-").unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::EDGES;

    #[test]
    fn the_graph_has_no_cycle() {
        // Each crate's dependencies stand before it in the table: a topological order is the proof.
        for (at, (name, edges)) in EDGES.iter().enumerate() {
            for edge in *edges {
                let position = EDGES.iter().position(|(other, _)| other == edge);
                let before = position.is_some_and(|p| p < at) || (*edge == "waiter" && *name == "usermem");
                assert!(before, "{name} -> {edge} points up or nowhere");
            }
        }
    }
}
